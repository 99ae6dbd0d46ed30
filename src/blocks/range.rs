//! Reading a range of a block: only the frames that cover it, of only the shards that have them.
//!
//! Order of asking: memory, the own store, the computed holder of each data shard. Whatever is missing,
//! late or wrong there is left to the way by which whole blocks are read, which decodes.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};

use super::part::Local;
use super::shared::Recalled;
use super::{Blocks, GetError};
use crate::base::limits::{CHUNK_MAX_BYTES, FRAME_BYTES};
use crate::base::{BlockRef, EcProfile};
use crate::crypto::{self, Layout, SealError};
use crate::erasure::Stripe;

/// Sealed chunks up to this size are read whole: asking for parts costs more than the bytes.
const WHOLE_MAX_BYTES: usize = 128 << 10;

/// Where everything is in a block whose header was opened.
#[derive(Debug)]
pub(super) struct Known {
    pub stripe: Arc<Stripe>,
    pub layout: Layout,
}

impl Known {
    /// Opens the header at the `front` of a sealed chunk; `None` if it is not that of the reference, which
    /// reading the block whole then says.
    pub fn open(reference: &BlockRef, stripe: Arc<Stripe>, front: &[u8]) -> Option<Self> {
        let layout = Layout::open(&reference.key, front).ok()?;
        let fits = layout.plain_len() == reference.plain_len
            && layout.sealed_len() == stripe.header().sealed_len;
        fits.then_some(Known { stripe, layout })
    }

    /// Whether it is worth while to read parts of it.
    pub fn is_large(stripe: &Stripe) -> bool {
        stripe.header().sealed_len as usize > WHOLE_MAX_BYTES
    }

    pub fn memory_bytes(&self) -> usize {
        // Of each frame its place, its length and its word in the header.
        512 + 2 * self.stripe.encoded().len() + 16 * self.layout.frame_count()
    }

    /// Opens each of these frames, given their sealed bytes as consecutive parts.
    pub fn open_frames(
        &self,
        reference: &BlockRef,
        frames: Range<usize>,
        parts: &[Bytes],
    ) -> Result<Vec<Bytes>, SealError> {
        let missing = || SealError::NoSuchFrames(frames.clone());
        let begin = self.layout.sealed_range(frames.clone());
        let begin = begin.ok_or_else(missing)?.start;
        let open = |frame: usize| {
            let sealed = self.layout.sealed_range(frame..frame + 1);
            let sealed = sealed.ok_or_else(missing)?;
            let within = (sealed.start - begin) as usize..(sealed.end - begin) as usize;
            let parts = slices(parts, within);
            crypto::open_frames(&reference.key, &self.layout, frame..frame + 1, &parts)
        };
        frames.clone().map(open).collect()
    }
}

/// The bytes `range` of consecutive parts.
fn slices(parts: &[Bytes], range: Range<usize>) -> Vec<Bytes> {
    let mut start = 0;
    let mut found = Vec::with_capacity(2);
    for part in parts {
        let from = range.start.clamp(start, start + part.len());
        let to = range.end.clamp(start, start + part.len());
        if from < to {
            found.push(part.slice(from - start..to - start));
        }
        start += part.len();
    }
    found
}

/// What a fetch of frames brings.
#[derive(Debug, Clone)]
pub(super) enum Frames {
    /// Single frames, side by side.
    Single {
        /// Number of the first.
        first: usize,
        frames: Arc<[Bytes]>,
    },
    /// The block they are in.
    Whole(Bytes),
}

impl Frames {
    /// One frame.
    fn get(&self, frame: usize) -> Option<Bytes> {
        match self {
            Frames::Single { first, frames } => frames.get(frame.checked_sub(*first)?).cloned(),
            Frames::Whole(block) => {
                let start = (frame * FRAME_BYTES).min(block.len());
                let end = (start + FRAME_BYTES).min(block.len());
                Some(block.slice(start..end))
            }
        }
    }
}

