//! A tree, made in a fresh directory that nobody else can enter until it is whole.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, chmodat, fchmod, futimens, linkat, mkdirat,
    openat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;

use super::{Frame, Frames, Place, Received, nonsense};
use crate::admin::AdminError;
use crate::admin::transfer::Content;
use crate::base::limits::TREE_DEPTH_MAX;
use crate::cli::failure::{Failure, file_error};
use crate::content::{Head, HeadKind};
use crate::dag::{Meta, Timestamp};

const OWNER_ALL: u16 = 0o700;

/// A directory that is being filled.
struct Level {
    fd: OwnedFd,
    /// Bytes of the path before this directory's own name.
    path_len: usize,
    meta: Meta,
}

/// A file that is being filled.
struct OpenFile {
    content: Content,
    path_len: usize,
    meta: Meta,
}

struct Builder<'p> {
    /// Where the tree will be, for messages.
    target: &'p Path,
    /// Path of what is open, from the root of the tree.
    path: Vec<u8>,
    /// Open directories, the root first. Empty when the root was left.
    levels: Vec<Level>,
    file: Option<OpenFile>,
    /// Modes that would have shut ourselves out, for the end.
    withheld: Vec<(Vec<u8>, Meta)>,
    received: Received,
}

pub(super) fn write(path: &Path, frames: &mut Frames) -> Result<Received, Failure> {
    let place = Place::beside(path)?;
    let made = mkdirat(&place.parent, &place.temporary, Mode::RWXU)
        .and_then(|()| open_dir(&place.parent, place.temporary.as_bytes()));
    let root = made.map_err(|error| file_error("make", path, &error.into()))?;
    let written = fill(root, path, frames).and_then(|received| {
        place.commit()?;
        Ok(received)
    });
    if written.is_err() {
        let parent = path.parent().unwrap_or(Path::new(""));
        remove(&parent.join(&place.temporary));
    }
    Ok(written?)
}

/// Removes a tree of ours, also where modes that were set already are in the way.
fn remove(root: &Path) {
    if std::fs::remove_dir_all(root).is_ok() {
        return;
    }
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        // What cannot be changed cannot be removed either, which the last call finds out.
        let _ = chmodat(rustix::fs::CWD, &dir, Mode::RWXU, AtFlags::empty());
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        dirs.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    // A leftover has a name that says what it is.
    let _ = std::fs::remove_dir_all(root);
}

fn open_dir(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
}

