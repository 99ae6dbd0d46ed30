//! Background jobs: one shape for all, so that one place can run, show, pause and throttle them.

use std::time::Duration;

/// What a worker wants after one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more to do at once (subject to its throttle).
    Again,
    /// Nothing to do for so long, or until it is woken.
    Idle(Duration),
    /// Its job is finished for good.
    Done,
}

/// One background job.
pub trait Worker: Send + 'static {
    /// A short name, unique in the process.
    fn name(&self) -> &'static str;

    /// One bounded step. Cancel safe: dropping the future loses at most that step's work.
    fn step(&mut self) -> impl Future<Output = Next> + Send;

    /// What it is doing, in one line.
    fn status(&self) -> String;
}

/// Runs a worker until it is done or `stop` resolves.
pub async fn drive<W: Worker>(mut worker: W, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    loop {
        let next = tokio::select! {
            biased;
            () = &mut stop => return,
            next = worker.step() => next,
        };
        match next {
            Next::Again => tokio::task::yield_now().await,
            Next::Done => return,
            Next::Idle(pause) => tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(pause) => {}
            },
        }
    }
}
