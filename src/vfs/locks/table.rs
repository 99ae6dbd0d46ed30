//! Which ranges of one file the programs of this machine have locked.
//!
//! As POSIX has it: the ranges of one owner replace one another, those of different owners conflict where one of them
//! is exclusive. `flock` locks come as the whole range, with an owner for each opening. The kernel may give the number of
//! such an owner to a later opening before it tells that the first was closed, so each range has its handle besides.

use cairnfs_fuse::{Errno, Fh, LockKind, LockRange};

use crate::feeds::LockMode;

/// Most ranges of one file.
const RANGES_MAX: usize = 4096;

/// A range that somebody has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: u64,
    /// Through which it was locked.
    fh: Fh,
    range: LockRange,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<Held>);

const fn overlap(one: &LockRange, two: &LockRange) -> bool {
    one.start <= two.end && two.start <= one.end
}

fn is_exclusive(range: &LockRange) -> bool {
    range.kind == LockKind::Write
}

impl Ranges {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range of another owner that stands in the way.
    pub(super) fn conflict(&self, owner: u64, range: &LockRange) -> Option<LockRange> {
        let others = self.0.iter().filter(|held| held.owner != owner);
        let stands = |held: &&Held| {
            overlap(&held.range, range) && (is_exclusive(&held.range) || is_exclusive(range))
        };
        others
            .filter(stands)
            .map(|held| held.range)
            .min_by_key(|held| held.start)
    }

    /// The mode in which this machine must have the file, for all that is locked in it.
    pub(super) fn mode(&self) -> Option<LockMode> {
        let modes = self.0.iter().map(|held| mode_of(held.range.kind));
        modes.max().flatten()
    }

    /// Locks or unlocks a range for an owner.
    ///
    /// # Errors
    /// `ENOLCK` if there are too many ranges; nothing has changed then.
    pub(super) fn set(&mut self, owner: u64, fh: Fh, range: LockRange) -> Result<(), Errno> {
        let mut left: Vec<Held> = Vec::with_capacity(self.0.len() + 2);
        for held in &self.0 {
            let old = held.range;
            if held.owner != owner || !overlap(&old, &range) {
                left.push(*held);
                continue;
            }
            if old.start < range.start {
                let end = range.start - 1;
                let range = LockRange { end, ..old };
                left.push(Held { range, ..*held });
            }
            if old.end > range.end {
                let start = range.end + 1;
                let range = LockRange { start, ..old };
                left.push(Held { range, ..*held });
            }
        }
        if range.kind != LockKind::Unlock {
            left.push(Held { owner, fh, range });
        }
        if left.len() > RANGES_MAX && left.len() > self.0.len() {
            return Err(Errno::ENOLCK);
        }
        self.0 = left;
        Ok(())
    }

    /// Takes all from an owner.
    pub(super) fn drop_owner(&mut self, owner: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|held| held.owner != owner);
        self.0.len() < before
    }

    /// Takes all from an owner that it locked through a handle, which is closed.
    pub(super) fn drop_closed(&mut self, owner: u64, fh: Fh) -> bool {
        let before = self.0.len();
        self.0.retain(|held| held.owner != owner || held.fh != fh);
        self.0.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The mode of a machine that a lock of a program needs.
pub(super) const fn mode_of(kind: LockKind) -> Option<LockMode> {
    match kind {
        LockKind::Read => Some(LockMode::Shared),
        LockKind::Write => Some(LockMode::Exclusive),
        LockKind::Unlock => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64, kind: LockKind) -> LockRange {
        LockRange {
            start,
            end,
            kind,
            pid: 1,
        }
    }

    fn kind() -> impl Strategy<Value = LockKind> {
        prop_oneof![
            Just(LockKind::Read),
            Just(LockKind::Write),
            Just(LockKind::Unlock)
        ]
    }

    proptest! {
        /// Byte by byte the table says what a map from bytes and owners to locks says.
        #[test]
        fn ranges_are_what_their_bytes_are(steps in prop::collection::vec((0u64..3, 0u64..24, 0u64..8, kind()), 0..40)) {
            let mut table = Ranges::default();
            let mut bytes = std::collections::BTreeMap::new();
            for (owner, start, more, kind) in steps {
                let wanted = range(start, start + more, kind);
                let stands = (start..=start + more).any(|at| {
                    (0..3).filter(|other| *other != owner).any(|other| {
                        let held = bytes.get(&(other, at));
                        held == Some(&LockKind::Write)
                            || held.is_some() && kind == LockKind::Write
                    })
                });
                if kind != LockKind::Unlock {
                    prop_assert_eq!(table.conflict(owner, &wanted).is_some(), stands);
                }
                if stands && kind != LockKind::Unlock {
                    continue;
                }
                table.set(owner, Fh(0), wanted).unwrap();
                for at in start..=start + more {
                    match kind {
                        LockKind::Unlock => bytes.remove(&(owner, at)),
                        kind => bytes.insert((owner, at), kind),
                    };
                }
                let strongest = bytes.values().filter_map(|kind| mode_of(*kind)).max();
                prop_assert_eq!(table.mode(), strongest);
                prop_assert_eq!(table.is_empty(), bytes.is_empty());
            }
        }
    }

    #[test]
    fn a_handle_that_is_closed_takes_only_what_was_locked_through_it() {
        let mut table = Ranges::default();
        let all = range(0, u64::MAX, LockKind::Write);
        table.set(1, Fh(1), all).unwrap();
        // The number of its owner goes to a later opening, which has a lock before the first is told to be closed.
        table.set(1, Fh(2), all).unwrap();
        assert!(!table.drop_closed(1, Fh(1)));
        assert!(table.conflict(2, &all).is_some());
        assert!(table.drop_closed(1, Fh(2)) && table.is_empty());
    }

    #[test]
    fn the_last_byte_is_one_as_well() {
        let mut table = Ranges::default();
        let (all, rest) = (
            range(0, u64::MAX, LockKind::Write),
            range(5, u64::MAX, LockKind::Unlock),
        );
        table.set(1, Fh(0), all).unwrap();
        table.set(1, Fh(0), rest).unwrap();
        assert!(table.conflict(2, &range(4, 4, LockKind::Read)).is_some());
        assert!(
            table
                .conflict(2, &range(5, u64::MAX, LockKind::Write))
                .is_none()
        );
        assert!(table.drop_owner(1) && table.is_empty());
    }
}
