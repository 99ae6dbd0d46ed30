//! The one that writes: appends groups to the journal, makes them durable with one sync, and only then
//! tells those who wait.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;

use super::group::{
    DirtyId, JournalLog, SHAPE, Seq, encode_dirty, encode_group, encode_moved, kind, sums_of,
};
use super::home::dir_name;
use super::overlay::{Dirty, Layer, Pending, Place};
use super::rows::Checkpoint;
use super::shared::Shared;
use crate::base::VolumeId;
use crate::store::database::{DatabaseError, Snapshot};
use crate::store::disk::{DiskFile, is_full, write_all_at};
use crate::store::frame::{Draft, Parts, Position, encode};
use crate::store::quota::{Tier, flush_cost};
use crate::store::segment::{SEGMENT_HEADER_LEN, header_of};

const NAME_PREFIX: &str = "journal-";
/// A batch of at most so many bytes is small, ...
const SMALL_BYTES: u32 = 64 << 10;
/// ... and after so many of them one after the other the file is filled ahead of them ...
const SMALL_RUN: u32 = 16;
/// ... by so many bytes, as long as the quota has many times that left.
const AHEAD_BYTES: usize = 256 << 10;
/// A segment with more than this part of what it may have is ended when the tables get what it says: nothing but
/// dirty data would keep it then.
const ENDED_PART: u32 = 32;

/// The file name of a segment of a volume's journal.
pub(super) fn journal_name(volume: VolumeId, id: u32) -> String {
    format!("{}/{NAME_PREFIX}{id:08x}", dir_name(volume))
}

/// The segment with this name (without its directory).
pub(super) fn journal_id(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(NAME_PREFIX)?;
    let id = u32::from_str_radix(digits, 16).ok()?;
    (digits.len() == 8).then_some(id)
}

/// Why something was not written.
#[derive(Debug)]
pub(super) enum Fail {
    /// The disk has no room; nothing of it was kept.
    Full,
    /// What is on the disk is unknown.
    Broken(String),
}

/// One segment of the journal.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    /// Up to the end of its last record.
    pub(super) len: u32,
    /// Bytes of the records of dirty data that is kept.
    pub(super) live: u64,
    pub(super) allocated: u64,
    /// Up to there it was filled with zeros, ahead of its records: what is written over is durable sooner
    /// than what lengthens a file.
    pub(super) zeroed: u32,
}

/// What becomes true once the record that says so is durable.
#[derive(Debug)]
enum Effect {
    Group(Seq),
    Added(DirtyId, Arc<Place>),
    Released(DirtyId),
    Moved(DirtyId, Arc<Place>),
}

/// Records that are planned and not yet written.
#[derive(Debug)]
pub(super) struct Batch {
    parts: Parts,
    /// Where the next record goes.
    end: u32,
    next_record: u64,
    effects: Vec<Effect>,
}

/// The state of the writer.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) segments: BTreeMap<u32, Segment>,
    /// The segment that is written: durable up to its length.
    pub(super) active: u32,
    pub(super) next_record: u64,
    /// The last group that is durable.
    pub(super) last: Seq,
    /// All dirty data that is kept, as the journal has it.
    pub(super) places: BTreeMap<DirtyId, Arc<Place>>,
    /// What of that the tables do not have.
    pub(super) changed: BTreeMap<DirtyId, Option<Arc<Place>>>,
    /// To where the tables are up to date.
    pub(super) checkpoint: Checkpoint,
    /// Bytes of journal behind that, or behind what is being written to them.
    pub(super) tail_bytes: u64,
    /// Not all that should be was carried forward.
    pub(super) has_more_to_carry: bool,
    /// Small batches that were written one after the other.
    pub(super) small_run: u32,
}

/// Changes on their way to the tables.
#[derive(Debug)]
pub(super) struct Flush {
    pub(super) shared: Arc<Shared>,
    pub(super) rows: Arc<Layer>,
    pub(super) dirty: BTreeMap<DirtyId, Option<Arc<Place>>>,
    pub(super) checkpoint: Checkpoint,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Flushed {
    pub(super) flush: Flush,
    pub(super) outcome: Result<Snapshot, DatabaseError>,
}

impl Flush {
    fn commit(&self) -> Result<Snapshot, DatabaseError> {
        let free = self.shared.disk.free_bytes().map_err(DatabaseError::Io)?;
        if free < flush_cost(self.rows.rows.len() as u64) + self.rows.bytes as u64 {
            return Err(DatabaseError::Io(ErrorKind::StorageFull.into()));
        }
        let generation = self.shared.mend_tables()?;
        let commit = || match &*self.shared.tables() {
            Some(tables) => {
                tables.commit(&self.rows, &self.dirty, &self.checkpoint)?;
                tables.snapshot()
            }
            None => Err(DatabaseError::Stale),
        };
        match commit() {
            // A reader met damage.
            Err(DatabaseError::Stale) => {
                self.shared.reopen_tables(generation)?;
                commit()
            }
            other => other,
        }
    }

