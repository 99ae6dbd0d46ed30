//! Carrying repairs out: bring enough shards together, make the missing ones, hand them on with their claims.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

use super::message::{Ask, KEPT_MAX, Say};
use super::plan::Rebuild;
use super::survey::ask;
use super::{RepairOptions, serve};
use crate::base::{BlockId, ClaimId, Class, Classify, IndexSet, PeerId};
use crate::blocks::Blocks;
use crate::erasure::VerifiedShard;
use crate::net::{Refusal, Response};
use crate::store::{KEEPERS_MAX, Keeper, StoreError};

/// What came of some repairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Shards made and durable.
    pub(super) made: u64,
    /// Bytes of those.
    pub(super) made_bytes: u64,
    /// Bytes of shards read for them, here and from others.
    pub(super) read_bytes: u64,
    /// Bytes that went over the network, in both directions.
    pub(super) moved_bytes: u64,
    /// Shards that could not be made or found no place.
    pub(super) failed: u64,
}

impl Carried {
    const fn add(&mut self, other: Carried) {
        self.made += other.made;
        self.made_bytes += other.made_bytes;
        self.read_bytes += other.read_bytes;
        self.moved_bytes += other.moved_bytes;
        self.failed += other.failed;
    }
}

/// Carries some repairs out, beside one another. Cancel safe: what is begun is repeated.
pub(super) async fn carry(
    blocks: &Blocks,
    options: &RepairOptions,
    tasks: Vec<Rebuild>,
) -> (Carried, Vec<(BlockId, PeerId)>) {
    let keepers = keepers(blocks, &tasks).await;
    let mut under_way: FuturesUnordered<_> = tasks
        .iter()
        .map(|task| {
            let keepers = keepers.get(&task.block).cloned().unwrap_or_default();
            async move {
                let mut refused = Vec::new();
                let one = rebuild(blocks, options, task, keepers, &mut refused).await;
                (one, task.block, refused)
            }
        })
        .collect();
    let mut carried = Carried::default();
    let mut refusals = Vec::new();
    while let Some((one, block, refused)) = under_way.next().await {
        carried.add(one);
        refusals.extend(refused.into_iter().map(|peer| (block, peer)));
    }
    drop(under_way);
    (carried, refusals)
}

/// The claims on these blocks, as all of their holders know them.
async fn keepers(blocks: &Blocks, tasks: &[Rebuild]) -> BTreeMap<BlockId, Vec<Keeper>> {
    let own = blocks.net().own();
    let mut of_peer: BTreeMap<PeerId, Vec<BlockId>> = BTreeMap::new();
    for task in tasks {
        for (peer, _) in &task.holders {
            of_peer.entry(*peer).or_default().push(task.block);
        }
    }
    let timeout = blocks.limits().request_timeout;
    let mut answers: FuturesUnordered<_> = of_peer
        .into_iter()
        .map(|(peer, mut wanted)| async move {
            wanted.truncate(KEPT_MAX);
            let found = if peer == own {
                blocks.store().keepers(wanted.clone()).await.ok()
            } else {
                let question = Ask::Keepers {
                    blocks: wanted.clone(),
                };
                match ask(blocks, peer, &question, timeout).await {
                    Some(Ok(Say::Keepers { keepers })) => Some(keepers),
                    _ => None,
                }
            };
            (wanted, found.unwrap_or_default())
        })
        .collect();
    let mut merged: BTreeMap<BlockId, BTreeMap<ClaimId, Keeper>> = BTreeMap::new();
    while let Some((wanted, found)) = answers.next().await {
        for (block, keepers) in wanted.into_iter().zip(found) {
            let known = merged.entry(block).or_default();
            for keeper in keepers {
                let entry = known.entry(keeper.claim).or_insert(keeper);
                entry.is_closed |= keeper.is_closed;
                entry.expires_ms = entry.expires_ms.max(keeper.expires_ms);
            }
        }
    }
    let list = |known: BTreeMap<ClaimId, Keeper>| {
        let mut keepers: Vec<Keeper> = known.into_values().collect();
        keepers.sort_by_key(|keeper| !keeper.is_closed);
        keepers.truncate(KEEPERS_MAX);
        keepers
    };
    let lists = merged
        .into_iter()
        .map(|(block, known)| (block, list(known)));
    lists.collect()
}

