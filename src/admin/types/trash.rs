//! `trash`.

use serde::{Deserialize, Serialize};

use super::TrashLink;

/// What was let go and rests on this peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrashInfo {
    /// By the hour in which it was let go, the oldest first.
    pub parts: Vec<TrashPartInfo>,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Links that this peer removed and that can be restored, the oldest first.
    #[serde(default)]
    pub links: Vec<TrashLink>,
}

/// What was let go within one hour.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrashPartInfo {
    /// When the hour began (ms since 1970).
    pub since_ms: u64,
    /// When it goes at the latest (ms since 1970).
    pub until_ms: u64,
    /// Blocks.
    pub blocks: u64,
    /// Bytes of what this peer holds of them.
    pub bytes: u64,
}
