//! Keeping what is in the pool already: a claim of this peer on blocks that somebody put, without sending any of them.
//!
//! Whoever holds shards of a block adds the claim, out of trash as well; then the claim is closed, as after an upload. Holders
//! that are away now get theirs by repair when they have let go of the block.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::Blocks;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, ClaimId, Class, Classify, EcProfile, IndexSet, OwnerId, PeerId};
use crate::net::{Request, Response};
use crate::placement;
use crate::store::{KvChange, StoreError};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Number of the claim.
    pub number: u64,
    /// Peers that may know of it.
    pub told: Vec<PeerId>,
    /// The least number of peers that may be lost with everything still readable.
    pub survives: usize,
}

/// Why it is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Too little of it is left where it could be asked for.
    #[error("{lost} of {blocks} blocks are gone, or on too many peers that are away")]
    Lost {
        /// Blocks of which there are too few shards.
        lost: usize,
        /// Blocks in all.
        blocks: usize,
    },
    /// The own store does not take it.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
}

impl Classify for AdoptError {
    fn class(&self) -> Class {
        match self {
            AdoptError::Lost { .. } => Class::Missing,
            AdoptError::Store(error) => error.class(),
        }
    }
}

/// Who said that it keeps which shards of each block.
type Found = BTreeMap<BlockId, BTreeMap<PeerId, IndexSet>>;

/// The least that blocks survive, without some holders, and how many of them cannot be read.
fn judge(
    blocks: &[BlockId],
    found: &Found,
    without: &BTreeSet<PeerId>,
    profile: EcProfile,
) -> (usize, usize) {
    let (mut least, mut lost) = (profile.parity_shards(), 0);
    for block in blocks {
        // A shard that lies on two peers counts for one of them.
        let mut seen = IndexSet::EMPTY;
        let mut counts = Vec::new();
        let holders = found.get(block).into_iter().flatten();
        for (peer, held) in holders.filter(|(peer, _)| !without.contains(peer)) {
            let new = held.minus(seen);
            seen = seen.union(new);
            counts.push((*peer, new.len()));
        }
        match placement::survives(counts, profile.data_shards()) {
            Some(survives) => least = least.min(survives),
            None => lost += 1,
        }
    }
    (least, lost)
}

impl Blocks {
    /// Keeps these blocks for `owner`, for good, where they are. `rows` of the own store, of the claim's number and those
    /// who may know of it, become durable with the decision. Nothing is kept if not all of it can be. Goes on to its
    /// end though the future is dropped.
    ///
    /// # Errors
    /// [`AdoptError::Lost`] if some cannot be read from those who answer; or if the own store takes no writes.
    pub async fn adopt(
        &self,
        owner: OwnerId,
        profile: EcProfile,
        blocks: Vec<BlockId>,
        rows: impl FnOnce(u64, &[PeerId]) -> Vec<KvChange> + Send + 'static,
    ) -> Result<Adopted, AdoptError> {
        let conductor = self.clone();
        let work = async move { conductor.adopt_all(owner, profile, &blocks, rows).await };
        let ended = tokio::spawn(work).await;
        ended.unwrap_or(Err(AdoptError::Store(StoreError::Closed)))
    }

