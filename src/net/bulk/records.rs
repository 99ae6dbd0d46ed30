//! The records of an admitted connection. The session of the TLS library makes the handshake and carries the admission; then
//! its keys are taken over, and records are sealed from where bytes are and opened to where they go: the session would copy
//! each byte four times more, which is a tenth of all that a put costs.
//!
//! On the wire nothing changes: the other end may go on with its session.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::{Connection, ConnectionTrafficSecrets};

use super::stream::ByRecord;
use crate::crypto::record::{
    ContentType, RECORD_CONTENT_MAX_BYTES, RECORD_HEAD_BYTES, RECORDS_MAX, RecordKey, body_len,
    opened_len, record_len,
};

/// Portion that is read to begin with, and of a connection that says little.
const SMALL_BYTES: usize = 8 << 10;
/// Largest portion that is read.
const LARGE_BYTES: usize = 256 << 10;
/// What is opened right to where it is wanted, instead of through the buffer, has at least so many bytes.
const DIRECT_BYTES: usize = 1 << 10;
/// Most content that is sealed at once.
const AHEAD_BYTES: usize = 256 << 10;
/// What is sealed waits for more up to here, or until it is flushed: each call of the kernel wakes the other end.
const HELD_BYTES: usize = 192 << 10;
/// Small portions in a row after which a connection counts as quiet.
const QUIET_PORTIONS: u32 = 64;
/// Records without content in a row that are put up with.
const EMPTY_MAX: u32 = 32;
/// Records after which a connection should be replaced by another.
const RECORDS_WORN: u64 = RECORDS_MAX / 4 * 3;
/// The alert that ends a connection in good order.
const CLOSE_NOTIFY: u8 = 0;
/// A ticket to take a session up again, among messages of the handshake. We never do.
const NEW_SESSION_TICKET: u8 = 4;

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Records<R, W> {
    pub(super) reader: RecordReader<R>,
    pub(super) writer: RecordWriter<W>,
    /// Comes when a direction's key has been used for so much that another connection should take over.
    pub(super) worn: oneshot::Receiver<()>,
}

