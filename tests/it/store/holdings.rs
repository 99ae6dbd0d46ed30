//! What a store tells of what it holds is what it holds: after any operations, crashes, and without its index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairnfs::base::{BlockId, Clock, EcProfile, Entropy, Group, IndexSet, ShardId};
use cairnfs::erasure::VerifiedShard;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Digest, Disk, Holding, Keeper, MemDisk, Store, StoreError};

use super::support::{HOUR_MS, START_MS, claim, open, options, simulate, stripe};

const EXPIRES: u64 = START_MS + HOUR_MS;

async fn all(store: &Store) -> Vec<Holding> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let (page, next) = store.holdings(None, after, 7).await.unwrap();
        all.extend(page);
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

/// Digests, lists and single answers agree.
async fn check(store: &Store, expected: &BTreeMap<BlockId, IndexSet>) {
    let all = all(store).await;
    let held: BTreeMap<BlockId, IndexSet> = all
        .iter()
        .filter(|holding| !holding.held.is_empty())
        .map(|holding| (holding.block, holding.held))
        .collect();
    assert_eq!(&held, expected);
    let mut whole = Digest::EMPTY;
    let mut groups: BTreeMap<Group, Digest> = BTreeMap::new();
    for (block, held) in &held {
        for index in held.iter() {
            whole.toggle(block, index);
            groups
                .entry(block.group())
                .or_default()
                .toggle(block, index);
        }
    }
    let count: usize = held.values().map(|held| held.len()).sum();
    assert_eq!(store.digest(), (whole, count as u64));
    let names: Vec<Group> = groups.keys().copied().chain([Group(1)]).collect();
    let digests = store.group_digests(names.clone()).await.unwrap();
    for (group, digest) in names.into_iter().zip(digests) {
        assert_eq!(digest, groups.get(&group).copied().unwrap_or_default());
        let (page, next) = store.holdings(Some(group), None, 1000).await.unwrap();
        let of_group = all.iter().filter(|holding| holding.block.group() == group);
        assert_eq!(page, of_group.copied().collect::<Vec<_>>());
        assert_eq!(next, None);
    }
    for holding in all.iter().filter(|holding| !holding.held.is_empty()) {
        assert_eq!(holding.profile, Some(EcProfile::try_from((2, 1)).unwrap()));
        assert_eq!(holding.shard_bytes, 50);
    }
}

#[test]
fn digests_follow_every_operation_crash_and_rebuild() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let entropy = Entropy::seeded(3);
        let stripes: Vec<Vec<VerifiedShard>> = (0..12).map(|n| stripe(n, 50, (2, 1))).collect();
        let mut disk = MemDisk::new(1 << 30);
        let (mut store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
        let mut held: BTreeMap<BlockId, IndexSet> = BTreeMap::new();
        let mut claims: BTreeMap<u64, BTreeSet<BlockId>> = BTreeMap::new();
        let mut number = 0;
        for step in 0..300 {
            let shard = &stripes[entropy.below(12) as usize][entropy.below(3) as usize];
            let ShardId { block, index } = shard.id();
            match entropy.below(10) {
                0..5 => {
                    // Few claims, so that each has several blocks.
                    if entropy.below(3) == 0 {
                        number += 1;
                    }
                    store
                        .put(shard.clone(), claim(number), EXPIRES)
                        .await
                        .unwrap();
                    held.entry(block).or_default().insert(index);
                    claims.entry(number).or_default().insert(block);
                }
                5 => {
                    let was = held.get(&block).is_some_and(|held| held.contains(index));
                    assert_eq!(store.give_up(shard.id()).await.unwrap(), was);
                    if let Some(held) = held.get_mut(&block) {
                        held.remove(index);
                    }
                }
                6 | 7 => {
                    let oldest = claims.keys().next().copied();
                    if let Some(oldest) = oldest.filter(|oldest| *oldest < number) {
                        store.release_claim(claim(oldest)).await.unwrap();
                        claims.remove(&oldest);
                        held.retain(|block, _| claims.values().any(|of| of.contains(block)));
                    }
                }
                8 => store.flush_index().await.unwrap(),
                _ => {
                    disk = disk.crash_image(&Crash::LoseAll);
                    drop(store);
                    if entropy.below(2) == 0 {
                        // It may not have been durable.
                        let _ = disk.remove("store/index.redb");
                    }
                    (store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
                }
            }
            held.retain(|_, held| !held.is_empty());
            if step % 10 == 0 {
                check(&store, &held).await;
            }
        }
        check(&store, &held).await;
    });
}

