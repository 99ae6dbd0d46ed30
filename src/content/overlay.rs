//! What was changed in a file since its content was last described: pieces over the old content, each from
//! memory, from the journal, from a block that is placed already, or a hole.
//!
//! Pure. Bytes written in sequence are gathered in buffers that are never changed once somebody else holds
//! them, so a read or a seal that is under way keeps what it saw.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::BlockRef;
use crate::base::limits::CHUNK_MAX_BYTES;

/// A buffer grows up to this by writes that follow one another: one chunk, which is then sealed from where it is.
const BUFFER_BYTES: usize = CHUNK_MAX_BYTES;
/// A write of so many bytes begins a buffer with room for all of that: more of the same size are likely.
const LARGE_BYTES: usize = 256 << 10;
/// Below this a copy is cheaper than a shared reference.
const SHARED_BYTES_MIN: usize = 4 << 10;

/// Names raw data in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptId(pub u64);

/// Where the bytes of a piece are. Offsets count from the beginning of what is named.
#[derive(Debug, Clone)]
pub enum Source {
    /// In memory; in the journal as well once it has an id there.
    Memory {
        /// The bytes.
        buffer: Arc<Vec<u8>>,
        /// First byte of the piece in the buffer.
        at: u32,
        /// The same bytes in the journal, and where in it the piece begins.
        kept: Option<(KeptId, u32)>,
    },
    /// In the journal only.
    Journal {
        /// Which data.
        id: KeptId,
        /// First byte of the piece in it.
        at: u32,
    },
    /// In a block.
    Block {
        /// Which.
        block: BlockRef,
        /// First byte of the piece in its plaintext.
        at: u32,
    },
    /// Nowhere: zeros.
    Hole,
}

impl Source {
    /// The same source from `skip` bytes further on.
    fn skip(&self, skip: u64) -> Source {
        let more = skip as u32;
        match self {
            Source::Memory { buffer, at, kept } => Source::Memory {
                buffer: Arc::clone(buffer),
                at: at + more,
                kept: kept.map(|(id, at)| (id, at + more)),
            },
            Source::Journal { id, at } => Source::Journal {
                id: *id,
                at: at + more,
            },
            Source::Block { block, at } => Source::Block {
                block: *block,
                at: at + more,
            },
            Source::Hole => Source::Hole,
        }
    }

    /// Whether the bytes are in no block yet, and are no hole.
    pub const fn is_dirty(&self) -> bool {
        matches!(self, Source::Memory { .. } | Source::Journal { .. })
    }

    /// Whether both name the same bytes: those of one buffer, journal record or block at one place.
    pub fn is_same(&self, other: &Source) -> bool {
        match (self, other) {
            (
                Source::Memory { buffer, at, .. },
                Source::Memory {
                    buffer: b, at: a, ..
                },
            ) => Arc::ptr_eq(buffer, b) && at == a,
            (Source::Journal { id, at }, Source::Journal { id: i, at: a })
            | (
                Source::Memory {
                    kept: Some((id, at)),
                    ..
                },
                Source::Journal { id: i, at: a },
            )
            | (
                Source::Journal { id, at },
                Source::Memory {
                    kept: Some((i, a)), ..
                },
            ) => id == i && at == a,
            (Source::Block { block, at }, Source::Block { block: b, at: a }) => {
                block.id == b.id && at == a
            }
            (Source::Hole, Source::Hole) => true,
            _ => false,
        }
    }
}

/// A run of bytes of the file and where they are.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// Where they are.
    pub source: Source,
}

impl Piece {
    /// The byte after the last.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The part within `start..end`, if any.
    pub fn clip(&self, start: u64, end: u64) -> Option<Piece> {
        let from = self.offset.max(start);
        let to = self.end().min(end);
        (from < to).then(|| Piece {
            offset: from,
            len: to - from,
            source: self.source.skip(from - self.offset),
        })
    }

    /// The bytes, if they are in memory.
    pub fn bytes(&self) -> Option<Bytes> {
        let Source::Memory { buffer, at, .. } = &self.source else {
            return None;
        };
        let range = *at as usize..*at as usize + self.len as usize;
        if range.len() < SHARED_BYTES_MIN {
            return buffer.get(range).map(Bytes::copy_from_slice);
        }
        Some(Bytes::from_owner(Shared(Arc::clone(buffer))).slice(range))
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A part of a read: from a piece, or from the old content.
#[derive(Debug, Clone)]
pub enum Part {
    /// What a piece says.
    Piece(Piece),
    /// The old content shows through.
    Old(Range<u64>),
}

/// What is kept of a piece, by its offset.
#[derive(Debug, Clone)]
struct Held {
    len: u64,
    source: Source,
    /// The generation in which it was written.
    generation: u64,
    /// Whether it is on its way into a block.
    is_flying: bool,
}

impl Held {
    fn piece(&self, offset: u64) -> Piece {
        Piece {
            offset,
            len: self.len,
            source: self.source.clone(),
        }
    }

    /// The same with another place in the file.
    fn moved(&self, piece: Piece) -> (u64, Held) {
        let held = Held {
            len: piece.len,
            source: piece.source,
            ..*self
        };
        (piece.offset, held)
    }
}

/// The changes of one file. Pieces never overlap.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    pieces: BTreeMap<u64, Held>,
    dirty_bytes: u64,
    dirty_pieces: u64,
    memory_bytes: u64,
    generation: u64,
}

impl Overlay {
    /// No change at all.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes in no block yet.
    pub const fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// In how many pieces they are.
    pub const fn dirty_pieces(&self) -> u64 {
        self.dirty_pieces
    }

