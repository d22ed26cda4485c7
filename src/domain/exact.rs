//! Exact arithmetic for money: rational numbers with a 256-bit mantissa, a decimal scale and a divisor.
//!
//! Owns: add, subtract, multiply, divide, compare, and the roundings, each by name.
//! Leaves to others: what is added to what, and where a rounding is due (`billing::rating`).
//!
//! Invariants:
//! - Nothing rounds but [`Exact::round`] and what is made of it, and each names its mode. A division keeps its divisor.
//! - What does not fit 256 bits is [`ExactStatus::AmountMustFit`]; nothing wraps or saturates.
//! - Equal numbers are equal, however they came about: `1.0 = 1.00`, `2/4 = 0.5`.

use std::cmp::Ordering;
use std::fmt;

use ethnum::{I256, U256};
use serde::{Deserialize, Serialize, Serializer};

use crate::decimal::{Decimal, write_decimal};

/// Why a computation has no exact result here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExactStatus {
    /// A division by zero.
    DivisorMustNotBeZero,
    /// The result needs more than 256 bits (about 76 digits), or a divisor more than 128.
    AmountMustFit,
}

impl fmt::Display for ExactStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExactStatus::DivisorMustNotBeZero => "a divisor must not be zero",
            ExactStatus::AmountMustFit => "an exact amount must fit 256 bits (76 digits)",
        })
    }
}

impl std::error::Error for ExactStatus {}

/// How a number is rounded to a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest; a tie goes away from zero: −10.125 to −10.13.
    #[default]
    HalfAway,
    /// Up, towards plus infinity: −10.125 to −10.12.
    Ceiling,
    /// Down, towards minus infinity: −10.121 to −10.13.
    Floor,
}

/// An exact number: `mantissa × 10^-scale ÷ divisor`.
///
/// The divisor is 1 for every decimal number. Otherwise it is coprime to 10 and to the mantissa: what terminates as a
/// decimal has none.
#[derive(Clone, Copy)]
pub struct Exact {
    mantissa: I256,
    divisor: u128,
    scale: u32,
}

const TEN: I256 = I256::new(10);
const POWERS: usize = 77;

/// Powers of ten that fit 256 bits.
static POWERS_OF_TEN: [I256; POWERS] = {
    let mut powers = [I256::ONE; POWERS];
    let mut exponent = 1;
    while exponent < POWERS {
        // Ten times a number as shifts and additions of its halves: `const` code has no other way.
        let (high, low) = powers[exponent - 1].into_words();
        let low_low = (low as u128 & u64::MAX as u128) * 10;
        let low_high = ((low as u128) >> 64) * 10 + (low_low >> 64);
        let high = (high as u128) * 10 + (low_high >> 64);
        let low = (low_high << 64) | (low_low & u64::MAX as u128);
        powers[exponent] = I256::from_words(high as i128, low as i128);
        exponent += 1;
    }
    powers
};

/// `10^exponent`, or `None` beyond 256 bits.
#[inline]
fn power_of_ten(exponent: u32) -> Option<I256> {
    POWERS_OF_TEN.get(exponent as usize).copied()
}

/// Powers of ten that fit 128 bits.
static SMALL_POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

/// A number as 128 bits, if it fits: the arithmetic of those is several times faster.
#[inline]
fn small(number: I256) -> Option<i128> {
    let (high, low) = number.into_words();
    (high == low >> 127).then_some(low)
}

/// `number ÷ 10^zeros`, if nothing is left over.
fn without_zeros(number: I256, zeros: u32) -> Option<I256> {
    if let (Some(number), Some(power)) = (small(number), SMALL_POWERS_OF_TEN.get(zeros as usize)) {
        let quotient = number / power;
        return (quotient * power == number).then(|| I256::from(quotient));
    }
    let power = power_of_ten(zeros)?;
    let quotient = number / power;
    (quotient * power == number).then_some(quotient)
}

/// `mantissa × 10^exponent`.
#[inline]
fn shifted(mantissa: I256, exponent: u32) -> Option<I256> {
    if let (Some(mantissa), Some(power)) = (small(mantissa), SMALL_POWERS_OF_TEN.get(exponent as usize))
        && let Some(product) = mantissa.checked_mul(*power)
    {
        return Some(I256::from(product));
    }
    power_of_ten(exponent).and_then(|power| mantissa.checked_mul(power))
}

/// A mantissa, unless it is the minimum of 256 bits, which has no magnitude.
#[inline]
fn with_magnitude(mantissa: I256) -> Option<I256> {
    (mantissa != I256::MIN).then_some(mantissa)
}

