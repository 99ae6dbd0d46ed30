//! The two directions of a TLS connection over TCP, each by itself.
//!
//! Writing seals up to eight records and hands them to the system in one call; reading takes what
//! the system has, up to a quarter MiB, and opens records straight into the reader's memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::record::{
    CONTENT_MAX_BYTES, Content, HEAD_BYTES, Keys, OVERHEAD_BYTES, RECORD_MAX_BYTES, length_of,
};

/// Content sealed before the system is asked to take it.
const WRITE_BYTES: usize = 8 * CONTENT_MAX_BYTES;
/// A part of at least this size begins a record of its own, so that payloads fill whole records.
const OWN_RECORD_BYTES: usize = 4 << 10;
/// Read buffer of a quiet connection; a whole record fits.
const READ_SMALL_BYTES: usize = 20 << 10;
/// Read buffer of a busy connection.
const READ_LARGE_BYTES: usize = 256 << 10;
/// Readings in a row that found little, after which a connection is quiet.
const QUIET_READS: u32 = 64;

/// Options of every connection.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// The receiving direction.
pub(super) struct Opening {
    socket: OwnedReadHalf,
    keys: Keys,
    /// Sealed bytes at `start..end`; opened ones, when a reader had too little room, in `opened`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    opened: Vec<u8>,
    opened_at: usize,
    closed: bool,
    filled_up: bool,
    quiet_reads: u32,
}

impl Opening {
    pub(super) fn new(socket: OwnedReadHalf, keys: Keys) -> Self {
        Opening {
            socket,
            keys,
            buffer: vec![0; READ_SMALL_BYTES],
            start: 0,
            end: 0,
            opened: Vec::new(),
            opened_at: 0,
            closed: false,
            filled_up: false,
            quiet_reads: 0,
        }
    }

    /// The head of the next record if all of it is here.
    fn whole_record(&self) -> io::Result<Option<([u8; HEAD_BYTES], usize)>> {
        let sealed = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((head, rest)) = sealed.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let len = length_of(*head)?;
        Ok((rest.len() >= len).then_some((*head, len)))
    }

    /// Makes room behind what has been read, by how full the last readings were.
    fn make_room(&mut self) {
        let waiting = self.end - self.start;
        let size = self.buffer.len();
        let wanted = if self.filled_up && size < READ_LARGE_BYTES {
            (size * 4).min(READ_LARGE_BYTES)
        } else if self.quiet_reads >= QUIET_READS {
            READ_SMALL_BYTES
        } else {
            size
        };
        self.filled_up = false;
        if wanted != size {
            let mut buffer = Vec::with_capacity(wanted);
            buffer.extend_from_slice(self.buffer.get(self.start..self.end).unwrap_or_default());
            buffer.resize(wanted, 0);
            self.buffer = buffer;
        } else if waiting == 0 || size - self.end < RECORD_MAX_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            return;
        }
        self.start = 0;
        self.end = waiting;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        // Never empty: less than a record waits, and more than that fits.
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.filled_up = room.remaining() == 0;
        self.end += read;
        self.quiet_reads = match read < READ_SMALL_BYTES / 2 {
            true => self.quiet_reads.saturating_add(1),
            false => 0,
        };
        Poll::Ready(Ok(read))
    }

    /// Opens the next record, of `len` bytes behind its head: into `target` if it has room.
    fn open(
        &mut self,
        head: [u8; HEAD_BYTES],
        len: usize,
        target: &mut ReadBuf<'_>,
    ) -> io::Result<()> {
        let begin = self.start + HEAD_BYTES;
        let sealed = self.buffer.get(begin..begin + len).unwrap_or_default();
        self.start = begin + len;
        if target.remaining() >= len {
            let place = target.initialize_unfilled_to(len);
            match self.keys.open_into(head, sealed, place)? {
                Content::Data(len) => target.advance(len),
                Content::Closed => self.closed = true,
            }
        } else {
            self.opened.resize(len, 0);
            self.opened_at = 0;
            let content = self.keys.open_into(head, sealed, &mut self.opened)?;
            let Content::Data(len) = content else {
                self.closed = true;
                self.opened.clear();
                return Ok(());
            };
            self.opened.truncate(len);
        }
        Ok(())
    }

    /// Gives out what an earlier reader had no room for.
    fn give(&mut self, target: &mut ReadBuf<'_>) {
        let waiting = self.opened.get(self.opened_at..).unwrap_or_default();
        if waiting.is_empty() {
            return;
        }
        let (now, later) = waiting.split_at(waiting.len().min(target.remaining()));
        target.put_slice(now);
        self.opened_at += now.len();
        if later.is_empty() && self.quiet_reads >= QUIET_READS {
            self.opened = Vec::new();
            self.opened_at = 0;
        }
    }
}

