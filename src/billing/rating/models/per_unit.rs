//! Per unit: `q × p`.
//!
//! A negative quantity (a signed meter's reversal) gives a negative amount. Source: every metering system's base model;
//! the unit amount keeps all its decimals, and only the line is rounded.

use domain::Exact;

use super::portion::{Basis, Portion};
use crate::rating::status::RatingStatus;

/// One amount for every unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerUnit {
    /// Amount for one unit.
    pub unit_amount: Exact,
}

impl PerUnit {
    /// What so many units cost.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    #[inline]
    pub fn amount(&self, quantity: Exact) -> Result<Exact, RatingStatus> {
        Ok(quantity.multiply(self.unit_amount)?)
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`PerUnit::amount`].
    pub fn portions(&self, quantity: Exact) -> Result<Vec<Portion>, RatingStatus> {
        Ok(vec![Portion {
            tier: 0,
            from: Exact::ZERO,
            up_to: None,
            quantity,
            basis: Basis::Units,
            unit_amount: self.unit_amount,
            cap: None,
            flat_amount: Exact::ZERO,
            amount: self.amount(quantity)?,
        }])
    }
}
