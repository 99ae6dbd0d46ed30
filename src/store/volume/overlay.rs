//! What readers see: changes in memory on top of the last commit of the tables.
//!
//! There are two layers of changes: the young one takes what is applied, the old one is being written to the
//! tables. Both, and the snapshot of the tables that goes with them, are exchanged in one moment, so that a
//! reader has all of a group or nothing of it. Nothing here waits for a disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::group::{Change, DirtyId, Group, Seq};
use crate::store::database::Snapshot;
use crate::store::disk::DiskFile;
use crate::store::frame::Position;
use crate::store::quota::Reservation;

/// Changed rows: keys with their space; `None`: removed.
pub(super) type Changed = BTreeMap<Bytes, Option<Bytes>>;

/// Changed rows that belong together.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// Copied when it changes while somebody looks at an earlier moment.
    pub(super) rows: Arc<Changed>,
    /// Bytes of all changes, also those that later ones replaced.
    pub(super) bytes: usize,
    /// Room for what they will take in the tables.
    reserved: Option<Reservation>,
}

impl Layer {
    pub(super) fn insert(&mut self, (key, value): Change) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        Arc::make_mut(&mut self.rows).insert(key, value);
    }

    fn reserve(&mut self, more: Reservation) {
        match &mut self.reserved {
            Some(reserved) => reserved.absorb(more),
            None => self.reserved = Some(more),
        }
    }

    /// Puts older changes below these.
    fn slip_under(&mut self, older: Layer) {
        let rows = Arc::make_mut(&mut self.rows);
        for (key, value) in Arc::unwrap_or_clone(older.rows) {
            rows.entry(key).or_insert(value);
        }
        self.bytes += older.bytes;
        if let Some(reserved) = older.reserved {
            self.reserve(reserved);
        }
    }
}

/// Where a piece of dirty data is in the journal.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) at: Position,
    pub(super) data_at: u32,
    pub(super) len: u32,
    pub(super) record_len: u32,
    pub(super) sums: Arc<[u8]>,
    /// The segment, readable also after it was removed; `None` if it is lost.
    pub(super) file: Option<Arc<dyn DiskFile>>,
}

/// A piece of dirty data.
#[derive(Debug, Clone)]
pub(super) enum Dirty {
    /// Not written yet; added by this group.
    Memory(Seq, Bytes),
    Disk(Arc<Place>),
}

impl Dirty {
    pub(super) fn len(&self) -> u32 {
        match self {
            Dirty::Memory(_, bytes) => bytes.len() as u32,
            Dirty::Disk(place) => place.len,
        }
    }
}

/// A group that waits to be written to the journal.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) seq: Seq,
    pub(super) changes: Bytes,
    pub(super) change_count: usize,
    pub(super) added: Vec<(DirtyId, Bytes)>,
    pub(super) released: Vec<DirtyId>,
    /// What it takes in the journal at most.
    pub(super) cost: usize,
    /// Given back when it is written, or lost for good.
    pub(super) _reserved: Reservation,
}

/// The state of an open volume in memory.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) young: Layer,
    pub(super) old: Option<Arc<Layer>>,
    /// `None` once the volume is closed.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) dirty: BTreeMap<DirtyId, Dirty>,
    pub(super) dirty_bytes: u64,
    pub(super) pending: Vec<Pending>,
    /// Bytes of journal that wait to be written, those being written included.
    pub(super) unwritten: usize,
    pub(super) next_seq: u64,
}

/// The layers at one moment, as far as a look-up or scan needs them.
pub(super) struct View {
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) changes: BTreeMap<Bytes, Option<Bytes>>,
    /// Beyond this key there may be changes that are not here.
    pub(super) bound: Option<Bytes>,
}

impl State {
    /// Number of changed rows that are not in the tables.
    pub(super) fn waiting_rows(&self) -> usize {
        self.young.rows.len() + self.old.as_ref().map_or(0, |old| old.rows.len())
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.young.bytes + self.old.as_ref().map_or(0, |old| old.bytes)
    }

