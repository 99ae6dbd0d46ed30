//! What a volume waits for from the machines it is shared with: that they have what was closed, that what they
//! closed is here, that they keep what was synced, and that nobody else has a lock.
//!
//! Who asks them is above this layer, and given to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cairnfs_fuse::{Errno, OpenFlags};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::Durability;
use super::errno::Stop;
use super::file::{Base, FileCell};
use super::inner::Inner;
use super::ledger::Tenant;
use super::rows::{BLOCKS, pages};
use crate::base::{BlockId, EcProfile};
use crate::content::overlay::Source;
use crate::dag::Body;
use crate::feeds::{LockMode, LockName};

/// How long it may take until the own feed has what was done: longer than an operation is held back.
const FEED: Duration = Duration::from_secs(20);
/// How long it may take until enough other machines have it.
const KEPT: Duration = Duration::from_secs(10);
/// How long a file may take to come to rest.
const REST: Duration = Duration::from_secs(5);
/// How often it is looked whether it did.
const MOMENT: Duration = Duration::from_millis(3);
/// Rows read at once.
const ROWS: usize = 512;

/// What an `open` sees of what other machines closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What has arrived.
    #[default]
    Prompt,
    /// All that connected machines had closed before.
    CloseToOpen,
}

/// Between whom locks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locks {
    /// The processes of this machine.
    #[default]
    Local,
    /// All machines that mount the volume.
    Cluster,
}

/// Why a lock was not had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another machine has it.
    #[error("another machine has the lock")]
    Taken,
    /// Two machines that have it with each other wait to have it alone.
    #[error("another machine waits for the same")]
    Deadlock,
    /// Voters have begun too lately to know what they promised before.
    #[error("voters have just begun")]
    NotYet,
    /// Too few voters can be reached.
    #[error("fewer than half of the voters can be reached")]
    NoMajority,
    /// What was done under locks before does not arrive.
    #[error("what was done under locks before is not here")]
    Behind,
    /// Nobody decides on locks.
    #[error("the volume has no voters: `cairn volume voters` names them")]
    NoVoters,
    /// This machine has too many locks.
    #[error("too many locks")]
    TooMany,
}

/// The other machines, as far as a volume asks them for something.
pub trait Agreement: Send + Sync + 'static {
    /// Waits until the connected members have merged the own feed up to a dot. One that goes away, or does not
    /// answer for some seconds, is not waited for.
    fn shown(&self, upto: u64) -> BoxFuture<'static, ()>;
    /// Waits until all that connected members have in their feeds is merged here, under the same terms.
    fn gathered(&self) -> BoxFuture<'static, ()>;
    /// Waits until so many other machines have the own feed up to a dot on their disks, as long as that can come about
    /// soon. How many have.
    fn kept(&self, upto: u64, enough: usize) -> BoxFuture<'static, usize>;
    /// Tries to have a lock, once; `waited` says for how long by now, of who goes on trying. The number of the grant.
    fn lock(
        &self,
        name: LockName,
        mode: LockMode,
        waited: Option<Duration>,
    ) -> BoxFuture<'static, Result<u64, LockError>>;
    /// Whether a lock was held without interruption since that grant.
    fn holds(&self, name: LockName, grant: u64) -> bool;
    /// Gives a lock back; all that was done under it is in the own feed. Whether enough voters know that.
    fn unlock(&self, name: LockName) -> BoxFuture<'static, bool>;
}

/// Blocks that survive less than a sync with `durability = "network"` promises; none if that was not looked up.
#[derive(Debug, Default)]
pub(super) struct Frail {
    known: std::sync::Mutex<Option<BTreeSet<BlockId>>>,
    /// Held while all blocks are looked at: half of them would be too few.
    looking: std::sync::Mutex<()>,
}

impl Frail {
    fn with<T>(&self, look: impl FnOnce(&mut Option<BTreeSet<BlockId>>) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A block was placed.
    pub(super) fn placed(&self, id: BlockId, is_safe: bool) {
        self.with(|known| {
            if let Some(known) = known {
                match is_safe {
                    true => known.remove(&id),
                    false => known.insert(id),
                };
            }
        });
    }
}

/// How many machines may be lost, this one among them, after a sync with `durability = "network"`.
pub(super) const fn losses(profile: EcProfile) -> usize {
    profile.parity_shards().div_ceil(2)
}

impl Inner {
    pub(super) fn agreement(&self) -> Option<Arc<dyn Agreement>> {
        self.shared().and_then(|shared| shared.agreement())
    }

    pub(super) fn is_close_to_open(&self) -> bool {
        self.options.consistency == Consistency::CloseToOpen
    }

    /// Before a file is opened: what others closed is here.
    pub(super) async fn before_open(&self) {
        if let Some(others) = self.agreement() {
            others.gathered().await;
        }
    }

