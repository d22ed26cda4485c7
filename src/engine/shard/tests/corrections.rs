//! What a correction changes, as tables: each row is a correction, where its event stands afterwards, and the cells.
//!
//! Owns: the rules one by one (`histories` tries them all at once). Leaves to others: who may correct what (`machine`).

use domain::plan::{MeterProgram, MeteringPlan};

use super::super::snapshot::SECTION_BYTES;
use super::world::{World, count, owned, plan, sum};
use crate::snapshot::SectionKind;

fn both() -> MeteringPlan {
    owned(plan([sum("units"), count("calls")]), "k", &[(0, 1_000, &[500])])
}

/// A world in which events were sent, all received at 50.
fn world(events: &[&str]) -> World {
    let mut world = World::new(2);
    world.barrier(both());
    for event in events {
        world.send(50, "s", "use", &[event]);
    }
    world
}

/// Corrects at one barrier each; asserts where each event stands then, and what the cells are.
fn check(world: &mut World, plan: fn() -> MeteringPlan, table: &[(&str, &str, &[&str])]) {
    for (correction, standing, cells) in table {
        let id = correction.split(' ').nth(1).unwrap();
        world.correct("s", correction);
        world.barrier(plan());
        assert_eq!(world.standing("s", id).as_deref(), Some(*standing), "{correction}");
        assert_eq!(world.cells(), *cells, "{correction}");
        let counters = world.counters("s");
        assert_eq!(counters.received(), world.sent("s"), "{correction}: nothing vanishes");
        assert_eq!(
            world.set_aside() as u64,
            counters.quarantined_total() + counters.conflict,
            "{correction}"
        );
    }
}

#[test]
fn a_voided_event_leaves_its_cells_and_its_id_stays_known() {
    let mut world = world(&["a k 10 units=2", "b k 20 units=0.5"]);
    world.send(600, "s", "use", &["c k 600 units=7"]);
    check(
        &mut world,
        both,
        &[
            (
                "void a",
                "voided",
                &[
                    "k calls from 0: 1 events, 1",
                    "k calls from 500: 1 events, 1",
                    "k units from 0: 1 events, 0.5",
                    "k units from 500: 1 events, 7",
                ],
            ),
            ("void b", "voided", &["k calls from 500: 1 events, 1", "k units from 500: 1 events, 7"]),
            ("void c", "voided", &[]),
        ],
    );
    assert_eq!(world.counters("s").voided, 3);
    let again = world.send(50, "s", "use", &["a k 10 units=2", "b k 21 units=0.5", "c k 600 units=8"]);
    assert_eq!(
        again,
        ["duplicate", "duplicate_restamped", "conflict"],
        "what was taken back is sent in vain"
    );
    assert_eq!(world.cells(), Vec::<String>::new());
}

#[test]
fn a_void_takes_whatever_became_of_the_event() {
    let mut world = world(&["p nobody 10 units=2", "q k -90 units=2", "m k 10"]);
    world.send(50, "s", "other", &["u k 10 units=2"]);
    for (id, standing) in [
        ("p", "pending"),
        ("q", "quarantined: too_old"),
        ("m", "quarantined: missing_value"),
        ("u", "unmetered"),
    ] {
        assert_eq!(world.standing("s", id).as_deref(), Some(standing));
    }
    let voided: [(&str, &str, &[&str]); 4] = [
        ("void p", "voided", &[]),
        ("void q", "voided", &[]),
        ("void m", "voided", &[]),
        ("void u", "voided", &[]),
    ];
    check(&mut world, both, &voided);
    // Nobody waits any more, so that an owner who comes finds nothing.
    world.barrier(owned(both(), "nobody", &[(0, 1_000, &[])]));
    assert_eq!(world.cells(), Vec::<String>::new());
}

