//! What a placement survives, counted in distinct peers (the "servers of happiness" of Tahoe-LAFS).

use std::collections::BTreeMap;

use crate::base::{EcProfile, PeerId};

/// The greatest X such that whichever X peers are lost, `data_shards` shards are left.
///
/// `held` gives how many shards a peer has; a peer named twice has the sum. A shard that lies on
/// two peers must be counted for one of them only. `None` if there are fewer than `data_shards`
/// shards to begin with.
pub fn survives(
    held: impl IntoIterator<Item = (PeerId, usize)>,
    data_shards: usize,
) -> Option<usize> {
    let mut per_peer: BTreeMap<PeerId, usize> = BTreeMap::new();
    for (peer, shards) in held {
        *per_peer.entry(peer).or_default() += shards;
    }
    let mut counts: Vec<usize> = per_peer.into_values().collect();
    // The worst loss of X peers is that of the X with the most shards.
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut left: usize = counts.iter().sum();
    if left < data_shards {
        return None;
    }
    let mut survived = 0;
    for count in counts.into_iter().filter(|count| *count > 0) {
        left -= count;
        if left < data_shards {
            break;
        }
        survived += 1;
    }
    Some(survived)
}

/// How many lost peers a stripe of `profile` survives when spread evenly over `live_peers`.
pub const fn promised(profile: EcProfile, live_peers: usize) -> usize {
    if live_peers <= 1 {
        return 0;
    }
    let total = profile.total_shards();
    let (each, with_one_more) = (total / live_peers, total % live_peers);
    let mut lost_peers = 0;
    let mut lost_shards = 0;
    loop {
        lost_shards += each + (lost_peers < with_one_more) as usize;
        if lost_shards > profile.parity_shards() || lost_peers == live_peers {
            return lost_peers;
        }
        lost_peers += 1;
    }
}
