//! The own feed at peers that keep its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Keeper, PLACES, TailPlaces};
use crate::base::PeerId;
use crate::base::limits::TAIL_MAX_BYTES;
use crate::feeds::{Keeping, Kept, TailVerdict};
use crate::namespace::WriterId;
use crate::net::{NetError, Request, Response};
use crate::share::Inner;

/// Deltas that come within so long go together: each time the keepers write to their disks.
const LINGER: Duration = Duration::from_millis(100);
/// How often it is looked whether other peers are to keep it by now.
const TURN: Duration = Duration::from_secs(30);
/// How often keepers are asked what they have, though there is nothing to tell them.
const VERIFY: Duration = Duration::from_secs(600);
/// How long an answer may take: meanwhile the others are not told of more.
const TIMEOUT: Duration = Duration::from_secs(6);
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
                () = self.tails.covered.notified() => {}
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
            return self.tell_covered(own).await;
        }
        let places = self.tail_places().await;
        let wanted = self.tails.wanted_of(places.holders.len());
        self.tails.lock().wanted = Some(wanted);
        let mut candidates = self.candidates(places).into_iter();
        let mut have = 0;
        while have < wanted {
            let some: Vec<PeerId> = candidates.by_ref().take(wanted - have).collect();
            if some.is_empty() {
                break;
            }
            let pushed = some.into_iter().map(|peer| self.keep_at(peer, own));
            let pushed = futures::future::join_all(pushed).await;
            have += pushed.into_iter().filter(|has| *has).count();
        }
        self.tell_covered(own).await;
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
        holders.retain(|peer| !state.barred.contains_key(peer));
        holders.sort_by_key(|peer| {
            let has_some = state.keepers.contains_key(peer);
            (self.peers.has_part(peer), !has_some)
        });
        holders
    }

    /// Has a peer keep the own feed. Whether it has all of it then.
    async fn keep_at(&self, peer: PeerId, own: WriterId) -> bool {
        let error = match self.push_tail(peer, own).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        let time = match &error {
            KeepError::Unsupported | KeepError::Nonsense => NOT_SOON,
            KeepError::Forked => {
                tracing::warn!(peer = %peer.short(), volume = %self.volume, "the own feed is not kept: {error}");
                NOT_SOON
            }
            KeepError::Ahead => {
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
        loop {
            let (known, covered) = {
                let state = self.tails.lock();
                let known = state.keepers.get(&peer).copied();
                let known = known.filter(|keeper| !keeper.is_unsure);
                (known, state.covered.clone())
            };
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
            match kept.verdict {
                TailVerdict::Full => return Err(KeepError::Full),
                TailVerdict::Forked => return Err(KeepError::Forked),
                TailVerdict::Refused => return Err(KeepError::Nonsense),
                TailVerdict::Gap if Some(now) == known => return Err(KeepError::NoBase),
                TailVerdict::Kept if Some(now) == known => return Err(KeepError::Nonsense),
                TailVerdict::Gap | TailVerdict::Kept => {}
            }
        }
    }

    /// Has keepers let go of what the last checkpoint makes up for.
    async fn tell_covered(&self, own: WriterId) {
        let (late, covered) = {
            let mut state = self.tails.lock();
            let Some(covered) = state.covered.clone() else {
                return;
            };
            let mut late = std::mem::take(&mut state.former);
            let behind = state.keepers.iter();
            let behind = behind.filter(|(_, keeper)| keeper.start < covered.upto);
            late.extend(behind.map(|(peer, _)| *peer));
            (late, covered)
        };
        let told = late.into_iter().map(|peer| {
            let keep = Keeping::Keep {
                volume: self.volume,
                writer: own,
                covered: Some(covered.clone()),
                deltas: Vec::new(),
            };
            async move {
                match self.ask_to_keep(peer, &keep).await {
                    Ok(kept) if kept.tail.writer() == own => self.tails.note(peer, &kept.tail),
                    _ => self.tails.bar(peer, LATER),
                }
            }
        });
        futures::future::join_all(told).await;
    }

    async fn ask_to_keep(&self, peer: PeerId, keep: &Keeping) -> Result<Kept, KeepError> {
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
