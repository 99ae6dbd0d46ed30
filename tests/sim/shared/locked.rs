//! Locks that hold between all members: of files, and of names that are made alone.

use std::time::Duration;

use cairnfs::base::PeerId;
use cairnfs::net::memory::LinkFaults;
use cairnfs_fuse::{Errno, FileSystem, LockKind};
use tokio::time::sleep;

use super::run;
use super::world::{SECOND, World};
use crate::common::look::RW;

#[test]
fn agreed_a_lock_is_had_by_one_and_hands_over_what_was_written() {
    run(async {
        let world = World::with_voters(36, &[0, 1, 2]).await;
        let (one, two) = (world.program(1), world.program(3));
        let mine = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let other = two.create("file", 0).await.unwrap();
        assert_eq!(mine.0, other.0);
        for round in 0..6u64 {
            one.lock(mine, LockKind::Write, false).await.unwrap();
            assert_eq!(
                two.lock(other, LockKind::Write, false).await,
                Err(Errno::EAGAIN)
            );
            assert_eq!(
                two.lock(other, LockKind::Read, false).await,
                Err(Errno::EAGAIN)
            );
            // More than stays in a row.
            let bytes = vec![round as u8 + 1; 50_000];
            one.write(mine, round * 50_000, &bytes).await.unwrap();
            one.lock(mine, LockKind::Unlock, false).await.unwrap();
            two.lock(other, LockKind::Write, false).await.unwrap();
            let read = two.read(other).await;
            assert_eq!(read.len() as u64, (round + 1) * 50_000);
            assert_eq!(&read[(round * 50_000) as usize..], bytes);
            two.lock(other, LockKind::Unlock, false).await.unwrap();
        }
        one.lock(mine, LockKind::Read, false).await.unwrap();
        two.lock(other, LockKind::Read, false).await.unwrap();
        assert_eq!(
            two.lock(other, LockKind::Write, false).await,
            Err(Errno::EAGAIN)
        );
        // Closing gives it back.
        one.close(mine).await.unwrap();
        two.lock(other, LockKind::Write, false).await.unwrap();
        // It is kept for longer than a lease.
        sleep(40 * SECOND).await;
        let mine = one.create("file", 0).await.unwrap();
        assert_eq!(
            one.lock(mine, LockKind::Read, false).await,
            Err(Errno::EAGAIN)
        );
        two.write(other, 0, b"still").await.unwrap();
        let waits = async {
            one.lock(mine, LockKind::Write, true).await.unwrap();
            one.read(mine).await
        };
        let leaves = async {
            sleep(3 * SECOND).await;
            two.close(other).await.unwrap();
        };
        let (read, ()) = futures::join!(waits, leaves);
        assert_eq!(&read[..5], b"still");
    });
}

/// A program closes a file and opens it anew before the closing has gone its way: appending under a lock lost lines so.
#[test]
fn agreed_a_closing_that_comes_late_takes_no_later_lock() {
    run(async {
        let world = World::with_voters(40, &[0, 1, 2]).await;
        let (one, two) = (world.program(1), world.program(3));
        let first = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let other = two.create("file", 0).await.unwrap();
        one.lock(first, LockKind::Write, false).await.unwrap();
        one.lock(first, LockKind::Unlock, false).await.unwrap();
        let closing = one.fs().release(first.0, first.1, RW);
        let second = one.create("file", 0).await.unwrap();
        one.lock(second, LockKind::Write, false).await.unwrap();
        closing.wait().await.unwrap();
        assert_eq!(
            two.lock(other, LockKind::Write, false).await,
            Err(Errno::EAGAIN)
        );
        one.write(second, 0, b"mine").await.unwrap();
        one.close(second).await.unwrap();
        two.lock(other, LockKind::Write, false).await.unwrap();
        assert_eq!(two.read(other).await, b"mine");
    });
}

