//! Points in time with nanoseconds, also before 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970 (negative before) and nanoseconds that count forward from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// The clock of this machine.
    pub fn now() -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Time {
            secs: now.tv_sec,
            nanos: u32::try_from(now.tv_nsec).unwrap_or(0),
        }
    }

    /// The same as a `SystemTime`, the nearest one it can express.
    pub fn to_system(self) -> SystemTime {
        let part = Duration::from_nanos(self.nanos.into());
        let whole = Duration::from_secs(self.secs.unsigned_abs());
        let base = if self.secs < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        let exact = base.and_then(|base| base.checked_add(part));
        exact.unwrap_or(UNIX_EPOCH)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time {
                secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Time {
                        secs: -secs,
                        nanos: 0,
                    },
                    nanos => Time {
                        secs: -secs - 1,
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (secs, nanos) in [
            (0, 0),
            (1, 5),
            (-1, 0),
            (-2, 800_000_000),
            (-1, 999_999_999),
        ] {
            let time = Time { secs, nanos };
            assert_eq!(Time::from(time.to_system()), time);
        }
    }
}
