//! The libp2p connections of this process: at which stage each is, and which of them to close.
//!
//! Plain data; the actor does what is decided here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use tokio::time::Instant;

use crate::base::PeerId;
use crate::net::command::Path;

/// A second connection to one peer is closed when it is this old.
const DUPLICATE_PATIENCE: Duration = Duration::from_secs(10);

/// A connection in excess is closed when it was not used for so long.
const USE_PATIENCE: Duration = Duration::from_secs(3);

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Membership is being proved.
    Proving,
    /// Proved; the far side may not be ready yet.
    Proved,
    /// In use.
    Admitted,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) peer: PeerId,
    pub(super) path: Path,
    /// Of the far side.
    pub(super) ip: Option<IpAddr>,
    pub(super) stage: Stage,
    pub(super) since: Instant,
    /// When a stream was last opened on it, in either direction.
    pub(super) used: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: BTreeMap<ConnectionId, Connection>,
}

impl Connections {
    pub(super) fn insert(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        path: Path,
        ip: Option<IpAddr>,
        now: Instant,
    ) {
        let connection = Connection {
            peer,
            path,
            ip,
            stage: Stage::Proving,
            since: now,
            used: now,
        };
        self.all.insert(id, connection);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.all.remove(&id)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.all.get(&id)
    }

    pub(super) fn advance(&mut self, id: ConnectionId, stage: Stage) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.stage = connection.stage.max(stage);
        }
    }

    pub(super) fn touch(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.used = now;
        }
    }

    /// Takes note of use that others saw.
    pub(super) fn update_use(&mut self, seen: impl Fn(ConnectionId) -> Option<Instant>) {
        for (id, connection) in &mut self.all {
            if let Some(at) = seen(*id) {
                connection.used = connection.used.max(at);
            }
        }
    }

    /// The connection to `peer` that requests should take: the newest that is admitted.
    pub(super) fn best(&self, peer: &PeerId) -> Option<ConnectionId> {
        let of_peer = self.of_peer(peer);
        let admitted = of_peer.filter(|(_, connection)| connection.stage == Stage::Admitted);
        admitted
            .max_by_key(|(id, c)| (c.since, **id))
            .map(|(id, _)| *id)
    }

    /// Whether a connection to `peer` is still proving itself.
    pub(super) fn is_proving(&self, peer: &PeerId) -> bool {
        let mut of_peer = self.of_peer(peer);
        of_peer.any(|(_, connection)| connection.stage < Stage::Admitted)
    }

    /// Whether any connection to `peer` is left.
    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.of_peer(peer).next().is_some()
    }

    fn of_peer(&self, peer: &PeerId) -> impl Iterator<Item = (&ConnectionId, &Connection)> {
        let peer = *peer;
        self.all.iter().filter(move |(_, c)| c.peer == peer)
    }

    /// What should be closed now: those whose proof takes too long, second ones of a peer (the
    /// end with the smaller id decides which), and the longest unused beyond `max`.
    pub(super) fn surplus(
        &self,
        own: &PeerId,
        now: Instant,
        proof_limit: Duration,
        max: usize,
    ) -> Vec<ConnectionId> {
        let mut surplus = Vec::new();
        let mut admitted: Vec<(Instant, ConnectionId)> = Vec::new();
        let mut newest: BTreeMap<PeerId, (Instant, ConnectionId)> = BTreeMap::new();
        for (id, connection) in &self.all {
            if connection.stage < Stage::Admitted {
                if now.duration_since(connection.since) > proof_limit {
                    surplus.push(*id);
                }
                continue;
            }
            let this = (connection.since, *id);
            let kept = newest.entry(connection.peer).or_insert(this);
            *kept = this.max(*kept);
        }
        for (id, connection) in &self.all {
            if connection.stage < Stage::Admitted {
                continue;
            }
            let is_newest = newest.get(&connection.peer).is_some_and(|(_, n)| n == id);
            let is_old = now.duration_since(connection.since) > DUPLICATE_PATIENCE;
            if !is_newest && is_old && *own < connection.peer {
                surplus.push(*id);
            } else {
                admitted.push((connection.used, *id));
            }
        }
        admitted.sort_unstable();
        let excess = admitted.len().saturating_sub(max);
        let longest_unused = admitted.into_iter().take(excess);
        let idle = longest_unused.filter(|(used, _)| now.duration_since(*used) > USE_PATIENCE);
        surplus.extend(idle.map(|(_, id)| id));
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_second_and_unused_connections_are_surplus() {
        let start = Instant::now();
        let id = ConnectionId::new_unchecked;
        let (own, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut all = Connections::default();
        all.insert(id(1), other, Path::Tcp, None, start);
        assert!(all.is_proving(&other) && all.best(&other).is_none());
        let late = start + Duration::from_secs(6);
        assert_eq!(all.surplus(&own, late, Duration::from_secs(5), 9), [id(1)]);
        all.advance(id(1), Stage::Admitted);
        all.insert(id(2), other, Path::Quic, None, late);
        all.advance(id(2), Stage::Admitted);
        all.advance(id(2), Stage::Proved);
        assert_eq!(all.best(&other), Some(id(2)));
        let later = late + Duration::from_secs(60);
        let limit = Duration::from_secs(5);
        assert_eq!(all.surplus(&own, later, limit, 9), [id(1)]);
        // The other end leaves the choice to us.
        assert!(all.surplus(&PeerId([3; 32]), later, limit, 9).is_empty());
        all.insert(id(3), PeerId([9; 32]), Path::Tcp, None, later);
        all.advance(id(3), Stage::Admitted);
        all.touch(id(1), later);
        assert_eq!(all.surplus(&PeerId([3; 32]), later, limit, 2), [id(2)]);
        all.update_use(|connection| (connection == id(2)).then_some(later));
        assert!(all.surplus(&PeerId([3; 32]), later, limit, 2).is_empty());
    }
}
