//! The ends of feeds that this peer keeps for whoever wrote them: rows of its store, and what is known of them in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::index::{Entry, Index, Most, Place};
use super::row::{RUNS, RunRow, SPACE, TailRow, key, place, run_key, run_number};
use crate::base::limits::{ROW_GROUP_MAX_BYTES, TAILS_PER_VOLUME_MAX};
use crate::base::{Class, Classify, Clock, PeerId, Pools, VolumeId};
use crate::feeds::gossip::DELTAS_MAX_BYTES;
use crate::feeds::{
    Cover, Covered, FeedError, Fit, Keeping, Kept, SealedDelta, Signed, TailEnd, TailVerdict,
};
use crate::namespace::WriterId;
use crate::store::{Store, StoreError};

/// What nobody added to for so long goes: its writer is gone, and whoever could come for it has.
pub(super) const AGE_MS: u64 = 30 * 24 * 3600 * 1000;
/// That its writer still asks is noted so often.
const NOTE_MS: u64 = 24 * 3600 * 1000;
/// Volumes whose rows are changed at once, about.
const LOCKS: usize = 16;
/// Messages with deltas that are worked on at once: each may take some MiB of memory.
const SLOTS: usize = 4;
/// And questions.
const QUESTIONS: usize = 16;
/// Bytes of rows that are written at once.
const BATCH_BYTES: usize = 192 << 10;
/// Rows removed at once.
const REMOVED: usize = 1024;
/// What a delta is counted with besides its own bytes.
const DELTA_COST: u64 = 128;

/// A change of a small record.
type Change = (String, Vec<u8>, Option<Bytes>);

/// Deltas that somebody wants to be kept.
struct Brought {
    volume: VolumeId,
    writer: WriterId,
    covered: Option<Signed<Covered>>,
    deltas: Vec<Bytes>,
}

/// Why nothing is said to a message.
#[derive(Debug, thiserror::Error)]
pub(in crate::blocks) enum AnswerError {
    /// As many are worked on as can be at once.
    #[error("too many messages about kept feeds at once")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The ends of feeds, and their rows. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::blocks) struct Tails(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    pools: Pools,
    clock: Clock,
    index: Mutex<Index>,
    /// Held while rows of a volume are looked at and changed.
    writing: [tokio::sync::Mutex<()>; LOCKS],
    slots: Semaphore,
    questions: Semaphore,
}

