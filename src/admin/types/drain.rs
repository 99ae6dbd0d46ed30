//! `drain`.

use serde::{Deserialize, Serialize};

/// Whether this peer is to leave the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainChange {
    /// Whether it stays after all.
    pub cancel: bool,
}

/// How far a peer is that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainInfo {
    /// Whether it leaves.
    pub draining: bool,
    /// Whether everything is held by others, and they know that it has left: it can be stopped for good.
    pub done: bool,
    /// Whether it has looked at all that it holds since it leaves; before that nothing is known of what is left.
    pub known: bool,
    /// Bytes of shards that were there when it was first looked at.
    pub total_bytes: u64,
    /// Bytes of shards that are still to be handed over.
    pub left_bytes: u64,
    /// The same in shards.
    pub left_shards: u64,
    /// Of which have to wait: other shards of their blocks are being repaired, or are at peers that are away.
    pub waiting_shards: u64,
    /// Of which nobody can take over now without their blocks surviving less.
    pub homeless_shards: u64,
    /// Whether all that is still here waits or finds no place.
    pub stuck: bool,
    /// Other members that offer storage.
    pub peers: u32,
    /// Of which are away.
    pub away: u32,
    /// Volumes that are mounted here: what was written to them last may be on this machine only.
    pub mounted: u32,
}
