//! One file, made under a temporary name.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{Frame, Frames, Place, Received, nonsense};
use crate::admin::transfer::Content;
use crate::admin::{AdminError, Exit};
use crate::cli::failure::{Failure, file_error};

/// A new file without its final name. Dropped without [`Part::write`], nothing is left of it.
pub(in crate::cli) struct Part {
    place: Place,
    file: OwnedFd,
    is_kept: bool,
}

impl Part {
    /// Makes the file in the directory of `path`.
    pub(in crate::cli) fn beside(path: &Path) -> Result<Part, AdminError> {
        let place = Place::beside(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // As any new file: what the umask leaves of it.
        let mode = Mode::from_raw_mode(0o666);
        let file = openat(&place.parent, &place.temporary, flags, mode)
            .map_err(|error| file_error("make", path, &error.into()))?;
        Ok(Part {
            place,
            file,
            is_kept: false,
        })
    }

    /// The file, for another to write to.
    pub(in crate::cli) fn share(&self) -> Result<OwnedFd, AdminError> {
        let copy = self.file.as_fd().try_clone_to_owned();
        copy.map_err(|error| file_error("write", &self.place.path, &error))
    }

    /// Writes what the frames say beyond what is written already, and gives the file its name.
    pub(super) fn write(mut self, frames: &mut Frames) -> Result<Received, Failure> {
        let received = fill(self.share()?, &self.place.path, frames)?;
        self.place.commit()?;
        self.is_kept = true;
        Ok(received)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // There is nobody to tell, and it may be gone already.
            let _ = unlinkat(&self.place.parent, &self.place.temporary, AtFlags::empty());
        }
    }
}

fn fill(file: OwnedFd, path: &Path, frames: &mut Frames) -> Result<Received, AdminError> {
    let failed = |error: Errno| file_error("write", path, &error.into());
    let mut content = Content::new(file);
    loop {
        let frame = frames.next().map_err(|mut error| {
            // The peer knows of the file, not of its name.
            if error.class == Exit::Refused {
                error.error = format!("{}: {}", path.display(), error.error);
            }
            error
        });
        match frame? {
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
