//! Damaged files, late comers, restarts: real peers, whose disks are not what they were.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairnfs::base::Entropy;

use crate::support::{
    Devnet, Node, assert_same_tree, cairn, line, make_tree, random_file, run, scaled, used_bytes,
    wait_until,
};

/// Between two bytes that are changed: less than any shard of the tests, so that none is spared.
const STEP: usize = 5000;

/// The segment files of a data directory, in the order in which they were written.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir.join("store")).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("segment-"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} has a store", data_dir.display());
    found
}

/// Changes a bit of every `STEP`th byte of the log, but for its first `spared` bytes.
fn damage_log(data_dir: &Path, spared: u64) {
    let mut passed = 0;
    for path in segments(data_dir) {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let len = file.metadata().unwrap().len();
        // The header of the segment stays: what is tried here are the shards.
        let from = spared.saturating_sub(passed).max(4096);
        for at in (from..len).step_by(STEP) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
        passed += len;
    }
}

fn log_len(data_dir: &Path) -> u64 {
    let lens = segments(data_dir).into_iter();
    lens.map(|path| std::fs::metadata(path).unwrap().len())
        .sum()
}

#[test]
fn all_parity_shards_of_every_stripe_may_be_damaged() {
    let mut net = Devnet::start(&[]);
    let file = net.dir.path().join("file");
    random_file(&file, scaled(48) << 20, 11);
    let source = net.dir.path().join("source");
    make_tree(&source, scaled(200), 12);
    let (blob, tree) = (net.put(0, &file), net.put(0, &source));
    // One disk goes bad under a running peer, the other while its peer is away.
    damage_log(&net.peers[1].data_dir, 0);
    net.stop(4);
    damage_log(&net.peers[4].data_dir, 0);
    net.restart(4, None);
    net.wait_connected(3);
    // Another peer, the putter, and one of those that were damaged.
    for at in [3, 0, 4] {
        let output = run(net.cairn(at).args(["-q", "get", &blob]), 0);
        assert!(output.stdout == std::fs::read(&file).unwrap(), "peer {at}");
        let target = net.dir.path().join(format!("target-{at}"));
        net.get(at, &tree, &target);
        assert_same_tree(&source, &target);
    }
}

#[test]
fn one_more_damaged_shard_is_an_error_that_names_the_block() {
    let net = Devnet::start(&[]);
    let file = net.dir.path().join("file");
    random_file(&file, scaled(32) << 20, 13);
    let content = std::fs::read(&file).unwrap();
    let link = net.put(0, &file);
    // The later blocks only: what is read before them is right.
    for at in [1, 3, 4] {
        let data_dir = &net.peers[at].data_dir;
        damage_log(data_dir, log_len(data_dir) / 2);
    }
    let told = |stderr: &[u8]| {
        let told = String::from_utf8_lossy(stderr).into_owned();
        let (_, after) = told.split_once("block ").expect(&told);
        let (id, why) = after.split_once(": ").expect(&told);
        assert!(why.starts_with("3 of 4 shards"), "{told}");
        let is_id = id.len() > 50 && id.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(is_id, "{told}");
        id.to_owned()
    };
    let output = run(net.cairn(5).args(["-q", "get", &link]), 3);
    let id = told(&output.stderr);
    assert!(!output.stdout.is_empty(), "the first blocks are sound");
    assert!(output.stdout.len() < content.len());
    assert!(content.starts_with(&output.stdout), "a wrong byte");

    let dir = net.dir.path().join("target");
    std::fs::create_dir(&dir).unwrap();
    let output = run(
        net.cairn(5)
            .args(["-q", "get", &link, "-o"])
            .arg(dir.join("file")),
        3,
    );
    assert_eq!(told(&output.stderr), id);
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        0,
        "nothing is left"
    );

    // Every block of all: the first byte cannot be had any more.
    for at in [1, 3, 4] {
        damage_log(&net.peers[at].data_dir, 0);
    }
    let output = run(net.cairn(2).args(["-q", "get", &link]), 3);
    told(&output.stderr);
    assert_eq!(output.stdout.len(), 0);
}

