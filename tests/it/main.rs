//! Tests without a mount, with no sockets but loopback.

mod cli;
mod config;
mod layering;
mod net;
mod node;
mod pure;
mod store;
