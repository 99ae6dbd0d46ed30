//! What all operations of a mounted volume share: the namespace with its writer's clock and feed, the files
//! that are known or open, and the local engine.
//!
//! Order of locks: feeds, core, file, ledger; a file is locked behind what is held back as well. Nothing waits while it holds one, but for reads of the tables.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cairnfs_fuse::{self as fuse, Errno};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agree::{Consistency, Frail, Locks};
use super::checkpoint::Desk;
use super::clearing::Watches;
use super::cursor::Cursors;
use super::errno::{Step, Stop};
use super::feed::Shared;
use super::file::{FileCell, FileState, Locked, Totals};
use super::inode::{Inodes, Node};
use super::ledger::Keeper;
use super::locks::LockTable;
use super::policy::Policies;
use super::row_cache::RowCache;
use super::rows::VolumeRows;
use super::snapshots::Shelf;
use super::stat::{attr_of, fill};
use super::sync::Syncs;
use super::{VfsOptions, VolumeIdentity};
use crate::base::limits::DELTA_AHEAD_MAX_MS;
use crate::base::{BlockId, Clock, Entropy};
use crate::blocks::{Blocks, PutError};
use crate::content::ExtentMap;
use crate::namespace::{
    self, Changes, Edit, Hlc, HlcClock, Ino, Now, OpError, Stat, View, WriterId, time_of,
};
use crate::store::{Group, Seq, Volume, VolumeError};

/// How long the kernel may answer by itself: changes from elsewhere are announced to it.
pub(super) const TTL: Duration = Duration::from_secs(3600);

/// The namespace and who knows which file.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) inodes: Inodes,
    pub(super) cursors: Cursors,
    /// The last dot of the own feed.
    pub(super) seen: u64,
    /// The number of the next row of dropped contents.
    pub(super) next_dropped: u64,
    /// Dropped contents that somebody still reads.
    pub(super) held: BTreeSet<u64>,
}

