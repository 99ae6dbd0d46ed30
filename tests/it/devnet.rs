//! Real peers in separate processes: what users do, and what goes wrong meanwhile.

mod elsewhere;
mod promises;
mod quota;
mod storage_only;

use std::time::Duration;

use crate::support::{
    Devnet, allocated, assert_same_tree, json, line, make_tree, random_file, run, scaled,
    wait_until,
};

#[test]
fn a_tree_survives_the_loss_of_any_two_peers() {
    let mut net = Devnet::start(&[]);
    let source = net.dir.path().join("source");
    make_tree(&source, scaled(2000), 1);
    let file = net.dir.path().join("file");
    random_file(&file, scaled(64) << 20, 2);
    let tree = net.put(0, &source);
    let blob = net.put(0, &file);
    net.kill(1);
    net.kill(4);
    let target = net.dir.path().join("target");
    net.get(3, &tree, &target);
    assert_same_tree(&source, &target);
    let ls = |path: &str| json(&run(net.cairn(3).args(["--json", "ls", &tree, path]), 0));
    let inside = ls("empty");
    assert_eq!(inside["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(inside["entries"][0]["name"], "inside");
    assert_eq!(inside["entries"][0]["kind"], "directory");
    assert_eq!(
        ls("empty/inside")["entries"].as_array().map(Vec::len),
        Some(0)
    );
    let alone = ls("sparse");
    assert_eq!(alone["entries"][0]["size_bytes"], 64 << 20, "{alone}");
    run(net.cairn(3).args(["ls", &tree, "empty/outside"]), 3);
    let back = net.dir.path().join("back");
    net.get(5, &blob, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}

#[test]
fn hostile_and_slow_peers_cost_time_and_never_a_wrong_byte() {
    let mut net = Devnet::start(&[]);
    for (at, fault) in [(1, "corrupt"), (2, "delay:3s"), (3, "refuse")] {
        net.kill(at);
        net.restart(at, Some(fault));
    }
    net.wait_connected(0);
    let source = net.dir.path().join("source");
    make_tree(&source, scaled(300), 3);
    // One peer refuses everything: five can survive the loss of one.
    let output = json(&run(
        net.cairn(0)
            .args(["--json", "put", "--survive", "1"])
            .arg(&source),
        0,
    ));
    assert!(output["survives"].as_u64() >= Some(1), "{output}");
    assert_eq!(output["peers"], 5, "{output}");
    let target = net.dir.path().join("target");
    net.get(5, output["link"].as_str().unwrap(), &target);
    assert_same_tree(&source, &target);
}

#[test]
fn the_same_content_is_stored_once_and_named_the_same() {
    let net = Devnet::start(&[]);
    let file = net.dir.path().join("file");
    random_file(&file, 16 << 20, 4);
    let used = |net: &Devnet| -> u64 { net.peers.iter().map(|p| allocated(&p.data_dir)).sum() };
    let first = net.put(0, &file);
    let after_first = used(&net);
    let second = net.put(0, &file);
    let third = net.put(4, &file);
    assert_eq!((&first, &first), (&second, &third));
    let more = used(&net) - after_first;
    // Fixed costs (an identity's first log page, index pages) are more than 1 % of so little.
    assert!(more < (24 << 20) / 100 * 5, "{more} more bytes");
    let private = line(&run(
        net.cairn(0).args(["-q", "put", "--private"]).arg(&file),
        0,
    ));
    assert_ne!(private, first);
}

#[test]
fn a_full_pool_refuses_and_keeps_nothing_of_what_it_refused() {
    let net = Devnet::start(&["--quota", "64MiB"]);
    let mut kept = Vec::new();
    let mut refused = None;
    let mut used_before = 0;
    for number in 0..64u64 {
        let file = net.dir.path().join(format!("file-{number}"));
        random_file(&file, 16 << 20, 100 + number);
        used_before = net.used_bytes();
        let output = net
            .cairn(0)
            .args(["-q", "put"])
            .arg(&file)
            .output()
            .unwrap();
        for peer in &net.peers {
            let used = allocated(&peer.data_dir);
            assert!(used <= 64 << 20, "{used} bytes are more than the quota");
        }
        if output.status.success() {
            kept.push((file, line(&output)));
        } else {
            refused = Some(output);
            break;
        }
    }
    let refused = refused.expect("the pool fills up");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{message}");
    assert!(message.contains("free"), "{message}");
    assert!(kept.len() >= 3, "only {} files fitted", kept.len());
    for (file, link) in &kept {
        let output = run(net.cairn(3).args(["-q", "get", link]), 0);
        assert!(output.stdout == std::fs::read(file).unwrap());
    }
    // What the refused put had placed is released, and its space comes back.
    wait_until(
        "the refused put is cleaned up",
        Duration::from_secs(30),
        || net.used_bytes() <= used_before + (2 << 20),
    );
}

#[test]
fn a_holder_that_does_not_promise_to_keep_its_shards_does_not_count() {
    let mut net = Devnet::start(&[]);
    net.kill(2);
    net.restart(2, Some("renege"));
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    random_file(&file, 8 << 20, 5);
    // As much as six peers can promise is demanded though nobody says so.
    for demanded in [&[][..], &["--survive", "2"]] {
        let refused = run(net.cairn(0).arg("put").args(demanded).arg(&file), 4);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("did not confirm"), "{told}");
        assert!(told.contains("the loss of any 2 peers"), "{told}");
        assert!(refused.stdout.is_empty());
        let list = json(&run(net.cairn(0).args(["--json", "list"]), 0));
        assert_eq!(list["puts"].as_array().map(Vec::len), Some(0), "{list}");
    }
    // With less demanded it is kept, and says what it is worth.
    let less = ["--json", "put", "--survive", "1"];
    let kept = json(&run(net.cairn(0).args(less).arg(&file), 0));
    assert_eq!(kept["survives"], 1, "{kept}");
    net.kill(2);
    let output = run(
        net.cairn(4)
            .args(["-q", "get", kept["link"].as_str().unwrap()]),
        0,
    );
    assert!(output.stdout == std::fs::read(&file).unwrap());
}
