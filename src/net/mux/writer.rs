//! The writing task of a link: small messages first, then one segment of a payload.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::LinkEnd;
use super::state::{Answer, AtRest, Shared};
use crate::net::codec::{Header, INLINE_MAX_BYTES, Kind, Outgoing, SEGMENT_MAX_BYTES};

/// A message whose payload is being written.
struct Transfer {
    frame: Outgoing,
    begun: bool,
}

/// Writes until both sides have nothing more to say (`Ok`), or the connection breaks.
pub(super) async fn write_loop<W>(shared: Arc<Shared>, transport: W) -> Result<(), LinkEnd>
where
    W: AsyncWrite + Unpin,
{
    let mut writer = Writer {
        transport,
        shared,
        answers: FuturesUnordered::new(),
        transfer: None,
        buffer: BytesMut::new(),
        finished: Vec::new(),
    };
    let outcome = writer.run().await;
    outcome.map_err(|error| LinkEnd::Lost(error.to_string()))
}

struct Writer<W> {
    transport: W,
    shared: Arc<Shared>,
    answers: FuturesUnordered<Answer>,
    transfer: Option<Transfer>,
    buffer: BytesMut,
    finished: Vec<u64>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(&mut self) -> io::Result<()> {
        let mut unflushed = false;
        loop {
            self.collect_answers();
            unflushed |= self.write_small().await?;
            unflushed |= self.write_segment().await?;
            if self.transfer.is_some() {
                continue;
            }
            match self.shared.at_rest() {
                AtRest::More => {}
                _ if unflushed => {
                    self.transport.flush().await?;
                    unflushed = false;
                }
                AtRest::Finished => {
                    self.transport.shutdown().await?;
                    return Ok(());
                }
                AtRest::Wait => self.wait().await,
            }
        }
    }

    fn collect_answers(&mut self) {
        self.answers.extend(self.shared.new_answers());
        while let Some(Some((id, answered))) = self.answers.next().now_or_never() {
            self.shared.queue_answer(id, answered);
        }
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            Some((id, answered)) = self.answers.next() => self.shared.queue_answer(id, answered),
            () = self.shared.work.notified() => {}
        }
    }

    async fn write_small(&mut self) -> io::Result<bool> {
        self.shared.take_small(&mut self.buffer, &mut self.finished);
        if self.buffer.is_empty() {
            return Ok(false);
        }
        let up = &self.shared.context.throttle.up;
        while !self.buffer.is_empty() {
            let portion = self.buffer.len().min(up.portion_bytes());
            if up.rate() != 0 {
                // What waits for others to go with it should not wait for the limit as well.
                self.transport.flush().await?;
            }
            up.take(portion).await;
            self.transport.write_all(&self.buffer[..portion]).await?;
            self.shared.writes.fetch_add(1, Ordering::Relaxed);
            self.buffer.advance(portion);
        }
        // An idle link should not hold on to the room of its busiest moment.
        self.buffer = BytesMut::new();
        self.shared.written(&mut self.finished);
        Ok(true)
    }

    async fn write_segment(&mut self) -> io::Result<bool> {
        let transfer = match self.transfer.take() {
            Some(transfer) => Some(transfer),
            None => self.shared.next_bulk().map(|frame| Transfer {
                frame,
                begun: false,
            }),
        };
        let Some(mut transfer) = transfer else {
            return Ok(false);
        };
        let frame = &mut transfer.frame;
        let up = &self.shared.context.throttle.up;
        let head = match std::mem::replace(&mut transfer.begun, true) {
            true => Bytes::new(),
            false => frame.head.clone(),
        };
        let in_segments = frame.payload.len() > INLINE_MAX_BYTES || head.is_empty();
        let segment = match in_segments {
            true => {
                let len = frame.payload.len().min(SEGMENT_MAX_BYTES);
                frame.payload.split_to(len.min(up.portion_bytes()))
            }
            false => std::mem::take(&mut frame.payload),
        };
        let segment_head = Header {
            payload_len: segment.len() as u32,
            ..Header::bare(Kind::Data, frame.id)
        }
        .encode();
        let segment_head = match in_segments {
            true => &segment_head[..],
            false => &[],
        };
        if up.rate() != 0 {
            self.transport.flush().await?;
        }
        up.take(head.len() + segment_head.len() + segment.len())
            .await;
        let mut bytes = head.chain(segment_head).chain(segment);
        self.transport.write_all_buf(&mut bytes).await?;
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        if transfer.frame.payload.is_empty() {
            if transfer.frame.kind == Kind::Response {
                self.finished.push(transfer.frame.id);
                self.shared.written(&mut self.finished);
            }
        } else {
            self.transfer = Some(transfer);
        }
        Ok(true)
    }
}
