//! The cases of `tests/vectors` as a test: what the runner gives is what they expect.
//!
//! Owns: how values are compared, and the numbers that are ours where a peer's are not. Leaves to others: the cases.
//!
//! Numbers compare by value, at full precision; `a/b` is an exact fraction, and a decimal of 12 or more decimals is right
//! to its last. Lists compare by position, objects by the keys that are expected. What only describes a peer
//! (`peer_*`, `by_peer`, `alternatives`, `source_table`, `*_if_*`) is not compared, and of an error's text only that there
//! is one.

use domain::{Exact, Rounding};
use serde_json::{Value, json};

use crate::families::answer;
use crate::json::{Fields, cases};

const RATING: &str = include_str!("../../../../tests/vectors/rating.json");
const METERING: &str = include_str!("../../../../tests/vectors/metering.json");
const OWN: &str = include_str!("../../../../tests/vectors/own.json");

/// Kinds of metering that are a peer's wire, or contrast it with others.
const UNSUPPORTED: &[&str] =
    &["aggregate_clamp", "credit_burndown_latest", "csv", "dedup_matrix", "ingest_http", "ingest_http_sum"];

/// What is right where a peer's number is not.
fn canonical(id: &str) -> Option<Value> {
    Some(match id {
        // Zero usage owes the first tier's flat amount.
        "mt-grad-04" => json!({"amount": "10"}),
        // An upper bound belongs to its tier.
        "azure-grad-01" => json!({"amount": "245"}),
        "mt-vol-02" => json!({"amount": "100"}),
        "gr-vol-02" => json!({"amount": "5000", "unit": "minor"}),
        // Nothing lies between two tiers.
        "mt-vol-03" => json!({"amount": "99.5"}),
        // Bounds are continuous, also where adjacent and integer pairs are mixed.
        "lago-grad-18" => json!({"amount": "6.9"}),
        // The line is rounded, not each tier.
        "om-grad-12" => json!({"amount": "0.01"}),
        // The cumulative quantity is rounded, not each split of it.
        "om-uc-02" => json!({"amount": "10", "billed_units": "1"}),
        // 2^53 + 1 units, which no float has.
        "lago-pkg-09" => json!({"amount": "9007199254740993"}),
        // A rate and the units beyond an allowance are not rounded.
        "mt-cap-01" => json!({"amount": "4"}),
        "mt-cap-02" => json!({"amount": "15"}),
        "mt-cap-03" => json!({"amount": "1.90"}),
        // An event that uses up the free amount exactly owes nothing.
        "lago-pct-27" => json!({"amount": "5.10"}),
        // Three events are free by count, the fourth owes the fixed fee.
        "lago-pct-09" => json!({"amount": "2"}),
        // An event is free while both limits have room, with bounds per event too.
        "lago-pct-28" => json!({"amount": "3.50"}),
        // A period without length is worth nothing.
        "om-pror-05" => json!({"amount": "0"}),
        // The last tier is open.
        "kb-ovf-01" => json!({"amount": "40"}),
        // No increment is rounded alone.
        "cg-11" => json!({"amount": "0.3"}),
        // A negative aggregate keeps its sign.
        "lago-neg-01" => json!({"amount": "-30"}),
        // An end exactly at the end of the range counts.
        "OM-BURN-14" => json!({"balances": {"g1": "0"}, "overage": "0"}),
        // Usage before a grant is not covered by it.
        "OM-BURN-04" => json!({"balances": {"g1": "75"}, "overage": "25", "segments": 2}),
        // A range is half-open to the nanosecond, and no minute or second is cut off.
        "OM-WIN-06" => json!({"value": "6", "count": "6"}),
        "OM-WIN-07" => json!({"value": "4", "count": "4"}),
        // Microseconds are kept.
        "LG-TIME-05" => json!({"time": "2025-03-03T13:03:29.000001Z"}),
        _ => return None,
    })
}

#[test]
fn the_cases_of_rating_are_computed_as_expected() {
    assert_eq!(check(RATING), 422);
}

#[test]
fn the_cases_of_metering_are_computed_as_expected_or_named_as_open() {
    assert_eq!(check(METERING), 102);
}

#[test]
fn our_own_cases_are_computed_as_expected() {
    assert_eq!(check(OWN), 112);
}

