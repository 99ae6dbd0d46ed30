//! Identities: fixed-size newtypes with one textual form each.
//!
//! A block is the dag-cbor IPLD block of its stripe header, a shard is a raw IPLD block, and a
//! peer is its Ed25519 public key; the text forms are those of CIDv1 and libp2p, so other tools
//! can read them.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a textual identity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: {why}")]
pub struct ParseIdError {
    /// What was expected, in words a user knows.
    pub what: &'static str,
    /// What is wrong with the input.
    pub why: String,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                <[u8; $len]>::try_from(bytes.as_slice())
                    .map($name)
                    .map_err(|_| de::Error::invalid_length(bytes.len(), &stringify!($len)))
            }
        }
    };
}
pub(crate) use byte_id;

byte_id!(
    /// Address of a block: BLAKE3-256 of the canonical stripe header.
    BlockId,
    32
);
byte_id!(
    /// Address of one shard: BLAKE3-256 of its bytes.
    ShardHash,
    32
);
byte_id!(
    /// A peer: its Ed25519 public key.
    PeerId,
    32
);
byte_id!(
    /// A network: BLAKE3 of its founder's public key and a salt, truncated.
    NetworkId,
    16
);

byte_id!(
    /// A volume: random, made with it.
    VolumeId,
    16
);

/// CIDv1, codec dag-cbor (0x71), multihash blake3 (0x1e) of 32 bytes.
const BLOCK_CID_PREFIX: [u8; 4] = [0x01, 0x71, 0x1e, 0x20];
/// CIDv1, codec raw (0x55), multihash blake3 (0x1e) of 32 bytes.
const SHARD_CID_PREFIX: [u8; 4] = [0x01, 0x55, 0x1e, 0x20];
/// Identity multihash of the 36-byte protobuf of an Ed25519 public key (libp2p peer-ids spec).
const PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

fn cid_text(prefix: [u8; 4], digest: &[u8; 32]) -> String {
    let mut bytes = prefix.to_vec();
    bytes.extend_from_slice(digest);
    format!("b{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

fn parse_cid(what: &'static str, prefix: [u8; 4], text: &str) -> Result<[u8; 32], ParseIdError> {
    let fail = |why: &str| ParseIdError {
        what,
        why: why.to_owned(),
    };
    let body = text
        .strip_prefix('b')
        .ok_or_else(|| fail("it must begin with `b` (base32)"))?;
    let bytes = BASE32_NOPAD
        .decode(body.to_ascii_uppercase().as_bytes())
        .map_err(|_| fail("it is not base32"))?;
    let digest = bytes
        .strip_prefix(&prefix)
        .ok_or_else(|| fail("it has another codec or hash"))?;
    digest.try_into().map_err(|_| fail("its length is wrong"))
}

impl BlockId {
    /// The placement group: the first 16 bits of the digest.
    pub const fn group(&self) -> Group {
        Group(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// A form short enough for logs: the first ten characters that differ between blocks.
    pub fn short(&self) -> String {
        self.to_string().chars().skip(7).take(10).collect()
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cid_text(BLOCK_CID_PREFIX, &self.0))
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for VolumeId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let id = bytes.and_then(|bytes| bytes.try_into().ok());
        id.map(VolumeId).ok_or_else(|| ParseIdError {
            what: "volume id",
            why: "it must be 32 hexadecimal digits in lower case".to_owned(),
        })
    }
}

impl FromStr for BlockId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_cid("block address", BLOCK_CID_PREFIX, text).map(BlockId)
    }
}

impl fmt::Display for ShardHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cid_text(SHARD_CID_PREFIX, &self.0))
    }
}

