//! `[network]`: whom a peer talks to, of how many it knows, and what it thinks of them.

use std::time::Duration;

use super::{ask, peer_id, sees, used};
use crate::support::{Devnet, random_file, run, sockets, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

#[test]
fn a_shared_zone_gets_one_shard_of_each_block() {
    let mut net = Devnet::start(&["--peers", "4", "--redundancy", "1+2"]);
    let file = net.dir.path().join("file");
    const SIZE: u64 = 40 * MIB;
    let mut stored = Vec::new();
    // Without a shared zone each block leaves one of four out, by chance; with one always one of
    // the two that share it.
    for (seed, zones) in [(1, ["a", "b", "c", "d"]), (2, ["a", "a", "c", "d"])] {
        for (at, zone) in zones.into_iter().enumerate() {
            net.reconfigure(at, |config| config.network.zone = zone.to_owned());
            // What upkeep moves, now that the zones are others, would be counted as well.
            run(net.cairn(at).args(["workers", "pause", "repair"]), 0);
        }
        for at in 0..4 {
            net.wait_connected(at);
        }
        let before: Vec<u64> = (0..4).map(|at| used(&net, at)).collect();
        random_file(&file, SIZE as usize, seed);
        net.put(0, &file);
        let grown = (0..4).map(|at| used(&net, at).saturating_sub(before[at]));
        stored.push(grown.collect::<Vec<u64>>());
    }
    let has_all = |grown: u64| grown >= about(SIZE);
    assert!(
        !has_all(stored[0][2]) || !has_all(stored[0][3]),
        "{stored:?}"
    );
    assert!(has_all(stored[1][2]) && has_all(stored[1][3]), "{stored:?}");
    assert!(
        !has_all(stored[1][0]) || !has_all(stored[1][1]),
        "{stored:?}"
    );
}

/// Of a peer that has a shard of each block of `size` bytes: other rows may have become fewer meanwhile.
fn about(size: u64) -> u64 {
    size - size / 64
}

/// A ticket says whether those who join by it share a zone, and placement follows.
#[test]
fn an_invitation_may_vouch_for_separate_zones() {
    const SIZE: u64 = 64 * MIB;
    for flags in [&[][..], &["--separate-zones"]] {
        let mut net = Devnet::start(&["--peers", "1", "--redundancy", "1+1"]);
        let invited = ask(&net, 0, &[&["invite"], flags].concat());
        let ticket = invited["ticket"].as_str().unwrap().to_owned();
        for name in ["guest", "other guest"] {
            let at = net.add_peer(name);
            run(net.cairn(at).args(["-q", "join", &ticket]), 0);
        }
        for at in 0..3 {
            net.wait_connected(at);
        }
        let zones: Vec<_> = (1..3)
            .map(|at| ask(&net, at, &["status"])["zone"].clone())
            .collect();
        let is_shared = flags.is_empty();
        assert_eq!(zones[0] == zones[1], is_shared, "{zones:?}");
        assert_eq!(invited["separate_zones"], !is_shared);
        // Of two shards a shared zone gets one: the other is always the founder's.
        let file = net.dir.path().join("file");
        random_file(&file, SIZE as usize, 1);
        let before = used(&net, 0);
        net.put(1, &file);
        let has_all = used(&net, 0) - before >= about(SIZE);
        assert_eq!(has_all, is_shared);
        // Whoever was not vouched for cannot vouch for others.
        let again = net.cairn(1).args(["invite", "--separate-zones"]).output();
        let again = again.unwrap();
        assert_eq!(again.status.code(), Some(if is_shared { 4 } else { 0 }));
        let told = String::from_utf8_lossy(&again.stderr).into_owned();
        assert_eq!(told.contains("hint: "), is_shared, "{told}");
    }
}

/// TCP connections that a process has, of either plane.
fn connections(pid: u32) -> usize {
    let own = sockets(pid);
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let is_own = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 01: established.
        fields.get(3) == Some(&"01") && fields.get(9).is_some_and(|inode| own.contains(*inode))
    };
    table.lines().filter(is_own).count()
}

