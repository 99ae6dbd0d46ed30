//! `devnet`: what it prints, whom it outlives, and who ends with it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
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

#[test]
fn a_dead_peer_stays_dead_and_the_other_lives() {
    let home = tempfile::tempdir().unwrap();
    let mut net = Net::start(Some(&home.path().join("net")), home.path());
    let (dead, pid) = net.peers[0].clone();
    signal(pid, "KILL");
    wait_until("the peer is gone", LIMIT, || !alive(pid));
    std::thread::sleep(Duration::from_secs(3));
    let answers = |dir: &Path| UnixStream::connect(dir.join("control.sock")).is_ok();
    assert!(!answers(&dead), "somebody runs on its directory again");
    assert!(answers(&net.peers[1].0));
    assert!(alive(net.peers[1].1));
    assert_eq!(net.status(1)["pid"], net.peers[1].1);
    assert!(net.child.try_wait().unwrap().is_none());
    let told = net.interrupt();
    assert!(
        told.contains(&format!("peer 1 (pid {pid}) ended: signal 9")),
        "{told}"
    );
}

/// What it tells people to paste does what it says.
#[test]
fn the_lines_to_paste_put_kill_and_get() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin());
    command
        .args([
            "devnet",
            "--peers",
            "3",
            "--quota",
            "256MiB",
            "--redundancy",
            "1+1",
        ])
        .env("TMPDIR", home.path())
        .env_remove("CAIRN_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut peers, mut script) = (Vec::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(told) = line.strip_prefix("peer ") {
            let pid = told.split_whitespace().nth(2).unwrap();
            peers.push((PathBuf::new(), pid.parse().unwrap()));
        } else if let Some(command) = line.strip_prefix("  ") {
            script.push_str(command);
            script.push('\n');
        } else if line.starts_with("Ctrl-C here") {
            break;
        }
    }
    let net = Net { child, peers };
    assert_eq!(net.peers.len(), 3);
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).env_remove("CAIRN_CONFIG");
    let pasted = run(&mut shell, 0);
    let shown = String::from_utf8_lossy(&pasted.stdout).into_owned();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("cairn:"), "{script}\n{shown}");
    assert_eq!(lines[1..], ["identical"], "{script}");
    let killed = net.peers.iter().filter(|(_, pid)| !alive(*pid)).count();
    assert_eq!(killed, 1, "{script}");
    net.interrupt();
}
