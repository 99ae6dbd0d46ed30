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
/// So many directories may be listed before of those that nobody went on with only the beginnings of batches are
/// kept ...
const LISTINGS_WHOLE: usize = 1024;
const IDLE: Duration = Duration::from_secs(300);
/// ... and so many before the oldest are forgotten: a hundred or two bytes each, where few have more than one batch.
const LISTINGS_MAX: usize = 64 << 10;

/// Entries that were shown together.
#[derive(Debug)]
struct Batch {
    /// Its first place, and the one behind its last.
    first: u64,
    end: u64,
    /// Where it began.
    after: After,
    /// What was shown, in order; empty once there are newer ones.
    items: Vec<Item>,
}

/// An entry that was shown: because of which name, and whether others were because of the same.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    base: Name,
    is_contested: bool,
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

/// Where to go on: after all that is shown because of a name, and past some entries behind that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct After {
    pub(super) name: Option<Name>,
    pub(super) skip: u64,
}

impl Places {
    /// What an offset stands for. None if it was never given.
    pub(super) fn find(&self, offset: u64) -> Option<After> {
        if offset < FIRST_OFFSET {
            return Some(After::default());
        }
        // Each place belongs to one batch, whoever listed it, so listings do not confuse one another.
        let index = self.batches.partition_point(|batch| batch.end <= offset);
        let batch = self.batches.get(index)?;
        let place = offset.checked_sub(batch.first)?;
        let Some(item) = batch.items.get(place as usize) else {
            return Some(After {
                skip: batch.after.skip + place + 1,
                ..batch.after.clone()
            });
        };
        if !item.is_contested {
            return Some(After {
                name: Some(item.base.clone()),
                skip: 0,
            });
        }
        // There may be more because of the same name.
        let upto = batch.items.iter().take(place as usize + 1).rev();
        let same = upto.take_while(|other| other.base == item.base).count() as u64;
        let first = place + 1 - same;
        let before = first
            .checked_sub(1)
            .and_then(|at| batch.items.get(at as usize));
        Some(match before {
            Some(before) => After {
                name: Some(before.base.clone()),
                skip: same,
            },
            None => After {
                skip: batch.after.skip + same,
                ..batch.after.clone()
            },
        })
    }

    /// Of no batch the names are kept any more, only where each began.
    fn keep_beginnings(&mut self) {
        for batch in &mut self.batches {
            batch.items = Vec::new();
        }
        self.batches.shrink_to_fit();
    }

    /// The number that the next entry gets.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// A batch begins.
    pub(super) fn begin_batch(&mut self, after: After) {
        self.batches.push_back(Batch {
            first: self.next,
            end: self.next,
            after,
            items: Vec::new(),
        });
        if let Some(index) = self.batches.len().checked_sub(BATCHES_WHOLE + 1)
            && let Some(old) = self.batches.get_mut(index)
        {
            old.items = Vec::new();
        }
        if self.batches.len() > BATCHES_MAX {
            self.batches.pop_front();
        }
    }

    /// An entry was shown under the next number, because of the name `base`; `is_contested` if others are as well.
    pub(super) fn push(&mut self, base: Name, is_contested: bool) {
        self.next += 1;
        if let Some(batch) = self.batches.back_mut() {
            batch.items.push(Item { base, is_contested });
            batch.end = self.next;
        }
    }

    /// The batch is complete.
    pub(super) fn end_batch(&mut self) {
        if self
            .batches
            .back()
            .is_some_and(|batch| batch.items.is_empty())
        {
            self.batches.pop_back();
        }
    }
}

/// The places of all directories that were listed lately.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    known: HashMap<Ino, Places>,
    /// How many there may be until memory is given back again.
    most: usize,
}

