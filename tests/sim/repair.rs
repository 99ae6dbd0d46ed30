//! What is lost is made anew by those who are left, while nobody is there to whom it belongs.

mod balance;
mod drain;
mod kept;
mod liar;
mod spread;
mod trouble;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, IndexSet, OwnerId, PeerId};
use cairnfs::blocks::UploadOptions;
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::testkit::{Cluster, ClusterOptions, UpkeepTimes};

use crate::simulate;

const SUSPECT: Duration = Duration::from_secs(10 * 60);
const DEAD: Duration = Duration::from_secs(12 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: SUSPECT,
    dead: DEAD,
    scrub: Duration::from_secs(30 * 24 * 3600),
    rate: 16 << 20,
    audit: Duration::from_secs(3600),
};

async fn start(peers: usize, seed: u64) -> Cluster {
    start_with(peers, seed, TIMES).await
}

async fn start_with(peers: usize, seed: u64, times: UpkeepTimes) -> Cluster {
    let options = ClusterOptions {
        peers,
        upkeep: Some(times),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, seed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
}

struct Put {
    reference: BlockRef,
    content: Bytes,
}

fn options() -> UploadOptions {
    UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    }
}

/// So many blocks, put by one peer with one upload each.
async fn put(cluster: &Cluster, at: usize, count: usize) -> Vec<Put> {
    let blocks = cluster.blocks(at).unwrap().clone();
    let mut puts = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; 2000 + cluster.entropy.below(10_000) as usize];
        cluster.entropy.fill(&mut content);
        let content = Bytes::from(content);
        let upload = blocks.upload(options()).await.unwrap();
        let pending = upload.submit(content.clone()).await.unwrap();
        let reference = pending.await.unwrap();
        upload.finish(Vec::new()).await.unwrap();
        puts.push(Put { reference, content });
    }
    puts
}

/// What those who run hold of each block.
async fn held(cluster: &Cluster, puts: &[Put]) -> Vec<BTreeMap<PeerId, IndexSet>> {
    let mut all = Vec::new();
    for put in puts {
        let mut of_block = BTreeMap::new();
        for at in 0..cluster.len() {
            let Some(blocks) = cluster.blocks(at) else {
                continue;
            };
            let held = blocks.store().held(&[put.reference.id]).await.unwrap();
            if !held[0].is_empty() {
                of_block.insert(cluster.id(at).unwrap(), held[0]);
            }
        }
        all.push(of_block);
    }
    all
}

fn shards(held: &BTreeMap<PeerId, IndexSet>) -> (usize, usize) {
    let all = held.values().copied();
    let distinct = all.clone().fold(IndexSet::EMPTY, IndexSet::union);
    (distinct.len(), all.map(IndexSet::len).sum())
}

/// Whether all six shards of every block are there, each once and on a peer of its own.
async fn is_whole(cluster: &Cluster, puts: &[Put]) -> bool {
    let held = held(cluster, puts).await;
    held.iter()
        .all(|of_block| shards(of_block) == (6, 6) && of_block.len() == 6)
}

async fn wait_whole(cluster: &Cluster, puts: &[Put], most: Duration) -> Duration {
    let begun = tokio::time::Instant::now();
    while !is_whole(cluster, puts).await {
        let held = held(cluster, puts).await;
        let counts: Vec<_> = held.iter().map(shards).collect();
        assert!(begun.elapsed() < most, "after {most:?}: {counts:?}");
        tokio::time::sleep(MINUTE).await;
    }
    begun.elapsed()
}

async fn read_all(cluster: &Cluster, puts: &[Put]) {
    let at = (0..cluster.len()).find(|at| cluster.blocks(*at).is_some());
    let blocks = cluster.blocks(at.unwrap()).unwrap();
    for put in puts {
        let read = blocks.read_block(&put.reference, EcProfile::DEFAULT).await;
        assert_eq!(read.unwrap(), put.content);
    }
}

