//! Where the volumes of a data directory are: made, listed, opened and removed.
//!
//! A volume is there while its marker is: the marker is written last and removed first.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::error::VolumeOpenError;
use super::handle::Volume;
use super::journal::{create_segment, journal_id};
use super::overlay::Layer;
use super::recover;
use super::rows::{Checkpoint, Tables, tables_name};
use super::shared::{Shared, VolumeOptions, VolumeReport};
use super::turn::Turn;
use super::writer;
use crate::base::VolumeId;
use crate::store::disk::{Disk, is_full, read_small, write_atomic};
use crate::store::frame::Position;
use crate::store::handle::Store;
use crate::store::quota::Tier;
use crate::store::segment::SEGMENT_HEADER_LEN;
use crate::store::shared::Shared as StoreShared;

/// Directory of all volumes.
const VOLUMES_DIR: &str = "volumes";
const MARKER: &str = "VOLUME";
/// Format written by this program.
const VOLUME_FORMAT: u64 = 1;
const MARKER_LIMIT: usize = 4096;
/// What a new volume occupies, with room for its first changes.
const NEW_COST: u64 = 512 << 10;

/// The directory of one volume.
pub(super) fn dir_name(id: VolumeId) -> String {
    format!("{VOLUMES_DIR}/{id}")
}

/// The volume to which a file of the data directory belongs.
fn volume_of(name: &str) -> Option<VolumeId> {
    let inner = name.strip_prefix(VOLUMES_DIR)?.strip_prefix('/')?;
    inner.split('/').next()?.parse().ok()
}

/// The volume to whose journal or tables a file belongs: what an open volume counts itself.
pub(in crate::store) fn counted_by(name: &str) -> Option<VolumeId> {
    let id = volume_of(name)?;
    let base = name.rsplit('/').next()?;
    (name == tables_name(id) || journal_id(base).is_some()).then_some(id)
}

fn marker_name(id: VolumeId) -> String {
    format!("{}/{MARKER}", dir_name(id))
}

fn marker_text(identity: &[u8; 16]) -> String {
    let hex = data_encoding::HEXLOWER.encode(identity);
    format!("cairn-volume {VOLUME_FORMAT}\nidentity {hex}\n")
}

fn parse_marker(id: VolumeId, bytes: &[u8]) -> Result<[u8; 16], VolumeOpenError> {
    let unusable = || VolumeOpenError::Corrupt {
        id,
        what: format!("{} is not readable", marker_name(id)),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| unusable())?;
    let mut lines = text.lines();
    let format = lines
        .next()
        .and_then(|line| line.strip_prefix("cairn-volume "));
    let found: u64 = format
        .and_then(|number| number.parse().ok())
        .ok_or_else(unusable)?;
    if found > VOLUME_FORMAT {
        return Err(VolumeOpenError::Newer {
            id,
            found,
            known: VOLUME_FORMAT,
        });
    }
    let hex = lines.next().and_then(|line| line.strip_prefix("identity "));
    let identity = hex.and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
    identity
        .and_then(|identity| identity.try_into().ok())
        .ok_or_else(unusable)
}

/// What identity a volume has, if it is there.
fn identity(disk: &dyn Disk, id: VolumeId) -> Result<Option<[u8; 16]>, VolumeOpenError> {
    let name = marker_name(id);
    let read = read_small(disk, &name, MARKER_LIMIT);
    match read.map_err(VolumeOpenError::io(name))? {
        Some(bytes) => parse_marker(id, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Says that a volume is open, while it lives.
#[derive(Debug)]
pub(super) struct OpenMark {
    store: Arc<StoreShared>,
    id: VolumeId,
}

impl OpenMark {
    fn new(store: &Arc<StoreShared>, id: VolumeId) -> Result<Self, VolumeOpenError> {
        match store.open_volumes().insert(id) {
            true => Ok(OpenMark {
                store: Arc::clone(store),
                id,
            }),
            false => Err(VolumeOpenError::InUse(id)),
        }
    }
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        self.store.ledger.close_volume(self.id);
        self.store.open_volumes().remove(&self.id);
    }
}

/// Removes what is in a volume's directory, and the directory; it may be there in part.
fn clear(disk: &dyn Disk, id: VolumeId) -> Result<(), VolumeOpenError> {
    let dir = dir_name(id);
    let failed = || VolumeOpenError::io(format!("removing {dir}"));
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    missing_is_fine(disk.remove(&marker_name(id))).map_err(failed())?;
    let names = match disk.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed()(error)),
    };
    missing_is_fine(disk.sync_dir(&dir)).map_err(failed())?;
    for name in names {
        missing_is_fine(disk.remove(&format!("{dir}/{name}"))).map_err(failed())?;
    }
    missing_is_fine(disk.remove_dir(&dir)).map_err(failed())?;
    missing_is_fine(disk.sync_dir(VOLUMES_DIR)).map_err(failed())
}

fn create(store: &Arc<StoreShared>, id: VolumeId) -> Result<(), VolumeOpenError> {
    let disk = &store.disk;
    if identity(disk.as_ref(), id)?.is_some() {
        return Err(VolumeOpenError::Exists(id));
    }
    let reserved = store.ledger.reserve(Tier::Claims, NEW_COST);
    let _reserved = reserved.map_err(|free_bytes| VolumeOpenError::Full { free_bytes })?;
    clear(disk.as_ref(), id)?;
    let dir = dir_name(id);
    let made = disk
        .create_dir(VOLUMES_DIR)
        .and_then(|()| disk.sync_dir(""))
        .and_then(|()| disk.create_dir(&dir))
        .and_then(|()| disk.sync_dir(VOLUMES_DIR));
    made.map_err(VolumeOpenError::io(format!("creating {dir}")))?;
    let identity = store.options.entropy.array();
    let written = fill(store, id, identity);
    if written.is_err() {
        // What is left is removed when it is tried again.
        let _ = clear(disk.as_ref(), id);
    }
    written.map_err(|error| match error {
        VolumeOpenError::Io { error, .. } if is_full(&error) => VolumeOpenError::Full {
            free_bytes: store.ledger.left(Tier::Data),
        },
        other => other,
    })
}

