//! What is stored: sealed chunks, stripes, manifests, the identity and its backup.

use bytes::Bytes;

use super::split;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, BlockKey, BlockRef, IndexSet, ShardHash};
use crate::crypto::passphrase::open_container;
use crate::crypto::{Layout, forge, open, open_frames};
use crate::dag::directory::Entries;
use crate::dag::{Extents, Node, NodeAt, Shape, TreeRoot, Walk};
use crate::erasure::tree::{aligned, proves};
use crate::erasure::{Outboard, StripeHeader, VerifiedShard, join, rebuild};
use crate::node::identity::Identity;

/// The key of all sealed chunks here.
pub(super) const KEY: BlockKey = BlockKey([7; 32]);
/// The most that opening a mutated key file may cost here.
const CONTAINER_KIB_MAX: u32 = 256;
const CONTAINER_PASSES_MAX: u32 = 2;
/// Parts of a stripe that are computed in one run, at most.
const STRIPE_BYTES_MAX: u64 = 256 << 10;

/// A sealed chunk as its writer forged it: header in clear, and payloads.
pub(super) fn sealed_chunk(data: &[u8]) {
    // As it is: nobody but the owner of the key can make one.
    assert!(open(&KEY, &[data]).is_err() || data.len() > 24);
    let (header, payloads) = split(data);
    let Some(sealed) = forge(&KEY, header, payloads) else {
        return;
    };
    let whole = open(&KEY, &[&sealed]);
    if let Ok(plain) = &whole {
        assert!(plain.len() <= CHUNK_MAX_BYTES);
    }
    let Ok(layout) = Layout::open(&KEY, &sealed) else {
        assert!(whole.is_err(), "it opens without a header");
        return;
    };
    for frame in 0..layout.frame_count() {
        let Some(range) = layout.sealed_range(frame..frame + 1) else {
            panic!("a frame without a place");
        };
        let Some(part) = sealed.get(range.start as usize..range.end as usize) else {
            continue;
        };
        let opened = open_frames(&KEY, &layout, frame..frame + 1, &[part]);
        if let (Ok(plain), Ok(whole)) = (opened, &whole) {
            let at = layout.plain_range(frame..frame + 1).unwrap_or(0..0);
            assert_eq!(whole.get(at.start as usize..at.end as usize), Some(&*plain));
        }
    }
}

/// The header of a stripe.
pub(super) fn stripe_header(data: &[u8]) {
    if let Ok(header) = StripeHeader::decode(data) {
        assert_eq!(header.encode(), data);
    }
}

/// A header, and shards that need not fit one another: each alone is what the header says.
pub(super) fn stripe_shards(data: &[u8]) {
    let (header, rest) = split(data);
    let Ok(mut header) = StripeHeader::decode(header) else {
        return;
    };
    let shard_len = header.shard_len as usize;
    let total = header.profile.total_shards();
    if total as u64 * u64::from(header.shard_len) > STRIPE_BYTES_MAX {
        return;
    }
    let shard = |index: usize| -> Bytes {
        let bytes = rest.iter().cycle().skip(index * shard_len).take(shard_len);
        let mut bytes: Vec<u8> = bytes.copied().collect();
        bytes.resize(shard_len, index as u8);
        bytes.into()
    };
    header.shard_hashes = (0..total)
        .map(|index| ShardHash(*blake3::hash(&shard(index)).as_bytes()))
        .collect();
    let encoded = Bytes::from(header.encode());
    let block = StripeHeader::address(&encoded);
    let verified: Vec<VerifiedShard> = (0..total)
        .filter_map(|index| {
            VerifiedShard::verify(block, index as u8, encoded.clone(), shard(index)).ok()
        })
        .collect();
    assert_eq!(verified.len(), total, "shards that fit their header");
    let data_shards = header.profile.data_shards();
    if let Ok(joined) = join(&verified) {
        let len: usize = joined.iter().map(Bytes::len).sum();
        assert_eq!(len, header.sealed_len as usize);
    }
    let last = verified.get(total - data_shards..).unwrap_or_default();
    if let Ok(all) = rebuild(last, IndexSet::first(total)) {
        assert_eq!(all, verified, "what is rebuilt is what the header lists");
    }
    let few = verified.get(1..data_shards).unwrap_or_default();
    assert!(join(few).is_err());
}

