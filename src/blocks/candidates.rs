//! The peers that may hold a group's shards, in order of preference, and those closest to a point.
//!
//! A peer that knows every member computes them. Another one looks members up in the DHT and keeps
//! what it found for a while: one look-up serves all groups whose candidates lie in the part of the
//! key space that its answer covers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::Blocks;
use crate::base::limits::CANDIDATES;
use crate::base::{Group, PeerId};
use crate::net::{Member, Members, Reach};
use crate::placement::{self, Cluster, Coverage, Offering, Point, peer_point, point};

/// How long the answer of a look-up is used.
const LOOKUP_FRESH: Duration = Duration::from_secs(60);
/// The same for an answer that names fewer candidates than there may be: of a small network, or
/// of a peer that is just losing or finding its contacts.
const SHORT_FRESH: Duration = Duration::from_secs(5);
/// Most members kept from look-ups.
const FOUND_MAX: usize = 4096;
/// Most parts of the key space kept.
const PARTS_MAX: usize = 1024;
/// Look-ups at a time. Those for targets far apart do not wait for one another; others may find
/// that the one before them has found theirs as well.
const LANES: usize = 4;

/// Members beyond the list.
type Others = BTreeMap<PeerId, Arc<Member>>;

/// What is known of members beyond the list, and the ranking table of all that are known.
#[derive(Debug)]
pub(super) struct Cache {
    found: Mutex<Found>,
    /// Always the same value, so that the table need not be made anew.
    nobody: Arc<Others>,
    table: Mutex<Option<Table>>,
    lanes: [tokio::sync::Mutex<()>; LANES],
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            found: Mutex::new(Found::nothing()),
            nobody: Arc::default(),
            table: Mutex::default(),
            lanes: Default::default(),
        }
    }
}

/// Members found by look-ups.
#[derive(Debug)]
struct Found {
    members: Arc<Others>,
    seen: BTreeMap<PeerId, Instant>,
    coverage: Coverage<Instant>,
    /// Points that were looked up themselves.
    answered: BTreeMap<Point, Instant>,
}

/// A place in the key space.
#[derive(Debug)]
struct Target {
    /// What is hashed to the point.
    key: Vec<u8>,
    point: Point,
}

impl Target {
    fn new(key: Vec<u8>) -> Target {
        let point = point(&key);
        Target { key, point }
    }
}

/// A ranking table and what it was made from.
#[derive(Debug)]
struct Table {
    listed: Arc<Members>,
    found: Arc<Others>,
    cluster: Arc<Cluster>,
}

/// A group's candidates, best first, with what is known of them.
#[derive(Debug, Clone)]
pub(super) struct Ranked {
    /// All candidates; the first `total_shards` are the holders when all are usable.
    pub order: Vec<PeerId>,
    /// Members known when this was computed.
    pub members: Arc<Members>,
    /// Members beyond those, found by look-up.
    found: Arc<Others>,
}

impl Ranked {
    /// What is known of a candidate.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        let found = || self.found.get(peer).map(Arc::as_ref);
        self.members.get(peer).or_else(found)
    }

    /// Whether it can be asked now: connected, or not connected and not known to be away. In a
    /// large network nobody is connected with everybody.
    pub fn is_live(&self, peer: &PeerId) -> bool {
        self.member(peer)
            .is_some_and(|member| !matches!(member.state, Reach::Away { .. }))
    }

    /// Candidates that can be asked and offer room.
    pub fn live(&self) -> impl Iterator<Item = &PeerId> {
        self.order.iter().filter(|peer| self.is_live(peer))
    }
}

impl Blocks {
    /// The candidates of `group`.
    ///
    /// Computed from the member list when that is complete, else also from DHT look-ups (cached).
    pub(super) async fn ranked(&self, group: Group) -> Ranked {
        let listed = self.net.members();
        let target = Target::new(placement::group_key(group));
        let found = self.around(&listed, &target, CANDIDATES).await;
        self.rank(group, listed, found)
    }

    /// The `count` members closest to SHA-256 of `key`, closest first, whether they can be reached or not; at most
    /// [`CANDIDATES`]. Found as [`ranked`](Blocks::ranked) finds them.
    pub(super) async fn closest_to(&self, key: Vec<u8>, count: usize) -> Ranked {
        let listed = self.net.members();
        let target = Target::new(key);
        let found = self.around(&listed, &target, count).await;
        let cluster = self.candidates.cluster(&listed, &found);
        let closest = cluster.closest_to(&target.point, count);
        Ranked {
            order: closest.iter().map(|offering| offering.peer).collect(),
            members: listed,
            found,
        }
    }

    /// Members beyond the listed, so that the `count` closest to `target` are among all of them.
    async fn around(&self, listed: &Arc<Members>, target: &Target, count: usize) -> Arc<Others> {
        if listed.complete {
            return self.nobody();
        }
        if let Some(found) = self.candidates.known(listed, target, count) {
            return found;
        }
        let lane = usize::from(target.point.first().copied().unwrap_or(0)) * LANES / 256;
        let Some(lane) = self.candidates.lanes.get(lane) else {
            return self.nobody();
        };
        let _turn = lane.lock().await;
        match self.candidates.known(listed, target, count) {
            Some(found) => found,
            None => self.look_up(target).await,
        }
    }

