//! `[storage]`, `[put]` and `[log]`.

use std::time::Duration;

use cairnfs::base::ByteSize;
use cairnfs::config::{LogLevel, Quota};

use super::{Alone, ask, used};
use crate::support::{Devnet, allocated, cairn, edit_config, random_file, run, wait_until};

const MIB: u64 = 1 << 20;

#[test]
fn a_quota_is_how_much_is_taken_in() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    random_file(&file, 48 << 20, 1);
    for (quota, code) in [(32, 4), (128, 0)] {
        let data_dir = home.path().join(format!("quota-{quota}"));
        edit_config(&data_dir, |config| {
            config.storage.quota = Quota::Bytes(ByteSize::mib(quota));
            config.storage.reserve_free = ByteSize(0);
        });
        run(cairn(&data_dir).args(["-q", "put"]).arg(&file), code);
        assert!(allocated(&data_dir) <= quota * MIB);
    }
}

#[test]
fn what_is_reserved_of_the_disk_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    random_file(&file, 4 << 20, 1);
    // More than any disk has; and nothing.
    for (reserve, code) in [(ByteSize(1 << 60), 4), (ByteSize(0), 0)] {
        let data_dir = home.path().join(format!("reserve-{}", reserve.0));
        edit_config(&data_dir, |config| {
            config.storage.quota = Quota::Bytes(ByteSize::mib(128));
            config.storage.reserve_free = reserve;
        });
        let output = run(cairn(&data_dir).args(["-q", "put"]).arg(&file), code);
        assert_eq!(output.stdout.is_empty(), code != 0);
    }
}

#[test]
fn a_peer_without_offer_stores_for_nobody_else() {
    let mut net = Devnet::start(&["--peers", "3", "--redundancy", "1+2"]);
    let file = net.dir.path().join("file");
    let mut grown = Vec::new();
    for (seed, offer) in [(1, true), (2, false)] {
        net.reconfigure(2, |config| config.storage.offer = offer);
        net.wait_connected(2);
        net.wait_connected(0);
        let before = used(&net, 2);
        random_file(&file, 8 << 20, seed);
        let put = ask(&net, 0, &["put", &file.to_string_lossy()]);
        grown.push(used(&net, 2).saturating_sub(before));
        assert_eq!(put["peers"], if offer { 3 } else { 2 });
        // It puts and gets all the same.
        let link = net.put(2, &file);
        net.get(2, &link, &net.dir.path().join(format!("back-{seed}")));
    }
    assert!(grown[0] >= 8 * MIB, "{grown:?}");
    assert!(grown[1] < MIB, "{grown:?}");
}

#[test]
fn data_is_stored_as_redundantly_as_configured() {
    let mut net = Devnet::start(&["--peers", "3"]);
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    for (redundancy, survives) in [("1+1", 1), ("1+2", 2)] {
        net.reconfigure(0, |config| {
            config.put.redundancy = redundancy.parse().unwrap();
        });
        net.wait_connected(0);
        let put = ask(&net, 0, &["put", &file.to_string_lossy()]);
        assert_eq!(put["survives"], survives, "{put}");
        let stat = ask(&net, 0, &["stat", put["link"].as_str().unwrap()]);
        assert_eq!(stat["redundancy"], redundancy);
        let blocks = stat["blocks"].as_u64().unwrap();
        assert_eq!(stat["shards_present"], blocks * (1 + survives));
    }
}

/// What is chosen fits the peers: of seven that are mostly there, less room is enough than by default.
#[test]
fn data_is_stored_as_the_peers_allow_where_that_is_configured() {
    let mut net = Devnet::start(&["--peers", "7"]);
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    let redundancy = |net: &Devnet, arguments: &[&str]| -> String {
        let path = file.to_string_lossy();
        let put = ask(net, 0, &[&["put", &path], arguments].concat());
        let stat = ask(net, 0, &["stat", put["link"].as_str().unwrap()]);
        stat["redundancy"].as_str().unwrap().to_owned()
    };
    assert_eq!(redundancy(&net, &[]), "4+2");
    net.reconfigure(0, |config| {
        config.put.redundancy = "auto".parse().unwrap();
        // How often it looks who is there.
        config.repair.suspect = Duration::from_secs(2);
    });
    net.wait_connected(0);
    wait_until("it knows who is there", Duration::from_secs(60), || {
        redundancy(&net, &[]) == "5+2"
    });
    assert_eq!(redundancy(&net, &["--redundancy", "2+1"]), "2+1");
    assert_eq!(redundancy(&net, &["--redundancy", "auto"]), "5+2");
    let made = ask(
        &net,
        0,
        &["volume", "create", "photos", "--redundancy", "auto"],
    );
    assert_eq!(made["redundancy"], "5+2");
}

#[test]
fn messages_are_as_many_as_wanted() {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let data_dir = home.path().join("data");
    let mut told = Vec::new();
    for level in [LogLevel::Off, LogLevel::Info, LogLevel::Trace] {
        edit_config(&data_dir, |config| {
            config.log.level = level;
            config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            config.network.bulk_listen = Vec::new();
            config.network.mdns = false;
        });
        let peer = Alone::start(&data_dir, &log);
        wait_until("it said that it runs", Duration::from_secs(10), || {
            std::fs::read_to_string(&log).unwrap().contains("runs on")
        });
        // Something to tell of.
        run(cairn(&data_dir).args(["invite"]), 0);
        drop(peer);
        let text = std::fs::read_to_string(&log).unwrap();
        let count = |level: &str| text.matches(&format!(" {level} ")).count();
        told.push((count("INFO"), count("DEBUG") + count("TRACE")));
    }
    assert_eq!(told[0], (0, 0));
    assert!(told[1].0 > 0 && told[1].1 == 0, "{told:?}");
    assert!(told[2].0 > 0 && told[2].1 > 0, "{told:?}");
}
