//! Placing blocks, and what comes of it: files are read from them from then on, and described in the namespace
//! once nothing of them is left elsewhere.

use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use cairnfs_fuse::Errno;
use tokio::time::{Duration, Instant};

use super::VfsError;
use super::agree::losses;
use super::claim_row::{self, CLAIMS};
use super::errno::{Step, Stop, of_class};
use super::file::{Base, FileCell, FileState, Head};
use super::inner::{Core, Inner};
use super::ledger::{Born, Deltas, Keeper};
use super::notes::{REMOVALS_PER_GROUP, encode_head};
use super::read::ReadError;
use super::remove::{Gone, drop_body};
use super::rows::{BASES, HEADS};
use crate::base::{Class, Classify, EcProfile};
use crate::blocks::{PutError, UploadOptions};
use crate::content::overlay::{KeptId, Part, Piece, Source};
use crate::dag::{self, Extent};
use crate::namespace::{Body, Now, Stamp};
use crate::store::{DirtyId, Group};

/// A file that was left alone for so long is described with the arrival of its last block.
const LEFT_ALONE: Duration = Duration::from_millis(375);
/// Pause after a block could not be placed.
const PAUSE: Duration = Duration::from_secs(3);
/// A file that was left alone and is not larger than this stays in its row of the namespace.
const ROW_BYTES: u64 = 256;
/// The same where others see it as soon as its row does: what fits into one value of the tables.
const SHARED_ROW_BYTES: u64 = 12 << 10;

/// Bytes that become one block.
pub(super) struct Plan {
    pub(super) parts: Vec<(Arc<FileCell>, Piece)>,
    pub(super) len: u64,
    /// The redundancy of all these files.
    pub(super) profile: EcProfile,
}

/// Why a block was not placed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Put(#[from] PutError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Classify for SealError {
    fn class(&self) -> Class {
        match self {
            SealError::Put(error) => error.class(),
            SealError::Read(error) => error.class(),
        }
    }
}

impl Inner {
    /// Places a block, or gives its parts back.
    pub(super) async fn carry(self: &Arc<Self>, plan: Plan) {
        let Ok(permit) = Arc::clone(&self.uploads).acquire_owned().await else {
            return;
        };
        if self.is_pausing() || self.stop.is_cancelled() {
            return self.give_back(&plan);
        }
        let (plan, bytes) = self.assemble(plan).await;
        if plan.parts.is_empty() {
            drop(permit);
            self.relief.notify_waiters();
            return;
        }
        match self.place(bytes, plan.profile).await {
            Ok(born) => {
                // It is written down where everybody else's changes are.
                if self.room().await.is_err() {
                    self.take_a_break();
                }
                self.landed(plan, &born);
            }
            Err(error) => {
                self.give_back(&plan);
                self.failed(&error);
            }
        }
        drop(permit);
        self.relief.notify_waiters();
        self.sealing.notify_one();
    }

    fn failed(&self, error: &SealError) {
        if self.stop.is_cancelled() {
            return;
        }
        tracing::warn!("a block was not placed, it is tried again: {error}");
        self.take_a_break();
    }

