//! How safe is what lies below a path of a mount, and how safe it is to be.

use serde::{Deserialize, Serialize};

use super::HexPath;

/// `cairn stat PATH`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathRequest {
    /// A path in a mounted volume, as an absolute one.
    pub path_hex: HexPath,
}

/// What there is below a path, and what that survives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathStat {
    /// The path, for people.
    pub path: String,
    /// The volume that it is in.
    pub volume: String,
    /// Files that are no directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Sizes of all regular files.
    pub size_bytes: u64,
    /// Redundancies of the blocks, as `4+2`.
    pub redundancy: Vec<String>,
    /// Number of blocks that have a part of it.
    pub blocks: u64,
    /// Shards that all blocks have together.
    pub shards: u64,
    /// Of which some reachable peer holds.
    pub shards_present: u64,
    /// Blocks with fewer reachable shards than it takes to read them.
    pub unreadable_blocks: u64,
    /// Any so many peers may be lost from now on with all blocks still readable; none if some cannot be read as it
    /// is, and if there are no blocks.
    pub survives: Option<u32>,
    /// Peers that hold a part.
    pub peers: u32,
    /// Bytes of small contents that are in no block: they are kept with the names of the volume.
    pub inline_bytes: u64,
    /// Bytes that only the journal of this machine has.
    pub journal_bytes: u64,
    /// Bytes of contents that are still to be stored anew, with the redundancy that is wanted for them.
    pub recode_bytes: u64,
    /// All of it in a sentence.
    pub line: String,
}

/// Which redundancy is wanted at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathPolicy {
    /// The path, for people.
    pub path: String,
    /// The volume that it is in.
    pub volume: String,
    /// What is wanted: `4+2`, or `auto`.
    pub redundancy: String,
    /// In what new data is stored at this moment, as `4+2`.
    pub stored_as: String,
    /// The path on which it is set; none: it is that with which the volume was made, or the path is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_on: Option<String>,
    /// Bytes of contents at the path and below it that are stored otherwise, and are stored anew in the background.
    pub recode_bytes: u64,
}
