//! The filesystem in memory as programs see it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    symlink,
};
use std::process::Command;

use cairnfs_fuse::kernel::MountOptions;
use cairnfs_fuse::memfs::{Limits, MemFs};
use rustix::fs::{
    Advice, AtFlags, CWD, FallocateFlags, FlockOperation, RenameFlags, SeekFrom as Seek, Timespec,
    Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::{Mounted, can_mount};

fn mounted() -> Mounted<MemFs> {
    Mounted::new(MemFs::new(Limits::default()))
}

/// Makes later reads come from the filesystem.
fn uncache(file: &File) {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

#[test]
fn files_are_written_appended_truncated_and_removed() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let path = m.path("a");
    let mut file = File::create_new(&path).unwrap();
    file.write_all(b"hello").unwrap();
    let again = File::create_new(&path).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    let mut one = OpenOptions::new().append(true).open(&path).unwrap();
    let mut two = OpenOptions::new().append(true).open(&path).unwrap();
    one.write_all(b" one").unwrap();
    two.write_all(b" two").unwrap();
    one.write_all(b" three").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello one two three");
    file.set_len(7).unwrap();
    file.set_len(10).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello o\0\0\0");
    drop(OpenOptions::new().write(true).truncate(true).open(&path));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // Open files outlive their names.
    file.write_all_at(b"still", 0).unwrap();
    fs::remove_file(&path).unwrap();
    uncache(&file);
    let mut buffer = [0; 9];
    let reader = OpenOptions::new().read(true).open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file)
    ));
    let len = reader.unwrap().read_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer[..len], b"still");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn large_files_read_back_as_written() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let text: Vec<u8> = (0..9_000_001u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    fs::write(m.path("a"), &text).unwrap();
    let file = File::open(m.path("a")).unwrap();
    uncache(&file);
    assert!(fs::read(m.path("a")).unwrap() == text);
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(m.path("a"))
        .unwrap();
    let mut part = vec![0; 3 << 20];
    direct.read_exact_at(&mut part, 4096).unwrap();
    assert!(part == text[4096..][..3 << 20]);
}

#[test]
fn names_move_replace_and_swap() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    fs::create_dir_all(m.path("d/e")).unwrap();
    fs::write(m.path("a"), "a").unwrap();
    fs::write(m.path("d/b"), "b").unwrap();
    fs::rename(m.path("a"), m.path("d/b")).unwrap();
    assert_eq!(fs::read(m.path("d/b")).unwrap(), b"a");
    fs::write(m.path("a"), "new").unwrap();
    let to = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, m.path(from), CWD, m.path(to), flags)
    };
    let taken = to("a", "d/b", RenameFlags::NOREPLACE);
    assert_eq!(taken.unwrap_err(), Errno::EXIST);
    to("a", "d/e", RenameFlags::EXCHANGE).unwrap();
    assert!(m.path("a").is_dir());
    assert_eq!(fs::read(m.path("d/e")).unwrap(), b"new");
    let out = to("a", "c", RenameFlags::WHITEOUT);
    assert_eq!(out.unwrap_err(), Errno::INVAL);
    let inward = fs::rename(m.path("d"), m.path("d/x")).unwrap_err();
    assert_eq!(inward.raw_os_error(), Some(libc::EINVAL));
    fs::remove_dir(m.path("a")).unwrap();
    let full = fs::remove_dir(m.path("d")).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_dir_all(m.path("d")).unwrap();
    assert_eq!(fs::read_dir(m.dir.path()).unwrap().count(), 0);
    assert_eq!(fs::metadata(m.dir.path()).unwrap().nlink(), 2);
}

