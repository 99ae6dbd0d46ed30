//! Deltas that cannot be merged yet: something they build on is missing, or they are from the future.
//!
//! They are held within bounds of bytes and number, for each writer and for all, and given out when what they
//! wait for is there. What does not fit is named, so that it can be asked for again.

use std::collections::BTreeMap;

use super::sealed::{LinkHash, SealedDelta};
use crate::base::limits::{
    DELTA_AHEAD_MAX_MS, INBOX_AGAIN_MAX, INBOX_MAX_BYTES, INBOX_MAX_COUNT, INBOX_WRITER_MAX_BYTES,
    INBOX_WRITER_MAX_COUNT,
};
use crate::namespace::{Delta, VersionVector, WriterId};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct InboxLimits {
    /// Bytes of one writer.
    pub writer_bytes: usize,
    /// Deltas of one writer.
    pub writer_count: usize,
    /// Bytes of all.
    pub bytes: usize,
    /// Deltas of all.
    pub count: usize,
}

impl Default for InboxLimits {
    fn default() -> Self {
        InboxLimits {
            writer_bytes: INBOX_WRITER_MAX_BYTES,
            writer_count: INBOX_WRITER_MAX_COUNT,
            bytes: INBOX_MAX_BYTES,
            count: INBOX_MAX_COUNT,
        }
    }
}

/// What became of a delta that was to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It waits.
    Kept,
    /// It waited already.
    Known,
    /// There is no room for it: it is to be asked for again.
    Refused,
}

/// A writer whose deltas wait for the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Who.
    pub writer: WriterId,
    /// By how many milliseconds the latest of its deltas that wait is ahead of the own clock.
    pub by_ms: u64,
    /// How many of them wait for the clock.
    pub count: usize,
}

/// What waits of one writer, by first dot. Two of one place come from a fork.
type Waiting = BTreeMap<(u64, LinkHash), (Delta, SealedDelta)>;

#[derive(Debug, Default)]
struct Queue {
    waiting: Waiting,
    bytes: usize,
}

impl Queue {
    /// Up to which dot there is no gap, all up to `merged` being there.
    fn reach(&self, merged: u64) -> u64 {
        let mut reach = merged;
        for ((first, _), (delta, _)) in &self.waiting {
            if *first > reach + 1 {
                break;
            }
            reach = reach.max(delta.last());
        }
        reach
    }
}

/// Deltas that wait.
#[derive(Debug, Default)]
pub struct Inbox {
    limits: InboxLimits,
    queues: BTreeMap<WriterId, Queue>,
    bytes: usize,
    count: usize,
    again: BTreeMap<WriterId, u64>,
    is_all_again: bool,
}

/// What a delta in memory is counted as: itself, opened and sealed.
fn cost(sealed: &SealedDelta) -> usize {
    2 * sealed.len_bytes()
}

impl Inbox {
    /// An empty one within given bounds.
    pub fn new(limits: InboxLimits) -> Inbox {
        Inbox {
            limits,
            ..Inbox::default()
        }
    }

    /// Deltas that wait.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that they are counted as.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds a delta, which `sealed` opened to. Where room is scarce those that can be merged last go
    /// first: the furthest of the writer that has most.
    pub fn hold(&mut self, delta: Delta, sealed: SealedDelta) -> Held {
        let (writer, place) = (delta.writer, (delta.first, sealed.hash()));
        let queue = self.queues.entry(writer).or_default();
        if queue.waiting.contains_key(&place) {
            return Held::Known;
        }
        let bytes = cost(&sealed);
        queue.waiting.insert(place, (delta, sealed));
        queue.bytes += bytes;
        self.bytes += bytes;
        self.count += 1;
        while self.is_over(&writer) {
            self.refuse_last(writer);
        }
        while self.bytes > self.limits.bytes || self.count > self.limits.count {
            let most = self.queues.iter().max_by_key(|(_, queue)| queue.bytes);
            let Some((most, _)) = most else {
                break;
            };
            self.refuse_last(*most);
        }
        let queue = self.queues.get(&writer);
        match queue.is_some_and(|queue| queue.waiting.contains_key(&place)) {
            true => Held::Kept,
            false => Held::Refused,
        }
    }

    fn is_over(&self, writer: &WriterId) -> bool {
        self.queues.get(writer).is_some_and(|queue| {
            queue.bytes > self.limits.writer_bytes || queue.waiting.len() > self.limits.writer_count
        })
    }

    fn refuse_last(&mut self, writer: WriterId) {
        let Some(queue) = self.queues.get(&writer) else {
            return;
        };
        let Some(place) = queue.waiting.keys().next_back().copied() else {
            self.queues.remove(&writer);
            return;
        };
        self.remove(writer, place);
        if self.again.len() >= INBOX_AGAIN_MAX && !self.again.contains_key(&writer) {
            self.is_all_again = true;
            return;
        }
        let after = place.0 - 1;
        let known = self.again.entry(writer).or_insert(after);
        *known = after.min(*known);
    }

