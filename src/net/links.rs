//! Which connection serves a peer: the table of live links, the best of them for each request,
//! and the making of new ones.
//!
//! Knows neither TLS nor libp2p: both attach their admitted streams here, and are asked for new
//! ones through [`Connector`].

mod dialing;
mod table;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::{NetError, Path, Reach};
use super::message::{Request, Response};
use super::mux::{Link, LinkContext, LinkEnd};
use crate::base::{Clock, Entropy, PeerId};
use table::Table;

/// Makes connections of one plane.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `peer` and attaches the link, all within the plane's own time limit.
    ///
    /// # Errors
    /// Why it did not come about; `Unreachable` if this plane knows no address.
    fn connect(&self, peer: PeerId) -> BoxFuture<'static, Result<(), NetError>>;
}

/// The planes, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// TLS straight over TCP.
    Bulk,
    /// Streams of libp2p.
    Control,
}

/// Why a connection was not taken into the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// As many peers are connected as the configuration allows.
    #[error("{0} peers are connected, and no more are allowed")]
    Full(usize),
    /// The other one of two simultaneous connections is kept.
    #[error("another connection to the peer is kept")]
    Superseded,
    /// Shut down, or this peer is banned.
    #[error("not wanted any more")]
    Closed,
}

/// The links of a process. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    own: PeerId,
    context: LinkContext,
    clock: Clock,
    entropy: Entropy,
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
    wanted_changed: Notify,
    stopped: CancellationToken,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    /// An empty table. `max_peers` bounds the peers that are connected at a time.
    ///
    /// Must be called within a tokio runtime: a task keeps the peers of [`Links::keep`] connected.
    pub fn new(
        own: PeerId,
        context: LinkContext,
        clock: Clock,
        entropy: Entropy,
        max_peers: usize,
    ) -> Links {
        let links = Links {
            inner: Arc::new(Inner {
                own,
                context,
                clock,
                entropy,
                table: Mutex::new(Table::new(own, max_peers)),
                changes: watch::Sender::new(0),
                wanted_changed: Notify::new(),
                stopped: CancellationToken::new(),
            }),
        };
        let tasks = links.inner.context.tasks.clone();
        tasks.spawn(links.clone().keep_connected());
        links
    }

    /// From now on links of `plane` are made by `connector`.
    pub fn set_connector(&self, plane: Plane, connector: Arc<dyn Connector>) {
        self.lock().set_connector(plane, connector);
        self.inner.wanted_changed.notify_one();
    }

    /// Takes an authenticated, admitted connection into service. `dialer` is the end that
    /// opened it (for a libp2p stream: that opened the stream).
    ///
    /// Of two simultaneous connections of one kind both ends keep the one that the smaller peer
    /// id opened; otherwise the newer one replaces the older, which closes when all that is
    /// under way on it is answered.
    pub fn attach<R, W>(
        &self,
        peer: PeerId,
        path: Path,
        dialer: PeerId,
        halves: (R, W),
    ) -> Result<Link, AttachError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let replaced;
        let link;
        {
            let mut table = self.lock();
            table.may_attach(&peer, path, dialer, Instant::now())?;
            link = Link::start(peer, path, halves, self.inner.context.clone());
            replaced = table.insert(link.clone(), dialer, Instant::now());
        }
        for old in replaced {
            old.close();
        }
        let links = self.clone();
        let attached = link.clone();
        self.inner.context.tasks.spawn(async move {
            let end = attached.ended().await;
            links.detach(&attached, &end);
        });
        tracing::debug!(%peer, ?path, "link attached");
        self.changed();
        Ok(link)
    }

    /// Whether another peer may be connected: for connections that are being admitted.
    pub fn has_room_for(&self, peer: &PeerId) -> bool {
        self.lock().has_room_for(peer)
    }

    /// As [`Links::has_room_for`], of a peer that comes by itself; if there is no room, a link that
    /// nobody needs is closed, so that there is when it comes again.
    pub fn welcomes(&self, peer: &PeerId) -> bool {
        let needless = {
            let table = self.lock();
            if table.has_room_for(peer) {
                return true;
            }
            table.least_needed(false, Instant::now())
        };
        for link in needless {
            tracing::debug!(peer = %link.peer(), "closed to make room for another");
            link.close();
        }
        false
    }

    /// Sends a request over the best link, making one if there is none.
    ///
    /// A request whose link ends under it is sent once more if there is another one: all
    /// requests are idempotent. `Busy` if the peer closes its links in good order without an answer:
    /// it has no room for one more. Dropping the future cancels.
    pub async fn request(
        &self,
        to: PeerId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, NetError> {
        let exchange = async {
            let link = self.link_to(to).await?;
            match link.request(request, deadline).await {
                Err(NetError::Lost(_)) => {}
                outcome => return outcome,
            }
            match self.best(&to) {
                Some(other) if !other.is_same(&link) => other.request(request, deadline).await,
                _ if link.is_leaving() => {
                    let again = self.link_to(to).await?;
                    match again.request(request, deadline).await {
                        Err(NetError::Lost(_)) if again.is_leaving() => Err(NetError::Busy(to)),
                        outcome => outcome,
                    }
                }
                _ => Err(NetError::Lost(to)),
            }
        };
        tokio::time::timeout_at(deadline, exchange)
            .await
            .unwrap_or(Err(NetError::Timeout(to)))
    }

    /// The best link to `peer` that takes requests now.
    pub fn best(&self, peer: &PeerId) -> Option<Link> {
        self.lock().best(peer)
    }

    /// How `peer` is reached now.
    pub fn reach(&self, peer: &PeerId) -> Reach {
        if *peer == self.inner.own {
            return Reach::Own;
        }
        self.lock().reach(peer, Instant::now())
    }

    /// Smoothed round-trip time to `peer`, also of links that are gone.
    pub fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        self.lock().rtt(peer)
    }

    /// The peers connected now, with the path that requests take.
    pub fn connected(&self) -> Vec<(PeerId, Path)> {
        self.lock().connected()
    }

    /// A counter that grows when any peer's reach changes. Its receivers look at the table anew.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The peers to stay connected with: lost links to them are made again, with pauses that grow
    /// to a quarter of a minute. Replaces the set of before.
    pub fn keep(&self, peers: BTreeSet<PeerId>) {
        self.lock().set_wanted(peers);
        self.inner.wanted_changed.notify_one();
    }

    /// Something speaks for trying `peer` again at once: a new address, a sign of life.
    pub fn retry_now(&self, peer: &PeerId) {
        self.lock().forgive(peer);
        self.inner.wanted_changed.notify_one();
    }

    /// Breaks all links to `peer` and takes none until [`Links::unban`].
    pub fn ban(&self, peer: &PeerId) {
        for link in self.lock().ban(peer) {
            link.abort();
        }
    }

    /// Lets `peer` in again.
    pub fn unban(&self, peer: &PeerId) {
        self.lock().unban(peer);
    }

    /// Closes all links in good order, within a few seconds, and takes no new ones.
    pub async fn shutdown(&self) {
        self.inner.stopped.cancel();
        let links = self.lock().shut();
        for link in &links {
            link.close();
        }
        for link in &links {
            link.ended().await;
        }
    }

    fn detach(&self, link: &Link, end: &LinkEnd) {
        let failed = !matches!(end, LinkEnd::Closed);
        let now_ms = self.inner.clock.now_ms();
        let failed_at_ms = failed.then_some(now_ms);
        self.lock().remove(link, Instant::now(), failed_at_ms);
        self.inner.wanted_changed.notify_one();
        self.changed();
    }

    fn changed(&self) {
        self.inner
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner
            .table
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

#[cfg(test)]
mod tests;
