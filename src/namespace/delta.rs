//! Changes on their way: a draft is one operation of this replica, a delta is a draft with its
//! place in its writer's feed.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_bytes::ByteBuf;

use super::clock::{Hlc, Stamp};
use super::error::FormatError;
use super::id::{Dot, Ino, PENDING, WriterId};
use super::key::Key;
use super::row::{Sibling, unknown};
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

impl Write {
    /// The row that it makes of `before`: without what `covers` says was seen, other than what is
    /// to be kept, and with `added`, its values with their dots.
    pub(super) fn replace(
        &self,
        before: &[Sibling],
        added: &[Sibling],
        covers: &dyn Fn(&Dot) -> bool,
    ) -> Vec<Sibling> {
        let stays = |sibling: &&Sibling| {
            self.key.only_grows()
                || !covers(&sibling.dot)
                || self.keeps.binary_search(&sibling.stamp()).is_ok()
        };
        let mut after: Vec<Sibling> = before.iter().filter(stays).cloned().collect();
        after.extend_from_slice(added);
        after.sort_by_key(|sibling| sibling.dot);
        after
    }
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

    /// Its writes, each with its values as they stand in rows, with dots from `first` on; those of rows
    /// that follow from the others come last.
    pub(super) fn laid(&self, first: Dot) -> Vec<(Cow<'_, Write>, Vec<Sibling>)> {
        let mut next = first;
        let mut all = Vec::new();
        for write in &self.writes {
            let added = write.values.iter().map(|value| {
                let sibling = Sibling {
                    dot: next,
                    hlc: self.hlc,
                    value: value.clone(),
                };
                next.counter += 1;
                sibling
            });
            let added = added.collect();
            all.push((Cow::Borrowed(write), added));
        }
        let implied = |key, values| {
            Cow::Owned(Write {
                key,
                keeps: Vec::new(),
                values,
            })
        };
        for dir in self.changed_directories() {
            let changed = Sibling {
                dot: Dot {
                    counter: first.counter + self.dots() - 1,
                    ..first
                },
                hlc: self.hlc,
                value: Value::Changed,
            };
            let write = implied(Key::Changed(dir), vec![Value::Changed]);
            all.push((write, vec![changed]));
        }
        for ino in self.removed_files() {
            all.push((implied(Key::Changed(ino), Vec::new()), Vec::new()));
        }
        all
    }

    /// Directories whose entries it writes, and which it does not remove.
    fn changed_directories(&self) -> BTreeSet<Ino> {
        let mut dirs = BTreeSet::new();
        for write in &self.writes {
            if let Key::Entry(dir, _) = write.key {
                dirs.insert(dir);
            }
        }
        for ino in self.removed_files() {
            dirs.remove(&ino);
        }
        dirs
    }

    /// Files whose attributes it removes.
    fn removed_files(&self) -> impl Iterator<Item = Ino> {
        self.writes.iter().filter_map(|write| match write.key {
            Key::Attrs(ino) if write.values.is_empty() && write.keeps.is_empty() => Some(ino),
            _ => None,
        })
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
