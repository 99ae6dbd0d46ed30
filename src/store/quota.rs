//! Who may still write how much: the accounts of the data directory.
//!
//! Counted are allocated bytes of everything in the directory. New data stops a reserve below the
//! quota, so that deleting, compacting and the index always have room. Tiers share the
//! reserve: data stops first, claims and small records later, clean-up where only moving still has room, and letting go
//! last. None goes beyond the quota; only where more is used than it allows, since it was lowered or others have written to
//! the directory, what frees may go a bounded step further, or there would be no way to use less.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::rows::Totals;
use crate::base::VolumeId;

/// Bytes that a block's row may take in the index file, with half-empty pages and their copies.
pub(super) const BLOCK_ROW_COST: u64 = 230;
/// Likewise for one member of a claim.
pub(super) const MEMBER_ROW_COST: u64 = 160;
/// Likewise for a claim itself, and for a small record besides its bytes.
pub(super) const OTHER_ROW_COST: u64 = 160;
/// The index file before it has rows, and what a flush needs besides.
const INDEX_BASE: u64 = 1 << 20;
/// What bringing the index up to date with so many rows may write, copies of whole pages included.
pub(super) const fn flush_cost(rows: u64) -> u64 {
    INDEX_BASE + rows * (BLOCK_ROW_COST + MEMBER_ROW_COST)
}

/// Room is scarce where less than one in so many parts of the quota is left.
const SCARCE: u64 = 8;
/// Extent tables and blocks that are begun.
const SLACK: u64 = 128 << 10;
const SMALL_MIN: u64 = 512 << 10;
const SMALL_MAX: u64 = 64 << 20;
const SEGMENT_MIN: u64 = 2 << 20;
const SEGMENT_MAX: u64 = 256 << 20;

/// What is written, for whom there is how much room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// New shards: stop first.
    Data,
    /// Claims and small records.
    Claims,
    /// What gives room back in the end: leaves enough to move what is half dead.
    Cleanup,
    /// The same where moving gives nothing back any more, or others have filled the disk.
    Free,
    /// The end of claims: only what goes with them is last.
    Release,
    /// Letting go of what claims that have ended kept.
    Drain,
}

/// What one record of [`Tier::Free`] may take of a disk that others have filled.
const FREE_STEP: u64 = 12 << 10;
/// What only the end of claims may use.
const FOR_RELEASE: u64 = 256 << 10;
/// What only letting go may use: the largest record that it writes.
pub(super) const FOR_DRAIN: u64 = 192 << 10;

/// What the store occupies and may still take. Bytes, unless named otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The limit for the whole data directory.
    pub quota: u64,
    /// Occupied by everything in the data directory.
    pub allocated: u64,
    /// Of which cached shards of others, which make way for data.
    pub cached: u64,
    /// Promised to writes under way.
    pub reserved: u64,
    /// New shards taken before the answer is `Full`; trash makes way for them.
    pub intake_left: u64,
    /// Shards in trash, about.
    pub trash: u64,
    /// Free on the disk under it, for all its users.
    pub disk_free: u64,
    /// Shards held (number).
    pub shards: u64,
    /// Blocks of which at least one shard is held (number).
    pub blocks: u64,
    /// Data of the shards held.
    pub shard_bytes: u64,
    /// Segment files (number).
    pub segments: u64,
    /// Shards found damaged since the store was opened (number).
    pub damaged_shards: u64,
    /// Whether writes are refused until the store is reopened.
    pub poisoned: bool,
}

#[derive(Debug, Default)]
struct Amounts {
    quota: u64,
    /// How far what frees may go where the quota leaves it no room; else not above the quota.
    raised: u64,
    reserve_free: u64,
    /// What others may still write into the directory before it is counted again.
    aside: u64,
    segments: BTreeMap<u32, u64>,
    segments_sum: u64,
    /// Open volumes, each with its journal and tables.
    volumes: BTreeMap<VolumeId, u64>,
    volumes_sum: u64,
    other: u64,
    index: u64,
    /// What rows that the index file does not have yet will take there, but for those that `totals` count.
    unflushed: u64,
    /// Shards of others that may go at any time.
    ring: u64,
    reserved: u64,
    disk_free: u64,
    /// Shards in trash, about.
    trash: u64,
    segment_bytes: Option<u64>,
    totals: Totals,
}

