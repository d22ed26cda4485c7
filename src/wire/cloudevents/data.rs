//! The data of an event: raw JSON to names, exact numbers and texts.
//!
//! Invariants: a number is read from its text and never through a float; a name is that of its objects and its own,
//! with dots between them.

use std::borrow::Cow;
use std::fmt;

use domain::limits::DECIMAL_FRACTION_DIGITS_MAX;
use domain::{Decimal, DecimalStatus};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{CloudEvent, CloudEventStatus, DATA_DEPTH_MAX, EventOutcome, Key};

/// The text that raw JSON is; `None` if it is something else.
pub(super) fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}

/// Reads data that is valid JSON.
pub(super) fn read<'a>(raw: &'a str, event: &mut CloudEvent<'a>) -> EventOutcome {
    read_object(raw, "", 1, event)
}

fn read_object<'a>(raw: &'a str, prefix: &str, depth: usize, event: &mut CloudEvent<'a>) -> EventOutcome {
    if !raw.starts_with('{') {
        return Err(CloudEventStatus::DataMustBeObject);
    }
    if depth > DATA_DEPTH_MAX {
        return Err(CloudEventStatus::PropertyMustNotBeDeep);
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    let read = deserializer.deserialize_map(Members { prefix, depth, event });
    // Data of a structured event is a part of JSON that was read already; that of a binary one may be anything.
    read.unwrap_or(Err(CloudEventStatus::DataMustBeJson))?;
    deserializer.end().map_err(|_| CloudEventStatus::DataMustBeJson)
}

struct Members<'s, 'a> {
    prefix: &'s str,
    depth: usize,
    event: &'s mut CloudEvent<'a>,
}

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = EventOutcome;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<EventOutcome, A::Error> {
        let mut outcome = Ok(());
        while let Some(Key(key)) = map.next_key::<Key<'a>>()? {
            let raw: &'a RawValue = map.next_value()?;
            if outcome.is_err() {
                continue;
            }
            let name = if self.prefix.is_empty() { key } else { format!("{}.{key}", self.prefix).into() };
            outcome = property(name, raw.get(), self.depth, self.event);
        }
        Ok(outcome)
    }
}

fn property<'a>(name: Cow<'a, str>, raw: &'a str, depth: usize, event: &mut CloudEvent<'a>) -> EventOutcome {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text = text(raw).ok_or(CloudEventStatus::DataMustBeJson)?;
            if !text.is_empty() {
                event.dimensions.push((name, text));
            }
        }
        Some(b't' | b'f') => event.dimensions.push((name, raw.into())),
        Some(b'n') => {}
        Some(b'{') => read_object(raw, &name, depth + 1, event)?,
        Some(b'[') => return Err(CloudEventStatus::PropertyMustBeScalar),
        _ => {
            let value = decimal(raw).map_err(CloudEventStatus::PropertyMustBeDecimal)?;
            event.values.push((name, value));
        }
    }
    Ok(())
}

/// The decimal that a JSON number is, exponent and all, exactly.
pub(super) fn decimal(number: &str) -> Result<Decimal, DecimalStatus> {
    let Some((digits, exponent)) = number.split_once(['e', 'E']) else { return Decimal::parse(number) };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(Decimal::ZERO);
    }
    // An exponent that is itself out of range moves the point out of reach of every decimal.
    let exponent: i64 = exponent.parse().map_err(|_| match exponent.starts_with('-') {
        true => DecimalStatus::DecimalScaleMustFit,
        false => DecimalStatus::DecimalDigitsMustFit,
    })?;
    let zeros = (digits.len() - significant.len()) as i64;
    let scale = (fraction.len() as i64).saturating_sub(zeros).saturating_sub(exponent);
    if scale > i64::from(DECIMAL_FRACTION_DIGITS_MAX) {
        return Err(DecimalStatus::DecimalScaleMustFit);
    }
    if scale < -(domain::limits::DECIMAL_DIGITS_MAX as i64) {
        return Err(DecimalStatus::DecimalDigitsMustFit);
    }
    let shift = usize::try_from(-scale).unwrap_or(0);
    let mantissa = format!("{sign}{significant}{}", "0".repeat(shift));
    let mantissa = mantissa.parse().map_err(|_| DecimalStatus::DecimalDigitsMustFit)?;
    Decimal::new(mantissa, u8::try_from(scale).unwrap_or(0))
}
