//! Placing one stripe: every shard durable at a peer of its own, as far as there are peers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::PutError;
use super::candidates::Ranked;
use super::peers::Work;
use super::upload::Session;
use crate::base::{BlockId, Class, Classify, IndexSet, PeerId};
use crate::erasure::{EncodedStripe, VerifiedShard};
use crate::net::{NetError, Refusal, Request, Response};
use crate::placement;

/// Stripes smaller than this are sent without asking whether they are there already.
const PROBE_MIN_BYTES: usize = 64 << 10;
/// A shard that waits for so long is sent to a further candidate too, if there is one.
const SECOND_TRY_AFTER: Duration = Duration::from_secs(4);
/// A stripe whose spare shards alone are missing for so long no longer holds up the upload.
const STRAGGLE_AFTER: Duration = Duration::from_millis(250);

/// What became of a stripe that is kept.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Distinct shards that are durable.
    pub placed: usize,
    /// Shards of the whole stripe.
    pub total: usize,
    /// Peers that may be lost.
    pub survives: usize,
    /// How many had to be.
    pub demanded: usize,
    /// Peers that hold some of it.
    pub holders: BTreeSet<PeerId>,
    /// Bytes sent.
    pub new_bytes: u64,
}

/// Why one peer did not take one shard.
#[derive(Debug)]
enum Failure {
    Full(u64),
    Peer(NetError),
    Refused(Refusal),
    Own(Class, String),
}

/// The end of one attempt.
type Attempt = (u8, PeerId, Result<(), Failure>);

/// One stripe on its way.
struct Placing {
    session: Arc<Session>,
    stripe: EncodedStripe,
    ranked: Ranked,
    /// Durable: index -> peers (more than one after a second try).
    placed: BTreeMap<u8, BTreeSet<PeerId>>,
    /// Under way: index, peer, since.
    pending: Vec<(u8, PeerId, Instant)>,
    /// Shards given to each peer, placed or under way.
    load: BTreeMap<PeerId, usize>,
    /// Peers that refused or failed for this stripe.
    excluded: BTreeSet<PeerId>,
    /// Of which those that cannot be reached, whatever the member list still says.
    gone: BTreeSet<PeerId>,
    /// Whether one refused for lack of room, and what it said of it.
    full: BTreeMap<PeerId, u64>,
    new_bytes: u64,
    own_failure: Option<(Class, String)>,
}

impl Session {
    /// Places `stripe` on distinct peers, elsewhere where one refuses, and holds `permit` (room in
    /// the upload's window) until all but stragglers are done.
    pub(super) async fn place(
        self: Arc<Self>,
        stripe: EncodedStripe,
        permit: OwnedSemaphorePermit,
    ) -> Result<Outcome, PutError> {
        let ranked = self.blocks.ranked(stripe.id.group()).await;
        let placing = Placing {
            session: self,
            stripe,
            ranked,
            placed: BTreeMap::new(),
            pending: Vec::new(),
            load: BTreeMap::new(),
            excluded: BTreeSet::new(),
            gone: BTreeSet::new(),
            full: BTreeMap::new(),
            new_bytes: 0,
            own_failure: None,
        };
        placing.run(permit).await
    }

    /// Adds this upload's claim at `peer`; the indices it holds already.
    async fn claim_at(&self, peer: PeerId, block: BlockId) -> IndexSet {
        let blocks = &self.blocks;
        let expires_ms = self.expires_ms();
        self.uses(peer);
        let held = if peer == blocks.net.own() {
            let held = blocks.store.claim(self.claim, expires_ms, vec![block]);
            held.await.ok()
        } else {
            let request = Request::Claim {
                claim: self.claim,
                expires_ms,
                blocks: vec![block],
            };
            match blocks.ask(peer, request, SECOND_TRY_AFTER).await {
                Ok(Response::Held { held }) => Some(held),
                _ => None,
            }
        };
        held.and_then(|held| held.first().copied())
            .unwrap_or(IndexSet::EMPTY)
    }

    fn expires_ms(&self) -> u64 {
        let blocks = &self.blocks;
        blocks.clock.now_ms() + blocks.limits.claim_ttl.as_millis() as u64
    }

