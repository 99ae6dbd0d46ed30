//! The claims on a block, all of them: who knows which, and handing them on before a shard is.
//!
//! A peer tells a few claims of each of many blocks at once. Who told as many as that may know more of that block, and is
//! asked for all of them, page by page. A shard that was kept for some of its block's claims only would be let go with
//! those, while others still rely on it.

use std::collections::BTreeMap;

use futures::stream::{FuturesUnordered, StreamExt};

use super::message::{Ask, KEPT_MAX, Say};
use super::plan::Rebuild;
use super::survey::ask;
use super::{RepairOptions, serve};
use crate::base::{BlockId, ClaimId, Class, Classify, PeerId};
use crate::blocks::Blocks;
use crate::net::{Refusal, Response};
use crate::store::{KEEPERS_MAX, KEEPERS_PAGE, Keeper};

/// Most pages of one block's claims that are taken from one peer.
const PAGES_MAX: usize = 256;

/// All claims on a block, as far as one peer knows them.
enum Known {
    All(Vec<Keeper>),
    /// There are more than these, which it did not tell.
    Some(Vec<Keeper>),
}

/// The claims on each of these blocks, as all of their holders know them; a block is left out if none of those who know
/// more than they told at once told the rest.
pub(super) async fn of_tasks(blocks: &Blocks, tasks: &[Rebuild]) -> BTreeMap<BlockId, Vec<Keeper>> {
    let of_task = |task: &Rebuild| {
        let holders = task.holders.iter().map(|(peer, _)| *peer);
        (task.block, holders.collect())
    };
    of_blocks(blocks, tasks.iter().map(of_task).collect()).await
}

/// As [`of_tasks`], of blocks with their holders.
pub(super) async fn of_blocks(
    blocks: &Blocks,
    wanted: Vec<(BlockId, Vec<PeerId>)>,
) -> BTreeMap<BlockId, Vec<Keeper>> {
    let mut of_peer: BTreeMap<PeerId, Vec<BlockId>> = BTreeMap::new();
    for (block, holders) in wanted {
        for peer in holders {
            of_peer.entry(peer).or_default().push(block);
        }
    }
    let mut answers: FuturesUnordered<_> = of_peer
        .into_iter()
        .map(|(peer, wanted)| at_peer(blocks, peer, wanted))
        .collect();
    let mut merged: BTreeMap<BlockId, Merged> = BTreeMap::new();
    while let Some(found) = answers.next().await {
        for (block, known) in found {
            merged.entry(block).or_default().add(known);
        }
    }
    let whole = merged.into_iter().filter(|(_, merged)| merged.is_all());
    whole
        .map(|(block, merged)| (block, merged.in_order()))
        .collect()
}

/// All claims on a block that a peer knows; none if it did not tell them.
pub(super) async fn all_at(blocks: &Blocks, peer: PeerId, block: BlockId) -> Option<Vec<Keeper>> {
    let found = at_peer(blocks, peer, vec![block]).await;
    match found.into_iter().next() {
        Some((_, Known::All(keepers))) => Some(keepers),
        _ => None,
    }
}

#[derive(Default)]
struct Merged {
    known: BTreeMap<ClaimId, Keeper>,
    /// Peers that told a part, and that told all although it was much.
    partly: usize,
    whole: usize,
}

impl Merged {
    fn add(&mut self, known: Known) {
        let keepers = match known {
            Known::All(keepers) => {
                self.whole += usize::from(keepers.len() >= KEEPERS_MAX);
                keepers
            }
            Known::Some(keepers) => {
                self.partly += 1;
                keepers
            }
        };
        for keeper in keepers {
            let entry = self.known.entry(keeper.claim).or_insert(keeper);
            entry.is_closed |= keeper.is_closed;
            entry.expires_ms = entry.expires_ms.max(keeper.expires_ms);
        }
    }

    /// One that does not tell the rest must not keep the block from being repaired.
    const fn is_all(&self) -> bool {
        self.partly == 0 || self.whole > 0
    }

