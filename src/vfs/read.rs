//! Reading what is not in memory: from the journal and from blocks.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use cairnfs_fuse::{Data, Errno, Whence};
use futures::future::join_all;

use super::errno::Stop;
use super::file::{Base, FileCell};
use super::inner::Inner;
use super::io::SeekAnswer;
use super::reads::Reading;
use crate::base::{BlockRef, Class, Classify, EcProfile};
use crate::content::ContentError;
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::{Body, Extent};
use crate::store::DirtyId;

/// How far ahead of a reader in sequence blocks are fetched.
const AHEAD_BYTES: u64 = 12 << 20;
/// A read of less than this that does not go on where the last one ended takes only what it needs.
const WHOLE_BYTES: u32 = 512 << 10;

static ZEROS: LazyLock<Bytes> = LazyLock::new(|| vec![0; 1 << 20].into());

/// Adds so many zeros.
pub(super) fn zeros(mut len: u64, to: &mut Vec<Bytes>) {
    while len > 0 {
        let part = len.min(ZEROS.len() as u64);
        to.push(ZEROS.slice(..part as usize));
        len -= part;
    }
}

/// What a read has to bring together, as it was when it was asked for.
#[derive(Debug, Clone)]
pub(super) struct ReadPlan {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) parts: Vec<Part>,
    pub(super) base: Base,
    pub(super) base_end: u64,
    pub(super) profile: EcProfile,
    pub(super) reading: Reading,
}

impl ReadPlan {
    /// Whether another one reads the same bytes from the same places.
    fn is_same(&self, other: &ReadPlan) -> bool {
        let is_same_base = match (&self.base, &other.base) {
            (Base::Inline(one), Base::Inline(two)) => one == two,
            (Base::Stored(_, one), Base::Stored(_, two)) => one == two,
            _ => false,
        };
        is_same_base
            && (self.end, self.base_end) == (other.end, other.base_end)
            && self.parts.len() == other.parts.len()
            && self.parts.iter().zip(&other.parts).all(|pair| match pair {
                (Part::Old(one), Part::Old(two)) => one == two,
                (Part::Piece(one), Part::Piece(two)) => {
                    (one.offset, one.len) == (two.offset, two.len)
                        && one.source.is_same(&two.source)
                }
                _ => false,
            })
    }
}

impl Inner {
    /// Carries out a read. Blocks that were let go meanwhile are looked for anew.
    pub(super) async fn fetch(
        self: Arc<Self>,
        cell: Arc<FileCell>,
        mut plan: Box<ReadPlan>,
    ) -> Result<Data, Errno> {
        let mut tries = 3;
        loop {
            let error = match self.gather(&plan).await {
                Ok(parts) => return Ok(one_or_many(parts)),
                Err(error) => error,
            };
            if tries > 0 && error.class() == Class::Missing {
                tries -= 1;
                match self.read(&cell, plan.offset, plan.end - plan.offset) {
                    Ok(data) => return Ok(data),
                    // What is still to be read from the same blocks was waited for as long as it may be.
                    Err(again) if !plan.is_same(&again) => {
                        plan = again;
                        continue;
                    }
                    Err(_) => {}
                }
            }
            tracing::warn!("a read failed: {error}");
            return Err(Errno::EIO);
        }
    }

    async fn gather(self: &Arc<Self>, plan: &ReadPlan) -> Result<Vec<Bytes>, ReadError> {
        let mut found = Vec::with_capacity(plan.parts.len());
        for part in &plan.parts {
            match part {
                Part::Piece(piece) => self.piece(plan, piece, &mut found).await?,
                Part::Old(range) => self.old(plan, range, &mut found).await?,
            }
        }
        Ok(found)
    }

    async fn piece(
        self: &Arc<Self>,
        plan: &ReadPlan,
        piece: &Piece,
        found: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        match &piece.source {
            Source::Memory { .. } => found.extend(piece.bytes()),
            Source::Hole => zeros(piece.len, found),
            Source::Journal { id, at } => {
                let bytes = self.kept(DirtyId(id.0), *at, piece.len as u32).await?;
                found.push(bytes);
            }
            Source::Block { block, at } => {
                let range = *at..*at + piece.len as u32;
                found.push(self.block(block, plan.profile, range, plan.reading).await?);
            }
        }
        Ok(())
    }

    /// Raw data of the journal.
    pub(super) async fn kept(&self, id: DirtyId, at: u32, len: u32) -> Result<Bytes, ReadError> {
        let volume = self.volume.clone();
        let read = move || volume.read_dirty(id, at, len);
        let bytes = self.blocks.pools().disk.run(read).await;
        let bytes = bytes.map_err(|error| ReadError::Journal(error.to_string(), error.class()))?;
        if bytes.len() == len as usize {
            Ok(bytes)
        } else {
            let why = "a piece of the journal is shorter than it was".to_owned();
            Err(ReadError::Journal(why, Class::Corrupt))
        }
    }

