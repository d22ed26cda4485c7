//! Ramps: versions of a resource that a catalog file, or a body that is put, writes in short.
//!
//! Owns: writing them out. A resource with `ramps` is itself, and for each step once more, as the step before it with the fields that
//! the step gives. Leaves to others: reading resources and their rules (`file`, `check`).
//!
//! Invariants: a file or body with ramps is what has every step written out; nothing behind it knows of them, and both say the same.
//! Every value of a file keeps its place in the text.

use std::ops::Range;

use domain::Timestamp;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::resource::ResourceKind;
use super::status::{CatalogStatus, Rule};

const RAMPS: &str = "ramps";

/// A ramp that cannot be written out; its resource is read without it.
pub(super) struct RampMistake {
    pub(super) kind: ResourceKind,
    pub(super) id: Option<String>,
    pub(super) what: String,
    pub(super) span: Range<usize>,
}

/// The field that says from when on a version of a resource holds, if it may have ramps.
fn date_of(kind: ResourceKind) -> Option<&'static str> {
    match kind {
        ResourceKind::Prices | ResourceKind::Commitments => Some("effective_from"),
        ResourceKind::Subscriptions => Some("from"),
        _ => None,
    }
}

/// Writes out the ramps of a file.
pub(super) fn write_out(file: &mut DeTable<'_>) -> Vec<RampMistake> {
    let mut mistakes = Vec::new();
    for kind in ResourceKind::ALL {
        let Some(date) = date_of(kind) else { continue };
        let Some(DeValue::Array(items)) = file.get_mut(kind.singular()).map(Spanned::get_mut) else {
            continue;
        };
        let has_ramps = |item: &Spanned<DeValue<'_>>| item.get_ref().get(RAMPS).is_some();
        if !items.iter().any(has_ramps) {
            continue;
        }
        let mut written = DeArray::new();
        for item in items.iter() {
            let (span, mut resource) = (item.span(), item.get_ref().clone());
            let ramps = match &mut resource {
                DeValue::Table(fields) => fields.remove(RAMPS),
                _ => None,
            };
            let steps = ramps.map_or(Ok(Vec::new()), |ramps| steps_of(&resource, date, &ramps));
            let id = resource.get("id").and_then(|id| id.get_ref().as_str()).map(str::to_string);
            written.push(Spanned::new(span, resource));
            match steps {
                Ok(steps) => steps.into_iter().for_each(|step| written.push(step)),
                Err((what, span)) => mistakes.push(RampMistake { kind, id, what, span }),
            }
        }
        *items = written;
    }
    mistakes
}

/// The versions that the steps of a ramp stand for; or what is wrong, and where.
fn steps_of<'i>(
    resource: &DeValue<'i>,
    date: &str,
    ramps: &Spanned<DeValue<'i>>,
) -> Result<Vec<Spanned<DeValue<'i>>>, (String, Range<usize>)> {
    let (DeValue::Table(fields), Some(steps)) = (resource, ramps.get_ref().as_array()) else {
        return Err((must_be_steps(date), ramps.span()));
    };
    let mut fields = fields.clone();
    let mut versions = Vec::new();
    for step in steps.iter() {
        let changed = step.get_ref().as_table().filter(|changed| changed.contains_key(date));
        let Some(changed) = changed else {
            return Err((must_be_dated(date), step.span()));
        };
        if let Some((key, _)) = changed.iter().find(|(key, _)| OF_RESOURCE.contains(&key.get_ref().as_ref()))
        {
            return Err((must_be_of_step(key.get_ref()), key.span()));
        }
        // What cannot be read is said where it is read.
        let instant = |fields: &DeTable<'i>| Timestamp::parse(fields.get(date)?.get_ref().as_str()?).ok();
        if instant(changed).zip(instant(&fields)).is_some_and(|(now, before)| now <= before) {
            return Err((must_rise(date), step.span()));
        }
        for (key, value) in changed {
            // Taken out first: the place of a field is that of its name.
            fields.remove(key.get_ref().as_ref());
            fields.insert(key.clone(), value.clone());
        }
        versions.push(Spanned::new(step.span(), DeValue::Table(fields.clone())));
    }
    Ok(versions)
}

/// Fields that a step does not have: they are of the resource around it.
const OF_RESOURCE: [&str; 2] = ["id", RAMPS];

fn must_be_steps(date: &str) -> String {
    format!("`ramps` is a list of steps, such as {{ {date} = \"2027-01-01T00:00:00Z\", … }}")
}

