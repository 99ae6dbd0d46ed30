//! The vocabulary every other layer speaks: identities, units, bounds, wire encoding, and the
//! injected clock, entropy and pools.
//!
//! Knows nothing of files, sockets, ciphers or codes. Imports no other layer.

pub mod calendar;
pub mod chunk;
pub mod claim;
pub mod clock;
pub mod entropy;
pub mod error;
pub mod glob;
#[cfg(test)]
pub(crate) mod golden;
pub mod ids;
pub mod keep;
pub mod limits;
pub mod lru;
pub mod memory;
pub mod profile;
pub mod redundancy;
pub mod reference;
pub mod tasks;
pub mod units;
pub mod wire;
pub mod worker;

pub use chunk::Chunk;
pub use claim::{ClaimId, OwnerId};
pub use clock::Clock;
pub use entropy::Entropy;
pub use error::{Class, Classify};
pub use glob::Glob;
pub use ids::{BlockId, Group, IndexSet, NetworkId, PeerId, ShardHash, ShardId, VolumeId};
pub use keep::KeepRule;
pub use limits::Limits;
pub use lru::Lru;
pub use profile::EcProfile;
pub use redundancy::Redundancy;
pub use reference::{BlockKey, BlockRef};
pub use tasks::Pools;
pub use units::ByteSize;
