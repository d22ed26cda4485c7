//! Tiers: the ladder that graduated, volume and stairstep prices stand on.
//!
//! Owns: bounds and which tier a quantity lies in. Leaves to others: what a tier costs (the models).
//!
//! Invariants: bounds are cumulative and continuous, `(lo, up_to]`; the first tier also contains 0; they rise strictly,
//! and the last tier is open. A quantity below zero lies in the first tier.

use domain::Exact;
use domain::limits::PRICE_TIERS_MAX;

use super::package::Package;
use super::portion::Basis;
use crate::rating::status::{RatingStatus, TermsStatus};

/// One tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Last unit of the tier, inclusive; the last tier has none.
    pub up_to: Option<Exact>,
    /// Amount for one unit, or for one started package where the tier has a package size.
    pub unit_amount: Exact,
    /// Amount owed once the tier is entered.
    pub flat_amount: Exact,
    /// The most that the tier's units and flat amount together may cost.
    pub flat_cap: Option<Exact>,
    /// Units in a package, if the tier's units are sold in packages.
    pub package_size: Option<Exact>,
}

impl Tier {
    /// What so many units of this tier cost, without its flat amount and its cap.
    pub(super) fn units_amount(&self, units: Exact) -> Result<Exact, RatingStatus> {
        match self.package_size {
            None => Ok(units.multiply(self.unit_amount)?),
            Some(size) => Ok(Package::packages_of(units, size, true)?.multiply(self.unit_amount)?),
        }
    }

    /// What so many units of this tier are priced by.
    pub(in crate::rating) fn basis_of(&self, units: Exact) -> Result<Basis, RatingStatus> {
        match self.package_size {
            None => Ok(Basis::Units),
            Some(size) => Ok(Basis::Packages { size, count: Package::packages_of(units, size, true)? }),
        }
    }

    /// An amount of this tier, at most its cap.
    pub(super) fn capped(&self, amount: Exact) -> Result<Exact, RatingStatus> {
        self.flat_cap.map_or(Ok(amount), |cap| Ok(amount.min(cap)?))
    }
}

/// Tiers that were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers {
    tiers: Vec<Tier>,
    /// What all tiers below a tier cost when they are full, flat amounts and caps included; `None` if it does not fit.
    full_below: Vec<Option<Exact>>,
    narrow: Option<NarrowTiers>,
}

/// Fraction digits of the quantities that [`NarrowTiers`] take: what a meter keeps unless it says otherwise.
const NARROW_SCALE: u32 = 18;

/// The same ladder in 128 bits, for graduated amounts: nearly every price and quantity fits, and their arithmetic is several times
/// faster. There is none for tiers with caps or packages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NarrowTiers {
    tiers: Vec<NarrowTier>,
    /// Fraction digits of every amount below.
    scale: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NarrowTier {
    /// Units below the tier, at `NARROW_SCALE`.
    low: i128,
    /// Amount of a unit of `10^-NARROW_SCALE`.
    unit_amount: i128,
    flat_amount: i128,
    full_below: i128,
}

impl NarrowTiers {
    fn new(tiers: &[Tier], full_below: &[Option<Exact>]) -> Option<Self> {
        let digits = tiers.iter().map(|tier| tier.unit_amount.scale()).max()?;
        let scale = NARROW_SCALE + digits;
        let mut low = Exact::ZERO;
        let mut narrow = Vec::with_capacity(tiers.len());
        for (tier, full_below) in tiers.iter().zip(full_below) {
            if tier.flat_cap.is_some() || tier.package_size.is_some() {
                return None;
            }
            narrow.push(NarrowTier {
                low: low.units_at(NARROW_SCALE)?,
                unit_amount: tier.unit_amount.units_at(digits)?,
                flat_amount: tier.flat_amount.units_at(scale)?,
                full_below: (*full_below)?.units_at(scale)?,
            });
            low = tier.up_to.unwrap_or(low);
        }
        Some(Self { tiers: narrow, scale })
    }

    fn amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Option<Exact> {
        let quantity = quantity.units_at(NARROW_SCALE)?;
        let above = self.tiers.partition_point(|tier| tier.low < quantity);
        let tier = &self.tiers[above.saturating_sub(1)];
        let mut amount = quantity.checked_sub(tier.low)?.checked_mul(tier.unit_amount)?;
        if is_owed_at_zero || quantity > 0 {
            amount = amount.checked_add(tier.flat_amount)?;
        }
        Some(Exact::new(amount.checked_add(tier.full_below)?, self.scale))
    }
}

