//! Taking snapshots and letting them go.
//!
//! A snapshot has a number among those of checkpoints. Everything that it names is counted under that number first: the
//! blocks of its files' contents, with the nodes of their manifests, and those of its pages. Last comes one group that
//! has its record in the map of the volume and, beside it, which number that is. A number that no such row names is of one
//! that was not finished, or is being let go, and what it counts is taken off again: so a crash at any moment loses
//! nothing that is named, and keeps nothing else.
//!
//! While contents are being counted no block is released: the rows are those of a moment that is past, and what they
//! name may have been let go since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::record::label_fault;
use super::tree::DerivedRows;
use super::{SnapshotError, SnapshotInfo, SnapshotRecord};
use crate::base::limits::SNAPSHOTS_MAX;
use crate::base::{BlockId, wire};
use crate::dag;
use crate::feeds::checkpoint::{Making, PageHash, Previous, SnapshotRoot, Tree};
use crate::namespace::state::{decode_row, end_of};
use crate::namespace::{Key, Rows, SnapshotId, StateError, Value};
use crate::store::{Group, VolumeError};
use crate::vfs::checkpoint::{CheckpointFailure, SNAPSHOTS, SnapshotRows, bodies};
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;
use crate::vfs::remove::Gone;
use crate::vfs::rows::{CHECKPOINTS, FILE_ROWS};

/// Version of the row that says which snapshot has a number.
const VERSION: u8 = 1;
/// Longest such row.
const ROW_MAX_BYTES: usize = 64;
/// Rows that are looked at in one turn on the disk's threads.
const ROWS: usize = 1024;
/// Blocks that are looked at to tell what snapshots alone keep.
const LOOKS_MAX: usize = 400_000;

