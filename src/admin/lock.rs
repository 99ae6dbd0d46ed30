//! The lock of a data directory: one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::base::{Class, Classify};

/// Name of the lock file within a data directory.
const LOCK_NAME: &str = "lock";

/// Why a data directory was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process works on it.
    #[error("the data directory {} is in use by process {pid}", dir.display())]
    Held {
        /// Which directory.
        dir: PathBuf,
        /// The process, as it wrote itself down; `?` if it has not yet.
        pid: String,
    },
    /// It cannot be made or opened.
    #[error("cannot use the data directory {}: {source}", dir.display())]
    Io {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Classify for LockError {
    fn class(&self) -> Class {
        match self {
            LockError::Held { .. } => Class::Retry,
            LockError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::Full,
                _ => Class::Denied,
            },
        }
    }
}

/// Held as long as it lives; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    _file: File,
}

impl DirLock {
    /// Locks `dir`, which is made, readable by its owner only, if there is none.
    ///
    /// # Errors
    /// If another process holds it, or the directory cannot be used. Never waits.
    pub fn acquire(dir: &Path) -> Result<DirLock, LockError> {
        let failed = |source| LockError::Io {
            dir: dir.to_owned(),
            source,
        };
        make_dir(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(LOCK_NAME))
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // Only for the message: without it the message says less.
                let _ = file.take(20).read_to_string(&mut pid);
                let pid = pid.trim();
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    pid: if pid.is_empty() { "?" } else { pid }.to_owned(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(DirLock {
            dir: dir.to_owned(),
            _file: file,
        })
    }

    /// The directory that is locked.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Makes `dir` and what of its ancestors is missing, so that they are still there after a power cut:
/// a synced file is worth nothing in a directory that nobody finds.
fn make_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for made in missing.into_iter().rev() {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match File::open(parent) {
            Ok(parent) => parent.sync_all()?,
            // One may write to a directory that one may not read; then it is up to the system.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        make_dir(&path).unwrap();
        make_dir(&path).unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            let mode = std::fs::metadata(dir.path().join(made))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_dir(&dir.path().join("file")).is_err());
        assert!(make_dir(&dir.path().join("file/below")).is_err());
    }

    #[test]
    fn one_at_a_time_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let lock = DirLock::acquire(&path).unwrap();
        let error = DirLock::acquire(&path).unwrap_err();
        let own = std::process::id().to_string();
        assert!(
            matches!(&error, LockError::Held { pid, .. } if *pid == own),
            "{error}"
        );
        drop(lock);
        DirLock::acquire(&path).unwrap();
    }
}
