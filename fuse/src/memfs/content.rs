//! The bytes of one file: chunks of a megabyte at most, of which each block of 4 KiB is held or not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::Data;

/// What room is counted in, and the grain of holes.
pub(super) const BLOCK_BYTES: u64 = 4096;
const CHUNK_BYTES: u64 = 1 << 20;
const WORDS: usize = (CHUNK_BYTES / BLOCK_BYTES / 64) as usize;
/// Below this a copy is cheaper than a shared reference.
const SHARED_BYTES_MIN: usize = 16 * 1024;

#[derive(Clone, Default)]
struct Chunk {
    /// From the chunk's beginning; what is missing at its end is zero. Shared with answers that are
    /// being sent: a write meanwhile copies it.
    bytes: Arc<Vec<u8>>,
    /// One bit a block: room is taken.
    held: [u64; WORDS],
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Chunk {
    fn holds(&self, block: usize) -> bool {
        self.held[block / 64] >> (block % 64) & 1 == 1
    }

    /// How many of `blocks` are not held.
    fn missing(&self, blocks: Range<usize>) -> u64 {
        blocks.filter(|block| !self.holds(*block)).count() as u64
    }

    fn set(&mut self, blocks: Range<usize>, held: bool) {
        for block in blocks {
            let bit = 1 << (block % 64);
            if held {
                self.held[block / 64] |= bit;
            } else {
                self.held[block / 64] &= !bit;
            }
        }
    }

    fn count(&self) -> u64 {
        self.held
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    fn write(&mut self, at: usize, from: &[u8]) {
        let bytes = Arc::make_mut(&mut self.bytes);
        let end = at + from.len();
        if bytes.len() < at {
            bytes.resize(at, 0);
        }
        let within = bytes.len().min(end) - at;
        let (over, beyond) = from.split_at(within);
        bytes[at..at + within].copy_from_slice(over);
        bytes.extend_from_slice(beyond);
    }

    fn zero(&mut self, range: Range<usize>) {
        if self.bytes.len() <= range.start {
            return;
        }
        let bytes = Arc::make_mut(&mut self.bytes);
        if bytes.len() <= range.end {
            bytes.truncate(range.start);
        } else {
            bytes[range].fill(0);
        }
    }

    fn part(&self, range: Range<usize>) -> Bytes {
        let len = range.len();
        let has = self.bytes.len().min(range.end).saturating_sub(range.start);
        if has < len || len < SHARED_BYTES_MIN {
            let mut copy = Vec::with_capacity(len);
            copy.extend_from_slice(&self.bytes[range.start.min(self.bytes.len())..][..has]);
            copy.resize(len, 0);
            return copy.into();
        }
        Bytes::from_owner(Shared(self.bytes.clone())).slice(range)
    }
}

/// The blocks that a range of bytes touches.
fn blocks_of(range: &Range<usize>) -> Range<usize> {
    range.start / BLOCK_BYTES as usize..range.end.div_ceil(BLOCK_BYTES as usize)
}

/// A range of bytes of the file, cut at the borders of chunks: chunk, range within, length before.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let index = at / CHUNK_BYTES;
        let start = at % CHUNK_BYTES;
        let stop = (end - at).min(CHUNK_BYTES - start) + start;
        at += stop - start;
        Some((index, start as usize..stop as usize))
    })
}

/// The bytes of a file. It does not know the file's size: beyond what is held all is zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    chunks: BTreeMap<u64, Chunk>,
    blocks: u64,
}

impl Content {
    /// Blocks held.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that holding this range would take in addition.
    pub(super) fn missing(&self, offset: u64, len: u64) -> u64 {
        let pieces = pieces(offset, len);
        pieces
            .map(|(index, range)| {
                let blocks = blocks_of(&range);
                match self.chunks.get(&index) {
                    Some(chunk) => chunk.missing(blocks),
                    None => blocks.len() as u64,
                }
            })
            .sum()
    }

