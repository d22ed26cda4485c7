//! A case, as the families read it, and how a computation ends.
//!
//! Owns: where a parameter stands, which text is a number, which failure is a required refusal. Leaves to others: what is
//! computed.

use billing::rating::allocation::AllocationStatus;
use billing::rating::{RatingStatus, TermsStatus};
use domain::{Decimal, Exact, ExactStatus};
use serde_json::Value;

use crate::expression::ExpressionStatus;
use crate::json::{Fields, any_text};

/// Why a case has no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The product refuses what the case asks for, or what it is given.
    Refused,
    /// The runner does not compute this.
    Unsupported(String),
    /// The case is not written as the contract says, or the runner broke.
    Broken(String),
}

macro_rules! refusals {
    ($($status:ty),+) => { $(
        impl From<$status> for Stop {
            fn from(_: $status) -> Self {
                Stop::Refused
            }
        }
    )+ };
}
refusals!(ExactStatus, RatingStatus, TermsStatus, AllocationStatus, ExpressionStatus);

/// Parameters by name; a later layer is asked where an earlier one has none. `null` is not set.
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    layers: Vec<&'a Fields>,
}

impl<'a> Case<'a> {
    /// A whole case: what stands in `params`, then in `inputs`, then beside them.
    pub(crate) fn new(fields: &'a Fields) -> Self {
        let inner = |name: &str| fields.get(name).and_then(Value::as_object);
        Self { layers: inner("params").into_iter().chain(inner("inputs")).chain([fields]).collect() }
    }

    /// A part of a case alone.
    pub(crate) fn part(fields: &'a Fields) -> Self {
        Self { layers: vec![fields] }
    }

    /// A part of a case; what it does not set, the case does.
    pub(crate) fn with(&self, part: &'a Fields) -> Self {
        Self { layers: [part].into_iter().chain(self.layers.iter().copied()).collect() }
    }

    /// A parameter that is set.
    pub(crate) fn find(&self, name: &str) -> Option<&'a Value> {
        self.layers.iter().find_map(|layer| layer.get(name).filter(|value| !value.is_null()))
    }

    /// A parameter that must be set.
    pub(crate) fn value(&self, name: &str) -> Result<&'a Value, Stop> {
        self.find(name).ok_or_else(|| Stop::Broken(format!("{name} is missing")))
    }

    /// A number, if it is set.
    pub(crate) fn maybe(&self, name: &str) -> Result<Option<Exact>, Stop> {
        self.find(name).map(number_of).transpose()
    }

    /// A number that must be set.
    pub(crate) fn number(&self, name: &str) -> Result<Exact, Stop> {
        number_of(self.value(name)?)
    }

    /// A number, zero if it is not set.
    pub(crate) fn number_or_zero(&self, name: &str) -> Result<Exact, Stop> {
        Ok(self.maybe(name)?.unwrap_or(Exact::ZERO))
    }

    /// A number, one if it is not set.
    pub(crate) fn number_or_one(&self, name: &str) -> Result<Exact, Stop> {
        Ok(self.maybe(name)?.unwrap_or(Exact::ONE))
    }

    /// An integer, if it is set.
    pub(crate) fn integer<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Stop> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let integer = number_of(value)?.to_string().parse();
        integer.map(Some).map_err(|_| Stop::Broken(format!("{name} is no integer, or out of range")))
    }

    /// A text, if it is set.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.find(name).and_then(any_text)
    }

    /// A text that must be set.
    pub(crate) fn word(&self, name: &str) -> Result<&'a str, Stop> {
        self.text(name).ok_or_else(|| Stop::Broken(format!("{name} is no text")))
    }

    /// Whether a flag is set.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.find(name) == Some(&Value::Bool(true))
    }

    /// A list that must be set.
    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], Stop> {
        list_of(self.value(name)?)
    }

    /// The objects of a list that must be set.
    pub(crate) fn rows(&self, name: &str) -> Result<Vec<Case<'a>>, Stop> {
        self.list(name)?.iter().map(|row| Ok(Case::part(fields_of(row)?))).collect()
    }

    /// The numbers of a list that must be set.
    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<Exact>, Stop> {
        numbers_of(self.value(name)?)
    }

    /// Numbers by name, in order of the names.
    pub(crate) fn named_numbers(&self, name: &str) -> Result<Vec<(&'a str, Exact)>, Stop> {
        let fields = fields_of(self.value(name)?)?;
        fields.iter().map(|(name, value)| Ok((name.as_str(), number_of(value)?))).collect()
    }
}

/// A value that must be an object.
pub(crate) fn fields_of(value: &Value) -> Result<&Fields, Stop> {
    value.as_object().ok_or_else(|| Stop::Broken("an object is expected".to_string()))
}

/// A value that must be a list.
pub(crate) fn list_of(value: &Value) -> Result<&[Value], Stop> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| Stop::Broken("a list is expected".to_string()))
}

/// A value that must be a list of numbers.
pub(crate) fn numbers_of(value: &Value) -> Result<Vec<Exact>, Stop> {
    list_of(value)?.iter().map(number_of).collect()
}

/// A value that must be a number, or the text of one; refused beyond the bounds of quantities and prices.
pub(crate) fn number_of(value: &Value) -> Result<Exact, Stop> {
    let text = any_text(value).ok_or_else(|| Stop::Broken(format!("{value} is no number")))?;
    number(text)
}

/// A number with an optional sign and exponent, exactly.
pub(crate) fn number(text: &str) -> Result<Exact, Stop> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent: i32 = exponent.parse().map_err(|_| Stop::Refused)?;
    // Digits may stand on one side of the point only: `.5`, `5.`.
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || exponent.abs() > 100 {
        return Err(Stop::Refused);
    }
    // The point moves by the exponent.
    let (mut whole, mut fraction) = (whole.to_string(), fraction.to_string());
    for _ in 0..exponent {
        let digit = fraction.chars().next().unwrap_or('0');
        fraction.drain(..fraction.len().min(digit.len_utf8()));
        whole.push(digit);
    }
    for _ in exponent..0 {
        fraction.insert(0, whole.pop().unwrap_or('0'));
    }
    let number = Decimal::parse(&format!("{sign}0{whole}.{fraction}0")).map_err(|_| Stop::Refused)?;
    Ok(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_exactly_or_refused() {
        for (text, expected) in [
            ("-12.50", "-12.5"),
            ("007", "7"),
            (".5", "0.5"),
            ("5.", "5"),
            ("+3", "3"),
            ("1.25e2", "125"),
            ("-1.5E-3", "-0.0015"),
            ("00000000000000000000000000000000000000000000000000000000001.10", "1.1"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ] {
            assert_eq!(number(text).map(|number| number.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "+",
            "e5",
            "--1",
            "+-1",
            "1-",
            "1.2.3",
            "1e",
            "1e5.5",
            " 1",
            "1 ",
            "NaN",
            "inf",
            "-Inf",
            "0x10",
            "1_000",
            "1e999",
            "100000000000000000000000000000000000000",
        ] {
            assert_eq!(number(text), Err(Stop::Refused), "{text}");
        }
    }
}
