//! Files that are known or open here when others change them: a clean one shows the new content, a changed one keeps
//! what it was made from, and one that lost its name stays readable for who has it open.

use std::sync::Arc;

use cairnfs_fuse::kernel::Notice;

use super::merge::Affected;
use crate::namespace::state::decode_row;
use crate::namespace::{Content, Dot, Edit, Ino, Key, OpError, Sibling, Stamp, Value, row};
use crate::store::{Group, VolumeError};
use crate::vfs::conflicts::News;
use crate::vfs::errno::{Step, Stop};
use crate::vfs::file::{FileCell, FileState};
use crate::vfs::inner::{Core, Inner};
use crate::vfs::remove::Doomed;
use crate::vfs::rows::BASES;

/// Odd names looked at at once.
const ODD_PAGE: usize = 64;

/// The content that a changed file was made from, as a row.
pub(in crate::vfs) fn encode_base(state: &FileState) -> Vec<u8> {
    let origin = &state.origin;
    let content = Content {
        size: state.base_size,
        mtime: state.head.mtime,
        edits: origin.edits.clone(),
        edited: origin.edited,
        home: origin.home.clone(),
        body: state.body(),
    };
    row::encode(&[Sibling {
        dot: Dot {
            writer: origin.edited.writer,
            counter: 1,
        },
        hlc: origin.edited.hlc,
        value: Value::Content(content),
    }])
}

/// Reads what [`encode_base`] wrote.
pub(in crate::vfs) fn decode_base(ino: Ino, bytes: &[u8]) -> Option<Content> {
    let row = decode_row(&Key::Content(ino), bytes).ok()?;
    row.iter().find_map(|sibling| match &sibling.value {
        Value::Content(content) => Some(content.clone()),
        _ => None,
    })
}

impl Inner {
    /// What is known here of files that may lose their last name.
    pub(super) fn look_before(&self, core: &mut Core, affected: &Affected) -> Step<Vec<Doomed>> {
        let mut known = Vec::new();
        for ino in affected.were_named.union(&affected.contents) {
            let number = core.inodes.number(*ino);
            let is_known = core
                .inodes
                .get(number)
                .is_some_and(|node| node.orphan.is_none());
            if is_known {
                match self.doomed(core, *ino) {
                    Ok(doomed) => known.push(doomed),
                    // It had no name before either.
                    Err(Stop::Errno(cairnfs_fuse::Errno::ENOENT)) => {}
                    Err(stop) => return Err(stop),
                }
            }
        }
        Ok(known)
    }

    fn cell(&self, core: &Core, ino: Ino) -> Option<Arc<FileCell>> {
        let number = core.inodes.number(ino);
        core.inodes.get(number).and_then(|node| node.file.clone())
    }

    /// Others change contents of files that were changed here as well: what those were made from is written
    /// down, since the rows say something else from now on.
    ///
    /// Answers the files for which that is so once the group is applied.
    pub(super) fn keep_bases(
        &self,
        core: &Core,
        affected: &Affected,
        group: &mut Group,
    ) -> Vec<Arc<FileCell>> {
        let mut kept = Vec::new();
        for ino in &affected.contents {
            let Some(cell) = self.cell(core, *ino) else {
                continue;
            };
            let state = self.lock(&cell);
            if state.is_changed && !state.is_orphan && !state.has_base_row {
                group.put(BASES, &ino.0, &encode_base(&state));
                drop(state);
                kept.push(cell);
            }
        }
        kept
    }

    /// The same for all files with changes.
    pub(in crate::vfs) fn keep_all_bases(&self, core: &Core) -> Result<(), VolumeError> {
        for (number, ino) in core.inodes.with_content() {
            let file = core.inodes.get(number).and_then(|node| node.file.clone());
            let Some(file) = file else { continue };
            let mut state = self.lock(&file);
            if state.is_changed && !state.is_orphan && !state.has_base_row {
                let mut group = Group::new();
                group.put(BASES, &ino.0, &encode_base(&state));
                self.volume.apply(&group)?;
                state.has_base_row = true;
            }
        }
        Ok(())
    }