    /// Stores one shard durably at `peer`.
    async fn store_at(&self, peer: PeerId, shard: VerifiedShard) -> Result<(), Failure> {
        let blocks = &self.blocks;
        let expires_ms = self.expires_ms();
        self.uses(peer);
        if peer == blocks.net.own() {
            let stored = blocks.store.put(shard, self.claim, expires_ms).await;
            return match stored {
                Ok(_) => Ok(()),
                Err(error) if error.class() == Class::Full => {
                    Err(Failure::Full(blocks.store.usage().intake_left))
                }
                Err(error) => Err(Failure::Own(error.class(), error.to_string())),
            };
        }
        let slow = blocks.stats.is_slow(&peer, Work::Store);
        let request = Request::Store {
            claim: self.claim,
            expires_ms,
            block: shard.id().block,
            index: shard.id().index,
            header: shard.header().clone(),
            // A slow peer must not keep the whole stripe's buffer alive.
            data: if slow {
                bytes::Bytes::copy_from_slice(shard.data())
            } else {
                shard.data().clone()
            },
        };
        drop(shard);
        let begun = Instant::now();
        let answer = blocks.ask(peer, request, blocks.limits.request_timeout);
        match answer.await {
            Ok(Response::Stored) => {
                blocks.stats.succeeded(&peer, Work::Store, begun.elapsed());
                blocks.stats.has_room(&peer);
                Ok(())
            }
            Ok(Response::Refused {
                reason: Refusal::Full,
                free_bytes,
            }) => {
                blocks.stats.is_full(&peer);
                Err(Failure::Full(free_bytes))
            }
            Ok(Response::Refused { reason, .. }) => {
                blocks.stats.failed(&peer);
                Err(Failure::Refused(reason))
            }
            Ok(other) => {
                blocks.stats.failed(&peer);
                let what = format!("{other:?}").chars().take(40).collect();
                Err(Failure::Peer(NetError::Protocol(peer, what)))
            }
            Err(error) => {
                blocks.stats.failed(&peer);
                Err(Failure::Peer(error))
            }
        }
    }
}

impl Placing {
    async fn run(mut self, permit: OwnedSemaphorePermit) -> Result<Outcome, PutError> {
        let mut permit = Some(permit);
        // Held until the last straggler is done.
        let mut straggling = None;
        let mut attempts = FuturesUnordered::new();
        for (index, peer) in self.first_choice().await {
            attempts.push(self.attempt(index, peer));
        }
        let begun = Instant::now();
        let mut tick = tokio::time::interval(STRAGGLE_AFTER);
        tick.tick().await;
        while !self.pending.is_empty() {
            tokio::select! {
                biased;
                Some((index, peer, result)) = attempts.next() => {
                    if let Some(next) = self.settle(index, peer, result) {
                        attempts.push(self.attempt(index, next));
                    }
                }
                _ = tick.tick() => {
                    if self.session.is_over() {
                        return Err(PutError::Stopped);
                    }
                    self.note_lag();
                    for (index, peer) in self.second_tries() {
                        attempts.push(self.attempt(index, peer));
                    }
                    if permit.is_some() && begun.elapsed() >= STRAGGLE_AFTER {
                        straggling = self.may_straggle();
                        if straggling.is_some() {
                            permit = None;
                        }
                    }
                }
            }
        }
        drop(straggling);
        self.judge()
    }

    /// The first assignment, less what peers hold already (then only the claim is added).
    async fn first_choice(&mut self) -> Vec<(u8, PeerId)> {
        let session = Arc::clone(&self.session);
        let stats = &session.blocks.stats;
        let live: Vec<PeerId> = self.ranked.live().copied().collect();
        let profile = session.options.profile;
        let roomy: BTreeSet<PeerId> = live
            .iter()
            .copied()
            .filter(|peer| !stats.said_full(peer) && !stats.is_penalised(peer))
            .collect();
        let is_trusted = |peer: &&PeerId| !stats.is_displaced(peer);
        let trusted: BTreeSet<PeerId> = roomy.iter().filter(is_trusted).copied().collect();
        // Whoever lost trust, was full or failed a moment ago is tried when the rest cannot do it.
        // Nobody promises as much as is demanded when that is nothing; and can do nothing.
        let demanded = self.demanded();
        let is_enough = |peers: &&BTreeSet<PeerId>| {
            !peers.is_empty() && placement::promised(profile, peers.len()) >= demanded
        };
        let usable = [&trusted, &roomy].into_iter().find(is_enough);
        let assigned = placement::assign(
            &self.ranked.order,
            |peer| match usable {
                Some(usable) => usable.contains(peer),
                None => live.contains(peer),
            },
            profile,
        );
        let shard_bytes = self.stripe.shards.first().map_or(0, |s| s.data().len());
        if shard_bytes * profile.total_shards() < PROBE_MIN_BYTES {
            return assigned;
        }
        self.without_held(assigned).await
    }

