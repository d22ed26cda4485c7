//! Dynamic: each event says what it costs; the price is the sum of those amounts, times a multiplier.
//!
//! The measure is a sum of money, in the currency of the price. How many units there were is for display only.
//!
//! Source: Lago's dynamic charge (`precise_total_amount_cents`), OpenMeter's dynamic price (multiplier on metered cost).

use domain::Exact;

use super::portion::{Basis, Portion};
use crate::rating::status::RatingStatus;

/// The events' own amounts, times a multiplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// 1.2 adds a margin of a fifth.
    pub multiplier: Exact,
}

impl Dynamic {
    /// What events cost whose amounts add up to `amount`.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, amount: Exact) -> Result<Exact, RatingStatus> {
        Ok(amount.multiply(self.multiplier)?)
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`Dynamic::amount`].
    pub fn portions(&self, amount: Exact) -> Result<Vec<Portion>, RatingStatus> {
        let rate = self.multiplier.multiply(Exact::from_integer(100))?;
        Ok(vec![Portion {
            quantity: amount,
            basis: Basis::Percent { rate },
            unit_amount: self.multiplier,
            amount: self.amount(amount)?,
            ..Portion::fixed(Exact::ZERO)
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    #[test]
    fn the_amount_is_what_the_events_say_times_the_multiplier() {
        for (multiplier, amount, expected) in
            [("1", "40.2", "40.2"), ("1.2", "10", "12"), ("0.5", "-3", "-1.5"), ("1", "0", "0")]
        {
            let dynamic = Dynamic { multiplier: exact(multiplier) };
            assert_eq!(dynamic.amount(exact(amount)), Ok(exact(expected)), "{multiplier} {amount}");
        }
    }
}
