//! How well blocks are kept right now: which shards are present, and what they survive.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{FuturesUnordered, StreamExt};

use super::Blocks;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, EcProfile, IndexSet, PeerId};
use crate::net::{Request, Response};
use crate::placement;

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

    /// What every live peer holds of a batch.
    async fn holders(&self, batch: &[BlockId]) -> BTreeMap<PeerId, Vec<IndexSet>> {
        let members = self.net.members();
        let own = self.net.own();
        let mut holders: BTreeMap<PeerId, Vec<IndexSet>> = BTreeMap::new();
        if let Ok(held) = self.store.held(batch).await {
            holders.insert(own, held);
        }
        let others = members.list.iter().filter(|m| m.state.is_live());
        let mut answers: FuturesUnordered<_> = others
            .filter(|member| member.peer != own)
            .map(|member| async {
                let request = Request::Have {
                    blocks: batch.to_vec(),
                };
                let timeout = self.limits.request_timeout;
                (
                    member.peer,
                    self.net.request(member.peer, request, timeout).await,
                )
            })
            .collect();
        while let Some((peer, answer)) = answers.next().await {
            if let Ok(Response::Held { held }) = answer {
                holders.insert(peer, held);
            }
        }
        drop(answers);
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
