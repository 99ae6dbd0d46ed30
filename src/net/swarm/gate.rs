//! Keeps wrapped behaviours silent on a connection until its peer has proved membership.
//!
//! libp2p has no such notion: its protocols speak on every authenticated connection, and some of
//! their names are fixed, so a stranger who dials could use them. Behind a closed gate a
//! connection offers none of the wrapped protocols and asks nothing; what the behaviours want to
//! send meanwhile waits. It opens in two steps, since the two ends do not learn at the same
//! moment that the other is satisfied: an end that listens before it lets the far side speak,
//! and speaks only when it knows that the far side listens, never has a stream refused.
//! Knows nothing of how membership is proved.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use futures::future::Either as Output;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::handler::SendWrapper;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, ListenUpgradeError};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

/// A behaviour whose protocols are closed on a new connection until [`Gate::open`].
pub(super) struct Gate<B: NetworkBehaviour> {
    inner: B,
    opened: VecDeque<(PeerId, ConnectionId, Opening)>,
    heard: BTreeMap<ConnectionId, Instant>,
    waker: Option<Waker>,
}

impl<B: NetworkBehaviour> Gate<B> {
    pub(super) const fn new(inner: B) -> Self {
        Gate {
            inner,
            opened: VecDeque::new(),
            heard: BTreeMap::new(),
            waker: None,
        }
    }

    /// Opens the gate of one connection this far; it never closes again.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, opening: Opening) {
        self.opened.push_back((peer, connection, opening));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// When a connection's handler last had anything to say.
    pub(super) fn heard(&self, connection: ConnectionId) -> Option<Instant> {
        self.heard.get(&connection).copied()
    }

    pub(super) const fn inner(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(GateHandler::closed)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
            .map(GateHandler::closed)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event {
            self.heard.remove(&closed.connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.heard.insert(connection, Instant::now());
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, opening)) = self.opened.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: ToGate::Open(opening),
            });
        }
        if let Poll::Ready(action) = self.inner.poll(cx) {
            return Poll::Ready(action.map_in(ToGate::Inner));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// How far a gate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opening {
    /// Not at all.
    Closed,
    /// Streams of the far side are taken, and answered once the gate is fully open.
    Listening,
    /// Fully.
    Open,
}

/// What a gate's handler can be told.
#[derive(Debug)]
pub(super) enum ToGate<E> {
    /// The peer is admitted this far.
    Open(Opening),
    /// For the wrapped handler.
    Inner(E),
}

/// The handler of one connection.
pub(super) struct GateHandler<H> {
    inner: H,
    opening: Opening,
}

impl<H> GateHandler<H> {
    const fn closed(inner: H) -> Self {
        GateHandler {
            inner,
            opening: Opening::Closed,
        }
    }
}

type Denied = SendWrapper<DeniedUpgrade>;

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = ToGate<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Either<SendWrapper<H::InboundProtocol>, Denied>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Either<H::InboundOpenInfo, ()>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        if self.opening >= Opening::Listening {
            self.inner
                .listen_protocol()
                .map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade)))
                .map_info(Either::Left)
        } else {
            SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(()))
        }
    }

    // Whether a connection lives is decided by whoever opens and closes gates.
    fn connection_keep_alive(&self) -> bool {
        false
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // Opening is a behaviour event, and those wake the connection's task.
        if self.opening == Opening::Open {
            self.inner.poll(cx)
        } else {
            Poll::Pending
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            ToGate::Open(opening) => self.opening = self.opening.max(opening),
            ToGate::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                match (protocol, info) {
                    (Output::Left(protocol), Either::Left(info)) => {
                        ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                            protocol,
                            info,
                        })
                    }
                    _ => return,
                }
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                match (info, error) {
                    (Either::Left(info), Either::Left(error)) => {
                        ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
                    }
                    _ => return,
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(event) => {
                ConnectionEvent::FullyNegotiatedOutbound(event)
            }
            ConnectionEvent::DialUpgradeError(event) => ConnectionEvent::DialUpgradeError(event),
            ConnectionEvent::AddressChange(event) => ConnectionEvent::AddressChange(event),
            ConnectionEvent::LocalProtocolsChange(event) => {
                ConnectionEvent::LocalProtocolsChange(event)
            }
            ConnectionEvent::RemoteProtocolsChange(event) => {
                ConnectionEvent::RemoteProtocolsChange(event)
            }
            _ => return,
        };
        self.inner.on_connection_event(event);
    }
}
