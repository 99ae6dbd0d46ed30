//! Locks that hold between machines: a table for the programs of this one, and one lock of this machine for each
//! file that any of them has locked.
//!
//! Who loses the lock of a machine, because it could not be renewed, may not go on writing: what was open then is
//! closed to writing until it is opened again.

mod alone;
mod leave;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairnfs_fuse::{Errno, Fh, LockKind, LockRange, LockRequest};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout};

use self::table::{Ranges, mode_of};
use super::agree::LockError;
use super::inner::Inner;
use crate::feeds::{LockMode, LockName};
use crate::namespace::Ino;

/// How long somebody waits for a lock: less than the kernel's question may take.
const WAIT: Duration = Duration::from_secs(570);
/// How long one who does not wait does so for voters that have just begun, or do not answer at once.
const BEGINNING: Duration = Duration::from_secs(15);
const REACHING: Duration = Duration::from_secs(3);
/// How often local holders are looked at, should a wake-up have been missed.
const LOOK: Duration = Duration::from_millis(250);
/// Locks of one remainder have their turn one after the other.
const TURNS: usize = 64;

/// One file that is locked.
#[derive(Debug)]
struct FileLocks {
    name: LockName,
    ranges: Ranges,
    /// How this machine has it, and since which grant.
    had: Option<(LockMode, u64)>,
}

/// All files that programs of this machine have locked.
type Files = BTreeMap<u64, FileLocks>;

/// All locks of the programs of this machine. Order: `files`, then `fences`.
#[derive(Debug)]
pub(super) struct LockTable {
    files: Mutex<Files>,
    /// Handles below this number may not write: they were open when a lock on their file was lost.
    fences: Mutex<BTreeMap<u64, u64>>,
    /// Files in either: mostly none.
    busy: AtomicUsize,
    next_handle: AtomicU64,
    changed: Notify,
    turns: Vec<tokio::sync::Mutex<()>>,
}

