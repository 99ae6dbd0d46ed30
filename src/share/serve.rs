//! Answering other replicas.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::Inner;
use super::exchange::pages;
use crate::base::PeerId;
use crate::blocks::FeedInbound;
use crate::feeds::gossip::DELTAS_MAX_BYTES;
use crate::feeds::{Accord, Answer, Clearing, Message};
use crate::net::Response;

/// Messages that are worked on at once.
const CONCURRENT: usize = 16;
/// Bytes of deltas in one answer at most.
const ANSWER_BYTES: usize = 2 << 20;

impl Inner {
    /// Answers what others say about this volume.
    pub(super) async fn answer_always(self: Arc<Self>, mut inbound: mpsc::Receiver<FeedInbound>) {
        let slots = Arc::new(Semaphore::new(CONCURRENT));
        while let Some(FeedInbound { from, body, reply }) = inbound.recv().await {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let inner = Arc::clone(&self);
            self.spawn(async move {
                // An asker that has gone away needs no answer.
                let _ = reply.send(inner.answer(from, body).await);
                drop(slot);
            });
        }
    }

    async fn answer(self: &Arc<Self>, from: PeerId, body: Bytes) -> Response {
        self.agreed.spoke(&from);
        if Accord::is_one(&body) {
            return self.answer_accord(from, body).await;
        }
        if Clearing::is_one(&body) {
            return self.answer_about_blocks(from, body).await;
        }
        // All who share a volume here are asked, and signatures cost.
        if Message::is_about_another(&body, self.volume) {
            return Response::Unsupported;
        }
        let read = self.pools.cpu.run(move || Message::decode(&body)).await;
        let message = match read {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(from = %from.short(), "a message about feeds was refused: {error}");
                return Response::Unsupported;
            }
        };
        if message.volume() != self.volume {
            return Response::Unsupported;
        }
        let mut answer = Answer::default();
        match message {
            Message::Heads {
                after,
                is_last,
                claims,
                signed,
                ..
            } => {
                self.compare_clocks(from, &signed);
                let mut signed = self.vfs.signed_head().await;
                let plan = self.heard(from, after, is_last, &claims);
                let end = claims.last().map(|claim| claim.writer);
                let own = self.vfs.claims();
                let is_inside = |writer| {
                    after.is_none_or(|after| writer > after)
                        && (is_last || end.is_some_and(|end| writer <= end))
                };
                let inside: Vec<_> = own
                    .into_iter()
                    .filter(|claim| is_inside(claim.writer))
                    .collect();
                let pages = pages(&inside);
                let count = pages.len();
                for (at, (before, _, page)) in pages.into_iter().enumerate() {
                    // All pages together say what the asker's list is about.
                    let heads = Message::Heads {
                        volume: self.volume,
                        after: before.or(after),
                        is_last: is_last && at + 1 == count,
                        claims: page.to_vec(),
                        signed: signed.take().into_iter().collect(),
                    };
                    let is_said = !page.is_empty() || is_last;
                    if is_said && !answer.push(&heads) {
                        break;
                    }
                }
                if !plan.ask.is_empty() && self.peers.begin_pull(&from) {
                    let inner = Arc::clone(self);
                    self.spawn(async move {
                        let pulled = inner.pull_all(from, plan.ask).await;
                        inner.peers.end_pull(&from);
                        if let Err(error) = pulled {
                            tracing::debug!(from = %from.short(), "asked again later: {error}");
                            inner.soon.notify_one();
                        }
                    });
                }
            }
            Message::Want {
                writer,
                after,
                limit_bytes,
                ..
            } => {
                let limit = (limit_bytes as usize)
                    .min(ANSWER_BYTES)
                    .min(DELTAS_MAX_BYTES);
                match self.vfs.deltas(writer, after, limit).await {
                    Ok(found) => {
                        let have = Message::Have {
                            volume: self.volume,
                            writer,
                            last: found.last,
                            deltas: found.deltas,
                        };
                        if !answer.push(&have) {
                            tracing::debug!(?writer, "a delta that fits into no answer");
                        }
                    }
                    Err(error) => {
                        tracing::warn!("own feeds cannot be read: {error}");
                        return Response::Busy;
                    }
                }
            }
            Message::Words { words, .. } => self.vfs.hear_reader(from, words).await,
            Message::Have {
                writer,
                last,
                deltas,
                ..
            } => {
                let received = self.vfs.receive(from, deltas).await;
                self.peers.said(&from, &[]);
                self.peers.has(&from, writer, last);
                for (writer, after) in received.missing {
                    let want = Message::Want {
                        volume: self.volume,
                        writer,
                        after,
                        limit_bytes: ANSWER_BYTES as u32,
                    };
                    if !answer.push(&want) {
                        break;
                    }
                }
                if received.is_lost || !answer.is_empty() || received.merged > 0 {
                    // Others may not have heard of it, or may have what is missing here.
                    self.soon.notify_one();
                }
            }
        }
        Response::Feed {
            body: answer.encode().into(),
        }
    }
}
