//! Finding out what the holders of a group have: digests first, lists only where those do not say it all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

use super::message::{Ask, GroupSet, Say, Tally};
use super::pattern::Patterns;
use super::plan::{BlockState, Candidate, Standing};
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, EcProfile, Group, IndexSet, PeerId};
use crate::blocks::Blocks;
use crate::net::{Request, Response};
use crate::store::{Digest, Holding};

/// Most pages of one group's list that are taken from one peer.
const PAGES_MAX: usize = 256;

/// What a peer said to a question about everything.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) digest: Digest,
    pub(super) groups: Arc<GroupSet>,
    pub(super) tally: Tally,
    /// Whether it does not know such questions: its program is of an earlier version.
    pub(super) is_old: bool,
}

/// In which groups each peer said it holds something. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedRoots(Arc<Mutex<BTreeMap<PeerId, Arc<GroupSet>>>>);

impl SharedRoots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Arc<GroupSet>>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn set(&self, roots: &BTreeMap<PeerId, Root>) {
        let groups = roots.iter().map(|(peer, root)| (*peer, &root.groups));
        *self.lock() = groups.map(|(peer, of)| (peer, Arc::clone(of))).collect();
    }

    pub(super) fn of(&self, peer: &PeerId) -> Option<Arc<GroupSet>> {
        self.lock().get(peer).cloned()
    }
}

/// Asks one peer; none if no answer came, or nonsense.
pub(super) async fn ask(
    blocks: &Blocks,
    to: PeerId,
    ask: &Ask,
    timeout: Duration,
) -> Option<Result<Say, Response>> {
    match blocks.ask_upkeep(to, ask.encode(), timeout).await {
        Ok(Response::Upkeep { body }) => match Say::decode(&body) {
            Ok(say) => Some(Ok(say)),
            Err(error) => {
                tracing::debug!(peer = %to.short(), "{error}");
                None
            }
        },
        Ok(Response::Busy) => None,
        Ok(other) => Some(Err(other)),
        Err(error) => {
            tracing::debug!(peer = %to.short(), "says nothing about upkeep: {error}");
            None
        }
    }
}

/// Asks these peers for what they hold all in all; those that did not answer are not among the result.
pub(super) async fn roots(
    blocks: &Blocks,
    peers: &[PeerId],
    known: &BTreeMap<PeerId, Root>,
    timeout: Duration,
) -> BTreeMap<PeerId, Root> {
    let mut answers: FuturesUnordered<_> = peers
        .iter()
        .map(|peer| async move {
            let before = known.get(peer).filter(|root| !root.is_old);
            let question = Ask::Root {
                known: before.map_or(Digest::EMPTY, |root| root.digest),
            };
            (*peer, before, ask(blocks, *peer, &question, timeout).await)
        })
        .collect();
    let mut found = BTreeMap::new();
    while let Some((peer, before, answer)) = answers.next().await {
        let root = match answer {
            Some(Ok(Say::Root {
                digest,
                groups,
                tally,
            })) => {
                let unchanged = before.filter(|root| root.digest == digest);
                // Nothing at all is what nobody need list.
                let groups = groups.map(Arc::new);
                let groups = groups.or_else(|| unchanged.map(|root| Arc::clone(&root.groups)));
                Root {
                    digest,
                    groups: groups.unwrap_or_default(),
                    tally,
                    is_old: false,
                }
            }
            Some(Err(Response::Unsupported)) => Root {
                digest: Digest::EMPTY,
                groups: Arc::default(),
                tally: Tally::default(),
                is_old: true,
            },
            _ => continue,
        };
        found.insert(peer, root);
    }
    found
}

/// The digests of groups at one peer; none if it did not answer.
pub(super) async fn digests(
    blocks: &Blocks,
    peer: PeerId,
    groups: Vec<Group>,
    timeout: Duration,
) -> Option<BTreeMap<Group, Digest>> {
    let question = Ask::Groups {
        groups: groups.clone(),
    };
    match ask(blocks, peer, &question, timeout).await {
        Some(Ok(Say::Groups { digests })) if digests.len() == groups.len() => {
            Some(groups.into_iter().zip(digests).collect())
        }
        _ => None,
    }
}

/// All that the own store knows of a group.
pub(super) async fn own_list(blocks: &Blocks, group: Group) -> Option<Vec<Holding>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = blocks
            .store()
            .holdings(Some(group), after, BATCH_BLOCKS_MAX);
        let (page, next) = page.await.ok()?;
        all.extend(page);
        after = next;
        if after.is_none() {
            return Some(all);
        }
    }
}

