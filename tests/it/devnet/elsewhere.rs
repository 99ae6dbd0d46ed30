//! Shards go elsewhere where one peer has no room for them.

use std::time::Duration;

use crate::support::{Devnet, allocated, random_file, wait_until};

const SMALL: usize = 3;

#[test]
fn a_small_peer_among_roomy_ones_fills_up_and_costs_nothing() {
    let net = Devnet::start(&["--peers", "7", "--quota", "96MiB"]);
    let file = net.dir.path().join("file");
    random_file(&file, 64 << 20, 8);
    net.put(0, &file);
    // Room for a dozen shards is left, and it is a candidate for every other block at least.
    let lowered = net.ask(SMALL, &["quota", "32MiB"]);
    assert!(lowered["free_bytes"].as_u64() > Some(4 << 20), "{lowered}");
    let id = net.ask(SMALL, &["status"])["peer"].clone();
    wait_until("the putter hears of it", Duration::from_secs(20), || {
        let peers = net.ask(0, &["peers"]);
        let mut peers = peers["peers"].as_array().unwrap().iter();
        peers.any(|peer| peer["peer"] == id && peer["capacity_bytes"] == 32 << 20)
    });
    random_file(&file, 192 << 20, 9);
    let put = net.ask(0, &["put", &file.to_string_lossy()]);
    assert_eq!(put["survives"], 2, "{put}");
    assert_eq!(put["peers"], 7, "{put}");
    let now = net.ask(SMALL, &["quota"]);
    assert!(now["free_bytes"].as_u64() < Some(1 << 20), "{now}");
    let used = allocated(&net.peers[SMALL].data_dir);
    assert!(used <= 32 << 20, "{used} bytes are more than the quota");
    let link = put["link"].as_str().unwrap();
    let stat = net.ask(6, &["stat", link]);
    assert_eq!(stat["shards_present"], stat["shards"], "{stat}");
    let back = net.dir.path().join("back");
    net.get(5, link, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}