    /// Writes them.
    pub(super) fn run(self) -> Flushed {
        let outcome = self.commit();
        Flushed {
            flush: self,
            outcome,
        }
    }
}

/// Creates an empty segment, durably.
pub(super) fn create_segment(shared: &Shared, id: u32, first_record: u64) -> io::Result<Segment> {
    let name = journal_name(shared.id, id);
    let file = match shared.disk.create(&name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let begun = shared.disk.open(&name)?;
            begun.set_len(0)?;
            begun
        }
        other => other?,
    };
    let header = header_of::<JournalLog>(&shared.key, &shared.identity, id, first_record);
    let written = write_all_at(file.as_ref(), 0, &header)
        .and_then(|()| file.sync_data())
        .and_then(|()| shared.disk.sync_dir(&dir_name(shared.id)));
    if let Err(error) = written {
        if is_full(&error) {
            // If it stays, the next attempt takes it over.
            let _ = shared.disk.remove(&name);
        }
        return Err(error);
    }
    Ok(Segment {
        len: SEGMENT_HEADER_LEN as u32,
        live: 0,
        allocated: file.allocated().unwrap_or(0),
        zeroed: 0,
        file,
    })
}

/// Fills a segment with zeros from `end` on. Where that fails nothing is lost but time.
fn fill_ahead(shared: &Shared, segment: &mut Segment, end: u32) {
    let to = (end + AHEAD_BYTES as u32).min(shared.options.segment_bytes);
    let len = to.saturating_sub(end) as usize;
    if len == 0 || shared.ledger.left(Tier::Data) < 64 * AHEAD_BYTES as u64 {
        return;
    }
    let zeros = vec![0; len];
    if write_all_at(segment.file.as_ref(), u64::from(end), &zeros).is_ok() {
        segment.zeroed = to;
    }
}

impl Engine {
    /// An empty batch at the end of the journal.
    pub(super) fn begin(&self) -> Batch {
        Batch {
            parts: Parts::default(),
            end: self.active().map_or(0, |segment| segment.len),
            next_record: self.next_record,
            effects: Vec::new(),
        }
    }

    fn active(&self) -> Option<&Segment> {
        self.segments.get(&self.active)
    }

    /// Writes what waits. With `freeze`, answers the changes that the tables shall have next.
    pub(super) fn commit(&mut self, freeze: bool) -> Option<Flush> {
        let shared = Arc::clone(&self.shared);
        if shared.poisoned().is_some() {
            return None;
        }
        shared.ring.make_room();
        let groups = shared.take(freeze);
        let first = self.last;
        let outcome = self.append(&groups);
        self.publish(&groups, first);
        self.count();
        match outcome {
            Ok(()) => {
                shared.tell(|progress| progress.synced = self.last);
                if !freeze {
                    return None;
                }
                self.end_segment();
                self.flush_job()
            }
            Err(fail) => {
                self.take_back(groups, fail);
                None
            }
        }
    }

    /// After a failed commit: what was not written waits again, or nothing is written any more.
    fn take_back(&self, groups: Vec<Pending>, fail: Fail) {
        let last = self.last;
        let mut state = self.shared.state_mut();
        let mut waiting: Vec<Pending> = groups
            .into_iter()
            .filter(|group| group.seq > last)
            .collect();
        waiting.append(&mut state.pending);
        state.pending = waiting;
        state.thaw();
        drop(state);
        match fail {
            Fail::Full => {
                let wishes = &self.shared.wishes;
                wishes.sync.store(0, std::sync::atomic::Ordering::Release);
                self.shared.tell(|progress| {
                    progress.synced = last;
                    progress.fulls += 1;
                });
            }
            Fail::Broken(why) => {
                self.shared.tell(|progress| progress.synced = last);
                self.shared.poison(why);
            }
        }
    }

    fn append(&mut self, groups: &[Pending]) -> Result<(), Fail> {
        let mut batch = self.begin();
        for group in groups {
            let mut added = Vec::with_capacity(group.added.len());
            let mut effects = Vec::with_capacity(group.added.len() + group.released.len() + 1);
            for (id, bytes) in &group.added {
                let sums = sums_of(&self.shared.key, *id, bytes);
                let place = self.emit_dirty(&mut batch, *id, sums, bytes.clone())?;
                added.push((*id, place.at));
                effects.push(Effect::Added(*id, Arc::new(place)));
            }
            let meta = encode_group(
                group.seq,
                group.change_count,
                &group.changes,
                &added,
                &group.released,
            );
            self.emit(&mut batch, kind::GROUP, &meta, Bytes::new())?;
            let released = group.released.iter();
            effects.extend(released.map(|id| Effect::Released(*id)));
            effects.push(Effect::Group(group.seq));
            batch.effects.append(&mut effects);
        }
        self.write(&mut batch)
    }

