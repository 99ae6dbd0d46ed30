//! A smoothed round-trip time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Exponentially weighted mean with a weight of 1/8 for the newest sample (RFC 6298).
#[derive(Debug, Default)]
pub struct Smoothed {
    /// Microseconds plus one; 0: no sample yet.
    micros: AtomicU64,
}

impl Smoothed {
    /// Takes in a measurement.
    pub fn sample(&self, measured: Duration) {
        let new = u64::try_from(measured.as_micros()).unwrap_or(u64::MAX >> 8);
        // Two samples at the same moment may lose one: it is an estimate.
        let old = self.micros.load(Ordering::Relaxed);
        let smoothed = match old {
            0 => new,
            old => {
                let old = old - 1;
                old - old / 8 + new / 8
            }
        };
        self.micros.store(smoothed + 1, Ordering::Relaxed);
    }

    /// The mean so far.
    pub fn get(&self) -> Option<Duration> {
        let micros = self.micros.load(Ordering::Relaxed);
        micros.checked_sub(1).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_its_samples_slowly() {
        let rtt = Smoothed::default();
        assert_eq!(rtt.get(), None);
        rtt.sample(Duration::from_millis(8));
        assert_eq!(rtt.get(), Some(Duration::from_millis(8)));
        rtt.sample(Duration::from_millis(16));
        assert_eq!(rtt.get(), Some(Duration::from_millis(9)));
        rtt.sample(Duration::MAX);
        assert!(rtt.get().is_some());
    }
}
