//! Regular files as frames and frames as regular files, in the process that needs them.
//!
//! A client hands its open file over with the connection ([`super::attach`]), so that content
//! does not cross the socket: it would be copied twice and wake both ends for every piece. Reading
//! and writing move the position that both processes share, which is how the client knows how
//! far a transfer is.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::fs::{FileType, SeekFrom, Stat, fstat, ftruncate, seek};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::backend::ByteStream;
use super::emit::{Emitter, Gone, QUEUE};
use crate::base::Class;
use crate::content::{Frame, FrameDecoder, FrameEncoder, Remark};

/// Why the content of a file was not sent.
#[derive(Debug)]
pub enum SendError {
    /// Nobody takes the frames any more.
    Gone,
    /// The file cannot be read.
    Read(Errno),
}

impl From<Gone> for SendError {
    fn from(_: Gone) -> Self {
        SendError::Gone
    }
}

impl From<Errno> for SendError {
    fn from(error: Errno) -> Self {
        SendError::Read(error)
    }
}

impl Emitter {
    /// Sends the bytes of a regular file of which `stat` tells, and its holes as holes.
    ///
    /// # Errors
    /// If it cannot be read, or nobody takes the frames.
    pub fn content(&mut self, file: &OwnedFd, stat: &Stat) -> Result<(), SendError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        match size {
            // Files of /proc say 0 and have content all the same.
            0 => self.run(file, u64::MAX).map(drop),
            _ if allocated < size => self.sparse(file, size),
            _ => self.run(file, size).map(drop),
        }
    }

    fn sparse(&mut self, file: &OwnedFd, size: u64) -> Result<(), SendError> {
        let mut at = 0;
        while at < size {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                // No data from here to the end.
                Err(Errno::NXIO) => size,
                // A filesystem that cannot tell: one run of data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(error.into()),
            };
            if data > at {
                self.hole(data - at)?;
                at = data;
            }
            if at >= size {
                break;
            }
            let hole = match seek(file, SeekFrom::Hole(at)) {
                Ok(hole) => hole.min(size),
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
                Err(error) => return Err(error.into()),
            };
            seek(file, SeekFrom::Start(at))?;
            let read = self.run(file, hole - at)?;
            if read == 0 {
                // It was cut off meanwhile; whoever compares its state before and after tells.
                break;
            }
            at += read;
        }
        Ok(())
    }

    /// Sends at most `limit` bytes from the present position; answers how many there were.
    ///
    /// # Errors
    /// As [`Emitter::content`].
    pub fn run(&mut self, file: impl std::os::fd::AsFd, limit: u64) -> Result<u64, SendError> {
        let mut sent = 0;
        while sent < limit {
            match self.data(&file, limit - sent)? {
                Ok(0) => break,
                Ok(count) => sent += count as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }
}

/// The frames of a regular file, read on a thread of its own a few pieces ahead.
pub(super) fn frames_of(file: OwnedFd) -> ByteStream {
    let (pieces, received) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let send = || {
            let stat = regular(&file)?;
            let mut out = Emitter::new(pieces.clone());
            out.content(&file, &stat)?;
            out.end()?;
            Ok(out.finish()?)
        };
        if let Err(SendError::Read(error)) = send() {
            let error = io::Error::from(error);
            let broken = io::Error::new(error.kind(), format!("cannot read the file: {error}"));
            // Breaks the stream off; fails only if nobody listens any more.
            let _ = pieces.blocking_send(Err(broken));
        }
    });
    stream::unfold(received, |mut received| async {
        received.recv().await.map(|piece| (piece, received))
    })
    .boxed()
}

/// What a descriptor is, if it is a regular file: others could keep a thread waiting for ever.
fn regular(file: &OwnedFd) -> Result<Stat, Errno> {
    let stat = fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        _ => Err(Errno::INVAL),
    }
}

/// Content that is being written: data, and holes that are passed over.
pub struct Content {
    file: OwnedFd,
    ends_in_hole: bool,
}

