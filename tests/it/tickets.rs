//! Volumes of several machines, with real peers: tickets made, pasted rightly and wrongly, and opened.

use std::process::Output;

use cairnfs::config::Config;
use serde_json::Value;

use crate::support::{Devnet, cairn, edit_config, json, line, run};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A peer, and others in no network yet, by name.
fn net(others: &[&str]) -> Devnet {
    let mut net = Devnet::start(&["--peers", "1", "--redundancy", "1+1"]);
    for name in others {
        net.add_peer(name);
    }
    net
}

fn ask(net: &Devnet, at: usize, arguments: &[&str]) -> Value {
    json(&run(net.cairn(at).arg("--json").args(arguments), 0))
}

fn ticket(net: &Devnet, at: usize, arguments: &[&str]) -> String {
    let mut command = net.cairn(at);
    let made = run(command.args(["-q", "volume", "ticket"]).args(arguments), 0);
    assert_eq!(String::from_utf8_lossy(&made.stdout).lines().count(), 1);
    line(&made)
}

/// The failure of a command, whose JSON agrees with its exit code.
fn refused(net: &Devnet, at: usize, arguments: &[&str], code: i32) -> Value {
    let error = json(&run(net.cairn(at).arg("--json").args(arguments), code));
    assert_eq!(error["exit_code"], code);
    error
}

fn contains(value: &Value, part: &str) -> bool {
    value.as_str().is_some_and(|text| text.contains(part))
}

fn peer(net: &Devnet, at: usize) -> Value {
    ask(net, at, &["status"])["peer"].clone()
}

fn volume(net: &Devnet, at: usize, name: &str) -> Value {
    let listed = ask(net, at, &["volume", "list"]);
    let volumes = listed["volumes"].as_array().unwrap().clone();
    let mut named = volumes.into_iter().filter(|volume| volume["name"] == name);
    named.next().unwrap_or_default()
}

/// Rights and inviters of all whom a peer knows, in order.
fn members(net: &Devnet, at: usize, name: &str) -> Vec<(Value, Value, Value, Value)> {
    let known = ask(net, at, &["volume", "members", name]);
    let members = known["members"].as_array().unwrap().clone().into_iter();
    members
        .map(|m| {
            (
                m["peer"].clone(),
                m["role"].clone(),
                m["invited_by"].clone(),
                m["own"].clone(),
            )
        })
        .collect()
}

