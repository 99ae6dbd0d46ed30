//! Merging a checkpoint: all of it is fetched and looked over first, then its rows are merged, page by page where
//! they are many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cairnfs_fuse::Errno;

use super::contents::Contents;
use super::failure::{CheckpointFailure, PageError};
use crate::feeds::FeedError;
use crate::feeds::checkpoint::{CheckpointError, PageHash, PageRef, Root, Walk, Walked};
use crate::namespace::join::{check_row, unfinished};
use crate::namespace::{Changes, Ino, Join, JoinError, Page, Stat, VersionVector, state};
use crate::store::{Group, VolumeError};
use crate::vfs::errno::Stop;
use crate::vfs::inner::{Core, Inner};
use crate::vfs::ledger::Deltas;
use crate::vfs::{VfsError, rows};

/// Bytes of changes in one group, about: few enough that what is derived from them fits in as well.
const GROUP_BYTES: usize = 256 << 10;
/// Bytes of pages that are fetched ahead.
const AHEAD_BYTES: u64 = 8 << 20;
/// Pages that are fetched ahead.
const AHEAD_PAGES: usize = 128;
/// Bytes of rows that are kept in memory while the rest of a checkpoint is looked over.
const KEPT_BYTES: u64 = 32 << 20;

/// Rows at hand, the next first.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<VecDeque<(Vec<u8>, Bytes)>>>);

impl Queue {
    fn push(&self, rows: Vec<(Vec<u8>, Bytes)>) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(rows);
    }
}

impl Iterator for Queue {
    type Item = Result<(Vec<u8>, Bytes), PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front().map(Ok)
    }
}

/// A way through a checkpoint with the pages that were fetched ahead.
#[derive(Clone)]
struct Way {
    walk: Walk,
    fetched: BTreeMap<PageHash, Bytes>,
}

impl Way {
    fn new(root: &Root) -> Way {
        Way {
            walk: Walk::new(root.tree.as_ref(), root.rows),
            fetched: BTreeMap::new(),
        }
    }

    /// The next rows; none at the end.
    async fn rows(
        &mut self,
        inner: &Inner,
    ) -> Result<Option<Vec<(Vec<u8>, Bytes)>>, CheckpointError<PageError>> {
        while let Some(wanted) = self.walk.wanted() {
            let hash = wanted.hash;
            let Some(bytes) = self.fetched.remove(&hash) else {
                self.fetch(inner).await.map_err(CheckpointError::Pages)?;
                continue;
            };
            // Unpacked and hashed where others do not wait for it.
            let mut walk = self.walk.clone();
            let supply = move || {
                let walked = walk.supply::<PageError>(&bytes);
                (walk, walked)
            };
            let (walk, walked) = inner.blocks.pools().cpu.run(supply).await;
            self.walk = walk;
            if let Walked::Rows(rows) = walked? {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    async fn fetch(&mut self, inner: &Inner) -> Result<(), PageError> {
        let mut room = AHEAD_BYTES;
        let mut pages: Vec<PageRef> = Vec::new();
        for page in self.walk.ahead(AHEAD_PAGES) {
            let len = u64::from(page.len_bytes);
            if len > room && !pages.is_empty() {
                break;
            }
            room = room.saturating_sub(len);
            if !self.fetched.contains_key(&page.hash) {
                pages.push(page.clone());
            }
        }
        let bytes = inner.fetch_pages(&pages).await?;
        let fetched = pages.into_iter().zip(bytes);
        self.fetched
            .extend(fetched.map(|(page, bytes)| (page.hash, bytes)));
        Ok(())
    }
}

/// A page of a join as a group of the engine.
struct Ready {
    group: Group,
    deltas: Deltas,
    changes: Changes,
    contents: Contents,
    /// Files that there are then.
    files: u64,
    is_last: bool,
}

/// A file that is open, as it was before.
struct Watched {
    number: u64,
    ino: Ino,
    stat: Arc<Stat>,
}

/// Opens the gate again, whatever became of the join.
struct Closed<'a>(&'a Inner);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let _core = self.0.core();
        // What cannot be read is not looked at either.
        let is_unfinished = !matches!(unfinished(&self.0.rows()), Ok(None));
        self.0.checkpoints.gate.open(is_unfinished);
    }
}

