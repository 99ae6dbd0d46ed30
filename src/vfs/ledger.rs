//! What of each block is in use, and what keeps the block: so that a block nobody uses any more is let go.
//!
//! Every reference that is on this disk counts: those of the namespace, those of changed files, and those of
//! contents that were dropped and not looked through yet. Counts change in the same group as the references.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::inner::Inner;
use super::rows::{BLOCKS, RELEASES};
use crate::base::limits::ROW_GROUP_MAX_BYTES;
use crate::base::profile::MAX_STRIPE_SHARDS;
use crate::base::{BlockId, BlockRef, EcProfile, PeerId, wire};
use crate::dag::{self, Extent, NodeAt};
use crate::namespace::Body;
use crate::store::{Group, Seq, VolumeError};

/// Version of the rows.
const VERSION: u8 = 1;
/// Version of a dropped content of which a part has been let go.
const VERSION_IN_PARTS: u8 = 2;
/// Claims that keep one block, unless a later one makes it safer.
const KEEPERS_MAX: usize = 3;
/// About what each peer in a row takes, and what the rest of the rows of one block does.
const PEER_COST: usize = 36;
const TENANT_COST: usize = 256;
/// Longest row that is read: some claims with their holders.
const ROW_MAX_BYTES: usize = 16 << 10;

/// What keeps a block at its holders: an upload's claim, and who was told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keeper {
    /// Number of the claim.
    pub(super) number: u64,
    /// Peers that know it.
    pub(super) peers: Vec<PeerId>,
}

/// One block of the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tenant {
    version: u8,
    /// Bytes of its plaintext.
    pub(super) plain_len: u32,
    /// Of which are in use; more than all, if some are used several times.
    pub(super) live: u64,
    /// Peers whose loss it survived when it was placed.
    pub(super) survives: u32,
    pub(super) keepers: Vec<Keeper>,
    /// Its redundancy, if that is not the volume's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<EcProfile>,
}

/// How counts change.
#[derive(Debug, Default)]
pub(super) struct Deltas(pub(super) BTreeMap<BlockId, i64>);

/// A block that was placed.
#[derive(Debug, Clone)]
pub(super) struct Born {
    pub(super) block: BlockRef,
    pub(super) profile: EcProfile,
    pub(super) survives: u32,
    pub(super) keeper: Keeper,
}

impl Deltas {
    pub(super) fn add(&mut self, block: BlockId, bytes: i64) {
        *self.0.entry(block).or_insert(0) += bytes;
    }

    pub(super) fn extents(&mut self, extents: &[Extent], sign: i64) {
        for extent in extents {
            self.add(extent.block.id, sign * i64::from(extent.len));
        }
    }

    pub(super) fn node(&mut self, node: &NodeAt, sign: i64) {
        self.add(node.block.id, sign * i64::from(node.len));
    }
}

impl Tenant {
    pub(super) fn decode(bytes: &[u8]) -> Option<Tenant> {
        let tenant: Tenant = wire::decode(bytes, ROW_MAX_BYTES).ok()?;
        (tenant.version == VERSION).then_some(tenant)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }
}

/// A content that was dropped, of which everything below `from` has been let go.
pub(super) fn encode_dropped(profile: EcProfile, body: &dag::Body<NodeAt>, from: u64) -> Vec<u8> {
    let (extents, node) = match body {
        dag::Body::Inline(extents) => {
            let rows = extents.iter();
            let rows = rows.map(|e| (e.offset, e.len, e.block, e.block_offset));
            (rows.collect::<Vec<_>>(), None)
        }
        dag::Body::Manifest(node) => (Vec::new(), Some((node.block, node.offset, node.len))),
    };
    match from {
        0 => wire::encode(&(VERSION, profile, extents, node)),
        from => wire::encode(&(VERSION_IN_PARTS, profile, extents, node, from)),
    }
}

type Extents = Vec<(u64, u32, BlockRef, u32)>;
type Root = Option<(BlockRef, u32, u32)>;

/// A content that was dropped, and from where on it has not been let go yet.
pub(super) fn decode_dropped(bytes: &[u8]) -> Option<(Body, u64)> {
    let whole = wire::decode::<(u8, EcProfile, Extents, Root)>(bytes, ROW_MAX_BYTES);
    let (profile, extents, node, from) = match whole {
        Ok((VERSION, profile, extents, node)) => (profile, extents, node, 0),
        _ => {
            let part = wire::decode::<(u8, EcProfile, Extents, Root, u64)>(bytes, ROW_MAX_BYTES);
            let (version, profile, extents, node, from) = part.ok()?;
            if version != VERSION_IN_PARTS {
                return None;
            }
            (profile, extents, node, from)
        }
    };
    let body = match node {
        Some((block, offset, len)) => dag::Body::Manifest(NodeAt { block, offset, len }),
        None => dag::Body::Inline(
            extents
                .into_iter()
                .map(|(offset, len, block, block_offset)| Extent {
                    offset,
                    len,
                    block,
                    block_offset,
                })
                .collect(),
        ),
    };
    Some((Body::Stored(profile, body), from))
}