fn must_be_dated(date: &str) -> String {
    format!("a step of `ramps` says from when on it holds: it needs `{date}`")
}

fn must_be_of_step(field: &str) -> String {
    format!("a step of `ramps` has no `{field}`: it is of the resource around it")
}

fn must_rise(date: &str) -> String {
    format!("steps of `ramps` follow each other: `{date}` rises from one to the next")
}

/// The bodies that a JSON body with `ramps` stands for, in order; without them, the body.
///
/// # Errors
/// [`Rule::RampMustHold`].
pub fn versions_of_json(kind: ResourceKind, id: &str, mut body: Value) -> Result<Vec<Value>, CatalogStatus> {
    let Some(date) = date_of(kind) else { return Ok(vec![body]) };
    let ramps = body.as_object_mut().and_then(|fields| fields.remove(RAMPS).zip(Some(fields.clone())));
    let Some((ramps, mut fields)) = ramps else { return Ok(vec![body]) };
    let refuse = |what| CatalogStatus { kind, id: id.to_string(), rule: Rule::RampMustHold(what) };
    let steps = ramps.as_array().ok_or_else(|| refuse(must_be_steps(date)))?;
    let mut versions = vec![body];
    for step in steps {
        let changed = step.as_object().filter(|changed| changed.contains_key(date));
        let changed = changed.ok_or_else(|| refuse(must_be_dated(date)))?;
        if let Some(field) = OF_RESOURCE.into_iter().find(|field| changed.contains_key(*field)) {
            return Err(refuse(must_be_of_step(field)));
        }
        // What cannot be read is said where it is read.
        let instant = |fields: &Map<String, Value>| Timestamp::parse(fields.get(date)?.as_str()?).ok();
        if instant(changed).zip(instant(&fields)).is_some_and(|(now, before)| now <= before) {
            return Err(refuse(must_rise(date)));
        }
        fields.extend(changed.clone());
        versions.push(Value::Object(fields.clone()));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogFile, check_file};

    const BASE: &str = "catalog = 1
[[entity]]
id = \"inc\"
currency = \"USD\"
time_zone = \"UTC\"
[[account]]
id = \"acme\"
name = \"A\"
entity = \"inc\"
currency = \"USD\"
time_zone = \"UTC\"
[[meter]]
id = \"calls\"
event_type = \"call\"
aggregation = \"count\"
[[plan]]
id = \"pro\"
currency = \"USD\"
";
    const PRICE: &str = "[[price]]
id = \"p\"
plan = \"pro\"
meter = \"calls\"
model = \"per_unit\"
window = \"month\"
";
    const SUBSCRIPTION: &str = "[[subscription]]
id = \"s\"
account = \"acme\"
plan = \"pro\"
until = \"2029-01-01T00:00:00Z\"
";
    const COMMITMENT: &str = "[[commitment]]
id = \"c\"
account = \"acme\"
shape = \"none\"
from = \"2026-01-01T00:00:00Z\"
until = \"2029-01-01T00:00:00Z\"
";

    /// Fields of a resource, in a line.
    fn with(resource: &str, fields: &str) -> String {
        format!("{resource}{}\n", fields.replace("; ", "\n"))
    }

    #[test]
    fn a_ramp_is_the_versions_that_it_stands_for() {
        let dated = |year: i32| format!("effective_from = \"{year}-01-01T00:00:00Z\"");
        let (first, second) = (dated(2027), dated(2028));
        let short = [
            with(
                PRICE,
                &format!(
                    "unit_amount = \"3\"; minimum = \"10\"; ramps = [{{ {first}, unit_amount = \"2\" }}, {{ {second}, minimum = \"5\", included = \"7\" }}]"
                ),
            ),
            with(
                SUBSCRIPTION,
                "from = \"2026-01-01T00:00:00Z\"; seats = \"5\"; ramps = [{ from = \"2026-07-01T00:00:00Z\", seats = \"9\" }]",
            ),
            with(COMMITMENT, &format!("amount = \"100\"; ramps = [{{ {first}, amount = \"200\" }}]")),
            with(PRICE, "unit_amount = \"1\"").replace("\"p\"", "\"q\""),
        ];
        let long = [
            with(PRICE, "unit_amount = \"3\"; minimum = \"10\""),
            with(PRICE, &format!("unit_amount = \"2\"; minimum = \"10\"; {first}")),
            with(PRICE, &format!("unit_amount = \"2\"; minimum = \"5\"; included = \"7\"; {second}")),
            with(SUBSCRIPTION, "from = \"2026-01-01T00:00:00Z\"; seats = \"5\""),
            with(SUBSCRIPTION, "from = \"2026-07-01T00:00:00Z\"; seats = \"9\""),
            with(COMMITMENT, "amount = \"100\""),
            with(COMMITMENT, &format!("amount = \"200\"; {first}")),
            with(PRICE, "unit_amount = \"1\"").replace("\"p\"", "\"q\""),
        ];
        let read = |parts: &[String]| {
            let text = format!("{BASE}{}", parts.concat());
            let report = check_file(&text);
            assert_eq!(report.findings, [], "{text}");
            (
                CatalogFile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).resources(),
                report.resource_count,
            )
        };
        assert_eq!(read(&short), read(&long));
        // A body that is put says the same.
        let json = |text: &String| {
            let file: toml::Table = text.parse().unwrap();
            let (kind, list) = file.into_iter().next().unwrap();
            let kind = ResourceKind::ALL.into_iter().find(|known| known.singular() == kind).unwrap();
            (kind, serde_json::to_value(&list[0]).unwrap())
        };
        let put = short.iter().map(json).flat_map(|(kind, body)| {
            let versions = versions_of_json(kind, "x", body).unwrap();
            versions.into_iter().map(move |body| (kind, body)).collect::<Vec<_>>()
        });
        assert_eq!(put.collect::<Vec<_>>(), long.iter().map(json).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_wrong_with_a_ramp_is_said_once_and_at_its_place() {
        let dated = "effective_from = \"2027-01-01T00:00:00Z\"";
        for (fields, name, marked) in [
            ("ramps = 3".to_string(), "ramp_must_hold", "3"),
            ("ramps = [5]".to_string(), "ramp_must_hold", "5"),
            ("ramps = [{ minimum = \"5\" }]".to_string(), "ramp_must_hold", "{ minimum = \"5\" }"),
            (format!("ramps = [{{ {dated}, id = \"x\" }}]"), "ramp_must_hold", "id"),
            (
                format!("ramps = [{{ {dated} }}, {{ {dated} }}]"),
                "ramp_must_hold",
                "{ effective_from = \"2027-01-01T00:00:00Z\" }",
            ),
            (
                format!("{dated}; ramps = [{{ {dated} }}]"),
                "ramp_must_hold",
                "{ effective_from = \"2027-01-01T00:00:00Z\" }",
            ),
            (format!("ramps = [{{ {dated}, unit_amount = 2 }}]"), "body_must_be_readable", "2"),
            (format!("ramps = [{{ {dated}, unit_amout = \"2\" }}]"), "body_must_be_readable", "unit_amout"),
            (format!("ramps = [{{ {dated}, meter = \"none\" }}]"), "reference_must_exist", "\"none\""),
            (format!("ramps = [{{ {dated}, per = 7 }}]"), "per_must_be_power_of_ten", "7"),
            // Of the resource around it, and so of every step.
            (format!("per = 7; ramps = [{{ {dated} }}]"), "per_must_be_power_of_ten", "7"),
            (
                format!("ramps = [{{ {dated}, convert = {{ multiply = \"2\" }} }}]"),
                "must_not_change",
                "{ multiply = \"2\" }",
            ),
        ] {
            let text = format!("{BASE}{}", with(PRICE, &format!("unit_amount = \"3\"; {fields}")));
            if name == "ramp_must_hold" {
                let file: toml::Table = text.parse().unwrap();
                let body = serde_json::to_value(&file["price"][0]).unwrap();
                let refused = versions_of_json(ResourceKind::Prices, "p", body).unwrap_err();
                let said = check_file(&text).findings[0].what.clone();
                assert!(said.contains(&refused.rule.to_string()), "{said}: {refused}");
            }
            let mistakes = check_file(&text).findings;
            let mistakes: Vec<_> =
                mistakes.iter().map(|found| (found.name, &text[found.span.clone()])).collect();
            assert_eq!(mistakes, [(name, marked)], "{fields}");
            assert!(
                name == "must_not_change"
                    || name == "reference_must_exist"
                    || name == "per_must_be_power_of_ten"
                    || CatalogFile::parse(&text).is_err_and(|error| error.line.is_some()),
                "{fields}"
            );
        }
        // Other kinds have none.
        let text = BASE.replace("name = \"A\"", "name = \"A\"\nramps = []");
        assert_eq!(check_file(&text).findings[0].name, "body_must_be_readable");
    }
}
