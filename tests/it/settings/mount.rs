//! `[mount]`: measured on a volume that a running peer mounts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairnfs::base::ByteSize;
use cairnfs::config::Durability;

use super::ask;
use super::transfer::{MIB, putter_and_holder};
use crate::support::{Devnet, random_file, run};

/// A directory to mount on; none, loudly, where nothing can be mounted.
fn place(net: &Devnet) -> Option<PathBuf> {
    let is_root = rustix::process::geteuid().is_root();
    let has_device = Path::new("/dev/fuse").exists();
    if !is_root || !has_device {
        eprintln!("SKIPPED: mounting needs root ({is_root}) and /dev/fuse ({has_device})");
        return None;
    }
    let place = net.dir.path().join("mnt");
    // One that a killed peer left is there already.
    std::fs::create_dir_all(&place).ok();
    Some(place)
}

fn mount(net: &Devnet, place: &Path) {
    run(net.cairn(0).arg("mount").arg(place), 0);
}

fn umount(net: &Devnet, place: &Path) {
    run(net.cairn(0).arg("umount").arg(place), 0);
}

#[test]
fn a_durability_that_cannot_be_had_is_refused() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    net.reconfigure(0, |config| config.mount.durability = Durability::Network);
    let refused = run(net.cairn(0).arg("mount").arg(&place), 4);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("durability"));
    net.reconfigure(0, |config| config.mount.durability = Durability::Local);
    mount(&net, &place);
    umount(&net, &place);
}

#[test]
fn changes_are_safe_after_the_commit_interval() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    let mut found = Vec::new();
    for (name, interval) in [("slow", 60_000), ("quick", 200)] {
        net.reconfigure(0, |config| {
            config.mount.commit_interval = Duration::from_millis(interval);
        });
        mount(&net, &place);
        std::fs::write(place.join(name), "text").unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        net.kill(0);
        net.restart(0, None);
        mount(&net, &place);
        found.push(std::fs::read(place.join(name)).ok());
        umount(&net, &place);
    }
    assert_eq!(found, [None, Some(b"text".to_vec())]);
}

#[test]
fn writers_wait_when_enough_is_dirty() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    let file = net.dir.path().join("file");
    let mut dirty = Vec::new();
    for (seed, most) in [(1, 16), (2, 256)] {
        net.reconfigure(0, |config| {
            config.mount.dirty_max = ByteSize::mib(most);
            // So slow that what is written has to wait.
            config.network.upload_limit = ByteSize::mib(8);
        });
        net.wait_connected(0);
        mount(&net, &place);
        random_file(&file, 48 << 20, seed);
        std::fs::copy(&file, place.join(format!("copy{most}"))).unwrap();
        let status = ask(&net, 0, &["status"]);
        dirty.push(
            status["volumes"][0]["usage"]["dirty_bytes"]
                .as_u64()
                .unwrap(),
        );
        umount(&net, &place);
    }
    assert!(dirty[0] < 24 * MIB && dirty[1] > 28 * MIB, "{dirty:?}");
}

#[test]
fn a_read_in_a_mount_waits_as_long_as_configured() {
    let mut net = putter_and_holder();
    let Some(place) = place(&net) else { return };
    mount(&net, &place);
    let file = net.dir.path().join("file");
    random_file(&file, 1 << 20, 1);
    std::fs::copy(&file, place.join("file")).unwrap();
    run(net.cairn(0).arg("sync"), 0);
    umount(&net, &place);
    net.kill(1);
    let mut took = Vec::new();
    for seconds in [1, 9] {
        net.reconfigure(0, |config| {
            config.mount.read_timeout = Duration::from_secs(seconds);
            config.cache.disk = ByteSize(0);
        });
        mount(&net, &place);
        let begun = Instant::now();
        let read = std::fs::read(place.join("file"));
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
        took.push(begun.elapsed());
        umount(&net, &place);
    }
    assert!(
        took[1] >= Duration::from_secs(9) && took[0] < took[1],
        "{took:?}"
    );
}
