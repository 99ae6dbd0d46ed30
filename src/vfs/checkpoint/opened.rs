//! A checkpoint to be looked into: its rows, found through the tree of its pages, which are fetched when they are
//! needed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::failure::{CheckpointFailure, PageError};
use crate::base::Class;
use crate::feeds::checkpoint::page::Items;
use crate::feeds::checkpoint::read::verify;
use crate::feeds::checkpoint::{PageHash, PageRef, Root, Tree};
use crate::namespace::state::Pairs;
use crate::namespace::{Rows, StateError};
use crate::vfs::inner::Inner;

/// Bytes of pages that stay in memory from one look to the next.
const KEPT_BYTES: usize = 8 << 20;
/// Pages that one look may need.
const PAGES_MAX: usize = 4096;

/// See the module. It looks into a checkpoint as long as that is kept.
pub struct OpenedCheckpoint {
    inner: Arc<Inner>,
    root: Root,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    items: BTreeMap<PageHash, Arc<Items>>,
    bytes: usize,
}

/// Rows as far as they are at hand; what is missing is written down.
struct Look<'a> {
    opened: &'a OpenedCheckpoint,
    missing: Mutex<Vec<(u8, PageRef)>>,
}

impl OpenedCheckpoint {
    pub(in crate::vfs) fn new(inner: Arc<Inner>, root: Root) -> OpenedCheckpoint {
        OpenedCheckpoint {
            inner,
            root,
            pages: Mutex::default(),
        }
    }

    /// What it is of.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at its rows: those that replicas share, nothing that is derived from them. `look` is called again after
    /// pages that it needed were fetched, so it should read little at a time.
    ///
    /// # Errors
    /// If pages cannot be fetched or are damaged; what `look` says.
    pub async fn look<T>(
        &self,
        look: impl Fn(&dyn Rows) -> Result<T, StateError>,
    ) -> Result<T, CheckpointFailure> {
        {
            let mut pages = self.pages();
            if pages.bytes > KEPT_BYTES {
                *pages = Pages::default();
            }
        }
        for _ in 0..PAGES_MAX {
            let rows = Look {
                opened: self,
                missing: Mutex::default(),
            };
            let looked = look(&rows);
            let missing = rows.missing.into_inner();
            let missing = missing.unwrap_or_else(PoisonError::into_inner);
            if missing.is_empty() {
                return Ok(looked?);
            }
            let wanted: Vec<PageRef> = missing.iter().map(|(_, page)| page.clone()).collect();
            let fetched = self.inner.fetch_pages(&wanted).await?;
            for ((level, page), bytes) in missing.into_iter().zip(fetched) {
                let items = verify::<PageError>(&page, level, &bytes)?;
                let mut pages = self.pages();
                pages.bytes += bytes.len();
                pages.items.insert(page.hash, Arc::new(items));
            }
        }
        let message = "too many pages of a checkpoint for one look".to_owned();
        let class = Class::Denied;
        Err(StateError { class, message }.into())
    }
}

impl Look<'_> {
    fn items(&self, level: u8, page: &PageRef) -> Result<Arc<Items>, StateError> {
        if let Some(items) = self.opened.pages().items.get(&page.hash) {
            return Ok(Arc::clone(items));
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.push((level, page.clone()));
        Err(StateError {
            class: Class::Retry,
            message: "a page of a checkpoint is not here yet".to_owned(),
        })
    }
}

/// How whoever looks into a tree of pages gets the page of a level: `Retry` if it is not at hand.
pub(in crate::vfs) type PageItems<'a> = dyn Fn(u8, &PageRef) -> Result<Arc<Items>, StateError> + 'a;

/// At most `limit` rows in `start..end` of a tree of pages, in order; none if there is no tree.
pub(in crate::vfs) fn scan_tree(
    tree: Option<&Tree>,
    items: &PageItems<'_>,
    (start, end): (&[u8], &[u8]),
    limit: usize,
) -> Result<Pairs, StateError> {
    let mut found = Pairs::new();
    if let Some(tree) = tree
        && limit > 0
        && start < end
    {
        let top = (tree.level, &tree.top);
        collect(items, top, (start, end), limit, &mut found)?;
    }
    Ok(found)
}

/// Adds rows of a page, and of those below it, that are in `start..end`, until there are `limit`.
fn collect(
    items: &PageItems<'_>,
    (level, page): (u8, &PageRef),
    (start, end): (&[u8], &[u8]),
    limit: usize,
    found: &mut Pairs,
) -> Result<(), StateError> {
    match &*items(level, page)? {
        Items::Rows(rows) => {
            let from = rows.partition_point(|(key, _)| key.as_slice() < start);
            let rows = rows.iter().skip(from);
            let within = rows.take_while(|(key, _)| key.as_slice() < end);
            let room = limit.saturating_sub(found.len());
            found.extend(within.take(room).cloned());
        }
        Items::Pages(pages) => {
            let from = pages.partition_point(|page| page.first.as_slice() <= start);
            for page in pages.iter().skip(from.saturating_sub(1)) {
                if page.first.as_slice() >= end || found.len() >= limit {
                    break;
                }
                let below = (level.saturating_sub(1), page);
                collect(items, below, (start, end), limit, found)?;
            }
        }
    }
    Ok(())
}

impl Rows for Look<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.scan(key, &[key, &[0]].concat(), 1)?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        let items = |level, page: &PageRef| self.items(level, page);
        let tree = self.opened.root.tree.as_ref();
        scan_tree(tree, &items, (start, end), limit)
    }
}
