//! A request between the kernel's question and the answer: inline or moved, bounded, with a deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{Answer, Errno, FileSystem};

tokio::task_local! {
    /// Whether the caller of the operation was told that it failed.
    static LATE: Arc<AtomicBool>;
}

/// Whether whoever asked for the operation that is being carried out was told already that it failed, because it
/// took too long. What has not begun to take effect is not to be begun then: what was done since counts.
///
/// False outside of operations of a mount.
pub fn is_late() -> bool {
    LATE.try_with(|late| late.load(Ordering::Acquire))
        .unwrap_or(false)
}

/// Sends an answer. Each reply of the protocol crate can take a few kinds of value.
pub(super) trait Finish<T>: Send + 'static {
    fn finish(self, result: Result<T, Errno>);
}

/// What all requests of a mount share.
pub(super) struct Flight<F> {
    pub(super) fs: Arc<F>,
    pub(super) runtime: Handle,
    deadline: Duration,
    permits: Arc<Semaphore>,
    permits_all: usize,
}

/// What becomes of a request that comes on top of all that are waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Refused,
    Taken,
}

impl<F: FileSystem> Flight<F> {
    pub(super) fn new(fs: Arc<F>, runtime: Handle, deadline: Duration, in_flight: usize) -> Self {
        Flight {
            fs,
            runtime,
            deadline,
            permits: Arc::new(Semaphore::new(in_flight)),
            permits_all: in_flight,
        }
    }

    /// How many requests are waited for.
    pub(super) fn count(&self) -> usize {
        self.permits_all - self.permits.available_permits()
    }

    /// Tells the filesystem something that has no answer.
    pub(super) fn tell(&self, tell: impl FnOnce(&F)) {
        if catch_unwind(AssertUnwindSafe(|| tell(&self.fs))).is_err() {
            tracing::error!("a filesystem panicked");
        }
    }

    /// Asks the filesystem and answers: at once if it can, else when it can or at the deadline.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        reply: impl Finish<T>,
        ask: impl FnOnce(&F) -> Answer<T>,
    ) {
        self.answer_or_undo(reply, Errno::EIO, ask, |_, _| ());
    }

    /// The same for what must be taken back when nobody learned of it: lookups and handles.
    /// `late` is the error at the deadline.
    pub(super) fn answer_or_undo<T: Send + 'static>(
        &self,
        reply: impl Finish<T>,
        late: Errno,
        ask: impl FnOnce(&F) -> Answer<T>,
        undo: impl FnOnce(&F, T) + Send + 'static,
    ) {
        self.answer_within(self.deadline, reply, late, ask, undo);
    }

    /// The same for what gives something back, however many requests are waited for: refused, it would be kept for
    /// ever. The kernel bounds these: each is one of a handle that is closed, or of a thread that waits.
    pub(super) fn answer_always<T: Send + 'static>(
        &self,
        reply: impl Finish<T>,
        ask: impl FnOnce(&F) -> Answer<T>,
    ) {
        let deadline = self.deadline;
        self.carry(deadline, Beyond::Taken, reply, Errno::EIO, ask, |_, _| ());
    }

    /// The same as [`Flight::answer_or_undo`] with a deadline of its own.
    pub(super) fn answer_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        reply: impl Finish<T>,
        late: Errno,
        ask: impl FnOnce(&F) -> Answer<T>,
        undo: impl FnOnce(&F, T) + Send + 'static,
    ) {
        self.carry(deadline, Beyond::Refused, reply, late, ask, undo);
    }

    fn carry<T: Send + 'static>(
        &self,
        deadline: Duration,
        beyond: Beyond,
        reply: impl Finish<T>,
        late: Errno,
        ask: impl FnOnce(&F) -> Answer<T>,
        undo: impl FnOnce(&F, T) + Send + 'static,
    ) {
        // A panic must cost one request, not the thread that serves all others.
        let future = match catch_unwind(AssertUnwindSafe(|| ask(&self.fs))) {
            Ok(Answer::Ready(result)) => return reply.finish(result),
            Ok(Answer::Later(future)) => future,
            Err(_) => {
                tracing::error!("a filesystem operation panicked; its caller got EIO");
                return reply.finish(Err(Errno::EIO));
            }
        };
        let permit = self.permits.clone().try_acquire_owned().ok();
        if permit.is_none() && beyond == Beyond::Refused {
            tracing::warn!(
                max = self.permits_all,
                "too many requests wait; one got EAGAIN"
            );
            return reply.finish(Err(Errno::EAGAIN));
        }
        let fs = self.fs.clone();
        self.runtime.spawn(async move {
            let _permit = permit;
            let is_late = Arc::new(AtomicBool::new(false));
            let future = AssertUnwindSafe(future).catch_unwind();
            let mut future = pin!(LATE.scope(Arc::clone(&is_late), future));
            match timeout(deadline, &mut future).await {
                Ok(Ok(result)) => return reply.finish(result),
                Ok(Err(_)) => {
                    tracing::error!("a filesystem operation panicked; its caller got EIO");
                    return reply.finish(Err(Errno::EIO));
                }
                Err(_) => {
                    is_late.store(true, Ordering::Release);
                    reply.finish(Err(late));
                }
            }
            // What has begun goes on for as long again: half a write is worse than a late one. What
            // it then answers is taken back, and what has not ended by then is dropped.
            match timeout(deadline, future).await {
                Ok(Ok(Ok(value))) => undo(&fs, value),
                Ok(Ok(Err(_))) => (),
                Ok(Err(_)) => tracing::error!("a filesystem operation panicked after its deadline"),
                Err(_) => tracing::warn!("a filesystem operation was given up"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::memfs::{Limits, MemFs};

    struct Told(Sender<Result<(), Errno>>);

    impl Finish<()> for Told {
        fn finish(self, result: Result<(), Errno>) {
            self.0.send(result).unwrap();
        }
    }

    /// What has not begun when its caller was told that it failed learns of that.
    #[test]
    fn who_is_late_knows_it() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let fs = Arc::new(MemFs::new(Limits::default()));
        let deadline = Duration::from_secs(60);
        let flight = Flight::new(fs, runtime.handle().clone(), deadline, 8);
        let (to, told) = channel();
        let (note, notes) = channel();
        flight.answer(Told(to), |_: &MemFs| {
            Answer::later(async move {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_secs(35)).await;
                    note.send(is_late()).unwrap();
                }
                Ok(())
            })
        });
        runtime.block_on(async { tokio::time::sleep(Duration::from_secs(130)).await });
        assert_eq!(told.try_recv(), Ok(Err(Errno::EIO)));
        assert_eq!(notes.iter().collect::<Vec<_>>(), [false, true, true]);
        assert!(!is_late(), "nobody asked");
    }

    /// With as many requests waiting as may, others are refused, and a closing is not: its locks would stay.
    #[test]
    fn what_gives_something_back_is_never_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let fs = Arc::new(MemFs::new(Limits::default()));
        let deadline = Duration::from_secs(60);
        let flight = Flight::new(fs, runtime.handle().clone(), deadline, 0);
        let (to, told) = channel();
        let later = |_: &MemFs| Answer::later(async { Ok(()) });
        flight.answer(Told(to.clone()), later);
        assert_eq!(told.try_recv(), Ok(Err(Errno::EAGAIN)));
        flight.answer_always(Told(to), later);
        let answer = runtime.block_on(async {
            loop {
                match told.try_recv() {
                    Ok(answer) => break answer,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        assert_eq!(answer, Ok(()));
    }
}