    /// The pause is over: somebody waits.
    pub(super) fn try_again(&self) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.unplaced() = None;
    }

    fn unplaced(&self) -> MutexGuard<'_, Option<PutError>> {
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What whoever waits for a block gets during a pause.
    pub(super) fn pause_errno(&self) -> Errno {
        let unplaced = self.unplaced();
        let class = unplaced.as_ref().map(Classify::class);
        class.map_or(Errno::ENOSPC, of_class)
    }

    /// Why not everything is in the pool, as far as it is known.
    pub(super) fn unsynced(&self, errno: Errno) -> VfsError {
        match self.unplaced().clone() {
            Some(error) => VfsError::Unplaced(error),
            None => VfsError::Unsynced(errno),
        }
    }

    /// Nothing is placed for a while.
    pub(super) fn take_a_break(&self) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = Some(Instant::now() + PAUSE);
    }

    /// The bytes of a block, without those that cannot be read: these are given back, and the others wait for them no
    /// longer.
    async fn assemble(&self, plan: Plan) -> (Plan, Bytes) {
        if let [(_, piece)] = plan.parts.as_slice()
            && let Some(bytes) = piece.bytes()
        {
            return (plan, bytes);
        }
        let mut all = BytesMut::with_capacity(plan.len as usize);
        let mut parts = Vec::with_capacity(plan.parts.len());
        for (file, piece) in plan.parts {
            let read = match (&piece.source, piece.bytes()) {
                (_, Some(bytes)) => Ok(bytes),
                (Source::Journal { id, at }, None) => {
                    self.kept(DirtyId(id.0), *at, piece.len as u32).await
                }
                _ => Ok(Bytes::new()),
            };
            match read {
                Ok(bytes) => {
                    all.extend_from_slice(&bytes);
                    parts.push((file, piece));
                }
                Err(error) => self.leave_out(&file, &piece, &error),
            }
        }
        let (len, profile) = (all.len() as u64, plan.profile);
        let plan = Plan {
            parts,
            len,
            profile,
        };
        (plan, all.freeze())
    }

    /// A piece of a file cannot be read: the file is left alone for a while.
    fn leave_out(&self, file: &FileCell, piece: &Piece, error: &ReadError) {
        let mut state = self.lock(file);
        land(&mut state, piece);
        let now = Instant::now();
        state.dirty_since.get_or_insert(now);
        // What was overwritten meanwhile is not in the journal any more.
        if error.class() != Class::Missing {
            state.unread_until = Some(now + PAUSE);
            tracing::warn!("a part of a changed file cannot be read, it is tried again: {error}");
        }
    }

    /// Seals, codes and places one block, durably.
    pub(super) async fn place(&self, bytes: Bytes, profile: EcProfile) -> Result<Born, SealError> {
        let placed = self.upload(bytes, profile).await;
        if let Err(error) = &placed {
            *self.unplaced() = Some(error.clone());
        }
        Ok(placed?)
    }

    async fn upload(&self, bytes: Bytes, profile: EcProfile) -> Result<Born, PutError> {
        let options = UploadOptions {
            profile,
            secret: self.block_secret(),
            survive: None,
            owner: self.identity.owner,
        };
        let upload = self.blocks.upload(options).await?;
        let number = upload.claim().number;
        let block = upload.submit(bytes).await?.await?;
        // Until the volume knows of the claim, the store does: so a crash between leaves nothing behind.
        let told = upload.placed().await;
        let key = self.claim_key(number);
        let noted = claim_row::encode(block.id, &told);
        let row = (CLAIMS.to_owned(), key, Some(noted));
        let report = upload.finish(vec![row]).await?;
        Ok(Born {
            block,
            profile,
            survives: report.survives as u32,
            keeper: Keeper {
                number,
                peers: report.told,
            },
        })
    }

    pub(super) fn claim_key(&self, number: u64) -> Vec<u8> {
        [&self.identity.id.0[..], &number.to_be_bytes()].concat()
    }

    /// Takes a block into the books, not in use yet.
    pub(super) fn adopt(&self, born: &Born) -> Step<()> {
        let is_safe = born.survives as usize >= losses(born.profile);
        self.frail.placed(born.block.id, is_safe);
        if self.is_kept_enough(born)? {
            self.surplus
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(born.keeper.clone());
            return Ok(());
        }
        let mut group = Group::new();
        group.cleanup();
        self.apply_counted(&mut group, &Deltas::default(), std::slice::from_ref(born))?;
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.push(born.keeper.number);
        Ok(())
    }

    /// A block was placed: its files are read from it from now on.
    fn landed(self: &Arc<Self>, plan: Plan, born: &Born) {
        if let Err(stop) = self.adopt(born) {
            tracing::warn!(
                ?stop,
                "a block is placed anew: the volume takes no writes now"
            );
            if !matches!(stop, Stop::Busy) {
                self.take_a_break();
            }
            return self.give_back(&plan);
        }
        let mut at = 0;
        for (file, piece) in plan.parts {
            let source = Source::Block {
                block: born.block,
                at,
            };
            at += piece.len as u32;
            let mut core = self.core();
            let mut state = self.lock(&file);
            let before: Vec<Piece> = state.overlay.within(piece.offset, piece.end()).collect();
            land(&mut state, &piece);
            state.overlay.exchange(&piece, &source);
            if state.is_sealed() {
                state.dirty_since = None;
            }
            let is_left_alone = !state.is_orphan
                && state.is_sealed()
                && state.flying == 0
                && (state.is_handed_over || state.changed_at.elapsed() >= LEFT_ALONE);
            let written = match is_left_alone {
                true => self.publish_extents(&mut core, &file, &mut state),
                false => Ok(false),
            };
            let noted = match written {
                Ok(true) => Ok(()),
                Ok(false) => self.note_range(&file, &mut state, piece.offset, piece.end()),
                Err(stop) => Err(stop),
            };
            if let Err(stop) = noted {
                // Nothing on the disk says that the block is in use: it is not relied on.
                take_back(&mut state, &Piece { source, ..piece }, before);
                state.dirty_since.get_or_insert_with(Instant::now);
                tracing::debug!(?stop, "a part of a file is sealed again later");
            }
            drop(state);
            self.catch_up(&core, &file);
            self.reap(&mut core, file.number);
        }
    }

    fn give_back(&self, plan: &Plan) {
        for (file, piece) in &plan.parts {
            let core = self.core();
            let mut state = self.lock(file);
            land(&mut state, piece);
            state.dirty_since.get_or_insert_with(Instant::now);
            drop(state);
            self.catch_up(&core, file);
        }
    }

    /// Writes a file that is small enough into its row.
    pub(super) fn publish_small(&self, file: &Arc<FileCell>) -> Step<()> {
        let mut core = self.core();
        let mut state = self.lock(file);
        if self.is_small(&state) {
            self.publish_bytes(&mut core, file, &mut state)?;
        }
        drop(state);
        self.reap(&mut core, file.number);
        Ok(())
    }

    /// Whether a file can be written into its row as it is.
    pub(super) fn is_small(&self, state: &FileState) -> bool {
        let limit = match self.is_shared() && state.is_handed_over {
            true => SHARED_ROW_BYTES,
            false => ROW_BYTES,
        };
        let is_quiet = state.flying == 0 && !state.is_publishing;
        is_quiet && !state.is_orphan && fits_in_row(state, limit)
    }

    /// Writes a [small](Inner::is_small) file into its row.
    pub(super) fn publish_bytes(
        &self,
        core: &mut Core,
        file: &Arc<FileCell>,
        state: &mut FileState,
    ) -> Step<()> {
        let mut bytes = Vec::new();
        for piece in state.overlay.pieces() {
            bytes.resize(piece.offset as usize, 0);
            match piece.bytes() {
                Some(part) => bytes.extend_from_slice(&part),
                None => bytes.resize(piece.end() as usize, 0),
            }
        }
        bytes.truncate(state.size() as usize);
        let body = Body::Inline(bytes.into());
        self.publish(core, file, state, body, Deltas::default(), None)
    }

    /// Writes a file into the namespace whose extents are few. False if it needs a manifest.
    fn publish_extents(
        &self,
        core: &mut Core,
        file: &Arc<FileCell>,
        state: &mut FileState,
    ) -> Step<bool> {
        if state.is_publishing {
            return Ok(false);
        }
        let Some((old, new)) = plain_extents(state) else {
            return Ok(false);
        };
        let mut deltas = Deltas::default();
        deltas.extents(&old, -1);
        deltas.extents(&new, 1);
        let body = match new.is_empty() {
            true => Body::EMPTY,
            false => Body::Stored(self.profile_of_file(state), dag::Body::Inline(new)),
        };
        self.publish(core, file, state, body, deltas, None)?;
        Ok(true)
    }

    /// The namespace gets a file's content, all of it; nothing of it is changed any more. What is `gone` of the
    /// old one is let go, besides what `deltas` say.
    pub(super) fn publish(
        &self,
        core: &mut Core,
        file: &Arc<FileCell>,
        state: &mut FileState,
        body: Body,
        mut deltas: Deltas,
        gone: Option<&Gone>,
    ) -> Step<()> {
        let (size, mtime) = (state.head.size, state.head.mtime);
        let now = Now {
            hlc: state.head.edited,
            time: mtime,
        };
        let base = Base::of(&body);
        let ino = file.ino;
        let origin = state.origin.clone();
        let mut edited = self.edit(core, now, |edit| {
            edit.edit_content(ino, (&origin.edits, &origin.home), size, mtime, body)
        })?;
        let affected = self.affected_besides(&mut edited)?;
        if state.has_base_row {
            edited.group.remove(BASES, &ino.0);
        }
        let (head, is_noted) = (state.head, state.notes.head.is_some());
        let notes = state.notes.clone();
        let is_long = notes.pieces.len() + notes.users.len() > REMOVALS_PER_GROUP
            || deltas.union_len(&notes) > self.blocks_per_group();
        if let Some(gone) = gone {
            drop_body(core, gone, &mut edited.group);
        }
        let after = Head {
            base_end: size,
            ..head
        };
        if is_noted && is_long {
            // Too much for one group: until the pieces are forgotten they lie over a content that says the same.
            edited.group.put(HEADS, &ino.0, &encode_head(&after));
        } else if is_noted {
            self.forget_notes(file, state, &mut edited.group, &mut deltas);
        }
        if let Err(stop) = self.commit_counted(core, edited, &deltas) {
            state.notes = notes;
            return Err(stop);
        }
        if gone.is_some() {
            self.dropped_one(core);
        }
        state.notes = Default::default();
        state.has_base_row = false;
        state.origin.edited_at(Stamp {
            hlc: now.hlc,
            writer: self.writer(),
        });
        state.base = base;
        state.lifted = None;
        state.base_size = size;
        state.head = after;
        state.overlay.reset();
        state.profile = None;
        state.described = state.overlay.begin_generation();
        state.is_changed = false;
        state.dirty_since = None;
        core.changed(&[ino]);
        self.after_edit(core, file, state, affected);
        if state.is_behind
            && !state.is_busy()
            && let Err(stop) = self.show_merged(core, file, state)
        {
            tracing::debug!(?stop, "an open file shows later what others wrote");
        }
        let mut notes = notes;
        if is_noted
            && is_long
            && let Err(error) = self.forget_file(ino, &mut notes)
        {
            tracing::debug!("changes that are described are forgotten later: {error}");
            notes.head = Some(after);
            state.notes = notes;
            // As a change does: what is described next replaces it as a whole.
            state.lift();
            state.is_changed = true;
            self.queue(file, state);
        }
        Ok(())
    }

    /// Claims that equal data made and nobody needs: the block has others.
    pub(super) async fn release_surplus(&self) {
        let surplus = {
            let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *surplus)
        };
        for keeper in surplus {
            let number = keeper.number;
            let released = self
                .blocks
                .release(self.identity.owner, number, keeper.peers);
            if let Err(error) = released.await {
                // It is looked for at the next opening.
                tracing::debug!("a claim stays: {error}");
                continue;
            }
            let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            settled.push(number);
        }
    }

    /// The store need not remember claims that the volume has in its books, durably.
    pub(super) async fn settle_claims(&self) {
        let numbers = {
            let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *settled)
        };
        if numbers.is_empty() || self.volume.sync_all().await.is_err() {
            return;
        }
        for part in numbers.chunks(256) {
            let rows = part
                .iter()
                .map(|number| (CLAIMS.to_owned(), self.claim_key(*number), None));
            if let Err(error) = self.blocks.store().kv_put(rows.collect()).await {
                // They are looked through at the next opening.
                tracing::debug!("claims stay noted: {error}");
            }
        }
    }
}