impl Tails {
    /// Reads what is kept.
    pub(in crate::blocks) async fn open(
        store: Store,
        pools: Pools,
        clock: Clock,
    ) -> Result<Tails, StoreError> {
        let rows = store.kv_scan(SPACE, &[]).await?;
        let read = move || {
            let mut index = Index::default();
            for (at, value) in rows {
                let row = TailRow::decode(&value).map_err(FeedError::from);
                let read = place(&at).map(|(volume, writer)| {
                    let row = row?;
                    let tail = row.tail(volume, writer)?;
                    Ok::<_, FeedError>(((volume, writer), row, tail))
                });
                match read {
                    Some(Ok((place, row, tail))) => index.insert(
                        place,
                        Entry {
                            tail,
                            from: row.from,
                            touched_ms: row.touched_ms,
                            first_run: row.first_run,
                            next_run: row.next_run,
                            bytes: row.bytes,
                        },
                    ),
                    // A later version of this program may read it.
                    Some(Err(error)) => tracing::warn!("cannot read the end of a feed: {error}"),
                    None => tracing::warn!("the end of a feed is kept under another name"),
                }
            }
            index
        };
        let index = pools.cpu.run(read).await;
        Ok(Tails(Arc::new(Inner {
            store,
            pools,
            clock,
            index: Mutex::new(index),
            writing: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            slots: Semaphore::new(SLOTS),
            questions: Semaphore::new(QUESTIONS),
        })))
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is said to a message; none to one that asks for nothing, or is none. `offers`: whether anything is kept for
    /// others.
    ///
    /// # Errors
    /// If the store fails, or too many others are asking.
    pub(in crate::blocks) async fn answer(
        &self,
        from: PeerId,
        body: Bytes,
        offers: bool,
    ) -> Result<Option<Keeping>, AnswerError> {
        // Whoever waited here would hold up requests of another kind.
        let slots = match Keeping::brings(&body) {
            true => &self.0.slots,
            false => &self.0.questions,
        };
        let _slot = slots.try_acquire().map_err(|_| AnswerError::Busy)?;
        let read = self.0.pools.cpu.run(move || Keeping::decode(&body)).await;
        match read {
            Ok(Keeping::Keep {
                volume,
                writer,
                covered,
                deltas,
            }) if offers => {
                let brought = Brought {
                    volume,
                    writer,
                    covered,
                    deltas,
                };
                let tails = self.clone();
                // Rows that are written and not in the index would be written again.
                let work = tokio::spawn(async move { tails.keep(from, brought).await });
                let kept = work.await.unwrap_or(Err(StoreError::Closed))?;
                Ok(Some(Keeping::Kept(Box::new(kept))))
            }
            Ok(message) => Ok(self.tell(message).await?),
            Err(error) => {
                tracing::warn!(from = %from.short(), "a message about kept feeds was refused: {error}");
                Ok(None)
            }
        }
    }

    /// What is said to a question.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) async fn tell(&self, message: Keeping) -> Result<Option<Keeping>, StoreError> {
        match message {
            Keeping::Ask { volume } => Ok(Some(self.list(volume))),
            Keeping::Want {
                volume,
                writer,
                after,
                limit_bytes,
            } => {
                let limit = (limit_bytes as usize).min(DELTAS_MAX_BYTES);
                let deltas = self.deltas(volume, writer, after, limit).await?;
                Ok(Some(Keeping::Given {
                    volume,
                    writer,
                    deltas,
                }))
            }
            _ => Ok(None),
        }
    }

    fn list(&self, volume: VolumeId) -> Keeping {
        let index = self.index();
        let ends = index.volume(volume).filter_map(|entry| {
            let (last, hash) = entry.tail.end()?;
            Some(TailEnd {
                writer: entry.tail.writer(),
                start: entry.tail.start(),
                last,
                hash,
            })
        });
        Keeping::Tails {
            volume,
            tails: ends.take(TAILS_PER_VOLUME_MAX).collect(),
        }
    }

    /// Deltas of a feed that follow a dot: as many as take up so many bytes, but one at least if there is any.
    async fn deltas(
        &self,
        volume: VolumeId,
        writer: WriterId,
        after: u64,
        limit_bytes: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let Some(entry) = self.index().get(&(volume, writer)).cloned() else {
            return Ok(Vec::new());
        };
        let after = after.max(entry.tail.start());
        let (mut low, mut high) = (entry.first_run, entry.next_run);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.run(&volume, &writer, middle).await? {
                Some(run) if run.last > after => high = middle,
                Some(_) => low = middle + 1,
                None => return Ok(Vec::new()),
            }
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut parts = Vec::new();
        for number in low..entry.next_run {
            // It is another tail by now, or its rows are damaged.
            let Some(run) = self.run(&volume, &writer, number).await? else {
                break;
            };
            let is_whole = run.part + 1 == run.parts;
            parts.push(run);
            if !is_whole {
                continue;
            }
            let Ok(deltas) = RunRow::unpack(&std::mem::take(&mut parts)) else {
                break;
            };
            for (_, delta) in deltas.into_iter().filter(|(last, _)| *last > after) {
                // The head of a byte string takes five at most.
                bytes += delta.len() + 5;
                if bytes > limit_bytes && !found.is_empty() {
                    return Ok(found);
                }
                found.push(delta);
            }
        }
        Ok(found)
    }

    async fn run(
        &self,
        volume: &VolumeId,
        writer: &WriterId,
        number: u64,
    ) -> Result<Option<RunRow>, StoreError> {
        let key = run_key(volume, writer, number);
        let row = self.0.store.kv_get(RUNS, &key).await?;
        Ok(row.and_then(|row| RunRow::decode(&row).ok()))
    }

