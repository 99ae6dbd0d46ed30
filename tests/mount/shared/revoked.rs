//! A member that is revoked, by the command, with real peers and mounts.

use serde_json::Value;

use super::{LONG, Member, Members};
use crate::support::{cairn, json, line, run, wait_until};

const EROFS: i32 = 30;

fn ask(member: &Member, args: &[&str]) -> Value {
    json(&run(cairn(&member.data).arg("--json").args(args), 0))
}

fn known(member: &Member) -> Value {
    ask(member, &["volume", "members", "photos"])
}

fn find<'v>(known: &'v Value, peer: &str) -> Option<&'v Value> {
    let members = known["members"].as_array().unwrap();
    members.iter().find(|member| member["peer"] == peer)
}

#[test]
fn a_revoked_member_writes_for_nobody_and_reads_nothing_new() {
    let Some(mut members) = Members::new(&[&[], &["--read-only"]]) else {
        return;
    };
    let peers: Vec<String> = members
        .all
        .iter()
        .map(|member| {
            ask(member, &["status"])["peer"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let [owner, writer, reader] = &members.all[..] else {
        panic!("three of them")
    };
    writer.write("before", "1");
    owner.wait_reads("before", "1");
    reader.wait_reads("before", "1");
    // Others say for a reader that it is there.
    wait_until("all are known", 2 * LONG, || {
        find(&known(owner), &peers[2]).is_some()
    });
    // Nobody but those above.
    let refused = run(
        cairn(&writer.data).args(["volume", "revoke", "photos", &peers[0]]),
        4,
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("made the volume"));
    let begin = &peers[1][..20];
    run(
        cairn(&owner.data).args(["volume", "revoke", "photos", begin]),
        0,
    );
    wait_until("it learns of it", LONG, || {
        let written = std::fs::write(writer.path("later"), "2");
        written.is_err_and(|error| error.raw_os_error() == Some(EROFS))
    });
    let listed = run(cairn(&writer.data).args(["volume", "list"]), 0);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("revoked by"), "{listed}");
    owner.write("new", "3");
    reader.wait_reads("new", "3");
    assert!(!writer.path("new").exists());
    assert_eq!(std::fs::read(writer.path("before")).unwrap(), b"1");
    let end = find(&known(owner), &peers[1]).unwrap()["revoked"]["by"].clone();
    assert_eq!(end, peers[0].as_str());
    // A ticket is shown while it is open, and can be ended.
    let ticket = line(&run(
        cairn(&owner.data).args(["-q", "volume", "ticket", "photos", "--expires", "1h"]),
        0,
    ));
    let mine = |known: &Value| -> Vec<String> {
        let tickets = known["tickets"].as_array().cloned().unwrap_or_default();
        let ids = tickets
            .iter()
            .map(|ticket| ticket["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    // That of the reader is open still; the one of the writer went with it.
    wait_until("the ticket is known", LONG, || {
        mine(&known(owner)).len() == 2
    });
    let open = known(owner);
    let writing = open["tickets"].as_array().unwrap().iter();
    let writing = writing.filter(|ticket| ticket["read_only"] == false);
    let id = writing
        .map(|ticket| ticket["id"].as_str().unwrap())
        .next()
        .unwrap();
    run(
        cairn(&owner.data).args(["volume", "revoke", "photos", id]),
        0,
    );
    wait_until("it is open no more", LONG, || {
        mine(&known(owner)).len() == 1
    });
    drop(ticket);
    // All of it is there after a restart: the keys, who has part, and that the other has none.
    let [owner, writer, reader] = &mut members.all[..] else {
        panic!("three of them")
    };
    for member in [&mut *owner, &mut *writer] {
        member.stop();
        member.start();
        member.mount();
    }
    owner.write("newer", "4");
    reader.wait_reads("newer", "4");
    let written = std::fs::write(writer.path("later"), "2");
    assert_eq!(written.unwrap_err().raw_os_error(), Some(EROFS));
    assert!(find(&known(owner), &peers[1]).unwrap()["revoked"].is_object());
}
