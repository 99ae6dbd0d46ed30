//! The life of an upload's claim: opened before the first shard leaves, closed at every holder
//! when the upload is complete, released everywhere when it is not.
//!
//! What is owed to holders (a close, a release) is durable before it is sent, so a crash of this
//! peer leaves neither a complete upload that expires nor an incomplete one that stays.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};

use super::Blocks;
use crate::base::error::Classify;
use crate::base::limits::CANDIDATES;
use crate::base::wire;
use crate::base::worker::{Next, Worker};
use crate::base::{ClaimId, OwnerId, PeerId};
use crate::net::{Reach, Request, Response};
use crate::store::{KvChange, StoreError};

/// Key-value space of uploads that owe something to holders.
const UPLOADS: &str = "uploads";
/// Key-value space of single counters.
const COUNTERS: &str = "counters";
/// The greatest upload number ever used.
const UPLOAD_NUMBER: &[u8] = b"upload-number";
/// Largest encoded row: a peer id for each of some thousand holders.
const ROW_MAX_BYTES: usize = 1 << 20;
/// How often debts that could not be paid are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// One row of [`UPLOADS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Debt {
    owner: OwnerId,
    since_ms: u64,
    state: State,
    /// Holders that have yet to be told.
    peers: Vec<PeerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// Under way. Found at start-up: it was interrupted and is released.
    Open,
    Closing,
    Releasing,
}

/// Numbers for this peer's uploads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Greater than all before, and at least the time: a peer that was restored from a backup has
    /// forgotten its numbers, and must not use one again that holders know as another upload.
    fn next(&self, now_ms: u64) -> u64 {
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let next = now_ms.max(last.saturating_add(1));
            let swap =
                self.0
                    .compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return next,
                Err(found) => last = found,
            }
        }
    }
}

/// How many claims may have their rows changed at once, about.
const LOCKS: usize = 64;

/// Held while a claim's row is looked at and changed, so that nobody takes away what another one has just written.
/// Each lock is for some claims, and is held as long as one write to the own store takes.
#[derive(Debug)]
pub(super) struct Locks([tokio::sync::Mutex<()>; LOCKS]);

impl Default for Locks {
    fn default() -> Self {
        Locks(std::array::from_fn(|_| tokio::sync::Mutex::new(())))
    }
}

impl Locks {
    async fn lock(&self, number: u64) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let lock = self.0.get(number as usize % LOCKS)?;
        Some(lock.lock().await)
    }
}

impl Blocks {
    /// Reads the counter, and turns uploads that a crash interrupted into releases.
    pub(super) async fn recover_claims(&self) -> Result<usize, StoreError> {
        let last = self.store.kv_get(COUNTERS, UPLOAD_NUMBER).await?;
        let last = last
            .and_then(|bytes| wire::decode::<u64>(&bytes, 16).ok())
            .unwrap_or(0);
        self.counter.0.store(last, Ordering::Relaxed);
        let mut interrupted = 0;
        for (number, debt) in self.debts().await? {
            if debt.state == State::Open {
                interrupted += 1;
                let everybody = self.net.members().list.iter().map(|m| m.peer).collect();
                let debt = self.debt(debt.owner, State::Releasing, everybody);
                self.write_down(number, &debt, Vec::new()).await?;
            }
        }
        Ok(interrupted)
    }

    /// Opens a new claim, durably.
    pub(super) async fn open_claim(&self, owner: OwnerId) -> Result<ClaimId, StoreError> {
        let number = self.counter.next(self.clock.now_ms());
        let row = Bytes::from(wire::encode(&self.debt(owner, State::Open, Vec::new())));
        self.store
            .kv_put(vec![
                (UPLOADS.to_owned(), key(number), Some(row)),
                (
                    COUNTERS.to_owned(),
                    UPLOAD_NUMBER.to_vec(),
                    Some(wire::encode(&number).into()),
                ),
            ])
            .await?;
        Ok(ClaimId {
            owner,
            writer: self.net.own(),
            number,
        })
    }

    /// Makes the claim permanent at `peers`; together with it, `extra` rows become durable.
    /// Returns the peers that could not be told yet; they will be.
    pub(super) async fn close_claim(
        &self,
        claim: ClaimId,
        peers: &BTreeSet<PeerId>,
        extra: Vec<KvChange>,
    ) -> Result<BTreeSet<PeerId>, StoreError> {
        let debt = self.debt(claim.owner, State::Closing, peers.iter().copied().collect());
        self.write_down(claim.number, &debt, extra).await?;
        let left = self.tell(claim, State::Closing, peers).await;
        self.settle(claim, &debt, &left).await?;
        Ok(left)
    }

    /// Frees what only this claim kept, at `peers` and at the own store; together with the
    /// decision, `extra` rows become durable.
    pub(super) async fn release_claim(
        &self,
        claim: ClaimId,
        peers: &BTreeSet<PeerId>,
        extra: Vec<KvChange>,
    ) -> Result<(), StoreError> {
        let mut peers = peers.clone();
        peers.insert(self.net.own());
        peers.extend(self.restored_to());
        let list = peers.iter().copied().collect();
        let debt = self.debt(claim.owner, State::Releasing, list);
        self.write_down(claim.number, &debt, extra).await?;
        let left = self.tell(claim, State::Releasing, &peers).await;
        self.settle(claim, &debt, &left).await
    }

    /// Lets go of what only a finished upload of this peer kept; `peers` are those that may know of it.
    ///
    /// # Errors
    /// If the own store takes no writes. What a peer could not be told now it is told later.
    pub async fn release(
        &self,
        owner: OwnerId,
        number: u64,
        peers: Vec<PeerId>,
    ) -> Result<(), StoreError> {
        let claim = ClaimId {
            owner,
            writer: self.net.own(),
            number,
        };
        let peers = peers.into_iter().collect();
        self.release_claim(claim, &peers, Vec::new()).await
    }

