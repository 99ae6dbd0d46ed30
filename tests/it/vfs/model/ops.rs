//! The operations, each asked of both.

use cairnfs_fuse::{
    AllocMode, Caller, CopyRange, Errno, Fh, FileSystem, FileType, Ino, Name, NewNode, OpenFlags,
    Rename, RenameFlags, SetAttr, SetTime, Time, Whence, Write,
};

use super::super::twin::{RW, same};
use super::{CALLERS, Handle, Run, XATTRS};

impl Run {
    pub(super) async fn make(&mut self) {
        let path = self.path();
        let Some(((mem, vfs), name)) = self.place(&path).await else {
            return;
        };
        let name = Name::new(&name);
        let caller = CALLERS[self.entropy.below(2) as usize];
        let perm = [0o644, 0o755, 0o2755, 0o4711, 0o1777][self.entropy.below(5) as usize];
        let new = |kind| NewNode {
            kind,
            perm,
            umask: 0o022,
            rdev: 0,
        };
        let flags = OpenFlags(
            libc::O_RDWR
                | if self.entropy.below(2) == 0 {
                    libc::O_EXCL
                } else {
                    0
                },
        );
        match self.entropy.below(8) {
            0 | 1 => {
                let node = new(FileType::Directory);
                let one = self.twin.mem.mkdir(&caller, mem, name, &node).wait().await;
                let two = self
                    .twin
                    .vfs()
                    .mkdir(&caller, vfs, name, &node)
                    .wait()
                    .await;
                same(&format!("mkdir {path:?}"), &one, &two);
            }
            2 => {
                let target = self.bytes(40);
                let target: Vec<u8> = target.iter().map(|b| b % 25 + b'a').collect();
                let one = self
                    .twin
                    .mem
                    .symlink(&caller, mem, name, &target)
                    .wait()
                    .await;
                let two = self
                    .twin
                    .vfs()
                    .symlink(&caller, vfs, name, &target)
                    .wait()
                    .await;
                same(&format!("symlink {path:?}"), &one, &two);
            }
            3 => {
                let node = new(FileType::Fifo);
                let one = self.twin.mem.mknod(&caller, mem, name, &node).wait().await;
                let two = self
                    .twin
                    .vfs()
                    .mknod(&caller, vfs, name, &node)
                    .wait()
                    .await;
                same(&format!("mknod {path:?}"), &one, &two);
            }
            _ => {
                let node = new(FileType::Regular);
                let one = self
                    .twin
                    .mem
                    .create(&caller, mem, name, &node, flags)
                    .wait()
                    .await;
                let two = self
                    .twin
                    .vfs()
                    .create(&caller, vfs, name, &node, flags)
                    .wait()
                    .await;
                if same(&format!("create {path:?}"), &one, &two) {
                    self.handles.push(Handle {
                        mem: one.unwrap().0.attr.ino,
                        vfs: two.unwrap().0.attr.ino,
                    });
                }
            }
        }
        self.log.push(format!("make {path:?}"));
    }

    pub(super) async fn remove(&mut self) {
        let path = self.path();
        let Some(((mem, vfs), name)) = self.place(&path).await else {
            return;
        };
        let name = Name::new(&name);
        let caller = CALLERS[self.entropy.below(2) as usize];
        let is_dir = self.entropy.below(3) == 0;
        let (one, two) = match is_dir {
            true => (
                self.twin.mem.rmdir(&caller, mem, name).wait().await,
                self.twin.vfs().rmdir(&caller, vfs, name).wait().await,
            ),
            false => (
                self.twin.mem.unlink(&caller, mem, name).wait().await,
                self.twin.vfs().unlink(&caller, vfs, name).wait().await,
            ),
        };
        self.log.push(format!("remove {path:?} directory {is_dir}"));
        same(&format!("remove {path:?}"), &one, &two);
    }