    async fn adopt_all(
        &self,
        owner: OwnerId,
        profile: EcProfile,
        blocks: &[BlockId],
        rows: impl FnOnce(u64, &[PeerId]) -> Vec<KvChange>,
    ) -> Result<Adopted, AdoptError> {
        let mut of_peer: BTreeMap<PeerId, Vec<BlockId>> = BTreeMap::new();
        for block in blocks {
            let peers = self.group_peers(block.group()).await;
            for peer in peers.iter().filter(|peer| peer.is_live()) {
                of_peer.entry(peer.peer).or_default().push(*block);
            }
        }
        let claim = self.open_claim(owner).await?;
        let asked: BTreeSet<PeerId> = of_peer.keys().copied().collect();
        let each = of_peer
            .into_iter()
            .map(|(peer, wanted)| self.claim_at(claim, peer, wanted));
        let mut found = Found::new();
        for (peer, held) in join_all(each).await {
            for (block, held) in held {
                found.entry(block).or_default().insert(peer, held);
            }
        }
        let (_, lost) = judge(blocks, &found, &BTreeSet::new(), profile);
        let gone = |lost| AdoptError::Lost {
            lost,
            blocks: blocks.len(),
        };
        if lost > 0 {
            self.release_claim(claim, &asked, Vec::new()).await?;
            return Err(gone(lost));
        }
        let holders: BTreeSet<PeerId> = found.values().flat_map(BTreeMap::keys).copied().collect();
        let told: Vec<PeerId> = asked.iter().copied().collect();
        let rows = rows(claim.number, &told);
        let undone = rows.iter();
        let undone = undone.map(|(space, key, _)| (space.clone(), key.clone(), None));
        let undone: Vec<KvChange> = undone.collect();
        let unclosed = match self.close_claim(claim, &holders, rows).await {
            Ok(unclosed) => unclosed,
            Err(error) => {
                self.release_claim(claim, &asked, Vec::new()).await?;
                return Err(error.into());
            }
        };
        let (survives, lost) = judge(blocks, &found, &unclosed.all(), profile);
        if lost > 0 {
            self.release_claim(claim, &asked, undone).await?;
            return Err(gone(lost));
        }
        Ok(Adopted {
            number: claim.number,
            told,
            survives,
        })
    }

    /// Adds the claim to those of these blocks of which a peer holds shards: which. Nothing of who does not answer.
    async fn claim_at(
        &self,
        claim: ClaimId,
        peer: PeerId,
        wanted: Vec<BlockId>,
    ) -> (PeerId, Vec<(BlockId, IndexSet)>) {
        let expires_ms = self.clock.now_ms() + self.limits.claim_ttl.as_millis() as u64;
        let mut all = Vec::new();
        for some in wanted.chunks(BATCH_BLOCKS_MAX) {
            let held = if peer == self.net.own() {
                self.store
                    .claim(claim, expires_ms, some.to_vec())
                    .await
                    .ok()
            } else {
                let request = Request::Claim {
                    claim,
                    expires_ms,
                    blocks: some.to_vec(),
                };
                match self.ask(peer, request, self.limits.request_timeout).await {
                    Ok(Response::Held { held }) if held.len() == some.len() => Some(held),
                    _ => None,
                }
            };
            let held = some.iter().copied().zip(held.unwrap_or_default());
            all.extend(held.filter(|(_, held)| !held.is_empty()));
        }
        (peer, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_judged_by_the_worst_block() {
        let (good, bad) = (BlockId([1; 32]), BlockId([2; 32]));
        let peer = |fill| PeerId([fill; 32]);
        let each = (0..6u8).map(|at| (peer(at), IndexSet::one(at)));
        let mut found = Found::from([(good, each.collect())]);
        let profile = EcProfile::DEFAULT;
        let nobody = BTreeSet::new();
        assert_eq!(judge(&[good], &found, &nobody, profile), (2, 0));
        let two = BTreeSet::from([peer(0), peer(1)]);
        assert_eq!(judge(&[good], &found, &two, profile), (0, 0));
        let three = BTreeSet::from([peer(0), peer(1), peer(2)]);
        assert_eq!(judge(&[good], &found, &three, profile).1, 1);
        assert_eq!(judge(&[good, bad], &found, &nobody, profile).1, 1);
        // The same shard four times is one.
        let same = (0..4u8).map(|at| (peer(at), IndexSet::one(3)));
        found.insert(bad, same.collect());
        assert_eq!(judge(&[good, bad], &found, &nobody, profile).1, 1);
        assert_eq!(judge(&[], &found, &nobody, profile), (2, 0));
    }
}
