//! All rows of a volume as they were at one moment, for those who read for a long time while it goes on.
//!
//! The changes in memory are shared with the volume until it changes them; the commit of the tables that
//! they lie on is held by the database, which meanwhile does not use the pages again that later commits replace:
//! the tables grow by what is changed, and shrink after it is dropped.

use std::ops::Bound;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::error::VolumeError;
use super::group::Space;
use super::handle::{Order, Page, Volume, full, page, span};
use super::overlay::{Changed, Layers};
use super::shared::Shared;
use crate::base::VolumeId;
use crate::base::limits::ROW_PAGE_MAX;
use crate::store::database::{DatabaseError, Snapshot};

/// The rows of a volume at one moment. Cheap to clone. Does not keep the volume open: after it was closed, or its
/// tables were opened anew because they met an error, reading says so.
#[derive(Debug, Clone)]
pub struct VolumeSnapshot(Arc<Moment>);

#[derive(Debug)]
struct Moment {
    id: VolumeId,
    shared: Weak<Shared>,
    /// Of the tables: those opened later may write where this commit is.
    generation: u64,
    old: Option<Arc<Changed>>,
    young: Arc<Changed>,
    /// None if they did not answer then.
    tables: Option<Arc<Snapshot>>,
}

impl Volume {
    /// All rows as they are at this moment: every group that was applied, and nothing of later ones. Waits for no
    /// disk; the next change copies what waits to be written to the tables.
    pub fn snapshot(&self) -> VolumeSnapshot {
        let shared = self.shared();
        let open = shared.tables();
        let state = shared.state();
        let moment = Moment {
            id: shared.id,
            shared: Arc::downgrade(shared),
            generation: shared.generation(),
            old: state.old.as_ref().map(|old| Arc::clone(&old.rows)),
            young: Arc::clone(&state.young.rows),
            tables: state.snapshot.clone(),
        };
        drop(state);
        drop(open);
        VolumeSnapshot(Arc::new(moment))
    }
}

impl VolumeSnapshot {
    /// The value of a row.
    ///
    /// # Errors
    /// As [`Volume::get`]; `Lapsed` and `Closed` if it is not kept any more.
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, VolumeError> {
        let key = full(space, key);
        self.look(|moment, tables| {
            let view = moment.layers().view_of(std::iter::once(key.as_slice()));
            match view.changes.into_values().next() {
                Some(changed) => Ok(changed),
                None => tables.get(&key, |value| Some(Bytes::copy_from_slice(value))),
            }
        })
    }

    /// Rows between two bounds of a space, as [`Volume::scan`] answers them.
    ///
    /// # Errors
    /// As [`VolumeSnapshot::get`].
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
        let from = from.as_ref().map(Vec::as_slice);
        let to = to.as_ref().map(Vec::as_slice);
        self.look(|moment, tables| {
            let view = moment.layers().view(from, to, limit, is_reversed);
            page(view, tables, from, to, is_reversed, limit)
        })
    }

    fn look<T>(
        &self,
        answer: impl FnOnce(&Moment, &Snapshot) -> Result<T, DatabaseError>,
    ) -> Result<T, VolumeError> {
        let moment = &*self.0;
        let shared = moment.shared.upgrade().ok_or(VolumeError::Closed)?;
        // The tables are not closed or opened anew meanwhile.
        let open = shared.tables();
        if shared.is_over() {
            return Err(VolumeError::Closed);
        }
        let tables = moment.tables.as_ref();
        let tables = tables.filter(|_| shared.generation() == moment.generation);
        let answered = tables.map(|tables| answer(moment, tables));
        drop(open);
        match answered {
            Some(Err(DatabaseError::Stale)) | None => {
                // So that the next one is of tables that answer.
                shared
                    .reopen_tables(moment.generation)
                    .map_err(VolumeError::database(moment.id))?;
                Err(VolumeError::Lapsed)
            }
            Some(answered) => answered.map_err(VolumeError::database(moment.id)),
        }
    }
}

impl Moment {
    fn layers(&self) -> Layers<'_> {
        Layers {
            old: self.old.as_deref(),
            young: &self.young,
        }
    }
}
