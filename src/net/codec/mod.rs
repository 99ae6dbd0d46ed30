//! Requests and responses on the wire: a fixed head, a DAG-CBOR control part, and the payload,
//! which is never copied into the control part.
//!
//! Knows nothing of connections. Bytes of a peer give a value or an error, never a panic, and
//! nothing is allocated for a length that was not checked.

mod frame;
mod meta;
mod opcode;

use bytes::Bytes;

pub use frame::{
    HEADER_BYTES, HELLO_META_MAX_BYTES, Header, INLINE_MAX_BYTES, Kind, SEGMENT_MAX_BYTES,
};

use super::message::{Request, Response};
use crate::base::limits::{
    BATCH_BLOCKS_MAX, MESSAGE_META_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES, POINTER_MAX_BYTES,
    POINTERS_PER_VOLUME_MAX, RANGE_PROOF_MAX_BYTES, RECORDS_PER_MESSAGE, STRIPE_HEADER_MAX_BYTES,
};
use crate::base::wire::{self, WireError};
use crate::base::{Class, Classify};
use frame::check_size;

/// Why bytes are no message, or a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A part is larger than its limit.
    #[error("{what} of {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More items than one message may carry.
    #[error("{count} {what}, more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The control part is not what the operation code promises.
    #[error("operation {opcode}: {source}")]
    Malformed {
        /// The operation code.
        opcode: u16,
        /// What is wrong.
        source: WireError,
    },
    /// A payload where none belongs, or a shard index out of range.
    #[error("operation {opcode}: {why}")]
    Invalid {
        /// The operation code.
        opcode: u16,
        /// What is wrong.
        why: &'static str,
    },
    /// A response of a later version; it cannot answer any request of ours.
    #[error("unknown response {0}")]
    UnknownResponse(u16),
}

impl Classify for CodecError {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// A message ready to be written: the head with its control part, then the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Request or response.
    pub kind: Kind,
    /// Request id.
    pub id: u64,
    /// Head and control part.
    pub head: Bytes,
    /// Payload; shared with whoever made the message.
    pub payload: Bytes,
}

impl Outgoing {
    /// Assembles a frame. Lengths must be within the limits of its kind.
    pub(crate) fn assemble(kind: Kind, opcode: u16, id: u64, meta: &[u8], payload: Bytes) -> Self {
        let header = Header {
            meta_len: meta.len() as u32,
            payload_len: payload.len() as u32,
            id,
            kind,
            opcode,
        };
        let mut head = Vec::with_capacity(HEADER_BYTES + meta.len());
        head.extend_from_slice(&header.encode());
        head.extend_from_slice(meta);
        Outgoing {
            kind,
            id,
            head: head.into(),
            payload,
        }
    }

