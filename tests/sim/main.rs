//! Whole clusters in one thread, from one seed. A failing seed is its own reproduction:
//! `CAIRN_SIM_SEED=n cargo nextest run --features testkit -E 'test(one_seed)'`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

use cairnfs::testkit::run_seed;

fn scale() -> f64 {
    let scale = std::env::var("CAIRN_TEST_SCALE");
    scale.ok().and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

#[test]
fn what_was_acknowledged_is_readable_after_any_trouble() {
    let seeds = (20.0 * scale()) as u64;
    let mut acknowledged = 0;
    for seed in 0..seeds.max(1) {
        let outcome = run_seed(seed, 20).unwrap();
        assert!(outcome.lost.is_empty(), "seed {seed}: {:?}", outcome.lost);
        acknowledged += outcome.acknowledged;
    }
    assert!(acknowledged as u64 > seeds * 5, "only {acknowledged} puts");
}

#[test]
fn one_seed_gives_one_trace() {
    let seed = std::env::var("CAIRN_SIM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(42);
    let first = run_seed(seed, 20).unwrap();
    let second = run_seed(seed, 20).unwrap();
    assert!(first.lost.is_empty(), "{:?}", first.lost);
    assert_eq!(first, second);
    let other = run_seed(seed + 1, 20).unwrap();
    assert_ne!(first.trace, other.trace);
}
