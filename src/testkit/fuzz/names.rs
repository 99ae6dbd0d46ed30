//! Rows and deltas of a namespace.

use super::{joined, split};
use crate::base::PeerId;
use crate::dag::Timestamp;
use crate::namespace::{
    Body, Delta, Edit, Hlc, Ino, Key, Kind, MemRows, Name, NewNode, Node, Now, OpError, Outcome,
    RenameMode, Rows, View, WriterId, apply, row, state,
};

/// A delta; what is accepted is merged into an empty volume and looked at.
pub(super) fn namespace_delta(data: &[u8]) {
    let Ok(delta) = Delta::decode(data) else {
        return;
    };
    assert_eq!(delta.encode(), data);
    // What came before it is made up: nothing of it is left.
    let mut rows = MemRows::default();
    let seen: Vec<(WriterId, u64)> = delta
        .context()
        .iter()
        .map(|(writer, seen)| (*writer, seen))
        .collect();
    let version = crate::base::wire::encode(&seen);
    let key = vec![0x80];
    rows.apply([(key, Some(version.into()))].into());
    let Ok(Outcome::Merged(changes)) = apply(&rows, &delta, u64::MAX) else {
        panic!("a delta that builds on nothing else is not merged");
    };
    rows.apply(changes);
    assert_eq!(apply(&rows, &delta, u64::MAX), Ok(Outcome::Known));
    let version = state::version(&rows);
    assert!(version.is_ok_and(|version| version.get(&delta.writer) == delta.last()));
    look(&rows);
}

/// Nothing that is listed is missing, and every directory is under a way from the top.
pub(super) fn look(rows: &dyn Rows) {
    let listed = View::new(rows).and_then(|view| {
        let mut waiting = vec![Ino::ROOT];
        // More directories than a delta of a fuzzer has.
        for _ in 0..1000 {
            let Some(dir) = waiting.pop() else {
                break;
            };
            for shown in view.list(dir, None, 100)?.0 {
                let found = view.lookup(dir, &shown.name)?;
                assert_eq!(found.as_ref(), Some(&shown));
                view.stat(&shown)?;
                if shown.kind == Kind::Directory {
                    waiting.push(shown.ino);
                }
            }
        }
        Ok(())
    });
    assert!(listed.is_ok(), "{listed:?}");
}

/// A key and the row under it.
pub(super) fn namespace_row(data: &[u8]) {
    let (key, bytes) = split(data);
    let Ok(key) = Key::decode(key) else {
        return;
    };
    if let Ok(siblings) = row::decode(&key, bytes) {
        let again = row::encode(&siblings);
        assert_eq!(row::decode(&key, &again), Ok(siblings));
    }
}

/// A volume of two writers, and all that they did.
pub(super) fn history() -> (MemRows, Vec<Delta>) {
    let mut rows = MemRows::default();
    let mut deltas = Vec::new();
    for number in 0..8u8 {
        let writer = WriterId {
            peer: PeerId([1 + number % 2; 32]),
            incarnation: 3,
        };
        let time = Timestamp {
            seconds: 1_800_000_000,
            nanos: number.into(),
        };
        let hlc = Hlc::from_ms(1_800_000_000_000 + u64::from(number));
        let drafted = Edit::new(&rows, writer, Now { hlc, time })
            .map_err(OpError::from)
            .and_then(|mut edit| {
                operation(&mut edit, number, time)?;
                Ok(edit.finish())
            });
        let draft = match drafted {
            Ok(draft) => draft,
            Err(error) => panic!("an operation of our own: {error}"),
        };
        let seen = state::version(&rows).map_or(0, |version| version.get(&writer));
        let delta = draft.enter(writer, seen);
        if let Ok(Outcome::Merged(changes)) = apply(&rows, &delta, u64::MAX) {
            rows.apply(changes);
        }
        deltas.push(delta);
    }
    (rows, deltas)
}

fn operation(edit: &mut Edit<'_>, number: u8, time: Timestamp) -> Result<(), OpError> {
    let name = |text: &str| Name::new(text.as_bytes()).map_err(OpError::Invalid);
    let (dir, file) = (Ino([7; 16]), Ino([8; 16]));
    let new = |ino, node| NewNode {
        ino,
        node,
        mode: 0o640,
        uid: 1000,
        gid: 100,
    };
    match number {
        0 => edit.create_root(0o755, 0, 0),
        1 => edit.create(Ino::ROOT, b"dir", &new(dir, Node::Directory)),
        2 => edit.create(dir, b"file", &new(file, Node::File)),
        3 => edit.set_content(file, 7, time, Body::Inline(b"content".as_slice().into())),
        4 => edit.link(file, Ino::ROOT, b"other"),
        5 => edit.set_xattr(file, &name("user.a")?, b"value".as_slice().into()),
        6 => {
            let link = Node::Symlink(b"dir/file".as_slice().into());
            edit.create(dir, b"soft", &new(Ino([9; 16]), link))
        }
        _ => {
            let to = (Ino::ROOT, b"dir".as_slice());
            edit.rename((dir, &name("soft")?), to, RenameMode::Exchange)
                .or_else(|_| {
                    let to = (Ino::ROOT, b"moved".as_slice());
                    edit.rename((Ino::ROOT, &name("dir")?), to, RenameMode::NoReplace)
                })
                .map(drop)
        }
    }
}

pub(super) fn deltas() -> Vec<Vec<u8>> {
    history().1.iter().map(Delta::encode).collect()
}

pub(super) fn rows() -> Vec<Vec<u8>> {
    let rows = history().0;
    let all = rows.iter();
    all.filter(|(key, _)| Key::decode(key).is_ok())
        .map(|(key, value)| joined(key, value))
        .collect()
}
