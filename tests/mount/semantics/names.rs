//! Names, links and directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode};

use super::{code, create};
use crate::mounted::Mounted;

#[test]
fn any_bytes_make_a_name() {
    let Some(m) = Mounted::new() else { return };
    let mut all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let names = [
        all.split_off(127),
        all,
        vec![b'n'; 255],
        b"\xff".to_vec(),
        b" ".to_vec(),
    ];
    for name in &names {
        fs::write(m.top().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let listed = fs::read_dir(m.top()).unwrap();
    let listed: BTreeSet<Vec<u8>> = listed
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(listed, names.iter().cloned().collect());
    for name in &names {
        let content = fs::read(m.top().join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(&content, name);
    }
}

#[test]
fn longer_names_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let long = m.path(&"n".repeat(256));
    assert_eq!(code(fs::write(&long, "")), libc::ENAMETOOLONG);
    assert_eq!(code(fs::create_dir(&long)), libc::ENAMETOOLONG);
    assert_eq!(code(fs::metadata(&long)), libc::ENAMETOOLONG);
}

#[test]
fn names_are_bytes_and_nothing_else() {
    let Some(m) = Mounted::new() else { return };
    // Two cases, and two spellings of one letter.
    let names = ["a", "A", "\u{e9}", "e\u{301}"];
    for name in names {
        fs::write(m.path(name), name).unwrap();
    }
    for name in names {
        assert_eq!(fs::read(m.path(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_dir(m.top()).unwrap().count(), 4);
}

#[test]
fn one_of_many_makes_a_name() {
    let Some(m) = Mounted::new() else { return };
    let made = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for index in 0..200 {
                    let path = m.path(&format!("f{index}"));
                    match OpenOptions::new().write(true).create_new(true).open(path) {
                        Ok(_) => _ = made.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EEXIST)),
                    }
                    let dir = m.path(&format!("d{index}"));
                    match fs::create_dir(dir) {
                        Ok(()) => _ = made.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EEXIST)),
                    }
                }
            });
        }
    });
    assert_eq!(made.into_inner(), 400);
}

#[test]
fn all_kinds_of_files_can_be_made() {
    let Some(m) = Mounted::new() else { return };
    let kind = |name: &str| fs::symlink_metadata(m.path(name)).unwrap().file_type();
    fs::write(m.path("file"), "").unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    symlink("file", m.path("link")).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    let make =
        |name: &str, kind, device| rustix::fs::mknodat(CWD, m.path(name), kind, mode, device);
    make("fifo", FileType::Fifo, 0).unwrap();
    let device = rustix::fs::makedev(259, 70_000);
    make("block", FileType::BlockDevice, device).unwrap();
    make("character", FileType::CharacterDevice, device).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(m.path("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(m.path("socket")).unwrap();
    drop(listener);
    assert!(kind("file").is_file() && kind("dir").is_dir() && kind("link").is_symlink());
    assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
    assert!(kind("block").is_block_device() && kind("character").is_char_device());
    assert_eq!(fs::metadata(m.path("block")).unwrap().rdev(), device);
}

#[test]
fn symbolic_links_keep_their_bytes() {
    let Some(m) = Mounted::new() else { return };
    let target = OsStr::from_bytes(b"../no\xffwhere//./x");
    symlink(target, m.path("odd")).unwrap();
    assert_eq!(fs::read_link(m.path("odd")).unwrap().as_os_str(), target);
    let longest = "t/".repeat(2047) + "t";
    symlink(&longest, m.path("long")).unwrap();
    assert_eq!(
        fs::read_link(m.path("long")).unwrap().as_os_str(),
        &*longest
    );
    assert_eq!(fs::symlink_metadata(m.path("long")).unwrap().len(), 4095);
    let longer = symlink(longest + "x", m.path("longer"));
    assert_eq!(code(longer), libc::ENAMETOOLONG);
}

#[test]
fn hard_links_are_one_file() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("a"), "one").unwrap();
    fs::hard_link(m.path("a"), m.path("d/b")).unwrap();
    fs::write(m.path("d/b"), "two").unwrap();
    let (one, two) = (
        fs::metadata(m.path("a")).unwrap(),
        fs::metadata(m.path("d/b")).unwrap(),
    );
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!(fs::read(m.path("a")).unwrap(), b"two");
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(m.path("d/b")).unwrap(), b"two");
    assert_eq!(code(fs::hard_link(m.path("d"), m.path("e"))), libc::EPERM);
    // A link to a symbolic link is one to the link itself.
    symlink("nowhere", m.path("s")).unwrap();
    rustix::fs::linkat(CWD, m.path("s"), CWD, m.path("t"), AtFlags::empty()).unwrap();
    assert_eq!(fs::symlink_metadata(m.path("t")).unwrap().nlink(), 2);
}

