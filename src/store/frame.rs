//! The frame of every record in a log: header, meta part and, for some, data.
//!
//! The checksum is keyed with the log's identity and covers the record's place, so neither a misplaced
//! record nor one that somebody hid inside data is ever taken for one. What the meta part says is not
//! known here.

use super::disk::DiskFile;

/// Bytes before the meta part.
pub(super) const HEADER_LEN: usize = 48;
/// Where the checksum begins; it covers what is before it.
pub(super) const CHECKSUM_AT: usize = 40;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Unit of punching; data large enough to be punched begins at a multiple of it.
pub(super) const PAGE: usize = 4096;
/// Data of at least so many bytes is aligned, so that it can be punched out and pass the page cache by.
pub(super) const PUNCH_MIN: usize = 32 << 10;
/// Version written by this program.
const VERSION: u8 = 1;

/// Zeros for padding.
pub(super) const PADDING: [u8; PAGE] = [0; PAGE];

/// The key of a log's record checksums.
#[derive(Clone)]
pub(super) struct ChecksumKey([u8; 32]);

impl std::fmt::Debug for ChecksumKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChecksumKey(..)")
    }
}

impl ChecksumKey {
    /// For the log of a store.
    pub(super) fn new(store_id: &[u8; 16]) -> Self {
        Self::derived("cairn store 1: checksum of log records", store_id)
    }

    /// For the log with this identity, of the kind that `context` names.
    pub(super) fn derived(context: &str, identity: &[u8; 16]) -> Self {
        ChecksumKey(blake3::derive_key(context, identity))
    }

    pub(super) fn checksum(&self, parts: &[&[u8]]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut short = [0; 8];
        hasher.finalize_xof().fill(&mut short);
        short
    }
}

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// Where the parts of a record are, relative to its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) data_at: u32,
    pub(super) data_len: u32,
    pub(super) record_len: u32,
}

/// What tells the records of one kind of log from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// First bytes of every record.
    pub(super) magic: [u8; 4],
    /// Most bytes of a meta part.
    pub(super) meta_max: usize,
    /// Most bytes of data.
    pub(super) data_max: usize,
}

/// A record as it is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'m> {
    pub(super) kind: u8,
    pub(super) seq: u64,
    /// So many bytes of the segment are durable now.
    pub(super) synced_to: u32,
    pub(super) meta: &'m [u8],
    pub(super) data_len: usize,
}

/// A record as read: its data was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'b> {
    pub(super) kind: u8,
    pub(super) seq: u64,
    /// So many bytes of the segment were durable when this was written.
    pub(super) synced_to: u32,
    pub(super) extent: Extent,
    pub(super) meta: &'b [u8],
}

/// What stands before the data of a record, and how long the whole is.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Header, meta and padding up to the data (or to the end, if there is none).
    pub(super) head: Vec<u8>,
    /// Zeros after the data.
    pub(super) padding: usize,
    pub(super) extent: Extent,
}

/// The outcome of looking for a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<R> {
    /// A sound record.
    Record(R),
    /// It may be one; so many bytes from its begin are needed to tell.
    NeedBytes(usize),
    /// Not a record.
    Bad,
}

/// Rounds up to a multiple of `to`, a power of two.
pub(super) const fn align_up(value: usize, to: usize) -> usize {
    (value + to - 1) & !(to - 1)
}

/// Most bytes that a record with such parts adds to a segment.
pub(super) const fn record_max(meta_len: usize, data_len: usize) -> usize {
    let padding = if data_len >= PUNCH_MIN { PAGE } else { ALIGN };
    align_up(HEADER_LEN + meta_len + padding + data_len, ALIGN)
}

pub(super) fn place(at: Position) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&at.segment.to_le_bytes());
    bytes[4..].copy_from_slice(&at.offset.to_le_bytes());
    bytes
}

