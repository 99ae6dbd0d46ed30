//! The other commands: their documents, their texts, and their mistakes.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::fake_peer::FakePeer;
use crate::support::{cairn, json, line, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_that_asks_has_one_document() {
    let peer = FakePeer::start();
    std::fs::write(peer.path("f"), "x").unwrap();
    let link = peer.put(&peer.path("f"));
    let ask = |arguments: &[&str]| json(&run(peer.cairn().arg("--json").args(arguments), 0));
    assert_eq!(ask(&["status"])["peer"], "12D3KooWfake");
    let peers = ask(&["peers"]);
    assert_eq!(peers["peers"][0]["live"], true);
    assert_eq!(peers["peers"][1]["live"], false);
    assert_eq!(peers["peers"][1]["state"], "away");
    assert_eq!(peers["peers"][1]["trust"]["wrong"], 3);
    assert_eq!(peers["peers"][0].get("trust"), None);
    assert_eq!(ask(&["quota"])["quota_bytes"], 0);
    assert_eq!(ask(&["quota", "200GiB"])["quota_bytes"], 200u64 << 30);
    assert_eq!(ask(&["quota", "auto"])["auto"], true);
    assert_eq!(ask(&["stat", &link])["blocks"], 3);
    let list = ask(&["list"]);
    assert_eq!(list["puts"][0]["link"], link.as_str());
    assert_eq!(list["puts"][0]["name"], "f");
    let ls = ask(&["ls", "cairn:tree", "some/dir"]);
    assert_eq!(ls["entries"][0]["name"], "some/dir");
    assert_eq!(ls["entries"][1]["name_hex"], "6f6464ff");
    assert_eq!(
        ask(&["ls", "cairn:empty"])["entries"],
        serde_json::json!([])
    );
    let invited = ask(&["invite", "--storage-only", "--expires", "2h"]);
    assert_eq!(invited["ticket"], "cairn-ticket:Some(7200000)");
    assert_eq!(invited["storage_only"], true);
    assert_eq!(invited["separate_zones"], false);
    assert_eq!(ask(&["invite", "--separate-zones"])["separate_zones"], true);
    assert_eq!(ask(&["join", "cairn-ticket:x"])["members"], 2);
}

#[test]
fn every_command_that_asks_has_a_text() {
    let peer = FakePeer::start();
    let ask = |arguments: &[&str]| text(&run(peer.cairn().args(arguments), 0).stdout);
    assert!(ask(&["status"]).contains("peer      12D3KooWfake\n"));
    let told = ask(&["peers"]);
    assert!(told.contains("12D3KooWother  away"));
    assert!(
        told.contains("12D3KooWother (trust 20 %) answered 3 of 40 checks wrongly, last 2 h ago;"),
        "{told}"
    );
    assert!(ask(&["quota", "1.5 GiB"]).contains("quota     1.5 GiB\n"));
    assert!(ask(&["stat", "cairn:x"]).contains("blocks    3\n"));
    // What is there under that name.
    let told = ask(&["stat", "."]);
    assert!(
        told.contains("shards    11 of 12 present on 6 peers\n"),
        "{told}"
    );
    assert!(told.contains("is as safe as houses\n"), "{told}");
    let told = ask(&["redundancy", "."]);
    assert!(
        told.starts_with("auto, which is 4+2 now; that of the volume"),
        "{told}"
    );
    assert!(ask(&["ls", "cairn:x"]).contains("drwxr-xr-x"));
    assert_eq!(ask(&["list"]), "");
    assert_eq!(ask(&["invite"]), "cairn-ticket:None\n");
    assert!(ask(&["join", "cairn-ticket:x"]).contains("joined network n: 2 peers"));
}

#[test]
fn mistakes_have_their_exit_codes() {
    let peer = FakePeer::start();
    for arguments in [
        &[][..],
        &["unknown"],
        &["put", "a", "b"],
        &["quota", "1 MiB"],
        &["quota", "much"],
        &["devnet", "--peers", "0"],
        &["devnet", "--quota", "1"],
        &["devnet", "--redundancy", "4"],
        &["-q", "-v", "status"],
        &["completions", "klingon"],
        &["join", "nonsense"],
        &["invite", "--expires", "soon"],
        &["key", "export"],
    ] {
        let output = run(peer.cairn().args(arguments), 2);
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    run(peer.cairn().args(["stat", "cairn:torn"]), 3);
    let torn = run(peer.cairn().args(["ls", "cairn:torn"]), 3);
    assert!(text(&torn.stderr).contains("2 of 4 shards"));
    // What was listed until then and why it is not all, in one document.
    let torn = run(peer.cairn().args(["--json", "ls", "cairn:torn", "a"]), 3);
    let torn = json(&torn);
    assert_eq!(torn["entries"].as_array().map(Vec::len), Some(1), "{torn}");
    assert_eq!(torn["entries"][0]["name"], "a");
    assert_eq!(torn["error"], "2 of 4 shards");
    assert_eq!(
        (&torn["class"], &torn["exit_code"]),
        (&"missing".into(), &3.into())
    );
    let torn = json(&run(peer.cairn().args(["--json", "stat", "cairn:torn"]), 3));
    assert_eq!(torn["unreadable_blocks"], 1);
    let mut bad_filter = peer.cairn();
    run(bad_filter.arg("status").env("CAIRN_LOG", "a=b=c"), 2);
}

#[test]
fn a_ticket_can_come_from_the_standard_input() {
    let peer = FakePeer::start();
    let ticket = peer.path("ticket");
    std::fs::write(&ticket, "cairn-ticket:secret\n").unwrap();
    let mut join = peer.cairn();
    join.args(["join", "-"])
        .stdin(std::fs::File::open(&ticket).unwrap());
    run(&mut join, 0);
}

#[test]
fn the_backup_is_written_once_and_for_its_owner_only() {
    let peer = FakePeer::start();
    let (backup, passphrase) = (peer.path("backup"), peer.path("passphrase"));
    std::fs::write(&passphrase, "correct horse\nmore").unwrap();
    let export = |file: &std::path::Path, code| {
        let mut command = peer.cairn();
        command.args(["key", "export"]).arg(file);
        command.arg("--passphrase-file").arg(&passphrase);
        run(&mut command, code)
    };
    export(&backup, 0);
    let sealed = std::fs::read_to_string(&backup).unwrap();
    assert_eq!(sealed, "sealed with correct horse\n");
    assert_eq!(
        backup.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = export(&backup, 1);
    assert!(text(&again.stderr).contains("exists already"));
    std::fs::write(&passphrase, "short").unwrap();
    export(&peer.path("other"), 2);
    assert!(!peer.path("other").exists());
    let none = run(peer.cairn().args(["key", "export"]).arg(peer.path("b")), 2);
    assert!(text(&none.stderr).contains("--passphrase-file"));
    // A running peer has an identity already.
    let mut import = peer.cairn();
    import.args(["key", "import"]).arg(&backup);
    let refused = run(import.arg("--passphrase-file").arg(&passphrase), 4);
    assert!(text(&refused.stderr).contains("--data-dir"));
}

#[test]
fn all_mistakes_of_a_config_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let output = run(cairn(dir.path()).args(["config", "check"]), 0);
    assert!(text(&output.stdout).contains("the defaults apply"));
    assert!(!file.exists(), "looking makes nothing");
    std::fs::write(&file, "[storage]\nqouta = 1\n\n[network]\nmdns = 3\n").unwrap();
    for arguments in [&["config", "check"][..], &["node"], &["status"]] {
        let output = run(cairn(dir.path()).args(arguments), 2);
        let told = text(&output.stderr);
        let path = file.display();
        assert!(
            told.contains(&format!(
                "{path}:2: storage.qouta: unknown key; did you mean `quota`?"
            )),
            "{told}"
        );
        assert!(
            told.contains(&format!("{path}:5: network.mdns: expected true")),
            "{told}"
        );
    }
    let check = |code| {
        json(&run(
            cairn(dir.path()).args(["--json", "config", "check"]),
            code,
        ))
    };
    let checked = check(2);
    let path = file.display().to_string();
    assert_eq!(
        (&checked["file"], &checked["exists"]),
        (&path.into(), &true.into())
    );
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{checked}");
    assert_eq!(
        (&problems[0]["line"], &problems[0]["key"]),
        (&2.into(), &"storage.qouta".into())
    );
    assert_eq!(
        (&problems[1]["line"], &problems[1]["key"]),
        (&5.into(), &"network.mdns".into())
    );
    assert!(
        problems[0]["message"]
            .as_str()
            .unwrap()
            .contains("did you mean `quota`?")
    );
    assert_eq!(checked["exit_code"], 2);
    std::fs::write(&file, "[storage]\noffer = false\n").unwrap();
    let checked = check(0);
    assert_eq!(checked["exists"], true);
    assert_eq!(checked["problems"], serde_json::json!([]));
    assert_eq!(checked.get("error"), None);
    // A file that was named must be there.
    let mut named = cairn(dir.path());
    named
        .args(["config", "check"])
        .env("CAIRN_CONFIG", dir.path().join("other"));
    run(&mut named, 1);
}

#[test]
fn completions_need_no_peer() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = std::process::Command::new(crate::support::bin());
        let output = run(command.args(["completions", shell]).stdin(Stdio::null()), 0);
        assert!(text(&output.stdout).contains("cairn"), "{shell}");
    }
    let mut version = std::process::Command::new(crate::support::bin());
    let output = run(version.arg("--version"), 0);
    assert_eq!(
        line(&output),
        format!("cairn {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let peer = FakePeer::start();
    for arguments in [&["status"][..], &["--json", "peers"], &["ls", "cairn:x"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = peer.cairn();
        command.args(arguments).stdout(writer);
        let output = run(&mut command, 0);
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn the_options_of_a_command_come_before_those_of_all() {
    for command in ["put", "get", "invite", "devnet"] {
        let mut help = std::process::Command::new(crate::support::bin());
        let shown = text(&run(help.args([command, "--help"]), 0).stdout);
        let (own, global) = shown.split_once("Options of every command:").unwrap();
        assert!(
            global.contains("--data-dir") && global.contains("--json"),
            "{shown}"
        );
        assert!(
            own.contains("\nOptions:") && !own.contains("--data-dir"),
            "{shown}"
        );
    }
}
