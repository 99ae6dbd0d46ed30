//! The task in front of the writer: decides when to commit and when to bring the tables up to date, and has
//! both done on the disk pool. A commit does not wait for the tables.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::home::OpenMark;
use super::journal::{Engine, Flush, Flushed};
use super::shared::{Progress, Shared};
use super::turn::Turn;
use crate::base::Pools;

/// The next thing to do.
enum Act {
    /// Write what waits; with `freeze`, for the tables as well.
    Commit {
        freeze: bool,
    },
    /// The tables were brought up to date, or not.
    Flushed(Box<Flushed>),
    /// Carry more dirty data forward.
    Tidy,
    End,
    /// Look again.
    Look,
}

/// Tells those who wait that there is no writer any more, also where it panicked. Lets go of the disk
/// before, so that whoever closed the volume finds it free.
struct Ended {
    shared: Option<Arc<Shared>>,
    progress: Arc<watch::Sender<Progress>>,
}

impl Ended {
    fn new(shared: &Arc<Shared>) -> Self {
        Ended {
            shared: Some(Arc::clone(shared)),
            progress: Arc::clone(&shared.progress),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take()
            && !shared.is_over()
        {
            shared.poison("its writer ended before its time".to_owned());
        }
        self.progress
            .send_modify(|progress| progress.is_over = true);
    }
}

struct Writer {
    shared: Arc<Shared>,
    turn: Arc<Turn>,
    pools: Pools,
    flushing: Option<JoinHandle<Flushed>>,
    commit_by: Option<Instant>,
    flush_by: Option<Instant>,
    /// After the disk was full, the tables wait until then.
    rest_until: Option<Instant>,
}

/// Runs until nobody needs the volume any more.
pub(super) async fn run(turn: Arc<Turn>, shared: Arc<Shared>, pools: Pools, mark: OpenMark) {
    let ended = Ended::new(&shared);
    let mut writer = Writer {
        shared,
        turn,
        pools,
        flushing: None,
        commit_by: None,
        flush_by: None,
        rest_until: None,
    };
    loop {
        let fulls = writer.fulls();
        match writer.next().await {
            Act::Look => continue,
            Act::End => break,
            Act::Commit { freeze } => {
                if freeze {
                    writer.shared.wishes.flush.store(false, Ordering::Release);
                }
                let flush = writer.work(move |engine| engine.commit(freeze)).await;
                writer.committed(flush);
            }
            Act::Flushed(flushed) => writer.work(move |engine| engine.flushed(*flushed)).await,
            Act::Tidy => writer.work(Engine::tidy).await,
        }
        if writer.fulls() != fulls {
            let rest = writer.shared.options.commit_interval;
            writer.rest_until = Some(Instant::now() + rest);
        }
    }
    let shared = Arc::clone(&writer.shared);
    let close = move |engine: &mut Engine| {
        engine.give_back_filled();
        // Readers that are under way end first.
        let mut tables = shared.tables_mut();
        shared.closed.store(true, Ordering::Release);
        shared.state_mut().snapshot = None;
        *tables = None;
    };
    writer.work(close).await;
    drop(writer);
    drop(mark);
    drop(ended);
}

impl Writer {
    async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> T {
        let turn = Arc::clone(&self.turn);
        let run = move || {
            let mut engine = turn.lock();
            let answer = job(&mut engine);
            turn.looked_at(&engine);
            answer
        };
        self.pools.disk.run_near(run).await
    }

    fn fulls(&self) -> u64 {
        let progress = self.shared.progress.borrow();
        progress.fulls + progress.stalls
    }

    fn committed(&mut self, flush: Option<Flush>) {
        self.disarm();
        let idle = self.shared.options.flush_idle;
        self.flush_by = self.turn.is_ahead().then(|| Instant::now() + idle);
        if let Some(flush) = flush {
            self.flush_by = None;
            let pools = self.pools.clone();
            let flush = async move { pools.disk.run(move || flush.run()).await };
            self.flushing = Some(tokio::spawn(flush));
        }
    }

    /// What waits is written at the latest then.
    fn arm(&mut self, by: Instant) {
        self.commit_by = Some(by);
        self.shared.is_armed.store(true, Ordering::Release);
    }

    fn disarm(&mut self) {
        self.commit_by = None;
        self.shared.is_armed.store(false, Ordering::Release);
    }

    /// Waits for the next thing to do.
    async fn next(&mut self) -> Act {
        let now = Instant::now();
        let is_due = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        let is_closing = self.shared.wishes.close.load(Ordering::Acquire);
        let is_flushing = self.flushing.is_some();
        if self.shared.poisoned().is_some() {
            if is_closing && !is_flushing {
                return Act::End;
            }
        } else {
            let (commit, flush) = self.shared.needs();
            let waits = !self.shared.state().pending.is_empty();
            if waits && self.commit_by.is_none() {
                self.arm(now + self.shared.options.commit_interval);
            } else if !waits && is_due(self.commit_by) {
                // Others have written it.
                self.disarm();
                let idle = self.shared.options.flush_idle;
                let is_ahead = self.turn.is_ahead();
                self.flush_by = self.flush_by.or(is_ahead.then(|| now + idle));
                return Act::Look;
            }
            if self.rest_until.is_some_and(|until| until > now) && !is_closing {
                // Only what is asked for.
                if commit {
                    return Act::Commit { freeze: false };
                }
                return self.wait(self.rest_until).await;
            }
            let is_behind = self.turn.is_ahead() || waits;
            let wanted = flush || is_due(self.flush_by) || self.turn.is_long() || is_closing;
            if wanted && !is_flushing {
                // Closing tries once where there is no room.
                let gives_up = is_closing && self.rest_until.is_some_and(|until| until > now);
                if is_behind && !gives_up {
                    return Act::Commit { freeze: true };
                }
                if is_closing {
                    return Act::End;
                }
                if self.shared.wishes.flush.swap(false, Ordering::AcqRel) {
                    self.shared.tell(|progress| progress.flushes += 1);
                    return Act::Look;
                }
            }
            if commit || is_due(self.commit_by) {
                return Act::Commit { freeze: false };
            }
            if self.turn.has_more_to_carry() && !is_flushing {
                return Act::Tidy;
            }
        }
        let by = match (self.commit_by, self.flush_by) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        // What is due waits for the flush that is under way.
        let by = by.filter(|by| *by > now);
        self.wait(by).await
    }

    async fn wait(&mut self, by: Option<Instant>) -> Act {
        let shared = Arc::clone(&self.shared);
        let flushing = self.flushing.as_mut();
        let flushed = async move {
            match flushing {
                Some(flushing) => flushing.await,
                None => pending().await,
            }
        };
        let timer = async move {
            match by {
                Some(by) => sleep_until(by).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = flushed => {
                self.flushing = None;
                match outcome {
                    Ok(flushed) => Act::Flushed(Box::new(flushed)),
                    Err(error) => {
                        shared.poison(format!("bringing the tables up to date: {error}"));
                        Act::Look
                    }
                }
            }
            () = shared.wake.notified() => Act::Look,
            () = timer => Act::Look,
        }
    }
}