    /// Adds a record of dirty data to the batch.
    pub(super) fn emit_dirty(
        &mut self,
        batch: &mut Batch,
        id: DirtyId,
        sums: Arc<[u8]>,
        bytes: Bytes,
    ) -> Result<Place, Fail> {
        let len = bytes.len() as u32;
        let meta = encode_dirty(id, &sums);
        let (at, extent) = self.emit(batch, kind::DIRTY, &meta, bytes)?;
        Ok(Place {
            at,
            data_at: extent.data_at,
            len,
            record_len: extent.record_len,
            sums,
            file: self.active().map(|segment| Arc::clone(&segment.file)),
        })
    }

    /// Adds a record to the batch that says that dirty data is in other places now.
    pub(super) fn emit_moves(
        &mut self,
        batch: &mut Batch,
        moves: &[(DirtyId, Position, Arc<Place>)],
    ) -> Result<(), Fail> {
        if moves.is_empty() {
            return Ok(());
        }
        let listed: Vec<_> = moves
            .iter()
            .map(|(id, from, to)| (*id, *from, to.at))
            .collect();
        self.emit(batch, kind::MOVED, &encode_moved(&listed), Bytes::new())?;
        let effects = moves
            .iter()
            .map(|(id, _, to)| Effect::Moved(*id, Arc::clone(to)));
        batch.effects.extend(effects);
        Ok(())
    }

    /// Adds a record to the batch. If the segment has no room for it, what the batch has so far is made
    /// durable and a new segment begun.
    fn emit(
        &mut self,
        batch: &mut Batch,
        kind: u8,
        meta: &[u8],
        data: Bytes,
    ) -> Result<(Position, crate::store::frame::Extent), Fail> {
        let mut at = self.next(batch);
        let mut encoded = self.encoded(batch, at, kind, meta, data.len());
        let is_begun = batch.end as usize > SEGMENT_HEADER_LEN;
        let end = u64::from(batch.end) + u64::from(encoded.extent.record_len);
        if is_begun && end > u64::from(self.shared.options.segment_bytes) {
            self.write(batch)?;
            self.roll(batch)?;
            at = self.next(batch);
            encoded = self.encoded(batch, at, kind, meta, data.len());
        }
        let extent = encoded.extent;
        batch.end += extent.record_len;
        batch.next_record += 1;
        batch.parts.push(encoded, data);
        Ok((at, extent))
    }

    const fn next(&self, batch: &Batch) -> Position {
        Position {
            segment: self.active,
            offset: batch.end,
        }
    }

    fn encoded(
        &self,
        batch: &Batch,
        at: Position,
        kind: u8,
        meta: &[u8],
        data_len: usize,
    ) -> crate::store::frame::Encoded {
        let draft = Draft {
            kind,
            seq: batch.next_record,
            synced_to: self.active().map_or(0, |segment| segment.len),
            meta,
            data_len,
        };
        encode(&SHAPE, &self.shared.key, at, draft)
    }

    /// Begins the next segment. The present one is durable.
    fn roll(&mut self, batch: &mut Batch) -> Result<(), Fail> {
        self.trim()
            .map_err(|error| Fail::Broken(format!("ending a segment: {error}")))?;
        let id = self.active + 1;
        let segment = match create_segment(&self.shared, id, batch.next_record) {
            Ok(segment) => segment,
            Err(error) if is_full(&error) => return Err(Fail::Full),
            Err(error) => return Err(Fail::Broken(format!("beginning a segment: {error}"))),
        };
        batch.end = segment.len;
        self.tail_bytes += u64::from(segment.len);
        self.segments.insert(id, segment);
        self.active = id;
        Ok(())
    }

    /// Begins a new segment, if the present one takes room that could be given back. Everything is durable.
    fn end_segment(&mut self) {
        let enough = self.shared.options.segment_bytes / ENDED_PART;
        if self.active().is_none_or(|segment| segment.len <= enough) {
            return;
        }
        let mut batch = self.begin();
        // Without room it goes on.
        if let Err(Fail::Broken(why)) = self.roll(&mut batch) {
            self.shared.poison(why);
        }
    }

