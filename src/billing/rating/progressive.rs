//! Billing a period in several runs: when a threshold is crossed, and what each run and each period is worth.
//!
//! Owns: thresholds, the split of an allowance over earlier and current units, and differences of positions by run and
//! by original period. Leaves to others: positions themselves (`position`), what a run is issued as.
//!
//! *Thresholds* look at a cumulative amount. Each fixed one fires once, when the amount reaches it; after the last fixed
//! one the step repeats from there. A run in which any fires bills everything since the last one that did. An amount that
//! falls and rises again fires nothing twice, and thresholds that are agreed later fire only beyond what was reached before.
//!
//! *Differences.* A run is worth `P_i − P_(i−1)`, so runs telescope to the last position. A period is worth the same
//! difference along the periods of one snapshot, and what is emitted for it is that less what was booked for it: late usage
//! stays with the period that it belongs to.
//!
//! Invariants: amounts are minor units, rounded before; nothing here rounds.

use std::fmt;

use domain::Exact;

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

    /// What is billed when a cumulative amount takes these values one after the other: all since the last bill where one
    /// more threshold is reached than ever before, otherwise nothing.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// As [`Thresholds::reached`].
    pub fn bills(&self, amounts: &[i128]) -> Result<Vec<Option<i128>>, RatingStatus> {
        let mut progress = Progress::default();
        let bill_at = |amount: &i128| {
            let bill = progress.bill_at(self, *amount)?;
            progress.advance(*amount, bill.is_some());
            Ok(bill)
        };
        amounts.iter().map(bill_at).collect()
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

/// Units before a run and in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunUnits {
    /// Units of earlier runs.
    pub before: Exact,
    /// Units of this run.
    pub current: Exact,
}

/// Takes a discount in units off a run: what earlier runs have used of it is gone, the rest is free here. Earlier units
/// below zero have used nothing, and are made up for first.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn discount_units(discount: Exact, units: RunUnits) -> Result<RunUnits, RatingStatus> {
    let taken_before = discount.min(units.before)?;
    let left = discount.subtract(taken_before)?;
    Ok(RunUnits {
        before: units.before.subtract(taken_before)?,
        current: units.current.subtract(left)?.max(Exact::ZERO)?,
    })
}

/// What each of a row of cumulative positions is worth by itself: `P_i − P_(i−1)`, and the first as it is.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn differences(positions: &[i128]) -> Result<Vec<i128>, RatingStatus> {
    let mut before = 0i128;
    let difference = |position: &i128| {
        let difference = position.checked_sub(before).ok_or(RatingStatus::AmountMustFit);
        before = *position;
        difference
    };
    positions.iter().map(difference).collect()
}

/// What is emitted for each period of a snapshot of cumulative positions, given what was booked for it before: the period's
/// worth less that. A period that was not booked yet has nothing, one that the snapshot does not reach keeps what it has.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn period_corrections(positions: &[i128], booked: &[i128]) -> Result<Vec<i128>, RatingStatus> {
    let booked = booked.iter().copied().chain(std::iter::repeat(0));
    let lines = differences(positions)?.into_iter().zip(booked);
    lines.map(|(line, booked)| line.checked_sub(booked).ok_or(RatingStatus::AmountMustFit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use proptest::prelude::*;

    #[test]
    fn a_threshold_fires_once_and_the_last_step_repeats() {
        for (fixed, recurring, amounts, bills) in [
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
            assert_eq!(thresholds.bills(amounts), Ok(bills), "{thresholds:?} {amounts:?}");
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
    }

    #[test]
    fn a_discount_in_units_is_used_by_earlier_runs_first() {
        for (discount, before, current, billed_before, billed) in [
            (10, 5, 15, 0, 10),
            (10, 20, 15, 10, 15),
            (10, 0, 4, 0, 0),
            (0, 3, 4, 3, 4),
            (10, 10, 1, 0, 1),
            (10, -5, 20, 0, 5),
        ] {
            let of = |before, current| RunUnits {
                before: Exact::from_integer(before),
                current: Exact::from_integer(current),
            };
            let found = discount_units(Exact::from_integer(discount), of(before, current));
            assert_eq!(found, Ok(of(billed_before, billed)), "{discount} off {before} + {current}");
        }
    }

    #[test]
    fn late_usage_stays_with_its_period() {
        // Snapshots of positions: 10 a unit, at most 50.
        let mut booked = Vec::new();
        for (positions, emitted) in [
            (vec![30], vec![30]),
            (vec![30, 50], vec![0, 20]),
            (vec![40, 50, 50], vec![10, -10, 0]),
            (vec![40, 50, 50], vec![0, 0, 0]),
        ] {
            assert_eq!(
                period_corrections(&positions, &booked),
                Ok(emitted),
                "{positions:?} after {booked:?}"
            );
            booked = differences(&positions).unwrap();
        }
    }

    #[test]
    fn amounts_that_do_not_fit_are_a_status() {
        let status = RatingStatus::AmountMustFit;
        assert_eq!(differences(&[i128::MIN, 1]), Err(status));
        assert_eq!(period_corrections(&[i128::MIN], &[1]), Err(status));
        let thresholds = Thresholds { fixed: &[1], recurring: Some(1) };
        assert_eq!(thresholds.reached(i128::MAX), Ok(i128::MAX));
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
            let bills = thresholds.bills(&amounts).unwrap();
            let billed: i128 = bills.iter().flatten().sum();
            let last = amounts.iter().zip(&bills).rev().find(|(_, bill)| bill.is_some());
            prop_assert_eq!(billed, last.map_or(0, |(amount, _)| *amount));
            prop_assert_eq!(thresholds.reached(billed), thresholds.reached(sum));
        }

        /// Whatever is corrected in whatever order, booked lines of a snapshot sum to its last position.
        #[test]
        fn corrections_by_period_telescope(
            snapshots in prop::collection::vec(prop::collection::vec(-1_000i128..1_000, 4), 1..6),
        ) {
            let mut booked = vec![0; 4];
            for positions in &snapshots {
                let emitted = period_corrections(positions, &booked).unwrap();
                for (booked, line) in booked.iter_mut().zip(emitted) {
                    *booked += line;
                }
                prop_assert_eq!(booked.iter().sum::<i128>(), positions[3]);
                prop_assert_eq!(&booked, &differences(positions).unwrap());
            }
        }

        #[test]
        fn a_discount_in_units_is_the_same_over_any_runs(
            discount in 0i128..60, first in -20i128..20, runs in prop::collection::vec(0i128..30, 0..8),
        ) {
            let (mut before, mut billed) = (Exact::from_integer(first.min(0)), Exact::ZERO);
            for run in std::iter::once(&first.max(0)).chain(&runs) {
                let current = Exact::from_integer(*run);
                let units = discount_units(Exact::from_integer(discount), RunUnits { before, current }).unwrap();
                prop_assert_eq!(units.before, billed);
                billed = billed.add(units.current).unwrap();
                before = before.add(current).unwrap();
            }
            let whole = (first + runs.iter().sum::<i128>() - discount).max(0);
            prop_assert_eq!(billed, Exact::from_integer(whole));
        }
    }
}
