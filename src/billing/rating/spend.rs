//! Minimum and maximum of what a period costs.
//!
//! Owns: the true-up that lifts a period to its minimum, the discount that keeps it under its maximum. Leaves to others:
//! which amounts count, and whether this is the period's final run.
//!
//! With `B` the sum of the *rounded* amounts that count, `M` the minimum, `X` the maximum and `a` a line:
//! - true-up `= max(0, R(M × ratio) − B)`, in the final run only. Since `B` is already rounded, lines and true-up add up
//!   to the minimum to the cent; a minimum is prorated and rounded once.
//! - discount on the line `= clamp(B + a − X, 0, a)`, where `B` is what was billed before in the period. A line below
//!   zero is not discounted.
//!
//! Order: maximum, then minimum. A minimum above the maximum contradicts itself, and the catalog refuses it.
//!
//! Invariants: amounts are minor units; after the maximum a period never exceeds `max(X, B)`; after the minimum it is
//! never below it.

use domain::Exact;

use super::proration::{Ratio, prorate, prorate_minor};
use super::status::RatingStatus;

/// Bounds of what a period costs, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpendBounds {
    /// The least, where there is one.
    pub minimum: Option<i128>,
    /// The most, where there is one.
    pub maximum: Option<i128>,
}

/// What the bounds do to an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// What the maximum takes off the amount.
    pub discount: i128,
    /// What the minimum adds, as a line of its own.
    pub true_up: i128,
    /// The amount, less the discount, with the true-up.
    pub amount: i128,
}

/// Bounds an amount after `billed_before` in a run of a period that is not its last: only the maximum binds.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn bound(bounds: SpendBounds, billed_before: i128, amount: i128) -> Result<Bounded, RatingStatus> {
    let discount = match bounds.maximum {
        Some(maximum) => cap_discount(maximum, billed_before, amount)?,
        None => 0,
    };
    // Between zero and the amount, or zero.
    Ok(Bounded { discount, true_up: 0, amount: amount - discount })
}

/// Bounds an amount after `billed_before` in the final run of a period: the maximum, then the minimum.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn bound_final(bounds: SpendBounds, billed_before: i128, amount: i128) -> Result<Bounded, RatingStatus> {
    let fit = RatingStatus::AmountMustFit;
    let bounded = bound(bounds, billed_before, amount)?;
    let billed = billed_before.checked_add(bounded.amount).ok_or(fit)?;
    let true_up = match bounds.minimum {
        Some(minimum) => true_up(Exact::from_integer(minimum), Ratio::WHOLE, billed)?,
        None => 0,
    };
    let amount = bounded.amount.checked_add(true_up).ok_or(fit)?;
    Ok(Bounded { true_up, amount, ..bounded })
}

/// What lifts `billed`, a sum of rounded amounts, to a prorated minimum: `max(0, R(minimum × ratio) − billed)`.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn true_up(minimum: Exact, ratio: Ratio, billed: i128) -> Result<i128, RatingStatus> {
    let due = prorate_minor(minimum, ratio)?;
    Ok(due.checked_sub(billed).ok_or(RatingStatus::AmountMustFit)?.max(0))
}

/// What is exactly missing to a prorated minimum, unrounded: for amounts in a unit that is converted before it is billed.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn shortfall(minimum: Exact, ratio: Ratio, used: Exact) -> Result<Exact, RatingStatus> {
    Ok(prorate(minimum, ratio)?.subtract(used)?.max(Exact::ZERO)?)
}

/// What a maximum takes off an amount after `billed_before`: `clamp(billed_before + amount − maximum, 0, amount)`.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn cap_discount(maximum: i128, billed_before: i128, amount: i128) -> Result<i128, RatingStatus> {
    let above = billed_before.checked_add(amount).and_then(|billed| billed.checked_sub(maximum));
    Ok(above.ok_or(RatingStatus::AmountMustFit)?.min(amount).max(0))
}

