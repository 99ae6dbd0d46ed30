//! The fast codec: the only door to the crate `rusty_erasure`.

use std::sync::Arc;

use rusty_erasure::compat::reed_solomon_erasure_matrix;
use rusty_erasure::{Coder, kernel::Kernels};

use super::codec::{ErasureCodec, PerProfile};
use super::stripe::{CodecId, StripeError};
use crate::base::EcProfile;

/// Vector instructions found at run time; the same bytes as [`super::reed_solomon::Portable`].
pub(super) struct Simd {
    kernels: Kernels,
    coders: PerProfile<Coder>,
}

fn failed(error: impl std::fmt::Display) -> StripeError {
    StripeError::Codec(error.to_string())
}

impl Simd {
    /// `None` where the processor has no instructions that this codec knows.
    pub(super) fn detect() -> Option<Self> {
        let kernels = rusty_erasure::best_kernels();
        (kernels.name != Kernels::scalar().name).then(|| Simd {
            kernels,
            coders: PerProfile::default(),
        })
    }

    fn coder(&self, profile: EcProfile) -> Result<Arc<Coder>, StripeError> {
        self.coders.get(profile, || {
            let matrix =
                reed_solomon_erasure_matrix(profile.data_shards(), profile.parity_shards())
                    .map_err(failed)?;
            Coder::with_kernels(matrix, self.kernels).map_err(failed)
        })
    }
}

impl ErasureCodec for Simd {
    fn id(&self) -> CodecId {
        CodecId::ReedSolomon
    }

    fn name(&self) -> &'static str {
        self.kernels.name
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
        self.coder(profile)?.encode(data, parity).map_err(failed)
    }

    fn reconstruct(
        &self,
        profile: EcProfile,
        shards: &[Option<&[u8]>],
        wanted: &[u8],
        out: &mut [&mut [u8]],
    ) -> Result<(), StripeError> {
        let wanted: Vec<usize> = wanted.iter().copied().map(usize::from).collect();
        self.coder(profile)?
            .recover(shards, &wanted, out)
            .map_err(failed)
    }
}
