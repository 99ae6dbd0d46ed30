//! What a filesystem must be able to do, by inode.
//!
//! Methods are called on the threads that read requests from the kernel, several at a time. **They
//! never block**: what must wait is returned as [`Answer::later`]. Names and written bytes are
//! borrowed from the request, so that an operation done at once copies nothing twice.
//!
//! Permissions are the kernel's business (`default_permissions`); what is left to the filesystem is
//! said at each method.
//!
//! **Lookups.** Each [`Entry`] returned by `lookup`, `mknod`, `mkdir`, `symlink`, `link`, `create`
//! and by `readdir` with attributes tells the kernel of a file once more; `forget` takes it back.
//! The filesystem counts before it returns ([`Lookups`](crate::Lookups) helps). An answer that came
//! too late to be used is taken back by the adapter through `forget` and `release`.

use bytes::Bytes;

use crate::{
    AllocMode, Answer, AttrReply, Caller, Data, DirBatch, Entry, Errno, Fh, FileType, Ino,
    LockRange, Lookup, Name, OpenFlags, Opened, RenameFlags, SetAttr, Statfs, Whence,
};

/// What the adapter should negotiate for a filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// `system.posix_acl_*` attributes are kept, handed down and follow chmod; the kernel enforces
    /// them.
    pub posix_acl: bool,
    /// Directories need no handle: the kernel keeps listings and sends no `opendir`. A listing is
    /// dropped when the directory's mtime changes and by an invalidation of an entry in it.
    pub stateless_dirs: bool,
    /// Locks hold between machines. Without it the kernel keeps them, rightly, for this machine.
    pub distributed_locks: bool,
}

/// A file to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewNode {
    /// What to make.
    pub kind: FileType,
    /// Permission bits asked for (0o7777), without the umask.
    pub perm: u32,
    /// The caller's umask: it applies unless the directory has a default ACL.
    pub umask: u32,
    /// Device number, for devices.
    pub rdev: u32,
}

/// A rename asked for.
#[derive(Clone, Copy, Debug)]
pub struct Rename<'a> {
    /// Directory of the old name.
    pub parent: Ino,
    /// The old name.
    pub name: Name<'a>,
    /// Directory of the new name.
    pub new_parent: Ino,
    /// The new name.
    pub new_name: Name<'a>,
    /// What becomes of what is there.
    pub flags: RenameFlags,
}

/// Bytes to be written.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where to, in bytes.
    pub offset: u64,
    /// What, borrowed from the request.
    pub bytes: &'a [u8],
    /// How the file was opened.
    pub flags: OpenFlags,
    /// From the page cache of a shared mapping: handle and caller are guessed by the kernel.
    pub is_from_cache: bool,
    /// Take setuid, and setgid of an executable group, away: the writer may not keep them.
    pub kill_suidgid: bool,
}

/// A copy from one file to another.
#[derive(Clone, Copy, Debug)]
pub struct CopyRange {
    /// Source.
    pub from: (Ino, Fh),
    /// First byte of the source.
    pub from_offset: u64,
    /// Destination.
    pub to: (Ino, Fh),
    /// First byte of the destination.
    pub to_offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// A question about, or a change of, a POSIX or BSD lock.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest {
    /// The file.
    pub ino: Ino,
    /// As opened.
    pub fh: Fh,
    /// Who holds: the same for all threads of a process.
    pub owner: u64,
    /// What.
    pub range: LockRange,
    /// Wait until it can be had. The adapter ends the wait with `ENOLCK` after ten minutes.
    pub waits: bool,
}