    pub(super) async fn rename(&mut self) {
        let (path, new) = (self.path(), self.path());
        let Some(((mem, vfs), name)) = self.place(&path).await else {
            return;
        };
        let Some(((new_mem, new_vfs), new_name)) = self.place(&new).await else {
            return;
        };
        let flags = [
            RenameFlags::Replace,
            RenameFlags::Replace,
            RenameFlags::NoReplace,
            RenameFlags::Exchange,
        ][self.entropy.below(4) as usize];
        let caller = CALLERS[self.entropy.below(2) as usize];
        let rename = |parent, new_parent| Rename {
            parent,
            name: Name::new(&name),
            new_parent,
            new_name: Name::new(&new_name),
            flags,
        };
        let one = self
            .twin
            .mem
            .rename(&caller, &rename(mem, new_mem))
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .rename(&caller, &rename(vfs, new_vfs))
            .wait()
            .await;
        self.log.push(format!("rename {path:?} {new:?} {flags:?}"));
        same(&format!("rename {path:?} to {new:?} {flags:?}"), &one, &two);
    }

    pub(super) async fn link(&mut self) {
        let (path, new) = (self.path(), self.path());
        let Some((mem, vfs)) = self.both(&path).await else {
            return;
        };
        let Some(((new_mem, new_vfs), name)) = self.place(&new).await else {
            return;
        };
        let name = Name::new(&name);
        let one = self
            .twin
            .mem
            .link(&Caller::ROOT, mem, new_mem, name)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .link(&Caller::ROOT, vfs, new_vfs, name)
            .wait()
            .await;
        self.log.push(format!("link {path:?} {new:?}"));
        same(&format!("link {path:?} {new:?}"), &one, &two);
    }

    pub(super) async fn attributes(&mut self) {
        let path = self.path();
        let Some((mem, vfs)) = self.both(&path).await else {
            return;
        };
        let mut change = SetAttr::default();
        match self.entropy.below(5) {
            0 => change.mode = Some(self.entropy.below(0o10000) as u32),
            1 => change.uid = Some(self.entropy.below(3) as u32),
            2 => {
                let time = Time {
                    secs: self.entropy.below(1000) as i64,
                    nanos: 17,
                };
                change.mtime = Some(SetTime::At(time));
            }
            3 => change.gid = Some(1000),
            _ => {
                change.size = Some(self.offset());
                change.kill_suidgid = self.entropy.below(2) == 0;
            }
        }
        let one = self
            .twin
            .mem
            .setattr(&Caller::ROOT, mem, &change)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .setattr(&Caller::ROOT, vfs, &change)
            .wait()
            .await;
        self.log.push(format!("setattr {path:?} {change:?}"));
        same(&format!("setattr {path:?} {change:?}"), &one, &two);
    }

    pub(super) async fn xattr(&mut self) {
        let path = self.path();
        let Some((mem, vfs)) = self.both(&path).await else {
            return;
        };
        let name = Name::new(XATTRS[self.entropy.below(3) as usize]);
        if self.entropy.below(3) == 0 {
            let one = self
                .twin
                .mem
                .removexattr(&Caller::ROOT, mem, name)
                .wait()
                .await;
            let two = self
                .twin
                .vfs()
                .removexattr(&Caller::ROOT, vfs, name)
                .wait()
                .await;
            self.log.push(format!("removexattr {path:?} {name:?}"));
            same("removexattr", &one, &two);
            return;
        }
        let most = [20, 40_000][self.entropy.below(2) as usize];
        let value = self.bytes(most);
        let flags = self.entropy.below(3) as i32;
        let one = self
            .twin
            .mem
            .setxattr(&Caller::ROOT, mem, name, &value, flags)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .setxattr(&Caller::ROOT, vfs, name, &value, flags)
            .wait()
            .await;
        self.log.push(format!(
            "setxattr {path:?} {name:?} {} {flags}",
            value.len()
        ));
        same("setxattr", &one, &two);
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        let count = self.handles.len() as u64;
        self.handles
            .get(self.entropy.below(count.max(1)) as usize)
            .copied()
    }

    pub(super) async fn open(&mut self) {
        let path = self.path();
        let Some((mem, vfs)) = self.both(&path).await else {
            return;
        };
        let flags = OpenFlags(
            libc::O_RDWR
                | if self.entropy.below(4) == 0 {
                    libc::O_TRUNC
                } else {
                    0
                },
        );
        if self.mem().attr(mem).await.unwrap().kind != FileType::Regular {
            return;
        }
        let one = self.twin.mem.open(&Caller::ROOT, mem, flags).wait().await;
        let two = self.twin.vfs().open(&Caller::ROOT, vfs, flags).wait().await;
        self.log.push(format!("open {path:?} {flags:?}"));
        if same("open", &one, &two) {
            self.handles.push(Handle { mem, vfs });
        }
    }

