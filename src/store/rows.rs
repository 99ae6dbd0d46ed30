//! What the index knows: rows, their encoding, and a set of changed rows.
//!
//! Every stored row begins with a checksum of table, key and value, because the database under it
//! verifies nothing when it reads.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::record::{KvKey, Position};
use crate::base::{BlockId, ClaimId, EcProfile, IndexSet, OwnerId, PeerId};

/// Most claims that the row of a block names. Those beyond are in a table of their own, so that a block with many does not
/// make every change of its row dear.
pub(super) const KEEPERS_LISTED: usize = 16;

/// Where one shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardRow {
    pub(super) index: u8,
    /// A read found that it does not verify.
    pub(super) damaged: bool,
    pub(super) at: Position,
    pub(super) data_at: u32,
    pub(super) data_len: u32,
    pub(super) record_len: u32,
}

/// One block: its shards here, and which claims keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BlockRow {
    pub(super) claims: u32,
    /// How its stripe is coded; none while no shard of it was ever here.
    pub(super) profile: Option<EcProfile>,
    /// Short numbers of claims that keep it, at most [`KEEPERS_LISTED`] of them.
    pub(super) keepers: Vec<u64>,
    pub(super) shards: Vec<ShardRow>,
}

impl BlockRow {
    /// Indices of the shards that are not known to be damaged.
    pub(super) fn held(&self) -> IndexSet {
        let sound = self.shards.iter().filter(|shard| !shard.damaged);
        sound.map(|shard| shard.index).collect()
    }

    /// Indices of all shards, damaged ones too.
    pub(super) fn indices(&self) -> IndexSet {
        self.shards.iter().map(|shard| shard.index).collect()
    }

    /// One more claim keeps it. Answers whether the row has room to name it.
    pub(super) fn add_keeper(&mut self, short: u64) -> bool {
        self.claims += 1;
        let has_room = self.keepers.len() < KEEPERS_LISTED;
        if has_room {
            self.keepers.push(short);
        }
        has_room
    }

    /// A claim keeps it no longer. Answers whether the row named it.
    pub(super) fn drop_keeper(&mut self, short: u64) -> bool {
        self.claims = self.claims.saturating_sub(1);
        let before = self.keepers.len();
        self.keepers.retain(|keeper| *keeper != short);
        self.keepers.len() < before
    }

    /// Whether no claim keeps it but those that the row names.
    pub(super) const fn names_all(&self) -> bool {
        self.keepers.len() >= self.claims as usize
    }

    pub(super) fn shard(&self, index: u8) -> Option<&ShardRow> {
        self.shards.iter().find(|shard| shard.index == index)
    }

    /// Takes a shard out.
    pub(super) fn take(&mut self, index: u8) -> Option<ShardRow> {
        let at = self.shards.iter().position(|shard| shard.index == index)?;
        Some(self.shards.remove(at))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims == 0 && self.shards.is_empty()
    }
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimState {
    /// Lives until it expires.
    Open = 0,
    /// Lives for good.
    Closed = 1,
    /// Given up; the blocks it named are being let go.
    Releasing = 2,
    /// Given up; remembered while records that name it are in the log.
    Released = 3,
}

/// One claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClaimRow {
    /// Stands for the claim in the table of members. Never used twice.
    pub(super) short: u64,
    pub(super) state: ClaimState,
    pub(super) expires_ms: u64,
    /// First and last segment with records that name it.
    pub(super) oldest: u32,
    pub(super) newest: u32,
}

impl ClaimRow {
    /// Whether it keeps nothing any more.
    pub(super) const fn is_gone(&self, now_ms: u64) -> bool {
        match self.state {
            ClaimState::Open => self.expires_ms <= now_ms,
            ClaimState::Closed => false,
            ClaimState::Releasing | ClaimState::Released => true,
        }
    }
}

/// One small record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KvRow {
    /// The record that says so.
    pub(super) at: Position,
    /// First segment that may have an older record of this key.
    pub(super) oldest: u32,
    /// `None`: deleted, which must be remembered while older records are in the log.
    pub(super) value: Option<Bytes>,
}

/// One segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SegmentRow {
    /// Bytes up to the end of its last record.
    pub(super) len: u32,
    /// Bytes of the records of shards that are held.
    pub(super) live: u32,
    /// Bytes of other records that are not known to be superseded.
    pub(super) small: u32,
    /// Bytes punched out.
    pub(super) punched: u32,
    /// Claims released in the whole store when `small` was last counted.
    pub(super) counted_at: u64,
}

/// The state that is not in any table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Of the next record.
    pub(super) next_seq: u64,
    /// Of the next claim.
    pub(super) next_short: u64,
    pub(super) shards: u64,
    pub(super) shard_bytes: u64,
    /// Rows of blocks and of members, for the index's size.
    pub(super) blocks: u64,
    pub(super) members: u64,
    /// Claims released so far.
    pub(super) releases: u64,
    /// The segment that compaction is moving away, once a shard of it was moved.
    pub(super) victim: Option<u32>,
    /// Digest of all shards, see `holdings`.
    pub(super) digest: u128,
}

