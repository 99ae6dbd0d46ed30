//! Power cuts on a real filesystem: XFS on a loop device, shut down at a random moment without its
//! log being flushed, so that whatever was not synced is lost.
//!
//! Needs root, loop devices and xfsprogs; without them these tests say so and pass.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairnfs::base::Entropy;

use crate::support::{
    Acknowledged, Devnet, Node, bin, cairn, check_kept, json, keep_putting, random_file, run,
    scaled, wait_until,
};

/// Size of the filesystem; its file is sparse.
const IMAGE_BYTES: u64 = 512 << 20;

/// Set in the process that has its mounts to itself.
const ALONE: &str = "CAIRN_TEST_MOUNTS_ALONE";

/// Whether this process has its mounts to itself; if not, the test `name` runs again in one that has.
///
/// A process that makes a mount namespace at the wrong moment (`ip netns exec` does) would keep a
/// copy of our mount, and a filesystem that was shut down would come back as it is.
fn is_alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    if tool("unshare", &["-m"], Path::new("true")).is_err() {
        eprintln!("SKIPPED: power cuts need mount namespaces, which need root");
        return false;
    }
    let status = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in a namespace of its own");
    false
}

/// A filesystem of its own; nothing is mounted or attached after this value.
struct Medium {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

fn tool(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program} {arguments:?}: {told}"))
}

impl Medium {
    /// `None`, loudly, where no such filesystem can be made.
    fn new(dir: &Path) -> Option<Medium> {
        let mut medium = Medium {
            image: dir.join("image"),
            mount: dir.join("mount"),
            is_mounted: false,
        };
        std::fs::create_dir(&medium.mount).unwrap();
        let image = File::create(&medium.image).unwrap();
        image.set_len(IMAGE_BYTES).unwrap();
        let made = tool("mkfs.xfs", &["-q", "-f"], &medium.image)
            .and_then(|()| tool("xfs_io", &["-V", "-c", "quit"], Path::new("/")))
            .and_then(|()| medium.mount());
        match made {
            Ok(()) => Some(medium),
            Err(why) => {
                eprintln!(
                    "SKIPPED: power cuts need root, loop devices and xfsprogs: {}",
                    why.trim()
                );
                None
            }
        }
    }

    fn mount(&mut self) -> Result<(), String> {
        let image = self.image.to_string_lossy().into_owned();
        // The loop device goes with the mount.
        tool(
            "mount",
            &["-t", "xfs", "-o", "loop", image.as_str()],
            &self.mount,
        )?;
        self.is_mounted = true;
        Ok(())
    }

    /// The power fails: nothing reaches the medium from now on, not even the log of the filesystem.
    fn cut(&self) {
        tool("xfs_io", &["-x", "-c", "shutdown"], &self.mount).unwrap();
    }

