//! Merging of a checkpoint: all rows that another replica shares, and what it had merged.
//!
//! A value stays if both have it, or if one has it and the other never merged its dot; what one of them
//! merged and no longer has was removed (Almeida, Shoker, Baquero, *Delta State Replicated Data Types*,
//! 2018, section 7). The result is the rows of a replica that merged all deltas of both.
//!
//! Changes come in pages of bounded size, since a checkpoint may be larger than anything that a database
//! changes at once. **Between pages the rows are a half state**: some show what the other replica did,
//! and others do not yet, so nobody must look at them or change them, and [`apply`](super::apply) and
//! [`Shared`](super::Shared) refuse to. There is no way without: to show nothing by halves all rows would
//! have to be written twice. A join that fits into one page shows none, and a volume that is being opened for
//! the first time has nobody who looks. A mounted one that has to merge a large checkpoint stands still for
//! so long.
//!
//! A join that was interrupted is begun again, with the same checkpoint or a later one. What it had
//! taken over is recognised.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::clock::Hlc;
use super::drafts;
use super::error::{FormatError, StateError};
use super::id::{Dot, Ino, Name, WriterId};
use super::index::{self, Touched};
use super::key::{self, Key};
use super::merge;
use super::row::{self, Sibling};
use super::state::{self, Changes, Pairs, Rows, Work};
use super::version::VersionVector;
use crate::base::wire;
use crate::base::{Class, Classify};

/// Own rows per reading.
const OWN_ROWS: usize = 256;
/// Bytes of changes that bringing one name or file up to date is counted as.
const SETTLE_BYTES: usize = 512;

/// Why a checkpoint was not merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError<E: fmt::Display> {
    /// Its rows could not be had.
    #[error("{0}")]
    Source(E),
    /// The own rows could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A row of the checkpoint is none.
    #[error("a row of a checkpoint: {0}")]
    Row(#[from] FormatError),
    /// Its rows are not in the order of their keys.
    #[error("rows of a checkpoint out of order")]
    Order,
    /// It has a value that by its own word it never merged.
    #[error("a checkpoint has {0:?}, which its version vector does not cover")]
    Uncovered(Dot),
    /// It has a value that was written later than anything that it says it has.
    #[error("a checkpoint has {0:?}, which was written after it")]
    Late(Dot),
    /// Both have a value of this dot, and not the same.
    #[error("two different values are {0:?}: its writer forked")]
    Forked(Dot),
    /// Another checkpoint was merged in part, and this one does not include it.
    #[error(
        "the merging of another checkpoint was interrupted; this one does not include that: merge it, or a later one"
    )]
    Unfinished,
}

impl<E: fmt::Display + Classify> Classify for JoinError<E> {
    fn class(&self) -> Class {
        match self {
            JoinError::Source(error) => error.class(),
            JoinError::State(error) => error.class,
            JoinError::Unfinished => Class::Denied,
            _ => Class::Corrupt,
        }
    }
}

/// Changes that a join makes, to be applied before it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// There is more to come.
    More(Changes),
    /// That was all: the checkpoint is merged.
    Last(Changes),
}

/// A checkpoint being merged.
pub struct Join<I: Iterator> {
    theirs: VersionVector,
    until: Hlc,
    ours: VersionVector,
    source: Source<I>,
    stage: Stage,
    /// Changes of rows that were not given out yet, and how many bytes they count as.
    made: (Changes, usize),
    /// Key of their last row.
    last: Option<Vec<u8>>,
    /// What has to be brought up to date, as far as it is not in rows yet.
    touched: Touched,
    /// Whether pages were given out that are not the last.
    is_paged: bool,
}

enum Stage {
    /// Own rows before the key are done.
    Rows(Vec<u8>),
    /// All rows are done; derived ones are left.
    Index,
    Done,
}

/// What is known of a join that is under way: what its checkpoint had merged, and whether directories
/// came to or left names.
type JoinWire = (Vec<(WriterId, u64)>, bool);

/// What a checkpoint that was merged in part had merged. None if no join is under way.
///
/// # Errors
/// If rows cannot be read.
pub fn unfinished(rows: &dyn Rows) -> Result<Option<VersionVector>, StateError> {
    Ok(under_way(rows)?.map(|(theirs, _)| theirs))
}

