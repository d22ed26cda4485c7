//! An end of remembering: what may come again, what is set aside, what a person may do about it, and what replay says of a
//! record that cannot be.

use std::sync::Arc;

use domain::Timestamp;
use domain::time::{DAY, HOUR};
use serde_json::json;
use wire::control::ControlRecord;
use wire::verdict::Verdict;
use wire::{BatchBuilder, EventIdOwned, IdMode};

use super::world::World;
use crate::control::default_policy;
use crate::{CorrectionKind, CorrectionRequest, ReplayError};

/// When the first batch arrives.
fn start() -> Timestamp {
    Timestamp::parse("2026-02-01T00:00:00Z").unwrap()
}

fn world() -> World {
    let mut world = World::new(2, &default_policy());
    world.put("entities", "inc", &json!({ "currency": "USD", "time_zone": "UTC" }));
    world.put("meters", "tokens", &json!({ "event_type": "call", "aggregation": "sum", "value": "tokens" }));
    world.barrier(false);
    world
}

/// Events as id, time after the start, and tokens; all arrive at an instant after the start. Gives their verdicts.
fn send(world: &mut World, received_at: i64, events: &[(&str, i64, i128)]) -> Vec<String> {
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given);
    for (id, time, tokens) in events {
        let time = start().plus(*time).nanoseconds();
        builder.push_parts(id.as_bytes(), "k", time, &[("tokens", *tokens, 0)], &[]).unwrap();
    }
    let codes = world.take_usage(&Arc::new(builder.finish(1, 0)), start().plus(received_at));
    codes.into_iter().map(|code| Verdict::from_code(code).unwrap().to_string()).collect()
}

fn correct(world: &mut World, id: &str, kind: CorrectionKind) -> Result<bool, &'static str> {
    let request = CorrectionRequest {
        source: "edge".to_string(),
        id: EventIdOwned::Text(id.to_string()),
        kind,
        actor: "a test".to_string(),
        reason: "it was wrong".to_string(),
    };
    world.correct(request, start().plus(DAY))
}

/// Forgets every batch but the last two.
fn forget(world: &mut World, batches: usize) {
    let share = (256 * (batches - 2)).div_ceil(batches) as u8;
    assert_eq!(world.forget(share).map(|(forgotten, _)| forgotten), Some(batches - 2));
    world.barrier(false);
}

/// A day after their arrival, ids are forgotten of events that counted, and of some that did not.
fn forgetful() -> World {
    let mut world = world();
    let first = [
        ("a", 0, 1),
        ("ahead", HOUR, 1),
        ("future", 2 * HOUR, 1),
        ("old", -36 * DAY, 1),
        ("less", 0, -1),
        ("void", 0, 1),
    ];
    let verdicts = [
        "pending",
        "pending",
        "quarantined: future",
        "quarantined: too_old",
        "quarantined: negative_usage",
        "pending",
    ];
    assert_eq!(send(&mut world, 0, &first), verdicts);
    assert_eq!(correct(&mut world, "void", CorrectionKind::Void), Ok(true));
    world.barrier(false);
    send(&mut world, DAY, &[("b", DAY, 1)]);
    send(&mut world, DAY, &[("c", DAY, 1)]);
    forget(&mut world, 3);
    world
}

#[test]
fn what_may_be_forgotten_is_set_aside_and_what_may_yet_count_stays_known() {
    let mut world = forgetful();
    let again = [
        // Whatever was accepted before the place is earlier than an hour behind its arrival.
        ("a", 0, 1, "quarantined: too_old"),
        ("ahead", HOUR, 1, "quarantined: too_old"),
        ("never", HOUR, 1, "quarantined: too_old"),
        ("never", HOUR, 1, "quarantined: too_old"),
        ("later", HOUR + 1, 1, "pending"),
        // What is set aside is remembered.
        ("a", HOUR + 1, 1, "quarantined: too_old"),
        // What was set aside may be released, and what was taken back stays so.
        ("future", 2 * HOUR, 1, "quarantined: future"),
        ("future", 3 * HOUR, 1, "quarantined: future"),
        ("old", -36 * DAY, 1, "quarantined: too_old"),
        ("less", 0, 5, "conflict"),
        ("void", 0, 1, "duplicate"),
        ("b", DAY, 1, "duplicate"),
    ];
    for (id, time, tokens, verdict) in again {
        assert_eq!(send(&mut world, DAY, &[(id, time, tokens)]), [verdict], "{id} {time}");
    }
    assert!(world.try_replay(1).is_ok());
}

/// With too many ids in an hour, all usage of the next hour was set aside: what was forgotten might have been of it.
#[test]
fn usage_of_the_present_counts_when_what_is_forgotten_happened_before() {
    let mut world = world();
    send(&mut world, 0, &[("a", 0, 1), ("future", 2 * HOUR, 1)]);
    send(&mut world, 1, &[("b", 1, 1)]);
    send(&mut world, 2, &[("c", 2, 1)]);
    forget(&mut world, 3);
    let again = [
        ("a", 0, "quarantined: too_old"),
        ("d", 1, "pending"),
        ("e", 3, "pending"),
        ("future", 2 * HOUR, "quarantined: future"),
    ];
    for (id, time, verdict) in again {
        assert_eq!(send(&mut world, 3, &[(id, time, 1)]), [verdict], "{id} {time}");
    }
    assert!(world.try_replay(1).is_ok());
    world.misstate_forgotten(|forgotten| forgotten.happened_until = Some(start().plus(-1)));
    let error = world.try_replay(1).err();
    assert!(matches!(error, Some(ReplayError::ForgottenMustBeEarlier { .. })), "{error:?}");
}

