//! The worker that looks after the groups that this peer leads: looks at what changed, plans, repairs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::absence::Absences;
use super::carry::{Carried, carry};
use super::fingerprint::Fingerprint;
use super::health::Shown;
use super::message::{GroupSet, Tally};
use super::plan::{BlockState, Candidate, Rebuild, Standing, Surplus, Verdict, judge, leader};
use super::serve::{SharedGroups, SharedTally};
use super::survey::{Findings, Inquiry, Looked, Root, digests, inquire, roots};
use super::{Repair, RepairOptions, proof};
use crate::base::worker::{Next, Worker};
use crate::base::{BlockId, ByteSize, Classify, Group, IndexSet, PeerId};
use crate::blocks::{Blocks, GroupPeer};
use crate::net::Reach;
use crate::store::{Digest, StoreError};

/// Groups looked at in one step.
const GROUPS_PER_STEP: usize = 64;
/// Most repairs that are planned; more are found again when these are done.
const QUEUE_MAX: usize = 4096;
/// Intervals for which a plan is carried out before it is made anew.
const QUEUE_PATIENCE: u32 = 10;
/// Most refusals that are remembered.
const REFUSALS_MAX: usize = 4096;
/// Most shards planned to be let go in one sweep.
const SURPLUS_MAX: usize = 1024;
/// Repairs carried out beside one another.
const TOGETHER: usize = 4;
/// A peer with less room than this gets no repaired shard: some is left for those who write.
const ROOM_MIN: u64 = 5 << 20;
/// In a network of more members those are asked alone to whom there is a connection.
const ALL_ASKED_MAX: usize = 64;
/// While somebody reads, repairs are so much slower.
const YIELDED: u32 = 4;
/// Pause after a failure of the own store.
const TROUBLE: Duration = Duration::from_secs(10);

/// What is remembered of a group between two sweeps.
#[derive(Debug, Default)]
struct Led {
    /// Of everything that the judgement came from; none: it is to be judged again.
    fingerprint: Option<u128>,
    tally: Tally,
    /// Who was last seen to have which shards.
    seen: BTreeMap<PeerId, IndexSet>,
}

/// Finds and repairs what is missing. One for each peer.
#[derive(Debug)]
pub struct Repairer {
    blocks: Blocks,
    options: RepairOptions,
    shown: Shown,
    tally: SharedTally,
    groups: SharedGroups,
    absences: Option<Absences>,
    roots: BTreeMap<PeerId, Root>,
    /// Peers that were asked in this sweep and did not answer.
    silent: BTreeSet<PeerId>,
    led: BTreeMap<Group, Led>,
    sweep: Option<VecDeque<Group>>,
    /// Of everything that the last whole sweep came from.
    settled: Option<u128>,
    next_sweep: Instant,
    /// Least redundant first.
    queue: BTreeMap<(usize, BlockId), Rebuild>,
    surplus: Vec<Surplus>,
    /// Peers that do not take a shard of a block: they know its claims as given up.
    refusals: BTreeSet<(BlockId, PeerId)>,
    /// Repaired bytes for each second of late.
    speed: f64,
    failed: u64,
}

impl Repairer {
    pub(super) fn new(repair: &Repair) -> Self {
        Repairer {
            blocks: repair.blocks.clone(),
            options: repair.options.clone(),
            shown: repair.shown.clone(),
            tally: repair.tally.clone(),
            groups: repair.groups.clone(),
            absences: None,
            roots: BTreeMap::new(),
            silent: BTreeSet::new(),
            led: BTreeMap::new(),
            sweep: None,
            settled: None,
            next_sweep: Instant::now(),
            queue: BTreeMap::new(),
            surplus: Vec::new(),
            refusals: BTreeSet::new(),
            speed: 0.0,
            failed: 0,
        }
    }

    fn own(&self) -> PeerId {
        self.blocks.net().own()
    }

    fn timeout(&self) -> Duration {
        self.blocks.limits().request_timeout
    }

