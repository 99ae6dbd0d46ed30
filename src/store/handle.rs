//! The store as other layers see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::disk::Disk;
use super::engine::{Answer, Work};
use super::error::{OpenError, StoreError};
use super::parts::{PartError, PartReader};
use super::plan::{claim_cost, kv_cost, shard_cost};
use super::quota::{Reservation, Tier, Usage};
use super::read::ReadFail;
use super::record::{KV_KEY_MAX, KV_SPACE_MAX, KV_VALUE_MAX, KvKey, KvPair, META_MAX};
use super::recover;
use super::replay::OpenReport;
use super::rows::{ClaimRow, ClaimState};
use super::shared::{Shared, StoreOptions};
use super::tables::IndexError;
use super::trash::TrashKeeper;
use super::workers::{Compaction, Expiry};
use super::writer::{self, Job, Order};
use crate::base::limits::{BATCH_BLOCKS_MAX, QUOTA_MIN_BYTES};
use crate::base::{BlockId, ClaimId, Clock, IndexSet, Pools};
use crate::erasure::VerifiedShard;

/// Memory for waiting shards is counted in these.
const MEMORY_UNIT: usize = 1 << 10;
/// Small records looked up at once by a scan.
const SCAN_PAGE: usize = 1024;
/// Steps of compaction that one change waits for where nothing has room.
const STEPS_FOR_ROOM: usize = 64;

/// One change of a small record: space, key, and the new value (`None` deletes).
pub type KvChange = (String, Vec<u8>, Option<Bytes>);

/// Room that was set aside for a shard, and whether it is for its data as well.
pub(super) type Room = (Reservation, bool);

/// The store of one peer. Cheap to clone; the last clone dropped ends it in the background.
///
/// All calls are cancel safe: a write whose future is dropped is either done or not begun.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Order>,
    memory: Arc<Semaphore>,
    pools: Pools,
}

impl Store {
    /// Opens the store on `disk`, or creates it there, and starts its writer on the current
    /// runtime. Never reads more than the index and the log's tail, unless the index is unusable.
    ///
    /// # Errors
    /// If the directory is of a newer format, not a store's, or cannot be read; or if the quota is
    /// below [`QUOTA_MIN_BYTES`].
    pub async fn open(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        pools: Pools,
        clock: Clock,
    ) -> Result<(Store, OpenReport), OpenError> {
        let opened = pools
            .disk
            .run(move || recover::open(disk, options, clock))
            .await;
        let (engine, report) = opened?;
        let shared = Arc::clone(&engine.shared);
        let (queue, orders) = mpsc::channel(shared.options.queue.max(1));
        let units = (shared.options.queue_bytes / MEMORY_UNIT).max(1);
        tokio::spawn(writer::run(
            Box::new(engine),
            orders,
            pools.clone(),
            Arc::clone(&shared),
        ));
        let store = Store {
            shared,
            queue,
            memory: Arc::new(Semaphore::new(units)),
            pools,
        };
        Ok((store, report))
    }

    /// Stores a shard under a claim, durably. Answers whether it is new here; if it was held
    /// already, the claim is added to it. Idempotent.
    ///
    /// # Errors
    /// `Full` before anything is written; `ClaimGone` if the claim was released or has expired.
    pub async fn put(
        &self,
        shard: VerifiedShard,
        claim: ClaimId,
        expires_ms: u64,
    ) -> Result<bool, StoreError> {
        let room = self.room_for(&shard).await?;
        self.put_in(room, shard, claim, expires_ms).await
    }

    /// Room for a shard, or for one more claim on it if it is held already.
    pub(super) async fn room_for(&self, shard: &VerifiedShard) -> Result<Room, StoreError> {
        self.shared.check_open()?;
        let ledger = &self.shared.ledger;
        let mut reserved = ledger.reserve(Tier::Data, shard_cost(shard));
        // Trash makes way, the oldest first.
        while reserved.is_err() && ledger.trash() > 0 && self.empty_trash(false).await? {
            reserved = ledger.reserve(Tier::Data, shard_cost(shard));
        }
        match reserved {
            Ok(reservation) => Ok((reservation, true)),
            Err(free_bytes) => {
                // What is held already needs a claim only, for which there is more room.
                let id = shard.id();
                let held = self.held(&[id.block]).await?;
                if !held.iter().any(|set| set.contains(id.index)) {
                    return Err(StoreError::Full { free_bytes });
                }
                Ok((self.reserve_claims(1)?, false))
            }
        }
    }

    /// Room for so many claims on one block each.
    pub(super) fn reserve_claims(&self, count: usize) -> Result<Reservation, StoreError> {
        self.reserve(Tier::Claims, claim_cost(1).saturating_mul(count as u64))
    }

