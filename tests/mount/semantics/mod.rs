//! The promises of `docs/SEMANTICS.md`, each by the test that is named beside it there.

mod attributes;
mod content;
mod document;
mod durability;
mod full;
mod locks;
mod mapping;
mod names;
mod permissions;
mod ranges;
mod refused;
mod rename;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::Advice;

/// Makes later reads come from the filesystem.
fn uncache(file: &File) {
    rustix::fs::fsync(file).unwrap();
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

/// A new file that can be read and written.
fn create(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    options.open(path).unwrap()
}

/// Runs a command of the shell as a user without rights.
fn as_nobody(script: &str, path: &Path) -> Output {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(path);
    command.uid(65_534).gid(65_534).output().unwrap()
}

/// The error number.
fn code<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 9) as u8
    })
    .take(len)
    .collect()
}
