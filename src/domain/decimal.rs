//! A decimal number as users write it: a 128-bit mantissa and a scale.
//!
//! Owns: parsing, printing, equality of value, the limits of 38 significant and 28 fraction digits.
//! Leaves to others: arithmetic ([`crate::exact::Exact`], 256 bits wide), rounding.
//!
//! Invariants:
//! - Parsing never rounds: what does not fit is a typed error.
//! - `1.0` equals `1.00`; the canonical text has no trailing zeros, no exponent and no negative zero.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{DECIMAL_DIGITS_MAX, DECIMAL_FRACTION_DIGITS_MAX};

/// Why a text or a pair of numbers is not a decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalStatus {
    /// The text is not digits with at most one point and one leading minus.
    DecimalMustBeDigits,
    /// More than 28 fraction digits.
    DecimalScaleMustFit,
    /// More than 38 significant digits.
    DecimalDigitsMustFit,
}

impl fmt::Display for DecimalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecimalStatus::DecimalMustBeDigits => {
                "a decimal is written with digits, at most one '.' and at most one leading '-'"
            }
            DecimalStatus::DecimalScaleMustFit => "a decimal has at most 28 fraction digits",
            DecimalStatus::DecimalDigitsMustFit => "a decimal has at most 38 significant digits",
        })
    }
}

impl std::error::Error for DecimalStatus {}

/// An exact decimal: `mantissa × 10^-scale`, at most 38 significant and 28 fraction digits.
#[derive(Clone, Copy)]
pub struct Decimal {
    mantissa: i128,
    scale: u8,
}

/// The largest magnitude of a mantissa: 38 nines.
pub const MANTISSA_MAX: i128 = 10i128.pow(DECIMAL_DIGITS_MAX) - 1;

/// `10^exponent`, for exponents up to 38.
///
/// # Panics
/// If the exponent is beyond 38.
pub const fn power_of_ten(exponent: u8) -> i128 {
    POWERS_OF_TEN[exponent as usize]
}

const POWERS_OF_TEN: [i128; DECIMAL_DIGITS_MAX as usize + 1] = {
    let mut powers = [1; DECIMAL_DIGITS_MAX as usize + 1];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

impl Decimal {
    /// Zero.
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };
    /// One.
    pub const ONE: Decimal = Decimal { mantissa: 1, scale: 0 };

    /// `mantissa × 10^-scale`.
    ///
    /// # Errors
    /// The first broken limit, in the order in which [`DecimalStatus`] declares them.
    pub fn new(mantissa: i128, scale: u8) -> Result<Self, DecimalStatus> {
        if scale > DECIMAL_FRACTION_DIGITS_MAX {
            return Err(DecimalStatus::DecimalScaleMustFit);
        }
        if mantissa.unsigned_abs() > MANTISSA_MAX.unsigned_abs() {
            return Err(DecimalStatus::DecimalDigitsMustFit);
        }
        Ok(Self { mantissa, scale })
    }

    /// The integer `n`.
    pub fn from_integer(n: i64) -> Self {
        Self { mantissa: i128::from(n), scale: 0 }
    }

    /// Parses digits with at most one point and one leading minus: `-12.50`. Never rounds.
    ///
    /// # Errors
    /// [`DecimalStatus`]; trailing fraction zeros beyond the limits are allowed, since they change nothing.
    pub fn parse(text: &str) -> Result<Self, DecimalStatus> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let has_point = digits.contains('.');
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || !all_digits(whole)
            || !all_digits(fraction)
            || (has_point && fraction.is_empty())
        {
            return Err(DecimalStatus::DecimalMustBeDigits);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > usize::from(DECIMAL_FRACTION_DIGITS_MAX) {
            return Err(DecimalStatus::DecimalScaleMustFit);
        }
        let mut mantissa: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            // Ten times the greatest mantissa does not fit 128 bits.
            let next = mantissa.checked_mul(10).and_then(|tens| tens.checked_add(i128::from(byte - b'0')));
            mantissa =
                next.filter(|next| *next <= MANTISSA_MAX).ok_or(DecimalStatus::DecimalDigitsMustFit)?;
        }
        let mantissa = if text.starts_with('-') { -mantissa } else { mantissa };
        Ok(Self { mantissa, scale: fraction.len() as u8 })
    }

    /// The integer that, divided by `10^scale`, is the number.
    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// Fraction digits of the representation, 0 to 28.
    pub fn scale(self) -> u8 {
        self.scale
    }

    /// Whether the number is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// Whether the number is below zero.
    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// The same number with the smallest scale: `1.50` becomes mantissa 15, scale 1.
    pub fn normalize(self) -> Self {
        let (mantissa, scale) = normalize(self.mantissa, self.scale);
        Self { mantissa, scale }
    }

    /// The mantissa at a given scale, or `None` if digits would be lost or the result does not fit 128 bits.
    pub fn mantissa_at(self, scale: u8) -> Option<i128> {
        let number = self.normalize();
        let shift = scale.checked_sub(number.scale)?;
        if shift > DECIMAL_DIGITS_MAX as u8 {
            return (number.mantissa == 0).then_some(0);
        }
        number.mantissa.checked_mul(power_of_ten(shift))
    }
}

