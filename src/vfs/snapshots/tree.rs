//! Looking into snapshots: their rows, found through the trees of their pages. What a look needs of pages that are not
//! at hand is written down, they are fetched, and the look is begun again: so nothing waits in the middle of one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{SnapshotError, SnapshotRecord};
use crate::base::limits::SNAPSHOT_PAGES_MAX_BYTES;
use crate::base::{Class, Lru};
use crate::feeds::checkpoint::page::Items;
use crate::feeds::checkpoint::read::verify;
use crate::feeds::checkpoint::{CheckpointError, PageHash, PageRef, SnapshotRoot, Tree};
use crate::namespace::key::DERIVED;
use crate::namespace::state::Pairs;
use crate::namespace::{Rows, SnapshotId, StateError, View};
use crate::vfs::PagePlace;
use crate::vfs::checkpoint::{CheckpointFailure, PageError, SnapshotRows, scan_tree};
use crate::vfs::inner::Inner;

/// How often one look is begun again: each time brings it one page further at least.
const TRIES_MAX: usize = 4096;
/// Bytes of pages that one look may need.
const LOOK_MAX_BYTES: usize = 64 << 20;
/// The bit that keys of derived rows have in the map, and not in their tree.
const BIT: u8 = 0x80;
/// What a row takes in memory beside its bytes.
const ROW_COST: usize = 96;

/// A snapshot whose root is here.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) root: SnapshotRoot,
}

/// Snapshots that are being looked into, and their pages.
#[derive(Debug)]
pub(super) struct Reading {
    pages: Mutex<Lru<PageHash, Arc<Items>>>,
    opened: Mutex<BTreeMap<SnapshotId, Arc<Opened>>>,
    /// Whether anybody looked since it was asked last.
    pub(super) used: AtomicBool,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading {
            pages: Mutex::new(Lru::new(SNAPSHOT_PAGES_MAX_BYTES)),
            opened: Mutex::default(),
            used: AtomicBool::new(false),
        }
    }
}

impl Reading {
    fn pages(&self) -> MutexGuard<'_, Lru<PageHash, Arc<Items>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Arc<Opened>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is kept no longer.
    pub(super) fn forget(&self, id: SnapshotId) {
        self.opened().remove(&id);
    }

    /// Only these are kept.
    pub(super) fn keep_only(&self, kept: &BTreeSet<SnapshotId>) {
        self.opened().retain(|id, _| kept.contains(id));
    }

    /// Nobody has looked for a while: memory is given back.
    pub(super) fn forget_all(&self) {
        *self.pages() = Lru::new(SNAPSHOT_PAGES_MAX_BYTES);
        self.opened().clear();
    }
}

/// Pages that a look fetched.
#[derive(Default)]
struct Fetched {
    pages: BTreeMap<PageHash, Arc<Items>>,
    bytes: usize,
}

/// Rows of a snapshot as far as they are at hand; what is missing is written down.
struct Faults<'a> {
    reading: &'a Reading,
    root: &'a SnapshotRoot,
    fetched: &'a Fetched,
    missing: RefCell<BTreeMap<PageHash, (u8, PageRef)>>,
}

/// The derived rows of a volume, as they stand in the tree of a snapshot.
#[derive(Debug, Clone)]
pub(super) struct DerivedRows(pub(super) SnapshotRows);

/// A bound of keys of the map as one of the tree of derived rows, which has only a part of them.
fn bound(key: &[u8]) -> Vec<u8> {
    match key.first() {
        Some(first) if *first >= DERIVED.end => vec![DERIVED.end - BIT],
        Some(first) if *first >= DERIVED.start => with_first(key, first - BIT),
        _ => vec![DERIVED.start - BIT],
    }
}

fn with_first(key: &[u8], first: u8) -> Vec<u8> {
    let rest = key.get(1..).unwrap_or_default();
    [&[first], rest].concat()
}

