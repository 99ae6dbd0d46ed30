//! New files and new names.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairnfs_fuse::acl::{self, Acl};
use cairnfs_fuse::{self as fuse, Caller, Errno, FileType, NewNode, OpenFlags, Opened};

use super::errno::Step;
use super::inner::{Core, Inner};
use super::rows::{FILES, OWN};
use crate::namespace::{self, Ino, Name, Node, OpError};
use crate::store::Group;

/// The longest target of a symbolic link in bytes (the kernel's `PATH_MAX`, less the final NUL).
const TARGET_BYTES_MAX: usize = 4095;
/// The bit that hands a directory's group down.
const SETGID: u16 = 0o2000;

impl Inner {
    pub(super) fn mknod(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        new: &NewNode,
    ) -> Step<fuse::Entry> {
        let node = match new.kind {
            FileType::Regular => Node::File,
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
            FileType::CharDevice => Node::CharDevice(new.rdev),
            FileType::BlockDevice => Node::BlockDevice(new.rdev),
            FileType::Directory | FileType::Symlink => return Err(Errno::EINVAL.into()),
        };
        let mut core = self.core();
        let ino = self.make(&mut core, caller, parent, name, new, node)?;
        self.hand_out(&mut core, ino)
    }

    pub(super) fn mkdir(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        new: &NewNode,
    ) -> Step<fuse::Entry> {
        let mut core = self.core();
        let ino = self.make(&mut core, caller, parent, name, new, Node::Directory)?;
        self.hand_out(&mut core, ino)
    }

    pub(super) fn symlink(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        target: &[u8],
    ) -> Step<fuse::Entry> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let new = NewNode {
            kind: FileType::Symlink,
            perm: 0o777,
            umask: 0,
            rdev: 0,
        };
        let node = Node::Symlink(Bytes::copy_from_slice(target));
        let mut core = self.core();
        let ino = self.make(&mut core, caller, parent, name, &new, node)?;
        self.hand_out(&mut core, ino)
    }

    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        new: &NewNode,
        flags: OpenFlags,
    ) -> Step<(fuse::Entry, Opened)> {
        let mut core = self.core();
        let ino = match self.make(&mut core, caller, parent, name, new, Node::File) {
            Ok(ino) => ino,
            Err(super::errno::Stop::Errno(Errno::EEXIST)) if !flags.is_exclusive() => {
                let dir = core.dir(parent)?;
                self.must_find(dir, name)?.ino
            }
            Err(stop) => return Err(stop),
        };
        let entry = self.hand_out(&mut core, ino)?;
        match self.open_in(&mut core, caller, entry.attr.ino.0, flags) {
            Ok(opened) => {
                let attr = self.attr(&mut core, entry.attr.ino.0)?;
                Ok((fuse::Entry { attr, ..entry }, opened))
            }
            Err(stop) => {
                self.forget_in(&mut core, entry.attr.ino.0, 1);
                Err(stop)
            }
        }
    }

    pub(super) fn link(&self, number: u64, parent: u64, name: fuse::Name<'_>) -> Step<fuse::Entry> {
        let name = name.check_new()?;
        let mut core = self.core();
        let dir = core.dir(parent)?;
        let node = core.node(number)?;
        // A file without a name never gets one again.
        if node.orphan.is_some() {
            return Err(Errno::ENOENT.into());
        }
        let (ino, file) = (node.ino, node.file.clone());
        if let Some(file) = file.as_ref().filter(|_| self.is_shared()) {
            self.hand_over(&mut core, file);
        }
        self.hold_back(&core, file.as_ref());
        self.change(&mut core, |edit| edit.link(ino, dir, name.bytes()))?;
        core.changed(&[ino, dir]);
        self.hand_out(&mut core, ino)
    }

    /// Makes a file of any kind and names it.
    fn make(
        &self,
        core: &mut Core,
        caller: &Caller,
        parent: u64,
        name: fuse::Name<'_>,
        new: &NewNode,
        node: Node,
    ) -> Step<Ino> {
        let name = name.check_new()?;
        let dir = core.dir(parent)?;
        let above = self.stat(core, parent, dir)?;
        if above.node != Node::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        let asked = (new.perm & 0o7777) as u16;
        let (mut mode, lists) = match new.kind {
            FileType::Symlink => (0o777, Vec::new()),
            _ => self.inherited(dir, new, asked)?,
        };
        let mut gid = caller.gid;
        if above.mode & SETGID != 0 {
            gid = above.gid;
            if new.kind == FileType::Directory {
                mode |= SETGID;
            }
        }
        let ino = Ino(self.entropy.array());
        self.expect(ino);
        let made = namespace::NewNode {
            ino,
            node,
            mode,
            uid: caller.uid,
            gid,
        };
        let now = self.now();
        let mut edited = self.edit(core, now, |edit| {
            edit.create(dir, name.bytes(), &made)?;
            for (name, value) in lists {
                let name = Name::xattr(name).map_err(OpError::Invalid)?;
                edit.set_xattr(ino, &name, value)?;
            }
            Ok(())
        })?;
        self.count_edited(&mut edited, 1);
        self.commit(core, edited)?;
        core.changed(&[dir]);
        Ok(ino)
    }

    /// Adds to a group that there are more files, or fewer. Answers how many, once it is applied.
    pub(super) fn count_files(&self, group: &mut Group, change: i64) -> u64 {
        let files = self.files.load(Ordering::Relaxed);
        let files = files.saturating_add_signed(change);
        group.put(OWN, FILES, &files.to_be_bytes());
        files
    }

    /// Permission bits and access control lists of a new file, as the directory's default list has them.
    #[allow(clippy::type_complexity)]
    fn inherited(
        &self,
        dir: Ino,
        new: &NewNode,
        asked: u16,
    ) -> Step<(u16, Vec<(&'static [u8], Bytes)>)> {
        let plain = asked & !(new.umask as u16 & 0o777);
        if !self.has_acls() {
            return Ok((plain, Vec::new()));
        }
        let Some(value) = self.xattr_of(dir, acl::DEFAULT)? else {
            return Ok((plain, Vec::new()));
        };
        let Some(default) = Acl::parse(&value)? else {
            return Ok((plain, Vec::new()));
        };
        let mut lists = Vec::new();
        let mut access = default.clone();
        let mode = access.inherit(asked);
        if !access.is_minimal() {
            lists.push((acl::ACCESS, access.encode()));
        }
        if new.kind == FileType::Directory {
            lists.push((acl::DEFAULT, default.encode()));
        }
        Ok((mode, lists))
    }
}
