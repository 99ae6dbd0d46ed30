//! Times, modes, owners, extended attributes, room.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{create, uncache};
use crate::mounted::Mounted;

fn set_times(path: &Path, accessed: (i64, i64), modified: (i64, i64)) {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// mtime and ctime.
fn times(path: &Path) -> [(i64, i64); 2] {
    let got = fs::symlink_metadata(path).unwrap();
    [
        (got.mtime(), got.mtime_nsec()),
        (got.ctime(), got.ctime_nsec()),
    ]
}

fn atime(path: &Path) -> (i64, i64) {
    let got = fs::metadata(path).unwrap();
    (got.atime(), got.atime_nsec())
}

/// Longer than any clock's step.
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "x").unwrap();
    fs::create_dir(m.path("d")).unwrap();
    symlink("a", m.path("s")).unwrap();
    for name in ["a", "d", "s"] {
        for time in [
            (1_000_000_000, 123_456_789),
            (0, 0),
            (-2, 800_000_000),
            (1 << 34, 1),
        ] {
            let path = m.path(name);
            set_times(&path, time, (time.0 + 1, time.1));
            let got = fs::symlink_metadata(&path).unwrap();
            assert_eq!((got.atime(), got.atime_nsec()), time, "{name}");
            assert_eq!((got.mtime(), got.mtime_nsec()), (time.0 + 1, time.1));
        }
    }
}

#[test]
fn changes_of_content_set_both_times() {
    let Some(m) = Mounted::new() else { return };
    let (path, file) = (m.path("a"), create(&m.path("a")));
    let mut before = times(&path);
    let mut changed = |what: &str| {
        let now = times(&path);
        assert!(now[0] > before[0] && now[1] > before[1], "{what}");
        before = now;
        pause();
    };
    pause();
    file.write_all_at(b"x", 0).unwrap();
    changed("write");
    file.set_len(100).unwrap();
    changed("truncate");
    drop(
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path),
    );
    changed("open to truncate");
}

#[test]
fn changes_of_attributes_set_the_change_time_alone() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let mut before = times(&path);
    let mut changed = |what: &str| {
        let now = times(&path);
        assert!(now[0] == before[0] && now[1] > before[1], "{what}");
        before = now;
        pause();
    };
    pause();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    changed("chmod");
    std::os::unix::fs::chown(&path, Some(1), Some(1)).unwrap();
    changed("chown");
    fs::hard_link(&path, m.path("b")).unwrap();
    changed("link");
    rustix::fs::setxattr(&path, "user.a", b"x", XattrFlags::empty()).unwrap();
    changed("setxattr");
    fs::remove_file(m.path("b")).unwrap();
    changed("unlink");
    fs::rename(&path, m.path("c")).unwrap();
    fs::rename(m.path("c"), &path).unwrap();
    changed("rename");
}

#[test]
fn changes_of_names_set_the_times_of_directories() {
    let Some(m) = Mounted::new() else { return };
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    let mut before = times(&dir);
    let mut changed = |what: &str| {
        let now = times(&dir);
        assert!(now[0] > before[0] && now[1] > before[1], "{what}");
        before = now;
        pause();
    };
    pause();
    fs::write(dir.join("a"), "").unwrap();
    changed("create");
    fs::rename(dir.join("a"), dir.join("b")).unwrap();
    changed("rename");
    fs::hard_link(dir.join("b"), dir.join("c")).unwrap();
    changed("link");
    fs::remove_file(dir.join("b")).unwrap();
    changed("unlink");
    symlink("x", dir.join("s")).unwrap();
    changed("symlink");
    fs::create_dir(dir.join("e")).unwrap();
    changed("mkdir");
    fs::remove_dir(dir.join("e")).unwrap();
    changed("rmdir");
}

#[test]
fn reading_is_not_noted() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let then = (1_000_000_000, 7);
    set_times(&path, then, (1_100_000_000, 0));
    uncache(&File::open(&path).unwrap());
    fs::read(&path).unwrap();
    // The kernel asks for the time anew once it knows of another change.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(atime(&path), then);
}

