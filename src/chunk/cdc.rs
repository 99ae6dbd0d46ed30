//! Content-defined chunks of a stream: the only door to the crate `fastcdc`.
//!
//! FastCDC (Xia et al., 2020) without its two-level masks: bytes before the smallest size are
//! not looked at, and one mask decides from there on, which brings two streams that differ in
//! front back into step soonest.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{self, MASKS};

use super::sizes::ChunkSizes;

/// Largest chunks that fit one buffer. Chunks are slices of it; only what is left behind the last
/// cut is copied to the next buffer, so a larger one costs less copying and more memory.
const BUFFER_CHUNKS: usize = 3;
/// Buffers kept for use again once their chunks are gone. Fresh memory costs more than cutting.
const RETIRED_BUFFERS: usize = 4;

/// Cuts streams into chunks, which depend on a stream's bytes alone and not on how they arrive.
///
/// Holds at most five buffers of three times the largest chunk, if chunks are taken after each
/// push; a chunk keeps the buffer that it is a slice of.
#[derive(Debug)]
pub struct Cutter {
    sizes: ChunkSizes,
    mask: u64,
    buffer: BytesMut,
    finished: bool,
    /// Emptied handles of earlier buffers, the oldest first.
    retired: VecDeque<BytesMut>,
}

impl Cutter {
    /// A cutter at the beginning of a stream.
    pub fn new(sizes: ChunkSizes) -> Self {
        let bits = sizes.stride().ilog2() as usize;
        // Round to the nearest power in the logarithm: 1.5 * 2^n counts as 2^(n+1).
        let bits = bits + (sizes.stride() >> (bits - 1) & 1);
        let last = MASKS.len() - 2;
        Cutter {
            sizes,
            mask: MASKS.get(bits.min(last)).copied().unwrap_or(u64::MAX),
            buffer: BytesMut::new(),
            finished: false,
            retired: VecDeque::new(),
        }
    }

    /// Takes more of the stream. Take all chunks before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.buffer.extend_from_slice(bytes);
    }

    /// Room for `len` more bytes, for a reader to read into; say with [`Cutter::filled`] how many
    /// came. Saves the copy of [`Cutter::push`].
    pub fn room(&mut self, len: usize) -> Room<'_> {
        self.make_room(len);
        let start = self.buffer.len();
        self.buffer.resize(start + len, 0);
        Room {
            buffer: &mut self.buffer,
            start,
        }
    }

    fn make_room(&mut self, len: usize) {
        if self.buffer.capacity() - self.buffer.len() >= len {
            return;
        }
        let capacity = (BUFFER_CHUNKS * self.sizes.max()).max(self.buffer.len() + len);
        let idle = self
            .retired
            .iter_mut()
            .position(|buffer| buffer.try_reclaim(capacity));
        let mut next = idle
            .and_then(|at| self.retired.remove(at))
            .unwrap_or_else(|| BytesMut::with_capacity(capacity));
        next.extend_from_slice(&self.buffer);
        let mut full = std::mem::replace(&mut self.buffer, next);
        full.clear();
        if self.retired.len() >= RETIRED_BUFFERS {
            self.retired.pop_front();
        }
        self.retired.push_back(full);
    }

    /// The stream is at its end: the rest becomes chunks too, and behind them the next stream
    /// begins.
    pub const fn finish(&mut self) {
        self.finished = true;
    }

    /// The next chunk, if the bytes so far decide it. Never empty.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            self.finished = false;
            return None;
        }
        if !self.finished && self.buffer.len() < self.sizes.max() {
            return None;
        }
        let len = self.first_cut();
        Some(self.buffer.split_to(len).freeze())
    }

    fn first_cut(&self) -> usize {
        let (min, max) = (self.sizes.min(), self.sizes.max());
        let (mask, shifted) = (self.mask, self.mask << 1);
        let (_, len) = v2020::cut(&self.buffer, min, min, max, mask, mask, shifted, shifted);
        len
    }
}

/// Room in a [`Cutter`]'s buffer. What is not said to be filled is given back.
#[derive(Debug)]
pub struct Room<'a> {
    buffer: &'a mut BytesMut,
    start: usize,
}

