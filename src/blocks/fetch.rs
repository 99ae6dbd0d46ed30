//! Bringing one block back: the first k good shards win.
//!
//! Order of asking: the own store, the computed holders, further candidates, then everybody with a
//! batched question. Nothing leaves this file that was not checked against the block's address.

mod absent;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::candidates::Ranked;
use super::peers::Work;
use super::{Blocks, GetError};
use crate::base::{BlockRef, Class, Classify, EcProfile, IndexSet, PeerId};
use crate::crypto;
use crate::erasure::{self, VerifiedShard};
use crate::net::{NetError, Request, Response};
use crate::placement;

/// Pause before a busy peer is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(30);
/// How often a busy peer is asked again.
const BUSY_TRIES: u32 = 20;
/// How long the question "who holds this?" may take.
const HAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A question to be put to one peer.
#[derive(Debug, Clone, Copy)]
struct Ask {
    peer: PeerId,
    /// Acceptable indices; those at hand by then are left out.
    wanted: IndexSet,
    busy: u32,
}

/// A shard as it arrived, not yet checked.
#[derive(Debug)]
struct Raw {
    peer: PeerId,
    index: u8,
    header: Bytes,
    data: Bytes,
}

/// A question under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Tells it from others, even to the same peer at the same moment.
    number: u64,
    peer: PeerId,
    wanted: IndexSet,
    since: Instant,
}

type Answer = (Ask, u64, Result<Response, NetError>);

struct Fetching<'a> {
    blocks: &'a Blocks,
    reference: BlockRef,
    profile: EcProfile,
    ranked: Ranked,
    good: BTreeMap<u8, VerifiedShard>,
    /// Those that were here before anybody was asked.
    here: IndexSet,
    raw: BTreeMap<u8, Raw>,
    queue: VecDeque<Ask>,
    asked: BTreeSet<PeerId>,
    /// Indices about which a peer has answered, with the shard or without: it is not asked for these again, so
    /// that one that says it has them and gives none costs no more questions than a stripe has shards.
    answered: BTreeMap<PeerId, IndexSet>,
    pending: Vec<Pending>,
    /// Questions asked so far.
    questions: u64,
    damaged: usize,
    /// Peers that sent a bad shard of this block.
    liars: BTreeSet<PeerId>,
    /// Peers that were asked and from which no answer came.
    silent: BTreeSet<PeerId>,
}

impl Blocks {
    /// Fetches, verifies, decodes and opens one block.
    pub(super) async fn fetch_block(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
    ) -> Result<Bytes, GetError> {
        let mut fetching = Fetching {
            blocks: self,
            reference: *reference,
            profile,
            ranked: self.ranked(reference.id.group()).await,
            good: BTreeMap::new(),
            here: IndexSet::EMPTY,
            raw: BTreeMap::new(),
            queue: VecDeque::new(),
            asked: BTreeSet::new(),
            answered: BTreeMap::new(),
            pending: Vec::new(),
            questions: 0,
            damaged: 0,
            liars: BTreeSet::new(),
            silent: BTreeSet::new(),
        };
        let plaintext = fetching.run().await?;
        fetching.keep();
        Ok(plaintext)
    }
}

