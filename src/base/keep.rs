//! Which of many moments are to be kept: some of the last, and one of each hour, day, week, month and year.

use std::collections::BTreeSet;

use super::calendar::Date;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How many are kept: the last ones, and the last one of each of the last hours, days, weeks, months and years in which
/// there is any. Weeks begin on Monday; all of them are those of UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepRule {
    /// The last ones, whenever they were made.
    pub last: u32,
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
}

/// A stretch of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stretch {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Stretch {
    /// Which one of its kind a moment is in; later ones have greater numbers.
    const fn of(self, ms: u64) -> u64 {
        let date = Date::of((ms / DAY_MS).cast_signed());
        match self {
            Stretch::Hour => ms / HOUR_MS,
            Stretch::Day => ms / DAY_MS,
            // 1970 began on a Thursday.
            Stretch::Week => (ms / DAY_MS + 3) / 7,
            Stretch::Month => date.year.cast_unsigned() * 12 + date.month as u64,
            Stretch::Year => date.year.cast_unsigned(),
        }
    }
}

impl KeepRule {
    /// Names of its parts, in their order, with how many each keeps.
    pub const fn parts(&self) -> [(&'static str, u32); 6] {
        [
            ("last", self.last),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }

    /// The part of a name.
    pub fn part_mut(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "last" => &mut self.last,
            "hourly" => &mut self.hourly,
            "daily" => &mut self.daily,
            "weekly" => &mut self.weekly,
            "monthly" => &mut self.monthly,
            "yearly" => &mut self.yearly,
            _ => return None,
        })
    }

    /// Whether it says nothing: then everything is kept.
    pub fn is_empty(&self) -> bool {
        self.last == 0 && self.shortest().is_none()
    }

    const fn all(&self) -> [(Stretch, u32); 5] {
        [
            (Stretch::Hour, self.hourly),
            (Stretch::Day, self.daily),
            (Stretch::Week, self.weekly),
            (Stretch::Month, self.monthly),
            (Stretch::Year, self.yearly),
        ]
    }

    /// The shortest stretch of which it keeps any.
    fn shortest(&self) -> Option<Stretch> {
        let mut used = self.all().into_iter().filter(|(_, count)| *count > 0);
        used.next().map(|(stretch, _)| stretch)
    }

    /// Which of these moments (milliseconds since 1970) are kept: all of them, if it says nothing.
    pub fn kept(&self, moments: &[u64]) -> BTreeSet<u64> {
        let all: BTreeSet<u64> = moments.iter().copied().collect();
        if self.is_empty() {
            return all;
        }
        let mut kept: BTreeSet<u64> = all.iter().rev().take(self.last as usize).copied().collect();
        for (stretch, count) in self.all() {
            let mut left = count;
            let mut last = None;
            for moment in all.iter().rev() {
                if left == 0 {
                    break;
                }
                let which = stretch.of(*moment);
                if last != Some(which) {
                    last = Some(which);
                    left -= 1;
                    kept.insert(*moment);
                }
            }
        }
        kept
    }

    /// Whether it is time for another one: nothing was made yet in the shortest stretch of which it keeps any.
    pub fn is_due(&self, newest: Option<u64>, now_ms: u64) -> bool {
        match (self.shortest(), newest) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(stretch), Some(newest)) => stretch.of(newest) < stretch.of(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-30, a Monday.
    const MONDAY: u64 = 1_795_996_800_000;

    fn rule(text: &str) -> KeepRule {
        let mut rule = KeepRule::default();
        for part in text.split(' ').filter(|part| !part.is_empty()) {
            let (name, count) = part.split_once('=').unwrap();
            *rule.part_mut(name).unwrap() = count.parse().unwrap();
        }
        rule
    }

    #[test]
    fn one_of_each_stretch_stays_the_last_of_it() {
        // Every half hour for three days, up to one o'clock on Monday.
        let all: Vec<u64> = (0..146)
            .map(|at| MONDAY + HOUR_MS - at * HOUR_MS / 2)
            .collect();
        let kept = |text| -> Vec<u64> { rule(text).kept(&all).into_iter().rev().collect() };
        assert_eq!(kept("last=2"), all[..2]);
        assert_eq!(kept("hourly=3"), [all[0], all[1], all[3]]);
        // The last of Monday, of Sunday and of Saturday.
        assert_eq!(
            kept("daily=3"),
            [all[0], MONDAY - HOUR_MS / 2, MONDAY - DAY_MS - HOUR_MS / 2]
        );
        assert_eq!(kept("weekly=9"), [all[0], MONDAY - HOUR_MS / 2]);
        assert_eq!(kept("monthly=9"), [all[0]]);
        assert_eq!(kept("yearly=9 last=1 daily=1"), [all[0]]);
        assert_eq!(kept("").len(), all.len());
    }

    #[test]
    fn another_one_is_due_when_the_shortest_stretch_has_none() {
        let daily = rule("daily=7 weekly=4");
        assert!(daily.is_due(None, MONDAY));
        assert!(!daily.is_due(Some(MONDAY), MONDAY + DAY_MS - 1));
        assert!(daily.is_due(Some(MONDAY), MONDAY + DAY_MS));
        // A clock that was set back makes none.
        assert!(!daily.is_due(Some(MONDAY + 9 * DAY_MS), MONDAY));
        assert!(!rule("last=3").is_due(None, MONDAY));
        assert!(rule("weekly=1").is_due(Some(MONDAY - 1), MONDAY));
    }

    proptest! {
        #[test]
        fn what_is_kept_follows_the_rule(
            moments in prop::collection::vec(0..(3 * 366 * DAY_MS), 0..200),
            counts in prop::array::uniform6(0u32..9),
        ) {
            let [last, hourly, daily, weekly, monthly, yearly] = counts;
            let rule = KeepRule { last, hourly, daily, weekly, monthly, yearly };
            let kept = rule.kept(&moments);
            let all: BTreeSet<u64> = moments.iter().copied().collect();
            prop_assert!(kept.is_subset(&all));
            if rule.is_empty() {
                prop_assert_eq!(&kept, &all);
                return Ok(());
            }
            // The newest stays, and no more than the rule names.
            prop_assert_eq!(kept.last(), all.last());
            prop_assert!(kept.len() <= counts.iter().sum::<u32>() as usize);
            // Thinning again lets nothing go, so it does not matter how often it is done.
            let again: Vec<u64> = kept.iter().copied().collect();
            prop_assert_eq!(&rule.kept(&again), &kept);
        }
    }
}
