//! Version vectors: for each writer, up to which number everything was seen.

use std::collections::BTreeMap;
use std::fmt;

use super::id::{Dot, PENDING, WriterId};

/// A set of dots without gaps. Writers that nothing was seen of are not in it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionVector(BTreeMap<WriterId, u64>);

impl VersionVector {
    /// Up to which number `writer` was seen.
    pub fn get(&self, writer: &WriterId) -> u64 {
        self.0.get(writer).copied().unwrap_or(0)
    }

    /// Whether the dot is in the set. One of a draft never is.
    pub fn covers(&self, dot: &Dot) -> bool {
        dot.counter <= self.get(&dot.writer)
    }

    /// Whether everything in `other` is in this one.
    pub fn includes(&self, other: &VersionVector) -> bool {
        other.iter().all(|(writer, seen)| self.get(writer) >= seen)
    }

    /// Raises `writer` to `seen`; never lowers it.
    pub fn raise(&mut self, writer: WriterId, seen: u64) {
        if seen > 0 {
            let slot = self.0.entry(writer).or_insert(0);
            *slot = (*slot).max(seen);
        }
    }

    /// Takes in everything of `other`.
    pub fn join(&mut self, other: &VersionVector) {
        for (writer, seen) in other.iter() {
            self.raise(*writer, seen);
        }
    }

    /// The same without `writer`.
    pub fn without(mut self, writer: &WriterId) -> VersionVector {
        self.0.remove(writer);
        self
    }

    /// Writers in order, each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (&WriterId, u64)> {
        self.0.iter().map(|(writer, seen)| (writer, *seen))
    }

    /// From writers strictly ascending, with numbers that can be.
    pub fn from_sorted(rows: Vec<(WriterId, u64)>) -> Result<Self, &'static str> {
        let ascending = rows.windows(2).all(|pair| match pair {
            [(first, _), (second, _)] => first < second,
            _ => true,
        });
        if !ascending {
            return Err("writers of a version vector out of order");
        }
        if rows.iter().any(|(_, seen)| !(1..PENDING).contains(seen)) {
            return Err("an impossible number in a version vector");
        }
        Ok(VersionVector(rows.into_iter().collect()))
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PeerId;

    fn writer(tag: u8) -> WriterId {
        WriterId {
            peer: PeerId([tag; 32]),
            incarnation: 0,
        }
    }

    #[test]
    fn a_vector_covers_what_was_seen_and_grows_only() {
        let mut one = VersionVector::default();
        one.raise(writer(1), 5);
        one.raise(writer(1), 3);
        one.raise(writer(2), 0);
        assert_eq!(one.iter().count(), 1);
        let dot = |counter| Dot {
            writer: writer(1),
            counter,
        };
        assert!(one.covers(&dot(5)) && !one.covers(&dot(6)) && !one.covers(&dot(PENDING)));
        let mut two = VersionVector::default();
        two.raise(writer(2), 1);
        assert!(!one.includes(&two));
        two.join(&one);
        assert!(two.includes(&one) && !one.includes(&two));
        assert!(VersionVector::from_sorted(vec![(writer(2), 1), (writer(1), 1)]).is_err());
        assert!(VersionVector::from_sorted(vec![(writer(2), 0)]).is_err());
        assert!(VersionVector::from_sorted(vec![(writer(2), PENDING)]).is_err());
    }
}
