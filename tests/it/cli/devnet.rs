//! `devnet`: what it prints, whom it outlives, and who ends with it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{alive, bin, cairn, json, run, signal, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

struct Net {
    child: Child,
    peers: Vec<(PathBuf, u32)>,
}

impl Net {
    /// Starts two peers and reads what is told of them.
    fn start(dir: Option<&Path>, tmp: &Path) -> Net {
        let mut command = Command::new(bin());
        command
            .args(["--json", "devnet", "--peers", "2", "--quota", "64MiB"])
            .env("TMPDIR", tmp)
            .env("CAIRN_DATA_DIR", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(dir) = dir {
            command.arg("--dir").arg(dir);
        }
        let mut child = command.spawn().unwrap();
        let mut peers = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line == serde_json::json!({"ready": true}) {
                break;
            }
            assert_eq!(line["index"], peers.len() + 1);
            assert_eq!(line["addresses"].as_array().unwrap().len(), 3, "{line}");
            let data_dir = line["data_dir"].as_str().unwrap();
            peers.push((data_dir.into(), line["pid"].as_u64().unwrap() as u32));
        }
        assert_eq!(peers.len(), 2);
        Net { child, peers }
    }

    fn status(&self, at: usize) -> Value {
        let (dir, _) = &self.peers[at];
        json(&run(cairn(dir).args(["--json", "status"]), 0))
    }

    fn all_gone(&self) -> bool {
        !self.peers.iter().any(|(_, pid)| alive(*pid))
    }

    /// Ctrl-C; what it said on its standard error.
    fn interrupt(mut self) -> String {
        signal(self.child.id(), "INT");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert!(self.all_gone());
        let mut told = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut told).unwrap();
        told
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn peers_end_with_a_devnet_that_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let mut net = Net::start(Some(&home.path().join("net")), home.path());
    net.child.kill().unwrap();
    net.child.wait().unwrap();
    wait_until("its peers end", LIMIT, || net.all_gone());
}

#[test]
fn a_devnet_outlives_its_peers_and_never_restarts_them() {
    let home = tempfile::tempdir().unwrap();
    let mut net = Net::start(None, home.path());
    let dir = net.peers[0].0.parent().unwrap().to_owned();
    assert!(dir.starts_with(home.path().canonicalize().unwrap()));
    for (_, pid) in &net.peers {
        signal(*pid, "KILL");
    }
    wait_until("the peers are gone", LIMIT, || net.all_gone());
    std::thread::sleep(Duration::from_millis(300));
    assert!(net.child.try_wait().unwrap().is_none());
    assert!(net.all_gone());
    let told = net.interrupt();
    assert!(told.contains("ended: signal 9"), "{told}");
    assert!(told.contains("no peer is left"), "{told}");
    assert!(!dir.exists(), "a directory that nobody named goes");
}

#[test]
fn the_same_directory_is_the_same_network() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("net");
    let net = Net::start(Some(&dir), home.path());
    let before: Vec<Value> = (0..2).map(|at| net.status(at)).collect();
    assert_eq!(before[0]["network"], before[1]["network"]);
    assert_eq!(before[1]["connected"], 1);
    assert_eq!(before[1]["storage"]["quota_bytes"], 64 << 20);
    net.interrupt();
    let net = Net::start(Some(&dir), home.path());
    for (at, before) in before.iter().enumerate() {
        let after = net.status(at);
        for key in ["peer", "network", "addresses", "zone"] {
            assert_eq!(after[key], before[key], "{key}");
        }
    }
    net.interrupt();
}
