//! What the map has besides files: who is a member, documents about that, snapshots.

use bytes::Bytes;

use super::View;
use crate::base::PeerId;
use crate::base::limits::SNAPSHOTS_MAX;
use crate::namespace::error::StateError;
use crate::namespace::id::SnapshotId;
use crate::namespace::key::{self, Key};
use crate::namespace::value::Value;
use crate::namespace::{row, state};

impl View<'_> {
    /// Devices that are members, with what proves it.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn members(&self) -> Result<Vec<(PeerId, Vec<Bytes>)>, StateError> {
        let mut members = Vec::new();
        for key in state::keys_below(self.rows, key::MEMBERS, usize::MAX)? {
            let key = Key::decode(&key).map_err(|why| StateError::corrupt("a key", why))?;
            if let Key::Member(device) = key {
                let row = self.rows.siblings(&key)?;
                members.push((device, row::proofs(&row).cloned().collect()));
            }
        }
        Ok(members)
    }

    /// The snapshots that are kept, the oldest first, with what is said of each.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotId, Bytes)>, StateError> {
        let mut found = Vec::new();
        for key in state::keys_below(self.rows, key::SNAPSHOTS, SNAPSHOTS_MAX)? {
            let key = Key::decode(&key).map_err(|why| StateError::corrupt("a key", why))?;
            if let Key::Snapshot(id) = key {
                let row = self.rows.siblings(&key)?;
                let mut values = row.iter().map(|sibling| &sibling.value);
                found.extend(values.find_map(|value| match value {
                    Value::Snapshot(record) => Some((id, record.clone())),
                    _ => None,
                }));
            }
        }
        Ok(found)
    }

    /// Documents about members and keys: the kind and bytes of each, with the devices in whose feeds it came.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn rulings(&self) -> Result<Vec<(u8, Bytes, Vec<PeerId>)>, StateError> {
        let mut rulings = Vec::new();
        for key in state::keys_below(self.rows, key::RULINGS, usize::MAX)? {
            let key = Key::decode(&key).map_err(|why| StateError::corrupt("a key", why))?;
            if let Key::Ruling(kind, _) = key {
                let row = self.rows.siblings(&key)?;
                rulings.extend(row::ruling(&row).map(|(bytes, authors)| (kind, bytes, authors)));
            }
        }
        Ok(rulings)
    }
}
