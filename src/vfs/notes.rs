//! Writing down in the journal what was changed in a file: pieces of raw data, and which bytes of the file
//! they are.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::errno::Step;
use super::file::{FileCell, FileState, Head, Noted, NotedPlace, Notes};
use super::inner::Inner;
use super::ledger::Deltas;
use super::rows::{HEADS, PIECES};
use crate::base::limits::DIRTY_PER_GROUP_MAX;
use crate::base::{BlockId, BlockRef, wire};
use crate::content::overlay::{KeptId, Piece, Source};
use crate::dag::Timestamp;
use crate::namespace::{Hlc, Ino};
use crate::store::{DirtyId, Group, Seq, VolumeError};

const VERSION: u8 = 1;
const ROW_MAX_BYTES: usize = 1 << 10;
/// A group gets no more raw data when it has so much: several such groups may wait to be written, so that there is
/// room for the next when half of them are.
const RAW_PER_GROUP: u64 = 4 << 20;
/// Pieces that one group writes down besides raw data.
const PIECES_PER_GROUP: usize = 2048;

/// Rows that one group removes.
pub(super) const REMOVALS_PER_GROUP: usize = 2048;

/// `[version, size, seconds, nanos, edited, base end]`
type HeadRow = (u8, u64, i64, u32, u64, u64);

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    wire::encode::<HeadRow>(&(
        VERSION,
        head.size,
        head.mtime.seconds,
        head.mtime.nanos,
        head.edited.0,
        head.base_end,
    ))
}

pub(super) fn decode_head(bytes: &[u8]) -> Option<Head> {
    let (version, size, seconds, nanos, edited, base_end): HeadRow =
        wire::decode(bytes, ROW_MAX_BYTES).ok()?;
    (version == VERSION).then_some(Head {
        size,
        mtime: Timestamp { seconds, nanos },
        edited: Hlc(edited),
        base_end,
    })
}

#[derive(Serialize, Deserialize)]
struct PieceRow(u64, Option<u64>, Option<BlockRef>, u32);

pub(super) fn encode_piece(noted: &Noted) -> Vec<u8> {
    let (kept, block, at) = match noted.place {
        NotedPlace::Kept(id, at) => (Some(id.0), None, at),
        NotedPlace::Block(block, at) => (None, Some(block), at),
        NotedPlace::Hole => (None, None, 0),
    };
    wire::encode(&PieceRow(noted.len, kept, block, at))
}

pub(super) fn decode_piece(bytes: &[u8]) -> Option<Noted> {
    let PieceRow(len, kept, block, at) = wire::decode(bytes, ROW_MAX_BYTES).ok()?;
    let place = match (kept, block) {
        (Some(id), None) => NotedPlace::Kept(KeptId(id), at),
        (None, Some(block)) => NotedPlace::Block(block, at),
        (None, None) => NotedPlace::Hole,
        _ => return None,
    };
    (len > 0).then_some(Noted { len, place })
}

/// Key of a piece.
pub(super) fn piece_key(ino: Ino, offset: u64) -> Vec<u8> {
    [&ino.0[..], &offset.to_be_bytes()].concat()
}

impl Noted {
    fn skip(&self, bytes: u64) -> Noted {
        let more = bytes as u32;
        Noted {
            len: self.len - bytes,
            place: match self.place {
                NotedPlace::Kept(id, at) => NotedPlace::Kept(id, at + more),
                NotedPlace::Block(block, at) => NotedPlace::Block(block, at + more),
                NotedPlace::Hole => NotedPlace::Hole,
            },
        }
    }

    const fn cut(&self, len: u64) -> Noted {
        Noted {
            len,
            place: self.place,
        }
    }
}

/// One group's part of the work: what of the file it replaces, and by what.
struct Batch {
    start: u64,
    end: u64,
    new: Vec<(Piece, Noted)>,
    /// Raw data to be kept, and how many bytes that is.
    raw: Vec<(KeptId, Piece)>,
    raw_bytes: u64,
    /// How many pieces it removes.
    gone: usize,
    /// Blocks whose counts it may change.
    blocks: BTreeSet<BlockId>,
}