/// The accounts. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Mutex<Amounts>>);

/// Bytes set aside for one write; given back when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Reservation {
    ledger: Ledger,
    bytes: u64,
}

impl Reservation {
    /// Adds another one of the same accounts to this one.
    pub(super) fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes `bytes` of it into one of their own; fewer if there are not so many.
    pub(super) fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation {
            ledger: self.ledger.clone(),
            bytes,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.amounts().reserved -= self.bytes;
    }
}

impl Amounts {
    /// How large a segment grows.
    fn segment_bytes(&self) -> u64 {
        let scaled = (self.quota / 32).clamp(SEGMENT_MIN, SEGMENT_MAX);
        self.segment_bytes.unwrap_or(scaled)
    }

    /// All but the ring, which makes way.
    const fn allocated(&self) -> u64 {
        self.segments_sum + self.volumes_sum + self.index + self.other
    }

    /// Room that the index may still need for the rows there are.
    const fn index_growth(&self) -> u64 {
        let rows = self.totals.blocks * BLOCK_ROW_COST + self.totals.members * MEMBER_ROW_COST;
        (INDEX_BASE + rows).saturating_sub(self.index) + self.unflushed
    }

    /// What only clean-up may use.
    fn critical(&self) -> u64 {
        self.segment_bytes() + self.index_growth() + SLACK + self.small() / 2
    }

    /// What claims and small records may use beyond new data.
    fn small(&self) -> u64 {
        (self.quota / 64).clamp(SMALL_MIN, SMALL_MAX)
    }

    /// What is used, or may be before it is counted.
    const fn spoken_for(&self) -> u64 {
        self.allocated() + self.aside
    }

    fn left(&self, tier: Tier) -> u64 {
        let reserve = match tier {
            Tier::Data => self.critical() + self.small(),
            Tier::Claims => self.critical() + self.small() / 2,
            Tier::Cleanup => return self.left_for_cleanup(),
            Tier::Free => return self.left_to_free(),
            Tier::Release => return self.left_at_last(FOR_DRAIN),
            Tier::Drain => return self.left_at_last(0),
        };
        let by_quota = self.quota.saturating_sub(self.spoken_for());
        let disk_free = self.disk_free.saturating_add(self.ring);
        let by_disk = disk_free.saturating_sub(self.reserve_free);
        by_quota
            .min(by_disk)
            .saturating_sub(reserve + self.reserved)
    }

    /// How far what frees may go.
    fn ceiling(&self) -> u64 {
        self.quota.max(self.raised)
    }

    /// Below the ceiling, with what the index may still need.
    fn below_ceiling(&self) -> u64 {
        let taken = self.spoken_for() + self.index_growth() + SLACK;
        self.ceiling().saturating_sub(taken)
    }

    fn left_for_cleanup(&self) -> u64 {
        let to_move = self.segment_bytes() / 2;
        self.below_ceiling()
            .saturating_sub(to_move)
            .min(self.disk_to_clean())
            .saturating_sub(self.reserved)
    }

    /// Of the disk, above what should stay free, for clean-up.
    fn disk_to_clean(&self) -> u64 {
        let by_disk = self.free_to_clean(self.ring);
        match self.disk_free > self.reserve_free {
            // What the index will take is taken from there as well.
            true => by_disk.saturating_sub(self.index_growth() + self.segment_bytes() / 2),
            false => by_disk,
        }
    }

    /// Also where others have filled the disk to what should stay free, in small steps: who deletes must not be told that
    /// there is no room.
    fn left_to_free(&self) -> u64 {
        let by_disk = self.disk_to_clean().saturating_sub(self.reserved);
        let by_disk = by_disk.max(FREE_STEP);
        self.left_at_last(FOR_RELEASE + FOR_DRAIN).min(by_disk)
    }

