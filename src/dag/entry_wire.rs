//! Directory entries as they stand in a node: short arrays, told apart by their second element.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

use super::directory::{Entry, EntryKind, Meta, Timestamp};
use super::error::DagError;
use super::extent::{EXTENT_COST, ExtentRow};
use super::file::{Body, FileContent};
use super::node::{NodeRef, RefRow};
use super::table::{BlockTable, ROW_COST, TableBuilder};

const FILE: u8 = 0;
const FILE_WITH_MANIFEST: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;

/// At least the bytes that an entry and its rows of the table take in a leaf.
pub(super) fn entry_cost<R>(entry: &Entry<R>) -> usize {
    // Array, name, tag, mode, time, size, and the head of a list or of a string.
    const FIXED: usize = 1 + 3 + 1 + 3 + 9 + 5 + 9 + 3;
    let variable = match &entry.kind {
        EntryKind::File { content, .. } => match &content.body {
            Body::Inline(extents) => extents.len() * EXTENT_COST,
            Body::Manifest(_) => 16 + ROW_COST,
        },
        EntryKind::Directory { .. } => 16 + ROW_COST,
        EntryKind::Symlink { target, .. } => target.len(),
        EntryKind::HardLink { first } => first.len(),
    };
    FIXED + entry.name.len() + variable
}

/// An entry about to be written.
pub(super) struct EntryOut<'a> {
    name: &'a [u8],
    fields: FieldsOut<'a>,
}

enum FieldsOut<'a> {
    File(Meta, u64, Vec<ExtentRow>),
    FileWithManifest(Meta, u64, RefRow),
    Directory(Meta, Option<RefRow>),
    Symlink(Timestamp, &'a [u8]),
    HardLink(&'a [u8]),
}

impl<'a> EntryOut<'a> {
    pub fn new<R>(
        entry: &'a Entry<R>,
        name: impl Fn(&R) -> NodeRef,
        table: &mut TableBuilder,
    ) -> Self {
        let fields = match &entry.kind {
            EntryKind::File { meta, content } => match &content.body {
                Body::Inline(extents) => FieldsOut::File(
                    *meta,
                    content.size,
                    extents
                        .iter()
                        .map(|extent| ExtentRow::new(extent, table))
                        .collect(),
                ),
                Body::Manifest(node) => FieldsOut::FileWithManifest(
                    *meta,
                    content.size,
                    RefRow::new(&name(node), table),
                ),
            },
            EntryKind::Directory { meta, entries } => FieldsOut::Directory(
                *meta,
                entries.as_ref().map(|node| RefRow::new(&name(node), table)),
            ),
            EntryKind::Symlink { mtime, target } => FieldsOut::Symlink(*mtime, target),
            EntryKind::HardLink { first } => FieldsOut::HardLink(first),
        };
        EntryOut {
            name: &entry.name,
            fields,
        }
    }
}

impl Serialize for EntryOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tag, fields) = match &self.fields {
            FieldsOut::File(..) => (FILE, 5),
            FieldsOut::FileWithManifest(..) => (FILE_WITH_MANIFEST, 5),
            FieldsOut::Directory(..) => (DIRECTORY, 4),
            FieldsOut::Symlink(..) => (SYMLINK, 3),
            FieldsOut::HardLink(..) => (HARD_LINK, 1),
        };
        let mut row = serializer.serialize_tuple(2 + fields)?;
        row.serialize_element(Bytes::new(self.name))?;
        row.serialize_element(&tag)?;
        match &self.fields {
            FieldsOut::File(meta, size, extents) => {
                put_meta(&mut row, meta)?;
                row.serialize_element(size)?;
                row.serialize_element(extents)?;
            }
            FieldsOut::FileWithManifest(meta, size, node) => {
                put_meta(&mut row, meta)?;
                row.serialize_element(size)?;
                row.serialize_element(node)?;
            }
            FieldsOut::Directory(meta, node) => {
                put_meta(&mut row, meta)?;
                row.serialize_element(node)?;
            }
            FieldsOut::Symlink(mtime, target) => {
                row.serialize_element(&mtime.seconds)?;
                row.serialize_element(&mtime.nanos)?;
                row.serialize_element(Bytes::new(target))?;
            }
            FieldsOut::HardLink(first) => row.serialize_element(Bytes::new(first))?,
        }
        row.end()
    }
}

