//! Where rows are read from, and the changes that are to be made to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::StateError;
use super::id::{Ino, Name, WriterId};
use super::key::{self, Key};
use super::row::{self, Sibling};
use super::version::VersionVector;
use crate::base::wire;

/// What `Rows::scan` answers: keys ascending, with their values.
pub type Pairs = Vec<(Vec<u8>, Bytes)>;

/// The values under one key, ascending by dot; none if there is no row.
pub type Siblings = Arc<[Sibling]>;

/// Rows as a database keeps them. Keys and values mean nothing to it; keys ascend as bytes.
pub trait Rows {
    /// The value of a key.
    ///
    /// # Errors
    /// If it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// The first `limit` keys of `start..end`, ascending, with their values.
    ///
    /// # Errors
    /// If they cannot be read.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError>;

    /// The same without the values.
    ///
    /// # Errors
    /// If they cannot be read.
    fn keys(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StateError> {
        let found = self.scan(start, end, limit)?;
        Ok(found.into_iter().map(|(key, _)| key).collect())
    }

    /// The values under a key. Whoever keeps rows decoded answers without doing it again.
    ///
    /// # Errors
    /// If they cannot be read.
    fn siblings(&self, key: &Key) -> Result<Siblings, StateError> {
        let found = self.get(&key.encode())?;
        found.map_or_else(|| Ok(Siblings::default()), |bytes| decode_row(key, &bytes))
    }
}

/// The values that a row's bytes say.
///
/// # Errors
/// If they are none.
pub fn decode_row(key: &Key, bytes: &[u8]) -> Result<Siblings, StateError> {
    let row = row::decode(key, bytes).map_err(|error| StateError::corrupt("a row", error))?;
    Ok(row.into())
}

/// What is to become of rows: a new value, or none. To be applied as a whole.
pub type Changes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// Rows in memory, for tests and small volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemRows(BTreeMap<Vec<u8>, Bytes>);

impl MemRows {
    /// Makes changes.
    pub fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }

    /// All rows, those that are this replica's own included.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value))
    }
}

impl Rows for MemRows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let found = self.0.range::<[u8], _>(range).take(limit);
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

/// The first key after all that begin with `prefix`.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The first key after `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Whether any key begins with `prefix`.
pub(super) fn any(rows: &dyn Rows, prefix: &[u8]) -> Result<bool, StateError> {
    Ok(!keys_below(rows, prefix, 1)?.is_empty())
}

/// Up to `limit` pairs whose keys begin with `prefix`.
pub(super) fn below(rows: &dyn Rows, prefix: &[u8], limit: usize) -> Result<Pairs, StateError> {
    rows.scan(prefix, &end_of(prefix), limit)
}

/// Up to `limit` keys that begin with `prefix`.
pub(super) fn keys_below(
    rows: &dyn Rows,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<Vec<u8>>, StateError> {
    rows.keys(prefix, &end_of(prefix), limit)
}

/// Everything that was merged.
///
/// # Errors
/// If it cannot be read.
pub fn version(rows: &dyn Rows) -> Result<VersionVector, StateError> {
    let fail = |why: &dyn std::fmt::Display| StateError::corrupt("the version vector", why);
    let Some(bytes) = rows.get(key::VERSION)? else {
        return Ok(VersionVector::default());
    };
    let rows: Vec<(WriterId, u64)> =
        wire::decode(&bytes, usize::MAX).map_err(|error| fail(&error))?;
    VersionVector::from_sorted(rows).map_err(|why| fail(&why))
}

/// How many derived rows of each kind there are; all zero in a volume without disagreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub(super) struct Totals {
    /// Names whose row alone does not say what is shown.
    pub odd: u64,
    /// Things shown elsewhere than at an entry, or waiting for that.
    pub placed: u64,
    /// Directories not shown at their newest link.
    pub cut: u64,
}

impl From<(u64, u64, u64)> for Totals {
    fn from((odd, placed, cut): (u64, u64, u64)) -> Self {
        Totals { odd, placed, cut }
    }
}

