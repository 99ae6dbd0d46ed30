//! Who may connect, and streams of our own protocols on a chosen connection.
//!
//! Unlike `libp2p-stream`, a stream is opened on one given connection, so the transport beneath
//! it is known, and none is dropped because its taker lags. Counts connections before and after
//! admission and refuses what exceeds the bounds. Does not know what is said on the streams.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::addresses::{from_libp2p, ip_of};
use crate::net::admission::Gate;

/// Streams for requests that the far side may hold open on one connection.
const REQUEST_STREAMS_MAX: usize = 4;
/// Connections that one peer may hold at a time (TCP and QUIC, each side having dialled).
const CONNECTIONS_PER_PEER: usize = 4;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The proof of membership.
    Admission,
    /// Framed requests, when the bulk plane does not reach the peer.
    Requests,
}

/// Bounds and lists that the door enforces.
#[derive(Debug, Clone)]
pub(super) struct DoorPolicy {
    /// Knows whom the configuration lets in.
    pub(super) gate: Gate,
    /// Protocol name of [`Purpose::Admission`].
    pub(super) admission: StreamProtocol,
    /// Protocol name of [`Purpose::Requests`].
    pub(super) requests: StreamProtocol,
    /// How long opening a stream may take.
    pub(super) timeout: Duration,
    /// Connections not yet admitted, inbound.
    pub(super) strangers_max: usize,
    /// Connections in all.
    pub(super) connections_max: usize,
}

/// Why the door refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("too many connections wait for admission")]
    Strangers,
    #[error("too many connections")]
    Full,
    #[error("too many connections of this peer")]
    PerPeer,
    #[error("this peer is not admitted here")]
    Listed,
}

/// Counts an inbound stream as open while it lives.
#[derive(Debug)]
#[must_use]
pub(super) struct Slot {
    _counted: Arc<()>,
}

/// A stream that counts as open while it lives.
#[derive(Debug)]
pub(super) struct SlottedStream<S> {
    stream: S,
    _slot: Slot,
}

