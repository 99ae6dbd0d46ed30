//! What is said of redundancy and background jobs.

use serde::{Deserialize, Serialize};

/// How well everything is kept, as the peers say that look after it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthInfo {
    /// All of it in one line.
    pub line: String,
    /// Whether this peer has looked at everything since it was started.
    pub known: bool,
    /// Whether nothing is missing, waited for or unreadable.
    pub whole: bool,
    /// Blocks kept.
    pub blocks: u64,
    /// Of which cannot be read now.
    pub unreadable_blocks: u64,
    /// Any so many peers may be lost; none: nothing is kept.
    pub survives: Option<u32>,
    /// Members that offer storage.
    pub peers: u32,
    /// Of which are away.
    pub away: u32,
    /// Shards that are to be made anew.
    pub missing_shards: u64,
    /// Bytes of those.
    pub missing_bytes: u64,
    /// Shards at peers that are away and may come back.
    pub waiting_shards: u64,
    /// Milliseconds until all is repaired, as far as can be told; 0: not known, or nothing to do.
    pub eta_ms: u64,
    /// Shards that this peer has made anew since it was started.
    pub made_shards: u64,
    /// Bytes of those.
    pub made_bytes: u64,
    /// Bytes of shards that it read for them.
    pub read_bytes: u64,
    /// Shards that it has copied to where they belong since it was started.
    #[serde(default)]
    pub moved_shards: u64,
    /// Bytes of those.
    #[serde(default)]
    pub moved_bytes: u64,
}

/// How far a peer is believed, by what it answered when this one asked it to prove what it says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustInfo {
    /// From 0 to 100.
    pub percent: u32,
    /// Whether others get new shards in its place, as long as there are enough.
    pub displaced: bool,
    /// Whether what it says it holds does not count, and is made anew elsewhere.
    pub disbelieved: bool,
    /// How often it was asked of late.
    pub checks: u64,
    /// How often it sent something that does not verify.
    pub wrong: u64,
    /// How often it did not give what it says it has.
    pub lacking: u64,
    /// How often it answered late.
    pub late: u64,
    /// How often its disk had damaged what was asked for.
    pub damaged: u64,
    /// When an answer was last not good, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_bad_ms: Option<u64>,
    /// What speaks against it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `cairn workers pause` and `cairn workers resume`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerChange {
    /// Which job.
    pub name: String,
    /// Whether it is to rest.
    pub paused: bool,
}

/// One block that this peer is going to repair.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairInfo {
    /// Its address.
    pub block: String,
    /// How it is coded, as `4+2`.
    pub redundancy: String,
    /// Any so many peers may be lost as it is.
    pub survives: u32,
    /// Length of a shard.
    pub shard_bytes: u64,
    /// Each missing shard, and the peer that gets it.
    pub shards: Vec<(u8, String)>,
    /// Whether all of it is safe, and is only moved to where it belongs.
    #[serde(default)]
    pub moved: bool,
}

/// `cairn repair --dry-run`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repairs {
    /// Whether this peer has looked at everything since it was started.
    pub known: bool,
    /// What it is going to repair, the most urgent first.
    pub repairs: Vec<RepairInfo>,
}