#[test]
fn modes_and_owners_are_kept() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    for mode in [0o0, 0o644, 0o4711, 0o2755, 0o1777, 0o7777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    std::os::unix::fs::chown(&path, Some(4_000_000_000), Some(3_000_000_000)).unwrap();
    let got = fs::metadata(&path).unwrap();
    assert_eq!((got.uid(), got.gid()), (4_000_000_000, 3_000_000_000));
    // The umask applies once.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    fs::create_dir(m.path("d")).unwrap();
    rustix::process::umask(old);
    assert_eq!(fs::metadata(m.path("d")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn extended_attributes_are_kept() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("a");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let mut buffer = vec![0; 70_000];
    set("user.a", b"one", XattrFlags::CREATE).unwrap();
    set("user.empty", b"", XattrFlags::empty()).unwrap();
    set("trusted.b", &[7; 60_000], XattrFlags::empty()).unwrap();
    set("security.c", b"c", XattrFlags::empty()).unwrap();
    let twice = set("user.a", b"two", XattrFlags::CREATE);
    assert_eq!(twice, Err(Errno::EXIST));
    let absent = set("user.x", b"two", XattrFlags::REPLACE);
    assert_eq!(absent, Err(Errno::NODATA));
    let len = rustix::fs::getxattr(&path, "user.a", &mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"one");
    let len = rustix::fs::getxattr(&path, "trusted.b", &mut buffer).unwrap();
    assert_eq!(buffer[..len], [7; 60_000]);
    assert_eq!(
        rustix::fs::getxattr(&path, "user.empty", &mut buffer),
        Ok(0)
    );
    let small = rustix::fs::getxattr(&path, "user.a", &mut [0_u8; 2][..]);
    assert_eq!(small, Err(Errno::RANGE));
    let len = rustix::fs::listxattr(&path, &mut buffer).unwrap();
    let names = buffer[..len].split(|byte| *byte == 0);
    let mut names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let want: [&[u8]; 4] = [b"security.c", b"trusted.b", b"user.a", b"user.empty"];
    assert_eq!(names, want);
    rustix::fs::removexattr(&path, "user.a").unwrap();
    let gone = rustix::fs::getxattr(&path, "user.a", &mut buffer);
    assert_eq!(gone, Err(Errno::NODATA));
}

#[test]
fn attributes_of_links_are_their_own() {
    let Some(m) = Mounted::new() else { return };
    symlink("nowhere", m.path("s")).unwrap();
    std::os::unix::fs::lchown(m.path("s"), Some(5), Some(6)).unwrap();
    let got = fs::symlink_metadata(m.path("s")).unwrap();
    assert_eq!((got.uid(), got.gid(), got.mode() & 0o777), (5, 6, 0o777));
    let refused = rustix::fs::lsetxattr(m.path("s"), "user.a", b"x", XattrFlags::empty());
    assert_eq!(refused, Err(Errno::PERM));
    rustix::fs::lsetxattr(m.path("s"), "trusted.a", b"x", XattrFlags::empty()).unwrap();
}

#[test]
fn the_room_left_is_shown() {
    let Some(m) = Mounted::new() else { return };
    let stat = rustix::fs::statvfs(m.top()).unwrap();
    assert!(stat.f_blocks > 0 && stat.f_bavail > 0 && stat.f_bavail <= stat.f_blocks);
    assert_eq!(stat.f_namemax, 255);
}

#[test]
fn files_are_counted() {
    let Some(mut m) = Mounted::new() else { return };
    let used = |m: &Mounted| {
        let stat = rustix::fs::statvfs(m.top()).unwrap();
        assert!(stat.f_files == u64::from(u32::MAX) && stat.f_ffree < stat.f_files);
        stat.f_files - stat.f_ffree
    };
    assert_eq!(used(&m), 1);
    std::fs::create_dir(m.path("dir")).unwrap();
    std::fs::write(m.path("dir/a"), "a").unwrap();
    std::fs::hard_link(m.path("dir/a"), m.path("b")).unwrap();
    std::os::unix::fs::symlink("a", m.path("c")).unwrap();
    assert_eq!(used(&m), 4);
    std::fs::write(m.path("d"), "d").unwrap();
    std::fs::rename(m.path("d"), m.path("c")).unwrap();
    std::fs::remove_file(m.path("b")).unwrap();
    assert_eq!(used(&m), 4);
    for again in [Mounted::remount, Mounted::crash] {
        if again(&mut m) {
            assert_eq!(used(&m), 4);
        }
    }
    std::fs::remove_dir_all(m.path("dir")).unwrap();
    assert_eq!(used(&m), 2);
}
