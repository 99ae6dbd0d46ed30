//! The directory that a volume is mounted on: what may stand in the way, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairnfs_fuse::kernel::{
    MountError, UnmountError, absolute, ask_dir, check_dir, mounted_type, unmount_dir,
};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::admin::AdminError;

/// The type under which the kernel lists our mounts.
const KIND: &str = "fuse.cairn";
/// Dead mounts that are taken off one directory, at most.
const STACKED_MAX: usize = 16;

/// How long a directory may take to answer: a disk that sleeps wakes up within that.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Directories that are looked at, or mounted on, at once. What hangs holds its thread for as long as it hangs.
static LOOKS: Semaphore = Semaphore::const_new(16);

/// Runs what looks at `dir` on a thread of its own, for a limited time: a server that is gone, or a process that was
/// stopped, may be behind it.
///
/// # Errors
/// If it takes longer. Then it may still go on.
pub(super) async fn in_time<T: Send + 'static>(
    dir: &Path,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdminError> {
    let look = async {
        let turn = LOOKS.acquire().await;
        let looking = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        looking
            .await
            .map_err(|panic| AdminError::failed(panic.to_string()))
    };
    match tokio::time::timeout(limit, look).await {
        Ok(done) => done,
        Err(_) => Err(AdminError::failed(format!(
            "{} does not answer: what is mounted there, or on a directory above it, hangs",
            dir.display()
        ))
        .hint(
            "choose another directory; /proc/mounts tells what is mounted where, and `umount -l` as root takes it off",
        )),
    }
}

/// Whether a directory answers at all.
///
/// # Errors
/// If it does not, within [`ANSWER_MAX`].
pub(super) async fn answers(dir: &Path) -> Result<(), AdminError> {
    let asked = dir.to_owned();
    // Whatever else is wrong with it, `prepare` tells.
    in_time(dir, ANSWER_MAX, move || drop(ask_dir(&asked))).await
}

/// Makes `dir` ready to be mounted on: takes off what a process that died has left there. Answers the
/// path as the kernel will list it. Blocks.
///
/// # Errors
/// If it cannot be mounted on, with the remedy.
pub(super) fn prepare(dir: &Path, over_non_empty: bool) -> Result<PathBuf, AdminError> {
    umount_dead(dir)?;
    let kind = || mounted_type(dir).map_err(|error| unusable(dir, &error));
    if dir.exists() && kind()?.as_deref() == Some(KIND) {
        return Err(AdminError::refused(format!(
            "a volume is mounted on {} already",
            dir.display()
        ))
        .hint(format!(
            "choose another directory, or unmount it: cairn umount {}",
            dir.display()
        )));
    }
    check_dir(dir, over_non_empty).map_err(|error| mount_error(&error))?;
    absolute(dir).map_err(|error| unusable(dir, &error))
}

/// Takes off a directory what a process of ours that has died left mounted there, and nothing else. Blocks.
///
/// # Errors
/// If that stays there, with the remedy.
pub fn umount_dead(dir: &Path) -> Result<(), AdminError> {
    // Whatever else is wrong with it, whoever mounts there tells.
    let Ok(real) = absolute(dir) else {
        return Ok(());
    };
    for _ in 0..STACKED_MAX {
        let kind = mounted_type(&real).map_err(|error| unusable(dir, &error))?;
        if kind.as_deref() != Some(KIND) || !is_stale(&real) {
            break;
        }
        unmount_dir(&real, true).map_err(|error| unmount_error(&error))?;
        tracing::info!("took off {} what a dead process had mounted", dir.display());
    }
    Ok(())
}

/// Whether what is mounted there has lost its process; the second error is that of a request which was
/// waiting for it.
fn is_stale(dir: &Path) -> bool {
    let error = ask_dir(dir).err();
    let error = error.and_then(|error| Errno::from_io_error(&error));
    matches!(error, Some(Errno::NOTCONN | Errno::CONNABORTED))
}

