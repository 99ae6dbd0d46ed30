//! Parts of shards: read without the rest, and never wrong.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairnfs::base::worker::Worker;
use cairnfs::base::{BlockId, Class, Classify, Clock, Entropy};
use cairnfs::erasure::{Stripe, VerifiedShard};
use cairnfs::store::{FoundPart, MemDisk, Store, StoreError, StoreOptions};

use super::support::{START_MS, block_of, claim, open, options, shard, simulate, stripe};

const LEN: usize = 300_000;
const GROUP: usize = 16 << 10;

async fn find(
    store: &Store,
    block: BlockId,
    index: u8,
    range: Range<u32>,
) -> Result<Option<FoundPart>, StoreError> {
    let job = move |reader: &cairnfs::store::PartReader<'_>| reader.read(block, index, &range);
    store.read_parts(job).await
}

/// Reads a part of a shard that is there; its proof must hold for others too.
async fn check(store: &Store, shard: &VerifiedShard, range: Range<u32>) -> Result<(), StoreError> {
    let (block, index) = (block_of(shard), shard.id().index);
    let found = find(store, block, index, range.clone()).await?.unwrap();
    let part = found.part();
    let clamped = range.start..range.end.min(shard.data().len() as u32);
    let within = clamped.start as usize..clamped.end as usize;
    assert_eq!(part.get(&clamped).unwrap(), shard.data()[within]);
    let stripe = Stripe::new(block, shard.header().clone()).unwrap();
    let verified = stripe.verify(index, part.at(), part.data().clone(), &found.proof());
    assert_eq!(verified.as_ref(), Ok(part));
    Ok(())
}

#[test]
fn any_part_of_any_shard_is_found_with_its_proof() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(256 << 20), &clock).await;
        let mut shards = stripe(1, LEN, (2, 1));
        shards.extend([shard(2, 1), shard(3, GROUP), shard(4, GROUP + 1)]);
        for shard in &shards {
            store.put(shard.clone(), claim(1), u64::MAX).await.unwrap();
        }
        let entropy = Entropy::seeded(1);
        for shard in &shards {
            let len = shard.data().len() as u64;
            for _ in 0..40 {
                let (a, b) = (entropy.below(len) as u32, entropy.below(len) as u32);
                check(&store, shard, a.min(b)..a.max(b) + 1).await.unwrap();
            }
            check(&store, shard, 0..u32::MAX).await.unwrap();
            let (block, index) = (block_of(shard), shard.id().index);
            let end = len as u32;
            for nothing in [end..u32::MAX, 5..5, u32::MAX..u32::MAX] {
                assert!(find(&store, block, index, nothing).await.unwrap().is_none());
            }
            assert!(find(&store, block, 9, 0..1).await.unwrap().is_none());
        }
        let unknown = find(&store, BlockId([1; 32]), 0, 0..1).await.unwrap();
        assert!(unknown.is_none());
        // After the first time no more than the groups are read.
        let before = disk.bytes_read("store/segment");
        for group in 0..10u32 {
            check(&store, &shards[0], group * 20_000..group * 20_000 + 1)
                .await
                .unwrap();
        }
        assert_eq!(disk.bytes_read("store/segment") - before, 10 * GROUP as u64);
        store.close().await.unwrap();
    });
}

#[test]
fn damage_costs_the_groups_that_it_hits() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(256 << 20), &clock).await;
        let shard = shard(1, LEN);
        store.put(shard.clone(), claim(1), u64::MAX).await.unwrap();
        check(&store, &shard, 0..1).await.unwrap();
        // In the data, which begins at the second page of the segment.
        let at = 4096 + 5 * GROUP as u64 + 7;
        assert!(disk.flip_bit("store/segment-00000001", at, 3));
        let group = |group: usize| (group * GROUP) as u32..((group + 1) * GROUP) as u32;
        check(&store, &shard, group(4)).await.unwrap();
        check(&store, &shard, group(6)).await.unwrap();
        let error = check(&store, &shard, group(5)).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert_eq!(store.usage().damaged_shards, 1);
        // It counts as damaged as a whole from then on, and its place can be taken.
        let error = check(&store, &shard, group(4)).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert!(store.put(shard.clone(), claim(1), u64::MAX).await.unwrap());
        for number in 0..LEN / GROUP {
            check(&store, &shard, group(number)).await.unwrap();
        }
    });
}

#[test]
fn no_flipped_bit_gives_a_wrong_byte() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let entropy = Entropy::seeded(9);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(256 << 20), &clock).await;
        let shards: Vec<_> = (0..8).map(|seed| shard(seed, 70_000)).collect();
        for shard in &shards {
            store.put(shard.clone(), claim(1), u64::MAX).await.unwrap();
        }
        let mut refused = 0;
        for round in 0..400 {
            // Some of them known before, all of them read through damage.
            let shard = &shards[round % 8];
            let start = entropy.below(70_000) as u32;
            if round % 3 == 0 {
                let at = entropy.below(8 * 73_000);
                disk.flip_bit("store/segment-00000001", 4096 + at, entropy.below(8) as u8);
            }
            match check(&store, shard, start..start + 3000).await {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.class(), Class::Corrupt);
                    refused += 1;
                }
            }
        }
        assert!(refused > 20, "{refused}");
    });
}

#[test]
fn parts_are_found_where_compaction_moved_them() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let small = StoreOptions {
            segment_bytes: Some(1 << 20),
            ..options(64 << 20)
        };
        let (store, _) = open(Arc::new(disk), small, &clock).await;
        let shards: Vec<_> = (0..200).map(|seed| shard(seed, 30_000)).collect();
        for (number, shard) in shards.iter().enumerate() {
            let claim = claim(number as u64 % 4);
            store.put(shard.clone(), claim, u64::MAX).await.unwrap();
            check(&store, shard, 10_000..20_000).await.unwrap();
        }
        for number in 0..3 {
            store.release_claim(claim(number)).await.unwrap();
        }
        let (mut compaction, _) = store.workers();
        for _ in 0..100 {
            compaction.step().await;
        }
        assert!(store.usage().allocated < 3 << 20, "{:?}", store.usage());
        for (number, shard) in shards.iter().enumerate() {
            if number % 4 == 3 {
                check(&store, shard, 15_000..29_000).await.unwrap();
            } else {
                // What is not held any more may still be found for a moment, and is right then.
                let found = find(&store, block_of(shard), 0, 0..9).await.unwrap();
                let bytes = found.and_then(|found| found.part().get(&(0..9)));
                assert!(bytes.is_none_or(|bytes: Bytes| bytes == shard.data()[..9]));
            }
        }
        store.clone().close().await.unwrap();
        let closed = check(&store, &shards[3], 0..1).await;
        assert_eq!(closed, Err(StoreError::Closed));
    });
}
