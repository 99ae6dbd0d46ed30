//! The filesystem in memory through the trait, as the kernel would use it.

use std::collections::BTreeSet;

use super::*;
use crate::{AllocMode, LockRequest, RenameFlags, SetTime, Time};

const ROOT: Caller = Caller::ROOT;
const ALICE: Caller = Caller {
    uid: 1000,
    gid: 1000,
    pid: 0,
};
const BOB: Caller = Caller {
    uid: 1001,
    gid: 1001,
    pid: 0,
};
const RW: OpenFlags = OpenFlags(libc::O_RDWR);

fn fs() -> MemFs {
    MemFs::new(Limits {
        bytes: 4 << 20,
        files: 20_000,
    })
}

fn node(kind: FileType, perm: u32) -> NewNode {
    NewNode {
        kind,
        perm,
        umask: 0o022,
        rdev: 0,
    }
}

fn file_of(fs: &MemFs, caller: &Caller, parent: Ino, name: &str, perm: u32) -> Ino {
    let new = node(FileType::Regular, perm);
    let flags = OpenFlags(libc::O_RDWR | libc::O_EXCL);
    let made = fs.create(caller, parent, name.into(), &new, flags);
    made.now().unwrap().0.attr.ino
}

fn file(fs: &MemFs, parent: Ino, name: &str) -> Ino {
    file_of(fs, &ROOT, parent, name, 0o644)
}

fn dir(fs: &MemFs, parent: Ino, name: &str) -> Ino {
    let new = node(FileType::Directory, 0o755);
    let made = fs.mkdir(&ROOT, parent, name.into(), &new);
    made.now().unwrap().attr.ino
}

fn attr(fs: &MemFs, ino: Ino) -> crate::Attr {
    fs.getattr(&ROOT, ino, None).now().unwrap().attr
}

fn write(fs: &MemFs, ino: Ino, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
    write_as(fs, ino, offset, bytes, false)
}

fn write_as(fs: &MemFs, ino: Ino, offset: u64, bytes: &[u8], kill: bool) -> Result<u32, Errno> {
    let write = Write {
        offset,
        bytes,
        flags: RW,
        is_from_cache: false,
        kill_suidgid: kill,
    };
    fs.write(&ROOT, ino, Fh(0), &write).now()
}

fn read(fs: &MemFs, ino: Ino, offset: u64, len: u32) -> Vec<u8> {
    let data = fs.read(ino, Fh(0), offset, len, RW);
    data.now().unwrap().to_vec()
}

fn find(fs: &MemFs, parent: Ino, name: &str) -> Option<Ino> {
    match fs.lookup(&ROOT, parent, name.into()).now().unwrap() {
        Lookup::Found(entry) => Some(entry.attr.ino),
        Lookup::Absent(_) => None,
    }
}

fn rename(
    fs: &MemFs,
    caller: &Caller,
    from: (Ino, &str),
    to: (Ino, &str),
    flags: RenameFlags,
) -> Result<(), Errno> {
    let rename = Rename {
        parent: from.0,
        name: from.1.into(),
        new_parent: to.0,
        new_name: to.1.into(),
        flags,
    };
    fs.rename(caller, &rename).now()
}

const REPLACE: RenameFlags = RenameFlags::Replace;

#[test]
fn an_unlinked_file_lives_while_it_is_open_or_known() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    write(&fs, ino, 0, b"here").unwrap();
    fs.unlink(&ROOT, Ino::ROOT, "a".into()).now().unwrap();
    assert_eq!(find(&fs, Ino::ROOT, "a"), None);
    assert_eq!(attr(&fs, ino).nlink, 0);
    fs.forget(ino, 1);
    assert_eq!(read(&fs, ino, 0, 10), b"here");
    let gone = fs.link(&ROOT, ino, Ino::ROOT, "b".into()).now();
    assert_eq!(gone.unwrap_err(), Errno::ENOENT);
    let used = |fs: &MemFs| {
        let stat = fs.statfs(Ino::ROOT).now().unwrap();
        (stat.blocks - stat.blocks_free, stat.files - stat.files_free)
    };
    assert_eq!(used(&fs), (1, 2));
    fs.release(ino, Fh(0), RW).now().unwrap();
    assert_eq!(used(&fs), (0, 1), "its room is free again");
    let stale = fs.getattr(&ROOT, ino, None).now();
    assert_eq!(stale.unwrap_err(), Errno::ESTALE);
}

