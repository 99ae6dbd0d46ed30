//! Reading: look the place up, read once, verify. Runs on the disk pool, beside the writer.

use std::io;

use bytes::Bytes;

use super::error::StoreError;
use super::record::{KvKey, STRIPE_AT};
use super::rows::{BlockRow, KvRow, ShardRow};
use super::shared::Shared;
use super::tables::IndexError;
use crate::base::{BlockId, ClaimId, IndexSet, ShardId};
use crate::erasure::VerifiedShard;

/// Times a shard is looked up again because it was moved while it was read.
const MOVES_MAX: usize = 4;
/// Where the meta part of a shard record has the length of its stripe header.
const HEADER_LEN_AT: usize = super::record::HEADER_LEN + 2;

/// Why a read did not answer.
#[derive(Debug)]
pub(super) enum ReadFail {
    /// The index of this generation must be rebuilt first.
    Index(u64, IndexError),
    Store(StoreError),
}

/// The shard found and all indices held.
type Found = Option<(VerifiedShard, IndexSet)>;

enum Copy {
    Sound(VerifiedShard),
    /// It is not where the index said, or not what it should be.
    Bad,
}

impl Shared {
    /// Looks something up while no rebuild is going on.
    fn look_up<T>(&self, look: impl FnOnce() -> Result<T, IndexError>) -> Result<T, ReadFail> {
        let _gate = self
            .gate
            .read()
            .unwrap_or_else(|poison| poison.into_inner());
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(ReadFail::Store(StoreError::Closed));
        }
        let generation = self.generation.load(std::sync::atomic::Ordering::Acquire);
        look().map_err(|error| ReadFail::Index(generation, error))
    }

    /// The shard of `block` with the lowest index in `wanted` that verifies.
    pub(super) fn get(&self, block: BlockId, mut wanted: IndexSet) -> Result<Found, ReadFail> {
        let mut trouble = None;
        let mut moves = 0;
        loop {
            let row = self
                .look_up(|| self.index.block(&block))?
                .unwrap_or_default();
            let known_bad = first_damaged(&row, wanted);
            let Some(shard) = first(&row, wanted) else {
                let corrupt = |index| StoreError::Corrupt(ShardId { block, index });
                let trouble = trouble.or_else(|| known_bad.map(corrupt));
                return trouble.map_or(Ok(None), |error| Err(ReadFail::Store(error)));
            };
            let id = ShardId {
                block,
                index: shard.index,
            };
            match self.read_copy(block, &shard) {
                Ok(Copy::Sound(verified)) => return Ok(Some((verified, row.held()))),
                Ok(Copy::Bad) => {
                    // Moved or deleted while it was read, or damaged where it is?
                    let again = self.look_up(|| self.index.block(&block))?;
                    let now = again.and_then(|row| row.shard(shard.index).copied());
                    if now.is_none_or(|now| now.at != shard.at) && moves < MOVES_MAX {
                        moves += 1;
                        continue;
                    }
                    self.note_damage(id, shard.at);
                    trouble = Some(StoreError::Corrupt(id));
                }
                Err(error) => trouble = Some(StoreError::Io(error.to_string())),
            }
            wanted.remove(shard.index);
        }
    }

    fn read_copy(&self, block: BlockId, shard: &ShardRow) -> io::Result<Copy> {
        let file = match self.files.get(shard.at.segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copy::Bad),
            other => other?,
        };
        let len = shard.data_at as usize + shard.data_len as usize;
        let bytes = file.read_bytes(u64::from(shard.at.offset), len)?;
        let header_len = bytes
            .get(HEADER_LEN_AT..HEADER_LEN_AT + 2)
            .and_then(|two| <[u8; 2]>::try_from(two).ok())
            .map(u16::from_le_bytes);
        let header_end = STRIPE_AT + usize::from(header_len.unwrap_or(0));
        if bytes.len() != len || header_end > shard.data_at as usize {
            return Ok(Copy::Bad);
        }
        let header = bytes.slice(STRIPE_AT..header_end);
        let data = bytes.slice(shard.data_at as usize..);
        Ok(
            match VerifiedShard::verify(block, shard.index, header, data) {
                Ok(verified) => Copy::Sound(verified),
                Err(_) => Copy::Bad,
            },
        )
    }

    /// The indices held of each block.
    pub(super) fn held(&self, blocks: &[BlockId]) -> Result<Vec<IndexSet>, ReadFail> {
        let rows = self.look_up(|| self.index.blocks(blocks))?;
        let held = |row: Option<BlockRow>| row.map_or(IndexSet::EMPTY, |row| row.held());
        Ok(rows.into_iter().map(held).collect())
    }

    pub(super) fn kv_get(&self, key: &KvKey) -> Result<Option<Bytes>, ReadFail> {
        let row = self.look_up(|| self.index.kv(key))?;
        Ok(row.and_then(|row| row.value))
    }

    /// Small records after `after`, and where to go on.
    pub(super) fn kv_page(
        &self,
        prefix: &KvKey,
        after: Option<&KvKey>,
        limit: usize,
    ) -> Result<(Vec<(KvKey, Bytes)>, Option<KvKey>), ReadFail> {
        let page = self.look_up(|| self.index.kv_page(prefix, after, limit))?;
        let present = |(key, row): (KvKey, KvRow)| row.value.map(|value| (key, value));
        let rows = page.rows.into_iter().filter_map(present).collect();
        Ok((rows, page.next))
    }

    /// Open claims that have expired by `now_ms`, of a page of claims; and where to go on.
    pub(super) fn expired(
        &self,
        after: Option<&ClaimId>,
        limit: usize,
        now_ms: u64,
    ) -> Result<(Vec<ClaimId>, Option<ClaimId>), ReadFail> {
        use super::rows::ClaimState;
        let page = self.look_up(|| self.index.claims(after, limit))?;
        let gone = page
            .rows
            .iter()
            .filter(|(_, row)| row.state == ClaimState::Open && row.is_gone(now_ms));
        Ok((gone.map(|(id, _)| *id).collect(), page.next))
    }
}

fn first(row: &BlockRow, wanted: IndexSet) -> Option<ShardRow> {
    let sound = row.shards.iter().filter(|shard| !shard.damaged);
    sound
        .filter(|shard| wanted.contains(shard.index))
        .min_by_key(|shard| shard.index)
        .copied()
}

fn first_damaged(row: &BlockRow, wanted: IndexSet) -> Option<u8> {
    let damaged = row.shards.iter().filter(|shard| shard.damaged);
    let wanted = damaged.filter(|shard| wanted.contains(shard.index));
    wanted.map(|shard| shard.index).min()
}