/// A key of the tree of derived rows as it is in the map.
fn in_map(key: &[u8]) -> Vec<u8> {
    with_first(key, key.first().map_or(BIT, |first| first | BIT))
}

impl Rows for DerivedRows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match key.first() {
            Some(first) if *first >= BIT => Ok(None),
            _ => self.0.get(&in_map(key)),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        let (start, end) = (bound(&in_map(start)), bound(&in_map_end(end)));
        if start >= end {
            return Ok(Pairs::new());
        }
        let found = self.0.scan(&in_map(&start), &in_map(&end), limit)?;
        let pairs = found.into_iter().map(|(key, value)| {
            let first = key.first().map_or(0, |first| first & !BIT);
            (with_first(&key, first), value)
        });
        Ok(pairs.collect())
    }
}

/// The end of a range of keys of the tree: whatever is beyond them is beyond those of the map.
fn in_map_end(key: &[u8]) -> Vec<u8> {
    match key.first() {
        Some(first) if *first >= BIT => vec![DERIVED.end],
        _ => in_map(key),
    }
}

fn missing() -> StateError {
    StateError {
        class: Class::Retry,
        message: "a page of a snapshot is not here yet".to_owned(),
    }
}

impl Faults<'_> {
    fn items(&self, level: u8, page: &PageRef) -> Result<Arc<Items>, StateError> {
        if let Some(items) = self.fetched.pages.get(&page.hash) {
            return Ok(Arc::clone(items));
        }
        if let Some(items) = self.reading.pages().get(&page.hash) {
            return Ok(Arc::clone(items));
        }
        let mut missed = self.missing.borrow_mut();
        missed.insert(page.hash, (level, page.clone()));
        Err(missing())
    }

    fn in_tree(
        &self,
        tree: Option<&Tree>,
        range: (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Pairs, StateError> {
        let items = |level, page: &PageRef| self.items(level, page);
        scan_tree(tree, &items, range, limit)
    }
}

impl Rows for Faults<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.scan(key, &[key, &[0]].concat(), 1)?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        let shared_end = end.min(&[BIT]);
        let mut found = self.in_tree(self.root.rows.as_ref(), (start, shared_end), limit)?;
        if end > shared_end {
            let left = limit.saturating_sub(found.len());
            let (start, end) = (bound(start), bound(end));
            let derived = self.in_tree(self.root.derived.as_ref(), (&start, &end), left)?;
            found.extend(
                derived
                    .into_iter()
                    .map(|(key, value)| (in_map(&key), value)),
            );
        }
        Ok(found)
    }
}

/// What a page takes in memory, about.
fn cost(items: &Items, bytes: usize) -> usize {
    let count = match items {
        Items::Rows(rows) => rows.len(),
        Items::Pages(pages) => pages.len(),
    };
    bytes + count * ROW_COST
}

impl Inner {
    /// The root of a snapshot, checked.
    pub(in crate::vfs) async fn fetch_snapshot_root(
        &self,
        record: &SnapshotRecord,
    ) -> Result<SnapshotRoot, SnapshotError> {
        let place = PagePlace::decode(&record.place).ok_or(PageError::Place);
        let place = place.map_err(CheckpointFailure::from)?;
        let bytes = self.fetch_place(&place).await;
        let bytes = bytes.map_err(CheckpointFailure::from)?;
        if PageHash::of(&bytes) != record.root {
            return Err(SnapshotError::Damaged("its root is another one"));
        }
        let root = SnapshotRoot::decode(&bytes).map_err(CheckpointFailure::from)?;
        match root.volume == self.identity.id {
            true => Ok(root),
            false => Err(SnapshotError::Damaged("it is of another volume")),
        }
    }

