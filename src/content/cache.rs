//! Blocks being fetched or just read, and nodes read from them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio_util::task::AbortOnDropHandle;

use super::error::ContentError;
use super::seam::ChunkSource;
use crate::base::{BlockRef, Pools};
use crate::dag::{DagError, NodeAt, Shape, Step, TreeRoot, Walk};

/// Nodes up to this size are decoded in place.
const DECODE_INLINE_BYTES: usize = 8 << 10;
/// Metadata blocks kept by one walk. Nodes lie in the order of the walk, so few suffice.
const METADATA_BLOCKS: usize = 3;

/// How to read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Where nodes are decoded.
    pub pools: Pools,
    /// Blocks fetched ahead of whoever reads, at least one.
    pub window_blocks: usize,
}

/// A block under way, for any number of readers. Given up when the last of them is gone.
pub(super) type Fetch = Shared<BoxFuture<'static, Result<Bytes, ContentError>>>;

/// The blocks last asked for.
pub(super) struct BlockCache<S> {
    source: Arc<S>,
    recent: VecDeque<(BlockRef, Fetch)>,
    capacity: usize,
}

impl<S: ChunkSource> BlockCache<S> {
    pub const fn new(source: Arc<S>, capacity: usize) -> Self {
        BlockCache {
            source,
            recent: VecDeque::new(),
            capacity,
        }
    }

    /// The block, if it was among the last.
    pub fn known(&mut self, reference: &BlockRef) -> Option<Fetch> {
        let at = self
            .recent
            .iter()
            .position(|(known, _)| known == reference)?;
        if at + 1 < self.recent.len()
            && let Some(found) = self.recent.remove(at)
        {
            self.recent.push_back(found);
        }
        self.recent.back().map(|(_, fetch)| fetch.clone())
    }

    /// The block, fetched from now on if it is not known.
    pub fn fetch(&mut self, reference: &BlockRef) -> Fetch {
        if let Some(fetch) = self.known(reference) {
            return fetch;
        }
        let source = Arc::clone(&self.source);
        let wanted = *reference;
        let task = tokio::spawn(async move { source.block(&wanted).await });
        let task = AbortOnDropHandle::new(task);
        let fetch = async move {
            let plaintext = task
                .await
                .map_err(|error| ContentError::BrokenOff(error.to_string()))??;
            if plaintext.len() == wanted.plain_len as usize {
                return Ok(plaintext);
            }
            Err(ContentError::Node {
                block: wanted.id,
                fault: DagError::Inconsistent("the block has another length"),
            })
        }
        .boxed()
        .shared();
        self.recent.push_back((wanted, fetch.clone()));
        if self.recent.len() > self.capacity {
            self.recent.pop_front();
        }
        fetch
    }
}

/// Reads nodes.
pub(super) struct NodeReader<S> {
    blocks: BlockCache<S>,
    pools: Pools,
    /// Blocks that nodes were read from, since somebody last asked.
    read: BTreeSet<BlockRef>,
}

impl<S: ChunkSource> NodeReader<S> {
    pub const fn new(source: Arc<S>, pools: Pools) -> Self {
        NodeReader {
            blocks: BlockCache::new(source, METADATA_BLOCKS),
            pools,
            read: BTreeSet::new(),
        }
    }

    /// The blocks that nodes were read from, since this was last called.
    pub fn take_blocks_read(&mut self) -> BTreeSet<BlockRef> {
        std::mem::take(&mut self.read)
    }

    async fn bytes(&mut self, at: &NodeAt) -> Result<Bytes, ContentError> {
        let plaintext = self.blocks.fetch(&at.block).await?;
        self.read.insert(at.block);
        let start = at.offset as usize;
        let range = start..start + at.len as usize;
        // Checked when the reference was read; a block of another length is refused above.
        if range.end > plaintext.len() {
            return Err(fault(
                at,
                DagError::Inconsistent("a node beyond the end of its block"),
            ));
        }
        Ok(plaintext.slice(range))
    }

    /// The root of a tree.
    pub async fn tree_root(&mut self, at: &NodeAt) -> Result<TreeRoot<NodeAt>, ContentError> {
        let bytes = self.bytes(at).await?;
        TreeRoot::decode(&bytes, at).map_err(|error| fault(at, error))
    }

    /// The next items of a walk; `None` at its end.
    pub async fn next<L>(
        &mut self,
        walk: &mut Walk<L>,
    ) -> Result<Option<Vec<L::Item>>, ContentError>
    where
        L: Shape + 'static,
        L::Item: Send,
        L::Span: Send,
    {
        loop {
            match walk.step() {
                Step::Items(items) => return Ok(Some(items)),
                Step::Done => return Ok(None),
                Step::Need(at) => {
                    let bytes = self.bytes(&at).await?;
                    if bytes.len() <= DECODE_INLINE_BYTES {
                        walk.supply(&bytes).map_err(|error| fault(&at, error))?;
                        continue;
                    }
                    let mut taken = std::mem::replace(walk, Walk::ready(Vec::new()));
                    let (taken, result) = self
                        .pools
                        .cpu
                        .run(move || {
                            let result = taken.supply(&bytes);
                            (taken, result)
                        })
                        .await;
                    *walk = taken;
                    result.map_err(|error| fault(&at, error))?;
                }
            }
        }
    }
}

pub(super) const fn fault(at: &NodeAt, fault: DagError) -> ContentError {
    ContentError::Node {
        block: at.block.id,
        fault,
    }
}
