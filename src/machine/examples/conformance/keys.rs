//! Unique keys of a span: how many are there at its end, and on how many days each was.
//!
//! Owns: keys that are prorated by days. Leaves to others: keys over time (`billing::rating::folds`).
//!
//! A key is active from an addition until its next removal, half-open, or to the end of the span. A day is touched by a
//! stretch of positive length: a removal at midnight does not touch the day that begins. Source: Lago's recurring unique
//! count, prorated by days. The product prorates keys by time.
//!
//! Invariants: a key's day counts once.

use std::collections::{BTreeMap, BTreeSet};

use billing::rating::folds::present_after;
use domain::{Span, Timestamp, Zone};

/// A key that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyChange<'a> {
    /// When.
    pub(crate) at: Timestamp,
    /// Which.
    pub(crate) key: &'a str,
    /// Whether it went.
    pub(crate) is_removal: bool,
}

/// How many keys are there at the end of a span; changes from its end on do not count. Of one instant the list decides.
pub(crate) fn keys_present(changes: &[KeyChange<'_>], until: Timestamp) -> u64 {
    let before = in_order(changes).into_iter().filter(|change| change.at < until);
    present_after(before.map(|change| (change.key, change.is_removal))).last().copied().unwrap_or(0)
}

/// Days of the zone on which each key is active inside a span, added over the keys.
pub(crate) fn active_days(changes: &[KeyChange<'_>], span: Span, zone: &Zone) -> u64 {
    let mut since: BTreeMap<&str, Timestamp> = BTreeMap::new();
    let mut days: BTreeSet<(&str, Timestamp)> = BTreeSet::new();
    let mut touch = |key, from: Timestamp, until: Timestamp| {
        let (from, until) = (from.max(span.from), until.min(span.until));
        let mut day = zone.start_of_day(from);
        while day < until && from < until {
            days.insert((key, day));
            day = zone.start_of_next_day(day);
        }
    };
    for change in in_order(changes) {
        if !change.is_removal {
            since.entry(change.key).or_insert(change.at);
        } else if let Some(since) = since.remove(change.key) {
            touch(change.key, since, change.at);
        }
    }
    for (key, since) in since {
        touch(key, since, span.until);
    }
    days.len() as u64
}

/// Changes in order of time; stable, so that of one instant the list decides.
fn in_order<'a>(changes: &[KeyChange<'a>]) -> Vec<KeyChange<'a>> {
    let mut changes = changes.to_vec();
    changes.sort_by_key(|change| change.at);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Period;
    use domain::time::HOUR;

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp::parse("2026-03-01T00:00:00Z").unwrap().plus(((day - 1) * 24 + hour) * HOUR)
    }

    fn change(day: i64, hour: i64, key: &str, is_removal: bool) -> KeyChange<'_> {
        KeyChange { at: at(day, hour), key, is_removal }
    }

    #[test]
    fn a_key_counts_once_from_its_addition_until_its_removal() {
        let march = Zone::utc().month(Period::parse("2026-03").unwrap());
        for (changes, present, days) in [
            (&[change(1, 0, "a", false)][..], 1, 31),
            (&[change(31, 23, "a", false)], 1, 1),
            // Removed at midnight: the 3rd is not touched.
            (&[change(1, 0, "a", false), change(3, 0, "a", true)], 0, 2),
            (&[change(1, 0, "a", false), change(3, 1, "a", true)], 0, 3),
            // Twice on one day is one day; added again while there is nothing new.
            (
                &[
                    change(5, 1, "a", false),
                    change(5, 2, "a", true),
                    change(5, 3, "a", false),
                    change(5, 4, "a", true),
                ],
                0,
                1,
            ),
            (&[change(5, 1, "a", false), change(6, 1, "a", false), change(7, 0, "a", true)], 0, 2),
            (&[change(5, 1, "a", true), change(30, 0, "b", false)], 1, 2),
            (&[change(-20, 0, "a", false), change(40, 0, "b", false)], 1, 31),
            // Added and removed at once.
            (&[change(5, 1, "a", false), change(5, 1, "a", true)], 0, 0),
        ] {
            assert_eq!(keys_present(changes, march.until), present, "{changes:?}");
            assert_eq!(active_days(changes, march, &Zone::utc()), days, "{changes:?}");
        }
    }

    #[test]
    fn a_day_at_a_clock_change_is_one_day() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let march = berlin.month(Period::parse("2026-03").unwrap());
        assert_eq!(
            active_days(&[KeyChange { at: march.from, key: "a", is_removal: false }], march, &berlin),
            31
        );
    }
}
