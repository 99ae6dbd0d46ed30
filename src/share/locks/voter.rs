//! What a voter promises: to whom it granted which lock, and until when.
//!
//! Pure: time is given, in milliseconds of a clock that never goes back.
//!
//! A voter grants a lock to nobody else before the lease of whom it granted it to has ended by its own clock. What it
//! granted is not written down: one that starts waits for a lease, in which all that it may have granted ends.

use std::collections::BTreeMap;

use crate::base::PeerId;
use crate::base::limits::LOCKS_KEPT_MAX;
use crate::feeds::{LockMode, LockName, Vote, Want};

/// For how long one who waits is next, without asking again.
const TURN_MS: u64 = 1500;

/// A lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    mode: LockMode,
    attempt: u64,
    until_ms: u64,
    /// It was given back: remembered for a while, because the question may come after that.
    is_released: bool,
}

/// The one who has waited longest for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    peer: PeerId,
    mode: LockMode,
    waited_ms: u64,
    until_ms: u64,
    /// It has the lock with others, and waits to have it alone.
    has_shared: bool,
}

impl Next {
    /// Who has waited longest comes first; of two at once all voters choose the same.
    fn comes_before(&self, other: &Next) -> bool {
        (self.waited_ms, self.peer) > (other.waited_ms, other.peer)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Voter {
    lease_ms: u64,
    /// It grants nothing new before.
    votes_from_ms: u64,
    grants: BTreeMap<LockName, BTreeMap<PeerId, Grant>>,
    next: BTreeMap<LockName, Next>,
    /// When what has ended was last looked for.
    swept_ms: u64,
}

impl Voter {
    /// One that begins now, or begins anew after it forgot everything.
    pub fn new(lease_ms: u64, now_ms: u64) -> Voter {
        Voter {
            lease_ms,
            votes_from_ms: now_ms.saturating_add(lease_ms),
            grants: BTreeMap::new(),
            next: BTreeMap::new(),
            swept_ms: now_ms,
        }
    }

    /// Other voters decide from now on: what those before granted ends first. What this one granted it may go on
    /// granting to the same.
    pub fn wait_a_lease(&mut self, now_ms: u64) {
        self.votes_from_ms = self.votes_from_ms.max(now_ms.saturating_add(self.lease_ms));
    }

    /// Votes.
    pub fn ask(&mut self, now_ms: u64, from: PeerId, attempt: u64, wants: &[Want]) -> Vec<Vote> {
        self.sweep(now_ms);
        let votes = wants.iter();
        votes
            .map(|want| self.vote(now_ms, from, attempt, want))
            .collect()
    }

    fn vote(&mut self, now_ms: u64, from: PeerId, attempt: u64, want: &Want) -> Vote {
        let is_full = self.grants.len() + self.next.len() >= LOCKS_KEPT_MAX;
        let grants = self.grants.get(&want.name);
        let is_live = |grant: &Grant| !grant.is_released && grant.until_ms > now_ms;
        let own = grants.and_then(|grants| grants.get(&from)).copied();
        // What came late does not undo what the asker did since.
        let is_late =
            |own: Grant| own.attempt > attempt || own.is_released && own.attempt == attempt;
        if own.is_some_and(is_late) {
            return Vote::Taken;
        }
        let own = own.filter(is_live);
        // Who has it goes on having it, whoever waits.
        let keeps = own.is_some_and(|own| own.mode >= want.mode);
        if !keeps && now_ms < self.votes_from_ms {
            return Vote::NotYet;
        }
        let mut others = grants
            .into_iter()
            .flatten()
            .filter(|(peer, grant)| **peer != from && is_live(grant));
        let conflicts = |mode: LockMode| mode.max(want.mode) == LockMode::Exclusive;
        let is_taken = others.any(|(_, grant)| conflicts(grant.mode));
        let asks = Next {
            peer: from,
            mode: want.mode,
            waited_ms: want.waited_ms,
            until_ms: now_ms + TURN_MS,
            has_shared: own.is_some_and(|own| own.mode < want.mode),
        };
        let next = self.next.get(&want.name).copied();
        let rival = next.filter(|next| next.peer != from && next.until_ms > now_ms);
        if !keeps && asks.has_shared && is_taken && rival.is_some_and(|rival| rival.has_shared) {
            return Vote::Deadlock;
        }
        // Who has part of it already must not be kept from the rest by one who waits for its end.
        let is_next = asks.has_shared
            || rival.is_none_or(|rival| !conflicts(rival.mode) || asks.comes_before(&rival));
        if !keeps && (is_taken || !is_next) {
            if is_next && !(is_full && next.is_none()) {
                self.next.insert(want.name, asks);
            }
            return Vote::Taken;
        }
        if is_full && grants.is_none() {
            return Vote::Taken;
        }
        if next.is_some_and(|next| next.peer == from) {
            self.next.remove(&want.name);
        }
        let mode = match own {
            // A lesser wish of one who has more is a renewal of what it keeps, unless it asks anew.
            Some(own) if own.attempt == attempt => own.mode.max(want.mode),
            _ => want.mode,
        };
        let grant = Grant {
            mode,
            attempt,
            until_ms: now_ms.saturating_add(self.lease_ms),
            is_released: false,
        };
        let grants = self.grants.entry(want.name).or_default();
        grants.insert(from, grant);
        Vote::Granted
    }

    /// Takes locks back that were granted in this attempt or before.
    pub fn release(&mut self, now_ms: u64, from: PeerId, attempt: u64, names: &[LockName]) {
        for name in names {
            if let Some(next) = self.next.get(name)
                && next.peer == from
            {
                self.next.remove(name);
            }
            let is_full = self.grants.len() + self.next.len() >= LOCKS_KEPT_MAX;
            if is_full && !self.grants.contains_key(name) {
                continue;
            }
            let back = Grant {
                mode: LockMode::Shared,
                attempt,
                until_ms: now_ms.saturating_add(self.lease_ms),
                is_released: true,
            };
            let grants = self.grants.entry(*name).or_default();
            let grant = grants.entry(from).or_insert(back);
            if grant.attempt <= attempt {
                *grant = back;
            }
        }
    }

    /// Forgets what has ended, now and then.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_ms.saturating_add(self.lease_ms) {
            return;
        }
        self.swept_ms = now_ms;
        self.grants.retain(|_, grants| {
            grants.retain(|_, grant| grant.until_ms > now_ms);
            !grants.is_empty()
        });
        self.next.retain(|_, next| next.until_ms > now_ms);
    }
}
