//! Exact arithmetic for money: 256-bit integers with a decimal scale.
//!
//! Owns: add, subtract, multiply, compare, and the one rounding to a currency's minor unit.
//! Leaves to others: what is added to what (`billing::rating`).
//!
//! Invariants:
//! - Nothing rounds but [`Exact::round_to`], which names its mode.
//! - What does not fit 256 bits is [`ExactStatus::AmountMustFit`]; nothing wraps or saturates.

use std::cmp::Ordering;
use std::fmt;

use ethnum::I256;
use serde::{Serialize, Serializer};

use crate::decimal::{Decimal, write_decimal};

/// Why a computation has no exact result here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExactStatus {
    /// The result needs more than 256 bits (about 76 digits).
    AmountMustFit,
}

impl fmt::Display for ExactStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an exact amount must fit 256 bits (76 digits)")
    }
}

impl std::error::Error for ExactStatus {}

/// An exact number: `mantissa × 10^-scale` with a 256-bit mantissa.
///
/// Always normalized (no trailing zeros), so equality is equality of the fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    mantissa: I256,
    scale: u32,
}

const TEN: I256 = I256::new(10);

/// `10^exponent`, or `None` beyond 256 bits.
fn power_of_ten(exponent: u32) -> Option<I256> {
    TEN.checked_pow(exponent)
}

impl Exact {
    /// Zero.
    pub const ZERO: Exact = Exact { mantissa: I256::ZERO, scale: 0 };

    /// `mantissa × 10^-scale`.
    pub fn new(mantissa: i128, scale: u32) -> Self {
        Self::normalized(I256::from(mantissa), scale)
    }

    fn normalized(mut mantissa: I256, mut scale: u32) -> Self {
        if mantissa == I256::ZERO {
            return Self::ZERO;
        }
        while scale > 0 {
            let quotient = mantissa / TEN;
            if quotient * TEN != mantissa {
                break;
            }
            mantissa = quotient;
            scale -= 1;
        }
        Self { mantissa, scale }
    }

    /// Whether the number is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == I256::ZERO
    }

    /// Whether the number is below zero.
    pub fn is_negative(self) -> bool {
        self.mantissa < I256::ZERO
    }

    /// Both mantissas at the larger of both scales.
    fn aligned(self, other: Self) -> Result<(I256, I256, u32), ExactStatus> {
        let scale = self.scale.max(other.scale);
        let at = |number: Self| {
            power_of_ten(scale - number.scale)
                .and_then(|factor| number.mantissa.checked_mul(factor))
                .ok_or(ExactStatus::AmountMustFit)
        };
        Ok((at(self)?, at(other)?, scale))
    }

    /// The sum.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    #[expect(
        clippy::should_implement_trait,
        reason = "a sum that does not fit is a status, so `+` cannot say it"
    )]
    pub fn add(self, other: Self) -> Result<Self, ExactStatus> {
        let (a, b, scale) = self.aligned(other)?;
        Ok(Self::normalized(a.checked_add(b).ok_or(ExactStatus::AmountMustFit)?, scale))
    }

    /// The difference.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    pub fn subtract(self, other: Self) -> Result<Self, ExactStatus> {
        self.add(other.negate())
    }

    /// The product.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    pub fn multiply(self, other: Self) -> Result<Self, ExactStatus> {
        let mantissa = self.mantissa.checked_mul(other.mantissa).ok_or(ExactStatus::AmountMustFit)?;
        Ok(Self::normalized(mantissa, self.scale + other.scale))
    }

    /// The number divided by `10^exponent`: exact, since only the scale moves.
    pub fn divide_by_power_of_ten(self, exponent: u32) -> Self {
        Self::normalized(self.mantissa, self.scale + exponent)
    }

    /// The same magnitude with the other sign. Cannot overflow: a mantissa never reaches the asymmetric minimum.
    pub fn negate(self) -> Self {
        assert!(self.mantissa != I256::MIN, "a mantissa stays above the minimum of 256 bits");
        Self { mantissa: -self.mantissa, scale: self.scale }
    }

    /// Rounds half away from zero to `exponent` fraction digits and gives the count of minor units.
    ///
    /// This is the one rounding of Tallymark. `-10.125` at exponent 2 gives `-1013`.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`] if the count does not fit 128 bits.
    pub fn round_to(self, exponent: u8) -> Result<i128, ExactStatus> {
        let exponent = u32::from(exponent);
        let units = if self.scale <= exponent {
            power_of_ten(exponent - self.scale)
                .and_then(|factor| self.mantissa.checked_mul(factor))
                .ok_or(ExactStatus::AmountMustFit)?
        } else {
            round_half_away(self.mantissa, self.scale - exponent)
        };
        i128::try_from(units).map_err(|_| ExactStatus::AmountMustFit)
    }
}

