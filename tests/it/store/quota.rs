//! The quota on a real file system: counted after every step, by walking the directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cairnfs::base::worker::{Next, Worker};
use cairnfs::base::{Clock, IndexSet};
use cairnfs::store::{Compaction, RealDisk, Store, StoreError};

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
const PER_CLAIM: u64 = 16;

/// Fills the store, many puts at once. How many shards it took.
async fn fill(store: &Store, watch: &mut Watch<'_>, first: u64, len: usize) -> u64 {
    let at_once = (PER_CLAIM << 15) / len.max(1 << 10) as u64;
    let mut seed = first;
    loop {
        let put = |seed| store.put(shard(seed, len), claim(seed / PER_CLAIM), u64::MAX);
        let puts = (seed..seed + at_once.clamp(4, 256)).map(put);
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
                    assert!(left < 2 * len as u64 + 8192, "{left} left");
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

async fn cycle(quota: u64, len: usize) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let clock = Clock::simulated(START_MS);
    let (store, _) = open(disk.clone(), options(quota), &clock).await;
    let (mut compaction, _) = store.workers();
    let mut watch = Watch {
        dir: dir.path(),
        quota,
        peak: 0,
        index: 0,
    };
    let took = fill(&store, &mut watch, 0, len).await;
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
    let claims = took.div_ceil(PER_CLAIM);
    for number in (0..claims).filter(|number| number % 4 != 0) {
        assert!(store.release_claim(claim(number)).await.unwrap());
        watch.check("a release");
    }
    compact(&mut compaction, &mut watch).await;
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
    for number in (0..again.div_ceil(PER_CLAIM)).map(|n| ((1 << 32) / PER_CLAIM) + n) {
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
    simulate(cycle(32 << 20, 256 << 10));
}

#[test]
fn a_quota_of_64_mib_holds_for_shards_of_40_kb() {
    simulate(cycle(64 << 20, 40_000));
}

#[test]
fn a_quota_of_32_mib_holds_for_shards_of_1_kib() {
    simulate(cycle(32 << 20, 1 << 10));
}

#[test]
fn a_quota_of_34_mib_holds_for_shards_of_100_bytes() {
    simulate(cycle(34 << 20, 100));
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
