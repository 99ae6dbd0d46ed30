//! How far another peer is believed, by what came of asking it.
//!
//! Two measures of doubt are kept. *Falsity* is about what it says: bytes that do not verify, shards that it says it has and
//! has not. *Trouble* is about how it is: answers that come late, shards that its disk damaged and that it says so of. Whoever
//! has enough of both together is displaced; whoever has enough of the first alone is not believed.
//!
//! Laws, each with a test: doubt is bounded; time takes it away, and good answers do so sooner, however often they are asked
//! for; no late answer alone costs anybody its place, and none is lost for ever.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::profile::MAX_STRIPE_SHARDS;
use crate::base::wire;
use crate::base::{BlockId, ShardId};

const DAY_MS: f64 = 24.0 * 3_600_000.0;
/// Doubt of so long ago counts an e-th, whatever happens.
const FADES_MS: f64 = 14.0 * DAY_MS;
/// The same for a peer that answers well all that time.
const MENDS_MS: f64 = 2.0 * DAY_MS;
/// Most time that one good answer speaks for.
const ANSWERED_FOR_MS: f64 = DAY_MS / 4.0;
/// Doubt from which on it has consequences ...
const LOST_FROM: f64 = 1.0;
/// ... until there is less than this.
const REGAINED_AT: f64 = 0.5;
/// There is never more: so a long list of lies takes no longer to make good than a short one.
const DOUBT_MAX: f64 = 2.0;
/// With less, what it was found not to have may be there again for all we know.
const FORGIVEN_AT: f64 = 0.05;
/// Shards remembered that a peer does not have although it says so.
const REFUTED_MAX: usize = 64;
/// Answers are counted up to so many, then all counts are halved.
const COUNTED_MAX: u64 = 1000;
/// Version of a record.
const VERSION: u8 = 1;
/// Longest record.
const ROW_MAX_BYTES: usize = 8192;
/// Doubt is written down in so many parts of one.
const PARTS: f64 = 1e6;

/// What came of asking a peer for something that it says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It proved it in time.
    Good,
    /// It proved it late, or said nothing while it was connected.
    Late,
    /// It no longer had it, and said so from then on.
    Damaged,
    /// It did not give it, and went on to say that it has it.
    Lacking,
    /// It sent something that does not verify.
    False,
}

impl Finding {
    /// Falsity and trouble that it adds.
    const fn weight(self) -> (f64, f64) {
        match self {
            Finding::Good => (0.0, 0.0),
            Finding::Late | Finding::Damaged => (0.0, 0.06),
            Finding::Lacking => (0.3, 0.0),
            Finding::False => (0.4, 0.0),
        }
    }
}

/// How often a peer was asked of late, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Proved in time.
    pub good: u64,
    /// Proved late, or not answered.
    pub late: u64,
    /// Shards that its disk damaged.
    pub damaged: u64,
    /// Shards that it said it has and did not give.
    pub lacking: u64,
    /// What it sent that does not verify, to reads and repairs too.
    pub wrong: u64,
    /// When one was last not good, in ms since 1970; 0: never.
    pub last_bad_ms: u64,
}

impl Answers {
    /// All of them.
    pub const fn all(&self) -> u64 {
        self.good + self.late + self.damaged + self.lacking + self.wrong
    }

    fn count(&mut self, finding: Finding) {
        if self.all() >= COUNTED_MAX {
            for count in [&mut self.good, &mut self.late, &mut self.damaged] {
                *count /= 2;
            }
            self.lacking /= 2;
            self.wrong /= 2;
        }
        let count = match finding {
            Finding::Good => &mut self.good,
            Finding::Late => &mut self.late,
            Finding::Damaged => &mut self.damaged,
            Finding::Lacking => &mut self.lacking,
            Finding::False => &mut self.wrong,
        };
        *count += 1;
    }

    /// Why it is trusted less, if there is a reason.
    fn why(&self, now_ms: u64) -> Option<String> {
        let all = self.all();
        let named = [
            (self.wrong, "answered", "wrongly"),
            (self.lacking, "lacked what it says it has in", ""),
            (self.late, "answered", "late"),
            (self.damaged, "had damaged what was asked for in", ""),
        ];
        let named = named.iter().filter(|(count, ..)| *count > 0);
        let parts: Vec<String> = named
            .map(|(count, verb, how)| {
                let checks = format!("{verb} {count} of {all} checks {how}");
                checks.trim_end().to_owned()
            })
            .collect();
        if parts.is_empty() {
            return None;
        }
        let ago = ago(now_ms.saturating_sub(self.last_bad_ms));
        Some(format!("{}, last {ago} ago", parts.join(", ")))
    }
}

fn ago(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// What is known of the trust in a peer, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// From 0 to 100.
    pub percent: u32,
    /// Whether others get new shards in its place.
    pub is_displaced: bool,
    /// Whether what it says it holds does not count.
    pub is_disbelieved: bool,
    /// What it comes from.
    pub answers: Answers,
    /// The same in words; none if nothing speaks against it.
    pub why: Option<String>,
}

/// `[version, falsity, trouble, ms since 1970 of both, displaced, disbelieved, answers, refuted shards]`.
type Row = (u8, u64, u64, u64, bool, bool, Answers, Vec<(BlockId, u8)>);

