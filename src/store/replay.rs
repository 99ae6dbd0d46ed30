//! Replaying the log: what the index does not have yet is applied to it, a torn tail is cut off.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::disk::DiskFile;
use super::draft::Draft;
use super::error::OpenError;
use super::record::{Entry, Position, Record};
use super::rows::{Checkpoint, Totals};
use super::segment::{
    SEGMENT_HEADER_LEN, STORE_DIR, Scanned, Scanner, segment_id, segment_name, store_of_header,
};
use super::shared::Shared;
use super::tables::IndexError;
use crate::base::ShardId;
use crate::erasure::VerifiedShard;

/// Records applied before the rows are handed to the index.
const RECORDS_PER_DRAFT: usize = 1024;

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Why the index was built anew, if it was.
    pub rebuilt: Option<String>,
    /// Records that the index did not have yet.
    pub replayed_records: u64,
    /// Bytes of log they take.
    pub replayed_bytes: u64,
    /// Bytes of an unfinished write that were cut off. None of it was ever acknowledged.
    pub cut_bytes: u64,
    /// Damaged regions of the log that were passed over.
    pub damaged_regions: u64,
    /// Shards held.
    pub shards: u64,
}

/// Why the log could not be replayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("{0}")]
    Segment(String),
}

impl From<RecoverError> for OpenError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Io(what, error) => OpenError::Io { what, error },
            RecoverError::Index(IndexError::Io(error)) => OpenError::Io {
                what: "the index".to_owned(),
                error,
            },
            other => OpenError::Unusable(other.to_string()),
        }
    }
}

pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RecoverError {
    let what = what.into();
    move |error| RecoverError::Io(what, error)
}

pub(super) fn replace_index(shared: &Shared) -> Result<(), IndexError> {
    let cache_bytes = shared.options.cache_bytes;
    shared.index.replace(shared.disk.as_ref(), cache_bytes)
}

/// Where to begin: the checkpoint if it fits the segments there are, or why it does not.
fn starting_point(
    shared: &Shared,
    present: &[u32],
) -> Result<Result<Option<Checkpoint>, String>, RecoverError> {
    let Some(checkpoint) = shared.index.checkpoint()? else {
        return Ok(Ok(None));
    };
    if checkpoint.store_id != shared.store_id {
        return Ok(Err("it belongs to another store".to_owned()));
    }
    let present: BTreeSet<u32> = present.iter().copied().collect();
    let known = shared.index.segments();
    if let Some(lost) = known.keys().find(|id| !present.contains(id)) {
        return Ok(Err(format!("it names segment {lost}, which is not there")));
    }
    let at = checkpoint.at;
    if !known.contains_key(&at.segment) {
        return Ok(Err("its checkpoint is in no segment".to_owned()));
    }
    let file = shared.files.get(at.segment);
    let len = file
        .and_then(|file| file.len())
        .map_err(io_error("a segment"))?;
    if len < u64::from(at.offset) {
        return Ok(Err("it is ahead of the log".to_owned()));
    }
    // Segments are removed only once the index is past them, so the tail has no gaps.
    let tail = present.range(at.segment + 1..);
    if tail
        .zip(at.segment + 1..)
        .any(|(id, expected)| *id != expected)
    {
        return Ok(Err("segments after its checkpoint are missing".to_owned()));
    }
    Ok(Ok(Some(checkpoint)))
}

/// Removes segments of whose removal the index knows already.
fn remove_orphans(
    shared: &Shared,
    present: &mut Vec<u32>,
    at: Position,
) -> Result<(), RecoverError> {
    let known = shared.index.segments();
    let orphans: Vec<u32> = present
        .iter()
        .copied()
        .filter(|id| *id <= at.segment && !known.contains_key(id))
        .collect();
    for id in &orphans {
        let removed = shared.disk.remove(&segment_name(*id));
        removed.map_err(io_error("removing a segment"))?;
    }
    if !orphans.is_empty() {
        let synced = shared.disk.sync_dir(STORE_DIR);
        synced.map_err(io_error("removing a segment"))?;
        present.retain(|id| !orphans.contains(id));
    }
    Ok(())
}

/// What later records of the last segment say about what is before them.
#[derive(Default)]
struct Rest {
    /// Bytes before this were durable when one of them was written. What is beyond belongs to a
    /// write that was never acknowledged, if it is not whole.
    durable_to: u32,
    /// Shard records that count no longer.
    buried: BTreeSet<Position>,
}