/// Encodes a record that will begin at `at`.
pub(super) fn encode(shape: &Shape, key: &ChecksumKey, at: Position, draft: Draft<'_>) -> Encoded {
    let Draft { meta, data_len, .. } = draft;
    let head_len = HEADER_LEN + meta.len();
    let begin = at.offset as usize;
    let data_at = if data_len >= PUNCH_MIN {
        align_up(begin + head_len, PAGE) - begin
    } else {
        align_up(head_len, ALIGN)
    };
    let record_len = align_up(data_at + data_len, ALIGN);
    let extent = Extent {
        data_at: data_at as u32,
        data_len: data_len as u32,
        record_len: record_len as u32,
    };
    let mut head = Vec::with_capacity(data_at);
    head.extend_from_slice(&shape.magic);
    head.extend_from_slice(&[VERSION, draft.kind, 0, 0]);
    head.extend_from_slice(&draft.seq.to_le_bytes());
    for number in [
        draft.synced_to,
        meta.len() as u32,
        extent.data_at,
        extent.data_len,
        extent.record_len,
        0,
    ] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = key.checksum(&[&place(at), &head, meta]);
    head.extend_from_slice(&checksum);
    head.extend_from_slice(meta);
    head.resize(data_at, 0);
    Encoded {
        head,
        padding: record_len - data_at - data_len,
        extent,
    }
}

/// Looks at the record that begins with `bytes` at `at`.
pub(super) fn decode<'b>(
    shape: &Shape,
    key: &ChecksumKey,
    at: Position,
    bytes: &'b [u8],
) -> Decoded<Frame<'b>> {
    let Some(header) = bytes.get(..HEADER_LEN) else {
        return Decoded::NeedBytes(HEADER_LEN);
    };
    decode_whole(shape, key, at, header, bytes).unwrap_or(Decoded::Bad)
}

fn decode_whole<'b>(
    shape: &Shape,
    key: &ChecksumKey,
    at: Position,
    header: &[u8],
    bytes: &'b [u8],
) -> Option<Decoded<Frame<'b>>> {
    let number = |from: usize| -> Option<u32> {
        let four = header.get(from..from + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(four))
    };
    let [version, kind] = [*header.get(4)?, *header.get(5)?];
    if !header.starts_with(&shape.magic) || version != VERSION {
        return None;
    }
    let seq = u64::from_le_bytes(header.get(8..16)?.try_into().ok()?);
    let (synced_to, meta_len) = (number(16)?, number(20)? as usize);
    let (data_at, data_len, record_len) = (number(24)?, number(28)?, number(32)?);
    let checksum: [u8; 8] = header.get(CHECKSUM_AT..)?.try_into().ok()?;
    let plausible = meta_len <= shape.meta_max
        && data_len as usize <= shape.data_max
        && data_at as usize >= HEADER_LEN + meta_len
        && data_at as usize <= HEADER_LEN + meta_len + PAGE + ALIGN
        && record_len as usize == align_up(data_at as usize + data_len as usize, ALIGN);
    if !plausible {
        return None;
    }
    let Some(meta) = bytes.get(HEADER_LEN..HEADER_LEN + meta_len) else {
        return Some(Decoded::NeedBytes(HEADER_LEN + meta_len));
    };
    if key.checksum(&[&place(at), header.get(..CHECKSUM_AT)?, meta]) != checksum {
        return None;
    }
    Some(Decoded::Record(Frame {
        kind,
        seq,
        synced_to,
        extent: Extent {
            data_at,
            data_len,
            record_len,
        },
        meta,
    }))
}

/// Bytes that are written to a log at once: heads, data and padding, one after the other.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<(Vec<u8>, bytes::Bytes, usize)>);

impl Parts {
    pub(super) fn push(&mut self, encoded: Encoded, data: bytes::Bytes) {
        self.0.push((encoded.head, data, encoded.padding));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Writes all of them at `offset`, with one call.
    pub(super) fn write_at(&self, file: &dyn DiskFile, offset: u64) -> std::io::Result<()> {
        let mut slices = Vec::with_capacity(self.0.len() * 3);
        for (head, data, padding) in &self.0 {
            let zeros = PADDING.get(..*padding).unwrap_or_default();
            let parts = [head.as_slice(), data, zeros];
            let filled = parts.into_iter().filter(|part| !part.is_empty());
            slices.extend(filled.map(std::io::IoSlice::new));
        }
        file.write_at(offset, &mut slices)
    }
}
