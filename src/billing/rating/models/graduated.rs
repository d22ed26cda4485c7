//! Graduated: each unit at the amount of the tier that it falls into.
//!
//! `S_i = p_i × max(0, min(q, up_i) − lo_i) + f_i × [q > lo_i]`, at most the tier's cap, summed over the tiers. Where a
//! tier has a package size, its units are counted in started packages. The first tier's flat amount is owed without
//! usage when the caller says so. A negative quantity is priced by the first tier.
//!
//! Source: Stripe's and OpenMeter's graduated tiers, Lago's graduated charge, Kill Bill's ALL_TIERS; where they differ
//! (bounds, zero usage, the last tier) the rules are those of [`super::tiers`].

use domain::Exact;

use super::portion::Portion;
use super::tiers::{Tier, Tiers};
use crate::rating::status::RatingStatus;

/// Units priced tier by tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graduated {
    /// The tiers.
    pub tiers: Tiers,
}

impl Graduated {
    /// What so many units cost; `is_owed_at_zero` says whether the first tier's flat amount is owed without usage.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    #[inline]
    pub fn amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        match self.tiers.narrow_amount(quantity, is_owed_at_zero) {
            Some(amount) => Ok(amount),
            None => self.wide_amount(quantity, is_owed_at_zero),
        }
    }

    /// As [`Graduated::amount`], of any tiers and quantities.
    fn wide_amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        let index = self.tiers.index_of(quantity)?;
        let tier = &self.tiers.as_slice()[index];
        let inside = if index == 0 { quantity } else { quantity.subtract(self.tiers.low_of(index))? };
        let units = tier.units_amount(inside)?;
        let has_flat = !tier.flat_amount.is_zero() && (is_owed_at_zero || quantity.is_positive());
        let amount = tier.capped(if has_flat { units.add(tier.flat_amount)? } else { units })?;
        if index == 0 { Ok(amount) } else { Ok(self.tiers.full_below(index)?.add(amount)?) }
    }

    /// How that comes about, tier by tier.
    ///
    /// # Errors
    /// As [`Graduated::amount`].
    pub fn portions(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
        let mut portions = Vec::new();
        self.walk(quantity, is_owed_at_zero, |index, tier, inside, flat_amount, amount| {
            portions.push(Portion {
                tier: index,
                from: self.tiers.low_of(index),
                up_to: tier.up_to,
                quantity: inside,
                basis: tier.basis_of(inside)?,
                unit_amount: tier.unit_amount,
                cap: tier.flat_cap,
                flat_amount,
                amount,
            });
            Ok(())
        })?;
        Ok(portions)
    }

    /// Calls back for each entered tier with (index, tier, units inside, flat amount owed, amount).
    fn walk(
        &self,
        quantity: Exact,
        is_owed_at_zero: bool,
        mut portion: impl FnMut(usize, &Tier, Exact, Exact, Exact) -> Result<(), RatingStatus>,
    ) -> Result<(), RatingStatus> {
        let mut low = Exact::ZERO;
        for (index, tier) in self.tiers.as_slice().iter().enumerate() {
            let is_entered = quantity.compare(low)?.is_gt();
            let reaches = match tier.up_to {
                Some(up_to) if quantity.compare(up_to)?.is_gt() => Some(up_to),
                _ => None,
            };
            let inside = reaches.unwrap_or(quantity).subtract(low)?;
            let has_flat = is_entered || is_owed_at_zero;
            let flat_amount = if has_flat { tier.flat_amount } else { Exact::ZERO };
            let amount = tier.capped(tier.units_amount(inside)?.add(flat_amount)?)?;
            portion(index, tier, inside, flat_amount, amount)?;
            let Some(up_to) = reaches else { break };
            low = up_to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tiers::tests::{exact, tiers};
    use super::*;

    fn check(rows: &[(&str, &str, &str)], quantity: &str, owed: bool, expected: &str) {
        let graduated = Graduated { tiers: tiers(rows).unwrap() };
        assert_eq!(graduated.amount(exact(quantity), owed), Ok(exact(expected)), "{rows:?} {quantity}");
    }

    #[test]
    fn each_unit_costs_what_its_tier_says() {
        let rows = &[("10", "10", "2"), ("20", "5", "3"), ("", "5", "3")];
        for (quantity, owed, expected) in [
            ("0", true, "2"),
            ("0", false, "0"),
            ("1", true, "12"),
            ("10", true, "102"),
            ("10.5", true, "107.5"),
            ("20", true, "155"),
            ("21", true, "163"),
            ("-2", true, "-18"),
        ] {
            check(rows, quantity, owed, expected);
        }
    }

    #[test]
    fn the_width_of_a_tier_is_its_bound_less_the_one_below() {
        // Flexprice #443: the width of the second slab was its upper bound.
        check(&[("1000", "0.01", ""), ("2000", "0.0075", ""), ("", "0.005", "")], "2001", true, "17.505");
    }

    #[test]
    fn a_bound_is_inside_the_tier_that_it_ends() {
        // Azure BillingCodeSamples #15: 199 units in a first tier of 200.
        check(&[("200", "0.8", ""), ("", "0.7", "")], "200", true, "160");
        check(&[("200", "0.8", ""), ("", "0.7", "")], "201", true, "160.7");
    }

    proptest! {
        #![proptest_config(crate::testing::cases())]

        /// Amounts of 128 bits are those of any width, and are made wherever caps and packages leave them.
        #[test]
        fn narrow_amounts_are_the_wide_ones(
            widths in prop::collection::vec((1i128..1_000_000_000, 0i128..1_000_000, 0i128..100_000), 1..6),
            scales in (0u32..19, 0u32..9, 0u32..3),
            (quantity, owed) in (-1_000i128..5_000_000_000_000, any::<bool>()),
            quantity_scale in 0u32..20,
            is_capped in any::<bool>(),
        ) {
            let mut bound = 0;
            let last = widths.len() - 1;
            let rows = widths.iter().enumerate().map(|(index, (width, unit, flat))| {
                bound += width;
                Tier {
                    up_to: (index < last).then(|| Exact::new(bound, scales.0)),
                    unit_amount: Exact::new(*unit, scales.1),
                    flat_amount: Exact::new(*flat, scales.2),
                    flat_cap: (is_capped && index == 0).then(|| Exact::new(*flat + 1, scales.2)),
                    package_size: None,
                }
            });
            let graduated = Graduated { tiers: Tiers::new(rows.collect()).unwrap() };
            let quantity = Exact::new(quantity, quantity_scale);
            let narrow = graduated.tiers.narrow_amount(quantity, owed);
            prop_assert!(narrow.is_none_or(|_| !is_capped && quantity_scale <= 18));
            if let Some(narrow) = narrow {
                prop_assert_eq!(narrow, graduated.wide_amount(quantity, owed).unwrap());
            }
        }
    }

    #[test]
    fn a_price_of_the_usual_digits_is_narrow_up_to_a_trillion_units() {
        let graduated =
            Graduated { tiers: tiers(&[("1000000", "0.00000250", "5"), ("", "0.0000025", "")]).unwrap() };
        for (quantity, expected) in [
            ("0", "5"),
            ("1000000", "7.5"),
            ("999999999999.999999999999999999", "2500004.9999999999999999999999975"),
        ] {
            assert_eq!(
                graduated.tiers.narrow_amount(exact(quantity), true),
                Some(exact(expected)),
                "{quantity}"
            );
        }
    }

    #[test]
    fn a_tier_costs_at_most_its_cap_and_counts_started_packages() {
        let mut rows = tiers(&[("100", "1", "5"), ("", "2", "")]).unwrap().as_slice().to_vec();
        rows[0].flat_cap = Some(exact("50"));
        rows[1].package_size = Some(exact("10"));
        let graduated = Graduated { tiers: Tiers::new(rows).unwrap() };
        for (quantity, expected) in [("10", "15"), ("45", "50"), ("100", "50"), ("101", "52"), ("111", "54")]
        {
            assert_eq!(graduated.amount(exact(quantity), true), Ok(exact(expected)), "{quantity}");
        }
    }
}
