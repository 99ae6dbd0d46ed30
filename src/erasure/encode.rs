//! From a sealed chunk to the shards of its stripe, in one allocation.

use bytes::Bytes;

use super::codec::{self, ErasureCodec, split_stripe};
use super::stripe::{StripeError, StripeHeader, VerifiedShard};
use crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES;
use crate::base::{BlockId, EcProfile, ShardHash, ShardId};

/// Bytes of the parts of all shards that are coded and hashed together: they should fit into a core's own cache.
const PARTS_BYTES: usize = 384 << 10;
/// What the hash takes at once where it is fastest; a part has a multiple of it.
const HASHED_AT_ONCE_BYTES: usize = 16 << 10;

/// One block, ready to be placed.
#[derive(Debug, Clone)]
pub struct EncodedStripe {
    /// Address of the block.
    pub id: BlockId,
    /// Canonical stripe header.
    pub header: Bytes,
    /// All shards in order, data first; slices of one allocation.
    pub shards: Vec<VerifiedShard>,
}

/// Bytes that a stripe of `sealed_len` sealed bytes occupies: data, padding and parity.
///
/// Memory of this length is not moved by [`encode_stripe_in`].
pub const fn stripe_capacity(sealed_len: usize, profile: EcProfile) -> usize {
    sealed_len.div_ceil(profile.data_shards()) * profile.total_shards()
}

/// Codes a sealed chunk with the fastest codec of this processor.
///
/// # Errors
/// `Inconsistent` if `sealed` is empty or longer than any sealed chunk can be.
pub fn encode_stripe(sealed: Vec<u8>, profile: EcProfile) -> Result<EncodedStripe, StripeError> {
    let sealed_len = sealed.len();
    encode_stripe_in(codec::default(), sealed, sealed_len, profile)
}

/// As [`encode_stripe`], with a codec of the caller's choice, of what are the first `sealed_len` bytes of `memory`.
/// `memory` is dropped when nothing of the stripe is used any more.
///
/// # Errors
/// As [`encode_stripe`].
pub fn encode_stripe_in<M>(
    codec: &dyn ErasureCodec,
    mut memory: M,
    sealed_len: usize,
    profile: EcProfile,
) -> Result<EncodedStripe, StripeError>
where
    M: AsMut<Vec<u8>> + AsRef<[u8]> + Send + 'static,
{
    let buffer: &mut Vec<u8> = memory.as_mut();
    if sealed_len == 0 || sealed_len > MESSAGE_PAYLOAD_MAX_BYTES.min(buffer.len()) {
        return Err(StripeError::Inconsistent("sealed length out of range"));
    }
    let shard_len = sealed_len.div_ceil(profile.data_shards());
    let stripe_len = stripe_capacity(sealed_len, profile);
    if buffer.len() < stripe_len {
        buffer.resize(stripe_len, 0);
    }
    let data_len = shard_len * profile.data_shards();
    if let Some(padding) = buffer.get_mut(sealed_len..data_len) {
        padding.fill(0);
    }
    let stripe = buffer.get_mut(..stripe_len).unwrap_or_default();
    let (data, mut parity) = split_stripe(profile, shard_len, stripe)?;
    let shard_hashes = code_and_hash(codec, profile, &data, &mut parity)?;

    let stripe = Bytes::from_owner(memory);
    let shards: Vec<Bytes> = (0..profile.total_shards())
        .map(|index| stripe.slice(index * shard_len..(index + 1) * shard_len))
        .collect();
    let header = StripeHeader {
        codec: codec.id(),
        profile,
        sealed_len: sealed_len as u32,
        shard_len: shard_len as u32,
        shard_hashes,
    };
    let header = Bytes::from(header.encode());
    let id = StripeHeader::address(&header);
    let shards = (0u8..)
        .zip(shards)
        .map(|(index, data)| {
            VerifiedShard::trusted(ShardId { block: id, index }, profile, header.clone(), data)
        })
        .collect();
    Ok(EncodedStripe { id, header, shards })
}

/// Fills in the parity and hashes all shards, a part of each at a time: what was just coded is hashed out of the cache of the
/// processor.
fn code_and_hash(
    codec: &dyn ErasureCodec,
    profile: EcProfile,
    data: &[&[u8]],
    parity: &mut [&mut [u8]],
) -> Result<Vec<ShardHash>, StripeError> {
    let shard_len = data.first().map_or(0, |shard| shard.len());
    let part_len = (PARTS_BYTES / profile.total_shards()).next_multiple_of(HASHED_AT_ONCE_BYTES);
    let mut hashers = vec![blake3::Hasher::new(); profile.total_shards()];
    for start in (0..shard_len).step_by(part_len) {
        let range = start..shard_len.min(start + part_len);
        let data: Vec<&[u8]> = data
            .iter()
            .map(|shard| shard.get(range.clone()).unwrap_or_default())
            .collect();
        let mut made: Vec<&mut [u8]> = parity
            .iter_mut()
            .map(|shard| shard.get_mut(range.clone()).unwrap_or_default())
            .collect();
        codec.encode_part(profile, &data, &mut made)?;
        let made = made.iter().map(|part| &**part);
        for (hasher, part) in hashers.iter_mut().zip(data.into_iter().chain(made)) {
            hasher.update(part);
        }
    }
    let hashes = hashers
        .iter()
        .map(|hasher| ShardHash(*hasher.finalize().as_bytes()));
    Ok(hashes.collect())
}