    /// `len` bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, len: u64) -> Data {
        let mut parts: Vec<Bytes> = pieces(offset, len)
            .map(|(index, range)| match self.chunks.get(&index) {
                Some(chunk) => chunk.part(range),
                None => vec![0; range.len()].into(),
            })
            .collect();
        match parts.len() {
            0 | 1 => Data::One(parts.pop().unwrap_or_default()),
            _ => Data::Many(parts),
        }
    }

    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        for (index, range) in pieces(offset, bytes.len() as u64) {
            let (now, later) = bytes.split_at(range.len());
            bytes = later;
            let chunk = self.chunks.entry(index).or_default();
            let blocks = blocks_of(&range);
            self.blocks += chunk.missing(blocks.clone());
            chunk.set(blocks, true);
            chunk.write(range.start, now);
        }
    }

    /// Takes room for the range. Its bytes stay what they are.
    pub(super) fn hold(&mut self, offset: u64, len: u64) {
        for (index, range) in pieces(offset, len) {
            let chunk = self.chunks.entry(index).or_default();
            let blocks = blocks_of(&range);
            self.blocks += chunk.missing(blocks.clone());
            chunk.set(blocks, true);
        }
    }

    /// Makes the range zero; whole blocks in it become holes.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> = self
            .chunks
            .range(offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES))
            .map(|(index, _)| *index)
            .collect();
        for index in touched {
            let base = index * CHUNK_BYTES;
            let start = offset.saturating_sub(base) as usize;
            let stop = (end - base).min(CHUNK_BYTES) as usize;
            let Some(chunk) = self.chunks.get_mut(&index) else {
                continue;
            };
            chunk.zero(start..stop);
            let block = BLOCK_BYTES as usize;
            let whole = start.div_ceil(block)..stop / block;
            let before = chunk.count();
            chunk.set(whole, false);
            let after = chunk.count();
            self.blocks -= before - after;
            if after == 0 {
                self.chunks.remove(&index);
            }
        }
    }

    /// Drops everything from `size` on.
    pub(super) fn truncate(&mut self, size: u64) {
        self.punch(size, u64::MAX - size);
    }

    /// The first offset at or after `from`, before `size`, that is held (or is not).
    pub(super) fn seek(&self, from: u64, size: u64, is_held: bool) -> Option<u64> {
        let mut at = from;
        while at < size {
            let index = at / CHUNK_BYTES;
            let base = index * CHUNK_BYTES;
            let Some(chunk) = self.chunks.get(&index) else {
                if !is_held {
                    return Some(at);
                }
                let next = self.chunks.range(index..).next()?;
                at = next.0 * CHUNK_BYTES;
                continue;
            };
            let first = ((at - base) / BLOCK_BYTES) as usize;
            let all = (CHUNK_BYTES / BLOCK_BYTES) as usize;
            let found = (first..all).find(|block| chunk.holds(*block) == is_held);
            match found {
                Some(block) => {
                    let found = (base + block as u64 * BLOCK_BYTES).max(at);
                    return (found < size).then_some(found);
                }
                None => at = base + CHUNK_BYTES,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that the test is the same each time.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % end
        }
    }

    #[test]
    fn it_is_what_a_plain_array_is() {
        const SIZE: u64 = 3 * CHUNK_BYTES + 12_345;
        let mut chance = Chance(7);
        let mut plain = vec![0u8; SIZE as usize];
        let mut content = Content::default();
        for step in 0..400u64 {
            let offset = chance.below(SIZE);
            let len = chance.below(SIZE - offset).min(1 + chance.below(300_000));
            let range = offset as usize..(offset + len) as usize;
            match chance.below(4) {
                0 | 1 => {
                    let byte = (step % 255) as u8 + 1;
                    let taken = content.missing(offset, len) + content.blocks();
                    content.write(offset, &vec![byte; len as usize]);
                    assert_eq!(content.blocks(), taken);
                    plain[range.clone()].fill(byte);
                }
                2 => {
                    content.punch(offset, len);
                    plain[range.clone()].fill(0);
                }
                _ => {
                    let kept = content.read(offset, len).to_vec();
                    content.hold(offset, len);
                    assert_eq!(content.missing(offset, len), 0);
                    assert_eq!(content.read(offset, len).to_vec(), kept);
                }
            }
            let (from, len) = (offset / 2, len + 70_000);
            let len = len.min(SIZE - from);
            let expected = &plain[from as usize..(from + len) as usize];
            assert!(content.read(from, len).to_vec() == expected, "step {step}");
        }
        content.truncate(5000);
        plain[5000..].fill(0);
        assert!(content.read(0, SIZE).to_vec() == plain);
        content.truncate(0);
        assert_eq!(content.blocks(), 0);
    }

    #[test]
    fn holes_and_data_alternate() {
        let mut content = Content::default();
        let size = 10 * CHUNK_BYTES;
        assert_eq!(content.seek(0, size, true), None);
        content.write(5 * CHUNK_BYTES + 10, b"x");
        let block = 5 * CHUNK_BYTES;
        assert_eq!(content.seek(0, size, true), Some(block));
        assert_eq!(content.seek(block + 9, size, true), Some(block + 9));
        assert_eq!(content.seek(block, size, false), Some(block + 4096));
        assert_eq!(content.seek(block + 4096, size, true), None);
        assert_eq!(content.seek(block, block + 11, false), None);
    }

    #[test]
    fn an_answer_being_sent_does_not_change() {
        let mut content = Content::default();
        content.write(0, &vec![1; 1 << 20]);
        let Data::One(sent) = content.read(0, 1 << 20) else {
            panic!("one chunk is one slice");
        };
        content.write(0, &[2; 100]);
        assert!(sent.iter().all(|b| *b == 1));
        assert_eq!(content.read(99, 2).to_vec(), [2, 1]);
    }
}
