//! Weighted rendezvous hashing (Thaler & Ravishankar 1998; the logarithmic weights are those of
//! Schindelhauer & Schomaker, *Weighted Distributed Hash Tables*, 2005).
//!
//! Every machine must come to the same order, so nothing here depends on a platform's `libm`:
//! the logarithm below uses only operations whose rounding IEEE 754 fixes.

use crate::base::{Group, PeerId};

/// Prefix of what is hashed: another use of BLAKE3 can never produce the same input.
const DOMAIN: &[u8; 17] = b"cairn/placement/1";

/// A peer counts at most so many times the median capacity.
pub const WEIGHT_CAP_MEDIANS: u64 = 4;

/// A number in the open interval (0, 1), fixed by group and peer.
///
/// BLAKE3 of the 51 bytes `"cairn/placement/1" || group (2 bytes, big endian) || public key of the
/// peer (32 bytes)`; the first eight bytes of the digest are a little-endian integer `x`; the
/// result is `(floor(x / 2^12) + 1/2) / 2^52`, which a double represents exactly.
pub fn hash01(group: Group, peer: &PeerId) -> f64 {
    let mut input = [0u8; 51];
    input[..17].copy_from_slice(DOMAIN);
    input[17..19].copy_from_slice(&group.0.to_be_bytes());
    input[19..].copy_from_slice(peer.as_bytes());
    let digest = blake3::hash(&input);
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    let x = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    ((x >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// The middle of all capacities above zero (the lower one of two); 0 if there is none.
pub fn median_capacity(capacities: impl IntoIterator<Item = u64>) -> u64 {
    let mut offered: Vec<u64> = capacities.into_iter().filter(|bytes| *bytes > 0).collect();
    let middle = offered.len().saturating_sub(1) / 2;
    if offered.is_empty() {
        return 0;
    }
    *offered.select_nth_unstable(middle).1
}

/// The weight of a peer that offers `capacity_bytes` where the median is `median_bytes`.
///
/// Capped at four medians, so that one giant does not gather a shard of nearly every block.
pub const fn weight(capacity_bytes: u64, median_bytes: u64) -> f64 {
    let cap = median_bytes.saturating_mul(WEIGHT_CAP_MEDIANS);
    if capacity_bytes < cap {
        capacity_bytes as f64
    } else {
        cap as f64
    }
}

/// How well `peer` suits `group`: `-weight / ln(hash01)`. The greatest score wins; 0 for no weight.
///
/// A peer's score depends on nothing but itself, so another peer that joins or leaves changes
/// nobody's order but its own.
pub fn score(group: Group, peer: &PeerId, weight: f64) -> f64 {
    if weight > 0.0 {
        -weight / ln(hash01(group, peer))
    } else {
        0.0
    }
}

/// Natural logarithm of a normal number in (0, 1), the same bits on every machine.
///
/// `x = m * 2^e` with `m` in [sqrt(1/2), sqrt(2)); `ln m` is the series `2 * (s + s^3/3 + ...)` of
/// `s = (m - 1) / (m + 1)`, cut after `s^21` (the next term is below 2^-58).
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa >= std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        sum = (sum + 1.0 / odd) * square;
    }
    2.0 * s * (sum + 1.0) + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(tag: u64) -> PeerId {
        PeerId(*blake3::hash(&tag.to_le_bytes()).as_bytes())
    }

    #[test]
    fn the_logarithm_is_accurate() {
        let mut x = 0.5 / (1u64 << 52) as f64;
        while x < 1.0 {
            for y in [x, x * 1.1, x * 1.41, x * 1.99] {
                if y < 1.0 {
                    let error = (ln(y) - y.ln()).abs() / y.ln().abs();
                    assert!(error < 1e-14, "ln({y}) is off by {error}");
                }
            }
            x *= 2.0;
        }
        let near_one = 1.0 - 0.5 / (1u64 << 52) as f64;
        assert!(ln(near_one) < 0.0);
    }

    #[test]
    fn hashes_are_spread_over_the_open_interval() {
        let mut sum = 0.0;
        for tag in 0..10_000 {
            let h = hash01(Group(tag as u16), &peer(tag));
            assert!(h > 0.0 && h < 1.0);
            sum += h;
        }
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02);
    }

    #[test]
    fn known_scores_stay_what_they_are() {
        // Changing one of these moves every shard of every network.
        let first = PeerId([1; 32]);
        assert_eq!(hash01(Group(0x1234), &first).to_bits(), HASH_BITS);
        assert_eq!(score(Group(0x1234), &first, 1e12).to_bits(), SCORE_BITS);
        assert_eq!(score(Group(0x1234), &first, 0.0), 0.0);
    }
    const HASH_BITS: u64 = 4605742312123946249;
    const SCORE_BITS: u64 = 4797707789678757607;

    #[test]
    fn the_median_ignores_those_who_offer_nothing() {
        assert_eq!(median_capacity([]), 0);
        assert_eq!(median_capacity([0, 0]), 0);
        assert_eq!(median_capacity([0, 7]), 7);
        assert_eq!(median_capacity([9, 1, 5, 0]), 5);
        assert_eq!(median_capacity([1, 2, 3, 4]), 2);
        assert_eq!(weight(100, 10), 40.0);
        assert_eq!(weight(39, 10), 39.0);
        assert_eq!(weight(u64::MAX, u64::MAX), u64::MAX as f64);
    }
}
