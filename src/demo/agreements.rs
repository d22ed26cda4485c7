//! Three accounts with agreements: a commitment with a monthly true-up, a prepaid wallet, and an upgrade inside a month.
//!
//! Owns: their catalog, their usage, what schoolbook arithmetic says that they owe. Leaves to others: how that is computed
//! and explained (`billing::rating`).

use anyhow::{Context, Result};
use billing::charges::ChargeLine;
use domain::{Period, Timestamp};
use serde_json::{Value, json};
use tallymark_client::{BatchBuilder, Client, IdMode};

use crate::api::Api;
use crate::grouped;
use crate::proofs::Proofs;

/// Source of their events.
pub(crate) const AGENT_SOURCE: &str = "agent-gateway";
/// The month of an agreement's usage: its day of the quarter, and the steps of each account.
const MONTHS: [(&str, usize, i64, i64); 3] =
    [("2026-01", 9, 175_000, 55_000), ("2026-02", 40, 237_500, 47_500), ("2026-03", 68, 150_000, 32_500)];
/// Events that a month's steps come in.
const EVENTS: i64 = 5;
/// 14 February: the day of the quarter on which Larch Studio upgrades.
const UPGRADE_DAY: usize = 44;
/// Midnight of 14 February in New York.
const UPGRADE_AT: &str = "2026-02-14T05:00:00Z";

/// An account with an agreement.
pub(crate) struct Agreement {
    pub(crate) account: &'static str,
    pub(crate) name: &'static str,
    pub(crate) terms: &'static str,
    /// What its bill of each month must be, in cents.
    bills: [i128; 3],
}

/// The accounts, and what schoolbook arithmetic says that they owe.
pub(crate) const AGREEMENTS: [Agreement; 3] = [
    // 8,000 a month, counted cumulatively. It uses 7,000, 9,500 and 6,000: a shortfall of 1,000, which February uses up,
    // and one of 1,500 in March.
    Agreement {
        account: "beacon-freight",
        name: "Beacon Freight",
        terms: "commits to 96,000 a year, trued up every month",
        bills: [800_000, 850_000, 750_000],
    },
    // It uses 2,200, 1,900 and 1,300: 400 of March are left to pay.
    Agreement {
        account: "kestrel-labs",
        name: "Kestrel Labs",
        terms: "prepaid a wallet of 5,000",
        bills: [0, 0, 40_000],
    },
    // 13 of 28 days at 300 are 139.29, and 15 of 28 at 900 are 482.14.
    Agreement {
        account: "larch-studio",
        name: "Larch Studio",
        terms: "pays 300 a month in advance, and from 14 February on 900",
        bills: [30_000, 62_143, 90_000],
    },
];

/// The part of the catalog that the agreements need.
pub(crate) const CATALOG: &str = r#"
# Agents are sold by the step, to accounts with agreements of their own.
[[meter]]
id = "agent-steps"
event_type = "agent.step"
aggregation = "sum"
value = "steps"

[[plan]]
id = "agents"
currency = "USD"

[[plan]]
id = "studio-team"
currency = "USD"

[[plan]]
id = "studio-business"
currency = "USD"

[[price]]
id = "agent-steps"
plan = "agents"
meter = "agent-steps"
model = "per_unit"
unit_amount = "0.04"
window = "month"

[[price]]
id = "studio-team"
plan = "studio-team"
model = "flat"
unit_amount = "300"
payment = "in_advance"
proration = "days"
window = "month"

[[price]]
id = "studio-business"
plan = "studio-business"
model = "flat"
unit_amount = "900"
payment = "in_advance"
proration = "days"
window = "month"

[[account]]
id = "beacon-freight"
name = "Beacon Freight"
entity = "lumen-inc"
currency = "USD"
time_zone = "America/New_York"

[[account]]
id = "kestrel-labs"
name = "Kestrel Labs"
entity = "lumen-inc"
currency = "USD"
time_zone = "America/New_York"

[[account]]
id = "larch-studio"
name = "Larch Studio"
entity = "lumen-inc"
currency = "USD"
time_zone = "America/New_York"

[[subscription]]
id = "beacon-freight"
account = "beacon-freight"
plan = "agents"
from = "2026-01-01T05:00:00Z"

[[subscription]]
id = "kestrel-labs"
account = "kestrel-labs"
plan = "agents"
from = "2026-01-01T05:00:00Z"

