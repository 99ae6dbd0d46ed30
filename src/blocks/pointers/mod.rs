//! Pointers: the signed records by which the writers of a volume say where their last checkpoints are.
//!
//! The place of a volume's records are the [`POINTER_HOLDERS`] members closest to a hash of its id. Whoever is there
//! keeps them, checks that each is its writer's and not older than what it has, and hands them to whoever asks. Any
//! member of the network may bring any record: who is a member of the volume only its readers know.

mod index;
mod kept;
mod row;
mod worker;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

pub(super) use kept::Kept;
pub use kept::PointerError;
pub use row::PointerRow;
pub use worker::PointerKeeper;

use self::row::Rank;
use super::Blocks;
use super::candidates::Ranked;
use crate::base::limits::{CANDIDATES, POINTER_HOLDERS, POINTERS_PER_VOLUME_MAX};
use crate::base::{PeerId, VolumeId};
use crate::feeds::Signed;
use crate::feeds::checkpoint::Record;
use crate::namespace::WriterId;
use crate::net::{NetError, Refusal, Request, Response};
use crate::placement::volume_key;

/// How long others are waited for after most of those that were asked have answered.
const GRACE: Duration = Duration::from_millis(500);

/// What was found of a volume.
#[derive(Debug, Clone, Default)]
pub struct FoundRecords {
    /// The newest record of each writer, ascending by writer. Their signatures are right; whether the writers are
    /// members of the volume, and when they are due, is for the reader to know.
    pub records: Vec<Signed<Record>>,
    /// Other peers that were asked.
    pub asked: usize,
    /// Those that answered, be it that they have nothing.
    pub answered: usize,
}

/// Where a volume's records belong.
pub(super) struct Place {
    ranked: Ranked,
    own: PeerId,
}

impl Place {
    /// Others that keep the records and can be asked now, closest first.
    pub(super) fn holders(&self) -> Vec<PeerId> {
        let holders = self.ranked.order.iter().take(POINTER_HOLDERS);
        let others = holders.filter(|peer| **peer != self.own && self.ranked.is_live(peer));
        others.copied().collect()
    }

    /// All others that may have the records: those that are away, and the next ones.
    pub(super) fn others(&self) -> Vec<PeerId> {
        let holders = self.holders();
        let others = self.ranked.order.iter();
        let others = others.filter(|peer| **peer != self.own && !holders.contains(peer));
        others.copied().collect()
    }

    /// Whether this peer is among those around the place.
    fn has_own(&self) -> bool {
        self.ranked.order.contains(&self.own)
    }
}

impl Blocks {
    /// Makes a record durable here and at as many of the others as can be reached that should keep it; how many
    /// peers have it, this one included. Those that cannot be reached now get it from [`PointerKeeper`] when they can.
    /// Takes a request's timeout at most. Cancel safe: what was begun may be done.
    ///
    /// # Errors
    /// If it is no record that could be kept: from the future, or older than one that this peer knows. Otherwise only
    /// if nobody has it.
    pub async fn publish_record(&self, record: &Signed<Record>) -> Result<usize, PointerError> {
        let (own, volume) = (self.net.own(), record.volume);
        let encoded = Bytes::from(record.encode());
        let trouble = match self.pointers.keep(own, encoded.clone()).await {
            Ok(_) => None,
            // The others may have room.
            Err(error @ (PointerError::Full | PointerError::Store(_))) => Some(error),
            Err(error) => return Err(error),
        };
        let holders = self.place(volume).await.holders();
        let mut told = Vec::new();
        let request = Request::Publish { record: encoded };
        self.ask_all(&holders, &request, |peer, answer| match answer {
            Ok(Response::Done) => told.push(peer),
            Ok(Response::Refused {
                reason: Refusal::Stale,
                ..
            }) => tracing::warn!(
                peer = %peer.short(),
                %volume,
                "a peer has a later checkpoint of this writer: is this device a copy of another?"
            ),
            Ok(Response::Refused {
                reason: Refusal::Invalid,
                ..
            }) => tracing::warn!(
                peer = %peer.short(),
                %volume,
                "a peer takes no checkpoint of this machine: does one of their clocks go wrong?"
            ),
            Ok(answer) => tracing::debug!(peer = %peer.short(), ?answer, "no checkpoint record"),
            Err(error) => tracing::debug!("no checkpoint record: {error}"),
        })
        .await;
        let count = told.len();
        let has_missed = count < holders.len();
        self.pointers.published(volume, told, has_missed);
        match trouble {
            None => Ok(count + 1),
            Some(error) if count == 0 => Err(error),
            Some(error) => {
                tracing::warn!("a checkpoint record is at other peers only: {error}");
                Ok(count)
            }
        }
    }

