//! Tests without a mount, with no sockets but loopback.

mod cli;
mod crash;
mod config;
mod devnet;
mod dag;
mod layering;
mod net;
mod netns;
mod node;
mod placement;
mod pure;
mod store;
mod support;
mod swarm;
