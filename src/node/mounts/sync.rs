//! `sync`: what was written to mounted volumes, brought to full redundancy.

use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::kernel::absolute;
use futures::future::try_join_all;
use futures::{FutureExt, StreamExt, stream};

use super::{OpenVolume, blocking, path_of};
use crate::admin::types::{SyncProgress, SyncRequest};
use crate::admin::{AdminError, ItemStream};
use crate::node::{Node, NodeError};

/// How often a sync tells how far it is.
const SYNC_TICK: Duration = Duration::from_millis(200);

impl Node {
    /// Brings what was written to full redundancy, and tells how far that is.
    pub(in crate::node) async fn sync_volumes(
        &self,
        request: SyncRequest,
    ) -> Result<ItemStream<SyncProgress>, AdminError> {
        let mut open = self.0.mounts.all();
        if let Some(dir) = &request.dir_hex {
            let dir = path_of(dir)?;
            let shown = dir.display().to_string();
            let dir = blocking(move || absolute(&dir)).await?;
            let dir = dir.map_err(|error| NodeError::Path(shown.clone(), error))?;
            open.retain(|open| dir.starts_with(&open.dir));
            if open.is_empty() {
                let error = AdminError::missing(format!("{shown} is in no volume of this peer"));
                return Err(error.hint("`cairn status` tells what is mounted where"));
            }
        } else if open.is_empty() {
            return Err(
                AdminError::missing("no volume is mounted").hint("`cairn mount DIR` mounts one")
            );
        }
        let syncing = {
            let open = open.clone();
            let each = open
                .into_iter()
                .map(|open| async move { open.sync().await });
            try_join_all(each).boxed()
        };
        let lines = stream::unfold(
            (open, Some(syncing), Duration::ZERO),
            |(open, syncing, pause)| async move {
                let mut syncing = syncing?;
                let (line, rest) = match tokio::time::timeout(pause, &mut syncing).await {
                    Err(_) => (Ok(progress(&open, false)), Some(syncing)),
                    Ok(Ok(_)) => (Ok(progress(&open, true)), None),
                    Ok(Err(error)) => (Err(error), None),
                };
                Some((line, (open, rest, SYNC_TICK)))
            },
        );
        Ok(lines.boxed())
    }
}

fn progress(open: &[Arc<OpenVolume>], done: bool) -> SyncProgress {
    let mut sum = SyncProgress {
        done,
        ..SyncProgress::default()
    };
    for volume in open {
        let usage = volume.usage();
        sum.volumes.push(volume.name.clone());
        sum.dirty_bytes += usage.dirty_bytes;
        sum.under_redundant_bytes += usage.under_redundant_bytes;
    }
    sum
}
