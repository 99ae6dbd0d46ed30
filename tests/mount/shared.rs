//! What several machines that mount one volume see of one another: real peers, each with a mount of its own.

mod clearing;
mod members;
mod revoked;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use serde_json::Value;

pub use self::members::{LONG, Member, Members, names};
use crate::support::{cairn, json, line, run, scaled, wait_until};

fn body(version: u64, len: usize) -> Vec<u8> {
    version
        .to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect()
}

#[test]
fn what_one_writes_the_others_read() {
    let Some(members) = Members::new(&[&[], &[]]) else {
        return;
    };
    let [a, b, c] = &members.all[..] else {
        panic!("three of them")
    };
    a.write("small", "from a");
    a.write("large", body(1, 1 << 20));
    std::fs::create_dir_all(a.path("dir/deeper")).unwrap();
    a.write("dir/deeper/file", "deep");
    symlink("nowhere/at all", a.path("link")).unwrap();
    std::fs::hard_link(a.path("small"), a.path("second")).unwrap();
    std::fs::set_permissions(a.path("small"), PermissionsExt::from_mode(0o640)).unwrap();
    let value = b"value".as_slice();
    rustix::fs::setxattr(a.path("small"), "user.name", value, XattrFlags::empty()).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let file = OpenOptions::new().write(true).open(a.path("small"));
    file.unwrap().set_modified(time).unwrap();
    a.write("last", "the last");
    for other in [b, c] {
        other.wait_reads("last", "the last");
        other.wait_reads("large", body(1, 1 << 20));
        other.wait_reads("small", "from a");
        other.wait_reads("dir/deeper/file", "deep");
        let target = std::fs::read_link(other.path("link")).unwrap();
        assert_eq!(target, Path::new("nowhere/at all"));
        wait_until("its attributes arrive", LONG, || {
            let found = std::fs::metadata(other.path("small")).unwrap();
            found.modified().unwrap() == time && found.nlink() == 2 && found.mode() & 0o777 == 0o640
        });
        let second = std::fs::metadata(other.path("second")).unwrap();
        let first = std::fs::metadata(other.path("small")).unwrap();
        assert_eq!(first.ino(), second.ino());
        let mut found = [0; 16];
        let len = rustix::fs::getxattr(other.path("small"), "user.name", &mut found).unwrap();
        assert_eq!(&found[..len], value);
    }
    // And the other way round, in what another made.
    b.write("dir/of-b", "from b");
    c.write("dir/deeper/of-c", "from c");
    a.wait_reads("dir/of-b", "from b");
    a.wait_reads("dir/deeper/of-c", "from c");
    c.wait_reads("dir/of-b", "from b");
    let mut appended = OpenOptions::new()
        .append(true)
        .open(b.path("small"))
        .unwrap();
    appended.write_all(b", and b").unwrap();
    drop(appended);
    a.wait_reads("second", "from a, and b");
    c.wait_reads("small", "from a, and b");
}

