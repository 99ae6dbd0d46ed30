//! Segment files: their names, their header, and reading their records one after the other.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use super::disk::DiskFile;
use super::frame::{ALIGN, ChecksumKey, Decoded, Extent, HEADER_LEN, Position, align_up};
use super::record::{MAGIC, Record, decode};

/// Directory of the segments and the index.
pub(super) const STORE_DIR: &str = "store";
/// Bytes before the first record.
pub(super) const SEGMENT_HEADER_LEN: usize = 64;
const SEGMENT_MAGIC: [u8; 8] = *b"cairnseg";
const SEGMENT_VERSION: u32 = 1;
const CHECKSUM_AT: usize = SEGMENT_HEADER_LEN - 8;
/// Read at once where records are small, and where their data is skipped.
const WINDOW_DENSE: usize = 128 << 10;
const WINDOW_SPARSE: usize = 4 << 10;
const NAME_PREFIX: &str = "segment-";

/// A log: how its segments and records are told from others.
pub(super) trait Log: std::fmt::Debug {
    /// First bytes of a segment.
    const SEGMENT_MAGIC: [u8; 8];
    /// First bytes of a record.
    const RECORD_MAGIC: [u8; 4];
    /// What a record says.
    type Record;

    /// Looks at the record that begins with `bytes` at `at`.
    fn decode(key: &ChecksumKey, at: Position, bytes: &[u8]) -> Decoded<Self::Record>;

    /// Where its parts are.
    fn extent(record: &Self::Record) -> Extent;
}

/// The log of a store: shards, claims and small records.
#[derive(Debug)]
pub(super) struct ShardLog;

impl Log for ShardLog {
    const SEGMENT_MAGIC: [u8; 8] = SEGMENT_MAGIC;
    const RECORD_MAGIC: [u8; 4] = MAGIC;
    type Record = Record;

    fn decode(key: &ChecksumKey, at: Position, bytes: &[u8]) -> Decoded<Record> {
        decode(key, at, bytes)
    }

    fn extent(record: &Record) -> Extent {
        record.extent
    }
}

/// The file name of a segment.
pub(super) fn segment_name(id: u32) -> String {
    format!("{STORE_DIR}/{NAME_PREFIX}{id:08x}")
}

/// The segment with this name (without its directory).
pub(super) fn segment_id(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(NAME_PREFIX)?;
    let id = u32::from_str_radix(digits, 16).ok()?;
    (digits.len() == 8).then_some(id)
}

/// Whether a name (with its directory) is that of a segment.
pub(super) fn is_segment(name: &str) -> bool {
    let base = name
        .strip_prefix(STORE_DIR)
        .and_then(|rest| rest.strip_prefix('/'));
    base.and_then(segment_id).is_some()
}

/// Encodes a segment's header.
pub(super) fn encode_header(
    key: &ChecksumKey,
    store_id: &[u8; 16],
    id: u32,
    first_seq: u64,
) -> [u8; SEGMENT_HEADER_LEN] {
    header_of::<ShardLog>(key, store_id, id, first_seq)
}

/// Encodes the header of a segment of any log.
pub(super) fn header_of<L: Log>(
    key: &ChecksumKey,
    store_id: &[u8; 16],
    id: u32,
    first_seq: u64,
) -> [u8; SEGMENT_HEADER_LEN] {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    bytes[..8].copy_from_slice(&L::SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&id.to_le_bytes());
    bytes[16..32].copy_from_slice(store_id);
    bytes[32..40].copy_from_slice(&first_seq.to_le_bytes());
    let checksum = key.checksum(&[&bytes[..CHECKSUM_AT]]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum);
    bytes
}

/// The store to which a segment belongs, if its header is sound.
pub(super) fn store_of_header(bytes: &[u8], id: u32) -> Option<[u8; 16]> {
    let bytes: &[u8; SEGMENT_HEADER_LEN] = bytes.get(..SEGMENT_HEADER_LEN)?.try_into().ok()?;
    let store_id: [u8; 16] = bytes.get(16..32)?.try_into().ok()?;
    let first_seq = u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?);
    let expected = encode_header(&ChecksumKey::new(&store_id), &store_id, id, first_seq);
    (expected == *bytes).then_some(store_id)
}