#[test]
fn links_and_special_files() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    fs::write(m.path("a"), "x").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 2);
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 1);
    symlink("b", m.path("s")).unwrap();
    assert_eq!(fs::read(m.path("s")).unwrap(), b"x");
    assert_eq!(fs::read_link(m.path("s")).unwrap().as_os_str(), "b");
    let odd = OsStr::from_bytes(b"\xff\n\x01 odd");
    fs::write(m.dir.path().join(odd), "y").unwrap();
    assert_eq!(fs::read(m.dir.path().join(odd)).unwrap(), b"y");
    let long = "n".repeat(255);
    fs::write(m.path(&long), "z").unwrap();
    let longer = fs::write(m.path(&"n".repeat(256)), "z").unwrap_err();
    assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, m.path("p"), fifo, mode, 0).unwrap();
    assert!(fs::metadata(m.path("p")).unwrap().file_type().is_fifo());
    let device = rustix::fs::makedev(259, 70_000);
    let kind = rustix::fs::FileType::BlockDevice;
    rustix::fs::mknodat(CWD, m.path("v"), kind, mode, device).unwrap();
    assert_eq!(fs::metadata(m.path("v")).unwrap().rdev(), device);
    let socket = std::os::unix::net::UnixListener::bind(m.path("u")).unwrap();
    std::os::unix::net::UnixStream::connect(m.path("u")).unwrap();
    drop(socket);
}

#[test]
fn times_modes_and_owners_are_kept() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    for (secs, nanos) in [
        (1_000_000_000, 123_456_789),
        (-2, 800_000_000),
        (1 << 34, 1),
    ] {
        let time = Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        let got = fs::metadata(&path).unwrap();
        assert_eq!((got.mtime(), got.mtime_nsec()), (secs, nanos));
        assert_eq!((got.atime(), got.atime_nsec()), (secs, nanos));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(2000)).unwrap();
    let got = fs::metadata(&path).unwrap();
    assert_eq!(
        (got.uid(), got.gid(), got.mode() & 0o7777),
        (1000, 2000, 0o755)
    );
    // No umask is applied twice or not at all.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    fs::create_dir(m.path("d")).unwrap();
    rustix::process::umask(old);
    assert_eq!(fs::metadata(m.path("d")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn permissions_and_access_control_lists_are_enforced() {
    if !can_mount() {
        return;
    }
    let options = MountOptions {
        allow_other: true,
        ..MountOptions::default()
    };
    let m = Mounted::with(MemFs::new(Limits::default()), options);
    fs::set_permissions(m.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(m.path("a"), "secret").unwrap();
    fs::set_permissions(m.path("a"), Permissions::from_mode(0o600)).unwrap();
    let may_read = || {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("cat");
        let output = command.arg(m.path("a")).uid(65_534).gid(65_534).output();
        output.unwrap().status.success()
    };
    assert!(!may_read());
    // Owner rw, user 65534 r, group none, mask r, others none.
    let items: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 65_534),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in items {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_access";
    rustix::fs::setxattr(m.path("a"), name, &acl, XattrFlags::empty()).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().mode() & 0o777, 0o640);
    assert!(may_read());
    fs::set_permissions(m.path("a"), Permissions::from_mode(0o600)).unwrap();
    assert!(!may_read(), "chmod lowers the mask");
}

#[test]
fn extended_attributes_are_kept() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    set("user.a", b"one", XattrFlags::CREATE).unwrap();
    let twice = set("user.a", b"two", XattrFlags::CREATE);
    assert_eq!(twice.unwrap_err(), Errno::EXIST);
    set("trusted.b", &[7; 60_000], XattrFlags::empty()).unwrap();
    let mut buffer = vec![0; 70_000];
    let len = rustix::fs::getxattr(&path, "user.a", &mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"one");
    let mut short = [0u8; 2];
    let small = rustix::fs::getxattr(&path, "user.a", &mut short[..]);
    assert_eq!(small.unwrap_err(), Errno::RANGE);
    let len = rustix::fs::listxattr(&path, &mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"trusted.b\0user.a\0");
    rustix::fs::removexattr(&path, "user.a").unwrap();
    let gone = rustix::fs::getxattr(&path, "user.a", &mut buffer);
    assert_eq!(gone.unwrap_err(), Errno::NODATA);
}

#[test]
fn holes_are_made_found_and_filled() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(m.path("a"))
        .unwrap();
    let far = (1u64 << 62) + 12_288;
    file.write_all_at(&[1; 4096], far).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 8);
    assert_eq!(rustix::fs::seek(&file, Seek::Data(0)), Ok(far));
    assert_eq!(rustix::fs::seek(&file, Seek::Hole(far)), Ok(far + 4096));
    let past = rustix::fs::seek(&file, Seek::Data(far + 4096));
    assert_eq!(past, Err(Errno::NXIO));
    // The last byte there can be.
    file.write_all_at(b"x", i64::MAX as u64 - 1).unwrap();
    assert_eq!(file.metadata().unwrap().len(), i64::MAX as u64);
    file.set_len(0).unwrap();
    file.write_all_at(&[7; 20_000], 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 4096, 8192).unwrap();
    assert_eq!(rustix::fs::seek(&file, Seek::Hole(0)), Ok(4096));
    assert_eq!(rustix::fs::seek(&file, Seek::Data(4096)), Ok(12_288));
    let zero = FallocateFlags::ZERO_RANGE;
    rustix::fs::fallocate(&file, zero, 19_000, 5_000).unwrap();
    let all = fs::read(m.path("a")).unwrap();
    assert_eq!(all.len(), 24_000);
    let expected = |at: usize| !(4096..12_288).contains(&at) && at < 19_000;
    assert!(
        all.iter()
            .enumerate()
            .all(|(at, b)| (*b == 7) == expected(at))
    );
    let other = FallocateFlags::COLLAPSE_RANGE;
    let refused = rustix::fs::fallocate(&file, other, 0, 4096);
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
}

