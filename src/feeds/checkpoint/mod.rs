//! Checkpoints: all rows that a replica shares, in pages that stay the same where rows do.
//!
//! Rows in the order of their keys are cut into pages after rows whose key's hash says so ([`page`]). Where a
//! page ends follows from the rows in it alone, so a change of one row changes the page that has it, and
//! seldom another. Lists of pages are cut into pages in the same way, up to a single one; the [`Root`] names that,
//! with all that is known of the feeds at the time.
//!
//! The layer above stores pages and finds them again; what it needs for that is a few bytes of its own for each
//! page. Nothing here depends on them: a page is known by its hash.

pub mod build;
pub mod page;
pub mod previous;
pub mod read;
pub mod root;
pub mod snapshot;

use std::fmt;

pub use build::{Batch, Builder, Built, Making, PageSink, Step};
pub use page::{PageHash, PageRef, Tree};
pub use previous::{Loading, Previous};
pub use read::{Walk, Walked, rows};
pub use root::{Record, Root};
pub use snapshot::SnapshotRoot;

use crate::base::wire::WireError;
use crate::base::{Class, Classify};
use crate::namespace::StateError;

/// Why a checkpoint could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError<E: fmt::Display> {
    /// The layer above could not store or fetch pages.
    #[error("{0}")]
    Pages(E),
    /// Own rows could not be read.
    #[error(transparent)]
    Rows(#[from] StateError),
    /// A page is not the one that was asked for.
    #[error("page {0} of a checkpoint is damaged")]
    Damaged(PageHash),
    /// A page is the right one, and impossible: its writer was at fault.
    #[error("page {hash} of a checkpoint: {why}")]
    Page {
        /// Which.
        hash: PageHash,
        /// What is wrong with it.
        why: PageFault,
    },
    /// Pages do not add up to what the root says.
    #[error("a checkpoint has {found} rows, and its root names {named}")]
    Count {
        /// Rows that were read.
        found: u64,
        /// Rows that there should be.
        named: u64,
    },
    /// The layer above answered with something else than it was asked for.
    #[error("checkpoint: {0}; an error of this program")]
    Misuse(&'static str),
}

/// What is wrong with a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// Not decodable.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Decodable, and impossible.
    #[error("{0}")]
    Impossible(&'static str),
}

impl From<&'static str> for PageFault {
    fn from(why: &'static str) -> Self {
        PageFault::Impossible(why)
    }
}

impl<E: fmt::Display + Classify> Classify for CheckpointError<E> {
    fn class(&self) -> Class {
        match self {
            CheckpointError::Pages(error) => error.class(),
            CheckpointError::Rows(error) => error.class,
            CheckpointError::Misuse(_) => Class::Bug,
            _ => Class::Corrupt,
        }
    }
}
