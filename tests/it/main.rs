//! Tests without a mount, with no sockets but loopback.

mod cli;
mod config;
mod dag;
mod layering;
mod net;
mod node;
mod peers;
mod placement;
mod pure;
mod store;
