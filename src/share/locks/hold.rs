//! Having locks: votes are asked for, renewed while the lock is wanted, and given back with what was done under it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};

use super::poll::{Count, Hold, Poll, relied_on_ms};
use super::{LEASE, Leaving, RENEWAL, lock};
use crate::base::PeerId;
use crate::base::limits::LOCKS_HELD_MAX;
use crate::feeds::{Accord, LockMode, LockName, Signed, Vote, VoterList, Want};
use crate::namespace::VersionVector;
use crate::net::{Request, Response};
use crate::share::Inner;
use crate::vfs::LockError;

/// How long a voter may take to vote.
const VOTE: Duration = Duration::from_millis(1500);
/// How long what was released before may take to be merged here.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long it may take until enough voters know that a lock was given back, before that goes on in the background.
const LEAVE: Duration = Duration::from_secs(5);
/// How often one of the voters is told again, and what is missing looked for again.
const AGAIN: Duration = Duration::from_millis(20);
/// Locks that are renewed in one question.
const BATCH: usize = 256;
/// Lists of voters that are gone through in one attempt.
const LISTS_MAX: usize = 4;

/// What an attempt among the voters of one list came to.
enum Tried {
    Counted(Poll),
    /// There is a later list.
    OtherList,
}

impl Inner {
    /// Asks a peer about locks, or answers itself.
    async fn ask_voter(&self, peer: PeerId, body: Bytes, message: &Accord) -> Option<Accord> {
        if peer == self.net.own() {
            return self.answer_about_locks(peer, message.clone()).await;
        }
        let request = Request::Feed { body };
        let response = self.net.request(peer, request, VOTE).await;
        let Ok(Response::Feed { body }) = response else {
            return None;
        };
        let read = self.pools.cpu.run(move || Accord::decode(&body)).await;
        read.ok().filter(|answer| answer.volume() == self.volume)
    }

    /// Asks several at a time, and waits for all answers.
    pub(super) async fn ask_peers(
        &self,
        peers: &[PeerId],
        message: &Accord,
    ) -> Vec<(PeerId, Option<Accord>)> {
        let body = message.to_bytes();
        let asked = peers.iter().map(|peer| {
            let body = body.clone();
            async move { (*peer, self.ask_voter(*peer, body, message).await) }
        });
        futures::future::join_all(asked).await
    }

