//! All files and the names that lead to them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::content::Content;
use super::dir::Dir;
use super::node::{Body, Node, SETGID, STICKY};
use crate::acl::{self, Acl};
use crate::{
    Attr, AttrReply, Caller, Entry, Errno, FileType, Ino, Lookup, Lookups, Name, NewNode, Time,
};

/// All changes come through the kernel, so what it knows stays true.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The whole filesystem; every operation is a step on it.
pub(super) struct Tree {
    nodes: HashMap<Ino, Node>,
    pub(super) lookups: Lookups,
    next_ino: u64,
    pub(super) blocks_used: u64,
    pub(super) blocks_max: u64,
    pub(super) files_max: u64,
}

impl Tree {
    pub(super) fn new(blocks_max: u64, files_max: u64, owner: (u32, u32)) -> Tree {
        let mut tree = Tree {
            nodes: HashMap::new(),
            lookups: Lookups::new(),
            next_ino: Ino::ROOT.0,
            blocks_used: 0,
            blocks_max,
            files_max,
        };
        let (uid, gid) = owner;
        let caller = Caller { uid, gid, pid: 0 };
        let attr = tree.blank(FileType::Directory, 0o755, &caller);
        let root = Node::new(attr, Body::Dir(Dir::default()), Ino::ROOT);
        tree.nodes.insert(Ino::ROOT, root);
        tree
    }

    /// Attributes of a new file, with a number never used before.
    fn blank(&mut self, kind: FileType, perm: u16, caller: &Caller) -> Attr {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let now = Time::now();
        Attr {
            ino,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: caller.uid,
            gid: caller.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
        }
    }

