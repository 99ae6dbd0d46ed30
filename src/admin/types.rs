//! The JSON of the control API. Fields are only ever added.

mod clearing;
mod drain;
mod members;
mod paths;
mod puts;
mod snapshots;
mod trash;
mod upkeep;
mod volumes;
mod voters;

use serde::{Deserialize, Serialize};

use super::error::AdminError;

pub use clearing::{GcReport, GcRequest};
pub use drain::{DrainChange, DrainInfo};
pub use members::{VolumeEnd, VolumeRevoke, VolumeRevoked, VolumeTicketInfo};
pub use paths::{PathPolicy, PathRequest, PathStat};
pub use puts::{
    Kept, NotRestored, RemoveRequest, Removed, RenewRequest, RestoreRequest, Restored, TrashLink,
};
pub use snapshots::{
    RestoreItem, RestoreLine, SnapshotCreate, SnapshotItem, SnapshotRemove, SnapshotRestore,
    Snapshots, SnapshotsRequest,
};
pub use trash::{TrashInfo, TrashPartInfo};
pub use upkeep::{HealthInfo, RepairInfo, Repairs, TrustInfo, WorkerChange};
pub use volumes::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictSideInfo, ConflictsRequest, HexPath,
    MountRequest, Mounted, SyncProgress, SyncRequest, UmountRequest, VolumeClock, VolumeCreate,
    VolumeInfo, VolumeInvited, VolumeMemberInfo, VolumeMembers, VolumeMembersRequest, VolumeOpen,
    VolumeOpened, VolumeRemove, VolumeShare, VolumeTail, VolumeTicketRequest, VolumeUsage,
};
pub use voters::{VolumeVoters, VolumeVotersRequest};

/// What answers on the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
}

/// `cairn status`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// This peer's id.
    pub peer: String,
    /// Version of its program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Its data directory.
    pub data_dir: String,
    /// The network it belongs to; none before the first invite or join.
    pub network: Option<String>,
    /// Addresses it listens on, of both planes.
    pub addresses: Vec<String>,
    /// Its failure domain.
    pub zone: String,
    /// Whether it was admitted by a storage-only ticket.
    pub storage_only: bool,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Members known, itself included.
    pub members: u32,
    /// Members connected, itself not included.
    pub connected: u32,
    /// Whether it knows every member, so that it needs no look-ups.
    pub knows_all: bool,
    /// What its look-ups in the DHT cost since it was started.
    pub lookups: LookupInfo,
    /// What it stores.
    pub storage: QuotaInfo,
    /// Its background jobs.
    pub workers: Vec<WorkerStatus>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeInfo>,
    /// Whether it would serve a mount. One that ends with a command, or is about to end, does not.
    #[serde(default)]
    pub serves_mounts: bool,
    /// How well everything is kept; none: the peer is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthInfo>,
    /// How far it is, if it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainInfo>,
    /// Peers in whose place others get new shards, since they answered badly.
    #[serde(default)]
    pub distrusted: Vec<String>,
}

/// What look-ups in the DHT cost, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LookupInfo {
    /// Look-ups made.
    pub count: u64,
    /// Rounds of questions.
    pub hops: u64,
    /// Messages sent.
    pub messages: u64,
    /// Bytes of peer records received.
    pub record_bytes: u64,
    /// Milliseconds taken.
    pub time_ms: u64,
}

/// One background job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub status: String,
    /// Whether somebody has it rest.
    #[serde(default)]
    pub paused: bool,
}

/// `cairn quota`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotaInfo {
    /// Most bytes that the data directory may occupy.
    pub quota_bytes: u64,
    /// Whether the quota follows the free space of the disk.
    pub auto: bool,
    /// Bytes that the data directory occupies, without what is cached.
    pub used_bytes: u64,
    /// Bytes that were fetched from other peers and make way for data.
    #[serde(default)]
    pub cached_bytes: u64,
    /// Bytes that intake may still take.
    pub free_bytes: u64,
    /// Bytes of the disk that are left free whatever the quota says.
    pub reserve_free_bytes: u64,
    /// Whether it stores for other peers.
    pub offer: bool,
    /// Why nothing is taken in now; none while intake is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake_stopped: Option<String>,
}

/// A new quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetQuota {
    /// Bytes; none: half of the free space.
    pub quota_bytes: Option<u64>,
}

/// One line of `cairn peers`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Who.
    pub peer: String,
    /// `own`, `connected`, `idle` or `away`.
    pub state: String,
    /// Whether it can be used now.
    #[serde(default)]
    pub live: bool,
    /// The transport in use: `bulk`, `tcp`, `quic` or `memory`; none if not connected.
    pub path: Option<String>,
    /// Since when it is away, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_since_ms: Option<u64>,
    /// Addresses it announced, of both planes.
    pub addresses: Vec<String>,
    /// Bytes it offers; 0: stores for nobody.
    pub capacity_bytes: u64,
    /// Of which free.
    pub free_bytes: u64,
    /// Whether it hands over what it holds, to leave; or has.
    #[serde(default)]
    pub leaving: bool,
    /// Its failure domain.
    pub zone: String,
    /// Whether it was admitted by a storage-only ticket.
    pub storage_only: bool,
    /// Version of its program.
    pub version: String,
    /// Round-trip time of small requests, in ms.
    pub rtt_ms: Option<f64>,
    /// How far it is believed; none before it was asked for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustInfo>,
}

/// `cairn invite`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InviteRequest {
    /// Whether who joins holds no convergence secret.
    pub storage_only: bool,
    /// Whether each of those who join counts as a zone of its own.
    #[serde(default)]
    pub separate_zones: bool,
    /// How long the ticket is good for; none: the default.
    pub expires_ms: Option<u64>,
}

