//! How long members have been away, as far as this peer was there to see it.
//!
//! Counted is time during which this peer ran and could not reach the other one, or was connected to it and got no answer to
//! any question about everything. What it slept through itself does not count: the other one may have been there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::Standing;
use crate::base::wire;
use crate::base::{Classify, PeerId};
use crate::net::{Members, Reach};
use crate::store::{KvChange, Store, StoreError};

/// Key-value space of absences.
const ABSENCES: &str = "absences";
/// Most time that counts between two looks: more means that this peer was stopped.
const STEP_MAX: Duration = Duration::from_secs(300);
/// A change of less than a 16th of the dead timer is not written down, or than this.
const WRITTEN_MAX: Duration = Duration::from_secs(300);
/// Most rows written at once.
const ROWS_MAX: usize = 1024;
/// A store that took nothing is tried again after that.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, Default)]
struct Absence {
    ms: u64,
    written_ms: u64,
}

/// Absences of all members that are away.
#[derive(Debug)]
pub(super) struct Absences {
    suspect_ms: u64,
    dead_ms: u64,
    away: BTreeMap<PeerId, Absence>,
    /// Written down, and back by now.
    back: Vec<PeerId>,
    seen: Option<Instant>,
    /// Before that nothing is written down: it was tried in vain.
    not_before: Option<Instant>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Absences {
    /// With what was written down before.
    pub(super) async fn load(
        store: &Store,
        suspect: Duration,
        dead: Duration,
    ) -> Result<Self, StoreError> {
        let rows = store.kv_scan(ABSENCES, &[]).await?;
        let away = rows.into_iter().filter_map(|(key, value)| {
            let peer = PeerId(key.try_into().ok()?);
            let ms = wire::decode::<u64>(&value, 16).ok()?;
            let written_ms = ms;
            Some((peer, Absence { ms, written_ms }))
        });
        Ok(Absences {
            suspect_ms: millis(suspect),
            dead_ms: millis(dead),
            away: away.collect(),
            back: Vec::new(),
            seen: None,
            not_before: None,
        })
    }

    /// Looks at the members again, of whom `silent` did not answer when they were last asked. Answers whether one is back
    /// that counted as gone for good.
    pub(super) fn look(
        &mut self,
        members: &Members,
        silent: &BTreeSet<PeerId>,
        now: Instant,
    ) -> bool {
        let mut is_dead_back = false;
        let since = self.seen.map_or(Duration::ZERO, |seen| now - seen);
        self.seen = Some(now);
        let step_ms = millis(since.min(STEP_MAX));
        for member in &members.list {
            match member.state {
                Reach::Own => {}
                // Whoever keeps a line open and says nothing is of no more use than one who is gone.
                _ if silent.contains(&member.peer) => self.count(member.peer, step_ms),
                Reach::Away { .. } => self.count(member.peer, step_ms),
                Reach::Connected(_) => {
                    if let Some(absence) = self.away.remove(&member.peer) {
                        is_dead_back |= absence.ms >= self.dead_ms;
                        if absence.written_ms > 0 {
                            self.back.push(member.peer);
                        }
                    }
                }
                // Nothing is known: neither here nor gone.
                Reach::Idle => {}
            }
        }
        if members.complete {
            self.away.retain(|peer, _| members.get(peer).is_some());
        }
        is_dead_back
    }

    fn count(&mut self, peer: PeerId, step_ms: u64) {
        let absence = self.away.entry(peer).or_default();
        // Beyond that nothing changes any more.
        let most_ms = self.dead_ms.saturating_mul(2).max(absence.ms);
        absence.ms = absence.ms.saturating_add(step_ms).min(most_ms);
    }

    /// What is to be expected of a peer that cannot be reached.
    pub(super) fn standing(&self, peer: &PeerId) -> Standing {
        match self.ms(peer) >= self.dead_ms {
            true => Standing::Dead,
            false => Standing::Away,
        }
    }

    /// Whether it has been away for so short that nobody need be told.
    pub(super) fn is_brief(&self, peer: &PeerId) -> bool {
        self.ms(peer) < self.suspect_ms
    }

    fn ms(&self, peer: &PeerId) -> u64 {
        self.away.get(peer).map_or(0, |absence| absence.ms)
    }

    /// Writes down what has changed by enough. A store that takes nothing now is tried again later: what was not written
    /// down counts all the same, as long as this peer runs.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn save(&mut self, store: &Store, now: Instant) -> Result<(), StoreError> {
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return Ok(());
        }
        let enough = (self.dead_ms / 16).clamp(1, millis(WRITTEN_MAX));
        // A batch has its bound; what is left over is written the next time.
        let back: Vec<PeerId> = self.back.iter().take(ROWS_MAX).copied().collect();
        let due = |absence: &Absence| absence.ms >= absence.written_ms.saturating_add(enough);
        let changed = self.away.iter().filter(|(_, absence)| due(absence));
        let changed: Vec<(PeerId, u64)> = changed
            .take(ROWS_MAX - back.len())
            .map(|(peer, absence)| (*peer, absence.ms))
            .collect();
        if back.is_empty() && changed.is_empty() {
            return Ok(());
        }
        let row = |peer: &PeerId, value: Option<u64>| -> KvChange {
            let value = value.map(|ms| wire::encode(&ms).into());
            (ABSENCES.to_owned(), peer.0.to_vec(), value)
        };
        let gone = back.iter().map(|peer| row(peer, None));
        let rows = gone.chain(changed.iter().map(|(peer, ms)| row(peer, Some(*ms))));
        match store.kv_put(rows.collect()).await {
            Ok(()) => {}
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                tracing::debug!(class = ?error.class(), "absences are not written down: {error}");
                self.not_before = Some(now + RETRY);
                return Ok(());
            }
        }
        self.back.drain(..back.len());
        for (peer, ms) in changed {
            if let Some(absence) = self.away.get_mut(&peer) {
                absence.written_ms = ms;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Member;

    fn member(tag: u8, state: Reach) -> Member {
        Member {
            peer: PeerId([tag; 32]),
            capacity_bytes: 1,
            free_bytes: 1,
            stay: crate::net::Stay::Stays,
            zone: String::new(),
            invitation: String::new(),
            storage_only: false,
            program: String::new(),
            addresses: Vec::new(),
            state,
            rtt: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_down_as_described() {
        let peer = PeerId([1; 32]);
        let written = Absence {
            ms: 90_000,
            written_ms: 0,
        };
        let mut absences = Absences {
            suspect_ms: 60_000,
            dead_ms: 600_000,
            away: BTreeMap::from([(peer, written)]),
            back: Vec::new(),
            seen: None,
            not_before: None,
        };
        let store = crate::repair::testing::store().await;
        absences.save(&store, Instant::now()).await.unwrap();
        let rows = store.kv_scan("absences", &[]).await.unwrap();
        let golden = crate::base::golden::row("absences");
        assert_eq!(rows, [(peer.0.to_vec(), golden.into())]);
        let (suspect, dead) = (Duration::from_secs(60), Duration::from_secs(600));
        let read = Absences::load(&store, suspect, dead).await.unwrap();
        assert_eq!(read.ms(&peer), 90_000);
        // Who is back is forgotten.
        absences.away.clear();
        absences.back.push(peer);
        absences.save(&store, Instant::now()).await.unwrap();
        assert!(store.kv_scan("absences", &[]).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_that_was_seen_counts() {
        let mut absences = Absences {
            suspect_ms: 60_000,
            dead_ms: 3_600_000,
            away: BTreeMap::new(),
            back: Vec::new(),
            seen: None,
            not_before: None,
        };
        let (gone, none) = (PeerId([1; 32]), BTreeSet::new());
        let away = Members {
            list: vec![member(1, Reach::Away { since_ms: 0 })],
            complete: true,
        };
        let begun = Instant::now();
        absences.look(&away, &none, begun);
        assert!(absences.is_brief(&gone));
        absences.look(&away, &none, begun + Duration::from_secs(61));
        assert!(!absences.is_brief(&gone));
        assert_eq!(absences.standing(&gone), Standing::Away);
        // A night during which this peer slept.
        absences.look(&away, &none, begun + Duration::from_secs(36_000));
        assert_eq!(absences.standing(&gone), Standing::Away);
        for minute in 0..60 {
            absences.look(
                &away,
                &none,
                begun + Duration::from_secs(36_000 + 60 * minute),
            );
        }
        assert_eq!(absences.standing(&gone), Standing::Dead);
        let idle = Members {
            list: vec![member(1, Reach::Idle)],
            complete: true,
        };
        absences.look(&idle, &none, begun + Duration::from_secs(40_000));
        assert_eq!(absences.standing(&gone), Standing::Dead);
        let back = Members {
            list: vec![member(1, Reach::Connected(crate::net::Path::Memory))],
            complete: true,
        };
        assert!(absences.look(&back, &none, begun + Duration::from_secs(40_001)));
        assert!(!absences.look(&back, &none, begun + Duration::from_secs(40_002)));
        assert!(absences.is_brief(&gone));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_connected_and_never_answers_counts_as_gone_in_the_end() {
        let mut absences = Absences {
            suspect_ms: 60_000,
            dead_ms: 3_600_000,
            away: BTreeMap::new(),
            back: Vec::new(),
            seen: None,
            not_before: None,
        };
        let mute = PeerId([1; 32]);
        let (silent, none) = (BTreeSet::from([mute]), BTreeSet::new());
        for state in [Reach::Connected(crate::net::Path::Memory), Reach::Idle] {
            let members = Members {
                list: vec![member(1, state)],
                complete: true,
            };
            let begun = absences.seen.unwrap_or_else(Instant::now);
            for minute in 0..60 {
                let now = begun + Duration::from_secs(60 * minute);
                assert!(!absences.look(&members, &silent, now));
                assert_eq!(absences.standing(&mute), Standing::Away);
            }
            let now = begun + Duration::from_secs(3600);
            absences.look(&members, &silent, now);
            assert_eq!(absences.standing(&mute), Standing::Dead);
            // One answer is enough.
            let back = Members {
                list: vec![member(1, Reach::Connected(crate::net::Path::Memory))],
                complete: true,
            };
            assert!(absences.look(&back, &none, now));
            assert_eq!(absences.standing(&mute), Standing::Away);
        }
    }
}
