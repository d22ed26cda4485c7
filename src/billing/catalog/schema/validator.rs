//! As much of JSON Schema as `schemas/catalog.schema.json` uses.
//!
//! Owns: what a value breaks. Leaves to others: the whole of the standard; a test against a real validator is in
//! `tests/real`.
//!
//! Invariants: a keyword that is not known here fails the test, so that none is passed over in silence.

use domain::{Currency, Decimal, EntityId, PlanId, Timestamp};
use serde_json::Value;

/// Everything that a value breaks, each with its path.
pub(super) fn breaches(root: &Value, node: &Value, value: &Value, path: &str) -> Vec<String> {
    let node = match node {
        Value::Bool(true) => return Vec::new(),
        Value::Bool(false) => return vec![format!("{path} must not be there")],
        Value::Object(node) => node,
        other => panic!("{other} is no schema"),
    };
    let mut found = Vec::new();
    for (keyword, rule) in node {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "examples" => true,
            // Decided where `if` and `properties` are.
            "then" | "else" | "additionalProperties"
                if node.contains_key("if") || keyword == "additionalProperties" =>
            {
                true
            }
            "$ref" => {
                found.extend(breaches(root, referred(root, rule), value, path));
                true
            }
            "type" => type_of(value).contains(&rule.as_str().expect("one type")),
            "const" => value == rule,
            "enum" => items(rule).contains(value),
            "pattern" => value.as_str().is_none_or(|text| fits(rule.as_str().expect("a pattern"), text)),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= number(rule)),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= number(rule)),
            "minimum" => value.as_i64().is_none_or(|n| i128::from(n) >= i128::from(number(rule))),
            "maximum" => value.as_i64().is_none_or(|n| i128::from(n) <= i128::from(number(rule))),
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= number(rule)),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= number(rule)),
            "uniqueItems" => value
                .as_array()
                .is_none_or(|list| list.iter().enumerate().all(|(at, item)| !list[..at].contains(item))),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(breaches(root, rule, item, &format!("{path}/{index}")));
                }
                true
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    let schema = rule.get(name).or(node.get("additionalProperties"));
                    if let Some(schema) = schema {
                        found.extend(breaches(root, schema, inner, &format!("{path}/{name}")));
                    }
                }
                true
            }
            "required" => value.as_object().is_none_or(|fields| {
                items(rule).iter().all(|name| fields.contains_key(name.as_str().expect("a name")))
            }),
            "dependentRequired" => value.as_object().is_none_or(|fields| {
                let rules = rule.as_object().expect("lists by name");
                rules.iter().filter(|(name, _)| fields.contains_key(*name)).all(|(_, others)| {
                    items(others).iter().all(|name| fields.contains_key(name.as_str().expect("a name")))
                })
            }),
            "oneOf" => {
                items(rule).iter().filter(|one| breaches(root, one, value, path).is_empty()).count() == 1
            }
            "allOf" => {
                for one in items(rule) {
                    found.extend(breaches(root, one, value, path));
                }
                true
            }
            "if" => {
                let is_so = breaches(root, rule, value, path).is_empty();
                if let Some(then) = node.get(if is_so { "then" } else { "else" }) {
                    found.extend(breaches(root, then, value, path));
                }
                true
            }
            other => panic!("the keyword {other} is not known to this validator"),
        };
        if !holds {
            found.push(format!("{path} breaks {keyword} {rule}"));
        }
    }
    // Without `properties`, every field is an additional one.
    if let (Some(schema), None, Some(fields)) =
        (node.get("additionalProperties"), node.get("properties"), value.as_object())
    {
        for (name, inner) in fields {
            found.extend(breaches(root, schema, inner, &format!("{path}/{name}")));
        }
    }
    found
}

/// What a reference stands for.
pub(super) fn referred<'a>(root: &'a Value, reference: &Value) -> &'a Value {
    let pointer =
        reference.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference into the schema");
    root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn items(list: &Value) -> &[Value] {
    list.as_array().expect("a list")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

fn type_of(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => &["integer", "number"],
        Value::String(_) => &["string"],
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    }
}

/// Whether a text fits a pattern: by the type that the pattern is written for.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern {
        "^[a-z0-9][a-z0-9._-]{0,63}$" => PlanId::new(text).is_ok(),
        "^[a-z0-9][a-z0-9._-]{0,23}$" => EntityId::new(text).is_ok(),
        "^-?[0-9]+(\\.[0-9]+)?$" => Decimal::parse(text).is_ok(),
        "^[A-Z]{3}$" => Currency::from_code(text).is_ok(),
        other if other.starts_with("^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]") => Timestamp::parse(text).is_ok(),
        other => panic!("the pattern {other} is not known to this validator"),
    }
}
