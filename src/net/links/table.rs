//! The links, attempts and failures of each peer: plain data, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{AttachError, Connector, Plane};
use crate::base::PeerId;
use crate::net::command::{NetError, Path, Reach};
use crate::net::mux::Link;

/// Two connections within this time count as simultaneous.
const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// Whoever asked for a link has used it by then, or does not need it.
const SETTLED: Duration = Duration::from_millis(500);
/// Pause after the first failed attempt; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A failure of a peer that nobody tries to reach again says nothing any more after this.
const FAILURE_FRESH: Duration = Duration::from_secs(60);
/// Peers without a link that are remembered, for each that may have one.
const REMEMBERED_PER_SLOT: usize = 8;

/// Comes to a value when an attempt ends.
pub(super) type Attempt = watch::Receiver<Option<Result<(), NetError>>>;

pub(super) struct Table {
    own: PeerId,
    max_peers: usize,
    entries: BTreeMap<PeerId, Entry>,
    connectors: [Option<Arc<dyn Connector>>; 2],
    wanted: BTreeSet<PeerId>,
    banned: BTreeSet<PeerId>,
    shut: bool,
}

#[derive(Default)]
struct Entry {
    /// At most one of each kind.
    links: Vec<Held>,
    rtt: Option<Duration>,
    failing_since_ms: Option<u64>,
    /// The last failure of that series.
    failed_at: Option<Instant>,
    planes: [PlaneState; 2],
}

struct Held {
    link: Link,
    dialer: PeerId,
    since: Instant,
}

#[derive(Default)]
struct PlaneState {
    failures: u32,
    not_before: Option<Instant>,
    attempt: Option<Attempt>,
}

/// Lower is better.
const fn rank(path: Path) -> u8 {
    match path {
        Path::Bulk(_) => 0,
        Path::Memory => 1,
        Path::Tcp => 2,
        Path::Quic => 3,
    }
}

/// Whether an attempt can be made.
pub(super) enum Start {
    /// With this connector; report to this sender.
    Now(
        Arc<dyn Connector>,
        watch::Sender<Option<Result<(), NetError>>>,
        Attempt,
    ),
    /// One is under way.
    Join(Attempt),
    /// Not before its pause is over, or never.
    No,
}

impl Table {
    pub(super) const fn new(own: PeerId, max_peers: usize) -> Self {
        Table {
            own,
            max_peers,
            entries: BTreeMap::new(),
            connectors: [None, None],
            wanted: BTreeSet::new(),
            banned: BTreeSet::new(),
            shut: false,
        }
    }

    pub(super) fn set_connector(&mut self, plane: Plane, connector: Arc<dyn Connector>) {
        if let Some(place) = self.connectors.get_mut(plane as usize) {
            *place = Some(connector);
        }
    }

    pub(super) fn has_room_for(&self, peer: &PeerId) -> bool {
        !self.shut && (self.is_linked(peer) || self.linked().count() < self.max_peers)
    }

    pub(super) const fn is_shut(&self) -> bool {
        self.shut
    }

    /// The links of the peer that can best be done without: nothing is under way on them, nobody
    /// asked to keep them (or, with `also_wanted`, only if there are no others), and the oldest first.
    pub(super) fn least_needed(&self, also_wanted: bool, now: Instant) -> Vec<Link> {
        let is_idle = |held: &Held| {
            let is_settled = now.duration_since(held.since) >= SETTLED;
            is_settled && held.link.is_open() && held.link.in_flight() == 0
        };
        let idle = self.entries.iter().filter_map(|(peer, entry)| {
            let since = entry.links.iter().map(|held| held.since).min()?;
            let all_idle = entry.links.iter().all(is_idle);
            let is_wanted = self.wanted.contains(peer);
            (all_idle && (also_wanted || !is_wanted)).then_some((is_wanted, since, entry))
        });
        let least = idle.min_by_key(|(is_wanted, since, _)| (*is_wanted, *since));
        let links = least.map(|(.., entry)| entry.links.iter());
        let links = links.into_iter().flatten();
        links.map(|held| held.link.clone()).collect()
    }

    /// Whether one more may be dialled, if all that are being dialled come about.
    pub(super) fn has_room_to_dial(&self, peer: &PeerId) -> bool {
        let is_taken = |entry: &Entry| {
            let is_dialling = entry.planes.iter().any(|plane| plane.attempt.is_some());
            is_dialling || !entry.links.is_empty()
        };
        let is_counted = self.entries.get(peer).is_some_and(is_taken);
        let taken = self.entries.values().filter(|entry| is_taken(entry));
        !self.shut && (is_counted || taken.count() < self.max_peers)
    }

