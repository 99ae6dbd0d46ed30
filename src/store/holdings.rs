//! What a store holds, told to others: digests of each group's shards, lists of its blocks, and who keeps a block.
//!
//! A shard's mark is the first half of a hash of its block and index; a digest is the XOR of marks. So a shard that comes or
//! goes costs one hash, whatever else is held, and the digest of what somebody should hold can be computed from a
//! list of blocks.

use std::collections::BTreeSet;

use super::engine::{Answer, Work};
use super::error::StoreError;
use super::handle::Store;
use super::read::ReadFail;
use super::record::Tomb;
use super::rows::{BlockRow, ClaimState};
use super::shared::Shared;
use super::tables::IndexError;
use super::trash::is_trash;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, ClaimId, EcProfile, Group, IndexSet, ShardId};
use crate::erasure::VerifiedShard;

/// Prefix of what is hashed for a mark.
const DOMAIN: &[u8; 15] = b"cairn/holding/1";
/// Most claims of one block that are told together with those of other blocks.
pub const KEEPERS_MAX: usize = super::rows::KEEPERS_LISTED;
/// Most claims of one block that are told, or added, at once.
pub const KEEPERS_PAGE: usize = 1024;

/// The first 16 bytes of BLAKE3(`"cairn/holding/1" || block || index`), as a little-endian number.
pub(super) fn mark(block: &BlockId, index: u8) -> u128 {
    let mut input = [0u8; 48];
    let (domain, rest) = input.split_at_mut(DOMAIN.len());
    domain.copy_from_slice(DOMAIN);
    let (id, last) = rest.split_at_mut(32);
    id.copy_from_slice(&block.0);
    last.fill(index);
    let hash = blake3::hash(&input);
    let first = hash.as_bytes().first_chunk::<16>();
    first.map_or(0, |half| u128::from_le_bytes(*half))
}

/// Digest of a set of shards: equal for equal sets, whatever their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of no shards.
    pub const EMPTY: Digest = Digest(0);

    /// With this shard if it was not in the set, without it if it was.
    pub fn toggle(&mut self, block: &BlockId, index: u8) {
        self.0 ^= mark(block, index);
    }

    /// The digest of both sets, which have nothing in common.
    #[must_use]
    pub const fn and(self, other: Digest) -> Digest {
        Digest(self.0 ^ other.0)
    }
}

/// What is held of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The block.
    pub block: BlockId,
    /// Shards that are held and not known to be damaged.
    pub held: IndexSet,
    /// How its stripe is coded; none if no shard of it was ever here.
    pub profile: Option<EcProfile>,
    /// Whether a claim keeps it for good. Others are of uploads that may still be given up.
    pub is_kept: bool,
    /// Length of each of its shards; 0 if none is here.
    pub shard_bytes: u32,
}

/// A claim that keeps a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeper {
    /// The claim.
    pub claim: ClaimId,
    /// Whether it keeps for good.
    pub is_closed: bool,
    /// Otherwise, until when (ms since 1970).
    pub expires_ms: u64,
}

/// A page of the claims on a block, and the number from which to go on (`None`: that was all).
pub type KeeperPage = (Vec<Keeper>, Option<u64>);

/// A page of what is held, and the block after which to go on (`None`: that was all).
pub type HoldingPage = (Vec<Holding>, Option<BlockId>);

