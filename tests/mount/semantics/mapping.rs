//! Files mapped into memory. Each body runs in a process of its own: a process that serves a mount
//! must not map files of it, since giving a mapping back waits for the server while the process's
//! memory map is locked.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::ptr::{NonNull, null_mut};

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use super::{create, pattern, uncache};
use crate::mounted::Mounted;

const LEN: usize = 40_000;
const FILE: &str = "CAIRN_MAPPED_FILE";

/// The file to be mapped, in the process that does it.
fn file_of_helper() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

/// Runs a test of this module once more, with a file on a mount that this process serves.
fn in_helper(test: &str) {
    let Some(m) = Mounted::new() else { return };
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args([
        "--exact",
        &format!("semantics::mapping::{test}"),
        "--nocapture",
    ]);
    let output = helper.env(FILE, m.path("a")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// A mapping of the first `LEN` bytes of a file.
struct Mapping(NonNull<u8>);

impl Mapping {
    fn new(file: &File, flags: MapFlags) -> Mapping {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(null_mut(), LEN, both, flags, file, 0) }.unwrap();
        Mapping(NonNull::new(start.cast()).unwrap())
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < LEN);
        // SAFETY: within the mapping; the file is at least as long and nobody shortens it.
        unsafe { self.0.as_ptr().add(at).read_volatile() }
    }

    fn set(&self, at: usize, byte: u8) {
        assert!(at < LEN);
        // SAFETY: as in `get`; no reference into the mapping exists.
        unsafe { self.0.as_ptr().add(at).write_volatile(byte) }
    }

    fn sync(&self) {
        // SAFETY: exactly the mapping.
        unsafe { msync(self.0.as_ptr().cast(), LEN, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which nobody uses any more.
        unsafe { munmap(self.0.as_ptr().cast(), LEN) }.unwrap();
    }
}

#[test]
fn shared_mappings_and_files_are_one() {
    let Some(path) = file_of_helper() else {
        return in_helper("shared_mappings_and_files_are_one");
    };
    let file = create(&path);
    file.write_all_at(&[1; LEN], 0).unwrap();
    let (one, two) = (
        Mapping::new(&file, MapFlags::SHARED),
        Mapping::new(&file, MapFlags::SHARED),
    );
    one.set(20_000, 2);
    assert_eq!(two.get(20_000), 2);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 20_000).unwrap();
    assert_eq!(byte, [2]);
    file.write_all_at(&[3], 30_000).unwrap();
    assert_eq!(one.get(30_000), 3);
}

#[test]
fn private_mappings_keep_to_themselves() {
    let Some(path) = file_of_helper() else {
        return in_helper("private_mappings_keep_to_themselves");
    };
    let file = create(&path);
    file.write_all_at(&[1; LEN], 0).unwrap();
    let own = Mapping::new(&file, MapFlags::PRIVATE);
    own.set(9999, 3);
    assert_eq!(own.get(9999), 3);
    uncache(&file);
    assert!(read(&path) == [1; LEN]);
}

#[test]
fn msync_brings_stores_to_the_file() {
    let Some(path) = file_of_helper() else {
        return in_helper("msync_brings_stores_to_the_file");
    };
    let file = create(&path);
    let text = pattern(LEN, 5);
    file.set_len(LEN as u64).unwrap();
    let mapping = Mapping::new(&file, MapFlags::SHARED);
    for (at, byte) in text.iter().enumerate() {
        mapping.set(at, *byte);
    }
    mapping.sync();
    uncache(&file);
    assert!(read(&path) == text);
}

#[test]
fn stores_survive_the_mapping() {
    let Some(path) = file_of_helper() else {
        return in_helper("stores_survive_the_mapping");
    };
    let file = create(&path);
    let text = pattern(LEN, 6);
    file.set_len(LEN as u64).unwrap();
    let mapping = Mapping::new(&file, MapFlags::SHARED);
    for (at, byte) in text.iter().enumerate() {
        mapping.set(at, *byte);
    }
    drop(mapping);
    drop(file);
    assert!(read(&path) == text);
    uncache(&File::open(&path).unwrap());
    assert!(read(&path) == text);
}

#[test]
fn behind_the_end_mappings_are_zero() {
    let Some(path) = file_of_helper() else {
        return in_helper("behind_the_end_mappings_are_zero");
    };
    let file = create(&path);
    file.write_all_at(&[1; LEN], 0).unwrap();
    file.set_len(LEN as u64 - 100).unwrap();
    let mapping = Mapping::new(&file, MapFlags::SHARED);
    assert_eq!((mapping.get(LEN - 101), mapping.get(LEN - 100)), (1, 0));
    file.set_len(LEN as u64).unwrap();
    assert_eq!(mapping.get(LEN - 1), 0);
}
