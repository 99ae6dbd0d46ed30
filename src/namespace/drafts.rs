//! What the rows would be without the drafts that they show.
//!
//! A draft is on one replica only, and other replicas must not learn of it before it enters the feed,
//! nor of what it removed. So of every row that a draft writes the replica keeps, beside what is shown,
//! what the merged deltas alone make of it. A checkpoint is made from those, and when the last draft
//! that writes a row has entered the feed the row becomes what was kept: in whatever order drafts
//! enter, the rows are the same as everywhere else.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_bytes::ByteBuf;

use super::delta::Write;
use super::error::StateError;
use super::id::Dot;
use super::join;
use super::key::{self, Key};
use super::row::{self, Sibling};
use super::state::{self, Changes, Pairs, Rows, Work};
use crate::base::wire;

/// A row without drafts.
pub(super) struct Kept {
    /// How many drafts that are shown write the row.
    pub drafts: u64,
    /// The values; none if there is no such row.
    pub row: Vec<Sibling>,
}

type KeptWire = (u64, ByteBuf);

/// Whether any draft is shown.
pub(super) fn any(rows: &dyn Rows) -> Result<bool, StateError> {
    Ok(rows.get(key::DRAFTS)?.is_some())
}

/// What is kept of a row that drafts write; none if no draft does.
pub(super) fn kept(rows: &dyn Rows, key: &Key) -> Result<Option<Kept>, StateError> {
    let Some((drafts, bytes)) = state::local::<KeptWire>(rows, &key::kept(&key.encode()))? else {
        return Ok(None);
    };
    let row = match bytes.is_empty() {
        true => Vec::new(),
        false => row::decode(key, &bytes).map_err(|why| StateError::corrupt("a kept row", why))?,
    };
    Ok(Some(Kept { drafts, row }))
}

/// Keys of all rows that drafts write.
pub(super) fn keys(rows: &dyn Rows) -> Result<Vec<Vec<u8>>, StateError> {
    if !any(rows)? {
        return Ok(Vec::new());
    }
    let found = state::keys_below(rows, key::KEPT, usize::MAX)?;
    let keys = found.iter();
    Ok(keys.map(|key| key::tail(key, 1).to_vec()).collect())
}

/// A draft is about to write a row.
pub(super) fn begin(work: &mut Work<'_>, key: &Key) -> Result<(), StateError> {
    let known = kept(work, key)?;
    let is_new = known.is_none();
    let mut kept = match known {
        Some(kept) => kept,
        None => Kept {
            drafts: 0,
            row: work.siblings(key)?.to_vec(),
        },
    };
    kept.drafts += 1;
    put(work, key, &kept);
    if is_new {
        count(work, 1)?;
    }
    Ok(())
}

/// A delta was merged: does to what is kept what it did to the row.
pub(super) fn merge(
    work: &mut Work<'_>,
    write: &Write,
    added: &[Sibling],
    covers: &dyn Fn(&Dot) -> bool,
) -> Result<(), StateError> {
    if let Some(mut kept) = kept(work, &write.key)? {
        kept.row = write.replace(&kept.row, added, covers);
        put(work, &write.key, &kept);
    }
    Ok(())
}

/// Keeps other values than before.
pub(super) fn put(work: &mut Work<'_>, key: &Key, kept: &Kept) {
    let bytes = match kept.row.is_empty() {
        true => Vec::new(),
        false => row::encode(&kept.row),
    };
    let wire: KeptWire = (kept.drafts, ByteBuf::from(bytes));
    work.put(key::kept(&key.encode()), wire::encode(&wire));
}

/// No draft that is shown writes the row any more.
pub(super) fn end(work: &mut Work<'_>, key: &Key) -> Result<(), StateError> {
    work.remove(key::kept(&key.encode()));
    count(work, -1)
}

fn count(work: &mut Work<'_>, change: i64) -> Result<(), StateError> {
    let before: u64 = state::local(work, key::DRAFTS)?.unwrap_or(0);
    match before.saturating_add_signed(change) {
        0 => work.remove(key::DRAFTS.to_vec()),
        after => work.put(key::DRAFTS.to_vec(), wire::encode(&after)),
    }
    Ok(())
}

