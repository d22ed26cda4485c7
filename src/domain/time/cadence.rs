//! Billing windows: days, weeks, months, quarters and years of a zone, of the calendar or counted from an anchor.
//!
//! Owns: where windows start, made once for each zone and cadence. Leaves to others: which cadence a price and a subscription
//! have (`billing::catalog`), windows that people ask for (`windows`), accounting periods (`super::Period`).
//!
//! Invariants:
//! - Windows of a cadence tile time: half-open, each of whole civil days, without gap or overlap.
//! - An anchored month starts on the anchor's day, or on the last day of a month that has no such day; always counted from
//!   the anchor, so that the 31st comes back after the 28th.
//! - Anchors that give the same windows give the same cadence.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::civil::{Date, Weekday};
use serde::{Deserialize, Serialize};

use super::{Period, Span, Timestamp, Zone, start_of};

/// How long a billing window is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BillingUnit {
    /// A civil day.
    Day,
    /// Seven civil days.
    Week,
    /// A month.
    #[default]
    Month,
    /// Three months.
    Quarter,
    /// Twelve months.
    Year,
}

/// Some units, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BillingUnits(u8);

impl BillingUnits {
    /// Adds a unit.
    pub fn insert(&mut self, unit: BillingUnit) {
        self.0 |= 1 << unit as u8;
    }

    /// These and those.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// From the shortest on.
    pub fn iter(self) -> impl Iterator<Item = BillingUnit> {
        use BillingUnit::{Day, Month, Quarter, Week, Year};
        [Day, Week, Month, Quarter, Year].into_iter().filter(move |unit| self.0 >> *unit as u8 & 1 == 1)
    }
}

impl FromIterator<BillingUnit> for BillingUnits {
    fn from_iter<I: IntoIterator<Item = BillingUnit>>(units: I) -> Self {
        let mut all = Self::default();
        units.into_iter().for_each(|unit| all.insert(unit));
        all
    }
}

/// How time is cut into billing windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cadence(Tiling);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Tiling {
    Days,
    /// From a day of the week on, Monday is zero.
    Weeks {
        weekday: u8,
    },
    /// So many months, from the months whose number, January zero, leaves `phase`, and from a day of these on.
    Months {
        count: u8,
        phase: u8,
        day: u8,
    },
}

/// Years that have tables: those that events lie in, and one on both sides for cuts, graces and terms.
const YEARS: std::ops::Range<i16> = 1999..2101;
/// First instants of windows, by zone and cadence. A function of the time-zone database, so it is no state that anyone could see.
static TABLES: Mutex<Tables> = Mutex::new(BTreeMap::new());

type Tables = BTreeMap<(String, Cadence), Arc<[Timestamp]>>;

impl Cadence {
    /// Calendar months.
    pub const MONTHS: Cadence = Cadence(Tiling::Months { count: 1, phase: 0, day: 1 });

    /// Windows of the calendar: weeks start on Monday, quarters in January, April, July and October.
    pub fn calendar(unit: BillingUnit) -> Self {
        Self(match unit {
            BillingUnit::Day => Tiling::Days,
            BillingUnit::Week => Tiling::Weeks { weekday: 0 },
            unit => Tiling::Months { count: months_of(unit), phase: 0, day: 1 },
        })
    }

    /// Windows one of which starts on the civil day of an instant.
    pub fn anchored(unit: BillingUnit, zone: &Zone, anchor: Timestamp) -> Self {
        let date = zone.civil_date(anchor);
        Self(match unit {
            BillingUnit::Day => Tiling::Days,
            BillingUnit::Week => Tiling::Weeks { weekday: date.weekday().to_monday_zero_offset() as u8 },
            unit => {
                let count = months_of(unit);
                Tiling::Months { count, phase: (date.month() as u8 - 1) % count, day: date.day() as u8 }
            }
        })
    }

    /// The first day of the first window that starts in a year, and those after it.
    fn starts_from(self, year: i16) -> impl Iterator<Item = Date> {
        const WHY: &str = "the tables end before the calendar does";
        let january = Date::new(year, 1, 1).expect(WHY);
        (0i32..).map(move |index| match self.0 {
            Tiling::Days => january.checked_add(jiff::Span::new().days(index)).expect(WHY),
            Tiling::Weeks { weekday } => {
                let weekday = Weekday::from_monday_zero_offset(weekday as i8).expect("a day of the week");
                let first = if january.weekday() == weekday {
                    january
                } else {
                    january.nth_weekday(1, weekday).expect(WHY)
                };
                first.checked_add(jiff::Span::new().days(7 * index)).expect(WHY)
            }
            Tiling::Months { count, phase, day } => {
                let months = index * i32::from(count) + i32::from(phase);
                let first = january.checked_add(jiff::Span::new().months(months)).expect(WHY);
                let day = (day as i8).min(first.days_in_month());
                Date::new(first.year(), first.month(), day).expect("a day that the month has")
            }
        })
    }
}

