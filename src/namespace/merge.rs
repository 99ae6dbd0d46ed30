//! Merging deltas: each writer's in order, none before what its writer had seen, and the rows are
//! the same whatever else the order was.
//!
//! A write removes the values that its writer saw. What a delta removed needs no trace: the version
//! vector knows that it was merged, and it does not come again (Almeida, Shoker, Baquero, *Delta
//! State Replicated Data Types*, 2018).

use super::delta::{Delta, Draft, Write};
use super::drafts;
use super::error::StateError;
use super::id::{Dot, PENDING, WriterId};
use super::index::{self, Touched};
use super::join;
use super::key::Key;
use super::row::Sibling;
use super::state::{self, Changes, Rows, Work};
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
/// If rows cannot be read; of class `Retry` while a [join](super::Join) is under way.
pub fn apply(rows: &dyn Rows, delta: &Delta, now_ms: u64) -> Result<Outcome, StateError> {
    join::refuse_unfinished(rows)?;
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
    let has_drafts = drafts::any(rows)?;
    let covers = |dot: &Dot| context.covers(dot);
    let mut touched = Touched::default();
    for (write, added) in delta.draft.laid(first) {
        if has_drafts {
            drafts::merge(&mut work, &write, &added, &covers)?;
        }
        replace(&mut work, &mut touched, &write, added, &covers)?;
    }
    index::update(&mut work, touched)?;
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
    let mut touched = Touched::default();
    for (write, added) in draft.laid(Dot { writer, counter }) {
        drafts::begin(&mut work, &write.key)?;
        replace(&mut work, &mut touched, &write, added, &|_| true)?;
    }
    index::update(&mut work, touched)?;
    Ok(work.into_changes())
}

/// The draft that was shown under `number` has entered the feed as `delta`: what is left of it gets
/// its final dots. Drafts may enter in another order than they were made in.
///
/// # Errors
/// If rows cannot be read.
pub fn promote(rows: &dyn Rows, delta: &Delta, number: u64) -> Result<Changes, StateError> {
    let mut work = Work::new(rows);
    let mut touched = Touched::default();
    let mut version = state::version(rows)?;
    version.raise(delta.writer, delta.last());
    work.put_version(&version);
    let context = delta.context();
    let dot = |counter| Dot {
        writer: delta.writer,
        counter,
    };
    let shown = delta.draft.laid(dot(PENDING | number));
    let final_ones = delta.draft.laid(dot(delta.first));
    for ((write, pending), (_, added)) in shown.iter().zip(final_ones) {
        let Some(mut kept) = drafts::kept(&work, &write.key)? else {
            return Err(StateError::corrupt("a draft", "it was not shown"));
        };
        kept.row = write.replace(&kept.row, &added, &|dot| context.covers(dot));
        kept.drafts = kept.drafts.saturating_sub(1);
        let before = work.siblings(&write.key)?;
        let after = if kept.drafts == 0 {
            drafts::end(&mut work, &write.key)?;
            kept.row
        } else {
            drafts::put(&mut work, &write.key, &kept);
            let mut after = before.to_vec();
            for (from, to) in pending.iter().zip(&added) {
                let found = after.iter_mut().find(|sibling| sibling.dot == from.dot);
                if let Some(sibling) = found {
                    sibling.dot = to.dot;
                }
            }
            after.sort_by_key(|sibling| sibling.dot);
            after
        };
        set_row(&mut work, &mut touched, &write.key, &before, after)?;
    }
    index::update(&mut work, touched)?;
    Ok(work.into_changes())
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
    let after = write.replace(&before, &added, covers);
    set_row(work, touched, &write.key, &before, after)
}

/// Makes a row another one.
pub(super) fn set_row(
    work: &mut Work<'_>,
    touched: &mut Touched,
    key: &Key,
    before: &[Sibling],
    after: Vec<Sibling>,
) -> Result<(), StateError> {
    if *after == *before {
        return Ok(());
    }
    match key {
        Key::Entry(dir, name) => {
            index::entry_changed(work, touched, (*dir, name), before, &after)?;
        }
        Key::Content(ino) => {
            touched.files.insert(*ino);
        }
        Key::Attrs(ino) => {
            touched.others.insert(*ino);
        }
        Key::Xattr(..) | Key::Changed(_) | Key::Member(_) | Key::Snapshot(_) | Key::Ruling(..) => {}
    }
    work.put_siblings(key, after);
    Ok(())
}
