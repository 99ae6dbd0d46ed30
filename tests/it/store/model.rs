//! Random operations and crashes against a map in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::worker::{Next, Worker};
use cairnfs::base::{BlockId, ClaimId, Class, Classify, Clock, Entropy, IndexSet, Pools};
use cairnfs::erasure::VerifiedShard;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Disk, MemDisk, Store, StoreError, StoreOptions};
use proptest::prelude::*;

use super::support::{HOUR_MS, START_MS, claim, open, options, scale, simulate, stripe};

const BLOCKS: u64 = 10;
const CLAIMS: u64 = 4;
const KEYS: u64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open(u64),
    Closed,
}

/// What the store should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    shards: BTreeMap<BlockId, IndexSet>,
    kept: BTreeSet<(ClaimId, BlockId)>,
    claims: BTreeMap<ClaimId, State>,
    kv: BTreeMap<Vec<u8>, Bytes>,
}

impl Model {
    fn touch(&mut self, id: ClaimId, expires_ms: u64) {
        let state = self.claims.entry(id).or_insert(State::Open(0));
        if let State::Open(until) = state {
            *until = (*until).max(expires_ms);
        }
    }

    fn release(&mut self, id: ClaimId) {
        self.claims.remove(&id);
        self.kept.retain(|(claim, _)| *claim != id);
        let kept: BTreeSet<BlockId> = self.kept.iter().map(|(_, block)| *block).collect();
        self.shards.retain(|block, _| kept.contains(block));
    }

    fn expire(&mut self, now_ms: u64) {
        let gone: Vec<ClaimId> = self
            .claims
            .iter()
            .filter(|(_, state)| matches!(state, State::Open(until) if *until <= now_ms))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.release(id));
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, u8, ClaimId, u64),
    Claim(ClaimId, u64, Vec<BlockId>),
    Close(ClaimId),
    Release(ClaimId),
    Kv(Vec<(Vec<u8>, Option<Bytes>)>),
    Expire,
    Flush,
    Compact(u64),
}