    /// Bytes that go on the wire, without the heads of segments.
    pub fn wire_bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// Whether this request may carry a payload.
pub const fn request_has_payload(code: u16) -> bool {
    matches!(
        code,
        opcode::request::STORE | opcode::request::FEED | opcode::request::UPKEEP
    )
}

/// Whether this response may carry a payload.
pub const fn response_has_payload(code: u16) -> bool {
    matches!(
        code,
        opcode::response::SHARD
            | opcode::response::RANGE
            | opcode::response::FEED
            | opcode::response::UPKEEP
    )
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), CodecError> {
    if count > limit {
        Err(CodecError::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

fn check_index(opcode: u16, index: u8) -> Result<(), CodecError> {
    if index < 64 {
        Ok(())
    } else {
        Err(CodecError::Invalid {
            opcode,
            why: "shard index out of range",
        })
    }
}

fn check_records(records: &[Bytes]) -> Result<(), CodecError> {
    check_count("records", records.len(), RECORDS_PER_MESSAGE)
}

fn check_pointer(record: &Bytes) -> Result<(), CodecError> {
    check_size("checkpoint record", record.len(), POINTER_MAX_BYTES)
}

fn check_pointers(records: &[Bytes]) -> Result<(), CodecError> {
    check_count("checkpoint records", records.len(), POINTERS_PER_VOLUME_MAX)?;
    records.iter().try_for_each(check_pointer)
}

/// The request as a frame with this id. Its payload is shared, not copied.
pub fn encode_request(id: u64, request: &Request) -> Result<Outgoing, CodecError> {
    use opcode::request as op;
    let none = Bytes::new;
    let (code, meta, payload) = match request {
        Request::Have { blocks } => {
            check_count("blocks", blocks.len(), BATCH_BLOCKS_MAX)?;
            (op::HAVE, wire::encode(&meta::HaveOut { blocks }), none())
        }
        Request::Claim {
            claim,
            expires_ms,
            blocks,
        } => {
            check_count("blocks", blocks.len(), BATCH_BLOCKS_MAX)?;
            let meta = meta::ClaimOut {
                claim: *claim,
                expires_ms: *expires_ms,
                blocks,
            };
            (op::CLAIM, wire::encode(&meta), none())
        }
        Request::Store {
            claim,
            expires_ms,
            block,
            index,
            header,
            data,
        } => {
            check_size("stripe header", header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_index(op::STORE, *index)?;
            let meta = meta::Store {
                claim: *claim,
                expires_ms: *expires_ms,
                block: *block,
                index: *index,
                header: header.clone(),
            };
            (op::STORE, wire::encode(&meta), data.clone())
        }
        Request::Fetch { block, wanted } => {
            let meta = meta::Fetch {
                block: *block,
                wanted: *wanted,
            };
            (op::FETCH, wire::encode(&meta), none())
        }
        Request::FetchRange {
            block,
            index,
            start,
            end,
        } => {
            check_index(op::FETCH_RANGE, *index)?;
            let meta = meta::FetchRange {
                block: *block,
                index: *index,
                start: *start,
                end: *end,
            };
            (op::FETCH_RANGE, wire::encode(&meta), none())
        }
        Request::CloseClaim { claim } => {
            let meta = meta::OneClaim { claim: *claim };
            (op::CLOSE_CLAIM, wire::encode(&meta), none())
        }
        Request::ReleaseClaim { claim, proof } => {
            let meta = meta::Release {
                claim: *claim,
                proof: *proof,
            };
            (op::RELEASE_CLAIM, wire::encode(&meta), none())
        }
        Request::Records { near, limit } => {
            let meta = meta::RecordsWanted {
                near: *near,
                limit: *limit,
            };
            (op::RECORDS, wire::encode(&meta), none())
        }
        Request::Announce { records } => {
            check_records(records)?;
            (
                op::ANNOUNCE,
                wire::encode(&meta::RecordsOut { records }),
                none(),
            )
        }
        Request::Feed { body } => (op::FEED, Vec::new(), body.clone()),
        Request::Publish { record } => {
            check_pointer(record)?;
            let meta = meta::Publish {
                record: record.clone(),
            };
            (op::PUBLISH, wire::encode(&meta), none())
        }
        Request::Published { volume } => {
            let meta = meta::Published { volume: *volume };
            (op::PUBLISHED, wire::encode(&meta), none())
        }
        Request::Upkeep { body } => (op::UPKEEP, Vec::new(), body.clone()),
        Request::Unknown { opcode } => (*opcode, Vec::new(), none()),
    };
    finish(Kind::Request, code, id, &meta, payload)
}

/// The response as a frame with this id. Its payload is shared, not copied.
pub fn encode_response(id: u64, response: &Response) -> Result<Outgoing, CodecError> {
    use opcode::response as op;
    let none = Bytes::new;
    let (code, meta, payload) = match response {
        Response::Held { held } => {
            check_count("blocks", held.len(), BATCH_BLOCKS_MAX)?;
            (op::HELD, wire::encode(&meta::HeldOut { held }), none())
        }
        Response::Stored => (op::STORED, Vec::new(), none()),
        Response::Shard {
            index,
            held,
            header,
            data,
        } => {
            check_size("stripe header", header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_index(op::SHARD, *index)?;
            let meta = meta::Shard {
                index: *index,
                held: *held,
                header: header.clone(),
            };
            (op::SHARD, wire::encode(&meta), data.clone())
        }
        Response::Range {
            header,
            start,
            proof,
            data,
        } => {
            check_size("stripe header", header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_size("proof", proof.len(), RANGE_PROOF_MAX_BYTES)?;
            let meta = meta::Range {
                header: header.clone(),
                start: *start,
                proof: proof.clone(),
            };
            (op::RANGE, wire::encode(&meta), data.clone())
        }
        Response::Missing { held } => (
            op::MISSING,
            wire::encode(&meta::Missing { held: *held }),
            none(),
        ),
        Response::Done => (op::DONE, Vec::new(), none()),
        Response::Records { records } => {
            check_records(records)?;
            (
                op::RECORDS,
                wire::encode(&meta::RecordsOut { records }),
                none(),
            )
        }
        Response::Feed { body } => (op::FEED, Vec::new(), body.clone()),
        Response::Upkeep { body } => (op::UPKEEP, Vec::new(), body.clone()),
        Response::Published { records } => {
            check_pointers(records)?;
            (
                op::PUBLISHED,
                wire::encode(&meta::RecordsOut { records }),
                none(),
            )
        }
        Response::Refused { reason, free_bytes } => {
            let meta = meta::Refused {
                reason: *reason,
                free_bytes: *free_bytes,
            };
            (op::REFUSED, wire::encode(&meta), none())
        }
        Response::Busy => (op::BUSY, Vec::new(), none()),
        Response::Unsupported => (op::UNSUPPORTED, Vec::new(), none()),
    };
    finish(Kind::Response, code, id, &meta, payload)
}

fn finish(
    kind: Kind,
    code: u16,
    id: u64,
    meta: &[u8],
    payload: Bytes,
) -> Result<Outgoing, CodecError> {
    check_size("control part", meta.len(), MESSAGE_META_MAX_BYTES)?;
    check_size("payload", payload.len(), MESSAGE_PAYLOAD_MAX_BYTES)?;
    Ok(Outgoing::assemble(kind, code, id, meta, payload))
}

fn parse<T: serde::de::DeserializeOwned>(opcode: u16, meta: &[u8]) -> Result<T, CodecError> {
    wire::decode(meta, MESSAGE_META_MAX_BYTES)
        .map_err(|source| CodecError::Malformed { opcode, source })
}

fn no_payload(opcode: u16, payload: &Bytes) -> Result<(), CodecError> {
    if payload.is_empty() {
        Ok(())
    } else {
        Err(CodecError::Invalid {
            opcode,
            why: "a payload where none belongs",
        })
    }
}

/// The request behind an operation code. A code this program does not know is no error.
pub fn decode_request(code: u16, meta: &[u8], payload: Bytes) -> Result<Request, CodecError> {
    use opcode::request as op;
    if !request_has_payload(code) && (op::HAVE..=op::LAST).contains(&code) {
        no_payload(code, &payload)?;
    }
    Ok(match code {
        op::HAVE => {
            let meta::Have { blocks } = parse(code, meta)?;
            check_count("blocks", blocks.len(), BATCH_BLOCKS_MAX)?;
            Request::Have { blocks }
        }
        op::CLAIM => {
            let meta::Claim {
                claim,
                expires_ms,
                blocks,
            } = parse(code, meta)?;
            check_count("blocks", blocks.len(), BATCH_BLOCKS_MAX)?;
            Request::Claim {
                claim,
                expires_ms,
                blocks,
            }
        }
        op::STORE => {
            let meta: meta::Store = parse(code, meta)?;
            check_size("stripe header", meta.header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_index(code, meta.index)?;
            Request::Store {
                claim: meta.claim,
                expires_ms: meta.expires_ms,
                block: meta.block,
                index: meta.index,
                header: meta.header,
                data: payload,
            }
        }
        op::FETCH => {
            let meta::Fetch { block, wanted } = parse(code, meta)?;
            Request::Fetch { block, wanted }
        }
        op::FETCH_RANGE => {
            let meta: meta::FetchRange = parse(code, meta)?;
            check_index(code, meta.index)?;
            Request::FetchRange {
                block: meta.block,
                index: meta.index,
                start: meta.start,
                end: meta.end,
            }
        }
        op::CLOSE_CLAIM => {
            let meta::OneClaim { claim } = parse(code, meta)?;
            Request::CloseClaim { claim }
        }
        op::RELEASE_CLAIM => {
            let meta::Release { claim, proof } = parse(code, meta)?;
            Request::ReleaseClaim { claim, proof }
        }
        op::RECORDS => {
            let meta::RecordsWanted { near, limit } = parse(code, meta)?;
            Request::Records { near, limit }
        }
        op::ANNOUNCE => {
            let meta::Records { records } = parse(code, meta)?;
            check_records(&records)?;
            Request::Announce { records }
        }
        op::FEED => Request::Feed { body: payload },
        op::PUBLISH => {
            let meta::Publish { record } = parse(code, meta)?;
            check_pointer(&record)?;
            Request::Publish { record }
        }
        op::PUBLISHED => {
            let meta::Published { volume } = parse(code, meta)?;
            Request::Published { volume }
        }
        op::UPKEEP => Request::Upkeep { body: payload },
        opcode => Request::Unknown { opcode },
    })
}

/// The response behind an operation code.
pub fn decode_response(code: u16, meta: &[u8], payload: Bytes) -> Result<Response, CodecError> {
    use opcode::response as op;
    if !response_has_payload(code) {
        no_payload(code, &payload)?;
    }
    Ok(match code {
        op::HELD => {
            let meta::Held { held } = parse(code, meta)?;
            check_count("blocks", held.len(), BATCH_BLOCKS_MAX)?;
            Response::Held { held }
        }
        op::STORED => Response::Stored,
        op::SHARD => {
            let meta: meta::Shard = parse(code, meta)?;
            check_size("stripe header", meta.header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_index(code, meta.index)?;
            Response::Shard {
                index: meta.index,
                held: meta.held,
                header: meta.header,
                data: payload,
            }
        }
        op::RANGE => {
            let meta: meta::Range = parse(code, meta)?;
            check_size("stripe header", meta.header.len(), STRIPE_HEADER_MAX_BYTES)?;
            check_size("proof", meta.proof.len(), RANGE_PROOF_MAX_BYTES)?;
            Response::Range {
                header: meta.header,
                start: meta.start,
                proof: meta.proof,
                data: payload,
            }
        }
        op::MISSING => {
            let meta::Missing { held } = parse(code, meta)?;
            Response::Missing { held }
        }
        op::DONE => Response::Done,
        op::RECORDS => {
            let meta::Records { records } = parse(code, meta)?;
            check_records(&records)?;
            Response::Records { records }
        }
        op::REFUSED => {
            let meta::Refused { reason, free_bytes } = parse(code, meta)?;
            Response::Refused { reason, free_bytes }
        }
        op::BUSY => Response::Busy,
        op::UNSUPPORTED => Response::Unsupported,
        op::FEED => Response::Feed { body: payload },
        op::UPKEEP => Response::Upkeep { body: payload },
        op::PUBLISHED => {
            let meta::Records { records } = parse(code, meta)?;
            check_pointers(&records)?;
            Response::Published { records }
        }
        other => return Err(CodecError::UnknownResponse(other)),
    })
}

#[cfg(test)]
mod tests;
