//! The trust in all peers that were asked, kept over restarts. Nobody tells it to anybody: a word against a peer is worth
//! something only to who asked it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::fingerprint::Fingerprint;
use super::trust::{Finding, Shown, Trust};
use crate::base::{BlockId, Classify, Clock, PeerId, ShardId};
use crate::net::Members;
use crate::store::{KvChange, Store, StoreError};

/// Key-value space of the records.
const TRUST: &str = "trust";
/// Of the others no more than one in so many is disbelieved: if more seem to lie, the fault may be here.
const DISBELIEVED_PART: usize = 3;
/// How often records without news are written down.
const WRITE: Duration = Duration::from_secs(900);
/// A store that took nothing is tried again after that.
const RETRY: Duration = Duration::from_secs(60);
/// Most rows written at once.
const ROWS_MAX: usize = 256;
/// Most peers of which anything is remembered.
const PEERS_MAX: usize = 16_384;

/// Who is trusted less, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Distrusted {
    /// Others get new shards in their place.
    pub(super) displaced: BTreeSet<PeerId>,
    /// What these say they hold does not count. All are displaced as well.
    pub(super) disbelieved: BTreeSet<PeerId>,
    /// Those, and others who lied as much where too many did: nothing is let go because of what they say.
    pub(super) liars: BTreeSet<PeerId>,
    /// Shards that somebody who is believed says it has, and has not.
    pub(super) refuted: BTreeMap<BlockId, Vec<(PeerId, u8)>>,
}

impl Distrusted {
    /// Whether anything is refuted of the block.
    pub(super) fn refutes(&self, block: &BlockId) -> bool {
        self.refuted.contains_key(block)
    }

