//! The seam between everything above and any network: data, not a trait.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::message::{Request, Response};
use crate::base::{Class, Classify, PeerId};

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No connection, and none could be made.
    #[error("peer {0} cannot be reached")]
    Unreachable(PeerId),
    /// No member answered at an address.
    #[error("no member of this network answers at {0}")]
    NoAnswer(String),
    /// The deadline passed.
    #[error("peer {0} did not answer in time")]
    Timeout(PeerId),
    /// The connection broke before the answer came.
    #[error("the connection to peer {0} was lost")]
    Lost(PeerId),
    /// Too many requests wait already, here or there.
    #[error("too many requests are under way to peer {0}")]
    Busy(PeerId),
    /// The peer is not (or no longer) a member, or is denied by configuration.
    #[error("peer {0} is not admitted")]
    Denied(PeerId),
    /// It answered something that makes no sense.
    #[error("peer {0} answered nonsense: {1}")]
    Protocol(PeerId, String),
    /// The network of this process is shut down.
    #[error("the network is shut down")]
    Closed,
}

impl Classify for NetError {
    fn class(&self) -> Class {
        match self {
            NetError::Denied(_) => Class::Denied,
            NetError::Protocol(..) => Class::Corrupt,
            NetError::Closed => Class::Closed,
            _ => Class::Retry,
        }
    }
}

/// What the layers above may ask of a network.
#[derive(Debug)]
pub enum Command {
    /// Send a request and wait for its response.
    Request {
        /// To whom. Never the own peer.
        to: PeerId,
        /// What.
        request: Request,
        /// When to give up.
        deadline: Instant,
        /// Where the answer goes. Dropping the receiver cancels the request.
        reply: oneshot::Sender<Result<Response, NetError>>,
    },
    /// Find the members closest to a point of the key space, beyond those known (Kademlia).
    Closest {
        /// Preimage of the point, hashed with SHA-256 as Kademlia does.
        key: Vec<u8>,
        /// At most so many.
        count: usize,
        /// Their ids, closest first, and what the look-up cost. Records of the
        /// peers found enter the member list, or its cache, before this answers.
        reply: oneshot::Sender<Result<Lookup, NetError>>,
    },
    /// Connect to an address as users write them (a libp2p multiaddr).
    Dial {
        /// The address.
        address: String,
        /// Whether a member answered there.
        reply: oneshot::Sender<Result<PeerId, NetError>>,
    },
    /// The own offer changed: sign a new record and announce it.
    Offer {
        /// What is offered now.
        offer: Offer,
    },
    /// Close everything in good order.
    Shutdown {
        /// Answered when all connections are closed.
        reply: oneshot::Sender<()>,
    },
}

/// The result of a DHT look-up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lookup {
    /// Peers found, closest first, with their records where they could be had.
    pub found: Vec<Member>,
    /// Rounds of questions until nothing closer was found.
    pub hops: u32,
    /// Messages sent.
    pub messages: u32,
}

/// What all look-ups of a peer cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupTotals {
    /// Look-ups made.
    pub count: u64,
    /// Rounds of questions of all of them.
    pub hops: u64,
    /// Messages sent for all of them.
    pub messages: u64,
    /// Bytes of records received for all of them.
    pub record_bytes: u64,
    /// Time that they took, one after the other.
    pub time: Duration,
}

/// Counts look-ups: written by whoever makes them, read by whoever shows them.
#[derive(Debug, Default)]
pub struct LookupCounter(Mutex<LookupTotals>);

impl LookupCounter {
    /// One more look-up.
    pub fn add(&self, lookup: &Lookup, record_bytes: u64, time: Duration) {
        let mut totals = self.lock();
        totals.count += 1;
        totals.hops += u64::from(lookup.hops);
        totals.messages += u64::from(lookup.messages);
        totals.record_bytes += record_bytes;
        totals.time += time;
    }

    /// All so far.
    pub fn totals(&self) -> LookupTotals {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, LookupTotals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this peer offers the network now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// Bytes offered; 0: stores for nobody.
    pub capacity_bytes: u64,
    /// Of which free.
    pub free_bytes: u64,
    /// Failure domain; empty: as the invitation says.
    pub zone: String,
    /// Whether it is about to leave; then it offers nothing.
    pub stay: Stay,
}

/// Whether a member means to stay in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stay {
    /// It does.
    #[default]
    Stays,
    /// It hands over what it holds, and can be asked for the rest.
    Leaving,
    /// It has handed over everything: once it is away, it is no member any more.
    Left,
}

/// A request from another peer, with the place for its answer.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks (authenticated and admitted).
    pub from: PeerId,
    /// What.
    pub request: Request,
    /// Dropping it unanswered is answered `Busy`.
    pub reply: oneshot::Sender<Response>,
}

/// One member as this peer knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who.
    pub peer: PeerId,
    /// Bytes it offers; 0: stores for nobody.
    pub capacity_bytes: u64,
    /// Free bytes when it last said so.
    pub free_bytes: u64,
    /// Whether it means to stay.
    pub stay: Stay,
    /// Failure domain: its own word, or else its invitation.
    pub zone: String,
    /// The invitation that it shares with others as a failure domain; empty: none.
    pub invitation: String,
    /// Admitted by a storage-only ticket.
    pub storage_only: bool,
    /// Version of its program.
    pub program: String,
    /// Addresses it announced, of both planes.
    pub addresses: Vec<String>,
    /// How it is reached now.
    pub state: Reach,
    /// Smoothed round-trip time of small requests, if any was made.
    pub rtt: Option<Duration>,
}