    /// Asks one holder; if it has the block, claims it everywhere and leaves out what is held.
    async fn without_held(&mut self, assigned: Vec<(u8, PeerId)>) -> Vec<(u8, PeerId)> {
        let own = self.session.blocks.net.own();
        let block = self.stripe.id;
        let peers: BTreeSet<PeerId> = assigned.iter().map(|(_, peer)| *peer).collect();
        let probed = if peers.contains(&own) {
            Some(own)
        } else {
            assigned.first().map(|(_, peer)| *peer)
        };
        let Some(probed) = probed else {
            return assigned;
        };
        let session = Arc::clone(&self.session);
        let first = session.claim_at(probed, block).await;
        if first.is_empty() {
            return assigned;
        }
        let others = peers.iter().copied().filter(|peer| *peer != probed);
        let mut answers: FuturesUnordered<_> = others
            .map(|peer| {
                let session = &session;
                async move { (peer, session.claim_at(peer, block).await) }
            })
            .collect();
        let mut held = BTreeMap::from([(probed, first)]);
        while let Some((peer, indices)) = answers.next().await {
            held.insert(peer, indices);
        }
        for (peer, indices) in &held {
            for index in indices.iter() {
                self.placed.entry(index).or_default().insert(*peer);
                *self.load.entry(*peer).or_default() += 1;
            }
        }
        // What nobody holds goes to the assigned peers that hold least, best first.
        let missing: Vec<u8> = assigned
            .iter()
            .map(|(index, _)| *index)
            .filter(|index| !self.placed.contains_key(index))
            .collect();
        let mut load = self.load.clone();
        missing
            .into_iter()
            .filter_map(|index| {
                let peer = assigned
                    .iter()
                    .map(|(_, peer)| *peer)
                    .min_by_key(|peer| load.get(peer).copied().unwrap_or(0))?;
                *load.entry(peer).or_default() += 1;
                Some((index, peer))
            })
            .collect()
    }

