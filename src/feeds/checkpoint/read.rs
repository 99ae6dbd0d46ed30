//! Reading a checkpoint: pages are asked for one by one, and nothing of a page is given out before all of
//! it was checked.

use std::fmt;

use bytes::Bytes;

use super::page::{Items, PageHash, PageRef, Tree, decode};
use super::{CheckpointError, PageFault};

/// A page that is still to be read.
#[derive(Clone, Debug)]
struct Pending {
    level: u8,
    page: PageRef,
    /// Its keys are before this one.
    end: Option<Vec<u8>>,
}

/// A way through the pages of a checkpoint, in the order of their keys. It asks for pages and is given
/// their bytes, by whatever means.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The next last.
    waiting: Vec<Pending>,
    named: u64,
    found: u64,
}

/// What a page had in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walked {
    /// Rows, the next in order.
    Rows(Vec<(Vec<u8>, Bytes)>),
    /// Pages, which will be asked for.
    Pages,
}

/// Checks the bytes of a page of a level against its reference, as far as that alone tells.
///
/// # Errors
/// [`CheckpointError::Damaged`], [`CheckpointError::Page`].
pub fn verify<E: fmt::Display>(
    page: &PageRef,
    level: u8,
    bytes: &[u8],
) -> Result<Items, CheckpointError<E>> {
    if bytes.len() != page.len_bytes as usize || PageHash::of(bytes) != page.hash {
        return Err(CheckpointError::Damaged(page.hash));
    }
    let fault = |why: PageFault| CheckpointError::Page {
        hash: page.hash,
        why,
    };
    let items = decode(level, bytes).map_err(fault)?;
    let (first, rows) = match &items {
        Items::Rows(rows) => (rows.first().map(|(key, _)| key), Some(rows.len() as u64)),
        Items::Pages(pages) => {
            let mut counts = pages.iter().map(|page| page.rows);
            let sum = counts.try_fold(0, u64::checked_add);
            (pages.first().map(|page| &page.first), sum)
        }
    };
    if first != Some(&page.first) || rows != Some(page.rows) {
        return Err(fault("it is not what the page above names".into()));
    }
    Ok(items)
}

impl Walk {
    /// Through all of a tree, which has `rows` rows by its root.
    pub fn new(tree: Option<&Tree>, rows: u64) -> Walk {
        let top = tree.map(|tree| Pending {
            level: tree.level,
            page: tree.top.clone(),
            end: None,
        });
        Walk {
            waiting: top.into_iter().collect(),
            named: rows,
            found: 0,
        }
    }

    /// The page that it needs now; none when all was read.
    pub fn wanted(&self) -> Option<&PageRef> {
        self.waiting.last().map(|next| &next.page)
    }

    /// The pages that it will need next, as far as they are known, at most `count`.
    pub fn ahead(&self, count: usize) -> impl Iterator<Item = &PageRef> {
        self.waiting.iter().rev().take(count).map(|next| &next.page)
    }

    /// Takes the bytes of the page that was [wanted](Walk::wanted).
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`], with which the page can be fetched elsewhere and given again;
    /// [`CheckpointError::Page`], [`CheckpointError::Count`].
    pub fn supply<E: fmt::Display>(&mut self, bytes: &[u8]) -> Result<Walked, CheckpointError<E>> {
        let Some(next) = self.waiting.last() else {
            return Err(CheckpointError::Misuse("a page that nobody wanted"));
        };
        let items = verify(&next.page, next.level, bytes)?;
        let last = match &items {
            Items::Rows(rows) => rows.last().map(|(key, _)| key),
            Items::Pages(pages) => pages.last().map(|page| &page.first),
        };
        if let (Some(last), Some(end)) = (last, &next.end)
            && last >= end
        {
            return Err(CheckpointError::Page {
                hash: next.page.hash,
                why: "it has keys of the page after it".into(),
            });
        }
        let (level, mut end) = (next.level, next.end.clone());
        self.waiting.pop();
        let walked = match items {
            Items::Rows(rows) => {
                self.found += rows.len() as u64;
                Walked::Rows(rows)
            }
            Items::Pages(pages) => {
                for page in pages.into_iter().rev() {
                    let first = page.first.clone();
                    self.waiting.push(Pending {
                        level: level - 1,
                        page,
                        end: end.replace(first),
                    });
                }
                Walked::Pages
            }
        };
        if self.waiting.is_empty() && self.found != self.named {
            return Err(CheckpointError::Count {
                found: self.found,
                named: self.named,
            });
        }
        Ok(walked)
    }
}

/// All rows of a checkpoint, fetched page by page as they are needed. After an error it goes no further.
pub fn rows<E, F>(tree: Option<&Tree>, rows: u64, fetch: F) -> RowsOf<F>
where
    E: fmt::Display,
    F: FnMut(&PageRef) -> Result<Bytes, E>,
{
    RowsOf {
        walk: Some(Walk::new(tree, rows)),
        page: Vec::new().into_iter(),
        fetch,
    }
}

/// See [`rows`].
pub struct RowsOf<F> {
    walk: Option<Walk>,
    page: std::vec::IntoIter<(Vec<u8>, Bytes)>,
    fetch: F,
}

impl<E, F> Iterator for RowsOf<F>
where
    E: fmt::Display,
    F: FnMut(&PageRef) -> Result<Bytes, E>,
{
    type Item = Result<(Vec<u8>, Bytes), CheckpointError<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.page.next() {
                return Some(Ok(row));
            }
            let walk = self.walk.as_mut()?;
            let wanted = walk.wanted()?;
            let bytes = (self.fetch)(wanted).map_err(CheckpointError::Pages);
            match bytes.and_then(|bytes| walk.supply(&bytes)) {
                Ok(Walked::Rows(rows)) => self.page = rows.into_iter(),
                Ok(Walked::Pages) => {}
                Err(error) => {
                    self.walk = None;
                    return Some(Err(error));
                }
            }
        }
    }
}
