//! Ramps: versions of a resource that a catalog file writes in short.
//!
//! Owns: writing them out. A resource with `ramps` is itself, and for each step once more, as the step before it with the fields that
//! the step gives. Leaves to others: reading resources and their rules (`file`, `check`).
//!
//! Invariants: a file with ramps is the file in which every step is written out; nothing behind the file knows of them. Every
//! value keeps its place in the text.

use std::ops::Range;

use domain::Timestamp;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::resource::ResourceKind;

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
        let what = format!("`ramps` is a list of steps, such as {{ {date} = \"2027-01-01T00:00:00Z\", … }}");
        return Err((what, ramps.span()));
    };
    let mut fields = fields.clone();
    let mut versions = Vec::new();
    for step in steps.iter() {
        let changed = step.get_ref().as_table().filter(|changed| changed.contains_key(date));
        let Some(changed) = changed else {
            return Err((
                format!("a step of `ramps` says from when on it holds: it needs `{date}`"),
                step.span(),
            ));
        };
        if let Some((key, _)) =
            changed.iter().find(|(key, _)| ["id", RAMPS].contains(&key.get_ref().as_ref()))
        {
            return Err((
                format!("a step of `ramps` has no `{}`: it is of the resource around it", key.get_ref()),
                key.span(),
            ));
        }
        // What cannot be read is said where it is read.
        let instant = |fields: &DeTable<'i>| Timestamp::parse(fields.get(date)?.get_ref().as_str()?).ok();
        if instant(changed).zip(instant(&fields)).is_some_and(|(now, before)| now <= before) {
            return Err((
                format!("steps of `ramps` follow each other: `{date}` rises from one to the next"),
                step.span(),
            ));
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

#[cfg(test)]
mod tests {
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
