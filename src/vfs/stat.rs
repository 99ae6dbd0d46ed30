//! What `stat` shows of a file: times and attributes as the kernel wants them.

use cairnfs_fuse as fuse;

use super::file::{FileState, stored_bytes};
use crate::dag::Timestamp;
use crate::namespace::{self, Body, Stat, time_of};

pub(super) fn to_time(time: Timestamp) -> fuse::Time {
    fuse::Time {
        secs: time.seconds,
        nanos: time.nanos,
    }
}

pub(super) fn from_time(time: fuse::Time) -> Timestamp {
    Timestamp {
        seconds: time.secs,
        nanos: time.nanos,
    }
}

/// What `stat` shows of a file as the namespace has it.
pub(super) fn attr_of(number: u64, stat: &Stat) -> fuse::Attr {
    use namespace::Node;
    let kind = match &stat.node {
        Node::File => fuse::FileType::Regular,
        Node::Directory => fuse::FileType::Directory,
        Node::Symlink(_) => fuse::FileType::Symlink,
        Node::Fifo => fuse::FileType::Fifo,
        Node::Socket => fuse::FileType::Socket,
        Node::CharDevice(_) => fuse::FileType::CharDevice,
        Node::BlockDevice(_) => fuse::FileType::BlockDevice,
    };
    let size = match kind {
        fuse::FileType::Directory => 4096,
        _ => stat.size(),
    };
    let taken = match &stat.content {
        Some(content) => match &content.body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Stored(_, body) => stored_bytes(body, size).min(size),
        },
        None => size,
    };
    fuse::Attr {
        ino: fuse::Ino(number),
        kind,
        perm: stat.mode,
        nlink: u32::try_from(stat.links).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.node.rdev(),
        size,
        blocks: taken.div_ceil(512),
        blksize: 4096,
        atime: to_time(stat.atime),
        mtime: to_time(stat.mtime),
        ctime: to_time(stat.ctime),
    }
}

/// Puts in what an open file knows better.
pub(super) fn fill(attr: &mut fuse::Attr, state: &FileState) {
    attr.size = state.size();
    attr.mtime = to_time(state.head.mtime);
    attr.ctime = attr.ctime.max(to_time(time_of(state.head.edited)));
    attr.blocks = state.allocated().div_ceil(512);
}
