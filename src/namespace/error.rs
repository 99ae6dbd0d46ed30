//! What can go wrong: reading rows, decoding, and operations that make no sense.

use crate::base::wire::WireError;
use crate::base::{Class, Classify};

/// The rows could not be read, or are not what they must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StateError {
    /// What the caller can do.
    pub class: Class,
    /// What happened.
    pub message: String,
}

impl StateError {
    /// Bytes that cannot be read.
    pub(super) fn corrupt(what: &str, why: impl std::fmt::Display) -> StateError {
        StateError {
            class: Class::Corrupt,
            message: format!("{what}: {why}"),
        }
    }
}

impl Classify for StateError {
    fn class(&self) -> Class {
        self.class
    }
}

/// Bytes that are no row or delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not decodable at all.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Decodable, and impossible.
    #[error("{0}")]
    Impossible(&'static str),
}

impl From<&'static str> for FormatError {
    fn from(why: &'static str) -> Self {
        FormatError::Impossible(why)
    }
}

impl Classify for FormatError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// There is no entry of this name.
    #[error("no such name")]
    NotFound,
    /// The file itself is gone: removed, or never there.
    #[error("the file was removed")]
    Gone,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// A directory is needed.
    #[error("not a directory")]
    NotADirectory,
    /// Anything but a directory is needed.
    #[error("a directory")]
    IsADirectory,
    /// Only empty directories are removed.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory would come to lie within itself.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// The top directory and `lost+found` stay where they are.
    #[error("this directory can be neither moved nor removed")]
    Fixed,
    /// Directories have one name; what is no regular file has no content.
    #[error("not possible for this kind of file")]
    WrongKind,
    /// A name, value or size out of bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// Longer than a name may be.
    #[error("a name of more than 255 bytes")]
    NameTooLong,
    /// There is no such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// The content is no longer the one that was to be relocated.
    #[error("the content has changed meanwhile")]
    Changed,
    /// The rows could not be read.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Classify for OpError {
    fn class(&self) -> Class {
        match self {
            OpError::NotFound | OpError::Gone | OpError::NoXattr => Class::Missing,
            OpError::Changed => Class::Retry,
            OpError::State(error) => error.class,
            _ => Class::Denied,
        }
    }
}