/// What a scanner finds at its place.
#[derive(Debug)]
pub(super) enum Scanned<R = Record> {
    /// A sound record (its data was not looked at).
    Record(Position, R),
    /// Something that is not a record.
    Bad(u32),
    /// The end of the file.
    End,
}

/// Reads the records of one segment in order, skipping their data.
#[derive(Debug)]
pub(super) struct Scanner<L: Log = ShardLog> {
    file: Arc<dyn DiskFile>,
    segment: u32,
    key: ChecksumKey,
    end: usize,
    at: usize,
    window: Vec<u8>,
    window_at: usize,
    sparse: bool,
    /// Little is read at a time: some of the file cannot be.
    narrow: bool,
    log: PhantomData<L>,
}

impl<L: Log> Scanner<L> {
    /// Begins at `offset`.
    pub(super) fn new(
        file: Arc<dyn DiskFile>,
        segment: u32,
        key: ChecksumKey,
        offset: u32,
    ) -> io::Result<Self> {
        let end = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        Ok(Scanner {
            file,
            segment,
            key,
            end: end.min(u32::MAX as usize),
            at: offset as usize,
            window: Vec::new(),
            window_at: 0,
            sparse: true,
            narrow: false,
            log: PhantomData,
        })
    }

    /// Where the next record is looked for.
    pub(super) const fn offset(&self) -> u32 {
        self.at as u32
    }

    /// The file's bytes at `at`: `need` of them, or as many as there are.
    fn bytes(&mut self, at: usize, need: usize) -> io::Result<&[u8]> {
        let have = self.window_at..self.window_at + self.window.len();
        let wanted_end = (at + need).min(self.end);
        if at < have.start || wanted_end > have.end {
            let len = need.max(if self.sparse || self.narrow {
                WINDOW_SPARSE
            } else {
                WINDOW_DENSE
            });
            self.window = self
                .file
                .read_vec(at as u64, len.min(self.end - at.min(self.end)))?;
            self.window_at = at;
        }
        Ok(self.window.get(at - self.window_at..).unwrap_or_default())
    }

    fn look(&mut self, at: usize) -> io::Result<Option<L::Record>> {
        let position = Position {
            segment: self.segment,
            offset: at as u32,
        };
        let key = self.key.clone();
        let mut need = HEADER_LEN;
        loop {
            let bytes = self.bytes(at, need)?;
            match L::decode(&key, position, bytes) {
                Decoded::Record(record) => {
                    let end = at + L::extent(&record).record_len as usize;
                    return Ok((end <= self.end).then_some(record));
                }
                Decoded::NeedBytes(more) if more > need && at + more <= self.end => need = more,
                _ => return Ok(None),
            }
        }
    }

    /// What is at the present place. A record is passed over; something bad is not.
    pub(super) fn next(&mut self) -> io::Result<Scanned<L::Record>> {
        if self.at >= self.end {
            return Ok(Scanned::End);
        }
        let at = self.at;
        let Some(record) = self.look(at)? else {
            return Ok(Scanned::Bad(at as u32));
        };
        let extent = L::extent(&record);
        self.at += extent.record_len as usize;
        self.sparse = extent.data_len as usize > WINDOW_SPARSE;
        let position = Position {
            segment: self.segment,
            offset: at as u32,
        };
        Ok(Scanned::Record(position, record))
    }

    /// What is at the present place cannot be read. Reads less at a time from now on, so that only what cannot be read is
    /// lost; or, if it did so already, goes beyond that: then what comes next is to be looked for.
    pub(super) fn pass_over(&mut self) -> bool {
        self.window.clear();
        if !std::mem::replace(&mut self.narrow, true) {
            return false;
        }
        self.at = align_up(self.at + 1, WINDOW_SPARSE).min(self.end);
        true
    }

