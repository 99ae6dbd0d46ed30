//! What writers said of their claims' ends, kept with its proof, so that whoever was away hears of it from others.
//!
//! A holder that was told by the writer keeps the word for as long as somebody may come back who was not. Words about
//! a moment that is still to come are kept until then, and are carried out here, whoever is away by that time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Blocks;
use crate::base::limits::{BATCH_BLOCKS_MAX, RELEASE_QUOTA_BYTES, RELEASES_MAX};
use crate::base::worker::{Next, Worker};
use crate::base::{ClaimId, Class, Classify, Clock, OwnerId, PeerId, Pools};
use crate::crypto::{Signature, SignedRelease, SigningKey};
use crate::store::{Store, StoreError};

/// Key-value space of what was heard.
const SPACE: &str = "releases";
/// What was heard is kept for so long: whoever is away for longer keeps what nobody wants.
const KEPT: Duration = Duration::from_secs(180 * 24 * 3600);
/// How often it is looked whether something is due.
const TURN: Duration = Duration::from_secs(10);
/// How often all that is kept is looked through.
const TRIM: Duration = Duration::from_secs(24 * 3600);
/// Rows removed at once.
const REMOVED_AT_ONCE: usize = 1000;
/// Claims let go of at once when they are due.
const TOGETHER: usize = 64;

/// Why what somebody said about claims is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HearError {
    /// Not all of it is what the writers of the claims said.
    #[error("the end of a claim that its writer did not sign")]
    Forged,
    /// The store does not take it.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
}

/// A row: `from_ms (8) || kept_ms (8) || signature (64)`, numbers big-endian. Its key is the claim:
/// `owner (16) || writer (32) || number (8)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    release: SignedRelease,
    /// Since when it is kept here (ms since 1970).
    kept_ms: u64,
}

impl Row {
    fn key(claim: &ClaimId) -> Vec<u8> {
        let number = claim.number.to_be_bytes();
        [&claim.owner.0[..], &claim.writer.0, &number].concat()
    }

