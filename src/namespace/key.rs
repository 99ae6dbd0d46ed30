//! Keys of rows, as bytes whose order is useful: the entries of a directory are one range in the
//! order of their names, and so are all rows of one file.
//!
//! Keys from `0x80` on belong to one replica and are never sent: derived from the rows, or what it keeps for
//! its own drafts and joins.

use super::error::FormatError;
use super::id::{Ino, Name, SnapshotId};
use crate::base::PeerId;
use crate::base::limits::NAME_MAX_BYTES;

const ENTRY: u8 = 1;
const FILE: u8 = 2;
const MEMBER: u8 = 3;
const SNAPSHOT: u8 = 8;
const RULING: u8 = 4;
const ATTRS: u8 = 0;
const CONTENT: u8 = 1;
const XATTR: u8 = 2;
const CHANGED: u8 = 3;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A name in a directory.
    Entry(Ino, Name),
    /// Attributes of a file.
    Attrs(Ino),
    /// Content of a regular file.
    Content(Ino),
    /// One extended attribute.
    Xattr(Ino, Name),
    /// When the entries of a directory last changed. No delta writes it: it follows from the
    /// entries that the delta writes.
    Changed(Ino),
    /// That a device is a member of the volume.
    Member(PeerId),
    /// A snapshot that is kept.
    Snapshot(SnapshotId),
    /// A document about members and keys: its kind, and the hash of its bytes. Such rows only grow: nothing removes a
    /// value of one.
    Ruling(u8, [u8; 32]),
}

impl Key {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Key::Entry(dir, name) => parts(ENTRY, dir, &[name]),
            Key::Attrs(ino) => parts(FILE, ino, &[&[ATTRS]]),
            Key::Content(ino) => parts(FILE, ino, &[&[CONTENT]]),
            Key::Xattr(ino, name) => parts(FILE, ino, &[&[XATTR], name]),
            Key::Changed(ino) => parts(FILE, ino, &[&[CHANGED]]),
            Key::Member(device) => [&[MEMBER], &device.0[..]].concat(),
            Key::Snapshot(id) => [&[SNAPSHOT], &id.0[..]].concat(),
            Key::Ruling(kind, name) => [&[RULING, *kind], &name[..]].concat(),
        }
    }

    /// Whether its row only grows.
    pub const fn only_grows(&self) -> bool {
        matches!(self, Key::Ruling(..))
    }

    /// Reads what [`Key::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Key, FormatError> {
        let fail = || FormatError::Impossible("an impossible key");
        let (space, rest) = bytes.split_first().ok_or_else(fail)?;
        if *space == MEMBER {
            let device = rest.try_into().map_err(|_| fail())?;
            return Ok(Key::Member(PeerId(device)));
        }
        if *space == SNAPSHOT {
            let id = rest.try_into().map_err(|_| fail())?;
            return Ok(Key::Snapshot(SnapshotId(id)));
        }
        if *space == RULING {
            let (kind, name) = rest.split_first().ok_or_else(fail)?;
            let name = name.try_into().map_err(|_| fail())?;
            return Ok(Key::Ruling(*kind, name));
        }
        let (ino, rest) = rest.split_first_chunk::<16>().ok_or_else(fail)?;
        let ino = Ino(*ino);
        Ok(match (*space, rest) {
            (ENTRY, name) => Key::Entry(ino, Name::new(name)?),
            (FILE, [ATTRS]) => Key::Attrs(ino),
            (FILE, [CONTENT]) => Key::Content(ino),
            (FILE, [XATTR, name @ ..]) => Key::Xattr(ino, Name::xattr(name)?),
            (FILE, [CHANGED]) => Key::Changed(ino),
            _ => return Err(fail()),
        })
    }
}

fn parts(space: u8, ino: &Ino, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(18 + NAME_MAX_BYTES.min(rest.iter().map(|p| p.len()).sum()));
    key.push(space);
    key.extend_from_slice(&ino.0);
    for part in rest {
        key.extend_from_slice(part);
    }
    key
}