    /// Takes what is refuted of some blocks into a fingerprint.
    pub(super) fn add_refuted(&self, hash: &mut Fingerprint, of: impl Fn(&BlockId) -> bool) {
        for (block, of_block) in self.refuted.iter().filter(|(block, _)| of(block)) {
            for (peer, index) in of_block {
                hash.add(&block.0);
                hash.add(&peer.0);
                hash.add(&[*index]);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    of: BTreeMap<PeerId, Trust>,
    is_loaded: bool,
    /// Records that are not written down as they are.
    changed: BTreeSet<PeerId>,
    gone: Vec<PeerId>,
    /// Who was not believed when that was last asked.
    disbelieved: BTreeSet<PeerId>,
    /// When to write next; none: nothing waits.
    due: Option<Instant>,
}

/// The trust in all peers. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Trusts {
    table: Arc<Mutex<Table>>,
    clock: Clock,
}

impl Trusts {
    pub(super) fn new(clock: Clock) -> Self {
        Trusts {
            table: Arc::default(),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Reads what was written down before, once.
    pub(super) async fn load(&self, store: &Store) -> Result<(), StoreError> {
        if self.lock().is_loaded {
            return Ok(());
        }
        let rows = store.kv_scan(TRUST, &[]).await?;
        let known = rows.into_iter().filter_map(|(key, value)| {
            let peer = PeerId(key.try_into().ok()?);
            Some((peer, Trust::decode(&value)?))
        });
        let mut table = self.lock();
        for (peer, trust) in known.take(PEERS_MAX) {
            table.of.entry(peer).or_insert(trust);
        }
        table.is_loaded = true;
        Ok(())
    }

    /// Takes in what came of asking a peer.
    pub(super) fn note(&self, peer: PeerId, finding: Finding, shard: Option<ShardId>) {
        let now_ms = self.clock.now_ms();
        let mut table = self.lock();
        if table.of.len() >= PEERS_MAX && !table.of.contains_key(&peer) {
            return;
        }
        let trust = table.of.entry(peer).or_default();
        let was = (trust.is_displaced(now_ms), trust.is_disbelieved(now_ms));
        trust.note(finding, shard, now_ms);
        let is = (trust.is_displaced(now_ms), trust.is_disbelieved(now_ms));
        if was != is {
            let shown = trust.shown(now_ms);
            tracing::warn!(
                peer = %peer.short(),
                percent = shown.percent,
                displaced = is.0,
                disbelieved = is.1,
                why = shown.why.unwrap_or_default(),
                "the trust in a peer changed"
            );
        }
        table.changed.insert(peer);
        let pause = match finding {
            Finding::Good => WRITE,
            _ => Duration::ZERO,
        };
        let due = Instant::now() + pause;
        table.due = Some(table.due.map_or(due, |before| before.min(due)));
    }

    /// Who is trusted less now, among so many others.
    pub(super) fn distrusted(&self, others: usize) -> Distrusted {
        let now_ms = self.clock.now_ms();
        let mut table = self.lock();
        let mut found = Distrusted::default();
        let mut false_ones: Vec<(bool, f64, PeerId)> = Vec::new();
        for (peer, trust) in &table.of {
            if trust.is_displaced(now_ms) {
                found.displaced.insert(*peer);
            }
            if trust.is_disbelieved(now_ms) {
                let is_new = !table.disbelieved.contains(peer);
                false_ones.push((is_new, trust.falsity(now_ms), *peer));
            }
        }
        found.liars = false_ones.iter().map(|(.., peer)| *peer).collect();
        // The worst first, behind those who were not believed before: it stays the same ones, or everything would be
        // looked through and made anew each time that another of them is caught.
        false_ones.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        false_ones.truncate(others / DISBELIEVED_PART);
        found.disbelieved = false_ones.into_iter().map(|(.., peer)| peer).collect();
        table.disbelieved.clone_from(&found.disbelieved);
        for (peer, trust) in &table.of {
            for id in trust.refuted() {
                let of_block = found.refuted.entry(id.block).or_default();
                of_block.push((*peer, id.index));
            }
        }
        found
    }

    /// The trust in a peer that was asked.
    pub(super) fn shown(&self, peer: &PeerId) -> Option<Shown> {
        let now_ms = self.clock.now_ms();
        self.lock().of.get(peer).map(|trust| trust.shown(now_ms))
    }

    /// Forgets who is no member any more: once there is no doubt left, or it could begin anew by leaving for a while.
    pub(super) fn tidy(&self, members: &Members) {
        if !members.complete {
            return;
        }
        let now_ms = self.clock.now_ms();
        let mut table = self.lock();
        let gone = table.of.iter();
        let gone =
            gone.filter(|(peer, trust)| members.get(peer).is_none() && trust.is_full(now_ms));
        let gone: Vec<PeerId> = gone.map(|(peer, _)| *peer).collect();
        for peer in gone {
            table.of.remove(&peer);
            table.changed.remove(&peer);
            table.gone.push(peer);
            table.due = Some(Instant::now());
        }
    }

    /// Writes down what changed, if it is time. A store that takes nothing now is tried again later.
    ///
    /// # Errors
    /// `Closed`.
    pub(super) async fn save(&self, store: &Store) -> Result<(), StoreError> {
        let now = Instant::now();
        let rows: Vec<KvChange> = {
            let table = self.lock();
            if table.due.is_none_or(|due| now < due) {
                return Ok(());
            }
            let row = |peer: &PeerId, trust: Option<&Trust>| -> KvChange {
                let value = trust.map(|trust| trust.encode().into());
                (TRUST.to_owned(), peer.0.to_vec(), value)
            };
            let gone = table.gone.iter().map(|peer| row(peer, None));
            let changed = table.changed.iter();
            let changed = changed.map(|peer| row(peer, table.of.get(peer)));
            gone.chain(changed).take(ROWS_MAX).collect()
        };
        let written: BTreeSet<Vec<u8>> = rows.iter().map(|(_, key, _)| key.clone()).collect();
        let saved = store.kv_put(rows).await;
        let mut table = self.lock();
        match saved {
            Ok(()) => {
                let is_left = |peer: &PeerId| !written.contains(peer.0.as_slice());
                table.changed.retain(is_left);
                table.gone.retain(is_left);
                let is_done = table.changed.is_empty() && table.gone.is_empty();
                table.due = (!is_done).then_some(now);
                Ok(())
            }
            Err(StoreError::Closed) => Err(StoreError::Closed),
            Err(error) => {
                tracing::debug!(class = ?error.class(), "trust is written down later: {error}");
                table.due = Some(now + RETRY);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockId;

    const NOW_MS: u64 = 1_767_225_600_000;

    fn peer(tag: u8) -> PeerId {
        PeerId([tag; 32])
    }

    fn shard(tag: u8) -> ShardId {
        ShardId {
            block: BlockId([tag; 32]),
            index: 1,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_outlives_a_restart() {
        let store = crate::repair::testing::store().await;
        let trusts = Trusts::new(Clock::simulated(NOW_MS));
        trusts.load(&store).await.unwrap();
        for _ in 0..4 {
            trusts.note(peer(1), Finding::Lacking, Some(shard(1)));
            trusts.note(peer(2), Finding::False, None);
        }
        trusts.note(peer(3), Finding::Good, None);
        trusts.save(&store).await.unwrap();
        let again = Trusts::new(Clock::simulated(NOW_MS));
        again.load(&store).await.unwrap();
        let distrusted = again.distrusted(6);
        assert_eq!(distrusted, trusts.distrusted(6));
        assert_eq!(distrusted.displaced, BTreeSet::from([peer(2)]));
        assert_eq!(distrusted.disbelieved, BTreeSet::from([peer(2)]));
        assert!(distrusted.refutes(&shard(1).block));
        assert_eq!(again.shown(&peer(3)), trusts.shown(&peer(3)));
        assert_eq!(again.shown(&peer(4)), None);
        // Who is gone is forgotten, there as well; who lied only after a long time.
        let nobody = Members {
            list: Vec::new(),
            complete: true,
        };
        again.tidy(&nobody);
        again.save(&store).await.unwrap();
        assert_eq!(store.kv_scan("trust", &[]).await.unwrap().len(), 2);
        let later = Trusts::new(Clock::simulated(NOW_MS + 200 * 24 * 3_600_000));
        later.load(&store).await.unwrap();
        later.tidy(&nobody);
        later.save(&store).await.unwrap();
        assert!(store.kv_scan("trust", &[]).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_liars_it_stays_the_same_who_are_not_believed() {
        let trusts = Trusts::new(Clock::simulated(NOW_MS));
        for tag in [5, 6] {
            (0..4).for_each(|_| trusts.note(peer(tag), Finding::False, None));
        }
        let first = trusts.distrusted(6).disbelieved;
        assert_eq!(first, BTreeSet::from([peer(5), peer(6)]));
        for tag in 1..=4 {
            (0..9).for_each(|_| trusts.note(peer(tag), Finding::False, None));
        }
        let later = trusts.distrusted(6);
        assert_eq!(later.disbelieved, first);
        assert_eq!(later.liars.len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn where_many_seem_to_lie_most_are_believed() {
        let trusts = Trusts::new(Clock::simulated(NOW_MS));
        for tag in 1..=6 {
            for _ in 0..(3 + tag) {
                trusts.note(peer(tag), Finding::False, None);
            }
        }
        let distrusted = trusts.distrusted(7);
        assert_eq!(distrusted.displaced.len(), 6);
        assert_eq!(distrusted.disbelieved.len(), 2);
        assert!(distrusted.disbelieved.is_subset(&distrusted.displaced));
        assert!(trusts.distrusted(2).disbelieved.is_empty());
    }
}
