//! The control parts: DAG-CBOR maps. A later version may add keys; unknown keys are ignored.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::{BlockId, ClaimId, IndexSet, VolumeId};
use crate::crypto::Signature;
use crate::net::message::Refusal;

#[derive(Serialize)]
pub(super) struct HaveOut<'a> {
    pub(super) blocks: &'a [BlockId],
}

#[derive(Deserialize)]
pub(super) struct Have {
    pub(super) blocks: Vec<BlockId>,
}

#[derive(Serialize)]
pub(super) struct ClaimOut<'a> {
    pub(super) claim: ClaimId,
    pub(super) expires_ms: u64,
    pub(super) blocks: &'a [BlockId],
}

#[derive(Deserialize)]
pub(super) struct Claim {
    pub(super) claim: ClaimId,
    pub(super) expires_ms: u64,
    pub(super) blocks: Vec<BlockId>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Store {
    pub(super) claim: ClaimId,
    pub(super) expires_ms: u64,
    pub(super) block: BlockId,
    pub(super) index: u8,
    pub(super) header: Bytes,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Fetch {
    pub(super) block: BlockId,
    pub(super) wanted: IndexSet,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FetchRange {
    pub(super) block: BlockId,
    pub(super) index: u8,
    pub(super) start: u32,
    pub(super) end: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OneClaim {
    pub(super) claim: ClaimId,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Release {
    pub(super) claim: ClaimId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<Signature>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RecordsWanted {
    #[serde(with = "serde_bytes")]
    pub(super) near: Option<[u8; 32]>,
    pub(super) limit: u32,
}

#[derive(Serialize)]
pub(super) struct RecordsOut<'a> {
    pub(super) records: &'a [Bytes],
}

#[derive(Deserialize)]
pub(super) struct Records {
    pub(super) records: Vec<Bytes>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Publish {
    pub(super) record: Bytes,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) volume: VolumeId,
}

#[derive(Serialize)]
pub(super) struct HeldOut<'a> {
    pub(super) held: &'a [IndexSet],
}

#[derive(Deserialize)]
pub(super) struct Held {
    pub(super) held: Vec<IndexSet>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Shard {
    pub(super) index: u8,
    pub(super) held: IndexSet,
    pub(super) header: Bytes,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) header: Bytes,
    pub(super) start: u32,
    pub(super) proof: Bytes,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Missing {
    pub(super) held: IndexSet,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) reason: Refusal,
    pub(super) free_bytes: u64,
}
