//! Directories: entries ascending by name, in as many nodes as it takes.

use serde::{Deserialize, Serialize};

use super::entry_wire::{EntryIn, EntryOut, entry_cost};
use super::error::DagError;
use super::file::FileContent;
use super::node::{
    NODE_MAX_BYTES, Node, NodeAt, NodeRef, RefRow, Shape, check_index, kind, peek_kind, wrong_kind,
};
use super::pack::Place;
use super::table::{BlockTable, ROW_COST, TableBuilder};
use crate::base::BlockRef;
use crate::base::limits::NAME_MAX_BYTES;
use crate::base::wire;

/// Longest target of a symbolic link (Linux's PATH_MAX without its NUL).
pub const TARGET_MAX_BYTES: usize = 4095;
/// Longest path from the root of a tree to the first name of a hard-linked file.
pub const PATH_MAX_BYTES: usize = 8192;
/// All permission bits, with setuid, setgid and sticky.
pub const MODE_MASK: u16 = 0o7777;

/// A point in time as files have it: seconds since 1970 (before it: negative) and nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// What files and directories have besides their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Permission bits, within [`MODE_MASK`].
    pub mode: u16,
    /// Last change of the content.
    pub mtime: Timestamp,
}

/// One name in a directory. `R` is how it names nodes, see [`FileContent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<R> {
    /// The name's bytes: 1 to 255, no `/`, no NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// What it names.
    pub kind: EntryKind<R>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind<R> {
    /// A regular file; the first of its names, in the order of a walk.
    File {
        /// Mode and time.
        meta: Meta,
        /// Its bytes.
        content: FileContent<R>,
    },
    /// A directory.
    Directory {
        /// Mode and time.
        meta: Meta,
        /// Its entries; `None` if it has none.
        entries: Option<R>,
    },
    /// A symbolic link.
    Symlink {
        /// Last change.
        mtime: Timestamp,
        /// Where it points, 1 to [`TARGET_MAX_BYTES`] bytes.
        target: Vec<u8>,
    },
    /// Another name of a file that a walk has met before.
    HardLink {
        /// That file's path from the root of the tree: names joined by `/`.
        first: Vec<u8>,
    },
}

impl<R> Entry<R> {
    /// The same entry under another way to name nodes.
    pub fn try_map<S>(
        self,
        name: impl FnOnce(R) -> Result<S, DagError>,
    ) -> Result<Entry<S>, DagError> {
        let kind = match self.kind {
            EntryKind::File { meta, content } => EntryKind::File {
                meta,
                content: content.try_map(name)?,
            },
            EntryKind::Directory { meta, entries } => EntryKind::Directory {
                meta,
                entries: entries.map(name).transpose()?,
            },
            EntryKind::Symlink { mtime, target } => EntryKind::Symlink { mtime, target },
            EntryKind::HardLink { first } => EntryKind::HardLink { first },
        };
        Ok(Entry {
            name: self.name,
            kind,
        })
    }

    /// Checks name, numbers and inline extents.
    pub fn check(&self) -> Result<(), DagError> {
        let fail = |why| DagError::Entry {
            name: printable(&self.name),
            why,
        };
        check_name(&self.name).map_err(fail)?;
        match &self.kind {
            EntryKind::File { meta, content } => {
                check_meta(meta).map_err(fail)?;
                content.check()
            }
            EntryKind::Directory { meta, .. } => check_meta(meta).map_err(fail),
            EntryKind::Symlink { mtime, target } => {
                check_time(mtime).map_err(fail)?;
                check_target(target).map_err(fail)
            }
            EntryKind::HardLink { first } => check_path(first).map_err(fail),
        }
    }
}

/// Checks one name of a path.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        [] => Err("an empty name"),
        b"." | b".." => Err("a name that stands for another directory"),
        _ if name.len() > NAME_MAX_BYTES => Err("a name of more than 255 bytes"),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => {
            Err("a name with `/` or NUL in it")
        }
        _ => Ok(()),
    }
}

/// Checks a path from the root of a tree.
pub fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.len() > PATH_MAX_BYTES {
        return Err("a path that is too long");
    }
    path.split(|byte| *byte == b'/').try_for_each(check_name)
}

/// Checks what a symbolic link points to.
pub fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > TARGET_MAX_BYTES || target.contains(&0) {
        return Err("an impossible target of a symbolic link");
    }
    Ok(())
}

/// Checks a mode and a time.
pub fn check_meta(meta: &Meta) -> Result<(), &'static str> {
    if meta.mode & !MODE_MASK != 0 {
        return Err("a mode with unknown bits");
    }
    check_time(&meta.mtime)
}

/// Checks a time.
pub const fn check_time(time: &Timestamp) -> Result<(), &'static str> {
    if time.nanos < 1_000_000_000 {
        Ok(())
    } else {
        Err("an impossible time")
    }
}

/// A name for messages.
pub fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(80).collect()
}

/// The ends of a list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSpan {
    /// The smallest name.
    pub first: Vec<u8>,
    /// The greatest name.
    pub last: Vec<u8>,
    /// Entries.
    pub count: u64,
}

impl NameSpan {
    fn of<R>(entries: &[Entry<R>]) -> Option<Self> {
        Some(NameSpan {
            first: entries.first()?.name.clone(),
            last: entries.last()?.name.clone(),
            count: entries.len() as u64,
        })
    }

