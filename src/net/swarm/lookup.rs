//! Finding the members closest to a point of the key space.
//!
//! Kademlia leads to the neighbourhood: its answers name at most twenty peers. Those are then
//! asked for the signed records they know around the point, and so are the peers found that way,
//! until the wanted number of closest ones has nothing new to tell. So a look-up also finds members
//! that are away, which placement counts on as long as they have not left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::control::Controller;
use super::roster::Roster;
use crate::base::PeerId;
use crate::base::limits::RECORDS_PER_MESSAGE;
use crate::net::command::{Lookup, LookupCounter, NetError, Reach};
use crate::net::links::Links;
use crate::net::members::Known;
use crate::net::message::{Request, Response};
use crate::placement::candidates::{Point, distance, point};

/// Peers asked for records at a time.
const ASKED_AT_ONCE: usize = 8;
/// So many are asked in any case, if there are as many.
const ENOUGH: usize = 8;
/// Rounds of such questions.
const ROUNDS_MAX: u32 = 16;
/// How long one peer may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What a look-up needs.
#[derive(Clone)]
pub(super) struct Finder {
    pub(super) own: PeerId,
    pub(super) controller: Controller,
    pub(super) links: Links,
    pub(super) roster: Roster,
    pub(super) counter: Arc<LookupCounter>,
}

/// The records found so far, closest first.
#[derive(Default)]
struct Found(BTreeMap<Point, Arc<Known>>);

impl Found {
    /// Takes in members that offer storage; answers whether one is among the `count` closest.
    fn add(
        &mut self,
        target: &Point,
        count: usize,
        known: impl IntoIterator<Item = Arc<Known>>,
    ) -> bool {
        let mut is_news = false;
        for known in known {
            if known.record.capacity_bytes == 0 {
                continue;
            }
            let at = distance(known.point(), target);
            let is_new = self.0.insert(at, known).is_none();
            is_news |= is_new && self.0.range(..at).count() < count;
        }
        is_news
    }

    fn closest(&self, count: usize) -> impl Iterator<Item = &Arc<Known>> {
        self.0.values().take(count)
    }
}

impl Finder {
    /// The `count` members closest to SHA-256 of `key` that offer storage, this peer among them
    /// if it is that close.
    pub(super) async fn closest(&self, key: Vec<u8>, count: usize) -> Result<Lookup, NetError> {
        let count = count.min(RECORDS_PER_MESSAGE);
        let target = point(&key);
        let begun = Instant::now();
        let mut record_bytes = 0;
        let near = self.controller.closest(key).await?;
        let mut lookup = Lookup {
            hops: near.rounds,
            messages: near.requests,
            ..Lookup::default()
        };
        let mut found = Found::default();
        found.add(&target, count, self.roster.closest(&target, count));
        let by_kademlia = near.peers.iter().filter_map(|peer| self.roster.get(peer));
        found.add(&target, count, by_kademlia);
        // Their records came with their admission, but may have been displaced since.
        let unknown = near
            .peers
            .iter()
            .filter(|peer| self.roster.get(peer).is_none());
        let mut to_ask: Vec<PeerId> = unknown.copied().collect();
        let mut asked = BTreeSet::from([self.own]);
        for _ in 0..ROUNDS_MAX {
            let closest = found.closest(count).map(|known| known.peer());
            to_ask.extend(closest.filter(|peer| !asked.contains(peer)));
            to_ask.retain(|peer| asked.insert(*peer) && !self.is_away(peer));
            let later = to_ask.split_off(to_ask.len().min(ASKED_AT_ONCE));
            for peer in &later {
                asked.remove(peer);
            }
            if to_ask.is_empty() {
                break;
            }
            lookup.hops += 1;
            lookup.messages += to_ask.len() as u32;
            let answers = to_ask.iter().map(|peer| self.ask(*peer, &target, count));
            let told = join_all(answers).await;
            record_bytes += told.iter().map(|(bytes, _)| bytes).sum::<u64>();
            let told = told.into_iter().flat_map(|(_, known)| known);
            let is_news = found.add(&target, count, told);
            // A round of close peers knew nobody closer, and so many were asked already.
            if !is_news && (later.is_empty() || asked.len() > ENOUGH) {
                break;
            }
            to_ask = later;
        }
        let member = |known: &Arc<Known>| {
            let peer = known.peer();
            if peer == self.own {
                known.member(Reach::Own, None)
            } else {
                known.member(self.links.reach(&peer), self.links.rtt(&peer))
            }
        };
        lookup.found = found.closest(count).map(member).collect();
        self.counter.add(&lookup, record_bytes, begun.elapsed());
        Ok(lookup)
    }

    /// Waiting for those that fail anyway would take long.
    fn is_away(&self, peer: &PeerId) -> bool {
        matches!(self.links.reach(peer), Reach::Away { .. })
    }

    /// The records that a peer knows around `target`, and the bytes that it sent.
    async fn ask(&self, peer: PeerId, target: &Point, count: usize) -> (u64, Vec<Arc<Known>>) {
        let request = Request::Records {
            near: Some(*target),
            limit: count as u32,
        };
        let deadline = Instant::now() + ANSWER_LIMIT;
        match self.links.request(peer, &request, deadline).await {
            Ok(Response::Records { records }) => {
                let bytes = records.iter().map(|record| record.len() as u64).sum();
                (bytes, self.roster.learn_all(records, Some(peer)).await)
            }
            Ok(_) => (0, Vec::new()),
            Err(error) => {
                tracing::debug!(%peer, %error, "no records for a look-up");
                (0, Vec::new())
            }
        }
    }
}
