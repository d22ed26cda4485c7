//! The months of a zone as a table.
//!
//! Owns: first instants of the months of all supported years, made once for each zone. Leaves to others: months outside of
//! them, civil dates (`time`).
//!
//! Invariants: months tile time; the table is a function of the time-zone database, so it is no state that anyone could
//! see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::tz::TimeZone;

use super::{Period, Span, Timestamp, start_of};

/// A year on both sides of those that events lie in: cuts, graces and terms reach beyond the events.
const YEARS: std::ops::Range<i16> = 1999..2101;
/// Tables by the name of the zone in the database; there are as many as zones.
static TABLES: Mutex<BTreeMap<String, Arc<Months>>> = Mutex::new(BTreeMap::new());

/// First instants of the months, the one after the last included.
pub(super) struct Months {
    starts: Arc<[Timestamp]>,
}

impl Months {
    /// The table of a zone.
    pub(super) fn of(zone: &TimeZone) -> Arc<Self> {
        let Some(name) = zone.iana_name() else { return Arc::new(Self::new(zone)) };
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(name) {
            return table.clone();
        }
        let table = Arc::new(Self::new(zone));
        tables.insert(name.to_string(), table.clone());
        table
    }

    fn new(zone: &TimeZone) -> Self {
        let mut period = Period { year: YEARS.start, month: 1 };
        let mut starts = Vec::with_capacity(12 * YEARS.len() + 1);
        while period.year < YEARS.end {
            starts.push(start_of(zone, period.first_date()));
            period = period.next();
        }
        starts.push(start_of(zone, period.first_date()));
        assert!(starts.is_sorted_by(|a, b| a < b), "months follow each other");
        Self { starts: starts.into() }
    }

    /// The month that an instant falls into; `None` outside the table.
    pub(super) fn period_of(&self, instant: Timestamp) -> Option<Period> {
        let index = self.starts.partition_point(|start| *start <= instant);
        if index == self.starts.len() {
            return None;
        }
        let index = i16::try_from(index.checked_sub(1)?).expect("the table is short");
        Some(Period { year: YEARS.start + index / 12, month: (index % 12 + 1) as u8 })
    }

    /// The month as a span; `None` outside the table.
    pub(super) fn span_of(&self, period: Period) -> Option<Span> {
        let months = i32::from(period.year - YEARS.start) * 12 + i32::from(period.month) - 1;
        let index = usize::try_from(months).ok()?;
        Some(Span::new(*self.starts.get(index)?, *self.starts.get(index + 1)?))
    }

    /// First instants of all months of the table, and of the one after the last.
    pub(super) fn starts(&self) -> &Arc<[Timestamp]> {
        &self.starts
    }

    /// First instants of the months from one year up to another one, both in the table.
    pub(super) fn starts_within(&self, from: i16, until: i16) -> &[Timestamp] {
        let index = |year: i16| usize::from((year - YEARS.start).unsigned_abs()) * 12;
        &self.starts[index(from)..index(until)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HOUR, SECOND, Zone};
    use super::*;

    #[test]
    fn the_table_says_what_the_calendar_says_and_its_months_tile() {
        for name in
            ["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns", "Africa/Cairo"]
        {
            let zone = Zone::new(name).unwrap();
            let mut period = Period { year: 1998, month: 11 };
            while period.year < 2103 {
                let month = zone.month(period);
                assert_eq!(month.from, start_of(&zone.zone, period.first_date()), "{name} {period}");
                assert_eq!(month.until, zone.month(period.next()).from, "{name} {period}");
                for instant in [month.from, month.from.plus(13 * 24 * HOUR), month.until.plus(-1)] {
                    assert_eq!(zone.period_of(instant), period, "{name} {instant}");
                }
                period = period.next();
            }
        }
    }

    #[test]
    fn an_hour_that_comes_twice_between_two_months_belongs_to_the_later_one() {
        let zone = Zone::new("America/St_Johns").unwrap();
        let november = zone.month(Period::parse("2009-11").unwrap());
        // One minute after midnight the clocks went back to 23:01 of October.
        assert_eq!(zone.date_of(november.from), "2009-11-01");
        let again = november.from.plus(61 * SECOND);
        assert_eq!(zone.date_of(again), "2009-10-31");
        assert_eq!(zone.period_of(again).to_string(), "2009-11");
    }

    #[test]
    fn names_of_one_zone_share_a_table() {
        let zones = ["Europe/Berlin", "europe/berlin"].map(|name| Zone::new(name).unwrap());
        assert!(Arc::ptr_eq(&zones[0].months, &zones[1].months));
        assert_eq!(zones[1].name(), "europe/berlin");
    }
}