    /// Tries to have a lock, once. The number of the grant: as long as it is the same, the lock was not lost.
    pub(in crate::share) async fn try_lock(
        self: &Arc<Self>,
        name: LockName,
        mode: LockMode,
        waited: Option<Duration>,
    ) -> Result<u64, LockError> {
        if lock(&self.locks.held).len() >= LOCKS_HELD_MAX {
            return Err(LockError::TooMany);
        }
        if self.locks.list().is_none() {
            self.look_for_list().await;
        }
        for _ in 0..LISTS_MAX {
            let Some(list) = self.locks.list() else {
                return Err(LockError::NoVoters);
            };
            let attempt = self.locks.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            let is_leaving = lock(&self.locks.leaving).contains_key(&name);
            let before = self.hold(name);
            let before = before.filter(|hold| !is_leaving && self.is_valid(hold));
            // It is asked for again only to have more of it.
            if let Some(hold) = before.filter(|hold| hold.mode >= mode && hold.is_merged) {
                return Ok(hold.grant);
            }
            let want = Want {
                name,
                mode,
                waited_ms: waited.map_or(0, |waited| waited.as_millis() as u64),
            };
            let (asked_ms, asked_wall_ms) = (self.locks.now_ms(), self.vfs.wall_ms());
            let poll = match self.poll(&list, want, attempt).await {
                Tried::Counted(poll) => poll,
                Tried::OtherList => {
                    self.take_back(&list.voters, name, attempt, before, list.number)
                        .await;
                    continue;
                }
            };
            if poll.count() != Count::Won {
                // One who waits stays next with those who refused.
                let mut told = list.voters.clone();
                told.retain(|voter| waited.is_none() || !poll.is_against(voter));
                self.take_back(&told, name, attempt, before, list.number)
                    .await;
                return Err(match poll.count() {
                    Count::Lost(Vote::Deadlock) => LockError::Deadlock,
                    Count::Lost(Vote::NotYet) => LockError::NotYet,
                    Count::Lost(_) => LockError::Taken,
                    _ => LockError::NoMajority,
                });
            }
            let relied_on = relied_on_ms(LEASE.as_millis() as u64);
            let hold = Hold {
                mode,
                // Without a gap it is still the same.
                grant: before
                    .filter(|hold| self.is_valid(hold))
                    .map_or(attempt, |hold| hold.grant),
                attempt,
                is_merged: false,
                until_ms: asked_ms + relied_on,
                until_wall_ms: asked_wall_ms + relied_on,
            };
            lock(&self.locks.leaving).remove(&name);
            lock(&self.locks.held).insert(name, hold);
            if self.has_merged(poll.released()).await {
                if let Some(held) = lock(&self.locks.held).get_mut(&name) {
                    held.is_merged |= held.grant == hold.grant && held.attempt == attempt;
                }
                return Ok(hold.grant);
            }
            tracing::warn!(volume = %self.volume, "a lock is not taken: what was done under locks before is not here yet");
            lock(&self.locks.held).remove(&name);
            self.take_back(&list.voters, name, attempt, None, list.number)
                .await;
            return Err(LockError::Behind);
        }
        Err(LockError::NoMajority)
    }

    /// Whether a lock is held without interruption since it was had under this number.
    pub(in crate::share) fn holds(&self, name: LockName, grant: u64) -> bool {
        let hold = self.hold(name);
        hold.is_some_and(|hold| hold.grant == grant && self.is_valid(&hold))
    }

    fn hold(&self, name: LockName) -> Option<Hold> {
        lock(&self.locks.held).get(&name).copied()
    }

    fn is_valid(&self, hold: &Hold) -> bool {
        hold.is_valid(self.locks.now_ms(), self.vfs.wall_ms())
    }

