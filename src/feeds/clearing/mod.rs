//! How the members of a volume find out together that blocks are named by nobody any more.
//!
//! Who placed blocks that nothing in its own state names asks all others who may write. One answer of each is not
//! enough: what one had removed by then another may still have under way to a third, who answered before it came. So
//! it asks twice. At the first question each member looks through all that it names, begins to watch for names that
//! come, and says how far it has merged. At the second it must have merged all that anybody had at the first, and
//! says which of the blocks it named at any time since.
//!
//! What it answers then is on its disk before it answers, so that it does not wake up with names that it had forgotten.
//!
//! Why that is enough: take the first change, in causal order, that names such a block and that nobody had at the first
//! question. Its writer did not name the block then, nor since, up to its second answer; so it found the name after that, in
//! a change that somebody had at the first question. But those it had merged before its second answer, in which nothing
//! named the block; and what was replaced does not come back. So there is no such change.
//!
//! * [`Clearing`] is the message, [`Clearance`] one round as the asker has it. Pure, as all of `feeds`.

mod round;
#[cfg(test)]
mod world;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, check_version};
use crate::base::limits::{ACCORD_WRITERS_MAX, CLEARING_BLOCKS_MAX, MESSAGE_PAYLOAD_MAX_BYTES};
use crate::base::{BlockId, VolumeId, wire};
use crate::namespace::{VersionVector, WriterId};

pub use round::{Broken, Clearance};

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is looking, or cannot now: it is to be asked again.
    Busy,
    /// It has not merged what the question names.
    Behind,
    /// It knows nothing of a first question of this round.
    Lost,
    /// Which of the blocks it names, or named since the first question.
    Named {
        /// What it had merged when it began to watch.
        version: VersionVector,
        /// A bit for each block, the lowest of the first byte for the first.
        bits: Bytes,
    },
}

/// A message: the canonical array `[version, kind, volume, round, ..]`, with kinds from 12 to 14. It travels as those of
/// [`gossip`](super::gossip) do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clearing {
    /// The first question: `[1, 12, volume, round, [[writer, dot], ..], blocks]`.
    Ask {
        /// Of which volume.
        volume: VolumeId,
        /// Chosen by the asker.
        round: u64,
        /// What the asker had merged when it named none of the blocks.
        above: VersionVector,
        /// Which.
        blocks: Vec<BlockId>,
    },
    /// The second question: `[1, 13, volume, round, [[writer, dot], ..]]`.
    Again {
        /// Of which volume.
        volume: VolumeId,
        /// As in the first.
        round: u64,
        /// What all together had merged at the first.
        above: VersionVector,
    },
    /// An answer to either: `[1, 14, volume, round, state, [[writer, dot], ..], bits]`, with `state` 0 and the rest, or
    /// 1 to 3 and nothing in it.
    Told {
        /// Of which volume.
        volume: VolumeId,
        /// Of which round.
        round: u64,
        /// What.
        told: Told,
    },
}

const ASK: u8 = 12;
const AGAIN: u8 = 13;
const TOLD: u8 = 14;

/// Bytes of an address.
const BLOCK_BYTES: usize = 32;

type Positions = Vec<(WriterId, u64)>;

#[derive(Serialize, Deserialize)]
struct AskWire(u8, u8, VolumeId, u64, Positions, ByteBuf);
#[derive(Serialize, Deserialize)]
struct AgainWire(u8, u8, VolumeId, u64, Positions);
#[derive(Serialize, Deserialize)]
struct ToldWire(u8, u8, VolumeId, u64, u8, Positions, ByteBuf);

fn positions(version: &VersionVector) -> Positions {
    version.iter().map(|(writer, dot)| (*writer, dot)).collect()
}

fn vector(rows: Positions) -> Result<VersionVector, FeedError> {
    if rows.len() > ACCORD_WRITERS_MAX {
        return Err("too many writers in a message about blocks".into());
    }
    Ok(VersionVector::from_sorted(rows)?)
}

/// Bytes of a set of bits.
pub(crate) const fn bits_len(blocks: usize) -> usize {
    blocks.div_ceil(8)
}

/// A set of bits, one for each of `named`.
pub fn bits_of(named: &[bool]) -> Bytes {
    let bytes = named.chunks(8).map(|part| {
        let bits = part.iter().enumerate();
        bits.fold(0, |byte, (at, is_named)| byte | u8::from(*is_named) << at)
    });
    bytes.collect::<Vec<u8>>().into()
}