#[test]
fn the_claims_of_a_block_are_told_and_travel_with_its_shards() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let shards = stripe(1, 50, (2, 1));
        let block = shards[0].id().block;
        let disk = || Arc::new(MemDisk::new(1 << 30));
        let (from, _) = open(disk(), options(64 << 20), &clock).await;
        let (to, _) = open(disk(), options(64 << 20), &clock).await;
        // More than a row names, of which the first ones end.
        for number in 0..20 {
            from.put(shards[0].clone(), claim(number), EXPIRES)
                .await
                .unwrap();
            from.close_claim(claim(number)).await.unwrap();
        }
        let open_one = claim(20);
        from.claim(open_one, EXPIRES, vec![block]).await.unwrap();
        for number in 0..16 {
            from.release_claim(claim(number)).await.unwrap();
        }
        let keepers = from.keepers(vec![block, BlockId([1; 32])]).await.unwrap();
        let mut numbers: Vec<u64> = keepers[0].iter().map(|k| k.claim.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [16, 17, 18, 19, 20]);
        assert!(keepers[1].is_empty());
        // One of them is known there as given up.
        to.put(stripe(2, 50, (2, 1))[0].clone(), claim(17), EXPIRES)
            .await
            .unwrap();
        to.release_claim(claim(17)).await.unwrap();
        assert!(to.restore(shards[2].clone(), &keepers[0]).await.unwrap());
        assert!(!to.restore(shards[2].clone(), &keepers[0]).await.unwrap());
        let mut there = to.keepers(vec![block]).await.unwrap().remove(0);
        there.sort_by_key(|keeper| keeper.claim.number);
        let closed: Vec<(u64, bool)> = there
            .iter()
            .map(|keeper| (keeper.claim.number, keeper.is_closed))
            .collect();
        assert_eq!(closed, [(16, true), (18, true), (19, true), (20, false)]);
        // When all end, it goes.
        for number in [16, 18, 19, 20] {
            to.release_claim(claim(number)).await.unwrap();
        }
        to.flush_index().await.unwrap();
        assert_eq!(to.held(&[block]).await.unwrap(), [IndexSet::EMPTY]);
        let gone = to.restore(shards[2].clone(), &keepers[0]).await;
        assert_eq!(gone, Err(StoreError::ClaimGone));
        let nobody: &[Keeper] = &[];
        let gone = to.restore(shards[2].clone(), nobody).await;
        assert_eq!(gone, Err(StoreError::ClaimGone));
    });
}

/// All claims on a block, by pages of so many.
async fn paged(store: &Store, block: BlockId, limit: usize) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    let mut from = 0;
    loop {
        let (page, next) = store.keepers_from(block, from, limit).await.unwrap();
        assert!(page.len() <= limit);
        all.extend(page.iter().map(|k| (k.claim.number, k.is_closed)));
        match next {
            Some(next) => {
                assert!(next > from);
                from = next;
            }
            None => {
                all.sort_unstable();
                return all;
            }
        }
    }
}