    /// The disk itself says when it is full.
    fn left_at_last(&self, for_others: u64) -> u64 {
        let taken = self.reserved + for_others;
        self.below_ceiling().saturating_sub(taken)
    }

    /// Of the disk, for what gives room back in the end. Where others have taken what should stay free, giving back is
    /// what helps.
    const fn free_to_clean(&self, ring: u64) -> u64 {
        let free = self.disk_free.saturating_add(ring);
        if free > self.reserve_free {
            return (free - self.reserve_free).saturating_sub(SLACK);
        }
        free.saturating_sub(SLACK)
    }

    /// Where more is used than the quota allows, some beyond that, or there would be no way to use less.
    fn raise(&mut self) {
        if self.spoken_for() + SLACK > self.quota {
            self.raised = self.spoken_for() + self.critical();
        }
    }

    /// What was given back is not taken again beyond the quota.
    fn settle(&mut self) {
        self.raised = self.raised.min(self.spoken_for() + self.critical());
    }
}

impl Ledger {
    pub(super) fn new(quota: u64, reserve_free: u64, segment_bytes: Option<u64>) -> Self {
        Ledger(Arc::new(Mutex::new(Amounts {
            quota,
            reserve_free,
            segment_bytes,
            disk_free: u64::MAX,
            ..Amounts::default()
        })))
    }

