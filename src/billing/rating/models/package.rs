//! Package: units are sold in packages: `n × P`, `n = max(0, q − free) ÷ size`, started ones counted whole.
//!
//! The count is an integer quotient and a remainder, never a decimal division: 2^53 + 1 units in packages of one are
//! 2^53 + 1 packages. `RoundDown` gives whole packages only. A quantity at or below the free units owes nothing.
//!
//! Source: Lago's package charge, OpenMeter's package price, Stripe's `transform_quantity`.

use domain::{Exact, Rounding};

use super::portion::{Basis, Portion};
use crate::rating::status::{RatingStatus, TermsStatus};

/// Units in packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    size: Exact,
    package_amount: Exact,
    free_units: Exact,
    is_up: bool,
}

impl Package {
    /// Packages of `size` units at an amount each, after some free units; `is_up` counts started packages.
    ///
    /// # Errors
    /// [`TermsStatus::PackageSizeMustBePositive`].
    pub fn new(
        size: Exact,
        package_amount: Exact,
        free_units: Exact,
        is_up: bool,
    ) -> Result<Self, TermsStatus> {
        if !size.is_positive() {
            return Err(TermsStatus::PackageSizeMustBePositive);
        }
        Ok(Self { size, package_amount, free_units, is_up })
    }

    /// Packages that so many units take.
    pub(super) fn packages_of(units: Exact, size: Exact, is_up: bool) -> Result<Exact, RatingStatus> {
        if !units.is_positive() {
            return Ok(Exact::ZERO);
        }
        let rounding = if is_up { Rounding::Ceiling } else { Rounding::Floor };
        Ok(units.quotient(size, rounding)?)
    }

    /// Units beyond the free ones.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn paid_units(&self, quantity: Exact) -> Result<Exact, RatingStatus> {
        Ok(quantity.subtract(self.free_units)?.max(Exact::ZERO)?)
    }

    /// Packages that are owed.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn packages(&self, quantity: Exact) -> Result<Exact, RatingStatus> {
        Self::packages_of(self.paid_units(quantity)?, self.size, self.is_up)
    }

    /// What so many units cost.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, quantity: Exact) -> Result<Exact, RatingStatus> {
        Ok(self.packages(quantity)?.multiply(self.package_amount)?)
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`Package::amount`].
    pub fn portions(&self, quantity: Exact) -> Result<Vec<Portion>, RatingStatus> {
        let free = if quantity.is_positive() { quantity.min(self.free_units)? } else { Exact::ZERO };
        let mut portions = Vec::new();
        if free.is_positive() {
            portions.push(Portion {
                quantity: free,
                basis: Basis::Free,
                up_to: Some(self.free_units),
                ..Portion::fixed(Exact::ZERO)
            });
        }
        portions.push(Portion {
            tier: 0,
            from: free,
            up_to: None,
            quantity: quantity.subtract(free)?,
            basis: Basis::Packages { size: self.size, count: self.packages(quantity)? },
            unit_amount: self.package_amount,
            cap: None,
            flat_amount: Exact::ZERO,
            amount: self.amount(quantity)?,
        });
        Ok(portions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    fn check(size: &str, amount: &str, free: &str, is_up: bool, quantity: &str, expected: &str) {
        let package = Package::new(exact(size), exact(amount), exact(free), is_up).unwrap();
        assert_eq!(package.amount(exact(quantity)), Ok(exact(expected)), "{size} {quantity}");
    }

    #[test]
    fn a_started_package_is_owed_whole() {
        for (quantity, up, down) in [
            ("0", "0", "0"),
            ("0.1", "100", "0"),
            ("10", "100", "100"),
            ("121", "1300", "1200"),
            ("-5", "0", "0"),
        ] {
            check("10", "100", "0", true, quantity, up);
            check("10", "100", "0", false, quantity, down);
        }
        check("10", "100", "21", true, "21", "0");
        check("10", "100", "21", true, "21.5", "100");
    }

    #[test]
    fn the_count_of_packages_never_goes_through_a_float() {
        // Lago: 9007199254740993 packages of one unit became ...992.
        check("1", "1", "0", true, "9007199254740993", "9007199254740993");
        check("0.1", "1", "0", true, "0.3", "3");
    }

    #[test]
    fn portions_say_what_was_free_and_how_many_packages_there_are() {
        let package = Package::new(exact("10"), exact("100"), exact("21"), true).unwrap();
        let portions = package.portions(exact("45")).unwrap();
        let free = (portions[0].basis, portions[0].quantity, portions[0].up_to, portions[0].amount);
        assert_eq!(free, (Basis::Free, exact("21"), Some(exact("21")), Exact::ZERO));
        let paid = (portions[1].basis, portions[1].from, portions[1].quantity, portions[1].amount);
        let packages = Basis::Packages { size: exact("10"), count: exact("3") };
        assert_eq!((paid, portions.len()), ((packages, exact("21"), exact("24"), exact("300")), 2));
    }

    #[test]
    fn a_package_has_units() {
        for size in ["0", "-1"] {
            let package = Package::new(exact(size), Exact::ONE, Exact::ZERO, true);
            assert_eq!(package, Err(TermsStatus::PackageSizeMustBePositive));
        }
    }
}
