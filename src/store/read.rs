//! Reading: look the place up, read once, verify. Runs on the disk pool, beside the writer.

use std::io;

use bytes::Bytes;

use super::disk::DiskFile;
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

/// What was made of the shard found, and all indices held.
type Found<T> = Option<(T, IndexSet)>;

/// A shard record as it is on the disk, not yet checked.
pub(super) struct Copy {
    /// Encoded stripe header.
    pub(super) header: Bytes,
    pub(super) data: Bytes,
}

impl Shared {
    /// Looks something up while no rebuild is going on.
    pub(super) fn look_up<T>(
        &self,
        look: impl FnOnce() -> Result<T, IndexError>,
    ) -> Result<T, ReadFail> {
        let _gate = self
            .gate
            .read()
            .unwrap_or_else(|poison| poison.into_inner());
        self.check_readable()?;
        let generation = self.generation.load(std::sync::atomic::Ordering::Acquire);
        look().map_err(|error| ReadFail::Index(generation, error))
    }

    /// Refuses when the store is closed.
    pub(super) fn check_readable(&self) -> Result<(), ReadFail> {
        match self.closed.load(std::sync::atomic::Ordering::Acquire) {
            true => Err(ReadFail::Store(StoreError::Closed)),
            false => Ok(()),
        }
    }

    /// The shard of `block` with the lowest index in `wanted` that verifies.
    pub(super) fn get(
        &self,
        block: BlockId,
        wanted: IndexSet,
    ) -> Result<Found<VerifiedShard>, ReadFail> {
        self.find(block, wanted, |file, row| {
            let verified = read_copy(file, row, DiskFile::read_bytes)?.and_then(|copy| {
                VerifiedShard::verify(block, row.index, copy.header, copy.data).ok()
            });
            Ok(verified)
        })
    }

    /// What `read` makes of the shard of `block` with the lowest index in `wanted` of which it makes
    /// anything; the others are damaged.
    pub(super) fn find<T>(
        &self,
        block: BlockId,
        mut wanted: IndexSet,
        read: impl Fn(&dyn DiskFile, &ShardRow) -> io::Result<Option<T>>,
    ) -> Result<Found<T>, ReadFail> {
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
            match self.read_at(&shard, &read) {
                Ok(Some(verified)) => return Ok(Some((verified, row.held()))),
                Ok(None) => {
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
                Err(error) => {
                    self.index.report_unread(id);
                    trouble = Some(StoreError::Io(error.to_string()));
                }
            }
            wanted.remove(shard.index);
        }
    }

    /// What `read` makes of a shard where the row says it is; `None` also if its segment is gone.
    pub(super) fn read_at<T>(
        &self,
        shard: &ShardRow,
        read: impl Fn(&dyn DiskFile, &ShardRow) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        match self.files.get(shard.at.segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => read(file?.as_ref(), shard),
        }
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

/// Reads a whole shard record by `read`; `None` if it is not one.
pub(super) fn read_copy<F: DiskFile + ?Sized>(
    file: &F,
    shard: &ShardRow,
    read: impl Fn(&F, u64, usize) -> io::Result<Bytes>,
) -> io::Result<Option<Copy>> {
    let len = shard.data_at as usize + shard.data_len as usize;
    let bytes = read(file, u64::from(shard.at.offset), len)?;
    let header_len = bytes
        .get(HEADER_LEN_AT..HEADER_LEN_AT + 2)
        .and_then(|two| <[u8; 2]>::try_from(two).ok())
        .map(u16::from_le_bytes);
    let header_end = STRIPE_AT + usize::from(header_len.unwrap_or(0));
    if bytes.len() != len || header_end > shard.data_at as usize {
        return Ok(None);
    }
    Ok(Some(Copy {
        header: bytes.slice(STRIPE_AT..header_end),
        data: bytes.slice(shard.data_at as usize..),
    }))
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
