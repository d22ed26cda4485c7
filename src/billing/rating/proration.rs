//! What part of a period a slice is, as an exact ratio, and what an amount is worth for that part.
//!
//! Owns: the ways to count (days of a zone, seconds, thirty days, whole), and the amount of a part. Leaves to others:
//! calendars (`domain::time`), where slices begin and end.
//!
//! Invariants:
//! - Everything is half-open: a day or second belongs to the slice that covers its first instant, so a boundary day is
//!   counted once, and a day at a clock change is one day.
//! - In days and in seconds, the slices of any cut of a period sum to the whole. In thirty days they never exceed it.
//! - A ratio stays a pair of integers; an amount is rounded once, after it was multiplied.
//! - A slice without length is nothing, in every way to count; never the whole.

use domain::time::SECOND;
use domain::{Exact, Span, Timestamp, Zone};

use super::status::RatingStatus;

/// A part of a period: `numerator / denominator`, not reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Units of the slice.
    pub numerator: u64,
    /// Units of the period.
    pub denominator: u64,
}

impl Ratio {
    /// The whole period.
    pub const WHOLE: Ratio = Ratio { numerator: 1, denominator: 1 };

    /// The ratio `numerator / denominator`.
    pub fn new(numerator: u64, denominator: u64) -> Self {
        Self { numerator, denominator }
    }

    /// The exact value; a period without units has no parts, so every part of it is zero.
    pub fn value(self) -> Exact {
        if self.denominator == 0 {
            return Exact::ZERO;
        }
        Exact::ratio(self.numerator.into(), self.denominator.into()).expect("64-bit integers make a ratio")
    }
}

/// How the parts of a period are counted.
#[derive(Clone, Copy, Debug)]
pub enum Basis<'a> {
    /// Civil days of a zone.
    Days(&'a Zone),
    /// Seconds.
    Seconds,
    /// Civil days of a zone over thirty, whatever the length of the period; together at most thirty.
    ThirtyDays(&'a Zone),
    /// Not at all: every slice that has a length is the whole.
    Whole,
}

/// What part of a period each of its slices is; what lies outside the period does not count.
///
/// A period that is shorter than the unit, and holds no start of one, is one unit that belongs to its first slice.
///
/// # Panics
/// If the slices are not in order of time, or overlap.
pub fn ratios(basis: Basis<'_>, period: Span, slices: &[Span]) -> Vec<Ratio> {
    let is_sorted = slices.is_sorted_by(|a, b| a.until <= b.from);
    assert!(is_sorted, "the slices of a period are in order of time and disjoint");
    let mut left = DAYS_OF_MONTH;
    let ratio_of = |slice: &Span| {
        let slice = Span::new(slice.from.max(period.from), slice.until.min(period.until));
        match basis {
            Basis::Days(zone) => counted(period, slice, |span| zone.days_starting_in(span)),
            Basis::Seconds => counted(period, slice, seconds_starting_in),
            Basis::ThirtyDays(zone) => {
                let days = zone.days_starting_in(slice).min(left);
                left -= days;
                Ratio::new(days, DAYS_OF_MONTH)
            }
            Basis::Whole => Ratio::new((slice.from < slice.until).into(), 1),
        }
    };
    slices.iter().map(ratio_of).collect()
}

/// What part of a period one slice of it is.
pub fn ratio(basis: Basis<'_>, period: Span, slice: Span) -> Ratio {
    ratios(basis, period, &[slice]).first().copied().expect("one slice has one ratio")
}

/// `amount × ratio`, exactly.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn prorate(amount: Exact, ratio: Ratio) -> Result<Exact, RatingStatus> {
    Ok(amount.multiply(ratio.value())?)
}

/// `R(amount × ratio)`, where the amount is in minor units.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn prorate_minor(amount: Exact, ratio: Ratio) -> Result<i128, RatingStatus> {
    Ok(prorate(amount, ratio)?.round_to(0)?)
}

/// Days of a month in contracts that say so.
const DAYS_OF_MONTH: u64 = 30;

/// The units of a slice over those of its period; the slice lies in the period, or is empty.
fn counted(period: Span, slice: Span, count: impl Fn(Span) -> u64) -> Ratio {
    let total = count(period);
    if total == 0 {
        let is_first = slice.from == period.from && slice.from < slice.until;
        return Ratio::new(is_first.into(), 1);
    }
    Ratio::new(count(slice), total)
}

