//! Parts of shards, from the own store and from their holders; nothing leaves this file unproven.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::Blocks;
use super::peers::Work;
use super::range::Known;
use crate::base::{BlockId, BlockRef, EcProfile, PeerId};
use crate::crypto::layout::sealed_header_len;
use crate::erasure::{Piece, Stripe, VerifiedPart};
use crate::net::{NetError, Request, Response};
use crate::placement;
use crate::store::{PartError, PartReader};

/// What the own store has of some frames.
pub(super) enum Local {
    /// All of them, opened.
    Opened(Arc<Known>, Vec<Bytes>),
    /// Too little. The header, if that is known.
    Lacking(Option<Arc<Known>>),
    /// The block is to be read whole.
    Whole,
}

/// A part with the stripe that it was proven against.
pub(super) type Proven = (Arc<Stripe>, VerifiedPart);

impl Blocks {
    /// Frames from the own store. One job on one thread: handing it on would cost more than opening a frame.
    pub(super) async fn local_frames(
        &self,
        reference: &BlockRef,
        known: Option<Arc<Known>>,
        frames: Range<usize>,
    ) -> Local {
        let reference = *reference;
        let job =
            move |reader: &PartReader<'_>| local(reader, &reference, known.clone(), frames.clone());
        self.store.read_parts(job).await.unwrap_or_else(|error| {
            tracing::debug!(block = %reference.id, "a part in the own store: {error}");
            Local::Whole
        })
    }

    /// The header of a block that the own store does not have.
    pub(super) async fn ask_header(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
    ) -> Option<Known> {
        let front = 0..sealed_header_len(reference.plain_len as usize) as u32;
        let holders = self.shard_holders(reference, profile).await;
        // Shards of large blocks are longer than a header.
        let piece = Piece {
            index: 0,
            range: front,
        };
        let (stripe, part) = self.piece(reference.id, None, &piece, &holders).await?;
        if !Known::is_large(&stripe) {
            return None;
        }
        Known::open(reference, stripe, &part.get(&piece.range)?)
    }

    /// Who should have which shard of a block.
    pub(super) async fn shard_holders(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
    ) -> BTreeMap<u8, PeerId> {
        let ranked = self.ranked(reference.id.group()).await;
        let assigned = placement::assign(&ranked.order, |_| true, profile);
        let live = assigned
            .into_iter()
            .filter(|(_, peer)| ranked.is_live(peer));
        live.collect()
    }

    /// One piece of one shard: from the own store, or from its holder if that answers promptly.
    pub(super) async fn piece(
        &self,
        block: BlockId,
        stripe: Option<Arc<Stripe>>,
        piece: &Piece,
        holders: &BTreeMap<u8, PeerId>,
    ) -> Option<Proven> {
        let (index, range) = (piece.index, piece.range.clone());
        let look = move |reader: &PartReader<'_>| reader.read(block, index, &range);
        match self.store.read_parts(look).await {
            Ok(Some(found)) => return Some((Arc::clone(found.stripe()), found.part().clone())),
            Ok(None) => {}
            Err(error) => tracing::debug!(%block, "a part in the own store: {error}"),
        }
        let peer = holders.get(&piece.index)?;
        if *peer == self.net.own() || !self.stats.gives_ranges(peer) {
            return None;
        }
        self.ask_part(*peer, block, stripe, piece).await
    }

    async fn ask_part(
        &self,
        peer: PeerId,
        block: BlockId,
        stripe: Option<Arc<Stripe>>,
        piece: &Piece,
    ) -> Option<Proven> {
        let request = Request::FetchRange {
            block,
            index: piece.index,
            start: piece.range.start,
            end: piece.range.end,
        };
        let begun = Instant::now();
        let patience = self.stats.hedge_after(&peer, Work::Range);
        let request = self.net.request(peer, request, self.limits.request_timeout);
        let Ok(answer) = timeout(patience, request).await else {
            self.stats.lags(&peer, Work::Range, begun.elapsed());
            return None;
        };
        match answer {
            Ok(Response::Range {
                header,
                start,
                proof,
                data,
            }) => {
                self.stats.succeeded(&peer, Work::Range, begun.elapsed());
                let index = piece.index;
                let check = move || {
                    let stripe = match stripe {
                        Some(stripe) => stripe,
                        None => Arc::new(Stripe::new(block, header)?),
                    };
                    let part = stripe.verify(index, start as usize, data, &proof)?;
                    Ok((stripe, part))
                };
                let checked: Result<Proven, crate::erasure::StripeError> =
                    self.pools.cpu.run(check).await;
                match checked {
                    // One that sends another part than was asked for is no better.
                    Ok((stripe, part)) if part.get(&piece.range).is_some() => Some((stripe, part)),
                    checked => {
                        let why = checked.err().map(|error| error.to_string());
                        tracing::warn!(peer = %peer.short(), ?why, "a peer sent a bad part of a shard");
                        self.stats.lied(&peer);
                        None
                    }
                }
            }
            Ok(Response::Unsupported) => {
                self.stats.lacks_ranges(&peer);
                None
            }
            // It is there, and has no such shard or no time now.
            Ok(Response::Missing { .. } | Response::Busy) | Err(NetError::Busy(_)) => None,
            other => {
                let what: String = format!("{other:?}").chars().take(40).collect();
                tracing::debug!(peer = %peer.short(), "no part of a shard: {what}");
                self.stats.failed(&peer);
                None
            }
        }
    }
}

/// What the own store has of these frames.
fn local(
    reader: &PartReader<'_>,
    reference: &BlockRef,
    known: Option<Arc<Known>>,
    frames: Range<usize>,
) -> Result<Local, PartError> {
    let known = match known {
        Some(known) => known,
        None => {
            let front = 0..sealed_header_len(reference.plain_len as usize) as u32;
            let Some(found) = reader.read(reference.id, 0, &front)? else {
                return Ok(Local::Lacking(None));
            };
            if !Known::is_large(found.stripe()) {
                return Ok(Local::Whole);
            }
            let opened = found
                .part()
                .get(&front)
                .and_then(|front| Known::open(reference, Arc::clone(found.stripe()), &front));
            match opened {
                Some(known) => Arc::new(known),
                None => return Ok(Local::Whole),
            }
        }
    };
    let Some(sealed) = known.layout.sealed_range(frames.clone()) else {
        return Ok(Local::Whole);
    };
    let mut parts = Vec::with_capacity(2);
    for piece in known.stripe.pieces(sealed) {
        let found = reader.read(reference.id, piece.index, &piece.range)?;
        match found.and_then(|found| found.part().get(&piece.range)) {
            Some(bytes) => parts.push(bytes),
            None => return Ok(Local::Lacking(Some(known))),
        }
    }
    match known.open_frames(reference, frames, &parts) {
        Ok(opened) => Ok(Local::Opened(known, opened)),
        Err(error) => {
            tracing::warn!(block = %reference.id, "a frame in the own store: {error}");
            Ok(Local::Whole)
        }
    }
}