    /// Brings what is known of files into line with rows that others changed.
    pub(super) fn follow(
        &self,
        core: &mut Core,
        affected: Affected,
        known: Vec<Doomed>,
        notices: &mut Vec<Notice>,
    ) {
        for ino in &affected.files {
            self.return_home(core, *ino);
        }
        for doomed in known {
            let stat = self.view(|view| view.stat_ino(doomed.ino));
            if !matches!(stat, Ok(None)) {
                continue;
            }
            let cell = self.cell(core, doomed.ino);
            let is_changed = cell.as_ref().is_some_and(|cell| {
                let state = self.lock(cell);
                state.is_changed && !state.is_orphan
            });
            match cell.filter(|_| is_changed) {
                Some(cell) => self.revive(core, &cell, notices),
                None => self.became_orphan(core, doomed, None, self.now()),
            }
        }
        for ino in affected.contents {
            let Ok(Some(stat)) = self.view(|view| view.stat_ino(ino)) else {
                continue;
            };
            if let (Some(cell), Some(content)) = (self.cell(core, ino), &stat.content) {
                let mut state = self.lock(&cell);
                match state.is_busy() {
                    _ if state.is_orphan || state.shows(content) => {}
                    true => state.is_behind = true,
                    false => state.reload(content, stat.mtime),
                }
            }
            let is_contested = self.view(|view| view.is_contested(ino)).unwrap_or(false);
            if is_contested {
                let settled = self.change_besides(core, notices, |edit| edit.settle_file(ino));
                if let Err(stop) = settled {
                    tracing::debug!(?stop, "a conflict copy gets its own file later");
                }
            }
        }
    }

    /// A file that was busy when others changed it shows what they made of it as soon as it is at rest, and the kernel
    /// forgets what it read meanwhile.
    pub(in crate::vfs) fn catch_up(&self, core: &Core, cell: &FileCell) {
        let mut state = self.lock(cell);
        if !state.is_behind || state.is_busy() || state.is_orphan {
            return;
        }
        // Where the rows cannot be read now it stays behind, and is looked at again.
        if let Err(stop) = self.show_merged(core, cell, &mut state) {
            tracing::debug!(?stop, "an open file shows later what others wrote");
        }
    }

    /// A file at rest shows the content that the namespace has.
    pub(in crate::vfs) fn show_merged(
        &self,
        _core: &Core,
        cell: &FileCell,
        state: &mut FileState,
    ) -> Step<()> {
        let stat = self.view(|view| view.stat_ino(cell.ino))?;
        let content = stat
            .as_ref()
            .and_then(|stat| Some((stat, stat.content.as_ref()?)));
        state.is_behind = false;
        if let Some((stat, content)) = content
            && !state.shows(content)
        {
            state.reload(content, stat.mtime);
            if let Some(shared) = self.shared() {
                shared.tell([Notice::Inode(cairnfs_fuse::Ino(cell.number))]);
            }
        }
        Ok(())
    }

    /// Gives every content that lost against another a file of its own.
    pub(super) fn settle_all(&self) {
        let mut core = self.core();
        let mut after = None;
        let mut notices = Vec::new();
        loop {
            let odd = self.view(|view| view.odd(after.as_ref(), ODD_PAGE));
            let Ok(odd) = odd else { break };
            let Some(last) = odd.last() else { break };
            after = Some(last.clone());
            for (dir, name) in odd {
                let shown = self.view(|view| view.lookup(dir, &name));
                let Ok(Some(shown)) = shown else { continue };
                let is_contested = self.view(|view| view.is_contested(shown.ino));
                if is_contested.unwrap_or(false) {
                    let settle = |edit: &mut Edit<'_>| edit.settle_file(shown.ino);
                    if self
                        .change_besides(&mut core, &mut notices, settle)
                        .is_err()
                    {
                        break;
                    }
                }
            }
        }
        drop(core);
        if let Some(shared) = self.shared() {
            shared.tell(notices);
        }
    }

    /// Files and directories that were removed here and came back are no orphans any more.
    fn return_home(&self, core: &mut Core, ino: Ino) {
        let mut at = ino;
        loop {
            let number = core.inodes.number(at);
            let is_orphan = core
                .inodes
                .get(number)
                .is_some_and(|node| node.orphan.is_some());
            if is_orphan && !matches!(self.view(|view| view.stat_ino(at)), Ok(Some(_))) {
                return;
            }
            if is_orphan && let Some(node) = core.inodes.get_mut(number) {
                let orphan = node.orphan.take();
                if let Some(file) = &node.file {
                    self.lock(file).is_orphan = false;
                }
                core.changed(&[at]);
                // Its old content is let go, as was written down; what it has now is another one.
                if let Some(orphan) = orphan {
                    self.drop_orphan(core, &orphan);
                }
            } else if at != ino {
                return;
            }
            match self.view(|view| view.parent(at)) {
                Ok(Some((parent, _))) => at = parent,
                _ => return,
            }
        }
    }

