//! `[mount]`: measured on a volume that a running peer mounts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairnfs::base::ByteSize;
use cairnfs::config::{ConflictRule, Consistency, Durability, KeepWhich, Locks};

use super::ask;
use super::transfer::{MIB, putter_and_holder};
use crate::support::{Devnet, line, random_file, run, wait_until};

/// A directory to mount on; none, loudly, where nothing can be mounted.
fn place(net: &Devnet) -> Option<PathBuf> {
    let is_root = rustix::process::geteuid().is_root();
    let has_device = Path::new("/dev/fuse").exists();
    if !is_root || !has_device {
        eprintln!("SKIPPED: mounting needs root ({is_root}) and /dev/fuse ({has_device})");
        return None;
    }
    let place = net.dir.path().join("mnt");
    // One that a killed peer left is there already.
    std::fs::create_dir_all(&place).ok();
    Some(place)
}

fn mount(net: &Devnet, place: &Path) {
    run(net.cairn(0).arg("mount").arg(place), 0);
}

fn umount(net: &Devnet, place: &Path) {
    run(net.cairn(0).arg("umount").arg(place), 0);
}

#[test]
fn what_is_let_go_rests_as_long_as_told() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    let file = place.join("file");
    let mut found = Vec::new();
    for (seed, trash) in [(1, 0), (2, 3600)] {
        for at in [0, 1] {
            net.reconfigure(at, |config| {
                config.storage.trash = Duration::from_secs(trash);
            });
        }
        net.wait_connected(0);
        mount(&net, &place);
        random_file(&file, 8 << 20, seed);
        run(net.cairn(0).arg("sync"), 0);
        std::fs::remove_file(&file).unwrap();
        let rests = |at: usize| ask(&net, at, &["trash", "list"])["bytes"].as_u64().unwrap();
        if trash > 0 {
            wait_until("it is in trash", Duration::from_secs(60), || {
                rests(0) + rests(1) >= 8 << 20
            });
        } else {
            std::thread::sleep(Duration::from_secs(12));
        }
        found.push(rests(0) + rests(1));
        for at in [0, 1] {
            run(net.cairn(at).args(["trash", "empty"]), 0);
        }
        assert_eq!(rests(0) + rests(1), 0);
        umount(&net, &place);
    }
    assert_eq!(found[0], 0, "{found:?}");
    assert!(found[1] >= 8 << 20, "{found:?}");
}

#[test]
fn a_durability_that_cannot_be_had_is_refused() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    net.reconfigure(0, |config| config.mount.durability = Durability::Network);
    let refused = run(net.cairn(0).arg("mount").arg(&place), 4);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("durability"));
    net.reconfigure(0, |config| config.mount.durability = Durability::Local);
    mount(&net, &place);
    umount(&net, &place);
}

/// Alone it is what it always is; what it means between machines is in `tests/mount/agreed.rs`.
#[test]
fn opening_and_closing_wait_for_nobody_when_alone() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    net.reconfigure(0, |config| {
        config.mount.consistency = Consistency::CloseToOpen;
    });
    mount(&net, &place);
    for round in 0..20 {
        let text = format!("text {round}");
        std::fs::write(place.join("file"), &text).unwrap();
        assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), text);
    }
    umount(&net, &place);
}

/// The same.
#[test]
fn locks_of_the_cluster_need_no_voters_when_alone() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    net.reconfigure(0, |config| config.mount.locks = Locks::Cluster);
    mount(&net, &place);
    let file = std::fs::File::create_new(place.join("file")).unwrap();
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, lock).unwrap();
    rustix::io::write(&file, b"text").unwrap();
    let other = std::fs::File::open(place.join("file")).unwrap();
    assert!(rustix::fs::flock(&other, lock).is_err());
    drop(file);
    wait_until("the lock is given back", Duration::from_secs(10), || {
        rustix::fs::flock(&other, lock).is_ok()
    });
    assert!(std::fs::File::create_new(place.join("file")).is_err());
    assert_eq!(std::fs::read(place.join("file")).unwrap(), b"text");
    drop(other);
    umount(&net, &place);
}

#[test]
fn changes_are_safe_after_the_commit_interval() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    let mut found = Vec::new();
    for (name, interval) in [("slow", 60_000), ("quick", 200)] {
        net.reconfigure(0, |config| {
            config.mount.commit_interval = Duration::from_millis(interval);
        });
        mount(&net, &place);
        std::fs::write(place.join(name), "text").unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        net.kill(0);
        net.restart(0, None);
        mount(&net, &place);
        found.push(std::fs::read(place.join(name)).ok());
        umount(&net, &place);
    }
    assert_eq!(found, [None, Some(b"text".to_vec())]);
}

