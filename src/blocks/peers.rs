//! What this peer has learned of the others by using them: how fast they answer, and whom to
//! leave alone for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::PeerId;

/// How long a peer that failed is asked last, unless it answers well meanwhile.
const PENALTY: Duration = Duration::from_secs(15);
/// How long a peer that sent something bad is asked last, whatever it answers meanwhile.
const DISTRUST: Duration = Duration::from_secs(120);
/// How long a peer that said it is full is not offered shards.
const FULL_FOR: Duration = Duration::from_secs(30);
/// How long a peer of an older version is not asked what it did not understand.
const OLD_FOR: Duration = Duration::from_secs(600);
/// Weight of a new sample in the smoothed latency (RFC 6298 uses the same).
const SMOOTHING: f64 = 0.125;
/// Weight of a new sample in the smoothed deviation.
const DEVIATION_SMOOTHING: f64 = 0.25;
/// Experience older than this says nothing about now.
const STALE: Duration = Duration::from_secs(60);

/// Bounds of the time after which another peer is asked too.
const HEDGE_MIN: Duration = Duration::from_millis(40);
const HEDGE_DEFAULT: Duration = Duration::from_millis(250);
const HEDGE_MAX: Duration = Duration::from_secs(2);

/// Which kind of request a sample is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Making a shard durable.
    Store,
    /// Reading a shard.
    Fetch,
    /// Reading a part of a shard.
    Range,
}

