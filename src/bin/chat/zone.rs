//! Times in the local zone.
//!
//! The zone's rules are read once, from `TZ` or `/etc/localtime`, and without the C library: its
//! `localtime_r` reads the environment behind the back of other threads.

use tz::TimeZone;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Which local time it is when.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// As this process's environment says; UTC if it says nothing that can be read.
    pub fn local() -> Self {
        let zone = match std::env::var("TZ") {
            Ok(name) if !name.is_empty() => TimeZone::from_posix_tz(&name).ok(),
            _ => TimeZone::local().ok(),
        };
        Self(zone.unwrap_or_else(TimeZone::utc))
    }

    /// By a POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.
    #[cfg(test)]
    pub fn posix(rule: &str) -> Self {
        Self(TimeZone::from_posix_tz(rule).expect("a rule of a test"))
    }

    /// Seconds since the epoch as a local clock would count them.
    fn local_seconds(&self, us: u64) -> u64 {
        let seconds = (us / 1_000_000) as i64;
        let offset = self
            .0
            .find_local_time_type(seconds)
            .map_or(0, |kind| i64::from(kind.ut_offset()));
        seconds.saturating_add(offset).max(0).cast_unsigned()
    }

    /// `14:03`.
    pub fn clock(&self, us: u64) -> String {
        let minute = self.local_seconds(us) / 60;
        format!("{:02}:{:02}", minute / 60 % 24, minute % 60)
    }

    /// Days since 1970-01-01, in local time.
    pub fn day(&self, us: u64) -> u64 {
        self.local_seconds(us) / 86_400
    }

    /// `2026-01-02 03:04:05`.
    pub fn date_and_time(&self, us: u64) -> String {
        let seconds = self.local_seconds(us);
        let (year, month, day) = civil(seconds / 86_400);
        let second = seconds % 86_400;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// `Sun 22 Nov 2026`.
    pub fn date(&self, us: u64) -> String {
        let day = self.day(us);
        let (year, month, date) = civil(day);
        let month = MONTHS[(month as usize - 1) % 12];
        format!("{} {date} {month} {year}", DAYS[(day % 7) as usize])
    }
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summer_time_is_an_hour_ahead() {
        let zone = Zone::posix("CET-1CEST,M3.5.0,M10.5.0/3");
        let winter = 1_767_323_045_000_000; // 2026-01-02 03:04:05 UTC
        assert_eq!(
            (zone.clock(winter), zone.date(winter)),
            ("04:04".into(), "Fri 2 Jan 2026".into())
        );
        let summer = 1_782_867_600_000_000; // 2026-07-01 01:00:00 UTC
        assert_eq!(zone.clock(summer), "03:00");
    }

    #[test]
    fn dates_of_any_year_are_right() {
        let utc = Zone::posix("UTC0");
        for (us, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399_000_000, "2000-02-28 23:59:59"),
            (951_782_400_000_000, "2000-02-29 00:00:00"),
            (1_767_323_045_000_000, "2026-01-02 03:04:05"),
        ] {
            assert_eq!(utc.date_and_time(us), expected);
        }
        let zone = Zone::posix("CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(
            zone.date_and_time(1_767_323_045_000_000),
            "2026-01-02 04:04:05"
        );
    }

    #[test]
    fn the_day_turns_at_local_midnight() {
        let zone = Zone::posix("NZST-12");
        let us = 1_767_268_800_000_000; // 2026-01-01 12:00:00 UTC
        assert_eq!(zone.day(us), zone.day(us - 1) + 1);
        assert_eq!(zone.date(us), "Fri 2 Jan 2026");
    }
}
