//! The dialling side: all addresses of a peer, staggered (RFC 8305).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

use super::stream::{ByRecord, prepare};
use super::{BulkError, BulkPlane};
use crate::base::PeerId;
use crate::crypto::Side;
use crate::net::mux::Link;

/// An attempt has so long before the next address is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried for one connection.
const ADDRESSES_MAX: usize = 16;

impl BulkPlane {
    /// Where `peer` may listen: what it announced, then the same ports where it was last seen.
    pub(super) fn addresses_of(&self, peer: &PeerId) -> Vec<SocketAddr> {
        let book = self.addresses();
        let Some(known) = book.get(peer) else {
            return Vec::new();
        };
        let mut addresses = known.announced.clone();
        if let Some(ip) = known.seen_at {
            for announced in &known.announced {
                let there = SocketAddr::new(ip, announced.port());
                if !addresses.contains(&there) {
                    addresses.push(there);
                }
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }

    /// Connects to `peer` at the first of `addresses` that answers, within `dial_timeout`, and
    /// attaches the link.
    pub async fn connect_to(
        &self,
        peer: PeerId,
        addresses: &[SocketAddr],
    ) -> Result<Link, BulkError> {
        let attempt = async {
            let (stream, address) = first_of(addresses).await?;
            prepare(&stream)?;
            let connector = TlsConnector::from(Arc::new(self.inner.tls.client(peer)?));
            // Not sent: the peer is known by its key.
            let name = ServerName::IpAddress(address.ip().into());
            let connected = connector.connect(name, ByRecord::new(stream)).await?;
            let stream = TlsStream::Client(connected);
            self.admit(stream, peer, Side::Dialer, address).await
        };
        tokio::select! {
            biased;
            () = self.inner.stopped.cancelled() => Err(BulkError::Timeout),
            outcome = attempt => outcome,
            () = tokio::time::sleep(self.inner.config.limits.dial_timeout) => {
                Err(BulkError::Timeout)
            }
        }
    }
}

async fn first_of(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), BulkError> {
    let mut attempts = FuturesUnordered::new();
    let mut addresses = addresses.iter().take(ADDRESSES_MAX);
    let mut failure = BulkError::NoAddress;
    loop {
        let Some(address) = addresses.next() else {
            // Nothing left to begin.
            return match attempts.next().await {
                Some(Ok(connected)) => Ok(connected),
                Some(Err(error)) => {
                    failure = BulkError::Io(error);
                    continue;
                }
                None => Err(failure),
            };
        };
        attempts.push(async move {
            let stream = TcpStream::connect(address).await?;
            Ok::<_, std::io::Error>((stream, *address))
        });
        match tokio::time::timeout(STAGGER, attempts.next()).await {
            Ok(Some(Ok(connected))) => return Ok(connected),
            Ok(Some(Err(error))) => failure = BulkError::Io(error),
            Ok(None) | Err(_) => {}
        }
    }
}
