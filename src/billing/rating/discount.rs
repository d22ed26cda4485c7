//! Discounts on a base amount, one after the other.
//!
//! Owns: what each discount takes. Leaves to others: which discounts apply in which order and whether they can be granted
//! (`catalog::price`), how the sum is spread over lines (`allocation`).
//!
//! Discount `i` takes `min(R(value_i), remaining_i)`, where the value of a percentage is that percentage of what remains
//! and `remaining_0` is the base: percentages compound, and the order matters (10 off, then 20 %, of 100 is 28; the other
//! way it is 30).
//!
//! Invariants: each discount is rounded once, half away from zero; none takes less than nothing, and all together never
//! more than the base. A base at or below zero has nothing to take from: a correction is discounted through the position
//! that it corrects.

use domain::Exact;

use super::status::RatingStatus;

/// One discount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discount {
    /// Percent of what earlier discounts left: 20 is a fifth.
    Percentage(Exact),
    /// An amount in minor units.
    Fixed(i128),
}

/// What a list of discounts took of a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discounted {
    /// What each discount took, in the order of the list; minor units, zero or more.
    pub taken: Vec<i128>,
    /// Their sum.
    pub discount: i128,
    /// The base less the sum.
    pub remaining: i128,
}

/// Applies discounts to a base in minor units, in the order of the list.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn apply_discounts(base: i128, discounts: &[Discount]) -> Result<Discounted, RatingStatus> {
    let mut remaining = base;
    let mut taken = Vec::with_capacity(discounts.len());
    for discount in discounts {
        // Between zero and what remains, so nothing below can overflow.
        let takes = discount.value_of(remaining)?.min(remaining).max(0);
        remaining -= takes;
        taken.push(takes);
    }
    let discount = taken.iter().sum();
    assert_eq!(base - remaining, discount, "what was taken is missing from the base");
    Ok(Discounted { taken, discount, remaining })
}

impl Discount {
    fn value_of(self, remaining: i128) -> Result<i128, RatingStatus> {
        match self {
            Discount::Fixed(amount) => Ok(amount),
            Discount::Percentage(percent) => {
                let value = Exact::from_integer(remaining).multiply(percent)?.divide_by_power_of_ten(2);
                Ok(value.round_to(0)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use proptest::prelude::*;

    /// Discounts such as `10% 2.5% 1500`.
    fn discounts(text: &str) -> Vec<Discount> {
        let discount = |word: &str| match word.strip_suffix('%') {
            Some(percent) => Discount::Percentage(Exact::parse(percent).unwrap()),
            None => Discount::Fixed(word.parse().unwrap()),
        };
        text.split_whitespace().map(discount).collect()
    }

    #[test]
    fn each_takes_what_it_says_of_what_remains() {
        for (base, text, taken) in [
            (10_000, "10% 25%", vec![1_000, 2_250]),
            (10_000, "1500 2500", vec![1_500, 2_500]),
            (10_000, "8000 5000", vec![8_000, 2_000]),
            (10_000, "10% 5000", vec![1_000, 5_000]),
            (100, "10 20%", vec![10, 18]),
            (100, "20% 10", vec![20, 10]),
            (5, "10 20%", vec![5, 0]),
            (0, "12", vec![0]),
            (100, "", vec![]),
            (3, "50%", vec![2]),
            (1, "49.999%", vec![0]),
            (100, "100% 1", vec![100, 0]),
            (100, "250%", vec![100]),
            // Not granted by any contract, but a surcharge they never are.
            (100, "-10% -5", vec![0, 0]),
            (-100, "10% 5", vec![0, 0]),
            (i128::MAX, "100%", vec![i128::MAX]),
        ] {
            let found = apply_discounts(base, &discounts(text)).unwrap();
            let discount = taken.iter().sum();
            assert_eq!(
                found,
                Discounted { taken, discount, remaining: base - discount },
                "{base} less {text}"
            );
        }
        let huge = Discount::Percentage(Exact::new(i128::MAX, 0));
        assert_eq!(apply_discounts(i128::MAX, &[huge]), Err(RatingStatus::AmountMustFit));
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn no_order_takes_more_than_the_base_and_a_larger_base_pays_no_less(
            base in 0i128..1_000_000,
            list in prop::collection::vec((any::<bool>(), 0i128..10_000), 0..6),
        ) {
            let list: Vec<Discount> = list
                .into_iter()
                .map(|(is_percentage, number)| match is_percentage {
                    true => Discount::Percentage(Exact::new(number, 2)),
                    false => Discount::Fixed(number),
                })
                .collect();
            let found = apply_discounts(base, &list).unwrap();
            prop_assert!(found.taken.iter().all(|taken| *taken >= 0) && found.remaining >= 0);
            prop_assert_eq!(found.remaining + found.discount, base);
            let more = apply_discounts(base + 1, &list).unwrap();
            prop_assert!(more.remaining >= found.remaining);
        }
    }
}
