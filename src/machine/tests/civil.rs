//! Billing windows day by day: the slow way to say what a window is.
//!
//! Owns: which civil days start one. Leaves to others: what a window is worth (`model`).

use domain::{Span, Timestamp, Zone};

/// The windows of a unit that share an instant with the months that histories touch. Without an anchor they start on the first of
/// January, which was a Monday in 2024.
pub(super) fn windows(zone: &Zone, unit: &str, anchor: Option<Timestamp>) -> Vec<Span> {
    let at = |text: &str| Timestamp::parse(text).expect("an instant");
    let anchor = anchor.map_or("2024-01-01".to_string(), |anchor| zone.date_of(anchor));
    let (year, month, day) = date_of(&anchor);
    let mut starts = Vec::new();
    let mut instant = at("2024-12-01T12:00:00Z");
    while instant < at("2027-12-31T12:00:00Z") {
        let date = date_of(&zone.date_of(instant));
        let months = 12 * (date.0 - year) + date.1 - month;
        let is_day = date.2 == day.min(days_of(date.0, date.1));
        let is_start = match unit {
            "day" => true,
            "week" => (ordinal(date) - ordinal((year, month, day))).rem_euclid(7) == 0,
            "month" => is_day,
            "quarter" => is_day && months.rem_euclid(3) == 0,
            "year" => is_day && months.rem_euclid(12) == 0,
            unit => panic!("{unit}"),
        };
        if is_start {
            starts.push(zone.start_of_day(instant));
        }
        instant = zone.start_of_next_day(instant);
    }
    let months = Span::new(at("2025-11-01T12:00:00Z"), at("2026-10-31T12:00:00Z"));
    let windows = starts.windows(2).map(|pair| Span::new(pair[0], pair[1]));
    windows.filter(|window| window.overlaps(months)).collect()
}

type Date = (i32, i32, i32);

fn date_of(text: &str) -> Date {
    let mut parts = text.split('-').map(|part| part.parse().expect("a number"));
    let mut next = || parts.next().expect("a date has three parts");
    (next(), next(), next())
}

fn days_of(year: i32, month: i32) -> i32 {
    let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the start of 2000, counted one by one.
fn ordinal((year, month, day): Date) -> i32 {
    let of_years = (2000..year).flat_map(|year| (1..=12).map(move |month| days_of(year, month)));
    let of_months = (1..month).map(|month| days_of(year, month));
    of_years.sum::<i32>() + of_months.sum::<i32>() + day
}
