//! The TCP stream below TLS, read in large portions: rustls by itself asks for 4 KiB at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Portion to begin with, and of a connection that says little.
const SMALL_BYTES: usize = 8 << 10;
/// Largest portion.
const LARGE_BYTES: usize = 256 << 10;
/// Small portions in a row after which a connection counts as quiet.
const QUIET_PORTIONS: u32 = 64;

/// Options of every connection.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// Reads ahead, with a buffer that grows while it is filled and shrinks when it is not.
#[derive(Debug)]
pub(super) struct ReadAhead<S> {
    stream: S,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    small_portions: u32,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(stream: S) -> Self {
        ReadAhead {
            stream,
            buffer: vec![0; SMALL_BYTES],
            start: 0,
            end: 0,
            small_portions: 0,
        }
    }

    /// Makes room for the next portion, by how full the last ones were.
    fn empty(&mut self) {
        let size = self.buffer.len();
        if self.end == size && size < LARGE_BYTES {
            self.buffer = vec![0; (size * 4).min(LARGE_BYTES)];
        } else if self.small_portions >= QUIET_PORTIONS && size > SMALL_BYTES {
            self.buffer = vec![0; SMALL_BYTES];
        }
        self.start = 0;
        self.end = 0;
    }

    fn filled(&mut self, len: usize) {
        self.end = len;
        self.small_portions = match len < SMALL_BYTES {
            true => self.small_portions.saturating_add(1),
            false => 0,
        };
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            this.empty();
            let mut portion = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut portion))?;
            let len = portion.filled().len();
            this.filled(len);
        }
        let len = target.remaining().min(this.end - this.start);
        target.put_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