/// See the module.
pub(super) struct Inner {
    pub(super) identity: VolumeIdentity,
    /// Which of its lives as a writer this device is in. Changed by who has the locks of feeds and core.
    incarnation: AtomicU64,
    /// Empty while nobody else may write.
    shared: OnceLock<Shared>,
    pub(super) blocks: Blocks,
    pub(super) volume: Volume,
    pub(super) options: VfsOptions,
    wall: Clock,
    pub(super) entropy: Entropy,
    clock: Mutex<HlcClock>,
    core: Mutex<Core>,
    pub(super) row_cache: RowCache,
    pub(super) totals: Totals,
    pub(super) syncs: Syncs,
    /// The number of the next piece of raw data in the journal.
    pub(super) next_kept: AtomicU64,
    /// Held while rows of blocks are read, changed and applied: when blocks were last placed.
    pub(super) ledger: Mutex<HashMap<BlockId, Instant>>,
    /// Files with changes, in the order in which they came.
    pub(super) queue: Mutex<VecDeque<Arc<FileCell>>>,
    /// There is something to seal.
    pub(super) sealing: Notify,
    /// Memory was given back, or it was found that there will be none.
    pub(super) relief: Notify,
    /// Contents were dropped.
    pub(super) dropping: Notify,
    /// Blocks being sealed and placed at once.
    pub(super) uploads: Arc<Semaphore>,
    /// Until then no block is placed: the last try failed.
    pub(super) pause: Mutex<Option<Instant>>,
    /// Why that failed, for who waits for it.
    pub(super) unplaced: Mutex<Option<PutError>>,
    /// The journal had no room when it was last asked for it.
    pub(super) is_journal_full: AtomicBool,
    /// Blocks being placed, and descriptions being written.
    pub(super) under_way: AtomicU64,
    /// Claims that the volume knows of, so that the store has to remember them no longer.
    pub(super) settled: Mutex<Vec<u64>>,
    /// Claims on blocks that others keep already.
    pub(super) surplus: Mutex<Vec<Keeper>>,
    /// Manifests read lately.
    pub(super) extent_map: ExtentMap,
    /// Blocks fetched ahead lately.
    pub(super) ahead: Mutex<VecDeque<BlockId>>,
    /// Whether any file may have an access control list.
    pub(super) acls: AtomicBool,
    /// Bytes of content that the pool still takes.
    pub(super) room_bytes: AtomicU64,
    /// Bytes of content in blocks, and of those in blocks that survive less than was promised.
    pub(super) stored: AtomicU64,
    pub(super) under_redundant: AtomicU64,
    /// Files that have a name, of all kinds. Changed by who holds the lock of the core.
    pub(super) files: AtomicU64,
    /// A moment that is later than all that may be used.
    pub(super) promised: AtomicU64,
    pub(super) checkpoints: Desk,
    pub(super) snapshots: Shelf,
    pub(super) frail: Frail,
    pub(super) locks: LockTable,
    /// Names of blocks that come while others ask about them.
    pub(super) watches: Watches,
    /// Where redundancy is set, and what is still to be stored anew for that.
    pub(super) policies: Policies,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Inner {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        identity: VolumeIdentity,
        incarnation: u64,
        shared: Option<Shared>,
        blocks: Blocks,
        volume: Volume,
        options: VfsOptions,
        wall: Clock,
        entropy: Entropy,
        next_kept: u64,
        next_dropped: u64,
        root_owner: (u32, u32),
    ) -> Result<Inner, namespace::StateError> {
        let writer = WriterId {
            peer: identity.peer,
            incarnation,
        };
        let row_cache = RowCache::new(u64::from_le_bytes(entropy.array()));
        let seen = {
            let rows = VolumeRows {
                volume: &volume,
                cache: &row_cache,
            };
            namespace::state::version(&rows)?.get(&writer)
        };
        let uploads = blocks.limits().upload_window_chunks;
        Ok(Inner {
            identity,
            incarnation: AtomicU64::new(incarnation),
            shared: shared.map_or_else(OnceLock::new, OnceLock::from),
            blocks,
            volume,
            options,
            wall,
            entropy,
            clock: Mutex::new(HlcClock::default()),
            core: Mutex::new(Core {
                inodes: Inodes::default(),
                cursors: Cursors::default(),
                seen,
                next_dropped,
                held: BTreeSet::new(),
            }),
            row_cache,
            totals: Totals::default(),
            syncs: Syncs::default(),
            next_kept: AtomicU64::new(next_kept),
            ledger: Mutex::new(HashMap::new()),
            queue: Mutex::new(VecDeque::new()),
            sealing: Notify::new(),
            relief: Notify::new(),
            dropping: Notify::new(),
            uploads: Arc::new(Semaphore::new(uploads)),
            pause: Mutex::new(None),
            unplaced: Mutex::new(None),
            is_journal_full: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            settled: Mutex::new(Vec::new()),
            surplus: Mutex::new(Vec::new()),
            extent_map: ExtentMap::default(),
            ahead: Mutex::new(VecDeque::new()),
            acls: AtomicBool::new(false),
            room_bytes: AtomicU64::new(u64::MAX),
            stored: AtomicU64::new(0),
            under_redundant: AtomicU64::new(0),
            files: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            checkpoints: Desk::new(root_owner),
            snapshots: Shelf::new(),
            frail: Frail::default(),
            locks: LockTable::default(),
            watches: Watches::default(),
            policies: Policies::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present moment: later than every one before.
    pub(super) fn now(&self) -> Now {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let hlc = clock.tick(self.wall.now_ms());
        Now {
            hlc,
            time: time_of(hlc),
        }
    }

    /// This device as a writer.
    pub(super) fn writer(&self) -> WriterId {
        WriterId {
            peer: self.identity.peer,
            incarnation: self.incarnation.load(Ordering::Acquire),
        }
    }

    /// It writes as another from now on, who has not written anything yet.
    pub(super) fn become_writer(&self, core: &mut Core, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Release);
        core.seen = 0;
    }

    pub(super) fn observe(&self, seen: Hlc) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.observe(seen);
    }

    /// By how many ms moments of this device are ahead of its clock, if that is more than others take.
    pub(super) fn dated_ahead_ms(&self) -> Option<u64> {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead_ms = clock.last().ms().saturating_sub(self.wall.now_ms());
        (ahead_ms > DELTA_AHEAD_MAX_MS).then_some(ahead_ms)
    }

    pub(super) fn lock<'a>(&'a self, cell: &'a FileCell) -> Locked<'a> {
        cell.lock(&self.totals)
    }

    /// Changes of rows were made that are no operation of this replica.
    pub(super) fn forget_rows(&self, changes: Changes) {
        self.watches.see(&changes);
        self.policies.see(&changes);
        self.row_cache.applied(changes, Vec::new());
    }

    /// What there is where others take part.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.shared.get()
    }