/// Takes a connection over from its session. What the session has to say must have been flushed.
///
/// # Errors
/// If it is in the middle of something, or its keys are not to be had.
pub(super) fn take_over<S, R, W>(
    stream: TlsStream<ByRecord<S>>,
    split: impl FnOnce(S) -> (R, W),
) -> io::Result<Records<R, W>> {
    let (below, mut session) = match stream {
        TlsStream::Client(stream) => {
            let (below, session) = stream.into_inner();
            (below, Connection::Client(session))
        }
        TlsStream::Server(stream) => {
            let (below, session) = stream.into_inner();
            (below, Connection::Server(session))
        }
    };
    let mut opened = Vec::new();
    match session.reader().read_to_end(&mut opened) {
        Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    let (stream, unread) = below
        .into_parts()
        .ok_or_else(|| io::Error::other("the session is in the middle of a record"))?;
    let secrets = session.dangerous_extract_secrets().map_err(invalid)?;
    let (reader, writer) = split(stream);
    let (wear, worn) = oneshot::channel();
    Ok(Records {
        reader: RecordReader::new(reader, key_of(secrets.rx)?, opened, &unread),
        writer: RecordWriter::new(writer, key_of(secrets.tx)?, wear),
        worn,
    })
}

fn key_of((next, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<RecordKey> {
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        return Err(io::Error::other("a cipher that was not offered"));
    };
    let key = key.as_ref().try_into().map_err(invalid)?;
    let iv = iv.as_ref().try_into().map_err(invalid)?;
    RecordKey::new(key, iv, next).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct RecordReader<R> {
    stream: R,
    key: RecordKey,
    /// What the session had opened already.
    opened: Vec<u8>,
    /// From the socket: opened content up to `text_end`, then sealed records up to `end`.
    buffer: Vec<u8>,
    start: usize,
    text_end: usize,
    /// Where the next record begins.
    sealed: usize,
    end: usize,
    small_portions: u32,
    empty_records: u32,
    is_over: bool,
}

impl<R> RecordReader<R> {
    fn new(stream: R, key: RecordKey, opened: Vec<u8>, unread: &[u8]) -> Self {
        let mut buffer = vec![0; SMALL_BYTES.max(unread.len())];
        buffer[..unread.len()].copy_from_slice(unread);
        RecordReader {
            stream,
            key,
            opened,
            buffer,
            start: 0,
            text_end: 0,
            sealed: 0,
            end: unread.len(),
            small_portions: 0,
            empty_records: 0,
            is_over: false,
        }
    }

    /// Hands on what is open; whether that was anything.
    fn hand_on(&mut self, target: &mut ReadBuf<'_>) -> bool {
        if !self.opened.is_empty() {
            let len = target.remaining().min(self.opened.len());
            target.put_slice(&self.opened[..len]);
            self.opened.drain(..len);
            return len > 0;
        }
        let len = target.remaining().min(self.text_end - self.start);
        target.put_slice(&self.buffer[self.start..self.start + len]);
        self.start += len;
        len > 0
    }

    /// The length of the next record, its head included; none if not even that is there.
    fn next_len(&self) -> io::Result<Option<usize>> {
        let unread = &self.buffer[self.sealed..self.end];
        let Some(head) = unread.first_chunk() else {
            return Ok(None);
        };
        let body = body_len(*head).map_err(invalid)?;
        Ok(Some(RECORD_HEAD_BYTES + body))
    }

    /// Opens the next record if all of it is there; whether it was. Nothing may be open. What is long and fits goes to
    /// `target` at once, the rest stays in the buffer.
    fn open_next(&mut self, target: &mut ReadBuf<'_>) -> io::Result<bool> {
        let len = match self.next_len()? {
            Some(len) if len <= self.end - self.sealed => len,
            _ => return Ok(false),
        };
        let record = &mut self.buffer[self.sealed..self.sealed + len];
        let Some((head, body)) = record.split_first_chunk_mut::<RECORD_HEAD_BYTES>() else {
            return Ok(false);
        };
        let text_len = opened_len(len);
        let is_direct = (DIRECT_BYTES..=target.remaining()).contains(&text_len);
        let (content, content_len, text) = match is_direct {
            true => {
                let room = target.initialize_unfilled_to(text_len);
                let (content, len) = self.key.open_to(*head, body, room).map_err(invalid)?;
                (content, len, &room[..len])
            }
            false => {
                let (content, len) = self.key.open(*head, body).map_err(invalid)?;
                (content, len, &body[..len])
            }
        };
        match content {
            ContentType::Data if is_direct => target.advance(content_len),
            ContentType::Data => {
                self.start = self.sealed + RECORD_HEAD_BYTES;
                self.text_end = self.start + content_len;
            }
            ContentType::Alert if text.get(1) == Some(&CLOSE_NOTIFY) => self.is_over = true,
            ContentType::Alert => {
                let said = text.get(1).copied().unwrap_or_default();
                let why = format!("the peer ended it with alert {said}");
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
            }
            ContentType::Handshake if text.first() == Some(&NEW_SESSION_TICKET) => {}
            ContentType::Handshake => return Err(invalid("another handshake")),
        }
        self.empty_records = match content == ContentType::Data && content_len > 0 {
            true => 0,
            false => self.empty_records + 1,
        };
        if self.empty_records > EMPTY_MAX {
            return Err(invalid("too many records without content"));
        }
        self.sealed += len;
        Ok(true)
    }

    /// Makes room behind the beginning of the next record, by how full the last portions were.
    fn make_room(&mut self) -> io::Result<()> {
        let rest = self.sealed..self.end;
        let needed = self.next_len()?.unwrap_or(RECORD_HEAD_BYTES);
        let size = self.buffer.len();
        let is_full = self.end == size && size < LARGE_BYTES;
        let is_quiet = self.small_portions >= QUIET_PORTIONS && size > SMALL_BYTES;
        let wanted = match (is_full, is_quiet) {
            (true, _) => (size * 4).min(LARGE_BYTES),
            (_, true) => SMALL_BYTES,
            _ => size,
        };
        let wanted = wanted.max(needed).max(rest.len());
        let len = rest.len();
        if wanted == size {
            self.buffer.copy_within(rest, 0);
        } else {
            let mut buffer = vec![0; wanted];
            buffer[..len].copy_from_slice(&self.buffer[rest]);
            self.buffer = buffer;
        }
        (self.start, self.text_end, self.sealed, self.end) = (0, 0, 0, len);
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> RecordReader<R> {
    /// Reads more of what is sealed; whether there was any.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.make_room()?;
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let len = room.filled().len();
        self.end += len;
        self.small_portions = match len < SMALL_BYTES {
            true => self.small_portions.saturating_add(1),
            false => 0,
        };
        Poll::Ready(Ok(len > 0))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for RecordReader<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = target.filled().len();
        while target.remaining() > 0 {
            if this.hand_on(target) {
                continue;
            }
            if this.is_over || this.open_next(target)? {
                match this.is_over {
                    true => break,
                    false => continue,
                }
            }
            if target.filled().len() > filled {
                break;
            }
            if !ready!(this.poll_fill(cx))? {
                // Without that alert somebody may have cut it off.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct RecordWriter<W> {
    stream: W,
    key: RecordKey,
    /// Sealed up to `end`, and sent up to `sent`.
    sealed: Vec<u8>,
    sent: usize,
    end: usize,
    /// Flushes in a row of which each had little to send.
    small_portions: u32,
    wear: Option<oneshot::Sender<()>>,
    is_ended: bool,
}

impl<W> RecordWriter<W> {
    fn new(stream: W, key: RecordKey, wear: oneshot::Sender<()>) -> Self {
        RecordWriter {
            stream,
            key,
            sealed: Vec::new(),
            sent: 0,
            end: 0,
            small_portions: 0,
            wear: Some(wear),
            is_ended: false,
        }
    }

    /// Room for so much content in as few records as can be.
    fn make_room(&mut self, content: usize) {
        let records = content.div_ceil(RECORD_CONTENT_MAX_BYTES).max(1);
        let end = self.end + content + records * record_len(0);
        if self.sealed.len() < end {
            self.sealed.resize(end, 0);
        }
    }

    /// Seals a record behind those that are sealed.
    fn seal_record(&mut self, content: ContentType, pieces: &[&[u8]]) -> io::Result<()> {
        self.make_room(pieces.iter().map(|piece| piece.len()).sum());
        let room = &mut self.sealed[self.end..];
        self.end += self.key.seal(content, pieces, room).map_err(invalid)?;
        Ok(())
    }

    /// Seals what is written, as far as it goes ahead of the socket. How much that was.
    fn seal(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: usize = bytes.iter().map(|slice| slice.len()).sum();
        self.make_room(all.min(AHEAD_BYTES));
        let mut rest = bytes.iter().map(|slice| &slice[..]);
        let mut piece: &[u8] = &[];
        let mut taken = 0;
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(bytes.len());
        loop {
            pieces.clear();
            let mut room = RECORD_CONTENT_MAX_BYTES.min(AHEAD_BYTES - taken);
            while room > 0 {
                if piece.is_empty() {
                    match rest.next() {
                        Some(next) => piece = next,
                        None => break,
                    }
                }
                let (now, later) = piece.split_at(room.min(piece.len()));
                pieces.push(now);
                piece = later;
                room -= now.len();
            }
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            if len == 0 {
                break;
            }
            self.seal_record(ContentType::Data, &pieces)?;
            taken += len;
        }
        if self.key.used() >= RECORDS_WORN
            && let Some(wear) = self.wear.take()
        {
            let _ = wear.send(());
        }
        Ok(taken)
    }
}

impl<W: AsyncWrite + Unpin> RecordWriter<W> {
    /// Sends all that is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.end {
            let rest = &self.sealed[self.sent..self.end];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
        }
        self.small_portions = match self.end {
            0 => self.small_portions,
            1..SMALL_BYTES => self.small_portions.saturating_add(1),
            _ => 0,
        };
        (self.sent, self.end) = (0, 0);
        if self.small_portions >= QUIET_PORTIONS && self.sealed.len() > SMALL_BYTES {
            self.sealed = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for RecordWriter<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let is_sending = this.sent > 0;
        if is_sending || this.end >= HELD_BYTES {
            ready!(this.poll_send(cx))?;
        }
        let taken = this.seal(bytes)?;
        if this.end < HELD_BYTES {
            return Poll::Ready(Ok(taken));
        }
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is left goes with the next call.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if !this.is_ended {
            this.is_ended = true;
            this.seal_record(ContentType::Alert, &[&[1, CLOSE_NOTIFY]])?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
