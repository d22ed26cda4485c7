//! Reading decimals and instants that catalogs write as texts.
//!
//! Owns: what is said to somebody who wrote one without quotes. Leaves to others: what the texts mean (`domain`).
//!
//! Invariants: a number is never taken for a decimal: it would have gone through a binary fraction on its way here.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use domain::{Decimal, MeterId, Timestamp};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

pub(super) fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    deserializer.deserialize_str(Text::<Decimal>(PhantomData))
}

pub(super) fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    deserializer.deserialize_str(Text::<Timestamp>(PhantomData))
}

pub(super) fn optional_decimal<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Decimal>, D::Error> {
    Ok(Option::<Quoted<Decimal>>::deserialize(deserializer)?.map(|Quoted(decimal)| decimal))
}

pub(super) fn decimals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Decimal>, D::Error> {
    let quoted = Vec::<Quoted<Decimal>>::deserialize(deserializer)?;
    Ok(quoted.into_iter().map(|Quoted(decimal)| decimal).collect())
}

pub(super) fn optional_instant<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<Quoted<Timestamp>>::deserialize(deserializer)?.map(|Quoted(instant)| instant))
}

pub(super) fn decimals_by_meter<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<MeterId, Decimal>, D::Error> {
    let quoted = BTreeMap::<MeterId, Quoted<Decimal>>::deserialize(deserializer)?;
    Ok(quoted.into_iter().map(|(meter, Quoted(decimal))| (meter, decimal)).collect())
}

/// A value that is written as a text.
trait FromText: Sized {
    /// What belongs there, after "expected".
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for Decimal {
    const EXPECTED: &'static str = "a decimal in quotes, such as \"0.01\"";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|status| status.to_string())
    }
}

impl FromText for Timestamp {
    const EXPECTED: &'static str = "an instant in quotes, such as \"2026-01-31T00:00:00Z\"";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|status| status.to_string())
    }
}

struct Quoted<T>(T);

impl<'de, T: FromText> Deserialize<'de> for Quoted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(PhantomData)).map(Quoted)
    }
}

struct Text<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(|status| E::custom(format!("{text:?}: {status}")))
    }
}