    /// As [`Store::put`], in room that was set aside.
    pub(super) async fn put_in(
        &self,
        (reservation, has_room): Room,
        shard: VerifiedShard,
        claim: ClaimId,
        expires_ms: u64,
    ) -> Result<bool, StoreError> {
        let units = shard.data().len().div_ceil(MEMORY_UNIT).max(1);
        let all = self.shared.options.queue_bytes / MEMORY_UNIT;
        let memory = Arc::clone(&self.memory)
            .acquire_many_owned(units.min(all.max(1)) as u32)
            .await
            .map_err(|_| StoreError::Closed)?;
        let work = Work::Put {
            shard,
            claim,
            expires_ms,
            has_room,
        };
        let (reply, answer) = oneshot::channel();
        let job = Job {
            work,
            reply,
            reservation: Some(reservation),
            memory: Some(memory),
        };
        self.send(job, answer).await.map(is_true)
    }

    /// Adds a claim, durably, to each of these blocks of which a shard is held. Answers the
    /// indices held of each, in order. Also renews the claim's expiry.
    ///
    /// # Errors
    /// As [`Store::put`]; `TooLarge` for more than [`BATCH_BLOCKS_MAX`] blocks.
    pub async fn claim(
        &self,
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    ) -> Result<Vec<IndexSet>, StoreError> {
        check("blocks in one call", blocks.len(), BATCH_BLOCKS_MAX)?;
        let reservation = self.reserve(Tier::Claims, claim_cost(blocks.len()))?;
        let work = Work::Claim {
            claim,
            expires_ms,
            blocks,
        };
        match self.submit(work, Some(reservation)).await? {
            Answer::Held(held) => Ok(held),
            _ => Ok(Vec::new()),
        }
    }

    /// The indices held of each block, in order. At most [`BATCH_BLOCKS_MAX`].
    pub async fn held(&self, blocks: &[BlockId]) -> Result<Vec<IndexSet>, StoreError> {
        check("blocks in one call", blocks.len(), BATCH_BLOCKS_MAX)?;
        let blocks = blocks.to_vec();
        self.read(move |shared| shared.held(&blocks)).await
    }

    /// The shard of `block` with the lowest index in `wanted`, verified, with all indices held.
    /// `None` if there is none. A damaged shard counts as not held, and is remembered as such.
    ///
    /// # Errors
    /// `Corrupt` if all acceptable shards are damaged.
    pub async fn get(
        &self,
        block: BlockId,
        wanted: IndexSet,
    ) -> Result<Option<(VerifiedShard, IndexSet)>, StoreError> {
        self.read(move |shared| shared.get(block, wanted)).await
    }

    /// Has `job` read parts of shards, on the disk pool. May call it again if the index has to be rebuilt.
    ///
    /// # Errors
    /// What `job` does not make up for.
    pub async fn read_parts<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&PartReader<'_>) -> Result<T, PartError> + Send + Sync + 'static,
    {
        let job =
            move |shared: &Shared| job(&PartReader::new(shared)).map_err(|PartError(fail)| fail);
        self.read(job).await
    }

    /// Keeps shards that were fetched from others for a while, as far as there is room.
    pub async fn cache(&self, shards: Vec<VerifiedShard>) {
        if !self.shared.ring.is_wanted() {
            return;
        }
        let ring = Arc::clone(&self.shared.ring);
        let keep = move || shards.iter().for_each(|shard| ring.put(shard));
        self.pools.disk.run(keep).await;
    }

    /// Shards of `block` among `wanted` that were fetched before, verified, at most `most`.
    pub async fn cached(
        &self,
        block: BlockId,
        wanted: IndexSet,
        most: usize,
    ) -> Vec<VerifiedShard> {
        if self.shared.ledger.ring() == 0 {
            return Vec::new();
        }
        let ring = Arc::clone(&self.shared.ring);
        self.pools
            .disk
            .run(move || ring.get(block, wanted, most))
            .await
    }

    /// Makes a claim permanent, durably. Answers whether it is known here.
    ///
    /// # Errors
    /// `ClaimGone` if it was released or has expired; `Full` where not even that has room.
    pub async fn close_claim(&self, claim: ClaimId) -> Result<bool, StoreError> {
        let room = self.room_to_free(claim_cost(0), Tier::Free).await?;
        self.submit(Work::Close(claim), Some(room))
            .await
            .map(is_true)
    }

    /// Gives a claim up, durably, and lets go of what only it kept. Answers whether it was known
    /// here. A claim that was released cannot be used again; nor can one that was not known, as long as there is room to
    /// remember it: somebody who did not hear of the release may still hand a shard on under it.
    pub async fn release_claim(&self, claim: ClaimId) -> Result<bool, StoreError> {
        let room = self.reserve(Tier::Claims, claim_cost(0)).ok();
        let is_remembered = room.is_some();
        let room = match room {
            Some(room) => Some(room),
            None => match self.room_to_let_go(claim_cost(0)).await {
                // That there is nothing to let go takes no room to say.
                Err(StoreError::Full { .. }) if !self.is_kept_by(claim).await? => None,
                room => Some(room?),
            },
        };
        let work = Work::Release {
            claim,
            is_remembered,
        };
        self.submit(work, room).await.map(is_true)
    }

