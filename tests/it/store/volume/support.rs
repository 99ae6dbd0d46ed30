//! Volumes in memory, and what should be in them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairnfs::base::{Clock, Entropy, VolumeId};
use cairnfs::store::{
    DirtyId, Group, MemDisk, Order, Seq, Space, Store, Volume, VolumeError, VolumeOpenError,
    VolumeOptions, VolumeReport,
};

use crate::store::support::{START_MS, open as open_store, options};

pub(crate) const ID: VolumeId = VolumeId([7; 16]);
pub(crate) const QUOTA: u64 = 64 << 20;

/// Bounds so small that a few groups reach them.
pub(crate) fn tiny() -> VolumeOptions {
    VolumeOptions {
        commit_interval: Duration::from_secs(1),
        unwritten_bytes: 256 << 10,
        segment_bytes: 48 << 10,
        flush_rows: 24,
        flush_bytes: 12 << 10,
        flush_tail_bytes: 128 << 10,
        flush_idle: Duration::from_secs(5),
        cache_bytes: 1 << 20,
        carry_bytes: 40 << 10,
        is_salvage: false,
    }
}

/// The store on `disk`.
pub(crate) async fn store_on(disk: &MemDisk) -> Store {
    let clock = Clock::simulated(START_MS);
    open_store(Arc::new(disk.clone()), options(QUOTA), &clock)
        .await
        .0
}

/// The volume on `disk`, which is made if it is not there.
pub(crate) async fn open_with(
    disk: &MemDisk,
    options: VolumeOptions,
) -> Result<(Store, Volume, VolumeReport), VolumeOpenError> {
    let store = store_on(disk).await;
    match store.create_volume(ID).await {
        Err(VolumeOpenError::Exists(_)) => {}
        other => other?,
    }
    let (volume, report) = store.open_volume(ID, options).await?;
    Ok((store, volume, report))
}

pub(crate) async fn open(disk: &MemDisk) -> (Store, Volume, VolumeReport) {
    open_with(disk, tiny()).await.unwrap()
}

/// What should be in a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<(u8, Vec<u8>), Bytes>,
    pub(crate) dirty: BTreeMap<u64, Bytes>,
}

/// Random groups of changes, with what they do to the model.
pub(crate) struct Maker {
    pub(crate) entropy: Entropy,
    pub(crate) next_dirty: u64,
    pub(crate) keys: u64,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        Maker {
            entropy: Entropy::seeded(seed),
            next_dirty: 1,
            keys: 60,
        }
    }

    pub(crate) fn bytes(&self, len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        self.entropy.fill(&mut bytes);
        Bytes::from(bytes)
    }

    pub(crate) fn key(&self) -> (u8, Vec<u8>) {
        let space = [0, 1, 255][self.entropy.below(3) as usize];
        let number = self.entropy.below(self.keys);
        // Of several lengths, some of them the beginning of others.
        let key = match number % 4 {
            0 => Vec::new(),
            1 => vec![number as u8],
            2 => vec![255; number as usize % 7],
            _ => number.to_be_bytes().to_vec(),
        };
        (space, key)
    }

    /// A group, and the model after it.
    pub(crate) fn group(&mut self, model: &Model) -> (Group, Model) {
        let (mut group, mut after) = (Group::new(), model.clone());
        let below = |bound: u64| self.entropy.below(bound);
        for _ in 0..1 + below(5) {
            let (space, key) = self.key();
            if below(3) == 0 {
                group.remove(Space(space), &key);
                after.rows.remove(&(space, key));
            } else {
                let value = self.bytes([0, 5, 40, 900][below(4) as usize]);
                group.put(Space(space), &key, &value);
                after.rows.insert((space, key), value);
            }
        }
        if below(3) == 0 {
            let id = self.next_dirty;
            self.next_dirty += 1;
            let bytes = self.bytes([0, 10, 5_000, 20_000, 40_000][below(5) as usize]);
            group.keep(DirtyId(id), bytes.clone());
            after.dirty.insert(id, bytes);
        }
        // About as many go as come, so that their bytes stay few.
        let held: Vec<u64> = model.dirty.keys().copied().collect();
        if held.len() > 6 || (below(4) == 0 && !held.is_empty()) {
            let id = held[below(held.len() as u64) as usize];
            group.release(DirtyId(id));
            after.dirty.remove(&id);
        }
        (group, after)
    }
}

/// Applies a group, waiting for room where there is none.
pub(crate) async fn apply(volume: &Volume, group: &Group) -> Result<Seq, VolumeError> {
    for _ in 0..100 {
        match volume.apply(group) {
            Err(VolumeError::Busy) => volume.room().await?,
            other => return other,
        }
    }
    panic!("room came and there was none");
}

/// All rows of a space, read in pages of `limit`.
pub(crate) fn rows_of(
    volume: &Volume,
    space: u8,
    order: Order,
    limit: usize,
) -> Result<Vec<(Vec<u8>, Bytes)>, VolumeError> {
    let mut found = Vec::new();
    let mut next: Option<Bytes> = None;
    for _ in 0..100_000 {
        let beyond = next
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        let page = match order {
            Order::Ascending => {
                volume.scan(Space(space), beyond, Bound::Unbounded, order, limit)?
            }
            Order::Descending => {
                volume.scan(Space(space), Bound::Unbounded, beyond, order, limit)?
            }
        };
        assert!(page.rows.len() <= limit);
        found.extend(
            page.rows
                .into_iter()
                .map(|(key, value)| (key.to_vec(), value)),
        );
        match page.next {
            Some(key) => next = Some(key),
            None => return Ok(found),
        }
    }
    panic!("a scan without an end");
}

/// Everything that is in a volume.
pub(crate) fn content(volume: &Volume, limit: usize) -> Result<Model, VolumeError> {
    let mut model = Model::default();
    for space in [0u8, 1, 2, 255] {
        let up = rows_of(volume, space, Order::Ascending, limit)?;
        let mut down = rows_of(volume, space, Order::Descending, limit)?;
        down.reverse();
        assert_eq!(up, down, "both orders have the same rows");
        model
            .rows
            .extend(up.into_iter().map(|(key, value)| ((space, key), value)));
    }
    for (id, len) in volume.dirty(DirtyId(0), usize::MAX) {
        let bytes = volume.read_dirty(id, 0, u32::MAX)?;
        assert_eq!(bytes.len(), len as usize);
        model.dirty.insert(id.0, bytes);
    }
    Ok(model)
}
