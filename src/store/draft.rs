//! The state machine: what each record of the log does to the rows.
//!
//! The same function is used when a record is written and when it is replayed, so the rows are a
//! function of the log.

use super::holdings::mark;
use super::index::{Page, SharedIndex};
use super::record::{ClaimEnd, Entry, Extent, KvKey, Position, Tomb};
use super::rows::{BlockRow, ClaimRow, ClaimState, KvRow, Rows, SegmentRow, ShardRow, Totals};
use super::segment::SEGMENT_HEADER_LEN;
use super::tables::IndexError;
use crate::base::{BlockId, ClaimId, EcProfile, IndexSet};
use crate::erasure::StripeHeader;

/// What a dead shard record still counts for when it may carry the only word of a live claim.
const CLAIM_REMAINDER: u32 = 512;

/// A range of a segment whose data is dead and can be punched out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadData {
    pub(super) segment: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Changes that are not yet durable, on top of the index.
#[derive(Debug)]
pub(super) struct Draft {
    index: SharedIndex,
    pub(super) rows: Rows,
    pub(super) totals: Totals,
    pub(super) dead: Vec<DeadData>,
}

impl Draft {
    pub(super) fn new(index: SharedIndex, totals: Totals) -> Self {
        Draft {
            index,
            rows: Rows::default(),
            totals,
            dead: Vec::new(),
        }
    }

    pub(super) fn block(&self, id: &BlockId) -> Result<Option<BlockRow>, IndexError> {
        match self.rows.blocks.get(id) {
            Some(changed) => Ok(changed.clone()),
            None => self.index.block(id),
        }
    }

    pub(super) fn claim(&self, id: &ClaimId) -> Result<Option<ClaimRow>, IndexError> {
        match self.rows.claims.get(id) {
            Some(changed) => Ok(*changed),
            None => self.index.claim(id),
        }
    }

    pub(super) fn is_member(&self, short: u64, block: &BlockId) -> Result<bool, IndexError> {
        match self.rows.members.get(&(short, *block)) {
            Some(changed) => Ok(*changed),
            None => self.index.is_member(short, block),
        }
    }

    pub(super) fn members(
        &self,
        short: u64,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Page<BlockId, ()>, IndexError> {
        self.index.members(short, after, limit, &self.rows)
    }

    pub(super) fn kv(&self, key: &KvKey) -> Result<Option<KvRow>, IndexError> {
        match self.rows.kv.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.index.kv(key),
        }
    }

    pub(super) fn segment(&self, id: u32) -> Option<SegmentRow> {
        match self.rows.segments.get(&id) {
            Some(changed) => *changed,
            None => self.index.segment(id),
        }
    }

    pub(super) fn edit_segment(&mut self, id: u32, edit: impl FnOnce(&mut SegmentRow)) {
        let mut row = self.segment(id).unwrap_or(SegmentRow {
            len: SEGMENT_HEADER_LEN as u32,
            ..SegmentRow::default()
        });
        edit(&mut row);
        self.rows.segments.insert(id, Some(row));
    }

    /// For a dead record's segment, which may be gone already.
    fn edit_old_segment(&mut self, id: u32, edit: impl FnOnce(&mut SegmentRow)) {
        if self.segment(id).is_some() {
            self.edit_segment(id, edit);
        }
    }

    fn edit_block<T>(
        &mut self,
        id: BlockId,
        edit: impl FnOnce(&mut Self, &mut BlockRow) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let before = self.block(&id)?;
        let existed = before.is_some();
        let mut row = before.unwrap_or_default();
        let held = row.indices();
        let result = edit(self, &mut row)?;
        let exists = !row.is_empty();
        self.edit_digests(&id, IndexSet(held.0 ^ row.indices().0))?;
        self.totals.blocks = self.totals.blocks + u64::from(exists) - u64::from(existed);
        if exists || existed {
            self.rows.blocks.insert(id, exists.then_some(row));
        }
        Ok(result)
    }

    /// These shards of a block have come or gone.
    fn edit_digests(&mut self, id: &BlockId, changed: IndexSet) -> Result<(), IndexError> {
        if changed.is_empty() {
            return Ok(());
        }
        let marks = changed.iter().map(|index| mark(id, index));
        let change = marks.fold(0, std::ops::BitXor::bitxor);
        let group = id.group().0;
        let digest = match self.rows.groups.get(&group) {
            Some(changed) => *changed,
            None => self.index.group(group)?,
        };
        self.rows.groups.insert(group, digest ^ change);
        self.totals.digest ^= change;
        Ok(())
    }

