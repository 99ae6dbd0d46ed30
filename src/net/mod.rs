//! The only sockets. Everything above sees a [`NetHandle`] and never a transport.
//!
//! `swarm/` is the one door to libp2p; `bulk` the plane for shards; `memory` the network of
//! simulations and of a lone peer.

pub mod admission;
pub mod budget;
pub mod bulk;
pub mod codec;
pub mod command;
pub mod credentials;
#[cfg(feature = "testkit")]
pub mod fault;
pub mod links;
pub mod lone;
pub mod members;
pub mod memory;
pub mod message;
pub mod mux;
pub mod records;
pub mod swarm;
pub mod throttle;

pub use command::{
    Command, Inbound, Lookup, LookupCounter, LookupTotals, Member, Members, NetActorEnds, NetError,
    NetHandle, Offer, Path, Reach,
};
pub use message::{PeerRecord, Refusal, Request, Response};

#[cfg(test)]
pub(crate) mod testing {
    //! How many random cases the property tests of this layer try.

    use proptest::prelude::ProptestConfig;

    /// `base` cases, times `CAIRN_TEST_SCALE`.
    pub(crate) fn cases(base: u32) -> ProptestConfig {
        let scale = std::env::var("CAIRN_TEST_SCALE")
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(1);
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(base.saturating_mul(scale))
        }
    }
}
