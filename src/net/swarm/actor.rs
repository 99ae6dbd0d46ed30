//! The one task that owns the Swarm. Everybody else sends it [`Control`]s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, Swarm, kad};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::task::TaskTracker;

use super::addresses::{from_libp2p, ip_of, path_of, peer_of, to_libp2p, with_ip, without_peer};
use super::behaviour::{Behaviour, mode};
use super::connections::{Connections, Stage};
use super::control::{Control, Found};
use super::door::Purpose;
use super::gate::Opening;
use super::handshake::{self, ControlStream, Knock, Step};
use super::roster::Roster;
use crate::base::{Entropy, Limits, PeerId};
use crate::crypto::Side;
use crate::net::admission::{AdmissionError, Denied};
use crate::net::bulk::BulkPlane;
use crate::net::command::NetError;
use crate::net::credentials::Credentials;
use crate::net::links::{AttachError, Links};
use crate::net::members::Known;

/// How often connections are looked over.
const TICK: Duration = Duration::from_secs(1);
/// The DHT is told of new peers once in so many ticks.
const ROUTING_TICKS: u32 = 3;
/// Times that a request for a link dials or opens a stream anew.
const PURSUITS_MAX: u32 = 3;
/// Addresses tried in one dial.
const DIAL_ADDRESSES_MAX: usize = 32;
/// Peers whose source address is remembered.
const SEEN_MAX: usize = 1024;
/// A neighbour found by multicast is dialled once in this time, and so many of them.
const GREETING_PAUSE: Duration = Duration::from_secs(60);
const GREETED_MAX: usize = 64;
/// Requests that may wait for the actor.
pub(super) const CONTROL_QUEUE: usize = 256;

/// What the actor shares with the rest of the layer.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) own: PeerId,
    pub(super) credentials: Credentials,
    pub(super) entropy: Entropy,
    pub(super) limits: Arc<Limits>,
    pub(super) links: Links,
    pub(super) plane: BulkPlane,
    pub(super) roster: Roster,
    pub(super) tasks: TaskTracker,
    pub(super) max_connections: usize,
}

/// Those who wait for a link to one peer.
#[derive(Default)]
struct Pursuit {
    replies: Vec<oneshot::Sender<Result<(), NetError>>>,
    tries: u32,
    opening: Option<ConnectionId>,
}

pub(super) struct Actor {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Shared,
    connections: Connections,
    steps: JoinSet<Step>,
    agreeing: Vec<(Knock, ControlStream)>,
    pursuits: BTreeMap<PeerId, Pursuit>,
    dials: BTreeMap<ConnectionId, (Multiaddr, oneshot::Sender<Result<PeerId, NetError>>)>,
    /// Never iterated.
    lookups: HashMap<kad::QueryId, oneshot::Sender<Found>>,
    seen: BTreeMap<PeerId, IpAddr>,
    greeted: BTreeMap<PeerId, Instant>,
    /// What the DHT is to be told.
    learned: BTreeMap<PeerId, Arc<Known>>,
    ticks: u32,
    listening: watch::Sender<BTreeSet<Multiaddr>>,
}

