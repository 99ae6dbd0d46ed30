//! A volume as a filesystem, without a kernel.

#[cfg(feature = "testkit")]
mod checkpoint;
#[cfg(feature = "testkit")]
mod files;
#[cfg(feature = "testkit")]
mod many_blocks;
#[cfg(feature = "testkit")]
mod model;
#[cfg(feature = "testkit")]
mod over_quota;
#[cfg(feature = "testkit")]
mod policy;
#[cfg(feature = "testkit")]
mod shared;
#[cfg(feature = "testkit")]
mod snapshots;
#[cfg(feature = "testkit")]
mod space;
#[cfg(feature = "testkit")]
mod syncing;
#[cfg(feature = "testkit")]
mod twin;
#[cfg(feature = "testkit")]
mod unread;