/// Months of a unit that has some.
fn months_of(unit: BillingUnit) -> u8 {
    match unit {
        BillingUnit::Quarter => 3,
        BillingUnit::Year => 12,
        BillingUnit::Day | BillingUnit::Week | BillingUnit::Month => 1,
    }
}

/// The windows of a cadence in a zone, found fast.
#[derive(Clone, Debug)]
pub struct BillingGrid {
    cadence: Cadence,
    starts: Arc<[Timestamp]>,
}

impl Zone {
    /// The windows of a cadence in this zone.
    pub fn grid(&self, cadence: Cadence) -> BillingGrid {
        // Most windows are months, and a zone has those.
        if cadence == Cadence::MONTHS {
            return BillingGrid { cadence, starts: self.months.starts().clone() };
        }
        let name = self.zone.iana_name().unwrap_or("UTC").to_string();
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = tables.entry((name, cadence)).or_insert_with(|| {
            let days = cadence.starts_from(YEARS.start).take_while(|date| date.year() < YEARS.end);
            let mut starts: Vec<Timestamp> = days.map(|date| start_of(&self.zone, date)).collect();
            // A day that a zone skipped starts when the next one does.
            starts.dedup();
            assert!(starts.is_sorted_by(|a, b| a < b), "windows follow each other");
            starts.into()
        });
        BillingGrid { cadence, starts: starts.clone() }
    }

    /// The month whose civil days end with the last one that a window has; of a window in whole days.
    pub fn period_of_end(&self, window: Span) -> Period {
        self.period_of(window.until.plus(-1).max(window.from))
    }
}

impl BillingGrid {
    /// What the windows are.
    pub fn cadence(&self) -> Cadence {
        self.cadence
    }

    /// The window that an instant falls into. What lies before or behind all supported years is one window each.
    pub fn window_of(&self, instant: Timestamp) -> Span {
        let after = self.starts.partition_point(|start| *start <= instant);
        let from =
            after.checked_sub(1).map_or(Timestamp::from_nanoseconds(i64::MIN), |index| self.starts[index]);
        Span::new(from, self.starts.get(after).copied().unwrap_or(Timestamp::from_nanoseconds(i64::MAX)))
    }

    /// Whether a span is one of the windows.
    pub fn has(&self, window: Span) -> bool {
        self.window_of(window.from) == window
    }

    /// The windows that share an instant with a span, in order.
    pub fn windows_in(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        let first = (span.from < span.until).then(|| self.window_of(span.from));
        let next =
            move |window: &Span| Some(self.window_of(window.until)).filter(|next| next.from < span.until);
        std::iter::successors(first, next)
    }

    /// First instants of all windows of the supported years, and of a year on both sides of them.
    pub fn starts(&self) -> &[Timestamp] {
        &self.starts
    }
}

impl PartialEq for BillingGrid {
    fn eq(&self, other: &Self) -> bool {
        self.cadence == other.cadence && Arc::ptr_eq(&self.starts, &other.starts)
    }
}

impl Eq for BillingGrid {}

#[cfg(test)]
mod tests {
    use super::super::DAY;
    use super::*;

    const UNITS: [BillingUnit; 5] =
        [BillingUnit::Day, BillingUnit::Week, BillingUnit::Month, BillingUnit::Quarter, BillingUnit::Year];

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    /// The first days of windows from that of an instant on.
    fn days(zone: &Zone, cadence: Cadence, instant: &str, count: usize) -> String {
        let span = Span::new(at(instant), Timestamp::END);
        let grid = zone.grid(cadence);
        let days: Vec<String> =
            grid.windows_in(span).take(count).map(|window| zone.date_of(window.from)).collect();
        days.join(" ")
    }

