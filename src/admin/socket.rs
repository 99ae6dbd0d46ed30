//! A Unix socket in a directory of any depth.
//!
//! The kernel takes socket paths of at most 107 bytes, so the directory is opened first and the
//! path goes through its descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, open, openat, unlinkat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::net::{UnixListener, UnixStream};

/// Name of the socket within a data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Longest path that `sockaddr_un` takes, without its final zero.
const SUN_PATH_MAX: usize = 107;
const BACKLOG: i32 = 64;

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(dir, flags, Mode::empty())?)
}

/// The socket's path; through `/proc` only where the plain one is too long.
fn socket_path(dir: &Path, opened: &OwnedFd) -> PathBuf {
    let plain = dir.join(SOCKET_NAME);
    if plain.as_os_str().len() <= SUN_PATH_MAX {
        return plain;
    }
    PathBuf::from(format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        opened.as_raw_fd()
    ))
}

/// Listens in `dir`. A socket left by a dead process is replaced: the caller holds the lock.
pub(super) fn listen_in(dir: &Path) -> io::Result<UnixListener> {
    let opened = open_dir(dir)?;
    remove_from(&opened)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Before `bind`, so that the file never has a wider mode.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(socket_path(dir, &opened))?)?;
    listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// The socket of one process, as long as it listens: also after its name is gone, which is so while
/// the process waits for the clients that it has.
pub(super) struct Door {
    dir: PathBuf,
    socket: OwnedFd,
}

impl Door {
    /// The socket that is in `dir` now.
    pub(super) fn find(dir: &Path) -> io::Result<Door> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(open_dir(dir)?, SOCKET_NAME, flags, Mode::empty())?;
        Ok(Door {
            dir: dir.to_owned(),
            socket,
        })
    }

    /// Connects to the process behind it.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let opened = format!("/proc/self/fd/{}", self.socket.as_raw_fd());
        match UnixStream::connect(opened).await {
            // Without `/proc` only the name is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let opened = open_dir(&self.dir)?;
                let stream = UnixStream::connect(socket_path(&self.dir, &opened)).await;
                drop(opened);
                stream
            }
            connected => connected,
        }
    }
}

/// Whether a process listens in `dir` now. Blocks, for as long as the kernel takes to say.
pub fn is_served(dir: &Path) -> bool {
    let connect = || {
        let opened = open_dir(dir)?;
        std::os::unix::net::UnixStream::connect(socket_path(dir, &opened))
    };
    connect().is_ok()
}

/// Removes the socket from `dir`, if there is one.
pub(super) fn remove_in(dir: &Path) -> io::Result<()> {
    remove_from(&open_dir(dir)?)
}

fn remove_from(dir: &OwnedFd) -> io::Result<()> {
    match unlinkat(dir, SOCKET_NAME, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
