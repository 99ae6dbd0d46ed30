//! The judgement of one block, as a function of what is known: what is missing, who makes it anew, and where it goes.
//!
//! Laws, each with a test: nothing is made that a peer may still have that may come back; nothing that is there; never
//! more than is missing; what is there is copied only to whom has fewer of it, and comes to rest; where views agree there
//! is one leader. Those of moving are in [`moves`].

pub mod moves;

use std::collections::BTreeMap;

use self::moves::Moved;
use crate::base::{BlockId, EcProfile, IndexSet, PeerId};
use crate::placement;

/// What is to be expected of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It answers.
    Live,
    /// It does not, and may come back: what it holds counts as kept.
    Away,
    /// It has been away for so long that what it holds counts as lost.
    Dead,
}

/// A candidate of a block's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// What is to be expected of it.
    pub standing: Standing,
    /// Whether it takes new shards.
    pub has_room: bool,
    /// Whether there is room enough that shards which are safe already are moved to it as well.
    pub has_plenty: bool,
    /// Whether others get new shards in its place, as long as there are enough.
    pub is_displaced: bool,
}

impl Candidate {
    /// Whether it can be handed a shard now.
    const fn is_usable(&self) -> bool {
        matches!(self.standing, Standing::Live) && self.has_room
    }
}

/// What is known of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockState {
    /// The block.
    pub block: BlockId,
    /// How it is coded.
    pub profile: EcProfile,
    /// Whether somebody keeps it for good.
    pub is_kept: bool,
    /// Length of a shard.
    pub shard_bytes: u32,
    /// Live peers, and what each holds. Whoever of them is no candidate is about to leave the network.
    pub holders: Vec<(PeerId, IndexSet)>,
    /// What peers that may come back hold, as far as is known or was to be expected.
    pub absent: IndexSet,
}

/// Why something is done about a block, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Something is missing, or lies where it survives less than it could.
    Mend,
    /// All is safe, and belongs elsewhere since members came, left or changed what they offer.
    Move,
}

/// Shards of one block to be made anew, or to be copied to where they are better kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// The block.
    pub block: BlockId,
    /// How it is coded.
    pub profile: EcProfile,
    /// Length of a shard.
    pub shard_bytes: u32,
    /// Live peers, and what each holds.
    pub holders: Vec<(PeerId, IndexSet)>,
    /// Each shard, and the peer that gets it.
    pub missing: Vec<(u8, PeerId)>,
    /// Lost peers that it survives as it is.
    pub survives: usize,
    /// Why.
    pub purpose: Purpose,
}

impl Rebuild {
    /// Whether any of it has to be made anew; otherwise all are copies.
    pub fn is_missing(&self) -> bool {
        let is_held = |index: u8| self.holders.iter().any(|(_, held)| held.contains(index));
        self.missing.iter().any(|(index, _)| !is_held(*index))
    }

    /// Who had a shard that `to` has by now.
    pub(super) fn displaced(&self, index: u8, to: PeerId) -> Option<Surplus> {
        let mut others = self.holders.iter().filter(|(peer, _)| *peer != to);
        let (at, _) = others.find(|(_, held)| held.contains(index))?;
        Some(Surplus {
            block: self.block,
            index,
            at: *at,
            other: to,
        })
    }
}

/// A shard that somebody else has as well, while none is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surplus {
    /// The block.
    pub block: BlockId,
    /// Which shard.
    pub index: u8,
    /// Who may let it go.
    pub at: PeerId,
    /// Who keeps it.
    pub other: PeerId,
}

/// What is to be done about a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is whole, or as whole as it can be now.
    Nothing,
    /// Shards are to be made.
    Rebuild(Rebuild),
    /// All shards are there, several of them at one peer although others could have them: some are to be copied. The
    /// first copies are then there twice, and are let go as such.
    Spread(Rebuild),
    /// Nothing yet: nobody keeps it for good so far.
    NotKept,
    /// It cannot be read now. Peers that are away may have what is missing.
    Unreadable,
    /// Too few shards are left although everybody who may have more is here: what somebody kept who did not
    /// hear that it was given up.
    Leftover,
}

/// The judgement of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What is to be done.
    pub verdict: Verdict,
    /// Lost peers that it survives now; none if it cannot be read.
    pub survives: Option<usize>,
    /// Shards that no live peer holds and that are to be made anew, even if there is no room for them.
    pub missing: usize,
    /// Shards that peers may bring back.
    pub waiting: usize,
    /// A shard that is there twice.
    pub surplus: Option<Surplus>,
    /// Shards that belong elsewhere; only where nothing else is to be done.
    pub moves: Vec<Moved>,
    /// Shards that only peers have who leave, and that nobody can take over now.
    pub stranded: usize,
}

/// Who looks after a group: the first of its candidates, in order, that is live.
pub fn leader(candidates: &[Candidate]) -> Option<PeerId> {
    let live = |candidate: &&Candidate| candidate.standing == Standing::Live;
    candidates.iter().find(live).map(|first| first.peer)
}

