//! What machines that mount one volume wait for from one another: closing and opening, syncs, and locks.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cairnfs::config::{Config, Consistency, Durability, Locks};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::shared::{Member, Members};
use crate::support::{cairn, edit_config, json, run, wait_until};

const LONG: Duration = Duration::from_secs(40);
const ALONE: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const WITH_OTHERS: FlockOperation = FlockOperation::NonBlockingLockShared;

fn cluster_locks(config: &mut Config) {
    config.mount.locks = Locks::Cluster;
}

/// The name of a machine's peer.
fn peer(member: &Member) -> String {
    let shown = json(&run(
        cairn(&member.data).args(["--json", "volume", "members", "photos"]),
        0,
    ));
    let members = shown["members"].as_array().unwrap().iter();
    let own = members.clone().find(|member| member["own"] == true);
    own.unwrap()["peer"].as_str().unwrap().to_owned()
}

/// Machines that all vote on the locks of the volume that they mount.
fn voting(others: &[&[&str]], set: fn(&mut Config)) -> Option<Members> {
    let members = Members::with(others, set)?;
    let first = &members.all[0];
    let peers: Vec<String> = members.all.iter().map(peer).collect();
    // Until the first one knows all of them as members.
    wait_until("the voters are set", LONG, || {
        let mut command = cairn(&first.data);
        command.args(["volume", "voters", "photos"]).args(&peers);
        command.output().unwrap().status.success()
    });
    Some(members)
}

fn open(member: &Member, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(member.path(name)).unwrap()
}

#[test]
fn locks_hold_between_machines() {
    let Some(members) = voting(&[&[]], cluster_locks) else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    let one = open(a, "file");
    rustix::fs::flock(&one, ALONE).unwrap();
    let other = open(b, "file");
    assert_eq!(rustix::fs::flock(&other, ALONE), Err(Errno::WOULDBLOCK));
    assert_eq!(
        rustix::fs::flock(&other, WITH_OTHERS),
        Err(Errno::WOULDBLOCK)
    );
    assert!(rustix::fs::fcntl_lock(&other, ALONE).is_err());
    // What is written under it is seen by who has it next, however large.
    for round in 1..4u8 {
        one.write_all_at(&vec![round; 300_000], 0).unwrap();
        rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
        rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
        let mut read = vec![0; 300_000];
        other.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, vec![round; 300_000]);
        rustix::fs::flock(&other, FlockOperation::Unlock).unwrap();
        rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
    }
    // Who waits gets it when it is closed, also by the end of a process.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rustix::fs::flock(&other, FlockOperation::LockExclusive));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        drop(one);
        waiting.join().unwrap().unwrap();
    });
    drop(other);
    // With others.
    let (one, other) = (open(a, "file"), open(b, "file"));
    rustix::fs::flock(&one, FlockOperation::LockShared).unwrap();
    rustix::fs::flock(&other, FlockOperation::LockShared).unwrap();
    assert_eq!(rustix::fs::flock(&other, ALONE), Err(Errno::WOULDBLOCK));
    drop(one);
    wait_until("it is had alone", LONG, || {
        rustix::fs::flock(&other, ALONE).is_ok()
    });
}