/// Shards made, their bytes, and bytes read for them, by those who run.
fn sum(cluster: &Cluster) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    for at in 0..cluster.len() {
        if let Some(repair) = cluster.repair(at) {
            let health = repair.health();
            sum.0 += health.made;
            sum.1 += health.made_bytes;
            sum.2 += health.read_bytes;
        }
    }
    sum
}

#[test]
fn what_two_dead_peers_held_is_made_anew_again_and_again() {
    simulate(async {
        let mut cluster = start(10, 1).await;
        let puts = put(&cluster, 0, 40).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert!(is_whole(&cluster, &puts).await);
        assert_eq!(sum(&cluster).0, 0, "nothing to repair");
        // The only owner is the first to go, with another one.
        for (away, pair) in [(2, [0, 1]), (4, [2, 3])] {
            let before = held(&cluster, &puts).await;
            let gone: Vec<PeerId> = pair.iter().map(|at| cluster.id(*at).unwrap()).collect();
            let of_block = |of: &BTreeMap<PeerId, IndexSet>| {
                gone.iter().filter(|peer| of.contains_key(peer)).count() as u64
            };
            let lost: u64 = before.iter().map(of_block).sum();
            pair.iter().for_each(|at| cluster.crash(*at));
            let (made, made_bytes, read_bytes) = sum(&cluster);
            // Until the timer has run out nothing is made.
            tokio::time::sleep(DEAD - 30 * MINUTE).await;
            assert_eq!(sum(&cluster).0, made);
            let health = cluster.repair(4).unwrap().health();
            assert_eq!((health.away, health.tally.waiting), (away, lost));
            let took = wait_whole(&cluster, &puts, 90 * MINUTE).await;
            let after = sum(&cluster);
            assert_eq!(after.0 - made, lost, "each once");
            let (read, written) = (after.2 - read_bytes, after.1 - made_bytes);
            // Four shards read for one made, less where two are made of the same four.
            assert!(read <= 4 * written, "{read} for {written}");
            println!("{lost} shards made: {written} bytes of {read} read; whole {took:?} after");
            tokio::time::sleep(3 * MINUTE).await;
            let health = cluster.repair(4).unwrap().health();
            assert!(health.tally.is_whole(), "{}", health.line());
            assert_eq!((health.tally.blocks, health.tally.least()), (40, Some(2)));
        }
        // Six are left, and any four of those suffice.
        for at in [4, 5] {
            cluster.crash(at);
        }
        tokio::time::sleep(MINUTE).await;
        read_all(&cluster, &puts).await;
    });
}

#[test]
fn who_comes_back_in_time_is_waited_for_and_who_comes_back_late_makes_room() {
    simulate(async {
        let mut cluster = start(8, 2).await;
        let puts = put(&cluster, 0, 30).await;
        let own = cluster.id(3).unwrap();
        cluster.crash(3);
        tokio::time::sleep(DEAD - 10 * MINUTE).await;
        cluster.restart(3).await.unwrap();
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(sum(&cluster).0, 0, "it was waited for");
        assert!(is_whole(&cluster, &puts).await);
        // Its earlier absence is no part of the next.
        cluster.crash(3);
        tokio::time::sleep(DEAD - 10 * MINUTE).await;
        assert_eq!(sum(&cluster).0, 0);
        wait_whole(&cluster, &puts, 60 * MINUTE).await;
        let made = sum(&cluster).0;
        assert!(made > 0);
        // What it has now is there twice, and goes where it is worse placed; nothing is ever missing.
        cluster.restart(3).await.unwrap();
        for _ in 0..30 {
            tokio::time::sleep(MINUTE / 4).await;
            let held = held(&cluster, &puts).await;
            assert!(held.iter().all(|of_block| shards(of_block).0 == 6));
        }
        assert!(is_whole(&cluster, &puts).await, "none is there twice");
        let held = held(&cluster, &puts).await;
        let has = held.iter().filter(|of_block| of_block.contains_key(&own));
        assert!(has.count() > 0, "who is ranked better keeps it");
        assert_eq!(sum(&cluster).0, made, "nothing more was made");
        read_all(&cluster, &puts).await;
    });
}

