//! Clusters in one process, faulty networks and disks, workloads and checkers.