/// What every key of a directory's entries begins with.
pub fn entries_of(dir: Ino) -> Vec<u8> {
    parts(ENTRY, &dir, &[])
}

/// What every key of a member begins with.
pub const MEMBERS: &[u8] = &[MEMBER];

/// What every key of a document about members and keys begins with.
pub const RULINGS: &[u8] = &[RULING];

/// The name of a document about members and keys: BLAKE3-256 of its bytes.
pub fn ruling_name(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What every key of a snapshot begins with.
pub(super) const SNAPSHOTS: &[u8] = &[SNAPSHOT];

/// What every key of a file's own rows begins with.
pub(super) fn rows_of(ino: Ino) -> Vec<u8> {
    parts(FILE, &ino, &[])
}

/// What every key of a file's extended attributes begins with.
pub(super) fn xattrs_of(ino: Ino) -> Vec<u8> {
    parts(FILE, &ino, &[&[XATTR]])
}

/// First byte of the rows that are this replica's own.
pub(super) const LOCAL: u8 = 0x80;
/// First bytes of the keys of derived rows that say what the tree shows: what a snapshot keeps beside the shared rows, from
/// the first of these on and before the second.
pub const DERIVED: std::ops::Range<u8> = LOCAL + 1..LOCAL + 9;
/// The version vector.
pub(super) const VERSION: &[u8] = &[LOCAL];
/// How many rows of each derived kind there are.
pub(super) const TOTALS: &[u8] = &[LOCAL + 1];

/// What the keys of all links begin with.
pub(super) const LINKS: &[u8] = &[LOCAL + 2];

/// Where a file is named: `file | directory | name`.
pub(super) fn link(ino: Ino, dir: Ino, name: &[u8]) -> Vec<u8> {
    parts(LOCAL + 2, &ino, &[&dir.0, name])
}

/// What the keys of all links of a file begin with.
pub(super) fn links_of(ino: Ino) -> Vec<u8> {
    parts(LOCAL + 2, &ino, &[])
}

/// How many links a file has and how many directories are in it, where that is not 1 and 0.
pub(super) fn count(ino: Ino) -> Vec<u8> {
    parts(LOCAL + 3, &ino, &[])
}

/// What the keys of all rows begin with that are about one file and nothing else: its names, what is its own,
/// what is in it, its counts.
pub fn all_of(ino: Ino) -> [Vec<u8>; 4] {
    [links_of(ino), rows_of(ino), entries_of(ino), count(ino)]
}

/// A name whose row alone does not say what is shown.
pub(super) fn odd(dir: Ino, name: &[u8]) -> Vec<u8> {
    parts(LOCAL + 4, &dir, &[name])
}

/// What the keys of all odd names of a directory begin with.
pub(super) fn odd_of(dir: Ino) -> Vec<u8> {
    parts(LOCAL + 4, &dir, &[])
}

/// Something shown without an entry: `directory | name length | name | file`.
pub(super) fn guest(dir: Ino, name: &[u8], ino: Ino) -> Vec<u8> {
    parts(LOCAL + 5, &dir, &[&[name.len() as u8], name, &ino.0])
}

/// What the keys of all guests under one name begin with.
pub(super) fn guests_at(dir: Ino, name: &[u8]) -> Vec<u8> {
    parts(LOCAL + 5, &dir, &[&[name.len() as u8], name])
}

/// What the keys of all guests of a directory begin with.
pub(super) fn guests_of(dir: Ino) -> Vec<u8> {
    parts(LOCAL + 5, &dir, &[])
}

/// What the keys of all places begin with.
pub(super) const PLACES: &[u8] = &[LOCAL + 6];

/// Where a file is shown that is not shown at its newest link.
pub(super) fn place(ino: Ino) -> Vec<u8> {
    parts(LOCAL + 6, &ino, &[])
}

/// Files without an entry by the directory that they would return to.
pub(super) fn waiting(dir: Ino, ino: Ino) -> Vec<u8> {
    parts(LOCAL + 7, &dir, &[&ino.0])
}

/// What the keys of all that would return to a directory begin with.
pub(super) fn waiting_for(dir: Ino) -> Vec<u8> {
    parts(LOCAL + 7, &dir, &[])
}

/// A directory that is not shown at its newest link because that would close a circle.
pub(super) fn cut(ino: Ino) -> Vec<u8> {
    parts(LOCAL + 8, &ino, &[])
}

/// What the keys of all cut directories begin with.
pub(super) const CUTS: &[u8] = &[LOCAL + 8];

/// Of how many rows something is kept because drafts write them.
pub(super) const DRAFTS: &[u8] = &[LOCAL + 9];

/// What the keys of all kept rows begin with.
pub(super) const KEPT: &[u8] = &[LOCAL + 10];

/// What a row would be without drafts: the row's key.
pub(super) fn kept(key: &[u8]) -> Vec<u8> {
    [KEPT, key].concat()
}

/// A join that is under way.
pub(super) const JOIN: &[u8] = &[LOCAL + 11];

/// What the keys of all that a join has still to bring up to date begin with.
pub(super) const JOINED: &[u8] = &[LOCAL + 12];

/// A name whose row a join changed.
pub(super) fn joined_name(dir: Ino, name: &[u8]) -> Vec<u8> {
    parts(LOCAL + 12, &dir, &[&[JOINED_NAME], name])
}

/// A file whose entries or content a join changed, or something less of it.
pub(super) fn joined_file(ino: Ino, what: u8) -> Vec<u8> {
    parts(LOCAL + 12, &ino, &[&[what]])
}

/// Byte after the file in the key of something that a join changed: a name in that directory.
pub(super) const JOINED_NAME: u8 = 0;
/// Its entries or its content.
pub(super) const JOINED_FILE: u8 = 1;
/// Something in it, or its attributes.
pub(super) const JOINED_OTHER: u8 = 2;

/// The part of a key after its first `skip` bytes.
pub(super) fn tail(key: &[u8], skip: usize) -> &[u8] {
    key.get(skip..).unwrap_or_default()
}

/// The file that a key names at `at`.
pub(super) fn ino_at(key: &[u8], at: usize) -> Ino {
    let bytes = tail(key, at).first_chunk::<16>();
    Ino(bytes.copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> Name {
        Name::new(bytes).unwrap()
    }

    #[test]
    fn keys_are_read_as_they_were_written_and_sort_by_name() {
        let ino = Ino([7; 16]);
        for key in [
            Key::Entry(ino, name(&[0xff; 255])),
            Key::Attrs(ino),
            Key::Content(ino),
            Key::Xattr(ino, Name::xattr(b"user.a/b").unwrap()),
            Key::Changed(ino),
            Key::Member(PeerId([8; 32])),
            Key::Snapshot(SnapshotId([9; 16])),
            Key::Ruling(3, [9; 32]),
        ] {
            assert_eq!(Key::decode(&key.encode()).unwrap(), key);
        }
        let entry = |bytes: &[u8]| Key::Entry(ino, name(bytes)).encode();
        assert!(entry(b"a") < entry(b"a\x01") && entry(b"a\x01") < entry(b"b"));
        assert!(entry(b"\xff").starts_with(&entries_of(ino)));
        for wrong in [&entry(b"a")[..17], b"", &[1; 5], &[9; 20], &[0x80; 17]] {
            assert!(Key::decode(wrong).is_err());
        }
    }

    #[test]
    fn parts_of_local_keys_are_found_again() {
        let (one, two) = (Ino([1; 16]), Ino([2; 16]));
        let key = link(one, two, b"name");
        assert_eq!((ino_at(&key, 1), ino_at(&key, 17)), (one, two));
        assert_eq!(tail(&key, 33), b"name");
        assert!(guest(one, b"n", two).starts_with(&guests_at(one, b"n")));
        assert!(!guest(one, b"nn", two).starts_with(&guests_at(one, b"n")));
    }
}
