//! One regular file that is open or has changes: what the namespace says of its content, and what was
//! changed since.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::reads::Reads;
use crate::base::BlockRef;
use crate::base::EcProfile;
use crate::content::overlay::{KeptId, Overlay, Part, Piece, Source};
use crate::dag::{self, NodeAt, Timestamp};
use crate::namespace::{Body, Content, Hlc, Home, Ino, Stamp, VersionVector};

/// What a piece of a changed file takes in memory besides its bytes, at least, until it is in a block.
const PIECE_COST: u64 = 128;

/// Where files end: the kernel's offsets are signed.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;

/// The content that the namespace has.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// In its row.
    Inline(Bytes),
    /// In blocks.
    Stored(EcProfile, dag::Body<NodeAt>),
}

/// A piece as the journal has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) len: u64,
    pub(super) place: NotedPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotedPlace {
    Kept(KeptId, u32),
    Block(BlockRef, u32),
    Hole,
}

/// What the journal knows of a file's changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    /// The head that was written last.
    pub(super) head: Option<Head>,
    pub(super) pieces: BTreeMap<u64, Noted>,
    /// How many pieces use each piece of raw data.
    pub(super) users: HashMap<KeptId, u32>,
    /// What changed since: from here to there.
    pub(super) stale: Option<(u64, u64)>,
}

/// What changes besides bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) edited: Hlc,
    pub(super) base_end: u64,
}

/// Which content of the namespace a file's changes were made to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) edits: VersionVector,
    pub(super) edited: Stamp,
    pub(super) home: Home,
}

impl Origin {
    /// The namespace has a content with one more edit of this replica.
    pub(super) fn edited_at(&mut self, stamp: Stamp) {
        self.edits.raise(stamp.writer, stamp.hlc.0);
        self.edited = stamp;
    }
}

/// The state of a file's content.
#[derive(Debug)]
pub(super) struct FileState {
    pub(super) head: Head,
    pub(super) base: Base,
    pub(super) origin: Origin,
    /// The content that was brought into the overlay, of a file that had it in its row.
    pub(super) lifted: Option<Bytes>,
    /// Whether the journal has what the changes were made to.
    pub(super) has_base_row: bool,
    pub(super) overlay: Overlay,
    /// The redundancy of its blocks, once that was decided for what is changed; until all of it is described. All
    /// blocks of a content have one.
    pub(super) profile: Option<EcProfile>,
    /// Whether the namespace has another content.
    pub(super) is_changed: bool,
    /// Whether its last name is gone: nothing of it is written to the namespace any more.
    pub(super) is_orphan: bool,
    pub(super) notes: Notes,
    /// Whether who changed it has closed it since: others are to see it.
    pub(super) is_handed_over: bool,
    /// Whether the namespace got another content while something of this one was on its way.
    pub(super) is_behind: bool,
    /// How often it was changed, and how many of these changes others were made sure to have.
    pub(super) changes: u64,
    pub(super) shown: u64,
    /// When the oldest change was made that is in no block, nor on its way into one.
    pub(super) dirty_since: Option<Instant>,
    /// When the last change was made.
    pub(super) changed_at: Instant,
    /// How many pieces are being sealed.
    pub(super) flying: usize,
    /// All changes of earlier generations than this one are in the namespace.
    pub(super) described: u64,
    /// Bytes whose part of the description is to be written anew although nothing of them changed.
    pub(super) renew: Option<(u64, u64)>,
    /// Whether its description is being written.
    pub(super) is_publishing: bool,
    /// When that last began.
    pub(super) described_at: Option<Instant>,
    /// A part of it could not be read from the journal; until then that is not tried again.
    pub(super) unread_until: Option<Instant>,
    /// The least size since that began.
    pub(super) low_water: u64,
    /// Whether it waits in the queue of changed files.
    pub(super) is_queued: bool,
    /// Whether what a changed program must not keep was looked after since attributes changed.
    pub(super) is_guarded: bool,
    /// Whether setuid and setgid are gone since then.
    pub(super) is_tamed: bool,
    /// Size of the content that the namespace has.
    pub(super) base_size: u64,
    /// When the oldest change was made that the journal does not have.
    pub(super) unnoted_since: Option<Instant>,
    /// Where it was read.
    pub(super) reads: Reads,
}

/// What changes of all files together take in memory, and how many bytes of them are in no block.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) memory: AtomicU64,
    pub(super) dirty: AtomicU64,
}

impl Totals {
    /// Adds a file that has changes already.
    pub(super) fn begin_with(&self, state: &FileState) {
        let (memory, dirty) = state.weight();
        self.memory.fetch_add(memory, Ordering::Relaxed);
        self.dirty.fetch_add(dirty, Ordering::Relaxed);
    }
}

/// A file's content, shared by all who have it open.
#[derive(Debug)]
pub(super) struct FileCell {
    pub(super) number: u64,
    pub(super) ino: Ino,
    state: Mutex<FileState>,
}

