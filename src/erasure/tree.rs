//! Parts of a shard, proven against its hash.
//!
//! The hash of a shard is plain BLAKE3, which is the root of a binary tree (the paper, section 2.1). Cut
//! into groups of 16 KiB, whole subtrees all but the last, any run of groups is proven by the hashes of
//! the largest subtrees beside it, as Bao does it: about 32 bytes for each doubling of the shard.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::base::ShardHash;

/// Bytes of one group: the least that can be proven. Large enough to hash at full speed.
pub const GROUP_BYTES: usize = 16 << 10;
/// Bytes of one hash.
pub const HASH_BYTES: usize = 32;

/// What one subtree is to a walk.
enum Subtree {
    /// Known by its hash.
    Hash(ChainingValue),
    /// To be walked through.
    Open,
}

/// The hashes of all groups of one shard: with them any part of it is checked alone.
///
/// Can only be made of the whole shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outboard {
    len: usize,
    hashes: Vec<ChainingValue>,
}

/// Groups that a shard of so many bytes has.
const fn group_count(len: usize) -> usize {
    len.div_ceil(GROUP_BYTES)
}

/// The bytes of the groups that meet `range`, of a shard of `len` bytes. Empty if `range` is, or is beyond.
pub fn aligned(range: Range<usize>, len: usize) -> Range<usize> {
    if range.start >= range.end || range.start >= len {
        return 0..0;
    }
    let start = range.start / GROUP_BYTES * GROUP_BYTES;
    let end = range.end.div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES);
    start..end.min(len)
}

/// Most bytes of a proof for a shard of `len` bytes.
pub const fn proof_max(len: usize) -> usize {
    // At most two hashes on each level.
    2 * HASH_BYTES * (usize::BITS - group_count(len).leading_zeros()) as usize
}

/// Whether `range` is made of whole groups of a shard of `len` bytes.
fn is_aligned(range: &Range<usize>, len: usize) -> bool {
    !range.is_empty() && aligned(range.clone(), len) == *range
}

const fn groups_of(range: &Range<usize>) -> Range<usize> {
    range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES)
}

/// The hash of one group, which is not the only one.
fn hash_group(group: usize, bytes: &[u8]) -> ChainingValue {
    Hasher::new()
        .set_input_offset((group * GROUP_BYTES) as u64)
        .update(bytes)
        .finalize_non_root()
}

/// Where a tree over these groups, at least two, is divided.
const fn middle(groups: &Range<usize>) -> usize {
    let count = groups.end - groups.start;
    groups.start + count.next_power_of_two() / 2
}

