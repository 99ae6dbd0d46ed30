//! The header of a sealed chunk: where its frames lie, so that a part of it can be opened alone.
//!
//! ```text
//! sealed = prefix (4) | table (4 + 4n, encrypted) | tag (16) | frame 0 | .. | frame n-1
//! prefix = version u8 | cipher u8 | frame count n u16
//! table  = plaintext length u32 | n x { bit 31: compressed, bits 0..31: payload length }
//! frame  = payload (encrypted) | tag (16)
//! ```
//!
//! Integers are little-endian. The table is encrypted because lengths of compressed pieces would
//! tell a storage peer which well-known file it holds. A frame's associated data is the whole
//! header in clear, prefix and table.

use std::ops::Range;

use super::aead::{Cipher, NONCE_BYTES, TAG_BYTES};
use super::compress::compressed_max;
use super::seal::SealError;
use crate::base::BlockKey;
use crate::base::limits::{CHUNK_MAX_BYTES, FRAME_BYTES};

/// Version written by this program.
pub const SEAL_VERSION: u8 = 1;
/// AES-256-GCM.
pub const CIPHER_AES_256_GCM: u8 = 1;

pub(super) const PREFIX_BYTES: usize = 4;
const LENGTH_BYTES: usize = 4;
const ENTRY_BYTES: usize = 4;
const COMPRESSED: u32 = 1 << 31;

/// Frames of a chunk of `plain_len` bytes: all full but the last, none for an empty chunk.
pub(super) const fn frame_count(plain_len: usize) -> usize {
    plain_len.div_ceil(FRAME_BYTES)
}

/// Bytes before the first frame of a sealed chunk of `plain_len` bytes of plaintext.
pub const fn sealed_header_len(plain_len: usize) -> usize {
    header_len(frame_count(plain_len)) + TAG_BYTES
}

/// Bytes of the header in clear.
const fn header_len(frames: usize) -> usize {
    PREFIX_BYTES + LENGTH_BYTES + ENTRY_BYTES * frames
}

/// The nonce of the table: no frame has that many predecessors.
pub(super) const TABLE_NONCE: [u8; NONCE_BYTES] = [0xff; NONCE_BYTES];

/// The nonce of a frame: its index.
pub(super) fn frame_nonce(index: usize) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&(index as u64).to_le_bytes());
    nonce
}

/// How one frame is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) compressed: bool,
    /// Bytes encrypted: the tag comes on top.
    pub(super) payload_len: u32,
}

/// Where everything is in one sealed chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    plain_len: u32,
    frames: Vec<Frame>,
    /// Offset of each frame in the sealed chunk, and its end.
    offsets: Vec<u32>,
    /// The header in clear.
    header: Vec<u8>,
}

impl Layout {
    /// For the sealer: the caller vouches that `frames` are those of `plain_len` bytes.
    pub(super) fn new(plain_len: u32, frames: Vec<Frame>) -> Self {
        let mut header = Vec::with_capacity(header_len(frames.len()));
        header.extend_from_slice(&[SEAL_VERSION, CIPHER_AES_256_GCM]);
        header.extend_from_slice(&(frames.len() as u16).to_le_bytes());
        header.extend_from_slice(&plain_len.to_le_bytes());
        let mut offsets = Vec::with_capacity(frames.len() + 1);
        let mut offset = (header_len(frames.len()) + TAG_BYTES) as u32;
        for frame in &frames {
            offsets.push(offset);
            offset += frame.payload_len + TAG_BYTES as u32;
            let flag = if frame.compressed { COMPRESSED } else { 0 };
            header.extend_from_slice(&(frame.payload_len | flag).to_le_bytes());
        }
        offsets.push(offset);
        Layout {
            plain_len,
            frames,
            offsets,
            header,
        }
    }

    /// Bytes of the sealed header, by the first four bytes of a sealed chunk.
    ///
    /// # Errors
    /// If they are not the beginning of one that this program can read.
    pub fn sealed_header_len(prefix: [u8; PREFIX_BYTES]) -> Result<usize, SealError> {
        let [version, cipher, low, high] = prefix;
        if version != SEAL_VERSION {
            return Err(SealError::Version {
                found: version,
                known: SEAL_VERSION,
            });
        }
        if cipher != CIPHER_AES_256_GCM {
            return Err(SealError::Header("unknown cipher"));
        }
        let frames = usize::from(u16::from_le_bytes([low, high]));
        if frames > frame_count(CHUNK_MAX_BYTES) {
            return Err(SealError::Header("more frames than a chunk has"));
        }
        Ok(header_len(frames) + TAG_BYTES)
    }

    /// Opens and checks the header at the front of `sealed`; what follows it is not looked at.
    ///
    /// # Errors
    /// `Truncated`, `Version`, `Header`, or `Authentication` if the key is not that of this chunk.
    pub fn open(key: &BlockKey, sealed: &[u8]) -> Result<Layout, SealError> {
        let cipher = Cipher::new(key.as_bytes()).map_err(|_| SealError::Engine)?;
        Self::open_with(&cipher, sealed)
    }

    pub(super) fn open_with(cipher: &Cipher, sealed: &[u8]) -> Result<Layout, SealError> {
        let prefix = sealed
            .first_chunk::<PREFIX_BYTES>()
            .ok_or(SealError::Truncated)?;
        let sealed_header_len = Self::sealed_header_len(*prefix)?;
        let (table, tag) = sealed
            .get(PREFIX_BYTES..sealed_header_len)
            .and_then(|table| table.split_last_chunk())
            .ok_or(SealError::Truncated)?;
        let mut header = [prefix, table].concat();
        let opened = header.get_mut(PREFIX_BYTES..).unwrap_or_default();
        cipher
            .open(TABLE_NONCE, prefix, opened, *tag)
            .map_err(|_| SealError::Authentication)?;
        Self::decode(&header)
    }

