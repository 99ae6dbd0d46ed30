//! The tables of a volume: rows, the places of dirty data, and how far in the journal they are.
//!
//! There is no second copy of what is here, so every page is verified as it is read (`store::paged`) and every value
//! carries its own checksum besides. Commits are two-phase and leave the state of the allocator behind, so
//! that opening reads a few pages, also after a crash.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use super::group::DirtyId;
use super::overlay::{Layer, Place};
use crate::base::VolumeId;
use crate::store::database::{Database, DatabaseError, How, Medium, Snapshot, Table};
use crate::store::disk::{Disk, DiskFile};
use crate::store::frame::Position;
use crate::store::paged::PagedFile;

const ROWS: Table = Table {
    number: 1,
    name: "rows",
};
const DIRTY: Table = Table {
    number: 2,
    name: "dirty",
};
const META: Table = Table {
    number: 3,
    name: "meta",
};
/// The only key of the last table: the version of them all.
const CHECKPOINT_KEY: &[u8] = &[1];
const CHECKPOINT_LEN: usize = 40;

/// To where in the journal the tables are up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) identity: [u8; 16],
    pub(super) at: Position,
    /// Of the next record of the journal.
    pub(super) next_record: u64,
    /// Of the next group.
    pub(super) next_seq: u64,
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.identity.to_vec();
        bytes.extend_from_slice(&crate::store::frame::place(self.at));
        bytes.extend_from_slice(&self.next_record.to_le_bytes());
        bytes.extend_from_slice(&self.next_seq.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != CHECKPOINT_LEN {
            return None;
        }
        let (identity, rest) = bytes.split_first_chunk::<16>()?;
        let (segment, rest) = rest.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<4>()?;
        let (next_record, rest) = rest.split_first_chunk::<8>()?;
        Some(Checkpoint {
            identity: *identity,
            at: Position {
                segment: u32::from_le_bytes(*segment),
                offset: u32::from_le_bytes(*offset),
            },
            next_record: u64::from_le_bytes(*next_record),
            next_seq: u64::from_le_bytes(rest.try_into().ok()?),
        })
    }
}

/// The open tables of one volume.
#[derive(Debug)]
pub(super) struct Tables {
    database: Database,
    paged: Arc<PagedFile>,
    file: Arc<dyn DiskFile>,
}

/// Name of their file.
pub(super) fn tables_name(id: VolumeId) -> String {
    format!("{}/tables.redb", super::home::dir_name(id))
}

fn encode_place(place: &Place) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + place.sums.len());
    for number in [
        place.at.segment,
        place.at.offset,
        place.data_at,
        place.len,
        place.record_len,
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&place.sums);
    bytes
}

fn decode_place(bytes: &[u8]) -> Option<Place> {
    let (numbers, sums) = bytes.split_at_checked(20)?;
    let mut numbers = numbers.chunks_exact(4).map(|four| {
        four.iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u32::from(*byte))
    });
    Some(Place {
        at: Position {
            segment: numbers.next()?,
            offset: numbers.next()?,
        },
        data_at: numbers.next()?,
        len: numbers.next()?,
        record_len: numbers.next()?,
        sums: sums.into(),
        file: None,
    })
}

impl Tables {
    /// Opens the tables of a volume; new ones only where `is_new`.
    pub(super) fn open(
        disk: &dyn Disk,
        id: VolumeId,
        cache_bytes: usize,
        is_new: bool,
    ) -> Result<Self, DatabaseError> {
        let name = tables_name(id);
        let file = match disk.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => disk.create(&name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatabaseError::Damaged("its tables are missing".to_owned()));
            }
            other => other,
        };
        let file = file.map_err(DatabaseError::Io)?;
        let is_empty = file.is_empty().map_err(DatabaseError::Io)?;
        if is_empty && !is_new {
            return Err(DatabaseError::Damaged("its tables are empty".to_owned()));
        }
        let paged = PagedFile::new(Arc::clone(&file)).map_err(DatabaseError::Io)?;
        let how = How {
            cache_bytes,
            is_checked: false,
            is_quick: true,
        };
        let paged = Arc::new(paged);
        let medium = Medium::Paged(Arc::clone(&paged));
        let opened = Database::open(medium, how, &[ROWS, DIRTY, META]);
        paged.take_stock().map_err(DatabaseError::Io)?;
        Ok(Tables {
            database: opened?,
            paged,
            file,
        })
    }

    /// Whether a write failed: the last commit that succeeded can be read, and nothing can be written.
    pub(super) fn has_failed(&self) -> bool {
        self.paged.has_failed()
    }

    /// The rows as they are now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, DatabaseError> {
        self.database.snapshot(ROWS)
    }

    /// How far the tables are; `None` if they are new.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, DatabaseError> {
        let meta = self.database.snapshot(META)?;
        meta.get(CHECKPOINT_KEY, Checkpoint::decode)
    }

    /// The places of all dirty data.
    pub(super) fn dirty(&self) -> Result<BTreeMap<DirtyId, Place>, DatabaseError> {
        let rows = self.database.snapshot(DIRTY)?;
        let mut found = BTreeMap::new();
        rows.range(Bound::Unbounded, Bound::Unbounded, false, |key, value| {
            let id = key.try_into().map(u64::from_be_bytes);
            let id = id.map_err(|_| rows.damaged())?;
            let place = decode_place(value).ok_or_else(|| rows.damaged())?;
            found.insert(DirtyId(id), place);
            Ok(true)
        })?;
        Ok(found)
    }

    /// Writes changes and the checkpoint that they lead to, durably and all or nothing.
    pub(super) fn commit(
        &self,
        rows: &Layer,
        dirty: &BTreeMap<DirtyId, Option<Arc<Place>>>,
        checkpoint: &Checkpoint,
    ) -> Result<(), DatabaseError> {
        let done = self.database.commit(|batch| {
            let changes = rows.rows.iter().map(|(key, value)| {
                let value = value.as_ref().map(|value| Cow::Borrowed(&**value));
                (Cow::Borrowed(&**key), value)
            });
            batch.put(ROWS, changes)?;
            let places = dirty.iter().map(|(id, place)| {
                let key = Cow::Owned(id.0.to_be_bytes().to_vec());
                let value = place.as_ref().map(|place| Cow::Owned(encode_place(place)));
                (key, value)
            });
            batch.put(DIRTY, places)?;
            let value = Cow::Owned(checkpoint.encode());
            let meta = (Cow::Borrowed(CHECKPOINT_KEY), Some(value));
            batch.put(META, std::iter::once(meta))
        });
        self.paged.take_stock().map_err(DatabaseError::Io)?;
        done
    }

    /// Bytes that they occupy on the disk.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}
