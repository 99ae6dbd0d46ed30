//! Who is asked first for a group, and who gets which shard of a new stripe.

use std::collections::BTreeMap;

use super::hrw::score;
use crate::base::{EcProfile, Group, PeerId};

/// A member that may hold blocks of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Who.
    pub peer: PeerId,
    /// Its weight, see [`super::hrw::weight`]; without weight it is no candidate.
    pub weight: f64,
    /// Its failure domain, by its own word. The empty one stands for "unknown": such peers share nothing.
    pub zone: &'a str,
    /// The invitation that it shares with others; empty if it was vouched for.
    pub invitation: &'a str,
}

/// All candidates with weight in order of preference. The first n are the holders for a profile
/// of n shards, those after them take over, in order, for holders that are full or away.
///
/// Best score first, but a candidate whose zone or invitation was used is passed over while others are
/// left; when all were used once, each may be used a second time, and so on. So nobody gathers a stripe
/// by naming zones for many peers that one ticket let in; among those that share both the rarer zone
/// comes first. The order does not depend on that of the input, nor on n.
pub fn rank(group: Group, candidates: &[Candidate<'_>]) -> Vec<PeerId> {
    let mut scored: Vec<(f64, &Candidate<'_>)> = candidates
        .iter()
        .filter(|candidate| candidate.weight > 0.0)
        .map(|candidate| (score(group, &candidate.peer, candidate.weight), candidate))
        .collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.peer.cmp(&b.1.peer)));

    let mut left: Vec<&Candidate<'_>> = scored.iter().map(|(_, candidate)| *candidate).collect();
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    let mut invitations: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let shared = |candidate: &&Candidate<'_>| {
            let zone = zones.get(candidate.zone).copied().unwrap_or(0);
            let invitation = invitations.get(candidate.invitation).copied().unwrap_or(0);
            (zone.max(invitation), zone + invitation)
        };
        // The first of those that share least: the one with the best score.
        let least = left.iter().enumerate().min_by_key(|(_, c)| shared(c));
        let Some(at) = least.map(|(at, _)| at) else {
            break;
        };
        let next = left.remove(at);
        ranked.push(next.peer);
        for (used, name) in [(&mut zones, next.zone), (&mut invitations, next.invitation)] {
            if !name.is_empty() {
                *used.entry(name).or_default() += 1;
            }
        }
    }
    ranked
}

/// Who gets which shard of a new stripe: pairs of shard index and peer, ascending by index.
///
/// `ranked` is what [`rank`] returned; `usable` tells who is there and has room. The i-th of the
/// ranking gets shard i. The shard of one that is not usable goes to the next usable candidate after
/// the first n, so the others keep theirs. With fewer than n usable peers some get several shards,
/// evenly; a lone one gets the data shards only, since parity beside them protects nothing. Empty
/// if nobody is usable.
pub fn assign(
    ranked: &[PeerId],
    mut usable: impl FnMut(&PeerId) -> bool,
    profile: EcProfile,
) -> Vec<(u8, PeerId)> {
    let total = profile.total_shards();
    let usable: Vec<(usize, PeerId)> = ranked
        .iter()
        .enumerate()
        .filter(|(_, peer)| usable(peer))
        .map(|(place, peer)| (place, *peer))
        .collect();
    if let [(_, lone)] = usable.as_slice() {
        return (0..profile.data_shards())
            .map(|index| (index as u8, *lone))
            .collect();
    }

    let mut owner: Vec<Option<PeerId>> = vec![None; total];
    let mut load: Vec<(PeerId, usize)> = Vec::with_capacity(usable.len());
    let mut substitutes = Vec::new();
    for (place, peer) in usable {
        match owner.get_mut(place) {
            Some(slot) => {
                *slot = Some(peer);
                load.push((peer, 1));
            }
            None => substitutes.push(peer),
        }
    }
    let mut substitutes = substitutes.into_iter();
    for slot in owner.iter_mut().filter(|slot| slot.is_none()) {
        if let Some(peer) = substitutes.next() {
            *slot = Some(peer);
            load.push((peer, 1));
        } else if let Some((peer, count)) = load.iter_mut().min_by_key(|(_, count)| *count) {
            *slot = Some(*peer);
            *count += 1;
        }
    }
    owner
        .into_iter()
        .enumerate()
        .filter_map(|(index, peer)| peer.map(|peer| (index as u8, peer)))
        .collect()
}
