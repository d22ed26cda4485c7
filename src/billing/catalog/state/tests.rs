//! The rules of the catalog as tables: what is taken, what is refused and for which rule, what is kept.

use super::*;
use crate::catalog::{CatalogFile, versions_of_json};
use crate::rating::commitment::CommitmentStatus;
use crate::rating::progressive::ThresholdStatus;
use proptest::prelude::*;
use serde_json::json;

pub(crate) const FILE: &str = r#"
    catalog = 1
    [[entity]]
    id = "inc"
    currency = "USD"
    time_zone = "America/New_York"
    [[account]]
    id = "child"
    name = "Child"
    entity = "inc"
    currency = "USD"
    time_zone = "America/New_York"
    parent = "acme"
    [[account]]
    id = "acme"
    name = "Acme"
    entity = "inc"
    currency = "USD"
    time_zone = "America/New_York"
    [[meter]]
    id = "calls"
    event_type = "call"
    aggregation = "count"
    [[meter]]
    id = "most"
    event_type = "call"
    aggregation = "max"
    value = "n"
    [[plan]]
    id = "pro"
    currency = "USD"
    [[plan]]
    id = "euro"
    currency = "EUR"
    [[price]]
    id = "pro-calls"
    plan = "pro"
    meter = "calls"
    model = "per_unit"
    unit_amount = "0.01"
    window = "month"
    [[subscription]]
    id = "s1"
    account = "acme"
    plan = "pro"
    from = "2026-01-01T00:00:00Z"
    [[subject]]
    id = "key 1"
    subscription = "s1"
    from = "2026-01-01T00:00:00Z"
    [[commitment]]
    id = "annual"
    account = "acme"
    shape = "year_end"
    amount = "96000"
    from = "2026-01-01T05:00:00Z"
    until = "2027-01-01T05:00:00Z"
    [[grant]]
    id = "wallet"
    account = "acme"
    kind = "paid"
    amount = "5000"
    from = "2026-01-01T05:00:00Z"
    [[discount]]
    id = "launch"
    account = "acme"
    percent = "20"
    from = "2026-01-01T05:00:00Z"
"#;

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (offset, resource) in CatalogFile::parse(FILE).unwrap().resources().into_iter().enumerate() {
        assert_eq!(catalog.apply(resource, offset as u64), Ok(Change::Create));
    }
    catalog
}

fn put(kind: ResourceKind, id: &str, body: serde_json::Value) -> Result<Change, &'static str> {
    let name = |status: CatalogStatus| status.rule.name();
    let mut catalog = catalog();
    let mut change = Change::Unchanged;
    for body in versions_of_json(kind, id, body).map_err(name)? {
        let resource = Resource::from_json(kind, id, body).map_err(name)?;
        change = catalog.apply(resource, 9).map_err(name)?;
    }
    Ok(change)
}

/// A body that is taken, for each kind.
fn good(kind: ResourceKind) -> serde_json::Value {
    match kind {
        ResourceKind::Entities => json!({"currency": "USD", "time_zone": "America/New_York"}),
        ResourceKind::Accounts => {
            json!({"name": "N", "entity": "inc", "currency": "USD", "time_zone": "UTC"})
        }
        ResourceKind::Meters => json!({"event_type": "e", "aggregation": "sum", "value": "v"}),
        ResourceKind::Plans => json!({"currency": "USD"}),
        ResourceKind::Prices => {
            json!({"plan": "pro", "meter": "calls", "model": "per_unit", "unit_amount": "1", "window": "month"})
        }
        ResourceKind::Subscriptions => {
            json!({"account": "acme", "plan": "pro", "from": "2026-01-01T00:00:00Z"})
        }
        ResourceKind::Subjects => json!({"subscription": "s1", "from": "2026-01-01T00:00:00Z"}),
        ResourceKind::Commitments => json!({
            "account": "acme", "shape": "year_end", "amount": "96000",
            "from": "2026-01-01T05:00:00Z", "until": "2027-01-01T05:00:00Z",
        }),
        ResourceKind::Grants => json!({
            "account": "acme", "kind": "paid", "amount": "5000", "from": "2026-01-01T05:00:00Z",
        }),
        ResourceKind::Discounts => {
            json!({"account": "acme", "percent": "20", "from": "2026-01-01T05:00:00Z"})
        }
    }
}

/// A good body with some fields changed; null takes a field out.
fn changed(kind: ResourceKind, fields: &serde_json::Value) -> serde_json::Value {
    let mut body = good(kind);
    let whole = body.as_object_mut().unwrap();
    whole.extend(fields.as_object().unwrap().clone());
    whole.retain(|_, value| !value.is_null());
    body
}

