//! Letting blocks go in a volume that several machines write. What a block's own placer counts says nothing there, since
//! others name it in changes that are under way: so it looks through everything that it names, and asks the others
//! twice (`feeds::clearing` says why that is enough).
//!
//! * `names` looks through all that this replica names at one moment, `kept` through snapshots that others made.
//! * `watch` remembers what came since: it sees every row that changes.
//! * `relocate` brings together what is left of blocks of which less than half is in use.
//! * `strike` takes blocks out of the books that nobody names; from there they are released as in any volume.
//!
//! Each member lets go of the blocks that it placed, and of no others: a claim is released by who made it.

mod kept;
mod names;
mod relocate;
mod strike;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Vfs;
use super::checkpoint::CheckpointFailure;
use super::errno::Stop;
use super::inner::Inner;
use super::read::ReadError;
use super::snapshots::SnapshotError;
use crate::base::limits::CLEARING_BLOCKS_MAX;
use crate::base::{BlockId, Class, Classify, PeerId};
use crate::feeds::{Told, clearing::bits_of};
use crate::namespace::{StateError, VersionVector};
use crate::store::VolumeError;

pub(super) use watch::Watches;

/// Why blocks cannot be looked at or let go now. Nothing was let go.
#[derive(Debug, thiserror::Error)]
pub enum ClearingError {
    /// Something else is being done.
    #[error("{0}")]
    Busy(&'static str),
    /// The round came to nothing and has to be begun anew.
    #[error("something changed that the round did not look at; the next one does")]
    Anew,
    /// Something that is named cannot be read.
    #[error("what the volume names cannot be read: {0}")]
    Read(String, Class),
}

impl Classify for ClearingError {
    fn class(&self) -> Class {
        match self {
            ClearingError::Busy(_) | ClearingError::Anew => Class::Retry,
            ClearingError::Read(_, class) => *class,
        }
    }
}

impl From<VolumeError> for ClearingError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Busy => ClearingError::Busy("too much waits to be written"),
            error => ClearingError::Read(error.to_string(), error.class()),
        }
    }
}

impl From<StateError> for ClearingError {
    fn from(error: StateError) -> Self {
        ClearingError::Read(error.message, error.class)
    }
}

impl From<ReadError> for ClearingError {
    fn from(error: ReadError) -> Self {
        ClearingError::Read(error.to_string(), error.class())
    }
}

impl From<CheckpointFailure> for ClearingError {
    fn from(error: CheckpointFailure) -> Self {
        ClearingError::Read(error.to_string(), error.class())
    }
}

impl From<SnapshotError> for ClearingError {
    fn from(error: SnapshotError) -> Self {
        ClearingError::Read(error.to_string(), error.class())
    }
}

impl From<Stop> for ClearingError {
    fn from(_: Stop) -> Self {
        ClearingError::Busy("a checkpoint is being merged")
    }
}

/// Blocks that this device placed and names no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// The number of the round of questions.
    pub round: u64,
    /// What had been merged then.
    pub version: VersionVector,
    /// Those that are asked about, ascending; others have their turn in the next round.
    pub blocks: Vec<BlockId>,
    /// How many there are in all.
    pub count: u64,
    /// Bytes of plaintext in them.
    pub bytes: u64,
    /// Blocks of which less than half is in use, and what can be moved.
    pub sparse: BTreeSet<BlockId>,
    /// Bytes of those that are in use by nothing.
    pub waste_bytes: u64,
    /// Bytes of all blocks that this device placed.
    pub placed_bytes: u64,
}

/// What was brought together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relocated {
    /// Contents of which something was moved.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Blocks that were taken out of the books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// How many.
    pub blocks: u64,
    /// Bytes of plaintext in them.
    pub bytes: u64,
}

impl Vfs {
    /// Looks for blocks that this device placed and names no more, and begins to watch for names of them that come.
    ///
    /// # Errors
    /// If something that is named cannot be read: then it is not known what it names.
    pub async fn begin_clearing(&self) -> Result<Unnamed, ClearingError> {
        self.0.begin_clearing().await
    }

    /// Lets go of those of `blocks`, which all other members who may write said that they do not name, that are not
    /// named here either since the round was begun. `above` is what has to be merged before that.
    ///
    /// # Errors
    /// `Busy` if less is merged, or the round was begun anew; if something cannot be read.
    pub async fn finish_clearing(
        &self,
        round: u64,
        above: &VersionVector,
        blocks: Vec<BlockId>,
    ) -> Result<Cleared, ClearingError> {
        self.0.finish_clearing(round, above, blocks).await
    }

    /// Brings together what is left of sparse blocks that were [found](Vfs::begin_clearing). They themselves are named by nothing
    /// then, once everybody knows it.
    ///
    /// # Errors
    /// If something cannot be read, or the volume takes no changes. What was moved stays moved.
    pub async fn relocate(&self, sparse: BTreeSet<BlockId>) -> Result<Relocated, ClearingError> {
        self.0.relocate(sparse).await
    }

    /// Answers another member that asks, having merged `above`, which of `blocks` (ascending) are named here. The first answer
    /// is that it is being looked at.
    pub async fn watch_blocks(
        &self,
        asker: PeerId,
        round: u64,
        above: &VersionVector,
        blocks: Vec<BlockId>,
    ) -> Told {
        self.0.watch_blocks(asker, round, above, blocks).await
    }