/// A file that is as a whole in memory, and not larger than `limit`.
fn fits_in_row(state: &FileState, limit: u64) -> bool {
    state.is_changed
        && state.size() <= limit
        && (matches!(state.base, Base::Inline(_)) && state.head.base_end == 0)
        && state
            .overlay
            .pieces()
            .all(|piece| matches!(piece.source, Source::Memory { .. } | Source::Hole))
}

/// Extents of the old content and of the new one, if both are few.
fn plain_extents(state: &FileState) -> Option<(Vec<Extent>, Vec<Extent>)> {
    let old = match &state.base {
        Base::Inline(bytes) if bytes.is_empty() => Vec::new(),
        Base::Inline(_) | Base::Stored(_, dag::Body::Manifest(_)) => return None,
        Base::Stored(_, dag::Body::Inline(extents)) => extents.clone(),
    };
    if state.overlay.len() > 4 * dag::file::INLINE_EXTENTS_MAX {
        return None;
    }
    let mut new: Vec<Extent> = Vec::new();
    for part in state.overlay.parts(0, state.size()) {
        match part {
            Part::Piece(piece) => match piece.source {
                Source::Block { block, at } => push_extent(
                    &mut new,
                    Extent {
                        offset: piece.offset,
                        len: piece.len as u32,
                        block,
                        block_offset: at,
                    },
                ),
                Source::Hole => {}
                Source::Memory { .. } | Source::Journal { .. } => return None,
            },
            Part::Old(range) => {
                let end = range.end.min(state.head.base_end);
                for extent in old.iter().filter_map(|e| e.clip(range.start, end)) {
                    push_extent(&mut new, extent);
                }
            }
        }
    }
    (new.len() <= dag::file::INLINE_EXTENTS_MAX).then_some((old, new))
}

