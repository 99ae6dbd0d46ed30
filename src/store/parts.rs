//! Parts of shards, read without the rest and checked all the same.
//!
//! When a part of a shard is first asked for, the whole of it is read once, and the hashes of its groups are
//! kept in memory together with its header and its place. From then on a part costs its own pages.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::disk::DiskFile;
use super::error::StoreError;
use super::read::{ReadFail, read_copy};
use super::rows::ShardRow;
use super::shared::Shared;
use crate::base::{BlockId, IndexSet, Lru, ShardId};
use crate::erasure::{Outboard, Stripe, VerifiedPart};

/// Memory that one shard takes in the cache besides its header and hashes.
const ENTRY_BYTES: usize = 400;

/// Why a part could not be read.
#[derive(Debug)]
pub struct PartError(pub(super) ReadFail);

/// A shard of which parts are read.
#[derive(Debug)]
struct Known {
    stripe: Arc<Stripe>,
    outboard: Outboard,
    /// Where it was. It may have moved since: what is read there is checked anyway.
    row: ShardRow,
}

/// The shards of which parts were read last.
#[derive(Debug)]
pub(super) struct Outboards(Mutex<Lru<ShardId, Arc<Known>>>);

impl Outboards {
    pub(super) const fn new(budget_bytes: usize) -> Self {
        Outboards(Mutex::new(Lru::new(budget_bytes)))
    }

    fn lock(&self) -> MutexGuard<'_, Lru<ShardId, Arc<Known>>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Whole groups of one shard, with what they are checked against.
#[derive(Debug, Clone)]
pub struct FoundPart {
    known: Arc<Known>,
    part: VerifiedPart,
}

impl FoundPart {
    /// The header of the block.
    pub fn stripe(&self) -> &Arc<Stripe> {
        &self.known.stripe
    }

    /// The bytes.
    pub const fn part(&self) -> &VerifiedPart {
        &self.part
    }

    /// What proves them to somebody else.
    pub fn proof(&self) -> Vec<u8> {
        let start = self.part.at();
        let range = start..start + self.part.data().len();
        self.known.outboard.prove(range)
    }
}

/// Reads parts of shards that are held, on the thread that it was given to.
#[derive(Debug)]
pub struct PartReader<'a>(&'a Shared);

impl<'a> PartReader<'a> {
    pub(super) const fn new(shared: &'a Shared) -> Self {
        PartReader(shared)
    }

    /// The groups that have the bytes `range` of a shard; `None` if it is not held, or `range` is empty
    /// or beyond it.
    ///
    /// # Errors
    /// `Corrupt` if the shard is damaged there.
    pub fn read(
        &self,
        block: BlockId,
        index: u8,
        range: &Range<u32>,
    ) -> Result<Option<FoundPart>, PartError> {
        let id = ShardId { block, index };
        self.find(id, range).map_err(PartError)
    }

    fn find(&self, id: ShardId, range: &Range<u32>) -> Result<Option<FoundPart>, ReadFail> {
        let shared = self.0;
        shared.check_readable()?;
        let known = shared.outboards.lock().get(&id).map(Arc::clone);
        if let Some(known) = known {
            if known.stripe.aligned(range).is_empty() {
                return Ok(None);
            }
            if let Ok(Some(found)) = self.read_known(&known, range) {
                return Ok(Some(found));
            }
            // Moved, deleted or damaged: the index knows, or learns it.
            shared.outboards.lock().remove(&id);
        }
        let Some(known) = self.learn(id)? else {
            return Ok(None);
        };
        if known.stripe.aligned(range).is_empty() {
            return Ok(None);
        }
        match self.read_known(&known, range) {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Err(ReadFail::Store(StoreError::Corrupt(id))),
            Err(error) => Err(ReadFail::Store(StoreError::Io(error.to_string()))),
        }
    }

    /// Reads and checks a whole shard, and remembers what its parts are checked with.
    fn learn(&self, id: ShardId) -> Result<Option<Arc<Known>>, ReadFail> {
        let ShardId { block, index } = id;
        let learn = |file: &dyn DiskFile, row: &ShardRow| {
            // Through the page cache, from which its parts are read next.
            let copy = read_copy(file, row, |file, offset, len| {
                file.read_vec(offset, len).map(Bytes::from)
            })?;
            let known = copy.and_then(|copy| {
                // A copy, so that it does not keep the whole shard.
                let header = Bytes::copy_from_slice(&copy.header);
                let stripe = Stripe::new(block, header).ok()?;
                let outboard = stripe.outboard(index, &copy.data).ok()?;
                Some(Known {
                    stripe: Arc::new(stripe),
                    outboard,
                    row: *row,
                })
            });
            Ok(known)
        };
        let found = self.0.find(block, IndexSet::one(index), learn)?;
        Ok(found.map(|(known, _)| {
            let known = Arc::new(known);
            let encoded = known.stripe.encoded().len();
            // The header once as it is, once as it was read.
            let weight = ENTRY_BYTES + 2 * encoded + known.outboard.memory_bytes();
            let mut outboards = self.0.outboards.lock();
            outboards.insert(id, Arc::clone(&known), weight);
            known
        }))
    }

    /// `None` if what is there is not what it should be.
    fn read_known(&self, known: &Arc<Known>, range: &Range<u32>) -> io::Result<Option<FoundPart>> {
        let whole = known.stripe.aligned(range);
        let read = |file: &dyn DiskFile, row: &ShardRow| {
            let at = u64::from(row.at.offset) + u64::from(row.data_at) + whole.start as u64;
            let bytes = Bytes::from(file.read_vec(at, whole.len())?);
            Ok(VerifiedPart::check(
                &known.outboard,
                row.index,
                whole.start,
                bytes,
            ))
        };
        let part = self.0.read_at(&known.row, read)?;
        Ok(part.map(|part| FoundPart {
            known: Arc::clone(known),
            part,
        }))
    }
}
