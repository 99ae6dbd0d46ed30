//! Packing small files together into chunks, with boundaries that their contents define.
//!
//! A pack ends behind a file whose mark is small enough for its length, so a file that comes or
//! goes changes its own pack and few others, however many follow.

use super::sizes::ChunkSizes;

/// Where one file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The file is the first of a new pack: the one before it is complete.
    pub starts_pack: bool,
    /// Offset of the file in its pack.
    pub offset: usize,
    /// The file is the last of its pack, which is complete now.
    pub ends_pack: bool,
}

/// Decides, file by file in walk order, which belong to one pack.
#[derive(Debug)]
pub struct Packer {
    sizes: ChunkSizes,
    filled: usize,
}

impl Packer {
    /// A packer without a pack begun.
    pub const fn new(sizes: ChunkSizes) -> Self {
        Packer { sizes, filled: 0 }
    }

    /// Places a file of `len` bytes whose content has this [`pack_mark`].
    ///
    /// Files are expected to be smaller than the smallest chunk; one that is larger than the
    /// largest gets a pack of its own, which is then too large.
    pub fn place(&mut self, len: usize, mark: u64) -> Slot {
        let starts_pack = self.filled == 0 || self.filled + len > self.sizes.max();
        let offset = if starts_pack { 0 } else { self.filled };
        let filled = offset + len;
        let ends_pack = filled >= self.sizes.max()
            || (filled >= self.sizes.min() && self.is_boundary(len, mark));
        self.filled = if ends_pack { 0 } else { filled };
        Slot {
            starts_pack,
            offset,
            ends_pack,
        }
    }

    /// As likely as the file is long, so that the bytes in a pack do not depend on file sizes.
    const fn is_boundary(&self, len: usize, mark: u64) -> bool {
        (mark as u128) * (self.sizes.stride() as u128) < (len as u128) << 64
    }
}

/// What of a file's content decides where packs end: uniform in 64 bits.
pub fn pack_mark(content: &[u8]) -> u64 {
    let hash = blake3::hash(content);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Limits;
    use crate::chunk::testing::cases;

    /// The packs as lists of files, each a length and a mark.
    fn pack(files: &[(usize, u64)]) -> Vec<Vec<(usize, u64)>> {
        let mut packer = Packer::new(ChunkSizes::from(&Limits::tiny()));
        let mut packs: Vec<Vec<(usize, u64)>> = Vec::new();
        let mut ended = true;
        for file in files {
            let slot = packer.place(file.0, file.1);
            assert!(slot.starts_pack || !ended);
            if slot.starts_pack {
                packs.push(Vec::new());
            }
            let current = packs.last_mut().unwrap();
            assert_eq!(
                slot.offset,
                current.iter().map(|file| file.0).sum::<usize>()
            );
            current.push(*file);
            ended = slot.ends_pack;
        }
        packs
    }

    fn file() -> impl Strategy<Value = (usize, u64)> {
        (1usize..1024, any::<u64>())
    }

    proptest! {
        #![proptest_config(cases(32))]

        #[test]
        fn one_file_more_changes_few_packs(
            mut files in prop::collection::vec(file(), 1500..2000),
            new in file(),
            at: prop::sample::Index,
        ) {
            let sizes = ChunkSizes::from(&Limits::tiny());
            let before = pack(&files);
            for pack in &before {
                let len: usize = pack.iter().map(|file| file.0).sum();
                prop_assert!(len <= sizes.max());
            }
            let total: usize = files.iter().map(|file| file.0).sum();
            let mean = total / before.len();
            prop_assert!((3 << 10..7 << 10).contains(&mean), "mean {}", mean);

            files.insert(at.index(files.len() + 1), new);
            let known: BTreeSet<_> = before.into_iter().collect();
            let after = pack(&files);
            let fresh = after.iter().filter(|pack| !known.contains(*pack)).count();
            prop_assert!(fresh * 4 < after.len(), "{} of {}", fresh, after.len());
        }
    }

    #[test]
    fn extreme_files_are_placed() {
        let mut packer = Packer::new(ChunkSizes::from(&Limits::tiny()));
        let huge = packer.place(usize::MAX / 2, u64::MAX);
        assert!(huge.starts_pack && huge.ends_pack && huge.offset == 0);
        for _ in 0..100 {
            packer.place(0, 0);
        }
        assert!(!packer.place(5, 0).ends_pack);
    }
}
