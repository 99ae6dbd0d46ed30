//! Names and files that go, and names that move.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairnfs_fuse::{self as fuse, Caller, Errno, Rename, RenameFlags};

use super::dir::name_of;
use super::errno::Step;
use super::file::FileCell;
use super::inner::{Core, Inner};
use super::inode::Orphan;
use super::ledger;
use super::rows::{BASES, DROPPED};
use crate::base::EcProfile;
use crate::dag::{self, NodeAt};
use crate::namespace::{Body, Ino, Kind, Name, Now, Removed, RenameMode, Shown, Stat};
use crate::store::Group;

/// The bit of a directory in which only owners remove names.
const STICKY: u16 = 0o1000;

/// A content that nothing names any more.
pub(super) type Gone = (EcProfile, dag::Body<NodeAt>);

/// Adds to a group that a content is let go. Answers under which number; whoever carries it out takes that.
pub(super) fn drop_body(core: &Core, gone: &Gone, group: &mut Group) -> u64 {
    let number = core.next_dropped;
    drop_body_as(number, gone, group);
    number
}

/// The same under a number that nothing has.
pub(super) fn drop_body_as(number: u64, (profile, body): &Gone, group: &mut Group) {
    let row = ledger::encode_dropped(*profile, body, 0);
    group.put(DROPPED, &number.to_be_bytes(), &row);
}

/// What is kept of a file that may lose its last name, as it was before.
pub(super) struct Doomed {
    number: u64,
    pub(super) ino: Ino,
    stat: Arc<Stat>,
    xattrs: BTreeMap<Vec<u8>, bytes::Bytes>,
}

impl Inner {
    pub(super) fn unlink(&self, caller: &Caller, parent: u64, name: fuse::Name<'_>) -> Step<()> {
        self.remove(caller, parent, name, (false, None))
    }

    /// The same if the name still means this file; `ENOENT` if not.
    pub(super) fn unlink_this(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        ino: Ino,
    ) -> Step<()> {
        self.remove(caller, parent, name, (false, Some(ino)))
    }

    pub(super) fn rmdir(&self, caller: &Caller, parent: u64, name: fuse::Name<'_>) -> Step<()> {
        self.remove(caller, parent, name, (true, None))
    }

    fn remove(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        (wants_dir, only): (bool, Option<Ino>),
    ) -> Step<()> {
        let mut core = self.core();
        let dir = core.dir(parent)?;
        let name = name_of(name)?;
        let shown = self.named(&mut core, (parent, dir), &name)?;
        let shown = shown.filter(|shown| only.is_none_or(|only| shown.ino == only));
        let shown = shown.ok_or(Errno::ENOENT)?;
        let doomed = self.doomed(&mut core, shown.ino)?;
        self.check_sticky(&mut core, caller, (parent, dir), &doomed.stat)?;
        let now = self.now();
        let mut edited = self.edit(&core, now, |edit| match wants_dir {
            true => edit.rmdir(dir, &name),
            false => edit.unlink(dir, &name),
        })?;
        let removed = edited.value;
        // It is what makes room where there is none.
        edited.group.cleanup();
        let dropped = self.drop_content(&core, &removed, &doomed, &mut edited.group);
        self.count_edited(&mut edited, -i64::from(removed.was_last));
        self.commit(&mut core, edited)?;
        core.changed(&[dir]);
        self.lost_name(&mut core, &removed, doomed, dropped, now);
        Ok(())
    }

    pub(super) fn rename(&self, caller: &Caller, rename: &Rename<'_>) -> Step<()> {
        let mut core = self.core();
        let (parent, new_parent) = (rename.parent.0, rename.new_parent.0);
        let (dir, new_dir) = (core.dir(parent)?, core.dir(new_parent)?);
        let name = name_of(rename.name)?;
        let moved = self.named(&mut core, (parent, dir), &name)?;
        let moved = moved.ok_or(Errno::ENOENT)?.ino;
        let new_name = name_of(rename.new_name)?;
        let there = self.named(&mut core, (new_parent, new_dir), &new_name)?;
        let there = there.map(|shown| shown.ino);
        let moved_number = core.inodes.number(moved);
        let stat = self.stat(&mut core, moved_number, moved)?;
        self.check_sticky(&mut core, caller, (parent, dir), &stat)?;
        let doomed = match there {
            Some(there) => Some(self.doomed(&mut core, there)?),
            None => None,
        };
        if let Some(doomed) = &doomed {
            self.check_sticky(&mut core, caller, (new_parent, new_dir), &doomed.stat)?;
        }
        // Whoever writes a file, renames it over another and loses power has the old or the new content.
        let file = core.inodes.get(moved_number).and_then(|n| n.file.clone());
        if let Some(file) = &file {
            if self.is_shared() {
                // Others see it complete under its new name.
                self.hand_over(&mut core, file);
            }
            self.note(file, &mut self.lock(file))?;
        }
        let mode = match rename.flags {
            RenameFlags::Replace => RenameMode::Replace,
            RenameFlags::NoReplace => RenameMode::NoReplace,
            RenameFlags::Exchange => RenameMode::Exchange,
        };
        let now = self.now();
        let mut edited = self.edit(&core, now, |edit| {
            edit.rename((dir, &name), (new_dir, &new_name), mode)
        })?;
        let removed = edited.value;
        let dropped = match (&removed, &doomed) {
            (Some(removed), Some(doomed)) => {
                self.drop_content(&core, removed, doomed, &mut edited.group)
            }
            _ => None,
        };
        self.hold_back(&core, file.as_ref());
        let is_fewer = removed.as_ref().is_some_and(|removed| removed.was_last);
        self.count_edited(&mut edited, -i64::from(is_fewer));
        self.commit(&mut core, edited)?;
        core.changed(&[dir, new_dir, moved]);
        core.changed(there.as_slice());
        if let (Some(removed), Some(doomed)) = (removed, doomed) {
            self.lost_name(&mut core, &removed, doomed, dropped, now);
        }
        Ok(())
    }