impl Batch {
    const fn new(start: u64, end: u64) -> Batch {
        Batch {
            start,
            end,
            new: Vec::new(),
            raw: Vec::new(),
            raw_bytes: 0,
            gone: 0,
            blocks: BTreeSet::new(),
        }
    }

    fn names(&mut self, noted: &Noted) {
        if let NotedPlace::Block(block, _) = &noted.place {
            self.blocks.insert(block.id);
        }
    }

    fn is_full(&self, blocks_max: usize) -> bool {
        self.raw.len() >= DIRTY_PER_GROUP_MAX
            || self.raw_bytes >= RAW_PER_GROUP
            || self.new.len() >= PIECES_PER_GROUP
            || self.gone >= REMOVALS_PER_GROUP
            || self.blocks.len() >= blocks_max
    }

    /// Ends it at an offset. What of its last piece lies behind goes to the front of `left`.
    fn cut(&mut self, at: u64, left: &mut VecDeque<Piece>) {
        self.end = at;
        let Some((last, noted)) = self.new.last_mut() else {
            return;
        };
        if let (Some(front), Some(rest)) = (last.clip(0, at), last.clip(at, u64::MAX)) {
            let is_raw = matches!(last.source, Source::Memory { kept: None, .. });
            if let Some((_, raw)) = self.raw.last_mut().filter(|_| is_raw) {
                raw.clone_from(&front);
            }
            *noted = noted.cut(front.len);
            *last = front;
            left.push_front(rest);
        }
    }
}

impl Inner {
    /// Brings the journal up to date with a file's changes, as far as they go now. They are durable after
    /// `Volume::sync` of the answer; none if nothing had to be written.
    pub(super) fn note(&self, cell: &FileCell, state: &mut FileState) -> Step<Option<Seq>> {
        if !state.is_changed {
            return Ok(None);
        }
        let is_new_head = state.notes.head != Some(state.head);
        if state.notes.stale.is_none() && !is_new_head {
            return Ok(None);
        }
        let mut last = None;
        for batch in self.batches(state) {
            last = Some(self.note_batch(cell, state, batch)?);
        }
        state.notes.stale = None;
        state.unnoted_since = None;
        Ok(last)
    }

    /// The same for one range only: what else changed may be on its way into blocks, and need not be written twice.
    pub(super) fn note_range(
        &self,
        cell: &FileCell,
        state: &mut FileState,
        start: u64,
        end: u64,
    ) -> Step<()> {
        if state.notes.head.is_none() && state.lifted.is_some() {
            // The first head hides what is in the file's row, which is in memory until it is written down.
            return self.note(cell, state).map(drop);
        }
        let others = state.notes.stale.replace((start, end));
        let since = state.unnoted_since;
        let noted = self.note(cell, state);
        state.notes.stale = others;
        state.unnoted_since = since;
        if noted.is_err() {
            state.stale(start, end);
        }
        noted.map(drop)
    }

    /// Whether all that changed fits into one group.
    pub(super) fn fits_one_group(&self, state: &FileState) -> bool {
        self.batches(state).len() <= 1
    }

    /// Divides what changed into parts that each fit into one group.
    fn batches(&self, state: &FileState) -> Vec<Batch> {
        let (mut start, mut end) = state.notes.stale.unwrap_or((0, 0));
        // Pieces are replaced as a whole, here and in the journal.
        loop {
            let (from, to) = (start, end);
            for piece in state.overlay.around(start, end) {
                start = start.min(piece.offset);
                end = end.max(piece.end());
            }
            for (offset, noted) in noted_within(state, start, end) {
                start = start.min(offset);
                end = end.max(offset + noted.len);
            }
            if (from, to) == (start, end) {
                break;
            }
        }
        let mut batches = Vec::new();
        let mut batch = Batch::new(start, end);
        let mut gone = noted_within(state, start, end).into_iter().peekable();
        let mut pieces: VecDeque<Piece> = state.overlay.around(start, end).collect();
        loop {
            // What goes and what comes, in the order of the file.
            let comes = pieces.front().map(|piece| piece.offset);
            let goes = gone.next_if(|(offset, _)| comes.is_none_or(|at| *offset <= at));
            let Some(begins) = goes.map(|(offset, _)| offset).or(comes) else {
                batches.push(batch);
                return batches;
            };
            if begins > batch.start && batch.is_full(self.blocks_per_group()) {
                batch.cut(begins, &mut pieces);
                let rest = Batch::new(batch.end, end);
                batches.push(std::mem::replace(&mut batch, rest));
            }
            if let Some((_, noted)) = goes {
                batch.gone += 1;
                batch.names(&noted);
                continue;
            }
            let Some(piece) = pieces.pop_front() else {
                continue;
            };
            let place = match &piece.source {
                Source::Memory { kept: None, .. } => {
                    let id = KeptId(self.next_kept.fetch_add(1, Ordering::Relaxed));
                    batch.raw.push((id, piece.clone()));
                    batch.raw_bytes += piece.len;
                    NotedPlace::Kept(id, 0)
                }
                Source::Memory {
                    kept: Some((id, at)),
                    ..
                }
                | Source::Journal { id, at } => NotedPlace::Kept(*id, *at),
                Source::Block { block, at } => NotedPlace::Block(*block, *at),
                Source::Hole => NotedPlace::Hole,
            };
            let noted = Noted {
                len: piece.len,
                place,
            };
            batch.names(&noted);
            batch.new.push((piece, noted));
        }
    }

