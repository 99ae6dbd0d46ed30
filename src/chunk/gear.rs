//! The rolling hash that decides where chunks end, over bytes that come in pieces.
//!
//! The same cuts as FastCDC's of the crate `fastcdc`, whose table it takes. The crate's own loop follows one chain of
//! dependent steps and needs the whole chunk in one piece; here four parts of a block are hashed side by side.

use fastcdc::v2020::get_gear_with_seed;

/// After so many bytes nothing of those before is left in the hash.
const REACH: usize = 64;
/// Bytes of one of the parts that are hashed side by side.
const PART: usize = 1024;
/// Bytes of a block.
const BLOCK: usize = 4 * PART;

/// Looks for bytes at which the hash says that a chunk ends.
#[derive(Debug, Clone)]
pub(super) struct Gear {
    table: Box<[u64; 256]>,
    mask: u64,
}

impl Gear {
    /// With the bits that must be zero where a chunk ends.
    pub(super) fn new(mask: u64) -> Gear {
        let (table, _) = get_gear_with_seed(0);
        let mut own = Box::new([0; 256]);
        own.iter_mut()
            .zip(table.iter())
            .for_each(|(to, from)| *to = *from);
        Gear { table: own, mask }
    }

    #[cfg(test)]
    pub(super) const fn mask(&self) -> u64 {
        self.mask
    }

    fn step(&self, hash: u64, byte: u8) -> u64 {
        // An index of one byte is always in the table, which spares a check.
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }

    /// The first of `bytes` at which a chunk ends, if there is one. `hash` is that of what came before, and
    /// afterwards that of all that was looked at.
    pub(super) fn find(&self, hash: &mut u64, bytes: &[u8]) -> Option<usize> {
        let mut done = 0;
        while let Some(block) = bytes.get(done..).and_then(<[u8]>::first_chunk::<BLOCK>) {
            match self.pass(*hash, block) {
                Some(after) => *hash = after,
                None => break,
            }
            done += BLOCK;
        }
        for (at, byte) in bytes.iter().enumerate().skip(done) {
            *hash = self.step(*hash, *byte);
            if *hash & self.mask == 0 {
                return Some(at);
            }
        }
        None
    }

    /// The hash after a block in which no chunk ends; none if one may.
    fn pass(&self, hash: u64, block: &[u8; BLOCK]) -> Option<u64> {
        let (parts, _) = block.as_chunks::<PART>();
        let [one, two, three, four] = parts else {
            return None;
        };
        let warm = |before: &[u8; PART]| {
            let last = before.iter().skip(PART - REACH);
            last.fold(0, |hash, byte| self.step(hash, *byte))
        };
        let (mut a, mut b, mut c, mut d) = (hash, warm(one), warm(two), warm(three));
        for (((w, x), y), z) in one.iter().zip(two).zip(three).zip(four) {
            a = self.step(a, *w);
            b = self.step(b, *x);
            c = self.step(c, *y);
            d = self.step(d, *z);
            let mask = self.mask;
            if a & mask == 0 || b & mask == 0 || c & mask == 0 || d & mask == 0 {
                return None;
            }
        }
        Some(d)
    }
}
