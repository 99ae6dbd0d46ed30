//! The checkpoint records that this peer keeps: rows of its store, and what is known of them in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::index::{Entry, Index, Verdict};
use super::row::{PointerRow, Rank, SPACE, key};
use crate::base::limits::{
    DELTA_AHEAD_MAX_MS, POINTER_MAX_BYTES, POINTER_QUOTA_BYTES, POINTERS_MAX,
};
use crate::base::{Class, Classify, Clock, PeerId, Pools, VolumeId};
use crate::feeds::checkpoint::Record;
use crate::feeds::{FeedError, Signed};
use crate::namespace::WriterId;
use crate::store::{Store, StoreError};

/// How often a record is published again that nobody else did.
const REPUBLISH: Duration = Duration::from_secs(24 * 3600);
/// Within how long after that, so that of all who keep a record one does it, and the others hear of it.
const SPREAD: Duration = Duration::from_secs(2 * 3600);
/// Volumes whose rows are changed at once, about. By as many records the bounds of all may be passed.
const LOCKS: usize = 16;

/// Why a checkpoint record is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It is none, or not signed by its writer.
    #[error("checkpoint record: {0}")]
    Invalid(#[from] FeedError),
    /// It is from the future.
    #[error(
        "a checkpoint record from the future: the clock of its writer, or of this machine, is wrong"
    )]
    Ahead,
    /// There is a later one of its writer.
    #[error("a later checkpoint record of this writer is there already")]
    Stale,
    /// As many as this peer keeps are kept.
    #[error("no room for one more checkpoint record")]
    Full,
    /// The store does not take it.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
}

impl Classify for PointerError {
    fn class(&self) -> Class {
        match self {
            PointerError::Invalid(error) => error.class(),
            PointerError::Ahead => Class::Retry,
            PointerError::Stale => Class::Denied,
            PointerError::Full => Class::Full,
            PointerError::Store(error) => error.class(),
        }
    }
}

/// Who of those that should keep a volume's records has them, as far as this peer knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Counts the records that this peer published.
    edition: u64,
    pub(super) peers: Vec<PeerId>,
}

/// The records, and their rows. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::blocks) struct Kept(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: PeerId,
    store: Store,
    pools: Pools,
    clock: Clock,
    index: Mutex<Index>,
    told: Mutex<BTreeMap<VolumeId, Told>>,
    /// Whether somebody is to be told again although nothing else changed.
    has_missed: AtomicBool,
    /// Held while rows of a volume are looked at and changed.
    writing: [tokio::sync::Mutex<()>; LOCKS],
}

impl Kept {
    /// Reads what is kept.
    pub(in crate::blocks) async fn open(
        own: PeerId,
        store: Store,
        pools: Pools,
        clock: Clock,
    ) -> Result<Kept, StoreError> {
        let now = Instant::now();
        let mut index = Index::new(own);
        for (at, value) in store.kv_scan(SPACE, &[]).await? {
            let row = PointerRow::decode(&value).map_err(FeedError::from);
            match row.and_then(|row| Ok((row.parts()?, row.from))) {
                Ok(((volume, writer, rank), from)) if key(&volume, &writer) == at => {
                    // How long ago it was published nobody knows now.
                    let due = now + spread(own, &volume, &writer, rank, REPUBLISH);
                    index.insert(volume, writer, Entry { rank, from, due });
                }
                Ok(_) => tracing::warn!("a checkpoint record is kept under another name"),
                // A later version of this program may read it.
                Err(error) => tracing::warn!("cannot read a checkpoint record: {error}"),
            }
        }
        Ok(Kept(Arc::new(Inner {
            own,
            store,
            pools,
            clock,
            index: Mutex::new(index),
            told: Mutex::default(),
            has_missed: AtomicBool::new(false),
            writing: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
        })))
    }

    /// Checks a record that `from` brings, and keeps it durably. Whether it is new here. Goes on to its end even if
    /// the future is dropped.
    ///
    /// # Errors
    /// Why it is not kept.
    pub(in crate::blocks) async fn keep(
        &self,
        from: PeerId,
        record: Bytes,
    ) -> Result<bool, PointerError> {
        let kept = self.clone();
        // A row that is written and not in the index might be replaced by an older one.
        let work = tokio::spawn(async move { kept.keep_now(from, record).await });
        let ended = work.await;
        ended.unwrap_or(Err(PointerError::Store(StoreError::Closed)))
    }

    async fn keep_now(&self, from: PeerId, encoded: Bytes) -> Result<bool, PointerError> {
        let bytes = encoded.clone();
        let record: Signed<Record> = self
            .0
            .pools
            .cpu
            .run(move || match bytes.len() > POINTER_MAX_BYTES {
                true => Err("a checkpoint record that is too long".into()),
                false => Signed::decode(&bytes),
            })
            .await?;
        let (volume, writer) = (record.volume, record.writer);
        if record.hlc.ms() > self.0.clock.now_ms().saturating_add(DELTA_AHEAD_MAX_MS) {
            return Err(PointerError::Ahead);
        }
        let rank = Rank::of(&record);
        let entry = Entry {
            rank,
            from,
            due: self.due(&volume, &writer, rank),
        };
        let _writing = self.lock(&volume).await;
        let verdict = self
            .index()
            .judge(&volume, &writer, rank, from, self.most());
        let evict = match verdict {
            Verdict::Take { evict } => evict,
            Verdict::Known => {
                // Somebody else publishes it, so it need not be done here.
                if from != self.0.own {
                    self.index().postpone(&volume, &writer, rank, entry.due);
                }
                return Ok(false);
            }
            Verdict::Stale => return Err(PointerError::Stale),
            Verdict::Full => return Err(PointerError::Full),
        };
        let row = PointerRow {
            from,
            record: encoded,
        };
        let row = Some(Bytes::from(row.encode()));
        let mut rows = vec![(SPACE.to_owned(), key(&volume, &writer), row)];
        rows.extend(evict.map(|writer| (SPACE.to_owned(), key(&volume, &writer), None)));
        self.0.store.kv_put(rows).await?;
        let mut index = self.index();
        if let Some(evict) = evict {
            index.remove(&volume, &evict);
        }
        index.insert(volume, writer, entry);
        Ok(true)
    }

