//! Rows of the namespace read or written lately, decoded, so that most operations need no look at the tables.
//!
//! Besides rows it knows the *first keys* of some prefixes: of a file its names, its own rows, what is in it. Where
//! those are all that there are, it is known as well what is not there.
//!
//! Whoever reads through it, and whoever changes rows, holds the lock of the core: so what is kept is what the
//! volume has.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::namespace::state::{Pairs, Siblings, end_of};
use crate::namespace::{Changes, Ino, key, row};

/// Bytes of keys and values in each of two generations.
const GENERATION_BYTES: usize = 20 << 20;
/// What an entry takes besides its bytes, about.
const ENTRY_COST: usize = 96;
/// A decoded row takes so many times its bytes, about.
const DECODED: usize = 3;
/// Length of the keys' parts that say which file or directory they are about.
const PREFIX: usize = 17;

/// So many of the first keys of a prefix are known at most: all rows of a file without extended attributes, its
/// names, and whether a directory has anything.
pub(super) const FIRST_ROWS: usize = 4;

/// The beginning of a key: the space, and a file or directory.
pub(super) type Prefix = [u8; PREFIX];

/// What is known of a row.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Absent,
    Bytes(Bytes),
    Row(Siblings),
}

impl Known {
    pub(super) fn bytes(&self) -> Option<Bytes> {
        match self {
            Known::Absent => None,
            Known::Bytes(bytes) => Some(bytes.clone()),
            Known::Row(row) => Some(row::encode(row).into()),
        }
    }
}

impl From<Option<Bytes>> for Known {
    fn from(bytes: Option<Bytes>) -> Known {
        bytes.map_or(Known::Absent, Known::Bytes)
    }
}

/// The first keys that begin with a prefix, ascending.
#[derive(Debug, Default)]
struct First {
    keys: Vec<Vec<u8>>,
    /// Whether there are no more.
    is_all: bool,
}