    fn most(&self) -> Most {
        Most::of_quota(self.0.store.usage().quota)
    }

    /// For who changes rows of a volume.
    async fn lock(&self, volume: &VolumeId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let [first, ..] = volume.0;
        let lock = self.0.writing.get(usize::from(first) % LOCKS)?;
        Some(lock.lock().await)
    }

    /// Checks deltas and keeps those that follow, durably. How far the feed is kept then.
    async fn keep(&self, from: PeerId, brought: Brought) -> Result<Kept, StoreError> {
        let at = (brought.volume, brought.writer);
        let now_ms = self.0.clock.now_ms();
        let deltas = brought.deltas;
        let room = self.index().room(at, from, self.most());
        // No signatures are checked for what there is no room for.
        let may_add = room.is_some_and(|room| room > 0);
        let has_no_room = !may_add && !deltas.is_empty();
        let (sealed, has_bad) = match may_add {
            true => self.0.pools.cpu.run(move || read_all(&deltas)).await,
            false => (Vec::new(), false),
        };
        let _writing = self.lock(&brought.volume).await;
        let known = self.index().get(&at).cloned();
        let is_known = known.is_some();
        let mut entry = known.unwrap_or_else(|| Entry::new(at, from, now_ms));
        let mut verdict = TailVerdict::Kept;
        let mut is_changed = false;
        let has_place = self.index().room(at, from, self.most()).is_some();
        // What makes less of what is kept is heard however much that is. Where deltas go that the word may not follow, it
        // has to come from the writer, which looked at them before.
        let may_go = |word: &Signed<Covered>| {
            from == word.writer.peer || entry.tail.head().is_none_or(|head| word.upto <= head.last)
        };
        if let Some(word) = brought.covered.filter(may_go)
            && (has_place || is_known)
        {
            match self.cover(&mut entry, word, is_known).await? {
                Cover::Older => {}
                Cover::Part | Cover::All => is_changed = is_known,
                Cover::Forked => verdict = TailVerdict::Forked,
            }
        }
        let mut fresh: Vec<SealedDelta> = Vec::new();
        let mut tail = entry.tail.clone();
        if verdict == TailVerdict::Kept {
            for delta in sealed {
                let is_too_long = delta.len_bytes() > ROW_GROUP_MAX_BYTES;
                verdict = match tail.check(delta.link()) {
                    Ok(Fit::Known) => continue,
                    Ok(Fit::Next) if !is_too_long => match tail.append(delta.link().clone()) {
                        Ok(()) => {
                            fresh.push(delta);
                            continue;
                        }
                        Err(_) => TailVerdict::Refused,
                    },
                    Ok(Fit::Gap) => TailVerdict::Gap,
                    Ok(Fit::Forked) => TailVerdict::Forked,
                    Ok(Fit::Next) | Err(_) => TailVerdict::Refused,
                };
                break;
            }
            if verdict == TailVerdict::Kept && has_bad {
                verdict = TailVerdict::Refused;
            }
        }
        if verdict == TailVerdict::Forked {
            tracing::warn!(
                volume = %brought.volume,
                writer = ?brought.writer,
                from = %from.short(),
                "two feeds go by one name; the one that came first is kept"
            );
        }
        if is_changed {
            // What a checkpoint makes up for has given its room back.
            self.index().insert(at, entry.clone());
        }
        let wanted = fresh.len();
        self.leave_out(&mut fresh, at, from);
        if has_no_room || fresh.len() < wanted {
            verdict = TailVerdict::Full;
        }
        if from == brought.writer.peer {
            is_changed |= now_ms.saturating_sub(entry.touched_ms) > NOTE_MS;
        }
        let payer = self.index().payer(at, from, self.most());
        is_changed |= entry.from != payer;
        entry.from = payer;
        if is_known && is_changed || !fresh.is_empty() {
            entry.touched_ms = now_ms;
            match self.add(at, &mut entry, &fresh).await {
                Ok(()) => self.index().insert(at, entry.clone()),
                // It is as it was.
                Err(error) if error.class() == Class::Full => verdict = TailVerdict::Full,
                Err(error) => return Err(error),
            }
        }
        Ok(Kept {
            tail: entry.tail,
            bytes: entry.bytes,
            verdict,
        })
    }

