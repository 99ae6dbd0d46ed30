//! Groups of changes and the records of the journal, to the byte. `docs/format/volume.md` has the picture.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::error::VolumeError;
use crate::base::limits::{
    DIRTY_MAX_BYTES, DIRTY_PER_GROUP_MAX, ROW_GROUP_MAX_BYTES, ROW_KEY_MAX_BYTES,
    ROW_VALUE_MAX_BYTES,
};
use crate::store::frame::{self, ChecksumKey, Decoded, Extent, Position, Shape};
use crate::store::segment::Log;

/// Bytes of dirty data with one checksum: what the smallest read from the disk takes.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Bytes of one such checksum.
const SUM_BYTES: usize = 8;
/// Bytes before the changes of a group.
const GROUP_HEAD: usize = 20;
/// Bytes before a key.
const CHANGE_HEAD: usize = 6;
/// Stands for the length of a value that is removed.
const REMOVED: u32 = u32::MAX;
/// Bytes of the place of one piece of dirty data in a group.
const ADDED_LEN: usize = 16;
/// Bytes of one piece that was moved.
const MOVED_LEN: usize = 24;
/// Numbers of groups and records never come so far.
const NUMBER_MAX: u64 = 1 << 62;
/// Most pieces in one record of moves.
pub(super) const MOVES_MAX: usize = 1024;

/// The records of a volume's journal.
pub(super) const SHAPE: Shape = Shape {
    magic: *b"CrnJ",
    meta_max: ROW_GROUP_MAX_BYTES,
    data_max: DIRTY_MAX_BYTES,
};

/// The number of a group: later ones have greater ones, also after a reopening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// A space of rows: keys of different spaces have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u8);

/// Names one piece of dirty data; chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyId(pub u64);

/// Changes that take effect together: rows, and dirty data that is kept or let go.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The changes as they are stored.
    pub(super) encoded: Vec<u8>,
    /// Where keys and values are in that.
    pub(super) rows: Vec<(Range<usize>, Option<Range<usize>>)>,
    pub(super) added: Vec<(DirtyId, Bytes)>,
    pub(super) released: Vec<DirtyId>,
    pub(super) is_cleanup: bool,
    /// The first thing about it that is not allowed.
    wrong: Option<VolumeError>,
}

impl Group {
    /// One without changes.
    pub fn new() -> Self {
        Group::default()
    }

    /// Gives a row a value. Of several changes of one row the last counts.
    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> &mut Self {
        self.change(space, key, Some(value))
    }

    /// Removes a row, if there is such.
    pub fn remove(&mut self, space: Space, key: &[u8]) -> &mut Self {
        self.change(space, key, None)
    }

    /// Keeps dirty data, at most [`DIRTY_MAX_BYTES`], until a later group releases it.
    pub fn keep(&mut self, id: DirtyId, bytes: Bytes) -> &mut Self {
        self.check("dirty data", bytes.len(), DIRTY_MAX_BYTES);
        self.added.push((id, bytes));
        self.check(
            "pieces of dirty data in one group",
            self.added.len(),
            DIRTY_PER_GROUP_MAX,
        );
        self
    }

    /// Lets dirty data of an earlier group go.
    pub fn release(&mut self, id: DirtyId) -> &mut Self {
        self.released.push(id);
        self
    }

    /// Says that it gives room back in the end, so that it is taken where others find no room.
    pub fn cleanup(&mut self) -> &mut Self {
        self.is_cleanup = true;
        self
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.added.is_empty() && self.released.is_empty()
    }

    fn check(&mut self, what: &'static str, size: usize, limit: usize) {
        if size > limit && self.wrong.is_none() {
            self.wrong = Some(VolumeError::TooLarge { what, size, limit });
        }
    }

    fn change(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) -> &mut Self {
        self.check("a key", key.len(), ROW_KEY_MAX_BYTES);
        self.check("a value", value.map_or(0, <[u8]>::len), ROW_VALUE_MAX_BYTES);
        if self.wrong.is_some() {
            return self;
        }
        let value_len = value.map_or(REMOVED, |value| value.len() as u32);
        let key_len = 1 + key.len() as u16;
        self.encoded.extend_from_slice(&key_len.to_le_bytes());
        self.encoded.extend_from_slice(&value_len.to_le_bytes());
        let key_at = self.encoded.len();
        self.encoded.push(space.0);
        self.encoded.extend_from_slice(key);
        let value_at = self.encoded.len();
        self.encoded.extend_from_slice(value.unwrap_or_default());
        let value = value.map(|_| value_at..self.encoded.len());
        self.rows.push((key_at..value_at, value));
        self
    }

