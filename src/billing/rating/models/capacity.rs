//! Capacity: one amount for the first tier in which every dimension fits.
//!
//! First `k` with every `q_d <= up_to_{k,d}` (none: unlimited); beyond all of them, the last. Dimensions are meters, such
//! as seats, storage and calls of one plan.
//!
//! Source: Kill Bill's capacity usage.

use domain::Exact;

use crate::rating::status::{RatingStatus, TermsStatus};

/// One tier of a capacity price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityTier {
    /// The most that fits, by dimension; none is unlimited.
    pub up_to: Vec<Option<Exact>>,
    /// What the tier costs.
    pub amount: Exact,
}

/// Tiers over several dimensions at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    tiers: Vec<CapacityTier>,
}

impl Capacity {
    /// Takes tiers in order.
    ///
    /// # Errors
    /// [`TermsStatus::TiersMustRise`]: there is no tier, or one bounds other dimensions than the first.
    pub fn new(tiers: Vec<CapacityTier>) -> Result<Self, TermsStatus> {
        let dimensions = tiers.first().ok_or(TermsStatus::TiersMustRise)?.up_to.len();
        if dimensions == 0 || tiers.iter().any(|tier| tier.up_to.len() != dimensions) {
            return Err(TermsStatus::TiersMustRise);
        }
        Ok(Self { tiers })
    }

    /// Dimensions that a tier bounds.
    pub fn dimensions(&self) -> usize {
        self.tiers[0].up_to.len()
    }

    /// Index of the tier that quantities take, one for each dimension.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// If there is not one quantity for each dimension.
    pub fn tier_of(&self, quantities: &[Exact]) -> Result<usize, RatingStatus> {
        assert_eq!(quantities.len(), self.dimensions(), "one quantity for each dimension");
        for (index, tier) in self.tiers.iter().enumerate() {
            let mut fits = true;
            for (quantity, up_to) in quantities.iter().zip(&tier.up_to) {
                if let Some(up_to) = up_to {
                    fits &= !quantity.compare(*up_to)?.is_gt();
                }
            }
            if fits {
                return Ok(index);
            }
        }
        Ok(self.tiers.len() - 1)
    }

    /// What quantities cost, one for each dimension.
    ///
    /// # Errors
    /// As [`Capacity::tier_of`].
    ///
    /// # Panics
    /// As [`Capacity::tier_of`].
    pub fn amount(&self, quantities: &[Exact]) -> Result<Exact, RatingStatus> {
        Ok(self.tiers[self.tier_of(quantities)?].amount)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    fn tier(up_to: &[&str], amount: &str) -> CapacityTier {
        let bound = |text: &&str| (!text.is_empty()).then(|| exact(text));
        CapacityTier { up_to: up_to.iter().map(bound).collect(), amount: exact(amount) }
    }

    #[test]
    fn every_dimension_must_fit() {
        let tiers = vec![tier(&["100", "1000"], "10"), tier(&["200", "2000"], "20"), tier(&["", ""], "30")];
        let capacity = Capacity::new(tiers).unwrap();
        for (a, b, expected) in
            [("100", "1000", "10"), ("100", "1001", "20"), ("201", "1", "30"), ("0", "0", "10")]
        {
            assert_eq!(capacity.amount(&[exact(a), exact(b)]), Ok(exact(expected)), "{a} {b}");
        }
    }

    #[test]
    fn beyond_every_tier_the_last_one_holds() {
        let capacity = Capacity::new(vec![tier(&["10"], "1"), tier(&["20"], "2")]).unwrap();
        assert_eq!(capacity.amount(&[exact("21")]), Ok(exact("2")));
        assert_eq!(Capacity::new(Vec::new()), Err(TermsStatus::TiersMustRise));
        let uneven = vec![tier(&["10"], "1"), tier(&["20", "5"], "2")];
        assert_eq!(Capacity::new(uneven), Err(TermsStatus::TiersMustRise));
    }
}
