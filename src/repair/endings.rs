//! Telling holders of claims that ended while they were away.
//!
//! What only some holders have, and the others who should have it do not, may be what the former did not hear the end
//! of. Whoever was told by the writer has its word with the signature; that is looked for and handed on. Nothing of it is
//! believed unsigned, so who says that something ended which did not is not heard.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::keepers;
use super::message::{Ask, ENDED_MAX, Say};
use super::survey::ask;
use crate::base::{BlockId, ClaimId, PeerId};
use crate::blocks::Blocks;
use crate::crypto::SignedRelease;
use crate::store::Keeper;

/// Most peers that are asked about one block's claims.
const ASKED_MAX: usize = 16;

/// A block that only some have who should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) block: BlockId,
    /// Who holds some of it.
    pub(super) holders: Vec<PeerId>,
    /// Who should, is there and does not: the first to ask.
    pub(super) others: Vec<PeerId>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Claims that have ended.
    pub(super) ended: BTreeSet<ClaimId>,
    /// Blocks of which not everybody said what it knows, or did not take what it was told.
    pub(super) open: BTreeSet<BlockId>,
}

/// Looks for ends of the claims that keep these blocks where they are, and tells the holders. Cancel safe: what is
/// begun is repeated.
pub(super) async fn settle(blocks: &Blocks, leftovers: &[Leftover]) -> Endings {
    let wanted = leftovers.iter().map(|leftover| {
        let holders = leftover.holders.iter().copied();
        (leftover.block, holders.collect())
    });
    let known = keepers::of_blocks(blocks, wanted.collect()).await;
    let of = |leftover: &Leftover| known.get(&leftover.block).cloned();
    let mut endings = Endings::default();
    let mut cases = Vec::with_capacity(leftovers.len());
    for leftover in leftovers {
        match of(leftover) {
            Some(keepers) => cases.push((leftover, keepers)),
            None => drop(endings.open.insert(leftover.block)),
        }
    }
    settle_known(blocks, &cases, &mut endings).await;
    endings
}

/// As [`settle`], where it is known who keeps each block.
pub(super) async fn settle_known(
    blocks: &Blocks,
    cases: &[(&Leftover, Vec<Keeper>)],
    endings: &mut Endings,
) {
    // Others expire by themselves.
    let closed = |keepers: &[Keeper]| -> Vec<ClaimId> {
        let closed = keepers.iter().filter(|keeper| keeper.is_closed);
        closed.map(|keeper| keeper.claim).collect()
    };
    let cases: Vec<(&Leftover, Vec<ClaimId>)> = cases
        .iter()
        .map(|(leftover, keepers)| (*leftover, closed(keepers)))
        .collect();
    let found = find(blocks, &cases, &mut endings.open).await;
    let now_ms = blocks.clock().now_ms();
    let ended = found.values().filter(|release| release.from_ms <= now_ms);
    endings.ended.extend(ended.map(|release| release.claim));
    let mut told: BTreeMap<PeerId, (Vec<SignedRelease>, Vec<BlockId>)> = BTreeMap::new();
    for (leftover, claims) in &cases {
        let releases: Vec<_> = claims.iter().filter_map(|claim| found.get(claim)).collect();
        for holder in leftover.holders.iter().filter(|_| !releases.is_empty()) {
            let (to_tell, of) = told.entry(*holder).or_default();
            to_tell.extend(releases.iter().copied().copied());
            of.push(leftover.block);
        }
    }
    let telling = told.into_iter().map(|(peer, (releases, of))| async move {
        let is_told = tell(blocks, peer, releases).await;
        (is_told, of)
    });
    for (is_told, of) in join_all(telling).await {
        if !is_told {
            endings.open.extend(of);
        }
    }
}

