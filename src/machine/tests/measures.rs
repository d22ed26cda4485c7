//! Meters of every aggregation in random histories: what is charged in the end is the measure of the events.
//!
//! Owns: a recount of each measure from the list of events, month by month. Leaves to others: single classes of cells
//! (`engine::shard`), prices (`billing`).

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::time::{DAY, HOUR};
use domain::{AccountId, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::world::World;
use crate::ReplayMode;

/// Hours from the start of the year at which January, February, March and April 2026 start.
const MONTHS: [i64; 4] = [0, 31 * 24, 59 * 24, 90 * 24];

fn at(hour: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hour * HOUR)
}

/// One event, in order of arrival.
#[derive(Clone, Copy, Debug)]
struct Used {
    hour: i64,
    subject: &'static str,
    units: i64,
    user: &'static str,
    is_removal: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Use(Used),
    /// The event with this number again.
    Again(prop::sample::Index),
    /// A cut, so many hours later.
    Cut(i64),
    /// Another version of every price, from an hour on: it cuts slices that are filled.
    Version(i64),
}

/// What is measured: meter fields, and the measure of a month's events in order of time, in cents.
const MEASURES: [&str; 13] = [
    "sum",
    "count",
    "average",
    "min",
    "max",
    "latest",
    "unique",
    "changes",
    "levels",
    "present",
    "percentile",
    "peak",
    "each",
];

fn meter(name: &str) -> Value {
    let mut meter = json!({ "event_type": "call", "negative_usage": "signed" });
    let fields = match name {
        "count" => json!({ "aggregation": "count" }),
        "unique" => json!({ "aggregation": "unique", "key": "user", "operation": "op" }),
        "changes" | "levels" => json!({ "aggregation": "weighted_sum", "gauge": name, "value": "n" }),
        "present" => json!({ "aggregation": "weighted_sum", "key": "user", "operation": "op" }),
        "percentile" => json!({ "aggregation": "percentile", "percent": "60", "value": "n" }),
        "peak" => json!({ "aggregation": "peak", "granule_seconds": 86_400, "value": "n" }),
        name => json!({ "aggregation": name, "value": "n" }),
    };
    meter.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    meter
}

fn price(name: &str, hour: Option<i64>) -> Value {
    let mut price = json!({ "plan": "pro", "window": "month", "meter": name });
    let fields = match name {
        "each" => {
            json!({ "model": "percentage", "rate_percent": "10", "fixed_amount": "1", "free_events": 1 })
        }
        _ => json!({ "model": "per_unit", "unit_amount": "1" }),
    };
    price.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    if let Some(hour) = hour {
        price["effective_from"] = at(hour).to_string().into();
    }
    price
}

/// `a / b` in cents, half away from zero.
fn cents(a: i64, b: i64) -> i128 {
    let (a, b) = (i128::from(a) * 100, i128::from(b));
    let whole = (a.abs() * 2 + b) / (2 * b);
    if a < 0 { -whole } else { whole }
}

/// What a month is worth, from the events alone.
fn recount(name: &str, events: &[Used], month: usize) -> i128 {
    let (from, until) = (MONTHS[month], MONTHS[month + 1]);
    // Stable: of one hour the order of arrival stays.
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|one| one.hour);
    let inside: Vec<Used> = sorted.iter().copied().filter(|one| (from..until).contains(&one.hour)).collect();
    let units: Vec<i64> = inside.iter().map(|one| one.units).collect();
    let sum: i64 = units.iter().sum();
    let integral = |is_level: bool| -> i64 {
        ["k", "l"]
            .into_iter()
            .map(|subject| {
                let mut level = 0;
                let mut integral = 0;
                let mut events = sorted.iter().filter(|one| one.subject == subject).peekable();
                for hour in 0..until {
                    while let Some(one) = events.next_if(|one| one.hour <= hour) {
                        level = if is_level { one.units } else { level + one.units };
                    }
                    integral += if hour >= from { level } else { 0 };
                }
                integral
            })
            .sum()
    };
    let present = || -> i64 {
        let mut integral = 0;
        for subject in ["k", "l"] {
            for user in ["a", "b", "c"] {
                // Of one hour the last to arrive decides.
                let is_there = |hour: i64| {
                    let of_key = |one: &&Used| (one.subject, one.user) == (subject, user) && one.hour <= hour;
                    sorted.iter().rfind(of_key).is_some_and(|one| !one.is_removal)
                };
                integral += (from..until).filter(|hour| is_there(*hour)).count() as i64;
            }
        }
        integral
    };
    let whole = |units: i64| cents(units, 1);
    match name {
        "sum" => whole(sum),
        "count" => whole(units.len() as i64),
        "average" => cents(sum, (units.len() as i64).max(1)),
        "min" => whole(units.iter().copied().min().unwrap_or(0)),
        "max" => whole(units.iter().copied().max().unwrap_or(0)),
        "latest" => whole(units.last().copied().unwrap_or(0)),
        "unique" => {
            let mut present = BTreeMap::new();
            present.extend(inside.iter().map(|one| (one.user, !one.is_removal)));
            whole(present.values().filter(|is_there| **is_there).count() as i64)
        }
        "changes" => cents(integral(false), until - from),
        "levels" => cents(integral(true), until - from),
        "present" => cents(present(), until - from),
        "percentile" => {
            let mut units = units;
            units.sort_unstable();
            let rank = (units.len() * 60).div_ceil(100);
            whole(rank.checked_sub(1).map_or(0, |index| units[index]))
        }
        "peak" => {
            let days = (from..until).step_by(24).map(|day| {
                let of_day = inside.iter().filter(|one| (day..day + 24).contains(&one.hour));
                of_day.map(|one| one.units).max().unwrap_or(0).max(0)
            });
            whole(days.sum())
        }
        "each" => units.iter().skip(1).map(|units| i128::from(units * 10 + 100)).sum(),
        name => panic!("{name} is no measure"),
    }
}

