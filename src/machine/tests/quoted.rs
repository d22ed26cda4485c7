//! A quote of usage against the cut that charges the same usage.
//!
//! Owns: that the quote's own metering and the engine's agree, and that both are priced alike. The catalog has a price of
//! every model that meters feed.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::catalog::{Catalog, CatalogFile, Meter, PricingModel, Resource};
use billing::charges::{Component, LineKey};
use billing::quote::{QuoteTerms, Selection, Use, meter, quote, quote_months, read_usage};
use domain::time::{DAY, HOUR};
use domain::{Decimal, Exact, Period, Span, Timestamp, Zone};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::what_if::resource;
use super::world::World;
use crate::Batch;

const MODELS: &str = include_str!("../../../docs/reference/pricing-models.toml");
const ZONE: &str = "America/New_York";
const TYPES: [(&str, &str); 7] = [
    ("request", "tokens"),
    ("call", "none"),
    ("storage", "gigabytes"),
    ("traffic", "bytes"),
    ("email", "none"),
    ("payment", "amount"),
    ("job", "cost"),
];

/// The resources of the documented catalog that a server takes, one plan at a time, in a zone with two clocks.
fn resources(plan: &str) -> Vec<Resource> {
    let text = MODELS
        .replace("\"UTC\"", &format!("{ZONE:?}"))
        .replace("plan = \"pro\"\nseats", "plan = \"PLAN\"\nseats");
    let file = CatalogFile::parse(&text.replace("PLAN", plan)).unwrap();
    let is_served = |resource: &Resource| match resource {
        Resource::Price(price) => price.model != PricingModel::Percentage,
        _ => true,
    };
    file.resources().into_iter().filter(is_served).collect()
}

#[derive(Clone, Debug)]
struct Event {
    event_type: usize,
    hours: i64,
    value: Option<(i64, u8)>,
    model: Option<&'static str>,
    region: Option<&'static str>,
}

