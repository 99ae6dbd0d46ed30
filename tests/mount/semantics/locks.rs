//! Locks.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use rustix::fs::FlockOperation;

use super::create;
use crate::mounted::Mounted;

/// Run by the tests below as a process of its own: which locks of the file it could have.
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

fn tries(path: &Path) -> String {
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args([
        "--exact",
        "semantics::locks::helper_that_tries_locks",
        "--nocapture",
    ]);
    let output = helper.env("CAIRN_LOCK_FILE", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("locks: "));
    line.unwrap().1.to_owned()
}

#[test]
fn locks_hold_between_processes() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    assert_eq!(tries(&m.path("a")), "true true");
    let lock = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&file, lock).unwrap();
    assert_eq!(tries(&m.path("a")), "false true");
    rustix::fs::flock(&file, lock).unwrap();
    assert_eq!(tries(&m.path("a")), "false false");
    rustix::fs::flock(&file, FlockOperation::Unlock).unwrap();
    assert_eq!(tries(&m.path("a")), "false true");
}

#[test]
fn closing_gives_locks_back() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let lock = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, lock).unwrap();
    rustix::fs::fcntl_lock(&file, lock).unwrap();
    assert_eq!(tries(&m.path("a")), "false false");
    drop(file);
    assert_eq!(tries(&m.path("a")), "true true");
}

#[test]
fn shared_locks_are_shared() {
    let Some(m) = Mounted::new() else { return };
    let (one, two) = (create(&m.path("a")), File::open(m.path("a")).unwrap());
    rustix::fs::flock(&one, FlockOperation::NonBlockingLockShared).unwrap();
    rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    let alone = rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(alone, Err(rustix::io::Errno::WOULDBLOCK));
    drop(two);
    rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn waiting_for_a_lock_ends_when_it_is_free() {
    let Some(m) = Mounted::new() else { return };
    let (one, two) = (create(&m.path("a")), File::open(m.path("a")).unwrap());
    rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rustix::fs::flock(&two, FlockOperation::LockExclusive));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!waiting.is_finished());
        rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
        waiting.join().unwrap().unwrap();
    });
}