struct Shop {
    world: World,
    events: Vec<Used>,
    hour: i64,
}

impl Shop {
    fn new(shards: usize, terms: &Value) -> Self {
        let policy = PolicyRecord {
            horizon: 400 * DAY,
            future_max: HOUR,
            pending_per_slot_max: 256,
            grace: 5 * DAY,
            correction_horizon: 400 * DAY,
        };
        let mut shop = Self { world: World::new(shards, &policy), events: Vec::new(), hour: MONTHS[3] };
        shop.put("entities", "inc", &json!({ "currency": "USD", "time_zone": "UTC" }));
        let account = json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" });
        shop.put("accounts", "acme", &account);
        shop.put("plans", "pro", &json!({ "currency": "USD" }));
        for name in MEASURES {
            let mut meter = meter(name);
            meter.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
            shop.put("meters", name, &meter);
            shop.put("prices", name, &price(name, None));
        }
        let from = at(0).to_string();
        shop.put("subscriptions", "s1", &json!({ "account": "acme", "plan": "pro", "from": from }));
        for subject in ["k", "l"] {
            shop.put("subjects", subject, &json!({ "subscription": "s1", "from": from }));
        }
        shop.world.barrier(false);
        shop
    }

    fn put(&mut self, kind: &str, id: &str, body: &Value) {
        assert!(self.world.put(kind, id, body).is_some(), "{kind} {id} {body}");
    }

    fn send(&mut self, number: usize) {
        let Used { hour, subject, units, user, is_removal } = self.events[number];
        let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
        let dimensions = [("user", user), ("op", if is_removal { "remove" } else { "add" })];
        let id = number.to_string();
        let values = [("n", i128::from(units), 0)];
        builder.push_parts(id.as_bytes(), subject, at(hour).nanoseconds(), &values, &dimensions).unwrap();
        let frame: Arc<AlignedBytes> = Arc::new(builder.finish(1, 0));
        self.world.take_usage(&frame, at(MONTHS[3]));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Use(used) => {
                self.events.push(*used);
                self.send(self.events.len() - 1);
            }
            Step::Again(_) if self.events.is_empty() => {}
            Step::Again(index) => self.send(index.index(self.events.len())),
            Step::Cut(hours) => {
                self.hour += hours;
                self.cut();
            }
            Step::Version(hour) => {
                for name in MEASURES {
                    // The same version again changes nothing.
                    let _ = self.world.put("prices", name, &price(name, Some(*hour)));
                }
                self.world.barrier(false);
            }
        }
    }

    fn cut(&mut self) {
        self.world.start_cut(at(self.hour));
        self.world.finish_cut();
    }

    /// Cents issued for a price in a month.
    fn issued(&self, name: &str, month: usize) -> i128 {
        let account = AccountId::new("acme").unwrap();
        let issued = self.world.machine.issued().of_account(&account);
        issued
            .filter(|(key, _)| key.window.from == at(MONTHS[month]))
            .filter(|(key, _)| key.price.as_ref().is_some_and(|price| price.as_str() == name))
            .map(|(_, worth)| worth.rounded)
            .sum()
    }

    fn check(&mut self) {
        self.hour += 1;
        self.cut();
        for name in MEASURES {
            for month in 0..3 {
                let expected = recount(name, &self.events, month);
                assert_eq!(self.issued(name, month), expected, "{name} in month {month}: {:?}", self.events);
            }
        }
    }
}

