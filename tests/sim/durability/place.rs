//! How evenly the real ranking fills peers, and how much of it changes when one comes or goes.

use std::collections::{BTreeMap, BTreeSet};

use cairnfs::base::{EcProfile, Entropy, Group, PeerId};
use cairnfs::placement::{Cluster, Offering};

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// Share of shards against share of capacity, of the peer with the most and of the one with the least.
    pub fullest: f64,
    pub emptiest: f64,
    /// Holders that are others after one joins, and after one is taken off the list, as a share of all, times the number of
    /// peers: 1 is the least that is possible with even filling.
    pub join: f64,
    pub leave: f64,
}

fn cluster(members: &[(PeerId, u64)]) -> Cluster {
    Cluster::new(members.iter().map(|(peer, capacity_bytes)| Offering {
        peer: *peer,
        capacity_bytes: *capacity_bytes,
        zone: String::new(),
        invitation: String::new(),
    }))
}

fn holders(members: &[(PeerId, u64)], groups: &[Group], total: usize) -> Vec<BTreeSet<PeerId>> {
    let cluster = cluster(members);
    let first = |group: &Group| cluster.rank(*group).into_iter().take(total).collect();
    groups.iter().map(first).collect()
}

/// Who is in `after` and was not in `before`, of all holders.
fn changed(before: &[BTreeSet<PeerId>], after: &[BTreeSet<PeerId>]) -> f64 {
    let new = before
        .iter()
        .zip(after)
        .map(|(b, a)| a.difference(b).count());
    let all: usize = before.iter().map(BTreeSet::len).sum();
    new.sum::<usize>() as f64 / all as f64
}

/// So many peers; with `mixed` capacities of one to four times the least, at random.
pub fn balance(peers: usize, profile: EcProfile, groups: u32, mixed: bool, seed: u64) -> Balance {
    let entropy = Entropy::seeded(seed);
    let one = || {
        let times = if mixed { 1 + entropy.below(4) } else { 1 };
        (PeerId(entropy.array()), times << 40)
    };
    let mut members: Vec<(PeerId, u64)> = (0..peers).map(|_| one()).collect();
    let total = profile.total_shards();
    let step = (65_536 / groups).max(1);
    let groups: Vec<Group> = (0..groups).map(|at| Group((at * step) as u16)).collect();
    let before = holders(&members, &groups, total);
    let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
    for peer in before.iter().flatten() {
        *counts.entry(*peer).or_default() += 1;
    }
    let shards: usize = counts.values().sum();
    let capacity: u64 = members.iter().map(|(_, capacity)| *capacity).sum();
    let fills = members.iter().map(|(peer, own)| {
        let count = counts.get(peer).copied().unwrap_or(0);
        (count as f64 / shards as f64) / (*own as f64 / capacity as f64)
    });
    let fills: Vec<f64> = fills.collect();
    let gone = members.pop();
    let after_leave = holders(&members, &groups, total);
    members.extend(gone);
    members.push((PeerId(entropy.array()), 1 << 40));
    let after_join = holders(&members, &groups, total);
    Balance {
        fullest: fills.iter().copied().fold(0.0, f64::max),
        emptiest: fills.iter().copied().fold(f64::MAX, f64::min),
        join: changed(&before, &after_join) * peers as f64,
        leave: changed(&before, &after_leave) * peers as f64,
    }
}
