//! Parts of shards: proving and checking them, and reading ranges of blocks from the own store of a peer
//! that is alone. `CAIRN_BENCH_MIB` sets how much that store has (512).

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::{BlockRef, Clock, EcProfile, Entropy, Limits, OwnerId, PeerId, Pools};
use cairnfs::blocks::{Blocks, Parts, UploadOptions};
use cairnfs::crypto::ConvergenceSecret;
use cairnfs::erasure::Outboard;
use cairnfs::erasure::tree::{aligned, proves};
use cairnfs::net::lone::Lone;
use cairnfs::net::{NetHandle, Offer, Stay};
use cairnfs::store::{RealDisk, Store, StoreOptions};
use criterion::{Criterion, Throughput};

const SHARD: usize = 1 << 20;
const BLOCK: usize = 4 << 20;
const READ: u32 = 4 << 10;

pub fn benches(criterion: &mut Criterion) {
    proofs(criterion);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(first_reads());
    ranges(criterion, &runtime);
}

fn proofs(criterion: &mut Criterion) {
    let entropy = Entropy::seeded(1);
    let mut shard = vec![0; SHARD];
    entropy.fill(&mut shard);
    let (outboard, hash) = Outboard::new(&shard);
    let mut group = criterion.benchmark_group("range");
    group.throughput(Throughput::Bytes(SHARD as u64));
    group.bench_function("hash 1 MiB", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&shard)));
    });
    group.bench_function("hash 1 MiB by groups", |bencher| {
        bencher.iter(|| Outboard::new(black_box(&shard)));
    });
    // One frame with its tag, across the borders of groups.
    let range = aligned(300_000..365_552, SHARD);
    let part = &shard[range.clone()];
    let proof = outboard.prove(range.clone());
    group.throughput(Throughput::Bytes(part.len() as u64));
    group.bench_function("prove a frame", |bencher| {
        bencher.iter(|| outboard.prove(black_box(range.clone())));
    });
    group.bench_function("verify a frame", |bencher| {
        bencher.iter(|| assert!(proves(&hash, SHARD, range.start, black_box(part), &proof)));
    });
    group.bench_function("check a frame by known hashes", |bencher| {
        bencher.iter(|| assert!(outboard.matches(range.start, black_box(part))));
    });
    group.finish();
}

fn mib() -> usize {
    let mib = std::env::var("CAIRN_BENCH_MIB").ok();
    mib.and_then(|text| text.parse().ok()).unwrap_or(512)
}

/// A peer that is alone, with nothing kept in memory of what it read.
struct Peer {
    dir: tempfile::TempDir,
    store: Store,
    blocks: Blocks,
    _net: Lone,
}

async fn open(dir: tempfile::TempDir) -> Peer {
    let disk = Arc::new(RealDisk::open(dir.path()).expect("a data directory"));
    let pools = Pools::threaded(2, 8);
    let options = StoreOptions::new(64 << 30, Entropy::os().expect("randomness"));
    let opened = Store::open(disk, options, pools.clone(), Clock::system()).await;
    let store = opened.expect("a store").0;
    let own = PeerId([1; 32]);
    let (net, ends, _inbound) = NetHandle::new(own, 64);
    let offer = Offer {
        capacity_bytes: 64 << 30,
        free_bytes: 64 << 30,
        zone: String::new(),
        stay: Stay::Stays,
    };
    let lone = Lone::start(own, offer, ends);
    let blocks = Blocks::open(Parts {
        store: store.clone(),
        net,
        pools,
        clock: Clock::system(),
        signer: None,
        limits: Limits::default(),
        fetch_timeout: Duration::from_secs(1),
        memory_bytes: 0,
    });
    Peer {
        dir,
        store,
        blocks: blocks.await.expect("a conductor"),
        _net: lone,
    }
}

/// Stops the peer and starts it again: nothing is left of it but its disk.
async fn reopen(peer: Peer) -> Peer {
    let Peer {
        dir, store, blocks, ..
    } = peer;
    drop(blocks);
    store.close().await.expect("a clean end");
    open(dir).await
}

async fn filled() -> (Peer, Vec<BlockRef>) {
    let base =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let peer = open(tempfile::tempdir_in(base).expect("a directory")).await;
    let entropy = Entropy::seeded(2);
    let options = UploadOptions {
        profile: EcProfile::DEFAULT,
        secret: ConvergenceSecret::from_bytes([7; 32]),
        survive: None,
        owner: OwnerId([1; 16]),
    };
    let upload = peer.blocks.upload(options).await.expect("an upload");
    let mut pending = Vec::new();
    for _ in 0..(mib() << 20) / BLOCK {
        let mut plain = vec![0; BLOCK];
        entropy.fill(&mut plain);
        let submitted = upload.submit(Bytes::from(plain)).await;
        pending.push(submitted.expect("room"));
    }
    let mut blocks = Vec::new();
    for pending in pending {
        blocks.push(pending.await.expect("a block"));
    }
    upload.finish(Vec::new()).await.expect("an upload");
    (reopen(peer).await, blocks)
}

async fn read(peer: &Peer, blocks: &[BlockRef], random: u64) {
    let block = &blocks[(random % blocks.len() as u64) as usize];
    let at = (random >> 32) as u32 % (block.plain_len / READ) * READ;
    let range = at..at + READ;
    let read = peer.blocks.read_range(block, EcProfile::DEFAULT, range);
    assert_eq!(read.await.expect("a range").len(), READ as usize);
}

/// Has the kernel read all of the store, as if it lay in memory.
fn warm(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir.join("store")).expect("a store") {
        let mut file = std::fs::File::open(entry.expect("a file").path()).expect("a file");
        std::io::copy(&mut file, &mut std::io::sink()).expect("a file");
    }
}

/// What random reads cost from the first one on, when nothing is known of any shard.
async fn first_reads() {
    let (mut peer, blocks) = filled().await;
    for count in [256u32, 1024, 4096, 16_384, 65_536] {
        warm(peer.dir.path());
        let entropy = Entropy::seeded(3);
        let begun = Instant::now();
        for _ in 0..count {
            read(&peer, &blocks, entropy.u64()).await;
        }
        let each = begun.elapsed() / count;
        println!("range/the first {count} random reads of 4 KiB: {each:?} each");
        peer = reopen(peer).await;
    }
    let begun = Instant::now();
    for block in &blocks {
        let read = peer.blocks.read_block(block, EcProfile::DEFAULT).await;
        assert_eq!(read.expect("a block").len(), BLOCK);
    }
    let each = begun.elapsed() / blocks.len() as u32;
    println!("range/whole blocks in order: {each:?} each");
    drop(peer);
}

fn ranges(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime) {
    let (peer, blocks) = runtime.block_on(filled());
    let entropy = Entropy::seeded(3);
    runtime.block_on(async {
        // All shards are known then.
        for _ in 0..8 * blocks.len() {
            read(&peer, &blocks, entropy.u64()).await;
        }
    });
    let mut group = criterion.benchmark_group("range");
    group.throughput(Throughput::Elements(1)).sample_size(50);
    group.bench_function("read 4 KiB of a block", |bencher| {
        bencher.iter(|| runtime.block_on(read(&peer, &blocks, entropy.u64())));
    });
    group.sample_size(20);
    let mut next = 0;
    group.bench_function("read a whole block", |bencher| {
        bencher.iter(|| {
            next = (next + 7) % blocks.len();
            let read = peer.blocks.read_block(&blocks[next], EcProfile::DEFAULT);
            runtime.block_on(read).expect("a block")
        });
    });
    group.finish();
    runtime.block_on(async { drop(peer) });
}
