//! Extents: which bytes of a file lie where. What no extent covers is a hole.

use serde::{Deserialize, Serialize};

use super::error::DagError;
use super::node::{
    NODE_MAX_BYTES, Node, NodeAt, NodeRef, RefRow, Shape, check_index, kind, peek_kind, wrong_kind,
};
use super::pack::Place;
use super::table::{BlockTable, ROW_COST, TableBuilder};
use crate::base::BlockRef;
use crate::base::wire;

/// A run of bytes of a file and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u32,
    /// The block that has them.
    pub block: BlockRef,
    /// First byte in the block's plaintext.
    pub block_offset: u32,
}

impl Extent {
    /// The byte after the last, in the file. Checked extents do not overflow.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len as u64)
    }

    /// The part of this extent that lies within `start..end` of the file, if any.
    pub fn clip(&self, start: u64, end: u64) -> Option<Extent> {
        let from = self.offset.max(start);
        let to = self.end().min(end);
        let len = to.checked_sub(from).filter(|len| *len > 0)?;
        Some(Extent {
            offset: from,
            len: len as u32,
            block: self.block,
            block_offset: self.block_offset + (from - self.offset) as u32,
        })
    }

    fn check(&self) -> Result<(), DagError> {
        if self.len == 0 {
            return Err(DagError::Inconsistent("an empty extent"));
        }
        if self.offset.checked_add(u64::from(self.len)).is_none() {
            return Err(DagError::Inconsistent("an extent beyond any file"));
        }
        if u64::from(self.block_offset) + u64::from(self.len) > u64::from(self.block.plain_len) {
            return Err(DagError::Inconsistent(
                "an extent beyond the end of its block",
            ));
        }
        Ok(())
    }
}

/// Checks each extent, and that they ascend without overlap.
pub(super) fn check_extents(extents: &[Extent]) -> Result<(), DagError> {
    extents.iter().try_for_each(Extent::check)?;
    let apart = extents
        .iter()
        .zip(extents.iter().skip(1))
        .all(|(first, second)| first.end() <= second.offset);
    if apart {
        Ok(())
    } else {
        Err(DagError::Inconsistent("overlapping extents"))
    }
}

/// `[offset, len, table index, offset in block]`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct ExtentRow(u64, u32, u32, u32);

/// The most bytes that one extent can take, with its row of the table.
pub(super) const EXTENT_COST: usize = 1 + 9 + 5 + 5 + 5 + ROW_COST;

impl ExtentRow {
    pub fn new(extent: &Extent, table: &mut TableBuilder) -> Self {
        ExtentRow(
            extent.offset,
            extent.len,
            table.index(extent.block),
            extent.block_offset,
        )
    }

    pub fn read(self, table: &BlockTable) -> Result<Extent, DagError> {
        Ok(Extent {
            offset: self.0,
            len: self.1,
            block: table.get(self.2)?,
            block_offset: self.3,
        })
    }
}

/// The bytes of a file that a list of extents lies within: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte of the first extent.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

/// The [`Shape`] of a file: extents ascending by offset.
#[derive(Debug, Clone, Copy)]
pub struct Extents;

type LeafRow = (u8, Vec<BlockRef>, Vec<ExtentRow>);
type IndexRow = (u8, u8, Vec<BlockRef>, Vec<(u64, u64, RefRow)>);

impl Shape for Extents {
    type Item = Extent;
    type Draft = Extent;
    type Span = Span;

    fn draft_cost(_: &Extent) -> usize {
        EXTENT_COST
    }

    fn span_cost(_: &Span) -> usize {
        1 + 9 + 9 + 16 + ROW_COST
    }

    fn draft_span(drafts: &[Extent]) -> Option<Span> {
        Self::item_span(drafts)
    }

    fn item_span(items: &[Extent]) -> Option<Span> {
        Some(Span {
            start: items.first()?.offset,
            end: items.last()?.end(),
        })
    }

    fn join(first: &Span, second: &Span) -> Span {
        Span {
            start: first.start,
            end: second.end,
        }
    }

    fn precedes(first: &Span, second: &Span) -> bool {
        first.end <= second.start
    }

    fn encode_leaf(drafts: &[Extent], _: &dyn Fn(Place) -> NodeRef) -> Vec<u8> {
        let mut table = TableBuilder::default();
        let rows: Vec<ExtentRow> = drafts
            .iter()
            .map(|extent| ExtentRow::new(extent, &mut table))
            .collect();
        wire::encode(&(kind::EXTENT_LEAF, table.into_rows(), rows))
    }

    fn encode_index(level: u8, children: &[(Span, NodeRef)]) -> Vec<u8> {
        let mut table = TableBuilder::default();
        let rows: Vec<(u64, u64, RefRow)> = children
            .iter()
            .map(|(span, child)| (span.start, span.end, RefRow::new(child, &mut table)))
            .collect();
        wire::encode(&(kind::EXTENT_INDEX, level, table.into_rows(), rows))
    }

    fn decode(bytes: &[u8], at: &NodeAt) -> Result<Node<Extent, Span>, DagError> {
        match peek_kind(bytes)? {
            kind::EXTENT_LEAF => {
                let (_, table, rows): LeafRow = wire::decode(bytes, NODE_MAX_BYTES)?;
                let table = BlockTable::new(table)?;
                let extents = rows
                    .into_iter()
                    .map(|row| row.read(&table))
                    .collect::<Result<Vec<_>, _>>()?;
                if extents.is_empty() {
                    return Err(DagError::Inconsistent("a leaf of nothing"));
                }
                check_extents(&extents)?;
                super::same_bytes(bytes, &Self::encode_leaf(&extents, &|_| unreachable_ref()))?;
                Ok(Node::Leaf(extents))
            }
            kind::EXTENT_INDEX => {
                let (_, level, table, rows): IndexRow = wire::decode(bytes, NODE_MAX_BYTES)?;
                let table = BlockTable::new(table)?;
                let mut relative = Vec::with_capacity(rows.len());
                let mut children = Vec::with_capacity(rows.len());
                for (start, end, row) in rows {
                    if start >= end {
                        return Err(DagError::Inconsistent("an empty child"));
                    }
                    let span = Span { start, end };
                    let reference = row.read(&table)?;
                    relative.push((span, reference));
                    children.push((span, at.resolve(reference)?));
                }
                check_index::<Self>(level, &children)?;
                super::same_bytes(bytes, &Self::encode_index(level, &relative))?;
                Ok(Node::Index { level, children })
            }
            other => Err(wrong_kind(other, "part of a file")),
        }
    }
}

/// Extents name no nodes.
const fn unreachable_ref() -> NodeRef {
    NodeRef {
        block: None,
        offset: 0,
        len: 0,
    }
}
