//! The listening side: who may knock, and for how long.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

use super::strangers::Stranger;
use super::stream::{ReadAhead, prepare};
use super::{BulkError, BulkPlane, peer_of};
use crate::crypto::Side;
use crate::net::mux::Link;

/// Pause after the system refused to accept (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl BulkPlane {
    /// Listens on `address` and takes connections until [`BulkPlane::stop`]. Answers where it
    /// listens, with the port that the system chose for port 0.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
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
            let accepted = self.inner.acceptor.accept(ReadAhead::new(stream)).await?;
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