/// The kernel tells of a closing after it has returned, and gives the number of its owner to the next opening: appending
/// under a lock lost a line so, now and then.
#[test]
fn agreed_a_closing_takes_only_the_lock_of_its_own_handle() {
    run(async {
        let world = World::with_voters(41, &[0, 1, 2]).await;
        let (one, two) = (world.program(1), world.program(3));
        let first = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let other = two.create("file", 0).await.unwrap();
        one.lock(first, LockKind::Write, false).await.unwrap();
        let second = one.create("file", 0).await.unwrap();
        one.lock(second, LockKind::Write, false).await.unwrap();
        one.closed(first).await;
        assert_eq!(
            two.lock(other, LockKind::Write, false).await,
            Err(Errno::EAGAIN)
        );
        one.write(second, 0, b"mine").await.unwrap();
        one.closed(second).await;
        two.lock(other, LockKind::Write, false).await.unwrap();
        assert_eq!(two.read(other).await, b"mine");
    });
}

/// What somebody writes besides, without the lock, while it is given back, goes with it.
#[test]
fn agreed_a_lock_is_given_back_when_its_file_is_at_rest() {
    run(async {
        let world = World::with_voters(42, &[0, 1, 2]).await;
        let (one, two) = (world.program(1), world.program(3));
        let mine = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let other = two.create("file", 0).await.unwrap();
        one.lock(mine, LockKind::Write, false).await.unwrap();
        one.write(mine, 0, &[1; 200_000]).await.unwrap();
        let besides = async {
            sleep(Duration::from_millis(1)).await;
            one.write(mine, 200_000, &[2; 10]).await.unwrap();
        };
        let (left, ()) = futures::join!(one.lock(mine, LockKind::Unlock, false), besides);
        left.unwrap();
        two.lock(other, LockKind::Write, true).await.unwrap();
        let mut whole = [vec![1; 200_000], vec![2; 10]].concat();
        assert!(two.read(other).await == whole);
        two.write(other, 200_010, b"two").await.unwrap();
        two.close(other).await.unwrap();
        whole.extend(b"two");
        one.close(mine).await.unwrap();
        world.settle().await;
        assert_eq!(world.hand(2).names("").await, ["file"]);
        assert!(world.hand(2).read("file").await.unwrap() == whole);
    });
}

/// One that has a lock with others and waits to have it alone keeps what it has for as long as that takes.
#[test]
fn agreed_who_waits_for_more_of_a_lock_keeps_what_it_has() {
    run(async {
        let world = World::with_voters(43, &[0, 1, 2]).await;
        let (one, two) = (world.program(1), world.program(3));
        let mine = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let other = two.create("file", 0).await.unwrap();
        one.lock(mine, LockKind::Read, false).await.unwrap();
        two.lock(other, LockKind::Read, false).await.unwrap();
        // What it asks and what it renews are under way at the same time.
        for voter in [0, 2] {
            let faults = LinkFaults {
                delay: Duration::from_millis(250),
                ..LinkFaults::default()
            };
            world
                .cluster
                .hub
                .link(world.peer(1), world.peer(voter), faults);
        }
        let waits = one.lock(mine, LockKind::Write, true);
        let leaves = async {
            sleep(40 * SECOND).await;
            two.close(other).await.unwrap();
        };
        let (had, ()) = futures::join!(waits, leaves);
        had.unwrap();
        one.write(mine, 0, b"alone").await.unwrap();
        assert!(!world.take_warnings().contains("lost"));
    });
}

/// A file that could not be made alone is taken back, and not what has its name by then.
#[test]
fn agreed_what_is_not_made_alone_takes_nothing_else_away() {
    run(async {
        let world = World::with_voters(44, &[0, 1, 2]).await;
        let (one, hand) = (world.program(1), world.hand(1));
        hand.write("other", 0, b"other").await.unwrap();
        sleep(SECOND).await;
        let meanwhile = async {
            while hand.find("alone").await.is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            // Nobody hears that the name was given back.
            world.part(&[1]);
            hand.rename("other", "alone").await.unwrap();
        };
        let making = one.create("alone", libc::O_EXCL);
        let (made, ()) = futures::join!(making, meanwhile);
        assert_eq!(made.err(), Some(Errno::EIO));
        assert_eq!(hand.read("alone").await.unwrap(), b"other");
        world.cluster.hub.heal();
        world.settle().await;
        assert_eq!(world.hand(2).read("alone").await.unwrap(), b"other");
    });
}

