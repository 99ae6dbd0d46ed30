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
    Body, Entries, Entry, EntryKind, Extent, Extents, FileContent, Meta, NodeAt, NodeBudget,
    NodePacker, NodeRef, Patch, PatchStep, Root, Shape, Timestamp,
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

/// A list of extents in nodes that are kept in memory.
#[derive(Default)]
struct Nodes(Vec<Bytes>);

impl Nodes {
    const CHUNK: usize = 64 << 10;

    fn seal(&mut self, packer: &mut NodePacker) {
        if let Some(bytes) = packer.take() {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(self.0.len() as u64).to_be_bytes());
            packer.sealed(BlockRef {
                id: BlockId(id),
                key: BlockKey([1; 32]),
                plain_len: bytes.len() as u32,
            });
            self.0.push(bytes.to_vec().into());
        }
    }

    fn bytes(&self, at: &NodeAt) -> Bytes {
        let mut number = [0; 8];
        number.copy_from_slice(&at.block.id.0[..8]);
        let block = &self.0[u64::from_be_bytes(number) as usize];
        Bytes::copy_from_slice(at.slice(block).unwrap())
    }

    /// Puts `new` in place of what `content` has in `start..end`.
    fn patch(
        &mut self,
        content: &FileContent<NodeAt>,
        (start, end): (u64, u64),
        new: Vec<Extent>,
    ) -> FileContent<NodeAt> {
        let mut packer = NodePacker::new(Self::CHUNK);
        let budget = NodeBudget::for_chunks(Self::CHUNK);
        let mut patch = Patch::new(content, start, end, new, budget, 8);
        let body = loop {
            match patch.step() {
                PatchStep::Need(at) => patch.supply(&self.bytes(&at)).unwrap(),
                PatchStep::Place(draft) => {
                    let mut bytes = draft.encode(&|place| packer.name(place));
                    if !packer.fits(bytes.len()) {
                        self.seal(&mut packer);
                        bytes = draft.encode(&|place| packer.name(place));
                    }
                    let place = packer.push(&bytes);
                    patch.placed(&draft, place);
                }
                PatchStep::Root(place) => {
                    self.seal(&mut packer);
                    let node = packer.name(place);
                    break Body::Manifest(NodeAt {
                        block: node.block.unwrap(),
                        offset: node.offset,
                        len: node.len,
                    });
                }
                PatchStep::Few(extents) => break Body::Inline(extents),
            }
        };
        FileContent {
            size: content.size,
            body,
        }
    }
}

/// What a file costs of whose content little is changed, however large it is.
fn extents(criterion: &mut Criterion) {
    const LEN: u64 = 3 << 20;
    const COUNT: u64 = 20_000;
    let extent = |number: u64, tag: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id[8..16].copy_from_slice(&tag.to_be_bytes());
        Extent {
            offset: number * LEN,
            len: LEN as u32,
            block: BlockRef {
                id: BlockId(id),
                key: BlockKey([2; 32]),
                plain_len: LEN as u32,
            },
            block_offset: 0,
        }
    };
    let mut bench = criterion.benchmark_group("extents");
    let leaf: Vec<Extent> = (0..700).map(|number| extent(number, 0)).collect();
    let none = |_| NodeRef {
        block: None,
        offset: 0,
        len: 0,
    };
    let bytes = Extents::encode_leaf(&leaf, &none);
    let at = NodeAt {
        block: leaf[0].block,
        offset: 0,
        len: bytes.len() as u32,
    };
    bench.throughput(Throughput::Elements(leaf.len() as u64));
    bench.bench_function("encode a leaf of 700", |b| {
        b.iter(|| Extents::encode_leaf(black_box(&leaf), &none));
    });
    bench.bench_function("decode and check it", |b| {
        b.iter(|| Extents::decode(black_box(&bytes), &at).unwrap());
    });
    bench.throughput(Throughput::Elements(1));
    let empty = FileContent {
        size: COUNT * LEN,
        body: Body::Inline(Vec::new()),
    };
    let mut nodes = Nodes::default();
    let all = (0..COUNT).map(|number| extent(number, 0)).collect();
    let file = nodes.patch(&empty, (0, COUNT * LEN), all);
    let kept = nodes.0.len();
    let mut number = 0;
    bench.bench_function("change one of 20,000", |b| {
        b.iter(|| {
            number = (number + 7919) % COUNT;
            nodes.0.truncate(kept);
            let new = vec![extent(number, 1)];
            black_box(nodes.patch(&file, (number * LEN, (number + 1) * LEN), new))
        });
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
    extents(criterion);
    streams(criterion);
}