/// The rows that replicas share, as the merged deltas alone make them: no drafts, and nothing that is
/// this replica's own. What a checkpoint is made of.
pub struct Shared<'a> {
    rows: &'a dyn Rows,
    has_drafts: bool,
}

impl<'a> Shared<'a> {
    /// Of rows in which no join is under way.
    ///
    /// # Errors
    /// If rows cannot be read; of class `Retry` while a join is under way.
    pub fn new(rows: &'a dyn Rows) -> Result<Shared<'a>, StateError> {
        join::refuse_unfinished(rows)?;
        let has_drafts = any(rows)?;
        Ok(Shared { rows, has_drafts })
    }

    /// All of them: keys ascending, with their values.
    pub fn iter(&self) -> SharedIter<'_> {
        SharedIter {
            shared: self,
            page: Vec::new().into_iter(),
            next: Some(Vec::new()),
        }
    }
}

/// What a kept row says is in the place of the row.
fn bytes_of(value: &[u8]) -> Result<Option<Bytes>, StateError> {
    let (_, bytes): KeptWire = wire::decode(value, usize::MAX)
        .map_err(|error| StateError::corrupt("a kept row", error))?;
    Ok((!bytes.is_empty()).then(|| bytes.into_vec().into()))
}

impl Rows for Shared<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if key.first().is_none_or(|space| *space >= key::LOCAL) {
            return Ok(None);
        }
        if self.has_drafts
            && let Some(value) = self.rows.get(&key::kept(key))?
        {
            return bytes_of(&value);
        }
        self.rows.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        let end = end.min(&[key::LOCAL]);
        if start >= end {
            return Ok(Vec::new());
        }
        if !self.has_drafts {
            return self.rows.scan(start, end, limit);
        }
        let mut live: Pairs = Vec::new();
        let mut at = start.to_vec();
        while live.len() < limit && at.as_slice() < end {
            let wanted = limit - live.len();
            let shown = self.rows.scan(&at, end, wanted)?;
            let upto = match shown.last() {
                Some((last, _)) if shown.len() == wanted => state::after(last),
                _ => end.to_vec(),
            };
            let kept = self
                .rows
                .scan(&key::kept(&at), &key::kept(&upto), usize::MAX)?;
            let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> = shown
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect();
            for (key, value) in kept {
                merged.insert(key::tail(&key, 1).to_vec(), bytes_of(&value)?);
            }
            let of = |(key, value): (Vec<u8>, Option<Bytes>)| Some((key, value?));
            live.extend(merged.into_iter().filter_map(of));
            at = upto;
        }
        live.truncate(limit);
        Ok(live)
    }
}

/// Keys of the shared rows that changes may make others of.
pub fn shared_keys(changes: &Changes) -> impl Iterator<Item = &[u8]> {
    let is_shared = |key: &&[u8]| key.first().is_some_and(|space| *space < key::LOCAL);
    let keys = changes
        .keys()
        .map(|key| key.strip_prefix(key::KEPT).unwrap_or(key));
    keys.filter(is_shared)
}

/// Rows per reading.
const PAGE_ROWS: usize = 1024;

/// See [`Shared::iter`]. After an error it goes no further.
pub struct SharedIter<'a> {
    shared: &'a Shared<'a>,
    page: std::vec::IntoIter<(Vec<u8>, Bytes)>,
    next: Option<Vec<u8>>,
}

impl Iterator for SharedIter<'_> {
    type Item = Result<(Vec<u8>, Bytes), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.page.next() {
            return Some(Ok(row));
        }
        let start = self.next.take()?;
        match self.shared.scan(&start, &[key::LOCAL], PAGE_ROWS) {
            Ok(page) => {
                if page.len() == PAGE_ROWS {
                    self.next = page.last().map(|(key, _)| state::after(key));
                }
                self.page = page.into_iter();
                self.page.next().map(Ok)
            }
            Err(error) => Some(Err(error)),
        }
    }
}
