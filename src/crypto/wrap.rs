//! Handing the secrets of an epoch to those who shall have them: each gets them sealed under what its own key and a
//! key that is used once have in common.
//!
//! The one-time key is an Ed25519 key like those of devices and invitations, so that there is one kind of key
//! only; what two of them have in common is X25519 of their Montgomery forms.

use std::fmt;

use serde_bytes::{ByteArray, ByteBuf};

use super::epoch::{EpochKey, MessageTag};
use super::keys::ConvergenceSecret;
use super::sign::{PublicKey, SignError, SigningKey};
use crate::base::Entropy;
use crate::base::wire;

const NAME_CONTEXT: &str = "cairn v1 wrap: name of a recipient";
const KEY_CONTEXT: &str = "cairn v1 wrap: key";
const EPOCH_CONTEXT: &str = "cairn v1 epoch: short name of a key";

/// Bytes by which a recipient finds what is meant for it.
pub const NAME_BYTES: usize = 8;
/// Most bytes of one sealed part: a key, a secret, and what is around them.
pub const WRAP_MAX_BYTES: usize = 128;

/// What members share from an epoch on.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochSecrets {
    /// What deltas and the places of checkpoints are sealed under.
    pub key: EpochKey,
    /// What blocks are sealed under. Who only reads is not told.
    pub secret: Option<ConvergenceSecret>,
}

/// `[key, convergence secret or null]`.
type SecretsWire = (ByteArray<32>, Option<ByteArray<32>>);

impl EpochSecrets {
    /// New random ones.
    pub fn generate(entropy: &Entropy) -> EpochSecrets {
        EpochSecrets {
            key: EpochKey::generate(entropy),
            secret: Some(ConvergenceSecret::random(entropy)),
        }
    }

    /// What somebody who only reads is told.
    pub fn for_reading(&self) -> EpochSecrets {
        EpochSecrets {
            key: self.key.clone(),
            secret: None,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let secret = self.secret.as_ref();
        wire::encode::<SecretsWire>(&(
            ByteArray::new(*self.key.secret()),
            secret.map(|secret| ByteArray::new(*secret.secret())),
        ))
    }

    fn decode(bytes: &[u8]) -> Option<EpochSecrets> {
        let (key, secret) = wire::decode_canonical::<SecretsWire>(bytes, WRAP_MAX_BYTES).ok()?;
        Some(EpochSecrets {
            key: EpochKey::from_bytes(key.into_array()),
            secret: secret.map(|secret| ConvergenceSecret::from_bytes(secret.into_array())),
        })
    }
}

impl fmt::Debug for EpochSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSecrets(..)")
    }
}

/// The name of an epoch: how many rotations came before it, and two bytes of a hash of its key, so that two that are
/// begun at the same time seldom have one name. (Where they have, whoever opens something tries both.)
pub fn epoch_name(number: u16, key: &EpochKey) -> u32 {
    let hash = blake3::derive_key(EPOCH_CONTEXT, key.secret());
    let [high, low, ..] = hash;
    u32::from(number) << 16 | u32::from(u16::from_be_bytes([high, low]))
}

/// How many rotations came before an epoch.
pub const fn epoch_number(name: u32) -> u16 {
    (name >> 16) as u16
}

/// What is handed to one recipient: by which name it finds it, and the sealed secrets.
pub type Wrap = (ByteArray<NAME_BYTES>, MessageTag, ByteBuf);

/// One-time key by which secrets are handed out.
pub struct Wrapping(SigningKey);

/// By which name `recipient` finds what is meant for it among what was sealed with the one-time key `once`.
pub fn recipient_name(once: &PublicKey, recipient: &PublicKey) -> [u8; NAME_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(NAME_CONTEXT);
    let hash = *hasher
        .update(&once.0)
        .update(&recipient.0)
        .finalize()
        .as_bytes();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    [a, b, c, d, e, f, g, h]
}

fn wrap_key(common: &[u8; 32], once: &PublicKey, recipient: &PublicKey) -> EpochKey {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    hasher.update(common).update(&once.0).update(&recipient.0);
    EpochKey::from_bytes(*hasher.finalize().as_bytes())
}

impl Wrapping {
    /// A new one-time key.
    pub fn new(entropy: &Entropy) -> Wrapping {
        Wrapping(SigningKey::generate(entropy))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.0.public()
    }

    /// Seals secrets for whoever has the secret half of `recipient`, together with `header`.
    ///
    /// # Errors
    /// If `recipient` is no key.
    pub fn wrap(
        &self,
        recipient: &PublicKey,
        header: &[u8],
        secrets: &EpochSecrets,
    ) -> Result<Wrap, SignError> {
        let common = self.0.agree(recipient)?;
        let once = self.public();
        let key = wrap_key(&common, &once, recipient);
        let sealed = key.seal(header, &secrets.encode());
        let (tag, text) = sealed.map_err(|_| SignError::Key)?;
        let name = ByteArray::new(recipient_name(&once, recipient));
        Ok((name, tag, text.into()))
    }
}

/// Opens what was sealed for the holder of `own` with the one-time key `once` and `header`; none if it was sealed for
/// somebody else, or with something else.
pub fn unwrap(
    own: &SigningKey,
    once: &PublicKey,
    header: &[u8],
    (name, tag, text): &Wrap,
) -> Option<EpochSecrets> {
    let recipient = own.public();
    if **name != recipient_name(once, &recipient) {
        return None;
    }
    let common = own.agree(once).ok()?;
    let key = wrap_key(&common, once, &recipient);
    EpochSecrets::decode(&key.open(header, tag, text).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_meant_opens_it() {
        let entropy = Entropy::seeded(1);
        let [one, two] = [2, 3].map(|seed| SigningKey::generate(&Entropy::seeded(seed)));
        let secrets = EpochSecrets::generate(&entropy);
        let wrapping = Wrapping::new(&entropy);
        let once = wrapping.public();
        for secrets in [&secrets, &secrets.for_reading()] {
            let wrap = wrapping.wrap(&one.public(), b"header", secrets).unwrap();
            assert!(wrap.2.len() <= WRAP_MAX_BYTES);
            assert_eq!(
                unwrap(&one, &once, b"header", &wrap).as_ref(),
                Some(secrets)
            );
            assert_eq!(unwrap(&one, &once, b"Header", &wrap), None);
            assert_eq!(unwrap(&two, &once, b"header", &wrap), None);
            assert_eq!(unwrap(&one, &two.public(), b"header", &wrap), None);
            // Named as another's it does not open either.
            let mut stolen = wrap.clone();
            stolen.0 = ByteArray::new(recipient_name(&once, &two.public()));
            assert_eq!(unwrap(&two, &once, b"header", &stolen), None);
            let mut bad = wrap.clone();
            bad.2[3] ^= 1;
            assert_eq!(unwrap(&one, &once, b"header", &bad), None);
        }
        let none = PublicKey([0; 32]);
        assert!(wrapping.wrap(&none, b"", &secrets).is_err());
    }

    #[test]
    fn names_of_epochs_grow_with_their_numbers() {
        let [one, two] = [1, 2].map(|seed| EpochKey::generate(&Entropy::seeded(seed)));
        assert!(epoch_name(1, &one) < epoch_name(2, &two));
        assert!(epoch_name(1, &two) < epoch_name(2, &one));
        assert_ne!(epoch_name(7, &one), epoch_name(7, &two));
        assert_eq!(epoch_number(epoch_name(u16::MAX, &one)), u16::MAX);
        // That of a volume that never rotated.
        assert_eq!(epoch_number(1), 0);
    }
}
