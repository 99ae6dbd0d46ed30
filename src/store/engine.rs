//! The one writer: gathers the records of a group of operations, writes them with one call, makes
//! them durable with one sync, and only then lets the index and the callers know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::compact::{Cursor, Forgotten, Progress};
use super::disk::{DiskFile, is_full};
use super::draft::Draft;
use super::error::StoreError;
use super::frame::Parts;
use super::holdings::Keeper;
use super::quota::Tier;
use super::record::{Encoded, Entry, KvPair, Position, Tomb, encode};
use super::rows::Totals;
use super::segment::SEGMENT_HEADER_LEN;
use super::shared::Shared;
use super::tables::IndexError;
use crate::base::{BlockId, ClaimId, IndexSet};
use crate::erasure::VerifiedShard;

/// One operation of the writer.
#[derive(Debug)]
pub(super) enum Work {
    Put {
        shard: VerifiedShard,
        claim: ClaimId,
        expires_ms: u64,
        /// Whether room for the data was set aside; without, only a claim may be added.
        has_room: bool,
    },
    Claim {
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    },
    /// Keep a block for these, whether a shard of it is held or not.
    Keep {
        block: BlockId,
        keepers: Vec<Keeper>,
    },
    Close(ClaimId),
    Release {
        claim: ClaimId,
        /// Whether there is room to remember it if it is not known.
        is_remembered: bool,
    },
    /// Release those of these that have expired by now.
    Expire(Vec<ClaimId>),
    Kv(Vec<KvPair>),
    /// Take these shards out, if they are still where this says.
    Bury(Vec<Tomb>),
    Compact,
    /// Count what others have written to the data directory.
    Count,
    Flush,
    /// Rebuild the index, unless that was done since it had this generation.
    Rebuild(u64),
    /// Small records that give room back in the end.
    Free(Vec<KvPair>),
}

impl Work {
    /// Whether it frees, or at least does not fill.
    const fn is_cleanup(&self) -> bool {
        !matches!(
            self,
            Work::Put { .. } | Work::Claim { .. } | Work::Keep { .. } | Work::Kv(_)
        )
    }
}

/// What an operation answers.
#[derive(Debug)]
pub(super) enum Answer {
    Flag(bool),
    Held(Vec<IndexSet>),
    Kept(Option<Keeper>),
    Progress(Progress),
    Done,
}

/// Why a group of operations was not done.
#[derive(Debug)]
pub(super) enum Fail {
    /// One operation is refused; the others may go on.
    Refused(StoreError),
    /// The disk has no room; nothing of the group was kept.
    Full,
    /// The index must be rebuilt, then the group can be tried again.
    Index(IndexError),
    /// What is on the disk is unknown: the store is poisoned.
    Broken(String),
}

impl From<IndexError> for Fail {
    fn from(error: IndexError) -> Self {
        Fail::Index(error)
    }
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: u32,
    pub(super) file: Arc<dyn DiskFile>,
    /// Durable up to here; the next record goes here.
    pub(super) end: u32,
}

/// Records that are planned and not yet written.
pub(super) struct Batch {
    pub(super) draft: Draft,
    parts: Parts,
    pub(super) end: u32,
    /// Claims whose blocks are to be let go from now on, and those that are done.
    pub(super) releasing: Vec<ClaimId>,
    pub(super) drained: Vec<ClaimId>,
}

/// The state of the writer.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
    pub(super) totals: Totals,
    /// Bytes of log that the index database does not have.
    pub(super) tail_bytes: u64,
    /// Changed rows after which the index database is brought up to date.
    pub(super) flush_rows: usize,
    /// Released claims some of whose blocks are still to be let go.
    pub(super) draining: BTreeSet<ClaimId>,
    /// Those of them whose blocks go into trash first.
    pub(super) to_trash: BTreeSet<ClaimId>,
    /// Segments in which nothing counts any more.
    pub(super) empty: BTreeSet<u32>,
    /// Segments punched since the last flush.
    pub(super) punched: BTreeSet<u32>,
    pub(super) compaction: Option<Cursor>,
    /// What goes with the segment that compaction has just emptied.
    pub(super) forgotten: Forgotten,
    /// How often a segment with a shard that cannot be read was begun to be moved.
    pub(super) unreadable: BTreeMap<u32, u8>,
    /// Background work found no room; the next operation tries again.
    pub(super) stuck: bool,
}