#[test]
fn hard_links_are_one_file() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let sub = dir(&fs, Ino::ROOT, "d");
    fs.link(&ROOT, ino, sub, "b".into()).now().unwrap();
    write(&fs, ino, 0, b"x").unwrap();
    assert_eq!(find(&fs, sub, "b"), Some(ino));
    assert_eq!(attr(&fs, ino).nlink, 2);
    // Renaming one of two names over the other does nothing.
    rename(&fs, &ROOT, (Ino::ROOT, "a"), (sub, "b"), REPLACE).unwrap();
    assert_eq!(find(&fs, Ino::ROOT, "a"), Some(ino));
    let to_dir = fs.link(&ROOT, sub, Ino::ROOT, "e".into()).now();
    assert_eq!(to_dir.unwrap_err(), Errno::EPERM);
}

#[test]
fn a_rename_replaces_refuses_or_exchanges() {
    let fs = fs();
    let (a, b) = (file(&fs, Ino::ROOT, "a"), file(&fs, Ino::ROOT, "b"));
    let (d, e) = (dir(&fs, Ino::ROOT, "d"), dir(&fs, Ino::ROOT, "e"));
    let in_e = file(&fs, e, "f");
    let go =
        |from: &str, to: &str, flags| rename(&fs, &ROOT, (Ino::ROOT, from), (Ino::ROOT, to), flags);
    assert_eq!(go("a", "b", RenameFlags::NoReplace), Err(Errno::EEXIST));
    assert_eq!(go("a", "x", RenameFlags::Exchange), Err(Errno::ENOENT));
    assert_eq!(go("x", "a", REPLACE), Err(Errno::ENOENT));
    assert_eq!(go("a", "d", REPLACE), Err(Errno::EISDIR));
    assert_eq!(go("d", "a", REPLACE), Err(Errno::ENOTDIR));
    assert_eq!(go("d", "e", REPLACE), Err(Errno::ENOTEMPTY));
    go("a", "b", RenameFlags::Exchange).unwrap();
    assert_eq!(find(&fs, Ino::ROOT, "a"), Some(b));
    assert_eq!(find(&fs, Ino::ROOT, "b"), Some(a));
    // A directory for a file, across directories: links of the parents follow.
    assert_eq!(attr(&fs, Ino::ROOT).nlink, 4);
    rename(
        &fs,
        &ROOT,
        (Ino::ROOT, "d"),
        (e, "f"),
        RenameFlags::Exchange,
    )
    .unwrap();
    assert_eq!(find(&fs, e, "f"), Some(d));
    assert_eq!(find(&fs, Ino::ROOT, "d"), Some(in_e));
    assert_eq!((attr(&fs, Ino::ROOT).nlink, attr(&fs, e).nlink), (3, 3));
    go("b", "a", REPLACE).unwrap();
    assert_eq!(find(&fs, Ino::ROOT, "a"), Some(a));
    assert_eq!(attr(&fs, b).nlink, 0);
}

#[test]
fn a_directory_never_comes_to_lie_in_itself() {
    let fs = fs();
    let a = dir(&fs, Ino::ROOT, "a");
    let b = dir(&fs, a, "b");
    let c = dir(&fs, b, "c");
    for flags in [REPLACE, RenameFlags::NoReplace] {
        let into = rename(&fs, &ROOT, (Ino::ROOT, "a"), (c, "x"), flags);
        assert_eq!(into, Err(Errno::EINVAL));
    }
    let swap = RenameFlags::Exchange;
    let with_below = rename(&fs, &ROOT, (Ino::ROOT, "a"), (b, "c"), swap);
    assert_eq!(with_below, Err(Errno::EINVAL));
    let with_above = rename(&fs, &ROOT, (b, "c"), (Ino::ROOT, "a"), swap);
    assert_eq!(with_above, Err(Errno::EINVAL));
    // Out of it is fine, and `..` follows.
    rename(&fs, &ROOT, (b, "c"), (Ino::ROOT, "c"), REPLACE).unwrap();
    let batch = fs.readdir(c, Fh(0), 0, DirBatch::new(4096, false));
    let batch = batch.now().unwrap();
    let dots: Vec<Ino> = batch.items().map(|item| item.ino).collect();
    assert_eq!(dots, [c, Ino::ROOT]);
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let fs = fs();
    let shared = node(FileType::Directory, 0o1777);
    let shared = NewNode { umask: 0, ..shared };
    let made = fs.mkdir(&ROOT, Ino::ROOT, "t".into(), &shared);
    let tmp = made.now().unwrap().attr.ino;
    file_of(&fs, &ALICE, tmp, "a", 0o666);
    file_of(&fs, &BOB, tmp, "b", 0o666);
    let denied = Err(Errno::EPERM);
    assert_eq!(fs.unlink(&BOB, tmp, "a".into()).now(), denied);
    assert_eq!(rename(&fs, &BOB, (tmp, "a"), (tmp, "c"), REPLACE), denied);
    assert_eq!(rename(&fs, &BOB, (tmp, "b"), (tmp, "a"), REPLACE), denied);
    assert_eq!(fs.unlink(&ALICE, tmp, "a".into()).now(), Ok(()));
    assert_eq!(fs.unlink(&ROOT, tmp, "b".into()).now(), Ok(()));
}

