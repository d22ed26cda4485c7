//! Stairstep: one amount for the step that the total lies in, whatever the number of units: `f_k`.
//!
//! Source: Stripe's and OpenMeter's tiers with flat amounts only.

use domain::Exact;

use super::portion::{Basis, Portion};
use super::tiers::Tiers;
use crate::rating::status::RatingStatus;

/// Steps with an amount each: the flat amounts of the tiers; unit amounts are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stairstep {
    /// The steps.
    pub tiers: Tiers,
}

impl Stairstep {
    /// What the total costs; `is_owed_at_zero` says whether the first step is owed without usage.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        if !quantity.is_positive() && !is_owed_at_zero {
            return Ok(Exact::ZERO);
        }
        Ok(self.tiers.as_slice()[self.tiers.index_of(quantity)?].flat_amount)
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`Stairstep::amount`].
    pub fn portions(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
        let step = self.tiers.index_of(quantity)?;
        let amount = self.amount(quantity, is_owed_at_zero)?;
        let up_to = self.tiers.as_slice()[step].up_to;
        Ok(vec![Portion { tier: step, up_to, quantity, basis: Basis::Fixed, ..Portion::fixed(amount) }])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::{exact, tiers};
    use super::*;

    #[test]
    fn a_step_costs_the_same_from_its_first_to_its_last_unit() {
        let steps = tiers(&[("100", "0", "10"), ("200", "0", "20"), ("", "0", "30")]).unwrap();
        let stairstep = Stairstep { tiers: steps };
        for (quantity, owed, expected) in [
            ("0", true, "10"),
            ("0", false, "0"),
            ("1", false, "10"),
            ("100", true, "10"),
            ("101", true, "20"),
            ("900", true, "30"),
        ] {
            assert_eq!(stairstep.amount(exact(quantity), owed), Ok(exact(expected)), "{quantity}");
        }
    }
}
