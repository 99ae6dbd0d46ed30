//! The local engine of one volume: a journal, changes in memory, and a database of rows.
//!
//! It keeps spaces of sorted byte keys with small values, and raw dirty data until somebody takes it
//! elsewhere. Knows nothing of inodes, names, blocks or keys of ciphers.
//!
//! Invariants:
//! * A group of changes takes effect whole or not at all; after a crash a prefix of the groups is there, in
//!   the order in which they were applied, and in it everything that was synced.
//! * Whoever reads sees every group that was applied, at once, and waits for no writer.
//! * The database is at a place of the journal (its checkpoint); what is before that place is needed no
//!   longer, but for dirty data.
//! * Nothing is read back without its checksum compared.

mod error;
mod group;
mod handle;
mod home;
mod journal;
mod keep;
mod overlay;
mod recover;
mod rows;
mod shared;
mod snapshot;
mod turn;
mod writer;

pub use error::{VolumeError, VolumeOpenError};
pub use group::{DirtyId, Group, Seq, Space};
pub use handle::{Order, Page, Volume};
pub use shared::{VolumeOptions, VolumeReport, VolumeUsage};
pub use snapshot::VolumeSnapshot;

#[cfg(feature = "testkit")]
pub(super) use group::{JournalLog, checksum_key};
pub(super) use home::counted_by;
