//! Verification: cut, pull the charges of a run, and compare them with what was sent, to the last digit.
//!
//! Owns: reading charge batches and counters. Leaves to others: what the charges must be (`oracle`).
//!
//! Invariants: every month of every account is compared, those that were charged and not sent included; so are the counts
//! of events.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use domain::Decimal;
use serde_json::Value;

use crate::api::Api;
use crate::oracle::{Key, Told};

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) rows: usize,
    pub(crate) differences: Vec<String>,
    pub(crate) charged: String,
}

/// The last sealed batch.
pub(crate) async fn last_batch(api: &Api) -> Result<u64> {
    let ready: Value = serde_json::from_str(&api.get("/readyz").await?)?;
    ready["sealed_batches"].as_u64().context("the server says how many batches it sealed")
}

/// Cuts, pulls the charges of this run, and compares.
pub(crate) async fn verify(api: &Api, run: &str, first_batch: u64, told: &Told) -> Result<Verified> {
    let cut = api.post("/v1/cuts", String::new()).await?;
    if cut["failures"].as_array().is_some_and(|failures| !failures.is_empty()) {
        bail!("charges could not be computed: {}", cut["failures"]);
    }
    let mut differences = counts_differ(&api.get("/v1/counters").await?, run, told.events)?;
    let batches = api.get(&format!("/v1/charge-batches?after={first_batch}")).await?;
    let found = charges_of(&batches, run)?;
    let expected = told.expected();
    differences.extend(charges_differ(&expected, &found));
    let cents: i128 = found.values().map(|(_, cents)| cents).sum();
    Ok(Verified { rows: expected.len(), differences, charged: dollars(cents) })
}

/// Cents as people write them, always with two digits behind the point.
fn dollars(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let (whole, part) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    format!("USD {sign}{whole}.{part:02}")
}

/// Whether the server counted as many events as were distinct.
fn counts_differ(counters: &str, run: &str, distinct: u64) -> Result<Vec<String>> {
    let counters: Value = serde_json::from_str(counters)?;
    let accepted = counters["sources"][run]["accepted"].as_u64().unwrap_or(0);
    let differs = accepted != distinct;
    Ok(differs
        .then(|| format!("events: sent {distinct} different ones, accepted {accepted}"))
        .into_iter()
        .collect())
}

/// Hundredths of units and cents, per account and month, summed over all lines of this run.
fn charges_of(batches: &str, run: &str) -> Result<BTreeMap<Key, (i128, i128)>> {
    let mut found: BTreeMap<Key, (i128, i128)> = BTreeMap::new();
    for text in batches.lines() {
        let line: Value = serde_json::from_str(text)?;
        let Some(charge) = line.get("charge") else { continue };
        let text = |field: &str| charge[field].as_str().unwrap_or_default();
        let of_run = text("account").strip_prefix(run).and_then(|rest| rest.strip_prefix('-'));
        let Some(account) = of_run else { continue };
        let month = charge["window"]["from"].as_str().and_then(|from| from.get(..7)).unwrap_or_default();
        let hundredths = |field: &str| -> Result<i128> {
            let number = Decimal::parse(text(field))?;
            number.mantissa_at(2).with_context(|| format!("{field} has more than two fraction digits"))
        };
        let sum = found.entry((account.parse()?, month.to_string())).or_default();
        sum.0 += hundredths("quantity_after")? - hundredths("quantity_before")?;
        sum.1 += hundredths("rounded")?;
    }
    Ok(found)
}

fn charges_differ(
    expected: &BTreeMap<Key, (i128, i128)>,
    found: &BTreeMap<Key, (i128, i128)>,
) -> Vec<String> {
    let all = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
    let differing = all.filter_map(|key| {
        let sent = expected.get(key).copied().unwrap_or_default();
        let charged = found.get(key).copied().unwrap_or_default();
        (sent != charged).then(|| {
            format!(
                "account {} month {}: sent {sent:?}, charged {charged:?} (hundredths, cents)",
                key.0, key.1
            )
        })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"batch":1}
{"charge":{"account":"r-000001","quantity_before":"0","quantity_after":"1.25","rounded":"0.02","window":{"from":"2026-01-01T00:00:00Z"}}}
{"charge":{"account":"r-000001","quantity_before":"1.25","quantity_after":"2","rounded":"0.01","window":{"from":"2026-01-01T00:00:00Z"}}}
{"charge":{"account":"r-000002","quantity_before":"0","quantity_after":"0.40","rounded":"0.01","window":{"from":"2026-02-01T00:00:00Z"}}}
{"charge":{"account":"r2-000001","quantity_before":"0","quantity_after":"9","rounded":"0.11","window":{"from":"2026-02-01T00:00:00Z"}}}
"#;

    fn check(expected: &[(u32, &str, i128, i128)], differing: &[&str]) {
        let expected: BTreeMap<Key, (i128, i128)> = expected
            .iter()
            .map(|(account, month, sum, cents)| ((*account, month.to_string()), (*sum, *cents)))
            .collect();
        let differences = charges_differ(&expected, &charges_of(LINES, "r").unwrap());
        assert_eq!(differences.len(), differing.len(), "{differences:?}");
        for (difference, start) in differences.iter().zip(differing) {
            assert!(difference.starts_with(start), "{difference}");
        }
    }

    #[test]
    fn every_digit_of_every_month_is_compared() {
        let right = [(1, "2026-01", 200, 3), (2, "2026-02", 40, 1)];
        check(&right, &[]);
        check(&[(1, "2026-01", 200, 2), right[1]], &["account 1 month 2026-01"]);
        check(&[(1, "2026-01", 201, 3), right[1]], &["account 1 month 2026-01"]);
        check(&right[..1], &["account 2 month 2026-02"]);
        check(&[right[0], right[1], (3, "2026-01", 1, 0)], &["account 3 month 2026-01"]);
        check(&[right[0], (2, "2026-01", 40, 1)], &["account 2 month 2026-01", "account 2 month 2026-02"]);
    }

    #[test]
    fn cents_have_two_digits() {
        for (cents, expected) in
            [(11_011_920, "USD 110119.20"), (0, "USD 0.00"), (5, "USD 0.05"), (-107, "USD -1.07")]
        {
            assert_eq!(dollars(cents), expected);
        }
    }

    #[test]
    fn events_that_the_server_did_not_count_are_a_difference() {
        let counters = r#"{"sources":{"r":{"accepted":5,"duplicate":2}}}"#;
        assert_eq!(counts_differ(counters, "r", 5).unwrap().len(), 0);
        assert_eq!(counts_differ(counters, "r", 6).unwrap().len(), 1);
        assert_eq!(counts_differ(counters, "other", 1).unwrap().len(), 1);
    }
}
