//! Snapshots: the tree of files as it was at one moment, kept in the pool with everything that it names.
//!
//! * `make` takes one and lets it go: its rows are cut into pages like those of a checkpoint, and the blocks of its files
//!   are counted as in use. `record` is what the map of the volume says of it, so that all members list the same ones.
//! * `tree` looks into one: pages are fetched when somebody needs them. `nodes` has the numbers by which the kernel knows
//!   its files, `front` answers the kernel.
//! * `restore` brings files back. `keep` makes and thins snapshots by a rule.

mod front;
mod keep;
mod make;
mod nodes;
mod record;
mod restore;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cairnfs_fuse::Errno;
use cairnfs_fuse::kernel::Notice;

use self::front::Listed;
use self::nodes::Nodes;
pub use self::record::SnapshotRecord;
pub use self::restore::{RestoreAction, RestorePlan, RestoreProgress, RestoreRequest, RestoreStep};
use self::tree::Reading;
use super::Vfs;
use super::checkpoint::CheckpointFailure;
use super::cursor::Cursors;
use super::errno::Stop;
use super::file::FileCell;
use super::inner::Inner;
use super::read::ReadError;
use crate::base::limits::SNAPSHOTS_MAX;
use crate::base::{Class, Classify, KeepRule};
use crate::namespace::{SnapshotId, StateError};
use crate::store::VolumeError;

pub(super) use self::front::{DIRECTORY, Front, is_snapshot};

/// A snapshot that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Which one.
    pub id: SnapshotId,
    /// Its name in `.snapshots`.
    pub name: String,
    /// When it was made (milliseconds since 1970).
    pub made_ms: u64,
    /// What it was called; may be empty.
    pub label: String,
    /// Files of all kinds in it.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// Whether this device made it.
    pub is_own: bool,
    /// Bytes of blocks that are there for nothing else; none if that is not known here.
    pub alone_bytes: Option<u64>,
}