/// The candidates as they count for a stripe of so many shards: whoever is displaced has no room, unless there are too few
/// others that have.
pub fn displaced(candidates: &[Candidate], total: usize) -> Vec<Candidate> {
    let is_other = |candidate: &&Candidate| candidate.is_usable() && !candidate.is_displaced;
    let is_enough = candidates.iter().filter(is_other).count() >= total;
    let counted = candidates.iter().map(|candidate| {
        let is_passed_over = candidate.is_displaced && is_enough;
        Candidate {
            has_room: candidate.has_room && !is_passed_over,
            // What is safe is not brought to where it is less so.
            has_plenty: candidate.has_plenty && !candidate.is_displaced,
            ..*candidate
        }
    });
    counted.collect()
}

/// For which holder each of a stripe's shards counts: of several that have it the one with the fewest.
fn counted(holders: &[(PeerId, IndexSet)], all: IndexSet) -> BTreeMap<u8, PeerId> {
    let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
    let mut counted = BTreeMap::new();
    let holders_of = |index: u8| {
        let has = holders.iter().filter(move |(_, held)| held.contains(index));
        has.map(|(peer, _)| *peer)
    };
    let mut indices: Vec<u8> = all.iter().collect();
    // Those with no choice first.
    indices.sort_by_key(|index| holders_of(*index).count());
    for index in indices {
        let least = holders_of(index).min_by_key(|peer| counts.get(peer).copied().unwrap_or(0));
        if let Some(peer) = least {
            *counts.entry(peer).or_default() += 1;
            counted.insert(index, peer);
        }
    }
    counted
}

fn survives(holders: &[(PeerId, IndexSet)], profile: EcProfile) -> Option<usize> {
    let all = IndexSet::first(profile.total_shards());
    let counted = counted(holders, all);
    placement::survives(
        counted.into_values().map(|peer| (peer, 1)),
        profile.data_shards(),
    )
}

/// Judges one block. `candidates` are those of its group, in order of preference.
pub fn judge(state: &BlockState, candidates: &[Candidate]) -> Judgement {
    let profile = state.profile;
    let all = IndexSet::first(profile.total_shards());
    let held = state.holders.iter().map(|(_, held)| *held);
    let present = IndexSet(held.fold(IndexSet::EMPTY, IndexSet::union).0 & all.0);
    let lost = all.minus(present);
    let waiting = IndexSet(lost.0 & state.absent.0);
    let mut judgement = Judgement {
        verdict: Verdict::Nothing,
        survives: survives(&state.holders, profile),
        missing: 0,
        waiting: waiting.len(),
        surplus: None,
        moves: Vec::new(),
        stranded: 0,
    };
    if !state.is_kept {
        judgement.verdict = Verdict::NotKept;
        return judgement;
    }
    if present.len() < profile.data_shards() {
        let is_short = |candidate: &Candidate| candidate.standing != Standing::Live;
        judgement.verdict = match !waiting.is_empty() || candidates.iter().any(is_short) {
            true => Verdict::Unreadable,
            false => Verdict::Leftover,
        };
        return judgement;
    }
    if lost.is_empty() {
        judgement.surplus = surplus(state, candidates);
        let moved = spread_out(state, candidates);
        if !moved.is_empty() {
            judgement.stranded = moves::of_leavers(state, candidates).len();
            // What is there twice is let go first: then it shows who has how much.
            if judgement.surplus.is_none() {
                judgement.verdict = Verdict::Spread(state.task(moved, Purpose::Mend));
            }
            return judgement;
        }
        (judgement.moves, judgement.stranded) = moves::plan(state, candidates);
        return judgement;
    }
    let is_live = |candidate: &&Candidate| candidate.standing == Standing::Live;
    // Parity beside the data of a lone peer protects nothing.
    if candidates.iter().filter(is_live).count() <= 1 {
        match waiting.is_empty() {
            true => (judgement.moves, judgement.stranded) = moves::plan(state, candidates),
            false => judgement.stranded = moves::of_leavers(state, candidates).len(),
        }
        return judgement;
    }
    judgement.stranded = moves::of_leavers(state, candidates).len();
    let wanted = lost.minus(waiting);
    judgement.missing = wanted.len();
    let missing = targets(state, candidates, wanted);
    if !missing.is_empty() {
        judgement.verdict = Verdict::Rebuild(state.task(missing, Purpose::Mend));
    }
    judgement
}

impl BlockState {
    /// What it takes that these peers get these shards of it.
    pub(super) fn task(&self, missing: Vec<(u8, PeerId)>, purpose: Purpose) -> Rebuild {
        Rebuild {
            block: self.block,
            profile: self.profile,
            shard_bytes: self.shard_bytes,
            holders: self.holders.clone(),
            missing,
            survives: survives(&self.holders, self.profile).unwrap_or(0),
            purpose,
        }
    }
}

