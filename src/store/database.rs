//! The embedded database: the only file that names redb.
//!
//! redb checks the sums of its pages when it is told to check a whole file and nothing when it
//! reads; damaged pages make it answer nonsense, or panic. So every value carries a checksum of ours, and
//! every call goes through a guard that turns a panic into [`DatabaseError::Damaged`]. What to do then is
//! for the caller to say: an index is rebuilt from its log; the tables of a volume, which have no second
//! copy, lie on [`super::paged`] besides, which verifies each page that is read.

use std::borrow::Cow;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use super::disk::{DiskFile, write_all_at};
use super::paged::PagedFile;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Opened = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One table: its name, and the number that goes into its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) number: u8,
    pub(super) name: &'static str,
}

impl Table {
    const fn definition(self) -> Definition {
        TableDefinition::new(self.name)
    }

    fn damaged(self) -> DatabaseError {
        DatabaseError::Damaged(format!("a row of table `{}` does not verify", self.name))
    }
}

/// Why the database did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// It is not what was written.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// It met an error before and answers no longer; opened anew it may.
    #[error("the index failed before")]
    Stale,
    /// The disk under it failed.
    #[error("the index cannot be read or written: {0}")]
    Io(io::Error),
}

impl DatabaseError {
    fn from_redb(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                DatabaseError::Damaged(error.to_string())
            }
            redb::Error::Io(error) => DatabaseError::Io(error),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => DatabaseError::Stale,
            other => DatabaseError::Damaged(other.to_string()),
        }
    }
}

/// redb's storage on a file of the injected disk.
#[derive(Debug)]
pub(super) enum Medium {
    /// As it is; damage is met by [`How::is_checked`] and the checksums of values.
    Plain(Arc<dyn DiskFile>),
    /// Every page verified as it is read. Failed writes are told by the file, not by the database, which
    /// would not answer any more.
    Paged(Arc<PagedFile>),
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        match self {
            Medium::Plain(file) => file.len(),
            Medium::Paged(file) => Ok(file.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = match self {
            Medium::Plain(file) => file,
            Medium::Paged(file) => return file.read(offset, out),
        };
        if file.read_at(offset, out)? == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self {
            Medium::Plain(file) => file.set_len(len),
            Medium::Paged(file) => file.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self {
            Medium::Plain(file) => file.sync_data(),
            Medium::Paged(file) => file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Medium::Plain(file) => write_all_at(file.as_ref(), offset, data),
            Medium::Paged(file) => file.write(offset, data),
        }
    }
}

/// How a database is opened and written.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Memory for its pages.
    pub(super) cache_bytes: usize,
    /// Whether opening reads and checks the whole file.
    pub(super) is_checked: bool,
    /// Whether commits leave what makes an opening after a crash short (two-phase, with the state of
    /// the allocator); without, such an opening reads the whole file.
    pub(super) is_quick: bool,
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table.number]);
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

fn unseal<'a>(table: Table, key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], DatabaseError> {
    match bytes.split_at_checked(4) {
        Some((sum, value)) if sum == checksum(table, key, value) => Ok(value),
        _ => Err(table.damaged()),
    }
}

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    /// Taken out only by `drop`.
    inner: Option<redb::Database>,
    broken: Arc<AtomicBool>,
    how: How,
}

/// A key with its new value; `None` removes the row.
pub(super) type RawRow<'r> = (Cow<'r, [u8]>, Option<Cow<'r, [u8]>>);

/// Rows on their way into one commit.
pub(super) struct Batch<'t> {
    write: &'t redb::WriteTransaction,
    /// A sealed value, kept for its memory.
    sealed: Vec<u8>,
}

impl Batch<'_> {
    /// Changes rows of one table; sorted ones are the fastest.
    pub(super) fn put<'r>(
        &mut self,
        table: Table,
        rows: impl Iterator<Item = RawRow<'r>>,
    ) -> Result<(), DatabaseError> {
        let mut opened = self
            .write
            .open_table(table.definition())
            .map_err(DatabaseError::from_redb)?;
        for (key, value) in rows {
            match value {
                Some(value) => {
                    self.sealed.clear();
                    self.sealed
                        .extend_from_slice(&checksum(table, &key, &value));
                    self.sealed.extend_from_slice(&value);
                    opened.insert(&*key, self.sealed.as_slice()).map(drop)
                }
                None => opened.remove(&*key).map(drop),
            }
            .map_err(DatabaseError::from_redb)?;
        }
        Ok(())
    }
}