#[test]
fn writers_wait_when_enough_is_dirty() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    let file = net.dir.path().join("file");
    let mut dirty = Vec::new();
    for (seed, most) in [(1, 16), (2, 256)] {
        net.reconfigure(0, |config| {
            config.mount.dirty_max = ByteSize::mib(most);
            // So slow that what is written has to wait.
            config.network.upload_limit = ByteSize::mib(8);
        });
        net.wait_connected(0);
        mount(&net, &place);
        random_file(&file, 48 << 20, seed);
        std::fs::copy(&file, place.join(format!("copy{most}"))).unwrap();
        let status = ask(&net, 0, &["status"]);
        dirty.push(
            status["volumes"][0]["usage"]["dirty_bytes"]
                .as_u64()
                .unwrap(),
        );
        umount(&net, &place);
    }
    assert!(dirty[0] < 24 * MIB && dirty[1] > 28 * MIB, "{dirty:?}");
}

#[test]
fn a_read_in_a_mount_waits_as_long_as_configured() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    mount(&net, &place);
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    std::fs::copy(&file, place.join("file")).unwrap();
    run(net.cairn(0).arg("sync"), 0);
    umount(&net, &place);
    net.kill(1);
    let mut took = Vec::new();
    for seconds in [1, 9] {
        net.reconfigure(0, |config| {
            config.mount.read_timeout = Duration::from_secs(seconds);
            config.cache.disk = ByteSize(0);
        });
        mount(&net, &place);
        let begun = Instant::now();
        let read = std::fs::read(place.join("file"));
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
        took.push(begun.elapsed());
        umount(&net, &place);
    }
    assert!(
        took[1] >= Duration::from_secs(9) && took[0] < took[1],
        "{took:?}"
    );
    // Twice, since the kernel asks again for what it read ahead in vain, and each time until it is known that nobody
    // answers; not until the mount gives up.
    assert!(took[1] < Duration::from_secs(45), "{took:?}");
}

#[test]
fn of_two_contents_the_older_goes_where_that_is_configured() {
    let mut net = Devnet::start(&["--peers", "2", "--redundancy", "1+0"]);
    let Some(first) = place(&net) else { return };
    let second = net.dir.path().join("mnt2");
    std::fs::create_dir_all(&second).unwrap();
    let places = [first, second];
    for at in 0..2 {
        net.reconfigure(at, |config| {
            config.mount.conflict = vec![ConflictRule {
                glob: "*.log".parse().unwrap(),
                keep: KeepWhich::Newest,
            }];
        });
    }
    net.wait_connected(0);
    net.wait_connected(1);
    run(net.cairn(0).args(["volume", "create", "shared"]), 0);
    let ticket = line(&run(
        net.cairn(0).args(["-q", "volume", "ticket", "shared"]),
        0,
    ));
    run(net.cairn(1).args(["volume", "open", &ticket]), 0);
    let mount = |net: &Devnet, at: usize| {
        run(net.cairn(at).args(["mount", "shared"]).arg(&places[at]), 0);
    };
    let umount = |net: &Devnet, at: usize| {
        run(net.cairn(at).arg("umount").arg(&places[at]), 0);
    };
    let write = |at: usize, text: &str| {
        for name in ["a.log", "a.txt"] {
            std::fs::write(places[at].join(name), text).unwrap();
        }
    };
    let reads = |at: usize, name: &str, text: &str| {
        let read = std::fs::read(places[at].join(name));
        read.is_ok_and(|read| read == text.as_bytes())
    };
    let patience = Duration::from_secs(30);
    mount(&net, 0);
    write(0, "old");
    mount(&net, 1);
    wait_until("the files are there", patience, || {
        reads(1, "a.log", "old") && reads(1, "a.txt", "old")
    });
    // Each changes both without having heard of the other.
    umount(&net, 1);
    write(0, "zero");
    umount(&net, 0);
    mount(&net, 1);
    write(1, "one");
    mount(&net, 0);
    let conflicts = |at: usize| {
        let told = ask(&net, at, &["conflicts"]);
        told["conflicts"].as_array().unwrap().clone()
    };
    wait_until("both know of the conflict", patience, || {
        (0..2).all(|at| conflicts(at).len() == 1 && reads(at, "a.log", "one"))
    });
    for (at, place) in places.iter().enumerate() {
        let told = conflicts(at);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["kind"], "content");
        assert_eq!(told[0]["path"], place.join("a.txt").to_str().unwrap());
        assert_eq!(std::fs::read_dir(place).unwrap().count(), 3);
        let status = ask(&net, at, &["status"]);
        assert_eq!(status["volumes"][0]["conflicts"], 1);
        let status = run(net.cairn(at).arg("status"), 0);
        assert!(String::from_utf8_lossy(&status.stdout).contains("; 1 conflict"));
    }
    let contested = places[0].join("a.txt");
    let resolve = ["conflicts", "resolve", "--keep", "ours"];
    run(net.cairn(0).args(resolve).arg(&contested), 0);
    // The kernel is told after the command is answered.
    wait_until("it is what was chosen", patience, || {
        reads(0, "a.txt", "zero")
    });
    wait_until("the other hears of it", patience, || {
        conflicts(1).is_empty() && reads(1, "a.txt", "zero")
    });
    for place in &places {
        assert_eq!(std::fs::read_dir(place).unwrap().count(), 2);
    }
    let over = run(net.cairn(0).args(resolve).arg(&contested), 3);
    assert!(String::from_utf8_lossy(&over.stderr).contains("nothing is contested"));
    for at in 0..2 {
        umount(&net, at);
    }
}
