//! The worker that looks after the groups that this peer leads: looks at what changed, plans, repairs.

mod leave;
mod letting;
mod look;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::absence::Absences;
use super::carry::{Carried, carry};
use super::endings::Leftover;
use super::fingerprint::Fingerprint;
use super::health::Shown;
use super::leaving::Remainder;
use super::message::{GroupSet, Tally};
use super::plan::{Standing, Surplus};
use super::queue::{Queue, rest};
use super::room::Roomy;
use super::serve::{SharedGroups, SharedTally};
use super::survey::{Root, SharedRoots, roots};
use super::trusts::{Distrusted, Trusts};
use super::uptime::Uptimes;
use super::{Repair, RepairOptions};
use crate::base::worker::{Next, Worker};
use crate::base::{BlockId, ByteSize, Classify, Group, IndexSet, PeerId};
use crate::blocks::Blocks;
use crate::net::{Member, Members, Reach};
use crate::store::{Digest, StoreError};

/// Groups looked at in one step.
const GROUPS_PER_STEP: usize = 64;
/// Intervals for which a plan is carried out before it is made anew.
const QUEUE_PATIENCE: u32 = 10;
/// Most refusals that are remembered.
const REFUSALS_MAX: usize = 4096;
/// Most blocks of one sweep whose claims may have ended.
const LEFTOVERS_MAX: usize = 1024;
/// Of which so many are settled together.
const LEFTOVERS_AT_ONCE: usize = 64;
/// Most shards planned to be let go in one sweep.
const SURPLUS_MAX: usize = 1024;
/// So many are let go although there is more to repair or to move.
const SURPLUS_MUCH: usize = 64;
/// Shards let go beside one another.
const LET_GO_TOGETHER: usize = 8;
/// A peer with less room than this gets no repaired shard: some is left for those who write.
const ROOM_MIN: u64 = 5 << 20;
/// In a network of more members those are asked alone to whom there is a connection.
const ALL_ASKED_MAX: usize = 64;
/// A peer that took no shard, and did not say that it is full, is offered none for so long: others may take it.
const UNWILLING_FOR: Duration = Duration::from_secs(3600);
/// How soon it is noticed that this peer leaves, or stays after all.
const REST_MAX: Duration = Duration::from_secs(5);
/// Pause after a failure of the own store.
const TROUBLE: Duration = Duration::from_secs(10);

/// What is remembered of a group between two sweeps.
#[derive(Debug, Default)]
struct Led {
    /// Of everything that the judgement came from; none: it is to be judged again.
    fingerprint: Option<u128>,
    tally: Tally,
    /// If this peer leaves: what it still has.
    left: Remainder,
    /// Who was last seen to have which shards.
    seen: BTreeMap<PeerId, IndexSet>,
}

