//! The own feed at peers that keep its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::{Keeper, PATIENCE, PLACES, TailPlaces};
use crate::base::PeerId;
use crate::base::limits::TAIL_MAX_BYTES;
use crate::feeds::{Keeping, Kept, SealedDelta, Tail, TailVerdict};
use crate::namespace::WriterId;
use crate::net::{NetError, Request, Response};
use crate::share::Inner;

/// Deltas that come within so long go together: each time the keepers write to their disks.
const LINGER: Duration = Duration::from_millis(100);
/// How often it is looked whether other peers are to keep it by now.
const TURN: Duration = Duration::from_secs(30);
/// How often keepers are asked what they have, though there is nothing to tell them.
const VERIFY: Duration = Duration::from_secs(600);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(6);
/// How long a talk may take: the largest feed in parts, each answered just in time.
const TALK: Duration = Duration::from_secs(60);
/// How long one that is busy is left alone before it is asked again, and again.
const BUSY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// Bytes of deltas that are sent at once.
const PART_BYTES: usize = 1 << 20;
/// With so many bytes behind the last checkpoint another one is due: there is room for twice as much.
const EARLY_BYTES: u64 = TAIL_MAX_BYTES / 2;
/// One that is full with less than that is not full of this feed.
const FULL_BYTES: u64 = 256 << 10;
/// How long one is not asked that could not be reached, or has no room.
const LATER: Duration = Duration::from_secs(60);
/// How long one is not asked that keeps nothing for others, does not know how, or has another branch.
const NOT_SOON: Duration = Duration::from_secs(600);

/// Why a peer does not keep the own feed.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("it keeps nothing for others, or does not know how")]
    Unsupported,
    #[error("it is busy")]
    Busy,
    #[error("it takes too long")]
    Slow,
    #[error("it has no room")]
    Full,
    #[error("it has another branch of this feed: is this device a copy of another?")]
    Forked,
    #[error("it takes nothing before the next checkpoint, since what was before is dropped here")]
    NoBase,
    #[error("it has more of this feed than is here")]
    Ahead,
    #[error("it answered nonsense")]
    Nonsense,
    #[error("the own feed cannot be read: {0}")]
    Own(#[from] crate::vfs::VfsError),
}

impl Inner {
    /// Keeps the end of the own feed at as many peers as are wanted.
    pub(in crate::share) async fn keep_tails_always(self: Arc<Self>) {
        let Some(mut grown) = self.vfs.watch_feeds() else {
            return;
        };
        loop {
            grown.mark_unchanged();
            if !self.vfs.is_reader() {
                self.keep_tails().await;
            }
            tokio::select! {
                biased;
                changed = grown.changed() => match changed {
                    Ok(()) => sleep(LINGER).await,
                    Err(_) => return,
                },
                () = self.tails.turn.notified() => {}
                () = sleep(TURN) => {}
            }
        }
    }

