//! Clocks of other members, by the moments at which they signed how far their feeds go: what is dated far ahead is not
//! taken by others before it is due, so whoever has such a clock is to be told.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::PeerId;
use crate::base::limits::DELTA_AHEAD_MAX_MS;
use crate::feeds::{Head, Signed};

/// Most members whose clocks are remembered.
const CLOCKS_MAX: usize = 1024;
/// What was heard longer ago says nothing of today.
const RECENT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Clock {
    /// What it showed last, in ms since 1970.
    showed_ms: u64,
    /// By how much it was ahead of the own clock then.
    ahead_ms: i64,
    at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<BTreeMap<PeerId, Clock>>);

impl Clocks {
    /// A member signed this just now, if it is later than what it signed before.
    pub(super) fn heard(&self, head: &Signed<Head>, now_ms: u64) {
        self.showed(head.writer.peer, head.hlc.ms(), now_ms);
    }

    fn showed(&self, peer: PeerId, showed_ms: u64, now_ms: u64) {
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |clock: &Clock| clock.showed_ms >= showed_ms && clock.at.elapsed() < RECENT;
        if clocks.get(&peer).is_some_and(is_old) {
            return;
        }
        if clocks.len() >= CLOCKS_MAX && !clocks.contains_key(&peer) {
            clocks.retain(|_, clock| clock.at.elapsed() < RECENT);
            if clocks.len() >= CLOCKS_MAX {
                return;
            }
        }
        let ahead_ms = i128::from(showed_ms) - i128::from(now_ms);
        let clock = Clock {
            showed_ms,
            ahead_ms: ahead_ms.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            at: Instant::now(),
        };
        clocks.insert(peer, clock);
    }

    fn recent(&self) -> Vec<(PeerId, i64)> {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = clocks
            .iter()
            .filter(|(_, clock)| clock.at.elapsed() < RECENT);
        recent
            .map(|(peer, clock)| (*peer, clock.ahead_ms))
            .collect()
    }

    /// Members whose clocks are further ahead of the own one than what they do may be, and by how many ms.
    pub(super) fn ahead(&self) -> Vec<(PeerId, u64)> {
        let all = self.recent().into_iter();
        let all = all.map(|(peer, by_ms)| (peer, u64::try_from(by_ms).unwrap_or(0)));
        all.filter(|(_, by_ms)| *by_ms > DELTA_AHEAD_MAX_MS)
            .collect()
    }

    /// By how many ms the own clock is ahead, by what most others show; none if that is not too much.
    pub(super) fn own_ahead(&self) -> Option<u64> {
        let mut behind: Vec<i64> = self.recent().into_iter().map(|(_, by_ms)| by_ms).collect();
        behind.sort_unstable();
        // The one in the middle: of two the one that is less far behind.
        let middle = *behind.get(behind.len() / 2)?;
        let by_ms = u64::try_from(middle.checked_neg()?).ok()?;
        (by_ms > DELTA_AHEAD_MAX_MS).then_some(by_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const MINUTE: u64 = 60_000;

    fn peer(tag: u8) -> PeerId {
        PeerId([tag; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_that_are_far_ahead_are_named() {
        let clocks = Clocks::default();
        assert_eq!((clocks.ahead(), clocks.own_ahead()), (Vec::new(), None));
        clocks.showed(peer(1), NOW + 9 * MINUTE, NOW);
        clocks.showed(peer(2), NOW + 31 * MINUTE, NOW);
        clocks.showed(peer(3), NOW - 31 * MINUTE, NOW);
        assert_eq!(clocks.ahead(), [(peer(2), 31 * MINUTE)]);
        assert_eq!(clocks.own_ahead(), None, "one of three");
        // What it signed before, shown by whoever.
        clocks.showed(peer(1), NOW - 60 * MINUTE, NOW);
        assert_eq!(clocks.own_ahead(), None);
        clocks.showed(peer(2), u64::MAX, NOW);
        assert_eq!(clocks.ahead()[0].0, peer(2));
        tokio::time::advance(RECENT).await;
        assert_eq!((clocks.ahead(), clocks.own_ahead()), (Vec::new(), None));
    }

    #[tokio::test(start_paused = true)]
    async fn most_others_say_whether_the_own_clock_is_ahead() {
        let clocks = Clocks::default();
        clocks.showed(peer(1), NOW - 31 * MINUTE, NOW);
        assert_eq!(clocks.own_ahead(), Some(31 * MINUTE));
        clocks.showed(peer(2), NOW, NOW);
        assert_eq!(clocks.own_ahead(), None);
        clocks.showed(peer(3), NOW - 32 * MINUTE, NOW);
        assert_eq!(clocks.own_ahead(), Some(31 * MINUTE));
        assert!(clocks.ahead().is_empty());
    }
}