    /// Whether a claim keeps anything.
    async fn is_kept_by(&self, claim: ClaimId) -> Result<bool, StoreError> {
        let row = self.read(move |shared| shared.look_up(|| shared.index.claim(&claim)));
        let is_live = |row: ClaimRow| matches!(row.state, ClaimState::Open | ClaimState::Closed);
        Ok(row.await?.is_some_and(is_live))
    }

    /// Room for what gives room back in the end. Where there is none, what is dead already makes way.
    async fn room_to_clean(&self, bytes: u64) -> Result<Reservation, StoreError> {
        let mut reserved = self.reserve(Tier::Cleanup, bytes);
        for _ in 0..STEPS_FOR_ROOM {
            if !matches!(reserved, Err(StoreError::Full { .. })) {
                break;
            }
            match self.submit(Work::Compact, None).await {
                Ok(Answer::Progress(progress)) if progress.more => {}
                Err(error @ (StoreError::Closed | StoreError::Poisoned(_))) => return Err(error),
                // What cannot be moved must not keep from ending what keeps it.
                Ok(_) | Err(_) => break,
            }
            reserved = self.reserve(Tier::Cleanup, bytes);
        }
        if matches!(reserved, Err(StoreError::Full { .. })) {
            // Rows that were written anew count twice until the index has them.
            let flushed = self.submit(Work::Flush, None).await;
            if let Err(error @ (StoreError::Closed | StoreError::Poisoned(_))) = flushed {
                return Err(error);
            }
            reserved = self.reserve(Tier::Cleanup, bytes);
        }
        reserved
    }

    /// As [`Self::room_to_clean`], and where there is none, of what is left of `tier`.
    async fn room_to_free(&self, bytes: u64, tier: Tier) -> Result<Reservation, StoreError> {
        match self.room_to_clean(bytes).await {
            Err(StoreError::Full { .. }) => self.reserve(tier, bytes),
            other => other,
        }
    }

    /// Room for the end of claims: the last that there is.
    pub(super) async fn room_to_let_go(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.room_to_free(bytes, Tier::Release).await
    }