/// The record named 1990, which no record says: it could not be read again.
#[test]
fn what_is_forgotten_of_before_all_supported_years_is_said_as_their_first_instant() {
    let mut world = world();
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
    let time = start().plus(-36 * 365 * DAY).nanoseconds();
    builder.push_parts(b"ancient", "k", time, &[("tokens", 1, 0)], &[]).unwrap();
    world.take_usage(&Arc::new(builder.finish(1, 0)), start());
    send(&mut world, 1, &[("b", 1, 1)]);
    send(&mut world, 2, &[("c", 2, 1)]);
    forget(&mut world, 3);
    let forgotten = world.machine.control().forgotten().unwrap().clone();
    assert_eq!(forgotten.happened_until, Some(Timestamp::MIN));
    let record = ControlRecord::IdsForgotten(forgotten);
    assert_eq!(ControlRecord::decode(&record.encode()).unwrap(), record);
    assert!(world.try_replay(1).is_ok());
}

#[test]
fn an_id_that_was_forgotten_is_free_for_a_later_event() {
    let mut world = forgetful();
    assert_eq!(send(&mut world, DAY, &[("a", DAY, 1)]), ["pending"]);
    assert_eq!(send(&mut world, DAY, &[("a", DAY, 1), ("a", 0, 1)]), ["duplicate", "duplicate_restamped"]);
    assert_eq!(correct(&mut world, "a", CorrectionKind::Void), Ok(true));
    world.barrier(false);
    assert_eq!((world.counters().pending, world.counters().voided), (4, 2), "the first one counts still");
    assert_eq!(send(&mut world, DAY, &[("a", DAY, 1)]), ["duplicate"]);
    assert!(world.try_replay(8).is_ok());
}

/// An event ahead of its time was set aside, forgotten and released, and its repeat was taken for new: it counted twice.
#[test]
fn a_released_event_does_not_count_again_when_its_id_was_forgotten() {
    for releases_first in [true, false] {
        let mut world = world();
        send(&mut world, 0, &[("future", 2 * HOUR, 1)]);
        if releases_first {
            assert_eq!(correct(&mut world, "future", CorrectionKind::Release), Ok(true));
            world.barrier(false);
        }
        send(&mut world, DAY, &[("b", DAY, 1)]);
        send(&mut world, DAY, &[("c", DAY, 1)]);
        forget(&mut world, 3);
        if !releases_first {
            assert_eq!(correct(&mut world, "future", CorrectionKind::Release), Ok(true));
            world.barrier(false);
        }
        assert_eq!(send(&mut world, DAY, &[("future", 2 * HOUR, 1)]), ["duplicate"]);
        assert_eq!(world.counters().pending, 3);
    }
}

#[test]
fn an_event_that_may_be_one_that_counts_is_not_released() {
    let mut world = forgetful();
    assert_eq!(send(&mut world, DAY, &[("a", 0, 1), ("never", 0, 1)]), ["quarantined: too_old"; 2]);
    assert_eq!(correct(&mut world, "a", CorrectionKind::Release), Err("event_must_not_count_already"));
    assert_eq!(correct(&mut world, "never", CorrectionKind::Release), Ok(true), "nobody ever saw it");
    assert_eq!(correct(&mut world, "a", CorrectionKind::Discard), Ok(true));
    world.barrier(false);
    assert_eq!(world.counters().pending, 5);
    assert!(world.try_replay(8).is_ok());
}

#[test]
fn a_forgotten_event_can_be_corrected() {
    let mut world = forgetful();
    assert_eq!(correct(&mut world, "ahead", CorrectionKind::Void), Ok(true));
    world.barrier(false);
    assert_eq!((world.counters().pending, world.counters().voided), (3, 2));
    assert_eq!(
        send(&mut world, DAY, &[("ahead", HOUR, 1)]),
        ["duplicate"],
        "who corrects an event remembers it"
    );
}

#[test]
fn a_record_that_forgets_what_is_to_come_or_cannot_be_proven_is_damage() {
    let mut world = forgetful();
    assert!(world.try_replay(1).is_ok());
    world.misstate_forgotten(|forgotten| forgotten.arrived_until = forgotten.arrived_until.plus(-1));
    let error = world.try_replay(1).err();
    assert!(matches!(error, Some(ReplayError::ForgottenMustBeProven { .. })), "{error:?}");
    world.misstate_forgotten(|forgotten| {
        forgotten.arrived_until = forgotten.arrived_until.plus(40 * DAY);
        forgotten.before = 1 << 40;
        forgotten.happened_until = None;
    });
    let error = world.try_replay(1).err();
    assert!(matches!(error, Some(ReplayError::ForgottenMustBePast { .. })), "{error:?}");
}
