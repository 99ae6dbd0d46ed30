//! Each request of the kernel as a call of the filesystem's trait.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{XattrReply, errno, set_time};
use super::dirs::{DirReply, Room};
use super::flight::{Finish as _, Flight};
use super::locks;
use super::options::MountOptions;
use super::request::{caller, lock_request, negotiate, new_node};
use crate::{
    AllocMode, Answer, CopyRange, Entry, Errno, Features, Fh, FileSystem, FileType, Ino, Lookup,
    Name, OpenFlags, Opened, Rename, RenameFlags, SetAttr, Whence, Write,
};

/// Most bytes of one `copy_file_range`: what its answer can count, and no request for hours.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// Background requests (read-ahead, asynchronous direct I/O) the kernel may have out.
const MAX_BACKGROUND: u16 = 64;

pub(super) struct Adapter<F> {
    flight: Arc<Flight<F>>,
    features: Features,
    request_bytes_max: u32,
    read_ahead_bytes: u32,
    room: Arc<Room>,
}

impl<F: FileSystem> Adapter<F> {
    pub(super) fn new(flight: Arc<Flight<F>>, options: &MountOptions) -> Adapter<F> {
        Adapter {
            features: flight.fs.features(),
            flight,
            request_bytes_max: options.request_bytes_max,
            read_ahead_bytes: options.read_ahead_bytes,
            room: Arc::default(),
        }
    }

    /// For answers that tell the kernel of a file.
    fn entry(&self, reply: ReplyEntry, ask: impl FnOnce(&F) -> Answer<Entry>) {
        let undo = |fs: &F, entry: Entry| fs.forget(entry.attr.ino, 1);
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }

    fn read_dir(&self, ino: INodeNo, fh: FileHandle, offset: u64, reply: DirReply<F>) {
        let batch = reply.batch();
        let ask = |fs: &F| fs.readdir(Ino(ino.0), Fh(fh.0), offset, batch);
        let undo = |fs: &F, batch: crate::DirBatch| {
            let entries = batch.items().filter_map(|item| item.entry);
            entries.for_each(|entry| fs.forget(entry.attr.ino, 1));
        };
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }
}

