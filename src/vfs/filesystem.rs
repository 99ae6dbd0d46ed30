//! The operations as the kernel asks for them: at once where nothing has to be waited for, else later.

use std::sync::Arc;

use bytes::Bytes;
use cairnfs_fuse::{
    AllocMode, Answer, AttrReply, Caller, CopyRange, Data, DirBatch, Entry, Errno, Features, Fh,
    FileSystem, Ino, LockRange, LockRequest, Lookup, Name, NewNode, OpenFlags, Opened, Rename,
    SetAttr, Statfs, Whence, Write,
};

use cairnfs_fuse::kernel::is_late;

use super::Vfs;
use super::errno::{Step, Stop};
use super::inner::Inner;
use super::snapshots::{Front, is_snapshot};

impl Vfs {
    /// A step that was tried. If too much waits to be written, or a checkpoint is being merged, it is tried again
    /// when there is room, and when that has ended.
    fn step<T, Again>(&self, tried: Step<T>, again: impl FnOnce() -> Again) -> Answer<T>
    where
        T: Send + 'static,
        Again: Fn(&Inner) -> Step<T> + Send + 'static,
    {
        match tried {
            Ok(value) => Answer::ok(value),
            Err(Stop::Errno(errno)) => Answer::err(errno),
            Err(Stop::Busy) => {
                let (inner, again) = (Arc::clone(&self.0), again());
                Answer::later(async move {
                    inner.room_once_more().await?;
                    inner.when_room(again).await
                })
            }
        }
    }
}

impl Inner {
    /// A step, as often as there is no room for it.
    pub(super) async fn when_room<T>(&self, step: impl Fn(&Inner) -> Step<T>) -> Result<T, Errno> {
        loop {
            match step(self) {
                Ok(value) => return Ok(value),
                Err(Stop::Errno(errno)) => return Err(errno),
                Err(Stop::Busy) => self.room_once_more().await?,
            }
        }
    }

    /// Waits for room for what found none. `EIO` if whoever asked for it was told so meanwhile: carried out now it
    /// would undo what was done since.
    async fn room_once_more(&self) -> Result<(), Errno> {
        self.room().await?;
        match is_late() {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }
}

impl FileSystem for Vfs {
    fn features(&self) -> Features {
        Features {
            posix_acl: true,
            stateless_dirs: true,
            distributed_locks: self.0.has_cluster_locks(),
        }
    }

    fn known(&self) -> Vec<Ino> {
        self.0.core().inodes.known()
    }

    fn ended(&self) {
        let mut core = self.0.core();
        for number in core.inodes.forget_all() {
            self.0.reap(&mut core, number);
        }
        drop(core);
        self.0.forget_snapshots();
    }

