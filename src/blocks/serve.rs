//! Answering other peers: storing, claiming and handing out shards and pointers, within what is offered.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pointers::Kept;
use super::{Blocks, FeedDoor, HearError, PointerError, Releases};
use crate::base::limits::{BATCH_BLOCKS_MAX, POINTERS_PER_VOLUME_MAX, STRIPE_HEADER_MAX_BYTES};
use crate::base::{BlockId, ClaimId, Class, Classify, Clock, IndexSet, PeerId, Pools, VolumeId};
use crate::erasure::VerifiedShard;
use crate::net::{Inbound, Refusal, Request, Response};
use crate::store::{PartReader, Store, StoreError};

/// Requests of all peers that are worked on at once.
const CONCURRENT: usize = 256;

/// What a peer does for others.
#[derive(Debug)]
pub struct ServeOptions {
    /// Whether it takes shards from others. May change while running.
    pub offer: AtomicBool,
    /// How long a claim may live without being closed, in milliseconds; longer wishes are cut.
    pub claim_ttl_ms: u64,
}

/// Answers inbound requests until `stop`, then finishes those under way. Messages about feeds go to those who serve
/// feeds.
pub async fn serve(
    mut inbound: mpsc::Receiver<Inbound>,
    blocks: Blocks,
    options: Arc<ServeOptions>,
    feeds: FeedDoor,
    stop: CancellationToken,
) {
    let server = Arc::new(Server {
        store: blocks.store.clone(),
        pools: blocks.pools.clone(),
        clock: blocks.clock.clone(),
        pointers: blocks.pointers.clone(),
        releases: blocks.releases.clone(),
        options,
        feeds,
        upkeep: blocks.upkeep.clone(),
    });
    drop(blocks);
    let slots = Arc::new(Semaphore::new(CONCURRENT));
    let tasks = TaskTracker::new();
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = inbound.recv() => next,
        };
        let Some(Inbound {
            from,
            request,
            reply,
        }) = next
        else {
            break;
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let response = server.answer(from, request).await;
            drop(slot);
            // An asker that has gone away needs no answer.
            let _ = reply.send(response);
        });
    }
    tasks.close();
    tasks.wait().await;
}

struct Server {
    store: Store,
    pools: Pools,
    clock: Clock,
    pointers: Kept,
    releases: Releases,
    options: Arc<ServeOptions>,
    feeds: FeedDoor,
    upkeep: FeedDoor,
}

impl Server {
    async fn answer(&self, from: PeerId, request: Request) -> Response {
        match request {
            Request::Have { blocks } => self.have(&blocks).await,
            Request::Claim {
                claim,
                expires_ms,
                blocks,
            } => self.claim(from, claim, expires_ms, blocks).await,
            Request::Store {
                claim,
                expires_ms,
                block,
                index,
                header,
                data,
            } => {
                if !self.options.offer.load(Ordering::Relaxed) {
                    return refused(Refusal::NotOffered);
                }
                if claim.writer != from || header.len() > STRIPE_HEADER_MAX_BYTES {
                    return refused(Refusal::Invalid);
                }
                // No hashing for what there is no room for.
                let room = self.store.usage().intake_left;
                if (data.len() as u64) > room {
                    return Response::Refused {
                        reason: Refusal::Full,
                        free_bytes: room,
                    };
                }
                let checked = self
                    .pools
                    .cpu
                    .run(move || VerifiedShard::verify(block, index, header, data))
                    .await;
                match checked {
                    Ok(shard) => {
                        let expires_ms = self.expiry(expires_ms);
                        let stored = self.store.put(shard, claim, expires_ms).await;
                        self.done(stored.map(drop), Response::Stored)
                    }
                    Err(error) => {
                        tracing::warn!(from = %from.short(), "refused a shard: {error}");
                        refused(Refusal::Invalid)
                    }
                }
            }
            Request::Fetch { block, wanted } => self.fetch(block, wanted).await,
            Request::FetchRange {
                block,
                index,
                start,
                end,
            } => self.fetch_range(block, index, start..end).await,
            Request::CloseClaim { claim } => {
                if claim.writer != from {
                    return refused(Refusal::Denied);
                }
                match self.store.close_claim(claim).await {
                    // It has expired and is forgotten, with all that it kept: that is not done.
                    Ok(false) => refused(Refusal::Denied),
                    closed => self.done(closed.map(drop), Response::Done),
                }
            }
            Request::ReleaseClaim { claim, proof } => {
                if claim.writer != from {
                    return refused(Refusal::Denied);
                }
                match self.releases.hear_of_writer(claim, proof).await {
                    Ok(()) => Response::Done,
                    Err(HearError::Store(error)) => self.failed(&error),
                    Err(error @ HearError::Forged) => {
                        tracing::warn!(from = %from.short(), "refused: {error}");
                        refused(Refusal::Invalid)
                    }
                }
            }
            Request::Feed { body } => self.feeds.answer(from, body).await,
            Request::Upkeep { body } => self.upkeep.answer(from, body).await,
            Request::Publish { record } => self.publish(from, record).await,
            Request::Published { volume } => self.published(&volume).await,
            // The member list is the network's own business; it answers these itself.
            Request::Records { .. } | Request::Announce { .. } | Request::Unknown { .. } => {
                Response::Unsupported
            }
        }
    }