impl<F: FileSystem> fuser::Filesystem for Adapter<F> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(&mut self.features, config)?;
        // Out of range means the nearest in range, which is returned as the error.
        if let Err(most) = config.set_max_write(self.request_bytes_max) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(self.read_ahead_bytes) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ask = |fs: &F| fs.lookup(&caller(request), Ino(parent.0), name.into());
        let undo = |fs: &F, found: Lookup| {
            if let Lookup::Found(entry) = found {
                fs.forget(entry.attr.ino, 1);
            }
        };
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.flight.tell(|fs| fs.forget(Ino(ino.0), count));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let fh = fh.map(|fh| Fh(fh.0));
        let ask = |fs: &F| fs.getattr(&caller(request), Ino(ino.0), fh);
        self.flight.answer(reply, ask);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(request);
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            fh: fh.map(|fh| Fh(fh.0)),
            // The protocol says it, the crate does not pass it on.
            kill_suidgid: size.is_some() && !caller.is_privileged(),
        };
        let ask = |fs: &F| fs.setattr(&caller, Ino(ino.0), &change);
        self.flight.answer(reply, ask);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let ask = |fs: &F| fs.readlink(&caller(request), Ino(ino.0));
        self.flight.answer::<Bytes>(reply, ask);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = FileType::from_mode(mode) else {
            return reply.error(fuser::Errno::EINVAL);
        };
        let node = new_node(mode, umask, rdev, kind);
        let ask = |fs: &F| fs.mknod(&caller(request), Ino(parent.0), name.into(), &node);
        self.entry(reply, ask);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let node = new_node(mode, umask, 0, FileType::Directory);
        let ask = |fs: &F| fs.mkdir(&caller(request), Ino(parent.0), name.into(), &node);
        self.entry(reply, ask);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ask = |fs: &F| fs.unlink(&caller(request), Ino(parent.0), name.into());
        self.flight.answer(reply, ask);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ask = |fs: &F| fs.rmdir(&caller(request), Ino(parent.0), name.into());
        self.flight.answer(reply, ask);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let ask = |fs: &F| fs.symlink(&caller(request), Ino(parent.0), name.into(), target);
        self.entry(reply, ask);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = match RenameFlags::from_bits(flags.bits()) {
            Ok(flags) => flags,
            Err(error) => return reply.error(errno(error)),
        };
        let rename = Rename {
            parent: Ino(parent.0),
            name: name.into(),
            new_parent: Ino(new_parent.0),
            new_name: new_name.into(),
            flags,
        };
        let ask = |fs: &F| fs.rename(&caller(request), &rename);
        self.flight.answer(reply, ask);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let ask = |fs: &F| fs.link(&caller(request), Ino(ino.0), Ino(parent.0), name.into());
        self.entry(reply, ask);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (ino, flags) = (Ino(ino.0), OpenFlags(flags.0));
        let ask = |fs: &F| fs.open(&caller(request), ino, flags);
        // Closing a file nobody got: its answer matters to nobody, but it is waited for.
        let runtime = self.flight.runtime.clone();
        let undo = move |fs: &F, opened: Opened| {
            runtime.spawn(fs.release(ino, opened.fh, flags).wait());
        };
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let node = new_node(mode, umask, 0, FileType::Regular);
        let flags = OpenFlags(flags);
        let (parent, name) = (Ino(parent.0), Name::from(name));
        let ask = |fs: &F| fs.create(&caller(request), parent, name, &node, flags);
        let runtime = self.flight.runtime.clone();
        let undo = move |fs: &F, (entry, opened): (Entry, Opened)| {
            let ino = entry.attr.ino;
            runtime.spawn(fs.release(ino, opened.fh, flags).wait());
            fs.forget(ino, 1);
        };
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let flags = OpenFlags(flags.0);
        let ask = |fs: &F| fs.read(Ino(ino.0), Fh(fh.0), offset, size, flags);
        self.flight.answer::<crate::Data>(reply, ask);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            offset,
            bytes: data,
            flags: OpenFlags(flags.0),
            is_from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_suidgid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let ask = |fs: &F| fs.write(&caller(request), Ino(ino.0), Fh(fh.0), &write);
        self.flight.answer::<u32>(reply, ask);
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let ask = |fs: &F| fs.flush(Ino(ino.0), Fh(fh.0), lock_owner.0);
        self.flight.answer_always(reply, ask);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: fuser::OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (ino, fh, flags) = (Ino(ino.0), Fh(fh.0), OpenFlags(flags.0));
        match lock_owner.filter(|_| self.features.distributed_locks) {
            Some(owner) => locks::release(&self.flight, owner.0, (ino, fh, flags), reply),
            None => self
                .flight
                .answer_always(reply, |fs: &F| fs.release(ino, fh, flags)),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let ask = |fs: &F| fs.fsync(Ino(ino.0), Fh(fh.0), data_only);
        self.flight.answer(reply, ask);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        if self.features.stateless_dirs {
            // On purpose: the kernel asks no more and keeps listings by itself.
            return reply.error(fuser::Errno::ENOSYS);
        }
        let _ = flags;
        let ino = Ino(ino.0);
        let ask = |fs: &F| fs.opendir(&caller(request), ino);
        let runtime = self.flight.runtime.clone();
        let undo = move |fs: &F, opened: Opened| {
            runtime.spawn(fs.releasedir(ino, opened.fh).wait());
        };
        self.flight.answer_or_undo(reply, Errno::EIO, ask, undo);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let reply = DirReply::plain(reply, &self.flight.fs, &self.room);
        self.read_dir(ino, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let reply = DirReply::plus(reply, &self.flight.fs, &self.room);
        self.read_dir(ino, fh, offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        let ask = |fs: &F| fs.releasedir(Ino(ino.0), Fh(fh.0));
        self.flight.answer(reply, ask);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let ask = |fs: &F| fs.fsyncdir(Ino(ino.0), Fh(fh.0), data_only);
        self.flight.answer(reply, ask);
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.flight.answer(reply, |fs: &F| fs.statfs(Ino(ino.0)));
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let ask = |fs: &F| fs.setxattr(&caller(request), Ino(ino.0), name.into(), value, flags);
        self.flight.answer(reply, ask);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let reply = XattrReply { reply, room };
        let ask = |fs: &F| fs.getxattr(&caller(request), Ino(ino.0), name.into());
        self.flight.answer(reply, ask);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let reply = XattrReply { reply, room };
        let ask = |fs: &F| fs.listxattr(&caller(request), Ino(ino.0));
        self.flight.answer(reply, ask);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let ask = |fs: &F| fs.removexattr(&caller(request), Ino(ino.0), name.into());
        self.flight.answer(reply, ask);
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        match lock_request(ino, fh, owner, (start, end, kind, pid), false) {
            Ok(lock) => self.flight.answer(reply, |fs: &F| fs.getlk(&lock)),
            Err(error) => reply.finish(Err(error)),
        }
    }

    fn setlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let lock = lock_request(ino, fh, owner, (start, end, kind, pid), waits);
        locks::set(&self.flight, lock, reply);
    }

    /// Every `isatty` of a program that opens a file ends here.
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_bytes: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    /// The kernel then takes files to be always ready, and asks no more.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// Files have no blocks on a device.
    fn bmap(&self, _request: &Request, _ino: INodeNo, _size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    /// Asked only of mounts that leave permissions to the filesystem, which grant everything.
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = match AllocMode::from_bits(mode) {
            Ok(mode) => mode,
            Err(error) => return reply.finish(Err(error)),
        };
        let ask =
            |fs: &F| fs.fallocate(&caller(request), Ino(ino.0), Fh(fh.0), offset, length, mode);
        self.flight.answer(reply, ask);
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(fuser::Errno::ENXIO);
        };
        let ask = |fs: &F| fs.lseek(Ino(ino.0), Fh(fh.0), offset, whence);
        self.flight.answer(reply, ask);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copy = CopyRange {
            from: (Ino(ino_in.0), Fh(fh_in.0)),
            from_offset: offset_in,
            to: (Ino(ino_out.0), Fh(fh_out.0)),
            to_offset: offset_out,
            len: len.min(COPY_BYTES_MAX),
        };
        let ask = |fs: &F| fs.copy_file_range(&caller(request), &copy);
        self.flight.answer::<u64>(reply, ask);
    }
}
