//! A whole member list, prepared so that the ranking of a group costs microseconds at any size.

use std::collections::BTreeMap;

use super::candidates::{Point, distance, group_key, peer_point, point};
use super::holders::{Candidate, rank};
use super::hrw::{median_capacity, weight};
use crate::base::limits::CANDIDATES;
use crate::base::{Group, PeerId};

/// What placement needs to know of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offering {
    /// Who.
    pub peer: PeerId,
    /// Bytes it offers; with 0 it takes no part.
    pub capacity_bytes: u64,
    /// Its failure domain; empty: none known.
    pub zone: String,
    /// The invitation that it shares with others; empty: none.
    pub invitation: String,
}

/// The members that offer storage, reachable or not: what rankings are computed from.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Ascending by point.
    members: Vec<(Point, Offering)>,
    median_bytes: u64,
}

impl Cluster {
    /// Prepares a member list. The order does not matter; of a peer named twice one offering counts
    /// (the one with the greatest capacity).
    pub fn new(offerings: impl IntoIterator<Item = Offering>) -> Self {
        let mut by_peer: BTreeMap<PeerId, Offering> = BTreeMap::new();
        for offering in offerings {
            let order = |o: &Offering| (o.capacity_bytes, o.zone.clone(), o.invitation.clone());
            let known = by_peer.get(&offering.peer);
            let better = known.is_none_or(|known| order(known) < order(&offering));
            if offering.capacity_bytes > 0 && better {
                by_peer.insert(offering.peer, offering);
            }
        }
        let median_bytes = median_capacity(by_peer.values().map(|member| member.capacity_bytes));
        let mut members: Vec<(Point, Offering)> = by_peer
            .into_values()
            .map(|member| (peer_point(&member.peer), member))
            .collect();
        members.sort_unstable_by_key(|member| member.0);
        Cluster {
            members,
            median_bytes,
        }
    }

    /// Members that offer storage.
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody offers storage.
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The candidates of `group` in order of preference, see [`rank`].
    pub fn rank(&self, group: Group) -> Vec<PeerId> {
        let candidates: Vec<Candidate<'_>> = self
            .closest(group)
            .into_iter()
            .map(|member| Candidate {
                peer: member.peer,
                weight: weight(member.capacity_bytes, self.median_bytes),
                zone: &member.zone,
                invitation: &member.invitation,
            })
            .collect();
        rank(group, &candidates)
    }

    /// The 40 members closest to `group`, closest first.
    pub fn closest(&self, group: Group) -> Vec<&Offering> {
        self.closest_to(&point(&group_key(group)), CANDIDATES)
    }

    /// The `count` members closest to a point, closest first.
    ///
    /// Members that share the longest prefix with the target lie side by side in the sorted list:
    /// it suffices to sort the smallest such run that has enough of them.
    pub fn closest_to(&self, target: &Point, count: usize) -> Vec<&Offering> {
        let mut run = self.members.as_slice();
        for bit in 0..256 {
            let (byte, mask) = (bit / 8, 0x80u8 >> (bit % 8));
            let wanted = target.get(byte).is_some_and(|value| value & mask != 0);
            let split = run.partition_point(|(place, _)| {
                place.get(byte).is_some_and(|value| value & mask == 0)
            });
            let (zeros, ones) = run.split_at(split);
            let narrower = if wanted { ones } else { zeros };
            if narrower.len() < count {
                break;
            }
            run = narrower;
        }
        let mut near: Vec<(Point, &Offering)> = run
            .iter()
            .map(|(place, member)| (distance(place, target), member))
            .collect();
        near.sort_unstable_by_key(|(away, _)| *away);
        near.truncate(count);
        near.into_iter().map(|(_, member)| member).collect()
    }
}
