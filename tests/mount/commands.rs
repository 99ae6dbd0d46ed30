//! `mount`, `umount`, `sync` and `volume` on a real kernel.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use cairnfs::base::ByteSize;
use cairnfs::config::Quota;

use crate::home::{END_MAX, Home, listed, wait_gone};
use crate::support::{
    Devnet, Node, cairn, edit_config, json, line, random_file, run, signal, wait_until,
};

/// Writes a file and reads it back, through the kernel.
pub fn use_it(place: &Path) {
    let file = place.join("greeting");
    std::fs::write(&file, "hello").unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
    std::fs::create_dir(place.join("sub")).unwrap();
    std::fs::rename(&file, place.join("sub/greeting")).unwrap();
    assert_eq!(std::fs::read_dir(place).unwrap().count(), 1);
    let synced = std::fs::File::open(place.join("sub/greeting")).unwrap();
    synced.sync_all().unwrap();
}

#[test]
fn the_first_mount_needs_nothing_but_a_directory() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let output = run(home.cairn().arg("mount").arg(&place), 0);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("`default`, which is new, is mounted on"),
        "{told}"
    );
    assert!(told.contains("new identity"), "{told}");
    let (source, kind, options) = listed(&place).unwrap();
    assert_eq!((source.as_str(), kind.as_str()), ("default", "fuse.cairn"));
    assert!(
        options.contains("nosuid") && options.contains("nodev"),
        "{options}"
    );
    use_it(&place);

    let volumes = home.volumes();
    assert_eq!(volumes[0]["name"], "default");
    assert_eq!(volumes[0]["mounted_on"], place.to_str().unwrap());
    run(home.cairn().arg("sync").arg(place.join("sub")), 0);
    run(home.cairn().arg("sync"), 0);
    run(home.cairn().arg("sync").arg(home.dir.path()), 3);
    // The peer serves other commands as well.
    let file = home.dir.path().join("file");
    std::fs::write(&file, "content").unwrap();
    run(home.cairn().args(["-q", "put"]).arg(&file), 0);
    let status = json(&run(home.cairn().args(["--json", "status"]), 0));
    let pid = status["pid"].as_u64().unwrap() as u32;

    home.umount(&place);
    assert_eq!(listed(&place), None);
    wait_gone(pid);
    assert!(!home.data.join("control.sock").exists());
    assert!(home.log().contains("is mounted on"), "{}", home.log());
    assert_eq!(home.volumes()[0].get("mounted_on"), None);
    run(home.cairn().arg("umount").arg(&place), 3);
}

/// What comes by no subscriber, as the message of a panic, goes to the standard error, which follows the log.
#[test]
fn the_standard_error_of_a_peer_in_the_background_follows_its_log() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let log = home.data.join("log/cairn.log");
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    let old = vec![b'x'; cairnfs::base::limits::LOG_MAX_BYTES as usize];
    std::fs::write(&log, &old).unwrap();
    let pid = home.mount(&[], &place);
    assert_eq!(std::fs::read(log.with_extension("log.1")).unwrap(), old);
    let stderr = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    assert_eq!(stderr, log);
    assert!(home.log().contains("is mounted on"), "{}", home.log());
    home.umount(&place);
}

#[test]
fn an_unmount_from_outside_ends_the_peer_behind_it() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let pid = home.mount(&[], &place);
    run(Command::new("umount").arg(&place), 0);
    wait_gone(pid);
    // And it can be had again at once, also while the former peer is still ending.
    for _ in 0..3 {
        home.mount(&[], &place);
        run(Command::new("umount").arg(&place), 0);
    }
    let pid = home.mount(&[], &place);
    home.umount(&place);
    wait_gone(pid);
}

#[test]
fn a_running_peer_serves_mounts_and_outlives_them() {
    let Some(home) = Home::new() else { return };
    let (first, second) = (home.place("first"), home.place("second"));
    let log = home.dir.path().join("node.log");
    let node = Node::start(&home.data, &log);
    run(home.cairn().args(["volume", "create", "photos"]), 0);
    run(home.cairn().args(["volume", "create", "photos"]), 4);
    run(home.cairn().args(["volume", "create", "a/b"]), 2);
    home.mount(&["photos"], &first);
    home.mount(&["--read-only", "-onoexec"], &second);
    let (_, _, options) = listed(&second).unwrap();
    assert!(options.contains("noexec"), "{options}");
    use_it(&first);
    let denied = std::fs::write(second.join("file"), "x").unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    run(
        home.cairn().args(["volume", "remove", "photos", "--yes"]),
        4,
    );
    let third = home.place("third");
    let again = run(home.cairn().args(["mount", "photos"]).arg(&third), 4);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        told.contains(&format!("is mounted on {}", first.display())),
        "{told}"
    );
    assert!(told.contains("cairn umount"), "{told}");
    let over = run(home.cairn().args(["mount", "other"]).arg(&first), 4);
    let told = String::from_utf8_lossy(&over.stderr).into_owned();
    assert!(
        told.contains("mounted on") && told.contains("already"),
        "{told}"
    );

    home.umount(&first);
    run(
        home.cairn().args(["volume", "remove", "photos", "--yes"]),
        0,
    );
    run(
        home.cairn().args(["volume", "remove", "photos", "--yes"]),
        3,
    );
    run(home.cairn().args(["mount", "photos"]).arg(&first), 3);
    // It noticed from outside as well, and the rest goes with it.
    run(Command::new("umount").arg(&second), 0);
    wait_until("the peer notices", END_MAX, || {
        home.volumes()[0].get("mounted_on").is_none()
    });
    home.mount(&[], &second);
    node.stop();
    assert_eq!(listed(&second), None);
}

