//! The plane for shards: long-lived TLS 1.3 connections straight over TCP.
//!
//! A connection proves the peer's id by its certificate, then its membership, bound to the TLS
//! exporter, all within `admission_timeout`; then it carries a link. Either side may open it.
//! Does not decide when to connect or which link serves: [`Links`] does.

mod dial;
mod listen;
mod records;
mod strangers;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::rustls;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{AdmissionError, Denied, Ends, Gate, Greeted, admit};
use super::command::{NetError, Path};
use super::links::{AttachError, Connector, Links};
use super::mux::Link;
use super::swarm::tls::{PeerTls, TlsError, peer_of};
use crate::base::{Class, Classify, Entropy, Limits, PeerId};
use crate::crypto::{Side, SigningKey};
pub use listen::is_taken;
use strangers::Strangers;
use stream::ByRecord;

/// Application protocol of the TLS handshake.
pub const BULK_PROTOCOL: &[u8] = b"cairn-bulk/1";
/// Label of the exporter that a membership proof is bound to.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-cairn-bulk-1";
/// Peers whose addresses are kept.
const ADDRESS_BOOK_MAX: usize = 65_536;

/// What a bulk plane works with.
pub struct BulkConfig {
    /// The device's key.
    pub device: SigningKey,
    /// Decides who is let in.
    pub gate: Gate,
    /// Where admitted connections go.
    pub links: Links,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Randomness.
    pub entropy: Entropy,
    /// Keeps count of the tasks.
    pub tasks: TaskTracker,
    /// The own signed record, as of now.
    pub own_record: Arc<dyn Fn() -> Bytes + Send + Sync>,
    /// Hears of every peer that was admitted; what does not fit in the queue is left out.
    pub greeted: mpsc::Sender<(PeerId, Greeted)>,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The transport or the TLS handshake failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The certificate names no peer of our kind.
    #[error("the certificate names no peer")]
    NoPeer,
    /// The keys of the session could not be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Our own TLS set-up is at fault.
    #[error(transparent)]
    SetUp(#[from] TlsError),
    /// The peer was not admitted, or did not admit us.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The link is not wanted.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// No address is known.
    #[error("no address of the bulk plane is known")]
    NoAddress,
}

impl BulkError {
    /// Whether either end is connected with as many peers as it may.
    const fn is_full(&self) -> bool {
        use AdmissionError::{Denied as Denying, Refused};
        matches!(
            self,
            BulkError::Attach(AttachError::Full(_))
                | BulkError::Admission(Denying(Denied::Full) | Refused(Denied::Full))
        )
    }
}

impl Classify for BulkError {
    fn class(&self) -> Class {
        match self {
            BulkError::Admission(error) => error.class(),
            BulkError::SetUp(_) => Class::Bug,
            _ => Class::Retry,
        }
    }
}

/// The bulk plane of a process. Cheap to clone.
#[derive(Clone)]
pub struct BulkPlane {
    inner: Arc<Inner>,
}

struct Inner {
    config: BulkConfig,
    own: PeerId,
    tls: PeerTls,
    acceptor: TlsAcceptor,
    strangers: Strangers,
    addresses: Mutex<BTreeMap<PeerId, Addresses>>,
    stopped: CancellationToken,
}

/// Where a peer's plane may be.
#[derive(Debug, Default)]
struct Addresses {
    announced: Vec<SocketAddr>,
    seen_at: Option<IpAddr>,
}

impl fmt::Debug for BulkPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkPlane").finish_non_exhaustive()
    }
}