    /// The operation that is about to be carried out names a file that others cannot read yet.
    pub(super) fn hold_back(&self, core: &Core, file: Option<&Arc<FileCell>>) {
        if let (Some(shared), Some(file)) = (self.shared(), file) {
            let is_changed = {
                let state = self.lock(file);
                state.is_changed && !state.is_orphan
            };
            if is_changed {
                shared.hold_back(core.next_dot(), file);
            }
        }
    }

    /// What a name in a directory leads to; `ENOTDIR` if it is none.
    fn named(
        &self,
        core: &mut Core,
        (number, dir): (u64, Ino),
        name: &Name,
    ) -> Step<Option<Shown>> {
        let found = self.view(|view| view.lookup(dir, name))?;
        if found.is_none() {
            self.must_be_directory(core, number, dir)?;
        }
        Ok(found)
    }

    /// In a sticky directory only the owner of the file or of the directory removes a name.
    fn check_sticky(
        &self,
        core: &mut Core,
        caller: &Caller,
        (number, dir): (u64, Ino),
        child: &Stat,
    ) -> Step<()> {
        let above = self.stat(core, number, dir)?;
        let is_owner = caller.uid == above.uid || caller.uid == child.uid;
        if above.mode & STICKY != 0 && !is_owner && !caller.is_privileged() {
            return Err(Errno::EPERM.into());
        }
        Ok(())
    }

    pub(super) fn doomed(&self, core: &mut Core, ino: Ino) -> Step<Doomed> {
        let number = core.inodes.number(ino);
        let stat = self.stat(core, number, ino)?;
        let is_open = core.inodes.get(number).is_some_and(|node| node.opens > 0);
        let xattrs = match is_open && stat.links == 1 {
            true => self.all_xattrs(ino)?,
            false => BTreeMap::new(),
        };
        Ok(Doomed {
            number,
            ino,
            stat,
            xattrs,
        })
    }

    /// Writes down that the blocks of a file which goes are to be let go. Answers the number of that.
    pub(super) fn drop_content(
        &self,
        core: &Core,
        removed: &Removed,
        doomed: &Doomed,
        group: &mut Group,
    ) -> Option<u64> {
        if !removed.was_last {
            return None;
        }
        if self.is_shared() {
            // It was removed on purpose: changes of it do not bring it back.
            group.remove(BASES, &doomed.ino.0);
        }
        let content = doomed.stat.content.as_ref();
        let Some(Body::Stored(profile, body)) = content.map(|content| &content.body) else {
            return None;
        };
        Some(drop_body(core, &(*profile, body.clone()), group))
    }

    /// A name is gone; with the last one the file becomes one that only those see who use it.
    pub(super) fn lost_name(
        &self,
        core: &mut Core,
        removed: &Removed,
        doomed: Doomed,
        dropped: Option<u64>,
        now: Now,
    ) {
        core.changed(&[doomed.ino]);
        if dropped.is_some() {
            core.next_dropped += 1;
        }
        if !removed.was_last {
            return;
        }
        if removed.kind == Kind::Directory {
            core.cursors.forget(doomed.ino);
        }
        self.became_orphan(core, doomed, dropped, now);
    }

    /// A file has no name any more: only those see it who use it.
    pub(super) fn became_orphan(
        &self,
        core: &mut Core,
        doomed: Doomed,
        dropped: Option<u64>,
        now: Now,
    ) {
        let Some(node) = core.inodes.get_mut(doomed.number) else {
            if dropped.is_some() {
                self.dropping.notify_one();
            }
            return;
        };
        let mut stat = Stat::clone(&doomed.stat);
        stat.links = 0;
        stat.ctime = now.time;
        node.orphan = Some(Box::new(Orphan {
            stat,
            xattrs: doomed.xattrs,
            dropped,
        }));
        let file = node.file.clone();
        if let Some(number) = dropped {
            core.held.insert(number);
        }
        if let Some(file) = file {
            let mut state = self.lock(&file);
            state.is_orphan = true;
            state.has_base_row = false;
        }
        self.reap(core, doomed.number);
    }

    /// A content was dropped that nobody can read any more.
    pub(super) fn dropped_one(&self, core: &mut Core) {
        core.next_dropped += 1;
        self.dropping.notify_one();
    }

    /// Nobody uses a file without a name any more.
    pub(super) fn drop_orphan(&self, core: &mut Core, orphan: &Orphan) {
        if let Some(number) = orphan.dropped {
            core.held.remove(&number);
            self.dropping.notify_one();
        }
    }
}
