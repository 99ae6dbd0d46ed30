//! What all nodes have in common: where they lie, how they name one another, what a kind of node
//! must be able to do.

use serde::{Deserialize, Serialize};

use super::error::DagError;
use super::table::{BlockTable, TableBuilder};
use crate::base::BlockRef;
use crate::base::limits::CHUNK_MAX_BYTES;

/// Largest encoded node. Writers stay at half of it, see [`super::build::NodeBudget`].
pub const NODE_MAX_BYTES: usize = 512 << 10;
/// Most levels of index nodes above the leaves of one file or directory.
pub const LEVELS_MAX: u8 = 8;

/// The first number in every node.
pub(super) mod kind {
    pub const EXTENT_LEAF: u8 = 1;
    pub const EXTENT_INDEX: u8 = 2;
    pub const DIRECTORY_LEAF: u8 = 3;
    pub const DIRECTORY_INDEX: u8 = 4;
    pub const TREE_ROOT: u8 = 5;
}

/// A node as another node names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// The block it lies in; `None`: that of the node which names it.
    pub block: Option<BlockRef>,
    /// Where it begins in the block's plaintext.
    pub offset: u32,
    /// Its encoded length.
    pub len: u32,
}

/// A node's place in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAt {
    /// The block it lies in.
    pub block: BlockRef,
    /// Where it begins in the block's plaintext.
    pub offset: u32,
    /// Its encoded length.
    pub len: u32,
}

impl NodeAt {
    /// Checks that the place lies within its block and within the bounds of a node.
    pub fn check(self) -> Result<Self, DagError> {
        let end = u64::from(self.offset) + u64::from(self.len);
        if self.block.plain_len as usize > CHUNK_MAX_BYTES {
            return Err(DagError::Inconsistent("a block larger than any chunk"));
        }
        if self.len == 0 || self.len as usize > NODE_MAX_BYTES {
            return Err(DagError::Inconsistent("a node of impossible length"));
        }
        if end > u64::from(self.block.plain_len) {
            return Err(DagError::Inconsistent("a node beyond the end of its block"));
        }
        Ok(self)
    }

    /// The bytes of the node in the plaintext of its block.
    pub fn slice<'a>(&self, plaintext: &'a [u8]) -> Result<&'a [u8], DagError> {
        let start = self.offset as usize;
        plaintext
            .get(start..start + self.len as usize)
            .ok_or(DagError::Inconsistent("a node beyond the end of its block"))
    }

    /// What a reference in this node means. A node of the same block must lie before this one,
    /// which is what rules out circles.
    pub(super) fn resolve(&self, reference: NodeRef) -> Result<NodeAt, DagError> {
        let end = u64::from(reference.offset) + u64::from(reference.len);
        if reference.block.is_none() && end > u64::from(self.offset) {
            return Err(DagError::Inconsistent(
                "a reference to a node that does not lie before it",
            ));
        }
        NodeAt {
            block: reference.block.unwrap_or(self.block),
            offset: reference.offset,
            len: reference.len,
        }
        .check()
    }
}

/// `[table index or null, offset, len]`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct RefRow(Option<u32>, u32, u32);

impl RefRow {
    pub fn new(reference: &NodeRef, table: &mut TableBuilder) -> Self {
        let block = reference.block.map(|block| table.index(block));
        RefRow(block, reference.offset, reference.len)
    }

    pub fn read(self, table: &BlockTable) -> Result<NodeRef, DagError> {
        Ok(NodeRef {
            block: self.0.map(|index| table.get(index)).transpose()?,
            offset: self.1,
            len: self.2,
        })
    }
}

/// One decoded node of a [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<I, S> {
    /// The items themselves.
    Leaf(Vec<I>),
    /// Where to find them.
    Index {
        /// 1 above leaves, and one more for each level.
        level: u8,
        /// What lies below, in order.
        children: Vec<(S, NodeAt)>,
    },
}

/// A kind of list that is kept as a tree of bounded nodes: a file's extents, a directory's entries.
pub trait Shape {
    /// One element as it is read.
    type Item;
    /// One element while the list is built: references may still be to nodes that are not sealed.
    type Draft;
    /// What an index says of a child: its ends.
    type Span: Clone + PartialEq;

    /// At least the bytes that the element takes in a leaf.
    fn draft_cost(draft: &Self::Draft) -> usize;
    /// At least the bytes that a child takes in an index.
    fn span_cost(span: &Self::Span) -> usize;
    /// The ends of a list that is being built; `None` if it is empty.
    fn draft_span(drafts: &[Self::Draft]) -> Option<Self::Span>;
    /// The ends of a list that was read; `None` if it is empty.
    fn item_span(items: &[Self::Item]) -> Option<Self::Span>;
    /// The ends of both together, `first` lying before `second`.
    fn join(first: &Self::Span, second: &Self::Span) -> Self::Span;
    /// Whether everything in `first` lies before everything in `second`.
    fn precedes(first: &Self::Span, second: &Self::Span) -> bool;
    /// Encodes a leaf. `at` tells how the new node has to name another.
    fn encode_leaf(drafts: &[Self::Draft], at: &dyn Fn(super::pack::Place) -> NodeRef) -> Vec<u8>;
    /// Encodes an index.
    fn encode_index(level: u8, children: &[(Self::Span, NodeRef)]) -> Vec<u8>;
    /// Reads and checks a node found at `at`.
    fn decode(bytes: &[u8], at: &NodeAt) -> Result<Node<Self::Item, Self::Span>, DagError>;
}

/// Which kind of node `bytes` claim to be: the first element of the array.
pub(super) fn peek_kind(bytes: &[u8]) -> Result<u8, DagError> {
    match bytes {
        // A short array (0x80..=0x97) whose first element is a number below 24.
        [0x80..=0x97, kind @ 0..=0x17, ..] => Ok(*kind),
        _ => Err(DagError::Inconsistent("not a node")),
    }
}

/// The error for a node of `found` kind where `expected` had to be.
pub(super) const fn wrong_kind(found: u8, expected: &'static str) -> DagError {
    let found = match found {
        kind::EXTENT_LEAF | kind::EXTENT_INDEX => "part of a file",
        kind::DIRECTORY_LEAF | kind::DIRECTORY_INDEX => "directory",
        kind::TREE_ROOT => "root of a tree",
        other => return DagError::UnknownKind(other),
    };
    DagError::WrongKind { expected, found }
}

/// Checks an index that was read: levels in range, children in order.
pub(super) fn check_index<S: Shape>(
    level: u8,
    children: &[(S::Span, NodeAt)],
) -> Result<(), DagError> {
    if level == 0 || level > LEVELS_MAX {
        return Err(DagError::Inconsistent("index level out of range"));
    }
    if children.is_empty() {
        return Err(DagError::Inconsistent("an index of nothing"));
    }
    let ordered = children
        .iter()
        .zip(children.iter().skip(1))
        .all(|((first, _), (second, _))| S::precedes(first, second));
    if ordered {
        Ok(())
    } else {
        Err(DagError::Inconsistent("children out of order"))
    }
}
