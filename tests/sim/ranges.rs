//! Ranges of blocks over a simulated network: what is fetched for them, and from whom not to take it.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, Limits, OwnerId};
use cairnfs::blocks::{GetError, UploadOptions};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::fault::Fault;
use cairnfs::testkit::{Cluster, ClusterOptions};

use crate::simulate;

const PROFILE: EcProfile = EcProfile::DEFAULT;
const FRAME: u32 = 64 << 10;

/// A cluster with large blocks, one of which is put by peer 0.
struct World {
    cluster: Cluster,
    reference: BlockRef,
    content: Bytes,
}

async fn put(cluster: &Cluster, content: &Bytes) -> BlockRef {
    let options = UploadOptions {
        profile: PROFILE,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    };
    let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
    let reference = upload.submit(content.clone()).await.unwrap();
    let reference = reference.await.unwrap();
    upload.finish(Vec::new()).await.unwrap();
    reference
}

async fn world(len: usize, options: ClusterOptions, seed: u64) -> World {
    let options = ClusterOptions {
        limits: Limits::default(),
        keep_trace: true,
        ..options
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut content = vec![0; len];
    cluster.entropy.fill(&mut content);
    // Some of it can be compressed, so that frames are of all lengths.
    for (at, byte) in content.iter_mut().enumerate() {
        if at / 50_000 % 3 == 1 {
            *byte %= 4;
        }
    }
    let content = Bytes::from(content);
    let reference = put(&cluster, &content).await;
    World {
        cluster,
        reference,
        content,
    }
}

impl World {
    /// Reads a range at a peer and compares it.
    async fn check(&self, at: usize, range: std::ops::Range<u32>) {
        let read = self.read(at, range.clone()).await.unwrap();
        let len = self.content.len();
        let within = (range.start as usize).min(len)..(range.end as usize).min(len);
        assert!(read == self.content.slice(within), "{range:?}");
    }

    async fn read(&self, at: usize, range: std::ops::Range<u32>) -> Result<Bytes, GetError> {
        let blocks = self.cluster.blocks(at).unwrap();
        blocks.read_range(&self.reference, PROFILE, range).await
    }

    /// Messages of this kind so far.
    fn count(&self, what: &str) -> usize {
        let trace = self.cluster.hub.trace();
        let ends = format!(" {what}");
        let lines = trace.lines().iter();
        lines.filter(|line| line.ends_with(&ends)).count()
    }
}

#[test]
fn any_range_of_a_block_is_read_at_any_peer() {
    simulate(async {
        let options = ClusterOptions {
            memory_bytes: 0,
            ..ClusterOptions::default()
        };
        let world = world(3_000_001, options, 1).await;
        let len = world.content.len() as u32;
        let entropy = world.cluster.entropy.clone();
        for round in 0..60 {
            let at = (round % 6) as usize;
            let start = entropy.below(u64::from(len)) as u32;
            let size = 1 + entropy.below(200_000) as u32;
            world.check(at, start..start + size).await;
        }
        for range in [0..1, len - 1..len, len - 1..u32::MAX, len..u32::MAX, 0..len] {
            world.check(3, range).await;
        }
        #[allow(clippy::reversed_empty_ranges)]
        let empty = world.read(3, 9..5).await.unwrap();
        assert!(empty.is_empty());
    });
}

#[test]
fn a_range_costs_its_frames_and_a_second_one_no_header() {
    simulate(async {
        let world = world(4 << 20, ClusterOptions::default(), 2).await;
        for at in 0..6 {
            let before = (world.count("fetch-range"), world.count("shard"));
            world.check(at, FRAME * 9..FRAME * 9 + 4096).await;
            let asked = world.count("fetch-range") - before.0;
            assert!(asked <= 3, "{asked} questions of peer {at}");
            // The frame is in memory now.
            world.check(at, FRAME * 9 + 5000..FRAME * 10).await;
            assert_eq!(world.count("fetch-range") - before.0, asked);
            // Another one, of which the header is known: one shard has it, or two.
            world.check(at, FRAME * 30..FRAME * 30 + 1).await;
            assert!(world.count("fetch-range") - before.0 <= asked + 2);
            assert_eq!(world.count("shard"), before.1, "whole shards for peer {at}");
        }
        assert!(world.count("range") > 0);
    });
}

#[test]
fn what_is_read_no_more_is_forgotten() {
    simulate(async {
        let world = world(4 << 20, ClusterOptions::default(), 8).await;
        let blocks = world.cluster.blocks(2).unwrap().clone();
        assert!(!blocks.forget_unused(), "nothing was read yet");
        world.check(2, FRAME * 9..FRAME * 9 + 4096).await;
        let asked = world.count("fetch-range");
        // Read since the look before, once more, and then no more.
        assert!(!blocks.forget_unused());
        world.check(2, FRAME * 9..FRAME * 9 + 1).await;
        assert!(!blocks.forget_unused());
        assert_eq!(world.count("fetch-range"), asked);
        assert!(blocks.forget_unused());
        assert!(!blocks.forget_unused(), "it was all forgotten");
        world.check(2, FRAME * 9..FRAME * 9 + 4096).await;
        assert!(world.count("fetch-range") > asked);
    });
}

#[test]
fn all_who_want_the_same_frames_wait_for_one_fetch() {
    simulate(async {
        let world = world(4 << 20, ClusterOptions::default(), 3).await;
        let alone = {
            let before = world.count("fetch-range");
            world.check(1, FRAME * 40..FRAME * 42).await;
            world.count("fetch-range") - before
        };
        let before = world.count("fetch-range");
        let reads = (0..20u32).map(|reader| {
            let start = FRAME * 20 + reader * 100;
            world.check(1, start..start + FRAME)
        });
        futures::future::join_all(reads).await;
        let together = world.count("fetch-range") - before;
        assert!(
            together <= alone + 1,
            "{together} questions, {alone} for one"
        );
        let before = world.count("fetch");
        let block = || async {
            let blocks = world.cluster.blocks(2).unwrap();
            blocks.read_block(&world.reference, PROFILE).await.unwrap()
        };
        let reads = futures::future::join_all((0..20).map(|_| block())).await;
        assert!(reads.iter().all(|read| *read == world.content));
        assert!(world.count("fetch") - before <= 4);
    });
}

#[test]
fn a_fetch_ends_with_its_last_reader() {
    simulate(async {
        let world = world(4 << 20, ClusterOptions::default(), 4).await;
        // A reader that has no data shard itself.
        let mut reader = 0;
        for at in 0..6 {
            let store = world.cluster.blocks(at).unwrap().store();
            let held = store.held(&[world.reference.id]).await.unwrap();
            if (0..4).all(|index| !held[0].contains(index)) {
                reader = at;
            }
        }
        let others = || (0..6).filter(|at| *at != reader);
        let pause = || {
            for at in others() {
                world.cluster.hub.pause(world.cluster.id(at).unwrap());
            }
        };
        let asked = || world.count("fetch-range") + world.count("fetch");
        // Nobody answers.
        pause();
        let mut first = Box::pin(world.read(reader, 0..10));
        let mut second = Box::pin(world.read(reader, 5..20));
        let soon = Duration::from_millis(5);
        for _ in 0..3 {
            assert!(tokio::time::timeout(soon, &mut first).await.is_err());
            assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        }
        drop(first);
        for at in others() {
            world.cluster.hub.resume(world.cluster.id(at).unwrap());
        }
        // The second one had only joined, and gets its answer all the same.
        let read = tokio::time::timeout(Duration::from_secs(20), second).await;
        assert_eq!(read.unwrap().unwrap(), world.content.slice(5..20));
        pause();
        let third = world.read(reader, FRAME * 50..FRAME * 50 + 1);
        assert!(tokio::time::timeout(soon, third).await.is_err());
        let before = asked();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(asked(), before);
    });
}

#[test]
fn ranges_of_lost_data_shards_are_decoded() {
    simulate(async {
        for seed in 5..9 {
            let mut world = world(2_500_000, ClusterOptions::default(), seed).await;
            let entropy = world.cluster.entropy.clone();
            world.cluster.crash(4);
            world.cluster.crash(5);
            for _ in 0..12 {
                let start = entropy.below(2_500_000) as u32;
                world
                    .check((start % 4) as usize, start..start + 70_000)
                    .await;
            }
        }
    });
}

#[test]
fn peers_that_send_bad_parts_are_found_out_and_not_needed() {
    simulate(async {
        for seed in 10..14 {
            let world = world(4 << 20, ClusterOptions::default(), seed).await;
            let reader = 3;
            let liars = [0, 5].map(|at| world.cluster.id(at).unwrap());
            for liar in liars {
                world.cluster.hub.corrupt(liar, 1.0);
            }
            for frame in (0..64).step_by(5) {
                world
                    .check(reader, FRAME * frame..FRAME * frame + 1000)
                    .await;
            }
            let stats = world.cluster.blocks(reader).unwrap().peer_stats();
            for at in 0..6 {
                let id = world.cluster.id(at).unwrap();
                let is_liar = liars.contains(&id);
                assert!(is_liar || stats.lies(&id) == 0, "seed {seed}, peer {at}");
            }
            // Only who has a data shard is asked for parts.
            let found = liars.iter().filter(|liar| stats.lies(liar) > 0).count();
            assert!(found > 0 || seed > 10, "seed {seed}");
        }
    });
}

#[test]
fn peers_of_earlier_versions_are_read_from_all_the_same() {
    simulate(async {
        let options = ClusterOptions {
            fault: Some(Fault::Old),
            memory_bytes: 0,
            ..ClusterOptions::default()
        };
        let world = world(4 << 20, options, 15).await;
        for frame in (0..64).step_by(3) {
            world.check(2, FRAME * frame..FRAME * frame + 1000).await;
        }
        // Each was asked once and is not asked again for a while.
        assert!((1..6).contains(&world.count("fetch-range")));
        assert_eq!(world.count("range"), 0);
        let stats = world.cluster.blocks(2).unwrap().peer_stats();
        assert!((0..6).all(|at| stats.lies(&world.cluster.id(at).unwrap()) == 0));
    });
}

#[test]
fn what_was_fetched_once_is_read_from_the_disk_when_nobody_is_left() {
    simulate(async {
        let options = ClusterOptions {
            ring_bytes: 16 << 20,
            memory_bytes: 0,
            ..ClusterOptions::default()
        };
        let mut world = world(3 << 20, options, 16).await;
        let whole = 0..3 << 20;
        world.check(1, whole.clone()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for at in [0, 2, 3, 4, 5] {
            world.cluster.crash(at);
        }
        world.check(1, whole.clone()).await;
        world.check(1, FRAME * 20..FRAME * 21).await;
        // It is gone with the next start.
        world.cluster.crash(1);
        world.cluster.restart(1).await.unwrap();
        let blocks = world.cluster.blocks(1).unwrap();
        let blocks = blocks.with_timeout(Duration::from_secs(1));
        let read = blocks.read_range(&world.reference, PROFILE, whole).await;
        assert!(matches!(read, Err(GetError::NotEnough { .. })), "{read:?}");
    });
}

#[test]
fn a_reference_that_lies_about_the_length_is_refused() {
    simulate(async {
        let world = world(1 << 20, ClusterOptions::default(), 17).await;
        for plain_len in [
            (1 << 20) - 1,
            (1 << 20) + 1,
            2 << 20,
            4 << 20,
            5 << 20,
            u32::MAX,
        ] {
            let lying = BlockRef {
                plain_len,
                ..world.reference
            };
            for range in [
                0..5,
                FRAME * 9..FRAME * 10,
                FRAME * 15..u32::MAX,
                0..u32::MAX,
            ] {
                let read = world.cluster.blocks(1).unwrap();
                let read = read.read_range(&lying, PROFILE, range).await;
                assert!(matches!(read, Err(GetError::Unreadable { .. })), "{read:?}");
            }
        }
    });
}

#[test]
fn slow_holders_do_not_hold_up_a_range() {
    simulate(async {
        let world = world(4 << 20, ClusterOptions::default(), 20).await;
        for at in [4, 5] {
            let id = world.cluster.id(at).unwrap();
            world.cluster.hub.slow(id, Duration::from_secs(10));
        }
        for frame in (0..64).step_by(9) {
            let begun = tokio::time::Instant::now();
            world.check(1, FRAME * frame..FRAME * frame + 1000).await;
            assert!(begun.elapsed() < Duration::from_secs(3));
        }
    });
}

#[test]
fn each_reader_waits_as_long_as_it_wants() {
    simulate(async {
        let mut world = world(4 << 20, ClusterOptions::default(), 21).await;
        for at in 2..6 {
            world.cluster.crash(at);
        }
        let blocks = world.cluster.blocks(1).unwrap().clone();
        let read = async |seconds: u64| {
            let blocks = blocks.with_timeout(Duration::from_secs(seconds));
            let begun = tokio::time::Instant::now();
            let read = blocks.read_range(&world.reference, PROFILE, 0..9).await;
            assert!(matches!(read, Err(GetError::NotEnough { .. })), "{read:?}");
            begun.elapsed().as_secs()
        };
        let (short, long, shorter) = tokio::join!(read(20), read(90), read(1));
        assert!((20..40).contains(&short), "{short}");
        assert!((90..120).contains(&long), "{long}");
        assert!(shorter < 20, "{shorter}");
    });
}
