//! Real peers: what goes, what stays, what comes back.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Devnet, json, line, random_file, run, used_bytes, wait_until};

/// A debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Peers that compare what they hold often, and whose trash is as said.
fn start(peers: usize, trash: Duration) -> Devnet {
    let mut net = Devnet::start(&["--peers", &peers.to_string()]);
    for at in 0..peers {
        net.reconfigure(at, |config| {
            config.repair.suspect = Duration::from_secs(1);
            config.storage.trash = trash;
        });
    }
    net.wait_connected(0);
    net
}

fn put_new(net: &Devnet, at: usize, name: &str, bytes: usize, seed: u64) -> String {
    let file = net.dir.path().join(name);
    random_file(&file, bytes, seed);
    net.put(at, &file)
}

/// Links that a peer lists.
fn listed(net: &Devnet, at: usize) -> Vec<Value> {
    let list = json(&run(net.cairn(at).args(["--json", "list"]), 0));
    list["puts"].as_array().unwrap().clone()
}

fn comes_back(net: &Devnet, at: usize, link: &str, name: &str) {
    let back = net.dir.path().join(format!("{name}-back-at-{at}"));
    net.get(at, link, &back);
    let put = std::fs::read(net.dir.path().join(name)).unwrap();
    assert!(std::fs::read(back).unwrap() == put, "{name}");
}

fn is_gone(net: &Devnet, at: usize, link: &str) -> bool {
    let stat = net.cairn(at).args(["--json", "stat", link]).output();
    let stat = json(&stat.expect("the command starts"));
    stat["shards_present"] == 0
}

#[test]
fn who_was_stopped_while_most_was_removed_ends_with_what_is_live_though_the_writer_is_gone() {
    let mut net = start(7, Duration::ZERO);
    let mib = 1 << 20;
    let live: Vec<(String, String)> = (0..2)
        .map(|at| {
            let name = format!("live-{at}");
            (put_new(&net, 0, &name, 4 * mib, 31 + at), name)
        })
        .collect();
    let used = |net: &Devnet| used_bytes(&net.peers[3].data_dir);
    let with_live = used(&net);
    let dead: Vec<String> = (0..8)
        .map(|at| put_new(&net, 0, &format!("dead-{at}"), 4 * mib, 41 + at))
        .collect();
    let with_all = used(&net);
    assert!(
        with_all > with_live + 4 * mib as u64,
        "{with_live}, {with_all}"
    );
    net.stop(3);
    run(net.cairn(0).args(["-q", "rm"]).args(&dead), 0);
    assert_eq!(listed(&net, 0).len(), 2);
    // It says nothing to anybody any more.
    net.kill(0);
    net.start_again(3, None);
    // Records about what went are small and stay for a while.
    let most = with_live + with_live / 20 + 128 * 1024;
    wait_until("it has what is live", PATIENCE, || used(&net) <= most);
    println!(
        "{with_live} bytes with what is live, {with_all} with all of it, {} in the end",
        used(&net)
    );
    for (link, name) in &live {
        comes_back(&net, 3, link, name);
    }
}

