//! Open files: reading where everything is in memory, writing, and holes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairnfs_fuse::{AllocMode, Caller, Data, Errno, OpenFlags, Opened, Whence, Write};

use super::errno::{Step, Stop};
use super::file::{Base, FileCell, SIZE_MAX};
use super::inner::{Core, Inner};
use super::read::ReadPlan;
use super::snapshots::is_snapshot;
use crate::base::limits::CHUNK_MAX_BYTES;
use crate::content::overlay::{Part, Source};
use crate::namespace::Now;

/// The end of a range that must lie within a file of any size.
pub(super) fn end_of(offset: u64, len: u64) -> Result<u64, Errno> {
    let end = offset.checked_add(len);
    end.filter(|end| *end <= SIZE_MAX).ok_or(Errno::EFBIG)
}

impl Inner {
    pub(super) fn open(&self, caller: &Caller, number: u64, flags: OpenFlags) -> Step<Opened> {
        let mut core = self.core();
        self.open_in(&mut core, caller, number, flags)
    }

    pub(super) fn open_in(
        &self,
        core: &mut Core,
        caller: &Caller,
        number: u64,
        flags: OpenFlags,
    ) -> Step<Opened> {
        let file = self.file(core, number)?;
        if flags.truncates() {
            self.resize(&file, 0, self.now())?;
            self.guard(core, number, !caller.is_privileged())?;
        }
        if let Some(node) = core.inodes.get_mut(number) {
            node.opens += 1;
        }
        Ok(Opened {
            fh: self.new_handle(number),
            keep_cache: true,
            direct_io: false,
            no_flush: !self.waits_at_close(flags),
            parallel_direct_writes: true,
        })
    }

    /// Whether that was the last one who had it open.
    pub(super) fn release(&self, number: u64) -> bool {
        let mut core = self.core();
        let (mut closed, mut is_last) = (None, false);
        if let Some(node) = core.inodes.get_mut(number) {
            node.opens = node.opens.saturating_sub(1);
            is_last = node.opens == 0;
            if node.opens == 0 && self.shared().is_some() {
                closed.clone_from(&node.file);
            }
        }
        if let Some(file) = closed {
            self.hand_over(&mut core, &file);
        }
        self.reap(&mut core, number);
        is_last
    }

    /// A changed file was closed: others are to see it soon.
    pub(super) fn hand_over(&self, core: &mut Core, file: &Arc<FileCell>) {
        let mut state = self.lock(file);
        if !state.is_changed || state.is_orphan {
            return;
        }
        state.is_handed_over = true;
        if !self.is_small(&state) {
            self.sealing.notify_one();
        } else if let Err(stop) = self.publish_bytes(core, file, &mut state) {
            tracing::debug!(?stop, "a small file is written later");
        }
    }

    /// The open file of a number.
    pub(super) fn opened(&self, number: u64) -> Result<Arc<FileCell>, Errno> {
        if is_snapshot(number) {
            return self.opened_of_snapshot(number);
        }
        let mut core = self.core();
        let node = core.node(number)?;
        node.file.clone().ok_or(Errno::EBADF)
    }

    /// What a read finds: the bytes, if all are in memory, else what has to be fetched.
    pub(super) fn read(
        &self,
        cell: &FileCell,
        offset: u64,
        len: u64,
    ) -> Result<Data, Box<ReadPlan>> {
        let mut state = self.lock(cell);
        let end = offset.saturating_add(len).min(state.size());
        if offset >= end {
            return Ok(Data::default());
        }
        let reading = state.reads.see(offset, end);
        let parts = state.overlay.parts(offset, end);
        let mut ready: Vec<Bytes> = Vec::with_capacity(parts.len());
        for part in &parts {
            match part {
                Part::Piece(piece) => match &piece.source {
                    Source::Memory { .. } => ready.extend(piece.bytes()),
                    Source::Hole => super::read::zeros(piece.len, &mut ready),
                    Source::Journal { .. } | Source::Block { .. } => break,
                },
                Part::Old(range) => {
                    let shown = state.base_range(range.start, range.end);
                    let upto = match (&state.base, shown) {
                        (_, None) => range.start,
                        (Base::Inline(bytes), Some((start, end))) => {
                            let end = end.min(bytes.len() as u64);
                            if start < end {
                                ready.push(bytes.slice(start as usize..end as usize));
                            }
                            end.max(start)
                        }
                        (Base::Stored(..), Some(_)) => break,
                    };
                    super::read::zeros(range.end - upto, &mut ready);
                }
            }
        }
        let found: usize = ready.iter().map(Bytes::len).sum();
        if found as u64 == end - offset {
            return Ok(match ready.len() {
                1 => Data::One(ready.pop().unwrap_or_default()),
                _ => Data::Many(ready),
            });
        }
        Err(Box::new(ReadPlan {
            offset,
            end,
            parts,
            base: state.base.clone(),
            base_end: state.head.base_end,
            profile: self.profile_of_file(&state),
            reading,
        }))
    }