    /// Leaves those out for which there is no room.
    fn leave_out(&self, fresh: &mut Vec<SealedDelta>, at: Place, from: PeerId) {
        let room = self.index().room(at, from, self.most()).unwrap_or(0);
        // Rows take some times as much on the disk while they are new, and what is left is for shards too.
        let room = room.min(self.0.store.usage().intake_left / 4);
        let mut bytes = 0;
        let fits = fresh.iter().take_while(|delta| {
            bytes += cost(delta);
            bytes <= room
        });
        let count = fits.count();
        fresh.truncate(count);
    }

    /// Adds deltas that follow to what is kept, durably, and the row that says so; no deltas: only that.
    async fn add(
        &self,
        (volume, writer): Place,
        entry: &mut Entry,
        fresh: &[SealedDelta],
    ) -> Result<(), StoreError> {
        let runs = RunRow::pack(
            fresh
                .iter()
                .map(|delta| (delta.link().last, Bytes::from(delta.encode()))),
        );
        let mut batch: Vec<Change> = Vec::new();
        let mut size = 0;
        let mut next = entry.next_run;
        for run in runs {
            let value = Bytes::from(run.encode());
            if size + value.len() > BATCH_BYTES {
                // Nobody looks behind the last run that the row of the feed names.
                self.0.store.kv_put(std::mem::take(&mut batch)).await?;
                size = 0;
            }
            size += value.len();
            let key = run_key(&volume, &writer, next);
            batch.push((RUNS.to_owned(), key, Some(value)));
            next += 1;
        }
        let mut tail = entry.tail.clone();
        for delta in fresh {
            if tail.append(delta.link().clone()).is_err() {
                tracing::error!("a delta that does not follow was about to be kept");
                return Err(StoreError::Closed);
            }
        }
        let grown = Entry {
            tail,
            next_run: next,
            bytes: entry.bytes + fresh.iter().map(cost).sum::<u64>(),
            ..entry.clone()
        };
        batch.push(state_row(&grown));
        self.0.store.kv_put(batch).await?;
        *entry = grown;
        Ok(())
    }

    /// Takes the writer's word about a checkpoint: what is before goes, here and from the disk.
    async fn cover(
        &self,
        entry: &mut Entry,
        word: Signed<Covered>,
        is_known: bool,
    ) -> Result<Cover, StoreError> {
        let at = (entry.tail.volume(), entry.tail.writer());
        let is_inside = word.upto > entry.tail.start() && word.upto < entry.tail.last();
        let rows = match is_inside {
            true => self.0.store.kv_scan(RUNS, &key(&at.0, &at.1)).await?,
            false => Vec::new(),
        };
        let upto = word.upto;
        let numbers = entry.first_run..entry.next_run;
        let looked = move || look_for(rows, numbers, upto);
        let found = self.0.pools.cpu.run(looked).await;
        let mut tail = entry.tail.clone();
        let cover = tail.cover(word, found.ends_at).unwrap_or(Cover::Older);
        match cover {
            Cover::Older | Cover::Forked => return Ok(cover),
            Cover::Part => {
                entry.bytes = found.bytes.min(entry.bytes);
                entry.first_run = found.first_run;
            }
            Cover::All => {
                entry.bytes = 0;
                entry.first_run = entry.next_run;
            }
        }
        entry.tail = tail;
        // Of a feed of which nothing is kept the word alone is of no use.
        if is_known {
            self.0.store.kv_free(vec![state_row(entry)]).await?;
            self.remove_runs(at, Some(entry.first_run)).await?;
        }
        Ok(cover)
    }

