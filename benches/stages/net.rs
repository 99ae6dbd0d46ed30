//! The bulk plane over loopback: two peers, each on a runtime of its own, so that the processor
//! time of sender and receiver can be told apart. Beside it the bare transports, for comparison.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::{BlockId, ClaimId, IndexSet, OwnerId, PeerId};
use cairnfs::crypto::SigningKey;
use cairnfs::net::bulk::BULK_PROTOCOL;
use cairnfs::net::swarm::tls::PeerTls;
use cairnfs::net::{Request, Response};
use criterion::{Criterion, Throughput};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[path = "../../tests/it/peers.rs"]
mod peers;

use peers::{Network, Peer};

const SHARD_BYTES: usize = 512 << 10;
const IN_FLIGHT: usize = 16;
const SMALL_IN_FLIGHT: usize = 32;

fn runtime(name: &'static str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Processor seconds of all threads of this name.
fn cpu_seconds(thread: &str) -> f64 {
    let mut ticks = 0;
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    for task in tasks.flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.split_once(')') else {
            continue;
        };
        if name.ends_with(thread) {
            let field = |at: usize| rest.split(' ').nth(at).and_then(|v| v.parse::<u64>().ok());
            ticks += field(12).unwrap_or(0) + field(13).unwrap_or(0);
        }
    }
    ticks as f64 / 100.0
}

/// Runs `work`, which moves `bytes`, and prints its rate and its cost.
fn report(name: &str, bytes: usize, work: impl FnOnce()) {
    let cpu = || (cpu_seconds("sender"), cpu_seconds("receiver"));
    let (sender, receiver) = cpu();
    let began = Instant::now();
    work();
    let took = began.elapsed().as_secs_f64();
    let (sender_after, receiver_after) = cpu();
    let gib = bytes as f64 / f64::from(1 << 30);
    eprintln!(
        "{name}: {:.0} MB/s, CPU s/GiB {:.2} + {:.2}",
        bytes as f64 / 1e6 / took,
        (sender_after - sender) / gib,
        (receiver_after - receiver) / gib,
    );
}

struct Pair {
    sending: Runtime,
    receiving: Runtime,
    sender: Peer,
    receiver: Peer,
}

fn pair() -> Pair {
    let (sending, receiving) = (runtime("sender"), runtime("receiver"));
    let network = Network::found(1);
    let sender = sending.block_on(network.peer());
    let mut receiver = receiving.block_on(network.peer());
    sender.knows(&receiver);
    let shard = Bytes::from(vec![7u8; SHARD_BYTES]);
    receiving.block_on(async {
        receiver.serve(move |request| match request {
            Request::Store { .. } => Response::Stored,
            Request::Fetch { .. } => Response::Shard {
                index: 0,
                held: IndexSet::one(0),
                header: Bytes::from_static(&[0; 300]),
                data: shard.clone(),
            },
            _ => Response::Held {
                held: vec![IndexSet::one(0)],
            },
        });
    });
    Pair {
        sending,
        receiving,
        sender,
        receiver,
    }
}

fn store(writer: PeerId) -> Request {
    Request::Store {
        claim: ClaimId {
            owner: OwnerId([0; 16]),
            writer,
            number: 1,
        },
        expires_ms: 0,
        block: BlockId([0; 32]),
        index: 0,
        header: Bytes::from_static(&[0; 300]),
        data: vec![7u8; SHARD_BYTES].into(),
    }
}

fn fetch() -> Request {
    Request::Fetch {
        block: BlockId([0; 32]),
        wanted: IndexSet::first(6),
    }
}

fn have() -> Request {
    Request::Have {
        blocks: vec![BlockId([0; 32])],
    }
}

