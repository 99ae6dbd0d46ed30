//! Real swarms in one process, over loopback.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockId, Clock, Entropy, IndexSet, PeerId, Pools};
use cairnfs::crypto::{Contact, MembershipChain, NetworkSecrets, SigningKey, Terms};
use cairnfs::net::admission::Lists;
use cairnfs::net::credentials::Credentials;
use cairnfs::net::swarm::{self, NetOptions, Network};
use cairnfs::net::{Inbound, NetError, NetHandle, Offer, Reach, Request, Response, Stay};
use cairnfs::placement::candidates::{distance, peer_point, point};
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);

/// Makes the members of one network.
pub struct Founder {
    device: SigningKey,
    secrets: NetworkSecrets,
    chain: MembershipChain,
    entropy: Entropy,
}

impl Founder {
    pub fn new(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let device = SigningKey::generate(&entropy);
        let (secrets, chain) = MembershipChain::found(&device, &entropy);
        Founder {
            device,
            secrets,
            chain,
            entropy,
        }
    }

    pub fn own(&self) -> Credentials {
        self.credentials(self.device.clone(), &self.chain, Lists::default())
    }

    fn credentials(
        &self,
        device: SigningKey,
        chain: &MembershipChain,
        lists: Lists,
    ) -> Credentials {
        let secrets = self.secrets.clone();
        Credentials::new(device, secrets, chain, lists, Clock::system()).unwrap()
    }

    fn device(&self) -> (SigningKey, MembershipChain) {
        let device = SigningKey::generate(&self.entropy);
        let now_ms = Clock::system().now_ms();
        let terms = Terms {
            storage_only: false,
            independent: true,
            expires_ms: now_ms + 60_000,
        };
        let (invitation, key) = self
            .chain
            .invite(&self.device, 0, terms, now_ms, &self.entropy)
            .unwrap();
        let chain = self.chain.admit(&invitation, &key, device.peer(), now_ms);
        (device, chain.unwrap())
    }

    pub fn member(&self) -> Credentials {
        let (device, chain) = self.device();
        self.credentials(device, &chain, Lists::default())
    }
}

/// One running peer that answers every `Have` with empty sets.
struct Peer {
    own: PeerId,
    handle: NetHandle,
    network: Network,
}

impl Peer {
    async fn start(options: NetOptions) -> Peer {
        let own = options.credentials.own();
        let (handle, ends, inbound) = NetHandle::new(own, 256);
        echo(inbound);
        let entropy = Entropy::os().unwrap();
        let pools = Pools::threaded(2, 2);
        let network = swarm::start(options, ends, Clock::system(), entropy, pools)
            .await
            .unwrap();
        Peer {
            own,
            handle,
            network,
        }
    }

    fn contact(&self) -> Contact {
        let info = self.network.info();
        Contact {
            peer: self.own,
            control: info.control.clone(),
            bulk: info.bulk.clone(),
        }
    }

    async fn sees(&self, count: usize) -> bool {
        within(SECOND * 15, || {
            let members = self.handle.members();
            members.list.iter().filter(|m| m.state.is_live()).count() >= count
        })
        .await
    }
}

fn echo(mut inbound: mpsc::Receiver<Inbound>) {
    tokio::spawn(async move {
        while let Some(asked) = inbound.recv().await {
            if let Request::Have { blocks } = &asked.request {
                let held = vec![IndexSet::EMPTY; blocks.len()];
                let _ = asked.reply.send(Response::Held { held });
            }
        }
    });
}

fn have() -> Request {
    Request::Have {
        blocks: vec![BlockId([7; 32])],
    }
}