/// `a × b`.
#[inline]
fn product(a: I256, b: I256) -> Option<I256> {
    if let (Some(a), Some(b)) = (small(a), small(b))
        && let Some(product) = a.checked_mul(b)
    {
        return Some(I256::from(product));
    }
    a.checked_mul(b).and_then(with_magnitude)
}

impl Exact {
    /// Zero.
    pub const ZERO: Exact = Exact::decimal(I256::ZERO, 0);
    /// One.
    pub const ONE: Exact = Exact::decimal(I256::ONE, 0);

    #[inline]
    const fn decimal(mantissa: I256, scale: u32) -> Self {
        Self { mantissa, divisor: 1, scale }
    }

    /// `mantissa × 10^-scale`.
    #[inline]
    pub fn new(mantissa: i128, scale: u32) -> Self {
        Self::decimal(I256::from(mantissa), scale)
    }

    /// The integer `n`.
    #[inline]
    pub fn from_integer(n: i128) -> Self {
        Self::new(n, 0)
    }

    /// `numerator / denominator`.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`ExactStatus`] declares them.
    pub fn ratio(numerator: i128, denominator: i128) -> Result<Self, ExactStatus> {
        Self::from_integer(numerator).divide(Self::from_integer(denominator))
    }

    /// Fraction digits that the number is kept with, trailing zeros included; a ratio has more.
    pub fn scale(self) -> u32 {
        self.scale
    }

    /// The count of units of `10^-scale` that the number is, if it is a whole one of 128 bits.
    #[inline]
    pub fn units_at(self, scale: u32) -> Option<i128> {
        let zeros = scale.checked_sub(self.scale)?;
        let mantissa = small(self.mantissa).filter(|_| self.is_decimal())?;
        if zeros == 0 {
            return Some(mantissa);
        }
        mantissa.checked_mul(*SMALL_POWERS_OF_TEN.get(zeros as usize)?)
    }

    /// The same number without trailing zeros: of equal numbers it is the same in every field.
    fn normalized(self) -> Self {
        if self.mantissa == I256::ZERO {
            return Self::ZERO;
        }
        let Self { mut mantissa, divisor, mut scale } = self;
        // Many zeros at once: a count of units at the scale of its meter has eighteen.
        for zeros in [32, 16, 8, 4, 2, 1] {
            // What is divisible by ten so often is so by two: most that are not need no division.
            while scale >= zeros
                && mantissa.trailing_zeros() >= zeros
                && let Some(quotient) = without_zeros(mantissa, zeros)
            {
                mantissa = quotient;
                scale -= zeros;
            }
        }
        Self { mantissa, divisor, scale }
    }

    /// `mantissa × 10^-scale ÷ divisor` in lowest terms, with every 2 and 5 of the divisor moved into the scale.
    fn reduced(mantissa: I256, divisor: I256, scale: u32) -> Result<Self, ExactStatus> {
        if divisor == I256::ZERO {
            return Err(ExactStatus::DivisorMustNotBeZero);
        }
        let fit = ExactStatus::AmountMustFit;
        let common = greatest_common_divisor(mantissa, divisor) * divisor.signum();
        let (mut mantissa, mut divisor, mut scale) = (mantissa / common, divisor / common, scale);
        let (two, five) = (I256::new(2), I256::new(5));
        loop {
            let (part, factor) = match (divisor % two == I256::ZERO, divisor % five == I256::ZERO) {
                (true, true) => (TEN, I256::ONE),
                (true, false) => (two, five),
                (false, true) => (five, two),
                (false, false) => break,
            };
            mantissa = product(mantissa, factor).ok_or(fit)?;
            divisor /= part;
            scale += 1;
        }
        let divisor = u128::try_from(divisor).map_err(|_| fit)?;
        Ok(Self { mantissa, divisor, scale }.normalized())
    }

    /// Whether the number is zero.
    #[inline]
    pub fn is_zero(self) -> bool {
        self.mantissa == I256::ZERO
    }

    /// Whether the number is below zero.
    #[inline]
    pub fn is_negative(self) -> bool {
        self.mantissa < I256::ZERO
    }

    /// Whether the number is above zero.
    #[inline]
    pub fn is_positive(self) -> bool {
        self.mantissa > I256::ZERO
    }

    /// Whether the number has a finite decimal text.
    #[inline]
    pub fn is_decimal(self) -> bool {
        self.divisor == 1
    }