#[test]
fn setuid_does_not_outlive_a_change_by_others() {
    let fs = fs();
    let ino = file_of(&fs, &ALICE, Ino::ROOT, "a", 0o6755);
    let set = |mode| {
        let change = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        fs.setattr(&ALICE, ino, &change).now().unwrap();
    };
    let perm = || attr(&fs, ino).perm;
    let cap = Name::from("security.capability");
    let sets_cap = || fs.setxattr(&ROOT, ino, cap, b"c", 0).now().unwrap();
    let has_cap = || fs.getxattr(&ROOT, ino, cap).now().is_ok();
    sets_cap();
    write(&fs, ino, 0, b"x").unwrap();
    assert_eq!((perm(), has_cap()), (0o6755, false), "written by root");
    write_as(&fs, ino, 0, b"x", true).unwrap();
    assert_eq!(perm(), 0o755);
    set(0o6745);
    let cut = SetAttr {
        size: Some(0),
        kill_suidgid: true,
        ..SetAttr::default()
    };
    fs.setattr(&BOB, ino, &cut).now().unwrap();
    assert_eq!(perm(), 0o2745, "no group-execute: setgid is no program's");
    set(0o6755);
    sets_cap();
    fs.setattr(&ROOT, ino, &SetAttr::default()).now().unwrap();
    assert_eq!((perm(), has_cap()), (0o755, false), "chown to the same");
    set(0o6755);
    let trunc = OpenFlags(libc::O_WRONLY | libc::O_TRUNC);
    fs.open(&BOB, ino, trunc).now().unwrap();
    assert_eq!(perm(), 0o755);
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let fs = fs();
    let top = dir(&fs, Ino::ROOT, "d");
    let change = SetAttr {
        mode: Some(0o2777),
        gid: Some(77),
        ..SetAttr::default()
    };
    fs.setattr(&ROOT, top, &change).now().unwrap();
    let inner = attr(&fs, dir(&fs, top, "e"));
    assert_eq!((inner.gid, inner.perm), (77, 0o2755));
    let inner = attr(&fs, file_of(&fs, &ALICE, top, "f", 0o644));
    assert_eq!((inner.uid, inner.gid, inner.perm), (1000, 77, 0o644));
}

#[test]
fn times_keep_nanoseconds_also_before_1970() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let (old, new) = (
        Time {
            secs: -5,
            nanos: 999_999_999,
        },
        Time {
            secs: 5_000_000_000,
            nanos: 1,
        },
    );
    let change = SetAttr {
        atime: Some(SetTime::At(old)),
        mtime: Some(SetTime::At(new)),
        ..SetAttr::default()
    };
    let before = attr(&fs, ino).ctime;
    let got = fs.setattr(&ROOT, ino, &change).now().unwrap().attr;
    assert_eq!((got.atime, got.mtime), (old, new));
    assert!(got.ctime > before);
    write(&fs, ino, 0, b"x").unwrap();
    assert!(attr(&fs, ino).mtime < new, "now");
    read(&fs, ino, 0, 1);
    assert!(attr(&fs, ino).atime > old, "older than the change");
}

#[test]
fn files_are_sparse_and_end_where_the_kernel_ends() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let last = i64::MAX as u64;
    write(&fs, ino, last - 1, b"z").unwrap();
    assert_eq!((attr(&fs, ino).size, attr(&fs, ino).blocks), (last, 8));
    assert_eq!(write(&fs, ino, last, b"z"), Err(Errno::EFBIG));
    let too_long = SetAttr {
        size: Some(last + 1),
        ..SetAttr::default()
    };
    let refused = fs.setattr(&ROOT, ino, &too_long).now();
    assert_eq!(refused.unwrap_err(), Errno::EFBIG);
    assert_eq!(read(&fs, ino, last - 3, 100), [0, 0, b'z']);
    let seek = |at, whence| fs.lseek(ino, Fh(0), at, whence).now();
    let block = last / BLOCK_BYTES * BLOCK_BYTES;
    assert_eq!(seek(0, Whence::Data), Ok(block));
    assert_eq!(seek(0, Whence::Hole), Ok(0));
    assert_eq!(seek(block, Whence::Hole), Ok(last));
    assert_eq!(seek(last, Whence::Data), Err(Errno::ENXIO));
}

