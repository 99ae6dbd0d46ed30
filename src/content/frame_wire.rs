//! Frames as bytes: kind (1 byte), length of the body (4 bytes, big endian), body.
//!
//! | kind | frame | body |
//! |---|---|---|
//! | 1 | Entry | DAG-CBOR `[name, 0-3, mode, seconds, nanos, size, target or path]` |
//! | 2 | Data | the bytes, 1 byte to 1 MiB |
//! | 3 | Hole | its length, 8 bytes, big endian |
//! | 4 | End | none |
//! | 5 | Error | DAG-CBOR `[class, message]` |

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use serde_bytes::ByteBuf;

use super::error::ContentError;
use super::frames::{Frame, Head, HeadKind, Remark};
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify};
use crate::dag::directory::{check_meta, check_name, check_path, check_target, check_time};
use crate::dag::{Meta, Timestamp};

/// Most bytes of one Data frame.
pub const DATA_MAX_BYTES: usize = 1 << 20;
/// Most bytes of an Entry or an Error.
const CONTROL_MAX_BYTES: usize = 16 << 10;
const HEADER_BYTES: usize = 5;
/// Data of at least this size is passed on, less is copied next to its neighbours.
const COPY_BELOW_BYTES: usize = 16 << 10;
/// Small frames are gathered into pieces of about this size.
const GATHER_BYTES: usize = 64 << 10;

const ENTRY: u8 = 1;
const DATA: u8 = 2;
const HOLE: u8 = 3;
const END: u8 = 4;
const ERROR: u8 = 5;

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;

/// Why a stream of frames cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind of frame that this program does not know.
    #[error("frame of unknown kind {0}: the other end is of another version")]
    UnknownKind(u8),
    /// A body of a length that its kind does not allow.
    #[error("frame of kind {kind} with {len} bytes")]
    Length {
        /// The kind.
        kind: u8,
        /// The length announced.
        len: u32,
    },
    /// A body that cannot be decoded.
    #[error("frame: {0}")]
    Body(#[from] WireError),
    /// An entry that must not be.
    #[error("frame: {0}")]
    Entry(&'static str),
    /// The stream ended within a frame.
    #[error("the stream ends within a frame")]
    Truncated,
}

impl Classify for FrameError {
    fn class(&self) -> Class {
        match self {
            FrameError::Truncated => Class::Closed,
            _ => Class::Denied,
        }
    }
}

/// `[name, what, mode, seconds, nanos, size, target or path]`; what does not apply is 0 or empty.
type EntryRow = (ByteBuf, u8, u16, i64, u32, u64, ByteBuf);

const fn class_number(class: Class) -> u8 {
    match class {
        Class::Retry => 0,
        Class::Missing => 1,
        Class::Corrupt => 2,
        Class::Full => 3,
        Class::Denied => 4,
        Class::Closed => 5,
        Class::Bug => 6,
    }
}

const fn class_of(number: u8) -> Option<Class> {
    Some(match number {
        0 => Class::Retry,
        1 => Class::Missing,
        2 => Class::Corrupt,
        3 => Class::Full,
        4 => Class::Denied,
        5 => Class::Closed,
        6 => Class::Bug,
        _ => return None,
    })
}

fn encode_entry(head: &Head) -> Vec<u8> {
    let none = Timestamp::default();
    let (what, mode, time, size, text): (u8, u16, Timestamp, u64, &[u8]) = match &head.kind {
        HeadKind::File { meta, size } => (FILE, meta.mode, meta.mtime, *size, &[]),
        HeadKind::Directory { meta } => (DIRECTORY, meta.mode, meta.mtime, 0, &[]),
        HeadKind::Symlink { mtime, target } => (SYMLINK, 0, *mtime, 0, target),
        HeadKind::HardLink { first } => (HARD_LINK, 0, none, 0, first),
    };
    wire::encode(&(
        serde_bytes::Bytes::new(&head.name),
        what,
        mode,
        time.seconds,
        time.nanos,
        size,
        serde_bytes::Bytes::new(text),
    ))
}

fn decode_entry(body: &[u8]) -> Result<Head, FrameError> {
    let (name, what, mode, seconds, nanos, size, text): EntryRow =
        wire::decode_canonical(body, CONTROL_MAX_BYTES)?;
    let name = name.into_vec();
    // The root has no name; only the receiver knows whether this is the root.
    if !name.is_empty() {
        check_name(&name).map_err(FrameError::Entry)?;
    }
    let mtime = Timestamp { seconds, nanos };
    check_time(&mtime).map_err(FrameError::Entry)?;
    let meta = Meta { mode, mtime };
    check_meta(&meta).map_err(FrameError::Entry)?;
    let kind = match what {
        FILE => HeadKind::File { meta, size },
        DIRECTORY => HeadKind::Directory { meta },
        SYMLINK => {
            check_target(&text).map_err(FrameError::Entry)?;
            HeadKind::Symlink {
                mtime,
                target: text.into_vec(),
            }
        }
        HARD_LINK => {
            check_path(&text).map_err(FrameError::Entry)?;
            HeadKind::HardLink {
                first: text.into_vec(),
            }
        }
        _ => return Err(FrameError::Entry("an entry of unknown kind")),
    };
    let head = Head { name, kind };
    // Also finds numbers where none belong.
    if encode_entry(&head) == body {
        Ok(head)
    } else {
        Err(FrameError::Entry(
            "an entry with fields that it cannot have",
        ))
    }
}

fn decode_error(body: &[u8]) -> Result<Remark, FrameError> {
    let (class, message): (u8, String) = wire::decode_canonical(body, CONTROL_MAX_BYTES)?;
    let class = class_of(class).ok_or(FrameError::Entry("an error of unknown class"))?;
    Ok(Remark { class, message })
}

/// Reads frames from bytes that arrive in any pieces. Data is passed on as it arrives: one frame
/// may come out as several.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    input: VecDeque<Bytes>,
    buffered: usize,
    /// Of the Data frame that is being passed on.
    data_left: usize,
    /// Kind and length of the frame whose body is not complete.
    header: Option<(u8, usize)>,
}

