//! Peers in network namespaces of their own: firewalls, changing addresses, frozen processes.
//!
//! Needs root, `ip` and `nft`; without them these tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{bin, line, random_file, run, scaled, signal, wait_until};

/// How soon a peer that can be reached again must be in use.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(30);

/// A switch with one namespace for each peer; all of it goes away with this value.
pub(crate) struct Lan {
    tag: String,
    count: usize,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Child>,
}

pub(crate) fn ip(arguments: &str) -> bool {
    tool("ip", arguments)
}

fn tool(program: &str, arguments: &str) -> bool {
    Command::new(program)
        .args(arguments.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Lan {
    /// `None`, loudly, where namespaces cannot be made.
    pub(crate) fn new(count: usize, tag: &str) -> Option<Lan> {
        let tag = format!("cairn-{tag}-{}", std::process::id());
        if !ip(&format!("netns add {tag}-sw")) || !tool("nft", "--version") {
            eprintln!("SKIPPED: network namespaces need root, iproute2 and nftables");
            ip(&format!("netns del {tag}-sw"));
            return None;
        }
        let lan = Lan {
            tag,
            count,
            dir: tempfile::tempdir().expect("a temporary directory"),
            nodes: Vec::new(),
        };
        let hub = format!("{}-sw", lan.tag);
        assert!(ip(&format!("-n {hub} link add br0 type bridge")));
        assert!(ip(&format!("-n {hub} link set br0 up")));
        for at in 0..count {
            let name = lan.name(at);
            assert!(ip(&format!("netns add {name}")));
            assert!(ip(&format!(
                "-n {hub} link add port{at} type veth peer name eth0 netns {name}"
            )));
            assert!(ip(&format!("-n {hub} link set port{at} master br0 up")));
            assert!(ip(&format!("-n {name} link set lo up")));
            assert!(ip(&format!(
                "-n {name} addr add 10.77.0.{}/24 dev eth0",
                at + 1
            )));
            // Without asking the neighbours first, which would take a second.
            assert!(ip(&format!(
                "-n {name} addr add fd77::{}/64 dev eth0 nodad",
                at + 1
            )));
            assert!(ip(&format!("-n {name} link set eth0 up")));
        }
        Some(lan)
    }

    pub(crate) fn name(&self, at: usize) -> String {
        format!("{}-{at}", self.tag)
    }

    pub(crate) fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("peer-{at}"))
    }

    /// A command inside the namespace of peer `at`.
    fn inside(&self, at: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(at)])
            .arg(program)
            .env_remove("CAIRN_CONFIG")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn cairn(&self, at: usize) -> Command {
        let mut command = self.inside(at, &bin());
        command.arg("--data-dir").arg(self.data_dir(at));
        command
    }

    /// Starts all peers on the default ports and joins them to one network.
    pub(crate) fn start(&mut self) {
        for at in 0..self.count {
            std::fs::create_dir_all(self.data_dir(at)).expect("a data directory");
            let config = "[storage]\nquota = \"1 GiB\"\n[network]\nmdns = false\n";
            std::fs::write(self.data_dir(at).join("config.toml"), config).expect("a config");
            self.start_node(at);
            if at > 0 {
                let ticket = line(&run(self.cairn(0).args(["-q", "invite"]), 0));
                run(self.cairn(at).args(["-q", "join", &ticket]), 0);
            }
        }
        for at in 0..self.count {
            wait_until("all peers see each other", BACK_WITHIN, || {
                (0..self.count).all(|other| other == at || self.path(at, other).is_some())
            });
        }
    }

    /// Starts the process of peer `at` and waits until it answers.
    pub(crate) fn start_node(&mut self, at: usize) {
        let mut command = self.cairn(at);
        let node = command
            .arg("node")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the peer starts");
        match self.nodes.get_mut(at) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        // A command on a directory without a peer would start one of its own.
        let socket = self.data_dir(at).join("control.sock");
        wait_until("the peer answers", Duration::from_secs(20), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// Stops the process of peer `at` in good order.
    pub(crate) fn stop_node(&mut self, at: usize) {
        signal(self.nodes[at].id(), "TERM");
        let _ = self.nodes[at].wait();
    }

    pub(crate) fn peer_id(&self, at: usize) -> String {
        let output = run(self.cairn(at).args(["--json", "status"]), 0);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        value["peer"].as_str().expect("a peer id").to_owned()
    }

    /// The transport that `at` uses to reach `other` now.
    pub(crate) fn path(&self, at: usize, other: usize) -> Option<String> {
        self.path_to(at, &self.peer_id(other))
    }

    /// As [`Lan::path`], to a peer that need not answer.
    fn path_to(&self, at: usize, id: &str) -> Option<String> {
        let output = self.cairn(at).args(["--json", "peers"]).output().ok()?;
        let value: Value = serde_json::from_slice(&output.stdout).ok()?;
        let peers = value["peers"].as_array()?;
        let peer = peers.iter().find(|peer| peer["peer"] == id)?;
        (peer["live"] == true).then(|| peer["path"].as_str().unwrap_or("").to_owned())
    }

    fn wait_path(&self, at: usize, other: usize, wanted: &str) {
        wait_until(
            &format!("peer {at} reaches peer {other} by {wanted}"),
            Duration::from_secs(60),
            || self.path(at, other).as_deref() == Some(wanted),
        );
    }

    /// Drops packets of these TCP ports at every peer, and no others.
    fn drop_tcp(&self, ports: &str) {
        for at in 0..self.count {
            let name = self.name(at);
            tool("ip", &format!("netns exec {name} nft flush ruleset"));
            if ports.is_empty() {
                continue;
            }
            let rules = format!(
                "table inet wall {{ chain in {{ type filter hook input priority 0; \
                 tcp dport {{ {ports} }} drop; tcp sport {{ {ports} }} drop; }}; }}"
            );
            let status = Command::new("ip")
                .args(["netns", "exec", &name, "nft", &rules])
                .status();
            assert!(status.is_ok_and(|status| status.success()), "nft {rules}");
        }
    }

    /// Puts at one peer and gets at another.
    fn round_trip(&self, from: usize, to: usize, seed: u64) {
        let file = self.dir.path().join("file");
        random_file(&file, 3 << 20, seed);
        let mut put = self.cairn(from);
        put.args(["-q", "put", "--redundancy", "2+1"]).arg(&file);
        let link = line(&run(&mut put, 0));
        let output = run(self.cairn(to).args(["-q", "get", &link]), 0);
        assert!(output.stdout == std::fs::read(&file).expect("the file"));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            signal(node.id(), "CONT");
            signal(node.id(), "TERM");
        }
        for node in &mut self.nodes {
            let _ = node.wait();
        }
        for at in 0..self.count {
            ip(&format!("netns del {}", self.name(at)));
        }
        ip(&format!("netns del {}-sw", self.tag));
    }
}