impl Member {
    /// Whether it is known not to be reached now.
    pub const fn is_away(&self) -> bool {
        matches!(self.state, Reach::Away { .. })
    }

    /// Whether it has left for good: it handed over all that it held, and is gone.
    pub const fn has_left(&self) -> bool {
        matches!(self.stay, Stay::Left) && self.is_away()
    }

    /// Whether it offers nothing because it leaves, and may still hold some of what it did.
    pub const fn is_leaving(&self) -> bool {
        !matches!(self.stay, Stay::Stays)
    }
}

/// How a member is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// This process.
    Own,
    /// Connected; requests take this path.
    Connected(Path),
    /// Not connected, and nothing speaks against trying.
    Idle,
    /// Attempts fail since then (ms since 1970).
    Away {
        /// First failure of the present series.
        since_ms: u64,
    },
}

impl Reach {
    /// Whether placement may count on it now.
    pub const fn is_live(&self) -> bool {
        matches!(self, Reach::Own | Reach::Connected(_))
    }
}

/// The transport in use to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// TLS 1.3 straight over TCP, the bulk plane.
    Bulk(SocketAddr),
    /// A libp2p stream over TCP.
    Tcp,
    /// A libp2p stream over QUIC.
    Quic,
    /// In memory (simulation).
    Memory,
}

/// The members this peer knows, as one value. Sorted by peer id; the own peer is among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members {
    /// All of them.
    pub list: Vec<Member>,
    /// Whether the list has every member of the network, so that no look-up is needed.
    pub complete: bool,
}

impl Members {
    /// The member with this id.
    pub fn get(&self, peer: &PeerId) -> Option<&Member> {
        let at = self.list.binary_search_by(|m| m.peer.cmp(peer)).ok()?;
        self.list.get(at)
    }
}

/// How to reach the actor that owns a network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NetHandle {
    own: PeerId,
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Members>>,
    lookups: Arc<LookupCounter>,
}

/// The actor's ends of a [`NetHandle`].
#[derive(Debug)]
pub struct NetActorEnds {
    /// Commands to carry out.
    pub commands: mpsc::Receiver<Command>,
    /// Where the member list is published.
    pub members: watch::Sender<Arc<Members>>,
    /// Where requests of other peers go (bounded; full: answer `Busy`).
    pub inbound: mpsc::Sender<Inbound>,
    /// Where look-ups are counted.
    pub lookups: Arc<LookupCounter>,
}

impl NetHandle {
    /// A handle, its actor's ends, and the stream of inbound requests. `queue` bounds each channel.
    pub fn new(own: PeerId, queue: usize) -> (NetHandle, NetActorEnds, mpsc::Receiver<Inbound>) {
        let (command_tx, command_rx) = mpsc::channel(queue);
        let (members_tx, members_rx) = watch::channel(Arc::new(Members::default()));
        let (inbound_tx, inbound_rx) = mpsc::channel(queue);
        let lookups = Arc::new(LookupCounter::default());
        (
            NetHandle {
                own,
                commands: command_tx,
                members: members_rx,
                lookups: Arc::clone(&lookups),
            },
            NetActorEnds {
                commands: command_rx,
                members: members_tx,
                inbound: inbound_tx,
                lookups,
            },
            inbound_rx,
        )
    }

    /// The own peer.
    pub const fn own(&self) -> PeerId {
        self.own
    }

    /// The members known now.
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// What look-ups cost so far.
    pub fn lookups(&self) -> LookupTotals {
        self.lookups.totals()
    }

    /// A receiver that sees every change of the member list.
    pub fn watch_members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// Sends `request` and waits at most `timeout` for the answer. Dropping the future cancels it.
    pub async fn request(
        &self,
        to: PeerId,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, NetError> {
        let deadline = Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let command = Command::Request {
            to,
            request,
            deadline,
            reply,
        };
        tokio::time::timeout_at(deadline, async {
            self.send(command).await?;
            answer.await.map_err(|_| NetError::Closed)?
        })
        .await
        .unwrap_or(Err(NetError::Timeout(to)))
    }

    /// Finds members close to SHA-256 of `key` through the DHT.
    pub async fn closest(&self, key: Vec<u8>, count: usize) -> Result<Lookup, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Closest { key, count, reply }).await?;
        answer.await.map_err(|_| NetError::Closed)?
    }

    /// Connects to an address and waits until a member answered.
    pub async fn dial(&self, address: String) -> Result<PeerId, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Dial { address, reply }).await?;
        answer.await.map_err(|_| NetError::Closed)?
    }

    /// Announces what this peer offers.
    pub async fn offer(&self, offer: Offer) -> Result<(), NetError> {
        self.send(Command::Offer { offer }).await
    }

    /// Closes the network. Later calls answer `Closed`.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Command::Shutdown { reply }).await.is_ok() {
            // An actor that is gone already is shut down too.
            let _ = answer.await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), NetError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| NetError::Closed)
    }
}
