//! An operation that enters its writer's feed at once.

use super::Edit;
use crate::namespace::delta::Draft;
use crate::namespace::error::StateError;
use crate::namespace::id::Dot;
use crate::namespace::index;
use crate::namespace::key::Key;
use crate::namespace::merge;
use crate::namespace::row::Sibling;
use crate::namespace::state::{Changes, Rows, Siblings};
use crate::namespace::value::Value;

/// An operation with its place in the feed.
#[derive(Debug)]
pub struct Committed {
    /// What becomes of the rows.
    pub changes: Changes,
    /// The values of those that carry any, by key.
    pub rows: Vec<(Vec<u8>, Siblings)>,
    /// Its last dot.
    pub last: u64,
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
        let mut next = Dot {
            writer: self.writer,
            counter: seen + 1,
        };
        let last = seen + draft.dots();
        version.raise(self.writer, last);
        for write in &draft.writes {
            // What was seen is replaced, so only what is kept stands beside the new values.
            let mut row = match write.keeps.is_empty() {
                true => Vec::new(),
                false => self.work.siblings(&write.key)?.to_vec(),
            };
            row.retain(|sibling| write.keeps.binary_search(&sibling.stamp()).is_ok());
            for value in &write.values {
                row.push(Sibling {
                    dot: next,
                    hlc: draft.hlc,
                    value: value.clone(),
                });
                next.counter += 1;
            }
            row.sort_by_key(|sibling| sibling.dot);
            self.work.put_siblings(&write.key, row);
        }
        for dir in merge::changed_directories(&draft) {
            let changed = Sibling {
                dot: Dot {
                    counter: last,
                    ..next
                },
                hlc: draft.hlc,
                value: Value::Changed,
            };
            self.work.put_siblings(&Key::Changed(dir), vec![changed]);
        }
        for ino in merge::removed_files(&draft) {
            let key = Key::Changed(ino);
            if !self.work.siblings(&key)?.is_empty() {
                self.work.put_siblings(&key, Vec::new());
            }
        }
        self.work.put_version(&version);
        let (changes, rows) = self.work.into_parts();
        Ok(Some(Committed {
            changes,
            rows,
            last,
        }))
    }
}
