//! What was put while there were too few peers moves out when others come.

use std::time::Duration;

use super::{MINUTE, Put, TIMES, held, is_whole, put, read_all, shards, simulate, start_with};
use cairnfs::testkit::Cluster;

/// Whether all six shards of every block are there, on as many peers as can be.
async fn wait_spread(cluster: &Cluster, puts: &[Put]) {
    for _ in 0..120 {
        if is_whole(cluster, puts).await {
            return;
        }
        // Never are fewer than were there at first, and what is copied goes at the old place last.
        let held = held(cluster, puts).await;
        assert!(held.iter().all(|of_block| shards(of_block).0 >= 4));
        tokio::time::sleep(MINUTE).await;
    }
    let held = held(cluster, puts).await;
    let counts: Vec<_> = held.iter().map(|of| (of.len(), shards(of))).collect();
    panic!("{counts:?}");
}

async fn after_growing(before: usize, seed: u64) {
    let mut cluster = start_with(before, seed, TIMES).await;
    let puts = put(&cluster, 0, 12).await;
    tokio::time::sleep(5 * MINUTE).await;
    let alone = held(&cluster, &puts).await;
    assert!(alone.iter().all(|of_block| of_block.len() <= before));
    while cluster.len() < 6 {
        cluster.add().await.unwrap();
    }
    wait_spread(&cluster, &puts).await;
    tokio::time::sleep(5 * MINUTE).await;
    for at in 0..cluster.len() {
        let health = cluster.repair(at).unwrap().health();
        assert!(health.tally.is_whole(), "{}", health.line());
        assert_eq!((health.tally.blocks, health.tally.least()), (12, Some(2)));
    }
    // It has come to rest.
    let made: u64 = (0..6)
        .map(|at| cluster.repair(at).unwrap().health().made)
        .sum();
    tokio::time::sleep(60 * MINUTE).await;
    let later: u64 = (0..6)
        .map(|at| cluster.repair(at).unwrap().health().made)
        .sum();
    assert_eq!(later, made);
    // The one who put it, and another one.
    cluster.crash(0);
    cluster.crash(3);
    tokio::time::sleep(Duration::from_secs(10)).await;
    read_all(&cluster, &puts).await;
}

#[test]
fn what_was_put_while_alone_or_with_few_is_spread_when_others_join() {
    for before in [1, 2, 4] {
        simulate(after_growing(before, 20 + before as u64));
    }
}