    fn check(&self) -> Result<(), DagError> {
        let fail = |why| DagError::Entry {
            name: printable(&self.first),
            why,
        };
        check_name(&self.first).map_err(fail)?;
        check_name(&self.last).map_err(fail)?;
        match self.first.cmp(&self.last) {
            std::cmp::Ordering::Equal if self.count == 1 => Ok(()),
            std::cmp::Ordering::Less if self.count >= 2 => Ok(()),
            _ => Err(DagError::Inconsistent(
                "the ends of a child contradict its count",
            )),
        }
    }
}

/// The [`Shape`] of a directory: entries strictly ascending by name.
#[derive(Debug, Clone, Copy)]
pub struct Entries;

type LeafRow = (u8, Vec<BlockRef>, Vec<EntryIn>);
type SpanRow = (serde_bytes::ByteBuf, serde_bytes::ByteBuf, u64, RefRow);
type IndexRow = (u8, u8, Vec<BlockRef>, Vec<SpanRow>);

fn encode_entries<R>(entries: &[Entry<R>], name: impl Fn(&R) -> NodeRef) -> Vec<u8> {
    let mut table = TableBuilder::default();
    let rows: Vec<EntryOut<'_>> = entries
        .iter()
        .map(|entry| EntryOut::new(entry, &name, &mut table))
        .collect();
    wire::encode(&(kind::DIRECTORY_LEAF, table.into_rows(), rows))
}

impl Shape for Entries {
    type Item = Entry<NodeAt>;
    type Draft = Entry<Place>;
    type Span = NameSpan;

    fn draft_cost(draft: &Entry<Place>) -> usize {
        entry_cost(draft)
    }

    fn span_cost(span: &NameSpan) -> usize {
        1 + 3 + span.first.len() + 3 + span.last.len() + 9 + 16 + ROW_COST
    }

    fn draft_span(drafts: &[Entry<Place>]) -> Option<NameSpan> {
        NameSpan::of(drafts)
    }

    fn item_span(items: &[Entry<NodeAt>]) -> Option<NameSpan> {
        NameSpan::of(items)
    }

    fn join(first: &NameSpan, second: &NameSpan) -> NameSpan {
        NameSpan {
            first: first.first.clone(),
            last: second.last.clone(),
            count: first.count.saturating_add(second.count),
        }
    }

    fn precedes(first: &NameSpan, second: &NameSpan) -> bool {
        first.last < second.first
    }

    fn encode_leaf(drafts: &[Entry<Place>], at: &dyn Fn(Place) -> NodeRef) -> Vec<u8> {
        encode_entries(drafts, |place| at(*place))
    }

    fn encode_index(level: u8, children: &[(NameSpan, NodeRef)]) -> Vec<u8> {
        let mut table = TableBuilder::default();
        let rows: Vec<(&serde_bytes::Bytes, &serde_bytes::Bytes, u64, RefRow)> = children
            .iter()
            .map(|(span, child)| {
                (
                    serde_bytes::Bytes::new(&span.first),
                    serde_bytes::Bytes::new(&span.last),
                    span.count,
                    RefRow::new(child, &mut table),
                )
            })
            .collect();
        wire::encode(&(kind::DIRECTORY_INDEX, level, table.into_rows(), rows))
    }

    fn decode(bytes: &[u8], at: &NodeAt) -> Result<Node<Entry<NodeAt>, NameSpan>, DagError> {
        match peek_kind(bytes)? {
            kind::DIRECTORY_LEAF => {
                let (_, table, rows): LeafRow = wire::decode(bytes, NODE_MAX_BYTES)?;
                let table = BlockTable::new(table)?;
                let entries = rows
                    .into_iter()
                    .map(|row| row.read(&table))
                    .collect::<Result<Vec<Entry<NodeRef>>, _>>()?;
                check_entries(&entries)?;
                super::same_bytes(bytes, &encode_entries(&entries, |reference| *reference))?;
                let resolved = entries
                    .into_iter()
                    .map(|entry| entry.try_map(|reference| at.resolve(reference)))
                    .collect::<Result<_, _>>()?;
                Ok(Node::Leaf(resolved))
            }
            kind::DIRECTORY_INDEX => {
                let (_, level, table, rows): IndexRow = wire::decode(bytes, NODE_MAX_BYTES)?;
                let table = BlockTable::new(table)?;
                let mut relative = Vec::with_capacity(rows.len());
                let mut children = Vec::with_capacity(rows.len());
                for (first, last, count, row) in rows {
                    let span = NameSpan {
                        first: first.into_vec(),
                        last: last.into_vec(),
                        count,
                    };
                    span.check()?;
                    let reference = row.read(&table)?;
                    relative.push((span.clone(), reference));
                    children.push((span, at.resolve(reference)?));
                }
                check_index::<Self>(level, &children)?;
                super::same_bytes(bytes, &Self::encode_index(level, &relative))?;
                Ok(Node::Index { level, children })
            }
            other => Err(wrong_kind(other, "directory")),
        }
    }
}

fn check_entries(entries: &[Entry<NodeRef>]) -> Result<(), DagError> {
    if entries.is_empty() {
        return Err(DagError::Inconsistent("a leaf of nothing"));
    }
    entries.iter().try_for_each(Entry::check)?;
    match entries
        .iter()
        .zip(entries.iter().skip(1))
        .find(|(first, second)| first.name >= second.name)
    {
        None => Ok(()),
        Some((_, second)) => Err(DagError::Entry {
            name: printable(&second.name),
            why: "out of order, or twice in one directory",
        }),
    }
}
