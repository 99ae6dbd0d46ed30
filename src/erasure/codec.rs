//! The seam between stripes and the crates that compute their parity.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::reed_solomon::Portable;
use super::simd::Simd;
use super::stripe::{CodecId, StripeError};
use crate::base::EcProfile;

/// Computes parity and brings lost shards back. Two codecs of one id compute the same bytes.
pub trait ErasureCodec: Send + Sync {
    /// The code, as written in stripe headers.
    fn id(&self) -> CodecId;

    /// Which implementation this is, for reports.
    fn name(&self) -> &'static str;

    /// Fills in the parity of `stripe`, whatever is there: all shards of the profile one after the other, of
    /// `shard_len` bytes each, data first.
    fn encode(
        &self,
        profile: EcProfile,
        shard_len: usize,
        stripe: &mut [u8],
    ) -> Result<(), StripeError> {
        let (data, mut parity) = split_stripe(profile, shard_len, stripe)?;
        self.encode_part(profile, &data, &mut parity)
    }

    /// As [`ErasureCodec::encode`], of the same part of each shard: bytes at one place depend on those at the same place of
    /// others only.
    fn encode_part(
        &self,
        profile: EcProfile,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
    ) -> Result<(), StripeError>;

    /// Computes the shards `wanted` into `out`, in the same order.
    ///
    /// `shards` has one place for each shard of the profile; at least `data_shards` of them are
    /// filled, and all slices are of one length.
    fn reconstruct(
        &self,
        profile: EcProfile,
        shards: &[Option<&[u8]>],
        wanted: &[u8],
        out: &mut [&mut [u8]],
    ) -> Result<(), StripeError>;
}

/// The fastest codec for this processor that writes [`CodecId::ReedSolomon`].
pub fn default() -> &'static dyn ErasureCodec {
    static FASTEST: LazyLock<&'static dyn ErasureCodec> = LazyLock::new(|| match Simd::detect() {
        Some(simd) => Box::leak(Box::new(simd)),
        None => portable(),
    });
    *FASTEST
}

/// The codec that runs everywhere: the oracle of the others.
pub fn portable() -> &'static dyn ErasureCodec {
    static PORTABLE: LazyLock<Portable> = LazyLock::new(Portable::default);
    &*PORTABLE
}

/// The codec that reads stripes of this id.
pub fn for_id(id: CodecId) -> &'static dyn ErasureCodec {
    match id {
        CodecId::ReedSolomon => default(),
    }
}

/// Profiles whose tables are kept. A network uses a handful; a hostile header may name any.
const CACHED_PROFILES: usize = 32;

/// Coding tables, made once for each profile.
pub(super) struct PerProfile<T>(RwLock<BTreeMap<EcProfile, Arc<T>>>);

impl<T> Default for PerProfile<T> {
    fn default() -> Self {
        PerProfile(RwLock::default())
    }
}

impl<T> PerProfile<T> {
    pub(super) fn get(
        &self,
        profile: EcProfile,
        make: impl FnOnce() -> Result<T, StripeError>,
    ) -> Result<Arc<T>, StripeError> {
        let cached = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&profile)
            .map(Arc::clone);
        if let Some(tables) = cached {
            return Ok(tables);
        }
        let tables = Arc::new(make()?);
        let mut cache = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_PROFILES {
            cache.clear();
        }
        cache.insert(profile, Arc::clone(&tables));
        Ok(tables)
    }
}

/// Data shards and parity shards.
type Split<'a> = (Vec<&'a [u8]>, Vec<&'a mut [u8]>);

/// Splits a stripe into its data shards and its parity shards.
pub(super) fn split_stripe(
    profile: EcProfile,
    shard_len: usize,
    stripe: &mut [u8],
) -> Result<Split<'_>, StripeError> {
    if shard_len == 0 || stripe.len() != profile.total_shards() * shard_len {
        return Err(StripeError::Codec(
            "the stripe's length is not that of its shards".to_owned(),
        ));
    }
    let (data, parity) = stripe.split_at_mut(profile.data_shards() * shard_len);
    Ok((
        data.chunks_exact(shard_len).collect(),
        parity.chunks_exact_mut(shard_len).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_bounded_under_any_profiles() {
        let cache = PerProfile::<u8>::default();
        for data in 1..=60 {
            let profile = EcProfile::new(data, 2).unwrap();
            assert_eq!(*cache.get(profile, || Ok(data)).unwrap(), data);
            assert_eq!(*cache.get(profile, || Ok(0)).unwrap(), data);
        }
        assert!(cache.0.read().unwrap().len() <= CACHED_PROFILES);
    }

    #[test]
    fn a_stripe_of_the_wrong_length_is_refused() {
        let profile = EcProfile::DEFAULT;
        for (len, shard_len) in [(0, 0), (6, 0), (59, 10), (61, 10)] {
            let mut stripe = vec![0u8; len];
            assert!(default().encode(profile, shard_len, &mut stripe).is_err());
            assert!(portable().encode(profile, shard_len, &mut stripe).is_err());
        }
    }
}
