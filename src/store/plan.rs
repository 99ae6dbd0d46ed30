//! What each operation writes to the log, decided against the state it finds.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::engine::{Answer, Batch, Engine, Fail, Work};
use super::error::StoreError;
use super::holdings::Keeper;
use super::quota::{BLOCK_ROW_COST, FOR_DRAIN, MEMBER_ROW_COST, Tier};
use super::record::{ClaimEnd, Entry, KvPair, TOMBS_MAX, Tomb, shard_record_max};
use super::rows::{BlockRow, ClaimRow, ClaimState};
use super::trash::is_trash;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::profile::MAX_STRIPE_SHARDS;
use crate::base::{BlockId, ClaimId, IndexSet};
use crate::erasure::VerifiedShard;

/// Blocks let go in one batch.
const DRAIN_PER_BATCH: usize = 4096;

/// Blocks let go with one record of tombstones.
const DRAIN_PAGE: usize = TOMBS_MAX / MAX_STRIPE_SHARDS;
/// Bytes of a full record of tombstones.
const TOMBS_RECORD_MAX: u32 = 64 + TOMBS_MAX as u32 * 44;
const _: () = assert!(TOMBS_RECORD_MAX as u64 <= FOR_DRAIN);

/// Takes blocks out of a claim; tombstones for the shards of those that nothing keeps now.
/// Answers bytes of those as well.
fn leave_all(
    batch: &mut Batch,
    short: u64,
    blocks: &[(BlockId, ())],
) -> Result<(Vec<Tomb>, u64), Fail> {
    let (mut tombs, mut bytes) = (Vec::new(), 0);
    for (block, ()) in blocks {
        let left = batch.draft.leave(short, *block)?;
        let unclaimed = left.filter(|row| row.claims == 0);
        for shard in unclaimed.iter().flat_map(|row| &row.shards) {
            bytes += u64::from(shard.data_len);
            tombs.push(Tomb {
                block: *block,
                index: shard.index,
                at: shard.at,
            });
        }
    }
    Ok((tombs, bytes))
}

/// What storing a shard may add to the data directory.
pub(super) fn shard_cost(shard: &VerifiedShard) -> u64 {
    let record = shard_record_max(shard.header().len(), shard.data().len());
    record as u64 + BLOCK_ROW_COST + MEMBER_ROW_COST
}

/// What a claim on so many blocks may add.
pub(super) const fn claim_cost(blocks: usize) -> u64 {
    256 + blocks as u64 * (32 + MEMBER_ROW_COST)
}

/// What small records may add: in the log, and in the index with its half-empty pages.
pub(super) fn kv_cost(pairs: &[KvPair]) -> u64 {
    let pair = |pair: &KvPair| pair.key.0.len() + pair.value.as_ref().map_or(0, Bytes::len);
    let bytes: usize = pairs.iter().map(pair).sum();
    (128 + 3 * bytes + 128 * pairs.len()) as u64
}

impl Engine {
    /// Adds what `work` needs to the batch.
    pub(super) fn plan(&mut self, batch: &mut Batch, work: &Work) -> Result<Answer, Fail> {
        match work {
            Work::Put {
                shard,
                claim,
                expires_ms,
                has_room,
            } => {
                let stored = self.put(batch, shard, (*claim, *expires_ms), *has_room);
                stored.map(Answer::Flag)
            }
            Work::Claim {
                claim,
                expires_ms,
                blocks,
            } => self
                .claim(batch, *claim, *expires_ms, blocks)
                .map(Answer::Held),
            Work::Close(claim) => self.close(batch, *claim).map(Answer::Flag),
            Work::Keep { block, keepers } => self.keep(batch, *block, keepers).map(Answer::Kept),
            Work::Release {
                claim,
                is_remembered,
            } => {
                let released = self.release(batch, *claim, *is_remembered);
                released.map(Answer::Flag)
            }
            Work::Expire(claims) => {
                let now_ms = self.shared.clock.now_ms();
                for claim in claims {
                    let row = batch.draft.claim(claim)?;
                    // It may have been renewed or closed since it was listed.
                    let open = row.filter(|row| row.state == ClaimState::Open);
                    if let Some(row) = open.filter(|row| row.is_gone(now_ms)) {
                        self.let_go(batch, *claim, row)?;
                    }
                }
                Ok(Answer::Done)
            }
            Work::Kv(pairs) | Work::Free(pairs) => {
                let mut needed = Vec::with_capacity(pairs.len());
                for pair in pairs {
                    let known = batch.draft.kv(&pair.key)?;
                    // The deletion of what is not there needs no record.
                    if pair.value.is_some() || known.is_some_and(|row| row.value.is_some()) {
                        needed.push(pair.clone());
                    }
                }
                if !needed.is_empty() {
                    self.emit(batch, &Entry::Kv(needed), Bytes::new())?;
                }
                Ok(Answer::Done)
            }
            Work::Bury(tombs) => {
                for tombs in tombs.chunks(TOMBS_MAX) {
                    self.emit(batch, &Entry::Tombs(tombs.to_vec()), Bytes::new())?;
                }
                Ok(Answer::Done)
            }
            Work::Compact => self.compact(batch).map(Answer::Progress),
            Work::Flush | Work::Count | Work::Rebuild(_) => Ok(Answer::Done),
        }
    }