    fn note_batch(&self, cell: &FileCell, state: &mut FileState, batch: Batch) -> Step<Seq> {
        let mut group = Group::new();
        let mut deltas = Deltas::default();
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (offset, noted) in noted_within(state, batch.start, batch.end) {
            gone.push((offset, noted));
            if offset < batch.start {
                come.push((offset, noted.cut(batch.start - offset)));
            }
            if offset + noted.len > batch.end {
                come.push((batch.end, noted.skip(batch.end - offset)));
            }
        }
        come.extend(
            batch
                .new
                .iter()
                .map(|(piece, noted)| (piece.offset, *noted)),
        );
        // What stays as it is costs nothing.
        let new: HashMap<u64, Noted> = come.iter().copied().collect();
        gone.retain(|(offset, noted)| new.get(offset) != Some(noted));
        let notes = &state.notes.pieces;
        come.retain(|(offset, noted)| notes.get(offset) != Some(noted));
        for (offset, noted) in &gone {
            group.remove(PIECES, &piece_key(cell.ino, *offset));
            count(&mut deltas, noted, -1);
        }
        for (offset, noted) in &come {
            group.put(PIECES, &piece_key(cell.ino, *offset), &encode_piece(noted));
            count(&mut deltas, noted, 1);
        }
        for (id, piece) in &batch.raw {
            group.keep(DirtyId(id.0), piece.bytes().unwrap_or_default());
        }
        let mut users = HashMap::new();
        for (sign, all) in [(-1i64, &gone), (1, &come)] {
            for (_, noted) in all {
                if let NotedPlace::Kept(id, _) = noted.place {
                    *users.entry(id).or_insert(0i64) += sign;
                }
            }
        }
        let mut released = Vec::new();
        for (id, change) in &users {
            let now = state.notes.users.get(id).copied().unwrap_or(0);
            if i64::from(now) + change <= 0 && now > 0 {
                released.push(*id);
                group.release(DirtyId(id.0));
            }
        }
        group.put(HEADS, &cell.ino.0, &encode_head(&state.head));
        if batch.raw.is_empty() {
            // A file that is cut, or data that is in blocks by now: room comes back.
            group.cleanup();
        }
        let seq = match deltas.0.is_empty() {
            true => self.apply(&group)?,
            false => self.apply_counted(&mut group, &deltas, &[])?,
        };
        let notes = &mut state.notes;
        notes.head = Some(state.head);
        for (offset, _) in &gone {
            notes.pieces.remove(offset);
        }
        notes.pieces.extend(come);
        for (id, change) in users {
            let count = notes.users.entry(id).or_insert(0);
            *count = count.saturating_add_signed(change as i32);
            if *count == 0 {
                notes.users.remove(&id);
            }
        }
        for (id, piece) in batch.raw {
            if let Source::Memory { buffer, at, .. } = &piece.source {
                let kept = Source::Memory {
                    buffer: std::sync::Arc::clone(buffer),
                    at: *at,
                    kept: Some((id, 0)),
                };
                state.overlay.exchange(&piece, &kept);
            }
        }
        Ok(seq)
    }

