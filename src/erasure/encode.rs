//! From a sealed chunk to the shards of its stripe, in one allocation.

use bytes::Bytes;

use super::codec::{self, ErasureCodec};
use super::stripe::{StripeError, StripeHeader, VerifiedShard};
use crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES;
use crate::base::{BlockId, EcProfile, ShardHash, ShardId};

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
    codec.encode(profile, shard_len, stripe)?;

    let stripe = Bytes::from_owner(memory);
    let shards: Vec<Bytes> = (0..profile.total_shards())
        .map(|index| stripe.slice(index * shard_len..(index + 1) * shard_len))
        .collect();
    let header = StripeHeader {
        codec: codec.id(),
        profile,
        sealed_len: sealed_len as u32,
        shard_len: shard_len as u32,
        shard_hashes: shards
            .iter()
            .map(|shard| ShardHash(*blake3::hash(shard).as_bytes()))
            .collect(),
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