impl Cursors {
    pub(super) fn of(&mut self, dir: Ino) -> &mut Places {
        if self.known.len() >= self.most.max(LISTINGS_WHOLE) && !self.known.contains_key(&dir) {
            self.shrink();
        }
        let places = self.known.entry(dir).or_default();
        places.used = Instant::now();
        places
    }

    /// Keeps less of listings that nobody went on with for a while, and nothing of the oldest if there are too many.
    fn shrink(&mut self) {
        for places in self.known.values_mut() {
            if places.used.elapsed() >= IDLE {
                places.keep_beginnings();
            }
        }
        if self.known.len() >= LISTINGS_MAX {
            let mut times: Vec<Instant> = self.known.values().map(|places| places.used).collect();
            let half = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(half);
            let median = *median;
            self.known.retain(|_, places| places.used > median);
        }
        // All are looked through: not for every new one.
        self.most = self.known.len() + LISTINGS_WHOLE;
    }

    pub(super) fn forget(&mut self, dir: Ino) {
        self.known.remove(&dir);
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
        let after = |name, skip| After { name, skip };
        for batch in 0..10 {
            let before = (batch > 0).then(|| name(batch * 50 - 1));
            places.begin_batch(after(before, 0));
            for number in 0..50 {
                places.push(name(batch * 50 + number), false);
            }
            places.end_batch();
            // Somebody else who finds nothing more.
            places.begin_batch(After::default());
            places.end_batch();
        }
        let at = |offset: u64| places.find(offset).unwrap();
        assert_eq!(at(0), after(None, 0));
        // A recent one is known by its name, an old one by how its batch began.
        assert_eq!(at(3 + 499), after(Some(name(499)), 0));
        assert_eq!(at(3 + 420), after(Some(name(420)), 0));
        assert_eq!(at(3 + 99), after(Some(name(49)), 50));
        assert_eq!(at(3 + 120), after(Some(name(99)), 21));
        assert_eq!(at(3 + 20), after(None, 21));
        assert_eq!(places.find(3 + 500), None);
        // The names are forgotten, and no place is.
        places.keep_beginnings();
        let at = |offset: u64| places.find(offset).unwrap();
        assert_eq!(at(3 + 499), after(Some(name(449)), 50));
        assert_eq!(at(3 + 20), after(None, 21));
        assert_eq!(places.find(3 + 500), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_rests_is_not_forgotten_for_others() {
        let dir = |number: u128| Ino(number.to_be_bytes());
        let mut cursors = Cursors::default();
        let places = cursors.of(dir(0));
        places.begin_batch(After::default());
        for number in 0..10 {
            places.push(name(number), false);
        }
        places.end_batch();
        tokio::time::advance(2 * IDLE).await;
        for other in 1..5 * LISTINGS_WHOLE as u128 {
            cursors.of(dir(other));
        }
        let found = cursors.of(dir(0)).find(3 + 4);
        assert_eq!(
            found,
            Some(After {
                name: None,
                skip: 5
            })
        );
        // Their number is bounded all the same.
        for other in 1..3 * LISTINGS_MAX as u128 {
            cursors.of(dir(other));
        }
        assert!(cursors.known.len() <= LISTINGS_MAX + LISTINGS_WHOLE);
    }

    #[test]
    fn what_is_shown_because_of_one_name_goes_on_within_it() {
        let mut places = Places::default();
        let after = |name, skip| After { name, skip };
        places.begin_batch(after(Some(name(1)), 2));
        for (base, is_contested) in [(2, true), (2, true), (3, false), (4, true), (4, true)] {
            places.push(name(base), is_contested);
        }
        places.end_batch();
        let at = |offset: u64| places.find(3 + offset).unwrap();
        assert_eq!(at(0), after(Some(name(1)), 3));
        assert_eq!(at(1), after(Some(name(1)), 4));
        assert_eq!(at(2), after(Some(name(3)), 0));
        assert_eq!(at(3), after(Some(name(3)), 1));
        assert_eq!(at(4), after(Some(name(3)), 2));
    }
}