#[test]
fn appending_under_a_lock_loses_no_line() {
    let Some(members) = voting(&[&[]], cluster_locks) else {
        return;
    };
    const LINES: usize = 25;
    open(&members.all[0], "log");
    // One file, not one of each.
    wait_until("the file is known", LONG, || {
        members.all[1].path("log").exists()
    });
    let began = Instant::now();
    std::thread::scope(|scope| {
        for member in &members.all {
            scope.spawn(move || {
                for number in 0..LINES {
                    let mut file = open(member, "log");
                    rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
                    let mut before = String::new();
                    file.read_to_string(&mut before).unwrap();
                    let line = format!("{} {number}\n", member.place.display());
                    file.write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
    println!("{} locks in {:?}", 2 * LINES, began.elapsed());
    // Whoever opened it before and looks at nothing goes on at the end all the same.
    let mut files: Vec<File> = Vec::new();
    for member in &members.all {
        let mut options = OpenOptions::new();
        files.push(options.append(true).open(member.path("log")).unwrap());
    }
    for number in 0..6 {
        let mut file = &files[number % 2];
        rustix::fs::flock(file, FlockOperation::LockExclusive).unwrap();
        file.write_all(format!("append {number}\n").as_bytes())
            .unwrap();
        rustix::fs::flock(file, FlockOperation::Unlock).unwrap();
    }
    for member in &members.all {
        let mut file = open(member, "log");
        rustix::fs::flock(&file, FlockOperation::LockShared).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 2 * LINES + 6, "{text}");
        let lines: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 * LINES + 6);
    }
}

#[test]
fn one_of_many_machines_makes_a_name() {
    let Some(members) = voting(&[&[], &[]], cluster_locks) else {
        return;
    };
    for round in 0..10 {
        let name = format!("index-{round}.lock");
        let made: Vec<bool> = std::thread::scope(|scope| {
            let tries = members.all.iter().flat_map(|member| {
                let name = &name;
                let make = move || {
                    let mut options = OpenOptions::new();
                    match options.write(true).create_new(true).open(member.path(name)) {
                        Ok(_) => true,
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                        Err(error) => panic!("{}: {error}", member.path(name).display()),
                    }
                };
                [scope.spawn(make), scope.spawn(make)]
            });
            let tries: Vec<_> = tries.collect();
            tries
                .into_iter()
                .map(|tried| tried.join().unwrap())
                .collect()
        });
        assert_eq!(
            made.iter().filter(|made| **made).count(),
            1,
            "{round}: {made:?}"
        );
    }
}

#[test]
fn without_a_majority_nothing_is_locked() {
    let Some(mut members) = voting(&[&[], &[]], cluster_locks) else {
        return;
    };
    let file = open(&members.all[0], "file");
    rustix::fs::flock(&file, ALONE).unwrap();
    file.write_all_at(b"locked", 0).unwrap();
    members.all[1].stop();
    members.all[2].stop();
    let first = &members.all[0];
    let other = open(first, "other");
    assert_eq!(rustix::fs::flock(&other, ALONE), Err(Errno::NOLCK));
    let alone = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(first.path("new"));
    assert_eq!(
        alone.unwrap_err().raw_os_error(),
        Some(Errno::NOLCK.raw_os_error())
    );
    // What is held is lost before anybody else could have it.
    wait_until("the lock is lost", LONG, || {
        file.write_at(b"still", 0)
            .is_err_and(|error| error.raw_os_error() == Some(Errno::IO.raw_os_error()))
    });
}

#[test]
fn what_was_closed_is_there_at_the_next_open() {
    let close_to_open = |config: &mut Config| {
        config.mount.consistency = Consistency::CloseToOpen;
    };
    let Some(members) = Members::with(&[&[]], close_to_open) else {
        return;
    };
    let [a, b] = &members.all[..] else {
        panic!("two of them")
    };
    wait_until("they have met", LONG, || {
        std::fs::write(a.path("first"), "first").unwrap();
        std::fs::read(b.path("first")).is_ok_and(|read| read == b"first")
    });
    for round in 0..30u32 {
        let len = if round % 3 == 0 { 400_000 } else { 700 };
        let body = vec![round as u8; len];
        let name = format!("file-{}", round % 5);
        let (from, to) = if round % 2 == 0 { (a, b) } else { (b, a) };
        std::fs::write(from.path(&name), &body).unwrap();
        // Not a moment later, not a name nor a size nor a byte from before.
        let read = std::fs::read(to.path(&name)).unwrap();
        assert!(
            read == body,
            "{round}: {} bytes of {}",
            read.len(),
            body.len()
        );
    }
}

#[test]
fn a_sync_waits_for_other_machines() {
    let Some(mut members) = Members::with(&[&[]], |_| {}) else {
        return;
    };
    // A volume that nobody else has is not mounted so.
    for member in &mut members.all {
        member.stop();
        edit_config(&member.data, |config| {
            config.mount.durability = Durability::Network;
        });
        member.start();
        member.mount();
    }
    let file = open(&members.all[0], "file");
    // What was placed while nobody else was there stays at one place for now: other bytes are placed anew.
    let mut tries = 0;
    wait_until("others have it", LONG, || {
        tries += 1;
        file.write_all_at(&vec![tries; 200_000], 0).unwrap();
        file.sync_all().is_ok()
    });
    // At once on the other's disk: both end without a word.
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_all().unwrap();
    members.all[0].crash();
    members.all[1].crash();
    members.all[1].start();
    members.all[1].mount();
    let read = std::fs::read(members.all[1].path("file")).unwrap();
    assert_eq!(&read[..6], b"synced");
    assert_eq!(read.len(), 200_000);
    let alone = open(&members.all[1], "alone");
    alone.write_all_at(b"text", 0).unwrap();
    let synced = alone.sync_all().unwrap_err();
    assert_eq!(synced.raw_os_error(), Some(Errno::IO.raw_os_error()));
}

impl Members {
    /// All of them anew with other settings.
    fn reconfigure(&mut self, set: impl Fn(&mut Config)) {
        for member in &mut self.all {
            member.stop();
            edit_config(&member.data, &set);
            member.start();
            member.mount();
        }
    }
}

/// A lock that one machine has is no other's business where locks are local, and is its business in a cluster.
#[test]
fn locks_hold_on_one_machine_or_on_all_as_configured() {
    let mut found = Vec::new();
    let Some(mut members) = voting(&[&[]], cluster_locks) else {
        return;
    };
    for locks in [Locks::Cluster, Locks::Local] {
        members.reconfigure(|config| config.mount.locks = locks);
        let [a, b] = &members.all[..] else {
            panic!("two of them")
        };
        let one = open(a, "file");
        // One file, not one of each; and voters do not know at once what they promised before.
        wait_until("the file is known", LONG, || b.path("file").exists());
        wait_until("it is locked", LONG, || {
            rustix::fs::flock(&one, ALONE).is_ok()
        });
        let other = open(b, "file");
        found.push(rustix::fs::flock(&other, ALONE));
        // On the same machine it is the same under both.
        let third = open(a, "file");
        assert_eq!(rustix::fs::flock(&third, ALONE), Err(Errno::WOULDBLOCK));
    }
    assert_eq!(found, [Err(Errno::WOULDBLOCK), Ok(())]);
}

/// Another machine is connected and does not answer: closing waits for it, as long as it may be there after all, or not.
#[test]
fn closing_waits_for_others_or_not_as_configured() {
    let mut took = Vec::new();
    let Some(mut members) = Members::with(&[&[]], |_| {}) else {
        return;
    };
    for consistency in [Consistency::CloseToOpen, Consistency::Prompt] {
        members.reconfigure(|config| config.mount.consistency = consistency);
        let name = format!("met under {consistency:?}");
        let [a, b] = &members.all[..] else {
            panic!("two of them")
        };
        a.write(&name, "text");
        b.wait_reads(&name, "text");
        b.write(&name, "another");
        a.wait_reads(&name, "another");
        b.signal("STOP");
        let began = Instant::now();
        let written = std::fs::write(a.path("file"), format!("{consistency:?}"));
        took.push(began.elapsed());
        b.signal("CONT");
        written.unwrap();
        b.wait_reads("file", format!("{consistency:?}"));
    }
    // Five seconds, after which the other counts as away.
    assert!(took[0] > Duration::from_secs(4), "{took:?}");
    assert!(took[1] < Duration::from_secs(3), "{took:?}");
}
