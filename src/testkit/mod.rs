//! Clusters in one process and one thread, from one seed: simulated time, network and disks.

pub mod cluster;
pub mod scenario;

pub use cluster::{Cluster, ClusterOptions};
pub use scenario::{Outcome, run_seed};
