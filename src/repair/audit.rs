//! Asking others for what they say they hold: a random part of a random shard, with its proof.
//!
//! What a peer holds is asked by the same questions as when everything is compared, so that nobody can say one thing to
//! whoever repairs and another to whoever checks. How often does not depend on how much is held.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Repair;
use super::serve::SharedGroups;
use super::survey::{SharedRoots, have, own_list, told};
use super::trust::Finding;
use super::trusts::Trusts;
use super::worker::{askable, others};
use crate::base::worker::{Next, Worker};
use crate::base::{Classify, Entropy, Group, IndexSet, PeerId, ShardId};
use crate::blocks::Blocks;
use crate::erasure::{Stripe, StripeError};
use crate::net::{NetError, Request, Response};
use crate::store::{Holding, StoreError};

/// An answer that took longer is late. A disk that was asleep may take so long, but not twice in a row.
const LATE: Duration = Duration::from_secs(5);
/// Who does not give what it said it has is asked again after so long: by then it has noticed what its disk damaged, and
/// says so.
const AGAIN: Duration = Duration::from_secs(300);
/// Longest part that is asked for.
const PART_MAX_BYTES: u32 = 64 << 10;
/// Most questions that wait to be asked again.
const AGAIN_MAX: usize = 64;
/// Of more peers than this each has its turn less often.
const PEERS_MAX: u32 = 512;
/// Most lies told to reads and repairs that count at once.
const LIES_MAX: u32 = 3;
/// How soon it is noticed what reads and repairs came upon.
const REST_MAX: Duration = Duration::from_secs(10);
/// Pause after a failure of the own store.
const TROUBLE: Duration = Duration::from_secs(30);

/// A shard that a peer says it holds.
#[derive(Debug, Clone, Copy)]
struct Question {
    peer: PeerId,
    shard: ShardId,
    shard_bytes: u32,
}

/// What a peer answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Proved,
    /// Proved, or not answered, after too long.
    Late,
    /// That it has no time.
    Busy,
    /// That it does not have it, or does not give it.
    Lacking,
    /// Something that does not verify.
    Wrong,
}

/// A question to be asked a second time.
#[derive(Debug)]
struct Again {
    question: Question,
    due: Instant,
}

/// Asks all peers in turn. One for each peer.
#[derive(Debug)]
pub struct Auditor {
    blocks: Blocks,
    /// In which each peer has its turn once.
    period: Duration,
    entropy: Entropy,
    trusts: Trusts,
    roots: SharedRoots,
    groups: SharedGroups,
    /// Whose turn is still to come in this round.
    round: Vec<PeerId>,
    pace: Duration,
    next: Option<Instant>,
    again: VecDeque<Again>,
    /// Lies to reads and repairs that were counted.
    counted: BTreeMap<PeerId, u32>,
    checks: u64,
    bad: u64,
    displaced: usize,
}

impl Auditor {
    pub(super) fn new(repair: &Repair) -> Self {
        Auditor {
            blocks: repair.blocks.clone(),
            period: repair.options.audit,
            entropy: repair.options.entropy.fork(),
            trusts: repair.trusts.clone(),
            roots: repair.told.clone(),
            groups: repair.groups.clone(),
            round: Vec::new(),
            pace: Duration::ZERO,
            next: None,
            again: VecDeque::new(),
            counted: BTreeMap::new(),
            checks: 0,
            bad: 0,
            displaced: 0,
        }
    }

    fn timeout(&self) -> Duration {
        self.blocks.limits().request_timeout
    }

    async fn turn(&mut self) -> Result<Next, StoreError> {
        let store = self.blocks.store().clone();
        self.trusts.load(&store).await?;
        self.hear_of_lies();
        let now = Instant::now();
        let next = match self.next {
            Some(next) => next,
            None => self.begin_round(now),
        };
        let is_due = self.again.front().is_some_and(|again| again.due <= now);
        if let Some(again) = is_due.then(|| self.again.pop_front()).flatten() {
            self.ask_again(again.question).await;
        } else if next <= now {
            // Not from when the answer comes, so that the pace is kept.
            self.next = Some(next.max(now.checked_sub(self.pace).unwrap_or(now)) + self.pace);
            self.ask_next().await;
        }
        let members = self.blocks.net().members();
        let distrusted = self.trusts.distrusted(others(&members));
        self.displaced = distrusted.displaced.len();
        let stats = self.blocks.peer_stats();
        stats.displace(&distrusted.displaced, &distrusted.liars);
        self.trusts.tidy(&members);
        self.trusts.save(&store).await?;
        let due = self.again.front().map(|again| again.due);
        let due = due.into_iter().chain(self.next).min().unwrap_or(now);
        let rest = due.saturating_duration_since(Instant::now());
        Ok(Next::Idle(rest.min(REST_MAX)))
    }

