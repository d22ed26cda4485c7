//! What a statement says of sources, whatever the order in which shards answer.

use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use wire::control::{ClockKind, ControlRecord, Genesis};
use wire::{BatchBuilder, IdMode};

use super::*;
use crate::usage_query::{Arrival, plan_of};

/// A machine whose account has two prices, each of a meter that takes events of type `use`.
fn machine() -> Machine {
    let mut machine = Machine::new(1);
    let mut offset = 0;
    let mut apply = |machine: &mut Machine, record: &ControlRecord| {
        machine.apply(offset, record).unwrap();
        offset += 1;
    };
    apply(
        &mut machine,
        &ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: "0".repeat(32),
            clock: ClockKind::Scenario,
            epoch: crate::RATING_EPOCH.to_string(),
            made_by: "a test".to_string(),
        }),
    );
    for (kind, id, body) in [
        ("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" })),
        ("accounts", "acme", json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" })),
        ("meters", "sum", json!({ "event_type": "use", "aggregation": "sum", "value": "v" })),
        ("meters", "count", json!({ "event_type": "use", "aggregation": "count" })),
        ("plans", "pro", json!({ "currency": "USD" })),
        (
            "prices",
            "a",
            json!({ "plan": "pro", "meter": "sum", "model": "per_unit", "unit_amount": "1", "window": "month" }),
        ),
        (
            "prices",
            "b",
            json!({ "plan": "pro", "meter": "count", "model": "per_unit", "unit_amount": "1", "window": "month" }),
        ),
        ("subscriptions", "s", json!({ "account": "acme", "plan": "pro", "from": "2026-01-01T00:00:00Z" })),
        ("subjects", "k", json!({ "subscription": "s", "from": "2026-01-01T00:00:00Z" })),
    ] {
        let record = machine.propose_put(kind, id, body, "test").unwrap().unwrap();
        apply(&mut machine, &record);
    }
    machine
}

/// Of an event with two meters, the second one was asked about with the next chunk: answers of other shards came in between, and
/// the event was counted twice for its source.
#[test]
fn an_event_is_counted_once_for_its_source_however_its_meters_are_asked_about() {
    let (machine, key) = (machine(), IdentityKey::new(0));
    let (account, period) = (AccountId::new("acme").unwrap(), domain::Period::parse("2026-01").unwrap());
    let (catalog, plan) = (machine.control().catalog(), plan_of(machine.control()));
    let terms = CompletenessTerms::of(catalog, plan, &account, period).unwrap();
    let at = Timestamp::parse("2026-01-09T00:00:00Z").unwrap();
    let mut builder = BatchBuilder::new("edge", "use", IdMode::Given);
    for id in [b"1", b"2", b"3"] {
        builder.push_parts(id, "k", at.nanoseconds(), &[("v", 2, 0)], &[]).unwrap();
    }
    let batch = PreparedBatch::prepare(Arc::new(builder.finish(1, 0)), None, at, key, 1).unwrap();
    let mut candidates = Vec::new();
    let mut completeness = Completeness::new(terms);
    let logged = LoggedBatch {
        view: &batch.view(),
        refusals: &[],
        offset: 64,
        first_index: 0,
        control_offset: u64::MAX,
        arrival: Some(Arrival { received_at: at, recorded_at: at }),
    };
    completeness.select(logged, key, &mut candidates).unwrap();
    assert_eq!(candidates.len(), 6, "three events, and two meters of each");
    for answered in [0, 2, 4, 5, 3, 1] {
        completeness.add(&candidates[answered]).unwrap();
    }
    let statement = completeness.finish(Charged::of(&machine, &account, Span::new(at, at)));
    assert!(statement.prices().values().all(|price| price.counted.count == 3));
    let said = statement.to_json(AsOf { usage_offset: 0, control_offset: 0 });
    assert_eq!(said["sources"][0]["event_count"], 3);
    assert_eq!(said["sources"][0]["latest_counted"], json!(at));
}
