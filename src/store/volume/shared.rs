//! What the handle, the readers and the writer of one open volume have in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::error::VolumeError;
use super::group::{Group, Seq};
use super::overlay::{Pending, State, View};
use super::rows::Tables;
use crate::base::VolumeId;
use crate::store::database::{DatabaseError, Snapshot};
use crate::store::disk::Disk;
use crate::store::frame::ChecksumKey;
use crate::store::quota::{Ledger, Tier};
use crate::store::ring::Ring;

/// What a changed row may take in the tables besides its bytes: a part of a page, and copies of pages.
const ROW_COST: u64 = 160;
/// How often a look-up opens the tables anew before it gives up: others may meet damage at the same time.
const LOOKS_MAX: usize = 8;

/// How a volume's engine behaves.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// Changes are durable after so long without being asked for.
    pub commit_interval: Duration,
    /// Bytes of journal that may wait to be written.
    pub unwritten_bytes: usize,
    /// A new segment of the journal is begun after so many bytes.
    pub segment_bytes: u32,
    /// The tables are brought up to date after so many changed rows ...
    pub flush_rows: usize,
    /// ... or after so many bytes of changes ...
    pub flush_bytes: usize,
    /// ... or after so many bytes of journal: what an opening after a crash has to read ...
    pub flush_tail_bytes: u64,
    /// ... or when nothing was written for so long.
    pub flush_idle: Duration,
    /// Memory that the tables may use as a cache.
    pub cache_bytes: usize,
    /// Bytes of dirty data that are carried forward at once.
    pub carry_bytes: u64,
    /// Whether opening passes over damage in the middle of the journal instead of refusing.
    pub is_salvage: bool,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        VolumeOptions {
            commit_interval: Duration::from_secs(1),
            unwritten_bytes: 32 << 20,
            segment_bytes: 32 << 20,
            flush_rows: 32 << 10,
            flush_bytes: 16 << 20,
            flush_tail_bytes: 64 << 20,
            flush_idle: Duration::from_secs(5),
            cache_bytes: 24 << 20,
            carry_bytes: 8 << 20,
            is_salvage: false,
        }
    }
}

/// What opening found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeReport {
    /// Groups that the tables did not have yet.
    pub replayed_groups: u64,
    /// Bytes of journal that were read for that.
    pub replayed_bytes: u64,
    /// Bytes of an unfinished write that were cut off. None of it was ever synced.
    pub cut_bytes: u64,
    /// Damaged regions of the journal that were passed over (only with `is_salvage`).
    pub damaged_regions: u64,
    /// The last group that is there.
    pub last: Seq,
}

/// What a volume occupies, and what waits. Bytes, unless named otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    /// The last group that was applied.
    pub applied: Seq,
    /// The last group that is durable.
    pub synced: Seq,
    /// Changed rows that are not in the tables yet (number).
    pub waiting_rows: u64,
    /// Of journal that wait to be written.
    pub unwritten: u64,
    /// Dirty data that is kept.
    pub dirty: u64,
    /// Pieces of it (number).
    pub dirty_count: u64,
    /// The journal on the disk.
    pub journal: u64,
    /// The tables on the disk.
    pub tables: u64,
    /// Whether writes are refused until it is reopened.
    pub poisoned: bool,
}

/// What the writer tells those who wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// The last group that is durable.
    pub(super) synced: Seq,
    /// How often the disk had no room for the journal.
    pub(super) fulls: u64,
    /// How often it had none for the tables.
    pub(super) stalls: u64,
    /// How often the tables were brought up to date.
    pub(super) flushes: u64,
    /// Whether there will be none any more.
    pub(super) is_over: bool,
}

/// What is asked of the writer.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Make this group durable.
    pub(super) sync: AtomicU64,
    /// Bring the tables up to date.
    pub(super) flush: AtomicBool,
    pub(super) close: AtomicBool,
}

