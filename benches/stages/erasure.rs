//! Coding stripes, with each codec; losing data shards; hashing included and not.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use cairnfs::base::{EcProfile, Entropy, IndexSet};
use cairnfs::erasure::{
    ErasureCodec, codec, encode_stripe_in, join, join_with, rebuild, stripe_capacity,
};
use criterion::{BatchSize, Criterion, Throughput};

/// A sealed chunk of the usual size.
const SEALED_BYTES: usize = (3 << 20) + 1000;

pub fn benches(criterion: &mut Criterion) {
    for profile in ["4+2", "8+4"] {
        let profile: EcProfile = profile.parse().unwrap();
        for codec in [codec::default(), codec::portable()] {
            stripe(criterion, profile, codec);
        }
    }
}

fn stripe(criterion: &mut Criterion, profile: EcProfile, codec: &'static dyn ErasureCodec) {
    let mut sealed = vec![0; SEALED_BYTES];
    Entropy::seeded(1).fill(&mut sealed);
    let mut group = criterion.benchmark_group(format!("erasure {profile} {}", codec.name()));
    group.throughput(Throughput::Bytes(SEALED_BYTES as u64));

    let capacity = stripe_capacity(SEALED_BYTES, profile);
    let shard_len = SEALED_BYTES.div_ceil(profile.data_shards());
    let mut buffer = vec![0; capacity];
    buffer[..SEALED_BYTES].copy_from_slice(&sealed);
    group.bench_function("parity alone", |bencher| {
        bencher.iter(|| codec.encode(profile, shard_len, black_box(&mut buffer)));
    });
    group.bench_function("stripe with hashes", |bencher| {
        bencher.iter_batched(
            || {
                let mut buffer = sealed.clone();
                buffer.resize(capacity, 0);
                buffer
            },
            |buffer| encode_stripe_in(codec, buffer, SEALED_BYTES, profile).unwrap(),
            BatchSize::LargeInput,
        );
    });

    let stripe = encode_stripe_in(codec, sealed.clone(), SEALED_BYTES, profile).unwrap();
    group.bench_function("join, all data", |bencher| {
        bencher.iter(|| join(black_box(&stripe.shards)).unwrap());
    });
    let lost = profile.parity_shards();
    let rest = &stripe.shards[lost..];
    group.bench_function(format!("join, {lost} data shards lost"), |bencher| {
        bencher.iter(|| join_with(Some(codec), black_box(rest)).unwrap());
    });
    if codec.name() == codec::default().name() {
        let wanted = IndexSet::first(lost);
        group.bench_function(format!("rebuild {lost} shards"), |bencher| {
            bencher.iter(|| rebuild(black_box(rest), wanted).unwrap());
        });
    }
    group.finish();
}