    /// The claim's row if it lives, `None` if it is new.
    fn live_claim(
        &self,
        batch: &Batch,
        claim: &ClaimId,
        expires_ms: u64,
    ) -> Result<Option<ClaimRow>, Fail> {
        let now_ms = self.shared.clock.now_ms();
        let row = batch.draft.claim(claim)?;
        let gone = row.map_or(expires_ms <= now_ms, |row| row.is_gone(now_ms));
        if gone {
            return Err(Fail::Refused(StoreError::ClaimGone));
        }
        Ok(row)
    }

    fn put(
        &mut self,
        batch: &mut Batch,
        shard: &VerifiedShard,
        (claim, expires_ms): (ClaimId, u64),
        has_room: bool,
    ) -> Result<bool, Fail> {
        let (block, index) = (shard.id().block, shard.id().index);
        let known = self.live_claim(batch, &claim, expires_ms)?;
        let row = batch.draft.block(&block)?.unwrap_or_default();
        if let Some(held) = row.shard(index).copied() {
            if !held.damaged {
                if self.adds(batch, known, expires_ms, &block)? {
                    let blocks = vec![block];
                    self.emit_claim(batch, claim, expires_ms, blocks)?;
                }
                return Ok(false);
            }
            if !has_room {
                return Err(Fail::Refused(self.full()));
            }
            let tomb = Tomb {
                block,
                index,
                at: held.at,
            };
            self.emit(batch, &Entry::Tombs(vec![tomb]), Bytes::new())?;
        } else if !has_room {
            return Err(Fail::Refused(self.full()));
        }
        let entry = Entry::Shard {
            block,
            index,
            header: shard.header().clone(),
            claim: Some((claim, expires_ms)),
            moved_from: None,
        };
        self.emit(batch, &entry, shard.data().clone())?;
        Ok(true)
    }

    /// Whether the claim does not yet keep the block, or not for so long.
    fn adds(
        &self,
        batch: &Batch,
        known: Option<ClaimRow>,
        expires_ms: u64,
        block: &BlockId,
    ) -> Result<bool, Fail> {
        let Some(row) = known else { return Ok(true) };
        let renews = row.state == ClaimState::Open && row.expires_ms < expires_ms;
        Ok(renews || !batch.draft.is_member(row.short, block)?)
    }

    fn emit_claim(
        &mut self,
        batch: &mut Batch,
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    ) -> Result<(), Fail> {
        let entry = Entry::Claim {
            claim,
            expires_ms,
            blocks,
        };
        self.emit(batch, &entry, Bytes::new())
    }

    fn claim(
        &mut self,
        batch: &mut Batch,
        claim: ClaimId,
        expires_ms: u64,
        blocks: &[BlockId],
    ) -> Result<Vec<IndexSet>, Fail> {
        let known = self.live_claim(batch, &claim, expires_ms)?;
        let mut held = Vec::with_capacity(blocks.len());
        let mut added = Vec::new();
        for block in blocks {
            let row = batch.draft.block(block)?;
            let indices = row.as_ref().map_or(IndexSet::EMPTY, BlockRow::held);
            if !indices.is_empty() && self.adds(batch, known, expires_ms, block)? {
                added.push(*block);
            }
            held.push(indices);
        }
        for chunk in added.chunks(BATCH_BLOCKS_MAX) {
            self.emit_claim(batch, claim, expires_ms, chunk.to_vec())?;
        }
        Ok(held)
    }

