//! The quota on a real file system: counted after every step, by walking the directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cairnfs::base::worker::{Next, Worker};
use cairnfs::base::{Clock, IndexSet};
use cairnfs::store::{Compaction, RealDisk, Store, StoreError, StoreOptions};

use super::support::{HOUR_MS, START_MS, block_of, claim, open, options, shard, simulate};

/// What the directory occupies, as `du` counts.
fn occupied(dir: &Path) -> u64 {
    let own = std::fs::symlink_metadata(dir).unwrap().blocks() * 512;
    let entries = std::fs::read_dir(dir).unwrap();
    let below = entries.map(|entry| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => occupied(&entry.path()),
            false => entry.metadata().unwrap().blocks() * 512,
        }
    });
    own + below.sum::<u64>()
}

struct Watch<'a> {
    dir: &'a Path,
    quota: u64,
    peak: u64,
    index: u64,
}

impl Watch<'_> {
    fn check(&mut self, what: &str) {
        let now = occupied(self.dir);
        self.peak = self.peak.max(now);
        let index = self.dir.join("store/index.redb").metadata().unwrap();
        self.index = self.index.max(index.blocks() * 512);
        assert!(now <= self.quota, "{now} of {} after {what}", self.quota);
    }
}

/// Shards under one claim.
const fn per_claim(len: usize) -> u64 {
    if len < 10_000 { 256 } else { 16 }
}

/// Fills the store, many puts at once. How many shards it took.
async fn fill(store: &Store, watch: &mut Watch<'_>, first: u64, len: usize) -> u64 {
    let at_once = (1 << 19) / len as u64;
    let mut seed = first;
    loop {
        let put = |seed| store.put(shard(seed, len), claim(seed / per_claim(len)), u64::MAX);
        let puts = (seed..seed + at_once.clamp(4, 1024)).map(put);
        let outcomes = futures::future::join_all(puts).await;
        watch.check("puts");
        for outcome in outcomes {
            match outcome {
                Ok(is_new) => {
                    assert!(is_new);
                    seed += 1;
                }
                Err(StoreError::Full { .. }) => {
                    let left = store.usage().intake_left;
                    // What others that came at the same time reserved and did not need.
                    assert!(left < 2 * len as u64 + 16384, "{left} left");
                    return seed - first;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn compact(compaction: &mut Compaction, watch: &mut Watch<'_>) {
    for _ in 0..400 {
        let next = compaction.step().await;
        watch.check("a step of compaction");
        if matches!(next, Next::Idle(rest) if rest.as_secs() > 5) {
            break;
        }
    }
}

/// Shards that nobody stores here, as if others had sent them.
async fn cache(store: &Store, watch: &mut Watch<'_>, len: usize) {
    for seed in 0..64u64 {
        let foreign = shard((1 << 40) + seed, len.max(100_000));
        store.cache(vec![foreign]).await;
        watch.check("caching");
    }
}

async fn cycle(quota: u64, len: usize, ring_bytes: u64) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let clock = Clock::simulated(START_MS);
    let options = StoreOptions {
        ring_bytes,
        ..options(quota)
    };
    let (store, _) = open(disk.clone(), options, &clock).await;
    let (mut compaction, _) = store.workers();
    let mut watch = Watch {
        dir: dir.path(),
        quota,
        peak: 0,
        index: 0,
    };
    cache(&store, &mut watch, len).await;
    assert_eq!(store.usage().cached > 0, ring_bytes > 0);
    let took = fill(&store, &mut watch, 0, len).await;
    // What was cached has made way.
    assert!(store.usage().cached < len as u64 * 2 + 200_000);
    cache(&store, &mut watch, len).await;
    let payload = took * len as u64;
    let usage = store.usage();
    let index = dir.path().join("store/index.redb").metadata().unwrap();
    let index = index.blocks() * 512;
    println!("{took} shards of {len}, {payload} bytes of data; index {index}; {usage:?}");
    if len > 100_000 {
        assert!(payload > quota * 3 / 4, "took only {payload}");
    }
    store.flush_index().await.unwrap();
    watch.check("a flush");
    // A full store still serves, adds claims, and takes a claim's end.
    let first = block_of(&shard(0, len));
    assert!(
        store
            .get(first, IndexSet::first(6))
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        !store
            .put(shard(1, len), claim(1 << 40), u64::MAX)
            .await
            .unwrap()
    );
    assert!(store.close_claim(claim(0)).await.unwrap());
    // Release all but every fourth claim: the space comes back.
    let claims = took.div_ceil(per_claim(len));
    for number in (0..claims).filter(|number| number % 4 != 0) {
        assert!(store.release_claim(claim(number)).await.unwrap());
        watch.check("a release");
    }
    compact(&mut compaction, &mut watch).await;
    cache(&store, &mut watch, len).await;
    let again = fill(&store, &mut watch, 1 << 32, len).await;
    assert!(again >= took / 2, "{again} after {took}");
    // Lowered below what is used: intake stops, nothing else does.
    if quota > 32 << 20 {
        store.set_quota(quota.div_ceil(2).max(32 << 20)).unwrap();
        let full = store
            .put(shard(1 << 33, len), claim(1 << 33), u64::MAX)
            .await;
        assert!(
            matches!(full, Err(StoreError::Full { free_bytes: 0 })),
            "{full:?}"
        );
    }
    for number in (0..again.div_ceil(per_claim(len))).map(|n| ((1 << 32) / per_claim(len)) + n) {
        assert!(
            store.release_claim(claim(number)).await.unwrap(),
            "{number}"
        );
        watch.check("a release");
    }
    compact(&mut compaction, &mut watch).await;
    store.flush_index().await.unwrap();
    assert_eq!(store.usage().allocated, occupied(dir.path()));
    println!(
        "peak {} of {quota}, index at most {}, in the end {:?}",
        watch.peak,
        watch.index,
        store.usage()
    );
    store.close().await.unwrap();
    watch.check("closing");
}

#[test]
fn a_quota_of_32_mib_holds_for_shards_of_256_kib() {
    simulate(cycle(32 << 20, 256 << 10, 0));
}

#[test]
fn a_quota_of_40_mib_holds_for_shards_of_40_kb() {
    simulate(cycle(40 << 20, 40_000, 0));
}

#[test]
fn a_quota_of_32_mib_holds_for_shards_of_4_kib() {
    simulate(cycle(32 << 20, 4 << 10, 0));
}

#[test]
fn a_quota_of_34_mib_holds_for_shards_of_500_bytes() {
    simulate(cycle(34 << 20, 500, 0));
}

#[test]
fn a_quota_of_40_mib_holds_with_cached_shards_besides() {
    simulate(cycle(40 << 20, 256 << 10, 1 << 30));
}

#[test]
fn too_small_a_quota_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let (store, _) = open(disk, options(32 << 20), &clock).await;
        let error = store.set_quota(31 << 20).unwrap_err();
        assert!(matches!(error, StoreError::QuotaTooSmall { .. }));
        let expires = START_MS + HOUR_MS;
        assert!(store.put(shard(1, 10), claim(1), expires).await.unwrap());
    });
}
