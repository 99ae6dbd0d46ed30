//! Points in time for people. Always in UTC: the program knows no time zones.

use crate::base::calendar::{Date, moment_of};

/// `2026-01-31 23:59` for seconds since 1970.
pub(super) fn utc_time(seconds: i64) -> String {
    let (Date { year, month, day }, [hour, minute, _]) = moment_of(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (-1, "1969-12-31 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_140, "2024-02-29 23:59"),
            (4_102_444_800, "2100-01-01 00:00"),
        ] {
            assert_eq!(utc_time(seconds), text);
        }
    }
}