fn event() -> impl Strategy<Value = Event> {
    let text = |texts: [&'static str; 3]| prop::option::weighted(0.8, prop::sample::select(texts.to_vec()));
    let value = prop::option::weighted(0.9, (-20i64..3_000_000, 0u8..3));
    (0..TYPES.len(), 0..28 * 24i64, value, text(["large", "small", "other"]), text(["eu", "us", "asia"]))
        .prop_map(|(event_type, hours, value, model, region)| Event {
            event_type,
            hours,
            value,
            model,
            region,
        })
}

fn time_of(event: &Event) -> Timestamp {
    Timestamp::parse("2026-03-01T05:00:00Z").unwrap().plus(event.hours * HOUR)
}

/// A frame of the events of one type.
fn frame_of(event_type: usize, events: &[Event]) -> Option<Arc<AlignedBytes>> {
    let (name, property) = TYPES[event_type];
    let mut builder = BatchBuilder::new("test", name, IdMode::Given).without_event_checks();
    let mut has_events = false;
    for (index, event) in events.iter().enumerate().filter(|(_, event)| event.event_type == event_type) {
        let values: Vec<(&str, i128, u8)> =
            event.value.iter().map(|(mantissa, scale)| (property, i128::from(*mantissa), *scale)).collect();
        let dimensions = [("model", event.model), ("region", event.region)];
        let dimensions: Vec<(&str, &str)> =
            dimensions.iter().filter_map(|(name, text)| Some((*name, (*text)?))).collect();
        let id = index.to_string();
        builder
            .push_parts(id.as_bytes(), "key-42", time_of(event).nanoseconds(), &values, &dimensions)
            .unwrap();
        has_events = true;
    }
    has_events.then(|| Arc::new(builder.finish(1, 0)))
}

/// The same events as a usage file.
fn lines_of(events: &[Event]) -> String {
    let line = |(index, event): (usize, &Event)| {
        let (name, property) = TYPES[event.event_type];
        let value =
            event.value.map(|(mantissa, scale)| Decimal::new(mantissa.into(), scale).unwrap().to_string());
        let values: BTreeMap<&str, String> = value.into_iter().map(|value| (property, value)).collect();
        let dimensions = [("model", event.model), ("region", event.region)];
        let dimensions: BTreeMap<&str, &str> =
            dimensions.iter().filter_map(|(name, text)| Some((*name, (*text)?))).collect();
        let time = time_of(event).to_string();
        serde_json::json!({
            "id": index.to_string(), "time": time, "type": name, "values": values, "dimensions": dimensions,
        })
        .to_string()
    };
    events.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// A world after a cut after the month.
fn cut_of(resources: Vec<Resource>, events: &[Event]) -> (World, Batch) {
    let policy = PolicyRecord {
        horizon: 400 * DAY,
        future_max: DAY,
        pending_per_slot_max: 1_000,
        grace: 5 * DAY,
        correction_horizon: 400 * DAY,
    };
    let mut world = World::new(2, &policy);
    for resource in resources {
        let mut body = resource.to_json();
        body.as_object_mut().unwrap().remove("id");
        world.put(resource.kind().as_str(), resource.id(), &body).unwrap();
    }
    world.barrier(false);
    let now = Timestamp::parse("2026-04-20T00:00:00Z").unwrap();
    for event_type in 0..TYPES.len() {
        if let Some(frame) = frame_of(event_type, events) {
            world.take_usage(&frame, now);
        }
    }
    world.start_cut(now);
    let batch = world.finish_cut().expect("something is owed");
    (world, batch)
}

/// What a cut after the month charges, by price: units, the exact amount and what is billed.
fn charged(plan: &str, events: &[Event]) -> BTreeMap<String, (Exact, i128)> {
    let (_, batch) = cut_of(resources(plan), events);
    let window = Zone::new(ZONE).unwrap().month(Period::parse("2026-03").unwrap());
    let mut sums = BTreeMap::new();
    for line in batch.lines.iter().filter(|line| line.window == window) {
        let sum = sums.entry(line.price.as_ref().unwrap().to_string()).or_insert((Exact::ZERO, 0));
        sum.0 = sum.0.add(line.precise).unwrap();
        sum.1 += line.rounded_minor();
    }
    sums
}

fn catalog_of(resources: Vec<Resource>) -> Catalog {
    let mut catalog = Catalog::default();
    for (offset, resource) in resources.into_iter().enumerate() {
        catalog.apply(resource, offset as u64).unwrap();
    }
    catalog
}

fn uses_of(catalog: &Catalog, events: &[Event]) -> Vec<Use> {
    let mut meters: Vec<(u64, &Meter)> = catalog.meters().collect();
    meters.sort_by_key(|(created, _)| *created);
    let meters: Vec<&Meter> = meters.into_iter().map(|(_, meter)| meter).collect();
    let read = if events.is_empty() { Vec::new() } else { read_usage(&lines_of(events), None).unwrap() };
    meter(&meters, &read).uses
}

/// What a quote of the same usage says.
fn quoted(plan: &str, events: &[Event]) -> BTreeMap<String, (Exact, i128)> {
    let catalog = catalog_of(resources(plan));
    let uses = uses_of(&catalog, events);
    let terms = QuoteTerms {
        selection: Selection::of_plan(&catalog, plan).unwrap(),
        zone: Zone::new(ZONE).unwrap(),
        seats: Some(Exact::from_integer(5)),
        active: Span::new(Timestamp::MIN, Timestamp::END),
        agreed: None,
    };
    let bill = quote(&terms, Period::parse("2026-03").unwrap(), &uses).unwrap();
    bill.prices.iter().map(|price| (price.price.to_string(), (price.precise, price.rounded))).collect()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_quote_says_what_a_cut_charges(
        plan in prop::sample::select(vec!["pro", "market"]), events in prop::collection::vec(event(), 0..60),
    ) {
        let charged = charged(plan, &events);
        let quoted = quoted(plan, &events);
        for (price, quoted) in &quoted {
            // A charge of nothing may have no line.
            let charged = charged.get(price).copied().unwrap_or((Exact::ZERO, 0));
            prop_assert_eq!(*quoted, charged, "{}", price);
        }
        prop_assert!(charged.keys().all(|price| quoted.contains_key(price)), "{:?}", charged);
    }
}

/// An agreement of the account with the documented catalog's subscription.
fn agreement() -> impl Strategy<Value = (&'static str, Value)> {
    let months = ["2026-01-01T05:00:00Z", "2026-03-01T05:00:00Z", "2026-04-01T04:00:00Z"];
    let discount = (any::<bool>(), 0u32..60, 0u32..2, 0usize..2).prop_map(
        move |(is_percent, number, priority, month)| {
            let mut body = json!({ "account": "globex", "priority": priority, "from": months[month] });
            body[if is_percent { "percent" } else { "amount" }] = number.to_string().into();
            ("discounts", body)
        },
    );
    let shape =
        prop::sample::select(vec!["none", "roll_forward", "cumulative", "year_end", "prepaid_drawdown"]);
    let commitment = (0u32..90_000, shape).prop_map(move |(amount, shape)| {
        let body = json!({
            "account": "globex", "shape": shape, "amount": amount.to_string(), "overage_factor": "1.5",
            "from": months[0], "until": months[2],
        });
        ("commitments", body)
    });
    let of = prop::sample::select(vec![None, None, Some("requests"), Some("emails"), Some("tokens")]);
    let grant = (
        0u32..5_000,
        0i64..80 * 24,
        prop::option::of(1i64..40),
        of,
        prop::option::of(1u32..20),
        any::<bool>(),
    );
    let grant = grant.prop_map(|(amount, hour, days, meter, every, is_voided)| {
        let from = Timestamp::parse("2026-01-05T00:00:00Z").unwrap().plus(hour * HOUR);
        let mut body = json!({
            "account": "globex", "kind": "paid", "amount": amount.to_string(), "from": from.to_string(),
        });
        if let Some(days) = days {
            body["until"] = from.plus(days * DAY).to_string().into();
        }
        if let Some(meter) = meter {
            body["meter"] = meter.into();
        }
        if let Some(days) = every {
            body["every"] = json!({ "days": days });
            body["rollover"] = json!({ "max": "100" });
        }
        if is_voided {
            body["voided_at"] = from.plus(DAY * 9 / 2).to_string().into();
        }
        ("grants", body)
    });
    prop_oneof![1 => discount, 1 => commitment, 3 => grant]
}

/// What is worth something, by key: units and minor units.
type Worths = BTreeMap<LineKey, (Exact, i128)>;

proptest! {
    #![proptest_config(cases())]

    /// A quote of a subscription from its first month on is what the cut finds, line by line.
    #[test]
    fn a_quote_of_a_subscription_has_the_terms_that_a_cut_charges(
        events in prop::collection::vec(event(), 0..40), agreed in prop::collection::vec(agreement(), 0..6),
    ) {
        let mut all = resources("pro");
        for (index, (kind, body)) in agreed.into_iter().enumerate() {
            all.push(resource(kind, &format!("x{index}"), body));
        }
        let (world, _) = cut_of(all.clone(), &events);
        let end = Timestamp::parse("2026-04-01T04:00:00Z").unwrap();
        let account = domain::AccountId::new("globex").unwrap();
        let issued = world.machine.issued().of_account(&account);
        let mut issued: Worths =
            issued.filter(|(key, _)| key.window.from < end).map(|(key, worth)| (key.clone(), (worth.quantity, worth.rounded))).collect();
        issued.retain(|key, (quantity, rounded)| key.component != Component::Charge && (!quantity.is_zero() || *rounded != 0));

        let catalog = catalog_of(all);
        let terms = QuoteTerms::of_subscription(&catalog, "globex-pro").unwrap();
        let months = ["2025-12", "2026-01", "2026-02", "2026-03"].map(|month| Period::parse(month).unwrap());
        let bills = quote_months(&terms, &months, &uses_of(&catalog, &events)).unwrap();
        let lines = bills.iter().flat_map(|bill| bill.agreed.iter().chain(bill.prices.iter().flat_map(|price| &price.terms)));
        let quoted: Worths = lines.map(|line| (line.key.clone(), (line.quantity, line.rounded))).collect();
        prop_assert_eq!(quoted, issued);
        let charged: i128 = world.machine.issued().of_account(&account).filter(|(key, _)| key.window.from < end).map(|(_, worth)| worth.rounded).sum();
        prop_assert_eq!(bills.iter().map(|bill| bill.rounded).sum::<i128>(), charged);
    }
}

fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    Config { cases, failure_persistence: None, ..Config::default() }
}