#[test]
fn copies_within_the_mount_need_no_bytes_of_the_caller() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let text: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(m.path("a"), &text).unwrap();
    let from = File::open(m.path("a")).unwrap();
    let to = File::create_new(m.path("b")).unwrap();
    let (mut at, mut into) = (5, 0);
    let len = text.len();
    let copied =
        rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut into), len).unwrap();
    assert_eq!((copied, into), (len - 5, len as u64 - 5));
    assert!(fs::read(m.path("b")).unwrap() == text[5..]);
}

#[test]
#[allow(unsafe_code)]
fn mappings_share_what_is_written() {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    const LEN: usize = 40_000;
    if !can_mount() {
        return;
    }
    let m = mounted();
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(m.path("a"))
        .unwrap();
    file.write_all_at(&[1; LEN], 0).unwrap();
    let both = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the mappings are as long as the file, which nothing shortens, and used by this
    // thread only, until they are removed.
    unsafe {
        let null = std::ptr::null_mut();
        let shared = mmap(null, LEN, both, MapFlags::SHARED, &file, 0).unwrap();
        let private = mmap(null, LEN, both, MapFlags::PRIVATE, &file, 0).unwrap();
        let (own, all) = (private.cast::<u8>(), shared.cast::<u8>());
        own.add(9_999).write(3);
        all.add(20_000).write(2);
        assert_eq!((all.add(9_999).read(), own.add(9_999).read()), (1, 3));
        msync(shared, LEN, MsyncFlags::SYNC).unwrap();
        // What a write brings shows in the mapping.
        file.write_all_at(&[5], 30_000).unwrap();
        assert_eq!(all.add(30_000).read(), 5);
        munmap(private, LEN).unwrap();
        munmap(shared, LEN).unwrap();
    }
    uncache(&file);
    let got = fs::read(m.path("a")).unwrap();
    assert_eq!((got[9_999], got[20_000], got[30_000]), (1, 2, 5));
}

/// Run by the test below as a process of its own.
#[test]
fn helper_that_tries_locks() {
    let Some(path) = std::env::var_os("CAIRN_LOCK_FILE") else {
        return;
    };
    let file = File::options().read(true).write(true).open(path).unwrap();
    let lock = FlockOperation::NonBlockingLockExclusive;
    let of_range = rustix::fs::fcntl_lock(&file, lock).is_ok();
    let of_file = rustix::fs::flock(&file, lock).is_ok();
    println!("locks: {of_range} {of_file}");
}

