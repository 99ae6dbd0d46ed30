//! What the kernel sees of snapshots: `.snapshots` in the top directory, which no listing shows, and in it a tree for
//! each, in which nothing can be changed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cairnfs_fuse::{
    self as fuse, Answer, AttrReply, Caller, DirBatch, Entry, Errno, Fh, FileType, Lookup,
    OpenFlags, Opened,
};

use super::nodes::{Place, TOP};
use super::tree::is_missing;
use super::{SnapshotError, SnapshotInfo};
use crate::base::{Class, Classify};
use crate::namespace::{Ino, Kind, Name, Node, SnapshotId, Stat, StateError, View};
use crate::vfs::cursor::{After, Cursors};
use crate::vfs::dir::{file_type, name_of};
use crate::vfs::errno::{Step, Stop};
use crate::vfs::file::{FileCell, FileState};
use crate::vfs::inner::{Inner, TTL};
use crate::vfs::inode::SNAPSHOT_BIT;

/// The name of the directory of snapshots.
pub(in crate::vfs) const DIRECTORY: &[u8] = b".snapshots";
/// How long the kernel may answer by itself for which snapshots there are.
const SHORT: Duration = Duration::from_secs(1);
/// Entries that are read at once, without attributes and with them.
const PAGE: usize = 256;
const PAGE_WITH_ATTRS: usize = 48;
const TRUSTED: &[u8] = b"trusted.";

/// Which snapshots were listed last, and since when these are the ones.
#[derive(Debug, Default)]
pub(super) struct Listed {
    ids: Vec<SnapshotId>,
    since_ms: u64,
}

/// Whether a number is that of a file of a snapshot, or of the directory of all of them.
pub(in crate::vfs) const fn is_snapshot(number: u64) -> bool {
    number & SNAPSHOT_BIT != 0
}

/// What the kernel is told of an error.
fn errno_of(error: &SnapshotError) -> Errno {
    match error {
        SnapshotError::Unknown(_) => Errno::ESTALE,
        SnapshotError::Stopped(errno) => *errno,
        error => {
            tracing::warn!("a snapshot cannot be read: {error}");
            match error.class() {
                Class::Denied => Errno::EPERM,
                _ => Errno::EIO,
            }
        }
    }
}

/// What a page of a listing has, with attributes where they are wanted.
struct Listing {
    parent: Option<Ino>,
    shown: Vec<Item>,
    next: Option<Name>,
}

/// An entry of a listing.
struct Item {
    name: Name,
    /// The name because of which it is shown.
    base: Name,
    ino: Ino,
    kind: Kind,
    stat: Option<Stat>,
}

impl Item {
    /// Whether a listing can show it: with attributes only what has any.
    const fn is_told(&self, wants_attrs: bool) -> bool {
        !wants_attrs || self.stat.is_some()
    }
}

fn list(
    view: &View<'_>,
    dir: Ino,
    after: Option<&Name>,
    wants_attrs: bool,
) -> Result<Listing, StateError> {
    let parent = view.parent(dir)?.map(|(parent, _)| parent);
    let limit = match wants_attrs {
        true => PAGE_WITH_ATTRS,
        false => PAGE,
    };
    let (page, next) = view.list(dir, after, limit)?;
    let mut shown = Vec::with_capacity(page.len());
    let mut missed = None;
    for entry in page {
        let stat = match wants_attrs {
            false => None,
            true => match view.stat_ino(entry.ino) {
                Ok(stat) => stat,
                // All that are missing are fetched together.
                Err(error) if is_missing(&error) => {
                    missed = Some(error);
                    continue;
                }
                // If it is damaged, others are shown all the same.
                Err(_) => continue,
            },
        };
        shown.push(Item {
            name: entry.name,
            base: entry.base,
            ino: entry.ino,
            kind: entry.kind,
            stat,
        });
    }
    match missed {
        Some(error) => Err(error),
        None => Ok(Listing {
            parent,
            shown,
            next,
        }),
    }
}

impl Inner {
    /// Whether the top directory has an entry of that name: somebody's own, which is what is shown.
    fn has_own_directory(&self) -> bool {
        let _core = self.core();
        matches!(
            self.find(Ino::ROOT, fuse::Name::new(DIRECTORY)),
            Ok(Some(_))
        )
    }

