//! Compaction: what still counts in a mostly dead segment is written again at the end of the log,
//! then the segment goes.
//!
//! A segment is read through once, a bounded step at a time. Nothing is removed before its copies
//! are durable and the index database points to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::DiskFile;
use super::engine::{Batch, Engine, Fail};
use super::record::{ClaimEnd, Entry, KvKey, KvPair, Position, Record};
use super::rescue::Left;
use super::rows::{ClaimRow, ClaimState, SegmentRow};
use super::segment::{SEGMENT_HEADER_LEN, Scanned, Scanner};
use crate::base::{BlockId, ClaimId};
use crate::erasure::VerifiedShard;

/// Records looked at in one step.
const STEP_RECORDS: usize = 4096;
/// Claims on blocks whose shard records are dead are gathered up to so many.
const GATHERED_MAX: usize = 512;
/// How often a segment is begun again because something in it could not be read, before that counts as lost.
const READ_TRIES: u8 = 3;
/// With less dead than this a segment is left alone even when room is short.
const DEAD_MIN: u32 = 64 << 10;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes written again.
    pub moved_bytes: u64,
    /// There is more to do at once.
    pub more: bool,
}

/// How far the present segment has been read.
#[derive(Debug)]
pub(super) struct Cursor {
    victim: u32,
    file: Arc<dyn DiskFile>,
    scanner: Scanner,
    /// Only counts what is live among the small records.
    counts_only: bool,
    counted: u32,
    /// A record in it does not decode: what it said is known by the index only.
    has_bad: bool,
    /// The next sound record is to be looked for.
    is_astray: bool,
    /// Claims whose word is in a dead shard record.
    gathered: BTreeMap<ClaimId, Vec<BlockId>>,
    forgotten: Forgotten,
}

/// Rows that need not be remembered once a segment is gone. They go in the same step: before it,
/// the segment's records would still speak of them after a crash.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    pub(super) segment: u32,
    pub(super) claims: Vec<ClaimId>,
    pub(super) kv: Vec<KvKey>,
}

/// What is to be done with a record.
enum Verdict {
    /// It counts no longer.
    Drop,
    /// This says what is left of it.
    Again(Entry),
    /// A shard that is held.
    Shard(Entry),
    /// Dead, but it carries a live claim on its block.
    Gather(ClaimId, BlockId),
}

const fn allocated(row: &SegmentRow) -> u32 {
    row.len.saturating_sub(row.punched)
}

const fn dead(row: &SegmentRow) -> u32 {
    allocated(row).saturating_sub(row.live + row.small + SEGMENT_HEADER_LEN as u32)
}

/// Bytes of a segment's dead records that still occupy space. A live record is never punched.
fn is_worth_it(row: &SegmentRow, tight: bool) -> bool {
    let dead = dead(row);
    if tight && dead >= DEAD_MIN {
        return dead > allocated(row) / 8;
    }
    dead > allocated(row) / 2
}

impl Engine {
    /// One step of compaction.
    pub(super) fn compact(&mut self, batch: &mut Batch) -> Result<Progress, Fail> {
        let Some(mut cursor) = self.take_cursor()? else {
            return Ok(Progress::default());
        };
        let mut progress = Progress {
            moved_bytes: 0,
            more: true,
        };
        for _ in 0..STEP_RECORDS {
            if progress.moved_bytes >= self.shared.options.compaction_step_bytes {
                break;
            }
            if cursor.is_astray {
                match cursor.scanner.resync() {
                    Ok(()) => cursor.is_astray = false,
                    Err(error) => self.pass_over(&mut cursor, &error)?,
                }
                continue;
            }
            let scanned = match cursor.scanner.next() {
                Ok(scanned) => scanned,
                Err(error) => {
                    self.pass_over(&mut cursor, &error)?;
                    continue;
                }
            };
            match scanned {
                Scanned::Record(at, record) => {
                    progress.moved_bytes += self.treat(batch, &mut cursor, at, &record)?;
                }
                Scanned::Bad(_) => {
                    cursor.has_bad = true;
                    cursor.is_astray = true;
                }
                Scanned::End => {
                    self.finish(batch, &mut cursor)?;
                    return Ok(progress);
                }
            }
        }
        self.compaction = Some(cursor);
        Ok(progress)
    }

