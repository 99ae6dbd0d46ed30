//! Answering what others ask about upkeep.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::message::{Ask, GroupSet, Say, Tally};
use super::proof;
use crate::base::limits::BATCH_BLOCKS_MAX;
use crate::base::{BlockId, ClaimId, Class, Classify, Entropy, Group, PeerId, ShardId};
use crate::blocks::{Blocks, FeedInbound, HearError, ServeOptions};
use crate::erasure::VerifiedShard;
use crate::net::{Refusal, Response};
use crate::store::{Digest, KEEPERS_PAGE, Keeper, StoreError};

/// Questions worked on at once.
const CONCURRENT: usize = 16;
/// Blocks looked at together when all groups are listed.
const PAGE: usize = BATCH_BLOCKS_MAX;

/// How well the blocks are kept that this peer looks after. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn get(&self) -> Tally {
        *self.lock()
    }

    pub(super) fn set(&self, tally: Tally) {
        *self.lock() = tally;
    }
}

/// The groups of which something is held, for the digest of everything that it belongs to.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedGroups(Arc<Mutex<Option<(Digest, GroupSet)>>>);

impl SharedGroups {
    /// Lists the groups, unless nothing has changed since it was last done.
    pub(super) async fn list(&self, blocks: &Blocks) -> Result<(Digest, GroupSet), StoreError> {
        let (digest, _) = blocks.store().digest();
        let known = self
            .0
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
            .clone();
        if let Some(known) = known.filter(|(of, _)| *of == digest) {
            return Ok(known);
        }
        let mut groups = GroupSet::default();
        for first in (0..=u16::MAX).step_by(GROUPS_AT_ONCE) {
            let some: Vec<_> = (0..GROUPS_AT_ONCE as u16)
                .map(|at| Group(first + at))
                .collect();
            let digests = blocks.store().group_digests(some.clone()).await?;
            for (group, digest) in some.into_iter().zip(digests) {
                if digest != Digest::EMPTY {
                    groups.insert(group);
                }
            }
        }
        let found = (digest, groups);
        *self.0.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(found.clone());
        Ok(found)
    }
}

/// Groups whose digests are read together; divides their number.
const GROUPS_AT_ONCE: usize = 4096;

pub(super) struct Server {
    pub(super) blocks: Blocks,
    pub(super) serving: Arc<ServeOptions>,
    pub(super) tally: SharedTally,
    pub(super) groups: SharedGroups,
    pub(super) entropy: Entropy,
}

impl Server {
    /// Answers until `stop`, then finishes what is under way.
    pub(super) async fn run(
        self,
        mut inbound: mpsc::Receiver<FeedInbound>,
        stop: CancellationToken,
    ) {
        let server = Arc::new(self);
        let slots = Arc::new(Semaphore::new(CONCURRENT));
        let tasks = TaskTracker::new();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = inbound.recv() => next,
            };
            let Some(FeedInbound { from, body, reply }) = next else {
                break;
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                break;
            };
            let server = Arc::clone(&server);
            tasks.spawn(async move {
                let response = server.answer(from, &body).await;
                drop(slot);
                // An asker that has gone away needs no answer.
                let _ = reply.send(response);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn answer(&self, from: PeerId, body: &Bytes) -> Response {
        let ask = match Ask::decode(body) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::debug!(from = %from.short(), "{error}");
                return Response::Unsupported;
            }
        };
        let say = match ask {
            Ask::Root { known } => self.root(known).await,
            Ask::Groups { groups } => {
                let digests = self.blocks.store().group_digests(groups).await;
                digests.map(|digests| Say::Groups { digests })
            }
            Ask::List { group, after } => {
                let page = self.blocks.store().holdings(Some(group), after, PAGE);
                page.await.map(|(blocks, next)| Say::List {
                    blocks,
                    is_all: next.is_none(),
                })
            }
            Ask::Keepers { blocks } => {
                let keepers = self.blocks.store().keepers(blocks).await;
                keepers.map(|keepers| Say::Keepers { keepers })
            }
            Ask::Claims { block, from } => {
                let store = self.blocks.store();
                let page = store.keepers_from(block, from, KEEPERS_PAGE).await;
                page.map(|(keepers, next)| Say::Claims { keepers, next })
            }
            Ask::Keep { block, keepers } => {
                if !self.serving.offer.load(Ordering::Relaxed) {
                    return refused(Refusal::NotOffered);
                }
                match keep(&self.blocks, &self.serving, block, keepers).await {
                    Ok(true) => Ok(Say::Done),
                    Ok(false) => return refused(Refusal::Denied),
                    Err(error) => Err(error),
                }
            }
            Ask::Ended { claims } => {
                let known = self.blocks.releases().known(&claims).await;
                known.map(|releases| Say::Ended { releases })
            }
            Ask::LetGo { releases } => match self.blocks.releases().hear(releases).await {
                Ok(useful) => {
                    tracing::debug!(from = %from.short(), useful, "heard of claims that end");
                    Ok(Say::Done)
                }
                Err(HearError::Store(error)) => Err(error),
                Err(error @ HearError::Forged) => {
                    tracing::warn!(from = %from.short(), "refused: {error}");
                    return refused(Refusal::Invalid);
                }
            },
            Ask::Restore {
                block,
                index,
                keepers,
                header,
                data,
            } => {
                if !self.serving.offer.load(Ordering::Relaxed) {
                    return refused(Refusal::NotOffered);
                }
                // No hashing for what there is no room for.
                if (data.len() as u64) > self.blocks.store().usage().intake_left {
                    return self.full();
                }
                let check = move || VerifiedShard::verify(block, index, header, data);
                match self.blocks.pools().cpu.run(check).await {
                    Ok(shard) => self.restore(shard, keepers).await.map(|()| Say::Done),
                    Err(error) => {
                        tracing::warn!(from = %from.short(), "refused a shard: {error}");
                        return refused(Refusal::Invalid);
                    }
                }
            }
            Ask::Surplus {
                block,
                index,
                other,
            } => {
                let id = ShardId { block, index };
                match proof::is_surplus(&self.blocks, &self.entropy, id, other).await {
                    true => self.blocks.store().give_up(id).await.map(|_| Say::Done),
                    false => return refused(Refusal::Denied),
                }
            }
        };
        match say {
            Ok(say) => Response::Upkeep { body: say.encode() },
            Err(error) => self.failed(&error),
        }
    }