    /// Length of its record's meta part.
    pub(super) fn meta_len(&self) -> usize {
        GROUP_HEAD
            + self.encoded.len()
            + self.added.len() * ADDED_LEN
            + self.released.len() * SUM_BYTES
    }

    /// Whether it is within the bounds.
    pub(super) fn checked(&self) -> Result<(), VolumeError> {
        if let Some(error) = &self.wrong {
            return Err(error.clone());
        }
        let size = self.meta_len();
        if size > ROW_GROUP_MAX_BYTES {
            return Err(VolumeError::TooLarge {
                what: "a group of changes",
                size,
                limit: ROW_GROUP_MAX_BYTES,
            });
        }
        Ok(())
    }

    /// Most bytes that it adds to the journal.
    pub(super) fn journal_cost(&self) -> usize {
        let dirty = self.added.iter().map(|(_, bytes)| {
            let meta = dirty_meta_len(bytes.len());
            frame::record_max(meta, bytes.len())
        });
        frame::record_max(self.meta_len(), 0) + dirty.sum::<usize>()
    }
}

/// The kinds of records.
pub(super) mod kind {
    pub(in crate::store::volume) const DIRTY: u8 = 1;
    pub(in crate::store::volume) const GROUP: u8 = 2;
    pub(in crate::store::volume) const MOVED: u8 = 3;
}

/// A row's key with its space, and its new value (`None`: removed).
pub(super) type Change = (Bytes, Option<Bytes>);

/// What a record of the journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Entry {
    /// Dirty data, which counts once a group names this record.
    Dirty { id: DirtyId, sums: Arc<[u8]> },
    Group {
        seq: Seq,
        changes: Vec<Change>,
        added: Vec<(DirtyId, Position)>,
        released: Vec<DirtyId>,
    },
    /// Dirty data was written again: from where, and to where.
    Moved(Vec<(DirtyId, Position, Position)>),
}

/// A record as read, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Record {
    pub(super) seq: u64,
    pub(super) synced_to: u32,
    pub(super) extent: Extent,
    pub(super) entry: Entry,
}

/// The journal as a log.
#[derive(Debug)]
pub(in crate::store) struct JournalLog;

impl Log for JournalLog {
    const SEGMENT_MAGIC: [u8; 8] = *b"cairnjnl";
    const RECORD_MAGIC: [u8; 4] = SHAPE.magic;
    type Record = Record;

    fn decode(key: &ChecksumKey, at: Position, bytes: &[u8]) -> Decoded<Record> {
        let frame = match frame::decode(&SHAPE, key, at, bytes) {
            Decoded::Record(frame) => frame,
            Decoded::NeedBytes(more) => return Decoded::NeedBytes(more),
            Decoded::Bad => return Decoded::Bad,
        };
        if frame.seq > NUMBER_MAX {
            return Decoded::Bad;
        }
        let data_len = frame.extent.data_len as usize;
        match decode_meta(frame.kind, frame.meta, data_len) {
            Some(entry) => Decoded::Record(Record {
                seq: frame.seq,
                synced_to: frame.synced_to,
                extent: frame.extent,
                entry,
            }),
            None => Decoded::Bad,
        }
    }

    fn extent(record: &Record) -> Extent {
        record.extent
    }
}

/// The key of a volume's checksums.
pub(in crate::store) fn checksum_key(identity: &[u8; 16]) -> ChecksumKey {
    ChecksumKey::derived("cairn volume 1: checksum of journal records", identity)
}

const fn dirty_meta_len(data_len: usize) -> usize {
    8 + data_len.div_ceil(PIECE_BYTES) * SUM_BYTES
}

/// The checksum of one piece.
pub(super) fn piece_sum(key: &ChecksumKey, id: DirtyId, number: u32, piece: &[u8]) -> [u8; 8] {
    key.checksum(&[&id.0.to_le_bytes(), &number.to_le_bytes(), piece])
}

/// The checksums of dirty data, one after the other.
pub(super) fn sums_of(key: &ChecksumKey, id: DirtyId, bytes: &[u8]) -> Arc<[u8]> {
    let pieces = bytes.chunks(PIECE_BYTES).zip(0u32..);
    let sums = pieces.flat_map(|(piece, number)| piece_sum(key, id, number, piece));
    sums.collect::<Vec<u8>>().into()
}

/// Whether the pieces from number `first` on are what their checksums say.
pub(super) fn pieces_are_sound(
    key: &ChecksumKey,
    id: DirtyId,
    sums: &[u8],
    first: usize,
    bytes: &[u8],
) -> bool {
    bytes
        .chunks(PIECE_BYTES)
        .zip(first..)
        .all(|(piece, number)| {
            let at = number * SUM_BYTES;
            let known = sums.get(at..at + SUM_BYTES);
            known == Some(piece_sum(key, id, number as u32, piece).as_slice())
        })
}

