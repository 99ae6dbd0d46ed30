//! Changes that did not come through the kernel become visible.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;
use cairnfs_fuse::kernel::{MountOptions, Notice};
use cairnfs_fuse::memfs::{Limits, MemFs};
use cairnfs_fuse::{
    Caller, Fh, FileSystem as _, FileType, Ino, Name, NewNode, OpenFlags, SetAttr, Write,
};

use crate::{LONG, Mounted, can_mount};

const ROOT: Caller = Caller::ROOT;

fn overwrite(fs: &MemFs, ino: Ino, bytes: &[u8]) {
    let cut = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(&ROOT, ino, &cut).now().unwrap();
    let write = Write {
        offset: 0,
        bytes,
        flags: OpenFlags(libc::O_WRONLY),
        is_from_cache: false,
        kill_suidgid: false,
    };
    fs.write(&ROOT, ino, Fh(0), &write).now().unwrap();
}

fn make(fs: &MemFs, name: &str) -> Ino {
    let new = NewNode {
        kind: FileType::Regular,
        perm: 0o644,
        umask: 0,
        rdev: 0,
    };
    let made = fs.mknod(&ROOT, Ino::ROOT, name.into(), &new);
    let ino = made.now().unwrap().attr.ino;
    fs.forget(ino, 1);
    ino
}

fn name(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn mounted(notices_max: usize) -> Mounted<MemFs> {
    let options = MountOptions {
        notices_max,
        ..MountOptions::default()
    };
    Mounted::with(MemFs::new(Limits::default()), options)
}

#[test]
fn new_content_shows_in_an_open_file_and_in_stat() {
    if !can_mount() {
        return;
    }
    let m = mounted(100);
    fs::write(m.path("a"), "old").unwrap();
    let file = File::open(m.path("a")).unwrap();
    let mut buffer = [0; 20];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 3);
    let ino = Ino(file.metadata().unwrap().ino());
    overwrite(&m.fs, ino, b"new and longer");
    m.mount.notifier().send(Notice::Inode(ino));
    assert!(m.mount.notifier().drain(LONG));
    assert_eq!(fs::metadata(m.path("a")).unwrap().len(), 14);
    let len = file.read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer[..len], b"new and longer");
}

#[test]
fn names_that_come_and_go_show() {
    if !can_mount() {
        return;
    }
    let m = mounted(100);
    assert!(!m.path("a").exists(), "and the kernel remembers that");
    let listed = || fs::read_dir(m.dir.path()).unwrap().count();
    assert_eq!(listed(), 0);
    let ino = make(&m.fs, "a");
    let notifier = m.mount.notifier();
    notifier.send(Notice::Entry(Ino::ROOT, name("a")));
    notifier.send(Notice::Inode(Ino::ROOT));
    assert!(notifier.drain(LONG));
    assert!(m.path("a").exists());
    assert_eq!(listed(), 1);
    m.fs.unlink(&ROOT, Ino::ROOT, Name::from("a"))
        .now()
        .unwrap();
    notifier.send(Notice::Delete(Ino::ROOT, ino, name("a")));
    notifier.send(Notice::Inode(Ino::ROOT));
    assert!(notifier.drain(LONG));
    assert!(!m.path("a").exists());
    assert_eq!(listed(), 0);
}

#[test]
fn stored_content_needs_no_read() {
    if !can_mount() {
        return;
    }
    let m = mounted(100);
    fs::write(m.path("a"), "behind").unwrap();
    let ino = Ino(fs::metadata(m.path("a")).unwrap().ino());
    // Not what the filesystem has: so it can only come from the kernel's cache.
    m.mount
        .notifier()
        .send(Notice::Store(ino, 0, name("before")));
    assert!(m.mount.notifier().drain(LONG));
    assert_eq!(fs::read(m.path("a")).unwrap(), b"before");
    m.mount.notifier().send(Notice::Inode(ino));
    assert!(m.mount.notifier().drain(LONG));
    assert_eq!(fs::read(m.path("a")).unwrap(), b"behind");
}

#[test]
fn more_notices_than_fit_invalidate_everything() {
    if !can_mount() {
        return;
    }
    const COUNT: u64 = 2000;
    let m = mounted(4);
    let names: Vec<String> = (0..COUNT).map(|i| format!("f{i}")).collect();
    let files: Vec<File> = names
        .iter()
        .take(50)
        .map(|name| {
            fs::write(m.path(name), "old").unwrap();
            File::open(m.path(name)).unwrap()
        })
        .collect();
    assert!(names[50..].iter().all(|name| !m.path(name).exists()));
    for file in &files {
        let ino = Ino(file.metadata().unwrap().ino());
        overwrite(&m.fs, ino, b"newer");
        m.mount.notifier().send(Notice::Inode(ino));
    }
    for name in &names[50..] {
        make(&m.fs, name);
        let name = Bytes::copy_from_slice(name.as_bytes());
        m.mount.notifier().send(Notice::Entry(Ino::ROOT, name));
    }
    assert!(m.mount.notifier().drain(LONG));
    for file in &files {
        let mut buffer = [0; 10];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 5);
    }
    let missing: Vec<_> = names.iter().filter(|n| !m.path(n).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn notices_from_many_threads_never_hang_requests() {
    if !can_mount() {
        return;
    }
    let m = mounted(1000);
    fs::create_dir(m.path("d")).unwrap();
    let dir = Ino(fs::metadata(m.path("d")).unwrap().ino());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..2000u32 {
                    let name = Bytes::from(format!("f{}", round % 50));
                    m.mount.notifier().send(Notice::Entry(dir, name));
                    m.mount.notifier().send(Notice::Inode(dir));
                }
            });
        }
        scope.spawn(|| {
            for round in 0..2000 {
                let path = m.path("d").join(format!("f{}", round % 50));
                fs::write(&path, "x").unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"x");
                fs::remove_file(&path).unwrap();
            }
        });
        scope.spawn(|| {
            for _ in 0..200 {
                for entry in fs::read_dir(m.path("d")).unwrap() {
                    // It may be gone by now.
                    entry.unwrap().metadata().ok();
                }
            }
        });
    });
    assert!(m.mount.notifier().drain(LONG));
    assert_eq!(fs::read_dir(m.path("d")).unwrap().count(), 0);
}