    /// What reads and repairs came upon counts as if it had been asked for.
    fn hear_of_lies(&mut self) {
        for (peer, lies) in self.blocks.peer_stats().liars() {
            let counted = self.counted.insert(peer, lies).unwrap_or(0);
            for _ in 0..lies.saturating_sub(counted).min(LIES_MAX) {
                self.trusts.note(peer, Finding::False, None);
            }
        }
    }

    /// Everybody has a turn, in random order. When the first one has it.
    fn begin_round(&mut self, now: Instant) -> Instant {
        let members = self.blocks.net().members();
        self.round = askable(&members, self.blocks.net().own());
        for last in (1..self.round.len()).rev() {
            let other = self.entropy.below(last as u64 + 1) as usize;
            self.round.swap(last, other);
        }
        let turns = u32::try_from(self.round.len()).unwrap_or(u32::MAX);
        self.pace = self.period / turns.clamp(1, PEERS_MAX);
        let next = match self.next {
            Some(next) => next,
            // Those who were started together do not ask together.
            None => now + self.pace.mul_f64(self.entropy.unit()),
        };
        self.next = Some(next);
        next
    }

    async fn ask_next(&mut self) {
        if self.round.is_empty() {
            let now = Instant::now();
            self.begin_round(now);
        }
        let Some(peer) = self.round.pop().filter(|peer| self.is_in_reach(peer)) else {
            return;
        };
        let Some(question) = self.choose(peer).await else {
            return;
        };
        let Some(answer) = self.put(&question).await else {
            return;
        };
        let due = match answer {
            Answer::Late => Instant::now(),
            Answer::Lacking | Answer::Busy => Instant::now() + AGAIN.min(self.period),
            Answer::Proved => return self.note(&question, Finding::Good),
            Answer::Wrong => return self.note(&question, Finding::False),
        };
        if self.again.len() < AGAIN_MAX {
            let at = self.again.partition_point(|again| again.due <= due);
            self.again.insert(at, Again { question, due });
        }
    }

    /// Nobody is judged by one answer that may be bad luck.
    async fn ask_again(&mut self, question: Question) {
        if !self.is_in_reach(&question.peer) {
            return;
        }
        let group = question.shard.block.group();
        let Some(told) = self.told(question.peer, group).await else {
            return;
        };
        let of_block = told.iter().find(|of| of.block == question.shard.block);
        if !of_block.is_some_and(|of| of.held.contains(question.shard.index)) {
            return self.note(&question, Finding::Damaged);
        }
        let Some(answer) = self.put(&question).await else {
            return;
        };
        let finding = match answer {
            Answer::Proved => Finding::Good,
            Answer::Late | Answer::Busy => Finding::Late,
            // Its lists may name for a while what it knows to be damaged. Asked for this one it says what is so.
            Answer::Lacking => match self.says_it_has(&question).await {
                Some(true) => Finding::Lacking,
                Some(false) => Finding::Damaged,
                None => return,
            },
            Answer::Wrong => Finding::False,
        };
        self.note(&question, finding);
    }

    async fn says_it_has(&self, question: &Question) -> Option<bool> {
        let ShardId { block, index } = question.shard;
        let held = have(&self.blocks, question.peer, &[block], self.timeout()).await?;
        held.first().map(|held| held.contains(index))
    }

    fn note(&mut self, question: &Question, finding: Finding) {
        self.checks += 1;
        if finding != Finding::Good {
            self.bad += 1;
            let Question { peer, shard, .. } = question;
            tracing::info!(peer = %peer.short(), block = %shard.block.short(), index = shard.index, ?finding, "a check failed");
        }
        self.trusts
            .note(question.peer, finding, Some(question.shard));
    }

    fn is_in_reach(&self, peer: &PeerId) -> bool {
        let members = self.blocks.net().members();
        askable(&members, self.blocks.net().own()).contains(peer)
    }