/// While it is there, no block is released.
struct Hold(Arc<Inner>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.checkpoints.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was found in some rows.
#[derive(Default)]
struct Looked {
    bodies: Vec<Gone>,
    files: u64,
    bytes: u64,
    /// Where the next ones begin.
    next: Option<Vec<u8>>,
}

fn kept_key(number: u64) -> Vec<u8> {
    [&[SNAPSHOTS], &number.to_be_bytes()[..]].concat()
}

/// Looks at rows of files from one on.
fn look_at(rows: &SnapshotRows, from: &[u8]) -> Result<Looked, StateError> {
    let found = rows.scan(from, &end_of(FILE_ROWS), ROWS)?;
    let mut looked = Looked::default();
    if found.len() == ROWS {
        looked.next = found.last().map(|(key, _)| [key, [0].as_slice()].concat());
    }
    for (bytes, value) in found {
        match Key::decode(&bytes) {
            Ok(Key::Attrs(_)) => looked.files += 1,
            Ok(key @ Key::Content(_)) => {
                let row = decode_row(&key, &value)?;
                let contents = row.iter().filter_map(|sibling| match &sibling.value {
                    Value::Content(content) => Some(content),
                    _ => None,
                });
                let shown = contents.max_by_key(|content| content.edited);
                looked.bytes += shown.map_or(0, |content| content.size);
                looked.bodies.extend(bodies(&row));
            }
            _ => {}
        }
    }
    Ok(looked)
}

impl Inner {
    /// From now on no block is released, until what is answered is dropped.
    fn hold_blocks(self: &Arc<Self>) -> Hold {
        let _ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoints.held.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(self))
    }

    pub(super) async fn make_snapshot(
        self: &Arc<Self>,
        label: &str,
    ) -> Result<SnapshotInfo, SnapshotError> {
        if let Some(why) = label_fault(label) {
            let label = label.chars().take(80).collect();
            return Err(SnapshotError::Label { label, why });
        }
        if self.is_reader() {
            return Err(SnapshotError::Reader);
        }
        self.seal_all().await.map_err(SnapshotError::Unsynced)?;
        let _turn = self.checkpoints.turn.lock().await;
        self.forget_unfinished().await?;
        let known = self.records()?;
        if known.len() >= SNAPSHOTS_MAX {
            return Err(SnapshotError::TooMany);
        }
        let _hold = self.hold_blocks();
        let (rows, now) = {
            let _core = self.core();
            self.checkpoints.gate.check()?;
            (SnapshotRows(self.volume.snapshot()), self.now())
        };
        let mut id = SnapshotId([0; 16]);
        id.0[..8].copy_from_slice(&now.hlc.0.to_be_bytes());
        id.0[8..].copy_from_slice(&self.identity.peer.0[..8]);
        let number = self.next_checkpoint()?;
        let mut record = SnapshotRecord {
            made_ms: self.now_ms(),
            label: label.to_owned(),
            files: 0,
            bytes: 0,
            root: PageHash([0; 32]),
            root_bytes: 0,
            place: Bytes::new(),
        };
        // Names are by the second.
        while known.iter().any(|(_, other)| other.name() == record.name()) {
            record.made_ms = (record.made_ms / 1000 + 1) * 1000;
        }
        let filled = self.fill_snapshot(number, rows, &mut record).await;
        let kept = match filled {
            Ok(()) => self.keep_snapshot(number, id, &record).await,
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            if let Err(error) = self.forget_uses(number).await {
                tracing::debug!("an unfinished snapshot is let go later: {error}");
            }
            return Err(error);
        }
        // Whether or not this can be waited for, it is known from now on.
        self.volume.sync_all().await?;
        let all = self.infos()?;
        let made = all.into_iter().find(|info| info.id == id);
        made.ok_or(SnapshotError::Damaged("it is not there after it was made"))
    }

    /// Counts and places everything that a snapshot of these rows needs.
    async fn fill_snapshot(
        self: &Arc<Self>,
        number: u64,
        rows: SnapshotRows,
        record: &mut SnapshotRecord,
    ) -> Result<(), SnapshotError> {
        (record.files, record.bytes) = self.count_files_of(number, &rows).await?;
        let (before, derived_before) = self.pages_before().await;
        let made = self.cut(number, Making::new(before), rows.clone(), None);
        let (making, shared) = made.await?;
        self.count_reused_pages(number, &making).await?;
        let made = self.cut(number, Making::new(derived_before), DerivedRows(rows), None);
        let (making, derived) = made.await?;
        self.count_reused_pages(number, &making).await?;
        let root = SnapshotRoot {
            volume: self.identity.id,
            made_ms: record.made_ms,
            rows: shared.tree,
            derived: derived.tree,
        };
        let bytes = Bytes::from(root.encode());
        record.root = PageHash::of(&bytes);
        record.root_bytes = bytes.len() as u32;
        let stored = self.store_pages(number, &[bytes]).await?;
        record.place = stored.into_iter().next().unwrap_or_default();
        Ok(())
    }

    /// Counts what all contents in some rows use of blocks. Answers how many files there are, and bytes in them.
    async fn count_files_of(
        self: &Arc<Self>,
        number: u64,
        rows: &SnapshotRows,
    ) -> Result<(u64, u64), SnapshotError> {
        let (mut files, mut bytes) = (0, 0u64);
        let mut uses: BTreeMap<BlockId, u64> = BTreeMap::new();
        let mut next = Some(FILE_ROWS.to_vec());
        while let Some(from) = next {
            let looked = {
                let rows = rows.clone();
                let disk = &self.blocks.pools().disk;
                disk.run(move || look_at(&rows, &from)).await?
            };
            files += looked.files;
            bytes = bytes.saturating_add(looked.bytes);
            for (profile, body) in looked.bodies {
                match body {
                    dag::Body::Inline(extents) => {
                        for extent in extents {
                            *uses.entry(extent.block.id).or_insert(0) += u64::from(extent.len);
                        }
                    }
                    dag::Body::Manifest(root) => {
                        let mut from = Some(0);
                        while let Some(at) = from {
                            let (part, next) = self.uses_from(profile, root, at).await?;
                            for (block, more) in part.0 {
                                *uses.entry(block).or_insert(0) += more.unsigned_abs();
                            }
                            if uses.len() >= self.blocks_per_group() {
                                let full = std::mem::take(&mut uses);
                                self.count_known(number, full).await?;
                            }
                            from = next;
                        }
                    }
                }
                if uses.len() >= self.blocks_per_group() {
                    let full = std::mem::take(&mut uses);
                    self.count_known(number, full).await?;
                }
            }
            next = looked.next;
        }
        self.count_known(number, uses).await?;
        Ok((files, bytes))
    }

    /// Counts uses of blocks. Where others take part, those that they placed are theirs to keep.
    async fn count_known(
        &self,
        number: u64,
        mut uses: BTreeMap<BlockId, u64>,
    ) -> Result<(), VolumeError> {
        if self.is_shared() {
            let mut known = BTreeMap::new();
            for (block, bytes) in uses {
                if self.tenant(block)?.is_some() {
                    known.insert(block, bytes);
                }
            }
            uses = known;
        }
        match uses.is_empty() {
            true => Ok(()),
            false => self.count_contents(number, uses).await,
        }
    }

    /// Pages that need not be stored again, of shared rows and of derived ones: those of the last snapshot of this
    /// device, or of a later checkpoint.
    async fn pages_before(self: &Arc<Self>) -> (Previous, Previous) {
        match self.last_snapshot().await {
            Ok(Some((number, root))) => {
                let is_last = matches!(
                    self.kept_checkpoints(),
                    Ok(kept) if kept.last().is_none_or(|kept| kept.number < number)
                );
                let rows = match is_last {
                    true => self.tree_before(number, root.rows.as_ref()).await,
                    false => self.previous_pages().await,
                };
                (rows, self.tree_before(number, root.derived.as_ref()).await)
            }
            Ok(None) => (self.previous_pages().await, Previous::default()),
            Err(error) => {
                tracing::warn!("the last snapshot is not built upon: {error}");
                (self.previous_pages().await, Previous::default())
            }
        }
    }

    async fn tree_before(&self, number: u64, tree: Option<&Tree>) -> Previous {
        let Some(tree) = tree else {
            return Previous::default();
        };
        let loaded = self.load_tree(number, tree).await;
        loaded.unwrap_or_else(|error| {
            tracing::warn!("the last snapshot is not built upon: {error}");
            Previous::default()
        })
    }

    /// The last snapshot of this device that is kept.
    async fn last_snapshot(&self) -> Result<Option<(u64, SnapshotRoot)>, SnapshotError> {
        let Some(number) = self.numbers_below(SNAPSHOTS)?.last().copied() else {
            return Ok(None);
        };
        let Some(id) = self.snapshot_of(number)? else {
            return Ok(None);
        };
        let records = self.records()?;
        let Some((_, record)) = records.into_iter().find(|(known, _)| *known == id) else {
            return Ok(None);
        };
        let root = self.fetch_snapshot_root(&record).await?;
        Ok(Some((number, root)))
    }

    /// The snapshot of a number.
    fn snapshot_of(&self, number: u64) -> Result<Option<SnapshotId>, SnapshotError> {
        let Some(row) = self.volume.get(CHECKPOINTS, &kept_key(number))? else {
            return Ok(None);
        };
        match wire::decode::<(u8, SnapshotId)>(&row, ROW_MAX_BYTES) {
            Ok((VERSION, id)) => Ok(Some(id)),
            _ => Err(CheckpointFailure::Books(number).into()),
        }
    }

    /// The number under which a snapshot is counted here; none if another device made it.
    fn number_of(&self, id: SnapshotId) -> Result<Option<u64>, SnapshotError> {
        for number in self.numbers_below(SNAPSHOTS)? {
            if self.snapshot_of(number)? == Some(id) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Snapshots that other devices made: what they have of blocks is not in the books here. Reads tables.
    pub(in crate::vfs) fn records_of_others(&self) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let mut own = BTreeSet::new();
        for number in self.numbers_below(SNAPSHOTS)? {
            own.extend(self.snapshot_of(number)?);
        }
        let mut all = self.records()?;
        all.retain(|(id, _)| !own.contains(id));
        Ok(all.into_iter().map(|(_, record)| record).collect())
    }

    /// Makes a snapshot known: from now on it is kept.
    async fn keep_snapshot(
        &self,
        number: u64,
        id: SnapshotId,
        record: &SnapshotRecord,
    ) -> Result<(), SnapshotError> {
        let bytes = Bytes::from(record.encode());
        let row = wire::encode(&(VERSION, id));
        loop {
            let tried = {
                let mut core = self.core();
                let edited = self.edit(&core, self.now(), |edit| {
                    edit.set_snapshot(id, bytes.clone())
                });
                edited.and_then(|mut edited| {
                    edited.group.put(CHECKPOINTS, &kept_key(number), &row);
                    self.commit(&mut core, edited)
                })
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(Stop::Busy) => self.room().await.map_err(SnapshotError::Stopped)?,
                Err(stop) => return Err(stop.into()),
            }
        }
    }

    pub(super) async fn remove_snapshot(
        self: &Arc<Self>,
        id: SnapshotId,
    ) -> Result<(), SnapshotError> {
        if self.is_reader() {
            return Err(SnapshotError::Reader);
        }
        let _turn = self.checkpoints.turn.lock().await;
        let number = self.number_of(id)?;
        loop {
            let tried = {
                let mut core = self.core();
                let edited = self.edit(&core, self.now(), |edit| edit.remove_snapshot(id));
                edited.and_then(|mut edited| {
                    edited.group.cleanup();
                    if let Some(number) = number {
                        edited.group.remove(CHECKPOINTS, &kept_key(number));
                    }
                    self.commit(&mut core, edited)
                })
            };
            match tried {
                Ok(()) => break,
                Err(Stop::Busy) => self.room().await.map_err(SnapshotError::Stopped)?,
                Err(Stop::Errno(cairnfs_fuse::Errno::ENOENT)) => {
                    return Err(SnapshotError::Unknown(format!("{id:?}")));
                }
                Err(stop) => return Err(stop.into()),
            }
        }
        self.snapshots.reading.forget(id);
        self.volume.sync_all().await?;
        if let Some(number) = number {
            // A crash before the end of this is found when the volume is opened.
            self.forget_uses(number).await?;
        }
        self.dropping.notify_one();
        Ok(())
    }

    /// Takes off the counts what snapshots of this device use that others let go.
    pub(super) async fn follow_removals(&self) -> Result<(), SnapshotError> {
        let _turn = self.checkpoints.turn.lock().await;
        let numbers = self.numbers_below(SNAPSHOTS)?;
        if numbers.is_empty() {
            return Ok(());
        }
        let known = {
            let _core = self.core();
            self.view(|view| view.snapshots())?
        };
        for number in numbers {
            let id = self.snapshot_of(number)?;
            if id.is_some_and(|id| known.iter().any(|(other, _)| *other == id)) {
                continue;
            }
            let mut group = Group::new();
            group.cleanup();
            group.remove(CHECKPOINTS, &kept_key(number));
            self.apply(&group)?;
            self.forget_uses(number).await?;
        }
        Ok(())
    }

    /// All snapshots, with what each of them alone keeps, as far as that is soon told.
    pub(super) fn list_snapshots(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let mut all = self.infos()?;
        let mut looks = 0;
        for number in self.numbers_below(SNAPSHOTS)? {
            let Some(id) = self.snapshot_of(number)? else {
                continue;
            };
            let Some(info) = all.iter_mut().find(|info| info.id == id) else {
                continue;
            };
            if looks < LOOKS_MAX {
                let mut uses = self.uses_of_checkpoint(number)?;
                for (block, bytes) in self.uses_of_contents(number)? {
                    *uses.entry(block).or_insert(0) += bytes;
                }
                looks += uses.len();
                info.alone_bytes = Some(self.alone_bytes(&uses)?);
            }
        }
        Ok(all)
    }

    /// Bytes of blocks of which nothing is in use but this.
    fn alone_bytes(&self, uses: &BTreeMap<BlockId, u64>) -> Result<u64, SnapshotError> {
        let mut sum = 0;
        for (block, bytes) in uses {
            let tenant = self.tenant(*block)?;
            let alone = tenant.filter(|tenant| tenant.live == *bytes);
            sum += alone.map_or(0, |tenant| u64::from(tenant.plain_len));
        }
        Ok(sum)
    }
}
