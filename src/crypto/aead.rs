//! The one cipher of format version 1, AES-256-GCM: the only door to the crate `aws-lc-rs`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes that authentication adds to each message.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;

/// A message does not authenticate, or the library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CipherError;

/// One key, expanded. Never use one nonce for two different messages.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, CipherError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CipherError)?;
        Ok(Cipher(LessSafeKey::new(key)))
    }

    /// Encrypts `plain` into `sealed`, which has room for it and the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        plain: &[u8],
        sealed: &mut [u8],
    ) -> Result<(), CipherError> {
        let (text, tag) = sealed
            .split_at_mut_checked(plain.len())
            .ok_or(CipherError)?;
        self.0
            .seal_out_of_place_scatter(
                nonce_of(nonce),
                Aad::from(associated),
                plain,
                text,
                &[],
                tag,
            )
            .map_err(|_| CipherError)
    }

    /// Encrypts all of `buffer` but its last [`TAG_BYTES`], where the tag goes.
    pub(super) fn seal_in_place(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), CipherError> {
        let (text, tag) = buffer
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(CipherError)?;
        let made = self
            .0
            .seal_in_place_separate_tag(nonce_of(nonce), Aad::from(associated), text)
            .map_err(|_| CipherError)?;
        *tag = made.as_ref().try_into().map_err(|_| CipherError)?;
        Ok(())
    }

    /// Checks `sealed` (with its tag at the end) and decrypts it into `plain`, shorter by the tag.
    ///
    /// On error `plain` holds nothing meaningful.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), CipherError> {
        let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(CipherError)?;
        self.0
            .open_separate_gather(nonce_of(nonce), Aad::from(associated), text, tag, plain)
            .map_err(|_| CipherError)
    }
}

fn nonce_of(bytes: [u8; NONCE_BYTES]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_sealing_agree_with_the_published_vector() {
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
        let cipher = Cipher::new(&key).unwrap();

        let mut sealed = vec![0; plain.len() + TAG_BYTES];
        cipher
            .seal(nonce, &associated, &plain, &mut sealed)
            .unwrap();
        assert_eq!(sealed, expected);

        let mut in_place = plain.clone();
        in_place.extend_from_slice(&[0; TAG_BYTES]);
        cipher
            .seal_in_place(nonce, &associated, &mut in_place)
            .unwrap();
        assert_eq!(in_place, expected);

        let mut opened = vec![0; plain.len()];
        cipher
            .open(nonce, &associated, &sealed, &mut opened)
            .unwrap();
        assert_eq!(opened, plain);
        assert!(cipher.open(nonce, &[], &sealed, &mut opened).is_err());
        assert!(
            cipher
                .open(nonce, &associated, &sealed[..9], &mut opened)
                .is_err()
        );
    }
}