impl AsyncRead for Opening {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = target.filled().len();
        loop {
            this.give(target);
            let has_some = target.filled().len() > before;
            if target.remaining() == 0 || this.closed {
                return Poll::Ready(Ok(()));
            }
            match this.whole_record()? {
                // The next reader may have room for all of it.
                Some((_, len)) if has_some && target.remaining() < len => {
                    return Poll::Ready(Ok(()));
                }
                Some((head, len)) => this.open(head, len, target)?,
                None if has_some => return Poll::Ready(Ok(())),
                None => {
                    if ready!(this.poll_fill(cx))? == 0 {
                        // Without an authentic word of farewell it may have been cut off.
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }
}

/// The sending direction.
pub(super) struct Sealing {
    socket: OwnedWriteHalf,
    keys: Keys,
    /// Sealed; written up to `written`.
    out: Vec<u8>,
    written: usize,
    closing: bool,
}

impl Sealing {
    pub(super) const fn new(socket: OwnedWriteHalf, keys: Keys) -> Self {
        Sealing {
            socket,
            keys,
            out: Vec::new(),
            written: 0,
            closing: false,
        }
    }

    /// Hands all that is sealed to the system.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|r| !r.is_empty()) {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.written += len,
            }
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn room_for(content: usize) -> usize {
        content + content.div_ceil(CONTENT_MAX_BYTES) * (HEAD_BYTES + OVERHEAD_BYTES)
    }
}

/// What the next record takes from the front of `parts`: whole small ones, or of one large one.
fn next_record<'a>(parts: &mut Vec<&'a [u8]>, budget: usize) -> Vec<&'a [u8]> {
    let mut room = CONTENT_MAX_BYTES.min(budget);
    let mut record = Vec::new();
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        if !record.is_empty() && (part.len() >= OWN_RECORD_BYTES || part.len() > room) {
            parts.push(part);
            break;
        }
        let (now, later) = part.split_at(part.len().min(room));
        record.push(now);
        room -= now.len();
        if !later.is_empty() {
            parts.push(later);
            break;
        }
    }
    record
}

impl AsyncWrite for Sealing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let mut parts: Vec<&[u8]> = bytes.iter().rev().map(|part| &**part).collect();
        let wanted = parts.iter().map(|part| part.len()).sum::<usize>();
        this.out
            .reserve(Self::room_for(wanted.min(WRITE_BYTES)) + 64);
        let mut taken = 0;
        while taken < WRITE_BYTES {
            let record = next_record(&mut parts, WRITE_BYTES - taken);
            if record.is_empty() {
                break;
            }
            taken += record.iter().map(|part| part.len()).sum::<usize>();
            this.keys.seal(record.into_iter(), &mut this.out)?;
        }
        // What the system does not take now it takes before the next bytes are sealed.
        if let Poll::Ready(drained) = this.poll_drain(cx) {
            drained?;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        // Who flushes is at rest.
        this.out = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.keys.seal_close(&mut this.out)?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