/// Rules in order of precedence, each with what breaks it. What breaks a later rule of the same kind as well is
/// still named by the earlier one.
#[test]
fn each_rule_is_named_by_what_breaks_it_and_the_first_broken_one_is_said() {
    use ResourceKind::*;
    let long = "x".repeat(257);
    let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    let tier = |up_to: i64| json!({"up_to": up_to.to_string(), "unit_amount": "1"});
    let last = json!({"unit_amount": "1"});
    let graduated =
        |tiers: Vec<serde_json::Value>| json!({"model": "graduated", "unit_amount": null, "tiers": tiers});
    let tiers = |count: i64| (1..count).map(tier).chain([last.clone()]).collect::<Vec<_>>();
    let cases = [
        ("ramp_must_hold", Prices, "new", json!({"ramps": 3, "unit_amount": 1.5})),
        ("ramp_must_hold", Subscriptions, "new", json!({"ramps": [{"seats": "2"}]})),
        ("body_must_be_readable", Meters, "new", json!({"ramps": []})),
        ("body_must_be_readable", Prices, "new", json!({"unit_amount": 1.5, "id": "other"})),
        ("body_must_be_readable", Meters, "new", json!({"aggregation": "median"})),
        ("body_must_be_readable", Meters, "Not an id", json!({})),
        ("body_must_be_readable", Entities, "a-legal-entity-of-25-bytes", json!({})),
        ("body_must_be_readable", Accounts, "new", json!({"time_zone": "Mars/Olympus"})),
        ("body_must_be_readable", Subjects, &long, json!({})),
        ("id_must_match_path", Prices, "new", json!({"id": "other", "per": 7})),
        ("text_must_fit", Accounts, "new", json!({"name": "", "entity": "none"})),
        ("text_must_fit", Accounts, "new", json!({"name": long})),
        ("text_must_fit", Meters, "new", json!({"event_type": "", "value": null})),
        ("text_must_fit", Meters, "new", json!({"value": long})),
        ("text_must_fit", Meters, "new", json!({"group_by": [""]})),
        ("text_must_fit", Meters, "new", json!({"filter": {"region": ["eu", ""]}})),
        ("until_must_be_after_from", Commitments, "new", json!({"ended_at": "2025-12-01T05:00:00Z"})),
        (
            "until_must_be_after_from",
            Subscriptions,
            "new",
            json!({"until": "2026-01-01T00:00:00Z", "plan": "none"}),
        ),
        (
            "until_must_be_after_from",
            Subjects,
            "new",
            json!({"until": "2025-12-31T00:00:00Z", "subscription": "none"}),
        ),
        ("seats_must_not_be_negative", Subscriptions, "new", json!({"seats": "-1", "plan": "none"})),
        ("value_must_fit_aggregation", Meters, "new", json!({"value": null, "scale": 29})),
        ("value_must_fit_aggregation", Meters, "new", json!({"aggregation": "count"})),
        ("value_must_fit_aggregation", Meters, "new", json!({"aggregation": "unique", "operation": "o"})),
        ("value_must_fit_aggregation", Meters, "new", json!({"key": "user"})),
        ("value_must_fit_aggregation", Meters, "new", json!({"aggregation": "weighted_sum", "key": "user"})),
        (
            "field_must_fit_aggregation",
            Meters,
            "new",
            json!({"aggregation": "weighted_sum", "value": null, "key": "user", "gauge": "levels"}),
        ),
        (
            "field_must_fit_aggregation",
            Meters,
            "new",
            json!({"aggregation": "weighted_sum", "operation": "op"}),
        ),
        ("field_must_fit_aggregation", Meters, "new", json!({"operation": "op", "scale": 29})),
        ("field_must_fit_aggregation", Meters, "new", json!({"gauge": "levels"})),
        ("field_must_fit_aggregation", Meters, "new", json!({"granule_seconds": 60})),
        ("field_must_fit_aggregation", Meters, "new", json!({"aggregation": "peak", "granule_seconds": 59})),
        ("field_must_fit_aggregation", Meters, "new", json!({"aggregation": "percentile"})),
        ("field_must_fit_aggregation", Meters, "new", json!({"aggregation": "percentile", "percent": "0"})),
        (
            "field_must_fit_aggregation",
            Meters,
            "new",
            json!({"aggregation": "percentile", "percent": "100.1"}),
        ),
        (
            "field_must_fit_aggregation",
            Meters,
            "new",
            json!({"aggregation": "percentile", "percent": "0.0000001"}),
        ),
        ("scale_must_fit", Meters, "new", json!({"scale": 29, "group_by": many})),
        ("group_by_must_fit", Meters, "new", json!({"group_by": many, "filter": {"region": []}})),
        ("group_by_must_fit", Meters, "new", json!({"group_by": ["region", "region"]})),
        ("filter_must_name_texts", Meters, "new", json!({"filter": {"region": []}, "kept_max": 0})),
        ("filter_must_name_texts", Meters, "new", json!({"filter": {"region": {}}})),
        ("filter_must_name_texts", Meters, "new", json!({"filter": {"region": {"eq": "eu", "not_in": []}}})),
        ("limit_must_fit", Meters, "new", json!({"groups_max": 0})),
        ("limit_must_fit", Meters, "new", json!({"kept_max": 100_000_001})),
        ("per_must_be_power_of_ten", Prices, "new", json!({"per": 20, "meter": null})),
        ("per_must_be_power_of_ten", Prices, "new", json!({"per": 10_000_000_000_000u64})),
        ("per_must_be_power_of_ten", Prices, "new", json!({"per": 0})),
        ("price_must_fit_model", Prices, "new", json!({"meter": null})),
        ("price_must_fit_model", Prices, "new", json!({"unit_amount": null})),
        ("price_must_fit_model", Prices, "new", json!({"tiers": tiers(1), "plan": "none"})),
        ("price_must_fit_model", Prices, "new", json!({"model": "graduated", "tiers": tiers(1)})),
        ("price_must_fit_model", Prices, "new", json!({"model": "graduated", "unit_amount": null})),
        ("price_must_fit_model", Prices, "new", json!({"model": "flat"})),
        ("price_must_fit_model", Prices, "new", json!({"model": "flat", "meter": null, "per": 10})),
        ("price_must_fit_model", Prices, "new", json!({"model": "flat", "meter": null, "unit_amount": null})),
        ("price_must_fit_model", Prices, "new", json!({"model": "volume", "unit_amount": null})),
        ("price_must_fit_model", Prices, "new", json!({"model": "package"})),
        ("price_must_fit_model", Prices, "new", json!({"rate_percent": "1"})),
        ("tiers_must_rise", Prices, "new", graduated(vec![])),
        ("tiers_must_rise", Prices, "new", graduated(vec![tier(5)])),
        ("tiers_must_rise", Prices, "new", graduated(vec![tier(0), last.clone()])),
        ("tiers_must_rise", Prices, "new", graduated(vec![tier(5), tier(5), last.clone()])),
        ("tiers_must_rise", Prices, "new", graduated(vec![last.clone(), last.clone()])),
        ("tiers_must_rise", Prices, "new", graduated(tiers(257))),
        ("bounds_must_hold", Prices, "new", json!({"discounts": [{"percent": "101"}], "plan": "none"})),
        ("bounds_must_hold", Prices, "new", json!({"minimum": "-1"})),
        ("bounds_must_hold", Prices, "new", json!({"minimum": "2", "maximum": "1"})),
        ("bounds_must_hold", Subscriptions, "new", json!({"discounts": [{"amount": "-1"}]})),
        (
            "window_must_fit",
            Prices,
            "new",
            json!({"model": "flat", "meter": null, "window": "week", "proration": "thirty_days", "plan": "none"}),
        ),
        (
            "window_must_fit",
            Prices,
            "new",
            json!({"model": "flat", "meter": null, "window": "quarter", "proration": "days"}),
        ),
        ("discount_must_hold", Discounts, "new", json!({"percent": null, "account": "none"})),
        ("discount_must_hold", Discounts, "new", json!({"amount": "5"})),
        ("discount_must_hold", Discounts, "new", json!({"percent": "100.1"})),
        ("discount_must_hold", Discounts, "new", json!({"percent": null, "amount": "-1"})),
        ("discount_must_hold", Discounts, "12", json!({})),
        ("commitment_must_name_amount", Commitments, "new", json!({"amount": null})),
        ("commitment_must_name_amount", Commitments, "new", json!({"quantity": "5"})),
        ("commitment_must_name_amount", Commitments, "new", json!({"amount": null, "quantity": "5"})),
        ("commitment_must_hold", Commitments, "new", json!({"amount": "-1", "account": "none"})),
        ("commitment_must_hold", Commitments, "new", json!({"overage_factor": "0.5"})),
        (
            "thresholds_must_hold",
            Accounts,
            "acme",
            json!({"thresholds": {"amounts": ["5", "5"]}, "entity": "none"}),
        ),
        ("thresholds_must_hold", Accounts, "acme", json!({"thresholds": {"every": "0"}})),
        ("grant_must_hold", Grants, "new", json!({"amount": "-1", "account": "none"})),
        ("grant_must_hold", Grants, "new", json!({"rollover": {"max": "5"}})),
        ("grant_must_hold", Grants, "new", json!({"every": "month", "rollover": {"max": "-5"}})),
        ("grant_must_hold", Grants, "new", json!({"every": {"days": 0}})),
        ("grant_must_hold", Grants, "new", json!({"meter": "calls", "prices": ["none"]})),
        (
            "term_must_fit_windows",
            Commitments,
            "new",
            json!({"from": "2026-01-01T00:00:00Z", "amount": "0.001"}),
        ),
        ("term_must_fit_windows", Commitments, "new", json!({"effective_from": "2026-02-02T05:00:00Z"})),
        ("term_must_fit_windows", Commitments, "new", json!({"ended_at": "2026-02-02T05:00:00Z"})),
        ("term_must_fit_windows", Discounts, "new", json!({"until": "2026-02-02T05:00:00Z"})),
        ("amount_must_fit_currency", Prices, "new", json!({"minimum": "0.001"})),
        (
            "amount_must_fit_currency",
            Discounts,
            "new",
            json!({"percent": null, "amount": "0.001", "prices": ["none"]}),
        ),
        ("amount_must_fit_currency", Subscriptions, "new", json!({"maximum": "0.001"})),
        ("amount_must_fit_currency", Commitments, "new", json!({"amount": "0.001", "prices": ["none"]})),
        ("amount_must_fit_currency", Grants, "new", json!({"amount": "0.001"})),
        ("amount_must_fit_currency", Accounts, "acme", json!({"thresholds": {"every": "0.001"}})),
        ("reference_must_exist", Grants, "new", json!({"meter": "none", "amount": "0.0001"})),
        ("reference_must_exist", Commitments, "new", json!({"prices": ["none"]})),
        ("reference_must_exist", Grants, "new", json!({"subscriptions": ["none"]})),
        ("reference_must_exist", Discounts, "new", json!({"prices": ["none"]})),
        ("reference_must_exist", Accounts, "acme", json!({"entity": "none", "currency": "EUR"})),
        ("reference_must_exist", Accounts, "new", json!({"parent": "none"})),
        ("reference_must_exist", Prices, "pro-calls", json!({"plan": "none"})),
        ("reference_must_exist", Prices, "pro-calls", json!({"meter": "none"})),
        ("reference_must_exist", Subscriptions, "s1", json!({"account": "none"})),
        ("reference_must_exist", Subscriptions, "s1", json!({"plan": "none"})),
        ("reference_must_exist", Subjects, "key 1", json!({"subscription": "none"})),
        (
            "meter_must_keep_events",
            Prices,
            "new",
            json!({"model": "percentage", "unit_amount": null, "rate_percent": "1"}),
        ),
        ("parent_must_share_terms", Accounts, "acme", json!({"parent": "acme", "name": "B"})),
        ("parent_must_share_terms", Accounts, "new", json!({"parent": "acme", "time_zone": "UTC"})),
        ("parent_must_share_terms", Accounts, "new", json!({"parent": "child"})),
        ("meter_must_add_up", Grants, "new", json!({"meter": "most", "subscriptions": ["none"]})),
        ("subscription_must_be_own", Grants, "new", json!({"account": "child", "subscriptions": ["s1"]})),
        ("currency_must_match_account", Subscriptions, "s1", json!({"plan": "euro", "account": "acme"})),
        ("windows_must_match", Prices, "new", json!({"window": "week"})),
        ("must_not_change", Entities, "inc", json!({"currency": "EUR"})),
        ("must_not_change", Entities, "inc", json!({"time_zone": "UTC"})),
        ("must_not_change", Accounts, "acme", json!({"time_zone": "Europe/Berlin"})),
        ("must_not_change", Accounts, "child", json!({"parent": null})),
        (
            "must_not_change",
            Meters,
            "calls",
            json!({"aggregation": "count", "value": null, "event_type": "other"}),
        ),
        ("must_not_change", Plans, "pro", json!({"currency": "EUR"})),
        ("must_not_change", Discounts, "launch", json!({"percent": "10"})),
        ("must_not_change", Subscriptions, "s1", json!({"anchor": "2026-01-31T00:00:00Z"})),
        ("must_not_change", Prices, "pro-calls", json!({"plan": "euro"})),
        ("must_not_change", Prices, "pro-calls", json!({"model": "flat", "meter": null})),
    ];
    let mut said: Vec<&str> = Vec::new();
    for (rule, kind, id, fields) in &cases {
        assert_eq!(put(*kind, id, changed(*kind, fields)), Err(*rule), "{} {id} {fields}", kind.singular());
        said.push(rule);
    }
    said.dedup();
    // The last two are of what is new, and have tests of their own.
    let said_here = RULES.len() - 2;
    assert_eq!(
        said,
        RULES.map(|rule| rule.name())[..said_here],
        "each rule is broken by something, in order"
    );
    assert!(RULES.is_sorted(), "rules are declared in order of precedence");
    for (kind, fields) in [
        (Prices, graduated(tiers(256))),
        (Prices, graduated(vec![tier(5), last])),
        (Prices, json!({"per": 1_000_000_000_000u64})),
        (Prices, json!({"model": "flat", "meter": null})),
        // In advance, a part of a quarter belongs to the month in which it starts.
        (
            Prices,
            json!({"model": "flat", "meter": null, "window": "quarter", "proration": "days", "payment": "in_advance"}),
        ),
        (Subscriptions, json!({"anchor": "2026-01-31T00:00:00Z"})),
        (Meters, json!({"group_by": &many[..8], "scale": 28, "filter": {"region": "eu"}})),
        (Meters, json!({"aggregation": "count", "value": null, "negative_usage": "signed"})),
        (Meters, json!({"aggregation": "unique", "value": null, "key": "user", "operation": "op"})),
        (Meters, json!({"aggregation": "weighted_sum", "value": null, "key": "user", "operation": "op"})),
        (Meters, json!({"aggregation": "weighted_sum", "gauge": "changes"})),
        (Meters, json!({"aggregation": "percentile", "percent": "99.999999", "kept_max": 1})),
        (Meters, json!({"aggregation": "peak", "granule_seconds": 86_400})),
        (Meters, json!({"filter": {"region": {"ne": "eu", "prefix": "e", "lt": "1.5", "exists": true}}})),
        (Accounts, json!({"name": &long[..256]})),
    ] {
        assert_eq!(put(kind, "new", changed(kind, &fields)), Ok(Change::Create), "{fields}");
    }
    assert_eq!(put(Subjects, &long[..256], good(Subjects)), Ok(Change::Create));
    let ramps = json!({"ramps": [
        {"effective_from": "2027-01-01T00:00:00Z", "unit_amount": "2"},
        {"effective_from": "2028-01-01T00:00:00Z", "minimum": "5"},
    ]});
    assert_eq!(put(Prices, "new", changed(Prices, &ramps)), Ok(Change::NewVersion(3)));
    assert_eq!(put(Prices, "new", changed(Prices, &json!({"ramps": []}))), Ok(Change::Create));
}

