//! What the writer does besides writing: segments begun, punched and removed, the index brought up
//! to date or built anew.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::{DiskFile, is_full, write_all_at};
use super::draft::{DeadData, Draft};
use super::engine::{Active, Batch, Engine, Fail};
use super::quota::flush_cost;
use super::record::{PAGE, Position, align_up};
use super::recover;
use super::rows::{Checkpoint, Totals};
use super::segment::{SEGMENT_HEADER_LEN, STORE_DIR, encode_header, segment_name};
use super::shared::Shared;

impl Engine {
    /// Begins the next segment. The present one is durable.
    pub(super) fn roll(&mut self, first_seq: u64) -> Result<(), Fail> {
        let id = self.active.id + 1;
        self.active = create_segment(&self.shared, id, first_seq)?;
        self.tail_bytes += SEGMENT_HEADER_LEN as u64;
        Ok(())
    }

    /// Work that follows from what was just written.
    pub(super) fn keep_house(&mut self) -> Result<(), Fail> {
        let options = &self.shared.options;
        if self.shared.index.pending() >= self.flush_rows
            || self.tail_bytes >= options.flush_tail_bytes
        {
            self.try_flush()?;
        }
        self.remove_empty()
    }

    /// Brings the index database up to date if the disk has room for that. The log has everything,
    /// so it can wait.
    pub(super) fn try_flush(&mut self) -> Result<bool, Fail> {
        let pending = self.shared.index.pending();
        let disk = &self.shared.disk;
        let needed = flush_cost(pending as u64);
        if disk.free_bytes().is_ok_and(|free| free < needed) {
            tracing::warn!("no room on the disk to bring the index up to date");
            self.flush_rows = pending + self.shared.options.flush_rows / 4;
            return Ok(false);
        }
        self.flush().map(|()| true)
    }

    /// Brings the index database up to date with the log.
    pub(super) fn flush(&mut self) -> Result<(), Fail> {
        // Otherwise the accounts would say punched and a power cut bring the data back.
        for id in std::mem::take(&mut self.punched) {
            if let Ok(file) = self.shared.files.get(id) {
                let synced = file.sync_data();
                synced.map_err(|error| Fail::Broken(format!("syncing a segment: {error}")))?;
            }
        }
        self.shared.index.flush(&Checkpoint {
            store_id: self.shared.store_id,
            at: Position {
                segment: self.active.id,
                offset: self.active.end,
            },
            totals: self.totals,
        })?;
        self.tail_bytes = 0;
        self.flush_rows = self.shared.options.flush_rows;
        let unflushed = self.shared.index.unflushed_bytes();
        self.shared.ledger.set_unflushed(unflushed);
        self.shared.count_rest();
        Ok(())
    }

    /// Removes segments in which nothing counts any more.
    pub(super) fn remove_empty(&mut self) -> Result<(), Fail> {
        self.empty.remove(&self.active.id);
        // While a segment is half moved, others must stay: they may have the later copies of what
        // is still in it, which tombstones name by their place.
        let victim = self.totals.victim;
        let half_moved = victim.filter(|id| self.shared.index.segment(*id).is_some());
        let waits = |id: &u32| half_moved.is_some_and(|victim| victim != *id);
        let (waiting, removable) = std::mem::take(&mut self.empty).into_iter().partition(waits);
        self.empty = waiting;
        let removable: BTreeSet<u32> = removable;
        if removable.is_empty() {
            return Ok(());
        }
        let mut batch = self.begin();
        for id in &removable {
            batch.draft.rows.segments.insert(*id, None);
        }
        let totals = &mut batch.draft.totals;
        if totals
            .victim
            .is_some_and(|victim| removable.contains(&victim))
        {
            totals.victim = None;
        }
        if removable.contains(&self.forgotten.segment) {
            let forgotten = std::mem::take(&mut self.forgotten);
            for claim in &forgotten.claims {
                if let Some(row) = self.shared.index.claim(claim)? {
                    batch.draft.rows.shorts.insert(row.short, None);
                }
            }
            let rows = &mut batch.draft.rows;
            rows.claims
                .extend(forgotten.claims.into_iter().map(|claim| (claim, None)));
            rows.kv
                .extend(forgotten.kv.into_iter().map(|key| (key, None)));
        }
        self.totals = batch.draft.totals;
        self.shared.index.merge(batch.draft.rows);
        // So that the database does not point into a segment that is gone. Where there is no room
        // even for that, removing comes first: a crash in between costs a rebuild, no more.
        let is_flushed = self.try_flush()?;
        let broken = |error: std::io::Error| Fail::Broken(format!("removing a segment: {error}"));
        for id in removable {
            self.shared.disk.remove(&segment_name(id)).map_err(broken)?;
            self.shared.files.forget(id);
            self.shared.ledger.remove_segment(id);
        }
        self.shared.disk.sync_dir(STORE_DIR).map_err(broken)?;
        if !is_flushed {
            self.try_flush()?;
        }
        Ok(())
    }

