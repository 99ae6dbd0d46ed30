//! A full filesystem.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use super::{code, create, pattern};
use crate::mounted::{LONG, Mounted};

const ROOM: usize = 8 << 20;

#[test]
fn writes_without_room_say_so() {
    let Some(m) = Mounted::small(ROOM as u64) else {
        return;
    };
    let kept = pattern(1_000_000, 1);
    fs::write(m.path("kept"), &kept).unwrap();
    let file = create(&m.path("large"));
    let mut at = 0;
    let error = loop {
        let part = pattern(1 << 18, at as u32);
        match file.write_at(&part, at) {
            Ok(len) => at += len as u64,
            // Written data may be refused as late as this, never later without a word.
            Err(error) => break error,
        }
        if let Err(error) = file.sync_all() {
            break error;
        }
        assert!(at < 100 * ROOM as u64, "it takes everything");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    // What was there is unharmed.
    assert!(fs::read(m.path("kept")).unwrap() == kept);
}

#[test]
fn removing_makes_room() {
    let Some(m) = Mounted::small(ROOM as u64) else {
        return;
    };
    let fill = |name: &str| {
        // There may be no room for a name either, yet.
        let Ok(file) = fs::File::create(m.path(name)) else {
            return 0;
        };
        let mut at = 0;
        while at < 100 * ROOM as u64 {
            let part = pattern(1 << 18, at as u32 + 1);
            let written = file.write_all_at(&part, at);
            if written.and_then(|()| file.sync_all()).is_err() {
                break;
            }
            at += part.len() as u64;
        }
        at
    };
    let first = fill("a");
    assert!(first > 0);
    fs::remove_file(m.path("a")).unwrap();
    // Room comes back in its own time: the kernel forgets the file, and what it held is freed.
    let end = Instant::now() + LONG;
    loop {
        let second = fill("b");
        if second >= first / 2 {
            break;
        }
        assert!(Instant::now() < end, "{second} bytes of {first}");
        fs::remove_file(m.path("b")).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn taking_room_ahead_is_refused_as_well() {
    let Some(m) = Mounted::small(ROOM as u64) else {
        return;
    };
    let file = create(&m.path("a"));
    let flags = rustix::fs::FallocateFlags::empty();
    let refused = rustix::fs::fallocate(&file, flags, 0, 1 << 40);
    assert_eq!(refused, Err(rustix::io::Errno::NOSPC));
    assert_eq!(file.metadata().unwrap().len(), 0);
    // A hole needs none.
    file.set_len(1 << 40).unwrap();
    assert_eq!(code(fs::create_dir(m.path("a"))), libc::EEXIST);
}