impl Pair {
    /// Sends `request` so many times, `in_flight` at a time.
    fn ask(&self, request: &Request, count: usize, in_flight: usize) {
        let links = &self.sender.links;
        let to = self.receiver.id;
        self.sending.block_on(async {
            let tasks: Vec<_> = (0..in_flight)
                .map(|task| {
                    let (links, request) = (links.clone(), request.clone());
                    let share = count / in_flight + usize::from(task < count % in_flight);
                    tokio::spawn(async move {
                        for _ in 0..share {
                            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
                            links
                                .request(to, &request, deadline)
                                .await
                                .expect("an answer");
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
        });
    }
}

/// Bytes one way over a transport without any framing.
async fn pour<W: AsyncWrite + Unpin>(mut stream: W, bytes: usize) {
    let shard = vec![7u8; SHARD_BYTES];
    for _ in 0..bytes / SHARD_BYTES {
        stream.write_all(&shard).await.expect("loopback");
    }
    stream.flush().await.expect("loopback");
    stream.shutdown().await.expect("loopback");
}

async fn drain<R: AsyncRead + Unpin>(mut stream: R) {
    let mut buffer = vec![0u8; 256 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

fn bare(bytes: usize, tls: bool) {
    let (sending, receiving) = (runtime("sender"), runtime("receiver"));
    let key = SigningKey::from_secret(&[1; 32]);
    let peer_tls = PeerTls::new(&key, BULK_PROTOCOL).expect("a certificate");
    let listener = receiving
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = Arc::new(peer_tls.server().expect("a configuration"));
    let received = receiving.spawn(async move {
        let (stream, _) = listener.accept().await.expect("loopback");
        if tls {
            let accepted = TlsAcceptor::from(server).accept(stream).await;
            drain(accepted.expect("a handshake")).await;
        } else {
            drain(stream).await;
        }
    });
    let client = Arc::new(peer_tls.client(key.peer()).expect("a configuration"));
    let name = if tls { "bare TLS" } else { "bare TCP" };
    report(name, bytes, || {
        let sent = sending.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("loopback");
            stream.set_nodelay(true).expect("loopback");
            if tls {
                let name = ServerName::try_from("127.0.0.1").expect("a name");
                let connected = TlsConnector::from(client).connect(name, stream).await;
                pour(connected.expect("a handshake"), bytes).await;
            } else {
                pour(stream, bytes).await;
            }
        });
        sending.block_on(sent).expect("no panic");
        receiving.block_on(received).expect("no panic");
    });
}

pub fn benches(criterion: &mut Criterion) {
    let pair = pair();
    let (store, fetch, have) = (store(pair.sender.id), fetch(), have());
    // The first request makes the connection.
    pair.ask(&have, 1, 1);
    let shards = (1 << 30) / SHARD_BYTES;
    if std::env::args().any(|argument| argument == "net") {
        bare(1 << 30, false);
        bare(1 << 30, true);
        report("store, 512 KiB shards", 1 << 30, || {
            pair.ask(&store, shards, IN_FLIGHT);
        });
        report("fetch, 512 KiB shards", 1 << 30, || {
            pair.ask(&fetch, shards, IN_FLIGHT);
        });
        for in_flight in [1, SMALL_IN_FLIGHT] {
            let count = 20_000;
            let began = Instant::now();
            pair.ask(&have, count, in_flight);
            let rate = count as f64 / began.elapsed().as_secs_f64();
            eprintln!("small requests, {in_flight} at a time: {rate:.0} per s");
        }
    }
    let mut group = criterion.benchmark_group("net");
    group.sample_size(10);
    group.throughput(Throughput::Bytes((SHARD_BYTES * 64) as u64));
    group.bench_function("store 64 shards of 512 KiB", |bencher| {
        bencher.iter(|| pair.ask(&store, 64, IN_FLIGHT));
    });
    group.bench_function("fetch 64 shards of 512 KiB", |bencher| {
        bencher.iter(|| pair.ask(&fetch, 64, IN_FLIGHT));
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 small requests, one at a time", |bencher| {
        bencher.iter(|| pair.ask(&have, 100, 1));
    });
    group.finish();
    pair.receiving.block_on(pair.receiver.stop());
    pair.sending.block_on(pair.sender.stop());
}
