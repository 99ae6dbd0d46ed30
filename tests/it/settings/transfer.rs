//! Rates, memory and patience of transfers.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use cairnfs::base::{ByteSize, Entropy};

use super::{ask, peak_bytes, time, used};
use crate::support::{Devnet, allocated, random_file, run, wait_until};

pub(super) const MIB: u64 = 1 << 20;
/// Bytes per second.
const RATE: u64 = 512 << 10;
const SIZE: usize = 4 << 20;
/// A limited transfer of `SIZE` takes at least so long: its burst is passed at once.
const LEAST: Duration = Duration::from_secs(7);

/// Two peers, of which only the second stores.
pub(super) fn putter_and_holder() -> Devnet {
    let mut net = Devnet::start(&["--peers", "2", "--redundancy", "1+0"]);
    net.reconfigure(0, |config| config.storage.offer = false);
    net.wait_connected(0);
    net.wait_connected(1);
    net
}

#[test]
fn what_is_sent_is_limited() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    let mut took = Vec::new();
    for (seed, limit) in [(1, 0), (2, RATE)] {
        net.reconfigure(0, |config| config.network.upload_limit = ByteSize(limit));
        net.wait_connected(0);
        random_file(&file, SIZE, seed);
        took.push(time(net.cairn(0).args(["-q", "put"]).arg(&file)));
    }
    assert!(took[1] >= LEAST && took[0] < took[1], "{took:?}");
}

#[test]
fn what_is_received_is_limited() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    random_file(&file, SIZE, 1);
    let link = net.put(0, &file);
    let mut took = Vec::new();
    for limit in [0, RATE] {
        net.reconfigure(0, |config| config.network.download_limit = ByteSize(limit));
        net.wait_connected(0);
        took.push(time(net.cairn(0).args(["-q", "get", &link])));
    }
    assert!(took[1] >= LEAST && took[0] < took[1], "{took:?}");
}

#[test]
fn a_read_waits_as_long_as_configured() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    random_file(&file, 100_000, 1);
    let link = net.put(0, &file);
    net.kill(1);
    let mut took = Vec::new();
    for seconds in [1, 9] {
        net.reconfigure(0, |config| {
            config.fetch.timeout = Duration::from_secs(seconds);
        });
        let begun = std::time::Instant::now();
        run(net.cairn(0).args(["-q", "get", &link]), 3);
        took.push(begun.elapsed());
    }
    assert!(took[1] >= Duration::from_secs(9), "{took:?}");
    assert!(took[0] < took[1], "{took:?}");
}

#[test]
fn a_put_takes_as_much_memory_as_allowed() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    let mut peaks = Vec::new();
    for (seed, memory) in [(1, 16), (2, 256)] {
        net.reconfigure(0, |config| {
            config.limits.upload_memory = ByteSize::mib(memory);
            // So slow that everything that may wait does.
            config.network.upload_limit = ByteSize::mib(16);
        });
        net.wait_connected(0);
        random_file(&file, 96 << 20, seed);
        net.put(0, &file);
        peaks.push(peak_bytes(net.peers[0].pid));
    }
    assert!(peaks[0] + 32 * MIB < peaks[1], "{peaks:?}");
}

/// Puts `mib` MiB that come through a pipe at peer `at`; the most memory that the command took.
fn put_stream(net: &Devnet, at: usize, mib: u64) -> u64 {
    let mut put = net
        .cairn(at)
        .args(["-q", "put", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = put.stdin.take().unwrap();
    let entropy = Entropy::seeded(mib);
    let mut piece = vec![0; MIB as usize];
    for _ in 0..mib {
        entropy.fill(&mut piece);
        input.write_all(&piece).unwrap();
    }
    // It has taken in all but what is in the pipe, and is not at its end.
    let peak = peak_bytes(put.id());
    drop(input);
    assert!(put.wait().unwrap().success());
    peak
}

#[test]
fn a_stream_takes_no_more_memory_when_it_is_longer() {
    let net = Devnet::start(&["--peers", "3", "--redundancy", "2+1"]);
    let peaks = |mib: u64| -> Vec<u64> {
        let command = put_stream(&net, 0, mib);
        let peers = net.peers.iter().map(|peer| peak_bytes(peer.pid));
        std::iter::once(command).chain(peers).collect()
    };
    // As much as may wait anywhere, and then three times that.
    let (short, long) = (peaks(96), peaks(320));
    println!("the command, the putter and two holders: {short:?}, then {long:?}");
    for (short, long) in short.iter().zip(&long) {
        assert!(*long < short + 32 * MIB, "{short} and then {long} bytes");
        assert!(*long < 250 * MIB, "{long} bytes");
    }
}

#[test]
fn a_get_takes_as_much_memory_as_allowed() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    random_file(&file, 128 << 20, 1);
    let link = net.put(0, &file);
    let mut peaks: Vec<u64> = Vec::new();
    for memory in [16, 256] {
        net.reconfigure(0, |config| {
            config.limits.download_memory = ByteSize::mib(memory);
            // What was read stays in memory besides.
            config.cache.memory = ByteSize::mib(16);
        });
        net.wait_connected(0);
        let pid = net.peers[0].pid;
        // A reader that has stopped: all that is fetched ahead of it stays in memory.
        let mut get = net
            .cairn(0)
            .args(["-q", "get", &link])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1000];
        get.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        if let Some(small) = peaks.first() {
            wait_until("much is fetched ahead", Duration::from_secs(60), || {
                peak_bytes(pid) > small + 32 * MIB
            });
        } else {
            std::thread::sleep(Duration::from_secs(5));
        }
        let mut rest = Vec::new();
        get.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        assert!(get.wait().unwrap().success());
        assert_eq!(first.len() + rest.len(), 128 << 20);
        peaks.push(peak_bytes(pid));
    }
    assert!(peaks[0] + 32 * MIB < peaks[1], "{peaks:?}");
}