pub(in crate::catalog) const RULES: [Rule; 34] = [
    Rule::RampMustHold(String::new()),
    Rule::BodyMustBeReadable(String::new()),
    Rule::IdMustMatchPath,
    Rule::TextMustFit,
    Rule::UntilMustBeAfterFrom,
    Rule::SeatsMustNotBeNegative,
    Rule::ValueMustFitAggregation,
    Rule::FieldMustFitAggregation,
    Rule::ScaleMustFit,
    Rule::GroupByMustFit,
    Rule::FilterMustNameTexts,
    Rule::LimitMustFit,
    Rule::PerMustBePowerOfTen,
    Rule::PriceMustFitModel(String::new()),
    Rule::TermsMustHold(crate::rating::TermsStatus::TiersMustRise),
    Rule::BoundsMustHold(""),
    Rule::WindowMustFit(""),
    Rule::DiscountMustHold("a discount has either a `percent` or an `amount`"),
    Rule::CommitmentMustNameAmount,
    Rule::CommitmentMustHold(CommitmentStatus::AmountMustNotBeNegative),
    Rule::ThresholdsMustHold(ThresholdStatus::ThresholdsMustRise),
    Rule::GrantMustHold,
    Rule::TermMustFitWindows,
    Rule::AmountMustFitCurrency,
    Rule::ReferenceMustExist(String::new()),
    Rule::MeterMustKeepEvents,
    Rule::ParentMustShareTerms,
    Rule::MeterMustAddUp,
    Rule::SubscriptionMustBeOwn(String::new()),
    Rule::CurrencyMustMatchAccount,
    Rule::WindowsMustMatch(String::new()),
    Rule::MustNotChange(""),
    Rule::PriceAmountMustHold(String::new()),
    Rule::QuantityMustBePriced(String::new()),
];

