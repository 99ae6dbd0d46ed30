//! Frames from a reader of files into the channel that a peer takes them from.

use std::io;
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::sync::mpsc;

use crate::content::{Frame, FrameEncoder, Head};

/// Bytes read at once, at most.
const READ_BYTES: usize = 512 << 10;
/// Reads of at most this size share one buffer, whose content is copied out.
const SHORT_BYTES: usize = 64 << 10;
/// Pieces read ahead of the peer.
pub const QUEUE: usize = 4;

/// The receiver of the frames went away.
#[derive(Debug)]
pub struct Gone;

/// Writes frames into a channel. Blocks when its receiver is slow.
pub struct Emitter {
    encoder: FrameEncoder,
    short: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Emitter {
    /// Sends into `pieces`.
    pub fn new(pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Emitter {
            encoder: FrameEncoder::default(),
            short: vec![0; SHORT_BYTES],
            pieces,
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), Gone> {
        self.encoder.push(frame);
        while let Some(piece) = self.encoder.pop() {
            self.pieces.blocking_send(Ok(piece)).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// A name, and what it stands for.
    ///
    /// # Errors
    /// If nobody takes it.
    pub fn entry(&mut self, head: Head) -> Result<(), Gone> {
        self.send(&Frame::Entry(head))
    }

    /// A run of zeros that was never written.
    ///
    /// # Errors
    /// If nobody takes it.
    pub fn hole(&mut self, bytes: u64) -> Result<(), Gone> {
        self.send(&Frame::Hole(bytes))
    }

    /// The end of a file or directory.
    ///
    /// # Errors
    /// If nobody takes it.
    pub fn end(&mut self) -> Result<(), Gone> {
        self.send(&Frame::End)
    }

    /// Reads once, at most `limit` bytes; answers how many there were.
    ///
    /// The file may have been read further than that: seek before reading on.
    pub(super) fn data(
        &mut self,
        file: impl AsFd,
        limit: u64,
    ) -> Result<rustix::io::Result<usize>, Gone> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let read = match self.short.get_mut(..limit) {
            Some(short) => rustix::io::read(&file, &mut *short)
                .map(|count| Bytes::copy_from_slice(short.get(..count).unwrap_or_default())),
            None => {
                let mut buffer = Vec::with_capacity(READ_BYTES);
                rustix::io::read(&file, spare_capacity(&mut buffer)).map(|_| {
                    buffer.truncate(limit);
                    Bytes::from(buffer)
                })
            }
        };
        match read {
            Ok(bytes) if bytes.is_empty() => Ok(Ok(0)),
            Ok(bytes) => {
                let count = bytes.len();
                self.send(&Frame::Data(bytes))?;
                Ok(Ok(count))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Everything was sent.
    ///
    /// # Errors
    /// If nobody takes the last of it.
    pub fn finish(mut self) -> Result<(), Gone> {
        self.encoder.flush();
        while let Some(piece) = self.encoder.pop() {
            self.pieces.blocking_send(Ok(piece)).map_err(|_| Gone)?;
        }
        Ok(())
    }
}