impl Engine {
    /// Whether there is work to do without being asked.
    pub(super) fn has_background(&self) -> bool {
        !self.stuck && !self.draining.is_empty() && self.shared.check_open().is_ok()
    }

    /// Whether the index database is behind the log.
    pub(super) fn needs_flush(&self) -> bool {
        self.tail_bytes > 0 && self.shared.check_open().is_ok()
    }

    /// Does a group of operations; one answer each, in order.
    pub(super) fn run(&mut self, group: &[Work]) -> Vec<Result<Answer, StoreError>> {
        if let Some(poisoned) = self.shared.poisoned() {
            return group.iter().map(|_| Err(poisoned.clone())).collect();
        }
        self.stuck = false;
        self.shared.ring.make_room();
        let mut only_cleanup = false;
        // A rebuild mends the index once; room is made once by leaving new data out.
        let mut rebuilds_left = 1;
        loop {
            match self.attempt(group, only_cleanup) {
                Ok(answers) => return answers,
                Err(Fail::Index(error)) if rebuilds_left > 0 => {
                    rebuilds_left -= 1;
                    if let Err(fail) = self.rebuild(&error.to_string()) {
                        return self.broken(group, fail);
                    }
                }
                Err(Fail::Full) if !only_cleanup && group.iter().any(Work::is_cleanup) => {
                    only_cleanup = true;
                }
                Err(Fail::Full) => {
                    self.stuck = true;
                    let full = self.full();
                    return group.iter().map(|_| Err(full.clone())).collect();
                }
                Err(fail) => return self.broken(group, fail),
            }
        }
    }

    fn broken(&self, group: &[Work], fail: Fail) -> Vec<Result<Answer, StoreError>> {
        let why = match fail {
            Fail::Refused(error) => error.to_string(),
            Fail::Full => "the disk is full".to_owned(),
            Fail::Index(error) => error.to_string(),
            Fail::Broken(why) => why,
        };
        tracing::error!(why, "the store takes no more writes");
        self.shared.poison(why);
        let poisoned = self.shared.poisoned().unwrap_or(StoreError::Closed);
        group.iter().map(|_| Err(poisoned.clone())).collect()
    }

    pub(super) fn full(&self) -> StoreError {
        StoreError::Full {
            free_bytes: self.shared.ledger.left(Tier::Data),
        }
    }

    fn attempt(
        &mut self,
        group: &[Work],
        only_cleanup: bool,
    ) -> Result<Vec<Result<Answer, StoreError>>, Fail> {
        let mut batch = self.begin();
        let mut answers = Vec::with_capacity(group.len());
        let result = (|| {
            for work in group {
                if only_cleanup && !work.is_cleanup() {
                    answers.push(Err(self.full()));
                    continue;
                }
                match self.plan(&mut batch, work) {
                    Ok(answer) => answers.push(Ok(answer)),
                    Err(Fail::Refused(error)) => answers.push(Err(error)),
                    Err(fail) => return Err(fail),
                }
            }
            self.drain(&mut batch)?;
            self.write(&mut batch)
        })();
        if result.is_err() {
            // The scanner has gone past records that were not moved after all.
            self.compaction = None;
            self.forgotten = Forgotten::default();
        }
        result?;
        for work in group {
            match work {
                Work::Rebuild(generation)
                    if *generation == self.shared.generation.load(Ordering::Acquire) =>
                {
                    self.rebuild("a reader found it damaged")?;
                }
                Work::Flush => {
                    self.try_flush()?;
                }
                Work::Count => self.shared.count_rest(),
                _ => {}
            }
        }
        self.keep_house()?;
        Ok(answers)
    }

    /// An empty batch at the end of the active segment.
    pub(super) fn begin(&self) -> Batch {
        Batch {
            draft: Draft::new(Arc::clone(&self.shared.index), self.totals),
            parts: Parts::default(),
            end: self.active.end,
            releasing: Vec::new(),
            drained: Vec::new(),
        }
    }

