//! `[repair]` and `[snapshots]`.

use std::time::{Duration, Instant};

use cairnfs::base::ByteSize;
use cairnfs::base::keep::KeepRule;
use serde_json::Value;

use super::ask;
use crate::support::{Devnet, random_file, run, wait_until};

/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(1);
const PEERS: usize = 4;

fn health(net: &Devnet, at: usize) -> Value {
    ask(net, at, &["status"])["health"].clone()
}

fn started() -> Devnet {
    Devnet::start(&["--peers", "4", "--redundancy", "2+1"])
}

/// Puts some files of so many bytes; their links.
fn put_some(net: &Devnet, count: u64, bytes: usize) -> Vec<String> {
    let put = |seed| {
        let file = net.dir.path().join(format!("file {seed}"));
        random_file(&file, bytes, seed);
        net.put(0, &file)
    };
    (0..count).map(put).collect()
}

fn missing(net: &Devnet, links: &[String]) -> u64 {
    let number = |stat: &Value, name: &str| stat[name].as_u64().unwrap();
    let of = |link: &String| {
        let stat = ask(net, 0, &["stat", link]);
        number(&stat, "shards") - number(&stat, "shards_present")
    };
    links.iter().map(of).sum()
}

#[test]
fn what_a_peer_holds_counts_as_away_after_the_time_configured() {
    let mut net = started();
    net.wait_connected(0);
    put_some(&net, 6, 100_000);
    let waiting = |net: &Devnet| health(net, 0)["waiting_shards"].as_u64().unwrap();
    net.kill(3);
    // Not for some minutes.
    std::thread::sleep(3 * SOON);
    assert_eq!(waiting(&net), 0);
    for at in 0..PEERS - 1 {
        net.reconfigure(at, |config| config.repair.suspect = SOON);
    }
    wait_until("it is waited for", PATIENCE, || waiting(&net) > 0);
}

#[test]
fn what_a_peer_held_is_made_anew_after_the_time_configured() {
    let mut net = started();
    for at in 0..PEERS {
        net.reconfigure(at, |config| config.repair.suspect = SOON);
    }
    net.wait_connected(0);
    let links = put_some(&net, 6, 200_000);
    net.kill(3);
    wait_until("it counts as away", PATIENCE, || missing(&net, &links) > 0);
    // Not for half a day.
    std::thread::sleep(Duration::from_secs(5));
    assert!(missing(&net, &links) > 0);
    for at in 0..PEERS - 1 {
        net.reconfigure(at, |config| config.repair.dead = 2 * SOON);
    }
    net.wait_connected(0);
    wait_until("all is there again", PATIENCE, || {
        missing(&net, &links) == 0
    });
}

/// Loses a peer for good, among some that read so fast: how long until all is made anew, and the most that one read for it.
fn time_of_repairs(rate: ByteSize) -> (f64, u64) {
    let mut net = started();
    for at in 0..PEERS {
        net.reconfigure(at, |config| {
            config.repair.suspect = SOON;
            config.repair.dead = SOON;
            config.repair.rate = rate;
        });
    }
    net.wait_connected(0);
    let links = put_some(&net, 24, 160 << 10);
    let began = Instant::now();
    net.kill(3);
    let of = |at: usize, what: &str| health(&net, at)[what].as_u64().unwrap();
    wait_until("all is made anew", PATIENCE, || {
        missing(&net, &links) == 0 && (0..PEERS - 1).any(|at| of(at, "made_shards") > 0)
    });
    let read = (0..PEERS - 1).map(|at| of(at, "read_bytes")).max();
    (began.elapsed().as_secs_f64(), read.unwrap())
}

#[test]
fn repairs_read_no_faster_than_configured() {
    let rate = ByteSize(160 << 10);
    let (free, _) = time_of_repairs(ByteSize(0));
    let (limited, read) = time_of_repairs(rate);
    println!("{free} s without a limit, {limited} s with one for {read} bytes");
    // Each peer has that rate. It waits after each few repairs for what they read; for the last ones nobody waits.
    let few = 4.0 * f64::from(160 << 10);
    let least = (read as f64 - few) / rate.0 as f64;
    assert!(least > 2.0, "too little was read: {read} bytes");
    assert!(limited > least, "{limited} s, not {least}");
    assert!(
        limited > free + least / 2.0,
        "{free} s without a limit, {limited} s with one"
    );
}

#[test]
fn shards_are_read_again_as_often_as_configured() {
    let mut net = started();
    net.reconfigure(0, |config| config.repair.scrub = SOON);
    net.wait_connected(0);
    put_some(&net, 4, 20_000);
    let examined = |net: &Devnet, at| -> u64 {
        let told = ask(net, at, &["workers"]);
        let jobs = told["workers"].as_array().unwrap();
        let scrub = jobs.iter().find(|job| job["name"] == "scrub").unwrap();
        let words = scrub["status"].as_str().unwrap();
        words.split(' ').next().unwrap().parse().unwrap()
    };
    wait_until("all are read again and again", PATIENCE, || {
        examined(&net, 0) > 20
    });
    assert!(examined(&net, 1) <= 4);
}

#[test]
fn others_are_checked_as_often_as_configured() {
    let mut net = started();
    net.reconfigure(0, |config| config.repair.audit = SOON);
    net.wait_connected(0);
    put_some(&net, 4, 20_000);
    let checks = |net: &Devnet, at: usize| -> u64 {
        let told = ask(net, at, &["peers"]);
        let peers = told["peers"].as_array().unwrap().iter();
        peers
            .filter_map(|peer| peer["trust"]["checks"].as_u64())
            .sum()
    };
    wait_until("all are checked again and again", PATIENCE, || {
        checks(&net, 0) > 20
    });
    // Three others, at one time or another within an hour.
    assert!(checks(&net, 1) <= 3);
    let status = ask(&net, 0, &["status"]);
    assert_eq!(status["distrusted"], serde_json::json!([]), "{status}");
}

#[test]
fn snapshots_are_made_and_kept_as_configured() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !std::path::Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: mounting needs root ({is_root}) and /dev/fuse");
        return;
    }
    let mut net = Devnet::start(&["--peers", "1"]);
    let place = net.dir.path().join("mnt");
    std::fs::create_dir_all(&place).unwrap();
    let kept = |net: &Devnet| {
        let told = ask(net, 0, &["volume", "snapshots", "default"]);
        told["snapshots"].as_array().unwrap().len()
    };
    run(net.cairn(0).arg("mount").arg(&place), 0);
    std::fs::write(place.join("file"), "text").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(kept(&net), 0);
    run(net.cairn(0).arg("umount").arg(&place), 0);
    net.reconfigure(0, |config| {
        config.snapshots.keep = KeepRule {
            hourly: 2,
            ..KeepRule::default()
        };
    });
    run(net.cairn(0).arg("mount").arg(&place), 0);
    wait_until("one is made", PATIENCE, || kept(&net) == 1);
    run(net.cairn(0).arg("umount").arg(&place), 0);
}
