//! The laws of the code, for random profiles, lengths and losses.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::base::{EcProfile, Entropy, IndexSet, ShardHash, ShardId};

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

fn profiles() -> impl Strategy<Value = EcProfile> {
    prop_oneof![
        4 => (1u8..=8, 0u8..=6),
        1 => (1u8..=40, 0u8..=24),
    ]
    .prop_map(|(data, parity)| EcProfile::new(data, parity).unwrap())
}

/// `count` indices of `total`, chosen by `seed`.
fn some_of(total: usize, count: usize, seed: u64) -> IndexSet {
    let entropy = Entropy::seeded(seed);
    let mut set = IndexSet::EMPTY;
    while set.len() < count {
        set.insert(entropy.below(total as u64) as u8);
    }
    set
}

fn keep(stripe: &EncodedStripe, kept: IndexSet) -> Vec<VerifiedShard> {
    let mut shards: Vec<_> = stripe
        .shards
        .iter()
        .filter(|shard| kept.contains(shard.id().index))
        .cloned()
        .collect();
    shards.reverse();
    shards
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_k_of_n_bring_it_back(
        profile in profiles(),
        len in prop_oneof![1usize..200, 1usize..20_000],
        seed: u64,
    ) {
        let sealed = random_bytes(len, seed);
        let stripe = encode_stripe(sealed.clone(), profile).unwrap();
        let total = profile.total_shards();
        prop_assert_eq!(stripe.shards.len(), total);

        let kept = some_of(total, profile.data_shards(), seed);
        let shards = keep(&stripe, kept);
        let parts = join(&shards).unwrap();
        prop_assert!(parts.iter().all(|part| !part.is_empty()));
        prop_assert_eq!(parts.concat(), sealed);

        let lost = IndexSet::first(total).minus(kept);
        let rebuilt = rebuild(&shards, lost).unwrap();
        let expected: Vec<_> = stripe.shards.iter()
            .filter(|shard| lost.contains(shard.id().index)).cloned().collect();
        prop_assert_eq!(rebuilt, expected);

        let too_few = join(&shards[1..]).unwrap_err();
        let not_enough = matches!(too_few, StripeError::NotEnough { have, need }
            if have < need && need <= profile.data_shards());
        prop_assert!(not_enough);
    }

    #[test]
    fn all_codecs_compute_the_same_bytes(profile in profiles(), len in 1usize..5_000, seed: u64) {
        let sealed = random_bytes(len, seed);
        let fast = encode_stripe(sealed.clone(), profile).unwrap();
        let portable = codec::portable();
        let slow = encode_stripe_in(portable, [&sealed[..], &[7; 40_000]].concat(), len, profile).unwrap();
        prop_assert_eq!(&fast.header, &slow.header);
        prop_assert_eq!(&fast.shards, &slow.shards);

        let shards = keep(&fast, some_of(profile.total_shards(), profile.data_shards(), seed));
        let parts = join_with(Some(portable), &shards).unwrap();
        prop_assert_eq!(parts.concat(), sealed);
        let all = IndexSet::first(64);
        prop_assert_eq!(rebuild_with(Some(portable), &shards, all).unwrap(), fast.shards);
    }

    #[test]
    fn a_shard_is_verified_by_its_header_alone(len in 1usize..2_000, seed: u64, flip: usize) {
        let stripe = encode_stripe(random_bytes(len, seed)[..].into(), EcProfile::DEFAULT).unwrap();
        for shard in &stripe.shards {
            let index = shard.id().index;
            let verify = |index: u8, header: Bytes, data: Bytes| {
                VerifiedShard::verify(stripe.id, index, header, data)
            };
            let (header, data) = (shard.header().clone(), shard.data().clone());
            prop_assert_eq!(&verify(index, header.clone(), data.clone()).unwrap(), shard);
            prop_assert!(verify(index + 6, header.clone(), data.clone()).is_err());
            let mut bad = data.to_vec();
            let at = flip % (bad.len() * 8);
            bad[at / 8] ^= 1 << (at % 8);
            prop_assert!(verify(index, header.clone(), bad.into()).is_err());
            let mut bad = header.to_vec();
            let at = flip % (bad.len() * 8);
            bad[at / 8] ^= 1 << (at % 8);
            prop_assert!(verify(index, bad.into(), data).is_err());
        }
    }

    #[test]
    fn any_header_bytes_are_refused_or_canonical(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(header) = StripeHeader::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }
}

