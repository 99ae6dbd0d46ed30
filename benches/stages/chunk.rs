//! Cutting streams and packing small files.

use std::hint::black_box;

use bytes::Bytes;
use cairnfs::base::Entropy;
use cairnfs::chunk::{ChunkSizes, Cutter, Packer, pack_mark};
use criterion::{Criterion, Throughput};

pub fn benches(criterion: &mut Criterion) {
    cut(criterion);
    pack(criterion);
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(1).fill(&mut bytes);
    bytes
}

fn drain(cutter: &mut Cutter) -> usize {
    std::iter::from_fn(|| cutter.next_chunk())
        .map(|chunk| chunk.len())
        .sum()
}

fn cut(criterion: &mut Criterion) {
    let stream = random_bytes(64 << 20);
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    // Includes one copy, in the place of a read from a file.
    let mut cutter = Cutter::new(ChunkSizes::default());
    group.bench_function("cut", |bencher| {
        bencher.iter(|| {
            let mut cut = 0;
            for piece in stream.chunks(1 << 20) {
                cutter.push(Bytes::copy_from_slice(piece));
                cut += drain(&mut cutter);
            }
            cutter.finish();
            black_box(cut + drain(&mut cutter))
        });
    });
    group.bench_function("copy alone", |bencher| {
        let mut buffer = vec![0; 1 << 20];
        bencher.iter(|| {
            for piece in stream.chunks(1 << 20) {
                buffer.copy_from_slice(black_box(piece));
            }
            black_box(buffer.len())
        });
    });
    group.finish();
}

fn pack(criterion: &mut Criterion) {
    let files = random_bytes(4 << 20);
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes(files.len() as u64));
    group.bench_function("files of 4 KiB", |bencher| {
        bencher.iter(|| {
            let mut packer = Packer::new(ChunkSizes::default());
            files
                .chunks(4096)
                .map(|file| packer.place(file.len(), pack_mark(file)).offset)
                .sum::<usize>()
        });
    });
    group.finish();
}
