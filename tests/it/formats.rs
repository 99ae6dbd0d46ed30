//! That what is stored and spoken is described: spaces of small records, files of the data directory, calls of the control
//! socket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use cairnfs::base::Class;
use cairnfs::content::{Frame, FrameDecoder, FrameEncoder, Head, HeadKind, Remark};
use cairnfs::dag::{Meta, Timestamp};

use crate::support::{cairn, root, run};

fn texts(dir: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
    found
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/format").join(name)).unwrap()
}

/// The name that ends where `text` ends.
fn last_name(text: &str) -> &str {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let from = text.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
    &text[from..]
}

/// The name with which `text` begins, perhaps behind a path.
fn first_name(text: &str) -> &str {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_path(c)).unwrap_or(text.len());
    last_name(&text[..end])
}

/// Spaces of small records that the sources name, where they read, write or describe them.
fn spaces() -> BTreeSet<String> {
    let sources = texts("src", "rs");
    let mut literals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut spaces = BTreeSet::new();
    for source in &sources {
        for (at, _) in source.match_indices(": &str = \"") {
            let (before, after) = source.split_at(at);
            let literal = after[": &str = \"".len()..].split('"').next().unwrap();
            let known = literals.entry(last_name(before).to_owned()).or_default();
            // Names such as `SPACE` are used in more than one file.
            known.insert(literal.to_owned());
            let comment = before.rsplit("///").next().unwrap_or_default();
            if comment.contains("Key-value space") {
                spaces.insert(literal.to_owned());
            }
        }
        for call in ["kv_scan(", "kv_get("] {
            for (at, _) in source.match_indices(call) {
                used.insert(first_name(source[at + call.len()..].trim_start()).to_owned());
            }
        }
    }
    used.remove("");
    assert!(used.len() > 8, "{used:?}");
    for name in &used {
        let literals = literals.get(name);
        let literals = literals.unwrap_or_else(|| panic!("`{name}` is a space without a literal"));
        spaces.extend(literals.iter().cloned());
    }
    spaces
}

#[test]
fn every_space_of_small_records_is_described() {
    let spaces = spaces();
    for known in [
        "absences", "counters", "drain", "peers", "uploads", "volumes",
    ] {
        assert!(
            spaces.contains(known),
            "the search finds {known}: {spaces:?}"
        );
    }
    let rows = document("rows.md");
    let missing: Vec<&String> = spaces
        .iter()
        .filter(|space| !rows.contains(&format!("`{space}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/format/rows.md: {missing:?}"
    );
}

#[test]
fn every_call_of_the_control_socket_is_described() {
    let server = std::fs::read_to_string(root().join("src/admin/server.rs")).unwrap();
    let calls: BTreeSet<&str> = server
        .match_indices("\"/v1/")
        .map(|(at, _)| server[at + 1..].split('"').next().unwrap())
        .collect();
    assert!(calls.len() > 30, "{calls:?}");
    let described = document("control.md");
    let missing: Vec<&&str> = calls
        .iter()
        .filter(|call| !described.contains(&format!("`{call}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/format/control.md: {missing:?}"
    );
    // Nor is one described that is not there.
    let told = described
        .match_indices("`/v1/")
        .map(|(at, _)| described[at + 1..].split('`').next().unwrap());
    let gone: Vec<&str> = told.filter(|call| !calls.contains(call)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

fn golden() -> Vec<(String, Vec<u8>)> {
    let fixture = std::fs::read_to_string(root().join("tests/fixtures/control-v1.txt")).unwrap();
    let lines = fixture.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, hex) = line.split_once(' ').unwrap();
        (
            name.to_owned(),
            data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap(),
        )
    });
    parsed.collect()
}

fn frames() -> Vec<(&'static str, Frame)> {
    let meta = Meta {
        mode: 0o640,
        mtime: Timestamp {
            seconds: 1_767_225_600,
            nanos: 5,
        },
    };
    let entry = |name: &[u8], kind| {
        Frame::Entry(Head {
            name: name.to_vec(),
            kind,
        })
    };
    vec![
        ("root", entry(b"", HeadKind::Directory { meta })),
        (
            "file",
            entry(b"a file", HeadKind::File { meta, size: 70_000 }),
        ),
        (
            "symlink",
            entry(
                b"link",
                HeadKind::Symlink {
                    mtime: meta.mtime,
                    target: b"../there".to_vec(),
                },
            ),
        ),
        (
            "hard-link",
            entry(
                b"second",
                HeadKind::HardLink {
                    first: b"dir/a file".to_vec(),
                },
            ),
        ),
        ("data", Frame::Data(Bytes::from_static(b"content"))),
        ("hole", Frame::Hole(65_536)),
        ("end", Frame::End),
        (
            "error",
            Frame::Error(Remark {
                class: Class::Missing,
                message: "not there".to_owned(),
            }),
        ),
    ]
}

#[test]
fn frames_of_the_control_socket_are_as_described() {
    let mut told = String::new();
    let mut encoded = Vec::new();
    for (name, frame) in frames() {
        let mut encoder = FrameEncoder::default();
        encoder.push(&frame);
        encoder.flush();
        let mut bytes = Vec::new();
        while let Some(piece) = encoder.pop() {
            bytes.extend_from_slice(&piece);
        }
        told += &format!("{name} {}\n", data_encoding::HEXLOWER.encode(&bytes));
        encoded.push((name.to_owned(), bytes));
    }
    let golden = golden();
    assert_eq!(encoded, golden, "they are now\n{told}");
    for ((_, frame), (name, bytes)) in frames().into_iter().zip(golden) {
        let mut decoder = FrameDecoder::default();
        decoder.push(bytes.into());
        assert_eq!(decoder.next_frame(), Ok(Some(frame)), "{name}");
        assert!(decoder.finish().is_ok());
    }
}

/// Names in the data directory, without those that count up.
fn names(dir: &Path, within: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        found.insert(name.split('-').next().unwrap().to_owned());
        if within.is_empty() && entry.file_type().unwrap().is_dir() && name == "store" {
            names(&entry.path(), &name, found);
        }
    }
}

#[test]
fn every_file_of_the_data_directory_is_described() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let file = home.path().join("file");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    run(cairn(&data).args(["-q", "put"]).arg(&file), 0);
    let node = crate::support::Node::start(&data, &home.path().join("log"));
    let mut found = BTreeSet::new();
    names(&data, "", &mut found);
    let lock = std::fs::read_to_string(data.join("lock")).unwrap();
    assert_eq!(lock.trim(), node.pid().to_string());
    node.stop();
    for expected in ["identity", "control.sock", "index.redb", "segment"] {
        assert!(found.contains(expected), "{found:?}");
    }
    let tree = document("store.md");
    let missing: Vec<&String> = found.iter().filter(|name| !tree.contains(*name)).collect();
    assert!(
        missing.is_empty(),
        "not in docs/format/store.md: {missing:?}"
    );
}
