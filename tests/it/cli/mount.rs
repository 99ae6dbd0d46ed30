//! Volumes and mounts as the command line has them: what is asked of a peer, what is shown, how it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairnfs::admin::AdminError;
use cairnfs::admin::types::{VolumeClock, VolumeInfo};

use super::fake_peer::FakePeer;
use crate::support::{cairn, json, run, signal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn volume(name: &str, mounted_on: Option<&str>) -> VolumeInfo {
    VolumeInfo {
        name: name.to_owned(),
        redundancy: "4+2".to_owned(),
        local: true,
        mounted_on: mounted_on.map(ToOwned::to_owned),
        ..VolumeInfo::default()
    }
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let peer = FakePeer::start();
    let none = run(peer.cairn().args(["volume", "list"]), 0);
    assert!(none.stdout.is_empty());
    assert!(text(&none.stderr).contains("cairn mount DIR"));
    let made = [
        "--json",
        "volume",
        "create",
        "photos",
        "--redundancy",
        "3+1",
    ];
    let made = json(&run(peer.cairn().args(made), 0));
    assert_eq!(made["name"], "photos");
    assert_eq!(made["redundancy"], "3+1");
    run(peer.cairn().args(["volume", "create", "photos"]), 4);
    run(
        peer.cairn()
            .args(["volume", "create", "x", "--redundancy", "3"]),
        2,
    );
    let shown = text(&run(peer.cairn().args(["volume", "list"]), 0).stdout);
    assert!(shown.starts_with("name    redundancy"), "{shown}");
    assert!(shown.contains("photos  3+1"), "{shown}");
    let listed = json(&run(peer.cairn().args(["--json", "volume", "list"]), 0));
    assert_eq!(listed["volumes"][0]["name"], "photos");
    // Nobody is there to be asked.
    let unasked = run(peer.cairn().args(["volume", "remove", "photos"]), 2);
    assert!(text(&unasked.stderr).contains("--yes"));
    assert_eq!(peer.fake.volumes.lock().unwrap().len(), 1);
    run(
        peer.cairn().args(["volume", "remove", "photos", "--yes"]),
        0,
    );
    run(
        peer.cairn().args(["volume", "remove", "photos", "--yes"]),
        3,
    );
}

#[test]
fn volumes_are_shared_opened_and_their_members_shown() {
    let peer = FakePeer::start();
    let ask = |arguments: &[&str], code| run(peer.cairn().arg("volume").args(arguments), code);
    let document = |arguments: &[&str]| {
        let mut command = peer.cairn();
        json(&run(command.args(["--json", "volume"]).args(arguments), 0))
    };
    // The ticket alone on the standard output, one line about it on the other.
    let made = ask(&["ticket", "photos"], 0);
    assert_eq!(text(&made.stdout), "cairn-volume:None\n");
    let told = text(&made.stderr);
    assert!(told.contains("cairn volume open") && told.contains("read and write `photos`"));
    assert_eq!(told.lines().count(), 1, "{told}");
    let made = document(&["ticket", "photos", "--read-only", "--expires", "7d"]);
    assert_eq!(made["ticket"], "cairn-volume:Some(604800000)");
    assert_eq!(made["read_only"], true);
    ask(&["ticket"], 2);
    ask(&["ticket", "photos", "--expires", "soon"], 2);

    let opened = ask(&["open", "cairn-volume:r"], 0);
    let told = text(&opened.stderr);
    assert!(opened.stdout.is_empty());
    for part in [
        "Joined network n: 2 peers",
        "for reading",
        "cairn mount photos DIR",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let again = document(&["open", "cairn-volume:r"]);
    assert_eq!(
        (&again["known"], &again["improved"]),
        (&true.into(), &false.into())
    );
    assert_eq!(again["volume"]["share"]["role"], "reader");
    assert!(text(&ask(&["open", "cairn-volume:r"], 0).stderr).contains("is here already"));
    let named = ask(&["open", "cairn-volume:w", "--name", "mine"], 0);
    assert!(text(&named.stderr).contains("cairn mount mine DIR"));
    ask(&["open", "nonsense"], 2);
    let file = peer.path("ticket");
    std::fs::write(&file, "cairn-volume:secret\n").unwrap();
    let mut open = peer.cairn();
    open.args(["volume", "open", "-"]);
    run(open.stdin(std::fs::File::open(&file).unwrap()), 0);

    let shown = text(&ask(&["list"], 0).stdout);
    assert!(shown.starts_with("name    redundancy  shared"), "{shown}");
    assert!(shown.contains("for writing"), "{shown}");
    assert!(shown.contains("nothing of its tree is here yet"), "{shown}");
    let members = text(&ask(&["members", "photos"], 0).stdout);
    assert!(members.contains("12D3KooWother  own\u{20}"), "{members}");
    assert!(
        members.contains("12D3KooWfake   write (this peer) "),
        "{members}"
    );
    let gone =
        "nothing: revoked by 12D3KooWother on 2023-11-14 22:13 UTC; 3 later changes are refused";
    assert!(members.contains(gone), "{members}");
    assert!(members.contains("0badcafe"), "{members}");
    assert!(members.contains("12D3KooWthird  read "), "{members}");
    assert_eq!(document(&["members", "x"])["members"][1]["own"], true);
    let revoked = ask(&["revoke", "photos", "12D3KooWgone"], 0);
    let told = text(&revoked.stderr);
    assert!(revoked.stdout.is_empty() && told.contains("has no part in `photos` any more"));
    assert!(told.contains("stays a member: 12D3KooWthird"), "{told}");
    let ended = text(&ask(&["revoke", "photos", "0badcafe"], 0).stderr);
    assert!(
        ended.contains("Nobody joins `photos` by that ticket"),
        "{ended}"
    );
    assert_eq!(document(&["revoke", "x", "0badcafe"])["is_ticket"], true);
    ask(&["revoke", "photos"], 2);
    let alone = ask(&["members", "alone"], 0);
    assert!(text(&alone.stderr).contains("cairn volume ticket alone"));
    // What else is told of a shared volume.
    let status = text(&run(peer.cairn().arg("status"), 0).stdout);
    assert!(status.contains("shared, for writing"), "{status}");
    let removed = text(&ask(&["remove", "mine", "--yes"], 0).stderr);
    assert!(removed.contains("for its other members"), "{removed}");
}

#[test]
fn a_mount_that_may_only_be_read_says_so() {
    let peer = FakePeer::start();
    run(peer.cairn().args(["volume", "open", "cairn-volume:r"]), 0);
    let place = peer.path("place");
    let mount = |arguments: &[&str]| {
        let mut command = peer.cairn();
        command
            .arg("mount")
            .args(arguments)
            .arg("photos")
            .arg(&place);
        text(&run(&mut command, 0).stderr)
    };
    assert!(mount(&[]).contains("may only read that volume"));
    assert!(!mount(&["--read-only"]).contains("may only read"));
}

#[test]
fn status_tells_of_each_volume() {
    let peer = FakePeer::start();
    *peer.fake.volumes.lock().unwrap() = vec![volume("idle", None)];
    run(
        peer.cairn()
            .args(["-q", "mount", "--read-only", "photos", "/mnt/p"]),
        0,
    );
    let shown = text(&run(peer.cairn().arg("status"), 0).stdout);
    assert!(shown.contains("volume    idle: not mounted\n"), "{shown}");
    let line = "photos: on /mnt/p (read only); 2 MiB dirty, 1 MiB queued, 3 MiB under-redundant\n";
    assert!(shown.contains(line), "{shown}");
    let status = json(&run(peer.cairn().args(["--json", "status"]), 0));
    assert_eq!(status["volumes"][1]["mounted_on"], "/mnt/p");
    assert_eq!(status["volumes"][1]["usage"]["dirty_bytes"], 2 << 20);
}

#[test]
fn status_names_clocks_that_are_ahead_and_feeds_that_forked() {
    let peer = FakePeer::start();
    let clock = |peer: &str, own| VolumeClock {
        peer: peer.to_owned(),
        own,
        ahead_ms: 31 * 60_000,
    };
    *peer.fake.volumes.lock().unwrap() = vec![VolumeInfo {
        clocks: vec![clock("12D3KooWown", true), clock("12D3KooWother", false)],
        forked: vec!["12D3KooWtwin".to_owned()],
        ..volume("docs", Some("/mnt/d"))
    }];
    let shown = text(&run(peer.cairn().arg("status"), 0).stdout);
    for line in [
        "clock     this machine's is 31 min ahead of others of `docs`",
        "          that of 12D3KooWother is 31 min ahead",
        "forked    12D3KooWtwin wrote two different things to `docs`",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    let status = json(&run(peer.cairn().args(["--json", "status"]), 0));
    assert_eq!(status["volumes"][0]["clocks"][0]["own"], true);
}

#[test]
fn a_running_peer_is_asked_to_mount() {
    let peer = FakePeer::start();
    let mut mount = peer.cairn();
    mount
        .arg("mount")
        .arg("sub/../dir")
        .current_dir(peer.home.path());
    let told = text(&run(&mut mount, 0).stderr);
    assert!(
        told.contains("`default`, which is new, is mounted on /"),
        "{told}"
    );
    assert!(told.contains("cairn umount /"), "{told}");
    let asked = peer.fake.mounts.lock().unwrap().pop().unwrap();
    assert_eq!(asked.volume, None);
    let dir = asked.dir_hex.path().unwrap();
    assert_eq!(dir, peer.home.path().join("sub/../dir"));
    assert!(!asked.read_only && !asked.allow_other && !asked.suid && !asked.no_exec);

    let options = "-onosuid,x-systemd.automount,ro,allow_other,dev,suid,noexec,nonempty";
    let given = ["--json", "mount", "photos", "/mnt/p", options];
    let mounted = json(&run(peer.cairn().args(given), 0));
    assert_eq!(mounted["volume"], "photos");
    assert_eq!(mounted["dir"], "/mnt/p");
    let asked = peer.fake.mounts.lock().unwrap().pop().unwrap();
    assert_eq!(asked.volume.as_deref(), Some("photos"));
    assert!(asked.read_only && asked.allow_other && asked.suid && asked.dev);
    assert!(asked.no_exec && asked.over_non_empty);

    for arguments in [
        &["mount"][..],
        &["mount", "a", "b", "c"],
        &["mount", "-o", "sync", "/mnt"],
        &["umount"],
        &["umount", "/a", "/b"],
        &["volume"],
    ] {
        run(peer.cairn().args(arguments), 2);
    }
}

#[test]
fn refusals_have_their_codes_and_remedies() {
    let peer = FakePeer::start();
    for (refusal, code) in [
        (AdminError::missing("/d does not exist"), 3),
        (AdminError::refused("/d is not empty"), 4),
        (AdminError::failed("there is no /dev/fuse"), 1),
        (AdminError::usage("/d is not a directory"), 2),
    ] {
        let refusal = refusal.hint("do this");
        *peer.fake.refusal.lock().unwrap() = Some(refusal.clone());
        let output = run(peer.cairn().args(["--json", "mount", "/d"]), code);
        assert_eq!(json(&output)["error"], refusal.error.as_str());
        assert!(text(&output.stderr).contains("hint: do this"));
    }
    let busy = AdminError::refused("/d is in use").hint("--lazy");
    *peer.fake.refusal.lock().unwrap() = Some(busy);
    let output = run(peer.cairn().args(["umount", "/d"]), 4);
    assert!(text(&output.stderr).contains("/d is in use"));
}

#[test]
fn a_peer_is_asked_to_unmount() {
    let peer = FakePeer::start();
    run(peer.cairn().args(["-q", "mount", "photos", "/mnt/p"]), 0);
    run(peer.cairn().args(["umount", "--lazy", "/mnt/p"]), 0);
    let asked = peer.fake.umounts.lock().unwrap().pop().unwrap();
    assert!(asked.lazy);
    assert_eq!(asked.dir_hex.path().unwrap().to_str(), Some("/mnt/p"));
}

#[test]
fn without_a_peer_nothing_is_mounted_or_synced() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let output = run(cairn(&data).arg("umount").arg(dir.path()), 3);
    assert!(text(&output.stderr).contains("nothing is mounted on"));
    let output = run(cairn(&data).arg("umount").arg(dir.path().join("no")), 3);
    assert!(text(&output.stderr).contains("does not exist"));
    let output = run(cairn(&data).args(["umount", "/proc"]), 4);
    assert!(text(&output.stderr).contains("no volume of cairn"));
    let output = run(cairn(&data).arg("sync"), 3);
    assert!(text(&output.stderr).contains("no peer is running"));
    let output = run(cairn(&data).arg("conflicts"), 3);
    assert!(text(&output.stderr).contains("no peer is running"));
    assert!(!data.exists(), "looking makes nothing");
}

#[test]
fn conflicts_are_listed_and_ended() {
    let peer = FakePeer::start();
    let listed = run(peer.cairn().args(["conflicts", "/mnt/p"]), 0);
    let (told, notes) = (text(&listed.stdout), text(&listed.stderr));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines[1].starts_with("/mnt/p/a ") && lines[1].contains("it is content"));
    assert!(lines[1].contains("12D3KooWfake (this peer)"));
    assert!(lines[2].starts_with("/mnt/p/a.conflict-x ") && !lines[2].contains("it is"));
    // As short as in the names of conflict copies.
    assert!(
        lines[2].contains("Bj4kx6nX") || lines[2].contains("kx6nXTN"),
        "{told}"
    );
    assert!(!lines[2].contains("12D3KooWDpJ7"));
    assert!(lines[3].contains("it is returned"));
    assert!(notes.contains("cairn conflicts resolve PATH"), "{notes}");
    let document = json(&run(peer.cairn().args(["--json", "conflicts"]), 0));
    assert_eq!(document["conflicts"][0]["sides"][0]["own"], true);
    assert_eq!(document["conflicts"][1]["kind"], "returned");
    let quiet = run(peer.cairn().args(["conflicts", "/mnt/quiet"]), 0);
    assert!(quiet.stdout.is_empty() && text(&quiet.stderr).contains("no conflicts"));

    let resolve = |arguments: &[&str], code| {
        let mut command = peer.cairn();
        run(command.args(["conflicts", "resolve"]).args(arguments), code)
    };
    let ended = resolve(&["/mnt/p/a", "--keep", "ours"], 0);
    assert_eq!(
        text(&ended.stderr),
        "Kept as /mnt/p/a; what went: what is not ours.\n"
    );
    let ended = resolve(&["/mnt/p/a", "--keep", "both"], 0);
    assert_eq!(text(&ended.stderr), "No longer contested: /mnt/p/a.\n");
    resolve(&["/mnt/p/a"], 2);
    resolve(&["/mnt/p/a", "--keep", "newest"], 2);
    resolve(&["--keep", "ours"], 2);
}

#[test]
fn a_sync_is_followed_to_its_end() {
    let peer = FakePeer::start();
    let told = text(&run(peer.cairn().arg("sync"), 0).stderr);
    assert_eq!(
        told,
        "a, b: 5 MiB brought into the pool, at full redundancy\n"
    );
    let last = json(&run(peer.cairn().args(["--json", "sync"]), 0));
    assert_eq!(last["done"], true);
    // What was brought into the pool is one thing, what is in it another.
    let told = text(&run(peer.cairn().args(["sync", "/mnt/frail"]), 0).stderr);
    assert_eq!(
        told,
        "a: everything is in the pool; of all that is in the volume, 300 MiB is on fewer peers than its \
         redundancy asks for\n"
    );
    let broken = run(peer.cairn().args(["sync", "/mnt/p"]), 1);
    assert!(text(&broken.stderr).contains("ended before"));
}

#[test]
fn a_mount_waits_for_a_peer_that_ends_with_another_command() {
    let peer = FakePeer::start();
    peer.fake.is_embedded.store(true, Ordering::SeqCst);
    let mut mount = peer.cairn().args(["mount", "/mnt/p"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(mount.try_wait().unwrap().is_none());
    assert!(peer.fake.mounts.lock().unwrap().is_empty());
    peer.fake.is_embedded.store(false, Ordering::SeqCst);
    assert!(mount.wait().unwrap().success());
    assert_eq!(peer.fake.mounts.lock().unwrap().len(), 1);
}

#[test]
fn in_the_foreground_it_lasts_as_long_as_the_mount() {
    let peer = FakePeer::start();
    let begin = |place: &str| {
        let mut mount = peer.cairn();
        mount.args(["-q", "--json", "mount", "--foreground", "photos", place]);
        let mut child = mount.stdout(Stdio::piped()).spawn().unwrap();
        // Before it says so, a signal would be an interruption.
        let shown = BufReader::new(child.stdout.take().unwrap());
        assert!(shown.lines().any(|line| line.unwrap() == "}"));
        child
    };
    // Somebody else unmounts it.
    let mut child = begin("/mnt/a");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    run(peer.cairn().args(["umount", "/mnt/a"]), 0);
    assert!(child.wait().unwrap().success());
    peer.fake.umounts.lock().unwrap().clear();
    // Its user ends it.
    let mut child = begin("/mnt/b");
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    let asked = peer.fake.umounts.lock().unwrap().pop().unwrap();
    assert_eq!(asked.dir_hex.path().unwrap().to_str(), Some("/mnt/b"));
}

#[test]
fn it_is_a_helper_of_mount_by_that_name() {
    let peer = FakePeer::start();
    let helper = |arguments: &[&str], code| {
        let mut command = Command::new(crate::support::bin());
        command
            .arg0("/sbin/mount.cairn")
            .args(arguments)
            .env_remove("CAIRN_CONFIG");
        run(&mut command, code)
    };
    let data = format!("ro,nofail,data-dir={}", peer.data_dir.display());
    helper(&["photos", "/mnt/p", "-n", "-o", &data], 0);
    let asked = peer.fake.mounts.lock().unwrap().pop().unwrap();
    assert_eq!(asked.volume.as_deref(), Some("photos"));
    assert!(asked.read_only && !asked.allow_other);
    helper(&["photos", "/mnt/p", "-f", "-o", &data], 0);
    assert!(peer.fake.mounts.lock().unwrap().is_empty());
    let wrong = helper(&["photos", "/mnt/p", "-o", "whatever"], 2);
    assert!(text(&wrong.stderr).contains("mount.cairn VOLUME DIR"));
}
