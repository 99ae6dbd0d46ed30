//! What snapshots name of own blocks. Those that this device made are in its books; of those that others made the pages
//! are looked through, each once, however many snapshots have it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::ClearingError;
use super::names::{How, bodies_of};
use crate::base::PeerId;
use crate::dag::NodeAt;
use crate::feeds::checkpoint::page::Items;
use crate::feeds::checkpoint::read::verify;
use crate::feeds::checkpoint::{CheckpointError, PageHash, PageRef};
use crate::vfs::checkpoint::{CheckpointFailure, PageError};
use crate::vfs::inner::Inner;

/// Pages that are fetched together.
const PAGES: usize = 32;

impl Inner {
    /// Tells a watch of own blocks what snapshots of others name.
    pub(super) async fn look_through_kept(
        self: &Arc<Self>,
        asker: PeerId,
        round: u64,
    ) -> Result<(), ClearingError> {
        let mut pages: BTreeSet<PageHash> = BTreeSet::new();
        let mut nodes: HashSet<NodeAt> = HashSet::new();
        let inner = Arc::clone(self);
        let disk = &self.blocks.pools().disk;
        let records = disk.run(move || inner.records_of_others()).await?;
        for record in records {
            let root = self.fetch_snapshot_root(&record).await?;
            let Some(tree) = root.rows else { continue };
            let mut left: Vec<(u8, PageRef)> = vec![(tree.level, tree.top)];
            while !left.is_empty() {
                let next = left.split_off(left.len().saturating_sub(PAGES));
                let next: Vec<_> = next
                    .into_iter()
                    .filter(|(_, page)| pages.insert(page.hash))
                    .collect();
                for (level, items) in self.items_of(next).await? {
                    match items {
                        Items::Rows(rows) => {
                            let bodies = bodies_of(&rows)?;
                            self.walk(asker, round, (&bodies, How::AsAWhole), &mut nodes)
                                .await?;
                        }
                        Items::Pages(below) => {
                            let level = level.saturating_sub(1);
                            left.extend(below.into_iter().map(|page| (level, page)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What is in pages, each of a level.
    async fn items_of(&self, pages: Vec<(u8, PageRef)>) -> Result<Vec<(u8, Items)>, ClearingError> {
        let wanted: Vec<PageRef> = pages.iter().map(|(_, page)| page.clone()).collect();
        let bytes = self.fetch_pages(&wanted).await;
        let bytes = bytes.map_err(CheckpointFailure::from)?;
        let check = move || -> Result<Vec<(u8, Items)>, CheckpointError<PageError>> {
            let read = pages.into_iter().zip(bytes).map(|((level, page), bytes)| {
                let items = verify::<PageError>(&page, level, &bytes)?;
                Ok((level, items))
            });
            read.collect()
        };
        let read = self.blocks.pools().cpu.run(check).await;
        Ok(read.map_err(CheckpointFailure::from)?)
    }
}
