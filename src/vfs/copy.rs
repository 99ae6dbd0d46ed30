//! Copies within the volume that do not pass through a program: extents are shared where they can be, bytes are
//! read and written where not.

use std::sync::Arc;

use cairnfs_fuse::kernel::is_late;
use cairnfs_fuse::{Caller, CopyRange, Errno};

use super::errno::{Step, Stop};
use super::file::{Base, FileCell};
use super::inner::Inner;
use super::io::end_of;
use crate::base::EcProfile;
use crate::content::overlay::{Part, Piece, Source};
use crate::dag::Body;

/// Most bytes that one request copies by reading and writing them.
const COPY_BYTES: u64 = 16 << 20;
/// Most bytes of which one request looks for extents below a manifest.
const SHARE_BYTES: u64 = 512 << 20;

/// What is copied, as it was when that was asked for.
struct Copied {
    parts: Vec<Part>,
    len: u64,
    base: Base,
    base_end: u64,
    /// The redundancy of blocks that are no part of the base.
    own: Option<EcProfile>,
}

impl Inner {
    /// Copies what needs no reading: pieces in memory, blocks and holes. None if something has to be read.
    pub(super) fn copy(&self, caller: &Caller, copy: &CopyRange) -> Step<Option<u64>> {
        self.check_writer()?;
        let (from, to) = (self.opened(copy.from.0.0)?, self.opened(copy.to.0.0)?);
        if Arc::ptr_eq(&from, &to) && copy.from_offset.abs_diff(copy.to_offset) < copy.len {
            let left = self.lock(&from).size().saturating_sub(copy.from_offset);
            if copy.from_offset.abs_diff(copy.to_offset) < copy.len.min(left) {
                return Err(Errno::EINVAL.into());
            }
        }
        let source = self.copied(&from, copy, copy.len);
        end_of(copy.to_offset, source.len)?;
        if source.len == 0 {
            return Ok(Some(0));
        }
        if self.has_no_room(source.len) {
            return Err(Errno::ENOSPC.into());
        }
        self.guard_once(&to, !caller.is_privileged())?;
        let Some(wanted) = self.decide_profile(&to) else {
            return Ok(None);
        };
        self.share_pieces(&to, copy, &source, wanted)
    }

    /// What there is to copy, at most so many bytes.
    fn copied(&self, from: &FileCell, copy: &CopyRange, most: u64) -> Copied {
        let state = self.lock(from);
        let left = state.size().saturating_sub(copy.from_offset);
        let len = copy.len.min(left).min(most);
        let end = copy.from_offset.saturating_add(len);
        Copied {
            parts: state.overlay.parts(copy.from_offset, end),
            len,
            base: state.base.clone(),
            base_end: state.head.base_end,
            own: state.profile,
        }
    }

    /// Puts pieces of one file into another. None if some cannot be had without being read.
    fn share_pieces(
        &self,
        to: &Arc<FileCell>,
        copy: &CopyRange,
        source: &Copied,
        wanted: EcProfile,
    ) -> Step<Option<u64>> {
        let (base, own) = (&source.base, (source.own, wanted));
        let Some(pieces) = copyable(&source.parts, base, source.base_end, own) else {
            return Ok(None);
        };
        let now = self.now();
        let mut state = self.lock(to);
        let before = state.undo();
        // Blocks were chosen by what was wanted then: somebody may have decided otherwise since.
        if self.profile_kept(&state).unwrap_or(wanted) != wanted {
            return Ok(None);
        }
        state.profile = Some(wanted);
        for piece in pieces {
            let offset = copy.to_offset + (piece.offset - copy.from_offset);
            match piece.bytes() {
                Some(bytes) => state.write(offset, &bytes, now.time, now.hlc),
                None => state.put(Piece { offset, ..piece }, now.time, now.hlc),
            }
        }
        self.queue(to, &mut state);
        // Blocks that another file names are in use from now on, whatever becomes of the first. In one group: what
        // is taken back must not be in the journal by half.
        let noted = match self.fits_one_group(&state) {
            true => self.note(to, &mut state).map(drop),
            false => Err(Stop::Busy),
        };
        if let Err(stop) = noted {
            // One of them was let go meanwhile, or the journal is full: nothing was copied.
            tracing::debug!(?stop, "a copy is made by reading");
            state.take_back(before);
            return Ok(None);
        }
        Ok(Some(source.len))
    }

    /// Copies what [`Inner::copy`] did not: part of it. Whoever wants more asks again, so nobody has to wait for one
    /// answer for as long as all of it takes.
    pub(super) async fn copy_later(
        self: Arc<Self>,
        caller: Caller,
        copy: CopyRange,
    ) -> Result<u64, Errno> {
        let (from, to) = (self.opened(copy.from.0.0)?, self.opened(copy.to.0.0)?);
        let kill = !caller.is_privileged();
        self.when_room(|inner| {
            inner.check_writer()?;
            inner.guard_once(&to, kill)
        })
        .await?;
        if let Some(done) = self.share_below(&from, &to, &copy).await {
            return Ok(done);
        }
        self.copy_bytes(&from, &to, &copy).await
    }