impl Work {
    /// A peer whose smoothed latency is above this is slow, whatever the others do.
    const fn slow_s(self) -> f64 {
        match self {
            Work::Store => 1.5,
            Work::Fetch | Work::Range => 0.7,
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Latency {
    mean_s: f64,
    deviation_s: f64,
    at: Option<Instant>,
}

impl Latency {
    fn fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < STALE)
    }

    fn add(&mut self, sample_s: f64) {
        if self.fresh() {
            let distance = (sample_s - self.mean_s).abs();
            self.deviation_s += DEVIATION_SMOOTHING * (distance - self.deviation_s);
            self.mean_s += SMOOTHING * (sample_s - self.mean_s);
        } else {
            self.mean_s = sample_s;
            self.deviation_s = sample_s / 2.0;
        }
        self.at = Some(Instant::now());
    }

    fn at_least(&mut self, sample_s: f64) {
        if !self.fresh() {
            self.mean_s = 0.0;
            self.deviation_s = 0.0;
        }
        if sample_s > self.mean_s {
            self.mean_s += 0.5 * (sample_s - self.mean_s);
            self.at = Some(Instant::now());
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Stats {
    store: Latency,
    fetch: Latency,
    range: Latency,
    penalty_until: Option<Instant>,
    distrust_until: Option<Instant>,
    full_until: Option<Instant>,
    no_ranges_until: Option<Instant>,
    lies: u32,
    is_displaced: bool,
    is_disbelieved: bool,
}

/// Thread-safe table of experience. Never grows beyond the peers that were used.
#[derive(Debug, Default)]
pub struct PeerStats(Mutex<BTreeMap<PeerId, Stats>>);

impl PeerStats {
    fn with<T>(&self, peer: &PeerId, act: impl FnOnce(&mut Stats) -> T) -> T {
        let mut table = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        act(table.entry(*peer).or_default())
    }

    /// A request took so long and succeeded.
    pub fn succeeded(&self, peer: &PeerId, work: Work, took: Duration) {
        self.with(peer, |stats| {
            stats.latency(work).add(took.as_secs_f64());
            stats.penalty_until = None;
        });
    }

    /// A request has not been answered for so long: the mean is at least that.
    pub fn lags(&self, peer: &PeerId, work: Work, so_far: Duration) {
        self.with(peer, |stats| {
            stats.latency(work).at_least(so_far.as_secs_f64());
        });
    }

    /// A request failed: ask this peer last for a while.
    pub fn failed(&self, peer: &PeerId) {
        let until = Instant::now() + PENALTY;
        self.with(peer, |stats| stats.penalty_until = Some(until));
    }

    /// It sent something that does not verify.
    pub fn lied(&self, peer: &PeerId) {
        let until = Instant::now() + DISTRUST;
        self.with(peer, |stats| {
            stats.lies = stats.lies.saturating_add(1);
            stats.distrust_until = Some(until);
        });
    }

    /// It has no room.
    pub fn is_full(&self, peer: &PeerId) {
        let until = Instant::now() + FULL_FOR;
        self.with(peer, |stats| stats.full_until = Some(until));
    }

    /// It took something again.
    pub fn has_room(&self, peer: &PeerId) {
        self.with(peer, |stats| stats.full_until = None);
    }

    /// Whether it said lately that it has no room.
    pub fn said_full(&self, peer: &PeerId) -> bool {
        let now = Instant::now();
        self.with(peer, |stats| {
            stats.full_until.is_some_and(|until| now < until)
        })
    }

    /// Whether it failed or lied lately.
    pub fn is_penalised(&self, peer: &PeerId) -> bool {
        let now = Instant::now();
        self.with(peer, |stats| {
            let until = stats.penalty_until.max(stats.distrust_until);
            until.is_some_and(|until| now < until)
        })
    }

    /// Whether waiting for it holds others up.
    pub fn is_slow(&self, peer: &PeerId, work: Work) -> bool {
        self.with(peer, |stats| {
            let latency = stats.latency(work);
            latency.fresh() && latency.mean_s > work.slow_s()
        })
    }

    /// How often it sent something that does not verify.
    pub fn lies(&self, peer: &PeerId) -> u32 {
        self.with(peer, |stats| stats.lies)
    }

    /// Who sent something that does not verify, and how often.
    pub fn liars(&self) -> BTreeMap<PeerId, u32> {
        let table = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        let liars = table.iter().filter(|(_, stats)| stats.lies > 0);
        liars.map(|(peer, stats)| (*peer, stats.lies)).collect()
    }

    /// These have lost so much trust that others are preferred to them, of whom some lied; and nobody else has.
    pub fn displace(&self, peers: &BTreeSet<PeerId>, liars: &BTreeSet<PeerId>) {
        let mut table = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        for peer in peers.union(liars) {
            table.entry(*peer).or_default();
        }
        for (peer, stats) in table.iter_mut() {
            stats.is_displaced = peers.contains(peer);
            stats.is_disbelieved = liars.contains(peer);
        }
    }

    /// Whether it lied so often that nothing is let go because of what it says.
    pub fn is_disbelieved(&self, peer: &PeerId) -> bool {
        self.with(peer, |stats| stats.is_disbelieved)
    }

    /// Whether others are preferred to it, as long as there are enough.
    pub fn is_displaced(&self, peer: &PeerId) -> bool {
        self.with(peer, |stats| stats.is_displaced)
    }

    /// It does not know questions for parts of shards.
    pub fn lacks_ranges(&self, peer: &PeerId) {
        let until = Instant::now() + OLD_FOR;
        self.with(peer, |stats| stats.no_ranges_until = Some(until));
    }

    /// Whether it may be asked for parts of shards with a good chance.
    pub fn gives_ranges(&self, peer: &PeerId) -> bool {
        let now = Instant::now();
        !self.is_penalised(peer)
            && !self.is_slow(peer, Work::Range)
            && self.with(peer, |stats| {
                stats.no_ranges_until.is_none_or(|until| until <= now)
            })
    }

    /// After how long without an answer from `peer` another one is asked too.
    pub fn hedge_after(&self, peer: &PeerId, work: Work) -> Duration {
        self.with(peer, |stats| {
            let latency = stats.latency(work);
            if latency.fresh() {
                Duration::from_secs_f64(latency.mean_s + 4.0 * latency.deviation_s)
                    .clamp(HEDGE_MIN, HEDGE_MAX)
            } else {
                HEDGE_DEFAULT
            }
        })
    }
}

impl Stats {
    const fn latency(&mut self, work: Work) -> &mut Latency {
        match work {
            Work::Store => &mut self.store,
            Work::Fetch => &mut self.fetch,
            Work::Range => &mut self.range,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn experience_fades_and_accumulates() {
        let stats = PeerStats::default();
        let peer = PeerId([1; 32]);
        assert_eq!(stats.hedge_after(&peer, Work::Fetch), HEDGE_DEFAULT);
        for _ in 0..50 {
            stats.succeeded(&peer, Work::Fetch, Duration::from_millis(2));
        }
        assert_eq!(stats.hedge_after(&peer, Work::Fetch), HEDGE_MIN);
        assert!(!stats.is_slow(&peer, Work::Fetch));
        for _ in 0..4 {
            stats.lags(&peer, Work::Fetch, Duration::from_secs(3));
        }
        assert!(stats.is_slow(&peer, Work::Fetch));
        stats.is_full(&peer);
        stats.failed(&peer);
        assert!(stats.said_full(&peer) && stats.is_penalised(&peer));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!stats.said_full(&peer) && !stats.is_penalised(&peer));
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_answer_makes_up_for_a_failure_and_not_for_a_lie() {
        let stats = PeerStats::default();
        let peer = PeerId([1; 32]);
        stats.failed(&peer);
        stats.succeeded(&peer, Work::Fetch, Duration::from_millis(2));
        assert!(!stats.is_penalised(&peer));
        stats.lied(&peer);
        stats.succeeded(&peer, Work::Fetch, Duration::from_millis(2));
        assert!(stats.is_penalised(&peer));
        tokio::time::advance(DISTRUST + Duration::from_secs(1)).await;
        assert!(!stats.is_penalised(&peer));
    }
}