/// To which record the index is up to date, and of which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) store_id: [u8; 16],
    pub(super) at: Position,
    pub(super) totals: Totals,
}

/// Changed rows. `None` is a removal.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) blocks: BTreeMap<BlockId, Option<BlockRow>>,
    pub(super) claims: BTreeMap<ClaimId, Option<ClaimRow>>,
    pub(super) members: BTreeMap<(u64, BlockId), bool>,
    /// Claims on blocks whose rows had no room to name them.
    pub(super) further: BTreeMap<(BlockId, u64), bool>,
    pub(super) kv: BTreeMap<KvKey, Option<KvRow>>,
    pub(super) segments: BTreeMap<u32, Option<SegmentRow>>,
    /// Digests of the shards of each group; 0 where there are none.
    pub(super) groups: BTreeMap<u16, u128>,
    /// Which claim each short number stands for.
    pub(super) shorts: BTreeMap<u64, Option<ClaimId>>,
}

impl Rows {
    /// Adds later changes on top.
    pub(super) fn merge(&mut self, later: Rows) {
        self.blocks.extend(later.blocks);
        self.claims.extend(later.claims);
        self.members.extend(later.members);
        self.further.extend(later.further);
        self.kv.extend(later.kv);
        self.segments.extend(later.segments);
        self.groups.extend(later.groups);
        self.shorts.extend(later.shorts);
    }

    /// Number of changed rows.
    pub(super) fn len(&self) -> usize {
        self.blocks.len() + self.claims.len() + self.members.len() + self.kv.len()
    }
}

/// A row's key and value as bytes.
pub(super) trait Stored: Sized {
    fn encode(&self) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Option<Self>;
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(word))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(word))
}

fn position_at(bytes: &[u8], at: usize) -> Option<Position> {
    Some(Position {
        segment: u32_at(bytes, at)?,
        offset: u32_at(bytes, at + 4)?,
    })
}

/// A digest as it is stored.
pub(super) fn digest_at(bytes: &[u8], at: usize) -> Option<u128> {
    let digest = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(u128::from_le_bytes(digest))
}

const SHARD_ROW_LEN: usize = 24;

impl Stored for BlockRow {
    fn encode(&self) -> Vec<u8> {
        let keepers = self.keepers.get(..KEEPERS_LISTED).unwrap_or(&self.keepers);
        let len = 8 + 8 * keepers.len() + SHARD_ROW_LEN * self.shards.len();
        let mut out = Vec::with_capacity(len);
        put(&mut out, &[self.claims]);
        let (data, parity) = self.profile.map_or((0, 0), <(u8, u8)>::from);
        out.extend_from_slice(&[data, parity, keepers.len() as u8, 0]);
        for keeper in keepers {
            out.extend_from_slice(&keeper.to_le_bytes());
        }
        for shard in &self.shards {
            let flags = u32::from(shard.index) | u32::from(shard.damaged) << 8;
            put(
                &mut out,
                &[
                    flags,
                    shard.at.segment,
                    shard.at.offset,
                    shard.data_at,
                    shard.data_len,
                    shard.record_len,
                ],
            );
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let claims = u32_at(bytes, 0)?;
        let [data, parity, listed, 0] = <[u8; 4]>::try_from(bytes.get(4..8)?).ok()? else {
            return None;
        };
        let profile = match (data, parity) {
            (0, 0) => None,
            (data, parity) => Some(EcProfile::new(data, parity).ok()?),
        };
        let rows = bytes.get(8 + 8 * usize::from(listed)..)?;
        let keepers = (0..usize::from(listed)).map(|at| u64_at(bytes, 8 + 8 * at));
        let keepers = keepers.collect::<Option<Vec<u64>>>()?;
        if rows.len() % SHARD_ROW_LEN != 0 {
            return None;
        }
        let shard = |row: &[u8]| {
            let flags = u32_at(row, 0)?;
            Some(ShardRow {
                index: (flags & 0xff) as u8,
                damaged: flags & 0x100 != 0,
                at: position_at(row, 4)?,
                data_at: u32_at(row, 12)?,
                data_len: u32_at(row, 16)?,
                record_len: u32_at(row, 20)?,
            })
        };
        let shards = rows
            .chunks(SHARD_ROW_LEN)
            .map(shard)
            .collect::<Option<_>>()?;
        Some(BlockRow {
            claims,
            profile,
            keepers,
            shards,
        })
    }
}

impl Stored for ClaimRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28);
        out.extend_from_slice(&self.short.to_le_bytes());
        out.extend_from_slice(&self.expires_ms.to_le_bytes());
        put(&mut out, &[self.state as u32, self.oldest, self.newest]);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let state = match u32_at(bytes, 16)? {
            0 => ClaimState::Open,
            1 => ClaimState::Closed,
            2 => ClaimState::Releasing,
            3 => ClaimState::Released,
            _ => return None,
        };
        Some(ClaimRow {
            short: u64_at(bytes, 0)?,
            expires_ms: u64_at(bytes, 8)?,
            state,
            oldest: u32_at(bytes, 20)?,
            newest: u32_at(bytes, 24)?,
        })
    }
}

