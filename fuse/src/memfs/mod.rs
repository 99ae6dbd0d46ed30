//! A complete POSIX filesystem in memory: what others are compared with, in semantics and in speed.
//!
//! Every operation is one step under one lock and is answered inline. The longest of them copies a
//! megabyte, so the lock is no more than a serial order, which is what an oracle should have.

mod content;
mod dir;
mod io;
mod node;
mod rename;
#[cfg(test)]
mod tests;
mod tree;
mod xattr;

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use crate::{
    AllocMode, Answer, AttrReply, Caller, CopyRange, Data, DirBatch, Entry, Errno, Features, Fh,
    FileSystem, FileType, Ino, Lookup, NAME_MAX_BYTES, Name, NewNode, OpenFlags, Opened, Rename,
    SetAttr, Statfs, Whence, Write,
};
use content::BLOCK_BYTES;
use node::Body;
use tree::Tree;

/// The longest target of a symbolic link in bytes (the kernel's `PATH_MAX`, less the final NUL).
const TARGET_BYTES_MAX: usize = 4095;

/// How much a filesystem in memory may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Content of files in bytes.
    pub bytes: u64,
    /// Files of all kinds.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes: 8 << 30,
            files: 10_000_000,
        }
    }
}

/// The filesystem in memory.
pub struct MemFs {
    tree: Mutex<Tree>,
}

impl MemFs {
    /// An empty filesystem whose top directory belongs to this process's user.
    pub fn new(limits: Limits) -> MemFs {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let blocks = limits.bytes / BLOCK_BYTES;
        MemFs {
            tree: Mutex::new(Tree::new(blocks, limits.files, (uid, gid))),
        }
    }

    /// One step. After a panic within a step nothing is certain any more: `EIO` from then on.
    fn step<T>(&self, step: impl FnOnce(&mut Tree) -> Result<T, Errno>) -> Answer<T> {
        let result = match self.tree.lock() {
            Ok(mut tree) => step(&mut tree),
            Err(_) => Err(Errno::EIO),
        };
        result.into()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Tree>> {
        self.tree.lock().ok()
    }
}

/// Nothing changes but through the kernel, and nothing is left to do at close.
fn opened(ino: Ino) -> Opened {
    Opened {
        fh: Fh(ino.0),
        keep_cache: true,
        no_flush: true,
        parallel_direct_writes: true,
        direct_io: false,
    }
}

impl FileSystem for MemFs {
    fn features(&self) -> Features {
        Features {
            posix_acl: true,
            stateless_dirs: true,
            distributed_locks: false,
        }
    }

    fn known(&self) -> Vec<Ino> {
        let tree = self.lock();
        tree.map(|tree| tree.lookups.known()).unwrap_or_default()
    }

