//! What the Swarm reports, and which part of the actor deals with it.

use libp2p::swarm::SwarmEvent;
use libp2p::{kad, mdns, ping};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::actor::Actor;
use super::addresses::{from_libp2p, without_peer};
use super::behaviour::{BehaviourEvent, LOOKUP_PARALLELISM};
use super::control::Found;
use super::door::{DoorEvent, Purpose, SlottedStream};
use crate::crypto::Side;

impl Actor {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Door(event)) => self.on_door(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => {
                tracing::trace!(?event, "identify");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_mdns(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.on_closed(connection_id, &peer_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => self.on_dial_failed(connection_id, peer_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                self.update_listening(|all| {
                    all.insert(address);
                });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::info!(%address, "no longer listening");
                self.update_listening(|all| {
                    all.remove(&address);
                });
            }
            SwarmEvent::ListenerClosed {
                addresses, reason, ..
            } => {
                tracing::warn!(?addresses, ?reason, "a listener ended");
                self.update_listening(|all| all.retain(|a| !addresses.contains(a)));
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener has trouble");
            }
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => tracing::debug!(%send_back_addr, %error, "inbound connection failed"),
            _ => {}
        }
    }

    fn on_door(&mut self, event: DoorEvent) {
        match event {
            DoorEvent::Inbound {
                connection,
                purpose: Purpose::Admission,
                stream,
                ..
            } => self.prove(connection, Side::Listener, stream),
            DoorEvent::Inbound {
                connection,
                purpose: Purpose::Requests,
                stream,
                slot,
                ..
            } => {
                let stream = SlottedStream::new(stream.compat(), slot);
                self.attach(connection, false, stream);
            }
            DoorEvent::Outbound {
                connection,
                purpose,
                stream,
                ..
            } => self.on_stream(connection, purpose, stream),
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::GetClosestPeers(result),
            stats,
            ..
        } = event
        else {
            return;
        };
        let peers = match result {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        let ids = peers.iter().filter_map(|peer| from_libp2p(&peer.peer_id));
        let requests = stats.num_requests();
        let found = Found {
            peers: ids.collect(),
            requests,
            rounds: requests.div_ceil(LOOKUP_PARALLELISM.get() as u32),
        };
        self.on_found(id, found);
    }

    fn on_ping(&mut self, event: &ping::Event) {
        if let Err(error) = &event.result {
            tracing::debug!(peer = %event.peer, %error, "no answer to a ping");
            if !matches!(error, ping::Failure::Unsupported) {
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        for (remote, address) in found {
            let Some(peer) = from_libp2p(&remote) else {
                continue;
            };
            let is_stranger = !self.is_known(&peer) && peer != self.shared.own;
            if is_stranger && self.may_greet(peer) {
                let options = libp2p::swarm::dial_opts::DialOpts::peer_id(remote)
                    .addresses(vec![without_peer(&address)])
                    .build();
                if let Err(error) = self.swarm.dial(options) {
                    tracing::debug!(%address, %error, "cannot dial a neighbour");
                }
            }
        }
    }
}
