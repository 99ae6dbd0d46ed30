//! What a running peer can be asked, declared here and implemented by the composition root.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::Stream;

use super::error::AdminError;
use super::transfer::{frames_of, into_file};
use super::types::{
    ConflictInfo, ConflictResolve, ConflictResolved, ConflictsRequest, DrainChange, DrainInfo,
    GcReport, GcRequest, GetHead, GetRequest, InviteRequest, Invited, JoinRequest, Joined, Kept,
    KeyExportRequest, KeyExported, Kind, LinkRequest, Listed, LsEntry, LsRequest, MountRequest,
    Mounted, PathPolicy, PathRequest, PathStat, PeerInfo, PutRequest, PutResult, QuotaInfo,
    RemoveRequest, Removed, RenewRequest, Repairs, RestoreLine, RestoreRequest, Restored, SetQuota,
    SnapshotCreate, SnapshotItem, SnapshotRemove, SnapshotRestore, Snapshots, SnapshotsRequest,
    Stat, Status, SyncProgress, SyncRequest, TrashInfo, UmountRequest, VolumeCreate, VolumeInfo,
    VolumeInvited, VolumeMembers, VolumeMembersRequest, VolumeOpen, VolumeOpened, VolumeRemove,
    VolumeRevoke, VolumeRevoked, VolumeTicketRequest, VolumeVoters, VolumeVotersRequest,
    WorkerChange, WorkerStatus,
};

/// Bytes of a body, in pieces of any size. It ends with an error if its other end broke off.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Values one after the other; an error is the last.
pub type ItemStream<T> = Pin<Box<dyn Stream<Item = Result<T, AdminError>> + Send>>;

/// A download that was found.
pub struct Download {
    /// What is known before its first byte.
    pub head: GetHead,
    /// Frames of content; errors on the way are frames too.
    pub body: ByteStream,
}

/// The answer of a call.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, AdminError>>;

fn no_snapshots() -> AdminError {
    AdminError::refused("this peer keeps no snapshots")
}

fn no_list() -> AdminError {
    AdminError::refused("this peer keeps no list of puts")
}