async fn rebuild(
    blocks: &Blocks,
    options: &RepairOptions,
    task: &Rebuild,
    keepers: Vec<Keeper>,
    refused: &mut Vec<PeerId>,
) -> Carried {
    let mut carried = Carried::default();
    // Given up since it was planned.
    if !keepers.iter().any(|keeper| keeper.is_closed) {
        return carried;
    }
    let wanted: IndexSet = task.missing.iter().map(|(index, _)| *index).collect();
    let need = task.profile.data_shards();
    let gathered = blocks.gather(task.block, &task.holders, need).await;
    let read: usize = gathered.shards.iter().map(|s| s.data().len()).sum();
    carried.read_bytes = read as u64;
    carried.moved_bytes = gathered.received_bytes;
    if gathered.shards.len() < need {
        tracing::debug!(block = %task.block.short(), have = gathered.shards.len(), "too few shards to repair from");
        carried.failed = task.missing.len() as u64;
        return carried;
    }
    let made = match blocks.regenerate(gathered.shards, wanted).await {
        Ok(made) => made,
        Err(error) => {
            tracing::warn!(block = %task.block, "cannot be repaired: {error}");
            carried.failed = task.missing.len() as u64;
            return carried;
        }
    };
    for shard in made {
        let index = shard.id().index;
        let target = task.missing.iter().find(|(missing, _)| *missing == index);
        let Some((_, target)) = target else { continue };
        let bytes = shard.data().len() as u64;
        match place(blocks, options, shard, *target, &keepers).await {
            Placed::Done => {
                carried.made += 1;
                carried.made_bytes += bytes;
                if *target != blocks.net().own() {
                    carried.moved_bytes += bytes;
                }
            }
            Placed::Refused => {
                carried.failed += 1;
                refused.push(*target);
            }
            Placed::Failed => carried.failed += 1,
        }
    }
    carried
}

/// What came of handing a shard on.
enum Placed {
    Done,
    /// There everything that keeps the block was given up.
    Refused,
    Failed,
}

/// Makes a shard durable at a peer.
async fn place(
    blocks: &Blocks,
    options: &RepairOptions,
    shard: VerifiedShard,
    target: PeerId,
    keepers: &[Keeper],
) -> Placed {
    if target == blocks.net().own() {
        let stored = serve::restore(blocks, &options.serving, shard, keepers.to_vec()).await;
        return match stored {
            Ok(()) => Placed::Done,
            Err(StoreError::ClaimGone) => Placed::Refused,
            Err(error) => {
                tracing::debug!(class = ?error.class(), "the own store took no shard: {error}");
                if error.class() == Class::Full {
                    blocks.note_full(&target);
                }
                Placed::Failed
            }
        };
    }
    let question = Ask::Restore {
        block: shard.id().block,
        index: shard.id().index,
        keepers: keepers.to_vec(),
        header: shard.header().clone(),
        data: shard.data().clone(),
    };
    drop(shard);
    let timeout: Duration = blocks.limits().request_timeout;
    match ask(blocks, target, &question, timeout).await {
        Some(Ok(Say::Done)) => Placed::Done,
        Some(Err(Response::Refused {
            reason: Refusal::Denied,
            ..
        })) => Placed::Refused,
        Some(Err(Response::Refused {
            reason: Refusal::Full,
            ..
        })) => {
            blocks.note_full(&target);
            Placed::Failed
        }
        other => {
            let what: String = format!("{other:?}").chars().take(60).collect();
            tracing::debug!(peer = %target.short(), "took no shard: {what}");
            Placed::Failed
        }
    }
}
