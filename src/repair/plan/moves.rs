//! Moving what is safe to where it belongs: to whom placement gives it once members came, went, or changed what they
//! offer, and away from whom leaves.
//!
//! Laws, each with a test: a move is a copy first, and what is let go afterwards makes the block survive no less; nothing moves
//! between two that both belong to it, nor while something is missing or there twice; whoever is away keeps its place, and who has no room
//! takes nothing; each displaced shard is copied once, and then all rests.

use std::collections::BTreeMap;

use super::{BlockState, Candidate, Standing, survives};
use crate::base::{IndexSet, PeerId};

/// A shard that is to lie elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub index: u8,
    /// Who has it.
    pub from: PeerId,
    /// Who gets it.
    pub to: PeerId,
}

/// Who is to hold one shard each: the first `total` candidates that can. Whoever has some of the block stays, even if it is
/// full; whoever is away, and not for good, keeps its place; whoever has none must have plenty of room.
pub fn rightful(state: &BlockState, candidates: &[Candidate]) -> Vec<PeerId> {
    let holds = |peer: &PeerId| !state.held_by(peer).is_empty();
    let belongs = candidates
        .iter()
        .filter(|candidate| match candidate.standing {
            Standing::Dead => false,
            Standing::Away => true,
            Standing::Live => holds(&candidate.peer) || candidate.has_room && candidate.has_plenty,
        });
    let first = belongs.take(state.profile.total_shards());
    first.map(|candidate| candidate.peer).collect()
}

impl BlockState {
    /// What a peer holds.
    pub(in crate::repair) fn held_by(&self, peer: &PeerId) -> IndexSet {
        let of = self.holders.iter().filter(|(holder, _)| holder == peer);
        of.fold(IndexSet::EMPTY, |all, (_, held)| all.union(*held))
    }
}

/// The shards that only peers have who leave, and one who has each.
pub(super) fn of_leavers(state: &BlockState, candidates: &[Candidate]) -> Vec<(u8, PeerId)> {
    let stays = |peer: &PeerId| candidates.iter().any(|c| c.peer == *peer);
    let holders = state.holders.iter().copied();
    let (here, leaving): (Vec<_>, Vec<_>) = holders.partition(|(peer, _)| stays(peer));
    let safe = here
        .iter()
        .fold(IndexSet::EMPTY, |all, (_, held)| all.union(*held));
    let mut found = BTreeMap::new();
    for (peer, held) in leaving {
        for index in held.minus(safe).iter() {
            found.entry(index).or_insert(peer);
        }
    }
    found.into_iter().collect()
}

/// What is to be moved of a block of which nothing is missing, and how many shards of peers that leave nobody can take.
pub(super) fn plan(state: &BlockState, candidates: &[Candidate]) -> (Vec<Moved>, usize) {
    let leaving = of_leavers(state, candidates);
    let mut moves = hand_over(state, candidates, &leaving);
    let before = survives(&state.holders, state.profile);
    // Those that come last go where there is some of it already: what would survive less among those who stay is not moved.
    while !moves.is_empty() && survives(&after(state, candidates, &moves), state.profile) < before {
        moves.pop();
    }
    let stranded = leaving.len() - moves.len();
    moves.extend(displaced(state, candidates, &moves));
    (moves, stranded)
}

/// What whoever leaves has goes to those who have the fewest of the block, the better ranked first.
fn hand_over(state: &BlockState, candidates: &[Candidate], leaving: &[(u8, PeerId)]) -> Vec<Moved> {
    let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
    for (peer, held) in &state.holders {
        *load.entry(*peer).or_default() += held.len();
    }
    let mut moves = Vec::with_capacity(leaving.len());
    for (index, from) in leaving {
        let usable = candidates.iter().filter(|c| c.is_usable());
        let least = usable.min_by_key(|c| load.get(&c.peer).copied().unwrap_or(0));
        let Some(to) = least.map(|candidate| candidate.peer) else {
            break;
        };
        *load.entry(to).or_default() += 1;
        moves.push(Moved {
            index: *index,
            from: *from,
            to,
        });
    }
    moves
}

/// What is held once those who leave have let go what others have.
fn after(state: &BlockState, candidates: &[Candidate], moves: &[Moved]) -> Vec<(PeerId, IndexSet)> {
    let mut held: BTreeMap<PeerId, IndexSet> = BTreeMap::new();
    for candidate in candidates {
        held.insert(candidate.peer, state.held_by(&candidate.peer));
    }
    for moved in moves {
        held.entry(moved.to).or_default().insert(moved.index);
    }
    let safe = held
        .values()
        .fold(IndexSet::EMPTY, |all, held| all.union(*held));
    for (peer, has) in &state.holders {
        held.entry(*peer).or_insert_with(|| has.minus(safe));
    }
    held.into_iter().collect()
}

/// What somebody holds who does not belong to the block any more goes to those who do and have none of it.
fn displaced(state: &BlockState, candidates: &[Candidate], before: &[Moved]) -> Vec<Moved> {
    let mut once = IndexSet::EMPTY;
    for candidate in candidates {
        let held = state.held_by(&candidate.peer);
        if once.minus(held).len() < once.len() {
            // What is there twice is let go first: then it shows who has none.
            return Vec::new();
        }
        once = once.union(held);
    }
    let rightful = rightful(state, candidates);
    let gets = |peer: &PeerId| before.iter().any(|moved| moved.to == *peer);
    let has_none = candidates.iter().filter(|candidate| {
        candidate.is_usable()
            && rightful.contains(&candidate.peer)
            && state.held_by(&candidate.peer).is_empty()
            && !gets(&candidate.peer)
    });
    // The last in the ranking is displaced first.
    let outside = candidates.iter().rev();
    let outside = outside.filter(|candidate| !rightful.contains(&candidate.peer));
    let shards = outside.flat_map(|candidate| {
        let held = state.held_by(&candidate.peer);
        let each: Vec<u8> = held.iter().collect();
        each.into_iter().map(|index| (index, candidate.peer))
    });
    has_none
        .zip(shards)
        .map(|(to, (index, from))| Moved {
            index,
            from,
            to: to.peer,
        })
        .collect()
}

/// Which of the shards of a peer that leaves are at peers that stay, and at whom: those it may let go, unless the block would
/// survive less without them.
pub fn handed_over(
    state: &BlockState,
    candidates: &[Candidate],
    leaver: PeerId,
) -> Vec<(u8, PeerId)> {
    let before = survives(&state.holders, state.profile);
    let mut found = Vec::new();
    let mut rest = state.holders.clone();
    for index in state.held_by(&leaver).iter() {
        let has = |candidate: &&Candidate| {
            candidate.peer != leaver && state.held_by(&candidate.peer).contains(index)
        };
        let Some(other) = candidates.iter().find(has) else {
            continue;
        };
        let mut without = rest.clone();
        for (_, held) in without.iter_mut().filter(|(peer, _)| *peer == leaver) {
            held.remove(index);
        }
        if survives(&without, state.profile) >= before {
            rest = without;
            found.push((index, other.peer));
        }
    }
    found
}

#[cfg(test)]
#[path = "moves_laws.rs"]
mod laws;
