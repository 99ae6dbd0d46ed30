//! Finding contents that are stored otherwise than is wanted where they are.

use std::collections::{BTreeSet, VecDeque};

use super::{Due, RecodeError, Task};
use crate::base::{BlockId, EcProfile, Redundancy};
use crate::dag::{self, NodeAt};
use crate::namespace::state::{decode_row, end_of};
use crate::namespace::{Body, Content, Ino, Key, Rows, Value};
use crate::vfs::errno::Step;
use crate::vfs::inner::Inner;
use crate::vfs::rows::{FILE_ROWS, RECODED, pages, read_all};

/// Rows that are looked at in one go.
const PAGE: usize = 1024;
/// Most files that are remembered; others have their turn when these are done.
const DUE_MAX: usize = 64 << 10;

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) queue: VecDeque<Due>,
    /// Whether something cannot be decided now.
    pub(super) is_partial: bool,
    /// Whether there is more than is remembered.
    pub(super) is_cut: bool,
}

/// The block by which it is told who looks after a content.
fn first_block(body: &dag::Body<NodeAt>) -> Option<BlockId> {
    match body {
        dag::Body::Inline(extents) => extents.first().map(|extent| extent.block.id),
        dag::Body::Manifest(root) => Some(root.block.id),
    }
}

impl Inner {
    /// Looks through all contents. Reads tables.
    pub(super) fn find_due(&self) -> Result<Found, RecodeError> {
        let mut found = Found::default();
        // What was under way comes first, or is let go of.
        let begun = self.begun()?;
        for ino in &begun {
            found.queue.push_back(Due {
                ino: *ino,
                bytes: 0,
            });
        }
        let end = end_of(FILE_ROWS);
        let mut from = FILE_ROWS.to_vec();
        loop {
            let rows = read_all(&self.volume, &from, &end, PAGE)?;
            for (bytes, value) in &rows {
                let Ok(key @ Key::Content(ino)) = Key::decode(bytes) else {
                    continue;
                };
                let row = match decode_row(&key, value) {
                    Ok(row) => row,
                    Err(error) => {
                        // Others can be stored anew all the same.
                        tracing::warn!(
                            ?ino,
                            "a file whose row cannot be read stays as it is stored: {error}"
                        );
                        found.is_partial = true;
                        continue;
                    }
                };
                let stored: Vec<&Content> = row
                    .iter()
                    .filter_map(|sibling| match &sibling.value {
                        Value::Content(content) => Some(content),
                        _ => None,
                    })
                    .filter(|content| matches!(content.body, Body::Stored(..)))
                    .collect();
                if stored.is_empty() {
                    continue;
                }
                let policy = {
                    let _core = self.core();
                    self.policy_at(ino)
                };
                let Ok((wanted, _)) = policy else {
                    found.is_partial = true;
                    continue;
                };
                // Who is there is not known yet, so it is not known either what fits them.
                let is_unsettled = || !self.options.auto.is_settled();
                found.is_partial |= wanted == Some(Redundancy::Auto) && is_unsettled();
                let mut due = 0;
                for content in stored {
                    if self.is_due(wanted, content)?.is_some() {
                        due += content.size;
                    }
                }
                if due == 0 {
                    continue;
                }
                if found.queue.len() >= DUE_MAX {
                    found.is_cut = true;
                    return Ok(found);
                }
                match begun.contains(&ino) {
                    true => {
                        let of = found.queue.iter_mut().find(|due| due.ino == ino);
                        if let Some(of) = of {
                            of.bytes = due;
                        }
                    }
                    false => found.queue.push_back(Due { ino, bytes: due }),
                }
            }
            match rows.last().filter(|_| rows.len() == PAGE) {
                Some((last, _)) => from = [last.as_slice(), &[0]].concat(),
                None => return Ok(found),
            }
        }
    }

    /// Files of which something was placed anew already.
    fn begun(&self) -> Result<BTreeSet<Ino>, RecodeError> {
        let mut begun = BTreeSet::new();
        for page in pages(&self.volume, RECODED, &[], PAGE) {
            for (key, _) in page? {
                if let Some(ino) = key.first_chunk::<16>() {
                    begun.insert(Ino(*ino));
                }
            }
        }
        Ok(begun)
    }

    /// The redundancy that a content should have, if it has another and this machine looks after it.
    fn is_due(
        &self,
        wanted: Option<Redundancy>,
        content: &Content,
    ) -> Result<Option<EcProfile>, RecodeError> {
        let Body::Stored(profile, body) = &content.body else {
            return Ok(None);
        };
        if self.is_as_wanted(wanted, *profile) {
            return Ok(None);
        }
        let is_own = match first_block(body) {
            Some(block) if self.is_shared() => self.tenant(block)?.is_some(),
            first => first.is_some(),
        };
        Ok(is_own.then(|| self.profile_of(wanted)))
    }

    /// What is to be done about a file, as it is now: the first of its contents that is stored otherwise.
    pub(super) fn task_of(&self, ino: Ino) -> Result<Option<Task>, RecodeError> {
        let (wanted, row) = {
            let _core = self.core();
            let look = || -> Step<_> {
                self.checkpoints.gate.check()?;
                let wanted = self.policy_at(ino)?.0;
                Ok((wanted, self.rows().siblings(&Key::Content(ino))?))
            };
            look()?
        };
        let mut task: Option<Task> = None;
        for sibling in row.iter() {
            let Value::Content(content) = &sibling.value else {
                continue;
            };
            let Some(target) = self.is_due(wanted, content)? else {
                continue;
            };
            if let Some(task) = &mut task {
                task.has_more = true;
                break;
            }
            if let Body::Stored(profile, body) = &content.body {
                task = Some(Task {
                    ino,
                    version: content.edits.clone(),
                    size: content.size,
                    profile: *profile,
                    body: body.clone(),
                    target,
                    has_more: false,
                });
            }
        }
        Ok(task)
    }

    /// Whether a redundancy is as good as the one that is wanted for a file.
    pub(super) fn would_do(&self, ino: Ino, profile: EcProfile) -> Result<bool, RecodeError> {
        let _core = self.core();
        let wanted = self.policy_at(ino)?.0;
        Ok(self.is_as_wanted(wanted, profile))
    }
}
