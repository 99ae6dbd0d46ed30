//! Why a mount or unmount did not work, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::system;

/// Why a directory could not be mounted. Each message ends with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE.
    #[error(
        "/dev/fuse is missing: load the kernel module (`modprobe fuse`), or give the container the device"
    )]
    NoDevice,
    /// The device may not be opened.
    #[error("no permission to open /dev/fuse: it should have mode 0666; or run as root")]
    DeviceDenied,
    /// The helper for unprivileged users is not installed.
    #[error("fusermount3 was not found: install the package `fuse3`, or run as root")]
    NoHelper,
    /// Others may be let in only with the machine's consent.
    #[error(
        "`allow_other` needs a line `user_allow_other` in /etc/fuse.conf, which root must add; or mount without it"
    )]
    OtherDenied,
    /// Nothing there.
    #[error("{0} does not exist: create the directory first")]
    Absent(PathBuf),
    /// Not a directory.
    #[error("{0} is not a directory: choose a directory to mount on")]
    NotDirectory(PathBuf),
    /// Files would be hidden.
    #[error("{0} is not empty: the mount would hide what is in it; choose an empty directory")]
    NotEmpty(PathBuf),
    /// A mount whose process has died.
    #[error(
        "{0} is a mount whose process has ended (\"Transport endpoint is not connected\"): remove it with `fusermount3 -u {0}`, or as root `umount {0}`"
    )]
    Stale(PathBuf),
    /// May not be mounted on.
    #[error(
        "{0} must not be mounted on by this user: choose a directory that you own and can write to"
    )]
    Denied(PathBuf),
    /// The process may not mount, whoever it runs as: a container has taken the right from it.
    #[error(
        "{0} cannot be mounted on without the capability CAP_SYS_ADMIN: give it to the container (`docker run --cap-add SYS_ADMIN --device /dev/fuse`)"
    )]
    NoCapability(PathBuf),
    /// An option that only root may use: for others it would be dropped without a word.
    #[error("the option `{0}` is for root: mount as root, or without it")]
    RootOnly(&'static str),
    /// Anything else.
    #[error("{dir} could not be mounted: {source}")]
    Other {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// In use.
    #[error("{0} is in use: close the files open there (`fuser -vm {0}` lists who has them)")]
    Busy(PathBuf),
    /// Detached here, but alive elsewhere: another mount namespace or an open file holds it.
    #[error(
        "{0} was unmounted here, but something still holds the filesystem: an open file or another mount namespace"
    )]
    Held(PathBuf),
    /// Anything else.
    #[error("{dir} could not be unmounted: {source}")]
    Other {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether `dir` is a directory, by the word of what is mounted there. The kernel keeps attributes of a FUSE mount for
/// as long as it was told to, also when the process behind it has died: it is not asked.
pub fn ask_dir(dir: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
    match statx(CWD, dir, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE) {
        Ok(found) => Ok(FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory),
        // An old kernel, or a sandbox that does not know the call.
        Err(Errno::NOSYS) => Ok(std::fs::metadata(dir)?.is_dir()),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the directory before anything is done to it.
pub fn check_dir(dir: &Path, over_non_empty: bool) -> Result<(), MountError> {
    let fail = |source: io::Error| match Errno::from_io_error(&source) {
        Some(Errno::NOENT) => MountError::Absent(dir.into()),
        Some(Errno::NOTDIR) => MountError::NotDirectory(dir.into()),
        Some(Errno::NOTCONN | Errno::CONNABORTED) => MountError::Stale(dir.into()),
        Some(Errno::ACCESS | Errno::PERM) => MountError::Denied(dir.into()),
        _ => MountError::Other {
            dir: dir.into(),
            source,
        },
    };
    if !ask_dir(dir).map_err(fail)? {
        return Err(MountError::NotDirectory(dir.into()));
    }
    if !over_non_empty && std::fs::read_dir(dir).map_err(fail)?.next().is_some() {
        return Err(MountError::NotEmpty(dir.into()));
    }
    Ok(())
}

/// What the protocol crate's error means.
pub(super) fn name_error(dir: &Path, source: io::Error) -> MountError {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = device {
        return match error.kind() {
            io::ErrorKind::PermissionDenied => MountError::DeviceDenied,
            _ => MountError::NoDevice,
        };
    }
    let is_root = rustix::process::geteuid().is_root();
    if source.to_string().contains("user_allow_other") {
        return MountError::OtherDenied;
    }
    let has_helper = || system::run_helper(&["-V".as_ref()]).is_ok();
    if !is_root && (source.kind() == io::ErrorKind::NotFound || !has_helper()) {
        return MountError::NoHelper;
    }
    if !may_mount(is_root) {
        return MountError::NoCapability(dir.into());
    }
    if source.kind() == io::ErrorKind::PermissionDenied
        || source.to_string().contains("no write access")
    {
        return MountError::Denied(dir.into());
    }
    MountError::Other {
        dir: dir.into(),
        source,
    }
}

/// Whether this user may have anything mounted, in person or by the helper, which is root's.
fn may_mount(is_root: bool) -> bool {
    use rustix::thread::{CapabilitySet, capabilities, capability_is_in_bounding_set};
    let needed = CapabilitySet::SYS_ADMIN;
    let has = match is_root {
        true => capabilities(None).map(|own| own.effective.contains(needed)),
        false => capability_is_in_bounding_set(needed),
    };
    // Where that cannot be asked, it is not the reason.
    has.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_will_not_do_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert!(matches!(
            check_dir(&absent, false),
            Err(MountError::Absent(_))
        ));
        assert!(check_dir(dir.path(), false).is_ok());
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(
            check_dir(&file, false),
            Err(MountError::NotDirectory(_))
        ));
        let full = check_dir(dir.path(), false).unwrap_err();
        assert!(full.to_string().contains("not empty"), "{full}");
        assert!(check_dir(dir.path(), true).is_ok());
    }
}