/// What replaying made of the log.
pub(super) struct Replayed {
    /// What is not with the index yet.
    pub(super) draft: Draft,
    /// The segments there are.
    pub(super) present: Vec<u32>,
    /// Where the next record goes.
    pub(super) end: Position,
}

struct Replay<'a> {
    shared: &'a Arc<Shared>,
    draft: Draft,
    applied: usize,
    report: &'a mut OpenReport,
}

/// Applies all records that the index does not have.
pub(super) fn replay(
    shared: &Arc<Shared>,
    report: &mut OpenReport,
) -> Result<Replayed, RecoverError> {
    let names = shared
        .disk
        .list(STORE_DIR)
        .map_err(io_error("listing the segments"))?;
    let mut present: Vec<u32> = names.iter().filter_map(|name| segment_id(name)).collect();
    let checkpoint = match starting_point(shared, &present)? {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            report.rebuilt = Some(why);
            replace_index(shared)?;
            None
        }
    };
    let begin = match checkpoint {
        Some(checkpoint) => {
            remove_orphans(shared, &mut present, checkpoint.at)?;
            checkpoint.at
        }
        None => Position {
            segment: present.first().copied().unwrap_or(1),
            offset: SEGMENT_HEADER_LEN as u32,
        },
    };
    if checkpoint.is_none() && !present.is_empty() {
        report
            .rebuilt
            .get_or_insert_with(|| "it was missing".to_owned());
    }
    // A segment that the checkpoint names has been begun.
    let named = checkpoint.map_or(0, |checkpoint| checkpoint.at.segment);
    drop_unbegun(shared, &mut present, named)?;
    let totals = checkpoint.map_or(Totals::default(), |checkpoint| checkpoint.totals);
    let mut replay = Replay {
        shared,
        draft: Draft::new(Arc::clone(&shared.index), totals),
        applied: 0,
        report,
    };
    let last = present.last().copied();
    let mut end = begin;
    for id in present.iter().copied().filter(|id| *id >= begin.segment) {
        let offset = if id == begin.segment {
            begin.offset
        } else {
            SEGMENT_HEADER_LEN as u32
        };
        end = Position {
            segment: id,
            offset: replay.segment(id, offset, Some(id) == last)?,
        };
    }
    replay.hand_over();
    let Replay { draft, .. } = replay;
    Ok(Replayed {
        draft,
        present,
        end,
    })
}

/// Removes a last segment whose creation was interrupted: nothing was ever written to it.
fn drop_unbegun(shared: &Shared, present: &mut Vec<u32>, named: u32) -> Result<(), RecoverError> {
    let Some(id) = present.last().copied().filter(|id| *id > named) else {
        return Ok(());
    };
    let name = segment_name(id);
    let file = shared.files.get(id).map_err(io_error(name.as_str()))?;
    let header = file
        .read_vec(0, SEGMENT_HEADER_LEN)
        .map_err(io_error(name.as_str()))?;
    if store_of_header(&header, id) == Some(shared.store_id) {
        return Ok(());
    }
    let mut scanner = scanner(shared, &file, id, 0)?;
    scanner.resync().map_err(io_error(name.as_str()))?;
    if matches!(
        scanner.next().map_err(io_error(name.as_str()))?,
        Scanned::End
    ) {
        shared.files.forget(id);
        shared.disk.remove(&name).map_err(io_error(name.as_str()))?;
        shared.disk.sync_dir(STORE_DIR).map_err(io_error(name))?;
        present.pop();
    }
    Ok(())
}

fn scanner(
    shared: &Shared,
    file: &Arc<dyn DiskFile>,
    id: u32,
    offset: u32,
) -> Result<Scanner, RecoverError> {
    Scanner::new(Arc::clone(file), id, shared.key.clone(), offset)
        .map_err(io_error(segment_name(id)))
}

