//! Shards of others that are kept for a while.

use std::sync::Arc;

use cairnfs::base::{Clock, Entropy, IndexSet};
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Disk, MemDisk, Store, StoreOptions};

use super::support::{START_MS, block_of, claim, open, options, shard, simulate, stripe};

const LEN: usize = 100_000;

fn caching(quota: u64, ring_bytes: u64) -> StoreOptions {
    StoreOptions {
        ring_bytes,
        ..options(quota)
    }
}

/// Which of the shards with these seeds are still there; those that are must be right.
async fn there(store: &Store, seeds: std::ops::Range<u64>) -> Vec<u64> {
    let mut found = Vec::new();
    for seed in seeds {
        let expected = shard(seed, LEN);
        let block = block_of(&expected);
        let cached = store.cached(block, IndexSet::first(6), 6).await;
        if let Some(first) = cached.first() {
            assert_eq!((first, cached.len()), (&expected, 1));
            found.push(seed);
        }
    }
    found
}

fn files(disk: &MemDisk) -> Vec<String> {
    let files = disk.list("cache").unwrap_or_default();
    files.iter().map(|name| format!("cache/{name}")).collect()
}

#[test]
fn what_was_kept_last_comes_back_and_counts_as_held_by_nobody() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let options = caching(256 << 20, 20 << 20);
        let (store, _) = open(Arc::new(disk.clone()), options, &clock).await;
        let stripe = stripe(1, LEN, (3, 2));
        store.cache(stripe.clone()).await;
        let block = block_of(&stripe[0]);
        let some: IndexSet = [1, 4, 9].into_iter().collect();
        let expected = vec![stripe[1].clone(), stripe[4].clone()];
        assert_eq!(store.cached(block, some, 6).await, expected);
        assert_eq!(store.cached(block, some, 1).await, expected[..1]);
        assert_eq!(store.held(&[block]).await.unwrap(), [IndexSet::EMPTY]);
        assert!(store.get(block, some).await.unwrap().is_none());
        for seed in 100..500 {
            store.cache(vec![shard(seed, LEN)]).await;
            let usage = store.usage();
            assert!(usage.cached <= 20 << 20);
            assert_eq!(usage.allocated >= usage.cached, usage.cached > 0);
        }
        let kept = there(&store, 100..500).await;
        assert!(kept.len() > 170 && kept.len() < 220, "{}", kept.len());
        assert_eq!(kept, (500 - kept.len() as u64..500).collect::<Vec<_>>());
        assert!(store.cached(block, some, 6).await.is_empty());
    });
}

#[test]
fn a_damaged_copy_is_no_copy() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let options = caching(256 << 20, 64 << 20);
        let (store, _) = open(Arc::new(disk.clone()), options, &clock).await;
        for seed in 0..100 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        let entropy = Entropy::seeded(2);
        for _ in 0..60 {
            for file in files(&disk) {
                let len = disk.open(&file).unwrap().len().unwrap();
                disk.flip_bit(&file, entropy.below(len), entropy.below(8) as u8);
            }
        }
        let kept = there(&store, 0..100).await;
        assert!(!kept.is_empty() && kept.len() < 80, "{}", kept.len());
        // What was lost may be kept again.
        for seed in 0..100 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        assert_eq!(there(&store, 0..100).await.len(), 100);
        assert_eq!(store.usage().damaged_shards, 0);
    });
}

#[test]
fn a_start_begins_with_nothing() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let options = || caching(64 << 20, 16 << 20);
        let (store, _) = open(Arc::new(disk.clone()), options(), &clock).await;
        store.put(shard(0, LEN), claim(1), u64::MAX).await.unwrap();
        for seed in 1..50 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        assert!(!files(&disk).is_empty());
        for mode in [Crash::KeepAll, Crash::seeded(1), Crash::seeded(2)] {
            let image = disk.crash_image(&mode);
            let (store, _) = open(Arc::new(image.clone()), options(), &clock).await;
            assert!(files(&image).is_empty());
            assert_eq!(store.usage().cached, 0);
            assert!(there(&store, 1..50).await.is_empty());
            let own = store.get(block_of(&shard(0, LEN)), IndexSet::one(0)).await;
            assert!(own.unwrap().is_some());
            store.cache(vec![shard(3, LEN)]).await;
            assert_eq!(there(&store, 1..50).await, [3]);
        }
        // Nobody wants a cache any more.
        let image = disk.crash_image(&Crash::KeepAll);
        let (store, _) = open(Arc::new(image.clone()), caching(64 << 20, 0), &clock).await;
        store.cache(vec![shard(3, LEN)]).await;
        assert!(files(&image).is_empty() && there(&store, 1..50).await.is_empty());
    });
}

#[test]
fn a_lower_quota_takes_the_room_back_at_once() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk), caching(256 << 20, 1 << 30), &clock).await;
        for seed in 0..600 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        assert!(store.usage().cached > 50 << 20);
        store.set_quota(64 << 20).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let cached = store.usage().cached;
        assert!(cached > 0 && cached <= 32 << 20, "{cached}");
        assert!(!there(&store, 0..600).await.is_empty());
    });
}

#[test]
fn a_full_disk_costs_the_cache_and_nothing_else() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(60 << 20);
        let options = StoreOptions {
            segment_bytes: Some(2 << 20),
            ..caching(1 << 30, 1 << 30)
        };
        let (store, _) = open(Arc::new(disk.clone()), options, &clock).await;
        for seed in 0..800 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        assert!(store.usage().cached > 20 << 20);
        for seed in 1000..1200 {
            let stored = store.put(shard(seed, LEN), claim(1), u64::MAX).await;
            assert_eq!(stored, Ok(true));
        }
        for seed in 1000..1200 {
            let got = store
                .get(block_of(&shard(seed, LEN)), IndexSet::one(0))
                .await;
            assert!(got.unwrap().is_some());
        }
        there(&store, 0..800).await;
        // Somebody else fills the disk: nothing more is kept, and nothing is wrong.
        disk.set_capacity(1 << 20);
        for seed in 2000..2100 {
            store.cache(vec![shard(seed, LEN)]).await;
        }
        there(&store, 2000..2100).await;
    });
}