    /// The value of a small record.
    pub async fn kv_get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = kv_key(space, key)?;
        self.read(move |shared| shared.kv_get(&key)).await
    }

    /// Changes small records, durably and all or nothing.
    ///
    /// # Errors
    /// `TooLarge` beyond [`KV_SPACE_MAX`], [`KV_KEY_MAX`], [`KV_VALUE_MAX`], or about 250 KiB in
    /// all. `Full` if there is no room; deletions alone are always taken.
    pub async fn kv_put(&self, batch: Vec<KvChange>) -> Result<(), StoreError> {
        let pairs = kv_pairs(batch)?;
        let adds = pairs.iter().any(|pair| pair.value.is_some());
        let reservation = match adds {
            true => Some(self.reserve(Tier::Claims, kv_cost(&pairs))?),
            false => None,
        };
        self.submit(Work::Kv(pairs), reservation).await.map(drop)
    }

    /// As [`Store::kv_put`], for what gives room back in the end: it may use more of the quota's reserve.
    ///
    /// # Errors
    /// As [`Store::kv_put`]; `Full` if the reserve or the disk is.
    pub async fn kv_free(&self, batch: Vec<KvChange>) -> Result<(), StoreError> {
        let pairs = kv_pairs(batch)?;
        let adds = pairs.iter().any(|pair| pair.value.is_some());
        let reservation = match adds {
            true => Some(self.room_to_free(kv_cost(&pairs), Tier::Free).await?),
            false => None,
        };
        self.submit(Work::Free(pairs), reservation).await.map(drop)
    }

    /// All small records of a space whose keys begin with `prefix`, in order of their keys.
    pub async fn kv_scan(
        &self,
        space: &str,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let prefix = kv_key(space, prefix)?;
        let mut found = Vec::new();
        let mut after: Option<KvKey> = None;
        loop {
            let (prefix, from) = (prefix.clone(), after.take());
            let page = self.read(move |shared| shared.kv_page(&prefix, from.as_ref(), SCAN_PAGE));
            let (rows, next) = page.await?;
            found.extend(
                rows.into_iter()
                    .map(|(key, value)| (key.key().to_vec(), value)),
            );
            match next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// What the store occupies and may still take. Does no I/O.
    pub fn usage(&self) -> Usage {
        Usage {
            damaged_shards: self.shared.damaged.load(Ordering::Relaxed),
            poisoned: self.shared.poisoned().is_some(),
            ..self.shared.ledger.usage()
        }
    }

    /// Changes the quota from now on. Below what is used, it only stops intake.
    ///
    /// # Errors
    /// `QuotaTooSmall` below [`QUOTA_MIN_BYTES`].
    pub fn set_quota(&self, bytes: u64) -> Result<(), StoreError> {
        if bytes < QUOTA_MIN_BYTES {
            return Err(StoreError::QuotaTooSmall {
                given: bytes,
                minimum: QUOTA_MIN_BYTES,
            });
        }
        self.shared.ledger.set_quota(bytes);
        if self.shared.ledger.ring() > 0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (pools, ring) = (self.pools.clone(), Arc::clone(&self.shared.ring));
            runtime.spawn(async move { pools.disk.run(move || ring.make_room()).await });
        }
        Ok(())
    }

    /// Brings the index database up to date with the log, durably.
    pub async fn flush_index(&self) -> Result<(), StoreError> {
        self.submit(Work::Flush, None).await.map(drop)
    }

    /// Ends the store in good order: the next open has nothing to replay. Other clones then answer
    /// `Closed`; the disk is free once they are dropped.
    ///
    /// # Errors
    /// `Poisoned` if the index could not be brought up to date; what was acknowledged is safe.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let order = Order::Close(reply);
        self.queue
            .send(order)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The store's upkeep: compaction, and the end of expired claims.
    pub fn workers(&self) -> (Compaction, Expiry) {
        (Compaction::new(self.clone()), Expiry::new(self.clone()))
    }

    /// What empties trash where room is short.
    pub fn trash_keeper(&self) -> TrashKeeper {
        TrashKeeper::new(self.clone())
    }

    pub(super) const fn pools(&self) -> &Pools {
        &self.pools
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn reserve(&self, tier: Tier, bytes: u64) -> Result<Reservation, StoreError> {
        self.shared.check_open()?;
        let reserved = self.shared.ledger.reserve(tier, bytes);
        reserved.map_err(|free_bytes| StoreError::Full { free_bytes })
    }

    /// Has the writer do something.
    pub(super) async fn submit(
        &self,
        work: Work,
        reservation: Option<Reservation>,
    ) -> Result<Answer, StoreError> {
        self.shared.check_open()?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            work,
            reply,
            reservation,
            memory: None,
        };
        self.send(job, answer).await
    }

    async fn send(
        &self,
        job: Job,
        answer: oneshot::Receiver<Result<Answer, StoreError>>,
    ) -> Result<Answer, StoreError> {
        let order = Order::Do(Box::new(job));
        self.queue
            .send(order)
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads on the disk pool. If the index turns out to be damaged, waits until it is rebuilt.
    pub(super) async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Shared) -> Result<T, ReadFail> + Send + Sync + 'static,
    {
        let look = Arc::new(look);
        let mut rebuilds_left = 1;
        loop {
            let (look, shared) = (Arc::clone(&look), Arc::clone(&self.shared));
            match self.pools.disk.run(move || look(&shared)).await {
                Ok(found) => return Ok(found),
                Err(ReadFail::Store(error)) => return Err(error),
                Err(ReadFail::Index(generation, IndexError::Damaged(_) | IndexError::Stale))
                    if rebuilds_left > 0 && self.shared.check_open().is_ok() =>
                {
                    rebuilds_left -= 1;
                    self.submit(Work::Rebuild(generation), None).await?;
                }
                Err(ReadFail::Index(_, error)) => return Err(StoreError::Io(error.to_string())),
            }
        }
    }
}

fn is_true(answer: Answer) -> bool {
    matches!(answer, Answer::Flag(true))
}

const fn check(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size, limit });
    }
    Ok(())
}

/// The changes as they are stored, if they are within the bounds.
fn kv_pairs(batch: Vec<KvChange>) -> Result<Vec<KvPair>, StoreError> {
    let mut pairs = Vec::with_capacity(batch.len());
    for (space, key, value) in batch {
        let key = kv_key(&space, &key)?;
        check(
            "a small record",
            value.as_ref().map_or(0, Bytes::len),
            KV_VALUE_MAX,
        )?;
        pairs.push(KvPair { key, value });
    }
    let len = |pair: &KvPair| 8 + pair.key.0.len() + pair.value.as_ref().map_or(0, Bytes::len);
    check(
        "a batch of small records",
        pairs.iter().map(len).sum(),
        META_MAX - 64,
    )?;
    Ok(pairs)
}

fn kv_key(space: &str, key: &[u8]) -> Result<KvKey, StoreError> {
    check("the name of a space", space.len(), KV_SPACE_MAX)?;
    check("a key", key.len(), KV_KEY_MAX)?;
    Ok(KvKey::new(space, key))
}