/// `mantissa / 10^digits`, rounded half away from zero.
fn round_half_away(mantissa: I256, digits: u32) -> I256 {
    let Some(divisor) = power_of_ten(digits) else {
        // The divisor is beyond 10^76, so the magnitude is below one half.
        return I256::ZERO;
    };
    let (quotient, remainder) = (mantissa / divisor, mantissa % divisor);
    // Compare |remainder| with divisor - |remainder| so that doubling cannot overflow.
    let magnitude = remainder.abs();
    if magnitude >= divisor - magnitude { quotient + mantissa.signum() } else { quotient }
}

impl From<Decimal> for Exact {
    fn from(number: Decimal) -> Self {
        Self::new(number.mantissa(), u32::from(number.scale()))
    }
}

impl PartialOrd for Exact {
    /// `None` only where a comparison would need more than 256 bits.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let (a, b, _) = self.aligned(*other).ok()?;
        Some(a.cmp(&b))
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.unsigned_abs().to_string();
        write_decimal(f, self.is_negative(), &digits, self.scale as usize)
    }
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse_exact(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an exact amount")))
    }
}

/// Reads back what `Display` wrote.
fn parse_exact(text: &str) -> Option<Exact> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number =
        !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !is_number || text.len() > 160 {
        return None;
    }
    let mut mantissa = I256::ZERO;
    for byte in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa.checked_mul(TEN)?.checked_add(I256::from(byte - b'0'))?;
    }
    let mantissa = if text.starts_with('-') { -mantissa } else { mantissa };
    Some(Exact::normalized(mantissa, fraction.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(text: &str) -> Exact {
        parse_exact(text).unwrap()
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        for (text, exponent, expected) in [
            ("10.125", 2, 1013),
            ("-10.125", 2, -1013),
            ("10.1249999", 2, 1012),
            ("-0.005", 2, -1),
            ("0.0049", 2, 0),
            ("7", 0, 7),
            ("7", 3, 7000),
            ("0.5", 0, 1),
            ("-0.5", 0, -1),
            ("0.4999999999999999999999999999999999999999999999999999999999", 0, 0),
        ] {
            assert_eq!(exact(text).round_to(exponent), Ok(expected), "{text} at {exponent}");
        }
    }

    #[test]
    fn seventy_six_digits_compute_exactly_and_more_is_a_typed_error() {
        let nines = Exact::new(crate::decimal::MANTISSA_MAX, 28);
        let square = nines.multiply(nines).unwrap();
        assert_eq!(square.to_string().len(), 77);
        assert_eq!(square.multiply(Exact::new(10_000, 0)), Err(ExactStatus::AmountMustFit));
        assert_eq!(square.multiply(nines), Err(ExactStatus::AmountMustFit));
        assert_eq!(square.round_to(0), Ok(100_000_000_000_000_000_000));
    }

    proptest! {
        #[test]
        fn addition_and_subtraction_undo_each_other(
            a in any::<i64>(), b in any::<i64>(), s in 0u32..20, t in 0u32..20,
        ) {
            let (a, b) = (Exact::new(a.into(), s), Exact::new(b.into(), t));
            prop_assert_eq!(a.add(b).unwrap().subtract(b).unwrap(), a);
        }

        #[test]
        fn text_round_trips(a in any::<i128>(), s in 0u32..60) {
            let a = Exact::new(a / 2, s);
            prop_assert_eq!(parse_exact(&a.to_string()), Some(a));
        }

        #[test]
        fn rounding_moves_by_at_most_half_a_unit(a in any::<i64>(), s in 0u32..19) {
            let number = Exact::new(a.into(), s);
            let back = Exact::new(number.round_to(2).unwrap(), 2);
            let twice = number.subtract(back).unwrap().multiply(Exact::new(200, 0)).unwrap();
            prop_assert!(twice <= Exact::new(1, 0) && twice >= Exact::new(-1, 0));
        }
    }
}
