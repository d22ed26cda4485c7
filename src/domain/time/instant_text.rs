//! The text of an instant: RFC 3339 in UTC, as much of a fraction as there is.
//!
//! Owns: that text, without a calendar library: a charge line has four of them. Leaves to others: reading it, civil dates of
//! other zones (`time`).
//!
//! ```text
//! 2026-01-31T23:30:00Z    2026-01-31T23:30:00.25Z
//! ```
//!
//! Invariants: it is the text that jiff writes, of every instant that 64 bits have.

use super::{DAY, HOUR, SECOND, Timestamp};

/// Bytes of the longest text: nine digits of a fraction.
const BYTES_MAX: usize = 30;

/// A text on the stack.
pub(super) struct InstantText {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl InstantText {
    /// The text of an instant.
    pub(super) fn of(instant: Timestamp) -> Self {
        let nanoseconds = instant.nanoseconds();
        let (days, of_day) = (nanoseconds.div_euclid(DAY), nanoseconds.rem_euclid(DAY));
        let (year, month, day) = civil_of_days(days);
        let (hour, minute) = (of_day / HOUR, of_day / (60 * SECOND) % 60);
        let (second, fraction) = (of_day / SECOND % 60, of_day % SECOND);
        let mut text = Self { bytes: *b"0000-00-00T00:00:00.000000000Z", length: 19 };
        text.write(0, 4, year);
        for (at, number) in [(5, month), (8, day), (11, hour), (14, minute), (17, second)] {
            text.write(at, 2, number);
        }
        if fraction != 0 {
            text.write(20, 9, fraction);
            text.length = BYTES_MAX - 1;
            while text.bytes[text.length - 1] == b'0' {
                text.length -= 1;
            }
        }
        text.bytes[text.length] = b'Z';
        text.length += 1;
        text
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).expect("digits and marks are ASCII")
    }

    fn write(&mut self, at: usize, digits: usize, number: i64) {
        let mut rest = number.unsigned_abs();
        for byte in self.bytes[at..at + digits].iter_mut().rev() {
            *byte = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

/// Year, month and day of a count of days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"):
/// years begin in March, so that the leap day is the last one, and 400 of them are one era of 146,097 days.
fn civil_of_days(days: i64) -> (i64, i64, i64) {
    let since_era = days + 719_468;
    let (era, of_era) = (since_era.div_euclid(146_097), since_era.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(nanoseconds: i64) {
        let instant = Timestamp::from_nanoseconds(nanoseconds);
        assert_eq!(instant.to_string(), instant.to_jiff().to_string(), "{nanoseconds}");
    }

    #[test]
    fn every_day_of_the_supported_years_has_the_text_that_the_calendar_says() {
        let mut instant = Timestamp::MIN;
        while instant <= Timestamp::END {
            check(instant.nanoseconds());
            check(instant.nanoseconds() - 1);
            instant = instant.plus(DAY);
        }
        [i64::MIN, -1, 0, 1, i64::MAX].into_iter().for_each(check);
    }

    proptest! {
        #[test]
        fn any_instant_has_the_text_that_the_calendar_says(
            nanoseconds in any::<i64>(),
            unit in prop::sample::select(vec![1, 1_000, 1_000_000, SECOND, HOUR, DAY]),
        ) {
            check(nanoseconds / unit * unit);
        }
    }
}