    fn close(&mut self, batch: &mut Batch, claim: ClaimId) -> Result<bool, Fail> {
        let Some(row) = batch.draft.claim(&claim)? else {
            return Ok(false);
        };
        if row.is_gone(self.shared.clock.now_ms()) {
            return Err(Fail::Refused(StoreError::ClaimGone));
        }
        if row.state != ClaimState::Closed {
            let end = ClaimEnd::Closed;
            self.emit(batch, &Entry::State { claim, end }, Bytes::new())?;
        }
        Ok(true)
    }

    /// Keeps a block for those of `keepers` that live; one of them, one that keeps for good if there is any.
    fn keep(
        &mut self,
        batch: &mut Batch,
        block: BlockId,
        keepers: &[Keeper],
    ) -> Result<Option<Keeper>, Fail> {
        let mut kept: Option<Keeper> = None;
        for keeper in keepers {
            let Keeper {
                claim, expires_ms, ..
            } = *keeper;
            // Trash is this store's own affair, whatever others say.
            if is_trash(&claim) {
                continue;
            }
            let known = match self.live_claim(batch, &claim, expires_ms) {
                Err(Fail::Refused(StoreError::ClaimGone)) => continue,
                known => known?,
            };
            if self.adds(batch, known, expires_ms, &block)? {
                self.emit_claim(batch, claim, expires_ms, vec![block])?;
            }
            let is_closed = known.is_some_and(|row| row.state == ClaimState::Closed);
            if keeper.is_closed && !is_closed {
                let end = ClaimEnd::Closed;
                self.emit(batch, &Entry::State { claim, end }, Bytes::new())?;
            }
            if kept.is_none_or(|kept| keeper.is_closed && !kept.is_closed) {
                kept = Some(*keeper);
            }
        }
        Ok(kept)
    }

    fn release(
        &mut self,
        batch: &mut Batch,
        claim: ClaimId,
        is_remembered: bool,
    ) -> Result<bool, Fail> {
        let Some(row) = batch.draft.claim(&claim)? else {
            if is_remembered {
                let end = ClaimEnd::Released {
                    oldest: self.active.id,
                    newest: self.active.id,
                };
                self.emit(batch, &Entry::State { claim, end }, Bytes::new())?;
            }
            return Ok(false);
        };
        if row.state == ClaimState::Closed {
            self.to_trash.insert(claim);
        }
        if matches!(row.state, ClaimState::Open | ClaimState::Closed) {
            self.let_go(batch, claim, row)?;
        }
        Ok(true)
    }

    fn let_go(&mut self, batch: &mut Batch, claim: ClaimId, row: ClaimRow) -> Result<(), Fail> {
        let end = ClaimEnd::Released {
            oldest: row.oldest,
            newest: row.newest,
        };
        self.emit(batch, &Entry::State { claim, end }, Bytes::new())?;
        batch.releasing.push(claim);
        Ok(())
    }

    /// Lets go of blocks of released claims, up to the bound of one batch. A block that no claim
    /// keeps loses its shards, unless it goes into trash.
    pub(super) fn drain(&mut self, batch: &mut Batch) -> Result<(), Fail> {
        let mut waiting: Vec<ClaimId> = self.draining.iter().copied().collect();
        waiting.extend(&batch.releasing);
        let mut budget = DRAIN_PER_BATCH;
        for claim in waiting {
            let Some(row) = batch.draft.claim(&claim)? else {
                batch.drained.push(claim);
                continue;
            };
            let mut after = None;
            loop {
                if budget == 0 {
                    return Ok(());
                }
                let planned = u64::from(batch.end - self.active.end);
                let needed = planned + u64::from(TOMBS_RECORD_MAX);
                if self.shared.ledger.left(Tier::Drain) < needed {
                    // Compaction goes first: the limit is hard.
                    self.shared.ledger.make_way();
                    self.stuck = true;
                    return Ok(());
                }
                let page = batch.draft.members(row.short, after.as_ref(), DRAIN_PAGE)?;
                self.throw_away(batch, &claim, &page.rows)?;
                // Blocks must not lose their last claim without their tombstones beside it.
                self.make_room(batch, TOMBS_RECORD_MAX)?;
                budget = budget.saturating_sub(page.rows.len().max(1));
                let (tombs, bytes) = leave_all(batch, row.short, &page.rows)?;
                if is_trash(&claim) {
                    self.shared.ledger.trash_grows(0, bytes);
                }
                if !tombs.is_empty() {
                    self.emit(batch, &Entry::Tombs(tombs), Bytes::new())?;
                }
                after = page.next;
                if after.is_none() {
                    batch.draft.released(claim, row);
                    batch.drained.push(claim);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Counts a shard that does not verify.
    pub(super) fn count_damage(&self) {
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
    }
}