fn unusable(dir: &Path, error: &io::Error) -> AdminError {
    AdminError::failed(format!("cannot use {}: {error}", dir.display())).hint(format!(
        "see whether it can be reached (`ls -ld {}`), or choose another directory",
        dir.display()
    ))
}

/// Unmounts a volume that no running peer answers for: its process has died, or works on another data
/// directory and will notice. Blocks.
///
/// # Errors
/// If nothing of ours is mounted there, or it is in use.
pub fn umount_left(dir: &Path, is_lazy: bool) -> Result<(), AdminError> {
    let shown = dir.display();
    // Without links: what is unmounted is the directory itself.
    let found = absolute(dir).and_then(|dir| mounted_type(&dir).map(|kind| (dir, kind)));
    let (dir, kind) = match found {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AdminError::missing(format!("{shown} does not exist")));
        }
        Err(error) => return Err(unusable(dir, &error)),
    };
    match kind.as_deref() {
        Some(KIND) => {}
        None => {
            let error = AdminError::missing(format!("nothing is mounted on {shown}"));
            return Err(error.hint("`cairn status` tells what is mounted where"));
        }
        Some(other) => {
            return Err(AdminError::refused(format!(
                "what is mounted on {shown} is no volume of cairn, but of type {other}"
            ))
            .hint(format!("umount {shown}")));
        }
    }
    unmount_dir(&dir, is_lazy).map_err(|error| unmount_error(&error))
}

/// Why a directory was not mounted, and what to do.
pub(super) fn mount_error(error: &MountError) -> AdminError {
    match error {
        MountError::NoDevice => AdminError::failed("there is no /dev/fuse").hint(format!(
            "load the kernel module (`modprobe fuse`), or give the container the device: {CONTAINER}"
        )),
        MountError::DeviceDenied => AdminError::refused("no permission to open /dev/fuse")
            .hint("it should have mode 0666 (`chmod 666 /dev/fuse` as root); or run as root"),
        MountError::NoHelper => AdminError::failed("fusermount3 was not found")
            .hint("install the package `fuse3` (on Debian: apt-get install fuse3), or run as root"),
        MountError::OtherDenied => AdminError::refused(
            "other users may be let in only if /etc/fuse.conf has a line `user_allow_other`",
        )
        .hint("have root add that line, or mount without --allow-other"),
        MountError::Absent(dir) => AdminError::missing(format!("{} does not exist", dir.display()))
            .hint(format!("create it first: mkdir {}", dir.display())),
        MountError::NotDirectory(dir) => {
            AdminError::usage(format!("{} is not a directory", dir.display()))
                .hint("choose a directory to mount on")
        }
        MountError::NotEmpty(dir) => AdminError::refused(format!(
            "{} is not empty: the mount would hide what is in it",
            dir.display()
        ))
        .hint("choose an empty directory, or mount over it with -o nonempty"),
        MountError::Stale(dir) => AdminError::failed(format!(
            "{} is a mount of another program whose process has ended",
            dir.display()
        ))
        .hint(format!(
            "remove it with `fusermount3 -u {0}`, or as root `umount {0}`",
            dir.display()
        )),
        MountError::Denied(dir) => {
            AdminError::refused(format!("this user must not mount on {}", dir.display()))
                .hint("choose a directory that you own and can write to; for root a policy of the machine is in the way \
                       (AppArmor, SELinux), in a container often one that `--security-opt apparmor=unconfined` lifts")
        }
        MountError::NoCapability(dir) => AdminError::refused(format!(
            "this process must not mount on {}, nor anywhere else: it lacks the capability CAP_SYS_ADMIN",
            dir.display()
        ))
        .hint(format!(
            "in a container, give it that one: {CONTAINER}; or mount outside of it, and hand the directory in"
        )),
        MountError::RootOnly(name) => {
            AdminError::refused(format!("only a peer that runs as root may mount with -o {name}"))
                .hint("leave that option out, or mount as root")
        }
        MountError::Other { dir, .. } => AdminError::failed(error.to_string()).hint(format!(
            "`dmesg` may tell more; a policy of the machine (AppArmor, SELinux, seccomp) may forbid it; \
             whether anything can be mounted there shows `mount -t tmpfs none {}` as root",
            dir.display()
        )),
    }
}

