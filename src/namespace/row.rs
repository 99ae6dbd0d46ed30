//! A row: all values that stand under one key. One, unless writers disagree.

use serde_bytes::ByteBuf;

use super::clock::{Hlc, Stamp};
use super::error::FormatError;
use super::id::{Dot, WriterId};
use super::key::Key;
use super::value::{Attrs, Body, Content, Entry, Value};
use super::value_wire;
use super::writers::{WriterList, Writers};
use crate::base::limits::DELTA_MAX_BYTES;
use crate::base::wire::{self, WireError};
use crate::dag::Body as Blocks;

/// Version of the encoding of rows.
pub const ROW_VERSION: u8 = 1;

/// One of the values that stand under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Which write it is.
    pub dot: Dot,
    /// When it was written.
    pub hlc: Hlc,
    /// What was written.
    pub value: Value,
}

impl Sibling {
    /// When and by whom it was written.
    pub const fn stamp(&self) -> Stamp {
        Stamp {
            hlc: self.hlc,
            writer: self.dot.writer,
        }
    }
}

/// `[writer, counter, hlc, value]`.
type SiblingWire = (u32, u64, Hlc, ByteBuf);
type RowWire = (u8, Vec<WriterId>, Vec<SiblingWire>);

/// The bytes of a row; siblings ascend by dot.
pub fn encode(siblings: &[Sibling]) -> Vec<u8> {
    let mut writers = WriterList::default();
    let rows: Vec<SiblingWire> = siblings
        .iter()
        .map(|sibling| {
            let number = writers.number(&sibling.dot.writer);
            let value = value_wire::encode(&sibling.value, &mut writers);
            (
                number,
                sibling.dot.counter,
                sibling.hlc,
                ByteBuf::from(value),
            )
        })
        .collect();
    wire::encode::<RowWire>(&(ROW_VERSION, writers.into_rows(), rows))
}

/// How many bytes a value takes in a row, about: most have a fixed part and a name.
pub(super) fn bytes_about(sibling: &Sibling) -> usize {
    const FIXED: usize = 160;
    const EXTENT: usize = 96;
    FIXED
        + match &sibling.value {
            Value::Content(content) => match &content.body {
                Body::Inline(bytes) => bytes.len(),
                Body::Stored(_, Blocks::Inline(extents)) => extents.len() * EXTENT,
                Body::Stored(_, Blocks::Manifest(_)) => EXTENT,
            },
            Value::Xattr(xattr) => xattr.value.len(),
            Value::Member(bytes) | Value::Snapshot(bytes) | Value::Ruling(bytes) => bytes.len(),
            Value::Attrs(_) | Value::Entry(_) | Value::Changed => 0,
        }
}

/// Reads the row of `key` and checks every value.
pub fn decode(key: &Key, bytes: &[u8]) -> Result<Vec<Sibling>, FormatError> {
    let (version, writers, rows): RowWire = wire::decode(bytes, DELTA_MAX_BYTES)?;
    if version != ROW_VERSION {
        return Err(unknown(version, ROW_VERSION));
    }
    let writers = Writers(writers);
    let siblings = rows
        .into_iter()
        .map(|(writer, counter, hlc, value)| {
            Ok(Sibling {
                dot: Dot {
                    writer: writers.get(writer)?,
                    counter,
                },
                hlc,
                value: value_wire::decode(key, &value, &writers)?,
            })
        })
        .collect::<Result<Vec<_>, FormatError>>()?;
    let ascending = siblings.windows(2).all(|pair| match pair {
        [first, second] => first.dot < second.dot,
        _ => true,
    });
    if siblings.is_empty() || !ascending {
        return Err("a row without values, or with values out of order".into());
    }
    Ok(siblings)
}

/// A version that this program cannot read.
pub(super) fn unknown(found: u8, known: u8) -> FormatError {
    WireError::Version {
        found: found.into(),
        known: known.into(),
    }
    .into()
}

/// Values of entries with what they were written by.
pub(super) fn entries(row: &[Sibling]) -> impl Iterator<Item = (&Sibling, &Entry)> {
    row.iter().filter_map(|sibling| match &sibling.value {
        Value::Entry(entry) => Some((sibling, entry)),
        _ => None,
    })
}

/// The attributes that a row says, all values joined.
pub(super) fn attrs(row: &[Sibling]) -> Option<Attrs> {
    let mut all = row.iter().filter_map(|sibling| match &sibling.value {
        Value::Attrs(attrs) => Some(attrs.clone()),
        _ => None,
    });
    let mut joined = all.next()?;
    all.for_each(|other| joined.join(other));
    Some(joined)
}

/// The contents that compete, the one that has the file's name first: of each version that no
/// other includes the value written last.
pub(super) fn contents(row: &[Sibling]) -> Vec<&Content> {
    let all: Vec<(&Sibling, &Content)> = row
        .iter()
        .filter_map(|sibling| match &sibling.value {
            Value::Content(content) => Some((sibling, content)),
            _ => None,
        })
        .collect();
    let is_replaced = |sibling: &Sibling, content: &Content| {
        all.iter().any(|(rival, other)| {
            other.edits.includes(&content.edits)
                && (other.edits != content.edits
                    || (rival.stamp(), rival.dot) > (sibling.stamp(), sibling.dot))
        })
    };
    let mut left: Vec<&Content> = all
        .iter()
        .filter(|(sibling, content)| !is_replaced(sibling, content))
        .map(|(_, content)| *content)
        .collect();
    left.sort_by_key(|content| std::cmp::Reverse(content.edited));
    left
}

/// The proofs of membership that a row says.
pub(super) fn proofs(row: &[Sibling]) -> impl Iterator<Item = &bytes::Bytes> {
    row.iter().filter_map(|sibling| match &sibling.value {
        Value::Member(proof) => Some(proof),
        _ => None,
    })
}

/// The document about members or keys that a row says, with the devices in whose feeds it came.
pub fn ruling(row: &[Sibling]) -> Option<(bytes::Bytes, Vec<crate::base::PeerId>)> {
    let documents = row.iter().filter_map(|sibling| match &sibling.value {
        Value::Ruling(bytes) => Some((bytes, sibling.dot.writer.peer)),
        _ => None,
    });
    let mut authors = Vec::new();
    let mut found = None;
    for (bytes, author) in documents {
        found = Some(bytes.clone());
        authors.push(author);
    }
    found.map(|bytes| (bytes, authors))
}

/// The value of an extended attribute.
pub(super) fn xattr(row: &[Sibling]) -> Option<&super::value::Field<bytes::Bytes>> {
    let all = row.iter().filter_map(|sibling| match &sibling.value {
        Value::Xattr(value) => Some(value),
        _ => None,
    });
    all.max()
}
