//! Random operations on a volume and on the reference filesystem, compared after each.

use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs_fuse::{
    AllocMode, Caller, CopyRange, Errno, Fh, FileSystem, FileType, Ino, Name, NewNode, OpenFlags,
    Rename, RenameFlags, SetAttr, SetTime, Time, Whence, Write,
};

use super::twin::{Fs, RW, Twin, find, same};
use crate::support::scaled;

const NAMES: [&[u8]; 7] = [
    b"a",
    b"b",
    b"c",
    b"dir",
    b"other",
    b"\xff\xfe",
    b"a longer name, with text",
];
const XATTRS: [&[u8]; 3] = [b"user.one", b"user.two", b"trusted.three"];
const CALLERS: [Caller; 2] = [
    Caller::ROOT,
    Caller {
        uid: 1000,
        gid: 1000,
        pid: 0,
    },
];

type Path = Vec<Vec<u8>>;

/// An open file in both, by number.
#[derive(Clone, Copy)]
struct Handle {
    mem: Ino,
    vfs: Ino,
}

struct Run {
    twin: Twin,
    entropy: Entropy,
    handles: Vec<Handle>,
    log: Vec<String>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(25);
            eprintln!("the last operations:\n{}", self.log[from..].join("\n"));
        }
    }
}

impl Run {
    fn name(&self) -> Vec<u8> {
        NAMES[self.entropy.below(NAMES.len() as u64) as usize].to_vec()
    }

    fn path(&self) -> Path {
        let depth = 1 + self.entropy.below(3);
        (0..depth).map(|_| self.name()).collect()
    }

    fn bytes(&self, most: u64) -> Vec<u8> {
        let len = 1 + self.entropy.below(most);
        let mut bytes = vec![0; len as usize];
        match self.entropy.below(3) {
            0 => bytes.fill(b'x'),
            _ => self.entropy.fill(&mut bytes),
        }
        bytes
    }

    fn offset(&self) -> u64 {
        match self.entropy.below(8) {
            0 => self.entropy.below(2_000_000),
            1 => 0,
            _ => self.entropy.below(60_000),
        }
    }

    fn vfs(&self) -> &dyn Fs {
        self.twin.vfs()
    }

    fn mem(&self) -> &dyn Fs {
        &self.twin.mem
    }

    /// The files at a path in both; `None` if it is in neither.
    async fn both(&self, path: &[Vec<u8>]) -> Option<(Ino, Ino)> {
        let (mem, vfs) = (find(self.mem(), path).await, find(self.vfs(), path).await);
        if !same(&format!("look-up of {path:?}"), &mem, &vfs) {
            return None;
        }
        Some((mem.unwrap(), vfs.unwrap()))
    }

    /// Parent and name of a path.
    async fn place(&self, path: &Path) -> Option<((Ino, Ino), Vec<u8>)> {
        let (name, above) = path.split_last().unwrap();
        Some((self.both(above).await?, name.clone()))
    }

