//! Splits an amount over weights so that no minor unit is lost: by largest remainder.
//!
//! Owns: shares of an amount, rounded lines that add up to their rounded sum, and how a discount is spread over lines.
//! Leaves to others: how large a discount is (`discount`), what the weights are.
//!
//! Each line first gets its exact share without the fraction; the units that are then missing go one each to the largest
//! fractions, ties in the order of the list.
//!
//! Invariants:
//! - Shares sum to the amount, each is within one minor unit of its exact share, and a weight of zero gets nothing.
//! - The shares of `−a` are those of `a` with the other sign.
//! - Weights that are all zero say nothing about who pays, so each counts the same: an amount is never lost.

use std::cmp::Ordering;
use std::fmt;

use domain::{Exact, ExactStatus, Rounding};

use super::status::RatingStatus;

/// Why an amount cannot be split; the first broken rule, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocationStatus {
    /// There is an amount, and nobody to take it.
    WeightsMustExist,
    /// A weight is below zero.
    WeightsMustNotBeNegative,
    /// A share needs more digits than exact arithmetic has.
    AmountMustFit,
}

impl fmt::Display for AllocationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AllocationStatus::WeightsMustExist => "an amount needs at least one weight to be split over",
            AllocationStatus::WeightsMustNotBeNegative => "a weight is zero or more",
            AllocationStatus::AmountMustFit => "a share needs more than 256 bits (76 digits)",
        })
    }
}

impl std::error::Error for AllocationStatus {}

impl From<ExactStatus> for AllocationStatus {
    fn from(_: ExactStatus) -> Self {
        AllocationStatus::AmountMustFit
    }
}

/// Splits an amount in minor units over weights; one share for each, in their order.
///
/// # Errors
/// The first broken rule, in the order in which [`AllocationStatus`] declares them.
pub fn allocate(amount: i128, weights: &[Exact]) -> Result<Vec<i128>, AllocationStatus> {
    if weights.is_empty() && amount != 0 {
        return Err(AllocationStatus::WeightsMustExist);
    }
    if weights.iter().any(|weight| weight.is_negative()) {
        return Err(AllocationStatus::WeightsMustNotBeNegative);
    }
    let sum = sum_of(weights)?;
    let amount_exact = Exact::from_integer(amount);
    let mut exact_shares = Vec::with_capacity(weights.len());
    for weight in weights {
        let part =
            if sum.is_zero() { Exact::ratio(1, weights.len() as i128)? } else { weight.divide(sum)? };
        exact_shares.push(part.multiply(amount_exact)?);
    }
    let shares = round_to_sum(&exact_shares)?;
    let total = shares.iter().try_fold(0i128, |total, share| total.checked_add(*share));
    assert_eq!(total, Some(amount), "shares sum to the amount");
    Ok(shares)
}

/// Rounds lines of exact minor units so that they add up to their sum, rounded once: each line is its exact amount
/// rounded down or up.
///
/// # Errors
/// [`AllocationStatus::AmountMustFit`].
pub fn round_to_sum(lines: &[Exact]) -> Result<Vec<i128>, AllocationStatus> {
    let sum = sum_of(lines)?;
    let towards_zero = if sum.is_negative() { Rounding::Ceiling } else { Rounding::Floor };
    let mut rounded = Vec::with_capacity(lines.len());
    let mut fractions = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let whole = line.round_to_minor(towards_zero, 0)?;
        rounded.push(whole);
        fractions.push((index, line.subtract(Exact::from_integer(whole))?.abs()));
    }
    let missing = sum.subtract(sum_of_integers(&rounded)?)?.round_to(0)?;
    let unit = missing.signum();
    let missing_count = usize::try_from(missing.unsigned_abs()).unwrap_or(usize::MAX);
    assert!(missing_count <= lines.len(), "fractions below one make less than one unit for each line");
    for (index, _) in by_fraction(fractions)?.into_iter().take(missing_count) {
        rounded[index] = rounded[index].checked_add(unit).ok_or(AllocationStatus::AmountMustFit)?;
    }
    Ok(rounded)
}