#[test]
fn what_is_removed_goes_and_comes_back_from_trash() {
    let net = start(4, Duration::from_secs(3600));
    let first = put_new(&net, 0, "first", 300_000, 51);
    let second = put_new(&net, 0, "second", 300_000, 52);
    // A link that is none, one of somebody else, one that nobody put: nothing goes.
    run(net.cairn(0).args(["rm", &first, "cairn:nonsense"]), 2);
    run(net.cairn(1).args(["rm", &first]), 3);
    assert_eq!(listed(&net, 0).len(), 2);
    run(net.cairn(0).args(["-q", "rm", &first]), 0);
    assert_eq!(listed(&net, 0)[0]["link"], second.as_str());
    run(net.cairn(0).args(["rm", &first]), 3);
    let trash = json(&run(net.cairn(0).args(["--json", "trash", "list"]), 0));
    let link = &trash["links"][0];
    assert_eq!(link["put"]["link"], first.as_str(), "{trash}");
    assert_eq!(link["put"]["name"], "first");
    let rests = link["until_ms"].as_u64().unwrap() - link["removed_ms"].as_u64().unwrap();
    assert_eq!(rests, 3_600_000);
    let shown = run(net.cairn(0).args(["trash", "list"]), 0);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&first));
    let restored = run(net.cairn(0).args(["trash", "restore", &first]), 0);
    assert!(line(&restored).contains("first is kept until it is removed"));
    assert_eq!(listed(&net, 0).len(), 2);
    run(net.cairn(0).args(["trash", "restore", &first]), 3);
    // Not only served from trash: emptying that takes nothing of it.
    for at in 0..4 {
        run(net.cairn(at).args(["-q", "trash", "empty"]), 0);
    }
    comes_back(&net, 2, &first, "first");
    // Both, and at once; then it is too late for what trash does not have any more.
    run(net.cairn(0).args(["-q", "rm", &first, &second]), 0);
    run(net.cairn(0).args(["-q", "trash", "restore", "--all"]), 0);
    assert_eq!(listed(&net, 0).len(), 2);
    run(net.cairn(0).args(["-q", "rm", &second]), 0);
    for at in 0..4 {
        run(net.cairn(at).args(["-q", "trash", "empty"]), 0);
    }
    let late = run(net.cairn(0).args(["trash", "restore", &second]), 3);
    let told = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(
        told.contains("not enough shards") || told.contains("gone"),
        "{told}"
    );
    comes_back(&net, 3, &first, "first");
}

#[test]
fn what_expires_goes_everywhere_by_itself_unless_somebody_renews_it() {
    let mut net = start(5, Duration::ZERO);
    let file = net.dir.path().join("file");
    random_file(&file, 600_000, 61);
    let put = |net: &Devnet, expires: &str| {
        let mut command = net.cairn(0);
        command.args(["-q", "put", "--private", "--expires", expires]);
        line(&run(command.arg(&file), 0))
    };
    run(
        net.cairn(0).args(["put", "--expires", "soon"]).arg(&file),
        2,
    );
    run(net.cairn(0).args(["put", "--expires", "1ms"]).arg(&file), 2);
    let long = put(&net, "1y");
    let [short, renewed] = ["60s", "60s"].map(|expires| put(&net, expires));
    let list = listed(&net, 0);
    let year = list[0]["expires_ms"].as_u64().unwrap() - list[0]["put_ms"].as_u64().unwrap();
    assert_eq!((list.len(), year), (3, 365 * 24 * 3_600_000));
    assert_eq!(list[0]["link"], long.as_str());
    // By somebody who has nothing but the link.
    let kept = json(&run(
        net.cairn(2)
            .args(["--json", "renew", &renewed, "--expires", "never"]),
        0,
    ));
    assert_eq!(kept["put"]["link"], renewed.as_str());
    assert_eq!(kept["put"]["expires_ms"], Value::Null);
    assert_eq!(listed(&net, 2).len(), 1);
    // The writer is gone, and one of the holders away, when the time is over.
    net.kill(0);
    net.stop(4);
    wait_until("it is gone", PATIENCE, || is_gone(&net, 1, &short));
    net.start_again(4, None);
    wait_until("it is gone there as well", PATIENCE, || {
        net.live_peers(1) >= 4 && is_gone(&net, 1, &short) && is_gone(&net, 4, &short)
    });
    let back = net.dir.path().join("back");
    for link in [&renewed, &long] {
        net.get(3, link, &back);
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&file).unwrap());
        std::fs::remove_file(&back).unwrap();
    }
    // And off the list of who put it.
    net.start_again(0, None);
    wait_until("it is off the list", PATIENCE, || {
        let links = listed(&net, 0);
        links.len() == 1 && links[0]["link"] == long.as_str()
    });
    run(net.cairn(3).args(["renew", &short]), 3);
}
