//! Sealing small messages under a key that all members of a volume have for an epoch.
//!
//! The key of each message is derived from the epoch's key and a keyed hash of the message itself, its
//! header included. So one key never seals two different messages, whatever a writer forgets or numbers
//! again: the same message sealed again is the same bytes, and another has another key. (As chunks are
//! sealed; the hash goes along in clear, since no reference brings the key. Without the epoch's key it
//! tells nothing but whether two messages are equal.)

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::aead::{Cipher, NONCE_BYTES, TAG_BYTES};
use crate::base::ids::byte_id;
use crate::base::{Class, Classify, Entropy};

const TAG_CONTEXT: &str = "cairn v1 epoch: tag of a message";
const KEY_CONTEXT: &str = "cairn v1 epoch: key of a message";

/// Bytes that sealing adds to a message.
pub const SEALING_BYTES: usize = TAG_BYTES;

byte_id!(
    /// A keyed hash of a message and its header, from which its key follows.
    MessageTag,
    32
);

impl fmt::Debug for MessageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Why a message was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Damaged, or sealed under another key or with another header.
    #[error("the message does not open with this key")]
    Authentication,
    /// The cipher library failed: an error of this program.
    #[error("the cipher failed")]
    Engine,
}

impl Classify for MessageError {
    fn class(&self) -> Class {
        match self {
            MessageError::Authentication => Class::Corrupt,
            MessageError::Engine => Class::Bug,
        }
    }
}

/// The key that the members of a volume share for an epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochKey([u8; 32]);

impl EpochKey {
    /// A new random key.
    pub fn generate(entropy: &Entropy) -> EpochKey {
        EpochKey(entropy.array())
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> EpochKey {
        EpochKey(bytes)
    }

    /// Its bytes, for storing and for wrapping. Handle with care.
    pub const fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    fn tag(&self, header: &[u8], message: &[u8]) -> MessageTag {
        let key = blake3::derive_key(TAG_CONTEXT, &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(message).update(header);
        // Tells where the one ends and the other begins.
        hasher.update(&(header.len() as u64).to_le_bytes());
        MessageTag(*hasher.finalize().as_bytes())
    }

    fn cipher(&self, tag: &MessageTag) -> Result<Cipher, MessageError> {
        let key = blake3::derive_key(KEY_CONTEXT, &self.0);
        let key = blake3::keyed_hash(&key, &tag.0);
        Cipher::new(key.as_bytes()).map_err(|_| MessageError::Engine)
    }

    /// Seals `message`, which opens with the same `header` only. Deterministic.
    ///
    /// # Errors
    /// [`MessageError::Engine`].
    pub fn seal(
        &self,
        header: &[u8],
        message: &[u8],
    ) -> Result<(MessageTag, Vec<u8>), MessageError> {
        let tag = self.tag(header, message);
        let mut text = [message, &[0; TAG_BYTES]].concat();
        self.cipher(&tag)?
            .seal([0; NONCE_BYTES], header, &mut text)
            .map_err(|_| MessageError::Engine)?;
        Ok((tag, text))
    }

    /// Opens what [`seal`](EpochKey::seal) made, and nothing else.
    ///
    /// # Errors
    /// Any.
    pub fn open(
        &self,
        header: &[u8],
        tag: &MessageTag,
        text: &[u8],
    ) -> Result<Vec<u8>, MessageError> {
        let (text, check) = text
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(MessageError::Authentication)?;
        let mut message = text.to_vec();
        self.cipher(tag)?
            .open([0; NONCE_BYTES], header, &mut message, *check)
            .map_err(|_| MessageError::Authentication)?;
        // A member could use one tag twice; what it makes this way is refused by all alike.
        match self.tag(header, &message) == *tag {
            true => Ok(message),
            false => Err(MessageError::Authentication),
        }
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_opens_with_its_key_header_and_tag_only() {
        let key = EpochKey::generate(&Entropy::seeded(1));
        let (tag, text) = key.seal(b"header", b"message").unwrap();
        assert_eq!(key.open(b"header", &tag, &text).unwrap(), b"message");
        assert_eq!(text.len(), 7 + SEALING_BYTES);
        let other = EpochKey::generate(&Entropy::seeded(2));
        let refused = Err(MessageError::Authentication);
        assert_eq!(other.open(b"header", &tag, &text), refused);
        assert_eq!(key.open(b"Header", &tag, &text), refused);
        assert_eq!(key.open(b"header", &MessageTag([0; 32]), &text), refused);
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] ^= 1;
            assert_eq!(key.open(b"header", &tag, &bad), refused);
            assert_eq!(key.open(b"header", &tag, &text[..at]), refused);
        }
    }

    /// The whole point: a writer that forgot what it sent, and says something else in its place.
    #[test]
    fn no_key_seals_two_messages() {
        let key = EpochKey::generate(&Entropy::seeded(1));
        let (tag, text) = key.seal(b"5", b"one thing").unwrap();
        assert_eq!(key.seal(b"5", b"one thing").unwrap(), (tag, text.clone()));
        let (again, other) = key.seal(b"5", b"some else").unwrap();
        assert_ne!(tag, again);
        // With one key stream the exclusive or of both texts would be that of both messages.
        let zip = |a: &[u8], b: &[u8]| -> Vec<u8> { a.iter().zip(b).map(|(a, b)| a ^ b).collect() };
        assert_ne!(zip(&text, &other)[..9], zip(b"one thing", b"some else"));
        // Neither does what moves from the header into the message.
        let (moved, _) = key.seal(b"", b"5one thing").unwrap();
        assert_ne!(moved, tag);
        let (moved, _) = key.seal(b"one thing", b"5").unwrap();
        assert_ne!(moved, tag);
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(
            format!("{:?}", EpochKey::from_bytes([7; 32])),
            "EpochKey(..)"
        );
    }
}