/// A filesystem by inode. See the module for the rules.
pub trait FileSystem: Send + Sync + 'static {
    /// What to negotiate at mount.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Every file the kernel was told of, for the case that too many changes came at once to
    /// announce each: all of them are then invalidated.
    fn known(&self) -> Vec<Ino> {
        Vec::new()
    }

    /// The kernel has gone, by unmount or otherwise. No `forget` or `release` comes after it.
    fn ended(&self) {}

    /// Finds a name in a directory.
    fn lookup(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<Lookup>;

    /// The kernel forgets `count` lookups of a file. Has no answer and cannot fail.
    fn forget(&self, ino: Ino, count: u64);

    /// Attributes.
    fn getattr(&self, caller: &Caller, ino: Ino, fh: Option<Fh>) -> Answer<AttrReply>;

    /// Changes attributes, all or none. A change of owner takes setuid, and setgid of an executable
    /// group, away from files.
    fn setattr(&self, caller: &Caller, ino: Ino, change: &SetAttr) -> Answer<AttrReply>;

    /// The target of a symbolic link.
    fn readlink(&self, caller: &Caller, ino: Ino) -> Answer<Bytes>;

    /// Makes a file, fifo, socket or device (`mknod`).
    fn mknod(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry>;

    /// Makes a directory.
    fn mkdir(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry>;

    /// Makes a symbolic link.
    fn symlink(&self, caller: &Caller, parent: Ino, name: Name<'_>, target: &[u8])
    -> Answer<Entry>;

    /// Gives a file one more name.
    fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: Name<'_>) -> Answer<Entry>;

    /// Removes a name. The file lives on while it has others, is open or known to the kernel.
    fn unlink(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()>;

    /// Removes an empty directory.
    fn rmdir(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()>;

    /// Renames, at once for every observer.
    fn rename(&self, caller: &Caller, rename: &Rename<'_>) -> Answer<()>;

    /// Opens a file; with `O_TRUNC` it empties it.
    fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Answer<Opened>;

    /// Makes a file and opens it; opens what is there unless `O_EXCL` is set.
    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        node: &NewNode,
        flags: OpenFlags,
    ) -> Answer<(Entry, Opened)>;

    /// Reads. Fewer bytes than asked for means the end of the file.
    fn read(&self, ino: Ino, fh: Fh, offset: u64, len: u32, flags: OpenFlags) -> Answer<Data>;

    /// Writes. Fewer bytes than given means that the rest failed.
    fn write(&self, caller: &Caller, ino: Ino, fh: Fh, write: &Write<'_>) -> Answer<u32>;

    /// A descriptor was closed; there may be others. Errors reach close(2).
    fn flush(&self, ino: Ino, fh: Fh, lock_owner: u64) -> Answer<()>;

    /// Makes content and attributes durable; with `data_only` what is needed to read the content.
    fn fsync(&self, ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;

    /// The last descriptor was closed. Errors reach nobody.
    fn release(&self, ino: Ino, fh: Fh, flags: OpenFlags) -> Answer<()>;

    /// Opens a directory. Not called with [`Features::stateless_dirs`].
    fn opendir(&self, _caller: &Caller, _ino: Ino) -> Answer<Opened> {
        Answer::ok(Opened::default())
    }

    /// Fills `batch` from `offset` on: 0, or what an entry gave as `next_offset`. An offset stays
    /// valid as long as the directory: entries that come and go never make others appear twice
    /// or not at all. `.` and `..` belong to it. Each entry pushed with attributes is a lookup.
    fn readdir(&self, ino: Ino, fh: Fh, offset: u64, batch: DirBatch) -> Answer<DirBatch>;

    /// The last descriptor of a directory was closed.
    fn releasedir(&self, _ino: Ino, _fh: Fh) -> Answer<()> {
        Answer::ok(())
    }

    /// Makes a directory's entries durable.
    fn fsyncdir(&self, ino: Ino, fh: Fh, data_only: bool) -> Answer<()>;

    /// Room and number of files.
    fn statfs(&self, ino: Ino) -> Answer<Statfs>;

    /// The value of an extended attribute; `ENODATA` if there is none. The adapter answers `ERANGE`.
    fn getxattr(&self, _caller: &Caller, _ino: Ino, _name: Name<'_>) -> Answer<Bytes> {
        Answer::err(Errno::ENOTSUP)
    }

    /// Sets an extended attribute; `flags` are `XATTR_CREATE` (`EEXIST`) and `XATTR_REPLACE`
    /// (`ENODATA`).
    fn setxattr(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _name: Name<'_>,
        _value: &[u8],
        _flags: i32,
    ) -> Answer<()> {
        Answer::err(Errno::ENOTSUP)
    }

    /// The names of all extended attributes, each followed by NUL.
    fn listxattr(&self, _caller: &Caller, _ino: Ino) -> Answer<Bytes> {
        Answer::ok(Bytes::new())
    }

    /// Removes an extended attribute; `ENODATA` if there is none.
    fn removexattr(&self, _caller: &Caller, _ino: Ino, _name: Name<'_>) -> Answer<()> {
        Answer::err(Errno::ENOTSUP)
    }

    /// Where the next data, or the next hole, begins at or after `offset`; `ENXIO` past the end.
    fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: Whence) -> Answer<u64>;

    /// Makes room, holes or zeros. Takes setuid away as a write does: the kernel leaves that to the filesystem.
    fn fallocate(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _fh: Fh,
        _at: u64,
        _len: u64,
        _mode: AllocMode,
    ) -> Answer<()> {
        Answer::err(Errno::ENOTSUP)
    }

    /// Copies within the filesystem, without the bytes passing through the caller. Answers how many
    /// were copied: fewer than asked for at the end of the source, or for the caller to ask again. Takes setuid away
    /// as a write does.
    fn copy_file_range(&self, _caller: &Caller, _copy: &CopyRange) -> Answer<u64> {
        Answer::err(Errno::ENOSYS)
    }

    /// The first lock that stands in the way, or [`LockKind::Unlock`](crate::LockKind::Unlock).
    fn getlk(&self, _lock: &LockRequest) -> Answer<LockRange> {
        Answer::err(Errno::ENOSYS)
    }

    /// Takes or releases a lock.
    fn setlk(&self, _lock: &LockRequest) -> Answer<()> {
        Answer::err(Errno::ENOSYS)
    }

    /// The last descriptor of an opening that had a flock(2) lock was closed: what its owner took through this handle
    /// is released, and nothing else. The kernel tells of a closing after it has returned, and may give the number of
    /// the owner to an opening that comes meanwhile, which keeps its lock.
    fn unlock_closed(&self, _ino: Ino, _fh: Fh, _owner: u64) -> Answer<()> {
        Answer::err(Errno::ENOSYS)
    }
}