    /// Both mantissas at the larger of both scales; the divisors must be equal, or 1.
    #[inline]
    fn aligned(self, other: Self) -> Result<(I256, I256, u32), ExactStatus> {
        if self.scale == other.scale {
            return Ok((self.mantissa, other.mantissa, self.scale));
        }
        Self::aligned_at(self, other).or_else(|_| Self::aligned_at(self.normalized(), other.normalized()))
    }

    fn aligned_at(a: Self, b: Self) -> Result<(I256, I256, u32), ExactStatus> {
        let scale = a.scale.max(b.scale);
        let at = |number: Self| {
            if number.mantissa == I256::ZERO {
                return Ok(I256::ZERO);
            }
            shifted(number.mantissa, scale - number.scale).ok_or(ExactStatus::AmountMustFit)
        };
        Ok((at(a)?, at(b)?, scale))
    }

    /// Both over one divisor: the mantissas, the divisor and the scale.
    fn over_one_divisor(self, other: Self) -> Result<(Self, Self, I256), ExactStatus> {
        let (a, b) = (I256::from(self.divisor), I256::from(other.divisor));
        let common = greatest_common_divisor(a, b);
        let fit = ExactStatus::AmountMustFit;
        let times = |number: Self, factor: I256| {
            let mantissa = product(number.mantissa, factor).ok_or(fit)?;
            Ok(Self::decimal(mantissa, number.scale))
        };
        let divisor = (a / common).checked_mul(b).ok_or(fit)?;
        Ok((times(self, b / common)?, times(other, a / common)?, divisor))
    }