/// One ticket is all that a machine in no network needs, and the first one opens the network.
#[test]
fn tickets_open_volumes_for_writing_and_for_reading() {
    let net = net(&["writer", "reader", "guest"]);
    run(net.cairn(0).args(["volume", "create", "photos"]), 0);
    assert_eq!(ask(&net, 0, &["status"])["network"], Value::Null);
    assert_eq!(volume(&net, 0, "photos")["share"], Value::Null);
    let alone = members(&net, 0, "photos");
    assert_eq!(alone.len(), 1);
    assert_eq!((&alone[0].1, &alone[0].3), (&"owner".into(), &true.into()));

    let made = run(net.cairn(0).args(["volume", "ticket", "photos"]), 0);
    assert!(told(&made).contains("read and write `photos`"));
    assert_eq!(told(&made).lines().count(), 1, "{}", told(&made));
    let writing = line(&made);
    assert_ne!(ask(&net, 0, &["status"])["network"], Value::Null);
    let own = volume(&net, 0, "photos");
    assert_eq!(own["share"]["role"], "owner");
    assert_eq!(own["share"]["awaited"], false);

    // A writer, who joins the network by it.
    let opened = run(net.cairn(1).args(["volume", "open", &writing]), 0);
    let said = told(&opened);
    assert!(said.contains("Joined network"), "{said}");
    assert!(said.contains("cairn mount photos DIR"), "{said}");
    let there = volume(&net, 1, "photos");
    assert_eq!(there["id"], own["id"]);
    assert_eq!(there["redundancy"], own["redundancy"]);
    assert_eq!(there["share"]["role"], "writer");
    assert_eq!(there["share"]["owner"], peer(&net, 0));
    assert_eq!(
        (&there["local"], &there["share"]["awaited"]),
        (&true.into(), &true.into())
    );
    let networks = [0, 1].map(|at| ask(&net, at, &["status"])["network"].clone());
    assert_eq!(networks[0], networks[1]);
    // Again: it says so, and succeeds.
    let again = run(net.cairn(1).args(["volume", "open", &writing]), 0);
    assert!(told(&again).contains("is here already"), "{}", told(&again));
    let again = ask(&net, 1, &["volume", "open", &writing, "--name", "other"]);
    assert_eq!(
        (&again["known"], &again["improved"]),
        (&true.into(), &false.into())
    );
    assert_eq!(again["volume"]["name"], "photos");
    // So it does where the volume was made.
    let own = ask(&net, 0, &["volume", "open", &writing]);
    assert_eq!(
        (&own["known"], &own["joined"]),
        (&true.into(), &Value::Null)
    );

    // The writer lets somebody read, who can hand that on and nothing more.
    let reading = ticket(&net, 1, &["photos", "--read-only"]);
    let opened = ask(&net, 2, &["volume", "open", &reading, "--name", "theirs"]);
    assert_eq!(opened["known"], false);
    assert_eq!(opened["volume"]["name"], "theirs");
    assert_eq!(opened["volume"]["share"]["role"], "reader");
    let error = refused(&net, 2, &["volume", "ticket", "theirs"], 4);
    assert!(contains(&error["error"], "may only read"), "{error}");
    assert!(contains(&error["hint"], "--read-only"), "{error}");
    let handed_on = ticket(&net, 2, &["theirs", "--read-only"]);
    let opened = ask(&net, 3, &["volume", "open", &handed_on]);
    assert_eq!(opened["volume"]["name"], "theirs");
    assert_eq!(opened["volume"]["share"]["role"], "reader");
    let peers: Vec<Value> = (0..4).map(|at| peer(&net, at)).collect();
    let row = |at: usize, role: &str, by: Option<usize>, own: bool| {
        let by = by.map_or(Value::Null, |by| peers[by].clone());
        (peers[at].clone(), role.into(), by, own.into())
    };
    assert_eq!(
        members(&net, 3, "theirs"),
        [
            row(0, "owner", None, false),
            row(1, "writer", Some(0), false),
            row(2, "reader", Some(1), false),
            row(3, "reader", Some(2), true),
        ]
    );
    let shown = run(net.cairn(3).args(["volume", "list"]), 0);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("read only"), "{shown}");

    // A ticket for writing is worth more than what is here.
    let better = ask(&net, 3, &["volume", "open", &writing]);
    assert_eq!(
        (&better["known"], &better["improved"]),
        (&true.into(), &true.into())
    );
    assert_eq!(volume(&net, 3, "theirs")["share"]["role"], "writer");
    assert!(!ticket(&net, 3, &["theirs"]).is_empty());
    // Gone from one machine, it can be opened there again.
    run(
        net.cairn(3).args(["volume", "remove", "theirs", "--yes"]),
        0,
    );
    let anew = ask(&net, 3, &["volume", "open", &writing]);
    assert_eq!(
        (&anew["known"], &anew["volume"]["name"]),
        (&false.into(), &"photos".into())
    );
}