/// Adds an extent, as a part of the last one where it goes on there.
pub(super) fn push_extent(all: &mut Vec<Extent>, next: Extent) {
    if let Some(last) = all.last_mut()
        && last.end() == next.offset
        && last.block.id == next.block.id
        && last.block_offset + last.len == next.block_offset
    {
        last.len += next.len;
        return;
    }
    all.push(next);
}

/// What was `placed` is what it was `before`. A part of that may be in the journal by now: then the raw data was
/// released in the same group, and the block is relied on where the bytes are nowhere else.
fn take_back(state: &mut FileState, placed: &Piece, before: Vec<Piece>) {
    let is_kept = |state: &FileState, id: &KeptId| state.notes.users.contains_key(id);
    for part in before {
        let source = match part.source {
            Source::Memory {
                buffer,
                at,
                kept: Some((id, _)),
            } if !is_kept(state, &id) => Source::Memory {
                buffer,
                at,
                kept: None,
            },
            Source::Journal { id, .. } if !is_kept(state, &id) => continue,
            source => source,
        };
        if let Some(placed) = placed.clip(part.offset, part.offset + part.len) {
            state.overlay.exchange(&placed, &source);
        }
    }
}

/// A piece is not being sealed any more.
fn land(state: &mut FileState, piece: &Piece) {
    state.flying = state.flying.saturating_sub(1);
    state.overlay.ground(piece);
}

impl From<SealError> for Stop {
    fn from(error: SealError) -> Stop {
        Stop::Errno(of_class(error.class()))
    }
}
