//! A container that a passphrase opens, for backups of a peer's identity: the only door to the
//! crate `argon2`.
//!
//! ```text
//! magic "cairnkey" | version u8 | kdf u8 | memory KiB u32 | passes u32 | lanes u32
//!   | salt (16) | nonce (12) | content (encrypted) | tag (16)
//! ```
//!
//! Integers are little-endian. Everything before the content is associated data.

use argon2::{Algorithm, Argon2, Params, Version};

use super::aead::{Cipher, NONCE_BYTES, TAG_BYTES};
use crate::base::{Class, Classify, Entropy};

const MAGIC: [u8; 8] = *b"cairnkey";
/// Version written by this program.
pub const CONTAINER_VERSION: u8 = 1;
/// Argon2id, version 0x13 (RFC 9106), with a key of 32 bytes for AES-256-GCM.
const KDF_ARGON2ID: u8 = 1;

const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = 8 + 2 + 3 * 4 + SALT_BYTES + NONCE_BYTES;

/// Most that a container may ask of the machine that opens it.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// Why a container could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// It does not begin as a container does.
    #[error("not a key file written by `cairn key export`")]
    NotAContainer,
    /// Written by a later version.
    #[error("key file of format version {found}; this program reads up to {known}: update it")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// It asks for more memory or time than any export does.
    #[error("the key file asks for an unreasonable amount of work: {0}")]
    Cost(&'static str),
    /// The passphrase is wrong, or the file is damaged: nobody can tell which.
    #[error("wrong passphrase, or the key file is damaged")]
    Wrong,
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    Empty,
    /// Not enough memory for the derivation.
    #[error("not enough memory to derive the key: {0} KiB are needed")]
    Memory(u32),
}

impl Classify for PassphraseError {
    fn class(&self) -> Class {
        match self {
            PassphraseError::Wrong | PassphraseError::Empty => Class::Denied,
            PassphraseError::Memory(_) => Class::Full,
            _ => Class::Corrupt,
        }
    }
}

/// What guessing a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB, at least 8 for each lane.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Degree of parallelism.
    pub lanes: u32,
}

impl Default for Cost {
    /// 64 MiB and three passes (the second recommendation of RFC 9106, on one lane).
    fn default() -> Self {
        Cost {
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 1,
        }
    }
}

impl Cost {
    fn check(self) -> Result<Self, PassphraseError> {
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(PassphraseError::Cost("lanes"));
        }
        if !(8 * self.lanes..=MEMORY_KIB_MAX).contains(&self.memory_kib) {
            return Err(PassphraseError::Cost("memory"));
        }
        if !(1..=PASSES_MAX).contains(&self.passes) {
            return Err(PassphraseError::Cost("passes"));
        }
        Ok(self)
    }

    fn derive(self, passphrase: &[u8], salt: &[u8]) -> Result<Cipher, PassphraseError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| PassphraseError::Cost("parameters"))?;
        let mut key = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, salt, &mut key)
            .map_err(|_| PassphraseError::Memory(self.memory_kib))?;
        Cipher::new(&key).map_err(|_| PassphraseError::Wrong)
    }
}

/// Seals `content` so that only `passphrase` opens it. Takes the time and memory of `cost`.
pub fn seal_container(
    content: &[u8],
    passphrase: &str,
    cost: Cost,
    entropy: &Entropy,
) -> Result<Vec<u8>, PassphraseError> {
    if passphrase.is_empty() {
        return Err(PassphraseError::Empty);
    }
    let cost = cost.check()?;
    let salt: [u8; SALT_BYTES] = entropy.array();
    let nonce: [u8; NONCE_BYTES] = entropy.array();
    let mut sealed = Vec::with_capacity(HEADER_BYTES + content.len() + TAG_BYTES);
    sealed.extend_from_slice(&MAGIC);
    sealed.extend_from_slice(&[CONTAINER_VERSION, KDF_ARGON2ID]);
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        sealed.extend_from_slice(&number.to_le_bytes());
    }
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(&nonce);
    let header = sealed.clone();
    sealed.extend_from_slice(content);
    sealed.extend_from_slice(&[0; TAG_BYTES]);
    let body = sealed.get_mut(HEADER_BYTES..).unwrap_or_default();
    cost.derive(passphrase.as_bytes(), &salt)?
        .seal(nonce, &header, body)
        .map_err(|_| PassphraseError::Wrong)?;
    Ok(sealed)
}

