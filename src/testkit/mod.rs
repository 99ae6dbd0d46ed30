//! Clusters in one process and one thread, from one seed: simulated time, network and disks; and
//! entry points for fuzzing.

pub mod cluster;
pub mod fuzz;
pub mod scenario;

pub use cluster::{Cluster, ClusterOptions, PeerSetup, StartError, UpkeepTimes};
pub use scenario::{Outcome, run_seed};
