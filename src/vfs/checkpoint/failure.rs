//! Why a checkpoint was not made, read or merged.

use crate::base::{Class, Classify};
use crate::blocks::GetError;
use crate::feeds::FeedError;
use crate::feeds::checkpoint::CheckpointError;
use crate::namespace::{JoinError, StateError};
use crate::store::VolumeError;
use crate::vfs::VfsError;
use crate::vfs::land::SealError;

/// Why a page could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Its block.
    #[error("a page of a checkpoint: {0}")]
    Block(#[from] GetError),
    /// What is said to be its place is none.
    #[error("a page of a checkpoint at an impossible place")]
    Place,
}

impl Classify for PageError {
    fn class(&self) -> Class {
        match self {
            PageError::Block(error) => error.class(),
            PageError::Place => Class::Corrupt,
        }
    }
}

/// Why a checkpoint was not made, read or merged.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFailure {
    /// A block of pages found no place.
    #[error("a checkpoint is not in the pool: {what}")]
    Unplaced {
        /// Why.
        what: String,
        /// What can be done.
        class: Class,
    },
    /// Its pages.
    #[error(transparent)]
    Pages(#[from] CheckpointError<PageError>),
    /// Merging it.
    #[error(transparent)]
    Join(#[from] JoinError<PageError>),
    /// Its root, or the feeds that it names.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The own rows.
    #[error(transparent)]
    Rows(#[from] StateError),
    /// The local engine.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// What was left when the volume was opened, to be looked after once an interrupted merging was finished.
    #[error(transparent)]
    Opening(Box<VfsError>),
    /// There are changes in it from the future.
    #[error(
        "a checkpoint has changes from the future: it can be merged from {due_ms} ms after 1970 on; look at the clocks"
    )]
    NotDue {
        /// Milliseconds since 1970.
        due_ms: u64,
    },
    /// There is no such checkpoint.
    #[error("no checkpoint is kept under number {0}")]
    Unknown(u64),
    /// What the volume says of its checkpoints is not what was written.
    #[error("the volume is damaged: what it says of its checkpoint {0}")]
    Books(u64),
}

impl From<PageError> for CheckpointFailure {
    fn from(error: PageError) -> Self {
        CheckpointFailure::Pages(CheckpointError::Pages(error))
    }
}

impl From<SealError> for CheckpointFailure {
    fn from(error: SealError) -> Self {
        CheckpointFailure::Unplaced {
            class: error.class(),
            what: error.to_string(),
        }
    }
}

impl Classify for CheckpointFailure {
    fn class(&self) -> Class {
        match self {
            CheckpointFailure::Unplaced { class, .. } => *class,
            CheckpointFailure::Pages(error) => error.class(),
            CheckpointFailure::Join(error) => error.class(),
            CheckpointFailure::Feed(error) => error.class(),
            CheckpointFailure::Rows(error) => error.class,
            CheckpointFailure::Volume(error) => error.class(),
            CheckpointFailure::Opening(error) => error.class(),
            CheckpointFailure::NotDue { .. } => Class::Retry,
            CheckpointFailure::Unknown(_) => Class::Missing,
            CheckpointFailure::Books(_) => Class::Corrupt,
        }
    }
}
