//! Keeps records where they belong while peers come and go.
//!
//! A peer that comes to a volume's place is given what is kept there by those of the others that are closest to it,
//! and by the writers themselves. Besides, each record is published again once a day by whoever of its keepers does it
//! first: the others hear of that, and wait for another day.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::Place;
use super::index::Entry;
use crate::base::limits::POINTER_HOLDERS;
use crate::base::worker::{Next, Worker};
use crate::base::{PeerId, VolumeId};
use crate::blocks::Blocks;
use crate::namespace::WriterId;
use crate::net::{Reach, Refusal, Request, Response};

/// How often it looks whether anything changed.
const TURN: Duration = Duration::from_secs(10);
/// The pause within a round.
const PAUSE: Duration = Duration::from_millis(100);
/// How often all volumes are looked at, whether peers are known to have come or not: in a large network nobody knows.
const ROUND: Duration = Duration::from_secs(3600);
/// How soon again if somebody could not be reached.
const RETRY: Duration = Duration::from_secs(60);
/// Volumes looked at in one turn.
const VOLUMES_PER_TURN: usize = 64;
/// Volumes of which something is sent in one turn.
const SENT_PER_TURN: usize = 8;
/// So many of those that keep a volume's records give them to newcomers.
const GIVERS: usize = 4;

/// Who offers storage, and whether it is known to be away.
type View = Vec<(PeerId, bool)>;

/// A record and what is known of it.
type Row = (WriterId, Entry);

/// Gives the records that this peer keeps to those that should keep them.
#[derive(Debug)]
pub struct PointerKeeper {
    blocks: Blocks,
    /// The members when the last round began.
    seen: View,
    /// How far the present round is; none between rounds.
    round: Option<Option<VolumeId>>,
    next_round: Instant,
    sent: u64,
}

/// What became of one volume.
#[derive(Debug, Default, Clone, Copy)]
struct Visit {
    sent: u64,
    /// Whether somebody could not be reached.
    is_open: bool,
}

impl PointerKeeper {
    /// A worker for `blocks`.
    pub fn new(blocks: Blocks) -> Self {
        PointerKeeper {
            blocks,
            seen: Vec::new(),
            round: None,
            next_round: Instant::now(),
            sent: 0,
        }
    }

    fn view(&self) -> View {
        let members = self.blocks.net.members();
        let offering = members.list.iter().filter(|m| m.capacity_bytes > 0);
        offering
            .map(|member| (member.peer, matches!(member.state, Reach::Away { .. })))
            .collect()
    }

    /// Begins a round if there is a reason for one.
    fn begin(&mut self) {
        let view = self.view();
        let has_missed = self.blocks.pointers.take_missed();
        let is_due = has_missed || Instant::now() >= self.next_round || self.has_news();
        if view != self.seen || is_due {
            self.seen = view;
            self.next_round = Instant::now() + ROUND;
            self.round = Some(None);
            self.blocks.pointers.forget_told();
        }
    }

    /// Whether there is a volume that was not looked at yet, or a record that is to be published again.
    fn has_news(&self) -> bool {
        let pointers = &self.blocks.pointers;
        let now = Instant::now();
        let index = pointers.index();
        let volumes = index.volumes(None, usize::MAX);
        let is_due = |volume: &VolumeId| index.volume(volume).iter().any(|(_, e)| e.due <= now);
        volumes
            .iter()
            .any(|volume| is_due(volume) || pointers.told(volume).is_none())
    }

    /// Goes on with the round; whether it is at its end.
    async fn go_on(&mut self) -> bool {
        let Some(after) = self.round else { return true };
        let volumes = self
            .blocks
            .pointers
            .index()
            .volumes(after.as_ref(), VOLUMES_PER_TURN);
        let is_last = volumes.len() < VOLUMES_PER_TURN;
        let mut sending = 0;
        for volume in volumes {
            let visit = self.blocks.visit(volume).await;
            self.round = Some(Some(volume));
            self.sent += visit.sent;
            if visit.is_open {
                self.next_round = self.next_round.min(Instant::now() + RETRY);
            }
            sending += usize::from(visit.sent > 0);
            if sending == SENT_PER_TURN {
                return false;
            }
        }
        if is_last {
            self.round = None;
        }
        is_last
    }
}

