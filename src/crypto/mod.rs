//! Sealing chunks, keys, signatures, invitations.
//!
//! Pure functions over bytes; knows nothing of chunk borders, codes, disk or network.

mod aead;
mod compress;
mod envelope;
pub mod epoch;
pub mod keys;
pub mod layout;
mod links;
pub mod member;
pub mod passphrase;
pub mod proof;
pub mod record;
pub mod release;
pub mod seal;
pub mod sign;
pub mod ticket;
pub mod volume_member;
pub mod volume_ticket;
pub mod wrap;

pub use aead::has_wide_aes;
pub use epoch::{EpochKey, MessageTag};
pub use keys::{ConvergenceSecret, NetworkSecrets};
pub use layout::Layout;
pub use member::{Membership, MembershipChain, Terms};
pub use proof::{Side, Statement};
pub use release::SignedRelease;
#[cfg(feature = "testkit")]
pub use seal::forge;
pub use seal::{SealError, Sealed, open, open_frames, seal, sealed_len_max};
pub use sign::{Purpose, Signature, SigningKey};
pub use ticket::{Contact, Ticket};
pub use volume_member::{VolumeChain, VolumeMember, VolumeTerms};
pub use volume_ticket::{SharedVolume, VolumeTicket};
pub use wrap::{EpochSecrets, Wrapping};

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