/// Where a part of a shard is, a proof, and bytes of which the shard is made.
pub(super) fn shard_proof(data: &[u8]) {
    let Some((shard, at, proof, bytes)) = proof_parts(data) else {
        return;
    };
    let (outboard, hash) = Outboard::new(&shard);
    assert_eq!(&hash.0, blake3::hash(&shard).as_bytes());
    let len = shard.len();
    if proves(&hash, len, at, bytes, proof) {
        assert_eq!(shard.get(at..at + bytes.len()), Some(bytes));
    }
    let range = aligned(at..at.saturating_add(bytes.len()), len);
    let Some(part) = shard.get(range.clone()).filter(|part| !part.is_empty()) else {
        return;
    };
    let honest = outboard.prove(range.clone());
    assert!(proves(&hash, len, range.start, part, &honest));
    assert!(outboard.matches(range.start, part));
    let is_honest = proof == honest;
    assert_eq!(proves(&hash, len, range.start, part, proof), is_honest);
}

/// A shard, a place in it, a proof, and the bytes that the shard repeats.
pub(super) fn proof_parts(data: &[u8]) -> Option<(Vec<u8>, usize, &[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let (at, rest) = rest.split_first_chunk::<4>()?;
    let (proof, bytes) = split(rest);
    let len = u32::from_be_bytes(*len) as usize % STRIPE_BYTES_MAX as usize;
    let at = u32::from_be_bytes(*at) as usize;
    let mut shard: Vec<u8> = bytes.iter().cycle().take(len).copied().collect();
    shard.resize(len, 0);
    Some((shard, at, proof, bytes))
}

/// Where the nodes lie: in the middle of a block, so that references to nodes before are possible.
pub(super) fn place(len: usize) -> NodeAt {
    NodeAt {
        block: BlockRef {
            id: BlockId([3; 32]),
            key: BlockKey([4; 32]),
            plain_len: CHUNK_MAX_BYTES as u32,
        },
        offset: 1 << 20,
        len: len as u32,
    }
}

fn node<S: Shape>(data: &[u8]) {
    let at = place(data.len());
    let decoded = S::decode(data, &at);
    if let Ok(Node::Index { children, .. }) = &decoded {
        for (_, child) in children {
            assert!(child.check().is_ok());
            assert!(child.block != at.block || child.offset < at.offset);
        }
    }
    // The same bytes as a walk meets them: as the root, and below it again and again.
    let mut walk = Walk::<S>::all(at);
    for _ in 0..4 {
        if walk.supply(data).is_err() {
            break;
        }
        while let crate::dag::Step::Items(_) = walk.step() {}
    }
}

/// A node of a file's extents.
pub(super) fn extent_node(data: &[u8]) {
    node::<Extents>(data);
}

/// A node of a directory's entries.
pub(super) fn directory_node(data: &[u8]) {
    if let Ok(Node::Leaf(entries)) = Entries::decode(data, &place(data.len())) {
        for entry in &entries {
            assert!(crate::dag::check_name(&entry.name).is_ok());
        }
    }
    node::<Entries>(data);
}

/// The root of a tree.
pub(super) fn tree_root(data: &[u8]) {
    if let Ok(root) = TreeRoot::decode(data, &place(data.len())) {
        assert!(root.totals.within(&root.totals));
    }
}

/// The identity file; its checksum is made to fit.
pub(super) fn identity(data: &[u8]) {
    let read = |bytes: &[u8]| {
        if let Ok(Some(identity)) = Identity::decode(bytes) {
            assert_eq!(identity.encode(), bytes);
        }
    };
    read(data);
    let (front, _) = data.split_at(data.len().saturating_sub(16));
    let checksum = blake3::hash(front);
    read(&[front, checksum.as_bytes().get(..16).unwrap_or_default()].concat());
}

/// The sealed backup of an identity, unless opening it would cost much.
pub(super) fn key_container(data: &[u8]) {
    let number = |at: usize| {
        let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let is_dear = number(10) > CONTAINER_KIB_MAX || number(14) > CONTAINER_PASSES_MAX;
    // Beyond every bound it is refused at once, and that is tried.
    let is_refused = number(10) > 1 << 20 || number(14) > 1 << 10;
    if !is_dear || is_refused {
        let opened = open_container(data, "passphrase");
        assert!(!is_refused || opened.is_err());
    }
}

/// The record of a volume in the catalogue.
pub(super) fn volume_record(data: &[u8]) {
    if let Some(again) = crate::node::rewritten_record(data) {
        // One of before volumes were shared is written as one of now.
        assert!(again == data || data.get(1) == Some(&1));
        assert_eq!(crate::node::rewritten_record(&again), Some(again));
    }
}
