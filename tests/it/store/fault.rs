//! Failing disks, full disks, and what a start reads.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::worker::{Next, Worker};
use cairnfs::base::{Class, Classify, Clock, IndexSet, Pools};
use cairnfs::store::mem_disk::{Crash, DiskOp};
use cairnfs::store::{Disk, MemDisk, Store, StoreError, StoreOptions};

use super::support::{HOUR_MS, START_MS, block_of, claim, open, options, shard, simulate};

const QUOTA: u64 = 64 << 20;

/// Fails the next `op` on a file whose name contains `part`.
fn fail_next(disk: &MemDisk, op: DiskOp, part: &'static str, kind: ErrorKind) {
    let mut armed = true;
    disk.set_hook(Some(Box::new(move |found, name| {
        let hit = armed && found == op && name.contains(part);
        armed &= !hit;
        hit.then_some(kind)
    })));
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_taken_and_all_is_there() {
    for op in [DiskOp::Write, DiskOp::Sync] {
        simulate(async {
            let clock = Clock::simulated(START_MS);
            let disk = MemDisk::new(1 << 30);
            let (store, _) = open(Arc::new(disk.clone()), options(QUOTA), &clock).await;
            let (good, bad) = (shard(1, 5000), shard(2, 5000));
            store.put(good.clone(), claim(1), u64::MAX).await.unwrap();
            fail_next(&disk, op, "segment", ErrorKind::Other);
            let error = store
                .put(bad.clone(), claim(1), u64::MAX)
                .await
                .unwrap_err();
            assert_eq!(error.class(), Class::Closed, "{error}");
            assert!(store.usage().poisoned);
            // Later writes are refused although the disk is well again; reads go on.
            let error = store
                .put(bad.clone(), claim(1), u64::MAX)
                .await
                .unwrap_err();
            assert!(matches!(error, StoreError::Poisoned(_)));
            assert!(
                store
                    .kv_put(vec![("s".into(), vec![1], None)])
                    .await
                    .is_err()
            );
            assert!(
                store
                    .get(block_of(&good), IndexSet::one(0))
                    .await
                    .unwrap()
                    .is_some()
            );
            assert!(
                store
                    .get(block_of(&bad), IndexSet::one(0))
                    .await
                    .unwrap()
                    .is_none()
            );
            assert!(store.close().await.is_err());
            let image = disk.crash_image(&Crash::LoseAll);
            let (store, _) = open(Arc::new(image), options(QUOTA), &clock).await;
            assert!(
                store
                    .get(block_of(&good), IndexSet::one(0))
                    .await
                    .unwrap()
                    .is_some()
            );
            assert!(store.put(bad, claim(1), u64::MAX).await.unwrap());
        });
    }
}

#[test]
fn a_full_disk_is_full_and_not_broken() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(QUOTA), &clock).await;
        store
            .put(shard(1, 300_000), claim(1), u64::MAX)
            .await
            .unwrap();
        // Without warning, as when another program takes the rest.
        fail_next(&disk, DiskOp::Write, "segment", ErrorKind::StorageFull);
        let (a, b) = (shard(2, 5000), shard(3, 5000));
        let (put, released) = tokio::join!(
            store.put(a.clone(), claim(2), u64::MAX),
            store.release_claim(claim(1)),
        );
        assert_eq!(put.unwrap_err().class(), Class::Full);
        assert!(released.unwrap());
        assert!(!store.usage().poisoned);
        assert!(store.held(&[block_of(&shard(1, 300_000))]).await.unwrap()[0].is_empty());
        assert!(store.put(b.clone(), claim(2), u64::MAX).await.unwrap());
        // Known beforehand: refused before anything is written.
        store.flush_index().await.unwrap();
        disk.set_capacity(2 << 20);
        store
            .kv_put(vec![("s".into(), vec![1], Some(Bytes::new()))])
            .await
            .ok();
        let error = store.put(a.clone(), claim(2), u64::MAX).await.unwrap_err();
        assert_eq!(error, StoreError::Full { free_bytes: 0 });
        // Held already: a claim is all it needs, but the reserve of the disk is gone too.
        disk.set_capacity(1 << 30);
        let (mut compaction, _) = store.workers();
        while compaction.step().await == Next::Again {}
        store.release_claim(claim(9)).await.unwrap();
        store
            .kv_put(vec![("s".into(), vec![2], None)])
            .await
            .unwrap();
        store.flush_index().await.unwrap();
        let image = disk.crash_image(&Crash::LoseAll);
        let (store, report) = open(Arc::new(image), options(QUOTA), &clock).await;
        assert_eq!(report.damaged_regions, 0);
        assert!(
            store
                .get(block_of(&b), IndexSet::one(0))
                .await
                .unwrap()
                .is_some()
        );
        assert!(store.put(a, claim(2), u64::MAX).await.unwrap());
    });
}