    /// Nothing of a writer behind a dot is waited for any more: it will never be taken.
    pub fn forget_after(&mut self, writer: WriterId, dot: u64) {
        let queue = self.queues.get(&writer).into_iter();
        let waiting = queue.flat_map(|queue| &queue.waiting);
        let beyond = waiting.filter(|(_, (delta, _))| delta.last() > dot);
        let beyond: Vec<_> = beyond.map(|(place, _)| *place).collect();
        for place in beyond {
            self.remove(writer, place);
        }
        if self.again.get(&writer).is_some_and(|after| *after >= dot) {
            self.again.remove(&writer);
        }
    }

    fn remove(&mut self, writer: WriterId, place: (u64, LinkHash)) -> Option<(Delta, SealedDelta)> {
        let queue = self.queues.get_mut(&writer)?;
        let removed = queue.waiting.remove(&place)?;
        let bytes = cost(&removed.1);
        queue.bytes -= bytes;
        if queue.waiting.is_empty() {
            self.queues.remove(&writer);
        }
        self.bytes -= bytes;
        self.count -= 1;
        Some(removed)
    }

    /// Takes a delta out that waits for nothing any more, of several the earliest. It may have become
    /// known meanwhile, or come from a fork: its feed is to be asked once more.
    pub fn take(&mut self, version: &VersionVector, now_ms: u64) -> Option<(Delta, SealedDelta)> {
        let mut best = None;
        for (writer, queue) in &self.queues {
            // Of one writer the first are enough: others build on them.
            for (place, (delta, _)) in &queue.waiting {
                if place.0 > version.get(writer) + 1 {
                    break;
                }
                let rank = (delta.draft.hlc, *writer, *place);
                let is_ready = version.includes(&delta.draft.context) && !is_ahead(delta, now_ms);
                if is_ready && best.is_none_or(|best| rank < best) {
                    best = Some(rank);
                }
            }
        }
        let (_, writer, place) = best?;
        self.remove(writer, place)
    }

    /// What has to be asked for so that all can be merged: of each writer what follows that dot.
    pub fn missing(&self, version: &VersionVector) -> Vec<(WriterId, u64)> {
        let reaches: BTreeMap<WriterId, u64> = self
            .queues
            .iter()
            .map(|(writer, queue)| (*writer, queue.reach(version.get(writer))))
            .collect();
        let reach = |writer: &WriterId| {
            let known = reaches.get(writer).copied();
            known.unwrap_or_else(|| version.get(writer))
        };
        let mut missing = BTreeMap::new();
        for (writer, queue) in &self.queues {
            let own = reach(writer);
            if queue.waiting.keys().any(|(first, _)| *first > own + 1) {
                missing.insert(*writer, own);
            }
            for (delta, _) in queue.waiting.values() {
                for (other, seen) in delta.draft.context.iter() {
                    let after = reach(other);
                    if seen > after {
                        missing.insert(*other, after);
                    }
                }
            }
        }
        missing.into_iter().collect()
    }

    /// Writers whose clocks are ahead, by what waits of them.
    pub fn ahead(&self, now_ms: u64) -> Vec<Ahead> {
        let of = |(writer, queue): (&WriterId, &Queue)| {
            let deltas = queue.waiting.values().map(|(delta, _)| delta);
            let late = deltas.filter(|delta| is_ahead(delta, now_ms));
            let by_ms = late.map(|delta| delta.draft.hlc.ms().saturating_sub(now_ms));
            let (count, by_ms) = by_ms.fold((0, 0), |(count, most), by| (count + 1, by.max(most)));
            (count > 0).then_some(Ahead {
                writer: *writer,
                by_ms,
                count,
            })
        };
        self.queues.iter().filter_map(of).collect()
    }

    /// When the next of those that wait for the clock is due (milliseconds since 1970).
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let queues = self.queues.values();
        let deltas = queues.flat_map(|queue| queue.waiting.values());
        let late = deltas.filter(|(delta, _)| is_ahead(delta, now_ms));
        late.map(|(delta, _)| due_ms(delta)).min()
    }

    /// What found no room since the last call: of each writer what follows that dot is to be asked for again. And
    /// whether there were more writers than could be remembered: then all heads are to be compared.
    pub fn take_again(&mut self) -> (Vec<(WriterId, u64)>, bool) {
        let again = std::mem::take(&mut self.again);
        let is_all = std::mem::take(&mut self.is_all_again);
        (again.into_iter().collect(), is_all)
    }
}

const fn due_ms(delta: &Delta) -> u64 {
    delta.draft.hlc.ms().saturating_sub(DELTA_AHEAD_MAX_MS)
}

const fn is_ahead(delta: &Delta, now_ms: u64) -> bool {
    due_ms(delta) > now_ms
}
