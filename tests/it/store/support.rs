//! Shards, claims and runtimes for the tests of the store.

use bytes::Bytes;
use cairnfs::base::{
    BlockId, ClaimId, Clock, EcProfile, Entropy, OwnerId, PeerId, Pools, ShardHash,
};
use cairnfs::erasure::{CodecId, StripeHeader, VerifiedShard};
use cairnfs::store::{Disk, OpenReport, Store, StoreOptions};
use std::future::Future;
use std::sync::Arc;

pub(crate) const START_MS: u64 = 1_700_000_000_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// All shards of one made-up stripe, always the same for the same arguments. (Parity is not real:
/// the store cannot tell.)
pub(crate) fn stripe(seed: u64, shard_len: usize, profile: (u8, u8)) -> Vec<VerifiedShard> {
    let profile = EcProfile::try_from(profile).unwrap();
    let entropy = Entropy::seeded(seed);
    let data: Vec<Bytes> = (0..profile.total_shards())
        .map(|_| {
            let mut bytes = vec![0; shard_len];
            entropy.fill(&mut bytes);
            Bytes::from(bytes)
        })
        .collect();
    let header = StripeHeader {
        codec: CodecId::ReedSolomon,
        profile,
        sealed_len: (shard_len * profile.data_shards()) as u32,
        shard_len: shard_len as u32,
        shard_hashes: data
            .iter()
            .map(|bytes| ShardHash(*blake3::hash(bytes).as_bytes()))
            .collect(),
    };
    let encoded = Bytes::from(header.encode());
    let block = StripeHeader::address(&encoded);
    data.into_iter()
        .enumerate()
        .map(|(index, bytes)| {
            VerifiedShard::verify(block, index as u8, encoded.clone(), bytes).unwrap()
        })
        .collect()
}

/// The first shard of a stripe of its own.
pub(crate) fn shard(seed: u64, len: usize) -> VerifiedShard {
    stripe(seed, len, (4, 2)).swap_remove(0)
}

pub(crate) fn block_of(shard: &VerifiedShard) -> BlockId {
    shard.id().block
}

pub(crate) fn claim(number: u64) -> ClaimId {
    ClaimId {
        owner: OwnerId([1; 16]),
        writer: PeerId([2; 32]),
        number,
    }
}

/// Runs in one thread, with paused time.
pub(crate) fn simulate<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) fn options(quota_bytes: u64) -> StoreOptions {
    StoreOptions::new(quota_bytes, Entropy::seeded(7))
}

pub(crate) async fn open(
    disk: Arc<dyn Disk>,
    options: StoreOptions,
    clock: &Clock,
) -> (Store, OpenReport) {
    Store::open(disk, options, Pools::inline(), clock.clone())
        .await
        .unwrap()
}

/// What the tests of this binary multiply their cases with.
pub(crate) fn scale() -> u32 {
    let scale = std::env::var("CAIRN_TEST_SCALE").ok();
    scale.and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

/// A shard with these bytes.
pub(crate) fn carrying(bytes: Vec<u8>) -> VerifiedShard {
    let data = Bytes::from(bytes);
    let header = StripeHeader {
        codec: CodecId::ReedSolomon,
        profile: EcProfile::new(1, 0).unwrap(),
        sealed_len: data.len() as u32,
        shard_len: data.len() as u32,
        shard_hashes: vec![ShardHash(*blake3::hash(&data).as_bytes())],
    };
    let encoded = Bytes::from(header.encode());
    VerifiedShard::verify(StripeHeader::address(&encoded), 0, encoded, data).unwrap()
}
