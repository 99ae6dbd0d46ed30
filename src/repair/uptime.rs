//! What part of the time members can be reached, as far as this peer was there to see it: a small record for each, in which
//! what is long past counts less and less.
//!
//! Of itself a peer knows it from the clock: the time between its runs is time in which nobody could reach it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::PeerId;
use crate::base::wire;
use crate::net::{Members, Reach};
use crate::store::{KvChange, Store, StoreError};

/// Key-value space of the records.
const UPTIMES: &str = "uptimes";
/// Version of a record.
const VERSION: u8 = 1;
/// What was seen so long ago counts an e-th of what is seen now.
const MEMORY_MS: f64 = 30.0 * 24.0 * 3_600_000.0;
/// A peer of which nothing is known counts as if it had been watched for so long ...
const PRIOR_MS: f64 = 3.0 * 24.0 * 3_600_000.0;
/// ... and been there this part of the time.
pub(super) const PRIOR: f64 = 0.97;
/// Most time that counts between two looks: more means that this peer was stopped.
const STEP_MAX: Duration = Duration::from_secs(300);
/// How often records are written down.
const WRITE: Duration = Duration::from_secs(900);
/// Most rows written at once.
const ROWS_MAX: usize = 1024;

/// `[version, ms there, ms away, milliseconds since 1970 of the last look]`.
type Row = (u8, u64, u64, u64);

/// How long a peer was there and away, in milliseconds that fade.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Uptime {
    there_ms: f64,
    away_ms: f64,
}

impl Uptime {
    /// Some time passes, in which it is there or not.
    pub(super) fn pass(&mut self, ms: f64, is_there: bool) {
        let fading = (-ms / MEMORY_MS).exp();
        self.there_ms *= fading;
        self.away_ms *= fading;
        // What passes fades within itself.
        let more = MEMORY_MS * (1.0 - fading);
        match is_there {
            true => self.there_ms += more,
            false => self.away_ms += more,
        }
    }

    /// What part of the time it can be reached: between 0 and 1.
    pub(super) fn availability(&self) -> f64 {
        let there = self.there_ms + PRIOR * PRIOR_MS;
        there / (self.there_ms + self.away_ms + PRIOR_MS)
    }
}

/// Records of all members.
#[derive(Debug, Default)]
pub(super) struct Uptimes {
    of: BTreeMap<PeerId, Uptime>,
    seen: Option<Instant>,
    written: Option<Instant>,
    /// Records of peers that are no members any more.
    gone: Vec<PeerId>,
}

impl Uptimes {
    /// With what was written down before; `now_ms` is in milliseconds since 1970.
    pub(super) async fn load(store: &Store, own: PeerId, now_ms: u64) -> Result<Self, StoreError> {
        let mut uptimes = Uptimes::default();
        for (key, value) in store.kv_scan(UPTIMES, &[]).await? {
            let (Ok(peer), Ok((VERSION, there_ms, away_ms, at_ms))) =
                (key.try_into().map(PeerId), wire::decode::<Row>(&value, 64))
            else {
                continue;
            };
            let mut uptime = Uptime {
                there_ms: there_ms as f64,
                away_ms: away_ms as f64,
            };
            if peer == own {
                uptime.pass(now_ms.saturating_sub(at_ms) as f64, false);
            }
            uptimes.of.insert(peer, uptime);
        }
        Ok(uptimes)
    }

    /// Looks at the members again.
    pub(super) fn look(&mut self, members: &Members, now: Instant) {
        let since = self.seen.map_or(Duration::ZERO, |seen| now - seen);
        self.seen = Some(now);
        let ms = since.min(STEP_MAX).as_millis() as f64;
        for member in &members.list {
            let is_there = match member.state {
                Reach::Own | Reach::Connected(_) => true,
                Reach::Away { .. } => false,
                // Nothing is known: neither here nor gone.
                Reach::Idle => continue,
            };
            self.of.entry(member.peer).or_default().pass(ms, is_there);
        }
        if members.complete {
            let is_gone = |peer: &&PeerId| members.get(peer).is_none();
            self.gone = self.of.keys().filter(is_gone).copied().collect();
        }
    }

