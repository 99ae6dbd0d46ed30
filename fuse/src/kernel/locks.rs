//! Locks that hold between machines: taking them, and giving them back with the file.

use std::sync::Arc;
use std::time::Duration;

use super::flight::{Finish, Flight};
use crate::{Answer, Errno, Fh, FileSystem, Ino, LockKind, LockRequest, OpenFlags};

/// How long the kernel may wait for a lock. It passes no signals on, so a program that is killed meanwhile ends when
/// this is over at the latest.
const WAIT: Duration = Duration::from_secs(600);

/// Takes or releases a lock, and answers.
pub(super) fn set<F: FileSystem>(
    flight: &Flight<F>,
    lock: Result<LockRequest, Errno>,
    reply: impl Finish<()>,
) {
    let lock = match lock {
        Ok(lock) => lock,
        Err(error) => return reply.finish(Err(error)),
    };
    if lock.range.kind == LockKind::Unlock {
        return flight.answer_always(reply, |fs: &F| fs.setlk(&lock));
    }
    // A lock had too late belongs to nobody.
    let runtime = flight.runtime.clone();
    let undo = move |fs: &F, (): ()| {
        let mut back = lock;
        back.range.kind = LockKind::Unlock;
        runtime.spawn(fs.setlk(&back).wait());
    };
    let ask = |fs: &F| fs.setlk(&lock);
    match lock.waits {
        // The kernel would take EINTR for a reason to begin anew.
        true => flight.answer_within(WAIT, reply, Errno::ENOLCK, ask, undo),
        false => flight.answer_or_undo(reply, Errno::EIO, ask, undo),
    }
}

/// Closes a file that was locked by flock(2), with all its descriptors: the lock goes with it.
pub(super) fn release<F: FileSystem>(
    flight: &Flight<F>,
    owner: u64,
    (ino, fh, flags): (Ino, Fh, OpenFlags),
    reply: impl Finish<()>,
) {
    let fs = Arc::clone(&flight.fs);
    let ask = move |asked: &F| {
        let unlocked = asked.unlock_closed(ino, fh, owner);
        Answer::later(async move {
            // What became of the lock changes nothing: the file is closed.
            let _ = unlocked.wait().await;
            fs.release(ino, fh, flags).wait().await
        })
    };
    flight.answer_always(reply, ask);
}
