//! Opening: bring the index up to date with the log, cut a torn tail, or build the index anew.
//!
//! The log is replayed from the index's checkpoint. That is a short tail after a crash, nothing
//! after a close in good order, and everything when the index is lost, damaged or another store's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::engine::{Active, Engine, Fail};
use super::error::OpenError;
use super::house::create_segment;
use super::index::{INDEX_FILE, Index, remove_file};
use super::quota::Ledger;
use super::replay::{OpenReport, RecoverError, Replayed, io_error, replace_index, replay};
use super::ring::is_ring;
use super::rows::ClaimState;
use super::segment::{STORE_DIR, is_segment, segment_id, segment_name};
use super::shared::{Shared, StoreOptions, logs_may_grow};
use super::tables::{IndexError, Tables};
use super::version;
use crate::base::limits::QUOTA_MIN_BYTES;
use crate::base::{ClaimId, Clock};

/// Opens the store on `disk`, or creates it.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: StoreOptions,
    clock: Clock,
) -> Result<(Engine, OpenReport), OpenError> {
    if options.quota_bytes < QUOTA_MIN_BYTES {
        return Err(OpenError::QuotaTooSmall {
            given: options.quota_bytes,
            minimum: QUOTA_MIN_BYTES,
        });
    }
    disk.create_dir(STORE_DIR)
        .and_then(|()| disk.sync_dir(""))
        .map_err(OpenError::io(format!("creating {STORE_DIR}")))?;
    let segments = list_segments(disk.as_ref())?;
    let store_id = version::identify(disk.as_ref(), &segments, &options.entropy)?;
    let (index, reason) = open_index(disk.as_ref(), options.cache_bytes)?;
    let ledger = Ledger::new(
        options.quota_bytes,
        options.reserve_free_bytes,
        options.segment_bytes,
    );
    let index = Arc::new(index);
    let shared = Arc::new(Shared::new(disk, store_id, index, ledger, options, clock));
    let mut report = OpenReport {
        rebuilt: reason,
        ..OpenReport::default()
    };
    let mut engine = match engine(&shared, &mut report) {
        Err(RecoverError::Index(error @ (IndexError::Damaged(_) | IndexError::Stale))) => {
            report = OpenReport {
                rebuilt: Some(error.to_string()),
                ..OpenReport::default()
            };
            replace_index(&shared).map_err(RecoverError::from)?;
            engine(&shared, &mut report)?
        }
        other => other?,
    };
    if report.replayed_records > 0 || report.rebuilt.is_some() {
        settle(&mut engine)?;
    }
    report.shards = engine.totals.shards;
    shared.ledger.opened();
    Ok((engine, report))
}

fn settle(engine: &mut Engine) -> Result<(), OpenError> {
    let result = engine.flush().and_then(|()| engine.remove_empty());
    result.map_err(|fail| OpenError::Io {
        what: "bringing the index up to date".to_owned(),
        error: match fail {
            Fail::Index(IndexError::Io(error)) => error,
            Fail::Index(error) => io::Error::other(error),
            Fail::Broken(why) => io::Error::other(why),
            Fail::Full => io::ErrorKind::StorageFull.into(),
            Fail::Refused(error) => io::Error::other(error),
        },
    })
}

/// Builds the index anew for a store that is open.
pub(super) fn rebuild(shared: &Arc<Shared>) -> Result<Engine, RecoverError> {
    replace_index(shared)?;
    engine(shared, &mut OpenReport::default())
}

/// The index database, or an empty one in its place and why.
fn open_index(disk: &dyn Disk, cache_bytes: usize) -> Result<(Index, Option<String>), OpenError> {
    let attempt = Tables::open(disk, INDEX_FILE, cache_bytes).and_then(Index::new);
    let why = match attempt {
        Ok(index) => return Ok((index, None)),
        Err(error) => error.to_string(),
    };
    tracing::warn!(why, "the index cannot be used");
    let fresh = remove_file(disk)
        .and_then(|()| Tables::open(disk, INDEX_FILE, cache_bytes))
        .and_then(Index::new)
        .map_err(RecoverError::from)?;
    Ok((fresh, Some(why)))
}

fn list_segments(disk: &dyn Disk) -> Result<Vec<u32>, OpenError> {
    let names = disk.list(STORE_DIR);
    let names = names.map_err(OpenError::io(format!("listing {STORE_DIR}")))?;
    Ok(names.iter().filter_map(|name| segment_id(name)).collect())
}

/// Replays the log, and makes an engine that goes on from its end.
fn engine(shared: &Arc<Shared>, report: &mut OpenReport) -> Result<Engine, RecoverError> {
    let Replayed {
        mut draft,
        present,
        end,
    } = replay(shared, report)?;
    count_everything(shared)?;
    let active = match present.last() {
        Some(id) => Active {
            id: *id,
            file: shared.files.get(*id).map_err(io_error(segment_name(*id)))?,
            end: end.offset,
        },
        None => create_segment(shared, end.segment, draft.totals.next_seq)
            .map_err(|fail| RecoverError::Segment(format!("the first segment: {fail:?}")))?,
    };
    let dead = std::mem::take(&mut draft.dead);
    let empty = shared.index.segments();
    let mut engine = Engine {
        shared: Arc::clone(shared),
        active,
        totals: draft.totals,
        tail_bytes: 0,
        flush_rows: shared.options.flush_rows,
        draining: draining(shared)?,
        to_trash: BTreeSet::new(),
        empty: empty
            .iter()
            .filter(|(_, row)| row.live == 0 && row.small == 0)
            .map(|(id, _)| *id)
            .collect(),
        punched: BTreeSet::new(),
        compaction: None,
        forgotten: super::compact::Forgotten::default(),
        unreadable: BTreeMap::new(),
        stuck: false,
    };
    let mut batch = engine.begin();
    engine.punch(&dead, &mut batch);
    shared.ledger.set_totals(engine.totals);
    Ok(engine)
}

/// Counts the whole data directory once: one look at each file, none into it.
fn count_everything(shared: &Shared) -> Result<(), RecoverError> {
    let walked = shared.disk.walk(&is_ring);
    let entries = walked.map_err(io_error("counting the data directory"))?;
    let (mut index, mut other) = (0, 0);
    shared.ledger.set_aside(logs_may_grow(&entries));
    shared.ledger.forget_segments();
    for entry in entries {
        if is_segment(&entry.name) {
            let base = entry.name.rsplit_once('/').map_or("", |(_, base)| base);
            if let Some(id) = segment_id(base) {
                shared.ledger.set_segment(id, entry.allocated);
            }
        } else if entry.name == INDEX_FILE {
            index += entry.allocated;
        } else if !shared.counts_itself(&entry.name) {
            other += entry.allocated;
        }
    }
    shared.ledger.set_index(index);
    shared.ledger.set_other(other);
    let free = shared
        .disk
        .free_bytes()
        .map_err(io_error("asking for free space"))?;
    shared.ledger.set_disk_free(free);
    Ok(())
}

/// Released claims some of whose blocks were not yet let go.
fn draining(shared: &Shared) -> Result<BTreeSet<ClaimId>, RecoverError> {
    let mut found = BTreeSet::new();
    let mut after: Option<ClaimId> = None;
    loop {
        let page = shared.index.claims(after.as_ref(), 1024)?;
        let releasing = page
            .rows
            .iter()
            .filter(|(_, row)| row.state == ClaimState::Releasing);
        found.extend(releasing.map(|(id, _)| *id));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}