    /// The sum.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    #[expect(
        clippy::should_implement_trait,
        reason = "a sum that does not fit is a status, so `+` cannot say it"
    )]
    #[inline]
    pub fn add(self, other: Self) -> Result<Self, ExactStatus> {
        if self.is_decimal() && other.is_decimal() {
            let (a, b, scale) = self.aligned(other)?;
            let mantissa = a.checked_add(b).and_then(with_magnitude).ok_or(ExactStatus::AmountMustFit)?;
            return Ok(Self::decimal(mantissa, scale));
        }
        let (a, b, divisor) = self.over_one_divisor(other)?;
        let sum = a.add(b)?;
        Self::reduced(sum.mantissa, divisor, sum.scale)
    }

    /// The difference.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    #[inline]
    pub fn subtract(self, other: Self) -> Result<Self, ExactStatus> {
        self.add(other.negate())
    }

    /// The product.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    #[inline]
    pub fn multiply(self, other: Self) -> Result<Self, ExactStatus> {
        if self.is_decimal() && other.is_decimal() {
            let of = |a: Self, b: Self| {
                let mantissa = product(a.mantissa, b.mantissa)?;
                Some(Self::decimal(mantissa, a.scale + b.scale))
            };
            // Trailing zeros are kept until they are in the way.
            let product = of(self, other).or_else(|| of(self.normalized(), other.normalized()));
            return product.ok_or(ExactStatus::AmountMustFit);
        }
        self.multiply_ratios(other)
    }

    /// The product of ratios, each crosswise in lowest terms first, so that it overflows only if the result does.
    fn multiply_ratios(self, other: Self) -> Result<Self, ExactStatus> {
        let fit = ExactStatus::AmountMustFit;
        let (a, b) = (self.normalized(), other.normalized());
        let (a_divisor, b_divisor) = (I256::from(a.divisor), I256::from(b.divisor));
        let (left, right) =
            (greatest_common_divisor(a.mantissa, b_divisor), greatest_common_divisor(b.mantissa, a_divisor));
        let mantissa = product(a.mantissa / left, b.mantissa / right).ok_or(fit)?;
        let divisor = (a_divisor / right).checked_mul(b_divisor / left).ok_or(fit)?;
        Self::reduced(mantissa, divisor, a.scale + b.scale)
    }

    /// The quotient, as a ratio: nothing is rounded.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`ExactStatus`] declares them.
    pub fn divide(self, other: Self) -> Result<Self, ExactStatus> {
        if other.is_zero() {
            return Err(ExactStatus::DivisorMustNotBeZero);
        }
        let fit = ExactStatus::AmountMustFit;
        let other = other.normalized();
        // 1 / (m × 10^-s ÷ d) = d × 10^s ÷ m
        let power = power_of_ten(other.scale).ok_or(fit)?;
        let numerator = I256::from(other.divisor).checked_mul(power).ok_or(fit)?;
        self.multiply_ratios(Self::reduced(numerator, other.mantissa, 0)?)
    }

    /// How often `other` goes into the number, rounded to an integer: [`Exact::divide`] and [`Exact::round`] at once, and
    /// without lowest terms where both are decimals.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`ExactStatus`] declares them.
    pub fn quotient(self, other: Self, rounding: Rounding) -> Result<Self, ExactStatus> {
        if self.is_decimal()
            && other.is_decimal()
            && other.is_positive()
            && let Ok((a, b, _)) = self.aligned(other)
        {
            return Ok(Self::decimal(round_quotient(rounding, a, b), 0));
        }
        self.divide(other)?.round(rounding, 0)
    }

    /// The number divided by `10^exponent`: exact, since only the scale moves.
    #[inline]
    pub fn divide_by_power_of_ten(self, exponent: u32) -> Self {
        Self { scale: self.scale + exponent, ..self }
    }

    /// The same magnitude with the other sign. Cannot overflow: a mantissa never reaches the asymmetric minimum.
    #[inline]
    pub fn negate(self) -> Self {
        assert!(self.mantissa != I256::MIN, "a mantissa stays above the minimum of 256 bits");
        Self { mantissa: -self.mantissa, ..self }
    }

    /// The magnitude.
    pub fn abs(self) -> Self {
        if self.is_negative() { self.negate() } else { self }
    }

    /// The order of both numbers.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`] where a comparison would need more than 256 bits.
    #[inline]
    pub fn compare(self, other: Self) -> Result<Ordering, ExactStatus> {
        if self.divisor == other.divisor {
            let (a, b, _) = self.aligned(other)?;
            return Ok(a.cmp(&b));
        }
        let (a, b, _) = self.over_one_divisor(other)?;
        let (a, b, _) = a.aligned(b)?;
        Ok(a.cmp(&b))
    }

    /// The smaller of both.
    ///
    /// # Errors
    /// As [`Exact::compare`].
    #[inline]
    pub fn min(self, other: Self) -> Result<Self, ExactStatus> {
        Ok(if self.compare(other)? == Ordering::Greater { other } else { self })
    }

    /// The greater of both.
    ///
    /// # Errors
    /// As [`Exact::compare`].
    #[inline]
    pub fn max(self, other: Self) -> Result<Self, ExactStatus> {
        Ok(if self.compare(other)? == Ordering::Less { other } else { self })
    }

    /// Rounds to a place: 2 keeps hundredths, 0 integers, −3 thousands.
    ///
    /// With [`Exact::round_to`] this is the only rounding of Tallymark. Nothing is rounded that has the place already.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    pub fn round(self, rounding: Rounding, place: i32) -> Result<Self, ExactStatus> {
        let units = self.units_of(rounding, place)?;
        if place >= 0 {
            return Ok(Self::decimal(units, place.unsigned_abs()));
        }
        let mantissa = power_of_ten(place.unsigned_abs()).and_then(|power| units.checked_mul(power));
        Ok(Self::decimal(mantissa.ok_or(ExactStatus::AmountMustFit)?, 0))
    }

    /// Rounds half away from zero to `exponent` fraction digits and gives the count of minor units:
    /// `-10.125` at exponent 2 gives `-1013`.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`] if the count does not fit 128 bits.
    pub fn round_to(self, exponent: u8) -> Result<i128, ExactStatus> {
        let units = self.units_of(Rounding::HalfAway, i32::from(exponent))?;
        i128::try_from(units).map_err(|_| ExactStatus::AmountMustFit)
    }

    /// Rounds to `exponent` fraction digits by the given mode and gives the count of minor units.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`] if the count does not fit 128 bits.
    pub fn round_to_minor(self, rounding: Rounding, exponent: u8) -> Result<i128, ExactStatus> {
        let units = self.units_of(rounding, i32::from(exponent))?;
        i128::try_from(units).map_err(|_| ExactStatus::AmountMustFit)
    }

    /// How many units of `10^-place` the number has, rounded.
    fn units_of(self, rounding: Rounding, place: i32) -> Result<I256, ExactStatus> {
        let fit = ExactStatus::AmountMustFit;
        let digits = i64::from(self.scale) - i64::from(place);
        // Nearly every amount is a decimal of 128 bits.
        if self.is_decimal()
            && let (Ok(digits), Some(mantissa)) = (usize::try_from(digits), small(self.mantissa))
            && let Some(power) = SMALL_POWERS_OF_TEN.get(digits)
        {
            return Ok(I256::from(round_small_quotient(rounding, mantissa, *power)));
        }
        if digits <= 0 {
            let power = u32::try_from(-digits).ok().and_then(power_of_ten);
            let mantissa = match power {
                _ if self.is_zero() => I256::ZERO,
                Some(power) => self.mantissa.checked_mul(power).ok_or(fit)?,
                None => return Err(fit),
            };
            return Ok(round_quotient(rounding, mantissa, I256::from(self.divisor)));
        }
        let power = u32::try_from(digits).ok().and_then(power_of_ten);
        let divisor = power.and_then(|power| power.checked_mul(I256::from(self.divisor)));
        let Some(divisor) = divisor else {
            // A divisor that does not fit is above every mantissa, so the magnitude is below one.
            let is_away = match rounding {
                Rounding::HalfAway => self.is_half_at(digits),
                Rounding::Ceiling => self.is_positive(),
                Rounding::Floor => self.is_negative(),
            };
            return Ok(if is_away { self.mantissa.signum() } else { I256::ZERO });
        };
        Ok(round_quotient(rounding, self.mantissa, divisor))
    }

    /// Whether `mantissa ÷ (10^digits × divisor)`, which is below one, is one half or more. What is beyond twice the
    /// mantissas does not fit 256 bits without a sign either.
    fn is_half_at(self, digits: i64) -> bool {
        let power = u32::try_from(digits).ok().and_then(|digits| U256::new(10).checked_pow(digits));
        let divisor = power.and_then(|power| power.checked_mul(U256::new(self.divisor)));
        let magnitude = self.mantissa.unsigned_abs();
        divisor.is_some_and(|divisor| magnitude >= divisor - magnitude)
    }
}

