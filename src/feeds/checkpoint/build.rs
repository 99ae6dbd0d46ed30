//! Making a checkpoint: rows are read once, and pages that the previous one has are not stored again.
//!
//! [`Making`] does it in steps, so that pages can be stored by whoever waits for that, several batches at a
//! time, while nothing waits here. [`Builder`] is the same for a store that answers at once.

use std::borrow::Borrow;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::CheckpointError;
use super::page::{
    Cutter, LEVELS_MAX, PageHash, PageRef, REF_BYTES, Tree, encode_pages, encode_rows,
};
pub use super::previous::{Loading, Previous};
use crate::base::limits::{CHUNK_MAX_BYTES, PAGE_MAX_BYTES, PAGE_PLACE_MAX_BYTES};
use crate::namespace::{Rows, Shared, StateError};

/// Bytes of pages that are stored together: fits into one chunk, but for a page of one row that is longer alone.
pub const BATCH_BYTES: usize = CHUNK_MAX_BYTES - PAGE_MAX_BYTES;
/// Rows per reading.
const ROWS_PER_SCAN: usize = 512;
/// Rows after which a step ends, so that others have a turn.
const ROWS_PER_STEP: u64 = 16 << 10;
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

/// Makes a checkpoint in a store that answers at once.
pub struct Builder<'a, S> {
    sink: &'a mut S,
    previous: &'a Previous,
}

impl<'a, S: PageSink> Builder<'a, S> {
    /// One that stores in `sink` what `previous` does not have.
    pub fn new(sink: &'a mut S, previous: &'a Previous) -> Builder<'a, S> {
        Builder { sink, previous }
    }

    /// Makes a checkpoint of rows, as [`Making::step`] has it.
    ///
    /// # Errors
    /// If rows cannot be read or pages not be stored.
    pub fn build(
        self,
        rows: &Shared<'_>,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Result<Built, CheckpointError<S::Error>> {
        let mut making = Making::new(self.previous);
        loop {
            match making.step(rows, changed)? {
                Step::Store(mut batch) => {
                    let stored = self.sink.store(batch.take_pages());
                    making.placed(batch, stored.map_err(CheckpointError::Pages)?)?;
                }
                Step::More => {}
                Step::Wait => return Err(CheckpointError::Misuse("a batch that nobody stored")),
                Step::Done(built) => return Ok(built),
            }
        }
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Pages are to be stored; the next step need not wait for that.
    Store(Batch),
    /// The step has taken long enough; there are more.
    More,
    /// Batches that were given out have to be [placed](Making::placed) first.
    Wait,
    /// That was all.
    Done(Built),
}

/// Pages to be stored together: about 4 MiB, in the order of their keys.
#[derive(Debug)]
pub struct Batch {
    pages: Vec<Bytes>,
    /// Which they are of their level.
    at: Vec<usize>,
}

impl Batch {
    /// The pages; none when they were taken before.
    pub fn take_pages(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.pages)
    }
}

/// A checkpoint being made.
pub struct Making<P> {
    previous: P,
    built: Built,
    /// Of the pages being made.
    level: u8,
    cutter: Cutter,
    cursor: Cursor,
    /// Rows of the page being made.
    page: Vec<(Vec<u8>, Bytes)>,
    /// Whether all rows are in pages.
    has_rows: bool,
    /// Pages of the level being made; of those not stored yet the place is missing.
    made: Vec<PageRef>,
    /// The batch that is being gathered.
    batch: Vec<(usize, Bytes)>,
    batch_bytes: usize,
    ready: VecDeque<Batch>,
    /// Batches that were given out and not placed yet.
    waiting: usize,
    /// Places and lengths of pages that were there.
    reused: Vec<(Bytes, u32)>,
}

impl<P: Borrow<Previous>> Making<P> {
    /// One that gives out what `previous` does not have.
    pub fn new(previous: P) -> Making<P> {
        Making {
            previous,
            built: Built::default(),
            level: 0,
            cutter: Cutter::new(0),
            cursor: Cursor::default(),
            page: Vec::new(),
            has_rows: false,
            made: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            ready: VecDeque::new(),
            waiting: 0,
            reused: Vec::new(),
        }
    }