    /// Keeps what is in the journal there only.
    pub(super) fn unload(&self, state: &mut FileState) {
        // What is being sealed is recognised by its buffer.
        if state.flying > 0 {
            return;
        }
        let pieces: Vec<Piece> = state.overlay.pieces().collect();
        for piece in pieces {
            if let Source::Memory {
                kept: Some((id, at)),
                ..
            } = piece.source
            {
                state.overlay.exchange(&piece, &Source::Journal { id, at });
            }
        }
    }

    /// Nothing of a file's changes is wanted any more.
    pub(super) fn discard(&self, cell: &FileCell, state: &mut FileState) {
        let mut notes = std::mem::take(&mut state.notes);
        state.overlay = Default::default();
        state.is_changed = false;
        if notes.head.is_none() && notes.pieces.is_empty() {
            return;
        }
        if let Err(error) = self.forget_file(cell.ino, &mut notes) {
            // What has no file is found at the next opening.
            tracing::debug!("changes of a removed file stay in the journal: {error}");
        }
    }

    /// The journal forgets a file's changes, in as many groups as that takes: pieces, then the data that they
    /// used, then the head, so that what a crash or an error leaves is whole and is found. What is forgotten
    /// is taken out of `notes`.
    pub(super) fn forget_file(&self, ino: Ino, notes: &mut Notes) -> Result<(), VolumeError> {
        loop {
            let mut group = Group::new();
            group.cleanup();
            let mut deltas = Deltas::default();
            let mut pieces: Vec<u64> = Vec::new();
            for (offset, noted) in notes.pieces.iter().take(REMOVALS_PER_GROUP) {
                if deltas.0.len() >= self.blocks_per_group() {
                    break;
                }
                pieces.push(*offset);
                group.remove(PIECES, &piece_key(ino, *offset));
                count(&mut deltas, noted, -1);
            }
            let mut kept = Vec::new();
            if pieces.len() == notes.pieces.len() {
                kept.extend(notes.users.keys().take(REMOVALS_PER_GROUP).copied());
                for id in &kept {
                    group.release(DirtyId(id.0));
                }
            }
            let is_last = pieces.len() == notes.pieces.len() && kept.len() == notes.users.len();
            if is_last {
                group.remove(HEADS, &ino.0);
            }
            self.apply_counted(&mut group, &deltas, &[])?;
            for offset in pieces {
                notes.pieces.remove(&offset);
            }
            for id in kept {
                notes.users.remove(&id);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Adds to a group that the journal forgets a file's changes.
    pub(super) fn forget_notes(
        &self,
        cell: &FileCell,
        state: &mut FileState,
        group: &mut Group,
        deltas: &mut Deltas,
    ) {
        let notes = std::mem::take(&mut state.notes);
        if notes.head.is_some() {
            group.remove(HEADS, &cell.ino.0);
        }
        for (offset, noted) in &notes.pieces {
            group.remove(PIECES, &piece_key(cell.ino, *offset));
            count(deltas, noted, -1);
        }
        for id in notes.users.keys() {
            group.release(DirtyId(id.0));
        }
    }
}

impl Deltas {
    /// How many blocks change their counts if, besides, a file's changes are forgotten.
    pub(super) fn union_len(&self, notes: &Notes) -> usize {
        let mut all: BTreeSet<BlockId> = self.0.keys().copied().collect();
        for noted in notes.pieces.values() {
            if let NotedPlace::Block(block, _) = &noted.place {
                all.insert(block.id);
            }
        }
        all.len()
    }
}

fn count(deltas: &mut Deltas, noted: &Noted, sign: i64) {
    if let NotedPlace::Block(block, _) = &noted.place {
        deltas.add(block.id, sign * noted.len as i64);
    }
}

fn noted_within(state: &FileState, start: u64, end: u64) -> Vec<(u64, Noted)> {
    let before = state.notes.pieces.range(..start).next_back();
    let before = before.filter(|(offset, noted)| *offset + noted.len > start);
    let within = state.notes.pieces.range(start..end.max(start));
    before
        .into_iter()
        .chain(within)
        .map(|(offset, noted)| (*offset, *noted))
        .collect()
}
