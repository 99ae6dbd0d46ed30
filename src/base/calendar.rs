//! Days and moments of the calendar, in UTC.

/// A day of the (proleptic Gregorian) calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Year.
    pub year: u64,
    /// Month, from 1 on.
    pub month: u8,
    /// Day of the month, from 1 on.
    pub day: u8,
}

/// The day that begins so many days after 1970 did, after H. Hinnant, *chrono-Compatible Low-Level Date Algorithms*.
pub const fn date_of(days: u64) -> Date {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let next = if month <= 2 { 1 } else { 0 };
    Date {
        year: year_of_era + era * 400 + next,
        month: month as u8,
        day: day as u8,
    }
}

/// A moment as `2026-11-30T06:45:12Z`, of milliseconds since 1970.
pub fn utc_stamp(ms: u64) -> String {
    let seconds = ms / 1000;
    let Date { year, month, day } = date_of(seconds / 86_400);
    let time = seconds % 86_400;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
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
        assert!(utc_stamp(1 << 62).ends_with('Z'));
    }
}