/// A ticket to hand to another machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Invited {
    /// The ticket.
    pub ticket: String,
    /// When it ceases to be good, in ms since 1970.
    pub expires_ms: u64,
    /// Whether who joins with it holds no convergence secret.
    pub storage_only: bool,
    /// Whether each of those who join with it counts as a zone of its own.
    #[serde(default)]
    pub separate_zones: bool,
}

/// `cairn join`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// What `invite` printed on the other machine.
    pub ticket: String,
}

/// The network joined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Joined {
    /// Its id.
    pub network: String,
    /// Members met, this peer included.
    pub members: u32,
    /// Whether this peer holds no convergence secret.
    pub storage_only: bool,
}

/// What a link names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bytes.
    #[default]
    File,
    /// A directory tree.
    Tree,
}

/// `cairn put`: what is known before the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutRequest {
    /// The name to show in `list`; no part of the link.
    pub name: String,
    /// Whether the body is one file or a tree.
    pub kind: Kind,
    /// Redundancy as `4+2`; none: as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<String>,
    /// Peers whose loss it must survive, or else fail; none: what the redundancy promises over
    /// the peers that are live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survive: Option<u32>,
    /// Whether to seal under a random secret, so that nobody can confirm a guess.
    pub private: bool,
    /// For how many milliseconds it is kept; none: until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_ms: Option<u64>,
}

/// What `put` stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutResult {
    /// What brings it back.
    pub link: String,
    /// File or tree.
    pub kind: Kind,
    /// Bytes taken in.
    pub size_bytes: u64,
    /// Bytes that all its shards occupy, wherever they are.
    pub stored_bytes: u64,
    /// Of which were not there before.
    pub new_bytes: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Any so many peers may be lost.
    pub survives: u32,
    /// Peers that hold a part.
    pub peers: u32,
    /// Peers whose loss its redundancy survives once there are enough peers.
    pub promised: u32,
    /// How long it took, in ms.
    pub duration_ms: u64,
}

/// `cairn get`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GetRequest {
    /// What to bring.
    pub link: String,
    /// First byte wanted; none: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Last byte wanted, itself included; none: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
}

/// What is known of a download before its first byte.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GetHead {
    /// File or tree.
    pub kind: Kind,
    /// Bytes of content to come.
    pub size_bytes: u64,
}

/// `cairn ls`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LsRequest {
    /// The tree.
    pub link: String,
    /// Path within it, in hexadecimal since names are bytes; empty: the root.
    pub path_hex: String,
}

impl LsRequest {
    /// Asks for the entries at `path`.
    pub fn new(link: impl Into<String>, path: &[u8]) -> Self {
        LsRequest {
            link: link.into(),
            path_hex: data_encoding::HEXLOWER.encode(path),
        }
    }

    /// The path's bytes; none if they are not hexadecimal.
    pub fn path(&self) -> Option<Vec<u8>> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(self.path_hex.as_bytes())
            .ok()
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LsEntry {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Its name in hexadecimal, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
    /// `file`, `directory`, `symlink` or `hardlink`.
    pub kind: String,
    /// Bytes of a file.
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, ns since 1970.
    pub mtime_ns: i64,
    /// Where a symbolic or hard link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl LsEntry {
    /// Sets the name from its bytes.
    pub fn set_name(&mut self, name: &[u8]) {
        match std::str::from_utf8(name) {
            Ok(text) => (self.name, self.name_hex) = (text.to_owned(), None),
            Err(_) => {
                self.name = String::from_utf8_lossy(name).into_owned();
                self.name_hex = Some(data_encoding::HEXLOWER.encode(name));
            }
        }
    }
}

/// `cairn stat`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stat {
    /// The link asked about.
    pub link: String,
    /// File or tree.
    pub kind: Kind,
    /// Bytes of content.
    pub size_bytes: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Redundancy, as `4+2`.
    pub redundancy: String,
    /// Shards that all blocks have together.
    pub shards: u64,
    /// Of which some reachable peer holds.
    pub shards_present: u64,
    /// Blocks with fewer reachable shards than it takes to read them.
    pub unreadable_blocks: u64,
    /// Any so many peers may be lost from now on; none if it cannot be read as it is.
    pub survives: Option<u32>,
    /// Peers that hold a part.
    pub peers: u32,
}

/// One line of a listing as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// One of its items.
    Item(T),
    /// Why it ends here.
    Failed(AdminError),
}

/// Asks about one link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkRequest {
    /// The link.
    pub link: String,
}

/// One line of `cairn list`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listed {
    /// What brings it back.
    pub link: String,
    /// Its name when it was put.
    pub name: String,
    /// File or tree.
    pub kind: Kind,
    /// Bytes of content.
    pub size_bytes: u64,
    /// When it was put, ms since 1970.
    pub put_ms: u64,
    /// When it goes by itself, ms since 1970; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// `cairn key export`
#[derive(Clone, Serialize, Deserialize)]
pub struct KeyExportRequest {
    /// What the export is sealed with.
    pub passphrase: String,
}

/// A sealed backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyExported {
    /// Text to keep.
    pub sealed: String,
    /// The peer whose identity it has.
    pub peer: String,
}

/// What `cairn key import` brought back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyImported {
    /// The peer whose identity it has.
    pub peer: String,
    /// Its network, if it had one.
    pub network: Option<String>,
    /// Number of links of its list.
    pub links: u64,
    /// Number of its volumes.
    #[serde(default)]
    pub volumes: u64,
}
