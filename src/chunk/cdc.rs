//! Content-defined chunks of a stream.
//!
//! FastCDC (Xia et al., 2020) without its two-level masks: bytes before the smallest size are
//! not looked at, and one mask decides from there on, which brings two streams that differ in
//! front back into step soonest.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use fastcdc::v2020::MASKS;

use super::gear::Gear;
use super::sizes::ChunkSizes;
use crate::base::Chunk;

/// Pieces of fewer bytes are put together: each takes memory of its own.
const SMALL_BYTES: usize = 16 << 10;

/// Cuts streams into chunks, which depend on a stream's bytes alone and not on how they arrive.
///
/// Chunks are made of the pieces that were pushed: nothing is copied but small pieces. Holds less than the
/// largest chunk, if chunks are taken after each push.
#[derive(Debug)]
pub struct Cutter {
    sizes: ChunkSizes,
    gear: Gear,
    /// What the next chunks are made of.
    pieces: VecDeque<Bytes>,
    len: usize,
    /// Small pieces behind them.
    tail: BytesMut,
    finished: bool,
    scan: Scan,
}

/// How far the next chunk's end was looked for.
#[derive(Debug, Default)]
struct Scan {
    /// Bytes that are in the chunk for certain.
    at: usize,
    hash: u64,
    /// The piece in which that is, and what is before that piece.
    piece: usize,
    before: usize,
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
            gear: Gear::new(MASKS.get(bits.min(last)).copied().unwrap_or(u64::MAX)),
            pieces: VecDeque::new(),
            len: 0,
            tail: BytesMut::new(),
            finished: false,
            scan: Scan::default(),
        }
    }

    /// Takes more of the stream.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL_BYTES {
            self.tail.extend_from_slice(&piece);
            if self.tail.len() < SMALL_BYTES {
                return;
            }
            self.take_tail();
        } else {
            self.take_tail();
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn take_tail(&mut self) {
        if !self.tail.is_empty() {
            self.len += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// The stream is at its end: the rest becomes chunks too, and behind them the next stream
    /// begins.
    pub fn finish(&mut self) {
        self.take_tail();
        self.finished = true;
    }

    /// The next chunk, if the bytes so far decide it. Never empty.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        if self.len == 0 {
            self.finished = false;
            return None;
        }
        let cut = match self.find_end() {
            Some(end) => end,
            None if self.len >= self.sizes.max() => self.sizes.max(),
            None if self.finished => self.len,
            None => return None,
        };
        self.scan = Scan::default();
        Some(self.split_to(cut))
    }

    /// Where the next chunk ends by its content: in front of the byte that says so. Goes on where it
    /// stopped.
    fn find_end(&mut self) -> Option<usize> {
        // Bytes are looked at in pairs, since the crate did: the last of an odd number ends nothing.
        let end = self.len.min(self.sizes.max()) & !1;
        let scan = &mut self.scan;
        scan.at = scan.at.max(self.sizes.min());
        while scan.at < end {
            let piece = self.pieces.get(scan.piece)?;
            if scan.before + piece.len() <= scan.at {
                scan.before += piece.len();
                scan.piece += 1;
                continue;
            }
            let from = scan.at - scan.before;
            let upto = piece.len().min(end - scan.before);
            let bytes = piece.get(from..upto).unwrap_or_default();
            if let Some(found) = self.gear.find(&mut scan.hash, bytes) {
                return Some(scan.at + found);
            }
            scan.at += bytes.len();
        }
        None
    }

    fn split_to(&mut self, mut len: usize) -> Chunk {
        self.len -= len;
        let mut chunk = Chunk::default();
        while len > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                break;
            };
            let part = piece.split_to(len.min(piece.len()));
            if !piece.has_remaining() {
                self.pieces.pop_front();
            }
            len -= part.len();
            chunk.push(part);
        }
        chunk
    }
}

#[cfg(test)]
mod tests {
    use fastcdc::v2020;
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

    fn drain(cutter: &mut Cutter) -> impl Iterator<Item = Bytes> {
        std::iter::from_fn(|| cutter.next_chunk()).map(|chunk| chunk.join())
    }

    fn cut_all(sizes: ChunkSizes, stream: &[u8]) -> Vec<Bytes> {
        let mut cutter = Cutter::new(sizes);
        cutter.push(Bytes::copy_from_slice(stream));
        cutter.finish();
        drain(&mut cutter).collect()
    }

    /// Where the crate cuts.
    fn cut_by_crate(sizes: ChunkSizes, mut stream: &[u8]) -> Vec<Bytes> {
        let mask = Cutter::new(sizes).gear.mask();
        let (min, max) = (sizes.min(), sizes.max());
        let mut chunks = Vec::new();
        while !stream.is_empty() {
            let (_, len) = v2020::cut(stream, min, min, max, mask, mask, mask << 1, mask << 1);
            let (chunk, rest) = stream.split_at(len);
            chunks.push(Bytes::copy_from_slice(chunk));
            stream = rest;
        }
        chunks
    }

    proptest! {
        #![proptest_config(cases(64))]

        #[test]
        fn chunks_do_not_depend_on_how_bytes_arrive(
            len in 0usize..200_000,
            seed: u64,
            pushes in prop::collection::vec(prop_oneof![1usize..100, 1usize..40_000], 1..20),
        ) {
            let stream = random_bytes(len, seed);
            let whole = cut_all(tiny(), &stream);
            prop_assert_eq!(&whole, &cut_by_crate(tiny(), &stream));
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
            for len in pushes.iter().cycle() {
                let (now, later) = rest.split_at((*len).min(rest.len()));
                cutter.push(Bytes::copy_from_slice(now));
                chunks.extend(drain(&mut cutter));
                prop_assert!(cutter.len < tiny().max());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            cutter.finish();
            chunks.extend(drain(&mut cutter));
            prop_assert_eq!(chunks, whole);
        }
    }

    #[test]
    fn one_cutter_serves_many_streams() {
        let mut cutter = Cutter::new(tiny());
        for (seed, len) in [(1, 100_000), (2, 0), (3, 5), (4, 300_000)] {
            let stream = random_bytes(len, seed);
            let mut chunks = Vec::new();
            for piece in stream.chunks(3000) {
                cutter.push(Bytes::copy_from_slice(piece));
                chunks.extend(drain(&mut cutter));
            }
            cutter.finish();
            chunks.extend(drain(&mut cutter));
            assert_eq!(chunks, cut_all(tiny(), &stream));
        }
    }

    #[test]
    fn large_pieces_are_not_copied_and_small_ones_become_few() {
        let mut cutter = Cutter::new(ChunkSizes::default());
        let large = Bytes::from(random_bytes(6 << 20, 5));
        for piece in [0..1 << 20, 1 << 20..6 << 20] {
            cutter.push(large.slice(piece));
        }
        let chunk = cutter.next_chunk().unwrap();
        assert_eq!(chunk.pieces()[0].as_ptr(), large.as_ptr());
        assert!(chunk.pieces().len() <= 2);
        let mut cutter = Cutter::new(tiny());
        let stream = random_bytes(200_000, 6);
        for byte in &stream {
            cutter.push(Bytes::copy_from_slice(&[*byte]));
        }
        assert!(cutter.pieces.len() < 200_000 / SMALL_BYTES + 1);
        cutter.finish();
        assert_eq!(
            drain(&mut cutter).collect::<Vec<_>>(),
            cut_all(tiny(), &stream)
        );
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
