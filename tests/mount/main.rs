//! Real mounts by real processes. Needs `/dev/fuse` and root; where something is missing each test says
//! so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

mod agreed;
mod commands;
mod crowd;
mod devnet;
mod failures;
mod fstab;
mod home;
mod mounted;
mod redundancy;
mod semantics;
mod shared;
mod snapshots;
#[path = "../it/support.rs"]
#[allow(dead_code)]
mod support;
mod unprivileged;