[[subscription]]
id = "larch-studio"
account = "larch-studio"
plan = "studio-team"
from = "2026-01-01T05:00:00Z"

[[subject]]
id = "agents-of-beacon-freight"
subscription = "beacon-freight"
from = "2026-01-01T05:00:00Z"

[[subject]]
id = "agents-of-kestrel-labs"
subscription = "kestrel-labs"
from = "2026-01-01T05:00:00Z"

[[commitment]]
id = "annual-2026"
account = "beacon-freight"
shape = "cumulative"
amount = "96000"
from = "2026-01-01T05:00:00Z"
until = "2027-01-01T05:00:00Z"

[[grant]]
id = "wallet"
account = "kestrel-labs"
kind = "paid"
amount = "5000"
from = "2026-01-01T05:00:00Z"
"#;

/// Whether a charge belongs to one of the accounts with agreements.
pub(crate) fn is_agreed(line: &ChargeLine) -> bool {
    AGREEMENTS.iter().any(|agreement| line.account.as_str() == agreement.account)
}

/// What happens to the accounts with agreements on a day of the quarter.
pub(crate) async fn on_day(day: usize, now: Timestamp, client: &Client, api: &Api) -> Result<()> {
    if day == UPGRADE_DAY {
        let body = json!({ "account": "larch-studio", "plan": "studio-business", "from": UPGRADE_AT });
        api.put("/v1/subscriptions/larch-studio", &body).await?;
    }
    let Some((month, _, committed, prepaid)) = MONTHS.iter().find(|(_, of, _, _)| *of == day) else {
        return Ok(());
    };
    let mut builder = BatchBuilder::new(AGENT_SOURCE, "agent.step", IdMode::Given);
    for (subject, steps) in [("agents-of-beacon-freight", committed), ("agents-of-kestrel-labs", prepaid)] {
        for number in 0..EVENTS {
            let id = format!("{month}-{subject}-{number}");
            let values = [("steps", i128::from(steps / EVENTS), 0)];
            let time = now.plus(-(number + 1) * domain::time::HOUR).nanoseconds();
            builder
                .push_parts(id.as_bytes(), subject, time, &values, &[])
                .context("an event fits a batch")?;
        }
    }
    client.send(&mut builder).await?;
    client.flush().await?;
    Ok(())
}

/// 8: what the agreements come to, and how.
pub(crate) async fn explain(api: &Api, lines: &[ChargeLine], proofs: &mut Proofs) -> Result<()> {
    println!("8 · Agreements, explained\n");
    for Agreement { account, name, terms, bills } in AGREEMENTS {
        println!("  {name} {terms}");
        for ((month, ..), expected) in MONTHS.iter().zip(bills) {
            let bill =
                api.get_json(&format!("/v1/accounts/{account}/bill?format=json&period={month}")).await?;
            let window = bill["windows"].get(0).context("a month with an agreement has a bill")?;
            println!("    {month}  {:>10} USD", grouped(window["total"].as_str().unwrap_or_default()));
            for text in texts_of(window) {
                println!("             {text}");
            }
            let period = Period::parse(month)?;
            let zone = domain::Zone::new("America/New_York")?;
            let charged: i128 = lines
                .iter()
                .filter(|line| line.account.as_str() == account && line.window == zone.month(period))
                .map(ChargeLine::rounded_minor)
                .sum();
            proofs.equal(&format!("{account} {month}: charged = schoolbook"), charged, expected);
            let explained = window["total"].as_str().and_then(|total| total.replace('.', "").parse().ok());
            proofs.equal(
                &format!("{account} {month}: explained = charged"),
                explained.unwrap_or(i128::MIN),
                charged,
            );
        }
    }
    println!();
    Ok(())
}

/// The steps of a window's prices and terms, as a customer reads them.
fn texts_of(window: &Value) -> Vec<String> {
    let of_prices = window["prices"].as_array().into_iter().flatten().flat_map(|price| {
        let steps = price["text"].as_array().into_iter().flatten();
        steps.filter_map(Value::as_str).filter(|text| !text.starts_with("total ")).map(str::to_string)
    });
    let of_terms = window["terms"].as_array().into_iter().flatten();
    let of_terms = of_terms.filter_map(|term| term["text"].as_str()).map(str::to_string);
    of_prices.chain(of_terms).collect()
}
