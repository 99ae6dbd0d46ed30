//! Storing anew what has another redundancy than is wanted where it is: after a policy was set, or a file was moved to
//! where another one counts.
//!
//! The bytes are read, placed with the redundancy that is wanted, and then the content's row names the new blocks in
//! place of the old ones, in one group: a relocation, which is no edit and yields to one. The old blocks go afterwards. So a
//! content is never named by blocks that are not all there, and nobody sees another content or time.
//!
//! * `find` looks for what is stored otherwise, `small` moves contents that fit into one block together, `large` others, a block at
//!   a time; how far it is with those is in rows, so that a crash costs one block. `exchange` puts the new blocks into the
//!   place of the old ones.
//!
//! In a volume of several machines each does it with what it placed itself, since only it can let the old blocks go.

mod exchange;
mod find;
mod large;
mod small;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use self::large::Large;
use super::Vfs;
use super::errno::Stop;
use super::inner::Inner;
use super::land::SealError;
use super::ledger::{Born, decode_dropped};
use super::read::ReadError;
use super::rows::{OWN, RECODE, RECODED, pages};
use crate::base::{BlockId, Class, Classify, EcProfile};
use crate::content::ContentError;
use crate::dag::{self, NodeAt};
use crate::namespace::{Body, Ino, StateError, VersionVector};
use crate::store::{Group, VolumeError};

/// What could not be done is tried again after so long, and after twice as long each time that something is left.
const AGAIN: Duration = Duration::from_secs(30);
/// Where policies are set it is looked so often for files that were moved below another one.
const LOOK: Duration = Duration::from_secs(3600);
/// And so long after the volume was opened.
const FIRST_LOOK: Duration = Duration::from_secs(300);

/// Rows that are read at once.
const PAGE: usize = 256;

/// What one step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recoded {
    /// Bytes of content that were placed anew.
    pub bytes: u64,
    /// Whether there is more to do at once.
    pub is_more: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecodeProgress {
    /// Bytes of contents that this machine has still to store anew, as far as is known.
    pub left_bytes: u64,
    /// Bytes that were stored anew since the volume was opened.
    pub done_bytes: u64,
}

/// Why nothing is stored anew now. Nothing was lost by that; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RecodeError {
    /// A block that is to be moved cannot be read.
    #[error("what is to be stored anew cannot be read: {0}")]
    Read(String, Class),
    /// Nothing can be placed.
    #[error("nothing can be stored anew: {0}")]
    Place(String, Class),
    /// There are fewer peers than when it was stored, so that the new blocks would survive less.
    #[error(
        "the new blocks would survive the loss of {new} peers, the old ones of {old}: there are too few peers now"
    )]
    Weaker {
        /// What the old blocks survived when they were placed, as far as that is still wanted.
        old: u32,
        /// What the new ones survive.
        new: u32,
    },
    /// Rows cannot be read or written.
    #[error("the volume: {0}")]
    Volume(String, Class),
}

impl Classify for RecodeError {
    fn class(&self) -> Class {
        match self {
            RecodeError::Read(_, class)
            | RecodeError::Place(_, class)
            | RecodeError::Volume(_, class) => *class,
            RecodeError::Weaker { .. } => Class::Retry,
        }
    }
}

impl From<StateError> for RecodeError {
    fn from(error: StateError) -> Self {
        RecodeError::Volume(error.message, error.class)
    }
}

impl From<VolumeError> for RecodeError {
    fn from(error: VolumeError) -> Self {
        RecodeError::Volume(error.to_string(), error.class())
    }
}

impl From<ContentError> for RecodeError {
    fn from(error: ContentError) -> Self {
        RecodeError::Read(error.to_string(), error.class())
    }
}

impl From<ReadError> for RecodeError {
    fn from(error: ReadError) -> Self {
        RecodeError::Read(error.to_string(), error.class())
    }
}

impl From<SealError> for RecodeError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Read(error) => error.into(),
            SealError::Put(error) => RecodeError::Place(error.to_string(), error.class()),
        }
    }
}

impl From<Stop> for RecodeError {
    fn from(stop: Stop) -> Self {
        let why = match stop {
            Stop::Busy => "it is busy".to_owned(),
            Stop::Errno(errno) => errno.to_string(),
        };
        RecodeError::Volume(why, Class::Retry)
    }
}