/// Whether `holds` comes true in time.
pub async fn within(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

pub fn options(credentials: Credentials, contacts: &[Contact]) -> NetOptions {
    let mut options = NetOptions::new(credentials).on_loopback();
    options.contacts = contacts.to_vec();
    options.offer = Offer {
        capacity_bytes: 1 << 30,
        free_bytes: 1 << 30,
        zone: String::new(),
        stay: Stay::Stays,
    };
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_peers_meet_and_ask_each_other() {
    let founder = Founder::new(1);
    let first = Peer::start(options(founder.own(), &[])).await;
    let second = Peer::start(options(founder.member(), &[first.contact()])).await;
    assert!(first.sees(2).await && second.sees(2).await);
    for (one, other) in [(&first, &second), (&second, &first)] {
        let answer = one.handle.request(other.own, have(), SECOND * 5).await;
        assert!(matches!(answer, Ok(Response::Held { .. })), "{answer:?}");
    }
    let unknown = Request::Unknown { opcode: 999 };
    let answer = first.handle.request(second.own, unknown, SECOND * 5).await;
    assert_eq!(answer, Ok(Response::Unsupported));
    // And they go on.
    let answer = first.handle.request(second.own, have(), SECOND * 5).await;
    assert!(matches!(answer, Ok(Response::Held { .. })), "{answer:?}");
    second.network.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_peers_know_each_other_over_the_bulk_plane() {
    let founder = Founder::new(2);
    let first = Peer::start(options(founder.own(), &[])).await;
    let mut peers = vec![first];
    for _ in 0..5 {
        // Each knows only the one before it: the rest is gossip.
        let contact = peers.last().unwrap().contact();
        peers.push(Peer::start(options(founder.member(), &[contact])).await);
    }
    for peer in &peers {
        assert!(peer.sees(6).await, "{:?}", peer.handle.members());
        assert!(within(SECOND * 5, || peer.handle.members().complete).await);
        let bulk = |m: &cairnfs::net::Member| {
            matches!(
                m.state,
                Reach::Own | Reach::Connected(cairnfs::net::Path::Bulk(_))
            )
        };
        let all = || peer.handle.members().list.iter().all(bulk);
        assert!(within(SECOND * 5, all).await, "{:?}", peer.handle.members());
    }
    // A changed offer is known everywhere soon.
    let changed = Offer {
        capacity_bytes: 1 << 30,
        free_bytes: 77,
        zone: "attic".to_owned(),
        stay: Stay::Stays,
    };
    let own = peers[3].own;
    peers[3].handle.offer(changed).await.unwrap();
    for peer in &peers {
        let told = || {
            let members = peer.handle.members();
            let member = members.get(&own);
            member.is_some_and(|m| {
                (m.capacity_bytes, m.free_bytes, m.zone.as_str()) == (1 << 30, 77, "attic")
            })
        };
        assert!(within(SECOND * 3, told).await);
    }
    // What was learned is there to be kept for the next start.
    let records: Vec<Bytes> = peers[5].network.records().borrow().to_vec();
    assert_eq!(records.len(), 5);
}

/// Records keep a restarted peer in the network, without any first contact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_finds_the_others_by_their_records() {
    let founder = Founder::new(3);
    let first = Peer::start(options(founder.own(), &[])).await;
    let credentials = founder.member();
    let second = Peer::start(options(credentials.clone(), &[first.contact()])).await;
    assert!(second.sees(2).await);
    let known = || !second.network.records().borrow().is_empty();
    assert!(within(SECOND * 5, known).await);
    let records = second.network.records().borrow().to_vec();
    let ends = second.network.stop().await.unwrap();
    let gone = || {
        let members = first.handle.members();
        members.get(&second.own).is_some_and(|m| !m.state.is_live())
    };
    assert!(within(SECOND * 10, gone).await);
    let mut again = options(credentials, &[]);
    again.known_records = records;
    let pools = Pools::threaded(2, 2);
    let network = swarm::start(again, ends, Clock::system(), Entropy::seeded(1), pools)
        .await
        .unwrap();
    let back = || {
        second
            .handle
            .members()
            .list
            .iter()
            .all(|m| m.state.is_live())
    };
    assert!(within(SECOND * 15, back).await);
    let answer = second.handle.request(first.own, have(), SECOND * 5).await;
    assert!(answer.is_ok(), "{answer:?}");
    second.handle.shutdown().await;
    assert!(network.stop().await.is_none());
    let late = second.handle.request(first.own, have(), SECOND).await;
    assert_eq!(late, Err(NetError::Closed));
}

/// Without any bulk plane, requests travel over libp2p: TCP or QUIC, whichever there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_libp2p_serve_where_the_bulk_plane_does_not() {
    let cases = [
        ("/ip4/127.0.0.1/tcp/0", cairnfs::net::Path::Tcp),
        ("/ip4/127.0.0.1/udp/0/quic-v1", cairnfs::net::Path::Quic),
    ];
    for (listen, path) in cases {
        let founder = Founder::new(4);
        let without_bulk = |credentials, contacts: &[Contact]| {
            let mut options = options(credentials, contacts);
            options.bulk_listen.clear();
            options.listen = vec![listen.to_owned()];
            options
        };
        let first = Peer::start(without_bulk(founder.own(), &[])).await;
        let contacts = [first.contact()];
        let second = Peer::start(without_bulk(founder.member(), &contacts)).await;
        assert!(first.sees(2).await && second.sees(2).await, "{path:?}");
        let members = second.handle.members();
        let state = &members.get(&first.own).unwrap().state;
        assert_eq!(*state, Reach::Connected(path));
        let answer = first.handle.request(second.own, have(), SECOND * 5).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// The members of a network without anybody's help.
fn true_closest(key: &[u8], peers: &[Peer], count: usize) -> Vec<PeerId> {
    let target = point(key);
    let mut ids: Vec<PeerId> = peers.iter().map(|peer| peer.own).collect();
    ids.sort_by_key(|id| distance(&peer_point(id), &target));
    ids.truncate(count);
    ids
}

/// Sixty peers, none of which knows more than sixteen members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_find_the_closest_where_nobody_knows_everybody() {
    const PEERS: usize = 60;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_ansi(false)
        .try_init();
    let founder = Founder::new(5);
    let small = |credentials, contacts: &[Contact]| {
        let mut options = options(credentials, contacts);
        options.max_members = 16;
        options.max_spare_records = 16;
        options.max_connections = 64;
        options.dht_bucket = NonZeroUsize::new(8).unwrap();
        options
    };
    let mut peers = vec![Peer::start(small(founder.own(), &[])).await];
    while peers.len() < PEERS {
        let at = founder.entropy.below(peers.len() as u64) as usize;
        let contact = peers[at].contact();
        peers.push(Peer::start(small(founder.member(), &[contact])).await);
    }
    let full = |peer: &Peer| {
        let members = peer.handle.members();
        members.list.len() == 16 && !members.complete
    };
    assert!(within(SECOND * 30, || peers.iter().all(full)).await);

    let (mut found, mut hops, mut messages) = (0, 0, 0);
    const LOOKUPS: usize = 20;
    for number in 0..LOOKUPS {
        let key = format!("group {number}").into_bytes();
        let asker = &peers[founder.entropy.below(PEERS as u64) as usize];
        let began = std::time::Instant::now();
        let lookup = asker.handle.closest(key.clone(), 40).await.unwrap();
        println!(
            "{number}: {:?} {} {}",
            began.elapsed(),
            lookup.hops,
            lookup.messages
        );
        let ids: Vec<PeerId> = lookup.found.iter().map(|member| member.peer).collect();
        let expected = true_closest(&key, &peers, 40);
        found += expected.iter().filter(|id| ids.contains(id)).count();
        hops += lookup.hops;
        messages += lookup.messages;
        // The nearest are never missed, and each can be asked although nobody ever met it.
        assert_eq!(ids[..8], expected[..8]);
        let last = ids[ids.len() - 1];
        if last != asker.own {
            let answer = asker.handle.request(last, have(), SECOND * 5).await;
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    let share = found as f64 / (40 * LOOKUPS) as f64;
    println!(
        "{LOOKUPS} look-ups among {PEERS}: {:.2} % of the 40 closest, {:.1} hops and {:.1} messages each",
        share * 100.0,
        f64::from(hops) / LOOKUPS as f64,
        f64::from(messages) / LOOKUPS as f64,
    );
    assert!(share > 0.99);

    // Whoever is neither listed nor remembered is found by its id.
    let made = || {
        peers
            .iter()
            .map(|peer| peer.handle.lookups().count)
            .sum::<u64>()
    };
    let mut asked = 0;
    // By chance the first ones may all be remembered from the look-ups before.
    while asked < 20 || (asked < 500 && made() == LOOKUPS as u64) {
        asked += 1;
        let asker = founder.entropy.below(PEERS as u64) as usize;
        let other = (asker + 1 + founder.entropy.below(PEERS as u64 - 1) as usize) % PEERS;
        let (asker, other) = (&peers[asker], peers[other].own);
        let answer = asker.handle.request(other, have(), SECOND * 8).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    let made = made();
    println!(
        "{} look-ups of {asked} peers by their ids",
        made - LOOKUPS as u64
    );
    assert!(made > LOOKUPS as u64, "all were known");
}

/// Whoever is of another network, is denied, or knows the secrets and has no valid invitation is
/// neither admitted nor routed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_do_not_belong_get_nothing() {
    let founder = Founder::new(6);
    let (unwanted, unwanted_chain) = founder.device();
    let lists = Lists {
        denied: BTreeSet::from([unwanted.peer()]),
        ..Lists::default()
    };
    let host = founder.credentials(founder.device.clone(), &founder.chain, lists);
    let host = Peer::start(options(host, &[])).await;
    let contacts = [host.contact()];

    let stranger = Founder::new(7).own();
    let denied = founder.credentials(unwanted, &unwanted_chain, Lists::default());
    // Each knows the secrets. One shows the proof of another device, one that of a network of
    // its own.
    let pretender = |chain: &MembershipChain| {
        let device = SigningKey::generate(&founder.entropy);
        let secrets = founder.secrets.clone();
        Credentials::unchecked(device, secrets, chain, Clock::system())
    };
    let thief = pretender(&founder.device().1);
    let impostor = pretender(&Founder::new(9).chain);
    for credentials in [stranger, denied, thief, impostor] {
        let mut options = options(credentials, &contacts);
        options.limits.admission_timeout = SECOND;
        options.limits.dial_timeout = SECOND * 2;
        let guest = Peer::start(options).await;
        let address = format!("{}/p2p/{}", contacts[0].control[0], host.own);
        assert!(guest.handle.dial(address).await.is_err());
        let answer = guest.handle.request(host.own, have(), SECOND * 4).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(host.handle.members().list.len(), 1);
        let answer = host.handle.request(guest.own, have(), SECOND * 2).await;
        assert!(answer.is_err(), "{answer:?}");
        let looked = host.handle.closest(b"x".to_vec(), 40).await.unwrap();
        assert_eq!(looked.found.len(), 1);
        guest.network.stop().await.unwrap();
    }
    // A member still gets in.
    let member = Peer::start(options(founder.member(), &contacts)).await;
    assert!(member.sees(2).await);
}

mod stranger {
    //! A libp2p peer that knows all protocol names, and nothing else.

    use libp2p::futures::StreamExt;
    use libp2p::kad::store::MemoryStore;
    use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
    use libp2p::{
        Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, kad, noise, ping, tcp, yamux,
    };

    use super::*;

    #[derive(NetworkBehaviour)]
    struct Behaviour {
        kad: kad::Behaviour<MemoryStore>,
        identify: identify::Behaviour,
        ping: ping::Behaviour,
    }

    fn swarm(tag: &str) -> Swarm<Behaviour> {
        let kad = StreamProtocol::try_from_owned(format!("/cairn/{tag}/kad/1")).unwrap();
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|key| {
                let own = key.public().to_peer_id();
                Behaviour {
                    kad: kad::Behaviour::with_config(
                        own,
                        MemoryStore::new(own),
                        kad::Config::new(kad),
                    ),
                    identify: identify::Behaviour::new(identify::Config::new(
                        format!("/cairn/{tag}/identify/1"),
                        key.public(),
                    )),
                    ping: ping::Behaviour::new(ping::Config::new()),
                }
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(SECOND * 60))
            .build()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn knowing_the_names_is_not_enough() {
        let founder = Founder::new(8);
        let mut quick = options(founder.own(), &[]);
        quick.limits.admission_timeout = SECOND;
        let host = Peer::start(quick).await;
        let member = Peer::start(options(founder.member(), &[host.contact()])).await;
        assert!(member.sees(2).await);
        let mut swarm = swarm(founder.own().tag());
        let address: Multiaddr = host.network.info().control[0].parse().unwrap();
        let peer = libp2p::PeerId::from_bytes(&host.own.to_multihash()).unwrap();
        swarm
            .behaviour_mut()
            .kad
            .add_address(&peer, address.clone());
        swarm.dial(address).unwrap();
        swarm
            .behaviour_mut()
            .kad
            .get_closest_peers(libp2p::PeerId::random());
        let mut was_connected = false;
        let mut found = None;
        let watching = async {
            while let Some(event) = swarm.next().await {
                match event {
                    SwarmEvent::ConnectionEstablished { .. } => was_connected = true,
                    SwarmEvent::ConnectionClosed { .. } => break,
                    SwarmEvent::Behaviour(BehaviourEvent::Identify(
                        identify::Event::Received { .. },
                    )) => panic!("identified itself to a stranger"),
                    SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                        result: Ok(_),
                        ..
                    })) => panic!("answered a stranger's ping"),
                    SwarmEvent::Behaviour(BehaviourEvent::Kad(
                        kad::Event::OutboundQueryProgressed {
                            result: kad::QueryResult::GetClosestPeers(Ok(result)),
                            ..
                        },
                    )) => found = Some(result.peers.len()),
                    _ => {}
                }
            }
        };
        // It is shown out when it has proved nothing in time.
        tokio::time::timeout(SECOND * 8, watching).await.unwrap();
        assert!(was_connected);
        assert!(found.is_none_or(|peers| peers == 0), "{found:?}");
        assert_eq!(host.handle.members().list.len(), 2);
    }
}
