//! Making a checkpoint: rows are read once, and pages that the previous one has are not stored again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::CheckpointError;
use super::page::{
    Cutter, Items, LEVELS_MAX, PageHash, PageRef, REF_BYTES, Tree, encode_pages, encode_rows,
};
use super::read::verify;
use crate::base::limits::{CHUNK_MAX_BYTES, PAGE_MAX_BYTES, PAGE_PLACE_MAX_BYTES};
use crate::namespace::{Rows, Shared, StateError};

/// Bytes of pages that are stored together: fits into one chunk, but for a page of one row that is longer alone.
pub const BATCH_BYTES: usize = CHUNK_MAX_BYTES - PAGE_MAX_BYTES;
/// Rows per reading.
const ROWS_PER_SCAN: usize = 512;
/// The first key that is not shared.
const END: &[u8] = &[0x80];

/// Where pages are stored.
pub trait PageSink {
    /// Why it failed.
    type Error: fmt::Display;

    /// Stores pages, in the order of their keys and of about 4 MiB together, and answers for each where it is: what is
    /// needed to fetch it, at most 256 bytes.
    ///
    /// # Errors
    /// If they cannot be stored.
    fn store(&mut self, pages: Vec<Bytes>) -> Result<Vec<Bytes>, Self::Error>;
}

/// The pages of a checkpoint that was made before: 200 bytes of memory for each.
#[derive(Debug, Default)]
pub struct Previous {
    /// Those with rows, in order.
    leaves: Vec<PageRef>,
    places: BTreeMap<PageHash, Bytes>,
}

impl Previous {
    /// Reads the pages above those with rows.
    ///
    /// # Errors
    /// If one cannot be fetched, or is not what it must be.
    pub fn load<E: fmt::Display>(
        tree: &Tree,
        fetch: &mut dyn FnMut(&PageRef) -> Result<Bytes, E>,
    ) -> Result<Previous, CheckpointError<E>> {
        let mut previous = Previous::default();
        let mut pages = vec![tree.top.clone()];
        for level in (1..=tree.level).rev() {
            let mut below = Vec::new();
            for page in pages {
                let bytes = fetch(&page).map_err(CheckpointError::Pages)?;
                if let Items::Pages(pages) = verify(&page, level, &bytes)? {
                    below.extend(pages);
                }
                previous.places.insert(page.hash, page.place);
            }
            pages = below;
        }
        let places = pages.iter().map(|page| (page.hash, page.place.clone()));
        previous.places.extend(places);
        previous.leaves = pages;
        Ok(previous)
    }

    /// Where a page is that was stored before.
    fn place(&self, hash: &PageHash) -> Option<&Bytes> {
        self.places.get(hash)
    }

    /// The page with rows that begins at a key, and the first key of the next one.
    fn leaf_at(&self, first: &[u8]) -> Option<(&PageRef, Option<&[u8]>)> {
        let at = self
            .leaves
            .binary_search_by(|leaf| leaf.first.as_slice().cmp(first))
            .ok()?;
        let next = self.leaves.get(at + 1).map(|leaf| leaf.first.as_slice());
        Some((self.leaves.get(at)?, next))
    }
}

/// What was made, and what it cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The pages; none if there are no rows.
    pub tree: Option<Tree>,
    /// Rows in them.
    pub rows: u64,
    /// Rows that were read.
    pub rows_read: u64,
    /// Pages, of all levels.
    pub pages: u64,
    /// Those that were stored.
    pub pages_stored: u64,
    /// Bytes that were stored.
    pub bytes_stored: u64,
}

/// Makes a checkpoint.
pub struct Builder<'a, S> {
    sink: &'a mut S,
    previous: &'a Previous,
    built: Built,
    /// Pages of the level being made; of those not stored yet the place is missing.
    made: Vec<PageRef>,
    batch: Vec<(usize, Bytes)>,
    batch_bytes: usize,
}

