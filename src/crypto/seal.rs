//! Sealing a chunk: frames, compression, key, encryption; and the way back.
//!
//! The key is derived from exactly what is encrypted (the payloads and the header that cuts
//! them), so one key and nonce can never meet two different messages, whatever a later version
//! of the compressor does.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::aead::{Cipher, CipherError, TAG_BYTES};
use super::compress::{compress, compressed_max, decompress};
use super::keys::ConvergenceSecret;
use super::layout::{
    Frame, Layout, PREFIX_BYTES, TABLE_NONCE, frame_count, frame_nonce, sealed_header_len,
};
use crate::base::limits::{CHUNK_MAX_BYTES, FRAME_BYTES};
use crate::base::{BlockKey, Class, Classify};

/// Why a chunk could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More plaintext than a chunk may have.
    #[error("a chunk of {0} bytes, more than {CHUNK_MAX_BYTES}")]
    TooLarge(usize),
    /// Sealed by a later version.
    #[error("sealed with format version {found}; this program reads up to {known}: update it")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// The header is not one that a sealer writes.
    #[error("header of a sealed chunk: {0}")]
    Header(&'static str),
    /// Bytes are missing.
    #[error("the sealed chunk is cut short")]
    Truncated,
    /// There are more bytes than the header tells of.
    #[error("bytes follow the sealed chunk")]
    Trailing,
    /// Damaged, or not sealed with this key.
    #[error("the sealed chunk does not open with this key")]
    Authentication,
    /// A frame that authenticates does not decompress to its length: its writer was at fault.
    #[error("frame {0} of the sealed chunk does not decompress")]
    Decompression(usize),
    /// No such frames in this chunk.
    #[error("the sealed chunk has no frames {0:?}")]
    NoSuchFrames(Range<usize>),
    /// The cipher library failed: an error of this program.
    #[error("the cipher failed")]
    Engine,
}

impl Classify for SealError {
    fn class(&self) -> Class {
        match self {
            SealError::TooLarge(_) | SealError::Engine | SealError::NoSuchFrames(_) => Class::Bug,
            _ => Class::Corrupt,
        }
    }
}

/// A sealed chunk and what opens it.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The sealed bytes.
    pub bytes: BytesMut,
    /// The key that opens them.
    pub key: BlockKey,
    /// Bytes of plaintext.
    pub plain_len: u32,
}

/// Most bytes that `plain_len` bytes of plaintext can take when sealed.
pub const fn sealed_len_max(plain_len: usize) -> usize {
    sealed_header_len(plain_len) + plain_len + TAG_BYTES * frame_count(plain_len)
}

/// Seals a chunk of at most `CHUNK_MAX_BYTES`.
///
/// A function of `secret` and `plain` alone (and of the compressor's version). The buffer returned
/// has a capacity of at least `reserve`, for what the caller appends without moving it.
///
/// # Errors
/// `TooLarge`.
pub fn seal(secret: &ConvergenceSecret, plain: &[u8], reserve: usize) -> Result<Sealed, SealError> {
    if plain.len() > CHUNK_MAX_BYTES {
        return Err(SealError::TooLarge(plain.len()));
    }
    let plain_len = plain.len() as u32;
    let mut bytes = BytesMut::with_capacity(reserve.max(sealed_len_max(plain.len())));
    bytes.resize(sealed_header_len(plain.len()), 0);
    let mut hasher = secret.hasher();
    let mut scratch = vec![0; compressed_max(plain.len().min(FRAME_BYTES))];
    let mut patience = Patience::default();
    let frames = plain
        .chunks(FRAME_BYTES)
        .map(|plain| {
            let packed = match patience.tries() {
                true => patience.learn(compress(plain, &mut scratch)),
                false => None,
            };
            let payload = packed.unwrap_or(plain);
            hasher.update(payload);
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(&[0; TAG_BYTES]);
            Frame {
                compressed: packed.is_some(),
                payload_len: payload.len() as u32,
            }
        })
        .collect();
    let layout = Layout::new(plain_len, frames);
    let header = layout.header();
    // The header comes after the payloads, with its length, so that full frames keep the
    // alignment at which the hash runs at its full width.
    hasher.update(header);
    hasher.update(&(header.len() as u32).to_le_bytes());
    let key = BlockKey(*hasher.finalize().as_bytes());
    encrypt(&key, &layout, &mut bytes).map_err(|_| SealError::Engine)?;
    Ok(Sealed {
        bytes,
        key,
        plain_len,
    })
}

