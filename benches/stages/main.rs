//! One bench for each bare stage: `cargo bench --bench stages -- NAME`.

mod chunk;
mod crypto;
mod dag;
mod erasure;
mod net;
mod placement;
mod store;

criterion::criterion_group!(
    stages,
    chunk::benches,
    crypto::benches,
    dag::benches,
    erasure::benches,
    net::benches,
    placement::benches,
    store::benches
);
criterion::criterion_main!(stages);