    /// From now on others may take part. False if they did already.
    pub(super) fn share(&self, shared: Shared) -> bool {
        self.shared.set(shared).is_ok()
    }

    /// Whether this device may only read the volume: it never might do more, or was revoked.
    pub(super) fn is_reader(&self) -> bool {
        let reads = |shared: &Shared| shared.share.read_only || shared.is_out();
        self.shared().is_some_and(reads)
    }

    /// Refuses what would change a file of whoever may only read, and all changes after a sync failed: what is
    /// taken then would be in memory only, and lost when the volume is opened again.
    pub(super) fn check_writer(&self) -> Step<()> {
        if self.is_reader() {
            return Err(Errno::EROFS.into());
        }
        match self.volume.takes_writes() {
            true => Ok(()),
            false => Err(Errno::EIO.into()),
        }
    }

    /// Milliseconds since 1970, by this machine's clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.wall.now_ms()
    }

    /// An operation on the namespace, carried out.
    pub(super) fn change<T>(
        &self,
        core: &mut Core,
        operation: impl FnOnce(&mut Edit<'_>) -> Result<T, OpError>,
    ) -> Step<(T, Now)> {
        let now = self.now();
        let edited = self.edit(core, now, operation)?;
        Ok((self.commit(core, edited)?, now))
    }

    /// Applies a group that says nothing of the namespace.
    pub(super) fn apply(&self, group: &Group) -> Result<Seq, VolumeError> {
        self.volume.apply(group)
    }

    /// A file of this identity, which nothing else has, is about to be made.
    pub(super) fn expect(&self, ino: Ino) {
        self.row_cache.born(ino);
    }

    pub(super) fn rows(&self) -> VolumeRows<'_> {
        VolumeRows {
            volume: &self.volume,
            cache: &self.row_cache,
        }
    }

    /// Looks at the tree. The caller holds the lock of the core.
    pub(super) fn view<T>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, namespace::StateError>,
    ) -> Step<T> {
        self.checkpoints.gate.check()?;
        self.look(look)
    }

    /// The same also while others may not, for who holds them off.
    pub(super) fn look<T>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, namespace::StateError>,
    ) -> Step<T> {
        let rows = self.rows();
        let view = View::new(&rows)?;
        Ok(look(&view)?)
    }

    /// Everything about a file; `ENOENT` if it is gone.
    pub(super) fn stat(&self, core: &mut Core, number: u64, ino: Ino) -> Step<Arc<Stat>> {
        if let Some(stat) = core.inodes.stat(number) {
            return Ok(stat);
        }
        let found = self.view(|view| view.stat_ino(ino))?;
        let stat = Arc::new(found.ok_or(Errno::ENOENT)?);
        core.inodes.keep_stat(number, Arc::clone(&stat));
        Ok(stat)
    }

    /// Attributes of a known file.
    pub(super) fn attr(&self, core: &mut Core, number: u64) -> Step<fuse::Attr> {
        let node = core.node(number)?;
        let (ino, file) = (node.ino, node.file.clone());
        if let Some(orphan) = &node.orphan {
            let mut attr = attr_of(number, &orphan.stat);
            attr.nlink = 0;
            if let Some(file) = file {
                fill(&mut attr, &self.lock(&file));
            }
            return Ok(attr);
        }
        let stat = self.stat(core, number, ino)?;
        let mut attr = attr_of(number, &stat);
        if let Some(file) = file {
            fill(&mut attr, &self.lock(&file));
        }
        Ok(attr)
    }

    /// How long the kernel may answer by itself. Where programs rely on seeing at once what others did, it is not
    /// enough that it hears of it a moment later.
    pub(super) fn ttl(&self) -> Duration {
        let is_strict = self.options.consistency == Consistency::CloseToOpen
            || self.options.locks == Locks::Cluster;
        match is_strict {
            true => Duration::ZERO,
            false => TTL,
        }
    }

    pub(super) fn attr_reply(&self, core: &mut Core, number: u64) -> Step<fuse::AttrReply> {
        let attr = self.attr(core, number)?;
        Ok(fuse::AttrReply {
            attr,
            ttl: self.ttl(),
        })
    }

    /// Tells the kernel of a file once more.
    pub(super) fn hand_out(&self, core: &mut Core, ino: Ino) -> Step<fuse::Entry> {
        let (number, node) = core.inodes.node(ino);
        node.lookups += 1;
        match self.attr(core, number) {
            Ok(attr) => Ok(fuse::Entry {
                attr,
                attr_ttl: self.ttl(),
                entry_ttl: self.ttl(),
            }),
            Err(stop) => {
                self.forget_in(core, number, 1);
                Err(stop)
            }
        }
    }

    pub(super) fn forget_in(&self, core: &mut Core, number: u64, count: u64) {
        if let Some(node) = core.inodes.get_mut(number) {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.reap(core, number);
    }

    /// The content of a regular file, kept in memory from now on until it is closed and clean.
    pub(super) fn file(&self, core: &mut Core, number: u64) -> Step<Arc<FileCell>> {
        let node = core.node(number)?;
        if let Some(file) = &node.file {
            return Ok(Arc::clone(file));
        }
        let (ino, is_orphan) = (node.ino, node.orphan.is_some());
        let stat = match &node.orphan {
            Some(orphan) => Arc::new(orphan.stat.clone()),
            None => self.stat(core, number, ino)?,
        };
        let content = match (&stat.content, stat.node.kind()) {
            (Some(content), _) => content,
            (None, namespace::Kind::Directory) => return Err(Errno::EISDIR.into()),
            (None, _) => return Err(Errno::EINVAL.into()),
        };
        let mut state = FileState::of(content, stat.mtime);
        state.is_orphan = is_orphan;
        let cell = Arc::new(FileCell::new(number, ino, state));
        if let Some(node) = core.inodes.get_mut(number) {
            node.file = Some(Arc::clone(&cell));
        }
        Ok(cell)
    }

    /// Lets go of a file that is closed and has no changes, and of what nobody knows any more.
    pub(super) fn reap(&self, core: &mut Core, number: u64) {
        let Some(node) = core.inodes.get(number) else {
            return;
        };
        let is_unused = node.opens == 0;
        let is_gone = node.orphan.is_some() && is_unused && node.lookups == 0;
        if let (Some(file), true) = (&node.file, is_unused) {
            let mut state = self.lock(file);
            let is_busy = state.is_publishing || state.flying > 0;
            if !is_gone && (state.is_changed || is_busy) {
                return;
            }
            if is_gone {
                // Nothing of it is wanted any more, whatever is under way.
                self.discard(file, &mut state);
            }
            drop(state);
            if let Some(node) = core.inodes.get_mut(number) {
                node.file = None;
            }
        }
        if let Some(node) = core.inodes.reap(number)
            && let Some(orphan) = node.orphan
        {
            self.drop_orphan(core, &orphan);
        }
    }

    /// Waits until the volume takes more changes.
    pub(super) async fn room(&self) -> Result<(), Errno> {
        self.checkpoints.gate.pass().await;
        match self.volume.room().await {
            Ok(()) => Ok(()),
            Err(error) => match Stop::from(error) {
                Stop::Errno(errno) => Err(errno),
                Stop::Busy => Ok(()),
            },
        }
    }

    /// A file has changes: it is looked after from now on.
    pub(super) fn queue(&self, cell: &Arc<FileCell>, state: &mut FileState) {
        if !state.is_queued {
            state.is_queued = true;
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back(Arc::clone(cell));
        }
    }

    /// Whether so many more bytes have no room in the pool.
    pub(super) fn has_no_room(&self, more: u64) -> bool {
        let waiting = self.totals.dirty.load(Ordering::Relaxed);
        waiting.saturating_add(more) > self.room_bytes.load(Ordering::Relaxed)
    }
}

impl Core {
    /// The first dot of the next operation.
    pub(super) const fn next_dot(&self) -> u64 {
        self.seen + 1
    }

    /// A file that the kernel knows.
    pub(super) fn node(&mut self, number: u64) -> Result<&mut Node, Errno> {
        if number == fuse::Ino::ROOT.0 {
            return Ok(self.inodes.node(Ino::ROOT).1);
        }
        self.inodes.get_mut(number).ok_or(Errno::ESTALE)
    }

    /// The directory of a number, for what is done in it: one that was removed has no entries.
    pub(super) fn dir(&mut self, number: u64) -> Result<Ino, Errno> {
        let node = self.node(number)?;
        match node.orphan {
            Some(_) => Err(Errno::ENOENT),
            None => Ok(node.ino),
        }
    }

    /// Something about these files changed.
    pub(super) fn changed(&mut self, files: &[Ino]) {
        for ino in files {
            self.inodes.drop_stat(*ino);
        }
    }
}
