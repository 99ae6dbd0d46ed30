//! Holes, room taken ahead, and copies of ranges.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::{create, pattern, uncache};
use crate::mounted::Mounted;

#[test]
fn holes_read_as_zeros_and_take_no_room() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(b"end", 1 << 40).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 3);
    assert!(file.metadata().unwrap().blocks() <= 16);
    let mut part = [1; 4096];
    file.read_exact_at(&mut part, 1 << 39).unwrap();
    assert_eq!(part, [0; 4096]);
}

#[test]
fn data_and_holes_are_found() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let far = 1_u64 << 30;
    file.write_all_at(&[1; 65_536], far).unwrap();
    file.set_len(2 * far).unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(SeekFrom::Data(0)), Ok(far));
    assert_eq!(seek(SeekFrom::Hole(0)), Ok(0));
    assert_eq!(seek(SeekFrom::Hole(far)), Ok(far + 65_536));
    assert_eq!(seek(SeekFrom::Data(far + 65_536)), Err(Errno::NXIO));
    assert_eq!(seek(SeekFrom::Hole(2 * far)), Err(Errno::NXIO));
}

#[test]
fn fallocate_takes_room_and_changes_no_byte() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&[1; 1000], 0).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 50_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 50_000);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 90_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 50_000);
    let all = fs::read(m.path("a")).unwrap();
    assert!(all[..1000].iter().all(|byte| *byte == 1));
    assert!(all[1000..].iter().all(|byte| *byte == 0));
}

#[test]
fn punched_holes_are_holes() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
    let before = file.metadata().unwrap().blocks();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 1000, 900_000).unwrap();
    let check = || {
        let all = fs::read(m.path("a")).unwrap();
        assert_eq!(all.len(), 1 << 20);
        let hole = 1000..901_000;
        let mut places = all.iter().enumerate();
        assert!(places.all(|(at, byte)| (*byte == 0) == hole.contains(&at)));
    };
    check();
    uncache(&file);
    check();
    assert!(file.metadata().unwrap().blocks() < before);
}

#[test]
fn zeroed_ranges_are_zero() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&[7; 20_000], 0).unwrap();
    let zero = FallocateFlags::ZERO_RANGE;
    let keep = zero | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, keep, 15_000, 10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);
    rustix::fs::fallocate(&file, zero, 100, 1000).unwrap();
    rustix::fs::fallocate(&file, zero, 18_000, 6_000).unwrap();
    let all = fs::read(m.path("a")).unwrap();
    assert_eq!(all.len(), 24_000);
    let is_data = |at: usize| at < 15_000 && !(100..1100).contains(&at);
    let mut places = all.iter().enumerate();
    assert!(places.all(|(at, byte)| (*byte == 7) == is_data(at)));
}

#[test]
fn other_modes_of_fallocate_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&[7; 20_000], 0).unwrap();
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        let refused = rustix::fs::fallocate(&file, mode, 0, 4096);
        assert_eq!(refused, Err(Errno::OPNOTSUPP));
    }
    assert!(fs::read(m.path("a")).unwrap() == [7; 20_000]);
}

#[test]
fn ranges_are_copied_within_the_mount() {
    let Some(m) = Mounted::new() else { return };
    let text = pattern(3_000_000, 9);
    fs::write(m.path("a"), &text).unwrap();
    let (from, to) = (File::open(m.path("a")).unwrap(), create(&m.path("b")));
    let (mut at, mut into, mut left) = (5, 777, text.len());
    while left > 0 {
        let copied =
            rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut into), left).unwrap();
        if copied == 0 {
            break;
        }
        left -= copied;
    }
    let got = fs::read(m.path("b")).unwrap();
    assert!(got[..777].iter().all(|byte| *byte == 0));
    assert!(got[777..] == text[5..]);
    // Both are files of their own from then on.
    to.write_all_at(b"changed", 1000).unwrap();
    assert!(fs::read(m.path("a")).unwrap() == text);
}

#[test]
fn overlapping_copies_are_refused() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&[1; 10_000], 0).unwrap();
    let copied = rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 500), 1000);
    assert_eq!(copied, Err(Errno::INVAL));
    let copied = rustix::fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 20_000), 1000);
    assert_eq!(copied, Ok(1000));
}