    /// Answers which of the blocks of a round were named here at any time since it was begun, once `above` is merged.
    pub async fn watched(&self, asker: PeerId, round: u64, above: &VersionVector) -> Told {
        self.0.named_since(asker, round, above).await
    }
}

impl Inner {
    async fn begin_clearing(self: &Arc<Self>) -> Result<Unnamed, ClearingError> {
        let own = self.identity.peer;
        let inner = Arc::clone(self);
        let disk = &self.blocks.pools().disk;
        let books = disk.run(move || inner.own_blocks()).await?;
        let _turn = self.watches.looking.lock().await;
        let round = self.entropy.u64();
        let blocks = books.iter().map(|(block, _)| *block).collect();
        let (moment, counted) = {
            let _turn = self.checkpoints.turn.lock().await;
            let inner = Arc::clone(self);
            let begin = move || -> Result<_, ClearingError> {
                let moment = inner.moment(own, round, None, blocks)?;
                Ok((moment, inner.counted_blocks()?))
            };
            disk.run(begin).await?
        };
        let version = moment.version.clone();
        self.watches.name(own, round, counted.iter());
        self.look_through_names(own, round, moment).await?;
        // What snapshots have stays where it is.
        if self.watches.has_free(own, round) {
            self.look_through_kept(own, round).await?;
        }
        self.watches.is_looked_through(own, round);
        let named = self.watches.named(own, round);
        let used = self.watches.used(own, round);
        let (Some(named), Some(used)) = (named, used) else {
            return Err(ClearingError::Busy("another round was begun"));
        };
        let mut unnamed = Unnamed {
            round,
            version,
            ..Unnamed::default()
        };
        for (((block, plain_len), is_named), used) in books.iter().zip(named).zip(used) {
            let plain = u64::from(*plain_len);
            unnamed.placed_bytes += plain;
            if is_named {
                if used.saturating_mul(2) < plain {
                    unnamed.waste_bytes += plain - used;
                    unnamed.sparse.insert(*block);
                }
                continue;
            }
            unnamed.count += 1;
            unnamed.bytes += plain;
            if unnamed.blocks.len() < CLEARING_BLOCKS_MAX {
                unnamed.blocks.push(*block);
            }
        }
        Ok(unnamed)
    }

    async fn watch_blocks(
        self: &Arc<Self>,
        asker: PeerId,
        round: u64,
        above: &VersionVector,
        blocks: Vec<BlockId>,
    ) -> Told {
        if let Some(told) = self.watches.first_answer(asker, round) {
            return told;
        }
        // Others ask, too; each look holds the rows of its moment.
        let Ok(place) = Arc::clone(&self.watches.places).try_acquire_owned() else {
            return Told::Busy;
        };
        // A snapshot is being made or brought back: names are under way.
        let Ok(_turn) = self.checkpoints.turn.try_lock() else {
            return Told::Busy;
        };
        let (inner, disk) = (Arc::clone(self), &self.blocks.pools().disk);
        let above = above.clone();
        let moment = disk.run(move || inner.moment(asker, round, Some(&above), blocks));
        let moment = match moment.await {
            Ok(moment) => moment,
            Err(ClearingError::Busy(names::BEHIND)) => return Told::Behind,
            Err(error) => {
                tracing::debug!(asker = %asker.short(), "blocks are looked at later: {error}");
                return Told::Busy;
            }
        };
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let _place = place;
            let _turn = inner.watches.looking.lock().await;
            let looked = inner.look_through_names(asker, round, moment);
            let looked = tokio::select! {
                biased;
                () = inner.stop.cancelled() => return,
                looked = looked => looked,
            };
            match looked {
                Ok(()) => inner.watches.is_looked_through(asker, round),
                Err(error) => {
                    tracing::debug!(asker = %asker.short(), "blocks are looked at later: {error}");
                    inner.watches.end(asker, round);
                }
            }
        });
        Told::Busy
    }

    async fn named_since(
        self: &Arc<Self>,
        asker: PeerId,
        round: u64,
        above: &VersionVector,
    ) -> Told {
        // A snapshot that was let go meanwhile may be being brought back.
        let Ok(_turn) = self.checkpoints.turn.try_lock() else {
            return Told::Busy;
        };
        let (inner, disk) = (Arc::clone(self), &self.blocks.pools().disk);
        let version = disk.run(move || inner.merged_version()).await;
        if !version.includes(above) {
            return Told::Behind;
        }
        // Files of snapshots that were let go may be open still.
        let (bodies, blocks) = self.open_in_snapshots();
        self.watches.name(asker, round, blocks.iter());
        self.watches.log(asker, round, bodies);
        if let Err(error) = self.look_through_logged(asker, round).await {
            tracing::debug!(asker = %asker.short(), "blocks are looked at later: {error}");
            return Told::Busy;
        }
        let answer = self.watches.second_answer(asker, round);
        // Whoever loses power and names something again that it said to name no more would come too late.
        if answer.is_some() && self.volume.sync_all().await.is_err() {
            return Told::Busy;
        }
        match answer {
            Some((version, named)) => Told::Named {
                version,
                bits: bits_of(&named),
            },
            None => Told::Lost,
        }
    }

    /// Walks manifests that came since the watch began, until there are none.
    async fn look_through_logged(&self, asker: PeerId, round: u64) -> Result<(), ClearingError> {
        loop {
            let bodies = self.watches.take_logged(asker, round);
            if bodies.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.look_through_bodies(asker, round, &bodies).await {
                self.watches.log(asker, round, bodies);
                return Err(error);
            }
        }
    }
}
