//! What one simulated peer knows of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::Peer;
use crate::base::PeerId;
use crate::net::command::{Lookup, Member, Members, Path, Reach};
use crate::placement::candidates::{Point, distance};

/// What is said of a peer by its id alone. Kept because making the text of an id takes long, and
/// every change of the network shows every peer to every other.
#[derive(Debug)]
pub(super) struct Texts {
    /// Its zone unless its offer names one.
    own_zone: String,
    address: String,
}

impl Texts {
    pub(super) fn of(id: &PeerId) -> Self {
        Texts {
            own_zone: format!("peer:{}", id.short()),
            address: format!("memory:{id}"),
        }
    }
}

/// How `viewer` reaches `other` now.
fn reach(viewer: &Peer, other: &Peer) -> Reach {
    if viewer.id() == other.id() {
        Reach::Own
    } else if other.is_up() && !other.is_paused() && viewer.group == other.group {
        Reach::Connected(Path::Memory)
    } else {
        Reach::Away {
            since_ms: other.changed_ms,
        }
    }
}

fn member(viewer: &Peer, other: &Peer) -> Member {
    let zone = match other.profile.offer.zone.as_str() {
        "" => other.texts.own_zone.clone(),
        own_word => own_word.to_owned(),
    };
    Member {
        peer: other.id(),
        capacity_bytes: other.profile.offer.capacity_bytes,
        free_bytes: other.profile.offer.free_bytes,
        stay: other.profile.offer.stay,
        zone,
        invitation: String::new(),
        storage_only: other.profile.storage_only,
        program: "memory".to_owned(),
        addresses: vec![other.texts.address.clone()],
        state: reach(viewer, other),
        rtt: None,
    }
}

/// The ids closest to `point` among those that qualify, closest first.
fn closest(
    peers: &BTreeMap<PeerId, Peer>,
    point: &Point,
    count: usize,
    qualifies: impl Fn(&Peer) -> bool,
) -> Vec<PeerId> {
    let mut ranked: Vec<_> = peers
        .values()
        .filter(|peer| qualifies(peer))
        .map(|peer| (distance(&peer.position, point), peer.id()))
        .collect();
    ranked.sort_unstable();
    ranked.truncate(count);
    ranked.into_iter().map(|(_, id)| id).collect()
}

/// The member list that `viewer` keeps: itself and those closest to it, as many as it may.
pub(super) fn members(peers: &BTreeMap<PeerId, Peer>, viewer: &Peer) -> Arc<Members> {
    let complete = peers.len() <= viewer.profile.max_members;
    let mut kept = closest(
        peers,
        &viewer.position,
        viewer.profile.max_members.max(1),
        |_| true,
    );
    kept.sort_unstable();
    let list = kept.iter().filter_map(|id| peers.get(id));
    Arc::new(Members {
        list: list
            .map(|other| member(viewer, other))
            .filter(|member| !member.has_left())
            .collect(),
        complete,
    })
}

/// The answer that a DHT of these peers would give.
pub(super) fn lookup(
    peers: &BTreeMap<PeerId, Peer>,
    viewer: &Peer,
    point: &Point,
    count: usize,
) -> Lookup {
    let found = closest(peers, point, count, |peer| {
        peer.profile.offer.capacity_bytes > 0
    });
    // Each round of a Kademlia look-up halves what is left several times; three questions each.
    let hops = (peers.len().max(2).ilog2() / 2).max(1);
    Lookup {
        found: found
            .iter()
            .filter_map(|id| peers.get(id))
            .map(|other| member(viewer, other))
            .collect(),
        hops,
        messages: hops * 3,
    }
}