fn use_of() -> impl Strategy<Value = Used> {
    let subject = prop::sample::select(vec!["k", "l"]);
    let user = prop::sample::select(vec!["a", "b", "c"]);
    (0..MONTHS[3], subject, -3i64..12, user, any::<bool>())
        .prop_map(|(hour, subject, units, user, is_removal)| Used { hour, subject, units, user, is_removal })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => use_of().prop_map(Step::Use),
        // Several events of one hour: the order of arrival decides.
        3 => use_of().prop_map(|used| Step::Use(Used { hour: used.hour / 240 * 240, ..used })),
        1 => any::<prop::sample::Index>().prop_map(Step::Again),
        2 => (1i64..100).prop_map(Step::Cut),
        1 => (0..MONTHS[3]).prop_map(Step::Version),
    ]
}

fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Late events, duplicates, cuts in between and prices that cut filled slices: what was charged in all is what the
    /// events measure, and other numbers of shards seal the same batches.
    #[test]
    fn charges_of_every_measure_are_the_measure_of_the_events(
        steps in prop::collection::vec(step(), 1..40),
        shards in 1usize..=8,
        replayed in 1usize..=8,
    ) {
        let mut shop = Shop::new(shards, &json!({}));
        steps.iter().for_each(|step| shop.step(step));
        shop.check();
        shop.world.replay(ReplayMode::Derive, replayed);
        shop.world.replay(ReplayMode::Load, 9 - replayed);
    }
}

fn used(hour: i64, units: i64) -> Step {
    Step::Use(Used { hour, subject: "k", units, user: "a", is_removal: false })
}

#[test]
fn a_level_is_charged_with_time_and_goes_on_into_windows_without_an_event() {
    let mut shop = Shop::new(3, &json!({}));
    shop.hour = 0;
    shop.step(&used(0, 62));
    // Half of January, all of it, half of February and all of it.
    for (hour, january, february) in [
        (31 * 12, 31_00, 0),
        (31 * 24, 62_00, 0),
        (31 * 24 + 28 * 12, 62_00, 31_00),
        (59 * 24 + 1, 62_00, 62_00),
    ] {
        shop.hour = hour;
        shop.cut();
        for name in ["changes", "levels"] {
            let issued = [shop.issued(name, 0), shop.issued(name, 1)];
            assert_eq!(issued, [january, february], "{name} at {hour}");
        }
    }
    // A late event of January changes every window since.
    shop.step(&used(31 * 12, 31));
    shop.cut();
    assert_eq!([shop.issued("levels", 0), shop.issued("levels", 1)], [46_50, 31_00]);
    assert_eq!([shop.issued("changes", 0), shop.issued("changes", 1)], [77_50, 93_00]);
    shop.world.replay(ReplayMode::Derive, 1);
}

/// Half of January, then all of February, and a removal that comes late takes half of it back.
#[test]
fn a_key_counts_for_the_time_in_which_it_is_there() {
    let mut shop = Shop::new(2, &json!({}));
    let change = |hour: i64, user: &'static str, is_removal: bool| {
        Step::Use(Used { hour, subject: "k", units: 0, user, is_removal })
    };
    shop.hour = MONTHS[2];
    for step in [change(31 * 12, "a", false), change(31 * 18, "a", false), change(31 * 12, "b", true)] {
        shop.step(&step);
    }
    shop.cut();
    assert_eq!([shop.issued("present", 0), shop.issued("present", 1)], [50, 1_00]);
    shop.step(&change(31 * 24 + 28 * 12, "a", true));
    shop.cut();
    assert_eq!([shop.issued("present", 0), shop.issued("present", 1)], [50, 50]);
    shop.world.replay(ReplayMode::Derive, 3);
}

#[test]
fn a_limit_of_a_meter_is_judged_on_what_all_shards_hold_and_said_by_name() {
    for (terms, is_grouped, rule) in [
        (json!({ "groups_max": 2, "group_by": ["user"] }), true, "groups_max"),
        (json!({ "kept_max": 2 }), false, "kept_max"),
    ] {
        for shards in [1, 4] {
            let mut shop = Shop::new(shards, &terms);
            for (number, user) in ["a", "b", "c"].into_iter().enumerate() {
                if number == 2 {
                    shop.cut();
                }
                shop.step(&Step::Use(Used { hour: 5, subject: "k", units: 1, user, is_removal: false }));
            }
            let before = shop.issued("sum", 0);
            assert_eq!(before, 2_00, "two groups and two events fit");
            shop.hour += 1;
            shop.world.start_cut(at(shop.hour));
            assert!(shop.world.rate_and_seal().is_none(), "grouped: {is_grouped}");
            let failures: Vec<String> = shop.world.machine.failures().map(ToString::to_string).collect();
            assert!(failures.len() == 1 && failures[0].contains(rule), "{failures:?}");
            assert!(shop.world.unrated().contains("acme"));
        }
    }
}
