//! Sealing chunks, keys, signatures, invitations.
//!
//! Pure functions over bytes; knows nothing of chunk borders, codes, disk or network.

mod aead;
mod compress;
pub mod keys;
pub mod layout;
pub mod seal;

pub use keys::{ConvergenceSecret, NetworkSecrets};
pub use layout::Layout;
pub use seal::{SealError, Sealed, open, seal, sealed_len_max};

#[cfg(test)]
mod testing {
    //! How many random cases the property tests of this layer try.

    use proptest::prelude::ProptestConfig;

    /// `base` cases, times `CAIRN_TEST_SCALE`.
    pub(super) fn cases(base: u32) -> ProptestConfig {
        let scale = std::env::var("CAIRN_TEST_SCALE")
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(1);
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(base.saturating_mul(scale))
        }
    }
}
