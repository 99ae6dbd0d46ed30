//! Which peers hold which shards: computed from the member list, recorded nowhere.
//!
//! Pure functions over values; knows nothing of connections, disks or block contents. The chain
//! is [`candidates`] (which 40 members), [`hrw`] (how well each of them suits a group),
//! [`holders`] (in which order they are asked, and who gets which shard) and [`happiness`] (what
//! loss that survives). [`Cluster`] does the first three for a whole member list, and
//! [`Coverage`] tells where a list that is not whole is as good as one. [`auto`] chooses a redundancy for the peers there are.

pub mod auto;
pub mod candidates;
pub mod cluster;
pub mod coverage;
pub mod happiness;
pub mod holders;
pub mod hrw;

pub use auto::AutoProfile;
pub use candidates::{Point, closest, distance, group_key, peer_point, point, volume_key};
pub use cluster::{Cluster, Offering};
pub use coverage::Coverage;
pub use happiness::{promised, survives};
pub use holders::{Candidate, assign, rank};
pub use hrw::{hash01, median_capacity, score, weight};
