//! Locks that hold between machines: a table for the programs of this one, and one lock of this machine for each
//! file that any of them has locked.
//!
//! Who loses the lock of a machine, because it could not be renewed, may not go on writing: what was open then is
//! closed to writing until it is opened again.

mod table;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairnfs_fuse::{
    self as fuse, Caller, Errno, Fh, LockKind, LockRange, LockRequest, NewNode, OpenFlags, Opened,
};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep, timeout};

use self::table::{Ranges, mode_of};
use super::agree::LockError;
use super::errno::Stop;
use super::inner::Inner;
use crate::feeds::{LockMode, LockName};
use crate::namespace::Ino;

/// How long somebody waits for a lock: less than the kernel's question may take.
const WAIT: Duration = Duration::from_secs(570);
/// How long one who does not wait does so for voters that have just begun, or do not answer at once.
const BEGINNING: Duration = Duration::from_secs(15);
const REACHING: Duration = Duration::from_secs(3);
/// How long the name of a file that is made alone is waited for.
const NAME: Duration = Duration::from_secs(20);
/// How often what cannot be given back yet is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often local holders are looked at, should a wake-up have been missed.
const LOOK: Duration = Duration::from_millis(250);
/// How long closing or unlocking waits until the others may have the lock; it goes on in the background.
const LEAVING: Duration = Duration::from_secs(20);
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

/// All locks of the programs of this machine.
#[derive(Debug)]
pub(super) struct LockTable {
    files: Mutex<BTreeMap<u64, FileLocks>>,
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

    /// Counts files that are locked or closed to writing. The caller has neither list locked.
    fn recount(&self) {
        let count = guard(&self.files).len() + guard(&self.fences).len();
        self.busy.store(count, Ordering::Release);
    }

    fn conflict(&self, number: u64, owner: u64, range: &LockRange) -> Option<LockRange> {
        let files = guard(&self.files);
        files.get(&number)?.ranges.conflict(owner, range)
    }