/// One term at a time: nothing else about the resource is new.
#[test]
fn what_must_not_change_is_refused_by_itself() {
    use ResourceKind::*;
    let mut catalog = catalog();
    for (kind, id, fields) in [
        (Entities, "gmbh", json!({})),
        (Meters, "tokens", json!({})),
        (Plans, "max", json!({})),
        (Accounts, "beta", json!({})),
    ] {
        let resource = Resource::from_json(kind, id, changed(kind, &fields)).unwrap();
        assert_eq!(catalog.apply(resource, 50), Ok(Change::Create));
    }
    let graduated = json!({"model": "graduated", "unit_amount": null, "tiers": [{"unit_amount": "1"}]});
    let cases = [
        (Entities, "inc", json!({"currency": "EUR"}), "currency and time zone of a legal entity"),
        (Entities, "inc", json!({"time_zone": "UTC"}), "currency and time zone of a legal entity"),
        (
            Accounts,
            "acme",
            json!({"entity": "gmbh"}),
            "legal entity, currency, time zone and parent of an account",
        ),
        (
            Accounts,
            "acme",
            json!({"currency": "EUR"}),
            "legal entity, currency, time zone and parent of an account",
        ),
        (
            Accounts,
            "acme",
            json!({"time_zone": "UTC"}),
            "legal entity, currency, time zone and parent of an account",
        ),
        (
            Meters,
            "calls",
            json!({"event_type": "other"}),
            "the definition of a meter (usage is counted by it already)",
        ),
        (
            Meters,
            "calls",
            json!({"aggregation": "sum", "value": "v"}),
            "the definition of a meter (usage is counted by it already)",
        ),
        (
            Meters,
            "calls",
            json!({"group_by": ["region"]}),
            "the definition of a meter (usage is counted by it already)",
        ),
        (
            Meters,
            "calls",
            json!({"filter": {"region": "eu"}}),
            "the definition of a meter (usage is counted by it already)",
        ),
        (
            Meters,
            "calls",
            json!({"negative_usage": "zero"}),
            "the definition of a meter (usage is counted by it already)",
        ),
        (Meters, "calls", json!({"scale": 3}), "the definition of a meter (usage is counted by it already)"),
        (Plans, "pro", json!({"currency": "EUR"}), "the currency of a plan"),
        (
            Prices,
            "pro-calls",
            json!({"plan": "max"}),
            "plan, meter, model, unit, package size, window and scope of tiers of a price",
        ),
        (
            Prices,
            "pro-calls",
            json!({"meter": "tokens"}),
            "plan, meter, model, unit, package size, window and scope of tiers of a price",
        ),
        (
            Prices,
            "pro-calls",
            graduated,
            "plan, meter, model, unit, package size, window and scope of tiers of a price",
        ),
        (Subscriptions, "s1", json!({"account": "beta"}), "the account of a subscription"),
    ];
    for (kind, id, fields, what) in cases {
        let mut body = catalog.versions(kind, id).pop().unwrap().resource.to_json();
        let whole = body.as_object_mut().unwrap();
        whole.extend(fields.as_object().unwrap().clone());
        whole.retain(|_, value| !value.is_null());
        let resource = Resource::from_json(kind, id, body).unwrap();
        let status = catalog.apply(resource, 51).unwrap_err();
        assert_eq!(status.rule, Rule::MustNotChange(what), "{fields}");
        assert!(status.to_string().ends_with("cannot change; use a new id"), "{status}");
    }
}