/// Which frames of a chunk are worth trying to compress: of those that follow some that could not be
/// compressed, fewer and fewer. Most content is all of one kind, and trying is a tenth of sealing it.
#[derive(Debug, Default)]
struct Patience {
    /// Frames that could not be compressed, since the last one that could.
    failures: u32,
    /// Frames to be stored before the next is tried.
    pause: u32,
}

impl Patience {
    /// Failures before the first pause.
    const LIMIT: u32 = 2;
    /// Longest pause.
    const PAUSE_MAX: u32 = 7;

    const fn tries(&mut self) -> bool {
        match self.pause.checked_sub(1) {
            Some(left) => {
                self.pause = left;
                false
            }
            None => true,
        }
    }

    fn learn<T>(&mut self, packed: Option<T>) -> Option<T> {
        if packed.is_some() {
            self.failures = 0;
        } else {
            self.failures += 1;
            let beyond = self.failures.saturating_sub(Self::LIMIT);
            self.pause = ((1 << beyond.min(4)) - 1).min(Self::PAUSE_MAX);
        }
        packed
    }
}

/// Writes the header to the front of `bytes` and encrypts all in place.
fn encrypt(key: &BlockKey, layout: &Layout, bytes: &mut [u8]) -> Result<(), CipherError> {
    let cipher = Cipher::new(key.as_bytes())?;
    let header = layout.header();
    let (prefix, _) = header.split_at_checked(PREFIX_BYTES).ok_or(CipherError)?;
    let (front, mut rest) = bytes
        .split_at_mut_checked(header.len() + TAG_BYTES)
        .ok_or(CipherError)?;
    let (clear, _) = front
        .split_at_mut_checked(header.len())
        .ok_or(CipherError)?;
    clear.copy_from_slice(header);
    let table = front.get_mut(PREFIX_BYTES..).ok_or(CipherError)?;
    cipher.seal(TABLE_NONCE, prefix, table)?;
    for (index, frame) in layout.frames().iter().enumerate() {
        let (room, after) = rest
            .split_at_mut_checked(frame.payload_len as usize + TAG_BYTES)
            .ok_or(CipherError)?;
        cipher.seal(frame_nonce(index), header, room)?;
        rest = after;
    }
    Ok(())
}

/// Opens a whole sealed chunk, given as consecutive parts (as the shards of a stripe are).
///
/// Each frame is authenticated before any of it is returned.
///
/// # Errors
/// Any but `TooLarge`, `NoSuchFrames` for bytes that are not exactly what [`seal`] returned.
pub fn open<P: AsRef<[u8]>>(key: &BlockKey, parts: &[P]) -> Result<Bytes, SealError> {
    let cipher = Cipher::new(key.as_bytes()).map_err(|_| SealError::Engine)?;
    let parts = Parts::new(parts);
    let mut front = Vec::new();
    parts.append(
        0..sealed_header_len(CHUNK_MAX_BYTES).min(parts.len),
        &mut front,
    )?;
    let layout = Layout::open_with(&cipher, &front)?;
    let sealed_len = layout.sealed_len() as usize;
    if parts.len < sealed_len {
        return Err(SealError::Truncated);
    }
    if parts.len > sealed_len {
        return Err(SealError::Trailing);
    }
    let first = sealed_header_len(layout.plain_len() as usize);
    decrypt(&cipher, &layout, 0..layout.frame_count(), &parts, first)
}

/// Opens the frames `frames` alone, given their sealed bytes ([`Layout::sealed_range`]) as
/// consecutive parts. The result is the plaintext of [`Layout::plain_range`].
///
/// # Errors
/// `NoSuchFrames`; `Truncated` or `Trailing` if the bytes are not of that length;
/// `Authentication`, `Decompression`.
pub fn open_frames<P: AsRef<[u8]>>(
    key: &BlockKey,
    layout: &Layout,
    frames: Range<usize>,
    parts: &[P],
) -> Result<Bytes, SealError> {
    let cipher = Cipher::new(key.as_bytes()).map_err(|_| SealError::Engine)?;
    let parts = Parts::new(parts);
    let sealed = layout
        .sealed_range(frames.clone())
        .ok_or_else(|| SealError::NoSuchFrames(frames.clone()))?;
    match parts.len.cmp(&sealed.len()) {
        std::cmp::Ordering::Less => Err(SealError::Truncated),
        std::cmp::Ordering::Greater => Err(SealError::Trailing),
        std::cmp::Ordering::Equal => decrypt(&cipher, layout, frames, &parts, 0),
    }
}

