//! Pages of checkpoints as parts of blocks: stored in batches, and fetched some at a time.

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};

use super::failure::{CheckpointFailure, PageError};
use super::place::{PagePart, PagePlace};
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, BlockRef, EcProfile};
use crate::feeds::checkpoint::{PageHash, PageRef, Record, Root, root};
use crate::placement::promised;
use crate::store::VolumeError;
use crate::vfs::Point;
use crate::vfs::inner::Inner;
use crate::vfs::ledger::Born;

/// Reads of blocks at once.
const READS_MAX: usize = 4;
/// A part of a block's pages that is wanted, from which on all of the block is read.
const WHOLE_PART: u64 = 4;

impl Inner {
    /// Stores pages of the checkpoint `number`, and answers where each is.
    pub(in crate::vfs) async fn store_pages(
        &self,
        number: u64,
        pages: &[Bytes],
    ) -> Result<Vec<Bytes>, CheckpointFailure> {
        let mut all = BytesMut::with_capacity(pages.iter().map(Bytes::len).sum());
        pages.iter().for_each(|page| all.extend_from_slice(page));
        let mut all = all.freeze();
        // One block, but where a single row is longer than that.
        let mut blocks: Vec<BlockRef> = Vec::new();
        while !all.is_empty() {
            let bytes = all.split_to(all.len().min(CHUNK_MAX_BYTES));
            let len = bytes.len() as u64;
            let born = self.place(bytes, self.identity.profile).await?;
            self.adopt_pages(number, &born, len).await?;
            blocks.push(born.block);
        }
        let mut at = 0;
        let place = |page: &Bytes| {
            let place = self.place_of(&blocks, at, at + page.len());
            at += page.len();
            place.encode()
        };
        Ok(pages.iter().map(place).collect())
    }

    /// The bytes from `start` to before `end` of blocks that are full but for the last one.
    fn place_of(&self, blocks: &[BlockRef], start: usize, end: usize) -> PagePlace {
        let blocks = blocks.iter().enumerate();
        let part = |(number, block): (usize, &BlockRef)| {
            let first = number * CHUNK_MAX_BYTES;
            let from = start.max(first);
            let to = end.min(first + CHUNK_MAX_BYTES);
            (from < to).then(|| PagePart {
                block: *block,
                offset: (from - first) as u32,
                len: (to - from) as u32,
            })
        };
        PagePlace {
            profile: self.identity.profile,
            parts: blocks.filter_map(part).collect(),
        }
    }

    /// A block is in the books: the store need not remember its claim, or the claim is one too many.
    pub(super) fn is_adopted(&self, born: &Born, is_surplus: bool) {
        if is_surplus {
            let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
            surplus.push(born.keeper.clone());
        } else {
            let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            settled.push(born.keeper.number);
        }
    }

    /// Blocks with pages of a checkpoint of which it is not known that they survive what their profile promises among as
    /// many peers as there are; none if that cannot be said.
    fn frail_pages(&self, number: u64) -> Result<Option<Vec<(EcProfile, BlockId)>>, VolumeError> {
        let uses = self.uses_of_checkpoint(number)?;
        if uses.is_empty() {
            return Ok(None);
        }
        // A network that is too small for what a profile promises promises what it can, those away included.
        let members = self.blocks.net().members();
        let offering = members.list.iter().filter(|m| m.capacity_bytes > 0);
        let peers = offering.count();
        let mut frail = Vec::new();
        for block in uses.into_keys() {
            let Some(tenant) = self.tenant(block)? else {
                return Ok(None);
            };
            let profile = self.profile_of_block(&tenant);
            if (tenant.survives as usize) < promised(profile, peers) {
                frail.push((profile, block));
            }
        }
        Ok(Some(frail))
    }

    /// Whether all pages of a checkpoint are known to survive as many lost peers as their profile promises. Asks others where
    /// the books say less.
    async fn is_point_safe(self: &Arc<Self>, number: u64) -> Result<bool, VolumeError> {
        for is_asked in [false, true] {
            let inner = Arc::clone(self);
            let look = move || inner.frail_pages(number);
            match self.blocks.pools().disk.run(look).await? {
                None => return Ok(false),
                Some(frail) if frail.is_empty() => return Ok(true),
                Some(frail) if !is_asked => drop(self.ask_again(&frail).await?),
                Some(_) => {}
            }
        }
        Ok(false)
    }