    /// The disk does not give some of a segment. It may have it another time, so the segment is begun again later, a few
    /// times; then it is passed over, or no room would ever come back.
    fn pass_over(&mut self, cursor: &mut Cursor, error: &std::io::Error) -> Result<(), Fail> {
        if !self.is_given_up(cursor.victim) {
            return Err(read_failed(error));
        }
        if cursor.scanner.pass_over() {
            tracing::warn!(
                segment = cursor.victim,
                "a part of the log is passed over: {error}"
            );
            cursor.has_bad = true;
            cursor.is_astray = true;
        }
        Ok(())
    }

    /// Whether enough was tried to read all of a segment; counts one more try.
    pub(super) fn is_given_up(&mut self, segment: u32) -> bool {
        let tries = self.unreadable.entry(segment).or_insert(0);
        *tries = tries.saturating_add(1);
        *tries > READ_TRIES
    }

    /// Goes on with the present segment, or chooses one.
    fn take_cursor(&mut self) -> Result<Option<Cursor>, Fail> {
        if let Some(cursor) = self.compaction.take() {
            return Ok(Some(cursor));
        }
        let segments = self.shared.index.segments();
        let half_moved = self.totals.victim.filter(|id| segments.contains_key(id));
        let Some((victim, counts_only)) = half_moved
            .map(|id| (id, false))
            .or_else(|| self.choose(&segments))
        else {
            return Ok(None);
        };
        let file = match self.shared.files.get(victim) {
            Ok(file) => file,
            Err(error) => return Err(read_failed(&error)),
        };
        let begin = SEGMENT_HEADER_LEN as u32;
        let key = self.shared.key.clone();
        let scanner = Scanner::new(Arc::clone(&file), victim, key, begin);
        Ok(Some(Cursor {
            victim,
            file,
            scanner: scanner.map_err(|error| read_failed(&error))?,
            counts_only,
            counted: 0,
            has_bad: false,
            is_astray: false,
            gathered: BTreeMap::new(),
            forgotten: Forgotten {
                segment: victim,
                ..Forgotten::default()
            },
        }))
    }

    /// The segment that gives back most, if any is worth it; or one to be counted again because
    /// claims in it may have died since.
    fn choose(&self, segments: &BTreeMap<u32, SegmentRow>) -> Option<(u32, bool)> {
        let ledger = &self.shared.ledger;
        let (tight, room) = (ledger.is_tight(), ledger.room_to_move());
        let sealed = || segments.iter().filter(|(id, _)| **id != self.active.id);
        let best = sealed()
            .filter(|(_, row)| is_worth_it(row, tight))
            .filter(|(_, row)| u64::from(row.live + row.small) <= room)
            .max_by_key(|(_, row)| dead(row));
        if let Some((id, _)) = best {
            return Some((*id, false));
        }
        let stale = |row: &SegmentRow| {
            row.counted_at < self.totals.releases
                && row.small >= DEAD_MIN
                && row.small > allocated(row) / 4
        };
        let recount = sealed().find(|(_, row)| stale(row));
        recount.map(|(id, _)| (*id, true))
    }

    /// Moves what is left of one record; bytes written.
    fn treat(
        &mut self,
        batch: &mut Batch,
        cursor: &mut Cursor,
        at: Position,
        record: &Record,
    ) -> Result<u64, Fail> {
        let verdict = self.judge(batch, cursor, at, record)?;
        if cursor.counts_only {
            if matches!(verdict, Verdict::Again(_) | Verdict::Gather(..)) {
                let len = record.extent.record_len - record.extent.data_len;
                cursor.counted = cursor.counted.saturating_add(len);
            }
            return Ok(0);
        }
        match verdict {
            Verdict::Drop => Ok(0),
            Verdict::Again(entry) => {
                self.emit(batch, &entry, Bytes::new())?;
                Ok(u64::from(record.extent.record_len))
            }
            Verdict::Shard(entry) => self.move_shard(batch, cursor, at, record, &entry),
            Verdict::Gather(claim, block) => {
                let blocks = cursor.gathered.entry(claim).or_default();
                blocks.push(block);
                if blocks.len() >= GATHERED_MAX {
                    let blocks = std::mem::take(blocks);
                    self.assert_claim(batch, claim, blocks)?;
                }
                Ok(0)
            }
        }
    }

