//! Which parts of the key space are known completely, from the answers of look-ups.
//!
//! A look-up that names the 40 members closest to its target says, without being asked, that no
//! other member is as close: everything within the distance of the farthest of them is known. So
//! the next target in that neighbourhood needs no look-up, and a network of n members needs about
//! n / 20 of them for all groups together.

use super::candidates::{Point, distance};

/// Parts into which one ball is cut, at most.
const CUTS_MAX: usize = 12;

/// All points that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subtree {
    /// One of them, with zeros behind those bits.
    prefix: Point,
    bits: usize,
}

impl Subtree {
    fn around(point: &Point, bits: usize) -> Subtree {
        let mut prefix = *point;
        for (at, byte) in prefix.iter_mut().enumerate() {
            let kept = bits.saturating_sub(8 * at).min(8);
            *byte &= !(0xff_u8.checked_shr(kept as u32).unwrap_or(0));
        }
        Subtree { prefix, bits }
    }

    fn contains(&self, other: &Subtree) -> bool {
        self.bits <= other.bits && Subtree::around(&other.prefix, self.bits).prefix == self.prefix
    }

    fn halves(&self) -> [Subtree; 2] {
        let mut upper = self.prefix;
        if let Some(byte) = upper.get_mut(self.bits / 8) {
            *byte |= 0x80 >> (self.bits % 8);
        }
        [self.prefix, upper].map(|prefix| Subtree {
            prefix,
            bits: self.bits + 1,
        })
    }
}

fn bit(point: &Point, at: usize) -> bool {
    point
        .get(at / 8)
        .is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
}

fn flipped(point: &Point, at: usize) -> Point {
    let mut flipped = *point;
    if let Some(byte) = flipped.get_mut(at / 8) {
        *byte ^= 0x80 >> (at % 8);
    }
    flipped
}

/// Cuts the points closer to `target` than `radius` into subtrees, the largest first. What is
/// left after the most cuts is left out, or rounded up to one more subtree.
fn ball(target: &Point, radius: &Point, round_up: bool) -> Vec<Subtree> {
    let mut cuts = Vec::new();
    // The points whose distance begins as the radius does, bit by bit.
    let mut rest = *target;
    for at in (0..256).filter(|at| bit(radius, *at)) {
        if cuts.len() == CUTS_MAX {
            if round_up {
                cuts.push(Subtree::around(&rest, at));
            }
            return cuts;
        }
        cuts.push(Subtree::around(&rest, at + 1));
        rest = flipped(&rest, at);
    }
    if round_up {
        // The point at exactly this distance.
        cuts.push(Subtree::around(&rest, 256));
    }
    cuts
}

/// The parts of the key space that are known, each since some moment `T`.
#[derive(Debug, Clone)]
pub struct Coverage<T> {
    known: Vec<(Subtree, T)>,
    max: usize,
}

impl<T: Copy + Ord> Coverage<T> {
    /// Nothing is known. Of more than `max` parts the oldest are forgotten.
    pub const fn new(max: usize) -> Self {
        Coverage {
            known: Vec::new(),
            max,
        }
    }

    /// All of the key space is known.
    pub fn add_all(&mut self, at: T) {
        self.add(Subtree::around(&[0; 32], 0), at);
    }

    /// What is closer to `target` than `farthest` is known.
    pub fn add_ball(&mut self, target: &Point, farthest: &Point, at: T) {
        for part in ball(target, &distance(target, farthest), false) {
            self.add(part, at);
        }
    }

    fn add(&mut self, part: Subtree, at: T) {
        self.known
            .retain(|(known, since)| *since > at || !part.contains(known));
        self.known.push((part, at));
        if self.known.len() > self.max {
            let oldest = (0..self.known.len()).min_by_key(|i| self.known.get(*i).map(|k| k.1));
            self.known.swap_remove(oldest.unwrap_or(0));
        }
    }

    /// Forgets what was not learned since `after`.
    pub fn forget_before(&mut self, after: T) {
        self.known.retain(|(_, since)| *since >= after);
    }