    async fn root(&self, known: Digest) -> Result<Say, StoreError> {
        let (digest, _) = self.blocks.store().digest();
        let tally = self.tally.get();
        if digest == known {
            let groups = None;
            return Ok(Say::Root {
                digest,
                groups,
                tally,
            });
        }
        let (digest, groups) = self.groups.list(&self.blocks).await?;
        Ok(Say::Root {
            digest,
            groups: Some(groups),
            tally,
        })
    }

    async fn restore(&self, shard: VerifiedShard, keepers: Vec<Keeper>) -> Result<(), StoreError> {
        restore(&self.blocks, &self.serving, shard, keepers).await
    }

    fn full(&self) -> Response {
        Response::Refused {
            reason: Refusal::Full,
            free_bytes: self.blocks.store().usage().intake_left,
        }
    }

    fn failed(&self, error: &StoreError) -> Response {
        match error.class() {
            Class::Full => self.full(),
            Class::Retry => Response::Busy,
            Class::Denied => refused(Refusal::Denied),
            _ => {
                tracing::warn!("the store failed a question about upkeep: {error}");
                refused(Refusal::Broken)
            }
        }
    }
}

/// Keeps a shard that was made anew.
pub(super) async fn restore(
    blocks: &Blocks,
    serving: &ServeOptions,
    shard: VerifiedShard,
    mut keepers: Vec<Keeper>,
) -> Result<(), StoreError> {
    bound(blocks, serving, &mut keepers).await?;
    blocks.store().restore(shard, &keepers).await.map(drop)
}

/// Keeps a block for these before a shard of it comes. Whether anybody is left for whom it is kept.
pub(super) async fn keep(
    blocks: &Blocks,
    serving: &ServeOptions,
    block: BlockId,
    mut keepers: Vec<Keeper>,
) -> Result<bool, StoreError> {
    bound(blocks, serving, &mut keepers).await?;
    let kept = blocks.store().keep(block, &keepers).await?;
    Ok(kept.is_some())
}

/// No claim outlives this peer's own bound, whatever the asker's clock says; and none comes back whose end is known here,
/// though the store has forgotten the claim itself.
async fn bound(
    blocks: &Blocks,
    serving: &ServeOptions,
    keepers: &mut Vec<Keeper>,
) -> Result<(), StoreError> {
    let claims: Vec<ClaimId> = keepers.iter().map(|keeper| keeper.claim).collect();
    let ended = blocks.releases().ended(&claims).await?;
    keepers.retain(|keeper| !ended.contains(&keeper.claim));
    let now_ms = blocks.clock().now_ms();
    let latest_ms = now_ms.saturating_add(serving.claim_ttl_ms);
    for keeper in keepers {
        // One that is closed needs some time to be closed here.
        let wished = match keeper.is_closed {
            true => latest_ms,
            false => keeper.expires_ms,
        };
        keeper.expires_ms = wished.clamp(now_ms, latest_ms);
    }
    Ok(())
}

const fn refused(reason: Refusal) -> Response {
    Response::Refused {
        reason,
        free_bytes: 0,
    }
}
