//! Checkpoint records between real peers over loopback: swarms and stores on disks, in one process.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::limits::POINTER_HOLDERS;
use cairnfs::base::worker::drive;
use cairnfs::base::{Clock, Entropy, Limits, PeerId, Pools, VolumeId};
use cairnfs::blocks::{Blocks, FeedDoor, Parts, PointerKeeper, ServeOptions, serve};
use cairnfs::crypto::{Contact, SigningKey};
use cairnfs::feeds::Signed;
use cairnfs::feeds::checkpoint::{PageHash, Record};
use cairnfs::namespace::{Hlc, WriterId};
use cairnfs::net::swarm::{self, NetOptions, Network};
use cairnfs::net::{NetHandle, Request, Response};
use cairnfs::placement::{distance, peer_point, point, volume_key};
use cairnfs::store::{RealDisk, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::swarm::{Founder, options, within};

const VOLUME: VolumeId = VolumeId([7; 16]);
const SECOND: Duration = Duration::from_secs(1);
const PEERS: usize = 30;
const MEMBERS_MAX: usize = 8;

/// A whole peer but for its commands.
struct Peer {
    own: PeerId,
    blocks: Blocks,
    feeds: FeedDoor,
    network: Option<Network>,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Peer {
    async fn start(options: NetOptions) -> Peer {
        let dir = tempfile::tempdir().unwrap();
        let own = options.credentials.own();
        let (net, ends, inbound) = NetHandle::new(own, 256);
        let pools = Pools::threaded(2, 2);
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let quota = StoreOptions::new(1 << 30, Entropy::os().unwrap());
        let opened = Store::open(disk, quota, pools.clone(), Clock::system());
        let (store, _) = opened.await.unwrap();
        let limits = Limits::default();
        let blocks = Blocks::open(Parts {
            store,
            net,
            pools: pools.clone(),
            clock: Clock::system(),
            signer: None,
            limits,
            fetch_timeout: SECOND,
            memory_bytes: 0,
        });
        let blocks = blocks.await.unwrap();
        let (feeds, stop) = (FeedDoor::default(), CancellationToken::new());
        let serving = Arc::new(ServeOptions {
            offer: AtomicBool::new(true),
            claim_ttl_ms: 1000,
        });
        let stopped = || stop.clone().cancelled_owned();
        tokio::spawn(drive(PointerKeeper::new(blocks.clone()), stopped()));
        let serving = serve(
            inbound,
            blocks.clone(),
            serving,
            feeds.clone(),
            stop.clone(),
        );
        tokio::spawn(serving);
        let entropy = Entropy::os().unwrap();
        let network = swarm::start(options, ends, Clock::system(), entropy, pools).await;
        Peer {
            own,
            blocks,
            feeds,
            network: Some(network.unwrap()),
            stop,
            _dir: dir,
        }
    }

    fn contact(&self) -> Contact {
        let info = self.network.as_ref().unwrap().info();
        Contact {
            peer: self.own,
            control: info.control.clone(),
            bulk: info.bulk.clone(),
        }
    }

    async fn end(&mut self) {
        self.stop.cancel();
        if let Some(network) = self.network.take() {
            network.stop().await;
        }
    }
}

fn record(tag: u8) -> Signed<Record> {
    let device = SigningKey::from_secret(&[tag; 32]);
    let record = Record {
        volume: VOLUME,
        writer: WriterId {
            peer: device.peer(),
            incarnation: 1,
        },
        hlc: Hlc::from_ms(Clock::system().now_ms()),
        root: PageHash::of(b"root"),
        root_bytes: 4,
        place: Bytes::from_static(b"place"),
    };
    Signed::sign(record, &device).unwrap()
}

/// Thirty peers, none of which knows more than eight members: what one publishes is found by another one when those
/// that are closest to the place are gone, and the publisher too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_found_by_the_dht() {
    let founder = Founder::new(31);
    let small = |credentials, contacts: &[Contact]| {
        let mut options = options(credentials, contacts);
        options.max_members = MEMBERS_MAX;
        options.max_spare_records = MEMBERS_MAX;
        options.max_connections = 64;
        options.dht_bucket = NonZeroUsize::new(8).unwrap();
        options
    };
    let mut peers = vec![Peer::start(small(founder.own(), &[])).await];
    while peers.len() < PEERS {
        let contact = peers[peers.len() / 2].contact();
        peers.push(Peer::start(small(founder.member(), &[contact])).await);
    }
    let full = |peer: &Peer| {
        let members = peer.blocks.net().members();
        members.list.len() == MEMBERS_MAX && !members.complete
    };
    assert!(within(SECOND * 30, || peers.iter().all(full)).await);
    let target = point(&volume_key(&VOLUME));
    peers.sort_by_key(|peer| distance(&peer_point(&peer.own), &target));
    let (publisher, reader) = (PEERS - 2, PEERS - 1);
    let record = record(1);
    let begun = std::time::Instant::now();
    let count = peers[publisher].blocks.publish_record(&record).await;
    println!("{count:?} peers have it after {:?}", begun.elapsed());
    // A look-up may miss one of those that are further away.
    assert!(count.unwrap() >= POINTER_HOLDERS - 2);
    peers[publisher].end().await;
    for peer in &mut peers[..6] {
        peer.end().await;
    }
    let begun = std::time::Instant::now();
    let found = peers[reader].blocks.look_for_records(VOLUME).await;
    println!(
        "{} of {} answered within {:?}",
        found.answered,
        found.asked,
        begun.elapsed()
    );
    assert_eq!(found.records, [record]);

    // What is said of feeds, longer than a frame, goes both ways.
    let mut inbound = peers[10].feeds.open();
    let echo = tokio::spawn(async move {
        let asked = inbound.recv().await.unwrap();
        let body = asked.body;
        asked.reply.send(Response::Feed { body }).unwrap();
    });
    let body = Bytes::from(vec![9; 3 << 20]);
    let request = Request::Feed { body: body.clone() };
    let net = peers[reader].blocks.net();
    let answer = net.request(peers[10].own, request, 20 * SECOND).await;
    assert!(answer == Ok(Response::Feed { body }));
    echo.await.unwrap();
    for peer in &mut peers {
        peer.end().await;
    }
}