impl FrameDecoder {
    /// Takes more of the stream.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.input.push_back(bytes);
        }
    }

    /// The next frame, if enough of it is here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if self.data_left > 0 {
                let piece = self.take_some(self.data_left);
                self.data_left -= piece.as_ref().map_or(0, Bytes::len);
                return Ok(piece.map(Frame::Data));
            }
            let (kind, len) = match self.header {
                Some(header) => header,
                None => {
                    let Some(header) = self.take_exact(HEADER_BYTES) else {
                        return Ok(None);
                    };
                    let header = read_header(&header)?;
                    if header.0 == DATA {
                        self.data_left = header.1;
                        continue;
                    }
                    self.header = Some(header);
                    header
                }
            };
            let Some(body) = self.take_exact(len) else {
                return Ok(None);
            };
            self.header = None;
            return read_body(kind, &body).map(Some);
        }
    }

    /// Whether the stream may end here.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffered == 0 && self.data_left == 0 && self.header.is_none() {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }

    fn take_some(&mut self, most: usize) -> Option<Bytes> {
        let front = self.input.front_mut()?;
        let piece = if front.len() <= most {
            self.input.pop_front()?
        } else {
            front.split_to(most)
        };
        self.buffered -= piece.len();
        Some(piece)
    }

    fn take_exact(&mut self, len: usize) -> Option<Bytes> {
        if self.buffered < len {
            return None;
        }
        if len == 0 || self.input.front().is_some_and(|front| front.len() >= len) {
            return Some(self.take_some(len).unwrap_or_default());
        }
        let mut gathered = BytesMut::with_capacity(len);
        while gathered.len() < len {
            gathered.extend_from_slice(&self.take_some(len - gathered.len())?);
        }
        Some(gathered.freeze())
    }
}