/// Takes trailing decimal zeros off: the smallest scale that represents the same number.
#[inline]
pub fn normalize(mut mantissa: i128, mut scale: u8) -> (i128, u8) {
    if mantissa == 0 {
        return (0, 0);
    }
    // Most values fit 64 bits, where a division is several times cheaper.
    if let Ok(mut small) = i64::try_from(mantissa) {
        while scale > 0 && small % 10 == 0 {
            small /= 10;
            scale -= 1;
        }
        return (i128::from(small), scale);
    }
    while scale > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    (mantissa, scale)
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        normalize(self.mantissa, self.scale) == normalize(other.mantissa, other.scale)
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.normalize();
        write_decimal(
            f,
            number.mantissa < 0,
            itoa::Buffer::new().format(number.mantissa.unsigned_abs()),
            usize::from(number.scale),
        )
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes digits with the point `scale` places from the right.
pub(crate) fn write_decimal(
    f: &mut fmt::Formatter<'_>,
    is_negative: bool,
    digits: &str,
    scale: usize,
) -> fmt::Result {
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    let zeros = scale - fraction.len();
    let parts = |out: &mut dyn fmt::Write| {
        out.write_str(if whole.is_empty() { "0" } else { whole })?;
        if scale > 0 {
            out.write_str(".")?;
        }
        (0..zeros).try_for_each(|_| out.write_str("0"))?;
        out.write_str(fraction)
    };
    if f.width().is_some() || f.sign_plus() {
        let mut text = String::with_capacity(digits.len() + scale + 2);
        parts(&mut text)?;
        return f.pad_integral(!is_negative, "", &text);
    }
    if is_negative {
        f.write_str("-")?;
    }
    parts(f)
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parsing_never_rounds_and_names_the_broken_rule() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("1.50", "1.5"),
            ("007", "7"),
            ("0.0000000000000000000000000001", "0.0000000000000000000000000001"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
            ("-12.34", "-12.34"),
            ("1.00000000000000000000000000000000000000000000", "1"),
        ] {
            assert_eq!(Decimal::parse(text).map(|d| d.to_string()), Ok(expected.to_string()), "{text}");
        }
        for text in [
            "", "-", ".", "1.", ".5", "1e3", "NaN", "nan", "inf", "+1", " 1", "1 ", "1,5", "--1", "0x1",
            "1.2.3", "١",
        ] {
            assert_eq!(Decimal::parse(text), Err(DecimalStatus::DecimalMustBeDigits), "{text}");
        }
        assert_eq!(
            Decimal::parse("0.00000000000000000000000000001"),
            Err(DecimalStatus::DecimalScaleMustFit)
        );
        assert_eq!(
            Decimal::parse("100000000000000000000000000000000000000"),
            Err(DecimalStatus::DecimalDigitsMustFit)
        );
        // Beyond what 128 bits hold, too: before, in and behind the last digit.
        for digits in 38..80 {
            for digit in '1'..='9' {
                let text = String::from_iter(std::iter::repeat_n(digit, digits));
                let parsed = [text.clone(), format!("-{text}"), format!("{}.{}", &text[2..], &text[..2])];
                for text in parsed {
                    let fits = (digits == 38).then_some(text.clone());
                    let parsed = Decimal::parse(&text).map(|decimal| decimal.to_string());
                    assert_eq!(parsed, fits.ok_or(DecimalStatus::DecimalDigitsMustFit), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_number_is_within_both_limits() {
        for (mantissa, scale, status) in [
            (MANTISSA_MAX, 28, None),
            (-MANTISSA_MAX, 28, None),
            (MANTISSA_MAX + 1, 0, Some(DecimalStatus::DecimalDigitsMustFit)),
            (-MANTISSA_MAX - 1, 0, Some(DecimalStatus::DecimalDigitsMustFit)),
            (1, 29, Some(DecimalStatus::DecimalScaleMustFit)),
            (MANTISSA_MAX + 1, 29, Some(DecimalStatus::DecimalScaleMustFit)),
        ] {
            assert_eq!(Decimal::new(mantissa, scale).err(), status, "{mantissa} at {scale}");
        }
    }

    #[test]
    fn trailing_zeros_go_on_either_side_of_64_bits() {
        let wide = 10i128.pow(20);
        for (mantissa, scale, normal) in [
            (1_500, 2, (15, 0)),
            (1_500, 1, (150, 0)),
            (-1_500, 28, (-15, 26)),
            (15, 0, (15, 0)),
            (0, 9, (0, 0)),
            (15 * wide, 28, (15, 8)),
            (15 * wide, 3, (15 * wide / 1_000, 0)),
            (-15 * wide, 20, (-15, 0)),
            (15 * wide + 1, 28, (15 * wide + 1, 28)),
            (15 * wide, 0, (15 * wide, 0)),
        ] {
            assert_eq!(normalize(mantissa, scale), normal, "{mantissa} at {scale}");
            let number = Decimal::new(mantissa, scale).unwrap();
            assert_eq!(number, Decimal::new(normal.0, normal.1).unwrap());
            assert_ne!(number, Decimal::new(normal.0 + 1, normal.1).unwrap());
            assert_eq!((number.mantissa(), number.scale()), (mantissa, scale));
            assert_eq!((number.is_zero(), number.is_negative()), (mantissa == 0, mantissa < 0));
        }
    }

    #[test]
    fn a_mantissa_at_a_scale_is_exact_or_none() {
        for (text, scale, expected) in [
            ("1.5", 0, None),
            ("1.5", 1, Some(15)),
            ("1.50", 1, Some(15)),
            ("1.5", 2, Some(150)),
            ("-1.5", 2, Some(-150)),
            ("1", 38, Some(10i128.pow(38))),
            ("2", 38, None),
            ("1", 39, None),
            ("0.1", 39, Some(10i128.pow(38))),
            ("0", 255, Some(0)),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().mantissa_at(scale), expected, "{text} at {scale}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(mantissa in -MANTISSA_MAX..=MANTISSA_MAX, scale in 0u8..=28) {
            let number = Decimal::new(mantissa, scale).unwrap();
            prop_assert_eq!(Decimal::parse(&number.to_string()), Ok(number));
        }

        #[test]
        fn a_coarser_scale_is_refused_rather_than_rounded(mantissa in -1_000_000i128..1_000_000, scale in 0u8..=9) {
            let number = Decimal::new(mantissa, scale).unwrap();
            match number.mantissa_at(3) {
                Some(at) => prop_assert_eq!(Decimal::new(at, 3).unwrap(), number),
                None => prop_assert!(number.normalize().scale() > 3),
            }
        }
    }
}
