//! Whole clusters in one thread, from one seed. A failing seed is its own reproduction:
//! `CAIRN_SIM_SEED=n cargo nextest run --features testkit -E 'test(one_seed)'`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

mod audit;
mod churn;
mod claims;
#[path = "../common/mod.rs"]
mod common;
mod durability;
mod endings;
mod liars;
mod pointers;
mod ranges;
mod repair;
mod rest;
mod shared;
mod slow;
mod tails;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{EcProfile, OwnerId};
use cairnfs::blocks::{GetError, UploadOptions};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::net::memory::LinkFaults;
use cairnfs::testkit::{Cluster, ClusterOptions, run_seed};

/// Runs to its end what waits in simulated time only.
fn simulate<T>(life: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(life)
}

fn scale() -> f64 {
    let scale = std::env::var("CAIRN_TEST_SCALE");
    scale.ok().and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

/// How many seeds are lived through.
fn seeds() -> u64 {
    ((20.0 * scale()) as u64).max(1)
}

/// What comes of each seed, in no particular order. Each life has a thread to itself, so how many go on at once
/// changes none of them.
fn each_seed<T: Send>(seeds: Range<u64>, live: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicU64::new(seeds.start);
    let some = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return outcomes;
            }
            outcomes.push(live(seed));
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        let ended = running.into_iter();
        ended.flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn what_was_acknowledged_is_readable_after_any_trouble() {
    let seeds = seeds();
    let outcomes = each_seed(0..seeds, |seed| {
        let outcome = run_seed(seed, 20).unwrap();
        let lost = outcome.lost.into_iter().map(|what| (seed, what));
        (outcome.acknowledged as u64, lost.collect::<Vec<_>>())
    });
    let lost: Vec<_> = outcomes.iter().flat_map(|(_, lost)| lost).collect();
    assert!(lost.is_empty(), "by seed: {lost:?}");
    let acknowledged: u64 = outcomes.iter().map(|(acknowledged, _)| acknowledged).sum();
    assert!(acknowledged > seeds * 5, "only {acknowledged} puts");
}

/// Some holders are connected and nothing gets through to them for a while, as when a connection
/// breaks under a question. What happens to a read meanwhile.
fn read_while_questions_are_lost(for_secs: u64) -> Result<Bytes, GetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(ClusterOptions::default(), 5).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let options = UploadOptions {
            profile: EcProfile::DEFAULT,
            secret: ConvergenceSecret::from_bytes([7; 32]),
            survive: None,
            owner: OwnerId([1; 16]),
        };
        let content = Bytes::from_static(b"read by one that hears little");
        let upload = cluster.blocks(0).unwrap().upload(options).await.unwrap();
        let reference = upload.submit(content.clone()).await.unwrap();
        let reference = reference.await.unwrap();
        upload.finish(Vec::new()).await.unwrap();
        // One shard is here and two can be had: one too few.
        let link = |loss: f64| {
            for other in 0..3 {
                let faults = LinkFaults {
                    loss,
                    ..ClusterOptions::default().faults
                };
                let (a, b) = (cluster.id(5).unwrap(), cluster.id(other).unwrap());
                cluster.hub.link(a, b, faults);
            }
        };
        link(1.0);
        let blocks = cluster.blocks(5).unwrap().clone();
        let read = tokio::spawn(async move {
            let read = blocks.read_block(&reference, EcProfile::DEFAULT).await;
            read.inspect(|bytes| assert_eq!(*bytes, content))
        });
        tokio::time::sleep(Duration::from_secs(for_secs)).await;
        link(0.0);
        read.await.unwrap()
    })
}

#[test]
fn holders_whose_answers_got_lost_are_asked_again() {
    // Longer than one question may take, shorter than a read may.
    read_while_questions_are_lost(12).unwrap();
    let error = read_while_questions_are_lost(120).unwrap_err();
    let GetError::NotEnough {
        have, need, away, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((have, need, away), (3, 4, 3));
}

#[test]
fn one_seed_gives_one_trace() {
    let seed = std::env::var("CAIRN_SIM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(42);
    let first = run_seed(seed, 20).unwrap();
    let second = run_seed(seed, 20).unwrap();
    assert!(first.lost.is_empty(), "{:?}", first.lost);
    assert_eq!(first, second);
    let other = run_seed(seed + 1, 20).unwrap();
    assert_ne!(first.trace, other.trace);
}