    pub(super) fn may_attach(
        &self,
        peer: &PeerId,
        path: Path,
        dialer: PeerId,
        now: Instant,
    ) -> Result<(), AttachError> {
        if self.shut || self.banned.contains(peer) || *peer == self.own {
            return Err(AttachError::Closed);
        }
        if !self.has_room_for(peer) {
            return Err(AttachError::Full(self.max_peers));
        }
        let rival = self.entries.get(peer).and_then(|e| e.of_kind(path));
        match rival {
            Some(rival)
                if rival.link.is_open()
                    && rival.dialer < dialer
                    && now.duration_since(rival.since) < SIMULTANEOUS =>
            {
                Err(AttachError::Superseded)
            }
            _ => Ok(()),
        }
    }

    /// Adds a link; returns those it replaces.
    pub(super) fn insert(&mut self, link: Link, dialer: PeerId, now: Instant) -> Vec<Link> {
        self.prune();
        let entry = self.entries.entry(link.peer()).or_default();
        entry.failing_since_ms = None;
        for plane in &mut entry.planes {
            plane.failures = 0;
            plane.not_before = None;
        }
        let kind = rank(link.path());
        let is_best_plane = matches!(link.path(), Path::Bulk(_));
        let (stay, go) = std::mem::take(&mut entry.links)
            .into_iter()
            .partition(|held| !is_best_plane && rank(held.link.path()) != kind);
        entry.links = stay;
        entry.links.push(Held {
            link,
            dialer,
            since: now,
        });
        entry.links.sort_by_key(|held| rank(held.link.path()));
        let go: Vec<Held> = go;
        go.into_iter().map(|held| held.link).collect()
    }

    /// Forgets an ended link.
    pub(super) fn remove(&mut self, link: &Link, now: Instant, failed_at_ms: Option<u64>) {
        let Some(entry) = self.entries.get_mut(&link.peer()) else {
            return;
        };
        entry.rtt = link.rtt().or(entry.rtt);
        entry.links.retain(|held| !held.link.is_same(link));
        if entry.links.is_empty() && entry.failing_since_ms.is_none() {
            entry.failing_since_ms = failed_at_ms;
            entry.failed_at = failed_at_ms.map(|_| now);
        }
    }

    pub(super) fn best(&self, peer: &PeerId) -> Option<Link> {
        let entry = self.entries.get(peer)?;
        let open = entry.links.iter().find(|held| held.link.is_open())?;
        Some(open.link.clone())
    }

    pub(super) fn reach(&self, peer: &PeerId, now: Instant) -> Reach {
        let entry = self.entries.get(peer);
        let is_fresh = |entry: &&Entry| {
            let recent = |at| now.duration_since(at) < FAILURE_FRESH;
            self.wanted.contains(peer) || entry.failed_at.is_some_and(recent)
        };
        let failing = entry.filter(is_fresh).and_then(|e| e.failing_since_ms);
        match (self.best(peer), failing) {
            (Some(link), _) => Reach::Connected(link.path()),
            (None, Some(since_ms)) => Reach::Away { since_ms },
            (None, None) => Reach::Idle,
        }
    }

