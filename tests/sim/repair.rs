//! What is lost is made anew by those who are left, while nobody is there to whom it belongs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockRef, EcProfile, IndexSet, OwnerId, PeerId};
use cairnfs::blocks::UploadOptions;
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::testkit::{Cluster, ClusterOptions, UpkeepTimes};

const SUSPECT: Duration = Duration::from_secs(10 * 60);
const DEAD: Duration = Duration::from_secs(12 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

const TIMES: UpkeepTimes = UpkeepTimes {
    suspect: SUSPECT,
    dead: DEAD,
    scrub: Duration::from_secs(30 * 24 * 3600),
    rate: 16 << 20,
};

fn simulate<T>(life: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(life)
}

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

/// So many blocks, put by one peer with one upload each.
async fn put(cluster: &Cluster, at: usize, count: usize) -> Vec<Put> {
    let blocks = cluster.blocks(at).unwrap().clone();
    let mut puts = Vec::new();
    for _ in 0..count {
        let mut content = vec![0; 2000 + cluster.entropy.below(10_000) as usize];
        cluster.entropy.fill(&mut content);
        let content = Bytes::from(content);
        let options = UploadOptions {
            profile: EcProfile::DEFAULT,
            secret: ConvergenceSecret::from_bytes([7; 32]),
            survive: None,
            owner: OwnerId([1; 16]),
        };
        let upload = blocks.upload(options).await.unwrap();
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
        for pair in [[0, 1], [2, 3]] {
            let before = held(&cluster, &puts).await;
            let gone: Vec<PeerId> = pair.iter().map(|at| cluster.id(*at).unwrap()).collect();
            let lost: usize = before
                .iter()
                .map(|of_block| gone.iter().filter(|peer| of_block.contains_key(peer)).count())
                .sum();
            let (made, made_bytes, read_bytes) = sum(&cluster);
            pair.iter().for_each(|at| cluster.crash(*at));
            // Until the timer has run out nothing is made.
            tokio::time::sleep(DEAD - 30 * MINUTE).await;
            assert_eq!(sum(&cluster).0, made);
            let took = wait_whole(&cluster, &puts, 90 * MINUTE).await;
            let after = sum(&cluster);
            // Those that went had made some; what they say went with them.
            let now = after.0 - made.min(after.0);
            println!(
                "{lost} shards lost, {now} made; {} bytes read for {} made; whole {took:?} after",
                after.2.saturating_sub(read_bytes),
                after.1.saturating_sub(made_bytes)
            );
        }
        // Six are left, and any four of those suffice.
        tokio::time::sleep(5 * MINUTE).await;
        for at in [4, 5] {
            cluster.crash(at);
        }
        tokio::time::sleep(MINUTE).await;
        read_all(&cluster, &puts).await;
    });
}
