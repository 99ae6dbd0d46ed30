//! What is negotiated with the kernel, and its requests as this crate's values.

use std::io;

use fuser::{FileHandle, INodeNo, InitFlags, KernelConfig, LockOwner, Request};

use super::convert::lock_kind;
use crate::{Caller, Errno, Features, Fh, FileType, Ino, LockRange, LockRequest, NewNode};

/// Asks for what the filesystem can use and the kernel has; `features` keeps what came of it.
pub(super) fn negotiate(features: &mut Features, config: &mut KernelConfig) -> io::Result<()> {
    // Not ATOMIC_O_TRUNC: with it the kernel has the file emptied before it finds that a running program
    // must not be (ETXTBSY), and the program is lost. Without it, O_TRUNC is a change of size.
    let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            // The second version says with each write whether the writer loses setuid bits. The
            // kernel then asks for `security.capability` before the first write to a file; with
            // the first version, or none, before every one (measured on Linux 6.18).
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
    if features.posix_acl {
        // A default ACL takes the umask's place, so the filesystem must apply it.
        wanted |= InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
    }
    if features.stateless_dirs {
        wanted |= InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    }
    let locks = InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
    if features.distributed_locks {
        if !config.capabilities().contains(locks) {
            // It would keep them for this machine, and nobody would know.
            return Err(io::Error::other("the kernel passes no locks on"));
        }
        wanted |= locks;
    }
    let offered = wanted & config.capabilities();
    if config.add_capabilities(offered).is_err() {
        return Err(io::Error::other("the kernel took back what it offered"));
    }
    if !offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT) {
        features.stateless_dirs = false;
    }
    Ok(())
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

/// What a mode asks for.
pub(super) fn new_node(mode: u32, umask: u32, rdev: u32, kind: FileType) -> NewNode {
    NewNode {
        kind,
        perm: mode & 0o7777,
        umask: umask & 0o777,
        rdev,
    }
}

pub(super) fn lock_request(
    ino: INodeNo,
    fh: FileHandle,
    owner: LockOwner,
    (start, end, kind, pid): (u64, u64, i32, u32),
    waits: bool,
) -> Result<LockRequest, Errno> {
    let kind = lock_kind(kind)?;
    Ok(LockRequest {
        ino: Ino(ino.0),
        fh: Fh(fh.0),
        owner: owner.0,
        range: LockRange {
            start,
            end,
            kind,
            pid,
        },
        waits,
    })
}
