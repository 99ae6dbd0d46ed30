//! Opening: the tables as the last flush left them, and on top of them the tail of the journal.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::error::VolumeOpenError;
use super::group::{Change, DirtyId, Entry, JournalLog, Record, Seq, pieces_are_sound};
use super::home::dir_name;
use super::journal::{Engine, Segment, journal_id, journal_name};
use super::overlay::{Dirty, Layer, Place};
use super::rows::{Checkpoint, Tables};
use super::shared::{Shared, VolumeReport};
use crate::store::disk::DiskFile;
use crate::store::frame::Position;
use crate::store::segment::{SEGMENT_HEADER_LEN, Scanned, Scanner, header_of};

type Scan = Scanner<JournalLog>;

/// Opens the journal and the tables of a volume that is there.
pub(super) fn open(shared: &Arc<Shared>) -> Result<(Engine, VolumeReport), VolumeOpenError> {
    let id = shared.id;
    let database = VolumeOpenError::database(id);
    let cache_bytes = shared.options.cache_bytes;
    let tables = Tables::open(shared.disk.as_ref(), id, cache_bytes, false).map_err(&database)?;
    let checkpoint = tables
        .checkpoint()
        .map_err(&database)?
        .ok_or_else(|| corrupt(shared, "its tables do not say how far they are"))?;
    if checkpoint.identity != shared.identity {
        return Err(corrupt(shared, "its tables belong to another volume"));
    }
    let mut recovery = Recovery::begin(shared, checkpoint)?;
    recovery.places(&tables)?;
    recovery.replay(&tables)?;
    recovery.end(tables)
}

fn corrupt(shared: &Shared, what: impl Into<String>) -> VolumeOpenError {
    VolumeOpenError::Corrupt {
        id: shared.id,
        what: what.into(),
    }
}

struct Recovery<'s> {
    shared: &'s Arc<Shared>,
    engine: Engine,
    report: VolumeReport,
    /// Changes of rows that the tables do not have.
    layer: Layer,
    /// Dirty data that no group has named yet.
    unnamed: BTreeMap<Position, (DirtyId, Arc<Place>)>,
    /// The segments to replay, in order.
    tail: Vec<u32>,
}

impl<'s> Recovery<'s> {
    /// Finds the segments there are.
    fn begin(shared: &'s Arc<Shared>, checkpoint: Checkpoint) -> Result<Self, VolumeOpenError> {
        let dir = dir_name(shared.id);
        let names = shared.disk.list(&dir);
        let names = names.map_err(VolumeOpenError::io(format!("listing {dir}")))?;
        let mut segments = BTreeMap::new();
        for id in names.iter().filter_map(|name| journal_id(name)) {
            let name = journal_name(shared.id, id);
            let file = shared.disk.open(&name);
            let file = file.map_err(VolumeOpenError::io(name.as_str()))?;
            let len = file.len().map_err(VolumeOpenError::io(name.as_str()))?;
            let allocated = file.allocated().map_err(VolumeOpenError::io(name))?;
            let segment = Segment {
                file,
                len: u32::try_from(len).unwrap_or(u32::MAX),
                live: 0,
                allocated,
                zeroed: 0,
            };
            segments.insert(id, segment);
        }
        let first = checkpoint.at.segment;
        let tail: Vec<u32> = segments.range(first..).map(|(id, _)| *id).collect();
        let has_gap = tail
            .iter()
            .zip(first..)
            .any(|(id, expected)| *id != expected);
        if has_gap || tail.is_empty() {
            return Err(corrupt(shared, "segments of its journal are missing"));
        }
        let engine = Engine {
            shared: Arc::clone(shared),
            segments,
            active: first,
            next_record: checkpoint.next_record,
            last: Seq(checkpoint.next_seq.saturating_sub(1)),
            places: BTreeMap::new(),
            changed: BTreeMap::new(),
            checkpoint,
            tail_bytes: 0,
            has_more_to_carry: false,
            small_run: 0,
        };
        Ok(Recovery {
            shared,
            engine,
            report: VolumeReport::default(),
            layer: Layer::default(),
            unnamed: BTreeMap::new(),
            tail,
        })
    }

