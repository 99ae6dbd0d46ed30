//! Who has room enough that shards which are safe already are moved to it. With a distance between the two limits, so that
//! what is moved there does not change the answer at once.

use std::collections::BTreeMap;

use crate::base::PeerId;

/// A peer counts as roomy from this part of its capacity on, and until less than the other is free.
const FROM: u64 = 8;
const UNTIL: u64 = 16;
/// Most peers of which that is remembered.
const KNOWN_MAX: usize = 16_384;

/// Which peers are roomy.
#[derive(Debug, Default)]
pub(super) struct Roomy(BTreeMap<PeerId, bool>);

impl Roomy {
    /// Takes in what is known now of a peer: bytes free, of how many.
    pub(super) fn note(&mut self, peer: PeerId, free_bytes: u64, capacity_bytes: u64) {
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(&peer) {
            self.0.clear();
        }
        let part = match self.is_roomy(&peer) {
            true => UNTIL,
            false => FROM,
        };
        let is_roomy = capacity_bytes > 0 && free_bytes >= capacity_bytes / part;
        self.0.insert(peer, is_roomy);
    }

    /// Whether a peer was when that was last looked at. One that was not seen is not.
    pub(super) fn is_roomy(&self, peer: &PeerId) -> bool {
        self.0.get(peer).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_there_does_not_change_the_answer_at_once() {
        let peer = PeerId([1; 32]);
        let mut roomy = Roomy::default();
        let mut said = |free| {
            roomy.note(peer, free, 1600);
            roomy.is_roomy(&peer)
        };
        assert!(!said(199));
        assert!(said(200));
        // It fills up, and stays what it was until much less is free.
        assert!(said(199) && said(100));
        assert!(!said(99));
        assert!(!said(150) && !said(199));
        assert!(said(200));
        roomy.note(peer, 0, 0);
        assert!(!roomy.is_roomy(&peer), "who offers nothing takes nothing");
        assert!(!roomy.is_roomy(&PeerId([2; 32])), "nor does who is unknown");
    }
}