/// All that a peer knows of a group; none if it did not answer.
async fn list(
    blocks: &Blocks,
    peer: PeerId,
    group: Group,
    timeout: Duration,
) -> Option<Vec<Holding>> {
    let mut all: Vec<Holding> = Vec::new();
    for _ in 0..PAGES_MAX {
        let after = all.last().map(|holding| holding.block);
        let answer = ask(blocks, peer, &Ask::List { group, after }, timeout).await;
        let Some(Ok(Say::List {
            blocks: page,
            is_all,
        })) = answer
        else {
            return None;
        };
        // In order and of this group, or it would never end.
        let is_behind = |holding: &Holding| {
            holding.block.group() == group && after.is_none_or(|after| holding.block > after)
        };
        if !page.iter().all(is_behind) {
            return None;
        }
        let is_empty = page.is_empty();
        all.extend(page);
        if is_all || is_empty {
            return Some(all);
        }
    }
    None
}

/// The digests of a group of which these are the blocks.
fn patterns(ours: &[Holding]) -> Patterns {
    let coded = ours.iter().filter_map(|held| {
        let profile = held.profile.filter(|_| !held.held.is_empty())?;
        Some((held.block, profile))
    });
    Patterns::new(coded)
}

/// What somebody has of the blocks of which something is here, if it has these shards of each.
fn by_pattern(ours: &[Holding], held: &[(EcProfile, u8)]) -> Vec<Holding> {
    let ours = ours.iter().filter(|holding| !holding.held.is_empty());
    let theirs = ours.map(|holding| {
        let has = held.iter().filter(|(of, _)| Some(*of) == holding.profile);
        Holding {
            held: has.map(|(_, index)| *index).collect(),
            // What keeps it is this peer's own knowledge.
            ..*holding
        }
    });
    theirs.collect()
}

/// What a peer says that it has of a group, by the same questions that are asked of everybody; none if it says nothing, or
/// nonsense. Of a long list the beginning.
pub(super) async fn told(
    blocks: &Blocks,
    peer: PeerId,
    group: Group,
    ours: &[Holding],
    timeout: Duration,
) -> Option<Vec<Holding>> {
    let said = digests(blocks, peer, vec![group], timeout).await?;
    if let Some(held) = patterns(ours).find(*said.get(&group)?) {
        return Some(by_pattern(ours, held));
    }
    let after = None;
    match ask(blocks, peer, &Ask::List { group, after }, timeout).await {
        Some(Ok(Say::List { blocks, .. })) => {
            let is_fine = blocks.iter().all(|of| of.block.group() == group);
            is_fine.then_some(blocks)
        }
        _ => None,
    }
}

/// What somebody says that it has of these blocks, to whoever wants to read them.
pub(super) async fn have(
    blocks: &Blocks,
    peer: PeerId,
    wanted: &[BlockId],
    timeout: Duration,
) -> Option<Vec<IndexSet>> {
    let mut all = Vec::with_capacity(wanted.len());
    for batch in wanted.chunks(BATCH_BLOCKS_MAX) {
        let request = Request::Have {
            blocks: batch.to_vec(),
        };
        match blocks.net().request(peer, request, timeout).await {
            Ok(Response::Held { held }) if held.len() == batch.len() => all.extend(held),
            _ => return None,
        }
    }
    Some(all)
}

/// What is known of a group before it is looked at.
pub(super) struct Inquiry<'a> {
    pub(super) group: Group,
    pub(super) candidates: &'a [Candidate],
    /// Of the live candidates and leavers but this peer.
    pub(super) digests: &'a BTreeMap<PeerId, Digest>,
    /// Other peers that leave, which may hold some of it.
    pub(super) leavers: &'a [(PeerId, Standing)],
    /// Live candidates of an earlier version.
    pub(super) old: &'a BTreeSet<PeerId>,
    /// What those were last seen to hold who are away.
    pub(super) remembered: &'a BTreeMap<PeerId, IndexSet>,
    /// Those who have been away for so short that it is not worth telling.
    pub(super) brief: &'a BTreeSet<PeerId>,
    pub(super) timeout: Duration,
}

/// What was found out about a block.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) state: BlockState,
    /// What those are expected to hold who have just gone.
    pub(super) brief: Vec<(PeerId, IndexSet)>,
    /// Whether it counts what those say who are not believed: it cannot be read without.
    pub(super) is_believed: bool,
}

/// What was found out about a group.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) blocks: Vec<Looked>,
    /// Which shards each live peer has of any block.
    pub(super) seen: BTreeMap<PeerId, IndexSet>,
    /// Lists that had to be sent.
    pub(super) lists: usize,
}

impl Looked {
    fn present(&self) -> IndexSet {
        let held = self.state.holders.iter().map(|(_, held)| *held);
        held.fold(IndexSet::EMPTY, IndexSet::union)
    }

    /// Whether it is kept and cannot be read.
    fn is_short(&self) -> bool {
        self.state.is_kept && self.present().len() < self.state.profile.data_shards()
    }
}

