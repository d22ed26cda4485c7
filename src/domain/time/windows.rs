//! Windows of civil time: minutes, hours, days, weeks and months of a zone, and the grid that they make over a span.
//!
//! Owns: which window an instant falls into, through every change of a zone's clock.
//! Leaves to others: what is folded in a window (`engine`), months as accounting periods (`super::Period`).
//!
//! Invariants:
//! - Windows of one unit and zone tile time: half-open, without gap or overlap.
//! - A day starts at its first existing instant and ends where the next one starts, so it has 23, 24 or 25 hours; a week
//!   starts on Monday, a month on its first day.
//! - A minute or an hour is one of the local clock, and ends early where the clock is set: an hour that is lived through
//!   twice is two windows.

use std::fmt;

use jiff::civil::Date;

use super::{DAY, HOUR, SECOND, Span, TimeStatus, Timestamp, Zone};

const MINUTE: i64 = 60 * SECOND;

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WindowUnit {
    /// A minute of the local clock.
    Minute,
    /// An hour of the local clock.
    Hour,
    /// A civil day.
    Day,
    /// Seven civil days from Monday on.
    Week,
    /// A civil month.
    Month,
}

/// Why there is no grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowStatus {
    /// The text is not a unit.
    WindowMustBeKnown,
    /// A span of windows ends after it starts.
    SpanMustNotBeEmpty,
    /// There would be more windows than the caller takes.
    WindowsMustFit,
}

impl fmt::Display for WindowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WindowStatus::WindowMustBeKnown => "a window is minute, hour, day, week or month",
            WindowStatus::SpanMustNotBeEmpty => "a span ends after it starts",
            WindowStatus::WindowsMustFit => {
                "the span has too many windows; make it shorter or the windows longer"
            }
        })
    }
}

impl std::error::Error for WindowStatus {}

impl WindowUnit {
    /// All units, from the shortest on.
    pub const ALL: [WindowUnit; 5] =
        [WindowUnit::Minute, WindowUnit::Hour, WindowUnit::Day, WindowUnit::Week, WindowUnit::Month];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            WindowUnit::Minute => "minute",
            WindowUnit::Hour => "hour",
            WindowUnit::Day => "day",
            WindowUnit::Week => "week",
            WindowUnit::Month => "month",
        }
    }

    /// Nanoseconds that no window of the unit is longer than.
    fn longest(self) -> i64 {
        match self {
            WindowUnit::Minute => MINUTE,
            WindowUnit::Hour => HOUR,
            // Clocks are set by a few hours, but for a zone that went to the other side of the date line.
            WindowUnit::Day => 2 * DAY,
            WindowUnit::Week => 8 * DAY,
            WindowUnit::Month => 32 * DAY,
        }
    }

    /// The unit of a name.
    ///
    /// # Errors
    /// [`WindowStatus::WindowMustBeKnown`].
    pub fn parse(text: &str) -> Result<Self, WindowStatus> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == text).ok_or(WindowStatus::WindowMustBeKnown)
    }
}

impl Zone {
    /// The first instant of a civil day that is written `YYYY-MM-DD`, of the years 2000 to 2099.
    ///
    /// # Errors
    /// [`TimeStatus::DayMustBeYearMonthDay`].
    pub fn parse_day(&self, text: &str) -> Result<Timestamp, TimeStatus> {
        let status = TimeStatus::DayMustBeYearMonthDay;
        let is_plain = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let date: Date = text.parse().map_err(|_| status)?;
        if is_plain && (2000..2100).contains(&date.year()) { Ok(self.start_of(date)) } else { Err(status) }
    }

    /// The window that an instant falls into.
    pub fn window_of(&self, unit: WindowUnit, instant: Timestamp) -> Span {
        match unit {
            WindowUnit::Minute => self.clock_window(MINUTE, instant),
            WindowUnit::Hour => self.clock_window(HOUR, instant),
            WindowUnit::Day => self.civil_window(instant, |date| date, tomorrow),
            WindowUnit::Week => self.civil_window(instant, monday_of, |monday| {
                monday.checked_add(jiff::Span::new().days(7)).expect(CALENDAR_GOES_ON)
            }),
            WindowUnit::Month => {
                self.civil_window(instant, Date::first_of_month, |first| tomorrow(first.last_of_month()))
            }
        }
    }

