//! Measures of keys and parts of a period.
//!
//! Owns: values weighted by the days that are left. Leaves to others: levels (`levels`), prices
//! of what was measured.

use std::collections::BTreeSet;

use billing::rating::proration::{Ratio, prorate};
use domain::time::DAY;
use domain::{Exact, Rounding, Span, Zone};
use serde_json::Value;

use crate::case::{Case, Stop, list_of, number_of};
use crate::keys::{KeyChange, active_days, keys_present};
use crate::numbers::{Precision, quotient_or_zero, sum_of};
use crate::proration::ratio_of;
use crate::time::{days_since, instant_of};
use crate::values::Values;

/// Places at which a value is also shown rounded.
const PLACES_SHOWN: std::ops::RangeInclusive<i32> = 0..=12;

pub(crate) fn unique_count(case: &Case<'_>) -> Result<Values, Stop> {
    let mut keys = BTreeSet::new();
    for event in case.rows("events")? {
        keys.insert((event.text("group"), event.text("key")));
    }
    Ok(Values::new().with("units", keys.len()))
}

/// Keys that were added and not removed again by the end of the range.
pub(crate) fn unique_set(case: &Case<'_>) -> Result<Values, Stop> {
    let until = instant_of(case, "to")?;
    let changes = key_changes(case)?;
    Ok(Values::new().with("value", keys_present(&changes, until)))
}

/// Every day that a key is active on for a time counts once.
pub(crate) fn prorated_unique(case: &Case<'_>) -> Result<Values, Stop> {
    let start = instant_of(case, "period_start")?;
    let days: i64 = case.integer("period_days")?.unwrap_or(0);
    let period = Span::new(start, start.plus(days.saturating_mul(DAY)));
    // Days of a period are counted from its start.
    let changes = key_changes(case)?;
    let shift = start.nanoseconds().rem_euclid(DAY);
    let shifted: Vec<KeyChange<'_>> =
        changes.into_iter().map(|change| KeyChange { at: change.at.plus(-shift), ..change }).collect();
    let shifted_period = Span::new(period.from.plus(-shift), period.until.plus(-shift));
    let days = active_days(&shifted, shifted_period, &Zone::utc());
    let ratio = Ratio::new(days, denominator_of(case)?);
    shown(Values::new(), ratio.value())
}

/// Changes in order of arrival.
fn key_changes<'a>(case: &Case<'a>) -> Result<Vec<KeyChange<'a>>, Stop> {
    let change_of = |event: &Case<'a>| {
        let is_removal = event.text("op") == Some("remove");
        Ok::<_, Stop>(KeyChange { at: instant_of(event, "time")?, key: event.word("key")?, is_removal })
    };
    case.rows("events")?.iter().map(change_of).collect()
}

pub(crate) fn ratio_units(case: &Case<'_>) -> Result<Values, Stop> {
    let units = prorate(case.number("quantity")?, ratio_of(case, "prorate_days")?)?;
    Ok(Values::new().with("units", Precision::of(case)?.round(units)?))
}

pub(crate) fn prorated_sum(case: &Case<'_>) -> Result<Values, Stop> {
    let part_of = |part: &Value| {
        let [value, numerator, denominator] = list_of(part)? else {
            return Err(Stop::Broken("a part has three numbers".to_string()));
        };
        let part = number_of(value)?.multiply(number_of(numerator)?)?;
        quotient_or_zero(part, number_of(denominator)?)
    };
    let parts = case.list("parts")?.iter().map(part_of).collect::<Result<Vec<_>, _>>()?;
    Ok(Values::new().with("units", Precision::of(case)?.sum(&parts)?))
}

pub(crate) fn increment_up(case: &Case<'_>) -> Result<Values, Stop> {
    let increment = case.number("increment")?;
    let count = case.number("quantity")?.divide(increment)?.round(Rounding::Ceiling, 0)?;
    Ok(Values::new().with("units", count.multiply(increment)?))
}

