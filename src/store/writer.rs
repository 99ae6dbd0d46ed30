//! The task in front of the writer: gathers waiting operations into groups, has each group done on
//! the disk pool, and hands the answers out. There is one, so there is no race between writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::engine::{Answer, Engine, Work};
use super::error::StoreError;
use super::quota::Reservation;
use super::shared::Shared;
use crate::base::Pools;

/// Operations done with one commit.
const GROUP_MAX: usize = 1024;

/// An operation on its way to the writer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Answer, StoreError>>,
    /// Given back when the operation is done.
    pub(super) reservation: Option<Reservation>,
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// What the writer is sent.
#[derive(Debug)]
pub(super) enum Order {
    Do(Box<Job>),
    /// Finish what was sent before, bring the index up to date and end.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

const fn payload(work: &Work) -> usize {
    match work {
        Work::Put { shard, .. } => shard.data().len(),
        _ => 0,
    }
}

enum Group {
    Jobs(Vec<Job>),
    /// Also the jobs that came before it.
    Close(Vec<Job>, Option<oneshot::Sender<Result<(), StoreError>>>),
}

/// Waits for work and gathers what belongs into one commit.
async fn gather(queue: &mut mpsc::Receiver<Order>, engine: &Engine, shared: &Shared) -> Group {
    let options = &shared.options;
    let mut jobs = Vec::new();
    let first = if engine.has_background() {
        match queue.try_recv() {
            Ok(order) => Some(order),
            Err(mpsc::error::TryRecvError::Empty) => return Group::Jobs(jobs),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
        }
    } else if engine.needs_flush() {
        let deadline = Instant::now() + options.flush_idle;
        match timeout_at(deadline, queue.recv()).await {
            Ok(order) => order,
            Err(_) => return Group::Jobs(vec![Job::unasked(Work::Flush)]),
        }
    } else {
        queue.recv().await
    };
    let deadline = Instant::now() + options.commit_window;
    let mut bytes = 0;
    let mut next = first;
    loop {
        match next {
            None => return Group::Close(jobs, None),
            Some(Order::Close(reply)) => return Group::Close(jobs, Some(reply)),
            Some(Order::Do(job)) => {
                bytes += payload(&job.work);
                jobs.push(*job);
            }
        }
        if bytes >= options.commit_bytes || jobs.len() >= GROUP_MAX {
            return Group::Jobs(jobs);
        }
        next = match queue.try_recv() {
            Ok(order) => Some(order),
            Err(_) if options.commit_window.is_zero() => return Group::Jobs(jobs),
            Err(_) => match timeout_at(deadline, queue.recv()).await {
                Ok(order) => order,
                Err(_) => return Group::Jobs(jobs),
            },
        };
    }
}

impl Job {
    /// For work whose answer nobody waits for.
    fn unasked(work: Work) -> Self {
        Job {
            work,
            reply: oneshot::channel().0,
            reservation: None,
            memory: None,
        }
    }
}

/// Runs until it is told to close or no handle is left.
pub(super) async fn run(
    mut engine: Box<Engine>,
    mut queue: mpsc::Receiver<Order>,
    pools: Pools,
    shared: Arc<Shared>,
) {
    loop {
        let (jobs, close) = match gather(&mut queue, &engine, &shared).await {
            Group::Jobs(jobs) => (jobs, None),
            Group::Close(jobs, reply) => (jobs, Some(reply)),
        };
        engine = commit(engine, jobs, &pools).await;
        let Some(reply) = close else { continue };
        queue.close();
        let outcome = pools
            .disk
            .run(move || {
                let outcome = match shared.poisoned() {
                    // The log has everything that was acknowledged.
                    Some(error) => Err(error),
                    None => engine
                        .run(&[Work::Flush])
                        .pop()
                        .map_or(Ok(()), |a| a.map(drop)),
                };
                shared.closed.store(true, Ordering::Release);
                shared.index.close();
                drop(engine);
                // Nothing of it is held any more when the caller hears of it: the disk is free.
                drop(shared);
                outcome
            })
            .await;
        // A caller that no longer waits has its answer in the closed queue.
        let _ = reply.map(|reply| reply.send(outcome));
        return;
    }
}

async fn commit(mut engine: Box<Engine>, jobs: Vec<Job>, pools: &Pools) -> Box<Engine> {
    let mut works = Vec::with_capacity(jobs.len());
    let mut replies = Vec::with_capacity(jobs.len());
    let mut held = Vec::with_capacity(jobs.len());
    for job in jobs {
        works.push(job.work);
        replies.push(job.reply);
        held.push((job.reservation, job.memory));
    }
    let (engine, answers) = pools
        .disk
        .run(move || {
            let answers = engine.run(&works);
            (engine, answers)
        })
        .await;
    drop(held);
    for (reply, answer) in replies.into_iter().zip(answers) {
        // The caller may have stopped waiting; what was written stays.
        let _ = reply.send(answer);
    }
    engine
}
