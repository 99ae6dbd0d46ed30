//! Who this peer is: device key, network secrets, proof of membership, owner id.
//!
//! One small file, readable by its owner only, written to a temporary name and renamed. It is all
//! that cannot be made again; `key export` seals the same bytes under a passphrase.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_bytes::ByteArray;

use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify, Entropy, OwnerId, PeerId};
use crate::crypto::member::MemberError;
use crate::crypto::{MembershipChain, NetworkSecrets, SigningKey};

/// Name of the file in the data directory.
pub const IDENTITY_FILE: &str = "identity";
/// Version written by this program.
const IDENTITY_VERSION: u8 = 1;
const MAGIC: &[u8; 8] = b"cairn-id";
/// Bytes of the BLAKE3 checksum after the body.
const CHECKSUM_BYTES: usize = 16;
/// The longest membership chain and the rest.
const IDENTITY_MAX_BYTES: usize = 64 << 10;

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("the identity file {}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its bytes are not what was written.
    #[error("the identity in {} is damaged; bring it back with `cairn key import FILE`", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
    },
    /// It was written by a newer program, or makes no sense.
    #[error("the identity: {0}")]
    Wire(#[from] WireError),
    /// Its proof of membership does not hold.
    #[error("the identity: {0}")]
    Member(#[from] MemberError),
    /// There is one already.
    #[error("{} holds an identity already; a backup is imported into an empty data directory", dir.display())]
    Exists {
        /// The data directory.
        dir: PathBuf,
    },
}

impl Classify for IdentityError {
    fn class(&self) -> Class {
        match self {
            IdentityError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Class::Full
            }
            IdentityError::Io { .. } => Class::Denied,
            IdentityError::Damaged { .. } | IdentityError::Wire(_) => Class::Corrupt,
            IdentityError::Member(_) | IdentityError::Exists { .. } => Class::Denied,
        }
    }
}

/// All secrets of one peer.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The device's own key; its public half is the peer id.
    pub device: SigningKey,
    /// Those of the network it belongs to; before the first invite or join, of one of its own.
    pub secrets: NetworkSecrets,
    /// Its proof of membership in that network.
    pub chain: MembershipChain,
    /// For whom its puts are kept.
    pub owner: OwnerId,
    /// Whether it has invited or joined anybody: only then does it open network sockets.
    pub is_networked: bool,
}

/// `[version, device secret, secrets, chain, owner, networked]`.
type Body = (
    u8,
    ByteArray<32>,
    NetworkSecrets,
    serde_bytes::ByteBuf,
    OwnerId,
    bool,
);

impl Identity {
    /// A new device in a network of its own.
    pub fn generate(entropy: &Entropy) -> Self {
        let device = SigningKey::generate(entropy);
        let (secrets, chain) = MembershipChain::found(&device, entropy);
        Identity {
            device,
            secrets,
            chain,
            owner: OwnerId(entropy.array()),
            is_networked: false,
        }
    }

    /// The peer id.
    pub fn peer(&self) -> PeerId {
        self.device.peer()
    }

    /// Its bytes as they are stored and exported.
    pub fn encode(&self) -> Vec<u8> {
        let body = wire::encode(&(
            IDENTITY_VERSION,
            ByteArray::new(self.device.secret()),
            &self.secrets,
            serde_bytes::Bytes::new(&self.chain.encode()),
            self.owner,
            self.is_networked,
        ));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&body);
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes().iter().take(CHECKSUM_BYTES));
        bytes
    }

    /// Reads what [`Identity::encode`] wrote. `None` if the bytes are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, IdentityError> {
        let split = bytes.len().saturating_sub(CHECKSUM_BYTES);
        let (signed, checksum) = bytes.split_at(split);
        let expected = blake3::hash(signed);
        if expected.as_bytes().get(..CHECKSUM_BYTES) != Some(checksum) {
            return Ok(None);
        }
        let Some(body) = signed.strip_prefix(MAGIC) else {
            return Ok(None);
        };
        let (version, device, secrets, chain, owner, is_networked): Body =
            match wire::decode_canonical(body, IDENTITY_MAX_BYTES) {
                Ok(body) => body,
                Err(error) => return Err(Self::newer(body).unwrap_or(error).into()),
            };
        if version != IDENTITY_VERSION {
            return Err(IdentityError::Wire(WireError::Version {
                found: version.into(),
                known: IDENTITY_VERSION.into(),
            }));
        }
        Ok(Some(Identity {
            device: SigningKey::from_secret(&device.into_array()),
            secrets,
            chain: MembershipChain::decode(&chain)?,
            owner,
            is_networked,
        }))
    }

    /// If the body does not decode because a later version wrote it, that error.
    fn newer(body: &[u8]) -> Option<WireError> {
        // The version is the first item of a short array: one byte of head, then a small number.
        let found = *body.get(1)?;
        (IDENTITY_VERSION < found && found < 24).then_some(WireError::Version {
            found: found.into(),
            known: IDENTITY_VERSION.into(),
        })
    }

    /// Reads the identity of a data directory; `None` if it has none yet.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let file = dir.join(IDENTITY_FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { file, source }),
        };
        match Self::decode(&bytes)? {
            Some(identity) => Ok(Some(identity)),
            None => Err(IdentityError::Damaged { file }),
        }
    }

    /// Makes it that of a data directory, durably: the old one or the new one after a crash.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let file = dir.join(IDENTITY_FILE);
        let temporary = dir.join("identity.new");
        let write = || -> io::Result<()> {
            let mut out = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            out.write_all(&self.encode())?;
            out.sync_all()?;
            std::fs::rename(&temporary, &file)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { file, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::load(dir.path()).unwrap().is_none());
        let identity = Identity::generate(&Entropy::seeded(1));
        identity.save(dir.path()).unwrap();
        let loaded = Identity::load(dir.path()).unwrap().unwrap();
        assert_eq!(loaded.encode(), identity.encode());
        assert_eq!(loaded.peer(), identity.peer());

        let file = dir.path().join(IDENTITY_FILE);
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&file, &bad).unwrap();
            assert!(matches!(
                Identity::load(dir.path()),
                Err(IdentityError::Damaged { .. })
            ));
        }
        std::fs::write(&file, &good[..good.len() / 2]).unwrap();
        assert!(Identity::load(dir.path()).is_err());
    }
}
