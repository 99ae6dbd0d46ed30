//! The TCP stream below the handshake: hands on no more than one record at a time, so that whoever takes the connection over
//! afterwards finds all that follows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::crypto::record::RECORD_HEAD_BYTES;

/// A handshake with its certificates takes about two of these.
const PORTION_BYTES: usize = 4 << 10;

/// Options of every connection.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// Reads record by record.
#[derive(Debug)]
pub(super) struct ByRecord<S> {
    stream: S,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the present record that were not handed on yet.
    left: usize,
}

impl<S> ByRecord<S> {
    pub(super) fn new(stream: S) -> Self {
        ByRecord {
            stream,
            buffer: vec![0; PORTION_BYTES],
            start: 0,
            end: 0,
            left: 0,
        }
    }

    /// The stream, and what was read of it and not handed on; nothing if it is in the middle of a record.
    pub(super) fn into_parts(self) -> Option<(S, Vec<u8>)> {
        let mut rest = self.buffer;
        rest.truncate(self.end);
        rest.drain(..self.start);
        (self.left == 0).then_some((self.stream, rest))
    }

    fn head(&self) -> Option<[u8; RECORD_HEAD_BYTES]> {
        let unread = self.buffer.get(self.start..self.end)?;
        unread.first_chunk().copied()
    }
}

impl<S: AsyncRead + Unpin> ByRecord<S> {
    /// Reads more; whether there was any.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let mut room = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let len = room.filled().len();
        self.end += len;
        Poll::Ready(Ok(len > 0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ByRecord<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left == 0 {
            if let Some([.., high, low]) = this.head() {
                let body = usize::from(u16::from_be_bytes([high, low]));
                this.left = RECORD_HEAD_BYTES + body;
            } else if !ready!(this.poll_fill(cx))? {
                // The end; in the middle of a head the rest of it is for the session to judge.
                this.left = this.end - this.start;
                break;
            }
        }
        if this.start == this.end && this.left > 0 && !ready!(this.poll_fill(cx))? {
            return Poll::Ready(Ok(()));
        }
        let len = target.remaining().min(this.end - this.start).min(this.left);
        target.put_slice(&this.buffer[this.start..this.start + len]);
        this.start += len;
        this.left -= len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ByRecord<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_follows_a_record_is_not_touched() {
        let (mut far, near) = tokio::io::duplex(1 << 16);
        let record = |len: usize, byte: u8| {
            let [high, low] = (len as u16).to_be_bytes();
            let mut record = vec![22, 3, 3, high, low];
            record.extend(std::iter::repeat_n(byte, len));
            record
        };
        let all = [record(9000, 1), record(0, 2), record(3, 3), record(50, 4)].concat();
        far.write_all(&all).await.unwrap();
        let mut stream = ByRecord::new(near);
        let mut read = Vec::new();
        while read.len() < 9005 + 5 + 8 {
            let before = read.len();
            let mut portion = [0; 10_000];
            let len = stream.read(&mut portion).await.unwrap();
            read.extend_from_slice(&portion[..len]);
            let ends = [9005, 9010, 9018];
            let is_crossed = |end: &&usize| before < **end && read.len() > **end;
            assert_eq!(
                ends.iter().find(is_crossed),
                None,
                "{before} {}",
                read.len()
            );
        }
        assert_eq!(read, all[..9018]);
        let (mut near, rest) = stream.into_parts().unwrap();
        drop(far);
        let mut unread = rest;
        near.read_to_end(&mut unread).await.unwrap();
        assert_eq!(unread, record(50, 4));
    }

    #[tokio::test]
    async fn in_the_middle_of_a_record_it_cannot_be_taken_over() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(&[22, 3, 3, 0, 9, 1]).await.unwrap();
        let mut stream = ByRecord::new(near);
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 6);
        drop(far);
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(stream.into_parts().is_none());
    }
}
