//! The namespace's rows as a volume had them at one moment.

use bytes::Bytes;

use crate::namespace::state::Pairs;
use crate::namespace::{Rows, StateError};
use crate::store::VolumeSnapshot;
use crate::vfs::rows::{read, read_all};

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct SnapshotRows(pub(in crate::vfs) VolumeSnapshot);

impl Rows for SnapshotRows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        read(&self.0, key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Pairs, StateError> {
        read_all(&self.0, start, end, limit)
    }
}
