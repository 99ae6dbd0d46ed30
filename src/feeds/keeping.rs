//! What is said to and by peers that keep the ends of feeds of volumes whose keys they have not got.
//!
//! A message is the canonical array `[version, kind, volume, ..]`, with kinds from 5 to 10. It travels as those of
//! [`gossip`](super::gossip) do, and is answered with one message. Whoever does not know it says that it is not supported.
//! The bytes of deltas in it are checked by who takes them out.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::gossip::{GOSSIP_MAX_BYTES, all_bytes, read_deltas};
use super::sealed::{FEED_VERSION, LinkHash, check_version};
use super::signed::Signed;
use super::tail::{Covered, Tail};
use crate::base::limits::TAILS_PER_VOLUME_MAX;
use crate::base::{VolumeId, wire};
use crate::namespace::WriterId;
use crate::namespace::id::PENDING;

/// How far somebody says that it keeps a feed. Nothing proves it: it says what to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEnd {
    /// Whose.
    pub writer: WriterId,
    /// The dot behind which it begins.
    pub start: u64,
    /// The last dot.
    pub last: u64,
    /// The delta that ends there.
    pub hash: LinkHash,
}

/// What became of deltas that somebody was to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum TailVerdict {
    /// It has all of them, durably.
    Kept,
    /// Deltas before them are missing there.
    Gap,
    /// They contradict what is there: the writer forked. The first branch stays.
    Forked,
    /// It has no room for more of this feed, this volume, this peer, or at all.
    Full,
    /// One of them is none, or is longer than any operation makes.
    Refused,
}

impl From<TailVerdict> for u8 {
    fn from(verdict: TailVerdict) -> u8 {
        match verdict {
            TailVerdict::Kept => 0,
            TailVerdict::Gap => 1,
            TailVerdict::Forked => 2,
            TailVerdict::Full => 3,
            TailVerdict::Refused => 4,
        }
    }
}

impl TryFrom<u8> for TailVerdict {
    type Error = &'static str;
    fn try_from(verdict: u8) -> Result<TailVerdict, &'static str> {
        match verdict {
            0 => Ok(TailVerdict::Kept),
            1 => Ok(TailVerdict::Gap),
            2 => Ok(TailVerdict::Forked),
            3 => Ok(TailVerdict::Full),
            4 => Ok(TailVerdict::Refused),
            _ => Err("what became of deltas is unknown"),
        }
    }
}

/// How far somebody keeps a feed, shown by what its writer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it begins, and how far it goes.
    pub tail: Tail,
    /// Bytes of deltas that are kept.
    pub bytes: u64,
    /// What became of those that were to be added.
    pub verdict: TailVerdict,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Asks to keep deltas, or how far a feed is kept: `[1, 5, volume, writer, signed word or null, [sealed delta, ..]]`.
    Keep {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        writer: WriterId,
        /// The writer's last word about a checkpoint: what is before need not be kept.
        covered: Option<Signed<Covered>>,
        /// Sealed deltas in order, as they are encoded.
        deltas: Vec<Bytes>,
    },
    /// So far: `[1, 6, volume, writer, signed word or null, signed link or null, bytes, verdict]`.
    Kept(Box<Kept>),
    /// Asks which feeds of a volume are kept: `[1, 7, volume]`.
    Ask {
        /// Of which volume.
        volume: VolumeId,
    },
    /// These, ascending by writer: `[1, 8, volume, [[writer, start, last, hash], ..]]`.
    Tails {
        /// Of which volume.
        volume: VolumeId,
        /// How far each goes.
        tails: Vec<TailEnd>,
    },
    /// Asks for deltas of a feed: `[1, 9, volume, writer, after, limit]`.
    Want {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        writer: WriterId,
        /// Those after this dot.
        after: u64,
        /// As many as take up so many bytes, but one at least.
        limit_bytes: u32,
    },
    /// These, in order: `[1, 10, volume, writer, [sealed delta, ..]]`.
    Given {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        writer: WriterId,
        /// Sealed deltas, as they are encoded.
        deltas: Vec<Bytes>,
    },
}

const KEEP: u8 = 5;
const KEPT: u8 = 6;
const ASK: u8 = 7;
const TAILS: u8 = 8;
const WANT: u8 = 9;
const GIVEN: u8 = 10;

#[derive(Serialize, Deserialize)]
struct KeepWire(u8, u8, VolumeId, WriterId, Option<ByteBuf>, Vec<ByteBuf>);
#[derive(Serialize, Deserialize)]
struct KeptWire(
    u8,
    u8,
    VolumeId,
    WriterId,
    Option<ByteBuf>,
    Option<ByteBuf>,
    u64,
    TailVerdict,
);
#[derive(Serialize, Deserialize)]
struct AskWire(u8, u8, VolumeId);
#[derive(Serialize, Deserialize)]
struct TailsWire(u8, u8, VolumeId, Vec<(WriterId, u64, u64, LinkHash)>);
#[derive(Serialize, Deserialize)]
struct WantWire(u8, u8, VolumeId, WriterId, u64, u32);
#[derive(Serialize, Deserialize)]
struct GivenWire(u8, u8, VolumeId, WriterId, Vec<ByteBuf>);

fn read_covered(bytes: Option<ByteBuf>) -> Result<Option<Signed<Covered>>, FeedError> {
    bytes.map(|bytes| Signed::decode(&bytes)).transpose()
}

