//! The one door to libp2p, and the network that a peer runs once it has invited or joined somebody.
//!
//! [`start`] puts the parts together: `actor` owns the Swarm, `roster` the member list, `tending`
//! keeps it alive, `lookup` asks the DHT, `front` carries out what comes over the seam. `door` and
//! `gate` keep strangers out of libp2p's own protocols.

mod actor;
mod addresses;
mod behaviour;
mod build;
mod connections;
mod contacts;
mod control;
mod door;
mod events;
mod front;
mod gate;
mod handshake;
mod inbound;
mod lookup;
mod options;
mod roster;
mod start;
mod tending;
pub mod tls;

pub use addresses::{BULK_PORT, CONTROL_PORT, default_listen};
pub use options::{NetInfo, NetOptions, StartError, StartFailure};
pub use start::{Network, start};
