//! Carrying a plan out: each file in one operation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairnfs_fuse::kernel::Notice;
use cairnfs_fuse::{self as fuse, Caller, Errno};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{
    DEPTH_MAX, Found, RestoreAction, RestorePlan, RestoreProgress, RestoreStep, is_fitting, names,
    path_of, shown, xattrs_of,
};
use crate::dag;
use crate::namespace::{AttrChange, Body, Edit, Ino, Kind, Name, NewNode, OpError, Stat};
use crate::vfs::commit::Edited;
use crate::vfs::errno::{Step, Stop};
use crate::vfs::inner::{Core, Inner};
use crate::vfs::ledger::Deltas;
use crate::vfs::remove::{Gone, drop_body};
use crate::vfs::snapshots::SnapshotError;
use crate::vfs::snapshots::tree::Opened;

/// How often a file that is being written is waited for.
const TRIES_MAX: usize = 8;
/// Bytes of extended attributes that go into one operation with the rest.
const XATTRS_TOGETHER: usize = 256 << 10;

/// The body of a content, if it is in blocks.
fn stored(stat: &Stat) -> Option<Gone> {
    match &stat.content.as_ref()?.body {
        Body::Stored(profile, body) => Some((*profile, body.clone())),
        Body::Inline(_) => None,
    }
}

/// Sets everything that a file of a snapshot has besides its content.
fn dress(
    edit: &mut Edit<'_>,
    ino: Ino,
    stat: &Stat,
    (old, new): (&BTreeMap<Name, Bytes>, &BTreeMap<Name, Bytes>),
) -> Result<(), OpError> {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        edit.remove_xattr(ino, name)?;
    }
    for (name, value) in new
        .iter()
        .filter(|(name, value)| old.get(*name) != Some(*value))
    {
        edit.set_xattr(ino, name, value.clone())?;
    }
    let change = AttrChange {
        mode: Some(stat.mode),
        uid: Some(stat.uid),
        gid: Some(stat.gid),
        atime: Some(stat.atime),
        mtime: Some(stat.mtime),
    };
    edit.set_attrs(ino, &change)
}

impl Inner {
    pub(in crate::vfs::snapshots) async fn carry_plan(
        self: Arc<Self>,
        plan: RestorePlan,
        tell: &(dyn Fn(RestoreProgress) + Send + Sync),
    ) -> Result<RestoreProgress, SnapshotError> {
        if self.is_reader() {
            return Err(SnapshotError::Reader);
        }
        // No snapshot is let go meanwhile, nor what it keeps.
        let _turn = self.checkpoints.turn.lock().await;
        let opened = self.open_snapshot(plan.snapshot).await?;
        if !self.records()?.iter().any(|(id, _)| *id == plan.snapshot) {
            return Err(SnapshotError::Unknown(format!("{:?}", plan.snapshot)));
        }
        let mut progress = RestoreProgress {
            steps: plan.steps.len() as u64,
            ..RestoreProgress::default()
        };
        for step in &plan.steps {
            self.carry_step(&opened, step).await?;
            progress.done += 1;
            progress.bytes += step.bytes;
            tell(progress);
        }
        self.count_what_came().await?;
        self.sync_journal().await.map_err(SnapshotError::Stopped)?;
        Ok(progress)
    }