    /// Builds the index anew from the log.
    pub(super) fn rebuild(&mut self, why: &str) -> Result<(), Fail> {
        tracing::warn!(why, "rebuilding the index from the log");
        let shared = Arc::clone(&self.shared);
        let _closed = shared.gate.write().unwrap_or_else(|p| p.into_inner());
        *self = recover::rebuild(&shared)
            .map_err(|error| Fail::Broken(format!("rebuilding the index: {error}")))?;
        shared.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    pub(super) fn count_segment(&self, id: u32, file: &Arc<dyn DiskFile>) {
        if let Ok(allocated) = file.allocated() {
            self.shared.ledger.set_segment(id, allocated);
        }
    }

    /// Gives the space of dead data back. Where that fails, compaction does it later.
    pub(super) fn punch(&mut self, dead: &[DeadData], batch: &mut Batch) {
        let page = PAGE as u64;
        let mut touched = BTreeSet::new();
        for data in dead {
            let start = align_up(data.offset as usize, PAGE) as u64;
            let end = (data.offset + data.len) / page * page;
            if end <= start || batch.draft.segment(data.segment).is_none() {
                continue;
            }
            let Ok(file) = self.shared.files.get(data.segment) else {
                continue;
            };
            if file.punch_hole(start, end - start).is_ok() {
                batch.draft.edit_segment(data.segment, |row| {
                    row.punched += (end - start) as u32;
                });
                touched.insert(data.segment);
            }
        }
        for id in &touched {
            if let Ok(file) = self.shared.files.get(*id) {
                self.count_segment(*id, &file);
            }
        }
        self.shared
            .index
            .merge(std::mem::take(&mut batch.draft.rows));
        self.punched.extend(touched);
    }
}

/// Creates an empty segment, durably.
pub(super) fn create_segment(shared: &Shared, id: u32, first_seq: u64) -> Result<Active, Fail> {
    let name = segment_name(id);
    let result = (|| {
        let file = match shared.disk.create(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let begun = shared.disk.open(&name)?;
                begun.set_len(0)?;
                begun
            }
            other => other?,
        };
        let header = encode_header(&shared.key, &shared.store_id, id, first_seq);
        write_all_at(file.as_ref(), 0, &header)?;
        file.sync_data()?;
        shared.disk.sync_dir(STORE_DIR)?;
        Ok(file)
    })();
    match result {
        Ok(file) => {
            shared.files.insert(id, Arc::clone(&file));
            let mut draft = Draft::new(Arc::clone(&shared.index), Totals::default());
            draft.edit_segment(id, |_| {});
            shared.index.merge(draft.rows);
            if let Ok(allocated) = file.allocated() {
                shared.ledger.set_segment(id, allocated);
            }
            Ok(Active {
                id,
                file,
                end: SEGMENT_HEADER_LEN as u32,
            })
        }
        Err(error) if is_full(&error) => {
            // If it stays, the next attempt takes it over.
            let _ = shared.disk.remove(&name);
            Err(Fail::Full)
        }
        Err(error) => Err(Fail::Broken(format!("beginning a segment: {error}"))),
    }
}