#[test]
fn a_subscription_keeps_its_account_and_may_change_its_plan() {
    let mut catalog = catalog();
    let put = |catalog: &mut Catalog, kind: ResourceKind, id: &str, fields: serde_json::Value| {
        let resource = Resource::from_json(kind, id, changed(kind, &fields)).unwrap();
        catalog.apply(resource, 50).map_err(|status| status.to_string())
    };
    use ResourceKind::*;
    assert_eq!(put(&mut catalog, Accounts, "beta", json!({})), Ok(Change::Create));
    assert_eq!(put(&mut catalog, Plans, "max", json!({})), Ok(Change::Create));
    assert_eq!(
        put(&mut catalog, Subscriptions, "s1", json!({"account": "beta"})),
        Err("subscription s1: the account of a subscription cannot change; use a new id".to_string())
    );
    let march = json!({"plan": "max", "from": "2026-03-01T00:00:00Z"});
    assert_eq!(put(&mut catalog, Subscriptions, "s1", march), Ok(Change::NewVersion(2)));
    for (plan, count) in [("pro", 1), ("max", 1), ("euro", 0)] {
        let plan = PlanId::new(plan).unwrap();
        assert_eq!(catalog.subscriptions_of_plan(&plan).count(), count, "{plan}");
    }
}

