//! The ends of feeds at peers that have no part in the volume: kept there, and had back.
//!
//! What this device wrote since its last checkpoint is at `wanted` peers of those that are closest to the volume, beside
//! the members that are connected (`push`). Whoever opens the volume, comes back, or hears of a peer asks them what they
//! have (`look`), and checks what they give like deltas of anybody else: so they cost time at most.

mod look;
mod push;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::base::PeerId;
use crate::blocks::TailPlaces;
use crate::feeds::{Covered, Signed, Tail};
use crate::namespace::WriterId;

/// For how long it is remembered who is closest to the volume.
const PLACES: Duration = Duration::from_secs(20);
/// Most peers that are remembered to have had some of the own feed, or to have another branch of it.
const FORMER_MAX: usize = 64;
/// Peers that are asked at once what they keep.
const LOOKS: usize = 8;
/// For how long all keepers are waited for: the talk with whoever takes longer goes on by itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// And whoever is still being told after so long has another in its place.
const HOPE: Duration = Duration::from_secs(6);

/// How many peers without part in the volume, if need be with part, have what this device wrote since its last
/// checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TailStatus {
    /// So many are to have it, of those that can be reached.
    pub wanted: usize,
    /// So many have all of it.
    pub keepers: usize,
}

impl TailStatus {
    /// Whether as many have it as are to have it.
    pub const fn is_kept(&self) -> bool {
        self.keepers >= self.wanted
    }
}

/// What a peer is known to have of the own feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keeper {
    start: u64,
    last: u64,
    /// It is to be asked again.
    is_unsure: bool,
}

/// A peer that is being told something of the own feed.
#[derive(Debug, Clone, Copy)]
struct Talk {
    begun: Instant,
    /// Somebody relied on it since it began: it is to be looked again when it ends.
    is_relied_on: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Of which writer all this is: a device that begins another life has another feed.
    writer: Option<WriterId>,
    /// The own word about the last checkpoint that others find.
    covered: Option<Signed<Covered>>,
    keepers: BTreeMap<PeerId, Keeper>,
    /// Peers that had some of it: they are told what they need not keep.
    former: BTreeSet<PeerId>,
    /// Peers that are asked again from then on.
    barred: BTreeMap<PeerId, Instant>,
    /// Peers that have another branch of the own feed: a word would have them let go of that.
    forked: BTreeSet<PeerId>,
    /// With whom is talked just now.
    talks: BTreeMap<PeerId, Talk>,
    places: Option<(Instant, TailPlaces)>,
    /// When all keepers were last asked what they have.
    asked: Option<Instant>,
    /// How many are to keep the feed, by who could be reached last; none before that was looked at.
    wanted: Option<usize>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tails {
    /// So many peers are to keep the own feed.
    most: usize,
    state: Mutex<State>,
    /// A checkpoint makes up for more, or a talk that nobody waited for has ended.
    pub(super) turn: Notify,
    /// Others may have what is missing here.
    pub(super) news: Notify,
    /// A peer came that may have it.
    pub(super) came: Notify,
    /// For those who are asked what they keep.
    looks: Semaphore,
    /// For the one that gives it just now.
    taking: Semaphore,
    /// So much was written that a checkpoint is due sooner.
    pub(super) early: Notify,
}

impl Tails {
    pub(super) fn new(most: usize) -> Tails {
        Tails {
            most,
            state: Mutex::default(),
            turn: Notify::new(),
            news: Notify::new(),
            came: Notify::new(),
            looks: Semaphore::new(LOOKS),
            taking: Semaphore::new(1),
            early: Notify::new(),
        }
    }

