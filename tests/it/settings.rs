//! Every key of the config file, measured: with another value the peers behave otherwise.
//!
//! Real processes, and for each key two values and the difference that follows from it. Rates are
//! bounded from below only: a limit holds, however slow the machine is.

mod mount;
mod network;
mod peers;
mod storage;
mod transfer;
mod upkeep;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cairnfs::config::KEYS;
use serde_json::Value;

use crate::support::{Devnet, cairn, json, run, wait_until};

/// Every key, and the test in which changing it changes what is measured.
const TESTS: &[(&str, &str)] = &[
    ("storage.quota", "a_quota_is_how_much_is_taken_in"),
    (
        "storage.reserve_free",
        "what_is_reserved_of_the_disk_is_not_used",
    ),
    (
        "storage.offer",
        "a_peer_without_offer_stores_for_nobody_else",
    ),
    ("storage.trash", "what_is_let_go_rests_as_long_as_told"),
    (
        "network.listen",
        "the_control_plane_listens_where_it_is_told",
    ),
    (
        "network.bulk_listen",
        "the_bulk_plane_listens_where_it_is_told",
    ),
    (
        "network.bootstrap",
        "bootstrap_addresses_bring_strayed_peers_together",
    ),
    (
        "network.mdns",
        "neighbours_are_found_by_multicast_only_if_wanted",
    ),
    ("network.zone", "a_shared_zone_gets_one_shard_of_each_block"),
    (
        "network.max_connections",
        "no_more_connections_than_allowed",
    ),
    (
        "network.max_members",
        "no_more_members_are_kept_than_allowed",
    ),
    (
        "network.max_memory",
        "payloads_take_no_more_memory_than_allowed",
    ),
    ("network.upload_limit", "what_is_sent_is_limited"),
    ("network.download_limit", "what_is_received_is_limited"),
    ("network.allow", "only_allowed_peers_are_talked_to"),
    ("network.deny", "denied_peers_are_not_talked_to"),
    (
        "put.redundancy",
        "data_is_stored_as_redundantly_as_configured",
    ),
    ("fetch.timeout", "a_read_waits_as_long_as_configured"),
    ("mount.durability", "a_sync_waits_for_other_machines"),
    (
        "mount.consistency",
        "closing_waits_for_others_or_not_as_configured",
    ),
    (
        "mount.locks",
        "locks_hold_on_one_machine_or_on_all_as_configured",
    ),
    (
        "mount.commit_interval",
        "changes_are_safe_after_the_commit_interval",
    ),
    ("mount.dirty_max", "writers_wait_when_enough_is_dirty"),
    (
        "mount.read_timeout",
        "a_read_in_a_mount_waits_as_long_as_configured",
    ),
    (
        "mount.conflict",
        "of_two_contents_the_older_goes_where_that_is_configured",
    ),
    ("cache.memory", "what_was_read_lately_stays_in_memory"),
    ("cache.disk", "what_others_sent_stays_on_the_disk"),
    (
        "limits.upload_memory",
        "a_put_takes_as_much_memory_as_allowed",
    ),
    (
        "limits.download_memory",
        "a_get_takes_as_much_memory_as_allowed",
    ),
    (
        "repair.suspect",
        "what_a_peer_holds_counts_as_away_after_the_time_configured",
    ),
    (
        "repair.dead",
        "what_a_peer_held_is_made_anew_after_the_time_configured",
    ),
    ("repair.rate", "repairs_read_no_faster_than_configured"),
    (
        "repair.scrub",
        "shards_are_read_again_as_often_as_configured",
    ),
    ("repair.audit", "others_are_checked_as_often_as_configured"),
    (
        "snapshots.keep",
        "snapshots_are_made_and_kept_as_configured",
    ),
    ("log.level", "messages_are_as_many_as_wanted"),
];

#[test]
fn every_key_has_its_test() {
    let sources = [
        include_str!("settings/mount.rs"),
        include_str!("settings/network.rs"),
        include_str!("settings/peers.rs"),
        include_str!("settings/storage.rs"),
        include_str!("settings/transfer.rs"),
        include_str!("settings/upkeep.rs"),
        // What it takes several mounts to measure.
        include_str!("../mount/agreed.rs"),
    ];
    let keys: BTreeSet<&str> = KEYS.iter().map(|key| key.path).collect();
    let tested: BTreeSet<&str> = TESTS.iter().map(|(key, _)| *key).collect();
    assert_eq!(
        keys, tested,
        "a key without a test, or a test without a key"
    );
    let names: BTreeSet<&str> = TESTS.iter().map(|(_, name)| *name).collect();
    assert_eq!(names.len(), keys.len(), "one test for each key");
    for (key, name) in TESTS {
        let test = format!("#[test]\nfn {name}() {{");
        let found: Vec<&str> = sources
            .iter()
            .filter_map(|source| source.split_once(&test))
            .map(|(_, rest)| rest.split_once("\n}\n").map_or(rest, |(body, _)| body))
            .collect();
        assert_eq!(found.len(), 1, "{name}");
        // It is about this key: the field is named in it.
        let (_, field) = key.split_once('.').expect("a table and a name");
        assert!(found[0].contains(field), "{name} does not set {key}");
    }
}

/// The document of a command that succeeds.
fn ask(net: &Devnet, at: usize, arguments: &[&str]) -> Value {
    json(&run(net.cairn(at).arg("--json").args(arguments), 0))
}

fn peer_id(net: &Devnet, at: usize) -> String {
    let status = ask(net, at, &["status"]);
    status["peer"].as_str().expect("a peer id").to_owned()
}

/// Whether `at` sees `other` as alive.
fn sees(net: &Devnet, at: usize, other: &str) -> bool {
    let peers = ask(net, at, &["peers"]);
    let peers = peers["peers"].as_array().expect("a list");
    peers
        .iter()
        .any(|peer| peer["peer"] == other && peer["live"] == true)
}

/// Bytes that `at` occupies.
fn used(net: &Devnet, at: usize) -> u64 {
    let status = ask(net, at, &["status"]);
    status["storage"]["used_bytes"].as_u64().expect("a number")
}

/// The greatest resident size that a process ever had, in bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a peak") << 10
}

/// How long a command takes, which must succeed.
fn time(command: &mut std::process::Command) -> Duration {
    let begun = Instant::now();
    run(command, 0);
    begun.elapsed()
}

/// A peer of its own, with what it says kept in `log`; killed with this value.
struct Alone(Child);

impl Alone {
    fn start(data_dir: &Path, log: &Path) -> Alone {
        let log = std::fs::File::create(log).expect("a file");
        let child = cairn(data_dir)
            .arg("node")
            .env_remove("CAIRN_LOG")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the peer starts");
        let socket = data_dir.join("control.sock");
        let peer = Alone(child);
        wait_until("the peer answers", Duration::from_secs(20), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        peer
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
