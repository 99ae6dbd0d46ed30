//! What can go wrong with a volume's engine, and what the caller can do about it.

use std::io;

use super::group::DirtyId;
use crate::base::{ByteSize, Class, Classify, VolumeId};
use crate::store::database::DatabaseError;

/// What to do about a volume whose only copy of something is damaged.
const REMEDY: &str =
    "remove the volume from this machine and restore it from its checkpoints in the pool";

/// Why a volume could not be opened, made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeOpenError {
    /// There is none with this id.
    #[error("there is no volume {0} on this machine")]
    NotFound(VolumeId),
    /// There is one with this id already.
    #[error("there is a volume {0} on this machine already")]
    Exists(VolumeId),
    /// It is open.
    #[error("the volume {0} is in use: unmount it first")]
    InUse(VolumeId),
    /// Written by a later program.
    #[error(
        "the volume {id} has format {found}; this program knows formats up to {known}: update it"
    )]
    Newer {
        /// The volume.
        id: VolumeId,
        /// The format found.
        found: u64,
        /// The newest format known.
        known: u64,
    },
    /// It is not what was written.
    #[error("the volume {id} is damaged: {what}: {REMEDY}")]
    Corrupt {
        /// The volume.
        id: VolumeId,
        /// What is damaged, and where.
        what: String,
    },
    /// No room within the quota, or on the disk.
    #[error("no room for a volume: {} left", ByteSize(*.free_bytes))]
    Full {
        /// Bytes that are left.
        free_bytes: u64,
    },
    /// The store is closed or takes no more writes.
    #[error("the store takes no more writes")]
    Closed,
    /// The disk failed.
    #[error("opening a volume: {what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's word.
        error: io::Error,
    },
}

impl VolumeOpenError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> VolumeOpenError {
        let what = what.into();
        move |error| VolumeOpenError::Io { what, error }
    }

    pub(super) fn database(id: VolumeId) -> impl Fn(DatabaseError) -> VolumeOpenError {
        move |error| match error {
            DatabaseError::Damaged(what) => VolumeOpenError::Corrupt { id, what },
            DatabaseError::Stale => VolumeOpenError::Corrupt {
                id,
                what: "its tables do not answer".to_owned(),
            },
            DatabaseError::Io(error) => VolumeOpenError::Io {
                what: "its tables".to_owned(),
                error,
            },
        }
    }
}

impl Classify for VolumeOpenError {
    fn class(&self) -> Class {
        match self {
            VolumeOpenError::NotFound(_) => Class::Missing,
            VolumeOpenError::Exists(_)
            | VolumeOpenError::InUse(_)
            | VolumeOpenError::Newer { .. } => Class::Denied,
            VolumeOpenError::Corrupt { .. } => Class::Corrupt,
            VolumeOpenError::Full { .. } => Class::Full,
            VolumeOpenError::Closed => Class::Closed,
            VolumeOpenError::Io { .. } => Class::Retry,
        }
    }
}

/// Why a volume's engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// No room within the quota, or on the disk.
    #[error("no room for changes of the volume: {} left", ByteSize(*.free_bytes))]
    Full {
        /// Bytes of new data it would still take.
        free_bytes: u64,
    },
    /// As much as is allowed waits to be written: wait for `room` and try again.
    #[error("too many changes wait to be written")]
    Busy,
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
    /// Dirty data is kept under this id already.
    #[error("dirty data is kept as {0:?} already")]
    DirtyExists(DirtyId),
    /// No dirty data is kept under this id.
    #[error("no dirty data is kept as {0:?}")]
    DirtyUnknown(DirtyId),
    /// What was read does not verify, and there is no second copy of it.
    #[error("the volume {id} is damaged: {what}: {REMEDY}")]
    Corrupt {
        /// The volume.
        id: VolumeId,
        /// What is damaged.
        what: String,
    },
    /// A write or sync failed before: what is on the disk is unknown until the volume is reopened.
    #[error("the volume takes no more writes until it is reopened: {0}")]
    Poisoned(String),
    /// Closed in good order.
    #[error("the volume is closed")]
    Closed,
    /// The tables were opened anew since, so what the volume was at an earlier moment is not kept.
    #[error("what the volume was at that moment is kept no longer: its tables were opened anew")]
    Lapsed,
    /// A read from the disk failed.
    #[error("reading the volume: {0}")]
    Io(String),
}

impl VolumeError {
    pub(super) fn database(id: VolumeId) -> impl Fn(DatabaseError) -> VolumeError {
        move |error| match error {
            DatabaseError::Damaged(what) => VolumeError::Corrupt { id, what },
            DatabaseError::Stale => VolumeError::Corrupt {
                id,
                what: "its tables do not answer".to_owned(),
            },
            DatabaseError::Io(error) => VolumeError::Io(error.to_string()),
        }
    }
}

impl Classify for VolumeError {
    fn class(&self) -> Class {
        match self {
            VolumeError::Full { .. } => Class::Full,
            VolumeError::Busy | VolumeError::Io(_) | VolumeError::Lapsed => Class::Retry,
            VolumeError::TooLarge { .. } | VolumeError::DirtyExists(_) => Class::Denied,
            VolumeError::DirtyUnknown(_) => Class::Missing,
            VolumeError::Corrupt { .. } => Class::Corrupt,
            VolumeError::Poisoned(_) | VolumeError::Closed => Class::Closed,
        }
    }
}