    fn lookup(&self, _caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<Lookup> {
        self.step(|tree| tree.lookup(parent, name))
    }

    fn forget(&self, ino: Ino, count: u64) {
        if let Some(mut tree) = self.lock() {
            tree.forget(ino, count);
        }
    }

    fn getattr(&self, _caller: &Caller, ino: Ino, _fh: Option<Fh>) -> Answer<AttrReply> {
        self.step(|tree| tree.attr(ino))
    }

    fn setattr(&self, _caller: &Caller, ino: Ino, change: &SetAttr) -> Answer<AttrReply> {
        self.step(|tree| {
            tree.set_attr(ino, change)?;
            tree.attr(ino)
        })
    }

    fn readlink(&self, _caller: &Caller, ino: Ino) -> Answer<Bytes> {
        self.step(|tree| match &tree.node(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        })
    }

    fn mknod(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry> {
        self.step(|tree| {
            if matches!(node.kind, FileType::Directory | FileType::Symlink) {
                return Err(Errno::EINVAL);
            }
            let ino = tree.make(caller, parent, name, node, None)?;
            tree.hand_out(ino)
        })
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: Name<'_>, node: &NewNode) -> Answer<Entry> {
        self.step(|tree| {
            let ino = tree.make(caller, parent, name, node, None)?;
            tree.hand_out(ino)
        })
    }

    fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        target: &[u8],
    ) -> Answer<Entry> {
        self.step(|tree| {
            if target.len() > TARGET_BYTES_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let node = NewNode {
                kind: FileType::Symlink,
                perm: 0o777,
                umask: 0,
                rdev: 0,
            };
            let ino = tree.make(caller, parent, name, &node, Some(target))?;
            tree.hand_out(ino)
        })
    }

    fn link(&self, _caller: &Caller, ino: Ino, parent: Ino, name: Name<'_>) -> Answer<Entry> {
        self.step(|tree| {
            tree.link(ino, parent, name)?;
            tree.hand_out(ino)
        })
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()> {
        self.step(|tree| tree.remove(caller, parent, name, false))
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: Name<'_>) -> Answer<()> {
        self.step(|tree| tree.remove(caller, parent, name, true))
    }

    fn rename(&self, caller: &Caller, rename: &Rename<'_>) -> Answer<()> {
        self.step(|tree| tree.rename(caller, rename))
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> Answer<Opened> {
        self.step(|tree| {
            if flags.truncates() {
                tree.resize(ino, 0, !caller.is_privileged())?;
            }
            tree.node_mut(ino)?.open_count += 1;
            Ok(opened(ino))
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
        self.step(|tree| {
            let ino = match tree.find(parent, name) {
                Ok(_) if flags.is_exclusive() => return Err(Errno::EEXIST),
                Ok(ino) => {
                    tree.node(ino)?.file()?;
                    if flags.truncates() {
                        tree.resize(ino, 0, !caller.is_privileged())?;
                    }
                    ino
                }
                Err(Errno::ENOENT) => tree.make(caller, parent, name, node, None)?,
                Err(error) => return Err(error),
            };
            tree.node_mut(ino)?.open_count += 1;
            Ok((tree.hand_out(ino)?, opened(ino)))
        })
    }

    fn read(&self, ino: Ino, _fh: Fh, offset: u64, len: u32, _flags: OpenFlags) -> Answer<Data> {
        self.step(|tree| tree.read(ino, offset, len.into()))
    }

    fn write(&self, _caller: &Caller, ino: Ino, _fh: Fh, write: &Write<'_>) -> Answer<u32> {
        self.step(|tree| tree.write(ino, write))
    }

    fn flush(&self, _ino: Ino, _fh: Fh, _lock_owner: u64) -> Answer<()> {
        Answer::ok(())
    }

    fn fsync(&self, _ino: Ino, _fh: Fh, _data_only: bool) -> Answer<()> {
        Answer::ok(())
    }

    fn release(&self, ino: Ino, _fh: Fh, _flags: OpenFlags) -> Answer<()> {
        self.step(|tree| {
            let node = tree.node_mut(ino)?;
            node.open_count = node.open_count.saturating_sub(1);
            tree.reap(ino);
            Ok(())
        })
    }

    fn readdir(&self, ino: Ino, _fh: Fh, offset: u64, mut batch: DirBatch) -> Answer<DirBatch> {
        self.step(|tree| {
            let node = tree.node(ino)?;
            let dir = node.dir()?;
            let dots = [(".", ino), ("..", node.parent)];
            for (at, (name, ino)) in (0..).zip(dots) {
                if offset <= at && !batch.push(name.into(), at + 1, ino, FileType::Directory) {
                    return Ok(batch);
                }
            }
            for (at, name, ino) in dir.after(offset) {
                let entry = Tree::show(tree.node(ino)?);
                if !batch.push_entry(name, at, entry) {
                    break;
                }
                if batch.wants_attrs() {
                    tree.lookups.add(ino);
                }
            }
            Ok(batch)
        })
    }

    fn fsyncdir(&self, _ino: Ino, _fh: Fh, _data_only: bool) -> Answer<()> {
        Answer::ok(())
    }

    fn statfs(&self, _ino: Ino) -> Answer<Statfs> {
        self.step(|tree| {
            let free = tree.blocks_max - tree.blocks_used;
            Ok(Statfs {
                block_bytes: BLOCK_BYTES as u32,
                blocks: tree.blocks_max,
                blocks_free: free,
                blocks_available: free,
                files: tree.files_max,
                files_free: tree.files_max.saturating_sub(tree.file_count()),
                name_max: NAME_MAX_BYTES as u32,
            })
        })
    }

    fn getxattr(&self, _caller: &Caller, ino: Ino, name: Name<'_>) -> Answer<Bytes> {
        self.step(|tree| tree.get_xattr(ino, name))
    }

    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: Name<'_>,
        value: &[u8],
        flags: i32,
    ) -> Answer<()> {
        self.step(|tree| tree.set_xattr(caller, ino, name, value, flags))
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Answer<Bytes> {
        self.step(|tree| tree.list_xattr(caller, ino))
    }

    fn removexattr(&self, _caller: &Caller, ino: Ino, name: Name<'_>) -> Answer<()> {
        self.step(|tree| tree.remove_xattr(ino, name))
    }

    fn lseek(&self, ino: Ino, _fh: Fh, offset: u64, whence: Whence) -> Answer<u64> {
        self.step(|tree| tree.seek(ino, offset, whence))
    }

    fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        _fh: Fh,
        at: u64,
        len: u64,
        mode: AllocMode,
    ) -> Answer<()> {
        self.step(|tree| tree.allocate(caller, ino, (at, len), mode))
    }

    fn copy_file_range(&self, caller: &Caller, copy: &CopyRange) -> Answer<u64> {
        self.step(|tree| tree.copy(caller, copy))
    }
}
