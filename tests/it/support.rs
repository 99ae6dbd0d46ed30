//! What tests with real processes share: the binary, and networks of peers; trees of files in a file of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cairnfs::base::Entropy;
use cairnfs::config::{Address, Config};
use serde_json::Value;

#[path = "support/trees.rs"]
mod trees;

pub use trees::*;

/// The binary with fault injection (tests are built with the `testkit` feature).
pub const FAULTY_BIN: &str = env!("CARGO_BIN_EXE_cairn");

/// How long a peer may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(20);

/// The binary as users get it, if the test runner built one; else the other.
pub fn bin() -> PathBuf {
    std::env::var_os("CAIRN_PLAIN_BIN").map_or_else(|| FAULTY_BIN.into(), PathBuf::from)
}

/// The project's directory now: a binary that was built from another copy of the same sources serves
/// as well.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// `base` at the default scale, more when `CAIRN_TEST_SCALE` says so.
pub fn scaled(base: usize) -> usize {
    let scale: f64 = std::env::var("CAIRN_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0);
    ((base as f64 * scale) as usize).max(1)
}

/// A `cairn` command on `data_dir`, with nothing of the environment that could matter.
pub fn cairn(data_dir: &Path) -> Command {
    cairn_with(&bin(), data_dir)
}

/// As [`cairn`], with a given binary.
pub fn cairn_with(bin: &Path, data_dir: &Path) -> Command {
    let mut command = Command::new(bin);
    command
        .env_remove("CAIRN_CONFIG")
        .env_remove("CAIRN_FAULT")
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null());
    command
}

/// Runs a command and requires exit code `code`.
pub fn run(command: &mut Command, code: i32) -> Output {
    let output = command.output().expect("the command starts");
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}\nstdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The first line of stdout, without its newline.
pub fn line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Stdout as one JSON document, in which no name is given twice: readers disagree about which counts.
pub fn json(output: &Output) -> Value {
    let unique: Result<Unique, _> = serde_json::from_slice(&output.stdout);
    unique.expect("each name once");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON document")
}

/// Any JSON without a name that is there twice.
struct Unique;

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> serde::de::Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut names = std::collections::BTreeSet::new();
        while let Some((name, Unique)) = map.next_entry::<String, Unique>()? {
            if let Some(twice) = names.replace(name) {
                return Err(serde::de::Error::custom(format!("`{twice}` twice")));
            }
        }
        Ok(Unique)
    }
}

/// Polls until `done` or panics with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Changes the config file of a data directory; the defaults if there is none.
pub fn edit_config(data_dir: &Path, change: impl FnOnce(&mut Config)) {
    std::fs::create_dir_all(data_dir).expect("the data directory");
    let file = data_dir.join("config.toml");
    let mut config = match std::fs::read_to_string(&file) {
        Ok(text) => Config::parse(&text).expect("a sound config"),
        Err(_) => Config::default(),
    };
    change(&mut config);
    std::fs::write(&file, config.to_toml()).expect("the config is written");
}

/// One peer of a [`Devnet`].
#[derive(Debug, Clone)]
pub struct Peer {
    pub data_dir: PathBuf,
    pub pid: u32,
}

/// A network of real peer processes on loopback; ends with this value.
pub struct Devnet {
    child: Child,
    pub dir: tempfile::TempDir,
    pub peers: Vec<Peer>,
    /// Peers that this test started itself, by index.
    own: BTreeMap<usize, Child>,
}

impl Devnet {
    pub fn start(arguments: &[&str]) -> Devnet {
        Self::start_with(&bin(), arguments)
    }

    /// Starts `cairn devnet` and waits until it is ready.
    pub fn start_with(bin: &Path, arguments: &[&str]) -> Devnet {
        Self::start_env(bin, arguments, &[])
    }

