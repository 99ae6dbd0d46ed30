//! One file of any kind.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::content::{BLOCK_BYTES, Content};
use super::dir::Dir;
use crate::{Attr, Errno, FileType, Ino, Time};

pub(super) const SETUID: u16 = 0o4000;
pub(super) const SETGID: u16 = 0o2000;
pub(super) const STICKY: u16 = 0o1000;
const GROUP_EXEC: u16 = 0o010;
/// What a program may do when run; void once the program was changed.
const CAPABILITY: &[u8] = b"security.capability";

/// What a node holds.
pub(super) enum Body {
    File(Content),
    Dir(Dir),
    Symlink(Bytes),
    /// Fifo, socket or device: all there is, is in the attributes.
    Special,
}

pub(super) struct Node {
    /// `blocks` is computed when asked for.
    attr: Attr,
    pub(super) body: Body,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Bytes>,
    /// Directories only: the directory it is in; itself for the root.
    pub(super) parent: Ino,
    /// Open handles.
    pub(super) open_count: u32,
}

impl Node {
    pub(super) fn new(attr: Attr, body: Body, parent: Ino) -> Node {
        Node {
            attr,
            body,
            xattrs: BTreeMap::new(),
            parent,
            open_count: 0,
        }
    }

    /// Attributes as they are now.
    pub(super) fn attr(&self) -> Attr {
        let mut attr = self.attr;
        if let Body::File(content) = &self.body {
            attr.blocks = content.blocks() * (BLOCK_BYTES / 512);
        }
        attr
    }

    pub(super) fn raw(&self) -> &Attr {
        &self.attr
    }

    pub(super) fn raw_mut(&mut self) -> &mut Attr {
        &mut self.attr
    }

    pub(super) fn is_dir(&self) -> bool {
        self.attr.kind == FileType::Directory
    }

    pub(super) fn dir(&self) -> Result<&Dir, Errno> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn dir_mut(&mut self) -> Result<&mut Dir, Errno> {
        match &mut self.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The content of a regular file: `EISDIR` for directories, `EINVAL` for the rest.
    pub(super) fn file(&self) -> Result<&Content, Errno> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn file_mut(&mut self) -> Result<&mut Content, Errno> {
        match &mut self.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The content, or the entries, changed.
    pub(super) fn modified(&mut self) {
        let now = Time::now();
        self.attr.mtime = now;
        self.attr.ctime = now;
    }

    /// Anything but the content changed.
    pub(super) fn changed(&mut self) {
        self.attr.ctime = Time::now();
    }

    /// A read: noted at most once a day unless the file changed since (as `relatime` does).
    pub(super) fn accessed(&mut self) {
        const DAY_SECS: i64 = 24 * 60 * 60;
        let Attr {
            atime,
            mtime,
            ctime,
            ..
        } = self.attr;
        let now = Time::now();
        if atime <= mtime || atime <= ctime || now.secs - atime.secs >= DAY_SECS {
            self.attr.atime = now;
        }
    }

    /// Takes setuid away, and setgid where it means a program (without group-execute it once meant
    /// mandatory locking).
    pub(super) fn kill_suidgid(&mut self) {
        self.attr.perm &= !SETUID;
        if self.attr.perm & GROUP_EXEC != 0 {
            self.attr.perm &= !SETGID;
        }
    }

    /// File capabilities never survive a change of content or owner.
    pub(super) fn kill_capability(&mut self) {
        if !self.xattrs.is_empty() {
            self.xattrs.remove(CAPABILITY);
        }
    }
}
