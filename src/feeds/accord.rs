//! What members of a volume ask of one another besides their feeds: how far a feed was merged, and votes on locks.
//!
//! A message is the canonical array `[version, kind, volume, ..]`, with kinds from 16 on. It travels as those of
//! [`gossip`](super::gossip) do, and is answered with one message of this kind. Whoever does not know it says that it is not supported.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::ByteBuf;

use super::error::FeedError;
use super::sealed::{FEED_VERSION, check_version};
use super::signed::Signed;
use super::voters::VoterList;
use crate::base::ids::byte_id;
use crate::base::limits::{ACCORD_LOCKS_MAX, ACCORD_WRITERS_MAX, MESSAGE_PAYLOAD_MAX_BYTES};
use crate::base::{VolumeId, wire};
use crate::namespace::id::PENDING;
use crate::namespace::{VersionVector, WriterId};

byte_id!(
    /// What is locked, as far as voters know: a hash.
    LockName,
    32
);

impl std::fmt::Debug for LockName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "LockName({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// Largest message.
pub const ACCORD_MAX_BYTES: usize = MESSAGE_PAYLOAD_MAX_BYTES;

/// How a lock is wanted or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum LockMode {
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
}

impl From<LockMode> for u8 {
    fn from(mode: LockMode) -> u8 {
        match mode {
            LockMode::Shared => 1,
            LockMode::Exclusive => 2,
        }
    }
}

impl TryFrom<u8> for LockMode {
    type Error = &'static str;
    fn try_from(mode: u8) -> Result<LockMode, &'static str> {
        match mode {
            1 => Ok(LockMode::Shared),
            2 => Ok(LockMode::Exclusive),
            _ => Err("a lock of an unknown mode"),
        }
    }
}

/// One lock that a vote is asked for: `[name, mode, waited]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub name: LockName,
    /// How.
    pub mode: LockMode,
    /// For how long it has been wanted, in milliseconds: of those who wait, the one who waited longest is next.
    pub waited_ms: u64,
}

/// A vote on one lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Vote {
    /// Somebody else holds it, or is next.
    Taken,
    /// It is the asker's for the time of a lease.
    Granted,
    /// The voter knows too little yet of what it promised before.
    NotYet,
    /// Somebody else who holds it with others waits to have it alone, as the asker does.
    Deadlock,
}

impl From<Vote> for u8 {
    fn from(vote: Vote) -> u8 {
        match vote {
            Vote::Taken => 0,
            Vote::Granted => 1,
            Vote::NotYet => 2,
            Vote::Deadlock => 3,
        }
    }
}

