//! Wall-clock time, injected. Durations and timeouts use `tokio::time`, which a simulation pauses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the wall-clock time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    /// Simulated: `start_ms` at `since`, advancing with tokio's (paused) time.
    Virtual {
        start_ms: u64,
        since: Instant,
    },
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Clock(Source::System)
    }

    /// A clock that reads `start_ms` now and advances with tokio's time.
    pub fn simulated(start_ms: u64) -> Self {
        Clock(Source::Virtual {
            start_ms,
            since: Instant::now(),
        })
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .as_millis() as u64,
            Source::Virtual { start_ms, since } => start_ms + since.elapsed().as_millis() as u64,
        }
    }
}
