//! How well blocks are kept right now: which shards are present, and what they survive.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::StreamExt;

use super::Blocks;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, EcProfile, Group, IndexSet, PeerId};
use crate::net::{NetError, Request, Response};
use crate::placement;

/// Peers asked at a time; then, of those who were too busy, fewer: where each has few connections, many at a time take
/// them from one another.
const ASKED_AT_ONCE: [usize; 3] = [32, 4, 1];

/// The state of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHealth {
    /// The block.
    pub block: BlockId,
    /// Shards that some live peer holds.
    pub present: IndexSet,
    /// Peers that may be lost with the block still readable; none: it cannot be read now.
    pub survives: Option<usize>,
}

impl Blocks {
    /// Asks every live peer which shards of `blocks` it holds; also, how many peers hold any.
    pub async fn health(
        &self,
        blocks: &[BlockId],
        profile: EcProfile,
    ) -> (Vec<BlockHealth>, usize) {
        let mut result = Vec::with_capacity(blocks.len());
        let mut peers = BTreeSet::new();
        for batch in blocks.chunks(BATCH_BLOCKS_MAX) {
            let holders = self.holders(batch).await;
            let holding = holders
                .iter()
                .filter(|(_, held)| held.iter().any(|indices| !indices.is_empty()));
            peers.extend(holding.map(|(peer, _)| *peer));
            result.extend(judge(batch, &holders, profile));
        }
        (result, peers.len())
    }

    /// Of each block how many more peers may be lost when `lost` is, with the block still readable; none if it is not
    /// without that one, or cannot be read now.
    pub async fn survives_without(
        &self,
        lost: PeerId,
        blocks: &[BlockId],
        profile: EcProfile,
    ) -> Vec<Option<usize>> {
        let mut result = Vec::with_capacity(blocks.len());
        for batch in blocks.chunks(BATCH_BLOCKS_MAX) {
            let mut holders = self.holders(batch).await;
            holders.remove(&lost);
            let judged = judge(batch, &holders, profile);
            result.extend(judged.into_iter().map(|health| health.survives));
        }
        result
    }

    /// What every live peer holds of a batch: those of the list, and the candidates of each block.
    async fn holders(&self, batch: &[BlockId]) -> BTreeMap<PeerId, Vec<IndexSet>> {
        let own = self.net.own();
        let mut holders: BTreeMap<PeerId, Vec<IndexSet>> = BTreeMap::new();
        if let Ok(held) = self.store.held(batch).await {
            holders.insert(own, held);
        }
        let members = self.net.members();
        let listed = members.list.iter().filter(|m| m.state.is_live());
        let mut peers: BTreeSet<PeerId> = listed.map(|member| member.peer).collect();
        let groups: BTreeSet<Group> = batch.iter().map(BlockId::group).collect();
        for group in groups {
            peers.extend(self.ranked(group).await.live());
        }
        peers.remove(&own);
        for at_once in ASKED_AT_ONCE {
            let asked = std::mem::take(&mut peers).into_iter();
            let mut answers = futures::stream::iter(asked)
                .map(|peer| async move {
                    let request = Request::Have {
                        blocks: batch.to_vec(),
                    };
                    let timeout = self.limits.request_timeout;
                    (peer, self.ask(peer, request, timeout).await)
                })
                .buffer_unordered(at_once);
            while let Some((peer, answer)) = answers.next().await {
                match answer {
                    Ok(Response::Held { held }) => {
                        holders.insert(peer, held);
                    }
                    other => {
                        tracing::debug!(peer = %peer.short(), ?other, "does not say what it holds");
                        if matches!(other, Ok(Response::Busy) | Err(NetError::Busy(_))) {
                            peers.insert(peer);
                        }
                    }
                }
            }
        }
        holders
    }
}

fn judge(
    batch: &[BlockId],
    holders: &BTreeMap<PeerId, Vec<IndexSet>>,
    profile: EcProfile,
) -> Vec<BlockHealth> {
    let all = IndexSet::first(profile.total_shards());
    batch
        .iter()
        .enumerate()
        .map(|(at, block)| {
            let mut present = IndexSet::EMPTY;
            let mut counts = Vec::new();
            for (peer, held) in holders {
                let held = held.get(at).copied().unwrap_or_default();
                // A shard that several peers hold counts for the first only.
                let fresh = IndexSet(held.0 & all.0).minus(present);
                present = present.union(fresh);
                counts.push((*peer, fresh.len()));
            }
            BlockHealth {
                block: *block,
                present,
                survives: placement::survives(counts, profile.data_shards()),
            }
        })
        .collect()
}
