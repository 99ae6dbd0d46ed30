//! The index database: the only file that names redb.
//!
//! redb checks the sums of its pages when a database is opened and nothing when it reads; damaged
//! pages make it answer nonsense, or panic. So every value carries a checksum of ours, and every
//! call goes through [`Tables::guarded`], which turns a panic into [`IndexError::Damaged`]. The
//! answer to that is always the same: the index is rebuilt from the log.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, StorageBackend, StorageError,
    TableDefinition, TableError,
};

use super::disk::{Disk, DiskFile, write_all_at};
use super::record::KvKey;
use super::rows::{
    BlockRow, Checkpoint, ClaimRow, KvRow, Rows, SegmentRow, Stored, claim_key, claim_of_key,
    member_block, member_key,
};
use crate::base::{BlockId, ClaimId};

/// Version of the tables. Another one found is answered by a rebuild.
const INDEX_VERSION: u8 = 1;
/// The only key of the table of totals.
const CHECKPOINT_KEY: &[u8] = &[INDEX_VERSION];

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Opened = ReadOnlyTable<&'static [u8], &'static [u8]>;

#[derive(Debug, Clone, Copy)]
enum Name {
    Blocks = 1,
    Claims,
    Members,
    Kv,
    Segments,
    Meta,
}

impl Name {
    const ALL: [Name; 6] = [
        Name::Blocks,
        Name::Claims,
        Name::Members,
        Name::Kv,
        Name::Segments,
        Name::Meta,
    ];

    const fn definition(self) -> Definition {
        TableDefinition::new(match self {
            Name::Blocks => "blocks",
            Name::Claims => "claims",
            Name::Members => "members",
            Name::Kv => "kv",
            Name::Segments => "segments",
            Name::Meta => "meta",
        })
    }
}

/// Why the index did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// It is not what was written: rebuild it.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// The disk under it failed.
    #[error("the index cannot be read or written: {0}")]
    Io(io::Error),
}

impl IndexError {
    fn from_redb(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) => IndexError::Io(error),
            other => IndexError::Damaged(other.to_string()),
        }
    }
}

/// The open index database.
#[derive(Debug)]
pub(super) struct Tables {
    /// Taken out only by `drop`.
    database: Option<Database>,
    broken: AtomicBool,
}

/// redb's storage on a file of the injected disk.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(offset, out)? == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        write_all_at(self.0.as_ref(), offset, data)
    }
}

fn checksum(table: Name, key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

fn sealed(table: Name, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = checksum(table, key, value).to_vec();
    bytes.extend_from_slice(value);
    bytes
}

fn unseal<'a>(table: Name, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], IndexError> {
    match bytes.split_at_checked(4) {
        Some((sum, value)) if sum == checksum(table, key, value) => Ok(value),
        _ => Err(damaged(table)),
    }
}

fn damaged(table: Name) -> IndexError {
    IndexError::Damaged(format!("a row of table {table:?} does not verify"))
}

fn unpack<T: Stored>(table: Name, key: &[u8], bytes: &[u8]) -> Result<T, IndexError> {
    T::decode(unseal(table, key, bytes)?).ok_or_else(|| damaged(table))
}