    fn encode(&self) -> Bytes {
        let (from, kept) = (self.release.from_ms, self.kept_ms);
        let parts = [
            &from.to_be_bytes()[..],
            &kept.to_be_bytes(),
            &self.release.signature.0,
        ];
        parts.concat().into()
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Row> {
        let (owner, rest) = key.split_first_chunk::<16>()?;
        let (writer, rest) = rest.split_first_chunk::<32>()?;
        let number = rest.try_into().ok()?;
        let (from, rest) = value.split_first_chunk::<8>()?;
        let (kept, rest) = rest.split_first_chunk::<8>()?;
        Some(Row {
            release: SignedRelease {
                claim: ClaimId {
                    owner: OwnerId(*owner),
                    writer: PeerId(*writer),
                    number: u64::from_be_bytes(number),
                },
                from_ms: u64::from_be_bytes(*from),
                signature: Signature(rest.try_into().ok()?),
            },
            kept_ms: u64::from_be_bytes(*kept),
        })
    }

    /// Since when it may be of use to somebody who comes back.
    fn since_ms(&self) -> u64 {
        self.kept_ms.max(self.release.from_ms)
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Rows of each writer.
    of_writer: BTreeMap<PeerId, usize>,
    all: usize,
    /// Claims that end at a moment, those of the past first.
    due: BTreeSet<(u64, ClaimId)>,
}

impl Counts {
    fn add(&mut self, writer: PeerId) {
        *self.of_writer.entry(writer).or_default() += 1;
        self.all += 1;
    }

    /// Who has most has no room for more once all is taken; the others some more, until some is removed.
    fn has_room(&self, writer: &PeerId, most: usize) -> bool {
        let own = self.of_writer.get(writer).copied().unwrap_or(0);
        let is_first = || self.of_writer.values().all(|other| *other <= own);
        self.all < most || (self.all < 2 * most && !is_first())
    }
}

/// What was heard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Releases(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    pools: Pools,
    clock: Clock,
    counts: Mutex<Counts>,
    /// Held while rows are looked at and changed.
    writing: tokio::sync::Mutex<()>,
}

impl Releases {
    /// Reads what is kept.
    pub(super) async fn open(
        store: Store,
        pools: Pools,
        clock: Clock,
    ) -> Result<Releases, StoreError> {
        let mut counts = Counts::default();
        let mut later = Vec::new();
        for (key, value) in store.kv_scan(SPACE, &[]).await? {
            let Some(row) = Row::decode(&key, &value) else {
                continue;
            };
            counts.add(row.release.claim.writer);
            if row.release.from_ms > 0 {
                later.push(row.release);
            }
        }
        for some in later.chunks(BATCH_BLOCKS_MAX) {
            let claims = some.iter().map(|release| release.claim).collect();
            let alive = store.are_alive(claims).await?;
            let due = some.iter().zip(alive).filter(|(_, alive)| *alive);
            counts
                .due
                .extend(due.map(|(release, _)| (release.from_ms, release.claim)));
        }
        Ok(Releases(Arc::new(Inner {
            store,
            pools,
            clock,
            counts: Mutex::new(counts),
            writing: tokio::sync::Mutex::default(),
        })))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        let counts = self.0.counts.lock();
        counts.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are remembered.
    fn most(&self) -> usize {
        let by_quota = self.0.store.usage().quota / RELEASE_QUOTA_BYTES;
        usize::try_from(by_quota).map_or(RELEASES_MAX, |most| most.min(RELEASES_MAX))
    }

    /// What is known here of the ends of these claims, with its proof; also of ends that are still to come.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn known(&self, claims: &[ClaimId]) -> Result<Vec<SignedRelease>, StoreError> {
        let mut known = Vec::new();
        for claim in claims {
            known.extend(self.row(claim).await?.map(|row| row.release));
        }
        Ok(known)
    }

    async fn row(&self, claim: &ClaimId) -> Result<Option<Row>, StoreError> {
        let key = Row::key(claim);
        let value = self.0.store.kv_get(SPACE, &key).await?;
        Ok(value.and_then(|value| Row::decode(&key, &value)))
    }

    /// Which of these claims have ended by what is known here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn ended(&self, claims: &[ClaimId]) -> Result<BTreeSet<ClaimId>, StoreError> {
        let now_ms = self.0.clock.now_ms();
        let known = self.known(claims).await?.into_iter();
        let ended = known.filter(|release| release.from_ms <= now_ms);
        Ok(ended.map(|release| release.claim).collect())
    }

    /// Takes what somebody else passed on: all of it, or nothing if some of it is not true. What is about claims that
    /// keep nothing here is of no use. How many claims it is of use for.
    ///
    /// # Errors
    /// [`HearError::Forged`]; or if the store takes no writes.
    pub async fn hear(&self, heard: Vec<SignedRelease>) -> Result<usize, HearError> {
        let check = move || {
            let is_true = heard.iter().all(|release| release.verify().is_ok());
            is_true.then_some(heard)
        };
        let heard = self.0.pools.cpu.run(check).await.ok_or(HearError::Forged)?;
        let claims = heard.iter().map(|release| release.claim).collect();
        let alive = self.0.store.are_alive(claims).await?;
        let mut useful = 0;
        for (release, _) in heard.into_iter().zip(alive).filter(|(_, alive)| *alive) {
            useful += 1;
            self.take(release).await?;
        }
        Ok(useful)
    }

    /// Takes what the writer itself said, after its proof was checked, if it gave one.
    ///
    /// # Errors
    /// [`HearError::Forged`]; or if the store takes no writes.
    pub(super) async fn hear_of_writer(
        &self,
        claim: ClaimId,
        proof: Option<Signature>,
    ) -> Result<(), HearError> {
        let Some(signature) = proof else {
            self.0.store.release_claim(claim).await?;
            return Ok(());
        };
        let release = SignedRelease {
            claim,
            from_ms: 0,
            signature,
        };
        let check = move || release.verify();
        let checked = self.0.pools.cpu.run(check).await;
        checked.map_err(|_| HearError::Forged)?;
        self.take(release).await?;
        Ok(())
    }

