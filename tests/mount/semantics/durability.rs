//! What is there after an unmount and after a crash. Tests of a crash at random moments are in
//! `tests/long mount-crash`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use rustix::fs::XattrFlags;

use super::{create, pattern};
use crate::mounted::Mounted;

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn an_unmount_keeps_everything() {
    let Some(mut m) = Mounted::new() else { return };
    let text = pattern(5_000_001, 11);
    fs::create_dir_all(m.path("d/e")).unwrap();
    fs::write(m.path("d/large"), &text).unwrap();
    fs::write(m.path("d/e/small"), "small").unwrap();
    fs::write(m.path("d/e/empty"), "").unwrap();
    fs::hard_link(m.path("d/large"), m.path("d/e/again")).unwrap();
    symlink("e/small", m.path("d/link")).unwrap();
    let path = m.path("d/large");
    rustix::fs::setxattr(&path, "user.a", b"one", XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(m.path("d/e/small"), Some(12), Some(34)).unwrap();
    let sparse = create(&m.path("d/sparse"));
    sparse.write_all_at(b"end", 1 << 40).unwrap();
    drop(sparse);
    let before = fs::metadata(m.path("d/e/small")).unwrap();
    if !m.remount() {
        return;
    }
    assert!(fs::read(m.path("d/e/again")).unwrap() == text);
    assert_eq!(fs::metadata(m.path("d/large")).unwrap().nlink(), 2);
    assert_eq!(fs::read(m.path("d/link")).unwrap(), b"small");
    assert_eq!(fs::read(m.path("d/e/empty")).unwrap(), b"");
    let after = fs::metadata(m.path("d/e/small")).unwrap();
    assert_eq!((after.uid(), after.gid()), (12, 34));
    assert_eq!(after.mode(), before.mode());
    assert_eq!(
        (after.mtime(), after.mtime_nsec()),
        (before.mtime(), before.mtime_nsec())
    );
    let mut value = [0; 10];
    let len = rustix::fs::getxattr(m.path("d/large"), "user.a", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"one");
    let sparse = File::open(m.path("d/sparse")).unwrap();
    let mut end = [0; 3];
    sparse.read_exact_at(&mut end, 1 << 40).unwrap();
    assert_eq!(&end, b"end");
    assert!(sparse.metadata().unwrap().blocks() <= 16);
}

#[test]
fn a_synced_file_survives_a_crash() {
    let Some(mut m) = Mounted::new() else { return };
    let text = pattern(3_000_000, 12);
    for (name, data_only) in [("all", false), ("data", true)] {
        let file = create(&m.path(name));
        file.write_all_at(&text, 0).unwrap();
        if data_only {
            file.sync_data().unwrap();
        } else {
            file.sync_all().unwrap();
        }
    }
    sync_dir(m.top());
    if !m.crash() {
        return;
    }
    assert!(fs::read(m.path("all")).unwrap() == text);
    assert!(fs::read(m.path("data")).unwrap() == text);
}

#[test]
fn synced_names_survive_a_crash() {
    let Some(mut m) = Mounted::new() else { return };
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/old"), "x").unwrap();
    fs::write(m.path("d/gone"), "x").unwrap();
    fs::rename(m.path("d/old"), m.path("d/new")).unwrap();
    fs::remove_file(m.path("d/gone")).unwrap();
    fs::create_dir(m.path("d/sub")).unwrap();
    sync_dir(&m.path("d"));
    sync_dir(m.top());
    if !m.crash() {
        return;
    }
    let names = fs::read_dir(m.path("d")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["new", "sub"]);
}

#[test]
fn synchronous_writes_survive_a_crash() {
    let Some(mut m) = Mounted::new() else { return };
    let text = pattern(100_000, 13);
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        create(&m.path(name));
        let mut options = OpenOptions::new();
        let options = options.write(true).custom_flags(flag);
        let file = options.open(m.path(name)).unwrap();
        sync_dir(m.top());
        file.write_all_at(&text, 0).unwrap();
    }
    if !m.crash() {
        return;
    }
    assert!(fs::read(m.path("sync")).unwrap() == text);
    assert!(fs::read(m.path("dsync")).unwrap() == text);
}

#[test]
fn the_last_seconds_may_be_lost_but_nothing_before() {
    let Some(mut m) = Mounted::new() else { return };
    fs::write(m.path("before"), "before").unwrap();
    // Longer than the commit interval.
    std::thread::sleep(std::time::Duration::from_secs(3));
    fs::write(m.path("after"), "after").unwrap();
    if !m.crash() {
        return;
    }
    assert_eq!(fs::read(m.path("before")).unwrap(), b"before");
    if let Ok(text) = fs::read(m.path("after")) {
        assert!(b"after".starts_with(&text), "{text:?}");
    }
}

#[test]
fn a_replaced_file_is_old_or_new_after_a_crash() {
    let Some(mut m) = Mounted::new() else { return };
    let texts = [pattern(50_000, 14), pattern(70_000, 15)];
    for round in 0..6 {
        let file = create(&m.path("new"));
        file.write_all_at(&texts[round % 2], 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        fs::rename(m.path("new"), m.path("f")).unwrap();
        if round == 0 {
            sync_dir(m.top());
        }
        if !m.crash() {
            return;
        }
        let got = fs::read(m.path("f")).unwrap();
        assert!(texts.contains(&got), "round {round}: {} bytes", got.len());
        fs::remove_file(m.path("new")).ok();
    }
}

#[test]
fn files_removed_while_open_are_gone_after_a_crash() {
    let Some(mut m) = Mounted::new() else { return };
    let room = |m: &Mounted| rustix::fs::statvfs(m.top()).unwrap().f_bfree;
    let before = room(&m);
    let file = create(&m.path("a"));
    file.write_all_at(&pattern(100_000_000, 16), 0).unwrap();
    fs::remove_file(m.path("a")).unwrap();
    file.sync_all().unwrap();
    sync_dir(m.top());
    drop(file);
    if !m.crash() {
        return;
    }
    assert_eq!(fs::read_dir(m.top()).unwrap().count(), 0);
    let end = std::time::Instant::now() + crate::mounted::LONG;
    // The journal goes on in the segment that it has begun: 32 MiB.
    while room(&m) + (40 << 20) / 4096 < before {
        assert!(std::time::Instant::now() < end, "the room stays taken");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn sync_waits_for_nothing() {
    let Some(m) = Mounted::new() else { return };
    fs::write(m.path("a"), "x").unwrap();
    rustix::fs::syncfs(File::open(m.top()).unwrap()).unwrap();
}
