//! Real peers lose others for good, and make anew what those held.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Devnet, json, line, random_file, run, scaled, wait_until};

const PEERS: usize = 8;
/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn health(net: &Devnet, at: usize) -> Value {
    let status = json(&run(net.cairn(at).args(["--json", "status"]), 0));
    status["health"].clone()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} of {value}"))
}

/// Shards that are there, and that should be.
fn shards(net: &Devnet, at: usize, link: &str) -> (u64, u64) {
    let stat = json(&run(net.cairn(at).args(["--json", "stat", link]), 0));
    (number(&stat, "shards_present"), number(&stat, "shards"))
}

fn every_job(net: &Devnet, living: &[usize], what: &str) {
    for at in living {
        run(net.cairn(*at).args(["workers", what, "repair"]), 0);
    }
}

#[test]
fn what_peers_held_that_are_gone_is_made_anew_by_the_others() {
    let mut net = Devnet::start(&["--peers", "8"]);
    for at in 0..PEERS {
        net.reconfigure(at, |config| {
            config.repair.suspect = Duration::from_secs(1);
            config.repair.dead = Duration::from_secs(3);
        });
    }
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    random_file(&file, scaled(24) << 20, 21);
    let link = net.put(0, &file);
    wait_until("all is as it should be", PATIENCE, || {
        let health = health(&net, 2);
        health["whole"] == true && health["survives"] == 2
    });
    let mut living: Vec<usize> = (0..PEERS).collect();
    // While the job rests, nothing is made.
    every_job(&net, &living, "pause");
    net.kill(0);
    net.kill(1);
    living.retain(|at| *at > 1);
    wait_until("two are away", PATIENCE, || {
        number(&health(&net, 2), "away") == 2
    });
    std::thread::sleep(Duration::from_secs(5));
    let (present, all) = shards(&net, 2, &link);
    assert!(present < all, "{present} of {all}");
    let lost = all - present;
    every_job(&net, &living, "resume");
    wait_until("the lost shards are there again", PATIENCE, || {
        shards(&net, 2, &link) == (all, all)
    });
    wait_until("every peer says so", PATIENCE, || {
        let status = net.cairn(3).args(["status", "--check"]).output().unwrap();
        status.status.success()
            && String::from_utf8_lossy(&status.stdout)
                .contains("survives the loss of any 2 of 8 peers, 2 away")
    });
    let (mut made, mut written, mut read) = (0, 0, 0);
    for at in &living {
        let health = health(&net, *at);
        made += number(&health, "made_shards");
        written += number(&health, "made_bytes");
        read += number(&health, "read_bytes");
    }
    println!("{lost} shards lost, {made} made: {written} bytes of {read} read");
    assert!(made >= lost);
    let dry = run(net.cairn(2).args(["repair", "--dry-run"]), 0);
    assert!(String::from_utf8_lossy(&dry.stdout).starts_with("nothing"));
    net.kill(2);
    net.kill(3);
    let back = net.dir.path().join("back");
    net.get(5, &link, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}

#[test]
fn what_was_put_alone_is_spread_over_those_who_join() {
    let mut net = Devnet::start(&["--peers", "1"]);
    net.reconfigure(0, |config| {
        config.repair.suspect = Duration::from_secs(1);
    });
    let file = net.dir.path().join("file");
    random_file(&file, scaled(6) << 20, 22);
    let link = net.put(0, &file);
    let ticket = line(&run(net.cairn(0).args(["-q", "invite"]), 0));
    for name in ["b", "c", "d", "e", "f"] {
        let at = net.add_peer(name);
        run(net.cairn(at).args(["-q", "join", &ticket]), 0);
    }
    wait_until("everything survives the loss of two", PATIENCE, || {
        let health = health(&net, 0);
        health["whole"] == true && health["survives"] == 2 && health["peers"] == 6
    });
    let (present, all) = shards(&net, 3, &link);
    assert_eq!(present, all);
    // The one that had it all, and another one.
    net.kill(0);
    net.kill(4);
    let back = net.dir.path().join("back");
    net.get(2, &link, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}

#[test]
fn jobs_are_listed_and_only_those_there_are_can_rest() {
    let home = tempfile::tempdir().unwrap();
    let cairn = || crate::support::cairn(home.path());
    let listed = json(&run(cairn().args(["--json", "workers"]), 0));
    let jobs = listed["workers"].as_array().unwrap();
    for name in ["repair", "scrub", "claims"] {
        assert!(jobs.iter().any(|job| job["name"] == name), "{listed}");
    }
    let told = run(cairn().args(["workers", "pause", "nothing"]), 2);
    assert!(String::from_utf8_lossy(&told.stderr).contains("the jobs are"));
    let told = run(cairn().arg("repair"), 2);
    assert!(String::from_utf8_lossy(&told.stderr).contains("--dry-run"));
}

/// Shards that each peer has moved, all together.
fn moved(net: &Devnet, living: &[usize]) -> u64 {
    let of = |at: &usize| number(&health(net, *at), "moved_shards");
    living.iter().map(of).sum()
}

/// The line of a peer in the list of another.
fn line_of(net: &Devnet, at: usize, peer: &str) -> Option<Value> {
    let listed = json(&run(net.cairn(at).args(["--json", "peers"]), 0));
    let lines = listed["peers"].as_array().unwrap().clone();
    lines.into_iter().find(|line| line["peer"] == peer)
}

#[test]
fn joiners_take_their_part_and_one_that_leaves_is_not_missed() {
    let mut net = Devnet::start(&["--peers", "6"]);
    for at in 0..6 {
        net.reconfigure(at, |config| {
            config.repair.suspect = Duration::from_secs(1);
            config.repair.dead = Duration::from_secs(3);
        });
    }
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    random_file(&file, scaled(48) << 20, 23);
    let link = net.put(0, &file);
    let before = number(&health(&net, 0), "blocks").max(1);
    let ticket = line(&run(
        net.cairn(0).args(["-q", "invite", "--separate-zones"]),
        0,
    ));
    for name in ["g", "h", "i"] {
        let at = net.add_peer(name);
        run(net.cairn(at).args(["-q", "join", &ticket]), 0);
    }
    let mut living: Vec<usize> = (0..9).collect();
    wait_until("the joiners have their part", PATIENCE, || {
        let has = |at: usize| {
            number(
                &json(&run(net.cairn(at).args(["--json", "quota"]), 0)),
                "used_bytes",
            )
        };
        moved(&net, &living) > 0 && (6..9).all(|at| has(at) > 2 << 20)
    });
    let mut count = 0;
    wait_until("it has come to rest", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(3));
        let now = moved(&net, &living);
        std::mem::replace(&mut count, now) == now
    });
    wait_until("every shard is there once", PATIENCE, || {
        let (present, all) = shards(&net, 3, &link);
        present == all && health(&net, 3)["survives"] == 2
    });
    println!("{count} shards moved to three joiners, of {before} blocks");
    let made = number(&health(&net, 0), "made_shards");
    // One of the first leaves. A restart in between changes nothing.
    let own = json(&run(net.cairn(1).args(["--json", "status"]), 0))["peer"].clone();
    let own = own.as_str().unwrap().to_owned();
    every_job(&net, &[1], "pause");
    let mut watching = net
        .cairn(1)
        .arg("drain")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("others know that it leaves", PATIENCE, || {
        line_of(&net, 4, &own).is_some_and(|line| line["leaving"] == true)
    });
    watching.kill().unwrap();
    watching.wait().unwrap();
    net.stop(1);
    net.start_again(1, None);
    net.wait_connected(1);
    let status = json(&run(net.cairn(1).args(["--json", "drain", "--status"]), 0));
    assert_eq!(status["draining"], true, "{status}");
    let done = json(&run(net.cairn(1).args(["--json", "drain"]), 0));
    assert_eq!(
        (&done["done"], number(&done, "left_shards")),
        (&Value::Bool(true), 0),
        "{done}"
    );
    println!("drained: {done}");
    let told = run(net.cairn(1).args(["drain", "--status"]), 0);
    assert!(String::from_utf8_lossy(&told.stdout).contains("safe to stop"));
    net.stop(1);
    living.retain(|at| *at != 1);
    wait_until("it is no member any more", PATIENCE, || {
        living.iter().all(|at| line_of(&net, *at, &own).is_none())
    });
    // Longer than it takes to count as gone for good: nobody makes up for it.
    std::thread::sleep(Duration::from_secs(6));
    for at in &living {
        let health = health(&net, *at);
        assert_eq!(
            (number(&health, "away"), number(&health, "peers")),
            (0, 8),
            "{health}"
        );
        assert_eq!(number(&health, "missing_shards"), 0, "{health}");
    }
    assert_eq!(number(&health(&net, 0), "made_shards"), made);
    let (present, all) = shards(&net, 3, &link);
    assert_eq!(present, all);
    // It still survives two.
    net.kill(2);
    net.kill(7);
    let back = net.dir.path().join("back");
    net.get(5, &link, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}

#[test]
fn what_nobody_can_take_over_is_said_and_the_peer_may_stay() {
    let mut net = Devnet::start(&["--peers", "6"]);
    for at in 0..6 {
        net.reconfigure(at, |config| {
            config.repair.suspect = Duration::from_secs(1);
        });
    }
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    random_file(&file, 6 << 20, 24);
    let link = net.put(0, &file);
    let told = run(net.cairn(2).arg("drain"), 4);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("cannot be handed over") && told.contains("5 other peers"),
        "{told}"
    );
    let (present, all) = shards(&net, 3, &link);
    assert_eq!(present, all, "it keeps what it has");
    let status = run(net.cairn(2).arg("status"), 0);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("find no place"), "{status}");
    let told = run(net.cairn(2).args(["drain", "--cancel"]), 0);
    assert!(String::from_utf8_lossy(&told.stdout).contains("stays"));
    wait_until("others count on it again", PATIENCE, || {
        number(&health(&net, 0), "peers") == 6
    });
    run(net.cairn(2).args(["drain", "--cancel", "--status"]), 2);
    // Alone there is nobody to hand anything to.
    let home = tempfile::tempdir().unwrap();
    let told = run(crate::support::cairn(home.path()).arg("drain"), 4);
    assert!(String::from_utf8_lossy(&told.stderr).contains("no other peer"));
}