#[test]
fn removed_files_live_while_they_are_open() {
    let Some(m) = Mounted::new() else { return };
    let mut file = create(&m.path("a"));
    file.write_all(b"before").unwrap();
    fs::remove_file(m.path("a")).unwrap();
    file.write_all(b" after").unwrap();
    super::uncache(&file);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    // The name is free at once.
    fs::write(m.path("a"), "another").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 12);
    // The same for what a rename replaces.
    let old = File::open(m.path("a")).unwrap();
    fs::write(m.path("b"), "new").unwrap();
    fs::rename(m.path("b"), m.path("a")).unwrap();
    assert_eq!(std::io::read_to_string(old).unwrap(), "another");
}

#[test]
fn only_empty_directories_are_removed() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir_all(m.path("d/e")).unwrap();
    assert_eq!(code(fs::remove_dir(m.path("d"))), libc::ENOTEMPTY);
    assert_eq!(code(fs::remove_file(m.path("d"))), libc::EISDIR);
    fs::write(m.path("f"), "").unwrap();
    assert_eq!(code(fs::remove_dir(m.path("f"))), libc::ENOTDIR);
    fs::remove_dir(m.path("d/e")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    assert_eq!(code(fs::metadata(m.path("d"))), libc::ENOENT);
}

#[test]
fn nothing_is_made_in_a_removed_directory() {
    let Some(m) = Mounted::new() else { return };
    fs::create_dir(m.path("d")).unwrap();
    let dir = File::open(m.path("d")).unwrap();
    fs::remove_dir(m.path("d")).unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let made = rustix::fs::openat(&dir, "f", flags, Mode::from_raw_mode(0o600));
    assert_eq!(made.unwrap_err(), rustix::io::Errno::NOENT);
}

#[test]
fn directories_count_their_subdirectories() {
    let Some(m) = Mounted::new() else { return };
    let links = |name: &str| fs::metadata(m.path(name)).unwrap().nlink();
    fs::create_dir(m.path("d")).unwrap();
    assert_eq!(links("d"), 2);
    fs::create_dir(m.path("d/one")).unwrap();
    fs::create_dir(m.path("d/two")).unwrap();
    fs::write(m.path("d/file"), "").unwrap();
    assert_eq!(links("d"), 4);
    fs::rename(m.path("d/one"), m.path("one")).unwrap();
    fs::remove_dir(m.path("d/two")).unwrap();
    assert_eq!(links("d"), 2);
}

#[test]
fn a_listing_has_every_lasting_entry_once() {
    const COUNT: usize = 3000;
    let Some(m) = Mounted::new() else { return };
    for index in 0..COUNT {
        File::create_new(m.path(&format!("stays{index}"))).unwrap();
        File::create_new(m.path(&format!("goes{index}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (at, entry) in fs::read_dir(m.top()).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if at < COUNT {
            fs::remove_file(m.path(&format!("goes{at}"))).unwrap();
            File::create_new(m.path(&format!("comes{at}"))).unwrap();
        }
        if !name.starts_with("comes") {
            assert!(seen.insert(name.clone()), "{name} twice");
        }
    }
    for index in 0..COUNT {
        assert!(seen.contains(&format!("stays{index}")), "{index}");
    }
}

#[test]
fn inode_numbers_tell_files_apart() {
    let Some(m) = Mounted::new() else { return };
    let mut all = BTreeSet::new();
    for index in 0..1000 {
        let path = m.path(&format!("f{index}"));
        let file = create(&path);
        let ino = file.metadata().unwrap().ino();
        assert!(all.insert(ino));
        fs::rename(&path, m.path(&format!("g{index}"))).unwrap();
        assert_eq!(
            fs::metadata(m.path(&format!("g{index}"))).unwrap().ino(),
            ino
        );
    }
    for entry in fs::read_dir(m.top()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            std::os::unix::fs::DirEntryExt::ino(&entry),
            entry.metadata().unwrap().ino()
        );
    }
}