    fn lookup(&self, _caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<Lookup> {
        if is_snapshot(parent.0) {
            return Front(&self.0).lookup(parent.0, name);
        }
        self.step(self.0.lookup(parent.0, name), || {
            let name = name.to_vec();
            move |inner: &Inner| inner.lookup(parent.0, Name::new(&name))
        })
    }

    fn forget(&self, ino: Ino, count: u64) {
        if is_snapshot(ino.0) {
            return Front(&self.0).forget(ino.0, count);
        }
        let mut core = self.0.core();
        self.0.forget_in(&mut core, ino.0, count);
    }

    fn getattr(&self, _caller: &Caller, ino: Ino, _fh: Option<Fh>) -> Answer<AttrReply> {
        if is_snapshot(ino.0) {
            return Front(&self.0).getattr(ino.0);
        }
        let get = move |inner: &Inner| {
            let mut core = inner.core();
            inner.attr_reply(&mut core, ino.0)
        };
        self.step(get(&self.0), || get)
    }

    fn setattr(&self, _caller: &Caller, ino: Ino, change: &SetAttr) -> Answer<AttrReply> {
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        if change.size.is_some()
            && let Err(errno) = self.0.may_change(ino.0, change.fh)
        {
            return Answer::err(errno);
        }
        self.step(self.0.setattr(ino.0, change), || {
            let change = *change;
            move |inner: &Inner| inner.setattr(ino.0, &change)
        })
    }

    fn readlink(&self, _caller: &Caller, ino: Ino) -> Answer<Bytes> {
        if is_snapshot(ino.0) {
            return Front(&self.0).readlink(ino.0);
        }
        self.step(self.0.readlink(ino.0), || {
            move |inner: &Inner| inner.readlink(ino.0)
        })
    }

    fn mknod(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry> {
        if let Some(errno) = self.0.refuse_new(parent.0, name) {
            return Answer::err(errno);
        }
        self.step(self.0.mknod(caller, parent.0, name, node), || {
            let (caller, name, node) = (*caller, name.to_vec(), *node);
            move |inner: &Inner| inner.mknod(&caller, parent.0, Name::new(&name), &node)
        })
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry> {
        if let Some(errno) = self.0.refuse_new(parent.0, name) {
            return Answer::err(errno);
        }
        self.step(self.0.mkdir(caller, parent.0, name, node), || {
            let (caller, name, node) = (*caller, name.to_vec(), *node);
            move |inner: &Inner| inner.mkdir(&caller, parent.0, Name::new(&name), &node)
        })
    }

    fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        target: &[u8],
    ) -> Answer<Entry> {
        if let Some(errno) = self.0.refuse_new(parent.0, name) {
            return Answer::err(errno);
        }
        self.step(self.0.symlink(caller, parent.0, name, target), || {
            let (caller, name, target) = (*caller, name.to_vec(), target.to_vec());
            move |inner: &Inner| inner.symlink(&caller, parent.0, Name::new(&name), &target)
        })
    }

    fn link(&self, _caller: &Caller, ino: Ino, parent: Ino, name: Name<'_>) -> Answer<Entry> {
        if let Some(errno) = self.0.refuse_new(parent.0, name) {
            return Answer::err(errno);
        }
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        self.step(self.0.link(ino.0, parent.0, name), || {
            let name = name.to_vec();
            move |inner: &Inner| inner.link(ino.0, parent.0, Name::new(&name))
        })
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()> {
        if self.0.is_fixed(parent.0, name) {
            return Answer::err(Errno::EROFS);
        }
        self.step(self.0.unlink(caller, parent.0, name), || {
            let (caller, name) = (*caller, name.to_vec());
            move |inner: &Inner| inner.unlink(&caller, parent.0, Name::new(&name))
        })
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()> {
        if self.0.is_fixed(parent.0, name) {
            return Answer::err(Errno::EROFS);
        }
        self.step(self.0.rmdir(caller, parent.0, name), || {
            let (caller, name) = (*caller, name.to_vec());
            move |inner: &Inner| inner.rmdir(&caller, parent.0, Name::new(&name))
        })
    }

    fn rename(&self, caller: &Caller, rename: &Rename<'_>) -> Answer<()> {
        if self.0.is_fixed(rename.parent.0, rename.name) {
            return Answer::err(Errno::EROFS);
        }
        if let Some(errno) = self.0.refuse_new(rename.new_parent.0, rename.new_name) {
            return Answer::err(errno);
        }
        self.step(self.0.rename(caller, rename), || {
            let (caller, name, new_name) =
                (*caller, rename.name.to_vec(), rename.new_name.to_vec());
            let (parent, new_parent, flags) = (rename.parent, rename.new_parent, rename.flags);
            move |inner: &Inner| {
                let rename = Rename {
                    parent,
                    name: Name::new(&name),
                    new_parent,
                    new_name: Name::new(&new_name),
                    flags,
                };
                inner.rename(&caller, &rename)
            }
        })
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        if is_snapshot(ino.0) {
            return Front(&self.0).open(ino.0, flags);
        }
        if let Some(errno) = self.0.refuse_flags(flags) {
            return Answer::err(errno);
        }
        if self.0.is_close_to_open() {
            let (inner, caller) = (Arc::clone(&self.0), *caller);
            return Answer::later(async move {
                inner.before_open().await;
                inner
                    .when_room(|inner| inner.open(&caller, ino.0, flags))
                    .await
            });
        }
        self.step(self.0.open(caller, ino.0, flags), || {
            let caller = *caller;
            move |inner: &Inner| inner.open(&caller, ino.0, flags)
        })
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        node: &NewNode,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)> {
        if let Some(errno) = self.0.refuse_new(parent.0, name) {
            return Answer::err(errno);
        }
        if let Some(errno) = self.0.refuse_flags(flags) {
            return Answer::err(errno);
        }
        let is_alone = flags.is_exclusive() && self.0.has_cluster_locks();
        if is_alone || self.0.is_close_to_open() {
            let (inner, caller) = (Arc::clone(&self.0), *caller);
            let (name, node) = (name.to_vec(), *node);
            return Answer::later(async move {
                if is_alone {
                    return inner
                        .create_to_end(caller, parent.0, name, node, flags)
                        .await;
                }
                inner.before_open().await;
                let create =
                    |inner: &Inner| inner.create(&caller, parent.0, Name::new(&name), &node, flags);
                inner.when_room(create).await
            });
        }
        self.step(self.0.create(caller, parent.0, name, node, flags), || {
            let (caller, name, node) = (*caller, name.to_vec(), *node);
            move |inner: &Inner| inner.create(&caller, parent.0, Name::new(&name), &node, flags)
        })
    }

    fn read(&self, ino: Ino, _fh: Fh, offset: u64, len: u32, _flags: OpenFlags) -> Answer<Data> {
        let cell = match self.0.opened(ino.0) {
            Ok(cell) => cell,
            Err(errno) => return Answer::err(errno),
        };
        match self.0.read(&cell, offset, len.into()) {
            Ok(data) => Answer::ok(data),
            Err(plan) => Answer::later(Arc::clone(&self.0).fetch(cell, plan)),
        }
    }

    fn write(&self, _caller: &Caller, ino: Ino, fh: Fh, write: &Write<'_>) -> Answer<u32> {
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        if let Err(errno) = self.0.may_write(ino.0, fh) {
            return Answer::err(errno);
        }
        let written = match self.0.write(ino.0, write) {
            Ok(written) => written,
            Err(Stop::Errno(errno)) => return Answer::err(errno),
            Err(Stop::Busy) => {
                let (inner, bytes) = (Arc::clone(&self.0), write.bytes.to_vec());
                let (offset, flags, is_from_cache, kill_suidgid) = (
                    write.offset,
                    write.flags,
                    write.is_from_cache,
                    write.kill_suidgid,
                );
                return Answer::later(async move {
                    loop {
                        inner.wait_for_memory().await?;
                        inner.room_once_more().await?;
                        inner.may_write(ino.0, fh)?;
                        let write = Write {
                            offset,
                            bytes: &bytes,
                            flags,
                            is_from_cache,
                            kill_suidgid,
                        };
                        match inner.write(ino.0, &write) {
                            Ok(written) if flags.is_sync() => {
                                inner.fsync(ino.0).await?;
                                return Ok(written);
                            }
                            Ok(written) => return Ok(written),
                            Err(Stop::Errno(errno)) => return Err(errno),
                            Err(Stop::Busy) => {}
                        }
                    }
                });
            }
        };
        if write.flags.is_sync() {
            if let Some(done) = self.0.fsync_here(ino.0) {
                return Answer::Ready(done.map(|()| written));
            }
            let inner = Arc::clone(&self.0);
            return Answer::later(async move {
                inner.fsync(ino.0).await?;
                Ok(written)
            });
        }
        Answer::ok(written)
    }

    fn flush(&self, ino: Ino, _fh: Fh, lock_owner: u64) -> Answer<()> {
        let (is_shown, has_locks) = (self.0.is_close_to_open(), self.0.has_cluster_locks());
        if !is_shown && !has_locks {
            return Answer::ok(());
        }
        let inner = Arc::clone(&self.0);
        Answer::later(async move {
            if has_locks {
                // POSIX has every closing give back the locks of the process.
                inner.unlock_owner(ino.0, lock_owner).await;
            }
            match is_shown {
                true => inner.before_close(ino.0).await,
                false => Ok(()),
            }
        })
    }

    fn fsync(&self, ino: Ino, _fh: Fh, _data_only: bool) -> Answer<()> {
        if is_snapshot(ino.0) {
            return Answer::ok(());
        }
        if let Some(done) = self.0.fsync_here(ino.0) {
            return Answer::Ready(done);
        }
        let inner = Arc::clone(&self.0);
        Answer::later(async move { inner.fsync(ino.0).await })
    }

    fn release(&self, ino: Ino, _fh: Fh, _flags: OpenFlags) -> Answer<()> {
        if is_snapshot(ino.0) {
            Front(&self.0).release(ino.0);
            return Answer::ok(());
        }
        let is_last = self.0.release(ino.0);
        if !is_last || !self.0.has_cluster_locks() {
            return Answer::ok(());
        }
        let inner = Arc::clone(&self.0);
        Answer::later(async move {
            inner.unlock_all(ino.0).await;
            Ok(())
        })
    }

    fn readdir(&self, ino: Ino, _fh: Fh, offset: u64, batch: DirBatch) -> Answer<DirBatch> {
        if is_snapshot(ino.0) {
            return Front(&self.0).readdir(ino.0, offset, batch);
        }
        let empty = batch.clone();
        self.step(self.0.readdir(ino.0, offset, batch), || {
            move |inner: &Inner| inner.readdir(ino.0, offset, empty.clone())
        })
    }

    fn fsyncdir(&self, _ino: Ino, _fh: Fh, _data_only: bool) -> Answer<()> {
        let inner = Arc::clone(&self.0);
        Answer::later(async move { inner.fsync_dir().await })
    }

    fn statfs(&self, _ino: Ino) -> Answer<Statfs> {
        Answer::ok(self.0.statfs())
    }

    fn getxattr(&self, _caller: &Caller, ino: Ino, name: Name<'_>) -> Answer<Bytes> {
        if is_snapshot(ino.0) {
            return Front(&self.0).getxattr(ino.0, name);
        }
        self.step(self.0.getxattr(ino.0, name), || {
            let name = name.to_vec();
            move |inner: &Inner| inner.getxattr(ino.0, Name::new(&name))
        })
    }

    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: Name<'_>,
        value: &[u8],
        flags: i32,
    ) -> Answer<()> {
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        self.step(self.0.setxattr(caller, ino.0, name, value, flags), || {
            let (caller, name, value) = (*caller, name.to_vec(), value.to_vec());
            move |inner: &Inner| inner.setxattr(&caller, ino.0, Name::new(&name), &value, flags)
        })
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Answer<Bytes> {
        if is_snapshot(ino.0) {
            return Front(&self.0).listxattr(caller, ino.0);
        }
        self.step(self.0.listxattr(caller, ino.0), || {
            let caller = *caller;
            move |inner: &Inner| inner.listxattr(&caller, ino.0)
        })
    }

    fn removexattr(&self, _caller: &Caller, ino: Ino, name: Name<'_>) -> Answer<()> {
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        self.step(self.0.removexattr(ino.0, name), || {
            let name = name.to_vec();
            move |inner: &Inner| inner.removexattr(ino.0, Name::new(&name))
        })
    }

    fn lseek(&self, ino: Ino, _fh: Fh, offset: u64, whence: Whence) -> Answer<u64> {
        let found = self.0.opened(ino.0).map_err(Stop::from);
        match found.and_then(|cell| self.0.seek(&cell, offset, whence)) {
            Ok(seek) => Answer::later(Arc::clone(&self.0).found(seek)),
            Err(Stop::Errno(errno)) => Answer::err(errno),
            Err(Stop::Busy) => Answer::err(Errno::EAGAIN),
        }
    }

    fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: Fh,
        at: u64,
        len: u64,
        mode: AllocMode,
    ) -> Answer<()> {
        if is_snapshot(ino.0) {
            return Answer::err(Errno::EROFS);
        }
        if let Err(errno) = self.0.may_write(ino.0, fh) {
            return Answer::err(errno);
        }
        let allocate = {
            let caller = *caller;
            move |inner: &Inner| inner.allocate(&caller, ino.0, (at, len), mode)
        };
        self.step(allocate(&self.0), || allocate)
    }

    fn copy_file_range(&self, caller: &Caller, copy: &CopyRange) -> Answer<u64> {
        if is_snapshot(copy.to.0.0) {
            return Answer::err(Errno::EROFS);
        }
        let copy = *copy;
        if let Err(errno) = self.0.may_write(copy.to.0.0, copy.to.1) {
            return Answer::err(errno);
        }
        match self.0.copy(caller, &copy) {
            Ok(Some(copied)) => Answer::ok(copied),
            Ok(None) | Err(Stop::Busy) => {
                let (inner, caller) = (Arc::clone(&self.0), *caller);
                Answer::later(async move { inner.copy_later(caller, copy).await })
            }
            Err(Stop::Errno(errno)) => Answer::err(errno),
        }
    }

    fn getlk(&self, lock: &LockRequest) -> Answer<LockRange> {
        Answer::later(Arc::clone(&self.0).get_lock(*lock))
    }

    fn setlk(&self, lock: &LockRequest) -> Answer<()> {
        Answer::later(Arc::clone(&self.0).set_lock(*lock))
    }

    fn unlock_closed(&self, ino: Ino, fh: Fh, owner: u64) -> Answer<()> {
        let inner = Arc::clone(&self.0);
        Answer::later(async move {
            inner.unlock_closed(ino.0, fh, owner).await;
            Ok(())
        })
    }
}