    fn move_shard(
        &mut self,
        batch: &mut Batch,
        cursor: &Cursor,
        at: Position,
        record: &Record,
        entry: &Entry,
    ) -> Result<u64, Fail> {
        let Entry::Shard {
            block,
            index,
            header,
            ..
        } = entry
        else {
            return Ok(0);
        };
        let data_at = u64::from(at.offset) + u64::from(record.extent.data_at);
        let data = cursor
            .file
            .read_bytes(data_at, record.extent.data_len as usize);
        let verified = match data {
            Ok(data) => VerifiedShard::verify(*block, *index, header.clone(), data).ok(),
            Err(error) => {
                if !self.is_given_up(cursor.victim) {
                    // The disk may have it another time: the segment is begun again later.
                    return Err(read_failed(&error));
                }
                None
            }
        };
        let Some(shard) = verified else {
            // What does not verify, or cannot be read again and again, is as good as lost here.
            self.count_damage();
            batch.draft.drop_shard(*block, *index)?;
            return Ok(0);
        };
        self.emit(batch, entry, shard.data().clone())?;
        Ok(u64::from(record.extent.record_len))
    }

    fn finish(&mut self, batch: &mut Batch, cursor: &mut Cursor) -> Result<(), Fail> {
        for (claim, blocks) in std::mem::take(&mut cursor.gathered) {
            self.assert_claim(batch, claim, blocks)?;
        }
        if cursor.has_bad && !cursor.counts_only {
            let left = Left {
                victim: cursor.victim,
                file: &cursor.file,
                claims: &cursor.forgotten.claims,
                kv: &cursor.forgotten.kv,
            };
            self.rescue(batch, &left)?;
        }
        let (releases, counted) = (batch.draft.totals.releases, cursor.counted);
        if cursor.counts_only {
            batch.draft.edit_segment(cursor.victim, |row| {
                row.small = counted;
                row.counted_at = releases;
            });
        } else {
            // Everything that counts is elsewhere once this batch is durable.
            batch.draft.edit_segment(cursor.victim, |row| {
                row.live = 0;
                row.small = 0;
            });
            self.forgotten = std::mem::take(&mut cursor.forgotten);
            self.unreadable.remove(&cursor.victim);
        }
        Ok(())
    }

    /// Says again that a claim keeps these blocks.
    fn assert_claim(
        &mut self,
        batch: &mut Batch,
        claim: ClaimId,
        blocks: Vec<BlockId>,
    ) -> Result<(), Fail> {
        let Some(row) = live(batch.draft.claim(&claim)?) else {
            return Ok(());
        };
        let entry = Entry::Claim {
            claim,
            expires_ms: row.expires_ms,
            blocks,
        };
        self.emit(batch, &entry, Bytes::new())
    }

