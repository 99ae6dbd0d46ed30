//! Carrying repairs out: bring enough shards together, make the missing ones, hand them on with their claims.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

use super::endings::{self, Endings, Leftover};
use super::keepers::{self, HandedOn};
use super::message::{Ask, Say};
use super::plan::{Purpose, Rebuild, Surplus};
use super::survey::ask;
use super::{RepairOptions, serve};
use crate::base::{BlockId, Class, Classify, IndexSet, PeerId};
use crate::blocks::Blocks;
use crate::erasure::VerifiedShard;
use crate::net::{Refusal, Response};
use crate::store::{KEEPERS_MAX, Keeper, StoreError};

/// Handfuls of claims under which a peer is offered a shard.
const TRIES: usize = 8;

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
    /// Shards copied to where they belong, and durable there.
    pub(super) relocated: u64,
    /// Bytes of those.
    pub(super) relocated_bytes: u64,
    /// Blocks that were left alone: nobody says for whom they are kept.
    pub(super) idle: u64,
}

impl Carried {
    const fn add(&mut self, other: Carried) {
        self.made += other.made;
        self.made_bytes += other.made_bytes;
        self.read_bytes += other.read_bytes;
        self.moved_bytes += other.moved_bytes;
        self.failed += other.failed;
        self.relocated += other.relocated;
        self.relocated_bytes += other.relocated_bytes;
        self.idle += other.idle;
    }
}

/// What came of some repairs, and what was learned of others by it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) carried: Carried,
    /// Peers that do not take a shard of a block: they know its claims as given up.
    pub(super) refusals: Vec<(BlockId, PeerId)>,
    /// Peers that did not have what they had said, once for each block.
    pub(super) disappointing: Vec<PeerId>,
    /// Peers that took no shard and did not say why.
    pub(super) unwilling: Vec<PeerId>,
    /// Shards that were moved: who had each may let it go.
    pub(super) displaced: Vec<Surplus>,
}

/// Carries some repairs out, beside one another. Cancel safe: what is begun is repeated.
pub(super) async fn carry(
    blocks: &Blocks,
    options: &RepairOptions,
    tasks: Vec<Rebuild>,
) -> Outcome {
    let keepers = keepers::of_tasks(blocks, &tasks).await;
    let mut under_way: FuturesUnordered<_> = tasks
        .iter()
        .map(|task| {
            let keepers = keepers.get(&task.block).cloned();
            let one = One {
                blocks,
                options,
                task,
                outcome: Outcome::default(),
            };
            one.carry(keepers)
        })
        .collect();
    let mut outcome = Outcome::default();
    while let Some(one) = under_way.next().await {
        outcome.carried.add(one.carried);
        outcome.refusals.extend(one.refusals);
        outcome.disappointing.extend(one.disappointing);
        outcome.unwilling.extend(one.unwilling);
        outcome.displaced.extend(one.displaced);
    }
    drop(under_way);
    outcome
}

/// One repair.
struct One<'a> {
    blocks: &'a Blocks,
    options: &'a RepairOptions,
    task: &'a Rebuild,
    outcome: Outcome,
}