#[test]
fn letting_go_survives_a_disk_that_is_full_in_the_middle_of_it() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let small = || StoreOptions {
            segment_bytes: Some(256 << 10),
            ..options(QUOTA)
        };
        let (store, _) = open(Arc::new(disk.clone()), small(), &clock).await;
        let samples: Vec<_> = (0..3000).map(|n| shard(n, 20)).collect();
        let puts = samples
            .iter()
            .map(|s| store.put(s.clone(), claim(1), u64::MAX));
        assert!(
            futures::future::join_all(puts)
                .await
                .iter()
                .all(Result::is_ok)
        );
        store
            .put(shard(9999, 20), claim(2), u64::MAX)
            .await
            .unwrap();
        disk.set_hook(Some(Box::new(|op, name| {
            let begins = op == DiskOp::Name && name.contains("segment");
            begins.then_some(ErrorKind::StorageFull)
        })));
        // As much as fits is let go; the rest when there is room again.
        let first = store.release_claim(claim(1)).await;
        assert!(first.is_ok() || first.unwrap_err().class() == Class::Full);
        assert!(!store.usage().poisoned);
        disk.set_hook(None);
        store.release_claim(claim(1)).await.unwrap();
        {
            store.flush_index().await.unwrap();
            assert_eq!(store.usage().shards, 1);
            let blocks: Vec<_> = samples.iter().map(block_of).collect();
            for blocks in blocks.chunks(1000) {
                let held = store.held(blocks).await.unwrap();
                assert!(held.iter().all(|set| set.is_empty()));
            }
        }
        let image = disk.crash_image(&Crash::LoseAll);
        image.remove("store/index.redb").unwrap();
        let (store, report) = open(Arc::new(image), small(), &clock).await;
        store.flush_index().await.unwrap();
        assert_eq!((report.damaged_regions, store.usage().shards), (0, 1));
    });
}

#[test]
fn an_index_without_room_waits_and_space_still_comes_back() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let small = || StoreOptions {
            segment_bytes: Some(128 << 10),
            flush_rows: 20,
            ..options(QUOTA)
        };
        let (store, _) = open(Arc::new(disk.clone()), small(), &clock).await;
        for n in 0..100 {
            let put = store.put(shard(n, 5000), claim(n / 50), u64::MAX);
            put.await.unwrap();
        }
        let walked = disk.walk(&|_| false).unwrap();
        let used: u64 = walked.iter().map(|entry| entry.allocated).sum();
        disk.set_capacity(used + (100 << 10));
        let before = store.usage().allocated;
        assert!(store.release_claim(claim(0)).await.unwrap());
        let (mut compaction, _) = store.workers();
        while compaction.step().await == Next::Again {}
        assert!(store.usage().allocated + (100 << 10) < before);
        assert!(!store.usage().poisoned);
        let crashed = disk.crash_image(&Crash::LoseAll);
        crashed.set_capacity(1 << 30);
        disk.set_capacity(1 << 30);
        store.close().await.unwrap();
        for disk in [crashed, disk] {
            let (store, _) = open(Arc::new(disk), small(), &clock).await;
            store.flush_index().await.unwrap();
            assert_eq!(store.usage().shards, 50);
            for n in 0..100 {
                let got = store.get(block_of(&shard(n, 5000)), IndexSet::one(0)).await;
                assert_eq!(got.unwrap().is_some(), n >= 50);
            }
        }
    });
}

#[test]
fn a_read_error_is_not_taken_for_damage() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(QUOTA), &clock).await;
        let sample = shard(1, 5000);
        store.put(sample.clone(), claim(1), u64::MAX).await.unwrap();
        fail_next(&disk, DiskOp::Read, "segment", ErrorKind::Other);
        let error = store
            .get(block_of(&sample), IndexSet::one(0))
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Retry);
        let again = store
            .get(block_of(&sample), IndexSet::one(0))
            .await
            .unwrap();
        assert_eq!(again.unwrap().0, sample);
    });
}

#[test]
fn a_start_reads_no_segments_and_after_a_crash_only_their_tail() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let small_tail = || StoreOptions {
            flush_tail_bytes: 1 << 20,
            ..options(QUOTA)
        };
        let (store, _) = open(Arc::new(disk.clone()), small_tail(), &clock).await;
        for n in 0..800 {
            store
                .put(shard(n, 20_000), claim(1), u64::MAX)
                .await
                .unwrap();
        }
        let crashed = disk.crash_image(&Crash::LoseAll);
        store.close().await.unwrap();
        let closed = disk.crash_image(&Crash::LoseAll);
        let (store, report) = open(Arc::new(closed.clone()), small_tail(), &clock).await;
        assert_eq!((report.shards, report.replayed_records), (800, 0));
        assert!(
            store
                .get(block_of(&shard(3, 20_000)), IndexSet::one(0))
                .await
                .unwrap()
                .is_some()
        );
        let read = closed.bytes_read("store/segment");
        assert!(read < 50_000, "a clean start read {read}");
        let (_, report) = open(Arc::new(crashed.clone()), small_tail(), &clock).await;
        assert_eq!(report.shards, 800);
        assert!(report.replayed_records > 0 && report.replayed_bytes <= (1 << 20) + 50_000);
        let read = crashed.bytes_read("store/segment");
        assert!(read < 3 << 20, "a start after a crash read {read}");
    });
}