    /// The newest record of each writer of a volume that can be found; see [`look_for_records`](Self::look_for_records).
    pub async fn find_records(&self, volume: VolumeId) -> Vec<Signed<Record>> {
        self.look_for_records(volume).await.records
    }

    /// Looks for the records of a volume: here, at those that should keep them, and, if none of these has any, at all
    /// that may. Answers when most of those asked have answered, and a little later. Takes two requests' timeouts at
    /// most. Cancel safe.
    pub async fn look_for_records(&self, volume: VolumeId) -> FoundRecords {
        let mut newest = BTreeMap::new();
        match self.pointers.records(&volume).await {
            Ok(records) => self.take_records(volume, None, records, &mut newest).await,
            Err(error) => tracing::warn!("reading own checkpoint records: {error}"),
        }
        let place = self.place(volume).await;
        let mut found = FoundRecords::default();
        for peers in [place.holders(), place.others()] {
            found.asked += peers.len();
            let mut answers = Vec::new();
            let request = Request::Published { volume };
            self.ask_all(&peers, &request, |peer, answer| match answer {
                Ok(Response::Published { records }) => answers.push((peer, records)),
                Ok(answer) => tracing::debug!(peer = %peer.short(), ?answer, "no pointers"),
                Err(error) => tracing::debug!("no pointers: {error}"),
            })
            .await;
            found.answered += answers.len();
            for (peer, records) in answers {
                let peer = Some(peer);
                self.take_records(volume, peer, records, &mut newest).await;
            }
            if !newest.is_empty() {
                break;
            }
        }
        found.records = newest.into_values().map(|(_, record)| record).collect();
        found
    }

    /// Checks records that `peer` sent and keeps the newest of each writer.
    async fn take_records(
        &self,
        volume: VolumeId,
        peer: Option<PeerId>,
        records: Vec<Bytes>,
        newest: &mut BTreeMap<WriterId, (Rank, Signed<Record>)>,
    ) {
        let check = move || {
            let records = records.iter().take(POINTERS_PER_VOLUME_MAX);
            let decoded = records.map(|bytes| Signed::<Record>::decode(bytes).ok());
            let of_volume = decoded.map(|record| record.filter(|record| record.volume == volume));
            of_volume.collect::<Vec<_>>()
        };
        for record in self.pools.cpu.run(check).await {
            let Some(record) = record else {
                if let Some(peer) = peer {
                    tracing::warn!(peer = %peer.short(), "a checkpoint record that is none");
                    self.stats.lied(&peer);
                }
                continue;
            };
            let rank = Rank::of(&record);
            let known = newest.get(&record.writer);
            if known.is_none_or(|(known, _)| *known < rank) {
                newest.insert(record.writer, (rank, record));
            }
        }
    }

    /// Where the records of a volume belong.
    pub(super) async fn place(&self, volume: VolumeId) -> Place {
        Place {
            ranked: self.closest_to(volume_key(&volume), CANDIDATES).await,
            own: self.net.own(),
        }
    }

    /// Asks all `peers` the same and hands on their answers, until most have answered and [`GRACE`] has passed.
    async fn ask_all(
        &self,
        peers: &[PeerId],
        request: &Request,
        mut answered: impl FnMut(PeerId, Result<Response, NetError>),
    ) {
        let timeout = self.limits.request_timeout;
        let mut asked: FuturesUnordered<_> = peers
            .iter()
            .map(|peer| async move { (*peer, self.ask(*peer, request.clone(), timeout).await) })
            .collect();
        let mut deadline = Instant::now() + timeout;
        let mut good = 0;
        while let Ok(Some((peer, answer))) = tokio::time::timeout_at(deadline, asked.next()).await {
            good += usize::from(answer.is_ok());
            answered(peer, answer);
            if good == peers.len() / 2 + 1 {
                deadline = deadline.min(Instant::now() + GRACE);
            }
        }
    }
}
