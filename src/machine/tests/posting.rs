//! To which ledger account what is taken off a subscription posts.

use billing::charges::{Component, PostingClass};
use domain::Timestamp;
use domain::time::{DAY, HOUR};
use serde_json::json;
use wire::control::PolicyRecord;

use super::world::World;

/// A discount of a subscription was one line that posted as usage, also where all that it took off was charged in advance.
#[test]
fn what_is_taken_off_a_subscription_posts_as_what_it_is_taken_off() {
    let policy = PolicyRecord {
        horizon: 60 * DAY,
        future_max: HOUR,
        pending_per_slot_max: 256,
        grace: 5 * DAY,
        correction_horizon: 400 * DAY,
    };
    let mut world = World::new(1, &policy);
    let flat = |payment: &str| json!({ "plan": "pro", "model": "flat", "window": "month", "unit_amount": "100", "payment": payment });
    let at_zero = json!({
        "plan": "pro", "model": "graduated", "window": "month", "meter": "calls", "tiers": [{ "unit_amount": "1", "flat_amount": "100" }],
    });
    for (kind, id, body) in [
        ("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" })),
        ("accounts", "acme", json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" })),
        ("meters", "calls", json!({ "event_type": "call", "aggregation": "count" })),
        ("plans", "pro", json!({ "currency": "USD" })),
        ("prices", "ahead", flat("in_advance")),
        ("prices", "behind", flat("in_arrears")),
        ("prices", "calls", at_zero),
        (
            "subscriptions",
            "s",
            json!({
                "account": "acme", "plan": "pro", "from": "2026-01-01T00:00:00Z", "discounts": [{ "percent": "10" }], "maximum": "240",
            }),
        ),
    ] {
        assert_eq!(world.put(kind, id, &body), Some(1), "{kind} {id}");
    }
    world.start_cut(Timestamp::parse("2026-02-01T00:00:00Z").unwrap());
    let batch = world.finish_cut().unwrap();
    let january = batch.lines.iter().filter(|line| line.window.from.to_string().starts_with("2026-01"));
    let posted: Vec<_> = january
        .map(|line| {
            (
                line.price.clone().unwrap().to_string(),
                line.component,
                line.posting_class,
                line.rounded_minor(),
            )
        })
        .collect();
    let mut expected = Vec::new();
    for (price, class) in [
        ("ahead", PostingClass::Deferred),
        ("behind", PostingClass::EarnedSubscription),
        ("calls", PostingClass::EarnedUsage),
    ] {
        for (component, minor) in
            [(Component::Charge, 10_000), (Component::Discount, -1_000), (Component::Maximum, -1_000)]
        {
            expected.push((price.to_string(), component, class, minor));
        }
    }
    assert_eq!(posted, expected);
}