fn under_way(rows: &dyn Rows) -> Result<Option<(VersionVector, bool)>, StateError> {
    let Some((theirs, has_moved)) = state::local::<JoinWire>(rows, key::JOIN)? else {
        return Ok(None);
    };
    let theirs = VersionVector::from_sorted(theirs)
        .map_err(|why| StateError::corrupt("a join under way", why))?;
    Ok(Some((theirs, has_moved)))
}

/// Fails while a join is under way.
pub(super) fn refuse_unfinished(rows: &dyn Rows) -> Result<(), StateError> {
    match rows.get(key::JOIN)? {
        None => Ok(()),
        Some(_) => Err(StateError {
            class: Class::Retry,
            message:
                "the merging of a checkpoint is under way, or was interrupted: finish it first"
                    .to_owned(),
        }),
    }
}

/// Whether a row of a checkpoint is one that a [`Join`] takes, as far as it alone tells.
///
/// # Errors
/// [`JoinError::Row`], [`JoinError::Uncovered`], [`JoinError::Late`].
pub fn check_row<E: fmt::Display>(
    key: &[u8],
    value: &[u8],
    theirs: &VersionVector,
    until: Hlc,
) -> Result<(), JoinError<E>> {
    read(&Key::decode(key)?, value, theirs, until).map(drop)
}

/// Reads a row of theirs, of which nothing is believed.
fn read<E: fmt::Display>(
    key: &Key,
    value: &[u8],
    theirs: &VersionVector,
    until: Hlc,
) -> Result<Vec<Sibling>, JoinError<E>> {
    let row = row::decode(key, value)?;
    if row::encode(&row) != value {
        return Err(FormatError::from(wire::WireError::NotCanonical).into());
    }
    for sibling in &row {
        if sibling.dot.counter == 0 || !theirs.covers(&sibling.dot) {
            return Err(JoinError::Uncovered(sibling.dot));
        }
        if sibling.hlc > until {
            return Err(JoinError::Late(sibling.dot));
        }
    }
    Ok(row)
}

/// Their rows, looked at one ahead. Unlike a `Peekable` it does not remember that there were none.
struct Source<I: Iterator> {
    next: Option<I::Item>,
    source: I,
}

impl<I: Iterator> Source<I> {
    fn peek(&mut self) -> Option<&I::Item> {
        if self.next.is_none() {
            self.next = self.source.next();
        }
        self.next.as_ref()
    }

    fn take_if(&mut self, is_wanted: impl FnOnce(&I::Item) -> bool) -> Option<I::Item> {
        match self.peek().is_some_and(is_wanted) {
            true => self.next.take(),
            false => None,
        }
    }
}

