//! The record of everything that happened, for comparing two runs.

use std::fmt;

use crate::net::codec::{CodecError, Outgoing};
use crate::net::message::{Request, Response};

/// Every event of a simulated network, in order.
#[derive(Clone)]
pub struct Trace {
    lines: Option<Vec<String>>,
    digest: blake3::Hasher,
    count: u64,
    upkeep_bytes: u64,
}

impl Trace {
    pub(super) fn new(keep: bool) -> Self {
        Trace {
            lines: keep.then(Vec::new),
            digest: blake3::Hasher::new(),
            count: 0,
            upkeep_bytes: 0,
        }
    }

    pub(super) fn add(&mut self, line: &fmt::Arguments<'_>) {
        let line = line.to_string();
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        self.count += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// The events as text, if they were kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// Number of events.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// One more message about upkeep.
    pub(super) fn add_upkeep(&mut self, message: Result<Outgoing, CodecError>) {
        self.upkeep_bytes += message.map_or(0, |message| message.wire_bytes() as u64);
    }

    /// Bytes of all messages about upkeep, as they would be on the wire, without what encrypts it.
    pub const fn upkeep_bytes(&self) -> u64 {
        self.upkeep_bytes
    }

    /// BLAKE3 of all events: equal for equal runs.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// What a trace calls it.
pub(super) const fn kind(request: &Request) -> &'static str {
    match request {
        Request::Have { .. } => "have",
        Request::Claim { .. } => "claim",
        Request::Store { .. } => "store",
        Request::Fetch { .. } => "fetch",
        Request::FetchRange { .. } => "fetch-range",
        Request::CloseClaim { .. } => "close",
        Request::ReleaseClaim { .. } => "release",
        Request::Records { .. } => "records",
        Request::Announce { .. } => "announce",
        Request::Feed { .. } => "feed",
        Request::Publish { .. } => "publish",
        Request::Published { .. } => "published",
        Request::Upkeep { .. } => "upkeep",
        Request::Unknown { .. } => "unknown",
    }
}

/// What a trace calls it.
pub(super) const fn answer_kind(response: &Response) -> &'static str {
    match response {
        Response::Held { .. } => "held",
        Response::Stored => "stored",
        Response::Shard { .. } => "shard",
        Response::Range { .. } => "range",
        Response::Missing { .. } => "missing",
        Response::Done => "done",
        Response::Records { .. } => "records",
        Response::Feed { .. } => "feed",
        Response::Published { .. } => "published",
        Response::Upkeep { .. } => "upkeep",
        Response::Refused { .. } => "refused",
        Response::Busy => "busy",
        Response::Unsupported => "unsupported",
    }
}
