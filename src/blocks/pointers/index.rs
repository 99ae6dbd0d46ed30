//! Which checkpoint records are kept, who brought them, and what is taken in their place: pure.
//!
//! Signatures show that a record is its writer's; anybody may make up writers. So what one peer brings is bounded,
//! and where a volume has more writers than are kept, those go first that the same peer brought most of.

use std::collections::BTreeMap;
use std::ops::Bound;

use tokio::time::Instant;

use super::row::Rank;
use crate::base::limits::{POINTERS_PEER_SHARE, POINTERS_PER_VOLUME_MAX};
use crate::base::{PeerId, VolumeId};
use crate::namespace::WriterId;

/// What is known of a record that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) rank: Rank,
    /// Who brought it.
    pub(super) from: PeerId,
    /// When it is published again.
    pub(super) due: Instant,
}

/// What becomes of a record that somebody brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept, and the record of this writer goes for it.
    Take { evict: Option<WriterId> },
    /// It is the one that is kept.
    Known,
    /// A later one is kept.
    Stale,
    /// There is no room for it.
    Full,
}

/// All records that are kept.
#[derive(Debug)]
pub(super) struct Index {
    own: PeerId,
    volumes: BTreeMap<VolumeId, BTreeMap<WriterId, Entry>>,
    brought: BTreeMap<PeerId, usize>,
}

impl Index {
    /// Nothing, of the peer `own`, whose own records are not counted against the bounds of all.
    pub(super) const fn new(own: PeerId) -> Index {
        Index {
            own,
            volumes: BTreeMap::new(),
            brought: BTreeMap::new(),
        }
    }

    /// Records that others brought.
    pub(super) fn foreign(&self) -> usize {
        let all: usize = self.brought.values().sum();
        all - self.brought_by(&self.own)
    }

    /// Records in all.
    pub(super) fn len(&self) -> usize {
        self.brought.values().sum()
    }

    fn brought_by(&self, peer: &PeerId) -> usize {
        self.brought.get(peer).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, volume: &VolumeId, writer: &WriterId) -> Option<&Entry> {
        self.volumes.get(volume)?.get(writer)
    }

    /// Writers of a volume whose records are kept.
    pub(super) fn volume(&self, volume: &VolumeId) -> Vec<(WriterId, Entry)> {
        let writers = self.volumes.get(volume).into_iter().flatten();
        writers.map(|(writer, entry)| (*writer, *entry)).collect()
    }

    /// At most `count` volumes after `after`, in order.
    pub(super) fn volumes(&self, after: Option<&VolumeId>, count: usize) -> Vec<VolumeId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.volumes.range::<VolumeId, _>((from, Bound::Unbounded));
        rest.map(|(volume, _)| *volume).take(count).collect()
    }

    /// What becomes of a record of `writer` that `from` brings, where at most `most` of others are kept.
    pub(super) fn judge(
        &self,
        volume: &VolumeId,
        writer: &WriterId,
        rank: Rank,
        from: PeerId,
        most: usize,
    ) -> Verdict {
        let gone = match self.get(volume, writer) {
            Some(entry) if rank < entry.rank => return Verdict::Stale,
            Some(entry) if rank == entry.rank => return Verdict::Known,
            Some(entry) => Some((None, entry.from)),
            None => match self.weakest(volume, rank, from) {
                Weakest::NoneYet => None,
                Weakest::Newcomer => return Verdict::Full,
                Weakest::Kept(writer, from) => Some((Some(writer), from)),
            },
        };
        let evict = gone.and_then(|(evict, _)| evict);
        if from == self.own {
            return Verdict::Take { evict };
        }
        let leaves = gone.map(|(_, from)| from);
        let of_peer = self.brought_by(&from) - usize::from(leaves == Some(from));
        let is_foreign = leaves.is_some_and(|leaves| leaves != self.own);
        let foreign = self.foreign() - usize::from(is_foreign);
        match of_peer < (most / POINTERS_PEER_SHARE).max(1) && foreign < most {
            true => Verdict::Take { evict },
            false => Verdict::Full,
        }
    }

    /// Who makes way in a volume for one more writer.
    fn weakest(&self, volume: &VolumeId, rank: Rank, from: PeerId) -> Weakest {
        let Some(kept) = self.volumes.get(volume) else {
            return Weakest::NoneYet;
        };
        if kept.len() < POINTERS_PER_VOLUME_MAX {
            return Weakest::NoneYet;
        }
        let mut counts: BTreeMap<PeerId, usize> = BTreeMap::from([(from, 1)]);
        for entry in kept.values() {
            *counts.entry(entry.from).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let is_most = |peer: &PeerId| counts.get(peer).copied() == most;
        let candidates = kept.iter().filter(|(_, entry)| is_most(&entry.from));
        let oldest = candidates.min_by_key(|(_, entry)| entry.rank);
        match oldest {
            Some((_, entry)) if is_most(&from) && rank < entry.rank => Weakest::Newcomer,
            Some((writer, entry)) => Weakest::Kept(*writer, entry.from),
            None => Weakest::Newcomer,
        }
    }

    /// Takes a record in, in place of one of the same writer.
    pub(super) fn insert(&mut self, volume: VolumeId, writer: WriterId, entry: Entry) {
        self.remove(&volume, &writer);
        self.volumes
            .entry(volume)
            .or_default()
            .insert(writer, entry);
        *self.brought.entry(entry.from).or_default() += 1;
    }

    /// Forgets a record.
    pub(super) fn remove(&mut self, volume: &VolumeId, writer: &WriterId) {
        let Some(writers) = self.volumes.get_mut(volume) else {
            return;
        };
        let Some(entry) = writers.remove(writer) else {
            return;
        };
        if writers.is_empty() {
            self.volumes.remove(volume);
        }
        if let Some(count) = self.brought.get_mut(&entry.from) {
            *count -= 1;
            if *count == 0 {
                self.brought.remove(&entry.from);
            }
        }
    }

    /// The record is published again then, unless it is another one by now.
    pub(super) fn postpone(
        &mut self,
        volume: &VolumeId,
        writer: &WriterId,
        rank: Rank,
        due: Instant,
    ) {
        let writers = self.volumes.get_mut(volume);
        if let Some(entry) = writers.and_then(|writers| writers.get_mut(writer))
            && entry.rank == rank
        {
            entry.due = due;
        }
    }
}