    /// Tries a step again when there is room, or a file that is being written is in blocks.
    async fn patiently<T>(
        self: &Arc<Self>,
        path: &[u8],
        step: impl Fn() -> Step<T> + Send + Sync,
    ) -> Result<T, SnapshotError> {
        let mut tries = 0;
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(Stop::Errno(Errno::EAGAIN)) if tries < TRIES_MAX => {
                    tries += 1;
                    self.seal_all().await.map_err(SnapshotError::Unsynced)?;
                }
                Err(Stop::Errno(Errno::EAGAIN)) => {
                    return Err(SnapshotError::Path {
                        path: shown(path),
                        why: "it is being written to all the time",
                    });
                }
                Err(Stop::Busy) => self.room().await.map_err(SnapshotError::Stopped)?,
                Err(stop) => return Err(stop.into()),
            }
        }
    }

    async fn carry_step(
        self: &Arc<Self>,
        opened: &Opened,
        step: &RestoreStep,
    ) -> Result<(), SnapshotError> {
        let path = names(&step.path)?;
        let Some((name, above)) = path.split_last() else {
            // The top directory.
            let old = self.old_whole(opened, step.source).await?;
            return self
                .patiently(&step.path, || self.put_over(Ino::ROOT, &old, false))
                .await;
        };
        let dir = self.live_at(above)?;
        let Some((dir, Kind::Directory)) = dir else {
            return Err(SnapshotError::Path {
                path: shown(&path_of(above)),
                why: "the directory went away meanwhile",
            });
        };
        match step.action {
            RestoreAction::Remove => self.take_away(dir, name, 0).await,
            RestoreAction::Link => {
                let first = names(step.first.as_deref().unwrap_or_default())?;
                let Some((ino, _)) = self.live_at(&first)? else {
                    return Err(SnapshotError::Path {
                        path: shown(&path_of(&first)),
                        why: "it went away meanwhile",
                    });
                };
                self.patiently(&step.path, || self.put_link(dir, name, ino))
                    .await
            }
            _ => {
                let old = self.old_whole(opened, step.source).await?;
                let with_content = step.action != RestoreAction::Attributes;
                self.patiently(&step.path, || {
                    let there = self.live_whole(name, dir)?;
                    match there {
                        Some(there)
                            if !step.is_anew && is_fitting(&there.stat.node, &old.stat.node) =>
                        {
                            self.put_over(there.ino, &old, with_content)
                        }
                        Some(there) if there.stat.node.kind() == Kind::Directory => {
                            Err(Errno::EISDIR.into())
                        }
                        there => self.put_new(dir, name, &old, there.is_some()),
                    }
                })
                .await
            }
        }
    }

    /// Has the blocks of a content that comes counted with its group.
    fn counted(&self, old: &Found, edited_group: &mut crate::store::Group) -> Step<Deltas> {
        let mut deltas = Deltas::default();
        if let Some(body) = stored(&old.stat) {
            if !self.is_shared()
                && let dag::Body::Inline(extents) = &body.1
            {
                // One that is missing makes it fail.
                deltas.extents(extents, 1);
            } else if !self.count_at_once(&body, &mut deltas)? {
                self.comes(&body, edited_group)?;
            }
        }
        Ok(deltas)
    }

    /// Applies an operation that changes more than one file, and has the kernel told.
    fn bring<T>(&self, core: &mut Core, mut edited: Edited<T>, deltas: &Deltas) -> Step<T> {
        let affected = self.affected(edited.changes())?;
        let files = self.count_files(&mut edited.group, affected.more_files);
        if affected.has_acls {
            self.note_acls(&mut edited.group);
        }
        let value = self.commit_counted(core, edited, deltas)?;
        self.files.store(files, Ordering::Relaxed);
        let changed: Vec<Ino> = affected.files.iter().copied().collect();
        core.changed(&changed);
        let mut notices = Vec::new();
        self.tell_of(core, &affected, &mut notices);
        self.snapshots.tell(notices);
        Ok(value)
    }

    /// Makes a file as it was. If something else has its name, that goes in the same moment.
    fn put_new(&self, dir: Ino, name: &Name, old: &Found, is_taken: bool) -> Step<()> {
        let mut core = self.core();
        let ino = Ino(self.entropy.array());
        self.expect(ino);
        let new = NewNode {
            ino,
            node: old.stat.node.clone(),
            mode: old.stat.mode,
            uid: old.stat.uid,
            gid: old.stat.gid,
        };
        let doomed = match is_taken {
            true => {
                let there = self.view(|view| view.lookup(dir, name))?;
                match there {
                    Some(there) => Some(self.doomed(&mut core, there.ino)?),
                    None => None,
                }
            }
            false => None,
        };
        let is_small = old.xattrs.values().map(Bytes::len).sum::<usize>() <= XATTRS_TOGETHER;
        let (none, some) = (BTreeMap::new(), &old.xattrs);
        let together = if is_small { some } else { &none };
        let now = self.now();
        let mut edited = self.edit(&core, now, |edit| {
            let removed = match &doomed {
                Some(_) => Some(edit.unlink(dir, name)?),
                None => None,
            };
            edit.create(dir, name.bytes(), &new)?;
            if let Some(content) = &old.stat.content {
                edit.set_content(ino, content.size, content.mtime, content.body.clone())?;
            }
            dress(edit, ino, &old.stat, (&none, together))?;
            Ok(removed)
        })?;
        let dropped = match (&edited.value, &doomed) {
            (Some(removed), Some(doomed)) => {
                self.drop_content(&core, removed, doomed, &mut edited.group)
            }
            _ => None,
        };
        let deltas = self.counted(old, &mut edited.group)?;
        let removed = self.bring(&mut core, edited, &deltas)?;
        if let (Some(removed), Some(doomed)) = (removed, doomed) {
            self.lost_name(&mut core, &removed, doomed, dropped, now);
        }
        if !is_small {
            self.put_xattrs(&mut core, ino, &old.stat, &none, some)?;
        }
        Ok(())
    }

    /// Sets attributes that are too long for one operation one by one.
    fn put_xattrs(
        &self,
        core: &mut Core,
        ino: Ino,
        stat: &Stat,
        old: &BTreeMap<Name, Bytes>,
        new: &BTreeMap<Name, Bytes>,
    ) -> Step<()> {
        for (name, value) in new
            .iter()
            .filter(|(name, value)| old.get(*name) != Some(*value))
        {
            let edited = self.edit(core, self.now(), |edit| {
                edit.set_xattr(ino, name, value.clone())
            })?;
            self.bring(core, edited, &Deltas::default())?;
        }
        let none = BTreeMap::new();
        let edited = self.edit(core, self.now(), |edit| {
            dress(edit, ino, stat, (&none, &none))
        })?;
        self.bring(core, edited, &Deltas::default())
    }

    /// Makes a file that is there what it was.
    fn put_over(&self, ino: Ino, old: &Found, with_content: bool) -> Step<()> {
        let mut core = self.core();
        let number = core.inodes.number(ino);
        let there = self.view(|view| view.stat_ino(ino))?.ok_or(Errno::ENOENT)?;
        let xattrs = self.view(|view| xattrs_of(view, ino))?;
        let content = old.stat.content.as_ref().filter(|_| with_content);
        let file = core.inodes.get(number).and_then(|node| node.file.clone());
        // From here until it is done: whoever has the file in hand writes to it without the lock of the core.
        let mut state = file.as_ref().map(|file| self.lock(file));
        if content.is_some() && state.as_ref().is_some_and(|state| state.is_busy()) {
            return Err(Errno::EAGAIN.into());
        }
        let is_small = old.xattrs.values().map(Bytes::len).sum::<usize>() <= XATTRS_TOGETHER;
        // Where they are too long for one operation, those go now that are not in the snapshot.
        let mut together = if is_small { &old.xattrs } else { &xattrs }.clone();
        together.retain(|name, _| old.xattrs.contains_key(name));
        let mut edited = self.edit(&core, self.now(), |edit| {
            if let Some(content) = content {
                edit.set_content(ino, content.size, content.mtime, content.body.clone())?;
            }
            dress(edit, ino, &old.stat, (&xattrs, &together))
        })?;
        let mut deltas = Deltas::default();
        let mut gone = None;
        if content.is_some() {
            deltas = self.counted(old, &mut edited.group)?;
            gone = stored(&there);
        }
        if let Some(gone) = &gone {
            drop_body(&core, gone, &mut edited.group);
        }
        self.bring(&mut core, edited, &deltas)?;
        if gone.is_some() {
            self.dropped_one(&mut core);
        }
        if let Some(state) = &mut state {
            let stat = self.view(|view| view.stat_ino(ino))?;
            state.unguard();
            match stat
                .as_ref()
                .and_then(|stat| Some((stat, stat.content.as_ref()?)))
            {
                Some((stat, content)) if !state.is_changed && !state.is_orphan => {
                    state.reload(content, stat.mtime);
                }
                _ => {}
            }
        }
        drop(state);
        self.snapshots.tell(vec![Notice::Inode(fuse::Ino(number))]);
        if !is_small {
            self.put_xattrs(&mut core, ino, &old.stat, &xattrs, &old.xattrs)?;
        }
        Ok(())
    }

    /// Gives a file one more name, in place of what has it.
    fn put_link(&self, dir: Ino, name: &Name, ino: Ino) -> Step<()> {
        let mut core = self.core();
        let there = self.view(|view| view.lookup(dir, name))?;
        let doomed = match there {
            Some(there) if there.ino == ino => return Ok(()),
            Some(there) if there.kind == Kind::Directory => return Err(Errno::EISDIR.into()),
            Some(there) => Some(self.doomed(&mut core, there.ino)?),
            None => None,
        };
        let now = self.now();
        let mut edited = self.edit(&core, now, |edit| {
            let removed = match &doomed {
                Some(_) => Some(edit.unlink(dir, name)?),
                None => None,
            };
            edit.link(ino, dir, name.bytes())?;
            Ok(removed)
        })?;
        let dropped = match (&edited.value, &doomed) {
            (Some(removed), Some(doomed)) => {
                self.drop_content(&core, removed, doomed, &mut edited.group)
            }
            _ => None,
        };
        let removed = self.bring(&mut core, edited, &Deltas::default())?;
        if let (Some(removed), Some(doomed)) = (removed, doomed) {
            self.lost_name(&mut core, &removed, doomed, dropped, now);
        }
        Ok(())
    }

    /// Removes a name, and everything below it.
    fn take_away<'a>(
        self: &'a Arc<Self>,
        dir: Ino,
        name: &'a Name,
        depth: usize,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        async move { self.take_all_away(dir, name, depth).await }.boxed()
    }

    async fn take_all_away(
        self: &Arc<Self>,
        dir: Ino,
        name: &Name,
        depth: usize,
    ) -> Result<(), SnapshotError> {
        let shown_name = || shown(name.bytes());
        if depth > DEPTH_MAX {
            let why = "directories lie too deep in one another";
            let path = shown_name();
            return Err(SnapshotError::Path { path, why });
        }
        let Some(there) = self.live_whole(name, dir)? else {
            return Ok(());
        };
        let is_dir = there.stat.node.kind() == Kind::Directory;
        if is_dir {
            for below in self.live_besides(there.ino, &BTreeSet::new())? {
                self.take_away(there.ino, &below.name, depth + 1).await?;
            }
        }
        self.patiently(name.bytes(), || {
            let number = {
                let mut core = self.core();
                let (number, node) = core.inodes.node(dir);
                node.lookups += 1;
                number
            };
            let called = fuse::Name::new(name.bytes());
            let done = match is_dir {
                true => self.rmdir(&Caller::ROOT, number, called),
                false => self.unlink(&Caller::ROOT, number, called),
            };
            let mut core = self.core();
            self.forget_in(&mut core, number, 1);
            drop(core);
            let parent = fuse::Ino(number);
            let name = Bytes::copy_from_slice(name.bytes());
            self.snapshots
                .tell(vec![Notice::Entry(parent, name), Notice::Inode(parent)]);
            done
        })
        .await
    }
}