    /// Of those the ones that are in memory.
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Whether any of them is in a block, or a hole: what a description can take over.
    pub fn has_placed(&self) -> bool {
        self.pieces.values().any(|held| !held.source.is_dirty())
    }

    /// The pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().map(piece)
    }

    /// Begins the next generation of changes, and answers its number. No piece of an earlier one grows or
    /// changes from then on, so there comes a time when all of those are gone.
    pub const fn begin_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// The generation of what is written now.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The oldest generation of any piece; without pieces that of what is written now.
    pub fn oldest(&self) -> u64 {
        let all = self.pieces.values().map(|held| held.generation);
        all.min().unwrap_or(self.generation)
    }

    /// Whether a change of an earlier generation is in no block yet.
    pub fn has_old_dirty(&self) -> bool {
        let mut all = self.pieces.values();
        all.any(|held| held.generation < self.generation && held.source.is_dirty())
    }

    /// Pieces that are in no block and not on their way into one, each with whether it is of an earlier
    /// generation.
    pub fn grounded(&self) -> impl Iterator<Item = (Piece, bool)> + '_ {
        let all = self.pieces.iter();
        let grounded = all.filter(|(_, held)| held.source.is_dirty() && !held.is_flying);
        grounded.map(|(offset, held)| (held.piece(*offset), held.generation < self.generation))
    }

    /// A piece is on its way into a block from now on: what replaces it is not.
    pub fn launch(&mut self, piece: &Piece) {
        self.set_flying(piece, true);
    }

    /// A piece is not on its way any more.
    pub fn ground(&mut self, piece: &Piece) {
        self.set_flying(piece, false);
    }

    fn set_flying(&mut self, piece: &Piece, is_flying: bool) {
        for (offset, held) in self.still_held(piece) {
            self.put_held(offset, Held { is_flying, ..held });
        }
    }

    /// Takes out all pieces. The generations go on.
    pub fn reset(&mut self) {
        *self = Overlay {
            generation: self.generation,
            ..Overlay::default()
        };
    }

    /// The pieces that touch `start..end`, clipped to it.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        let held = self.held_within(start, end);
        held.map(|(offset, held)| held.piece(offset))
    }

    fn held_within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Held)> + '_ {
        let first = self.pieces.range(..=start).next_back();
        let rest = self
            .pieces
            .range((Bound::Excluded(start), Bound::Unbounded));
        first
            .into_iter()
            .chain(rest)
            .take_while(move |(offset, _)| **offset < end)
            .filter_map(move |(offset, held)| {
                let part = held.piece(*offset).clip(start, end)?;
                Some(held.moved(part))
            })
    }

    /// The pieces that touch `start..end`, whole.
    pub fn around(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.range(..start).next_back();
        let rest = self.pieces.range(start..end.max(start));
        first
            .into_iter()
            .filter(move |(offset, held)| *offset + held.len > start)
            .chain(rest)
            .map(piece)
    }

    /// All of `start..end`, in order: pieces, and between them the old content.
    pub fn parts(&self, start: u64, end: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = start;
        for piece in self.within(start, end) {
            if at < piece.offset {
                parts.push(Part::Old(at..piece.offset));
            }
            at = piece.end();
            parts.push(Part::Piece(piece));
        }
        if at < end {
            parts.push(Part::Old(at..end));
        }
        parts
    }

    /// Writes bytes, copied once.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() || self.overwrite(offset, bytes) {
            return;
        }
        self.clear(offset, offset + bytes.len() as u64);
        if self.append(offset, bytes) {
            return;
        }
        let room = match bytes.len() {
            LARGE_BYTES.. => BUFFER_BYTES.max(bytes.len()),
            small => small,
        };
        let mut buffer = Vec::with_capacity(room);
        buffer.extend_from_slice(bytes);
        let buffer = Arc::new(buffer);
        let source = Source::Memory {
            buffer,
            at: 0,
            kept: None,
        };
        self.insert(offset, bytes.len() as u64, source);
    }

    /// Changes a buffer that nobody else holds and the journal does not have.
    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some((start, held)) = self.pieces.range_mut(..=offset).next_back() else {
            return false;
        };
        let is_inside = offset + bytes.len() as u64 <= start + held.len;
        if !is_inside || held.generation != self.generation {
            return false;
        }
        let Source::Memory {
            buffer,
            at,
            kept: None,
        } = &mut held.source
        else {
            return false;
        };
        let from = *at as usize + (offset - start) as usize;
        let Some(buffer) = Arc::get_mut(buffer) else {
            return false;
        };
        match buffer.get_mut(from..from + bytes.len()) {
            Some(part) => part.copy_from_slice(bytes),
            None => return false,
        }
        true
    }

    /// Lengthens the buffer that ends where these bytes begin.
    fn append(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some((start, held)) = self.pieces.range_mut(..offset).next_back() else {
            return false;
        };
        if start + held.len != offset || held.generation != self.generation {
            return false;
        }
        let Source::Memory {
            buffer,
            at,
            kept: None,
        } = &mut held.source
        else {
            return false;
        };
        let Some(buffer) = Arc::get_mut(buffer) else {
            return false;
        };
        if (*at as u64 + held.len) as usize != buffer.len()
            || buffer.len() + bytes.len() > BUFFER_BYTES
        {
            return false;
        }
        buffer.extend_from_slice(bytes);
        held.len += bytes.len() as u64;
        self.dirty_bytes += bytes.len() as u64;
        self.memory_bytes += bytes.len() as u64;
        true
    }

    /// Makes a range a hole.
    pub fn punch(&mut self, start: u64, end: u64) {
        self.put(Piece {
            offset: start,
            len: end.saturating_sub(start),
            source: Source::Hole,
        });
    }

    /// Puts a piece over whatever is there.
    pub fn put(&mut self, piece: Piece) {
        if piece.len > 0 {
            self.clear(piece.offset, piece.end());
            self.insert(piece.offset, piece.len, piece.source);
        }
    }

    /// Lets the old content show through again in `start..end`.
    pub fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let first = self.pieces.range(..start).next_back();
        let mut touched: Vec<u64> = first
            .filter(|(offset, held)| *offset + held.len > start)
            .map(|(offset, _)| *offset)
            .into_iter()
            .collect();
        touched.extend(self.pieces.range(start..end).map(|(offset, _)| *offset));
        for offset in touched {
            let Some(held) = self.pieces.remove(&offset) else {
                continue;
            };
            self.count(&held.source, held.len, false);
            let whole = held.piece(offset);
            let kept = [whole.clip(0, start), whole.clip(end, u64::MAX)];
            for kept in kept.into_iter().flatten() {
                let (offset, kept) = held.moved(kept);
                self.insert_held(offset, kept);
            }
        }
    }

    /// Replaces every part of `old` that is still there by the same part of another source.
    pub fn exchange(&mut self, old: &Piece, new: &Source) {
        for (offset, held) in self.still_held(old) {
            let source = new.skip(offset - old.offset);
            let is_flying = held.is_flying && source.is_dirty();
            let held = Held {
                source,
                is_flying,
                ..held
            };
            self.put_held(offset, held);
        }
    }

    /// Takes out every part of `old` that is still there: the content below says the same now.
    pub fn settle(&mut self, old: &Piece) {
        for (offset, held) in self.still_held(old) {
            self.clear(offset, offset + held.len);
        }
    }

    /// The parts of a piece seen earlier that nothing has replaced since.
    fn still_held(&self, old: &Piece) -> Vec<(u64, Held)> {
        let is_old = |(offset, held): &(u64, Held)| {
            let then = old.source.skip(*offset - old.offset);
            held.source.is_same(&then)
        };
        let within = self.held_within(old.offset, old.end());
        within.filter(is_old).collect()
    }

    fn put_held(&mut self, offset: u64, held: Held) {
        self.clear(offset, offset + held.len);
        self.insert_held(offset, held);
    }

    fn insert(&mut self, offset: u64, len: u64, source: Source) {
        let held = Held {
            len,
            source,
            generation: self.generation,
            is_flying: false,
        };
        self.insert_held(offset, held);
    }

    fn insert_held(&mut self, offset: u64, held: Held) {
        self.count(&held.source, held.len, true);
        self.pieces.insert(offset, held);
    }

    fn count(&mut self, source: &Source, len: u64, is_more: bool) {
        let change = |total: &mut u64, by: u64| {
            *total = match is_more {
                true => *total + by,
                false => total.saturating_sub(by),
            };
        };
        if source.is_dirty() {
            change(&mut self.dirty_bytes, len);
            change(&mut self.dirty_pieces, 1);
        }
        if matches!(source, Source::Memory { .. }) {
            change(&mut self.memory_bytes, len);
        }
    }
}

fn piece((offset, held): (&u64, &Held)) -> Piece {
    held.piece(*offset)
}

#[cfg(test)]
#[path = "overlay_laws.rs"]
mod laws;