    /// The bytes of pages, in their order and not verified. Some are read at once; where much of a block is
    /// wanted, all of it is read once.
    pub(in crate::vfs) async fn fetch_pages(
        &self,
        pages: &[PageRef],
    ) -> Result<Vec<Bytes>, PageError> {
        let mut places = Vec::with_capacity(pages.len());
        let mut wanted: BTreeMap<BlockId, u64> = BTreeMap::new();
        for page in pages {
            let place = PagePlace::decode(&page.place).ok_or(PageError::Place)?;
            if place.len_bytes() != u64::from(page.len_bytes) {
                return Err(PageError::Place);
            }
            for (block, bytes) in place.uses() {
                *wanted.entry(block).or_insert(0) += bytes;
            }
            places.push(place);
        }
        // What is read as a whole is read before, so that it is in memory for all of its pages.
        let is_whole = |part: &PagePart| {
            let wanted = wanted.get(&part.block.id).copied().unwrap_or(0);
            wanted > u64::from(part.len) && wanted * WHOLE_PART > u64::from(part.block.plain_len)
        };
        let mut whole: BTreeMap<BlockId, (BlockRef, EcProfile)> = BTreeMap::new();
        for place in &places {
            let parts = place.parts.iter().filter(|part| is_whole(part));
            whole.extend(parts.map(|part| (part.block.id, (part.block, place.profile))));
        }
        // Boxed: otherwise the compiler does not see that whoever waits for this can go from thread to thread.
        let mut read: Vec<BoxFuture<'_, Result<(BlockRef, Bytes), PageError>>> = Vec::new();
        for (block, profile) in whole.into_values() {
            let bytes = async move { Ok((block, self.blocks.read_block(&block, profile).await?)) };
            read.push(bytes.boxed());
        }
        let whole: Vec<(BlockRef, Bytes)> =
            stream::iter(read).buffered(READS_MAX).try_collect().await?;
        let mut read: Vec<BoxFuture<'_, Result<Bytes, PageError>>> = Vec::new();
        for place in &places {
            read.push(self.read_place(place, &whole).boxed());
        }
        stream::iter(read).buffered(READS_MAX).try_collect().await
    }

    /// The bytes at a place, which nobody checked.
    pub(in crate::vfs) async fn fetch_place(&self, place: &PagePlace) -> Result<Bytes, PageError> {
        self.read_place(place, &[]).await
    }

    /// The bytes at a place, some blocks being at hand.
    async fn read_place(
        &self,
        place: &PagePlace,
        whole: &[(BlockRef, Bytes)],
    ) -> Result<Bytes, PageError> {
        let mut found: Vec<Bytes> = Vec::with_capacity(place.parts.len());
        for part in &place.parts {
            let range = part.offset..part.offset.saturating_add(part.len);
            let at_hand = whole.iter().find(|(block, _)| *block == part.block);
            let at_hand = at_hand.filter(|(_, bytes)| range.end as usize <= bytes.len());
            found.push(match at_hand {
                Some((_, bytes)) => bytes.slice(range.start as usize..range.end as usize),
                None => {
                    let read = self.blocks.read_range(&part.block, place.profile, range);
                    read.await?
                }
            });
        }
        match found.len() {
            1 => Ok(found.pop().unwrap_or_default()),
            _ => Ok(found.concat().into()),
        }
    }

    /// The same at a place as it is encoded.
    pub(in crate::vfs) async fn fetch_encoded(&self, place: &[u8]) -> Result<Bytes, PageError> {
        let place = PagePlace::decode(place).ok_or(PageError::Place)?;
        self.fetch_place(&place).await
    }

    /// The root at a place: the one with this hash, checked.
    pub(in crate::vfs) async fn fetch_root(
        &self,
        place: &[u8],
        hash: PageHash,
        root_bytes: u32,
    ) -> Result<Root, CheckpointFailure> {
        let place = PagePlace::decode(place).ok_or(PageError::Place)?;
        if place.len_bytes() != u64::from(root_bytes) {
            return Err(PageError::Place.into());
        }
        let bytes = self.read_place(&place, &[]).await?;
        let record = Record {
            volume: self.identity.id,
            writer: self.writer(),
            hlc: crate::namespace::Hlc(0),
            root: hash,
            root_bytes,
            place: Bytes::new(),
        };
        // It has a signature of each writer.
        let opened = self
            .blocks
            .pools()
            .cpu
            .run(move || root::open(&record, &bytes));
        Ok(opened.await?)
    }
}

impl crate::vfs::Vfs {
    /// Whether a checkpoint is known to survive as many lost peers as its blocks promise. Asks others if need be.
    pub async fn is_safe(&self, point: &Point) -> bool {
        let safe = self.0.is_point_safe(point.number).boxed().await;
        safe.unwrap_or(false)
    }
}