#[test]
fn locks_hold_between_processes() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let file = File::create_new(m.path("a")).unwrap();
    let tries = || {
        let mut helper = Command::new(std::env::current_exe().unwrap());
        helper.args(["--exact", "posix::helper_that_tries_locks", "--nocapture"]);
        let output = helper.env("CAIRN_LOCK_FILE", m.path("a")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("locks: "));
        line.unwrap().1.to_owned()
    };
    assert_eq!(tries(), "true true");
    let lock = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&file, lock).unwrap();
    assert_eq!(tries(), "false true");
    rustix::fs::flock(&file, lock).unwrap();
    assert_eq!(tries(), "false false");
    drop(file);
    assert_eq!(tries(), "true true");
}

#[test]
fn ten_thousand_entries_are_listed_while_others_go() {
    const COUNT: usize = 10_000;
    if !can_mount() {
        return;
    }
    let m = mounted();
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    for index in 0..COUNT {
        File::create_new(dir.join(format!("f{index}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (at, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        assert!(seen.insert(name.clone()), "{name:?} twice");
        // Some that were listed go, and some that are to come.
        if at % 3 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
        if at < 100 {
            fs::remove_file(dir.join(format!("f{}", COUNT - 1 - at))).unwrap();
        }
    }
    for index in 0..COUNT - 100 {
        let name = format!("f{index}");
        assert!(
            seen.contains(OsStr::new(&name)),
            "{name} was never removed before it was due"
        );
    }
    // While another process removes all.
    let mut removing = Command::new("rm").arg("-rf").arg(&dir).spawn().unwrap();
    while let Ok(entries) = fs::read_dir(&dir) {
        for entry in entries {
            drop(entry);
        }
    }
    assert!(removing.wait().unwrap().success());
    assert_eq!(fs::read_dir(m.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_filesystem_says_so() {
    if !can_mount() {
        return;
    }
    let limits = Limits {
        bytes: 1 << 20,
        files: 10,
    };
    let m = Mounted::new(MemFs::new(limits));
    let full = fs::write(m.path("a"), vec![1; 2 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    fs::remove_file(m.path("a")).unwrap();
    // The room is free when the kernel has forgotten the file, which it says in its own time: until
    // then somebody could still open it through a descriptor.
    let end = std::time::Instant::now() + crate::LONG;
    while let Err(error) = fs::write(m.path("b"), vec![1; 1 << 20]) {
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(std::time::Instant::now() < end, "the room stays taken");
    }
    let stat = rustix::fs::statvfs(m.dir.path()).unwrap();
    assert_eq!((stat.f_bfree, stat.f_namemax), (0, 255));
    let many =
        (0..10).try_for_each(|index| File::create_new(m.path(&format!("x{index}"))).map(drop));
    assert_eq!(many.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn files_are_no_terminals() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let file = File::create_new(m.path("a")).unwrap();
    assert!(!rustix::termios::isatty(&file));
    let window = rustix::termios::tcgetwinsize(&file);
    assert_eq!(window.unwrap_err(), Errno::NOTTY);
}

#[test]
fn a_running_program_is_not_emptied() {
    if !can_mount() {
        return;
    }
    let m = mounted();
    let program = m.path("program");
    // It runs until its input ends.
    fs::copy("/bin/cat", &program).unwrap();
    let len = fs::metadata(&program).unwrap().len();
    let mut running = Command::new(&program)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for flags in [libc::O_RDONLY | libc::O_TRUNC, libc::O_WRONLY] {
        let flags = rustix::fs::OFlags::from_bits_retain(flags as u32);
        let mode = rustix::fs::Mode::empty();
        let refused = rustix::fs::open(&program, flags, mode);
        assert_eq!(refused.unwrap_err(), Errno::TXTBSY);
    }
    assert_eq!(fs::metadata(&program).unwrap().len(), len);
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}
