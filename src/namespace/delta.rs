//! Changes on their way: a draft is one operation of this replica, a delta is a draft with its
//! place in its writer's feed.

use serde_bytes::ByteBuf;

use super::clock::{Hlc, Stamp};
use super::error::FormatError;
use super::id::{PENDING, WriterId};
use super::key::Key;
use super::row::unknown;
use super::value::Value;
use super::value_wire;
use super::version::VersionVector;
use super::writers::{WriterList, Writers};
use crate::base::limits::DELTA_MAX_BYTES;
use crate::base::wire;

/// Version of the encoding of deltas.
pub const DELTA_VERSION: u8 = 1;

/// What becomes of one row: the values that the writer saw go, except for those it keeps, and new
/// ones come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which row.
    pub key: Key,
    /// Values seen that stay, by when and by whom they were written; ascending.
    pub keeps: Vec<Stamp>,
    /// New values; none removes the row.
    pub values: Vec<Value>,
}

/// One operation: all its writes take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What had been seen when it was made.
    pub context: VersionVector,
    /// When it was made.
    pub hlc: Hlc,
    /// Ascending by key, each key once.
    pub writes: Vec<Write>,
}

/// A draft in its writer's feed. The values have the dots from `first` on, in order; a delta
/// without values takes one dot all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Who made it.
    pub writer: WriterId,
    /// Its first dot.
    pub first: u64,
    /// The operation. Its context says nothing of the writer itself, of whom everything before
    /// `first` was seen.
    pub draft: Draft,
}

impl Draft {
    /// Dots that it takes.
    pub fn dots(&self) -> u64 {
        let values: usize = self.writes.iter().map(|write| write.values.len()).sum();
        (values as u64).max(1)
    }

    /// Whether it changes nothing.
    pub const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Gives it its place in the feed of `writer`, of whom `seen` is the last dot so far.
    pub fn enter(mut self, writer: WriterId, seen: u64) -> Delta {
        self.context = self.context.without(&writer);
        Delta {
            writer,
            first: seen + 1,
            draft: self,
        }
    }
}

/// `[key, [[hlc, writer], ..], [value, ..]]`.
type WriteWire = (ByteBuf, Vec<(Hlc, u32)>, Vec<ByteBuf>);
/// Writer 0 of the list is the delta's own.
type DeltaWire = (u8, Vec<WriterId>, u64, Hlc, Vec<(u32, u64)>, Vec<WriteWire>);

impl Delta {
    /// Its last dot.
    pub fn last(&self) -> u64 {
        self.first + self.draft.dots() - 1
    }

    /// What its writer had seen, its own feed included.
    pub fn context(&self) -> VersionVector {
        let mut context = self.draft.context.clone();
        context.raise(self.writer, self.first - 1);
        context
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut writers = WriterList::default();
        writers.number(&self.writer);
        let context = self.draft.context.iter();
        let context = context
            .map(|(writer, seen)| (writers.number(writer), seen))
            .collect();
        let writes = self.draft.writes.iter();
        let writes = writes
            .map(|write| {
                let keeps = write.keeps.iter();
                let keeps = keeps
                    .map(|stamp| (stamp.hlc, writers.number(&stamp.writer)))
                    .collect();
                let values = write.values.iter();
                let values = values
                    .map(|value| ByteBuf::from(value_wire::encode(value, &mut writers)))
                    .collect();
                (ByteBuf::from(write.key.encode()), keeps, values)
            })
            .collect();
        wire::encode::<DeltaWire>(&(
            DELTA_VERSION,
            writers.into_rows(),
            self.first,
            self.draft.hlc,
            context,
            writes,
        ))
    }

    /// Reads a delta: only the one encoding of something that can be.
    ///
    /// # Errors
    /// For anything else; it never panics.
    pub fn decode(bytes: &[u8]) -> Result<Delta, FormatError> {
        let (version, writers, first, hlc, context, writes): DeltaWire =
            wire::decode(bytes, DELTA_MAX_BYTES)?;
        if version != DELTA_VERSION {
            return Err(unknown(version, DELTA_VERSION));
        }
        let writers = Writers(writers);
        let context = context
            .into_iter()
            .map(|(number, seen)| Ok((writers.get(number)?, seen)))
            .collect::<Result<Vec<_>, FormatError>>()?;
        let delta = Delta {
            writer: writers.get(0)?,
            first,
            draft: Draft {
                context: VersionVector::from_sorted(context)?,
                hlc,
                writes: writes
                    .into_iter()
                    .map(|write| read_write(write, &writers))
                    .collect::<Result<_, _>>()?,
            },
        };
        delta.check()?;
        if delta.encode() != bytes {
            return Err(wire::WireError::NotCanonical.into());
        }
        Ok(delta)
    }

    fn check(&self) -> Result<(), FormatError> {
        let end = self.first.checked_add(self.draft.dots());
        if self.first == 0 || end.is_none_or(|end| end >= PENDING) {
            return Err("impossible dots".into());
        }
        if self.draft.context.get(&self.writer) != 0 {
            return Err("a context that names the writer itself".into());
        }
        let ascending = self.draft.writes.windows(2).all(|pair| match pair {
            [one, two] => one.key.encode() < two.key.encode(),
            _ => true,
        });
        let keeps_ascend = self.draft.writes.iter().all(|write| {
            write.keeps.windows(2).all(|pair| match pair {
                [one, two] => one < two,
                _ => true,
            })
        });
        if ascending && keeps_ascend {
            Ok(())
        } else {
            Err("writes out of order".into())
        }
    }
}

fn read_write((key, keeps, values): WriteWire, writers: &Writers) -> Result<Write, FormatError> {
    let key = Key::decode(&key)?;
    if matches!(key, Key::Changed(_)) {
        return Err("a row that no delta writes".into());
    }
    let keeps = keeps
        .into_iter()
        .map(|(hlc, number)| {
            let writer = writers.get(number)?;
            Ok(Stamp { hlc, writer })
        })
        .collect::<Result<_, FormatError>>()?;
    let values = values
        .iter()
        .map(|bytes| value_wire::decode(&key, bytes, writers))
        .collect::<Result<_, _>>()?;
    Ok(Write { key, keeps, values })
}
