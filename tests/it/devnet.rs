//! Real peers in separate processes: what users do, and what goes wrong meanwhile.

mod elsewhere;
mod promises;
mod quota;
mod storage_only;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairnfs::base::Entropy;

use crate::support::{
    Devnet, allocated, assert_same_tree, json, line, make_tree, random_file, run, scaled,
    wait_until,
};

/// What a put that was given up may leave in the books of six peers together: pages of indexes, and
/// what is written of claims. One shard that nobody owns would be more.
const TRACES: u64 = 512 << 10;

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
    let content = std::fs::read(&file).unwrap();
    assert!(content == std::fs::read(&back).unwrap());
    check_ranges(&net, 3, &blob, &content);
}

/// Gets parts of a file of some MiB: both ends are included, and what is beyond the file is not there.
fn check_ranges(net: &Devnet, at: usize, link: &str, content: &[u8]) {
    let len = content.len();
    let get = |range: &str| {
        let mut get = net.cairn(at);
        get.args(["-q", "get", link, "--range", range]);
        get
    };
    for (first, last, range) in [
        (0, 0, "0-0".to_owned()),
        (7, 8, "7-8".to_owned()),
        // Chunks have 2 to 4 MiB.
        (1_000_001, 9_999_999, "1000001-9999999".to_owned()),
        (len - 1, len - 1, format!("{}-", len - 1)),
        (len - 5, len - 1, format!("{}-{}", len - 5, len - 1)),
        (len - 5, len - 1, format!("{}-{}", len - 5, len + 1000)),
        (
            len - 70_000,
            len - 1,
            format!("{}-{}", len - 70_000, u64::MAX),
        ),
    ] {
        let wanted = &content[first..=last];
        let shown = run(&mut get(&range), 0);
        assert!(shown.stdout == wanted, "{range}: {}", shown.stdout.len());
        let target = net.dir.path().join(format!("range-{range}"));
        let written = run(get(&range).arg("-o").arg(&target), 0);
        assert!(written.stdout.is_empty());
        assert!(std::fs::read(&target).unwrap() == wanted, "{range}");
    }
    for range in [format!("{len}-"), format!("{}-{}", len + 9, len + 10)] {
        let target = net.dir.path().join("outside");
        let refused = run(get(&range).arg("-o").arg(&target), 2);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("outside"), "{told}");
        assert!(refused.stdout.is_empty() && !target.exists());
    }
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
fn a_peer_that_sends_what_does_not_verify_is_named() {
    let mut net = Devnet::start(&["--peers", "7"]);
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    // What it says of its blocks is damaged as well, so there have to be some.
    random_file(&file, 40 << 20, 7);
    let link = net.put(0, &file);
    for at in [0, 4] {
        net.reconfigure(at, |config| {
            config.repair.audit = Duration::from_secs(2);
        });
    }
    net.kill(2);
    net.restart(2, Some("corrupt"));
    let corrupt = net.ask(2, &["status"])["peer"].clone();
    for at in [0, 4] {
        wait_until("it has lost trust", Duration::from_secs(120), || {
            net.ask(at, &["status"])["distrusted"] == serde_json::json!([corrupt])
        });
        let told = net.ask(at, &["peers"]);
        for peer in told["peers"].as_array().unwrap() {
            let trust = &peer["trust"];
            if peer["peer"] == corrupt {
                assert_eq!(trust["displaced"], true, "{peer}");
                assert!(trust["percent"].as_u64() <= Some(50), "{peer}");
                assert!(trust["why"].as_str().unwrap().contains("checks"), "{peer}");
                println!("{}", trust["why"]);
            } else if trust.is_object() {
                assert_eq!(trust["percent"], 100, "{peer}");
            }
        }
    }
    let text = run(net.cairn(0).arg("peers"), 0);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let named = text.lines().filter(|line| line.contains("(trust "));
    let named: Vec<&str> = named.collect();
    assert!(
        named.len() == 1 && named[0].starts_with(corrupt.as_str().unwrap()),
        "{text}"
    );
    let got = run(net.cairn(0).args(["-q", "get", &link]), 0);
    assert!(got.stdout == std::fs::read(&file).unwrap());
}

/// Bytes of the disk that all peers together take.
fn taken(net: &Devnet) -> u64 {
    net.peers.iter().map(|peer| allocated(&peer.data_dir)).sum()
}