    /// Brings the keepers up to date.
    async fn keep_tails(self: &Arc<Self>) {
        let (own, last) = self.own_end();
        if last == 0 {
            return;
        }
        self.tails.begin(own);
        let now = Instant::now();
        {
            let mut state = self.tails.lock();
            if state.asked.is_none_or(|at| now >= at + VERIFY) {
                state.asked = Some(now);
                let all = state.keepers.values_mut();
                all.for_each(|keeper| keeper.is_unsure = true);
            }
            state.barred.retain(|_, until| *until > now);
        }
        if last <= self.tails.covered_upto() {
            return self.tell_covered(own);
        }
        let places = self.tail_places().await;
        let wanted = self.tails.wanted_of(places.holders.len());
        self.tails.lock().wanted = Some(wanted);
        let mut candidates = self.candidates(places).into_iter();
        let mut have = self.tails.rely_on_talks();
        let mut begun = FuturesUnordered::new();
        let patience = sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            while have + begun.len() < wanted
                && let Some(peer) = candidates.next()
            {
                begun.extend(self.begin_keeping(peer, own));
            }
            tokio::select! {
                biased;
                Some(has) = begun.next() => have += usize::from(has == Ok(true)),
                // Nobody waits for one that takes long.
                () = &mut patience, if !begun.is_empty() => break,
                else => break,
            }
        }
        self.tell_covered(own);
    }

    /// Begins to have a peer keep the own feed, unless it is talked with. In the end comes whether it has all of it.
    fn begin_keeping(
        self: &Arc<Self>,
        peer: PeerId,
        own: WriterId,
    ) -> Option<oneshot::Receiver<bool>> {
        if !self.tails.begin_talk(peer) {
            return None;
        }
        let (done, has) = oneshot::channel();
        let inner = Arc::clone(self);
        self.spawn(async move {
            let is_kept = inner.keep_at(peer, own).await;
            inner.tails.end_talk(&peer);
            // Nobody may be waiting for it any more.
            let _ = done.send(is_kept);
        });
        Some(has)
    }

    /// The own writer, and how far its feed is on the disk.
    pub(in crate::share) fn own_end(&self) -> (WriterId, u64) {
        let own = self.vfs.writer();
        let claims = self.vfs.claims();
        let end = claims.iter().find(|claim| claim.writer == own);
        (own, end.map_or(0, |claim| claim.last))
    }

    async fn tail_places(&self) -> TailPlaces {
        let known = self.tails.lock().places.clone();
        match known.filter(|(at, _)| at.elapsed() < PLACES) {
            Some((_, places)) => places,
            None => {
                let places = self.blocks.tail_places(self.volume).await;
                self.tails.lock().places = Some((Instant::now(), places.clone()));
                places
            }
        }
    }

    /// Whom to ask, in this order: those without part in the volume, those that have some of it, the closest.
    fn candidates(&self, places: TailPlaces) -> Vec<PeerId> {
        let state = self.tails.lock();
        let mut holders = places.holders;
        let is_open =
            |peer: &PeerId| !state.barred.contains_key(peer) && !state.talks.contains_key(peer);
        holders.retain(is_open);
        holders.sort_by_key(|peer| {
            let has_some = state.keepers.contains_key(peer);
            (self.peers.has_part(peer), !has_some)
        });
        holders
    }

    /// Has a peer keep the own feed. Whether it has all of it then.
    async fn keep_at(&self, peer: PeerId, own: WriterId) -> bool {
        let pushed = tokio::time::timeout(TALK, self.push_tail(peer, own)).await;
        let error = match pushed.unwrap_or(Err(KeepError::Slow)) {
            Ok(()) => return true,
            Err(error) => error,
        };
        let time = match &error {
            KeepError::Unsupported | KeepError::Nonsense => NOT_SOON,
            KeepError::Forked => {
                tracing::warn!(peer = %peer.short(), volume = %self.volume, "the own feed is not kept: {error}");
                self.tails.is_forked(peer);
                NOT_SOON
            }
            KeepError::Ahead => {
                // What is there beyond the own end may be another branch.
                self.tails.is_forked(peer);
                self.tails.news.notify_one();
                LATER
            }
            _ => LATER,
        };
        tracing::debug!(peer = %peer.short(), "the own feed is not kept there now: {error}");
        self.tails.bar(peer, time);
        false
    }

    /// Sends a peer what it lacks of the own feed.
    async fn push_tail(&self, peer: PeerId, own: WriterId) -> Result<(), KeepError> {
        let mut reached: Option<Keeper> = None;
        loop {
            let (known, covered) = {
                let state = self.tails.lock();
                let known = state.keepers.get(&peer).copied();
                let known = known.filter(|keeper| !keeper.is_unsure);
                (known, state.covered.clone())
            };
            // A word has it let go of what it keeps: first it shows what that is.
            let covered = covered.filter(|_| known.is_some());
            let start = covered.as_ref().map_or(0, |word| word.upto);
            let deltas = match known {
                None => Vec::new(),
                Some(keeper) => {
                    let after = keeper.last.max(start);
                    self.vfs.deltas(own, after, PART_BYTES).await?.deltas
                }
            };
            if deltas.is_empty() && known.is_some_and(|keeper| keeper.start >= start) {
                return Ok(());
            }
            let keep = Keeping::Keep {
                volume: self.volume,
                writer: own,
                covered,
                deltas,
            };
            let kept = self.ask_to_keep(peer, &keep).await?;
            let tail = &kept.tail;
            if tail.writer() != own || tail.volume() != self.volume {
                return Err(KeepError::Nonsense);
            }
            let (_, last) = self.own_end();
            if tail.last() > last {
                return Err(KeepError::Ahead);
            }
            if kept.verdict == TailVerdict::Forked
                || reached.is_none() && !self.is_own_branch(own, tail).await?
            {
                return Err(KeepError::Forked);
            }
            self.tails.lock().forked.remove(&peer);
            // After a start only they know what was the last checkpoint.
            if let Some(word) = tail.covered() {
                self.tails.adopt(word);
            }
            self.tails.note(peer, tail);
            let is_full = kept.verdict == TailVerdict::Full && kept.bytes >= FULL_BYTES;
            if kept.bytes >= EARLY_BYTES || is_full {
                self.tails.early.notify_one();
            }
            let now = Keeper {
                start: tail.start(),
                last: tail.last(),
                is_unsure: false,
            };
            // What is kept only grows, or begins later: whoever says otherwise might do so for ever.
            let before = reached.replace(now);
            let has_grown = before.is_none_or(|before| {
                (before.last, before.start) < (now.last, now.start) && before.start <= now.start
            });
            match kept.verdict {
                TailVerdict::Full => return Err(KeepError::Full),
                TailVerdict::Forked => return Err(KeepError::Forked),
                TailVerdict::Gap if !has_grown => return Err(KeepError::NoBase),
                _ if !has_grown => return Err(KeepError::Nonsense),
                TailVerdict::Refused => return Err(KeepError::Nonsense),
                TailVerdict::Gap if Some(now) == known => return Err(KeepError::NoBase),
                TailVerdict::Kept if Some(now) == known => return Err(KeepError::Nonsense),
                TailVerdict::Gap | TailVerdict::Kept => {}
            }
        }
    }

    /// Whether what a peer keeps is this feed, as far as that is still known here: what is dropped here for a checkpoint that
    /// is not the last one cannot be compared.
    async fn is_own_branch(&self, own: WriterId, tail: &Tail) -> Result<bool, KeepError> {
        let Some((last, hash)) = tail.end() else {
            return Ok(true);
        };
        let claims = self.vfs.claims();
        if let Some(end) = claims.iter().find(|claim| claim.writer == own)
            && end.last == last
        {
            return Ok(end.hash == hash);
        }
        let next = self.vfs.deltas(own, last.saturating_sub(1), 1).await?;
        let Some(next) = next.deltas.into_iter().next() else {
            return Ok(true);
        };
        let read = self.pools.cpu.run(move || SealedDelta::decode(&next)).await;
        let Ok(next) = read else {
            return Ok(true);
        };
        let link = next.link();
        Ok(match link.first > last {
            true => link.first > last + 1 || link.previous == Some(hash),
            false => link.last == last && link.hash() == hash,
        })
    }

    /// Has keepers let go of what the last checkpoint makes up for. Waits for nobody.
    fn tell_covered(self: &Arc<Self>, own: WriterId) {
        let (late, covered) = {
            let state = self.tails.lock();
            let Some(covered) = state.covered.clone() else {
                return;
            };
            let behind = state.keepers.iter();
            let behind = behind.filter(|(_, keeper)| keeper.start < covered.upto);
            let mut late: BTreeSet<PeerId> = behind.map(|(peer, _)| *peer).collect();
            late.extend(&state.former);
            (late, covered)
        };
        for peer in late {
            if !self.tails.begin_talk(peer) {
                continue;
            }
            self.tails.lock().former.remove(&peer);
            let keep = Keeping::Keep {
                volume: self.volume,
                writer: own,
                covered: Some(covered.clone()),
                deltas: Vec::new(),
            };
            let inner = Arc::clone(self);
            self.spawn(async move {
                match inner.ask_to_keep(peer, &keep).await {
                    Ok(kept) if kept.tail.writer() == own => match kept.verdict {
                        TailVerdict::Forked => {
                            inner.tails.is_forked(peer);
                            inner.tails.bar(peer, NOT_SOON);
                        }
                        _ => inner.tails.note(peer, &kept.tail),
                    },
                    _ => inner.tails.bar(peer, LATER),
                }
                inner.tails.end_talk(&peer);
            });
        }
    }

    /// Asks a peer, and once more or twice where it is busy.
    async fn ask_to_keep(&self, peer: PeerId, keep: &Keeping) -> Result<Kept, KeepError> {
        for pause in BUSY {
            match self.ask_once(peer, keep).await {
                Err(KeepError::Busy) => sleep(pause).await,
                answer => return answer,
            }
        }
        self.ask_once(peer, keep).await
    }

    async fn ask_once(&self, peer: PeerId, keep: &Keeping) -> Result<Kept, KeepError> {
        let body = Bytes::from(keep.encode());
        let request = Request::Feed { body };
        match self.net.request(peer, request, TIMEOUT).await? {
            Response::Feed { body } => {
                let read = self.pools.cpu.run(move || Keeping::decode(&body)).await;
                match read {
                    Ok(Keeping::Kept(kept)) => Ok(*kept),
                    _ => Err(KeepError::Nonsense),
                }
            }
            Response::Unsupported => Err(KeepError::Unsupported),
            Response::Busy => Err(KeepError::Busy),
            Response::Refused { .. } => Err(KeepError::Full),
            _ => Err(KeepError::Nonsense),
        }
    }
}