impl Database {
    /// Opens the database on `medium`, which may be empty, with these tables.
    pub(super) fn open(medium: Medium, how: How, tables: &[Table]) -> Result<Self, DatabaseError> {
        let broken = Arc::new(AtomicBool::new(false));
        let inner = guard(&broken, || {
            let mut builder = redb::Database::builder();
            builder.set_cache_size(how.cache_bytes);
            builder.set_check_integrity_on_open(how.is_checked);
            let database = builder
                .create_with_backend(medium)
                .map_err(DatabaseError::from_redb)?;
            let read = database.begin_read().map_err(DatabaseError::from_redb)?;
            let is_missing = tables.last().is_some_and(|table| {
                matches!(
                    read.open_table(table.definition()),
                    Err(TableError::TableDoesNotExist(_))
                )
            });
            if is_missing {
                // So that reading never meets a missing table.
                let mut write = database.begin_write().map_err(DatabaseError::from_redb)?;
                write.set_quick_repair(how.is_quick);
                for table in tables {
                    write
                        .open_table(table.definition())
                        .map_err(DatabaseError::from_redb)?;
                }
                write.commit().map_err(DatabaseError::from_redb)?;
            }
            Ok(database)
        })?;
        Ok(Database {
            inner: Some(inner),
            broken,
            how,
        })
    }

    /// Runs `work` on the database; a panic below means damage.
    fn guarded<T>(
        &self,
        work: impl FnOnce(&redb::Database) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        match &self.inner {
            Some(database) => guard(&self.broken, || work(database)),
            None => Err(DatabaseError::Damaged("it is closed".to_owned())),
        }
    }

    /// A table as the last commit left it. It stays as it is; while it lives, the pages that later
    /// commits replace are kept.
    pub(super) fn snapshot(&self, table: Table) -> Result<Snapshot, DatabaseError> {
        self.guarded(|database| {
            let read = database.begin_read().map_err(DatabaseError::from_redb)?;
            let opened = read
                .open_table(table.definition())
                .map_err(|error| match error {
                    TableError::Storage(error) => DatabaseError::from_redb(error),
                    other => DatabaseError::Damaged(other.to_string()),
                })?;
            Ok(Snapshot {
                table,
                opened,
                broken: Arc::clone(&self.broken),
            })
        })
    }