#[test]
fn values_compare_by_the_rules_of_the_cases() {
    let equal = |expected: Value, found: Value| differences(&expected, &found).is_empty();
    for (expected, found) in [
        (json!("1.50"), json!("1.5")),
        (json!(2), json!("2")),
        (json!("2/4"), json!("0.5")),
        (json!("0.666666666667"), json!("2/3")),
        (json!("0.666666666666"), json!("2/3")),
        (
            json!({"a": "1", "by_peer": 7, "total_if_x": "3", "error_contains": "no"}),
            json!({"a": "1", "b": "2",
            "error_contains": "another text"}),
        ),
        (json!([null, true, "text"]), json!([null, true, "text"])),
    ] {
        assert!(equal(expected.clone(), found.clone()), "{expected} {found}");
    }
    for (expected, found) in [
        (json!("0.6667"), json!("2/3")),
        (json!("1"), json!("1.01")),
        (json!(["1", "2"]), json!(["2", "1"])),
        (json!(["1"]), json!(["1", "2"])),
        (json!({"a": "1"}), json!({})),
        (json!({"error": true}), json!({"amount": "1"})),
        (json!({"error_contains": "no"}), json!({"error_contains": null})),
        (json!(null), json!("0")),
    ] {
        assert!(!equal(expected.clone(), found.clone()), "{expected} {found}");
    }
}

/// Runs a file; gives the number of computed cases.
fn check(text: &str) -> usize {
    let expected: Value = serde_json::from_str(text).unwrap();
    let listed = expected.as_array().or_else(|| expected["vectors"].as_array()).unwrap();
    let cases = cases(text).unwrap();
    assert_eq!(cases.len(), listed.len());
    let mut wrong = Vec::new();
    let mut computed = 0;
    for (case, listed) in cases.iter().zip(listed) {
        match outcome(case, listed) {
            Ok(is_computed) => computed += usize::from(is_computed),
            Err(reason) => wrong.push(reason),
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    computed
}

/// Whether a case was computed, or how its answer differs.
fn outcome(case: &Fields, listed: &Value) -> Result<bool, String> {
    let answer = Value::Object(answer(case));
    let id = listed["id"].as_str().unwrap();
    if answer["status"] == "unsupported"
        && listed["kind"].as_str().is_some_and(|kind| UNSUPPORTED.contains(&kind))
    {
        return Ok(false);
    }
    if answer["status"] != "computed" {
        return Err(format!("{id}: {} {}", answer["status"], answer["reason"]));
    }
    let expected = canonical(id).unwrap_or_else(|| listed["expected"].clone());
    let differences = differences(&expected, &answer["values"]);
    if differences.is_empty() { Ok(true) } else { Err(format!("{id}: {}", differences.join("; "))) }
}

fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let is_equal = match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let compared = expected.iter().filter(|(key, _)| !is_ignored(key));
            let of = |(key, value): (&String, &Value)| {
                let found = found.get(key).unwrap_or(&Value::Bool(false));
                if key.ends_with("error_contains") {
                    let is_same = value.is_null() == found.is_null();
                    return if is_same { vec![] } else { vec![format!("{key}: {value} is {found}")] };
                }
                differences(value, found).into_iter().map(|text| format!("{key}: {text}")).collect()
            };
            return compared.flat_map(of).collect();
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            return expected.iter().zip(found).flat_map(|(a, b)| differences(a, b)).collect();
        }
        _ => match (number(expected), number(found)) {
            (Some(expected), Some(found)) => is_same(&expected, found),
            _ => expected == found,
        },
    };
    if is_equal { vec![] } else { vec![format!("{expected} is {found}")] }
}

fn is_ignored(key: &str) -> bool {
    key.starts_with("peer_")
        || ["by_peer", "alternatives", "source_table"].contains(&key)
        || key.contains("_if_")
}

/// A number with the decimals that it was written with.
fn number(value: &Value) -> Option<(Exact, i32)> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let decimals = text.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    match text.split_once('/') {
        None => Some((Exact::parse(&text)?, decimals)),
        Some((numerator, denominator)) => {
            Some((Exact::parse(numerator)?.divide(Exact::parse(denominator)?).ok()?, 0))
        }
    }
}

/// A decimal of many decimals stands for a value that does not end, cut or rounded.
fn is_same((expected, decimals): &(Exact, i32), (found, _): (Exact, i32)) -> bool {
    let at = |rounding| found.round(rounding, *decimals) == Ok(*expected);
    let stands_for_more = *decimals >= 12 && !found.is_decimal();
    *expected == found
        || (stands_for_more && [Rounding::HalfAway, Rounding::Floor, Rounding::Ceiling].into_iter().any(at))
}
