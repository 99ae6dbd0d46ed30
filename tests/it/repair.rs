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