/// An exact amount between bounds, where there are any; a minimum above the maximum gives the minimum.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn clamp_amount(
    amount: Exact,
    minimum: Option<Exact>,
    maximum: Option<Exact>,
) -> Result<Exact, RatingStatus> {
    let capped = maximum.map_or(Ok(amount), |maximum| amount.min(maximum))?;
    Ok(minimum.map_or(Ok(capped), |minimum| capped.max(minimum))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use proptest::prelude::*;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    fn bounds(minimum: Option<i128>, maximum: Option<i128>) -> SpendBounds {
        SpendBounds { minimum, maximum }
    }

    #[test]
    fn a_true_up_lifts_rounded_amounts_to_the_rounded_minimum() {
        for (minimum, ratio, billed, expected) in [
            ("1000", (1, 1), 700, 300),
            ("1000", (15, 31), 200, 284),
            ("1000", (25, 28), 800, 93),
            ("1000000", (2, 29), 3_690, 65_276),
            ("1000", (1, 1), 1_000, 0),
            ("1000", (1, 1), 1_001, 0),
            ("1000", (1, 1), -50, 1_050),
            ("1000", (0, 31), 0, 0),
            // JPY 5000 with 4200.5 used: the line is 4201, so the true-up is 799, not 799.5.
            ("5000", (1, 1), 4_201, 799),
        ] {
            let ratio = Ratio::new(ratio.0, ratio.1);
            assert_eq!(true_up(exact(minimum), ratio, billed), Ok(expected), "{minimum} {ratio:?} {billed}");
        }
    }

    /// A commitment of 10,000.00 and a fee of 1,000.00, both for 334 of 365 days: rounding the difference once gives
    /// 823,562, but the fee is billed as a rounded line, and only 823,561 makes the lines add up.
    #[test]
    fn the_fee_that_counts_is_rounded_before_it_is_subtracted() {
        let ratio = Ratio::new(334, 365);
        let fee = prorate_minor(exact("100000"), ratio).unwrap();
        let lifted = true_up(exact("1000000"), ratio, fee).unwrap();
        assert_eq!((fee, lifted), (91_507, 823_561));
        assert_eq!(fee + lifted, prorate_minor(exact("1000000"), ratio).unwrap());
        let once = shortfall(exact("1000000"), ratio, prorate(exact("100000"), ratio).unwrap()).unwrap();
        assert_eq!(once.round_to(0), Ok(823_562));
    }

    #[test]
    fn a_maximum_counts_what_was_billed_before() {
        for (maximum, before, amount, discount) in [
            (10_000, 9_000, 1_000, 0),
            (10_000, 9_600, 1_000, 600),
            (10_000, 10_000, 1_000, 1_000),
            (10_000, 20_000, 1_000, 1_000),
            (10_000, 0, 1_000, 0),
            (0, 0, 1_000, 1_000),
            (10_000, -500, 10_600, 100),
            // A correction is not discounted.
            (10_000, 20_000, -1_000, 0),
        ] {
            let found = cap_discount(maximum, before, amount);
            assert_eq!(found, Ok(discount), "{maximum} after {before} + {amount}");
        }
        assert_eq!(cap_discount(0, i128::MAX, 1), Err(RatingStatus::AmountMustFit));
    }

    #[test]
    fn the_maximum_always_binds_and_the_minimum_in_the_final_run() {
        for (limits, before, amount, in_between, at_the_end) in [
            (bounds(Some(100), None), 0, 0, (0, 0, 0), (0, 100, 100)),
            (bounds(None, Some(100)), 70, 50, (20, 0, 30), (20, 0, 30)),
            (bounds(Some(100), Some(100)), 70, 50, (20, 0, 30), (20, 0, 30)),
            (bounds(Some(1_000), None), 100, 0, (0, 0, 0), (0, 900, 900)),
            (bounds(Some(100), None), 70, 30, (0, 0, 30), (0, 0, 30)),
            (bounds(None, None), 70, 30, (0, 0, 30), (0, 0, 30)),
        ] {
            let of = |(discount, true_up, amount)| Ok(Bounded { discount, true_up, amount });
            assert_eq!(bound(limits, before, amount), of(in_between), "{limits:?} {before} {amount}");
            assert_eq!(bound_final(limits, before, amount), of(at_the_end), "{limits:?} {before} {amount}");
        }
    }

    #[test]
    fn an_exact_amount_is_clamped_unrounded() {
        for (amount, minimum, maximum, expected) in [
            ("0.5", Some("1.5"), None, "1.5"),
            ("2.5", None, Some("1.5"), "1.5"),
            ("1/3", Some("0.1"), Some("0.5"), "1/3"),
            ("7", None, None, "7"),
        ] {
            let found = clamp_amount(exact(amount), minimum.map(exact), maximum.map(exact));
            assert_eq!(found, Ok(exact(expected)), "{amount}");
        }
    }

    proptest! {
        #![proptest_config(cases())]

        /// However a period is cut into runs, it costs what one run would: between its bounds, and never less for more.
        #[test]
        fn runs_of_a_period_cost_what_one_run_costs(
            minimum in 0i128..500, room in 0i128..500, amounts in prop::collection::vec(0i128..200, 1..8),
        ) {
            let limits = bounds(Some(minimum), Some(minimum + room));
            let sum: i128 = amounts.iter().sum();
            let (last, earlier) = amounts.split_last().unwrap();
            let mut billed = 0;
            for amount in earlier {
                billed += bound(limits, billed, *amount).unwrap().amount;
            }
            billed += bound_final(limits, billed, *last).unwrap().amount;
            prop_assert_eq!(billed, sum.min(minimum + room).max(minimum));
            prop_assert_eq!(billed, bound_final(limits, 0, sum).unwrap().amount);
        }
    }
}