impl<'a, S: PageSink> Builder<'a, S> {
    /// One that stores in `sink` what `previous` does not have.
    pub fn new(sink: &'a mut S, previous: &'a Previous) -> Builder<'a, S> {
        Builder {
            sink,
            previous,
            built: Built::default(),
            made: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    /// Makes a checkpoint of rows, **which must not change meanwhile**: what is read with a row and without
    /// another that belongs to it would be taken for a removal by whoever merges it. If `changed` has the key of
    /// every shared row that may be another than in the previous checkpoint
    /// ([`shared_keys`](crate::namespace::drafts::shared_keys)), pages without any of them are not even read. The
    /// same rows always make the same pages.
    ///
    /// # Errors
    /// If rows cannot be read or pages not be stored.
    pub fn build(
        mut self,
        rows: &Shared<'_>,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Result<Built, CheckpointError<S::Error>> {
        self.cut_rows(rows, changed)?;
        let mut level = 0;
        while self.made.len() > 1 {
            level += 1;
            if level > LEVELS_MAX {
                return Err(CheckpointError::Misuse("a checkpoint of too many levels"));
            }
            self.cut_pages(level)?;
        }
        self.built.tree = self.made.pop().map(|top| Tree { level, top });
        self.built.rows = self.built.tree.as_ref().map_or(0, |tree| tree.top.rows);
        Ok(self.built)
    }

    fn cut_rows(
        &mut self,
        rows: &Shared<'_>,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Result<(), CheckpointError<S::Error>> {
        let mut cutter = Cutter::new(0);
        let mut page: Vec<(Vec<u8>, Bytes)> = Vec::new();
        let mut cursor = Cursor::new(rows);
        // Where a page may be skipped, the key that it begins with is enough.
        let limit = |is_begun: bool| match is_begun || changed.is_none() {
            true => ROWS_PER_SCAN,
            false => 1,
        };
        while let Some((key, value)) = cursor.peek(limit(!page.is_empty()))? {
            if page.is_empty()
                && let Some(changed) = changed
                && let Some((leaf, next)) = self.previous.leaf_at(key)
                && !touches(changed, key, next)
            {
                self.made.push(leaf.clone());
                self.built.pages += 1;
                match next {
                    Some(next) => cursor.seek(next.to_vec()),
                    None => break,
                }
                continue;
            }
            if cutter.is_full(key, value.len()) {
                self.end_page(&mut cutter, &mut page)?;
                continue;
            }
            let ends = cutter.push(key, value.len());
            page.extend(cursor.take());
            if ends {
                self.end_page(&mut cutter, &mut page)?;
            }
        }
        self.built.rows_read = cursor.read;
        if !page.is_empty() {
            self.end_page(&mut cutter, &mut page)?;
        }
        self.flush()
    }

    fn end_page(
        &mut self,
        cutter: &mut Cutter,
        page: &mut Vec<(Vec<u8>, Bytes)>,
    ) -> Result<(), CheckpointError<S::Error>> {
        cutter.end();
        let first = page.first().map(|(key, _)| key.clone());
        let count = page.len() as u64;
        let bytes = encode_rows(&std::mem::take(page));
        self.add(first.unwrap_or_default(), bytes, count)
    }

    fn cut_pages(&mut self, level: u8) -> Result<(), CheckpointError<S::Error>> {
        let mut cutter = Cutter::new(level);
        let mut page: Vec<PageRef> = Vec::new();
        let below = std::mem::take(&mut self.made);
        for item in below {
            if cutter.is_full(&item.first, REF_BYTES) {
                self.end_level(level, &mut cutter, &mut page)?;
            }
            let ends = cutter.push(&item.first, REF_BYTES);
            page.push(item);
            if ends {
                self.end_level(level, &mut cutter, &mut page)?;
            }
        }
        if !page.is_empty() {
            self.end_level(level, &mut cutter, &mut page)?;
        }
        self.flush()
    }

    fn end_level(
        &mut self,
        level: u8,
        cutter: &mut Cutter,
        page: &mut Vec<PageRef>,
    ) -> Result<(), CheckpointError<S::Error>> {
        cutter.end();
        let pages = std::mem::take(page);
        let first = pages.first().map(|page| page.first.clone());
        let rows = pages.iter().map(|page| page.rows).sum();
        let bytes = encode_pages(level, &pages);
        self.add(first.unwrap_or_default(), bytes, rows)
    }

    /// Adds a page to its level, and stores it unless it was.
    fn add(
        &mut self,
        first: Vec<u8>,
        bytes: Vec<u8>,
        rows: u64,
    ) -> Result<(), CheckpointError<S::Error>> {
        let hash = PageHash::of(&bytes);
        let known = self.previous.place(&hash).cloned();
        let is_known = known.is_some();
        self.built.pages += 1;
        self.made.push(PageRef {
            first,
            hash,
            len_bytes: bytes.len() as u32,
            rows,
            place: known.unwrap_or_default(),
        });
        if is_known {
            return Ok(());
        }
        self.built.pages_stored += 1;
        self.built.bytes_stored += bytes.len() as u64;
        if self.batch_bytes + bytes.len() > BATCH_BYTES {
            self.flush()?;
        }
        self.batch_bytes += bytes.len();
        self.batch.push((self.made.len() - 1, bytes.into()));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CheckpointError<S::Error>> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let (made, pages): (Vec<usize>, Vec<Bytes>) = batch.into_iter().unzip();
        let places = self.sink.store(pages).map_err(CheckpointError::Pages)?;
        if places.len() != made.len() {
            return Err(CheckpointError::Misuse("a place for each page"));
        }
        for (at, place) in made.into_iter().zip(places) {
            if place.len() > PAGE_PLACE_MAX_BYTES {
                return Err(CheckpointError::Misuse("a place of more than 256 bytes"));
            }
            if let Some(page) = self.made.get_mut(at) {
                page.place = place;
            }
        }
        Ok(())
    }
}

/// Whether a page that begins with `first` may be another one: a row in it changed, or the one after
/// it, for want of room before which it may have ended.
fn touches(changed: &BTreeSet<Vec<u8>>, first: &[u8], next: Option<&[u8]>) -> bool {
    let end = next.map_or(Bound::Unbounded, Bound::Included);
    let mut inside = changed.range::<[u8], _>((Bound::Included(first), end));
    inside.next().is_some()
}

/// Rows in order, read some at a time.
struct Cursor<'r, 's> {
    rows: &'r Shared<'s>,
    /// Where reading goes on; none at the end.
    at: Option<Vec<u8>>,
    next: VecDeque<(Vec<u8>, Bytes)>,
    read: u64,
}

impl<'r, 's> Cursor<'r, 's> {
    const fn new(rows: &'r Shared<'s>) -> Cursor<'r, 's> {
        Cursor {
            rows,
            at: Some(Vec::new()),
            next: VecDeque::new(),
            read: 0,
        }
    }

    /// The next row, if any; reads up to `limit` if it is not at hand.
    fn peek(&mut self, limit: usize) -> Result<Option<&(Vec<u8>, Bytes)>, StateError> {
        if self.next.is_empty()
            && let Some(at) = self.at.take()
        {
            let found = self.rows.scan(&at, END, limit)?;
            self.read += found.len() as u64;
            if found.len() == limit {
                self.at = found.last().map(|(key, _)| [key, [0].as_slice()].concat());
            }
            self.next = found.into();
        }
        Ok(self.next.front())
    }

    fn take(&mut self) -> Option<(Vec<u8>, Bytes)> {
        self.next.pop_front()
    }

    /// Goes on at a later key.
    fn seek(&mut self, key: Vec<u8>) {
        self.next.clear();
        self.at = Some(key);
    }
}