    async fn turn(&mut self) -> Result<Next, StoreError> {
        let now = Instant::now();
        let store = self.blocks.store().clone();
        if self.absences.is_none() {
            let options = &self.options;
            let loaded = Absences::load(&store, options.suspect, options.dead).await?;
            self.absences = Some(loaded);
        }
        let members = self.blocks.net().members();
        if let Some(absences) = &mut self.absences {
            absences.look(&members, now);
            absences.save(&store).await?;
        }
        if self.sweep.is_some() {
            return self.advance().await.map(|()| Next::Again);
        }
        // While there is much to repair it is planned anew less often.
        let patience = match self.queue.is_empty() {
            true => Duration::ZERO,
            false => QUEUE_PATIENCE * self.options.interval(),
        };
        if now >= self.next_sweep + patience {
            self.begin_sweep().await?;
            return Ok(Next::Again);
        }
        if !self.queue.is_empty() {
            return Ok(self.repair_some().await);
        }
        if let Some(surplus) = self.surplus.pop() {
            proof::let_go(&self.blocks, &self.options.entropy, surplus).await;
            return Ok(Next::Again);
        }
        Ok(Next::Idle(self.next_sweep.saturating_duration_since(now)))
    }

    // ---- looking -----------------------------------------------------------------------------

    async fn begin_sweep(&mut self) -> Result<(), StoreError> {
        self.next_sweep = Instant::now() + self.options.interval();
        self.silent.clear();
        let members = self.blocks.net().members();
        if self.roots.len() > ALL_ASKED_MAX {
            self.roots.retain(|peer, _| members.get(peer).is_some());
        }
        let own = self.own();
        let few = members.list.len() <= ALL_ASKED_MAX;
        let asked = members.list.iter().filter(|member| {
            let reached = match member.state {
                Reach::Own | Reach::Away { .. } => false,
                Reach::Connected(_) => true,
                Reach::Idle => few,
            };
            reached && member.capacity_bytes > 0 && member.peer != own
        });
        let asked: Vec<PeerId> = asked.map(|member| member.peer).collect();
        self.ask_roots(&asked).await;
        let (digest, mut groups) = self.groups.list(&self.blocks).await?;
        let fingerprint = self.fingerprint_of_all(digest);
        if self.settled == Some(fingerprint) {
            // Nothing has changed: only what was left open is looked at again.
            let open = self.led.iter().filter(|(_, led)| led.fingerprint.is_none());
            let open: VecDeque<Group> = open.map(|(group, _)| *group).collect();
            if !open.is_empty() {
                self.queue.clear();
                self.sweep = Some(open);
            }
            return Ok(());
        }
        self.settled = Some(fingerprint);
        self.queue.clear();
        self.surplus.clear();
        for root in self.roots.values() {
            groups.add(&root.groups);
        }
        // Those of which all is gone by now are looked at once more.
        let mut all = GroupSet::default();
        all.add(&groups);
        self.led.keys().for_each(|group| all.insert(*group));
        self.sweep = Some(all.iter().collect());
        Ok(())
    }

    async fn ask_roots(&mut self, peers: &[PeerId]) {
        let timeout = self.timeout();
        let found = roots(&self.blocks, peers, &self.roots, timeout).await;
        for peer in peers {
            match found.get(peer) {
                Some(root) => {
                    self.roots.insert(*peer, root.clone());
                }
                None => {
                    self.silent.insert(*peer);
                }
            }
        }
        let others = self.roots.iter().map(|(peer, root)| (*peer, root.tally));
        let members = self.blocks.net().members();
        let is_away = |peer: &PeerId| {
            let member = members.get(peer);
            member.is_some_and(|member| matches!(member.state, Reach::Away { .. }))
        };
        let others = others.filter(|(peer, _)| !is_away(peer));
        self.shown.set_others(others.collect());
    }

    /// Of everything that may change any judgement.
    fn fingerprint_of_all(&self, own: Digest) -> u128 {
        let mut hash = Fingerprint::default();
        hash.add(&own.0.to_le_bytes());
        for member in &self.blocks.net().members().list {
            hash.add(&member.peer.0);
            hash.add(&member.capacity_bytes.to_le_bytes());
            hash.add(&self.how(&member.peer, &member.state));
            if let Some(root) = self.roots.get(&member.peer) {
                hash.add(&root.digest.0.to_le_bytes());
            }
        }
        hash.end()
    }

    /// What there is to be said of how a peer is reached.
    fn how(&self, peer: &PeerId, reach: &Reach) -> [u8; 3] {
        let absences = self.absences.as_ref();
        match self.standing(peer, reach) {
            Standing::Live => [0, 0, u8::from(self.is_old(peer))],
            Standing::Away => {
                // Who is there and says nothing is no matter of a moment.
                let brief = absences.is_some_and(|absences| absences.is_brief(peer))
                    && !self.silent.contains(peer);
                [1, u8::from(brief), 0]
            }
            Standing::Dead => [2, 0, 0],
        }
    }

    fn is_old(&self, peer: &PeerId) -> bool {
        self.roots.get(peer).is_some_and(|root| root.is_old)
    }

