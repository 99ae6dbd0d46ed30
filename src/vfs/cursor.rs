//! Where a listing goes on. The kernel names a place in a directory by a number; entries are in the order of
//! their names. Each entry that is shown gets a number that stands for "after this name", so what comes and
//! goes meanwhile makes no other entry appear twice or not at all.

use std::collections::{HashMap, VecDeque};

use tokio::time::{Duration, Instant};

use crate::namespace::{Ino, Name};

/// Offsets below belong to `.` and `..`.
pub(super) const FIRST_OFFSET: u64 = 3;
/// Batches of which every place is known by its name; of older ones it is known after which name they began.
const BATCHES_WHOLE: usize = 4;
/// Batches of one directory that are remembered: some millions of entries.
const BATCHES_MAX: usize = 8192;
/// So many directories may be listed before those are forgotten that nobody went on with.
const LISTINGS_MAX: usize = 1024;
const IDLE: Duration = Duration::from_secs(300);

/// Entries that were shown together.
#[derive(Debug)]
struct Batch {
    /// Its first place, and the one behind its last.
    first: u64,
    end: u64,
    /// The name behind which it began; none: at the beginning.
    after: Option<Name>,
    /// What was shown, in order; empty once there are newer ones.
    names: Vec<Name>,
}

/// The places of one directory.
#[derive(Debug)]
pub(super) struct Places {
    batches: VecDeque<Batch>,
    next: u64,
    used: Instant,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            batches: VecDeque::new(),
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
        // Each place belongs to one batch, whoever listed it, so listings do not confuse one another.
        let index = self.batches.partition_point(|batch| batch.end <= offset);
        let batch = self.batches.get(index)?;
        let place = offset.checked_sub(batch.first)?;
        Some(match batch.names.get(place as usize) {
            Some(name) => After {
                name: Some(name.clone()),
                skip: 0,
            },
            None => After {
                name: batch.after.clone(),
                skip: place + 1,
            },
        })
    }

    /// The number that the next entry gets.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// A batch begins behind a name.
    pub(super) fn begin_batch(&mut self, after: Option<Name>) {
        self.batches.push_back(Batch {
            first: self.next,
            end: self.next,
            after,
            names: Vec::new(),
        });
        if let Some(index) = self.batches.len().checked_sub(BATCHES_WHOLE + 1)
            && let Some(old) = self.batches.get_mut(index)
        {
            old.names = Vec::new();
        }
        if self.batches.len() > BATCHES_MAX {
            self.batches.pop_front();
        }
    }

    /// An entry was shown under the next number.
    pub(super) fn push(&mut self, name: Name) {
        self.next += 1;
        if let Some(batch) = self.batches.back_mut() {
            batch.names.push(name);
            batch.end = self.next;
        }
    }

    /// The batch is complete.
    pub(super) fn end_batch(&mut self) {
        if self
            .batches
            .back()
            .is_some_and(|batch| batch.names.is_empty())
        {
            self.batches.pop_back();
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
            let before = (batch > 0).then(|| name(batch * 50 - 1));
            places.begin_batch(before);
            for number in 0..50 {
                places.push(name(batch * 50 + number));
            }
            places.end_batch();
            // Somebody else who finds nothing more.
            places.begin_batch(None);
            places.end_batch();
        }
        let at = |offset: u64| places.find(offset).unwrap();
        let after = |name, skip| After { name, skip };
        assert_eq!(at(0), after(None, 0));
        // A recent one is known by its name, an old one by how its batch began.
        assert_eq!(at(3 + 499), after(Some(name(499)), 0));
        assert_eq!(at(3 + 420), after(Some(name(420)), 0));
        assert_eq!(at(3 + 99), after(Some(name(49)), 50));
        assert_eq!(at(3 + 120), after(Some(name(99)), 21));
        assert_eq!(at(3 + 20), after(None, 21));
        assert_eq!(places.find(3 + 500), None);
    }
}