#[test]
fn an_amended_event_counts_as_its_new_content_says() {
    let mut world = world(&["a k 10 units=2", "b k 10 units=1"]);
    check(
        &mut world,
        both,
        &[
            (
                "amend a k 10 units=3",
                "metered",
                &["k calls from 0: 2 events, 2", "k units from 0: 2 events, 4"],
            ),
            (
                "amend a k 700 units=3",
                "metered",
                &[
                    "k calls from 0: 1 events, 1",
                    "k calls from 500: 1 events, 1",
                    "k units from 0: 1 events, 1",
                    "k units from 500: 1 events, 3",
                ],
            ),
            (
                "amend a nobody 700 units=3",
                "pending",
                &["k calls from 0: 1 events, 1", "k units from 0: 1 events, 1"],
            ),
            (
                "amend a k 10",
                "quarantined: missing_value",
                &["k calls from 0: 1 events, 1", "k units from 0: 1 events, 1"],
            ),
            (
                "amend a k 10 units=5",
                "metered",
                &["k calls from 0: 2 events, 2", "k units from 0: 2 events, 6"],
            ),
            ("void a", "voided", &["k calls from 0: 1 events, 1", "k units from 0: 1 events, 1"]),
        ],
    );
    let again = world.send(50, "s", "use", &["a k 10 units=2", "a k 10 units=5"]);
    assert_eq!(again, ["duplicate", "conflict"], "the id stays that of what arrived");
}

#[test]
fn a_released_event_is_judged_again_by_all_but_its_age() {
    let mut world =
        world(&["old k -60 units=2", "late k 70 units=2", "less k -60", "who nobody -60 units=1"]);
    world.barrier(owned(both(), "k", &[(-100, 1_000, &[])]));
    let early: fn() -> MeteringPlan = || owned(both(), "k", &[(-100, 1_000, &[])]);
    check(
        &mut world,
        early,
        &[
            ("release old", "metered", &["k calls from -100: 1 events, 1", "k units from -100: 1 events, 2"]),
            (
                "release late",
                "metered",
                &["k calls from -100: 2 events, 2", "k units from -100: 2 events, 4"],
            ),
            (
                "release less",
                "quarantined: missing_value",
                &["k calls from -100: 2 events, 2", "k units from -100: 2 events, 4"],
            ),
            ("release who", "pending", &["k calls from -100: 2 events, 2", "k units from -100: 2 events, 4"]),
            ("void old", "voided", &["k calls from -100: 1 events, 1", "k units from -100: 1 events, 2"]),
        ],
    );
}

/// A refold reads what arrived from the log; what counts instead of it is nowhere there.
#[test]
fn folding_again_passes_over_what_was_taken_back_and_finds_what_counts_instead() {
    let mut world = world(&[
        "a k 10 units=2",
        "b k 20 units=4",
        "c k 30 units=8",
        "d other 30 units=16",
        "e k -60 units=32",
    ]);
    for correction in
        ["void a", "amend b k 40 units=5", "amend d k 30 units=16", "amend c other 30 units=8", "release e"]
    {
        world.correct("s", correction);
    }
    world.barrier(both());
    assert_eq!(world.cells(), ["k calls from 0: 2 events, 2", "k units from 0: 2 events, 21"]);
    assert_eq!(world.standing("s", "e").as_deref(), Some("pending"));
    // Bounds come into the slice, and owners where nobody was; both with a void at the same barrier.
    world.correct("s", "void d");
    let cut = || {
        let plan = owned(plan([sum("units"), count("calls")]), "k", &[(-100, 1_000, &[35, 500])]);
        owned(plan, "other", &[(0, 1_000, &[])])
    };
    assert!(world.barrier(cut()));
    assert_eq!(
        world.cells(),
        [
            "k calls from -100: 1 events, 1",
            "k calls from 35: 1 events, 1",
            "k units from -100: 1 events, 32",
            "k units from 35: 1 events, 5",
            "other calls from 0: 1 events, 1",
            "other units from 0: 1 events, 8",
        ]
    );
    // And away again.
    assert!(world.barrier(both()));
    assert_eq!(world.cells(), ["k calls from 0: 1 events, 1", "k units from 0: 1 events, 5"]);
    let counters = world.counters("s");
    assert_eq!((counters.metered, counters.pending, counters.voided), (1, 2, 2));
}

/// An amendment stands where the event stood: a meter that came later does not take it. A release is an arrival.
#[test]
fn an_amendment_meets_the_meters_of_the_arrival_and_a_release_those_of_its_record() {
    let mut world = World::new(2);
    world.barrier(owned(plan([sum("units")]), "k", &[(-100, 1_000, &[])]));
    world.send(50, "s", "use", &["a k 10 units=2"]);
    world.send(50, "s", "use", &["old k -60 units=4"]);
    let since = world.control_offset() + 5;
    let later = || {
        let calls = MeterProgram { since_control_offset: since, ..count("calls") };
        owned(plan([sum("units"), calls]), "k", &[(-100, 1_000, &[])])
    };
    world.barrier(later());
    world.send(50, "s", "use", &["b k 10 units=8"]);
    world.correct("s", "amend a k 20 units=3");
    world.barrier(later());
    assert_eq!(world.cells(), ["k calls from -100: 1 events, 1", "k units from -100: 2 events, 11"]);
    world.correct("s", "release old");
    world.barrier(later());
    assert_eq!(world.cells(), ["k calls from -100: 2 events, 2", "k units from -100: 3 events, 15"]);
    world.correct("s", "amend old k 20 units=5");
    world.correct("s", "void b");
    world.barrier(later());
    assert_eq!(world.cells(), ["k calls from -100: 1 events, 1", "k units from -100: 2 events, 8"]);
}

