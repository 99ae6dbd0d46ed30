//! Entries of one directory, by name and by the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::{Ino, Name};

/// Offsets below belong to `.` and `..`.
pub(super) const FIRST_OFFSET: u64 = 3;

/// A directory. Each entry has an offset that is never given to another: a listing that is
/// interrupted goes on after the last entry it showed, whatever came and went meanwhile.
#[derive(Default)]
pub(super) struct Dir {
    by_name: HashMap<Arc<[u8]>, (u64, Ino)>,
    by_offset: BTreeMap<u64, Arc<[u8]>>,
    next_offset: u64,
}

impl Dir {
    pub(super) fn get(&self, name: Name<'_>) -> Option<Ino> {
        self.by_name.get(name.bytes()).map(|(_, ino)| *ino)
    }

    /// Sets what a name means. A name that was there keeps its place in listings.
    pub(super) fn set(&mut self, name: Name<'_>, ino: Ino) {
        if let Some(place) = self.by_name.get_mut(name.bytes()) {
            place.1 = ino;
            return;
        }
        let offset = self.next_offset.max(FIRST_OFFSET);
        self.next_offset = offset + 1;
        let name: Arc<[u8]> = name.bytes().into();
        self.by_offset.insert(offset, name.clone());
        self.by_name.insert(name, (offset, ino));
    }

    pub(super) fn remove(&mut self, name: Name<'_>) {
        if let Some((offset, _)) = self.by_name.remove(name.bytes()) {
            self.by_offset.remove(&offset);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Entries after `offset`: their own offset, name and file.
    pub(super) fn after(&self, offset: u64) -> impl Iterator<Item = (u64, Name<'_>, Ino)> {
        let start = offset.saturating_add(1);
        self.by_offset.range(start..).filter_map(|(offset, name)| {
            let (_, ino) = self.by_name.get(name)?;
            Some((*offset, Name::new(name), *ino))
        })
    }
}
