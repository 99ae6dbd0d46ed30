//! Who else may name what this device placed: everybody who may write.

use std::collections::BTreeSet;

use super::{Rights, Shared};
use crate::base::PeerId;
use crate::feeds::{Part, VOTERS_ROW};
use crate::namespace::StateError;
use crate::vfs::inner::Inner;

impl crate::vfs::Vfs {
    /// All devices but this one that may write to the volume, or wrote to it, and were not revoked. Reads tables.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn other_writers(&self) -> Result<BTreeSet<PeerId>, crate::vfs::VfsError> {
        match self.0.shared() {
            Some(shared) => Ok(self.0.writers_besides(shared)?),
            None => Ok(BTreeSet::new()),
        }
    }
}

impl Inner {
    fn writers_besides(&self, shared: &Shared) -> Result<BTreeSet<PeerId>, StateError> {
        let feeds: Vec<PeerId> = {
            let feeds = shared.feeds();
            feeds.known.keys().map(|writer| writer.peer).collect()
        };
        let rows = {
            let _core = self.core();
            let rows = self.rows();
            crate::namespace::View::new(&rows)?.members()?
        };
        let own = self.identity.peer;
        let may_write = |(device, proofs): &(PeerId, Vec<bytes::Bytes>)| {
            proofs
                .iter()
                .any(|proof| matches!((shared.share.admit)(*device, proof), Ok(Rights::Write)))
        };
        let rows = rows.into_iter().filter(|(device, _)| *device != VOTERS_ROW);
        let mut writers: BTreeSet<PeerId> = rows.filter(may_write).map(|(of, _)| of).collect();
        writers.extend(feeds);
        if let Some(book) = shared.book() {
            // What is no row yet others may not know, and take what somebody wrote who was revoked.
            let is_all_said = shared.pending(&book).is_empty();
            let known = book.standing.devices().copied();
            writers.extend(known.filter(|of| book.standing.part(of) == Part::Writer));
            let is_gone = |of: &PeerId| {
                let part = book.standing.part(of);
                is_all_said && matches!(part, Part::Revoked { .. } | Part::Late { .. })
            };
            writers.retain(|of| !is_gone(of));
        }
        writers.remove(&own);
        Ok(writers)
    }
}