/// Every value for the days that are left of the period on its day.
pub(crate) fn prorated_sum_of_events(case: &Case<'_>) -> Result<Values, Stop> {
    let (values, parts) = event_parts(case)?;
    let mut given = Values::new().with("unprorated", sum_of(&values)?).with("count", values.len());
    for place in PLACES_SHOWN {
        let rounded = Precision::half_away(place).round_each(&parts)?;
        given.set(&format!("per_event_rounded_{place}"), rounded);
    }
    shown(given, sum_of(&parts)?)
}

pub(crate) fn prorated_flat(case: &Case<'_>) -> Result<Values, Stop> {
    let values = case.numbers("values")?;
    let days: u64 = case.integer("days")?.unwrap_or(0);
    let prorated = prorate(sum_of(&values)?, Ratio::new(days, denominator_of(case)?))?;
    shown(Values::new().with("unprorated", sum_of(&values)?).with("count", values.len()), prorated)
}

/// As a prorated sum, with what was there before counted for the whole period.
pub(crate) fn prorated_sum_recurring(case: &Case<'_>) -> Result<Values, Stop> {
    let persisted = case.numbers("persisted")?;
    let (values, parts) = event_parts(case)?;
    let days: u64 = case.integer("period_days")?.unwrap_or(0);
    let before = prorate(sum_of(&persisted)?, Ratio::new(days, denominator_of(case)?))?;
    let given = Values::new()
        .with("unprorated", sum_of(&persisted)?.add(sum_of(&values)?)?)
        .with("count", persisted.len() + values.len());
    shown(given, before.add(sum_of(&parts)?)?)
}

/// Values of events, and what each is worth for the days that are left.
fn event_parts(case: &Case<'_>) -> Result<(Vec<Exact>, Vec<Exact>), Stop> {
    let start = instant_of(case, "period_start")?;
    let (days, denominator): (i64, u64) = (case.integer("period_days")?.unwrap_or(0), denominator_of(case)?);
    let (mut values, mut parts) = (Vec::new(), Vec::new());
    for event in case.rows("events")? {
        let value = event.number("value")?;
        let days_left = (days - days_since(start, instant_of(&event, "time")?)).max(0);
        values.push(value);
        parts.push(prorate(value, Ratio::new(days_left.unsigned_abs(), denominator))?);
    }
    Ok((values, parts))
}

fn denominator_of(case: &Case<'_>) -> Result<u64, Stop> {
    let denominator = case.integer("denominator_days")?;
    denominator.map_or_else(|| Ok(case.integer("period_days")?.unwrap_or(0)), Ok)
}

/// Only what rises above the highest level so far is charged, for the days that are left.
pub(crate) fn prorated_in_advance(case: &Case<'_>) -> Result<Values, Stop> {
    let start = instant_of(case, "period_start")?;
    let days: i64 = case.integer("period_days")?.unwrap_or(0);
    let unit_price = case.number_or_one("unit_price")?;
    let (mut level, mut highest, mut amount) = (Exact::ZERO, Exact::ZERO, Exact::ZERO);
    let (mut units_after, mut cents_after) = (Vec::new(), Vec::new());
    for event in case.rows("events")? {
        level = level.add(event.number("value")?)?;
        let risen = level.subtract(highest)?.max(Exact::ZERO)?;
        highest = highest.max(level)?;
        let day = if event.find("day").is_some() { "day" } else { "time" };
        let days_left = (days - days_since(start, instant_of(&event, day)?)).max(0);
        let ratio = Ratio::new(days_left.unsigned_abs(), days.unsigned_abs());
        amount = amount.add(prorate(risen.multiply(unit_price)?, ratio)?)?;
        units_after.push(level);
        let cents = amount.multiply(Exact::from_integer(100))?;
        cents_after.push(Precision::half_away(0).round(cents)?);
    }
    Ok(Values::new().with("units_after", units_after).with("amount_cents_after", cents_after))
}

/// A value, exactly and rounded at every place that a case may ask for.
pub(crate) fn shown(mut values: Values, value: Exact) -> Result<Values, Stop> {
    for place in PLACES_SHOWN {
        values.set(&format!("value_rounded_{place}"), value.round(Rounding::HalfAway, place)?);
        values.set(&format!("value_ceil_{place}"), value.round(Rounding::Ceiling, place)?);
    }
    Ok(values.with("value", value).with("value_fraction", value))
}
