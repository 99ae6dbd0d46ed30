//! The ends of feeds as a peer keeps them: small records of the store.
//!
//! One record says how far a feed is kept. Its deltas are in *runs*, records of their own that are numbered in the
//! order of the feed: a run has as many deltas as fit into one, or a part of one that is longer.

use bytes::Bytes;
use serde_bytes::ByteBuf;

use crate::base::limits::SEALED_DELTA_MAX_BYTES;
use crate::base::wire::{self, WireError};
use crate::base::{PeerId, VolumeId};
use crate::feeds::{Covered, FeedError, Link, Signed, Tail};
use crate::namespace::WriterId;

/// Key-value space of how far feeds are kept.
pub(super) const SPACE: &str = "tails";
/// Key-value space of their deltas.
pub(super) const RUNS: &str = "tail-runs";
/// Version of the rows.
const VERSION: u8 = 1;
/// Largest row that says how far a feed is kept.
const ROW_MAX_BYTES: usize = Signed::<Covered>::MAX_BYTES + Signed::<Link>::MAX_BYTES + 128;
/// Bytes of deltas in one run.
const RUN_BYTES: usize = 15 << 10;
/// Largest run.
const RUN_MAX_BYTES: usize = RUN_BYTES + 64;
/// What a delta takes in its run besides itself, at most.
const AROUND_BYTES: usize = 16;

/// How far a peer keeps a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRow {
    /// Who brought it.
    pub from: PeerId,
    /// When something was last added, by this peer's clock (ms since 1970).
    pub touched_ms: u64,
    /// The writer's signed word about a checkpoint, as it is encoded.
    pub covered: Option<Bytes>,
    /// The last signed link, as it is encoded.
    pub head: Option<Bytes>,
    /// The first run.
    pub first_run: u64,
    /// The run after the last.
    pub next_run: u64,
    /// Bytes of deltas, with what each takes besides.
    pub bytes: u64,
}

type RowWire = (
    u8,
    PeerId,
    u64,
    Option<ByteBuf>,
    Option<ByteBuf>,
    u64,
    u64,
    u64,
);

fn check_version(found: u8) -> Result<(), WireError> {
    match found == VERSION {
        true => Ok(()),
        false => Err(WireError::Version {
            found: found.into(),
            known: VERSION.into(),
        }),
    }
}

impl TailRow {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let buf = |bytes: &Bytes| ByteBuf::from(bytes.to_vec());
        wire::encode::<RowWire>(&(
            VERSION,
            self.from,
            self.touched_ms,
            self.covered.as_ref().map(buf),
            self.head.as_ref().map(buf),
            self.first_run,
            self.next_run,
            self.bytes,
        ))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// For anything else, and for rows of a later version.
    pub fn decode(bytes: &[u8]) -> Result<TailRow, WireError> {
        let (version, from, touched_ms, covered, head, first_run, next_run, bytes) =
            wire::decode_canonical::<RowWire>(bytes, ROW_MAX_BYTES)?;
        check_version(version)?;
        Ok(TailRow {
            from,
            touched_ms,
            covered: covered.map(|bytes| bytes.into_vec().into()),
            head: head.map(|bytes| bytes.into_vec().into()),
            first_run,
            next_run,
            bytes,
        })
    }

    /// The tail that it is about. Checks its signatures.
    ///
    /// # Errors
    /// If it is none of this feed.
    pub fn tail(&self, volume: VolumeId, writer: WriterId) -> Result<Tail, FeedError> {
        let covered = self.covered.as_ref().map(|bytes| Signed::decode(bytes));
        let head = self.head.as_ref().map(|bytes| Signed::decode(bytes));
        Tail::restore(volume, writer, covered.transpose()?, head.transpose()?)
    }
}

/// Deltas of a feed that follow one another, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// The last dot of the last of them.
    pub last: u64,
    /// Which part it is; 0 where all are in one run.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// The part of the encoded list of deltas, each with its last dot.
    pub bytes: Bytes,
}

