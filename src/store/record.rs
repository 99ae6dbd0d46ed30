//! The records of the log, to the byte. `docs/format/store.md` has the picture.
//!
//! `frame` has what stands around them. The data of a shard is not covered by the checksum of its record
//! but by the hash in its stripe header.

mod meta;

use bytes::Bytes;

use self::meta::{SHARD_META_LEN, decode_meta, encode_meta, kind};
use super::frame::{self, Draft, Shape};
use crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES;
use crate::base::{BlockId, ClaimId};

pub(super) use super::frame::{ChecksumKey, Encoded, Extent, HEADER_LEN, PAGE, Position, align_up};

/// First bytes of every record.
pub(super) const MAGIC: [u8; 4] = *b"CrnR";
/// The records of the store's log.
pub(super) const SHAPE: Shape = Shape {
    magic: MAGIC,
    meta_max: META_MAX,
    data_max: MESSAGE_PAYLOAD_MAX_BYTES,
};
/// Where a shard record has its stripe header.
pub(super) const STRIPE_AT: usize = HEADER_LEN + SHARD_META_LEN;
/// Most bytes of a meta part.
pub(super) const META_MAX: usize = 256 << 10;
/// Most tombstones in one record.
pub(super) const TOMBS_MAX: usize = 4096;
/// Longest key of a small record.
pub const KV_KEY_MAX: usize = 1024;
/// Longest value of a small record.
pub const KV_VALUE_MAX: usize = 16 << 10;
/// Longest name of a space of small records.
pub const KV_SPACE_MAX: usize = 64;

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimEnd {
    /// Permanent.
    Closed,
    /// Given up or expired. The segments `oldest..=newest` may have records that name it.
    Released { oldest: u32, newest: u32 },
}

/// A shard record that counts no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tomb {
    pub(super) block: BlockId,
    pub(super) index: u8,
    pub(super) at: Position,
}

/// One small record: key with its space, and the value (`None`: deleted).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KvPair {
    pub(super) key: KvKey,
    pub(super) value: Option<Bytes>,
}

/// A space and a key in it, as one sortable byte string: length of the space, space, key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KvKey(pub(super) Vec<u8>);

impl KvKey {
    pub(super) fn new(space: &str, key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(1 + space.len() + key.len());
        bytes.push(space.len() as u8);
        bytes.extend_from_slice(space.as_bytes());
        bytes.extend_from_slice(key);
        KvKey(bytes)
    }

    /// The key without its space.
    pub(super) fn key(&self) -> &[u8] {
        let space = self.0.first().map_or(0, |len| usize::from(*len));
        self.0.get(1 + space..).unwrap_or_default()
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A shard is held; the data is not part of this value.
    Shard {
        block: BlockId,
        index: u8,
        /// Encoded stripe header.
        header: Bytes,
        /// A claim on the block, and its expiry.
        claim: Option<(ClaimId, u64)>,
        /// The segment from which compaction moved it.
        moved_from: Option<u32>,
    },
    /// A claim on blocks, or (without blocks) a new expiry.
    Claim {
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    },
    /// The end of a claim.
    State { claim: ClaimId, end: ClaimEnd },
    /// Shard records that count no longer.
    Tombs(Vec<Tomb>),
    /// Small records, applied together.
    Kv(Vec<KvPair>),
}

/// A record as read, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: u64,
    /// So many bytes of the segment were durable when this was written.
    pub(super) synced_to: u32,
    pub(super) extent: Extent,
    pub(super) entry: Entry,
}

/// Most bytes that a shard with this header and data adds to a segment.
pub(super) const fn shard_record_max(header_len: usize, data_len: usize) -> usize {
    frame::record_max(SHARD_META_LEN + header_len, data_len)
}

/// Encodes a record that will begin at `at`.
pub(super) fn encode(
    key: &ChecksumKey,
    at: Position,
    seq: u64,
    synced_to: u32,
    entry: &Entry,
    data_len: usize,
) -> Encoded {
    let draft = Draft {
        kind: kind(entry),
        seq,
        synced_to,
        meta: &encode_meta(entry),
        data_len,
    };
    frame::encode(&SHAPE, key, at, draft)
}

/// The outcome of looking for a record.
pub(super) type Decoded = frame::Decoded<Record>;