#[test]
fn what_is_in_use_is_not_taken_away_unless_it_must_be() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let log = home.dir.path().join("node.log");
    let node = Node::start(&home.data, &log);
    home.mount(&[], &place);
    let mut file = std::fs::File::create(place.join("file")).unwrap();
    let busy = run(home.cairn().arg("umount").arg(&place), 4);
    let told = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(told.contains("is in use"), "{told}");
    assert!(told.contains("lsof") && told.contains("--lazy"), "{told}");
    run(home.cairn().args(["umount", "--lazy"]).arg(&place), 0);
    assert_eq!(listed(&place), None);
    file.write_all(b"still there").unwrap();
    assert_eq!(home.volumes()[0]["detached"], true);
    let again = run(home.cairn().arg("mount").arg(&place), 4);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(told.contains("still in use"), "{told}");
    run(home.cairn().arg("umount").arg(&place), 3);
    drop(file);
    wait_until("the volume is closed", END_MAX, || {
        home.volumes()[0].get("mounted_on").is_none()
    });
    // A peer that ends takes away what is in use.
    home.mount(&[], &place);
    let file = std::fs::File::create(place.join("file")).unwrap();
    node.stop();
    assert_eq!(listed(&place), None);
    assert!(file.sync_all().is_err());
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("is in use"), "{told}");
}

#[test]
fn a_mount_whose_process_was_killed_is_mounted_over() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let pid = home.mount(&[], &place);
    signal(pid, "KILL");
    wait_gone(pid);
    let dead = std::fs::metadata(&place).unwrap_err();
    // That nobody is connected, or that the connection ended under this very question.
    assert!(matches!(dead.raw_os_error(), Some(107 | 103)), "{dead}");
    let pid = home.mount(&[], &place);
    use_it(&place);
    assert_eq!(crate::home::mounts_below(&place).len(), 1);
    // It can be taken off without a peer, too.
    signal(pid, "KILL");
    wait_gone(pid);
    home.umount(&place);
    assert_eq!(listed(&place), None);
    run(home.cairn().arg("umount").arg(&place), 3);
}

/// The kernel keeps what it was told of the top directory, and shows it also when nobody is behind it any more.
#[test]
fn a_dead_mount_that_looks_alive_is_mounted_over() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let pid = home.mount(&[], &place);
    // Asks for more than a mount tells, which the kernel then never asks for again.
    run(Command::new("stat").arg(&place), 0);
    signal(pid, "KILL");
    wait_gone(pid);
    home.mount(&[], &place);
    use_it(&place);
    assert_eq!(crate::home::mounts_below(&place).len(), 1);
    home.umount(&place);
}

#[test]
fn in_the_foreground_it_ends_with_the_command() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let start = || {
        let mut command = home.cairn();
        command
            .args(["-q", "--json", "mount", "--foreground"])
            .arg(&place);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // Mounted, and knows it: before that a signal is an interruption.
        let shown = BufReader::new(child.stdout.take().unwrap());
        assert!(shown.lines().any(|line| line.unwrap() == "}"));
        assert!(listed(&place).is_some());
        child
    };
    let mut child = start();
    use_it(&place);
    signal(child.id(), "INT");
    assert!(child.wait().unwrap().success());
    assert_eq!(listed(&place), None);
    let mut child = start();
    home.umount(&place);
    assert!(child.wait().unwrap().success());
    // With a running peer it is the same.
    let log = home.dir.path().join("node.log");
    let node = Node::start(&home.data, &log);
    let mut child = start();
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    assert_eq!(listed(&place), None);
    node.stop();
}

#[test]
fn a_devnet_mounts_a_volume_of_all_its_peers() {
    let Some(home) = Home::new() else { return };
    let place = home.dir.path().join("new/pool");
    let devnet = Devnet::start(&["--peers", "3", "--mount", place.to_str().unwrap()]);
    assert_eq!(devnet.peers.len(), 3);
    let (source, _, _) = listed(&place).unwrap();
    assert_eq!(source, "default");
    use_it(&place);
    let status = json(&run(devnet.cairn(0).args(["--json", "status"]), 0));
    assert_eq!(status["volumes"][0]["mounted_on"], place.to_str().unwrap());
    drop(devnet);
    assert_eq!(listed(&place), None);
    assert!(!place.exists());
}

