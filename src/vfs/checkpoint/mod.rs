//! Checkpoints of a volume: made from its rows and kept in the pool as blocks, and merged from other replicas.
//!
//! * `make` cuts the rows of one moment into pages; `pages` stores and fetches those, `place` says where one is.
//! * `books` has which checkpoints are kept, and what of each block they use.
//! * `join` merges one, while `gate` keeps everybody else away; `contents` looks after the blocks of files whose
//!   contents came or went.
//! * `opened` looks into one that is kept.

mod books;
mod contents;
mod failure;
mod gate;
mod join;
mod make;
mod opened;
mod pages;
mod place;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::gate::Gate;
use super::inner::Inner;
use super::{Vfs, VfsError};
use crate::feeds::checkpoint::Root;
use crate::feeds::{Link, Signed};
use crate::namespace::{self, Hlc, VersionVector, state};

pub use books::KeptCheckpoint;
pub(super) use books::SNAPSHOTS;
pub(super) use contents::{CAME, bodies};
pub use failure::{CheckpointFailure, PageError};
pub use make::MadeCheckpoint;
pub use opened::OpenedCheckpoint;
pub(in crate::vfs) use opened::scan_tree;
pub use place::{PagePart, PagePlace};
pub(super) use rows::SnapshotRows;

/// Checkpoints before the last one that are kept unless told otherwise: others may be reading the last but one.
const KEPT_BEFORE: usize = 1;

/// What an open volume has of checkpoints besides its rows.
#[derive(Debug)]
pub(super) struct Desk {
    /// Held while one is made or merged, and while a snapshot is made or let go.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// How many hold off the release of blocks, since they are about to count them. Changed by who holds the ledger.
    pub(super) held: AtomicUsize,
    /// Held while what came is counted: nothing is counted twice.
    counting: tokio::sync::Mutex<()>,
    keep: AtomicUsize,
    pub(super) gate: Gate,
    /// For whom the top directory is made, if that was put off.
    pub(super) root_owner: (u32, u32),
}

impl Desk {
    pub(super) fn new(root_owner: (u32, u32)) -> Desk {
        Desk {
            turn: tokio::sync::Mutex::new(()),
            held: AtomicUsize::new(0),
            counting: tokio::sync::Mutex::new(()),
            keep: AtomicUsize::new(KEPT_BEFORE),
            gate: Gate::default(),
            root_owner,
        }
    }

    fn keep(&self) -> usize {
        self.keep.load(Ordering::Relaxed)
    }
}

impl Vfs {
    /// Everything that was merged, one's own changes included.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn version(&self) -> Result<VersionVector, VfsError> {
        let rows = SnapshotRows(self.0.volume.snapshot());
        Ok(state::version(&rows)?)
    }

    /// Makes a checkpoint of the volume as it is, places its pages in the pool and keeps it; older ones are let
    /// go. `heads`: the last link of each feed. They have to say what [`Vfs::version`] does at this moment. `hlc`: the
    /// latest moment in anything that was merged. What is not in blocks yet is not in it: [`Vfs::sync`] comes first.
    ///
    /// Not cancel safe: what was placed then stays until the next one is made, or the volume opened.
    ///
    /// # Errors
    /// If the feeds end elsewhere, the pool has no room, or rows cannot be read.
    pub async fn checkpoint(
        &self,
        heads: Vec<Signed<Link>>,
        hlc: Hlc,
    ) -> Result<MadeCheckpoint, CheckpointFailure> {
        let snapshot = self.0.volume.snapshot();
        self.0.make_checkpoint(snapshot, heads, hlc, None).await
    }

    /// So many checkpoints before the last one are kept from the next one on.
    pub fn keep_checkpoints(&self, more: usize) {
        self.0.checkpoints.keep.store(more, Ordering::Relaxed);
    }

    /// The checkpoints that are kept, the oldest first.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<KeptCheckpoint>, CheckpointFailure> {
        self.0.kept_checkpoints()
    }

    /// A checkpoint that is kept, to be looked into.
    ///
    /// # Errors
    /// [`CheckpointFailure::Unknown`]; if its root cannot be fetched.
    pub async fn open_checkpoint(
        &self,
        number: u64,
    ) -> Result<OpenedCheckpoint, CheckpointFailure> {
        let kept = self.0.kept_checkpoints()?;
        let kept = kept.into_iter().find(|kept| kept.number == number);
        let kept = kept.ok_or(CheckpointFailure::Unknown(number))?;
        let root = self.0.fetch_root(&kept.place, kept.root, kept.root_bytes);
        let root = root.await?;
        Ok(OpenedCheckpoint::new(Arc::clone(&self.0), root))
    }

    /// Merges a checkpoint of this volume. Answers what is merged then.
    ///
    /// While that changes rows nobody looks at them: whoever asks waits. If it is cancelled or fails in the middle, or
    /// power is lost, the volume answers `EBUSY` until a join with this checkpoint or a later one ends.
    ///
    /// # Errors
    /// If pages cannot be fetched or are not what they must be, before anything was changed; if it has changes from
    /// the future; if the volume takes no changes.
    pub async fn join(&self, root: &Root) -> Result<VersionVector, CheckpointFailure> {
        self.0.join_checkpoint(root).await
    }

    /// If the merging of a checkpoint was interrupted, what that had merged: nothing else is done before it, or a
    /// later one, is merged.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn unfinished_join(&self) -> Result<Option<VersionVector>, VfsError> {
        match self.0.checkpoints.gate.is_interrupted() {
            true => Ok(namespace::join::unfinished(&SnapshotRows(
                self.0.volume.snapshot(),
            ))?),
            false => Ok(None),
        }
    }
}

impl Inner {
    /// Lets go of what an interrupted making left.
    pub(super) async fn tidy_checkpoints(self: Arc<Self>) {
        let _turn = self.checkpoints.turn.lock().await;
        if let Err(error) = self.forget_unfinished().await {
            tracing::warn!("an unfinished checkpoint is let go later: {error}");
        }
    }
}