    /// How many are to keep the feed where so many others can.
    pub(super) fn wanted_of(&self, holders: usize) -> usize {
        self.most.min(holders)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of another life's feed says nothing of this one's.
    fn begin(&self, writer: WriterId) {
        let mut state = self.lock();
        if state.writer != Some(writer) {
            *state = State {
                writer: Some(writer),
                ..State::default()
            };
        }
    }

    /// A checkpoint that others find makes up for what is before this word.
    pub(super) fn cover(&self, word: Signed<Covered>) {
        self.begin(word.writer);
        self.adopt(&word);
        {
            let mut state = self.lock();
            let State { barred, forked, .. } = &mut *state;
            // There is room again.
            barred.retain(|peer, _| forked.contains(peer));
        }
        self.turn.notify_one();
    }

    /// Takes a word of this device if it is newer than what is known.
    fn adopt(&self, word: &Signed<Covered>) {
        let mut state = self.lock();
        let known = state.covered.as_ref().map_or(0, |known| known.upto);
        if state.writer == Some(word.writer) && word.upto > known {
            state.covered = Some(word.clone());
        }
    }

    fn covered_upto(&self) -> u64 {
        self.lock().covered.as_ref().map_or(0, |word| word.upto)
    }

    /// Whether the volume's feeds may be at any of these peers; the places are those of some time ago.
    pub(super) fn may_be_at(&self, peers: &[PeerId]) -> bool {
        let state = self.lock();
        let places = state.places.as_ref();
        places.is_none_or(|(_, places)| {
            let all = places.holders.iter().chain(&places.others);
            all.into_iter().any(|place| peers.contains(place))
        })
    }

    fn note(&self, peer: PeerId, tail: &Tail) {
        let keeper = Keeper {
            start: tail.start(),
            last: tail.last(),
            is_unsure: false,
        };
        self.lock().keepers.insert(peer, keeper);
    }

    /// A peer is not asked for some time.
    fn bar(&self, peer: PeerId, time: Duration) {
        let mut state = self.lock();
        if state.keepers.remove(&peer).is_some() && state.former.len() < FORMER_MAX {
            state.former.insert(peer);
        }
        state.barred.insert(peer, Instant::now() + time);
    }

    /// A peer has another branch of the own feed: it is not told what it need not keep.
    fn is_forked(&self, peer: PeerId) {
        let mut state = self.lock();
        state.keepers.remove(&peer);
        state.former.remove(&peer);
        if state.forked.len() < FORMER_MAX {
            state.forked.insert(peer);
        }
    }

    /// Begins to talk with a peer. Not if it is talked with, or is not to be asked now.
    fn begin_talk(&self, peer: PeerId) -> bool {
        let mut state = self.lock();
        if state.talks.contains_key(&peer) || state.barred.contains_key(&peer) {
            return false;
        }
        let talk = Talk {
            begun: Instant::now(),
            is_relied_on: false,
        };
        state.talks.insert(peer, talk);
        true
    }

    fn end_talk(&self, peer: &PeerId) {
        let ended = self.lock().talks.remove(peer);
        if ended.is_some_and(|talk| talk.is_relied_on || talk.begun.elapsed() >= PATIENCE) {
            self.turn.notify_one();
        }
    }

    /// With how many is talked that may have the feed soon.
    fn rely_on_talks(&self) -> usize {
        let mut state = self.lock();
        let talks = state.talks.values_mut();
        talks
            .map(|talk| {
                talk.is_relied_on = true;
                usize::from(talk.begun.elapsed() < HOPE)
            })
            .sum()
    }

    /// How many have the own feed up to a dot.
    pub(super) fn status(&self, writer: WriterId, last: u64) -> TailStatus {
        let state = self.lock();
        let is_known = state.writer == Some(writer);
        let wanted = state.wanted.filter(|_| is_known);
        let covered = state.covered.as_ref().map_or(0, |word| word.upto);
        if last == 0 || is_known && last <= covered {
            let wanted = wanted.unwrap_or(0);
            return TailStatus {
                wanted,
                keepers: wanted,
            };
        }
        let Some(wanted) = wanted else {
            return TailStatus {
                wanted: self.most,
                keepers: 0,
            };
        };
        let have = state.keepers.values().filter(|keeper| keeper.last >= last);
        TailStatus {
            wanted,
            keepers: have.count().min(wanted),
        }
    }
}
