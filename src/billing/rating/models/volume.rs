//! Volume: all units at the amount of the tier that the total lies in: `p_k × q + f_k`.
//!
//! `k` is the first tier with `q <= up_to`. Not monotone: a bound may let more units cost less. The tier may be chosen by
//! another quantity than the one that is priced (prorated seats). With a package size, all units are counted in started
//! packages.
//!
//! Source: Stripe's volume tiers, Lago's volume charge, OpenMeter's volume price, Kill Bill's TOP_TIER.

use domain::Exact;

use super::portion::Portion;
use super::tiers::Tiers;
use crate::rating::status::RatingStatus;

/// All units at one tier's amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The tiers.
    pub tiers: Tiers,
}

impl Volume {
    /// What so many units cost; `is_owed_at_zero` says whether the first tier's flat amount is owed without usage.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        self.amount_by(quantity, quantity, is_owed_at_zero)
    }

    /// As [`Volume::amount`], with the tier chosen by another quantity.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount_by(
        &self,
        tier_quantity: Exact,
        quantity: Exact,
        is_owed_at_zero: bool,
    ) -> Result<Exact, RatingStatus> {
        let band = self.tiers.index_of(tier_quantity)?;
        let flat_amount = self.flat_amount(tier_quantity, is_owed_at_zero)?;
        let tier = &self.tiers.as_slice()[band];
        tier.capped(tier.units_amount(quantity)?.add(flat_amount)?)
    }

    /// What units cost under the tier that a total chose, beside its flat amount: together they keep its cap.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn units_amount(&self, band: usize, quantity: Exact) -> Result<Exact, RatingStatus> {
        let tier = &self.tiers.as_slice()[band];
        let units = tier.units_amount(quantity)?;
        if tier.flat_cap.is_none() {
            return Ok(units);
        }
        Ok(tier.capped(units.add(tier.flat_amount)?)?.subtract(tier.capped(tier.flat_amount)?)?)
    }

    /// The flat amount that a total owes.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn flat_amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        if !quantity.is_positive() && !is_owed_at_zero {
            return Ok(Exact::ZERO);
        }
        let tier = &self.tiers.as_slice()[self.tiers.index_of(quantity)?];
        tier.capped(tier.flat_amount)
    }

    /// How the amount comes about.
    ///
    /// # Errors
    /// As [`Volume::amount`].
    pub fn portions(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
        let band = self.tiers.index_of(quantity)?;
        let tier = &self.tiers.as_slice()[band];
        Ok(vec![Portion {
            tier: band,
            from: Exact::ZERO,
            up_to: tier.up_to,
            quantity,
            basis: tier.basis_of(quantity)?,
            unit_amount: tier.unit_amount,
            cap: tier.flat_cap,
            flat_amount: self.flat_amount(quantity, is_owed_at_zero)?,
            amount: self.amount(quantity, is_owed_at_zero)?,
        }])
    }

    /// The first bound at which one more unit makes the whole cheaper, if there is one: worth a warning.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn falls_at(&self) -> Result<Option<Exact>, RatingStatus> {
        for pair in self.tiers.as_slice().windows(2) {
            let bound = pair[0].up_to.expect("only the last tier is open");
            let below = pair[0].units_amount(bound)?.add(pair[0].flat_amount)?;
            let above = pair[1].units_amount(bound)?.add(pair[1].flat_amount)?;
            if above.compare(below)?.is_lt() {
                return Ok(Some(bound));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::{exact, tiers};
    use super::*;

    #[test]
    fn all_units_cost_what_the_tier_of_the_total_says() {
        let volume =
            Volume { tiers: tiers(&[("100", "2", "10"), ("200", "1", ""), ("", "0.5", "50")]).unwrap() };
        for (quantity, owed, expected) in [
            ("0", true, "10"),
            ("0", false, "0"),
            ("1", false, "12"),
            ("99.5", true, "209"),
            ("100", true, "210"),
            ("100.5", true, "100.5"),
            ("201", true, "150.5"),
            ("-3", true, "4"),
        ] {
            assert_eq!(volume.amount(exact(quantity), owed), Ok(exact(expected)), "{quantity}");
        }
        assert_eq!(volume.falls_at(), Ok(Some(exact("100"))));
    }

    #[test]
    fn a_tier_costs_at_most_its_cap_in_one_amount_and_in_its_parts() {
        let mut rows = tiers(&[("100", "2", "10"), ("", "1", "90")]).unwrap().as_slice().to_vec();
        (rows[0].flat_cap, rows[1].flat_cap) = (Some(exact("50")), Some(exact("80")));
        let volume = Volume { tiers: Tiers::new(rows).unwrap() };
        for (quantity, expected) in [("0", "10"), ("10", "30"), ("20", "50"), ("100", "50"), ("101", "80")] {
            let quantity = exact(quantity);
            let band = volume.tiers.index_of(quantity).unwrap();
            let parts =
                volume.flat_amount(quantity, true).unwrap().add(volume.units_amount(band, quantity).unwrap());
            assert_eq!((volume.amount(quantity, true), parts), (Ok(exact(expected)), Ok(exact(expected))));
        }
    }

    #[test]
    fn prorated_seats_are_priced_by_the_tier_of_whole_ones() {
        let volume = Volume { tiers: tiers(&[("10", "5", ""), ("", "4", "")]).unwrap() };
        assert_eq!(volume.amount_by(exact("12"), exact("6.5"), true), Ok(exact("26")));
    }
}