    /// Writes rows, durably and all or nothing.
    pub(super) fn commit(
        &self,
        fill: impl FnOnce(&mut Batch<'_>) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
        self.guarded(|database| {
            let mut write = database.begin_write().map_err(DatabaseError::from_redb)?;
            write.set_quick_repair(self.how.is_quick);
            let mut batch = Batch {
                write: &write,
                sealed: Vec::new(),
            };
            fill(&mut batch)?;
            write.commit().map_err(DatabaseError::from_redb)
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let database = self.inner.take();
        // Closing a damaged database may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }
}

/// One table as it was after one commit. Usable from many threads.
pub(super) struct Snapshot {
    table: Table,
    opened: Opened,
    broken: Arc<AtomicBool>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.table.name)
    }
}

impl Snapshot {
    /// The row with this key, as `decode` reads its verified value.
    pub(super) fn get<T>(
        &self,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, DatabaseError> {
        guard(&self.broken, || {
            match self.opened.get(key).map_err(DatabaseError::from_redb)? {
                Some(bytes) => decode(unseal(self.table, key, bytes.value())?)
                    .map(Some)
                    .ok_or_else(|| self.table.damaged()),
                None => Ok(None),
            }
        })
    }

    /// Rows between two keys, verified and in order (or in reverse), as long as `take` says so.
    pub(super) fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        is_reversed: bool,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<bool, DatabaseError>,
    ) -> Result<(), DatabaseError> {
        guard(&self.broken, || {
            let mut rows = self
                .opened
                .range::<&[u8]>((from, to))
                .map_err(DatabaseError::from_redb)?;
            loop {
                let row = match is_reversed {
                    false => rows.next(),
                    true => rows.next_back(),
                };
                let Some(row) = row else { return Ok(()) };
                let (key, value) = row.map_err(DatabaseError::from_redb)?;
                let key = key.value();
                if !take(key, unseal(self.table, key, value.value())?)? {
                    return Ok(());
                }
            }
        })
    }

    /// What to say of a row of this table that is not what it should be.
    pub(super) fn damaged(&self) -> DatabaseError {
        self.table.damaged()
    }
}

fn guard<T>(
    broken: &AtomicBool,
    work: impl FnOnce() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    if broken.load(Ordering::Relaxed) {
        return Err(DatabaseError::Stale);
    }
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        broken.store(true, Ordering::Relaxed);
        Err(DatabaseError::Damaged("the database panicked".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, MemDisk};
    use super::*;

    const TABLE: Table = Table {
        number: 3,
        name: "things",
    };
    const HOW: How = How {
        cache_bytes: 0,
        is_checked: false,
        is_quick: false,
    };

    fn opened(disk: &MemDisk) -> Database {
        let file = disk.open("db").or_else(|_| disk.create("db")).unwrap();
        Database::open(Medium::Plain(file), HOW, &[TABLE]).unwrap()
    }

    fn value(database: &Database, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
        let read = database.snapshot(TABLE)?;
        read.get(key, |bytes| Some(bytes.to_vec()))
    }

    #[test]
    fn a_value_with_any_byte_changed_is_damaged_and_not_given() {
        let disk = MemDisk::new(1 << 30);
        let rows = [(b"one", [0xa1_u8; 24]), (b"two", [0xb2; 24])];
        let database = opened(&disk);
        let commit = |batch: &mut Batch<'_>| {
            let rows = rows.iter();
            batch.put(
                TABLE,
                rows.map(|(key, value)| (Cow::Borrowed(&key[..]), Some(Cow::Borrowed(&value[..])))),
            )
        };
        database.commit(commit).unwrap();
        drop(database);
        let file = disk.open("db").unwrap();
        let bytes = file.read_vec(0, file.len().unwrap() as usize).unwrap();
        let starts: Vec<usize> = (0..bytes.len() - 24)
            .filter(|at| bytes[*at..].starts_with(&[0xa1; 24]))
            .collect();
        assert!(!starts.is_empty());
        // The value, and the sum before it.
        for offset in 0..28 {
            for start in &starts {
                assert!(disk.flip_bit("db", (start - 4 + offset) as u64, (offset % 8) as u8));
            }
            let database = opened(&disk);
            let read = value(&database, b"one");
            assert!(matches!(read, Err(DatabaseError::Damaged(_))), "{read:?}");
            let whole = database.snapshot(TABLE).unwrap().range(
                Bound::Unbounded,
                Bound::Unbounded,
                false,
                |_, _| Ok(true),
            );
            assert!(matches!(whole, Err(DatabaseError::Damaged(_))), "{whole:?}");
            // Others are not concerned, and damage of a row breaks nothing.
            assert_eq!(value(&database, b"two").unwrap(), Some(vec![0xb2; 24]));
            drop(database);
            for start in &starts {
                disk.flip_bit("db", (start - 4 + offset) as u64, (offset % 8) as u8);
            }
        }
        assert_eq!(value(&opened(&disk), b"one").unwrap(), Some(vec![0xa1; 24]));
    }

    #[test]
    fn a_value_counts_under_its_own_key_and_table_only() {
        let sealed = [&checksum(TABLE, b"one", b"value")[..], b"value"].concat();
        assert_eq!(unseal(TABLE, b"one", &sealed).unwrap(), b"value");
        assert!(unseal(TABLE, b"two", &sealed).is_err());
        let other = Table { number: 4, ..TABLE };
        assert!(unseal(other, b"one", &sealed).is_err());
        assert!(unseal(TABLE, b"one", &sealed[..3]).is_err());
    }

    #[test]
    fn a_panic_is_damage_and_after_it_nothing_is_answered() {
        let database = opened(&MemDisk::new(1 << 30));
        assert_eq!(value(&database, b"one").unwrap(), None);
        let read = database.snapshot(TABLE).unwrap();
        let panicked: Result<(), _> = database.guarded(|_| panic!("as redb does"));
        assert!(matches!(panicked, Err(DatabaseError::Damaged(_))));
        assert!(matches!(
            value(&database, b"one"),
            Err(DatabaseError::Stale)
        ));
        // Also for what was begun before.
        let stale = read.get(b"one", |_| Some(()));
        assert!(matches!(stale, Err(DatabaseError::Stale)), "{stale:?}");
        let written = database.commit(|_| Ok(()));
        assert!(matches!(written, Err(DatabaseError::Stale)));
    }
}
