//! How large chunks and packs are.

use crate::base::Limits;
use crate::base::limits::CHUNK_MAX_BYTES;

/// Bounds of chunk sizes in bytes: even, ascending, at most `CHUNK_MAX_BYTES`.
///
/// Cuts depend on them, so equal content is shared only by those who use equal sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    min: usize,
    target: usize,
    max: usize,
}

/// Below this a gear hash has not seen enough bytes.
const MIN_FLOOR: usize = 64;

impl ChunkSizes {
    /// The nearest sizes that can be had to those asked for.
    pub fn new(min: usize, target: usize, max: usize) -> Self {
        let even = |bytes: usize| bytes & !1;
        let max = even(max).clamp(4 * MIN_FLOOR, CHUNK_MAX_BYTES);
        let min = even(min).clamp(MIN_FLOOR, max / 2);
        let target = even(target).clamp(min + MIN_FLOOR, max);
        ChunkSizes { min, target, max }
    }

    /// Smallest chunk, but for the last of a stream.
    pub const fn min(&self) -> usize {
        self.min
    }

    /// Largest chunk.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// Bytes beyond the smallest chunk until a cut is to be expected.
    ///
    /// The mean size is somewhat above `min + stride`, since the largest size cuts off a tail.
    pub(super) const fn stride(&self) -> usize {
        self.target - self.min
    }
}

impl From<&Limits> for ChunkSizes {
    fn from(limits: &Limits) -> Self {
        ChunkSizes::new(
            limits.chunk_min_bytes,
            limits.chunk_target_bytes,
            limits.chunk_max_bytes,
        )
    }
}

impl Default for ChunkSizes {
    fn default() -> Self {
        ChunkSizes::from(&Limits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_wish_becomes_possible_sizes() {
        for wish in [
            (0, 0, 0),
            (7, 7, 7),
            (usize::MAX, usize::MAX, usize::MAX),
            (1 << 20, 1, 4 << 20),
            (4 << 20, 4 << 20, 4 << 20),
        ] {
            let sizes = ChunkSizes::new(wish.0, wish.1, wish.2);
            assert!(
                sizes.min < sizes.target && sizes.target <= sizes.max,
                "{sizes:?}"
            );
            assert!(sizes.max <= CHUNK_MAX_BYTES);
            assert!(
                [sizes.min, sizes.target, sizes.max]
                    .iter()
                    .all(|s| s % 2 == 0)
            );
        }
        let defaults = Limits::default();
        assert_eq!(ChunkSizes::default().min(), defaults.chunk_min_bytes);
        assert_eq!(ChunkSizes::default().max(), defaults.chunk_max_bytes);
    }
}