#[test]
fn agreed_no_file_is_opened_to_append_past_the_cache() {
    run(async {
        let world = World::with_voters(45, &[0, 1, 2]).await;
        let one = world.program(1);
        let blind = libc::O_APPEND | libc::O_DIRECT;
        assert_eq!(one.create("file", blind).await.err(), Some(Errno::EINVAL));
        let open = one.create("file", libc::O_APPEND).await.unwrap();
        one.close(open).await.unwrap();
    });
}

#[test]
fn agreed_without_more_than_half_of_the_voters_nothing_is_locked() {
    run(async {
        let world = World::with_voters(37, &[0, 1, 2]).await;
        let one = world.program(1);
        let file = one.create("file", 0).await.unwrap();
        one.lock(file, LockKind::Write, false).await.unwrap();
        one.write(file, 0, b"locked").await.unwrap();
        sleep(SECOND).await;
        world.part(&[1, 3]);
        // The lease is over before the others may have the lock.
        sleep(9 * SECOND).await;
        assert_eq!(one.write(file, 0, b"not any more").await, Err(Errno::EIO));
        assert_eq!(
            one.lock(file, LockKind::Write, false).await,
            Err(Errno::EIO)
        );
        let again = one.create("file", 0).await.unwrap();
        assert_eq!(
            one.lock(again, LockKind::Write, false).await,
            Err(Errno::ENOLCK)
        );
        assert_eq!(
            one.create("alone", libc::O_EXCL).await.err(),
            Some(Errno::ENOLCK)
        );
        // The others have more than half.
        sleep(5 * SECOND).await;
        let two = world.program(2);
        let theirs = two.create("file", 0).await.unwrap();
        two.lock(theirs, LockKind::Write, true).await.unwrap();
        world.cluster.hub.heal();
        sleep(30 * SECOND).await;
        assert_eq!(
            one.lock(again, LockKind::Write, false).await,
            Err(Errno::EAGAIN)
        );
        two.close(theirs).await.unwrap();
        one.lock(again, LockKind::Write, true).await.unwrap();
        one.write(again, 0, b"again").await.unwrap();
    });
}

#[test]
fn agreed_of_many_that_make_a_file_alone_one_does() {
    run(async {
        let world = World::with_voters(38, &[0, 1, 2, 3, 4]).await;
        for round in 0..6 {
            let name = format!("index-{round}.lock");
            let tries = (0..5).map(|member| {
                let (world, name) = (&world, name.clone());
                async move {
                    let program = world.program(member);
                    (member, program.create(&name, libc::O_EXCL).await)
                }
            });
            let made = futures::future::join_all(tries).await;
            let (won, lost): (Vec<_>, Vec<_>) =
                made.into_iter().partition(|(_, made)| made.is_ok());
            assert_eq!(won.len(), 1, "{round}");
            for (member, made) in lost {
                assert_eq!(made.err(), Some(Errno::EEXIST), "{member} in {round}");
            }
            let (winner, open) = (won[0].0, *won[0].1.as_ref().unwrap());
            world.program(winner).close(open).await.unwrap();
            // Renamed over what it guards: who makes the next one knows it.
            let hand = world.hand(winner);
            hand.write(&name, 0, name.as_bytes()).await.unwrap();
            hand.rename(&name, "index").await.unwrap();
            let next = (winner + 1) % 5;
            let open = loop {
                match world.program(next).create(&name, libc::O_EXCL).await {
                    Ok(open) => break open,
                    Err(Errno::EEXIST) => sleep(Duration::from_millis(5)).await,
                    Err(errno) => panic!("{errno:?}"),
                }
            };
            let read = world.hand(next).read("index").await.unwrap();
            assert_eq!(read, name.as_bytes());
            world.program(next).close(open).await.unwrap();
        }
    });
}