#[test]
fn a_body_needs_no_id_reads_back_as_it_is_written_and_is_an_object() {
    for kind in ResourceKind::ALL {
        assert_eq!(ResourceKind::parse(kind.as_str()), Some(kind));
        let resource = Resource::from_json(kind, "new", good(kind)).unwrap();
        let written = resource.to_json();
        assert_eq!((resource.kind(), resource.id(), &written["id"]), (kind, "new", &json!("new")));
        assert_eq!(Resource::from_json(kind, "new", written), Ok(resource));
        for body in [json!([]), json!("new"), json!(null)] {
            let status = Resource::from_json(kind, "new", body).unwrap_err();
            assert_eq!(status.rule.name(), "body_must_be_readable");
        }
    }
    assert_eq!(ResourceKind::parse("coupons"), None);
    let body = changed(ResourceKind::Prices, &json!({"unit_amount": 1.5}));
    assert_eq!(
        Resource::from_json(ResourceKind::Prices, "new", body).unwrap_err().to_string(),
        "price new: invalid type: floating point `1.5`, expected a decimal in quotes, such as \"0.01\""
    );
}

#[test]
fn all_versions_are_kept_with_their_records() {
    let mut catalog = catalog();
    for (offset, kind, id, fields) in [
        (20, ResourceKind::Accounts, "acme", json!({"name": "Acme Corp", "time_zone": "America/New_York"})),
        (21, ResourceKind::Prices, "pro-calls", json!({"effective_from": "2026-03-01T00:00:00Z"})),
        (22, ResourceKind::Subscriptions, "s1", json!({"until": "2027-01-01T00:00:00Z"})),
        (23, ResourceKind::Subjects, "key 1", json!({"until": "2027-01-01T00:00:00Z"})),
    ] {
        let before = catalog.versions(kind, id);
        let resource = Resource::from_json(kind, id, changed(kind, &fields)).unwrap();
        assert_eq!(catalog.apply(resource.clone(), offset), Ok(Change::NewVersion(2)), "{id}");
        let after = catalog.versions(kind, id);
        assert_eq!(before, after[..1], "a version, once taken, never changes");
        assert_eq!(
            after[1..],
            [Versioned { version: 2, control_offset: offset, resource: resource.clone() }]
        );
        assert_eq!(catalog.newest(&resource), Some(resource));
    }
    for kind in [ResourceKind::Entities, ResourceKind::Meters, ResourceKind::Plans] {
        let id = ["inc", "calls", "pro"].into_iter().find(|id| !catalog.versions(kind, id).is_empty());
        assert_eq!(catalog.versions(kind, id.unwrap()).len(), 1);
    }
    assert_eq!(catalog.versions(ResourceKind::Plans, "none"), []);
    assert_eq!(catalog.account(&AccountId::new("acme").unwrap()).unwrap().name, "Acme Corp");
}