impl Inner {
    /// See [`Vfs::join`](crate::vfs::Vfs::join).
    pub(in crate::vfs) async fn join_checkpoint(
        self: &Arc<Self>,
        root: &Root,
    ) -> Result<VersionVector, CheckpointFailure> {
        if root.volume != self.identity.id {
            return Err(FeedError::OtherVolume.into());
        }
        if root.due_ms() > self.now_ms() {
            let due_ms = root.due_ms();
            return Err(CheckpointFailure::NotDue { due_ms });
        }
        let _turn = self.checkpoints.turn.lock().await;
        let theirs = root.version();
        let was_interrupted = self.checkpoints.gate.is_interrupted();
        {
            let _core = self.core();
            let rows = self.rows();
            let begun = unfinished(&rows)?;
            if begun.as_ref().is_some_and(|begun| !theirs.includes(begun)) {
                return Err(JoinError::Unfinished.into());
            }
            let ours = state::version(&rows)?;
            if begun.is_none() && !was_interrupted && ours.includes(&theirs) {
                return Ok(ours);
            }
        }
        let (queue, way) = self.look_over(root, &theirs).await?;
        if !was_interrupted && let Err(errno) = self.seal_all().await {
            // Files with changes keep them, and are described later.
            tracing::debug!(
                ?errno,
                "a checkpoint is merged before all changes are described"
            );
        }
        let watched = loop {
            {
                let mut core = self.core();
                match self.keep_all_bases(&core) {
                    Ok(()) => {
                        self.checkpoints.gate.close();
                        core.inodes.drop_stats();
                        break self.watched(&core);
                    }
                    Err(VolumeError::Busy) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.volume.room().await?;
        };
        let closed = Closed(self);
        self.merge_pages(root, theirs, queue, way, watched).await?;
        if was_interrupted {
            self.take_up()
                .map_err(|e| CheckpointFailure::Opening(Box::new(e)))?;
        }
        drop(closed);
        self.volume.sync_all().await?;
        let _core = self.core();
        Ok(state::version(&self.rows())?)
    }

    /// Fetches all of a checkpoint and checks it, so that the merging does not end in the middle for want of a page.
    /// Answers its first rows, and the way to the others.
    async fn look_over(
        &self,
        root: &Root,
        theirs: &VersionVector,
    ) -> Result<(Queue, Way), CheckpointFailure> {
        let (queue, mut way) = (Queue::default(), Way::new(root));
        let (mut kept, mut rest) = (0, None);
        loop {
            // From here on it is fetched again: not from afar, as blocks that were fetched stay for a while.
            if kept > KEPT_BYTES && rest.is_none() {
                rest = Some(Way {
                    walk: way.walk.clone(),
                    fetched: BTreeMap::new(),
                });
            }
            let Some(rows) = way.rows(self).await? else {
                return Ok((queue, rest.unwrap_or(way)));
            };
            let (theirs, until) = (theirs.clone(), root.hlc);
            let check = move || {
                for (key, value) in &rows {
                    check_row::<PageError>(key, value, &theirs, until)?;
                }
                Ok::<_, JoinError<PageError>>(rows)
            };
            let rows = self.blocks.pools().cpu.run(check).await?;
            if rest.is_none() {
                let bytes = rows.iter().map(|(key, value)| key.len() + value.len());
                kept += bytes.sum::<usize>() as u64;
                queue.push(rows);
            }
        }
    }

    async fn merge_pages(
        self: &Arc<Self>,
        root: &Root,
        theirs: VersionVector,
        queue: Queue,
        mut way: Way,
        watched: Vec<Watched>,
    ) -> Result<(), CheckpointFailure> {
        let source = queue.clone();
        let mut join = {
            let _core = self.core();
            Join::new(&self.rows(), theirs, root.hlc, source)?
        };
        let mut watched = Some(watched);
        loop {
            let until = way.walk.wanted().map(|page| page.first.clone());
            let inner = Arc::clone(self);
            let (back, ready) = self
                .blocks
                .pools()
                .disk
                .run(move || {
                    let ready = inner.next_group(&mut join, until.as_deref());
                    (join, ready)
                })
                .await;
            join = back;
            // The rows are left to others now and then.
            tokio::task::yield_now().await;
            let Some(mut ready) = ready? else {
                if let Some(rows) = way.rows(self).await? {
                    queue.push(rows);
                }
                continue;
            };
            let is_last = ready.is_last;
            loop {
                let inner = Arc::clone(self);
                let files = watched.take_if(|_| is_last);
                let hlc = root.hlc;
                let applied = self.blocks.pools().disk.run(move || {
                    let mut core = inner.core();
                    if let Some(ready) = inner.apply_ready(&mut core, ready)? {
                        return Ok((Some(ready), files));
                    }
                    if let Some(files) = files {
                        inner.observe(hlc);
                        inner.is_merged(&mut core, files)?;
                    }
                    Ok::<_, CheckpointFailure>((None, None))
                });
                let (again, files) = applied.await?;
                let Some(again) = again else { break };
                (ready, watched) = (again, files);
                self.volume.room().await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// The next changes. None if more rows are needed first.
    fn next_group(
        &self,
        join: &mut Join<Queue>,
        until: Option<&[u8]>,
    ) -> Result<Option<Ready>, CheckpointFailure> {
        let core = self.core();
        let rows = self.rows();
        let (changes, is_last) = match join.page_until(&rows, GROUP_BYTES, until)? {
            None => return Ok(None),
            Some(Page::More(changes)) => (changes, false),
            Some(Page::Last(changes)) => (changes, true),
        };
        let mut group = Group::new();
        rows::add_changes(&self.volume, &mut group, &changes)?;
        let mut deltas = Deltas::default();
        let contents = self.contents(&core, &changes, &mut group, &mut deltas)?;
        let files = self.count_files(&mut group, contents.files);
        Ok(Some(Ready {
            group,
            deltas,
            changes,
            contents,
            files,
            is_last,
        }))
    }

    /// Applies a group; gives it back if there is no room for it now.
    fn apply_ready(&self, core: &mut Core, ready: Ready) -> Result<Option<Ready>, VolumeError> {
        let mut group = ready.group.clone();
        match self.apply_counted(&mut group, &ready.deltas, &[]) {
            Err(VolumeError::Busy) => return Ok(Some(ready)),
            other => other?,
        };
        self.row_cache.applied(ready.changes, Vec::new());
        self.files.store(ready.files, Ordering::Relaxed);
        self.are_counted(core, &ready.contents);
        Ok(None)
    }

    /// Files that are open, with what is known of them.
    fn watched(&self, core: &Core) -> Vec<Watched> {
        let open = core.inodes.with_content();
        let watch = |(number, ino): (u64, Ino)| {
            let stat = self.look(|view| view.stat_ino(ino)).ok()??;
            Some(Watched {
                number,
                ino,
                stat: Arc::new(stat),
            })
        };
        open.into_iter().filter_map(watch).collect()
    }

    /// All rows are merged: what is known of files is read anew.
    fn is_merged(&self, core: &mut Core, watched: Vec<Watched>) -> Result<(), CheckpointFailure> {
        let version = state::version(&self.rows())?;
        core.seen = core.seen.max(version.get(&self.writer));
        for number in core.inodes.orphans() {
            self.bring_back(core, number)?;
        }
        for Watched { number, ino, stat } in watched {
            let now = self.look(|view| view.stat_ino(ino)).map_err(failed)?;
            let Some(file) = core.inodes.get(number).and_then(|node| node.file.clone()) else {
                continue;
            };
            let is_same = now.as_ref().is_some_and(|now| now.content == stat.content);
            if is_same {
                continue;
            }
            match now
                .as_ref()
                .and_then(|now| Some((now.mtime, now.content.as_ref()?)))
            {
                Some((mtime, content)) => {
                    let mut state = self.lock(&file);
                    match state.is_busy() {
                        true => state.is_behind = true,
                        false => state.reload(content, mtime),
                    }
                }
                // What was changed here comes back when it is described.
                None if self.lock(&file).is_changed => {}
                None => self.make_orphan(core, number, &stat),
            }
        }
        Ok(())
    }

    /// A file that was removed here and has a name again: it was changed elsewhere meanwhile.
    fn bring_back(&self, core: &mut Core, number: u64) -> Result<(), CheckpointFailure> {
        let Some(node) = core.inodes.get(number) else {
            return Ok(());
        };
        let (ino, file) = (node.ino, node.file.clone());
        let Some(stat) = self.look(|view| view.stat_ino(ino)).map_err(failed)? else {
            return Ok(());
        };
        let Some(node) = core.inodes.get_mut(number) else {
            return Ok(());
        };
        if let Some(orphan) = node.orphan.take() {
            self.drop_orphan(core, &orphan);
        }
        if let (Some(file), Some(content)) = (file, &stat.content) {
            let mut state = self.lock(&file);
            self.discard(&file, &mut state);
            state.reload(content, stat.mtime);
        }
        Ok(())
    }

    /// A file that somebody has open was removed elsewhere.
    fn make_orphan(&self, core: &mut Core, number: u64, stat: &Stat) {
        let mut stat = stat.clone();
        stat.links = 0;
        let Some(node) = core.inodes.get_mut(number) else {
            return;
        };
        node.orphan = Some(Box::new(crate::vfs::inode::Orphan {
            stat,
            xattrs: BTreeMap::new(),
            dropped: None,
        }));
        if let Some(file) = node.file.clone() {
            self.lock(&file).is_orphan = true;
        }
        self.reap(core, number);
    }

    /// What was left when the volume was opened, as the merging had been interrupted.
    fn take_up(&self) -> Result<(), VfsError> {
        self.make_root(self.checkpoints.root_owner)?;
        self.recover_files(crate::vfs::recover::kept_ids(&self.volume))
    }
}

fn failed(stop: Stop) -> CheckpointFailure {
    let what = match stop {
        Stop::Errno(Errno::EIO) | Stop::Busy => "the namespace cannot be read",
        Stop::Errno(_) => "the namespace does not answer",
    };
    CheckpointFailure::Opening(Box::new(VfsError::Unready(what.to_owned())))
}
