//! What those who look after redundancy need of the conductor: who may hold what, shards of a block without its key, and
//! a way to others.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::Blocks;
use super::peers::Work;
use crate::base::{BlockId, Clock, Group, IndexSet, PeerId};
use crate::erasure::VerifiedShard;
use crate::net::{NetError, Reach, Request, Response};

/// A peer that may hold blocks of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPeer {
    /// Who.
    pub peer: PeerId,
    /// How it is reached now.
    pub reach: Reach,
    /// Bytes that it may still take, as far as is known.
    pub free_bytes: u64,
    /// Bytes that it offers in all.
    pub capacity_bytes: u64,
}

impl GroupPeer {
    /// Whether it can be asked now.
    pub const fn is_live(&self) -> bool {
        !matches!(self.reach, Reach::Away { .. })
    }
}

/// Shards that were brought together, and what that cost.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Distinct and good.
    pub shards: Vec<VerifiedShard>,
    /// Bytes of shards received from others.
    pub received_bytes: u64,
    /// Peers that did not have what they had said, or sent something else.
    pub disappointing: Vec<PeerId>,
}

impl Blocks {
    /// The candidates of a group in order of preference.
    pub async fn group_peers(&self, group: Group) -> Vec<GroupPeer> {
        let ranked = self.ranked(group).await;
        let own = self.net.own();
        let peers = ranked.order.iter().filter_map(|peer| {
            let member = ranked.member(peer)?;
            let free_bytes = if *peer == own {
                self.store.usage().intake_left
            } else if self.stats.said_full(peer) {
                0
            } else {
                member.free_bytes
            };
            Some(GroupPeer {
                peer: *peer,
                reach: member.state.clone(),
                free_bytes,
                capacity_bytes: member.capacity_bytes,
            })
        });
        peers.collect()
    }

    /// The members of the list that hand over what they hold, to leave, but for this peer.
    pub fn leavers(&self) -> Vec<(PeerId, Reach)> {
        let members = self.net.members();
        let own = self.net.own();
        let leavers = members.list.iter().filter(|member| member.is_leaving());
        let others = leavers.filter(|member| member.peer != own);
        others
            .map(|member| (member.peer, member.state.clone()))
            .collect()
    }

    /// Whether this peer itself leaves.
    pub fn is_leaving(&self) -> bool {
        let members = self.net.members();
        let own = members.get(&self.net.own());
        own.is_some_and(crate::net::Member::is_leaving)
    }

    /// Sends a message about upkeep and waits for what is said to it. Cancel safe.
    ///
    /// # Errors
    /// As [`NetHandle::request`](crate::net::NetHandle::request).
    pub async fn ask_upkeep(
        &self,
        to: PeerId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response, NetError> {
        self.ask(to, Request::Upkeep { body }, timeout).await
    }

    /// Whether somebody waits for a block now, or a part of one: to read it, or until it is placed.
    pub fn is_wanted(&self) -> bool {
        self.shared.has_flights() || self.placing.count() > 0
    }

    /// A peer did not take a shard for lack of room: it is left alone for a while.
    pub fn note_full(&self, peer: &PeerId) {
        self.stats.is_full(peer);
    }

    /// The wall clock in use.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Brings `need` different shards of a block together, from those who hold them and from the own store; fewer if
    /// there are not so many. All are checked. Cancel safe.
    pub async fn gather(
        &self,
        block: BlockId,
        holders: &[(PeerId, IndexSet)],
        need: usize,
    ) -> Gathered {
        let own = self.net.own();
        let mut gathered = Gathered::default();
        let mut have = IndexSet::EMPTY;
        let is_own = |(peer, _): &&(PeerId, IndexSet)| *peer == own;
        for (_, held) in holders.iter().filter(is_own) {
            for index in held.iter() {
                if gathered.shards.len() >= need {
                    return gathered;
                }
                match self.store.get(block, IndexSet::one(index)).await {
                    Ok(Some((shard, _))) => {
                        have.insert(index);
                        gathered.shards.push(shard);
                    }
                    Ok(None) | Err(_) => gathered.disappointing.push(own),
                }
            }
        }
        let mut left: Vec<(PeerId, u8)> = Vec::new();
        for (peer, held) in holders.iter().filter(|(peer, _)| *peer != own) {
            left.extend(held.iter().map(|index| (*peer, index)));
        }
        // Those who are slow or failed come last.
        left.sort_by_key(|(peer, _)| {
            let stats = &self.stats;
            let is_bad = stats.is_penalised(peer) || stats.is_displaced(peer);
            (is_bad, stats.is_slow(peer, Work::Fetch))
        });
        let mut asked = FuturesUnordered::new();
        let mut under_way = IndexSet::EMPTY;
        loop {
            while gathered.shards.len() + asked.len() < need {
                let taken = have.union(under_way);
                let Some(at) = left.iter().position(|(_, index)| !taken.contains(*index)) else {
                    break;
                };
                let (peer, index) = left.remove(at);
                under_way.insert(index);
                asked.push(self.fetch_one(block, peer, index));
            }
            let Some((peer, index, shard)) = asked.next().await else {
                return gathered;
            };
            under_way.remove(index);
            match shard {
                Some(shard) => {
                    have.insert(index);
                    gathered.received_bytes += shard.data().len() as u64;
                    gathered.shards.push(shard);
                }
                None => gathered.disappointing.push(peer),
            }
        }
    }

    async fn fetch_one(
        &self,
        block: BlockId,
        peer: PeerId,
        index: u8,
    ) -> (PeerId, u8, Option<VerifiedShard>) {
        let request = Request::Fetch {
            block,
            wanted: IndexSet::one(index),
        };
        let answer = self.ask(peer, request, self.limits.request_timeout).await;
        let (header, data) = match answer {
            Ok(Response::Shard {
                index: sent,
                header,
                data,
                ..
            }) if sent == index => (header, data),
            Ok(_) => {
                // It said that it has it.
                self.stats.failed(&peer);
                return (peer, index, None);
            }
            Err(_) => {
                self.stats.failed(&peer);
                return (peer, index, None);
            }
        };
        let check = move || VerifiedShard::verify(block, index, header, data);
        match self.pools.cpu.run(check).await {
            Ok(shard) => (peer, index, Some(shard)),
            Err(error) => {
                tracing::warn!(peer = %peer.short(), "a peer sent a bad shard: {error}");
                self.stats.lied(&peer);
                (peer, index, None)
            }
        }
    }

    /// Makes the shards `wanted` of a block anew from enough others.
    ///
    /// # Errors
    /// If there are too few, or the header's hashes are not those of one code word: then nobody can.
    pub async fn regenerate(
        &self,
        shards: Vec<VerifiedShard>,
        wanted: IndexSet,
    ) -> Result<Vec<VerifiedShard>, crate::erasure::StripeError> {
        let work = move || crate::erasure::rebuild(&shards, wanted);
        self.pools.cpu.run(work).await
    }
}