#[test]
fn fallocate_makes_room_holes_and_zeros() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let alloc = |at, len, mode| fs.fallocate(&Caller::ROOT, ino, Fh(0), at, len, mode).now();
    let shape = || (attr(&fs, ino).size, attr(&fs, ino).blocks / 8);
    alloc(0, 10_000, AllocMode::Allocate).unwrap();
    assert_eq!(shape(), (10_000, 3));
    alloc(0, 20_000, AllocMode::AllocateKeepSize).unwrap();
    assert_eq!(shape(), (10_000, 5));
    write(&fs, ino, 0, &[7; 10_000]).unwrap();
    alloc(100, 8_092, AllocMode::PunchHole).unwrap();
    assert_eq!(shape(), (10_000, 4), "whole blocks only");
    assert_eq!(read(&fs, ino, 99, 3), [7, 0, 0]);
    assert_eq!(read(&fs, ino, 8_191, 2), [0, 7]);
    alloc(9_000, 2_000, AllocMode::ZeroRange).unwrap();
    assert_eq!(shape().0, 11_000);
    assert_eq!(read(&fs, ino, 8_999, 2), [7, 0]);
    alloc(10_000, 9_000, AllocMode::ZeroRangeKeepSize).unwrap();
    assert_eq!(shape().0, 11_000);
    assert_eq!(alloc(0, 0, AllocMode::Allocate), Err(Errno::EINVAL));
    let far = i64::MAX as u64;
    assert_eq!(alloc(far, 1, AllocMode::Allocate), Err(Errno::EFBIG));
    assert_eq!(alloc(0, far, AllocMode::Allocate), Err(Errno::ENOSPC));
    let cut = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    fs.setattr(&ROOT, ino, &cut).now().unwrap();
    assert_eq!(shape(), (0, 0));
}

#[test]
fn a_full_filesystem_refuses_and_goes_on() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let other = file(&fs, Ino::ROOT, "b");
    write(&fs, ino, 0, &vec![1; 4 << 20]).unwrap();
    assert_eq!(write(&fs, other, 0, b"x"), Err(Errno::ENOSPC));
    write(&fs, ino, 5, b"overwriting takes nothing").unwrap();
    let alloc = fs.fallocate(&Caller::ROOT, ino, Fh(0), 0, 4096, AllocMode::PunchHole);
    alloc.now().unwrap();
    write(&fs, other, 0, b"x").unwrap();
    assert_eq!(fs.statfs(Ino::ROOT).now().unwrap().blocks_free, 0);
}

#[test]
fn copies_stay_within_the_source_and_never_overlap() {
    let fs = fs();
    let (a, b) = (file(&fs, Ino::ROOT, "a"), file(&fs, Ino::ROOT, "b"));
    let text: Vec<u8> = (0..1_500_000u32).map(|i| (i % 251) as u8).collect();
    write(&fs, a, 0, &text).unwrap();
    let copy = |from: Ino, from_offset, to: Ino, to_offset, len| {
        let copy = CopyRange {
            from: (from, Fh(0)),
            from_offset,
            to: (to, Fh(0)),
            to_offset,
            len,
        };
        fs.copy_file_range(&ROOT, &copy).now()
    };
    assert_eq!(copy(a, 100, b, 7, u64::MAX), Ok(1_499_900));
    assert_eq!(read(&fs, b, 7, 2 << 20), text[100..]);
    assert_eq!(copy(a, 0, a, 10, 11), Err(Errno::EINVAL));
    assert_eq!(copy(a, 0, a, 10, 10), Ok(10));
    assert_eq!(copy(a, 1_500_000, b, 0, 5), Ok(0));
}

