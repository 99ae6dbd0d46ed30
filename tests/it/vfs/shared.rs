//! Several members who write one volume.

mod club;
mod conflicts;
mod random;
mod revoked;
pub mod team;
mod told;

use cairnfs::vfs::Rights;
use cairnfs_fuse::Errno;
use team::{Hand, Team};

#[tokio::test(start_paused = true)]
async fn what_one_does_the_other_sees() {
    let team = Team::new(2, 1).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.mkdir("dir").await.unwrap();
    one.write("dir/small", 0, b"hello").await.unwrap();
    let large = vec![7; 300_000];
    one.write("dir/large", 0, &large).await.unwrap();
    team.settle().await;
    assert_eq!(two.read("dir/small").await.unwrap(), b"hello");
    assert_eq!(two.read("dir/large").await.unwrap(), large);
    two.write("dir/large", 10, b"changed").await.unwrap();
    two.rename("dir/small", "moved").await.unwrap();
    two.mkdir("dir/sub").await.unwrap();
    team.settle().await;
    assert_eq!(one.names("").await, ["dir", "moved"]);
    assert_eq!(one.names("dir").await, ["large", "sub"]);
    let changed = one.read("dir/large").await.unwrap();
    assert_eq!(&changed[10..17], b"changed");
    assert_eq!(changed.len(), large.len());
    team.tree().await;
}

#[tokio::test(start_paused = true)]
async fn a_small_file_is_there_as_a_whole_once_it_is_closed() {
    let team = Team::new(2, 2).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    let bytes = vec![5; 4096];
    one.write("file", 0, &bytes).await.unwrap();
    // No waiting for anything to be left alone.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    team.tell(0, 1).await;
    assert_eq!(two.read("file").await.unwrap(), bytes);
    // Written beside and renamed over: the old one or the new one, whole.
    let newer = vec![6; 8000];
    one.write("file.tmp", 0, &newer).await.unwrap();
    one.rename("file.tmp", "file").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    team.tell(0, 1).await;
    assert_eq!(two.read("file").await.unwrap(), newer);
    assert_eq!(two.names("").await, ["file"]);
}

