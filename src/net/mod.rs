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
    NetHandle, Offer, Path, Reach, Stay,
};
pub use message::{PeerRecord, Refusal, Request, Response};

#[cfg(test)]
pub(crate) mod testing {
    //! What tests of this layer share.

    /// The golden frames whose name begins so: the rest of the name, and the bytes.
    pub(crate) fn golden(kind: &str) -> Vec<(String, Vec<u8>)> {
        let lines = include_str!("../../tests/fixtures/wire.txt").lines();
        let lines = lines.filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let decode = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        lines
            .map(|line| {
                let (name, hex) = line.split_once(' ').unwrap();
                (name.to_owned(), decode(hex))
            })
            .collect()
    }

    /// The lines that would be golden.
    pub(crate) fn lines(kind: &str, frames: &[(String, Vec<u8>)]) -> String {
        let line = |(name, bytes): &(String, Vec<u8>)| {
            format!("{kind} {name} {}\n", data_encoding::HEXLOWER.encode(bytes))
        };
        frames.iter().map(line).collect()
    }

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