/// A content that is stored otherwise than is wanted.
#[derive(Debug, Clone)]
struct Task {
    ino: Ino,
    version: VersionVector,
    size: u64,
    profile: EcProfile,
    body: dag::Body<NodeAt>,
    /// What is wanted.
    target: EcProfile,
    /// Whether another content of the file, where machines disagree, has to be stored anew as well.
    has_more: bool,
}

/// A file that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    ino: Ino,
    bytes: u64,
}

/// Going through everything once.
#[derive(Debug, Default)]
struct Work {
    is_running: bool,
    queue: VecDeque<Due>,
    /// What is under way of the first one, if it is large.
    large: Option<Large>,
    /// How often policies had changed when it began.
    changes: u64,
    /// Whether something is left for the next time.
    is_partial: bool,
    /// Whether there are more than the queue takes.
    is_cut: bool,
    /// Whether this pass stored anything anew.
    has_moved: bool,
    /// How often in a row something was left and nothing was done.
    failures: u32,
    not_before: Option<Instant>,
    next_look: Option<Instant>,
}

impl Work {
    /// A file of which something is left to do has its turn once more.
    fn ask_again(&mut self, ino: Ino) {
        self.queue.push_back(Due { ino, bytes: 0 });
    }

    /// When what was left is tried again: later each time.
    fn pause(&mut self) -> Instant {
        let pause = AGAIN.saturating_mul(1 << self.failures.min(10)).min(LOOK);
        self.failures += 1;
        Instant::now() + pause
    }
}

/// What is being done, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    work: tokio::sync::Mutex<Work>,
    left_bytes: AtomicU64,
    done_bytes: AtomicU64,
    /// Blocks that were placed and that nothing on the disk names yet.
    in_hand: Mutex<BTreeSet<BlockId>>,
}

impl Pass {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<BlockId>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// Stores anew a part of what has another redundancy than is wanted: at most some blocks. To be called again and again, by
    /// one caller. Cancel safe: what is under way then is done again.
    ///
    /// # Errors
    /// If blocks cannot be read or placed now. It goes on with others, or where it was.
    pub async fn recode(&self) -> Result<Recoded, RecodeError> {
        tokio::select! {
            biased;
            // Whoever closes the volume does not wait for this.
            () = self.0.stop.cancelled() => Ok(Recoded::default()),
            done = self.0.recode() => done,
        }
    }