    fn standing(&self, peer: &PeerId, reach: &Reach) -> Standing {
        match reach {
            Reach::Own => Standing::Live,
            Reach::Away { .. } => {
                let absences = self.absences.as_ref();
                absences.map_or(Standing::Away, |absences| absences.standing(peer))
            }
            _ if self.silent.contains(peer) => Standing::Away,
            _ => Standing::Live,
        }
    }

    /// Looks at the next groups of the sweep.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(sweep) = &mut self.sweep else {
            return Ok(());
        };
        let some: Vec<Group> = (0..GROUPS_PER_STEP)
            .map_while(|_| sweep.pop_front())
            .collect();
        if some.is_empty() {
            self.sweep = None;
            self.end_sweep();
            return Ok(());
        }
        let own = self.own();
        let mut groups: Vec<(Group, Vec<GroupPeer>)> = Vec::with_capacity(some.len());
        let mut unasked = BTreeSet::new();
        for group in some {
            let peers = self.blocks.group_peers(group).await;
            let candidates = self.candidates(&peers);
            if leader(&candidates) != Some(own) {
                self.led.remove(&group);
                continue;
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
            has_room: peer.free_bytes >= ROOM_MIN && !self.is_old(&peer.peer),
        };
        peers.iter().map(candidate).collect()
    }

    async fn look_at(&mut self, groups: Vec<(Group, Vec<GroupPeer>)>) -> Result<(), StoreError> {
        let own = self.own();
        let mut wanted: BTreeMap<PeerId, Vec<Group>> = BTreeMap::new();
        for (group, peers) in &groups {
            for candidate in self.candidates(peers) {
                let is_asked = candidate.standing == Standing::Live
                    && candidate.peer != own
                    && !self.is_old(&candidate.peer);
                if is_asked {
                    wanted.entry(candidate.peer).or_default().push(*group);
                }
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
            self.look_at_one(group, &peers, ours, of_group.collect())
                .await;
        }
        Ok(())
    }

    async fn look_at_one(
        &mut self,
        group: Group,
        peers: &[GroupPeer],
        ours: Digest,
        theirs: BTreeMap<PeerId, Digest>,
    ) {
        let mut hash = Fingerprint::default();
        hash.add(&ours.0.to_le_bytes());
        for peer in peers {
            hash.add(&peer.peer.0);
            hash.add(&self.how(&peer.peer, &peer.reach));
            let digest = theirs.get(&peer.peer).copied().unwrap_or_default();
            hash.add(&digest.0.to_le_bytes());
        }
        let fingerprint = hash.end();
        let candidates = self.candidates(peers);
        let led = self.led.entry(group).or_default();
        if led.fingerprint == Some(fingerprint) {
            return;
        }
        led.fingerprint = None;
        let remembered = led.seen.clone();
        let is = |standing: Standing| {
            let some = candidates.iter().filter(move |c| c.standing == standing);
            some.map(|c| c.peer)
        };
        let brief = self.absences.as_ref().map_or_else(BTreeSet::new, |known| {
            let away = is(Standing::Away).filter(|peer| !self.silent.contains(peer));
            away.filter(|peer| known.is_brief(peer)).collect()
        });
        let inquiry = Inquiry {
            group,
            candidates: &candidates,
            digests: &theirs,
            old: &is(Standing::Live)
                .filter(|peer| self.is_old(peer))
                .collect(),
            remembered: &remembered,
            brief: &brief,
            timeout: self.timeout(),
        };
        let found = inquire(&self.blocks, &inquiry).await;
        match found {
            Some(findings) => self.judge_group(group, &candidates, findings, fingerprint),
            None => {
                let led = self.led.entry(group).or_default();
                led.tally = Tally {
                    unseen_groups: 1,
                    ..Tally::default()
                };
            }
        }
    }

    fn judge_group(
        &mut self,
        group: Group,
        candidates: &[Candidate],
        findings: Findings,
        fingerprint: u128,
    ) {
        let mut is_settled = true;
        let mut tally = Tally::default();
        for Looked { state, brief } in findings.blocks {
            let judgement = judge(&state, &self.takers(state.block, candidates));
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
                Verdict::Rebuild(rebuild) => {
                    self.queue
                        .insert((rebuild.survives, rebuild.block), rebuild);
                    if self.queue.len() > QUEUE_MAX {
                        self.queue.pop_last();
                    }
                }
                // It may be kept by now without that anybody's digest tells so.
                Verdict::NotKept => is_settled = false,
                Verdict::Nothing | Verdict::Unreadable | Verdict::Leftover => {}
            }
            if let Some(surplus) = judgement.surplus
                && self.surplus.len() < SURPLUS_MAX
            {
                self.surplus.push(surplus);
            }
        }
        if tally == Tally::default() && findings.seen.is_empty() {
            self.led.remove(&group);
            return;
        }
        let led = self.led.entry(group).or_default();
        led.tally = tally;
        led.fingerprint = is_settled.then_some(fingerprint);
        // Of those who are away what they were last seen to have stays.
        for candidate in candidates {
            if candidate.standing == Standing::Live || candidate.standing == Standing::Dead {
                led.seen.remove(&candidate.peer);
            }
        }
        led.seen.extend(findings.seen);
    }

    /// The candidates, but for those who would not take a shard of this block.
    fn takers(&self, block: BlockId, candidates: &[Candidate]) -> Vec<Candidate> {
        let taker = |candidate: &Candidate| Candidate {
            has_room: candidate.has_room && !self.refusals.contains(&(block, candidate.peer)),
            ..*candidate
        };
        candidates.iter().map(taker).collect()
    }

    fn end_sweep(&mut self) {
        self.shown.set_plan(self.queue.values().cloned().collect());
        self.publish(Carried::default());
    }

    /// Lets others know how things are, less what was done since.
    fn publish(&mut self, done: Carried) {
        let mut tally = Tally::default();
        if done == Carried::default() {
            self.led.values().for_each(|led| tally.add(&led.tally));
        } else {
            tally = self.tally.get();
            tally.missing = tally.missing.saturating_sub(done.made);
            tally.missing_bytes = tally.missing_bytes.saturating_sub(done.made_bytes);
        }
        tally.eta_ms = match self.speed > 0.0 && tally.missing_bytes > 0 {
            true => (tally.missing_bytes as f64 / self.speed * 1000.0) as u64,
            false => 0,
        };
        self.tally.set(tally);
    }

    // ---- doing -------------------------------------------------------------------------------

    async fn repair_some(&mut self) -> Next {
        let mut tasks = Vec::with_capacity(TOGETHER);
        while tasks.len() < TOGETHER {
            let Some((_, task)) = self.queue.pop_first() else {
                break;
            };
            tasks.push(task);
        }
        let begun = Instant::now();
        let (carried, refusals) = carry(&self.blocks, &self.options, tasks).await;
        self.failed += carried.failed;
        for refusal in refusals {
            if self.refusals.len() < REFUSALS_MAX {
                self.refusals.insert(refusal);
            }
        }
        self.shown
            .add_made(carried.made, carried.made_bytes, carried.read_bytes);
        let mut pause = match self.options.rate {
            0 => Duration::ZERO,
            rate => {
                let bytes = carried.moved_bytes.max(carried.read_bytes);
                Duration::from_secs_f64(bytes as f64 / rate as f64)
            }
        };
        pause = pause.saturating_sub(begun.elapsed());
        if self.blocks.has_readers() {
            pause = pause.saturating_mul(YIELDED);
        }
        let took = (begun.elapsed() + pause).as_secs_f64().max(0.001);
        let speed = carried.made_bytes as f64 / took;
        self.speed = match self.speed > 0.0 {
            true => self.speed * 0.8 + speed * 0.2,
            false => speed,
        };
        if carried.made > 0 {
            self.publish(carried);
        }
        if self.queue.is_empty() && carried.failed == 0 {
            // What was done shows at once, and what was left out is found.
            self.next_sweep = Instant::now();
        }
        match pause.is_zero() {
            true => Next::Again,
            false => Next::Idle(pause),
        }
    }
}

impl Worker for Repairer {
    fn name(&self) -> &'static str {
        "repair"
    }

    async fn step(&mut self) -> Next {
        match self.turn().await {
            Ok(next) => next,
            Err(StoreError::Closed) => Next::Done,
            Err(error) => {
                tracing::warn!(class = ?error.class(), "upkeep waits: {error}");
                Next::Idle(TROUBLE)
            }
        }
    }

    fn status(&self) -> String {
        if let Some(sweep) = &self.sweep {
            return format!("looking at what is held: {} groups left", sweep.len());
        }
        let tally = self.tally.get();
        let mut text = format!("looks after {} blocks", tally.blocks);
        if !self.queue.is_empty() {
            text.push_str(&format!(
                ", repairs {} of them at {}/s",
                self.queue.len(),
                ByteSize(self.speed as u64)
            ));
        }
        if self.failed > 0 {
            text.push_str(&format!("; {} shards found no place so far", self.failed));
        }
        text
    }
}