    fn amounts(&self) -> MutexGuard<'_, Amounts> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn set_quota(&self, quota: u64) {
        let mut amounts = self.amounts();
        let is_lowered = quota < amounts.quota;
        amounts.quota = quota;
        if is_lowered {
            amounts.raise();
        }
    }

    /// Everything was counted after opening. The quota may have been lowered since the last time.
    pub(super) fn opened(&self) {
        self.amounts().raise();
    }

    /// Something is to be let go and not even that has room: others have written to the directory. What is let go gives more
    /// back than it takes.
    pub(super) fn make_way(&self) {
        let mut amounts = self.amounts();
        if amounts.left(Tier::Drain) < FOR_DRAIN {
            amounts.raised = amounts.spoken_for() + amounts.reserved + amounts.critical();
        }
    }

    /// What others may still write into the directory before it is counted again.
    pub(super) fn set_aside(&self, bytes: u64) {
        self.amounts().aside = bytes;
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.amounts().segment_bytes()
    }

    pub(super) fn set_segment(&self, id: u32, allocated: u64) {
        let mut amounts = self.amounts();
        let before = amounts.segments.insert(id, allocated).unwrap_or(0);
        amounts.segments_sum = amounts.segments_sum - before + allocated;
    }

    pub(super) fn remove_segment(&self, id: u32) {
        let mut amounts = self.amounts();
        let before = amounts.segments.remove(&id).unwrap_or(0);
        amounts.segments_sum -= before;
    }

    pub(super) fn forget_segments(&self) {
        let mut amounts = self.amounts();
        amounts.segments.clear();
        amounts.segments_sum = 0;
    }

    /// What an open volume occupies.
    pub(super) fn set_volume(&self, id: VolumeId, allocated: u64) {
        let mut amounts = self.amounts();
        let before = amounts.volumes.insert(id, allocated).unwrap_or(0);
        amounts.volumes_sum = amounts.volumes_sum - before + allocated;
    }

    /// A volume that is open no longer. Its files stay.
    pub(super) fn close_volume(&self, id: VolumeId) {
        let mut amounts = self.amounts();
        let before = amounts.volumes.remove(&id).unwrap_or(0);
        amounts.volumes_sum -= before;
        // They count with the rest until that is counted again.
        amounts.other += before;
    }

    /// Whether a volume counts for itself.
    pub(super) fn has_volume(&self, id: VolumeId) -> bool {
        self.amounts().volumes.contains_key(&id)
    }

    /// Everything that is neither a segment nor the index nor of an open volume.
    pub(super) fn set_other(&self, allocated: u64) {
        self.amounts().other = allocated;
    }

    pub(super) fn set_index(&self, allocated: u64) {
        self.amounts().index = allocated;
    }

    /// What rows that the index file does not have yet will take there.
    pub(super) fn set_unflushed(&self, bytes: u64) {
        self.amounts().unflushed = bytes;
    }

    /// What the ring occupies.
    pub(super) fn set_ring(&self, allocated: u64) {
        let mut amounts = self.amounts();
        // Until the disk is asked again.
        amounts.disk_free =
            (amounts.disk_free.saturating_add(amounts.ring)).saturating_sub(allocated);
        amounts.ring = allocated;
    }

    /// What the ring occupies.
    pub(super) fn ring(&self) -> u64 {
        self.amounts().ring
    }

    /// What the ring may occupy: nothing that data needs, and never more than half of the quota.
    pub(super) fn ring_room(&self) -> u64 {
        let amounts = self.amounts();
        amounts.left(Tier::Data).min(amounts.quota / 2)
    }

    pub(super) fn set_disk_free(&self, free: u64) {
        self.amounts().disk_free = free;
    }

    pub(super) fn set_totals(&self, totals: Totals) {
        let mut amounts = self.amounts();
        amounts.totals = totals;
        amounts.settle();
    }

    /// Digest and number of the shards held.
    pub(super) fn digest(&self) -> (u128, u64) {
        let totals = self.amounts().totals;
        (totals.digest, totals.shards)
    }

    /// Bytes of `tier` that may still be written.
    pub(super) fn left(&self, tier: Tier) -> u64 {
        self.amounts().left(tier)
    }

    /// Sets `bytes` aside, or answers how many are left.
    pub(super) fn reserve(&self, tier: Tier, bytes: u64) -> Result<Reservation, u64> {
        let mut amounts = self.amounts();
        let left = amounts.left(tier);
        if bytes > left {
            return Err(amounts.left(Tier::Data));
        }
        amounts.reserved += bytes;
        Ok(Reservation {
            ledger: self.clone(),
            bytes,
        })
    }

    /// Whether new data is near its end, so that compaction should try harder.
    pub(super) fn is_tight(&self) -> bool {
        let amounts = self.amounts();
        amounts.left(Tier::Data) < 2 * amounts.segment_bytes()
    }

    /// So many bytes more, or fewer, are in trash.
    pub(super) fn trash_grows(&self, more: u64, fewer: u64) {
        let mut amounts = self.amounts();
        amounts.trash = (amounts.trash + more).saturating_sub(fewer);
    }

    /// So many bytes are in trash.
    pub(super) fn set_trash(&self, bytes: u64) {
        self.amounts().trash = bytes;
    }

    /// Bytes of shards in trash, about.
    pub(super) fn trash(&self) -> u64 {
        self.amounts().trash
    }

    /// Whether new data is so near its end that trash has to go.
    pub(super) fn is_scarce(&self) -> bool {
        let amounts = self.amounts();
        amounts.left(Tier::Data) < amounts.quota / SCARCE
    }

    /// Bytes that compaction may write before it gives anything back.
    pub(super) fn room_to_move(&self) -> u64 {
        let amounts = self.amounts();
        let by_quota = amounts
            .ceiling()
            .saturating_sub(amounts.spoken_for() + SLACK);
        // The index may grow before what was moved is given back.
        let strict = by_quota.saturating_sub(amounts.index_growth());
        let by_quota = match strict >= amounts.segment_bytes() {
            true => strict,
            false => by_quota,
        };
        by_quota.min(amounts.free_to_clean(0))
    }

    pub(super) fn usage(&self) -> Usage {
        let amounts = self.amounts();
        Usage {
            quota: amounts.quota,
            allocated: amounts.allocated() + amounts.ring,
            cached: amounts.ring,
            reserved: amounts.reserved,
            intake_left: amounts.left(Tier::Data) + amounts.trash,
            trash: amounts.trash,
            disk_free: amounts.disk_free,
            shards: amounts.totals.shards,
            blocks: amounts.totals.blocks,
            shard_bytes: amounts.totals.shard_bytes,
            segments: amounts.segments.len() as u64,
            damaged_shards: 0,
            poisoned: false,
        }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