/// A peer, as its control API sees it. Dropping a call's future gives the call up.
pub trait Backend: Send + Sync + 'static {
    /// How this peer is.
    fn status(&self) -> Answer<'_, Status>;
    /// The members it knows, itself first.
    fn peers(&self) -> Answer<'_, Vec<PeerInfo>>;
    /// What it stores and may store.
    fn quota(&self) -> Answer<'_, QuotaInfo>;
    /// Changes the quota, at once and for later starts.
    fn set_quota(&self, request: SetQuota) -> Answer<'_, QuotaInfo>;
    /// Has a background job rest or go on; all jobs afterwards.
    fn set_worker(&self, request: WorkerChange) -> Answer<'_, Vec<WorkerStatus>>;
    /// What this peer is going to repair.
    fn repairs(&self) -> Answer<'_, Repairs>;
    /// Makes a ticket; the first one founds the network if there is none.
    fn invite(&self, request: InviteRequest) -> Answer<'_, Invited>;
    /// Joins the network of a ticket.
    fn join(&self, request: JoinRequest) -> Answer<'_, Joined>;
    /// Stores what `body` (frames) says.
    fn put(&self, request: PutRequest, body: ByteStream) -> Answer<'_, PutResult>;
    /// Stores the content of a regular file, read from its present position.
    fn put_file(&self, request: PutRequest, file: OwnedFd) -> Answer<'_, PutResult> {
        self.put(request, frames_of(file))
    }
    /// Brings back what a link names.
    fn get(&self, request: GetRequest) -> Answer<'_, Download>;
    /// As [`Backend::get`], but the content of a file (not of a tree) goes into `file`, which is
    /// empty, and the body has only what comes after it.
    fn get_into(&self, request: GetRequest, file: OwnedFd) -> Answer<'_, Download> {
        Box::pin(async move {
            let mut download = self.get(request).await?;
            if download.head.kind == Kind::File {
                download.body = into_file(file, download.body);
            }
            Ok(download)
        })
    }
    /// The entries of a directory of a tree.
    fn ls(&self, request: LsRequest) -> Answer<'_, ItemStream<LsEntry>>;
    /// How much of a link's data is there now.
    fn stat(&self, request: LinkRequest) -> Answer<'_, Stat>;
    /// How much of what is below a path of a mount is there now.
    fn stat_path(&self, request: PathRequest) -> Answer<'_, PathStat>;
    /// Which redundancy is wanted at a path of a mount.
    fn path_policy(&self, request: PathRequest) -> Answer<'_, PathPolicy>;
    /// What this peer has put, oldest first.
    fn list(&self) -> Answer<'_, ItemStream<Listed>>;
    /// Identity, secrets and list, sealed with a passphrase.
    fn key_export(&self, request: KeyExportRequest) -> Answer<'_, KeyExported>;
    /// The volumes of this peer, by name.
    fn volumes(&self) -> Answer<'_, Vec<VolumeInfo>>;
    /// Makes an empty volume.
    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeInfo>;
    /// Removes a volume from this machine; tells what it was.
    fn volume_remove(&self, request: VolumeRemove) -> Answer<'_, VolumeInfo>;
    /// Makes a ticket with which another machine opens a volume; the first one makes the volume shared, and
    /// founds the network if there is none.
    fn volume_ticket(&self, request: VolumeTicketRequest) -> Answer<'_, VolumeInvited>;
    /// Makes the volume of a ticket one of this machine; joins its network first if this peer is in none.
    fn volume_open(&self, request: VolumeOpen) -> Answer<'_, VolumeOpened>;
    /// Who is known to be a member of a volume.
    fn volume_members(&self, request: VolumeMembersRequest) -> Answer<'_, VolumeMembers>;
    /// Takes a snapshot of a volume.
    fn snapshot_create(&self, _request: SnapshotCreate) -> Answer<'_, SnapshotItem> {
        Box::pin(async { Err(no_snapshots()) })
    }
    /// Lets a snapshot go; tells which.
    fn snapshot_remove(&self, _request: SnapshotRemove) -> Answer<'_, SnapshotItem> {
        Box::pin(async { Err(no_snapshots()) })
    }
    /// The snapshots of a volume.
    fn snapshots(&self, _request: SnapshotsRequest) -> Answer<'_, Snapshots> {
        Box::pin(async { Err(no_snapshots()) })
    }
    /// Brings files of a snapshot back, and tells how far that is; or what would be done.
    fn snapshot_restore(&self, _request: SnapshotRestore) -> Answer<'_, ItemStream<RestoreLine>> {
        Box::pin(async { Err(no_snapshots()) })
    }
    /// What was let go and rests in the store.
    fn trash(&self) -> Answer<'_, TrashInfo> {
        Box::pin(async { Ok(TrashInfo::default()) })
    }
    /// Lets go of what links name that this peer has put; they can be restored for a while.
    fn remove(&self, _request: RemoveRequest) -> Answer<'_, Removed> {
        Box::pin(async { Err(no_list()) })
    }
    /// Keeps what a link names from now on, whoever put it.
    fn renew(&self, _request: RenewRequest) -> Answer<'_, Kept> {
        Box::pin(async { Err(no_list()) })
    }
    /// Keeps removed links again.
    fn restore_trash(&self, _request: RestoreRequest) -> Answer<'_, Restored> {
        Box::pin(async { Err(no_list()) })
    }
    /// Empties that; what there was.
    fn empty_trash(&self) -> Answer<'_, TrashInfo> {
        Box::pin(async { Ok(TrashInfo::default()) })
    }
    /// How far this peer is with leaving.
    fn drain(&self) -> Answer<'_, DrainInfo> {
        Box::pin(async { Ok(DrainInfo::default()) })
    }
    /// Has this peer hand over what it holds, to leave; or stay after all.
    fn set_drain(&self, _change: DrainChange) -> Answer<'_, DrainInfo> {
        Box::pin(async { Err(AdminError::refused("this peer cannot leave")) })
    }
    /// Lets go of what nothing in a shared volume names any more.
    fn gc(&self, _request: GcRequest) -> Answer<'_, GcReport> {
        Box::pin(async { Err(AdminError::failed("there are no volumes here")) })
    }
    /// Tells or says who decides on the locks of a mounted volume.
    fn volume_voters(&self, request: VolumeVotersRequest) -> Answer<'_, VolumeVoters>;
    /// Ends the part of a member in a volume, or a ticket, and hands new keys to all others.
    fn volume_revoke(&self, request: VolumeRevoke) -> Answer<'_, VolumeRevoked>;
    /// Mounts a volume. If the call is given up, it is unmounted again.
    fn mount(&self, request: MountRequest) -> Answer<'_, Mounted>;
    /// Unmounts what is mounted on a directory, and closes the volume.
    fn umount(&self, request: UmountRequest) -> Answer<'_, Mounted>;
    /// Brings everything written before to full redundancy, and tells how far that is.
    fn sync(&self, request: SyncRequest) -> Answer<'_, ItemStream<SyncProgress>>;
    /// What the members of mounted volumes disagreed about.
    fn conflicts(&self, request: ConflictsRequest) -> Answer<'_, ItemStream<ConflictInfo>>;
    /// Ends such a disagreement.
    fn conflict_resolve(&self, request: ConflictResolve) -> Answer<'_, ConflictResolved>;
}