impl Blocks {
    /// Gives the records of a volume to those that lack them, as far as it is up to this peer.
    async fn visit(&self, volume: VolumeId) -> Visit {
        let rows = self.pointers.index().volume(&volume);
        let place = self.place(volume).await;
        let holders = place.holders();
        let own = self.net.own();
        let is_writer = rows.iter().any(|(writer, _)| writer.peer == own);
        let before = self.pointers.told(&volume);
        let told = match &before {
            Some(told) => told.peers.clone(),
            // Of what others brought it is taken that they brought it everywhere.
            None if !is_writer => holders.clone(),
            None => Vec::new(),
        };
        let now = Instant::now();
        let due: Vec<Row> = rows.iter().filter(|(_, e)| e.due <= now).copied().collect();
        let mut has: Vec<PeerId> = Vec::new();
        let mut gifts: Vec<(PeerId, &[Row])> = Vec::new();
        for peer in &holders {
            let is_told = told.contains(peer);
            if !is_told && (is_writer || is_giver(&place, &told, own)) {
                gifts.push((*peer, &rows));
            } else {
                has.push(*peer);
                if !due.is_empty() {
                    gifts.push((*peer, &due));
                }
            }
        }
        let mut visit = Visit::default();
        let mut taken = 0;
        let mut later = None;
        {
            let mut answers: FuturesUnordered<_> = gifts
                .into_iter()
                .map(|(peer, rows)| async move { (peer, self.give(volume, peer, rows).await) })
                .collect();
            while let Some((peer, given)) = answers.next().await {
                visit.sent += given.sent;
                taken += usize::from(given.is_kept);
                if given.is_later {
                    later = Some(peer);
                }
                match given.is_answered {
                    true if !has.contains(&peer) => has.push(peer),
                    true => {}
                    false => {
                        has.retain(|known| *known != peer);
                        visit.is_open = true;
                    }
                }
            }
        }
        self.pointers.set_told(volume, before.as_ref(), has);
        if let Some(peer) = later {
            self.fetch_later(volume, peer).await;
        }
        self.settle_due(volume, &due, &place, taken).await;
        visit
    }

    /// Sends records to a peer, one after the other.
    async fn give(&self, volume: VolumeId, peer: PeerId, rows: &[Row]) -> Given {
        let mut given = Given {
            is_answered: true,
            is_kept: true,
            ..Given::default()
        };
        for (writer, _) in rows {
            let Ok(Some(record)) = self.pointers.record(&volume, writer).await else {
                continue;
            };
            let request = Request::Publish { record };
            let answer = self.ask(peer, request, self.limits.request_timeout);
            given.sent += 1;
            match answer.await {
                Ok(Response::Done) => {}
                Ok(Response::Refused {
                    reason: Refusal::Stale,
                    ..
                }) => given.is_later = true,
                Ok(Response::Busy) | Err(_) => {
                    return Given {
                        is_answered: false,
                        is_kept: false,
                        ..given
                    };
                }
                // It will not take it sooner if it is asked again soon.
                Ok(_) => given.is_kept = false,
            }
        }
        given
    }

    /// Takes what a peer has that is later than what is kept here.
    async fn fetch_later(&self, volume: VolumeId, peer: PeerId) {
        let request = Request::Published { volume };
        let answer = self.ask(peer, request, self.limits.request_timeout).await;
        if let Ok(Response::Published { records }) = answer {
            for record in records {
                if let Err(error) = self.pointers.keep(peer, record).await {
                    tracing::debug!(peer = %peer.short(), "no later checkpoint record: {error}");
                }
            }
        }
    }

    /// What was due is due again in a day; unless this peer is far from the place by now, and enough others have it.
    async fn settle_due(&self, volume: VolumeId, due: &[Row], place: &Place, taken: usize) {
        let may_go = !place.has_own() && taken >= POINTER_HOLDERS / 2;
        for (writer, entry) in due {
            let again = self.pointers.due(&volume, writer, entry.rank);
            self.pointers
                .index()
                .postpone(&volume, writer, entry.rank, again);
            if may_go && writer.peer != self.net.own() {
                let gone = self.pointers.forget(volume, *writer, entry.rank).await;
                if let Err(error) = gone {
                    tracing::warn!("letting go of a checkpoint record: {error}");
                }
            }
        }
    }
}

/// What became of records that were sent to a peer.
#[derive(Debug, Default, Clone, Copy)]
struct Given {
    sent: u64,
    is_answered: bool,
    /// It has all of them, or later ones.
    is_kept: bool,
    /// It has a later one.
    is_later: bool,
}

/// Whether this peer is among the first of those that keep the records now.
fn is_giver(place: &Place, told: &[PeerId], own: PeerId) -> bool {
    let keepers = place.ranked.order.iter().take(POINTER_HOLDERS);
    let mut keepers = keepers.filter(|peer| **peer == own || told.contains(peer));
    keepers.by_ref().take(GIVERS).any(|peer| *peer == own)
}

impl Worker for PointerKeeper {
    fn name(&self) -> &'static str {
        "pointers"
    }

    async fn step(&mut self) -> Next {
        if self.round.is_none() {
            self.begin();
        }
        match self.go_on().await {
            true => Next::Idle(TURN),
            false => Next::Idle(PAUSE),
        }
    }

    fn status(&self) -> String {
        let index = self.blocks.pointers.index();
        format!(
            "keeps {} checkpoint records, {} for others; sent {}",
            index.len(),
            index.foreign(),
            self.sent
        )
    }
}
