//! Putting new blocks in the place of old ones: one group, in which the content's row changes, and the counts with it.

use super::{RecodeError, Task};
use crate::base::{BlockId, EcProfile};
use crate::namespace::{Body, Content, Key, Rows, Value};
use crate::placement::promised;
use crate::store::Group;
use crate::vfs::errno::{Step, Stop};
use crate::vfs::file::FileState;
use crate::vfs::inner::Inner;
use crate::vfs::ledger::Deltas;
use crate::vfs::remove::{Gone, drop_body};

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchanged {
    /// The content is in the new blocks.
    Done,
    /// It is another content by now, or is elsewhere.
    Changed,
    /// The file is being changed.
    InUse,
}

/// How the old blocks lose the content.
pub(super) enum Old<'a> {
    /// Their counts go down with this group, in which those of the new ones go up.
    Counted,
    /// The content is let go of as a whole, afterwards; the new blocks are counted already.
    Dropped(&'a Gone),
}

impl Inner {
    /// Says that a content is in other blocks. `more` is what else the group does.
    pub(super) fn exchange(
        &self,
        task: &Task,
        body: Body,
        deltas: &Deltas,
        old: Old<'_>,
        more: impl FnOnce(&mut Group),
    ) -> Step<Exchanged> {
        let mut core = self.core();
        self.checkpoints.gate.check()?;
        let Some(content) = self.content_of(task)? else {
            return Ok(Exchanged::Changed);
        };
        let number = core.inodes.number(task.ino);
        let file = core.inodes.get(number).and_then(|node| node.file.clone());
        let mut state = match &file {
            Some(file) => {
                let state = self.lock(file);
                if !is_quiet(&state) || !state.shows(&content) {
                    return Ok(Exchanged::InUse);
                }
                Some(state)
            }
            None => None,
        };
        let edited = self.edit(&core, self.now(), |edit| {
            edit.relocate(task.ino, &task.version, body.clone())
        });
        let mut edited = match edited {
            Ok(edited) => edited,
            Err(Stop::Errno(cairnfs_fuse::Errno::EAGAIN)) => return Ok(Exchanged::Changed),
            Err(stop) => return Err(stop),
        };
        if let Old::Dropped(gone) = &old {
            drop_body(&core, gone, &mut edited.group);
        }
        more(&mut edited.group);
        self.commit_counted(&mut core, edited, deltas)?;
        if let Some(state) = &mut state {
            // Whoever has it open reads from the new blocks from now on.
            let mtime = state.head.mtime;
            state.reload(&Content { body, ..content }, mtime);
        }
        drop(state);
        if matches!(old, Old::Dropped(_)) {
            self.dropped_one(&mut core);
        }
        core.changed(&[task.ino]);
        Ok(Exchanged::Done)
    }

    /// Whether nobody is changing the file of a task: otherwise what is placed for it would be for nothing.
    pub(super) fn is_quiet_file(&self, task: &Task) -> Step<bool> {
        let file = {
            let core = self.core();
            let number = core.inodes.number(task.ino);
            core.inodes.get(number).and_then(|node| node.file.clone())
        };
        Ok(file.is_none_or(|file| is_quiet(&self.lock(&file))))
    }

    /// The content that a task is about, if it is still where it was.
    fn content_of(&self, task: &Task) -> Step<Option<Content>> {
        let row = self.rows().siblings(&Key::Content(task.ino))?;
        let found = row.iter().find_map(|sibling| match &sibling.value {
            Value::Content(content) if content.edits == task.version => Some(content.clone()),
            _ => None,
        });
        let is_there = |content: &Content| match &content.body {
            Body::Stored(profile, body) => (profile, body) == (&task.profile, &task.body),
            Body::Inline(_) => false,
        };
        Ok(found.filter(is_there))
    }

    /// How many losses new blocks must survive that take the place of old ones: as many as those did when they were
    /// placed, as far as that is still asked for. Refuses it at once where there are too few peers for that.
    pub(super) fn losses_to_survive(
        &self,
        target: EcProfile,
        old: impl Iterator<Item = BlockId>,
    ) -> Result<u32, RecodeError> {
        // The most of any: one that was placed badly must not pull the others down with it.
        let mut most = 0;
        for block in old {
            if let Some(tenant) = self.tenant(block)? {
                most = most.max(tenant.survives);
            }
        }
        let old = most.min(target.parity_shards() as u32);
        let members = self.blocks.net().members();
        let live = members.list.iter().filter(|m| m.state.is_live());
        let live = live.filter(|member| member.capacity_bytes > 0).count();
        check_safe(old, promised(target, live) as u32)?;
        Ok(old)
    }

    /// Tries again what has to wait until the volume takes more.
    pub(super) async fn when_there_is_room<T>(
        &self,
        mut attempt: impl FnMut() -> Step<T>,
    ) -> Result<T, RecodeError> {
        loop {
            match attempt() {
                Err(Stop::Busy) => self.room().await.map_err(Stop::from)?,
                done => return Ok(done?),
            }
        }
    }
}

/// Whether a file shows what its row says, and nothing is on its way to change that.
fn is_quiet(state: &FileState) -> bool {
    let is_unchanged = state.overlay.is_empty() && state.notes.head.is_none();
    is_unchanged && !state.is_busy() && !state.is_orphan && !state.is_behind
}

/// Refuses what would survive fewer losses.
pub(super) const fn check_safe(old: u32, new: u32) -> Result<(), RecodeError> {
    match new < old {
        true => Err(RecodeError::Weaker { old, new }),
        false => Ok(()),
    }
}
