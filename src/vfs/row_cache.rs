//! Rows of the namespace read or written lately, so that most operations need no look at the tables.
//!
//! Whoever reads through it, and whoever changes rows, holds the lock of the core: so what is kept is what the
//! volume has.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::namespace::Changes;
use crate::namespace::state::Pairs;

/// Bytes of keys and values in each of two generations.
const GENERATION_BYTES: usize = 8 << 20;
/// What an entry takes besides its bytes, about.
const ENTRY_COST: usize = 96;
/// Length of the keys' parts that say which file or directory they are about.
const PREFIX: usize = 17;

/// So many of the first rows of a file or directory in one of its spaces are kept: whether there is any, and
/// whether there is more than one.
pub(super) const FIRST_ROWS: usize = 2;

/// Those rows.
type First = Pairs;

#[derive(Debug, Default)]
struct Generation {
    rows: HashMap<Vec<u8>, Option<Bytes>>,
    firsts: HashMap<[u8; PREFIX], First>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    young: Generation,
    old: Generation,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RowCache(Mutex<Kept>);

fn prefix(key: &[u8]) -> Option<[u8; PREFIX]> {
    key.first_chunk::<PREFIX>().copied()
}

impl Kept {
    fn add_row(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let cost = key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_COST;
        self.young.rows.insert(key, value);
        self.grow(cost);
    }

    fn add_first(&mut self, prefix: [u8; PREFIX], first: First) {
        let rows = first.iter();
        let cost: usize = rows.map(|(key, value)| key.len() + value.len()).sum();
        self.young.firsts.insert(prefix, first);
        self.grow(cost + ENTRY_COST);
    }

    fn grow(&mut self, bytes: usize) {
        self.young.bytes += bytes;
        if self.young.bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl RowCache {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row, or that there is none; `None` if it is not known.
    pub(super) fn row(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let mut kept = self.kept();
        if let Some(value) = kept.young.rows.get(key) {
            return Some(value.clone());
        }
        let (key, value) = kept.old.rows.remove_entry(key)?;
        kept.add_row(key, value.clone());
        Some(value)
    }

    /// A row was read.
    pub(super) fn read_row(&self, key: &[u8], value: Option<Bytes>) {
        self.kept().add_row(key.to_vec(), value);
    }

    /// Whether a scan asks for no more than the first rows of those that begin with `start`.
    pub(super) fn is_first(start: &[u8], end: &[u8], limit: usize) -> bool {
        // The prefix ends with random bytes: where the last of them are 255 nothing is kept.
        let (Some((last, before)), Some((end_last, end_before))) =
            (start.split_last(), end.split_last())
        else {
            return false;
        };
        limit == 1
            && start.len() == PREFIX
            && before == end_before
            && last.wrapping_add(1) == *end_last
    }

    /// The first rows that begin with a prefix; `None` if they are not known.
    pub(super) fn first(&self, start: &[u8]) -> Option<First> {
        let prefix = prefix(start)?;
        let mut kept = self.kept();
        if let Some(first) = kept.young.firsts.get(&prefix) {
            return Some(first.clone());
        }
        let first = kept.old.firsts.remove(&prefix)?;
        kept.add_first(prefix, first.clone());
        Some(first)
    }

    /// The first rows of a prefix were read.
    pub(super) fn read_first(&self, start: &[u8], first: First) {
        if let Some(prefix) = prefix(start) {
            self.kept().add_first(prefix, first);
        }
    }

    /// Changes were made.
    pub(super) fn applied(&self, changes: Changes) {
        let mut kept = self.kept();
        for (key, value) in changes {
            if let Some(prefix) = prefix(&key) {
                kept.young.firsts.remove(&prefix);
                kept.old.firsts.remove(&prefix);
            }
            kept.old.rows.remove(&key);
            kept.add_row(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_known_and_firsts_are_forgotten() {
        let cache = RowCache::default();
        let (dir, end) = ([1u8; 17], [&[1u8; 16][..], &[2]].concat());
        let key = [&dir[..], b"name"].concat();
        assert!(RowCache::is_first(&dir, &end, 1));
        assert!(!RowCache::is_first(&dir, &end, 3) && !RowCache::is_first(&key, &end, 1));
        assert_eq!(cache.row(&key), None);
        cache.read_row(&key, None);
        cache.read_first(&dir, Pairs::new());
        assert_eq!(cache.row(&key), Some(None));
        assert_eq!(cache.first(&dir), Some(Pairs::new()));
        let value = Some(Bytes::from_static(b"value"));
        cache.applied(Changes::from([(key.clone(), value.clone())]));
        assert_eq!(cache.row(&key), Some(value));
        assert_eq!(cache.first(&dir), None);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = RowCache::default();
        let big = Some(Bytes::from(vec![7; 64 << 10]));
        cache.read_row(b"used", big.clone());
        for number in 0..1000u32 {
            cache.read_row(&number.to_be_bytes(), big.clone());
            assert!(cache.row(b"used").is_some());
        }
        assert_eq!(cache.row(&0u32.to_be_bytes()), None);
        let kept = cache.kept();
        assert!(kept.young.bytes + kept.old.bytes < 3 * GENERATION_BYTES);
    }
}