impl Replay<'_> {
    /// Replays one segment from `offset`; where its records end.
    fn segment(&mut self, id: u32, offset: u32, is_last: bool) -> Result<u32, RecoverError> {
        let name = segment_name(id);
        let file = self.shared.files.get(id).map_err(io_error(name.as_str()))?;
        self.draft.edit_segment(id, |_| {});
        let mut scanner = scanner(self.shared, &file, id, offset)?;
        let mut rest = None;
        loop {
            let before = scanner.offset();
            match scanner.next().map_err(io_error(name.as_str()))? {
                Scanned::End => return Ok(before),
                Scanned::Record(at, record) => {
                    // Earlier segments were durable before the last one was begun.
                    let sound = !is_last || data_is_sound(&file, at, &record)?;
                    let mut damaged = false;
                    if !sound {
                        let rest = self.rest(&mut rest, &file, at)?;
                        // Data that was deleted since may have been punched out.
                        let buried = rest.buried.contains(&at);
                        if !buried && rest.durable_to <= at.offset {
                            return self.cut(&file, at.offset);
                        }
                        damaged = !buried;
                    }
                    self.apply(at, &record)?;
                    if damaged {
                        self.damaged_data(at, &record);
                    }
                }
                Scanned::Bad(offset) => {
                    let at = Position {
                        segment: id,
                        offset,
                    };
                    if is_last && self.rest(&mut rest, &file, at)?.durable_to <= offset {
                        return self.cut(&file, offset);
                    }
                    self.report.damaged_regions += 1;
                    tracing::warn!(
                        segment = id,
                        offset,
                        "a damaged region of the log is passed over"
                    );
                    scanner.resync().map_err(io_error(name.as_str()))?;
                }
            }
        }
    }

    /// Reads the rest of the last segment ahead, once something in it turned out to be unsound.
    fn rest<'r>(
        &self,
        rest: &'r mut Option<Rest>,
        file: &Arc<dyn DiskFile>,
        at: Position,
    ) -> Result<&'r Rest, RecoverError> {
        if let Some(known) = rest {
            return Ok(known);
        }
        let mut scanner = scanner(self.shared, file, at.segment, at.offset)?;
        let mut found = Rest::default();
        let failed = || io_error(segment_name(at.segment));
        loop {
            match scanner.next().map_err(failed())? {
                Scanned::End => break,
                Scanned::Bad(_) => scanner.resync().map_err(failed())?,
                Scanned::Record(_, record) => {
                    found.durable_to = found.durable_to.max(record.synced_to);
                    if let Entry::Tombs(tombs) = &record.entry {
                        found.buried.extend(tombs.iter().map(|tomb| tomb.at));
                    }
                }
            }
        }
        Ok(rest.insert(found))
    }

    fn cut(&mut self, file: &Arc<dyn DiskFile>, offset: u32) -> Result<u32, RecoverError> {
        let len = file.len().map_err(io_error("the last segment"))?;
        self.report.cut_bytes += len.saturating_sub(u64::from(offset));
        file.set_len(u64::from(offset))
            .and_then(|()| file.sync_data())
            .map_err(io_error("cutting the last segment"))?;
        Ok(offset)
    }

    fn apply(&mut self, at: Position, record: &Record) -> Result<(), RecoverError> {
        self.draft.apply(at, record.extent, &record.entry)?;
        let totals = &mut self.draft.totals;
        totals.next_seq = totals.next_seq.max(record.seq + 1);
        self.report.replayed_records += 1;
        self.report.replayed_bytes += u64::from(record.extent.record_len);
        self.applied += 1;
        if self.applied >= RECORDS_PER_DRAFT {
            self.hand_over();
            if self.shared.index.pending() >= self.shared.options.flush_rows {
                self.shared.index.flush(&Checkpoint {
                    store_id: self.shared.store_id,
                    at: Position {
                        offset: at.offset + record.extent.record_len,
                        ..at
                    },
                    totals: self.draft.totals,
                })?;
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        self.shared
            .index
            .merge(std::mem::take(&mut self.draft.rows));
        self.applied = 0;
    }

    fn damaged_data(&self, at: Position, record: &Record) {
        if let Entry::Shard { block, index, .. } = &record.entry {
            let shard = ShardId {
                block: *block,
                index: *index,
            };
            self.shared.note_damage(shard, at);
        }
    }
}

/// Whether a record's data is what its stripe header says.
fn data_is_sound(
    file: &Arc<dyn DiskFile>,
    at: Position,
    record: &Record,
) -> Result<bool, RecoverError> {
    let Entry::Shard {
        block,
        index,
        header,
        ..
    } = &record.entry
    else {
        return Ok(true);
    };
    let data_at = u64::from(at.offset) + u64::from(record.extent.data_at);
    let data = file
        .read_bytes(data_at, record.extent.data_len as usize)
        .map_err(io_error(segment_name(at.segment)))?;
    Ok(VerifiedShard::verify(*block, *index, header.clone(), data).is_ok())
}
