//! The bulk plane over real sockets: admission, strangers, lost and doubled connections.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{BlockId, ClaimId, IndexSet, OwnerId, PeerId};
use cairnfs::crypto::SigningKey;
use cairnfs::net::admission::{AdmissionError, Denied, Lists};
use cairnfs::net::bulk::{BULK_PROTOCOL, BulkError};
use cairnfs::net::codec::{Header, Kind};
use cairnfs::net::swarm::tls::PeerTls;
use cairnfs::net::{NetError, Path, Reach, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::peers::{Network, Peer, limits};

fn have() -> Request {
    Request::Have {
        blocks: vec![BlockId([1; 32])],
    }
}

fn held() -> Response {
    Response::Held {
        held: vec![IndexSet(3)],
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn members_connect_on_demand_and_both_sides_ask() {
    let network = Network::found(1);
    let (mut a, mut b) = (network.peer().await, network.peer().await);
    a.knows(&b);
    b.serve(|request| match request {
        Request::Store { data, .. } => {
            assert!(data.iter().all(|byte| *byte == 7));
            Response::Stored
        }
        _ => held(),
    });
    a.serve(|_| Response::Done);
    assert_eq!(a.links.reach(&b.id), Reach::Idle);
    assert_eq!(a.links.request(b.id, &have(), soon()).await, Ok(held()));
    let store = Request::Store {
        claim: ClaimId {
            owner: OwnerId([1; 16]),
            writer: a.id,
            number: 1,
        },
        expires_ms: 0,
        block: BlockId([1; 32]),
        index: 0,
        header: Bytes::from_static(b"header"),
        data: vec![7; 4 << 20].into(),
    };
    let stored = a.links.request(b.id, &store, soon()).await;
    assert_eq!(stored, Ok(Response::Stored));
    // The other way over the same connection: b knows no address of a.
    let answer = b.links.request(a.id, &have(), soon()).await;
    assert_eq!(answer, Ok(Response::Done));
    assert_eq!(
        a.links.reach(&b.id),
        Reach::Connected(Path::Bulk(b.address))
    );
    assert!(a.links.rtt(&b.id).is_some());
    let (peer, greeted) = b.greeted.recv().await.unwrap();
    assert_eq!(
        (peer, &greeted.record[..]),
        (a.id, format!("record of {}", a.id).as_bytes())
    );
    let (peer, _) = a.greeted.recv().await.unwrap();
    assert_eq!(peer, b.id);
    timeout(Duration::from_secs(5), a.stop()).await.unwrap();
    timeout(Duration::from_secs(5), b.stop()).await.unwrap();
    let late = a.links.request(b.id, &have(), soon()).await;
    assert_eq!(late, Err(NetError::Closed));
}

/// What a connection says until it closes.
async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> usize {
    let mut said = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut said))
        .await
        .expect("it closes");
    said.len()
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let (network, elsewhere) = (Network::found(1), Network::found(2));
    let mut member = network.peer().await;
    member.serve(|_| panic!("a stranger was served"));
    // A member of another network.
    let stranger = elsewhere.peer().await;
    let outcome = stranger
        .plane
        .connect_to(member.id, &[member.address])
        .await;
    assert!(matches!(
        outcome,
        Err(BulkError::Admission(AdmissionError::Io(_)))
    ));
    let outcome = stranger.links.request(member.id, &have(), soon()).await;
    assert!(matches!(outcome, Err(NetError::Unreachable(_))));
    // One with a good certificate that asks at once, without any proof.
    let tls = PeerTls::new(&SigningKey::from_secret(&[5; 32]), BULK_PROTOCOL).unwrap();
    let config = std::sync::Arc::new(tls.client(member.id).unwrap());
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tcp = TcpStream::connect(member.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let ask = cairnfs::net::codec::encode_request(1, &have()).unwrap();
    stream.write_all(&ask.head).await.unwrap();
    assert_eq!(read_all(&mut stream).await, 0);
    assert!(member.links.connected().is_empty());
    assert!(member.greeted.try_recv().is_err());
}

#[tokio::test]
async fn a_peer_with_another_key_is_not_the_peer() {
    let network = Network::found(1);
    let (a, b) = (network.peer().await, network.peer().await);
    let outcome = a.plane.connect_to(PeerId([3; 32]), &[b.address]).await;
    assert!(matches!(outcome, Err(BulkError::Io(_))));
    assert!(b.links.connected().is_empty());
}

#[tokio::test]
async fn whoever_dawdles_or_babbles_is_shown_out() {
    let network = Network::found(1);
    let member = network.peer().await;
    let connect = || TcpStream::connect(member.address);
    // Says nothing.
    let began = Instant::now();
    let mut silent = connect().await.unwrap();
    assert_eq!(read_all(&mut silent).await, 0);
    assert!(began.elapsed() < Duration::from_millis(1500));
    // Says a little every now and then.
    let began = Instant::now();
    let mut slow = connect().await.unwrap();
    let (mut reading, mut writing) = slow.split();
    let dripping = async {
        for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 252].into_iter().cycle() {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = dripping => {}
        _ = read_all(&mut reading) => {}
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    // Talks nonsense.
    let mut babbler = connect().await.unwrap();
    babbler.write_all(&[0xaa; 100_000]).await.ok();
    assert!(read_all(&mut babbler).await < 100, "at most a TLS alert");
    // Proves its id, and dawdles then.
    let tls = PeerTls::new(&SigningKey::from_secret(&[5; 32]), BULK_PROTOCOL).unwrap();
    let config = std::sync::Arc::new(tls.client(member.id).unwrap());
    let connector = tokio_rustls::TlsConnector::from(config);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let began = Instant::now();
    let mut stream = connector
        .connect(name, connect().await.unwrap())
        .await
        .unwrap();
    let oversize = Header {
        meta_len: 30_000,
        opcode: 1,
        ..Header::bare(Kind::Hello, 0)
    };
    stream.write_all(&oversize.encode()).await.unwrap();
    assert_eq!(read_all(&mut stream).await, 0);
    assert!(began.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn those_who_wait_for_admission_are_bounded_and_members_come_through() {
    let network = Network::found(1);
    let member = network.peer().await;
    let mut crowd = Vec::new();
    for _ in 0..80 {
        crowd.push(TcpStream::connect(member.address).await.unwrap());
    }
    // Most are closed at once; the others when their time is over.
    let began = Instant::now();
    let closed = crowd.iter_mut().map(|stream| async {
        read_all(stream).await;
        began.elapsed()
    });
    let closed = futures::future::join_all(closed).await;
    let is_at_once = |after: &&Duration| **after < Duration::from_millis(300);
    let at_once = closed.iter().filter(is_at_once).count();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!((40..80).contains(&at_once), "{at_once}");
    drop(crowd);
    let guest = network.peer().await;
    guest.knows(&member);
    let link = guest.plane.connect_to(member.id, &[member.address]).await;
    assert!(link.is_ok(), "{at_once} were closed at once");
}

#[tokio::test]
async fn a_full_peer_says_so_and_keeps_those_it_has() {
    let network = Network::found(1);
    let full = Peer::start(&network.identity(), limits(), 1, "127.0.0.1:0").await;
    let (a, mut b) = (network.peer().await, network.peer().await);
    a.plane
        .connect_to(full.id, &[full.address])
        .await
        .expect("there is room");
    let refused = b.plane.connect_to(full.id, &[full.address]).await;
    assert!(matches!(
        refused,
        Err(BulkError::Admission(AdmissionError::Refused(Denied::Full)))
    ));
    let connected = || -> Vec<PeerId> {
        let connected = full.links.connected();
        connected.iter().map(|(peer, _)| *peer).collect()
    };
    assert_eq!(connected(), [a.id]);
    // Neither does it dial beyond the limit: somebody it wants to ask takes the place of one that
    // nobody needs.
    b.serve(|_| held());
    full.knows(&b);
    let asked = full.links.request(b.id, &have(), soon()).await;
    assert_eq!(asked, Ok(held()));
    assert_eq!(connected(), [b.id]);
    // And so does somebody who comes, at the second attempt.
    sleep(Duration::from_secs(1)).await;
    let address = [full.address];
    assert!(a.plane.connect_to(full.id, &address).await.is_err());
    until("the other has left", || connected().is_empty()).await;
    a.plane
        .connect_to(full.id, &address)
        .await
        .expect("there is room again");
    assert_eq!(connected(), [a.id]);
}

#[tokio::test]
async fn denied_peers_neither_come_nor_stay() {
    let network = Network::found(1);
    let identity = network.identity();
    let host = Peer::start(&identity, limits(), 8, "127.0.0.1:0").await;
    let guest = network.peer().await;
    guest.knows(&host);
    host.knows(&guest);
    let link = guest
        .plane
        .connect_to(host.id, &[host.address])
        .await
        .unwrap();
    until("connected", || !host.links.connected().is_empty()).await;
    identity.gate.set_lists(Lists {
        denied: BTreeSet::from([guest.id]),
        ..Lists::default()
    });
    host.links.ban(&guest.id);
    link.ended().await;
    let again = guest.plane.connect_to(host.id, &[host.address]).await;
    assert!(again.is_err());
    let asked = host.links.request(guest.id, &have(), soon()).await;
    assert_eq!(asked, Err(NetError::Denied(guest.id)));
}

#[tokio::test]
async fn two_simultaneous_connections_become_one() {
    let network = Network::found(1);
    for _ in 0..5 {
        let (mut a, mut b) = (network.peer().await, network.peer().await);
        a.knows(&b);
        b.knows(&a);
        a.serve(|_| held());
        b.serve(|_| held());
        let (to_b, to_a) = (have(), have());
        let (there, back) = tokio::join!(
            a.links.request(b.id, &to_b, soon()),
            b.links.request(a.id, &to_a, soon()),
        );
        assert_eq!((there, back), (Ok(held()), Ok(held())));
        sleep(Duration::from_millis(50)).await;
        for _ in 0..20 {
            let (there, back) = tokio::join!(
                a.links.request(b.id, &to_b, soon()),
                b.links.request(a.id, &to_a, soon()),
            );
            assert_eq!((there, back), (Ok(held()), Ok(held())));
        }
        assert_eq!(a.links.connected().len(), 1);
        assert_eq!(b.links.connected().len(), 1);
        a.stop().await;
        b.stop().await;
    }
}

#[tokio::test]
async fn a_restarted_peer_is_found_again() {
    let network = Network::found(1);
    let mut a = network.peer().await;
    a.serve(|_| Response::Done);
    let identity = network.identity();
    let b = Peer::start(&identity, limits(), 8, "127.0.0.1:0").await;
    a.knows(&b);
    a.links.keep(BTreeSet::from([b.id]));
    until("connected", || a.links.best(&b.id).is_some()).await;
    // It vanishes without a word.
    for (peer, _) in b.links.connected() {
        b.links.ban(&peer);
    }
    b.stop().await;
    let address = b.address;
    drop(b);
    until("noticed", || {
        matches!(a.links.reach(&identity.device.peer()), Reach::Away { .. })
    })
    .await;
    let refused = a
        .links
        .request(identity.device.peer(), &have(), soon())
        .await;
    assert!(matches!(refused, Err(NetError::Unreachable(_))));
    let mut b = Peer::start(&identity, limits(), 8, &address.to_string()).await;
    b.serve(|_| held());
    until("connected again", || a.links.best(&b.id).is_some()).await;
    assert_eq!(a.links.request(b.id, &have(), soon()).await, Ok(held()));
}

#[tokio::test]
async fn the_first_address_that_answers_serves() {
    let network = Network::found(1);
    let (a, b) = (network.peer().await, network.peer().await);
    // Nobody listens at the first; the second drops everything (a documentation network).
    let closed = "127.0.0.1:1".parse().unwrap();
    let link = a
        .plane
        .connect_to(b.id, &[closed, b.address])
        .await
        .unwrap();
    assert_eq!(link.path(), Path::Bulk(b.address));
    let nowhere = a.plane.connect_to(b.id, &[]).await;
    assert!(matches!(nowhere, Err(BulkError::NoAddress)));
    assert!(matches!(
        a.plane.connect_to(b.id, &[closed]).await,
        Err(BulkError::Io(_))
    ));
}