fn seconds_starting_in(span: Span) -> u64 {
    // The number of the first second that starts at an instant or after it.
    let first_from = |instant: Timestamp| -(-i128::from(instant.nanoseconds())).div_euclid(SECOND.into());
    u64::try_from(first_from(span.until) - first_from(span.from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use domain::time::{DAY, HOUR};
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        let time = if text.contains('T') { "Z" } else { "T00:00:00Z" };
        Timestamp::parse(&format!("{text}{time}")).unwrap()
    }

    fn span(text: &str) -> Span {
        let (from, until) = text.split_once("..").unwrap();
        Span::new(at(from), at(until))
    }

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    #[test]
    fn a_slice_is_counted_by_its_basis() {
        let utc = Zone::utc();
        let (days, thirty) = (Basis::Days(&utc), Basis::ThirtyDays(&utc));
        let january = "2026-01-01..2026-02-01";
        for (basis, period, slice, expected) in [
            (days, january, "2026-01-01..2026-01-16", (15, 31)),
            (days, january, january, (31, 31)),
            (days, january, "2025-12-01..2026-01-03", (2, 31)),
            (days, january, "2026-03-01..2026-03-03", (0, 31)),
            (days, january, "2026-01-05..2026-01-05", (0, 31)),
            (days, january, "2026-01-05T08:00:00..2026-01-05T20:00:00", (0, 31)),
            (days, "2028-02-01..2028-03-01", "2028-02-29..2028-03-01", (1, 29)),
            // No midnight lies in the period: it is one unit, of the slice that begins it.
            (
                days,
                "2026-01-05T08:00:00..2026-01-05T20:00:00",
                "2026-01-05T08:00:00..2026-01-05T09:00:00",
                (1, 1),
            ),
            (
                days,
                "2026-01-05T08:00:00..2026-01-05T20:00:00",
                "2026-01-05T09:00:00..2026-01-05T20:00:00",
                (0, 1),
            ),
            (days, "2026-01-05..2026-01-05", "2026-01-05..2026-01-05", (0, 1)),
            (thirty, january, "2026-01-16..2026-02-01", (16, 30)),
            (thirty, january, january, (30, 30)),
            (thirty, "2026-01-31..2026-02-28", "2026-01-31..2026-02-28", (28, 30)),
            (Basis::Seconds, "2026-01-01..2026-01-02", "2026-01-01T12:00:00..2026-01-02", (43_200, 86_400)),
            (Basis::Seconds, "2026-01-01..2026-01-02", "2026-01-01..2026-01-01T00:00:00.5", (1, 86_400)),
            (Basis::Whole, january, "2026-01-16..2026-02-01", (1, 1)),
            (Basis::Whole, january, "2026-01-16..2026-01-16", (0, 1)),
        ] {
            let found = ratio(basis, span(period), span(slice));
            assert_eq!((found.numerator, found.denominator), expected, "{basis:?} {slice} of {period}");
        }
    }

    /// A design billed the day of a change in both slices: 10 of 31 and 22 of 31.
    #[test]
    fn a_boundary_day_belongs_to_one_slice() {
        let utc = Zone::utc();
        let slices = [span("2026-01-01..2026-01-10T15:00:00"), span("2026-01-10T15:00:00..2026-02-01")];
        let found = ratios(Basis::Days(&utc), span("2026-01-01..2026-02-01"), &slices);
        assert_eq!(found, [Ratio::new(10, 31), Ratio::new(21, 31)]);
    }

    /// A preview of an upgrade counted one day less than the run, because each had its own way to the next midnight.
    /// What is left and what has passed come from one function here, and make the whole.
    #[test]
    fn a_preview_is_not_one_day_short() {
        let paris = Zone::new("Europe/Paris").unwrap();
        let month = Span::new(at("2026-04-30T22:00:00"), at("2026-05-31T22:00:00"));
        for (cut, left) in [
            ("2026-05-10T22:00:00", 21),
            ("2026-05-10T22:00:01", 20),
            ("2026-05-10T21:59:59", 21),
            ("2026-04-30T22:00:00", 31),
            ("2026-01-01", 31),
            ("2026-05-31T22:00:00", 0),
            ("2027-01-01", 0),
        ] {
            let basis = Basis::Days(&paris);
            let found = ratio(basis, month, Span::new(at(cut), month.until));
            assert_eq!(found, Ratio::new(left, 31), "{cut}");
            let passed = ratio(basis, month, Span::new(month.from, at(cut)));
            assert_eq!(passed.numerator + found.numerator, 31, "{cut}");
        }
    }

    /// A cap of thirty days that each slice had for itself let two slices of one month bill 31.
    #[test]
    fn thirty_days_are_the_most_that_the_slices_of_a_period_make() {
        let utc = Zone::utc();
        for (slices, expected) in [
            (vec!["2026-01-01..2026-01-16", "2026-01-16..2026-02-01"], vec![15, 15]),
            (vec!["2026-01-01..2026-01-31", "2026-01-31..2026-02-01"], vec![30, 0]),
            (vec!["2026-01-02..2026-02-01"], vec![30]),
        ] {
            let spans: Vec<Span> = slices.iter().map(|text| span(text)).collect();
            let found = ratios(Basis::ThirtyDays(&utc), span("2026-01-01..2026-02-01"), &spans);
            let found: Vec<u64> = found.iter().map(|ratio| ratio.numerator).collect();
            assert_eq!(found, expected, "{slices:?}");
        }
    }

    #[test]
    fn an_amount_is_rounded_once_for_its_part() {
        for (amount, ratio, minor) in [
            ("10000", (15, 31), 4_839),
            ("10000", (31, 31), 10_000),
            ("10000", (0, 31), 0),
            ("10000", (0, 0), 0),
            ("5000", (3, 28), 536),
            ("2999", (6, 7), 2_571),
            ("-2999", (6, 7), -2_571),
            // 55 × 0.067 = 3.685: rounded on the line and left exact in the check, it never agreed with itself.
            ("368.5", (1, 1), 369),
            ("1000000000", (20, 28), 714_285_714),
        ] {
            let ratio = Ratio::new(ratio.0, ratio.1);
            assert_eq!(prorate_minor(exact(amount), ratio), Ok(minor), "{amount} {ratio:?}");
        }
        assert_eq!(Ratio::new(3, 1).value(), exact("3"));
        assert_eq!(
            Ratio::new(u64::MAX, u64::MAX - 1).value().to_string(),
            format!("{}/{}", u64::MAX, u64::MAX - 1)
        );
    }

    const ZONES: [&str; 6] =
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"];

    /// Days of a span by looking at every quarter of an hour: a day begins where the date rises above all before it.
    fn slow_days(zone: &Zone, span: Span) -> u64 {
        const QUARTER: i64 = HOUR / 4;
        let mut at =
            Timestamp::from_nanoseconds(span.from.nanoseconds().div_euclid(QUARTER) * QUARTER - 2 * DAY);
        let mut highest = zone.date_of(at);
        let mut days = 0;
        while at < span.until {
            let date = zone.date_of(at);
            if date > highest {
                days += u64::from(span.contains(at));
                highest = date;
            }
            at = at.plus(QUARTER);
        }
        days
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn slices_of_any_cut_sum_to_the_whole(
            zone in 0usize..ZONES.len(), day in 1u8..=31, month in 1u8..=12, year in 2012i32..2032,
            cuts in prop::collection::vec(0i64..31 * DAY, 0..9),
        ) {
            let zone = Zone::new(ZONES[zone]).unwrap();
            // An anchor on the 29th to 31st, in any month of a leap year or another one.
            let anchor = at(&format!("2023-12-{day:02}T12:00:00"));
            let inside = at(&format!("{year}-{month:02}-10"));
            let period = zone.anchored_months(anchor, 1, inside).unwrap();
            let mut points: Vec<Timestamp> = cuts.iter().map(|cut| period.from.plus(*cut).min(period.until)).collect();
            points.extend([period.from, period.until]);
            points.sort();
            let slices: Vec<Span> = points.windows(2).map(|pair| Span::new(pair[0], pair[1])).collect();

            for basis in [Basis::Days(&zone), Basis::Seconds] {
                let found = ratios(basis, period, &slices);
                let sum = found.iter().try_fold(Exact::ZERO, |sum, ratio| sum.add(ratio.value()));
                prop_assert_eq!(sum, Ok(Exact::ONE), "{:?}", basis);
                let single: Vec<Ratio> = slices.iter().map(|slice| ratio(basis, period, *slice)).collect();
                prop_assert_eq!(found, single);
            }
            let thirty = ratios(Basis::ThirtyDays(&zone), period, &slices);
            let days = zone.days_starting_in(period);
            prop_assert_eq!(thirty.iter().map(|ratio| ratio.numerator).sum::<u64>(), days.min(30));
            for (slice, ratio) in slices.iter().zip(ratios(Basis::Whole, period, &slices)) {
                prop_assert_eq!(ratio.value().is_zero(), slice.from == slice.until);
            }
        }

        #[test]
        fn days_are_what_the_slow_way_counts(
            zone in 0usize..ZONES.len() - 2, start in 0i64..8_000, quarters in 0i64..400, offset in 0i64..96,
        ) {
            let zone = Zone::new(ZONES[zone]).unwrap();
            let from = at("2012-01-01").plus(start * DAY / 4 + offset * HOUR / 4);
            let span = Span::new(from, from.plus(quarters * HOUR / 4));
            prop_assert_eq!(zone.days_starting_in(span), slow_days(&zone, span));
        }
    }
}
