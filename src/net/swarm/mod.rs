//! The one door to libp2p.

mod behaviour;
mod build;
mod door;
mod gate;
pub mod tls;