    async fn publish(&self, from: PeerId, record: Bytes) -> Response {
        if !self.options.offer.load(Ordering::Relaxed) {
            return refused(Refusal::NotOffered);
        }
        match self.pointers.keep(from, record).await {
            Ok(_) => Response::Done,
            Err(PointerError::Stale) => refused(Refusal::Stale),
            Err(PointerError::Full) => Response::Refused {
                reason: Refusal::Full,
                free_bytes: self.store.usage().intake_left,
            },
            Err(PointerError::Store(error)) => self.failed(&error),
            Err(error @ (PointerError::Invalid(_) | PointerError::Ahead)) => {
                tracing::warn!(from = %from.short(), "refused: {error}");
                refused(Refusal::Invalid)
            }
        }
    }

    async fn published(&self, volume: &VolumeId) -> Response {
        match self.pointers.records(volume).await {
            Ok(mut records) => {
                records.truncate(POINTERS_PER_VOLUME_MAX);
                Response::Published { records }
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn have(&self, blocks: &[BlockId]) -> Response {
        if blocks.len() > BATCH_BLOCKS_MAX {
            return refused(Refusal::Invalid);
        }
        match self.store.held(blocks).await {
            Ok(held) => Response::Held { held },
            Err(error) => self.failed(&error),
        }
    }

    async fn claim(
        &self,
        from: PeerId,
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    ) -> Response {
        if claim.writer != from || blocks.len() > BATCH_BLOCKS_MAX {
            return refused(Refusal::Invalid);
        }
        let expires_ms = self.expiry(expires_ms);
        match self.store.claim(claim, expires_ms, blocks).await {
            Ok(held) => Response::Held { held },
            Err(error) => self.failed(&error),
        }
    }

    async fn fetch(&self, block: BlockId, wanted: IndexSet) -> Response {
        match self.store.get(block, wanted).await {
            Ok(Some((shard, held))) => Response::Shard {
                index: shard.id().index,
                held,
                header: shard.header().clone(),
                data: shard.data().clone(),
            },
            Ok(None) => self.missing(block).await,
            Err(error) if error.class() == Class::Corrupt => Response::Missing {
                held: IndexSet::EMPTY,
            },
            Err(error) => self.failed(&error),
        }
    }

    async fn fetch_range(&self, block: BlockId, index: u8, range: Range<u32>) -> Response {
        let read = move |reader: &PartReader<'_>| {
            let found = reader.read(block, index, &range)?;
            Ok(found.map(|found| Response::Range {
                header: found.stripe().encoded().clone(),
                start: found.part().at() as u32,
                proof: found.proof().into(),
                data: found.part().data().clone(),
            }))
        };
        match self.store.read_parts(read).await {
            Ok(Some(response)) => response,
            Ok(None) => self.missing(block).await,
            Err(error) if error.class() == Class::Corrupt => Response::Missing {
                held: IndexSet::EMPTY,
            },
            Err(error) => self.failed(&error),
        }
    }

    async fn missing(&self, block: BlockId) -> Response {
        match self.store.held(&[block]).await {
            Ok(held) => Response::Missing {
                held: held.first().copied().unwrap_or_default(),
            },
            Err(error) => self.failed(&error),
        }
    }

    /// No claim outlives this peer's own bound, whatever the asker's clock says.
    fn expiry(&self, wished_ms: u64) -> u64 {
        let now = self.clock.now_ms();
        wished_ms.clamp(now, now.saturating_add(self.options.claim_ttl_ms))
    }

    fn done(&self, result: Result<(), StoreError>, yes: Response) -> Response {
        match result {
            Ok(()) => yes,
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &StoreError) -> Response {
        match error.class() {
            Class::Full => Response::Refused {
                reason: Refusal::Full,
                free_bytes: self.store.usage().intake_left,
            },
            Class::Retry => Response::Busy,
            Class::Denied => refused(Refusal::Denied),
            _ => {
                tracing::warn!("the store failed a request: {error}");
                refused(Refusal::Broken)
            }
        }
    }
}

const fn refused(reason: Refusal) -> Response {
    Response::Refused {
        reason,
        free_bytes: 0,
    }
}
