//! The root of a tree: the top directory's own mode and time, and what the whole tree holds.
//!
//! The root has no name here, so that renaming the directory which was put changes no link.

use serde::{Deserialize, Serialize};

use super::directory::{Meta, Timestamp, check_meta};
use super::error::DagError;
use super::node::{NODE_MAX_BYTES, NodeAt, NodeRef, RefRow, kind, peek_kind, wrong_kind};
use super::table::{BlockTable, TableBuilder};
use crate::base::BlockRef;
use crate::base::wire;

/// What is in a tree, its root directory not counted. A reader holds the walk to these numbers, so
/// a small hostile tree that refers to itself many times over cannot pass for an endless one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "TotalsRow", into = "TotalsRow")]
pub struct TreeTotals {
    /// Regular files; one with several names counts once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
}

type TotalsRow = (u64, u64, u64, u64, u64);

impl From<TotalsRow> for TreeTotals {
    fn from((files, directories, symlinks, hard_links, bytes): TotalsRow) -> Self {
        TreeTotals {
            files,
            directories,
            symlinks,
            hard_links,
            bytes,
        }
    }
}

impl From<TreeTotals> for TotalsRow {
    fn from(totals: TreeTotals) -> Self {
        (
            totals.files,
            totals.directories,
            totals.symlinks,
            totals.hard_links,
            totals.bytes,
        )
    }
}

impl TreeTotals {
    /// All entries.
    pub const fn entries(&self) -> u64 {
        self.files
            .saturating_add(self.directories)
            .saturating_add(self.symlinks)
            .saturating_add(self.hard_links)
    }

    /// Whether no number exceeds that of `limit`.
    pub const fn within(&self, limit: &TreeTotals) -> bool {
        self.files <= limit.files
            && self.directories <= limit.directories
            && self.symlinks <= limit.symlinks
            && self.hard_links <= limit.hard_links
            && self.bytes <= limit.bytes
    }
}

/// The root node of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRoot<R> {
    /// Mode and time of the top directory.
    pub meta: Meta,
    /// Its entries; `None` if it has none.
    pub entries: Option<R>,
    /// What is in the tree.
    pub totals: TreeTotals,
}

type RootRow = (u8, Vec<BlockRef>, u16, i64, u32, Option<RefRow>, TreeTotals);

impl TreeRoot<NodeRef> {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut table = TableBuilder::default();
        let entries = self
            .entries
            .as_ref()
            .map(|node| RefRow::new(node, &mut table));
        wire::encode(&(
            kind::TREE_ROOT,
            table.into_rows(),
            self.meta.mode,
            self.meta.mtime.seconds,
            self.meta.mtime.nanos,
            entries,
            self.totals,
        ))
    }
}

impl TreeRoot<NodeAt> {
    /// Reads and checks the root node found at `at`.
    pub fn decode(bytes: &[u8], at: &NodeAt) -> Result<Self, DagError> {
        let found = peek_kind(bytes)?;
        if found != kind::TREE_ROOT {
            return Err(wrong_kind(found, "root of a tree"));
        }
        let (_, table, mode, seconds, nanos, entries, totals): RootRow =
            wire::decode(bytes, NODE_MAX_BYTES)?;
        let table = BlockTable::new(table)?;
        let relative = TreeRoot {
            meta: Meta {
                mode,
                mtime: Timestamp { seconds, nanos },
            },
            entries: entries.map(|row| row.read(&table)).transpose()?,
            totals,
        };
        check_meta(&relative.meta).map_err(DagError::Inconsistent)?;
        super::same_bytes(bytes, &relative.encode())?;
        Ok(TreeRoot {
            meta: relative.meta,
            entries: relative
                .entries
                .map(|reference| at.resolve(reference))
                .transpose()?,
            totals,
        })
    }
}
