//! A peer that was invited for storage only: it stores and serves, and can confirm no guess.

use std::path::Path;

use cairnfs::node::identity::Identity;

use crate::support::{Devnet, line, random_file, run};

const STORE: usize = 2;

fn secret(data_dir: &Path) -> Option<[u8; 32]> {
    let identity = Identity::load(data_dir).unwrap().unwrap();
    let secret = identity.secrets.convergence();
    secret.map(|secret| *secret.secret())
}

/// Whether these bytes are in any file below `dir`.
fn holds(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => holds(&path, bytes),
            (_, true) => {
                let content = std::fs::read(&path).unwrap();
                content.windows(bytes.len()).any(|part| part == bytes)
            }
            _ => false,
        }
    })
}

/// Only what nobody can guess goes in, what others have put comes out, and the secret is nowhere.
fn check(net: &Devnet, link: &str, file: &Path, secret_of_all: &[u8]) {
    assert_eq!(net.ask(STORE, &["status"])["storage_only"], true);
    let refused = run(net.cairn(STORE).arg("put").arg(file), 4);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("--private"), "{told}");
    assert!(told.contains("cairn --data-dir DIR join TICKET"), "{told}");
    let mut put = net.cairn(STORE);
    let own = line(&run(put.args(["-q", "put", "--private"]).arg(file), 0));
    for (at, link) in [(STORE, link), (STORE, &own), (0, &own)] {
        let back = run(net.cairn(at).args(["-q", "get", link]), 0);
        assert!(back.stdout == std::fs::read(file).unwrap());
    }
    let dirs = net.peers.iter().map(|peer| peer.data_dir.as_path());
    let holding: Vec<bool> = dirs.map(|dir| holds(dir, secret_of_all)).collect();
    assert_eq!(holding[..3], [true, true, false]);
    assert_eq!(secret(&net.peers[STORE].data_dir), None);
}

#[test]
fn a_peer_for_storage_only_stores_and_serves_and_cannot_guess() {
    let mut net = Devnet::start(&["--peers", "2", "--redundancy", "1+2", "--quota", "256MiB"]);
    assert_eq!(net.add_peer("store"), STORE);
    let invited = run(net.cairn(0).args(["invite", "--storage-only"]), 0);
    let told = String::from_utf8_lossy(&invited.stderr).into_owned();
    assert!(told.contains("A ticket for storage only"), "{told}");
    let joined = net.ask(STORE, &["join", &line(&invited)]);
    assert_eq!(joined["storage_only"], true);
    for at in 0..3 {
        net.wait_connected(at);
    }
    let secret_of_all = secret(&net.peers[0].data_dir).unwrap();
    assert_eq!(secret(&net.peers[1].data_dir), Some(secret_of_all));

    let used = |net: &Devnet| net.ask(STORE, &["quota"])["used_bytes"].as_u64().unwrap();
    let before = used(&net);
    let file = net.dir.path().join("file");
    random_file(&file, 4 << 20, 9);
    let put = net.ask(0, &["put", &file.to_string_lossy()]);
    assert_eq!((&put["survives"], &put["peers"]), (&2.into(), &3.into()));
    let grown = used(&net) - before;
    assert!(grown >= 4 << 20, "only {grown} bytes came to it");
    let link = put["link"].as_str().unwrap().to_owned();
    check(&net, &link, &file, &secret_of_all);

    net.stop(STORE);
    net.restart(STORE, None);
    check(&net, &link, &file, &secret_of_all);

    // It makes tickets of its kind only, and says so.
    let invited = run(net.cairn(STORE).arg("invite"), 0);
    let told = String::from_utf8_lossy(&invited.stderr).into_owned();
    assert!(told.contains("storage-only itself"), "{told}");
    assert_eq!(net.ask(STORE, &["invite"])["storage_only"], true);
    // A full one names itself too, and with it and a directory of its own the machine does put.
    let full = run(net.cairn(1).arg("invite"), 0);
    let told = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(told.contains("A full ticket"), "{told}");
    let refused = run(net.cairn(STORE).args(["join", &line(&full)]), 4);
    assert!(refused.stdout.is_empty());
    let own = net.add_peer("own");
    run(net.cairn(own).args(["-q", "join", &line(&full)]), 0);
    net.wait_connected(own);
    assert_eq!(net.put(own, &file), link);
}