impl<I, E> Join<I>
where
    I: Iterator<Item = Result<(Vec<u8>, Bytes), E>>,
    E: fmt::Display,
{
    /// A join of `rows` with the checkpoint of a replica that had merged `theirs`, whose rows `source`
    /// tells by ascending key. Reads none of them if there is nothing new in them. `until` is the latest moment of
    /// anything in it, by its own word, which was found to be due: nothing gets past the clock by a checkpoint.
    ///
    /// # Errors
    /// [`JoinError::State`], [`JoinError::Unfinished`].
    pub fn new(
        rows: &dyn Rows,
        theirs: VersionVector,
        until: Hlc,
        source: I,
    ) -> Result<Join<I>, JoinError<E>> {
        let ours = state::version(rows)?;
        let under_way = under_way(rows)?;
        if let Some((begun, _)) = &under_way
            && !theirs.includes(begun)
        {
            return Err(JoinError::Unfinished);
        }
        let touched = Touched {
            has_moved: under_way.as_ref().is_some_and(|(_, moved)| *moved),
            ..Touched::default()
        };
        Ok(Join {
            stage: match under_way.is_none() && ours.includes(&theirs) {
                true => Stage::Done,
                false => Stage::Rows(Vec::new()),
            },
            theirs,
            until,
            ours,
            source: Source { next: None, source },
            made: Default::default(),
            last: None,
            touched,
            is_paged: under_way.is_some(),
        })
    }

    /// The next changes, of about `limit_bytes`: beyond that by one row at most, and by what is derived
    /// from it. `rows` are those of the beginning with all changes so far. After an error the join is to be
    /// begun anew.
    ///
    /// # Errors
    /// Any but [`JoinError::Unfinished`].
    pub fn page(&mut self, rows: &dyn Rows, limit_bytes: usize) -> Result<Page, JoinError<E>> {
        let page = self.page_until(rows, limit_bytes, None)?;
        Ok(page.unwrap_or(Page::More(Changes::new())))
    }

    /// The same where the source does not have all rows yet, but all with keys before `until` (all, if none): it may
    /// have come to an end then, and have more when it is asked again. None if more rows are needed before there is
    /// a page; `rows` must be the same then when it goes on.
    ///
    /// # Errors
    /// As [`Join::page`].
    pub fn page_until(
        &mut self,
        rows: &dyn Rows,
        limit_bytes: usize,
        until: Option<&[u8]>,
    ) -> Result<Option<Page>, JoinError<E>> {
        let mut work = Work::new(rows);
        let (made, written) = std::mem::take(&mut self.made);
        work.go_on(made, written);
        let limit_bytes = limit_bytes.max(1);
        if let Stage::Rows(at) = &self.stage {
            let at = at.clone();
            match self.join_rows(&mut work, at, limit_bytes, until)? {
                Some(next) => {
                    self.stage = Stage::Rows(next);
                    if work.written() < limit_bytes {
                        let written = work.written();
                        self.made = (work.into_changes(), written);
                        return Ok(None);
                    }
                    self.put_off(&mut work);
                    return Ok(Some(Page::More(work.into_changes())));
                }
                None => self.stage = Stage::Index,
            }
        }
        if let Stage::Index = self.stage {
            if self.is_paged && work.written() > 0 {
                // What is left of this page's own goes the way of the others'; and before anything of it is there
                // the rows say which checkpoint it is from.
                self.put_off(&mut work);
                return Ok(Some(Page::More(work.into_changes())));
            }
            if !self.settle(&mut work, limit_bytes)? {
                return Ok(Some(Page::More(work.into_changes())));
            }
            let mut version = self.ours.clone();
            version.join(&self.theirs);
            work.put_version(&version);
            if self.is_paged {
                work.remove(key::JOIN.to_vec());
            }
            self.stage = Stage::Done;
        }
        Ok(Some(Page::Last(work.into_changes())))
    }

    /// Joins rows from the key `at` on, as far as the limit and the source allow; the key to go on at, if any is
    /// left.
    fn join_rows(
        &mut self,
        work: &mut Work<'_>,
        mut at: Vec<u8>,
        limit_bytes: usize,
        until: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, JoinError<E>> {
        let mut kept = BTreeSet::from_iter(drafts::keys(work)?);
        kept = kept.split_off(&at);
        loop {
            if until.is_some_and(|until| at.as_slice() >= until) {
                return Ok(Some(at));
            }
            let own = work.scan(&at, until.unwrap_or(&[key::LOCAL]), OWN_ROWS)?;
            // Up to which key the rows of both are known.
            let end = match own.len() {
                OWN_ROWS => own.last().map(|(key, _)| state::after(key)),
                _ => until.map(<[u8]>::to_vec),
            };
            let mut own = own.into_iter().peekable();
            while let Some(key) = self.least(&mut own, &kept, end.as_deref())? {
                if work.written() >= limit_bytes {
                    return Ok(Some(key));
                }
                let mine = own.next_if(|(own, _)| *own == key);
                let theirs = self.take(&key)?;
                let is_kept = kept.remove(&key);
                // Most rows are the same, to the byte.
                let is_same = theirs.is_some() && theirs.as_ref() == mine.as_ref().map(|(_, v)| v);
                if !is_same || is_kept {
                    self.join_row(work, &key, theirs.as_deref())?;
                }
            }
            match end {
                Some(end) => at = end,
                None => return Ok(None),
            }
        }
    }

    /// The least key before `end` that anybody has a row under.
    fn least(
        &mut self,
        own: &mut std::iter::Peekable<<Pairs as IntoIterator>::IntoIter>,
        kept: &BTreeSet<Vec<u8>>,
        end: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, JoinError<E>> {
        if let Some(Err(error)) = self.source.take_if(Result::is_err) {
            return Err(JoinError::Source(error));
        }
        let theirs = self.source.peek().and_then(|next| next.as_ref().ok());
        let all = [
            theirs.map(|(key, _)| key),
            own.peek().map(|(key, _)| key),
            kept.first(),
        ];
        let least = all.into_iter().flatten().min();
        let is_known = |key: &&Vec<u8>| end.is_none_or(|end| key.as_slice() < end);
        Ok(least.filter(is_known).cloned())
    }

    /// Their row under a key, if that is where they are.
    fn take(&mut self, key: &[u8]) -> Result<Option<Bytes>, JoinError<E>> {
        let is_here =
            |next: &Result<(Vec<u8>, Bytes), E>| next.as_ref().is_ok_and(|(their, _)| their == key);
        let Some(Ok((key, value))) = self.source.take_if(is_here) else {
            return Ok(None);
        };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(JoinError::Order);
        }
        self.last = Some(key);
        Ok(Some(value))
    }

    fn join_row(
        &mut self,
        work: &mut Work<'_>,
        bytes: &[u8],
        theirs: Option<&[u8]>,
    ) -> Result<(), JoinError<E>> {
        let key = Key::decode(bytes)?;
        let theirs = match theirs {
            Some(value) => read(&key, value, &self.theirs, self.until)?,
            None => Vec::new(),
        };
        if let Some(mut kept) = drafts::kept(work, &key)? {
            kept.row = self.joined(&key, &kept.row, &theirs)?;
            drafts::put(work, &key, &kept);
        }
        let before = work.siblings(&key)?;
        let after = self.joined(&key, &before, &theirs)?;
        Ok(merge::set_row(
            work,
            &mut self.touched,
            &key,
            &before,
            after,
        )?)
    }

    /// The values of both that neither removed. What drafts wrote is in no vector, and stays; so does everything in a
    /// row that only grows.
    fn joined(
        &self,
        key: &Key,
        ours: &[Sibling],
        theirs: &[Sibling],
    ) -> Result<Vec<Sibling>, JoinError<E>> {
        let find =
            |row: &[Sibling], dot| row.binary_search_by_key(&dot, |sibling| sibling.dot).ok();
        let mut after = Vec::new();
        for sibling in ours {
            match find(theirs, sibling.dot).and_then(|at| theirs.get(at)) {
                Some(same) if same != sibling => return Err(JoinError::Forked(sibling.dot)),
                None if self.theirs.covers(&sibling.dot) && !key.only_grows() => {}
                _ => after.push(sibling.clone()),
            }
        }
        for sibling in theirs {
            let is_new = key.only_grows() || !self.ours.covers(&sibling.dot);
            if find(ours, sibling.dot).is_none() && is_new {
                after.push(sibling.clone());
            }
        }
        after.sort_by_key(|sibling| sibling.dot);
        Ok(after)
    }

    /// Keeps in rows what has still to be brought up to date, and that a join is under way.
    fn put_off(&mut self, work: &mut Work<'_>) {
        self.is_paged = true;
        for (dir, name) in std::mem::take(&mut self.touched.names) {
            work.put(key::joined_name(dir, &name), Vec::new());
        }
        for (what, files) in [
            (key::JOINED_FILE, std::mem::take(&mut self.touched.files)),
            (key::JOINED_OTHER, std::mem::take(&mut self.touched.others)),
        ] {
            for ino in files {
                work.put(key::joined_file(ino, what), Vec::new());
            }
        }
        let theirs = self.theirs.iter().map(|(writer, seen)| (*writer, seen));
        let wire: JoinWire = (theirs.collect(), self.touched.has_moved);
        work.put(key::JOIN.to_vec(), wire::encode(&wire));
    }

    /// Brings derived rows up to date, all rows being there. Whether that was all.
    fn settle(&mut self, work: &mut Work<'_>, limit_bytes: usize) -> Result<bool, JoinError<E>> {
        if !self.is_paged {
            index::update(work, std::mem::take(&mut self.touched))?;
            return Ok(true);
        }
        let limit = (limit_bytes / SETTLE_BYTES).max(1);
        let found = state::keys_below(work, key::JOINED, limit)?;
        let mut touched = Touched {
            has_moved: self.touched.has_moved,
            ..Touched::default()
        };
        for key in &found {
            put_back(&mut touched, key)?;
            work.remove(key.clone());
        }
        index::update(work, touched)?;
        Ok(found.len() < limit)
    }
}

/// Reads what [`Join::put_off`] kept.
fn put_back(touched: &mut Touched, key: &[u8]) -> Result<(), StateError> {
    let ino: Ino = key::ino_at(key, 1);
    match key::tail(key, 17) {
        [key::JOINED_NAME, name @ ..] => {
            let name = Name::new(name).map_err(|why| StateError::corrupt("a derived row", why))?;
            touched.names.insert((ino, name));
        }
        [key::JOINED_FILE] => {
            touched.files.insert(ino);
        }
        [key::JOINED_OTHER] => {
            touched.others.insert(ino);
        }
        _ => return Err(StateError::corrupt("a derived row", "an unknown key")),
    }
    Ok(())
}
