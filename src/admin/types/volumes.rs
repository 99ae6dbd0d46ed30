//! The JSON about volumes and where they are mounted.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Joined, VolumeEnd, VolumeTicketInfo};

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
    /// This peer's part in it; none while nobody else was invited to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<VolumeShare>,
    /// What waits, and what is there; none unless it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<VolumeUsage>,
    /// Where what this peer wrote last is besides; none unless it is mounted and others take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<VolumeTail>,
    /// How many conflicts its members have left; none unless it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<u64>,
    /// Clocks that are ahead, as far as they are known while it is mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<VolumeClock>,
    /// Peers of whom two feeds go by one name: a disk was copied, or put back from a backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forked: Vec<String>,
}

/// At how many other peers it is, sealed, what this peer wrote to a volume since its last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeTail {
    /// So many are to have it, of those that can be reached.
    pub wanted: u32,
    /// So many have all of it.
    pub kept: u32,
}

/// A clock that is more than ten minutes ahead: what its machine writes others see later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeClock {
    /// The peer.
    pub peer: String,
    /// Whether it is this one.
    #[serde(default)]
    pub own: bool,
    /// By how many ms.
    pub ahead_ms: u64,
}

/// What this peer is in a volume of several.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeShare {
    /// `owner`, `writer` or `reader`.
    pub role: String,
    /// The peer that made it.
    pub owner: String,
    /// Whether nothing of its tree is here yet.
    pub awaited: bool,
    /// That this peer was revoked, if it was; known while it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<VolumeEnd>,
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

/// `cairn volume ticket`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeTicketRequest {
    /// Name of the volume.
    pub name: String,
    /// Whether who opens it may write nothing.
    #[serde(default)]
    pub read_only: bool,
    /// How long the ticket is good for; none: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// A ticket to hand to another machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeInvited {
    /// The ticket.
    pub ticket: String,
    /// Name of the volume here.
    pub name: String,
    /// Whether who opens it may write nothing.
    pub read_only: bool,
    /// When it ceases to be good, in ms since 1970.
    pub expires_ms: u64,
}

/// `cairn volume open`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeOpen {
    /// What `volume ticket` printed on the other machine.
    pub ticket: String,
    /// What to call the volume here; none: as the ticket suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A volume that a ticket leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeOpened {
    /// The volume.
    pub volume: VolumeInfo,
    /// Whether it was here before.
    pub known: bool,
    /// Whether the ticket brought something although it was: the right to write, newer keys, a place for its
    /// tree.
    pub improved: bool,
    /// The network that was joined for it; none if this peer is in it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
}

/// `cairn volume members`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeMembersRequest {
    /// Name of the volume.
    pub name: String,
}

/// Who is known to be a member of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeMembers {
    /// Name of the volume.
    pub name: String,
    /// Its members, the owner first, and those who were revoked.
    pub members: Vec<VolumeMemberInfo>,
    /// Tickets that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tickets: Vec<VolumeTicketInfo>,
}

/// One member of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeMemberInfo {
    /// The peer.
    pub peer: String,
    /// `owner`, `writer` or `reader`.
    pub role: String,
    /// Who invited it; none for the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited_by: Option<String>,
    /// Whether it is this peer.
    pub own: bool,
    /// That it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<VolumeEnd>,
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
    /// Whether it is mounted without changes allowed: because that was asked, or because this peer may only
    /// read the volume.
    #[serde(default)]
    pub read_only: bool,
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

/// `cairn conflicts`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictsRequest {
    /// A path within a mount; none: all volumes that are mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir_hex: Option<HexPath>,
}

/// What members of a volume disagreed about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictInfo {
    /// Name of the volume.
    pub volume: String,
    /// `names`, `content`, `returned`, `moved` or `lost`.
    pub kind: String,
    /// The same for people.
    pub what: String,
    /// What it is about, for people: bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it is about.
    pub path_hex: HexPath,
    /// What competes, the one that has the name first.
    pub sides: Vec<ConflictSideInfo>,
}

/// One of what competes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictSideInfo {
    /// Where it is, for people: bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Where it is.
    pub path_hex: HexPath,
    /// The peer that wrote it; none if nothing says so any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether that is this peer.
    #[serde(default)]
    pub own: bool,
    /// When that was, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// `cairn conflicts resolve`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictResolve {
    /// Any path of what competes, as an absolute one.
    pub path_hex: HexPath,
    /// What stays: `ours`, `theirs`, `this` or `both`.
    pub keep: String,
}

/// A conflict that was ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictResolved {
    /// What it was.
    pub conflict: ConflictInfo,
    /// Where is what stayed, for people.
    pub kept: Vec<String>,
    /// What went, for people.
    pub removed: Vec<String>,
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
