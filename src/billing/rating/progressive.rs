//! Progressive billing: when a threshold is crossed, and what is billed then.
//!
//! Owns: thresholds, and how far an amount went. Leaves to others: which amounts count (`charges`), where they stand
//! (`machine::invoicing`).
//!
//! *Thresholds* look at a cumulative amount. Each fixed one fires once, when the amount reaches it; after the last fixed
//! one the step repeats from there. A run in which any fires bills everything since the last one that did. An amount that
//! falls and rises again fires nothing twice, and thresholds that are agreed later fire only beyond what was reached before.
//!
//! Invariants: amounts are minor units, rounded before; nothing here rounds.

use std::fmt;

use super::status::RatingStatus;

/// Why thresholds cannot be used; the first broken rule, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThresholdStatus {
    /// A threshold or the step is not above zero.
    ThresholdsMustBePositive,
    /// Fixed thresholds are not in strictly rising order.
    ThresholdsMustRise,
}

impl fmt::Display for ThresholdStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ThresholdStatus::ThresholdsMustBePositive => "a threshold is above zero",
            ThresholdStatus::ThresholdsMustRise => "thresholds are in strictly rising order",
        })
    }
}

impl std::error::Error for ThresholdStatus {}

/// Amounts at which a subscription is billed before its period ends.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds<'a> {
    /// Fixed ones, rising; minor units.
    pub fixed: &'a [i128],
    /// The step that repeats after the last fixed one, or from zero if there is none.
    pub recurring: Option<i128>,
}

impl Thresholds<'_> {
    /// Whether the thresholds can be used.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`ThresholdStatus`] declares them.
    pub fn check(&self) -> Result<(), ThresholdStatus> {
        check_thresholds(0, self.fixed, self.recurring)
    }

    /// How many thresholds an amount has reached.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// If [`Thresholds::check`] refuses the thresholds; the catalog has checked them.
    pub fn reached(&self, amount: i128) -> Result<i128, RatingStatus> {
        assert_eq!(self.check(), Ok(()), "thresholds were checked");
        let fixed_count = self.fixed.iter().filter(|threshold| **threshold <= amount).count() as i128;
        let last = self.fixed.last().copied().unwrap_or(0);
        match self.recurring {
            // Both are above zero or zero, so the difference fits.
            Some(step) if amount > last => {
                ((amount - last) / step).checked_add(fixed_count).ok_or(RatingStatus::AmountMustFit)
            }
            _ => Ok(fixed_count),
        }
    }

    /// The greatest threshold that an amount has reached.
    pub fn last_reached(&self, amount: i128) -> Option<i128> {
        let fixed = self.fixed.iter().rev().find(|threshold| **threshold <= amount).copied();
        let last = self.fixed.last().copied().unwrap_or(0);
        match self.recurring {
            Some(step) if amount >= last.checked_add(step)? => Some(amount - (amount - last) % step),
            _ => fixed,
        }
    }

    /// The first threshold above an amount, if there is one that fits.
    pub fn next_above(&self, amount: i128) -> Option<i128> {
        let last = self.fixed.last().copied().unwrap_or(0);
        match self.fixed.iter().find(|threshold| **threshold > amount) {
            Some(threshold) => Some(*threshold),
            None => self.recurring.and_then(|step| {
                let steps = amount.max(last).checked_sub(last)? / step;
                steps.checked_add(1)?.checked_mul(step)?.checked_add(last)
            }),
        }
    }
}

/// Whether thresholds can be used, as amounts of any kind of number.
///
/// # Errors
/// The first broken rule, in the order in which [`ThresholdStatus`] declares them.
pub fn check_thresholds<T: PartialOrd>(
    zero: T,
    fixed: &[T],
    recurring: Option<T>,
) -> Result<(), ThresholdStatus> {
    if fixed.iter().chain(recurring.iter()).any(|threshold| *threshold <= zero) {
        return Err(ThresholdStatus::ThresholdsMustBePositive);
    }
    if !fixed.is_sorted_by(|a, b| a < b) {
        return Err(ThresholdStatus::ThresholdsMustRise);
    }
    Ok(())
}

