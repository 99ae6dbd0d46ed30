//! A network for years, as a model: peers that come, go away for a while and go for good; stripes on them, placed by the
//! real ranking; repairs after the real timers. No messages, no bytes.
//!
//! All stripes of a group have the same holders, so a group stands for all stripes in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use cairnfs::base::{EcProfile, Entropy, Group, PeerId};
use cairnfs::placement::{Cluster, Offering};

const HOUR: f64 = 3600.0;
const YEAR: f64 = 365.25 * 24.0 * HOUR;
/// Members change so often in the rankings that are looked at; in between those of the last time are used.
const EPOCH: f64 = 30.0 * 24.0 * HOUR;
/// A repair for which too few peers are there is tried again.
const RETRY: f64 = HOUR;
/// How often it is counted what can be read.
const SAMPLE: f64 = 7.0 * 24.0 * HOUR;

/// How peers come and go.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    pub name: &'static str,
    /// Mean time until a peer goes for good, with its disk (years).
    pub life_years: f64,
    /// Mean time that it is there at a stretch (hours).
    pub up_hours: f64,
    /// Mean time that it is away (hours).
    pub down_hours: f64,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub churn: Churn,
    pub peers: usize,
    pub profile: EcProfile,
    pub groups: u16,
    pub years: f64,
    /// What a peer holds that is away for longer is made anew (hours).
    pub dead_hours: f64,
    /// What each peer holds (bytes), and how much of repairs it moves (bytes per second).
    pub held_bytes: f64,
    pub rate: f64,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    pub group_years: f64,
    /// Groups of which too few shards were left.
    pub lost: u64,
    /// Of looks at a group, those at which too few of its holders were there.
    pub unreadable: u64,
    pub looks: u64,
    /// Shards made anew.
    pub made: u64,
    /// Of these, for peers that came back.
    pub in_vain: u64,
    /// What the fullest peer holds against the mean, at the end.
    pub fullest: f64,
    pub peer_years: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Return(u32),
    Leave(u32),
    Gone(u32),
    /// Away for as long as counts as gone; the number of the absence.
    Dead(u32, u32),
    Repair(u32, u32),
    Sample,
    Epoch,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    is_up: bool,
    is_gone: bool,
    /// Since when it is away (seconds), and which absence it is.
    since: f64,
    absence: u32,
    /// Shards that it had at some time: to be compared with the holders.
    held: Vec<(u16, u8)>,
}

struct World {
    setting: Setting,
    entropy: Entropy,
    now: f64,
    queue: BinaryHeap<Reverse<(u64, Event)>>,
    peers: Vec<Peer>,
    members: usize,
    /// Who has which shard of each group.
    holders: Vec<Vec<u32>>,
    cluster: Cluster,
    numbers: BTreeMap<PeerId, u32>,
    ranks: Vec<Option<Vec<u32>>>,
    figures: Figures,
}

const NOBODY: u32 = u32::MAX;

/// Lives through all of it.
pub fn live(setting: Setting) -> Figures {
    let mut world = World::new(setting);
    let end = setting.years * YEAR;
    while let Some(Reverse((at, event))) = world.queue.pop() {
        world.now = at as f64 / 1000.0;
        if world.now > end {
            break;
        }
        world.happens(event);
    }
    world.end()
}

impl World {
    fn new(setting: Setting) -> World {
        let mut world = World {
            setting,
            entropy: Entropy::seeded(setting.seed),
            now: 0.0,
            queue: BinaryHeap::new(),
            peers: Vec::new(),
            members: 0,
            holders: vec![
                vec![NOBODY; setting.profile.total_shards()];
                usize::from(setting.groups)
            ],
            cluster: Cluster::default(),
            numbers: BTreeMap::new(),
            ranks: vec![None; usize::from(setting.groups)],
            figures: Figures::default(),
        };
        for _ in 0..setting.peers {
            world.join();
        }
        world.epoch();
        for group in 0..setting.groups {
            world.put(group);
        }
        world.after(SAMPLE, Event::Sample);
        world
    }