    /// A descriptor is closed: what was written through it is with the others. What that came to.
    pub(super) async fn before_close(self: &Arc<Self>, number: u64) -> Result<(), Errno> {
        let Ok(file) = self.opened(number) else {
            return Ok(());
        };
        let changes = {
            let state = self.lock(&file);
            if state.shown >= state.changes {
                return Ok(());
            }
            state.changes
        };
        let upto = self.describe_now(&file).await?;
        if let Some(others) = self.agreement() {
            others.shown(upto).await;
        }
        let mut state = self.lock(&file);
        state.shown = state.shown.max(changes);
        Ok(())
    }

    /// All that was written to a file before is described in the own feed, and that is on the disk here. Up to which
    /// dot that is.
    pub(super) async fn describe_now(self: &Arc<Self>, file: &Arc<FileCell>) -> Result<u64, Errno> {
        {
            let mut core = self.core();
            self.hand_over(&mut core, file);
        }
        self.seal_file(file).await?;
        self.feed_now().await
    }

    /// The same, and nothing of the file is on its way any more, so that what others write to it next meets nothing. False
    /// if it does not come to rest.
    pub(super) async fn settle_now(self: &Arc<Self>, file: &Arc<FileCell>) -> Result<bool, Errno> {
        let end = Instant::now() + REST;
        loop {
            self.describe_now(file).await?;
            if self.is_at_rest(file) {
                // What was described last is told as well.
                return self.feed_now().await.map(|_| true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            sleep(MOMENT).await;
        }
    }

    /// Whether nothing of a file has to be described any more.
    pub(super) fn is_at_rest(&self, file: &FileCell) -> bool {
        let state = self.lock(file);
        state.is_orphan || !state.is_busy()
    }

    /// A file that is open here shows what was merged, whatever was on its way when that came. False if it cannot be made
    /// sure of.
    pub(super) async fn refresh(self: &Arc<Self>, number: u64) -> bool {
        let end = Instant::now() + REST;
        while Instant::now() < end {
            let (file, shown) = {
                let mut core = self.core();
                let Ok(node) = core.node(number) else {
                    return true;
                };
                let Some(file) = node.file.clone() else {
                    return true;
                };
                let mut state = self.lock(&file);
                // In one look: what is written between two would be lost.
                let shown = match state.is_busy() {
                    _ if state.is_orphan => return true,
                    true => Ok(false),
                    false => self.show_merged(&core, &file, &mut state).map(|()| true),
                };
                drop(state);
                (file, shown)
            };
            let goes_on = match shown {
                Ok(true) => return true,
                Ok(false) => matches!(self.settle_now(&file).await, Ok(true)),
                Err(Stop::Busy) => matches!(timeout(REST, self.room()).await, Ok(Ok(()))),
                Err(Stop::Errno(_)) => false,
            };
            if !goes_on {
                return false;
            }
        }
        false
    }

    /// All that was done before is in the own feed, and on the disk here. Up to which dot that is.
    pub(super) async fn feed_now(&self) -> Result<u64, Errno> {
        let upto = self.core().seen;
        let Some(shared) = self.shared() else {
            return Ok(upto);
        };
        let mut grown = shared.watch();
        let reached = async {
            loop {
                if shared.durable_upto() >= upto {
                    return;
                }
                shared.outgoing.notify_one();
                if grown.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Errno::EIO),
            reached = timeout(FEED, reached) => match reached {
                Ok(()) => {}
                Err(_) => {
                    tracing::warn!("the feed of the volume `{}` stands still", self.options.name);
                    return Err(Errno::EIO);
                }
            },
        }
        match shared.share.read_only || shared.durable_upto() >= upto {
            true => Ok(upto),
            false => Err(Errno::EIO),
        }
    }

    /// Whether a sync waits for other machines.
    pub(super) fn is_network_durable(&self) -> bool {
        self.options.durability == Durability::Network
    }

    /// What was synced on this disk survives its loss, and that of others: see `docs/SEMANTICS.md`.
    pub(super) async fn make_survive(
        self: &Arc<Self>,
        file: Option<&Arc<FileCell>>,
    ) -> Result<(), Errno> {
        let upto = match file {
            Some(file) => self.describe_now(file).await?,
            None => self.feed_now().await?,
        };
        let profile = match file {
            Some(file) => self.profile_of_file(&self.lock(file)),
            None => self.identity.profile,
        };
        let losses = losses(profile);
        let name = &self.options.name;
        let blocks = match file {
            Some(file) => self.blocks_of(file),
            None => Some(BTreeSet::new()),
        };
        let frail = self.still_frail(blocks.as_ref()).await?;
        if frail > 0 {
            let places = profile.total_shards();
            tracing::error!(
                "the volume `{name}`: {frail} blocks do not survive the loss of as many machines as was asked for ({losses} where {profile} is), this one among them: there are too few peers with room for {places} shards"
            );
            return Err(Errno::EIO);
        }
        let Some(others) = self.agreement() else {
            return Err(Errno::EIO);
        };
        let kept = timeout(KEPT, others.kept(upto, losses)).await.unwrap_or(0);
        if kept < losses {
            let missing = losses - kept;
            tracing::error!(
                "the volume `{name}`: what was synced is on the disks of {kept} other members; {missing} more are missing"
            );
            return Err(Errno::EIO);
        }
        Ok(())
    }

    /// The blocks that a file is in; none if only its manifest says that.
    fn blocks_of(&self, file: &FileCell) -> Option<BTreeSet<BlockId>> {
        let state = self.lock(file);
        let mut blocks: BTreeSet<BlockId> = match &state.base {
            Base::Inline(_) => BTreeSet::new(),
            Base::Stored(_, Body::Inline(extents)) => {
                extents.iter().map(|extent| extent.block.id).collect()
            }
            Base::Stored(_, Body::Manifest(_)) => return None,
        };
        let pieces = state.overlay.pieces();
        blocks.extend(pieces.filter_map(|piece| match &piece.source {
            Source::Block { block, .. } => Some(block.id),
            _ => None,
        }));
        Some(blocks)
    }

    /// How many of some blocks, or of all of the volume, do not survive as many losses as their redundancy asks for.
    async fn still_frail(
        self: &Arc<Self>,
        among: Option<&BTreeSet<BlockId>>,
    ) -> Result<usize, Errno> {
        let inner = Arc::clone(self);
        let disk = &self.blocks.pools().disk;
        let mut frail = disk.run(move || inner.frail_blocks()).await?;
        frail.retain(|id| among.is_none_or(|among| among.contains(id)));
        if frail.is_empty() {
            return Ok(0);
        }
        // There may be more peers by now.
        let mut by_profile: BTreeMap<EcProfile, Vec<BlockId>> = BTreeMap::new();
        for id in frail {
            let tenant = self.tenant(id).map_err(|_| Errno::EIO)?;
            let profile = tenant.map(|tenant| self.profile_of_block(&tenant));
            let profile = profile.unwrap_or(self.identity.profile);
            by_profile.entry(profile).or_default().push(id);
        }
        let own = self.identity.peer;
        let mut left = 0;
        for (profile, blocks) in by_profile {
            let others = self.blocks.survives_without(own, &blocks, profile).await;
            for (id, survives) in blocks.iter().zip(others) {
                let is_safe = survives.is_some_and(|survives| survives + 1 >= losses(profile));
                self.frail.placed(*id, is_safe);
                left += usize::from(!is_safe);
            }
        }
        Ok(left)
    }

    fn frail_blocks(&self) -> Result<BTreeSet<BlockId>, Errno> {
        let looking = self.frail.looking.lock();
        let looking = looking.unwrap_or_else(PoisonError::into_inner);
        if self.frail.with(|known| known.is_none()) {
            // What is placed from here on is added by who places it.
            self.frail.with(|known| *known = Some(BTreeSet::new()));
            for page in pages(&self.volume, BLOCKS, &[], ROWS) {
                let page = page.map_err(|_| {
                    self.frail.with(|known| *known = None);
                    Errno::EIO
                })?;
                for (key, row) in page {
                    let id = <[u8; 32]>::try_from(key.as_ref()).map(BlockId);
                    if let (Ok(id), Some(tenant)) = (id, Tenant::decode(&row))
                        && (tenant.survives as usize) < losses(self.profile_of_block(&tenant))
                    {
                        self.frail.placed(id, false);
                    }
                }
            }
        }
        drop(looking);
        let known = self.frail.with(|known| known.clone().unwrap_or_default());
        // One that was placed and is not in use yet may come to be.
        let is_used = |id: &BlockId| match self.tenant(*id) {
            Ok(Some(tenant)) => tenant.live > 0,
            Ok(None) => {
                self.frail.placed(*id, true);
                false
            }
            Err(_) => true,
        };
        Ok(known.into_iter().filter(is_used).collect())
    }

    /// What others do not have yet of a file makes its closing worth a wait.
    pub(super) fn waits_at_close(&self, flags: OpenFlags) -> bool {
        self.is_close_to_open() && flags.writes() || self.has_cluster_locks()
    }

    /// Appending past the page cache goes to where the kernel knew the end, and comes in several parts: a lock between
    /// machines could not keep its promise.
    pub(super) fn refuse_flags(&self, flags: OpenFlags) -> Option<Errno> {
        let is_blind = flags.appends() && flags.is_direct() && flags.writes();
        (is_blind && self.has_cluster_locks()).then_some(Errno::EINVAL)
    }

    pub(super) fn has_cluster_locks(&self) -> bool {
        self.options.locks == Locks::Cluster
    }

    /// Waits a moment before something is tried again, longer each time.
    pub(super) async fn pause_between(&self, since: Instant) {
        let most = (since.elapsed().as_millis() as u64 / 4).clamp(10, 150);
        sleep(Duration::from_millis(5 + self.entropy.below(most))).await;
    }
}
