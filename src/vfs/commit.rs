//! Operations on the namespace: prepared as one group of the journal, then carried out.

use std::sync::atomic::Ordering;

use cairnfs_fuse::Errno;

use super::errno::Step;
use super::feed;
use super::inner::{Core, Inner};
use super::ledger::Deltas;
use super::rows;
use crate::namespace::state::Siblings;
use crate::namespace::{Changes, DroppedContent, Edit, Now, OpError, View, census};
use crate::store::Group;

/// The namespace's rows as they will be, and their place in the feed.
pub(super) struct Edited<T> {
    pub(super) value: T,
    pub(super) group: Group,
    changes: Changes,
    decoded: Vec<(Vec<u8>, Siblings)>,
    /// Contents that lost and become no files, as configured.
    let_go: Vec<DroppedContent>,
    last: u64,
    /// How many files are shown afterwards, if that changes.
    files: Option<u64>,
    /// Whether that was found out by looking at all that changes.
    is_counted: bool,
}

impl<T> Edited<T> {
    /// What becomes of the namespace's rows.
    pub(super) const fn changes(&self) -> &Changes {
        &self.changes
    }
}

impl Inner {
    /// Prepares an operation on the namespace. [`Inner::commit`] carries it out.
    pub(super) fn edit<T>(
        &self,
        core: &Core,
        now: Now,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<T, OpError>,
    ) -> Step<Edited<T>> {
        self.checkpoints.gate.check()?;
        self.prepare(core, now, operation)
    }

    /// The same also while others may not, for who holds them off.
    pub(super) fn prepare<T>(
        &self,
        core: &Core,
        now: Now,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<T, OpError>,
    ) -> Step<Edited<T>> {
        let rows = self.rows();
        // Where writers disagreed an operation may make more files, or fewer, than it says.
        let is_counted = !View::new(&rows)?.is_plain();
        let rule = |path: &[u8]| self.options.conflicts.keeps_newest(path);
        let mut edit = Edit::new(&rows, self.writer(), now)?;
        if !self.options.conflicts.is_empty() {
            edit.keep_newest(&rule);
        }
        let value = operation(&mut edit)?;
        let let_go = edit.dropped().to_vec();
        let committed = edit.commit(core.seen)?;
        let mut group = Group::new();
        let (changes, decoded, last) = match committed {
            Some(committed) => {
                if let Some(shared) = self.shared() {
                    if shared.share.read_only || shared.is_out() {
                        return Err(Errno::EROFS.into());
                    }
                    feed::add_outgoing(&mut group, &committed.delta);
                }
                let last = committed.delta.last();
                (committed.changes, committed.rows, last)
            }
            None => (Changes::new(), Vec::new(), core.seen),
        };
        rows::add_changes(&self.volume, &mut group, &changes)?;
        let mut edited = Edited {
            value,
            group,
            changes,
            decoded,
            let_go,
            last,
            files: None,
            is_counted: false,
        };
        if is_counted {
            let more = census::more_shown(&rows, &edited.changes)?;
            self.count_edited(&mut edited, more);
            edited.is_counted = true;
        }
        Ok(edited)
    }

    /// Adds to an operation that there are more files afterwards, or fewer: unless that was found out.
    pub(super) fn count_edited<T>(&self, edited: &mut Edited<T>, more: i64) {
        if !edited.is_counted && more != 0 {
            edited.files = Some(self.count_files(&mut edited.group, more));
        }
    }

    /// Applies a prepared operation.
    pub(super) fn commit<T>(&self, core: &mut Core, edited: Edited<T>) -> Step<T> {
        if !edited.group.is_empty() {
            self.volume.apply(&edited.group)?;
        }
        Ok(self.committed(core, edited))
    }

    fn committed<T>(&self, core: &mut Core, edited: Edited<T>) -> T {
        if let Some(shared) = self.shared().filter(|_| edited.last > core.seen) {
            shared.outgoing.notify_one();
        }
        self.watches.see(&edited.changes);
        self.policies.see(&edited.changes);
        self.row_cache.applied(edited.changes, edited.decoded);
        core.seen = edited.last;
        if let Some(files) = edited.files {
            self.files.store(files, Ordering::Relaxed);
        }
        for content in edited.let_go {
            let (volume, path) = (&self.options.name, content.path.escape_ascii());
            let writer = content.edited.writer.peer.short();
            tracing::info!(
                "in the volume `{volume}` the older content of `{path}`, by {writer}, was let go as configured"
            );
        }
        edited.value
    }

    /// The same with changes of the counts of blocks.
    pub(super) fn commit_counted<T>(
        &self,
        core: &mut Core,
        mut edited: Edited<T>,
        deltas: &Deltas,
    ) -> Step<T> {
        self.apply_counted(&mut edited.group, deltas, &[])?;
        Ok(self.committed(core, edited))
    }
}