struct World {
    entropy: Entropy,
    clock: Clock,
    stripes: Vec<Vec<VerifiedShard>>,
    /// The present number of each claim: one that was released is never used again.
    numbers: Vec<u64>,
    next_number: u64,
    /// Whether answers are compared. Not while an interrupted operation is tried again.
    strict: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let sizes = [100, 900, 5_000, 33_000, 40_000];
        let stripes = (0..BLOCKS)
            .map(|block| stripe(block + 1, sizes[block as usize % sizes.len()], (2, 1)))
            .collect();
        World {
            entropy,
            clock: Clock::simulated(START_MS),
            stripes,
            numbers: (0..CLAIMS).collect(),
            next_number: CLAIMS,
            strict: true,
        }
    }

    fn any_claim(&self) -> ClaimId {
        claim(self.numbers[self.entropy.below(CLAIMS) as usize])
    }

    fn op(&mut self) -> Op {
        let now_ms = self.clock.now_ms();
        let expires = now_ms + HOUR_MS * (1 + self.entropy.below(3));
        match self.entropy.below(20) {
            0..8 => Op::Put(
                self.entropy.below(BLOCKS) as usize,
                self.entropy.below(3) as u8,
                self.any_claim(),
                expires,
            ),
            8..10 => {
                let count = self.entropy.below(4);
                let pick = |_| {
                    self.stripes[self.entropy.below(BLOCKS) as usize][0]
                        .id()
                        .block
                };
                let blocks: BTreeSet<BlockId> = (0..count).map(pick).collect();
                Op::Claim(self.any_claim(), expires, blocks.into_iter().collect())
            }
            10 => Op::Close(self.any_claim()),
            11..14 => Op::Release(self.any_claim()),
            14..17 => {
                let pair = |_| {
                    let key = vec![b'k', self.entropy.below(KEYS) as u8];
                    let len = self.entropy.below(600) as usize;
                    let value = Bytes::from(vec![self.entropy.below(256) as u8; len]);
                    (key, (self.entropy.below(3) > 0).then_some(value))
                };
                let batch: BTreeMap<_, _> = (0..1 + self.entropy.below(3)).map(pair).collect();
                Op::Kv(batch.into_iter().collect())
            }
            17 => Op::Expire,
            18 => Op::Flush,
            _ => Op::Compact(1 + self.entropy.below(12)),
        }
    }

    /// Does `op` to the store and to the model. The model is changed even if the store fails.
    async fn apply(&mut self, store: &Store, model: &mut Model, op: Op) -> Result<(), StoreError> {
        match op {
            Op::Put(block, index, id, expires) => {
                let shard = self.stripes[block][usize::from(index)].clone();
                let block = shard.id().block;
                let set = model.shards.entry(block).or_default();
                let is_new = !set.contains(index);
                set.insert(index);
                model.touch(id, expires);
                model.kept.insert((id, block));
                self.check(&store.put(shard, id, expires).await?, &is_new);
            }
            Op::Claim(id, expires, blocks) => {
                let held = |model: &Model, block: &BlockId| {
                    model.shards.get(block).copied().unwrap_or_default()
                };
                let expected: Vec<IndexSet> = blocks.iter().map(|b| held(model, b)).collect();
                for (block, held) in blocks.iter().zip(&expected) {
                    if !held.is_empty() {
                        model.touch(id, expires);
                        model.kept.insert((id, *block));
                    }
                }
                self.check(&store.claim(id, expires, blocks).await?, &expected);
            }
            Op::Close(id) => {
                let known = model
                    .claims
                    .get_mut(&id)
                    .map(|state| *state = State::Closed);
                self.check(&store.close_claim(id).await?, &known.is_some());
            }
            Op::Release(id) => {
                let known = model.claims.contains_key(&id);
                model.release(id);
                // Known or not, it is of no use any more.
                self.renumber(id);
                self.check(&store.release_claim(id).await?, &known);
            }
            Op::Kv(batch) => {
                for (key, value) in &batch {
                    match value {
                        Some(value) => model.kv.insert(key.clone(), value.clone()),
                        None => model.kv.remove(key),
                    };
                }
                let changes = batch.into_iter().map(|(k, v)| ("space".to_owned(), k, v));
                store.kv_put(changes.collect()).await?;
            }
            Op::Expire => {
                tokio::time::advance(Duration::from_millis(HOUR_MS)).await;
                let before: Vec<ClaimId> = model.claims.keys().copied().collect();
                model.expire(self.clock.now_ms());
                for id in before.iter().filter(|id| !model.claims.contains_key(id)) {
                    self.renumber(*id);
                }
                let (_, mut expiry) = store.workers();
                while expiry.step().await == Next::Again {}
                if store.usage().poisoned {
                    return Err(StoreError::Poisoned(String::new()));
                }
            }
            Op::Flush => store.flush_index().await?,
            Op::Compact(steps) => {
                let (mut compaction, _) = store.workers();
                for _ in 0..steps {
                    compaction.step().await;
                }
                if store.usage().poisoned {
                    return Err(StoreError::Poisoned(String::new()));
                }
            }
        }
        Ok(())
    }

    fn check<T: PartialEq + std::fmt::Debug>(&self, found: &T, expected: &T) {
        assert!(
            !self.strict || found == expected,
            "{found:?} instead of {expected:?}"
        );
    }

    /// Opens what a crash left; now and then the power fails again while it does.
    async fn reopen(&self, mut disk: MemDisk) -> (MemDisk, Store) {
        loop {
            if self.entropy.below(3) == 0 {
                disk.power_off_at(self.entropy.below(20));
            }
            let medium: Arc<dyn Disk> = Arc::new(disk.clone());
            let opened = Store::open(medium, tiny(), Pools::inline(), self.clock.clone()).await;
            disk.power_off_at(u64::MAX);
            match opened {
                Ok((store, _)) => return (disk, store),
                Err(error) => assert_eq!(error.class(), Class::Retry, "{error}"),
            }
            disk = disk.crash_image(&Crash::seeded(self.entropy.below(8)));
        }
    }

    fn renumber(&mut self, id: ClaimId) {
        for number in &mut self.numbers {
            if *number == id.number {
                *number = self.next_number;
                self.next_number += 1;
            }
        }
    }

    /// What the store really has, with every shard read and checked.
    async fn look(&self, store: &Store) -> (BTreeMap<BlockId, IndexSet>, BTreeMap<Vec<u8>, Bytes>) {
        let ids: Vec<BlockId> = self
            .stripes
            .iter()
            .map(|stripe| stripe[0].id().block)
            .collect();
        let held = store.held(&ids).await.unwrap();
        let mut shards = BTreeMap::new();
        for (stripe, set) in self.stripes.iter().zip(held) {
            let block = stripe[0].id().block;
            for index in 0..3u8 {
                let got = store.get(block, IndexSet::one(index)).await.unwrap();
                assert_eq!(got.is_some(), set.contains(index), "{block}/{index}");
                if let Some((shard, all)) = got {
                    assert_eq!(shard, stripe[usize::from(index)]);
                    assert_eq!(all, set);
                }
            }
            if !set.is_empty() {
                shards.insert(block, set);
            }
        }
        let kv = store
            .kv_scan("space", b"k")
            .await
            .unwrap()
            .into_iter()
            .collect();
        (shards, kv)
    }
}

