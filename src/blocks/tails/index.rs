//! Which ends of feeds are kept, who brought them, and what is taken besides: pure.
//!
//! Signatures show that a delta is its writer's; anybody may make up writers, and volumes. So what one peer brings is
//! bounded. What is kept never makes way for what comes: whoever fills a volume's room keeps others out of it, and takes
//! nothing away from anybody.

use std::collections::BTreeMap;

use crate::base::limits::{
    TAIL_MAX_BYTES, TAIL_QUOTA_BYTES, TAIL_VOLUME_MAX_BYTES, TAILS_MAX, TAILS_MAX_BYTES,
    TAILS_PEER_SHARE, TAILS_PER_VOLUME_MAX, TAILS_QUOTA_SHARE,
};
use crate::base::{PeerId, VolumeId};
use crate::feeds::Tail;
use crate::namespace::WriterId;

/// Which feed.
pub(super) type Place = (VolumeId, WriterId);

/// What is known of a feed that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tail: Tail,
    /// Who brought it: the writer's own device, once that did.
    pub(super) from: PeerId,
    pub(super) touched_ms: u64,
    pub(super) first_run: u64,
    pub(super) next_run: u64,
    pub(super) bytes: u64,
}

impl Entry {
    pub(super) const fn new(place: Place, from: PeerId, now_ms: u64) -> Entry {
        Entry {
            tail: Tail::new(place.0, place.1),
            from,
            touched_ms: now_ms,
            first_run: 0,
            next_run: 0,
            bytes: 0,
        }
    }
}

/// How much is kept at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub(super) bytes: u64,
    pub(super) count: u64,
}

/// How much of one volume.
const VOLUME_MOST: Most = Most {
    bytes: TAIL_VOLUME_MAX_BYTES,
    count: TAILS_PER_VOLUME_MAX as u64,
};

impl Most {
    /// With a quota of so many bytes.
    pub(super) fn of_quota(quota: u64) -> Most {
        Most {
            bytes: TAILS_MAX_BYTES.min(quota / TAILS_QUOTA_SHARE),
            count: (TAILS_MAX as u64).min(quota / TAIL_QUOTA_BYTES),
        }
    }

    /// What of it one peer may bring.
    fn share(self) -> Most {
        Most {
            bytes: self.bytes / TAILS_PEER_SHARE,
            count: (self.count / TAILS_PEER_SHARE).max(1),
        }
    }
}

/// Bytes and feeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) count: u64,
}

impl Sum {
    const fn is_within(self, most: Most) -> bool {
        self.bytes <= most.bytes && self.count <= most.count
    }
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<Place, Entry>);

impl Index {
    pub(super) fn get(&self, place: &Place) -> Option<&Entry> {
        self.0.get(place)
    }

    pub(super) fn insert(&mut self, place: Place, entry: Entry) {
        self.0.insert(place, entry);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.0.remove(place);
    }

    /// What is kept of a volume, ascending by writer.
    pub(super) fn volume(&self, volume: VolumeId) -> impl Iterator<Item = &Entry> {
        let first = WriterId {
            peer: PeerId([0; 32]),
            incarnation: 0,
        };
        let rest = self.0.range((volume, first)..);
        rest.take_while(move |((of, _), _)| *of == volume)
            .map(|(_, entry)| entry)
    }

    /// Feeds to which nothing was added since then.
    pub(super) fn untouched_since(&self, ms: u64) -> Vec<Place> {
        let old = self.0.iter().filter(|(_, entry)| entry.touched_ms < ms);
        old.map(|(place, _)| *place).collect()
    }

    /// How much that is.
    pub(super) fn sum(&self) -> Sum {
        self.sum_of(|_, _| true)
    }

    fn sum_of(&self, counts: impl Fn(&Place, &Entry) -> bool) -> Sum {
        let counted = self.0.iter().filter(|(place, entry)| counts(place, entry));
        counted.fold(Sum::default(), |sum, (_, entry)| Sum {
            bytes: sum.bytes + entry.bytes,
            count: sum.count + 1,
        })
    }

