//! What the writer does after the tables were brought up to date: segments that nothing needs are removed,
//! and dirty data in segments that are mostly dead is carried forward, so that the journal stays below two
//! times what it keeps and a constant.

use std::sync::Arc;

use super::group::{DirtyId, MOVES_MAX};
use super::journal::{Engine, Fail, Flushed, journal_name};
use super::overlay::{Dirty, Layer, Place};
use crate::store::database::DatabaseError;
use crate::store::disk::is_full;
use crate::store::frame::record_max;

impl Engine {
    /// Takes note of what became of a flush.
    pub(super) fn flushed(&mut self, flushed: Flushed) {
        let shared = Arc::clone(&self.shared);
        let Flushed { flush, outcome } = flushed;
        match outcome {
            Ok(snapshot) => {
                self.checkpoint = flush.checkpoint;
                let (old, before);
                {
                    let mut state = shared.state_mut();
                    old = state.old.take();
                    before = state.snapshot.replace(Arc::new(snapshot));
                }
                // Large, and nobody has to wait for it to be given back.
                drop::<(Option<Arc<Layer>>, _)>((old, before));
                drop(flush);
                self.give_back_filled();
                self.tidy();
                shared.tell(|progress| progress.flushes += 1);
            }
            Err(error) => {
                let shown = error.to_string();
                let is_full = matches!(&error, DatabaseError::Io(error) if is_full(error));
                // Places that changed since then are later ones.
                for (id, place) in flush.dirty {
                    self.changed.entry(id).or_insert(place);
                }
                drop(flush.rows);
                shared.state_mut().thaw();
                self.tail_bytes = self.tail_bytes.max(1);
                if is_full {
                    // They are opened anew when it is tried again.
                    shared.tell(|progress| progress.stalls += 1);
                } else {
                    shared.poison(format!("bringing the tables up to date: {shown}"));
                }
            }
        }
        self.count();
    }

    /// What was filled ahead of records that may not come so soon.
    pub(super) fn give_back_filled(&mut self) {
        self.small_run = 0;
        if let Err(error) = self.trim() {
            // It is written over, or cut off at the next opening.
            tracing::debug!("the end of a journal stays filled: {error}");
        }
    }

    /// Removes segments that nothing needs, and carries dirty data forward.
    pub(super) fn tidy(&mut self) {
        self.remove_dead();
        self.has_more_to_carry = false;
        match self.carry() {
            Ok(has_more) => {
                self.has_more_to_carry = has_more;
                self.remove_dead();
            }
            // There will be room, or the data is released.
            Err(Fail::Full) => {}
            Err(Fail::Broken(why)) => self.shared.poison(why),
        }
        self.count();
    }

    /// Whether a segment is written no longer and the tables have what it says.
    fn is_settled(&self, id: u32) -> bool {
        id < self.active && id < self.checkpoint.at.segment
    }

    fn remove_dead(&mut self) {
        let dead: Vec<u32> = self
            .segments
            .iter()
            .filter(|(id, segment)| segment.live == 0 && self.is_settled(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            // What stays is found, and removed, when the volume is opened.
            match self.shared.disk.remove(&journal_name(self.shared.id, id)) {
                Ok(()) => drop(self.segments.remove(&id)),
                Err(error) => tracing::warn!(segment = id, "removing a segment: {error}"),
            }
        }
    }

    /// Writes the dirty data of the emptiest settled segments again, as much as is allowed at once.
    /// Answers whether there is more.
    fn carry(&mut self) -> Result<bool, Fail> {
        let mut has_more = false;
        let mut budget = self.shared.options.carry_bytes;
        let sparse: Vec<u32> = self
            .segments
            .iter()
            .filter(|(id, segment)| {
                self.is_settled(**id)
                    && segment.live > 0
                    && segment.live * 2 < u64::from(segment.len)
            })
            .map(|(id, _)| *id)
            .collect();
        let mut victims: Vec<(DirtyId, Arc<Place>)> = self
            .places
            .iter()
            .filter(|(_, place)| sparse.contains(&place.at.segment))
            .map(|(id, place)| (*id, Arc::clone(place)))
            .collect();
        victims.sort_by_key(|(_, place)| place.at);
        let mut moves = Vec::new();
        let mut batch = self.begin();
        for (id, place) in victims {
            let cost = record_max(place.sums.len() + 8, place.len as usize) as u64;
            if cost > budget && budget < self.shared.options.carry_bytes {
                has_more = true;
                break;
            }
            if self.shared.ledger.room_to_move() < cost {
                return Err(Fail::Full);
            }
            budget = budget.saturating_sub(cost);
            let Some(file) = &place.file else { continue };
            let at = u64::from(place.at.offset) + u64::from(place.data_at);
            let bytes = match file.read_bytes(at, place.len as usize) {
                Ok(bytes) if bytes.len() == place.len as usize => bytes,
                // It stays where it is, and whoever reads it hears of it.
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(segment = place.at.segment, "carrying dirty data: {error}");
                    continue;
                }
            };
            // The sums go with it: what is damaged stays known as that.
            let sums = Arc::clone(&place.sums);
            let to = self.emit_dirty(&mut batch, id, sums, bytes)?;
            moves.push((id, place.at, Arc::new(to)));
            if moves.len() == MOVES_MAX {
                self.emit_moves(&mut batch, &moves)?;
                self.write(&mut batch)?;
                self.publish_moves(&std::mem::take(&mut moves));
            }
        }
        self.emit_moves(&mut batch, &moves)?;
        self.write(&mut batch)?;
        self.publish_moves(&moves);
        Ok(has_more)
    }

    fn publish_moves(&self, moves: &[(DirtyId, crate::store::frame::Position, Arc<Place>)]) {
        let mut state = self.shared.state_mut();
        for (id, from, to) in moves {
            if let Some(dirty) = state.dirty.get_mut(id)
                && matches!(dirty, Dirty::Disk(place) if place.at == *from)
            {
                *dirty = Dirty::Disk(Arc::clone(to));
            }
        }
    }
}
