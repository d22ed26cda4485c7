//! Which corrections are refused, in order of precedence, and what replay says of a correction that cannot be.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::time::{DAY, HOUR};
use domain::{Decimal, Timestamp};
use serde_json::json;
use wire::{BatchBuilder, EventIdOwned, IdMode};

use super::world::World;
use crate::control::default_policy;
use crate::{Amendment, CorrectionKind, CorrectionRequest, ReplayError};

/// When everything arrives.
fn start() -> Timestamp {
    Timestamp::parse("2026-02-01T00:00:00Z").unwrap()
}

/// A meter of tokens, and events: one that counts, one that is too old, one that no meter can take, one that is voided.
fn world() -> World {
    let mut world = World::new(2, &default_policy());
    world.put("entities", "inc", &json!({ "currency": "USD", "time_zone": "UTC" }));
    world.put("meters", "tokens", &json!({ "event_type": "call", "aggregation": "sum", "value": "tokens" }));
    world.barrier(false);
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given);
    for (id, age, tokens) in [("a", HOUR, 1), ("old", 36 * DAY, 1), ("less", HOUR, -1), ("gone", HOUR, 1)] {
        let time = start().plus(-age).nanoseconds();
        builder.push_parts(id.as_bytes(), "k", time, &[("tokens", tokens, 0)], &[]).unwrap();
    }
    world.take_usage(&Arc::new(builder.finish(1, 0)), start());
    assert_eq!(correct(&mut world, "gone", CorrectionKind::Void, "sent twice", 0), Ok(true));
    world.barrier(false);
    world
}

fn correct(
    world: &mut World,
    id: &str,
    kind: CorrectionKind,
    reason: &str,
    days: i64,
) -> Result<bool, &'static str> {
    let id = EventIdOwned::Text(id.to_string());
    let (source, actor, reason) = ("edge".to_string(), "a test".to_string(), reason.to_string());
    world.correct(CorrectionRequest { source, id, kind, actor, reason }, start().plus(days * DAY))
}

fn amend(subject: &str, tokens: i64) -> CorrectionKind {
    CorrectionKind::Amend(Amendment {
        subject: Some(subject.to_string()),
        values: Some([("tokens".to_string(), Decimal::from_integer(tokens))].into()),
        ..Amendment::default()
    })
}

#[test]
fn a_correction_is_refused_by_the_first_rule_that_it_breaks() {
    use CorrectionKind::{Discard, Release, Void};
    let long = "x".repeat(1_025);
    let table = [
        ("none", Void, "", 500, "reason_must_fit"),
        ("a", Void, &long, 0, "reason_must_fit"),
        ("none", amend("", 1), "x", 500, "event_must_be_known"),
        ("gone", amend("", 1), "x", 500, "event_must_not_be_voided"),
        ("gone", Void, "another reason", 0, "event_must_not_be_voided"),
        ("gone", Discard, "sent twice", 0, "event_must_not_be_voided"),
        ("a", amend("", 1), "x", 401, "event_must_be_within_correction_horizon"),
        ("a", Release, "x", 401, "event_must_be_within_correction_horizon"),
        ("a", Release, "x", 400, "event_must_be_in_quarantine"),
        ("a", Discard, "x", 0, "event_must_be_in_quarantine"),
        ("less", Release, "x", 0, "event_must_be_amended"),
        ("a", amend("", 1), "x", 0, "content_must_fit"),
    ];
    let mut world = world();
    let mut broken = BTreeSet::new();
    for (id, kind, reason, days, status) in table {
        assert_eq!(correct(&mut world, id, kind.clone(), reason, days), Err(status), "{id} {kind:?}");
        broken.insert(status);
    }
    assert_eq!(broken.len(), 7, "every status is in the table");
    let records = world.machine.control().records();
    assert_eq!(correct(&mut world, "gone", Void, "sent twice", 500), Ok(false), "it is voided");
    assert_eq!(correct(&mut world, "a", amend("k", 1), "x", 0), Ok(false), "it says so");
    assert_eq!(world.machine.control().records(), records);
    assert_eq!(correct(&mut world, "old", Release, "x", 400), Ok(true), "the last instant is inside");
    world.barrier(false);
    assert_eq!(correct(&mut world, "old", Release, "x", 400), Ok(false), "it is released");
    assert_eq!(correct(&mut world, "less", amend("k", 5), "x", 0), Ok(true), "what is amended is released");
    assert_eq!(correct(&mut world, "a", Void, &long[1..], 0), Ok(true), "the longest reason");
    assert_eq!((world.counters().pending, world.counters().voided), (2, 1), "at the barrier");
    world.barrier(false);
    assert_eq!((world.counters().pending, world.counters().voided), (2, 2));
}

#[test]
fn a_correction_of_what_is_not_there_is_damage() {
    let mut world = world();
    let placed = world.try_replay(1);
    assert!(placed.is_ok(), "{:?}", placed.err());
    world.misplace_last_correction();
    let misplaced = world.try_replay(1);
    assert!(matches!(misplaced, Err(ReplayError::CorrectedEventMustExist { .. })), "{:?}", misplaced.err());
}
