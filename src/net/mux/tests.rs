//! Links between peers that keep the rules.

mod hostile;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::*;
use crate::base::{BlockId, ClaimId, IndexSet, OwnerId};
use crate::net::codec::{HEADER_BYTES, Header, Kind, encode_request};
use crate::net::message::{Refusal, Request, Response};

const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);
const C: PeerId = PeerId([3; 32]);

struct End {
    link: Link,
    inbound: mpsc::Receiver<Inbound>,
    context: LinkContext,
}

fn context(limits: Limits, throttle: Throttle) -> (LinkContext, mpsc::Receiver<Inbound>) {
    let (inbound, requests) = mpsc::channel(limits.queue);
    let context = LinkContext {
        inbound,
        throttle,
        budget: PayloadBudget::new(64 << 20),
        limits: Arc::new(limits),
        tasks: TaskTracker::new(),
    };
    (context, requests)
}

fn end(peer: PeerId, stream: DuplexStream, limits: Limits, throttle: Throttle) -> End {
    let (context, inbound) = context(limits, throttle);
    let link = Link::start(
        peer,
        Path::Memory,
        tokio::io::split(stream),
        context.clone(),
    );
    End {
        link,
        inbound,
        context,
    }
}

fn pair_with(limits: &Limits, throttle: Throttle) -> (End, End) {
    let (a, b) = tokio::io::duplex(256 << 10);
    (
        end(B, a, limits.clone(), throttle),
        end(A, b, limits.clone(), Throttle::unlimited()),
    )
}

fn pair() -> (End, End) {
    pair_with(&Limits::default(), Throttle::unlimited())
}