#[test]
fn one_text_and_a_list_of_one_are_the_same_filter() {
    let meter = |filter: serde_json::Value| {
        let fields = json!({"filter": {"region": filter}});
        Resource::from_json(ResourceKind::Meters, "new", changed(ResourceKind::Meters, &fields)).unwrap()
    };
    let mut catalog = catalog();
    assert_eq!(catalog.apply(meter(json!("eu")), 50), Ok(Change::Create));
    assert_eq!(catalog.apply(meter(json!(["eu"])), 51), Ok(Change::Unchanged));
}

proptest! {
    #![proptest_config(crate::testing::cases())]

    /// Whatever was put before: a resource that was just taken is no change, and a refused one leaves no trace.
    #[test]
    fn what_was_just_taken_is_unchanged_and_what_was_refused_leaves_no_trace(
        puts in prop::collection::vec((0..4usize, 0..3i64, prop::option::of(-1..3i64), 1..4u32), 0..24),
    ) {
        let mut catalog = catalog();
        for (offset, (kind, from, until, variant)) in puts.into_iter().enumerate() {
            let instant = |day: i64| format!("2026-01-{:02}T00:00:00Z", 10 + day);
            let (kind, id, fields) = match kind {
                0 => (ResourceKind::Prices, "pro-calls", json!({"unit_amount": variant.to_string(), "effective_from": instant(from)})),
                1 => (ResourceKind::Subscriptions, "s1", json!({"from": instant(from), "until": until.map(instant)})),
                2 => (ResourceKind::Subjects, "key 1", json!({"from": instant(from), "until": until.map(instant)})),
                _ => (ResourceKind::Accounts, "acme", json!({"name": variant.to_string(), "time_zone": "America/New_York"})),
            };
            let resource = Resource::from_json(kind, id, changed(kind, &fields)).unwrap();
            let before = catalog.versions(kind, id);
            let checked = catalog.check(&resource);
            prop_assert_eq!(catalog.apply(resource.clone(), 100 + offset as u64), checked.clone());
            let made = catalog.versions(kind, id).len() - before.len();
            match checked {
                Ok(change) => {
                    prop_assert_eq!(made, usize::from(change.version().is_some()));
                    prop_assert_eq!(catalog.check(&resource), Ok(Change::Unchanged));
                }
                Err(status) => {
                    prop_assert_eq!((status.rule.name(), made), ("until_must_be_after_from", 0));
                }
            }
        }
    }
}

