//! What peers say to each other about blocks: requests, responses and peer records.
//!
//! A message has a control part (DAG-CBOR) and at most one payload (a shard's bytes), which is
//! never copied into the control part. `codec` puts them on the wire.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::command::Stay;
use crate::base::{BlockId, ClaimId, IndexSet, PeerId, VolumeId};
use crate::crypto::Signature;

/// A question to another peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which shards of these blocks do you hold? At most `BATCH_BLOCKS_MAX`.
    Have {
        /// The blocks asked about.
        blocks: Vec<BlockId>,
    },
    /// As `Have`, and durably add `claim` to each block of which you hold a shard.
    Claim {
        /// The upload that wants them kept.
        claim: ClaimId,
        /// The claim is dropped if it is neither renewed nor closed by then (ms since 1970).
        expires_ms: u64,
        /// The blocks claimed.
        blocks: Vec<BlockId>,
    },
    /// Store this shard durably under `claim`. Idempotent.
    Store {
        /// The upload that wants it kept.
        claim: ClaimId,
        /// As in `Claim`.
        expires_ms: u64,
        /// The block it belongs to.
        block: BlockId,
        /// Position in the stripe.
        index: u8,
        /// Canonical stripe header of `block`.
        header: Bytes,
        /// The shard (payload).
        data: Bytes,
    },
    /// Send me one shard of `block` whose index is in `wanted`: the lowest that you hold.
    Fetch {
        /// The block wanted.
        block: BlockId,
        /// Acceptable indices.
        wanted: IndexSet,
    },
    /// Send me the groups of 16 KiB that have these bytes of one shard, and the proof that they do.
    FetchRange {
        /// The block wanted.
        block: BlockId,
        /// Position in the stripe.
        index: u8,
        /// First byte of the shard that is wanted.
        start: u32,
        /// The byte behind the last one.
        end: u32,
    },
    /// The upload behind `claim` is complete: it no longer expires.
    CloseClaim {
        /// The claim of the asking writer.
        claim: ClaimId,
    },
    /// The upload behind `claim` was given up: forget it, and what only it kept.
    ReleaseClaim {
        /// The claim of the asking writer.
        claim: ClaimId,
        /// The writer's word for others, which whoever hears of it may pass on; none from earlier versions.
        proof: Option<Signature>,
    },
    /// Signed records of the peers that you know, those closest to `near` first.
    Records {
        /// A point of the key space (as `placement` hashes it), or none for any peers.
        near: Option<[u8; 32]>,
        /// At most so many.
        limit: u32,
    },
    /// Here are signed records that are new to me.
    Announce {
        /// Encoded `SignedRecord`s.
        records: Vec<Bytes>,
    },
    /// A message about the feeds of a volume. What it says is for who serves feeds.
    Feed {
        /// One encoded message (payload).
        body: Bytes,
    },
    /// Keep this signed checkpoint record durably, and hand it to whoever asks.
    Publish {
        /// As it is encoded; at most `POINTER_MAX_BYTES`.
        record: Bytes,
    },
    /// Which checkpoint records of this volume do you keep?
    Published {
        /// The volume.
        volume: VolumeId,
    },
    /// A message about what is held and what is missing. What it says is for those who look after redundancy.
    Upkeep {
        /// One encoded message (payload).
        body: Bytes,
    },
    /// A request of a later version: answered `Unsupported`.
    Unknown {
        /// Its operation code.
        opcode: u16,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `Have` and `Claim`: the indices held, in the order asked.
    Held {
        /// One set for each block asked about.
        held: Vec<IndexSet>,
    },
    /// To `Store`: it is durable.
    Stored,
    /// To `Fetch`.
    Shard {
        /// Which shard this is.
        index: u8,
        /// All indices of the block that the peer holds.
        held: IndexSet,
        /// Canonical stripe header.
        header: Bytes,
        /// The shard (payload).
        data: Bytes,
    },
    /// To `FetchRange`: whole groups of the shard asked for.
    Range {
        /// Canonical stripe header.
        header: Bytes,
        /// Where in the shard they begin.
        start: u32,
        /// What proves them against the shard's hash in the header.
        proof: Bytes,
        /// Their bytes (payload).
        data: Bytes,
    },
    /// To `Fetch` and `FetchRange`: no acceptable shard here; these are held.
    Missing {
        /// All indices of the block that the peer holds.
        held: IndexSet,
    },
    /// To `CloseClaim`, `ReleaseClaim`, `Announce`, `Publish`: done, durably.
    Done,
    /// To `Records`.
    Records {
        /// Encoded `SignedRecord`s.
        records: Vec<Bytes>,
    },
    /// To `Feed`: what the peer says to it.
    Feed {
        /// Any number of encoded messages, as one value (payload).
        body: Bytes,
    },
    /// To `Published`: at most `POINTERS_PER_VOLUME_MAX`.
    Published {
        /// Signed checkpoint records as they are encoded.
        records: Vec<Bytes>,
    },
    /// To `Upkeep`: what the peer says to it.
    Upkeep {
        /// One encoded message (payload).
        body: Bytes,
    },
    /// Not done, and why.
    Refused {
        /// The reason.
        reason: Refusal,
        /// Bytes the peer still takes (0 where that makes no sense).
        free_bytes: u64,
    },
    /// Overloaded now; try again later or elsewhere.
    Busy,
    /// The peer does not know this request.
    Unsupported,
}

/// Why a peer refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// Its quota or disk is full.
    Full,
    /// It stores nothing for others.
    NotOffered,
    /// The asker may not do this.
    Denied,
    /// The request contradicts itself: bad hash, too large, wrong writer.
    Invalid,
    /// Its store failed; it takes nothing more until it is reopened.
    Broken,
    /// It has a newer one.
    Stale,
}

/// What a peer says of itself. Signed; the highest `seq` of a peer counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Format version.
    pub version: u8,
    /// The peer itself, whose key signs this.
    pub peer: PeerId,
    /// Grows with every change (milliseconds since 1970 at signing, at least one more than before).
    pub seq: u64,
    /// libp2p multiaddrs of the control plane.
    pub addresses: Vec<String>,
    /// `ip:port` of the bulk plane.
    pub bulk: Vec<String>,
    /// Bytes it offers to the network; 0 if it stores for nobody.
    pub capacity_bytes: u64,
    /// Of which free.
    pub free_bytes: u64,
    /// Failure domain; empty: the invitation decides.
    pub zone: String,
    /// Version of its program.
    pub program: String,
    /// Its encoded proof of membership (invitation chain).
    #[serde(with = "serde_bytes")]
    pub membership: Vec<u8>,
    /// 0: it stays; 1: it hands over what it holds, to leave; 2 and more: it has. Who leaves offers no bytes, so that whoever
    /// does not know this field gives it nothing either.
    #[serde(default, skip_serializing_if = "stays")]
    pub leaving: u8,
}

const fn stays(leaving: &u8) -> bool {
    *leaving == 0
}

impl PeerRecord {
    /// What its `leaving` says.
    pub const fn stay(&self) -> Stay {
        match self.leaving {
            0 => Stay::Stays,
            1 => Stay::Leaving,
            _ => Stay::Left,
        }
    }
}

impl Stay {
    /// As [`PeerRecord`] has it.
    pub(super) const fn to_wire(self) -> u8 {
        match self {
            Stay::Stays => 0,
            Stay::Leaving => 1,
            Stay::Left => 2,
        }
    }
}
