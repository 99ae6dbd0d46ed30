//! Chunks on their way to the sink, and who waits to learn where they have gone.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;

use super::error::ContentError;
use super::seam::ChunkSink;
use crate::base::{BlockRef, Chunk, Limits, Pools};
use crate::dag::Extent;

/// What taking in needs besides a stream and a sink.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Sizes of chunks. Part of what decides a link: equal content needs equal sizes.
    pub limits: Limits,
    /// Where hashing and cutting run.
    pub pools: Pools,
}

/// Where some bytes went, known once their chunk is sealed: the block, and the offset in it.
pub(super) type Located = Arc<OnceLock<(BlockRef, u32)>>;

/// An extent whose block may not be known yet.
#[derive(Debug, Clone)]
pub(super) struct PendingExtent {
    pub offset: u64,
    pub len: u32,
    pub at: Located,
    /// Bytes of `at` before this extent's.
    pub skip: u32,
}

impl PendingExtent {
    /// The extent, once its chunk is sealed.
    pub fn resolve(&self) -> Option<Extent> {
        self.at.get().map(|(block, base)| Extent {
            offset: self.offset,
            len: self.len,
            block: *block,
            block_offset: base + self.skip,
        })
    }
}

/// Who waits for a chunk, and where in it their bytes are.
pub(super) type Waiting = Vec<(Located, u32)>;

/// Submits chunks and hands their references to those who wait for them.
pub(super) struct InFlight<'a, K: ChunkSink> {
    sink: &'a K,
    queue: VecDeque<(K::Pending, Waiting)>,
}

impl<'a, K: ChunkSink> InFlight<'a, K> {
    pub const fn new(sink: &'a K) -> Self {
        InFlight {
            sink,
            queue: VecDeque::new(),
        }
    }

    /// Submits a chunk; each of `waiting` gets the reference with its own offset.
    pub async fn submit(
        &mut self,
        chunk: impl Into<Chunk>,
        waiting: Waiting,
    ) -> Result<(), ContentError> {
        let pending = self.sink.submit(chunk.into()).await?;
        self.queue.push_back((pending, waiting));
        self.harvest()
    }

    /// Hands out what is known already.
    fn harvest(&mut self) -> Result<(), ContentError> {
        while let Some((pending, _)) = self.queue.front_mut() {
            let Some(sealed) = pending.now_or_never() else {
                return Ok(());
            };
            self.hand_out(sealed?);
        }
        Ok(())
    }

    /// Waits until everything submitted is known.
    pub async fn settle(&mut self) -> Result<(), ContentError> {
        while let Some((pending, _)) = self.queue.front_mut() {
            let block = pending.await?;
            self.hand_out(block);
        }
        Ok(())
    }

    fn hand_out(&mut self, block: BlockRef) {
        if let Some((_, waiting)) = self.queue.pop_front() {
            for (located, offset) in waiting {
                // Each is set here and nowhere else, once.
                let _ = located.set((block, offset));
            }
        }
    }
}
