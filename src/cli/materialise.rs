//! Writing what is got: frames become a file, a tree or a stream.
//!
//! A file or tree is made under a temporary name beside its place and renamed when it is whole.
//! Frames are not trusted: names are checked, everything is made anew relative to an open
//! directory, and no symbolic link is ever followed.

mod file;
mod tree;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, open, renameat, renameat_with, statat};
use rustix::io::Errno;
use tokio::sync::mpsc;

pub(super) use file::Part;

use super::failure::{Failure, MAKE_ROOM, file_error};
use crate::admin::AdminError;
use crate::base::{Class, Entropy};
use crate::content::{Frame, FrameDecoder};

/// Where the content goes.
pub(super) enum Target {
    /// The standard output, as it comes.
    Stdout,
    /// A file that is not there yet.
    File(Part),
    /// A directory that is not there yet.
    Tree(PathBuf),
}

/// What was written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Received {
    /// Bytes of content.
    pub(super) size_bytes: u64,
    /// Entries of a tree, its root not counted.
    pub(super) entries: u64,
}

/// Pieces of the body as they come.
pub(super) type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// Writes the frames of `pieces` to `target`. Blocks; for a thread of its own.
///
/// If it fails, or the pieces end before the frames do, nothing is left of what it made.
pub(super) fn run(target: Target, pieces: Pieces) -> Result<Received, Failure> {
    let mut frames = Frames {
        decoder: FrameDecoder::default(),
        pieces,
    };
    match target {
        Target::Stdout => to_stdout(&mut frames),
        Target::File(part) => part.write(&mut frames),
        Target::Tree(path) => tree::write(&path, &mut frames),
    }
}

/// Frames out of pieces.
struct Frames {
    decoder: FrameDecoder,
    pieces: Pieces,
}

impl Frames {
    /// The next frame. An error that the peer reports comes out as one.
    fn next(&mut self) -> Result<Frame, AdminError> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(Frame::Error(remark))) => {
                    let error = AdminError::new(remark.class.into(), remark.message);
                    return Err(match remark.class {
                        // Reading needs no room but at its target.
                        Class::Full => error.hint(MAKE_ROOM),
                        _ => error,
                    });
                }
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(nonsense(&error)),
            }
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.decoder.push(piece),
                Some(Err(error)) => {
                    return Err(AdminError::failed(format!(
                        "the connection to the peer broke: {error}"
                    )));
                }
                None => {
                    return Err(AdminError::failed("the peer broke off before the end")
                        .hint("look whether it still runs: cairn status"));
                }
            }
        }
    }
}

/// Frames that no honest peer sends.
fn nonsense(why: &dyn std::fmt::Display) -> AdminError {
    AdminError::failed(format!("what came makes no sense: {why}"))
}

/// The place is taken.
pub(super) fn exists_already(path: &Path) -> AdminError {
    AdminError::failed(format!("{} exists already", path.display()))
        .hint("nothing is overwritten: choose another place with -o, or move it away")
}

fn to_stdout(frames: &mut Frames) -> Result<Received, Failure> {
    /// Zeros are written in runs of this size.
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut out = io::stdout().lock();
    let mut received = Received::default();
    loop {
        match frames.next()? {
            Frame::Data(bytes) => {
                out.write_all(&bytes)?;
                received.size_bytes += bytes.len() as u64;
            }
            Frame::Hole(bytes) => {
                let mut left = bytes;
                while left > 0 {
                    let count = left.min(ZEROS.len() as u64);
                    out.write_all(ZEROS.get(..count as usize).unwrap_or(&ZEROS))?;
                    left -= count;
                }
                received.size_bytes += bytes;
            }
            Frame::End => return Ok(received),
            Frame::Entry(_) | Frame::Error(_) => {
                return Err(nonsense(&"an entry within a file").into());
            }
        }
        // A reader wants the first bytes before the rest is there.
        out.flush()?;
    }
}

/// A place beside the final one, and the way there.
struct Place {
    /// The final path, for messages.
    path: PathBuf,
    /// The directory of both names.
    parent: OwnedFd,
    name: std::ffi::OsString,
    temporary: std::ffi::OsString,
}

