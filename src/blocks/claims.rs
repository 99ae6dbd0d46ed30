//! The life of an upload's claim: opened before the first shard leaves, closed at every holder
//! when the upload is complete, released everywhere when it is not.
//!
//! What is owed to holders (a close, a release) is durable before it is sent, so a crash of this
//! peer leaves neither a complete upload that expires nor an incomplete one that stays.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

use super::Blocks;
use super::debts::{Debt, PEERS_MAX, State};
use crate::base::error::Classify;
use crate::base::limits::CANDIDATES;
use crate::base::wire;
use crate::base::worker::{Next, Worker};
use crate::base::{ClaimId, Class, OwnerId, PeerId};
use crate::crypto::SignedRelease;
use crate::net::{Member, Refusal, Request, Response};
use crate::store::{KvChange, StoreError};

/// Key-value space of single counters.
const COUNTERS: &str = "counters";
/// The greatest upload number ever used.
const UPLOAD_NUMBER: &[u8] = b"upload-number";
/// How often debts that could not be paid are tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Uploads whose holders are told at once.
const TOGETHER: usize = 8;
/// A close that is owed is forgotten after so many times that a claim may live without being closed: all is over by then at
/// a holder that was not told of it.
const OVERDUE: u64 = 2;
/// The same, for a release: whoever is away for longer, or does not take it, keeps what nobody wants.
const HOPELESS: u64 = 8;

/// Numbers for this peer's uploads.
#[derive(Debug, Default)]
pub(super) struct Counter {
    last: AtomicU64,
    /// The last of earlier runs: what these left open was interrupted.
    before: AtomicU64,
}

