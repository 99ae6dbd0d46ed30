//! Real swarms in one process, over loopback.

use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockId, Clock, Entropy, IndexSet, PeerId, Pools};
use cairnfs::crypto::{Contact, MembershipChain, NetworkSecrets, SigningKey, Terms};
use cairnfs::net::admission::Lists;
use cairnfs::net::credentials::Credentials;
use cairnfs::net::swarm::{self, NetOptions, Network};
use cairnfs::net::{Inbound, NetError, NetHandle, Offer, Reach, Request, Response};
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);

/// Makes the members of one network.
struct Founder {
    device: SigningKey,
    secrets: NetworkSecrets,
    chain: MembershipChain,
    entropy: Entropy,
}

impl Founder {
    fn new(seed: u64) -> Self {
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

    fn own(&self) -> Credentials {
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

    fn member(&self) -> Credentials {
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
async fn within(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

fn options(credentials: Credentials, contacts: &[Contact]) -> NetOptions {
    let mut options = NetOptions::new(credentials).on_loopback();
    options.contacts = contacts.to_vec();
    options.offer = Offer {
        capacity_bytes: 1 << 30,
        free_bytes: 1 << 30,
        zone: String::new(),
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
    let answer = first.handle.request(second.own, unknown, SECOND).await;
    assert!(answer.is_ok() || matches!(answer, Err(NetError::Busy(_))));
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
        assert!(peer.handle.members().complete);
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
    };
    let own = peers[3].own;
    peers[3].handle.offer(changed).await.unwrap();
    for peer in &peers {
        let told = || {
            let members = peer.handle.members();
            let member = members.get(&own);
            member.is_some_and(|m| m.free_bytes == 77 && m.zone == "attic")
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
