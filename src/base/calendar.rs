//! Days and moments of the calendar, in UTC.

/// A day of the (proleptic Gregorian) calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Year.
    pub year: i64,
    /// Month, from 1 on.
    pub month: u8,
    /// Day of the month, from 1 on.
    pub day: u8,
}

impl Date {
    /// The day that begins so many days after 1970 did, or before.
    ///
    /// H. Hinnant, *chrono-Compatible Low-Level Date Algorithms*, `civil_from_days`.
    pub const fn of(days: i64) -> Date {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = match month_from_march < 10 {
            true => month_from_march + 3,
            false => month_from_march - 9,
        };
        let next = if month <= 2 { 1 } else { 0 };
        Date {
            year: year_of_era + era * 400 + next,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
        }
    }
}

/// A moment of seconds since 1970: its day, and hour, minute and second in it.
pub const fn moment_of(seconds: i64) -> (Date, [u8; 3]) {
    let time = seconds.rem_euclid(86_400);
    let clock = [time / 3600, time / 60 % 60, time % 60];
    let [hour, minute, second] = clock;
    (
        Date::of(seconds.div_euclid(86_400)),
        [hour as u8, minute as u8, second as u8],
    )
}

/// A moment as `2026-11-30T06:45:12Z`, of milliseconds since 1970.
pub fn utc_stamp(ms: u64) -> String {
    let (day, [hour, minute, second]) = moment_of((ms / 1000).cast_signed());
    let Date { year, month, day } = day;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(utc_stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_stamp(951_782_400_999), "2000-02-29T00:00:00Z");
        assert_eq!(utc_stamp(1_795_386_901_000), "2026-11-22T22:35:01Z");
        let before = Date {
            year: 1969,
            month: 12,
            day: 31,
        };
        assert_eq!(moment_of(-1), (before, [23, 59, 59]));
        assert!(utc_stamp(1 << 62).ends_with('Z'));
    }
}