    /// Keeps what is true, and carries it out if it is time. Both at once: if power is lost in between, the one is made up
    /// for by whoever says it again, and the other by those who heard it as well.
    pub(super) async fn take(&self, release: SignedRelease) -> Result<(), StoreError> {
        if release.from_ms > self.0.clock.now_ms() {
            if self.note(release).await? {
                let due = (release.from_ms, release.claim);
                self.counts().due.insert(due);
            }
            return Ok(());
        }
        let (noted, released) = tokio::join!(
            self.note(release),
            self.0.store.release_claim(release.claim)
        );
        if let Err(error) = noted {
            tracing::debug!("the end of a claim cannot be passed on: {error}");
        }
        released.map(drop)
    }

    /// Writes it down, unless an earlier end is known or there is no room. Whether it is what is known now.
    async fn note(&self, release: SignedRelease) -> Result<bool, StoreError> {
        let _writing = self.0.writing.lock().await;
        let known = self.row(&release.claim).await?;
        if let Some(known) = &known
            && known.release.from_ms <= release.from_ms
        {
            return Ok(known.release.from_ms == release.from_ms);
        }
        let writer = release.claim.writer;
        if known.is_none() && !self.counts().has_room(&writer, self.most()) {
            return Ok(false);
        }
        let row = Row {
            release,
            kept_ms: self.0.clock.now_ms(),
        };
        let change = (
            SPACE.to_owned(),
            Row::key(&release.claim),
            Some(row.encode()),
        );
        self.0.store.kv_free(vec![change]).await?;
        let mut counts = self.counts();
        match known {
            Some(known) => drop(counts.due.remove(&(known.release.from_ms, release.claim))),
            None => counts.add(writer),
        }
        Ok(true)
    }

    /// Lets go of claims whose time has come. How many.
    async fn carry_out(&self) -> Result<usize, StoreError> {
        let now_ms = self.0.clock.now_ms();
        let mut done = 0;
        loop {
            let due: Vec<(u64, ClaimId)> = {
                let counts = self.counts();
                let due = counts
                    .due
                    .iter()
                    .take_while(|(from_ms, _)| *from_ms <= now_ms);
                due.take(TOGETHER).copied().collect()
            };
            if due.is_empty() {
                return Ok(done);
            }
            let each = due
                .iter()
                .map(|(_, claim)| self.0.store.release_claim(*claim));
            futures::future::try_join_all(each).await?;
            done += due.len();
            let mut counts = self.counts();
            for due in &due {
                counts.due.remove(due);
            }
        }
    }

    /// Removes what is too old to be of use, and, where there is too much, the oldest of those writers who have most.
    async fn trim(&self) -> Result<(), StoreError> {
        let _writing = self.0.writing.lock().await;
        let (now_ms, most) = (self.0.clock.now_ms(), self.most());
        let mut of_writer: BTreeMap<PeerId, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
        let mut gone = Vec::new();
        let mut all = 0;
        for (key, value) in self.0.store.kv_scan(SPACE, &[]).await? {
            let row = Row::decode(&key, &value);
            let young = row.filter(|row| {
                let age_ms = now_ms.saturating_sub(row.since_ms());
                u128::from(age_ms) <= KEPT.as_millis()
            });
            match young {
                Some(row) => {
                    let writer = row.release.claim.writer;
                    let of_writer = of_writer.entry(writer).or_default();
                    of_writer.push((row.since_ms(), key));
                    all += 1;
                }
                None => gone.push(key),
            }
        }
        for rows in of_writer.values_mut() {
            // The oldest last.
            rows.sort_by(|a, b| b.cmp(a));
        }
        while all > most {
            let first = of_writer.values_mut().max_by_key(|rows| rows.len());
            let Some((_, key)) = first.and_then(Vec::pop) else {
                break;
            };
            gone.push(key);
            all -= 1;
        }
        for some in gone.chunks(REMOVED_AT_ONCE) {
            let removed = some.iter().map(|key| (SPACE.to_owned(), key.clone(), None));
            self.0.store.kv_put(removed.collect()).await?;
        }
        let mut counts = self.counts();
        let of_writer = of_writer.into_iter();
        counts.of_writer = of_writer
            .map(|(writer, rows)| (writer, rows.len()))
            .collect();
        counts.all = all;
        Ok(())
    }
}

