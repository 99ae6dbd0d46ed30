//! Keys that open what others sealed, by the names of their epochs; two may have one name.
//!
//! Anybody who can put something before this device can hand keys to it. So there is room for those of each source by
//! itself, and nobody takes that of another.

use std::collections::BTreeMap;

use crate::base::PeerId;
use crate::crypto::EpochKey;
use crate::namespace::WriterId;

/// Devices of whom nothing is known, and writers of checkpoints, from whom keys are kept.
const STRANGERS_MAX: usize = 64;

/// From where a key is, the most reliable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// This device came with it.
    Own,
    /// It is a row that a device made.
    Row(PeerId),
    /// A device that is, or was, a member handed it out.
    Known(PeerId),
    /// It is in a delta, which opened, of a device of whom nothing is known yet.
    Delta(PeerId),
    /// Somebody of whom nothing is known handed it out, beside the checkpoint of a writer.
    Beside(WriterId),
}

impl Source {
    /// Keys that are kept from it.
    const fn room(self) -> usize {
        match self {
            Source::Own => usize::MAX,
            Source::Row(_) => 1024,
            Source::Known(_) => 64,
            Source::Delta(_) | Source::Beside(_) => 16,
        }
    }

    const fn is_strange(self) -> bool {
        matches!(self, Source::Delta(_) | Source::Beside(_))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ring {
    keys: BTreeMap<u32, Vec<(Source, EpochKey)>>,
    /// How many of each source, and which number that got when it came.
    sources: BTreeMap<Source, (usize, u64)>,
    next: u64,
}

impl Ring {
    /// Whether that was not known, and is now.
    pub(super) fn keep(&mut self, source: Source, epoch: u32, key: &EpochKey) -> bool {
        let named = self.keys.get(&epoch).into_iter().flatten();
        let mut same = named.filter(|(_, known)| known == key);
        let before = same.next().map(|(before, _)| *before);
        if before.is_some_and(|before| before <= source) || !self.has_room(source, epoch) {
            return false;
        }
        if let Some(before) = before {
            self.remove(before, epoch, Some(key));
        }
        self.keys
            .entry(epoch)
            .or_default()
            .push((source, key.clone()));
        let number = self.next;
        self.next += 1;
        self.sources.entry(source).or_insert((0, number)).0 += 1;
        before.is_none()
    }

    /// Keys of a name that may be those of deltas.
    pub(super) fn keys(&self, epoch: u32) -> impl Iterator<Item = &EpochKey> {
        // Texts of deltas are large, and somebody who is a member hands out what they are sealed under.
        let all = self.keys.get(&epoch).into_iter().flatten();
        let all = all.filter(|(source, _)| !matches!(source, Source::Beside(_)));
        all.map(|(_, key)| key)
    }

    /// Keys of a name that may be those of the places of checkpoints: all.
    pub(super) fn keys_of_places(&self, epoch: u32) -> impl Iterator<Item = &EpochKey> {
        let all = self.keys.get(&epoch).into_iter().flatten();
        all.map(|(_, key)| key)
    }

    /// Makes room for one more of a source, if need be and if it is newer than what goes for it.
    fn has_room(&mut self, source: Source, epoch: u32) -> bool {
        let count = self.sources.get(&source).map_or(0, |(count, _)| *count);
        if count >= source.room() {
            let mut epochs = self.keys.iter();
            let oldest = epochs.find(|(_, keys)| keys.iter().any(|(of, _)| *of == source));
            let oldest = oldest.map(|(epoch, _)| *epoch);
            let Some(oldest) = oldest.filter(|oldest| *oldest < epoch) else {
                return false;
            };
            self.remove(source, oldest, None);
        } else if count == 0 && source.is_strange() {
            self.forget_strangers();
        }
        true
    }

    /// The strangers that came first go: what they handed out is found again where it was.
    fn forget_strangers(&mut self) {
        let strangers = self
            .sources
            .iter()
            .filter(|(source, _)| source.is_strange());
        let mut strangers: Vec<_> = strangers.map(|(source, (_, at))| (*at, *source)).collect();
        strangers.sort_unstable();
        let too_many = (strangers.len() + 1).saturating_sub(STRANGERS_MAX);
        for (_, gone) in strangers.into_iter().take(too_many) {
            self.sources.remove(&gone);
            self.keys.retain(|_, keys| {
                keys.retain(|(source, _)| *source != gone);
                !keys.is_empty()
            });
        }
    }

    /// Removes a key of a source, or any.
    fn remove(&mut self, source: Source, epoch: u32, key: Option<&EpochKey>) {
        let Some(keys) = self.keys.get_mut(&epoch) else {
            return;
        };
        let is_it =
            |(of, known): &(Source, EpochKey)| *of == source && key.is_none_or(|key| known == key);
        let Some(at) = keys.iter().position(is_it) else {
            return;
        };
        keys.remove(at);
        if keys.is_empty() {
            self.keys.remove(&epoch);
        }
        if let Some((count, _)) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerId = PeerId([1; 32]);

    fn key(tag: u32) -> EpochKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&tag.to_be_bytes());
        EpochKey::from_bytes(bytes)
    }

    fn stranger(tag: u8) -> Source {
        Source::Delta(PeerId([tag; 32]))
    }

    #[test]
    fn each_source_has_room_for_its_newest() {
        let mut ring = Ring::default();
        for epoch in 0..100 {
            assert!(ring.keep(stranger(1), epoch, &key(epoch)));
            assert!(!ring.keep(stranger(1), epoch, &key(epoch)));
        }
        let has = |ring: &Ring, epoch: u32| ring.keys(epoch).any(|known| *known == key(epoch));
        assert_eq!((0..100).filter(|epoch| has(&ring, *epoch)).count(), 16);
        assert!(has(&ring, 99) && !ring.keep(stranger(1), 3, &key(3)));
        // Of another there is room, and what it says as well stays with it.
        assert!(ring.keep(Source::Row(ONE), 3, &key(3)));
        assert!(!ring.keep(Source::Row(ONE), 99, &key(99)));
        for epoch in 100..200 {
            ring.keep(stranger(1), epoch, &key(epoch));
        }
        assert!(has(&ring, 3) && has(&ring, 99) && !has(&ring, 98));
    }

    #[test]
    fn the_first_of_many_strangers_go() {
        let mut ring = Ring::default();
        assert!(ring.keep(Source::Own, 1, &key(1)));
        for tag in 0..100 {
            assert!(ring.keep(stranger(tag), 7, &key(100 + u32::from(tag))));
        }
        assert_eq!(ring.keys(7).count(), STRANGERS_MAX);
        assert_eq!(ring.keys(1).count(), 1);
        assert!(ring.keys(7).any(|known| *known == key(199)));
    }

    #[test]
    fn what_is_beside_a_checkpoint_opens_places_only() {
        let mut ring = Ring::default();
        let writer = WriterId {
            peer: ONE,
            incarnation: 0,
        };
        assert!(ring.keep(Source::Beside(writer), 7, &key(1)));
        assert_eq!(
            (ring.keys(7).count(), ring.keys_of_places(7).count()),
            (0, 1)
        );
        assert!(!ring.keep(Source::Known(ONE), 7, &key(1)), "it is known");
        assert_eq!(
            (ring.keys(7).count(), ring.keys_of_places(7).count()),
            (1, 1)
        );
    }
}