    /// Writes into memory. `Stop::Busy` if there is too much of it already.
    pub(super) fn write(&self, number: u64, write: &Write<'_>) -> Step<u32> {
        self.check_writer()?;
        let len = write.bytes.len() as u64;
        end_of(write.offset, len)?;
        // The flags of what is open may have been changed since.
        if let Some(errno) = self
            .refuse_flags(write.flags)
            .filter(|_| !write.is_from_cache)
        {
            return Err(errno.into());
        }
        let cell = self.opened(number)?;
        if len == 0 {
            return Ok(0);
        }
        if self.has_no_room(len) {
            return Err(Errno::ENOSPC.into());
        }
        if self.totals.memory.load(Ordering::Relaxed) > self.options.dirty_max_bytes {
            self.sealing.notify_one();
            return Err(Stop::Busy);
        }
        let kill = write.kill_suidgid;
        let now = self.now();
        // The kernel takes the end from what it knew last: another machine may have written behind it since.
        let appends = write.flags.appends() && !write.is_from_cache && !write.flags.is_direct();
        let appends = appends && self.ttl().is_zero();
        if appends {
            // Before anything is written: what is tried again would be there twice.
            self.guard(&mut self.core(), number, kill)?;
        }
        let needs_guard = {
            let mut state = self.lock(&cell);
            let offset = match appends {
                true => state.size(),
                false => write.offset,
            };
            let end = end_of(offset, len)?;
            state.write(offset, write.bytes, now.time, now.hlc);
            self.queue(&cell, &mut state);
            debug_assert!(state.size() >= end);
            let needs_guard = !state.is_guarded || kill && !state.is_tamed;
            state.is_guarded = true;
            state.is_tamed |= kill;
            if state.overlay.memory_bytes() >= CHUNK_MAX_BYTES as u64 {
                self.sealing.notify_one();
            }
            needs_guard
        };
        if needs_guard {
            let mut core = self.core();
            if let Err(stop) = self.guard(&mut core, number, kill) {
                self.lock(&cell).unguard();
                if !appends {
                    return Err(stop);
                }
                tracing::debug!(?stop, "rights of a file are taken away with the next write");
            }
        }
        Ok(len as u32)
    }

    /// Takes away what a file that is changed must not keep, unless that was done since its attributes changed.
    pub(super) fn guard_once(&self, cell: &FileCell, kill: bool) -> Step<()> {
        let needs_guard = {
            let mut state = self.lock(cell);
            let needs_guard = !state.is_guarded || kill && !state.is_tamed;
            state.is_guarded = true;
            state.is_tamed |= kill;
            needs_guard
        };
        if needs_guard {
            let mut core = self.core();
            if let Err(stop) = self.guard(&mut core, cell.number, kill) {
                self.lock(cell).unguard();
                return Err(stop);
            }
        }
        Ok(())
    }

    pub(super) fn resize(&self, cell: &Arc<FileCell>, size: u64, now: Now) -> Step<()> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG.into());
        }
        self.check_writer()?;
        let mut state = self.lock(cell);
        state.resize(size, now.time, now.hlc);
        state.unguard();
        self.queue(cell, &mut state);
        Ok(())
    }

    pub(super) fn allocate(
        &self,
        caller: &Caller,
        number: u64,
        (at, len): (u64, u64),
        mode: AllocMode,
    ) -> Step<()> {
        if len == 0 {
            return Err(Errno::EINVAL.into());
        }
        self.check_writer()?;
        let end = end_of(at, len)?;
        let cell = self.opened(number)?;
        if mode != AllocMode::PunchHole && self.has_no_room(len) {
            return Err(Errno::ENOSPC.into());
        }
        self.guard_once(&cell, !caller.is_privileged())?;
        let now = self.now();
        let mut state = self.lock(&cell);
        if !matches!(mode, AllocMode::Allocate | AllocMode::AllocateKeepSize) {
            state.punch(at, end, now.time, now.hlc);
        }
        let size = match mode {
            AllocMode::Allocate | AllocMode::ZeroRange => end,
            _ => 0,
        };
        state.grow(size, now.time, now.hlc);
        self.queue(&cell, &mut state);
        Ok(())
    }

    /// Where the next data or hole begins, if no manifest has to be read.
    pub(super) fn seek(&self, cell: &FileCell, offset: u64, whence: Whence) -> Step<SeekAnswer> {
        let state = self.lock(cell);
        let size = state.size();
        if offset >= size {
            return Err(Errno::ENXIO.into());
        }
        let parts = state.overlay.parts(offset, size);
        Ok(SeekAnswer {
            size,
            parts,
            base: state.base.clone(),
            base_end: state.head.base_end,
            whence,
        })
    }
}

/// What is needed to find data and holes.
pub(super) struct SeekAnswer {
    pub(super) size: u64,
    pub(super) parts: Vec<Part>,
    pub(super) base: Base,
    pub(super) base_end: u64,
    pub(super) whence: Whence,
}
