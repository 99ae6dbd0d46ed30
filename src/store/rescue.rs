//! What a segment that is about to go does not say any more, and the index still knows: it is written again.
//!
//! A record that does not decode, or that the disk does not give, may have said anything. So all is said again that it may
//! have been the only word of. Without that, shards would stay in the index though their file is gone, and claims would
//! be gone once the index is built anew.

use std::sync::Arc;

use bytes::Bytes;

use super::compact::read_failed;
use super::disk::DiskFile;
use super::engine::{Batch, Engine, Fail};
use super::record::{ClaimEnd, Entry, KvKey, KvPair};
use super::rows::{ClaimRow, ClaimState, ShardRow};
use crate::base::{BlockId, ClaimId};
use crate::erasure::VerifiedShard;

/// Rows looked at together.
const PAGE: usize = 1024;
/// Blocks named by one record of a claim.
const BLOCKS_PER_RECORD: usize = 512;
/// What is to be written is made durable after so many bytes.
const BATCH_BYTES: u64 = 4 << 20;

/// Rows of a segment that need not be remembered.
pub(super) struct Left<'a> {
    pub(super) victim: u32,
    pub(super) file: &'a Arc<dyn DiskFile>,
    pub(super) claims: &'a [ClaimId],
    pub(super) kv: &'a [KvKey],
}

impl Engine {
    /// Writes again what a segment may have had in places that cannot be read.
    pub(super) fn rescue(&mut self, batch: &mut Batch, left: &Left<'_>) -> Result<(), Fail> {
        self.rescue_claims(batch, left)?;
        self.rescue_shards(batch, left)?;
        self.rescue_small(batch, left)
    }

    fn rescue_claims(&mut self, batch: &mut Batch, left: &Left<'_>) -> Result<(), Fail> {
        let mut after = None;
        loop {
            let page = self.shared.index.claims(after.as_ref(), PAGE)?;
            for (claim, _) in page.rows {
                // As it is by now.
                let row = batch.draft.claim(&claim)?;
                let is_near = |row: &ClaimRow| (row.oldest..=row.newest).contains(&left.victim);
                if let Some(row) = row.filter(is_near) {
                    self.rescue_claim(batch, left, claim, row)?;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn rescue_claim(
        &mut self,
        batch: &mut Batch,
        left: &Left<'_>,
        claim: ClaimId,
        row: ClaimRow,
    ) -> Result<(), Fail> {
        let (oldest, newest) = (row.oldest, row.newest);
        let released = ClaimEnd::Released { oldest, newest };
        let end = match row.state {
            ClaimState::Open => None,
            ClaimState::Closed => Some(ClaimEnd::Closed),
            ClaimState::Releasing => Some(released),
            ClaimState::Released => {
                let index = &self.shared.index;
                let is_named = index.any_segment(oldest, newest, Some(left.victim));
                let is_needed = is_named && !left.claims.contains(&claim);
                is_needed.then_some(released)
            }
        };
        if matches!(row.state, ClaimState::Open | ClaimState::Closed) {
            self.rescue_members(batch, claim, row)?;
        }
        match end {
            Some(end) => self.emit(batch, &Entry::State { claim, end }, Bytes::new()),
            None => Ok(()),
        }
    }

    /// Says again which blocks a claim keeps.
    fn rescue_members(
        &mut self,
        batch: &mut Batch,
        claim: ClaimId,
        row: ClaimRow,
    ) -> Result<(), Fail> {
        let mut after: Option<BlockId> = None;
        loop {
            let page = batch
                .draft
                .members(row.short, after.as_ref(), BLOCKS_PER_RECORD)?;
            let blocks: Vec<BlockId> = page.rows.iter().map(|(block, ())| *block).collect();
            if !blocks.is_empty() {
                let entry = Entry::Claim {
                    claim,
                    expires_ms: row.expires_ms,
                    blocks,
                };
                self.emit(batch, &entry, Bytes::new())?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn rescue_shards(&mut self, batch: &mut Batch, left: &Left<'_>) -> Result<(), Fail> {
        let mut after = None;
        let mut bytes = 0;
        loop {
            let page = self.shared.index.block_page(None, after.as_ref(), PAGE)?;
            for (block, _) in page.rows {
                let row = batch.draft.block(&block)?;
                let shards = row.map_or_else(Vec::new, |row| row.shards);
                for shard in shards {
                    if shard.at.segment != left.victim {
                        continue;
                    }
                    bytes += self.rescue_shard(batch, left, block, &shard)?;
                    if bytes >= BATCH_BYTES {
                        self.write(batch)?;
                        bytes = 0;
                    }
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Bytes written. A shard that does not verify is not held any more.
    fn rescue_shard(
        &mut self,
        batch: &mut Batch,
        left: &Left<'_>,
        block: BlockId,
        row: &ShardRow,
    ) -> Result<u64, Fail> {
        let read = super::read::read_copy(left.file.as_ref(), row, DiskFile::read_bytes);
        let copy = match read {
            // The disk may give it another time.
            Err(error) if !self.is_given_up(left.victim) => return Err(read_failed(&error)),
            read => read.ok().flatten(),
        };
        let sound = copy
            .and_then(|copy| VerifiedShard::verify(block, row.index, copy.header, copy.data).ok());
        let Some(shard) = sound else {
            self.count_damage();
            batch.draft.drop_shard(block, row.index)?;
            return Ok(0);
        };
        // For whom it is kept was said before.
        let entry = Entry::Shard {
            block,
            index: row.index,
            header: shard.header().clone(),
            claim: None,
            moved_from: Some(left.victim),
        };
        self.emit(batch, &entry, shard.data().clone())?;
        Ok(u64::from(row.record_len))
    }

    fn rescue_small(&mut self, batch: &mut Batch, left: &Left<'_>) -> Result<(), Fail> {
        let (all, mut after) = (KvKey(Vec::new()), None);
        loop {
            let page = self.shared.index.kv_page(&all, after.as_ref(), PAGE)?;
            for (key, _) in page.rows {
                // As it is by now: what could be read is elsewhere already.
                let row = batch.draft.kv(&key)?;
                let row = row.filter(|row| row.at.segment == left.victim);
                let Some(row) = row.filter(|_| !left.kv.contains(&key)) else {
                    continue;
                };
                let value = row.value;
                self.emit(batch, &Entry::Kv(vec![KvPair { key, value }]), Bytes::new())?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}
