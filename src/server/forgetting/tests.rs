//! When ids are forgotten, and before which place: of a log with one block a day.

use engine::log::LogWriter;
use machine::Machine;
use wire::control::{ClockKind, ControlRecord, Genesis};

use super::*;

const DEDUP: i64 = 40 * DAY;

fn day(number: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(number * DAY)
}

/// A directory whose usage log has a block of each of 50 days, and what the control log says.
struct World {
    _data: tempfile::TempDir,
    directory: DataDirectory,
    machine: Machine,
    records: u64,
    /// Where the block of each day ends.
    ends: Vec<u64>,
    ids: Arc<IdCounts>,
}

impl World {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let directory = DataDirectory::new(data.path(), 64 << 10);
        let (log, options) = (directory.log(LogKind::Usage).unwrap(), directory.options(LogKind::Usage));
        let mut writer = LogWriter::recover::<LogError>(log, options, &mut |_| Ok(())).unwrap().0;
        let mut ends = Vec::new();
        for number in 0..50 {
            let now = day(number).nanoseconds();
            writer.stage(1, now, &[b"a batch"]).unwrap();
            ends.push(writer.commit(now).unwrap().end_offset);
        }
        let ids = Arc::new(IdCounts::new(2));
        let mut world = Self { _data: data, directory, machine: Machine::new(2), records: 0, ends, ids };
        world.apply(&ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: "0".repeat(32),
            clock: ClockKind::Scenario,
            epoch: machine::RATING_EPOCH.to_string(),
            made_by: "a test".to_string(),
        }));
        world
    }

    fn apply(&mut self, record: &ControlRecord) {
        self.machine.apply(self.records, record).unwrap();
        self.records += 1;
    }

    fn forgetting(&self, dedup: i64, ids_max: u64) -> Forgetting {
        Forgetting::new(dedup, ids_max, self.ids.clone())
    }

    fn end(&self) -> u64 {
        *self.ends.last().unwrap()
    }

    /// The day whose block is the last that is forgotten now, if ids are to be.
    fn is_due(&self, forgetting: &mut Forgetting, now: Timestamp) -> Option<IdsForgotten> {
        forgetting.is_due(self.machine.control(), now, &self.directory, self.end()).unwrap()
    }

    fn too_many(&self, forgetting: &mut Forgetting, stretches: &[(u64, u64)]) -> Option<IdsForgotten> {
        let control = self.machine.control();
        forgetting.too_many(control, stretches.to_vec(), &self.directory, self.end()).unwrap()
    }

    fn forgotten(&self, last: i64, because: ForgottenBecause, ids: u64) -> Option<IdsForgotten> {
        let before = self.ends[usize::try_from(last).unwrap()];
        Some(IdsForgotten { before, arrived_until: day(last), because, ids, happened_until: None })
    }
}

#[test]
fn ids_are_forgotten_after_their_days_and_looked_for_once_an_hour() {
    let world = World::new();
    let mut forgetting = world.forgetting(DEDUP, 1_000);
    assert_eq!(world.is_due(&mut forgetting, day(45)), None, "there is no id");
    world.ids.set(0, 3);
    world.ids.set(1, 4);
    assert_eq!(world.is_due(&mut forgetting, day(39)), None, "none is so old");
    let days = |last| world.forgotten(last, ForgottenBecause::DedupDays, 7);
    assert_eq!(world.is_due(&mut forgetting, day(39).plus(HOUR - 1)), None);
    assert_eq!(world.is_due(&mut forgetting, day(40).plus(-1)), None, "a nanosecond is missing");
    assert_eq!(world.is_due(&mut forgetting, day(45)), days(5));
    assert_eq!(world.is_due(&mut forgetting, day(47)), days(7), "nobody recorded it, and it is asked again");
    assert_eq!(world.is_due(&mut forgetting, day(47).plus(HOUR - 1)), None, "not within the hour");
    assert_eq!(world.is_due(&mut forgetting, day(400)), days(49));
}

#[test]
fn ids_are_remembered_as_long_as_an_event_with_them_may_come() {
    let world = World::new();
    world.ids.set(0, 7);
    let mut forgetting = world.forgetting(DAY, 1_000);
    // The horizon is 35 days, and events may be an hour ahead.
    let horizon = day(5).plus(35 * DAY + HOUR + 1);
    let days = |last| world.forgotten(last, ForgottenBecause::DedupDays, 7);
    assert_eq!(world.is_due(&mut forgetting, horizon.plus(-1)), days(4));
    assert_eq!(world.is_due(&mut forgetting, horizon.plus(HOUR)), days(5));
}

#[test]
fn after_a_record_a_day_of_usage_must_be_old_enough_before_the_next() {
    let mut world = World::new();
    world.ids.set(0, 7);
    let mut forgetting = world.forgetting(DEDUP, 1_000);
    let first = world.is_due(&mut forgetting, day(45)).unwrap();
    world.apply(&ControlRecord::IdsForgotten(first));
    assert_eq!(world.is_due(&mut forgetting, day(46).plus(-1)), None);
    let next = world.forgotten(6, ForgottenBecause::DedupDays, 7);
    assert_eq!(world.is_due(&mut forgetting, day(46).plus(HOUR)), next);
    let mut again = world.forgetting(DEDUP, 1_000);
    assert_eq!(world.is_due(&mut again, day(45).plus(HOUR)), None, "a restart forgets nothing twice");
}

#[test]
fn too_many_ids_make_an_eighth_of_the_room_free() {
    let mut world = World::new();
    let mut forgetting = world.forgetting(DEDUP, 80);
    world.ids.set(0, 80);
    assert!(!forgetting.are_too_many(), "as many as there may be");
    world.ids.set(1, 1);
    assert!(forgetting.are_too_many());
    // Of 100 ids, ten a stretch of five days, at most 70 are left.
    let stretches: Vec<(u64, u64)> = (0..10).map(|part| (world.ends[part * 5], 10)).collect();
    let found = world.too_many(&mut forgetting, &stretches).unwrap();
    assert_eq!(Some(found.clone()), world.forgotten(15, ForgottenBecause::IdsMax, 81));
    world.apply(&ControlRecord::IdsForgotten(found.clone()));
    let control = world.machine.control();
    forgetting.on_forgotten(&found, control.forgotten_ids().proven_from, control.forgotten_ids().proven_from);
    assert!(forgetting.are_too_many(), "shards say how many are left when they pass the barrier");

    // The same place again makes no room: it is looked for when there are more.
    assert_eq!(world.too_many(&mut forgetting, &stretches), None);
    assert!(!forgetting.are_too_many());
    world.ids.set(1, 2);
    assert!(!forgetting.are_too_many());
    world.ids.set(1, 3);
    assert!(forgetting.are_too_many(), "a 64th and one more");
}

#[test]
fn all_ids_go_if_even_the_newest_stretch_is_too_large() {
    let world = World::new();
    world.ids.set(0, 100);
    let mut forgetting = world.forgetting(DEDUP, 80);
    let stretches = [(world.ends[0], 5), (world.ends[40], 95)];
    let all = world.forgotten(49, ForgottenBecause::IdsMax, 100);
    assert_eq!(world.too_many(&mut forgetting, &stretches), all);
}
