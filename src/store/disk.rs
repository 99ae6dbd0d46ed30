//! The storage medium as the store sees it: one directory of flat files, injected.
//!
//! Calls block; they are made on the disk pool only. Names are relative to the data directory and
//! use `/`; nothing here or above ever stores an absolute path.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;

/// One open file. Usable from many threads; stays readable after it was removed.
pub trait DiskFile: Send + Sync + Debug + 'static {
    /// Bytes up to the end of the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Reads into `buffer` at `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Reads `len` bytes at `offset`; fewer only at the end of the file.
    fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Like [`DiskFile::read_vec`], for data that is probably not read again soon.
    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read_vec(offset, len).map(Bytes::from)
    }

    /// Writes all of `parts`, one after the other, at `offset`. Extends the file if need be.
    ///
    /// # Errors
    /// After an error any prefix may have been written.
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Makes what was written, and the length, survive a power loss.
    ///
    /// # Errors
    /// After an error nothing is known of what was written since the last success, and trying
    /// again would prove nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives the space of a range back; it then reads as zeros. The length stays.
    ///
    /// # Errors
    /// `Unsupported` where the filesystem cannot.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Bytes the file occupies on the disk (`st_blocks` x 512).
    fn allocated(&self) -> io::Result<u64>;
}

/// One thing in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// Name relative to the data directory; empty for the directory itself.
    pub name: String,
    /// Bytes up to its end.
    pub len: u64,
    /// Bytes it occupies on the disk.
    pub allocated: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// One data directory, held exclusively by this process while the value lives.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file. Its name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists` if there is one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory if there is none.
    fn create_dir(&self, name: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove_dir(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes creations, removals and renames in a directory (empty: the data directory) durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Everything below the data directory, and itself, sorted by name. Files for whose name
    /// `skip` answers true are left out without being looked at.
    fn walk(&self, skip: &dyn Fn(&str) -> bool) -> io::Result<Vec<DiskEntry>>;

    /// Names of the files in one directory, sorted, without the directory's name.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Bytes of the whole disk that unprivileged users may still fill.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Whether an error says that there is no room (disk or file system quota).
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Writes one buffer at `offset`.
pub(super) fn write_all_at(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &mut [IoSlice::new(bytes)])
}

/// Writes a small file so that a crash leaves the old or the new one.
pub fn write_atomic(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    write_all_at(file.as_ref(), 0, bytes)?;
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir(name.rsplit_once('/').map_or("", |(dir, _)| dir))
}

/// Reads a small file whole; `None` if there is none.
///
/// # Errors
/// `InvalidData` if it is longer than `limit`.
pub fn read_small(disk: &dyn Disk, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.read_vec(0, limit + 1)?;
    if bytes.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} is longer than {limit} bytes"),
        ));
    }
    Ok(Some(bytes))
}