fn tiny() -> StoreOptions {
    StoreOptions {
        segment_bytes: Some(128 << 10),
        flush_rows: 24,
        flush_tail_bytes: 300 << 10,
        compaction_step_bytes: 2 << 10,
        ..options(64 << 20)
    }
}

async fn compare(world: &World, store: &Store, models: &[Model]) -> Model {
    let (shards, kv) = world.look(store).await;
    let usage = store.usage();
    let count: usize = shards.values().map(|set| set.len()).sum();
    assert_eq!(usage.shards, count as u64);
    let fitting = models
        .iter()
        .find(|model| model.shards == shards && model.kv == kv);
    let Some(fitting) = fitting else {
        panic!("the store has\n{shards:?}\n{kv:?}\nand should have one of\n{models:#?}");
    };
    fitting.clone()
}

/// The accounts against a walk.
async fn recount(store: &Store, disk: &MemDisk) {
    store.flush_index().await.unwrap();
    let walked: u64 = disk
        .walk(&|_| false)
        .unwrap()
        .iter()
        .map(|e| e.allocated)
        .sum();
    assert_eq!(store.usage().allocated, walked);
}

async fn run(seed: u64, steps: usize, crash_every: u64) {
    let mut world = World::new(seed);
    let mut disk = MemDisk::new(1 << 30);
    let mut model = Model::default();
    let clock = world.clock.clone();
    let (mut store, _) = open(Arc::new(disk.clone()), tiny(), &clock).await;
    let mut off_at = u64::MAX;
    for _ in 0..steps {
        // It does not come back under a store that runs.
        if world.entropy.below(crash_every) == 0 && disk.changes() <= off_at {
            off_at = disk.changes() + world.entropy.below(12);
            disk.power_off_at(off_at);
        }
        let op = world.op();
        let before = model.clone();
        let result = world.apply(&store, &mut model, op.clone()).await;
        if world.entropy.below(30) == 0 && result.is_ok() {
            match store.clone().close().await {
                Ok(()) => {
                    disk.power_off_at(u64::MAX);
                    off_at = u64::MAX;
                    let (reopened, report) = open(Arc::new(disk.clone()), tiny(), &clock).await;
                    assert_eq!((report.replayed_records, &report.rebuilt), (0, &None));
                    store = reopened;
                    model = compare(&world, &store, &[model]).await;
                    continue;
                }
                // The power failed while closing.
                Err(StoreError::Poisoned(_)) => {}
                Err(error) => panic!("{error}"),
            }
        } else if result.is_ok() {
            continue;
        }
        // The power failed in this operation: it is there whole, or not at all.
        if let Err(error) = &result {
            assert!(matches!(error, StoreError::Poisoned(_)), "{error}");
        }
        let image = disk.crash_image(&Crash::seeded(world.entropy.below(8)));
        if world.entropy.below(4) == 0 {
            let _ = image.remove("store/index.redb");
        }
        (disk, store) = world.reopen(image).await;
        off_at = u64::MAX;
        // Blocks of a claim that was released are let go soon after, not at once.
        store.flush_index().await.unwrap();
        // The claims of one sweep expire one by one.
        if !matches!(op, Op::Expire) {
            compare(&world, &store, &[model, before.clone()]).await;
        }
        // Claims do not show: only once it is tried again, as callers do, is the state known.
        model = before;
        world.strict = false;
        world.apply(&store, &mut model, op).await.unwrap();
        world.strict = true;
        model = compare(&world, &store, &[model]).await;
        recount(&store, &disk).await;
    }
    // It may have failed in what the store did after the last operation.
    if disk.changes() > off_at {
        let image = disk.crash_image(&Crash::seeded(world.entropy.below(8)));
        (disk, store) = world.reopen(image).await;
        store.flush_index().await.unwrap();
    }
    disk.power_off_at(u64::MAX);
    let model = compare(&world, &store, &[model]).await;
    recount(&store, &disk).await;
    // The index is a function of the log: built anew it says the same.
    store.close().await.unwrap();
    disk.remove("store/index.redb").unwrap();
    let (store, report) = open(Arc::new(disk.clone()), tiny(), &clock).await;
    assert!(report.rebuilt.is_some());
    assert_eq!(report.damaged_regions, 0);
    compare(&world, &store, &[model]).await;
    recount(&store, &disk).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24 * scale(), ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map(seed in any::<u64>()) {
        simulate(run(seed, 150, u64::MAX));
    }

    #[test]
    fn agrees_with_a_map_across_crashes(seed in any::<u64>()) {
        simulate(run(seed, 200, 12));
    }
}

/// In these the power fails in what the last operation left to be done.
#[test]
fn agrees_with_a_map_when_the_power_fails_last() {
    for seed in [13671924970924143742, 7003700158736961804] {
        simulate(run(seed, 200, 12));
    }
}
