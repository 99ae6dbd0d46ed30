//! Bytes from the transport: small parts through one buffer, payloads straight to their place.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::LinkEnd;
use super::state::Shared;
use crate::net::budget::PayloadBuffer;
use crate::net::codec::{HEADER_BYTES, Header};

/// Heads and control parts are read in portions of this size.
const BUFFER_BYTES: usize = 16 << 10;
/// Bytes received between two looks at the bandwidth limit.
const ACCOUNT_BYTES: usize = 16 << 10;

/// The reading half of a link.
pub(super) struct Input<R> {
    transport: R,
    buffer: BytesMut,
    shared: Arc<Shared>,
    unaccounted: usize,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(transport: R, shared: Arc<Shared>) -> Self {
        Input {
            transport,
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
            shared,
            unaccounted: 0,
        }
    }

    /// The next head; `None` when the peer closed between two frames.
    pub(super) async fn header(&mut self) -> Result<Option<Header>, LinkEnd> {
        while self.buffer.len() < HEADER_BYTES {
            if self.fill().await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(truncated()),
                };
            }
        }
        let mut head = [0u8; HEADER_BYTES];
        self.buffer.copy_to_slice(&mut head);
        Header::decode(&head)
            .map(Some)
            .map_err(|error| LinkEnd::Protocol(error.to_string()))
    }

    /// The next `len` bytes, through the buffer: for control parts.
    pub(super) async fn small(&mut self, len: usize) -> Result<Bytes, LinkEnd> {
        while self.buffer.len() < len {
            if self.fill().await? == 0 {
                return Err(truncated());
            }
        }
        Ok(self.buffer.split_to(len).freeze())
    }

    /// Puts the next `len` bytes into `target`, which has room for them.
    pub(super) async fn straight(
        &mut self,
        target: &mut PayloadBuffer,
        len: usize,
    ) -> Result<(), LinkEnd> {
        let mut rest = len;
        while rest > 0 {
            let room = target.unfilled();
            let most = rest.min(room.len());
            let room = room.get_mut(..most).unwrap_or_default();
            let read = match self.buffer.is_empty() {
                false => {
                    let buffered = most.min(self.buffer.len());
                    self.buffer.copy_to_slice(&mut room[..buffered]);
                    buffered
                }
                true => {
                    let read = self.transport.read(room).await;
                    self.account(read).await?
                }
            };
            if read == 0 {
                return Err(truncated());
            }
            target.advance(read);
            rest -= read;
        }
        Ok(())
    }

    /// Reads the next `len` bytes and throws them away.
    pub(super) async fn skip(&mut self, mut len: usize) -> Result<(), LinkEnd> {
        loop {
            let buffered = len.min(self.buffer.len());
            self.buffer.advance(buffered);
            len -= buffered;
            if len == 0 {
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(truncated());
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, LinkEnd> {
        if self.buffer.capacity() - self.buffer.len() < BUFFER_BYTES / 4 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        let read = self.transport.read_buf(&mut self.buffer).await;
        self.account(read).await
    }

    async fn account(&mut self, read: std::io::Result<usize>) -> Result<usize, LinkEnd> {
        let read = read.map_err(|error| LinkEnd::Lost(error.to_string()))?;
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        let down = &self.shared.context.throttle.down;
        if down.rate() != 0 {
            self.unaccounted += read;
            if self.unaccounted >= ACCOUNT_BYTES.min(down.portion_bytes()) {
                self.shared.holding_back.store(true, Ordering::Relaxed);
                down.take(std::mem::take(&mut self.unaccounted)).await;
                self.shared.holding_back.store(false, Ordering::Relaxed);
            }
        }
        Ok(read)
    }
}

fn truncated() -> LinkEnd {
    LinkEnd::Lost("it ended in the middle of a message".to_owned())
}