    /// How far that is. Does no I/O.
    pub fn recode_progress(&self) -> RecodeProgress {
        let pass = &self.0.policies.pass;
        RecodeProgress {
            left_bytes: pass.left_bytes.load(Ordering::Relaxed),
            done_bytes: pass.done_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    async fn recode(self: &Arc<Self>) -> Result<Recoded, RecodeError> {
        let mut work = self.policies.pass.work.lock().await;
        if self.is_reader() || self.checkpoints.gate.check().is_err() || self.stop.is_cancelled() {
            return Ok(Recoded::default());
        }
        self.policies.pass.lock().clear();
        let changes = self.policies.changes();
        if work.is_running && work.changes != changes {
            // Other things are wanted now. What is under way is taken up if it still is.
            *work = Work {
                next_look: work.next_look,
                ..Work::default()
            };
        }
        if !work.is_running && !self.begin_pass(&mut work, changes).await? {
            return Ok(Recoded::default());
        }
        let Some(due) = work.queue.front().copied() else {
            return self.end_pass(&mut work);
        };
        let task = match self.task_of(due.ino) {
            Ok(task) => task,
            Err(error) => {
                // Others can be stored anew all the same.
                tracing::debug!(ino = ?due.ino, "it cannot be seen how a file is stored: {error}");
                work.is_partial = true;
                self.leave(&mut work);
                return Ok(Recoded {
                    bytes: 0,
                    is_more: true,
                });
            }
        };
        let Some(task) = task else {
            // Somebody else did it, or it is gone. What was begun of it is not needed.
            self.abandon(due.ino)?;
            work.large = None;
            self.leave(&mut work);
            return Ok(Recoded {
                bytes: 0,
                is_more: true,
            });
        };
        let done = match small::bytes_of(&task) {
            Some(_) => self.recode_small(&mut work).await,
            None => self.recode_large(&mut work, task).await,
        };
        match done {
            Ok(bytes) => {
                if bytes > 0 {
                    (work.has_moved, work.failures) = (true, 0);
                }
                let pass = &self.policies.pass;
                pass.done_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(Recoded {
                    bytes,
                    is_more: true,
                })
            }
            Err(error) => {
                match error {
                    RecodeError::Read(..) | RecodeError::Weaker { .. } => {
                        // Others may be readable, or want what can be had.
                        work.large = None;
                        work.is_partial = true;
                        self.leave(&mut work);
                    }
                    RecodeError::Place(..) | RecodeError::Volume(..) => {
                        self.policies.set_owed(true);
                        *work = Work {
                            not_before: Some(work.pause()),
                            failures: work.failures,
                            changes: work.changes,
                            next_look: work.next_look,
                            ..Work::default()
                        };
                    }
                }
                Err(error)
            }
        }
    }

    /// A block that is placed is held until something names it, or the next step begins.
    fn hold_block(&self, born: &Born) {
        self.policies.pass.lock().insert(born.block.id);
    }

    /// Blocks that are placed anew and that no content names yet. Reads tables.
    pub(super) fn blocks_recoded(&self) -> Result<BTreeSet<BlockId>, VolumeError> {
        let mut found = self.policies.pass.lock().clone();
        for page in pages(&self.volume, RECODED, &[], PAGE) {
            for (_, row) in page? {
                if let Some((Body::Stored(_, dag::Body::Inline(extents)), _)) = decode_dropped(&row)
                {
                    found.extend(extents.iter().map(|extent| extent.block.id));
                }
            }
        }
        Ok(found)
    }

    /// The first of the queue has had its turn.
    fn leave(&self, work: &mut Work) {
        if let Some(due) = work.queue.pop_front() {
            let left = &self.policies.pass.left_bytes;
            let after = left.load(Ordering::Relaxed).saturating_sub(due.bytes);
            left.store(after, Ordering::Relaxed);
        }
    }

    async fn begin_pass(
        self: &Arc<Self>,
        work: &mut Work,
        changes: u64,
    ) -> Result<bool, RecodeError> {
        let now = Instant::now();
        let next_look = *work.next_look.get_or_insert(now + FIRST_LOOK);
        if work.changes != changes {
            // What is wanted now may be possible at once.
            (work.changes, work.failures, work.not_before) = (changes, 0, None);
        }
        let is_owed = self.policies.is_owed() && work.not_before.is_none_or(|at| at <= now);
        let is_look = self.policies.any() && next_look <= now;
        if !is_owed && !is_look {
            return Ok(false);
        }
        let inner = Arc::clone(self);
        let disk = &self.blocks.pools().disk;
        let found = disk.run(move || inner.find_due()).await?;
        let left = found.queue.iter().map(|due| due.bytes).sum();
        self.policies.pass.left_bytes.store(left, Ordering::Relaxed);
        *work = Work {
            is_running: true,
            queue: found.queue,
            large: None,
            changes,
            is_partial: found.is_partial,
            is_cut: found.is_cut,
            has_moved: false,
            failures: work.failures,
            not_before: None,
            next_look: Some(now + LOOK),
        };
        Ok(true)
    }

    fn end_pass(&self, work: &mut Work) -> Result<Recoded, RecodeError> {
        work.is_running = false;
        self.policies.pass.left_bytes.store(0, Ordering::Relaxed);
        if work.is_partial || work.is_cut {
            self.policies.set_owed(true);
            // The rest has its turn at once, if this was of any use.
            let is_more = work.is_cut && work.has_moved;
            work.not_before = (!is_more).then(|| work.pause());
            return Ok(Recoded { bytes: 0, is_more });
        }
        let mut group = Group::new();
        group.cleanup();
        group.remove(OWN, RECODE);
        {
            // Who sets a policy has the core, and writes the row anew.
            let _core = self.core();
            if work.changes != self.policies.changes() {
                return Ok(Recoded {
                    bytes: 0,
                    is_more: true,
                });
            }
            self.volume.apply(&group)?;
            self.policies.set_owed(false);
        }
        work.failures = 0;
        Ok(Recoded::default())
    }
}
