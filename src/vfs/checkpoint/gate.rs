//! While a checkpoint is merged page by page, rows are a half state: nobody looks at them or changes them.

use std::sync::atomic::{AtomicU8, Ordering};

use cairnfs_fuse::Errno;
use tokio::sync::Notify;

use crate::vfs::errno::{Step, Stop};

const OPEN: u8 = 0;
const JOINING: u8 = 1;
const INTERRUPTED: u8 = 2;

/// What may be done with the namespace. Changed by who holds the lock of the core.
#[derive(Debug, Default)]
pub(in crate::vfs) struct Gate {
    state: AtomicU8,
    opened: Notify,
}

impl Gate {
    /// Whether rows may be looked at and changed: if a checkpoint is being merged, later; if that was interrupted,
    /// not before it is begun again and ends.
    pub(in crate::vfs) fn check(&self) -> Step<()> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            JOINING => Err(Stop::Busy),
            _ => Err(Errno::EBUSY.into()),
        }
    }

    /// Waits while a checkpoint is being merged.
    pub(in crate::vfs) async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if self.state.load(Ordering::Acquire) != JOINING {
                return;
            }
            opened.await;
        }
    }

    /// Whether the merging of a checkpoint was interrupted.
    pub(in crate::vfs) fn is_interrupted(&self) -> bool {
        self.state.load(Ordering::Acquire) == INTERRUPTED
    }

    /// A checkpoint is being merged from now on.
    pub(super) fn close(&self) {
        self.state.store(JOINING, Ordering::Release);
    }

    /// It has been, or is left as it is.
    pub(in crate::vfs) fn open(&self, is_interrupted: bool) {
        let state = match is_interrupted {
            true => INTERRUPTED,
            false => OPEN,
        };
        self.state.store(state, Ordering::Release);
        self.opened.notify_waiters();
    }
}