    /// Makes the batch durable, lets what it says be true, and empties it.
    pub(super) fn write(&mut self, batch: &mut Batch) -> Result<(), Fail> {
        if batch.parts.is_empty() {
            return Ok(());
        }
        let Some(segment) = self.segments.get_mut(&self.active) else {
            return Err(Fail::Broken("the journal has no segment".to_owned()));
        };
        let start = u64::from(segment.len);
        self.small_run = match batch.end - segment.len {
            ..=SMALL_BYTES => self.small_run.saturating_add(1),
            _ => 0,
        };
        if self.small_run >= SMALL_RUN && batch.end > segment.zeroed {
            fill_ahead(&self.shared, segment, batch.end);
        }
        if let Err(error) = batch.parts.write_at(segment.file.as_ref(), start) {
            if is_full(&error) && segment.file.set_len(start).is_ok() {
                segment.zeroed = 0;
                return Err(Fail::Full);
            }
            return Err(Fail::Broken(format!("writing the journal: {error}")));
        }
        let synced = segment.file.sync_data();
        synced.map_err(|error| Fail::Broken(format!("making the journal durable: {error}")))?;
        self.tail_bytes += u64::from(batch.end - segment.len);
        segment.len = batch.end;
        segment.allocated = segment.file.allocated().unwrap_or(segment.allocated);
        self.next_record = batch.next_record;
        batch.parts.clear();
        for effect in std::mem::take(&mut batch.effects) {
            self.take_effect(effect);
        }
        Ok(())
    }

    /// Takes away, durably, what is behind the records: filled ahead of them, wholly or in part. Of a segment that
    /// is not the last one that would be damage.
    pub(super) fn trim(&mut self) -> io::Result<()> {
        let Some(segment) = self.segments.get_mut(&self.active) else {
            return Ok(());
        };
        let len = u64::from(segment.len);
        if segment.file.len()? <= len {
            return Ok(());
        }
        segment.zeroed = 0;
        segment.file.set_len(len)?;
        segment.file.sync_data()
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Group(seq) => self.last = seq,
            Effect::Added(id, place) | Effect::Moved(id, place) => self.set_place(id, Some(place)),
            Effect::Released(id) => self.set_place(id, None),
        }
    }

    /// Remembers where dirty data is from now on.
    pub(super) fn set_place(&mut self, id: DirtyId, place: Option<Arc<Place>>) {
        let before = match &place {
            Some(place) => self.places.insert(id, Arc::clone(place)),
            None => self.places.remove(&id),
        };
        if let Some(before) = before
            && let Some(segment) = self.segments.get_mut(&before.at.segment)
        {
            segment.live -= u64::from(before.record_len).min(segment.live);
        }
        if let Some(place) = &place
            && let Some(segment) = self.segments.get_mut(&place.at.segment)
        {
            segment.live += u64::from(place.record_len);
        }
        self.changed.insert(id, place);
    }

    /// Lets readers find dirty data on the disk, and others have the room of what was written.
    fn publish(&self, groups: &[Pending], first: Seq) {
        let mut gone = Vec::new();
        let mut state = self.shared.state_mut();
        for group in groups {
            if group.seq <= first || group.seq > self.last {
                continue;
            }
            state.unwritten -= group.cost.min(state.unwritten);
            for (id, _) in &group.added {
                // It may have been released since, and its id used again.
                let Some(place) = self.places.get(id) else {
                    continue;
                };
                if let Some(dirty) = state.dirty.get_mut(id)
                    && matches!(dirty, Dirty::Memory(seq, _) if *seq == group.seq)
                {
                    gone.push(std::mem::replace(dirty, Dirty::Disk(Arc::clone(place))));
                }
            }
        }
        // Memory is given back outside of the lock.
        drop(state);
        drop(gone);
    }

    /// The changes that were set apart, for the tables.
    fn flush_job(&mut self) -> Option<Flush> {
        let rows = self.shared.state().old.clone()?;
        self.tail_bytes = 0;
        Some(Flush {
            shared: Arc::clone(&self.shared),
            rows,
            dirty: std::mem::take(&mut self.changed),
            checkpoint: self.here(),
        })
    }

    /// The checkpoint of tables that have everything.
    pub(super) fn here(&self) -> Checkpoint {
        Checkpoint {
            identity: self.shared.identity,
            at: Position {
                segment: self.active,
                offset: self.active().map_or(0, |segment| segment.len),
            },
            next_record: self.next_record,
            next_seq: self.last.0 + 1,
        }
    }

    /// Whether the tables lack something that is durable.
    pub(super) fn is_ahead(&self) -> bool {
        self.tail_bytes > 0
    }

    pub(super) fn count(&self) {
        let journal = self.segments.values().map(|segment| segment.allocated);
        self.shared.count(journal.sum());
    }
}