impl Keeping {
    /// Whether bytes are meant as a message of this kind.
    pub fn is_one(bytes: &[u8]) -> bool {
        // An array of up to 23 items; version and kind are small numbers.
        matches!(bytes, [_, FEED_VERSION, KEEP..=GIVEN, ..])
    }

    /// Whether bytes are meant as deltas to keep.
    pub fn brings(bytes: &[u8]) -> bool {
        matches!(bytes, [_, FEED_VERSION, KEEP, ..])
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Keeping::Keep {
                volume,
                writer,
                covered,
                deltas,
            } => {
                let covered = covered.as_ref().map(|word| ByteBuf::from(word.encode()));
                let deltas = all_bytes(deltas);
                wire::encode(&KeepWire(
                    FEED_VERSION,
                    KEEP,
                    *volume,
                    *writer,
                    covered,
                    deltas,
                ))
            }
            Keeping::Kept(kept) => {
                let tail = &kept.tail;
                wire::encode(&KeptWire(
                    FEED_VERSION,
                    KEPT,
                    tail.volume(),
                    tail.writer(),
                    tail.covered().map(|word| ByteBuf::from(word.encode())),
                    tail.head().map(|link| ByteBuf::from(link.encode())),
                    kept.bytes,
                    kept.verdict,
                ))
            }
            Keeping::Ask { volume } => wire::encode(&AskWire(FEED_VERSION, ASK, *volume)),
            Keeping::Tails { volume, tails } => {
                let tails = tails.iter();
                let tails = tails.map(|end| (end.writer, end.start, end.last, end.hash));
                wire::encode(&TailsWire(FEED_VERSION, TAILS, *volume, tails.collect()))
            }
            Keeping::Want {
                volume,
                writer,
                after,
                limit_bytes,
            } => wire::encode(&WantWire(
                FEED_VERSION,
                WANT,
                *volume,
                *writer,
                *after,
                *limit_bytes,
            )),
            Keeping::Given {
                volume,
                writer,
                deltas,
            } => wire::encode(&GivenWire(
                FEED_VERSION,
                GIVEN,
                *volume,
                *writer,
                all_bytes(deltas),
            )),
        }
    }

    /// Reads a message from anywhere. What is signed in it is checked, but for deltas: not for the reactor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Keeping, FeedError> {
        if let Some(version) = bytes.get(1) {
            check_version(*version)?;
        }
        match bytes.get(2) {
            Some(&KEEP) => {
                let KeepWire(_, _, volume, writer, covered, deltas) =
                    wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
                let covered = read_covered(covered)?;
                if let Some(word) = &covered
                    && (word.volume, word.writer) != (volume, writer)
                {
                    return Err(FeedError::OtherWriter);
                }
                Ok(Keeping::Keep {
                    volume,
                    writer,
                    covered,
                    deltas: read_deltas(deltas)?,
                })
            }
            Some(&KEPT) => {
                let KeptWire(_, _, volume, writer, covered, head, bytes, verdict) =
                    wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
                let head = head.map(|link| Signed::decode(&link)).transpose()?;
                let tail = Tail::restore(volume, writer, read_covered(covered)?, head)?;
                Ok(Keeping::Kept(Box::new(Kept {
                    tail,
                    bytes,
                    verdict,
                })))
            }
            Some(&ASK) => {
                let AskWire(_, _, volume) = wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
                Ok(Keeping::Ask { volume })
            }
            Some(&TAILS) => read_tails(wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?),
            Some(&WANT) => {
                let WantWire(_, _, volume, writer, after, limit_bytes) =
                    wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
                if after >= PENDING {
                    return Err("a wish after an impossible dot".into());
                }
                Ok(Keeping::Want {
                    volume,
                    writer,
                    after,
                    limit_bytes,
                })
            }
            Some(&GIVEN) => {
                let GivenWire(_, _, volume, writer, deltas) =
                    wire::decode_canonical(bytes, GOSSIP_MAX_BYTES)?;
                Ok(Keeping::Given {
                    volume,
                    writer,
                    deltas: read_deltas(deltas)?,
                })
            }
            _ => Err("a message of an unknown kind".into()),
        }
    }

    /// Of which volume it speaks.
    pub fn volume(&self) -> VolumeId {
        match self {
            Keeping::Keep { volume, .. }
            | Keeping::Ask { volume }
            | Keeping::Tails { volume, .. }
            | Keeping::Want { volume, .. }
            | Keeping::Given { volume, .. } => *volume,
            Keeping::Kept(kept) => kept.tail.volume(),
        }
    }
}

fn read_tails(wire: TailsWire) -> Result<Keeping, FeedError> {
    let TailsWire(_, _, volume, tails) = wire;
    if tails.len() > TAILS_PER_VOLUME_MAX {
        return Err("too many feeds in a message".into());
    }
    let read = |(writer, start, last, hash)| TailEnd {
        writer,
        start,
        last,
        hash,
    };
    let tails: Vec<TailEnd> = tails.into_iter().map(read).collect();
    let is_sound = |end: &TailEnd| end.start <= end.last && (1..PENDING).contains(&end.last);
    let ascend = tails.windows(2).all(|pair| match pair {
        [one, two] => one.writer < two.writer,
        _ => true,
    });
    if !ascend || !tails.iter().all(is_sound) {
        return Err("feeds out of order, or with impossible dots".into());
    }
    Ok(Keeping::Tails { volume, tails })
}
