//! The numbers by which the kernel knows files of snapshots. They have the highest bit, which those of the live tree
//! do not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairnfs_fuse::Attr;

use crate::namespace::{Ino, SnapshotId, Stat};
use crate::vfs::file::FileCell;
use crate::vfs::inode::SNAPSHOT_BIT;
use crate::vfs::stat::attr_of;

/// The number of the directory of all snapshots.
pub(super) const TOP: u64 = SNAPSHOT_BIT | 1;
/// Numbers below belong to directories that are always there.
const FIRST: u64 = SNAPSHOT_BIT | 256;

/// A file of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) snapshot: SnapshotId,
    pub(super) ino: Ino,
}

/// One that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    /// How often the kernel was told of it.
    pub(super) lookups: u64,
    /// Open handles.
    pub(super) opens: u32,
    /// Attributes, which stay what they are.
    pub(super) attr: Attr,
    /// Its content while it is open.
    pub(super) file: Option<Arc<FileCell>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeMap<u64, Node>);

/// The number that a file has unless another one has it: the same at every mount.
fn natural(place: &Place) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&place.snapshot.0).update(&place.ino.0);
    let hash = hasher.finalize();
    let first = hash.as_bytes().first_chunk::<8>();
    let number = first.map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (number | SNAPSHOT_BIT).max(FIRST)
}

impl Nodes {
    /// The number of a file, which it keeps while there is a node.
    pub(super) fn number(&self, place: &Place) -> u64 {
        let mut number = natural(place);
        while self.0.get(&number).is_some_and(|node| node.place != *place) {
            number = (number.wrapping_add(1) | SNAPSHOT_BIT).max(FIRST);
        }
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<&Node> {
        self.0.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Node> {
        self.0.get_mut(&number)
    }

    /// The kernel is told of a file once more.
    pub(super) fn hand_out(&mut self, place: Place, stat: &Stat) -> Attr {
        let number = self.number(&place);
        let node = self.0.entry(number).or_insert_with(|| Node {
            place,
            lookups: 0,
            opens: 0,
            attr: attr_of(number, stat),
            file: None,
        });
        node.lookups += 1;
        node.attr
    }

    pub(super) fn forget(&mut self, number: u64, count: u64) {
        if let Some(node) = self.0.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.reap(number);
    }

    pub(super) fn release(&mut self, number: u64) {
        if let Some(node) = self.0.get_mut(&number) {
            node.opens = node.opens.saturating_sub(1);
            if node.opens == 0 {
                node.file = None;
            }
        }
        self.reap(number);
    }

    fn reap(&mut self, number: u64) {
        let is_unused = |node: &Node| node.lookups == 0 && node.opens == 0;
        if self.0.get(&number).is_some_and(is_unused) {
            self.0.remove(&number);
        }
    }

    /// Contents of files that are open.
    pub(super) fn files(&self) -> Vec<Arc<FileCell>> {
        self.0
            .values()
            .filter_map(|node| node.file.clone())
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kernel has gone.
    pub(super) fn forget_all(&mut self) {
        self.0.clear();
    }
}