pub(super) fn encode_dirty(id: DirtyId, sums: &[u8]) -> Vec<u8> {
    [&id.0.to_le_bytes(), sums].concat()
}

pub(super) fn encode_group(
    seq: Seq,
    change_count: usize,
    changes: &[u8],
    added: &[(DirtyId, Position)],
    released: &[DirtyId],
) -> Vec<u8> {
    let mut meta = Vec::with_capacity(GROUP_HEAD + changes.len() + added.len() * ADDED_LEN);
    meta.extend_from_slice(&seq.0.to_le_bytes());
    for count in [change_count, added.len(), released.len()] {
        meta.extend_from_slice(&(count as u32).to_le_bytes());
    }
    meta.extend_from_slice(changes);
    for (id, at) in added {
        meta.extend_from_slice(&id.0.to_le_bytes());
        meta.extend_from_slice(&frame::place(*at));
    }
    for id in released {
        meta.extend_from_slice(&id.0.to_le_bytes());
    }
    meta
}

pub(super) fn encode_moved(moves: &[(DirtyId, Position, Position)]) -> Vec<u8> {
    let mut meta = (moves.len() as u32).to_le_bytes().to_vec();
    for (id, from, to) in moves {
        meta.extend_from_slice(&id.0.to_le_bytes());
        meta.extend_from_slice(&frame::place(*from));
        meta.extend_from_slice(&frame::place(*to));
    }
    meta
}