    /// Adds a record to the batch. If the segment has no room for it, what the batch has so far is
    /// made durable and a new segment begun.
    pub(super) fn emit(
        &mut self,
        batch: &mut Batch,
        entry: &Entry,
        data: Bytes,
    ) -> Result<(), Fail> {
        let mut at = self.next_position(batch);
        let mut encoded = self.encode(batch, at, entry, data.len());
        if self.make_room(batch, encoded.extent.record_len)? {
            at = self.next_position(batch);
            encoded = self.encode(batch, at, entry, data.len());
        }
        batch.draft.totals.next_seq += 1;
        batch.draft.apply(at, encoded.extent, entry)?;
        batch.end += encoded.extent.record_len;
        batch.parts.push(encoded, data);
        Ok(())
    }

    /// Begins a new segment unless the present one has `bytes` left, or has no record yet. Answers
    /// whether it did.
    pub(super) fn make_room(&mut self, batch: &mut Batch, bytes: u32) -> Result<bool, Fail> {
        let limit = self.shared.ledger.segment_bytes();
        let is_begun = batch.end as usize > SEGMENT_HEADER_LEN;
        if !is_begun || u64::from(batch.end) + u64::from(bytes) <= limit {
            return Ok(false);
        }
        self.write(batch)?;
        self.roll(batch.draft.totals.next_seq)?;
        batch.end = self.active.end;
        Ok(true)
    }

    const fn next_position(&self, batch: &Batch) -> Position {
        Position {
            segment: self.active.id,
            offset: batch.end,
        }
    }

    fn encode(&self, batch: &Batch, at: Position, entry: &Entry, data_len: usize) -> Encoded {
        let seq = batch.draft.totals.next_seq;
        encode(&self.shared.key, at, seq, self.active.end, entry, data_len)
    }

    /// Makes the batch durable and visible, and empties it.
    pub(super) fn write(&mut self, batch: &mut Batch) -> Result<(), Fail> {
        if !batch.parts.is_empty() {
            let start = u64::from(self.active.end);
            if let Err(error) = batch.parts.write_at(self.active.file.as_ref(), start) {
                return Err(self.take_back(start, &error));
            }
            self.active
                .file
                .sync_data()
                .map_err(|error| Fail::Broken(format!("making the log durable: {error}")))?;
        }
        self.tail_bytes += u64::from(batch.end - self.active.end);
        self.active.end = batch.end;
        batch.parts.clear();
        self.publish(batch);
        Ok(())
    }

    /// After a failed write: if the disk was full, cuts off what it took.
    fn take_back(&self, start: u64, error: &std::io::Error) -> Fail {
        if is_full(error) && self.active.file.set_len(start).is_ok() {
            if let Ok(free) = self.shared.disk.free_bytes() {
                self.shared.ledger.set_disk_free(free);
            }
            return Fail::Full;
        }
        Fail::Broken(format!("writing the log: {error}"))
    }

    /// Lets the index and the accounts know what is durable.
    fn publish(&mut self, batch: &mut Batch) {
        let rows = std::mem::take(&mut batch.draft.rows);
        for (id, row) in &rows.segments {
            if row.is_some_and(|row| row.live == 0 && row.small == 0) {
                self.empty.insert(*id);
            } else {
                self.empty.remove(id);
            }
        }
        self.totals = batch.draft.totals;
        self.shared.index.merge(rows);
        self.draining.extend(batch.releasing.drain(..));
        for claim in batch.drained.drain(..) {
            self.draining.remove(&claim);
            self.to_trash.remove(&claim);
        }
        let dead = std::mem::take(&mut batch.draft.dead);
        self.punch(&dead, batch);
        let ledger = &self.shared.ledger;
        ledger.set_unflushed(self.shared.index.unflushed_bytes());
        ledger.set_totals(self.totals);
        self.count_segment(self.active.id, &self.active.file);
        if let Ok(free) = self.shared.disk.free_bytes() {
            ledger.set_disk_free(free);
        }
    }
}
