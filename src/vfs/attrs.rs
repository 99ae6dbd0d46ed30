//! Changing attributes; what a symbolic link says; room.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairnfs_fuse::acl::{self, Acl};
use cairnfs_fuse::{self as fuse, Errno, SetAttr, SetTime, Statfs};

use super::errno::Step;
use super::inner::Inner;
use super::stat::from_time;
use super::xattr::CAPABILITY;
use crate::base::limits::NAME_MAX_BYTES;
use crate::dag::Timestamp;
use crate::namespace::{AttrChange, Kind, Name, Node, Now, OpError, Stat};

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;
/// Unit of `statfs`.
const BLOCK_BYTES: u64 = 4096;

/// Takes setuid away, and setgid where it means a program (without group-execute it once meant mandatory
/// locking).
pub(super) const fn without_suidgid(mode: u16) -> u16 {
    let mode = mode & !SETUID;
    if mode & GROUP_EXEC != 0 {
        mode & !SETGID
    } else {
        mode
    }
}

fn resolve(time: SetTime, now: Now) -> Timestamp {
    match time {
        SetTime::Now => now.time,
        SetTime::At(time) => from_time(time),
    }
}

/// Files that there may be, as `statfs` has it: nothing but the room bounds their number.
const FILES_MAX: u64 = u32::MAX as u64;

impl Inner {
    pub(super) fn setattr(&self, number: u64, change: &SetAttr) -> Step<fuse::AttrReply> {
        let mut core = self.core();
        let node = core.node(number)?;
        let (ino, is_orphan) = (node.ino, node.orphan.is_some());
        let now = self.now();
        if let Some(size) = change.size {
            let file = self.file(&mut core, number)?;
            self.resize(&file, size, now)?;
        }
        let stat = match &core.node(number)?.orphan {
            Some(orphan) => std::sync::Arc::new(orphan.stat.clone()),
            None => self.stat(&mut core, number, ino)?,
        };
        let wanted = self.attr_change(&stat, change, now);
        if let Some(wanted) = wanted {
            let is_chown = change.uid.is_some() || change.gid.is_some();
            let loses_capability = change.size.is_some() || is_chown;
            if is_orphan {
                let orphan = core.node(number)?.orphan.as_deref_mut();
                let orphan = orphan.ok_or(Errno::ESTALE)?;
                apply(&mut orphan.stat, &wanted, now);
            } else {
                let acl = match (change.mode, self.has_acls()) {
                    (Some(mode), true) => self.chmod_acl(ino, mode as u16)?,
                    _ => None,
                };
                let has_capability = loses_capability && self.xattr_of(ino, CAPABILITY)?.is_some();
                let edited = self.edit(&core, now, |edit| {
                    edit.set_attrs(ino, &wanted)?;
                    if let Some(acl) = acl {
                        let name = Name::xattr(acl::ACCESS).map_err(OpError::Invalid)?;
                        edit.set_xattr(ino, &name, acl)?;
                    }
                    if has_capability {
                        let name = Name::xattr(CAPABILITY).map_err(OpError::Invalid)?;
                        edit.remove_xattr(ino, &name)?;
                    }
                    Ok(())
                })?;
                self.commit(&mut core, edited)?;
                core.changed(&[ino]);
            }
            if let Some(file) = core.node(number)?.file.clone() {
                let mut state = self.lock(&file);
                state.unguard();
                if let Some(mtime) = wanted.mtime {
                    state.head.mtime = mtime;
                }
            }
        }
        let reply = self.attr_reply(&mut core, number);
        self.reap(&mut core, number);
        reply
    }

    /// What has to be written; none if only the content changes.
    fn attr_change(&self, stat: &Stat, change: &SetAttr, now: Now) -> Option<AttrChange> {
        let is_dir = stat.node.kind() == Kind::Directory;
        let mut wanted = AttrChange {
            mode: change.mode.map(|mode| (mode & 0o7777) as u16),
            uid: change.uid,
            gid: change.gid,
            atime: change.atime.map(|time| resolve(time, now)),
            mtime: change.mtime.map(|time| resolve(time, now)),
        };
        let is_empty = wanted == AttrChange::default();
        // chown(2) with nothing to change arrives as a change of nothing, and counts as one.
        let is_chown =
            change.uid.is_some() || change.gid.is_some() || is_empty && change.size.is_none();
        let kills = change.kill_suidgid && change.size.is_some() || is_chown;
        if kills && !is_dir && change.mode.is_none() && without_suidgid(stat.mode) != stat.mode {
            wanted.mode = Some(without_suidgid(stat.mode));
        }
        let is_content_only = change.size.is_some() && wanted == AttrChange::default();
        (!is_content_only).then_some(wanted)
    }

    /// The access list of a file after chmod, if it has one.
    fn chmod_acl(&self, ino: crate::namespace::Ino, mode: u16) -> Step<Option<Bytes>> {
        let Some(value) = self.xattr_of(ino, acl::ACCESS)? else {
            return Ok(None);
        };
        let acl = Acl::parse(&value)?;
        Ok(acl.map(|mut acl| {
            acl.chmod(mode);
            acl.encode()
        }))
    }

    pub(super) fn readlink(&self, number: u64) -> Step<Bytes> {
        let mut core = self.core();
        let node = core.node(number)?;
        let ino = node.ino;
        let stat = match &node.orphan {
            Some(orphan) => std::sync::Arc::new(orphan.stat.clone()),
            None => self.stat(&mut core, number, ino)?,
        };
        match &stat.node {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// The pool as far as this volume may use it: bytes of content, redundancy taken off.
    pub(super) fn statfs(&self) -> Statfs {
        let profile = self.identity.profile;
        let members = self.blocks.net().members();
        let usage = self.blocks.store().usage();
        let others = members.list.iter().filter(|m| m.peer != self.identity.peer);
        let (mut all, mut free, mut peers) = (0u64, 0u64, 1usize);
        for member in others.filter(|member| member.capacity_bytes > 0) {
            all = all.saturating_add(member.capacity_bytes);
            free = free.saturating_add(member.free_bytes);
            peers += 1;
        }
        all = all.saturating_add(usage.quota);
        free = free.saturating_add(usage.intake_left);
        // A lone peer keeps data shards only; parity comes with others.
        let shards = match peers {
            1 => profile.data_shards(),
            _ => profile.total_shards(),
        };
        let content = |bytes: u64| {
            let bytes = u128::from(bytes) * profile.data_shards() as u128 / shards as u128;
            bytes as u64 / BLOCK_BYTES
        };
        let dirty = self.totals.dirty.load(Ordering::Relaxed) / BLOCK_BYTES;
        let free = content(free).saturating_sub(dirty);
        Statfs {
            block_bytes: BLOCK_BYTES as u32,
            blocks: content(all),
            blocks_free: free,
            blocks_available: free,
            files: FILES_MAX,
            // The top directory is one as well.
            files_free: FILES_MAX.saturating_sub(self.files.load(Ordering::Relaxed) + 1),
            name_max: NAME_MAX_BYTES as u32,
        }
    }
}

fn apply(stat: &mut Stat, change: &AttrChange, now: Now) {
    stat.mode = change.mode.unwrap_or(stat.mode);
    stat.uid = change.uid.unwrap_or(stat.uid);
    stat.gid = change.gid.unwrap_or(stat.gid);
    stat.atime = change.atime.unwrap_or(stat.atime);
    stat.mtime = change.mtime.unwrap_or(stat.mtime);
    stat.ctime = now.time;
}
