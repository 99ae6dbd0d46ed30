//! What a reader needs to fetch and open one block.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::{BlockId, byte_id};
use serde::{Deserializer, Serializer, de};

byte_id!(
    /// The key that opens one sealed chunk. Never stored beside the ciphertext.
    BlockKey,
    32
);

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockKey(..)")
    }
}

/// Address, key and plaintext length of one block: whoever holds it can read the block.
///
/// Serialised as an array `[id, key, plain_len]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(BlockId, BlockKey, u32)", into = "(BlockId, BlockKey, u32)")]
pub struct BlockRef {
    /// Where it is.
    pub id: BlockId,
    /// What opens it.
    pub key: BlockKey,
    /// Bytes of plaintext, at most `Limits::chunk_max_bytes`.
    pub plain_len: u32,
}

impl From<(BlockId, BlockKey, u32)> for BlockRef {
    fn from((id, key, plain_len): (BlockId, BlockKey, u32)) -> Self {
        BlockRef { id, key, plain_len }
    }
}

impl From<BlockRef> for (BlockId, BlockKey, u32) {
    fn from(reference: BlockRef) -> Self {
        (reference.id, reference.key, reference.plain_len)
    }
}