    /// Reads where dirty data was at the checkpoint.
    fn places(&mut self, tables: &Tables) -> Result<(), VolumeOpenError> {
        let places = tables.dirty();
        let places = places.map_err(VolumeOpenError::database(self.shared.id))?;
        for (id, mut place) in places {
            let segment = self.engine.segments.get(&place.at.segment);
            place.file = segment.map(|segment| Arc::clone(&segment.file));
            if place.file.is_none() {
                let segment = place.at.segment;
                tracing::warn!(volume = %self.shared.id, segment, "dirty data is lost with its segment");
            }
            self.engine.set_place(id, Some(Arc::new(place)));
        }
        self.engine.changed.clear();
        Ok(())
    }

    fn file(&self, id: u32) -> Result<Arc<dyn DiskFile>, VolumeOpenError> {
        let segment = self.engine.segments.get(&id);
        let file = segment.map(|segment| Arc::clone(&segment.file));
        file.ok_or_else(|| corrupt(self.shared, "a segment of its journal is missing"))
    }

    fn failed(&self, id: u32) -> impl FnOnce(io::Error) -> VolumeOpenError {
        VolumeOpenError::io(journal_name(self.shared.id, id))
    }

    fn scan(&self, id: u32, offset: u32) -> Result<Scan, VolumeOpenError> {
        let file = self.file(id)?;
        Scan::new(file, id, self.shared.key.clone(), offset).map_err(self.failed(id))
    }

    /// Applies everything behind the checkpoint.
    fn replay(&mut self, tables: &Tables) -> Result<(), VolumeOpenError> {
        let at = self.engine.checkpoint.at;
        self.drop_unbegun(at.segment)?;
        let last = self.tail.last().copied();
        for id in std::mem::take(&mut self.tail) {
            self.check_header(id)?;
            let offset = match id == at.segment {
                true => at.offset,
                false => SEGMENT_HEADER_LEN as u32,
            };
            let file = self.file(id)?;
            if file.len().map_err(self.failed(id))? < u64::from(offset) {
                return Err(corrupt(self.shared, "its tables are ahead of its journal"));
            }
            self.engine.active = id;
            let end = self.segment(id, offset, Some(id) == last, tables)?;
            self.report.replayed_bytes += u64::from(end - offset.min(end));
            if let Some(segment) = self.engine.segments.get_mut(&id) {
                segment.len = end;
            }
        }
        Ok(())
    }

    /// Removes a last segment whose creation was interrupted: nothing was ever written to it.
    fn drop_unbegun(&mut self, named: u32) -> Result<(), VolumeOpenError> {
        let Some(id) = self.tail.last().copied().filter(|id| *id > named) else {
            return Ok(());
        };
        if self.header_is_sound(id)? {
            return Ok(());
        }
        let mut scanner = self.scan(id, 0)?;
        scanner.resync().map_err(self.failed(id))?;
        if matches!(scanner.next().map_err(self.failed(id))?, Scanned::End) {
            let name = journal_name(self.shared.id, id);
            self.shared.disk.remove(&name).map_err(self.failed(id))?;
            let synced = self.shared.disk.sync_dir(&dir_name(self.shared.id));
            synced.map_err(self.failed(id))?;
            self.engine.segments.remove(&id);
            self.tail.pop();
        }
        Ok(())
    }

    fn header_is_sound(&self, id: u32) -> Result<bool, VolumeOpenError> {
        let header = self.file(id)?.read_vec(0, SEGMENT_HEADER_LEN);
        let header = header.map_err(self.failed(id))?;
        let first = header.get(32..40).and_then(|bytes| bytes.try_into().ok());
        let first = first.map_or(0, u64::from_le_bytes);
        let Shared { key, identity, .. } = &**self.shared;
        Ok(header == header_of::<JournalLog>(key, identity, id, first))
    }