    /// As whose a feed counts to which a peer adds: as that of whoever brought it; but what somebody else brought is the
    /// writer's own from when that adds to it, if it has room for it.
    pub(super) fn payer(&self, place: Place, from: PeerId, most: Most) -> PeerId {
        let Some(known) = self.get(&place) else {
            return from;
        };
        let is_of_writer = |at: &Place, entry: &Entry| entry.from == from || *at == place;
        let in_volume = self.sum_of(|at, entry| at.0 == place.0 && is_of_writer(at, entry));
        let has_room = self.sum_of(is_of_writer).is_within(most.share())
            && in_volume.is_within(VOLUME_MOST.share());
        match from == place.1.peer && has_room {
            true => from,
            false => known.from,
        }
    }

    /// How many bytes of a feed are taken from a peer; none if nothing is, not even that there is this feed.
    pub(super) fn room(&self, place: Place, from: PeerId, most: Most) -> Option<u64> {
        let known = self.get(&place);
        let adds = u64::from(known.is_none());
        let all = self.sum();
        let payer = self.payer(place, from, most);
        let of_payer = self.sum_of(|at, entry| entry.from == payer || *at == place);
        let of_volume = self.sum_of(|at, _| at.0 == place.0);
        let of_payer_there =
            self.sum_of(|at, entry| at.0 == place.0 && (entry.from == payer || *at == place));
        let (share, share_there) = (most.share(), VOLUME_MOST.share());
        let has_place = all.count + adds <= most.count
            && of_payer.count + adds <= share.count
            && of_payer_there.count + adds <= share_there.count
            && of_volume.count + adds <= VOLUME_MOST.count;
        let own = known.map_or(0, |entry| entry.bytes);
        let room = (most.bytes.saturating_sub(all.bytes))
            .min(share.bytes.saturating_sub(of_payer.bytes))
            .min(share_there.bytes.saturating_sub(of_payer_there.bytes))
            .min(VOLUME_MOST.bytes.saturating_sub(of_volume.bytes))
            .min(TAIL_MAX_BYTES.saturating_sub(own));
        has_place.then_some(room)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(volume: u8, writer: u8, incarnation: u64) -> Place {
        let writer = WriterId {
            peer: PeerId([writer; 32]),
            incarnation,
        };
        (VolumeId([volume; 16]), writer)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// Whoever brings whatever: no bound is passed, and nothing that is kept gets less.
        #[test]
        fn bounds_hold(
            brought in prop::collection::vec((0u8..3, 0u8..12, 0u64..40, 0u8..5, 0u64..6 << 20), 0..400),
            quota in 0u64..4 << 30,
        ) {
            let most = Most::of_quota(quota);
            let mut index = Index::default();
            for (volume, writer, life, from, adds) in brought {
                let (place, from) = (place(volume, writer, life), PeerId([from; 32]));
                let before = index.get(&place).map_or(0, |entry| entry.bytes);
                let Some(room) = index.room(place, from, most) else {
                    continue;
                };
                let mut entry = match index.get(&place) {
                    Some(entry) => entry.clone(),
                    None => Entry::new(place, from, 0),
                };
                entry.bytes += adds.min(room);
                entry.from = index.payer(place, from, most);
                prop_assert!(entry.bytes >= before && entry.bytes <= TAIL_MAX_BYTES);
                index.insert(place, entry);
                let all = index.sum();
                prop_assert!(all.bytes <= most.bytes && all.count <= most.count);
                for volume in 0..3 {
                    let of_volume = index.sum_of(|at, _| at.0 == VolumeId([volume; 16]));
                    prop_assert!(of_volume.bytes <= TAIL_VOLUME_MAX_BYTES);
                    prop_assert!(of_volume.count <= TAILS_PER_VOLUME_MAX as u64);
                }
                for peer in 0..12 {
                    let of_peer = index.sum_of(|_, entry| entry.from == PeerId([peer; 32]));
                    prop_assert!(of_peer.bytes <= most.bytes / TAILS_PEER_SHARE);
                    // Whoever has many lives shuts nobody out of a volume.
                    let of_peer = index.sum_of(|at, entry| {
                        entry.from == PeerId([peer; 32]) && at.0 == place.0
                    });
                    prop_assert!(of_peer.bytes <= TAIL_VOLUME_MAX_BYTES / TAILS_PEER_SHARE);
                    prop_assert!(of_peer.count <= TAILS_PER_VOLUME_MAX as u64 / TAILS_PEER_SHARE);
                }
            }
        }
    }
}