#[test]
fn the_same_content_is_stored_once_and_named_the_same() {
    const SIZE: u64 = 96 << 20;
    const STORED: u64 = SIZE / 4 * 6;
    let net = Devnet::start(&[]);
    let file = net.dir.path().join("file");
    random_file(&file, SIZE as usize, 4);
    let first = net.put(0, &file);
    let after_first = taken(&net);
    assert!(after_first > STORED, "{after_first}");
    let second = net.put(0, &file);
    let third = net.put(4, &file);
    assert_eq!((&first, &first), (&second, &third));
    let more = taken(&net) - after_first;
    println!("the same twice more: {more} more bytes");
    assert!(more < STORED / 100, "{more} more bytes");

    // What is put in at the front changes the chunks around it, not those behind.
    let mut content = vec![0x5a; 1 << 20];
    Entropy::seeded(5).fill(&mut content);
    content.extend(std::fs::read(&file).unwrap());
    let shifted = net.dir.path().join("shifted");
    std::fs::write(&shifted, content).unwrap();
    let before = taken(&net);
    let put = json(&run(net.cairn(0).args(["--json", "put"]).arg(&shifted), 0));
    let more = taken(&net) - before;
    println!("1 MiB in front: {more} more bytes: {put}");
    assert!(more < STORED / 10, "{more} more bytes: {put}");
    assert!(put["new_bytes"].as_u64() < Some(STORED / 10), "{put}");

    let private = net.dir.path().join("private");
    random_file(&private, 1 << 20, 6);
    let known = net.put(0, &private);
    let mut put = net.cairn(0);
    let sealed = line(&run(put.args(["-q", "put", "--private"]).arg(&private), 0));
    assert_ne!(known, sealed);
}

/// The most that each peer's data directory took, looked at over and over in the background.
struct Watch {
    stop: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<(Vec<u64>, u64)>,
}

impl Watch {
    fn begin(net: &Devnet) -> Watch {
        let dirs: Vec<PathBuf> = net.peers.iter().map(|peer| peer.data_dir.clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let watching = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut most = vec![0; dirs.len()];
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    for (most, dir) in most.iter_mut().zip(&dirs) {
                        // A file that is moved meanwhile may be met twice in one walk.
                        let taken = allocated(dir).min(allocated(dir));
                        *most = taken.max(*most);
                    }
                    rounds += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                (most, rounds)
            }
        });
        Watch { stop, watching }
    }

    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (most, rounds) = self.watching.join().unwrap();
        println!("{most:?} bytes at most in {rounds} looks");
        assert!(rounds > 20, "it looked only {rounds} times");
        most
    }
}

#[test]
fn a_full_pool_refuses_and_keeps_nothing_of_what_it_refused() {
    const QUOTA: u64 = 64 << 20;
    let net = Devnet::start(&["--quota", "64MiB"]);
    let watch = Watch::begin(&net);
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
        if output.status.success() {
            kept.push((file, line(&output)));
        } else {
            refused = Some(output);
            break;
        }
    }
    for most in watch.end() {
        assert!(most <= QUOTA, "{most} bytes are more than the quota");
        assert!(most > QUOTA / 2, "{most} bytes do not fill it");
    }
    let refused = refused.expect("the pool fills up");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{message}");
    assert!(message.contains("the pool is too full"), "{message}");
    // A name and a size for each.
    let (_, free) = message.split_once("free now: ").expect(&message);
    let free: Vec<&str> = free.lines().next().unwrap().split(", ").collect();
    assert_eq!(free.len(), net.peers.len(), "{message}");
    for entry in free {
        let (peer, size) = entry.split_once(' ').expect(entry);
        assert!(!peer.is_empty() && size.ends_with('B'), "{message}");
    }
    assert!(kept.len() >= 3, "only {} files fitted", kept.len());
    let list = json(&run(net.cairn(0).args(["--json", "list"]), 0));
    let listed = list["puts"].as_array().unwrap().iter();
    let listed: BTreeSet<&str> = listed.map(|put| put["link"].as_str().unwrap()).collect();
    let links: BTreeSet<&str> = kept.iter().map(|(_, link)| link.as_str()).collect();
    assert_eq!(listed, links);
    for (file, link) in &kept {
        let output = run(net.cairn(3).args(["-q", "get", link]), 0);
        assert!(output.stdout == std::fs::read(file).unwrap());
    }
    // What the refused put had placed is released, and its space comes back.
    let mut over = 0;
    let begun = std::time::Instant::now();
    wait_until(
        "the refused put is cleaned up",
        Duration::from_secs(30),
        || {
            over = net.used_bytes().saturating_sub(used_before);
            over <= TRACES
        },
    );
    println!(
        "{over} bytes more than before it, after {:?}; {message}",
        begun.elapsed()
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