#[test]
fn of_several_corrections_at_one_barrier_the_last_one_counts() {
    let mut world = world(&["a k 10 units=2", "b k -60 units=4", "c k 10 units=8"]);
    for correction in [
        "amend a k 10 units=3",
        "release b",
        "amend b k 20 units=5",
        "amend a k 10 units=7",
        "amend c k 9 units=1",
        "void c",
    ] {
        world.correct("s", correction);
    }
    world.barrier(both());
    assert_eq!(world.cells(), ["k calls from 0: 2 events, 2", "k units from 0: 2 events, 12"]);
    assert_eq!(world.standing("s", "c").as_deref(), Some("voided"));
    let counters = world.counters("s");
    assert_eq!((counters.metered, counters.voided, counters.quarantined_total()), (2, 1, 0));
}

/// Sections of a snapshot are of the moment at which it began, also those that are saved after a correction.
#[test]
fn a_snapshot_that_is_saved_after_a_correction_does_not_know_it() {
    let mut world = world(&["a k 10 units=2", "b k 20 units=4", "c nobody 20 units=8", "d k -60 units=16"]);
    world.correct("s", "amend b k 30 units=5");
    world.barrier(both());
    let before = world.cells();
    let mut saved = world.begin_snapshot();
    for correction in ["void a", "amend b nobody 30 units=5", "amend c k 20 units=8", "release d"] {
        world.correct("s", correction);
    }
    world.barrier(both());
    let after = world.cells();
    assert_ne!(before, after);
    while world.poll_snapshot(&mut saved) {}
    let mut again = saved.load();
    assert_eq!(again.cells(), before);
    let standings = ["a", "b", "c", "d"].map(|id| again.standing("s", id).unwrap());
    assert_eq!(standings, ["metered", "metered", "pending", "quarantined: too_old"]);
    for correction in ["void a", "amend b nobody 30 units=5", "amend c k 20 units=8", "release d"] {
        again.correct("s", correction);
    }
    again.barrier(both());
    assert_eq!((again.cells(), again.counters("s")), (after, world.counters("s")));
}

/// All pending and corrected events, and the whole list of what was set aside, were saved at once when a snapshot began.
#[test]
fn no_step_of_a_snapshot_is_larger_because_more_events_wait_were_corrected_or_were_set_aside() {
    let mut world = World::new(1);
    world.barrier(both());
    let ids: Vec<String> = (0..300).map(|number| format!("i{number}")).collect();
    for id in &ids {
        let events = [
            format!("p{id} nobody 20 units=1"),
            format!("q{id} k -60 units=1"),
            format!("c{id} k 20 units=1"),
        ];
        world.send(50, "s", "use", &events.each_ref().map(String::as_str));
        world.correct("s", &format!("void c{id}"));
    }
    world.barrier(both());
    let before = (world.set_aside(), world.counters("s"));
    let mut saved = world.begin_snapshot();
    let mut steps = 0;
    while world.poll_snapshot(&mut saved) {
        steps += 1;
        if steps % 10 == 0 && steps <= 200 {
            let id = &ids[300 - steps];
            world.correct("s", &format!("void p{id}"));
            world.correct("s", &format!("release q{id}"));
            world.barrier(both());
        }
    }
    let sections = saved.sections();
    for kind in [SectionKind::Pending, SectionKind::Corrections, SectionKind::SetAside] {
        let of_kind = sections.iter().filter(|(of, _)| *of == kind).map(|(_, bytes)| *bytes);
        assert!(of_kind.clone().count() > 10, "{kind:?} in steps");
        assert!(
            of_kind.clone().all(|bytes| bytes < SECTION_BYTES + 100),
            "{kind:?} with one entry too many at most"
        );
    }
    let again = saved.load();
    assert_eq!((again.set_aside(), again.counters("s")), before);
}
