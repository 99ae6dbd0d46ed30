//! What a store holds, told to others: digests of each group's shards, lists of its blocks, and who keeps a block.
//!
//! A shard's mark is the first half of a hash of its block and index; a digest is the XOR of marks. So a shard that comes or
//! goes costs one hash, whatever else is held, and the digest of what somebody should hold can be computed from a
//! list of blocks.

use super::engine::Work;
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
/// Most claims of one block that are told.
pub const KEEPERS_MAX: usize = super::rows::KEEPERS_LISTED;
/// Claims looked at in one go when a row does not name those of its block.
const CLAIMS_PAGE: usize = 1024;

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
                let keepers = self.keepers_of(&block, &row, now_ms)?;
                found.push(Holding {
                    block,
                    held: row.held(),
                    profile: row.profile,
                    is_kept: keepers.iter().any(|keeper| keeper.is_closed),
                    shard_bytes: row.shards.first().map_or(0, |shard| shard.data_len),
                });
            }
            Ok((found, page.next))
        })
    }

    fn keepers(&self, blocks: &[BlockId]) -> Result<Vec<Vec<Keeper>>, ReadFail> {
        let now_ms = self.clock.now_ms();
        self.look_up(|| {
            let rows = self.index.blocks(blocks)?;
            let each = blocks.iter().zip(rows).map(|(block, row)| match row {
                Some(row) => self.keepers_of(block, &row, now_ms),
                None => Ok(Vec::new()),
            });
            each.collect()
        })
    }

    fn keepers_of(
        &self,
        block: &BlockId,
        row: &BlockRow,
        now_ms: u64,
    ) -> Result<Vec<Keeper>, IndexError> {
        let mut found = Vec::new();
        let mut add = |claim: ClaimId, row: &super::rows::ClaimRow| {
            if !row.is_gone(now_ms) && !is_trash(&claim) && found.len() < KEEPERS_MAX {
                found.push(Keeper {
                    claim,
                    is_closed: row.state == ClaimState::Closed,
                    expires_ms: row.expires_ms,
                });
            }
        };
        if row.names_keepers() {
            for short in &row.keepers {
                if let Some(claim) = self.index.short(*short)?
                    && let Some(row) = self.index.claim(&claim)?
                {
                    add(claim, &row);
                }
            }
            return Ok(found);
        }
        // Those that the row named were given up, and there are others: rare, and worth a look at all claims.
        let mut after: Option<ClaimId> = None;
        loop {
            let page = self.index.claims(after.as_ref(), CLAIMS_PAGE)?;
            for (claim, row) in &page.rows {
                if self.index.is_member(row.short, block)? {
                    add(*claim, row);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
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

    /// Reads a shard from the disk and compares it with its hash. Bytes read; the place of one that is damaged.
    fn examine(&self, id: ShardId) -> Result<(u64, Option<Tomb>), ReadFail> {
        let row = self.look_up(|| self.index.block(&id.block))?;
        let Some(shard) = row.and_then(|row| row.shard(id.index).copied()) else {
            return Ok((0, None));
        };
        let bytes = u64::from(shard.record_len);
        let is_sound = || {
            let read = self.read_at(&shard, |file, row| {
                let copy = super::read::read_copy(file, row, super::disk::DiskFile::read_bytes)?;
                Ok(copy.and_then(|copy| {
                    VerifiedShard::verify(id.block, id.index, copy.header, copy.data).ok()
                }))
            });
            match read {
                Ok(found) => Ok(found.is_some()),
                Err(error) => Err(ReadFail::Store(StoreError::Io(error.to_string()))),
            }
        };
        // Twice, so that what went wrong on the way costs no shard.
        if is_sound()? || is_sound()? {
            return Ok((bytes, None));
        }
        // Moved or deleted meanwhile, or damaged where it is?
        let again = self.look_up(|| self.index.block(&id.block))?;
        let now = again.and_then(|row| row.shard(id.index).copied());
        let is_there = now.is_some_and(|now| now.at == shard.at);
        if is_there {
            self.note_damage(id, shard.at);
        }
        let tomb = Tomb {
            block: id.block,
            index: id.index,
            at: shard.at,
        };
        Ok((2 * bytes, is_there.then_some(tomb)))
    }

    /// Shards that readers found damaged and nobody has taken out yet.
    fn reported(&self) -> Vec<ShardId> {
        self.index.reported_damage()
    }
}

/// What examining one shard came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Bytes read from the disk.
    pub bytes: u64,
    /// Whether it was damaged. Then it is no longer held.
    pub was_damaged: bool,
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

    /// Stores a shard that was made anew, durably, under all claims that kept its siblings and are not given up
    /// here. Answers whether it is new here. Idempotent; what a crash interrupts is not kept for good.
    ///
    /// # Errors
    /// As [`Store::put`]; `ClaimGone` if every claim was given up here, or there is none.
    pub async fn restore(
        &self,
        shard: VerifiedShard,
        keepers: &[Keeper],
    ) -> Result<bool, StoreError> {
        let block = shard.id().block;
        let mut stored = None;
        // Those that keep for good first, so that the shard does not wait for one that expires.
        let closed = keepers.iter().filter(|keeper| keeper.is_closed);
        let open = keepers.iter().filter(|keeper| !keeper.is_closed);
        for keeper in closed.chain(open) {
            let kept = match stored {
                None => {
                    let put = self.put(shard.clone(), keeper.claim, keeper.expires_ms);
                    put.await.map(Some)
                }
                Some(_) => {
                    let claim = self.claim(keeper.claim, keeper.expires_ms, vec![block]);
                    claim.await.map(|_| None)
                }
            };
            match kept {
                Ok(is_new) => stored = stored.or(is_new),
                Err(StoreError::ClaimGone) => continue,
                Err(error) => return Err(error),
            }
            if keeper.is_closed {
                match self.close_claim(keeper.claim).await {
                    // Given up just now.
                    Ok(_) | Err(StoreError::ClaimGone) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        stored.ok_or(StoreError::ClaimGone)
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

    /// Shards that reads found damaged since the index was last brought up to date.
    pub fn damaged_shards(&self) -> Vec<ShardId> {
        self.shared().reported()
    }

    /// Reads a shard from the disk, compares it with its hash, and takes it out if it is damaged; the block stays
    /// claimed.
    ///
    /// # Errors
    /// If the disk or the index cannot be read, or the store takes no writes.
    pub async fn examine(&self, id: ShardId) -> Result<Examined, StoreError> {
        let (bytes, damaged) = self.read(move |shared| shared.examine(id)).await?;
        let was_damaged = damaged.is_some();
        if let Some(tomb) = damaged {
            self.submit(Work::Bury(vec![tomb]), None).await?;
        }
        Ok(Examined { bytes, was_damaged })
    }

    /// Takes a shard out that others hold as well; the block stays claimed. Answers whether it was held.
    ///
    /// # Errors
    /// If the index cannot be read, or the store takes no writes.
    pub async fn give_up(&self, id: ShardId) -> Result<bool, StoreError> {
        let look = move |shared: &Shared| {
            let row = shared.look_up(|| shared.index.block(&id.block))?;
            Ok(row.and_then(|row| row.shard(id.index).map(|shard| shard.at)))
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