    /// Goes to the next sound record after the present place, or to the end.
    pub(super) fn resync(&mut self) -> io::Result<()> {
        self.sparse = false;
        let mut at = align_up(self.at + 1, ALIGN);
        while at < self.end {
            let bytes = self.bytes(at, HEADER_LEN)?;
            let hit = bytes
                .chunks(ALIGN)
                .position(|chunk| chunk.starts_with(&L::RECORD_MAGIC));
            let passed = (bytes.len() / ALIGN * ALIGN).max(ALIGN);
            match hit {
                Some(index) => {
                    at += index * ALIGN;
                    if self.look(at)?.is_some() {
                        break;
                    }
                    at += ALIGN;
                }
                None => at += passed,
            }
        }
        self.at = at.min(self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{Disk, write_all_at};
    use crate::store::mem_disk::MemDisk;
    use crate::store::record::{Entry, KvKey, KvPair, encode};
    use bytes::Bytes;

    fn filled(count: usize, data_len: usize) -> (Arc<dyn DiskFile>, Vec<u32>, ChecksumKey) {
        let key = ChecksumKey::new(&[1; 16]);
        let disk = MemDisk::new(64 << 20);
        let file = disk.create("s").unwrap();
        let mut offset = SEGMENT_HEADER_LEN;
        let mut offsets = Vec::new();
        for number in 0..count {
            let pair = KvPair {
                key: KvKey::new("s", &number.to_le_bytes()),
                value: Some(Bytes::from(vec![7; number * 13 % 3000])),
            };
            let at = Position {
                segment: 1,
                offset: offset as u32,
            };
            let encoded = encode(&key, at, number as u64, 0, &Entry::Kv(vec![pair]), data_len);
            write_all_at(file.as_ref(), offset as u64, &encoded.head).unwrap();
            offsets.push(at.offset);
            offset += encoded.extent.record_len as usize;
            file.set_len(offset as u64).unwrap();
        }
        (file, offsets, key)
    }

    fn scan(file: &Arc<dyn DiskFile>, key: &ChecksumKey) -> (Vec<u32>, usize) {
        let header = SEGMENT_HEADER_LEN as u32;
        let mut scanner =
            Scanner::<ShardLog>::new(Arc::clone(file), 1, key.clone(), header).unwrap();
        let (mut found, mut bad) = (Vec::new(), 0);
        loop {
            match scanner.next().unwrap() {
                Scanned::Record(at, _) => found.push(at.offset),
                Scanned::Bad(_) => {
                    bad += 1;
                    scanner.resync().unwrap();
                }
                Scanned::End => return (found, bad),
            }
        }
    }

    #[test]
    fn scanning_finds_every_record() {
        for data_len in [0, 100, 40_000] {
            let (file, offsets, key) = filled(300, data_len);
            assert_eq!(scan(&file, &key), (offsets, 0));
        }
    }

    #[test]
    fn damage_costs_only_the_record_it_hits() {
        let (file, offsets, key) = filled(300, 100);
        for victim in [0usize, 1, 150, 299] {
            let at = u64::from(offsets[victim]) + 20;
            let mut byte = file.read_vec(at, 1).unwrap();
            byte[0] ^= 1;
            write_all_at(file.as_ref(), at, &byte).unwrap();
            let (found, bad) = scan(&file, &key);
            let expected: Vec<u32> = offsets
                .iter()
                .copied()
                .filter(|offset| *offset != offsets[victim])
                .collect();
            assert_eq!((found, bad), (expected, 1));
            byte[0] ^= 1;
            write_all_at(file.as_ref(), at, &byte).unwrap();
        }
    }

    #[test]
    fn names_and_headers_round_trip() {
        assert_eq!(segment_name(255), "store/segment-000000ff");
        assert!(is_segment("store/segment-000000ff") && !is_segment("store/index.redb"));
        let key = ChecksumKey::new(&[9; 16]);
        let header = encode_header(&key, &[9; 16], 5, 77);
        assert_eq!(store_of_header(&header, 5), Some([9; 16]));
        assert_eq!(store_of_header(&header, 6), None);
        assert_eq!(store_of_header(&header[..60], 5), None);
    }
}