    fn random(&self) -> f64 {
        (self.entropy.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn draw(&self, mean: f64) -> f64 {
        -mean * (1.0 - self.random()).ln()
    }

    fn after(&mut self, seconds: f64, event: Event) {
        let at = ((self.now + seconds) * 1000.0) as u64;
        self.queue.push(Reverse((at, event)));
    }

    fn join(&mut self) {
        let churn = self.setting.churn;
        let number = self.peers.len() as u32;
        let id = PeerId(self.entropy.array());
        let share_up = churn.up_hours / (churn.up_hours + churn.down_hours);
        // At the beginning some are away; who joins later is there.
        let is_up = self.now > 0.0 || self.random() < share_up;
        self.peers.push(Peer {
            id,
            is_up,
            is_gone: false,
            since: 0.0,
            absence: 0,
            held: Vec::new(),
        });
        self.numbers.insert(id, number);
        self.members += 1;
        let life = self.draw(churn.life_years * YEAR);
        self.after(life, Event::Gone(number));
        match is_up {
            true => self.after(self.draw(churn.up_hours * HOUR), Event::Leave(number)),
            false => self.goes_away(number),
        }
    }

    fn goes_away(&mut self, number: u32) {
        let away = self.draw(self.setting.churn.down_hours * HOUR);
        let absence = self.begins_absence(number);
        let dead = self.setting.dead_hours * HOUR;
        if away > dead {
            self.after(dead, Event::Dead(number, absence));
        }
        self.after(away, Event::Return(number));
    }

    fn begins_absence(&mut self, number: u32) -> u32 {
        let now = self.now;
        let peer = &mut self.peers[number as usize];
        peer.is_up = false;
        peer.since = now;
        peer.absence += 1;
        peer.absence
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Leave(number) if self.is_there(number) => self.goes_away(number),
            Event::Return(number) if !self.peers[number as usize].is_gone => {
                let peer = &mut self.peers[number as usize];
                peer.is_up = true;
                peer.absence += 1;
                self.after(
                    self.draw(self.setting.churn.up_hours * HOUR),
                    Event::Leave(number),
                );
            }
            Event::Gone(number) => self.is_gone(number),
            Event::Dead(number, absence) if self.is_absent(number, absence) => {
                let delay = 60.0 + self.repair_seconds();
                self.after(delay, Event::Repair(number, absence));
            }
            // Also if it cannot be done yet.
            Event::Repair(number, absence)
                if self.is_absent(number, absence) && self.repair(number) =>
            {
                self.after(RETRY, Event::Repair(number, absence));
            }
            Event::Sample => {
                self.sample();
                self.after(SAMPLE, Event::Sample);
            }
            Event::Epoch => self.epoch(),
            _ => {}
        }
    }

    fn is_there(&self, number: u32) -> bool {
        let peer = &self.peers[number as usize];
        peer.is_up && !peer.is_gone
    }

    fn is_absent(&self, number: u32, absence: u32) -> bool {
        let peer = &self.peers[number as usize];
        !peer.is_up && peer.absence == absence
    }

    /// How long those who are left take to make anew what one peer held: each leads its share, reads as many shards as are
    /// needed for one, and sends it.
    fn repair_seconds(&self) -> f64 {
        let Setting {
            profile,
            held_bytes,
            rate,
            peers,
            ..
        } = self.setting;
        held_bytes * (profile.data_shards() + 1) as f64 / (peers as f64 * rate)
    }

    fn is_gone(&mut self, number: u32) {
        let was_up = self.peers[number as usize].is_up;
        self.peers[number as usize].is_gone = true;
        let dead = self.setting.dead_hours * HOUR;
        if was_up {
            let absence = self.begins_absence(number);
            self.after(dead, Event::Dead(number, absence));
        } else {
            let peer = &self.peers[number as usize];
            let (absence, counted) = (peer.absence, self.now - peer.since);
            // If it counted as gone before, what it had was made anew already, or is being made.
            if counted < dead {
                self.after(dead - counted, Event::Dead(number, absence));
            }
        }
        for (group, index) in self.peers[number as usize].held.clone() {
            if self.holders[usize::from(group)][usize::from(index)] == number {
                self.look(group);
            }
        }
        self.members -= 1;
        self.join();
    }

    /// Whether enough of a group is left; if not it is put anew.
    fn look(&mut self, group: u16) {
        let holders = &self.holders[usize::from(group)];
        let is_left = |number: &&u32| **number != NOBODY && !self.peers[**number as usize].is_gone;
        if holders.iter().filter(is_left).count() < self.setting.profile.data_shards() {
            self.figures.lost += 1;
            self.holders[usize::from(group)].fill(NOBODY);
            self.put(group);
        }
    }

    fn put(&mut self, group: u16) {
        for index in 0..self.setting.profile.total_shards() as u8 {
            if let Some(target) = self.target(group) {
                self.place(group, index, target);
            }
        }
    }

    fn place(&mut self, group: u16, index: u8, target: u32) {
        self.holders[usize::from(group)][usize::from(index)] = target;
        self.peers[target as usize].held.push((group, index));
    }

    /// The first candidate that is there and has nothing of the group.
    fn target(&mut self, group: u16) -> Option<u32> {
        let at = usize::from(group);
        if self.ranks[at].is_none() {
            let ranked = self.cluster.rank(Group(group)).into_iter();
            self.ranks[at] = Some(ranked.map(|peer| self.numbers[&peer]).collect());
        }
        let holders = &self.holders[at];
        let ranked = self.ranks[at].as_ref()?;
        let target = ranked
            .iter()
            .find(|number| self.is_there(**number) && !holders.contains(number));
        target.copied()
    }

    /// Makes anew what an absent peer held, as far as that is possible now. Whether something is left to do.
    fn repair(&mut self, number: u32) -> bool {
        let held = std::mem::take(&mut self.peers[number as usize].held);
        let mut left = Vec::new();
        for (group, index) in held {
            let holders = &self.holders[usize::from(group)];
            if holders[usize::from(index)] != number {
                continue;
            }
            let there = holders.iter();
            let there = there
                .filter(|n| **n != NOBODY && self.is_there(**n))
                .count();
            let target = match there >= self.setting.profile.data_shards() {
                true => self.target(group),
                false => None,
            };
            let Some(target) = target else {
                left.push((group, index));
                continue;
            };
            self.place(group, index, target);
            self.figures.made += 1;
            self.figures.in_vain += u64::from(!self.peers[number as usize].is_gone);
        }
        let is_left = !left.is_empty();
        self.peers[number as usize].held.extend(left);
        is_left
    }

    fn sample(&mut self) {
        for holders in &self.holders {
            let there = holders.iter();
            let there = there
                .filter(|n| **n != NOBODY && self.is_there(**n))
                .count();
            self.figures.looks += 1;
            self.figures.unreadable += u64::from(there < self.setting.profile.data_shards());
        }
    }

    fn epoch(&mut self) {
        let members = self.peers.iter().filter(|peer| !peer.is_gone);
        self.cluster = Cluster::new(members.map(|peer| Offering {
            peer: peer.id,
            capacity_bytes: 1 << 40,
            zone: String::new(),
            invitation: String::new(),
        }));
        self.ranks.fill(None);
        self.after(EPOCH, Event::Epoch);
    }

    fn end(mut self) -> Figures {
        let mut counts = vec![0u64; self.peers.len()];
        for number in self.holders.iter().flatten().filter(|n| **n != NOBODY) {
            counts[*number as usize] += 1;
        }
        let here = self
            .peers
            .iter()
            .zip(&counts)
            .filter(|(peer, _)| !peer.is_gone);
        let here: Vec<u64> = here.map(|(_, count)| *count).collect();
        let mean = here.iter().sum::<u64>() as f64 / here.len().max(1) as f64;
        let most = here.iter().max().copied().unwrap_or(0) as f64;
        self.figures.fullest = most / mean.max(f64::MIN_POSITIVE);
        self.figures.group_years = f64::from(self.setting.groups) * self.setting.years;
        self.figures.peer_years = self.setting.peers as f64 * self.setting.years;
        self.figures
    }
}