impl Blocks {
    /// Verified plaintext bytes `range` of a block (clamped to its length).
    ///
    /// Brings no more than the frames that cover the range, unless the whole block is cheaper or part of it
    /// is missing. Cancel safe; a fetch that others wait for goes on.
    pub async fn read_range(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
        range: Range<u32>,
    ) -> Result<Bytes, GetError> {
        let end = range.end.min(reference.plain_len) as usize;
        let range = range.start as usize..end;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if is_whole_cheaper(reference, &range) {
            return Ok(self.read_block(reference, profile).await?.slice(range));
        }
        let planned = match self.recall(reference, profile, &range) {
            Recalled::Whole(bytes) => return Ok(bytes),
            Recalled::Plan(planned) => planned,
        };
        let fetched: Vec<Frames> = try_join_all(planned.wait).await?;
        let frame_of = |frame: usize| {
            let have = planned.have.iter().find(|(number, _)| *number == frame);
            have.map(|(_, bytes)| bytes.clone())
                .or_else(|| fetched.iter().find_map(|frames| frames.get(frame)))
        };
        let frames = range.start / FRAME_BYTES..range.end.div_ceil(FRAME_BYTES);
        let mut whole = BytesMut::new();
        for frame in frames.clone() {
            let begin = frame * FRAME_BYTES;
            let within = range.start.saturating_sub(begin)..(range.end - begin).min(FRAME_BYTES);
            let bytes = frame_of(frame).filter(|bytes| within.end <= bytes.len());
            let Some(bytes) = bytes else {
                // Only if a frame has another length than its layout says.
                return Ok(self.read_block(reference, profile).await?.slice(range));
            };
            if frames.len() == 1 {
                return Ok(bytes.slice(within));
            }
            whole.reserve(range.len() - whole.len());
            whole.extend_from_slice(&bytes.slice(within));
        }
        Ok(whole.freeze())
    }

    /// Brings frames, or the whole block where they cannot be had alone.
    pub(super) async fn fetch_frames(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
        frames: Range<usize>,
    ) -> Result<Frames, GetError> {
        if let Some(opened) = self.frames_alone(reference, profile, frames.clone()).await {
            return Ok(Frames::Single {
                first: frames.start,
                frames: opened.into(),
            });
        }
        let block = self.read_block(reference, profile).await?;
        Ok(Frames::Whole(block))
    }

    /// The frames, if all parts of shards that have them can be had at once; `None` says nothing about the
    /// block.
    async fn frames_alone(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
        frames: Range<usize>,
    ) -> Option<Vec<Bytes>> {
        let before = self.known(reference);
        let was_known = before.is_some();
        let known = match self.local_frames(reference, before, frames.clone()).await {
            Local::Opened(known, opened) => {
                if !was_known {
                    self.remember(reference, &known);
                }
                return Some(opened);
            }
            Local::Whole => return None,
            Local::Lacking(Some(known)) => known,
            Local::Lacking(None) => Arc::new(self.ask_header(reference, profile).await?),
        };
        if !was_known {
            self.remember(reference, &known);
        }
        let sealed = known.layout.sealed_range(frames.clone())?;
        let pieces = known.stripe.pieces(sealed);
        let holders = self.shard_holders(reference, profile).await;
        let found = join_all(pieces.iter().map(|piece| {
            let stripe = Some(Arc::clone(&known.stripe));
            self.piece(reference.id, stripe, piece, &holders)
        }));
        let mut parts = Vec::with_capacity(pieces.len());
        for (piece, found) in pieces.iter().zip(found.await) {
            parts.push(found?.1.get(&piece.range)?);
        }
        let reference = *reference;
        let open = move || known.open_frames(&reference, frames, &parts).ok();
        self.pools.cpu.run(open).await
    }
}

/// Whether most of the block is wanted anyway, or all of it is little. One that is longer than blocks
/// may be is not believed to have so many frames.
const fn is_whole_cheaper(reference: &BlockRef, range: &Range<usize>) -> bool {
    let len = reference.plain_len as usize;
    len <= WHOLE_MAX_BYTES || len > CHUNK_MAX_BYTES || range.end - range.start > len / 2
}