/// What can happen to the index database.
const INDEX_DAMAGES: [(&str, fn(&Path)); 6] = [
    ("removed", |path| std::fs::remove_file(path).unwrap()),
    ("truncated to nothing", |path| {
        std::fs::write(path, b"").unwrap();
    }),
    ("cut in half", |path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("zeroed", |path| {
        let len = std::fs::metadata(path).unwrap().len() as usize;
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&vec![0; len], 0).unwrap();
    }),
    ("overwritten with noise", |path| {
        let len = std::fs::metadata(path).unwrap().len() as usize;
        random_file(path, len, 15);
    }),
    ("flipped here and there", |path| {
        let mut bytes = std::fs::read(path).unwrap();
        let entropy = Entropy::seeded(16);
        for page in bytes.chunks_mut(512) {
            page[entropy.below(512) as usize % page.len()] ^= 1 << entropy.below(8);
        }
        std::fs::write(path, bytes).unwrap();
    }),
];

#[test]
fn a_damaged_index_database_is_built_anew_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("peer");
    let index = data_dir.join("store/index.redb");
    let file = dir.path().join("file");
    random_file(&file, scaled(12) << 20, 14);
    let content = std::fs::read(&file).unwrap();
    let mut node = Node::start(&data_dir, &dir.path().join("log"));
    let put = |path: &Path| line(&run(cairn(&data_dir).args(["-q", "put"]).arg(path), 0));
    let mut links = vec![(put(&file), content)];
    for (number, (what, damage)) in INDEX_DAMAGES.into_iter().enumerate() {
        // After an end in good order the index is all there is to say what the log has.
        if number % 2 == 0 {
            node.stop();
        } else {
            node.kill();
        }
        damage(&index);
        let log = dir.path().join(format!("log-{number}"));
        node = Node::start(&data_dir, &log);
        for (link, content) in &links {
            let output = run(cairn(&data_dir).args(["-q", "get", link]), 0);
            assert!(output.stdout == *content, "the index was {what}");
        }
        let listed = run(cairn(&data_dir).arg("list"), 0);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for (link, _) in &links {
            assert!(listed.contains(link), "the index was {what}: {listed}");
        }
        let log = std::fs::read_to_string(&log).unwrap();
        assert!(
            log.contains("rebuilt: Some") || log.contains("rebuilding the index"),
            "the index was {what}, and nobody noticed: {log}"
        );
        // It goes on working with the new one.
        let small = dir.path().join(format!("small-{number}"));
        random_file(&small, 100_000, 20 + number as u64);
        links.push((put(&small), std::fs::read(&small).unwrap()));
    }
    // The last start had a sound index, and had nothing to do.
    node.stop();
    let log = dir.path().join("log-sound");
    Node::start(&data_dir, &log).stop();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("rebuilt: None"), "{log}");
}

#[test]
fn an_index_database_that_is_damaged_under_a_running_peer_gives_no_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("peer");
    let index = data_dir.join("store/index.redb");
    let log = dir.path().join("log");
    let file = dir.path().join("file");
    random_file(&file, scaled(8) << 20, 31);
    let put = |path: &Path| line(&run(cairn(&data_dir).args(["-q", "put"]).arg(path), 0));
    let node = Node::start(&data_dir, &log);
    let mut links = vec![(put(&file), std::fs::read(&file).unwrap())];
    // So that nothing of the index is cached any more.
    node.stop();
    let node = Node::start(&data_dir, &log);
    let len = std::fs::metadata(&index).unwrap().len() as usize;
    let opened = std::fs::File::options().write(true).open(&index).unwrap();
    let mut noise = vec![0; len];
    Entropy::seeded(32).fill(&mut noise);
    opened.write_all_at(&noise, 0).unwrap();
    let small = dir.path().join("small");
    random_file(&small, 100_000, 33);
    links.push((put(&small), std::fs::read(&small).unwrap()));
    for (link, content) in &links {
        let output = run(cairn(&data_dir).args(["-q", "get", link]), 0);
        assert!(output.stdout == *content);
    }
    node.stop();
    let node = Node::start(&data_dir, &log);
    for (link, content) in &links {
        let output = run(cairn(&data_dir).args(["-q", "get", link]), 0);
        assert!(output.stdout == *content);
    }
    node.stop();
}