/// What each line takes of a discount, in proportion to its subtotal; in minor units.
///
/// A line takes at most its subtotal, all together at most their sum. A line below zero takes nothing, and leaves less
/// for the discount to take from the others.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn spread_discount(discount: i128, subtotals: &[i128]) -> Result<Vec<i128>, RatingStatus> {
    let limit = subtotals.iter().try_fold(0i128, |sum, subtotal| sum.checked_add(*subtotal));
    let discount = discount.min(limit.ok_or(RatingStatus::AmountMustFit)?).max(0);
    if discount == 0 {
        return Ok(vec![0; subtotals.len()]);
    }
    let weights: Vec<Exact> =
        subtotals.iter().map(|subtotal| Exact::from_integer(*subtotal.max(&0))).collect();
    // The sum is above zero, so there are weights; none is negative.
    let taken = allocate(discount, &weights).map_err(|_| RatingStatus::AmountMustFit)?;
    let is_below_zero = taken.iter().zip(subtotals).any(|(taken, subtotal)| *taken > *subtotal.max(&0));
    assert!(!is_below_zero, "a discount leaves no line below zero");
    Ok(taken)
}

fn sum_of(numbers: &[Exact]) -> Result<Exact, ExactStatus> {
    numbers.iter().try_fold(Exact::ZERO, |sum, number| sum.add(*number))
}

fn sum_of_integers(numbers: &[i128]) -> Result<Exact, ExactStatus> {
    numbers.iter().try_fold(Exact::ZERO, |sum, number| sum.add(Exact::from_integer(*number)))
}

