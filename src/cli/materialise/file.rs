//! One file.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, ftruncate, openat, seek, unlinkat};
use rustix::io::Errno;

use super::{Frame, Frames, Place, Received, nonsense};
use crate::admin::AdminError;
use crate::cli::failure::{Failure, file_error};

/// Content that is being written: data, and holes that are passed over.
pub(super) struct Content {
    file: OwnedFd,
    at: u64,
    ends_in_hole: bool,
}

impl Content {
    pub(super) const fn new(file: OwnedFd) -> Self {
        Content {
            file,
            at: 0,
            ends_in_hole: false,
        }
    }

    pub(super) fn data(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    self.at += count as u64;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.ends_in_hole = false;
        Ok(())
    }

    pub(super) fn hole(&mut self, bytes: u64) -> Result<(), Errno> {
        let end = self.at.checked_add(bytes).ok_or(Errno::FBIG)?;
        self.at = seek(&self.file, SeekFrom::Start(end))?;
        self.ends_in_hole = true;
        Ok(())
    }

    /// The file with its final size, and that size.
    pub(super) fn finish(self) -> Result<(OwnedFd, u64), Errno> {
        if self.ends_in_hole {
            ftruncate(&self.file, self.at)?;
        }
        Ok((self.file, self.at))
    }
}

pub(super) fn write(path: &Path, frames: &mut Frames) -> Result<Received, Failure> {
    let place = Place::beside(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // As any new file: what the umask leaves of it.
    let file = openat(
        &place.parent,
        &place.temporary,
        flags,
        Mode::from_raw_mode(0o666),
    )
    .map_err(|error| file_error("make", path, &error.into()))?;
    let written = fill(file, path, frames).and_then(|received| place.commit().map(|()| received));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = unlinkat(&place.parent, &place.temporary, AtFlags::empty());
    }
    Ok(written?)
}

fn fill(file: OwnedFd, path: &Path, frames: &mut Frames) -> Result<Received, AdminError> {
    let failed = |error: Errno| file_error("write", path, &error.into());
    let mut content = Content::new(file);
    loop {
        match frames.next()? {
            Frame::Data(bytes) => content.data(&bytes).map_err(failed)?,
            Frame::Hole(bytes) => content.hole(bytes).map_err(failed)?,
            Frame::End => break,
            Frame::Entry(_) | Frame::Error(_) => return Err(nonsense(&"an entry within a file")),
        }
    }
    let (file, size_bytes) = content.finish().map_err(failed)?;
    rustix::fs::fsync(&file).map_err(failed)?;
    Ok(Received {
        size_bytes,
        entries: 0,
    })
}
