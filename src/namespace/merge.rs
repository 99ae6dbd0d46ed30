//! Merging deltas: each writer's in order, none before what its writer had seen, and the rows are
//! the same whatever else the order was.
//!
//! A write removes the values that its writer saw. What a delta removed needs no trace: the version
//! vector knows that it was merged, and it does not come again (Almeida, Shoker, Baquero, *Delta
//! State Replicated Data Types*, 2018).

use std::collections::BTreeSet;

use super::delta::{Delta, Draft, Write};
use super::error::StateError;
use super::id::{Dot, Ino, PENDING, WriterId};
use super::index::{self, Touched};
use super::key::Key;
use super::row::Sibling;
use super::state::{self, Changes, Rows, Work};
use super::value::Value;
use crate::base::limits::DELTA_AHEAD_MAX_MS;

/// What became of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is to be merged by these changes.
    Merged(Changes),
    /// It was merged before.
    Known,
    /// Something that it builds on is missing: of each writer named, all up to that number.
    Early(Vec<(WriterId, u64)>),
    /// It is from the future. It can be merged when the clock shows `due_ms`.
    NotDue {
        /// Milliseconds since 1970.
        due_ms: u64,
    },
    /// Its dots overlap with those of another delta of its writer, which was merged: two feeds go
    /// by one name.
    Forked,
}

/// Merges a delta into rows.
///
/// # Errors
/// If rows cannot be read.
pub fn apply(rows: &dyn Rows, delta: &Delta, now_ms: u64) -> Result<Outcome, StateError> {
    let mut version = state::version(rows)?;
    let seen = version.get(&delta.writer);
    if seen >= delta.last() {
        return Ok(Outcome::Known);
    }
    if seen >= delta.first {
        return Ok(Outcome::Forked);
    }
    let context = delta.context();
    if !version.includes(&context) {
        let missing = context
            .iter()
            .filter(|(w, number)| version.get(w) < *number);
        let missing = missing.map(|(writer, number)| (*writer, number));
        return Ok(Outcome::Early(missing.collect()));
    }
    let ahead = delta.draft.hlc.ms().saturating_sub(DELTA_AHEAD_MAX_MS);
    if ahead > now_ms {
        return Ok(Outcome::NotDue { due_ms: ahead });
    }
    let mut work = Work::new(rows);
    version.raise(delta.writer, delta.last());
    work.put_version(&version);
    let first = Dot {
        writer: delta.writer,
        counter: delta.first,
    };
    lay(&mut work, &delta.draft, first, &|dot| context.covers(dot))?;
    Ok(Outcome::Merged(work.into_changes()))
}

/// Shows a draft on its own replica before it has a place in the feed. Its dots are those of drafts
/// from `number` on; the next draft's follow.
///
/// # Errors
/// If rows cannot be read.
pub fn apply_draft(
    rows: &dyn Rows,
    draft: &Draft,
    writer: WriterId,
    number: u64,
) -> Result<Changes, StateError> {
    let counter = PENDING | number;
    let mut work = Work::new(rows);
    lay(&mut work, draft, Dot { writer, counter }, &|_| true)?;
    Ok(work.into_changes())
}

/// The draft that was shown under `number` has entered the feed as `delta`: what is left of it gets
/// its final dots.
///
/// # Errors
/// If rows cannot be read.
pub fn promote(rows: &dyn Rows, delta: &Delta, number: u64) -> Result<Changes, StateError> {
    let mut work = Work::new(rows);
    let mut version = state::version(rows)?;
    version.raise(delta.writer, delta.last());
    work.put_version(&version);
    let pending = |offset: u64| Dot {
        writer: delta.writer,
        counter: (PENDING | number) + offset,
    };
    let mut offset = 0;
    let mut moved = Vec::new();
    for write in &delta.draft.writes {
        for _ in &write.values {
            moved.push((write.key.clone(), pending(offset), delta.first + offset));
            offset += 1;
        }
    }
    let last = delta.draft.dots() - 1;
    for dir in changed_directories(&delta.draft) {
        moved.push((Key::Changed(dir), pending(last), delta.last()));
    }
    for (key, from, to) in moved {
        let mut row = work.siblings(&key)?.to_vec();
        let Some(sibling) = row.iter_mut().find(|sibling| sibling.dot == from) else {
            continue;
        };
        sibling.dot.counter = to;
        row.sort_by_key(|sibling| sibling.dot);
        work.put_siblings(&key, row);
    }
    Ok(work.into_changes())
}

/// Directories whose entries a draft writes, and which it does not remove.
pub(super) fn changed_directories(draft: &Draft) -> BTreeSet<Ino> {
    let mut dirs = BTreeSet::new();
    for write in &draft.writes {
        if let Key::Entry(dir, _) = write.key {
            dirs.insert(dir);
        }
    }
    for ino in removed_files(draft) {
        dirs.remove(&ino);
    }
    dirs
}

/// Files whose attributes a draft removes.
pub(super) fn removed_files(draft: &Draft) -> impl Iterator<Item = Ino> {
    draft.writes.iter().filter_map(|write| match write.key {
        Key::Attrs(ino) if write.values.is_empty() && write.keeps.is_empty() => Some(ino),
        _ => None,
    })
}

/// Carries out the writes of a draft, with dots from `first` on.
fn lay(
    work: &mut Work<'_>,
    draft: &Draft,
    first: Dot,
    covers: &dyn Fn(&Dot) -> bool,
) -> Result<(), StateError> {
    let mut touched = Touched::default();
    let mut next = first;
    for write in &draft.writes {
        let added = write.values.iter().map(|value| {
            let sibling = Sibling {
                dot: next,
                hlc: draft.hlc,
                value: value.clone(),
            };
            next.counter += 1;
            sibling
        });
        let added = added.collect();
        replace(work, &mut touched, write, added, covers)?;
    }
    let implied = |key, values| Write {
        key,
        keeps: Vec::new(),
        values,
    };
    for dir in changed_directories(draft) {
        let sibling = Sibling {
            dot: Dot {
                counter: first.counter + draft.dots() - 1,
                ..first
            },
            hlc: draft.hlc,
            value: Value::Changed,
        };
        let write = implied(Key::Changed(dir), Vec::new());
        replace(work, &mut touched, &write, vec![sibling], covers)?;
    }
    for ino in removed_files(draft) {
        let write = implied(Key::Changed(ino), Vec::new());
        replace(work, &mut touched, &write, Vec::new(), covers)?;
    }
    index::update(work, touched)
}

/// Replaces the values that were seen, other than those to be kept, by `added`.
pub(super) fn replace(
    work: &mut Work<'_>,
    touched: &mut Touched,
    write: &Write,
    added: Vec<Sibling>,
    covers: &dyn Fn(&Dot) -> bool,
) -> Result<(), StateError> {
    let before = work.siblings(&write.key)?;
    let stays = |sibling: &&Sibling| {
        !covers(&sibling.dot) || write.keeps.binary_search(&sibling.stamp()).is_ok()
    };
    let mut after: Vec<Sibling> = before.iter().filter(stays).cloned().collect();
    after.extend(added);
    after.sort_by_key(|sibling| sibling.dot);
    if *after == *before {
        return Ok(());
    }
    match &write.key {
        Key::Entry(dir, name) => {
            index::entry_changed(work, touched, (*dir, name), &before, &after)?;
        }
        Key::Content(ino) => {
            touched.files.insert(*ino);
        }
        Key::Attrs(ino) => {
            touched.others.insert(*ino);
        }
        Key::Xattr(..) | Key::Changed(_) => {}
    }
    work.put_siblings(&write.key, after);
    Ok(())
}
