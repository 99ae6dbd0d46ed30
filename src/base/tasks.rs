//! Where work that must not run on the reactor runs: bounded CPU and disk pools, injected.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// The two pools of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pools {
    /// Hashing, ciphers, coding, compression.
    pub cpu: Pool,
    /// Anything that may wait for a disk.
    pub disk: Pool,
}

impl Pools {
    /// Threads of the current tokio runtime's blocking pool, at most so many at once.
    pub fn threaded(cpu_threads: usize, disk_threads: usize) -> Self {
        Pools {
            cpu: Pool(Some(Arc::new(Semaphore::new(cpu_threads.max(1))))),
            disk: Pool(Some(Arc::new(Semaphore::new(disk_threads.max(1))))),
        }
    }

    /// Everything at once on the caller's thread: deterministic, for simulation.
    pub const fn inline() -> Self {
        Pools {
            cpu: Pool(None),
            disk: Pool(None),
        }
    }
}

/// A bounded pool of threads, or none (then work runs in place).
#[derive(Debug, Clone)]
pub struct Pool(Option<Arc<Semaphore>>);

impl Pool {
    /// Runs `work` to its end, even if the returned future is dropped after it was started.
    ///
    /// A panic in `work` is resumed in the caller.
    pub async fn run<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let Some(slots) = &self.0 else {
            return work();
        };
        let permit = Arc::clone(slots).acquire_owned().await;
        let outcome = tokio::task::spawn_blocking(move || {
            let _held = permit;
            work()
        })
        .await;
        match outcome {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only at shutdown of the runtime: nobody is left to take an answer.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// As [`Pool::run`], but on this thread where the runtime can give its other tasks to another one: two
    /// wake-ups less, for short work that somebody waits for.
    pub async fn run_near<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        match &self.0 {
            Some(slots) if flavor == tokio::runtime::RuntimeFlavor::MultiThread => {
                let _permit = Arc::clone(slots).acquire_owned().await;
                tokio::task::block_in_place(work)
            }
            _ => self.run(work).await,
        }
    }

    /// Whether work runs on the caller's thread.
    pub const fn is_inline(&self) -> bool {
        self.0.is_none()
    }
}