impl From<Totals> for (u64, u64, u64) {
    fn from(totals: Totals) -> Self {
        (totals.odd, totals.placed, totals.cut)
    }
}

/// Reads a derived row.
pub(super) fn local<T: serde::de::DeserializeOwned>(
    rows: &dyn Rows,
    key: &[u8],
) -> Result<Option<T>, StateError> {
    let Some(bytes) = rows.get(key)? else {
        return Ok(None);
    };
    let read = wire::decode(&bytes, usize::MAX);
    read.map(Some)
        .map_err(|error| StateError::corrupt("a derived row", error))
}

pub(super) fn totals(rows: &dyn Rows) -> Result<Totals, StateError> {
    Ok(local(rows, key::TOTALS)?.unwrap_or_default())
}

/// Names of a file and directories in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Entries that lead to it.
    pub links: u64,
    /// Entries in it that lead to directories.
    pub directories: u64,
}

/// In how many entries a file is named, and how many directories a directory has.
pub(super) fn counts(rows: &dyn Rows, ino: Ino) -> Result<Counts, StateError> {
    if let Some((links, directories)) = local(rows, &key::count(ino))? {
        return Ok(Counts { links, directories });
    }
    Ok(Counts {
        links: any(rows, &key::links_of(ino))?.into(),
        directories: 0,
    })
}

/// The names of a file: directory and name of each entry, in the order of keys.
pub(super) fn links(
    rows: &dyn Rows,
    ino: Ino,
    limit: usize,
) -> Result<Vec<(Ino, Name)>, StateError> {
    let found = keys_below(rows, &key::links_of(ino), limit)?;
    let read = |key: Vec<u8>| {
        let name = Name::new(key::tail(&key, 33))
            .map_err(|why| StateError::corrupt("a derived row", why))?;
        Ok((key::ino_at(&key, 17), name))
    };
    found.into_iter().map(read).collect()
}

/// What is to become of one row.
#[derive(Clone, Debug)]
enum Change {
    Removed,
    Bytes(Bytes),
    /// Encoded once, at the end.
    Row(Siblings),
}

impl Change {
    fn bytes(&self) -> Option<Bytes> {
        match self {
            Change::Removed => None,
            Change::Bytes(bytes) => Some(bytes.clone()),
            Change::Row(row) => Some(row::encode(row).into()),
        }
    }

    const fn is_removal(&self) -> bool {
        matches!(self, Change::Removed)
    }
}

/// Rows with changes laid over them.
pub struct Work<'a> {
    base: &'a dyn Rows,
    changes: BTreeMap<Vec<u8>, Change>,
    written: usize,
}