    /// Whether everything up to the distance of `farthest` from `target` is known.
    pub fn covers_ball(&self, target: &Point, farthest: &Point) -> bool {
        let parts = ball(target, &distance(target, farthest), true);
        parts.iter().all(|part| self.covers(part))
    }

    /// Whether everything is known.
    pub fn covers_all(&self) -> bool {
        self.covers(&Subtree::around(&[0; 32], 0))
    }

    fn covers(&self, part: &Subtree) -> bool {
        if self.known.iter().any(|(known, _)| known.contains(part)) {
            return true;
        }
        // Only then can halving lead anywhere.
        let is_cut = self.known.iter().any(|(known, _)| part.contains(known));
        is_cut && part.halves().iter().all(|half| self.covers(half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn closest(members: &[Point], target: &Point, count: usize) -> Vec<Point> {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|member| distance(member, target));
        sorted.truncate(count);
        sorted
    }

    fn points(count: usize, seed: u8) -> Vec<Point> {
        let hash =
            |i: usize| *blake3::hash(&[&[seed], i.to_be_bytes().as_slice()].concat()).as_bytes();
        (0..count).map(hash).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// What counts as covered was named by some answer: computed from the answers, the closest
        /// members are the true ones.
        #[test]
        fn covered_answers_are_true(count in 10usize..400, asked in 1usize..30, seed: u8) {
            const K: usize = 10;
            let members = points(count, seed);
            let mut coverage = Coverage::new(64);
            let mut pool: Vec<Point> = Vec::new();
            for (at, target) in points(asked, seed.wrapping_add(1)).iter().enumerate() {
                let found = closest(&members, target, K);
                coverage.add_ball(target, found.last().unwrap(), at);
                pool.extend(found);
            }
            pool.sort_unstable();
            pool.dedup();
            for target in points(50, seed.wrapping_add(2)) {
                let guess = closest(&pool, &target, K);
                if coverage.covers_ball(&target, guess.last().unwrap()) {
                    prop_assert_eq!(guess, closest(&members, &target, K));
                }
            }
        }

        /// A ball asked for is covered by itself.
        #[test]
        fn a_ball_covers_what_is_within(target: Point, farthest: Point, seed: u8) {
            let mut coverage = Coverage::new(64);
            coverage.add_ball(&target, &farthest, 0);
            for point in points(20, seed) {
                let inside = distance(&target, &point) < distance(&target, &farthest);
                // No more than claimed; less only where the ball was cut too finely.
                let covered = coverage.covers(&Subtree::around(&point, 256));
                prop_assert!(inside || !covered);
            }
        }
    }

    #[test]
    fn few_look_ups_cover_a_network() {
        const K: usize = 40;
        for count in [60, 1000] {
            let members = points(count, 7);
            let mut coverage = Coverage::new(1024);
            let mut pool: Vec<Point> = Vec::new();
            let mut lookups = 0;
            for target in points(1000, 9) {
                let guess = closest(&pool, &target, K);
                let is_known = guess.len() == K
                    && guess
                        .last()
                        .is_some_and(|far| coverage.covers_ball(&target, far));
                if !is_known {
                    lookups += 1;
                    let found = closest(&members, &target, K);
                    coverage.add_ball(&target, found.last().unwrap(), lookups);
                    pool.extend(found);
                    pool.sort_unstable();
                    pool.dedup();
                }
            }
            println!("{count} members: {lookups} look-ups for 1,000 targets");
            assert!(lookups <= 2 + count / 5, "{lookups}");
        }
    }

    #[test]
    fn halves_make_a_whole_and_the_old_is_forgotten() {
        let mut coverage = Coverage::new(4);
        assert!(!coverage.covers_all());
        let [low, high] = Subtree::around(&[0; 32], 0).halves();
        coverage.add(low, 1);
        assert!(!coverage.covers_all());
        coverage.add(high, 2);
        assert!(coverage.covers_all());
        coverage.forget_before(2);
        assert!(!coverage.covers_all() && coverage.covers(&high));
        for tag in 0..9 {
            coverage.add(Subtree::around(&[tag; 32], 256), 3 + usize::from(tag));
        }
        assert_eq!(coverage.known.len(), 4);
        coverage.add_all(99);
        assert_eq!(coverage.known.len(), 1);
    }
}