impl Blocks {
    /// What was heard of the ends of claims.
    pub fn releases(&self) -> &Releases {
        &self.releases
    }

    /// The word of this peer that a claim of its own ends; none if it has no key to sign it with.
    pub(super) fn word(&self, claim: &ClaimId, from_ms: u64) -> Option<SignedRelease> {
        let key: &SigningKey = self.signer.as_ref()?;
        (key.peer() == claim.writer)
            .then(|| SignedRelease::sign(key, claim.owner, claim.number, from_ms))
    }
}

/// Lets go of claims whose time has come, and forgets what nobody needs to hear any more.
#[derive(Debug)]
pub struct ReleaseKeeper {
    releases: Releases,
    next_trim: Instant,
    ended: usize,
}

impl ReleaseKeeper {
    /// A worker for `blocks`.
    pub fn new(blocks: &Blocks) -> Self {
        ReleaseKeeper {
            releases: blocks.releases.clone(),
            next_trim: Instant::now() + TRIM,
            ended: 0,
        }
    }

    async fn pass(&mut self) -> Result<(), StoreError> {
        self.ended += self.releases.carry_out().await?;
        let is_much = self.releases.counts().all > self.releases.most();
        if is_much || Instant::now() >= self.next_trim {
            self.releases.trim().await?;
            self.next_trim = Instant::now() + TRIM;
        }
        Ok(())
    }
}

impl Worker for ReleaseKeeper {
    fn name(&self) -> &'static str {
        "releases"
    }

    async fn step(&mut self) -> Next {
        match self.pass().await {
            Ok(()) => {}
            Err(error) if error.class() == Class::Closed => return Next::Done,
            Err(error) => tracing::warn!("ends of claims wait: {error}"),
        }
        Next::Idle(TURN)
    }

    fn status(&self) -> String {
        let counts = self.releases.counts();
        format!(
            "{} ends of claims remembered, {} still to come, {} carried out",
            counts.all,
            counts.due.len(),
            self.ended
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_are_written_and_others_are_none() {
        let row = Row {
            release: SignedRelease {
                claim: ClaimId {
                    owner: OwnerId([1; 16]),
                    writer: PeerId([2; 32]),
                    number: 3,
                },
                from_ms: 4,
                signature: Signature([5; 64]),
            },
            kept_ms: 6,
        };
        let (key, value) = (Row::key(&row.release.claim), row.encode());
        assert_eq!((key.len(), value.len()), (56, 80));
        assert_eq!(Row::decode(&key, &value), Some(row));
        assert_eq!(Row::decode(&key[1..], &value), None);
        assert_eq!(Row::decode(&key, &value[1..]), None);
        assert_eq!(Row::decode(&[], &[]), None);
    }

    #[test]
    fn who_says_most_leaves_room_for_the_others() {
        let [much, little] = [1, 2].map(|fill| PeerId([fill; 32]));
        let mut counts = Counts::default();
        (0..9).for_each(|_| counts.add(much));
        assert!(counts.has_room(&much, 10));
        counts.add(little);
        assert!(!counts.has_room(&much, 10));
        assert!(counts.has_room(&little, 10));
        counts.all = 20;
        assert!(!counts.has_room(&little, 10));
    }
}
