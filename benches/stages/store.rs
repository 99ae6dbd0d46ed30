//! The store on the disk that holds the build directory: 256 KiB shards, 16 puts in flight, so that
//! each commit has about 4 MiB. `CAIRN_BENCH_MIB` sets how much one round writes (512).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::{
    ClaimId, Clock, EcProfile, Entropy, IndexSet, OwnerId, PeerId, Pools, ShardHash,
};
use cairnfs::erasure::{CodecId, StripeHeader, VerifiedShard};
use cairnfs::store::{RealDisk, Store, StoreOptions};
use criterion::{Criterion, Throughput};
use futures::StreamExt;

const SHARD: usize = 256 << 10;
const IN_FLIGHT: usize = 16;

fn claim() -> ClaimId {
    ClaimId {
        owner: OwnerId([1; 16]),
        writer: PeerId([2; 32]),
        number: 1,
    }
}

fn shards(count: usize) -> Vec<VerifiedShard> {
    let entropy = Entropy::seeded(1);
    let make = |_| {
        let mut bytes = vec![0; SHARD];
        entropy.fill(&mut bytes);
        let data = Bytes::from(bytes);
        let header = StripeHeader {
            codec: CodecId::ReedSolomon,
            profile: EcProfile::DEFAULT,
            sealed_len: 4 * SHARD as u32,
            shard_len: SHARD as u32,
            shard_hashes: vec![ShardHash(*blake3::hash(&data).as_bytes()); 6],
        };
        let encoded = Bytes::from(header.encode());
        let block = StripeHeader::address(&encoded);
        VerifiedShard::verify(block, 0, encoded, data).expect("a sound shard")
    };
    (0..count).map(make).collect()
}

/// CPU seconds of this process, and bytes it sent to the disk.
fn spent() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 =
        fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    let io = std::fs::read_to_string("/proc/self/io").expect("procfs");
    let written = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    let bytes = written
        .and_then(|text| text.parse().ok())
        .expect("write_bytes");
    (ticks / 100.0, bytes)
}

async fn open(dir: &std::path::Path) -> Store {
    let disk = Arc::new(RealDisk::open(dir).expect("a data directory"));
    let entropy = Entropy::os().expect("randomness");
    let options = StoreOptions::new(64 << 30, entropy);
    let pools = Pools::threaded(2, 4);
    let opened = Store::open(disk, options, pools, Clock::system()).await;
    opened.expect("a store").0
}

async fn fill(store: &Store, shards: &[VerifiedShard]) {
    let puts = futures::stream::iter(shards.iter().cloned())
        .map(|shard| store.put(shard, claim(), u64::MAX))
        .buffer_unordered(IN_FLIGHT);
    puts.for_each(|put| async { assert!(put.expect("room")) })
        .await;
}

pub fn benches(criterion: &mut Criterion) {
    let mib = std::env::var("CAIRN_BENCH_MIB").ok();
    let mib: usize = mib.and_then(|text| text.parse().ok()).unwrap_or(512);
    let shards = shards((mib << 20) / SHARD);
    let bytes = (shards.len() * SHARD) as u64;
    let base =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("store");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));

    let (mut cpu, mut written, mut rounds) = (0.0, 0, 0u64);
    group.bench_function("put durably", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let dir = tempfile::tempdir_in(&base).expect("a directory");
                runtime.block_on(async {
                    let store = open(dir.path()).await;
                    let before = spent();
                    let begun = Instant::now();
                    fill(&store, &shards).await;
                    store.close().await.expect("a clean end");
                    total += begun.elapsed();
                    let after = spent();
                    cpu += after.0 - before.0;
                    written += after.1 - before.1;
                    rounds += 1;
                });
            }
            total
        });
    });
    if rounds > 0 {
        let all = (rounds * bytes) as f64;
        println!(
            "store/put durably: {:.2} CPU s/GiB, {:.3} bytes written per byte",
            cpu / (all / f64::from(1u32 << 30)),
            written as f64 / all
        );
    }

    let dir = tempfile::tempdir_in(&base).expect("a directory");
    let store = runtime.block_on(async {
        let store = open(dir.path()).await;
        fill(&store, &shards).await;
        store.flush_index().await.expect("a flush");
        store
    });
    group
        .throughput(Throughput::Bytes(SHARD as u64))
        .sample_size(20);
    let mut next = 0;
    group.bench_function("get, cached by the kernel", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % shards.len();
            let block = shards[next].id().block;
            let got = runtime.block_on(store.get(block, IndexSet::first(6)));
            assert!(got.expect("a read").is_some());
        });
    });
    let blocks: Vec<_> = shards
        .iter()
        .take(1000)
        .map(|shard| shard.id().block)
        .collect();
    group.throughput(Throughput::Elements(blocks.len() as u64));
    group.bench_function("held, 1000 blocks", |bencher| {
        bencher.iter(|| runtime.block_on(store.held(&blocks)).expect("an answer"));
    });
    group.finish();
    drop(store);
}