enum Weakest {
    NoneYet,
    Newcomer,
    Kept(WriterId, PeerId),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::namespace::Hlc;

    const OWN: PeerId = PeerId([0; 32]);

    fn writer(tag: u16) -> WriterId {
        WriterId {
            peer: PeerId([9; 32]),
            incarnation: tag.into(),
        }
    }

    fn rank(ms: u64) -> Rank {
        Rank::new(Hlc::from_ms(ms), b"")
    }

    fn bring(index: &mut Index, volume: u8, tag: u16, ms: u64, from: u8, most: usize) -> Verdict {
        let (volume, writer) = (VolumeId([volume; 16]), writer(tag));
        let from = PeerId([from; 32]);
        let verdict = index.judge(&volume, &writer, rank(ms), from, most);
        if let Verdict::Take { evict } = verdict {
            if let Some(evict) = evict {
                index.remove(&volume, &evict);
            }
            let entry = Entry {
                rank: rank(ms),
                from,
                due: Instant::now(),
            };
            index.insert(volume, writer, entry);
        }
        verdict
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// Whatever is brought by whom: the bounds hold, the counts are right, and a writer's record never gets older.
        #[test]
        fn bounds_hold(
            brought in prop::collection::vec((0u8..3, 0u16..90, 0u64..50, 0u8..4), 0..400),
            most in 1usize..120,
        ) {
            let mut index = Index::new(OWN);
            for (volume, tag, ms, from) in brought {
                let id = VolumeId([volume; 16]);
                let before = index.get(&id, &writer(tag)).map(|entry| entry.rank);
                let verdict = bring(&mut index, volume, tag, ms, from, most);
                let after = index.get(&id, &writer(tag)).map(|entry| entry.rank);
                match verdict {
                    Verdict::Take { .. } => prop_assert!(after == Some(rank(ms)) && before < after),
                    Verdict::Known => prop_assert!(before == after && after == Some(rank(ms))),
                    Verdict::Stale => prop_assert!(before == after && after > Some(rank(ms))),
                    Verdict::Full => prop_assert_eq!(before, after),
                }
                prop_assert!(index.volume(&id).len() <= POINTERS_PER_VOLUME_MAX);
                prop_assert!(index.foreign() <= most);
            }
            let volumes = index.volumes(None, usize::MAX);
            let all: usize = volumes.iter().map(|id| index.volume(id).len()).sum();
            prop_assert_eq!(all, index.len());
            prop_assert!(volumes.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    /// Without a flood the newest stay; with one, its own records make way for one another.
    #[test]
    fn made_up_writers_displace_one_another() {
        let mut index = Index::new(OWN);
        let most = 100_000;
        let full = POINTERS_PER_VOLUME_MAX as u16;
        // Each writer brings its own.
        for tag in 0..full {
            let verdict = bring(
                &mut index,
                1,
                tag,
                100 + u64::from(tag),
                10 + tag as u8,
                most,
            );
            assert_eq!(verdict, Verdict::Take { evict: None });
        }
        assert_eq!(bring(&mut index, 1, 900, 99, 200, most), Verdict::Full);
        let oldest = Verdict::Take {
            evict: Some(writer(0)),
        };
        assert_eq!(bring(&mut index, 1, 901, 500, 201, most), oldest);
        // One that brings many: its second displaces its first, however new they are.
        assert_eq!(
            bring(&mut index, 1, 902, 9_000, 77, most),
            Verdict::Take {
                evict: Some(writer(1))
            }
        );
        for tag in 903..2000 {
            assert_eq!(
                bring(&mut index, 1, tag, 9_000 + u64::from(tag), 77, most),
                Verdict::Take {
                    evict: Some(writer(tag - 1))
                }
            );
        }
    }
}