/// Why a snapshot was not made, found, read or let go.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// This device may not write to the volume.
    #[error("this peer may only read the volume")]
    Reader,
    /// Nothing can be called so.
    #[error("`{label}` is no label for a snapshot: {why}")]
    Label {
        /// What was given.
        label: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is none.
    #[error("there is no snapshot `{0}`")]
    Unknown(String),
    /// Several are meant.
    #[error("`{name}` could mean any of {}", .among.join(", "))]
    Ambiguous {
        /// What was given.
        name: String,
        /// Names of those that it fits.
        among: Vec<String>,
    },
    /// There are as many as there may be.
    #[error("the volume has {SNAPSHOTS_MAX} snapshots, and cannot have more")]
    TooMany,
    /// Not everything that was written could be brought into the pool before.
    #[error("not everything is in the pool yet: {0}")]
    Unsynced(Errno),
    /// A path that is not there.
    #[error("there is no `{0}` in the snapshot")]
    NotThere(String),
    /// What is to be brought back is in the way of itself, or something else is.
    #[error("{path}: {why}")]
    Path {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing can be done now.
    #[error("the volume takes no changes now: {0}")]
    Stopped(Errno),
    /// Its pages.
    #[error(transparent)]
    Pages(Box<CheckpointFailure>),
    /// The manifest of one of its files.
    #[error("the content of a file: {0}")]
    Content(String, Class),
    /// What is said of it is not what was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}

impl Classify for SnapshotError {
    fn class(&self) -> Class {
        match self {
            SnapshotError::Reader
            | SnapshotError::Label { .. }
            | SnapshotError::Ambiguous { .. }
            | SnapshotError::Path { .. }
            | SnapshotError::TooMany => Class::Denied,
            SnapshotError::Unknown(_) | SnapshotError::NotThere(_) => Class::Missing,
            SnapshotError::Unsynced(errno) | SnapshotError::Stopped(errno) => match *errno {
                Errno::ENOSPC => Class::Full,
                Errno::EROFS => Class::Denied,
                _ => Class::Retry,
            },
            SnapshotError::Pages(error) => error.class(),
            SnapshotError::Content(_, class) => *class,
            SnapshotError::Damaged(_) => Class::Corrupt,
        }
    }
}

impl From<CheckpointFailure> for SnapshotError {
    fn from(error: CheckpointFailure) -> Self {
        SnapshotError::Pages(Box::new(error))
    }
}

impl From<VolumeError> for SnapshotError {
    fn from(error: VolumeError) -> Self {
        CheckpointFailure::from(error).into()
    }
}

impl From<StateError> for SnapshotError {
    fn from(error: StateError) -> Self {
        CheckpointFailure::from(error).into()
    }
}

impl From<ReadError> for SnapshotError {
    fn from(error: ReadError) -> Self {
        SnapshotError::Content(error.to_string(), error.class())
    }
}

impl From<Stop> for SnapshotError {
    fn from(stop: Stop) -> Self {
        SnapshotError::Stopped(match stop {
            Stop::Errno(errno) => errno,
            Stop::Busy => Errno::EAGAIN,
        })
    }
}

/// What tells the kernel that something changed behind its back.
type Watcher = Box<dyn Fn(Notice) + Send + Sync>;

/// What an open volume has of snapshots besides its rows.
pub(super) struct Shelf {
    reading: Reading,
    nodes: Mutex<Nodes>,
    cursors: Mutex<BTreeMap<SnapshotId, Cursors>>,
    listed: Mutex<Listed>,
    rule: Mutex<KeepRule>,
    watcher: Mutex<Option<Watcher>>,
}

impl Shelf {
    pub(super) fn new() -> Shelf {
        Shelf {
            reading: Reading::default(),
            nodes: Mutex::default(),
            cursors: Mutex::default(),
            listed: Mutex::default(),
            rule: Mutex::default(),
            watcher: Mutex::default(),
        }
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files of snapshots that are open.
    pub(super) fn open_files(&self) -> Vec<Arc<FileCell>> {
        self.nodes().files()
    }

    /// Has the kernel told.
    fn tell(&self, notices: Vec<Notice>) {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watcher.as_ref() {
            notices.into_iter().for_each(watcher);
        }
    }
}

impl Vfs {
    /// Brings everything that was written into the pool, takes a snapshot of it, and keeps that. `label`: letters, digits,
    /// `.`, `_` and `-`; may be empty.
    ///
    /// Not cancel safe: what was placed then stays until the next one is made, or the volume opened.
    ///
    /// # Errors
    /// If the pool has no room, the device may only read, or rows cannot be read.
    pub async fn make_snapshot(&self, label: &str) -> Result<SnapshotInfo, SnapshotError> {
        self.0.make_snapshot(label).await
    }

    /// The snapshots that are kept, the oldest first. Reads from the disk: not for the reactor.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        self.0.list_snapshots()
    }

    /// The snapshot that a name means: the whole name, the beginning of one, or a label.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`], [`SnapshotError::Ambiguous`].
    pub fn find_snapshot(&self, name: &str) -> Result<SnapshotInfo, SnapshotError> {
        let mut all = self.0.infos()?;
        if let Some(at) = all.iter().position(|info| info.name == name) {
            return Ok(all.swap_remove(at));
        }
        let is_meant = |info: &SnapshotInfo| {
            !name.is_empty() && (info.label == name || info.name.starts_with(name))
        };
        all.retain(is_meant);
        match all.len() {
            0 => Err(SnapshotError::Unknown(name.to_owned())),
            1 => Ok(all.swap_remove(0)),
            _ => Err(SnapshotError::Ambiguous {
                name: name.to_owned(),
                among: all.into_iter().map(|info| info.name).collect(),
            }),
        }
    }

    /// Lets a snapshot go; blocks that nothing else needs are released afterwards.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`]; if the device may only read.
    pub async fn remove_snapshot(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        self.0.remove_snapshot(id).await
    }

    /// From now on snapshots without a label are made and thinned by a rule, as long as the volume is open.
    pub fn keep_snapshots(&self, rule: KeepRule) {
        self.0.keep_snapshots(rule);
    }

    /// Has `watcher` told of everything that the kernel must forget because files were brought back behind its back.
    pub fn on_restore(&self, watcher: impl Fn(Notice) + Send + Sync + 'static) {
        let shelf = &self.0.snapshots;
        let mut kept = shelf.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(Box::new(watcher));
    }

    /// What bringing files of a snapshot back would do.
    ///
    /// # Errors
    /// If the snapshot or what is named of it is not there, or cannot be read.
    pub async fn plan_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<RestorePlan, SnapshotError> {
        Arc::clone(&self.0).plan_restore(request).await
    }

    /// Carries out what was planned, and tells after each step how far it is. Each file is its old self or its new
    /// one at any moment; where it ends early, what was done stays.
    ///
    /// # Errors
    /// If something changed meanwhile that is in the way, or the volume takes no changes.
    pub async fn restore(
        &self,
        plan: RestorePlan,
        tell: impl Fn(RestoreProgress) + Send + Sync,
    ) -> Result<RestoreProgress, SnapshotError> {
        Arc::clone(&self.0).carry_plan(plan, &tell).await
    }
}

impl Inner {
    /// All snapshots as the map has them, the oldest first; those that cannot be read are left out, and said.
    fn records(&self) -> Result<Vec<(SnapshotId, SnapshotRecord)>, Stop> {
        let _core = self.core();
        let rows = self.view(|view| view.snapshots())?;
        let read = rows.into_iter().filter_map(|(id, bytes)| {
            let record = SnapshotRecord::decode(&bytes);
            if record.is_none() {
                tracing::warn!(?id, "a snapshot that this version cannot read");
            }
            Some((id, record?))
        });
        Ok(read.collect())
    }

    /// What was opened of snapshots that are kept no longer is not found any more.
    pub(super) fn forget_gone_snapshots(&self) -> Result<(), SnapshotError> {
        let kept: BTreeSet<SnapshotId> = self.records()?.into_iter().map(|(id, _)| id).collect();
        self.snapshots.reading.keep_only(&kept);
        Ok(())
    }

    fn infos(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let own = self.identity.peer.0.first_chunk::<8>().copied();
        let own = own.unwrap_or_default();
        let mut all: Vec<SnapshotInfo> = Vec::new();
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        for (id, record) in self.records()? {
            let name = record.name();
            // Two members may have made some in the same second.
            let same = names.entry(name.clone()).or_insert(0);
            *same += 1;
            all.push(SnapshotInfo {
                name: match same {
                    1 => name,
                    same => format!("{name}.{same}"),
                },
                id,
                made_ms: record.made_ms,
                files: record.files,
                bytes: record.bytes,
                is_own: id.0.ends_with(&own),
                label: record.label,
                alone_bytes: None,
            });
        }
        Ok(all)
    }
}