/// Reads numbers and slices, none beyond the end.
struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len)?;
        let taken = (end <= self.bytes.len()).then(|| self.bytes.slice(self.at..end))?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..)?.first_chunk::<N>().copied()?;
        self.at += N;
        Some(found)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn id(&mut self) -> Option<DirtyId> {
        self.array().map(u64::from_le_bytes).map(DirtyId)
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position {
            segment: self.u32()?,
            offset: self.u32()?,
        })
    }

    fn change(&mut self) -> Option<Change> {
        let key_len = usize::from(u16::from_le_bytes(self.array()?));
        let value_len = self.u32()?;
        if !(1..=1 + ROW_KEY_MAX_BYTES).contains(&key_len) {
            return None;
        }
        let key = self.take(key_len)?;
        if value_len == REMOVED {
            return Some((key, None));
        }
        let value_len = value_len as usize;
        if value_len > ROW_VALUE_MAX_BYTES {
            return None;
        }
        Some((key, Some(self.take(value_len)?)))
    }

    /// As many items as are there at most, of at least `least` bytes each.
    fn all<T>(
        &mut self,
        count: u32,
        least: usize,
        read: impl Fn(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let left = self.bytes.len() - self.at;
        if count as usize > left / least {
            return None;
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// `value`, if everything was read.
    fn end<T>(&self, value: T) -> Option<T> {
        (self.at == self.bytes.len()).then_some(value)
    }
}

fn decode_meta(kind: u8, meta: &[u8], data_len: usize) -> Option<Entry> {
    let mut reader = Reader {
        bytes: Bytes::copy_from_slice(meta),
        at: 0,
    };
    if kind != kind::DIRTY && data_len > 0 {
        return None;
    }
    match kind {
        kind::DIRTY => {
            if meta.len() != dirty_meta_len(data_len) {
                return None;
            }
            let id = reader.id()?;
            let sums = reader.take(meta.len() - 8)?;
            reader.end(Entry::Dirty {
                id,
                sums: Arc::from(&*sums),
            })
        }
        kind::GROUP => {
            let seq = Seq(u64::from_le_bytes(reader.array()?));
            if seq.0 > NUMBER_MAX {
                return None;
            }
            let (changes, added, released) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let entry = Entry::Group {
                seq,
                changes: reader.all(changes, CHANGE_HEAD + 1, Reader::change)?,
                added: reader.all(added, ADDED_LEN, |reader| {
                    Some((reader.id()?, reader.position()?))
                })?,
                released: reader.all(released, 8, Reader::id)?,
            };
            reader.end(entry)
        }
        kind::MOVED => {
            let count = reader.u32()?;
            let moves = reader.all(count, MOVED_LEN, |reader| {
                Some((reader.id()?, reader.position()?, reader.position()?))
            })?;
            reader.end(Entry::Moved(moves))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::frame::{Draft, encode};
    use proptest::prelude::*;

    fn at(offset: u32) -> Position {
        Position { segment: 3, offset }
    }

    fn samples() -> Vec<(u8, Vec<u8>, Vec<u8>, Entry)> {
        let key = checksum_key(&[3; 16]);
        let id = DirtyId(5);
        let data = vec![7; 2 * PIECE_BYTES + 1];
        let sums = sums_of(&key, id, &data);
        let mut group = Group::new();
        group.put(Space(1), b"key", b"value").remove(Space(2), b"");
        let (added, released) = (vec![(id, at(64))], vec![DirtyId(6), DirtyId(7)]);
        let changes = vec![
            (
                Bytes::from_static(b"\x01key"),
                Some(Bytes::from_static(b"value")),
            ),
            (Bytes::from_static(b"\x02"), None),
        ];
        let moves = vec![(id, at(64), at(4096)), (DirtyId(6), at(128), at(8192))];
        vec![
            (
                kind::DIRTY,
                encode_dirty(id, &sums),
                data,
                Entry::Dirty { id, sums },
            ),
            (
                kind::GROUP,
                encode_group(Seq(9), 2, &group.encoded, &added, &released),
                Vec::new(),
                Entry::Group {
                    seq: Seq(9),
                    changes,
                    added,
                    released,
                },
            ),
            (
                kind::MOVED,
                encode_moved(&moves),
                Vec::new(),
                Entry::Moved(moves),
            ),
        ]
    }

    fn head(kind: u8, meta: &[u8], data_len: usize) -> Vec<u8> {
        let draft = Draft {
            kind,
            seq: 42,
            synced_to: 64,
            meta,
            data_len,
        };
        encode(&SHAPE, &checksum_key(&[3; 16]), at(64), draft).head
    }

    #[test]
    fn records_round_trip_and_every_flipped_bit_is_noticed() {
        let key = checksum_key(&[3; 16]);
        for (kind, meta, data, entry) in samples() {
            let head = head(kind, &meta, data.len());
            let Decoded::Record(record) = JournalLog::decode(&key, at(64), &head) else {
                panic!("{entry:?} does not decode");
            };
            assert_eq!((record.seq, record.synced_to), (42, 64));
            assert_eq!(record.extent.data_len as usize, data.len());
            assert_eq!(record.entry, entry);
            for bit in 0..(frame::HEADER_LEN + meta.len()) * 8 {
                let mut bytes = head.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let outcome = JournalLog::decode(&key, at(64), &bytes);
                assert!(!matches!(outcome, Decoded::Record(_)), "bit {bit}");
            }
        }
    }

    #[test]
    fn every_piece_of_dirty_data_has_its_own_checksum() {
        let key = checksum_key(&[3; 16]);
        let (id, mut data) = (DirtyId(5), vec![7; 3 * PIECE_BYTES + 9]);
        let sums = sums_of(&key, id, &data);
        assert_eq!(sums.len(), 4 * SUM_BYTES);
        assert!(pieces_are_sound(&key, id, &sums, 0, &data));
        assert!(pieces_are_sound(
            &key,
            id,
            &sums,
            2,
            &data[2 * PIECE_BYTES..]
        ));
        // Not in another place, nor under another id, nor longer.
        assert!(!pieces_are_sound(
            &key,
            id,
            &sums,
            1,
            &data[2 * PIECE_BYTES..]
        ));
        assert!(!pieces_are_sound(&key, DirtyId(6), &sums, 0, &data));
        assert!(!pieces_are_sound(
            &key,
            id,
            &sums,
            3,
            &data[2 * PIECE_BYTES..]
        ));
        data[PIECE_BYTES] ^= 1;
        assert!(pieces_are_sound(&key, id, &sums, 0, &data[..PIECE_BYTES]));
        assert!(!pieces_are_sound(&key, id, &sums, 0, &data));
    }

    #[test]
    fn the_bytes_of_a_move_are_fixed() {
        let (kind, meta, _, _) = samples().swap_remove(2);
        let text = data_encoding::HEXLOWER.encode(&head(kind, &meta, 0));
        assert_eq!(text, MOVE);
    }

    const MOVE: &str = concat!(
        "43726e4a",
        "01",
        "03",
        "0000",
        "2a00000000000000",
        "40000000",
        "34000000",
        "68000000",
        "00000000",
        "68000000",
        "00000000",
        "35944795c0b6cf23",
        "02000000",
        "050000000000000003000000400000000300000000100000",
        "060000000000000003000000800000000300000000200000",
        "00000000",
    );

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = JournalLog::decode(&checksum_key(&[3; 16]), at(64), &bytes);
            for kind in 0..5 {
                let _ = decode_meta(kind, &bytes, 0);
                let _ = decode_meta(kind, &bytes, 20_000);
            }
        }
    }
}