#[test]
fn a_block_with_many_claims_is_kept_by_each_of_them_and_all_are_told() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let shards = stripe(1, 50, (2, 1));
        let block = shards[0].id().block;
        let mut disk = MemDisk::new(1 << 30);
        let (mut from, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
        // What others keep is not told.
        let other = stripe(2, 50, (2, 1));
        for number in 0..70 {
            let shard = if number % 7 == 3 {
                &other[0]
            } else {
                &shards[0]
            };
            from.put(shard.clone(), claim(number), EXPIRES)
                .await
                .unwrap();
            if number >= 30 {
                from.close_claim(claim(number)).await.unwrap();
            }
            if number == 50 {
                from.flush_index().await.unwrap();
            }
        }
        let (page, _) = from.holdings(None, None, 10).await.unwrap();
        assert!(page.iter().all(|of| of.is_kept), "the first are open");
        let mut expected: Vec<(u64, bool)> = (0..70)
            .filter(|number| number % 7 != 3)
            .map(|number| (number, number >= 30))
            .collect();
        for step in 0..4 {
            for limit in [1, 7, 1000] {
                assert_eq!(paged(&from, block, limit).await, expected, "step {step}");
            }
            match step {
                0 => {
                    for number in (0..70).filter(|number| number % 3 != 0) {
                        from.release_claim(claim(number)).await.unwrap();
                    }
                    expected.retain(|(number, _)| number % 3 == 0);
                }
                1 => from.flush_index().await.unwrap(),
                _ => {
                    disk = disk.crash_image(&Crash::LoseAll);
                    drop(from);
                    if step == 2 {
                        disk.remove("store/index.redb").unwrap();
                    }
                    (from, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
                }
            }
        }
        // They go with a shard; the last one lets go.
        let (to, _) = open(Arc::new(MemDisk::new(1 << 30)), options(64 << 20), &clock).await;
        let (keepers, _) = from.keepers_from(block, 0, 1000).await.unwrap();
        assert!(to.restore(shards[2].clone(), &keepers).await.unwrap());
        assert_eq!(paged(&to, block, 5).await, expected);
        for (number, _) in &expected[1..] {
            to.release_claim(claim(*number)).await.unwrap();
            let held = to.held(&[block]).await.unwrap();
            assert_eq!(held, [IndexSet::one(2)], "{number}");
        }
        to.release_claim(claim(expected[0].0)).await.unwrap();
        to.flush_index().await.unwrap();
        assert_eq!(to.held(&[block]).await.unwrap(), [IndexSet::EMPTY]);
    });
}

#[test]
fn a_claim_that_was_released_before_it_was_known_is_of_no_use() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let mut disk = MemDisk::new(1 << 30);
        let (mut store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
        let shards = stripe(1, 50, (2, 1));
        assert!(!store.release_claim(claim(1)).await.unwrap());
        // Told again.
        store.release_claim(claim(1)).await.unwrap();
        let keeper = Keeper {
            claim: claim(1),
            is_closed: true,
            expires_ms: EXPIRES,
        };
        for is_reopened in [false, true] {
            if is_reopened {
                disk = disk.crash_image(&Crash::LoseAll);
                drop(store);
                (store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
            }
            let put = store.put(shards[0].clone(), claim(1), EXPIRES).await;
            assert_eq!(put, Err(StoreError::ClaimGone));
            let restored = store.restore(shards[0].clone(), &[keeper]).await;
            assert_eq!(restored, Err(StoreError::ClaimGone));
        }
    });
}

#[test]
fn a_damaged_shard_is_taken_out_and_its_block_stays_claimed() {
    simulate(async {
        let clock = Clock::simulated(START_MS);
        let disk = MemDisk::new(1 << 30);
        let (store, _) = open(Arc::new(disk.clone()), options(64 << 20), &clock).await;
        let shards = stripe(1, 50_000, (2, 1));
        for shard in &shards[..2] {
            store.put(shard.clone(), claim(1), EXPIRES).await.unwrap();
        }
        store.close_claim(claim(1)).await.unwrap();
        for shard in &shards[..2] {
            let examined = store.examine(shard.id()).await.unwrap();
            assert!(!examined.was_damaged && examined.bytes >= 50_000);
            assert!(!examined.is_unreadable);
        }
        // In the data of the first: it begins at the second page.
        assert!(disk.flip_bit("store/segment-00000001", 10_000, 2));
        let (ids, next) = store.shards_after(None, 10).await.unwrap();
        assert_eq!((ids.len(), next), (2, None));
        let mut damaged = Vec::new();
        for id in ids {
            if store.examine(id).await.unwrap().was_damaged {
                damaged.push(id);
            }
        }
        assert_eq!(damaged, [shards[0].id()]);
        let (page, _) = store.holdings(None, None, 10).await.unwrap();
        assert_eq!((page[0].held, page[0].is_kept), (IndexSet::one(1), true));
        // It can come back.
        let keepers = store.keepers(vec![shards[0].id().block]).await.unwrap();
        assert!(store.restore(shards[0].clone(), &keepers[0]).await.unwrap());
        let held = store.held(&[shards[0].id().block]).await.unwrap();
        assert_eq!(held, [IndexSet::first(2)]);
        assert!(!store.examine(shards[0].id()).await.unwrap().was_damaged);
    });
}