impl Actor {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        shared: Shared,
        listening: watch::Sender<BTreeSet<Multiaddr>>,
    ) -> Self {
        Actor {
            swarm,
            shared,
            connections: Connections::default(),
            steps: JoinSet::new(),
            agreeing: Vec::new(),
            pursuits: BTreeMap::new(),
            dials: BTreeMap::new(),
            lookups: HashMap::new(),
            seen: BTreeMap::new(),
            greeted: BTreeMap::new(),
            learned: BTreeMap::new(),
            ticks: 0,
            listening,
        }
    }

    /// Runs until told to stop, or until nobody can tell it anything any more.
    pub(super) async fn run(mut self, mut controls: mpsc::Receiver<Control>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopped = loop {
            tokio::select! {
                biased;
                event = self.swarm.select_next_some() => self.on_event(event),
                // The swarm has nothing more to do, so the gates' handlers have been told.
                () = std::future::ready(()), if !self.agreeing.is_empty() => self.start_agreeing(),
                Some(step) = self.steps.join_next(), if !self.steps.is_empty() => {
                    if let Ok(step) = step {
                        self.on_step(step);
                    }
                }
                control = controls.recv() => match control {
                    Some(Control::Stop(reply)) => break Some(reply),
                    Some(control) => self.on_control(control),
                    None => break None,
                },
                _ = tick.tick() => self.look_over(),
            }
        };
        self.close().await;
        if let Some(reply) = stopped {
            // Whoever asked may have lost patience.
            let _ = reply.send(());
        }
    }

    async fn close(mut self) {
        self.steps.abort_all();
        let peers: Vec<libp2p::PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Errors say that it is disconnected already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let farewell = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(TICK, farewell).await;
    }

    // ---- requests ----------------------------------------------------------------------------

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Connect { peer, reply } => {
                self.pursuits.entry(peer).or_default().replies.push(reply);
                self.pursue(peer);
            }
            Control::Dial { address, reply } => self.dial_address(address, reply),
            Control::Closest { key, reply } => {
                self.update_routing();
                let kad = self.swarm.behaviour_mut().kad.inner();
                let query = kad.get_closest_peers(key);
                self.lookups.insert(query, reply);
            }
            Control::Learned(known) => {
                self.learned.insert(known.peer(), known);
            }
            Control::Serve(serve) => {
                let kad = self.swarm.behaviour_mut().kad.inner();
                kad.set_mode(Some(mode(serve)));
            }
            Control::Stop(_) => {}
        }
    }

    /// Tells the DHT what was learned. Not at once: each new peer makes a DHT with few peers look
    /// itself up anew.
    fn update_routing(&mut self) {
        for known in std::mem::take(&mut self.learned).into_values() {
            self.update_route(&known);
        }
    }

    /// Tells the DHT where a peer is now. One that stores nothing does not serve it either.
    fn update_route(&mut self, known: &Known) {
        let Some(peer) = to_libp2p(known.peer()) else {
            return;
        };
        let kad = self.swarm.behaviour_mut().kad.inner();
        if known.record.capacity_bytes == 0 {
            kad.remove_peer(&peer);
            return;
        }
        let announced = known.record.addresses.iter();
        let addresses: Vec<Multiaddr> = announced.filter_map(|a| a.parse().ok()).collect();
        let bucket = kad.kbucket(peer);
        let entry = bucket.iter().flat_map(|bucket| bucket.iter());
        let entry = entry
            .into_iter()
            .find(|entry| *entry.node.key.preimage() == peer);
        let old: Vec<Multiaddr> = entry
            .map(|entry| entry.node.value.iter().map(without_peer).collect())
            .unwrap_or_default();
        for address in &addresses {
            kad.add_address(&peer, address.clone());
        }
        for address in old.iter().filter(|old| !addresses.contains(old)) {
            kad.remove_address(&peer, address);
        }
    }

    fn dial_address(
        &mut self,
        address: Multiaddr,
        reply: oneshot::Sender<Result<PeerId, NetError>>,
    ) {
        let named = peer_of(&address);
        let peer = named.as_ref().and_then(from_libp2p);
        if let Some(peer) = peer.filter(|peer| self.connections.best(peer).is_some()) {
            let _ = reply.send(Ok(peer));
            return;
        }
        let options = match named {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![without_peer(&address)])
                .build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, (address, reply));
            }
            Err(error) => {
                tracing::debug!(%address, %error, "cannot dial");
                let _ = reply.send(Err(NetError::NoAnswer(address.to_string())));
            }
        }
    }

    /// Gets on with attaching a link to a peer, if somebody waits for one.
    fn pursue(&mut self, peer: PeerId) {
        let Some(pursuit) = self.pursuits.get_mut(&peer) else {
            return;
        };
        if pursuit.opening.is_some() {
            return;
        }
        let Some(remote) = to_libp2p(peer) else {
            return self.give_up(peer, &NetError::Unreachable(peer));
        };
        if let Some(connection) = self.connections.best(&peer) {
            pursuit.opening = Some(connection);
            let door = &mut self.swarm.behaviour_mut().door;
            door.open_stream(remote, connection, Purpose::Requests);
            return;
        }
        if self.connections.is_proving(&peer) {
            return;
        }
        pursuit.tries += 1;
        if pursuit.tries > PURSUITS_MAX {
            return self.give_up(peer, &NetError::Unreachable(peer));
        }
        let options = DialOpts::peer_id(remote)
            .condition(PeerCondition::NotDialing)
            .addresses(self.addresses_of(&peer))
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                tracing::debug!(%peer, %error, "cannot dial");
                let error = match error {
                    DialError::Denied { .. } => NetError::Denied(peer),
                    _ => NetError::Unreachable(peer),
                };
                self.give_up(peer, &error);
            }
        }
    }

    fn give_up(&mut self, peer: PeerId, error: &NetError) {
        let pursuit = self.pursuits.remove(&peer).unwrap_or_default();
        for reply in pursuit.replies {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Where a peer may be: what it announced, and the same at the address it last came from.
    fn addresses_of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(known) = self.shared.roster.get(peer) else {
            return Vec::new();
        };
        let announced = known.record.addresses.iter();
        let mut addresses: Vec<Multiaddr> = announced.filter_map(|a| a.parse().ok()).collect();
        if let Some(ip) = self.seen.get(peer) {
            let there: Vec<_> = addresses.iter().filter_map(|a| with_ip(a, *ip)).collect();
            for address in there {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses.truncate(DIAL_ADDRESSES_MAX);
        addresses
    }

    // ---- admission ---------------------------------------------------------------------------

    pub(super) fn on_established(
        &mut self,
        remote: libp2p::PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let Some(peer) = from_libp2p(&remote) else {
            self.swarm.close_connection(connection);
            return;
        };
        let path = path_of(endpoint.get_remote_address());
        let ip = ip_of(endpoint.get_remote_address());
        self.connections
            .insert(connection, peer, path, ip, Instant::now());
        if endpoint.is_dialer() {
            let door = &mut self.swarm.behaviour_mut().door;
            door.open_stream(remote, connection, Purpose::Admission);
        }
    }

    pub(super) fn prove(&mut self, connection: ConnectionId, side: Side, stream: libp2p::Stream) {
        let Some(peer) = self.connections.get(connection).map(|c| c.peer) else {
            return;
        };
        let shared = &self.shared;
        let Some(record) = shared.roster.get(&shared.own) else {
            return;
        };
        let knock = Knock {
            connection,
            own: shared.own,
            peer,
            side,
        };
        let gate = shared.credentials.gate().clone();
        let entropy = shared.entropy.clone();
        let limit = shared.limits.admission_timeout;
        let record = record.encoded.clone();
        self.steps.spawn(async move {
            handshake::prove(knock, stream, gate, entropy, record, limit).await
        });
    }

    fn on_step(&mut self, step: Step) {
        match step {
            Step::Proved(knock, Ok((greeted, stream))) => {
                let Some(remote) = to_libp2p(knock.peer) else {
                    return;
                };
                self.connections.advance(knock.connection, Stage::Proved);
                let behaviour = self.swarm.behaviour_mut();
                behaviour.door.admit(remote, knock.connection);
                behaviour.open(remote, knock.connection, Opening::Listening);
                let (roster, peer) = (self.shared.roster.clone(), knock.peer);
                self.shared.tasks.spawn(async move {
                    roster.learn_all(vec![greeted.record], Some(peer)).await;
                });
                self.agreeing.push((knock, stream));
            }
            Step::Proved(knock, Err(error)) => self.on_refusal(&knock, &error),
            Step::Agreed(knock, Ok(())) => self.on_admitted(&knock),
            Step::Agreed(knock, Err(error)) => self.on_refusal(&knock, &error.into()),
        }
    }

    fn start_agreeing(&mut self) {
        let limit = self.shared.limits.admission_timeout;
        for (knock, stream) in std::mem::take(&mut self.agreeing) {
            self.steps.spawn(handshake::agree(knock, stream, limit));
        }
    }

    fn on_admitted(&mut self, knock: &Knock) {
        let Some(remote) = to_libp2p(knock.peer) else {
            return;
        };
        self.connections.advance(knock.connection, Stage::Admitted);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.open(remote, knock.connection, Opening::Open);
        let connection = self.connections.get(knock.connection);
        if let (Side::Listener, Some(ip)) = (knock.side, connection.and_then(|c| c.ip)) {
            if self.seen.len() >= SEEN_MAX {
                self.seen.pop_first();
            }
            self.seen.insert(knock.peer, ip);
            self.shared.plane.seen_at(knock.peer, ip);
        }
        tracing::debug!(peer = %knock.peer, path = ?connection.map(|c| c.path), "peer admitted");
        if let Some((_, reply)) = self.dials.remove(&knock.connection) {
            let _ = reply.send(Ok(knock.peer));
        }
        self.shared.links.retry_now(&knock.peer);
        self.pursue(knock.peer);
    }

    fn on_refusal(&mut self, knock: &Knock, error: &AdmissionError) {
        tracing::debug!(peer = %knock.peer, %error, "not admitted");
        let denied = match error {
            AdmissionError::Denied(Denied::Full) | AdmissionError::Refused(Denied::Full) => {
                NetError::Busy(knock.peer)
            }
            AdmissionError::Io(_) => NetError::Unreachable(knock.peer),
            _ => NetError::Denied(knock.peer),
        };
        self.drop_connection(knock.connection);
        if let Some((_, reply)) = self.dials.remove(&knock.connection) {
            let _ = reply.send(Err(denied.clone()));
        }
        if !matches!(denied, NetError::Unreachable(_)) {
            self.give_up(knock.peer, &denied);
        }
        self.pursue(knock.peer);
    }

    // ---- connections -------------------------------------------------------------------------

    /// Closes a connection, which counts as gone at once.
    pub(super) fn drop_connection(&mut self, connection: ConnectionId) {
        self.connections.remove(connection);
        self.swarm.close_connection(connection);
    }

    pub(super) fn on_closed(&mut self, connection: ConnectionId, remote: &libp2p::PeerId) {
        self.connections.remove(connection);
        if let Some((address, reply)) = self.dials.remove(&connection) {
            let _ = reply.send(Err(NetError::NoAnswer(address.to_string())));
        }
        if let Some(peer) = from_libp2p(remote) {
            if let Some(pursuit) = self.pursuits.get_mut(&peer) {
                pursuit.opening = pursuit.opening.filter(|open| *open != connection);
            }
            self.pursue(peer);
        }
    }

    pub(super) fn on_dial_failed(
        &mut self,
        connection: ConnectionId,
        remote: Option<libp2p::PeerId>,
        error: &DialError,
    ) {
        tracing::debug!(?remote, %error, "dial failed");
        if let Some((address, reply)) = self.dials.remove(&connection) {
            let _ = reply.send(Err(NetError::NoAnswer(address.to_string())));
        }
        let Some(peer) = remote.as_ref().and_then(from_libp2p) else {
            return;
        };
        let waits = self
            .pursuits
            .get(&peer)
            .is_some_and(|p| p.opening.is_none());
        let elsewhere = self.connections.is_connected(&peer);
        if waits && !elsewhere && !matches!(error, DialError::DialPeerConditionFalse(_)) {
            self.give_up(peer, &NetError::Unreachable(peer));
        }
    }

    /// A stream for requests was opened by the peer, or for a pursuit of ours.
    pub(super) fn attach<S>(&mut self, connection: ConnectionId, dialed: bool, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let Some((peer, path)) = self.connections.get(connection).map(|c| (c.peer, c.path)) else {
            return;
        };
        self.connections.touch(connection, Instant::now());
        if !dialed && !self.shared.links.welcomes(&peer) {
            self.shared.tasks.spawn(handshake::turn_away(stream));
            return;
        }
        let dialer = if dialed { self.shared.own } else { peer };
        let attached = self
            .shared
            .links
            .attach(peer, path, dialer, tokio::io::split(stream));
        if !dialed {
            return;
        }
        let outcome = match attached {
            // Superseded: the other of two links serves as well.
            Ok(_) | Err(AttachError::Superseded) => Ok(()),
            Err(AttachError::Full(_)) => Err(NetError::Busy(peer)),
            Err(AttachError::Closed) => Err(NetError::Closed),
        };
        let pursuit = self.pursuits.remove(&peer).unwrap_or_default();
        for reply in pursuit.replies {
            let _ = reply.send(outcome.clone());
        }
    }

    pub(super) fn on_stream(
        &mut self,
        connection: ConnectionId,
        purpose: Purpose,
        stream: Result<libp2p::Stream, String>,
    ) {
        let peer = self.connections.get(connection).map(|c| c.peer);
        match (purpose, stream) {
            (Purpose::Admission, Ok(stream)) => self.prove(connection, Side::Dialer, stream),
            (Purpose::Requests, Ok(stream)) => self.attach(connection, true, stream.compat()),
            (_, Err(why)) => {
                tracing::debug!(peer = ?peer, why, "no stream");
                if let Some((_, reply)) = self.dials.remove(&connection) {
                    let peer = peer.unwrap_or(self.shared.own);
                    let _ = reply.send(Err(NetError::Denied(peer)));
                }
                self.drop_connection(connection);
                if let Some(peer) = peer {
                    if let Some(pursuit) = self.pursuits.get_mut(&peer) {
                        pursuit.opening = None;
                        pursuit.tries += 1;
                    }
                    self.pursue(peer);
                }
            }
        }
    }

    pub(super) fn on_found(&mut self, query: kad::QueryId, found: Found) {
        if let Some(reply) = self.lookups.remove(&query) {
            let _ = reply.send(found);
        }
    }

    pub(super) fn update_listening(&self, change: impl FnOnce(&mut BTreeSet<Multiaddr>)) {
        self.listening.send_modify(change);
    }

    fn look_over(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(ROUTING_TICKS) {
            self.update_routing();
        }
        let limits = &self.shared.limits;
        // The handshake itself is bounded; this is for peers that never begin it.
        let proof_limit = limits.admission_timeout * 2;
        let kad = &self.swarm.behaviour().kad;
        self.connections
            .update_use(|connection| kad.heard(connection));
        let surplus = self.connections.surplus(
            &self.shared.own,
            Instant::now(),
            proof_limit,
            self.shared.max_connections,
        );
        for connection in surplus {
            self.swarm.close_connection(connection);
        }
        for pursuit in self.pursuits.values_mut() {
            pursuit.replies.retain(|reply| !reply.is_closed());
        }
        self.pursuits.retain(|_, p| !p.replies.is_empty());
    }

    pub(super) fn is_known(&self, peer: &PeerId) -> bool {
        self.connections.is_connected(peer)
    }

    /// Whether a neighbour that announced itself is to be dialled now: not the same one all the
    /// time, for it may be of another network.
    pub(super) fn may_greet(&mut self, peer: PeerId) -> bool {
        let now = Instant::now();
        self.greeted
            .retain(|_, at| now.duration_since(*at) < GREETING_PAUSE);
        if self.greeted.len() >= GREETED_MAX || self.greeted.contains_key(&peer) {
            return false;
        }
        self.greeted.insert(peer, now);
        true
    }
}