/// One end is the bare stream.
fn against_stream() -> (End, DuplexStream) {
    let (a, b) = tokio::io::duplex(1 << 20);
    (end(B, a, Limits::tiny(), Throttle::unlimited()), b)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn have() -> Request {
    Request::Have {
        blocks: vec![BlockId([7; 32])],
    }
}

fn held() -> Response {
    Response::Held {
        held: vec![IndexSet::one(3)],
    }
}

fn fetch() -> Request {
    Request::Fetch {
        block: BlockId([7; 32]),
        wanted: IndexSet::first(4),
    }
}

fn shard(len: usize) -> Response {
    Response::Shard {
        index: 2,
        held: IndexSet::one(2),
        header: Bytes::from_static(b"header"),
        data: pattern(len),
    }
}

fn store(len: usize) -> Request {
    Request::Store {
        claim: ClaimId {
            owner: OwnerId([1; 16]),
            writer: A,
            number: 9,
        },
        expires_ms: 10,
        block: BlockId([7; 32]),
        index: 1,
        header: Bytes::from_static(b"header"),
        data: pattern(len),
    }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
}

/// Answers every request with what `answer` says.
fn serve(
    mut inbound: mpsc::Receiver<Inbound>,
    answer: impl Fn(&Request) -> Response + Send + 'static,
) {
    tokio::spawn(async move {
        while let Some(Inbound { request, reply, .. }) = inbound.recv().await {
            let _ = reply.send(answer(&request));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn requests_flow_both_ways_with_payloads_of_any_size() {
    let (a, b) = pair();
    serve(a.inbound, |_| held());
    serve(b.inbound, |request| match request {
        Request::Store { data, .. } => {
            assert_eq!(*data, pattern(data.len()));
            Response::Stored
        }
        Request::Fetch { wanted, .. } => shard(wanted.0 as usize),
        _ => Response::Done,
    });
    let sizes = [
        0, 1, 16_383, 16_384, 16_385, 131_072, 131_073, 1_000_000, 4_259_840,
    ];
    for size in sizes {
        let stored = a.link.request(&store(size), soon()).await;
        assert_eq!(stored, Ok(Response::Stored), "{size}");
        let wanted = IndexSet(size as u64);
        let block = BlockId([0; 32]);
        let fetch = Request::Fetch { block, wanted };
        let fetched = a.link.request(&fetch, soon()).await;
        assert_eq!(fetched, Ok(shard(size)), "{size}");
        assert_eq!(b.link.request(&have(), soon()).await, Ok(held()));
    }
    assert_eq!(a.link.peer(), B);
    assert!(b.link.rtt().is_some());
    // All that was reserved for payloads is free again.
    assert_eq!(b.context.budget.free_bytes(), 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_any_order() {
    let (a, mut b) = pair();
    let asking: Vec<_> = (0..40u64)
        .map(|number| {
            let link = a.link.clone();
            tokio::spawn(async move {
                let wanted = IndexSet(number);
                let block = BlockId([0; 32]);
                link.request(&Request::Fetch { block, wanted }, soon())
                    .await
            })
        })
        .collect();
    let mut waiting = Vec::new();
    while waiting.len() < 40 {
        waiting.push(b.inbound.recv().await.unwrap());
    }
    for inbound in waiting.into_iter().rev() {
        let Request::Fetch { wanted, .. } = inbound.request else {
            panic!("not what was asked");
        };
        inbound
            .reply
            .send(Response::Missing { held: wanted })
            .unwrap();
    }
    for (number, answer) in asking.into_iter().enumerate() {
        let held = IndexSet(number as u64);
        assert_eq!(answer.await.unwrap(), Ok(Response::Missing { held }));
    }
}

#[tokio::test(start_paused = true)]
async fn small_answers_overtake_payloads() {
    // 1 MiB/s: the shards take seconds.
    let (mut a, b) = pair_with(&Limits::default(), Throttle::new(1 << 20, 0));
    let shards: Vec<_> = (0..3)
        .map(|_| {
            let link = b.link.clone();
            tokio::spawn(async move { link.request(&fetch(), soon()).await })
        })
        .collect();
    for _ in 0..3 {
        let inbound = a.inbound.recv().await.unwrap();
        inbound.reply.send(shard(4 << 20)).unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    serve(a.inbound, |_| held());
    let began = Instant::now();
    assert_eq!(b.link.request(&have(), soon()).await, Ok(held()));
    assert!(began.elapsed() < Duration::from_millis(500));
    for answer in shards {
        assert_eq!(answer.await.unwrap(), Ok(shard(4 << 20)));
    }
    let took = began.elapsed().as_secs_f64() + 1.0;
    assert!((11.0..14.0).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn bandwidth_is_limited_in_both_directions() {
    for throttle in [Throttle::new(1 << 20, 0), Throttle::new(0, 1 << 20)] {
        let (a, b) = pair_with(&Limits::default(), throttle.clone());
        serve(a.inbound, |request| match request {
            Request::Fetch { .. } => shard(4 << 20),
            _ => Response::Stored,
        });
        serve(b.inbound, |_| Response::Stored);
        let began = Instant::now();
        let (fetch, store) = (fetch(), store(4 << 20));
        let (fetched, stored) = tokio::join!(
            b.link.request(&fetch, soon()),
            a.link.request(&store, soon())
        );
        assert!(fetched.is_ok() && stored.is_ok());
        let took = began.elapsed().as_secs_f64();
        match throttle.up.rate() {
            0 => assert!(took < 1.0, "nothing large was received: {took}"),
            _ => assert!((7.5..9.0).contains(&took), "{took}"),
        }
        // And down: the same bytes the other way.
        let began = Instant::now();
        let stored = b.link.request(&store, soon()).await;
        assert!(stored.is_ok());
        let took = began.elapsed().as_secs_f64();
        match throttle.down.rate() {
            0 => assert!(took < 1.0, "{took}"),
            _ => assert!((3.5..4.5).contains(&took), "{took}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_is_cancelled_at_the_peer() {
    let (a, mut b) = pair();
    let asking = timeout(Duration::from_secs(1), async {
        a.link.request(&have(), soon()).await
    });
    assert!(asking.await.is_err());
    let mut inbound = b.inbound.recv().await.unwrap();
    timeout(Duration::from_secs(1), inbound.reply.closed())
        .await
        .expect("the cancellation arrives");
    // And the connection still serves.
    let asking = tokio::spawn({
        let link = a.link.clone();
        async move { link.request(&have(), soon()).await }
    });
    let inbound = b.inbound.recv().await.unwrap();
    inbound.reply.send(held()).unwrap();
    assert_eq!(asking.await.unwrap(), Ok(held()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds() {
    let (a, _b) = pair();
    let deadline = Instant::now() + Duration::from_secs(3);
    let outcome = a.link.request(&have(), deadline).await;
    assert_eq!(outcome, Err(NetError::Timeout(B)));
    assert_eq!(Instant::now(), deadline);
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_answered_busy() {
    let small = Limits {
        inbound_per_peer: 2,
        requests_per_peer: 8,
        ..Limits::tiny()
    };
    let (a, mut b) = pair_with(&small, Throttle::unlimited());
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let link = a.link.clone();
            tokio::spawn(async move { link.request(&store(100_000), soon()).await })
        })
        .collect();
    let served = [
        b.inbound.recv().await.unwrap(),
        b.inbound.recv().await.unwrap(),
    ];
    sleep(Duration::from_secs(1)).await;
    assert!(b.inbound.try_recv().is_err());
    // An answer makes room for others.
    for inbound in served {
        inbound.reply.send(Response::Stored).unwrap();
    }
    let mut outcomes = Vec::new();
    for answer in asking {
        outcomes.push(answer.await.unwrap().unwrap());
    }
    let count = |what: &Response| outcomes.iter().filter(|o| *o == what).count();
    assert_eq!((count(&Response::Stored), count(&Response::Busy)), (2, 2));
    // A handler that goes away without an answer is busy, too.
    let asking = tokio::spawn({
        let link = a.link.clone();
        async move { link.request(&have(), soon()).await }
    });
    drop(b.inbound.recv().await.unwrap());
    assert_eq!(asking.await.unwrap(), Ok(Response::Busy));
}

#[tokio::test(start_paused = true)]
async fn own_requests_wait_for_a_slot() {
    let (a, mut b) = pair_with(&Limits::tiny(), Throttle::unlimited());
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let link = a.link.clone();
            tokio::spawn(async move { link.request(&have(), soon()).await })
        })
        .collect();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(a.link.in_flight(), 4);
    let mut answered = 0;
    while let Ok(Some(inbound)) = timeout(Duration::from_secs(1), b.inbound.recv()).await {
        inbound.reply.send(held()).unwrap();
        answered += 1;
    }
    let mut refused = 0;
    for answer in asking {
        match answer.await.unwrap() {
            Ok(_) => {}
            Err(NetError::Busy(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // Four under way, and room for eight times as many waiting.
    assert_eq!(answered + refused, 100);
    assert!((32..=36).contains(&answered), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_noticed() {
    let (a, _silent) = against_stream();
    let began = Instant::now();
    let outcome = a.link.request(&have(), soon()).await;
    assert_eq!(outcome, Err(NetError::Lost(B)));
    assert!(
        began.elapsed() <= Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(a.link.ended().await, LinkEnd::Silent);
    assert_eq!(
        a.link.request(&have(), soon()).await,
        Err(NetError::Lost(B))
    );
    // Also when nobody waits for it.
    let (a, _silent) = against_stream();
    let began = Instant::now();
    assert_eq!(a.link.ended().await, LinkEnd::Silent);
    assert!(began.elapsed() <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_stays() {
    let (a, b) = pair();
    sleep(Duration::from_secs(3600)).await;
    serve(b.inbound, |_| held());
    assert_eq!(a.link.request(&have(), soon()).await, Ok(held()));
    assert!(a.link.rtt().is_some());
    // It costs a few frames a minute.
    let (_a, mut stream) = against_stream();
    let mut frames = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await.unwrap();
        let ping = Header::decode(&head).unwrap();
        let pong = Header::bare(Kind::Pong, ping.id).encode();
        stream.write_all(&pong).await.unwrap();
        frames += 1;
    }
    assert!((30..=45).contains(&frames), "{frames} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_no_silence() {
    let (a, mut b) = pair();
    let asking = tokio::spawn({
        let link = a.link.clone();
        async move {
            link.request(&have(), Instant::now() + Duration::from_secs(600))
                .await
        }
    });
    let inbound = b.inbound.recv().await.unwrap();
    sleep(Duration::from_secs(300)).await;
    inbound.reply.send(held()).unwrap();
    assert_eq!(asking.await.unwrap(), Ok(held()));
}

#[tokio::test(start_paused = true)]
async fn who_receives_slowly_gives_signs_of_life() {
    let (_a, mut stream) = against_stream();
    let store = encode_request(5, &store(100_000)).unwrap();
    stream.write_all(&store.head).await.unwrap();
    let mut signs = 0;
    for _ in 0..60 {
        let segment = Header {
            payload_len: 100,
            ..Header::bare(Kind::Data, 5)
        };
        stream.write_all(&segment.encode()).await.unwrap();
        stream.write_all(&[0; 100]).await.unwrap();
        let mut sign = [0; HEADER_BYTES];
        let heard = timeout(Duration::from_secs(1), stream.read_exact(&mut sign));
        signs += usize::from(heard.await.is_ok());
    }
    assert!(signs >= 15, "{signs} in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_fails_what_is_under_way() {
    let (a, stream) = against_stream();
    let asking = tokio::spawn({
        let link = a.link.clone();
        async move { link.request(&have(), soon()).await }
    });
    sleep(Duration::from_secs(1)).await;
    drop(stream);
    assert_eq!(asking.await.unwrap(), Err(NetError::Lost(B)));
    assert!(matches!(a.link.ended().await, LinkEnd::Lost(_)));
    a.context.tasks.close();
    timeout(Duration::from_secs(5), a.context.tasks.wait())
        .await
        .expect("no task is left behind");
}

#[tokio::test(start_paused = true)]
async fn closing_lets_what_is_under_way_finish() {
    let (a, mut b) = pair();
    let asking: Vec<_> = [have(), store(300_000)]
        .into_iter()
        .map(|request| {
            let link = a.link.clone();
            tokio::spawn(async move { link.request(&request, soon()).await })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    a.link.close();
    assert!(!a.link.is_open());
    assert_eq!(
        a.link.request(&have(), soon()).await,
        Err(NetError::Lost(B))
    );
    for _ in 0..2 {
        let inbound = b.inbound.recv().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        inbound.reply.send(Response::Done).unwrap();
    }
    for answer in asking {
        assert_eq!(answer.await.unwrap(), Ok(Response::Done));
    }
    assert_eq!(a.link.ended().await, LinkEnd::Closed);
    assert_eq!(b.link.ended().await, LinkEnd::Closed);
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_ever() {
    let (a, b) = pair();
    let asking = tokio::spawn({
        let link = a.link.clone();
        async move { link.request(&have(), soon()).await }
    });
    sleep(Duration::from_millis(1)).await;
    a.link.close();
    let began = Instant::now();
    assert_eq!(asking.await.unwrap(), Err(NetError::Lost(B)));
    assert!(began.elapsed() < Duration::from_secs(6));
    b.link.ended().await;
}