/// A look at groups, under way.
#[derive(Debug)]
struct Sweep {
    left: VecDeque<Group>,
    /// Of everything that it came from; none if it is of what was left open only.
    from: Option<u128>,
    /// Who did not answer when it began.
    silent: BTreeSet<PeerId>,
    /// Whether some could not be looked at.
    is_partial: bool,
    /// Whether this peer leaves, and looks at its own shards only.
    is_leaving: bool,
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
    uptimes: Option<Uptimes>,
    /// When it began to look at members.
    begun: Option<Instant>,
    roots: BTreeMap<PeerId, Root>,
    told: SharedRoots,
    trusts: Trusts,
    /// Who was trusted less when the last sweep began.
    distrusted: Distrusted,
    /// Peers that were asked in this sweep and did not answer.
    silent: BTreeSet<PeerId>,
    led: BTreeMap<Group, Led>,
    sweep: Option<Sweep>,
    /// Of everything that the last whole sweep came from.
    settled: Option<u128>,
    next_sweep: Instant,
    queue: Queue,
    surplus: Vec<Surplus>,
    /// Who has room for what is safe already.
    roomy: Roomy,
    /// Whether this peer leaves, when that was last looked at.
    is_leaving: bool,
    /// What may be left of something that ended.
    leftovers: Vec<Leftover>,
    /// Peers that do not take a shard of a block: they know its claims as given up.
    refusals: BTreeSet<(BlockId, PeerId)>,
    /// Peers that took no shard, and until when they are offered none.
    unwilling: BTreeMap<PeerId, Instant>,
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
            uptimes: None,
            begun: None,
            roots: BTreeMap::new(),
            told: repair.told.clone(),
            trusts: repair.trusts.clone(),
            distrusted: Distrusted::default(),
            silent: BTreeSet::new(),
            led: BTreeMap::new(),
            sweep: None,
            settled: None,
            next_sweep: Instant::now(),
            queue: Queue::default(),
            surplus: Vec::new(),
            roomy: Roomy::default(),
            is_leaving: false,
            leftovers: Vec::new(),
            refusals: BTreeSet::new(),
            unwilling: BTreeMap::new(),
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
            self.trusts.load(&store).await?;
            self.absences = Some(loaded);
        }
        let members = self.blocks.net().members();
        let is_leaving = self.blocks.is_leaving();
        if self.is_leaving != is_leaving {
            self.is_leaving = is_leaving;
            self.shown.set_remainder(None);
            self.queue.clear();
            self.surplus.clear();
            self.sweep = None;
            self.settled = None;
            self.next_sweep = now;
        }
        let mut is_dead_back = false;
        if let Some(absences) = &mut self.absences {
            is_dead_back = absences.look(&members, &self.silent, now);
            absences.save(&store, now).await?;
        }
        self.look_at_uptimes(&members, now).await?;
        if is_dead_back {
            // What was planned is what it has.
            self.queue.clear();
            self.sweep = None;
            self.settled = None;
            self.next_sweep = now;
        }
        if self.sweep.is_some() {
            let advanced = self.advance().await;
            if let Some(sweep) = self.sweep.as_mut().filter(|_| advanced.is_err()) {
                sweep.is_partial = true;
            }
            return advanced.map(|()| Next::Again);
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
        let is_told = !self.leftovers.is_empty();
        if is_told {
            self.settle_some().await;
        }
        // In turns with that, which others may draw out.
        let is_much = self.surplus.len() >= SURPLUS_MUCH;
        if !self.queue.is_empty() && !is_much {
            return Ok(self.repair_some().await);
        }
        if is_told {
            return Ok(Next::Again);
        }
        if !self.surplus.is_empty() {
            self.let_go_some().await;
            return Ok(Next::Again);
        }
        let rest = self.next_sweep.saturating_duration_since(now);
        Ok(Next::Idle(rest.min(REST_MAX)))
    }

    /// Takes note of who is there, and tells what redundancy fits that.
    async fn look_at_uptimes(&mut self, members: &Members, now: Instant) -> Result<(), StoreError> {
        let store = self.blocks.store().clone();
        let now_ms = self.blocks.clock().now_ms();
        if self.uptimes.is_none() {
            self.uptimes = Some(Uptimes::load(&store, self.own(), now_ms).await?);
        }
        let begun = *self.begun.get_or_insert(now);
        let (Some(uptimes), Some(absences)) = (&mut self.uptimes, &self.absences) else {
            return Ok(());
        };
        uptimes.look(members, now);
        uptimes.save(&store, now, now_ms).await?;
        let counts = |member: &&Member| {
            let is_away = matches!(member.state, Reach::Away { .. });
            let is_dead = || absences.standing(&member.peer) == Standing::Dead;
            member.capacity_bytes > 0 && !(is_away && is_dead())
        };
        let counted = members.list.iter().filter(counts);
        let availabilities = counted.map(|member| uptimes.availability(&member.peer));
        let is_settled = now >= begun + self.options.suspect;
        self.options.auto.set(availabilities.collect(), is_settled);
        Ok(())
    }

    // ---- looking -----------------------------------------------------------------------------

    async fn begin_sweep(&mut self) -> Result<(), StoreError> {
        self.next_sweep = Instant::now() + self.options.interval();
        self.silent.clear();
        let now = Instant::now();
        self.unwilling.retain(|_, until| now < *until);
        let members = self.blocks.net().members();
        if self.roots.len() > ALL_ASKED_MAX {
            self.roots.retain(|peer, _| members.get(peer).is_some());
        }
        self.distrusted = self.trusts.distrusted(others(&members));
        // Also of this peer what others know of it: whoever leads a group judges as the one before.
        for member in &members.list {
            self.roomy
                .note(member.peer, member.free_bytes, member.capacity_bytes);
        }
        let asked = askable(&members, self.own());
        self.ask_roots(&asked).await;
        let (digest, mut groups) = self.groups.list(&self.blocks).await?;
        let fingerprint = self.fingerprint_of_all(digest);
        if self.settled == Some(fingerprint) {
            // Nothing has changed: only what was left open is looked at again.
            let open = self.led.iter().filter(|(_, led)| led.fingerprint.is_none());
            let open: VecDeque<Group> = open.map(|(group, _)| *group).collect();
            if !open.is_empty() {
                self.queue.clear();
                self.sweep = Some(self.sweep_of(open, None));
            }
            return Ok(());
        }
        self.settled = None;
        self.queue.clear();
        if self.blocks.is_leaving() {
            self.led.retain(|group, _| groups.contains(*group));
            let own_groups = groups.iter().collect();
            self.sweep = Some(self.sweep_of(own_groups, Some(fingerprint)));
            return Ok(());
        }
        for root in self.roots.values() {
            groups.add(&root.groups);
        }
        // Those of which all is gone by now are looked at once more.
        let mut all = GroupSet::default();
        all.add(&groups);
        self.led.keys().for_each(|group| all.insert(*group));
        self.sweep = Some(self.sweep_of(all.iter().collect(), Some(fingerprint)));
        Ok(())
    }

    fn sweep_of(&self, left: VecDeque<Group>, from: Option<u128>) -> Sweep {
        Sweep {
            left,
            from,
            silent: self.silent.clone(),
            is_partial: false,
            is_leaving: self.blocks.is_leaving(),
        }
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
        self.told.set(&self.roots);
        let others = self.roots.iter().map(|(peer, root)| (*peer, root.tally));
        let members = self.blocks.net().members();
        let is_away = |peer: &PeerId| {
            let member = members.get(peer);
            member.is_some_and(|member| matches!(member.state, Reach::Away { .. }))
        };
        let others = others.filter(|(peer, _)| !is_away(peer) && !self.is_disbelieved(peer));
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
            for text in [&member.zone, &member.invitation] {
                hash.add(&(text.len() as u32).to_le_bytes());
                hash.add(text.as_bytes());
            }
            hash.add(&[
                member.stay as u8,
                u8::from(member.free_bytes >= ROOM_MIN),
                u8::from(self.roomy.is_roomy(&member.peer)),
                u8::from(self.unwilling.contains_key(&member.peer)),
                u8::from(self.distrusted.displaced.contains(&member.peer)),
            ]);
            if let Some(root) = self.roots.get(&member.peer) {
                hash.add(&root.digest.0.to_le_bytes());
            }
        }
        self.distrusted.add_refuted(&mut hash, |_| true);
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

    fn is_disbelieved(&self, peer: &PeerId) -> bool {
        self.distrusted.disbelieved.contains(peer)
    }

    /// What is to be expected of a peer. Whoever says what is not so counts as gone for good: what it holds is made anew
    /// elsewhere, and it looks after nothing.
    fn standing(&self, peer: &PeerId, reach: &Reach) -> Standing {
        match self.is_disbelieved(peer) {
            true => Standing::Dead,
            false => self.standing_as_told(peer, reach),
        }
    }

    /// The same if it is believed.
    fn standing_as_told(&self, peer: &PeerId, reach: &Reach) -> Standing {
        let is_away = matches!(reach, Reach::Away { .. }) || self.silent.contains(peer);
        if !is_away || *reach == Reach::Own {
            return Standing::Live;
        }
        let absences = self.absences.as_ref();
        absences.map_or(Standing::Away, |absences| absences.standing(peer))
    }

    fn end_sweep(&mut self, sweep: &Sweep) {
        // Who fell silent on the way was taken as away, for what was looked at after that. When it answers again, all
        // looks as it did before.
        if sweep.is_partial || sweep.silent != self.silent {
            self.settled = None;
        } else if sweep.from.is_some() {
            self.settled = sweep.from;
        }
        match sweep.is_leaving && self.blocks.is_leaving() {
            true if sweep.is_partial => {}
            true => self.shown.set_remainder(Some(self.remainder())),
            false => self.shown.set_remainder(None),
        }
        self.shown.set_plan(self.queue.plan());
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
        let rate = self.options.rate;
        let tasks = self.queue.take(rate, self.blocks.is_wanted());
        let begun = Instant::now();
        let outcome = carry(&self.blocks, &self.options, tasks).await;
        let carried = outcome.carried;
        self.failed += carried.failed;
        for refusal in outcome.refusals {
            if self.refusals.len() < REFUSALS_MAX {
                self.refusals.insert(refusal);
            }
        }
        let now = Instant::now();
        self.queue.doubt(&outcome.disappointing, now);
        let own = self.own();
        for peer in outcome.unwilling {
            if peer != own {
                self.unwilling.insert(peer, now + UNWILLING_FOR);
            }
        }
        self.shown
            .add_made(carried.made, carried.made_bytes, carried.read_bytes);
        self.shown
            .add_moved(carried.relocated, carried.relocated_bytes);
        // More are found again.
        let more = SURPLUS_MAX.saturating_sub(self.surplus.len());
        self.surplus
            .extend(outcome.displaced.into_iter().take(more));
        let took = begun.elapsed();
        let bytes = carried.moved_bytes.max(carried.read_bytes);
        let pause = rest(rate, bytes, took, self.blocks.is_wanted());
        let took = (took + pause).as_secs_f64().max(0.001);
        let speed = (carried.made_bytes + carried.relocated_bytes) as f64 / took;
        self.speed = match self.speed > 0.0 {
            true => self.speed * 0.8 + speed * 0.2,
            false => speed,
        };
        if carried.made > 0 {
            self.publish(carried);
        }
        let is_done = carried.made + carried.relocated > 0 && carried.failed == 0;
        if self.queue.is_empty() && is_done {
            // What was done shows at once, and what was left out is found.
            self.next_sweep = Instant::now();
        }
        match pause.is_zero() {
            true => Next::Again,
            false => Next::Idle(pause),
        }
    }
}

/// Members that offer storage, but for one of them.
pub(super) fn others(members: &Members) -> usize {
    let offering = members.list.iter().filter(|m| m.capacity_bytes > 0);
    offering.count().saturating_sub(1)
}

/// Whom to ask for what they hold: in a large network those alone to whom there is a connection.
pub(super) fn askable(members: &Members, own: PeerId) -> Vec<PeerId> {
    let few = members.list.len() <= ALL_ASKED_MAX;
    let asked = members.list.iter().filter(|member| {
        let reached = match member.state {
            Reach::Own | Reach::Away { .. } => false,
            Reach::Connected(_) => true,
            Reach::Idle => few,
        };
        let may_hold = member.capacity_bytes > 0 || member.is_leaving();
        reached && may_hold && member.peer != own
    });
    asked.map(|member| member.peer).collect()
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
            return format!("looking at what is held: {} groups left", sweep.left.len());
        }
        let mut text = match self.shown.remainder() {
            Some(left) => format!("hands over {} shards, to leave", left.shards),
            None => format!("looks after {} blocks", self.tally.get().blocks),
        };
        if !self.queue.is_empty() {
            text.push_str(&format!(
                ", repairs or moves {} of them at {}/s",
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