    /// Reads a header in clear. Accepts exactly what [`Layout::new`] writes.
    fn decode(header: &[u8]) -> Result<Layout, SealError> {
        let words = header.get(PREFIX_BYTES..).unwrap_or_default();
        let (words, rest) = words.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let plain_len = words
            .next()
            .filter(|_| rest.is_empty())
            .ok_or(SealError::Header("its length is wrong"))?;
        if plain_len as usize > CHUNK_MAX_BYTES {
            return Err(SealError::Header("more plaintext than a chunk has"));
        }
        if frame_count(plain_len as usize) != words.len() {
            return Err(SealError::Header("frames do not add up to the plaintext"));
        }
        let frames: Vec<Frame> = words
            .map(|word| Frame {
                compressed: word & COMPRESSED != 0,
                payload_len: word & !COMPRESSED,
            })
            .collect();
        for (index, frame) in frames.iter().enumerate() {
            let plain = frame_plain_len(plain_len as usize, index);
            let payload = frame.payload_len as usize;
            let sound = if frame.compressed {
                payload > 0 && payload <= compressed_max(plain)
            } else {
                payload == plain
            };
            if !sound {
                return Err(SealError::Header("a frame's length is impossible"));
            }
        }
        let layout = Layout::new(plain_len, frames);
        if layout.header == header {
            Ok(layout)
        } else {
            Err(SealError::Header("not in canonical form"))
        }
    }

    /// Bytes of plaintext.
    pub const fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// Bytes of the whole sealed chunk.
    pub fn sealed_len(&self) -> u32 {
        self.offsets.last().copied().unwrap_or_default()
    }

    /// Number of frames.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// The frames that hold the plaintext bytes `range`; none for an empty or outlying range.
    pub fn frames_of(&self, range: Range<u32>) -> Range<usize> {
        let end = range.end.min(self.plain_len) as usize;
        let start = range.start as usize;
        if start >= end {
            return 0..0;
        }
        start / FRAME_BYTES..end.div_ceil(FRAME_BYTES)
    }

    /// Where the sealed bytes of these frames are; `None` if there are no such frames.
    pub fn sealed_range(&self, frames: Range<usize>) -> Option<Range<u32>> {
        Some(*self.offsets.get(frames.start)?..*self.offsets.get(frames.end)?)
            .filter(|range| range.start <= range.end)
    }

    /// Which plaintext bytes these frames hold; `None` if there are no such frames.
    pub fn plain_range(&self, frames: Range<usize>) -> Option<Range<u32>> {
        if frames.start > frames.end || frames.end > self.frames.len() {
            return None;
        }
        let at = |frame: usize| ((frame * FRAME_BYTES) as u32).min(self.plain_len);
        Some(at(frames.start)..at(frames.end))
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }
}

/// Bytes of plaintext in frame `index` of a chunk of `plain_len` bytes.
fn frame_plain_len(plain_len: usize, index: usize) -> usize {
    plain_len
        .saturating_sub(index * FRAME_BYTES)
        .min(FRAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(compressed: bool, payload_len: u32) -> Frame {
        Frame {
            compressed,
            payload_len,
        }
    }

    #[test]
    fn only_possible_headers_are_read() {
        let full = FRAME_BYTES as u32;
        let good = Layout::new(full + 100, vec![frame(true, 5), frame(false, 100)]);
        assert_eq!(Layout::decode(&good.header).unwrap(), good);
        assert_eq!(
            Layout::decode(&Layout::new(0, vec![]).header)
                .unwrap()
                .sealed_len(),
            24
        );

        let most = compressed_max(FRAME_BYTES) as u32;
        for (plain_len, frames) in [
            (full, vec![frame(false, full - 1)]),
            (full, vec![frame(false, full + 1)]),
            (full, vec![frame(true, 0)]),
            (full, vec![frame(true, most + 1)]),
            (full, vec![]),
            (full, vec![frame(false, full), frame(false, 0)]),
            (full + 1, vec![frame(false, full)]),
            (full + 1, vec![frame(false, 1), frame(false, full)]),
            (u32::MAX, vec![frame(false, full)]),
            (CHUNK_MAX_BYTES as u32 + 1, vec![frame(false, full); 65]),
        ] {
            let header = Layout::new(plain_len, frames).header;
            assert!(Layout::decode(&header).is_err(), "{header:?}");
        }
        for cut in 0..good.header.len() {
            assert!(Layout::decode(&good.header[..cut]).is_err());
        }
        let mut long = good.header;
        long.push(0);
        assert!(Layout::decode(&long).is_err());
    }

    #[test]
    fn ranges_meet_their_frames() {
        let full = FRAME_BYTES as u32;
        let layout = Layout::new(
            2 * full + 7,
            vec![frame(false, full), frame(true, 9), frame(false, 7)],
        );
        assert_eq!(layout.frames_of(0..1), 0..1);
        assert_eq!(layout.frames_of(full - 1..full + 1), 0..2);
        assert_eq!(layout.frames_of(full..u32::MAX), 1..3);
        for nothing in [5..5, 2 * full + 7..u32::MAX] {
            assert!(layout.frames_of(nothing).is_empty());
        }
        assert_eq!(layout.plain_range(1..3).unwrap(), full..2 * full + 7);
        let middle = layout.sealed_range(1..2).unwrap();
        assert_eq!(middle.len(), 9 + TAG_BYTES);
        assert_eq!(layout.sealed_range(0..3).unwrap().end, layout.sealed_len());
        assert!(layout.sealed_range(0..4).is_none());
        assert!(layout.plain_range(2..4).is_none());
    }
}
