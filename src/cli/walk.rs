//! Reading what is put: a file, a tree, or a stream, as the frames that a peer takes in.
//!
//! Runs on a thread of its own and stays a few pieces ahead of the peer. Follows no symbolic link
//! below the root, and holds one descriptor for each level.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::admin::emit::{Emitter, Gone};
use crate::admin::transfer::SendError;
use crate::admin::{AdminError, Exit};
use crate::base::limits::{NAME_MAX_BYTES, TREE_DEPTH_MAX};
use crate::content::{Head, HeadKind};
use crate::dag::{Meta, Timestamp};

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum WalkError {
    /// To be told.
    Error(AdminError),
    /// Nobody takes the frames any more; whoever took them knows why.
    Gone,
}

impl From<Gone> for WalkError {
    fn from(_: Gone) -> Self {
        WalkError::Gone
    }
}

/// Things that are left out or doubtful, told while the walk goes on.
pub(super) type Notes<'n> = &'n (dyn Fn(String) + Send + Sync);

/// A directory that is being read.
struct Level {
    fd: OwnedFd,
    /// Bytes of the path up to and without this directory's own name.
    path_len: usize,
    /// Names still to come, last first.
    names: Vec<CString>,
}

/// One walk.
pub(super) struct Walk<'n> {
    out: Emitter,
    notes: Notes<'n>,
    /// Where the root is, for messages.
    root: PathBuf,
    /// Path of the present entry from the root, names joined by `/`.
    path: Vec<u8>,
    /// Files of several names: where each was met first, and how many names are still to come.
    linked: HashMap<(u64, u64), (Vec<u8>, u64)>,
    /// The data directory: putting it would never end.
    excluded: Option<(u64, u64)>,
}

impl<'n> Walk<'n> {
    pub(super) fn new(root: &Path, out: Emitter, notes: Notes<'n>, excluded: &Path) -> Self {
        let excluded = rustix::fs::stat(excluded).ok();
        Walk {
            out,
            notes,
            root: root.to_owned(),
            path: Vec::new(),
            linked: HashMap::new(),
            excluded: excluded.map(|stat| (stat.st_dev, stat.st_ino)),
        }
    }