#[test]
fn the_sealed_buffer_is_used_in_place() {
    let sealed_len = 100_001;
    let mut memory = random_bytes(sealed_len, 1);
    memory.resize(stripe_capacity(sealed_len, EcProfile::DEFAULT), 7);
    let start = memory.as_ptr();
    let stripe =
        encode_stripe_in(codec::default(), memory, sealed_len, EcProfile::DEFAULT).unwrap();
    let shard_len = sealed_len.div_ceil(4);
    for (index, shard) in stripe.shards.iter().enumerate() {
        assert_eq!(
            shard.data().as_ptr() as usize,
            start as usize + index * shard_len
        );
    }
    let parts = join(&stripe.shards).unwrap();
    assert_eq!(parts[0].as_ptr(), start, "data shards are not copied");
}

#[test]
fn empty_and_oversized_input_is_refused() {
    let limit = crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES;
    for len in [0, limit + 1] {
        let sealed = vec![0; len];
        assert!(encode_stripe(sealed, EcProfile::DEFAULT).is_err());
    }
    assert!(matches!(join(&[]), Err(StripeError::NotEnough { .. })));
}

#[test]
fn shards_of_two_blocks_do_not_mix() {
    let make = |seed| encode_stripe(random_bytes(99, seed)[..].into(), EcProfile::DEFAULT).unwrap();
    let (a, b) = (make(1), make(2));
    let mixed: Vec<_> = a.shards[..3]
        .iter()
        .chain(&b.shards[3..])
        .cloned()
        .collect();
    assert!(matches!(join(&mixed), Err(StripeError::WrongBlock(_))));
}

#[test]
fn a_lone_data_shard_is_the_sealed_chunk() {
    let profile = EcProfile::new(1, 2).unwrap();
    let stripe = encode_stripe(random_bytes(777, 5)[..].into(), profile).unwrap();
    assert_eq!(stripe.shards[0].data(), stripe.shards[2].data());
    assert_eq!(
        join(&stripe.shards[2..]).unwrap().concat(),
        random_bytes(777, 5)
    );
}

/// A writer may publish a header whose shards verify one by one and do not belong together.
#[test]
fn a_header_that_contradicts_itself_is_found_out() {
    let honest = encode_stripe(random_bytes(400, 9)[..].into(), EcProfile::DEFAULT).unwrap();
    let mut header = StripeHeader::decode(&honest.header).unwrap();
    let forged = Bytes::from(vec![7u8; 100]);
    header.shard_hashes[4] = ShardHash(*blake3::hash(&forged).as_bytes());
    let encoded = Bytes::from(header.encode());
    let block = StripeHeader::address(&encoded);
    let shards: Vec<_> = honest
        .shards
        .iter()
        .map(|shard| {
            let ShardId { index, .. } = shard.id();
            let data = if index == 4 { &forged } else { shard.data() };
            VerifiedShard::verify(block, index, encoded.clone(), data.clone()).unwrap()
        })
        .collect();
    assert!(join(&shards[..4]).is_ok());
    assert!(matches!(
        join(&shards[1..5]),
        Err(StripeError::Inconsistent(_))
    ));
    let lost = IndexSet::one(0);
    assert!(matches!(
        rebuild(&shards[1..5], lost),
        Err(StripeError::Inconsistent(_))
    ));
}

#[test]
fn parts_of_a_long_stripe_are_those_of_the_whole() {
    for (profile, len) in [("4+2", 1_500_001), ("1+2", 1 << 20), ("3+0", 700_000)] {
        let profile: EcProfile = profile.parse().unwrap();
        let sealed = random_bytes(len, 3);
        let stripe = encode_stripe(sealed.clone(), profile).unwrap();
        let shard_len = len.div_ceil(profile.data_shards());
        let mut whole = sealed;
        whole.resize(stripe_capacity(len, profile), 0);
        let codec = codec::portable();
        codec.encode(profile, shard_len, &mut whole).unwrap();
        let header = StripeHeader::decode(&stripe.header).unwrap();
        let expected = whole.chunks_exact(shard_len);
        assert_eq!(expected.len(), stripe.shards.len());
        for ((shard, hash), expected) in
            stripe.shards.iter().zip(&header.shard_hashes).zip(expected)
        {
            assert!(shard.data() == expected);
            assert_eq!(hash.0, *blake3::hash(expected).as_bytes());
        }
    }
}