impl TryFrom<u8> for Vote {
    type Error = &'static str;
    fn try_from(vote: u8) -> Result<Vote, &'static str> {
        match vote {
            0 => Ok(Vote::Taken),
            1 => Ok(Vote::Granted),
            2 => Ok(Vote::NotYet),
            3 => Ok(Vote::Deadlock),
            _ => Err("an unknown vote"),
        }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accord {
    /// Asks how far a feed was merged: `[1, 16, volume, writer, on disk]`.
    Reach {
        /// Of which volume.
        volume: VolumeId,
        /// Whose feed.
        writer: WriterId,
        /// Whether what was merged is to be on the disk when this is answered.
        on_disk: bool,
    },
    /// So far: `[1, 17, volume, writer, last dot, on disk]`.
    Reached {
        /// Of which volume.
        volume: VolumeId,
        /// Whose feed.
        writer: WriterId,
        /// The last dot that was merged; 0 if none.
        last: u64,
        /// Whether it is on the disk.
        on_disk: bool,
    },
    /// Asks for votes, all under the number of one attempt: `[1, 18, volume, number of the list, attempt, [want, ..]]`.
    Ask {
        /// Of which volume.
        volume: VolumeId,
        /// By which list of voters.
        list: u64,
        /// Later attempts of one asker have greater numbers.
        attempt: u64,
        /// What is wanted.
        wants: Vec<Want>,
    },
    /// Votes in the order of the question, and what was released before: `[1, 19, volume, number of the list,
    /// [vote, ..], [[writer, dot], ..]]`.
    Votes {
        /// Of which volume.
        volume: VolumeId,
        /// By which list: if by another than in the question, all votes are void.
        list: u64,
        /// The votes.
        votes: Vec<Vote>,
        /// What a holder must have merged before it goes on.
        released: VersionVector,
    },
    /// Gives locks back that were granted in this attempt or earlier ones: `[1, 20, volume, attempt, [name, ..],
    /// [[writer, dot], ..]]`.
    Release {
        /// Of which volume.
        volume: VolumeId,
        /// The last attempt in which they were had.
        attempt: u64,
        /// Which.
        names: Vec<LockName>,
        /// What the next holder must have merged.
        released: VersionVector,
    },
    /// That is on the disk: `[1, 21, volume, number of the list]`.
    Released {
        /// Of which volume.
        volume: VolumeId,
        /// By which list.
        list: u64,
    },
    /// Gives a list of voters, or asks for it: `[1, 22, volume, signed list or null]`.
    List {
        /// Of which volume.
        volume: VolumeId,
        /// The list.
        list: Option<Signed<VoterList>>,
    },
    /// The last list that is known, and what was released: `[1, 23, volume, signed list or null, [[writer, dot], ..]]`.
    Listed {
        /// Of which volume.
        volume: VolumeId,
        /// The list; it is on the disk.
        list: Option<Signed<VoterList>>,
        /// What a holder must have merged.
        released: VersionVector,
    },
}

const REACH: u8 = 16;
const REACHED: u8 = 17;
const ASK: u8 = 18;
const VOTES: u8 = 19;
const RELEASE: u8 = 20;
const RELEASED: u8 = 21;
const LIST: u8 = 22;
const LISTED: u8 = 23;

type Positions = Vec<(WriterId, u64)>;

#[derive(Serialize, Deserialize)]
struct ReachWire(u8, u8, VolumeId, WriterId, bool);
#[derive(Serialize, Deserialize)]
struct ReachedWire(u8, u8, VolumeId, WriterId, u64, bool);
#[derive(Serialize, Deserialize)]
struct AskWire(u8, u8, VolumeId, u64, u64, Vec<(LockName, LockMode, u64)>);
#[derive(Serialize, Deserialize)]
struct VotesWire(u8, u8, VolumeId, u64, Vec<Vote>, Positions);
#[derive(Serialize, Deserialize)]
struct ReleaseWire(u8, u8, VolumeId, u64, Vec<LockName>, Positions);
#[derive(Serialize, Deserialize)]
struct ReleasedWire(u8, u8, VolumeId, u64);
#[derive(Serialize, Deserialize)]
struct ListWire(u8, u8, VolumeId, Option<ByteBuf>);
#[derive(Serialize, Deserialize)]
struct ListedWire(u8, u8, VolumeId, Option<ByteBuf>, Positions);

fn positions(version: &VersionVector) -> Positions {
    version.iter().map(|(writer, dot)| (*writer, dot)).collect()
}

fn vector(rows: Positions) -> Result<VersionVector, FeedError> {
    if rows.len() > ACCORD_WRITERS_MAX {
        return Err("too many writers in a message about locks".into());
    }
    Ok(VersionVector::from_sorted(rows)?)
}

fn bytes_of(list: Option<&Signed<VoterList>>) -> Option<ByteBuf> {
    list.map(|list| ByteBuf::from(list.encode()))
}

fn list_of(
    volume: VolumeId,
    bytes: Option<ByteBuf>,
) -> Result<Option<Signed<VoterList>>, FeedError> {
    let Some(bytes) = bytes else { return Ok(None) };
    let list = Signed::<VoterList>::decode(&bytes)?;
    match list.volume == volume {
        true => Ok(Some(list)),
        false => Err(FeedError::OtherVolume),
    }
}

impl Accord {
    /// Whether bytes may be a message of this kind rather than one of [`gossip`](super::gossip).
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes
            .get(2)
            .is_some_and(|kind| (REACH..=LISTED).contains(kind))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Accord::Reach {
                volume,
                writer,
                on_disk,
            } => wire::encode(&ReachWire(FEED_VERSION, REACH, *volume, *writer, *on_disk)),
            Accord::Reached {
                volume,
                writer,
                last,
                on_disk,
            } => wire::encode(&ReachedWire(
                FEED_VERSION,
                REACHED,
                *volume,
                *writer,
                *last,
                *on_disk,
            )),
            Accord::Ask {
                volume,
                list,
                attempt,
                wants,
            } => {
                let wants = wants.iter();
                let wants = wants.map(|want| (want.name, want.mode, want.waited_ms));
                let wants = wants.collect();
                wire::encode(&AskWire(FEED_VERSION, ASK, *volume, *list, *attempt, wants))
            }
            Accord::Votes {
                volume,
                list,
                votes,
                released,
            } => wire::encode(&VotesWire(
                FEED_VERSION,
                VOTES,
                *volume,
                *list,
                votes.clone(),
                positions(released),
            )),
            Accord::Release {
                volume,
                attempt,
                names,
                released,
            } => wire::encode(&ReleaseWire(
                FEED_VERSION,
                RELEASE,
                *volume,
                *attempt,
                names.clone(),
                positions(released),
            )),
            Accord::Released { volume, list } => {
                wire::encode(&ReleasedWire(FEED_VERSION, RELEASED, *volume, *list))
            }
            Accord::List { volume, list } => {
                let list = bytes_of(list.as_ref());
                wire::encode(&ListWire(FEED_VERSION, LIST, *volume, list))
            }
            Accord::Listed {
                volume,
                list,
                released,
            } => {
                let (list, released) = (bytes_of(list.as_ref()), positions(released));
                wire::encode(&ListedWire(FEED_VERSION, LISTED, *volume, list, released))
            }
        }
    }

    /// Reads a message from anywhere. A list in it has its signature checked, not that it is the owner's: that is
    /// for who knows the owner.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Accord, FeedError> {
        if let Some(version) = bytes.get(1) {
            check_version(*version)?;
        }
        // Kinds up to 23 are one byte.
        match bytes.get(2) {
            Some(&REACH) => {
                let ReachWire(_, _, volume, writer, on_disk) = read(bytes)?;
                Ok(Accord::Reach {
                    volume,
                    writer,
                    on_disk,
                })
            }
            Some(&REACHED) => {
                let ReachedWire(_, _, volume, writer, last, on_disk) = read(bytes)?;
                if last >= PENDING {
                    return Err("an impossible dot in a message".into());
                }
                Ok(Accord::Reached {
                    volume,
                    writer,
                    last,
                    on_disk,
                })
            }
            Some(&ASK) => read_ask(read(bytes)?),
            Some(&VOTES) => {
                let VotesWire(_, _, volume, list, votes, released) = read(bytes)?;
                if votes.len() > ACCORD_LOCKS_MAX {
                    return Err("too many votes in a message".into());
                }
                Ok(Accord::Votes {
                    volume,
                    list,
                    votes,
                    released: vector(released)?,
                })
            }
            Some(&RELEASE) => {
                let ReleaseWire(_, _, volume, attempt, names, released) = read(bytes)?;
                if names.len() > ACCORD_LOCKS_MAX {
                    return Err("too many locks in a message".into());
                }
                Ok(Accord::Release {
                    volume,
                    attempt,
                    names,
                    released: vector(released)?,
                })
            }
            Some(&RELEASED) => {
                let ReleasedWire(_, _, volume, list) = read(bytes)?;
                Ok(Accord::Released { volume, list })
            }
            Some(&LIST) => {
                let ListWire(_, _, volume, list) = read(bytes)?;
                let list = list_of(volume, list)?;
                Ok(Accord::List { volume, list })
            }
            Some(&LISTED) => {
                let ListedWire(_, _, volume, list, released) = read(bytes)?;
                Ok(Accord::Listed {
                    volume,
                    list: list_of(volume, list)?,
                    released: vector(released)?,
                })
            }
            _ => Err("a message of an unknown kind".into()),
        }
    }

    /// Of which volume it speaks.
    pub const fn volume(&self) -> VolumeId {
        match self {
            Accord::Reach { volume, .. }
            | Accord::Reached { volume, .. }
            | Accord::Ask { volume, .. }
            | Accord::Votes { volume, .. }
            | Accord::Release { volume, .. }
            | Accord::Released { volume, .. }
            | Accord::List { volume, .. }
            | Accord::Listed { volume, .. } => *volume,
        }
    }

    /// The encoding as it is sent.
    pub fn to_bytes(&self) -> Bytes {
        self.encode().into()
    }
}

fn read<T: serde::de::DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, FeedError> {
    Ok(wire::decode_canonical(bytes, ACCORD_MAX_BYTES)?)
}

fn read_ask(wire: AskWire) -> Result<Accord, FeedError> {
    let AskWire(_, _, volume, list, attempt, wants) = wire;
    if wants.len() > ACCORD_LOCKS_MAX {
        return Err("too many locks in a message".into());
    }
    let wants = wants.into_iter().map(|(name, mode, waited_ms)| Want {
        name,
        mode,
        waited_ms,
    });
    Ok(Accord::Ask {
        volume,
        list,
        attempt,
        wants: wants.collect(),
    })
}
