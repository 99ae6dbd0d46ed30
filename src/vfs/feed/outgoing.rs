//! The own feed: operations that are durable here are sealed and signed in the order of their dots.

use std::sync::Arc;

use tokio::time::{Duration, sleep};

use super::epochs::{EpochsError, Unsaid};
use super::{Slice, claim_of, store};
use crate::feeds::{Feed, Head, SealedDelta, Signed};
use crate::namespace::{Delta, Hlc, WriterId};
use crate::store::{Group, VolumeError};
use crate::vfs::VfsError;
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;

/// Bytes of deltas that are sealed in one group of the journal, with what each takes besides.
const TURN_BYTES: usize = 192 << 10;
/// Bytes of one group of the journal, the last delta in it included: a delta itself came in a group with the rows
/// that it changes, so that it has half of one at most.
const GROUP_BYTES: usize = 768 << 10;
/// Groups in one turn.
const GROUPS_MAX: usize = 32;
/// Between turns, so that many operations share one write of the journal.
const PAUSE: Duration = Duration::from_millis(5);
/// How often it is looked whether something that is held back need wait no longer.
const HELD: Duration = Duration::from_secs(2);
/// After an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a turn was not finished.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Feed(#[from] crate::feeds::FeedError),
    #[error("a delta that waits for its feed: {0}")]
    Delta(#[from] crate::namespace::error::FormatError),
    #[error(transparent)]
    Epochs(#[from] EpochsError),
}

impl Inner {
    /// Seals what was done until the volume is closed.
    pub(in crate::vfs) async fn seal_feed_always(self: Arc<Self>) {
        let Some(shared) = self.shared() else { return };
        if let Err(error) = self.make_durable().await {
            tracing::warn!("the own feed is not durable yet: {error}");
        }
        loop {
            let inner = Arc::clone(&self);
            let sealed = self.blocks.pools().disk.run(move || {
                match inner.keep_rules() {
                    Ok(()) | Err(Stop::Busy) => {}
                    Err(Stop::Errno(errno)) => {
                        tracing::warn!("what is to be said about members is said later: {errno}");
                    }
                }
                inner.seal_groups()
            });
            let turn = match sealed.await {
                // Whoever makes a checkpoint seals as well.
                Ok(0) if shared.feeds().is_all_durable(self.writer()) => Ok(0),
                Ok(count) => self.make_durable().await.map(|()| count.max(1)),
                Err(error) => Err(error),
            };
            let pause = match turn {
                Ok(0) => {
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        () = shared.outgoing.notified() => {}
                        () = sleep(HELD) => {}
                    }
                    continue;
                }
                Ok(_) => PAUSE,
                Err(TurnError::Volume(VolumeError::Closed)) => return,
                Err(error) => {
                    tracing::warn!("the own feed goes on later: {error}");
                    PATIENCE
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// What was sealed may leave this machine once it is on the disk.
    async fn make_durable(&self) -> Result<(), TurnError> {
        let Some(shared) = self.shared() else {
            return Ok(());
        };
        let end = shared.feeds().known.get(&self.writer()).and_then(claim_of);
        self.volume.sync_all().await?;
        shared.feeds().durable = end;
        shared.has_grown();
        Ok(())
    }

    /// Seals what waits, in several groups: what was held back leaves together with what it waited for.
    fn seal_groups(&self) -> Result<usize, TurnError> {
        let mut sealed = 0;
        for _ in 0..GROUPS_MAX {
            match self.seal_some()? {
                0 => break,
                count => sealed += count,
            }
        }
        Ok(sealed)
    }

    /// Seals all that waits.
    pub(super) fn seal_rest(&self) -> Result<(), VolumeError> {
        loop {
            match self.seal_some() {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    if let Some(shared) = self.shared() {
                        shared.outgoing.notify_one();
                    }
                }
                Err(TurnError::Volume(error)) => return Err(error),
                Err(error) => return Err(VolumeError::Io(error.to_string())),
            }
        }
    }

    /// Seals what waits, up to the bounds of a turn. How many deltas that were.
    fn seal_some(&self) -> Result<usize, TurnError> {
        let Some(shared) = self.shared() else {
            return Ok(0);
        };
        // Before it is read what waits: two may seal at once.
        let mut feeds = shared.feeds();
        let mut waiting = store::outgoing(&self.volume, TURN_BYTES)?;
        if let Some(held) = shared.held_back(&self.totals) {
            waiting.retain(|(first, _)| *first < held);
        }
        if waiting.is_empty() {
            return Ok(0);
        }
        let unsaid = Unsaid::find(shared, &self.volume)?;
        let (volume, writer) = (self.identity.id, self.writer());
        let feed = feeds.known.entry(writer);
        let feed = feed.or_insert_with(|| Feed::new(volume, writer));
        let mut group = Group::new();
        group.cleanup();
        let mut links = Vec::new();
        let mut previous = feed.head().cloned();
        let mut size = 0;
        for (first, bytes) in &waiting {
            let delta = Delta::decode(bytes)?;
            let before = previous.as_ref().map(|link| link.epoch);
            // Where nothing is known that nobody has who was revoked, it waits.
            let Some((epoch, key)) = unsaid.seal_key(shared, (*first, &delta), before) else {
                break;
            };
            let sealed = SealedDelta::seal(
                &delta,
                volume,
                previous.as_ref(),
                (epoch, &key),
                &shared.share.device,
            )?;
            size += sealed.encode().len() + store::DELTA_COST;
            if size > GROUP_BYTES && !links.is_empty() {
                break;
            }
            store::add_sealed(&mut group, &sealed);
            store::remove_outgoing(&mut group, *first, bytes.len());
            previous = Some(sealed.link().clone());
            links.push(sealed.link().clone());
        }
        let count = links.len();
        if count > 0 {
            self.volume.apply(&group)?;
        }
        for link in links {
            feed.advance(link)?;
        }
        Ok(count)
    }

    /// See [`Vfs::signed_head`](crate::vfs::Vfs::signed_head).
    pub(super) fn signed_head(&self) -> Option<Signed<Head>> {
        let shared = self.shared()?;
        let claim = shared.feeds().durable?;
        let head = Head {
            volume: self.identity.id,
            writer: claim.writer,
            last: claim.last,
            hash: claim.hash,
            hlc: Hlc::from_ms(self.now_ms()),
        };
        Signed::sign(head, &shared.share.device).ok()
    }

    /// See [`Vfs::deltas`](crate::vfs::Vfs::deltas).
    pub(super) fn deltas_after(
        &self,
        writer: WriterId,
        after: u64,
        limit_bytes: usize,
    ) -> Result<Slice, VfsError> {
        let last = match self.shared() {
            Some(shared) => shared.feeds().last(self.writer(), writer),
            None => 0,
        };
        if last <= after {
            return Ok(Slice {
                last,
                upto: after,
                deltas: Vec::new(),
            });
        }
        let mut found = store::sealed_after(&self.volume, writer, after, limit_bytes)?;
        found.deltas.retain(|(first, _)| *first <= last);
        let deltas = found.deltas.into_iter().map(|(_, sealed)| sealed);
        Ok(Slice {
            last,
            // The next begins where the last of these ends.
            upto: found.next.map_or(last, |next| next - 1).min(last),
            deltas: deltas.collect(),
        })
    }
}
