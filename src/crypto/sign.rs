//! Ed25519 signatures: the only door to the crate `ed25519-dalek`.
//!
//! Every signature says what for, so that one made for one purpose never passes for another.

use std::fmt;

use ed25519_dalek::{Signer, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base::ids::byte_id;
use crate::base::{Class, Classify, Entropy, PeerId};

byte_id!(
    /// An Ed25519 public key that is not that of a peer.
    PublicKey,
    32
);

byte_id!(
    /// An Ed25519 signature.
    Signature,
    64
);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl From<PeerId> for PublicKey {
    fn from(peer: PeerId) -> Self {
        PublicKey(peer.0)
    }
}

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A member admits whoever holds another key.
    Invitation,
    /// The holder of an invitation's key names its device.
    Certificate,
    /// A peer describes itself.
    PeerRecord,
    /// A writer adds a delta to its feed.
    FeedLink,
    /// A writer says how far its feed goes.
    FeedHead,
    /// A member says how much of the feeds of a revoked device it had.
    FeedCut,
    /// A writer names its checkpoint.
    Checkpoint,
    /// A writer says which of its deltas a checkpoint makes up for.
    FeedCovered,
    /// The owner of a volume says who decides on its locks.
    Voters,
    /// A writer ends a claim of its own.
    ClaimRelease,
    /// A member of a volume admits whoever holds another key.
    VolumeInvitation,
    /// The holder of the key of an invitation to a volume names its device.
    VolumeCertificate,
    /// A member of a volume ends the part of another, or an invitation.
    VolumeRevocation,
    /// A member says who had come to a volume by a revoked device or invitation.
    VolumeHeirs,
    /// A member hands the keys of an epoch of a volume to others.
    VolumeRotation,
}

impl Purpose {
    /// Goes before the message, with a NUL that no label contains.
    const fn domain(self) -> &'static [u8] {
        match self {
            Purpose::Invitation => b"cairn v1 signature: invitation\0",
            Purpose::Certificate => b"cairn v1 signature: certificate\0",
            Purpose::PeerRecord => b"cairn v1 signature: peer record\0",
            Purpose::FeedLink => b"cairn v1 signature: feed link\0",
            Purpose::FeedHead => b"cairn v1 signature: feed head\0",
            Purpose::FeedCut => b"cairn v1 signature: feed cut\0",
            Purpose::Checkpoint => b"cairn v1 signature: checkpoint\0",
            Purpose::FeedCovered => b"cairn v1 signature: feed covered\0",
            Purpose::Voters => b"cairn v1 signature: voters\0",
            Purpose::ClaimRelease => b"cairn v1 signature: claim release\0",
            Purpose::VolumeInvitation => b"cairn v1 signature: volume invitation\0",
            Purpose::VolumeCertificate => b"cairn v1 signature: volume certificate\0",
            Purpose::VolumeRevocation => b"cairn v1 signature: volume revocation\0",
            Purpose::VolumeHeirs => b"cairn v1 signature: volume heirs\0",
            Purpose::VolumeRotation => b"cairn v1 signature: volume rotation\0",
        }
    }

    fn message(self, message: &[u8]) -> Vec<u8> {
        [self.domain(), message].concat()
    }
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The signer's key is not a point of the curve.
    #[error("not a valid Ed25519 public key")]
    Key,
    /// The signature is not that of this key over this message for this purpose.
    #[error("the signature is not valid")]
    Signature,
}

impl Classify for SignError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// A secret key that signs: that of a device, or the one-time key of an invitation.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new random key.
    pub fn generate(entropy: &Entropy) -> Self {
        Self::from_secret(&entropy.array())
    }

    /// From its 32 secret bytes (the seed of RFC 8032).
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// The secret bytes, for storing or for another library. Handle with care.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The peer whose device key this is.
    pub fn peer(&self) -> PeerId {
        PeerId(self.public().0)
    }

    /// What the holder of this key and that of `other` have in common, and nobody else knows: X25519 (RFC 7748)
    /// of both keys in their Montgomery form. To be hashed before it is used as a key.
    ///
    /// # Errors
    /// [`SignError::Key`] if `other` is no key, or one with which everybody has the same in common.
    pub(super) fn agree(&self, other: &PublicKey) -> Result<[u8; 32], SignError> {
        let other = VerifyingKey::from_bytes(&other.0).map_err(|_| SignError::Key)?;
        let point = other.to_montgomery().mul_clamped(self.0.to_scalar_bytes());
        match other.is_weak() || point.to_bytes() == [0; 32] {
            true => Err(SignError::Key),
            false => Ok(point.to_bytes()),
        }
    }

    /// Signs `message` for `purpose`. Deterministic.
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> Signature {
        Signature(self.0.sign(&purpose.message(message)).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {:?}, ..)", self.public())
    }
}

/// Checks a signature strictly (RFC 8032, and no keys or nonces of small order), so that all
/// peers agree on which signatures are valid.
pub fn verify(
    signer: impl Into<PublicKey>,
    purpose: Purpose,
    message: &[u8],
    signature: &Signature,
) -> Result<(), SignError> {
    let key = VerifyingKey::from_bytes(&signer.into().0).map_err(|_| SignError::Key)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&purpose.message(message), &signature)
        .map_err(|_| SignError::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_key_and_purpose_only() {
        let key = SigningKey::generate(&Entropy::seeded(1));
        let other = SigningKey::generate(&Entropy::seeded(2));
        let signature = key.sign(Purpose::PeerRecord, b"hello");
        verify(key.peer(), Purpose::PeerRecord, b"hello", &signature).unwrap();
        for refused in [
            verify(key.peer(), Purpose::PeerRecord, b"hullo", &signature),
            verify(key.peer(), Purpose::Invitation, b"hello", &signature),
            verify(other.public(), Purpose::PeerRecord, b"hello", &signature),
        ] {
            assert_eq!(refused, Err(SignError::Signature));
        }
        for bit in 0..512 {
            let mut bad = signature;
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(key.peer(), Purpose::PeerRecord, b"hello", &bad).is_err());
        }
    }

    #[test]
    fn weak_and_invalid_keys_are_refused() {
        let signature = Signature([0; 64]);
        let mut identity = [0; 32];
        identity[0] = 1;
        for key in [[0; 32], identity, [0xff; 32]] {
            assert!(verify(PublicKey(key), Purpose::PeerRecord, b"", &signature).is_err());
        }
    }

    #[test]
    fn two_keys_agree_on_what_no_third_has() {
        let [one, two, three] = [1, 2, 3].map(|seed| SigningKey::generate(&Entropy::seeded(seed)));
        let common = one.agree(&two.public()).unwrap();
        assert_eq!(two.agree(&one.public()).unwrap(), common);
        assert_ne!(three.agree(&one.public()).unwrap(), common);
        assert_ne!(three.agree(&two.public()).unwrap(), common);
        let mut identity = [0; 32];
        identity[0] = 1;
        for weak in [[0; 32], identity] {
            assert_eq!(one.agree(&PublicKey(weak)), Err(SignError::Key));
        }
    }

    #[test]
    fn the_secret_is_never_printed() {
        let key = SigningKey::from_secret(&[0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
        assert_eq!(SigningKey::from_secret(&key.secret()).peer(), key.peer());
    }
}