#[test]
fn damaged_shards_are_found_taken_out_and_made_anew() {
    simulate(async {
        let times = UpkeepTimes {
            scrub: Duration::from_secs(3600),
            ..TIMES
        };
        let cluster = start_with(7, 3, times).await;
        let puts = put(&cluster, 0, 20).await;
        tokio::time::sleep(5 * MINUTE).await;
        // A bit here and there in the log of one of them: a few shards, and records about them.
        let disk = cluster.disk(2).unwrap();
        for at in (5_000..60_000).step_by(9_000) {
            disk.flip_bit("store/segment-00000001", at, 3);
        }
        let damaged = |cluster: &Cluster| -> u64 {
            let of = |at| cluster.blocks(at).unwrap().store().usage().damaged_shards;
            (0..cluster.len()).map(of).sum()
        };
        tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        let found = damaged(&cluster);
        assert!(found > 0, "found without that anybody read");
        assert_eq!(sum(&cluster).0, found, "each was made anew");
        assert!(is_whole(&cluster, &puts).await);
        // And what is there now is sound.
        tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        assert_eq!(damaged(&cluster), found);
        for put in &puts {
            let store = cluster.blocks(2).unwrap().store();
            let all = IndexSet::first(6);
            store.get(put.reference.id, all).await.unwrap();
        }
    });
}

#[test]
fn what_was_made_anew_is_let_go_with_the_rest() {
    simulate(async {
        let mut cluster = start(8, 4).await;
        let blocks = cluster.blocks(0).unwrap().clone();
        let owner = options().owner;
        let upload = blocks.upload(options()).await.unwrap();
        let number = upload.claim().number;
        let content = Bytes::from(vec![5; 9000]);
        let pending = upload.submit(content.clone()).await.unwrap();
        let reference = pending.await.unwrap();
        let told = upload.finish(Vec::new()).await.unwrap().told;
        let puts = [Put { reference, content }];
        let holder = *told
            .iter()
            .find(|peer| **peer != blocks.net().own())
            .unwrap();
        let at = (0..8).find(|at| cluster.id(*at) == Some(holder)).unwrap();
        cluster.crash(at);
        tokio::time::sleep(DEAD - 10 * MINUTE).await;
        wait_whole(&cluster, &puts, 60 * MINUTE).await;
        blocks.release(owner, number, told).await.unwrap();
        tokio::time::sleep(MINUTE).await;
        assert_eq!(held(&cluster, &puts).await, [BTreeMap::new()]);
        // It has a shard that nobody wants any more: no loss, and it is told of the release.
        cluster.restart(at).await.unwrap();
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(held(&cluster, &puts).await, [BTreeMap::new()]);
        let health = cluster.repair(1).unwrap().health();
        assert!(health.tally.is_whole(), "{}", health.line());
        assert_eq!(health.tally.blocks, 0);
    });
}

#[test]
fn at_rest_the_cost_does_not_depend_on_how_much_is_held() {
    let messages = [2, 50].map(|count| {
        simulate(async {
            let times = UpkeepTimes {
                // Of what hardly anybody has, somebody may have nothing to prove; `rest` counts those questions.
                audit: Duration::from_secs(10 * 365 * 24 * 3600),
                ..TIMES
            };
            let cluster = start_with(7, 5, times).await;
            put(&cluster, 0, count).await;
            tokio::time::sleep(60 * MINUTE).await;
            let before = cluster.hub.trace().count();
            tokio::time::sleep(60 * MINUTE).await;
            cluster.hub.trace().count() - before
        })
    });
    assert_eq!(messages[0], messages[1]);
    // A question and an answer for each pair of peers and minute.
    let pairs = 7 * 6;
    println!("{} events in an hour of {pairs} pairs", messages[0]);
    assert!(messages[0] <= 60 * pairs * 4);
}
