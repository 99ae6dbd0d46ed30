//! Making a checkpoint: pages are cut on the disk pool, batches of them are placed meanwhile, and nothing is
//! locked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::books::KeptCheckpoint;
use super::failure::{CheckpointFailure, PageError};
use super::place::PagePlace;
use super::rows::SnapshotRows;
use crate::base::BlockId;
use crate::feeds::checkpoint::{
    Batch, Built, CheckpointError, Loading, Making, PageHash, Previous, Root, Step, Tree,
};
use crate::feeds::{Link, Signed};
use crate::namespace::{Hlc, Rows, Shared, VersionVector, state};
use crate::store::VolumeSnapshot;
use crate::vfs::inner::Inner;

/// Batches, of about 4 MiB, that are being placed at once.
const BATCHES_MAX: usize = 3;

/// A checkpoint that was made: its pages and its root are in the pool, and stay there as long as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeCheckpoint {
    /// Under which number it is kept.
    pub number: u64,
    /// What it is of.
    pub root: Root,
    /// Where the root is: for the record that is published.
    pub record_place: Bytes,
    /// Hash of the root's bytes.
    pub root_hash: PageHash,
    /// Bytes of the root.
    pub root_bytes: u32,
    /// What it cost.
    pub built: Built,
}

/// A batch and where its pages are.
type Stored = (Batch, Result<Vec<Bytes>, CheckpointFailure>);

impl Inner {
    /// Makes a checkpoint of the rows of a moment at which the feeds ended with `heads`, and keeps it. `changed`:
    /// if known, the keys of all shared rows that may be others than in the last checkpoint that is kept. `hlc`:
    /// the latest moment in anything that was merged.
    ///
    /// If the returned future is dropped, what was placed is let go when the next one is made or the volume is opened.
    pub(in crate::vfs) async fn make_checkpoint(
        self: &Arc<Self>,
        snapshot: VolumeSnapshot,
        heads: Vec<Signed<Link>>,
        hlc: Hlc,
        changed: Option<BTreeSet<Vec<u8>>>,
    ) -> Result<MadeCheckpoint, CheckpointFailure> {
        let _turn = self.checkpoints.turn.lock().await;
        self.forget_unfinished().await?;
        let rows = SnapshotRows(snapshot);
        let version = {
            let rows = rows.clone();
            let disk = &self.blocks.pools().disk;
            disk.run(move || state::version(&rows)).await?
        };
        // Before anything is done in vain.
        Root::new(
            self.identity.id,
            hlc,
            &Built::default(),
            heads.clone(),
            &version,
        )?;
        let number = self.next_checkpoint()?;
        let made = self
            .fill_checkpoint(number, rows, heads, hlc, &version, changed)
            .await;
        match &made {
            Ok(_) => {
                if let Err(error) = self.keep_last_checkpoints(self.checkpoints.keep()).await {
                    tracing::warn!("an old checkpoint is let go later: {error}");
                }
            }
            Err(_) => {
                if let Err(error) = self.forget_uses(number).await {
                    tracing::debug!("an unfinished checkpoint is let go later: {error}");
                }
            }
        }
        made
    }

    async fn fill_checkpoint(
        self: &Arc<Self>,
        number: u64,
        rows: SnapshotRows,
        heads: Vec<Signed<Link>>,
        hlc: Hlc,
        version: &VersionVector,
        changed: Option<BTreeSet<Vec<u8>>>,
    ) -> Result<MadeCheckpoint, CheckpointFailure> {
        let previous = self.previous_pages().await;
        let changed = changed.map(Arc::new);
        let (making, built) = self
            .cut(number, Making::new(previous), rows, changed)
            .await?;
        self.count_reused_pages(number, &making).await?;
        let root = Root::new(self.identity.id, hlc, &built, heads, version)?;
        let bytes = Bytes::from(root.encode());
        let (root_hash, root_bytes) = (PageHash::of(&bytes), bytes.len() as u32);
        let stored = self.store_pages(number, &[bytes]).await?;
        let record_place = stored.into_iter().next().unwrap_or_default();
        let kept = KeptCheckpoint {
            number,
            hlc,
            made_ms: self.now_ms(),
            rows: built.rows,
            root: root_hash,
            root_bytes,
            place: record_place.clone(),
        };
        self.keep_checkpoint(&kept).await?;
        Ok(MadeCheckpoint {
            number,
            root,
            record_place,
            root_hash,
            root_bytes,
            built,
        })
    }

    /// Counts what was there of pages before.
    pub(in crate::vfs) async fn count_reused_pages(
        &self,
        number: u64,
        making: &Making<Previous>,
    ) -> Result<(), CheckpointFailure> {
        let mut uses: BTreeMap<BlockId, u64> = BTreeMap::new();
        for (place, _) in making.reused() {
            let place = PagePlace::decode(place).ok_or(PageError::Place)?;
            for (block, bytes) in place.uses() {
                *uses.entry(block).or_insert(0) += bytes;
            }
        }
        Ok(self.count_reused(number, uses).await?)
    }