    async fn make(&mut self) {
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

    async fn remove(&mut self) {
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

    async fn rename(&mut self) {
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

    async fn link(&mut self) {
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

    async fn attributes(&mut self) {
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

    async fn xattr(&mut self) {
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

    fn handle(&self) -> Option<Handle> {
        let count = self.handles.len() as u64;
        self.handles
            .get(self.entropy.below(count.max(1)) as usize)
            .copied()
    }

    async fn open(&mut self) {
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

    async fn close(&mut self) {
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

    async fn write(&mut self) {
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

    async fn allocate(&mut self) {
        let Some(handle) = self.handle() else { return };
        let (at, len) = (self.offset(), 1 + self.entropy.below(30_000));
        let mode = [
            AllocMode::Allocate,
            AllocMode::AllocateKeepSize,
            AllocMode::PunchHole,
            AllocMode::ZeroRange,
            AllocMode::ZeroRangeKeepSize,
        ][self.entropy.below(5) as usize];
        self.log
            .push(format!("fallocate {:?} {at} {len} {mode:?}", handle.vfs));
        let one = self
            .twin
            .mem
            .fallocate(handle.mem, Fh(0), at, len, mode)
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .fallocate(handle.vfs, Fh(0), at, len, mode)
            .wait()
            .await;
        same("fallocate", &one, &two);
    }

    async fn copy(&mut self) {
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
        self.log.push(format!(
            "copy {:?} {from_offset} {:?} {to_offset} {len}",
            from.vfs, to.vfs
        ));
        let one = self
            .twin
            .mem
            .copy_file_range(&Caller::ROOT, &copy(from.mem, to.mem))
            .wait()
            .await;
        let two = self
            .twin
            .vfs()
            .copy_file_range(&Caller::ROOT, &copy(from.vfs, to.vfs))
            .wait()
            .await;
        assert_eq!(one, two, "copy_file_range");
    }

    async fn read(&mut self) {
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

    async fn compare(&self, step: u32) {
        let one = self.mem().tree(1 << 20).await.unwrap();
        let two = self.vfs().tree(step).await.unwrap();
        let (names, others): (Vec<_>, Vec<_>) = (one.keys().collect(), two.keys().collect());
        assert_eq!(names, others, "names");
        for (path, seen) in &one {
            let other = &two[path];
            if seen == other {
                continue;
            }
            let brief = |seen: &super::twin::Seen| {
                let mut seen = seen.clone();
                seen.content.truncate(16);
                seen.xattrs
                    .values_mut()
                    .for_each(|value| value.truncate(16));
                format!("{seen:?}")
            };
            let at = seen
                .content
                .iter()
                .zip(&other.content)
                .position(|(a, b)| a != b);
            panic!(
                "{path:?}: {}\nvolume: {}\ncontents differ at {at:?}",
                brief(seen),
                brief(other)
            );
        }
        for handle in &self.handles {
            let one = self.mem().content(handle.mem, 1 << 20).await.unwrap();
            let two = self.vfs().content(handle.vfs, step).await.unwrap();
            assert!(one == two, "an open file differs");
        }
    }

    async fn close_all(&mut self) {
        while !self.handles.is_empty() {
            self.close().await;
        }
    }

    async fn step(&mut self) {
        match self.entropy.below(100) {
            0..16 => self.make().await,
            16..23 => self.remove().await,
            23..31 => self.rename().await,
            31..35 => self.link().await,
            35..42 => self.attributes().await,
            42..46 => self.xattr().await,
            46..51 => self.open().await,
            51..55 => self.close().await,
            55..72 => self.write().await,
            72..77 => self.allocate().await,
            77..81 => self.copy().await,
            81..90 => self.read().await,
            90..95 => {
                let pause = self.entropy.below(4000);
                self.log.push(format!("pause {pause}"));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            95 => {
                self.log.push("sync".into());
                self.twin.vfs().sync().await.unwrap();
            }
            96 => {
                if let Some(handle) = self.handle() {
                    self.twin
                        .vfs()
                        .fsync(handle.vfs, Fh(0), false)
                        .wait()
                        .await
                        .unwrap();
                }
            }
            97 => {
                self.log.push("reopen".into());
                self.close_all().await;
                self.twin.reopen().await;
            }
            98 => {
                self.log.push("crash".into());
                // What was synced is there after a power cut; so everything is synced first.
                for handle in self.handles.clone() {
                    self.twin
                        .vfs()
                        .fsync(handle.vfs, Fh(0), false)
                        .wait()
                        .await
                        .unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1200)).await;
                self.twin
                    .vfs()
                    .fsyncdir(Ino::ROOT, Fh(0), false)
                    .wait()
                    .await
                    .unwrap();
                self.close_all().await;
                self.twin.crash().await;
            }
            _ => self.compare(1 << 16).await,
        }
    }
}

async fn run(peers: usize, seed: u64, steps: u64) {
    let twin = Twin::new(peers, seed).await;
    let mut run = Run {
        twin,
        entropy: Entropy::seeded(seed),
        handles: Vec::new(),
        log: Vec::new(),
    };
    for step in 0..steps {
        if std::env::var("CAIRN_TRACE").is_ok() {
            eprintln!("{step} {:?}", run.log.last());
        }
        run.step().await;
    }
    run.compare(9_999).await;
    run.twin.vfs().sync().await.unwrap();
    run.close_all().await;
    run.twin.reopen().await;
    run.compare(1 << 20).await;
}

fn seeds(peers: usize, first: u64, count: u64, steps: u64) {
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(run(peers, seed, steps));
        });
        if let Err(panic) = outcome {
            eprintln!("seed {seed} with {peers} peers");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Which seed to try again alone.
fn chosen() -> Option<u64> {
    std::env::var("CAIRN_SEED").ok()?.parse().ok()
}

#[test]
fn a_lone_peer_does_what_the_reference_does() {
    match chosen() {
        Some(seed) => seeds(1, seed, 1, 400),
        None => seeds(1, 0, scaled(12) as u64, 400),
    }
}

#[test]
fn six_peers_do_what_the_reference_does() {
    match chosen() {
        Some(seed) => seeds(6, seed, 1, 300),
        None => seeds(6, 1000, scaled(4) as u64, 300),
    }
}