    fn check_header(&mut self, id: u32) -> Result<(), VolumeOpenError> {
        if self.header_is_sound(id)? {
            return Ok(());
        }
        self.pass_over(id, 0)
    }

    /// Damage in what was durable: reported, and passed over only where that is asked for.
    fn pass_over(&mut self, id: u32, offset: u32) -> Result<(), VolumeOpenError> {
        if !self.shared.options.is_salvage {
            let what = format!("segment {id} of its journal is damaged at byte {offset}");
            return Err(corrupt(self.shared, what));
        }
        tracing::warn!(volume = %self.shared.id, segment = id, offset, "damage in the journal is passed over");
        self.report.damaged_regions += 1;
        Ok(())
    }

    /// Replays one segment from `offset`; where its records end.
    fn segment(
        &mut self,
        id: u32,
        offset: u32,
        is_last: bool,
        tables: &Tables,
    ) -> Result<u32, VolumeOpenError> {
        let file = self.file(id)?;
        let mut scanner = self.scan(id, offset)?;
        let mut durable = None;
        loop {
            let before = scanner.offset();
            match scanner.next().map_err(self.failed(id))? {
                Scanned::End => return Ok(before),
                Scanned::Record(at, record) => {
                    // Earlier segments were durable before the last one was begun. Data that was durable is
                    // verified by whoever reads it.
                    if is_last
                        && !self.data_is_sound(&file, at, &record)?
                        && self.durable_to(&mut durable, at)? <= at.offset
                    {
                        return self.cut(&file, at);
                    }
                    let seq = record.seq;
                    let end = at.offset + record.extent.record_len;
                    self.apply(&file, at, record)?;
                    self.engine.next_record = seq + 1;
                    self.flush_if_large(tables, Position { offset: end, ..at })?;
                }
                Scanned::Bad(offset) => {
                    let at = Position {
                        segment: id,
                        offset,
                    };
                    if is_last && self.durable_to(&mut durable, at)? <= offset {
                        return self.cut(&file, at);
                    }
                    self.pass_over(id, offset)?;
                    scanner.resync().map_err(self.failed(id))?;
                }
            }
        }
    }

    /// How much of the last segment was durable, as its records from `at` on say.
    fn durable_to(&self, known: &mut Option<u32>, at: Position) -> Result<u32, VolumeOpenError> {
        if let Some(known) = known {
            return Ok(*known);
        }
        let mut scanner = self.scan(at.segment, at.offset)?;
        let mut durable_to = 0;
        loop {
            match scanner.next().map_err(self.failed(at.segment))? {
                Scanned::End => return Ok(*known.insert(durable_to)),
                Scanned::Bad(_) => scanner.resync().map_err(self.failed(at.segment))?,
                Scanned::Record(_, record) => durable_to = durable_to.max(record.synced_to),
            }
        }
    }

    fn cut(&mut self, file: &Arc<dyn DiskFile>, at: Position) -> Result<u32, VolumeOpenError> {
        let len = file.len().map_err(self.failed(at.segment))?;
        self.report.cut_bytes += len.saturating_sub(u64::from(at.offset));
        file.set_len(u64::from(at.offset))
            .and_then(|()| file.sync_data())
            .map_err(self.failed(at.segment))?;
        Ok(at.offset)
    }

    fn data_is_sound(
        &self,
        file: &Arc<dyn DiskFile>,
        at: Position,
        record: &Record,
    ) -> Result<bool, VolumeOpenError> {
        let Entry::Dirty { id, sums } = &record.entry else {
            return Ok(true);
        };
        let data_at = u64::from(at.offset) + u64::from(record.extent.data_at);
        let len = record.extent.data_len as usize;
        let data = file.read_bytes(data_at, len);
        let data = data.map_err(self.failed(at.segment))?;
        let is_whole = data.len() == len;
        Ok(is_whole && pieces_are_sound(&self.shared.key, *id, sums, 0, &data))
    }