/// How a container is allowed to mount.
const CONTAINER: &str = "docker run --cap-add SYS_ADMIN --device /dev/fuse";

/// Why something is still mounted, and what to do.
pub(super) fn unmount_error(error: &UnmountError) -> AdminError {
    match error {
        UnmountError::Busy(dir) => {
            let dir = dir.display();
            AdminError::refused(format!("{dir} is in use")).hint(format!(
                "close what is open there (`lsof {dir}` or `fuser -vm {dir}` tells who has it), \
                 or take it away all the same: cairn umount --lazy {dir}"
            ))
        }
        UnmountError::Held(dir) => AdminError::failed(error.to_string()).hint(format!(
            "end what uses it, also in containers that were started meanwhile: `grep -l '{} ' /proc/*/mounts` finds \
             processes that still see it; until then the volume cannot be mounted again",
            dir.display()
        )),
        UnmountError::Other { dir, .. } => AdminError::failed(error.to_string()).hint(format!(
            "do it as the user who mounted it: `fusermount3 -u {0}`; or as root: `umount {0}`",
            dir.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Exit;

    #[test]
    fn every_obstacle_has_a_remedy() {
        let dir = || PathBuf::from("/d");
        let odd = || io::Error::from(Errno::IO);
        for (error, class) in [
            (MountError::NoDevice, Exit::Failed),
            (MountError::DeviceDenied, Exit::Refused),
            (MountError::NoHelper, Exit::Failed),
            (MountError::OtherDenied, Exit::Refused),
            (MountError::Absent(dir()), Exit::Missing),
            (MountError::NotDirectory(dir()), Exit::Usage),
            (MountError::NotEmpty(dir()), Exit::Refused),
            (MountError::Stale(dir()), Exit::Failed),
            (MountError::Denied(dir()), Exit::Refused),
            (MountError::NoCapability(dir()), Exit::Refused),
            (MountError::RootOnly("suid"), Exit::Refused),
            (
                MountError::Other {
                    dir: dir(),
                    source: odd(),
                },
                Exit::Failed,
            ),
        ] {
            let shown = mount_error(&error);
            assert!(shown.hint.is_some(), "{shown}");
            assert_eq!(shown.class, class, "{shown}");
        }
        let busy = unmount_error(&UnmountError::Busy(dir()));
        assert_eq!(busy.class, Exit::Refused);
        assert!(busy.hint.is_some_and(|hint| hint.contains("--lazy")));
        let other = UnmountError::Other {
            dir: dir(),
            source: odd(),
        };
        for error in [UnmountError::Held(dir()), other] {
            let shown = unmount_error(&error);
            assert_eq!(shown.class, Exit::Failed);
            assert!(shown.hint.is_some_and(|hint| hint.contains("/d")));
        }
        assert!(unusable(&dir(), &odd()).hint.is_some());
    }

    #[test]
    fn directories_are_looked_at_before_anything_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let absent = prepare(&dir.path().join("absent"), false).unwrap_err();
        assert_eq!(absent.class, Exit::Missing);
        let link = dir.path().join("link");
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let prepared = prepare(&link, false).unwrap();
        assert_eq!(prepared, real.canonicalize().unwrap());
        let full = prepare(dir.path(), false).unwrap_err();
        assert_eq!(full.class, Exit::Refused);
        prepare(dir.path(), true).unwrap();
        let nothing = umount_left(&real, false).unwrap_err();
        assert_eq!(nothing.class, Exit::Missing);
        let other = umount_left(Path::new("/proc"), false).unwrap_err();
        assert_eq!(other.class, Exit::Refused);
        assert!(other.error.contains("type proc"), "{other}");
    }
}
