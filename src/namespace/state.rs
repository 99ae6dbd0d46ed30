//! Where rows are read from, and the changes that are to be made to them.

use std::collections::BTreeMap;
use std::ops::Bound;

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
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
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

/// The values under a key; none if there is no row.
pub(super) fn siblings(rows: &dyn Rows, key: &Key) -> Result<Vec<Sibling>, StateError> {
    match rows.get(&key.encode())? {
        None => Ok(Vec::new()),
        Some(bytes) => {
            row::decode(key, &bytes).map_err(|error| StateError::corrupt("a row", error))
        }
    }
}

/// Whether any key begins with `prefix`.
pub(super) fn any(rows: &dyn Rows, prefix: &[u8]) -> Result<bool, StateError> {
    Ok(!rows.scan(prefix, &end_of(prefix), 1)?.is_empty())
}

/// Up to `limit` pairs whose keys begin with `prefix`.
pub(super) fn below(rows: &dyn Rows, prefix: &[u8], limit: usize) -> Result<Pairs, StateError> {
    rows.scan(prefix, &end_of(prefix), limit)
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
    let found = below(rows, &key::links_of(ino), limit)?;
    let read = |(key, _): (Vec<u8>, Bytes)| {
        let name = Name::new(key::tail(&key, 33))
            .map_err(|why| StateError::corrupt("a derived row", why))?;
        Ok((key::ino_at(&key, 17), name))
    };
    found.into_iter().map(read).collect()
}

/// Rows with changes laid over them.
pub struct Work<'a> {
    base: &'a dyn Rows,
    changes: Changes,
    written: usize,
}

impl<'a> Work<'a> {
    /// Without changes yet.
    pub fn new(base: &'a dyn Rows) -> Work<'a> {
        Work {
            base,
            changes: Changes::new(),
            written: 0,
        }
    }

    /// Bytes of keys and values that changes were made of, those overwritten since included.
    pub(super) const fn written(&self) -> usize {
        self.written
    }

    /// The changes.
    pub fn into_changes(self) -> Changes {
        self.changes
    }

    /// Lays more changes over.
    pub fn extend(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.written += key.len() + value.len();
        self.changes.insert(key, Some(value.into()));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.written += key.len();
        self.changes.insert(key, None);
    }

    pub(super) fn put_siblings(&mut self, key: &Key, siblings: &[Sibling]) {
        let bytes = key.encode();
        if siblings.is_empty() {
            self.remove(bytes);
        } else {
            self.put(bytes, row::encode(siblings));
        }
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

    pub(super) fn put_counts(&mut self, ino: Ino, counts: Counts) {
        let key = key::count(ino);
        if counts.links <= 1 && counts.directories == 0 {
            self.remove(key);
        } else {
            self.put(key, wire::encode(&(counts.links, counts.directories)));
        }
    }
}

impl Rows for Work<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        let changed = || self.changes.range::<[u8], _>(range);
        // Each change can take one pair away.
        let extra = changed().filter(|(_, value)| value.is_none()).count();
        let base = self.base.scan(start, end, limit.saturating_add(extra))?;
        if changed().next().is_none() {
            return Ok(base);
        }
        let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> = base
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        merged.extend(changed().map(|(key, value)| (key.clone(), value.clone())));
        let live = merged
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        Ok(live.take(limit).collect())
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
        plain.apply(work.changes.clone());
        for limit in 0..9 {
            for start in [&b"a"[..], b"b", b"c"] {
                for end in [&b"a"[..], b"e", b"z"] {
                    let found = work.scan(start, end, limit).unwrap();
                    assert_eq!(found, plain.scan(start, end, limit).unwrap());
                }
            }
        }
        assert_eq!(end_of(&[1, 0xff, 0xff]), [2]);
    }
}
