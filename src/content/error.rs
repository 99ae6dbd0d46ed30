//! Why a stream could not be taken in or given out.

use super::frame_wire::FrameError;
use crate::base::{BlockId, Class, Classify};
use crate::blocks::{GetError, PutError};
use crate::dag::DagError;

/// An error of this layer. Cheap enough to clone: readers of one block share its failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// A chunk could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A block could not be read.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A block was read and what it says of files or directories makes no sense.
    #[error("block {block}: {fault}")]
    Node {
        /// The block.
        block: BlockId,
        /// What is wrong with it.
        fault: DagError,
    },
    /// The tree as a whole contradicts itself.
    #[error("the tree is damaged: `{path}`: {why}")]
    Damaged {
        /// Path within the tree, made printable.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The stream of the sender cannot be decoded.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream of the sender can be decoded and says something impossible.
    #[error("`{path}`: {why}")]
    Refused {
        /// Path within the tree, made printable.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The stream ended before it was complete, or its connection broke.
    #[error("the stream broke off: {0}")]
    BrokenOff(String),
    /// The sender reports that it failed.
    #[error("{message}")]
    Sender {
        /// What can be done about it.
        class: Class,
        /// In the sender's words.
        message: String,
    },
    /// No such name in the tree.
    #[error("`{0}` is not in this tree")]
    NotFound(String),
    /// A path leads through something that has no entries.
    #[error("`{0}` is not a directory")]
    NotADirectory(String),
    /// A tree where a blob was asked for, or the other way round.
    #[error("the link names a {found}, not a {wanted}")]
    WrongKind {
        /// What it names.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
}

impl Classify for ContentError {
    fn class(&self) -> Class {
        match self {
            ContentError::Put(error) => error.class(),
            ContentError::Get(error) => error.class(),
            ContentError::Node { fault, .. } => fault.class(),
            ContentError::Damaged { .. } => Class::Corrupt,
            ContentError::Frame(error) => error.class(),
            ContentError::Refused { .. }
            | ContentError::NotADirectory(_)
            | ContentError::WrongKind { .. } => Class::Denied,
            ContentError::BrokenOff(_) => Class::Closed,
            ContentError::Sender { class, .. } => *class,
            ContentError::NotFound(_) => Class::Missing,
        }
    }
}
