//! Why a node was refused.

use crate::base::wire::WireError;
use crate::base::{Class, Classify};

/// A node of a manifest or directory that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// Not decodable at all.
    #[error("manifest node: {0}")]
    Wire(#[from] WireError),
    /// A kind of node that this program does not know.
    #[error(
        "manifest node of unknown kind {0}: it was written by a newer version, update this one"
    )]
    UnknownKind(u8),
    /// A node of one kind where another must be.
    #[error("a {found} where a {expected} must be")]
    WrongKind {
        /// What had to be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The numbers of the node contradict each other, or a bound.
    #[error("manifest node: {0}")]
    Inconsistent(&'static str),
    /// A name, symbolic link or path that must not be.
    #[error("manifest node: entry {name:?}: {why}")]
    Entry {
        /// The entry's name, made printable.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Classify for DagError {
    fn class(&self) -> Class {
        match self {
            DagError::UnknownKind(_) | DagError::Wire(WireError::Version { .. }) => Class::Denied,
            _ => Class::Corrupt,
        }
    }
}
