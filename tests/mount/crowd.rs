//! Many files open at once, and many threads in one tree.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::mounted::Mounted;
use crate::support::scaled;

/// Bytes that tell which file they belong to, and which version of it.
fn filled(file: usize, version: usize, len: usize) -> Vec<u8> {
    let word = ((file as u64) << 32 | version as u64).to_le_bytes();
    word.iter().copied().cycle().take(len).collect()
}

#[test]
fn a_thousand_files_are_open_at_once() {
    let Some(mut m) = Mounted::new() else { return };
    let count = scaled(1000);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(count as u64 + 1000);
    if limit.current.is_some_and(|now| now < most) {
        let raised = rustix::process::Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    }
    let count = count.min(most as usize - 200);
    let path = |m: &Mounted, number: usize| m.path(&format!("f{number}"));
    let open = |number: usize| -> File {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        options.open(path(&m, number)).unwrap()
    };
    let files: Vec<File> = (0..count).map(open).collect();
    // Each is written in parts, with all others between the parts.
    for part in 0..4 {
        for (number, file) in files.iter().enumerate() {
            let bytes = filled(number, part, 3000);
            file.write_all_at(&bytes, part as u64 * 3000).unwrap();
        }
        for (number, file) in files.iter().enumerate().step_by(7) {
            let mut found = vec![0; 3000];
            file.read_exact_at(&mut found, part as u64 * 3000).unwrap();
            assert!(found == filled(number, part, 3000), "f{number}");
        }
    }
    for (number, file) in files.iter().enumerate().step_by(3) {
        file.set_len(5000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000, "f{number}");
    }
    drop(files);
    for again in [false, true] {
        if again && !m.remount() {
            break;
        }
        for number in 0..count {
            let mut wanted: Vec<u8> = (0..4).flat_map(|part| filled(number, part, 3000)).collect();
            wanted.truncate(if number % 3 == 0 { 5000 } else { 12_000 });
            let found = std::fs::read(path(&m, number)).unwrap();
            assert!(found == wanted, "f{number}, mounted again: {again}");
        }
    }
}

/// What one thread does in a tree that all share: its own files in shared directories, made, written, moved
/// between directories and removed. Answers what has to be there in the end.
fn work(top: &Path, thread: usize, rounds: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut there: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let dir = |number: usize| PathBuf::from(format!("d{}", number % 8));
    for round in 0..rounds {
        let at = dir(thread + round);
        // Somebody else may have made it, or just be at it.
        std::fs::create_dir_all(top.join(&at)).unwrap();
        let file = at.join(format!("t{thread}-{}", round % 5));
        let len = 1 + (thread * 977 + round * 4099) % 20_000;
        let bytes = filled(thread, round, len);
        std::fs::write(top.join(&file), &bytes).unwrap();
        there.insert(file.clone(), bytes);
        match (thread + round) % 4 {
            0 => {
                let to = dir(thread + round + 3);
                std::fs::create_dir_all(top.join(&to)).unwrap();
                let to = to.join(format!("t{thread}-moved"));
                std::fs::rename(top.join(&file), top.join(&to)).unwrap();
                let bytes = there.remove(&file).unwrap();
                there.insert(to, bytes);
            }
            1 => {
                std::fs::remove_file(top.join(&file)).unwrap();
                there.remove(&file);
            }
            2 => {
                let options = OpenOptions::new().append(true).open(top.join(&file));
                std::io::Write::write_all(&mut options.unwrap(), b"more").unwrap();
                there.get_mut(&file).unwrap().extend(b"more");
            }
            _ => {
                let listed = std::fs::read_dir(top.join(&at)).unwrap();
                let name = file.file_name().unwrap().to_owned();
                let mut names = listed.map(|entry| entry.unwrap().file_name());
                assert!(names.any(|one| one == name), "{file:?} is not listed");
            }
        }
    }
    there
}

#[test]
fn many_threads_work_in_one_tree() {
    let Some(mut m) = Mounted::new() else { return };
    let rounds = scaled(30);
    let top = m.top().to_owned();
    let all: BTreeMap<PathBuf, Vec<u8>> = std::thread::scope(|scope| {
        let start = |thread| {
            let top = &top;
            scope.spawn(move || work(top, thread, rounds))
        };
        let threads: Vec<_> = (0..64).map(start).collect();
        let ended = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        ended.collect()
    });
    for again in [false, true] {
        if again && !m.remount() {
            break;
        }
        let mut found = BTreeMap::new();
        for dir in std::fs::read_dir(m.top()).unwrap() {
            let dir = dir.unwrap().path();
            for file in std::fs::read_dir(&dir).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(m.top()).unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
        let names = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&all), "mounted again: {again}");
        for (name, bytes) in &all {
            assert!(found[name] == *bytes, "{name:?}, mounted again: {again}");
        }
    }
}
