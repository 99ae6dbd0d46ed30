//! Limits on bandwidth that all connections of a process share, one for each direction.
//!
//! Connections take bandwidth in small portions, first come first served, and each has at most
//! one portion outstanding in each direction: so busy peers get equal shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What a bucket that was idle may send at once, as a time at its rate.
const BURST: Duration = Duration::from_millis(50);
/// Time that one portion takes at the rate of the bucket.
const PORTION: Duration = Duration::from_millis(20);
/// Smallest and largest portion in bytes.
const PORTION_BYTES: std::ops::RangeInclusive<u64> = (1 << 10)..=(128 << 10);

/// The bandwidth limits of a process. Cheap to clone; clones share the limits.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// What is sent.
    pub up: Arc<Bucket>,
    /// What is received.
    pub down: Arc<Bucket>,
}

impl Throttle {
    /// Limits in bytes per second; 0 is unlimited.
    pub fn new(up_bytes_per_s: u64, down_bytes_per_s: u64) -> Self {
        Throttle {
            up: Arc::new(Bucket::new(up_bytes_per_s)),
            down: Arc::new(Bucket::new(down_bytes_per_s)),
        }
    }

    /// No limits.
    pub fn unlimited() -> Self {
        Throttle::new(0, 0)
    }

    /// Changes both limits; whoever waits is scheduled anew.
    pub fn set(&self, up_bytes_per_s: u64, down_bytes_per_s: u64) {
        self.up.set_rate(up_bytes_per_s);
        self.down.set_rate(down_bytes_per_s);
    }
}

/// A token bucket, as a virtual clock: the time at which all bytes granted so far will have passed.
#[derive(Debug)]
pub struct Bucket {
    rate: AtomicU64,
    passed_at: Mutex<Instant>,
    changed: Notify,
}

impl Bucket {
    /// A bucket of this rate in bytes per second; 0 is unlimited.
    pub fn new(bytes_per_s: u64) -> Self {
        Bucket {
            rate: AtomicU64::new(bytes_per_s),
            passed_at: Mutex::new(Instant::now()),
            changed: Notify::new(),
        }
    }

    /// The rate in bytes per second; 0 is unlimited.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Changes the rate at once.
    pub fn set_rate(&self, bytes_per_s: u64) {
        {
            // What waiters had reserved at the old rate is reserved again at the new one.
            let mut passed_at = self.lock();
            *passed_at = Instant::now();
            self.rate.store(bytes_per_s, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
    }

    /// Most bytes to take at once, so that others get their turn soon.
    pub fn portion_bytes(&self) -> usize {
        let bytes = match self.rate() {
            0 => *PORTION_BYTES.end(),
            rate => {
                let portion = u128::from(rate) * PORTION.as_millis() / 1000;
                (portion as u64).clamp(*PORTION_BYTES.start(), *PORTION_BYTES.end())
            }
        };
        bytes as usize
    }

    /// Waits until `bytes` may pass. If the future is dropped the bytes count as passed.
    pub async fn take(&self, bytes: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(start) = self.reserve(bytes) else {
                return;
            };
            if start <= Instant::now() {
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = tokio::time::sleep_until(start) => return,
            }
        }
    }

    fn reserve(&self, bytes: usize) -> Option<Instant> {
        if self.rate() == 0 {
            return None;
        }
        let mut passed_at = self.lock();
        let rate = self.rate();
        if rate == 0 {
            return None;
        }
        let now = Instant::now();
        let start = (*passed_at).max(now.checked_sub(BURST).unwrap_or(now));
        let nanos = (bytes as u128 * 1_000_000_000 / u128::from(rate)).min(u128::from(u64::MAX));
        *passed_at = start + Duration::from_nanos(nanos as u64);
        Some(start)
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.passed_at
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_to_pass(bucket: &Bucket, portions: usize, bytes: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..portions {
            bucket.take(bytes).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_within_its_burst() {
        let bucket = Bucket::new(1 << 20);
        let took = time_to_pass(&bucket, 100, 100 << 10).await.as_secs_f64();
        assert!((9.4..10.0).contains(&took), "{took}");
        bucket.set_rate(0);
        assert_eq!(time_to_pass(&bucket, 100, 1 << 20).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_frees_those_who_wait() {
        let bucket = Arc::new(Bucket::new(10));
        bucket.take(1000).await;
        let waiting = tokio::spawn({
            let bucket = Arc::clone(&bucket);
            async move { time_to_pass(&bucket, 1, 1000).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        bucket.set_rate(1 << 30);
        assert!(waiting.await.unwrap() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn busy_takers_get_equal_shares() {
        let bucket = Arc::new(Bucket::new(1 << 20));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                tokio::spawn(async move {
                    let began = Instant::now();
                    let mut passed = 0;
                    while began.elapsed() < Duration::from_secs(10) {
                        let portion = bucket.portion_bytes();
                        bucket.take(portion).await;
                        passed += portion;
                    }
                    passed
                })
            })
            .collect();
        for task in tasks {
            let passed = task.await.unwrap() as f64;
            let share = f64::from(10 << 20) / 4.0;
            assert!((passed / share - 1.0).abs() < 0.1, "{passed} of {share}");
        }
    }
}