impl Shared {
    fn holdings(
        &self,
        group: Option<Group>,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<HoldingPage, ReadFail> {
        let now_ms = self.clock.now_ms();
        self.look_up(|| {
            let group = group.map(|group| group.0);
            let page = self.index.block_page(group, after, limit)?;
            let mut found = Vec::with_capacity(page.rows.len());
            for (block, row) in page.rows {
                found.push(Holding {
                    block,
                    held: row.held(),
                    profile: row.profile,
                    is_kept: self.is_kept(&block, &row, now_ms)?,
                    shard_bytes: row.shards.first().map_or(0, |shard| shard.data_len),
                });
            }
            Ok((found, page.next))
        })
    }

    /// The claims that keep each block, at most [`KEEPERS_MAX`] of each.
    fn keepers(&self, blocks: &[BlockId]) -> Result<Vec<Vec<Keeper>>, ReadFail> {
        let now_ms = self.clock.now_ms();
        self.look_up(|| {
            let rows = self.index.blocks(blocks)?;
            let each = blocks.iter().zip(rows).map(|(block, row)| {
                let mut found = Vec::new();
                let Some(row) = row else { return Ok(found) };
                self.each_keeper(block, &row, now_ms, |keeper| {
                    found.push(keeper);
                    found.len() < KEEPERS_MAX
                })?;
                Ok(found)
            });
            each.collect()
        })
    }

    /// A page of the claims that keep a block, from the number `from` on.
    fn keepers_from(
        &self,
        block: &BlockId,
        from: u64,
        limit: usize,
    ) -> Result<KeeperPage, ReadFail> {
        let now_ms = self.clock.now_ms();
        self.look_up(|| match self.index.block(block)? {
            Some(row) => self.keeper_page(block, &row, from, limit, now_ms),
            None => Ok((Vec::new(), None)),
        })
    }

    /// Whether a claim keeps the block for good.
    fn is_kept(&self, block: &BlockId, row: &BlockRow, now_ms: u64) -> Result<bool, IndexError> {
        let mut is_kept = false;
        self.each_keeper(block, row, now_ms, |keeper| {
            is_kept |= keeper.is_closed;
            !is_kept
        })?;
        Ok(is_kept)
    }

    /// Shows all claims that keep a block, as long as `take` wants more.
    fn each_keeper(
        &self,
        block: &BlockId,
        row: &BlockRow,
        now_ms: u64,
        mut take: impl FnMut(Keeper) -> bool,
    ) -> Result<(), IndexError> {
        let mut from = 0;
        loop {
            let (page, next) = self.keeper_page(block, row, from, KEEPERS_MAX, now_ms)?;
            for keeper in page {
                if !take(keeper) {
                    return Ok(());
                }
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// In the order of their numbers in this store, which are never given twice: so nothing is missed that was there
    /// before the first page was asked for.
    fn keeper_page(
        &self,
        block: &BlockId,
        row: &BlockRow,
        from: u64,
        limit: usize,
        now_ms: u64,
    ) -> Result<KeeperPage, IndexError> {
        let named = row.keepers.iter().copied();
        let mut shorts: BTreeSet<u64> = named.filter(|short| *short >= from).collect();
        let mut next = None;
        if !row.names_all() {
            let further = self.index.further(block, from, limit)?;
            shorts.extend(further.rows.iter().map(|(short, ())| *short));
            next = further.next.and_then(|last| last.checked_add(1));
        }
        if let Some(next) = next {
            shorts.retain(|short| *short < next);
        }
        if let Some(beyond) = shorts.iter().nth(limit).copied() {
            next = Some(beyond);
            shorts.retain(|short| *short < beyond);
        }
        let mut page = Vec::with_capacity(shorts.len());
        for short in shorts {
            if let Some(claim) = self.index.short(short)?
                && let Some(row) = self.index.claim(&claim)?
                && !row.is_gone(now_ms)
                && !is_trash(&claim)
            {
                page.push(Keeper {
                    claim,
                    is_closed: row.state == ClaimState::Closed,
                    expires_ms: row.expires_ms,
                });
            }
        }
        Ok((page, next))
    }

    /// Shards of blocks after `after`, where they are; and where to go on.
    fn shards_after(
        &self,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<(Vec<ShardId>, Option<BlockId>), ReadFail> {
        self.look_up(|| {
            let page = self.index.block_page(None, after, limit)?;
            let ids = page.rows.iter().flat_map(|(block, row)| {
                let shards = row.shards.iter();
                shards.map(|shard| ShardId {
                    block: *block,
                    index: shard.index,
                })
            });
            Ok((ids.collect(), page.next))
        })
    }

    /// Reads a shard from the disk and compares it with its hash.
    fn examine(&self, id: ShardId) -> Result<(u64, Finding), ReadFail> {
        let row = self.look_up(|| self.index.block(&id.block))?;
        let Some(shard) = row.and_then(|row| row.shard(id.index).copied()) else {
            self.index.clear_trouble(id, None);
            return Ok((0, Finding::Sound));
        };
        let bytes = u64::from(shard.record_len);
        let is_sound = || {
            self.read_at(&shard, |file, row| {
                let copy = super::read::read_copy(file, row, super::disk::DiskFile::read_bytes)?;
                Ok(copy.and_then(|copy| {
                    VerifiedShard::verify(id.block, id.index, copy.header, copy.data).ok()
                }))
            })
        };
        // Twice, so that what went wrong on the way costs no shard.
        let tries = [is_sound(), is_sound()];
        if tries.iter().any(|read| matches!(read, Ok(Some(_)))) {
            self.index.clear_trouble(id, Some(shard.at));
            return Ok((bytes, Finding::Sound));
        }
        // Moved or deleted meanwhile, or damaged where it is?
        let again = self.look_up(|| self.index.block(&id.block))?;
        let now = again.and_then(|row| row.shard(id.index).copied());
        if now.is_none_or(|now| now.at != shard.at) {
            return Ok((2 * bytes, Finding::Sound));
        }
        if tries.iter().all(Result::is_err) {
            self.index.report_unread(id);
            return Ok((2 * bytes, Finding::Unreadable));
        }
        self.note_damage(id, shard.at);
        let tomb = Tomb {
            block: id.block,
            index: id.index,
            at: shard.at,
        };
        Ok((2 * bytes, Finding::Damaged(tomb)))
    }
}

/// What a shard turned out to be.
enum Finding {
    /// As it should be, or no longer there.
    Sound,
    Damaged(Tomb),
    Unreadable,
}

/// What examining one shard came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Bytes read from the disk.
    pub bytes: u64,
    /// Whether it was damaged. Then it is no longer held.
    pub was_damaged: bool,
    /// Whether the disk did not give it, twice. It may another time.
    pub is_unreadable: bool,
}

impl Store {
    /// The digest of all shards held, and their number. Does no I/O.
    pub fn digest(&self) -> (Digest, u64) {
        let (digest, shards) = self.shared().ledger.digest();
        (Digest(digest), shards)
    }

    /// The digests of the shards held of these groups, in their order.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn group_digests(&self, groups: Vec<Group>) -> Result<Vec<Digest>, StoreError> {
        let groups: Vec<u16> = groups.into_iter().map(|group| group.0).collect();
        let look = move |shared: &Shared| {
            let digests = shared.look_up(|| shared.index.groups(&groups))?;
            Ok(digests.into_iter().map(Digest).collect())
        };
        self.read(look).await
    }

    /// What is known of the blocks of a group (none: of all groups), in order, at most `limit` from behind `after`;
    /// also of those of which no shard is held, as long as something keeps them.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn holdings(
        &self,
        group: Option<Group>,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<HoldingPage, StoreError> {
        let limit = limit.clamp(1, BATCH_BLOCKS_MAX);
        self.read(move |shared| shared.holdings(group, after.as_ref(), limit))
            .await
    }

    /// The claims that keep each block, in order; at most [`KEEPERS_MAX`] of each.
    ///
    /// # Errors
    /// `TooLarge` for more than [`BATCH_BLOCKS_MAX`] blocks; if the index cannot be read.
    pub async fn keepers(&self, blocks: Vec<BlockId>) -> Result<Vec<Vec<Keeper>>, StoreError> {
        if blocks.len() > BATCH_BLOCKS_MAX {
            return Err(StoreError::TooLarge {
                what: "blocks in one call",
                size: blocks.len(),
                limit: BATCH_BLOCKS_MAX,
            });
        }
        self.read(move |shared| shared.keepers(&blocks)).await
    }

    /// A page of the claims that keep a block: at most `limit`, from the number `from` on (0: the first), which is this
    /// store's own.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn keepers_from(
        &self,
        block: BlockId,
        from: u64,
        limit: usize,
    ) -> Result<KeeperPage, StoreError> {
        let limit = limit.clamp(1, KEEPERS_PAGE);
        self.read(move |shared| shared.keepers_from(&block, from, limit))
            .await
    }

    /// Keeps a block for all of these that are not given up here, durably, whether a shard of it is held or not; those that
    /// keep it for good do so here as well. One of them, if any are left. Idempotent.
    ///
    /// # Errors
    /// `Full` if there is no room; `TooLarge` for more than [`KEEPERS_PAGE`].
    pub async fn keep(
        &self,
        block: BlockId,
        keepers: &[Keeper],
    ) -> Result<Option<Keeper>, StoreError> {
        if keepers.len() > KEEPERS_PAGE {
            return Err(StoreError::TooLarge {
                what: "claims in one call",
                size: keepers.len(),
                limit: KEEPERS_PAGE,
            });
        }
        if keepers.is_empty() {
            return Ok(None);
        }
        let work = Work::Keep {
            block,
            keepers: keepers.to_vec(),
        };
        let reservation = self.reserve_claims(keepers.len())?;
        match self.submit(work, Some(reservation)).await? {
            Answer::Kept(kept) => Ok(kept),
            _ => Ok(None),
        }
    }

    /// Stores a shard that was made anew, durably, under all claims that kept its siblings and are not given up
    /// here. Answers whether it is new here. Idempotent; the claims are durable before the shard is, so what a crash
    /// interrupts leaves no shard that is kept for some of them only.
    ///
    /// # Errors
    /// As [`Store::put`]; `ClaimGone` if every claim was given up here, or there is none.
    pub async fn restore(
        &self,
        shard: VerifiedShard,
        keepers: &[Keeper],
    ) -> Result<bool, StoreError> {
        let mut room = self.room_for(&shard).await?;
        loop {
            let kept = self.keep(shard.id().block, keepers).await?;
            let keeper = kept.ok_or(StoreError::ClaimGone)?;
            let (claim, expires_ms) = (keeper.claim, keeper.expires_ms);
            match self.put_in(room, shard.clone(), claim, expires_ms).await {
                // Given up just now: another one may be left.
                Err(StoreError::ClaimGone) => room = self.room_for(&shard).await?,
                stored => return stored,
            }
        }
    }

    /// The shards of at most `limit` blocks behind `after`, and where to go on.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn shards_after(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<(Vec<ShardId>, Option<BlockId>), StoreError> {
        let limit = limit.clamp(1, BATCH_BLOCKS_MAX);
        self.read(move |shared| shared.shards_after(after.as_ref(), limit))
            .await
    }

    /// Reports what earlier runs found damaged and did not take out, of at most `limit` blocks behind `after`; where to go
    /// on.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn recall_trouble(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Option<BlockId>, StoreError> {
        let limit = limit.clamp(1, BATCH_BLOCKS_MAX);
        let look = move |shared: &Shared| {
            shared.look_up(|| {
                let page = shared.index.block_page(None, after.as_ref(), limit)?;
                for (block, row) in page.rows {
                    for shard in row.shards.iter().filter(|shard| shard.damaged) {
                        let index = shard.index;
                        shared
                            .index
                            .report_damage(ShardId { block, index }, shard.at);
                    }
                }
                Ok(page.next)
            })
        };
        self.read(look).await
    }

