//! What peers say to each other about what they hold: the messages inside of `net`'s `Upkeep`, to the byte.
//! `docs/format/upkeep.md` has the picture.
//!
//! Every message is `length of the control part (4, big-endian) || control part (DAG-CBOR) || payload`. Only
//! [`Ask::Restore`] has a payload.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::base::limits::{BATCH_BLOCKS_MAX, MESSAGE_PAYLOAD_MAX_BYTES, STRIPE_HEADER_MAX_BYTES};
use crate::base::wire::{self, WireError};
use crate::base::{BlockId, ClaimId, EcProfile, Group, IndexSet, PeerId};
use crate::crypto::{Signature, SignedRelease};
use crate::store::{Digest, Holding, KEEPERS_MAX, KEEPERS_PAGE, Keeper};

/// Most groups asked about in one message.
pub(super) const GROUPS_MAX: usize = 4096;
/// Most blocks whose claims are asked about in one message.
pub(super) const KEPT_MAX: usize = 128;
/// Most claims whose ends are asked for, or told, in one message.
pub(super) const ENDED_MAX: usize = 256;
/// Bytes of a set of all groups.
pub(super) const GROUP_SET_BYTES: usize = 8192;
/// Largest control part.
const CONTROL_MAX_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 4;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// The control part is not one.
    #[error("a message about upkeep: {0}")]
    Malformed(#[from] WireError),
    /// It contradicts itself, or is larger than it may be.
    #[error("a message about upkeep: {0}")]
    Invalid(&'static str),
}

/// A set of placement groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSet(Vec<u8>);

impl Default for GroupSet {
    fn default() -> Self {
        GroupSet(vec![0; GROUP_SET_BYTES])
    }
}

impl GroupSet {
    pub(crate) fn insert(&mut self, group: Group) {
        if let Some(byte) = self.0.get_mut(usize::from(group.0 / 8)) {
            *byte |= 1 << (group.0 % 8);
        }
    }

    pub(crate) fn contains(&self, group: Group) -> bool {
        let byte = self.0.get(usize::from(group.0 / 8));
        byte.is_some_and(|byte| byte >> (group.0 % 8) & 1 == 1)
    }

    pub(crate) fn add(&mut self, other: &GroupSet) {
        for (byte, more) in self.0.iter_mut().zip(&other.0) {
            *byte |= more;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Group> {
        (0..=u16::MAX)
            .map(Group)
            .filter(|group| self.contains(*group))
    }
}

/// How well the blocks are kept that one peer looks after, in one row of numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Blocks.
    pub blocks: u64,
    /// Of which cannot be read now although something keeps them.
    pub unreadable: u64,
    /// Blocks by the number of lost peers that they survive: 0, 1, 2, and so on; the last: more.
    pub survives: [u64; 8],
    /// Shards to be made anew.
    pub missing: u64,
    /// Bytes of those.
    pub missing_bytes: u64,
    /// Shards at peers that are away and may come back.
    pub waiting: u64,
    /// Groups that are still to be looked at.
    pub unseen_groups: u64,
    /// Milliseconds until all is repaired, as far as can be told; 0: nothing to do.
    pub eta_ms: u64,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What do you hold, all in all? If it is not what this says: in which groups?
    Root { known: Digest },
    /// What is the digest of each of these groups?
    Groups { groups: Vec<Group> },
    /// Which blocks of this group do you know, behind this one?
    List {
        group: Group,
        after: Option<BlockId>,
    },
    /// Who keeps these blocks?
    Keepers { blocks: Vec<BlockId> },
    /// Keep this shard, which was made anew, for whoever kept its siblings.
    Restore {
        block: BlockId,
        index: u8,
        keepers: Vec<Keeper>,
        header: Bytes,
        data: Bytes,
    },
    /// Somebody else has this shard too: see for yourself whether yours is still needed.
    Surplus {
        block: BlockId,
        index: u8,
        other: PeerId,
    },
    /// Who keeps this block? From this number on, which is the other's own (0: the first).
    Claims { block: BlockId, from: u64 },
    /// Keep this block for these as well: a shard of it follows.
    Keep {
        block: BlockId,
        keepers: Vec<Keeper>,
    },
    /// What do you know of the ends of these claims?
    Ended { claims: Vec<ClaimId> },
    /// These claims end: their writers said so.
    LetGo { releases: Vec<SignedRelease> },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Say {
    /// To [`Ask::Root`]: the digest of everything; the groups, unless nothing changed; how well is what this peer looks after.
    Root {
        digest: Digest,
        groups: Option<GroupSet>,
        tally: Tally,
    },
    /// To [`Ask::Groups`], in their order.
    Groups { digests: Vec<Digest> },
    /// To [`Ask::List`]: a page, and whether there is more.
    List { blocks: Vec<Holding>, is_all: bool },
    /// To [`Ask::Keepers`], in their order.
    Keepers { keepers: Vec<Vec<Keeper>> },
    /// To [`Ask::Restore`], [`Ask::Surplus`], [`Ask::Keep`] and [`Ask::LetGo`].
    Done,
    /// To [`Ask::Claims`]: a page, and the number from which to go on, unless that was all.
    Claims {
        keepers: Vec<Keeper>,
        next: Option<u64>,
    },
    /// To [`Ask::Ended`]: of those of which something is known.
    Ended { releases: Vec<SignedRelease> },
}

type KeeperRow = (ClaimId, bool, u64);
type ReleaseRow = (ClaimId, u64, Signature);
type HoldingRow = (BlockId, IndexSet, Option<EcProfile>, bool, u32);

#[derive(Serialize, Deserialize)]
enum AskRow {
    Root(#[serde(with = "serde_bytes")] [u8; 16]),
    Groups(Vec<u16>),
    List(u16, Option<BlockId>),
    Keepers(Vec<BlockId>),
    Restore(BlockId, u8, Vec<KeeperRow>, Bytes),
    Surplus(BlockId, u8, PeerId),
    Claims(BlockId, u64),
    Keep(BlockId, Vec<KeeperRow>),
    Ended(Vec<ClaimId>),
    LetGo(Vec<ReleaseRow>),
}

#[derive(Serialize, Deserialize)]
enum SayRow {
    Root(
        #[serde(with = "serde_bytes")] [u8; 16],
        Option<serde_bytes::ByteBuf>,
        Tally,
    ),
    Groups(serde_bytes::ByteBuf),
    List(Vec<HoldingRow>, bool),
    Keepers(Vec<Vec<KeeperRow>>),
    Done,
    Claims(Vec<KeeperRow>, Option<u64>),
    Ended(Vec<ReleaseRow>),
}

const fn keeper_row(keeper: &Keeper) -> KeeperRow {
    (keeper.claim, keeper.is_closed, keeper.expires_ms)
}

fn keepers_of(rows: Vec<KeeperRow>, most: usize) -> Result<Vec<Keeper>, MessageError> {
    check(rows.len() <= most, "too many claims")?;
    let keeper = |(claim, is_closed, expires_ms)| Keeper {
        claim,
        is_closed,
        expires_ms,
    };
    Ok(rows.into_iter().map(keeper).collect())
}

fn release_rows(releases: &[SignedRelease]) -> Vec<ReleaseRow> {
    let row = |release: &SignedRelease| (release.claim, release.from_ms, release.signature);
    releases.iter().map(row).collect()
}

fn releases_of(rows: Vec<ReleaseRow>) -> Result<Vec<SignedRelease>, MessageError> {
    check(rows.len() <= ENDED_MAX, "too many ends of claims")?;
    let release = |(claim, from_ms, signature)| SignedRelease {
        claim,
        from_ms,
        signature,
    };
    Ok(rows.into_iter().map(release).collect())
}

const fn check(is_fine: bool, why: &'static str) -> Result<(), MessageError> {
    match is_fine {
        true => Ok(()),
        false => Err(MessageError::Invalid(why)),
    }
}

fn framed(control: &[u8], payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + control.len() + payload.len());
    out.put_u32(control.len() as u32);
    out.put_slice(control);
    out.put_slice(payload);
    out.freeze()
}

/// Control part and payload.
fn split(body: &Bytes) -> Result<(Bytes, Bytes), MessageError> {
    let head = body.first_chunk::<HEAD_BYTES>();
    let len = head.map_or(usize::MAX, |head| u32::from_be_bytes(*head) as usize);
    check(len <= CONTROL_MAX_BYTES, "its length is not right")?;
    check(HEAD_BYTES + len <= body.len(), "it is cut off")?;
    Ok((
        body.slice(HEAD_BYTES..HEAD_BYTES + len),
        body.slice(HEAD_BYTES + len..),
    ))
}

impl Ask {
    pub(crate) fn encode(&self) -> Bytes {
        let none: &[u8] = &[];
        let (row, payload) = match self {
            Ask::Root { known } => (AskRow::Root(known.0.to_be_bytes()), none),
            Ask::Groups { groups } => {
                let groups = groups.iter().map(|group| group.0).collect();
                (AskRow::Groups(groups), none)
            }
            Ask::List { group, after } => (AskRow::List(group.0, *after), none),
            Ask::Keepers { blocks } => (AskRow::Keepers(blocks.clone()), none),
            Ask::Restore {
                block,
                index,
                keepers,
                header,
                data,
            } => {
                let keepers = keepers.iter().map(keeper_row).collect();
                let row = AskRow::Restore(*block, *index, keepers, header.clone());
                (row, data.as_ref())
            }
            Ask::Surplus {
                block,
                index,
                other,
            } => (AskRow::Surplus(*block, *index, *other), none),
            Ask::Claims { block, from } => (AskRow::Claims(*block, *from), none),
            Ask::Keep { block, keepers } => {
                let keepers = keepers.iter().map(keeper_row).collect();
                (AskRow::Keep(*block, keepers), none)
            }
            Ask::Ended { claims } => (AskRow::Ended(claims.clone()), none),
            Ask::LetGo { releases } => (AskRow::LetGo(release_rows(releases)), none),
        };
        framed(&wire::encode(&row), payload)
    }

    /// # Errors
    /// If it is none, or of a later version.
    pub(crate) fn decode(body: &Bytes) -> Result<Ask, MessageError> {
        let (control, payload) = split(body)?;
        let row: AskRow = wire::decode(&control, CONTROL_MAX_BYTES)?;
        let has_payload = matches!(row, AskRow::Restore(..));
        check(has_payload || payload.is_empty(), "a payload too many")?;
        Ok(match row {
            AskRow::Root(known) => Ask::Root {
                known: Digest(u128::from_be_bytes(known)),
            },
            AskRow::Groups(groups) => {
                check(groups.len() <= GROUPS_MAX, "too many groups")?;
                let groups = groups.into_iter().map(Group).collect();
                Ask::Groups { groups }
            }
            AskRow::List(group, after) => Ask::List {
                group: Group(group),
                after,
            },
            AskRow::Keepers(blocks) => {
                check(blocks.len() <= KEPT_MAX, "too many blocks")?;
                Ask::Keepers { blocks }
            }
            AskRow::Restore(block, index, keepers, header) => {
                check(index < 64, "shard index out of range")?;
                check(
                    header.len() <= STRIPE_HEADER_MAX_BYTES,
                    "the header's length",
                )?;
                Ask::Restore {
                    block,
                    index,
                    keepers: keepers_of(keepers, KEEPERS_MAX)?,
                    header,
                    data: payload,
                }
            }
            AskRow::Surplus(block, index, other) => {
                check(index < 64, "shard index out of range")?;
                Ask::Surplus {
                    block,
                    index,
                    other,
                }
            }
            AskRow::Claims(block, from) => Ask::Claims { block, from },
            AskRow::Keep(block, keepers) => Ask::Keep {
                block,
                keepers: keepers_of(keepers, KEEPERS_PAGE)?,
            },
            AskRow::Ended(claims) => {
                check(claims.len() <= ENDED_MAX, "too many claims")?;
                Ask::Ended { claims }
            }
            AskRow::LetGo(rows) => Ask::LetGo {
                releases: releases_of(rows)?,
            },
        })
    }
}

impl Say {
    pub(crate) fn encode(&self) -> Bytes {
        let row = match self {
            Say::Root {
                digest,
                groups,
                tally,
            } => {
                let groups = groups.as_ref();
                let groups = groups.map(|groups| serde_bytes::ByteBuf::from(groups.0.clone()));
                SayRow::Root(digest.0.to_be_bytes(), groups, *tally)
            }
            Say::Groups { digests } => {
                let bytes = digests.iter().flat_map(|digest| digest.0.to_be_bytes());
                SayRow::Groups(serde_bytes::ByteBuf::from(bytes.collect::<Vec<u8>>()))
            }
            Say::List { blocks, is_all } => {
                let rows = blocks.iter().map(|held| {
                    let Holding {
                        block,
                        held,
                        profile,
                        is_kept,
                        shard_bytes,
                    } = *held;
                    (block, held, profile, is_kept, shard_bytes)
                });
                SayRow::List(rows.collect(), *is_all)
            }
            Say::Keepers { keepers } => {
                let rows = keepers.iter().map(|of| of.iter().map(keeper_row).collect());
                SayRow::Keepers(rows.collect())
            }
            Say::Done => SayRow::Done,
            Say::Claims { keepers, next } => {
                SayRow::Claims(keepers.iter().map(keeper_row).collect(), *next)
            }
            Say::Ended { releases } => SayRow::Ended(release_rows(releases)),
        };
        framed(&wire::encode(&row), &[])
    }

    /// # Errors
    /// If it is none, or of a later version.
    pub(crate) fn decode(body: &Bytes) -> Result<Say, MessageError> {
        let (control, payload) = split(body)?;
        check(payload.is_empty(), "a payload too many")?;
        Ok(match wire::decode(&control, CONTROL_MAX_BYTES)? {
            SayRow::Root(digest, groups, tally) => {
                let groups = groups.map(serde_bytes::ByteBuf::into_vec);
                let len = groups.as_ref().map_or(GROUP_SET_BYTES, Vec::len);
                check(len == GROUP_SET_BYTES, "a set of groups of another length")?;
                Say::Root {
                    digest: Digest(u128::from_be_bytes(digest)),
                    groups: groups.map(GroupSet),
                    tally,
                }
            }
            SayRow::Groups(bytes) => {
                check(bytes.len() % 16 == 0, "a digest that is cut off")?;
                check(bytes.len() <= 16 * GROUPS_MAX, "too many digests")?;
                let (digests, _) = bytes.as_chunks::<16>();
                let digests = digests
                    .iter()
                    .map(|half| Digest(u128::from_be_bytes(*half)));
                Say::Groups {
                    digests: digests.collect(),
                }
            }
            SayRow::List(rows, is_all) => {
                check(rows.len() <= BATCH_BLOCKS_MAX, "too many blocks")?;
                let holding = |(block, held, profile, is_kept, shard_bytes)| Holding {
                    block,
                    held,
                    profile,
                    is_kept,
                    shard_bytes,
                };
                Say::List {
                    blocks: rows.into_iter().map(holding).collect(),
                    is_all,
                }
            }
            SayRow::Keepers(rows) => {
                check(rows.len() <= KEPT_MAX, "too many blocks")?;
                let keepers = rows.into_iter().map(|rows| keepers_of(rows, KEEPERS_MAX));
                Say::Keepers {
                    keepers: keepers.collect::<Result<_, _>>()?,
                }
            }
            SayRow::Done => Say::Done,
            SayRow::Claims(rows, next) => Say::Claims {
                keepers: keepers_of(rows, KEEPERS_PAGE)?,
                next,
            },
            SayRow::Ended(rows) => Say::Ended {
                releases: releases_of(rows)?,
            },
        })
    }
}

const _: () = assert!(CONTROL_MAX_BYTES < MESSAGE_PAYLOAD_MAX_BYTES);

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
