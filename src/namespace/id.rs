//! Identities: files, writers, single changes; names of entries.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base::PeerId;
use crate::base::ids::byte_id;
use crate::base::limits::NAME_MAX_BYTES;
use crate::dag::check_name;

/// Counters from here on are those of drafts, which are on one replica only.
pub const PENDING: u64 = 1 << 63;

byte_id!(
    /// A file's identity in its volume: random, never used again.
    Ino,
    16
);

impl Ino {
    /// The top directory.
    pub const ROOT: Ino = Ino::reserved(1);
    /// The directory for what has lost its place. It is shown only while there is something in it.
    pub const LOST: Ino = Ino::reserved(2);

    const fn reserved(number: u8) -> Ino {
        let mut bytes = [0; 16];
        bytes[15] = number;
        Ino(bytes)
    }

    /// Whether it is one of the directories that exist without an entry.
    pub const fn is_reserved(&self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, _])
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

byte_id!(
    /// A snapshot of a volume: when it was made (`Hlc`, big-endian), and the first bytes of the device that made it. Those made
    /// later are greater.
    SnapshotId,
    16
);

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// One life of one device as a writer. A device that lost the end of its feed begins a new
/// incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(PeerId, u64)", into = "(PeerId, u64)")]
pub struct WriterId {
    /// The device.
    pub peer: PeerId,
    /// Which of its lives.
    pub incarnation: u64,
}

impl From<(PeerId, u64)> for WriterId {
    fn from((peer, incarnation): (PeerId, u64)) -> Self {
        WriterId { peer, incarnation }
    }
}

impl From<WriterId> for (PeerId, u64) {
    fn from(writer: WriterId) -> Self {
        (writer.peer, writer.incarnation)
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer.short(), self.incarnation)
    }
}

/// One written value: the `counter`-th of `writer`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who wrote it.
    pub writer: WriterId,
    /// 1 and up; from [`PENDING`] on while it is in no feed.
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.writer, self.counter)
    }
}

/// What kind of thing a file is. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 0,
    /// A directory.
    Directory = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe.
    Fifo = 3,
    /// A Unix socket.
    Socket = 4,
    /// A character device.
    CharDevice = 5,
    /// A block device.
    BlockDevice = 6,
}

impl TryFrom<u8> for Kind {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Ok(match number {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Symlink,
            3 => Kind::Fifo,
            4 => Kind::Socket,
            5 => Kind::CharDevice,
            6 => Kind::BlockDevice,
            _ => return Err("an unknown kind of file"),
        })
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> u8 {
        kind as u8
    }
}

/// A name in a directory: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. The name of an extended
/// attribute, where only NUL is forbidden, has the same type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks the bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Name, &'static str> {
        check_name(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// Checks the bytes as the name of an extended attribute.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn xattr(bytes: &[u8]) -> Result<Name, &'static str> {
        match bytes {
            [] => Err("an extended attribute without a name"),
            _ if bytes.len() > NAME_MAX_BYTES => Err("a name of more than 255 bytes"),
            _ if bytes.contains(&0) => Err("a name with NUL in it"),
            _ => Ok(Name(bytes.into())),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Name {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Name::new(&bytes).map_err(de::Error::custom)
    }
}
