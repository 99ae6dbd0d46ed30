//! A data directory and places to mount on; nothing is mounted and no peer runs after it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cairnfs::base::ByteSize;
use cairnfs::config::Quota;
use serde_json::Value;

use crate::support::{alive, cairn, edit_config, json, run, signal, wait_until};

/// How long a process may take to end.
pub const END_MAX: Duration = Duration::from_secs(30);

pub struct Home {
    pub dir: tempfile::TempDir,
    pub data: PathBuf,
}

impl Home {
    /// `None`, loudly, where nothing can be mounted.
    pub fn new() -> Option<Home> {
        if !can_mount() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        edit_config(&data, |config| {
            config.storage.quota = Quota::Bytes(ByteSize::gib(1));
            config.storage.reserve_free = ByteSize(0);
            config.network.mdns = false;
        });
        Some(Home { dir, data })
    }

    /// A directory of that name, made.
    pub fn place(&self, name: &str) -> PathBuf {
        let place = self.dir.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    pub fn cairn(&self) -> Command {
        cairn(&self.data)
    }

    /// Mounts in the background; the process that serves it.
    pub fn mount(&self, arguments: &[&str], place: &Path) -> u32 {
        let mounted = json(&run(
            self.cairn()
                .args(["--json", "mount"])
                .args(arguments)
                .arg(place),
            0,
        ));
        assert_eq!(mounted["dir"], place.to_str().unwrap());
        mounted["pid"].as_u64().unwrap() as u32
    }

    pub fn umount(&self, place: &Path) {
        run(self.cairn().arg("umount").arg(place), 0);
    }

    /// What `status` tells of the volumes.
    pub fn volumes(&self) -> Value {
        let status = json(&run(self.cairn().args(["--json", "status"]), 0));
        status["volumes"].clone()
    }

    /// The log of a peer in the background.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("log/cairn.log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the peer:\n{}", self.log());
        }
        // Those of a test that failed in the middle.
        for place in mounts_below(self.dir.path()) {
            let _ = Command::new("umount").arg("-l").arg(place).status();
        }
        let lock = std::fs::read_to_string(self.data.join("lock")).unwrap_or_default();
        let served = std::os::unix::net::UnixStream::connect(self.data.join("control.sock"));
        if let (Ok(pid), Ok(_)) = (lock.trim().parse::<u32>(), served) {
            signal(pid, "TERM");
            let begun = std::time::Instant::now();
            while alive(pid) && begun.elapsed() < Duration::from_secs(15) {
                std::thread::sleep(Duration::from_millis(50));
            }
            if alive(pid) {
                signal(pid, "KILL");
            }
        }
    }
}

/// Mounted directories below `dir`.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let list = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let places = list.lines().filter_map(|line| line.split(' ').nth(1));
    let dir = dir.to_str().unwrap();
    let mut below: Vec<String> = places
        .filter(|place| place.starts_with(dir))
        .map(ToOwned::to_owned)
        .collect();
    below.reverse();
    below
}

/// How the kernel lists a mount: its source, its type, its options.
pub fn listed(place: &Path) -> Option<(String, String, String)> {
    let list = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let place = place.to_str().unwrap();
    list.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[1] == place).then(|| {
            let field = |at: usize| fields[at].to_owned();
            (field(0), field(2), field(3))
        })
    })
}

/// Waits until a process has ended.
pub fn wait_gone(pid: u32) {
    wait_until("the peer ends", END_MAX, || !alive(pid));
}

/// Runs a script in a mount namespace of its own. `None`, loudly, where there is none.
pub fn in_own_mounts(script: &str) -> Option<std::process::Output> {
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", script])
        .env_remove("CAIRN_CONFIG")
        .env_remove("CAIRN_DATA_DIR")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output)
            if !String::from_utf8_lossy(&output.stderr).contains("unshare: unshare failed") =>
        {
            Some(output)
        }
        _ => {
            eprintln!("SKIPPED: no mount namespace can be made here");
            None
        }
    }
}

/// Whether anything can be mounted here; says so loudly if not.
pub fn can_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has_device = Path::new("/dev/fuse").exists();
    if !is_root || !has_device {
        eprintln!("SKIPPED: mounting needs root ({is_root}) and /dev/fuse ({has_device})");
    }
    is_root && has_device
}