/// The trust in one peer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Trust {
    falsity: f64,
    trouble: f64,
    /// When both were as they are (ms since 1970): at the last finding.
    at_ms: u64,
    was_displaced: bool,
    was_disbelieved: bool,
    answers: Answers,
    /// What it says it has and has not.
    refuted: BTreeSet<ShardId>,
}

impl Trust {
    /// Takes in what came of asking it, for which shard if for a certain one.
    pub(super) fn note(&mut self, finding: Finding, shard: Option<ShardId>, now_ms: u64) {
        let is_displaced = self.is_displaced(now_ms);
        let is_disbelieved = self.is_disbelieved(now_ms);
        self.answers.count(finding);
        if finding != Finding::Good {
            self.answers.last_bad_ms = now_ms;
        }
        let is_known = shard.is_some_and(|shard| self.refuted.contains(&shard));
        let is_false = matches!(finding, Finding::Lacking | Finding::False);
        // What was found missing once is no news the next time; bytes that do not verify always are.
        let (falsity, trouble) = match is_known && finding == Finding::Lacking {
            true => (0.0, 0.0),
            false => finding.weight(),
        };
        let mut kept = self.left(now_ms);
        if finding == Finding::Good {
            let passed = now_ms.saturating_sub(self.at_ms) as f64;
            kept *= (-passed.min(ANSWERED_FOR_MS) / MENDS_MS).exp();
        }
        self.falsity = (self.falsity * kept + falsity).min(DOUBT_MAX);
        self.trouble = (self.trouble * kept + trouble).min(DOUBT_MAX);
        self.at_ms = now_ms;
        self.was_displaced = is_displaced || self.doubt(now_ms) >= LOST_FROM;
        self.was_disbelieved = is_disbelieved || self.falsity >= LOST_FROM;
        if self.falsity < FORGIVEN_AT {
            self.refuted.clear();
        }
        match shard {
            Some(shard) if is_false && self.refuted.len() < REFUTED_MAX => {
                self.refuted.insert(shard);
            }
            Some(shard) if !is_false => {
                self.refuted.remove(&shard);
            }
            _ => {}
        }
    }

    /// What is left of doubt by the passing of time alone.
    fn left(&self, now_ms: u64) -> f64 {
        (-(now_ms.saturating_sub(self.at_ms) as f64) / FADES_MS).exp()
    }

    fn doubt(&self, now_ms: u64) -> f64 {
        (self.falsity + self.trouble).min(DOUBT_MAX) * self.left(now_ms)
    }

    /// Falsity left.
    pub(super) fn falsity(&self, now_ms: u64) -> f64 {
        self.falsity * self.left(now_ms)
    }

    /// Whether others are to get new shards in its place.
    pub(super) fn is_displaced(&self, now_ms: u64) -> bool {
        self.was_displaced && self.doubt(now_ms) >= REGAINED_AT
    }

    /// Whether what it says it holds is not to count.
    pub(super) fn is_disbelieved(&self, now_ms: u64) -> bool {
        self.was_disbelieved && self.falsity(now_ms) >= REGAINED_AT
    }

    /// Whether no doubt is left that counts.
    pub(super) fn is_full(&self, now_ms: u64) -> bool {
        self.doubt(now_ms) < FORGIVEN_AT
    }

    /// Shards that it says it has and has not.
    pub(super) const fn refuted(&self) -> &BTreeSet<ShardId> {
        &self.refuted
    }

    /// As others see it.
    pub(super) fn shown(&self, now_ms: u64) -> Shown {
        Shown {
            percent: (100.0 * (1.0 - self.doubt(now_ms) / DOUBT_MAX)).round() as u32,
            is_displaced: self.is_displaced(now_ms),
            is_disbelieved: self.is_disbelieved(now_ms),
            answers: self.answers,
            why: self.answers.why(now_ms),
        }
    }

    /// The record that is written down.
    pub(super) fn encode(&self) -> Vec<u8> {
        let in_units = |doubt: f64| (doubt * PARTS).round() as u64;
        let refuted = self.refuted.iter().map(|id| (id.block, id.index)).collect();
        let row: Row = (
            VERSION,
            in_units(self.falsity),
            in_units(self.trouble),
            self.at_ms,
            self.was_displaced,
            self.was_disbelieved,
            self.answers,
            refuted,
        );
        wire::encode(&row)
    }

    /// What a record says; none if it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Trust> {
        let row = wire::decode::<Row>(bytes, ROW_MAX_BYTES).ok()?;
        let (VERSION, falsity, trouble, at_ms, was_displaced, was_disbelieved, answers, refuted) =
            row
        else {
            return None;
        };
        let doubt = |units: u64| (units as f64 / PARTS).min(DOUBT_MAX);
        let refuted = refuted.into_iter().take(REFUTED_MAX);
        let refuted = refuted.filter(|(_, index)| usize::from(*index) < MAX_STRIPE_SHARDS);
        Some(Trust {
            falsity: doubt(falsity),
            trouble: doubt(trouble),
            at_ms,
            was_displaced,
            was_disbelieved,
            answers,
            refuted: refuted
                .map(|(block, index)| ShardId { block, index })
                .collect(),
        })
    }
}

#[cfg(test)]
#[path = "trust_laws.rs"]
mod laws;
