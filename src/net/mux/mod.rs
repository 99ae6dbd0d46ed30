//! One connection to one peer, whatever carries it: requests flow both ways, many at a time.
//!
//! A [`Link`] owns a reader task, a writer task and a keeper that notices a silent peer. Answers
//! come in any order. Small messages overtake payloads. Nothing is queued without bound: requests
//! of ours wait for one of `requests_per_peer` slots, requests of the peer beyond
//! `inbound_per_peer` are answered `Busy`, and when the peer does not read, we do not either.
//!
//! Knows nothing of sockets, TLS or libp2p, nor of how the peer was authenticated.

mod input;
mod keeper;
mod reader;
mod rtt;
mod state;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::budget::PayloadBudget;
use super::command::{Inbound, NetError, Path};
use super::message::{Request, Response};
use super::throttle::Throttle;
use crate::base::{Limits, PeerId};
use state::Shared;

/// What all links of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LinkContext {
    /// Where requests of other peers go; full: `Busy`.
    pub inbound: mpsc::Sender<Inbound>,
    /// Bandwidth of the process.
    pub throttle: Throttle,
    /// Memory for payloads that other peers send unasked.
    pub budget: PayloadBudget,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Keeps count of the tasks, so that a shutdown can wait for them.
    pub tasks: TaskTracker,
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// Both sides were done.
    #[error("closed in good order")]
    Closed,
    /// The transport broke or ended.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer fell silent.
    #[error("the peer does not answer any more")]
    Silent,
    /// The peer broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String),
}

/// A handle to one live connection. Cheap to clone; the connection lives until it is closed by
/// either side or breaks, even without handles.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Starts a link over an authenticated and admitted connection to `peer`.
    ///
    /// Must be called within a tokio runtime. Any bytes the transport has buffered must still be
    /// readable from `reader`.
    pub fn start<R, W>(
        peer: PeerId,
        path: Path,
        (reader, writer): (R, W),
        context: LinkContext,
    ) -> Link
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared::new(peer, path, context));
        let supervisor = keeper::supervise(Arc::clone(&shared), reader, writer);
        shared.context.tasks.spawn(supervisor);
        Link { shared }
    }

    /// Sends `request` and waits for its answer until `deadline`.
    ///
    /// Dropping the future cancels the request here and, if it was sent already, at the peer.
    ///
    /// # Errors
    /// `Timeout`, `Lost` (also when the link is closing: another one may serve), `Busy` when
    /// too many wait here already, `Protocol` for nonsense in either direction.
    pub async fn request(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, NetError> {
        tokio::time::timeout_at(deadline, self.shared.ask(request))
            .await
            .unwrap_or(Err(NetError::Timeout(self.shared.peer)))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// What carries the link.
    pub fn path(&self) -> Path {
        self.shared.path
    }

    /// Smoothed round-trip time, if any was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.shared.rtt.get()
    }

    /// Whether new requests may be sent.
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Whether one side has announced that it closes in good order.
    pub fn is_leaving(&self) -> bool {
        self.shared.is_leaving()
    }

    /// Requests that wait for an answer now.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// Sends nothing new and closes when all is answered, or after a few seconds. Returns at once.
    pub fn close(&self) {
        self.shared.say_goodbye();
    }

    /// Breaks the link at once: what is under way fails with `Lost`.
    pub fn abort(&self) {
        self.shared.aborted.cancel();
    }

    /// Waits until the link has ended, and says why.
    pub async fn ended(&self) -> LinkEnd {
        self.shared.ended.cancelled().await;
        self.shared.end_reason()
    }

    /// Whether both handles are of the same connection.
    pub fn is_same(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

#[cfg(test)]
mod tests;