    /// As [`Devnet::start_with`], with more in the environment of all its peers.
    pub fn start_env(bin: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Devnet {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = dir.path().join("net");
        Self::launch(bin, dir, &home, arguments, environment)
    }

    /// As [`Devnet::start_with`], with the peers below `home`, which may have been there before;
    /// `dir` is for what the test itself makes.
    pub fn start_at(bin: &Path, dir: tempfile::TempDir, home: &Path, arguments: &[&str]) -> Devnet {
        Self::launch(bin, dir, home, arguments, &[])
    }

    fn launch(
        bin: &Path,
        dir: tempfile::TempDir,
        home: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Devnet {
        let mut child = Command::new(bin)
            .args(["--json", "devnet", "--dir"])
            .arg(home)
            .args(arguments)
            .env_remove("CAIRN_CONFIG")
            .env_remove("CAIRN_FAULT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("devnet starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut peers = Vec::new();
        for text in BufReader::new(stdout).lines() {
            let text = text.expect("devnet writes lines");
            let value: Value = serde_json::from_str(&text).expect("each line is JSON");
            if value["ready"] == true {
                break;
            }
            peers.push(Peer {
                data_dir: value["data_dir"].as_str().expect("data_dir").into(),
                pid: value["pid"].as_u64().expect("pid") as u32,
            });
        }
        Devnet {
            child,
            dir,
            peers,
            own: BTreeMap::new(),
        }
    }

    /// A command to peer `at` (counted from 0).
    pub fn cairn(&self, at: usize) -> Command {
        cairn(&self.peers[at].data_dir)
    }

    /// What a command says at peer `at` with `--json`, which must succeed.
    pub fn ask(&self, at: usize, arguments: &[&str]) -> Value {
        json(&run(self.cairn(at).arg("--json").args(arguments), 0))
    }

    /// `kill -9` of peer `at`.
    pub fn kill(&mut self, at: usize) {
        self.end(at, "KILL");
    }

    /// Stops peer `at` in good order.
    pub fn stop(&mut self, at: usize) {
        self.end(at, "TERM");
    }

    fn end(&mut self, at: usize, signal_name: &str) {
        signal(self.peers[at].pid, signal_name);
        if let Some(mut child) = self.own.remove(&at) {
            let _ = child.wait();
        }
        wait_until("the peer is gone", Duration::from_secs(20), || {
            !alive(self.peers[at].pid)
        });
    }

    /// Starts peer `at` again, with a fault if the binary has been built for it, and waits until
    /// it sees all others.
    pub fn restart(&mut self, at: usize, fault: Option<&str>) {
        self.start_again(at, fault);
        self.wait_connected(at);
    }

    /// Stops peer `at`, changes its config, and starts it again; others may not be met yet.
    pub fn reconfigure(&mut self, at: usize, change: impl FnOnce(&mut Config)) {
        self.kill(at);
        edit_config(&self.peers[at].data_dir, change);
        self.start_again(at, None);
    }

    /// Starts peer `at` again and waits until it answers.
    pub fn start_again(&mut self, at: usize, fault: Option<&str>) {
        let bin = if fault.is_some() {
            FAULTY_BIN.into()
        } else {
            bin()
        };
        let mut command = cairn_with(&bin, &self.peers[at].data_dir);
        command
            .arg("node")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(fault) = fault {
            command.env("CAIRN_FAULT", fault);
        }
        let child = command.spawn().expect("the peer starts");
        self.peers[at].pid = child.id();
        self.own.insert(at, child);
        wait_answers(&self.peers[at].data_dir);
    }

    /// Starts one more peer, which is in no network yet; its index.
    pub fn add_peer(&mut self, name: &str) -> usize {
        let data_dir = self.dir.path().join(name);
        edit_config(&data_dir, |config| {
            let first = Config::load(&self.peers[0].data_dir.join("config.toml"));
            *config = first.expect("the config of the first peer");
            config.network.zone = String::new();
            // Whatever ports are free.
            config.network.listen = ["tcp/0", "udp/0/quic-v1"]
                .map(|end| Address(format!("/ip4/127.0.0.1/{end}")))
                .into();
            config.network.bulk_listen = vec![([127, 0, 0, 1], 0).into()];
        });
        self.peers.push(Peer { data_dir, pid: 0 });
        let at = self.peers.len() - 1;
        self.start_again(at, None);
        at
    }

    /// Bytes that all peers together occupy by their own account.
    pub fn used_bytes(&self) -> u64 {
        self.peers.iter().map(|p| used_bytes(&p.data_dir)).sum()
    }

    /// Waits until peer `at` answers and sees all peers that are alive.
    pub fn wait_connected(&self, at: usize) {
        let living = self.peers.iter().filter(|p| alive(p.pid)).count();
        wait_until("the peers find each other", Duration::from_secs(30), || {
            self.live_peers(at) >= living
        });
    }

    /// Live peers as `at` sees them, itself included.
    pub fn live_peers(&self, at: usize) -> usize {
        let output = self.cairn(at).args(["--json", "peers"]).output();
        let Ok(output) = output else { return 0 };
        let Ok(value) = serde_json::from_slice::<Value>(&output.stdout) else {
            return 0;
        };
        value["peers"].as_array().map_or(0, |peers| {
            peers.iter().filter(|p| p["live"] == true).count()
        })
    }

    /// Puts `path` at peer `at`; the link.
    pub fn put(&self, at: usize, path: &Path) -> String {
        line(&run(self.cairn(at).arg("-q").arg("put").arg(path), 0))
    }

    /// Gets `link` at peer `at` into `target`.
    pub fn get(&self, at: usize, link: &str, target: &Path) {
        run(
            self.cairn(at).args(["-q", "get", link, "-o"]).arg(target),
            0,
        );
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        signal(self.child.id(), "TERM");
        for child in self.own.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the peer of `data_dir` answers. A command on a directory without a peer would start
/// one of its own.
pub fn wait_answers(data_dir: &Path) {
    wait_until("the peer answers", START_MAX, || answers(data_dir));
}

fn answers(data_dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(data_dir.join("control.sock")).is_ok()
}

/// Bytes that the peer of `data_dir` occupies by its own account.
pub fn used_bytes(data_dir: &Path) -> u64 {
    let status = json(&run(cairn(data_dir).args(["--json", "status"]), 0));
    let used = &status["storage"]["used_bytes"];
    used.as_u64().expect("used_bytes")
}

/// A peer process outside any [`Devnet`]; ends with this value.
pub struct Node {
    child: Child,
}

impl Node {
    /// Starts a peer on `data_dir` and waits until it answers. Its log goes to `log`.
    pub fn start(data_dir: &Path, log: &Path) -> Node {
        let file = std::fs::File::create(log).expect("the log");
        let child = cairn(data_dir)
            .arg("node")
            .env("CAIRN_LOG", "cairnfs=info")
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the peer starts");
        let mut node = Node { child };
        let begun = Instant::now();
        while !answers(data_dir) {
            let ended = node.child.try_wait().expect("a child process");
            let told = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none(), "the peer ended at once: {}", told());
            assert!(begun.elapsed() < START_MAX, "no answer: {}", told());
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it in good order, and requires that it says so.
    pub fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let status = self.child.wait().expect("the peer ends");
        assert!(status.success(), "the peer ended with {status}");
    }

    /// `kill -9`.
    pub fn kill(self) {}
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was put and acknowledged, and must be there ever after.
pub struct Kept {
    pub link: String,
    pub digest: blake3::Hash,
    /// The losses that it was said to survive.
    pub survives: u64,
}

pub type Acknowledged = Arc<Mutex<Vec<Kept>>>;

/// Puts small and large files at `data_dir` until told to stop.
pub fn keep_putting(
    data_dir: &Path,
    scratch: &Path,
    seed: u64,
    stop: &AtomicBool,
    acknowledged: &Acknowledged,
) {
    let entropy = Entropy::seeded(seed);
    while !stop.load(Ordering::Relaxed) {
        let size = (1 + entropy.below(3 << 20) as usize) >> entropy.below(12);
        random_file(scratch, size, entropy.u64());
        let digest = blake3::hash(&std::fs::read(scratch).expect("the file is there"));
        let output = cairn(data_dir)
            .args(["-q", "--json", "put"])
            .arg(scratch)
            .output();
        if let Ok(output) = output
            && output.status.success()
        {
            let put = json(&output);
            let kept = Kept {
                link: put["link"].as_str().expect("a link").to_owned(),
                digest,
                survives: put["survives"].as_u64().expect("a number"),
            };
            let mut acknowledged = acknowledged.lock().expect("no test thread panicked");
            acknowledged.push(kept);
        }
    }
}

/// Requires at the peer of `data_dir` that everything acknowledged is there, and not only just: it
/// survives what it was said to.
pub fn check_kept(data_dir: &Path, acknowledged: &Acknowledged) {
    let acknowledged = acknowledged.lock().expect("no test thread panicked");
    for Kept {
        link,
        digest,
        survives,
    } in acknowledged.iter()
    {
        let output = run(cairn(data_dir).args(["-q", "get", link]), 0);
        assert_eq!(blake3::hash(&output.stdout), *digest, "{link}");
        // A holder may be met a moment later.
        let mut last = Value::Null;
        let begun = Instant::now();
        while last["survives"].as_u64() < Some(*survives) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "it was to survive {survives} losses: {last}"
            );
            last = json(&run(cairn(data_dir).args(["--json", "stat", link]), 0));
        }
    }
}

/// Sends a signal to one process by its pid.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
    drop(status);
}

/// The inodes of sockets that a process has open, as tables of the kernel name them.
pub fn sockets(pid: u32) -> BTreeSet<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    // Some may be closed by now.
    let targets = open
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes = targets.filter_map(|target| {
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some(inode.to_owned())
    });
    inodes.collect()
}

/// Whether a process runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}
