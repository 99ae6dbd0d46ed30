//! How often the kernel was told of each file: as long as that is more than zero, it may ask about
//! the file by number, whatever became of its names.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Ino;

/// Threads seldom meet at one of these.
const SHARDS: usize = 16;

/// Counts of lookups, for filesystems that keep no such count in their inodes.
#[derive(Debug, Default)]
pub struct Lookups {
    shards: [Mutex<HashMap<Ino, u64>>; SHARDS],
}

impl Lookups {
    /// The kernel knows nothing yet.
    pub fn new() -> Lookups {
        Lookups::default()
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, HashMap<Ino, u64>> {
        let index = (ino.0 as usize) % SHARDS;
        let shard = &self.shards[index];
        // A count is changed in one step: a panic elsewhere cannot have left it half done.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel is about to be told of the file. To be called before the answer leaves.
    pub fn add(&self, ino: Ino) {
        *self.shard(ino).entry(ino).or_insert(0) += 1;
    }

    /// The kernel forgets `count` lookups. True if it knows the file no more.
    pub fn forget(&self, ino: Ino, count: u64) -> bool {
        let mut shard = self.shard(ino);
        match shard.get_mut(&ino) {
            Some(known) if *known > count => {
                *known -= count;
                false
            }
            Some(_) => {
                shard.remove(&ino);
                true
            }
            // The root is known without a lookup.
            None => false,
        }
    }

    /// How often the kernel was told of the file and did not forget it.
    pub fn count(&self, ino: Ino) -> u64 {
        self.shard(ino).get(&ino).copied().unwrap_or(0)
    }

    /// Every file the kernel knows.
    pub fn known(&self) -> Vec<Ino> {
        let shards = self.shards.iter();
        let mut all: Vec<Ino> = shards
            .flat_map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.keys().copied().collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_gone_with_its_last_lookup() {
        let lookups = Lookups::new();
        lookups.add(Ino(5));
        lookups.add(Ino(5));
        lookups.add(Ino(21));
        assert!(!lookups.forget(Ino(5), 1));
        assert_eq!(lookups.known(), [Ino(5), Ino(21)]);
        assert!(lookups.forget(Ino(5), 1));
        assert!(!lookups.forget(Ino(5), 1), "it goes once");
        assert_eq!(lookups.count(Ino(5)), 0);
    }
}
