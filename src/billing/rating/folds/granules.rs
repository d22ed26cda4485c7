//! Granules: a level folded piece by piece, and the pieces added.
//!
//! Owns: the fold of each granule `[start + i × g, start + (i + 1) × g)`, and how long a level is held without news.
//! Leaves to others: stretches inside a granule (`levels`).
//!
//! A *peak* is the greatest level seen inside a granule, the carried one, or zero. A *time-weighted* granule is its mean. A
//! level is carried into a granule if it was seen at most `hold` granules before; one from before the span counts as seen in
//! its first granule. Source: gears' granule fold; the peak of an hour, summed over a month, is a peak-hour price.
//!
//! Invariants: one pass over levels and granules in order of time; a granule never counts twice, also at the edge of a
//! slice.

use domain::{Exact, Span, Timestamp};

use super::levels::Levels;
use crate::rating::status::RatingStatus;

/// What is made of the levels of a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GranuleFunction {
    /// The greatest.
    Peak,
    /// Their mean over time.
    TimeWeighted,
}

/// How levels are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granules {
    /// What is made of the levels of a granule.
    pub function: GranuleFunction,
    /// Nanoseconds of a granule, above zero.
    pub nanoseconds: i64,
    /// For how many granules a level is carried after the one in which it was seen; none is for ever.
    pub hold: Option<i64>,
}

impl Granules {
    /// What each granule of a span comes to; `levels` are absolute.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// If a granule has no length.
    pub fn fold(&self, levels: &[(Timestamp, Exact)], span: Span) -> Result<Vec<Exact>, RatingStatus> {
        assert!(self.nanoseconds > 0, "a granule has a length");
        let mut levels = levels.to_vec();
        levels.sort_by_key(|(at, _)| *at);
        let mut next = levels.partition_point(|(at, _)| *at < span.from);
        // The last level seen, and the granule in which.
        let mut last = next.checked_sub(1).map(|before| (levels[before].1, 0));
        let mut folded = Vec::new();
        let mut from = span.from;
        for granule in 0.. {
            if from >= span.until {
                break;
            }
            let part = Span::new(from, from.plus(self.nanoseconds).min(span.until));
            let is_held = |seen: i64| self.hold.is_none_or(|hold| granule - seen <= hold);
            let carried = last.filter(|(_, seen)| is_held(*seen)).map_or(Exact::ZERO, |(level, _)| level);
            let length = levels[next..].partition_point(|(at, _)| *at < part.until);
            let inside = &levels[next..next + length];
            folded.push(match self.function {
                GranuleFunction::Peak => {
                    let seen = inside.iter().map(|(_, level)| *level);
                    seen.chain([carried]).try_fold(Exact::ZERO, Exact::max)?
                }
                GranuleFunction::TimeWeighted => Levels::of_steps(carried, inside, part).mean()?,
            });
            last = inside.last().map(|(_, level)| (*level, granule)).or(last);
            next += length;
            from = part.until;
        }
        Ok(folded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::HOUR;

    fn check(function: GranuleFunction, hold: Option<i64>, levels: &[(i64, i128)], expected: &[i128]) {
        let at = |minutes: i64| Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(minutes * HOUR / 60);
        let levels: Vec<_> =
            levels.iter().map(|(minutes, n)| (at(*minutes), Exact::from_integer(*n))).collect();
        let granules = Granules { function, nanoseconds: HOUR, hold };
        let folded = granules.fold(&levels, Span::new(at(0), at(60 * expected.len() as i64))).unwrap();
        let expected: Vec<Exact> = expected.iter().map(|n| Exact::from_integer(*n)).collect();
        assert_eq!(folded, expected, "{levels:?}");
    }

    #[test]
    fn a_peak_is_the_greatest_level_seen_or_carried() {
        use GranuleFunction::Peak;
        check(Peak, Some(1), &[(0, 10), (20, 30), (40, 20), (70, 5), (105, 25), (120, 40)], &[30, 25, 40]);
        check(Peak, Some(1), &[(5, 9)], &[9, 9, 0]);
        check(Peak, None, &[(-600, 9)], &[9, 9, 9]);
        check(Peak, None, &[(-600, 50), (-300, 9)], &[9, 9]);
        check(Peak, None, &[(-600, 50), (0, 9)], &[50, 9]);
        check(Peak, Some(1), &[(65, 9)], &[0, 9, 9, 0]);
        check(Peak, Some(1), &[(-600, 9)], &[9, 9, 0]);
        check(Peak, Some(0), &[(5, 9), (65, 0)], &[9, 0, 0]);
        check(Peak, Some(1), &[(5, -4)], &[0, 0]);
    }

    #[test]
    fn a_time_weighted_granule_is_its_mean() {
        use GranuleFunction::TimeWeighted;
        check(TimeWeighted, Some(1), &[(0, 10), (30, 20)], &[15, 20, 0]);
        check(TimeWeighted, None, &[(30, 20)], &[10, 20, 20]);
    }
}
