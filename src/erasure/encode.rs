//! From a sealed chunk to the shards of its stripe, in one allocation.

use bytes::{Bytes, BytesMut};

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
/// A buffer of this capacity is never moved by [`encode_stripe`].
pub const fn stripe_capacity(sealed_len: usize, profile: EcProfile) -> usize {
    sealed_len.div_ceil(profile.data_shards()) * profile.total_shards()
}

/// Codes a sealed chunk with the fastest codec of this processor.
///
/// # Errors
/// `Inconsistent` if `sealed` is empty or longer than any sealed chunk can be.
pub fn encode_stripe(sealed: BytesMut, profile: EcProfile) -> Result<EncodedStripe, StripeError> {
    encode_stripe_with(codec::default(), sealed, profile)
}

/// As [`encode_stripe`], with a codec of the caller's choice.
pub fn encode_stripe_with(
    codec: &dyn ErasureCodec,
    mut sealed: BytesMut,
    profile: EcProfile,
) -> Result<EncodedStripe, StripeError> {
    let sealed_len = sealed.len();
    if sealed_len == 0 || sealed_len > MESSAGE_PAYLOAD_MAX_BYTES {
        return Err(StripeError::Inconsistent("sealed length out of range"));
    }
    let shard_len = sealed_len.div_ceil(profile.data_shards());
    sealed.resize(stripe_capacity(sealed_len, profile), 0);
    codec.encode(profile, shard_len, &mut sealed)?;

    let stripe = sealed.freeze();
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
            VerifiedShard::trusted(ShardId { block: id, index }, header.clone(), data)
        })
        .collect();
    Ok(EncodedStripe { id, header, shards })
}
