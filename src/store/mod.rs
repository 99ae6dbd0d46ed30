//! The only disk I/O of a peer's own data: shards, claims and small records in one log.
//!
//! The log (segment files) is the truth; the index database is a cache of it that can be thrown
//! away. One writer, many readers. Beside it each volume has an engine of its own (`volume`). Knows nothing of
//! the network, of keys or of what blocks and rows mean.
//!
//! Invariants:
//! * What a call acknowledged was synced before.
//! * No shard leaves without its hash checked against the address asked for.
//! * The rows of the index are a function of the log: `draft` has that function, writing and
//!   replaying both use it.
//! * Nothing but `database` names redb; nothing but `real_disk` and `direct` makes a system call.

mod alive;
mod compact;
mod database;
mod direct;
pub mod disk;
mod draft;
mod engine;
mod error;
#[cfg(feature = "testkit")]
pub mod forge;
mod frame;
mod handle;
mod holdings;
mod house;
mod index;
#[cfg(any(test, feature = "testkit"))]
pub mod mem_disk;
mod paged;
mod parts;
mod plan;
mod quota;
mod read;
mod real_disk;
mod record;
mod recover;
mod replay;
mod rescue;
mod ring;
mod rows;
mod segment;
mod shared;
mod tables;
mod trash;
mod version;
mod volume;
mod workers;
mod writer;

pub use disk::{Disk, DiskEntry, DiskFile};
pub use error::{OpenError, StoreError};
pub use handle::{KvChange, Store};
pub use holdings::{
    Digest, Examined, Holding, HoldingPage, KEEPERS_MAX, KEEPERS_PAGE, Keeper, KeeperPage,
};
#[cfg(any(test, feature = "testkit"))]
pub use mem_disk::MemDisk;
pub use parts::{FoundPart, PartError, PartReader};
pub use quota::Usage;
pub use real_disk::RealDisk;
pub use record::{KV_KEY_MAX, KV_SPACE_MAX, KV_VALUE_MAX};
pub use replay::OpenReport;
pub use shared::StoreOptions;
pub use trash::{TrashKeeper, TrashPart};
pub use version::{DATA_FORMAT, VERSION_FILE};
pub use volume::{
    DirtyId, Group, Order, Page, Seq, Space, Volume, VolumeError, VolumeOpenError, VolumeOptions,
    VolumeReport, VolumeSnapshot, VolumeUsage,
};
pub use workers::{Compaction, Expiry};