#[test]
fn a_peer_that_joins_later_is_used_by_the_next_put() {
    // All offer the same: a peer gets by what it offers.
    let net = Devnet::start(&["--quota", "1GiB"]);
    let file = net.dir.path().join("file");
    random_file(&file, 16 << 20, 41);
    net.put(0, &file);
    let data_dir = net.dir.path().join("late");
    std::fs::create_dir(&data_dir).unwrap();
    let config = "[storage]\nquota = \"1 GiB\"\nreserve_free = \"0\"\n\
                  [network]\nmdns = false\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
                  bulk_listen = [\"127.0.0.1:0\"]\n";
    std::fs::write(data_dir.join("config.toml"), config).unwrap();
    let late = Node::start(&data_dir, &net.dir.path().join("late.log"));
    let ticket = line(&run(net.cairn(0).args(["-q", "invite"]), 0));
    run(cairn(&data_dir).args(["-q", "join", &ticket]), 0);
    for at in 0..net.peers.len() {
        wait_until("everybody sees it", Duration::from_secs(30), || {
            net.live_peers(at) > net.peers.len()
        });
    }
    // What was put before stays where it is.
    let before = used_bytes(&data_dir);
    assert!(before < 1 << 20, "{before} bytes before the next put");
    random_file(&file, scaled(32) << 20, 42);
    let content = std::fs::read(&file).unwrap();
    let link = net.put(0, &file);
    // Each block goes to six of seven, so it has a share of nearly all of them; half of its share
    // would be very bad luck.
    let more = used_bytes(&data_dir).saturating_sub(before);
    let fair = content.len() as u64 * 6 / 4 / 7;
    assert!(more > fair / 2, "{more} bytes, of a share of {fair}");
    // It gets what others put, and others get what it puts.
    let output = run(cairn(&data_dir).args(["-q", "get", &link]), 0);
    assert!(output.stdout == content);
    random_file(&file, 5 << 20, 43);
    let link = line(&run(cairn(&data_dir).args(["-q", "put"]).arg(&file), 0));
    late.stop();
    let output = run(net.cairn(5).args(["-q", "get", &link]), 0);
    assert!(output.stdout == std::fs::read(&file).unwrap());
}

/// Bytes that a process has asked to read so far, and those that came from a disk.
fn bytes_read(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let field = |name: &str| -> u64 {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a field of io").trim().parse().unwrap()
    };
    field("rchar:") + field("read_bytes:")
}

#[test]
fn a_peer_that_was_away_serves_what_it_holds_and_reads_little_to_start() {
    const READ_MAX: u64 = 1 << 20;
    let mut net = Devnet::start(&[]);
    let few = net.dir.path().join("few");
    random_file(&few, 8 << 20, 51);
    net.put(0, &few);
    net.stop(2);
    net.restart(2, None);
    let with_little = bytes_read(net.peers[2].pid);
    let many = net.dir.path().join("many");
    random_file(&many, scaled(256) << 20, 52);
    let link = net.put(0, &many);
    let held = log_len(&net.peers[2].data_dir);
    assert!(held > scaled(256) as u64 * (1 << 20) / 5, "{held} bytes");
    for kill in [false, true] {
        if kill {
            // The index is brought up to date when nothing happens for a while.
            std::thread::sleep(Duration::from_secs(6));
            net.kill(2);
        } else {
            net.stop(2);
        }
        net.restart(2, None);
        let with_much = bytes_read(net.peers[2].pid);
        println!("read at the start: {with_little} bytes at first, {with_much} with {held} held");
        assert!(with_much < READ_MAX, "{with_much} bytes");
        // Its index has a row of some hundred bytes for each shard of many.
        let more = with_much.saturating_sub(with_little);
        assert!(more < held / 100, "{more} bytes more");
    }
    // With two others gone, each of its shards is needed.
    net.kill(0);
    net.kill(4);
    let target = net.dir.path().join("target");
    net.get(5, &link, &target);
    assert!(std::fs::read(&many).unwrap() == std::fs::read(&target).unwrap());
}