#[test]
fn what_a_ticket_cannot_do_is_told_with_a_remedy() {
    let net = net(&["guest"]);
    run(net.cairn(0).args(["volume", "create", "photos"]), 0);
    let good = ticket(&net, 0, &["photos"]);
    let network = line(&run(net.cairn(0).args(["-q", "invite"]), 0));
    let before = std::fs::read(net.peers[1].data_dir.join("identity")).unwrap();

    // Pasted into the wrong command, or not whole.
    let error = refused(&net, 1, &["join", &good], 2);
    assert!(contains(&error["error"], "cairn volume open"), "{error}");
    let (head, tail) = good.split_at(100);
    let letter = if tail.starts_with('2') { "3" } else { "2" };
    let expired = ticket(&net, 0, &["photos", "--expires", "1ms"]);
    for (text, code, why) in [
        (network, 2, "cairn join"),
        ("cairn:link".to_owned(), 2, "this is a link"),
        (
            String::new(),
            2,
            "not a ticket: it must begin with `cairn-volume:`",
        ),
        (head.to_owned(), 2, "cut short"),
        (format!("{good}x"), 2, "1 characters too many"),
        (format!("{head}{letter}{}", &tail[1..]), 2, "typo"),
        (expired, 4, "expired"),
    ] {
        let error = refused(&net, 1, &["volume", "open", &text], code);
        assert!(contains(&error["error"], why), "{text}: {error}");
    }
    // A name that will not do is told before anything is joined.
    let error = refused(&net, 1, &["volume", "open", &good, "--name", "a/b"], 2);
    assert!(contains(&error["error"], "no name for a volume"), "{error}");
    run(net.cairn(1).args(["volume", "create", "photos"]), 0);
    let error = refused(&net, 1, &["volume", "open", &good], 4);
    assert!(contains(&error["hint"], "--name NAME"), "{error}");
    let after = std::fs::read(net.peers[1].data_dir.join("identity")).unwrap();
    assert!(before == after, "it is who it was, and in no network");
    let opened = ask(&net, 1, &["volume", "open", &good, "--name", "theirs"]);
    assert_eq!(opened["joined"]["members"], 2);
    // Volumes that are not there.
    for command in ["ticket", "members"] {
        let error = refused(&net, 1, &["volume", command, "nothing"], 3);
        assert!(contains(&error["hint"], "cairn volume list"), "{error}");
    }
}

#[test]
fn a_volume_of_another_network_is_refused_there() {
    let mut net = net(&["other", "its guest"]);
    run(net.cairn(0).args(["volume", "create", "photos"]), 0);
    let good = ticket(&net, 0, &["photos"]);
    let invited = line(&run(net.cairn(1).args(["-q", "invite"]), 0));
    run(net.cairn(2).args(["-q", "join", &invited]), 0);
    for at in [1, 2] {
        let error = refused(&net, at, &["volume", "open", &good], 4);
        assert!(contains(&error["error"], "belongs to network"), "{error}");
        assert!(
            contains(&error["hint"], "--data-dir DIR volume open TICKET"),
            "{error}"
        );
        assert_eq!(volume(&net, at, "photos"), Value::Null);
    }
    // With a data directory of its own it works.
    let fresh = net.add_peer("fresh");
    let opened = ask(&net, fresh, &["volume", "open", &good]);
    assert_eq!(opened["known"], false);
}

/// A backup has the part that a peer has in a volume, and a ticket gives its tree a place again.
#[test]
fn a_backup_of_the_key_keeps_a_share() {
    let mut net = net(&["guest"]);
    run(net.cairn(0).args(["volume", "create", "photos"]), 0);
    let reading = ticket(&net, 0, &["photos", "--read-only"]);
    ask(&net, 1, &["volume", "open", &reading]);
    let file = net.dir.path().join("backup");
    let passphrase = net.dir.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    let key = |command: &mut std::process::Command, what: &str| {
        command.args(["key", what]).arg(&file);
        run(command.arg("--passphrase-file").arg(&passphrase), 0);
    };
    key(&mut net.cairn(1), "export");
    // Never the same identity twice at once.
    net.stop(1);
    let data_dir = net.dir.path().join("restored");
    let config = Config::load(&net.peers[1].data_dir.join("config.toml")).unwrap();
    edit_config(&data_dir, |own| *own = config);
    let restored = || cairn(&data_dir);
    key(&mut restored(), "import");
    let listed = json(&run(restored().args(["--json", "volume", "list"]), 0));
    let there = &listed["volumes"][0];
    assert_eq!(
        (&there["name"], &there["local"]),
        (&"photos".into(), &false.into())
    );
    assert_eq!(there["share"]["role"], "reader");
    assert_eq!(there["share"]["awaited"], true);
    let opened = ["--json", "volume", "open", &reading];
    let opened = json(&run(restored().args(opened), 0));
    assert_eq!(
        (&opened["known"], &opened["improved"]),
        (&true.into(), &true.into())
    );
    let listed = json(&run(restored().args(["--json", "volume", "list"]), 0));
    assert_eq!(listed["volumes"][0]["local"], true);
}
