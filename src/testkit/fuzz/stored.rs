//! Values to begin with, of the formats that are stored.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{place, proof_parts};
use super::joined;
use super::seeds::{block, claim};
use super::store::{SEGMENT, version_text};
use super::wire::NOW_MS;
use crate::base::{ClaimId, Clock, EcProfile, Entropy, Pools};
use crate::crypto::passphrase::{Cost, seal_container};
use crate::dag::directory::Entries;
use crate::dag::{
    Entry, EntryKind, Extent, Extents, FileContent, Meta, NodePacker, NodeRef, Shape, Span,
    Timestamp, TreeRoot, TreeTotals,
};
use crate::erasure::tree::aligned;
use crate::erasure::{Outboard, encode_stripe};
use crate::store::{Disk, MemDisk, Store, StoreOptions, VERSION_FILE};

/// Headers in clear with their payloads.
pub(super) fn sealed() -> Vec<Vec<u8>> {
    let header = |plain_len: u32, words: &[u32]| {
        let mut header = vec![1, 1];
        header.extend_from_slice(&(words.len() as u16).to_le_bytes());
        header.extend_from_slice(&plain_len.to_le_bytes());
        for word in words {
            header.extend_from_slice(&word.to_le_bytes());
        }
        header
    };
    // One zstd frame of one block: 65,536 times the letter a.
    let run = [
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff, 0x03, 0x00, 0x08, b'a',
    ];
    let packed = 1 << 31 | run.len() as u32;
    vec![
        joined(&header(0, &[]), b""),
        joined(&header(5, &[5]), b"hello"),
        joined(&header(65_536, &[packed]), &run),
        joined(&header(65_540, &[packed, 4]), &[&run[..], b"tail"].concat()),
    ]
}

/// Parts of shards of one, two and many groups, with their proofs.
pub(super) fn proofs() -> Vec<Vec<u8>> {
    let text = b"what the shard repeats; ";
    let places = [(100, 0), (20_000, 16_384), (100_000, 40_000), (262_000, 7)];
    let parts = places.map(|(len, at): (u32, u32)| {
        let place = [len.to_be_bytes(), at.to_be_bytes()].concat();
        let bare = [&place[..], &joined(b"", text)].concat();
        let proof = proof_parts(&bare).map(|(shard, at, _, bytes)| {
            let range = aligned(at..at + bytes.len(), shard.len());
            Outboard::new(&shard).0.prove(range)
        });
        [&place[..], &joined(&proof.unwrap_or_default(), text)].concat()
    });
    parts.into()
}

/// Headers with the data shards.
pub(super) fn stripes() -> Vec<Vec<u8>> {
    let profiles = [(1, 0), (4, 2), (2, 3)];
    let stripes = profiles.map(|(data, parity)| {
        let profile = EcProfile::new(data, parity).unwrap_or(EcProfile::DEFAULT);
        let mut sealed = vec![0; 301];
        Entropy::seeded(u64::from(data)).fill(&mut sealed);
        match encode_stripe(sealed.as_slice().into(), profile) {
            Ok(stripe) => {
                let shards: Vec<u8> = stripe
                    .shards
                    .iter()
                    .flat_map(|shard| shard.data().to_vec())
                    .collect();
                let header = stripe.shards.first().map(|shard| shard.header().to_vec());
                joined(&header.unwrap_or_default(), &shards)
            }
            Err(error) => panic!("a stripe of our own: {error}"),
        }
    });
    stripes.into()
}

pub(super) fn extents() -> Vec<Vec<u8>> {
    let rows: Vec<Extent> = (0..9u8)
        .map(|number| Extent {
            offset: u64::from(number) * 5000,
            len: 4000,
            block: block(number / 2),
            block_offset: 7,
        })
        .collect();
    let child = |start: u64, block| {
        let node = NodeRef {
            block,
            offset: 64,
            len: 256,
        };
        let end = start + 4000;
        (Span { start, end }, node)
    };
    vec![
        Extents::encode_leaf(&rows, &|_| child(0, None).1),
        Extents::encode_index(1, &[child(0, None), child(5000, Some(block(3)))]),
    ]
}

