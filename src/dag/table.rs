//! The block table of a node: each block that the node names, once, in order of first mention.
//!
//! Thousands of small files share a few packs; with the table each costs its node five bytes, not
//! seventy.

use std::collections::BTreeMap;

use super::error::DagError;
use crate::base::BlockRef;
use crate::base::limits::CHUNK_MAX_BYTES;

/// Collects the table while a node is encoded.
#[derive(Debug, Default)]
pub(super) struct TableBuilder {
    rows: Vec<BlockRef>,
    index: BTreeMap<BlockRef, u32>,
    last: Option<(BlockRef, u32)>,
}

impl TableBuilder {
    /// The row of `block`, which is added if it is new.
    pub fn index(&mut self, block: BlockRef) -> u32 {
        if let Some((known, index)) = self.last
            && known == block
        {
            return index;
        }
        let next = self.rows.len() as u32;
        let index = *self.index.entry(block).or_insert(next);
        if index == next {
            self.rows.push(block);
        }
        self.last = Some((block, index));
        index
    }

    pub fn into_rows(self) -> Vec<BlockRef> {
        self.rows
    }
}

/// The table of a node that was read.
///
/// That every row is used and none repeated is not checked here: the node is encoded again and
/// compared.
#[derive(Debug)]
pub(super) struct BlockTable(Vec<BlockRef>);

impl BlockTable {
    pub fn new(rows: Vec<BlockRef>) -> Result<Self, DagError> {
        let possible = |row: &BlockRef| (1..=CHUNK_MAX_BYTES).contains(&(row.plain_len as usize));
        if rows.iter().all(possible) {
            Ok(BlockTable(rows))
        } else {
            Err(DagError::Inconsistent("a block of impossible length"))
        }
    }

    pub fn get(&self, index: u32) -> Result<BlockRef, DagError> {
        self.0
            .get(index as usize)
            .copied()
            .ok_or(DagError::Inconsistent("a block that is not in the table"))
    }
}

/// The most bytes that one row can take.
pub(super) const ROW_COST: usize = 1 + (2 + 32) + (2 + 32) + 5;