/// The hash of the subtree over `groups`; `None` if `look` knows no further.
fn fold(
    groups: Range<usize>,
    look: &mut impl FnMut(&Range<usize>) -> Option<Subtree>,
) -> Option<ChainingValue> {
    match look(&groups)? {
        Subtree::Hash(hash) => Some(hash),
        Subtree::Open => {
            let (left, right) = children(&groups, look)?;
            Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

fn children(
    groups: &Range<usize>,
    look: &mut impl FnMut(&Range<usize>) -> Option<Subtree>,
) -> Option<(ChainingValue, ChainingValue)> {
    let middle = middle(groups);
    let left = fold(groups.start..middle, look)?;
    let right = fold(middle..groups.end, look)?;
    Some((left, right))
}

impl Outboard {
    /// The hashes of a whole shard's groups, and the shard's hash.
    pub fn new(shard: &[u8]) -> (Self, ShardHash) {
        let len = shard.len();
        if len <= GROUP_BYTES {
            let hash = *blake3::hash(shard).as_bytes();
            let hashes = vec![hash];
            return (Outboard { len, hashes }, ShardHash(hash));
        }
        let groups = shard.chunks(GROUP_BYTES).enumerate();
        let hashes = groups.map(|(at, bytes)| hash_group(at, bytes)).collect();
        let outboard = Outboard { len, hashes };
        let hash = outboard.root();
        (outboard, hash)
    }

    fn root(&self) -> ShardHash {
        let mut known = |groups: &Range<usize>| match groups.len() {
            1 => self.hashes.get(groups.start).copied().map(Subtree::Hash),
            _ => Some(Subtree::Open),
        };
        // Every group has its hash.
        let (left, right) = children(&(0..self.hashes.len()), &mut known).unwrap_or_default();
        ShardHash(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
    }

    /// Bytes of the shard.
    pub const fn shard_len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it takes.
    pub const fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.hashes.len() * HASH_BYTES
    }

    /// Whether `bytes` are those at `at` of the shard: whole groups, at least one.
    pub fn matches(&self, at: usize, bytes: &[u8]) -> bool {
        let range = at..at.saturating_add(bytes.len());
        if !is_aligned(&range, self.len) {
            return false;
        }
        let Some(hashes) = self.hashes.get(groups_of(&range)) else {
            return false;
        };
        if self.hashes.len() == 1 {
            return hashes.first() == Some(blake3::hash(bytes).as_bytes());
        }
        let groups = groups_of(&range).zip(bytes.chunks(GROUP_BYTES));
        groups
            .zip(hashes)
            .all(|((group, bytes), hash)| hash_group(group, bytes) == *hash)
    }

    /// What proves the bytes `range` of the shard, which are whole groups, to somebody who knows its hash.
    pub fn prove(&self, range: Range<usize>) -> Vec<u8> {
        let wanted = groups_of(&range);
        let mut proof = Vec::new();
        if self.hashes.len() < 2 || !is_aligned(&range, self.len) {
            return proof;
        }
        let mut known = |groups: &Range<usize>| {
            let is_apart = groups.end <= wanted.start || wanted.end <= groups.start;
            if is_apart {
                let hash = self.hash_of(groups.clone())?;
                proof.extend_from_slice(&hash);
                return Some(Subtree::Hash(hash));
            }
            match groups.len() {
                1 => self.hashes.get(groups.start).copied().map(Subtree::Hash),
                _ => Some(Subtree::Open),
            }
        };
        let _ = children(&(0..self.hashes.len()), &mut known);
        proof
    }

    fn hash_of(&self, groups: Range<usize>) -> Option<ChainingValue> {
        fold(groups, &mut |groups| match groups.len() {
            1 => self.hashes.get(groups.start).copied().map(Subtree::Hash),
            _ => Some(Subtree::Open),
        })
    }
}

/// Whether `proof` shows that `bytes` are those at `at` of the shard of `len` bytes with this hash.
pub fn proves(hash: &ShardHash, len: usize, at: usize, bytes: &[u8], proof: &[u8]) -> bool {
    let range = at..at.saturating_add(bytes.len());
    if !is_aligned(&range, len) {
        return false;
    }
    let count = group_count(len);
    if count == 1 {
        return proof.is_empty() && blake3::hash(bytes).as_bytes() == hash.as_bytes();
    }
    let (hashes, rest) = proof.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() {
        return false;
    }
    let wanted = groups_of(&range);
    let mut hashes = hashes.iter();
    let mut look = |groups: &Range<usize>| {
        if groups.end <= wanted.start || wanted.end <= groups.start {
            return hashes.next().copied().map(Subtree::Hash);
        }
        if groups.len() > 1 {
            return Some(Subtree::Open);
        }
        let from = groups.start * GROUP_BYTES - at;
        let group = bytes.get(from..bytes.len().min(from + GROUP_BYTES))?;
        Some(Subtree::Hash(hash_group(groups.start, group)))
    };
    let Some((left, right)) = children(&(0..count), &mut look) else {
        return false;
    };
    let root = merge_subtrees_root(&left, &right, Mode::Hash);
    hashes.next().is_none() && root.as_bytes() == hash.as_bytes()
}

#[cfg(test)]
#[path = "tree_laws.rs"]
mod laws;