    /// Applies the record at `at`. Records are applied in the order of the log.
    pub(super) fn apply(
        &mut self,
        at: Position,
        extent: Extent,
        entry: &Entry,
    ) -> Result<(), IndexError> {
        self.edit_segment(at.segment, |row| row.len = at.offset + extent.record_len);
        if !matches!(entry, Entry::Shard { .. }) {
            self.edit_segment(at.segment, |row| row.small += extent.record_len);
        }
        match entry {
            Entry::Shard {
                block,
                index,
                header,
                claim,
                moved_from,
            } => {
                if moved_from.is_some() {
                    self.totals.victim = *moved_from;
                }
                let shard = ShardRow {
                    index: *index,
                    damaged: false,
                    at,
                    data_at: extent.data_at,
                    data_len: extent.data_len,
                    record_len: extent.record_len,
                };
                let header = StripeHeader::decode(header).ok();
                let profile = header.map(|header| header.profile);
                self.put_shard(*block, profile, shard, *claim)
            }
            Entry::Claim {
                claim,
                expires_ms,
                blocks,
            } => {
                let Some(short) = self.touch_claim(*claim, *expires_ms, at.segment)? else {
                    return Ok(());
                };
                for block in blocks {
                    self.edit_block(*block, |draft, row| draft.join(short, *block, row))?;
                }
                Ok(())
            }
            Entry::State { claim, end } => self.end_claim(*claim, *end, at.segment),
            Entry::Tombs(tombs) => tombs.iter().try_for_each(|tomb| self.bury(tomb)),
            Entry::Kv(pairs) => {
                for pair in pairs {
                    let old = self.kv(&pair.key)?;
                    if let Some(old) = &old {
                        let len = pair.key.0.len() + old.value.as_ref().map_or(0, |v| v.len());
                        self.edit_old_segment(old.at.segment, |row| {
                            row.small = row.small.saturating_sub(len as u32);
                        });
                    }
                    let row = KvRow {
                        at,
                        oldest: old.map_or(at.segment, |old| old.oldest),
                        value: pair.value.clone(),
                    };
                    self.rows.kv.insert(pair.key.clone(), Some(row));
                }
                Ok(())
            }
        }
    }

    fn put_shard(
        &mut self,
        block: BlockId,
        profile: Option<EcProfile>,
        shard: ShardRow,
        claim: Option<(ClaimId, u64)>,
    ) -> Result<(), IndexError> {
        let short = match claim {
            Some((claim, expires_ms)) => self.touch_claim(claim, expires_ms, shard.at.segment)?,
            None => None,
        };
        self.edit_block(block, |draft, row| {
            // Only a moved shard is still there; others were buried before.
            if let Some(old) = row.take(shard.index) {
                draft.forget_shard(&old);
            }
            row.shards.push(shard);
            row.profile = profile;
            draft.totals.shards += 1;
            draft.totals.shard_bytes += u64::from(shard.data_len);
            draft.edit_segment(shard.at.segment, |row| row.live += shard.record_len);
            match short {
                Some(short) => draft.join(short, block, row),
                None => Ok(()),
            }
        })
    }

    /// The accounts of a shard whose record counts no longer.
    fn forget_shard(&mut self, shard: &ShardRow) {
        self.totals.shards = self.totals.shards.saturating_sub(1);
        self.totals.shard_bytes = self
            .totals
            .shard_bytes
            .saturating_sub(u64::from(shard.data_len));
        self.edit_old_segment(shard.at.segment, |row| {
            row.live = row.live.saturating_sub(shard.record_len);
        });
    }

    fn bury(&mut self, tomb: &Tomb) -> Result<(), IndexError> {
        self.edit_block(tomb.block, |draft, row| {
            // A later record of the same shard is not meant.
            let Some(shard) = row.shard(tomb.index).copied().filter(|s| s.at == tomb.at) else {
                return Ok(());
            };
            row.take(tomb.index);
            draft.forget_shard(&shard);
            if row.claims > 0 {
                draft.edit_old_segment(tomb.at.segment, |row| {
                    row.small += CLAIM_REMAINDER.min(shard.record_len);
                });
            }
            draft.dead.push(DeadData {
                segment: shard.at.segment,
                offset: u64::from(shard.at.offset) + u64::from(shard.data_at),
                len: u64::from(shard.data_len),
            });
            Ok(())
        })
    }

