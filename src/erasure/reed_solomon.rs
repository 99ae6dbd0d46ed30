//! The portable codec: the only door to the crate `reed-solomon-erasure`.

use reed_solomon_erasure::galois_8::ReedSolomon;

use super::codec::{ErasureCodec, PerProfile};
use super::stripe::{CodecId, StripeError};
use crate::base::EcProfile;

/// Plain Rust, on every processor; about a twentieth of the speed of [`super::simd::Simd`].
#[derive(Default)]
pub(super) struct Portable {
    coders: PerProfile<ReedSolomon>,
}

fn failed(error: reed_solomon_erasure::Error) -> StripeError {
    StripeError::Codec(error.to_string())
}

impl Portable {
    fn coder(&self, profile: EcProfile) -> Result<std::sync::Arc<ReedSolomon>, StripeError> {
        self.coders.get(profile, || {
            ReedSolomon::new(profile.data_shards(), profile.parity_shards()).map_err(failed)
        })
    }
}

impl ErasureCodec for Portable {
    fn id(&self) -> CodecId {
        CodecId::ReedSolomon
    }

    fn name(&self) -> &'static str {
        "portable"
    }

    fn encode_part(
        &self,
        profile: EcProfile,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
    ) -> Result<(), StripeError> {
        if parity.is_empty() {
            return Ok(());
        }
        self.coder(profile)?
            .encode_sep(data, parity)
            .map_err(failed)
    }

    fn reconstruct(
        &self,
        profile: EcProfile,
        shards: &[Option<&[u8]>],
        wanted: &[u8],
        out: &mut [&mut [u8]],
    ) -> Result<(), StripeError> {
        // The crate fills every gap of a stripe that it owns, so the survivors are copied.
        let mut owned: Vec<Option<Vec<u8>>> = shards
            .iter()
            .map(|shard| shard.map(<[u8]>::to_vec))
            .collect();
        self.coder(profile)?
            .reconstruct(&mut owned)
            .map_err(failed)?;
        for (index, target) in wanted.iter().zip(out) {
            match owned.get(usize::from(*index)) {
                Some(Some(shard)) if shard.len() == target.len() => target.copy_from_slice(shard),
                _ => {
                    return Err(StripeError::Codec(format!(
                        "no room for shard {index}, or no such shard"
                    )));
                }
            }
        }
        Ok(())
    }
}