#[test]
fn a_firewall_changes_the_path_and_not_the_service() {
    let Some(mut lan) = Lan::new(3, "wall") else {
        return;
    };
    lan.start();
    lan.wait_path(0, 1, "bulk");
    lan.round_trip(0, 1, 1);
    lan.drop_tcp("4747");
    lan.round_trip(1, 2, 2);
    lan.drop_tcp("4748");
    lan.wait_path(0, 1, "tcp");
    lan.round_trip(0, 2, 3);
    lan.drop_tcp("4747, 4748");
    lan.wait_path(0, 1, "quic");
    lan.round_trip(0, 1, 4);
    lan.drop_tcp("");
    lan.wait_path(0, 1, "bulk");
}

#[test]
fn a_peer_is_used_again_after_it_moved_or_slept() {
    let Some(mut lan) = Lan::new(3, "move") else {
        return;
    };
    lan.start();
    let name = lan.name(2);
    // In this order: the kernel drops secondary addresses together with the first one.
    assert!(ip(&format!("-n {name} addr del 10.77.0.3/24 dev eth0")));
    assert!(ip(&format!("-n {name} addr add 10.77.0.99/24 dev eth0")));
    wait_until(
        "the moved peer is known at its new address",
        BACK_WITHIN,
        || {
            let peers = lan.cairn(0).arg("peers").output();
            peers.is_ok_and(|peers| String::from_utf8_lossy(&peers.stdout).contains("10.77.0.99"))
                && lan.path(0, 2).is_some()
                && lan.path(2, 1).is_some()
        },
    );
    lan.round_trip(0, 2, 5);

    // The pid of `ip netns exec` is that of the peer: it replaces itself.
    let (pid, id) = (lan.nodes[1].id(), lan.peer_id(1));
    signal(pid, "STOP");
    std::thread::sleep(Duration::from_secs(scaled(15).min(300) as u64));
    lan.round_trip(0, 2, 6);
    // Whoever answers nothing is not held for there: what follows is not the connection of before.
    wait_until("the peer that sleeps is missed", BACK_WITHIN, || {
        lan.path_to(0, &id).is_none()
    });
    let needs_all = lan.dir.path().join("needs-all");
    random_file(&needs_all, 3 << 20, 7);
    let mut put = lan.cairn(0);
    put.args(["-q", "put", "--redundancy", "2+1", "--survive", "1"])
        .arg(&needs_all);
    run(&mut put, 4);
    signal(pid, "CONT");
    let mut link = String::new();
    wait_until("the peer that slept is used again", BACK_WITHIN, || {
        if link.is_empty() {
            link = line(&put.output().expect("the command starts"));
        }
        let mut get = lan.cairn(1);
        !link.is_empty()
            && get
                .args(["-q", "get", &link])
                .output()
                .is_ok_and(|got| got.stdout == std::fs::read(&needs_all).expect("the file"))
    });
    assert!(lan.path(0, 1).is_some());
    lan.round_trip(0, 1, 11);
}

