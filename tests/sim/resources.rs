//! Resources as people put them: kind, id and body.
//!
//! Owns: JSON of everything that a plan can put. Leaves to others: which ones are put (`generate`), what they cost (`prices`).

use billing::catalog::Catalog;
use domain::time::HOUR;
use domain::{Decimal, Timestamp};
use serde_json::{Value, json};

use crate::actions::{
    ACCOUNTS, DIMENSION, ENTITIES, GROUPS, MEASURED, RICH, Resource, SUBSCRIPTIONS, Setup, Terms, account_of,
};
use crate::prices::{Kind, PRICES, hour};

/// Body of an account with a name.
pub(crate) fn account(setup: &Setup, account: &str, name: &str) -> Value {
    let index = ACCOUNTS.iter().position(|known| *known == account).expect("an account of every world");
    let (entity, zone) = setup.accounts[index];
    let currency = setup.currency;
    json!({"name": name, "entity": ENTITIES[entity], "currency": currency, "time_zone": zone})
}

/// Kind, id and body of a resource.
pub(crate) fn body_of(
    setup: &Setup,
    catalog: &Catalog,
    resource: &Resource,
) -> Option<(String, String, Value)> {
    let put = |kind: &str, id: &str, body: Value| Some((kind.to_string(), id.to_string(), body));
    match resource {
        Resource::CountMeter => {
            let body = json!({"event_type": "call", "aggregation": "count", "group_by": [DIMENSION]});
            put("meters", "calls", body)
        }
        Resource::FilterMeter => {
            let body = json!({
                "event_type": "call", "aggregation": "count", "filter": {DIMENSION: GROUPS[1]},
            });
            put("meters", "small-calls", body)
        }
        Resource::MeasuredMeter(index) => {
            let meter = setup.measured.get(*index)?;
            let mut body: Value = serde_json::from_str(meter.measure).expect("fields of a meter");
            body["event_type"] = "call".into();
            body["negative_usage"] = setup.negative.text().into();
            body["filter"] = serde_json::from_str(meter.filter).expect("a filter");
            if meter.is_grouped {
                body["group_by"] = json!([DIMENSION]);
            }
            put("meters", MEASURED[*index], body)
        }
        Resource::Price(index, terms) => {
            let (id, plan, kind, meter) = PRICES[*index];
            put("prices", id, price_body(plan, kind, meter, setup.units[*index], terms))
        }
        Resource::RichPrice(number, factor) => {
            let (id, body) = rich_price(*number, *factor);
            put("prices", id, body)
        }
        Resource::Subscribe(subscription, plan, from, hours) => {
            let mut body = json!({"account": account_of(subscription), "plan": plan, "from": from});
            put_anchor(&mut body, setup, subscription);
            put_until(&mut body, hours.map(|hours| from.plus(hours * HOUR)));
            put("subscriptions", subscription, body)
        }
        Resource::End(subscription, until) => {
            let known = catalog.subscription(&domain::SubscriptionId::new(subscription).ok()?)?;
            let newest = known.spans().last()?.1.clone();
            let mut body = json!({
                "account": account_of(subscription), "plan": newest.plan.as_str(), "from": newest.from,
            });
            put_anchor(&mut body, setup, subscription);
            put_until(&mut body, Some(*until));
            put("subscriptions", subscription, body)
        }
        Resource::Amend(seats, has_discount, has_minimum, from) => {
            let mut body = json!({"account": RICH, "plan": "p2", "from": from});
            body["seats"] = seats.to_string().into();
            if *has_discount {
                body["discounts"] = json!([{"percent": "12.5"}]);
            }
            if *has_minimum {
                body["minimum"] = "7".into();
            }
            put("subscriptions", SUBSCRIPTIONS[4], body)
        }
        Resource::Bind(subject, subscription, from, hours) => {
            let mut body = json!({"subscription": subscription, "from": from});
            put_until(&mut body, hours.map(|hours| from.plus(hours * HOUR)));
            put("subjects", subject, body)
        }
        Resource::Rename(account, number) => put(
            "accounts",
            account,
            crate::resources::account(setup, account, &format!("{account} {number}")),
        ),
        Resource::Commit(number, amount, shape) => {
            let zone = domain::Zone::new(setup.accounts[3].1).ok()?;
            let month = |months: i64| zone.month(zone.period_of(hour(15 * 24 + months * 31 * 24))).from;
            let body = json!({
                "account": RICH, "shape": shape, "amount": amount.to_string(), "overage_factor": "1.25",
                "from": month(i64::from(*number)), "until": month(2 + i64::from(*number)),
            });
            put("commitments", &format!("commitment-{number}"), body)
        }
        Resource::Grant(number, amount, from, days, is_paid) => {
            let kind = if *is_paid { "paid" } else { "promotional" };
            let mut body = json!({"account": RICH, "kind": kind, "amount": amount.to_string(), "from": from});
            put_until(&mut body, days.map(|days| from.plus(days * 24 * HOUR)));
            put("grants", &format!("grant-{number}"), body)
        }
        Resource::Discount(is_percent, value, from, months) => {
            let zone = domain::Zone::new(setup.accounts[3].1).ok()?;
            let mut period = zone.period_of(*from);
            let mut body = json!({"account": RICH, "from": zone.month(period).from});
            let (kind, value) = if *is_percent { ("percent", value % 101) } else { ("amount", *value) };
            body[kind] = value.to_string().into();
            for _ in 0..months.unwrap_or(0) {
                period = period.next();
            }
            put_until(&mut body, months.map(|_| zone.month(period).from));
            put("discounts", &format!("discount-{kind}"), body)
        }
        Resource::Nonsense(0) => put("prices", "p0-tokens", json!({"plan": "none"})),
        Resource::Nonsense(1) => put("planets", "mars", json!({})),
        Resource::Nonsense(_) => put("subjects", "k0", json!({"subscription": "none", "from": hour(0)})),
    }
}