impl One<'_> {
    async fn carry(mut self, keepers: Option<Vec<Keeper>>) -> Outcome {
        let task = self.task;
        let Some(keepers) = keepers else {
            tracing::debug!(block = %task.block.short(), "not everybody is known who keeps it");
            self.outcome.carried.failed += task.missing.len() as u64;
            return self.outcome;
        };
        let keepers = self.living(keepers).await;
        // Given up since it was planned, or nobody says for whom it is kept.
        if !keepers.iter().any(|keeper| keeper.is_closed) {
            self.outcome.carried.idle += 1;
            return self.outcome;
        }
        let wanted: IndexSet = task.missing.iter().map(|(index, _)| *index).collect();
        let held = task.holders.iter().map(|(_, held)| *held);
        let held = held.fold(IndexSet::EMPTY, IndexSet::union);
        let copied = IndexSet(wanted.0 & held.0);
        let made = wanted.minus(held);
        let mut shards = Vec::new();
        if !copied.is_empty() {
            let holders = task.holders.iter();
            let holders: Vec<(PeerId, IndexSet)> = holders
                .map(|(peer, held)| (*peer, IndexSet(held.0 & copied.0)))
                .collect();
            shards = self.gather(&holders, copied.len()).await;
        }
        if !made.is_empty() {
            shards.extend(self.make(made).await);
        }
        let missed = task.missing.len().saturating_sub(shards.len());
        self.outcome.carried.failed += missed as u64;
        for shard in shards {
            let index = shard.id().index;
            let target = task.missing.iter().find(|(missing, _)| *missing == index);
            if let Some((_, target)) = target {
                self.hand_over(shard, *target, &keepers).await;
            }
        }
        self.outcome
    }

    /// Those of these claims that have not ended by what the peers know that are to get a shard; the holders are told
    /// of the others.
    async fn living(&self, mut keepers: Vec<Keeper>) -> Vec<Keeper> {
        let task = self.task;
        let own = self.blocks.net().own();
        let holders: Vec<PeerId> = task.holders.iter().map(|(peer, _)| *peer).collect();
        let targets: BTreeSet<PeerId> = task.missing.iter().map(|(_, target)| *target).collect();
        let others = targets.into_iter();
        let others = others.filter(|peer| !holders.contains(peer) && *peer != own);
        let leftover = Leftover {
            block: task.block,
            others: others.collect(),
            holders,
        };
        let mut endings = Endings::default();
        let case = [(&leftover, keepers.clone())];
        endings::settle_known(self.blocks, &case, &mut endings).await;
        keepers.retain(|keeper| !endings.ended.contains(&keeper.claim));
        keepers
    }

    async fn gather(&mut self, holders: &[(PeerId, IndexSet)], need: usize) -> Vec<VerifiedShard> {
        let gathered = self.blocks.gather(self.task.block, holders, need).await;
        let read: usize = gathered.shards.iter().map(|s| s.data().len()).sum();
        let carried = &mut self.outcome.carried;
        carried.read_bytes += read as u64;
        carried.moved_bytes += gathered.received_bytes;
        let once: BTreeSet<PeerId> = gathered.disappointing.into_iter().collect();
        self.outcome.disappointing.extend(once);
        gathered.shards
    }

    /// Makes shards anew from enough others.
    async fn make(&mut self, wanted: IndexSet) -> Vec<VerifiedShard> {
        let task = self.task;
        let need = task.profile.data_shards();
        let shards = self.gather(&task.holders, need).await;
        if shards.len() < need {
            tracing::debug!(block = %task.block.short(), have = shards.len(), "too few shards to repair from");
            return Vec::new();
        }
        match self.blocks.regenerate(shards, wanted).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(block = %task.block, "cannot be repaired: {error}");
                Vec::new()
            }
        }
    }

    async fn hand_over(&mut self, shard: VerifiedShard, target: PeerId, keepers: &[Keeper]) {
        let (blocks, options) = (self.blocks, self.options);
        let bytes = shard.data().len() as u64;
        let (block, index) = (self.task.block, shard.id().index);
        let placed = match keepers::hand_on(blocks, options, block, target, keepers).await {
            HandedOn::Done => place_for_any(blocks, options, &shard, target, keepers).await,
            HandedOn::Refused => Placed::Refused,
            HandedOn::Failed => Placed::Failed,
        };
        let carried = &mut self.outcome.carried;
        match placed {
            Placed::Done => {
                match self.task.purpose {
                    Purpose::Mend => {
                        carried.made += 1;
                        carried.made_bytes += bytes;
                    }
                    Purpose::Move => {
                        carried.relocated += 1;
                        carried.relocated_bytes += bytes;
                        self.outcome
                            .displaced
                            .extend(self.task.displaced(index, target));
                    }
                }
                if target != blocks.net().own() {
                    carried.moved_bytes += bytes;
                }
            }
            Placed::Refused => {
                carried.failed += 1;
                self.outcome.refusals.push((block, target));
            }
            Placed::Failed => {
                carried.failed += 1;
                self.outcome.unwilling.push(target);
            }
        }
    }
}

/// What came of handing a shard on.
enum Placed {
    Done,
    /// There everything that keeps the block was given up.
    Refused,
    Failed,
}

/// Makes a shard durable at a peer under the first few claims of which any is alive there; it was told of all of them.
async fn place_for_any(
    blocks: &Blocks,
    options: &RepairOptions,
    shard: &VerifiedShard,
    target: PeerId,
    keepers: &[Keeper],
) -> Placed {
    for some in keepers.chunks(KEEPERS_MAX).take(TRIES) {
        match place(blocks, options, shard.clone(), target, some).await {
            Placed::Refused => {}
            other => return other,
        }
    }
    Placed::Refused
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
