//! Values as bytes: arrays of canonical DAG-CBOR. Which kind of value it is, the key says.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::clock::{Hlc, Stamp};
use super::error::FormatError;
use super::id::{Ino, Kind, Name};
use super::key::Key;
use super::value::{Attrs, Body, Content, Entry, Field, Home, Node, Value};
use super::version::VersionVector;
use super::writers::{WriterList, Writers};
use crate::base::limits::DELTA_MAX_BYTES;
use crate::base::{BlockRef, EcProfile, wire};
use crate::dag::{Body as Blocks, Extent, NodeAt, Timestamp};

type HomeWire = (Ino, Name, u16, u32, u32);
type EntryWire = (Ino, Kind, Option<HomeWire>);
type TimeWire = (i64, u32);
type ExtentWire = (u64, u32, BlockRef, u32);
/// Extents, or else a node.
type StoredWire = (EcProfile, Vec<ExtentWire>, Option<(BlockRef, u32, u32)>);
type XattrWire = (Hlc, ByteBuf);

#[derive(Serialize, Deserialize)]
struct AttrsWire(
    Kind,
    u32,
    ByteBuf,
    u16,
    u32,
    u32,
    TimeWire,
    TimeWire,
    TimeWire,
    Option<HomeWire>,
    Vec<Hlc>,
);

#[derive(Serialize, Deserialize)]
struct ContentWire(
    u64,
    TimeWire,
    Vec<(u32, u64)>,
    u32,
    HomeWire,
    ByteBuf,
    Option<StoredWire>,
);

impl From<&Home> for HomeWire {
    fn from(home: &Home) -> HomeWire {
        (
            home.parent,
            home.name.clone(),
            home.mode,
            home.uid,
            home.gid,
        )
    }
}

impl From<HomeWire> for Home {
    fn from((parent, name, mode, uid, gid): HomeWire) -> Home {
        Home {
            parent,
            name,
            mode,
            uid,
            gid,
        }
    }
}

const fn time_out(time: &Timestamp) -> TimeWire {
    (time.seconds, time.nanos)
}

const fn time_in((seconds, nanos): TimeWire) -> Timestamp {
    Timestamp { seconds, nanos }
}

/// The bytes of a value; writers in it are added to the list.
pub(super) fn encode(value: &Value, writers: &mut WriterList) -> Vec<u8> {
    match value {
        Value::Entry(entry) => wire::encode(&entry_out(entry)),
        Value::Attrs(attrs) => wire::encode(&attrs_out(attrs)),
        Value::Content(content) => wire::encode(&content_out(content, writers)),
        Value::Xattr(xattr) => {
            wire::encode::<XattrWire>(&(xattr.at, ByteBuf::from(xattr.value.to_vec())))
        }
        Value::Changed => wire::encode::<[u8; 0]>(&[]),
        Value::Member(bytes) | Value::Ruling(bytes) => wire::encode(&ByteBuf::from(bytes.to_vec())),
        Value::Snapshot(record) => wire::encode(&(ByteBuf::from(record.to_vec()),)),
    }
}

/// Reads the value of a row of `key` and checks it.
pub(super) fn decode(key: &Key, bytes: &[u8], writers: &Writers) -> Result<Value, FormatError> {
    let value = match key {
        Key::Entry(..) => Value::Entry(entry_in(wire::decode(bytes, DELTA_MAX_BYTES)?)),
        Key::Attrs(_) => Value::Attrs(attrs_in(wire::decode(bytes, DELTA_MAX_BYTES)?)?),
        Key::Content(_) => {
            Value::Content(content_in(wire::decode(bytes, DELTA_MAX_BYTES)?, writers)?)
        }
        Key::Xattr(..) => {
            let (at, value): XattrWire = wire::decode(bytes, DELTA_MAX_BYTES)?;
            let value = value.into_vec().into();
            Value::Xattr(Field { at, value })
        }
        Key::Changed(_) => {
            let [] = wire::decode::<[u8; 0]>(bytes, DELTA_MAX_BYTES)?;
            Value::Changed
        }
        Key::Member(_) => {
            let proof: ByteBuf = wire::decode(bytes, DELTA_MAX_BYTES)?;
            Value::Member(proof.into_vec().into())
        }
        Key::Snapshot(_) => {
            let (record,): (ByteBuf,) = wire::decode(bytes, DELTA_MAX_BYTES)?;
            Value::Snapshot(record.into_vec().into())
        }
        Key::Ruling(..) => {
            let document: ByteBuf = wire::decode(bytes, DELTA_MAX_BYTES)?;
            Value::Ruling(document.into_vec().into())
        }
    };
    value.check(key)?;
    Ok(value)
}

fn entry_out(entry: &Entry) -> EntryWire {
    (entry.child, entry.kind, entry.home.as_ref().map(Into::into))
}

fn entry_in((child, kind, home): EntryWire) -> Entry {
    Entry {
        child,
        kind,
        home: home.map(Into::into),
    }
}