impl Findings {
    /// Whether there is a kept block that cannot be read from those who were found to hold some.
    pub(super) fn is_short(&self) -> bool {
        self.blocks.iter().any(Looked::is_short)
    }

    /// Takes in what is found if everybody is believed, of blocks that cannot be read otherwise: what is made of it is
    /// checked. All others are judged without.
    pub(super) fn believe(&mut self, others: Findings) {
        let readable = others.blocks.into_iter().filter(|other| !other.is_short());
        let readable = readable.map(|other| (other.state.block, other));
        let mut readable: BTreeMap<BlockId, Looked> = readable.collect();
        for looked in self.blocks.iter_mut().filter(|looked| looked.is_short()) {
            if let Some(other) = readable.remove(&looked.state.block) {
                *looked = Looked {
                    is_believed: true,
                    ..other
                };
            }
        }
        for (peer, held) in others.seen {
            self.seen.entry(peer).or_insert(held);
        }
    }

    /// Leaves out what peers say they have and have not; not where a block could not be read without.
    pub(super) fn refute(&mut self, refuted: &BTreeMap<BlockId, Vec<(PeerId, u8)>>) {
        for looked in &mut self.blocks {
            let Some(of_block) = refuted.get(&looked.state.block) else {
                continue;
            };
            let before = looked.state.holders.clone();
            for (holder, held) in &mut looked.state.holders {
                let of_holder = of_block.iter().filter(|(peer, _)| peer == holder);
                of_holder.for_each(|(_, index)| held.remove(*index));
            }
            looked.state.holders.retain(|(_, held)| !held.is_empty());
            if looked.is_short() {
                looked.state.holders = before;
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Found {
    profile: Option<EcProfile>,
    is_kept: bool,
    shard_bytes: u32,
    holders: Vec<(PeerId, IndexSet)>,
}

/// Looks at all blocks of a group. None if somebody who is live did not say what it holds: then nothing can be said of what
/// is missing.
pub(super) async fn inquire(blocks: &Blocks, inquiry: &Inquiry<'_>) -> Option<Findings> {
    let own = blocks.net().own();
    let mut findings = Findings::default();
    let mut found: BTreeMap<BlockId, Found> = BTreeMap::new();
    let ours = own_list(blocks, inquiry.group).await?;
    let patterns = patterns(&ours);
    let mut add = |found: &mut BTreeMap<BlockId, Found>, peer: PeerId, holding: &Holding| {
        let entry = found.entry(holding.block).or_default();
        entry.profile = entry.profile.or(holding.profile);
        entry.is_kept |= holding.is_kept;
        entry.shard_bytes = entry.shard_bytes.max(holding.shard_bytes);
        if !holding.held.is_empty() {
            entry.holders.push((peer, holding.held));
            let seen = findings.seen.entry(peer).or_default();
            *seen = seen.union(holding.held);
        }
    };
    for holding in &ours {
        add(&mut found, own, holding);
    }
    let mut lists = 0;
    for (peer, digest) in inquiry.digests {
        if let Some(held) = patterns.find(*digest) {
            for theirs in by_pattern(&ours, held) {
                add(&mut found, *peer, &theirs);
            }
            continue;
        }
        lists += 1;
        for holding in list(blocks, *peer, inquiry.group, inquiry.timeout).await? {
            add(&mut found, *peer, &holding);
        }
    }
    let known: Vec<BlockId> = found.keys().copied().collect();
    for peer in inquiry.old {
        let held = have(blocks, *peer, &known, inquiry.timeout).await?;
        for (block, held) in known.iter().zip(held) {
            let holding = Holding {
                block: *block,
                held,
                profile: None,
                is_kept: false,
                shard_bytes: 0,
            };
            add(&mut found, *peer, &holding);
        }
    }
    findings.lists = lists;
    for (block, found) in found {
        // Of what is only claimed, and nobody has, nothing can be said.
        let Some(profile) = found.profile.filter(|_| !found.holders.is_empty()) else {
            continue;
        };
        let away = absent(inquiry, profile, &found.holders);
        let all = away.iter().map(|(_, held)| *held);
        let absent = all.fold(IndexSet::EMPTY, IndexSet::union);
        let brief = away.into_iter();
        let brief = brief.filter(|(peer, _)| inquiry.brief.contains(peer));
        findings.blocks.push(Looked {
            brief: brief.collect(),
            is_believed: false,
            state: BlockState {
                block,
                profile,
                is_kept: found.is_kept,
                shard_bytes: found.shard_bytes,
                absent,
                holders: found.holders,
            },
        });
    }
    Some(findings)
}

/// The shards that a peer may have by its place in the ranking: its own, or behind the first `total` those of the holders that are
/// dead, which were made anew at the candidates that follow.
fn by_rank(candidates: &[Candidate], rank: usize, total: usize) -> IndexSet {
    if rank < total {
        return IndexSet::one(rank as u8);
    }
    let is_dead = |candidate: &Candidate| candidate.standing == Standing::Dead;
    let before = candidates.iter().take(rank);
    let dead_count = before.filter(|candidate| is_dead(candidate)).count();
    if rank >= total + dead_count {
        return IndexSet::EMPTY;
    }
    let holders = candidates.iter().take(total).enumerate();
    let dead = holders.filter(|(_, candidate)| is_dead(candidate));
    dead.map(|(index, _)| index as u8).collect()
}

/// What those may hold of a block who are away and may come back: what they were last seen to have of this group, or else
/// the shard that their place in the ranking gives them. Where others have that one, since shards moved, it may be any that
/// nobody has.
fn absent(
    inquiry: &Inquiry<'_>,
    profile: EcProfile,
    holders: &[(PeerId, IndexSet)],
) -> Vec<(PeerId, IndexSet)> {
    let total = profile.total_shards();
    let present = holders.iter().map(|(_, held)| *held);
    let present = present.fold(IndexSet::EMPTY, IndexSet::union);
    let mut lost = IndexSet::first(total).minus(present);
    let mut absent = Vec::new();
    let mut unknown = Vec::new();
    for (rank, candidate) in inquiry.candidates.iter().enumerate() {
        let is_holder = holders.iter().any(|(peer, _)| *peer == candidate.peer);
        if candidate.standing != Standing::Away || is_holder {
            continue;
        }
        let remembered = inquiry.remembered.get(&candidate.peer);
        let held = remembered.copied();
        let held = held.unwrap_or_else(|| by_rank(inquiry.candidates, rank, total));
        if remembered.is_none() && rank < total && present.contains(rank as u8) {
            unknown.push(candidate.peer);
            continue;
        }
        lost = lost.minus(held);
        absent.push((candidate.peer, held));
    }
    for (peer, index) in unknown.into_iter().zip(lost.iter()) {
        lost.remove(index);
        absent.push((peer, IndexSet::one(index)));
    }
    // Whoever leaves is in no ranking, and may have handed over some: it has what it was seen to have, or anything.
    for (peer, standing) in inquiry.leavers {
        let is_holder = holders.iter().any(|(holder, _)| holder == peer);
        if *standing == Standing::Away && !is_holder {
            let seen = inquiry.remembered.get(peer);
            absent.push((*peer, seen.copied().unwrap_or(lost)));
        }
    }
    absent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(tag: u8) -> PeerId {
        PeerId([tag; 32])
    }

    /// A block of which so many peers have a shard each.
    fn looked(tag: u8, holders: u8) -> Looked {
        Looked {
            state: BlockState {
                block: BlockId([tag; 32]),
                profile: EcProfile::DEFAULT,
                is_kept: true,
                shard_bytes: 1000,
                holders: (0..holders)
                    .map(|at| (peer(at), IndexSet::one(at)))
                    .collect(),
                absent: IndexSet::EMPTY,
            },
            brief: Vec::new(),
            is_believed: false,
        }
    }

    #[test]
    fn only_blocks_that_cannot_be_read_otherwise_are_taken_on_trust() {
        let findings = |holders: [u8; 3]| Findings {
            blocks: (1..)
                .zip(holders)
                .map(|(tag, of)| looked(tag, of))
                .collect(),
            ..Findings::default()
        };
        let mut found = findings([3, 5, 2]);
        found.believe(findings([4, 6, 3]));
        let holders: Vec<(usize, bool)> = found
            .blocks
            .iter()
            .map(|looked| (looked.state.holders.len(), looked.is_believed))
            .collect();
        // The second is read without, the third not even so.
        assert_eq!(holders, [(4, true), (5, false), (2, false)]);
    }

    #[test]
    fn what_is_refuted_does_not_count_unless_nothing_could_be_read_without() {
        let mut findings = Findings {
            blocks: vec![looked(1, 6), looked(2, 4), looked(3, 6), looked(4, 3)],
            ..Findings::default()
        };
        let refuted = [1, 2, 4].map(|tag| (BlockId([tag; 32]), vec![(peer(2), 2)]));
        // Another shard of it, and one of somebody else.
        let others = (BlockId([3; 32]), vec![(peer(2), 1), (peer(9), 3)]);
        let refuted = refuted.into_iter().chain([others]).collect();
        findings.refute(&refuted);
        let held = |at: usize| findings.blocks[at].state.holders.len();
        assert_eq!([0, 1, 2, 3].map(held), [5, 4, 6, 3]);
        assert!(findings.blocks[0].state.held_by(&peer(2)).is_empty());
        assert!(findings.is_short());
    }
}