    /// Shards that reads found damaged, or could not read, and that are still there.
    pub fn troubled_shards(&self) -> Vec<ShardId> {
        self.shared().index.troubled()
    }

    /// Reads a shard from the disk, compares it with its hash, and takes it out if it is damaged; the block stays
    /// claimed.
    ///
    /// # Errors
    /// If the index cannot be read, or the store takes no writes.
    pub async fn examine(&self, id: ShardId) -> Result<Examined, StoreError> {
        let (bytes, finding) = self.read(move |shared| shared.examine(id)).await?;
        let mut examined = Examined {
            bytes,
            was_damaged: false,
            is_unreadable: false,
        };
        match finding {
            Finding::Sound => {}
            Finding::Unreadable => examined.is_unreadable = true,
            Finding::Damaged(tomb) => {
                self.submit(Work::Bury(vec![tomb]), None).await?;
                examined.was_damaged = true;
            }
        }
        Ok(examined)
    }

    /// Takes out a shard that the disk does not give any more, as a damaged one. Answers whether it was held.
    ///
    /// # Errors
    /// As [`Store::give_up`].
    pub async fn write_off(&self, id: ShardId) -> Result<bool, StoreError> {
        self.take_out(id, true).await
    }

    /// Takes a shard out that others hold as well; the block stays claimed. Answers whether it was held.
    ///
    /// # Errors
    /// If the index cannot be read, or the store takes no writes.
    pub async fn give_up(&self, id: ShardId) -> Result<bool, StoreError> {
        self.take_out(id, false).await
    }

    async fn take_out(&self, id: ShardId, is_damaged: bool) -> Result<bool, StoreError> {
        let look = move |shared: &Shared| {
            let row = shared.look_up(|| shared.index.block(&id.block))?;
            let at = row.and_then(|row| row.shard(id.index).map(|shard| shard.at));
            if let Some(at) = at.filter(|_| is_damaged) {
                shared.note_damage(id, at);
            }
            Ok(at)
        };
        let Some(at) = self.read(look).await? else {
            return Ok(false);
        };
        let tomb = Tomb {
            block: id.block,
            index: id.index,
            at,
        };
        self.submit(Work::Bury(vec![tomb]), None).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_what_is_written_down() {
        let block = BlockId([7; 32]);
        assert_eq!(format!("{:032x}", mark(&block, 3)), MARK);
        let mut digest = Digest::EMPTY;
        digest.toggle(&block, 3);
        digest.toggle(&block, 4);
        digest.toggle(&block, 3);
        assert_eq!(digest, Digest(mark(&block, 4)));
    }

    // Known to every peer: another value makes all digests differ for ever.
    const MARK: &str = "b0184e99c90215c74673a597e7ebc394";
}