/// `mantissa / divisor` to an integer of 128 bits; the divisor is positive.
fn round_small_quotient(rounding: Rounding, mantissa: i128, divisor: i128) -> i128 {
    let quotient = mantissa / divisor;
    let remainder = mantissa - quotient * divisor;
    let is_away = match rounding {
        // Compare |remainder| with divisor - |remainder| so that doubling cannot overflow.
        Rounding::HalfAway => remainder.abs() >= divisor - remainder.abs(),
        Rounding::Ceiling => remainder > 0,
        Rounding::Floor => remainder < 0,
    };
    // The divisor of what is rounded away is two or more, so a quotient has room for one more.
    if is_away { quotient + mantissa.signum() } else { quotient }
}

/// `mantissa / divisor` to an integer; the divisor is positive.
fn round_quotient(rounding: Rounding, mantissa: I256, divisor: I256) -> I256 {
    if divisor == I256::ONE {
        return mantissa;
    }
    if let (Some(mantissa), Some(divisor)) = (small(mantissa), small(divisor)) {
        return I256::from(round_small_quotient(rounding, mantissa, divisor));
    }
    let (quotient, remainder) = (mantissa / divisor, mantissa % divisor);
    if remainder == I256::ZERO {
        return quotient;
    }
    let is_up = match rounding {
        // Compare |remainder| with divisor - |remainder| so that doubling cannot overflow.
        Rounding::HalfAway => {
            let magnitude = remainder.abs();
            return if magnitude >= divisor - magnitude { quotient + mantissa.signum() } else { quotient };
        }
        Rounding::Ceiling => mantissa > I256::ZERO,
        Rounding::Floor => mantissa < I256::ZERO,
    };
    if is_up { quotient + mantissa.signum() } else { quotient }
}

/// The greatest common divisor, above zero unless both are zero.
fn greatest_common_divisor(a: I256, b: I256) -> I256 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != I256::ZERO {
        // Numbers of 128 bits have a division of their own, far faster.
        if let (Ok(mut low), Ok(mut other)) = (u128::try_from(a), u128::try_from(b)) {
            while other != 0 {
                (low, other) = (other, low % other);
            }
            return I256::from(low);
        }
        (a, b) = (b, a % b);
    }
    a
}

impl Default for Exact {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<Decimal> for Exact {
    #[inline]
    fn from(number: Decimal) -> Self {
        Self::new(number.mantissa(), u32::from(number.scale()))
    }
}

impl PartialEq for Exact {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        if self.scale == other.scale {
            return self.mantissa == other.mantissa && self.divisor == other.divisor;
        }
        let (a, b) = (self.normalized(), other.normalized());
        (a.mantissa, a.divisor, a.scale) == (b.mantissa, b.divisor, b.scale)
    }
}

impl Eq for Exact {}

impl PartialOrd for Exact {
    /// `None` only where a comparison would need more than 256 bits.
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.compare(*other).ok()
    }
}

