//! Power cuts at every change of the disk that a scripted workload makes.

use std::sync::Arc;

use bytes::Bytes;
use cairnfs::base::worker::Worker;
use cairnfs::base::{Clock, Entropy, IndexSet};
use cairnfs::erasure::VerifiedShard;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{MemDisk, Store, StoreError, StoreOptions};

use super::support::{START_MS, block_of, claim, open, options, scale, shard, simulate};

fn tiny() -> StoreOptions {
    StoreOptions {
        segment_bytes: Some(160 << 10),
        flush_rows: 10,
        ..options(64 << 20)
    }
}

/// What must be found after a crash.
#[derive(Default)]
struct Promise {
    /// Acknowledged, and nothing was done since that could free them.
    kept: Vec<VerifiedShard>,
    /// Their release was acknowledged.
    gone: Vec<VerifiedShard>,
    /// Small records: the last acknowledged value of each, and what may have replaced it.
    old_value: Option<Bytes>,
    new_value: Option<Bytes>,
}

/// Puts eight shards at once, so that they share commits.
async fn put_some(
    store: &Store,
    promise: &mut Promise,
    number: u64,
    size: usize,
) -> Result<Vec<VerifiedShard>, StoreError> {
    let shards: Vec<_> = (0..8).map(|n| shard(number * 100 + n, size)).collect();
    let puts = shards
        .iter()
        .map(|s| store.put(s.clone(), claim(number), u64::MAX));
    let outcomes = futures::future::join_all(puts).await;
    let mut failure = None;
    for (shard, outcome) in shards.iter().zip(outcomes) {
        match outcome {
            Ok(_) => promise.kept.push(shard.clone()),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(shards), Err)
}

async fn set(store: &Store, promise: &mut Promise, value: &'static [u8]) -> Result<(), StoreError> {
    let value = Bytes::from_static(value);
    promise.new_value = Some(value.clone());
    let both = [b"a", b"b"].map(|key| ("s".to_owned(), key.to_vec(), Some(value.clone())));
    store.kv_put(both.to_vec()).await?;
    promise.old_value = promise.new_value.clone();
    Ok(())
}

async fn script(store: &Store, promise: &mut Promise) -> Result<(), StoreError> {
    set(store, promise, b"one").await?;
    put_some(store, promise, 1, 900).await?;
    let dropped = put_some(store, promise, 2, 34_000).await?;
    store.close_claim(claim(1)).await?;
    let shared = block_of(&dropped[0]);
    store.claim(claim(1), u64::MAX, vec![shared]).await?;
    put_some(store, promise, 3, 5_000).await?;
    let is_shared = |shard: &VerifiedShard| block_of(shard) == shared;
    promise
        .kept
        .retain(|shard| is_shared(shard) || !dropped.contains(shard));
    store.release_claim(claim(2)).await?;
    promise
        .gone
        .extend(dropped.iter().filter(|s| !is_shared(s)).cloned());
    set(store, promise, b"two").await?;
    put_some(store, promise, 4, 40_000).await?;
    let (mut compaction, _) = store.workers();
    for _ in 0..12 {
        compaction.step().await;
    }
    set(store, promise, b"three").await?;
    put_some(store, promise, 5, 2_000).await?;
    store.clone().close().await
}

async fn check(store: &Store, promise: &Promise, what: &str) {
    store.flush_index().await.unwrap();
    for shard in &promise.kept {
        let got = store.get(block_of(shard), IndexSet::one(0)).await.unwrap();
        let (found, _) = got.unwrap_or_else(|| panic!("{what}: {:?} is lost", shard.id()));
        assert_eq!(&found, shard, "{what}");
    }
    for shard in &promise.gone {
        let got = store.get(block_of(shard), IndexSet::one(0)).await.unwrap();
        assert!(got.is_none(), "{what}: {:?} is back", shard.id());
    }
    let a = store.kv_get("s", b"a").await.unwrap();
    assert_eq!(
        a,
        store.kv_get("s", b"b").await.unwrap(),
        "{what}: half a batch"
    );
    assert!(
        a == promise.old_value || a == promise.new_value,
        "{what}: {a:?}"
    );
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_fails() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let whole = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(whole.clone()), tiny(), &clock).await;
        script(&store, &mut Promise::default()).await.unwrap();
        let changes = whole.changes();
        assert!(changes > 100, "{changes}");
        for at in 0..changes {
            for seed in 0..3 + u64::from(scale()) {
                let what = format!("power cut at {at} of {changes}, seed {seed}");
                let disk = MemDisk::new(1 << 30);
                disk.power_off_at(at);
                let mut promise = Promise::default();
                let medium = Arc::new(disk.clone());
                let pools = cairnfs::base::Pools::inline();
                if let Ok((store, _)) = Store::open(medium, tiny(), pools, clock.clone()).await {
                    let _ = script(&store, &mut promise).await;
                }
                let mode = if seed < 2 {
                    Crash::seeded(seed)
                } else {
                    Crash::Random(Entropy::seeded(at * 1000 + seed))
                };
                let image = disk.crash_image(&mode);
                let (store, report) = open(Arc::new(image.clone()), tiny(), &clock).await;
                assert_eq!(report.damaged_regions, 0, "{what}");
                check(&store, &promise, &what).await;
                // Another start finds the same.
                store.close().await.unwrap();
                let (store, report) = open(Arc::new(image), tiny(), &clock).await;
                assert_eq!(report.replayed_records, 0, "{what}");
                check(&store, &promise, &what).await;
            }
        }
    });
}
