//! The one cipher of format version 1, AES-256-GCM: the only door to `ring` and `aws-lc-rs` for content and for
//! records of connections.
//!
//! Which of the two is faster depends on the processor: with VAES and AVX-512 aws-lc-rs takes 0.12 s of CPU
//! per GiB against 0.19 s, with VAES alone ring takes 0.16 s against 0.32 s.

use std::sync::LazyLock;

use aws_lc_rs::aead as wide;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

/// Bytes that authentication adds to each message.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;

/// A message does not authenticate, or the library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CipherError;

/// Whether AES of aws-lc-rs is faster on this processor than that of ring.
pub fn has_wide_aes() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        let has = is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has
    });
    *HAS
}

/// One key, expanded. Never use one nonce for two different messages.
pub(super) enum Cipher {
    /// By `ring`.
    Ring(Box<LessSafeKey>),
    /// By `aws-lc-rs`. The same bytes.
    Wide(wide::LessSafeKey),
}

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, CipherError> {
        match has_wide_aes() {
            true => Self::wide(key),
            false => Self::ring(key),
        }
    }

    fn ring(key: &[u8; 32]) -> Result<Self, CipherError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CipherError)?;
        Ok(Cipher::Ring(Box::new(LessSafeKey::new(key))))
    }

    fn wide(key: &[u8; 32]) -> Result<Self, CipherError> {
        let key = wide::UnboundKey::new(&wide::AES_256_GCM, key).map_err(|_| CipherError)?;
        Ok(Cipher::Wide(wide::LessSafeKey::new(key)))
    }

    /// Encrypts all of `buffer` but its last [`TAG_BYTES`], where the tag goes.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), CipherError> {
        let (text, tag) = buffer
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(CipherError)?;
        match self {
            Cipher::Ring(key) => {
                let made = key
                    .seal_in_place_separate_tag(nonce_of(nonce), Aad::from(associated), text)
                    .map_err(|_| CipherError)?;
                *tag = made.as_ref().try_into().map_err(|_| CipherError)?;
            }
            Cipher::Wide(key) => {
                let nonce = wide::Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_scatter(nonce, wide::Aad::from(associated), text, &[], tag)
                    .map_err(|_| CipherError)?;
            }
        }
        Ok(())
    }

    /// Encrypts `pieces`, as one message, to all of `target` but its last [`TAG_BYTES`], where the tag goes.
    pub(super) fn seal_to(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        pieces: &[&[u8]],
        target: &mut [u8],
    ) -> Result<(), CipherError> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if target.len() != len + TAG_BYTES {
            return Err(CipherError);
        }
        // One or two pieces, as there are most often, are read where they are.
        let two = match pieces {
            [] => None,
            [one] => Some((*one, &[][..])),
            [one, other] => Some((*one, *other)),
            _ => None,
        };
        if let (Cipher::Wide(key), Some((one, other))) = (self, two) {
            let nonce = wide::Nonce::assume_unique_for_key(nonce);
            let associated = wide::Aad::from(associated);
            let (text, rest) = target.split_at_mut_checked(one.len()).ok_or(CipherError)?;
            let sealed = key.seal_out_of_place_scatter(nonce, associated, one, text, other, rest);
            return sealed.map_err(|_| CipherError);
        }
        let mut start = 0;
        for piece in pieces {
            let end = start + piece.len();
            let room = target.get_mut(start..end).ok_or(CipherError)?;
            room.copy_from_slice(piece);
            start = end;
        }
        self.seal(nonce, associated, target)
    }

    /// Checks `text` against `tag` and decrypts it to `target`, which is as long.
    ///
    /// On error `target` holds nothing meaningful.
    pub(super) fn open_to(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &[u8],
        tag: [u8; TAG_BYTES],
        target: &mut [u8],
    ) -> Result<(), CipherError> {
        if target.len() != text.len() {
            return Err(CipherError);
        }
        let Cipher::Wide(key) = self else {
            target.copy_from_slice(text);
            return self.open(nonce, associated, target, tag);
        };
        let nonce = wide::Nonce::assume_unique_for_key(nonce);
        let associated = wide::Aad::from(associated);
        key.open_separate_gather(nonce, associated, text, &tag, target)
            .map_err(|_| CipherError)
    }

    /// Checks `text` against `tag` and decrypts it in place.
    ///
    /// On error `text` holds nothing meaningful.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        text: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> Result<(), CipherError> {
        match self {
            Cipher::Ring(key) => {
                let associated = Aad::from(associated);
                key.open_in_place_separate_tag(
                    nonce_of(nonce),
                    associated,
                    Tag::from(tag),
                    text,
                    0..,
                )
                .map_err(|_| CipherError)?;
            }
            Cipher::Wide(key) => {
                let nonce = wide::Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(
                    nonce,
                    wide::Aad::from(associated),
                    tag.as_ref(),
                    text,
                )
                .map_err(|_| CipherError)?;
            }
        }
        Ok(())
    }
}

fn nonce_of(bytes: [u8; NONCE_BYTES]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_published_vector() {
        // NIST GCM test case 16 (AES-256, with associated data).
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let key: [u8; 32] = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
            .try_into()
            .unwrap();
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let expected = hex(concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b"
        ));
        for cipher in [Cipher::ring(&key).unwrap(), Cipher::wide(&key).unwrap()] {
            let mut sealed = plain.clone();
            sealed.extend_from_slice(&[0; TAG_BYTES]);
            cipher.seal(nonce, &associated, &mut sealed).unwrap();
            assert_eq!(sealed, expected);
            for cut in 0..=plain.len() {
                let (a, b) = plain.split_at(cut);
                let mut again = vec![7; sealed.len()];
                let whole: &[u8] = &plain;
                for pieces in [&[a, b][..], &[b""], &[whole], &[whole, b""], &[a, b"", b]] {
                    let to = &mut again;
                    let fits = cipher.seal_to(nonce, &associated, pieces, to).is_ok();
                    assert_eq!(fits, pieces.concat() == plain);
                    assert!(!fits || again == expected, "cut at {cut}");
                }
            }

            let (text, tag) = sealed.split_last_chunk().unwrap();
            let mut opened = text.to_vec();
            cipher.open(nonce, &associated, &mut opened, *tag).unwrap();
            assert_eq!(opened, plain);
            let mut elsewhere = vec![7; text.len()];
            let to = &mut elsewhere;
            cipher.open_to(nonce, &associated, text, *tag, to).unwrap();
            assert_eq!(elsewhere, plain);
            assert!(
                cipher
                    .open_to(nonce, &[], text, *tag, &mut elsewhere)
                    .is_err()
            );
            let short = &mut elsewhere[1..];
            assert!(
                cipher
                    .open_to(nonce, &associated, text, *tag, short)
                    .is_err()
            );
            let mut wrong = text.to_vec();
            assert!(cipher.open(nonce, &[], &mut wrong, *tag).is_err());
            assert!(cipher.seal(nonce, &[], &mut [0; 9]).is_err());
            let mut nothing = [0; TAG_BYTES];
            cipher.seal_to(nonce, &[], &[], &mut nothing).unwrap();
            cipher.open(nonce, &[], &mut [], nothing).unwrap();
        }
    }
}