type RunWire = (u8, u64, u32, u32, ByteBuf);
type DeltasWire = Vec<(u64, ByteBuf)>;

impl RunRow {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = ByteBuf::from(self.bytes.to_vec());
        wire::encode::<RunWire>(&(VERSION, self.last, self.part, self.parts, bytes))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// For anything else, and for rows of a later version.
    pub fn decode(bytes: &[u8]) -> Result<RunRow, WireError> {
        let (version, last, part, parts, bytes) =
            wire::decode_canonical::<RunWire>(bytes, RUN_MAX_BYTES)?;
        check_version(version)?;
        Ok(RunRow {
            last,
            part,
            parts,
            bytes: bytes.into_vec().into(),
        })
    }

    /// Deltas in order, each with its last dot, as rows.
    pub fn pack(deltas: impl IntoIterator<Item = (u64, Bytes)>) -> Vec<RunRow> {
        let mut rows = Vec::new();
        let mut open: DeltasWire = Vec::new();
        let mut size = 0;
        for (last, delta) in deltas {
            let adds = delta.len() + AROUND_BYTES;
            if size + adds > RUN_BYTES {
                close(&mut rows, std::mem::take(&mut open));
                size = 0;
            }
            size += adds;
            open.push((last, ByteBuf::from(delta.to_vec())));
        }
        close(&mut rows, open);
        rows
    }

    /// The deltas of a run, each with its last dot, from all its parts in order.
    ///
    /// # Errors
    /// If these are not all, or none.
    pub fn unpack(parts: &[RunRow]) -> Result<Vec<(u64, Bytes)>, FeedError> {
        let are_all = parts
            .iter()
            .enumerate()
            .all(|(at, row)| row.part as usize == at && row.parts as usize == parts.len());
        if !are_all {
            return Err("a part of a run is missing".into());
        }
        let bytes: Vec<&[u8]> = parts.iter().map(|row| &row.bytes[..]).collect();
        let deltas: DeltasWire =
            wire::decode_canonical(&bytes.concat(), SEALED_DELTA_MAX_BYTES + RUN_BYTES)?;
        let deltas = deltas.into_iter();
        Ok(deltas
            .map(|(last, delta)| (last, delta.into_vec().into()))
            .collect())
    }
}

fn close(rows: &mut Vec<RunRow>, deltas: DeltasWire) {
    let Some((last, _)) = deltas.last() else {
        return;
    };
    let last = *last;
    let encoded = Bytes::from(wire::encode(&deltas));
    let parts = encoded.len().div_ceil(RUN_BYTES) as u32;
    for part in 0..parts {
        let from = part as usize * RUN_BYTES;
        let upto = encoded.len().min(from + RUN_BYTES);
        rows.push(RunRow {
            last,
            part,
            parts,
            bytes: encoded.slice(from..upto),
        });
    }
}

/// The key of a feed: volume, device, incarnation (big-endian).
pub(super) fn key(volume: &VolumeId, writer: &WriterId) -> Vec<u8> {
    let incarnation = writer.incarnation.to_be_bytes();
    [volume.0.as_slice(), &writer.peer.0, &incarnation].concat()
}

/// The feed of a key.
pub(super) fn place(key: &[u8]) -> Option<(VolumeId, WriterId)> {
    let (volume, rest) = key.split_first_chunk::<16>()?;
    let (peer, rest) = rest.split_first_chunk::<32>()?;
    let incarnation = u64::from_be_bytes(rest.try_into().ok()?);
    let writer = WriterId {
        peer: PeerId(*peer),
        incarnation,
    };
    Some((VolumeId(*volume), writer))
}

/// The key of a run of a feed: that of the feed, the number of the run (big-endian).
pub(super) fn run_key(volume: &VolumeId, writer: &WriterId, number: u64) -> Vec<u8> {
    [key(volume, writer), number.to_be_bytes().to_vec()].concat()
}

/// The number in the key of a run.
pub(super) fn run_number(key: &[u8]) -> Option<u64> {
    let number = key.last_chunk::<8>()?;
    Some(u64::from_be_bytes(*number))
}
