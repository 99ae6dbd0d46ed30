//! What a peer's digest of a group says, to somebody who knows the group's blocks.
//!
//! All blocks of a group have the same holders, so a peer usually has the same shard of each. Then its digest is
//! one of a few that can be computed, and no list has to be sent.

use std::collections::BTreeMap;

use crate::base::{BlockId, EcProfile};
use crate::store::Digest;

/// Profiles in one group for which digests are tried.
const PROFILES_MAX: usize = 2;

/// The digests that a holder of these blocks may have, prepared once for all peers.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    known: BTreeMap<Digest, Vec<(EcProfile, u8)>>,
}

impl Patterns {
    /// For these blocks. Of more than two profiles nothing can be said.
    pub(super) fn new(blocks: impl IntoIterator<Item = (BlockId, EcProfile)>) -> Self {
        let mut by_profile: BTreeMap<EcProfile, Vec<BlockId>> = BTreeMap::new();
        for (block, profile) in blocks {
            by_profile.entry(profile).or_default().push(block);
        }
        let mut known: BTreeMap<Digest, Vec<(EcProfile, u8)>> = BTreeMap::new();
        known.insert(Digest::EMPTY, Vec::new());
        if by_profile.len() > PROFILES_MAX {
            return Patterns { known };
        }
        for (profile, blocks) in by_profile {
            let before: Vec<_> = known.iter().map(|(d, held)| (*d, held.clone())).collect();
            for index in 0..profile.total_shards() as u8 {
                let mut digest = Digest::EMPTY;
                for block in &blocks {
                    digest.toggle(block, index);
                }
                for (other, held) in &before {
                    let mut held = held.clone();
                    held.push((profile, index));
                    known.insert(digest.and(*other), held);
                }
            }
        }
        Patterns { known }
    }

    /// Which shard of each block of a profile somebody with this digest has; none if it is not so simple.
    pub(super) fn find(&self, digest: Digest) -> Option<&[(EcProfile, u8)]> {
        self.known.get(&digest).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(tag: u8) -> BlockId {
        BlockId([tag; 32])
    }

    #[test]
    fn digests_of_simple_holders_are_recognised() {
        let wide = EcProfile::new(10, 4).unwrap();
        let blocks = [
            (block(1), EcProfile::DEFAULT),
            (block(2), EcProfile::DEFAULT),
            (block(3), wide),
        ];
        let patterns = Patterns::new(blocks);
        let mut digest = Digest::EMPTY;
        assert_eq!(patterns.find(digest), Some(&[][..]));
        digest.toggle(&block(1), 4);
        assert_eq!(patterns.find(digest), None, "one of two");
        digest.toggle(&block(2), 4);
        assert_eq!(patterns.find(digest), Some(&[(EcProfile::DEFAULT, 4)][..]));
        digest.toggle(&block(3), 13);
        let both = [(EcProfile::DEFAULT, 4), (wide, 13)];
        assert_eq!(patterns.find(digest), Some(&both[..]));
        digest.toggle(&block(9), 0);
        assert_eq!(patterns.find(digest), None, "one more");
    }
}
