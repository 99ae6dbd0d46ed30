//! The rows of a volume's local engine: which space has what, and how values beyond the engine's bound are
//! kept in parts. `docs/format/volume.md` has the picture.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::policy::REDUNDANCY_XATTR;
use super::row_cache::{self, FIRST_ROWS, Known, Prefix, RowCache};
use crate::base::limits::{ROW_PAGE_MAX, ROW_VALUE_MAX_BYTES};
use crate::base::{Class, Classify};
use crate::namespace::state::{Pairs, Siblings, decode_row, end_of};
use crate::namespace::{CONFLICT_XATTR, Changes, Ino, Key, Node, Rows, StateError, Value};
use crate::store::{Group, Order, Page, Space, Volume, VolumeError, VolumeSnapshot};

/// The namespace's rows.
pub(super) const ROWS: Space = Space(1);
/// What of a row's value did not fit: `key | number of the part`.
pub(super) const PARTS: Space = Space(2);
/// Pieces of changed files: `file | offset`.
pub(super) const PIECES: Space = Space(3);
/// Sizes and times of changed files: `file`.
pub(super) const HEADS: Space = Space(4);
/// Contents that nothing names any more, until their blocks are let go: `number`.
pub(super) const DROPPED: Space = Space(5);
/// Blocks of this volume: how much of each is in use, and what keeps it: `block`.
pub(super) const BLOCKS: Space = Space(6);
/// Claims that are to be released: `number of the claim`.
pub(super) const RELEASES: Space = Space(7);
/// What this replica has to know of itself.
pub(super) const OWN: Space = Space(8);
/// Deltas that are to be sealed: `first dot | number of the part`.
pub(super) const OUTGOING: Space = Space(10);
/// Sealed deltas: `device | incarnation | first dot | number of the part`.
pub(super) const FEEDS: Space = Space(11);
/// The last link of each feed: `device | incarnation`.
pub(super) const FEED_HEADS: Space = Space(12);
/// What changed files were made from, where others changed the content since: `file`.
pub(super) const BASES: Space = Space(13);
/// Checkpoints that are kept, what they use of blocks, and contents that joins brought.
pub(super) const CHECKPOINTS: Space = Space(9);
/// Files that have the mark of a conflict copy: `file`.
pub(super) const CONFLICTS: Space = Space(14);

/// Proofs that feeds forked: `device | incarnation`.
pub(super) const FORKS: Space = Space(15);

/// Files and directories whose redundancy is set: `file`.
pub(super) const POLICIES: Space = Space(16);
/// Contents that are being stored anew: `file | number`.
pub(super) const RECODED: Space = Space(17);

/// How keys of files' own rows begin in [`ROWS`].
pub(super) const FILE_ROWS: &[u8] = &[2];
/// The row of [`OWN`] that says how many files there are.
pub(super) const FILES: &[u8] = b"shown";

/// The row of [`OWN`] that says that contents may be stored otherwise than they should be.
pub(super) const RECODE: &[u8] = b"recode";

/// A value that is here as a whole.
const WHOLE: u8 = 0;
/// The first part of a value; the others are in [`PARTS`].
const SPLIT: u8 = 1;
/// Bytes of a value in one part.
const PART_BYTES: usize = ROW_VALUE_MAX_BYTES - 1;

/// The rows of a namespace in its volume. To be used by whoever holds the lock of the core.
#[derive(Clone, Copy)]
pub(super) struct VolumeRows<'a> {
    pub(super) volume: &'a Volume,
    pub(super) cache: &'a RowCache,
}

pub(super) fn failed(error: &VolumeError) -> StateError {
    StateError {
        class: error.class(),
        message: error.to_string(),
    }
}

fn damaged(what: &str) -> StateError {
    StateError {
        class: Class::Corrupt,
        message: what.to_owned(),
    }
}

fn part_key(key: &[u8], number: u32) -> Vec<u8> {
    [key, &number.to_be_bytes()].concat()
}

/// Rows of a volume: as they are, or as they were at one moment.
pub(super) trait Source {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, VolumeError>;