    /// Whether a name in a directory is the one of the snapshots, and not somebody's own.
    fn names_snapshots(&self, parent: u64, name: fuse::Name<'_>) -> bool {
        parent == fuse::Ino::ROOT.0 && name.bytes() == DIRECTORY && !self.has_own_directory()
    }

    /// Why nothing new can have a name in a directory; none if it can.
    pub(in crate::vfs) fn refuse_new(&self, parent: u64, name: fuse::Name<'_>) -> Option<Errno> {
        if is_snapshot(parent) {
            return Some(Errno::EROFS);
        }
        self.names_snapshots(parent, name).then_some(Errno::EEXIST)
    }

    /// Whether a name in a directory can be neither moved nor removed.
    pub(in crate::vfs) fn is_fixed(&self, parent: u64, name: fuse::Name<'_>) -> bool {
        is_snapshot(parent) || self.names_snapshots(parent, name)
    }

    /// The directory of snapshots as an entry of the top one.
    pub(in crate::vfs) fn snapshots_entry(&self) -> Step<Entry> {
        match self.top_attr() {
            Ok(attr) => Ok(Entry {
                attr,
                attr_ttl: SHORT,
                entry_ttl: TTL,
            }),
            Err(Errno::EAGAIN) => Err(Stop::Busy),
            Err(errno) => Err(errno.into()),
        }
    }

    fn all_infos(&self) -> Result<Vec<SnapshotInfo>, Errno> {
        self.infos().map_err(|error| errno_of(&error))
    }

