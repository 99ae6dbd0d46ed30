//! Looking at the groups of a sweep: what holders have is compared with what was seen before, and judged where it changed.

use std::collections::{BTreeMap, BTreeSet};

use super::super::endings::Leftover;
use super::super::fingerprint::Fingerprint;
use super::super::leaving::Remainder;
use super::super::message::Tally;
use super::super::plan::{
    BlockState, Candidate, Purpose, Standing, Verdict, displaced, judge, leader,
};
use super::super::survey::{Findings, Inquiry, Looked, digests, inquire};
use super::{GROUPS_PER_STEP, LEFTOVERS_MAX, ROOM_MIN, Repairer, SURPLUS_MAX};
use crate::base::{Group, IndexSet, PeerId};
use crate::blocks::GroupPeer;
use crate::store::{Digest, StoreError};

/// The candidates of a group: as they count, and as they count for blocks that cannot be read unless all are believed.
pub(super) struct Views {
    usual: Vec<Candidate>,
    believed: Vec<Candidate>,
}

impl Views {
    pub(super) fn of(&self, looked: &Looked) -> &[Candidate] {
        match looked.is_believed {
            true => &self.believed,
            false => &self.usual,
        }
    }
}

/// What others said of a group, and who of them leaves.
struct Theirs<'a> {
    digests: BTreeMap<PeerId, Digest>,
    leavers: &'a [(PeerId, Standing)],
}

