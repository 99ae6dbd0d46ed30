//! The listening side: who may knock, and for how long.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsStream;

use super::strangers::Stranger;
use super::stream::{ByRecord, prepare};
use super::{BulkError, BulkPlane, peer_of};
use crate::crypto::Side;
use crate::net::mux::Link;

/// Pause after the system refused to accept (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of connections that the system has finished and nobody took yet.
const BACKLOG: u32 = 1024;

/// An IPv6 socket is for IPv6 alone, as on the control plane: so both families can listen on one
/// port, whatever the system's default is.
fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // So that a peer can be started again while connections of the one before fade away.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether somebody listens on `address` already. libp2p does not notice: it shares its ports with
/// all who are willing to, so two peers would get every other connection of one another.
pub fn is_taken(address: SocketAddr) -> bool {
    let is_in_use = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    address.port() != 0 && open(address).is_err_and(is_in_use)
}

impl BulkPlane {
    /// Listens on `address` and takes connections until [`BulkPlane::stop`]. Answers where it
    /// listens, with the port that the system chose for port 0.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = open(address)?;
        let bound = listener.local_addr()?;
        let plane = self.clone();
        self.inner.config.tasks.spawn(async move {
            let stopped = plane.inner.stopped.clone();
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = plane.accept_all(&listener) => {}
            }
        });
        Ok(bound)
    }

    async fn accept_all(&self, listener: &TcpListener) {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Closed at once: whoever is honest comes again.
            let Some(stranger) = self.inner.strangers.enter(address.ip()) else {
                tracing::debug!(%address, "too many connections wait for admission");
                continue;
            };
            let plane = self.clone();
            self.inner.config.tasks.spawn(async move {
                if let Err(error) = plane.welcome(stream, address, stranger).await {
                    tracing::debug!(%address, %error, "connection not admitted");
                }
            });
        }
    }

    async fn welcome(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        stranger: Stranger,
    ) -> Result<Link, BulkError> {
        let exchange = async {
            prepare(&stream)?;
            let accepted = self.inner.acceptor.accept(ByRecord::new(stream)).await?;
            let peer = peer_of(accepted.get_ref().1.peer_certificates());
            let peer = peer.ok_or(BulkError::NoPeer)?;
            let stream = TlsStream::Server(accepted);
            self.admit(stream, peer, Side::Listener, address).await
        };
        let outcome = tokio::select! {
            biased;
            () = self.inner.stopped.cancelled() => Err(BulkError::Timeout),
            outcome = exchange => outcome,
            () = tokio::time::sleep(self.inner.config.limits.admission_timeout) => {
                Err(BulkError::Timeout)
            }
        };
        drop(stranger);
        outcome
    }
}