impl Inner {
    /// Blocks whose counts may change in one group: so few that their rows leave half of it for the rest.
    pub(super) fn blocks_per_group(&self) -> usize {
        let shards = match self.policies.any() {
            true => MAX_STRIPE_SHARDS,
            false => self.identity.profile.total_shards(),
        };
        let peers = shards * KEEPERS_MAX;
        ROW_GROUP_MAX_BYTES / 2 / (peers * PEER_COST + TENANT_COST)
    }

    /// Applies a group together with the changes of counts that go with it.
    pub(super) fn apply_counted(
        &self,
        group: &mut Group,
        deltas: &Deltas,
        born: &[Born],
    ) -> Result<Seq, VolumeError> {
        let mut placed = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let has_zeros = self.count(group, deltas, born)?;
        let seq = self.volume.apply(group)?;
        for born in born {
            placed.insert(born.block.id, Instant::now());
        }
        if has_zeros {
            self.dropping.notify_one();
        }
        Ok(seq)
    }

    /// Whether a block that was placed again has enough that keeps it. It is left alone for a while, as one
    /// that was just placed.
    pub(super) fn is_kept_enough(&self, born: &Born) -> Result<bool, VolumeError> {
        let mut placed = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = self.tenant(born.block.id)?;
        let is_enough = tenant.is_some_and(|tenant| {
            tenant.keepers.len() >= KEEPERS_MAX && tenant.survives >= born.survives
        });
        if is_enough {
            placed.insert(born.block.id, Instant::now());
        }
        Ok(is_enough)
    }

    /// Adds rows of counts to a group. Whether any block is not in use any more.
    fn count(
        &self,
        group: &mut Group,
        deltas: &Deltas,
        born: &[Born],
    ) -> Result<bool, VolumeError> {
        let mut has_zeros = false;
        let mut tenants: BTreeMap<BlockId, Tenant> = BTreeMap::new();
        for born in born {
            let id = born.block.id;
            let mut tenant = match tenants.remove(&id) {
                Some(tenant) => tenant,
                None => self.tenant(id)?.unwrap_or(Tenant {
                    version: VERSION,
                    plain_len: born.block.plain_len,
                    live: 0,
                    survives: born.survives,
                    keepers: Vec::new(),
                    profile: Some(born.profile).filter(|of| *of != self.identity.profile),
                }),
            };
            // The block was just being let go: what kept it is still to be released with it.
            if let Some(row) = self.volume.get(RELEASES, &id.0)?
                && let Some(leaving) = Tenant::decode(&row)
            {
                tenant.keepers.extend(leaving.keepers);
            }
            tenant.survives = born.survives;
            tenant.keepers.push(born.keeper.clone());
            tenants.insert(id, tenant);
        }
        for (id, delta) in deltas.0.iter().filter(|(_, delta)| **delta != 0) {
            let tenant = match tenants.remove(id) {
                Some(tenant) => Some(tenant),
                None => self.tenant(*id)?,
            };
            let Some(mut tenant) = tenant else {
                // Another member placed it, and keeps it.
                if self.is_shared() {
                    continue;
                }
                if *delta > 0 {
                    return Err(VolumeError::Io(format!("block {id} was let go meanwhile")));
                }
                tracing::error!(block = %id, "a block in use has no row of its own");
                continue;
            };
            tenant.live = tenant.live.saturating_add_signed(*delta);
            tenants.insert(*id, tenant);
        }
        for (id, tenant) in tenants {
            if tenant.live == 0 {
                has_zeros = true;
                group.put(RELEASES, &id.0, &[]);
            }
            group.put(BLOCKS, &id.0, &tenant.encode());
        }
        Ok(has_zeros)
    }

    /// The redundancy of a block that is in the books.
    pub(super) fn profile_of_block(&self, tenant: &Tenant) -> EcProfile {
        tenant.profile.unwrap_or(self.identity.profile)
    }

    pub(super) fn tenant(&self, id: BlockId) -> Result<Option<Tenant>, VolumeError> {
        let row = self.volume.get(BLOCKS, &id.0)?;
        Ok(row.and_then(|row| Tenant::decode(&row)))
    }
}
