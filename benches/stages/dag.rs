//! Nodes, and whole trees and blobs through the streams over a pool in memory (no sealing): what
//! files and directories cost by themselves.

#![allow(clippy::unwrap_used, reason = "what fails here fails the run")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockKey, BlockRef, Chunk, Entropy, Limits, Pools};
use cairnfs::blocks::GetError;
use cairnfs::content::{
    BlobReader, ChunkSink, ChunkSource, ContentError, Frame, FrameDecoder, FrameEncoder, Head,
    HeadKind, Ingest, Piece, Reading, TreeReader, ingest_blob, ingest_tree,
};
use cairnfs::dag::{
    Body, Entries, Entry, EntryKind, Extent, FileContent, Meta, NodeAt, NodeRef, Root, Shape,
    Timestamp,
};
use criterion::{BatchSize, Criterion, Throughput};
use futures::future::{Ready, ready};
use futures::stream::{self, StreamExt};

const FILES: u64 = 20_000;
const META: Meta = Meta {
    mode: 0o644,
    mtime: Timestamp {
        seconds: 1_700_000_000,
        nanos: 123_456_789,
    },
};

/// Blocks under counted names: hashing them is another stage's work.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Bytes>>>);

impl ChunkSink for Pool {
    type Pending = Ready<Result<BlockRef, ContentError>>;

    async fn submit(&self, chunk: Chunk) -> Result<Self::Pending, ContentError> {
        let mut blocks = self.0.lock().unwrap();
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(blocks.len() as u64).to_be_bytes());
        let block = BlockRef {
            id: BlockId(id),
            key: BlockKey([1; 32]),
            plain_len: chunk.len() as u32,
        };
        blocks.push(chunk.join());
        Ok(ready(Ok(block)))
    }
}

impl ChunkSource for Pool {
    async fn block(&self, reference: &BlockRef) -> Result<Bytes, ContentError> {
        let mut number = [0; 8];
        number.copy_from_slice(&reference.id.0[..8]);
        let at = u64::from_be_bytes(number) as usize;
        let blocks = self.0.lock().unwrap();
        blocks
            .get(at)
            .cloned()
            .ok_or(ContentError::Get(GetError::Stopped))
    }
}

fn random(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    Entropy::seeded(seed).fill(&mut bytes);
    bytes.into()
}

/// 20,000 files of 4 KiB on average in 500 directories, as a command sends them.
fn tree() -> Vec<Frame> {
    let directory = |name: String| {
        Frame::Entry(Head {
            name: name.into_bytes(),
            kind: HeadKind::Directory { meta: META },
        })
    };
    let content = random(1 << 20, 1);
    let mut frames = vec![directory(String::new())];
    for d in 0..FILES / 40 {
        frames.push(directory(format!("directory {d:05}")));
        for f in 0..40 {
            let number = d * 40 + f;
            let len = (number * 7919 % 8192) as usize;
            let start = (number * 104_729 % (1 << 19)) as usize;
            frames.push(Frame::Entry(Head {
                name: format!("file {f:03}").into_bytes(),
                kind: HeadKind::File {
                    meta: META,
                    size: len as u64,
                },
            }));
            if len > 0 {
                frames.push(Frame::Data(content.slice(start..start + len)));
            }
            frames.push(Frame::End);
        }
        frames.push(Frame::End);
    }
    frames.push(Frame::End);
    frames
}