/// Who of several that have the same shard lets it go: the last in this order. Whoever leaves, or is no candidate any more,
/// goes before all others; then who has most of the block, so that it is spread; then who is ranked worse, so that it
/// comes to lie where it belongs. All that two holders need to agree is the member list.
pub(super) fn order_of_keeping(
    rank: Option<usize>,
    held: IndexSet,
    peer: PeerId,
) -> (bool, usize, usize, PeerId) {
    let is_outside = rank.is_none();
    (is_outside, held.len(), rank.unwrap_or(usize::MAX), peer)
}

/// Which shards are better kept by whom: as long as one peer has at least two more than another could have. The one of its
/// place in the ranking, if it is to be had.
fn spread_out(state: &BlockState, candidates: &[Candidate]) -> Vec<(u8, PeerId)> {
    let all = IndexSet::first(state.profile.total_shards());
    // What somebody has who leaves is handed over whatever others have: it says nothing of how it is spread over those.
    let stays = |peer: &PeerId| candidates.iter().any(|c| c.peer == *peer);
    let here = state.holders.iter().copied();
    let here: Vec<(PeerId, IndexSet)> = here.filter(|(peer, _)| stays(peer)).collect();
    let mut counted = counted(&here, all);
    let place = |peer: &PeerId| candidates.iter().position(|c| c.peer == *peer);
    let held = |peer: &PeerId| {
        let of = state.holders.iter().filter(|(holder, _)| holder == peer);
        of.fold(IndexSet::EMPTY, |all, (_, held)| all.union(*held))
    };
    let mut moved = Vec::new();
    while moved.len() < state.profile.total_shards() {
        let load = |peer: &PeerId| counted.values().filter(|of| *of == peer).count();
        let usable = candidates.iter().filter(|c| c.is_usable());
        // What it has twice with somebody else, and is counted there, it has all the same.
        let has = |peer: &PeerId| load(peer).max(held(peer).len());
        let Some(to) = usable.map(|c| c.peer).min_by_key(has) else {
            break;
        };
        let most = counted.values().max_by_key(|peer| load(peer)).copied();
        let Some(from) = most.filter(|from| load(from) >= has(&to) + 2) else {
            break;
        };
        // What it has already, and is counted elsewhere, it need not be sent.
        let of_from = counted.iter().filter(|(_, peer)| **peer == from);
        let of_from = of_from.map(|(index, _)| *index);
        let choice = of_from.filter(|index| !held(&to).contains(*index));
        let is_place_of = |index: u8, peer: &PeerId| place(peer) == Some(usize::from(index));
        let best =
            choice.max_by_key(|index| (is_place_of(*index, &to), !is_place_of(*index, &from)));
        let Some(index) = best else { break };
        counted.insert(index, to);
        moved.push((index, to));
    }
    moved
}

/// Each shard goes to the candidate that has the fewest of this block, the better ranked first.
fn targets(state: &BlockState, candidates: &[Candidate], wanted: IndexSet) -> Vec<(u8, PeerId)> {
    let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
    for (peer, held) in &state.holders {
        *load.entry(*peer).or_default() += held.len();
    }
    let mut found = Vec::with_capacity(wanted.len());
    for index in wanted.iter() {
        let usable = candidates.iter().filter(|c| c.is_usable());
        let least = usable.min_by_key(|candidate| load.get(&candidate.peer).copied().unwrap_or(0));
        let Some(target) = least.map(|candidate| candidate.peer) else {
            break;
        };
        *load.entry(target).or_default() += 1;
        found.push((index, target));
    }
    found
}

/// The first shard that two live candidates have and one may let go without the block surviving less. Whoever leaves sees to
/// what it has itself, see [`moves::handed_over`].
fn surplus(state: &BlockState, candidates: &[Candidate]) -> Option<Surplus> {
    let rank = |peer: &PeerId| candidates.iter().position(|c| c.peer == *peer);
    let before = survives(&state.holders, state.profile);
    for index in 0..state.profile.total_shards() as u8 {
        let has = state
            .holders
            .iter()
            .filter(|(peer, held)| held.contains(index) && rank(peer).is_some());
        let mut has: Vec<(PeerId, IndexSet)> = has.copied().collect();
        has.sort_by_key(|(peer, held)| order_of_keeping(rank(peer), *held, *peer));
        let (Some((at, _)), Some((other, _))) = (has.last().copied(), has.first().copied()) else {
            continue;
        };
        if at == other {
            continue;
        }
        let mut after = state.holders.clone();
        for (peer, held) in &mut after {
            if *peer == at {
                held.remove(index);
            }
        }
        if survives(&after, state.profile) >= before {
            return Some(Surplus {
                block: state.block,
                index,
                at,
                other,
            });
        }
    }
    None
}

#[cfg(test)]
#[path = "plan_laws.rs"]
mod laws;