fn attrs_out(attrs: &Attrs) -> AttrsWire {
    let mut stamps = vec![
        attrs.mode.at,
        attrs.uid.at,
        attrs.gid.at,
        attrs.atime.at,
        attrs.mtime.at,
        attrs.ctime.at,
        attrs.home.at,
    ];
    if stamps.iter().all(|at| *at == attrs.mode.at) {
        stamps.truncate(1);
    }
    let target = match &attrs.node {
        Node::Symlink(target) => target.to_vec(),
        _ => Vec::new(),
    };
    AttrsWire(
        attrs.node.kind(),
        attrs.node.rdev(),
        ByteBuf::from(target),
        attrs.mode.value,
        attrs.uid.value,
        attrs.gid.value,
        time_out(&attrs.atime.value),
        time_out(&attrs.mtime.value),
        time_out(&attrs.ctime.value),
        attrs.home.value.as_ref().map(Into::into),
        stamps,
    )
}

fn attrs_in(wire: AttrsWire) -> Result<Attrs, FormatError> {
    let AttrsWire(kind, rdev, target, mode, uid, gid, atime, mtime, ctime, home, stamps) = wire;
    let stamps: [Hlc; 7] = match stamps.as_slice() {
        [one] => [*one; 7],
        all => all
            .try_into()
            .map_err(|_| FormatError::Impossible("a wrong number of moments"))?,
    };
    let has_rdev = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    if (rdev != 0 && !has_rdev) || (!target.is_empty() && kind != Kind::Symlink) {
        return Err("a device number or a target that does not belong there".into());
    }
    let [
        mode_at,
        uid_at,
        gid_at,
        atime_at,
        mtime_at,
        ctime_at,
        home_at,
    ] = stamps;
    let time = |at, wire| Field {
        at,
        value: time_in(wire),
    };
    Ok(Attrs {
        node: match kind {
            Kind::File => Node::File,
            Kind::Directory => Node::Directory,
            Kind::Symlink => Node::Symlink(target.into_vec().into()),
            Kind::Fifo => Node::Fifo,
            Kind::Socket => Node::Socket,
            Kind::CharDevice => Node::CharDevice(rdev),
            Kind::BlockDevice => Node::BlockDevice(rdev),
        },
        mode: Field {
            at: mode_at,
            value: mode,
        },
        uid: Field {
            at: uid_at,
            value: uid,
        },
        gid: Field {
            at: gid_at,
            value: gid,
        },
        atime: time(atime_at, atime),
        mtime: time(mtime_at, mtime),
        ctime: time(ctime_at, ctime),
        home: Field {
            at: home_at,
            value: home.map(Into::into),
        },
    })
}

fn content_out(content: &Content, writers: &mut WriterList) -> ContentWire {
    let mut edits = Vec::new();
    for (writer, count) in content.edits.iter() {
        edits.push((writers.number(writer), count));
    }
    let (inline, stored) = match &content.body {
        Body::Inline(bytes) => (bytes.to_vec(), None),
        Body::Stored(profile, blocks) => (Vec::new(), Some(stored_out(*profile, blocks))),
    };
    ContentWire(
        content.size,
        time_out(&content.mtime),
        edits,
        writers.number(&content.edited.writer),
        (&content.home).into(),
        ByteBuf::from(inline),
        stored,
    )
}

fn content_in(wire: ContentWire, writers: &Writers) -> Result<Content, FormatError> {
    let ContentWire(size, mtime, edits, writer, home, inline, stored) = wire;
    let edits = edits
        .into_iter()
        .map(|(number, count)| Ok((writers.get(number)?, count)))
        .collect::<Result<Vec<_>, FormatError>>()?;
    if stored.is_some() && !inline.is_empty() {
        return Err("a content in two places".into());
    }
    let edits = VersionVector::from_sorted(edits)?;
    let writer = writers.get(writer)?;
    let hlc = Hlc(edits.get(&writer));
    Ok(Content {
        size,
        mtime: time_in(mtime),
        edits,
        edited: Stamp { hlc, writer },
        home: home.into(),
        body: match stored {
            None => Body::Inline(inline.into_vec().into()),
            Some(stored) => stored_in(stored)?,
        },
    })
}

fn stored_out(profile: EcProfile, blocks: &Blocks<NodeAt>) -> StoredWire {
    match blocks {
        Blocks::Inline(extents) => {
            let wire = |e: &Extent| (e.offset, e.len, e.block, e.block_offset);
            (profile, extents.iter().map(wire).collect(), None)
        }
        Blocks::Manifest(node) => (
            profile,
            Vec::new(),
            Some((node.block, node.offset, node.len)),
        ),
    }
}

fn stored_in((profile, extents, node): StoredWire) -> Result<Body, FormatError> {
    let blocks = match node {
        Some((block, offset, len)) if extents.is_empty() => {
            Blocks::Manifest(NodeAt { block, offset, len })
        }
        Some(_) => return Err("a content in two places".into()),
        None => {
            let read = |(offset, len, block, block_offset)| Extent {
                offset,
                len,
                block,
                block_offset,
            };
            Blocks::Inline(extents.into_iter().map(read).collect())
        }
    };
    Ok(Body::Stored(profile, blocks))
}
