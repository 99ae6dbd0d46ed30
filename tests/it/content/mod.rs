//! Files and trees through the streams, over a pool in memory.

#![allow(clippy::unwrap_used, reason = "what fails here fails the run")]

mod blobs;
mod hostile;
mod look;
mod pool;
mod trees;
mod wire;

use cairnfs::base::{Limits, Pools};
use cairnfs::content::{Ingest, Reading};
use proptest::prelude::*;

pub fn config(cases: u32) -> ProptestConfig {
    let scale: u32 = std::env::var("CAIRN_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::with_cases(cases * scale)
    }
}

pub fn tiny() -> Ingest {
    Ingest {
        limits: Limits::tiny(),
        pools: Pools::inline(),
    }
}

pub fn reading() -> Reading {
    Reading {
        pools: Pools::inline(),
        window_blocks: 3,
    }
}

/// Runs on a runtime of one thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
