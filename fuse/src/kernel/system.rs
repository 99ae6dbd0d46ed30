//! What the kernel shows and takes beside the FUSE device: the list of mounts and `/sys`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::error::UnmountError;

/// A mount as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Major and minor number of its device; the minor also names its FUSE connection.
    pub(super) device: (u32, u32),
    /// The type of its filesystem.
    pub(super) kind: String,
}

/// The type of the filesystem that is mounted on `dir`, if one is. Asks the kernel's list, never the
/// filesystem, which may hang or be dead.
pub fn mounted_type(dir: &Path) -> io::Result<Option<String>> {
    let dir = absolute(dir)?;
    Ok(find_mount(&dir)?.map(|listed| listed.kind))
}

/// Unmounts what this process did not mount itself. Lazily: takes it out of the tree at once, and what
/// is open goes on working until it is closed.
pub fn unmount_dir(dir: &Path, is_lazy: bool) -> Result<(), UnmountError> {
    unmount(dir, is_lazy).map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => UnmountError::Busy(dir.into()),
        _ => UnmountError::Other {
            dir: dir.into(),
            source,
        },
    })
}

/// The topmost mount on a directory, without asking the filesystem itself.
pub(super) fn find_mount(dir: &Path) -> io::Result<Option<Listed>> {
    let list = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mounts(&list, dir.as_os_str().as_bytes()))
}

fn parse_mounts(list: &[u8], dir: &[u8]) -> Option<Listed> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    let mut mounts = list.split(|b| *b == b'\n').rev().filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let device = fields.nth(2)?;
        let place = fields.nth(1)?;
        let mut device = device.split(|b| *b == b':');
        let device = (number(device.next()?)?, number(device.next()?)?);
        // A number of optional fields comes before the hyphen.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let kind = String::from_utf8_lossy(kind).into_owned();
        (unescape(place) == dir).then_some(Listed { device, kind })
    });
    mounts.next()
}

/// The list writes blanks and the like as a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a, b, c, ..] if *first == b'\\' => std::str::from_utf8(&[*a, *b, *c])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// Lets the kernel read further ahead on this mount than FUSE may negotiate. Root only.
pub(super) fn set_read_ahead(mount: &Listed, bytes: u32) -> io::Result<()> {
    let (major, minor) = mount.device;
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(file, (bytes / 1024).to_string())
}

/// Ends the connection whatever holds it: every waiting process gets an error. Root only.
pub(super) fn abort(mount: &Listed) -> io::Result<()> {
    let file = format!("/sys/fs/fuse/connections/{}/abort", mount.device.1);
    std::fs::write(file, "1")
}

/// Unmounts; through the helper where the kernel does not let this user. `EBUSY` while in use.
pub(super) fn unmount(dir: &Path, is_lazy: bool) -> io::Result<()> {
    let mut flags = rustix::mount::UnmountFlags::NOFOLLOW;
    flags.set(rustix::mount::UnmountFlags::DETACH, is_lazy);
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => (),
        // No mount there: someone was faster.
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let option = if is_lazy { "-uz" } else { "-u" };
    let output = run_helper(&[OsStr::new(option), OsStr::new("--"), dir.as_os_str()])?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    if said.contains("not found in /etc/mtab") || said.contains("not mounted") {
        return Ok(());
    }
    Err(io::Error::other(said))
}

/// Runs the helper of unprivileged users, also where the search path lacks it: it was found there
/// for mounting.
pub(super) fn run_helper(arguments: &[&OsStr]) -> io::Result<Output> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    for helper in [
        "fusermount3",
        "/usr/bin/fusermount3",
        "/bin/fusermount3",
        "/sbin/fusermount3",
    ] {
        result = Command::new(helper).args(arguments).output();
        // Denied: the search path may have a directory that this user must not look into.
        let is_absent = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            )
        };
        if !result.as_ref().is_err_and(is_absent) {
            break;
        }
    }
    result
}

/// The path as the list of mounts has it, found without a request to what is mounted there.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_a_directory_counts() {
        let list = b"22 1 8:1 / / rw - ext4 /dev/sda rw\n\
            30 22 0:40 / /mnt/a\\040b rw,nosuid - fuse.cairn cairn rw\n\
            31 22 0:41 / /mnt/a\\040b rw,nosuid - fuse.cairn cairn rw\n";
        let found = parse_mounts(list, b"/mnt/a b").unwrap();
        assert_eq!((found.device, found.kind.as_str()), ((0, 41), "fuse.cairn"));
        assert_eq!(parse_mounts(list, b"/mnt"), None);
    }
}
