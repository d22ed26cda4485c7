//! Streams of events: the same for the same seed, with the shares that the scenario asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::scenario::{BUILT_IN, Scenario};

/// The end of a month is near, so late events lie in two of them.
fn start() -> Timestamp {
    Timestamp::parse("2026-03-01T12:00:00Z").unwrap()
}

fn plan(text: &str) -> Arc<Plan> {
    let text = format!("scenario = 1\nabout = \"x\"\n[load]\nevents = 1\n{text}");
    let scenario = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(Plan::new(&scenario, "lgtest", start()).unwrap())
}

/// Events of a connection as text: id, subject, time, hundredths, picks.
fn stream(plan: &Arc<Plan>, connection: u64, count: usize) -> Vec<String> {
    let mut generator = Generator::new(plan.clone(), connection);
    let mut texts = Texts::default();
    (0..count)
        .map(|_| {
            let generated = generator.next();
            generator.write(&generated, &mut texts);
            let Texts { id, subject, picks } = &texts;
            format!("{id} {subject} {} {} {picks:?}", generated.time, generated.hundredths)
        })
        .collect()
}

#[test]
fn a_seed_gives_the_same_stream_and_another_seed_another() {
    for built_in in
        BUILT_IN.iter().filter(|built_in| built_in.name != "trace" && built_in.name != "many-subjects")
    {
        let mut scenario = Scenario::parse(built_in.name, built_in.text).unwrap();
        let of = |scenario: &Scenario, connection| {
            stream(&Arc::new(Plan::new(scenario, "lgtest", start()).unwrap()), connection, 500)
        };
        let first = of(&scenario, 0);
        assert_eq!(first, of(&scenario, 0), "{}", built_in.name);
        assert_ne!(first, of(&scenario, 1), "{}", built_in.name);
        scenario.load.seed += 1;
        assert_ne!(first, of(&scenario, 0), "{}", built_in.name);
    }
}

#[test]
fn the_first_events_of_a_seed_are_these() {
    // If this changes, runs of different versions are different loads.
    let plan = plan(
        "skew = 0.0\naccounts = 50\n[ids]\nduplicates = 100\n[time]\nlate = 100\ndisorder = 100\n[[dimension]]\nname = \"d\"\ndistinct = 9\n",
    );
    let shown = stream(&plan, 3, 4);
    assert_eq!(
        shown,
        [
            "0003000000000000 lgtest-key-000009 1772366400000000750 69585 [7]",
            "0003000000000001 lgtest-key-000001 1772366349274962194 2209 [4]",
            "0003000000000002 lgtest-key-000004 1772366400000001250 10223 [4]",
            "0003000000000003 lgtest-key-000005 1772366391146177414 85293 [1]",
        ]
    );
}

#[test]
fn ids_of_different_events_differ_and_have_their_shape() {
    for (shape, length) in [("hex16", 16), ("uuid", 36), ("ulid", 26), ("long", 128)] {
        let plan = plan(&format!("[ids]\nshape = \"{shape}\"\n[send]\nconnections = 300\n"));
        let mut seen = BTreeSet::new();
        for connection in [0, 1, 2, 299] {
            for event in stream(&plan, connection, 2_000) {
                let id = event.split(' ').next().unwrap().to_string();
                assert_eq!(id.len(), length, "{id}");
                assert!(seen.insert(id), "{event}");
            }
        }
    }
    let plan = plan("[ids]\nshape = \"uuid\"\n");
    let first = &stream(&plan, 0, 1)[0];
    assert_eq!((first.as_bytes()[14], first.as_bytes()[8]), (b'4', b'-'), "{first}");
}

#[test]
fn shares_of_duplicates_and_times_are_those_of_the_scenario() {
    let plan = plan(
        "[ids]\nduplicates = 200\n[time]\nlate = 100\nlate_hours = 24\ndisorder = 300\ndisorder_seconds = 60\n",
    );
    let mut generator = Generator::new(plan, 0);
    let count = 50_000;
    let (mut late, mut disordered, mut ids) = (0, 0, BTreeSet::new());
    for _ in 0..count {
        let generated = generator.next();
        // Due times of 50,000 events are 12 ms; everything further back was put there.
        let back = start().nanoseconds() + generated.due as i64 - generated.time;
        if ids.insert(generated.number) {
            late += u32::from(back > 60 * SECOND);
            disordered += u32::from(back > 0 && back <= 60 * SECOND);
        }
        assert!(back < 24 * HOUR + SECOND);
    }
    let distinct = ids.len() as f64;
    assert_eq!(generator.distinct(), ids.len() as u64);
    assert!((distinct / f64::from(count) - 0.8).abs() < 0.01, "{distinct}");
    assert!((f64::from(late) / distinct - 0.1).abs() < 0.01, "{late} of {distinct}");
    assert!((f64::from(disordered) / distinct - 0.3).abs() < 0.01, "{disordered} of {distinct}");
}

#[test]
fn the_oracle_counts_every_distinct_event_once_in_its_month() {
    let plan = plan("accounts = 7\nsubjects = 20\n[ids]\nduplicates = 500\n[time]\nlate = 500\n");
    let mut generator = Generator::new(plan.clone(), 0);
    let mut slow: BTreeMap<(u32, String), i64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for _ in 0..5_000 {
        let generated = generator.next();
        if seen.insert(generated.number) {
            let month = Timestamp::from_nanoseconds(generated.time).to_string()[..7].to_string();
            *slow.entry((generated.subject % 7, month)).or_default() += generated.hundredths;
        }
    }
    let told = plan.oracle.told(generator.distinct());
    let found: BTreeMap<(u32, String), i64> =
        told.expected().into_iter().map(|(key, (hundredths, _))| (key, hundredths as i64)).collect();
    assert_eq!(found, slow);
    assert_eq!(told.events, seen.len() as u64);
    assert_eq!(told.months.len(), 2, "late events lie in the month before");
}

#[test]
fn subjects_have_fixed_names() {
    for (subject, expected) in
        [(0, "r-key-000000"), (42, "r-key-000042"), (999_999, "r-key-999999"), (1_000_000, "r-key-1000000")]
    {
        let mut name = String::new();
        write_subject(&mut name, "r", subject);
        assert_eq!(name, expected);
    }
}
