//! A peer that nobody else is with yet: what it says, what it opens, and how it is moved and brought back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cairnfs::base::ByteSize;
use serde_json::Value;

use crate::support::{
    Node, cairn, edit_config, json, line, make_tree, random_file, run, signal, sockets,
};

/// A directory with a file and a place for data.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        random_file(&home.path("file"), 3 << 20, 1);
        home.configure("data");
        home
    }

    /// Settings that have nothing to do with the disk of this machine.
    fn configure(&self, name: &str) {
        edit_config(&self.path(name), |config| {
            config.storage.reserve_free = ByteSize(0);
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn cairn(&self, data: &str) -> Command {
        cairn(&self.path(data))
    }

    fn ask(&self, data: &str, arguments: &[&str]) -> Value {
        json(&run(self.cairn(data).arg("--json").args(arguments), 0))
    }

    fn put(&self, data: &str, path: &Path) -> String {
        line(&run(self.cairn(data).args(["-q", "put"]).arg(path), 0))
    }

    fn check_file(&self, data: &str, link: &str) {
        let back = run(self.cairn(data).args(["-q", "get", link]), 0);
        assert!(back.stdout == std::fs::read(self.path("file")).unwrap());
    }
}

/// How many sockets a process has open, and how many of them are of the network.
fn open_sockets(pid: u32) -> (usize, usize) {
    let open = sockets(pid);
    let of_network = ["tcp", "udp", "tcp6", "udp6"].iter().flat_map(|kind| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{kind}"));
        let table = table.unwrap_or_default();
        let inodes = table.lines().skip(1).filter_map(|line| {
            let inode = line.split_whitespace().nth(9)?;
            Some(inode.to_owned())
        });
        inodes.collect::<Vec<_>>()
    });
    let of_network: BTreeSet<String> = of_network.collect();
    (open.len(), open.intersection(&of_network).count())
}

#[test]
fn no_network_socket_is_opened_before_the_first_invite() {
    let home = Home::new();
    // As configured by default, then where nothing leaves this machine.
    for is_local in [false, true] {
        if is_local {
            edit_config(&home.path("data"), |config| {
                config.network.mdns = false;
                config.network.listen = ["tcp/0", "udp/0/quic-v1"]
                    .map(|end| format!("/ip4/127.0.0.1/{end}").parse().unwrap())
                    .into();
                config.network.bulk_listen = vec![([127, 0, 0, 1], 0).into()];
            });
        }
        let peer = Node::start(&home.path("data"), &home.path("log"));
        let pid = peer.pid();
        let link = home.put("data", &home.path("file"));
        home.check_file("data", &link);
        let (all, of_network) = open_sockets(pid);
        assert!(all > 0, "its own socket is seen");
        assert_eq!(of_network, 0);
        if is_local {
            run(home.cairn("data").args(["-q", "invite"]), 0);
            // Control by TCP and QUIC, and the bulk plane.
            let opened = open_sockets(pid);
            assert!(opened.1 >= 3, "{opened:?}");
        }
        peer.stop();
    }
}

/// Files below `dir` in which these bytes are.
fn naming(dir: &Path, bytes: &[u8], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let content = match (kind.is_dir(), kind.is_symlink()) {
            (true, _) => {
                naming(&path, bytes, found);
                continue;
            }
            (_, true) => {
                let target = std::fs::read_link(&path).unwrap();
                target.into_os_string().into_encoded_bytes()
            }
            _ => std::fs::read(&path).unwrap_or_default(),
        };
        if content.windows(bytes.len()).any(|part| part == bytes) {
            found.push(path);
        }
    }
}