impl<S> SlottedStream<S> {
    pub(super) const fn new(stream: S, slot: Slot) -> Self {
        SlottedStream {
            stream,
            _slot: slot,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SlottedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SlottedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the door reports.
#[derive(Debug)]
pub(super) enum DoorEvent {
    /// The far side opened a stream.
    Inbound {
        connection: ConnectionId,
        purpose: Purpose,
        stream: Stream,
        slot: Slot,
    },
    /// A stream that was asked for is open, or could not be opened.
    Outbound {
        connection: ConnectionId,
        purpose: Purpose,
        stream: Result<Stream, String>,
    },
}

/// A connection whose far side has shown its id.
struct Entered {
    peer: PeerId,
    ip: Option<IpAddr>,
    is_inbound: bool,
    is_admitted: bool,
}

/// The behaviour.
pub(super) struct Door {
    policy: DoorPolicy,
    /// Where those come from who have not even shown their id.
    knocking: BTreeMap<ConnectionId, Option<IpAddr>>,
    connections: BTreeMap<ConnectionId, Entered>,
    actions: VecDeque<ToSwarm<DoorEvent, ToDoor>>,
    waker: Option<Waker>,
}

impl Door {
    pub(super) const fn new(policy: DoorPolicy) -> Self {
        Door {
            policy,
            knocking: BTreeMap::new(),
            connections: BTreeMap::new(),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream; [`DoorEvent::Outbound`] follows unless the connection closes.
    pub(super) fn open_stream(&mut self, peer: PeerId, connection: ConnectionId, purpose: Purpose) {
        self.tell(peer, connection, ToDoor::Open(purpose));
    }

    /// From now on the connection may carry requests.
    pub(super) fn admit(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(entered) = self.connections.get_mut(&connection) {
            entered.is_admitted = true;
            self.tell(peer, connection, ToDoor::Admit);
        }
    }

    /// Whether the lists let this peer connect at all.
    fn lets_in(&self, peer: &PeerId) -> bool {
        from_libp2p(peer).is_some_and(|peer| self.policy.gate.may_enter(&peer).is_ok())
    }

    fn tell(&mut self, peer_id: PeerId, connection: ConnectionId, event: ToDoor) {
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Where everybody comes from who was not admitted yet.
    fn strangers(&self) -> impl Iterator<Item = Option<IpAddr>> {
        let entered = self.connections.values();
        let unproved = entered.filter(|entered| entered.is_inbound && !entered.is_admitted);
        self.knocking
            .values()
            .copied()
            .chain(unproved.map(|entered| entered.ip))
    }

    fn enter(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        ip: Option<IpAddr>,
        is_inbound: bool,
    ) -> Result<Handler, Refused> {
        if !self.lets_in(&peer) {
            return Err(Refused::Listed);
        }
        let of_peer = self.connections.values().filter(|one| one.peer == peer);
        if of_peer.count() >= CONNECTIONS_PER_PEER {
            return Err(Refused::PerPeer);
        }
        let entered = Entered {
            peer,
            ip,
            is_inbound,
            is_admitted: false,
        };
        self.connections.insert(connection, entered);
        Ok(Handler {
            admission: self.policy.admission.clone(),
            requests: self.policy.requests.clone(),
            timeout: self.policy.timeout,
            admitted: false,
            proof_asked: false,
            open: Arc::new(()),
            actions: VecDeque::new(),
        })
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = Handler;
    type ToSwarm = DoorEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let ip = ip_of(remote);
        let most = self.policy.strangers_max;
        let from_there = self.strangers().filter(|other| *other == ip).count();
        // Nobody alone takes all the places.
        if self.strangers().count() >= most || from_there >= most.div_ceil(2) {
            return Err(ConnectionDenied::new(Refused::Strangers));
        }
        if self.connections.len() >= self.policy.connections_max {
            return Err(ConnectionDenied::new(Refused::Full));
        }
        self.knocking.insert(connection, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.knocking.remove(&connection);
        self.enter(connection, peer, ip_of(remote), true)
            .map_err(ConnectionDenied::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match peer {
            Some(peer) if !self.lets_in(&peer) => Err(ConnectionDenied::new(Refused::Listed)),
            _ => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.enter(connection, peer, ip_of(address), false)
            .map_err(ConnectionDenied::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.remove(&closed.connection_id);
            }
            // Another behaviour may have refused what this one had let in.
            FromSwarm::ListenFailure(failure) => {
                self.knocking.remove(&failure.connection_id);
                self.connections.remove(&failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.connections.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let event = match event {
            FromDoor::Inbound(purpose, stream, slot) => DoorEvent::Inbound {
                connection,
                purpose,
                stream,
                slot,
            },
            FromDoor::Outbound(purpose, stream) => DoorEvent::Outbound {
                connection,
                purpose,
                stream,
            },
        };
        self.actions.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What the behaviour tells a connection.
#[derive(Debug)]
pub(super) enum ToDoor {
    Open(Purpose),
    Admit,
}

/// What a connection tells the behaviour.
pub(super) enum FromDoor {
    Inbound(Purpose, Stream, Slot),
    Outbound(Purpose, Result<Stream, String>),
}

impl fmt::Debug for FromDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FromDoor::Inbound(purpose, ..) => write!(f, "Inbound({purpose:?})"),
            FromDoor::Outbound(purpose, stream) => {
                write!(f, "Outbound({purpose:?}, {})", stream.is_ok())
            }
        }
    }
}

type Action = ConnectionHandlerEvent<Offer, Purpose, FromDoor>;

/// The handler of one connection.
pub(super) struct Handler {
    admission: StreamProtocol,
    requests: StreamProtocol,
    timeout: Duration,
    admitted: bool,
    proof_asked: bool,
    open: Arc<()>,
    actions: VecDeque<Action>,
}

impl Handler {
    fn offered(&self) -> Offer {
        let mut names = Vec::with_capacity(1);
        if self.admitted {
            names.push((self.requests.clone(), Purpose::Requests));
        } else {
            names.push((self.admission.clone(), Purpose::Admission));
        }
        Offer(names)
    }

    fn on_inbound(&mut self, stream: Stream, purpose: Purpose) {
        let fits = match purpose {
            Purpose::Admission => !std::mem::replace(&mut self.proof_asked, true),
            Purpose::Requests => Arc::strong_count(&self.open) <= REQUEST_STREAMS_MAX,
        };
        // Otherwise the stream is dropped, which resets it.
        if fits {
            let slot = Slot {
                _counted: Arc::clone(&self.open),
            };
            self.report(FromDoor::Inbound(purpose, stream, slot));
        }
    }

    fn report(&mut self, event: FromDoor) {
        self.actions
            .push_back(ConnectionHandlerEvent::NotifyBehaviour(event));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ToDoor;
    type ToBehaviour = FromDoor;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(self.offered(), ()).with_timeout(self.timeout)
    }

    // Connections are closed by decision, never for being quiet.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Action> {
        // Filled from callbacks only, after each of which the connection polls again.
        self.actions.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn on_behaviour_event(&mut self, event: ToDoor) {
        match event {
            ToDoor::Admit => self.admitted = true,
            ToDoor::Open(purpose) => {
                let name = match purpose {
                    Purpose::Admission => self.admission.clone(),
                    Purpose::Requests => self.requests.clone(),
                };
                let protocol = SubstreamProtocol::new(Offer(vec![(name, purpose)]), purpose)
                    .with_timeout(self.timeout);
                self.actions
                    .push_back(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Purpose>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => {
                let (stream, purpose) = inbound.protocol;
                self.on_inbound(stream, purpose);
            }
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => {
                let (stream, purpose) = outbound.protocol;
                self.report(FromDoor::Outbound(purpose, Ok(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let why = match error {
                    StreamUpgradeError::Timeout => "no answer in time".to_owned(),
                    StreamUpgradeError::NegotiationFailed => {
                        "the far side does not know this network".to_owned()
                    }
                    StreamUpgradeError::Io(error) => error.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.report(FromDoor::Outbound(info, Err(why)));
            }
            _ => {}
        }
    }
}

/// Names of protocols, negotiated without any further exchange.
#[derive(Debug, Clone)]
pub(super) struct Offer(Vec<(StreamProtocol, Purpose)>);

impl Offer {
    fn purpose(&self, name: &StreamProtocol) -> Purpose {
        let found = self.0.iter().find(|(offered, _)| offered == name);
        found.map_or(Purpose::Admission, |(_, purpose)| *purpose)
    }
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.clone()).collect();
        names.into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, Purpose);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, self.purpose(&name))))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, Purpose);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, self.purpose(&name))))
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
