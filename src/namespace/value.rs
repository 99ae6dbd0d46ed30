//! Values of rows, what is allowed in them, and how competing ones are joined.

use bytes::Bytes;

use super::clock::{Hlc, Stamp};
use super::error::FormatError;
use super::id::{Ino, Kind, Name};
use super::key::{Key, ruling_name};
use super::version::VersionVector;
use crate::base::EcProfile;
use crate::base::limits::{
    INLINE_MAX_BYTES, MEMBER_MAX_BYTES, RULING_MAX_BYTES, SNAPSHOT_MAX_BYTES, XATTR_MAX_BYTES,
};
use crate::dag::directory::{MODE_MASK, check_target, check_time};
use crate::dag::{FileContent, NodeAt, Timestamp};

/// Where something was and with which rights, so that it can be shown again in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// Directory.
    pub parent: Ino,
    /// Name in it.
    pub name: Name,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a name in a directory leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub child: Ino,
    /// What it is.
    pub kind: Kind,
    /// The home of the directory that has the entry; none for one without an entry of its own.
    pub home: Option<Home>,
}

/// What a file is, with what belongs to its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A regular file; its content is a row of its own.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device and its number.
    CharDevice(u32),
    /// A block device and its number.
    BlockDevice(u32),
}

impl Node {
    /// Without what belongs to it.
    pub const fn kind(&self) -> Kind {
        match self {
            Node::File => Kind::File,
            Node::Directory => Kind::Directory,
            Node::Symlink(_) => Kind::Symlink,
            Node::Fifo => Kind::Fifo,
            Node::Socket => Kind::Socket,
            Node::CharDevice(_) => Kind::CharDevice,
            Node::BlockDevice(_) => Kind::BlockDevice,
        }
    }

    /// The number of a device, else 0.
    pub const fn rdev(&self) -> u32 {
        match self {
            Node::CharDevice(rdev) | Node::BlockDevice(rdev) => *rdev,
            _ => 0,
        }
    }
}

/// A field that is joined by itself: the newest wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field<T> {
    /// When it was set.
    pub at: Hlc,
    /// What it was set to.
    pub value: T,
}

impl<T: Ord> Field<T> {
    fn join(&mut self, other: Field<T>) {
        if other > *self {
            *self = other;
        }
    }

    /// Sets it anew.
    pub fn set(&mut self, at: Hlc, value: T) {
        *self = Field { at, value };
    }
}

/// Attributes of a file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// What it is.
    pub node: Node,
    /// Permission bits.
    pub mode: Field<u16>,
    /// Owner.
    pub uid: Field<u32>,
    /// Group.
    pub gid: Field<u32>,
    /// Last read.
    pub atime: Field<Timestamp>,
    /// Last change of the content. For a regular file, its content row may know a later one; for a
    /// directory, its entries.
    pub mtime: Field<Timestamp>,
    /// Last change of anything.
    pub ctime: Field<Timestamp>,
    /// Of a directory only: where it was before it came to where it is; none for the top one.
    pub home: Field<Option<Home>>,
}

impl Attrs {
    /// Takes in a concurrent value, field by field.
    pub fn join(&mut self, other: Attrs) {
        self.node = self.node.clone().max(other.node);
        self.mode.join(other.mode);
        self.uid.join(other.uid);
        self.gid.join(other.gid);
        self.atime.join(other.atime);
        self.mtime.join(other.mtime);
        self.ctime.join(other.ctime);
        self.home.join(other.home);
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.mode.value & !MODE_MASK != 0 {
            return Err("a mode with unknown bits".into());
        }
        check_time(&self.atime.value)?;
        check_time(&self.mtime.value)?;
        check_time(&self.ctime.value)?;
        if let Node::Symlink(target) = &self.node {
            check_target(target)?;
        }
        if self.node != Node::Directory && self.home.value.is_some() {
            return Err("a home in the attributes of what is no directory".into());
        }
        self.home.value.as_ref().map_or(Ok(()), Home::check)
    }
}