    /// Those that keep for good first.
    fn in_order(self) -> Vec<Keeper> {
        let mut keepers: Vec<Keeper> = self.known.into_values().collect();
        keepers.sort_by_key(|keeper| !keeper.is_closed);
        keepers
    }
}

async fn at_peer(blocks: &Blocks, peer: PeerId, mut wanted: Vec<BlockId>) -> Vec<(BlockId, Known)> {
    wanted.truncate(KEPT_MAX);
    let found = if peer == blocks.net().own() {
        blocks.store().keepers(wanted.clone()).await.ok()
    } else {
        let question = Ask::Keepers {
            blocks: wanted.clone(),
        };
        let timeout = blocks.limits().request_timeout;
        match ask(blocks, peer, &question, timeout).await {
            Some(Ok(Say::Keepers { keepers })) if keepers.len() == wanted.len() => Some(keepers),
            _ => None,
        }
    };
    let mut all = Vec::with_capacity(wanted.len());
    for (block, keepers) in wanted.into_iter().zip(found.unwrap_or_default()) {
        let known = match keepers.len() < KEEPERS_MAX {
            true => Known::All(keepers),
            false => rest(blocks, peer, block, keepers).await,
        };
        all.push((block, known));
    }
    all
}

/// All claims of a block at a peer that told `first` and may know more.
async fn rest(blocks: &Blocks, peer: PeerId, block: BlockId, first: Vec<Keeper>) -> Known {
    let mut all = Vec::new();
    let mut from = 0;
    for _ in 0..PAGES_MAX {
        let page = match peer == blocks.net().own() {
            true => {
                let page = blocks.store().keepers_from(block, from, KEEPERS_PAGE);
                page.await.ok()
            }
            false => {
                let question = Ask::Claims { block, from };
                match ask(blocks, peer, &question, blocks.limits().request_timeout).await {
                    Some(Ok(Say::Claims { keepers, next })) => Some((keepers, next)),
                    _ => None,
                }
            }
        };
        let Some((keepers, next)) = page else { break };
        all.extend(keepers);
        match next {
            None => return Known::All(all),
            Some(next) if next > from => from = next,
            // It would never end.
            Some(_) => break,
        }
    }
    Known::Some(first)
}

/// What a peer said to being told for whom it is to keep a block.
pub(super) enum HandedOn {
    /// It does; or is of an earlier version, and hears of some with the shard.
    Done,
    /// There everything that keeps the block was given up.
    Refused,
    Failed,
}

/// Has `target` keep a block for all of these before it gets a shard of it. Few go with the shard itself.
pub(super) async fn hand_on(
    blocks: &Blocks,
    options: &RepairOptions,
    block: BlockId,
    target: PeerId,
    keepers: &[Keeper],
) -> HandedOn {
    if keepers.len() <= KEEPERS_MAX {
        return HandedOn::Done;
    }
    let mut is_kept = false;
    for page in keepers.chunks(KEEPERS_PAGE) {
        if target == blocks.net().own() {
            match serve::keep(blocks, &options.serving, block, page.to_vec()).await {
                Ok(kept) => is_kept |= kept,
                Err(error) => {
                    if error.class() == Class::Full {
                        blocks.note_full(&target);
                    }
                    return HandedOn::Failed;
                }
            }
            continue;
        }
        let question = Ask::Keep {
            block,
            keepers: page.to_vec(),
        };
        match ask(blocks, target, &question, blocks.limits().request_timeout).await {
            Some(Ok(Say::Done)) => is_kept = true,
            Some(Err(Response::Refused {
                reason: Refusal::Denied,
                ..
            })) => {}
            Some(Err(Response::Refused {
                reason: Refusal::Full,
                ..
            })) => {
                blocks.note_full(&target);
                return HandedOn::Failed;
            }
            Some(Err(Response::Unsupported)) => return HandedOn::Done,
            _ => return HandedOn::Failed,
        }
    }
    match is_kept {
        true => HandedOn::Done,
        false => HandedOn::Refused,
    }
}
