//! What others are told of a file that is written to all the while: never bytes that are not there yet, and each part as
//! an edit of its own.

use std::time::Duration;

use cairnfs::base::Glob;
use cairnfs::vfs::{ConflictRules, VfsOptions};

use super::team::{Hand, Team};
use crate::common::member::options;

/// What is described while more is being written has no zeros in place of what is in no block yet, and whoever has it
/// open sees the rest when that comes.
#[tokio::test(start_paused = true)]
async fn what_is_described_in_parts_has_no_holes_and_is_seen_to_the_end() {
    let team = Team::new(2, 90).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.write("log", 0, &[1; 40_000]).await.unwrap();
    team.settle().await;
    let reader = two.open("log").await.unwrap();
    assert_eq!(two.read_open(reader).await.unwrap().len(), 40_000);
    let writer = one.open("log").await.unwrap();
    one.write_open(writer, 40_000, &[2; 30_000]).await.unwrap();
    let mut whole = [vec![1; 40_000], vec![2; 30_000]].concat();
    // While the first part is on its way into a block.
    let more = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        one.write_open(writer, 70_000, &[3; 10]).await.unwrap();
    };
    let (synced, ()) = tokio::join!(team.vfs(0).sync(), more);
    synced.unwrap();
    whole.extend([3; 10]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    team.tell(0, 1).await;
    let seen = two.read_open(reader).await.unwrap();
    assert!(seen.len() >= 70_000, "the first part is told");
    assert!(
        seen == whole[..seen.len()],
        "{:?}",
        &seen[seen.len() - 12..]
    );
    one.close(writer).await.unwrap();
    team.settle().await;
    assert!(two.read_open(reader).await.unwrap() == whole);
    assert!(two.read("log").await.unwrap() == whole);
    two.close(reader).await.unwrap();
    team.tree().await;
}

/// A file that was changed here when a newer content came, and whose change was let go as configured, shows the newer
/// one to who has it open.
#[tokio::test(start_paused = true)]
async fn what_is_open_shows_the_content_that_was_kept() {
    let all: Glob = "**".parse().unwrap();
    let options = VfsOptions {
        conflicts: ConflictRules::new(vec![(all, true)]),
        ..options()
    };
    let team = Team::with(2, 91, options).await;
    team.gather().await;
    let (one, two) = (Hand(team.vfs(0)), Hand(team.vfs(1)));
    one.write("file", 0, &[0; 100]).await.unwrap();
    team.settle().await;
    let open = two.open("file").await.unwrap();
    two.write_open(open, 0, b"older").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    one.write("file", 0, b"newer").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    team.tell(0, 1).await;
    team.settle().await;
    assert_eq!(&two.read("file").await.unwrap()[..5], b"newer");
    assert_eq!(&two.read_open(open).await.unwrap()[..5], b"newer");
    two.close(open).await.unwrap();
    assert_eq!(two.names("").await, ["file"]);
    team.tree().await;
}
