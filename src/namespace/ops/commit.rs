//! An operation that enters its writer's feed at once.

use super::Edit;
use crate::namespace::delta::{Delta, Draft};
use crate::namespace::drafts;
use crate::namespace::error::StateError;
use crate::namespace::id::Dot;
use crate::namespace::index;
use crate::namespace::state::{Changes, Rows, Siblings};

/// An operation with its place in the feed.
#[derive(Debug)]
pub struct Committed {
    /// What becomes of the rows.
    pub changes: Changes,
    /// The values of those that carry any, by key.
    pub rows: Vec<(Vec<u8>, Siblings)>,
    /// What others are to merge.
    pub delta: Delta,
}

impl Edit<'_> {
    /// Gives the operation its place after `seen`, the last dot of its writer, with what becomes of the
    /// rows: the same as merging its delta makes of them, without doing its work again. None if it changes
    /// nothing.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn commit(mut self, seen: u64) -> Result<Option<Committed>, StateError> {
        if self.writes.is_empty() {
            return Ok(None);
        }
        let touched = std::mem::take(&mut self.touched);
        index::update(&mut self.work, touched)?;
        let draft = Draft {
            context: self.context,
            hlc: self.now.hlc,
            writes: self.writes.into_values().collect(),
        };
        let mut version = draft.context.clone();
        version.raise(self.writer, seen + draft.dots());
        let first = Dot {
            writer: self.writer,
            counter: seen + 1,
        };
        let has_drafts = drafts::any(&self.work)?;
        for (write, mut row) in draft.laid(first) {
            if has_drafts {
                let covers = |dot: &Dot| draft.context.covers(dot);
                drafts::merge(&mut self.work, &write, &row, &covers)?;
            }
            // What was seen is replaced, so only what is kept stands beside the new values.
            if !write.keeps.is_empty() {
                let mut kept = self.work.siblings(&write.key)?.to_vec();
                kept.retain(|sibling| write.keeps.binary_search(&sibling.stamp()).is_ok());
                row.append(&mut kept);
                row.sort_by_key(|sibling| sibling.dot);
            }
            if !row.is_empty() || !self.work.siblings(&write.key)?.is_empty() {
                self.work.put_siblings(&write.key, row);
            }
        }
        self.work.put_version(&version);
        let (changes, rows) = self.work.into_parts();
        Ok(Some(Committed {
            changes,
            rows,
            delta: draft.enter(self.writer, seen),
        }))
    }
}
