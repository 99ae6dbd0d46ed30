//! The stripe header: what names a block and lets anybody check any single shard of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::limits::{CHUNK_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES, STRIPE_HEADER_MAX_BYTES};
use crate::base::wire::{self, WireError};
use crate::base::{BlockId, Class, Classify, EcProfile, ShardHash, ShardId};

/// Version written by this program.
pub const STRIPE_VERSION: u8 = 1;

/// Which code made the parity shards. Outlives the crate that computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum CodecId {
    /// Systematic Reed-Solomon over GF(2^8), polynomial 0x11d, Vandermonde matrix made systematic
    /// (Backblaze, klauspost/reedsolomon, `reed-solomon-erasure`).
    ReedSolomon = 1,
}

impl TryFrom<u8> for CodecId {
    type Error = String;
    fn try_from(id: u8) -> Result<Self, String> {
        match id {
            1 => Ok(CodecId::ReedSolomon),
            other => Err(format!("unknown codec {other}")),
        }
    }
}

impl From<CodecId> for u8 {
    fn from(codec: CodecId) -> u8 {
        codec as u8
    }
}

/// Why a header or a shard was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// The header is not one this program can read.
    #[error("stripe header: {0}")]
    Header(#[from] WireError),
    /// The header is well formed and its numbers contradict each other.
    #[error("stripe header: {0}")]
    Inconsistent(&'static str),
    /// The header does not hash to the address asked for.
    #[error("the stripe header does not belong to block {0}")]
    WrongBlock(BlockId),
    /// The shard's bytes do not hash to what the header says.
    #[error("shard {0:?} does not match its hash")]
    WrongShard(ShardId),
    /// Fewer shards than the profile needs.
    #[error("{have} of {need} shards")]
    NotEnough {
        /// Good shards at hand.
        have: usize,
        /// Shards needed.
        need: usize,
    },
    /// The codec refused what was checked before: an error of this program.
    #[error("erasure codec: {0}")]
    Codec(String),
}

impl Classify for StripeError {
    fn class(&self) -> Class {
        match self {
            StripeError::NotEnough { .. } => Class::Missing,
            StripeError::Codec(_) => Class::Bug,
            _ => Class::Corrupt,
        }
    }
}

/// Describes one stripe. Its canonical encoding is an IPLD block whose digest is the [`BlockId`].
///
/// Serialised as the array `[version, codec, [k, m], sealed_len, shard_len, [hash; n]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripeHeader {
    /// The code of the parity shards.
    pub codec: CodecId,
    /// Shards needed and spare.
    pub profile: EcProfile,
    /// Bytes of the sealed chunk, without padding.
    pub sealed_len: u32,
    /// Bytes of every shard: `ceil(sealed_len / data_shards)`.
    pub shard_len: u32,
    /// BLAKE3-256 of each shard, in order.
    pub shard_hashes: Vec<ShardHash>,
}

type HeaderTuple = (u8, CodecId, EcProfile, u32, u32, Vec<ShardHash>);

impl StripeHeader {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&(
            STRIPE_VERSION,
            self.codec,
            self.profile,
            self.sealed_len,
            self.shard_len,
            &self.shard_hashes,
        ))
    }

    /// Reads and checks a header from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Self, StripeError> {
        let (version, codec, profile, sealed_len, shard_len, shard_hashes): HeaderTuple =
            wire::decode_canonical(bytes, STRIPE_HEADER_MAX_BYTES)?;
        if version != STRIPE_VERSION {
            return Err(StripeError::Header(WireError::Version {
                found: version.into(),
                known: STRIPE_VERSION.into(),
            }));
        }
        let data_shards = profile.data_shards() as u32;
        if sealed_len == 0 || sealed_len as usize > MESSAGE_PAYLOAD_MAX_BYTES {
            return Err(StripeError::Inconsistent("sealed length out of range"));
        }
        if shard_len != sealed_len.div_ceil(data_shards) {
            return Err(StripeError::Inconsistent("shard length does not follow"));
        }
        if shard_hashes.len() != profile.total_shards() {
            return Err(StripeError::Inconsistent("number of shard hashes"));
        }
        const { assert!(CHUNK_MAX_BYTES < MESSAGE_PAYLOAD_MAX_BYTES) };
        Ok(StripeHeader {
            codec,
            profile,
            sealed_len,
            shard_len,
            shard_hashes,
        })
    }

    /// Reads the header of `block`.
    ///
    /// # Errors
    /// `WrongBlock` if it does not hash to that address, else as [`StripeHeader::decode`].
    pub fn read(block: BlockId, encoded: &[u8]) -> Result<Self, StripeError> {
        if Self::address(encoded) != block {
            return Err(StripeError::WrongBlock(block));
        }
        Self::decode(encoded)
    }

    /// The hash of one shard.
    ///
    /// # Errors
    /// `Inconsistent` if the stripe has no such shard.
    pub fn shard_hash(&self, index: u8) -> Result<&ShardHash, StripeError> {
        self.shard_hashes
            .get(usize::from(index))
            .ok_or(StripeError::Inconsistent("shard index out of range"))
    }

    /// The address of the block that `encoded` describes.
    pub fn address(encoded: &[u8]) -> BlockId {
        BlockId(*blake3::hash(encoded).as_bytes())
    }
}

/// A shard together with the header that proves it. Can only be made by checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedShard {
    id: ShardId,
    profile: EcProfile,
    header: Bytes,
    data: Bytes,
}

impl VerifiedShard {
    /// Checks that `header` is that of `block` and that `data` is its shard `index`.
    pub fn verify(
        block: BlockId,
        index: u8,
        header: Bytes,
        data: Bytes,
    ) -> Result<Self, StripeError> {
        let parsed = StripeHeader::read(block, &header)?;
        let id = ShardId { block, index };
        let expected = parsed.shard_hash(index)?;
        if data.len() != parsed.shard_len as usize
            || blake3::hash(&data).as_bytes() != expected.as_bytes()
        {
            return Err(StripeError::WrongShard(id));
        }
        Ok(VerifiedShard {
            id,
            profile: parsed.profile,
            header,
            data,
        })
    }

    /// For the encoder, which has just computed the hashes itself.
    pub(super) const fn trusted(
        id: ShardId,
        profile: EcProfile,
        header: Bytes,
        data: Bytes,
    ) -> Self {
        VerifiedShard {
            id,
            profile,
            header,
            data,
        }
    }

    /// Block and index.
    pub const fn id(&self) -> ShardId {
        self.id
    }

    /// The redundancy of its stripe.
    pub const fn profile(&self) -> EcProfile {
        self.profile
    }

    /// The canonical stripe header.
    pub const fn header(&self) -> &Bytes {
        &self.header
    }

    /// The shard's bytes.
    pub const fn data(&self) -> &Bytes {
        &self.data
    }
}
