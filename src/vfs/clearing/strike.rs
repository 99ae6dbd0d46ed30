//! Taking blocks out of the books that no member names, in the same moment in which it is seen that this one does not
//! either. What kept each is in its row until its holders have been told, so a crash loses nothing of that.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Cleared, ClearingError};
use crate::base::BlockId;
use crate::namespace::{VersionVector, state};
use crate::store::Group;
use crate::vfs::drops::REST;
use crate::vfs::inner::Inner;
use crate::vfs::rows::{BLOCKS, RELEASES};

/// How often contents that came are looked into before it is given up.
const TRIES: usize = 32;

impl Inner {
    /// Blocks that checkpoints and snapshots of this device have: their pages, and contents of files.
    pub(super) fn counted_blocks(&self) -> Result<BTreeSet<BlockId>, ClearingError> {
        let mut counted = self.blocks_of_checkpoints()?;
        counted.extend(self.blocks_of_contents()?);
        Ok(counted)
    }

    pub(super) async fn finish_clearing(
        self: &Arc<Self>,
        round: u64,
        above: &VersionVector,
        blocks: Vec<BlockId>,
    ) -> Result<Cleared, ClearingError> {
        let own = self.identity.peer;
        // No checkpoint or snapshot is made meanwhile, and nothing is brought back.
        let _turn = self.checkpoints.turn.lock().await;
        for _ in 0..TRIES {
            self.look_through_logged(own, round).await?;
            let inner = Arc::clone(self);
            let (above, blocks) = (above.clone(), blocks.clone());
            let disk = &self.blocks.pools().disk;
            let struck = disk.run(move || inner.strike(round, &above, &blocks));
            if let Some(cleared) = struck.await? {
                self.watches.end(own, round);
                self.dropping.notify_one();
                return Ok(cleared);
            }
        }
        Err(ClearingError::Busy("too much is being changed"))
    }

    /// None if contents came that have to be looked into first.
    fn strike(
        &self,
        round: u64,
        above: &VersionVector,
        blocks: &[BlockId],
    ) -> Result<Option<Cleared>, ClearingError> {
        let own = self.identity.peer;
        let counted = self.counted_blocks()?;
        let core = self.core();
        let recoded = self.blocks_recoded()?;
        self.checkpoints.gate.check()?;
        if !state::version(&self.rows())?.includes(above) {
            return Err(ClearingError::Busy(super::names::BEHIND));
        }
        if self.watches.has_logged(own, round) {
            return Ok(None);
        }
        let unnamed = self.watches.unnamed(own, round);
        let unnamed = unnamed.ok_or(ClearingError::Anew)?;
        let changed = self.blocks_in_memory(&core);
        let mut placed = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        placed.retain(|_, at| at.elapsed() < REST);
        if self.checkpoints.held.load(Ordering::Relaxed) > 0 {
            return Err(ClearingError::Busy("blocks are being counted"));
        }
        let is_free = |block: &&BlockId| {
            unnamed.contains(block)
                && !counted.contains(block)
                && !changed.contains(block)
                && !recoded.contains(block)
                && !placed.contains_key(block)
        };
        let free: Vec<&BlockId> = blocks.iter().filter(is_free).collect();
        let mut cleared = Cleared::default();
        for part in free.chunks(self.blocks_per_group()) {
            let mut group = Group::new();
            group.cleanup();
            let mut done = Cleared::default();
            for block in part {
                let Some(tenant) = self.tenant(**block)? else {
                    continue;
                };
                group.remove(BLOCKS, &block.0);
                group.put(RELEASES, &block.0, &tenant.encode());
                done.blocks += 1;
                done.bytes += u64::from(tenant.plain_len);
                self.frail.placed(**block, true);
            }
            if group.is_empty() {
                continue;
            }
            match self.volume.apply(&group) {
                Ok(_) => {
                    cleared.blocks += done.blocks;
                    cleared.bytes += done.bytes;
                }
                // The rest has its turn in the next round.
                Err(error) if cleared.blocks > 0 => {
                    tracing::debug!("not all blocks are let go now: {error}");
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(cleared))
    }
}
