//! Where a listing goes on. The kernel names a place in a directory by a number; entries are in the order of
//! their names. Each entry that is shown gets a number that stands for "after this name", so what comes and
//! goes meanwhile makes no other entry appear twice or not at all.

use std::collections::{BTreeMap, HashMap};

use tokio::time::{Duration, Instant};

use crate::namespace::{Ino, Name};

/// Offsets below belong to `.` and `..`.
pub(super) const FIRST_OFFSET: u64 = 3;
/// Batches of a listing of which every place is known; of older ones only the last.
const BATCHES_WHOLE: usize = 4;
/// So many directories may be listed before those are forgotten that nobody went on with.
const LISTINGS_MAX: usize = 1024;
const IDLE: Duration = Duration::from_secs(300);

/// The places of one directory.
#[derive(Debug)]
pub(super) struct Places {
    names: BTreeMap<u64, Name>,
    /// First and last place of recent batches, oldest first.
    batches: Vec<(u64, u64)>,
    next: u64,
    used: Instant,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            names: BTreeMap::new(),
            batches: Vec::new(),
            next: FIRST_OFFSET,
            used: Instant::now(),
        }
    }
}

/// Where to go on: after a name, and past some entries behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct After {
    pub(super) name: Option<Name>,
    pub(super) skip: u64,
}

impl Places {
    /// What an offset stands for. None if it was never given.
    pub(super) fn find(&self, offset: u64) -> Option<After> {
        if offset < FIRST_OFFSET {
            return Some(After {
                name: None,
                skip: 0,
            });
        }
        if offset >= self.next {
            return None;
        }
        let (at, name) = self.names.range(..=offset).next_back()?;
        Some(After {
            name: Some(name.clone()),
            skip: offset - at,
        })
    }

    /// The number that the next entry gets.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// An entry was shown under the next number.
    pub(super) fn push(&mut self, name: Name) {
        self.names.insert(self.next, name);
        self.next += 1;
    }

    /// A batch that began with the number `first` is complete.
    pub(super) fn end_batch(&mut self, first: u64) {
        if first == self.next {
            return;
        }
        self.batches.push((first, self.next - 1));
        if self.batches.len() > BATCHES_WHOLE {
            let (first, last) = self.batches.remove(0);
            for offset in first..last {
                self.names.remove(&offset);
            }
        }
    }
}

/// The places of all directories that were listed lately.
#[derive(Debug, Default)]
pub(super) struct Cursors(HashMap<Ino, Places>);

impl Cursors {
    pub(super) fn of(&mut self, dir: Ino) -> &mut Places {
        if self.0.len() > LISTINGS_MAX && !self.0.contains_key(&dir) {
            self.0.retain(|_, places| places.used.elapsed() < IDLE);
        }
        let places = self.0.entry(dir).or_default();
        places.used = Instant::now();
        places
    }

    pub(super) fn forget(&mut self, dir: Ino) {
        self.0.remove(&dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name::new(number.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn places_stay_what_they_were() {
        let mut places = Places::default();
        for batch in 0..10 {
            let first = places.next();
            for number in 0..50 {
                places.push(name(batch * 50 + number));
            }
            places.end_batch(first);
        }
        let at = |offset: u64| places.find(offset).unwrap();
        assert_eq!(at(0).name, None);
        // A recent one is known by its name, an old one by the end of the batch before it.
        assert_eq!(
            at(3 + 499),
            After {
                name: Some(name(499)),
                skip: 0
            }
        );
        assert_eq!(
            at(3 + 420),
            After {
                name: Some(name(420)),
                skip: 0
            }
        );
        assert_eq!(
            at(3 + 99),
            After {
                name: Some(name(99)),
                skip: 0
            }
        );
        assert_eq!(
            at(3 + 120),
            After {
                name: Some(name(99)),
                skip: 21
            }
        );
        assert_eq!(places.find(3 + 500), None);
    }
}