#[test]
fn agreed_voters_change_one_by_one_and_locks_stay() {
    run(async {
        let world = World::with_voters(39, &[0, 1, 2]).await;
        let (one, four) = (world.program(1), world.program(4));
        let file = one.create("file", 0).await.unwrap();
        sleep(SECOND).await;
        let theirs = four.create("file", 0).await.unwrap();
        one.lock(file, LockKind::Write, false).await.unwrap();
        one.write(file, 0, b"kept").await.unwrap();
        world
            .sharer(0)
            .set_voters(&world.peers(&[2, 3, 4]))
            .await
            .unwrap();
        let wanted: std::collections::BTreeSet<PeerId> =
            world.peers(&[2, 3, 4]).into_iter().collect();
        for member in 0..5 {
            sleep(5 * SECOND).await;
            let known = world.sharer(member).voters();
            assert_eq!(
                known.into_iter().collect::<std::collections::BTreeSet<_>>(),
                wanted
            );
        }
        one.write(file, 0, b"kept").await.unwrap();
        assert_eq!(
            four.lock(theirs, LockKind::Write, false).await,
            Err(Errno::EAGAIN)
        );
        one.close(file).await.unwrap();
        four.lock(theirs, LockKind::Write, true).await.unwrap();
        assert_eq!(four.read(theirs).await, b"kept");
        // Only the owner says who votes.
        let denied = world.sharer(1).set_voters(&world.peers(&[1])).await;
        assert!(denied.is_err());
    });
}

/// Programs on all members count up in one file under a lock, while members come and go: no step is lost.
#[test]
fn agreed_counting_under_a_lock_loses_no_step() {
    let seeds = (super::super::seeds() / 5).max(2);
    super::super::each_seed(0..seeds, |seed| {
        run(async {
            let world = World::with_voters(400 + seed, &[0, 1, 4]).await;
            let entropy = world.cluster.entropy.fork();
            let first = world.program(0).create("count", 0).await.unwrap();
            world.program(0).write(first, 0, b"000000").await.unwrap();
            world.program(0).close(first).await.unwrap();
            world.settle().await;
            // Some voter is away now and then, and messages are late or lost.
            if seed % 2 == 1 {
                for one in 0..5 {
                    for other in 0..one {
                        let faults = LinkFaults {
                            delay: Duration::from_millis(1),
                            jitter: Duration::from_millis(60),
                            loss: 0.01,
                        };
                        world
                            .cluster
                            .hub
                            .link(world.peer(one), world.peer(other), faults);
                    }
                }
            }
            let mischief = async {
                loop {
                    sleep(Duration::from_millis(500 + entropy.below(4000))).await;
                    world.cluster.hub.pause(world.peer(4));
                    sleep(Duration::from_millis(entropy.below(6000))).await;
                    world.cluster.hub.resume(world.peer(4));
                }
            };
            let counters = (0..4).map(|member| {
                let (world, entropy) = (&world, entropy.fork());
                async move {
                    let program = world.program(member);
                    let mut steps = 0u64;
                    while steps < 6 {
                        sleep(Duration::from_millis(entropy.below(400))).await;
                        let open = program.create("count", 0).await.unwrap();
                        let locked = program.lock(open, LockKind::Write, true).await;
                        if locked.is_ok() {
                            let read = String::from_utf8(program.read(open).await).unwrap();
                            let next = read.parse::<u64>().unwrap() + 1;
                            sleep(Duration::from_millis(entropy.below(100))).await;
                            let text = format!("{next:06}");
                            steps +=
                                u64::from(program.write(open, 0, text.as_bytes()).await.is_ok());
                        }
                        program.close(open).await.unwrap();
                    }
                    steps
                }
            });
            let counted = futures::future::join_all(counters);
            let steps: u64 = tokio::select! {
                biased;
                counted = counted => counted.into_iter().sum(),
                () = mischief => 0,
            };
            world.cluster.hub.resume(world.peer(4));
            world.settle().await;
            let read = world.hand(2).read("count").await.unwrap();
            assert_eq!(
                String::from_utf8(read).unwrap(),
                format!("{steps:06}"),
                "seed {seed}"
            );
            assert_eq!(world.hand(1).names("").await, ["count"]);
        });
    });
}