impl<'a> Work<'a> {
    /// Without changes yet.
    pub fn new(base: &'a dyn Rows) -> Work<'a> {
        Work {
            base,
            changes: BTreeMap::new(),
            written: 0,
        }
    }

    /// Bytes of keys and values that changes were made of, about; those overwritten since included.
    pub(super) const fn written(&self) -> usize {
        self.written
    }

    /// The changes.
    pub fn into_changes(self) -> Changes {
        self.into_parts().0
    }

    /// The changes, and those of the rows that carry values as values besides.
    pub(super) fn into_parts(self) -> (Changes, Vec<(Vec<u8>, Siblings)>) {
        let mut rows = Vec::new();
        let mut encode = |(key, change): (Vec<u8>, Change)| {
            let bytes = change.bytes();
            if let Change::Row(row) = change {
                rows.push((key.clone(), row));
            }
            (key, bytes)
        };
        let changes = self.changes.into_iter().map(&mut encode).collect();
        (changes, rows)
    }

    /// Goes on with changes that count as so many bytes.
    pub(super) fn go_on(&mut self, changes: Changes, written: usize) {
        self.extend(changes);
        self.written += written;
    }

    /// Lays more changes over.
    pub fn extend(&mut self, changes: Changes) {
        let change = |(key, value): (Vec<u8>, Option<Bytes>)| {
            (key, value.map_or(Change::Removed, Change::Bytes))
        };
        self.changes.extend(changes.into_iter().map(change));
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.written += key.len() + value.len();
        self.changes.insert(key, Change::Bytes(value.into()));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.written += key.len();
        self.changes.insert(key, Change::Removed);
    }

    pub(super) fn put_siblings(&mut self, key: &Key, siblings: Vec<Sibling>) {
        let key = key.encode();
        self.written += key.len() + siblings.iter().map(row::bytes_about).sum::<usize>();
        let change = match siblings.is_empty() {
            true => Change::Removed,
            false => Change::Row(siblings.into()),
        };
        self.changes.insert(key, change);
    }

    pub(super) fn put_version(&mut self, version: &VersionVector) {
        let rows: Vec<(WriterId, u64)> = version.iter().map(|(w, seen)| (*w, seen)).collect();
        self.put(key::VERSION.to_vec(), wire::encode(&rows));
    }

    pub(super) fn put_totals(&mut self, totals: Totals) {
        if totals == Totals::default() {
            self.remove(key::TOTALS.to_vec());
        } else {
            self.put(key::TOTALS.to_vec(), wire::encode(&totals));
        }
    }

    pub(super) fn put_counts(&mut self, ino: Ino, counts: Counts) -> Result<(), StateError> {
        let key = key::count(ino);
        if counts.links > 1 || counts.directories > 0 {
            self.put(key, wire::encode(&(counts.links, counts.directories)));
        } else if self.get(&key)?.is_some() {
            self.remove(key);
        }
        Ok(())
    }
}

impl Rows for Work<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.bytes()),
            None => self.base.get(key),
        }
    }

    fn siblings(&self, key: &Key) -> Result<Siblings, StateError> {
        if self.changes.is_empty() {
            return self.base.siblings(key);
        }
        match self.changes.get(&key.encode()) {
            Some(Change::Row(row)) => Ok(Arc::clone(row)),
            Some(Change::Bytes(bytes)) => decode_row(key, bytes),
            Some(Change::Removed) => Ok(Siblings::default()),
            None => self.base.siblings(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let changed = || self.changes.range::<[u8], _>(range);
        // Each change can take one pair away.
        let extra = changed().filter(|(_, change)| change.is_removal()).count();
        let base = self.base.scan(start, end, limit.saturating_add(extra))?;
        if changed().next().is_none() {
            return Ok(base);
        }
        let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> = base
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        merged.extend(changed().map(|(key, change)| (key.clone(), change.bytes())));
        let live = merged
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        Ok(live.take(limit).collect())
    }

    fn keys(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let changed = || self.changes.range::<[u8], _>(range);
        let extra = changed().filter(|(_, change)| change.is_removal()).count();
        let mut keys = self.base.keys(start, end, limit.saturating_add(extra))?;
        for (key, change) in changed() {
            match keys.binary_search(key) {
                Ok(at) if change.is_removal() => {
                    keys.remove(at);
                }
                Err(at) if !change.is_removal() => keys.insert(at, key.clone()),
                _ => {}
            }
        }
        keys.truncate(limit);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_lie_over_rows_in_scans_of_any_limit() {
        let mut base = MemRows::default();
        let value = |text: &str| Some(Bytes::from(text.to_owned()));
        base.apply((b'a'..=b'h').map(|c| (vec![c], value("base"))).collect());
        let mut work = Work::new(&base);
        for gone in [b'a', b'c', b'd'] {
            work.remove(vec![gone]);
        }
        work.put(b"bb".to_vec(), b"new".to_vec());
        work.put(b"h".to_vec(), b"new".to_vec());
        let mut plain = base.clone();
        let changed = work.changes.iter();
        plain.apply(changed.map(|(k, v)| (k.clone(), v.bytes())).collect());
        for limit in 0..9 {
            for start in [&b"a"[..], b"b", b"c"] {
                for end in [&b"a"[..], b"e", b"z"] {
                    let found = work.scan(start, end, limit).unwrap();
                    assert_eq!(found, plain.scan(start, end, limit).unwrap());
                    let keys = work.keys(start, end, limit).unwrap();
                    assert_eq!(keys, plain.keys(start, end, limit).unwrap());
                }
            }
        }
        assert_eq!(end_of(&[1, 0xff, 0xff]), [2]);
    }
}
