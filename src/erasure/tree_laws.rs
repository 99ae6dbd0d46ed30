//! The laws of proofs, for random shards and ranges.

use proptest::prelude::*;

use super::*;
use crate::base::Entropy;

fn cases(base: u32) -> ProptestConfig {
    let scale = std::env::var("CAIRN_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(1);
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(base.saturating_mul(scale))
    }
}

fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(seed).fill(&mut bytes);
    bytes
}

/// Lengths about which something changes, and others.
fn lengths() -> impl Strategy<Value = usize> {
    let near = (1..40usize, 0..3usize).prop_map(|(groups, off)| groups * GROUP_BYTES + off - 1);
    prop_oneof![3 => near, 2 => 1..600_000usize, 1 => 1..2000usize]
}

/// A shard and some range within it.
fn parts() -> impl Strategy<Value = (Vec<u8>, Range<usize>)> {
    (lengths(), any::<u64>(), any::<[prop::sample::Index; 2]>()).prop_map(|(len, seed, ends)| {
        let [a, b] = ends.map(|end| end.index(len));
        (random_bytes(len, seed), a.min(b)..a.max(b) + 1)
    })
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_part_of_any_shard_is_proven((shard, range) in parts()) {
        let (outboard, hash) = Outboard::new(&shard);
        prop_assert_eq!(hash.0, *blake3::hash(&shard).as_bytes());
        let whole = aligned(range.clone(), shard.len());
        prop_assert!(whole.start <= range.start && range.end <= whole.end);
        prop_assert!(whole.len() < range.len() + 2 * GROUP_BYTES);
        let bytes = &shard[whole.clone()];
        prop_assert!(outboard.matches(whole.start, bytes));
        let proof = outboard.prove(whole.clone());
        prop_assert!(proof.len() <= proof_max(shard.len()));
        prop_assert!(proves(&hash, shard.len(), whole.start, bytes, &proof));
    }

    #[test]
    fn nothing_else_is(
        (shard, range) in parts(),
        bit: prop::sample::Index,
        cut: prop::sample::Index,
        seed: u64,
    ) {
        let len = shard.len();
        let (outboard, hash) = Outboard::new(&shard);
        let range = aligned(range, len);
        let (at, bytes) = (range.start, &shard[range.clone()]);
        let proof = outboard.prove(range.clone());
        // A flipped bit, of the data or the proof.
        let mut bad = bytes.to_vec();
        let flipped = bit.index(bad.len() * 8);
        bad[flipped / 8] ^= 1 << (flipped % 8);
        prop_assert!(!proves(&hash, len, at, &bad, &proof));
        prop_assert!(!outboard.matches(at, &bad));
        if !proof.is_empty() {
            let mut bad = proof.clone();
            let flipped = bit.index(bad.len() * 8);
            bad[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert!(!proves(&hash, len, at, bytes, &bad));
            // Truncated.
            let kept = cut.index(proof.len());
            prop_assert!(!proves(&hash, len, at, bytes, &proof[..kept]));
        }
        // Something behind it.
        for more in [1, 32] {
            let longer = [&proof[..], &vec![0; more]].concat();
            prop_assert!(!proves(&hash, len, at, bytes, &longer));
        }
        // Truncated data.
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(!proves(&hash, len, at, short, &proof));
        let is_whole = !short.is_empty() && short.len().is_multiple_of(GROUP_BYTES);
        prop_assert_eq!(outboard.matches(at, short), is_whole);
        // Another place, another length, another shard.
        for other in [at.wrapping_sub(GROUP_BYTES), at + GROUP_BYTES, at + 1, usize::MAX] {
            prop_assert!(!proves(&hash, len, other, bytes, &proof));
            prop_assert!(!outboard.matches(other, bytes));
        }
        // The last group alone tells how long the shard is; others are told by the header.
        for other in [len - 1, len + 1, len + GROUP_BYTES, 2 * len] {
            prop_assert!(range.end < len || !proves(&hash, other, at, bytes, &proof));
        }
        let (_, foreign) = Outboard::new(&random_bytes(len + 32, seed));
        prop_assert!(!proves(&foreign, len, at, bytes, &proof));
        let other = random_bytes(len + GROUP_BYTES, seed);
        let (other, _) = Outboard::new(&other[GROUP_BYTES..]);
        if len > GROUP_BYTES && range != (0..len) {
            prop_assert!(!proves(&hash, len, at, bytes, &other.prove(range)));
        }
    }

    #[test]
    fn no_bytes_whatever_make_it_panic(
        len in prop_oneof![0..100_000usize, any::<usize>()],
        at in prop_oneof![(0..8usize).prop_map(|at| at * GROUP_BYTES), any::<usize>()],
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        groups in 0..4usize,
        proof in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [vec![7; groups * GROUP_BYTES], bytes].concat();
        prop_assert!(!proves(&ShardHash([1; 32]), len, at, &bytes, &proof));
        let _ = aligned(at..len, len);
        let _ = Outboard::new(&bytes).0.prove(at..len);
    }
}
