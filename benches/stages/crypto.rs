//! Sealing and opening chunks, next to the primitives they are made of.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use cairnfs::base::Entropy;
use cairnfs::crypto::{ConvergenceSecret, Sealed, open, seal};
use criterion::{Criterion, Throughput};

/// A chunk of the usual size.
const CHUNK_BYTES: usize = 3 << 20;

pub fn benches(criterion: &mut Criterion) {
    sealing(criterion);
    primitives(criterion);
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(1).fill(&mut bytes);
    bytes
}

/// Words in random order: compresses to about a third.
fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "stone ", "cairn ", "path ", "hill ", "shard ", "block ", "chunk ", "frame ", "peer ",
        "zone ", "link ", "claim ", "ticket ", "stripe ", "volume ", "extent ",
    ];
    let entropy = Entropy::seeded(2);
    let mut text = Vec::with_capacity(len + 8);
    while text.len() < len {
        let word = WORDS[entropy.below(WORDS.len() as u64) as usize];
        text.extend_from_slice(word.as_bytes());
    }
    text.truncate(len);
    text
}

fn sealed(secret: &ConvergenceSecret, plain: &[u8]) -> Sealed {
    seal(secret, &[plain], Vec::new()).unwrap()
}

fn sealing(criterion: &mut Criterion) {
    let secret = ConvergenceSecret::from_bytes([7; 32]);
    let mut group = criterion.benchmark_group("seal");
    for (name, plain) in [
        ("random", random_bytes(CHUNK_BYTES)),
        ("text", text(CHUNK_BYTES)),
    ] {
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(format!("seal {name}"), |bencher| {
            bencher.iter(|| sealed(&secret, black_box(&plain)).len);
        });
        let whole = sealed(&secret, &plain);
        let key = whole.key;
        let whole = bytes::Bytes::copy_from_slice(whole.bytes());
        group.bench_function(format!("open {name}"), |bencher| {
            bencher.iter(|| open(&key, black_box(&[&whole])).unwrap().len());
        });
        // As the data shards of a 4+2 stripe.
        let parts: Vec<_> = whole.chunks(whole.len().div_ceil(4)).collect();
        group.bench_function(format!("open {name} in 4 parts"), |bencher| {
            bencher.iter(|| open(&key, black_box(&parts)).unwrap().len());
        });
    }
    let small = random_bytes(4096);
    group.throughput(Throughput::Bytes(small.len() as u64));
    group.bench_function("seal 4 KiB", |bencher| {
        bencher.iter(|| sealed(&secret, black_box(&small)).len);
    });
    group.finish();
}

fn primitives(criterion: &mut Criterion) {
    let frame = random_bytes(64 << 10);
    let mut group = criterion.benchmark_group("primitive");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    // Two libraries and two ciphers, for the choice made in `crypto/aead.rs`.
    for (name, algorithm) in [
        ("AES-256-GCM", &ring::aead::AES_256_GCM),
        ("ChaCha20-Poly1305", &ring::aead::CHACHA20_POLY1305),
    ] {
        use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &[1; 32]).unwrap());
        let mut text = frame.clone();
        group.bench_function(format!("ring {name} of 64 KiB"), |bencher| {
            bencher.iter(|| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut text)
            });
        });
    }
    for (name, algorithm) in [
        ("AES-256-GCM", &aws_lc_rs::aead::AES_256_GCM),
        ("ChaCha20-Poly1305", &aws_lc_rs::aead::CHACHA20_POLY1305),
    ] {
        use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &[1; 32]).unwrap());
        let mut text = frame.clone();
        group.bench_function(format!("aws-lc {name} of 64 KiB"), |bencher| {
            bencher.iter(|| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut text)
            });
        });
    }
    group.bench_function("BLAKE3 of 64 KiB", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&frame)));
    });
    let shard = random_bytes(768 << 10);
    group.throughput(Throughput::Bytes(shard.len() as u64));
    group.bench_function("BLAKE3 of 768 KiB", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&shard)));
    });
    group.finish();
}