fn timestamps(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn mode(meta: Meta) -> Mode {
    Mode::from_raw_mode(meta.mode.into())
}

fn fill(root: OwnedFd, target: &Path, frames: &mut Frames) -> Result<Received, AdminError> {
    let meta = match frames.next()? {
        Frame::Entry(Head {
            name,
            kind: HeadKind::Directory { meta },
        }) if name.is_empty() => meta,
        _ => return Err(nonsense(&"a tree without a root")),
    };
    let mut builder = Builder {
        target,
        path: Vec::new(),
        levels: vec![Level {
            fd: root,
            path_len: 0,
            meta,
        }],
        file: None,
        withheld: Vec::new(),
        received: Received::default(),
    };
    while !builder.levels.is_empty() {
        builder.frame(frames.next()?)?;
    }
    Ok(builder.received)
}

impl Builder<'_> {
    fn shown(&self) -> PathBuf {
        self.target.join(OsStr::from_bytes(&self.path))
    }

    fn failed(&self, what: &str, error: Errno) -> AdminError {
        file_error(what, &self.shown(), &error.into())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), AdminError> {
        let written = match (frame, &mut self.file) {
            (Frame::Data(bytes), Some(file)) => file.content.data(&bytes),
            (Frame::Hole(bytes), Some(file)) => file.content.hole(bytes),
            (Frame::End, Some(_)) => return self.close_file(),
            (Frame::End, None) => return self.leave(),
            (Frame::Entry(head), None) => return self.entry(&head),
            (Frame::Entry(_), Some(_)) => return Err(nonsense(&"an entry within a file")),
            (Frame::Data(_) | Frame::Hole(_), None) => {
                return Err(nonsense(&"content without a file"));
            }
            // Taken out by `Frames`.
            (Frame::Error(_), _) => Ok(()),
        };
        written.map_err(|error| self.failed("write", error))
    }

    fn close_file(&mut self) -> Result<(), AdminError> {
        let Some(OpenFile {
            content,
            path_len,
            meta,
        }) = self.file.take()
        else {
            return Ok(());
        };
        let closed = content.finish().and_then(|(file, size_bytes)| {
            fchmod(&file, mode(meta))?;
            futimens(&file, &timestamps(meta.mtime))?;
            Ok(size_bytes)
        });
        self.received.size_bytes += closed.map_err(|error| self.failed("write", error))?;
        self.path.truncate(path_len);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), AdminError> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        let is_open = level.meta.mode & OWNER_ALL == OWNER_ALL;
        let left = if is_open {
            fchmod(&level.fd, mode(level.meta))
        } else {
            self.withheld.push((self.path.clone(), level.meta));
            Ok(())
        };
        left.and_then(|()| futimens(&level.fd, &timestamps(level.meta.mtime)))
            .map_err(|error| self.failed("finish", error))?;
        self.path.truncate(level.path_len);
        if self.levels.is_empty() {
            self.finish_withheld(&level.fd)?;
            // One call makes all of it durable.
            syncfs(&level.fd).map_err(|error| self.failed("write", error))?;
        }
        Ok(())
    }

    /// Sets the modes that would have shut us out, each after those of the directories within.
    fn finish_withheld(&self, root: &OwnedFd) -> Result<(), AdminError> {
        for (path, meta) in &self.withheld {
            let set = match path.as_slice() {
                [] => fchmod(root, mode(*meta)),
                path => resolve(root, path)
                    .and_then(|(dir, name)| open_dir(dir.as_ref().unwrap_or(root), name))
                    .and_then(|dir| fchmod(&dir, mode(*meta))),
            };
            set.map_err(|error| {
                let path = self.target.join(OsStr::from_bytes(path));
                file_error("set the mode of", &path, &error.into())
            })?;
        }
        Ok(())
    }

    fn entry(&mut self, head: &Head) -> Result<(), AdminError> {
        // The decoder has checked every other name.
        if head.name.is_empty() {
            return Err(nonsense(&"a second root"));
        }
        let path_len = self.path.len();
        if path_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&head.name);
        self.received.entries += 1;
        match self.make(head, path_len) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.path.truncate(path_len);
                Ok(())
            }
            Err(Errno::EXIST) => Err(nonsense(&format!(
                "two entries of the name {}",
                self.shown().display()
            ))),
            Err(error) => Err(self.failed("make", error)),
        }
    }

    /// Makes an entry; answers whether its content is to follow.
    fn make(&mut self, head: &Head, path_len: usize) -> Result<bool, Errno> {
        let depth = self.levels.len();
        let (Some(level), Some(root)) = (self.levels.last(), self.levels.first()) else {
            return Err(Errno::NOENT);
        };
        let name = OsStr::from_bytes(&head.name);
        match &head.kind {
            HeadKind::Directory { .. } if depth >= TREE_DEPTH_MAX => Err(Errno::NAMETOOLONG),
            HeadKind::Directory { meta } => {
                mkdirat(&level.fd, name, Mode::RWXU)?;
                let fd = open_dir(&level.fd, &head.name)?;
                self.levels.push(Level {
                    fd,
                    path_len,
                    meta: *meta,
                });
                Ok(true)
            }
            HeadKind::File { meta, .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let fd = openat(&level.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
                self.file = Some(OpenFile {
                    content: Content::new(fd),
                    path_len,
                    meta: *meta,
                });
                Ok(true)
            }
            HeadKind::Symlink { mtime, target } => {
                symlinkat(OsStr::from_bytes(target), &level.fd, name)?;
                let times = timestamps(*mtime);
                utimensat(&level.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(false)
            }
            HeadKind::HardLink { first } => {
                let (dir, old) = resolve(&root.fd, first)?;
                let dir = dir.as_ref().unwrap_or(&root.fd);
                let old = OsStr::from_bytes(old);
                linkat(dir, old, &level.fd, name, AtFlags::empty())?;
                Ok(false)
            }
        }
    }
}

/// The directory that holds `path` (none: the root itself), and the name within it. Follows no
/// symbolic link; the decoder has checked that no name leads upwards.
fn resolve<'n>(root: &OwnedFd, path: &'n [u8]) -> Result<(Option<OwnedFd>, &'n [u8]), Errno> {
    let mut names = path.split(|byte| *byte == b'/').peekable();
    let mut dir: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok((dir, name));
        }
        dir = Some(open_dir(dir.as_ref().unwrap_or(root), name)?);
    }
    Err(Errno::NOENT)
}