/// Looks at the record that begins with `bytes` at `at`.
pub(super) fn decode(key: &ChecksumKey, at: Position, bytes: &[u8]) -> Decoded {
    let frame = match frame::decode(&SHAPE, key, at, bytes) {
        frame::Decoded::Record(frame) => frame,
        frame::Decoded::NeedBytes(more) => return Decoded::NeedBytes(more),
        frame::Decoded::Bad => return Decoded::Bad,
    };
    match decode_meta(frame.kind, frame.meta) {
        Some(entry) => Decoded::Record(Record {
            seq: frame.seq,
            synced_to: frame.synced_to,
            extent: frame.extent,
            entry,
        }),
        None => Decoded::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{OwnerId, PeerId};
    use crate::erasure::StripeHeader;
    use crate::store::frame::{ALIGN, PUNCH_MIN};
    use proptest::prelude::*;

    fn key() -> ChecksumKey {
        ChecksumKey::new(&[3; 16])
    }

    fn at() -> Position {
        Position {
            segment: 7,
            offset: 64,
        }
    }

    fn samples() -> Vec<Entry> {
        let claim = ClaimId {
            owner: OwnerId([1; 16]),
            writer: PeerId([2; 32]),
            number: 3,
        };
        let header = Bytes::from_static(b"stripe header");
        vec![
            Entry::Shard {
                block: StripeHeader::address(&header),
                index: 5,
                header: header.clone(),
                claim: Some((claim, 99)),
                moved_from: None,
            },
            Entry::Shard {
                block: StripeHeader::address(&header),
                index: 0,
                header,
                claim: None,
                moved_from: Some(4),
            },
            Entry::Claim {
                claim,
                expires_ms: 12,
                blocks: vec![BlockId([4; 32]), BlockId([5; 32])],
            },
            Entry::State {
                claim,
                end: ClaimEnd::Closed,
            },
            Entry::State {
                claim,
                end: ClaimEnd::Released {
                    oldest: 1,
                    newest: 9,
                },
            },
            Entry::Tombs(vec![Tomb {
                block: BlockId([6; 32]),
                index: 2,
                at: at(),
            }]),
            Entry::Kv(vec![
                KvPair {
                    key: KvKey::new("space", b"key"),
                    value: Some(Bytes::from_static(b"value")),
                },
                KvPair {
                    key: KvKey::new("s", b""),
                    value: None,
                },
            ]),
        ]
    }

    #[test]
    fn records_round_trip_and_every_flipped_bit_is_noticed() {
        for (number, entry) in samples().into_iter().enumerate() {
            for data_len in [0, 100, PUNCH_MIN] {
                let encoded = encode(&key(), at(), 42, 64, &entry, data_len);
                let total = encoded.head.len() + data_len + encoded.padding;
                assert_eq!(total, encoded.extent.record_len as usize);
                assert_eq!(total % ALIGN, 0);
                if data_len == PUNCH_MIN {
                    assert_eq!((64 + encoded.extent.data_at as usize) % PAGE, 0);
                }
                let Decoded::Record(record) = decode(&key(), at(), &encoded.head) else {
                    panic!("entry {number} does not decode");
                };
                assert_eq!((record.seq, record.synced_to), (42, 64));
                assert_eq!(record.extent, encoded.extent);
                assert_eq!(record.entry, entry);
                if data_len > 0 {
                    continue;
                }
                let covered = HEADER_LEN + encode_meta(&entry).len();
                for bit in 0..covered * 8 {
                    let mut bytes = encoded.head.clone();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    let outcome = decode(&key(), at(), &bytes);
                    assert!(!matches!(outcome, Decoded::Record(_)), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_record_counts_only_in_its_place_and_store() {
        let encoded = encode(&key(), at(), 1, 64, &samples()[2], 0);
        let elsewhere = Position {
            segment: 7,
            offset: 72,
        };
        assert_eq!(decode(&key(), elsewhere, &encoded.head), Decoded::Bad);
        let other = ChecksumKey::new(&[4; 16]);
        assert_eq!(decode(&other, at(), &encoded.head), Decoded::Bad);
    }

    #[test]
    fn the_first_bytes_of_a_record_are_fixed() {
        let encoded = encode(&key(), at(), 1, 64, &samples()[3], 0);
        let text = data_encoding::HEXLOWER.encode(&encoded.head);
        assert_eq!(
            text,
            concat!(
                "43726e52",
                "01",
                "03",
                "0000",
                "0100000000000000",
                "40000000",
                "44000000",
                "78000000",
                "00000000",
                "78000000",
                "00000000",
                "c3dc3f0d9c165210",
                "01010101010101010101010101010101",
                "0202020202020202020202020202020202020202020202020202020202020202",
                "0300000000000000",
                "010000000000000000000000",
                "00000000"
            )
        );
    }

    proptest! {
        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&key(), at(), &bytes);
            for kind in 0..7 {
                let _ = decode_meta(kind, &bytes);
            }
        }
    }
}
