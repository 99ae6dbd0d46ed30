//! An inode-level filesystem interface over FUSE. Knows the kernel and nothing of Cairn.
//!
//! * [`FileSystem`] is what a filesystem implements: inodes, names as bytes, answers that are either
//!   ready or a future ([`Answer`]).
//! * [`kernel`] is the adapter: it alone names the crate that speaks the FUSE protocol. It gives
//!   every request a deadline, bounds what is in flight and tells the kernel of remote changes.
//! * [`memfs`] is a complete filesystem in memory: the oracle of model tests and the floor of
//!   measurements.

pub mod acl;
mod answer;
mod filesystem;
pub mod kernel;
mod lookups;
pub mod memfs;
mod types;

pub use answer::Answer;
pub use filesystem::{CopyRange, Features, FileSystem, LockRequest, NewNode, Rename, Write};
pub use lookups::Lookups;
pub use types::*;