fn read_header(header: &[u8]) -> Result<(u8, usize), FrameError> {
    let &[kind, a, b, c, d] = header else {
        return Err(FrameError::Truncated);
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    let bounds = match kind {
        ENTRY | ERROR => 1..=CONTROL_MAX_BYTES,
        DATA => 1..=DATA_MAX_BYTES,
        HOLE => 8..=8,
        END => 0..=0,
        other => return Err(FrameError::UnknownKind(other)),
    };
    if bounds.contains(&(len as usize)) {
        Ok((kind, len as usize))
    } else {
        Err(FrameError::Length { kind, len })
    }
}

fn read_body(kind: u8, body: &[u8]) -> Result<Frame, FrameError> {
    match kind {
        ENTRY => decode_entry(body).map(Frame::Entry),
        HOLE => {
            let len = body.try_into().map(u64::from_be_bytes);
            match len {
                Ok(len) if len > 0 => Ok(Frame::Hole(len)),
                _ => Err(FrameError::Entry("a hole without length")),
            }
        }
        END => Ok(Frame::End),
        ERROR => decode_error(body).map(Frame::Error),
        other => Err(FrameError::UnknownKind(other)),
    }
}

/// Writes frames, small ones side by side, large data without a copy.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    gathered: BytesMut,
    ready: VecDeque<Bytes>,
}

impl FrameEncoder {
    /// Appends a frame. Data of any size is divided as needed; empty data is left out.
    pub fn push(&mut self, frame: &Frame) {
        match frame {
            Frame::Entry(head) => self.control(ENTRY, &encode_entry(head)),
            Frame::Data(bytes) => {
                let mut rest = bytes.clone();
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(DATA_MAX_BYTES));
                    self.data(part);
                }
            }
            Frame::Hole(len) => self.control(HOLE, &len.to_be_bytes()),
            Frame::End => self.control(END, &[]),
            Frame::Error(remark) => {
                // The rest of a message that is too long is not worth a failure.
                let message: String = remark.message.chars().take(2000).collect();
                let body = wire::encode(&(class_number(remark.class), message));
                self.control(ERROR, &body);
            }
        }
        if self.gathered.len() >= GATHER_BYTES {
            self.flush();
        }
    }

    /// The next piece that is complete.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Completes the piece that is being gathered.
    pub fn flush(&mut self) {
        if !self.gathered.is_empty() {
            self.ready.push_back(self.gathered.split().freeze());
        }
    }

    fn header(&mut self, kind: u8, len: usize) {
        self.gathered.put_u8(kind);
        self.gathered.put_u32(len as u32);
    }

    fn control(&mut self, kind: u8, body: &[u8]) {
        self.header(kind, body.len());
        self.gathered.extend_from_slice(body);
    }

    fn data(&mut self, bytes: Bytes) {
        self.header(DATA, bytes.len());
        if bytes.len() < COPY_BELOW_BYTES {
            self.gathered.extend_from_slice(&bytes);
        } else {
            self.flush();
            self.ready.push_back(bytes);
        }
    }
}

/// Decodes a body. An `Error` frame comes out as the error that it reports.
pub fn decode_frames<S>(body: S) -> impl Stream<Item = Result<Frame, ContentError>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    let state = (body, FrameDecoder::default());
    stream::try_unfold(state, |(mut body, mut decoder)| async move {
        loop {
            match decoder.next_frame()? {
                Some(Frame::Error(Remark { class, message })) => {
                    return Err(ContentError::Sender { class, message });
                }
                Some(frame) => return Ok(Some((frame, (body, decoder)))),
                None => {}
            }
            match body.next().await {
                Some(Ok(bytes)) => decoder.push(bytes),
                Some(Err(error)) => return Err(ContentError::BrokenOff(error.to_string())),
                None => {
                    decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    })
}

/// Encodes frames as a body. An error becomes the last frame. What is gathered is sent as soon as
/// the next frame has to be waited for.
pub fn encode_frames<S>(frames: S) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = Result<Frame, ContentError>> + Send,
{
    let mut frames = Some(Box::pin(frames));
    let mut encoder = FrameEncoder::default();
    stream::poll_fn(move |context| {
        loop {
            if let Some(bytes) = encoder.pop() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            let Some(source) = &mut frames else {
                return Poll::Ready(None);
            };
            match Pin::as_mut(source).poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => encoder.push(&frame),
                Poll::Ready(Some(Err(error))) => {
                    encoder.push(&Frame::Error(Remark {
                        class: error.class(),
                        message: error.to_string(),
                    }));
                    encoder.flush();
                    frames = None;
                }
                Poll::Ready(None) => {
                    encoder.flush();
                    frames = None;
                }
                Poll::Pending => {
                    encoder.flush();
                    return match encoder.pop() {
                        Some(bytes) => Poll::Ready(Some(Ok(bytes))),
                        None => Poll::Pending,
                    };
                }
            }
        }
    })
}
