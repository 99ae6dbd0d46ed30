//! Which libp2p protocols run, under which names, and with which settings.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, BucketInserts, StoreInserts};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, StreamProtocol};
use libp2p::{PeerId, identify, identity, mdns, ping};

use super::door::{Door, DoorPolicy};
use super::gate::{Gate, Opening};

/// Questions of one look-up under way at once (alpha of the Kademlia paper).
pub(super) const LOOKUP_PARALLELISM: NonZeroUsize = match NonZeroUsize::new(6) {
    Some(parallelism) => parallelism,
    None => NonZeroUsize::MIN,
};
/// Time after which a look-up ends with what it has.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(6);
/// Dead connections are noticed after this and [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Identify tells little that signed records do not; seldom is enough.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(3600);

/// All of it. Only admitted peers may speak what is behind a gate.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) door: Door,
    pub(super) kad: Gate<kad::Behaviour<MemoryStore>>,
    pub(super) identify: Gate<identify::Behaviour>,
    pub(super) ping: Gate<ping::Behaviour>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    /// Opens all gates of a connection this far.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId, opening: Opening) {
        self.kad.open(peer, connection, opening);
        self.identify.open(peer, connection, opening);
        self.ping.open(peer, connection, opening);
    }
}

/// The protocol names of one network. Only those who hold its secret can write them.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) admission: StreamProtocol,
    pub(super) requests: StreamProtocol,
    pub(super) kad: StreamProtocol,
    pub(super) identify: String,
}

impl Names {
    pub(super) fn new(tag: &str) -> Self {
        let name = |what: &str| format!("/cairn/{tag}/{what}/1");
        // The names begin with a slash, the only thing that is checked.
        let protocol = |what| {
            StreamProtocol::try_from_owned(name(what))
                .unwrap_or(StreamProtocol::new("/cairn/unnamed/1"))
        };
        Names {
            admission: protocol("admission"),
            requests: protocol("requests"),
            kad: protocol("kad"),
            identify: name("identify"),
        }
    }
}

/// Settings of the DHT.
#[derive(Debug, Clone, Copy)]
pub(super) struct DhtSettings {
    /// Peers kept for each distance.
    pub(super) bucket_size: NonZeroUsize,
    /// How often the routing table is refreshed by look-ups.
    pub(super) refresh: Duration,
    /// Whether this peer answers the questions of others: only those that offer storage do.
    pub(super) serves: bool,
}

/// How a peer takes part in the DHT.
pub(super) const fn mode(serves: bool) -> kad::Mode {
    if serves {
        kad::Mode::Server
    } else {
        kad::Mode::Client
    }
}

pub(super) fn build(
    keypair: &identity::Keypair,
    names: &Names,
    policy: DoorPolicy,
    dht: DhtSettings,
    mdns: bool,
) -> std::io::Result<Behaviour> {
    let own = keypair.public().to_peer_id();
    let identify = identify::Config::new(names.identify.clone(), keypair.public())
        .with_agent_version(concat!("cairn/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_interval(IDENTIFY_INTERVAL)
        .with_cache_size(0);
    let ping = ping::Config::new()
        .with_interval(PING_INTERVAL)
        .with_timeout(PING_TIMEOUT);
    let mdns = if mdns {
        Some(mdns::tokio::Behaviour::new(mdns::Config::default(), own)?)
    } else {
        None
    };
    Ok(Behaviour {
        door: Door::new(policy),
        kad: Gate::new(kademlia(own, names, dht)),
        identify: Gate::new(identify::Behaviour::new(identify)),
        ping: Gate::new(ping::Behaviour::new(ping)),
        mdns: mdns.into(),
    })
}

fn kademlia(own: PeerId, names: &Names, dht: DhtSettings) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(names.kad.clone());
    config
        .set_query_timeout(LOOKUP_TIMEOUT)
        .set_parallelism(LOOKUP_PARALLELISM)
        .set_kbucket_size(dht.bucket_size)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_periodic_bootstrap_interval(Some(dht.refresh))
        // Nothing is stored in the DHT: it finds peers, and peers hold the data.
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_substreams_timeout(Duration::from_secs(5));
    let store = MemoryStore::with_config(
        own,
        MemoryStoreConfig {
            max_records: 0,
            max_provided_keys: 0,
            ..MemoryStoreConfig::default()
        },
    );
    let mut kad = kad::Behaviour::with_config(own, store, config);
    kad.set_mode(Some(mode(dht.serves)));
    kad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_peers_that_offer_storage_serve_the_dht() {
        let keypair = identity::Keypair::generate_ed25519();
        let names = Names::new("test");
        for (serves, expected) in [(true, kad::Mode::Server), (false, kad::Mode::Client)] {
            let settings = DhtSettings {
                bucket_size: NonZeroUsize::MIN,
                refresh: Duration::from_secs(1),
                serves,
            };
            let own = keypair.public().to_peer_id();
            assert_eq!(kademlia(own, &names, settings).mode(), expected);
        }
    }
}