/// What a peer may only read is mounted so, whatever it was asked, also by a peer in the background.
#[test]
fn a_volume_opened_for_reading_takes_no_changes() {
    let Some(home) = Home::new() else { return };
    let owner = home.dir.path().join("owner");
    for data in [&owner, &home.data] {
        edit_config(data, |config| {
            config.storage.quota = Quota::Bytes(ByteSize::gib(1));
            config.storage.reserve_free = ByteSize(0);
            config.network.mdns = false;
            config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            config.network.bulk_listen = vec![([127, 0, 0, 1], 0).into()];
        });
    }
    let node = Node::start(&owner, &home.dir.path().join("owner.log"));
    run(cairn(&owner).args(["volume", "create", "photos"]), 0);
    let theirs = home.place("theirs");
    run(cairn(&owner).args(["mount", "photos"]).arg(&theirs), 0);
    let ticket = |flags: &[&str]| {
        let mut command = cairn(&owner);
        line(&run(
            command
                .args(["-q", "volume", "ticket", "photos"])
                .args(flags),
            0,
        ))
    };
    let open = |ticket: &str| run(home.cairn().args(["volume", "open", ticket]), 0);
    open(&ticket(&["--read-only"]));
    let place = home.place("photos");
    let mounted = run(home.cairn().args(["mount", "photos"]).arg(&place), 0);
    let told = String::from_utf8_lossy(&mounted.stderr).into_owned();
    assert!(told.contains("may only read that volume"), "{told}");
    let (_, _, options) = listed(&place).unwrap();
    assert!(options.split(',').any(|option| option == "ro"), "{options}");
    let refused = std::fs::write(place.join("file"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    assert_eq!(home.volumes()[0]["read_only"], true);
    home.umount(&place);
    // With a ticket for writing it takes them.
    open(&ticket(&[]));
    home.mount(&["photos"], &place);
    use_it(&place);
    home.umount(&place);
    run(cairn(&owner).arg("umount").arg(&theirs), 0);
    node.stop();
}

#[test]
fn how_safe_a_path_is_is_told() {
    let Some(home) = Home::new() else { return };
    let place = home.place("pool");
    let arguments = ["--peers", "4", "--redundancy", "2+2", "--mount"];
    let mut devnet = Devnet::start(&[&arguments[..], &[place.to_str().unwrap()]].concat());
    let sub = place.join("sub");
    std::fs::create_dir(&sub).unwrap();
    random_file(&sub.join("large"), 3 << 20, 1);
    std::fs::hard_link(sub.join("large"), sub.join("again")).unwrap();
    std::fs::write(sub.join("small"), "0123456789").unwrap();
    random_file(&place.join("beside"), 5 << 20, 2);
    run(devnet.cairn(0).arg("sync"), 0);

    let ask = |devnet: &Devnet, path: &Path| {
        json(&run(devnet.cairn(0).args(["--json", "stat"]).arg(path), 0))
    };
    let stat = ask(&devnet, &sub);
    assert_eq!(
        (&stat["files"], &stat["directories"]),
        (&2.into(), &1.into())
    );
    assert_eq!(stat["size_bytes"], (3 << 20) + 10);
    assert_eq!(
        (&stat["inline_bytes"], &stat["journal_bytes"]),
        (&10.into(), &0.into())
    );
    assert_eq!(stat["redundancy"], serde_json::json!(["2+2"]));
    assert_eq!(stat["shards"], stat["shards_present"]);
    let blocks = stat["blocks"].as_u64().unwrap();
    assert_eq!(stat["shards"], blocks * 4);
    let line = "all of it survives the loss of any 2 of 4 peers";
    assert_eq!(
        (&stat["survives"], &stat["line"]),
        (&2.into(), &line.into())
    );
    let whole = ask(&devnet, &place);
    assert_eq!(
        (&whole["files"], &whole["directories"]),
        (&3.into(), &2.into())
    );
    assert!(whole["blocks"].as_u64() > Some(blocks), "{whole}");
    assert_eq!(ask(&devnet, &sub.join("small"))["blocks"], 0);

    let outside = run(devnet.cairn(0).arg("stat").arg(home.dir.path()), 3);
    assert!(String::from_utf8_lossy(&outside.stderr).contains("in no volume of this peer"));
    for lost in [3, 2] {
        devnet.kill(lost);
        wait_until("the loss is told", END_MAX, || {
            ask(&devnet, &sub)["survives"] == lost - 2
        });
    }
    let line = ask(&devnet, &sub)["line"].as_str().unwrap().to_owned();
    assert!(
        line.contains("the loss of no peer") && line.contains("shards are missing"),
        "{line}"
    );
    devnet.kill(1);
    wait_until("too much is lost", END_MAX, || {
        let output = devnet.cairn(0).arg("stat").arg(&sub).output().unwrap();
        output.status.code() == Some(3)
    });
}