impl Home {
    fn check(&self) -> Result<(), FormatError> {
        if self.mode & !MODE_MASK != 0 {
            return Err("a mode with unknown bits".into());
        }
        Ok(())
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Here, from the first on; what is missing to the file's size is a hole.
    Inline(Bytes),
    /// In blocks of this redundancy.
    Stored(EcProfile, crate::dag::Body<NodeAt>),
}

impl Body {
    /// No bytes at all.
    pub const EMPTY: Body = Body::Inline(Bytes::new());
}

/// Content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes, holes included.
    pub size: u64,
    /// When they were last changed.
    pub mtime: Timestamp,
    /// The content's version: of each writer the moment of the last edit that is in it. (Moments,
    /// since a count would begin anew where a file was removed and came back.) Equal versions are
    /// one content, wherever it lies; a version that includes another replaces it; versions of
    /// which neither includes the other are in conflict.
    pub edits: VersionVector,
    /// The last of those edits.
    pub edited: Stamp,
    /// Where the file was when it was edited.
    pub home: Home,
    /// The bytes.
    pub body: Body,
}

impl Content {
    fn check(&self) -> Result<(), FormatError> {
        check_time(&self.mtime)?;
        self.home.check()?;
        let last = self.edits.get(&self.edited.writer);
        if last == 0 || last != self.edited.hlc.0 {
            return Err("a content version without its last edit".into());
        }
        match &self.body {
            Body::Inline(bytes) if bytes.len() > INLINE_MAX_BYTES => {
                Err("too many bytes in a content row".into())
            }
            Body::Inline(bytes) if bytes.len() as u64 > self.size => {
                Err("more bytes than the file has".into())
            }
            Body::Inline(_) => Ok(()),
            Body::Stored(_, body) => {
                let checked = FileContent {
                    size: self.size,
                    body: body.clone(),
                };
                let is_sound = checked.check().is_ok()
                    && match body {
                        crate::dag::Body::Inline(extents) => !extents.is_empty(),
                        crate::dag::Body::Manifest(node) => node.check().is_ok(),
                    };
                is_sound
                    .then_some(())
                    .ok_or(FormatError::Impossible("impossible extents"))
            }
        }
    }
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a name in a directory.
    Entry(Entry),
    /// Of a file's attributes.
    Attrs(Attrs),
    /// Of a file's content.
    Content(Content),
    /// Of an extended attribute, with the time it was set at.
    Xattr(Field<Bytes>),
    /// That the entries of a directory changed; when, the row's own moment says.
    Changed,
    /// What proves that a device is a member. Nothing here looks into it.
    Member(Bytes),
    /// What a snapshot is called, and where it is. Nothing here looks into it.
    Snapshot(Bytes),
    /// A document about members and keys. Nothing here looks into it.
    Ruling(Bytes),
}

impl Value {
    /// Whether it can stand under `key`.
    pub fn check(&self, key: &Key) -> Result<(), FormatError> {
        match (self, key) {
            (Value::Entry(entry), Key::Entry(dir, _)) => {
                if entry.child.is_reserved() || entry.child == *dir {
                    return Err("an entry that leads to what has no entries".into());
                }
                entry.home.as_ref().map_or(Ok(()), Home::check)
            }
            (Value::Attrs(attrs), Key::Attrs(_)) => attrs.check(),
            (Value::Content(content), Key::Content(_)) => content.check(),
            (Value::Xattr(xattr), Key::Xattr(..)) if xattr.value.len() > XATTR_MAX_BYTES => {
                Err("too long a value of an extended attribute".into())
            }
            (Value::Member(proof), Key::Member(_)) if proof.len() > MEMBER_MAX_BYTES => {
                Err("too long a proof of membership".into())
            }
            (Value::Snapshot(record), Key::Snapshot(_)) if record.len() > SNAPSHOT_MAX_BYTES => {
                Err("too long a record of a snapshot".into())
            }
            (Value::Ruling(bytes), Key::Ruling(_, name)) => {
                match bytes.len() <= RULING_MAX_BYTES && ruling_name(bytes) == *name {
                    true => Ok(()),
                    false => Err("a document under another's name, or one that is too long".into()),
                }
            }
            (Value::Xattr(_), Key::Xattr(..))
            | (Value::Changed, Key::Changed(_))
            | (Value::Member(_), Key::Member(_))
            | (Value::Snapshot(_), Key::Snapshot(_)) => Ok(()),
            _ => Err("a value of one kind in a row of another".into()),
        }
    }
}
