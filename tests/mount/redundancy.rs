//! `cairn redundancy`: a policy on directories of a real mount, and what becomes of what is there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairnfs::base::ByteSize;
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use serde_json::Value;

use crate::home::{Home, mounts_below};
use crate::support::{Devnet, json, run, wait_until};

const LONG: Duration = Duration::from_secs(120);

/// Four peers, of which the first has a mount.
struct Net {
    net: Devnet,
    place: PathBuf,
}

impl Net {
    fn start() -> Option<Net> {
        // For what it checks.
        drop(Home::new()?);
        let mut net = Devnet::start(&["--peers", "4", "--redundancy", "2+1", "--quota", "512 MiB"]);
        net.reconfigure(0, |config| config.repair.rate = ByteSize::mib(4));
        net.wait_connected(0);
        let place = net.dir.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let net = Net { net, place };
        net.mount();
        Some(net)
    }

    fn mount(&self) {
        run(self.net.cairn(0).arg("mount").arg(&self.place), 0);
    }

    fn tell(&self, path: &Path, arguments: &[&str]) -> Value {
        let mut command = self.net.cairn(0);
        command.args(["--json", "redundancy"]).arg(path);
        json(&run(command.args(arguments), 0))
    }

    fn stat(&self, path: &Path) -> Value {
        json(&run(
            self.net.cairn(0).args(["--json", "stat"]).arg(path),
            0,
        ))
    }

    fn worker(&self) -> String {
        let told = json(&run(self.net.cairn(0).args(["--json", "workers"]), 0));
        let text = told.to_string();
        assert!(text.contains("\"redundancy\""), "{text}");
        text
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in mounts_below(self.net.dir.path()) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(place)
                .status();
        }
    }
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

#[test]
fn what_is_there_is_stored_anew_after_a_policy_was_set_even_if_the_peer_is_killed() {
    let Some(mut net) = Net::start() else { return };
    let dir = net.place.join("dir");
    std::fs::create_dir(&dir).unwrap();
    let (large, small) = (dir.join("large"), dir.join("small"));
    let data = content(1, 40 << 20);
    std::fs::write(&large, &data).unwrap();
    std::fs::write(&small, content(2, 50_000)).unwrap();
    run(net.net.cairn(0).arg("sync"), 0);
    assert_eq!(net.stat(&dir)["redundancy"], serde_json::json!(["2+1"]));
    let before = std::fs::metadata(&large).unwrap();

    let told = net.tell(&dir, &[]);
    assert_eq!(
        (&told["redundancy"], &told["set_on"]),
        (&"2+1".into(), &Value::Null)
    );
    run(net.net.cairn(0).arg("redundancy").arg(&dir).arg("2+x"), 2);
    run(net.net.cairn(0).arg("redundancy").arg("/").arg("2+2"), 3);
    let told = net.tell(&dir, &["1+2"]);
    assert_eq!(told["redundancy"], "1+2");
    assert_eq!(told["set_on"], dir.to_str().unwrap());
    assert!(told["recode_bytes"].as_u64().unwrap() >= 40 << 20, "{told}");
    // At 4 MiB/s it takes ten seconds; somewhere in between the peer is killed.
    wait_until("it has begun", LONG, || {
        net.worker().contains("to be stored anew")
    });
    std::thread::sleep(Duration::from_secs(3));
    net.net.kill(0);
    for place in mounts_below(net.net.dir.path()) {
        run(std::process::Command::new("umount").arg("-l").arg(place), 0);
    }
    net.net.restart(0, None);
    net.mount();
    assert!(std::fs::read(&large).unwrap() == data);
    wait_until("all of it is stored anew", LONG, || {
        net.tell(&dir, &[])["recode_bytes"] == 0
    });
    let stat = net.stat(&dir);
    assert_eq!(stat["redundancy"], serde_json::json!(["1+2"]));
    assert_eq!(stat["recode_bytes"], 0, "{stat}");
    assert!(std::fs::read(&large).unwrap() == data);
    assert!(std::fs::read(&small).unwrap() == content(2, 50_000));
    let after = std::fs::metadata(&large).unwrap();
    let times = |meta: &std::fs::Metadata| {
        (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.len(),
        )
    };
    assert_eq!(times(&after), times(&before));
    // What is new has it at once, and what is above does not.
    std::fs::write(dir.join("new"), content(3, 300_000)).unwrap();
    std::fs::write(net.place.join("above"), content(4, 300_000)).unwrap();
    run(net.net.cairn(0).arg("sync"), 0);
    assert_eq!(
        net.stat(&dir.join("new"))["redundancy"],
        serde_json::json!(["1+2"])
    );
    assert_eq!(
        net.stat(&net.place.join("above"))["redundancy"],
        serde_json::json!(["2+1"])
    );
    let told = net.tell(&dir.join("new"), &[]);
    assert_eq!(told["set_on"], dir.to_str().unwrap());
    // By the attribute as well, which takes only what is one.
    let set = |value: &[u8]| setxattr(&dir, "user.cairn.redundancy", value, XattrFlags::empty());
    assert_eq!(set(b"many"), Err(Errno::INVAL));
    set(b"auto").unwrap();
    assert_eq!(net.tell(&dir, &[])["redundancy"], "auto");
    assert_eq!(
        net.tell(&dir, &[])["stored_as"],
        "4+2",
        "few peers are known"
    );
    let told = net.tell(&dir, &["inherit"]);
    assert_eq!(
        (&told["redundancy"], &told["set_on"]),
        (&"2+1".into(), &Value::Null)
    );
}
