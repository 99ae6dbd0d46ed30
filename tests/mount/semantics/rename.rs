//! Renaming.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{code, create};
use crate::mounted::Mounted;

fn rename_with(m: &Mounted, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, m.path(from), CWD, m.path(to), flags)
}

#[test]
fn replacing_is_seen_whole_or_not_at_all() {
    let Some(m) = Mounted::new() else { return };
    let texts = ["a".repeat(10_000), "b".repeat(20_000)];
    fs::write(m.path("f"), &texts[0]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..500 {
                fs::write(m.path("new"), &texts[round % 2]).unwrap();
                fs::rename(m.path("new"), m.path("f")).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let text = fs::read_to_string(m.path("f")).expect("there at every moment");
            assert!(texts.contains(&text), "{} bytes", text.len());
        }
    });
}

#[test]
fn noreplace_replaces_nothing() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "a").unwrap();
    fs::write(m.path("b"), "b").unwrap();
    let taken = rename_with(&m, "a", "b", RenameFlags::NOREPLACE);
    assert_eq!(taken, Err(Errno::EXIST));
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
    rename_with(&m, "a", "c", RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(m.path("c")).unwrap(), b"a");
}

#[test]
fn exchange_swaps_any_two() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir_all(m.path("d/sub")).unwrap();
    fs::write(m.path("f"), "f").unwrap();
    rename_with(&m, "d", "f", RenameFlags::EXCHANGE).unwrap();
    assert!(m.path("f/sub").is_dir());
    assert_eq!(fs::read(m.path("d")).unwrap(), b"f");
    let absent = rename_with(&m, "d", "absent", RenameFlags::EXCHANGE);
    assert_eq!(absent, Err(Errno::NOENT));
}

#[test]
fn whiteouts_are_refused() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "a").unwrap();
    let refused = rename_with(&m, "a", "b", RenameFlags::WHITEOUT);
    assert_eq!(refused, Err(Errno::INVAL));
    assert_eq!(fs::read(m.path("a")).unwrap(), b"a");
}

#[test]
fn directories_replace_empty_directories_only() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir_all(m.path("a/x")).unwrap();
    fs::create_dir_all(m.path("full/x")).unwrap();
    fs::create_dir(m.path("empty")).unwrap();
    fs::write(m.path("f"), "").unwrap();
    let to = |from: &str, to: &str| fs::rename(m.path(from), m.path(to));
    assert_eq!(code(to("a", "full")), libc::ENOTEMPTY);
    assert_eq!(code(to("a", "f")), libc::ENOTDIR);
    assert_eq!(code(to("f", "a")), libc::EISDIR);
    assert_eq!(code(to("a", "a/x/y")), libc::EINVAL);
    to("a", "empty").unwrap();
    assert!(m.path("empty/x").is_dir() && !m.path("a").exists());
}

#[test]
fn two_names_of_one_file_stay() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "x").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 2);
    assert_eq!(fs::read(m.path("b")).unwrap(), b"x");
}

#[test]
fn open_files_do_not_notice() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir(m.path("d")).unwrap();
    let mut file = create(&m.path("d/a"));
    let dir = File::open(m.path("d")).unwrap();
    fs::rename(m.path("d"), m.path("e")).unwrap();
    fs::rename(m.path("e/a"), m.path("b")).unwrap();
    file.write_all(b"later").unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"later");
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "c", flags, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    assert!(m.path("e/c").exists());
}