impl Stored for KvRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(
            &mut out,
            &[
                self.at.segment,
                self.at.offset,
                self.oldest,
                u32::from(self.value.is_some()),
            ],
        );
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let present = u32_at(bytes, 12)? == 1;
        let value = Bytes::copy_from_slice(bytes.get(16..)?);
        Some(KvRow {
            at: position_at(bytes, 0)?,
            oldest: u32_at(bytes, 8)?,
            value: present.then_some(value),
        })
    }
}

impl Stored for SegmentRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        put(&mut out, &[self.len, self.live, self.small, self.punched]);
        out.extend_from_slice(&self.counted_at.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(SegmentRow {
            len: u32_at(bytes, 0)?,
            live: u32_at(bytes, 4)?,
            small: u32_at(bytes, 8)?,
            punched: u32_at(bytes, 12)?,
            counted_at: u64_at(bytes, 16)?,
        })
    }
}

impl Stored for Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.store_id.to_vec();
        put(&mut out, &[self.at.segment, self.at.offset]);
        let totals = &self.totals;
        for number in [
            totals.next_seq,
            totals.next_short,
            totals.shards,
            totals.shard_bytes,
            totals.blocks,
            totals.members,
            totals.releases,
            totals.victim.map_or(0, |victim| u64::from(victim) + 1),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&totals.digest.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |index: usize| u64_at(bytes, 24 + 8 * index);
        let victim = number(7)?.checked_sub(1);
        Some(Checkpoint {
            store_id: bytes.get(..16)?.try_into().ok()?,
            at: position_at(bytes, 16)?,
            totals: Totals {
                next_seq: number(0)?,
                next_short: number(1)?,
                shards: number(2)?,
                shard_bytes: number(3)?,
                blocks: number(4)?,
                members: number(5)?,
                releases: number(6)?,
                victim: victim.map(u32::try_from).transpose().ok()?,
                digest: digest_at(bytes, 88)?,
            },
        })
    }
}

/// Bytes of a member's key: claim number big-endian (so that one claim's members are neighbours),
/// block.
pub(super) fn member_key(short: u64, block: &BlockId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&short.to_be_bytes());
    key[8..].copy_from_slice(&block.0);
    key
}

pub(super) fn member_block(key: &[u8]) -> Option<BlockId> {
    key.get(8..)?.try_into().ok().map(BlockId)
}

/// Bytes of the key of a claim that a block's row had no room for: block, claim number big-endian.
pub(super) fn further_key(block: &BlockId, short: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&block.0);
    key[32..].copy_from_slice(&short.to_be_bytes());
    key
}

pub(super) fn further_short(key: &[u8]) -> Option<u64> {
    let short = key.get(32..)?.try_into().ok()?;
    Some(u64::from_be_bytes(short))
}

pub(super) fn claim_key(claim: &ClaimId) -> [u8; 56] {
    let mut key = [0; 56];
    key[..16].copy_from_slice(&claim.owner.0);
    key[16..48].copy_from_slice(&claim.writer.0);
    key[48..].copy_from_slice(&claim.number.to_be_bytes());
    key
}

pub(super) fn claim_of_key(key: &[u8]) -> Option<ClaimId> {
    Some(ClaimId {
        owner: OwnerId(key.get(..16)?.try_into().ok()?),
        writer: PeerId(key.get(16..48)?.try_into().ok()?),
        number: u64::from_be_bytes(key.get(48..)?.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip() {
        let at = Position {
            segment: 3,
            offset: 4096,
        };
        let shard = ShardRow {
            index: 63,
            damaged: true,
            at,
            data_at: 96,
            data_len: 1000,
            record_len: 1096,
        };
        let block = BlockRow {
            claims: 2,
            profile: Some(EcProfile::DEFAULT),
            keepers: vec![7, 1 << 40],
            shards: vec![
                shard,
                ShardRow {
                    index: 1,
                    damaged: false,
                    ..shard
                },
            ],
        };
        assert_eq!(BlockRow::decode(&block.encode()), Some(block.clone()));
        assert_eq!(block.held(), IndexSet::one(1));
        let claim = ClaimRow {
            short: 9,
            state: ClaimState::Closed,
            expires_ms: 77,
            oldest: 1,
            newest: 2,
        };
        assert_eq!(ClaimRow::decode(&claim.encode()), Some(claim));
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))] {
            let kv = KvRow {
                at,
                oldest: 1,
                value,
            };
            assert_eq!(KvRow::decode(&kv.encode()), Some(kv));
        }
        for victim in [None, Some(0), Some(7)] {
            let checkpoint = Checkpoint {
                store_id: [1; 16],
                at,
                totals: Totals {
                    next_seq: 1,
                    victim,
                    digest: 1 << 100,
                    ..Totals::default()
                },
            };
            assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint));
        }
        let id = ClaimId {
            owner: OwnerId([1; 16]),
            writer: PeerId([2; 32]),
            number: 1 << 40,
        };
        assert_eq!(claim_of_key(&claim_key(&id)), Some(id));
    }
}