    fn top_attr(&self) -> Result<fuse::Attr, Errno> {
        let infos = self.all_infos()?;
        let since_ms = {
            let listed = &self.snapshots.listed;
            let mut listed = listed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_same =
                listed.since_ms > 0 && listed.ids.iter().eq(infos.iter().map(|info| &info.id));
            if !is_same {
                // The kernel lists anew what has another time, so none comes twice.
                let newest = infos.last().map_or(0, |info| info.made_ms);
                let first = listed.since_ms == 0;
                listed.since_ms = match first && newest > 0 {
                    true => newest,
                    false => self.now_ms().max(listed.since_ms + 1),
                };
                listed.ids = infos.iter().map(|info| info.id).collect();
            }
            listed.since_ms
        };
        let time = fuse::Time {
            secs: (since_ms / 1000).cast_signed(),
            nanos: (since_ms % 1000) as u32 * 1_000_000,
        };
        Ok(fuse::Attr {
            ino: fuse::Ino(TOP),
            kind: FileType::Directory,
            perm: 0o555,
            nlink: 2 + infos.len() as u32,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 4096,
            blocks: 0,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }

    fn place_of_node(&self, number: u64) -> Result<Place, Errno> {
        let nodes = self.snapshots.nodes();
        nodes
            .get(number)
            .map(|node| node.place)
            .ok_or(Errno::ESTALE)
    }

    /// Tells the kernel of a file of a snapshot once more.
    fn hand_out_of_snapshot(&self, place: Place, stat: &Stat) -> Entry {
        Entry {
            attr: self.snapshots.nodes().hand_out(place, stat),
            attr_ttl: TTL,
            entry_ttl: TTL,
        }
    }

    async fn look_at_snapshot<T>(
        self: &Arc<Self>,
        id: SnapshotId,
        look: impl Fn(&View<'_>) -> Result<T, StateError> + Send + Sync,
    ) -> Result<T, Errno> {
        let opened = self.open_snapshot(id).await;
        let opened = opened.map_err(|error| errno_of(&error))?;
        let looked = self.look_into(&opened, look).await;
        looked.map_err(|error| errno_of(&error))
    }

    /// The top directory of a snapshot.
    async fn top_of_snapshot(self: &Arc<Self>, snapshot: SnapshotId) -> Result<Lookup, Errno> {
        let ino = Ino::ROOT;
        let stat = self.look_at_snapshot(snapshot, move |view| view.stat_ino(ino));
        let stat = stat.await?.ok_or(Errno::EIO)?;
        let entry = self.hand_out_of_snapshot(Place { snapshot, ino }, &stat);
        let entry_ttl = SHORT;
        Ok(Lookup::Found(Entry { entry_ttl, ..entry }))
    }

    async fn lookup_snapshot(
        self: &Arc<Self>,
        parent: u64,
        name: Vec<u8>,
    ) -> Result<Lookup, Errno> {
        let dir = self.place_of_node(parent)?;
        let name = name_of(fuse::Name::new(&name))?;
        let looked = self.look_at_snapshot(dir.snapshot, move |view| {
            let Some(shown) = view.lookup(dir.ino, &name)? else {
                return Ok(None);
            };
            let stat = view.stat_ino(shown.ino)?;
            Ok(stat.map(|stat| (shown.ino, stat)))
        });
        match looked.await? {
            Some((ino, stat)) => {
                let place = Place { ino, ..dir };
                Ok(Lookup::Found(self.hand_out_of_snapshot(place, &stat)))
            }
            None => match self.node_attr(parent)?.kind {
                FileType::Directory => Ok(Lookup::Absent(TTL)),
                _ => Err(Errno::ENOTDIR),
            },
        }
    }

    fn node_attr(&self, number: u64) -> Result<fuse::Attr, Errno> {
        let nodes = self.snapshots.nodes();
        nodes.get(number).map(|node| node.attr).ok_or(Errno::ESTALE)
    }

    /// Everything about a file of a snapshot.
    async fn stat_of_node(self: &Arc<Self>, number: u64) -> Result<Stat, Errno> {
        let Place { snapshot, ino } = self.place_of_node(number)?;
        let stat = self.look_at_snapshot(snapshot, move |view| view.stat_ino(ino));
        stat.await?.ok_or(Errno::EIO)
    }

    fn attr_of_node(&self, number: u64) -> Result<AttrReply, Errno> {
        if number == TOP {
            let attr = self.top_attr()?;
            return Ok(AttrReply { attr, ttl: SHORT });
        }
        let attr = self.node_attr(number)?;
        Ok(AttrReply { attr, ttl: TTL })
    }

    /// Opens a file of a snapshot to be read.
    async fn open_node(self: &Arc<Self>, number: u64) -> Result<Opened, Errno> {
        let stat = self.stat_of_node(number).await?;
        let content = match (&stat.content, stat.node.kind()) {
            (Some(content), _) => content,
            (None, Kind::Directory) => return Err(Errno::EISDIR),
            (None, _) => return Err(Errno::EINVAL),
        };
        let mut nodes = self.snapshots.nodes();
        let node = nodes.get_mut(number).ok_or(Errno::ESTALE)?;
        if node.file.is_none() {
            let state = FileState::of(content, stat.mtime);
            node.file = Some(Arc::new(FileCell::new(number, node.place.ino, state)));
        }
        node.opens += 1;
        Ok(Opened {
            fh: Fh(number),
            keep_cache: true,
            direct_io: false,
            no_flush: true,
            parallel_direct_writes: false,
        })
    }

    /// The open file of a number of a snapshot.
    pub(in crate::vfs) fn opened_of_snapshot(&self, number: u64) -> Result<Arc<FileCell>, Errno> {
        let nodes = self.snapshots.nodes();
        let node = nodes.get(number).ok_or(Errno::ESTALE)?;
        node.file.clone().ok_or(Errno::EBADF)
    }

    fn list_top(&self, offset: u64, mut batch: DirBatch) -> Result<DirBatch, Errno> {
        let own = [(".", TOP), ("..", fuse::Ino::ROOT.0)];
        for (at, (name, number)) in (0..).zip(own) {
            if offset <= at && !batch_room(&mut batch, name.as_bytes(), at + 1, number) {
                return Ok(batch);
            }
        }
        let infos = self.all_infos()?;
        let skip = offset.saturating_sub(2) as usize;
        for (at, info) in infos.iter().enumerate().skip(skip) {
            let place = Place {
                snapshot: info.id,
                ino: Ino::ROOT,
            };
            let number = self.snapshots.nodes().number(&place);
            // Without attributes also where they are wanted: those of a root would have to be fetched.
            if !batch_room(&mut batch, info.name.as_bytes(), at as u64 + 3, number) {
                break;
            }
        }
        Ok(batch)
    }

    async fn list_node(
        self: &Arc<Self>,
        number: u64,
        offset: u64,
        mut batch: DirBatch,
    ) -> Result<DirBatch, Errno> {
        let dir = self.place_of_node(number)?;
        if self.node_attr(number)?.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let begin = self.cursors_of(dir.snapshot, |cursors| cursors.of(dir.ino).find(offset));
        let begin = begin.ok_or(Errno::ESTALE)?;
        let wants_attrs = batch.wants_attrs();
        let mut after = begin.name.clone();
        let mut shown: Vec<Item> = Vec::new();
        // What fits is found out first: pages are waited for, and others list the same directory meanwhile.
        let mut measured: Option<DirBatch> = None;
        loop {
            let from = after.clone();
            let looked = self.look_at_snapshot(dir.snapshot, move |view| {
                list(view, dir.ino, from.as_ref(), wants_attrs)
            });
            let listing = looked.await?;
            if measured.is_none() {
                let above = match listing.parent {
                    Some(ino) => self.snapshots.nodes().number(&Place { ino, ..dir }),
                    None => TOP,
                };
                for (at, (name, number)) in (0..).zip([(".", number), ("..", above)]) {
                    if offset <= at && !batch_room(&mut batch, name.as_bytes(), at + 1, number) {
                        return Ok(batch);
                    }
                }
            }
            let measured = measured.get_or_insert_with(|| batch.clone());
            let mut has_room = true;
            for item in listing.shown {
                let is_shown = shown.len() as u64 >= begin.skip && item.is_told(wants_attrs);
                let name = fuse::Name::new(item.name.bytes());
                has_room = !is_shown || measured.push(name, 0, fuse::Ino(0), file_type(item.kind));
                shown.push(item);
                if !has_room {
                    break;
                }
            }
            after = listing.next;
            if !has_room || after.is_none() {
                break;
            }
        }
        self.give_places(dir, begin, shown, &mut batch);
        Ok(batch)
    }

    /// Adds entries to a batch, each with its place; in one step, so that the places of one batch follow one another.
    fn give_places(&self, dir: Place, begin: After, shown: Vec<Item>, batch: &mut DirBatch) {
        let wants_attrs = batch.wants_attrs();
        let bases: Vec<Name> = shown.iter().map(|item| item.base.clone()).collect();
        let skip = begin.skip as usize;
        self.cursors_of(dir.snapshot, |cursors| {
            let places = cursors.of(dir.ino);
            places.begin_batch(begin);
            for (at, item) in shown.into_iter().enumerate().skip(skip) {
                let is_same =
                    |at: Option<usize>| at.and_then(|at| bases.get(at)) == Some(&item.base);
                let is_contested = is_same(at.checked_add(1)) || is_same(at.checked_sub(1));
                let next = places.next();
                let place = Place {
                    ino: item.ino,
                    ..dir
                };
                let name = fuse::Name::new(item.name.bytes());
                let fits = match item.stat {
                    Some(stat) => {
                        let entry = self.hand_out_of_snapshot(place, &stat);
                        let fits = batch.push_entry(name, next, entry);
                        if !fits {
                            self.snapshots.nodes().forget(entry.attr.ino.0, 1);
                        }
                        fits
                    }
                    None if wants_attrs => true,
                    None => {
                        let ino = fuse::Ino(self.snapshots.nodes().number(&place));
                        batch.push(name, next, ino, file_type(item.kind))
                    }
                };
                if !fits {
                    break;
                }
                places.push(item.base, is_contested);
            }
            places.end_batch();
        });
    }

    fn cursors_of<T>(&self, snapshot: SnapshotId, use_them: impl FnOnce(&mut Cursors) -> T) -> T {
        let cursors = &self.snapshots.cursors;
        let mut cursors = cursors.lock().unwrap_or_else(PoisonError::into_inner);
        use_them(cursors.entry(snapshot).or_default())
    }

    async fn xattr_of_node(self: &Arc<Self>, number: u64, name: Vec<u8>) -> Result<Bytes, Errno> {
        if number == TOP {
            return Err(Errno::ENODATA);
        }
        let place = self.place_of_node(number)?;
        let name = Name::xattr(&name).map_err(|_| Errno::ERANGE)?;
        let found = self.look_at_snapshot(place.snapshot, move |view| view.xattr(place.ino, &name));
        found.await?.ok_or(Errno::ENODATA)
    }

    async fn xattrs_of_node(self: &Arc<Self>, caller: Caller, number: u64) -> Result<Bytes, Errno> {
        if number == TOP {
            return Ok(Bytes::new());
        }
        let place = self.place_of_node(number)?;
        let names = self.look_at_snapshot(place.snapshot, move |view| view.xattrs(place.ino));
        let mut all = Vec::new();
        for name in names.await? {
            if name.starts_with(TRUSTED) && !caller.is_privileged() {
                continue;
            }
            all.extend_from_slice(name.bytes());
            all.push(0);
        }
        Ok(all.into())
    }

    /// The kernel has gone.
    pub(in crate::vfs) fn forget_snapshots(&self) {
        self.snapshots.nodes().forget_all();
        let cursors = &self.snapshots.cursors;
        let mut cursors = cursors.lock().unwrap_or_else(PoisonError::into_inner);
        *cursors = BTreeMap::new();
    }
}

/// Adds a directory to a batch; false if it does not fit.
fn batch_room(batch: &mut DirBatch, name: &[u8], next: u64, number: u64) -> bool {
    let ino = fuse::Ino(number);
    batch.push(fuse::Name::new(name), next, ino, FileType::Directory)
}

/// What the kernel asks of files of snapshots.
pub(in crate::vfs) struct Front<'a>(pub(in crate::vfs) &'a Arc<Inner>);

impl Front<'_> {
    pub(in crate::vfs) fn lookup(&self, parent: u64, name: fuse::Name<'_>) -> Answer<Lookup> {
        let inner = Arc::clone(self.0);
        if parent == TOP {
            let infos = match inner.all_infos() {
                Ok(infos) => infos,
                Err(errno) => return Answer::err(errno),
            };
            let found = infos
                .into_iter()
                .find(|info| info.name.as_bytes() == name.bytes());
            return match found {
                Some(info) => Answer::later(async move { inner.top_of_snapshot(info.id).await }),
                None => Answer::ok(Lookup::Absent(Duration::ZERO)),
            };
        }
        let name = name.to_vec();
        Answer::later(async move { inner.lookup_snapshot(parent, name).await })
    }

    pub(in crate::vfs) fn forget(&self, number: u64, count: u64) {
        self.0.snapshots.nodes().forget(number, count);
    }

    pub(in crate::vfs) fn getattr(&self, number: u64) -> Answer<AttrReply> {
        Answer::Ready(self.0.attr_of_node(number))
    }

    pub(in crate::vfs) fn readlink(&self, number: u64) -> Answer<Bytes> {
        let inner = Arc::clone(self.0);
        Answer::later(async move {
            match inner.stat_of_node(number).await?.node {
                Node::Symlink(target) => Ok(target),
                _ => Err(Errno::EINVAL),
            }
        })
    }

    pub(in crate::vfs) fn open(&self, number: u64, flags: OpenFlags) -> Answer<Opened> {
        if flags.writes() || flags.truncates() {
            return Answer::err(Errno::EROFS);
        }
        let inner = Arc::clone(self.0);
        Answer::later(async move { inner.open_node(number).await })
    }

    pub(in crate::vfs) fn release(&self, number: u64) {
        self.0.snapshots.nodes().release(number);
    }

    pub(in crate::vfs) fn readdir(
        &self,
        number: u64,
        offset: u64,
        batch: DirBatch,
    ) -> Answer<DirBatch> {
        if number == TOP {
            return Answer::Ready(self.0.list_top(offset, batch));
        }
        let inner = Arc::clone(self.0);
        Answer::later(async move { inner.list_node(number, offset, batch).await })
    }

    pub(in crate::vfs) fn getxattr(&self, number: u64, name: fuse::Name<'_>) -> Answer<Bytes> {
        let (inner, name) = (Arc::clone(self.0), name.to_vec());
        Answer::later(async move { inner.xattr_of_node(number, name).await })
    }

    pub(in crate::vfs) fn listxattr(&self, caller: &Caller, number: u64) -> Answer<Bytes> {
        let (inner, caller) = (Arc::clone(self.0), *caller);
        Answer::later(async move { inner.xattrs_of_node(caller, number).await })
    }
}
