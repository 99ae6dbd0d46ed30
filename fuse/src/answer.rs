//! An answer that is there at once, or one that has to be waited for.

use std::future::Future;
use std::pin::Pin;

use crate::Errno;

/// What every operation of a [`FileSystem`](crate::FileSystem) returns.
///
/// An answer from memory is sent by the thread that read the request: no task, no allocation, no
/// second wake-up. `examples/dispatch.rs` measures what the choice costs: nanoseconds against the wake-up
/// of another thread. Whatever must wait moves what it borrowed into a future.
#[must_use]
pub enum Answer<T> {
    /// Known already.
    Ready(Result<T, Errno>),
    /// To be driven by the runtime given at mount. It may be dropped, at a point where it waits, long
    /// after the kernel had an error in its place.
    Later(Pin<Box<dyn Future<Output = Result<T, Errno>> + Send>>),
}

impl<T> Answer<T> {
    /// A future to be run elsewhere.
    pub fn later(future: impl Future<Output = Result<T, Errno>> + Send + 'static) -> Answer<T> {
        Answer::Later(Box::pin(future))
    }

    /// Success, known already.
    pub fn ok(value: T) -> Answer<T> {
        Answer::Ready(Ok(value))
    }

    /// Failure, known already.
    pub fn err(errno: Errno) -> Answer<T> {
        Answer::Ready(Err(errno))
    }

    /// Waits for it, wherever it comes from.
    pub async fn wait(self) -> Result<T, Errno> {
        match self {
            Answer::Ready(result) => result,
            Answer::Later(future) => future.await,
        }
    }

    /// The answer if it is there, for callers that know that it must be; `EAGAIN` if it is not.
    pub fn now(self) -> Result<T, Errno> {
        match self {
            Answer::Ready(result) => result,
            Answer::Later(_) => Err(Errno::EAGAIN),
        }
    }
}

impl<T> From<Result<T, Errno>> for Answer<T> {
    fn from(result: Result<T, Errno>) -> Answer<T> {
        Answer::Ready(result)
    }
}