impl fmt::Display for Exact {
    /// A decimal without trailing zeros, or a fraction of integers in lowest terms: `0.125`, `-1500/31`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.normalized();
        if number.is_decimal() && number.scale <= DECIMAL_SCALE_MAX {
            let (is_negative, scale) = (number.is_negative(), number.scale as usize);
            return match small(number.mantissa) {
                Some(mantissa) => {
                    let mut digits = itoa::Buffer::new();
                    write_decimal(f, is_negative, digits.format(mantissa.unsigned_abs()), scale)
                }
                None => write_decimal(f, is_negative, &number.mantissa.unsigned_abs().to_string(), scale),
            };
        }
        // A normalized mantissa and the power of ten share only twos or only fives.
        let Some(power) = power_of_ten(number.scale) else {
            return write!(f, "{}/{}e{}", number.mantissa, number.divisor, number.scale);
        };
        let common = greatest_common_divisor(number.mantissa, power);
        let (numerator, power) = (number.mantissa / common, power / common);
        match power.checked_mul(I256::from(number.divisor)) {
            Some(denominator) => write!(f, "{numerator}/{denominator}"),
            None => write!(f, "{}/{}e{}", number.mantissa, number.divisor, number.scale),
        }
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

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an exact amount")))
    }
}

/// Characters of a number that is read.
const TEXT_BYTES_MAX: usize = 320;
/// Digits behind the point of a number that is written as a decimal.
const DECIMAL_SCALE_MAX: u32 = 300;
/// Digits behind the point of any number that is read.
const SCALE_END: u32 = 1_000;

const _: () =
    assert!(DECIMAL_SCALE_MAX as usize + 3 < TEXT_BYTES_MAX, "what is written as a decimal is read");

impl Exact {
    /// Reads what `Display` writes: a decimal, or a fraction of two integers. Never rounds.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let Some((numerator, denominator)) = text.split_once('/') else { return parse_decimal(text) };
        let (denominator, scale) = match denominator.split_once('e') {
            None => (denominator, 0),
            Some((denominator, scale)) => {
                (denominator, scale.parse().ok().filter(|scale| *scale < SCALE_END)?)
            }
        };
        let (numerator, denominator) = (parse_decimal(numerator)?, parse_decimal(denominator)?);
        let is_fraction = numerator.scale == 0 && denominator.scale == 0 && denominator.is_positive();
        if !is_fraction {
            return None;
        }
        let number = Self::reduced(numerator.mantissa, denominator.mantissa, scale).ok()?;
        (number.scale < SCALE_END).then_some(number)
    }
}