#[test]
fn what_was_read_lately_stays_in_memory() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    random_file(&file, 40 << 20, 1);
    let link = net.put(0, &file);
    for (memory, code) in [(128, 0), (16, 3)] {
        net.reconfigure(0, |config| {
            config.cache.memory = ByteSize::mib(memory);
            config.cache.disk = ByteSize(0);
            config.fetch.timeout = Duration::from_secs(1);
        });
        net.wait_connected(0);
        run(net.cairn(0).args(["-q", "get", &link]), 0);
        net.kill(1);
        run(net.cairn(0).args(["-q", "get", &link]), code);
        net.restart(1, None);
    }
}

#[test]
fn what_others_sent_stays_on_the_disk() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    random_file(&file, 40 << 20, 1);
    let link = net.put(0, &file);
    let mut grown = Vec::new();
    for disk in [ByteSize(0), ByteSize::mib(8), ByteSize::gib(1)] {
        net.reconfigure(0, |config| config.cache.disk = disk);
        net.wait_connected(0);
        let before = allocated(&net.peers[0].data_dir);
        let used_before = used(&net, 0);
        run(net.cairn(0).args(["-q", "get", &link]), 0);
        // It is written beside the reading.
        std::thread::sleep(Duration::from_secs(2));
        grown.push(allocated(&net.peers[0].data_dir).saturating_sub(before));
        // Nobody counts it as used.
        assert!(used(&net, 0).saturating_sub(used_before) < MIB);
        let status = ask(&net, 0, &["status"]);
        let cached = status["storage"]["cached_bytes"].as_u64().unwrap();
        assert!(cached <= disk.0 && cached <= grown.last().unwrap() + MIB);
    }
    assert!(grown[0] < MIB, "{grown:?}");
    assert!((4 * MIB..10 * MIB).contains(&grown[1]), "{grown:?}");
    assert!(grown[2] > 20 * MIB, "{grown:?}");
}

#[test]
fn payloads_take_no_more_memory_than_allowed() {
    let mut net = putter_and_holder();
    let file = net.dir.path().join("file");
    net.reconfigure(0, |config| {
        config.limits.upload_memory = ByteSize::mib(256);
    });
    let mut grown = Vec::new();
    for (seed, memory) in [(1, 16), (2, 256)] {
        random_file(&file, 64 << 20, seed);
        net.kill(1);
        crate::support::edit_config(&net.peers[1].data_dir, |config| {
            config.network.max_memory = ByteSize::mib(memory);
        });
        // It keeps what it is to store, and answers nothing.
        net.restart(1, Some("hoard"));
        net.wait_connected(0);
        let pid = net.peers[1].pid;
        let before = peak_bytes(pid);
        let start = || {
            let mut put = net.cairn(0);
            put.args(["-q", "put"]).arg(&file);
            put.stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut put = start();
        // One peer may take a third of it.
        let wanted = if grown.is_empty() { 4 * MIB } else { 44 * MIB };
        wait_until("much is hoarded", Duration::from_secs(60), || {
            // The peer has only just come back: a put may find it away.
            if put.try_wait().unwrap().is_some() {
                put = start();
            }
            peak_bytes(pid) > before + wanted
        });
        if grown.is_empty() {
            // More would come, if it were let.
            std::thread::sleep(Duration::from_secs(6));
        }
        grown.push(peak_bytes(pid) - before);
        put.kill().unwrap();
        put.wait().unwrap();
    }
    assert!(grown[0] < 24 * MIB && grown[1] > 44 * MIB, "{grown:?}");
    // It is the only one that stores: however it failed before, it is tried again at once.
    net.kill(1);
    net.restart(1, None);
    net.wait_connected(0);
    random_file(&file, 1 << 20, 3);
    net.put(0, &file);
}
