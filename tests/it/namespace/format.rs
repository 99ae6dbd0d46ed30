//! Rows and deltas as others could read them: golden vectors, and bytes that are refused.

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockKey, BlockRef, EcProfile, PeerId};
use cairnfs::dag::{self, Extent, NodeAt, Timestamp};
use cairnfs::namespace::{
    Attrs, Body, Content, Delta, Dot, Draft, Entry, Field, Hlc, Home, Ino, Key, Kind, Name, Node,
    Sibling, SnapshotId, Stamp, Value, VersionVector, Write, WriterId, row,
};

use super::support::name;

fn writer(tag: u8) -> WriterId {
    WriterId {
        peer: PeerId([tag; 32]),
        incarnation: u64::from(tag) - 1,
    }
}

fn home(parent: Ino) -> Home {
    Home {
        parent,
        name: name("home"),
        mode: 0o750,
        uid: 1000,
        gid: 100,
    }
}

fn hlc(number: u64) -> Hlc {
    Hlc(Hlc::from_ms(1_795_386_900_000).0 + number)
}

fn time(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 5 }
}

fn field<T>(number: u64, value: T) -> Field<T> {
    Field {
        at: hlc(number),
        value,
    }
}

fn attrs(node: Node) -> Attrs {
    let is_dir = node == Node::Directory;
    Attrs {
        node,
        mode: field(1, 0o4755),
        uid: field(1, 1000),
        gid: field(1, 100),
        atime: field(1, time(-1)),
        mtime: field(1, time(2)),
        ctime: field(1, time(3)),
        home: field(1, is_dir.then(|| home(Ino::ROOT))),
    }
}

fn content(body: Body) -> Content {
    let mut edits = VersionVector::default();
    edits.raise(writer(1), hlc(1).0);
    edits.raise(writer(2), hlc(2).0);
    Content {
        size: 70_000,
        mtime: time(4),
        edits,
        edited: Stamp {
            hlc: hlc(2),
            writer: writer(2),
        },
        home: home(Ino([7; 16])),
        body,
    }
}

fn block() -> BlockRef {
    BlockRef {
        id: BlockId([5; 32]),
        key: BlockKey([6; 32]),
        plain_len: 80_000,
    }
}

fn bodies() -> [Body; 3] {
    let extent = Extent {
        offset: 0,
        len: 70_000,
        block: block(),
        block_offset: 9,
    };
    let node = NodeAt {
        block: block(),
        offset: 100,
        len: 300,
    };
    [
        Body::Inline(Bytes::from_static(b"content")),
        Body::Stored(EcProfile::DEFAULT, dag::Body::Inline(vec![extent])),
        Body::Stored(EcProfile::DEFAULT, dag::Body::Manifest(node)),
    ]
}

fn entry(kind: Kind) -> Value {
    Value::Entry(Entry {
        child: Ino([9; 16]),
        kind,
        home: Some(home(Ino::ROOT)),
    })
}

fn rows() -> Vec<(&'static str, Key, Vec<Value>)> {
    let ino = Ino([7; 16]);
    let mut mixed = attrs(Node::File);
    mixed.mode.at = hlc(9);
    let [inline, extents, manifest] = bodies().map(|body| Value::Content(content(body)));
    let attrs = |node| vec![Value::Attrs(attrs(node))];
    let xattr = Value::Xattr(field(1, Bytes::from_static(b"value")));
    let symlink = Node::Symlink(Bytes::from_static(b"../x"));
    vec![
        (
            "row-entry",
            Key::Entry(ino, name("entry")),
            vec![entry(Kind::File)],
        ),
        (
            "row-entries",
            Key::Entry(ino, Name::new(b"\xff").unwrap()),
            vec![entry(Kind::Directory), entry(Kind::Socket)],
        ),
        ("row-attrs-dir", Key::Attrs(ino), attrs(Node::Directory)),
        ("row-attrs-symlink", Key::Attrs(ino), attrs(symlink)),
        (
            "row-attrs-device",
            Key::Attrs(ino),
            attrs(Node::BlockDevice(0x801)),
        ),
        (
            "row-attrs-mixed",
            Key::Attrs(ino),
            vec![Value::Attrs(mixed)],
        ),
        ("row-content-inline", Key::Content(ino), vec![inline]),
        ("row-content-extents", Key::Content(ino), vec![extents]),
        ("row-content-manifest", Key::Content(ino), vec![manifest]),
        (
            "row-xattr",
            Key::Xattr(ino, Name::xattr(b"user.a/b").unwrap()),
            vec![xattr],
        ),
        ("row-changed", Key::Changed(ino), vec![Value::Changed]),
        (
            "row-member",
            Key::Member(PeerId([4; 32])),
            vec![Value::Member(Bytes::from_static(b"proof"))],
        ),
        (
            "row-snapshot",
            Key::Snapshot(SnapshotId([6; 16])),
            vec![Value::Snapshot(Bytes::from_static(b"record"))],
        ),
    ]
}

