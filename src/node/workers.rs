//! The background jobs of a peer: run, shown, paused and resumed in one place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::Node;
use crate::admin::AdminError;
use crate::admin::types::{WorkerChange, WorkerStatus};
use crate::base::worker::{Next, Worker, drive};

/// How soon a job notices that it may go on.
const PAUSE_LOOK: Duration = Duration::from_millis(500);

/// One job, as others see it.
#[derive(Debug, Clone)]
struct Job {
    name: &'static str,
    status: Arc<Mutex<String>>,
    is_paused: Arc<AtomicBool>,
}

/// All jobs, in the order in which they were started.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<Vec<Job>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Vec<Job>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// What each is doing.
    pub fn show(&self) -> Vec<WorkerStatus> {
        let shown = |job: &Job| WorkerStatus {
            name: job.name.to_owned(),
            status: text(&job.status).clone(),
            paused: job.is_paused.load(Ordering::Relaxed),
        };
        self.lock().iter().map(shown).collect()
    }
}

fn text(status: &Mutex<String>) -> MutexGuard<'_, String> {
    status.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Keeps a worker's status where others can read it, and holds it up while it is paused.
struct Watched<W> {
    worker: W,
    job: Job,
}

impl<W: Worker> Worker for Watched<W> {
    fn name(&self) -> &'static str {
        self.worker.name()
    }

    async fn step(&mut self) -> Next {
        if self.job.is_paused.load(Ordering::Relaxed) {
            return Next::Idle(PAUSE_LOOK);
        }
        let next = self.worker.step().await;
        *text(&self.job.status) = self.worker.status();
        next
    }

    fn status(&self) -> String {
        self.worker.status()
    }
}

impl Node {
    pub(super) fn run_worker<W: Worker>(&self, worker: W) {
        let job = Job {
            name: worker.name(),
            status: Arc::new(Mutex::new(worker.status())),
            is_paused: Arc::default(),
        };
        self.0.workers.lock().push(job.clone());
        let stop = self.0.stop.clone().cancelled_owned();
        self.0.tasks.spawn(drive(Watched { worker, job }, stop));
    }

    /// Pauses a job after its present step, or lets it go on; all jobs afterwards.
    pub(super) fn change_worker(
        &self,
        change: &WorkerChange,
    ) -> Result<Vec<WorkerStatus>, AdminError> {
        let jobs = self.0.workers.lock();
        let Some(job) = jobs.iter().find(|job| job.name == change.name) else {
            let names: Vec<&str> = jobs.iter().map(|job| job.name).collect();
            return Err(
                AdminError::usage(format!("there is no job of the name {}", change.name))
                    .hint(format!("the jobs are {}", names.join(", "))),
            );
        };
        job.is_paused.store(change.paused, Ordering::Relaxed);
        drop(jobs);
        Ok(self.0.workers.show())
    }
}
