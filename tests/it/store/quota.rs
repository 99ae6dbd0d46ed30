//! The quota on a real file system: counted after every step, by walking the directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

impl<'a> Watch<'a> {
    fn new(dir: &'a Path, quota: u64) -> Watch<'a> {
        Watch {
            dir,
            quota,
            peak: 0,
            index: 0,
        }
    }

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

/// What else there is in a directory whose store is filled.
#[derive(Default, Clone, Copy)]
struct Besides {
    ring_bytes: u64,
    trash: Duration,
}

async fn cycle(quota: u64, len: usize, besides: Besides) {
    let Besides { ring_bytes, trash } = besides;
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let clock = Clock::simulated(START_MS);
    let options = StoreOptions {
        ring_bytes,
        trash,
        ..options(quota)
    };
    let (store, _) = open(disk.clone(), options, &clock).await;
    let (mut compaction, _) = store.workers();
    let mut watch = Watch::new(dir.path(), quota);
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
        if !trash.is_zero() {
            // Only what was complete rests.
            assert!(store.close_claim(claim(number)).await.unwrap());
        }
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
    simulate(cycle(32 << 20, 256 << 10, Besides::default()));
}

#[test]
fn a_quota_of_40_mib_holds_for_shards_of_40_kb() {
    simulate(cycle(40 << 20, 40_000, Besides::default()));
}

#[test]
fn a_quota_of_32_mib_holds_for_shards_of_4_kib() {
    simulate(cycle(32 << 20, 4 << 10, Besides::default()));
}

#[test]
fn a_quota_of_34_mib_holds_for_shards_of_500_bytes() {
    simulate(cycle(34 << 20, 500, Besides::default()));
}

#[test]
fn a_quota_of_40_mib_holds_with_cached_shards_besides() {
    let besides = Besides {
        ring_bytes: 1 << 30,
        ..Besides::default()
    };
    simulate(cycle(40 << 20, 256 << 10, besides));
}

/// What is let go rests, and makes way for what comes.
#[test]
fn a_quota_of_48_mib_holds_with_trash_besides() {
    let besides = Besides {
        trash: Duration::from_secs(7 * 24 * 3600),
        ..Besides::default()
    };
    simulate(cycle(48 << 20, 100_000, besides));
}

/// Logs grow between two counts, as fast as they may; nobody asks the store before they do.
#[test]
fn a_quota_holds_while_logs_grow() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("log");
    std::fs::create_dir(&logs).unwrap();
    std::fs::write(logs.join("cairn.log"), b"it begins\n").unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let quota = 32 << 20;
    let mut watch = Watch::new(dir.path(), quota);
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let (store, _) = open(disk, options(quota), &clock).await;
        fill(&store, &mut watch, 0, 64 << 10).await;
        for name in ["cairn.log", "cairn.log.1", "cairn.log.2"] {
            std::fs::write(logs.join(name), vec![b'x'; 1 << 20]).unwrap();
            watch.check("logs that grew");
        }
        let used = useless_cleanup(&store, &mut watch, 4000).await;
        assert!(used > 100, "{used}");
        // Once they are counted, nothing more is set aside for them.
        store.flush_index().await.unwrap();
        let usage = store.usage();
        assert_eq!(usage.allocated, occupied(dir.path()));
        assert_eq!(store.usage().intake_left, 0);
        for number in 0..100 {
            assert!(store.release_claim(claim(number)).await.is_ok());
            watch.check("a release");
        }
    });
}

