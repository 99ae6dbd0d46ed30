//! What members wait for from one another where that is wanted: what was closed is seen by who opens, and what was synced
//! is with others.

use std::time::Duration;

use cairnfs::vfs::{Durability, VfsOptions};
use cairnfs_fuse::Errno;
use tokio::time::{Instant, sleep};

use super::program::close_to_open;
use super::run;
use super::world::{SECOND, World, options};

#[test]
fn agreed_what_is_closed_is_seen_by_who_opens() {
    run(async {
        let world = World::with(31, close_to_open()).await;
        world.settle().await;
        let (one, two) = (world.program(1), world.program(2));
        for round in 0..20u8 {
            let len = if round % 2 == 0 { 200_000 } else { 900 };
            let bytes = vec![round; len];
            let name = format!("file-{}", round % 4);
            let open = one.create(&name, libc::O_TRUNC).await.unwrap();
            one.write(open, 0, &bytes).await.unwrap();
            one.close(open).await.unwrap();
            // No moment passes.
            let open = two.create(&name, 0).await.unwrap();
            assert_eq!(two.read(open).await, bytes, "{round}");
            two.close(open).await.unwrap();
        }
    });
}

#[test]
fn agreed_an_open_hears_of_what_is_in_feeds_elsewhere() {
    run(async {
        let world = World::with(32, close_to_open()).await;
        world.settle().await;
        let (one, two) = (world.program(1), world.hand(2));
        // A name is not closed, so nobody waits for anybody.
        for round in 0..20 {
            let name = format!("new-{round}");
            world.hand(1).mkdir(&name).await.unwrap();
            sleep(Duration::from_millis(7)).await;
            let open = world.program(2).create("any", 0).await.unwrap();
            two.find(&name).await.unwrap();
            world.program(2).close(open).await.unwrap();
        }
        // Nothing is new: an opening costs a question.
        world.settle().await;
        let began = Instant::now();
        let open = one.create("any", 0).await.unwrap();
        one.close(open).await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(300),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn agreed_who_is_away_or_says_nothing_is_not_waited_for_long() {
    run(async {
        let world = World::with(33, close_to_open()).await;
        world.settle().await;
        let one = world.program(1);
        world.cluster.hub.pause(world.peer(3));
        let began = Instant::now();
        let open = one.create("file", 0).await.unwrap();
        one.write(open, 0, b"text").await.unwrap();
        one.close(open).await.unwrap();
        assert!(began.elapsed() < 12 * SECOND, "{:?}", began.elapsed());
        // From then on it is known to be away.
        let began = Instant::now();
        let open = one.create("file", 0).await.unwrap();
        one.write(open, 0, b"more").await.unwrap();
        one.close(open).await.unwrap();
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        world.cluster.hub.resume(world.peer(3));
        world.settle().await;
        world.tree().await;
    });
}

#[test]
fn agreed_a_sync_that_returned_survives_the_machine() {
    run(async {
        let mut world = World::with(
            34,
            VfsOptions {
                durability: Durability::Network,
                ..options()
            },
        )
        .await;
        world.settle().await;
        let bytes = vec![7; 300_000];
        world.hand(1).write("large", 0, &bytes).await.unwrap();
        world.hand(1).write("small", 0, b"small").await.unwrap();
        world.hand(1).fsync("large").await.unwrap();
        world.hand(1).fsync("small").await.unwrap();
        world.crash(1).await;
        // All others restart as well: it is on their disks.
        for member in [0, 2, 3, 4] {
            world.crash(member).await;
            world.begin(member).await;
        }
        sleep(60 * SECOND).await;
        for member in [0, 3] {
            assert_eq!(world.hand(member).read("large").await.unwrap(), bytes);
            assert_eq!(world.hand(member).read("small").await.unwrap(), b"small");
        }
        world.begin(1).await;
        world.settle().await;
    });
}

#[test]
fn agreed_a_sync_fails_without_others_and_succeeds_when_they_are_back() {
    run(async {
        let world = World::with(
            35,
            VfsOptions {
                durability: Durability::Network,
                ..options()
            },
        )
        .await;
        world.settle().await;
        world.part(&[1]);
        sleep(5 * SECOND).await;
        world.hand(1).write("small", 0, b"small").await.unwrap();
        assert_eq!(world.hand(1).fsync("small").await, Err(Errno::EIO));
        assert!(world.take_warnings().contains("missing"));
        world.cluster.hub.heal();
        sleep(60 * SECOND).await;
        world.hand(1).fsync("small").await.unwrap();
    });
}