/// Opens a container. Takes the time and memory that it asks for, within fixed bounds.
pub fn open_container(sealed: &[u8], passphrase: &str) -> Result<Vec<u8>, PassphraseError> {
    let body = sealed
        .strip_prefix(&MAGIC)
        .ok_or(PassphraseError::NotAContainer)?;
    let version = *body.first().ok_or(PassphraseError::NotAContainer)?;
    if version != CONTAINER_VERSION {
        return Err(PassphraseError::Version {
            found: version,
            known: CONTAINER_VERSION,
        });
    }
    let (header, content) = sealed
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(PassphraseError::Wrong)?;
    let (content, tag) = content
        .split_last_chunk::<TAG_BYTES>()
        .ok_or(PassphraseError::Wrong)?;
    let (fixed, rest) = header.split_at(10);
    if fixed.last() != Some(&KDF_ARGON2ID) {
        return Err(PassphraseError::Cost("unknown key derivation"));
    }
    let (numbers, rest) = rest.split_at(12);
    let (salt, nonce) = rest.split_at(SALT_BYTES);
    let (numbers, _) = numbers.as_chunks::<4>();
    let [memory_kib, passes, lanes] = <[[u8; 4]; 3]>::try_from(numbers)
        .map_err(|_| PassphraseError::NotAContainer)?
        .map(u32::from_le_bytes);
    let nonce = nonce.try_into().map_err(|_| PassphraseError::Wrong)?;
    let cost = Cost {
        memory_kib,
        passes,
        lanes,
    }
    .check()?;
    let mut plain = content.to_vec();
    cost.derive(passphrase.as_bytes(), salt)?
        .open(nonce, header, &mut plain, *tag)
        .map_err(|_| PassphraseError::Wrong)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost {
        memory_kib: 16,
        passes: 1,
        lanes: 1,
    };

    fn sample() -> Vec<u8> {
        seal_container(b"identity", "correct horse", CHEAP, &Entropy::seeded(1)).unwrap()
    }

    #[test]
    fn the_passphrase_opens_it_and_no_other_does() {
        assert_eq!(
            open_container(&sample(), "correct horse").unwrap(),
            b"identity"
        );
        assert_eq!(
            open_container(&sample(), "battery"),
            Err(PassphraseError::Wrong)
        );
        assert_eq!(open_container(&sample(), ""), Err(PassphraseError::Wrong));
        let empty = seal_container(b"x", "", CHEAP, &Entropy::seeded(1));
        assert_eq!(empty, Err(PassphraseError::Empty));
    }

    #[test]
    fn damage_is_noticed_and_never_costs_more_than_the_bounds() {
        let sealed = sample();
        for len in 0..sealed.len() {
            assert!(open_container(&sealed[..len], "correct horse").is_err());
        }
        for at in (0..10).chain(HEADER_BYTES - 28..sealed.len()) {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open_container(&bad, "correct horse").is_err(), "byte {at}");
        }
        for at in [10, 14, 18] {
            let mut greedy = sealed.clone();
            greedy[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let error = open_container(&greedy, "correct horse").unwrap_err();
            assert!(matches!(error, PassphraseError::Cost(_)), "{error}");
        }
    }

    #[test]
    fn a_later_version_and_other_files_are_told_apart() {
        let mut later = sample();
        later[8] = 2;
        assert!(matches!(
            open_container(&later, "x"),
            Err(PassphraseError::Version { found: 2, .. })
        ));
        assert_eq!(
            open_container(b"hello", "x"),
            Err(PassphraseError::NotAContainer)
        );
        assert!(Cost::default().check().is_ok());
    }
}