/// The ends of these claims: what is known here, and what others know, checked. `open` gets the blocks of which not
/// everybody said it.
async fn find(
    blocks: &Blocks,
    cases: &[(&Leftover, Vec<ClaimId>)],
    open: &mut BTreeSet<BlockId>,
) -> BTreeMap<ClaimId, SignedRelease> {
    let mut found = BTreeMap::new();
    let all: BTreeSet<ClaimId> = cases
        .iter()
        .flat_map(|(_, claims)| claims)
        .copied()
        .collect();
    let all: Vec<ClaimId> = all.into_iter().collect();
    match blocks.releases().known(&all).await {
        Ok(known) => found.extend(known.into_iter().map(|release| (release.claim, release))),
        Err(error) => tracing::debug!("the own store says nothing of ends of claims: {error}"),
    }
    let most = cases.iter().map(|(leftover, _)| leftover.others.len());
    let rounds = most.max().unwrap_or(0).min(ASKED_MAX);
    for round in 0..rounds {
        let mut asked: BTreeMap<PeerId, (BTreeSet<ClaimId>, Vec<BlockId>)> = BTreeMap::new();
        for (leftover, claims) in cases {
            let Some(peer) = leftover.others.get(round) else {
                continue;
            };
            let missing = claims.iter().filter(|claim| !found.contains_key(claim));
            let missing: Vec<ClaimId> = missing.copied().collect();
            if !missing.is_empty() {
                let (of_peer, of) = asked.entry(*peer).or_default();
                of_peer.extend(missing);
                of.push(leftover.block);
            }
        }
        let asking = asked.into_iter().map(|(peer, (claims, of))| async move {
            let claims: Vec<ClaimId> = claims.into_iter().collect();
            (ask_one(blocks, peer, &claims).await, of)
        });
        for (answer, of) in join_all(asking).await {
            match answer {
                Some(said) => {
                    found.extend(said.into_iter().map(|release| (release.claim, release)));
                }
                None => open.extend(of),
            }
        }
    }
    found
}

/// What one peer knows of the ends of these claims, as far as it is true; none if it did not answer.
async fn ask_one(blocks: &Blocks, peer: PeerId, claims: &[ClaimId]) -> Option<Vec<SignedRelease>> {
    let mut all = Vec::new();
    for some in claims.chunks(ENDED_MAX) {
        let question = Ask::Ended {
            claims: some.to_vec(),
        };
        match ask(blocks, peer, &question, blocks.limits().request_timeout).await {
            Some(Ok(Say::Ended { releases })) => {
                let asked: BTreeSet<ClaimId> = some.iter().copied().collect();
                let check = move || {
                    let releases = releases.into_iter();
                    let asked = releases.filter(|release| asked.contains(&release.claim));
                    let (good, bad): (Vec<_>, Vec<_>) =
                        asked.partition(|release| release.verify().is_ok());
                    (good, bad.len())
                };
                let (good, bad) = blocks.pools().cpu.run(check).await;
                if bad > 0 {
                    tracing::warn!(peer = %peer.short(), bad, "ends of claims that nobody signed");
                }
                all.extend(good);
            }
            // Of an earlier version: it remembers none.
            Some(Err(crate::net::Response::Unsupported)) => return Some(Vec::new()),
            _ => return None,
        }
    }
    Some(all)
}

/// Tells several peers and the own store of the end of a claim, as far as they can be reached now.
pub(super) async fn tell_all(blocks: &Blocks, release: SignedRelease, peers: &[PeerId]) {
    let own = blocks.net().own();
    let others = peers.iter().copied().filter(|peer| *peer != own);
    let each = std::iter::once(own).chain(others);
    join_all(each.map(|peer| tell(blocks, peer, vec![release]))).await;
}

/// Tells a holder of ends of claims. Whether it knows them now, or never will.
async fn tell(blocks: &Blocks, peer: PeerId, mut releases: Vec<SignedRelease>) -> bool {
    releases.sort_by_key(|release| (release.claim, release.from_ms));
    releases.dedup();
    for some in releases.chunks(ENDED_MAX) {
        if peer == blocks.net().own() {
            if let Err(error) = blocks.releases().hear(some.to_vec()).await {
                tracing::debug!("the own store does not let go: {error}");
                return false;
            }
            continue;
        }
        let told = Ask::LetGo {
            releases: some.to_vec(),
        };
        match ask(blocks, peer, &told, blocks.limits().request_timeout).await {
            Some(Ok(Say::Done)) => {}
            Some(Err(crate::net::Response::Unsupported)) => return true,
            _ => return false,
        }
    }
    true
}