    /// Shares extents of a large file, which are found by reading its manifest. None if that cannot be done.
    async fn share_below(
        &self,
        from: &Arc<FileCell>,
        to: &Arc<FileCell>,
        copy: &CopyRange,
    ) -> Option<u64> {
        let mut source = self.copied(from, copy, SHARE_BYTES);
        let Base::Stored(profile, body @ Body::Manifest(_)) = &source.base else {
            return None;
        };
        let wanted = self.decide_profile(to).filter(|wanted| wanted == profile)?;
        // As many as one group of the journal can name, with what it may have to say of those that go.
        let mut room = self.blocks_per_group() / 2;
        let mut extents = Vec::new();
        // Where the first begins that has no room.
        let mut end = None;
        for part in &source.parts {
            match part {
                Part::Piece(piece) if room == 0 => end = Some(piece.offset),
                Part::Piece(_) => room -= 1,
                Part::Old(range) if range.start >= source.base_end => {}
                Part::Old(range) => {
                    let below = range.end.min(source.base_end);
                    let found = self.extents(*profile, body, range.start, below).await;
                    for extent in found.ok()? {
                        if room == 0 {
                            end = Some(extent.offset.max(range.start));
                            break;
                        }
                        room -= 1;
                        extents.push(extent);
                    }
                }
            }
            if end.is_some() {
                break;
            }
        }
        if let Some(end) = end {
            let len = end.checked_sub(copy.from_offset);
            source.len = len.filter(|len| *len > 0)?;
            source.parts = clipped(source.parts, end);
        }
        source.base = Base::Stored(*profile, Body::Inline(extents));
        // Its own changes first: those that are copied must go into one group.
        self.when_room(|inner| inner.note(to, &mut inner.lock(to)).map(drop))
            .await
            .ok()?;
        self.share_pieces(to, copy, &source, wanted).ok()?
    }

    /// Copies by reading and writing.
    async fn copy_bytes(
        self: &Arc<Self>,
        from: &Arc<FileCell>,
        to: &Arc<FileCell>,
        copy: &CopyRange,
    ) -> Result<u64, Errno> {
        let mut done = 0;
        // What the copy itself adds to a file is not copied once more.
        let left = self.lock(from).size().saturating_sub(copy.from_offset);
        let len = copy.len.min(left).min(COPY_BYTES);
        end_of(copy.to_offset, len)?;
        while done < len {
            let step = (len - done).min(1 << 20);
            let data = match self.read(from, copy.from_offset + done, step) {
                Ok(data) => data,
                Err(plan) => Arc::clone(self).fetch(Arc::clone(from), plan).await?,
            };
            if data.is_empty() {
                break;
            }
            if is_late() {
                return Err(Errno::EIO);
            }
            let bytes = data.to_vec();
            let now = self.now();
            {
                let mut state = self.lock(to);
                state.write(copy.to_offset + done, &bytes, now.time, now.hlc);
                self.queue(to, &mut state);
            }
            done += bytes.len() as u64;
            self.wait_for_memory().await?;
        }
        Ok(done)
    }
}

/// What of these parts lies before `end`.
fn clipped(parts: Vec<Part>, end: u64) -> Vec<Part> {
    let clip = |part: Part| match part {
        Part::Old(range) if range.start < end => Some(Part::Old(range.start..range.end.min(end))),
        Part::Old(_) => None,
        Part::Piece(piece) => piece.clip(0, end).map(Part::Piece),
    };
    parts.into_iter().filter_map(clip).collect()
}

/// What can be copied without being read: none if a part is in the journal only, or below a manifest, or its blocks
/// do not have the redundancy that is `wanted`. Blocks of changes have their `own`.
fn copyable(
    parts: &[Part],
    base: &Base,
    base_end: u64,
    (own, wanted): (Option<EcProfile>, EcProfile),
) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let hole = |start: u64, end: u64, pieces: &mut Vec<Piece>| {
        if start < end {
            pieces.push(Piece {
                offset: start,
                len: end - start,
                source: Source::Hole,
            });
        }
    };
    for part in parts {
        match part {
            Part::Piece(piece) if matches!(piece.source, Source::Journal { .. }) => {
                return None;
            }
            Part::Piece(piece)
                if matches!(piece.source, Source::Block { .. }) && own != Some(wanted) =>
            {
                return None;
            }
            Part::Piece(piece) => pieces.push(piece.clone()),
            Part::Old(range) => {
                let end = range.end.min(base_end).max(range.start);
                let mut at = range.start;
                match base {
                    _ if at == end => {}
                    Base::Stored(profile, Body::Inline(extents)) if *profile == wanted => {
                        for part in extents.iter().filter_map(|e| e.clip(range.start, end)) {
                            hole(at, part.offset, &mut pieces);
                            at = part.end();
                            pieces.push(Piece {
                                offset: part.offset,
                                len: part.len.into(),
                                source: Source::Block {
                                    block: part.block,
                                    at: part.block_offset,
                                },
                            });
                        }
                    }
                    _ => return None,
                }
                hole(at, range.end, &mut pieces);
            }
        }
    }
    Some(pieces)
}
