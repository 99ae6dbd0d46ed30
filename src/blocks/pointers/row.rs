//! A checkpoint record as a peer keeps it: a small record of the store.

use bytes::Bytes;
use serde_bytes::ByteBuf;

use crate::base::limits::POINTER_MAX_BYTES;
use crate::base::wire::{self, WireError};
use crate::base::{PeerId, VolumeId};
use crate::crypto::sign::Signature;
use crate::feeds::checkpoint::Record;
use crate::feeds::signed::Record as _;
use crate::feeds::{FeedError, Signed};
use crate::namespace::{Hlc, WriterId};

/// Key-value space of checkpoint records.
pub(super) const SPACE: &str = "pointers";
/// Version of a row.
const VERSION: u8 = 1;
/// Largest row.
const ROW_MAX_BYTES: usize = POINTER_MAX_BYTES + 64;
/// Length of a key.
const KEY_BYTES: usize = 16 + 32 + 8;

// What a signed record may have at most travels as one.
const _: () = assert!(Signed::<Record>::MAX_BYTES <= POINTER_MAX_BYTES);

/// `[version, peer that brought it, signed record bytes]`.
type RowWire = (u8, PeerId, ByteBuf);

/// Which of two records of one writer counts: the later; of two of one moment, which no sound writer signs, any,
/// as long as it is everywhere the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) hlc: Hlc,
    hash: [u8; 32],
}

impl Rank {
    pub(super) fn new(hlc: Hlc, body: &[u8]) -> Rank {
        Rank {
            hlc,
            hash: *blake3::hash(body).as_bytes(),
        }
    }

    pub(super) fn of(record: &Signed<Record>) -> Rank {
        Rank::new(record.hlc, record.body())
    }
}

/// A checkpoint record that a peer keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointerRow {
    /// Who brought it.
    pub from: PeerId,
    /// The signed record, as it is encoded.
    pub record: Bytes,
}

impl PointerRow {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let record = ByteBuf::from(self.record.to_vec());
        wire::encode::<RowWire>(&(VERSION, self.from, record))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// For anything else, and for rows of a later version.
    pub fn decode(bytes: &[u8]) -> Result<PointerRow, WireError> {
        let (version, from, record) = wire::decode_canonical::<RowWire>(bytes, ROW_MAX_BYTES)?;
        if version != VERSION {
            return Err(WireError::Version {
                found: version.into(),
                known: VERSION.into(),
            });
        }
        Ok(PointerRow {
            from,
            record: record.into_vec().into(),
        })
    }

    /// Under which key it is kept. Its signature was checked before it was kept, and is again by whoever receives it.
    ///
    /// # Errors
    /// If it is no record.
    pub fn place(&self) -> Result<(VolumeId, WriterId), FeedError> {
        let (volume, writer, _) = self.parts()?;
        Ok((volume, writer))
    }

    /// Under which key it is kept, and how it ranks.
    pub(super) fn parts(&self) -> Result<(VolumeId, WriterId, Rank), FeedError> {
        let (body, _): (ByteBuf, Signature) =
            wire::decode_canonical(&self.record, Signed::<Record>::MAX_BYTES)?;
        let record = Record::decode(&body)?;
        let rank = Rank::new(record.hlc, &body);
        Ok((record.volume, record.writer, rank))
    }
}

/// The key of a writer's record: volume, device, incarnation (big-endian).
pub(super) fn key(volume: &VolumeId, writer: &WriterId) -> Vec<u8> {
    let incarnation = writer.incarnation.to_be_bytes();
    let parts = [volume.0.as_slice(), &writer.peer.0, &incarnation];
    let key = parts.concat();
    debug_assert_eq!(key.len(), KEY_BYTES);
    key
}
