//! Where a page of a checkpoint is: parts of blocks, and the redundancy of those.

use bytes::Bytes;

use crate::base::limits::{CHUNK_MAX_BYTES, PAGE_PLACE_MAX_BYTES};
use crate::base::{BlockId, BlockRef, EcProfile, wire};

/// Version of the encoding.
const VERSION: u8 = 1;
/// A page that is longer than a block is in two.
const PARTS_MAX: usize = 2;

/// Bytes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePart {
    /// The block.
    pub block: BlockRef,
    /// First byte in its plaintext.
    pub offset: u32,
    /// Bytes; at least one.
    pub len: u32,
}

/// Where a page, or a root, is: everything that is needed to fetch and open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagePlace {
    /// Redundancy of the blocks.
    pub profile: EcProfile,
    /// Where its bytes are, in order.
    pub parts: Vec<PagePart>,
}

/// `[version, [data, parity], [[block, first byte, bytes], ..]]`.
type PlaceWire = (u8, EcProfile, Vec<(BlockRef, u32, u32)>);

impl PagePlace {
    /// The canonical encoding: at most 256 bytes.
    pub fn encode(&self) -> Bytes {
        let parts = self.parts.iter();
        let parts = parts.map(|part| (part.block, part.offset, part.len));
        wire::encode::<PlaceWire>(&(VERSION, self.profile, parts.collect())).into()
    }

    /// Reads a place from anywhere; none if it cannot be one.
    pub fn decode(bytes: &[u8]) -> Option<PagePlace> {
        let (version, profile, parts) =
            wire::decode_canonical::<PlaceWire>(bytes, PAGE_PLACE_MAX_BYTES).ok()?;
        let place = PagePlace {
            profile,
            parts: parts
                .into_iter()
                .map(|(block, offset, len)| PagePart { block, offset, len })
                .collect(),
        };
        let is_sound = |part: &PagePart| {
            let end = part.offset.checked_add(part.len);
            part.block.plain_len as usize <= CHUNK_MAX_BYTES
                && part.len > 0
                && end.is_some_and(|end| end <= part.block.plain_len)
        };
        let is_sound = version == VERSION
            && (1..=PARTS_MAX).contains(&place.parts.len())
            && place.parts.iter().all(is_sound);
        is_sound.then_some(place)
    }

    /// Bytes of what is there.
    pub fn len_bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.len)).sum()
    }

    /// The blocks, with how many bytes of each.
    pub(super) fn uses(&self) -> impl Iterator<Item = (BlockId, u64)> {
        let parts = self.parts.iter();
        parts.map(|part| (part.block.id, u64::from(part.len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockKey;

    fn part(tag: u8, offset: u32, len: u32) -> PagePart {
        PagePart {
            block: BlockRef {
                id: BlockId([tag; 32]),
                key: BlockKey([tag; 32]),
                plain_len: 4 << 20,
            },
            offset,
            len,
        }
    }

    fn place(parts: &[PagePart]) -> PagePlace {
        PagePlace {
            profile: EcProfile::new(4, 2).unwrap(),
            parts: parts.to_vec(),
        }
    }

    #[test]
    fn places_are_short_and_impossible_ones_are_refused() {
        let long = place(&[part(255, (4 << 20) - 70_000, 70_000), part(254, 0, 4 << 20)]);
        let bytes = long.encode();
        assert!(bytes.len() <= PAGE_PLACE_MAX_BYTES, "{}", bytes.len());
        assert_eq!(PagePlace::decode(&bytes), Some(long));
        for wrong in [
            place(&[]),
            place(&[part(1, 0, 1); 3]),
            place(&[part(1, 0, 0)]),
            place(&[part(1, 4 << 20, 1)]),
            place(&[part(1, u32::MAX, 2)]),
        ] {
            assert_eq!(PagePlace::decode(&wrong.encode()), None);
        }
        assert_eq!(PagePlace::decode(b""), None);
    }
}