    /// Drops a shard that compaction found damaged; its record is about to go with its segment.
    pub(super) fn drop_shard(&mut self, block: BlockId, index: u8) -> Result<(), IndexError> {
        self.edit_block(block, |draft, row| {
            if let Some(shard) = row.take(index) {
                draft.forget_shard(&shard);
            }
            Ok(())
        })
    }

    /// Makes sure that the claim exists; its number, or `None` if it is gone.
    fn touch_claim(
        &mut self,
        claim: ClaimId,
        expires_ms: u64,
        segment: u32,
    ) -> Result<Option<u64>, IndexError> {
        let before = self.claim(&claim)?;
        let mut row = before.unwrap_or(ClaimRow {
            short: self.totals.next_short,
            state: ClaimState::Open,
            expires_ms: 0,
            oldest: segment,
            newest: segment,
        });
        if matches!(row.state, ClaimState::Releasing | ClaimState::Released) {
            return Ok(None);
        }
        if before.is_none() {
            self.number(claim);
        }
        row.expires_ms = row.expires_ms.max(expires_ms);
        row.newest = row.newest.max(segment);
        if before != Some(row) {
            self.rows.claims.insert(claim, Some(row));
        }
        Ok(Some(row.short))
    }

    /// Gives a new claim the next short number.
    fn number(&mut self, claim: ClaimId) {
        self.rows.shorts.insert(self.totals.next_short, Some(claim));
        self.totals.next_short += 1;
    }

    /// Adds `block` to what claim number `short` keeps.
    fn join(&mut self, short: u64, block: BlockId, row: &mut BlockRow) -> Result<(), IndexError> {
        // A block without a row is in no claim.
        let known = row.claims > 0 && self.is_member(short, &block)?;
        if !known {
            if !row.add_keeper(short) {
                self.rows.further.insert((block, short), true);
            }
            self.totals.members += 1;
            self.rows.members.insert((short, block), true);
        }
        Ok(())
    }

    /// Takes `block` out of claim number `short`; its row afterwards.
    pub(super) fn leave(
        &mut self,
        short: u64,
        block: BlockId,
    ) -> Result<Option<BlockRow>, IndexError> {
        if self.is_member(short, &block)? {
            self.rows.members.insert((short, block), false);
            self.totals.members = self.totals.members.saturating_sub(1);
            self.edit_block(block, |draft, row| {
                if !row.drop_keeper(short) {
                    draft.rows.further.insert((block, short), false);
                }
                Ok(())
            })?;
        }
        self.block(&block)
    }

    fn end_claim(&mut self, claim: ClaimId, end: ClaimEnd, segment: u32) -> Result<(), IndexError> {
        let before = self.claim(&claim)?;
        let mut row = before.unwrap_or(ClaimRow {
            short: self.totals.next_short,
            state: ClaimState::Released,
            expires_ms: 0,
            oldest: segment,
            newest: segment,
        });
        if before.is_none() {
            self.number(claim);
        }
        row.state = match (end, before.map(|row| row.state)) {
            (ClaimEnd::Closed, None | Some(ClaimState::Open | ClaimState::Closed)) => {
                row.newest = row.newest.max(segment);
                ClaimState::Closed
            }
            (ClaimEnd::Closed, Some(gone)) => gone,
            (ClaimEnd::Released { .. }, Some(ClaimState::Open | ClaimState::Closed)) => {
                self.totals.releases += 1;
                ClaimState::Releasing
            }
            (ClaimEnd::Released { .. }, Some(gone)) => gone,
            (ClaimEnd::Released { oldest, newest }, None) => {
                (row.oldest, row.newest) = (oldest, newest);
                ClaimState::Released
            }
        };
        self.rows.claims.insert(claim, Some(row));
        Ok(())
    }

    /// Marks a claim whose blocks have all been let go.
    pub(super) fn released(&mut self, claim: ClaimId, row: ClaimRow) {
        let row = ClaimRow {
            state: ClaimState::Released,
            ..row
        };
        self.rows.claims.insert(claim, Some(row));
    }
}
