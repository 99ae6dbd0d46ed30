//! The fixed head of every frame, and the kinds of frame there are.

use crate::base::limits::{MESSAGE_META_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES};

use super::CodecError;

/// Bytes of a frame's head on the wire.
pub const HEADER_BYTES: usize = 19;

/// Largest payload that stands directly behind its control part.
pub const INLINE_MAX_BYTES: usize = 16 << 10;

/// Most bytes of one `Data` frame. Larger payloads travel in such segments, between which small
/// messages find their way; at most one payload at a time and direction.
pub const SEGMENT_MAX_BYTES: usize = 128 << 10;

/// Largest control part of a frame of the admission handshake, whose sender is not known yet.
pub const HELLO_META_MAX_BYTES: usize = 32 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request; the id is chosen by its sender.
    Request,
    /// The answer to the request of the same id.
    Response,
    /// The next segment of the payload that is under way under this id.
    Data,
    /// The asker of the request of this id no longer wants the answer.
    Cancel,
    /// Are you there? Answered by `Pong` with the same id.
    Ping,
    /// The answer to `Ping`.
    Pong,
    /// The sender asks nothing new on this connection; it closes when all is answered.
    Goodbye,
    /// A step of the admission handshake; only before everything else.
    Hello,
    /// A kind of a later version: skipped.
    Unknown(u8),
}

impl Kind {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Data => 3,
            Kind::Cancel => 4,
            Kind::Ping => 5,
            Kind::Pong => 6,
            Kind::Goodbye => 7,
            Kind::Hello => 8,
            Kind::Unknown(code) => code,
        }
    }

    /// The inverse of [`Kind::code`].
    pub const fn from_code(code: u8) -> Kind {
        match code {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            4 => Kind::Cancel,
            5 => Kind::Ping,
            6 => Kind::Pong,
            7 => Kind::Goodbye,
            8 => Kind::Hello,
            other => Kind::Unknown(other),
        }
    }
}

/// The head of one frame. All numbers are big-endian on the wire, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of control part behind the head.
    pub meta_len: u32,
    /// Bytes of the whole payload (of this segment, for `Data`).
    pub payload_len: u32,
    /// Ties a response, its segments and a cancellation to their request.
    pub id: u64,
    /// What the frame is.
    pub kind: Kind,
    /// Which request or response.
    pub opcode: u16,
}

impl Header {
    /// A frame that is nothing but its head.
    pub const fn bare(kind: Kind, id: u64) -> Header {
        Header {
            meta_len: 0,
            payload_len: 0,
            id,
            kind,
            opcode: 0,
        }
    }

    /// The head as it goes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.meta_len.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.payload_len.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_be_bytes());
        bytes[16] = self.kind.code();
        bytes[17..].copy_from_slice(&self.opcode.to_be_bytes());
        bytes
    }

    /// Reads a head and refuses lengths beyond the limits, before anything is allocated for them.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, CodecError> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
        let [i0, i1, i2, i3, i4, i5, i6, i7, kind, o0, o1] = rest;
        let header = Header {
            meta_len: u32::from_be_bytes([a, b, c, d]),
            payload_len: u32::from_be_bytes([e, f, g, h]),
            id: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            kind: Kind::from_code(kind),
            opcode: u16::from_be_bytes([o0, o1]),
        };
        let (meta_max, payload_max) = match header.kind {
            Kind::Request | Kind::Response | Kind::Unknown(_) => {
                (MESSAGE_META_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES)
            }
            Kind::Data => (0, SEGMENT_MAX_BYTES),
            Kind::Hello => (HELLO_META_MAX_BYTES, 0),
            Kind::Cancel | Kind::Ping | Kind::Pong | Kind::Goodbye => (0, 0),
        };
        check_size("control part", header.meta_len as usize, meta_max)?;
        check_size("payload", header.payload_len as usize, payload_max)?;
        Ok(header)
    }

    /// Payload bytes that stand directly behind the control part; the others follow as `Data`.
    pub const fn inline_len(&self) -> usize {
        let len = self.payload_len as usize;
        match self.kind {
            Kind::Data => len,
            _ if len <= INLINE_MAX_BYTES => len,
            _ => 0,
        }
    }
}

pub(super) const fn check_size(
    what: &'static str,
    size: usize,
    limit: usize,
) -> Result<(), CodecError> {
    if size > limit {
        Err(CodecError::TooLarge { what, size, limit })
    } else {
        Ok(())
    }
}
