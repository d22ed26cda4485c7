//! From what was measured to what is priced: unit conversion, quantity rounding, free units.
//!
//! Owns: their order, once on the merged measure: convert, then round, then take off the free units. Leaves to others:
//! the price (`models`), which measure (`measure`).
//!
//! Invariants: nothing rounds but the one rounding that the price names, and it rounds the cumulative quantity: parts of
//! a window add up to the whole. A quantity at or below zero has no free units to take off.

use domain::{Exact, Rounding};

use super::status::{RatingStatus, TermsStatus};

/// A change of unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Times a factor: hours to minutes by 60.
    Multiply(Exact),
    /// Divided by a factor, exactly: bytes to gigabytes by 10^9.
    Divide(Exact),
}

/// What is done to a measured quantity before it is priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantityTerms {
    /// Change of unit.
    pub conversion: Option<Conversion>,
    /// Rounding and the number of fraction digits that it keeps.
    pub rounding: Option<(Rounding, i32)>,
    /// Units that cost nothing in each window.
    pub free_units: Exact,
}

impl QuantityTerms {
    /// Checks the terms by themselves.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`TermsStatus`] declares them.
    pub fn check(&self) -> Result<(), TermsStatus> {
        let factor = self.conversion.map(|conversion| match conversion {
            Conversion::Multiply(factor) | Conversion::Divide(factor) => factor,
        });
        if factor.is_some_and(|factor| !factor.is_positive()) {
            return Err(TermsStatus::ConversionFactorMustBePositive);
        }
        if self.free_units.is_negative() {
            return Err(TermsStatus::FreeUnitsMustNotBeNegative);
        }
        Ok(())
    }

    /// Whether a quantity is priced as it was measured.
    pub fn is_identity(&self) -> bool {
        self.conversion.is_none() && self.rounding.is_none() && self.free_units.is_zero()
    }

    /// The units of the price that a measured quantity is: converted and rounded.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn units(&self, measured: Exact) -> Result<Exact, RatingStatus> {
        let converted = match self.conversion {
            None => measured,
            Some(Conversion::Multiply(factor)) => measured.multiply(factor)?,
            Some(Conversion::Divide(factor)) => measured.divide(factor)?,
        };
        Ok(match self.rounding {
            None => converted,
            Some((rounding, place)) => converted.round(rounding, place)?,
        })
    }

    /// The units that are priced: beyond the free ones.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn priced(&self, measured: Exact) -> Result<Exact, RatingStatus> {
        let units = self.units(measured)?;
        if !units.is_positive() || self.free_units.is_zero() {
            return Ok(units);
        }
        Ok(units.subtract(self.free_units)?.max(Exact::ZERO)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    #[test]
    fn a_quantity_is_converted_then_rounded_then_freed() {
        use Conversion::{Divide, Multiply};
        use Rounding::{Ceiling, Floor, HalfAway};
        for (conversion, rounding, free, measured, expected) in [
            (None, None, "0", "12.5", "12.5"),
            (Some(Divide(exact("1000"))), Some((Ceiling, 0)), "0", "1400", "2"),
            (Some(Divide(exact("1000"))), Some((Floor, 0)), "0", "1400", "1"),
            (Some(Divide(exact("1000"))), Some((HalfAway, 1)), "0", "1450", "1.5"),
            (Some(Multiply(exact("1.2"))), None, "0", "10", "12"),
            (Some(Divide(exact("3"))), None, "0", "10", "10/3"),
            (None, None, "100", "99", "0"),
            (None, None, "100", "100.5", "0.5"),
            (None, None, "100", "-3", "-3"),
            (Some(Divide(exact("1024"))), Some((Ceiling, 0)), "1", "1025", "1"),
        ] {
            let terms = QuantityTerms { conversion, rounding, free_units: exact(free) };
            assert_eq!(terms.check(), Ok(()));
            assert_eq!(terms.priced(exact(measured)), Ok(exact(expected)), "{terms:?} {measured}");
        }
    }

    #[test]
    fn a_rounded_quantity_is_rounded_over_the_whole_window() {
        // OpenMeter: ceil(1300 / 1000) alone is 2; of 1,400 and then 1,300 it is 3 - 2.
        let terms = QuantityTerms {
            conversion: Some(Conversion::Divide(exact("1000"))),
            rounding: Some((Rounding::Ceiling, 0)),
            free_units: Exact::ZERO,
        };
        let delta = terms.units(exact("2700")).unwrap().subtract(terms.units(exact("1400")).unwrap());
        assert_eq!(delta, Ok(exact("1")));
    }

    #[test]
    fn only_terms_that_do_nothing_are_none() {
        let nothing = QuantityTerms::default();
        assert!(nothing.is_identity());
        for something in [
            QuantityTerms { conversion: Some(Conversion::Multiply(exact("2"))), ..nothing },
            QuantityTerms { rounding: Some((Rounding::Floor, 0)), ..nothing },
            QuantityTerms { free_units: exact("1"), ..nothing },
        ] {
            assert!(!something.is_identity(), "{something:?}");
        }
    }

    #[test]
    fn contradictory_terms_are_refused_when_they_are_checked() {
        let zero =
            QuantityTerms { conversion: Some(Conversion::Divide(Exact::ZERO)), ..QuantityTerms::default() };
        assert_eq!(zero.check(), Err(TermsStatus::ConversionFactorMustBePositive));
        let negative = QuantityTerms { free_units: exact("-1"), ..QuantityTerms::default() };
        assert_eq!(negative.check(), Err(TermsStatus::FreeUnitsMustNotBeNegative));
    }
}
