//! One volume as a POSIX filesystem: implements the trait of `cairnfs-fuse` over the namespace, the
//! local engine and the contents of files.
//!
//! * `inner` has what all operations share, `stat` what is shown of a file, `inode` the files that the kernel knows, `file` one file's content.
//! * Operations by kind: `dir`, `make`, `remove`, `attrs`, `xattr`, `io`, `read`; `filesystem` answers the
//!   kernel with them.
//! * A change is in memory at once, in the journal soon (`notes`), then in blocks (`seal`, `land`) and described in the
//!   namespace (`publish`). `ledger` counts what of each block is in use, `drops` lets go of the rest,
//!   `clearing` lets go where several write, `compact` brings together what is left of blocks. `forsake` gives up a whole volume.
//! * `feed` is where other writers come in: what they are told, and what becomes of what they did. `conflicts` tells
//!   what writers disagreed about, and ends it.
//! * `snapshots` keeps the tree as it was at some moments, and shows it in `.snapshots`.
//! * `agree` waits for other machines where that is wanted; `locks` are those that hold between machines, `voting` what is
//!   remembered for them.
//! * `footing` tells which blocks the files below a path are in; `policy` how redundant they are to be, and `recode` stores
//!   anew what is stored otherwise.
//! * `recover` takes up what a crash left. `checkpoint` says all of the namespace at once, and merges what others say so.

mod agree;
mod attrs;
mod checkpoint;
mod claim_row;
mod clearing;
mod commit;
mod compact;
mod conflicts;
mod copy;
mod cursor;
mod dir;
mod drops;
mod errno;
mod feed;
mod file;
mod filesystem;
mod footing;
mod forsake;
mod inner;
mod inode;
mod io;
mod land;
mod ledger;
mod locks;
mod make;
mod notes;
mod policy;
mod publish;
mod read;
mod reads;
mod recode;
mod recover;
mod remove;
mod row_cache;
mod rows;
mod seal;
mod snapshots;
mod stat;
mod sync;
mod voting;
mod xattr;

pub use agree::{Agreement, Consistency, LockError, Locks};
pub use checkpoint::{
    CheckpointFailure, KeptCheckpoint, MadeCheckpoint, OpenedCheckpoint, PageError, PagePart,
    PagePlace,
};
pub use clearing::{Cleared, ClearingError, Relocated, Unnamed};
pub use conflicts::{
    Conflict, ConflictKind, ConflictRules, ConflictSide, Keep, Resolution, ResolveError,
};
#[cfg(feature = "testkit")]
pub use feed::rewritten_place;
pub use feed::{
    Admit, KnownPart, KnownTicket, OwnEnd, Point, PointError, Progress, Received, RevokeError,
    Revoked, Rights, ShareRules, Slice, VolumeKeys, VolumeShare,
};
pub use footing::{Footing, FootingError};
pub use forsake::forsake;
pub use policy::Policy;
pub use recode::{RecodeError, RecodeProgress, Recoded};
pub use snapshots::{
    RestoreAction, RestorePlan, RestoreProgress, RestoreRequest, RestoreStep, SnapshotError,
    SnapshotInfo, SnapshotRecord,
};

use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::Errno;

use self::inner::Inner;
use crate::base::{Class, Classify, Clock, EcProfile, Entropy, OwnerId, PeerId, VolumeId};
use crate::blocks::{Blocks, PutError};
use crate::crypto::ConvergenceSecret;
use crate::namespace::StateError;
use crate::placement::AutoProfile;
use crate::store::{VolumeError, VolumeOpenError};

/// What `fsync` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The journal on this disk.
    #[default]
    Local,
    /// Besides, enough distinct peers.
    Network,
}

/// How a mounted volume behaves.
#[derive(Debug, Clone)]
pub struct VfsOptions {
    /// What the volume is called in messages.
    pub name: String,
    /// What `fsync` waits for.
    pub durability: Durability,
    /// What an `open` sees of what other machines closed.
    pub consistency: Consistency,
    /// Between whom locks hold.
    pub locks: Locks,
    /// Changes are durable after so long without being asked for.
    pub commit_interval: Duration,
    /// Most bytes of written data that are in no block yet; writers wait beyond that.
    pub dirty_max_bytes: u64,
    /// A read of data that no reachable peer has fails after so long.
    pub read_timeout: Duration,
    /// Of which files only the newest content stays, where several are written at a time.
    pub conflicts: ConflictRules,
    /// What redundancy fits the peers, where it is chosen by that.
    pub auto: AutoProfile,
}

/// Whose volume it is and how its blocks are sealed.
#[derive(Debug, Clone)]
pub struct VolumeIdentity {
    /// The volume.
    pub id: VolumeId,
    /// The device that writes.
    pub peer: PeerId,
    /// For whom its blocks are kept.
    pub owner: OwnerId,
    /// Equal content of the volume gets equal addresses.
    pub secret: ConvergenceSecret,
    /// Redundancy of its blocks.
    pub profile: EcProfile,
}

