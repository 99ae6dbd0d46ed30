//! Whether a shard of the own store may be let go because somebody else has it too. Whoever says so is not believed.

use std::collections::BTreeSet;

use futures::stream::{FuturesUnordered, StreamExt};

use super::keepers;
use super::message::{Ask, Say};
use super::plan::{Surplus, order_of_keeping};
use super::survey::ask;
use crate::base::{ClaimId, Classify, Entropy, IndexSet, PeerId, ShardId};
use crate::blocks::Blocks;
use crate::erasure::Stripe;
use crate::net::{Reach, Request, Response};
use crate::store::Keeper;

/// Whether `other` proves that it has the shard, keeps its block for all for whom it is kept here, and every other shard
/// of the stripe is held by somebody who can be reached.
pub(super) async fn is_surplus(
    blocks: &Blocks,
    entropy: &Entropy,
    id: ShardId,
    other: PeerId,
) -> bool {
    // Who lies keeps nothing for anybody else. Who is only late does: it has to prove it.
    if other == blocks.net().own() || blocks.peer_stats().is_disbelieved(&other) {
        return false;
    }
    let Ok(Some((shard, _))) = blocks.store().get(id.block, IndexSet::one(id.index)).await else {
        return false;
    };
    let Ok(stripe) = Stripe::new(id.block, shard.header().clone()) else {
        return false;
    };
    drop(shard);
    proves(blocks, entropy, &stripe, id, other).await
        && keeps(blocks, id, other).await
        && is_whole(blocks, &stripe, id, other).await
}

/// Tells somebody that its shard is there twice. It sees for itself, as this peer does if it is its own. Whether it let
/// it go.
pub(super) async fn let_go(blocks: &Blocks, entropy: &Entropy, surplus: Surplus) -> bool {
    let Surplus {
        block,
        index,
        at,
        other,
    } = surplus;
    if at == blocks.net().own() {
        let id = ShardId { block, index };
        if !is_surplus(blocks, entropy, id, other).await {
            return false;
        }
        return match blocks.store().give_up(id).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(class = ?error.class(), "a surplus shard stays: {error}");
                false
            }
        };
    }
    let question = Ask::Surplus {
        block,
        index,
        other,
    };
    let said = ask(blocks, at, &question, blocks.limits().request_timeout).await;
    matches!(said, Some(Ok(Say::Done)))
}

/// Has `other` show a part of the shard that it could not foresee.
async fn proves(
    blocks: &Blocks,
    entropy: &Entropy,
    stripe: &Stripe,
    id: ShardId,
    other: PeerId,
) -> bool {
    let start = entropy.below(u64::from(stripe.header().shard_len)) as u32;
    let request = Request::FetchRange {
        block: id.block,
        index: id.index,
        start,
        end: start.saturating_add(1),
    };
    let timeout = blocks.limits().request_timeout;
    match blocks.net().request(other, request, timeout).await {
        Ok(Response::Range {
            start: at,
            proof,
            data,
            ..
        }) => {
            let part = stripe.verify(id.index, at as usize, data, &proof);
            part.is_ok_and(|part| part.get(&(start..start.saturating_add(1))).is_some())
        }
        _ => false,
    }
}

fn closed(keepers: &[Keeper]) -> BTreeSet<ClaimId> {
    let closed = keepers.iter().filter(|keeper| keeper.is_closed);
    closed.map(|keeper| keeper.claim).collect()
}

/// Whether everybody for whom the block is kept here is one for whom `other` keeps it.
async fn keeps(blocks: &Blocks, id: ShardId, other: PeerId) -> bool {
    let Some(ours) = keepers::all_at(blocks, blocks.net().own(), id.block).await else {
        return false;
    };
    let theirs = keepers::all_at(blocks, other, id.block).await;
    theirs.is_some_and(|theirs| closed(&ours).is_subset(&closed(&theirs)))
}

/// Whether all shards of the stripe are held by somebody, and this peer is the one of both to let go, see
/// [`order_of_keeping`]. So two that are told of one another never do it both. The only one that stays when this peer leaves
/// needs no parity.
async fn is_whole(blocks: &Blocks, stripe: &Stripe, id: ShardId, other: PeerId) -> bool {
    let own = blocks.net().own();
    let Ok(ours) = blocks.store().held(&[id.block]).await else {
        return false;
    };
    let ours = ours.first().copied().unwrap_or_default();
    let candidates = blocks.group_peers(id.block.group()).await;
    let live = candidates.iter().filter(|candidate| candidate.is_live());
    let mut peers: BTreeSet<PeerId> = live.map(|candidate| candidate.peer).collect();
    let is_last = peers.len() == 1 && peers.contains(&other);
    peers.insert(other);
    // Whoever leaves has what it has until others have it.
    let leavers = blocks.leavers().into_iter();
    let leavers = leavers.filter(|(_, reach)| !matches!(reach, Reach::Away { .. }));
    peers.extend(leavers.map(|(peer, _)| peer));
    peers.remove(&own);
    let mut answers: FuturesUnordered<_> = peers
        .into_iter()
        .map(|peer| {
            let request = Request::Have {
                blocks: vec![id.block],
            };
            let timeout = blocks.limits().request_timeout;
            async move { (peer, blocks.net().request(peer, request, timeout).await) }
        })
        .collect();
    let mut theirs = IndexSet::EMPTY;
    let mut present = ours;
    while let Some((peer, answer)) = answers.next().await {
        if let Ok(Response::Held { held }) = answer {
            let held = held.first().copied().unwrap_or_default();
            present = present.union(held);
            if peer == other {
                theirs = held;
            }
        }
    }
    let rank = |peer: &PeerId| candidates.iter().position(|c| c.peer == *peer);
    let of = |peer: PeerId, held| order_of_keeping(rank(&peer), held, peer);
    let profile = stripe.header().profile;
    let all = IndexSet::first(profile.total_shards());
    let is_whole = all.minus(present).is_empty();
    let is_enough = is_last && rank(&own).is_none() && theirs.len() >= profile.data_shards();
    theirs.contains(id.index) && (is_whole || is_enough) && of(own, ours) > of(other, theirs)
}
