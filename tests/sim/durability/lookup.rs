//! Look-ups of Kademlia in networks of any size: tables filled as Maymounkov & Mazières (2002) have it, three questions at a
//! time, twenty contacts in each answer.

use std::collections::BTreeSet;

use cairnfs::base::Entropy;
use cairnfs::placement::{Point, distance};

/// Contacts in a bucket and in an answer, and questions at once: those of libp2p.
const K: usize = 20;
const ALPHA: usize = 3;

/// What look-ups cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Rounds until the closest peer is known.
    pub found_after: f64,
    /// Rounds until the twenty closest have answered, and messages.
    pub rounds: f64,
    pub messages: f64,
    /// Look-ups that found all of the twenty closest.
    pub exact: f64,
}

/// Peers by place.
struct Net {
    points: Vec<Point>,
    seed: u64,
}

fn bit(point: &Point, at: usize) -> bool {
    point[at / 8] & (0x80 >> (at % 8)) != 0
}

impl Net {
    fn new(peers: usize, seed: u64) -> Net {
        let entropy = Entropy::seeded(seed);
        let mut points: Vec<Point> = (0..peers).map(|_| entropy.array()).collect();
        points.sort_unstable();
        Net { points, seed }
    }

    /// What a peer knows: of each bucket up to twenty, picked at random once.
    fn table(&self, own: usize) -> Vec<usize> {
        let point = &self.points[own];
        let entropy = Entropy::seeded(self.seed ^ (own as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut known = Vec::new();
        let (mut from, mut to) = (0, self.points.len());
        for at in 0..256 {
            let split = from + self.points[from..to].partition_point(|other| !bit(other, at));
            let (bucket, rest) = match bit(point, at) {
                true => ((from, split), (split, to)),
                false => ((split, to), (from, split)),
            };
            let len = bucket.1 - bucket.0;
            if len <= K {
                known.extend(bucket.0..bucket.1);
            } else {
                let mut picked = BTreeSet::new();
                while picked.len() < K {
                    picked.insert(bucket.0 + entropy.below(len as u64) as usize);
                }
                known.extend(picked);
            }
            (from, to) = rest;
            if to - from <= 1 {
                break;
            }
        }
        known
    }

    fn closest(&self, of: impl IntoIterator<Item = usize>, target: &Point) -> Vec<usize> {
        let mut all: Vec<usize> = of.into_iter().collect();
        all.sort_unstable_by_key(|at| distance(&self.points[*at], target));
        all.truncate(K);
        all
    }

    fn look_up(&self, by: usize, target: &Point) -> (usize, usize, usize, bool) {
        let truth = self.closest(0..self.points.len(), target);
        let mut known: BTreeSet<usize> = self.table(by).into_iter().collect();
        let mut asked = BTreeSet::from([by]);
        let (mut rounds, mut messages, mut found_after) = (0, 0, 0);
        loop {
            let best = self.closest(known.iter().copied(), target);
            if found_after == 0 && best.first() == truth.first() {
                found_after = rounds;
            }
            let next: Vec<usize> = best
                .iter()
                .copied()
                .filter(|at| !asked.contains(at))
                .take(ALPHA)
                .collect();
            if next.is_empty() {
                let is_exact = best == truth;
                return (found_after, rounds, messages, is_exact);
            }
            rounds += 1;
            messages += next.len();
            for at in next {
                asked.insert(at);
                known.extend(self.closest(self.table(at).into_iter().chain([at]), target));
            }
        }
    }
}

/// So many look-ups of random places in a network of so many.
pub fn cost(peers: usize, lookups: usize, seed: u64) -> Cost {
    let net = Net::new(peers, seed);
    let entropy = Entropy::seeded(seed + 1);
    let mut sum = (0, 0, 0, 0);
    for _ in 0..lookups {
        let by = entropy.below(peers as u64) as usize;
        let (found_after, rounds, messages, is_exact) = net.look_up(by, &entropy.array());
        sum.0 += found_after;
        sum.1 += rounds;
        sum.2 += messages;
        sum.3 += usize::from(is_exact);
    }
    let mean = |sum: usize| sum as f64 / lookups as f64;
    Cost {
        found_after: mean(sum.0),
        rounds: mean(sum.1),
        messages: mean(sum.2),
        exact: mean(sum.3),
    }
}