fn put_anchor(body: &mut Value, setup: &Setup, subscription: &str) {
    let index = SUBSCRIPTIONS.iter().position(|known| *known == subscription);
    if let Some(anchor) = index.and_then(|index| setup.anchors[index]) {
        body["anchor"] = anchor.to_string().into();
    }
}

fn put_until(body: &mut Value, until: Option<Timestamp>) {
    if let Some(until) = until {
        body["until"] = until.to_string().into();
    }
}

fn price_body(plan: &str, kind: Kind, meter: Option<&str>, unit: &str, terms: &Terms) -> Value {
    let amount = |unit: i64| Decimal::new(i128::from(unit), 4).expect("digits").to_string();
    let mut body = json!({"plan": plan, "window": unit});
    if kind == Kind::Graduated {
        body["model"] = "graduated".into();
        let tiers = terms.tiers.iter().map(|tier| {
            let flat = Decimal::new(i128::from(tier.flat), 2).expect("digits").to_string();
            let mut body = json!({"unit_amount": amount(tier.unit), "flat_amount": flat});
            if let Some(halves) = tier.up_to {
                let up_to = Decimal::new(i128::from(halves) * 5, 1).expect("digits");
                body["up_to"] = up_to.to_string().into();
            }
            body
        });
        body["tiers"] = tiers.collect();
        if let Some(flat_at_zero) = terms.flat_at_zero {
            body["flat_at_zero"] = flat_at_zero.into();
        }
    } else {
        body["model"] = if kind == Kind::Flat { "flat" } else { "per_unit" }.into();
        body["unit_amount"] = amount(terms.tiers[0].unit).into();
    }
    if let Some(meter) = meter {
        body["meter"] = meter.into();
        body["per"] = terms.per.into();
    }
    if let Some(from) = terms.from {
        body["effective_from"] = from.to_string().into();
    }
    body
}

/// Number of the price that is of single events.
pub(crate) const MEDIAN: u8 = 2;

/// Prices of models that the auditor does not price.
pub(crate) fn rich_price(number: u8, factor: i64) -> (&'static str, Value) {
    let amount = |cents: i64| Decimal::new(i128::from(cents * factor), 3).expect("digits").to_string();
    match number {
        0 => (
            "p2-tokens",
            json!({
                "plan": "p2", "window": "month", "model": "volume", "meter": "tokens",
                "tiers": [{"up_to": "100.5", "unit_amount": amount(17)}, {"unit_amount": amount(4)}],
            }),
        ),
        1 => (
            "p2-packages",
            json!({
                "plan": "p2", "window": "month", "model": "package", "meter": "tokens",
                "unit_amount": amount(900), "package_size": "25",
            }),
        ),
        MEDIAN => (
            "p2-median",
            json!({
                "plan": "p2", "window": "month", "model": "per_unit", "meter": "median",
                "unit_amount": amount(70),
            }),
        ),
        _ => (
            "p2-fee",
            json!({
                "plan": "p2", "window": "month", "model": "flat", "unit_amount": amount(9_000),
                "payment": "in_advance", "proration": "seconds",
            }),
        ),
    }
}