impl Room<'_> {
    /// The bytes to write to. Their present content means nothing.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }

    /// The first `len` bytes are part of the stream now.
    pub fn filled(mut self, len: usize) {
        self.start = self.buffer.len().min(self.start + len);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.buffer.truncate(self.start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{Entropy, Limits};
    use crate::chunk::testing::cases;

    fn tiny() -> ChunkSizes {
        ChunkSizes::from(&Limits::tiny())
    }

    fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Entropy::seeded(seed).fill(&mut bytes);
        bytes
    }

    fn cut_all(sizes: ChunkSizes, stream: &[u8]) -> Vec<Bytes> {
        let mut cutter = Cutter::new(sizes);
        cutter.push(stream);
        cutter.finish();
        std::iter::from_fn(|| cutter.next_chunk()).collect()
    }

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn chunks_do_not_depend_on_how_bytes_arrive(
            len in 0usize..200_000,
            seed: u64,
            pushes in prop::collection::vec((1usize..40_000, any::<bool>()), 1..20),
        ) {
            let stream = random_bytes(len, seed);
            let whole = cut_all(tiny(), &stream);
            prop_assert_eq!(whole.concat(), &stream[..]);
            let (last, others) = match whole.split_last() {
                Some((last, others)) => (last.len(), others),
                None => (1, &[][..]),
            };
            prop_assert!((1..=tiny().max()).contains(&last));
            for chunk in others {
                prop_assert!((tiny().min()..=tiny().max()).contains(&chunk.len()));
            }

            let mut cutter = Cutter::new(tiny());
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            for (len, in_place) in pushes.iter().cycle() {
                let (now, later) = rest.split_at((*len).min(rest.len()));
                if *in_place {
                    let mut room = cutter.room(*len);
                    room.bytes()[..now.len()].copy_from_slice(now);
                    room.filled(now.len());
                } else {
                    cutter.push(now);
                }
                chunks.extend(std::iter::from_fn(|| cutter.next_chunk()));
                prop_assert!(cutter.buffer.len() < tiny().max());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            cutter.finish();
            chunks.extend(std::iter::from_fn(|| cutter.next_chunk()));
            prop_assert_eq!(chunks, whole);
        }
    }

    #[test]
    fn room_that_is_not_filled_leaves_nothing() {
        let mut cutter = Cutter::new(tiny());
        cutter.push(b"abc");
        drop(cutter.room(1000));
        cutter.room(10).filled(0);
        cutter.push(b"def");
        cutter.finish();
        assert_eq!(cutter.next_chunk().unwrap(), &b"abcdef"[..]);
        assert_eq!(cutter.next_chunk(), None);
    }

    #[test]
    fn one_cutter_serves_many_streams() {
        let mut cutter = Cutter::new(tiny());
        for (seed, len) in [(1, 100_000), (2, 0), (3, 5), (4, 300_000)] {
            let stream = random_bytes(len, seed);
            let mut chunks = Vec::new();
            for piece in stream.chunks(3000) {
                cutter.push(piece);
                chunks.extend(std::iter::from_fn(|| cutter.next_chunk()));
            }
            cutter.finish();
            chunks.extend(std::iter::from_fn(|| cutter.next_chunk()));
            assert_eq!(chunks, cut_all(tiny(), &stream));
        }
    }

    #[test]
    fn buffers_are_used_again_and_stay_few() {
        let mut cutter = Cutter::new(tiny());
        let mut places = std::collections::BTreeSet::new();
        for round in 0..200 {
            cutter.push(&random_bytes(10_000, round));
            while let Some(chunk) = cutter.next_chunk() {
                places.insert(chunk.as_ptr() as usize / (16 << 10));
            }
            assert!(cutter.retired.len() <= RETIRED_BUFFERS);
        }
        // Two megabytes went through less than a quarter of one.
        assert!(places.len() < 16, "{}", places.len());
    }

    #[test]
    fn a_byte_in_front_leaves_nearly_all_chunks_shared() {
        let mut stream = random_bytes(2 << 20, 1);
        let before = cut_all(tiny(), &stream);
        stream.insert(0, b'!');
        let after = cut_all(tiny(), &stream);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(before.len() > 300, "{}", before.len());
        assert!(new < 20, "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn sizes_are_as_announced() {
        let chunks = cut_all(tiny(), &random_bytes(8 << 20, 2));
        let mean = (8 << 20) / chunks.len();
        assert!((4 << 10..6 << 10).contains(&mean), "{mean}");
        // Bytes without any variety are cut at the largest size.
        let zeros = cut_all(tiny(), &vec![0; 100_000]);
        assert!(
            zeros[..zeros.len() - 1]
                .iter()
                .all(|c| c.len() == tiny().max())
        );
    }

    /// Cuts are part of the format: equal content must be shared with older versions' chunks.
    #[test]
    fn cuts_stay_where_they_are() {
        let stream = random_bytes(40_000, 3);
        let lengths: Vec<_> = cut_all(tiny(), &stream).iter().map(Bytes::len).collect();
        assert_eq!(lengths, [12184, 6899, 8430, 2862, 8349, 1276]);
        let stream = random_bytes(12 << 20, 3);
        let chunks = cut_all(ChunkSizes::default(), &stream);
        let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3852882, 2420516, 4194304, 2115210]);
    }
}
