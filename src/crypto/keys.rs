//! The secrets of a network and what is derived from them.
//!
//! Every derivation has its own context string, so that no two uses can ever meet.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::{Entropy, NetworkId};

const NETWORK_ID_CONTEXT: &str = "cairn v1 network id";
const MEMBERSHIP_TAG_CONTEXT: &str = "cairn v1 membership: protocol tag";

/// Characters of a [`NetworkSecrets::membership_tag`].
const TAG_BYTES: usize = 10;

/// What makes equal chunks seal to equal bytes, among those who share it.
#[derive(Clone, PartialEq, Eq)]
pub struct ConvergenceSecret([u8; 32]);

impl ConvergenceSecret {
    /// For one upload that shall share nothing with others (`put --private`).
    pub fn random(entropy: &Entropy) -> Self {
        ConvergenceSecret(entropy.array())
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        ConvergenceSecret(bytes)
    }

    /// Its bytes, for storing and for tickets. Handle with care.
    pub const fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }
}

impl fmt::Debug for ConvergenceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConvergenceSecret(..)")
    }
}

/// What the members of a network share and strangers do not know.
///
/// Serialised as the array `[network, epoch, membership, convergence or null]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SecretsTuple", into = "SecretsTuple")]
pub struct NetworkSecrets {
    /// Which network.
    pub network: NetworkId,
    /// Grows with each rotation of the secrets.
    pub epoch: u32,
    /// Proves membership.
    membership: [u8; 32],
    /// Seals what is put for the whole network; peers admitted for storage only lack it.
    convergence: Option<[u8; 32]>,
}

type SecretBytes = serde_bytes::ByteArray<32>;
type SecretsTuple = (NetworkId, u32, SecretBytes, Option<SecretBytes>);

impl From<SecretsTuple> for NetworkSecrets {
    fn from((network, epoch, membership, convergence): SecretsTuple) -> Self {
        NetworkSecrets {
            network,
            epoch,
            membership: membership.into_array(),
            convergence: convergence.map(SecretBytes::into_array),
        }
    }
}

impl From<NetworkSecrets> for SecretsTuple {
    fn from(secrets: NetworkSecrets) -> Self {
        (
            secrets.network,
            secrets.epoch,
            SecretBytes::new(secrets.membership),
            secrets.convergence.map(SecretBytes::new),
        )
    }
}

impl NetworkSecrets {
    /// Independent random secrets for a new network.
    pub fn generate(network: NetworkId, entropy: &Entropy) -> Self {
        NetworkSecrets {
            network,
            epoch: 0,
            membership: entropy.array(),
            convergence: Some(entropy.array()),
        }
    }

    /// What a storage-only peer is told.
    pub fn without_convergence(&self) -> Self {
        NetworkSecrets {
            convergence: None,
            ..self.clone()
        }
    }

    /// The secret for sealing, unless this peer is storage-only.
    pub fn convergence(&self) -> Option<ConvergenceSecret> {
        self.convergence.map(ConvergenceSecret)
    }

    /// Whether chunks can be sealed for the whole network.
    pub const fn can_seal(&self) -> bool {
        self.convergence.is_some()
    }

    /// A word for protocol names that strangers cannot guess: 16 characters `a-z2-7`.
    pub fn membership_tag(&self) -> String {
        let mut bytes = [0; TAG_BYTES];
        self.membership_mac(MEMBERSHIP_TAG_CONTEXT, |hasher| {
            hasher.update(self.network.as_bytes());
        })
        .finalize_xof()
        .fill(&mut bytes);
        data_encoding::BASE32_NOPAD
            .encode(&bytes)
            .to_ascii_lowercase()
    }

    /// A MAC under the membership secret, in the domain `context`.
    pub(super) fn membership_mac(
        &self,
        context: &'static str,
        feed: impl FnOnce(&mut blake3::Hasher),
    ) -> blake3::Hasher {
        let key = blake3::derive_key(context, &self.membership);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        feed(&mut hasher);
        hasher
    }
}

impl fmt::Debug for NetworkSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkSecrets")
            .field("network", &self.network)
            .field("epoch", &self.epoch)
            .field("can_seal", &self.can_seal())
            .finish_non_exhaustive()
    }
}

/// The id of the network that the holder of `founder` (an Ed25519 public key) made with `salt`.
pub fn network_id(founder: &[u8; 32], salt: &[u8; 16]) -> NetworkId {
    let mut id = [0; 16];
    blake3::Hasher::new_derive_key(NETWORK_ID_CONTEXT)
        .update(founder)
        .update(salt)
        .finalize_xof()
        .fill(&mut id);
    NetworkId(id)
}