/// Lines by their fraction, the largest first, ties in their order. Sorted by hand, since a comparison can fail.
fn by_fraction(mut lines: Vec<(usize, Exact)>) -> Result<Vec<(usize, Exact)>, ExactStatus> {
    if lines.len() < 2 {
        return Ok(lines);
    }
    let right = by_fraction(lines.split_off(lines.len() / 2))?;
    let left = by_fraction(lines)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some((_, a)), Some((_, b))) if a.compare(*b)? == Ordering::Less => right.next(),
            (Some(_), _) => left.next(),
            (None, _) => right.next(),
        };
        let Some(line) = next else { return Ok(merged) };
        merged.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use proptest::prelude::*;

    fn exacts(text: &str) -> Vec<Exact> {
        text.split_whitespace().map(|number| Exact::parse(number).unwrap()).collect()
    }

    fn integers(text: &str) -> Vec<i128> {
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    #[test]
    fn every_broken_rule_says_another_one() {
        let all = [
            AllocationStatus::WeightsMustExist,
            AllocationStatus::WeightsMustNotBeNegative,
            AllocationStatus::AmountMustFit,
        ];
        assert_eq!(std::collections::BTreeSet::from(all.map(|status| status.to_string())).len(), all.len());
    }

    #[test]
    fn an_amount_is_split_by_largest_remainder() {
        for (amount, weights, shares) in [
            (600, "10 5", "400 200"),
            (5, "1 1 1", "2 2 1"),
            (-5, "1 1 1", "-2 -2 -1"),
            (1, "100 1", "1 0"),
            (10_000, "1 2 3", "1667 3333 5000"),
            (500, "10 5", "333 167"),
            (3, "0 1 0 1", "0 2 0 1"),
            (0, "1 2", "0 0"),
            (0, "", ""),
            (10, "0.1 1/3 0.2", "2 5 3"),
            // Nothing says who pays: all alike.
            (5, "0 0", "3 2"),
            (-5, "0 0", "-3 -2"),
            (i128::MIN, "1", "-170141183460469231731687303715884105728"),
        ] {
            assert_eq!(allocate(amount, &exacts(weights)), Ok(integers(shares)), "{amount} over {weights}");
        }
    }

    #[test]
    fn what_cannot_be_split_names_the_rule() {
        let nines = "9999999999999999999999999999999999999";
        for (amount, weights, status) in [
            (1, String::new(), AllocationStatus::WeightsMustExist),
            (1, "1 -1".into(), AllocationStatus::WeightsMustNotBeNegative),
            (7, format!("1/{nines}9 1/{nines}7"), AllocationStatus::AmountMustFit),
        ] {
            assert_eq!(allocate(amount, &exacts(&weights)), Err(status), "{amount} over {weights}");
        }
    }

    /// 81 lines, each rounded alone, were two cents short of the invoice, and the credit line took the difference.
    #[test]
    fn cents_lost_by_rounding_lines_go_back_to_the_lines() {
        let mut lines = vec![Exact::parse("28484.0245").unwrap(); 80];
        lines.push(Exact::from_integer(28_531));
        let alone: i128 = lines.iter().map(|line| line.round_to(0).unwrap()).sum();
        let rounded = round_to_sum(&lines).unwrap();
        assert_eq!((alone, rounded.iter().sum()), (2_307_251, 2_307_253));
        assert_eq!(rounded[..3], [28_485, 28_485, 28_484]);
    }

    #[test]
    fn lines_round_to_their_sum() {
        for (lines, rounded) in [
            ("1.4 1.4 1.4", "2 1 1"),
            ("-1.4 -1.4 -1.4", "-2 -1 -1"),
            ("0.5 -0.25", "0 0"),
            ("0.25 0.25", "1 0"),
            ("-0.25 -0.25", "-1 0"),
            ("2.75 -0.5 1", "3 -1 1"),
            ("", ""),
        ] {
            assert_eq!(round_to_sum(&exacts(lines)), Ok(integers(rounded)), "{lines}");
        }
    }

    #[test]
    fn a_discount_is_spread_and_leaves_no_line_below_zero() {
        for (discount, subtotals, taken) in [
            (100, "333 333 334", "33 33 34"),
            (10_000, "6000 4000", "6000 4000"),
            (15_000, "6000 4000", "6000 4000"),
            (0, "6000 4000", "0 0"),
            (-5, "6000 4000", "0 0"),
            (1, "0 1", "0 1"),
            (50, "0 0", "0 0"),
            (50, "", ""),
            // The line below zero takes nothing, and the document does not fall below zero.
            (1_000, "100 -30 100", "85 0 85"),
            (1_000, "100 -300", "0 0"),
        ] {
            let found = spread_discount(discount, &integers(subtotals));
            assert_eq!(found, Ok(integers(taken)), "{discount} over {subtotals}");
        }
    }

    /// Shares by looking at every unit: the next one goes to whoever is furthest below the exact share.
    fn slow_shares(amount: i128, weights: &[i128]) -> Vec<i128> {
        let weights =
            if weights.iter().all(|weight| *weight == 0) { vec![1; weights.len()] } else { weights.to_vec() };
        let sum: i128 = weights.iter().sum();
        let mut shares: Vec<i128> = weights.iter().map(|weight| amount.abs() * weight / sum).collect();
        while shares.iter().sum::<i128>() < amount.abs() {
            let lack = |index: usize| amount.abs() * weights[index] - shares[index] * sum;
            let mut most = 0;
            for index in 1..shares.len() {
                if lack(index) > lack(most) {
                    most = index;
                }
            }
            shares[most] += 1;
        }
        shares.into_iter().map(|share| share * amount.signum()).collect()
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn shares_are_what_the_slow_way_gives(
            amount in -100_000i128..100_000,
            weights in prop::collection::vec(prop_oneof![Just(0i128), 0i128..20, any::<u32>().prop_map(i128::from)], 1..9),
            scale in 0u32..9,
        ) {
            let exact: Vec<Exact> = weights.iter().map(|weight| Exact::new(*weight, scale)).collect();
            prop_assert_eq!(allocate(amount, &exact).unwrap(), slow_shares(amount, &weights));
        }

        #[test]
        fn lines_are_within_one_unit_and_sum_to_the_rounded_sum(
            lines in prop::collection::vec((-10_000i128..10_000, 1i128..90), 0..12),
        ) {
            let lines: Vec<Exact> = lines.into_iter().map(|(n, d)| Exact::ratio(n, d).unwrap()).collect();
            let rounded = round_to_sum(&lines).unwrap();
            prop_assert_eq!(rounded.iter().sum::<i128>(), sum_of(&lines).unwrap().round_to(0).unwrap());
            for (line, rounded) in lines.iter().zip(rounded) {
                let off = line.subtract(Exact::from_integer(rounded)).unwrap().abs();
                prop_assert!(off < Exact::ONE, "{line:?} became {rounded}");
            }
        }

        #[test]
        fn a_spread_discount_is_taken_whole(
            discount in 0i128..5_000, subtotals in prop::collection::vec(-100i128..2_000, 0..9),
        ) {
            let taken = spread_discount(discount, &subtotals).unwrap();
            let sum: i128 = subtotals.iter().sum();
            prop_assert_eq!(taken.iter().sum::<i128>(), discount.min(sum.max(0)));
            prop_assert!(taken.iter().zip(&subtotals).all(|(taken, of)| (0..=*of.max(&0)).contains(taken)));
        }
    }
}