    /// For who changes rows of a volume.
    async fn lock(&self, volume: &VolumeId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let [first, ..] = volume.0;
        let lock = self.0.writing.get(usize::from(first) % LOCKS)?;
        Some(lock.lock().await)
    }

    /// Lets go of a record that others keep, unless it is another one by now.
    pub(super) async fn forget(
        &self,
        volume: VolumeId,
        writer: WriterId,
        rank: Rank,
    ) -> Result<(), StoreError> {
        let _writing = self.lock(&volume).await;
        let is_same = |entry: &Entry| entry.rank == rank;
        if !self.index().get(&volume, &writer).is_some_and(is_same) {
            return Ok(());
        }
        // First here: a row without an entry is replaced by whatever comes, and is found again at the next start.
        self.index().remove(&volume, &writer);
        let row = (SPACE.to_owned(), key(&volume, &writer), None);
        self.0.store.kv_put(vec![row]).await
    }

    /// The signed records of a volume, as they are encoded.
    pub(in crate::blocks) async fn records(
        &self,
        volume: &VolumeId,
    ) -> Result<Vec<Bytes>, StoreError> {
        let rows = self.0.store.kv_scan(SPACE, &volume.0).await?;
        let rows = rows.into_iter();
        Ok(rows
            .filter_map(|(_, value)| Some(PointerRow::decode(&value).ok()?.record))
            .collect())
    }

    /// The signed record of one writer, as it is encoded.
    pub(super) async fn record(
        &self,
        volume: &VolumeId,
        writer: &WriterId,
    ) -> Result<Option<Bytes>, StoreError> {
        let row = self.0.store.kv_get(SPACE, &key(volume, writer)).await?;
        Ok(row.and_then(|value| Some(PointerRow::decode(&value).ok()?.record)))
    }

    /// What is known of the records that are kept.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.0
            .index
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Who has the records of a volume. None: nothing is known of it yet.
    pub(super) fn told(&self, volume: &VolumeId) -> Option<Told> {
        self.told_all().get(volume).cloned()
    }

    /// This peer published a record, and these have it. If others lack it, they are told again soon.
    pub(super) fn published(&self, volume: VolumeId, peers: Vec<PeerId>, has_missed: bool) {
        let mut told = self.told_all();
        let told = told.entry(volume).or_default();
        told.edition += 1;
        told.peers = peers;
        if has_missed {
            self.0.has_missed.store(true, Ordering::Relaxed);
        }
    }

    /// These have the records of a volume, unless this peer has published one since `before`.
    pub(super) fn set_told(&self, volume: VolumeId, before: Option<&Told>, peers: Vec<PeerId>) {
        let edition = before.map_or(0, |told| told.edition);
        let mut told = self.told_all();
        let told = told.entry(volume).or_default();
        if told.edition == edition {
            told.peers = peers;
        }
    }

    /// Whether somebody is to be told again; once.
    pub(super) fn take_missed(&self) -> bool {
        self.0.has_missed.swap(false, Ordering::Relaxed)
    }

    /// Forgets who has the records of volumes of which this peer keeps none.
    pub(super) fn forget_told(&self) {
        let volumes = self.index().volumes(None, usize::MAX);
        let is_kept = |volume: &VolumeId| volumes.binary_search(volume).is_ok();
        self.told_all().retain(|volume, _| is_kept(volume));
    }

    fn told_all(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Told>> {
        self.0
            .told
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Records that are kept for others at most.
    fn most(&self) -> usize {
        let by_quota = self.0.store.usage().quota / POINTER_QUOTA_BYTES;
        usize::try_from(by_quota).map_or(POINTERS_MAX, |most| most.min(POINTERS_MAX))
    }

    /// When a record that was published just now is published again.
    pub(super) fn due(&self, volume: &VolumeId, writer: &WriterId, rank: Rank) -> Instant {
        Instant::now() + REPUBLISH + spread(self.0.own, volume, writer, rank, SPREAD)
    }
}

/// A time below `range` that is another one for each peer and record.
fn spread(
    own: PeerId,
    volume: &VolumeId,
    writer: &WriterId,
    rank: Rank,
    range: Duration,
) -> Duration {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&own.0).update(&key(volume, writer));
    hasher.update(&rank.hlc.0.to_be_bytes());
    let hash = hasher.finalize();
    let drawn = hash.as_bytes().first_chunk::<4>().copied();
    let share = f64::from(u32::from_be_bytes(drawn.unwrap_or_default())) / f64::from(u32::MAX);
    range.mul_f64(share)
}