    /// What part of the time a peer can be reached.
    pub(super) fn availability(&self, peer: &PeerId) -> f64 {
        let uptime = self.of.get(peer).copied().unwrap_or_default();
        uptime.availability()
    }

    /// Writes records down, now and then. What the store does not take now is written the next time.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn save(
        &mut self,
        store: &Store,
        now: Instant,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        // The first time at once, so that a short run is remembered too.
        if self.written.is_some_and(|written| now < written + WRITE) {
            return Ok(());
        }
        self.written = Some(now);
        let gone = std::mem::take(&mut self.gone);
        let mut rows: Vec<KvChange> = Vec::new();
        for peer in &gone {
            self.of.remove(peer);
            rows.push((UPTIMES.to_owned(), peer.0.to_vec(), None));
        }
        for (peer, uptime) in &self.of {
            let (there, away) = (uptime.there_ms as u64, uptime.away_ms as u64);
            let row: Row = (VERSION, there, away, now_ms);
            let value = Some(wire::encode(&row).into());
            rows.push((UPTIMES.to_owned(), peer.0.to_vec(), value));
        }
        for rows in rows.chunks(ROWS_MAX) {
            match store.kv_put(rows.to_vec()).await {
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => {
                    tracing::debug!(
                        "how often peers can be reached is written down later: {error}"
                    );
                    return Ok(());
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: f64 = 24.0 * 3_600_000.0;

    fn watched(days: &[(f64, bool)]) -> f64 {
        let mut uptime = Uptime::default();
        for (days, is_there) in days {
            uptime.pass(days * DAY_MS, *is_there);
        }
        uptime.availability()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_down_as_described() {
        const NOW_MS: u64 = 1_767_225_600_000;
        let (own, peer) = (PeerId([9; 32]), PeerId([1; 32]));
        let uptime = Uptime {
            there_ms: DAY_MS,
            away_ms: 3_600_000.0,
        };
        let mut uptimes = Uptimes::default();
        uptimes.of.insert(peer, uptime);
        let store = crate::repair::testing::store().await;
        let saved = uptimes.save(&store, Instant::now(), NOW_MS).await;
        saved.unwrap();
        let rows = store.kv_scan("uptimes", &[]).await.unwrap();
        let golden = crate::base::golden::row("uptimes");
        assert_eq!(rows, [(peer.0.to_vec(), golden.into())]);
        // Later, it is the same; of itself a peer knows that it was away.
        let later_ms = NOW_MS + 7_200_000;
        let read = Uptimes::load(&store, own, later_ms).await.unwrap();
        assert_eq!(read.of.get(&peer), Some(&uptime));
        let read = Uptimes::load(&store, peer, later_ms).await.unwrap();
        assert!(read.availability(&peer) < uptime.availability());
    }

    #[test]
    fn who_is_new_counts_as_unknown_and_the_past_fades() {
        assert!((watched(&[]) - PRIOR).abs() < 1e-9);
        assert!(watched(&[(60.0, true)]) > 0.995);
        assert!(watched(&[(60.0, false)]) < 0.15);
        // A month away a year ago is forgotten.
        assert!(watched(&[(30.0, false), (365.0, true)]) > 0.99);
        assert!(watched(&[(365.0, true), (30.0, false)]) < 0.5);
    }

    proptest! {
        #[test]
        fn it_is_a_part_of_the_time_and_does_not_depend_on_how_often_one_looks(
            days in prop::collection::vec((0.0..100.0f64, any::<bool>()), 0..10),
        ) {
            let once = watched(&days);
            prop_assert!((0.0..=1.0).contains(&once));
            let halves: Vec<(f64, bool)> = days
                .iter()
                .flat_map(|(days, is_there)| [(days / 2.0, *is_there); 2])
                .collect();
            prop_assert!((watched(&halves) - once).abs() < 1e-9);
        }

        #[test]
        fn more_time_there_is_never_worse(
            mut days in prop::collection::vec((0.0..100.0f64, any::<bool>()), 1..10),
            which in any::<prop::sample::Index>(),
        ) {
            let before = watched(&days);
            let which = which.index(days.len());
            days[which].1 = true;
            prop_assert!(watched(&days) + 1e-12 >= before);
        }
    }
}
