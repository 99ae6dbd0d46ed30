//! Why a peer does not start, or does not do what it was asked.

use std::io;

use super::identity::IdentityError;
use crate::admin::AdminError;
use crate::base::{Class, Classify};
use crate::crypto::ticket::TicketError;
use crate::store::{OpenError, StoreError};

/// Errors of the composition root.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The operating system has no randomness to give.
    #[error("no randomness: {0}")]
    Entropy(io::Error),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store does not answer.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The network does not start.
    #[error("the network: {0}")]
    Network(String, Class),
    /// A path that was asked about.
    #[error("cannot use {0}: {1}")]
    Path(String, io::Error),
    /// A ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// `CAIRN_FAULT` makes no sense.
    #[cfg(feature = "testkit")]
    #[error("CAIRN_FAULT: {0}")]
    Fault(String),
}

impl Classify for NodeError {
    fn class(&self) -> Class {
        match self {
            NodeError::Entropy(_) => Class::Bug,
            NodeError::Identity(error) => error.class(),
            NodeError::Open(error) => error.class(),
            NodeError::Store(error) => error.class(),
            NodeError::Network(_, class) => *class,
            NodeError::Path(_, error) => match error.kind() {
                io::ErrorKind::NotFound => Class::Missing,
                _ => Class::Denied,
            },
            NodeError::Ticket(error) => error.class(),
            #[cfg(feature = "testkit")]
            NodeError::Fault(_) => Class::Denied,
        }
    }
}

impl From<NodeError> for AdminError {
    fn from(error: NodeError) -> Self {
        AdminError::of(&error)
    }
}
