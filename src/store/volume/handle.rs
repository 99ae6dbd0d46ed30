//! A volume's engine as other layers see it.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::error::VolumeError;
use super::group::{DirtyId, Group, PIECE_BYTES, Seq, Space, pieces_are_sound};
use super::overlay::{Dirty, Place, State, View, is_before};
use super::shared::{Progress, Shared, VolumeUsage};
use super::turn::Turn;
use crate::base::VolumeId;
use crate::base::limits::ROW_PAGE_MAX;
use crate::store::database::{DatabaseError, Snapshot};

/// So many bytes of journal are written at once by who syncs on a thread that others wait for.
const HERE_BYTES: usize = 256 << 10;

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The least key first.
    Ascending,
    /// The greatest key first.
    Descending,
}

/// Rows of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in order. There may be none although more follow.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The key behind which to go on; `None`: that was all.
    pub next: Option<Bytes>,
}

/// An open volume. Cheap to clone; the last clone dropped ends it in the background.
///
/// Calls that are not async wait for no writer. Those that read may wait for the disk; applying never does.
#[derive(Debug, Clone)]
pub struct Volume(Arc<Handle>);

/// Tells the writer when nobody is left.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// The writer's, as long as there is one.
    engine: Weak<Turn>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.wishes.close.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Volume {
    pub(super) fn new(shared: Arc<Shared>, engine: Weak<Turn>) -> Self {
        Volume(Arc::new(Handle { shared, engine }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.shared().id
    }

    /// Applies a group: visible to every reader from now on, durable after the commit interval or after
    /// [`Volume::sync`]. Waits for no disk.
    ///
    /// # Errors
    /// `Full` if there is no room for it; `Busy` if too much waits to be written (wait for
    /// [`Volume::room`] and try again); `DirtyExists`, `DirtyUnknown` and `TooLarge` as they say. After an
    /// error nothing has changed.
    pub fn apply(&self, group: &Group) -> Result<Seq, VolumeError> {
        self.shared().apply(group)
    }

    /// Waits until there is room for more groups.
    ///
    /// # Errors
    /// `Full` if the disk has no room for what waits already.
    pub async fn room(&self) -> Result<(), VolumeError> {
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let failures = |now: &Progress| (now.fulls, now.stalls);
        let begun = failures(&progress.borrow_and_update());
        while !shared.has_room() {
            shared.check_open()?;
            if failures(&progress.borrow_and_update()) != begun {
                return Err(shared.full());
            }
            let applied = shared.state().next_seq - 1;
            shared.wishes.sync.fetch_max(applied, Ordering::AcqRel);
            shared.wake.notify_one();
            progress.changed().await.map_err(|_| VolumeError::Closed)?;
        }
        shared.check_open()
    }

    /// Waits until a group, and all before it, are durable. Cancel safe; many share one write.
    ///
    /// # Errors
    /// `Full` if the disk has no room (the group stays applied, and a later try may succeed); `Poisoned` if
    /// what is on the disk is unknown.
    pub async fn sync(&self, seq: Seq) -> Result<(), VolumeError> {
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let fulls = progress.borrow().fulls;
        shared.wishes.sync.fetch_max(seq.0, Ordering::AcqRel);
        let mut is_told = false;
        loop {
            let now = *progress.borrow_and_update();
            if now.synced >= seq {
                return Ok(());
            }
            if let Some(poisoned) = shared.poisoned() {
                return Err(poisoned);
            }
            if now.fulls != fulls {
                return Err(shared.full());
            }
            if now.is_over || seq.0 >= shared.state().next_seq {
                return Err(VolumeError::Closed);
            }
            if !is_told {
                shared.wake.notify_one();
                is_told = true;
            }
            progress.changed().await.map_err(|_| VolumeError::Closed)?;
        }
    }

    /// Whether groups are still taken: not after a sync failed, until it is opened again.
    pub fn takes_writes(&self) -> bool {
        !self.shared().is_poisoned()
    }

    /// Waits until everything that was applied before is durable.
    ///
    /// # Errors
    /// As [`Volume::sync`].
    pub async fn sync_all(&self) -> Result<(), VolumeError> {
        let last = self.shared().state().next_seq - 1;
        self.sync(Seq(last)).await
    }

    /// The same at once, on this thread, if nobody else is writing and there is little to write: that saves waking
    /// the writer and being woken by it. Waits for the disk. False if [`Volume::sync_all`] is to be asked.
    pub fn sync_here(&self) -> bool {
        let shared = self.shared();
        let (last, unwritten) = {
            let state = shared.state();
            (Seq(state.next_seq - 1), state.unwritten)
        };
        if shared.progress.borrow().synced >= last {
            return true;
        }
        if unwritten > HERE_BYTES {
            return false;
        }
        let Some(turn) = self.0.engine.upgrade() else {
            return false;
        };
        let Some(mut engine) = turn.try_lock() else {
            return false;
        };
        if shared.check_open().is_err() || shared.is_over() {
            return false;
        }
        engine.commit(false);
        turn.looked_at(&engine);
        engine.last >= last
    }

    /// Brings the tables up to date with everything that was applied before.
    ///
    /// # Errors
    /// As [`Volume::sync`].
    pub async fn flush(&self) -> Result<(), VolumeError> {
        self.sync_all().await?;
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let begun = *progress.borrow_and_update();
        // One may be under way that began before.
        let wanted = begun.flushes + 1 + u64::from(shared.state().old.is_some());
        loop {
            let now = *progress.borrow_and_update();
            if now.flushes >= wanted {
                return Ok(());
            }
            shared.check_open()?;
            if (now.fulls, now.stalls) != (begun.fulls, begun.stalls) {
                return Err(shared.full());
            }
            shared.wishes.flush.store(true, Ordering::Release);
            shared.wake.notify_one();
            progress.changed().await.map_err(|_| VolumeError::Closed)?;
        }
    }

    /// The value of a row.
    ///
    /// # Errors
    /// `Corrupt` if what is stored does not verify: never a wrong value, nor none where there is one.
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, VolumeError> {
        let found = self.get_all(&[(space, key)])?;
        Ok(found.into_iter().next().flatten())
    }

    /// The values of several rows at one moment, in their order.
    ///
    /// # Errors
    /// As [`Volume::get`].
    pub fn get_all(&self, rows: &[(Space, &[u8])]) -> Result<Vec<Option<Bytes>>, VolumeError> {
        let keys: Vec<Vec<u8>> = rows.iter().map(|(space, key)| full(*space, key)).collect();
        let shared = self.shared();
        let view = |state: &State| state.view_of(keys.iter().map(Vec::as_slice));
        shared.look(view, |view, snapshot| {
            let look = |key: &Vec<u8>| match view.changes.get(key.as_slice()) {
                Some(changed) => Ok(changed.clone()),
                None => snapshot.get(key, |value| Some(Bytes::copy_from_slice(value))),
            };
            keys.iter().map(look).collect()
        })
    }

    /// At most `limit` rows (and at most [`ROW_PAGE_MAX`]) of a space whose keys lie between two bounds, as
    /// they are at one moment: of each group that changed rows in the range of the page, the page has all or
    /// nothing.
    ///
    /// # Errors
    /// As [`Volume::get`].
    pub fn scan(
        &self,
        space: Space,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Page, VolumeError> {
        let limit = limit.clamp(1, ROW_PAGE_MAX);
        let is_reversed = order == Order::Descending;
        let Some((from, to)) = span(space, from, to) else {
            return Ok(Page::default());
        };
        let (from, to) = (
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
        );
        self.shared().look(
            |state| state.view(from, to, limit, is_reversed),
            |view, snapshot| page(view, snapshot, from, to, is_reversed, limit),
        )
    }

    /// At most `limit` pieces of dirty data from `from` on, with their lengths.
    pub fn dirty(&self, from: DirtyId, limit: usize) -> Vec<(DirtyId, u32)> {
        let state = self.shared().state();
        let pieces = state.dirty.range(from..).take(limit);
        pieces.map(|(id, dirty)| (*id, dirty.len())).collect()
    }

    /// Bytes of a piece of dirty data, verified; fewer at its end.
    ///
    /// # Errors
    /// `DirtyUnknown` if it was never kept, or was released; `Corrupt` if it does not verify.
    pub fn read_dirty(&self, id: DirtyId, offset: u32, len: u32) -> Result<Bytes, VolumeError> {
        let shared = self.shared();
        let dirty = shared.state().dirty.get(&id).cloned();
        let place = match dirty.ok_or(VolumeError::DirtyUnknown(id))? {
            Dirty::Memory(_, bytes) => {
                let end = offset.saturating_add(len).min(bytes.len() as u32);
                return Ok(bytes.slice(offset.min(end) as usize..end as usize));
            }
            Dirty::Disk(place) => place,
        };
        read_place(shared, id, &place, offset, len)
    }

    /// What it occupies and what waits. Does no I/O.
    pub fn usage(&self) -> VolumeUsage {
        let shared = self.shared();
        let state = shared.state();
        VolumeUsage {
            applied: Seq(state.next_seq - 1),
            synced: shared.progress.borrow().synced,
            waiting_rows: state.waiting_rows() as u64,
            unwritten: state.unwritten as u64,
            dirty: state.dirty_bytes,
            dirty_count: state.dirty.len() as u64,
            journal: shared.journal_bytes.load(Ordering::Relaxed),
            tables: shared.tables_bytes.load(Ordering::Relaxed),
            poisoned: shared.poisoned().is_some(),
        }
    }

    /// Ends it in good order: the next opening has nothing to replay. Other clones then answer `Closed`.
    ///
    /// # Errors
    /// `Poisoned` or `Full` if not everything could be written; what was synced is safe.
    pub async fn close(self) -> Result<(), VolumeError> {
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let begun = *progress.borrow();
        shared.wishes.close.store(true, Ordering::Release);
        shared.wake.notify_one();
        loop {
            let now = *progress.borrow_and_update();
            if now.is_over {
                break;
            }
            progress.changed().await.map_err(|_| VolumeError::Closed)?;
        }
        if let Some(poisoned) = shared.poisoned() {
            return Err(poisoned);
        }
        let now = *progress.borrow();
        if (now.fulls, now.stalls) != (begun.fulls, begun.stalls) {
            return Err(shared.full());
        }
        Ok(())
    }
}

/// A key with its space.
pub(super) fn full(space: Space, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(space.0);
    full.extend_from_slice(key);
    full
}

/// The keys between two bounds of a space, as keys with their space; none if there can be no such.
pub(super) fn span(space: Space, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Option<Span> {
    let from = match from {
        Bound::Unbounded => Bound::Included(vec![space.0]),
        bound => bound.map(|key| full(space, key)),
    };
    let to = match to {
        Bound::Unbounded => match space.0.checked_add(1) {
            Some(next) => Bound::Excluded(vec![next]),
            None => Bound::Unbounded,
        },
        bound => bound.map(|key| full(space, key)),
    };
    let is_nothing = is_nothing(
        from.as_ref().map(Vec::as_slice),
        to.as_ref().map(Vec::as_slice),
    );
    (!is_nothing).then_some((from, to))
}

type Span = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Whether no key can be between the bounds.
fn is_nothing(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
        _ => false,
    }
}

/// Puts the changes of a view on top of the rows in the tables.
pub(super) fn page(
    view: View,
    snapshot: &Snapshot,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    is_reversed: bool,
    limit: usize,
) -> Result<Page, DatabaseError> {
    let mut rows = view.changes;
    let mut bound = view.bound;
    let mut count = 0;
    snapshot.range(from, to, is_reversed, |key, value| {
        if bound
            .as_ref()
            .is_some_and(|bound| is_before(bound, key, is_reversed))
        {
            return Ok(false);
        }
        count += 1;
        let key = Bytes::copy_from_slice(key);
        if count == limit {
            bound = Some(key.clone());
        }
        rows.entry(key)
            .or_insert_with(|| Some(Bytes::copy_from_slice(value)));
        Ok(count < limit)
    })?;
    let mut page = Page::default();
    let mut take = |(key, value): (Bytes, Option<Bytes>)| {
        if page.rows.len() == limit {
            page.next = page.rows.last().map(|(key, _)| key.clone());
            return false;
        }
        let is_beyond = bound
            .as_ref()
            .is_some_and(|bound| is_before(bound, &key, is_reversed));
        if is_beyond {
            return false;
        }
        page.rows.extend(value.map(|value| (key, value)));
        true
    };
    let is_whole = if is_reversed {
        rows.into_iter().rev().all(&mut take)
    } else {
        rows.into_iter().all(&mut take)
    };
    if page.next.is_none() && (!is_whole || bound.is_some()) {
        page.next = bound;
    }
    // Callers know no spaces in keys.
    page.rows
        .iter_mut()
        .for_each(|(key, _)| *key = key.slice(1..));
    page.next = page.next.map(|key| key.slice(1..));
    Ok(page)
}

fn read_place(
    shared: &Shared,
    id: DirtyId,
    place: &Place,
    offset: u32,
    len: u32,
) -> Result<Bytes, VolumeError> {
    let corrupt = || VolumeError::Corrupt {
        id: shared.id,
        what: format!(
            "dirty data {} at byte {} of segment {} of its journal does not verify",
            id.0, place.at.offset, place.at.segment
        ),
    };
    let end = offset.saturating_add(len).min(place.len) as usize;
    let offset = (offset as usize).min(end);
    if offset == end {
        return Ok(Bytes::new());
    }
    let first = offset / PIECE_BYTES;
    let begin = first * PIECE_BYTES;
    let stop = end.next_multiple_of(PIECE_BYTES).min(place.len as usize);
    let file = place.file.as_ref().ok_or_else(corrupt)?;
    let at = u64::from(place.at.offset) + u64::from(place.data_at) + begin as u64;
    let bytes = file
        .read_bytes(at, stop - begin)
        .map_err(|error| VolumeError::Io(error.to_string()))?;
    let is_sound = bytes.len() == stop - begin
        && pieces_are_sound(&shared.key, id, &place.sums, first, &bytes);
    match is_sound {
        true => Ok(bytes.slice(offset - begin..end - begin)),
        false => Err(corrupt()),
    }
}
