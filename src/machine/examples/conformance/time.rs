//! Instants as cases write them.
//!
//! Owns: dates, date-times without a zone (UTC), RFC 3339, seconds since 1970; instants of any year. Leaves to others: days
//! and periods (`domain::time`).
//!
//! Invariants: an instant outside 64 bits of nanoseconds is the nearest inside, so that "never" stays last.

use domain::time::{DAY, SECOND};
use domain::{Span, Timestamp};

use crate::case::{Case, Stop, number};

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// A date or a date-time; without a zone it is UTC.
pub(crate) fn instant(text: &str) -> Result<Timestamp, Stop> {
    let parsed = date_time(text).ok_or_else(|| Stop::Broken(format!("{text:?} is no instant")))?;
    Ok(Timestamp::from_nanoseconds(i64::try_from(parsed.nanoseconds).unwrap_or(if parsed.nanoseconds < 0 {
        i64::MIN
    } else {
        i64::MAX
    })))
}

/// The instant that a case names, if it does.
pub(crate) fn maybe_instant(case: &Case<'_>, name: &str) -> Result<Option<Timestamp>, Stop> {
    case.text(name).map(instant).transpose()
}

/// An instant that must be named.
pub(crate) fn instant_of(case: &Case<'_>, name: &str) -> Result<Timestamp, Stop> {
    instant(case.word(name)?)
}

/// A range whose bounds must be named.
pub(crate) fn span_of(case: &Case<'_>, from: &str, until: &str) -> Result<Span, Stop> {
    Ok(Span::new(instant_of(case, from)?, instant_of(case, until)?))
}

/// Whole days since an instant; before it they are negative.
pub(crate) fn days_since(start: Timestamp, instant: Timestamp) -> i64 {
    (instant.nanoseconds() - start.nanoseconds()).div_euclid(DAY)
}

/// The UTC text of an event's time: seconds since 1970 with or without a fraction, or RFC 3339 with `T` and a zone.
///
/// Microseconds are kept, and shown only if there are any.
pub(crate) fn event_time(text: &str) -> Result<String, Stop> {
    let nanoseconds = match date_time(text) {
        Some(parsed) if parsed.has_zone => parsed.nanoseconds,
        Some(_) => return Err(Stop::Refused),
        None => {
            let seconds = number(text)?.multiply(domain::Exact::from_integer(SECOND.into()))?;
            seconds.round(domain::Rounding::Floor, 0)?.round_to(0)?
        }
    };
    let microseconds = nanoseconds.div_euclid(1_000);
    let (seconds, fraction) = (microseconds.div_euclid(1_000_000), microseconds.rem_euclid(1_000_000));
    let nanoseconds = seconds.checked_mul(SECOND.into()).and_then(|whole| i64::try_from(whole).ok());
    let whole = Timestamp::from_nanoseconds(nanoseconds.ok_or(Stop::Refused)?).to_string();
    if fraction == 0 {
        return Ok(whole);
    }
    Ok(format!("{}.{fraction:06}Z", whole.trim_end_matches('Z')))
}

struct DateTime {
    nanoseconds: i128,
    has_zone: bool,
}

fn date_time(text: &str) -> Option<DateTime> {
    let date = text.get(..10)?;
    let fields: Vec<&str> = date.split('-').collect();
    let &[year, month, day] = fields.as_slice() else { return None };
    let (year, month, day) = (digits(year, 4)?, digits(month, 2)?, digits(day, 2)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    let midnight = i128::from(days_from_1970(year, month, day)) * i128::from(DAY);
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(DateTime { nanoseconds: midnight, has_zone: false });
    }
    let rest = rest.strip_prefix('T')?;
    let (clock, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len()));
    let offset = match zone {
        "" | "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * HOUR + minutes * MINUTE;
            if zone.starts_with('-') { -offset } else { offset }
        }
    };
    let nanoseconds = midnight + i128::from(time_of_day(clock)?) - i128::from(offset);
    Some(DateTime { nanoseconds, has_zone: !zone.is_empty() })
}

/// Nanoseconds since midnight of `HH:MM`, with or without seconds and a fraction; `24:00` is the end of the day.
pub(crate) fn time_of_day(clock: &str) -> Option<i64> {
    let (clock, fraction) = match clock.split_once('.') {
        Some((_, "")) => return None,
        Some((clock, fraction)) => (clock, fraction),
        None => (clock, ""),
    };
    let fields: Vec<i64> = clock.split(':').map(|field| digits(field, 2)).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match *fields.as_slice() {
        [hours, minutes] if fraction.is_empty() => (hours, minutes, 0),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    let is_end = (hours, minutes, seconds) == (24, 0, 0) && fraction.is_empty();
    if (hours > 23 && !is_end)
        || minutes > 59
        || seconds > 59
        || !fraction.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(hours * HOUR + minutes * MINUTE + seconds * SECOND + nanoseconds)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn days_of(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_1970(next_year, next_month, 1) - days_from_1970(year, month, 1)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years begin in March, so that leap days come last.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_date_times_are_utc_unless_they_say_otherwise() {
        for (text, expected) in [
            ("2026-01-01", "2026-01-01T00:00:00Z"),
            ("2026-01-01T12:00:00", "2026-01-01T12:00:00Z"),
            ("2026-03-01T00:30:00+01:00", "2026-02-28T23:30:00Z"),
            ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z"),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
            ("2124-01-01T00:00:00Z", "2124-01-01T00:00:00Z"),
        ] {
            assert_eq!(instant(text).unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(instant("9999-12-31").unwrap().nanoseconds(), i64::MAX);
        for text in ["2026-02-29", "2026-13-01", "2026-1-1", "2026-01-01 12:00:00", "2026-01-01T25:00:00Z"] {
            assert!(instant(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_time_needs_a_zone_or_counts_seconds() {
        for (text, expected) in [
            ("1741007009", "2025-03-03T13:03:29Z"),
            ("1741007009.344000", "2025-03-03T13:03:29.344000Z"),
            ("1741007009.000001", "2025-03-03T13:03:29.000001Z"),
            ("1741007009.0000001", "2025-03-03T13:03:29Z"),
            ("2025-03-03T13:03:29Z", "2025-03-03T13:03:29Z"),
            ("2025-03-03T14:03:29.5+01:00", "2025-03-03T13:03:29.500000Z"),
        ] {
            assert_eq!(event_time(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["2025-03-03 13:03:29", "2025-03-03T13:03:29", "2025-03-03", "", "soon", "1e99"] {
            assert_eq!(event_time(text), Err(Stop::Refused), "{text}");
        }
    }
}