    fn scan(
        &self,
        space: Space,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Page, VolumeError>;
}

impl Source for Volume {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, VolumeError> {
        Volume::get(self, space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Page, VolumeError> {
        Volume::scan(self, space, from, to, order, limit)
    }
}

impl Source for VolumeSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, VolumeError> {
        VolumeSnapshot::get(self, space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Page, VolumeError> {
        VolumeSnapshot::scan(self, space, from, to, order, limit)
    }
}

/// A value of which `value` is the first part.
fn whole(source: &impl Source, key: &[u8], mut value: Bytes) -> Result<Bytes, StateError> {
    let Some(tag) = value.first().copied() else {
        return Err(damaged("a row without a value"));
    };
    let first = value.split_off(1);
    if tag == WHOLE {
        return Ok(first);
    }
    let mut all = BytesMut::from(&*first);
    for number in 1.. {
        let part = source.get(PARTS, &part_key(key, number));
        let Some(part) = part.map_err(|error| failed(&error))? else {
            break;
        };
        let is_last = part.len() < PART_BYTES;
        all.extend_from_slice(&part);
        if is_last {
            break;
        }
    }
    Ok(all.freeze())
}

/// The value of a row of the namespace.
pub(super) fn read(source: &impl Source, key: &[u8]) -> Result<Option<Bytes>, StateError> {
    let found = source.get(ROWS, key).map_err(|error| failed(&error))?;
    found.map(|value| whole(source, key, value)).transpose()
}

/// The first `limit` rows of the namespace in `start..end`.
pub(super) fn read_all(
    source: &impl Source,
    start: &[u8],
    end: &[u8],
    limit: usize,
) -> Result<Pairs, StateError> {
    let mut found = Pairs::new();
    let mut from = Bound::Included(Bytes::copy_from_slice(start));
    while found.len() < limit {
        let wanted = (limit - found.len()).min(ROW_PAGE_MAX);
        let page = source.scan(
            ROWS,
            from.as_ref().map(|key| key.as_ref()),
            Bound::Excluded(end),
            Order::Ascending,
            wanted,
        );
        let page = page.map_err(|error| failed(&error))?;
        for (key, value) in page.rows {
            let value = whole(source, &key, value)?;
            found.push((key.to_vec(), value));
        }
        match page.next {
            Some(next) => from = Bound::Excluded(next),
            None => break,
        }
    }
    Ok(found)
}

impl Rows for VolumeRows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if let Some(known) = self.cache.row(key) {
            return Ok(known.bytes());
        }
        let value = read(self.volume, key)?;
        self.cache.read_row(key, value.clone());
        Ok(value)
    }

    fn siblings(&self, key: &Key) -> Result<Siblings, StateError> {
        let bytes = key.encode();
        let mut known = self.cache.row(&bytes);
        if known.is_none()
            && !matches!(key, Key::Entry(..))
            && let Some(prefix) = row_cache::prefix(&bytes)
        {
            // Whoever asks for one of a file's own rows asks for the others next.
            self.read_first(&prefix)?;
            known = self.cache.row(&bytes);
        }
        let found = match known {
            Some(Known::Row(row)) => return Ok(row),
            Some(known) => known.bytes(),
            None => read(self.volume, &bytes)?,
        };
        let Some(found) = found else {
            self.cache.read_row(&bytes, None);
            return Ok(Siblings::default());
        };
        let row = decode_row(key, &found)?;
        if let (Key::Attrs(ino), Some(Value::Attrs(attrs))) = (key, row.first().map(|s| &s.value))
            && attrs.node != Node::Directory
        {
            self.cache.has_nothing_in_it(*ino);
        }
        let cost = found.len();
        self.cache.decoded_row(bytes, Siblings::clone(&row), cost);
        Ok(row)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        read_all(self.volume, start, end, limit)
    }