    /// A window of whole dates. A clock that is set back over midnight lives through the end of a date twice: the second
    /// time belongs to the window that had begun.
    fn civil_window(
        &self,
        instant: Timestamp,
        first_of: impl Fn(Date) -> Date,
        next: impl Fn(Date) -> Date,
    ) -> Span {
        let mut first = first_of(self.civil_date(instant));
        let mut after = next(first);
        while self.start_of(after) <= instant {
            first = after;
            after = next(first);
        }
        Span::new(self.start_of(first), self.start_of(after))
    }

    fn clock_window(&self, length: i64, instant: Timestamp) -> Span {
        let offset = self.offset_at(instant);
        let local = instant.nanoseconds() + offset;
        let from = Timestamp::from_nanoseconds(local - local.rem_euclid(length) - offset);
        let mut window = Span::new(from, from.plus(length));
        if self.offset_at(window.from) != offset {
            let changes = self.zone.preceding(instant.plus(1).to_jiff());
            let changes = changes.map(|change| Timestamp::from_jiff(change.timestamp()));
            let last = changes.into_iter().find(|at| self.offset_at(at.plus(-1)) != offset);
            window.from = last.expect("the clock was set since the window's first instant");
        }
        if self.offset_at(window.until.plus(-1)) != offset {
            let changes = self.zone.following(instant.to_jiff());
            let changes = changes.map(|change| Timestamp::from_jiff(change.timestamp()));
            let next = changes.into_iter().find(|at| self.offset_at(*at) != offset);
            window.until = next.expect("the clock is set before the window's last instant");
        }
        window
    }

    /// Nanoseconds that the local clock is ahead of UTC.
    fn offset_at(&self, instant: Timestamp) -> i64 {
        i64::from(self.zone.to_offset(instant.to_jiff()).seconds()) * SECOND
    }
}

const CALENDAR_GOES_ON: &str = "the supported years end before the calendar does";

fn tomorrow(date: Date) -> Date {
    date.tomorrow().expect(CALENDAR_GOES_ON)
}

fn monday_of(date: Date) -> Date {
    let days = i64::from(date.weekday().to_monday_zero_offset());
    date.checked_sub(jiff::Span::new().days(days)).expect("the calendar begins before the supported years")
}

/// The windows over a span, found fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowGrid {
    bounds: Vec<Timestamp>,
}

impl WindowGrid {
    /// The windows that share an instant with a span. The first and the last end where the span does.
    ///
    /// # Errors
    /// [`WindowStatus`].
    pub fn new(zone: &Zone, unit: WindowUnit, span: Span, windows_max: usize) -> Result<Self, WindowStatus> {
        if span.until <= span.from {
            return Err(WindowStatus::SpanMustNotBeEmpty);
        }
        // Seen before they are counted one by one.
        let nanoseconds = i128::from(span.until.nanoseconds()) - i128::from(span.from.nanoseconds());
        if nanoseconds / i128::from(unit.longest()) > windows_max as i128 {
            return Err(WindowStatus::WindowsMustFit);
        }
        let mut bounds = vec![span.from];
        let mut at = span.from;
        while at < span.until {
            if bounds.len() > windows_max {
                return Err(WindowStatus::WindowsMustFit);
            }
            at = zone.window_of(unit, at).until.min(span.until);
            bounds.push(at);
        }
        Ok(Self { bounds })
    }

    /// A grid of one window.
    ///
    /// # Errors
    /// [`WindowStatus::SpanMustNotBeEmpty`].
    pub fn of_one(span: Span) -> Result<Self, WindowStatus> {
        let bounds = vec![span.from, span.until];
        if span.from < span.until { Ok(Self { bounds }) } else { Err(WindowStatus::SpanMustNotBeEmpty) }
    }