/// Decrypts `frames`, the first of which begins at `offset` of `parts`.
fn decrypt<P: AsRef<[u8]>>(
    cipher: &Cipher,
    layout: &Layout,
    frames: Range<usize>,
    parts: &Parts<'_, P>,
    mut offset: usize,
) -> Result<Bytes, SealError> {
    let missing = || SealError::NoSuchFrames(frames.clone());
    let plain_len = layout
        .plain_range(frames.clone())
        .ok_or_else(missing)?
        .len();
    let wanted = layout.frames().get(frames.clone()).ok_or_else(missing)?;
    let mut plain = Vec::with_capacity(plain_len);
    let mut packed = Vec::new();
    let open = |index, text: &mut [u8], tag_at: usize| {
        let tag = parts.tag(tag_at)?;
        cipher
            .open(frame_nonce(index), layout.header(), text, tag)
            .map_err(|_| SealError::Authentication)
    };
    for (index, frame) in frames.clone().zip(wanted) {
        let end = offset + frame.payload_len as usize;
        let start = plain.len();
        if frame.compressed {
            packed.clear();
            parts.append(offset..end, &mut packed)?;
            open(index, &mut packed, end)?;
            plain.resize((start + FRAME_BYTES).min(plain_len), 0);
            let target = plain.get_mut(start..).unwrap_or_default();
            if !decompress(&packed, target) {
                return Err(SealError::Decompression(index));
            }
        } else {
            parts.append(offset..end, &mut plain)?;
            open(index, plain.get_mut(start..).unwrap_or_default(), end)?;
        }
        offset = end + TAG_BYTES;
    }
    Ok(plain.into())
}

/// Encrypts what claims to be a header and its frames, and need not be: what a hostile writer can
/// make (feature `testkit`). Payloads are cut as the table says, as far as the bytes go.
#[cfg(feature = "testkit")]
pub fn forge(key: &BlockKey, header: &[u8], mut payloads: &[u8]) -> Option<Vec<u8>> {
    let cipher = Cipher::new(key.as_bytes()).ok()?;
    let (prefix, table) = header.split_at_checked(PREFIX_BYTES)?;
    let mut sealed = [header, &[0; TAG_BYTES]].concat();
    cipher
        .seal(TABLE_NONCE, prefix, sealed.get_mut(PREFIX_BYTES..)?)
        .ok()?;
    let (words, _) = table.as_chunks::<4>();
    for (index, word) in words.iter().skip(1).enumerate() {
        let len = (u32::from_le_bytes(*word) & 0x7fff_ffff) as usize;
        let (payload, rest) = payloads.split_at(len.min(payloads.len()));
        let mut frame = [payload, &[0; TAG_BYTES]].concat();
        cipher.seal(frame_nonce(index), header, &mut frame).ok()?;
        sealed.extend_from_slice(&frame);
        payloads = rest;
    }
    Some(sealed)
}

/// Consecutive slices, read as if they were one.
struct Parts<'a, P> {
    parts: &'a [P],
    len: usize,
}

impl<'a, P: AsRef<[u8]>> Parts<'a, P> {
    fn new(parts: &'a [P]) -> Self {
        let len = parts.iter().map(|part| part.as_ref().len()).sum();
        Parts { parts, len }
    }

    /// Appends the bytes `range` to `out`.
    fn append(&self, range: Range<usize>, out: &mut Vec<u8>) -> Result<(), SealError> {
        if range.end > self.len {
            return Err(SealError::Truncated);
        }
        let mut start = 0;
        for part in self.parts {
            let part = part.as_ref();
            let from = range.start.clamp(start, start + part.len());
            let to = range.end.clamp(start, start + part.len());
            out.extend_from_slice(part.get(from - start..to - start).unwrap_or_default());
            start += part.len();
        }
        Ok(())
    }

    fn tag(&self, at: usize) -> Result<[u8; TAG_BYTES], SealError> {
        let mut tag = Vec::with_capacity(TAG_BYTES);
        self.append(at..at + TAG_BYTES, &mut tag)?;
        tag.try_into().map_err(|_| SealError::Truncated)
    }
}

#[cfg(test)]
#[path = "seal_laws.rs"]
mod laws;
