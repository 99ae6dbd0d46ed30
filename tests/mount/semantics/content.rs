//! Reading and writing.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use super::{code, create, pattern, uncache};
use crate::mounted::Mounted;

#[test]
fn what_was_written_is_read_at_once() {
    let Some(m) = Mounted::new() else { return };
    let writer = create(&m.path("a"));
    let reader = File::open(m.path("a")).unwrap();
    for round in 0..300_u32 {
        let text = pattern(1000 + round as usize, round);
        writer.write_all_at(&text, u64::from(round) * 700).unwrap();
        let mut got = vec![0; text.len()];
        reader
            .read_exact_at(&mut got, u64::from(round) * 700)
            .unwrap();
        assert!(got == text, "round {round}");
        let len = fs::metadata(m.path("a")).unwrap().len();
        assert_eq!(len, u64::from(round) * 700 + text.len() as u64);
    }
    // Also by a process of its own.
    let output = std::process::Command::new("cmp")
        .args([m.path("a"), m.path("a")])
        .output();
    assert!(output.unwrap().status.success());
}

#[test]
fn large_files_come_back() {
    let Some(m) = Mounted::new() else { return };
    let text = pattern(50_000_001, 7);
    fs::write(m.path("a"), &text).unwrap();
    uncache(&File::open(m.path("a")).unwrap());
    assert!(fs::read(m.path("a")).unwrap() == text);
}

#[test]
fn writing_goes_anywhere_in_a_file() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let mut model = vec![0_u8; 0];
    for round in 0..400_u32 {
        let at = (round.wrapping_mul(2_654_435_761) >> 12) as usize % 1_000_000;
        let part = pattern(1 + (round as usize * 37) % 9000, round);
        if model.len() < at + part.len() {
            model.resize(at + part.len(), 0);
        }
        model[at..at + part.len()].copy_from_slice(&part);
        file.write_all_at(&part, at as u64).unwrap();
    }
    assert!(fs::read(m.path("a")).unwrap() == model);
    uncache(&file);
    assert!(fs::read(m.path("a")).unwrap() == model);
}

#[test]
fn vectors_are_written_and_read_in_order() {
    let Some(m) = Mounted::new() else { return };
    let mut file = create(&m.path("a"));
    let parts = [b"one ".as_slice(), b"two ", b"three"];
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    assert_eq!(file.write_vectored(&slices).unwrap(), 13);
    let (mut one, mut two) = ([0; 5], [0; 8]);
    let mut reader = File::open(m.path("a")).unwrap();
    let mut slices = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
    assert_eq!(reader.read_vectored(&mut slices).unwrap(), 13);
    assert_eq!((&one, &two), (b"one t", b"wo three"));
}

#[test]
fn appends_of_many_never_overlap() {
    let Some(m) = Mounted::new() else { return };
    let path = m.path("log");
    File::create_new(&path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                for round in 0..200_usize {
                    let line = vec![b'a' + writer; 10 + round];
                    file.write_all(&[&line[..], b"\n"].concat()).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut lens = [const { Vec::new() }; 4];
    for line in text.lines() {
        let first = line.as_bytes()[0];
        assert!(line.bytes().all(|byte| byte == first), "{line}");
        lens[usize::from(first - b'a')].push(line.len());
    }
    for lens in lens {
        assert_eq!(lens, (10..210).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_cut_off_is_gone() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    file.write_all_at(&[7; 20_000], 0).unwrap();
    file.set_len(5001).unwrap();
    file.set_len(30_000).unwrap();
    let check = || {
        let all = fs::read(m.path("a")).unwrap();
        assert_eq!(all.len(), 30_000);
        assert!(all[..5001].iter().all(|byte| *byte == 7));
        assert!(all[5001..].iter().all(|byte| *byte == 0));
    };
    check();
    uncache(&file);
    check();
    drop(
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(m.path("a")),
    );
    assert_eq!(file.metadata().unwrap().len(), 0);
    let mut rest = Vec::new();
    File::open(m.path("a"))
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
    assert!(rest.is_empty());
}

#[test]
fn files_end_where_offsets_do() {
    let Some(m) = Mounted::new() else { return };
    let file = create(&m.path("a"));
    let last = i64::MAX as u64 - 1;
    file.write_all_at(b"x", last).unwrap();
    assert_eq!(file.metadata().unwrap().len(), i64::MAX as u64);
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).unwrap();
    assert_eq!(&byte, b"x");
    let beyond = code(file.write_at(b"xy", last));
    assert!([libc::EFBIG, libc::EINVAL, libc::EOVERFLOW].contains(&beyond));
}

#[test]
fn direct_access_passes_the_cache_by() {
    let Some(m) = Mounted::new() else { return };
    let text = pattern(3_000_000, 3);
    let mut direct = OpenOptions::new();
    direct.read(true).write(true).custom_flags(libc::O_DIRECT);
    let buffered = create(&m.path("a"));
    buffered.write_all_at(&text, 0).unwrap();
    let direct = direct.open(m.path("a")).unwrap();
    // No alignment is needed, of places, lengths or memory.
    let mut part = vec![0; 100_001];
    direct.read_exact_at(&mut part[1..], 4097).unwrap();
    assert!(part[1..] == text[4097..][..100_000]);
    // Either sees what came by the other.
    direct.write_all_at(&[9; 5000], 12_345).unwrap();
    buffered.read_exact_at(&mut part, 12_345).unwrap();
    assert!(part[..5000].iter().all(|byte| *byte == 9));
    buffered.write_all_at(&[8; 5000], 50_000).unwrap();
    direct.read_exact_at(&mut part[..5000], 50_000).unwrap();
    assert!(part[..5000].iter().all(|byte| *byte == 8));
}

#[test]
fn a_running_program_cannot_be_written() {
    let Some(m) = Mounted::new() else { return };
    let program = m.path("program");
    fs::copy("/bin/cat", &program).unwrap();
    let mut running = std::process::Command::new(&program)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let refused = OpenOptions::new().write(true).open(&program);
    assert_eq!(code(refused), libc::ETXTBSY);
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}

#[test]
fn changes_wake_watchers() {
    let Some(m) = Mounted::new() else { return };
    let flags = rustix::fs::inotify::CreateFlags::NONBLOCK;
    let watch = rustix::fs::inotify::init(flags).unwrap();
    let wanted = rustix::fs::inotify::WatchFlags::CREATE | rustix::fs::inotify::WatchFlags::MODIFY;
    rustix::fs::inotify::add_watch(&watch, m.top(), wanted).unwrap();
    fs::write(m.path("a"), "x").unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut reader = rustix::fs::inotify::Reader::new(&watch, &mut buffer);
    let event = reader.next().unwrap();
    assert_eq!(event.file_name().unwrap().to_bytes(), b"a");
}