    /// The power is back: what made it to the medium, and no more. No process may use it now.
    fn restore(&mut self) {
        let mut last = String::new();
        wait_until(
            "it can be unmounted",
            Duration::from_secs(20),
            || match tool("umount", &[], &self.mount) {
                Ok(()) => true,
                Err(why) => {
                    last = why;
                    false
                }
            },
        );
        self.is_mounted = false;
        self.mount()
            .unwrap_or_else(|why| panic!("{why} (before: {last})"));
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        if self.is_mounted && tool("umount", &[], &self.mount).is_err() {
            // A process of a failed test may still be ending.
            std::thread::sleep(Duration::from_secs(2));
            if tool("umount", &[], &self.mount).is_err() {
                // At least it goes once nothing uses it any more.
                let _ = tool("umount", &["-l"], &self.mount);
            }
        }
    }
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Puts at `data_dir` in the background, cuts the power at a random moment, and waits for the end.
fn put_until_the_power_fails(
    medium: &Medium,
    data_dir: &Path,
    scratch: PathBuf,
    seed: u64,
    acknowledged: &Acknowledged,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let putter = {
        let (data_dir, stop) = (data_dir.to_owned(), Arc::clone(&stop));
        let acknowledged = Arc::clone(acknowledged);
        std::thread::spawn(move || keep_putting(&data_dir, &scratch, seed, &stop, &acknowledged))
    };
    let some = Duration::from_millis(400 + Entropy::seeded(seed).below(1500));
    std::thread::sleep(some);
    medium.cut();
    // Whatever it still puts must fail, or be there.
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    putter.join().unwrap();
}

/// Who the peer of `data_dir` is, and the links it says it put.
fn identity_and_list(data_dir: &Path) -> (String, Vec<String>) {
    let status = json(&run(cairn(data_dir).args(["--json", "status"]), 0));
    let list = json(&run(cairn(data_dir).args(["--json", "list"]), 0));
    let puts = list["puts"].as_array().unwrap().iter();
    let links = puts.map(|put| put["link"].as_str().unwrap().to_owned());
    let peer = status["peer"].as_str().unwrap().to_owned();
    (peer, links.collect())
}

#[test]
fn a_lone_peer_keeps_what_it_acknowledged_through_power_cuts() {
    if !is_alone("power::a_lone_peer_keeps_what_it_acknowledged_through_power_cuts") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut medium) = Medium::new(dir.path()) else {
        return;
    };
    let data_dir = medium.mount.join("peer");
    std::fs::create_dir(&data_dir).unwrap();
    let config = "[storage]\nquota = \"300 MiB\"\nreserve_free = \"0\"\n";
    std::fs::write(data_dir.join("config.toml"), config).unwrap();
    sync(&data_dir.join("config.toml"));
    sync(&data_dir);
    sync(&medium.mount);
    let acknowledged = Acknowledged::default();
    let mut is = None;
    for round in 0..scaled(4) as u64 {
        // A peer that runs, or one in each command; the first cut meets a new data directory.
        let node = (round % 2 == 0).then(|| {
            let log = dir.path().join(format!("log-{round}"));
            Node::start(&data_dir, &log)
        });
        let scratch = dir.path().join("scratch");
        put_until_the_power_fails(&medium, &data_dir, scratch, 100 + round, &acknowledged);
        if let Some(node) = node {
            node.kill();
        }
        medium.restore();
        let log = dir.path().join(format!("log-after-{round}"));
        let node = Node::start(&data_dir, &log);
        check_kept(&data_dir, &acknowledged);
        let (peer, listed) = identity_and_list(&data_dir);
        for kept in acknowledged.lock().unwrap().iter() {
            assert!(listed.contains(&kept.link), "{} is not listed", kept.link);
        }
        if let Some(before) = is.replace(peer.clone()) {
            assert_eq!(before, peer, "it became another peer");
        }
        node.stop();
    }
    let count = acknowledged.lock().unwrap().len();
    println!("{count} puts were acknowledged");
    assert!(count >= scaled(4), "only {count} puts were acknowledged");
}

#[test]
fn a_network_keeps_what_it_acknowledged_when_the_power_fails_everywhere() {
    if !is_alone("power::a_network_keeps_what_it_acknowledged_when_the_power_fails_everywhere") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut medium) = Medium::new(dir.path()) else {
        return;
    };
    let home = medium.mount.join("net");
    let acknowledged = Acknowledged::default();
    let start = || {
        let scratch = tempfile::tempdir().unwrap();
        Devnet::start_at(&bin(), scratch, &home, &["--quota", "64MiB"])
    };
    let mut is: Vec<Option<String>> = vec![None; 6];
    for round in 0..scaled(2) as u64 {
        let net = start();
        for peer in &net.peers {
            // Made by the command that starts a devnet, which promises nothing about power cuts.
            sync(&peer.data_dir.join("config.toml"));
        }
        let scratch = net.dir.path().join("scratch");
        let data_dir = net.peers[0].data_dir.clone();
        put_until_the_power_fails(&medium, &data_dir, scratch, 200 + round, &acknowledged);
        drop(net);
        medium.restore();
        let net = start();
        check_kept(&net.peers[5].data_dir, &acknowledged);
        for (peer, is) in net.peers.iter().zip(&mut is) {
            let (now, _) = identity_and_list(&peer.data_dir);
            let before = is.get_or_insert_with(|| now.clone());
            assert_eq!(*before, now, "it became another peer");
        }
    }
    let count = acknowledged.lock().unwrap().len();
    println!("{count} puts were acknowledged");
    assert!(count >= scaled(2), "only {count} puts were acknowledged");
}

#[test]
fn what_was_not_synced_is_really_lost_here() {
    if !is_alone("power::what_was_not_synced_is_really_lost_here") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(mut medium) = Medium::new(dir.path()) else {
        return;
    };
    let (kept, lost) = (medium.mount.join("kept"), medium.mount.join("lost"));
    random_file(&kept, 100_000, 1);
    sync(&kept);
    sync(&medium.mount);
    random_file(&lost, 100_000, 2);
    medium.cut();
    medium.restore();
    assert_eq!(std::fs::metadata(&kept).unwrap().len(), 100_000);
    let left = std::fs::metadata(&lost).map_or(0, |meta| meta.len());
    assert_eq!(left, 0, "a power cut that loses nothing proves nothing");
}
