//! Answering other peers: storing, claiming and handing out shards and pointers, within what is offered.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pointers::Kept;
use super::tails::{AnswerError, Tails};
use super::{Blocks, FeedDoor, HearError, PointerError, Releases};
use crate::base::limits::{BATCH_BLOCKS_MAX, POINTERS_PER_VOLUME_MAX, STRIPE_HEADER_MAX_BYTES};
use crate::base::{BlockId, ClaimId, Class, Classify, Clock, IndexSet, PeerId, Pools, VolumeId};
use crate::erasure::VerifiedShard;
use crate::feeds::Keeping;
use crate::net::{Inbound, Refusal, Request, Response};
use crate::store::{Keeper, PartReader, Store, StoreError};

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
        tails: blocks.tails.clone(),
        releases: blocks.releases.clone(),
        options,
        feeds,
        upkeep: blocks.upkeep.clone(),
        own: blocks.net.own(),
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
    tails: Tails,
    releases: Releases,
    options: Arc<ServeOptions>,
    feeds: FeedDoor,
    upkeep: FeedDoor,
    own: PeerId,
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
            Request::Feed { body } if Keeping::is_one(&body) => self.keep_feed(from, body).await,
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

    /// What is said about feeds that are kept for others.
    async fn keep_feed(&self, from: PeerId, body: Bytes) -> Response {
        let offers = self.options.offer.load(Ordering::Relaxed);
        match self.tails.answer(from, body, offers).await {
            Ok(Some(answer)) => Response::Feed {
                body: answer.encode().into(),
            },
            Ok(None) => Response::Unsupported,
            Err(AnswerError::Busy) => Response::Busy,
            Err(AnswerError::Store(error)) => self.failed(&error),
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
        match self.claim_what_may_be(claim, expires_ms, blocks).await {
            Ok(held) => Response::Held { held },
            Err(error) => self.failed(&error),
        }
    }

    /// Claims those blocks that others may claim here. Without an offer that is what somebody else keeps here already, as
    /// when it was offered once: what only the own puts keep is never kept for others, and counts as not held.
    async fn claim_what_may_be(
        &self,
        claim: ClaimId,
        expires_ms: u64,
        blocks: Vec<BlockId>,
    ) -> Result<Vec<IndexSet>, StoreError> {
        if self.options.offer.load(Ordering::Relaxed) {
            return self.store.claim(claim, expires_ms, blocks).await;
        }
        let keepers = self.store.keepers(blocks.clone()).await?;
        let mut all = vec![IndexSet::EMPTY; blocks.len()];
        let is_for_others =
            |keepers: &[Keeper]| keepers.iter().any(|keeper| keeper.claim.writer != self.own);
        let (places, blocks): (Vec<usize>, Vec<BlockId>) = blocks
            .into_iter()
            .enumerate()
            .zip(keepers)
            .filter_map(|(placed, keepers)| is_for_others(&keepers).then_some(placed))
            .unzip();
        if blocks.is_empty() {
            return Ok(all);
        }
        let held = self.store.claim(claim, expires_ms, blocks).await?;
        for (at, held) in places.into_iter().zip(held) {
            if let Some(place) = all.get_mut(at) {
                *place = held;
            }
        }
        Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{EcProfile, Entropy, OwnerId, ShardHash};
    use crate::erasure::{CodecId, StripeHeader};
    use crate::store::{MemDisk, StoreOptions};

    const OWN: PeerId = PeerId([1; 32]);
    const NOW_MS: u64 = 1_767_225_600_000;

    fn claim_of(writer: PeerId) -> ClaimId {
        ClaimId {
            owner: OwnerId(writer.0.first_chunk().copied().unwrap_or_default()),
            writer,
            number: 1,
        }
    }

    async fn server(offer: bool) -> Server {
        let options = StoreOptions::new(64 << 20, Entropy::seeded(1));
        let disk = Arc::new(MemDisk::new(1 << 30));
        let (pools, clock) = (Pools::inline(), Clock::simulated(NOW_MS));
        let opened = Store::open(disk, options, pools.clone(), clock.clone());
        let (store, _) = opened.await.unwrap();
        let kept = Kept::open(OWN, store.clone(), pools.clone(), clock.clone());
        let releases = Releases::open(store.clone(), pools.clone(), clock.clone());
        let tails = Tails::open(store.clone(), pools.clone(), clock.clone());
        Server {
            pointers: kept.await.unwrap(),
            tails: tails.await.unwrap(),
            releases: releases.await.unwrap(),
            store,
            pools,
            clock,
            options: Arc::new(ServeOptions {
                offer: AtomicBool::new(offer),
                claim_ttl_ms: 3_600_000,
            }),
            feeds: FeedDoor::default(),
            upkeep: FeedDoor::default(),
            own: OWN,
        }
    }

    fn shard(seed: u8) -> VerifiedShard {
        let data = Bytes::from(vec![seed; 1000]);
        let header = StripeHeader {
            codec: CodecId::ReedSolomon,
            profile: EcProfile::new(1, 0).unwrap(),
            sealed_len: 1000,
            shard_len: 1000,
            shard_hashes: vec![ShardHash(*blake3::hash(&data).as_bytes())],
        };
        let header = Bytes::from(header.encode());
        VerifiedShard::verify(StripeHeader::address(&header), 0, header, data).unwrap()
    }

    /// Who offers nothing keeps nothing for others but what it kept for others already.
    #[tokio::test(start_paused = true)]
    async fn a_claim_finds_what_may_be_claimed() {
        let (ours, theirs, missing) = (shard(1), shard(2), shard(3));
        let blocks = [&ours, &theirs, &missing].map(|shard| shard.id().block);
        let (first, second) = (PeerId([2; 32]), PeerId([3; 32]));
        for offers in [true, false] {
            let server = server(offers).await;
            let store = &server.store;
            for (shard, writer) in [(&ours, OWN), (&theirs, first)] {
                let put = store.put(shard.clone(), claim_of(writer), NOW_MS + 1000);
                assert!(put.await.unwrap());
            }
            let ask = |writer| {
                let request = Request::Claim {
                    claim: claim_of(writer),
                    expires_ms: NOW_MS + 1000,
                    blocks: blocks.to_vec(),
                };
                server.answer(writer, request)
            };
            let one = IndexSet::one(0);
            let of_ours = if offers { one } else { IndexSet::EMPTY };
            let held = vec![of_ours, one, IndexSet::EMPTY];
            for writer in [second, first] {
                let answer = ask(writer).await;
                assert_eq!(answer, Response::Held { held: held.clone() }, "{offers}");
            }
            store.release_claim(claim_of(OWN)).await.unwrap();
            store.release_claim(claim_of(first)).await.unwrap();
            let left = store.held(&blocks).await.unwrap();
            assert_eq!(left, held, "{offers}");
        }
    }
}