    fn judge(
        &self,
        batch: &Batch,
        cursor: &mut Cursor,
        at: Position,
        record: &Record,
    ) -> Result<Verdict, Fail> {
        let victim = cursor.victim;
        match &record.entry {
            Entry::Shard {
                block,
                index,
                header,
                claim,
                ..
            } => {
                let kept = match claim {
                    Some((claim, _)) => match live(batch.draft.claim(claim)?) {
                        Some(row) if batch.draft.is_member(row.short, block)? => {
                            Some((*claim, row.expires_ms))
                        }
                        _ => None,
                    },
                    None => None,
                };
                let row = batch.draft.block(block)?;
                let held = row.as_ref().and_then(|row| row.shard(*index));
                if held.is_some_and(|shard| shard.at == at) {
                    return Ok(Verdict::Shard(Entry::Shard {
                        block: *block,
                        index: *index,
                        header: header.clone(),
                        claim: kept,
                        moved_from: Some(victim),
                    }));
                }
                Ok(kept.map_or(Verdict::Drop, |(claim, _)| Verdict::Gather(claim, *block)))
            }
            Entry::Claim {
                claim,
                expires_ms,
                blocks,
            } => {
                let Some(row) = live(batch.draft.claim(claim)?) else {
                    return Ok(Verdict::Drop);
                };
                let mut left = Vec::with_capacity(blocks.len());
                for block in blocks {
                    if batch.draft.is_member(row.short, block)? {
                        left.push(*block);
                    }
                }
                // The record that last renewed a claim counts even without blocks.
                if left.is_empty() && *expires_ms < row.expires_ms {
                    return Ok(Verdict::Drop);
                }
                Ok(Verdict::Again(Entry::Claim {
                    claim: *claim,
                    expires_ms: row.expires_ms,
                    blocks: left,
                }))
            }
            Entry::State { claim, end } => self.judge_end(batch, cursor, *claim, *end),
            Entry::Tombs(tombs) => {
                let index = &self.shared.index;
                let needed = tombs.iter().filter(|tomb| {
                    tomb.at.segment != victim && index.segment(tomb.at.segment).is_some()
                });
                let needed: Vec<_> = needed.copied().collect();
                if needed.is_empty() {
                    return Ok(Verdict::Drop);
                }
                Ok(Verdict::Again(Entry::Tombs(needed)))
            }
            Entry::Kv(pairs) => self.judge_kv(batch, cursor, at, pairs),
        }
    }

    fn judge_end(
        &self,
        batch: &Batch,
        cursor: &mut Cursor,
        claim: ClaimId,
        end: ClaimEnd,
    ) -> Result<Verdict, Fail> {
        let Some(row) = batch.draft.claim(&claim)? else {
            return Ok(Verdict::Drop);
        };
        let again = |end| Ok(Verdict::Again(Entry::State { claim, end }));
        let released = ClaimEnd::Released {
            oldest: row.oldest,
            newest: row.newest,
        };
        match (end, row.state) {
            (ClaimEnd::Closed, ClaimState::Closed) => again(ClaimEnd::Closed),
            (ClaimEnd::Released { .. }, ClaimState::Releasing) => again(released),
            (ClaimEnd::Released { .. }, ClaimState::Released) => {
                let index = &self.shared.index;
                if index.any_segment(row.oldest, row.newest, Some(cursor.victim)) {
                    return again(released);
                }
                // No record names the claim any more: it can be forgotten.
                cursor.forgotten.claims.push(claim);
                Ok(Verdict::Drop)
            }
            _ => Ok(Verdict::Drop),
        }
    }

    fn judge_kv(
        &self,
        batch: &Batch,
        cursor: &mut Cursor,
        at: Position,
        pairs: &[KvPair],
    ) -> Result<Verdict, Fail> {
        let mut left = Vec::new();
        for pair in pairs {
            let Some(row) = batch.draft.kv(&pair.key)?.filter(|row| row.at == at) else {
                continue;
            };
            let index = &self.shared.index;
            if row.value.is_some()
                || index.any_segment(row.oldest, cursor.victim, Some(cursor.victim))
            {
                left.push(pair.clone());
            } else {
                // A deletion with nothing left to delete.
                cursor.forgotten.kv.push(pair.key.clone());
            }
        }
        if left.is_empty() {
            return Ok(Verdict::Drop);
        }
        Ok(Verdict::Again(Entry::Kv(left)))
    }
}

fn live(row: Option<ClaimRow>) -> Option<ClaimRow> {
    row.filter(|row| matches!(row.state, ClaimState::Open | ClaimState::Closed))
}

/// Compaction cannot go on; nothing is lost by that.
pub(super) fn read_failed(error: &std::io::Error) -> Fail {
    Fail::Refused(super::error::StoreError::Io(error.to_string()))
}