/// What [`Vfs`] is built from.
#[derive(Debug)]
pub struct VfsParts {
    /// Whose it is.
    pub identity: VolumeIdentity,
    /// What this device needs where others take part; none if nobody does.
    pub share: Option<VolumeShare>,
    /// Where blocks go to and come from; its store has the volume's local engine.
    pub blocks: Blocks,
    /// Wall clock.
    pub clock: Clock,
    /// Randomness for identities of files.
    pub entropy: Entropy,
    /// How it behaves.
    pub options: VfsOptions,
}

/// What waits, and what is there. Bytes unless named otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VfsUsage {
    /// Written and in no block yet.
    pub dirty_bytes: u64,
    /// Of it being sealed and placed at this moment.
    pub queued_bytes: u64,
    /// In blocks that survive fewer losses than the volume's redundancy promises.
    pub under_redundant_bytes: u64,
    /// Content of all files that is in blocks.
    pub stored_bytes: u64,
}

/// An open volume as a filesystem. Runs background tasks on the runtime it was opened on until
/// [`Vfs::close`].
pub struct Vfs(Arc<Inner>);

impl Vfs {
    /// Opens the volume of `parts.identity`, which the store has (`Store::create_volume` made it); the first
    /// opening makes its top directory, owned by `root_owner` (uid, gid).
    ///
    /// # Errors
    /// If it cannot be opened, or is damaged.
    pub async fn open(parts: VfsParts, root_owner: (u32, u32)) -> Result<Arc<Vfs>, VfsError> {
        let inner = Inner::begin_volume(parts, root_owner, false).await?;
        Ok(Vfs::begin(inner))
    }

    /// Opens a volume of which this machine has nothing yet, and others have: its top directory is not made, and
    /// everything answers `EBUSY`, until a checkpoint was [merged](Vfs::join).
    ///
    /// # Errors
    /// As [`Vfs::open`].
    pub async fn open_to_join(
        parts: VfsParts,
        root_owner: (u32, u32),
    ) -> Result<Arc<Vfs>, VfsError> {
        let inner = Inner::begin_volume(parts, root_owner, true).await?;
        Ok(Vfs::begin(inner))
    }

    fn begin(inner: Arc<Inner>) -> Arc<Vfs> {
        inner.look_at_room();
        inner.tasks.spawn(Arc::clone(&inner).seal_always());
        inner.tasks.spawn(Arc::clone(&inner).drop_always());
        if inner.is_shared() {
            inner.tasks.spawn(Arc::clone(&inner).seal_feed_always());
        }
        inner.tasks.spawn(Arc::clone(&inner).tidy_checkpoints());
        inner
            .tasks
            .spawn(Arc::clone(&inner).keep_snapshots_always());
        Arc::new(Vfs(inner))
    }

    /// What waits, and what is there. Does no I/O.
    pub fn usage(&self) -> VfsUsage {
        self.0.usage()
    }

    /// Waits until everything written before is in blocks, as redundant as the peers that there are allow, and
    /// described in the namespace.
    ///
    /// # Errors
    /// If the pool or the disk has no room, or too few peers can be reached.
    pub async fn sync(&self) -> Result<(), VfsError> {
        let sealed = self.0.seal_all().await;
        sealed.map_err(|errno| self.0.unsynced(errno))
    }

    /// Ends it in good order: everything is in the journal; what is in no block yet is taken up at the
    /// next opening. To be called after the mount has gone.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub async fn close(&self) -> Result<(), VfsError> {
        self.0.close().await
    }
}

/// Why a volume could not be opened, synced or closed.
#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    /// The local engine.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The local engine does not open.
    #[error(transparent)]
    Open(#[from] VolumeOpenError),
    /// The namespace.
    #[error("the namespace: {0}")]
    Namespace(#[from] StateError),
    /// What the last run left cannot be taken up.
    #[error("the volume cannot be opened: {0}")]
    Unready(String),
    /// It was asked for what there is not.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A block could not be placed.
    #[error("not everything is in the pool yet: {0}")]
    Unplaced(PutError),
    /// Not everything could be placed or described.
    #[error("not everything is in the pool yet: {0}")]
    Unsynced(Errno),
    /// Conflicts cannot be looked for.
    #[error("the conflicts of the volume cannot be read: {0}")]
    Conflicts(Errno),
}

impl Classify for VfsError {
    fn class(&self) -> Class {
        match self {
            VfsError::Volume(error) => error.class(),
            VfsError::Open(error) => error.class(),
            VfsError::Namespace(error) => error.class,
            VfsError::Unready(_) => Class::Corrupt,
            VfsError::Unsupported(_) => Class::Denied,
            VfsError::Unplaced(error) => error.class(),
            VfsError::Unsynced(errno) if *errno == Errno::ENOSPC => Class::Full,
            VfsError::Conflicts(errno) if *errno == Errno::EIO => Class::Corrupt,
            VfsError::Unsynced(_) | VfsError::Conflicts(_) => Class::Retry,
        }
    }
}
