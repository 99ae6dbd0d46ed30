//! Who has part in a volume, and how far each is known to have each feed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::PeerId;
use crate::feeds::Claim;
use crate::namespace::WriterId;

/// A peer that had no part is asked again after so long; it says itself when it has.
const FORGET: Duration = Duration::from_secs(600);
/// Most peers that are remembered.
const PEERS_MAX: usize = 4096;
/// Most feeds of which it is remembered how far one peer has them: names of writers cost a liar nothing.
const KNOWN_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Peer {
    /// It has the volume open.
    has_part: bool,
    /// When it said that it has not.
    refused: Option<Instant>,
    known: BTreeMap<WriterId, u64>,
    /// Something is being sent to it.
    is_pushing: bool,
    /// Something is being asked of it.
    is_pulling: bool,
}

impl Peer {
    fn knows(&mut self, writer: WriterId, upto: u64) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&writer) {
            self.known.insert(writer, upto);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<BTreeMap<PeerId, Peer>>);

impl Peers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, peer: &PeerId, change: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.lock();
        if peers.len() >= PEERS_MAX && !peers.contains_key(peer) {
            peers.retain(|_, peer| peer.has_part || peer.is_pushing || peer.is_pulling);
        }
        change(peers.entry(*peer).or_default())
    }

    pub(super) fn has_part(&self, peer: &PeerId) -> bool {
        self.lock().get(peer).is_some_and(|peer| peer.has_part)
    }

    /// Whether it is worth asking.
    pub(super) fn may_have_part(&self, peer: &PeerId) -> bool {
        let peers = self.lock();
        let refused = peers.get(peer).and_then(|peer| peer.refused);
        refused.is_none_or(|at| at.elapsed() >= FORGET)
    }

    pub(super) fn has_all(&self, peer: &PeerId, claims: &[Claim]) -> bool {
        let peers = self.lock();
        let Some(peer) = peers.get(peer) else {
            return false;
        };
        let has = |claim: &Claim| {
            peer.known
                .get(&claim.writer)
                .is_some_and(|at| *at >= claim.last)
        };
        claims.iter().all(has)
    }

    /// It said how far it has feeds.
    pub(super) fn said(&self, peer: &PeerId, claims: &[Claim]) {
        self.with(peer, |peer| {
            peer.has_part = true;
            peer.refused = None;
            for claim in claims {
                peer.knows(claim.writer, claim.last);
            }
        });
    }

    /// It has a feed up to a dot.
    pub(super) fn has(&self, peer: &PeerId, writer: WriterId, upto: u64) {
        self.with(peer, |peer| {
            let known = peer.known.get(&writer).copied().unwrap_or(0);
            peer.knows(writer, upto.max(known));
        });
    }

    /// It has a feed up to a dot and no further, whatever it said.
    pub(super) fn has_only(&self, peer: &PeerId, writer: WriterId, upto: u64) {
        self.with(peer, |peer| peer.knows(writer, upto));
    }

    /// It said that it has no part.
    pub(super) fn refused(&self, peer: &PeerId) {
        self.with(peer, |peer| {
            peer.has_part = false;
            peer.refused = Some(Instant::now());
            peer.known.clear();
        });
    }

    /// They are not connected any more: when they come back they may be others.
    pub(super) fn went(&self, gone: &[PeerId]) {
        let mut peers = self.lock();
        for peer in gone {
            if let Some(peer) = peers.get_mut(peer) {
                peer.known.clear();
                peer.refused = None;
            }
        }
    }

    /// How far it is known to have a feed; none if nothing is known.
    pub(super) fn known(&self, peer: &PeerId, writer: WriterId) -> Option<u64> {
        let peers = self.lock();
        peers.get(peer)?.known.get(&writer).copied()
    }

    /// Whether a feed is to be pushed to a peer, by whom this answers yes: it lacks some of it, and nobody
    /// does it already.
    pub(super) fn begin_push(&self, peer: &PeerId, writer: WriterId, last: u64) -> bool {
        let mut peers = self.lock();
        let Some(peer) = peers.get_mut(peer) else {
            return false;
        };
        let lacks = peer.known.get(&writer).copied().unwrap_or(0) < last;
        let begins = peer.has_part && lacks && !peer.is_pushing;
        peer.is_pushing |= begins;
        begins
    }

    pub(super) fn end_push(&self, peer: &PeerId) {
        self.with(peer, |peer| peer.is_pushing = false);
    }

    /// Whether a peer is to be asked for what is missing, by whom this answers yes.
    pub(super) fn begin_pull(&self, peer: &PeerId) -> bool {
        self.with(peer, |peer| !std::mem::replace(&mut peer.is_pulling, true))
    }

    pub(super) fn end_pull(&self, peer: &PeerId) {
        self.with(peer, |peer| peer.is_pulling = false);
    }
}
