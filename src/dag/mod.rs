//! Manifests: files as extents of blocks, directories as packed nodes, links that name a root.
//!
//! Pure functions over values; knows nothing of sealing, disk or network.