    /// Those who may have got shards by a repair, of which the uploader was not told: in a network where everybody is a
    /// candidate of everything, all who are there.
    fn restored_to(&self) -> Vec<PeerId> {
        let members = self.net.members();
        if !members.complete || members.list.len() > CANDIDATES {
            return Vec::new();
        }
        let live = members.list.iter().filter(|member| {
            member.capacity_bytes > 0 && !matches!(member.state, Reach::Away { .. })
        });
        live.map(|member| member.peer).collect()
    }

    fn debt(&self, owner: OwnerId, state: State, peers: Vec<PeerId>) -> Debt {
        Debt {
            owner,
            since_ms: self.clock.now_ms(),
            state,
            peers,
        }
    }

    /// Makes durable what is owed, together with `extra` rows.
    async fn write_down(
        &self,
        number: u64,
        debt: &Debt,
        extra: Vec<KvChange>,
    ) -> Result<(), StoreError> {
        let row = Bytes::from(wire::encode(debt));
        let mut rows = vec![(UPLOADS.to_owned(), key(number), Some(row))];
        rows.extend(extra);
        let _locked = self.debts.lock(number).await;
        self.store.kv_put(rows).await
    }

    async fn debts(&self) -> Result<Vec<(u64, Debt)>, StoreError> {
        let rows = self.store.kv_scan(UPLOADS, &[]).await?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, value)| {
                let number = u64::from_be_bytes(key.as_slice().try_into().ok()?);
                Some((number, wire::decode(&value, ROW_MAX_BYTES).ok()?))
            })
            .collect())
    }

    /// Tells all `peers`; returns those that did not acknowledge.
    async fn tell(
        &self,
        claim: ClaimId,
        state: State,
        peers: &BTreeSet<PeerId>,
    ) -> BTreeSet<PeerId> {
        let mut answers: FuturesUnordered<_> = peers
            .iter()
            .map(|peer| async move { (*peer, self.tell_one(claim, state, *peer).await) })
            .collect();
        let mut left = BTreeSet::new();
        while let Some((peer, told)) = answers.next().await {
            if !told {
                left.insert(peer);
            }
        }
        left
    }

    async fn tell_one(&self, claim: ClaimId, state: State, peer: PeerId) -> bool {
        let closing = state == State::Closing;
        if peer == self.net.own() {
            let done = if closing {
                self.store.close_claim(claim).await
            } else {
                self.store.release_claim(claim).await
            };
            return done.is_ok();
        }
        let request = if closing {
            Request::CloseClaim { claim }
        } else {
            Request::ReleaseClaim { claim }
        };
        let answer = self.ask(peer, request, self.limits.request_timeout);
        matches!(answer.await, Ok(Response::Done))
    }

    /// What was owed is paid, but for `left`. Where something else is owed by now, that stays as it is: a
    /// release may come while holders are told of a close.
    async fn settle(
        &self,
        claim: ClaimId,
        told: &Debt,
        left: &BTreeSet<PeerId>,
    ) -> Result<(), StoreError> {
        let _locked = self.debts.lock(claim.number).await;
        let now = self.store.kv_get(UPLOADS, &key(claim.number)).await?;
        if now.is_none_or(|now| *now != *wire::encode(told)) {
            return Ok(());
        }
        let rest = (!left.is_empty()).then(|| {
            let list = left.iter().copied().collect();
            Bytes::from(wire::encode(&self.debt(claim.owner, told.state, list)))
        });
        let row = (UPLOADS.to_owned(), key(claim.number), rest);
        self.store.kv_put(vec![row]).await
    }
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Pays what could not be paid at once, for as long as the claim may live at a holder.
#[derive(Debug)]
pub struct ClaimSettler {
    blocks: Blocks,
    owed: usize,
}

impl ClaimSettler {
    /// A worker for `blocks`.
    pub const fn new(blocks: Blocks) -> Self {
        ClaimSettler { blocks, owed: 0 }
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        let blocks = &self.blocks;
        let debts = blocks.debts().await?;
        self.owed = debts.len();
        for (number, debt) in debts {
            if debt.state == State::Open {
                continue;
            }
            let claim = ClaimId {
                owner: debt.owner,
                writer: blocks.net.own(),
                number,
            };
            let members = blocks.net.members();
            // One that is no member of a list that is not whole may be reached all the same.
            let may_answer = |peer: &PeerId| match members.get(peer) {
                Some(member) => !matches!(member.state, Reach::Away { .. }),
                None => !members.complete,
            };
            let (reachable, rest): (BTreeSet<_>, BTreeSet<_>) =
                debt.peers.iter().copied().partition(may_answer);
            let overdue = blocks.clock.now_ms().saturating_sub(debt.since_ms)
                > 2 * blocks.limits.claim_ttl.as_millis() as u64;
            if reachable.is_empty() && !overdue {
                continue;
            }
            let mut left = blocks.tell(claim, debt.state, &reachable).await;
            if !overdue {
                left.extend(rest);
            }
            blocks.settle(claim, &debt, &left).await?;
        }
        Ok(())
    }
}

impl Worker for ClaimSettler {
    fn name(&self) -> &'static str {
        "claims"
    }

    async fn step(&mut self) -> Next {
        if let Err(error) = self.pass().await {
            tracing::warn!(class = ?error.class(), "claims cannot be settled now: {error}");
        }
        Next::Idle(RETRY)
    }

    fn status(&self) -> String {
        format!("{} uploads owe a close or a release", self.owed)
    }
}