impl Tiers {
    /// Takes tiers in order.
    ///
    /// # Errors
    /// [`TermsStatus::TiersMustRise`], then [`TermsStatus::PackageSizeMustBePositive`].
    pub fn new(tiers: Vec<Tier>) -> Result<Self, TermsStatus> {
        let Some((last, closed)) = tiers.split_last() else { return Err(TermsStatus::TiersMustRise) };
        let mut below = Exact::ZERO;
        for tier in closed {
            let rises = tier.up_to.filter(|up_to| *up_to > below).ok_or(TermsStatus::TiersMustRise)?;
            below = rises;
        }
        if last.up_to.is_some() || tiers.len() > PRICE_TIERS_MAX {
            return Err(TermsStatus::TiersMustRise);
        }
        if tiers.iter().any(|tier| tier.package_size.is_some_and(|size| !size.is_positive())) {
            return Err(TermsStatus::PackageSizeMustBePositive);
        }
        let mut full_below = Vec::with_capacity(tiers.len());
        let (mut full, mut low) = (Some(Exact::ZERO), Exact::ZERO);
        for tier in &tiers {
            full_below.push(full);
            let Some(up_to) = tier.up_to else { break };
            let cost = |full: Exact| {
                let units = tier.units_amount(up_to.subtract(low)?)?;
                Ok::<_, RatingStatus>(full.add(tier.capped(units.add(tier.flat_amount)?)?)?)
            };
            full = full.and_then(|full| cost(full).ok());
            low = up_to;
        }
        let narrow = NarrowTiers::new(&tiers, &full_below);
        Ok(Self { tiers, full_below, narrow })
    }

    /// The graduated amount of a quantity, where 128 bits are enough for it.
    #[inline]
    pub(super) fn narrow_amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Option<Exact> {
        self.narrow.as_ref()?.amount(quantity, is_owed_at_zero)
    }

    /// What all tiers below a tier cost when they are full, flat amounts and caps included.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(super) fn full_below(&self, index: usize) -> Result<Exact, RatingStatus> {
        self.full_below[index].ok_or(RatingStatus::AmountMustFit)
    }

    /// The tiers, in order.
    pub fn as_slice(&self) -> &[Tier] {
        &self.tiers
    }

    /// The first tier.
    pub fn first(&self) -> &Tier {
        self.tiers.first().expect("there is at least one tier")
    }

    /// Index of the tier that a quantity lies in: the first with `quantity <= up_to`.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn index_of(&self, quantity: Exact) -> Result<usize, RatingStatus> {
        let (mut low, mut high) = (0, self.tiers.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            let up_to = self.tiers[middle].up_to.expect("only the last tier is open");
            if quantity.compare(up_to)?.is_gt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Units below a tier.
    pub(super) fn low_of(&self, index: usize) -> Exact {
        index.checked_sub(1).map_or(Exact::ZERO, |below| {
            self.tiers[below].up_to.expect("a tier below another one has a bound")
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// Tiers as `(up_to, unit amount, flat amount)`, empty texts for none.
    pub(crate) fn tiers(rows: &[(&str, &str, &str)]) -> Result<Tiers, TermsStatus> {
        let number = |text: &&str| Some(exact(text));
        Tiers::new(
            rows.iter()
                .map(|(up_to, unit, flat)| Tier {
                    up_to: Some(up_to).filter(|text| !text.is_empty()).and_then(number),
                    unit_amount: exact(unit),
                    flat_amount: Some(flat)
                        .filter(|text| !text.is_empty())
                        .and_then(number)
                        .unwrap_or(Exact::ZERO),
                    flat_cap: None,
                    package_size: None,
                })
                .collect(),
        )
    }

    #[test]
    fn a_bound_belongs_to_the_lower_tier_and_nothing_lies_between_tiers() {
        let tiers = tiers(&[("100", "2", ""), ("200", "1", ""), ("", "0.5", "")]).unwrap();
        for (quantity, index) in
            [("-1", 0), ("0", 0), ("99.5", 0), ("100", 0), ("100.0001", 1), ("200", 1), ("200.5", 2)]
        {
            assert_eq!(tiers.index_of(exact(quantity)), Ok(index), "{quantity}");
        }
    }

    #[test]
    fn tiers_rise_strictly_and_the_last_one_is_open() {
        let rise = Err(TermsStatus::TiersMustRise);
        for rows in [
            &[][..],
            &[("10", "1", "")],
            &[("0", "1", ""), ("", "1", "")],
            &[("10", "1", ""), ("10", "1", ""), ("", "1", "")],
            &[("10", "1", ""), ("9", "1", ""), ("", "1", "")],
            &[("", "1", ""), ("", "1", "")],
            &[("-5", "1", ""), ("", "1", "")],
        ] {
            assert_eq!(tiers(rows), rise, "{rows:?}");
        }
        let mut rows = tiers(&[("10", "1", ""), ("", "1", "")]).unwrap().tiers;
        rows[0].package_size = Some(Exact::ZERO);
        assert_eq!(Tiers::new(rows), Err(TermsStatus::PackageSizeMustBePositive));
    }
}
