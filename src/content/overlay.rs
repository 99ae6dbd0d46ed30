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

/// The changes of one file. Pieces never overlap.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    pieces: BTreeMap<u64, (u64, Source)>,
    dirty_bytes: u64,
    memory_bytes: u64,
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

    /// Of those the ones that are in memory.
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Whether any of them is in a block, or a hole: what a description can take over.
    pub fn has_placed(&self) -> bool {
        self.pieces.values().any(|(_, source)| !source.is_dirty())
    }

    /// The pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().map(piece)
    }

    /// The pieces that touch `start..end`, clipped to it.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.range(..=start).next_back();
        let rest = self
            .pieces
            .range((Bound::Excluded(start), Bound::Unbounded));
        first
            .into_iter()
            .chain(rest)
            .map(piece)
            .take_while(move |piece| piece.offset < end)
            .filter_map(move |piece| piece.clip(start, end))
    }

    /// The pieces that touch `start..end`, whole.
    pub fn around(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.range(..start).next_back();
        let rest = self.pieces.range(start..end.max(start));
        first
            .into_iter()
            .filter(move |(offset, (len, _))| *offset + len > start)
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
        let Some((start, (len, source))) = self.pieces.range_mut(..=offset).next_back() else {
            return false;
        };
        if offset + bytes.len() as u64 > start + *len {
            return false;
        }
        let Source::Memory {
            buffer,
            at,
            kept: None,
        } = source
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
        let Some((start, (len, source))) = self.pieces.range_mut(..offset).next_back() else {
            return false;
        };
        if start + *len != offset {
            return false;
        }
        let Source::Memory {
            buffer,
            at,
            kept: None,
        } = source
        else {
            return false;
        };
        let Some(buffer) = Arc::get_mut(buffer) else {
            return false;
        };
        if (*at as u64 + *len) as usize != buffer.len() || buffer.len() + bytes.len() > BUFFER_BYTES
        {
            return false;
        }
        buffer.extend_from_slice(bytes);
        *len += bytes.len() as u64;
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
            .filter(|(offset, (len, _))| *offset + len > start)
            .map(|(offset, _)| *offset)
            .into_iter()
            .collect();
        touched.extend(self.pieces.range(start..end).map(|(offset, _)| *offset));
        for offset in touched {
            let Some((len, source)) = self.pieces.remove(&offset) else {
                continue;
            };
            self.count(&source, len, false);
            let whole = Piece {
                offset,
                len,
                source,
            };
            let kept = [whole.clip(0, start), whole.clip(end, u64::MAX)];
            for kept in kept.into_iter().flatten() {
                self.insert(kept.offset, kept.len, kept.source);
            }
        }
    }

    /// Replaces every part of `old` that is still there by the same part of another source.
    pub fn exchange(&mut self, old: &Piece, new: &Source) {
        for piece in self.still(old) {
            let source = new.skip(piece.offset - old.offset);
            self.put(Piece { source, ..piece });
        }
    }

    /// Takes out every part of `old` that is still there: the content below says the same now.
    pub fn settle(&mut self, old: &Piece) {
        for piece in self.still(old) {
            self.clear(piece.offset, piece.end());
        }
    }

    /// The parts of a piece seen earlier that nothing has replaced since.
    pub fn still(&self, old: &Piece) -> Vec<Piece> {
        let is_old = |piece: &Piece| {
            let then = old.source.skip(piece.offset - old.offset);
            piece.source.is_same(&then)
        };
        self.within(old.offset, old.end()).filter(is_old).collect()
    }

    fn insert(&mut self, offset: u64, len: u64, source: Source) {
        self.count(&source, len, true);
        self.pieces.insert(offset, (len, source));
    }

    fn count(&mut self, source: &Source, len: u64, is_more: bool) {
        let change = |total: &mut u64| {
            *total = match is_more {
                true => *total + len,
                false => total.saturating_sub(len),
            };
        };
        if source.is_dirty() {
            change(&mut self.dirty_bytes);
        }
        if matches!(source, Source::Memory { .. }) {
            change(&mut self.memory_bytes);
        }
    }
}

