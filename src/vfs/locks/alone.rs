//! Making a file that must not be there, on any machine: under a lock of its name.

use std::sync::Arc;

use cairnfs_fuse::{self as fuse, Caller, Errno, NewNode, OpenFlags, Opened};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::entry_name;
use crate::feeds::LockMode;
use crate::namespace::Ino;
use crate::vfs::agree::LockError;
use crate::vfs::errno::Stop;
use crate::vfs::inner::Inner;

/// How long the name of a file that is made alone is waited for.
const NAME: Duration = Duration::from_secs(20);

impl Inner {
    /// Makes a file that must not be there, on any machine. It goes on also if nobody waits for it any more, and is taken
    /// back then: a lock that was had half way would be renewed for ever.
    pub(in crate::vfs) async fn create_to_end(
        self: Arc<Self>,
        caller: Caller,
        parent: u64,
        name: Vec<u8>,
        node: NewNode,
        flags: OpenFlags,
    ) -> Result<(fuse::Entry, Opened), Errno> {
        let (done, made) = oneshot::channel();
        let inner = Arc::clone(&self);
        self.tasks.spawn(async move {
            let making = Arc::clone(&inner).create_alone(caller, parent, name.clone(), node, flags);
            let made = tokio::select! {
                biased;
                () = inner.stop.cancelled() => return,
                made = making => made,
            };
            if let Err(Ok((entry, _))) = done.send(made) {
                inner.unmake(&caller, parent, &name, entry.attr.ino.0).await;
            }
        });
        made.await.unwrap_or(Err(Errno::EIO))
    }

    /// The same, and may be broken off.
    async fn create_alone(
        self: Arc<Self>,
        caller: Caller,
        parent: u64,
        name: Vec<u8>,
        node: NewNode,
        flags: OpenFlags,
    ) -> Result<(fuse::Entry, Opened), Errno> {
        let dir = self.core().dir(parent)?;
        let lock = entry_name(dir, &name);
        let Some(others) = self.agreement() else {
            return self.create_now(&caller, parent, &name, &node, flags).await;
        };
        let began = Instant::now();
        let _turn = self.locks.turn(lock).await;
        loop {
            if self.has_name(dir, &name)? {
                return Err(Errno::EEXIST);
            }
            match others
                .lock(lock, LockMode::Exclusive, Some(began.elapsed()))
                .await
            {
                Ok(_) => break,
                Err(error) => {
                    if began.elapsed() >= NAME {
                        return Err(Errno::ENOLCK);
                    }
                    match error {
                        // Whoever has it is making the file; one turn of the clock decides.
                        LockError::Taken | LockError::Deadlock => self.pause_between(began).await,
                        error => self.after_refusal(error, false, began).await?,
                    }
                }
            }
        }
        let made = self.create_now(&caller, parent, &name, &node, flags).await;
        let told = match &made {
            // Whoever has the name next knows of the file first.
            Ok(_) => self.feed_now().await.map(drop),
            Err(_) => Ok(()),
        };
        let is_known = others.unlock(lock).await;
        match (made, told) {
            (Ok(made), Ok(())) if is_known => Ok(made),
            (Ok((entry, _)), _) => {
                // Another machine may make it as well by now: this one did not.
                self.unmake(&caller, parent, &name, entry.attr.ino.0).await;
                Err(Errno::EIO)
            }
            (Err(errno), _) => Err(errno),
        }
    }

    /// Takes a file back that was made just now, unless its name means something else by now.
    async fn unmake(&self, caller: &Caller, parent: u64, name: &[u8], number: u64) {
        let name = fuse::Name::new(name);
        let ino = self.core().node(number).map(|node| node.ino);
        if let Ok(ino) = ino {
            loop {
                match self.unlink_this(caller, parent, name, ino) {
                    Ok(()) | Err(Stop::Errno(Errno::ENOENT)) => break,
                    Err(Stop::Busy) if self.room().await.is_ok() => {}
                    Err(stop) => {
                        tracing::warn!(?stop, "a file that was not made alone stays");
                        break;
                    }
                }
            }
        }
        self.release(number);
        self.forget_in(&mut self.core(), number, 1);
    }

    fn has_name(&self, dir: Ino, name: &[u8]) -> Result<bool, Errno> {
        let _core = self.core();
        match self.find(dir, fuse::Name::new(name)) {
            Ok(found) => Ok(found.is_some()),
            Err(Stop::Errno(errno)) => Err(errno),
            Err(Stop::Busy) => Ok(false),
        }
    }

    async fn create_now(
        &self,
        caller: &Caller,
        parent: u64,
        name: &[u8],
        node: &NewNode,
        flags: OpenFlags,
    ) -> Result<(fuse::Entry, Opened), Errno> {
        loop {
            match self.create(caller, parent, fuse::Name::new(name), node, flags) {
                Ok(made) => return Ok(made),
                Err(Stop::Errno(errno)) => return Err(errno),
                Err(Stop::Busy) => self.room().await?,
            }
        }
    }
}
