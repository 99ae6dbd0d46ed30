//! Background sealing: what was changed goes from memory and journal into blocks. Large runs go as soon as
//! there is enough for a block; small ones are packed together once they have been left alone for a while.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use cairnfs_fuse::Errno;
use tokio::time::{Duration, Instant};

use super::errno::Stop;
use super::file::{FileCell, FileState};
use super::inner::Inner;
use super::land::Plan;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::content::overlay::Piece;

/// A file is sealed when it was left alone for so long ...
const IDLE: Duration = Duration::from_millis(1500);
/// ... or when its oldest change is so old.
const AGE: Duration = Duration::from_secs(8);
/// How often changed files are looked through.
const TURN: Duration = Duration::from_millis(500);
/// Looking through changed files takes at most this part of the time, however many there are.
const TURN_SHARE: u32 = 20;
/// With so many pieces a file's description is written although more changes ...
const PIECES_MAX: usize = 64;
/// ... but not again for so long: it costs what it says.
const DESCRIBED: Duration = Duration::from_secs(5);

/// Counts what is under way.
struct UnderWay(Arc<Inner>);

impl UnderWay {
    fn begin(inner: &Arc<Inner>) -> UnderWay {
        inner.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(inner))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.relief.notify_waiters();
    }
}

/// What a turn has to look for.
#[derive(Clone, Copy)]
struct Turn {
    /// The journal is to be brought up to date.
    notes: bool,
}