impl Counter {
    /// Greater than all before, and at least the time: a peer that was restored from a backup has
    /// forgotten its numbers, and must not use one again that holders know as another upload.
    fn next(&self, now_ms: u64) -> u64 {
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = now_ms.max(last.saturating_add(1));
            let swap =
                self.last
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
    /// Reads the counter, and lets go of what uploads that a crash interrupted keep here. How many there are; others are
    /// told of them when it is known who is there.
    pub(super) async fn recover_claims(&self) -> Result<usize, StoreError> {
        let last = self.store.kv_get(COUNTERS, UPLOAD_NUMBER).await?;
        let last = last
            .and_then(|bytes| wire::decode::<u64>(&bytes, 16).ok())
            .unwrap_or(0);
        self.counter.last.store(last, Ordering::Relaxed);
        self.counter.before.store(last, Ordering::Relaxed);
        let mut interrupted = 0;
        for (number, debt) in self.debts().await? {
            if debt.state == State::Open {
                interrupted += 1;
                let claim = self.claim_of(debt.owner, number);
                if let Err(error) = self.store.release_claim(claim).await {
                    tracing::warn!("an interrupted upload is not cleaned up yet: {error}");
                }
            }
        }
        Ok(interrupted)
    }

    fn claim_of(&self, owner: OwnerId, number: u64) -> ClaimId {
        ClaimId {
            owner,
            writer: self.net.own(),
            number,
        }
    }

    /// Opens a new claim, durably.
    pub(super) async fn open_claim(&self, owner: OwnerId) -> Result<ClaimId, StoreError> {
        let number = self.counter.next(self.clock.now_ms());
        let mut rows = self.debt(owner, State::Open, Vec::new()).first_rows(number);
        rows.push((
            COUNTERS.to_owned(),
            UPLOAD_NUMBER.to_vec(),
            Some(wire::encode(&number).into()),
        ));
        self.store.kv_put(rows).await?;
        Ok(self.claim_of(owner, number))
    }

    /// Makes the claim permanent at `peers`; together with the decision, `extra` rows become durable. Returns the peers
    /// that did not say that they keep what they have.
    ///
    /// # Errors
    /// If the decision is not durable.
    pub(super) async fn close_claim(
        &self,
        claim: ClaimId,
        peers: &BTreeSet<PeerId>,
        extra: Vec<KvChange>,
    ) -> Result<Unclosed, StoreError> {
        let debt = self.debt(claim.owner, State::Closing, peers.iter().copied().collect());
        self.write_down(claim.number, &debt, extra).await?;
        let answers = self.tell(claim, State::Closing, peers).await;
        if let Err(error) = self.settle(claim, &debt, &answers.left).await {
            tracing::warn!("holders are told once more of a complete upload: {error}");
        }
        Ok(Unclosed {
            away: answers
                .left
                .difference(&answers.unwilling)
                .copied()
                .collect(),
            refused: answers.gone.union(&answers.unwilling).copied().collect(),
        })
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
        // Who is away is told when it is back.
        let members = self.net.members();
        let is_away = |peer: &PeerId| members.get(peer).is_some_and(Member::is_away);
        let (away, there): (BTreeSet<_>, BTreeSet<_>) = peers.into_iter().partition(is_away);
        let mut left = self.tell(claim, State::Releasing, &there).await.left;
        left.extend(away);
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
        self.release_with(owner, number, peers, Vec::new()).await
    }

    /// As [`Blocks::release`]; together with the decision, `rows` of the own store become durable.
    ///
    /// # Errors
    /// As [`Blocks::release`].
    pub async fn release_with(
        &self,
        owner: OwnerId,
        number: u64,
        peers: Vec<PeerId>,
        rows: Vec<KvChange>,
    ) -> Result<(), StoreError> {
        let claim = self.claim_of(owner, number);
        let peers = peers.into_iter().collect();
        self.release_claim(claim, &peers, rows).await
    }

    /// Those who may have got shards by a repair, of which the uploader was not told: in a network where everybody is a
    /// candidate of everything, all members. Who is away may have been given some, and may be a holder that was
    /// repaired around.
    fn restored_to(&self) -> Vec<PeerId> {
        let members = self.net.members();
        if !members.complete || members.list.len() > CANDIDATES {
            return Vec::new();
        }
        let offering = members.list.iter();
        // Whoever leaves offers nothing, and may hold something all the same.
        let holding = offering.filter(|member| member.capacity_bytes > 0 || member.is_leaving());
        holding.map(|member| member.peer).collect()
    }

    fn debt(&self, owner: OwnerId, state: State, peers: Vec<PeerId>) -> Debt {
        Debt {
            owner,
            since_ms: self.clock.now_ms(),
            state,
            peers: peers.into_iter().take(PEERS_MAX).collect(),
        }
    }

    /// Makes durable what is owed, together with `extra` rows.
    async fn write_down(
        &self,
        number: u64,
        debt: &Debt,
        extra: Vec<KvChange>,
    ) -> Result<(), StoreError> {
        let _locked = self.debts.lock(number).await;
        self.put_debt(number, Some(debt), extra).await
    }

    /// Tells all `peers`; those that did not acknowledge.
    async fn tell(&self, claim: ClaimId, state: State, peers: &BTreeSet<PeerId>) -> Answers {
        let word = match state {
            State::Releasing => self.word(&claim, 0),
            State::Open | State::Closing => None,
        };
        let mut told: FuturesUnordered<_> = peers
            .iter()
            .map(|peer| async move { (*peer, self.tell_one(claim, state, word, *peer).await) })
            .collect();
        let mut answers = Answers::default();
        while let Some((peer, told)) = told.next().await {
            if matches!(told, Told::Not | Told::Unwilling) {
                answers.left.insert(peer);
            }
            match told {
                Told::Gone => answers.gone.insert(peer),
                Told::Unwilling => answers.unwilling.insert(peer),
                Told::Done | Told::Not => false,
            };
        }
        answers
    }

    async fn tell_one(
        &self,
        claim: ClaimId,
        state: State,
        word: Option<SignedRelease>,
        peer: PeerId,
    ) -> Told {
        let closing = state == State::Closing;
        if peer == self.net.own() {
            let done = match word {
                _ if closing => self.store.close_claim(claim).await,
                Some(word) => self.releases.take(word).await.map(|()| true),
                None => self.store.release_claim(claim).await,
            };
            return match done {
                Ok(false) if closing => Told::Gone,
                Ok(_) => Told::Done,
                Err(error) if closing && error.class() == Class::Denied => Told::Gone,
                Err(_) => Told::Unwilling,
            };
        }
        let request = if closing {
            Request::CloseClaim { claim }
        } else {
            Request::ReleaseClaim {
                claim,
                proof: word.map(|word| word.signature),
            }
        };
        match self.ask(peer, request, self.limits.request_timeout).await {
            Ok(Response::Done) => Told::Done,
            // It is of no use to say it again: the claim has expired there, or was never known.
            Ok(Response::Refused {
                reason: Refusal::Denied,
                ..
            }) if closing => Told::Gone,
            Ok(Response::Refused { .. } | Response::Unsupported) => Told::Unwilling,
            Ok(_) | Err(_) => Told::Not,
        }
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
        let now = self.debt_of(claim.number).await?;
        let is_unchanged = !left.is_empty() && left.len() == told.peers.len();
        if now.as_ref() != Some(told) || is_unchanged {
            return Ok(());
        }
        let rest = (!left.is_empty()).then(|| Debt {
            peers: left.iter().copied().collect(),
            ..told.clone()
        });
        self.put_debt(claim.number, rest.as_ref(), Vec::new()).await
    }

    /// Tells those who can be reached now what an upload owes them. `is_up` says that it is known who is there.
    async fn pay(&self, number: u64, mut debt: Debt, is_up: bool) -> Result<(), StoreError> {
        let (members, own) = (self.net.members(), self.net.own());
        let age_ms = self.clock.now_ms().saturating_sub(debt.since_ms);
        let is_older_than = |lives: u64| age_ms > lives * self.limits.claim_ttl.as_millis() as u64;
        if debt.state == State::Open {
            if number > self.counter.before.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut peers: BTreeSet<PeerId> = members.list.iter().map(|m| m.peer).collect();
            let is_alone = !peers.iter().any(|peer| *peer != own);
            if (is_alone || !is_up) && !is_older_than(OVERDUE) {
                return Ok(());
            }
            peers.insert(own);
            debt.state = State::Releasing;
            debt.peers = peers.into_iter().take(PEERS_MAX).collect();
            self.write_down(number, &debt, Vec::new()).await?;
        }
        // One that is no member of a list that is not whole may be reached all the same.
        let may_answer = |peer: &PeerId| match members.get(peer) {
            Some(member) => !member.is_away(),
            None => *peer == own || !members.complete,
        };
        let (reachable, rest): (BTreeSet<_>, BTreeSet<_>) =
            debt.peers.iter().copied().partition(may_answer);
        // What was closed does not expire where nobody tells of its release.
        let is_overdue = match debt.state {
            State::Releasing => is_older_than(HOPELESS),
            State::Open | State::Closing => is_older_than(OVERDUE),
        };
        if reachable.is_empty() && !is_overdue {
            return Ok(());
        }
        let claim = self.claim_of(debt.owner, number);
        let mut left = self.tell(claim, debt.state, &reachable).await.left;
        match is_overdue {
            true => left.clear(),
            false => left.extend(rest),
        }
        self.settle(claim, &debt, &left).await
    }
}

/// Those who did not say that they keep what a claim keeps.
#[derive(Debug, Default)]
pub(super) struct Unclosed {
    /// They gave no answer, and are told once more.
    pub away: BTreeSet<PeerId>,
    /// They are there, and have nothing of it, or cannot or do not want to keep it.
    pub refused: BTreeSet<PeerId>,
}

impl Unclosed {
    /// All of them.
    pub fn all(&self) -> BTreeSet<PeerId> {
        self.away.union(&self.refused).copied().collect()
    }
}

/// What one holder said to a close or a release.
enum Told {
    Done,
    /// There is nothing of it any more that could be closed.
    Gone,
    /// It is there and cannot, as where it has no room even for that. It is told again.
    Unwilling,
    /// It has to be told again.
    Not,
}

/// Those who did not say that it is done.
#[derive(Default)]
struct Answers {
    /// They have to be told again.
    left: BTreeSet<PeerId>,
    /// Of which are there, and cannot.
    unwilling: BTreeSet<PeerId>,
    /// They have nothing that could be closed.
    gone: BTreeSet<PeerId>,
}

/// Pays what could not be paid at once, for as long as the claim may live at a holder.
#[derive(Debug)]
pub struct ClaimSettler {
    blocks: Blocks,
    owed: usize,
    /// Passes so far, up to a few: at the first one it is not known yet who is there.
    passes: u8,
}

impl ClaimSettler {
    /// A worker for `blocks`.
    pub const fn new(blocks: Blocks) -> Self {
        ClaimSettler {
            blocks,
            owed: 0,
            passes: 0,
        }
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        let blocks = &self.blocks;
        let debts = blocks.debts().await?;
        self.owed = debts.len();
        let is_up = self.passes > 0;
        self.passes = self.passes.saturating_add(1);
        let mut waiting = debts.into_iter();
        let mut paying = FuturesUnordered::new();
        loop {
            let room = TOGETHER.saturating_sub(paying.len());
            for (number, debt) in waiting.by_ref().take(room) {
                paying.push(blocks.pay(number, debt, is_up));
            }
            match paying.next().await {
                Some(paid) => paid?,
                None => return Ok(()),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_written_down_as_described() {
        let golden = crate::base::golden::row("counters-upload-number");
        assert_eq!(wire::encode(&1_767_225_600_001u64), golden);
        assert_eq!(
            (COUNTERS, UPLOAD_NUMBER),
            ("counters", &b"upload-number"[..])
        );
    }
}