impl Content {
    /// Writes to an empty file from its beginning.
    pub const fn new(file: OwnedFd) -> Self {
        Content {
            file,
            ends_in_hole: false,
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As the file has them.
    pub fn data(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.ends_in_hole = false;
        Ok(())
    }

    /// Leaves out a run of zeros.
    ///
    /// # Errors
    /// If the file cannot be so large.
    pub fn hole(&mut self, bytes: u64) -> Result<(), Errno> {
        let bytes = i64::try_from(bytes).map_err(|_| Errno::FBIG)?;
        seek(&self.file, SeekFrom::Current(bytes))?;
        self.ends_in_hole = true;
        Ok(())
    }

    /// The file with its final size, and that size.
    ///
    /// # Errors
    /// If the file cannot be so large.
    pub fn finish(self) -> Result<(OwnedFd, u64), Errno> {
        let size = seek(&self.file, SeekFrom::Current(0))?;
        if self.ends_in_hole {
            ftruncate(&self.file, size)?;
        }
        Ok((self.file, size))
    }
}

/// Writes the data and holes of `body`, the frames of one file, into `file`. What is left of
/// the stream is its end, or the error that ended it.
pub(super) fn into_file(file: OwnedFd, mut body: ByteStream) -> ByteStream {
    let last = async move {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let writer = tokio::task::spawn_blocking(move || write(file, queue));
        while let Some(piece) = body.next().await {
            let is_last = piece.is_err();
            // A writer that has gone says by itself why.
            if pieces.send(piece).await.is_err() || is_last {
                break;
            }
        }
        drop(pieces);
        let mut encoder = FrameEncoder::default();
        if let Some(last) = writer.await.map_err(io::Error::other)?? {
            encoder.push(&last);
        }
        encoder.flush();
        Ok(encoder.pop())
    };
    stream::once(last)
        .filter_map(|last| std::future::ready(last.transpose()))
        .boxed()
}

/// Blocks. Answers the last frame, if the stream has one; an error if the stream itself broke.
fn write(file: OwnedFd, mut queue: mpsc::Receiver<io::Result<Bytes>>) -> io::Result<Option<Frame>> {
    let remark = |class, message| Ok(Some(Frame::Error(Remark { class, message })));
    if let Err(error) = regular(&file) {
        return remark(Class::Denied, format!("cannot write the file: {error}"));
    }
    let mut content = Content::new(file);
    let mut decoder = FrameDecoder::default();
    loop {
        let written = match decoder.next_frame() {
            Ok(Some(Frame::Data(bytes))) => content.data(&bytes),
            Ok(Some(Frame::Hole(bytes))) => content.hole(bytes),
            Ok(Some(Frame::End)) => match content.finish() {
                Ok(_) => return Ok(Some(Frame::End)),
                Err(error) => return unwritable(error),
            },
            Ok(Some(other @ (Frame::Error(_) | Frame::Entry(_)))) => return Ok(Some(other)),
            Ok(None) => match queue.blocking_recv() {
                Some(piece) => {
                    decoder.push(piece?);
                    Ok(())
                }
                None => return Ok(None),
            },
            Err(error) => return remark(Class::Bug, error.to_string()),
        };
        if let Err(error) = written {
            return unwritable(error);
        }
    }
}

fn unwritable(error: Errno) -> io::Result<Option<Frame>> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let error = io::Error::from(error);
    let class = match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Class::Full,
        _ => Class::Closed,
    };
    let message = format!("cannot write the file: {error}");
    Ok(Some(Frame::Error(Remark { class, message })))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom as From, Write};

    use super::*;

    #[tokio::test]
    async fn a_sparse_file_comes_back_with_its_holes() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&[7; 5000]).unwrap();
        source.seek(From::Start(3 << 20)).unwrap();
        source.write_all(b"middle").unwrap();
        source.set_len(8 << 20).unwrap();
        source.rewind().unwrap();
        let mut target = tempfile::tempfile().unwrap();
        let frames = frames_of(source.try_clone().unwrap().into());
        let mut rest = into_file(target.try_clone().unwrap().into(), frames);
        let mut decoder = FrameDecoder::default();
        while let Some(piece) = rest.next().await {
            decoder.push(piece.unwrap());
        }
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::End)));
        // Where the client sees the end of the transfer.
        assert_eq!(target.stream_position().unwrap(), 8 << 20);
        let mut contents = [Vec::new(), Vec::new()];
        for (file, content) in [&mut source, &mut target].into_iter().zip(&mut contents) {
            file.rewind().unwrap();
            file.read_to_end(content).unwrap();
        }
        assert!(contents[0] == contents[1]);
        let stat = fstat(&target).unwrap();
        assert!(stat.st_blocks * 512 < 1 << 20, "{} blocks", stat.st_blocks);
    }

    #[tokio::test]
    async fn only_regular_files_are_read_and_written() {
        let (reader, writer) = io::pipe().unwrap();
        let mut frames = frames_of(reader.into());
        assert!(frames.next().await.unwrap().is_err());
        let end = {
            let mut encoder = FrameEncoder::default();
            encoder.push(&Frame::End);
            encoder.flush();
            encoder.pop().unwrap()
        };
        let body = stream::iter([Ok(end)]).boxed();
        let mut rest = into_file(writer.into(), body);
        let mut decoder = FrameDecoder::default();
        decoder.push(rest.next().await.unwrap().unwrap());
        assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Error(_)))));
    }
}