    /// Removes the runs of a feed before this one; if none, all that there is of it.
    async fn remove_runs(&self, at: Place, before: Option<u64>) -> Result<(), StoreError> {
        let rows = self.0.store.kv_scan(RUNS, &key(&at.0, &at.1)).await?;
        let goes = |key: &[u8]| {
            let number = run_number(key);
            before.is_none_or(|before| number.is_some_and(|number| number < before))
        };
        let runs = rows.into_iter().filter(|(key, _)| goes(key));
        let runs = runs.map(|(key, _)| (RUNS.to_owned(), key, None));
        // No row is to say that there are runs which are gone.
        let row = before
            .is_none()
            .then(|| (SPACE.to_owned(), key(&at.0, &at.1), None));
        let gone: Vec<Change> = row.into_iter().chain(runs).collect();
        for some in gone.chunks(REMOVED) {
            self.0.store.kv_put(some.to_vec()).await?;
        }
        Ok(())
    }

    /// Lets go of what nobody added to for long. How many feeds that were.
    pub(super) async fn let_go(&self) -> Result<usize, StoreError> {
        let limit_ms = self.0.clock.now_ms().saturating_sub(AGE_MS);
        let old = self.index().untouched_since(limit_ms);
        let mut gone = 0;
        for at in old {
            let _writing = self.lock(&at.0).await;
            let touched_ms = self.index().get(&at).map(|entry| entry.touched_ms);
            if touched_ms.is_none_or(|touched_ms| touched_ms >= limit_ms) {
                continue;
            }
            self.remove_runs(at, None).await?;
            self.index().remove(&at);
            gone += 1;
        }
        Ok(gone)
    }
}

fn cost(delta: &SealedDelta) -> u64 {
    delta.len_bytes() as u64 + DELTA_COST
}

fn state_row(entry: &Entry) -> Change {
    let (tail, at) = (&entry.tail, key(&entry.tail.volume(), &entry.tail.writer()));
    let row = TailRow {
        from: entry.from,
        touched_ms: entry.touched_ms,
        covered: tail.covered().map(|word| word.encode().into()),
        head: tail.head().map(|link| link.encode().into()),
        first_run: entry.first_run,
        next_run: entry.next_run,
        bytes: entry.bytes,
    };
    (SPACE.to_owned(), at, Some(row.encode().into()))
}

/// Reads deltas up to the first that is none. Whether there was one.
fn read_all(deltas: &[Bytes]) -> (Vec<SealedDelta>, bool) {
    let mut sealed = Vec::with_capacity(deltas.len());
    for bytes in deltas {
        match SealedDelta::decode(bytes) {
            Ok(delta) => sealed.push(delta),
            Err(_) => return (sealed, true),
        }
    }
    (sealed, false)
}

/// What is found of a dot among the runs of a feed.
struct Inside {
    /// The delta that ends there.
    ends_at: Option<crate::feeds::LinkHash>,
    /// The first run that has anything behind it, and the bytes from there on.
    first_run: u64,
    bytes: u64,
}

fn look_for(rows: Vec<(Vec<u8>, Bytes)>, numbers: std::ops::Range<u64>, upto: u64) -> Inside {
    let mut inside = Inside {
        ends_at: None,
        first_run: numbers.end,
        bytes: 0,
    };
    let mut parts = Vec::new();
    for (key, value) in rows {
        let number = run_number(&key).filter(|number| numbers.contains(number));
        let Some((number, run)) = number.zip(RunRow::decode(&value).ok()) else {
            continue;
        };
        if run.last > upto {
            inside.first_run = inside.first_run.min(number);
        }
        let is_whole = run.part + 1 == run.parts;
        parts.push(run);
        if !is_whole {
            continue;
        }
        let deltas = RunRow::unpack(&std::mem::take(&mut parts)).unwrap_or_default();
        for (last, delta) in deltas {
            if last == upto {
                inside.ends_at = SealedDelta::decode(&delta).ok().map(|delta| delta.hash());
            } else if last > upto {
                inside.bytes += delta.len() as u64 + DELTA_COST;
            }
        }
    }
    inside
}