    pub(super) fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ESTALE)
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::ESTALE)
    }

    pub(super) fn file_count(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(super) fn attr(&self, ino: Ino) -> Result<AttrReply, Errno> {
        let attr = self.node(ino)?.attr();
        Ok(AttrReply { attr, ttl: TTL })
    }

    /// What is told to the kernel; the caller counts the lookup.
    pub(super) fn show(node: &Node) -> Entry {
        Entry {
            attr: node.attr(),
            attr_ttl: TTL,
            entry_ttl: TTL,
        }
    }

    /// Tells the kernel of a file once more.
    pub(super) fn hand_out(&self, ino: Ino) -> Result<Entry, Errno> {
        let entry = Tree::show(self.node(ino)?);
        self.lookups.add(ino);
        Ok(entry)
    }

    pub(super) fn find(&self, parent: Ino, name: Name<'_>) -> Result<Ino, Errno> {
        let dir = self.node(parent)?.dir()?;
        dir.get(name).ok_or(Errno::ENOENT)
    }

    pub(super) fn lookup(&self, parent: Ino, name: Name<'_>) -> Result<Lookup, Errno> {
        if name.len() > crate::NAME_MAX_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        match self.find(parent, name) {
            Ok(ino) => Ok(Lookup::Found(self.hand_out(ino)?)),
            Err(Errno::ENOENT) => Ok(Lookup::Absent(TTL)),
            Err(error) => Err(error),
        }
    }

    /// The kernel forgets; what has no name either, goes.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if self.lookups.forget(ino, count) {
            self.reap(ino);
        }
    }

    /// Drops a file that has no name, is not open and unknown to the kernel.
    pub(super) fn reap(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else {
            return;
        };
        if node.raw().nlink > 0 || node.open_count > 0 || self.lookups.count(ino) > 0 {
            return;
        }
        if let Body::File(content) = &node.body {
            self.blocks_used -= content.blocks();
        }
        self.nodes.remove(&ino);
    }

    /// Whether a new name may be made there.
    pub(super) fn check_new(&self, parent: Ino, name: Name<'_>) -> Result<(), Errno> {
        let dir = self.node(parent)?;
        // ENOENT: the directory was removed while somebody was in it.
        if dir.dir()?.get(name.check_new()?).is_some() {
            Err(Errno::EEXIST)
        } else if dir.raw().nlink == 0 {
            Err(Errno::ENOENT)
        } else {
            Ok(())
        }
    }

    /// Makes a file of any kind and names it.
    pub(super) fn make(
        &mut self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        new: &NewNode,
        target: Option<&[u8]>,
    ) -> Result<Ino, Errno> {
        self.check_new(parent, name)?;
        if self.file_count() >= self.files_max {
            return Err(Errno::ENOSPC);
        }
        let above = self.node(parent)?;
        let dir_attr = *above.raw();
        let is_dir = new.kind == FileType::Directory;
        let default = match above.xattrs.get(acl::DEFAULT) {
            Some(value) if new.kind != FileType::Symlink => Acl::parse(value)?,
            _ => None,
        };
        let asked = (new.perm & 0o7777) as u16;
        let mut xattrs = BTreeMap::new();
        let mut perm = match default {
            Some(default) => {
                let mut access = default.clone();
                let perm = access.inherit(asked);
                if !access.is_minimal() {
                    xattrs.insert(acl::ACCESS.into(), access.encode());
                }
                if is_dir {
                    xattrs.insert(acl::DEFAULT.into(), default.encode());
                }
                perm
            }
            None if new.kind == FileType::Symlink => 0o777,
            None => asked & !(new.umask as u16 & 0o777),
        };
        let mut attr = self.blank(new.kind, 0, caller);
        if dir_attr.perm & SETGID != 0 {
            attr.gid = dir_attr.gid;
            if is_dir {
                perm |= SETGID;
            }
        }
        attr.perm = perm;
        let body = match new.kind {
            FileType::Regular => Body::File(Content::default()),
            FileType::Directory => Body::Dir(Dir::default()),
            FileType::Symlink => {
                let target = Bytes::copy_from_slice(target.unwrap_or_default());
                attr.size = target.len() as u64;
                Body::Symlink(target)
            }
            FileType::CharDevice | FileType::BlockDevice => {
                attr.rdev = new.rdev;
                Body::Special
            }
            FileType::Fifo | FileType::Socket => Body::Special,
        };
        let ino = attr.ino;
        let mut node = Node::new(attr, body, parent);
        node.xattrs = xattrs;
        self.nodes.insert(ino, node);
        let above = self.node_mut(parent)?;
        above.dir_mut()?.set(name, ino);
        if is_dir {
            above.raw_mut().nlink += 1;
        }
        above.modified();
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: Name<'_>) -> Result<(), Errno> {
        self.check_new(parent, name)?;
        let node = self.node_mut(ino)?;
        if node.is_dir() {
            return Err(Errno::EPERM);
        }
        // A file without a name never gets one again.
        if node.raw().nlink == 0 {
            return Err(Errno::ENOENT);
        }
        if node.raw().nlink == u32::MAX {
            return Err(Errno::EMLINK);
        }
        node.raw_mut().nlink += 1;
        node.changed();
        let above = self.node_mut(parent)?;
        above.dir_mut()?.set(name, ino);
        above.modified();
        Ok(())
    }

    /// In a sticky directory only the owner of the file or of the directory removes a name.
    pub(super) fn check_sticky(
        &self,
        caller: &Caller,
        parent: Ino,
        child: Ino,
    ) -> Result<(), Errno> {
        let dir = self.node(parent)?.raw();
        let is_owner = caller.uid == dir.uid || caller.uid == self.node(child)?.raw().uid;
        if dir.perm & STICKY != 0 && !is_owner && !caller.is_privileged() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        caller: &Caller,
        parent: Ino,
        name: Name<'_>,
        wants_dir: bool,
    ) -> Result<(), Errno> {
        let ino = self.find(parent, name)?;
        self.check_sticky(caller, parent, ino)?;
        let node = self.node(ino)?;
        match (wants_dir, node.dir()) {
            (true, Ok(dir)) if !dir.is_empty() => return Err(Errno::ENOTEMPTY),
            (true, Err(_)) => return Err(Errno::ENOTDIR),
            (false, Ok(_)) => return Err(Errno::EISDIR),
            _ => (),
        }
        let above = self.node_mut(parent)?;
        above.dir_mut()?.remove(name);
        if wants_dir {
            above.raw_mut().nlink -= 1;
        }
        above.modified();
        self.lose_name(ino)
    }

    /// A name that led to the file is gone already.
    pub(super) fn lose_name(&mut self, ino: Ino) -> Result<(), Errno> {
        let node = self.node_mut(ino)?;
        let nlink = if node.is_dir() {
            0
        } else {
            node.raw().nlink - 1
        };
        node.raw_mut().nlink = nlink;
        node.changed();
        self.reap(ino);
        Ok(())
    }

    /// Whether `below` is `above` or somewhere in it.
    pub(super) fn is_within(&self, below: Ino, above: Ino) -> Result<bool, Errno> {
        let mut at = below;
        while at != above {
            let parent = self.node(at)?.parent;
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
        Ok(true)
    }

    /// Takes or gives back blocks after a file changed; to be called with what it held before.
    pub(super) fn account(&mut self, before: u64, after: u64) {
        self.blocks_used = self.blocks_used + after - before;
    }

    /// `ENOSPC` unless so many more blocks can be had.
    pub(super) fn check_room(&self, more: u64) -> Result<(), Errno> {
        match self.blocks_used.checked_add(more) {
            Some(all) if all <= self.blocks_max => Ok(()),
            _ => Err(Errno::ENOSPC),
        }
    }
}