fn siblings(values: Vec<Value>) -> Vec<Sibling> {
    let numbered = values.into_iter().zip(1..);
    let sibling = |(value, number): (Value, u8)| Sibling {
        dot: Dot {
            writer: writer(number),
            counter: 40,
        },
        hlc: hlc(number.into()),
        value,
    };
    numbered.map(sibling).collect()
}

fn delta() -> Delta {
    let mut context = VersionVector::default();
    context.raise(writer(2), 17);
    let mut writes: Vec<Write> = rows()
        .into_iter()
        .filter(|(_, key, _)| !matches!(key, Key::Changed(_) | Key::Snapshot(_)))
        .map(|(_, key, values)| Write {
            key,
            keeps: Vec::new(),
            values,
        })
        .collect();
    writes.sort_by_key(|write| write.key.encode());
    writes.dedup_by_key(|write| write.key.clone());
    writes[0].values.clear();
    writes[0].keeps = vec![Stamp {
        hlc: hlc(3),
        writer: writer(3),
    }];
    let draft = Draft {
        context,
        hlc: hlc(8),
        writes,
    };
    draft.enter(writer(1), 300)
}

fn vectors() -> Vec<(String, String)> {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut all = Vec::new();
    for (title, key, values) in rows() {
        let bytes = row::encode(&siblings(values));
        all.push((
            title.to_owned(),
            format!("{} {}", hex(&key.encode()), hex(&bytes)),
        ));
    }
    all.push(("delta".to_owned(), hex(&delta().encode())));
    all
}

/// With `CAIRN_BLESS` set, the fixture is written anew: only for a new format version.
#[test]
fn encodings_are_those_of_the_golden_vectors() {
    let path = crate::support::root().join("tests/fixtures/namespace-v1.txt");
    let lines = vectors().into_iter();
    let text: String = lines
        .map(|(title, hex)| format!("{title} {hex}\n"))
        .collect();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn rows_and_deltas_are_read_as_they_were_written() {
    for (title, key, values) in rows() {
        let row = siblings(values);
        let bytes = row::encode(&row);
        assert_eq!(row::decode(&key, &bytes).unwrap(), row, "{title}");
        // Under another kind of key it is refused.
        for (_, other, _) in rows() {
            let is_same = std::mem::discriminant(&other) == std::mem::discriminant(&key);
            assert!(is_same || row::decode(&other, &bytes).is_err(), "{title}");
        }
        for end in 0..bytes.len() {
            assert!(row::decode(&key, &bytes[..end]).is_err(), "{title}");
        }
    }
    let delta = delta();
    assert_eq!(delta.last(), delta.first + delta.draft.dots() - 1);
    let bytes = delta.encode();
    assert_eq!(Delta::decode(&bytes).unwrap(), delta);
    for end in 0..bytes.len() {
        assert!(Delta::decode(&bytes[..end]).is_err());
    }
}

#[test]
fn deltas_that_cannot_be_are_refused() {
    let sound = delta();
    let refused = |change: &dyn Fn(&mut Delta)| {
        let mut delta = sound.clone();
        change(&mut delta);
        assert!(Delta::decode(&delta.encode()).is_err(), "{delta:?}");
    };
    refused(&|delta| delta.first = 0);
    refused(&|delta| delta.first = (1 << 63) - 2);
    refused(&|delta| delta.draft.context.raise(writer(1), 1));
    refused(&|delta| delta.draft.writes.swap(0, 1));
    refused(&|delta| {
        let twice = delta.draft.writes[0].clone();
        delta.draft.writes.insert(0, twice);
    });
    refused(&|delta| {
        delta.draft.writes.insert(
            0,
            Write {
                key: Key::Changed(Ino([0; 16])),
                keeps: Vec::new(),
                values: vec![Value::Changed],
            },
        );
    });
    let with_value = |key: Key, value: Value| {
        refused(&|delta| {
            delta.draft.writes = vec![Write {
                key: key.clone(),
                keeps: Vec::new(),
                values: vec![value.clone()],
            }];
        });
    };
    let ino = Ino([9; 16]);
    with_value(Key::Entry(ino, name("itself")), entry(Kind::Directory));
    let mut wrong = attrs(Node::File);
    wrong.mode.value = 0o10_000;
    with_value(Key::Attrs(ino), Value::Attrs(wrong));
    let mut wrong = attrs(Node::File);
    wrong.home.value = Some(home(Ino::ROOT));
    with_value(Key::Attrs(ino), Value::Attrs(wrong));
    let large = Body::Inline(vec![0; 16_385].into());
    with_value(Key::Content(ino), Value::Content(content(large)));
    let mut short = content(bodies()[0].clone());
    short.size = 3;
    with_value(Key::Content(ino), Value::Content(short));
    let mut foreign = content(bodies()[0].clone());
    foreign.edited.writer = writer(9);
    with_value(Key::Content(ino), Value::Content(foreign));
    let long = Value::Xattr(field(1, vec![0; 65_537].into()));
    with_value(Key::Xattr(ino, name("user.x")), long);
    // A later version says so.
    let mut bytes = sound.encode();
    bytes[1] = 2;
    let error = Delta::decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("update it"), "{error}");
}
