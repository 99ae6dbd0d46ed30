//! Which files the kernel knows by which numbers, and what is held for each.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use cairnfs_fuse as fuse;

use super::file::FileCell;
use crate::namespace::{Ino, Stat};

/// How many files have their attributes kept, in each of two generations.
const STATS_MAX: usize = 16 << 10;

/// Numbers with this bit are those of files of snapshots.
pub(super) const SNAPSHOT_BIT: u64 = 1 << 63;

/// Numbers are random already.
#[derive(Default)]
pub(super) struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 ^= number;
    }
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<Identity>>;

/// What a file without a name has left, as long as somebody uses it.
#[derive(Debug)]
pub(super) struct Orphan {
    /// Its attributes when it lost its last name, and changes since.
    pub(super) stat: Stat,
    /// Its extended attributes.
    pub(super) xattrs: std::collections::BTreeMap<Vec<u8>, bytes::Bytes>,
    /// The row of [`super::rows::DROPPED`] that lets its blocks go after a crash.
    pub(super) dropped: Option<u64>,
}

/// A file that the kernel knows, or that has something open or unsaved.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: Ino,
    /// How often the kernel was told of it.
    pub(super) lookups: u32,
    /// Open handles.
    pub(super) opens: u32,
    /// Its content, while it is open or has changes that are not in the namespace.
    pub(super) file: Option<Arc<FileCell>>,
    /// Set once it has no name any more.
    pub(super) orphan: Option<Box<Orphan>>,
}

/// All of them, and attributes read lately.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    nodes: Map<Node>,
    /// Files whose number another one has.
    displaced: HashMap<Ino, u64>,
    young: Map<Arc<Stat>>,
    old: Map<Arc<Stat>>,
}

/// The number that a file has unless another one has it: the same at every mount.
fn natural(ino: Ino) -> u64 {
    if ino.is_reserved() {
        return u64::from(ino.0[15]);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&ino.0[..8]);
    let number = u64::from_be_bytes(bytes) & !SNAPSHOT_BIT;
    // Those of the directories that are always there, and zero, which is no number for programs.
    if number < 256 { number + 256 } else { number }
}

impl Inodes {
    /// The number of a file, which it keeps while there is a node.
    pub(super) fn number(&self, ino: Ino) -> u64 {
        let mut number = natural(ino);
        if let Some(number) = self.displaced.get(&ino) {
            return *number;
        }
        while self.nodes.get(&number).is_some_and(|node| node.ino != ino) {
            number = (number.wrapping_add(1) & !SNAPSHOT_BIT).max(256);
        }
        number
    }

    /// The file of a number. The top directory is known without being looked up.
    pub(super) fn get(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&number)
    }

    /// The node of a file, made if there is none.
    pub(super) fn node(&mut self, ino: Ino) -> (u64, &mut Node) {
        let number = self.number(ino);
        if number != natural(ino) {
            self.displaced.insert(ino, number);
        }
        let node = self.nodes.entry(number).or_insert_with(|| Node {
            ino,
            lookups: 0,
            opens: 0,
            file: None,
            orphan: None,
        });
        (number, node)
    }

    /// Forgets a node that nobody needs. Answers it if so.
    pub(super) fn reap(&mut self, number: u64) -> Option<Node> {
        let node = self.nodes.get(&number)?;
        if node.lookups > 0 || node.opens > 0 || node.file.is_some() || number < 256 {
            return None;
        }
        let node = self.nodes.remove(&number)?;
        if number != natural(node.ino) {
            self.displaced.remove(&node.ino);
        }
        Some(node)
    }

    /// Numbers of all files that the kernel knows.
    pub(super) fn known(&self) -> Vec<fuse::Ino> {
        let known = self.nodes.iter().filter(|(_, node)| node.lookups > 0);
        known.map(|(number, _)| fuse::Ino(*number)).collect()
    }

    /// The kernel has gone: it knows and holds nothing any more.
    pub(super) fn forget_all(&mut self) -> Vec<u64> {
        for node in self.nodes.values_mut() {
            node.lookups = 0;
            node.opens = 0;
        }
        self.nodes.keys().copied().collect()
    }

    /// Attributes, if they were read lately.
    pub(super) fn stat(&mut self, number: u64) -> Option<Arc<Stat>> {
        if let Some(stat) = self.young.get(&number) {
            return Some(Arc::clone(stat));
        }
        let stat = self.old.remove(&number)?;
        self.keep_stat(number, Arc::clone(&stat));
        Some(stat)
    }

    /// Keeps attributes that hold until the file changes.
    pub(super) fn keep_stat(&mut self, number: u64, stat: Arc<Stat>) {
        if self.young.len() >= STATS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(number, stat);
    }

    /// All that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Files whose content is kept in memory, by number.
    pub(super) fn with_content(&self) -> Vec<(u64, Ino)> {
        let nodes = self.nodes.iter();
        let open = nodes.filter(|(_, node)| node.file.is_some() && node.orphan.is_none());
        open.map(|(number, node)| (*number, node.ino)).collect()
    }

    /// Files without a name that somebody uses, by number.
    pub(super) fn orphans(&self) -> Vec<u64> {
        let nodes = self.nodes.iter();
        let orphans = nodes.filter(|(_, node)| node.orphan.is_some());
        orphans.map(|(number, _)| *number).collect()
    }

    /// Any file may have changed.
    pub(super) fn drop_stats(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// The file has changed.
    pub(super) fn drop_stat(&mut self, ino: Ino) {
        let number = self.number(ino);
        self.young.remove(&number);
        self.old.remove(&number);
    }
}
