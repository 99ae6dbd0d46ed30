//! Sealing a chunk: frames, compression, key, encryption; and the way back.
//!
//! The key is derived from exactly what is encrypted (the payloads and the header that cuts
//! them), so one key and nonce can never meet two different messages, whatever a later version
//! of the compressor does.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::aead::{Cipher, CipherError, TAG_BYTES};
use super::compress::{compress, decompress};
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
    let mut frames = Vec::with_capacity(frame_count(plain.len()));
    for plain in plain.chunks(FRAME_BYTES) {
        frames.push(pack_frame(plain, &mut bytes, &mut hasher));
    }
    let layout = Layout::new(plain_len, frames);
    let header = layout.header();
    // The header comes after the payloads, with its length, so that full frames keep the
    // alignment at which the hash runs at its full width.
    hasher.update(header);
    hasher.update(&(header.len() as u32).to_le_bytes());
    let key = BlockKey(*hasher.finalize().as_bytes());
    encrypt(&key, &layout, plain, &mut bytes).map_err(|_| SealError::Engine)?;
    Ok(Sealed {
        bytes,
        key,
        plain_len,
    })
}

/// Makes room for one frame at the end of `bytes`, fills it if the frame compresses, and hashes
/// its payload.
fn pack_frame(plain: &[u8], bytes: &mut BytesMut, hasher: &mut blake3::Hasher) -> Frame {
    let start = bytes.len();
    bytes.resize(start + plain.len() + TAG_BYTES, 0);
    let room = bytes.get_mut(start..).unwrap_or_default();
    match compress(plain, room) {
        Some(payload_len) => {
            hasher.update(room.get(..payload_len).unwrap_or_default());
            bytes.truncate(start + payload_len + TAG_BYTES);
            Frame {
                compressed: true,
                payload_len: payload_len as u32,
            }
        }
        None => {
            hasher.update(plain);
            Frame {
                compressed: false,
                payload_len: plain.len() as u32,
            }
        }
    }
}

/// Encrypts the table and all frames to where they belong in `bytes`.
fn encrypt(
    key: &BlockKey,
    layout: &Layout,
    plain: &[u8],
    bytes: &mut [u8],
) -> Result<(), CipherError> {
    let cipher = Cipher::new(key.as_bytes())?;
    let header = layout.header();
    let (prefix, table) = header.split_at_checked(PREFIX_BYTES).ok_or(CipherError)?;
    let (front, mut rest) = bytes
        .split_at_mut_checked(header.len() + TAG_BYTES)
        .ok_or(CipherError)?;
    let (front_prefix, front_table) = front
        .split_at_mut_checked(PREFIX_BYTES)
        .ok_or(CipherError)?;
    front_prefix.copy_from_slice(prefix);
    cipher.seal(TABLE_NONCE, prefix, table, front_table)?;

    for (index, (frame, plain)) in layout
        .frames()
        .iter()
        .zip(plain.chunks(FRAME_BYTES))
        .enumerate()
    {
        let (room, after) = rest
            .split_at_mut_checked(frame.payload_len as usize + TAG_BYTES)
            .ok_or(CipherError)?;
        if frame.compressed {
            cipher.seal_in_place(frame_nonce(index), header, room)?;
        } else {
            cipher.seal(frame_nonce(index), header, plain, room)?;
        }
        rest = after;
    }
    Ok(())
}

/// Opens a whole sealed chunk, given as consecutive parts (as the shards of a stripe are).
///
/// Each frame is authenticated before any of it is returned; frames within one part are not
/// copied before they are decrypted.
///
/// # Errors
/// Any but `TooLarge`, `NoSuchFrames` for bytes that are not exactly what [`seal`] returned.
pub fn open<P: AsRef<[u8]>>(key: &BlockKey, parts: &[P]) -> Result<Bytes, SealError> {
    let cipher = Cipher::new(key.as_bytes()).map_err(|_| SealError::Engine)?;
    let parts = Parts::new(parts);
    let mut scratch = Vec::new();
    let header_max = sealed_header_len(CHUNK_MAX_BYTES).min(parts.len);
    let front = parts.get(0..header_max, &mut scratch)?;
    let layout = Layout::open_with(&cipher, front)?;
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
    let plain_range = layout.plain_range(frames.clone()).ok_or_else(missing)?;
    let wanted = layout.frames().get(frames.clone()).ok_or_else(missing)?;
    let mut plain = vec![0; plain_range.len()];
    let mut gathered = Vec::new();
    let mut packed = Vec::new();
    let targets = plain.chunks_mut(FRAME_BYTES);
    for ((index, frame), target) in frames.clone().zip(wanted).zip(targets) {
        let end = offset + frame.payload_len as usize + TAG_BYTES;
        let sealed = parts.get(offset..end, &mut gathered)?;
        offset = end;
        let nonce = frame_nonce(index);
        if frame.compressed {
            packed.resize(frame.payload_len as usize, 0);
            cipher
                .open(nonce, layout.header(), sealed, &mut packed)
                .map_err(|_| SealError::Authentication)?;
            if !decompress(&packed, target) {
                return Err(SealError::Decompression(index));
            }
        } else {
            cipher
                .open(nonce, layout.header(), sealed, target)
                .map_err(|_| SealError::Authentication)?;
        }
    }
    Ok(plain.into())
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

    /// The bytes `range`: in place if one part holds them, else gathered in `scratch`.
    fn get<'b>(&self, range: Range<usize>, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], SealError>
    where
        'a: 'b,
    {
        let mut start = 0;
        scratch.clear();
        for part in self.parts {
            let part = part.as_ref();
            let end = start + part.len();
            let from = range.start.max(start);
            let to = range.end.min(end);
            if from < to {
                let piece = part
                    .get(from - start..to - start)
                    .ok_or(SealError::Truncated)?;
                if piece.len() == range.len() {
                    return Ok(piece);
                }
                scratch.extend_from_slice(piece);
            }
            start = end;
        }
        if scratch.len() == range.len() {
            Ok(scratch)
        } else {
            Err(SealError::Truncated)
        }
    }
}

#[cfg(test)]
#[path = "seal_laws.rs"]
mod laws;