impl PeerId {
    /// The multihash bytes that libp2p and its Kademlia use for this peer.
    pub fn to_multihash(self) -> [u8; 38] {
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&PEER_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// The inverse of [`PeerId::to_multihash`]; `None` for other kinds of key.
    pub fn from_multihash(bytes: &[u8]) -> Option<Self> {
        let digest = bytes.strip_prefix(&PEER_PREFIX)?;
        digest.try_into().ok().map(PeerId)
    }

    /// A form short enough for people: the last eight characters.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len().saturating_sub(8)..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash()).into_string())
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fail = |why: &str| ParseIdError {
            what: "peer id",
            why: why.to_owned(),
        };
        let bytes = bs58::decode(text)
            .into_vec()
            .map_err(|_| fail("it is not base58"))?;
        PeerId::from_multihash(&bytes).ok_or_else(|| fail("it is not an Ed25519 peer id"))
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

macro_rules! debug_as_display {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(BlockId, ShardHash, PeerId, NetworkId, VolumeId);

/// A placement group: the blocks whose addresses share their first 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group(pub u16);

/// One shard of one block. `index < data_shards + parity_shards`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The block it belongs to.
    pub block: BlockId,
    /// Position in the stripe: data shards first, then parity.
    pub index: u8,
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.block, self.index)
    }
}

/// A set of shard indices of one stripe (at most 64, see `MAX_STRIPE_SHARDS`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct IndexSet(pub u64);

impl IndexSet {
    /// The set without members.
    pub const EMPTY: IndexSet = IndexSet(0);

    /// The set `{0, .., count - 1}`; `count` at most 64.
    pub const fn first(count: usize) -> IndexSet {
        if count >= 64 {
            IndexSet(u64::MAX)
        } else {
            IndexSet((1 << count) - 1)
        }
    }

    /// The set of one index; empty if it is out of range.
    pub const fn one(index: u8) -> IndexSet {
        if index < 64 {
            IndexSet(1 << index)
        } else {
            IndexSet(0)
        }
    }

    /// Whether `index` is a member.
    pub const fn contains(self, index: u8) -> bool {
        index < 64 && self.0 >> index & 1 == 1
    }

    /// Adds `index`; out of range is ignored.
    pub const fn insert(&mut self, index: u8) {
        self.0 |= IndexSet::one(index).0;
    }

    /// Takes `index` out.
    pub const fn remove(&mut self, index: u8) {
        self.0 &= !IndexSet::one(index).0;
    }

    /// Members of either set.
    pub const fn union(self, other: IndexSet) -> IndexSet {
        IndexSet(self.0 | other.0)
    }

    /// Members of this set that are not in `other`.
    pub const fn minus(self, other: IndexSet) -> IndexSet {
        IndexSet(self.0 & !other.0)
    }

    /// Number of members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64u8).filter(move |index| self.contains(*index))
    }
}

impl FromIterator<u8> for IndexSet {
    fn from_iter<I: IntoIterator<Item = u8>>(indices: I) -> Self {
        let mut set = IndexSet::EMPTY;
        for index in indices {
            set.insert(index);
        }
        set
    }
}

impl fmt::Debug for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let block = BlockId([7; 32]);
        assert_eq!(block.to_string().parse::<BlockId>().unwrap(), block);
        let peer = PeerId([9; 32]);
        assert!(peer.to_string().starts_with("12D3KooW"));
        assert_eq!(peer.to_string().parse::<PeerId>().unwrap(), peer);
    }

    #[test]
    fn malformed_text_is_refused_with_a_reason() {
        for text in ["", "b", "zabc", "b!!", &ShardHash([1; 32]).to_string()] {
            assert!(text.parse::<BlockId>().is_err(), "{text}");
        }
        assert!("12D3KooW0".parse::<PeerId>().is_err());
    }

    #[test]
    fn index_sets_behave_as_sets() {
        let mut set: IndexSet = [0, 3, 63, 64].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3, 63]);
        set.remove(3);
        assert_eq!(set.len(), 2);
        assert_eq!(IndexSet::first(6).minus(set).len(), 5);
        assert_eq!(IndexSet::first(64).len(), 64);
    }
}
