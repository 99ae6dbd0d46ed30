//! Blobs in and out.

use std::ops::Range;

use bytes::Bytes;
use cairnfs::base::{Class, Classify, Entropy};
use cairnfs::content::{
    BlobReader, ContentError, Piece, blob_frames, blob_pieces, decode_frames, encode_frames,
    flat_bytes, ingest_blob, survey,
};
use cairnfs::dag::Root;
use futures::stream::{self, StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::pool::MemPool;
use super::{config, reading, run, tiny};

pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(seed).fill(&mut bytes);
    bytes
}

/// Divides bytes; runs of zeros that fill a whole part go as holes if `sparse`.
fn divide(bytes: &[u8], cuts: &[usize], sparse: bool) -> Vec<Result<Piece, ContentError>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, more) = rest.split_at((*cut).clamp(1, rest.len()));
        rest = more;
        pieces.push(Ok(if sparse && part.iter().all(|byte| *byte == 0) {
            Piece::Hole(part.len() as u64)
        } else {
            Piece::Data(Bytes::copy_from_slice(part))
        }));
    }
    pieces
}

async fn put(pool: &MemPool, bytes: &[u8], cuts: &[usize], sparse: bool) -> Root {
    let pieces = stream::iter(divide(bytes, cuts, sparse));
    ingest_blob(pieces, pool, &tiny()).await.unwrap()
}

async fn get(pool: &MemPool, root: &Root, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
    let reader = BlobReader::open(root, range, pool.clone(), &reading())?;
    let parts: Vec<Bytes> = flat_bytes(reader.into_stream()).try_collect().await?;
    Ok(parts.concat())
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn a_blob_comes_back_and_its_link_depends_on_its_bytes_alone(
        segments in prop::collection::vec((any::<bool>(), 0usize..40_000), 0..6),
        seed in any::<u64>(),
        cuts in prop::collection::vec(1usize..30_000, 1..8),
        range in (0.0f64..1.2, 0.0f64..1.2),
    ) {
        let mut blob = Vec::new();
        for (i, (data, len)) in segments.iter().enumerate() {
            if *data {
                blob.extend(random(*len, seed ^ i as u64));
            } else {
                blob.resize(blob.len() + len, 0);
            }
        }
        run(async {
            let pool = MemPool::new(seed);
            let root = put(&pool, &blob, &[usize::MAX], false).await;
            let other = MemPool::new(!seed);
            prop_assert_eq!(root, put(&other, &blob, &cuts, true).await);
            prop_assert_eq!(pool.ids(), other.ids());
            prop_assert_eq!(root.size(), blob.len() as u64);
            prop_assert!(pool.largest() <= tiny().limits.chunk_max_bytes);

            prop_assert_eq!(&get(&pool, &root, 0..u64::MAX).await.unwrap(), &blob);
            let (a, b) = range;
            let start = (blob.len() as f64 * a.min(b)) as usize;
            let end = (blob.len() as f64 * a.max(b)) as usize;
            let part = get(&pool, &root, start as u64..end as u64).await.unwrap();
            let within = start.min(blob.len())..end.min(blob.len());
            prop_assert_eq!(&part[..], &blob[within]);
            // Of the window, and one for nodes.
            prop_assert!(pool.most_fetching() <= reading().window_blocks + 1);

            let found = survey(&root, pool.clone(), &reading()).await.unwrap();
            let ids: std::collections::BTreeSet<_> = found.blocks.iter().map(|b| b.id).collect();
            prop_assert_eq!(ids, pool.ids());
            Ok(())
        })?;
    }
}

#[test]
fn small_blobs_need_one_block_and_no_manifest() {
    run(async {
        let pool = MemPool::new(1);
        assert_eq!(put(&pool, &[], &[1], false).await, Root::Empty);
        assert!(pool.ids().is_empty());
        for blob in [vec![0; 1], vec![0; 900], random(1000, 1), random(1024, 2)] {
            let root = put(&pool, &blob, &[100], true).await;
            assert!(matches!(root, Root::Block(_)), "{} {root:?}", blob.len());
            assert_eq!(get(&pool, &root, 0..u64::MAX).await.unwrap(), blob);
        }
        assert_eq!(pool.ids().len(), 4);
        assert!(get(&pool, &Root::Empty, 0..10).await.unwrap().is_empty());
    });
}