/// Shared by everything that belongs to one open volume.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: VolumeId,
    pub(super) identity: [u8; 16],
    pub(super) key: ChecksumKey,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) ledger: Ledger,
    /// Makes way for what is written here.
    pub(super) ring: Arc<Ring>,
    pub(super) options: VolumeOptions,
    state: RwLock<State>,
    /// Held for reading while a snapshot is read, for writing while the tables are opened anew.
    tables: RwLock<Option<Tables>>,
    /// Counts how often they were opened anew.
    generation: AtomicU64,
    pub(super) closed: AtomicBool,
    pub(super) wishes: Wishes,
    pub(super) wake: Notify,
    /// Whether the writer looks after what waits, by a time, without being woken.
    pub(super) is_armed: AtomicBool,
    pub(super) progress: Arc<watch::Sender<Progress>>,
    pub(super) journal_bytes: AtomicU64,
    pub(super) tables_bytes: AtomicU64,
    poison: Mutex<Option<String>>,
    is_poisoned: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        id: VolumeId,
        identity: [u8; 16],
        disk: Arc<dyn Disk>,
        ledger: Ledger,
        ring: Arc<Ring>,
        options: VolumeOptions,
    ) -> Self {
        Shared {
            id,
            identity,
            key: super::group::checksum_key(&identity),
            disk,
            ledger,
            ring,
            options,
            state: RwLock::default(),
            tables: RwLock::default(),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            wishes: Wishes::default(),
            wake: Notify::new(),
            is_armed: AtomicBool::new(false),
            progress: Arc::new(watch::Sender::new(Progress::default())),
            journal_bytes: AtomicU64::new(0),
            tables_bytes: AtomicU64::new(0),
            poison: Mutex::default(),
            is_poisoned: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tables(&self) -> RwLockReadGuard<'_, Option<Tables>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tables_mut(&self) -> RwLockWriteGuard<'_, Option<Tables>> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses writes from now on.
    pub(super) fn poison(&self, why: String) {
        tracing::error!(volume = %self.id, why, "the volume takes no more writes");
        let mut poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        poison.get_or_insert(why);
        drop(poison);
        self.is_poisoned.store(true, Ordering::Release);
        self.progress.send_modify(|_| {});
    }

    /// Whether writes are refused: cheap enough to be asked at each of them.
    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    /// Why writes are refused, if they are.
    pub(super) fn poisoned(&self) -> Option<VolumeError> {
        if !self.is_poisoned() {
            return None;
        }
        let poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        poison.clone().map(VolumeError::Poisoned)
    }

    /// Whether writes are accepted.
    pub(super) fn check_open(&self) -> Result<(), VolumeError> {
        if self.wishes.close.load(Ordering::Acquire) {
            return Err(VolumeError::Closed);
        }
        self.poisoned().map_or(Ok(()), Err)
    }

    /// Takes a group: visible from now on, durable later.
    pub(super) fn apply(&self, group: &Group) -> Result<Seq, VolumeError> {
        group.checked()?;
        self.check_open()?;
        let cost = group.journal_cost();
        let in_tables = 2 * group.encoded.len() as u64 + ROW_COST * group.rows.len() as u64;
        let needed = cost as u64 + in_tables;
        let reserved = match group.is_cleanup {
            true => {
                let reserved = self.ledger.reserve(Tier::Cleanup, needed);
                reserved.or_else(|_| self.ledger.reserve(Tier::Free, needed))
            }
            false => self.ledger.reserve(Tier::Data, needed),
        };
        let mut journal = reserved.map_err(|free_bytes| VolumeError::Full { free_bytes })?;
        let tables = journal.split(in_tables);
        let changes = Bytes::copy_from_slice(&group.encoded);
        let mut state = self.state_mut();
        // Again, under the lock: the writer looks for the last groups after it was told to end.
        if self.wishes.close.load(Ordering::Acquire) {
            return Err(VolumeError::Closed);
        }
        check_dirty(&state, group)?;
        if !self.takes(&state, group.rows.len(), group.encoded.len(), cost) {
            return Err(VolumeError::Busy);
        }
        let half = self.options.unwritten_bytes / 2;
        let (is_first, was_little) = (state.pending.is_empty(), state.unwritten <= half);
        let seq = state.apply(group, changes, journal, tables);
        let is_much = self.flush_is_due(&state) || (was_little && state.unwritten > half);
        drop(state);
        if is_much || is_first && !self.is_armed.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
        Ok(seq)
    }

    /// Whether so much more may wait. What is alone is always taken.
    fn takes(&self, state: &State, rows: usize, bytes: usize, cost: usize) -> bool {
        let options = &self.options;
        let fits = |waiting: usize, more: usize, limit: usize| {
            waiting == 0 || waiting.saturating_add(more) <= limit
        };
        fits(state.unwritten, cost, options.unwritten_bytes)
            && fits(state.waiting_rows(), rows, 4 * options.flush_rows)
            && fits(state.waiting_bytes(), bytes, 4 * options.flush_bytes)
    }

    /// Whether there is room for more than a little.
    pub(super) fn has_room(&self) -> bool {
        let options = &self.options;
        let state = self.state();
        state.unwritten <= options.unwritten_bytes / 2
            && state.waiting_rows() <= 3 * options.flush_rows
            && state.waiting_bytes() <= 3 * options.flush_bytes
    }

    fn flush_is_due(&self, state: &State) -> bool {
        state.old.is_none()
            && (state.young.rows.len() >= self.options.flush_rows
                || state.young.bytes >= self.options.flush_bytes)
    }

    /// Whether the writer should write now, and whether the tables should be brought up to date.
    pub(super) fn needs(&self) -> (bool, bool) {
        let state = self.state();
        let synced = self.progress.borrow().synced;
        let is_asked = self.wishes.sync.load(Ordering::Acquire) > synced.0;
        let is_much = state.unwritten > self.options.unwritten_bytes / 2;
        let commit = !state.pending.is_empty() && (is_asked || is_much);
        let flush = self.flush_is_due(&state) || self.wishes.flush.load(Ordering::Acquire);
        (commit, flush)
    }

    /// Everything that waits to be written, in order. With `freeze`, its rows are set apart in the same
    /// moment.
    pub(super) fn take(&self, freeze: bool) -> Vec<Pending> {
        let mut state = self.state_mut();
        if freeze {
            state.freeze();
        }
        std::mem::take(&mut state.pending)
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    pub(super) fn full(&self) -> VolumeError {
        VolumeError::Full {
            free_bytes: self.ledger.left(Tier::Data),
        }
    }

    /// How often the tables were opened anew. It stays as long as [`Shared::tables`] is held.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Opens the tables anew if a write to them failed, or if they are closed because that failed before.
    /// Answers their generation.
    pub(super) fn mend_tables(&self) -> Result<u64, DatabaseError> {
        let generation = self.generation.load(Ordering::Acquire);
        let is_fine = self
            .tables()
            .as_ref()
            .is_some_and(|tables| !tables.has_failed());
        if !is_fine {
            self.reopen_tables(generation)?;
        }
        Ok(self.generation.load(Ordering::Acquire))
    }

    /// Opens the tables anew, unless that was done since there was this generation of them. Waits for
    /// readers, and for a flush that is under way.
    pub(super) fn reopen_tables(&self, generation: u64) -> Result<(), DatabaseError> {
        let mut tables = self.tables_mut();
        if self.generation.load(Ordering::Acquire) != generation || self.is_over() {
            return Ok(());
        }
        // Two must not write one file. Those whose write failed write no more, and stay for readers if there
        // is no room for new ones either.
        if !tables.as_ref().is_some_and(Tables::has_failed) {
            self.state_mut().snapshot = None;
            *tables = None;
        }
        let opened = Tables::open(self.disk.as_ref(), self.id, self.options.cache_bytes, false)?;
        self.state_mut().snapshot = Some(Arc::new(opened.snapshot()?));
        *tables = Some(opened);
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether it was closed.
    pub(super) fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Reads from the tables. Where they met an error before, they are opened anew, so that damage costs
    /// only what it hits.
    pub(super) fn look<T>(
        &self,
        view: impl Fn(&State) -> View,
        answer: impl Fn(View, &Snapshot) -> Result<T, DatabaseError>,
    ) -> Result<T, VolumeError> {
        for _ in 0..LOOKS_MAX {
            let generation = self.generation.load(Ordering::Acquire);
            {
                let _open = self.tables();
                let mut view = view(&self.state());
                if let Some(snapshot) = view.snapshot.take() {
                    match answer(view, &snapshot) {
                        Err(DatabaseError::Stale) => {}
                        other => return other.map_err(VolumeError::database(self.id)),
                    }
                } else if self.is_over() {
                    return Err(VolumeError::Closed);
                }
            }
            self.reopen_tables(generation)
                .map_err(VolumeError::database(self.id))?;
        }
        Err(VolumeError::database(self.id)(DatabaseError::Stale))
    }

    /// Counts what the volume occupies.
    pub(super) fn count(&self, journal: u64) {
        if let Some(tables) = &*self.tables()
            && let Ok(bytes) = tables.allocated()
        {
            self.tables_bytes.store(bytes, Ordering::Relaxed);
        }
        self.journal_bytes.store(journal, Ordering::Relaxed);
        let tables = self.tables_bytes.load(Ordering::Relaxed);
        self.ledger.set_volume(self.id, journal + tables);
        if let Ok(free) = self.disk.free_bytes() {
            self.ledger.set_disk_free(free);
        }
    }
}

fn check_dirty(state: &State, group: &Group) -> Result<(), VolumeError> {
    let mut seen = std::collections::BTreeSet::new();
    for (id, _) in &group.added {
        if state.dirty.contains_key(id) || !seen.insert(*id) {
            return Err(VolumeError::DirtyExists(*id));
        }
    }
    for id in &group.released {
        if !state.dirty.contains_key(id) || !seen.insert(*id) {
            return Err(VolumeError::DirtyUnknown(*id));
        }
    }
    Ok(())
}