/// Writes the files of a new volume.
fn fill(store: &StoreShared, id: VolumeId, identity: [u8; 16]) -> Result<(), VolumeOpenError> {
    let disk = Arc::clone(&store.disk);
    let options = VolumeOptions::default();
    let shared = Shared::new(
        id,
        identity,
        Arc::clone(&disk),
        store.ledger.clone(),
        Arc::clone(&store.ring),
        options,
    );
    let first = 1;
    let segment = create_segment(&shared, first, 1);
    segment.map_err(VolumeOpenError::io("the first segment of its journal"))?;
    let database = VolumeOpenError::database(id);
    let tables = Tables::open(disk.as_ref(), id, 1 << 20, true).map_err(&database)?;
    let checkpoint = Checkpoint {
        identity,
        at: Position {
            segment: first,
            offset: SEGMENT_HEADER_LEN as u32,
        },
        next_record: 1,
        next_seq: 1,
    };
    let empty = tables.commit(&Layer::default(), &Default::default(), &checkpoint);
    empty.map_err(&database)?;
    drop(tables);
    write_atomic(
        disk.as_ref(),
        &marker_name(id),
        marker_text(&identity).as_bytes(),
    )
    .map_err(VolumeOpenError::io(marker_name(id)))
}

fn list(disk: &dyn Disk) -> Result<Vec<VolumeId>, VolumeOpenError> {
    let skip = |name: &str| name != VOLUMES_DIR && volume_of(name).is_none();
    let walked = disk.walk(&skip);
    let entries = walked.map_err(VolumeOpenError::io(format!("listing {VOLUMES_DIR}")))?;
    let marked = entries.iter().filter_map(|entry| {
        let id = volume_of(&entry.name)?;
        (entry.name == marker_name(id)).then_some(id)
    });
    Ok(marked.collect::<BTreeSet<_>>().into_iter().collect())
}

fn check_open(store: &StoreShared) -> Result<(), VolumeOpenError> {
    store.check_open().map_err(|_| VolumeOpenError::Closed)
}

impl Store {
    /// Makes an empty volume in this data directory, durably.
    ///
    /// # Errors
    /// `Exists` if it is there already; `Full` if there is no room for one.
    pub async fn create_volume(&self, id: VolumeId) -> Result<(), VolumeOpenError> {
        let shared = Arc::clone(self.shared());
        check_open(&shared)?;
        let mark = OpenMark::new(&shared, id)?;
        let made = self.pools().disk.run(move || {
            let made = create(&shared, id);
            shared.count_rest();
            made
        });
        let made = made.await;
        drop(mark);
        made
    }

    /// Opens a volume and starts its writer on the current runtime. Reads a few pages of its tables and the
    /// journal's tail, however large it is.
    ///
    /// # Errors
    /// `NotFound`; `InUse` if it is open; `Corrupt` if it is not what was written.
    pub async fn open_volume(
        &self,
        id: VolumeId,
        options: VolumeOptions,
    ) -> Result<(Volume, VolumeReport), VolumeOpenError> {
        let store = Arc::clone(self.shared());
        check_open(&store)?;
        let mark = OpenMark::new(&store, id)?;
        let opened = self.pools().disk.run(move || {
            let disk = Arc::clone(&store.disk);
            let identity = identity(disk.as_ref(), id)?.ok_or(VolumeOpenError::NotFound(id))?;
            let (ledger, ring) = (store.ledger.clone(), Arc::clone(&store.ring));
            let shared = Shared::new(id, identity, disk, ledger, ring, options);
            let shared = Arc::new(shared);
            let (engine, report) = recover::open(&shared)?;
            // From now on it counts for itself.
            store.count_rest();
            Ok((engine, shared, report))
        });
        let (engine, shared, report) = opened.await?;
        let pools = self.pools().clone();
        let turn = Arc::new(Turn::new(engine));
        let volume = Volume::new(Arc::clone(&shared), Arc::downgrade(&turn));
        tokio::spawn(writer::run(turn, shared, pools, mark));
        Ok((volume, report))
    }

    /// Removes a volume with everything in it from this data directory, durably. What of it is in the pool
    /// stays there. Also removes what an interrupted removal left.
    ///
    /// # Errors
    /// `NotFound`; `InUse` if it is open.
    pub async fn remove_volume(&self, id: VolumeId) -> Result<(), VolumeOpenError> {
        let shared = Arc::clone(self.shared());
        let mark = OpenMark::new(&shared, id)?;
        let removed = self.pools().disk.run(move || {
            let disk = shared.disk.as_ref();
            // Damage is no reason to keep it.
            let is_there = !matches!(identity(disk, id), Ok(None));
            clear(disk, id)?;
            shared.count_rest();
            match is_there {
                true => Ok(()),
                false => Err(VolumeOpenError::NotFound(id)),
            }
        });
        let removed = removed.await;
        drop(mark);
        removed
    }

    /// The volumes of this data directory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn volumes(&self) -> Result<Vec<VolumeId>, VolumeOpenError> {
        let shared = Arc::clone(self.shared());
        let listed = self.pools().disk.run(move || list(shared.disk.as_ref()));
        listed.await
    }
}
