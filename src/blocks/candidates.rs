//! The peers that may hold a group's shards, in order of preference.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::Blocks;
use crate::base::limits::CANDIDATES;
use crate::base::{Group, PeerId};
use crate::net::{Member, Members};
use crate::placement::{self, Cluster, Offering};

/// How long the answer of a look-up is used.
const LOOKUP_FRESH: Duration = Duration::from_secs(60);
/// Most answers kept.
const LOOKUPS_MAX: usize = 4096;

/// Answers of look-ups, for a peer that does not know every member.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The ranking table of a complete member list, and the list it was made from.
    cluster: Mutex<Option<(Arc<Members>, Arc<Cluster>)>>,
    lookups: Mutex<BTreeMap<Group, LookedUp>>,
}

/// The cached answer of a look-up.
#[derive(Debug, Clone)]
struct LookedUp {
    at: Instant,
    found: Arc<Vec<Member>>,
}

/// A group's candidates, best first, with what is known of them.
#[derive(Debug, Clone)]
pub(super) struct Ranked {
    /// All candidates; the first `total_shards` are the holders when all are usable.
    pub order: Vec<PeerId>,
    /// Members known when this was computed.
    pub members: Arc<Members>,
    /// Members beyond those, found by look-up.
    found: Arc<Vec<Member>>,
}

impl Ranked {
    /// What is known of a candidate.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.members
            .get(peer)
            .or_else(|| self.found.iter().find(|m| m.peer == *peer))
    }

    /// Whether it can be asked now: connected, or just found by a look-up.
    pub fn is_live(&self, peer: &PeerId) -> bool {
        match self.members.get(peer) {
            Some(member) if member.state.is_live() => true,
            _ => self.found.iter().any(|m| m.peer == *peer),
        }
    }

    /// Candidates that can be asked and offer room.
    pub fn live(&self) -> impl Iterator<Item = &PeerId> {
        self.order.iter().filter(|peer| self.is_live(peer))
    }
}

impl Blocks {
    /// The candidates of `group`.
    ///
    /// Computed from the member list when that is complete, else from a DHT look-up (cached).
    pub(super) async fn ranked(&self, group: Group) -> Ranked {
        let members = self.net.members();
        if members.complete {
            return Ranked {
                order: self.cluster(&members).rank(group),
                members,
                found: Arc::new(Vec::new()),
            };
        }
        let found = self.looked_up(group).await;
        let others = found.iter().filter(|m| members.get(&m.peer).is_none());
        let cluster = Cluster::new(members.list.iter().chain(others).map(offering));
        Ranked {
            order: cluster.rank(group),
            members,
            found,
        }
    }

    /// The ranking table of a complete member list; made anew only when the list has changed.
    fn cluster(&self, members: &Arc<Members>) -> Arc<Cluster> {
        let mut cached = self
            .candidates
            .cluster
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        match cached.as_ref() {
            Some((of, cluster)) if Arc::ptr_eq(of, members) => Arc::clone(cluster),
            _ => {
                let cluster = Arc::new(Cluster::new(members.list.iter().map(offering)));
                *cached = Some((Arc::clone(members), Arc::clone(&cluster)));
                cluster
            }
        }
    }

    async fn looked_up(&self, group: Group) -> Arc<Vec<Member>> {
        let now = Instant::now();
        let lock = || {
            self.candidates
                .lookups
                .lock()
                .unwrap_or_else(|poison| poison.into_inner())
        };
        if let Some(known) = lock().get(&group)
            && now.duration_since(known.at) < LOOKUP_FRESH
        {
            return Arc::clone(&known.found);
        }
        let key = placement::group_key(group);
        let found = match self.net.closest(key, CANDIDATES).await {
            Ok(lookup) => {
                tracing::debug!(
                    group = group.0,
                    found = lookup.found.len(),
                    hops = lookup.hops,
                    messages = lookup.messages,
                    "looked up a placement group"
                );
                lookup.found
            }
            Err(error) => {
                tracing::debug!(group = group.0, "look-up failed: {error}");
                return Arc::new(Vec::new());
            }
        };
        let found = Arc::new(found);
        let mut cache = lock();
        if cache.len() >= LOOKUPS_MAX {
            cache.retain(|_, known| now.duration_since(known.at) < LOOKUP_FRESH);
        }
        if cache.len() < LOOKUPS_MAX {
            let found = Arc::clone(&found);
            cache.insert(group, LookedUp { at: now, found });
        }
        found
    }
}

fn offering(member: &Member) -> Offering {
    Offering {
        peer: member.peer,
        capacity_bytes: member.capacity_bytes,
        zone: member.zone.clone(),
    }
}