/// Whether a bit is set; what is beyond the end is.
pub(crate) fn is_set(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8)
        .is_none_or(|byte| byte >> (at % 8) & 1 == 1)
}

impl Clearing {
    /// Whether bytes may be a message of this kind rather than one of [`gossip`](super::gossip).
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.get(2).is_some_and(|kind| (ASK..=TOLD).contains(kind))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Clearing::Ask {
                volume,
                round,
                above,
                blocks,
            } => {
                let blocks: Vec<u8> = blocks.iter().flat_map(|block| block.0).collect();
                wire::encode(&AskWire(
                    FEED_VERSION,
                    ASK,
                    *volume,
                    *round,
                    positions(above),
                    ByteBuf::from(blocks),
                ))
            }
            Clearing::Again {
                volume,
                round,
                above,
            } => wire::encode(&AgainWire(
                FEED_VERSION,
                AGAIN,
                *volume,
                *round,
                positions(above),
            )),
            Clearing::Told {
                volume,
                round,
                told,
            } => {
                let (state, rows, bits) = match told {
                    Told::Named { version, bits } => (0, positions(version), bits.to_vec()),
                    Told::Busy => (1, Vec::new(), Vec::new()),
                    Told::Behind => (2, Vec::new(), Vec::new()),
                    Told::Lost => (3, Vec::new(), Vec::new()),
                };
                let bits = ByteBuf::from(bits);
                wire::encode(&ToldWire(
                    FEED_VERSION,
                    TOLD,
                    *volume,
                    *round,
                    state,
                    rows,
                    bits,
                ))
            }
        }
    }

    /// The encoding as it is sent.
    pub fn to_bytes(&self) -> Bytes {
        self.encode().into()
    }

    /// Reads a message from anywhere.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Clearing, FeedError> {
        if let Some(version) = bytes.get(1) {
            check_version(*version)?;
        }
        match bytes.get(2) {
            Some(&ASK) => read_ask(read(bytes)?),
            Some(&AGAIN) => {
                let AgainWire(_, _, volume, round, above) = read(bytes)?;
                Ok(Clearing::Again {
                    volume,
                    round,
                    above: vector(above)?,
                })
            }
            Some(&TOLD) => read_told(read(bytes)?),
            _ => Err("a message of an unknown kind".into()),
        }
    }

    /// Of which volume it speaks.
    pub const fn volume(&self) -> VolumeId {
        match self {
            Clearing::Ask { volume, .. }
            | Clearing::Again { volume, .. }
            | Clearing::Told { volume, .. } => *volume,
        }
    }
}

fn read<T: serde::de::DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, FeedError> {
    Ok(wire::decode_canonical(bytes, MESSAGE_PAYLOAD_MAX_BYTES)?)
}

fn read_ask(wire: AskWire) -> Result<Clearing, FeedError> {
    let AskWire(_, _, volume, round, above, bytes) = wire;
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    if !rest.is_empty() || blocks.is_empty() || blocks.len() > CLEARING_BLOCKS_MAX {
        return Err("no blocks in a question about blocks, or too many".into());
    }
    let blocks: Vec<BlockId> = blocks.iter().map(|id| BlockId(*id)).collect();
    let is_ascending = blocks.is_sorted_by(|first, second| first < second);
    if !is_ascending {
        return Err("blocks out of order".into());
    }
    Ok(Clearing::Ask {
        volume,
        round,
        above: vector(above)?,
        blocks,
    })
}

fn read_told(wire: ToldWire) -> Result<Clearing, FeedError> {
    let ToldWire(_, _, volume, round, state, rows, bits) = wire;
    let told = match (state, rows.is_empty() && bits.is_empty()) {
        (0, _) if bits.len() <= bits_len(CLEARING_BLOCKS_MAX) => Told::Named {
            version: vector(rows)?,
            bits: bits.into_vec().into(),
        },
        (1, true) => Told::Busy,
        (2, true) => Told::Behind,
        (3, true) => Told::Lost,
        _ => return Err("an impossible answer about blocks".into()),
    };
    Ok(Clearing::Told {
        volume,
        round,
        told,
    })
}
