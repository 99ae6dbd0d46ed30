//! The pages of the checkpoint that was made before: what of it has not to be stored again.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::CheckpointError;
use super::page::{Items, PageHash, PageRef, Tree};
use super::read::verify;

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
        let mut loading = Loading::new(tree);
        while !loading.wanted().is_empty() {
            let fetched = loading.wanted().iter().map(&mut *fetch);
            let fetched = fetched.collect::<Result<Vec<Bytes>, E>>();
            loading.supply(&fetched.map_err(CheckpointError::Pages)?)?;
        }
        Ok(loading.finish())
    }

    /// Pages that lie at such places are stored again, and those that would name them with them.
    pub fn forget(&mut self, is_lost: impl Fn(&Bytes) -> bool) {
        self.places.retain(|_, place| !is_lost(place));
    }

    /// Where a page is that was stored before.
    pub(super) fn place(&self, hash: &PageHash) -> Option<&Bytes> {
        self.places.get(hash)
    }

    /// The page with rows that begins at a key, if it is to be found again, and the first key of the next one.
    pub(super) fn leaf_at(&self, first: &[u8]) -> Option<(&PageRef, Option<&[u8]>)> {
        let at = self
            .leaves
            .binary_search_by(|leaf| leaf.first.as_slice().cmp(first))
            .ok()?;
        let next = self.leaves.get(at + 1).map(|leaf| leaf.first.as_slice());
        let leaf = self.leaves.get(at)?;
        self.place(&leaf.hash)?;
        Some((leaf, next))
    }
}

/// A [`Previous`] being read, level by level.
#[derive(Debug)]
pub struct Loading {
    previous: Previous,
    /// Of the pages that come next.
    level: u8,
    pages: Vec<PageRef>,
}

impl Loading {
    /// Of the checkpoint with these pages.
    pub fn new(tree: &Tree) -> Loading {
        Loading {
            previous: Previous::default(),
            level: tree.level,
            pages: vec![tree.top.clone()],
        }
    }

    /// The pages that it needs now; none when it has all.
    pub fn wanted(&self) -> &[PageRef] {
        match self.level {
            0 => &[],
            _ => &self.pages,
        }
    }

    /// Takes the pages that were [wanted](Loading::wanted), in their order.
    ///
    /// # Errors
    /// If one is not what it must be; it is to be given up then.
    pub fn supply<E: fmt::Display>(&mut self, pages: &[Bytes]) -> Result<(), CheckpointError<E>> {
        if pages.len() != self.wanted().len() {
            return Err(CheckpointError::Misuse("the pages that were wanted"));
        }
        let mut below = Vec::new();
        for (page, bytes) in std::mem::take(&mut self.pages).into_iter().zip(pages) {
            if let Items::Pages(pages) = verify(&page, self.level, bytes)? {
                below.extend(pages);
            }
            self.previous.places.insert(page.hash, page.place);
        }
        self.pages = below;
        self.level = self.level.saturating_sub(1);
        Ok(())
    }

    /// What was read.
    pub fn finish(mut self) -> Previous {
        let places = self.pages.iter();
        let places = places.map(|page| (page.hash, page.place.clone()));
        self.previous.places.extend(places);
        self.previous.leaves = self.pages;
        self.previous
    }
}
