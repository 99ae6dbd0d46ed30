//! [`Disk`] on a directory of the machine.
//!
//! Everything goes through one directory handle, so a data directory can be moved while in use and
//! no path is remembered.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, fallocate,
    fdatasync, flock, fstat, fstatvfs, fsync, ftruncate, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::{Errno, pread, pwritev, retry_on_intr};

use super::direct::{DirectFile, DirectIo};
use super::disk::{Disk, DiskEntry, DiskFile};
use super::error::OpenError;

/// The file whose lock means that the directory is in use.
const LOCK_NAME: &str = "store.lock";
/// `writev` takes at most this many parts at once (IOV_MAX of Linux).
const PARTS_MAX: usize = 1024;
/// Directories nest at most so deep below the data directory.
const WALK_DEPTH_MAX: usize = 16;

/// A data directory of this machine, locked for this process while the value lives.
#[derive(Debug)]
pub struct RealDisk {
    root: OwnedFd,
    _lock: OwnedFd,
    direct: Arc<DirectIo>,
    /// Files opened so far.
    opened: AtomicU64,
}

impl RealDisk {
    /// Opens the directory, creating it (for the owner alone) if need be, and locks it.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if another process has it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let shown = path.display();
        if let Err(error) = std::fs::create_dir_all(path) {
            return Err(OpenError::io(format!("creating {shown}"))(error));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| OpenError::io(format!("opening {shown}"))(errno.into()))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&root, LOCK_NAME, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| OpenError::io(format!("opening {shown}/{LOCK_NAME}"))(errno.into()))?;
        match retry_on_intr(|| flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(RealDisk {
                root,
                _lock: lock,
                direct: Arc::default(),
                opened: AtomicU64::new(0),
            }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::InUse(shown.to_string())),
            Err(errno) => Err(OpenError::io(format!("locking {shown}"))(errno.into())),
        }
    }

    fn walk_dir(
        &self,
        name: &str,
        depth: usize,
        skip: &dyn Fn(&str) -> bool,
        found: &mut Vec<DiskEntry>,
    ) -> io::Result<()> {
        if depth > WALK_DEPTH_MAX {
            return Err(io::Error::other(format!("{name}: nested too deep")));
        }
        let dir = self.open_dir(name)?;
        for file in Dir::read_from(&dir)? {
            let file = file?;
            let bytes = file.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            let child = if name.is_empty() {
                String::from_utf8_lossy(bytes).into_owned()
            } else {
                format!("{name}/{}", String::from_utf8_lossy(bytes))
            };
            if skip(&child) {
                continue;
            }
            // A file may vanish between listing and looking; it then occupies nothing.
            let stat = match statat(&dir, OsStr::from_bytes(bytes), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            found.push(entry(child.clone(), &stat, is_dir));
            if is_dir {
                self.walk_dir(&child, depth + 1, skip, found)?;
            }
        }
        Ok(())
    }

    fn file(&self, file: OwnedFd) -> Arc<dyn DiskFile> {
        Arc::new(RealFile {
            file,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            direct: DirectFile::default(),
            io: Arc::clone(&self.direct),
        })
    }

    fn open_dir(&self, name: &str) -> io::Result<OwnedFd> {
        let path = if name.is_empty() { "." } else { name };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.root, path, flags, Mode::empty())?)
    }
}

