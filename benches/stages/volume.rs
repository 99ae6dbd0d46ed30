//! The engine of a volume on the disk that holds the build directory. `CAIRN_BENCH_ROWS` sets how many
//! rows the tables have for look-ups (1,000,000).

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairnfs::base::{Clock, Entropy, Pools, VolumeId};
use cairnfs::store::{
    DirtyId, Group, Order, RealDisk, Seq, Space, Store, StoreOptions, Volume, VolumeError,
    VolumeOptions,
};
use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;

const ID: VolumeId = VolumeId([3; 16]);
const ROWS: Space = Space(2);

fn key(number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..24]);
    key
}

/// What making a file changes: an entry, attributes, content.
fn three_rows(number: u64) -> Group {
    let mut group = Group::new();
    for space in 0..3 {
        group.put(Space(space), &key(number), &[number as u8; 80]);
    }
    group
}

async fn open(dir: &std::path::Path) -> (Store, Volume) {
    let disk = Arc::new(RealDisk::open(dir).expect("a data directory"));
    let options = StoreOptions::new(64 << 30, Entropy::seeded(1));
    let opened = Store::open(disk, options, Pools::threaded(2, 4), Clock::system()).await;
    let (store, _) = opened.expect("a store");
    store.create_volume(ID).await.expect("a volume");
    let opened = store.open_volume(ID, VolumeOptions::default()).await;
    (store, opened.expect("a volume").0)
}

async fn apply(volume: &Volume, group: &Group) -> Seq {
    loop {
        match volume.apply(group) {
            Ok(seq) => return seq,
            Err(error) => assert_eq!(error, VolumeError::Busy),
        }
        volume.room().await.expect("room");
    }
}

fn bench_apply(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    runtime: &Runtime,
    volume: &Volume,
) {
    let mut next = 0u64;
    group.throughput(Throughput::Elements(1));
    group.bench_function("apply, 3 rows", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                next += 1;
                let changes = three_rows(next);
                let begun = Instant::now();
                let applied = volume.apply(&changes);
                total += begun.elapsed();
                // Waiting for the disk is not what is measured here.
                if applied == Err(VolumeError::Busy) {
                    runtime.block_on(apply(volume, &changes));
                }
            }
            total
        });
    });
}

fn bench_sync(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    runtime: &Runtime,
    volume: &Volume,
) {
    let mut next = 1u64 << 40;
    for waiters in [1usize, 16] {
        group.throughput(Throughput::Elements(waiters as u64));
        group.bench_function(format!("sync, {waiters} waiting"), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(async {
                    let begun = Instant::now();
                    let tasks: Vec<_> = (0..waiters)
                        .map(|_| {
                            next += iterations;
                            let (first, volume) = (next, volume.clone());
                            tokio::spawn(async move {
                                for number in 0..iterations {
                                    let seq = apply(&volume, &three_rows(first + number)).await;
                                    volume.sync(seq).await.expect("a sync");
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                    begun.elapsed()
                })
            });
        });
    }
}

fn bench_dirty(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    runtime: &Runtime,
    volume: &Volume,
) {
    const LEN: usize = 4 << 20;
    let bytes = Bytes::from(vec![7; LEN]);
    let mut next = 0;
    group.throughput(Throughput::Bytes(LEN as u64));
    group.bench_function("keep 4 MiB durably, release", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                next += 1;
                let mut changes = Group::new();
                changes.keep(DirtyId(next), bytes.clone());
                if next > 1 {
                    changes.release(DirtyId(next - 1));
                }
                apply(volume, &changes).await;
                volume.sync_all().await.expect("a sync");
            });
        });
    });
}

fn bench_reads(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    runtime: &Runtime,
    volume: &Volume,
) {
    let rows = std::env::var("CAIRN_BENCH_ROWS").ok();
    let rows: u64 = rows.and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let begun = Instant::now();
    runtime.block_on(async {
        for number in 0..rows {
            let mut changes = Group::new();
            changes.put(Space(9), &key(number), &[number as u8; 100]);
            apply(volume, &changes).await;
        }
        volume.flush().await.expect("a flush");
    });
    println!(
        "volume: {rows} rows of 124 bytes in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let mut next = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("get, at random", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % rows;
            assert!(volume.get(Space(9), &key(next)).expect("a read").is_some());
        });
    });
    group.bench_function("get, of what is not there", |bencher| {
        bencher.iter(|| {
            next += 1;
            assert!(
                volume
                    .get(ROWS, &key(rows + next))
                    .expect("a read")
                    .is_none()
            );
        });
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("scan, 100 rows", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % rows;
            let first = key(next);
            let from = Bound::Included(first.as_slice());
            let page = volume.scan(Space(9), from, Bound::Unbounded, Order::Ascending, 100);
            assert!(!page.expect("a read").rows.is_empty());
        });
    });
}

pub fn benches(criterion: &mut Criterion) {
    let base =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir_in(&base).expect("a directory");
    let (store, volume) = runtime.block_on(open(dir.path()));
    let mut group = criterion.benchmark_group("volume");
    group.sample_size(20);
    bench_apply(&mut group, &runtime, &volume);
    bench_sync(&mut group, &runtime, &volume);
    bench_dirty(&mut group, &runtime, &volume);
    bench_reads(&mut group, &runtime, &volume);
    group.finish();
    runtime.block_on(async {
        volume.close().await.expect("a clean end");
        store.close().await.expect("a clean end");
    });
}