impl Default for LockTable {
    fn default() -> LockTable {
        LockTable {
            files: Mutex::default(),
            fences: Mutex::default(),
            busy: AtomicUsize::new(0),
            next_handle: AtomicU64::new(1),
            changed: Notify::new(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
        }
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hashed(what: &str, parts: &[&[u8]]) -> LockName {
    let mut hasher = blake3::Hasher::new_derive_key(what);
    for part in parts {
        hasher.update(part);
    }
    LockName(*hasher.finalize().as_bytes())
}

fn file_name(ino: Ino) -> LockName {
    hashed("cairn v1 lock: file", &[&ino.0])
}

fn entry_name(dir: Ino, name: &[u8]) -> LockName {
    hashed("cairn v1 lock: entry", &[&dir.0, name])
}

impl LockTable {
    /// A number for an opening.
    fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes its turn at a lock. Nobody who has one waits for another.
    async fn turn(&self, name: LockName) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let at = usize::from(name.0[0]) % TURNS;
        match self.turns.get(at) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Counts files that are locked or closed to writing, before anybody else may change what is.
    fn recount(&self, files: &Files) {
        let count = files.len() + guard(&self.fences).len();
        self.busy.store(count, Ordering::Release);
    }

    /// Whether a lock on a file was lost while a handle was open.
    fn is_fenced(&self, number: u64, fh: Fh) -> bool {
        let fences = guard(&self.fences);
        fences.get(&number).is_some_and(|below| fh.0 < *below)
    }

    fn conflict(&self, number: u64, owner: u64, range: &LockRange) -> Option<LockRange> {
        let files = guard(&self.files);
        files.get(&number)?.ranges.conflict(owner, range)
    }

    /// What was open until now is closed to writing: the lock was lost.
    fn fence(&self, number: u64) {
        let below = self.next_handle.load(Ordering::Relaxed);
        guard(&self.fences).insert(number, below);
    }
}

impl Inner {
    /// A handle for an opening of a file.
    pub(super) fn new_handle(&self, number: u64) -> Fh {
        match self.has_cluster_locks() {
            true => Fh(self.locks.handle()),
            false => Fh(number),
        }
    }

    fn ino_of(&self, number: u64) -> Result<Ino, Errno> {
        Ok(self.core().node(number)?.ino)
    }

    /// Whether a file may be written through a handle: not if a lock on it was lost while it was open.
    pub(super) fn may_write(&self, number: u64, fh: Fh) -> Result<(), Errno> {
        if self.locks.busy.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        if self.locks.is_fenced(number, fh) {
            return Err(Errno::EIO);
        }
        self.look_at_lock(number)
    }

    /// The same where the kernel does not say through which handle.
    pub(super) fn may_change(&self, number: u64, fh: Option<Fh>) -> Result<(), Errno> {
        match fh {
            Some(fh) => self.may_write(number, fh),
            None if self.locks.busy.load(Ordering::Acquire) == 0 => Ok(()),
            None => self.look_at_lock(number),
        }
    }

    /// Whether the lock that this machine has on a file still holds, if it has one.
    fn look_at_lock(&self, number: u64) -> Result<(), Errno> {
        let had = {
            let files = guard(&self.locks.files);
            let file = files.get(&number).filter(|file| !file.ranges.is_empty());
            file.and_then(|file| file.had.map(|(_, grant)| (file.name, grant)))
        };
        let (Some((name, grant)), Some(others)) = (had, self.agreement()) else {
            return Ok(());
        };
        if others.holds(name, grant) {
            return Ok(());
        }
        self.lost(number, grant);
        Err(Errno::EIO)
    }

    /// The lock of this machine on a file was lost.
    fn lost(&self, number: u64, grant: u64) {
        let mut files = guard(&self.locks.files);
        let had = files.get(&number).and_then(|file| file.had);
        if had.is_none_or(|(_, had)| had != grant) {
            return;
        }
        // First what was open is closed to writing: nobody writes who finds no lock.
        self.locks.fence(number);
        files.remove(&number);
        self.locks.recount(&files);
        drop(files);
        self.locks.changed.notify_waiters();
        tracing::error!(
            "the volume `{}`: a lock on a file was lost, because too few voters could be reached; what was open is closed to writing",
            self.options.name
        );
    }

    /// Takes or gives back a lock.
    pub(super) async fn set_lock(self: Arc<Self>, lock: LockRequest) -> Result<(), Errno> {
        let number = lock.ino.0;
        if lock.range.kind == LockKind::Unlock {
            return self.give_up(&lock).await;
        }
        let name = file_name(self.ino_of(number)?);
        let began = Instant::now();
        loop {
            // Whoever lost a lock begins anew with an opening of its own.
            if self.locks.is_fenced(number, lock.fh) {
                return Err(Errno::EIO);
            }
            let woken = self.locks.changed.notified();
            if self
                .locks
                .conflict(number, lock.owner, &lock.range)
                .is_some()
            {
                if !lock.waits {
                    return Err(Errno::EAGAIN);
                }
                if began.elapsed() >= WAIT || self.stop.is_cancelled() {
                    return Err(Errno::ENOLCK);
                }
                // Missing a wake-up costs a moment.
                let _ = timeout(LOOK, woken).await;
                continue;
            }
            let error = match self.try_to_end(name, lock, began).await {
                Ok(true) => return Ok(()),
                Ok(false) => continue,
                Err(error) => error,
            };
            self.after_refusal(error, lock.waits, began).await?;
        }
    }

    /// Whether it is worth another try to have a lock; waits a moment before it.
    async fn after_refusal(
        &self,
        error: LockError,
        waits: bool,
        began: Instant,
    ) -> Result<(), Errno> {
        let limit = match error {
            LockError::Taken if waits => WAIT,
            LockError::Taken => return Err(Errno::EAGAIN),
            LockError::Deadlock if waits => return Err(Errno::EDEADLK),
            LockError::Deadlock => return Err(Errno::EAGAIN),
            LockError::NotYet if waits => WAIT,
            LockError::NotYet => BEGINNING,
            LockError::NoMajority => REACHING,
            LockError::Behind | LockError::NoVoters | LockError::TooMany => Duration::ZERO,
        };
        if began.elapsed() < limit && !self.stop.is_cancelled() {
            self.pause_between(began).await;
            return Ok(());
        }
        let name = &self.options.name;
        tracing::warn!("the volume `{name}`: a lock was refused: {error}");
        Err(Errno::ENOLCK)
    }

    /// Tries once. It goes on to its end also if nobody waits for it any more, and is taken back then: a lock that was
    /// had half way would be renewed for ever.
    async fn try_to_end(
        self: &Arc<Self>,
        name: LockName,
        lock: LockRequest,
        began: Instant,
    ) -> Result<bool, LockError> {
        let (done, tried) = oneshot::channel();
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let tried = tokio::select! {
                biased;
                () = inner.stop.cancelled() => return,
                tried = inner.try_set(name, &lock, began) => tried,
            };
            let is_had = matches!(tried, Ok(true));
            if done.send(tried).is_err() && is_had {
                let _ = inner.give_up(&lock).await;
            }
        });
        tried.await.unwrap_or(Err(LockError::NoMajority))
    }

    /// Tries once, where no program of this machine stands in the way. False if one does by now, or if what was open is
    /// closed to writing.
    async fn try_set(
        self: &Arc<Self>,
        name: LockName,
        lock: &LockRequest,
        began: Instant,
    ) -> Result<bool, LockError> {
        let number = lock.ino.0;
        let _turn = self.locks.turn(name).await;
        let (needed, had) = {
            let files = guard(&self.locks.files);
            let file = files.get(&number);
            let others = file.and_then(|file| file.ranges.mode());
            (
                others
                    .max(mode_of(lock.range.kind))
                    .unwrap_or(LockMode::Exclusive),
                file.and_then(|file| file.had),
            )
        };
        let mut now_had = had;
        // Who is alone needs nobody's consent.
        if let Some(others) = self.agreement() {
            let is_enough =
                had.is_some_and(|(mode, grant)| mode >= needed && others.holds(name, grant));
            if !is_enough {
                let waited = lock.waits.then(|| began.elapsed());
                let grant = others.lock(name, needed, waited).await?;
                let lost = had.filter(|(_, before)| *before != grant);
                if let Some((_, before)) = lost {
                    // In between others may have had it: whoever relied on it is told.
                    self.lost(number, before);
                    others.unlock(name).await;
                    return Ok(false);
                }
                now_had = Some((needed, grant));
                // What others wrote may have come while something of this file was on its way.
                if !self.refresh(number).await && had.is_none() {
                    others.unlock(name).await;
                    return Err(LockError::Behind);
                }
            }
        }
        let mut files = guard(&self.locks.files);
        let file = files.entry(number).or_insert_with(|| FileLocks {
            name,
            ranges: Ranges::default(),
            had: None,
        });
        file.had = now_had;
        let is_free = file.ranges.conflict(lock.owner, &lock.range).is_none();
        let set = match is_free {
            true => file.ranges.set(lock.owner, lock.fh, lock.range),
            false => Ok(()),
        };
        self.locks.recount(&files);
        set.map_err(|_| LockError::TooMany)?;
        Ok(is_free)
    }

    /// The lock that stands in the way of another. It is looked for to the end also if nobody waits for it any more: that
    /// takes a lock for a moment.
    pub(super) async fn get_lock(self: Arc<Self>, lock: LockRequest) -> Result<LockRange, Errno> {
        let inner = Arc::clone(&self);
        let looked = self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = inner.stop.cancelled() => Err(Errno::EIO),
                found = inner.look_for_lock(lock) => found,
            }
        });
        looked.await.unwrap_or(Err(Errno::EIO))
    }

    async fn look_for_lock(&self, lock: LockRequest) -> Result<LockRange, Errno> {
        let number = lock.ino.0;
        let free = LockRange {
            kind: LockKind::Unlock,
            ..lock.range
        };
        if let Some(conflict) = self.locks.conflict(number, lock.owner, &lock.range) {
            return Ok(conflict);
        }
        let (Some(mode), Some(others)) = (mode_of(lock.range.kind), self.agreement()) else {
            return Ok(free);
        };
        let name = file_name(self.ino_of(number)?);
        let _turn = self.locks.turn(name).await;
        if guard(&self.locks.files).contains_key(&number) {
            // This machine has it; what others have of it is told when it is asked for.
            return Ok(free);
        }
        match others.lock(name, mode, None).await {
            Ok(_) => {
                others.unlock(name).await;
                Ok(free)
            }
            // On another machine: no process of this one.
            Err(LockError::Taken | LockError::Deadlock) => Ok(LockRange {
                start: 0,
                end: u64::MAX,
                kind: LockKind::Write,
                pid: 0,
            }),
            Err(_) => Err(Errno::ENOLCK),
        }
    }
}