impl Inner {
    /// Looks after changed files until the volume is closed.
    pub(super) async fn seal_always(self: Arc<Self>) {
        let mut next_note = Instant::now() + self.note_interval();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.sealing.notified() => {}
                () = tokio::time::sleep(TURN.min(self.note_interval())) => {}
            }
            let notes = Instant::now() >= next_note;
            if notes {
                next_note = Instant::now() + self.note_interval();
                self.look_at_room();
                if let Err(error) = self.promise_moments() {
                    tracing::debug!("the clock's promise is renewed later: {error}");
                }
            }
            let begun = Instant::now();
            self.turn(Turn { notes });
            let rest = begun.elapsed() * (TURN_SHARE - 1);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(rest.min(TURN)) => {}
            }
        }
    }

    /// Half of the commit interval: the engine takes the other half.
    fn note_interval(&self) -> Duration {
        (self.options.commit_interval / 2).max(Duration::from_millis(10))
    }

    pub(super) fn look_at_room(&self) {
        let room = self.statfs();
        let dirty = self.totals.dirty.load(Ordering::Relaxed);
        let bytes = room.blocks_available * u64::from(room.block_bytes);
        self.room_bytes.store(bytes + dirty, Ordering::Relaxed);
    }

    /// Seals everything that was written before, and waits until it is described in the namespace. What is
    /// written from now on is not waited for.
    pub(super) async fn seal_all(self: &Arc<Self>) -> Result<(), Errno> {
        self.try_again();
        let files = self.queued();
        self.await_described(files).await?;
        self.volume.sync_all().await.map_err(|_| Errno::EIO)?;
        self.publish_books(&self.look_through_books(None));
        Ok(())
    }

    /// The same of one file, which need not be on this disk afterwards.
    pub(super) async fn seal_file(self: &Arc<Self>, file: &Arc<FileCell>) -> Result<(), Errno> {
        {
            let state = self.lock(file);
            if !state.is_changed || state.is_orphan {
                return Ok(());
            }
        }
        self.try_again();
        self.await_described(vec![Arc::clone(file)]).await
    }

    async fn await_described(self: &Arc<Self>, files: Vec<Arc<FileCell>>) -> Result<(), Errno> {
        let mut awaited: Vec<(Arc<FileCell>, u64)> = files
            .into_iter()
            .map(|file| {
                let generation = self.lock(&file).overlay.begin_generation();
                (file, generation)
            })
            .collect();
        let mut turn = Turn { notes: true };
        loop {
            let relief = self.relief.notified();
            self.turn(turn);
            turn.notes = false;
            awaited.retain(|(file, generation)| !self.lock(file).is_described(*generation));
            if awaited.is_empty() {
                return Ok(());
            }
            if awaited.iter().any(|(file, _)| self.lock(file).is_unread()) {
                return Err(Errno::EIO);
            }
            let pause = *self.pause.lock().unwrap_or_else(PoisonError::into_inner);
            if pause.is_some_and(|until| until > Instant::now()) {
                return Err(self.pause_errno());
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Errno::EIO),
                () = relief => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }

    /// Waits until there is room for more in memory.
    pub(super) async fn wait_for_memory(&self) -> Result<(), Errno> {
        loop {
            let relief = self.relief.notified();
            if self.totals.memory.load(Ordering::Relaxed) <= self.options.dirty_max_bytes {
                return Ok(());
            }
            // Neither the pool nor the journal takes anything.
            if self.is_pausing() && self.is_journal_full.load(Ordering::Relaxed) {
                return Err(Errno::ENOSPC);
            }
            self.sealing.notify_one();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Errno::EIO),
                () = relief => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    pub(super) fn is_pausing(&self) -> bool {
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        pause.is_some_and(|until| until > Instant::now())
    }

    /// Files with changes.
    fn queued(&self) -> Vec<Arc<FileCell>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.iter().cloned().collect()
    }

    /// One look through all changed files.
    fn turn(self: &Arc<Self>, turn: Turn) {
        let files = self.queued();
        let is_pausing = self.is_pausing();
        let memory = self.totals.memory.load(Ordering::Relaxed);
        let is_tight = memory > self.options.dirty_max_bytes / 2;
        let (mut plans, mut packs) = (Vec::new(), BTreeMap::new());
        let (mut small, mut large) = (Vec::new(), Vec::new());
        let mut done = Vec::new();
        for file in files {
            // Only who has the core may look for the policy, and the core comes before the file.
            let profile = self.decide_profile(&file);
            let mut state = self.lock(&file);
            if !state.is_changed && state.flying == 0 && !state.is_publishing {
                state.is_queued = false;
                done.push(Arc::clone(&file));
                continue;
            }
            if turn.notes {
                self.note_now_or_later(&file, &mut state);
            }
            if state.is_orphan {
                if is_tight {
                    self.note_and_unload(&file, &mut state);
                }
                continue;
            }
            let is_awaited = state.is_awaited();
            let is_ripe = is_tight
                || state.is_handed_over && self.is_shared()
                || state.changed_at.elapsed() >= IDLE
                || state
                    .dirty_since
                    .is_some_and(|since| since.elapsed() >= AGE);
            let is_quiet = state.flying == 0 && !state.is_publishing;
            if is_pausing || state.is_unread() || profile.is_none() {
                if is_tight {
                    self.note_and_unload(&file, &mut state);
                }
                continue;
            }
            if (is_ripe || is_awaited) && is_quiet && self.is_small(&state) {
                small.push(Arc::clone(&file));
                continue;
            }
            let profile = self.profile_of_file(&state);
            for run in grounded_runs(&state) {
                let pack = packs.entry(profile).or_insert_with(|| Plan {
                    parts: Vec::new(),
                    len: 0,
                    profile,
                });
                take_run(&file, &mut state, run, is_ripe, &mut plans, pack);
            }
            if is_ripe {
                // What comes from now on has its own time.
                state.dirty_since = None;
            }
            let is_quiet = state.flying == 0 && !state.is_publishing;
            let is_long = || {
                let before = state.described_at;
                before.is_none_or(|at| at.elapsed() >= DESCRIBED)
                    && state.overlay.len() >= PIECES_MAX
                    && state.overlay.has_placed()
            };
            let is_worth = is_quiet && (is_ripe && state.is_sealed() || is_long());
            // A file that is written all the time never comes to rest.
            let is_due = is_awaited && !state.is_publishing && !state.overlay.has_old_dirty();
            if is_worth || is_due {
                large.push(Arc::clone(&file));
            }
        }
        plans.extend(packs.into_values().filter(|pack| !pack.parts.is_empty()));
        self.leave_queue(&done);
        for file in small {
            if let Err(stop) = self.publish_small(&file) {
                tracing::debug!(?stop, "a small file is written later");
            }
        }
        for file in large {
            self.publish_soon(file);
        }
        for plan in plans {
            let inner = Arc::clone(self);
            let under_way = UnderWay::begin(self);
            self.tasks.spawn(async move {
                inner.carry(plan).await;
                drop(under_way);
            });
        }
    }

    fn leave_queue(&self, done: &[Arc<FileCell>]) {
        if !done.is_empty() {
            // Whoever has a file locked may wait for the queue, so no file is looked at here. One that was
            // changed again meanwhile has come in a second time, and stays.
            let mut done: HashSet<*const FileCell> = done.iter().map(Arc::as_ptr).collect();
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.retain(|file| !done.remove(&Arc::as_ptr(file)));
        }
        let mut core = self.core();
        for file in done {
            self.reap(&mut core, file.number);
        }
    }

    /// The journal takes note, unless blocks are about to take the data: for half a commit interval that is awaited,
    /// or what is written in one go would be written twice.
    fn note_now_or_later(&self, file: &FileCell, state: &mut FileState) {
        let half = self.options.commit_interval / 2;
        let is_young = |since: Instant| since.elapsed() < half;
        if state.flying > 0 && state.unnoted_since.is_none_or(is_young) {
            return;
        }
        if let Err(stop) = self.note(file, state) {
            tracing::debug!(?stop, "changes are written down later");
        }
    }

    fn note_and_unload(&self, file: &FileCell, state: &mut FileState) {
        match self.note(file, state) {
            Ok(_) => {
                self.unload(state);
                self.is_journal_full.store(false, Ordering::Relaxed);
                self.relief.notify_waiters();
            }
            Err(stop) => {
                let is_full = matches!(stop, Stop::Errno(Errno::ENOSPC));
                self.is_journal_full.store(is_full, Ordering::Relaxed);
                tracing::debug!(?stop, "changes are written down later");
            }
        }
    }
}