/// Small records of the kind that gives room back in the end, and here does not. How many were taken.
async fn useless_cleanup(store: &Store, watch: &mut Watch<'_>, count: u32) -> u32 {
    let mut taken = 0;
    for number in 0..count {
        let key = number.to_be_bytes().to_vec();
        let record = ("useless".to_owned(), key, Some(Bytes::from(vec![7; 3000])));
        match store.kv_free(vec![record]).await {
            Ok(()) => taken += 1,
            Err(StoreError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if number % 16 == 0 {
            watch.check("a record of clean-up");
        }
    }
    taken
}

/// Whatever clean-up there is, and if it frees nothing, it stays within the quota; and what lets go still works.
#[test]
fn a_quota_holds_when_clean_up_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let quota = 32 << 20;
    let mut watch = Watch::new(dir.path(), quota);
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let (store, _) = open(disk.clone(), options(quota), &clock).await;
        let shared = shard(1 << 50, 30_000);
        // All keep one shard: their end frees nothing but their own records.
        let claims = 3000 * u64::from(super::support::scale()).min(10);
        let mut number = 0;
        for _ in 0..claims {
            number += 1;
            let kept = claim((1 << 41) + number);
            match store.put(shared.clone(), kept, u64::MAX).await {
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        fill(&store, &mut watch, 0, 128 << 10).await;
        let taken = useless_cleanup(&store, &mut watch, 3000).await;
        assert!(taken > 50 && taken < 3000, "{taken}");
        let (mut closed, mut released) = (0, 0);
        for number in 1..=number {
            let kept = claim((1 << 41) + number);
            closed += u64::from(store.close_claim(kept).await.is_ok());
            if number % 2 == 0 {
                released += u64::from(store.release_claim(kept).await.is_ok());
            }
            if number % 16 == 0 {
                watch.check("the end of a claim");
            }
        }
        println!(
            "{taken} records, {closed} closed, {released} released; peak {}",
            watch.peak
        );
        assert!(released > 0);
        // What really frees works all the same, also after a restart.
        let before = store.usage().shards;
        for number in 8..12 {
            assert!(store.release_claim(claim(number)).await.unwrap());
            watch.check("a release");
        }
        assert!(store.usage().shards < before, "{:?}", store.usage());
        store.flush_index().await.unwrap();
        watch.check("a flush");
        store.close().await.unwrap();
        watch.check("closing");
        let (store, _) = open(disk, options(quota), &clock).await;
        let before = store.usage().shards;
        for number in 0..8 {
            assert!(store.release_claim(claim(number)).await.unwrap());
            watch.check("a release");
        }
        let (mut compaction, _) = store.workers();
        compact(&mut compaction, &mut watch).await;
        assert!(store.usage().shards + 100 < before, "{:?}", store.usage());
        assert!(store.usage().intake_left > 8 << 20, "{:?}", store.usage());
    });
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

/// What others are to find free stays free, whatever the store does.
#[cfg(feature = "testkit")]
#[test]
fn what_is_reserved_of_the_disk_stays_free() {
    use cairnfs::store::MemDisk;

    const MIB: u64 = 1 << 20;
    const RESERVE: u64 = 40 * MIB;
    let disk = MemDisk::new(100 * MIB);
    let free = disk.clone();
    let check = |what: &str| {
        let free = cairnfs::store::Disk::free_bytes(&free).unwrap();
        assert!(free >= RESERVE, "{free} free after {what}");
    };
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let options = StoreOptions {
            reserve_free_bytes: RESERVE,
            // Less than that is free: the disk is what counts.
            ..options(128 * MIB)
        };
        let (store, _) = open(Arc::new(disk), options, &clock).await;
        let len = 100_000;
        for round in 0..3u64 {
            let first = round << 32;
            let mut seed = first;
            while let Ok(is_new) = store.put(shard(seed, len), claim(seed / 4), u64::MAX).await {
                assert!(is_new);
                check("a put");
                seed += 1;
            }
            let held = store.usage().shard_bytes;
            println!("{held} bytes held in round {round}");
            assert!(held > 10 * MIB, "only {held} held");
            // More than there is room for above the reserve.
            for number in 0..750u32 {
                let key = number.to_be_bytes().to_vec();
                let record = (
                    "useless".to_owned(),
                    key,
                    Some(Bytes::from(vec![7; 16_000])),
                );
                let taken = store.kv_free(vec![record]).await;
                let is_full = matches!(taken, Err(StoreError::Full { .. }));
                assert!(taken.is_ok() || is_full, "{taken:?}");
                check("a record of clean-up");
            }
            // What is left lies between what goes: moving it takes room before it gives some.
            for number in (first / 4..seed / 4).filter(|number| number % 4 != 0) {
                assert!(store.release_claim(claim(number)).await.unwrap());
                check("a release");
            }
            let (mut compaction, _) = store.workers();
            for _ in 0..400 {
                let next = compaction.step().await;
                check("a step of compaction");
                if matches!(next, Next::Idle(rest) if rest.as_secs() > 5) {
                    break;
                }
            }
            store.flush_index().await.unwrap();
            check("a flush");
        }
    });
}
