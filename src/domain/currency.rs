//! Currencies: ISO 4217 codes with their minor units.
//!
//! Owns: which codes exist, how many fraction digits their amounts have, and the text of an amount. Leaves to others: rates
//! and rounding.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decimal::{Decimal, write_decimal};

/// A currency that amounts can be billed in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// Why a text is not a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrencyStatus {
    /// The text is not an ISO 4217 code of three capital letters.
    CurrencyMustBeIso4217,
    /// The code exists but has no minor unit, so nothing can be billed in it (gold, test codes).
    CurrencyMustHaveMinorUnit,
}

impl fmt::Display for CurrencyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CurrencyStatus::CurrencyMustBeIso4217 => "a currency is an ISO 4217 code such as USD",
            CurrencyStatus::CurrencyMustHaveMinorUnit => {
                "this currency has no minor unit, so nothing can be billed in it"
            }
        })
    }
}

impl std::error::Error for CurrencyStatus {}

impl Currency {
    /// The currency of an ISO 4217 code.
    ///
    /// # Errors
    /// [`CurrencyStatus`].
    pub fn from_code(code: &str) -> Result<Self, CurrencyStatus> {
        let currency =
            iso_currency::Currency::from_code(code).ok_or(CurrencyStatus::CurrencyMustBeIso4217)?;
        if currency.exponent().is_none() {
            return Err(CurrencyStatus::CurrencyMustHaveMinorUnit);
        }
        Ok(Self(currency))
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Fraction digits of an amount: 2 for USD, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u8 {
        self.0.exponent().expect("checked when the currency was made") as u8
    }

    /// So many minor units.
    pub fn amount(self, minor: i128) -> Amount {
        Amount { minor, exponent: self.exponent() }
    }

    /// An amount of minor units as text with exactly the currency's fraction digits: `-12.50`.
    pub fn format_minor(self, minor: i128) -> String {
        self.amount(minor).to_string()
    }

    /// Reads back what [`Currency::format_minor`] wrote.
    pub fn parse_minor(self, text: &str) -> Option<i128> {
        Decimal::parse(text).ok()?.mantissa_at(self.exponent())
    }
}

/// An amount in minor units that knows where its point stands. Its text has exactly so many fraction digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    minor: i128,
    exponent: u8,
}

impl Amount {
    /// Fraction digits that a text may have; currencies have at most four.
    const EXPONENT_MAX: usize = 9;

    /// Minor units.
    pub fn minor(self) -> i128 {
        self.minor
    }

    /// Whether it has the fraction digits of a currency.
    pub fn is_in(self, currency: Currency) -> bool {
        self.exponent == currency.exponent()
    }

    /// Reads the text of an amount, and no other text of the same number.
    fn parse(text: &str) -> Option<Self> {
        let exponent = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        if exponent > Self::EXPONENT_MAX {
            return None;
        }
        let exponent = exponent as u8;
        let minor = Decimal::parse(text).ok()?.mantissa_at(exponent)?;
        Some(Self { minor, exponent }).filter(|amount| amount.to_string() == text)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = itoa::Buffer::new();
        let (digits, exponent) = (digits.format(self.minor.unsigned_abs()), usize::from(self.exponent));
        write_decimal(f, self.minor < 0, digits, exponent)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let unreadable = || serde::de::Error::custom(format!("{text:?} is not an amount of minor units"));
        Self::parse(&text).ok_or_else(unreadable)
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_code(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_currencys_fraction_digits() {
        for (code, minor, text) in [
            ("USD", 1250, "12.50"),
            ("USD", -5, "-0.05"),
            ("JPY", 1250, "1250"),
            ("KWD", 1, "0.001"),
            ("CLF", 12345, "1.2345"),
        ] {
            let currency = Currency::from_code(code).unwrap();
            assert_eq!(currency.format_minor(minor), text);
            assert_eq!(currency.parse_minor(text), Some(minor));
            let read: Amount = serde_json::from_str(&format!("{text:?}")).unwrap();
            assert_eq!((read, read.minor(), read.is_in(currency)), (currency.amount(minor), minor, true));
        }
        // An amount has one text.
        for text in ["", "-", "1.", ".5", "01", "-0.00", "+1", "1e2", "0.0000000001", "ten"] {
            assert_eq!(Amount::parse(text), None, "{text:?}");
        }
        assert_eq!(Currency::from_code("usd"), Err(CurrencyStatus::CurrencyMustBeIso4217));
        assert_eq!(Currency::from_code("XAU"), Err(CurrencyStatus::CurrencyMustHaveMinorUnit));
    }
}