impl Tables {
    /// Opens the database in file `name`, creating it if there is none, and checks all its pages.
    pub(super) fn open(
        disk: &dyn Disk,
        name: &str,
        cache_bytes: usize,
    ) -> Result<Self, IndexError> {
        let file = match disk.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(name),
            other => other,
        };
        let backend = Backend(file.map_err(IndexError::Io)?);
        let broken = AtomicBool::new(false);
        let database = guard(&broken, || {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes);
            builder.set_check_integrity_on_open(true);
            let database = builder
                .create_with_backend(backend)
                .map_err(IndexError::from_redb)?;
            let read = database.begin_read().map_err(IndexError::from_redb)?;
            if let Err(TableError::TableDoesNotExist(_)) = read.open_table(Name::Meta.definition())
            {
                // So that reading never meets a missing table.
                let write = database.begin_write().map_err(IndexError::from_redb)?;
                for table in Name::ALL {
                    write
                        .open_table(table.definition())
                        .map_err(IndexError::from_redb)?;
                }
                write.commit().map_err(IndexError::from_redb)?;
            }
            Ok(database)
        })?;
        Ok(Tables {
            database: Some(database),
            broken,
        })
    }

    /// Runs `work` on the database; a panic below means damage.
    fn guarded<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        match &self.database {
            Some(database) => guard(&self.broken, || work(database)),
            None => Err(IndexError::Damaged("it is closed".to_owned())),
        }
    }

    fn read<T>(
        &self,
        table: Name,
        work: impl FnOnce(&Opened) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.guarded(|database| {
            let read = database.begin_read().map_err(IndexError::from_redb)?;
            work(&open_table(&read, table)?)
        })
    }

    fn get<T: Stored>(&self, table: Name, key: &[u8]) -> Result<Option<T>, IndexError> {
        self.read(table, |opened| get(opened, table, key))
    }

    /// The row of one block.
    pub(super) fn block(&self, id: &BlockId) -> Result<Option<BlockRow>, IndexError> {
        self.get(Name::Blocks, &id.0)
    }

    /// The rows of many blocks, in their order.
    pub(super) fn blocks(&self, ids: &[&BlockId]) -> Result<Vec<Option<BlockRow>>, IndexError> {
        self.read(Name::Blocks, |opened| {
            let rows = ids.iter().map(|id| get(opened, Name::Blocks, &id.0));
            rows.collect()
        })
    }

    /// The row of one claim.
    pub(super) fn claim(&self, id: &ClaimId) -> Result<Option<ClaimRow>, IndexError> {
        self.get(Name::Claims, &claim_key(id))
    }

    /// At most `limit` claims after `after`, in order.
    pub(super) fn claims(
        &self,
        after: Option<&ClaimId>,
        limit: usize,
    ) -> Result<Vec<(ClaimId, ClaimRow)>, IndexError> {
        let from = after.map(claim_key);
        self.page(
            Name::Claims,
            from.as_ref().map(<[u8; 56]>::as_slice),
            limit,
            |key, bytes| {
                let id = claim_of_key(key).ok_or_else(|| damaged(Name::Claims))?;
                Ok(Some((id, unpack(Name::Claims, key, bytes)?)))
            },
        )
    }

    /// Whether claim number `short` names `block`.
    pub(super) fn is_member(&self, short: u64, block: &BlockId) -> Result<bool, IndexError> {
        let key = member_key(short, block);
        self.read(Name::Members, |opened| {
            match opened.get(key.as_slice()).map_err(IndexError::from_redb)? {
                Some(bytes) => unseal(Name::Members, &key, bytes.value()).map(|_| true),
                None => Ok(false),
            }
        })
    }

    /// At most `limit` blocks after `after` that claim number `short` names, in order.
    pub(super) fn members(
        &self,
        short: u64,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, IndexError> {
        // The key before the first of this claim is the greatest of the claim before it.
        let from = match after {
            Some(block) => Some(member_key(short, block)),
            None => short
                .checked_sub(1)
                .map(|previous| member_key(previous, &BlockId([0xff; 32]))),
        };
        self.page(
            Name::Members,
            from.as_ref().map(<[u8; 40]>::as_slice),
            limit,
            |key, bytes| {
                unseal(Name::Members, key, bytes)?;
                if !key.starts_with(&short.to_be_bytes()) {
                    return Ok(None);
                }
                member_block(key)
                    .map(Some)
                    .ok_or_else(|| damaged(Name::Members))
            },
        )
    }

    /// One small record.
    pub(super) fn kv(&self, key: &KvKey) -> Result<Option<KvRow>, IndexError> {
        self.get(Name::Kv, &key.0)
    }

    /// At most `limit` small records whose keys begin with `prefix` and come after `after`.
    pub(super) fn kv_page(
        &self,
        prefix: &KvKey,
        after: Option<&KvKey>,
        limit: usize,
    ) -> Result<Vec<(KvKey, KvRow)>, IndexError> {
        let take = |key: &[u8], bytes: &[u8]| {
            if !key.starts_with(&prefix.0) {
                return Ok(None);
            }
            let row = unpack(Name::Kv, key, bytes)?;
            Ok(Some((KvKey(key.to_vec()), row)))
        };
        if let Some(after) = after {
            return self.page(Name::Kv, Some(&after.0), limit, take);
        }
        let mut found = Vec::new();
        if let Some(row) = self.kv(prefix)? {
            found.push((prefix.clone(), row));
        }
        let rest = limit.saturating_sub(found.len());
        found.extend(self.page(Name::Kv, Some(&prefix.0), rest, take)?);
        Ok(found)
    }

    /// All segments.
    pub(super) fn segments(&self) -> Result<BTreeMap<u32, SegmentRow>, IndexError> {
        let rows = self.page(Name::Segments, None, usize::MAX, |key, bytes| {
            let id = key.try_into().map_err(|_| damaged(Name::Segments))?;
            let row = unpack(Name::Segments, key, bytes)?;
            Ok(Some((u32::from_be_bytes(id), row)))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// To where the index is up to date; `None` if it is new.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        self.get(Name::Meta, CHECKPOINT_KEY)
    }

    /// Rows after the key `after` in order, as long as `take` answers some.
    fn page<T>(
        &self,
        table: Name,
        after: Option<&[u8]>,
        limit: usize,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, IndexError>,
    ) -> Result<Vec<T>, IndexError> {
        use std::ops::Bound;
        self.read(table, |opened| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let range = opened
                .range::<&[u8]>((from, Bound::Unbounded))
                .map_err(IndexError::from_redb)?;
            let mut found = Vec::new();
            for row in range {
                if found.len() >= limit {
                    break;
                }
                let (key, value) = row.map_err(IndexError::from_redb)?;
                match take(key.value(), value.value())? {
                    Some(item) => found.push(item),
                    None => break,
                }
            }
            Ok(found)
        })
    }

    /// Writes changed rows and the checkpoint to which they belong, durably and all or nothing.
    pub(super) fn commit(&self, rows: &Rows, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        self.guarded(|database| {
            let write = database.begin_write().map_err(IndexError::from_redb)?;
            {
                let put = |table: Name, entries: &mut dyn Iterator<Item = RawRow>| {
                    let mut opened = write
                        .open_table(table.definition())
                        .map_err(IndexError::from_redb)?;
                    for (key, value) in entries {
                        match value {
                            Some(value) => opened
                                .insert(key.as_slice(), sealed(table, &key, &value).as_slice())
                                .map(drop),
                            None => opened.remove(key.as_slice()).map(drop),
                        }
                        .map_err(IndexError::from_redb)?;
                    }
                    Ok::<(), IndexError>(())
                };
                put(
                    Name::Blocks,
                    &mut rows.blocks.iter().map(|(id, row)| raw(&id.0, row)),
                )?;
                put(
                    Name::Claims,
                    &mut rows.claims.iter().map(|(id, row)| raw(&claim_key(id), row)),
                )?;
                put(
                    Name::Members,
                    &mut rows.members.iter().map(|((short, block), present)| {
                        (member_key(*short, block).to_vec(), present.then(Vec::new))
                    }),
                )?;
                put(
                    Name::Kv,
                    &mut rows.kv.iter().map(|(key, row)| raw(&key.0, row)),
                )?;
                put(
                    Name::Segments,
                    &mut rows
                        .segments
                        .iter()
                        .map(|(id, row)| raw(&id.to_be_bytes(), row)),
                )?;
                let meta = (CHECKPOINT_KEY.to_vec(), Some(checkpoint.encode()));
                put(Name::Meta, &mut std::iter::once(meta))?;
            }
            write.commit().map_err(IndexError::from_redb)
        })
    }
}

type RawRow = (Vec<u8>, Option<Vec<u8>>);

fn raw<T: Stored>(key: &[u8], row: &Option<T>) -> RawRow {
    (key.to_vec(), row.as_ref().map(Stored::encode))
}

fn open_table(read: &ReadTransaction, table: Name) -> Result<Opened, IndexError> {
    read.open_table(table.definition())
        .map_err(|error| match error {
            TableError::Storage(StorageError::Io(error)) => IndexError::Io(error),
            other => IndexError::Damaged(other.to_string()),
        })
}

fn get<T: Stored>(opened: &Opened, table: Name, key: &[u8]) -> Result<Option<T>, IndexError> {
    match opened.get(key).map_err(IndexError::from_redb)? {
        Some(bytes) => unpack(table, key, bytes.value()).map(Some),
        None => Ok(None),
    }
}

fn guard<T>(
    broken: &AtomicBool,
    work: impl FnOnce() -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    if broken.load(Ordering::Relaxed) {
        return Err(IndexError::Damaged("it failed before".to_owned()));
    }
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        broken.store(true, Ordering::Relaxed);
        Err(IndexError::Damaged("the database panicked".to_owned()))
    })
}

impl Drop for Tables {
    fn drop(&mut self) {
        let database = self.database.take();
        // Closing a damaged database may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }
}