/// How far a cumulative amount went, and how much of it was billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The amount, in minor units.
    pub amount: i128,
    /// The most that it ever was.
    pub highest: i128,
    /// What it was when it was last billed.
    pub billed: i128,
}

impl Progress {
    /// What is billed when the amount becomes `amount`: all since the last bill, if that is a threshold more than ever
    /// before.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// As [`Thresholds::reached`].
    pub fn bill_at(&self, thresholds: &Thresholds<'_>, amount: i128) -> Result<Option<i128>, RatingStatus> {
        if thresholds.reached(amount)? <= thresholds.reached(self.highest)? {
            return Ok(None);
        }
        amount.checked_sub(self.billed).ok_or(RatingStatus::AmountMustFit).map(Some)
    }

    /// Takes the amount that it became, and whether that was billed.
    pub fn advance(&mut self, amount: i128, is_billed: bool) {
        self.amount = amount;
        self.highest = self.highest.max(amount);
        if is_billed {
            self.billed = amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use proptest::prelude::*;

    /// What is billed when a cumulative amount takes these values one after the other.
    fn bills(thresholds: &Thresholds<'_>, amounts: &[i128]) -> Vec<Option<i128>> {
        let mut progress = Progress::default();
        let bill_at = |amount: &i128| {
            let bill = progress.bill_at(thresholds, *amount).unwrap();
            progress.advance(*amount, bill.is_some());
            bill
        };
        amounts.iter().map(bill_at).collect()
    }

    #[test]
    fn a_threshold_fires_once_and_the_last_step_repeats() {
        for (fixed, recurring, amounts, expected) in [
            (&[20_000][..], None, &[20_000, 40_000][..], vec![Some(20_000), None]),
            (&[20_000, 50_000], None, &[20_000, 40_000, 60_000], vec![Some(20_000), None, Some(40_000)]),
            (
                &[200, 500, 700],
                Some(1_000),
                &[220, 440, 660, 880, 3_080, 5_280],
                vec![Some(220), None, Some(440), Some(220), Some(2_200), Some(2_200)],
            ),
            (&[], Some(100), &[99, 100, 199, 350], vec![None, Some(100), None, Some(250)]),
            (&[100], Some(100), &[100, 150, 199, 200], vec![Some(100), None, None, Some(100)]),
            (&[], None, &[1_000], vec![None]),
            // A reversal, and the same usage again: nothing fires twice, and the next bill takes both into account.
            (&[100, 300], None, &[120, 80, 130, 310], vec![Some(120), None, None, Some(190)]),
            (&[100], None, &[-50, 100], vec![None, Some(100)]),
        ] {
            let thresholds = Thresholds { fixed, recurring };
            assert_eq!(bills(&thresholds, amounts), expected, "{thresholds:?} {amounts:?}");
        }
    }

    #[test]
    fn thresholds_that_are_agreed_later_fire_beyond_what_was_reached() {
        let (first, second) = ([100, 300], [150, 200]);
        let first = Thresholds { fixed: &first, recurring: None };
        let second = Thresholds { fixed: &second, recurring: Some(50) };
        let mut progress = Progress::default();
        for (thresholds, amount, bill) in [
            (first, 180, Some(180)),
            // 150 was passed before it was agreed.
            (second, 190, None),
            (second, 200, Some(20)),
            (second, 120, None),
            (second, 260, Some(60)),
            (first, 290, None),
            (first, 300, Some(40)),
        ] {
            assert_eq!(progress.bill_at(&thresholds, amount), Ok(bill), "{thresholds:?} {amount}");
            progress.advance(amount, bill.is_some());
        }
        assert_eq!(progress, Progress { amount: 300, highest: 300, billed: 300 });
    }

    #[test]
    fn the_next_threshold_is_the_first_above_the_amount() {
        for (fixed, recurring, amount, next) in [
            (&[200, 500][..], Some(1_000), 0, Some(200)),
            (&[200, 500], Some(1_000), 200, Some(500)),
            (&[200, 500], Some(1_000), 500, Some(1_500)),
            (&[200, 500], Some(1_000), 1_500, Some(2_500)),
            (&[200, 500], None, 500, None),
            (&[], Some(100), -1, Some(100)),
            (&[], Some(100), 100, Some(200)),
            (&[], None, 100, None),
            (&[], Some(2), i128::MAX, None),
        ] {
            let thresholds = Thresholds { fixed, recurring };
            assert_eq!(thresholds.next_above(amount), next, "{thresholds:?} {amount}");
        }
    }

    #[test]
    fn thresholds_that_cannot_be_used_name_the_rule() {
        for (fixed, recurring, status) in [
            (&[1, 2][..], Some(1), Ok(())),
            (&[2, 0], None, Err(ThresholdStatus::ThresholdsMustBePositive)),
            (&[1], Some(0), Err(ThresholdStatus::ThresholdsMustBePositive)),
            (&[2, 2], Some(1), Err(ThresholdStatus::ThresholdsMustRise)),
        ] {
            assert_eq!(Thresholds { fixed, recurring }.check(), status, "{fixed:?} {recurring:?}");
        }
        assert_eq!(ThresholdStatus::ThresholdsMustBePositive.to_string(), "a threshold is above zero");
    }

    #[test]
    fn amounts_that_do_not_fit_are_a_status() {
        let thresholds = Thresholds { fixed: &[1], recurring: Some(1) };
        assert_eq!(thresholds.reached(i128::MAX), Ok(i128::MAX));
        let progress = Progress { billed: -1, ..Progress::default() };
        assert_eq!(progress.bill_at(&thresholds, i128::MAX), Err(RatingStatus::AmountMustFit));
    }

    proptest! {
        #![proptest_config(cases())]

        /// Counted by walking up to the amount one minor unit at a time.
        #[test]
        fn thresholds_are_reached_as_the_slow_way_counts(
            fixed in prop::collection::btree_set(1i128..300, 0..5), recurring in prop::option::of(1i128..90),
            amount in -20i128..600,
        ) {
            let fixed: Vec<i128> = fixed.into_iter().collect();
            let last = fixed.last().copied().unwrap_or(0);
            let is_reached = |at: &i128| {
                fixed.contains(at) || recurring.is_some_and(|step| *at > last && (*at - last) % step == 0)
            };
            let slow = (1..=amount).filter(is_reached).count() as i128;
            let thresholds = Thresholds { fixed: &fixed, recurring };
            prop_assert_eq!(thresholds.reached(amount), Ok(slow));
            let next = (amount.max(0) + 1..800).find(is_reached);
            prop_assert_eq!(thresholds.last_reached(amount), (1..=amount).rev().find(is_reached));
            prop_assert_eq!(thresholds.next_above(amount).filter(|next| *next < 800), next);
        }

        /// Bills and what is left at the end make the final amount, and finer steps never bill later.
        #[test]
        fn bills_sum_to_the_amount_at_the_last_bill(
            steps in prop::collection::vec(0i128..200, 1..12), recurring in 1i128..150,
        ) {
            let mut sum = 0;
            let amounts: Vec<i128> = steps.iter().map(|step| { sum += step; sum }).collect();
            let thresholds = Thresholds { fixed: &[100], recurring: Some(recurring) };
            let bills = bills(&thresholds, &amounts);
            let billed: i128 = bills.iter().flatten().sum();
            let last = amounts.iter().zip(&bills).rev().find(|(_, bill)| bill.is_some());
            prop_assert_eq!(billed, last.map_or(0, |(amount, _)| *amount));
            prop_assert_eq!(thresholds.reached(billed), thresholds.reached(sum));
        }
    }
}
