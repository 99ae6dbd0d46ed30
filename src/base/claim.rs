//! Who keeps a block alive, and through which upload.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ids::{PeerId, byte_id};

byte_id!(
    /// Somebody for whom blocks are kept: a volume, or one peer's own puts.
    OwnerId,
    16
);

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// One upload's claim on the blocks that it names or stores.
///
/// A holder keeps a block while any claim names it. Only `writer` may close or release it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(OwnerId, PeerId, u64)", into = "(OwnerId, PeerId, u64)")]
pub struct ClaimId {
    /// For whom the blocks are kept.
    pub owner: OwnerId,
    /// The peer that uploads.
    pub writer: PeerId,
    /// Grows with every upload of this writer.
    pub number: u64,
}

impl From<(OwnerId, PeerId, u64)> for ClaimId {
    fn from((owner, writer, number): (OwnerId, PeerId, u64)) -> Self {
        ClaimId {
            owner,
            writer,
            number,
        }
    }
}

impl From<ClaimId> for (OwnerId, PeerId, u64) {
    fn from(claim: ClaimId) -> Self {
        (claim.owner, claim.writer, claim.number)
    }
}
