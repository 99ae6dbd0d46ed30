//! One bench for each bare stage: `cargo bench --bench stages -- NAME`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

mod chunk;
mod crypto;
mod dag;
mod erasure;
mod net;
mod placement;
mod range;
mod store;
mod volume;

criterion::criterion_group!(
    stages,
    chunk::benches,
    crypto::benches,
    dag::benches,
    erasure::benches,
    net::benches,
    placement::benches,
    range::benches,
    store::benches,
    volume::benches
);
criterion::criterion_main!(stages);