/// Both families listen on one port, whatever the system's default is.
#[test]
fn the_default_addresses_serve_both_families() {
    let Some(mut lan) = Lan::new(2, "dual") else {
        return;
    };
    lan.start();
    for address in [
        "10.77.0.1:4748",
        "[fd77::1]:4748",
        "/ip4/10.77.0.1/tcp/4747",
        "/ip6/fd77::1/tcp/4747",
        "/ip4/10.77.0.1/udp/4747/quic-v1",
        "/ip6/fd77::1/udp/4747/quic-v1",
    ] {
        // The system tells of interfaces one by one.
        wait_until(&format!("{address} is announced"), BACK_WITHIN, || {
            let output = run(lan.cairn(0).args(["--json", "status"]), 0);
            let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let announced = status["addresses"].as_array().expect("addresses");
            announced.iter().any(|announced| announced == address)
        });
    }
    lan.round_trip(0, 1, 8);
    // Then only IPv6 is left, and after that only IPv4.
    let name = lan.name(1);
    assert!(ip(&format!("-n {name} addr del 10.77.0.2/24 dev eth0")));
    wait_until("IPv6 alone serves", BACK_WITHIN, || {
        let peers = lan.cairn(0).arg("peers").output();
        peers.is_ok_and(|peers| !String::from_utf8_lossy(&peers.stdout).contains("10.77.0.2"))
            && lan.path(0, 1).as_deref() == Some("bulk")
            && lan.path(1, 0).as_deref() == Some("bulk")
    });
    lan.round_trip(1, 0, 9);
    assert!(ip(&format!("-n {name} addr add 10.77.0.2/24 dev eth0")));
    assert!(ip(&format!("-n {name} addr del fd77::2/64 dev eth0")));
    wait_until("IPv4 alone serves", BACK_WITHIN, || {
        let peers = lan.cairn(0).arg("peers").output();
        peers.is_ok_and(|peers| !String::from_utf8_lossy(&peers.stdout).contains("fd77::2"))
            && lan.path(0, 1).as_deref() == Some("bulk")
            && lan.path(1, 0).as_deref() == Some("bulk")
    });
    lan.round_trip(0, 1, 10);
}

/// Two peers of one machine, both with the default ports.
#[test]
fn a_port_in_use_is_told_with_its_remedy() {
    let Some(mut lan) = Lan::new(1, "ports") else {
        return;
    };
    lan.start();
    run(lan.cairn(0).args(["-q", "invite"]), 0);
    let second = lan.dir.path().join("second");
    std::fs::create_dir_all(&second).expect("a data directory");
    let invite = |config: &str, code: i32| {
        std::fs::write(second.join("config.toml"), config).expect("a config");
        let mut invite = lan.inside(0, &bin());
        invite.arg("--data-dir").arg(&second).args(["-q", "invite"]);
        let output = run(&mut invite, code);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let head = "[storage]\nquota = \"1 GiB\"\n[network]\nmdns = false\n";
    let tcp_alone = format!("{head}listen = [\"/ip4/0.0.0.0/tcp/4747\"]\n");
    let bulk_alone = format!("{head}listen = [\"/ip4/0.0.0.0/tcp/4757\"]\n");
    let family = format!("{bulk_alone}bulk_listen = [\"[::]:4748\"]\n");
    for (config, port) in [
        (head, "tcp/4747"),
        (tcp_alone.as_str(), "tcp/4747"),
        (bulk_alone.as_str(), "0.0.0.0:4748"),
        (family.as_str(), "[::]:4748"),
    ] {
        let said = invite(config, 1);
        for part in [
            port,
            "in use",
            "network.listen",
            "network.bulk_listen",
            "config",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }
    // What it says helps.
    let free = format!("{bulk_alone}bulk_listen = [\"0.0.0.0:0\"]\n");
    invite(&free, 0);
}