#[test]
fn the_same_again_is_no_change_and_a_new_date_is_a_version() {
    let mut catalog = catalog();
    for resource in CatalogFile::parse(FILE).unwrap().resources() {
        assert_eq!(catalog.apply(resource, 99), Ok(Change::Unchanged));
    }
    let body = json!({"plan": "pro", "meter": "calls", "model": "per_unit", "unit_amount": "0.02", "window": "month", "effective_from": "2026-03-01T00:00:00Z"});
    let dearer = Resource::from_json(ResourceKind::Prices, "pro-calls", body).unwrap();
    assert_eq!(catalog.apply(dearer.clone(), 100), Ok(Change::NewVersion(2)));
    assert_eq!(catalog.apply(dearer, 101), Ok(Change::Unchanged));
    let price = catalog.price(&PriceId::new("pro-calls").unwrap()).unwrap();
    let at = |text: &str| price.version_at(Timestamp::parse(text).unwrap()).unwrap().version;
    assert_eq!((at("2026-02-28T23:59:59Z"), at("2026-03-01T00:00:00Z")), (1, 2));
}

#[test]
fn a_price_changes_at_sorted_instants_each_once() {
    let mut catalog = catalog();
    for (from, amount) in [("2026-03-01", "2"), ("2026-02-01", "3"), ("2026-03-01", "4")] {
        let fields = json!({"effective_from": format!("{from}T00:00:00Z"), "unit_amount": amount});
        let body = changed(ResourceKind::Prices, &fields);
        let price = Resource::from_json(ResourceKind::Prices, "pro-calls", body).unwrap();
        assert!(catalog.apply(price, 100).is_ok_and(|change| change.version().is_some()));
    }
    let price = catalog.price(&PriceId::new("pro-calls").unwrap()).unwrap();
    let changes: Vec<String> = price.changes().iter().map(|at| at.to_string()).collect();
    assert_eq!(changes, ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]);
    // Of equals the newest holds; a date that was put later but lies earlier does not take over.
    let version = |text: &str| price.version_at(Timestamp::parse(text).unwrap()).unwrap().version;
    assert_eq!(
        ["2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"].map(version),
        [1, 3, 4]
    );
}

/// Each version alone was in order: one prorated in advance, the next in arrears. A window of both had a part in arrears.
#[test]
fn versions_of_a_long_window_leave_no_part_in_arrears_together() {
    let version = |fields: serde_json::Value| {
        let mut body = json!({"model": "flat", "meter": null, "window": "quarter"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Resource::from_json(ResourceKind::Prices, "fee", changed(ResourceKind::Prices, &body)).unwrap()
    };
    let in_advance = version(json!({"payment": "in_advance", "proration": "days"}));
    let from = "2026-02-15T00:00:00Z";
    let in_arrears = version(json!({"payment": "in_arrears", "effective_from": from}));
    let dearer = version(
        json!({"payment": "in_advance", "unit_amount": "2", "proration": "days", "effective_from": from}),
    );
    for (first, second) in [(&in_advance, &in_arrears), (&in_arrears, &in_advance)] {
        let mut catalog = catalog();
        assert_eq!(catalog.apply(first.clone(), 100), Ok(Change::Create));
        let refused = catalog.apply(second.clone(), 101).unwrap_err();
        assert_eq!(refused.rule.name(), "window_must_fit");
    }
    let mut catalog = catalog();
    catalog.apply(in_advance, 100).unwrap();
    assert_eq!(catalog.apply(dearer, 101), Ok(Change::NewVersion(2)));
}