    /// Goes on making a checkpoint of rows, **which must not change between the steps**: what is read with a row
    /// and without another that belongs to it would be taken for a removal by whoever merges it. If `changed` has
    /// the key of every shared row that may be another than in the previous checkpoint
    /// ([`shared_keys`](crate::namespace::drafts::shared_keys)), pages without any of them are not even read. The
    /// same rows always make the same pages.
    ///
    /// # Errors
    /// If rows cannot be read; it is to be given up then.
    pub fn step<E: fmt::Display>(
        &mut self,
        rows: &Shared<'_>,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Result<Step, CheckpointError<E>> {
        let enough = self.cursor.read + ROWS_PER_STEP;
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.waiting += 1;
                return Ok(Step::Store(batch));
            }
            if !self.has_rows {
                if self.cursor.read >= enough {
                    return Ok(Step::More);
                }
                self.cut_row(rows, changed)?;
                continue;
            }
            if self.waiting > 0 {
                return Ok(Step::Wait);
            }
            if self.made.len() <= 1 {
                break;
            }
            self.level += 1;
            if self.level > LEVELS_MAX {
                return Err(CheckpointError::Misuse("a checkpoint of too many levels"));
            }
            self.cut_pages();
        }
        let level = self.level;
        self.built.tree = self.made.pop().map(|top| Tree { level, top });
        self.built.rows = self.built.tree.as_ref().map_or(0, |tree| tree.top.rows);
        self.built.rows_read = self.cursor.read;
        Ok(Step::Done(self.built.clone()))
    }

    /// The pages of a batch were stored, each at its place.
    ///
    /// # Errors
    /// [`CheckpointError::Misuse`].
    pub fn placed<E: fmt::Display>(
        &mut self,
        batch: Batch,
        places: Vec<Bytes>,
    ) -> Result<(), CheckpointError<E>> {
        if places.len() != batch.at.len() {
            return Err(CheckpointError::Misuse("a place for each page"));
        }
        for (at, place) in batch.at.into_iter().zip(places) {
            if place.len() > PAGE_PLACE_MAX_BYTES {
                return Err(CheckpointError::Misuse("a place of more than 256 bytes"));
            }
            if let Some(page) = self.made.get_mut(at) {
                page.place = place;
            }
        }
        self.waiting = self.waiting.saturating_sub(1);
        Ok(())
    }

    /// Places and lengths of the pages in it that were stored before; none twice.
    pub fn reused(&self) -> &[(Bytes, u32)] {
        &self.reused
    }

    /// Takes the next row, or passes over the next page.
    fn cut_row(
        &mut self,
        rows: &Shared<'_>,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Result<(), StateError> {
        // Where a page may be skipped, the key that it begins with is enough.
        let limit = match !self.page.is_empty() || changed.is_none() {
            true => ROWS_PER_SCAN,
            false => 1,
        };
        let Some((key, value)) = self.cursor.peek(rows, limit)? else {
            self.end_rows();
            return Ok(());
        };
        if self.page.is_empty()
            && let Some(changed) = changed
            && let Some((leaf, next)) = self.previous.borrow().leaf_at(key)
            && !touches(changed, key, next)
        {
            let (leaf, next) = (leaf.clone(), next.map(<[u8]>::to_vec));
            self.reused.push((leaf.place.clone(), leaf.len_bytes));
            self.made.push(leaf);
            self.built.pages += 1;
            match next {
                Some(next) => self.cursor.seek(next),
                None => self.end_rows(),
            }
            return Ok(());
        }
        if self.cutter.is_full(key, value.len()) {
            self.end_page();
            return Ok(());
        }
        let ends = self.cutter.push(key, value.len());
        self.page.extend(self.cursor.take());
        if ends {
            self.end_page();
        }
        Ok(())
    }

    fn end_rows(&mut self) {
        if !self.page.is_empty() {
            self.end_page();
        }
        self.flush();
        self.has_rows = true;
    }

    fn end_page(&mut self) {
        self.cutter.end();
        let page = std::mem::take(&mut self.page);
        let first = page.first().map(|(key, _)| key.clone());
        self.add(
            first.unwrap_or_default(),
            encode_rows(&page),
            page.len() as u64,
        );
    }

    fn cut_pages(&mut self) {
        let mut cutter = Cutter::new(self.level);
        let mut page: Vec<PageRef> = Vec::new();
        for item in std::mem::take(&mut self.made) {
            if cutter.is_full(&item.first, REF_BYTES) {
                self.end_level(&mut cutter, &mut page);
            }
            let ends = cutter.push(&item.first, REF_BYTES);
            page.push(item);
            if ends {
                self.end_level(&mut cutter, &mut page);
            }
        }
        if !page.is_empty() {
            self.end_level(&mut cutter, &mut page);
        }
        self.flush();
    }

    fn end_level(&mut self, cutter: &mut Cutter, page: &mut Vec<PageRef>) {
        cutter.end();
        let pages = std::mem::take(page);
        let first = pages.first().map(|page| page.first.clone());
        let rows = pages.iter().map(|page| page.rows).sum();
        let bytes = encode_pages(self.level, &pages);
        self.add(first.unwrap_or_default(), bytes, rows);
    }

    /// Adds a page to its level, and to the batch unless it was stored before.
    fn add(&mut self, first: Vec<u8>, bytes: Vec<u8>, rows: u64) {
        let hash = PageHash::of(&bytes);
        let known = self.previous.borrow().place(&hash).cloned();
        let len_bytes = bytes.len() as u32;
        self.built.pages += 1;
        self.made.push(PageRef {
            first,
            hash,
            len_bytes,
            rows,
            place: known.clone().unwrap_or_default(),
        });
        if let Some(place) = known {
            self.reused.push((place, len_bytes));
            return;
        }
        self.built.pages_stored += 1;
        self.built.bytes_stored += bytes.len() as u64;
        if self.batch_bytes + bytes.len() > BATCH_BYTES {
            self.flush();
        }
        self.batch_bytes += bytes.len();
        self.batch.push((self.made.len() - 1, bytes.into()));
    }

    fn flush(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            let (at, pages) = batch.into_iter().unzip();
            self.ready.push_back(Batch { pages, at });
        }
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
struct Cursor {
    /// Where reading goes on; none at the end.
    at: Option<Vec<u8>>,
    next: VecDeque<(Vec<u8>, Bytes)>,
    read: u64,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            at: Some(Vec::new()),
            next: VecDeque::new(),
            read: 0,
        }
    }
}

impl Cursor {
    /// The next row, if any; reads up to `limit` if it is not at hand.
    fn peek(
        &mut self,
        rows: &Shared<'_>,
        limit: usize,
    ) -> Result<Option<&(Vec<u8>, Bytes)>, StateError> {
        if self.next.is_empty()
            && let Some(at) = self.at.take()
        {
            let found = rows.scan(&at, END, limit)?;
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
