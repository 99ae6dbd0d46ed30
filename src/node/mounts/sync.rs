//! `sync`: what was written to mounted volumes, brought to full redundancy.

use std::sync::Arc;
use std::time::Duration;

use cairnfs_fuse::kernel::absolute;
use futures::future::join_all;
use futures::{FutureExt, StreamExt, stream};

use super::{OpenVolume, blocking, path_of};
use crate::admin::types::{SyncProgress, SyncRequest};
use crate::admin::{AdminError, ItemStream};
use crate::base::Class;
use crate::blocks::PutError;
use crate::node::{Node, NodeError};
use crate::vfs::VfsError;

/// What to do where nothing better is known.
const SYNC_AGAIN: &str = "`cairn status` and the log of the peer tell more; sync again";
/// How often a sync tells how far it is.
const SYNC_TICK: Duration = Duration::from_millis(200);

impl OpenVolume {
    /// Brings everything that was written into blocks, and, where others take part, into a checkpoint that they
    /// find.
    pub(super) async fn sync(&self) -> Result<(), AdminError> {
        let synced = self.vfs.sync().await;
        synced.map_err(|error| self.unsynced(&AdminError::of(&error), remedy(&error)))?;
        let sharer = self.sharer().clone();
        match sharer.filter(|_| !self.vfs.is_reader()) {
            Some(sharer) if self.vfs.has_news().await => {
                let published = sharer.publish().await;
                let failed = |error| self.unsynced(&AdminError::of(&error), SYNC_AGAIN);
                published.map(drop).map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// The same error, with the name of the volume and what to do next.
    fn unsynced(&self, error: &AdminError, remedy: &str) -> AdminError {
        let told = format!("the volume `{}`: {}", self.name, error.error);
        AdminError::new(error.class, told).hint(remedy)
    }
}

/// What to do about a volume of which not everything is in the pool.
fn remedy(error: &VfsError) -> &'static str {
    match error {
        VfsError::Unplaced(PutError::Full { .. }) => {
            "raise the quota of full peers (`cairn quota SIZE`), add peers, or remove what nobody needs, and sync \
             again; until then what was written is on this machine only"
        }
        VfsError::Unplaced(PutError::TooFewPeers { .. } | PutError::Unconfirmed { .. }) => {
            "`cairn peers` tells who is away or refuses: start more peers, and sync again; until then what was \
             written is on this machine only"
        }
        VfsError::Unplaced(PutError::Store(_, Class::Full)) => {
            "give this peer more room: raise its quota (`cairn quota SIZE`), or free some of its disk; then sync again"
        }
        _ => SYNC_AGAIN,
    }
}

/// Waits for all, since one that fails is to keep no other from it, and tells all that failed as one.
async fn finish_all(
    all: impl IntoIterator<Item = impl Future<Output = Option<AdminError>>>,
) -> Option<AdminError> {
    let mut failures = join_all(all).await.into_iter().flatten();
    let mut first = failures.next()?;
    for failure in failures {
        first.error = format!("{}; {}", first.error, failure.error);
    }
    Some(first)
}

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
                .map(|open| async move { open.sync().await.err() });
            finish_all(each.collect::<Vec<_>>()).boxed()
        };
        let lines = stream::unfold(
            (open, Some(syncing), Duration::ZERO),
            |(open, syncing, pause)| async move {
                let mut syncing = syncing?;
                let (line, rest) = match tokio::time::timeout(pause, &mut syncing).await {
                    Err(_) => (Ok(progress(&open, false)), Some(syncing)),
                    Ok(None) => (Ok(progress(&open, true)), None),
                    Ok(Some(error)) => (Err(error), None),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_fails_keeps_no_other_from_being_synced() {
        let finished = std::cell::Cell::new(0);
        let sync = async |turns, error: Option<&str>| {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            finished.set(finished.get() + 1);
            error.map(|error| AdminError::refused(error).hint(error))
        };
        assert_eq!(finish_all([sync(0, None), sync(1, None)]).await, None);
        let told = finish_all([sync(0, Some("a")), sync(5, None), sync(9, Some("b"))]).await;
        let told = told.unwrap();
        assert_eq!(
            (told.error.as_str(), told.hint.as_deref()),
            ("a; b", Some("a"))
        );
        assert_eq!(finished.get(), 5);
    }
}