    fn keys(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StateError> {
        if let Some(prefix) = row_cache::common_prefix(start, end) {
            if let Some(keys) = self.cache.keys(&prefix, start, end, limit) {
                return Ok(keys);
            }
            // No names in it, so it is asked for again.
            if start.len() <= prefix.len() + 1 {
                self.read_first(&prefix)?;
                if let Some(keys) = self.cache.keys(&prefix, start, end, limit) {
                    return Ok(keys);
                }
            }
        }
        let found = read_all(self.volume, start, end, limit)?;
        Ok(found.into_iter().map(|(key, _)| key).collect())
    }
}

impl VolumeRows<'_> {
    /// Reads the first rows that begin with a prefix, and remembers them.
    fn read_first(&self, prefix: &Prefix) -> Result<(), StateError> {
        let end = end_of(prefix);
        let mut found = read_all(self.volume, prefix, &end, FIRST_ROWS + 1)?;
        let is_all = found.len() <= FIRST_ROWS;
        found.truncate(FIRST_ROWS);
        self.cache.read_first(prefix, found, is_all);
        Ok(())
    }
}

/// All rows of a space whose keys begin with `prefix`, some at a time. Nothing is locked between: what comes or
/// goes meanwhile is seen or not. After an error there is nothing more.
pub(super) fn pages<'a>(
    volume: &'a Volume,
    space: Space,
    prefix: &'a [u8],
    size: usize,
) -> impl Iterator<Item = Result<Vec<(Bytes, Bytes)>, VolumeError>> + 'a {
    let mut from = Some(Bound::Included(Bytes::copy_from_slice(prefix)));
    std::iter::from_fn(move || {
        let at = from.take()?;
        let at = at.as_ref().map(|key| key.as_ref());
        let page = volume.scan(space, at, Bound::Unbounded, Order::Ascending, size);
        Some(page.map(|page| {
            let (mut rows, found) = (page.rows, page.next);
            let within = rows.partition_point(|(key, _)| key.starts_with(prefix));
            if within == rows.len() {
                from = found.map(Bound::Excluded);
            }
            rows.truncate(within);
            rows
        }))
    })
}

/// Adds changes of the namespace to a group.
pub(super) fn add_changes(
    volume: &Volume,
    group: &mut Group,
    changes: &Changes,
) -> Result<(), VolumeError> {
    for (key, value) in changes {
        if let Some(ino) = marked_file(key) {
            match value {
                Some(_) => group.put(CONFLICTS, &ino.0, &[]),
                None => group.remove(CONFLICTS, &ino.0),
            };
        }
        if let Some(ino) = policy_file(key) {
            match value {
                Some(_) => group.put(POLICIES, &ino.0, &[]),
                None => group.remove(POLICIES, &ino.0),
            };
            group.put(OWN, RECODE, &[]);
        }
        let is_split = value.as_ref().is_some_and(|value| value.len() > PART_BYTES);
        // Only extended attributes are ever that long, so only theirs may leave parts behind.
        if is_split || key.len() > 18 && key.first() == Some(&2) {
            remove_parts(volume, group, key)?;
        }
        let Some(value) = value else {
            group.remove(ROWS, key);
            continue;
        };
        let mut parts = value.chunks(PART_BYTES);
        let first = parts.next().unwrap_or_default();
        let tag = if is_split { SPLIT } else { WHOLE };
        group.put(ROWS, key, &[&[tag], first].concat());
        let mut number = 1;
        for part in parts {
            group.put(PARTS, &part_key(key, number), part);
            number += 1;
        }
        // The last part is known by being shorter, so it may have to be an empty one.
        if is_split && value.len() % PART_BYTES == 0 {
            group.put(PARTS, &part_key(key, number), &[]);
        }
    }
    Ok(())
}

/// The file of a row, if the row is the mark of a conflict copy.
pub(super) fn marked_file(key: &[u8]) -> Option<Ino> {
    // Most rows are told by their ends.
    if !key.ends_with(CONFLICT_XATTR) {
        return None;
    }
    match Key::decode(key) {
        Ok(Key::Xattr(ino, name)) if name.bytes() == CONFLICT_XATTR => Some(ino),
        _ => None,
    }
}

/// The file of a row, if the row says what redundancy it has.
pub(super) fn policy_file(key: &[u8]) -> Option<Ino> {
    if !key.ends_with(REDUNDANCY_XATTR) {
        return None;
    }
    match Key::decode(key) {
        Ok(Key::Xattr(ino, name)) if name.bytes() == REDUNDANCY_XATTR => Some(ino),
        _ => None,
    }
}

fn remove_parts(volume: &Volume, group: &mut Group, key: &[u8]) -> Result<(), VolumeError> {
    let before = volume.get(ROWS, key)?;
    if before.is_none_or(|value| value.first() != Some(&SPLIT)) {
        return Ok(());
    }
    for number in 1.. {
        let key = part_key(key, number);
        if volume.get(PARTS, &key)?.is_none() {
            break;
        }
        group.remove(PARTS, &key);
    }
    Ok(())
}
