//! `gc`.

use serde::{Deserialize, Serialize};

/// `cairn gc`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GcRequest {
    /// Name of the volume, which is mounted.
    pub name: String,
    /// Only tell what there is.
    #[serde(default)]
    pub dry_run: bool,
}

/// What of a volume nothing names any more, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GcReport {
    /// Name of the volume.
    pub name: String,
    /// Blocks that this machine placed and that nothing here names any more.
    pub unnamed_blocks: u64,
    /// Bytes of content in them.
    pub unnamed_bytes: u64,
    /// Bytes that nothing uses in blocks of which less than half is used; what is left of those is brought together first.
    pub waste_bytes: u64,
    /// Members who may write and are away. Without their word nothing goes.
    pub away: Vec<String>,
    /// Blocks that were let go.
    pub released_blocks: u64,
    /// Bytes of content in them.
    pub released_bytes: u64,
}