#[test]
fn a_blob_of_zeros_costs_nothing() {
    run(async {
        let pool = MemPool::new(1);
        let zeros = stream::iter([Ok(Piece::Hole(1 << 40)), Ok(Piece::Hole(5))]);
        let root = ingest_blob(zeros, &pool, &tiny()).await.unwrap();
        assert_eq!(root.size(), (1 << 40) + 5);
        assert!(pool.bytes() < 5000);
        let end = root.size();
        assert_eq!(get(&pool, &root, end - 10..end).await.unwrap(), [0; 10]);
        assert_eq!(get(&pool, &root, 0..3).await.unwrap(), [0; 3]);

        let endless = stream::iter([Ok(Piece::Hole(u64::MAX)), Ok(Piece::Hole(5))]);
        let refused = ingest_blob(endless, &pool, &tiny()).await.unwrap_err();
        assert_eq!(refused.class(), Class::Denied);
    });
}

#[test]
fn what_is_stored_already_is_shared() {
    run(async {
        let pool = MemPool::new(1);
        let mut blob = random(3 << 20, 1);
        put(&pool, &blob, &[77_777], false).await;
        let (before, bytes) = (pool.ids(), pool.bytes());
        put(&pool, &blob, &[1 << 20], false).await;
        assert_eq!(pool.ids(), before);

        let front = random(100 << 10, 2);
        let inserted = front.len();
        blob.splice(0..0, front);
        put(&pool, &blob, &[1 << 20], false).await;
        let new = pool.bytes() - bytes - inserted;
        assert!(new < bytes / 20, "{new} of {bytes} bytes are new");
    });
}

#[test]
fn a_missing_block_is_an_error_behind_what_comes_before_it() {
    run(async {
        let pool = MemPool::new(1);
        let blob = random(200_000, 1);
        let root = put(&pool, &blob, &[1 << 20], false).await;
        let found = survey(&root, pool.clone(), &reading()).await.unwrap();
        let mut reader = BlobReader::open(&root, 0..u64::MAX, pool.clone(), &reading()).unwrap();
        let Some(Piece::Data(first)) = reader.next().await.unwrap() else {
            panic!("data was expected")
        };
        drop(reader);
        let keep = blake3::hash(&first);
        let node = root.block().unwrap().id;
        for block in &found.blocks {
            if block.id.0 != *keep.as_bytes() && block.id != node {
                pool.lose(block.id);
            }
        }
        let mut reader = BlobReader::open(&root, 0..u64::MAX, pool.clone(), &reading()).unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(Piece::Data(first)));
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.class(), Class::Missing);
        assert!(error.to_string().contains("3 of 4 shards"), "{error}");
    });
}

#[test]
fn a_reader_that_is_dropped_stops_fetching() {
    run(async {
        let pool = MemPool::new(1);
        let root = put(&pool, &random(500_000, 1), &[1 << 20], false).await;
        let mut reader = BlobReader::open(&root, 0..u64::MAX, pool.clone(), &reading()).unwrap();
        reader.next().await.unwrap();
        drop(reader);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.fetching(), 0);
        assert!(
            pool.fetched() < 12,
            "{} blocks were fetched",
            pool.fetched()
        );
    });
}

#[test]
fn a_blob_crosses_a_socket_in_frames() {
    run(async {
        let pool = MemPool::new(1);
        let mut blob = random(100_000, 3);
        blob[20_000..60_000].fill(0);
        let root = put(&pool, &blob, &[7000], true).await;
        let reader = BlobReader::open(&root, 0..u64::MAX, pool.clone(), &reading()).unwrap();
        let body = encode_frames(blob_frames(reader.into_stream()));
        let pieces = blob_pieces(Box::pin(decode_frames(Box::pin(body))));
        assert_eq!(ingest_blob(pieces, &pool, &tiny()).await.unwrap(), root);

        // Without its end it is not whole.
        let reader = BlobReader::open(&root, 0..u64::MAX, pool.clone(), &reading()).unwrap();
        let frames = reader.into_stream().map_ok(Into::into);
        let body = encode_frames(frames).boxed();
        let pieces = blob_pieces(Box::pin(decode_frames(body)));
        let error = ingest_blob(pieces, &pool, &tiny()).await.unwrap_err();
        assert!(matches!(error, ContentError::BrokenOff(_)), "{error}");
    });
}