    pub(super) async fn close(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let index = self.entropy.below(self.handles.len() as u64) as usize;
        let handle = self.handles.swap_remove(index);
        self.twin
            .mem
            .release(handle.mem, Fh(handle.mem.0), RW)
            .wait()
            .await
            .unwrap();
        self.twin
            .vfs()
            .release(handle.vfs, Fh(handle.vfs.0), RW)
            .wait()
            .await
            .unwrap();
    }

    pub(super) async fn write(&mut self) {
        let Some(handle) = self.handle() else { return };
        let most = [100, 5_000, 60_000][self.entropy.below(3) as usize];
        let (offset, bytes) = (self.offset(), self.bytes(most));
        let write = Write {
            offset,
            bytes: &bytes,
            flags: RW,
            is_from_cache: false,
            kill_suidgid: self.entropy.below(2) == 0,
        };
        self.log
            .push(format!("write {:?} {offset} {}", handle.vfs, bytes.len()));
        let one = self
            .twin
            .mem
            .write(&Caller::ROOT, handle.mem, Fh(handle.mem.0), &write)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .write(&Caller::ROOT, handle.vfs, Fh(handle.vfs.0), &write)
            .wait()
            .await;
        assert_eq!(one, two, "write");
    }

    fn caller(&self) -> Caller {
        CALLERS[self.entropy.below(2) as usize]
    }

    pub(super) async fn allocate(&mut self) {
        let Some(handle) = self.handle() else { return };
        let (at, len) = (self.offset(), 1 + self.entropy.below(30_000));
        let mode = [
            AllocMode::Allocate,
            AllocMode::AllocateKeepSize,
            AllocMode::PunchHole,
            AllocMode::ZeroRange,
            AllocMode::ZeroRangeKeepSize,
        ][self.entropy.below(5) as usize];
        let caller = self.caller();
        self.log.push(format!(
            "fallocate {:?} {at} {len} {mode:?} by {}",
            handle.vfs, caller.uid
        ));
        let one = self
            .twin
            .mem
            .fallocate(&caller, handle.mem, Fh(0), at, len, mode)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .fallocate(&caller, handle.vfs, Fh(0), at, len, mode)
            .wait()
            .await;
        same("fallocate", &one, &two);
    }

    pub(super) async fn copy(&mut self) {
        let (Some(from), Some(to)) = (self.handle(), self.handle()) else {
            return;
        };
        let (from_offset, to_offset) = (self.offset(), self.offset());
        let len = 1 + self.entropy.below(50_000);
        let copy = |from: Ino, to: Ino| CopyRange {
            from: (from, Fh(from.0)),
            from_offset,
            to: (to, Fh(to.0)),
            to_offset,
            len,
        };
        let caller = self.caller();
        self.log.push(format!(
            "copy {:?} {from_offset} {:?} {to_offset} {len} by {}",
            from.vfs, to.vfs, caller.uid
        ));
        let one = self
            .twin
            .mem
            .copy_file_range(&caller, &copy(from.mem, to.mem))
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .copy_file_range(&caller, &copy(from.vfs, to.vfs))
            .wait()
            .await;
        assert_eq!(one, two, "copy_file_range");
    }

    pub(super) async fn read(&mut self) {
        let Some(handle) = self.handle() else { return };
        let (offset, len) = (self.offset(), 1 + self.entropy.below(70_000) as u32);
        let one = self
            .twin
            .mem
            .read(handle.mem, Fh(0), offset, len, RW)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .read(handle.vfs, Fh(0), offset, len, RW)
            .wait()
            .await;
        let (one, two) = (one.unwrap().to_vec(), two.unwrap().to_vec());
        assert_eq!(one.len(), two.len(), "read {offset} {len}");
        if let Some(at) = one.iter().zip(&two).position(|(a, b)| a != b) {
            panic!("read {offset} {len}: differs at {}", offset as usize + at);
        }
        // Only that data is found where there is some: what is stored as a hole is up to each.
        let data = self
            .twin
            .vfs()
            .lseek(handle.vfs, Fh(0), offset, Whence::Data)
            .wait()
            .await;
        if let (Some(at), Ok(data)) = (two.iter().position(|b| *b != 0), &data) {
            assert!(*data <= offset + at as u64, "data is left out");
        }
        if data == Err(Errno::ENXIO) {
            assert!(two.iter().all(|b| *b == 0), "data is left out");
        }
    }
}
