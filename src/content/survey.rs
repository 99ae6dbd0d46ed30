//! Everything that a link stands on: all its blocks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::blob_out::blob_content;
use super::cache::{NodeReader, Reading};
use super::error::ContentError;
use super::seam::ChunkSource;
use super::tree_out::{Met, TreeWalk, tree_node};
use crate::base::BlockRef;
use crate::dag::{Body, EntryKind, FileContent, NodeAt, Root, TreeTotals, Walk};

/// What is below a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// All blocks, of contents and of metadata, each once.
    pub blocks: BTreeSet<BlockRef>,
    /// Files, directories and bytes; of a blob, one file.
    pub totals: TreeTotals,
}

impl Survey {
    /// Bytes of plaintext in all blocks.
    pub fn plain_bytes(&self) -> u64 {
        self.blocks
            .iter()
            .map(|block| u64::from(block.plain_len))
            .sum()
    }
}

/// Reads all nodes below a link, but no contents.
///
/// Blocks of nodes are those that were read. What is needed and cannot be read fails the survey.
pub async fn survey<S: ChunkSource>(
    root: &Root,
    source: S,
    how: &Reading,
) -> Result<Survey, ContentError> {
    let mut found = Survey::default();
    let mut nodes = NodeReader::new(Arc::new(source), how.pools.clone());
    found.blocks.extend(root.block());
    if !root.is_tree() {
        let content = blob_content(root)?;
        found.totals.files = 1;
        found.totals.bytes = content.size;
        add_content(&mut found, &mut nodes, &content).await?;
        return Ok(found);
    }
    let (node, size) = tree_node(root)?;
    let (top, mut walk) = TreeWalk::begin(&mut nodes, node, size).await?;
    while let Some(met) = walk.next(&mut nodes).await? {
        let Met::Entry(entry) = met else {
            continue;
        };
        if let EntryKind::File { content, .. } = &entry.kind {
            add_content(&mut found, &mut nodes, content).await?;
        }
    }
    found.totals = top.totals;
    found.blocks.append(&mut nodes.take_blocks_read());
    Ok(found)
}

async fn add_content<S: ChunkSource>(
    found: &mut Survey,
    nodes: &mut NodeReader<S>,
    content: &FileContent<NodeAt>,
) -> Result<(), ContentError> {
    if let Body::Manifest(node) = &content.body {
        found.blocks.insert(node.block);
    }
    let mut walk = Walk::extents(content, 0, u64::MAX);
    while let Some(extents) = nodes.next(&mut walk).await? {
        found
            .blocks
            .extend(extents.iter().map(|extent| extent.block));
    }
    found.blocks.append(&mut nodes.take_blocks_read());
    Ok(())
}
