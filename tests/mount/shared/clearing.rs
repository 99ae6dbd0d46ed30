//! Room that comes back in a volume of several machines.

use std::path::Path;
use std::time::Duration;

use super::{LONG, Member, Members};
use crate::support::{cairn, json, run, wait_until};

/// Bytes that the segments of a peer occupy.
fn held(member: &Member) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(member.data.join("store")).unwrap();
    let segments = entries.map(Result::unwrap).filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("segment-")
    });
    segments
        .map(|entry| entry.metadata().map_or(0, |meta| meta.blocks() * 512))
        .sum()
}

fn gc(member: &Member, flags: &[&str]) -> serde_json::Value {
    json(&run(
        cairn(&member.data)
            .arg("--json")
            .args(["gc", "photos"])
            .args(flags),
        0,
    ))
}

fn content(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn what_was_removed_on_either_machine_gives_its_room_back_on_both() {
    let trash =
        |config: &mut cairnfs::config::Config| config.storage.trash = Duration::from_secs(1);
    let Some(members) = Members::with(&[&[]], trash) else {
        return;
    };
    let (files, len) = (100, 300_000);
    for number in 0..files {
        let member = &members.all[number % 2];
        let name = format!("f{number}");
        member.write(&name, content(&name, len));
    }
    for member in &members.all {
        wait_until("both have all", LONG, || count(&member.place) == files);
        run(cairn(&member.data).arg("sync"), 0);
    }
    let before: Vec<u64> = members.all.iter().map(held).collect();
    let all = (files * len) as u64;
    // Two shards of each block, one on each machine.
    assert!(before.iter().all(|held| *held >= all), "{before:?}");
    // Each removes what the other wrote, too.
    for number in (0..files).filter(|number| number % 5 != 0) {
        let member = &members.all[(number / 2) % 2];
        std::fs::remove_file(member.path(&format!("f{number}"))).unwrap();
    }
    for member in &members.all {
        wait_until("both removed all", LONG, || {
            count(&member.place) == files / 5
        });
    }
    let dry = gc(&members.all[0], &["--dry-run"]);
    assert_eq!(dry["released_blocks"], 0);
    assert_eq!(dry["away"].as_array().unwrap().len(), 0, "{dry}");
    let limit = all * 4 / 10;
    let mut told = Vec::new();
    wait_until("the room is back on both", Duration::from_secs(150), || {
        for member in &members.all {
            // Who is asked while it is busy is asked again.
            let gc = cairn(&member.data).args(["gc", "photos"]).output();
            told.push(String::from_utf8_lossy(&gc.unwrap().stdout).into_owned());
            run(cairn(&member.data).args(["trash", "empty"]), 0);
        }
        let now: Vec<u64> = members.all.iter().map(held).collect();
        eprintln!("{now:?} of {before:?}, {limit} at most: {:?}", told.last());
        now.iter().all(|held| *held < limit)
    });
    for number in (0..files).filter(|number| number % 5 == 0) {
        let name = format!("f{number}");
        for member in &members.all {
            assert!(std::fs::read(member.path(&name)).unwrap() == content(&name, len));
        }
    }
}

#[test]
fn without_the_word_of_one_who_is_away_nothing_goes() {
    let Some(mut members) = Members::with(&[&[]], |_| {}) else {
        return;
    };
    let bytes = content("file", 2_000_000);
    members.all[0].write("file", &bytes);
    members.all[1].wait_reads("file", &bytes);
    run(cairn(&members.all[0].data).arg("sync"), 0);
    members.all[1].stop();
    std::fs::remove_file(members.all[0].path("file")).unwrap();
    // A content that was dropped a moment ago may still be read by somebody.
    wait_until("somebody is missed", LONG, || {
        let told = gc(&members.all[0], &[]);
        assert_eq!(told["released_blocks"], 0, "{told}");
        told["away"].as_array().unwrap().len() == 1
    });
    members.all[1].start();
    members.all[1].mount();
    // It rests where it was.
    wait_until("it is in trash", Duration::from_secs(150), || {
        let gc = cairn(&members.all[0].data).args(["gc", "photos"]).output();
        eprintln!("{}", String::from_utf8_lossy(&gc.unwrap().stdout));
        let rests = members.all.iter().map(|member| {
            let told = json(&run(
                cairn(&member.data).args(["--json", "trash", "list"]),
                0,
            ));
            told["bytes"].as_u64().unwrap()
        });
        rests.sum::<u64>() >= 2_000_000
    });
}
