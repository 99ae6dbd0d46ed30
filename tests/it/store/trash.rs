//! What nothing keeps any more rests in trash: it is there for whoever asks or claims it, goes when its time has come, and
//! makes way for new data.

use std::sync::Arc;
use std::time::Duration;

use cairnfs::base::worker::Worker;
use cairnfs::base::{Clock, IndexSet};
use cairnfs::store::{MemDisk, Store, StoreOptions};

use super::support::{HOUR_MS, START_MS, block_of, claim, open, options, shard, simulate, stripe};

const EXPIRES: u64 = START_MS + 24 * HOUR_MS;

fn with_trash(quota_bytes: u64) -> StoreOptions {
    StoreOptions {
        trash: Duration::from_secs(7 * 24 * 3600),
        ..options(quota_bytes)
    }
}

async fn expire(store: &Store) {
    let (_, mut expiry) = store.workers();
    for _ in 0..4 {
        expiry.step().await;
    }
}

/// Blocks in trash, and bytes of them.
async fn trash(store: &Store) -> (u64, u64) {
    let parts = store.trash().await.unwrap();
    parts.iter().fold((0, 0), |(blocks, bytes), part| {
        (blocks + part.blocks, bytes + part.bytes)
    })
}

#[test]
fn what_was_let_go_rests_for_its_time_and_then_goes() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = Arc::new(MemDisk::new(1 << 30));
        let (store, _) = open(disk.clone(), with_trash(64 << 20), &clock).await;
        let shards: Vec<_> = (0..10).map(|seed| shard(seed, 50_000)).collect();
        for (number, shard) in shards.iter().enumerate() {
            let claim = claim(number as u64);
            store.put(shard.clone(), claim, EXPIRES).await.unwrap();
            store.close_claim(claim).await.unwrap();
        }
        // An upload that is given up leaves nothing.
        let given_up = shard(77, 50_000);
        store
            .put(given_up.clone(), claim(77), EXPIRES)
            .await
            .unwrap();
        store.release_claim(claim(77)).await.unwrap();
        assert_eq!(
            store.held(&[block_of(&given_up)]).await.unwrap(),
            [IndexSet::EMPTY]
        );
        for number in 0..10 {
            store.release_claim(claim(number)).await.unwrap();
        }
        assert_eq!(trash(&store).await, (10, 500_000));
        assert_eq!(store.usage().shards, 10);
        let blocks: Vec<_> = shards.iter().map(block_of).collect();
        assert!(
            store
                .keepers(blocks.clone())
                .await
                .unwrap()
                .iter()
                .all(Vec::is_empty)
        );
        let (page, _) = store.holdings(None, None, 100).await.unwrap();
        assert!(page.iter().all(|holding| !holding.is_kept));
        let read = store.get(blocks[3], IndexSet::one(0)).await.unwrap();
        assert_eq!(read.unwrap().0, shards[3]);
        // Who claims one takes it out, with nothing sent.
        let held = store
            .claim(claim(100), EXPIRES, vec![blocks[4]])
            .await
            .unwrap();
        assert_eq!(held, [IndexSet::one(0)]);
        store.close_claim(claim(100)).await.unwrap();
        assert!(
            !store
                .put(shards[5].clone(), claim(101), EXPIRES)
                .await
                .unwrap()
        );
        store.close_claim(claim(101)).await.unwrap();
        assert_eq!(trash(&store).await, (8, 400_000));
        tokio::time::advance(Duration::from_millis(6 * 24 * HOUR_MS)).await;
        expire(&store).await;
        assert_eq!(trash(&store).await, (8, 400_000));
        store.close().await.unwrap();
        let (store, _) = open(disk, with_trash(64 << 20), &clock).await;
        tokio::time::advance(Duration::from_millis(26 * HOUR_MS)).await;
        expire(&store).await;
        assert_eq!(trash(&store).await, (0, 0));
        assert_eq!(store.usage().shards, 2);
        let held = store.held(&blocks).await.unwrap();
        let left: Vec<usize> = (0..10).filter(|at| !held[*at].is_empty()).collect();
        assert_eq!(left, [4, 5]);
    });
}

#[test]
fn a_block_goes_into_trash_with_its_last_claim() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = Arc::new(MemDisk::new(1 << 30));
        let (store, _) = open(disk, with_trash(64 << 20), &clock).await;
        let shards = stripe(1, 40_000, (2, 1));
        for number in 0..3 {
            for shard in &shards {
                store
                    .put(shard.clone(), claim(number), EXPIRES)
                    .await
                    .unwrap();
            }
            store.close_claim(claim(number)).await.unwrap();
        }
        for number in 0..3 {
            assert_eq!(trash(&store).await, (0, 0));
            store.release_claim(claim(number)).await.unwrap();
        }
        assert_eq!(trash(&store).await, (1, 120_000));
        assert!(store.empty_trash(true).await.unwrap());
        assert!(!store.empty_trash(true).await.unwrap());
        assert_eq!(store.usage().shards, 0);
        assert_eq!(trash(&store).await, (0, 0));
    });
}

#[test]
fn trash_makes_way_the_oldest_first() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = Arc::new(MemDisk::new(1 << 30));
        let quota = 64 << 20;
        let (store, _) = open(disk, with_trash(quota), &clock).await;
        let len = 1 << 20;
        let mut blocks = Vec::new();
        // Each is let go in an hour of its own.
        for number in 0..30 {
            let shard = shard(number, len);
            blocks.push(block_of(&shard));
            store.put(shard, claim(number), u64::MAX / 2).await.unwrap();
            store.close_claim(claim(number)).await.unwrap();
            store.release_claim(claim(number)).await.unwrap();
            tokio::time::advance(Duration::from_millis(HOUR_MS)).await;
        }
        assert_eq!(trash(&store).await.0, 30);
        assert!(store.usage().intake_left > 40 << 20, "{:?}", store.usage());
        for number in 100..145 {
            let stored = store
                .put(shard(number, len), claim(number), u64::MAX / 2)
                .await;
            assert!(stored.unwrap(), "{number}");
            store.close_claim(claim(number)).await.unwrap();
        }
        let held = store.held(&blocks).await.unwrap();
        let gone = held.iter().take_while(|held| held.is_empty()).count();
        assert!(gone > 10, "{gone}");
        assert!(held[gone..].iter().all(|held| !held.is_empty()), "{held:?}");
        let usage = store.usage();
        assert!(usage.allocated <= quota, "{usage:?}");
        // And before it is needed, where little is left.
        let is_roomy = |store: &Store| {
            let usage = store.usage();
            usage.intake_left - usage.trash >= quota / 8
        };
        assert!(!is_roomy(&store), "{:?}", store.usage());
        let mut keeper = store.trash_keeper();
        for _ in 0..40 {
            keeper.step().await;
        }
        let usage = store.usage();
        let is_empty = trash(&store).await.0 == 0;
        assert!(is_empty || is_roomy(&store), "{usage:?}");
    });
}

#[test]
fn what_is_let_go_after_trash_was_emptied_rests_as_well() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = Arc::new(MemDisk::new(1 << 30));
        let (store, _) = open(disk, with_trash(64 << 20), &clock).await;
        for number in 0..3 {
            let shard = shard(number, 50_000);
            store.put(shard, claim(number), EXPIRES).await.unwrap();
            store.close_claim(claim(number)).await.unwrap();
            store.release_claim(claim(number)).await.unwrap();
            assert_eq!(trash(&store).await.0, 1, "{number}");
            // All within one hour.
            assert!(store.empty_trash(true).await.unwrap());
            assert_eq!(trash(&store).await.0, 0);
        }
    });
}