pub(super) fn directories() -> Vec<Vec<u8>> {
    let meta = Meta {
        mode: 0o4755,
        mtime: Timestamp {
            seconds: -1,
            nanos: 999_999_999,
        },
    };
    let file = |body| EntryKind::File {
        meta,
        content: FileContent { size: 4000, body },
    };
    let below = NodePacker::new(1 << 20).push(b"node");
    let extent = Extent {
        offset: 0,
        len: 4000,
        block: block(1),
        block_offset: 0,
    };
    let kinds = [
        file(crate::dag::Body::Inline(vec![extent])),
        file(crate::dag::Body::Inline(Vec::new())),
        file(crate::dag::Body::Manifest(below)),
        EntryKind::Directory {
            meta,
            entries: Some(below),
        },
        EntryKind::Directory {
            meta,
            entries: None,
        },
        EntryKind::Symlink {
            mtime: meta.mtime,
            target: b"../elsewhere".to_vec(),
        },
        EntryKind::HardLink {
            first: b"a/b".to_vec(),
        },
    ];
    let entries: Vec<_> = (b'a'..)
        .zip(kinds)
        .map(|(letter, kind)| Entry {
            name: vec![letter, 0xff],
            kind,
        })
        .collect();
    let node = NodeRef {
        block: None,
        offset: 64,
        len: 256,
    };
    let span = |first: &[u8], last: &[u8], count| crate::dag::NameSpan {
        first: first.to_vec(),
        last: last.to_vec(),
        count,
    };
    let children = [
        (span(b"a", b"f", 6), node),
        (
            span(b"g", b"g", 1),
            NodeRef {
                block: Some(block(2)),
                ..node
            },
        ),
    ];
    vec![
        Entries::encode_leaf(&entries, &|_| node),
        Entries::encode_index(2, &children),
    ]
}

pub(super) fn tree() -> Vec<u8> {
    let at = place(0);
    TreeRoot {
        meta: Meta {
            mode: 0o755,
            mtime: Timestamp {
                seconds: 1,
                nanos: 0,
            },
        },
        entries: Some(NodeRef {
            block: Some(at.block),
            offset: 0,
            len: 100,
        }),
        totals: TreeTotals {
            files: 3,
            bytes: 12_000,
            ..TreeTotals::default()
        },
    }
    .encode()
}

pub(super) fn containers() -> Vec<Vec<u8>> {
    let cost = Cost {
        memory_kib: 32,
        passes: 1,
        lanes: 2,
    };
    match seal_container(b"backup", "passphrase", cost, &Entropy::seeded(3)) {
        Ok(sealed) => vec![sealed],
        Err(error) => panic!("a backup of our own: {error}"),
    }
}

pub(super) fn segments() -> Vec<Vec<u8>> {
    let written = async {
        let disk = MemDisk::new(1 << 30);
        disk.create(VERSION_FILE)?
            .write_at(0, &mut [std::io::IoSlice::new(&version_text())])?;
        let options = StoreOptions::new(32 << 20, Entropy::seeded(7));
        let clock = Clock::simulated(NOW_MS);
        let opened = Store::open(Arc::new(disk.clone()), options, Pools::inline(), clock).await;
        let (store, _) = opened.map_err(std::io::Error::other)?;
        fill(&store).await.map_err(std::io::Error::other)?;
        store.close().await.map_err(std::io::Error::other)?;
        disk.open(SEGMENT)?.read_vec(0, 1 << 20)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    match runtime.and_then(|runtime| runtime.block_on(written)) {
        Ok(segment) => vec![segment],
        Err(error) => panic!("a store of our own: {error}"),
    }
}

/// A record of every kind.
async fn fill(store: &Store) -> Result<(), crate::store::StoreError> {
    let expires_ms = NOW_MS + 3_600_000;
    let profile = EcProfile::new(2, 1).unwrap_or(EcProfile::DEFAULT);
    let other = |number| ClaimId { number, ..claim() };
    if let Ok(stripe) = encode_stripe(b"a stripe of few bytes".as_slice().into(), profile) {
        for shard in stripe.shards {
            let block = shard.id().block;
            store.put(shard, claim(), expires_ms).await?;
            store.claim(other(4), expires_ms, vec![block]).await?;
        }
    }
    store.close_claim(claim()).await?;
    store.release_claim(other(4)).await?;
    let row = |key: &[u8], value| ("space".to_owned(), key.to_vec(), value);
    let value = Some(Bytes::from_static(b"value"));
    store
        .kv_put(vec![row(b"a", value.clone()), row(b"b", value)])
        .await?;
    store.kv_put(vec![row(b"a", None)]).await
}
