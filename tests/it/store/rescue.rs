//! Compaction of a segment in which not everything can be read.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use cairnfs::base::worker::Worker;
use cairnfs::base::{Clock, IndexSet};
use cairnfs::erasure::VerifiedShard;
use cairnfs::store::mem_disk::DiskOp;
use cairnfs::store::{Disk, MemDisk, Store, StoreOptions};

use super::support::{START_MS, block_of, claim, open, options, shard, simulate};

const INDEX: &str = "store/index.redb";
const SEGMENT: &str = "store/segment-00000001";

fn tiny() -> StoreOptions {
    StoreOptions {
        segment_bytes: Some(256 << 10),
        ..options(64 << 20)
    }
}

/// A store whose first segment has some small records, one shard that counts, and much that does not.
async fn mostly_dead(disk: &MemDisk, clock: &Clock) -> (Store, VerifiedShard) {
    let (store, _) = open(Arc::new(disk.clone()), tiny(), clock).await;
    for number in 0..3u8 {
        let row = (
            "space".to_owned(),
            vec![number],
            Some(Bytes::from(vec![number; 100])),
        );
        store.kv_put(vec![row]).await.unwrap();
    }
    let kept = shard(1, 20_000);
    store.put(kept.clone(), claim(1), u64::MAX).await.unwrap();
    for n in 0..20 {
        let other = shard(100 + n, 30_000);
        store.put(other, claim(2), u64::MAX).await.unwrap();
    }
    store.release_claim(claim(2)).await.unwrap();
    (store, kept)
}

#[test]
fn small_records_survive_though_the_segment_that_had_them_is_damaged() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, kept) = mostly_dead(&disk, &clock).await;
        let file = disk.open(SEGMENT).unwrap();
        let bytes = file.read_vec(0, 4096).unwrap();
        let starts = bytes.windows(4).enumerate();
        let starts: Vec<usize> = starts
            .filter(|(_, four)| four == b"CrnR")
            .map(|(at, _)| at)
            .collect();
        // The second of the small records.
        assert!(disk.flip_bit(SEGMENT, starts[1] as u64 + 60, 1));
        let (mut compaction, _) = store.workers();
        for _ in 0..30 {
            compaction.step().await;
        }
        store.close().await.unwrap();
        assert!(disk.open(SEGMENT).is_err(), "the segment is still there");
        disk.remove(INDEX).unwrap();
        let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
        for number in 0..3u8 {
            let row = store.kv_get("space", &[number]).await.unwrap();
            assert_eq!(row, Some(Bytes::from(vec![number; 100])), "{number}");
        }
        let found = store.get(block_of(&kept), IndexSet::one(0)).await.unwrap();
        assert_eq!(found.unwrap().0, kept);
    });
}

#[test]
fn a_shard_that_cannot_be_read_once_is_not_let_go() {
    simulate(async {
        // Whichever of the reads of one step fails.
        for fails in 0..8 {
            let clock = Clock::simulated(START_MS);
            let disk = MemDisk::new(1 << 30);
            let (store, kept) = mostly_dead(&disk, &clock).await;
            let mut seen = 0;
            disk.set_hook(Some(Box::new(move |found, name| {
                if found != DiskOp::Read || !name.contains("segment-00000001") {
                    return None;
                }
                seen += 1;
                (seen == fails + 1).then_some(ErrorKind::Other)
            })));
            let (mut compaction, _) = store.workers();
            for _ in 0..60 {
                compaction.step().await;
            }
            disk.set_hook(None);
            assert!(
                disk.open(SEGMENT).is_err(),
                "read {fails}: it is still there"
            );
            let found = store.get(block_of(&kept), IndexSet::one(0)).await.unwrap();
            assert_eq!(found.map(|(shard, _)| shard), Some(kept), "read {fails}");
            assert_eq!(store.usage().damaged_shards, 0, "read {fails}");
        }
    });
}