    /// A shard that a peer says it holds, if it is found at once.
    async fn choose(&self, peer: PeerId) -> Option<Question> {
        let (_, ours) = self.groups.list(&self.blocks).await.ok()?;
        let theirs = self.roots.of(&peer);
        let theirs = theirs.as_deref();
        // What is here as well needs no list.
        let in_both = |group: &Group| theirs.is_none_or(|theirs| theirs.contains(*group));
        let mut groups: Vec<Group> = ours.iter().filter(in_both).collect();
        if let Some(theirs) = theirs.filter(|_| groups.is_empty()) {
            groups = theirs.iter().collect();
        }
        let group = *self.pick(&groups)?;
        let mut told = self.told(peer, group).await?;
        told.retain(|holding| !holding.held.is_empty());
        let holding = self.pick(&told)?;
        let indices: Vec<u8> = holding.held.iter().collect();
        Some(Question {
            peer,
            shard: ShardId {
                block: holding.block,
                index: *self.pick(&indices)?,
            },
            shard_bytes: holding.shard_bytes,
        })
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.entropy.below(from.len() as u64) as usize)
    }

    /// What a peer says it has of a group; if it makes no sense of that question, of one block of which something is here.
    async fn told(&self, peer: PeerId, group: Group) -> Option<Vec<Holding>> {
        let ours = own_list(&self.blocks, group).await?;
        let timeout = self.timeout();
        if let Some(told) = told(&self.blocks, peer, group, &ours, timeout).await {
            return Some(told);
        }
        let blocks: Vec<_> = ours.iter().map(|holding| holding.block).collect();
        let held: Vec<IndexSet> = have(&self.blocks, peer, &blocks, timeout).await?;
        let theirs = ours.into_iter().zip(held);
        Some(
            theirs
                .map(|(ours, held)| Holding { held, ..ours })
                .collect(),
        )
    }

    /// Asks for a part that nobody can foresee, and as long as reads ask for, or it could be told from one. None if that
    /// says nothing: it is of an earlier version, or away.
    async fn put(&self, question: &Question) -> Option<Answer> {
        let ShardId { block, index } = question.shard;
        let start = self.entropy.below(u64::from(question.shard_bytes)) as u32;
        let len = 1 + self.entropy.below(u64::from(PART_MAX_BYTES)) as u32;
        let end = start.saturating_add(len).min(question.shard_bytes);
        let request = Request::FetchRange {
            block,
            index,
            start,
            end,
        };
        let begun = Instant::now();
        let timeout = self.timeout();
        let answer = self.blocks.net().request(question.peer, request, timeout);
        match answer.await {
            Ok(Response::Range {
                header,
                start: at,
                proof,
                data,
            }) => {
                let took = begun.elapsed();
                let check = move || {
                    let stripe = Stripe::new(block, header)?;
                    let part = stripe.verify(index, at as usize, data, &proof)?;
                    Ok::<_, StripeError>(part.get(&(start..end)).is_some())
                };
                match self.blocks.pools().cpu.run(check).await {
                    Ok(true) if took > LATE => Some(Answer::Late),
                    Ok(true) => Some(Answer::Proved),
                    Ok(false) | Err(_) => Some(Answer::Wrong),
                }
            }
            Ok(Response::Missing { .. } | Response::Refused { .. }) => Some(Answer::Lacking),
            Err(NetError::Timeout(_)) => Some(Answer::Late),
            Ok(Response::Busy) => Some(Answer::Busy),
            _ => None,
        }
    }
}

impl Worker for Auditor {
    fn name(&self) -> &'static str {
        "audit"
    }

    async fn step(&mut self) -> Next {
        match self.turn().await {
            Ok(next) => next,
            Err(StoreError::Closed) => Next::Done,
            Err(error) => {
                tracing::warn!(class = ?error.class(), "checking others waits: {error}");
                Next::Idle(TROUBLE)
            }
        }
    }

    fn status(&self) -> String {
        let mut text = format!("{} checks of others", self.checks);
        if self.bad > 0 {
            text.push_str(&format!(", {} answered badly", self.bad));
        }
        match self.displaced {
            0 => {}
            1 => text.push_str("; 1 peer has lost trust"),
            count => text.push_str(&format!("; {count} peers have lost trust")),
        }
        text
    }
}
