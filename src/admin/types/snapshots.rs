//! The JSON about snapshots of volumes.

use serde::{Deserialize, Serialize};

use super::HexPath;

/// `cairn volume snapshot`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotCreate {
    /// Name of the volume.
    pub volume: String,
    /// What to call the snapshot besides its time; may be empty.
    #[serde(default)]
    pub label: String,
}

/// `cairn volume snapshot --remove`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotRemove {
    /// Name of the volume.
    pub volume: String,
    /// Name of the snapshot, the beginning of one, or its label.
    pub snapshot: String,
}

/// `cairn volume snapshots`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotsRequest {
    /// Name of the volume.
    pub volume: String,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotItem {
    /// Its name in `.snapshots`.
    pub name: String,
    /// When it was made, in ms since 1970.
    pub made_ms: u64,
    /// What it was called; may be empty.
    pub label: String,
    /// Files of all kinds in it.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// Whether this peer made it.
    pub own: bool,
    /// Bytes in the pool, before redundancy, that are there for nothing else; none if that is not known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone_bytes: Option<u64>,
}

/// The snapshots of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshots {
    /// Name of the volume.
    pub volume: String,
    /// The oldest first.
    pub snapshots: Vec<SnapshotItem>,
    /// The directory in which they can be looked at; none if the volume is not mounted, or has something of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
}

/// `cairn volume restore`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotRestore {
    /// Name of the volume.
    pub volume: String,
    /// Name of the snapshot, the beginning of one, or its label.
    pub snapshot: String,
    /// What to bring back, as a path in the volume or in its mount; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<HexPath>,
    /// Under which path; none: where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_hex: Option<HexPath>,
    /// Remove what is there and not in the snapshot.
    #[serde(default)]
    pub delete: bool,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreItem {
    /// `create`, `replace`, `attributes`, `link` or `remove`.
    pub action: String,
    /// Where in the volume, for people: bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Where in the volume.
    pub path_hex: HexPath,
    /// Bytes of the content that comes back.
    pub bytes: u64,
}

/// How far a restore is; with `--dry-run`, one step of its plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreLine {
    /// Steps that were carried out.
    pub steps_done: u64,
    /// Steps of the plan.
    pub steps: u64,
    /// Bytes of contents that came back.
    pub bytes_done: u64,
    /// Bytes of contents that will have come back.
    pub bytes: u64,
    /// Files that were looked at.
    pub looked_at: u64,
    /// A step of the plan, where that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<RestoreItem>,
    /// Whether all is done. Such a line is the last.
    pub done: bool,
}