/// Where the records of the first segment begin that are in its first pages.
fn records(disk: &MemDisk) -> Vec<u64> {
    let file = disk.open(SEGMENT).unwrap();
    let bytes = file.read_vec(0, 64 << 10).unwrap();
    let starts = bytes.windows(4).enumerate();
    let starts = starts.filter(|(_, four)| four == b"CrnR");
    starts.map(|(at, _)| at as u64).collect()
}

/// A store whose first segment has a shard that counts, what keeps it, and much that does not count.
async fn with_claims(disk: &MemDisk, clock: &Clock) -> (Store, VerifiedShard) {
    let (store, _) = open(Arc::new(disk.clone()), tiny(), clock).await;
    let kept = shard(1, 20_000);
    store.put(kept.clone(), claim(1), u64::MAX).await.unwrap();
    let also = vec![block_of(&kept)];
    store.claim(claim(3), u64::MAX, also).await.unwrap();
    store.close_claim(claim(3)).await.unwrap();
    for n in 0..20 {
        let other = shard(100 + n, 30_000);
        store.put(other, claim(2), u64::MAX).await.unwrap();
    }
    store.release_claim(claim(2)).await.unwrap();
    (store, kept)
}

async fn compacted(store: &Store, disk: &MemDisk) {
    let (mut compaction, _) = store.workers();
    for _ in 0..60 {
        compaction.step().await;
    }
    assert!(disk.open(SEGMENT).is_err(), "the segment is still there");
}

/// The shard is there, for both claims, and goes with the last of them.
async fn check_kept(store: &Store, kept: &VerifiedShard, what: &str) {
    let found = store.get(block_of(kept), IndexSet::one(0)).await.unwrap();
    assert_eq!(found.as_ref().map(|(shard, _)| shard), Some(kept), "{what}");
    let keepers = store.keepers(vec![block_of(kept)]).await.unwrap();
    let mut keepers: Vec<_> = keepers[0]
        .iter()
        .map(|keeper| (keeper.claim.number, keeper.is_closed))
        .collect();
    keepers.sort_unstable();
    assert_eq!(keepers, [(1, false), (3, true)], "{what}");
}

#[test]
fn what_the_index_knows_survives_though_the_records_that_said_it_are_damaged() {
    simulate(async {
        // The shard, another claim on it, and that this is for good.
        for which in 0..3 {
            let clock = Clock::simulated(START_MS);
            let disk = MemDisk::new(1 << 30);
            let (store, kept) = with_claims(&disk, &clock).await;
            // In the header: its sequence number.
            assert!(disk.flip_bit(SEGMENT, records(&disk)[which] + 10, 1));
            compacted(&store, &disk).await;
            check_kept(&store, &kept, &format!("record {which}")).await;
            store.close().await.unwrap();
            disk.remove(INDEX).unwrap();
            let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
            check_kept(&store, &kept, &format!("record {which}, from the log")).await;
            store.release_claim(claim(1)).await.unwrap();
            store.release_claim(claim(3)).await.unwrap();
            store.flush_index().await.unwrap();
            assert_eq!(store.usage().shards, 0);
        }
    });
}

#[test]
fn a_sector_that_cannot_be_read_does_not_keep_a_segment_for_ever() {
    simulate(async {
        for which in 0..3 {
            let clock = Clock::simulated(START_MS);
            let disk = MemDisk::new(1 << 30);
            let (store, kept) = with_claims(&disk, &clock).await;
            let at = records(&disk)[which];
            disk.break_range(SEGMENT, at..at + 48);
            compacted(&store, &disk).await;
            let found = store.get(block_of(&kept), IndexSet::one(0)).await.unwrap();
            // The shard is gone if it was its own record; what keeps the block is not.
            assert_eq!(found.is_some(), which > 0, "record {which}");
            let keepers = store.keepers(vec![block_of(&kept)]).await.unwrap();
            assert_eq!(keepers[0].len(), 2);
            store.close().await.unwrap();
            disk.remove(INDEX).unwrap();
            let (store, _) = open(Arc::new(disk), tiny(), &clock).await;
            let keepers = store.keepers(vec![block_of(&kept)]).await.unwrap();
            assert_eq!(keepers[0].len(), 2, "from the log");
        }
    });
}