#[tokio::test(start_paused = true)]
async fn edits_of_one_file_at_a_time_both_stay() {
    for is_large in [false, true] {
        let team = Team::new(2, 3 + u64::from(is_large)).await;
        let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
        team.gather().await;
        let len = if is_large { 200_000 } else { 100 };
        one.write("file", 0, &vec![0; len]).await.unwrap();
        team.settle().await;
        one.write("file", 0, b"one").await.unwrap();
        two.write("file", 0, b"two").await.unwrap();
        team.settle().await;
        let tree = team.tree().await;
        let files: Vec<&String> = tree.keys().filter(|path| !path.is_empty()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let mut starts: Vec<&[u8]> = files.iter().map(|file| &tree[*file].content[..3]).collect();
        starts.sort_unstable();
        assert_eq!(starts, [b"one", b"two"]);
        let copy = files.iter().find(|file| file.contains("conflict")).unwrap();
        let mark = &tree[*copy].xattrs[&b"user.cairn.conflict".to_vec()];
        assert_eq!(mark, b"file");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_wins_over_a_removal() {
    let team = Team::new(2, 7).await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    team.gather().await;
    one.mkdir("dir").await.unwrap();
    one.write("dir/file", 0, b"old").await.unwrap();
    team.settle().await;
    // Open and changed here while it goes there.
    let ino = two.open("dir/file").await.unwrap();
    two.write_open(ino, 0, b"new").await.unwrap();
    one.unlink("dir/file").await.unwrap();
    one.rmdir("dir").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    team.tell(0, 1).await;
    assert_eq!(two.read_open(ino).await.unwrap(), b"new");
    two.close(ino).await.unwrap();
    team.settle().await;
    let tree = team.tree().await;
    assert_eq!(tree["dir/file"].content, b"new");
}

#[tokio::test(start_paused = true)]
async fn who_has_a_file_open_reads_on_when_others_remove_it() {
    let team = Team::new(2, 8).await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    team.gather().await;
    one.write("file", 0, &[3; 100_000]).await.unwrap();
    team.settle().await;
    let ino = two.open("file").await.unwrap();
    one.unlink("file").await.unwrap();
    one.write("file", 0, b"another").await.unwrap();
    team.settle().await;
    assert_eq!(two.read_open(ino).await.unwrap(), [3; 100_000]);
    assert_eq!(two.read("file").await.unwrap(), b"another");
    two.close(ino).await.unwrap();
    team.tree().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_open_shows_what_others_write() {
    let team = Team::new(2, 9).await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    team.gather().await;
    one.write("file", 0, b"first").await.unwrap();
    team.settle().await;
    let ino = two.open("file").await.unwrap();
    assert_eq!(two.read_open(ino).await.unwrap(), b"first");
    one.write("file", 5, b" and second").await.unwrap();
    team.settle().await;
    assert_eq!(two.read_open(ino).await.unwrap(), b"first and second");
    two.close(ino).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_description_that_comes_late_takes_nothing_away() {
    for is_large in [false, true] {
        let team = Team::new(2, 11).await;
        let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
        team.gather().await;
        let len = if is_large { 200_000 } else { 100 };
        one.write("file", 0, &vec![0; len]).await.unwrap();
        team.settle().await;
        // Both have it open; one is done before the other has described anything.
        let ino = two.open("file").await.unwrap();
        two.write_open(ino, 0, b"two").await.unwrap();
        one.write("file", 0, b"one").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        team.tell(0, 1).await;
        two.write_open(ino, 3, b"!").await.unwrap();
        two.close(ino).await.unwrap();
        team.settle().await;
        let tree = team.tree().await;
        let files = tree.iter().filter(|(path, _)| !path.is_empty());
        let mut starts: Vec<&[u8]> = files.map(|(_, seen)| &seen.content[..4]).collect();
        starts.sort_unstable();
        assert_eq!(starts, [b"one\0", b"two!"], "{:?}", tree.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_renamed_over_another_is_never_seen_without_its_content() {
    let team = Team::new(2, 12).await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    team.gather().await;
    let text = |round: u8| vec![round; 300_000];
    one.write("file", 0, &text(0)).await.unwrap();
    team.settle().await;
    for round in 1..6 {
        one.write("file.new", 0, &text(round)).await.unwrap();
        one.rename("file.new", "file").await.unwrap();
        for _ in 0..200 {
            team.tell(0, 1).await;
            let seen = two.read("file").await.unwrap();
            assert!(seen == text(round - 1) || seen == text(round));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        team.settle().await;
        assert_eq!(two.read("file").await.unwrap(), text(round));
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_only_read_sees_all_and_writes_nothing() {
    let mut team = Team::new(2, 13).await;
    team.shut(1).await;
    team.set_rights(1, Rights::Read);
    team.open(1).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.mkdir("dir").await.unwrap();
    one.write("dir/file", 0, b"text").await.unwrap();
    team.settle().await;
    assert_eq!(two.read("dir/file").await.unwrap(), b"text");
    assert_eq!(two.mkdir("other").await, Err(Errno::EROFS));
    assert_eq!(two.unlink("dir/file").await, Err(Errno::EROFS));
    assert_eq!(two.write("new", 0, b"text").await, Err(Errno::EROFS));
    team.settle().await;
    team.tree().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_who_comes_late_takes_a_checkpoint() {
    let mut team = Team::new(2, 14).await;
    team.gather().await;
    {
        let one = Hand(team.vfs(0));
        one.mkdir("dir").await.unwrap();
        for number in 0..30 {
            let path = format!("dir/{number}");
            one.write(&path, 0, &vec![number; 20_000]).await.unwrap();
        }
    }
    team.vfs(0).sync().await.unwrap();
    let first = team.vfs(0).make_point().await.unwrap();
    Hand(team.vfs(0)).unlink("dir/7").await.unwrap();
    team.vfs(0).sync().await.unwrap();
    let record = team.vfs(0).make_point().await.unwrap().record;
    // What the first one says is in no feed any more.
    assert!(team.vfs(0).drop_deltas(&first.upto).unwrap() > 0);
    team.tell(0, 1).await;
    assert!(Hand(team.vfs(1)).find("dir").await.is_err());
    assert!(team.vfs(1).join_point(&record).await.unwrap());
    assert!(!team.vfs(1).join_point(&first.record).await.unwrap());
    assert!(!team.vfs(1).join_point(&record).await.unwrap());
    assert_eq!(
        Hand(team.vfs(1)).read("dir/8").await.unwrap(),
        vec![8; 20_000]
    );
    assert!(Hand(team.vfs(1)).find("dir/7").await.is_err());
    // From there on deltas do, in both directions, also after power was lost.
    Hand(team.vfs(0)).write("dir/8", 0, b"one").await.unwrap();
    Hand(team.vfs(1)).write("dir/9", 0, b"two").await.unwrap();
    team.settle().await;
    team.crash(1).await;
    Hand(team.vfs(0)).write("more", 0, b"more").await.unwrap();
    team.settle().await;
    let tree = team.tree().await;
    assert_eq!(&tree["dir/8"].content[..3], b"one");
    assert_eq!(&tree["dir/9"].content[..3], b"two");
    assert_eq!(tree["more"].content, b"more");
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_for_a_checkpoint_is_told_like_everything_else() {
    let team = Team::new(2, 15).await;
    team.gather().await;
    Hand(team.vfs(0)).mkdir("dir").await.unwrap();
    // Sealed before whoever does that otherwise has a turn.
    team.vfs(0).make_point().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let own = team.vfs(0).writer();
    let told = team.vfs(0).claims().into_iter().find(|c| c.writer == own);
    let done = team.vfs(0).version().unwrap().get(&own);
    assert_eq!(told.map(|claim| claim.last), Some(done));
    team.tell(0, 1).await;
    assert!(Hand(team.vfs(1)).find("dir").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn feeds_go_on_where_a_checkpoint_ended_also_when_power_was_lost_then() {
    let mut team = Team::new(2, 16).await;
    team.gather().await;
    Hand(team.vfs(0)).write("one", 0, b"one").await.unwrap();
    let first = team.vfs(0).make_point().await.unwrap();
    Hand(team.vfs(0)).write("two", 0, b"two").await.unwrap();
    let record = team.vfs(0).make_point().await.unwrap().record;
    assert!(team.vfs(0).drop_deltas(&first.upto).unwrap() > 0);
    assert!(team.vfs(1).join_point(&record).await.unwrap());
    // What it says of the feeds' ends is not on the disk yet.
    team.crash(1).await;
    assert!(Hand(team.vfs(1)).find("two").await.is_ok());
    assert!(!team.vfs(1).join_point(&record).await.unwrap());
    Hand(team.vfs(0)).write("three", 0, b"three").await.unwrap();
    team.settle().await;
    assert_eq!(Hand(team.vfs(1)).read("three").await.unwrap(), b"three");
    team.vfs(1).make_point().await.unwrap();
}