fn parse_decimal(text: &str) -> Option<Exact> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number =
        !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !is_number {
        return None;
    }
    let mut mantissa = I256::ZERO;
    for byte in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa.checked_mul(TEN)?.checked_add(I256::from(byte - b'0'))?;
    }
    let mantissa = if text.starts_with('-') { -mantissa } else { mantissa };
    Some(Exact::decimal(mantissa, fraction.len() as u32).normalized())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    /// Such a number was written with all its zeros, which are more than are read.
    #[test]
    fn a_number_far_behind_the_point_reads_back() {
        for (text, written) in [
            ("2./1e611", "2/1e611"),
            ("2/2e910", "1/1e910"),
            ("-7/1e301", "-7/1e301"),
            ("20/1e301", "0.FF2"),
            ("7/3e999", "7/3e999"),
        ] {
            let number = exact(text);
            assert_eq!(number.to_string(), written.replace("FF", &"0".repeat(299)), "{text}");
            assert_eq!(Exact::parse(&number.to_string()), Some(number), "{text}");
        }
        assert_eq!(Exact::parse("1/10e999"), None, "one digit more than is read");
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

    #[test]
    fn a_number_is_a_whole_count_of_units_or_none() {
        for (text, scale, units) in [
            ("1.5", 1, Some(15)),
            ("1.5", 3, Some(1500)),
            ("-1.5", 0, None),
            ("0", 38, Some(0)),
            ("1/3", 9, None),
            ("1", 38, Some(10i128.pow(38))),
            ("2", 38, None),
            ("1", 39, None),
        ] {
            assert_eq!(exact(text).units_at(scale), units, "{text} at {scale}");
        }
    }

    #[test]
    fn rounding_goes_where_its_name_says_at_any_place() {
        use Rounding::{Ceiling, Floor, HalfAway};
        for (text, mode, place, expected) in [
            ("10.121", Ceiling, 2, "10.13"),
            ("-10.129", Ceiling, 2, "-10.12"),
            ("10.129", Floor, 2, "10.12"),
            ("-10.121", Floor, 2, "-10.13"),
            ("10.12", Ceiling, 2, "10.12"),
            ("1550", HalfAway, -2, "1600"),
            ("1549.999", HalfAway, -2, "1500"),
            ("1501", Ceiling, -2, "1600"),
            ("-1501", Floor, -2, "-1600"),
            ("1500/31", HalfAway, 2, "48.39"),
            ("1500/31", Ceiling, 0, "49"),
            ("-1500/31", Floor, 0, "-49"),
            ("1/3", HalfAway, 0, "0"),
            ("-1/3", Floor, 0, "-1"),
            ("0", Ceiling, 90, "0"),
        ] {
            let rounded = exact(text).round(mode, place).unwrap();
            assert_eq!(rounded.to_string(), expected, "{text} {mode:?} {place}");
        }
    }

    /// 0.55 with 77 digits, whose divisor is beyond 255 bits but not beyond twice its mantissa, became 0.
    #[test]
    fn what_is_far_behind_the_point_rounds_like_all_else() {
        use Rounding::{Ceiling, Floor, HalfAway};
        let digits = |first: &str, count: usize| format!("0.{first}{}1", "0".repeat(count - first.len() - 1));
        let (half, below) = (digits("5", 77), format!("0.4{}", "9".repeat(75)));
        for (text, mode, expected) in [
            (half.clone(), HalfAway, 1),
            (format!("-{half}"), HalfAway, -1),
            (half.clone(), Floor, 0),
            (format!("-{half}"), Ceiling, 0),
            (digits("49", 77), HalfAway, 0),
            (below, HalfAway, 0),
            (digits("1", 76), HalfAway, 0),
            (format!("4{}1/7e76", "0".repeat(74)), HalfAway, 0),
            (format!("5{}1/7e76", "0".repeat(75)), HalfAway, 1),
            (format!("-5{}1/7e76", "0".repeat(75)), HalfAway, -1),
            (format!("3{}1/7e76", "0".repeat(75)), HalfAway, 0),
            (digits("0", 90), HalfAway, 0),
            (digits("0", 90), Ceiling, 1),
            (digits("0", 90), Floor, 0),
            (format!("-{}", digits("0", 90)), Floor, -1),
            (format!("-{}", digits("0", 90)), Ceiling, 0),
        ] {
            assert_eq!(exact(&text).round_to_minor(mode, 0), Ok(expected), "{text} {mode:?}");
        }
        // Trailing zeros change nothing.
        let ones = Exact::new(5 * 10i128.pow(30), 31);
        assert_eq!(ones.divide_by_power_of_ten(60).multiply(Exact::new(1, 0)).unwrap().round_to(60), Ok(1));
        assert_eq!(Exact::decimal(POWERS_OF_TEN[76], 90).round_to(14), Ok(1));
        assert_eq!(Exact::ZERO.divide_by_power_of_ten(400).round_to(0), Ok(0));
    }

    #[test]
    fn the_short_way_takes_what_fits_128_bits_and_no_more() {
        let (most, least) = (I256::from(i128::MAX), I256::from(i128::MIN));
        let one = I256::ONE;
        for (number, expected) in [
            (most, Some(i128::MAX)),
            (least, Some(i128::MIN)),
            (-one, Some(-1)),
            (one, Some(1)),
            (most + one, None),
            (most + one + one, None),
            (least - one, None),
            (least - one - one, None),
            (most * most, None),
            (I256::MIN, None),
            (I256::MIN + one, None),
        ] {
            assert_eq!(small(number), expected, "{number}");
        }
        // Where the factors are short and the product is not.
        assert_eq!(product(most, most), Some(most * most));
        assert_eq!(shifted(most, 38), most.checked_mul(POWERS_OF_TEN[38]));
        assert_eq!(shifted(one, 38), Some(POWERS_OF_TEN[38]));
        assert_eq!(shifted(one, 76), Some(POWERS_OF_TEN[76]));
        assert_eq!((shifted(one, 77), shifted(TEN, 76)), (None, None));
    }

    /// The minimum of 256 bits has no magnitude: it was a number, and its negation stopped the process.
    #[test]
    fn what_has_no_magnitude_does_not_fit() {
        let least = Exact::new(i128::MIN, 0);
        let quarter = least.multiply(least).unwrap();
        let fit = Err(ExactStatus::AmountMustFit);
        assert_eq!(quarter.multiply(Exact::new(-2, 0)), fit);
        assert_eq!(quarter.negate().add(quarter.negate()), fit);
        assert_eq!(quarter.multiply(Exact::ratio(-2, 3).unwrap()), fit);
        let third = quarter.multiply(Exact::ratio(-1, 3).unwrap()).unwrap();
        assert_eq!(third.add(third), fit);
        assert_eq!(quarter.multiply(Exact::ONE.negate()).unwrap().abs(), quarter);
    }

    #[test]
    fn a_quotient_is_a_ratio_in_lowest_terms_and_a_decimal_if_it_ends() {
        for (a, b, expected) in [
            ("1", "8", "0.125"),
            ("1500", "31", "1500/31"),
            ("-10", "4", "-2.5"),
            ("10", "-4", "-2.5"),
            ("0.5", "31", "1/62"),
            ("2", "3", "2/3"),
            ("4", "6", "2/3"),
            ("1", "0.3", "10/3"),
            ("0", "7", "0"),
        ] {
            assert_eq!(exact(a).divide(exact(b)).unwrap().to_string(), expected, "{a} / {b}");
            assert_eq!(Exact::parse(expected).unwrap().to_string(), expected);
        }
        let third = Exact::ratio(1, 3).unwrap();
        assert_eq!(third.add(third).unwrap().add(third), Ok(Exact::ONE));
        assert_eq!(third.multiply(exact("3")), Ok(Exact::ONE));
        assert_eq!(exact("2").divide(Exact::ZERO), Err(ExactStatus::DivisorMustNotBeZero));
        assert_eq!(third.compare(exact("0.3333333333")), Ok(Ordering::Greater));
        assert_eq!(exact("1.50"), exact("1.5"));
        assert_eq!(exact("1.50").to_string(), "1.5");
    }

    #[test]
    fn a_divisor_near_256_bits_is_refused_or_reduced_and_never_wraps() {
        let digits = "15000350333333333030033330335000350333333333030033330333301031033010310330332";
        assert_eq!(Exact::parse(&format!("5/{digits}")), None);
        let large = Exact::parse(digits).unwrap();
        assert_eq!(Exact::from_integer(5).divide(large), Err(ExactStatus::AmountMustFit));
        assert_eq!(Exact::parse(&format!("{digits}/{digits}")), Some(Exact::ONE));
    }

    proptest! {
        #[test]
        fn division_and_multiplication_undo_each_other(
            a in any::<i64>(), b in any::<i64>(), s in 0u32..20, t in 0u32..20,
        ) {
            prop_assume!(b != 0);
            let (a, b) = (Exact::new(a.into(), s), Exact::new(b.into(), t));
            let quotient = a.divide(b).unwrap();
            prop_assert_eq!(quotient.multiply(b).unwrap(), a);
            prop_assert_eq!(Exact::parse(&quotient.to_string()), Some(quotient));
        }

        /// Decimals and ratios, of both signs, and what does not fit, is the same in one step as in two.
        #[test]
        fn a_rounded_quotient_is_the_quotient_rounded(
            a in prop_oneof![any::<i128>(), -100i128..100], b in prop_oneof![any::<i128>(), -100i128..100],
            scales in (0u32..40, 0u32..40), divisors in (1i128..4, 1i128..4),
            rounding in prop::sample::select(vec![Rounding::HalfAway, Rounding::Ceiling, Rounding::Floor]),
        ) {
            let of = |mantissa: i128, scale, divisor| {
                Exact::new(mantissa / 2, scale).divide(Exact::from_integer(divisor)).unwrap()
            };
            let (a, b) = (of(a, scales.0, divisors.0), of(b, scales.1, divisors.1));
            let in_two = a.divide(b).and_then(|quotient| quotient.round(rounding, 0));
            // One step may fit where two do not.
            match (a.quotient(b, rounding), in_two) {
                (Ok(_), Err(ExactStatus::AmountMustFit)) => {}
                (in_one, in_two) => prop_assert_eq!(in_one, in_two, "{} / {}", a, b),
            }
        }

        #[test]
        fn sums_of_ratios_do_not_depend_on_order(
            parts in prop::collection::vec((any::<i32>(), 1i128..400), 1..6),
        ) {
            let parts: Vec<Exact> = parts.into_iter().map(|(n, d)| Exact::ratio(n.into(), d).unwrap()).collect();
            let sum = |parts: &mut dyn Iterator<Item = Exact>| {
                parts.fold(Exact::ZERO, |sum, part| sum.add(part).unwrap())
            };
            prop_assert_eq!(sum(&mut parts.iter().copied()), sum(&mut parts.iter().rev().copied()));
        }

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
            prop_assert_eq!(Exact::parse(&a.to_string()), Some(a));
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
