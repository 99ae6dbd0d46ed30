//! The meta part of a record: what it says, without where it is and who vouches for it.

use bytes::Bytes;

use super::{ClaimEnd, Entry, KvKey, KvPair, Position, TOMBS_MAX, Tomb};
use crate::base::limits::{BATCH_BLOCKS_MAX, STRIPE_HEADER_MAX_BYTES};
use crate::base::{BlockId, ClaimId, OwnerId, PeerId};
use crate::erasure::StripeHeader;

/// Bytes of a shard's meta part before its stripe header.
pub(super) const SHARD_META_LEN: usize = 72;
/// A value length that stands for a deletion.
const DELETED: u32 = u32::MAX;

fn put_claim(out: &mut Vec<u8>, claim: &ClaimId) {
    out.extend_from_slice(&claim.owner.0);
    out.extend_from_slice(&claim.writer.0);
    out.extend_from_slice(&claim.number.to_le_bytes());
}

pub(super) fn encode_meta(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    match entry {
        Entry::Shard {
            index,
            header,
            claim,
            moved_from,
            block: _,
        } => {
            let flags = u8::from(claim.is_some()) | u8::from(moved_from.is_some()) << 1;
            out.extend_from_slice(&[*index, flags]);
            out.extend_from_slice(&(header.len() as u16).to_le_bytes());
            out.extend_from_slice(&moved_from.unwrap_or(0).to_le_bytes());
            match claim {
                Some((claim, expires_ms)) => {
                    out.extend_from_slice(&expires_ms.to_le_bytes());
                    put_claim(&mut out, claim);
                }
                None => out.resize(SHARD_META_LEN, 0),
            }
            out.extend_from_slice(header);
        }
        Entry::Claim {
            claim,
            expires_ms,
            blocks,
        } => {
            out.extend_from_slice(&expires_ms.to_le_bytes());
            put_claim(&mut out, claim);
            out.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
            for block in blocks {
                out.extend_from_slice(&block.0);
            }
        }
        Entry::State { claim, end } => {
            put_claim(&mut out, claim);
            let (state, oldest, newest) = match end {
                ClaimEnd::Closed => (1u32, 0, 0),
                ClaimEnd::Released { oldest, newest } => (2, *oldest, *newest),
            };
            for number in [state, oldest, newest] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        Entry::Tombs(tombs) => {
            out.extend_from_slice(&(tombs.len() as u32).to_le_bytes());
            for tomb in tombs {
                out.extend_from_slice(&tomb.block.0);
                for number in [u32::from(tomb.index), tomb.at.segment, tomb.at.offset] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        Entry::Kv(pairs) => {
            out.extend_from_slice(&(pairs.len() as u32).to_le_bytes());
            for pair in pairs {
                let value_len = pair.value.as_ref().map_or(DELETED, |v| v.len() as u32);
                out.extend_from_slice(&(pair.key.0.len() as u32).to_le_bytes());
                out.extend_from_slice(&value_len.to_le_bytes());
                out.extend_from_slice(&pair.key.0);
                out.extend_from_slice(pair.value.as_deref().unwrap_or_default());
            }
        }
    }
    out
}

pub(super) const fn kind(entry: &Entry) -> u8 {
    match entry {
        Entry::Shard { .. } => 1,
        Entry::Claim { .. } => 2,
        Entry::State { .. } => 3,
        Entry::Tombs(_) => 4,
        Entry::Kv(_) => 5,
    }
}

/// Reads numbers and byte strings off the front of a slice; `None` at its end.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn block(&mut self) -> Option<BlockId> {
        self.array().map(BlockId)
    }

    fn claim(&mut self) -> Option<ClaimId> {
        Some(ClaimId {
            owner: OwnerId(self.array()?),
            writer: PeerId(self.array()?),
            number: self.u64()?,
        })
    }
}

pub(super) fn decode_meta(kind: u8, meta: &[u8]) -> Option<Entry> {
    let mut reader = Reader(meta);
    let entry = match kind {
        1 => {
            let [index, flags] = reader.array()?;
            let header_len = usize::from(reader.u16()?);
            let moved_from = reader.u32()?;
            let expires_ms = reader.u64()?;
            let claim = reader.claim()?;
            let header = reader.take(header_len)?;
            if header_len > STRIPE_HEADER_MAX_BYTES {
                return None;
            }
            Entry::Shard {
                block: StripeHeader::address(header),
                index,
                header: Bytes::copy_from_slice(header),
                claim: (flags & 1 != 0).then_some((claim, expires_ms)),
                moved_from: (flags & 2 != 0).then_some(moved_from),
            }
        }
        2 => {
            let expires_ms = reader.u64()?;
            let claim = reader.claim()?;
            let count = reader.u32()? as usize;
            if count > BATCH_BLOCKS_MAX {
                return None;
            }
            let blocks = (0..count).map(|_| reader.block()).collect::<Option<_>>()?;
            Entry::Claim {
                claim,
                expires_ms,
                blocks,
            }
        }
        3 => {
            let claim = reader.claim()?;
            let (state, oldest, newest) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let end = match state {
                1 => ClaimEnd::Closed,
                2 => ClaimEnd::Released { oldest, newest },
                _ => return None,
            };
            Entry::State { claim, end }
        }
        4 => {
            let count = reader.u32()? as usize;
            if count > TOMBS_MAX {
                return None;
            }
            let tomb = |reader: &mut Reader<'_>| {
                Some(Tomb {
                    block: reader.block()?,
                    index: u8::try_from(reader.u32()?).ok()?,
                    at: Position {
                        segment: reader.u32()?,
                        offset: reader.u32()?,
                    },
                })
            };
            Entry::Tombs(
                (0..count)
                    .map(|_| tomb(&mut reader))
                    .collect::<Option<_>>()?,
            )
        }
        5 => {
            let count = reader.u32()? as usize;
            let pair = |reader: &mut Reader<'_>| {
                let key_len = reader.u32()? as usize;
                let value_len = reader.u32()?;
                let key = KvKey(reader.take(key_len)?.to_vec());
                let value = if value_len == DELETED {
                    None
                } else {
                    Some(Bytes::copy_from_slice(reader.take(value_len as usize)?))
                };
                Some(KvPair { key, value })
            };
            let mut pairs = Vec::new();
            for _ in 0..count {
                pairs.push(pair(&mut reader)?);
            }
            Entry::Kv(pairs)
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(entry)
}