    /// A file was changed here and removed elsewhere at the same time: it comes back.
    fn revive(&self, core: &mut Core, cell: &FileCell, notices: &mut Vec<Notice>) {
        let ino = cell.ino;
        let now = self.now();
        let mut state = self.lock(cell);
        let (before, had_row) = (state.origin.clone(), state.has_base_row);
        let (size, mtime, body) = (state.base_size, state.head.mtime, state.body());
        let edited = self.edit(core, now, |edit| {
            edit.edit_content(ino, (&before.edits, &before.home), size, mtime, body)
        });
        let revived = edited.and_then(|mut edited| {
            let affected = self.affected(edited.changes())?;
            self.count_edited(&mut edited, affected.more_files);
            // What is described later is made to this, also after a crash.
            state.origin.edited_at(Stamp {
                hlc: now.hlc,
                writer: self.writer,
            });
            state.has_base_row = true;
            edited.group.put(BASES, &ino.0, &encode_base(&state));
            self.commit(core, edited)?;
            Ok(affected)
        });
        match revived {
            Ok(affected) => {
                // And later than it.
                state.head.edited = self.now().hlc;
                drop(state);
                let changed: Vec<Ino> = affected.files.iter().copied().collect();
                core.changed(&changed);
                notices.push(Notice::Everything);
                self.tell_of(core, &affected, notices);
            }
            Err(stop) => {
                // Its description, when that is written, does the same.
                tracing::debug!(?stop, "a file comes back later");
                (state.origin, state.has_base_row) = (before, had_row);
            }
        }
    }

    /// An operation of this replica that follows from what others did. Readers leave it to writers.
    fn change_besides(
        &self,
        core: &mut Core,
        notices: &mut Vec<Notice>,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<(), OpError>,
    ) -> Step<()> {
        let now = self.now();
        self.change_at(core, now, notices, operation)
    }

    fn change_at(
        &self,
        core: &mut Core,
        now: crate::namespace::Now,
        notices: &mut Vec<Notice>,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<(), OpError>,
    ) -> Step<()> {
        if self.is_reader() {
            return Ok(());
        }
        let mut edited = self.edit(core, now, operation)?;
        let affected = self.affected(edited.changes())?;
        let news = self.news_of(edited.changes())?;
        self.count_edited(&mut edited, affected.more_files);
        self.commit(core, edited)?;
        let changed: Vec<Ino> = affected.files.iter().copied().collect();
        core.changed(&changed);
        notices.push(Notice::Everything);
        self.tell_of(core, &affected, notices);
        self.log_news(&news);
        Ok(())
    }

    /// A description was written. Where it met what others did, more than the content changed: answers whether
    /// it did, and then the file shows what has its name now.
    pub(in crate::vfs) fn after_edit(
        &self,
        core: &mut Core,
        cell: &FileCell,
        state: &mut FileState,
        affected: Option<(Affected, News)>,
    ) {
        let Some((affected, news)) = affected else {
            return;
        };
        self.log_news(&news);
        let changed: Vec<Ino> = affected.files.iter().copied().collect();
        core.changed(&changed);
        if !state.is_changed
            && let Ok(Some(stat)) = self.view(|view| view.stat_ino(cell.ino))
            && let Some(content) = &stat.content
            && !state.shows(content)
        {
            state.reload(content, stat.mtime);
        }
        let mut notices = vec![Notice::Everything];
        self.tell_of(core, &affected, &mut notices);
        if let Some(shared) = self.shared() {
            shared.tell(notices);
        }
    }

    /// What a description changes besides the content, if others did something to the file meanwhile. The count
    /// of files goes into its group.
    pub(in crate::vfs) fn affected_besides<T>(
        &self,
        edited: &mut crate::vfs::commit::Edited<T>,
    ) -> Step<Option<(Affected, News)>> {
        if self.shared().is_none() {
            return Ok(None);
        }
        let affected = self.affected(edited.changes())?;
        if affected.names.is_empty() && affected.more_files == 0 {
            return Ok(None);
        }
        self.count_edited(edited, affected.more_files);
        let news = self.news_of(edited.changes())?;
        Ok(Some((affected, news)))
    }
}
