//! What single events say: values, groups, times, expressions.
//!
//! Owns: JSON paths, which values are numbers. Leaves to others: sums over time (`measures`), the grammar of expressions
//! (`billing::rating::expression`).

use std::collections::BTreeMap;

use billing::rating::quantity::QuantityTerms;
use domain::Exact;
use serde_json::Value;

use crate::case::{Case, Stop, fields_of, number};
use crate::credits::paid_in_order;
use crate::expression::Expression;
use crate::json::any_text;
use crate::numbers::{mode_of, sum_of};
use crate::time::event_time;
use crate::values::Values;

pub(crate) fn parse_value(case: &Case<'_>) -> Result<Values, Stop> {
    let found = case.text("value_property").and_then(|path| at_path(case.find("data"), path));
    let value = match case.text("aggregation") {
        Some("COUNT") => "1".to_string(),
        // Keys are texts, whatever they look like.
        Some("UNIQUE_COUNT") => found.and_then(any_text).ok_or(Stop::Refused)?.to_string(),
        _ => number(found.and_then(any_text).ok_or(Stop::Refused)?)?.to_string(),
    };
    Ok(Values::new().with("value", value))
}

pub(crate) fn parse_group(case: &Case<'_>) -> Result<Values, Stop> {
    let mut groups = BTreeMap::new();
    for (name, path) in fields_of(case.value("group_by")?)? {
        let found = any_text(path).and_then(|path| at_path(case.find("data"), path));
        let text = match found {
            None | Some(Value::Null) => String::new(),
            Some(value) => any_text(value).map_or_else(|| value.to_string(), str::to_string),
        };
        groups.insert(name, text);
    }
    Ok(Values::new().with("groups", groups))
}

/// The value at a path such as `$.a.b`, `$['a']` or `$.list[0]`.
pub(crate) fn at_path<'a>(value: Option<&'a Value>, path: &str) -> Option<&'a Value> {
    let mut value = value?;
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inside) => inside.split_once(']')?,
            None => {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                name.split_at(name.find(['.', '[']).unwrap_or(name.len()))
            }
        };
        let name = step.trim_matches(['\'', '"']);
        value = match value {
            Value::Array(list) => list.get(name.parse::<usize>().ok()?)?,
            _ => value.get(name)?,
        };
        rest = after;
    }
    Some(value)
}

pub(crate) fn parse_time(case: &Case<'_>) -> Result<Values, Stop> {
    let text = case.find("timestamp").and_then(any_text).ok_or(Stop::Refused)?;
    Ok(Values::new().with("time", event_time(text)?))
}

pub(crate) fn rounding(case: &Case<'_>) -> Result<Values, Stop> {
    let place = case.integer("precision")?.unwrap_or(0);
    let rounding = case.text("function").map_or(Ok(None), mode_of)?;
    let terms =
        QuantityTerms { rounding: rounding.map(|rounding| (rounding, place)), ..QuantityTerms::default() };
    Ok(Values::new().with("value", terms.units(case.number("value")?)?))
}

pub(crate) fn expression(case: &Case<'_>) -> Result<Values, Stop> {
    let expression = Expression::parse(case.word("expression")?)?;
    let path = ["event", "properties"];
    let nested = path.iter().try_fold(None, |found: Option<&Value>, name| {
        let next = found.map_or_else(|| case.find(name), |value| value.get(name));
        next.map(Some)
    });
    let properties = nested
        .flatten()
        .or_else(|| ["properties", "props", "data", "event"].iter().find_map(|n| case.find(n)));
    let property = |name: &str| number(any_text(properties?.get(name)?)?).ok();
    Ok(Values::new().with("value", expression.evaluate(&property)?))
}

pub(crate) fn entitlement(case: &Case<'_>) -> Result<Values, Stop> {
    let filter = case.find("feature_filter").map(fields_of).transpose()?;
    let (mut all, mut matching) = (Vec::new(), Vec::new());
    for event in case.rows("events")? {
        let value = match case.text("meter_aggregation") {
            None | Some("COUNT") => Exact::ONE,
            Some("SUM") => event.number("value")?,
            Some(aggregation) => return Err(Stop::Unsupported(format!("the aggregation {aggregation}"))),
        };
        all.push(value);
        let fits =
            filter.is_none_or(|filter| filter.iter().all(|(key, wanted)| fits(event.find(key), wanted)));
        if fits {
            matching.push(value);
        }
    }
    let (grant, usage) = (case.number("grant")?, sum_of(&matching)?);
    let drawn = sum_of(&paid_in_order(usage, &[grant])?)?;
    let overage = usage.subtract(drawn)?.max(Exact::ZERO)?;
    Ok(Values::new()
        .with("meter_value", sum_of(&all)?)
        .with("usage", usage)
        .with("balance", grant.subtract(drawn)?)
        .with("overage", overage)
        .with("has_access", usage < grant))
}

/// Whether a value is the wanted one, or one of the wanted ones.
fn fits(value: Option<&Value>, wanted: &Value) -> bool {
    let Some(text) = value.and_then(any_text) else { return false };
    match wanted.as_array() {
        Some(wanted) => wanted.iter().any(|wanted| any_text(wanted) == Some(text)),
        None => any_text(wanted) == Some(text),
    }
}