/// A file's state while it is looked at; what changes meanwhile is added up afterwards.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, FileState>,
    totals: &'a Totals,
    before: (u64, u64),
}

impl Deref for Locked<'_> {
    type Target = FileState;
    fn deref(&self) -> &FileState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut FileState {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let adjust = |total: &AtomicU64, before: u64, after: u64| {
            if after >= before {
                total.fetch_add(after - before, Ordering::Relaxed);
            } else {
                total.fetch_sub(before - after, Ordering::Relaxed);
            }
        };
        let after = self.state.weight();
        adjust(&self.totals.memory, self.before.0, after.0);
        adjust(&self.totals.dirty, self.before.1, after.1);
    }
}

impl FileCell {
    pub(super) fn new(number: u64, ino: Ino, state: FileState) -> FileCell {
        FileCell {
            number,
            ino,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock<'a>(&'a self, totals: &'a Totals) -> Locked<'a> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.weight();
        Locked {
            state,
            totals,
            before,
        }
    }
}

/// A file's content as it was, but for what the journal has of it.
pub(super) struct Undo {
    overlay: Overlay,
    head: Head,
    base: Base,
    lifted: Option<Bytes>,
}

impl Base {
    pub(super) fn of(body: &Body) -> Base {
        match body {
            Body::Inline(bytes) => Base::Inline(bytes.clone()),
            Body::Stored(profile, body) => Base::Stored(*profile, body.clone()),
        }
    }
}

impl FileState {
    /// Without changes.
    pub(super) fn of(content: &Content, mtime: Timestamp) -> FileState {
        FileState {
            head: Head {
                size: content.size,
                mtime,
                edited: content.edited.hlc,
                base_end: content.size,
            },
            base: Base::of(&content.body),
            origin: Origin {
                edits: content.edits.clone(),
                edited: content.edited,
                home: content.home.clone(),
            },
            lifted: None,
            has_base_row: false,
            is_handed_over: false,
            is_behind: false,
            changes: 0,
            shown: 0,
            overlay: Overlay::default(),
            profile: None,
            is_changed: false,
            is_orphan: false,
            notes: Notes::default(),
            dirty_since: None,
            changed_at: Instant::now(),
            flying: 0,
            described: 0,
            renew: None,
            is_publishing: false,
            described_at: None,
            unread_until: None,
            low_water: u64::MAX,
            is_queued: false,
            is_guarded: false,
            is_tamed: false,
            base_size: content.size,
            unnoted_since: None,
            reads: Reads::default(),
        }
    }

    /// What its changes take in memory, and how many bytes of them are in no block.
    fn weight(&self) -> (u64, u64) {
        let pieces = self.overlay.dirty_pieces() * PIECE_COST;
        let memory = self.overlay.memory_bytes() + pieces;
        (memory, self.overlay.dirty_bytes())
    }

    /// Whether a part of it could not be read a moment ago.
    pub(super) fn is_unread(&self) -> bool {
        self.unread_until
            .is_some_and(|until| until > Instant::now())
    }

    /// The content that changes were made to.
    pub(super) fn body(&self) -> Body {
        match &self.base {
            Base::Inline(bytes) => Body::Inline(self.lifted.as_ref().unwrap_or(bytes).clone()),
            Base::Stored(profile, body) => Body::Stored(*profile, body.clone()),
        }
    }

    /// Whether it has changes, or anything of it is on its way into the namespace: what others make of it then must
    /// wait.
    pub(super) const fn is_busy(&self) -> bool {
        self.is_changed || self.is_publishing || self.flying > 0
    }

    /// Whether a file without changes shows a content of the namespace. Its edits alone do not say that: one of them
    /// may have been told in several parts.
    pub(super) fn shows(&self, content: &Content) -> bool {
        self.origin.edits == content.edits
            && self.base_size == content.size
            && self.body() == content.body
    }

    /// The namespace has another content, and nothing was changed here.
    pub(super) fn reload(&mut self, content: &Content, mtime: Timestamp) {
        let (is_queued, changes, shown) = (self.is_queued, self.changes, self.shown);
        *self = FileState::of(content, mtime);
        (self.is_queued, self.changes, self.shown) = (is_queued, changes, shown);
    }

    /// Attributes changed: what the next write must take away is looked for again.
    pub(super) const fn unguard(&mut self) {
        self.is_guarded = false;
        self.is_tamed = false;
    }

    pub(super) const fn size(&self) -> u64 {
        self.head.size
    }

    /// Takes note of a change of the bytes `start..end`.
    fn touch(&mut self, start: u64, end: u64, time: Timestamp, at: Hlc) {
        self.head.mtime = time;
        self.head.edited = self.head.edited.max(at);
        self.is_changed = true;
        self.is_handed_over = false;
        self.changes += 1;
        self.changed_at = Instant::now();
        self.dirty_since.get_or_insert(self.changed_at);
        self.unnoted_since.get_or_insert(self.changed_at);
        self.stale(start, end);
    }