impl Place {
    fn beside(path: &Path) -> Result<Place, AdminError> {
        let name = path.file_name().ok_or_else(|| {
            AdminError::usage(format!(
                "{} is not a name for something new",
                path.display()
            ))
        })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(parent, flags, Mode::empty())
            .map_err(|error| file_error("open", parent, &error.into()))?;
        let entropy =
            Entropy::os().map_err(|error| AdminError::failed(format!("no randomness: {error}")))?;
        Ok(Place {
            path: path.to_owned(),
            parent: opened,
            name: name.to_owned(),
            // Not built on the name, which may have no room for more.
            temporary: format!(".cairn-part-{:016x}", entropy.u64()).into(),
        })
    }

    /// Gives what is at the temporary name its final one; never replaces anything.
    fn commit(&self) -> Result<(), AdminError> {
        let (dir, from, to) = (&self.parent, &self.temporary, &self.name);
        let renamed = match renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // A filesystem that knows no such flag.
            Err(Errno::INVAL | Errno::NOSYS) => match statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => renameat(dir, from, dir, to),
                _ => Err(Errno::EXIST),
            },
            other => other,
        };
        renamed.map_err(|error| match error {
            Errno::EXIST => exists_already(&self.path),
            error => file_error("make", &self.path, &error.into()),
        })?;
        rustix::fs::fsync(dir).map_err(|error| file_error("make", &self.path, &error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FrameEncoder, Head, HeadKind};
    use crate::dag::{Meta, Timestamp};

    fn pieces(frames: &[Frame]) -> Bytes {
        let mut encoder = FrameEncoder::default();
        for frame in frames {
            encoder.push(frame);
        }
        encoder.flush();
        let pieces = std::iter::from_fn(|| encoder.pop());
        pieces.flatten().collect()
    }

    fn tree(dir: &Path) -> Target {
        Target::Tree(dir.join("target"))
    }

    fn file(dir: &Path) -> Target {
        Target::File(Part::beside(&dir.join("target")).unwrap())
    }

    /// Begins with `begin`, does `meanwhile` once that was taken in, and ends with `end`.
    fn run_while(
        target: Target,
        [begin, end]: [&[Frame]; 2],
        meanwhile: impl FnOnce(),
    ) -> Result<Received, Failure> {
        let (sender, receiver) = mpsc::channel(1);
        let writing = std::thread::spawn(|| run(target, receiver));
        sender.blocking_send(Ok(pieces(begin))).unwrap();
        // There is room for another only when the first was taken.
        sender.blocking_send(Ok(Bytes::new())).unwrap();
        sender.blocking_send(Ok(Bytes::new())).unwrap();
        meanwhile();
        sender.blocking_send(Ok(pieces(end))).unwrap();
        drop(sender);
        writing.join().unwrap()
    }

    #[test]
    fn what_appears_at_the_target_meanwhile_is_never_replaced() {
        let meta = Meta {
            mode: 0o755,
            mtime: Timestamp {
                seconds: 1,
                nanos: 0,
            },
        };
        let root = Frame::Entry(Head {
            name: Vec::new(),
            kind: HeadKind::Directory { meta },
        });
        let data = Frame::Data(Bytes::from_static(b"theirs"));
        let (of_tree, of_file) = ([root], [data]);
        let make_file = |path: &Path| std::fs::write(path, "mine").unwrap();
        // A plain rename would replace a directory that is empty, and any link.
        let make_dir = |path: &Path| std::fs::create_dir(path).unwrap();
        let make_link = |path: &Path| std::os::unix::fs::symlink("nowhere", path).unwrap();
        let makers: [&dyn Fn(&Path); 3] = [&make_file, &make_dir, &make_link];
        for make in makers {
            for is_tree in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("target");
                let (to, begin): (_, &[Frame]) = if is_tree {
                    (tree(dir.path()), &of_tree)
                } else {
                    (file(dir.path()), &of_file)
                };
                let refused = run_while(to, [begin, &[Frame::End]], || make(&path));
                let told = format!("{refused:?}");
                assert!(told.contains("exists already"), "{told}");
                let before = path.symlink_metadata().unwrap();
                if before.is_file() {
                    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
                } else if before.is_symlink() {
                    let target = std::fs::read_link(&path).unwrap();
                    assert_eq!(target, Path::new("nowhere"));
                }
                let there = std::fs::read_dir(dir.path()).unwrap();
                assert_eq!(there.count(), 1, "nothing is left of it");
            }
        }
        // Nothing appears: it is there.
        let dir = tempfile::tempdir().unwrap();
        let ends: [&[Frame]; 2] = [&of_file, &[Frame::End]];
        run_while(file(dir.path()), ends, || {}).unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"theirs");
    }
}