fn put_meta<T: SerializeTuple>(row: &mut T, meta: &Meta) -> Result<(), T::Error> {
    row.serialize_element(&meta.mode)?;
    row.serialize_element(&meta.mtime.seconds)?;
    row.serialize_element(&meta.mtime.nanos)
}

/// An entry as it was read, before its numbers were looked at.
pub(super) struct EntryIn {
    name: ByteBuf,
    fields: FieldsIn,
}

enum FieldsIn {
    File(Meta, u64, Vec<ExtentRow>),
    FileWithManifest(Meta, u64, RefRow),
    Directory(Meta, Option<RefRow>),
    Symlink(Timestamp, ByteBuf),
    HardLink(ByteBuf),
}

impl EntryIn {
    pub fn read(self, table: &BlockTable) -> Result<Entry<NodeRef>, DagError> {
        let kind = match self.fields {
            FieldsIn::File(meta, size, extents) => EntryKind::File {
                meta,
                content: FileContent {
                    size,
                    body: Body::Inline(
                        extents
                            .into_iter()
                            .map(|row| row.read(table))
                            .collect::<Result<_, _>>()?,
                    ),
                },
            },
            FieldsIn::FileWithManifest(meta, size, node) => EntryKind::File {
                meta,
                content: FileContent {
                    size,
                    body: Body::Manifest(node.read(table)?),
                },
            },
            FieldsIn::Directory(meta, node) => EntryKind::Directory {
                meta,
                entries: node.map(|node| node.read(table)).transpose()?,
            },
            FieldsIn::Symlink(mtime, target) => EntryKind::Symlink {
                mtime,
                target: target.into_vec(),
            },
            FieldsIn::HardLink(first) => EntryKind::HardLink {
                first: first.into_vec(),
            },
        };
        Ok(Entry {
            name: self.name.into_vec(),
            kind,
        })
    }
}

impl<'de> Deserialize<'de> for EntryIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = EntryIn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a directory entry")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<EntryIn, A::Error> {
        let name = next(&mut row)?;
        let fields = match next::<u8, A>(&mut row)? {
            FILE => FieldsIn::File(meta(&mut row)?, next(&mut row)?, next(&mut row)?),
            FILE_WITH_MANIFEST => {
                FieldsIn::FileWithManifest(meta(&mut row)?, next(&mut row)?, next(&mut row)?)
            }
            DIRECTORY => FieldsIn::Directory(meta(&mut row)?, next(&mut row)?),
            SYMLINK => FieldsIn::Symlink(time(&mut row)?, next(&mut row)?),
            HARD_LINK => FieldsIn::HardLink(next(&mut row)?),
            other => {
                return Err(de::Error::custom(format_args!(
                    "unknown kind of entry {other}: it was written by a newer version"
                )));
            }
        };
        if row.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("a directory entry with too many fields"));
        }
        Ok(EntryIn { name, fields })
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(row: &mut A) -> Result<T, A::Error> {
    row.next_element()?
        .ok_or_else(|| de::Error::custom("a directory entry with too few fields"))
}

fn time<'de, A: SeqAccess<'de>>(row: &mut A) -> Result<Timestamp, A::Error> {
    Ok(Timestamp {
        seconds: next(row)?,
        nanos: next(row)?,
    })
}

fn meta<'de, A: SeqAccess<'de>>(row: &mut A) -> Result<Meta, A::Error> {
    Ok(Meta {
        mode: next(row)?,
        mtime: time(row)?,
    })
}