    /// Bytes of a block: of all of it where others are likely to be wanted next.
    async fn block(
        &self,
        block: &BlockRef,
        profile: EcProfile,
        range: Range<u32>,
        reading: Reading,
    ) -> Result<Bytes, ReadError> {
        let len = range.len();
        let bytes = if reading != Reading::Somewhere || len as u32 >= WHOLE_BYTES {
            let whole = self.blocks.read_block(block, profile).await;
            let whole = whole.map_err(ContentError::from)?;
            let end = whole.len().min(range.end as usize);
            whole.slice((range.start as usize).min(end)..end)
        } else {
            let part = self.blocks.read_range(block, profile, range).await;
            part.map_err(ContentError::from)?
        };
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(ReadError::Short)
        }
    }

    async fn old(
        self: &Arc<Self>,
        plan: &ReadPlan,
        range: &Range<u64>,
        found: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        let end = range.end.min(plan.base_end).max(range.start);
        let mut at = range.start;
        if at < end {
            match &plan.base {
                Base::Inline(bytes) => {
                    let to = end.min(bytes.len() as u64);
                    if at < to {
                        found.push(bytes.slice(at as usize..to as usize));
                        at = to;
                    }
                }
                Base::Stored(profile, body) => {
                    if plan.reading == Reading::Onward {
                        self.read_ahead(*profile, body, end, plan.base_end);
                    }
                    for extent in self.extents(*profile, body, at, end).await? {
                        let Some(part) = extent.clip(at, end) else {
                            continue;
                        };
                        zeros(part.offset - at, found);
                        let range = part.block_offset..part.block_offset + part.len;
                        let bytes = self
                            .block(&part.block, *profile, range, plan.reading)
                            .await?;
                        found.push(bytes);
                        at = part.end();
                    }
                }
            }
        }
        zeros(range.end - at, found);
        Ok(())
    }

    pub(super) async fn extents(
        &self,
        profile: EcProfile,
        body: &Body<crate::dag::NodeAt>,
        start: u64,
        end: u64,
    ) -> Result<Vec<Extent>, ReadError> {
        let found = self
            .extent_map
            .extents(&self.blocks, profile, body, start, end);
        Ok(found.await?)
    }

    /// Starts to fetch what a reader in sequence will want next, and waits for none of it: what is out of reach
    /// there must not keep the reader from what is here. What fails is told to whoever reads it.
    fn read_ahead(
        self: &Arc<Self>,
        profile: EcProfile,
        body: &Body<crate::dag::NodeAt>,
        from: u64,
        base_end: u64,
    ) {
        let to = from.saturating_add(AHEAD_BYTES).min(base_end);
        if from >= to {
            return;
        }
        let (inner, body) = (Arc::clone(self), body.clone());
        self.tasks.spawn(async move {
            let stop = inner.stop.clone();
            let fetch = async {
                let Ok(extents) = inner.extents(profile, &body, from, to).await else {
                    return;
                };
                let mut blocks: Vec<BlockRef> = Vec::new();
                for extent in extents {
                    if blocks.last() != Some(&extent.block) && inner.begin_ahead(extent.block) {
                        blocks.push(extent.block);
                    }
                }
                let reads = blocks
                    .iter()
                    .map(|block| inner.blocks.read_block(block, profile));
                join_all(reads).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = fetch => {}
            }
        });
    }

    /// Whether a block was not fetched ahead lately; it counts as such from now on.
    fn begin_ahead(&self, block: BlockRef) -> bool {
        let mut recent = self
            .ahead
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if recent.contains(&block.id) {
            return false;
        }
        recent.push_back(block.id);
        if recent.len() > 16 {
            recent.pop_front();
        }
        true
    }

    /// Where the next data or hole begins.
    pub(super) async fn found(self: Arc<Self>, seek: SeekAnswer) -> Result<u64, Errno> {
        let wants_data = seek.whence == Whence::Data;
        for part in &seek.parts {
            match part {
                Part::Piece(piece) => {
                    let is_data = !matches!(piece.source, Source::Hole);
                    if is_data == wants_data {
                        return Ok(piece.offset);
                    }
                }
                Part::Old(range) => {
                    let found = self.seek_old(&seek, range, wants_data).await;
                    if let Some(at) = found.map_err(|_| Errno::EIO)? {
                        return Ok(at);
                    }
                }
            }
        }
        match wants_data {
            true => Err(Errno::ENXIO),
            false => Ok(seek.size),
        }
    }

    async fn seek_old(
        &self,
        seek: &SeekAnswer,
        range: &Range<u64>,
        wants_data: bool,
    ) -> Result<Option<u64>, ReadError> {
        let end = range.end.min(seek.base_end);
        let mut at = range.start;
        if at < end {
            match &seek.base {
                Base::Inline(bytes) => {
                    let to = end.min(bytes.len() as u64);
                    if at < to {
                        if wants_data {
                            return Ok(Some(at));
                        }
                        at = to;
                    }
                }
                Base::Stored(profile, body) => {
                    for extent in self.extents(*profile, body, at, end).await? {
                        let Some(part) = extent.clip(at, end) else {
                            continue;
                        };
                        if wants_data {
                            return Ok(Some(part.offset));
                        }
                        if at < part.offset {
                            return Ok(Some(at));
                        }
                        at = part.end();
                    }
                }
            }
        }
        Ok((!wants_data && at < range.end).then_some(at))
    }
}

fn one_or_many(mut parts: Vec<Bytes>) -> Data {
    match parts.len() {
        0 | 1 => Data::One(parts.pop().unwrap_or_default()),
        _ => Data::Many(parts),
    }
}

/// Why bytes could not be brought.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("the journal: {0}")]
    Journal(String, Class),
    #[error("a block is shorter than its file says")]
    Short,
}

impl Classify for ReadError {
    fn class(&self) -> Class {
        match self {
            ReadError::Content(error) => error.class(),
            // It may have been released because the bytes are in a block now.
            ReadError::Journal(_, class) => *class,
            ReadError::Short => Class::Corrupt,
        }
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        Stop::Errno(super::errno::of_class(error.class()))
    }
}