    #[test]
    fn windows_start_on_the_day_of_their_anchor_or_at_the_end_of_the_month() {
        use BillingUnit::{Day, Month, Quarter, Week, Year};
        for (zone, unit, anchor, instant, expected) in [
            (
                "UTC",
                Month,
                "2026-01-31T00:00:00Z",
                "2026-01-31T00:00:00Z",
                "2026-01-31 2026-02-28 2026-03-31 2026-04-30",
            ),
            // Counted from the anchor in both directions, and through a leap year.
            (
                "UTC",
                Month,
                "2026-10-31T00:00:00Z",
                "2024-02-28T12:00:00Z",
                "2024-01-31 2024-02-29 2024-03-31 2024-04-30",
            ),
            (
                "UTC",
                Month,
                "2026-01-30T23:00:00Z",
                "2028-02-01T00:00:00Z",
                "2028-01-30 2028-02-29 2028-03-30",
            ),
            ("UTC", Month, "2026-05-01T00:00:00Z", "2026-02-10T00:00:00Z", "2026-02-01 2026-03-01"),
            // The 31st in Kathmandu began while it was still the 30th in UTC.
            (
                "Asia/Kathmandu",
                Month,
                "2026-01-30T20:00:00Z",
                "2026-02-01T00:00:00Z",
                "2026-01-31 2026-02-28 2026-03-31",
            ),
            (
                "UTC",
                Quarter,
                "2025-11-30T00:00:00Z",
                "2026-01-01T00:00:00Z",
                "2025-11-30 2026-02-28 2026-05-30 2026-08-30",
            ),
            ("UTC", Quarter, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-01-01 2026-04-01"),
            (
                "UTC",
                Year,
                "2028-02-29T00:00:00Z",
                "2026-06-01T00:00:00Z",
                "2026-02-28 2027-02-28 2028-02-29 2029-02-28",
            ),
            // The first of January 2026 was a Thursday.
            ("UTC", Week, "2026-01-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-02-26 2026-03-05"),
            ("UTC", Day, "2026-01-15T00:00:00Z", "2026-02-28T05:00:00Z", "2026-02-28 2026-03-01"),
            // Clocks are set on the 29th of March.
            ("Europe/Berlin", Day, "2026-01-15T00:00:00Z", "2026-03-28T23:30:00Z", "2026-03-29 2026-03-30"),
            ("Europe/Berlin", Month, "2026-01-29T12:00:00Z", "2026-03-29T00:30:00Z", "2026-03-29 2026-04-29"),
        ] {
            let zone = Zone::new(zone).unwrap();
            let found =
                days(&zone, Cadence::anchored(unit, &zone, at(anchor)), instant, expected.split(' ').count());
            assert_eq!(found, expected, "{unit:?} of {anchor}");
        }
    }

    #[test]
    fn windows_of_the_calendar_start_where_its_units_do() {
        let utc = Zone::utc();
        for (unit, expected) in [
            (BillingUnit::Day, "2026-02-11 2026-02-12"),
            (BillingUnit::Week, "2026-02-09 2026-02-16"),
            (BillingUnit::Month, "2026-02-01 2026-03-01"),
            (BillingUnit::Quarter, "2026-01-01 2026-04-01"),
            (BillingUnit::Year, "2026-01-01 2027-01-01"),
        ] {
            assert_eq!(days(&utc, Cadence::calendar(unit), "2026-02-11T10:00:00Z", 2), expected);
        }
        assert_eq!(Cadence::calendar(BillingUnit::Month), Cadence::MONTHS);
        // What gives the same windows is the same.
        for unit in UNITS {
            assert_eq!(Cadence::anchored(unit, &utc, at("2024-01-01T00:00:00Z")), Cadence::calendar(unit));
        }
    }

    #[test]
    fn windows_tile_time_in_whole_days_and_agree_with_anchored_months() {
        for name in [
            "UTC",
            "America/New_York",
            "Asia/Kathmandu",
            "Pacific/Apia",
            "America/St_Johns",
            "America/Sao_Paulo",
        ] {
            let zone = Zone::new(name).unwrap();
            for unit in UNITS {
                for day in [1, 5, 28, 29, 30, 31] {
                    let anchor = at(&format!("2024-01-{day:02}T12:00:00Z"));
                    let grid = zone.grid(Cadence::anchored(unit, &zone, anchor));
                    let years = Span::new(at("2006-06-01T00:00:00Z"), at("2013-01-01T00:00:00Z"));
                    let mut until = grid.window_of(years.from).from;
                    for window in grid.windows_in(years) {
                        assert_eq!(window.from, until, "{name} {unit:?} {day}");
                        assert_eq!(zone.start_of_day(window.from), window.from);
                        for inside in [window.from, window.until.plus(-1)] {
                            assert_eq!(grid.window_of(inside), window);
                        }
                        assert!(grid.has(window) && !grid.has(Span::new(window.from, window.until.plus(1))));
                        if months_of(unit) > 1 || unit == BillingUnit::Month {
                            let months = zone.anchored_months(anchor, months_of(unit).into(), window.from);
                            assert_eq!(months, Ok(window), "{name} {unit:?} {day}");
                        }
                        until = window.until;
                    }
                    assert!(until >= years.until);
                }
            }
            let months = zone.grid(Cadence::MONTHS);
            for month in months.windows_in(Span::new(Timestamp::MIN, Timestamp::END)) {
                assert_eq!(zone.month(zone.period_of(month.from)), month);
                assert_eq!(zone.period_of_end(month), zone.period_of(month.from));
            }
            assert!(zone.month_starts().iter().all(|start| months.starts().contains(start)), "{name}");
        }
    }

    #[test]
    fn what_lies_outside_of_all_years_is_one_window() {
        let grid = Zone::utc().grid(Cadence::calendar(BillingUnit::Week));
        let (first, last) = (Timestamp::from_nanoseconds(i64::MIN), Timestamp::from_nanoseconds(i64::MAX));
        assert_eq!(grid.window_of(first).from, first);
        assert_eq!(grid.window_of(last.plus(-1)).until, last);
        assert_eq!(
            grid.window_of(Timestamp::END.plus(30 * DAY)).until,
            grid.window_of(Timestamp::END.plus(37 * DAY)).from
        );
        assert_eq!(grid.windows_in(Span::new(Timestamp::END, Timestamp::END)).count(), 0);
    }
}
