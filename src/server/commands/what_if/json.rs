//! A comparison as JSON, for programs: everything, amounts as text.
//!
//! Owns: the names of the fields; they are documented in `docs/reference/operations.md`.

use anyhow::Result;
use serde_json::{Value, json};

use super::comparison::{Amounts, Comparison};
use super::distribution::{bound_text, percent_text};

/// Version of the format.
const FORMAT: u32 = 1;

pub(super) fn write(comparison: &Comparison<'_>) -> Result<String> {
    let question = &comparison.question;
    let amounts = |currency: domain::Currency, amounts: Amounts| {
        json!({
            "currency": currency,
            "before": currency.format_minor(amounts.before),
            "after": currency.format_minor(amounts.before + amounts.difference),
            "difference": currency.format_minor(amounts.difference),
            "percent": percent(amounts),
        })
    };
    let with = |mut row: Value, fields: Value| {
        if let (Value::Object(row), Value::Object(fields)) = (&mut row, fields) {
            row.extend(fields);
        }
        row
    };
    let credits = |currency: domain::Currency, net: Amounts, drawn: Amounts| json!({ "charges": amounts(currency, net.with(drawn)), "credits": amounts(currency, drawn) });
    let totals = comparison.totals.iter().map(|(currency, net)| {
        let drawn = comparison.drawn.get(currency).copied().unwrap_or_default();
        with(amounts(*currency, *net), credits(*currency, *net, drawn))
    });
    let changes = comparison.changes.iter().map(|change| {
        json!({
            "kind": change.kind.as_str(), "id": change.id, "version": change.version,
            "before": change.before, "after": change.after,
        })
    });
    let accounts = comparison.accounts.iter().map(|row| {
        let fields = json!({ "account": row.id, "name": row.name, "lines": row.lines });
        with(with(amounts(row.currency, row.amounts), credits(row.currency, row.amounts, row.drawn)), fields)
    });
    let prices = comparison.prices.iter().map(|((currency, price), minor)| {
        json!({ "currency": currency, "price": price, "difference": currency.format_minor(*minor) })
    });
    let late = comparison.late.iter().map(|((currency, period), minor)| {
        json!({ "currency": currency, "period": period, "difference": currency.format_minor(*minor) })
    });
    let bound = |tenths: Option<i128>| tenths.map(|tenths| bound_text(tenths, true).replace(',', ""));
    let bins =
        comparison.distribution.bins.iter().map(
            |bin| json!({ "from": bound(bin.from), "until": bound(bin.until), "accounts": bin.accounts }),
        );
    let failures = |failures: &[machine::RatingFailure]| {
        let texts = failures.iter().map(|f| json!({ "account": f.account, "what": f.to_string() }));
        texts.collect::<Vec<Value>>()
    };
    let said = json!({
        "what_if": FORMAT,
        "catalog": question.catalog.display().to_string(),
        "data": question.data.display().to_string(),
        "at": question.at,
        "events": question.events,
        "period": question.period,
        "as_if_from": question.as_if_from,
        "changes": changes.collect::<Vec<Value>>(),
        "affected": {
            "accounts": comparison.affected.0, "subscriptions": comparison.affected.1,
            "lines": comparison.effect.lines.len(),
        },
        "totals": totals.collect::<Vec<Value>>(),
        "accounts": accounts.collect::<Vec<Value>>(),
        "prices": prices.collect::<Vec<Value>>(),
        "late": late.collect::<Vec<Value>>(),
        "distribution": {
            "bins": bins.collect::<Vec<Value>>(),
            "unchanged": comparison.distribution.unchanged,
            "from_nothing": comparison.distribution.from_nothing,
        },
        "periods": comparison.effect.periods,
        "notes": comparison.notes,
        "failures": failures(&comparison.effect.failures),
        "failures_before": failures(&comparison.effect.failures_before),
    });
    Ok(serde_json::to_string_pretty(&said)? + "\n")
}

fn percent(amounts: Amounts) -> Option<String> {
    Some(percent_text(amounts.before, amounts.difference)?.replace([',', '+'], ""))
}