impl Repairer {
    /// Looks at the next groups of the sweep.
    pub(super) async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(sweep) = &mut self.sweep else {
            return Ok(());
        };
        let some: Vec<Group> = (0..GROUPS_PER_STEP)
            .map_while(|_| sweep.left.pop_front())
            .collect();
        if some.is_empty() {
            if let Some(sweep) = self.sweep.take() {
                self.end_sweep(&sweep);
            }
            return Ok(());
        }
        let is_leaving = sweep.is_leaving;
        let own = self.own();
        let mut groups: Vec<(Group, Vec<GroupPeer>)> = Vec::with_capacity(some.len());
        let mut unasked = BTreeSet::new();
        for group in some {
            let peers = self.blocks.group_peers(group).await;
            for peer in &peers {
                self.roomy
                    .note(peer.peer, peer.free_bytes, peer.capacity_bytes);
            }
            let candidates = self.candidates(&peers);
            // Whoever leaves leads nothing, and looks after what it has itself.
            if leader(&candidates) != Some(own) && !is_leaving {
                self.led.remove(&group);
                // What is missing to the knowledge of nobody else is made by who knows it.
                if !self.refutes_some_of(group) {
                    continue;
                }
            }
            let live = candidates.iter().filter(|c| c.standing == Standing::Live);
            let unknown = live.filter(|c| c.peer != own && !self.roots.contains_key(&c.peer));
            unasked.extend(unknown.map(|c| c.peer));
            groups.push((group, peers));
        }
        if !unasked.is_empty() {
            let unasked: Vec<PeerId> = unasked.into_iter().collect();
            self.ask_roots(&unasked).await;
        }
        self.look_at(groups).await
    }

    fn candidates(&self, peers: &[GroupPeer]) -> Vec<Candidate> {
        let candidate = |peer: &GroupPeer| Candidate {
            peer: peer.peer,
            standing: self.standing(&peer.peer, &peer.reach),
            has_room: peer.free_bytes >= ROOM_MIN
                && !self.is_old(&peer.peer)
                && !self.unwilling.contains_key(&peer.peer),
            has_plenty: self.roomy.is_roomy(&peer.peer),
            is_displaced: self.distrusted.displaced.contains(&peer.peer),
        };
        peers.iter().map(candidate).collect()
    }

    /// The candidates as they are if everybody is believed. Nothing goes to who is not.
    fn believed(&self, peers: &[GroupPeer]) -> Vec<Candidate> {
        let mut all = self.candidates(peers);
        for (candidate, peer) in all.iter_mut().zip(peers) {
            candidate.standing = self.standing_as_told(&peer.peer, &peer.reach);
            candidate.has_room &= !self.is_disbelieved(&peer.peer);
        }
        all
    }

    /// Whether somebody says that it has a shard of this group, and has not.
    fn refutes_some_of(&self, group: Group) -> bool {
        let mut blocks = self.distrusted.refuted.keys();
        blocks.any(|block| block.group() == group)
    }

    /// Other peers that leave.
    fn leavers(&self) -> Vec<(PeerId, Standing)> {
        let leavers = self.blocks.leavers().into_iter();
        leavers
            .map(|(peer, reach)| (peer, self.standing(&peer, &reach)))
            .collect()
    }

    async fn look_at(&mut self, groups: Vec<(Group, Vec<GroupPeer>)>) -> Result<(), StoreError> {
        let own = self.own();
        let mut wanted: BTreeMap<PeerId, Vec<Group>> = BTreeMap::new();
        for (group, peers) in &groups {
            for candidate in self.believed(peers) {
                let is_asked = candidate.standing == Standing::Live
                    && candidate.peer != own
                    && !self.is_old(&candidate.peer);
                if is_asked {
                    wanted.entry(candidate.peer).or_default().push(*group);
                }
            }
        }
        let leavers = self.leavers();
        for (peer, standing) in &leavers {
            if *standing == Standing::Live && !self.is_old(peer) {
                let of_all = groups.iter().map(|(group, _)| *group);
                wanted.entry(*peer).or_default().extend(of_all);
            }
        }
        let timeout = self.timeout();
        let answers = wanted.into_iter().map(|(peer, groups)| {
            let blocks = &self.blocks;
            async move { (peer, digests(blocks, peer, groups, timeout).await) }
        });
        let answers = futures::future::join_all(answers).await;
        let mut theirs: BTreeMap<PeerId, BTreeMap<Group, Digest>> = BTreeMap::new();
        for (peer, digests) in answers {
            match digests {
                Some(digests) => {
                    theirs.insert(peer, digests);
                }
                None => {
                    self.silent.insert(peer);
                }
            }
        }
        let names: Vec<Group> = groups.iter().map(|(group, _)| *group).collect();
        let ours = self.blocks.store().group_digests(names).await?;
        for ((group, peers), ours) in groups.into_iter().zip(ours) {
            let of_group = theirs.iter();
            let of_group = of_group.filter_map(|(peer, all)| Some((*peer, *all.get(&group)?)));
            let of_group = Theirs {
                digests: of_group.collect(),
                leavers: &leavers,
            };
            self.look_at_one(group, &peers, ours, of_group).await;
        }
        Ok(())
    }

    async fn look_at_one(
        &mut self,
        group: Group,
        peers: &[GroupPeer],
        ours: Digest,
        theirs: Theirs<'_>,
    ) {
        let Theirs { digests, leavers } = theirs;
        let mut hash = Fingerprint::default();
        hash.add(&ours.0.to_le_bytes());
        let candidates = self.candidates(peers);
        for (peer, candidate) in peers.iter().zip(&candidates) {
            hash.add(&peer.peer.0);
            hash.add(&self.how(&peer.peer, &peer.reach));
            hash.add(&[
                u8::from(candidate.has_room),
                u8::from(candidate.has_plenty),
                u8::from(candidate.is_displaced),
            ]);
            let digest = digests.get(&peer.peer).copied().unwrap_or_default();
            hash.add(&digest.0.to_le_bytes());
        }
        for (peer, standing) in leavers {
            hash.add(&peer.0);
            hash.add(&[*standing as u8]);
            let digest = digests.get(peer).copied().unwrap_or_default();
            hash.add(&digest.0.to_le_bytes());
        }
        self.distrusted
            .add_refuted(&mut hash, |block| block.group() == group);
        let fingerprint = hash.end();
        let led = self.led.entry(group).or_default();
        if led.fingerprint == Some(fingerprint) {
            return;
        }
        led.fingerprint = None;
        let remembered = led.seen.clone();
        let theirs = Theirs { digests, leavers };
        let is_led = leader(&candidates) == Some(self.own());
        let mut found = self.find(group, &candidates, &theirs, &remembered).await;
        let views = Views {
            usual: candidates,
            believed: self.believed(peers),
        };
        let is_disbelieved = |peer: &GroupPeer| self.is_disbelieved(&peer.peer);
        let is_short = found.as_ref().is_some_and(Findings::is_short);
        if is_short && peers.iter().any(is_disbelieved) {
            // What cannot be read without those who are not believed is made anew with what they give, which is checked.
            let believed = &views.believed;
            let others = self.find(group, believed, &theirs, &remembered).await;
            if let (Some(found), Some(others)) = (&mut found, others) {
                found.believe(others);
            }
        }
        if let Some(findings) = &mut found {
            findings.refute(&self.distrusted.refuted);
        }
        match found {
            Some(findings) if self.blocks.is_leaving() => {
                self.judge_leaving(group, &views, findings, fingerprint);
            }
            Some(findings) if is_led => {
                self.judge_group(group, &views, findings, fingerprint);
            }
            Some(findings) => self.judge_refuted(group, &views, findings),
            None if !is_led && !self.blocks.is_leaving() => {}
            None => {
                let led = self.led.entry(group).or_default();
                led.left.unseen_groups = 1;
                led.tally = Tally {
                    unseen_groups: 1,
                    ..Tally::default()
                };
            }
        }
    }

    /// What those among the candidates have who are believed.
    async fn find(
        &self,
        group: Group,
        candidates: &[Candidate],
        theirs: &Theirs<'_>,
        remembered: &BTreeMap<PeerId, IndexSet>,
    ) -> Option<Findings> {
        let leavers = theirs.leavers;
        let is = |standing: Standing| {
            let some = candidates.iter().map(|c| (c.peer, c.standing));
            let all = some.chain(leavers.iter().copied());
            all.filter(move |(_, is)| *is == standing)
                .map(|(peer, _)| peer)
        };
        let brief = self.absences.as_ref().map_or_else(BTreeSet::new, |known| {
            let away = is(Standing::Away).filter(|peer| !self.silent.contains(peer));
            away.filter(|peer| known.is_brief(peer)).collect()
        });
        let live: BTreeSet<PeerId> = is(Standing::Live).collect();
        let digests = theirs.digests.iter();
        let digests = digests.filter(|(peer, _)| live.contains(peer));
        let inquiry = Inquiry {
            group,
            candidates,
            digests: &digests.map(|(peer, digest)| (*peer, *digest)).collect(),
            leavers,
            old: &is(Standing::Live)
                .filter(|peer| self.is_old(peer))
                .collect(),
            remembered,
            brief: &brief,
            timeout: self.timeout(),
        };
        inquire(&self.blocks, &inquiry).await
    }

    fn judge_group(&mut self, group: Group, views: &Views, findings: Findings, fingerprint: u128) {
        self.surplus
            .retain(|surplus| surplus.block.group() != group);
        self.leftovers.retain(|left| left.block.group() != group);
        let mut is_settled = true;
        let mut tally = Tally::default();
        for looked in findings.blocks {
            let candidates = views.of(&looked);
            let Looked { state, brief, .. } = looked;
            let judgement = judge(&state, &self.takers(&state, candidates));
            let shard_bytes = state.shard_bytes;
            if brief.is_empty() {
                tally.add_block(&judgement, shard_bytes);
            } else {
                let mut shown: BlockState = state.clone();
                shown.holders.extend(brief);
                tally.add_block(&judge(&shown, candidates), shard_bytes);
            }
            // Once somebody has room, what has found no place is to be looked at again.
            is_settled &= judgement.missing == 0;
            match judgement.verdict {
                Verdict::Rebuild(rebuild) => self.queue.insert(rebuild),
                Verdict::Spread(rebuild) => {
                    is_settled = false;
                    self.queue.insert(rebuild);
                }
                // It may be kept by now without that anybody's digest tells so.
                Verdict::NotKept => is_settled = false,
                // Somebody else may be away besides, so this cannot be told from a loss.
                Verdict::Unreadable | Verdict::Leftover => {
                    match self.leftovers.len() < LEFTOVERS_MAX {
                        true => self.leftovers.push(leftover(&state, candidates)),
                        false => is_settled = false,
                    }
                }
                Verdict::Nothing => {}
            }
            // Whoever leaves sees to what it has itself.
            let is_here = |peer: &PeerId| candidates.iter().any(|c| c.peer == *peer);
            let moves = judgement.moves.iter();
            let moves = moves.filter(|moved| is_here(&moved.from));
            let moves: Vec<(u8, PeerId)> = moves.map(|moved| (moved.index, moved.to)).collect();
            if !moves.is_empty() {
                is_settled = false;
                self.queue.insert(state.task(moves, Purpose::Move));
            }
            if let Some(surplus) = judgement.surplus.filter(|surplus| is_here(&surplus.at)) {
                match self.surplus.len() < SURPLUS_MAX {
                    true => self.surplus.push(surplus),
                    false => is_settled = false,
                }
            }
        }
        if tally == Tally::default() && findings.seen.is_empty() {
            self.led.remove(&group);
            return;
        }
        let leavers = self.leavers();
        let led = self.led.entry(group).or_default();
        led.tally = tally;
        led.left = Remainder::default();
        led.fingerprint = is_settled.then_some(fingerprint);
        // Of those who are away what they were last seen to have stays.
        let standings = views.usual.iter().map(|c| (c.peer, c.standing));
        for (peer, standing) in standings.chain(leavers) {
            if standing != Standing::Away {
                led.seen.remove(&peer);
            }
        }
        led.seen.extend(findings.seen);
    }

    /// Of a group that somebody else looks after: what is missing without what was refuted here, of which that one need not
    /// know. Looked at again until nothing is.
    fn judge_refuted(&mut self, group: Group, views: &Views, findings: Findings) {
        let mut is_whole = true;
        for looked in findings.blocks {
            let candidates = views.of(&looked);
            let state = &looked.state;
            if !self.distrusted.refutes(&state.block) {
                continue;
            }
            let judgement = judge(state, &self.takers(state, candidates));
            is_whole &= judgement.missing == 0;
            if let Verdict::Rebuild(rebuild) = judgement.verdict {
                self.queue.insert(rebuild);
            }
        }
        if is_whole {
            self.led.remove(&group);
        }
    }

    /// The candidates as they count for a block: without those who would not take a shard of it.
    pub(super) fn takers(&self, state: &BlockState, candidates: &[Candidate]) -> Vec<Candidate> {
        let refuted = self.distrusted.refuted.get(&state.block);
        let is_refuted = |peer: &PeerId| {
            let mut of_block = refuted.into_iter().flatten();
            of_block.any(|(of, _)| of == peer)
        };
        let taker = |candidate: &Candidate| Candidate {
            // Who says that it has a shard and does not give it would take it, and it would be missing as before.
            has_room: candidate.has_room
                && !self.refusals.contains(&(state.block, candidate.peer))
                && !is_refuted(&candidate.peer),
            ..*candidate
        };
        let takers: Vec<Candidate> = candidates.iter().map(taker).collect();
        displaced(&takers, state.profile.total_shards())
    }
}

/// A block that some have who should, and whom else to ask about it.
fn leftover(state: &BlockState, candidates: &[Candidate]) -> Leftover {
    let holders: Vec<PeerId> = state.holders.iter().map(|(peer, _)| *peer).collect();
    let live = candidates.iter().filter(|c| c.standing == Standing::Live);
    let others = live.map(|c| c.peer).filter(|peer| !holders.contains(peer));
    Leftover {
        block: state.block,
        others: others.collect(),
        holders,
    }
}