    /// Cuts all pages, and stores those that are not there.
    pub(in crate::vfs) async fn cut<R>(
        self: &Arc<Self>,
        number: u64,
        mut making: Making<Previous>,
        rows: R,
        changed: Option<Arc<BTreeSet<Vec<u8>>>>,
    ) -> Result<(Making<Previous>, Built), CheckpointFailure>
    where
        R: Rows + Clone + Send + 'static,
    {
        let mut storing = FuturesUnordered::new();
        let cut = loop {
            let (rows, changed) = (rows.clone(), changed.clone());
            let (back, step) = self
                .blocks
                .pools()
                .disk
                .run(move || {
                    let step = step(&mut making, &rows, changed.as_deref());
                    (making, step)
                })
                .await;
            making = back;
            let is_full = match step {
                Ok(Step::Store(batch)) => {
                    storing.push(self.store_batch(number, batch));
                    storing.len() >= BATCHES_MAX
                }
                Ok(Step::More) => false,
                Ok(Step::Wait) => true,
                Ok(Step::Done(built)) => break Ok(built),
                Err(error) => break Err(error.into()),
            };
            if is_full
                && let Some(stored) = storing.next().await
                && let Err(error) = placed(&mut making, stored)
            {
                break Err(error);
            }
        };
        // What is under way is counted before the caller takes it off the counts.
        while storing.next().await.is_some() {}
        Ok((making, cut?))
    }

    /// Begins to store a batch. It goes on while nobody looks.
    fn store_batch(
        self: &Arc<Self>,
        number: u64,
        mut batch: Batch,
    ) -> impl Future<Output = Stored> + use<> {
        let inner = Arc::clone(self);
        let pages = batch.take_pages();
        let stored = self
            .tasks
            .spawn(async move { inner.store_pages(number, &pages).await });
        async move {
            let stored = stored.await.unwrap_or_else(|error| {
                Err(CheckpointFailure::Unplaced {
                    what: error.to_string(),
                    class: crate::base::Class::Closed,
                })
            });
            (batch, stored)
        }
    }

    /// The pages of the last checkpoint that is kept. Without them all pages are stored anew, which mends what is
    /// damaged or lost of them.
    pub(in crate::vfs) async fn previous_pages(&self) -> Previous {
        match self.load_previous().await {
            Ok(previous) => previous,
            Err(error) => {
                tracing::warn!("the last checkpoint is not built upon: {error}");
                Previous::default()
            }
        }
    }

    async fn load_previous(&self) -> Result<Previous, CheckpointFailure> {
        let Some(last) = self.kept_checkpoints()?.pop() else {
            return Ok(Previous::default());
        };
        let root = self
            .fetch_root(&last.place, last.root, last.root_bytes)
            .await?;
        match &root.tree {
            Some(tree) => self.load_tree(last.number, tree).await,
            None => Ok(Previous::default()),
        }
    }

    /// The pages of a tree of a checkpoint or a snapshot that is kept under a number, as far as they may stay where
    /// they are.
    pub(in crate::vfs) async fn load_tree(
        &self,
        number: u64,
        tree: &Tree,
    ) -> Result<Previous, CheckpointFailure> {
        let mut loading = Loading::new(tree);
        while !loading.wanted().is_empty() {
            let wanted = loading.wanted().to_vec();
            let fetched = self.fetch_pages(&wanted).await?;
            loading.supply::<PageError>(&fetched)?;
        }
        let mut previous = loading.finish();
        let dense = self.dense_of_checkpoint(number)?;
        previous.forget(|place| {
            let place = PagePlace::decode(place);
            place.is_none_or(|place| place.uses().any(|(block, _)| !dense.contains(&block)))
        });
        Ok(previous)
    }

    /// The blocks of a checkpoint whose pages may stay where they are: it uses half of each at least. Pages in
    /// others are brought together in new ones, so that old blocks can be let go.
    fn dense_of_checkpoint(&self, number: u64) -> Result<BTreeSet<BlockId>, CheckpointFailure> {
        let mut dense = BTreeSet::new();
        for (block, bytes) in self.uses_of_checkpoint(number)? {
            let tenant = self.tenant(block)?;
            if tenant.is_some_and(|tenant| bytes * 2 >= u64::from(tenant.plain_len)) {
                dense.insert(block);
            }
        }
        Ok(dense)
    }
}

fn step(
    making: &mut Making<Previous>,
    rows: &dyn Rows,
    changed: Option<&BTreeSet<Vec<u8>>>,
) -> Result<Step, CheckpointError<PageError>> {
    let shared = Shared::new(rows).map_err(CheckpointError::Rows)?;
    making.step(&shared, changed)
}

fn placed(making: &mut Making<Previous>, (batch, stored): Stored) -> Result<(), CheckpointFailure> {
    making.placed::<PageError>(batch, stored?)?;
    Ok(())
}
