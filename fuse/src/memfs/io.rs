//! Content and attributes of files.

use super::content::BLOCK_BYTES;
use super::tree::Tree;
use crate::acl::{self, Acl};
use crate::{
    AllocMode, Caller, CopyRange, Data, Errno, Ino, SetAttr, SetTime, Time, Whence, Write,
};

/// Where files end: the kernel's offsets are signed.
const SIZE_MAX: u64 = i64::MAX as u64;
/// How much is copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// The end of a range that must lie within a file of any size.
fn end_of(offset: u64, len: u64) -> Result<u64, Errno> {
    let end = offset.checked_add(len);
    end.filter(|end| *end <= SIZE_MAX).ok_or(Errno::EFBIG)
}

fn resolve(time: SetTime) -> Time {
    match time {
        SetTime::Now => Time::now(),
        SetTime::At(time) => time,
    }
}

impl Tree {
    pub(super) fn set_attr(&mut self, ino: Ino, change: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = change.size {
            self.resize(ino, size, change.kill_suidgid)?;
        }
        let node = self.node_mut(ino)?;
        if let Some(mode) = change.mode {
            let perm = (mode & 0o7777) as u16;
            node.raw_mut().perm = perm;
            if let Some(value) = node.xattrs.get_mut(acl::ACCESS)
                && let Some(mut acl) = Acl::parse(value)?
            {
                acl.chmod(perm);
                *value = acl.encode();
            }
        }
        // chown(2) with nothing to change arrives as a change of nothing, and counts as one.
        let is_chown = change.uid.is_some() || change.gid.is_some() || is_empty(change);
        if is_chown {
            let attr = node.raw_mut();
            attr.uid = change.uid.unwrap_or(attr.uid);
            attr.gid = change.gid.unwrap_or(attr.gid);
            if !node.is_dir() && change.mode.is_none() {
                node.kill_suidgid();
            }
            node.kill_capability();
        }
        let attr = node.raw_mut();
        attr.atime = change.atime.map_or(attr.atime, resolve);
        attr.mtime = change.mtime.map_or(attr.mtime, resolve);
        node.changed();
        Ok(())
    }

    /// Sets the length. What is cut off is gone; what is added is a hole.
    pub(super) fn resize(&mut self, ino: Ino, size: u64, kill: bool) -> Result<(), Errno> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let node = self.node_mut(ino)?;
        let content = node.file_mut()?;
        let before = content.blocks();
        content.truncate(size);
        let after = content.blocks();
        node.raw_mut().size = size;
        if kill {
            node.kill_suidgid();
        }
        node.kill_capability();
        node.modified();
        self.account(before, after);
        Ok(())
    }

    pub(super) fn read(&mut self, ino: Ino, offset: u64, len: u64) -> Result<Data, Errno> {
        let node = self.node_mut(ino)?;
        let left = node.raw().size.saturating_sub(offset);
        let data = node.file()?.read(offset, len.min(left));
        node.accessed();
        Ok(data)
    }

    pub(super) fn write(&mut self, ino: Ino, write: &Write<'_>) -> Result<u32, Errno> {
        let len = write.bytes.len() as u64;
        let end = end_of(write.offset, len)?;
        self.check_room(self.node(ino)?.file()?.missing(write.offset, len))?;
        let node = self.node_mut(ino)?;
        let content = node.file_mut()?;
        let before = content.blocks();
        content.write(write.offset, write.bytes);
        let after = content.blocks();
        if len > 0 {
            let size = &mut node.raw_mut().size;
            *size = end.max(*size);
            node.modified();
            node.kill_capability();
            if write.kill_suidgid {
                node.kill_suidgid();
            }
        }
        self.account(before, after);
        Ok(len as u32)
    }

    pub(super) fn allocate(
        &mut self,
        caller: &Caller,
        ino: Ino,
        (offset, len): (u64, u64),
        mode: AllocMode,
    ) -> Result<(), Errno> {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let end = end_of(offset, len)?;
        let content = self.node(ino)?.file()?;
        // Holding blocks costs memory too, so the answer comes before the count of a huge range.
        let takes_room = mode != AllocMode::PunchHole;
        if takes_room {
            if len / BLOCK_BYTES > self.blocks_max {
                return Err(Errno::ENOSPC);
            }
            self.check_room(content.missing(offset, len))?;
        }
        let node = self.node_mut(ino)?;
        let content = node.file_mut()?;
        let before = content.blocks();
        if !matches!(mode, AllocMode::Allocate | AllocMode::AllocateKeepSize) {
            content.punch(offset, len);
        }
        if takes_room {
            content.hold(offset, len);
        }
        let after = content.blocks();
        if matches!(mode, AllocMode::Allocate | AllocMode::ZeroRange) {
            let size = &mut node.raw_mut().size;
            *size = end.max(*size);
        }
        node.modified();
        node.kill_capability();
        if !caller.is_privileged() {
            node.kill_suidgid();
        }
        self.account(before, after);
        Ok(())
    }

    pub(super) fn seek(&self, ino: Ino, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let node = self.node(ino)?;
        let size = node.raw().size;
        let content = node.file()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        match whence {
            Whence::Data => content.seek(offset, size, true).ok_or(Errno::ENXIO),
            Whence::Hole => Ok(content.seek(offset, size, false).unwrap_or(size)),
        }
    }

    pub(super) fn copy(&mut self, caller: &Caller, copy: &CopyRange) -> Result<u64, Errno> {
        let (from, to) = (copy.from.0, copy.to.0);
        let left = self.node(from)?.raw().size.saturating_sub(copy.from_offset);
        let len = copy.len.min(left);
        self.node(from)?.file()?;
        self.node(to)?.file()?;
        end_of(copy.to_offset, len)?;
        if from == to && copy.from_offset.abs_diff(copy.to_offset) < len {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while done < len {
            let step = COPY_BYTES.min(len - done);
            let bytes = self.read(from, copy.from_offset + done, step)?.to_vec();
            let write = Write {
                offset: copy.to_offset + done,
                bytes: &bytes,
                flags: crate::OpenFlags(libc::O_WRONLY),
                is_from_cache: false,
                kill_suidgid: !caller.is_privileged(),
            };
            match self.write(to, &write) {
                Ok(_) => done += step,
                // What was copied was copied.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn is_empty(change: &SetAttr) -> bool {
    let SetAttr {
        mode,
        uid,
        gid,
        size,
        atime,
        mtime,
        fh: _,
        kill_suidgid: _,
    } = change;
    mode.is_none()
        && uid.is_none()
        && gid.is_none()
        && size.is_none()
        && atime.is_none()
        && mtime.is_none()
}