fn nodes(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("dag");
    let block = BlockRef {
        id: BlockId([1; 32]),
        key: BlockKey([2; 32]),
        plain_len: 1 << 22,
    };
    let entries: Vec<_> = (0..1500u32)
        .map(|i| Entry {
            name: format!("some file {i:06}.txt").into_bytes(),
            kind: EntryKind::File {
                meta: META,
                content: FileContent {
                    size: 900,
                    body: Body::Inline(vec![Extent {
                        offset: 0,
                        len: 900,
                        block,
                        block_offset: i * 900,
                    }]),
                },
            },
        })
        .collect();
    let none = |_| NodeRef {
        block: None,
        offset: 0,
        len: 0,
    };
    let bytes = Entries::encode_leaf(&entries, &none);
    let at = NodeAt {
        block,
        offset: 0,
        len: bytes.len() as u32,
    };
    bench.throughput(Throughput::Elements(entries.len() as u64));
    bench.bench_function("encode a leaf of 1,500 entries", |b| {
        b.iter(|| Entries::encode_leaf(black_box(&entries), &none));
    });
    bench.bench_function("decode and check it", |b| {
        b.iter(|| Entries::decode(black_box(&bytes), &at).unwrap());
    });
    bench.finish();
}

fn streams(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let how = Ingest {
        limits: Limits::default(),
        pools: Pools::threaded(1, 1),
    };
    let reading = Reading {
        pools: Pools::threaded(1, 1),
        window_blocks: 8,
    };
    let frames = tree();
    let mut bench = criterion.benchmark_group("content");
    bench.sample_size(10);

    bench.throughput(Throughput::Elements(FILES));
    let ingest = |pool: Pool| {
        let frames = stream::iter(frames.iter().cloned().map(Ok::<_, ContentError>));
        runtime.block_on(async { ingest_tree(frames, &pool, &how).await.unwrap().0 })
    };
    bench.bench_function("20,000 small files in", |b| {
        b.iter_batched(Pool::default, ingest, BatchSize::PerIteration);
    });
    let pool = Pool::default();
    let root = ingest(pool.clone());
    bench.bench_function("20,000 small files out", |b| {
        b.iter(|| {
            let pool = pool.clone();
            let reading = &reading;
            runtime.block_on(async move {
                let mut reader = TreeReader::open(&root, pool, reading).unwrap();
                let mut count = 0;
                while let Some(frame) = reader.next().await.unwrap() {
                    count += u64::from(matches!(frame, Frame::Data(_)));
                }
                assert!(count > FILES / 2);
            });
        });
    });
    let mut encoder = FrameEncoder::default();
    for frame in &frames {
        encoder.push(frame);
    }
    encoder.flush();
    let body: Vec<Bytes> = std::iter::from_fn(|| encoder.pop()).collect();
    bench.bench_function("their frames, decoded", |b| {
        b.iter(|| {
            let mut decoder = FrameDecoder::default();
            for bytes in &body {
                decoder.push(bytes.clone());
                while let Some(frame) = decoder.next_frame().unwrap() {
                    black_box(frame);
                }
            }
        });
    });

    let len = 256usize << 20;
    let piece = random(1 << 20, 3);
    bench.throughput(Throughput::Bytes(len as u64));
    let ingest = |pool: Pool| -> Root {
        let pieces = stream::iter(0..len >> 20).map(|i| {
            // Not the same chunk again and again.
            let mut bytes = piece.to_vec();
            bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
            Ok::<_, ContentError>(Piece::Data(bytes.into()))
        });
        runtime.block_on(async { ingest_blob(pieces, &pool, &how).await.unwrap() })
    };
    bench.bench_function("256 MiB in", |b| {
        b.iter_batched(Pool::default, ingest, BatchSize::PerIteration);
    });
    let pool = Pool::default();
    let root = ingest(pool.clone());
    bench.bench_function("256 MiB out", |b| {
        b.iter(|| {
            let pool = pool.clone();
            let reading = &reading;
            runtime.block_on(async move {
                let mut reader = BlobReader::open(&root, 0..u64::MAX, pool, reading).unwrap();
                let mut sizes = BTreeMap::new();
                while let Some(Piece::Data(bytes)) = reader.next().await.unwrap() {
                    *sizes.entry(bytes.len()).or_insert(0) += 1;
                }
                sizes
            })
        });
    });
    bench.finish();
}

pub fn benches(criterion: &mut Criterion) {
    nodes(criterion);
    streams(criterion);
}
