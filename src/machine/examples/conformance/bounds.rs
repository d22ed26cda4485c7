//! Minimum and maximum of a period in several runs, and of exact amounts, as the cases define them.
//!
//! Owns: which bound holds in which run, exact amounts between bounds. Leaves to others: what a bound takes off or adds
//! (`billing::rating::spend`), which is all that a cut needs: it rates whole windows.
//!
//! Invariants: after the maximum a period never exceeds `max(maximum, billed before)`; after the minimum it is never below it.

use billing::rating::RatingStatus;
use billing::rating::proration::{Ratio, prorate};
use billing::rating::spend::{cap_discount, true_up};
use domain::Exact;

/// Bounds of what a period costs, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpendBounds {
    /// The least, where there is one.
    pub(crate) minimum: Option<i128>,
    /// The most, where there is one.
    pub(crate) maximum: Option<i128>,
}

/// What the bounds do to an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounded {
    /// What the maximum takes off the amount.
    pub(crate) discount: i128,
    /// What the minimum adds, as a line of its own.
    pub(crate) true_up: i128,
    /// The amount, less the discount, with the true-up.
    pub(crate) amount: i128,
}

/// Bounds an amount after `billed_before` in a run of a period that is not its last: only the maximum binds.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn bound(bounds: SpendBounds, billed_before: i128, amount: i128) -> Result<Bounded, RatingStatus> {
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
pub(crate) fn bound_final(
    bounds: SpendBounds,
    billed_before: i128,
    amount: i128,
) -> Result<Bounded, RatingStatus> {
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

/// What is exactly missing to a prorated minimum, unrounded: for amounts in a unit that is converted before it is billed.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn shortfall(minimum: Exact, ratio: Ratio, used: Exact) -> Result<Exact, RatingStatus> {
    Ok(prorate(minimum, ratio)?.subtract(used)?.max(Exact::ZERO)?)
}

/// An exact amount between bounds, where there are any; a minimum above the maximum gives the minimum.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn clamp_amount(
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
    use proptest::prelude::*;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    fn bounds(minimum: Option<i128>, maximum: Option<i128>) -> SpendBounds {
        SpendBounds { minimum, maximum }
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
