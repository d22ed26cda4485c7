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

use super::proration::{Ratio, prorate_minor};
use super::status::RatingStatus;

/// What lifts `billed`, a sum of rounded amounts, to a prorated minimum: `max(0, R(minimum × ratio) − billed)`.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn true_up(minimum: Exact, ratio: Ratio, billed: i128) -> Result<i128, RatingStatus> {
    let due = prorate_minor(minimum, ratio)?;
    Ok(due.checked_sub(billed).ok_or(RatingStatus::AmountMustFit)?.max(0))
}

/// What a maximum takes off an amount after `billed_before`: `clamp(billed_before + amount − maximum, 0, amount)`.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn cap_discount(maximum: i128, billed_before: i128, amount: i128) -> Result<i128, RatingStatus> {
    let above = billed_before.checked_add(amount).and_then(|billed| billed.checked_sub(maximum));
    Ok(above.ok_or(RatingStatus::AmountMustFit)?.min(amount).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rating::proration::prorate;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
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
        let exactly = |amount| prorate(exact(amount), ratio).unwrap();
        assert_eq!(exactly("1000000").subtract(exactly("100000")).unwrap().round_to(0), Ok(823_562));
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
}
