//! Sealing a chunk: frames, compression, key, encryption; and the way back.
//!
//! The key is derived from exactly what is encrypted (the payloads and the header that cuts
//! them), so one key and nonce can never meet two different messages, whatever a later version
//! of the compressor does.

use std::ops::Range;

use bytes::Bytes;

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
    /// The sealed bytes, and behind them what has no meaning.
    pub memory: Vec<u8>,
    /// How many bytes the sealed chunk has.
    pub len: usize,
    /// The key that opens them.
    pub key: BlockKey,
    /// Bytes of plaintext.
    pub plain_len: u32,
}

impl Sealed {
    /// The sealed bytes.
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }
}

/// Most bytes that `plain_len` bytes of plaintext can take when sealed.
pub const fn sealed_len_max(plain_len: usize) -> usize {
    sealed_header_len(plain_len) + plain_len + TAG_BYTES * frame_count(plain_len)
}

/// Seals a chunk of at most `CHUNK_MAX_BYTES`, given as consecutive parts.
///
/// A function of `secret` and the bytes alone (and of the compressor's version). The result is at the beginning of
/// `memory`, which is made longer if it must be: [`sealed_len_max`] is always enough.
///
/// # Errors
/// `TooLarge`.
pub fn seal<P: AsRef<[u8]>>(
    secret: &ConvergenceSecret,
    parts: &[P],
    mut memory: Vec<u8>,
) -> Result<Sealed, SealError> {
    let len = parts.iter().map(|part| part.as_ref().len()).sum();
    if len > CHUNK_MAX_BYTES {
        return Err(SealError::TooLarge(len));
    }
    let plain_len = len as u32;
    let mut hasher = secret.hasher();
    let mut scratch = vec![0; compressed_max(len.min(FRAME_BYTES))];
    // Payloads that are not as they came, one after the other.
    let mut packed = Vec::new();
    let mut joined = Vec::new();
    let mut patience = Patience::default();
    let mut frames = Vec::with_capacity(frame_count(len));
    let mut rest = Unread::new(parts);
    for _ in 0..frame_count(len) {
        let plain = rest.take(FRAME_BYTES);
        let frame_len: usize = plain.iter().map(|piece| piece.len()).sum();
        let payload = match patience.tries() {
            true => patience.learn(compress(one_piece(&plain, &mut joined), &mut scratch)),
            false => None,
        };
        match payload {
            Some(payload) => {
                hasher.update(payload);
                packed.extend_from_slice(payload);
            }
            None => plain.iter().for_each(|piece| {
                hasher.update(piece);
            }),
        }
        frames.push(Frame {
            compressed: payload.is_some(),
            payload_len: payload.map_or(frame_len, <[u8]>::len) as u32,
        });
    }
    let layout = Layout::new(plain_len, frames);
    let header = layout.header();
    // The header comes after the payloads, with its length, so that full frames keep the
    // alignment at which the hash runs at its full width.
    hasher.update(header);
    hasher.update(&(header.len() as u32).to_le_bytes());
    let key = BlockKey(*hasher.finalize().as_bytes());
    let len = layout.sealed_len() as usize;
    if memory.len() < len {
        memory.resize(len, 0);
    }
    let target = memory.get_mut(..len).ok_or(SealError::Engine)?;
    encrypt(&key, &layout, parts, &packed, target).map_err(|_| SealError::Engine)?;
    Ok(Sealed {
        memory,
        len,
        key,
        plain_len,
    })
}

/// What of consecutive parts was not taken yet.
struct Unread<'p, P> {
    parts: std::slice::Iter<'p, P>,
    piece: &'p [u8],
}

impl<'p, P: AsRef<[u8]>> Unread<'p, P> {
    fn new(parts: &'p [P]) -> Self {
        Unread {
            parts: parts.iter(),
            piece: &[],
        }
    }

    /// The next `len` bytes, or what is left.
    fn take(&mut self, mut len: usize) -> Vec<&'p [u8]> {
        let mut pieces = Vec::with_capacity(1);
        while len > 0 {
            if self.piece.is_empty() {
                let Some(part) = self.parts.next() else { break };
                self.piece = part.as_ref();
                continue;
            }
            let (now, later) = self.piece.split_at(len.min(self.piece.len()));
            len -= now.len();
            self.piece = later;
            pieces.push(now);
        }
        pieces
    }
}

/// Pieces as one, copied to `joined` if they are several.
fn one_piece<'a>(pieces: &[&'a [u8]], joined: &'a mut Vec<u8>) -> &'a [u8] {
    if let [piece] = pieces {
        return piece;
    }
    joined.clear();
    pieces
        .iter()
        .for_each(|piece| joined.extend_from_slice(piece));
    joined
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

/// Encrypts the header and the payloads, which are from `parts` or, one after the other, in `packed`.
fn encrypt<P: AsRef<[u8]>>(
    key: &BlockKey,
    layout: &Layout,
    parts: &[P],
    packed: &[u8],
    mut target: &mut [u8],
) -> Result<(), CipherError> {
    let cipher = Cipher::new(key.as_bytes())?;
    let header = layout.header();
    let (prefix, table) = header.split_at_checked(PREFIX_BYTES).ok_or(CipherError)?;
    let room = target.split_off_mut(..prefix.len()).ok_or(CipherError)?;
    room.copy_from_slice(prefix);
    let room = target.split_off_mut(..table.len() + TAG_BYTES);
    cipher.seal_to(TABLE_NONCE, prefix, &[table], room.ok_or(CipherError)?)?;
    let mut rest = Unread::new(parts);
    let mut packed = Unread::new(std::slice::from_ref(&packed));
    for (index, frame) in layout.frames().iter().enumerate() {
        let plain = rest.take(FRAME_BYTES);
        let payload = match frame.compressed {
            true => packed.take(frame.payload_len as usize),
            false => plain,
        };
        let room = target.split_off_mut(..frame.payload_len as usize + TAG_BYTES);
        let room = room.ok_or(CipherError)?;
        cipher.seal_to(frame_nonce(index), header, &payload, room)?;
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
