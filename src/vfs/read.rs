//! Reading what is not in memory: from the journal and from blocks.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use cairnfs_fuse::{CopyRange, Data, Errno, Whence};

use super::errno::Stop;
use super::file::{Base, FileCell};
use super::inner::Inner;
use super::io::{SeekAnswer, end_of};
use crate::base::{BlockRef, Class, Classify, EcProfile};
use crate::content::ContentError;
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::{Body, Extent};
use crate::store::DirtyId;

/// Most bytes that one request copies by reading and writing them.
const COPY_BYTES: u64 = 16 << 20;
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
    pub(super) goes_on: bool,
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
            match self.gather(&plan).await {
                Ok(parts) => return Ok(one_or_many(parts)),
                Err(error) if tries > 0 && error.class() == Class::Missing => {
                    tries -= 1;
                    match self.read(&cell, plan.offset, plan.end - plan.offset) {
                        Ok(data) => return Ok(data),
                        Err(again) => plan = again,
                    }
                }
                Err(error) => {
                    tracing::warn!("a read failed: {error}");
                    return Err(Errno::EIO);
                }
            }
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
                found.push(self.block(block, plan.profile, range, plan.goes_on).await?);
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
        goes_on: bool,
    ) -> Result<Bytes, ReadError> {
        let len = range.len();
        let bytes = if goes_on || len as u32 >= WHOLE_BYTES {
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
                    if plan.goes_on {
                        self.read_ahead(*profile, body, end, plan.base_end).await;
                    }
                    for extent in self.extents(*profile, body, at, end).await? {
                        let Some(part) = extent.clip(at, end) else {
                            continue;
                        };
                        zeros(part.offset - at, found);
                        let range = part.block_offset..part.block_offset + part.len;
                        let bytes = self
                            .block(&part.block, *profile, range, plan.goes_on)
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

    /// Starts to fetch what a reader in sequence will want next. What fails is told to whoever reads it.
    async fn read_ahead(
        self: &Arc<Self>,
        profile: EcProfile,
        body: &Body<crate::dag::NodeAt>,
        from: u64,
        base_end: u64,
    ) {
        let to = from.saturating_add(AHEAD_BYTES).min(base_end);
        let Ok(extents) = self.extents(profile, body, from, to).await else {
            return;
        };
        let mut last = None;
        for extent in extents {
            if last == Some(extent.block.id) || !self.begin_ahead(extent.block) {
                continue;
            }
            last = Some(extent.block.id);
            let inner = Arc::clone(self);
            self.tasks.spawn(async move {
                let read = inner.blocks.read_block(&extent.block, profile);
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => {}
                    _ = read => {}
                }
            });
        }
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

    /// What can be copied without being read: none if a part is in the journal only, or below a manifest, or its blocks
    /// do not have the redundancy that is `wanted`. Blocks of changes have their `own`.
    pub(super) fn copyable(
        &self,
        parts: &[Part],
        base: &Base,
        base_end: u64,
        (own, wanted): (Option<EcProfile>, EcProfile),
    ) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let hole = |start: u64, end: u64, pieces: &mut Vec<Piece>| {
            if start < end {
                pieces.push(Piece {
                    offset: start,
                    len: end - start,
                    source: Source::Hole,
                });
            }
        };
        for part in parts {
            match part {
                Part::Piece(piece) if matches!(piece.source, Source::Journal { .. }) => {
                    return None;
                }
                Part::Piece(piece)
                    if matches!(piece.source, Source::Block { .. }) && own != Some(wanted) =>
                {
                    return None;
                }
                Part::Piece(piece) => pieces.push(piece.clone()),
                Part::Old(range) => {
                    let end = range.end.min(base_end).max(range.start);
                    let mut at = range.start;
                    match base {
                        _ if at == end => {}
                        Base::Stored(profile, Body::Inline(extents)) if *profile == wanted => {
                            for part in extents.iter().filter_map(|e| e.clip(range.start, end)) {
                                hole(at, part.offset, &mut pieces);
                                at = part.end();
                                pieces.push(Piece {
                                    offset: part.offset,
                                    len: part.len.into(),
                                    source: Source::Block {
                                        block: part.block,
                                        at: part.block_offset,
                                    },
                                });
                            }
                        }
                        _ => return None,
                    }
                    hole(at, range.end, &mut pieces);
                }
            }
        }
        Some(pieces)
    }

    /// Copies by reading and writing.
    pub(super) async fn copy_bytes(self: Arc<Self>, copy: CopyRange) -> Result<u64, Errno> {
        let (from, to) = (self.opened(copy.from.0.0)?, self.opened(copy.to.0.0)?);
        let mut done = 0;
        // Whoever wants more asks again: nobody has to wait for one answer for as long as it takes. What the
        // copy itself adds to a file is not copied once more.
        let left = self.lock(&from).size().saturating_sub(copy.from_offset);
        let len = copy.len.min(left).min(COPY_BYTES);
        end_of(copy.to_offset, len)?;
        while done < len {
            let step = (len - done).min(1 << 20);
            let data = match self.read(&from, copy.from_offset + done, step) {
                Ok(data) => data,
                Err(plan) => self.clone().fetch(Arc::clone(&from), plan).await?,
            };
            if data.is_empty() {
                break;
            }
            let bytes = data.to_vec();
            let now = self.now();
            {
                let mut state = self.lock(&to);
                state.write(copy.to_offset + done, &bytes, now.time, now.hlc);
                state.unguard();
                self.queue(&to, &mut state);
            }
            done += bytes.len() as u64;
            self.wait_for_memory().await?;
        }
        Ok(done)
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