/// Dirty pieces that follow one another in a file.
#[derive(Default)]
struct Run {
    pieces: VecDeque<Piece>,
    /// Whether somebody waits for a part of it.
    is_awaited: bool,
}

/// Dirty pieces that nobody seals yet.
fn grounded_runs(state: &FileState) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (piece, is_old) in state.overlay.grounded() {
        let last = runs.last().and_then(|run| run.pieces.back());
        if last.is_none_or(|last| last.end() != piece.offset) {
            runs.push(Run::default());
        }
        if let Some(run) = runs.last_mut() {
            run.is_awaited |= is_old;
            run.pieces.push_back(piece);
        }
    }
    runs
}

/// Takes whole blocks off a run, and what is left if it is ripe into the block of small pieces of its redundancy.
fn take_run(
    file: &Arc<FileCell>,
    state: &mut FileState,
    run: Run,
    is_ripe: bool,
    plans: &mut Vec<Plan>,
    pack: &mut Plan,
) {
    let profile = pack.profile;
    let chunk = CHUNK_MAX_BYTES as u64;
    let (mut run, is_ripe) = (run.pieces, is_ripe || run.is_awaited);
    let mut left: u64 = run.iter().map(|piece| piece.len).sum();
    let take = |len: u64, run: &mut VecDeque<Piece>, state: &mut FileState| {
        let (mut parts, mut taken) = (Vec::new(), 0);
        while taken < len {
            let Some(piece) = run.pop_front() else { break };
            let room = len - taken;
            let cut = piece.offset + room;
            if let Some(rest) = piece.clip(cut, u64::MAX) {
                run.push_front(rest);
            }
            if let Some(part) = piece.clip(0, cut) {
                taken += part.len;
                state.flying += 1;
                state.overlay.launch(&part);
                parts.push((Arc::clone(file), part));
            }
        }
        parts
    };
    while left >= chunk {
        let parts = take(chunk, &mut run, state);
        left -= chunk;
        plans.push(Plan {
            parts,
            len: chunk,
            profile,
        });
    }
    if left > 0 && is_ripe {
        if pack.len + left > chunk {
            plans.push(Plan {
                parts: std::mem::take(&mut pack.parts),
                len: std::mem::take(&mut pack.len),
                profile,
            });
        }
        pack.parts.extend(take(left, &mut run, state));
        pack.len += left;
    }
}