    /// The whole span.
    pub fn span(&self) -> Span {
        Span::new(self.bounds[0], self.bounds[self.bounds.len() - 1])
    }

    /// The windows, in order.
    pub fn windows(&self) -> impl ExactSizeIterator<Item = Span> + '_ {
        self.bounds.windows(2).map(|bounds| Span::new(bounds[0], bounds[1]))
    }

    /// The window that an instant falls into, if it lies in the span.
    #[inline]
    pub fn window_of(&self, instant: Timestamp) -> Option<Span> {
        let after = self.bounds.partition_point(|bound| *bound <= instant);
        let from = self.bounds.get(after.checked_sub(1)?)?;
        Some(Span::new(*from, *self.bounds.get(after)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn zone(name: &str) -> Zone {
        Zone::new(name).unwrap()
    }

    /// Zones whose clocks are set by an hour, by half an hour, at midnight, over midnight, or by a whole day.
    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/Los_Angeles",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Africa/Casablanca",
    ];

    #[test]
    fn windows_follow_the_local_clock() {
        for (name, unit, instant, from, until) in [
            (
                "UTC",
                "minute",
                "2026-01-01T00:00:59.999999999Z",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:01:00Z",
            ),
            (
                "Asia/Kathmandu",
                "hour",
                "2026-01-01T00:00:00Z",
                "2025-12-31T23:15:00Z",
                "2026-01-01T00:15:00Z",
            ),
            // A day of 23 hours and one of 25.
            ("Europe/Berlin", "day", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            ("Europe/Berlin", "day", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // The hour from two to three is lived through twice, and is two windows.
            ("Europe/Berlin", "hour", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"),
            ("Europe/Berlin", "hour", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
            // The clock is set back from two to half past one, and forward from two to half past two.
            (
                "Australia/Lord_Howe",
                "hour",
                "2026-04-04T14:40:00Z",
                "2026-04-04T14:00:00Z",
                "2026-04-04T15:00:00Z",
            ),
            (
                "Australia/Lord_Howe",
                "hour",
                "2026-04-04T15:10:00Z",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:30:00Z",
            ),
            (
                "Australia/Lord_Howe",
                "hour",
                "2026-10-03T15:40:00Z",
                "2026-10-03T15:30:00Z",
                "2026-10-03T16:00:00Z",
            ),
            ("UTC", "week", "2026-01-01T00:00:00Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"),
            (
                "America/Los_Angeles",
                "month",
                "2026-03-01T07:59:59Z",
                "2026-02-01T08:00:00Z",
                "2026-03-01T08:00:00Z",
            ),
            // Midnight does not exist: the day starts at one.
            (
                "America/Sao_Paulo",
                "day",
                "2018-11-04T03:00:00Z",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
            // The clock was set back at one minute past midnight: the minute before belongs to the new day, and what
            // follows to it as well.
            (
                "America/St_Johns",
                "day",
                "2006-10-29T02:45:00Z",
                "2006-10-29T02:30:00Z",
                "2006-10-30T03:30:00Z",
            ),
            // The thirtieth of December was skipped.
            ("Pacific/Apia", "day", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
            ("Pacific/Apia", "day", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ] {
            let window = zone(name).window_of(WindowUnit::parse(unit).unwrap(), at(instant));
            assert_eq!(window, Span::new(at(from), at(until)), "{unit} of {instant} in {name}");
        }
    }

    #[test]
    fn a_day_starts_at_its_first_instant_in_the_zone() {
        for (name, day, start) in [
            ("UTC", "2026-02-01", Some("2026-02-01T00:00:00Z")),
            ("Europe/Berlin", "2026-03-29", Some("2026-03-28T23:00:00Z")),
            ("America/Sao_Paulo", "2018-11-04", Some("2018-11-04T03:00:00Z")),
            ("UTC", "2026-02-30", None),
            ("UTC", "1999-12-31", None),
            ("UTC", "2100-01-01", None),
            ("UTC", "20260201", None),
            ("UTC", "2026-2-1", None),
            ("UTC", "2026-02-01T10:00", None),
            ("UTC", "+02026-02-", None),
            ("UTC", "", None),
        ] {
            let found = zone(name).parse_day(day);
            assert_eq!(found.ok(), start.map(at), "{day} in {name}");
        }
    }

    #[test]
    fn a_grid_ends_where_its_span_does_and_is_refused_when_it_is_too_fine() {
        let span = Span::new(at("2026-01-01T00:00:30Z"), at("2026-01-01T00:02:00Z"));
        let grid = WindowGrid::new(&Zone::utc(), WindowUnit::Minute, span, 2).unwrap();
        let middle = at("2026-01-01T00:01:00Z");
        let windows: Vec<Span> = grid.windows().collect();
        assert_eq!(windows, [Span::new(span.from, middle), Span::new(middle, span.until)]);
        assert_eq!(grid.window_of(span.until), None);
        assert_eq!(grid.window_of(span.from.plus(-1)), None);
        assert_eq!(grid.window_of(middle.plus(-1)), Some(windows[0]));
        assert_eq!(grid.window_of(middle), Some(windows[1]));
        let too_fine = WindowGrid::new(&Zone::utc(), WindowUnit::Minute, span, 1);
        assert_eq!(too_fine, Err(WindowStatus::WindowsMustFit));
        let empty = Span::new(span.from, span.from);
        let nothing = WindowGrid::new(&Zone::utc(), WindowUnit::Day, empty, 1);
        assert_eq!(nothing, Err(WindowStatus::SpanMustNotBeEmpty));
        assert_eq!(WindowGrid::of_one(empty), Err(WindowStatus::SpanMustNotBeEmpty));
        assert_eq!(WindowUnit::parse("DAY"), Err(WindowStatus::WindowMustBeKnown));
    }

    fn cases() -> ProptestConfig {
        let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
        ProptestConfig { cases, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        /// Every window starts where the one before ends, holds what is asked for, and is shorter than one unit and a
        /// change of the clock.
        #[test]
        fn windows_tile_time(
            zone_index in 0..ZONES.len(),
            unit_index in 0..5usize,
            seconds in 0i64..3_155_760_000,
            nanoseconds in 0i64..SECOND,
        ) {
            let (zone, unit) = (zone(ZONES[zone_index]), WindowUnit::ALL[unit_index]);
            let instant = Timestamp::MIN.plus(seconds * SECOND + nanoseconds);
            let window = zone.window_of(unit, instant);
            prop_assert!(window.contains(instant), "{window:?} holds {instant}");
            for inside in [window.from, window.until.plus(-1)] {
                prop_assert_eq!(zone.window_of(unit, inside), window);
            }
            prop_assert_eq!(zone.window_of(unit, window.until).from, window.until);
            prop_assert!(window.until.nanoseconds() - window.from.nanoseconds() <= unit.longest());
        }

        /// A grid finds what the zone says, inside its span.
        #[test]
        fn a_grid_agrees_with_its_zone(
            zone_index in 0..ZONES.len(),
            unit_index in 1..5usize,
            start in 0i64..3_155_760_000,
            seconds in 1i64..4_000_000,
            share in 0i64..1_000,
        ) {
            let (zone, unit) = (zone(ZONES[zone_index]), WindowUnit::ALL[unit_index]);
            let from = Timestamp::MIN.plus(start * SECOND);
            let span = Span::new(from, from.plus(seconds * SECOND));
            let grid = WindowGrid::new(&zone, unit, span, 100_000).unwrap();
            let instant = from.plus(seconds * SECOND / 1_000 * share);
            let window = zone.window_of(unit, instant);
            let clipped = Span::new(window.from.max(span.from), window.until.min(span.until));
            prop_assert_eq!(grid.window_of(instant), Some(clipped));
            prop_assert_eq!(grid.span(), span);
        }
    }
}