impl BulkPlane {
    /// A plane that listens nowhere yet.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub fn new(config: BulkConfig) -> Result<BulkPlane, TlsError> {
        let tls = PeerTls::new(&config.device, BULK_PROTOCOL)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls.server()?));
        Ok(BulkPlane {
            inner: Arc::new(Inner {
                own: config.device.peer(),
                tls,
                acceptor,
                strangers: Strangers::default(),
                addresses: Mutex::default(),
                stopped: CancellationToken::new(),
                config,
            }),
        })
    }

    /// The announced addresses of `peer`, instead of those known before. Whether that is news.
    pub fn set_addresses(&self, peer: PeerId, announced: &[SocketAddr]) -> bool {
        let mut book = self.addresses();
        if book.len() >= ADDRESS_BOOK_MAX && !book.contains_key(&peer) {
            return false;
        }
        let known = book.entry(peer).or_default();
        let is_news = known.announced != announced;
        if is_news {
            known.announced = announced.to_vec();
        }
        is_news
    }

    /// Where `peer` last came from: its ports are tried there, too.
    pub fn seen_at(&self, peer: PeerId, ip: IpAddr) {
        if let Some(known) = self.addresses().get_mut(&peer) {
            known.seen_at = Some(ip);
        }
    }

    /// Stops listening and dialling. Links live on until they are closed.
    pub fn stop(&self) {
        self.inner.stopped.cancel();
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<PeerId, Addresses>> {
        self.inner
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Admission, and then the link.
    async fn admit(
        &self,
        mut stream: TlsStream<ByRecord<TcpStream>>,
        peer: PeerId,
        side: Side,
        address: SocketAddr,
    ) -> Result<Link, BulkError> {
        let config = &self.inner.config;
        let binding = binding_of(&stream)?;
        let ends = Ends {
            own: self.inner.own,
            peer,
            side,
            binding,
        };
        let record = (config.own_record)();
        let room = || match config.links.welcomes(&peer) {
            true => Ok(()),
            false => Err(Denied::Full),
        };
        let admission = admit(
            &mut stream,
            &ends,
            &config.gate,
            &config.entropy,
            record,
            room,
        );
        let (greeted, ()) = admission.await?;
        stream.flush().await?;
        let records = records::take_over(stream, TcpStream::into_split)?;
        let dialer = match side {
            Side::Dialer => self.inner.own,
            Side::Listener => peer,
        };
        let link = config.links.attach(
            peer,
            Path::Bulk(address),
            dialer,
            (records.reader, records.writer),
        )?;
        self.replace_when_worn(&link, records.worn);
        self.seen_at(peer, address.ip());
        // Whoever listens asks for what it missed.
        let _ = config.greeted.try_send((peer, greeted));
        Ok(link)
    }
}

impl BulkPlane {
    /// Closes a link in good order once its keys have been used for long: the next request finds another.
    fn replace_when_worn(&self, link: &Link, worn: oneshot::Receiver<()>) {
        let link = link.clone();
        self.inner.config.tasks.spawn(async move {
            // Without a word the link has ended.
            if worn.await.is_ok() {
                link.close();
            }
        });
    }
}

/// Bytes that only the two ends of this session know.
fn binding_of(stream: &TlsStream<ByRecord<TcpStream>>) -> Result<Vec<u8>, rustls::Error> {
    let binding = vec![0u8; 32];
    match stream {
        TlsStream::Client(stream) => {
            let session = stream.get_ref().1;
            session.export_keying_material(binding, EXPORTER_LABEL, None)
        }
        TlsStream::Server(stream) => {
            let session = stream.get_ref().1;
            session.export_keying_material(binding, EXPORTER_LABEL, None)
        }
    }
}

impl Connector for BulkPlane {
    fn connect(&self, peer: PeerId) -> BoxFuture<'static, Result<(), NetError>> {
        let plane = self.clone();
        Box::pin(async move {
            let addresses = plane.addresses_of(&peer);
            match plane.connect_to(peer, &addresses).await {
                // The other one of two simultaneous connections serves as well.
                Ok(_) | Err(BulkError::Attach(AttachError::Superseded)) => Ok(()),
                Err(BulkError::Attach(AttachError::Closed)) => Err(NetError::Closed),
                Err(error) if error.is_full() => Err(NetError::Busy(peer)),
                Err(error) if error.class() == Class::Denied => Err(NetError::Denied(peer)),
                Err(BulkError::Timeout) => Err(NetError::Timeout(peer)),
                Err(_) => Err(NetError::Unreachable(peer)),
            }
        })
    }
}