#[test]
fn attributes_are_made_replaced_listed_and_removed() {
    let fs = fs();
    let ino = file(&fs, Ino::ROOT, "a");
    let set = |name: &str, flags| fs.setxattr(&ROOT, ino, name.into(), b"v", flags).now();
    assert_eq!(set("user.a", libc::XATTR_REPLACE), Err(Errno::ENODATA));
    set("user.a", libc::XATTR_CREATE).unwrap();
    assert_eq!(set("user.a", libc::XATTR_CREATE), Err(Errno::EEXIST));
    set("trusted.b", 0).unwrap();
    assert_eq!(set("other.a", 0), Err(Errno::ENOTSUP));
    let list = |caller: &Caller| fs.listxattr(caller, ino).now().unwrap();
    assert_eq!(&list(&ROOT)[..], b"trusted.b\0user.a\0");
    assert_eq!(&list(&ALICE)[..], b"user.a\0");
    let big = vec![0; VALUE_BYTES_PLUS];
    let refused = fs.setxattr(&ROOT, ino, "user.big".into(), &big, 0);
    assert_eq!(refused.now(), Err(Errno::E2BIG));
    let remove = || fs.removexattr(&ROOT, ino, "user.a".into()).now();
    assert_eq!((remove(), remove()), (Ok(()), Err(Errno::ENODATA)));
}

const VALUE_BYTES_PLUS: usize = 64 * 1024 + 1;

#[test]
fn listings_go_on_where_they_stopped_while_entries_come_and_go() {
    const COUNT: usize = 10_000;
    let fs = fs();
    let names: Vec<String> = (0..COUNT).map(|i| format!("f{i}")).collect();
    for name in &names {
        file(&fs, Ino::ROOT, name);
    }
    let mut seen = BTreeSet::new();
    let mut removed = BTreeSet::new();
    let mut offset = 0;
    let mut round = 0;
    loop {
        let batch = fs.readdir(Ino::ROOT, Fh(0), offset, DirBatch::new(4096, true));
        let batch = batch.now().unwrap();
        for item in batch.items() {
            let name = String::from_utf8(item.name.to_vec()).unwrap();
            assert!(seen.insert(name), "shown twice");
            offset = item.next_offset;
        }
        if batch.is_empty() {
            break;
        }
        // Some that were shown go, some that were not, and others come.
        for index in [round * 3, COUNT - 1 - round] {
            let Some(name) = names.get(index) else {
                continue;
            };
            let gone = fs.unlink(&ROOT, Ino::ROOT, name.as_str().into());
            if gone.now().is_ok() {
                removed.insert(name.clone());
            }
        }
        // Not for ever, or the listing would never end.
        if round < 100 {
            file(&fs, Ino::ROOT, &format!("new{round}"));
        }
        round += 1;
        assert!(round < COUNT, "it ends");
    }
    assert!(removed.len() > 100);
    for name in &names {
        assert!(seen.contains(name) || removed.contains(name), "{name}");
    }
}

#[test]
fn names_are_any_bytes_and_255_of_them() {
    let fs = fs();
    let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let new = node(FileType::Fifo, 0o644);
    let make = |name: &[u8]| fs.mknod(&ROOT, Ino::ROOT, Name::new(name), &new).now();
    make(&all).unwrap();
    assert_eq!(make(&[b'x'; 256]).unwrap_err(), Errno::ENAMETOOLONG);
    let looked = fs.lookup(&ROOT, Ino::ROOT, Name::new(&[b'x'; 256]));
    assert_eq!(looked.now(), Err(Errno::ENAMETOOLONG));
    assert_eq!(make(&all).unwrap_err(), Errno::EEXIST);
}

#[test]
fn a_removed_directory_takes_no_new_names() {
    let fs = fs();
    let d = dir(&fs, Ino::ROOT, "d");
    file(&fs, d, "f");
    let remove = || fs.rmdir(&ROOT, Ino::ROOT, "d".into()).now();
    assert_eq!(remove(), Err(Errno::ENOTEMPTY));
    fs.unlink(&ROOT, d, "f".into()).now().unwrap();
    remove().unwrap();
    let new = node(FileType::Regular, 0o644);
    let refused = fs.mknod(&ROOT, d, "g".into(), &new).now();
    assert_eq!(refused.unwrap_err(), Errno::ENOENT);
    assert_eq!(attr(&fs, Ino::ROOT).nlink, 2);
}

#[test]
fn locks_are_left_to_the_kernel() {
    let fs = fs();
    assert!(!fs.features().distributed_locks);
    let range = crate::LockRange {
        start: 0,
        end: 1,
        kind: crate::LockKind::Read,
        pid: 1,
    };
    let lock = LockRequest {
        ino: Ino::ROOT,
        fh: Fh(0),
        owner: 0,
        range,
        waits: false,
    };
    assert_eq!(fs.setlk(&lock).now(), Err(Errno::ENOSYS));
}