    /// Takes a group, whose encoded changes are `changes`. It was checked that it may be taken.
    pub(super) fn apply(
        &mut self,
        group: &Group,
        changes: Bytes,
        journal: Reservation,
        tables: Reservation,
    ) -> Seq {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        for (key, value) in &group.rows {
            let value = value.clone().map(|range| changes.slice(range));
            self.young.insert((changes.slice(key.clone()), value));
        }
        self.young.reserve(tables);
        for id in &group.released {
            self.forget(*id);
        }
        for (id, bytes) in &group.added {
            self.dirty_bytes += bytes.len() as u64;
            self.dirty.insert(*id, Dirty::Memory(seq, bytes.clone()));
        }
        let cost = group.journal_cost();
        self.unwritten += cost;
        self.pending.push(Pending {
            seq,
            changes,
            change_count: group.rows.len(),
            added: group.added.clone(),
            released: group.released.clone(),
            cost,
            _reserved: journal,
        });
        seq
    }

    pub(super) fn forget(&mut self, id: DirtyId) {
        if let Some(gone) = self.dirty.remove(&id) {
            self.dirty_bytes -= u64::from(gone.len());
        }
    }

    /// Sets the young layer apart, to be written to the tables.
    pub(super) fn freeze(&mut self) {
        if self.old.is_none() {
            self.old = Some(Arc::new(std::mem::take(&mut self.young)));
        }
    }

    /// Undoes that: the old layer was not written.
    pub(super) fn thaw(&mut self) {
        let Some(old) = self.old.take() else { return };
        let older = Arc::try_unwrap(old).unwrap_or_else(|shared| Layer {
            rows: Arc::clone(&shared.rows),
            bytes: shared.bytes,
            reserved: None,
        });
        self.young.slip_under(older);
    }

    fn layers(&self) -> Layers<'_> {
        Layers {
            old: self.old.as_ref().map(|old| &*old.rows),
            young: &self.young.rows,
        }
    }

    /// What is needed to look these keys up.
    pub(super) fn view_of<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> View {
        View {
            snapshot: self.snapshot.clone(),
            ..self.layers().view_of(keys)
        }
    }

    /// What is needed for a page of at most `limit` rows between two keys.
    pub(super) fn view(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
        is_reversed: bool,
    ) -> View {
        View {
            snapshot: self.snapshot.clone(),
            ..self.layers().view(from, to, limit, is_reversed)
        }
    }
}

/// The layers of changes at one moment.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) old: Option<&'a Changed>,
    pub(super) young: &'a Changed,
}

impl Layers<'_> {
    fn changed(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        let young = self.young.get(key);
        young.or_else(|| self.old.and_then(|old| old.get(key)))
    }

    /// What is needed to look these keys up, but for the tables.
    pub(super) fn view_of<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> View {
        let found = keys.filter_map(|key| {
            let value = self.changed(key)?;
            Some((Bytes::copy_from_slice(key), value.clone()))
        });
        View {
            changes: found.collect(),
            snapshot: None,
            bound: None,
        }
    }

    /// What is needed for a page of at most `limit` rows between two keys, but for the tables.
    pub(super) fn view(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
        is_reversed: bool,
    ) -> View {
        let mut changes = BTreeMap::new();
        let mut bound: Option<Bytes> = None;
        let layers = [self.old, Some(self.young)];
        for layer in layers.into_iter().flatten() {
            let mut range = layer.range::<[u8], _>((from, to));
            let mut last = None;
            let mut count = 0;
            while count < limit {
                let next = if is_reversed {
                    range.next_back()
                } else {
                    range.next()
                };
                let Some((key, value)) = next else { break };
                changes.insert(key.clone(), value.clone());
                last = Some(key);
                count += 1;
            }
            // Cut where the first of the layers was cut.
            if count == limit
                && let Some(last) = last
                && bound
                    .as_ref()
                    .is_none_or(|bound| is_before(last, bound, is_reversed))
            {
                bound = Some(last.clone());
            }
        }
        View {
            snapshot: None,
            changes,
            bound,
        }
    }
}

/// Whether one key comes before another one in the order of a scan.
pub(super) fn is_before(one: &[u8], other: &[u8], is_reversed: bool) -> bool {
    if is_reversed {
        one > other
    } else {
        one < other
    }
}
