//! One file on its way in: its holes are found, its data is cut, and extents come out.

use std::collections::VecDeque;

use bytes::Bytes;

use super::error::ContentError;
use super::holes::HoleFinder;
use super::intake::{InFlight, Located, PendingExtent};
use super::pieces::Piece;
use super::seam::ChunkSink;
use crate::base::{Chunk, Pools};
use crate::chunk::{ChunkSizes, Cutter};

/// Bytes that are cut in one go: enough to make the hop to another thread cheap.
const CUT_BATCH_BYTES: usize = 1 << 20;
/// Largest file: what file systems can have.
const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// A run of data without holes: offset in the file and length.
pub(super) type Run = (u64, u64);

/// A file of which less data came than the smallest chunk has.
pub(super) struct SmallFile {
    pub data: Vec<Bytes>,
    pub data_len: usize,
    pub runs: VecDeque<Run>,
}

/// Takes one file.
pub(super) struct FileIn {
    sizes: ChunkSizes,
    finder: HoleFinder,
    size: u64,
    /// Runs whose chunks are not cut yet.
    runs: VecDeque<Run>,
    data_len: u64,
    /// Data that the cutter has not seen.
    waiting: Vec<Bytes>,
    waiting_len: usize,
    /// There once the file is too large to be packed with others.
    cutter: Option<Cutter>,
    ready: Vec<PendingExtent>,
    chunks: u64,
}

impl FileIn {
    pub const fn new(sizes: ChunkSizes) -> Self {
        FileIn {
            sizes,
            finder: HoleFinder::new(),
            size: 0,
            runs: VecDeque::new(),
            data_len: 0,
            waiting: Vec::new(),
            waiting_len: 0,
            cutter: None,
            ready: Vec::new(),
            chunks: 0,
        }
    }

    /// Takes a piece.
    pub async fn push<K: ChunkSink>(
        &mut self,
        piece: Piece,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<(), ContentError> {
        let len = match &piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Hole(len) => *len,
        };
        if self.size.saturating_add(len) > FILE_MAX_BYTES {
            return Err(ContentError::Refused {
                path: String::new(),
                why: "a file too large for any file system",
            });
        }
        self.find_holes(Some(piece));
        if self.waiting_len >= CUT_BATCH_BYTES && self.is_large() {
            self.cut(false, pools, chunks).await?;
        }
        Ok(())
    }

    /// The file is at its end. A small one is given back whole, for packing.
    pub async fn finish<K: ChunkSink>(
        &mut self,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<Option<SmallFile>, ContentError> {
        self.find_holes(None);
        if self.is_large() {
            self.cut(true, pools, chunks).await?;
            return Ok(None);
        }
        Ok(Some(SmallFile {
            data: std::mem::take(&mut self.waiting),
            data_len: self.waiting_len,
            runs: std::mem::take(&mut self.runs),
        }))
    }

    /// Bytes so far, holes included. Exact after `finish`.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Chunks cut so far.
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Extents of chunks that were cut.
    pub fn take_extents(&mut self) -> Vec<PendingExtent> {
        std::mem::take(&mut self.ready)
    }

    const fn is_large(&self) -> bool {
        self.cutter.is_some() || self.data_len >= self.sizes.min() as u64
    }

    fn find_holes(&mut self, piece: Option<Piece>) {
        let FileIn {
            finder,
            size,
            runs,
            data_len,
            waiting,
            waiting_len,
            ..
        } = self;
        let mut take = |piece: Piece| match piece {
            Piece::Hole(len) => *size += len,
            Piece::Data(bytes) => {
                let len = bytes.len() as u64;
                match runs.back_mut() {
                    Some((offset, run)) if *offset + *run == *size => *run += len,
                    _ => runs.push_back((*size, len)),
                }
                *size += len;
                *data_len += len;
                *waiting_len += bytes.len();
                waiting.push(bytes);
            }
        };
        match piece {
            Some(piece) => finder.push(piece, &mut take),
            None => finder.finish(&mut take),
        }
    }

    async fn cut<K: ChunkSink>(
        &mut self,
        last: bool,
        pools: &Pools,
        chunks: &mut InFlight<'_, K>,
    ) -> Result<(), ContentError> {
        let mut cutter = match self.cutter.take() {
            Some(cutter) => cutter,
            None => Cutter::new(self.sizes),
        };
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        let (cutter, cut) = pools
            .cpu
            .run(move || {
                pieces.into_iter().for_each(|piece| cutter.push(piece));
                if last {
                    cutter.finish();
                }
                let cut: Vec<Chunk> = std::iter::from_fn(|| cutter.next_chunk()).collect();
                (cutter, cut)
            })
            .await;
        self.cutter = Some(cutter);
        for chunk in cut {
            let at = Located::default();
            let extents = extents_of(&mut self.runs, chunk.len() as u64, &at);
            self.ready.extend(extents);
            self.chunks += 1;
            chunks.submit(chunk, vec![(at, 0)]).await?;
        }
        Ok(())
    }
}

/// Takes `len` bytes of data off the front of `runs`: the extents of a chunk that has them.
pub(super) fn extents_of(runs: &mut VecDeque<Run>, len: u64, at: &Located) -> Vec<PendingExtent> {
    let mut extents = Vec::new();
    let mut skip = 0;
    while skip < len {
        let Some((offset, run)) = runs.front_mut() else {
            break;
        };
        let part = (*run).min(len - skip);
        extents.push(PendingExtent {
            offset: *offset,
            len: part as u32,
            at: Located::clone(at),
            skip: skip as u32,
        });
        skip += part;
        *offset += part;
        *run -= part;
        if *run == 0 {
            runs.pop_front();
        }
    }
    extents
}
