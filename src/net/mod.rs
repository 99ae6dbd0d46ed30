//! The only sockets. Everything above sees a [`NetHandle`] and never a transport.
//!
//! `swarm/` is the one door to libp2p; `bulk` the plane for shards; `memory` the network of
//! simulations and of a lone peer.

pub mod admission;
pub mod codec;
pub mod command;
pub mod credentials;
#[cfg(feature = "testkit")]
pub mod fault;
pub mod links;
pub mod members;
pub mod memory;
pub mod message;
pub mod mux;
pub mod records;
pub mod swarm;
pub mod throttle;

pub use command::{
    Command, Inbound, Lookup, Member, Members, NetActorEnds, NetError, NetHandle, Offer, Path,
    Reach,
};
pub use message::{PeerRecord, Refusal, Request, Response};