    /// The candidates of `group`, looked up anew if members may be missing from the list.
    pub(super) async fn ranked_anew(&self, group: Group) -> Ranked {
        let listed = self.net.members();
        let found = if listed.complete {
            self.nobody()
        } else {
            self.look_up(&Target::new(placement::group_key(group)))
                .await
        };
        self.rank(group, listed, found)
    }

    fn nobody(&self) -> Arc<Others> {
        Arc::clone(&self.candidates.nobody)
    }

    fn rank(&self, group: Group, members: Arc<Members>, found: Arc<Others>) -> Ranked {
        Ranked {
            order: self.candidates.cluster(&members, &found).rank(group),
            members,
            found,
        }
    }

    /// Looks a point up and keeps the answer; all members that are known then.
    async fn look_up(&self, target: &Target) -> Arc<Others> {
        match self.net.closest(target.key.clone(), CANDIDATES).await {
            Ok(lookup) => {
                tracing::debug!(
                    key = %target.key.escape_ascii(),
                    found = lookup.found.len(),
                    hops = lookup.hops,
                    messages = lookup.messages,
                    "looked up a place"
                );
                self.candidates.take(&target.point, lookup.found)
            }
            Err(error) => {
                tracing::debug!(key = %target.key.escape_ascii(), "look-up failed: {error}");
                Arc::clone(&self.candidates.found().members)
            }
        }
    }
}

impl Cache {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The members that look-ups found, if the `count` closest to `target` are certainly known.
    fn known(&self, listed: &Arc<Members>, target: &Target, count: usize) -> Option<Arc<Others>> {
        let members = {
            let mut found = self.found();
            found.forget(Instant::now());
            if found.answered.contains_key(&target.point) || found.coverage.covers_all() {
                return Some(Arc::clone(&found.members));
            }
            Arc::clone(&found.members)
        };
        let cluster = self.cluster(listed, &members);
        let closest = cluster.closest_to(&target.point, count);
        let farthest = peer_point(&closest.get(count.checked_sub(1)?)?.peer);
        let found = self.found();
        let is_covered = found.coverage.covers_ball(&target.point, &farthest);
        drop(found);
        is_covered.then_some(members)
    }

    /// Takes in the answer of a look-up.
    fn take(&self, target: &Point, answer: Vec<Member>) -> Arc<Others> {
        let now = Instant::now();
        let mut found = self.found();
        found.forget(now);
        if found.seen.len() + answer.len() > FOUND_MAX {
            // Rare: more members than this were candidates of something within the minute.
            *found = Found::nothing();
        }
        // A short answer is forgotten sooner than others.
        let is_short = answer.len() < CANDIDATES;
        let since = if is_short {
            now.checked_sub(LOOKUP_FRESH - SHORT_FRESH).unwrap_or(now)
        } else {
            now
        };
        match answer.last() {
            Some(farthest) if !is_short => {
                let farthest = peer_point(&farthest.peer);
                found.coverage.add_ball(target, &farthest, now);
            }
            _ => found.coverage.add_all(since),
        }
        found.answered.insert(*target, since);
        let mut members = (*found.members).clone();
        for member in answer {
            let seen = found.seen.entry(member.peer).or_insert(since);
            *seen = since.max(*seen);
            members.insert(member.peer, Arc::new(member));
        }
        found.members = Arc::new(members);
        Arc::clone(&found.members)
    }

    /// The ranking table of the listed and the found; made anew only when either has changed.
    fn cluster(&self, listed: &Arc<Members>, found: &Arc<Others>) -> Arc<Cluster> {
        let mut cached = self
            .table
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        match cached.as_ref() {
            Some(table)
                if Arc::ptr_eq(&table.listed, listed) && Arc::ptr_eq(&table.found, found) =>
            {
                Arc::clone(&table.cluster)
            }
            _ => {
                let others = found.values().map(Arc::as_ref);
                let others = others.filter(|member| listed.get(&member.peer).is_none());
                let all = listed.list.iter().chain(others);
                let cluster = Arc::new(Cluster::new(all.map(offering)));
                *cached = Some(Table {
                    listed: Arc::clone(listed),
                    found: Arc::clone(found),
                    cluster: Arc::clone(&cluster),
                });
                cluster
            }
        }
    }
}

impl Found {
    fn nothing() -> Found {
        Found {
            members: Arc::default(),
            seen: BTreeMap::new(),
            coverage: Coverage::new(PARTS_MAX),
            answered: BTreeMap::new(),
        }
    }

    fn forget(&mut self, now: Instant) {
        let Some(oldest) = now.checked_sub(LOOKUP_FRESH) else {
            return;
        };
        self.coverage.forget_before(oldest);
        self.answered.retain(|_, since| *since >= oldest);
        let before = self.seen.len();
        self.seen.retain(|_, seen| *seen >= oldest);
        if self.seen.len() < before {
            let kept = self.members.iter();
            let kept = kept.filter(|(peer, _)| self.seen.contains_key(peer));
            self.members = Arc::new(kept.map(|(peer, m)| (*peer, Arc::clone(m))).collect());
        }
    }
}

fn offering(member: &Member) -> Offering {
    Offering {
        peer: member.peer,
        capacity_bytes: member.capacity_bytes,
        zone: member.zone.clone(),
        invitation: member.invitation.clone(),
    }
}
