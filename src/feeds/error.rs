//! Why something of a feed was refused.

use crate::base::wire::WireError;
use crate::base::{Class, Classify, PeerId};
use crate::crypto::epoch::MessageError;
use crate::namespace::error::FormatError;

/// Why something of a feed was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// Not decodable.
    #[error("feed: {0}")]
    Wire(#[from] WireError),
    /// Decodable, and impossible.
    #[error("feed: {0}")]
    Impossible(&'static str),
    /// The signature is not that of the device that is named as signer.
    #[error("feed: a forgery in the name of {0}")]
    Forged(PeerId),
    /// The sealed text is not the one that the link names.
    #[error("feed: the sealed text of a delta is damaged")]
    Damaged,
    /// It does not open with this key.
    #[error("feed: {0}")]
    Sealed(#[from] MessageError),
    /// What was sealed is no delta.
    #[error("feed: a delta of a signed link: {0}")]
    Delta(FormatError),
    /// What was sealed is not the delta that the link names.
    #[error("feed: a delta is not the one that its link names")]
    Mismatch,
    /// It belongs to another volume.
    #[error("feed: something of another volume")]
    OtherVolume,
    /// It belongs to another writer's feed.
    #[error("feed: something of another writer")]
    OtherWriter,
    /// The own device signs in no other's name, and adds to the end of its feed only.
    #[error("feed: {0}; an error of this program")]
    Misuse(&'static str),
}

impl From<&'static str> for FeedError {
    fn from(why: &'static str) -> Self {
        FeedError::Impossible(why)
    }
}

impl Classify for FeedError {
    fn class(&self) -> Class {
        match self {
            FeedError::OtherVolume | FeedError::OtherWriter => Class::Denied,
            FeedError::Sealed(error) => error.class(),
            FeedError::Misuse(_) => Class::Bug,
            _ => Class::Corrupt,
        }
    }
}
