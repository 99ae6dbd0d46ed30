//! The JSON about volumes and where they are mounted.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A path, in hexadecimal since paths are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HexPath(String);

impl HexPath {
    /// Of a path.
    pub fn new(path: &Path) -> Self {
        HexPath(data_encoding::HEXLOWER.encode(path.as_os_str().as_bytes()))
    }

    /// The path; none if this is not hexadecimal.
    pub fn path(&self) -> Option<PathBuf> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(self.0.as_bytes())
            .ok()
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// One volume: a line of `cairn volume list`, and of `cairn status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its name on this machine.
    pub name: String,
    /// What it is called inside.
    pub id: String,
    /// Redundancy of its blocks, as `4+2`.
    pub redundancy: String,
    /// When it was made, in ms since 1970.
    pub created_ms: u64,
    /// Whether its tree is on this machine. That of a volume from a key backup may not be.
    pub local: bool,
    /// Where it is mounted; none if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted_on: Option<String>,
    /// Whether it is out of the tree there, and only kept by what is open.
    #[serde(default)]
    pub detached: bool,
    /// Whether it is mounted without changes allowed.
    pub read_only: bool,
    /// What waits, and what is there; none unless it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<VolumeUsage>,
}

/// What of a mounted volume waits, and what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeUsage {
    /// Bytes written and in no block yet.
    pub dirty_bytes: u64,
    /// Of which are being sealed and placed.
    pub queued_bytes: u64,
    /// Bytes in blocks that survive fewer losses than they should.
    pub under_redundant_bytes: u64,
    /// Bytes of content in blocks.
    pub stored_bytes: u64,
}

/// `cairn volume create`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeCreate {
    /// Its name.
    pub name: String,
    /// Redundancy as `4+2`; none: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<String>,
}

/// `cairn volume remove`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeRemove {
    /// Its name.
    pub name: String,
}

/// `cairn mount`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountRequest {
    /// Name of the volume; none: `default`, which is made if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Where to, as an absolute path.
    pub dir_hex: HexPath,
    /// Refuse all changes.
    #[serde(default)]
    pub read_only: bool,
    /// Let other users in.
    #[serde(default)]
    pub allow_other: bool,
    /// Honour setuid and setgid.
    #[serde(default)]
    pub suid: bool,
    /// Honour device files.
    #[serde(default)]
    pub dev: bool,
    /// Let no program be run from it.
    #[serde(default)]
    pub no_exec: bool,
    /// Mount over a directory that is not empty.
    #[serde(default)]
    pub over_non_empty: bool,
}

/// A volume is mounted, or no longer is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mounted {
    /// Name of the volume.
    pub volume: String,
    /// Where, for people: bytes that are not UTF-8 are replaced.
    pub dir: String,
    /// Where.
    pub dir_hex: HexPath,
    /// Whether the volume was made for it.
    #[serde(default)]
    pub created: bool,
    /// The process that serves it.
    #[serde(default)]
    pub pid: u32,
}

/// `cairn umount`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UmountRequest {
    /// Where it is mounted, as an absolute path.
    pub dir_hex: HexPath,
    /// Take it out of the tree even if it is in use.
    #[serde(default)]
    pub lazy: bool,
}

/// `cairn sync`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncRequest {
    /// A path within a mount; none: all volumes that are mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir_hex: Option<HexPath>,
}

/// How far a sync is; all its volumes together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncProgress {
    /// Names of the volumes.
    pub volumes: Vec<String>,
    /// Bytes written and in no block yet.
    pub dirty_bytes: u64,
    /// Bytes in blocks that survive fewer losses than they should.
    pub under_redundant_bytes: u64,
    /// Whether all that was written before is in the pool. Such a line is the last.
    pub done: bool,
}

impl SyncProgress {
    /// Bytes that are not in the pool yet.
    pub const fn left_bytes(&self) -> u64 {
        self.dirty_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn paths_of_any_bytes_pass() {
        let odd = Path::new(OsStr::from_bytes(b"/a\xff b"));
        assert_eq!(HexPath::new(odd).path().as_deref(), Some(odd));
        assert_eq!(HexPath("zz".to_owned()).path(), None);
    }
}
