//! The members that may hold blocks of a group, or pointers of a volume: the closest ones in Kademlia's key space.
//!
//! The function is exactly libp2p Kademlia's, so a peer that knows only a part of the network
//! finds the same members by a look-up that a peer with the whole list computes.

use sha2::{Digest, Sha256};

use crate::base::limits::CANDIDATES;
use crate::base::{Group, PeerId, VolumeId};

/// Prefix of a group's key.
const GROUP_DOMAIN: &[u8; 13] = b"cairn/group/1";

/// Prefix of a volume's key.
const VOLUME_DOMAIN: &[u8; 14] = b"cairn/volume/1";

/// A point or a distance in the key space, big endian.
pub type Point = [u8; 32];

/// The Kademlia key of a group: `"cairn/group/1" || group (2 bytes, big endian)`.
pub fn group_key(group: Group) -> Vec<u8> {
    let mut key = GROUP_DOMAIN.to_vec();
    key.extend_from_slice(&group.0.to_be_bytes());
    key
}

/// The Kademlia key of a volume: `"cairn/volume/1" || volume (16 bytes)`.
pub fn volume_key(volume: &VolumeId) -> Vec<u8> {
    [VOLUME_DOMAIN.as_slice(), &volume.0].concat()
}

/// Where a key lies in the key space: SHA-256 of its bytes.
pub fn point(key: &[u8]) -> Point {
    Sha256::digest(key).into()
}

/// Where a peer lies in the key space: SHA-256 of its multihash bytes.
pub fn peer_point(peer: &PeerId) -> Point {
    point(&peer.to_multihash())
}

/// XOR of two points; compares as a big-endian number.
pub fn distance(a: &Point, b: &Point) -> Point {
    let mut xor = *a;
    for (byte, other) in xor.iter_mut().zip(b) {
        *byte ^= other;
    }
    xor
}

/// The candidates of `group` among `offering`, closest first; at most 40, without repetitions.
///
/// `offering` must be the members that offer storage, whether they can be reached now or not.
/// (Members that offer none are Kademlia clients, so a look-up does not find them either.)
pub fn closest(group: Group, offering: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
    let target = point(&group_key(group));
    let mut by_distance: Vec<(Point, PeerId)> = offering
        .into_iter()
        .map(|peer| (distance(&peer_point(&peer), &target), peer))
        .collect();
    by_distance.sort_unstable();
    by_distance.dedup();
    by_distance.truncate(CANDIDATES);
    by_distance.into_iter().map(|(_, peer)| peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_input_and_repetitions_do_not_matter() {
        let peers: Vec<PeerId> = (0..100u8).map(|tag| PeerId([tag; 32])).collect();
        let forward = closest(Group(5), peers.iter().copied());
        let backward = closest(Group(5), peers.iter().rev().chain(&peers).copied());
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), CANDIDATES);
        assert!(closest(Group(5), []).is_empty());
    }
}
