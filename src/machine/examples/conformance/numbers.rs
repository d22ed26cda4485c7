//! Where a case rounds, and amounts as whole units for the product's functions over minor units.
//!
//! Owns: the rounding of a case, and a grid on which given amounts are whole. Leaves to others: rounding itself
//! (`domain::Exact`), what is rounded.
//!
//! Invariants: a grid never rounds.

use domain::{Currency, Exact, Rounding};

use crate::case::{Case, Stop};

/// The rounding of a case: `R` in the contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precision {
    rounding: Option<(Rounding, i32)>,
    is_of_parts: bool,
}

impl Precision {
    /// Half away from zero at a place.
    pub(crate) fn half_away(place: i32) -> Self {
        Self { rounding: Some((Rounding::HalfAway, place)), is_of_parts: false }
    }

    /// What a case says; nothing is rounded where it says nothing.
    pub(crate) fn of(case: &Case<'_>) -> Result<Self, Stop> {
        let none = Self { rounding: None, is_of_parts: false };
        let Some(fields) = case.find("rounding").and_then(|value| value.as_object()) else { return Ok(none) };
        let terms = Case::part(fields);
        let Some(mode) = terms.text("mode").map_or(Ok(None), mode_of)? else { return Ok(none) };
        let place = match terms.integer("scale")? {
            Some(place) => place,
            None => exponent_of(case)?,
        };
        Ok(Self { rounding: Some((mode, place)), is_of_parts: terms.text("at") == Some("each part") })
    }

    /// A number, rounded.
    pub(crate) fn round(self, number: Exact) -> Result<Exact, Stop> {
        match self.rounding {
            None => Ok(number),
            Some((rounding, place)) => Ok(number.round(rounding, place)?),
        }
    }

    /// The sum of parts: rounded once, or of rounded parts if the case says so.
    pub(crate) fn sum(self, parts: &[Exact]) -> Result<Exact, Stop> {
        if self.is_of_parts { self.sum_of_rounded(parts) } else { self.round(sum_of(parts)?) }
    }

    /// The sum of rounded parts.
    pub(crate) fn sum_of_rounded(self, parts: &[Exact]) -> Result<Exact, Stop> {
        sum_of(&self.round_each(parts)?)
    }

    /// Every part, rounded.
    pub(crate) fn round_each(self, parts: &[Exact]) -> Result<Vec<Exact>, Stop> {
        parts.iter().map(|part| self.round(*part)).collect()
    }

    /// The grid of rounded amounts, if amounts are rounded.
    pub(crate) fn grid(self) -> Option<Grid> {
        self.rounding.map(|(_, place)| Grid { place })
    }
}

/// The rounding that a word means; `none` is none.
pub(crate) fn mode_of(word: &str) -> Result<Option<Rounding>, Stop> {
    match word {
        "none" => Ok(None),
        "half_away" | "half_up" | "round" => Ok(Some(Rounding::HalfAway)),
        "ceiling" | "ceil" => Ok(Some(Rounding::Ceiling)),
        "floor" => Ok(Some(Rounding::Floor)),
        _ => Err(Stop::Unsupported(format!("rounding {word}"))),
    }
}

/// Fraction digits of the currency of a case; of amounts in minor units none.
pub(crate) fn exponent_of(case: &Case<'_>) -> Result<i32, Stop> {
    if case.text("amounts_in") == Some("minor") {
        return Ok(0);
    }
    let Some(code) = case.text("currency") else { return Ok(2) };
    let currency = Currency::from_code(code).map_err(|_| Stop::Broken(format!("{code} is no currency")))?;
    Ok(currency.exponent().into())
}

pub(crate) fn sum_of(numbers: &[Exact]) -> Result<Exact, Stop> {
    Ok(numbers.iter().try_fold(Exact::ZERO, |sum, number| sum.add(*number))?)
}

/// The quotient, or zero where nothing is divided by nothing.
pub(crate) fn quotient_or_zero(amount: Exact, units: Exact) -> Result<Exact, Stop> {
    if units.is_zero() { Ok(Exact::ZERO) } else { Ok(amount.divide(units)?) }
}

/// `amount × percent / 100`.
pub(crate) fn percent_of(amount: Exact, percent: Exact) -> Result<Exact, Stop> {
    Ok(amount.multiply(percent)?.divide_by_power_of_ten(2))
}

/// Units of `10^-place`, in which amounts are whole numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    place: i32,
}

impl Grid {
    /// Cents.
    pub(crate) const CENTS: Grid = Grid { place: 2 };

    /// The coarsest grid, from whole numbers on, on which all the numbers lie.
    pub(crate) fn of(numbers: impl IntoIterator<Item = Exact>) -> Result<Self, Stop> {
        let mut place = 0;
        for number in numbers {
            if !number.is_decimal() {
                return Err(Stop::Unsupported("an amount that is no decimal".to_string()));
            }
            while number.round(Rounding::Floor, place)? != number {
                place += 1;
            }
        }
        Ok(Self { place })
    }

    /// Fraction digits of the units.
    pub(crate) fn place(self) -> i32 {
        self.place
    }

    /// The number of units, which must be whole.
    pub(crate) fn units(self, number: Exact) -> Result<i128, Stop> {
        let units = self.shifted(number, self.place)?;
        let whole = units.round_to(0)?;
        if Exact::from_integer(whole) != units {
            return Err(Stop::Broken(format!("{number} is not whole at place {}", self.place)));
        }
        Ok(whole)
    }

    /// The amount of so many units.
    pub(crate) fn amount(self, units: i128) -> Result<Exact, Stop> {
        self.shifted(Exact::from_integer(units), -self.place)
    }

    pub(crate) fn amounts(self, units: &[i128]) -> Result<Vec<Exact>, Stop> {
        units.iter().map(|units| self.amount(*units)).collect()
    }

    fn shifted(self, number: Exact, digits: i32) -> Result<Exact, Stop> {
        if digits < 0 {
            return Ok(number.divide_by_power_of_ten(digits.unsigned_abs()));
        }
        let ten = Exact::from_integer(10);
        Ok((0..digits).try_fold(number, |number, _| number.multiply(ten))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::number;

    #[test]
    fn a_grid_holds_amounts_without_rounding_them() {
        let numbers = ["1.25", "-3", "0.004"].map(|text| number(text).unwrap());
        let grid = Grid::of(numbers).unwrap();
        assert_eq!(numbers.map(|number| grid.units(number).unwrap()), [1250, -3000, 4]);
        assert_eq!(grid.amount(1250).unwrap(), numbers[0]);
        assert!(Grid::CENTS.units(numbers[2]).is_err());
        let tens = Grid { place: -1 };
        assert_eq!(
            (tens.units(number("120").unwrap()), tens.amount(12)),
            (Ok(12), Ok(number("120").unwrap()))
        );
    }
}