    /// The journal does not have the bytes `start..end` as they are.
    pub(super) fn stale(&mut self, start: u64, end: u64) {
        if start < end {
            let (from, to) = self.notes.stale.unwrap_or((start, end));
            self.notes.stale = Some((from.min(start), to.max(end)));
        }
    }

    /// What a change that cannot be noted takes back.
    pub(super) fn undo(&self) -> Undo {
        Undo {
            overlay: self.overlay.clone(),
            head: self.head,
            base: self.base.clone(),
            lifted: self.lifted.clone(),
        }
    }

    /// The content is what it was, as long as nothing was noted since.
    pub(super) fn take_back(&mut self, undo: Undo) {
        (self.overlay, self.head) = (undo.overlay, undo.head);
        (self.base, self.lifted) = (undo.base, undo.lifted);
    }

    /// A content in its row is brought into the overlay before the first change: it is small, and a change
    /// replaces it as a whole.
    pub(super) fn lift(&mut self) {
        if let Base::Inline(bytes) = &self.base
            && !bytes.is_empty()
        {
            self.lifted = Some(bytes.clone());
            let end = (bytes.len() as u64).min(self.head.base_end);
            let bytes = bytes.slice(..end as usize);
            for part in self.overlay.parts(0, end) {
                if let Part::Old(range) = part {
                    let old = bytes.slice(range.start as usize..range.end as usize);
                    self.overlay.write(range.start, &old);
                }
            }
            self.base = Base::Inline(Bytes::new());
            self.stale(0, end);
        }
        if matches!(self.base, Base::Inline(_)) {
            self.head.base_end = 0;
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], time: Timestamp, at: Hlc) {
        let end = offset + bytes.len() as u64;
        self.lift();
        self.overlay.write(offset, bytes);
        self.head.size = self.head.size.max(end);
        self.touch(offset, end, time, at);
    }

    /// Puts a piece of another source over what is there.
    pub(super) fn put(&mut self, piece: Piece, time: Timestamp, at: Hlc) {
        let (start, end) = (piece.offset, piece.end());
        self.lift();
        self.overlay.put(piece);
        self.head.size = self.head.size.max(end);
        self.touch(start, end, time, at);
    }

    pub(super) fn resize(&mut self, size: u64, time: Timestamp, at: Hlc) {
        let old = self.head.size;
        self.lift();
        if size < old {
            self.overlay.clear(size, u64::MAX);
            self.head.base_end = self.head.base_end.min(size);
            self.low_water = self.low_water.min(size);
        }
        self.head.size = size;
        self.touch(size.min(old), old, time, at);
    }

    /// Makes a range read as zeros, without changing the size.
    pub(super) fn punch(&mut self, start: u64, end: u64, time: Timestamp, at: Hlc) {
        self.lift();
        let end = end.min(self.head.size);
        if start >= end {
            return self.touch(start, start, time, at);
        }
        // Beyond the old content a hole is what is there without a piece.
        // ... unless a description is being written, which may put what is there now below.
        let seam = match self.is_publishing {
            true => end,
            false => end.min(self.head.base_end).max(start),
        };
        self.overlay.punch(start, seam);
        self.overlay.clear(seam, end);
        self.touch(start, end, time, at);
    }

    pub(super) fn grow(&mut self, size: u64, time: Timestamp, at: Hlc) {
        self.lift();
        self.head.size = self.head.size.max(size);
        self.touch(0, 0, time, at);
    }

    /// Whether nothing that was written before a generation began is missing in the namespace. What has no
    /// name any more goes nowhere.
    pub(super) const fn is_described(&self, generation: u64) -> bool {
        !self.is_changed || self.is_orphan || self.described >= generation
    }

    /// Whether somebody waits until a part of the changes is in the namespace.
    pub(super) const fn is_awaited(&self) -> bool {
        !self.is_described(self.overlay.generation())
    }

    /// Whether nothing of it is in memory or in the journal only.
    pub(super) fn is_sealed(&self) -> bool {
        self.overlay.dirty_bytes() == 0
    }

    /// What the namespace's content would have to show in `start..end`: all of it may be asked for.
    pub(super) fn base_range(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let end = end.min(self.head.base_end);
        (start < end).then_some((start, end))
    }

    /// Bytes that a file takes, for `stat`.
    pub(super) fn allocated(&self) -> u64 {
        let pieces = self.overlay.pieces();
        let new: u64 = pieces
            .filter(|piece| !matches!(piece.source, Source::Hole))
            .map(|piece| piece.len)
            .sum();
        let old = match &self.base {
            Base::Inline(bytes) => bytes.len() as u64,
            Base::Stored(_, body) => stored_bytes(body, self.head.base_end),
        };
        (new + old).min(self.head.size)
    }
}

/// Bytes of the extents that are known without reading a manifest; else all up to `size`.
pub(super) fn stored_bytes(body: &dag::Body<NodeAt>, size: u64) -> u64 {
    match body {
        dag::Body::Inline(extents) => extents.iter().map(|extent| u64::from(extent.len)).sum(),
        dag::Body::Manifest(_) => size,
    }
}
