//! Which checkpoints are kept, and what of each block they use. Snapshots have numbers among those of checkpoints, and
//! are counted in the same way; besides their pages the contents of their files are.
//!
//! Each checkpoint has a number. What it uses of a block is counted when its pages are placed, or found among
//! those of the one before; last comes the row that says that it is there. A number without that row is of one that was
//! never finished, or is being let go: its counts are taken off again. So whenever a crash comes, nothing that a
//! kept checkpoint has is let go, and nothing else is kept for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::failure::CheckpointFailure;
use super::place::PagePlace;
use crate::base::limits::PAGE_PLACE_MAX_BYTES;
use crate::base::{BlockId, wire};
use crate::feeds::checkpoint::PageHash;
use crate::feeds::checkpoint::root::ROOT_MAX_BYTES;
use crate::namespace::Hlc;
use crate::store::{Group, Order, VolumeError};
use crate::vfs::inner::Inner;
use crate::vfs::ledger::{Born, Deltas};
use crate::vfs::rows::{CHECKPOINTS, pages};

/// First bytes of keys: a checkpoint that is kept.
const KEPT: u8 = 1;
/// What the pages of one use of a block.
const USES: u8 = 2;
/// A snapshot that is kept.
pub(in crate::vfs) const SNAPSHOTS: u8 = 4;
/// What the contents of files in one use of a block.
const CONTENTS: u8 = 5;
/// Version of the row of a kept checkpoint.
const VERSION: u8 = 1;
/// Longest such row.
const KEPT_MAX_BYTES: usize = PAGE_PLACE_MAX_BYTES + 128;
/// Rows read at once.
const PAGE: usize = 512;

/// A checkpoint that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCheckpoint {
    /// Its number: later ones have greater ones.
    pub number: u64,
    /// The latest moment in it.
    pub hlc: Hlc,
    /// When it was made (milliseconds since 1970).
    pub made_ms: u64,
    /// Rows in it.
    pub rows: u64,
    /// Hash of its root.
    pub root: PageHash,
    /// Bytes of that.
    pub root_bytes: u32,
    /// Where that is.
    pub place: Bytes,
}

/// `[version, moment, made, rows, hash of the root, its length, its place]`.
type KeptWire = (u8, Hlc, u64, u64, PageHash, u32, ByteBuf);

impl KeptCheckpoint {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode::<KeptWire>(&(
            VERSION,
            self.hlc,
            self.made_ms,
            self.rows,
            self.root,
            self.root_bytes,
            ByteBuf::from(self.place.to_vec()),
        ))
    }

    /// Reads a row; none if it is not one.
    pub fn decode(number: u64, bytes: &[u8]) -> Option<KeptCheckpoint> {
        let (version, hlc, made_ms, rows, root, root_bytes, place) =
            wire::decode_canonical::<KeptWire>(bytes, KEPT_MAX_BYTES).ok()?;
        let is_sound = version == VERSION
            && (1..=ROOT_MAX_BYTES).contains(&(root_bytes as usize))
            && PagePlace::decode(&place)?.len_bytes() == u64::from(root_bytes);
        is_sound.then_some(KeptCheckpoint {
            number,
            hlc,
            made_ms,
            rows,
            root,
            root_bytes,
            place: place.into_vec().into(),
        })
    }
}

fn kept_key(number: u64) -> Vec<u8> {
    [&[KEPT], &number.to_be_bytes()[..]].concat()
}

fn uses_of(space: u8, number: u64) -> Vec<u8> {
    [&[space], &number.to_be_bytes()[..]].concat()
}

fn uses_key(space: u8, number: u64, block: &BlockId) -> Vec<u8> {
    [&uses_of(space, number), &block.0[..]].concat()
}

/// Number and block of a key of [`USES`] or [`CONTENTS`].
fn read_uses(key: &[u8]) -> Option<(u64, BlockId)> {
    let (number, block) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), BlockId(block.try_into().ok()?)))
}