    /// What was open until now is closed to writing: the lock was lost.
    fn fence(&self, number: u64) {
        let below = self.next_handle.load(Ordering::Relaxed);
        guard(&self.fences).insert(number, below);
        self.recount();
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
        let is_fenced = |below: &u64| fh.0 < *below;
        if guard(&self.locks.fences)
            .get(&number)
            .is_some_and(is_fenced)
        {
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
        let Some(file) = files.get_mut(&number) else {
            return;
        };
        if file.had.is_none_or(|(_, had)| had != grant) {
            return;
        }
        file.ranges.clear();
        file.had = None;
        files.remove(&number);
        drop(files);
        self.locks.fence(number);
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
            return self
                .unlock(number, |ranges| ranges.set(lock.owner, lock.range))
                .await;
        }
        // Whoever lost a lock begins anew with an opening of its own.
        let is_fenced = |below: &u64| lock.fh.0 < *below;
        if guard(&self.locks.fences)
            .get(&number)
            .is_some_and(is_fenced)
        {
            return Err(Errno::EIO);
        }
        let name = file_name(self.ino_of(number)?);
        let began = Instant::now();
        loop {
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
            let error = match self.try_set(number, name, &lock, began).await {
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

    /// Tries once, where no program of this machine stands in the way. False if one does by now.
    async fn try_set(
        self: &Arc<Self>,
        number: u64,
        name: LockName,
        lock: &LockRequest,
        began: Instant,
    ) -> Result<bool, LockError> {
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
                if let Some((_, before)) = had.filter(|(_, before)| *before != grant) {
                    // It was lost in between, and others may have had it.
                    self.lost(number, before);
                }
                now_had = Some((needed, grant));
                // What others wrote may have come while something of this file was on its way.
                if !self.refresh(number).await && had.is_none() {
                    others.unlock(name).await;
                    return Err(LockError::Behind);
                }
            }
        }
        {
            let mut files = guard(&self.locks.files);
            let file = files.entry(number).or_insert_with(|| FileLocks {
                name,
                ranges: Ranges::default(),
                had: None,
            });
            file.had = now_had;
            if file.ranges.conflict(lock.owner, &lock.range).is_some() {
                return Ok(false);
            }
            if file.ranges.set(lock.owner, lock.range).is_err() {
                return Err(LockError::TooMany);
            }
        }
        self.locks.recount();
        Ok(true)
    }

    /// Gives locks of this machine's programs back; the last one gives back that of the machine.
    async fn unlock(
        self: &Arc<Self>,
        number: u64,
        change: impl FnOnce(&mut Ranges) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let is_last = {
            let mut files = guard(&self.locks.files);
            let Some(file) = files.get_mut(&number) else {
                return Ok(());
            };
            change(&mut file.ranges)?;
            file.ranges.is_empty()
        };
        self.locks.changed.notify_waiters();
        if is_last {
            let inner = Arc::clone(self);
            // It goes on also if nobody waits for it any more.
            let left = self
                .tasks
                .spawn(async move { inner.leave_file(number).await });
            let _ = timeout(LEAVING, left).await;
        }
        Ok(())
    }

    /// All locks of one owner on a file are given back.
    pub(super) async fn unlock_owner(self: &Arc<Self>, number: u64, owner: u64) {
        if self.locks.busy.load(Ordering::Acquire) == 0 {
            return;
        }
        let dropped = self.unlock(number, |ranges| {
            // Nothing to be told if it had none.
            match ranges.drop_owner(owner) {
                true => Ok(()),
                false => Err(Errno::EINVAL),
            }
        });
        let _ = dropped.await;
    }

    /// Nobody has a file open any more, unless somebody has opened it anew since.
    pub(super) async fn unlock_all(self: &Arc<Self>, number: u64) {
        if self.locks.busy.load(Ordering::Acquire) == 0 {
            return;
        }
        {
            // Whoever opens it waits for this, and has no lock before.
            let core = self.core();
            if core.inodes.get(number).is_some_and(|node| node.opens > 0) {
                return;
            }
            guard(&self.locks.fences).remove(&number);
            if let Some(file) = guard(&self.locks.files).get_mut(&number) {
                file.ranges.clear();
            }
        }
        self.locks.recount();
        // What was locked before is given back, what is locked since is not touched.
        let _ = self.unlock(number, |_| Ok(())).await;
    }

    /// Gives the lock of this machine on a file back once what was done under it is in the feed.
    async fn leave_file(self: Arc<Self>, number: u64) {
        let Some(name) = guard(&self.locks.files).get(&number).map(|file| file.name) else {
            return;
        };
        loop {
            let turn = self.locks.turn(name).await;
            let is_wanted = {
                let mut files = guard(&self.locks.files);
                match files.get(&number) {
                    Some(file) if !file.ranges.is_empty() => true,
                    Some(file) if file.had.is_none() => {
                        files.remove(&number);
                        true
                    }
                    Some(_) => false,
                    None => true,
                }
            };
            if is_wanted || self.stop.is_cancelled() {
                break;
            }
            let file = {
                let mut core = self.core();
                core.node(number).ok().and_then(|node| node.file.clone())
            };
            let settled = match &file {
                Some(file) => self.settle_now(file).await,
                None => self.feed_now().await.map(|_| true),
            };
            match settled {
                Ok(true) => {
                    if let Some(others) = self.agreement() {
                        others.unlock(name).await;
                    }
                    guard(&self.locks.files).remove(&number);
                    break;
                }
                // Somebody here goes on writing to it without a lock.
                Ok(false) => {}
                Err(errno) => tracing::warn!(
                    "the volume `{}`: a lock is kept until what was written under it can be told: {errno}",
                    self.options.name
                ),
            }
            drop(turn);
            sleep(AGAIN).await;
        }
        self.locks.recount();
    }

    /// The lock that stands in the way of another.
    pub(super) async fn get_lock(self: Arc<Self>, lock: LockRequest) -> Result<LockRange, Errno> {
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

    /// Makes a file that must not be there, on any machine.
    pub(super) async fn create_alone(
        self: Arc<Self>,
        caller: Caller,
        parent: u64,
        name: Vec<u8>,
        node: NewNode,
        flags: OpenFlags,
    ) -> Result<(fuse::Entry, Opened), Errno> {
        let dir = self.core().dir(parent)?;
        let lock = entry_name(dir, &name);
        let Some(others) = self.agreement() else {
            return self.create_now(&caller, parent, &name, &node, flags).await;
        };
        let began = Instant::now();
        let _turn = self.locks.turn(lock).await;
        loop {
            if self.has_name(dir, &name)? {
                return Err(Errno::EEXIST);
            }
            match others
                .lock(lock, LockMode::Exclusive, Some(began.elapsed()))
                .await
            {
                Ok(_) => break,
                Err(error) => {
                    if began.elapsed() >= NAME {
                        return Err(Errno::ENOLCK);
                    }
                    match error {
                        // Whoever has it is making the file; one turn of the clock decides.
                        LockError::Taken | LockError::Deadlock => self.pause_between(began).await,
                        error => self.after_refusal(error, false, began).await?,
                    }
                }
            }
        }
        let made = self.create_now(&caller, parent, &name, &node, flags).await;
        let told = match &made {
            // Whoever has the name next knows of the file first.
            Ok(_) => self.feed_now().await.map(drop),
            Err(_) => Ok(()),
        };
        let is_known = others.unlock(lock).await;
        match (made, told) {
            (Ok(made), Ok(())) if is_known => Ok(made),
            (Ok((entry, opened)), _) => {
                // Another machine may make it as well by now: this one did not.
                let name = fuse::Name::new(&name);
                if let Err(stop) = self.unlink(&caller, parent, name) {
                    tracing::warn!(?stop, "a file that was not made alone stays");
                }
                let number = entry.attr.ino.0;
                let _ = opened;
                self.release(number);
                self.forget_in(&mut self.core(), number, 1);
                Err(Errno::EIO)
            }
            (Err(errno), _) => Err(errno),
        }
    }

    fn has_name(&self, dir: Ino, name: &[u8]) -> Result<bool, Errno> {
        let _core = self.core();
        match self.find(dir, fuse::Name::new(name)) {
            Ok(found) => Ok(found.is_some()),
            Err(Stop::Errno(errno)) => Err(errno),
            Err(Stop::Busy) => Ok(false),
        }
    }

    async fn create_now(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        node: &NewNode,
        flags: OpenFlags,
    ) -> Result<(fuse::Entry, Opened), Errno> {
        loop {
            match self.create(caller, parent, fuse::Name::new(name), node, flags) {
                Ok(made) => return Ok(made),
                Err(Stop::Errno(errno)) => return Err(errno),
                Err(Stop::Busy) => self.room().await?,
            }
        }
    }
}