    fn apply(
        &mut self,
        file: &Arc<dyn DiskFile>,
        at: Position,
        record: Record,
    ) -> Result<(), VolumeOpenError> {
        let extent = record.extent;
        match record.entry {
            Entry::Dirty { id, sums } => {
                let place = Place {
                    at,
                    data_at: extent.data_at,
                    len: extent.data_len,
                    record_len: extent.record_len,
                    sums,
                    file: Some(Arc::clone(file)),
                };
                self.unnamed.insert(at, (id, Arc::new(place)));
            }
            Entry::Group {
                seq,
                changes,
                added,
                released,
            } => {
                changes
                    .into_iter()
                    .for_each(|change: Change| self.layer.insert(change));
                for id in released {
                    self.engine.set_place(id, None);
                }
                for (id, from) in added {
                    let place = self.named(id, from, at)?;
                    if place.is_some() {
                        self.engine.set_place(id, place);
                    }
                }
                self.unnamed.clear();
                self.engine.last = self.engine.last.max(seq);
                self.report.replayed_groups += 1;
            }
            Entry::Moved(moves) => {
                for (id, from, to) in moves {
                    let place = self.named(id, to, at)?;
                    let is_there = self.engine.places.get(&id);
                    if is_there.is_some_and(|place| place.at == from) && place.is_some() {
                        self.engine.set_place(id, place);
                    }
                }
                self.unnamed.clear();
            }
        }
        Ok(())
    }

    /// The dirty data that a record at `at` says is at `from`.
    fn named(
        &mut self,
        id: DirtyId,
        from: Position,
        at: Position,
    ) -> Result<Option<Arc<Place>>, VolumeOpenError> {
        match self.unnamed.remove(&from) {
            Some((found, place)) if found == id => Ok(Some(place)),
            _ => {
                self.pass_over(at.segment, at.offset)?;
                Ok(None)
            }
        }
    }

    /// Brings the tables up to date in between, so that memory stays bounded. Only behind a record that is
    /// a group: dirty data before it has its name.
    fn flush_if_large(&mut self, tables: &Tables, at: Position) -> Result<(), VolumeOpenError> {
        let options = &self.shared.options;
        let is_large =
            self.layer.rows.len() >= options.flush_rows || self.layer.bytes >= options.flush_bytes;
        if !is_large || !self.unnamed.is_empty() {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            at,
            ..self.engine.here()
        };
        self.flush(tables, checkpoint)
    }

    fn flush(&mut self, tables: &Tables, checkpoint: Checkpoint) -> Result<(), VolumeOpenError> {
        let layer = std::mem::take(&mut self.layer);
        let changed = std::mem::take(&mut self.engine.changed);
        tables
            .commit(&layer, &changed, &checkpoint)
            .map_err(VolumeOpenError::database(self.shared.id))?;
        self.engine.checkpoint = checkpoint;
        Ok(())
    }

    /// Hands over to the writer.
    fn end(mut self, tables: Tables) -> Result<(Engine, VolumeReport), VolumeOpenError> {
        let shared = self.shared;
        if self.engine.here() != self.engine.checkpoint {
            let checkpoint = self.engine.here();
            self.flush(&tables, checkpoint)?;
        }
        let snapshot = tables.snapshot();
        let snapshot = snapshot.map_err(VolumeOpenError::database(shared.id))?;
        {
            let mut state = shared.state_mut();
            state.snapshot = Some(Arc::new(snapshot));
            state.next_seq = self.engine.last.0 + 1;
            for (id, place) in &self.engine.places {
                state.dirty_bytes += u64::from(place.len);
                state.dirty.insert(*id, Dirty::Disk(Arc::clone(place)));
            }
        }
        *shared.tables_mut() = Some(tables);
        let last = self.engine.last;
        shared.tell(|progress| progress.synced = last);
        self.report.last = last;
        self.engine.tidy();
        Ok((self.engine, self.report))
    }
}
