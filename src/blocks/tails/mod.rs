//! Tails: the sealed ends of the feeds of volumes, kept by peers that have no key, so that what a machine wrote last
//! outlives the machine.
//!
//! Their place are the members at which the volume's [pointers](super::pointers) are. Any member of the network may bring
//! any tail: whose a delta is its signature shows, and who is a member of the volume only its readers know.

mod index;
mod kept;
mod row;
mod worker;

pub(super) use kept::{AnswerError, Tails};
pub use row::{RunRow, TailRow};
pub use worker::TailKeeper;

use super::Blocks;
use crate::base::{PeerId, VolumeId};
use crate::feeds::Keeping;

/// Other peers that may keep the ends of a volume's feeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailPlaces {
    /// Those that should, and can be asked now, closest first.
    pub holders: Vec<PeerId>,
    /// The next ones, and those that are away.
    pub others: Vec<PeerId>,
}

impl Blocks {
    /// Where the ends of a volume's feeds belong. Looks up members in a large network.
    pub async fn tail_places(&self, volume: VolumeId) -> TailPlaces {
        let place = self.place(volume).await;
        TailPlaces {
            holders: place.holders(),
            others: place.others(),
        }
    }

    /// What this peer itself says to a question about feeds that it keeps; none if nothing can be said.
    pub async fn tails_here(&self, question: Keeping) -> Option<Keeping> {
        match self.tails.tell(question).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("reading the ends of feeds that are kept here: {error}");
                None
            }
        }
    }
}
