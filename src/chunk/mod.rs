//! Where to cut: streams into content-defined chunks, small files into packs.
//!
//! Pure functions over bytes and lengths; knows nothing of ciphers, codes, disk or network.

pub mod cdc;
mod gear;
pub mod pack;
pub mod sizes;

pub use cdc::Cutter;
pub use pack::{Packer, Slot, pack_mark};
pub use sizes::ChunkSizes;

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
