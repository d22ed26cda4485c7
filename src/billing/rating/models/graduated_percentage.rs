//! Graduated percentage: each part of an amount of money at the share of the tier that it falls into.
//!
//! As graduated, with `p_i = rate_i / 100`. Source: Lago's graduated percentage charge.

use domain::Exact;

use super::graduated::Graduated;
use super::portion::{Basis, Portion};
use super::tiers::{Tier, Tiers};
use crate::rating::status::{RatingStatus, TermsStatus};

/// Shares by tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraduatedPercentage {
    graduated: Graduated,
}

impl GraduatedPercentage {
    /// Takes tiers whose `unit_amount` is a rate in percent.
    ///
    /// # Errors
    /// As [`Tiers::new`].
    pub fn new(tiers: Vec<Tier>) -> Result<Self, TermsStatus> {
        let tiers = tiers
            .into_iter()
            .map(|tier| Tier { unit_amount: tier.unit_amount.divide_by_power_of_ten(2), ..tier })
            .collect();
        Ok(Self { graduated: Graduated { tiers: Tiers::new(tiers)? } })
    }

    /// What an amount owes; `is_owed_at_zero` says whether the first tier's flat amount is owed without usage.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, amount: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        self.graduated.amount(amount, is_owed_at_zero)
    }

    /// The tiers, with shares as unit amounts: 0.01 for one percent.
    pub fn tiers(&self) -> &Tiers {
        &self.graduated.tiers
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`GraduatedPercentage::amount`].
    pub fn portions(&self, amount: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
        let mut portions = self.graduated.portions(amount, is_owed_at_zero)?;
        for portion in &mut portions {
            let rate = portion.unit_amount.multiply(Exact::from_integer(100))?;
            portion.basis = Basis::Percent { rate };
        }
        Ok(portions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::{exact, tiers};
    use super::*;

    #[test]
    fn each_part_of_an_amount_owes_the_share_of_its_tier() {
        let tiers = tiers(&[("10", "1", "200"), ("20", "2", "300"), ("", "3", "400")]).unwrap();
        let model = GraduatedPercentage::new(tiers.as_slice().to_vec()).unwrap();
        for (amount, expected) in
            [("0", "200"), ("1", "200.01"), ("10", "200.1"), ("11", "500.12"), ("21", "900.33")]
        {
            assert_eq!(model.amount(exact(amount), true), Ok(exact(expected)), "{amount}");
        }
        let portions = model.portions(exact("11"), true).unwrap();
        assert_eq!(portions[1].basis, Basis::Percent { rate: exact("2") });
    }
}
