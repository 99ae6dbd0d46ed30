//! The quota of peers that run: changed by command, told to others, kept for the next start.

use std::path::Path;
use std::time::Duration;

use cairnfs::base::ByteSize;
use cairnfs::config::{Config, Quota};
use serde_json::Value;

use crate::support::{Devnet, random_file, run, wait_until};

const MIB: u64 = 1 << 20;

/// What peer 0 knows of another's capacity and free room.
fn known(net: &Devnet, other: &Value) -> (u64, u64) {
    let peers = net.ask(0, &["peers"]);
    let peers = peers["peers"].as_array().unwrap();
    let peer = peers.iter().find(|peer| peer["peer"] == *other).unwrap();
    let number = |key: &str| peer[key].as_u64().unwrap();
    (number("capacity_bytes"), number("free_bytes"))
}

fn configured(net: &Devnet, at: usize) -> Quota {
    let file = net.peers[at].data_dir.join("config.toml");
    Config::load(&file).unwrap().storage.quota
}

/// Bytes that are free on the disk of `dir`.
fn free(dir: &Path) -> u64 {
    let disk = rustix::fs::statvfs(dir).unwrap();
    disk.f_bavail * disk.f_frsize
}

/// Others use the disk meanwhile.
fn assert_near(is: &Value, expected: u64) {
    let share = is.as_u64().unwrap() as f64 / expected as f64;
    assert!((0.85..1.15).contains(&share), "{is}, not {expected}");
}

#[test]
fn a_quota_is_changed_while_the_peer_runs() {
    let mut net = Devnet::start(&["--peers", "3", "--redundancy", "1+1"]);
    let room = free(net.dir.path());
    for at in 0..3 {
        assert_near(&net.ask(at, &["quota"])["quota_bytes"], room / 2 / 3);
    }
    let other = net.ask(1, &["status"])["peer"].clone();
    let raised = net.ask(1, &["quota", "256MiB"]);
    assert_eq!(raised["quota_bytes"], 256 * MIB);
    assert_eq!(
        (&raised["auto"], &raised["intake_stopped"]),
        (&false.into(), &Value::Null)
    );
    assert_eq!(configured(&net, 1), Quota::Bytes(ByteSize(256 * MIB)));
    wait_until("others hear of it", Duration::from_secs(20), || {
        known(&net, &other).0 == 256 * MIB
    });

    // Who offers more is given more: now all offer the same.
    for at in [0, 2] {
        net.ask(at, &["quota", "256MiB"]);
    }
    let all = || {
        let peers = net.ask(0, &["peers"]);
        let peers = peers["peers"].as_array().unwrap().clone();
        peers.iter().all(|peer| peer["capacity_bytes"] == 256 * MIB)
    };
    wait_until("others hear of it", Duration::from_secs(20), all);

    let file = net.dir.path().join("file");
    random_file(&file, 96 << 20, 1);
    let link = net.put(0, &file);
    let more = net.dir.path().join("more");
    random_file(&more, 4 << 20, 2);
    for at in [1, 2, 0] {
        let lowered = net.ask(at, &["quota", "32MiB"]);
        assert_eq!(lowered["quota_bytes"], 32 * MIB);
        assert!(lowered["used_bytes"].as_u64() > Some(32 * MIB), "{lowered}");
        assert_eq!(lowered["free_bytes"], 0);
        let why = lowered["intake_stopped"].as_str().unwrap();
        assert!(why.contains("more than the quota of 32 MiB"), "{why}");
        // One with room is too few; and whoever has none itself cannot even begin.
        let why = match at {
            1 => continue,
            2 => "free now",
            _ => "the local store: the store is full",
        };
        let refused = run(net.cairn(0).arg("put").arg(&more), 4);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            told.contains(why) && told.contains("`cairn quota SIZE`"),
            "{told}"
        );
    }
    let shown = run(net.cairn(1).arg("quota"), 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("intake    stopped: "), "{shown}");
    wait_until("others hear of it", Duration::from_secs(20), || {
        known(&net, &other) == (32 * MIB, 0)
    });
    let back = run(net.cairn(2).args(["-q", "get", &link]), 0);
    assert!(back.stdout == std::fs::read(&file).unwrap());

    for at in 0..3 {
        let raised = net.ask(at, &["quota", "300MiB"]);
        assert_eq!(raised["intake_stopped"], Value::Null, "{raised}");
    }
    net.put(0, &more);

    // What cannot be written down does not hold either.
    let config = net.peers[1].data_dir.join("config.toml");
    let good = std::fs::read(&config).unwrap();
    std::fs::write(&config, "[storage]\nqouta = 1\n").unwrap();
    let failed = run(net.cairn(1).args(["quota", "400MiB"]), 4);
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(told.contains("was not changed"), "{told}");
    assert_eq!(net.ask(1, &["quota"])["quota_bytes"], 300 * MIB);
    std::fs::write(&config, good).unwrap();

    net.stop(1);
    net.start_again(1, None);
    assert_eq!(net.ask(1, &["quota"])["quota_bytes"], 300 * MIB);
    let auto = net.ask(1, &["quota", "auto"]);
    assert_eq!(auto["auto"], true);
    let own = auto["used_bytes"].as_u64().unwrap();
    assert_near(&auto["quota_bytes"], (free(net.dir.path()) + own) / 2);
    assert_eq!(configured(&net, 1), Quota::Auto);
    net.stop(1);
    net.start_again(1, None);
    let auto = net.ask(1, &["quota"]);
    assert_eq!(auto["auto"], true);
    assert_near(&auto["quota_bytes"], (free(net.dir.path()) + own) / 2);
}