impl Fetching<'_> {
    async fn run(&mut self) -> Result<Bytes, GetError> {
        self.take_own().await;
        if let Some(plaintext) = self.try_open().await? {
            return Ok(plaintext);
        }
        self.plan();
        if let Some(plaintext) = self.drain().await? {
            return Ok(plaintext);
        }
        self.ask_everybody().await;
        if let Some(plaintext) = self.drain().await? {
            return Ok(plaintext);
        }
        self.wait_for_absent().await
    }

    /// Shards that are here: of the own store, and those that were fetched before.
    async fn take_own(&mut self) {
        let mut wanted = IndexSet::first(self.profile.total_shards());
        let store = &self.blocks.store;
        while self.good.len() < self.profile.data_shards() && !wanted.is_empty() {
            match store.get(self.reference.id, wanted).await {
                Ok(Some((shard, held))) => {
                    let index = shard.id().index;
                    self.take_good(shard);
                    wanted = IndexSet(wanted.0 & held.0);
                    wanted.remove(index);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(block = %self.reference.id, "a shard of the own store: {error}");
                    self.damaged += 1;
                    break;
                }
            }
        }
        self.asked.insert(self.blocks.net.own());
        let wanted = IndexSet::first(self.profile.total_shards()).minus(self.at_hand());
        let most = self.profile.data_shards().saturating_sub(self.good.len());
        for shard in store.cached(self.reference.id, wanted, most).await {
            self.take_good(shard);
        }
        self.here = self.at_hand();
    }

    /// A shard that was checked. What its header says of the stripe counts, whatever was expected: a file whose
    /// redundancy was changed may name blocks of another one for a while.
    fn take_good(&mut self, shard: VerifiedShard) {
        self.profile = shard.profile();
        self.good.insert(shard.id().index, shard);
    }

    /// Keeps what others sent, for the next time.
    fn keep(&self) {
        let fetched = self.good.iter();
        let fetched = fetched.filter(|(index, _)| !self.here.contains(**index));
        let shards: Vec<VerifiedShard> = fetched.map(|(_, shard)| shard.clone()).collect();
        self.blocks.keep(shards);
    }

    /// Queues the computed holders, each for the shard it should have, then the other candidates.
    fn plan(&mut self) {
        let all = IndexSet::first(self.profile.total_shards());
        let assigned = placement::assign(&self.ranked.order, |_| true, self.profile);
        let mut expected: BTreeMap<PeerId, IndexSet> = BTreeMap::new();
        for (index, peer) in assigned {
            expected.entry(peer).or_default().insert(index);
        }
        let stats = &self.blocks.stats;
        let mut order: Vec<(u8, u8, PeerId, IndexSet)> = Vec::new();
        for (rank, peer) in self.ranked.order.iter().enumerate() {
            if self.asked.contains(peer) || !self.ranked.is_live(peer) {
                continue;
            }
            let is_bad = stats.is_penalised(peer) || stats.is_displaced(peer);
            let trouble = u8::from(stats.is_slow(peer, Work::Fetch)) + 2 * u8::from(is_bad);
            let wanted = expected.get(peer).copied();
            let rank = u8::try_from(rank).unwrap_or(u8::MAX);
            order.push((trouble, rank, *peer, wanted.unwrap_or(all)));
        }
        order.sort_by_key(|(trouble, rank, ..)| (*trouble, *rank));
        for (_, _, peer, wanted) in order {
            // One answer brings one shard: a peer of several is asked for all of them at once.
            let questions = match expected.get(&peer) {
                Some(several) => several
                    .iter()
                    .map(|index| [index].into_iter().collect())
                    .collect(),
                None => vec![wanted],
            };
            let asks = questions.into_iter().map(|wanted| Ask {
                peer,
                wanted,
                busy: 0,
            });
            self.queue.extend(asks);
        }
    }

    /// Asks until there are enough good shards or nobody is left to ask.
    async fn drain(&mut self) -> Result<Option<Bytes>, GetError> {
        let mut answers: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        loop {
            if let Some(plaintext) = self.try_open().await? {
                return Ok(Some(plaintext));
            }
            while self.wants_another() {
                match self.next_question() {
                    Some(question) => answers.push(question),
                    None => break,
                }
            }
            if self.pending.is_empty() {
                return Ok(None);
            }
            let hedge = self.hedge_at();
            tokio::select! {
                biased;
                Some((ask, number, answer)) = answers.next() => self.take(ask, number, answer),
                () = tokio::time::sleep_until(hedge), if !self.queue.is_empty() => {
                    self.note_lag();
                    if let Some(question) = self.next_question() {
                        answers.push(question);
                    }
                }
            }
        }
    }

    /// Whether what is at hand and under way does not suffice. What slow or failing peers may
    /// bring does not count while there is a better one to ask.
    fn wants_another(&self) -> bool {
        let needed = self.profile.data_shards().saturating_sub(self.have());
        let stats = &self.blocks.stats;
        let is_prompt =
            |peer: &PeerId| !stats.is_slow(peer, Work::Fetch) && !stats.is_penalised(peer);
        let prompt = || {
            self.pending
                .iter()
                .filter(|pending| is_prompt(&pending.peer))
                .count()
        };
        self.pending.len() < needed
            || (self.queue.front().is_some_and(|ask| is_prompt(&ask.peer)) && prompt() < needed)
    }

    fn have(&self) -> usize {
        self.good.len() + self.raw.len()
    }

    fn at_hand(&self) -> IndexSet {
        self.good.keys().chain(self.raw.keys()).copied().collect()
    }

    /// When the slowest-looking outstanding question deserves a rival.
    fn hedge_at(&self) -> Instant {
        let stats = &self.blocks.stats;
        let outstanding = self
            .pending
            .iter()
            .map(|pending| pending.since + stats.hedge_after(&pending.peer, Work::Fetch));
        // One hedge at a time: the latest of those due, so that each new one gets its chance.
        outstanding.max().unwrap_or_else(Instant::now)
    }

    fn note_lag(&self) {
        let stats = &self.blocks.stats;
        for Pending { peer, since, .. } in &self.pending {
            stats.lags(peer, Work::Fetch, since.elapsed());
        }
    }

    /// The next question that can still bring something.
    fn next_question(&mut self) -> Option<BoxFuture<'static, Answer>> {
        loop {
            let ask = self.queue.pop_front()?;
            let under_way: IndexSet = self
                .pending
                .iter()
                .map(|pending| pending.wanted)
                .filter(|wanted| wanted.len() == 1)
                .fold(IndexSet::EMPTY, IndexSet::union);
            let useless = self.at_hand().union(self.answered_by(&ask.peer));
            // The expected index first; a displaced shard may turn out to be any other.
            let expected = ask.wanted.minus(useless);
            let rest = IndexSet::first(self.profile.total_shards())
                .minus(useless)
                .minus(under_way);
            let wanted = if expected.len() == 1 && !self.asked.contains(&ask.peer) {
                expected
            } else if expected.is_empty() {
                rest
            } else {
                expected
            };
            if wanted.is_empty() {
                continue;
            }
            self.asked.insert(ask.peer);
            self.questions += 1;
            let number = self.questions;
            self.pending.push(Pending {
                number,
                peer: ask.peer,
                wanted,
                since: Instant::now(),
            });
            let request = Request::Fetch {
                block: self.reference.id,
                wanted,
            };
            let net = self.blocks.net.clone();
            let timeout = self.blocks.limits.request_timeout;
            return Some(Box::pin(async move {
                if ask.busy > 0 {
                    tokio::time::sleep(BUSY_PAUSE * ask.busy).await;
                }
                let answer = net.request(ask.peer, request, timeout).await;
                (ask, number, answer)
            }));
        }
    }

    fn take(&mut self, ask: Ask, number: u64, answer: Result<Response, NetError>) {
        let peer = ask.peer;
        let answered = self.pending.iter().position(|p| p.number == number);
        let Some(pending) = answered.map(|at| self.pending.remove(at)) else {
            return;
        };
        let (begun, wanted) = (pending.since, pending.wanted);
        let stats = &self.blocks.stats;
        match answer {
            Ok(Response::Shard {
                index,
                held,
                header,
                data,
            }) => {
                stats.succeeded(&peer, Work::Fetch, begun.elapsed());
                let is_new = usize::from(index) < self.profile.total_shards()
                    && !self.at_hand().contains(index);
                // What was not asked for, or is here by now, says that there is nothing better.
                let about = match is_new && wanted.contains(index) {
                    true => [index].into_iter().collect(),
                    false => wanted,
                };
                self.has_answered(peer, about);
                if is_new {
                    let raw = Raw {
                        peer,
                        index,
                        header,
                        data,
                    };
                    self.raw.insert(index, raw);
                }
                self.ask_again(peer, held);
            }
            Ok(Response::Missing { held }) => {
                stats.succeeded(&peer, Work::Fetch, begun.elapsed());
                self.has_answered(peer, wanted);
                self.ask_again(peer, held);
            }
            Ok(Response::Busy) | Err(NetError::Busy(_)) if ask.busy < BUSY_TRIES => {
                self.queue.push_back(Ask {
                    busy: ask.busy + 1,
                    ..ask
                });
            }
            Ok(Response::Busy) | Err(NetError::Busy(_)) => {
                self.silent.insert(peer);
            }
            Ok(other) => {
                let what: String = format!("{other:?}").chars().take(40).collect();
                tracing::debug!(peer = %peer.short(), "no shard: {what}");
                stats.failed(&peer);
            }
            Err(error) => {
                tracing::debug!(peer = %peer.short(), "no shard: {error}");
                stats.failed(&peer);
                if error.class() == Class::Retry {
                    self.silent.insert(peer);
                }
            }
        }
    }

    fn answered_by(&self, peer: &PeerId) -> IndexSet {
        self.answered.get(peer).copied().unwrap_or_default()
    }

    fn has_answered(&mut self, peer: PeerId, about: IndexSet) {
        let answered = self.answered.entry(peer).or_default();
        *answered = answered.union(about);
    }

    /// A peer that holds further shards is asked for them before others are.
    fn ask_again(&mut self, peer: PeerId, held: IndexSet) {
        if self.liars.contains(&peer) {
            return;
        }
        let wanted = IndexSet(held.0 & IndexSet::first(self.profile.total_shards()).0)
            .minus(self.at_hand())
            .minus(self.answered_by(&peer));
        if !wanted.is_empty() {
            self.queue.push_front(Ask {
                peer,
                wanted,
                busy: 0,
            });
        }
    }

    /// Asks all live peers that were not asked yet what they hold, and queues those that do.
    async fn ask_everybody(&mut self) {
        let group = self.reference.id.group();
        self.ranked = self.blocks.ranked_anew(group).await;
        let members = self.blocks.net.members();
        let listed = members.list.iter().filter(|m| m.state.is_live());
        let mut others: BTreeSet<PeerId> = listed.map(|member| member.peer).collect();
        others.extend(self.ranked.live());
        others.retain(|peer| !self.asked.contains(peer));
        let block = self.reference.id;
        let mut answers: FuturesUnordered<_> = others
            .into_iter()
            .map(|peer| {
                let blocks = self.blocks;
                async move {
                    let request = Request::Have {
                        blocks: vec![block],
                    };
                    (peer, blocks.ask(peer, request, HAVE_TIMEOUT).await)
                }
            })
            .collect();
        let mut holders = Vec::new();
        while let Some((peer, answer)) = answers.next().await {
            match answer {
                Ok(Response::Held { held }) => {
                    let held = held.first().copied().unwrap_or_default();
                    holders.push((peer, held));
                }
                Err(error) if error.class() == Class::Retry => {
                    self.silent.insert(peer);
                }
                Ok(_) | Err(_) => {}
            }
        }
        drop(answers);
        holders.sort_by_key(|(peer, _)| *peer);
        for (peer, held) in holders {
            self.ask_again(peer, held);
        }
    }

    /// Checks what arrived and books liars; afterwards all shards at hand are good.
    async fn check_raw(&mut self) {
        let block = self.reference.id;
        let raw = std::mem::take(&mut self.raw);
        let checked = self
            .blocks
            .pools
            .cpu
            .run(move || {
                raw.into_values()
                    .map(|raw| {
                        let checked = VerifiedShard::verify(block, raw.index, raw.header, raw.data);
                        (raw.peer, checked)
                    })
                    .collect::<Vec<_>>()
            })
            .await;
        self.book(checked);
    }

    fn book(&mut self, checked: Vec<(PeerId, Result<VerifiedShard, erasure::StripeError>)>) {
        for (peer, checked) in checked {
            match checked {
                Ok(shard) => self.take_good(shard),
                Err(error) => {
                    tracing::warn!(peer = %peer.short(), "a peer sent a bad shard: {error}");
                    self.blocks.stats.lied(&peer);
                    self.liars.insert(peer);
                    self.damaged += 1;
                }
            }
        }
    }

    /// With k shards at hand: checks, joins and opens in one go on the CPU pool.
    async fn try_open(&mut self) -> Result<Option<Bytes>, GetError> {
        let need = self.profile.data_shards();
        if self.have() < need {
            return Ok(None);
        }
        self.check_raw_and_open(need).await
    }

    async fn check_raw_and_open(&mut self, need: usize) -> Result<Option<Bytes>, GetError> {
        let reference = self.reference;
        let raw = std::mem::take(&mut self.raw);
        let mut good: Vec<VerifiedShard> = self.good.values().cloned().collect();
        let work = move || {
            let checked: Vec<_> = raw
                .into_values()
                .map(|raw| {
                    let peer = raw.peer;
                    let shard =
                        VerifiedShard::verify(reference.id, raw.index, raw.header, raw.data);
                    (peer, shard)
                })
                .collect();
            good.extend(checked.iter().filter_map(|(_, shard)| shard.clone().ok()));
            let need = good
                .first()
                .map_or(need, |shard| shard.profile().data_shards());
            if good.len() < need {
                return (checked, None);
            }
            let opened = erasure::join(&good)
                .map_err(|error| error.to_string())
                .and_then(|parts| {
                    crypto::open(&reference.key, &parts).map_err(|error| error.to_string())
                });
            (checked, Some(opened))
        };
        let (checked, opened) = self.blocks.pools.cpu.run(work).await;
        self.book(checked);
        let Some(opened) = opened else {
            return Ok(None);
        };
        let unreadable = |why| GetError::Unreadable {
            block: reference.id,
            why,
        };
        let plaintext = opened.map_err(unreadable)?;
        if plaintext.len() != reference.plain_len as usize {
            let why = format!("{} bytes, not {}", plaintext.len(), reference.plain_len);
            return Err(unreadable(why));
        }
        Ok(Some(plaintext))
    }
}
