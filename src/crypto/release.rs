//! A writer's signed word that a claim of its ends: what one holder heard, and can prove to another.
//!
//! Numbers of claims are never used twice and a release is final, so the same word said again, by whomever and whenever,
//! does nothing that it did not do the first time.

use super::sign::{Purpose, SignError, Signature, SigningKey, verify};
use crate::base::{ClaimId, OwnerId};

/// Bytes that are signed.
const MESSAGE_BYTES: usize = 16 + 32 + 8 + 8;

/// The end of a claim, signed by its writer. May be of anybody's making until [`SignedRelease::verify`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRelease {
    /// The claim that ends.
    pub claim: ClaimId,
    /// From when on it keeps nothing (ms since 1970); 0: at once.
    pub from_ms: u64,
    /// The writer's signature.
    pub signature: Signature,
}

/// `owner (16) || writer (32) || number (8) || from_ms (8)`, numbers big-endian.
fn message(claim: &ClaimId, from_ms: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    let parts: [&[u8]; 4] = [
        &claim.owner.0,
        &claim.writer.0,
        &claim.number.to_be_bytes(),
        &from_ms.to_be_bytes(),
    ];
    let bytes = parts.into_iter().flatten();
    message
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    message
}

impl SignedRelease {
    /// The word of the device whose key this is about a claim of its own.
    pub fn sign(key: &SigningKey, owner: OwnerId, number: u64, from_ms: u64) -> Self {
        let claim = ClaimId {
            owner,
            writer: key.peer(),
            number,
        };
        let signature = key.sign(Purpose::ClaimRelease, &message(&claim, from_ms));
        SignedRelease {
            claim,
            from_ms,
            signature,
        }
    }

    /// Whether the claim's writer said so.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self) -> Result<(), SignError> {
        let signed = message(&self.claim, self.from_ms);
        verify(
            self.claim.writer,
            Purpose::ClaimRelease,
            &signed,
            &self.signature,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Entropy, PeerId};

    const OWNER: OwnerId = OwnerId([7; 16]);

    #[test]
    fn a_release_holds_for_its_claim_moment_and_writer_only() {
        let key = SigningKey::generate(&Entropy::seeded(1));
        let release = SignedRelease::sign(&key, OWNER, 42, 1000);
        release.verify().unwrap();
        let mut others = [release; 5];
        others[0].claim.number = 43;
        others[1].claim.owner = OwnerId([8; 16]);
        others[2].from_ms = 0;
        others[3].claim.writer = SigningKey::generate(&Entropy::seeded(2)).peer();
        others[4].claim.writer = PeerId([0; 32]);
        for other in others {
            assert!(other.verify().is_err(), "{other:?}");
        }
    }

    #[test]
    fn what_is_signed_is_as_written_down() {
        let claim = ClaimId {
            owner: OwnerId([1; 16]),
            writer: PeerId([2; 32]),
            number: 0x0102_0304_0506_0708,
        };
        let bytes = message(&claim, 9);
        assert_eq!(bytes[..16], [1; 16]);
        assert_eq!(bytes[16..48], [2; 32]);
        assert_eq!(bytes[48..56], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[56..], [0, 0, 0, 0, 0, 0, 0, 9]);
    }
}
