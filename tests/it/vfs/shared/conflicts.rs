//! What members disagreed about: listed alike by all, counted, and ended by one of them for all.

use std::collections::BTreeSet;

use cairnfs::base::Glob;
use cairnfs::vfs::{
    Conflict, ConflictKind, ConflictRules, Keep, ResolveError, Rights, Vfs, VfsOptions,
};

use super::team::{Hand, Team};
use crate::vfs::twin::options;

const ALL: usize = 1000;

fn conflicts(vfs: &Vfs) -> Vec<Conflict> {
    vfs.conflicts(ALL).unwrap()
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn paths(conflict: &Conflict) -> Vec<String> {
    conflict.sides.iter().map(|side| text(&side.path)).collect()
}

/// The one conflict that there is, which all members tell alike; each knows its own part.
pub fn the_one(team: &Team) -> Conflict {
    let found = agreed(team);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

/// What all members tell, but for whose is whose.
pub fn agreed(team: &Team) -> Vec<Conflict> {
    let mut first = None;
    for at in 0..team.members.len() {
        let mut found = conflicts(team.vfs(at));
        for side in found.iter_mut().flat_map(|conflict| &mut conflict.sides) {
            let own = team.members[at].device.key.peer();
            assert_eq!(side.is_own, side.device == Some(own));
            side.is_own = false;
        }
        match &first {
            None => first = Some(found),
            Some(first) => assert_eq!(*first, found, "members 0 and {at} differ"),
        }
    }
    first.unwrap_or_default()
}

/// Two members who changed one file at a time; the second did so later, and has the name.
async fn two_contents(seed: u64, len: usize) -> Team {
    let team = Team::new(2, seed).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.mkdir("dir").await.unwrap();
    one.write("dir/file.txt", 0, &vec![0; len]).await.unwrap();
    team.settle().await;
    one.write("dir/file.txt", 0, b"one").await.unwrap();
    two.write("dir/file.txt", 0, b"two").await.unwrap();
    team.settle().await;
    team
}

#[tokio::test(start_paused = true)]
async fn two_contents_of_a_file_are_listed_until_one_is_chosen() {
    for (seed, keep, len) in [
        (60, Keep::Ours, 100),
        (61, Keep::Theirs, 100),
        (62, Keep::Ours, 200_000),
        (63, Keep::Theirs, 200_000),
    ] {
        let team = two_contents(seed, len).await;
        let found = the_one(&team);
        assert_eq!(found.kind, ConflictKind::Content);
        assert_eq!(text(&found.path), "dir/file.txt");
        let shown = paths(&found);
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert_eq!(shown[0], "dir/file.txt");
        assert!(shown[1].starts_with("dir/file.conflict-"), "{shown:?}");
        let devices: BTreeSet<_> = found.sides.iter().map(|side| side.device).collect();
        let members = team
            .members
            .iter()
            .map(|member| Some(member.device.key.peer()));
        assert_eq!(devices, members.collect());
        assert!(found.sides.iter().all(|side| side.at_ms.is_some()));
        // What the log says of it.
        let told = found.to_string();
        let sentence = "`dir/file.txt`: another content of the same file; by ";
        assert!(told.starts_with(sentence), "{told}");
        for member in &team.members {
            assert!(told.contains(&member.device.key.peer().short()), "{told}");
        }
        // Any of its paths means it.
        let path = &found.sides[usize::from(keep == Keep::Ours)].path;
        let done = team.vfs(0).resolve_conflict(path, keep).unwrap();
        assert_eq!(done.kept, std::slice::from_ref(&found.path));
        assert_eq!(done.removed.len(), 1);
        team.settle().await;
        assert_eq!(agreed(&team), []);
        let tree = team.tree().await;
        let names: Vec<&str> = tree.keys().map(String::as_str).collect();
        assert_eq!(names, ["", "dir", "dir/file.txt"]);
        let wanted: &[u8] = if keep == Keep::Ours { b"one" } else { b"two" };
        let file = &tree["dir/file.txt"];
        assert_eq!((&file.content[..3], file.content.len()), (wanted, len));
        assert!(file.xattrs.is_empty(), "{:?}", file.xattrs);
        let again = team.vfs(1).resolve_conflict(&found.path, keep);
        assert!(matches!(again, Err(ResolveError::NotContested)));
    }
}

#[tokio::test(start_paused = true)]
async fn both_may_stay_under_the_names_that_are_shown() {
    let team = two_contents(64, 100).await;
    let before = team.tree().await;
    let found = the_one(&team);
    let done = team.vfs(1).resolve_conflict(&found.path, Keep::Both);
    assert_eq!(done.unwrap().kept.len(), 2);
    team.settle().await;
    assert_eq!(agreed(&team), []);
    let after = team.tree().await;
    let contents = |tree: &std::collections::BTreeMap<String, crate::vfs::twin::Seen>| {
        let all = tree
            .iter()
            .map(|(path, seen)| (path.clone(), seen.content.clone()));
        all.collect::<Vec<_>>()
    };
    assert_eq!(contents(&before), contents(&after));
    assert!(after.values().all(|seen| seen.xattrs.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn two_files_of_one_name_are_a_conflict_whoever_touches_them() {
    let team = Team::new(2, 65).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.write("new", 0, b"one").await.unwrap();
    two.write("new", 0, b"two").await.unwrap();
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.kind, ConflictKind::Names);
    assert_eq!(paths(&found)[0], "new");
    // An edit of either decides nothing.
    one.write("new", 0, b"ONE").await.unwrap();
    team.settle().await;
    assert_eq!(paths(&the_one(&team)), paths(&found));
    // Nor does a directory beside it.
    one.mkdir("sub").await.unwrap();
    team.settle().await;
    let copy = text(&found.sides[1].path);
    two.rename("new", "sub/moved").await.unwrap();
    team.settle().await;
    // With nothing left to compete with it is over.
    assert_eq!(agreed(&team), []);
    two.rename("sub/moved", "new").await.unwrap();
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(paths(&found), ["new".to_owned(), copy.clone()]);
    one.rename(&copy, "mine").await.unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    team.tree().await;
}

#[tokio::test(start_paused = true)]
async fn removing_a_copy_or_renaming_it_over_the_file_ends_a_conflict() {
    for is_renamed in [false, true] {
        let team = two_contents(66 + u64::from(is_renamed), 100).await;
        let copy = paths(&the_one(&team))[1].clone();
        let hand = Hand(team.vfs(0));
        match is_renamed {
            true => hand.rename(&copy, "dir/file.txt").await.unwrap(),
            false => hand.unlink(&copy).await.unwrap(),
        }
        team.settle().await;
        assert_eq!(agreed(&team), []);
        assert_eq!(team.tree().await.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn of_more_than_two_the_one_that_stays_is_named() {
    let team = Team::new(3, 68).await;
    team.gather().await;
    for at in 0..3 {
        let bytes = [b'0' + at as u8; 5];
        Hand(team.vfs(at)).write("f", 0, &bytes).await.unwrap();
    }
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.sides.len(), 3);
    let vfs = team.vfs(0);
    let among = match vfs.resolve_conflict(&found.path, Keep::Theirs) {
        Err(ResolveError::Ambiguous { among }) => among,
        other => panic!("{other:?}"),
    };
    assert_eq!(among.len(), 2);
    // Nothing was done.
    assert_eq!(agreed(&team), std::slice::from_ref(&found));
    let device = |at: usize| Some(team.members[at].device.key.peer());
    let of_two = found.sides.iter().find(|side| side.device == device(1));
    let done = vfs.resolve_conflict(&of_two.unwrap().path, Keep::This);
    assert_eq!(done.unwrap().removed.len(), 2);
    team.settle().await;
    assert_eq!(agreed(&team), []);
    let tree = team.tree().await;
    assert_eq!(tree.len(), 2);
    assert_eq!(tree["f"].content, b"11111");
    let nothing = vfs.resolve_conflict(b"nowhere/at/all", Keep::Both);
    assert!(matches!(nothing, Err(ResolveError::NotContested)));
}

#[tokio::test(start_paused = true)]
async fn what_came_back_is_listed_until_somebody_says_that_it_stays() {
    let team = Team::new(2, 69).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    for dir in ["dir", "gone"] {
        one.mkdir(dir).await.unwrap();
    }
    one.write("dir/file", 0, b"old").await.unwrap();
    team.settle().await;
    two.write("dir/file", 0, b"new").await.unwrap();
    two.write("gone/here", 0, b"new").await.unwrap();
    team.vfs(1).sync().await.unwrap();
    one.unlink("dir/file").await.unwrap();
    one.rmdir("gone").await.unwrap();
    team.settle().await;
    let found = agreed(&team);
    let told: Vec<(ConflictKind, String)> = found
        .iter()
        .map(|conflict| (conflict.kind, text(&conflict.path)))
        .collect();
    assert_eq!(
        told,
        [
            (ConflictKind::Returned, "dir/file".to_owned()),
            (ConflictKind::Returned, "gone".to_owned())
        ]
    );
    assert_eq!(
        found[0].sides[0].device,
        Some(team.members[1].device.key.peer())
    );
    let vfs = team.vfs(0);
    let alone = vfs.resolve_conflict(b"dir/file", Keep::Theirs);
    assert!(matches!(alone, Err(ResolveError::Alone)));
    for conflict in &found {
        vfs.resolve_conflict(&conflict.path, Keep::Both).unwrap();
    }
    team.settle().await;
    assert_eq!(agreed(&team), []);
    let tree = team.tree().await;
    assert_eq!(tree["dir/file"].content, b"new");
    assert_eq!(tree["gone/here"].content, b"new");
}

#[tokio::test(start_paused = true)]
async fn what_lost_its_directory_is_told_as_lost() {
    let team = Team::new(2, 70).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.mkdir("dir").await.unwrap();
    one.write("dir/file", 0, b"old").await.unwrap();
    team.settle().await;
    two.write("dir/file", 0, b"new").await.unwrap();
    team.vfs(1).sync().await.unwrap();
    one.unlink("dir/file").await.unwrap();
    one.rmdir("dir").await.unwrap();
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.kind, ConflictKind::Lost);
    assert!(
        found.path.starts_with(b"lost+found/"),
        "{}",
        text(&found.path)
    );
    let kept = team.vfs(0).resolve_conflict(&found.path, Keep::Both);
    kept.unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    assert_eq!(team.tree().await[&text(&found.path)].content, b"new");
}

#[tokio::test(start_paused = true)]
async fn a_directory_moved_to_two_places_comes_to_the_one_that_is_chosen() {
    for (seed, keep, at) in [
        (71, Keep::Ours, Some("a/dir")),
        (72, Keep::Theirs, Some("b/other")),
        (73, Keep::Both, None),
    ] {
        let team = Team::new(2, seed).await;
        team.gather().await;
        let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
        for dir in ["a", "b", "dir"] {
            one.mkdir(dir).await.unwrap();
        }
        one.write("dir/file", 0, b"text").await.unwrap();
        team.settle().await;
        one.rename("dir", "a/dir").await.unwrap();
        two.rename("dir", "b/other").await.unwrap();
        team.settle().await;
        let found = the_one(&team);
        assert_eq!(found.kind, ConflictKind::Moved);
        let shown = paths(&found);
        let all: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
        assert_eq!(all, BTreeSet::from(["a/dir", "b/other"]));
        let at = at.unwrap_or(&shown[0]);
        team.vfs(0).resolve_conflict(b"b/other", keep).unwrap();
        team.settle().await;
        assert_eq!(agreed(&team), []);
        let tree = team.tree().await;
        assert_eq!(tree[&format!("{at}/file")].content, b"text");
        assert_eq!(tree.len(), 5, "{:?}", tree.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn directories_moved_into_each_other_are_told_and_can_stay() {
    let team = Team::new(2, 74).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    for dir in ["x", "y"] {
        one.mkdir(dir).await.unwrap();
        one.write(&format!("{dir}/in"), 0, dir.as_bytes())
            .await
            .unwrap();
    }
    team.settle().await;
    one.rename("x", "y/x").await.unwrap();
    two.rename("y", "x/y").await.unwrap();
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.kind, ConflictKind::Moved);
    let before: Vec<String> = team.tree().await.into_keys().collect();
    let other = &found.sides[1].path;
    let inside = team.vfs(0).resolve_conflict(other, Keep::This);
    assert!(
        matches!(inside, Err(ResolveError::IntoItself)),
        "{inside:?}"
    );
    team.vfs(0)
        .resolve_conflict(&found.path, Keep::Both)
        .unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    assert_eq!(before, team.tree().await.into_keys().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn names_within_directories_that_became_one_are_found() {
    let team = Team::new(2, 75).await;
    team.gather().await;
    for at in 0..2 {
        let hand = Hand(team.vfs(at));
        hand.mkdir("dir").await.unwrap();
        hand.mkdir("dir/sub").await.unwrap();
        hand.write("dir/sub/same", 0, &[b'0' + at as u8; 3])
            .await
            .unwrap();
        hand.write(&format!("dir/{at}"), 0, b"own").await.unwrap();
    }
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.kind, ConflictKind::Names);
    assert_eq!(text(&found.path), "dir/sub/same");
    team.vfs(1)
        .resolve_conflict(&found.path, Keep::Ours)
        .unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    let tree = team.tree().await;
    assert_eq!(tree["dir/sub/same"].content, b"111");
    assert_eq!(tree.len(), 6, "{:?}", tree.keys());
}

#[tokio::test(start_paused = true)]
async fn a_directory_goes_only_when_it_is_empty() {
    let team = Team::new(2, 76).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.mkdir("name").await.unwrap();
    one.write("name/in", 0, b"kept").await.unwrap();
    two.write("name", 0, b"file").await.unwrap();
    team.settle().await;
    let found = the_one(&team);
    assert_eq!(found.kind, ConflictKind::Names);
    let before = team.tree().await;
    let refused = team.vfs(0).resolve_conflict(b"name", Keep::Theirs);
    assert!(
        matches!(refused, Err(ResolveError::NotEmpty)),
        "{refused:?}"
    );
    team.settle().await;
    assert_eq!(before, team.tree().await);
    team.vfs(0).resolve_conflict(b"name", Keep::Ours).unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    assert_eq!(team.tree().await["name/in"].content, b"kept");
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_known_after_a_crash_and_to_who_may_only_read() {
    let mut team = two_contents(77, 100).await;
    let found = the_one(&team);
    for at in 0..2 {
        team.vfs(at).sync().await.unwrap();
    }
    team.shut(0).await;
    team.open(0).await;
    team.crash(1).await;
    team.settle().await;
    assert_eq!(the_one(&team), found);
    team.shut(1).await;
    team.set_rights(1, Rights::Read);
    team.open(1).await;
    assert_eq!(the_one(&team), found);
    let refused = team.vfs(1).resolve_conflict(&found.path, Keep::Both);
    assert!(matches!(refused, Err(ResolveError::ReadOnly)));
}

#[tokio::test(start_paused = true)]
async fn who_has_the_file_open_that_goes_reads_on() {
    let team = two_contents(78, 100_000).await;
    let found = the_one(&team);
    let hand = Hand(team.vfs(0));
    let own = found
        .sides
        .iter()
        .find(|side| side.device == Some(team.members[0].device.key.peer()));
    let ino = hand.open(&text(&own.unwrap().path)).await.unwrap();
    hand.write_open(ino, 3, b" and more").await.unwrap();
    team.vfs(0)
        .resolve_conflict(&found.path, Keep::Theirs)
        .unwrap();
    assert!(
        hand.read_open(ino)
            .await
            .unwrap()
            .starts_with(b"one and more")
    );
    hand.close(ino).await.unwrap();
    team.settle().await;
    let tree = team.tree().await;
    assert!(tree["dir/file.txt"].content.starts_with(b"two"));
    assert_eq!(tree.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_written_is_not_lost_when_it_is_chosen() {
    let team = two_contents(79, 100_000).await;
    let found = the_one(&team);
    let hand = Hand(team.vfs(0));
    let own = found
        .sides
        .iter()
        .find(|side| side.device == Some(team.members[0].device.key.peer()));
    let ino = hand.open(&text(&own.unwrap().path)).await.unwrap();
    hand.write_open(ino, 3, b" and more").await.unwrap();
    team.vfs(0)
        .resolve_conflict(&found.path, Keep::Ours)
        .unwrap();
    hand.write_open(ino, 0, b"ONE").await.unwrap();
    hand.close(ino).await.unwrap();
    team.settle().await;
    assert_eq!(agreed(&team), []);
    let tree = team.tree().await;
    assert!(tree["dir/file.txt"].content.starts_with(b"ONE and more"));
    assert_eq!(tree.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_decision_and_an_edit_at_the_same_time_lose_nothing() {
    let team = two_contents(80, 100).await;
    let found = the_one(&team);
    let copy = text(&found.sides[1].path);
    // One lets the copy go while the other writes to it.
    team.vfs(0)
        .resolve_conflict(&found.path, Keep::This)
        .unwrap();
    Hand(team.vfs(1)).write(&copy, 0, b"edited").await.unwrap();
    team.settle().await;
    let tree = team.tree().await;
    let starts: Vec<&[u8]> = tree
        .values()
        .filter_map(|seen| seen.content.get(..6))
        .collect();
    assert!(starts.contains(&&b"edited"[..]), "{:?}", tree.keys());
    agreed(&team);
}

fn newest(globs: &[(&str, bool)]) -> VfsOptions {
    let rules = globs.iter().map(|(glob, is_newest)| {
        let glob: Glob = glob.parse().unwrap();
        (glob, *is_newest)
    });
    VfsOptions {
        conflicts: ConflictRules::new(rules.collect()),
        ..options()
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_newest_is_to_stay_the_older_content_goes() {
    for (seed, len) in [(81, 100), (82, 200_000)] {
        let rules = newest(&[("keep.log", false), ("*.log", true), ("cache/**", true)]);
        let team = Team::with(2, seed, rules).await;
        team.gather().await;
        let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
        let files = ["a.log", "cache/deep/b", "keep.log", "c"];
        for dir in ["cache", "cache/deep"] {
            one.mkdir(dir).await.unwrap();
        }
        for file in files {
            one.write(file, 0, &vec![0; len]).await.unwrap();
        }
        team.settle().await;
        for file in files {
            one.write(file, 0, b"one").await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for file in files {
            two.write(file, 0, b"two").await.unwrap();
        }
        team.settle().await;
        let tree = team.tree().await;
        for file in files {
            assert_eq!(&tree[file].content[..3], b"two", "{file}");
        }
        let found: Vec<String> = agreed(&team)
            .iter()
            .map(|found| text(&found.path))
            .collect();
        assert_eq!(found, ["c", "keep.log"]);
        assert_eq!(tree.len(), 1 + 2 + files.len() + 2, "{:?}", tree.keys());
        // Two files of one name are no contents of one file.
        one.write("new.log", 0, b"one").await.unwrap();
        two.write("new.log", 0, b"two").await.unwrap();
        team.settle().await;
        assert_eq!(team.tree().await.len(), tree.len() + 2);
    }
}