    /// A snapshot that is kept, to be looked into.
    pub(super) async fn open_snapshot(
        self: &Arc<Self>,
        id: SnapshotId,
    ) -> Result<Arc<Opened>, SnapshotError> {
        let reading = &self.snapshots.reading;
        if let Some(opened) = reading.opened().get(&id) {
            return Ok(Arc::clone(opened));
        }
        let inner = Arc::clone(self);
        let disk = &self.blocks.pools().disk;
        let records = disk.run(move || inner.records()).await?;
        let record = records.into_iter().find(|(known, _)| *known == id);
        let (_, record) = record.ok_or_else(|| SnapshotError::Unknown(format!("{id:?}")))?;
        let root = self.fetch_snapshot_root(&record).await?;
        let opened = Arc::new(Opened { root });
        let mut all = reading.opened();
        Ok(Arc::clone(all.entry(id).or_insert(opened)))
    }

    /// Looks at the tree of a snapshot. `look` is called again after pages that it needed were fetched: it should read
    /// little at a time, and goes on where it can after it missed one, so that several are fetched at once.
    pub(super) async fn look_into<T>(
        &self,
        opened: &Opened,
        look: impl Fn(&View<'_>) -> Result<T, StateError> + Send + Sync,
    ) -> Result<T, SnapshotError> {
        self.snapshots.reading.used.store(true, Ordering::Relaxed);
        let mut fetched = Fetched::default();
        for _ in 0..TRIES_MAX {
            let missing = {
                let rows = Faults {
                    reading: &self.snapshots.reading,
                    root: &opened.root,
                    fetched: &fetched,
                    missing: RefCell::default(),
                };
                let looked = View::new(&rows).and_then(|view| look(&view));
                let missing = rows.missing.into_inner();
                if missing.is_empty() {
                    return Ok(looked?);
                }
                missing
            };
            if fetched.bytes > LOOK_MAX_BYTES {
                break;
            }
            self.fetch_missing(missing, &mut fetched).await?;
        }
        let message = "too many pages of a snapshot for one look".to_owned();
        let class = Class::Denied;
        Err(StateError { class, message }.into())
    }

    async fn fetch_missing(
        &self,
        missing: BTreeMap<PageHash, (u8, PageRef)>,
        fetched: &mut Fetched,
    ) -> Result<(), SnapshotError> {
        let wanted: Vec<PageRef> = missing.values().map(|(_, page)| page.clone()).collect();
        let bytes = self.fetch_pages(&wanted).await;
        let bytes = bytes.map_err(CheckpointFailure::from)?;
        let check = move || -> Result<Vec<(PageHash, Items, usize)>, CheckpointError<PageError>> {
            let pages = missing.into_values().zip(bytes);
            let read = pages.map(|((level, page), bytes)| {
                let items = verify::<PageError>(&page, level, &bytes)?;
                let cost = cost(&items, bytes.len());
                Ok((page.hash, items, cost))
            });
            read.collect()
        };
        let checked = self.blocks.pools().cpu.run(check).await;
        for (hash, items, cost) in checked.map_err(CheckpointFailure::from)? {
            let items = Arc::new(items);
            let mut pages = self.snapshots.reading.pages();
            pages.insert(hash, Arc::clone(&items), cost);
            drop(pages);
            fetched.bytes += cost;
            fetched.pages.insert(hash, items);
        }
        Ok(())
    }
}

/// Whether a look only missed a page.
pub(super) fn is_missing(error: &StateError) -> bool {
    error.class == Class::Retry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_derived_rows_stay_within_their_tree() {
        assert_eq!(bound(&[]), [1]);
        assert_eq!(bound(&[2, 7]), [1]);
        assert_eq!(bound(&[0x80]), [1]);
        assert_eq!(bound(&[0x81, 7]), [1, 7]);
        assert_eq!(bound(&[0x88, 7]), [8, 7]);
        assert_eq!(bound(&[0x89, 7]), [9]);
        assert_eq!(bound(&[0xff]), [9]);
        assert_eq!(in_map(&[1, 7]), [0x81, 7]);
        assert_eq!(in_map_end(&[0x80]), [0x89]);
        assert_eq!(in_map_end(&[3]), [0x83]);
    }
}
