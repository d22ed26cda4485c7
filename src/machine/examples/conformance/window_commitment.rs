//! A commitment of one short window, exact and unrounded, as the cases define it.
//!
//! Owns: what of a cost a commitment covers, and what overage and a shortfall add. Leaves to others: commitments over months,
//! which are the product's (`billing::rating::commitment`).

use billing::rating::RatingStatus;
use domain::Exact;

/// A commitment of one window, exact and unrounded: for costs that are rounded later, or counted over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowCommitment {
    /// The committed amount, where there is one. A commitment of zero makes everything overage.
    pub(crate) committed: Option<Exact>,
    /// What overage costs, as a multiple of its base amount: 1 or more.
    pub(crate) overage_factor: Exact,
    /// Whether a shortfall is charged.
    pub(crate) has_true_up: bool,
}

/// What a commitment makes of an exact cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowCost {
    /// The part that the commitment covers.
    pub(crate) utilized: Exact,
    /// The rest, times the factor.
    pub(crate) overage: Exact,
    /// The shortfall that is owed.
    pub(crate) true_up: Exact,
}

impl WindowCommitment {
    /// Splits a cost `x`: `x ≥ C ? C + (x − C) × k : (true-up ? C : x)`.
    ///
    /// A run that comes after others in a longer commitment is worth the difference of two amounts of cumulative cost.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(crate) fn split(&self, cost: Exact) -> Result<WindowCost, RatingStatus> {
        let Some(committed) = self.committed else {
            return Ok(WindowCost { utilized: cost, overage: Exact::ZERO, true_up: Exact::ZERO });
        };
        let utilized = cost.min(committed)?;
        let overage = cost.subtract(utilized)?.multiply(self.overage_factor)?;
        let true_up = if self.has_true_up { committed.subtract(utilized)? } else { Exact::ZERO };
        Ok(WindowCost { utilized, overage, true_up })
    }
}

impl WindowCost {
    /// What is charged: the sum of all three.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(crate) fn amount(&self) -> Result<Exact, RatingStatus> {
        Ok(self.utilized.add(self.overage)?.add(self.true_up)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commitment of zero dollars was read as none, a missing factor as zero, and usage outside the committed buckets
    /// was missing from the total. Here the parts always add up to the charge.
    #[test]
    fn a_commitment_of_zero_and_a_missing_one_are_told_apart() {
        for (cost, committed, factor, has_true_up, expected) in [
            ("12", Some("0"), "1.5", true, ("0", "18", "0", "18")),
            ("12", None, "1.5", true, ("12", "0", "0", "12")),
            ("12", Some("10"), "1.5", true, ("10", "3", "0", "13")),
            ("12", Some("10"), "1", false, ("10", "2", "0", "12")),
            ("10", Some("10"), "2", true, ("10", "0", "0", "10")),
            ("7.5", Some("10"), "2", true, ("7.5", "0", "2.5", "10")),
            ("7.5", Some("10"), "2", false, ("7.5", "0", "0", "7.5")),
            ("0", Some("10"), "2", true, ("0", "0", "10", "10")),
            ("1/3", Some("1/6"), "3", true, ("1/6", "0.5", "0", "2/3")),
        ] {
            let exact = |text: &str| Exact::parse(text).unwrap();
            let (committed, overage_factor) = (committed.map(exact), exact(factor));
            let terms = WindowCommitment { committed, overage_factor, has_true_up };
            let found = terms.split(exact(cost)).unwrap();
            let parts = (found.utilized, found.overage, found.true_up, found.amount().unwrap());
            let (utilized, overage, true_up, amount) = expected;
            assert_eq!(parts, (exact(utilized), exact(overage), exact(true_up), exact(amount)), "{terms:?}");
        }
    }
}
