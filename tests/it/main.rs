//! Tests without a mount, with no sockets but loopback.

mod cli;
mod config;
mod content;
mod dag;
mod layering;
mod net;
mod node;
mod placement;
mod pure;
mod store;
