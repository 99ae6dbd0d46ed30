//! What can go wrong with the store, and what the caller can do about it.

use std::io;

use crate::base::{ByteSize, Class, Classify, ShardId};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the data directory {0} is in use by another cairn process: stop that one, or name another directory"
    )]
    InUse(String),
    /// Written by a later program.
    #[error(
        "the data directory has format {found}; this program knows formats up to {known}: update it"
    )]
    Newer {
        /// The format found.
        found: u64,
        /// The newest format known.
        known: u64,
    },
    /// Files that are not those of a store, or too damaged to begin with.
    #[error("the data directory cannot be used: {0}")]
    Unusable(String),
    /// The quota is below the minimum.
    #[error("a quota of {} is below the minimum of {}", ByteSize(*.given), ByteSize(*.minimum))]
    QuotaTooSmall {
        /// Bytes asked for.
        given: u64,
        /// Bytes needed.
        minimum: u64,
    },
    /// The disk failed.
    #[error("opening the store: {what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's word.
        error: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let what = what.into();
        move |error| OpenError::Io { what, error }
    }
}

impl Classify for OpenError {
    fn class(&self) -> Class {
        match self {
            OpenError::InUse(_) | OpenError::Newer { .. } | OpenError::QuotaTooSmall { .. } => {
                Class::Denied
            }
            OpenError::Unusable(_) => Class::Corrupt,
            OpenError::Io { .. } => Class::Retry,
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room within the quota, or on the disk.
    #[error("the store is full: {} left for new data", ByteSize(*.free_bytes))]
    Full {
        /// Bytes of new data it would still take.
        free_bytes: u64,
    },
    /// The claim was released or has expired: what it kept may be gone.
    #[error("the claim was released or has expired: begin a new upload")]
    ClaimGone,
    /// Held, but no acceptable copy verifies.
    #[error("shard {0:?} is damaged on this disk")]
    Corrupt(ShardId),
    /// A write or its sync failed: nothing more is taken until the store is reopened.
    #[error("the store takes no more writes until it is reopened: {0}")]
    Poisoned(String),
    /// Closed in good order.
    #[error("the store is closed")]
    Closed,
    /// A read from the disk failed.
    #[error("reading the store: {0}")]
    Io(String),
    /// The quota is below the minimum.
    #[error("a quota of {} is below the minimum of {}", ByteSize(*.given), ByteSize(*.minimum))]
    QuotaTooSmall {
        /// Bytes asked for.
        given: u64,
        /// Bytes needed.
        minimum: u64,
    },
    /// The request exceeds a bound of the format.
    #[error("{what}: {size} is more than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
}

impl Classify for StoreError {
    fn class(&self) -> Class {
        match self {
            StoreError::Full { .. } => Class::Full,
            StoreError::ClaimGone
            | StoreError::QuotaTooSmall { .. }
            | StoreError::TooLarge { .. } => Class::Denied,
            StoreError::Corrupt(_) => Class::Corrupt,
            StoreError::Poisoned(_) | StoreError::Closed => Class::Closed,
            StoreError::Io(_) => Class::Retry,
        }
    }
}
