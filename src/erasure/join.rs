//! From any `data_shards` shards back to the sealed chunk, or to the shards that were lost.

use bytes::{Bytes, BytesMut};

use super::codec::{self, ErasureCodec};
use super::stripe::{StripeError, StripeHeader, VerifiedShard};
use crate::base::{IndexSet, ShardId};

/// The sealed chunk of one stripe as slices in order, none of them empty.
///
/// Data shards at hand are passed through without a copy; only lost ones are computed, and checked
/// against the header. Surplus and repeated shards do no harm.
///
/// # Errors
/// `NotEnough` shards; `WrongBlock` if they are of different stripes; `Inconsistent` if the
/// header's hashes are not those of one code word: then no shards can ever bring the block back.
pub fn join(shards: &[VerifiedShard]) -> Result<Vec<Bytes>, StripeError> {
    join_with(None, shards)
}

/// As [`join`], with a codec of the caller's choice.
pub fn join_with(
    codec: Option<&dyn ErasureCodec>,
    shards: &[VerifiedShard],
) -> Result<Vec<Bytes>, StripeError> {
    let stripe = Partial::gather(shards)?;
    let data_shards = stripe.header.profile.data_shards();
    let data = stripe.complete(codec, IndexSet::first(data_shards))?;
    let mut left = stripe.header.sealed_len as usize;
    let mut parts = Vec::with_capacity(data_shards);
    for shard in data {
        let len = shard.data().len().min(left);
        if len > 0 {
            parts.push(shard.data().slice(..len));
        }
        left -= len;
    }
    Ok(parts)
}

/// The shards `wanted` of the stripe that `shards` belong to, in ascending order.
///
/// Indices beyond the stripe are ignored; those at hand are passed through. The rest is computed
/// and checked against the header, so a repair never spreads a shard that nobody would accept.
///
/// # Errors
/// As [`join`].
pub fn rebuild(
    shards: &[VerifiedShard],
    wanted: IndexSet,
) -> Result<Vec<VerifiedShard>, StripeError> {
    rebuild_with(None, shards, wanted)
}

/// As [`rebuild`], with a codec of the caller's choice.
pub fn rebuild_with(
    codec: Option<&dyn ErasureCodec>,
    shards: &[VerifiedShard],
    wanted: IndexSet,
) -> Result<Vec<VerifiedShard>, StripeError> {
    Partial::gather(shards)?.complete(codec, wanted)
}

/// A stripe some of whose shards are at hand.
struct Partial<'a> {
    header: StripeHeader,
    first: &'a VerifiedShard,
    shards: Vec<Option<&'a VerifiedShard>>,
}

impl<'a> Partial<'a> {
    fn gather(shards: &'a [VerifiedShard]) -> Result<Self, StripeError> {
        let first = shards
            .first()
            .ok_or(StripeError::NotEnough { have: 0, need: 1 })?;
        let header = StripeHeader::decode(first.header())?;
        let mut places = vec![None; header.profile.total_shards()];
        for shard in shards {
            if shard.id().block != first.id().block {
                return Err(StripeError::WrongBlock(first.id().block));
            }
            if let Some(place) = places.get_mut(usize::from(shard.id().index)) {
                *place = Some(shard);
            }
        }
        let have = places.iter().flatten().count();
        let need = header.profile.data_shards();
        if have < need {
            return Err(StripeError::NotEnough { have, need });
        }
        Ok(Partial {
            header,
            first,
            shards: places,
        })
    }

    /// The shards `wanted`, computing those that are not at hand.
    fn complete(
        &self,
        codec: Option<&dyn ErasureCodec>,
        wanted: IndexSet,
    ) -> Result<Vec<VerifiedShard>, StripeError> {
        let total = self.header.profile.total_shards();
        let lost: Vec<u8> = (0u8..)
            .zip(&self.shards)
            .filter(|(index, shard)| shard.is_none() && wanted.contains(*index))
            .map(|(index, _)| index)
            .collect();
        let mut computed = self.compute(codec, &lost)?.into_iter();
        let mut result = Vec::with_capacity(wanted.len());
        for (index, shard) in (0u8..).zip(&self.shards).take(total) {
            if wanted.contains(index) {
                result.extend(match shard {
                    Some(shard) => Some((*shard).clone()),
                    None => computed.next(),
                });
            }
        }
        Ok(result)
    }

    fn compute(
        &self,
        codec: Option<&dyn ErasureCodec>,
        lost: &[u8],
    ) -> Result<Vec<VerifiedShard>, StripeError> {
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let codec = codec.unwrap_or_else(|| codec::for_id(self.header.codec));
        let shard_len = self.header.shard_len as usize;
        let survivors: Vec<Option<&[u8]>> = self
            .shards
            .iter()
            .map(|shard| shard.map(|shard| shard.data().as_ref()))
            .collect();
        let mut buffer = BytesMut::zeroed(lost.len() * shard_len);
        let mut out: Vec<&mut [u8]> = buffer.chunks_exact_mut(shard_len).collect();
        codec.reconstruct(self.header.profile, &survivors, lost, &mut out)?;

        let buffer = buffer.freeze();
        lost.iter()
            .enumerate()
            .map(|(at, index)| {
                let data = buffer.slice(at * shard_len..(at + 1) * shard_len);
                let expected = self.header.shard_hashes.get(usize::from(*index));
                if expected.map(|hash| hash.0) != Some(*blake3::hash(&data).as_bytes()) {
                    return Err(StripeError::Inconsistent(
                        "the shard hashes are not those of one code word",
                    ));
                }
                let id = ShardId {
                    block: self.first.id().block,
                    index: *index,
                };
                Ok(VerifiedShard::trusted(
                    id,
                    self.first.profile(),
                    self.first.header().clone(),
                    data,
                ))
            })
            .collect()
    }
}
