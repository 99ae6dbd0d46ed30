//! Tests without a mount, with no sockets but loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs
)]

mod claims;
mod cli;
#[cfg(feature = "testkit")]
#[path = "../common/mod.rs"]
mod common;
mod config;
mod content;
mod crash;
mod dag;
mod damage;
mod devnet;
mod dht;
mod feeds;
mod formats;
#[cfg(feature = "testkit")]
mod fuzz;
mod input;
mod layering;
mod lone;
mod namespace;
mod net;
mod netns;
mod node;
mod peers;
mod placement;
mod pointers;
mod power;
mod pure;
mod repair;
mod settings;
mod store;
mod support;
mod swarm;
mod tickets;
mod vfs;