#[test]
fn no_more_connections_than_allowed() {
    let mut net = Devnet::start(&["--peers", "12", "--quota", "64MiB"]);
    net.reconfigure(0, |config| config.network.max_connections = 256);
    wait_until("all are connected", LIMIT, || {
        ask(&net, 0, &["status"])["connected"] == 11
    });
    let unbounded = connections(net.peers[0].pid);
    assert!(unbounded >= 11, "{unbounded}");
    net.reconfigure(0, |config| config.network.max_connections = 8);
    wait_until("some are connected", LIMIT, || {
        ask(&net, 0, &["status"])["connected"].as_u64() > Some(2)
    });
    let mut bounded = Vec::new();
    for _ in 0..20 {
        let connected = ask(&net, 0, &["status"])["connected"].as_u64();
        assert!(connected <= Some(8), "{connected:?}");
        bounded.push(connections(net.peers[0].pid));
        std::thread::sleep(Duration::from_millis(200));
    }
    // Those who prove who they are, and leave then, come and go.
    println!("{unbounded} connections of 11 peers, {bounded:?} of 8 at most");
    assert!(
        bounded.iter().all(|count| *count <= 2 * 8 + 32),
        "{bounded:?}"
    );
    assert!(bounded.iter().any(|count| *count <= 2 * 8), "{bounded:?}");
}

#[test]
fn no_more_members_are_kept_than_allowed() {
    let mut net = Devnet::start(&["--peers", "6", "--quota", "64MiB"]);
    net.reconfigure(0, |config| config.network.max_members = 1024);
    wait_until("all are known", LIMIT, || {
        ask(&net, 0, &["status"])["members"] == 6
    });
    net.reconfigure(0, |config| config.network.max_members = 3);
    wait_until("some are known", LIMIT, || {
        ask(&net, 0, &["status"])["members"] == 3
    });
    for _ in 0..10 {
        let members = ask(&net, 0, &["status"])["members"].as_u64();
        assert!(members <= Some(3), "{members:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Those it does not know are looked up.
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    let link = net.put(0, &file);
    net.get(5, &link, &net.dir.path().join("back"));
}

#[test]
fn only_allowed_peers_are_talked_to() {
    let mut net = Devnet::start(&["--peers", "3"]);
    let ids: Vec<String> = (0..3).map(|at| peer_id(&net, at)).collect();
    let allowed = vec![ids[0].parse().unwrap()];
    net.reconfigure(2, |config| config.network.allow = allowed);
    wait_until("the allowed one is met", LIMIT, || sees(&net, 2, &ids[0]));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!sees(&net, 2, &ids[1]), "it is not on the list");
    assert!(!sees(&net, 1, &ids[2]), "nor does it get in");
    net.reconfigure(2, |config| config.network.allow = Vec::new());
    wait_until("all are met again", LIMIT, || {
        sees(&net, 2, &ids[1]) && sees(&net, 1, &ids[2])
    });
}

#[test]
fn denied_peers_are_not_talked_to() {
    let mut net = Devnet::start(&["--peers", "3"]);
    let ids: Vec<String> = (0..3).map(|at| peer_id(&net, at)).collect();
    let denied = vec![ids[1].parse().unwrap()];
    net.reconfigure(2, |config| config.network.deny = denied);
    wait_until("the other is met", LIMIT, || sees(&net, 2, &ids[0]));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!sees(&net, 2, &ids[1]), "it is denied");
    assert!(!sees(&net, 1, &ids[2]), "nor does it get in");
    net.reconfigure(2, |config| config.network.deny = Vec::new());
    wait_until("all are met again", LIMIT, || {
        sees(&net, 2, &ids[1]) && sees(&net, 1, &ids[2])
    });
}
