//! Making changes durable, telling what waits, and ending.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cairnfs_fuse::Errno;

use super::errno::Stop;
use super::inner::Inner;
use super::{VfsError, VfsUsage};

/// How long background work may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// So many syncs are taken for several programs' after one of another file.
const CROWD: u32 = 32;

/// Which file was synced last, to tell one program that waits for its disk from many.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    last: AtomicU64,
    crowd: AtomicU32,
}

impl Syncs {
    /// Whether lately only this file was synced.
    fn is_alone(&self, number: u64) -> bool {
        if self.last.swap(number, Ordering::Relaxed) != number {
            self.crowd.store(CROWD, Ordering::Relaxed);
            return false;
        }
        let crowd = self.crowd.load(Ordering::Relaxed);
        self.crowd.store(crowd.saturating_sub(1), Ordering::Relaxed);
        crowd == 0
    }
}

impl Inner {
    /// Makes a file's content and attributes durable on this disk, and with them everything that was done
    /// before.
    pub(super) async fn fsync(self: &Arc<Self>, number: u64) -> Result<(), Errno> {
        // A directory, fifo or device has no content.
        let file = {
            let mut core = self.core();
            core.node(number)?.file.clone()
        };
        if let Some(file) = &file {
            loop {
                let noted = self.note(file, &mut self.lock(file));
                match noted {
                    Ok(_) => break,
                    Err(Stop::Errno(errno)) => return Err(errno),
                    Err(Stop::Busy) => {
                        self.room().await?;
                        // A large group fits when all before it are written.
                        self.sync_journal().await?;
                    }
                }
            }
        }
        self.sync_journal().await?;
        match self.is_network_durable() {
            true => self.make_survive(file.as_ref()).await,
            false => Ok(()),
        }
    }

    /// Makes the names of a directory durable, and with them everything that was done before.
    pub(super) async fn fsync_dir(self: &Arc<Self>) -> Result<(), Errno> {
        self.sync_journal().await?;
        match self.is_network_durable() {
            true => self.make_survive(None).await,
            false => Ok(()),
        }
    }

    /// The same at once, on this thread, where that is no worse for others: one file is synced again and
    /// again. Where several are, they share one write of the journal, which [`Inner::fsync`] waits for.
    /// None if that is to be done.
    pub(super) fn fsync_here(&self, number: u64) -> Option<Result<(), Errno>> {
        if self.is_network_durable() || !self.syncs.is_alone(number) {
            return None;
        }
        let file = match self.core().node(number) {
            Ok(node) => node.file.clone(),
            Err(errno) => return Some(Err(errno)),
        };
        let noted = file.map(|file| self.note(&file, &mut self.lock(&file)));
        match noted {
            None | Some(Ok(_)) => self.volume.sync_here().then_some(Ok(())),
            Some(Err(Stop::Errno(errno))) => Some(Err(errno)),
            Some(Err(Stop::Busy)) => None,
        }
    }

    /// Makes everything durable that is in the journal.
    pub(super) async fn sync_journal(&self) -> Result<(), Errno> {
        let synced = self.volume.sync_all().await;
        synced.map_err(|error| match Stop::from(error) {
            Stop::Errno(errno) => errno,
            Stop::Busy => Errno::EAGAIN,
        })
    }

    pub(super) fn usage(&self) -> VfsUsage {
        let dirty = self.totals.dirty.load(Ordering::Relaxed);
        let waiting = self.under_way.load(Ordering::Relaxed);
        VfsUsage {
            dirty_bytes: dirty,
            queued_bytes: dirty.min(waiting * crate::base::limits::CHUNK_MAX_BYTES as u64),
            under_redundant_bytes: self.under_redundant.load(Ordering::Relaxed),
            stored_bytes: self.stored.load(Ordering::Relaxed),
        }
    }

    pub(super) async fn close(&self) -> Result<(), VfsError> {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some background work of the volume did not end in time");
        }
        let files: Vec<_> = {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.iter().map(Arc::clone).collect()
        };
        // One that cannot be written keeps no other from that.
        let mut failed = None;
        for file in files {
            loop {
                let noted = self.note(&file, &mut self.lock(&file));
                match noted {
                    Ok(_) => break,
                    Err(Stop::Busy)
                        if self.room().await.is_ok() && self.sync_journal().await.is_ok() => {}
                    Err(stop) => {
                        failed.get_or_insert(stop);
                        break;
                    }
                }
            }
        }
        let flushed = self.volume.flush().await;
        // Whoever opens it next finds it free.
        self.volume.clone().close().await?;
        flushed?;
        failed.map_or(Ok(()), |stop| {
            let why = format!("changes of a file cannot be written: {stop:?}");
            Err(VfsError::Unready(why))
        })
    }
}