fn entry(name: String, stat: &Stat, is_dir: bool) -> DiskEntry {
    DiskEntry {
        name,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: allocated(stat),
        is_dir,
    }
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Names come from this program; the check keeps a mistake inside the data directory.
fn checked(name: &str) -> io::Result<&str> {
    let plain = !name.is_empty()
        && !name.starts_with('/')
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        Ok(name)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is not a name inside the data directory"),
        ))
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&self.root, checked(name)?, flags, Mode::empty())?;
        Ok(self.file(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(&self.root, checked(name)?, flags, mode)?;
        Ok(self.file(file))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match mkdirat(&self.root, checked(name)?, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.root, checked(name)?, AtFlags::empty())?)
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.root, checked(name)?, AtFlags::REMOVEDIR)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(
            &self.root,
            checked(from)?,
            &self.root,
            checked(to)?,
        )?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(fsync(self.open_dir(dir)?)?)
    }

    fn walk(&self, skip: &dyn Fn(&str) -> bool) -> io::Result<Vec<DiskEntry>> {
        let mut found = vec![entry(String::new(), &fstat(&self.root)?, true)];
        self.walk_dir("", 0, skip, &mut found)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in Dir::read_from(self.open_dir(dir)?)? {
            // Names of ours are ASCII; others are of no interest here.
            if let Ok(name) = file?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// One file of a [`RealDisk`].
#[derive(Debug)]
struct RealFile {
    file: OwnedFd,
    /// Tells it from others of this disk.
    number: u64,
    direct: DirectFile,
    io: Arc<DirectIo>,
}

impl RealFile {
    /// Writes through the page cache.
    fn write_cached(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = rest.len().min(PARTS_MAX);
            let batch = rest.get(..count).unwrap_or_default();
            let written = retry_on_intr(|| pwritev(&self.file, batch, at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..)
            && !rest.is_empty()
        {
            let at = offset + done as u64;
            match retry_on_intr(|| pread(&self.file, &mut *rest, at))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            // The allocator may have given more room than asked for.
            let count = retry_on_intr(|| pread(&self.file, spare_capacity(&mut bytes), at))?;
            if count == 0 {
                break;
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let direct = self
            .io
            .read(&self.file, &self.direct, self.number, offset, len)?;
        match direct {
            Some(bytes) => Ok(bytes),
            None => self.read_vec(offset, len).map(Bytes::from),
        }
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let cached = |at, bytes: &[u8]| self.write_cached(at, &mut [IoSlice::new(bytes)]);
        match self
            .io
            .write(&self.file, &self.direct, offset, parts, cached)?
        {
            true => Ok(()),
            false => self.write_cached(offset, parts),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fdatasync(&self.file))?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| ftruncate(&self.file, len))?)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| fallocate(&self.file, flags, offset, len))?)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(allocated(&fstat(&self.file)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{read_small, write_atomic};

    #[test]
    fn one_process_per_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = RealDisk::open(dir.path()).unwrap();
        let second = RealDisk::open(dir.path()).unwrap_err();
        assert!(matches!(second, OpenError::InUse(_)), "{second}");
        drop(first);
        RealDisk::open(dir.path()).unwrap();
    }

    #[test]
    fn files_read_back_and_give_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        disk.create_dir("sub").unwrap();
        let file = disk.create("sub/a").unwrap();
        assert!(disk.create("sub/a").is_err());
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|i| vec![i as u8; 100]).collect();
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(0, &mut slices).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 300_000);
        assert_eq!(file.read_vec(0, 400_000).unwrap(), parts.concat());
        let mut end = [0; 200];
        assert_eq!(file.read_at(299_900, &mut end).unwrap(), 100);
        let before = file.allocated().unwrap();
        file.punch_hole(4096, 65_536).unwrap();
        assert_eq!(before - file.allocated().unwrap(), 65_536);
        assert_eq!(file.read_vec(4096, 4).unwrap(), [0; 4]);
        assert_eq!(disk.list("sub").unwrap(), ["a"]);
        let walked: u64 = disk
            .walk(&|_| false)
            .unwrap()
            .iter()
            .map(|e| e.allocated)
            .sum();
        assert!(walked >= file.allocated().unwrap());
        for name in ["", "/etc/x", "../x", "a/../b"] {
            assert!(disk.open(name).is_err(), "{name}");
        }
    }

    #[test]
    fn small_files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        assert_eq!(read_small(&disk, "x", 10).unwrap(), None);
        write_atomic(&disk, "x", b"one").unwrap();
        write_atomic(&disk, "x", b"two").unwrap();
        assert_eq!(read_small(&disk, "x", 10).unwrap().unwrap(), b"two");
        assert!(read_small(&disk, "x", 2).is_err());
    }
}
