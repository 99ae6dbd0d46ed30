//! Giving locks back: those of programs at once, that of the machine once what was done under it is in the feed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairnfs_fuse::{Errno, Fh, LockKind, LockRange, LockRequest};
use tokio::time::{Duration, sleep, timeout};

use super::guard;
use super::table::Ranges;
use crate::feeds::LockName;
use crate::vfs::inner::Inner;

/// How often what cannot be given back yet is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long closing or unlocking waits until the others may have the lock; it goes on in the background.
const LEAVING: Duration = Duration::from_secs(20);

impl Inner {
    /// Gives locks of this machine's programs back; the last one gives back that of the machine. Where nothing changes
    /// nothing is given back either.
    async fn unlock(
        self: &Arc<Self>,
        number: u64,
        change: impl FnOnce(&mut Ranges) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let is_last = {
            let mut files = guard(&self.locks.files);
            let Some(file) = files.get_mut(&number) else {
                return Ok(());
            };
            change(&mut file.ranges)?;
            file.ranges.is_empty()
        };
        self.locks.changed.notify_waiters();
        if is_last {
            let inner = Arc::clone(self);
            // It goes on also if nobody waits for it any more.
            let left = self
                .tasks
                .spawn(async move { inner.leave_file(number).await });
            let _ = timeout(LEAVING, left).await;
        }
        Ok(())
    }

    /// A range of one owner is given back.
    pub(super) async fn give_up(self: &Arc<Self>, lock: &LockRequest) -> Result<(), Errno> {
        let free = LockRange {
            kind: LockKind::Unlock,
            ..lock.range
        };
        self.unlock(lock.ino.0, |ranges| ranges.set(lock.owner, lock.fh, free))
            .await
    }

    /// All locks of one owner on a file are given back.
    pub(in crate::vfs) async fn unlock_owner(self: &Arc<Self>, number: u64, owner: u64) {
        self.unlock_some(number, |ranges| ranges.drop_owner(owner))
            .await;
    }

    /// What an owner locked through a handle that is closed is given back.
    pub(in crate::vfs) async fn unlock_closed(self: &Arc<Self>, number: u64, fh: Fh, owner: u64) {
        self.unlock_some(number, |ranges| ranges.drop_closed(owner, fh))
            .await;
    }

    async fn unlock_some(self: &Arc<Self>, number: u64, drop: impl FnOnce(&mut Ranges) -> bool) {
        if self.locks.busy.load(Ordering::Acquire) == 0 {
            return;
        }
        // Nothing to be told if it had none.
        let dropped = self.unlock(number, |ranges| match drop(ranges) {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        });
        let _ = dropped.await;
    }

    /// Nobody has a file open any more, unless somebody has opened it anew since.
    pub(in crate::vfs) async fn unlock_all(self: &Arc<Self>, number: u64) {
        if self.locks.busy.load(Ordering::Acquire) == 0 {
            return;
        }
        {
            // Whoever opens it waits for this, and has no lock before.
            let core = self.core();
            if core.inodes.get(number).is_some_and(|node| node.opens > 0) {
                return;
            }
            let mut files = guard(&self.locks.files);
            guard(&self.locks.fences).remove(&number);
            if let Some(file) = files.get_mut(&number) {
                file.ranges.clear();
            }
            self.locks.recount(&files);
        }
        // What was locked before is given back, what is locked since is not touched.
        let _ = self.unlock(number, |_| Ok(())).await;
    }

    /// Gives the lock of this machine on a file back once what was done under it is in the feed.
    async fn leave_file(self: Arc<Self>, number: u64) {
        let Some(name) = guard(&self.locks.files).get(&number).map(|file| file.name) else {
            return;
        };
        while self.is_left(number) && !self.stop.is_cancelled() {
            let file = {
                let mut core = self.core();
                core.node(number).ok().and_then(|node| node.file.clone())
            };
            // Nobody else's turn waits for this, which may take long: a lock of another file may have the same turn.
            let settled = match &file {
                Some(file) => self.settle_now(file).await,
                None => self.feed_now().await.map(|_| true),
            };
            match settled {
                Ok(true) => match self.give_lock_back(number, name).await {
                    true => break,
                    // It was had again meanwhile, and written to.
                    false => continue,
                },
                // Somebody here goes on writing to it without a lock.
                Ok(false) => {}
                Err(errno) => tracing::warn!(
                    "the volume `{}`: a lock is kept until what was written under it can be told: {errno}",
                    self.options.name
                ),
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether a lock of this machine is wanted by none of its programs any more.
    fn is_left(&self, number: u64) -> bool {
        let mut files = guard(&self.locks.files);
        let Some(file) = files.get(&number).filter(|file| file.ranges.is_empty()) else {
            return false;
        };
        let is_had = file.had.is_some();
        if !is_had {
            files.remove(&number);
            self.locks.recount(&files);
        }
        is_had
    }

    /// Gives a lock back of a file that came to rest. False if it did not stay so, or what was done is not in the feed.
    async fn give_lock_back(self: &Arc<Self>, number: u64, name: LockName) -> bool {
        let _turn = self.locks.turn(name).await;
        if !self.is_left(number) {
            return true;
        }
        let file = {
            let mut core = self.core();
            core.node(number).ok().and_then(|node| node.file.clone())
        };
        // Whoever had it since may have written and had that described: then it is told now.
        if file.is_some_and(|file| !self.is_at_rest(&file)) || self.feed_now().await.is_err() {
            return false;
        }
        if let Some(others) = self.agreement() {
            others.unlock(name).await;
        }
        let mut files = guard(&self.locks.files);
        files.remove(&number);
        self.locks.recount(&files);
        true
    }
}