    /// Starts one attempt and books it.
    fn attempt(&mut self, index: u8, peer: PeerId) -> BoxFuture<'static, Attempt> {
        self.pending.push((index, peer, Instant::now()));
        *self.load.entry(peer).or_default() += 1;
        let shard = self.stripe.shards.get(usize::from(index)).cloned();
        let session = Arc::clone(&self.session);
        Box::pin(async move {
            let Some(shard) = shard else {
                let why = "placement named a shard that the stripe does not have".to_owned();
                return (index, peer, Err(Failure::Own(Class::Bug, why)));
            };
            let result = session.store_at(peer, shard).await;
            (index, peer, result)
        })
    }

    /// Books the end of an attempt; the peer to try next, if one is needed and left.
    fn settle(&mut self, index: u8, peer: PeerId, result: Result<(), Failure>) -> Option<PeerId> {
        self.pending.retain(|(i, p, _)| (*i, *p) != (index, peer));
        match result {
            Ok(()) => {
                self.placed.entry(index).or_default().insert(peer);
                let shard = self.stripe.shards.get(usize::from(index));
                self.new_bytes += shard.map_or(0, |s| s.data().len() as u64);
                return None;
            }
            Err(Failure::Full(free_bytes)) => {
                self.full.insert(peer, free_bytes);
            }
            Err(Failure::Own(class, why)) => {
                tracing::warn!(?class, "the own store refused a shard: {why}");
                self.own_failure = Some((class, why));
            }
            Err(Failure::Peer(error)) => {
                tracing::debug!(peer = %peer.short(), "a shard was not taken: {error}");
                if error.class() == Class::Retry && !matches!(error, NetError::Busy(_)) {
                    self.gone.insert(peer);
                }
            }
            Err(Failure::Refused(reason)) => {
                tracing::debug!(peer = %peer.short(), ?reason, "a shard was refused");
            }
        }
        self.excluded.insert(peer);
        if let Some(load) = self.load.get_mut(&peer) {
            *load = load.saturating_sub(1);
        }
        let covered = self.placed.contains_key(&index)
            || self.pending.iter().any(|(pending, ..)| *pending == index);
        if covered {
            None
        } else {
            self.replacement(true)
        }
    }

    /// The best usable candidate with the fewest shards of this stripe.
    fn replacement(&self, also_loaded: bool) -> Option<PeerId> {
        let session = &self.session;
        self.ranked
            .live()
            .filter(|peer| !self.excluded.contains(peer))
            .filter(|peer| !session.blocks.stats.said_full(peer))
            .map(|peer| (self.load.get(peer).copied().unwrap_or(0), *peer))
            .filter(|(load, _)| also_loaded || *load == 0)
            // Readers would wait for the second shard of a slow peer after the first.
            .min_by_key(|(load, peer)| {
                let stats = &session.blocks.stats;
                let is_slow = stats.is_slow(peer, Work::Store);
                (*load, stats.is_displaced(peer), is_slow)
            })
            .map(|(_, peer)| peer)
    }

    /// Lets the statistics know who keeps this stripe waiting.
    fn note_lag(&self) {
        for (_, peer, since) in &self.pending {
            self.session
                .blocks
                .stats
                .lags(peer, Work::Store, since.elapsed());
        }
    }

    /// Shards that wait for long and have a fresh candidate to go to.
    fn second_tries(&self) -> Vec<(u8, PeerId)> {
        let late = self.pending.iter().find(|(index, _, since)| {
            since.elapsed() >= SECOND_TRY_AFTER
                && !self.placed.contains_key(index)
                && self.pending.iter().filter(|(i, ..)| i == index).count() == 1
        });
        late.and_then(|(index, ..)| Some((*index, self.replacement(false)?)))
            .into_iter()
            .collect()
    }

    /// Room among the stragglers, if only spare shards are outstanding.
    fn may_straggle(&self) -> Option<OwnedSemaphorePermit> {
        if self.placed.len() < self.session.options.profile.data_shards() {
            return None;
        }
        let bytes: usize = self
            .pending
            .iter()
            .filter_map(|(index, ..)| self.stripe.shards.get(usize::from(*index)))
            .map(|shard| shard.data().len())
            .sum();
        let stragglers = Arc::clone(&self.session.stragglers);
        stragglers.try_acquire_many_owned(bytes as u32).ok()
    }

    fn demanded(&self) -> usize {
        let options = &self.session.options;
        let live = self.ranked.live().filter(|peer| !self.gone.contains(peer));
        options
            .survive
            .unwrap_or_else(|| placement::promised(options.profile, live.count()))
    }

    /// Whether what is placed is what was demanded.
    fn judge(self) -> Result<Outcome, PutError> {
        let profile = self.session.options.profile;
        let mut held: BTreeMap<PeerId, usize> = BTreeMap::new();
        for peers in self.placed.values() {
            // A shard that two peers hold counts where it helps least.
            let peer = peers
                .iter()
                .max_by_key(|peer| held.get(peer).copied().unwrap_or(0));
            if let Some(peer) = peer {
                *held.entry(*peer).or_default() += 1;
            }
        }
        let survives = placement::survives(held, profile.data_shards());
        let demanded = self.demanded();
        if let Some(survives) = survives.filter(|survives| *survives >= demanded) {
            return Ok(Outcome {
                placed: self.placed.len(),
                total: profile.total_shards(),
                survives,
                demanded,
                holders: self.placed.into_values().flatten().collect(),
                new_bytes: self.new_bytes,
            });
        }
        let stats = &self.session.blocks.stats;
        let somebody_full =
            !self.full.is_empty() || self.ranked.live().any(|peer| stats.said_full(peer));
        if somebody_full {
            return Err(self.full_error(survives, demanded));
        }
        if let Some((class, why)) = self.own_failure {
            return Err(PutError::Store(why, class));
        }
        Err(PutError::TooFewPeers {
            profile,
            live: self.ranked.live().count(),
            placed: self.placed.len(),
            wanted: profile.total_shards(),
            survives,
            demanded,
        })
    }

    fn full_error(&self, survives: Option<usize>, demanded: usize) -> PutError {
        let own = self.session.blocks.net.own();
        let store = &self.session.blocks.store;
        let free = self
            .ranked
            .live()
            .map(|peer| {
                let known = self.full.get(peer).copied();
                let said = self.ranked.member(peer).map_or(0, |m| m.free_bytes);
                let free = if *peer == own {
                    store.usage().intake_left
                } else {
                    known.unwrap_or(said)
                };
                (*peer, free)
            })
            .collect();
        PutError::Full {
            profile: self.session.options.profile,
            placed: self.placed.len(),
            wanted: self.session.options.profile.total_shards(),
            survives,
            demanded,
            free,
        }
    }
}