    /// Asks the voters of a list for one lock, until it is decided.
    async fn poll(&self, list: &Signed<VoterList>, want: Want, attempt: u64) -> Tried {
        let Some(needed) = list.majority() else {
            return Tried::Counted(Poll::new(0, 1));
        };
        let message = Accord::Ask {
            volume: self.volume,
            list: list.number,
            attempt,
            wants: vec![want],
        };
        let body = message.to_bytes();
        let asked = list.voters.iter().map(|peer| {
            let (peer, body, message) = (*peer, body.clone(), &message);
            async move { (peer, self.ask_voter(peer, body, message).await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut poll = Poll::new(list.voters.len(), needed);
        while let Some((peer, answer)) = asked.next().await {
            match answer {
                Some(Accord::Votes {
                    list: number,
                    votes,
                    released,
                    ..
                }) => match votes.first() {
                    Some(vote) if number == list.number => poll.voted(peer, *vote, &released),
                    _ => {
                        if self.compare_lists(peer, number, list).await {
                            return Tried::OtherList;
                        }
                        poll.is_silent();
                    }
                },
                _ => poll.is_silent(),
            }
            if poll.count() != Count::Open {
                break;
            }
        }
        Tried::Counted(poll)
    }

    /// A voter goes by another list: the earlier one is replaced. Whether that is the one here.
    async fn compare_lists(&self, peer: PeerId, number: u64, list: &Signed<VoterList>) -> bool {
        let give = (number < list.number).then(|| list.clone());
        let message = Accord::List {
            volume: self.volume,
            list: give,
        };
        let answer = self.ask_voter(peer, message.to_bytes(), &message).await;
        let Some(Accord::Listed { list: theirs, .. }) = answer else {
            return false;
        };
        if let Some(theirs) = theirs.filter(|theirs| theirs.number > list.number)
            && let Err(error) = self.adopt(theirs).await
        {
            tracing::warn!("a list of voters was refused: {error}");
        }
        self.locks.number() > list.number
    }

    /// An attempt failed: voters who granted it do not keep others from it. What was had before stays.
    async fn take_back(
        &self,
        told: &[PeerId],
        name: LockName,
        attempt: u64,
        before: Option<Hold>,
        list: u64,
    ) {
        if told.is_empty() {
            // All refused: nothing is to be undone, and what is held goes on under its own attempt.
            return;
        }
        let volume = self.volume;
        let message = match before {
            None => Accord::Release {
                volume,
                attempt,
                names: vec![name],
                released: VersionVector::default(),
            },
            Some(hold) => {
                let attempt = self.locks.attempts.fetch_add(1, Ordering::Relaxed) + 1;
                if let Some(held) = lock(&self.locks.held).get_mut(&name) {
                    held.attempt = held.attempt.max(attempt);
                }
                let want = Want {
                    name,
                    mode: hold.mode,
                    waited_ms: 0,
                };
                Accord::Ask {
                    volume,
                    list,
                    attempt,
                    wants: vec![want],
                }
            }
        };
        self.ask_peers(told, &message).await;
    }

    /// Waits until all that was released before is merged here.
    async fn has_merged(self: &Arc<Self>, released: &VersionVector) -> bool {
        let end = Instant::now() + CATCH_UP;
        let mut is_first = true;
        loop {
            let vfs = Arc::clone(&self.vfs);
            let merged = self.pools.disk.run(move || vfs.merged()).await;
            if merged.includes(released) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            if is_first {
                self.gather().await;
                is_first = false;
            } else {
                sleep(AGAIN).await;
            }
        }
    }

    /// Gives a lock back. What was done under it is on the disk here and in the own feed. Whether more than half
    /// of the voters know: if not yet, they are told in the background, and nobody gets it before.
    pub(in crate::share) async fn leave_lock(&self, name: LockName) -> bool {
        let Some(hold) = self.hold(name) else {
            return false;
        };
        let leaving = Leaving {
            attempt: hold.attempt,
            released: self.own_position(),
        };
        lock(&self.locks.leaving).insert(name, leaving);
        let end = Instant::now() + LEAVE;
        while Instant::now() < end {
            match self.tell_voters(name).await {
                Some(is_known) => return is_known,
                None => sleep(AGAIN).await,
            }
        }
        false
    }

    fn own_position(&self) -> VersionVector {
        let own = self.vfs.writer();
        let mut position = VersionVector::default();
        for claim in self.vfs.claims().iter().filter(|claim| claim.writer == own) {
            position.raise(claim.writer, claim.last);
        }
        position
    }

    /// Tells voters that a lock is given back. True if enough know, false if it was lost before; none if they are to be
    /// told again.
    async fn tell_voters(&self, name: LockName) -> Option<bool> {
        let leaving = lock(&self.locks.leaving).get(&name).cloned();
        let (Some(leaving), Some(hold), Some(list)) = (leaving, self.hold(name), self.locks.list())
        else {
            return Some(false);
        };
        let attempt = leaving.attempt;
        let message = Accord::Release {
            volume: self.volume,
            attempt,
            names: vec![name],
            released: leaving.released,
        };
        let answers = self.ask_peers(&list.voters, &message).await;
        let mut know = 0;
        for (peer, answer) in answers {
            if let Some(Accord::Released { list: number, .. }) = answer {
                match number == list.number {
                    true => know += 1,
                    false => {
                        self.compare_lists(peer, number, &list).await;
                    }
                }
            }
        }
        if list.majority().is_some_and(|needed| know < needed) {
            return None;
        }
        // Whoever had it after it lapsed may not know what was done under it.
        let has_lasted = self.holds(name, hold.grant);
        let was_leaving = {
            let mut leaving = lock(&self.locks.leaving);
            // It may have been had and given back again meanwhile.
            let is_same = leaving.get(&name).is_some_and(|now| now.attempt == attempt);
            is_same && leaving.remove(&name).is_some()
        };
        if was_leaving {
            lock(&self.locks.held).remove(&name);
        }
        Some(was_leaving && has_lasted)
    }

    /// Renews what is held, and goes on giving back.
    pub(in crate::share) async fn renew_always(self: Arc<Self>) {
        if let Err(error) = self.recall_locks().await {
            tracing::error!(volume = %self.volume, "what was promised under locks cannot be read: this machine does not vote: {error}");
            return;
        }
        loop {
            sleep(RENEWAL).await;
            self.look_for_list().await;
            self.renew().await;
            let leaving: Vec<LockName> = lock(&self.locks.leaving).keys().copied().collect();
            for name in leaving {
                self.tell_voters(name).await;
            }
        }
    }

    async fn renew(&self) {
        let held: Vec<(LockName, Hold)> = {
            let mut held = lock(&self.locks.held);
            let mut leaving = lock(&self.locks.leaving);
            held.retain(|name, hold| {
                let is_valid = self.is_valid(hold);
                if !is_valid {
                    leaving.remove(name);
                    tracing::warn!(volume = %self.volume, "a lock is lost: too few of the voters could be reached to keep it");
                }
                is_valid
            });
            held.iter().map(|(name, hold)| (*name, *hold)).collect()
        };
        let Some(list) = self.locks.list() else {
            return;
        };
        for batch in held.chunks(BATCH) {
            self.renew_batch(&list, batch).await;
        }
    }

    async fn renew_batch(&self, list: &Signed<VoterList>, batch: &[(LockName, Hold)]) {
        let Some(needed) = list.majority() else {
            return;
        };
        let (asked_ms, asked_wall_ms) = (self.locks.now_ms(), self.vfs.wall_ms());
        // Each under the attempt in which it was had: given back meanwhile, it does not come back.
        let mut by_attempt: BTreeMap<u64, Vec<(LockName, Hold)>> = BTreeMap::new();
        for (name, hold) in batch {
            by_attempt
                .entry(hold.attempt)
                .or_default()
                .push((*name, *hold));
        }
        let renewals = by_attempt.into_iter().map(|(attempt, holds)| async move {
            let wants = holds.iter().map(|(name, hold)| Want {
                name: *name,
                mode: hold.mode,
                waited_ms: 0,
            });
            let message = Accord::Ask {
                volume: self.volume,
                list: list.number,
                attempt,
                wants: wants.collect(),
            };
            let mut granted = vec![0; holds.len()];
            for (peer, answer) in self.ask_peers(&list.voters, &message).await {
                let Some(Accord::Votes {
                    list: number,
                    votes,
                    ..
                }) = answer
                else {
                    continue;
                };
                if number != list.number {
                    self.compare_lists(peer, number, list).await;
                    continue;
                }
                for (count, vote) in granted.iter_mut().zip(votes) {
                    *count += usize::from(vote == Vote::Granted);
                }
            }
            let relied_on = relied_on_ms(LEASE.as_millis() as u64);
            let mut held = lock(&self.locks.held);
            for ((name, asked), count) in holds.iter().zip(granted) {
                // It may have been asked for once more meanwhile, in vain. What was had more of is not renewed by this.
                let is_same =
                    |hold: &&mut Hold| hold.grant == asked.grant && hold.mode <= asked.mode;
                if count >= needed
                    && let Some(hold) = held.get_mut(name).filter(is_same)
                {
                    hold.until_ms = hold.until_ms.max(asked_ms + relied_on);
                    hold.until_wall_ms = hold.until_wall_ms.max(asked_wall_ms + relied_on);
                }
            }
        });
        futures::future::join_all(renewals).await;
    }
}
