//! Parts of a stripe: which pieces of which data shards have a range of the sealed chunk, and the proof
//! that a piece is what it should be.

use std::ops::Range;

use bytes::Bytes;

use super::stripe::{StripeError, StripeHeader};
use super::tree::{self, Outboard};
use crate::base::{BlockId, ShardId};

/// A stripe header that belongs to its block. Can only be made by checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripe {
    block: BlockId,
    encoded: Bytes,
    header: StripeHeader,
}

/// Bytes of one data shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Position in the stripe.
    pub index: u8,
    /// Which bytes of the shard.
    pub range: Range<u32>,
}

/// Whole groups of one shard, proven to be its bytes. Can only be made by checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPart {
    index: u8,
    at: usize,
    data: Bytes,
}

impl Stripe {
    /// Checks that `encoded` is the header of `block`.
    pub fn new(block: BlockId, encoded: Bytes) -> Result<Self, StripeError> {
        let header = StripeHeader::read(block, &encoded)?;
        Ok(Stripe {
            block,
            encoded,
            header,
        })
    }

    /// The block.
    pub const fn block(&self) -> BlockId {
        self.block
    }

    /// The header.
    pub const fn header(&self) -> &StripeHeader {
        &self.header
    }

    /// The header as it is stored and sent.
    pub const fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The pieces of data shards that have the bytes `range` of the sealed chunk, in order.
    pub fn pieces(&self, range: Range<u32>) -> Vec<Piece> {
        let shard_len = self.header.shard_len;
        let end = range.end.min(self.header.sealed_len);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < end {
            let (index, from) = (at / shard_len, at % shard_len);
            let len = (shard_len - from).min(end - at);
            pieces.push(Piece {
                index: index as u8,
                range: from..from + len,
            });
            at += len;
        }
        pieces
    }

    /// The whole groups that have the bytes `range` of a shard.
    pub fn aligned(&self, range: &Range<u32>) -> Range<usize> {
        let range = range.start as usize..range.end as usize;
        tree::aligned(range, self.header.shard_len as usize)
    }

    /// Checks by `proof` that `data` are the bytes at `at` of shard `index`.
    pub fn verify(
        &self,
        index: u8,
        at: usize,
        data: Bytes,
        proof: &[u8],
    ) -> Result<VerifiedPart, StripeError> {
        let hash = self.header.shard_hash(index)?;
        match tree::proves(hash, self.header.shard_len as usize, at, &data, proof) {
            true => Ok(VerifiedPart { index, at, data }),
            false => Err(self.wrong(index)),
        }
    }

    /// Checks a whole shard. Answers the hashes by which its parts are checked from then on.
    pub fn outboard(&self, index: u8, shard: &[u8]) -> Result<Outboard, StripeError> {
        let expected = self.header.shard_hash(index)?;
        let (outboard, hash) = Outboard::new(shard);
        match shard.len() == self.header.shard_len as usize && hash == *expected {
            true => Ok(outboard),
            false => Err(self.wrong(index)),
        }
    }

    const fn wrong(&self, index: u8) -> StripeError {
        StripeError::WrongShard(ShardId {
            block: self.block,
            index,
        })
    }
}

impl VerifiedPart {
    /// Checks by the hashes of a shard's groups that `data` are its bytes at `at`. The caller vouches that
    /// `outboard` is that of shard `index`.
    pub fn check(outboard: &Outboard, index: u8, at: usize, data: Bytes) -> Option<Self> {
        outboard
            .matches(at, &data)
            .then_some(VerifiedPart { index, at, data })
    }

    /// Position in the stripe.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// Where in the shard it begins.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// All its bytes.
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// These bytes of the shard, if the part has them.
    pub fn get(&self, range: &Range<u32>) -> Option<Bytes> {
        let start = (range.start as usize).checked_sub(self.at)?;
        let end = (range.end as usize).checked_sub(self.at)?;
        (start <= end && end <= self.data.len()).then(|| self.data.slice(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{EcProfile, Entropy};
    use crate::erasure::encode_stripe;

    #[test]
    fn any_range_of_a_sealed_chunk_is_put_together_from_proven_parts() {
        let entropy = Entropy::seeded(1);
        for len in [1, 5, 1000, 100_001, 400_000] {
            let mut sealed = vec![0; len];
            entropy.fill(&mut sealed);
            let profile = EcProfile::DEFAULT;
            let coded = encode_stripe(sealed.clone(), profile).unwrap();
            let stripe = Stripe::new(coded.id, coded.header.clone()).unwrap();
            for _ in 0..50 {
                let a = entropy.below(len as u64) as u32;
                let b = entropy.below(len as u64) as u32;
                let range = a.min(b)..a.max(b) + 1;
                let mut found = Vec::new();
                for piece in stripe.pieces(range.clone()) {
                    let shard = coded.shards[usize::from(piece.index)].data();
                    let outboard = stripe.outboard(piece.index, shard).unwrap();
                    let whole = stripe.aligned(&piece.range);
                    let data = shard.slice(whole.clone());
                    let proof = outboard.prove(whole.clone());
                    let part = stripe
                        .verify(piece.index, whole.start, data.clone(), &proof)
                        .unwrap();
                    let again = VerifiedPart::check(&outboard, piece.index, whole.start, data);
                    assert_eq!(again.as_ref(), Some(&part));
                    found.extend_from_slice(&part.get(&piece.range).unwrap());
                    assert!(part.get(&(0..u32::MAX)).is_none());
                    // Of another shard it is not.
                    let other = (piece.index + 1) % 4;
                    let data = part.data().clone();
                    assert!(stripe.verify(other, whole.start, data, &proof).is_err());
                    assert!(stripe.outboard(other, shard).is_err());
                }
                assert_eq!(found, sealed[range.start as usize..range.end as usize]);
            }
            assert_eq!(stripe.pieces(0..u32::MAX), stripe.pieces(0..len as u32));
            assert!(stripe.pieces(len as u32..u32::MAX).is_empty());
            let other = BlockId([1; 32]);
            assert!(Stripe::new(other, coded.header.clone()).is_err());
        }
    }
}