#[test]
fn a_stopped_peer_can_be_moved() {
    let home = Home::new();
    home.configure("the old place");
    let peer = Node::start(&home.path("the old place"), &home.path("log"));
    let link = home.put("the old place", &home.path("file"));
    run(
        home.cairn("the old place")
            .args(["volume", "create", "photos"]),
        0,
    );
    let before = home.ask("the old place", &["list"]);
    let id = home.ask("the old place", &["status"])["peer"].clone();
    peer.stop();
    // Neither the whole path nor the end of it.
    let mut found = Vec::new();
    naming(&home.path("the old place"), b"the old place", &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
    std::fs::rename(home.path("the old place"), home.path("new")).unwrap();
    home.check_file("new", &link);
    let peer = Node::start(&home.path("new"), &home.path("log"));
    home.check_file("new", &link);
    assert_eq!(home.ask("new", &["list"]), before);
    assert_eq!(home.ask("new", &["status"])["peer"], id);
    let volumes = home.ask("new", &["volume", "list"]);
    assert_eq!(volumes["volumes"][0]["name"], "photos");
    peer.stop();
    assert!(!home.path("the old place").exists());
}

#[test]
fn the_first_put_names_the_backup_and_each_says_that_nothing_survives() {
    let home = Home::new();
    let put = || {
        let output = run(home.cairn("data").arg("put").arg(home.path("file")), 0);
        (
            line(&output),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (link, told) = put();
    assert!(told.contains("`cairn key export FILE`"), "{told}");
    assert!(told.contains("backup"), "{told}");
    assert!(
        told.contains("on this peer alone: survives no loss\n"),
        "{told}"
    );
    assert!(
        told.contains("with more peers it will survive the loss of any 2 peers"),
        "{told}"
    );
    let (again, told) = put();
    assert_eq!(again, link);
    assert!(!told.contains("key export"), "{told}");
    assert!(
        told.contains("on this peer alone: survives no loss\n"),
        "{told}"
    );
    let document = home.ask("data", &["put", &home.path("file").to_string_lossy()]);
    assert_eq!(document["peers"], 1);
    assert_eq!(document["survives"], 0);
    assert_eq!(document["promised"], 2);
    // Less than nothing is not to be had, more neither.
    let mut put = home.cairn("data");
    run(
        put.args(["put", "--survive", "0"]).arg(home.path("file")),
        0,
    );
    let mut put = home.cairn("data");
    run(
        put.args(["put", "--survive", "1"]).arg(home.path("file")),
        4,
    );
}

#[test]
fn a_backup_brings_the_identity_and_the_list_back() {
    let home = Home::new();
    make_tree(&home.path("tree"), 20, 3);
    let file = home.put("data", &home.path("file"));
    let tree = home.put("data", &home.path("tree"));
    for (name, text) in [("right", "correct horse\n"), ("wrong", "correct house\n")] {
        std::fs::write(home.path(name), text).unwrap();
    }
    let key = |data: &str, what: &str, passphrase: &str, code| {
        let mut command = home.cairn(data);
        command.args(["key", what]).arg(home.path("backup"));
        command.arg("--passphrase-file").arg(home.path(passphrase));
        run(&mut command, code)
    };
    key("data", "export", "right", 0);
    let refused = key("restored", "import", "wrong", 4);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("passphrase"));
    assert!(!home.path("restored").join("identity").exists());
    key("restored", "import", "right", 0);
    let listed = home.ask("restored", &["list"]);
    assert_eq!(listed, home.ask("data", &["list"]));
    let puts = listed["puts"].as_array().unwrap();
    let links: Vec<&str> = puts.iter().filter_map(|put| put["link"].as_str()).collect();
    assert_eq!(links, [file, tree]);
    let id = |data: &str| home.ask(data, &["status"])["peer"].clone();
    assert_eq!(id("restored"), id("data"));
    // Who somebody is does not change by it.
    key("restored", "import", "right", 4);
}

#[test]
fn a_peer_stops_in_good_order_at_ctrl_c() {
    let home = Home::new();
    let mut child = home
        .cairn("data")
        .arg("node")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    crate::support::wait_answers(&home.path("data"));
    let link = home.put("data", &home.path("file"));
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!home.path("data").join("control.sock").exists());
    home.check_file("data", &link);
}