#[test]
fn expired_claims_let_go_and_renewed_or_closed_ones_do_not() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk), options(QUOTA), &clock).await;
        let in_an_hour = START_MS + HOUR_MS;
        for n in 0..4 {
            store
                .put(shard(n, 100), claim(n), in_an_hour)
                .await
                .unwrap();
        }
        store.close_claim(claim(1)).await.unwrap();
        store
            .claim(
                claim(2),
                in_an_hour + HOUR_MS,
                vec![block_of(&shard(2, 100))],
            )
            .await
            .unwrap();
        store
            .claim(claim(1), in_an_hour, vec![block_of(&shard(3, 100))])
            .await
            .unwrap();
        tokio::time::advance(Duration::from_millis(HOUR_MS)).await;
        let gone = store
            .put(shard(9, 100), claim(0), u64::MAX)
            .await
            .unwrap_err();
        assert_eq!(gone, StoreError::ClaimGone);
        assert_eq!(
            store.close_claim(claim(0)).await,
            Err(StoreError::ClaimGone)
        );
        let (_, mut expiry) = store.workers();
        while expiry.step().await == Next::Again {}
        let blocks: Vec<_> = (0..4).map(|n| block_of(&shard(n, 100))).collect();
        let held = store.held(&blocks).await.unwrap();
        let held: Vec<bool> = held.iter().map(|set| !set.is_empty()).collect();
        assert_eq!(held, [false, true, true, true]);
        assert_eq!(store.release_claim(claim(0)).await, Ok(true));
        assert_eq!(store.release_claim(claim(77)).await, Ok(false));
    });
}

#[test]
fn oversized_requests_are_refused_and_dropped_ones_do_no_harm() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk), options(QUOTA), &clock).await;
        let many = vec![block_of(&shard(1, 10)); 1025];
        assert_eq!(store.held(&many).await.unwrap_err().class(), Class::Denied);
        let big = Some(Bytes::from(vec![0; 20 << 10]));
        let error = store
            .kv_put(vec![("s".into(), vec![1], big)])
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Denied);
        for n in 0..100 {
            let put = store.put(shard(n, 1000), claim(1), u64::MAX);
            tokio::select! { biased; () = std::future::ready(()) => {}, _ = put => {} }
        }
        assert!(store.put(shard(5, 1000), claim(1), u64::MAX).await.is_ok());
        assert_eq!(store.usage().reserved, 0);
        let other = store.clone();
        store.close().await.unwrap();
        assert_eq!(other.flush_index().await, Err(StoreError::Closed));
        assert_eq!(other.held(&[]).await, Err(StoreError::Closed));
    });
}

#[test]
fn many_threads_share_commits_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let disk: Arc<dyn Disk> = Arc::new(cairnfs::store::RealDisk::open(dir.path()).unwrap());
        let pools = Pools::threaded(2, 4);
        let opened = Store::open(disk, options(QUOTA), pools, Clock::system()).await;
        let (store, _) = opened.unwrap();
        let tasks: Vec<_> = (0..8u64)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..20 {
                        let sample = shard(task * 100 + n, 3000);
                        assert!(
                            store
                                .put(sample.clone(), claim(task), u64::MAX)
                                .await
                                .unwrap()
                        );
                        let got = store
                            .get(block_of(&sample), IndexSet::one(0))
                            .await
                            .unwrap();
                        assert_eq!(got.unwrap().0, sample);
                        if n % 7 == 6 {
                            store.flush_index().await.unwrap();
                        }
                    }
                    if task % 2 == 0 {
                        assert!(store.release_claim(claim(task)).await.unwrap());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.usage().shards, 80);
        store.close().await.unwrap();
    });
}

#[test]
fn a_closed_store_has_let_go_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let volume = cairnfs::base::VolumeId([1; 16]);
        for round in 0..60 {
            let opened = cairnfs::store::RealDisk::open(dir.path());
            let disk: Arc<dyn Disk> = Arc::new(opened.unwrap_or_else(|e| panic!("{round}: {e}")));
            let pools = Pools::threaded(2, 4);
            let opened = Store::open(disk, options(QUOTA), pools, Clock::system()).await;
            let (store, _) = opened.unwrap();
            if round % 2 == 0 {
                let _ = store.create_volume(volume).await;
                let opened = store.open_volume(volume, Default::default()).await;
                opened.unwrap().0.close().await.unwrap();
            }
            store.close().await.unwrap();
        }
    });
}
