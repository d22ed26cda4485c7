//! Levels over time: how much there was, for how long.
//!
//! Owns: the stretches of a level inside a span, their integral and mean. Leaves to others: where a level comes from.
//!
//! The weighted sum of a span is `(1/T) × ∫ level dt` over `[start, end)`, in whole nanoseconds: 1,000 for a whole month is
//! 1,000, for half of it 500. Source: Lago's weighted sum, OpenMeter's gauge meters.
//!
//! Invariants: stretches tile the span and none is empty; the level at the end is carried with its sign.

use domain::{Exact, Span, Timestamp};

use crate::rating::status::RatingStatus;

/// A level that held for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// From when on.
    pub from: Timestamp,
    /// How much.
    pub level: Exact,
    /// For how long.
    pub nanoseconds: i64,
}

/// Levels over a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// In order of time.
    pub stretches: Vec<Stretch>,
    /// The level at the end of the span: what the next one starts from.
    pub end: Exact,
    nanoseconds: i64,
}

impl Levels {
    /// A level to which every change adds at its instant. Changes before the span count, those from its end on do not.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn of_changes(
        initial: Exact,
        changes: &[(Timestamp, Exact)],
        span: Span,
    ) -> Result<Self, RatingStatus> {
        let mut changes = changes.to_vec();
        changes.sort_by_key(|(at, _)| *at);
        Ok(Self::of_steps(initial, &Self::after_changes(initial, changes)?, span))
    }

    /// The level after each of some changes, in order of time.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn after_changes(
        initial: Exact,
        changes: impl IntoIterator<Item = (Timestamp, Exact)>,
    ) -> Result<Vec<(Timestamp, Exact)>, RatingStatus> {
        let mut level = initial;
        let after = |(at, change)| {
            level = level.add(change)?;
            Ok((at, level))
        };
        changes.into_iter().map(after).collect()
    }

    /// A level that every step sets at its instant; of one instant the last step holds.
    pub fn of_steps(initial: Exact, steps: &[(Timestamp, Exact)], span: Span) -> Self {
        let mut steps = steps.to_vec();
        // Stable: of one instant the order of the list decides.
        steps.sort_by_key(|(at, _)| *at);
        let mut levels = Self { stretches: Vec::new(), end: initial, nanoseconds: length_of(span) };
        let mut from = span.from;
        for (at, level) in steps.iter().filter(|(at, _)| *at < span.until) {
            let at = (*at).max(from);
            levels.push(from, at);
            (from, levels.end) = (at, *level);
        }
        levels.push(from, span.until.max(from));
        levels
    }

    fn push(&mut self, from: Timestamp, until: Timestamp) {
        let nanoseconds = length_of(Span::new(from, until));
        if nanoseconds > 0 {
            self.stretches.push(Stretch { from, level: self.end, nanoseconds });
        }
    }

    /// Level times nanoseconds.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn integral(&self) -> Result<Exact, RatingStatus> {
        let mut sum = Exact::ZERO;
        for stretch in &self.stretches {
            sum = sum.add(stretch.level.multiply(Exact::from_integer(stretch.nanoseconds.into()))?)?;
        }
        Ok(sum)
    }

    /// The weighted sum: the integral over the length of the span; of a span without length, zero.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn mean(&self) -> Result<Exact, RatingStatus> {
        if self.nanoseconds == 0 {
            return Ok(Exact::ZERO);
        }
        Ok(self.integral()?.divide(Exact::from_integer(self.nanoseconds.into()))?)
    }
}

fn length_of(span: Span) -> i64 {
    span.until.nanoseconds().saturating_sub(span.from.nanoseconds()).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::{DAY, HOUR};
    use proptest::prelude::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hours * HOUR)
    }

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    #[test]
    fn a_level_counts_for_the_part_of_the_span_in_which_it_held() {
        let day = Span::new(at(0), at(24));
        for (initial, changes, mean, end) in [
            ("0", &[(0, "1000")][..], "1000", "1000"),
            ("0", &[(12, "1000")], "500", "1000"),
            ("10", &[(6, "-10"), (18, "4")], "3.5", "4"),
            ("0", &[(-5, "3"), (30, "7")], "3", "3"),
            ("-2", &[], "-2", "-2"),
            ("0", &[(8, "1")], "2/3", "1"),
        ] {
            let changes: Vec<_> = changes.iter().map(|(hour, text)| (at(*hour), exact(text))).collect();
            let levels = Levels::of_changes(exact(initial), &changes, day).unwrap();
            assert_eq!((levels.mean(), levels.end), (Ok(exact(mean)), exact(end)), "{changes:?}");
        }
        let nothing = Levels::of_steps(exact("5"), &[], Span::new(at(3), at(3)));
        assert_eq!((nothing.mean(), nothing.stretches.len()), (Ok(Exact::ZERO), 0));
    }

    #[test]
    fn usage_and_its_reversal_are_nothing_whatever_was_cached() {
        // Lago-api #5906 and #5569: a state that was clipped at zero, or read with the wrong sign.
        let span = Span::new(at(0), at(48));
        let both = [(at(5), exact("7")), (at(5), exact("-7"))];
        let levels = Levels::of_changes(exact("-3"), &both, span).unwrap();
        assert_eq!((levels.mean(), levels.end), (Ok(exact("-3")), exact("-3")));
    }

    proptest! {
        #![proptest_config(crate::testing::cases())]

        /// However a span is cut, the parts add up: each carries the level of the one before.
        #[test]
        fn parts_of_a_span_add_up_to_it(
            changes in prop::collection::vec((-10i64..60, -20i128..20), 0..12),
            cut in 1i64..47,
        ) {
            let changes: Vec<_> = changes.into_iter().map(|(hour, units)| (at(hour), Exact::new(units, 1))).collect();
            let initial = Exact::new(5, 0);
            let whole = Levels::of_changes(initial, &changes, Span::new(at(0), at(48))).unwrap();
            let first = Levels::of_changes(initial, &changes, Span::new(at(0), at(cut))).unwrap();
            let later: Vec<_> = changes.iter().copied().filter(|(when, _)| *when >= at(cut)).collect();
            let second = Levels::of_changes(first.end, &later, Span::new(at(cut), at(48))).unwrap();
            prop_assert_eq!(first.integral().unwrap().add(second.integral().unwrap()), Ok(whole.integral().unwrap()));
            prop_assert_eq!(second.end, whole.end);
            let length: i64 = whole.stretches.iter().map(|stretch| stretch.nanoseconds).sum();
            prop_assert_eq!(length, 2 * DAY);
        }
    }
}