fn read_bytes(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

impl Inner {
    /// The checkpoints that are kept, the oldest first.
    pub(in crate::vfs) fn kept_checkpoints(
        &self,
    ) -> Result<Vec<KeptCheckpoint>, CheckpointFailure> {
        let mut found = Vec::new();
        for page in pages(&self.volume, CHECKPOINTS, &[KEPT], PAGE) {
            for (key, value) in page? {
                let number = key.get(1..).map_or(0, read_bytes);
                let kept = KeptCheckpoint::decode(number, &value);
                found.push(kept.ok_or(CheckpointFailure::Books(number))?);
            }
        }
        Ok(found)
    }

    /// What the pages of a checkpoint or a snapshot use of each block.
    pub(in crate::vfs) fn uses_of_checkpoint(
        &self,
        number: u64,
    ) -> Result<BTreeMap<BlockId, u64>, VolumeError> {
        self.uses_below(USES, number)
    }

    /// What the contents of files in a snapshot use of each block.
    pub(in crate::vfs) fn uses_of_contents(
        &self,
        number: u64,
    ) -> Result<BTreeMap<BlockId, u64>, VolumeError> {
        self.uses_below(CONTENTS, number)
    }

    fn uses_below(&self, space: u8, number: u64) -> Result<BTreeMap<BlockId, u64>, VolumeError> {
        let mut found = BTreeMap::new();
        for page in pages(&self.volume, CHECKPOINTS, &uses_of(space, number), PAGE) {
            for (key, value) in page? {
                found.extend(read_uses(&key).map(|(_, block)| (block, read_bytes(&value))));
            }
        }
        Ok(found)
    }

    /// Whether the contents of any of these snapshots are in a block.
    pub(in crate::vfs) fn is_in_snapshots(
        &self,
        numbers: &BTreeSet<u64>,
        block: &BlockId,
    ) -> Result<bool, VolumeError> {
        for number in numbers {
            let key = uses_key(CONTENTS, *number, block);
            if self.volume.get(CHECKPOINTS, &key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Blocks that have pages of checkpoints.
    pub(in crate::vfs) fn blocks_of_checkpoints(&self) -> Result<BTreeSet<BlockId>, VolumeError> {
        self.blocks_below(USES)
    }

    /// Blocks that have contents of files of snapshots which this device made.
    pub(in crate::vfs) fn blocks_of_contents(&self) -> Result<BTreeSet<BlockId>, VolumeError> {
        self.blocks_below(CONTENTS)
    }

    fn blocks_below(&self, space: u8) -> Result<BTreeSet<BlockId>, VolumeError> {
        let mut found = BTreeSet::new();
        for page in pages(&self.volume, CHECKPOINTS, &[space], PAGE) {
            let uses = page?;
            found.extend(uses.iter().filter_map(|(key, _)| Some(read_uses(key)?.1)));
        }
        Ok(found)
    }

    /// Numbers of checkpoints and snapshots that something is counted for.
    fn counted_checkpoints(&self) -> Result<BTreeSet<u64>, VolumeError> {
        let mut found = self.numbers_below(USES)?;
        found.extend(self.numbers_below(CONTENTS)?);
        Ok(found)
    }

    /// Numbers that come after a first byte in keys.
    pub(in crate::vfs) fn numbers_below(&self, space: u8) -> Result<BTreeSet<u64>, VolumeError> {
        let mut found = BTreeSet::new();
        let mut from = Bound::Included(vec![space]);
        loop {
            let at = from.as_ref().map(Vec::as_slice);
            let page = self
                .volume
                .scan(CHECKPOINTS, at, Bound::Unbounded, Order::Ascending, 1)?;
            let Some((key, _)) = page.rows.into_iter().next() else {
                // Where rows were removed lately a page may be empty and not the last.
                match page.next {
                    Some(next) if next.first() == Some(&space) => {
                        from = Bound::Excluded(next.to_vec());
                        continue;
                    }
                    _ => return Ok(found),
                }
            };
            let number = key
                .strip_prefix(&[space])
                .and_then(<[u8]>::first_chunk::<8>);
            let Some(number) = number.map(|number| u64::from_be_bytes(*number)) else {
                return Ok(found);
            };
            found.insert(number);
            let Some(next) = number.checked_add(1) else {
                return Ok(found);
            };
            from = Bound::Included([&[space], &next.to_be_bytes()[..]].concat());
        }
    }

    /// A number that no checkpoint has, greater than all.
    pub(in crate::vfs) fn next_checkpoint(&self) -> Result<u64, CheckpointFailure> {
        let counted = self.counted_checkpoints()?.last().copied();
        let kept = self.kept_checkpoints()?.last().map(|kept| kept.number);
        let snapshots = self.numbers_below(SNAPSHOTS)?.last().copied();
        Ok(counted.max(kept).max(snapshots).unwrap_or(0) + 1)
    }

    /// Takes a block with pages of a checkpoint into the books, and counts how much of it the checkpoint uses.
    pub(in crate::vfs) async fn adopt_pages(
        &self,
        number: u64,
        born: &Born,
        bytes: u64,
    ) -> Result<(), VolumeError> {
        loop {
            // The same pages may have been placed before, by one that was not finished.
            let is_enough = self.is_kept_enough(born)?;
            let uses = BTreeMap::from([(born.block.id, bytes)]);
            let new = match is_enough {
                true => &[],
                false => std::slice::from_ref(born),
            };
            match self.count_uses((USES, number), &uses, new) {
                Err(VolumeError::Busy) => self.volume.room().await?,
                Err(error) => return Err(error),
                Ok(()) => {
                    self.is_adopted(born, is_enough);
                    return Ok(());
                }
            }
        }
    }

    /// Counts what a checkpoint uses of blocks that are in the books.
    pub(in crate::vfs) async fn count_reused(
        &self,
        number: u64,
        uses: BTreeMap<BlockId, u64>,
    ) -> Result<(), VolumeError> {
        self.count_more((USES, number), uses).await
    }

    /// Counts what contents of files in a snapshot use of blocks that are in the books.
    pub(in crate::vfs) async fn count_contents(
        &self,
        number: u64,
        uses: BTreeMap<BlockId, u64>,
    ) -> Result<(), VolumeError> {
        self.count_more((CONTENTS, number), uses).await
    }

    async fn count_more(
        &self,
        whose: (u8, u64),
        uses: BTreeMap<BlockId, u64>,
    ) -> Result<(), VolumeError> {
        let all: Vec<(BlockId, u64)> = uses.into_iter().collect();
        for part in all.chunks(self.blocks_per_group()) {
            let part = part.iter().copied().collect();
            while let Err(error) = self.count_uses(whose, &part, &[]) {
                match error {
                    VolumeError::Busy => self.volume.room().await?,
                    error => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn count_uses(
        &self,
        (space, number): (u8, u64),
        uses: &BTreeMap<BlockId, u64>,
        born: &[Born],
    ) -> Result<(), VolumeError> {
        let (mut group, mut deltas) = (Group::new(), Deltas::default());
        for (block, bytes) in uses {
            let key = uses_key(space, number, block);
            let before = self.volume.get(CHECKPOINTS, &key)?;
            let before = before.map_or(0, |value| read_bytes(&value));
            group.put(CHECKPOINTS, &key, &(before + bytes).to_be_bytes());
            deltas.add(*block, i64::try_from(*bytes).unwrap_or(i64::MAX));
        }
        self.apply_counted(&mut group, &deltas, born).map(drop)
    }

    /// Makes a checkpoint known: from now on it is kept.
    pub(super) async fn keep_checkpoint(&self, kept: &KeptCheckpoint) -> Result<(), VolumeError> {
        let mut group = Group::new();
        group.put(CHECKPOINTS, &kept_key(kept.number), &kept.encode());
        loop {
            match self.apply(&group) {
                Err(VolumeError::Busy) => self.volume.room().await?,
                Err(error) => return Err(error),
                Ok(seq) => return self.volume.sync(seq).await,
            }
        }
    }

    /// Keeps the last checkpoint, and so many more before it, no longer than that.
    pub(super) async fn keep_last_checkpoints(&self, more: usize) -> Result<(), CheckpointFailure> {
        let kept = self.kept_checkpoints()?;
        let gone = kept.len().saturating_sub(1 + more);
        for old in kept.iter().take(gone) {
            let mut group = Group::new();
            group.cleanup();
            group.remove(CHECKPOINTS, &kept_key(old.number));
            while let Err(error) = self.apply(&group) {
                match error {
                    VolumeError::Busy => self.volume.room().await?,
                    error => return Err(error.into()),
                }
            }
            self.forget_uses(old.number).await?;
        }
        Ok(())
    }

    /// Takes what a checkpoint or a snapshot uses off the counts, in as many groups as that takes.
    pub(in crate::vfs) async fn forget_uses(&self, number: u64) -> Result<(), VolumeError> {
        self.forget_uses_below(CONTENTS, number).await?;
        self.forget_uses_below(USES, number).await
    }

    async fn forget_uses_below(&self, space: u8, number: u64) -> Result<(), VolumeError> {
        let all: Vec<(BlockId, u64)> = self.uses_below(space, number)?.into_iter().collect();
        for part in all.chunks(self.blocks_per_group()) {
            loop {
                let (mut group, mut deltas) = (Group::new(), Deltas::default());
                group.cleanup();
                for (block, bytes) in part {
                    group.remove(CHECKPOINTS, &uses_key(space, number, block));
                    deltas.add(*block, -i64::try_from(*bytes).unwrap_or(i64::MAX));
                }
                match self.apply_counted(&mut group, &deltas, &[]) {
                    Err(VolumeError::Busy) => self.volume.room().await?,
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
        }
        Ok(())
    }

    /// Takes off the counts what belongs to no checkpoint that is kept. To be called while none is being made.
    pub(in crate::vfs) async fn forget_unfinished(&self) -> Result<(), CheckpointFailure> {
        let kept = self.kept_checkpoints()?;
        let mut kept: BTreeSet<u64> = kept.iter().map(|kept| kept.number).collect();
        kept.extend(self.numbers_below(SNAPSHOTS)?);
        for number in self.counted_checkpoints()?.difference(&kept) {
            self.forget_uses(*number).await?;
        }
        Ok(())
    }
}
