//! Packing nodes into metadata chunks.
//!
//! Nodes come in post-order (what is referred to first), so a reference goes to a chunk that is
//! sealed, or backwards within the chunk that is being filled.

use bytes::Bytes;

use super::node::{NodeAt, NodeRef};
use crate::base::BlockRef;

/// Where a node was put: the how-manieth metadata chunk, and where in it; or where it is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    chunk: Chunk,
    offset: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Chunk {
    /// One of those that are being filled.
    New(usize),
    /// A block of the pool.
    Old(BlockRef),
}

impl From<NodeAt> for Place {
    fn from(at: NodeAt) -> Place {
        Place {
            chunk: Chunk::Old(at.block),
            offset: at.offset,
            len: at.len,
        }
    }
}

impl Place {
    /// Where it begins in its chunk.
    pub const fn offset(&self) -> u32 {
        self.offset
    }

    /// The node's encoded length.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Never: an encoded node has at least one byte.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Fills metadata chunks. The caller seals them:
///
/// ```text
/// let node = encode(packer);
/// if !packer.fits(node.len()) {
///     packer.sealed(seal(packer.take()));
///     node = encode(packer);               // its references have become longer
/// }
/// let place = packer.push(node);
/// ```
#[derive(Debug)]
pub struct NodePacker {
    chunk_max_bytes: usize,
    open: Vec<u8>,
    sealed: Vec<BlockRef>,
}

impl NodePacker {
    /// Chunks of at most `chunk_max_bytes`, unless a single node is larger.
    pub const fn new(chunk_max_bytes: usize) -> Self {
        NodePacker {
            chunk_max_bytes,
            open: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Whether a node of `len` bytes fits into the chunk that is being filled.
    pub const fn fits(&self, len: usize) -> bool {
        self.open.is_empty() || self.open.len() + len <= self.chunk_max_bytes
    }

    /// How a node of the chunk that is being filled names the one at `place`.
    pub fn name(&self, place: Place) -> NodeRef {
        NodeRef {
            block: self.block(place),
            offset: place.offset,
            len: place.len,
        }
    }

    /// Appends an encoded node.
    pub fn push(&mut self, node: &[u8]) -> Place {
        let place = Place {
            chunk: Chunk::New(self.sealed.len()),
            offset: self.open.len() as u32,
            len: node.len() as u32,
        };
        self.open.extend_from_slice(node);
        place
    }

    /// Takes the chunk that is being filled, if there is anything in it. [`NodePacker::sealed`]
    /// must follow before anything else.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.open.is_empty() {
            return None;
        }
        Some(Bytes::from(std::mem::take(&mut self.open)))
    }

    /// Tells what the chunk that was taken has become.
    pub fn sealed(&mut self, block: BlockRef) {
        self.sealed.push(block);
    }

    /// The block of `place`, once it is sealed.
    pub fn block(&self, place: Place) -> Option<BlockRef> {
        match place.chunk {
            Chunk::New(chunk) => self.sealed.get(chunk).copied(),
            Chunk::Old(block) => Some(block),
        }
    }
}