#[test]
fn a_removed_file_stays_readable_for_its_holder() {
    let Some(members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    for (name, len) in [("small", 100), ("large", 1 << 20)] {
        a.write(name, body(7, len));
        b.wait_reads(name, body(7, len));
        let mut held = File::open(b.path(name)).unwrap();
        std::fs::remove_file(a.path(name)).unwrap();
        wait_until("the name is gone", LONG, || !b.path(name).exists());
        let mut found = Vec::new();
        held.read_to_end(&mut found).unwrap();
        assert!(found == body(7, len), "{name}");
        assert_eq!(held.metadata().unwrap().nlink(), 0);
        // Nothing of it comes back, and its name is free.
        a.write(name, "another");
        b.wait_reads(name, "another");
        held.rewind().unwrap();
        found.clear();
        held.read_to_end(&mut found).unwrap();
        assert!(found == body(7, len), "{name}");
    }
}

#[test]
fn open_files_show_what_others_wrote() {
    let Some(members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    for len in [3000, 1 << 20] {
        a.write("file", body(0, len));
        b.wait_reads("file", body(0, len));
        let held = File::open(b.path("file")).unwrap();
        let all = || {
            let mut found = vec![0; held.metadata().unwrap().len() as usize];
            held.read_exact_at(&mut found, 0).map(|()| found)
        };
        assert!(all().unwrap() == body(0, len));
        // In place, by less, by more.
        for (version, len) in [(1, len), (2, len / 2), (3, len + 5000)] {
            a.write("file", body(version, len));
            wait_until("the open file shows it", LONG, || {
                all().is_ok_and(|found| found == body(version, len))
            });
        }
        // A part of it, in the middle.
        let part = OpenOptions::new().write(true).open(a.path("file")).unwrap();
        part.write_all_at(b"PART", 1500).unwrap();
        drop(part);
        let mut wanted = body(3, len + 5000);
        wanted[1500..1504].copy_from_slice(b"PART");
        wait_until("the open file shows the part", LONG, || {
            all().is_ok_and(|found| found == wanted)
        });
    }
}

#[test]
fn cached_names_and_listings_are_renewed() {
    let Some(members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    std::fs::create_dir(a.path("dir")).unwrap();
    a.write("dir/one", "1");
    a.write("dir/two", "2");
    b.wait_lists("dir", &["one", "two"]);
    // That it is not there is remembered as well.
    assert!(!b.path("dir/three").exists());
    assert_eq!(names(&b.path("dir")).len(), 2);
    a.write("dir/three", "3");
    b.wait_lists("dir", &["one", "three", "two"]);
    b.wait_reads("dir/three", "3");
    std::fs::remove_file(a.path("dir/one")).unwrap();
    std::fs::rename(a.path("dir/two"), a.path("dir/four")).unwrap();
    b.wait_lists("dir", &["four", "three"]);
    // The kernel hears of it behind the listing.
    wait_until("names that went are gone", LONG, || {
        !b.path("dir/one").exists() && !b.path("dir/two").exists()
    });
    b.wait_reads("dir/four", "2");
    let mode = |member: &Member| std::fs::metadata(member.path("dir/four")).unwrap().mode() & 0o777;
    assert_eq!(mode(b), 0o644);
    std::fs::set_permissions(a.path("dir/four"), PermissionsExt::from_mode(0o600)).unwrap();
    wait_until("the mode is renewed", LONG, || mode(b) == 0o600);
    // A directory that moves takes its files along, and one that is removed goes.
    std::fs::rename(a.path("dir"), a.path("moved")).unwrap();
    b.wait_lists("", &["moved"]);
    b.wait_lists("moved", &["four", "three"]);
    wait_until("the former place is gone", LONG, || {
        !b.path("dir/three").exists()
    });
    std::fs::remove_dir_all(a.path("moved")).unwrap();
    b.wait_lists("", &[]);
}

#[test]
fn readers_see_everything_and_write_nothing() {
    let Some(members) = Members::new(&[&["--read-only"], &[]]) else {
        return;
    };
    let [a, reader, c] = &members.all[..] else {
        panic!("three of them")
    };
    std::fs::create_dir(a.path("dir")).unwrap();
    a.write("dir/small", "from a");
    a.write("dir/large", body(3, 1 << 20));
    reader.wait_reads("dir/small", "from a");
    reader.wait_reads("dir/large", body(3, 1 << 20));
    c.wait_reads("dir/small", "from a");
    c.write("dir/small", "from c");
    reader.wait_reads("dir/small", "from c");
    let refused = |tried: std::io::Result<()>| {
        assert_eq!(
            tried.unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
    };
    refused(std::fs::write(reader.path("new"), "x"));
    refused(std::fs::write(reader.path("dir/small"), "x"));
    refused(std::fs::create_dir(reader.path("new")));
    refused(std::fs::remove_file(reader.path("dir/small")));
    refused(std::fs::rename(
        reader.path("dir/small"),
        reader.path("dir/other"),
    ));
    refused(std::fs::set_permissions(
        reader.path("dir/small"),
        PermissionsExt::from_mode(0o777),
    ));
    a.write("dir/last", "the last");
    reader.wait_reads("dir/last", "the last");
    assert_eq!(names(&a.path("dir")), names(&reader.path("dir")));
}

#[test]
fn what_was_written_apart_is_all_there_afterwards() {
    let Some(mut members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    std::fs::create_dir_all(a.path("both/gone")).unwrap();
    a.write("both/edited", "old");
    a.write("both/untouched", "untouched");
    b.wait_reads("both/untouched", "untouched");
    b.wait_reads("both/edited", "old");
    members.apart(
        |a| {
            a.write("both/of-a", "from a");
            a.write("both/large", body(5, 1 << 20));
            std::fs::remove_file(a.path("both/edited")).unwrap();
            std::fs::remove_dir(a.path("both/gone")).unwrap();
            std::fs::create_dir(a.path("both/same")).unwrap();
            a.write("both/same/of-a", "a");
        },
        |b| {
            assert!(!b.path("both/of-a").exists());
            b.write("both/of-b", "from b");
            b.write("both/edited", "edited");
            b.write("both/gone/new", "new");
            std::fs::create_dir(b.path("both/same")).unwrap();
            b.write("both/same/of-b", "b");
        },
    );
    let all = [
        "edited",
        "gone",
        "large",
        "of-a",
        "of-b",
        "same",
        "untouched",
    ];
    for member in &members.all {
        member.wait_lists("both", &all);
        member.wait_reads("both/of-a", "from a");
        member.wait_reads("both/of-b", "from b");
        member.wait_reads("both/large", body(5, 1 << 20));
        // An edit wins over a removal, and what is new brings its directory back.
        member.wait_reads("both/edited", "edited");
        member.wait_reads("both/gone/new", "new");
        // Directories of one name are one.
        member.wait_lists("both/same", &["of-a", "of-b"]);
    }
}

#[test]
fn both_versions_of_a_file_stay_and_one_says_so() {
    let Some(mut members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    std::fs::create_dir(a.path("dir")).unwrap();
    a.write("dir/report.txt", "the first");
    b.wait_reads("dir/report.txt", "the first");
    members.apart(
        |a| {
            a.write("dir/report.txt", "a wrote this");
            a.write("dir/new.txt", "new from a");
        },
        |b| {
            b.write("dir/report.txt", "b wrote this");
            b.write("dir/new.txt", "new from b");
        },
    );
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    wait_until("all four are there", LONG, || {
        names(&a.path("dir")).len() == 4 && names(&b.path("dir")).len() == 4
    });
    members.wait_same("dir");
    let found = names(&a.path("dir"));
    for (name, stem, of_a, of_b) in [
        (
            "report.txt",
            "report.conflict-",
            "a wrote this",
            "b wrote this",
        ),
        ("new.txt", "new.conflict-", "new from a", "new from b"),
    ] {
        // The later one has the name.
        a.wait_reads(&format!("dir/{name}"), of_b);
        let copy = found.iter().find(|name| name.starts_with(stem)).unwrap();
        assert!(copy.ends_with(".txt"), "{copy}");
        let copy = format!("dir/{copy}");
        b.wait_reads(&copy, of_a);
    }
    // A copy of a file that both edited says which one.
    let copy = found
        .iter()
        .find(|name| name.starts_with("report.conflict-"));
    let copy = format!("dir/{}", copy.unwrap());
    for member in [a, b] {
        let mut of = [0; 64];
        let mark = "user.cairn.conflict";
        let len = rustix::fs::getxattr(member.path(&copy), mark, &mut of).unwrap();
        assert_eq!(&of[..len], b"report.txt");
    }
    // It is a file as any other.
    std::fs::remove_file(b.path(&copy)).unwrap();
    wait_until("the copy is gone", LONG, || {
        // Its writer may have written it anew at that moment, so that it stays: then it comes back.
        if a.path(&copy).exists() {
            let _ = std::fs::remove_file(b.path(&copy));
        }
        !a.path(&copy).exists()
    });
    a.wait_reads("dir/report.txt", "b wrote this");
}

/// Reads a file over and over until it is told to stop; how many versions it saw.
fn read_always(path: &Path, is_done: &AtomicBool) -> usize {
    let mut versions = BTreeSet::new();
    let begun = Instant::now();
    // The time ends it where the writer failed.
    while !is_done.load(Ordering::Relaxed) && begun.elapsed() < 2 * LONG {
        let found = std::fs::read(path).expect("it is never absent");
        // A large one that was replaced again before its content was in the pool.
        let Some((word, _)) = found.split_first_chunk() else {
            continue;
        };
        let version = u64::from_le_bytes(*word);
        let whole = body(version, len_of(version));
        assert!(
            found == whole,
            "version {version}: {} of {} bytes",
            found.len(),
            whole.len()
        );
        versions.insert(version);
    }
    versions.len()
}

/// Each fourth one is large.
fn len_of(version: u64) -> usize {
    match version % 4 {
        0 => 1 << 20,
        _ => 2000 + version as usize,
    }
}

#[test]
fn a_replaced_file_is_old_or_new_on_every_machine() {
    let Some(members) = Members::two() else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    let count = scaled(200) as u64;
    a.write("file", body(0, len_of(0)));
    b.wait_reads("file", body(0, len_of(0)));
    let (path, is_done) = (b.path("file"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_always(&path, &is_done));
        for version in 1..=count {
            let mut file = File::create(a.path("new")).unwrap();
            file.write_all(&body(version, len_of(version))).unwrap();
            // With and without what careful programs do.
            if version % 2 == 0 {
                file.sync_all().unwrap();
            }
            drop(file);
            std::fs::rename(a.path("new"), a.path("file")).unwrap();
        }
        b.wait_reads("file", body(count, len_of(count)));
        is_done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 1);
    });
    b.wait_lists("", &["file"]);
}

fn ask(member: &Member, args: &[&str]) -> Value {
    json(&run(cairn(&member.data).arg("--json").args(args), 0))
}

/// What a peer says of the volume.
fn volume(member: &Member) -> Value {
    let status = ask(member, &["status"]);
    let volumes = status["volumes"].as_array().unwrap().iter();
    let mut volumes = volumes.filter(|volume| volume["name"] == "photos");
    volumes.next().unwrap().clone()
}

#[test]
fn a_file_outlives_the_machine_that_wrote_it_before_any_checkpoint() {
    // The first writes, and the others offer storage: they have no part in the volume.
    let Some(mut members) = Members::with_storage(4) else {
        return;
    };
    let first = &members.all[0];
    let ticket = line(&run(
        cairn(&first.data).args(["-q", "volume", "ticket", "photos"]),
        0,
    ));
    // The first checkpoint, so that the volume can be opened at all.
    run(cairn(&first.data).args(["sync"]).arg(&first.place), 0);
    let large = body(9, 3 << 20);
    first.write("small", "the last words");
    first.write("large", &large);
    std::fs::create_dir(first.path("dir")).unwrap();
    std::fs::rename(first.path("small"), first.path("dir/small")).unwrap();
    wait_until("all of it is placed, and kept by others", 2 * LONG, || {
        let volume = volume(first);
        let (usage, tail) = (&volume["usage"], &volume["tail"]);
        usage["dirty_bytes"] == 0
            && usage["under_redundant_bytes"] == 0
            && tail["wanted"] == 3
            && tail["kept"] == 3
    });
    let shown = run(cairn(&first.data).args(["status"]), 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("the last changes are at 3 of 3 other peers"),
        "{shown}"
    );
    // It is killed, and its disk is lost.
    let lost = &mut members.all[0];
    lost.crash();
    wait_until("nothing of it is mounted", LONG, || unmounted(&lost.place));
    std::fs::remove_dir_all(&lost.data).unwrap();
    let second = &members.all[1];
    run(cairn(&second.data).args(["volume", "open", &ticket]), 0);
    second.mount();
    second.wait_reads("dir/small", "the last words");
    second.wait_reads("large", &large);
    assert!(!second.path("small").exists());
    // It goes on there.
    second.write("dir/small", "and further ones");
    assert_eq!(
        std::fs::read(second.path("dir/small")).unwrap(),
        b"and further ones"
    );
}

/// The place of a peer that was killed; its mount is taken away if it is there still.
fn unmounted(place: &Path) -> bool {
    let _ = std::process::Command::new("umount")
        .arg("-l")
        .arg(place)
        .status();
    !crate::home::mounts_below(place.parent().unwrap())
        .iter()
        .any(|mounted| Path::new(mounted) == place)
}