    pub(super) fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        let entry = self.entries.get(peer)?;
        let live = entry.links.iter().find_map(|held| held.link.rtt());
        live.or(entry.rtt)
    }

    pub(super) fn connected(&self) -> Vec<(PeerId, Path)> {
        let best = |peer: &PeerId| Some((*peer, self.best(peer)?.path()));
        self.entries.keys().filter_map(best).collect()
    }

    pub(super) fn set_wanted(&mut self, peers: BTreeSet<PeerId>) {
        self.wanted = peers;
    }

    pub(super) fn forgive(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            for plane in &mut entry.planes {
                plane.failures = 0;
                plane.not_before = None;
            }
        }
    }

    pub(super) fn ban(&mut self, peer: &PeerId) -> Vec<Link> {
        self.banned.insert(*peer);
        let entry = self.entries.get(peer);
        let held = entry.map(|e| e.links.iter()).into_iter().flatten();
        held.map(|held| held.link.clone()).collect()
    }

    pub(super) fn unban(&mut self, peer: &PeerId) {
        self.banned.remove(peer);
    }

    pub(super) fn shut(&mut self) -> Vec<Link> {
        self.shut = true;
        // They hold on to the links in turn.
        self.connectors = [None, None];
        let held = self.entries.values().flat_map(|entry| entry.links.iter());
        held.map(|held| held.link.clone()).collect()
    }

    /// Why no connection to `peer` can be thought of, if so.
    pub(super) fn forbids(&self, peer: &PeerId) -> Option<NetError> {
        if self.shut {
            Some(NetError::Closed)
        } else if self.banned.contains(peer) {
            Some(NetError::Denied(*peer))
        } else if *peer == self.own {
            Some(NetError::Unreachable(*peer))
        } else {
            None
        }
    }

    /// Joins or registers an attempt.
    pub(super) fn start(&mut self, peer: PeerId, plane: Plane, now: Instant) -> Start {
        if self.forbids(&peer).is_some() || !self.has_room_to_dial(&peer) {
            return Start::No;
        }
        let Some(connector) = self.connectors.get(plane as usize).cloned().flatten() else {
            return Start::No;
        };
        self.prune();
        let entry = self.entries.entry(peer).or_default();
        let Some(state) = entry.planes.get_mut(plane as usize) else {
            return Start::No;
        };
        if let Some(attempt) = &state.attempt {
            return Start::Join(attempt.clone());
        }
        if state.not_before.is_some_and(|at| now < at) {
            return Start::No;
        }
        let (report, attempt) = watch::channel(None);
        state.attempt = Some(attempt.clone());
        Start::Now(connector, report, attempt)
    }

    /// An attempt ended. `jitter` in `[0, 1)` spreads the next ones. Whether the reach changed.
    pub(super) fn ended(
        &mut self,
        peer: &PeerId,
        plane: Plane,
        outcome: &Result<(), NetError>,
        now: Instant,
        now_ms: u64,
        jitter: f64,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else {
            return false;
        };
        let Some(state) = entry.planes.get_mut(plane as usize) else {
            return false;
        };
        state.attempt = None;
        if outcome.is_ok() {
            return false;
        }
        let pause = PAUSE_MIN
            .saturating_mul(1 << state.failures.min(16))
            .min(PAUSE_MAX);
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(now + pause.mul_f64(0.75 + jitter / 2.0));
        let others_try = entry.planes.iter().any(|plane| plane.attempt.is_some());
        // One that is connected with as many as it may is there all the same.
        let is_there = matches!(outcome, Err(NetError::Busy(_)));
        let failed = entry.links.is_empty() && !others_try && !is_there;
        let is_news = failed && entry.failing_since_ms.is_none();
        if failed {
            entry.failed_at = Some(now);
        }
        if is_news {
            entry.failing_since_ms = Some(now_ms);
        }
        is_news
    }

    /// What the wanted peers need now, and when to look again.
    pub(super) fn due(&self, now: Instant) -> (Vec<(PeerId, Plane)>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for peer in &self.wanted {
            let entry = self.entries.get(peer);
            let best = self.best(peer).map(|link| link.path());
            if matches!(best, Some(Path::Bulk(_) | Path::Memory)) || self.forbids(peer).is_some() {
                continue;
            }
            let no_state = PlaneState::default();
            for plane in [Plane::Bulk, Plane::Control] {
                if self
                    .connectors
                    .get(plane as usize)
                    .is_none_or(Option::is_none)
                {
                    continue;
                }
                let state = entry.and_then(|e| e.planes.get(plane as usize));
                let state = state.unwrap_or(&no_state);
                let has_bulk = self.connectors.first().is_some_and(Option::is_some);
                let bulk_fails = entry.is_some_and(|e| e.planes[0].failures > 0);
                let is_fallback = plane == Plane::Control;
                if state.attempt.is_some()
                    || (is_fallback && (best.is_some() || (has_bulk && !bulk_fails)))
                {
                    continue;
                }
                match state.not_before {
                    Some(at) if now < at => next = Some(next.map_or(at, |n| n.min(at))),
                    _ => due.push((*peer, plane)),
                }
            }
        }
        (due, next)
    }

    fn is_linked(&self, peer: &PeerId) -> bool {
        self.entries.get(peer).is_some_and(|e| !e.links.is_empty())
    }

    fn linked(&self) -> impl Iterator<Item = &PeerId> {
        let linked = self.entries.iter().filter(|(_, e)| !e.links.is_empty());
        linked.map(|(peer, _)| peer)
    }

    /// Keeps the memory of past failures bounded.
    fn prune(&mut self) {
        let bound = self.max_peers.saturating_mul(REMEMBERED_PER_SLOT).max(64);
        if self.entries.len() < bound {
            return;
        }
        let wanted = &self.wanted;
        self.entries.retain(|peer, entry| {
            let busy = entry.planes.iter().any(|plane| plane.attempt.is_some());
            !entry.links.is_empty() || busy || wanted.contains(peer)
        });
    }
}

impl Entry {
    fn of_kind(&self, path: Path) -> Option<&Held> {
        let kind = rank(path);
        self.links
            .iter()
            .find(|held| rank(held.link.path()) == kind)
    }
}