    /// Sends the whole tree under `root`, a directory.
    pub(super) fn tree(mut self, root: OwnedFd) -> Result<(), WalkError> {
        let stat = fstat(&root).map_err(|error| self.failed("read", error))?;
        self.send(&[], HeadKind::Directory { meta: meta(&stat) })?;
        let mut levels = vec![self.level(root, 0)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                self.path.truncate(level.path_len);
                levels.pop();
                self.out.end()?;
                continue;
            };
            let depth = levels.len();
            let Some(level) = levels.last() else { break };
            let path_len = self.path.len();
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            match self.entry(&level.fd, &name, depth)? {
                Some(directory) => {
                    let level = self.level(directory, path_len)?;
                    levels.push(level);
                }
                None => self.path.truncate(path_len),
            }
        }
        Ok(self.out.finish()?)
    }

    /// Sends a stream of unknown length.
    pub(super) fn stream(mut self, stream: impl AsFd) -> Result<(), WalkError> {
        let sent = self.out.run(&stream, u64::MAX);
        sent.map_err(|error| self.unsent(error))?;
        self.out.end()?;
        Ok(self.out.finish()?)
    }

    fn send(&mut self, name: &[u8], kind: HeadKind) -> Result<(), Gone> {
        self.out.entry(Head {
            name: name.to_vec(),
            kind,
        })
    }

    fn shown(&self) -> PathBuf {
        if self.path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(OsStr::from_bytes(&self.path))
        }
    }

    fn failed(&self, what: &str, error: Errno) -> WalkError {
        let error = io::Error::from(error);
        let message = format!("cannot {what} {}: {error}", self.shown().display());
        WalkError::Error(
            AdminError::new(Exit::Failed, message)
                .hint("nothing was stored; make it readable, or put a tree without it"),
        )
    }

    fn unsent(&self, error: SendError) -> WalkError {
        match error {
            SendError::Gone => WalkError::Gone,
            SendError::Read(error) => self.failed("read", error),
        }
    }

    fn note(&self, what: &str) {
        (self.notes)(format!("{} {what}", self.shown().display()));
    }

    /// Reads the names of a directory, in the order of the walk.
    fn level(&self, fd: OwnedFd, path_len: usize) -> Result<Level, WalkError> {
        let mut names = Vec::new();
        let dir = Dir::read_from(&fd).map_err(|error| self.failed("list", error))?;
        for entry in dir {
            let entry = entry.map_err(|error| self.failed("list", error))?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            fd,
            path_len,
            names,
        })
    }

    /// Sends one entry; a directory is given back opened, to be walked next.
    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        depth: usize,
    ) -> Result<Option<OwnedFd>, WalkError> {
        if name.to_bytes().len() > NAME_MAX_BYTES {
            return Err(self.failed("take the name of", Errno::NAMETOOLONG));
        }
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.note("vanished before it was read; left out");
                return Ok(None);
            }
            Err(error) => return Err(self.failed("read", error)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if depth >= TREE_DEPTH_MAX {
                    return Err(self.failed("take so deep a tree as", Errno::NAMETOOLONG));
                }
                self.directory(dir, name, &stat)
            }
            FileType::RegularFile => self.regular(dir, name, &stat).map(|()| None),
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())
                    .map_err(|error| self.failed("read the link", error))?;
                let kind = HeadKind::Symlink {
                    mtime: mtime(&stat),
                    target: target.into_bytes(),
                };
                self.send(name.to_bytes(), kind)?;
                Ok(None)
            }
            other => {
                self.note(&format!("is a {}; left out", kind_name(other)));
                Ok(None)
            }
        }
    }

    fn directory(
        &mut self,
        dir: &OwnedFd,
        name: &CStr,
        stat: &Stat,
    ) -> Result<Option<OwnedFd>, WalkError> {
        if self.excluded == Some((stat.st_dev, stat.st_ino)) {
            self.note("is the data directory of this peer; left out");
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            openat(dir, name, flags, Mode::empty()).map_err(|error| self.failed("open", error))?;
        self.send(name.to_bytes(), HeadKind::Directory { meta: meta(stat) })?;
        Ok(Some(opened))
    }

    fn regular(&mut self, dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), WalkError> {
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some((first, to_come)) = self.linked.get_mut(&inode) {
                let first = first.clone();
                *to_come -= 1;
                if *to_come == 0 {
                    self.linked.remove(&inode);
                }
                return Ok(self.send(name.to_bytes(), HeadKind::HardLink { first })?);
            }
            let to_come = stat.st_nlink - 1;
            self.linked.insert(inode, (self.path.clone(), to_come));
        }
        // A named pipe put in its place meanwhile must not make the open wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            openat(dir, name, flags, Mode::empty()).map_err(|error| self.failed("open", error))?;
        let stat = fstat(&file).map_err(|error| self.failed("read", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failed("follow the changes of", Errno::AGAIN));
        }
        let kind = HeadKind::File {
            meta: meta(&stat),
            size: u64::try_from(stat.st_size).unwrap_or(0),
        };
        self.send(name.to_bytes(), kind)?;
        self.content(&file, &stat)?;
        Ok(self.out.end()?)
    }

    /// Sends the bytes of a regular file, and its holes as holes.
    fn content(&mut self, file: &OwnedFd, before: &Stat) -> Result<(), WalkError> {
        let sent = self.out.content(file, before);
        sent.map_err(|error| self.unsent(error))?;
        let after = fstat(file).map_err(|error| self.failed("read", error))?;
        if has_changed(before, &after) {
            self.note(CHANGED);
        }
        Ok(())
    }
}

/// What is said of a file that [`has_changed`].
pub(super) const CHANGED: &str = "changed while it was read; it is stored as it was read";

/// Whether the content of a file may have changed between two looks at it.
pub(super) fn has_changed(before: &Stat, after: &Stat) -> bool {
    let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    let change = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
    // A new name of the same file changes the ctime too, but not the content.
    content(before) != content(after)
        || (change(before) != change(after) && before.st_nlink == after.st_nlink)
}

fn mtime(stat: &Stat) -> Timestamp {
    Timestamp {
        seconds: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        // Masked to the twelve bits that fit.
        mode: (stat.st_mode & 0o7777) as u16,
        mtime: mtime(stat),
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "socket",
        FileType::Fifo => "named pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "file of an unknown kind",
    }
}