fn piece((offset, (len, source)): (&u64, &(u64, Source))) -> Piece {
    Piece {
        offset: *offset,
        len: *len,
        source: source.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 600;

    #[derive(Debug, Clone)]
    enum Op {
        Write(usize, Vec<u8>),
        Punch(usize, usize),
        Clear(usize, usize),
        Hold,
        Keep,
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = || (0..SIZE, 1..90usize);
        prop_oneof![
            5 => (0..SIZE, proptest::collection::vec(1..=255u8, 1..90))
                .prop_map(|(at, bytes)| Op::Write(at, bytes)),
            1 => range().prop_map(|(at, len)| Op::Punch(at, at + len)),
            1 => range().prop_map(|(at, len)| Op::Clear(at, at + len)),
            1 => Just(Op::Hold),
            1 => Just(Op::Keep),
        ]
    }

    /// What the overlay shows over an old content of 0xff; `None`: that shows through.
    fn shown(overlay: &Overlay, kept: &BTreeMap<KeptId, Vec<u8>>) -> Vec<Option<u8>> {
        let mut all = Vec::new();
        for part in overlay.parts(0, SIZE as u64 + 100) {
            match part {
                Part::Old(range) => all.extend(range.map(|_| None)),
                Part::Piece(piece) => match &piece.source {
                    Source::Hole => all.extend((0..piece.len).map(|_| Some(0))),
                    Source::Memory { .. } => {
                        all.extend(piece.bytes().unwrap().iter().map(|b| Some(*b)));
                    }
                    Source::Journal { id, at } => {
                        let from = *at as usize;
                        let bytes = &kept[id][from..from + piece.len as usize];
                        all.extend(bytes.iter().map(|b| Some(*b)));
                    }
                    Source::Block { .. } => unreachable!(),
                },
            }
        }
        all
    }

    proptest! {
        #[test]
        fn it_shows_what_was_written_last(ops in proptest::collection::vec(op(), 1..60)) {
            let mut overlay = Overlay::default();
            let mut model = vec![None; SIZE + 100];
            let mut held = Vec::new();
            let mut kept = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Write(at, bytes) => {
                        overlay.write(at as u64, &bytes);
                        for (slot, byte) in model[at..].iter_mut().zip(&bytes) {
                            *slot = Some(*byte);
                        }
                    }
                    Op::Punch(from, to) => {
                        overlay.punch(from as u64, to as u64);
                        model[from..to].fill(Some(0));
                    }
                    Op::Clear(from, to) => {
                        overlay.clear(from as u64, to as u64);
                        model[from..to].fill(None);
                    }
                    Op::Hold => held.push((overlay.clone(), model.clone(), kept.clone())),
                    Op::Keep => {
                        for piece in overlay.clone().pieces() {
                            if let (Some(bytes), Source::Memory { kept: None, .. }) = (piece.bytes(), &piece.source) {
                                let id = KeptId(kept.len() as u64);
                                kept.insert(id, bytes.to_vec());
                                overlay.exchange(&piece, &Source::Journal { id, at: 0 });
                            }
                        }
                    }
                }
                prop_assert_eq!(&shown(&overlay, &kept), &model);
                let dirty = overlay.pieces().filter(|p| p.source.is_dirty()).map(|p| p.len).sum::<u64>();
                prop_assert_eq!(overlay.dirty_bytes(), dirty);
                for (overlay, model, kept) in &held {
                    prop_assert_eq!(&shown(overlay, kept), model);
                }
            }
        }

        #[test]
        fn what_was_replaced_since_is_left_alone(
            first in proptest::collection::vec(1..=255u8, 100..200),
            writes in proptest::collection::vec((0..200usize, 1..30usize), 0..6),
        ) {
            let mut overlay = Overlay::default();
            overlay.write(0, &first);
            let seen: Vec<Piece> = overlay.pieces().collect();
            let mut model = vec![false; 300];
            model[..first.len()].fill(true);
            for (at, len) in writes {
                overlay.write(at as u64, &vec![7; len]);
                model[at..at + len].fill(false);
            }
            for piece in &seen {
                overlay.exchange(piece, &Source::Hole);
            }
            let mut holes = vec![false; 300];
            for piece in overlay.pieces() {
                if matches!(piece.source, Source::Hole) {
                    holes[piece.offset as usize..piece.end() as usize].fill(true);
                }
            }
            prop_assert_eq!(holes, model);
        }
    }
}