impl First {
    /// A row came, or changed. Only keys that are known to be among the first are kept.
    fn add(&mut self, key: &[u8]) {
        if let Err(at) = self.keys.binary_search_by(|known| (**known).cmp(key))
            && (self.is_all || at < self.keys.len())
        {
            self.keys.insert(at, key.to_vec());
            if self.keys.len() > FIRST_ROWS {
                self.keys.truncate(FIRST_ROWS);
                self.is_all = false;
            }
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Ok(at) = self.keys.binary_search_by(|known| (**known).cmp(key)) {
            self.keys.remove(at);
        }
    }
}

/// Hashes keys eight bytes at a time. They are about random identities, so a seed is all that it takes to keep
/// others from choosing names that meet.
#[derive(Debug, Clone, Copy, Default)]
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

struct Folded(u64);

impl Folded {
    const fn fold(&mut self, word: u64) {
        // The odd number nearest to 2^64 divided by the golden ratio; the upper half of the product has seen
        // all bits.
        let product = (self.0 ^ word) as u128 * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }
}

/// Of so many uses of rows of the older generation one takes its row into the younger: what is used again and
/// again stays, and what is gone through once costs nothing.
const TAKEN_OVER: u8 = 4;

#[derive(Debug, Default)]
struct Generation {
    rows: HashMap<Vec<u8>, Known, Seed>,
    firsts: HashMap<Prefix, First, Seed>,
    bytes: usize,
}

impl Generation {
    fn new(seed: Seed) -> Generation {
        Generation {
            rows: HashMap::with_hasher(seed),
            firsts: HashMap::with_hasher(seed),
            bytes: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    young: Generation,
    old: Generation,
    uses: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RowCache(Mutex<Kept>);

pub(super) fn prefix(key: &[u8]) -> Option<Prefix> {
    key.first_chunk::<PREFIX>().copied()
}

/// What all keys from `start` to before `end` begin with, if that says which file or directory they are about.
pub(super) fn common_prefix(start: &[u8], end: &[u8]) -> Option<Prefix> {
    let prefix = prefix(start)?;
    (end.starts_with(&prefix) || end == end_of(&prefix)).then_some(prefix)
}

impl Kept {
    fn add_row(&mut self, key: Vec<u8>, known: Known, cost: usize) {
        let cost = key.len() + cost + ENTRY_COST;
        self.young.rows.insert(key, known);
        self.grow(cost);
    }

    fn add_first(&mut self, prefix: Prefix, first: First) {
        let keys: usize = first.keys.iter().map(Vec::len).sum();
        self.young.firsts.insert(prefix, first);
        self.grow(PREFIX + keys + ENTRY_COST);
    }

    fn grow(&mut self, bytes: usize) {
        self.young.bytes += bytes;
        if self.young.bytes > GENERATION_BYTES {
            let next = Generation::new(*self.young.rows.hasher());
            self.old = std::mem::replace(&mut self.young, next);
        }
    }

    fn first(&mut self, prefix: &Prefix) -> Option<&mut First> {
        if !self.young.firsts.contains_key(prefix) {
            let first = self.old.firsts.remove(prefix)?;
            self.add_first(*prefix, first);
        }
        self.young.firsts.get_mut(prefix)
    }
}

impl RowCache {
    /// With any number that nobody can guess.
    pub(super) fn new(seed: u64) -> RowCache {
        let seed = Seed(seed);
        RowCache(Mutex::new(Kept {
            young: Generation::new(seed),
            old: Generation::new(seed),
            uses: 0,
        }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a row, if anything is.
    pub(super) fn row(&self, key: &[u8]) -> Option<Known> {
        let mut kept = self.kept();
        if let Some(known) = kept.young.rows.get(key) {
            return Some(known.clone());
        }
        if let Some(known) = kept.old.rows.get(key) {
            let known = known.clone();
            kept.uses = (kept.uses + 1) % TAKEN_OVER;
            if kept.uses == 0 {
                let cost = match &known {
                    Known::Absent => 0,
                    Known::Bytes(bytes) => bytes.len(),
                    Known::Row(row) => size_of_val(&**row),
                };
                kept.old.rows.remove(key);
                kept.add_row(key.to_vec(), known.clone(), cost);
            }
            return Some(known);
        }
        let first = kept.first(&prefix(key)?)?;
        let is_absent = first.is_all && first.keys.iter().all(|known| known != key);
        is_absent.then_some(Known::Absent)
    }

    /// A row was read.
    pub(super) fn read_row(&self, key: &[u8], value: Option<Bytes>) {
        let cost = value.as_ref().map_or(0, Bytes::len);
        self.kept().add_row(key.to_vec(), value.into(), cost);
    }

    /// A row of so many bytes was decoded.
    pub(super) fn decoded_row(&self, key: Vec<u8>, row: Siblings, bytes: usize) {
        self.kept().add_row(key, Known::Row(row), DECODED * bytes);
    }

    /// The first `limit` keys of `start..end`, all of which begin with `prefix`, if they are known.
    pub(super) fn keys(
        &self,
        prefix: &Prefix,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Option<Vec<Vec<u8>>> {
        let mut kept = self.kept();
        let first = kept.first(prefix)?;
        let within = |key: &&Vec<u8>| key.as_slice() >= start && key.as_slice() < end;
        let keys = first.keys.iter().filter(within).take(limit);
        let keys: Vec<Vec<u8>> = keys.cloned().collect();
        (first.is_all || keys.len() == limit).then_some(keys)
    }

    /// The first rows of a prefix were read, and whether these are all.
    pub(super) fn read_first(&self, prefix: &Prefix, rows: Pairs, is_all: bool) {
        let mut kept = self.kept();
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        for (key, value) in rows {
            let cost = value.len();
            kept.add_row(key, Known::Bytes(value), cost);
        }
        kept.add_first(*prefix, First { keys, is_all });
    }

    /// It is no directory: there is nothing in it.
    pub(super) fn has_nothing_in_it(&self, ino: Ino) {
        if let Some(prefix) = prefix(&key::entries_of(ino)) {
            let (keys, is_all) = (Vec::new(), true);
            self.kept().add_first(prefix, First { keys, is_all });
        }
    }

    /// A file comes into being: there is no row about it.
    pub(super) fn born(&self, ino: Ino) {
        let mut kept = self.kept();
        for all in key::all_of(ino) {
            if let Some(prefix) = prefix(&all) {
                let (keys, is_all) = (Vec::new(), true);
                kept.add_first(prefix, First { keys, is_all });
            }
        }
    }

    /// Changes were made; `decoded` are those of them that are rows with values, ascending as well.
    pub(super) fn applied(&self, changes: Changes, decoded: Vec<(Vec<u8>, Siblings)>) {
        let mut kept = self.kept();
        let mut decoded = decoded.into_iter().peekable();
        for (key, value) in changes {
            if let Some(prefix) = prefix(&key)
                && let Some(first) = kept.first(&prefix)
            {
                match &value {
                    Some(_) => first.add(&key),
                    None => first.remove(&key),
                }
            }
            kept.old.rows.remove(&key);
            let cost = value.as_ref().map_or(0, Bytes::len);
            match decoded.next_if(|(of, _)| *of == key) {
                Some((_, row)) => kept.add_row(key, Known::Row(row), DECODED * cost),
                None => kept.add_row(key, value.into(), cost),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Prefix = [1; PREFIX];

    fn key(name: &str) -> Vec<u8> {
        [&DIR[..], name.as_bytes()].concat()
    }

    fn change(cache: &RowCache, name: &str, value: Option<&'static str>) {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        cache.applied(Changes::from([(key(name), value)]), Vec::new());
    }

    fn keys(cache: &RowCache, limit: usize) -> Option<Vec<Vec<u8>>> {
        cache.keys(&DIR, &DIR, &end_of(&DIR), limit)
    }

    fn all(names: &[&str]) -> Option<Vec<Vec<u8>>> {
        Some(names.iter().map(|name| key(name)).collect())
    }

    #[test]
    fn what_was_changed_is_known_and_so_is_what_is_not_there() {
        let cache = RowCache::default();
        assert!(cache.row(&key("b")).is_none() && keys(&cache, 1).is_none());
        change(&cache, "b", Some("value"));
        let known = cache.row(&key("b")).unwrap().bytes();
        assert_eq!(known, Some(Bytes::from_static(b"value")));
        assert!(keys(&cache, 1).is_none() && cache.row(&key("c")).is_none());
        cache.read_first(&DIR, vec![(key("b"), Bytes::new())], true);
        assert!(matches!(cache.row(&key("c")), Some(Known::Absent)));
        assert_eq!(keys(&cache, usize::MAX), all(&["b"]));
        change(&cache, "a", Some(""));
        assert_eq!(keys(&cache, usize::MAX), all(&["a", "b"]));
        change(&cache, "b", None);
        assert_eq!(keys(&cache, usize::MAX), all(&["a"]));
        let from = key("b");
        assert_eq!(cache.keys(&DIR, &from, &end_of(&DIR), 9), all(&[]));
    }

    #[test]
    fn more_keys_than_are_kept_are_not_taken_for_all() {
        let cache = RowCache::default();
        cache.read_first(&DIR, Pairs::new(), true);
        for name in ["e", "d", "c", "b", "a"] {
            change(&cache, name, Some(""));
        }
        assert_eq!(keys(&cache, 4), all(&["a", "b", "c", "d"]));
        assert!(keys(&cache, 5).is_none() && cache.row(&key("f")).is_none());
        change(&cache, "f", Some(""));
        for name in ["a", "b", "c"] {
            change(&cache, name, None);
        }
        assert_eq!(keys(&cache, 1), all(&["d"]));
        assert!(keys(&cache, 2).is_none());
        // What is beyond the known ones may not be the next.
        change(&cache, "g", Some(""));
        assert!(keys(&cache, 2).is_none());
        change(&cache, "d", None);
        assert!(keys(&cache, 1).is_none());
    }

    #[test]
    fn a_file_that_is_born_has_nothing() {
        let cache = RowCache::default();
        let ino = Ino([7; 16]);
        cache.born(ino);
        for all in crate::namespace::key::all_of(ino) {
            assert!(matches!(cache.row(&all), Some(Known::Absent)));
        }
    }

    #[test]
    fn a_prefix_is_common_to_what_lies_between() {
        let end = end_of(&DIR);
        assert_eq!(common_prefix(&DIR, &end), Some(DIR));
        assert_eq!(common_prefix(&key("a"), &key("b")), Some(DIR));
        assert_eq!(common_prefix(&DIR, &[2]), None);
        assert_eq!(common_prefix(&DIR[..5], &end), None);
        assert_eq!(end_of(&[255; PREFIX]), Vec::<u8>::new());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = RowCache::default();
        let big = Some(Bytes::from(vec![7; 256 << 10]));
        cache.read_row(b"used", big.clone());
        for number in 0..1000u32 {
            cache.read_row(&number.to_be_bytes(), big.clone());
            assert!(cache.row(b"used").is_some());
        }
        assert!(cache.row(&0u32.to_be_bytes()).is_none());
        let kept = cache.kept();
        assert!(kept.young.bytes + kept.old.bytes < 3 * GENERATION_BYTES);
    }
}
