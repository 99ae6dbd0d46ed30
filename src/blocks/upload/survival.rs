//! What is left of an upload when some of its holders do not keep their word.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::PeerId;

/// Sets of holders that are told apart, about 2 MiB. Stripes with further ones are counted as one, which makes of their
/// worth less than it is.
const SETS_MAX: usize = 4096;

/// What stripes survive, by who holds them.
#[derive(Debug, Default)]
pub(super) struct Survival {
    /// Of the stripes with one set of holders: the fewest losses that one of them survives.
    sets: BTreeMap<BTreeSet<PeerId>, usize>,
    /// The same of all others together.
    others: Option<(BTreeSet<PeerId>, usize)>,
    /// The fewest losses that one of them had to survive when it was placed.
    demanded: Option<usize>,
}

impl Survival {
    /// One more stripe, which the loss of any `survives` of these holders does not make unreadable, and of any `demanded`
    /// must not.
    pub(super) fn add(&mut self, holders: BTreeSet<PeerId>, survives: usize, demanded: usize) {
        let before = self.demanded.unwrap_or(demanded);
        self.demanded = Some(demanded.min(before));
        if let Some(least) = self.sets.get_mut(&holders) {
            *least = survives.min(*least);
        } else if self.sets.len() < SETS_MAX {
            self.sets.insert(holders, survives);
        } else {
            let (all, least) = self.others.get_or_insert((BTreeSet::new(), survives));
            all.extend(holders);
            *least = survives.min(*least);
        }
    }

    fn all(&self) -> impl Iterator<Item = (&BTreeSet<PeerId>, usize)> {
        let others = self.others.iter().map(|(set, least)| (set, *least));
        let sets = self.sets.iter().map(|(set, least)| (set, *least));
        sets.chain(others)
    }

    /// How many losses all stripes had to survive.
    pub(super) fn demanded(&self) -> usize {
        self.demanded.unwrap_or(0)
    }

    /// Everybody who holds something.
    pub(super) fn holders(&self) -> BTreeSet<PeerId> {
        let sets = self.all().flat_map(|(set, _)| set);
        sets.copied().collect()
    }

    /// How many further losses all stripes survive without some holders; none if a stripe may be unreadable then.
    pub(super) fn without(&self, gone: &BTreeSet<PeerId>) -> Option<usize> {
        let left = |(set, least): (&BTreeSet<PeerId>, usize)| {
            least.checked_sub(set.intersection(gone).count())
        };
        // Nothing survives everything; it is said as nothing.
        let least = self.all().map(left).min();
        least.unwrap_or(Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: &[u8]) -> BTreeSet<PeerId> {
        numbers.iter().map(|number| PeerId([*number; 32])).collect()
    }

    #[test]
    fn each_stripe_loses_only_its_own_holders() {
        let mut survival = Survival::default();
        assert_eq!(survival.without(&peers(&[1])), Some(0));
        assert_eq!(survival.demanded(), 0);
        survival.add(peers(&[1, 2, 3, 4, 5, 6]), 2, 2);
        assert_eq!(survival.demanded(), 2);
        survival.add(peers(&[5, 6, 7, 8, 9, 10]), 2, 1);
        survival.add(peers(&[5, 6, 7, 8, 9, 10]), 2, 2);
        assert_eq!(survival.demanded(), 1);
        assert_eq!(survival.without(&peers(&[])), Some(2));
        assert_eq!(survival.without(&peers(&[20])), Some(2));
        // Three are gone, and no stripe has lost more than two.
        assert_eq!(survival.without(&peers(&[1, 2, 7])), Some(0));
        assert_eq!(survival.without(&peers(&[1, 7])), Some(1));
        assert_eq!(survival.without(&peers(&[1, 2, 3])), None);
        assert_eq!(survival.without(&peers(&[1, 5, 6])), None);
        // The worst of the same holders counts.
        survival.add(peers(&[1, 2, 3, 4, 5, 6]), 1, 1);
        assert_eq!(survival.without(&peers(&[1, 2])), None);
        assert_eq!(survival.holders(), peers(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
    }

    #[test]
    fn what_is_not_told_apart_is_worth_less_never_more() {
        let mut survival = Survival::default();
        for number in 0..SETS_MAX as u32 + 2 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            survival.add(BTreeSet::from([PeerId(id), PeerId([255; 32])]), 1, 0);
        }
        assert_eq!(survival.sets.len(), SETS_MAX);
        assert_eq!(survival.holders().len(), SETS_MAX + 3);
        assert_eq!(survival.without(&peers(&[])), Some(1));
        assert_eq!(survival.without(&peers(&[255])), Some(0));
    }
}
