//! The share of a window to which what is agreed for a whole one is prorated.

use super::*;
use crate::rating::account::share_of;
use crate::rating::proration::Ratio;

#[test]
fn a_share_counts_each_day_once_and_no_day_between() {
    let day = |day: i64| instant("01-01").plus((day - 1) * DAY);
    let january = Span::new(day(1), day(32));
    for (active, days) in [
        (&[(1, 32)][..], 31),
        (&[(1, 11), (21, 32)], 21),
        (&[(21, 32), (1, 11)], 21),
        (&[(1, 11), (11, 16)], 15),
        (&[(1, 11), (6, 16)], 15),
        (&[(1, 16), (6, 11)], 15),
        (&[(1, 16), (6, 11), (14, 21)], 20),
        (&[], 0),
    ] {
        let spans: Vec<Span> =
            active.iter().map(|(from, until)| Span::new(day(*from), day(*until))).collect();
        let share = share_of(january, &spans, &Zone::utc());
        let whole = if days == 0 { 1 } else { 31 };
        assert_eq!(share, Ratio::new(days, whole), "{active:?}");
    }
}
