//! Grants in units in random histories: what they cover is what a count unit by unit says, and the rest is charged.
//!
//! Owns: a slow model of lots over slices, and what holds where periods close in between. Leaves to others: grants of money
//! and all other terms (`agreements`), lots by themselves (`billing::rating::credits`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::charges::Component;
use domain::time::{DAY, HOUR};
use domain::{AccountId, Span, Timestamp, Zone};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::civil;
use super::world::World;
use crate::ReplayMode;

/// Hours from the start of the year at which months start.
const MONTHS: [i64; 5] = [0, 31 * 24, 59 * 24, 90 * 24, 120 * 24];
const SUBSCRIPTIONS: [&str; 2] = ["s0", "s1"];
const KINDS: [&str; 2] = ["big", "small"];
/// Where histories begin and end at the latest.
const FIRST_HOUR: i64 = 10 * 24;
const LAST_HOUR: i64 = 85 * 24;

fn at(hour: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hour * HOUR)
}

#[derive(Clone, Debug)]
struct Grant {
    amount: i64,
    priority: u32,
    hour: i64,
    hours: Option<i64>,
    /// Days after which it is given again, and what rolls over.
    every: Option<(i64, i64)>,
    subscription: Option<usize>,
    voided_at: Option<i64>,
}

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    Use {
        subscription: usize,
        hours_ago: i64,
        units: i64,
        kind: usize,
    },
    Grant(Grant),
    /// Voids one of the grants so far, so many hours from now.
    Void(prop::sample::Index, i64),
    Cut,
}

/// A unit, and an anchor.
type Windows = (&'static str, Option<&'static str>);

/// What was used: hour, subscription, kind, units.
type Used = (i64, usize, usize, i64);

struct Story {
    world: World,
    hour: i64,
    used: Vec<Used>,
    grants: Vec<Grant>,
    /// Hours at which grants were ever voided: bounds of slices.
    voids: BTreeSet<i64>,
    events: usize,
    grace: i64,
    /// First hours of the windows of the prices.
    windows: Vec<i64>,
    /// What lots covered in months that the last cut closed, by month, subscription, kind and lot.
    closed: BTreeMap<(Timestamp, String, String), i64>,
}

impl Grant {
    fn until(&self) -> i64 {
        self.hours.map_or(i64::MAX, |hours| self.hour + hours)
    }

    /// First hours of its lots up to the end of all histories.
    fn starts(&self) -> Vec<i64> {
        let step = self.every.map_or(i64::MAX / 2, |(days, _)| days * 24);
        let starts = (0..).map(|nth| self.hour + nth * step);
        starts.take_while(|start| *start < self.until().min(MONTHS[4])).take(1_000).collect()
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "account": "acme", "kind": "paid", "meter": "units", "amount": self.amount.to_string(),
            "priority": self.priority, "from": at(self.hour).to_string(),
        });
        let mut set =
            |name: &str, value: Value| body.as_object_mut().unwrap().insert(name.to_string(), value);
        if self.hours.is_some() {
            set("until", at(self.until()).to_string().into());
        }
        if let Some((days, max)) = self.every {
            set("every", json!({ "days": days }));
            set("rollover", json!({ "max": max.to_string() }));
        }
        if let Some(subscription) = self.subscription {
            set("subscriptions", json!([SUBSCRIPTIONS[subscription]]));
        }
        if let Some(hour) = self.voided_at {
            set("voided_at", at(hour).to_string().into());
        }
        body
    }
}

/// A lot of the slow model.
struct Lot {
    grant: usize,
    number: usize,
    from: i64,
    until: i64,
    balance: i64,
}

impl Story {
    /// With prices over windows of a unit, counted from an anchor if there is one.
    fn new(grace: i64, (unit, anchor): Windows) -> Self {
        let policy = PolicyRecord {
            horizon: 80 * DAY,
            future_max: HOUR,
            pending_per_slot_max: 256,
            grace: grace * DAY,
            correction_horizon: 400 * DAY,
        };
        let mut world = World::new(2, &policy);
        let tiers = json!([{ "up_to": "20", "unit_amount": "5" }, { "unit_amount": "3" }]);
        for (kind, id, body) in [
            ("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" })),
            (
                "accounts",
                "acme",
                json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" }),
            ),
            (
                "meters",
                "units",
                json!({ "event_type": "call", "aggregation": "sum", "value": "n", "group_by": ["kind"] }),
            ),
            ("plans", "pro", json!({ "currency": "USD" })),
            (
                "prices",
                "plain",
                json!({ "plan": "pro", "window": unit, "model": "per_unit", "meter": "units", "unit_amount": "2" }),
            ),
            (
                "prices",
                "tiers",
                json!({ "plan": "pro", "window": unit, "model": "graduated", "meter": "units", "tiers": tiers }),
            ),
        ] {
            assert_eq!(world.put(kind, id, &body), Some(1), "{kind} {id}");
        }
        for id in SUBSCRIPTIONS {
            let from = at(0).to_string();
            let mut body = json!({ "account": "acme", "plan": "pro", "from": from });
            if let Some(anchor) = anchor {
                body["anchor"] = anchor.into();
            }
            world.put("subscriptions", id, &body);
            world.put("subjects", id, &json!({ "subscription": id, "from": from }));
        }
        world.barrier(false);
        let anchor = anchor.map(|anchor| Timestamp::parse(anchor).unwrap());
        let windows = civil::windows(&Zone::utc(), unit, anchor).into_iter();
        let hour_of = |window: Span| (window.from.nanoseconds() - at(0).nanoseconds()).div_euclid(HOUR);
        Self {
            windows: windows.map(hour_of).collect(),
            world,
            hour: FIRST_HOUR,
            used: Vec::new(),
            grants: Vec::new(),
            voids: BTreeSet::new(),
            events: 0,
            grace,
            closed: BTreeMap::new(),
        }
    }

    fn tell(&mut self, step: &Step) {
        match step {
            Step::Pass(hours) => self.hour = (self.hour + hours).min(LAST_HOUR),
            Step::Use { subscription, hours_ago, units, kind } => {
                let hour = (self.hour - hours_ago).max(0);
                self.used.push((hour, *subscription, *kind, *units));
                self.events += 1;
                let frame = frame_of(self.events, self.used[self.used.len() - 1]);
                self.world.take_usage(&frame, at(self.hour));
            }
            Step::Grant(grant) => {
                self.world.put("grants", &format!("g{:02}", self.grants.len()), &grant.body());
                self.grants.push(grant.clone());
                self.world.barrier(false);
            }
            Step::Void(index, hours) if !self.grants.is_empty() => {
                let index = index.index(self.grants.len());
                let hour = self.hour + hours;
                self.grants[index].voided_at = Some(hour);
                if self.grants[index].hour < hour && hour < self.grants[index].until() {
                    self.voids.insert(hour);
                }
                self.world.put("grants", &format!("g{index:02}"), &self.grants[index].body());
                self.world.barrier(false);
            }
            Step::Void(..) => {}
            Step::Cut => self.cut(),
        }
    }

    fn cut(&mut self) {
        self.world.start_cut(at(self.hour));
        self.world.finish_cut();
        self.check_closed();
    }

    /// What was covered in a closed period stays, since use there only grows.
    fn check_closed(&mut self) {
        let mut covered: BTreeMap<(Timestamp, String, String), i64> = BTreeMap::new();
        for (key, worth) in self.world.machine.issued().of_account(&acme()) {
            if key.component == Component::Covered {
                let of = format!("{:?} {:?}", key.subscription, key.group);
                let units: i64 = worth.quantity.to_string().parse().unwrap();
                let month = Zone::utc().month(Zone::utc().period_of(key.slice_from));
                *covered.entry((month.from, of, key.term.clone())).or_default() += units;
            }
        }
        for (of, before) in &self.closed {
            assert!(covered.get(of).is_some_and(|now| now >= before), "{of:?} covered {before}: {covered:?}");
        }
        let end_of =
            |from: Timestamp| MONTHS.iter().map(|hour| at(*hour)).find(|month| *month > from).unwrap();
        covered.retain(|(from, ..), _| end_of(*from).plus(self.grace * DAY) <= at(self.hour));
        self.closed = covered;
    }

    /// What every lot covers and what all windows cost in cents, counted unit by unit.
    fn counted(&self) -> (BTreeMap<String, i64>, i128) {
        let starts = self.grants.iter().flat_map(Grant::starts);
        let ends = self.grants.iter().map(Grant::until);
        let mut bounds: BTreeSet<i64> = starts
            .chain(ends)
            .chain(MONTHS)
            .chain(self.windows.clone())
            .filter(|hour| *hour <= MONTHS[4])
            .collect();
        bounds.insert(0);
        bounds.extend(&self.voids);
        let bounds: Vec<i64> = bounds.into_iter().filter(|hour| *hour >= 0).collect();
        let mut lots: Vec<Lot> = Vec::new();
        for (index, grant) in self.grants.iter().enumerate() {
            let starts = grant.starts();
            for (number, from) in starts.iter().enumerate() {
                let is_given = number == 0 || grant.voided_at.is_none_or(|voided| *from < voided);
                let until = starts.get(number + 1).copied().unwrap_or(grant.until());
                let balance = if is_given { grant.amount } else { 0 };
                lots.push(Lot { grant: index, number, from: *from, until, balance });
            }
        }
        let (mut covered, mut rests) = (BTreeMap::new(), BTreeMap::<_, i64>::new());
        for slice in bounds.windows(2) {
            self.roll_over(&mut lots, slice[0]);
            for (subscription, kind) in (0..2).flat_map(|subscription| [(subscription, 0), (subscription, 1)])
            {
                let is_here = |used: &&Used| {
                    (slice[0]..slice[1]).contains(&used.0) && (used.1, used.2) == (subscription, kind)
                };
                let used: i64 = self.used.iter().filter(is_here).map(|used| used.3).sum();
                let window = self.windows.iter().rposition(|window| *window <= slice[0]).unwrap();
                for _ in 0..used {
                    match self.pick(&lots, slice[0], subscription) {
                        Some(lot) => {
                            lots[lot].balance -= 1;
                            let number = match lots[lot].number {
                                0 => String::new(),
                                number => format!("#{}", number + 1),
                            };
                            *covered.entry(format!("g{:02}{number}", lots[lot].grant)).or_default() += 1;
                        }
                        None => *rests.entry((subscription, kind, window)).or_default() += 1,
                    }
                }
            }
        }
        let cost = |rest: i64| i128::from(rest * 2 + rest.min(20) * 5 + (rest - 20).max(0) * 3) * 100;
        (covered, rests.into_values().map(cost).sum())
    }

    /// What is left of lots that end by then goes on into the next lot of their grant, up to the maximum.
    fn roll_over(&self, lots: &mut [Lot], hour: i64) {
        for index in 1..lots.len() {
            let (before, lot) = (&lots[index - 1], &lots[index]);
            let grant = &self.grants[lot.grant];
            let is_voided = grant.voided_at.is_some_and(|voided| voided <= before.until);
            if before.grant == lot.grant && before.until <= hour && before.balance > 0 {
                let rolled = before.balance.min(grant.every.map_or(0, |(_, max)| max));
                lots[index - 1].balance = 0;
                lots[index].balance += if is_voided { 0 } else { rolled };
            }
        }
    }

    /// The lot that covers the next unit.
    fn pick(&self, lots: &[Lot], hour: i64, subscription: usize) -> Option<usize> {
        let is_usable = |lot: &&Lot| {
            let grant = &self.grants[lot.grant];
            let is_open = lot.from <= hour && hour < lot.until && grant.voided_at.is_none_or(|at| hour < at);
            is_open && lot.balance > 0 && grant.subscription.is_none_or(|only| only == subscription)
        };
        let order = |lot: &&Lot| (self.grants[lot.grant].priority, lot.until, lot.from, lot.grant);
        let best = lots.iter().filter(is_usable).min_by_key(order)?;
        lots.iter().position(|lot| std::ptr::eq(lot, best))
    }

    /// What was issued: units by lot, and all amounts.
    fn issued(&self) -> (BTreeMap<String, i64>, i128) {
        let (mut covered, mut amount) = (BTreeMap::<String, i64>::new(), 0);
        for (key, worth) in self.world.machine.issued().of_account(&acme()) {
            amount += worth.rounded;
            if key.component == Component::Covered {
                assert_eq!((worth.rounded, worth.event_count), (0, 0), "units have no amount");
                *covered.entry(key.term.clone()).or_default() +=
                    worth.quantity.to_string().parse::<i64>().unwrap();
            }
        }
        covered.retain(|_, units| *units != 0);
        (covered, amount)
    }

    /// What holds whatever closed in between.
    fn check(&self) {
        let mut drawn: BTreeMap<usize, i64> = BTreeMap::new();
        let mut slices: BTreeMap<_, [i64; 2]> = BTreeMap::new();
        for (key, worth) in self.world.machine.issued().of_account(&acme()) {
            let units: i64 = worth.quantity.to_string().parse().unwrap();
            let slice = (key.subscription.clone(), key.group.clone(), key.slice_from);
            let is_plain = key.price.as_ref().is_some_and(|price| price.as_str() == "plain");
            match key.component {
                Component::Covered => {
                    assert!(units >= 0, "a lot covers no less than nothing: {key:?}");
                    *drawn.entry(key.term[1..3].parse().unwrap()).or_default() += units;
                    slices.entry(slice).or_default()[0] += units;
                }
                Component::Charge if is_plain => slices.entry(slice).or_default()[1] += units,
                _ => {}
            }
        }
        for (grant, drawn) in drawn {
            let given = self.grants[grant].amount * self.grants[grant].starts().len() as i64;
            assert!(drawn <= given, "grant {grant} covered {drawn} of {given}");
        }
        for (slice, [covered, used]) in slices {
            assert!(covered <= used, "{covered} of {used} are covered in {slice:?}");
        }
        let used: i64 = self.used.iter().map(|used| used.3).sum();
        let account = acme();
        let charged = self.world.machine.issued().of_account(&account);
        let charged =
            charged.filter(|(key, _)| key.price.as_ref().is_some_and(|price| price.as_str() == "tiers"));
        let charged: i64 = charged.map(|(_, worth)| worth.quantity.to_string().parse::<i64>().unwrap()).sum();
        assert_eq!(charged, used, "every unit is in a charge, covered or not");
        let always = Span::new(Timestamp::MIN, Timestamp::END);
        let explained = self.world.machine.explain(&acme(), always).unwrap();
        assert_eq!(explained.iter().map(|window| window.total).sum::<i128>(), self.issued().1);
    }
}

fn acme() -> AccountId {
    AccountId::new("acme").unwrap()
}

fn frame_of(id: usize, (hour, subscription, kind, units): Used) -> Arc<AlignedBytes> {
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
    let (values, dimensions) = ([("n", i128::from(units), 0)], [("kind", KINDS[kind])]);
    let (id, subject) = (id.to_string(), SUBSCRIPTIONS[subscription]);
    builder.push_parts(id.as_bytes(), subject, at(hour).nanoseconds(), &values, &dimensions).unwrap();
    Arc::new(builder.finish(1, 0))
}

fn grant() -> impl Strategy<Value = Grant> {
    let every = prop::option::of((1i64..40, 0i64..30));
    let when = (FIRST_HOUR - 200..LAST_HOUR, prop::option::of(1i64..900));
    (0i64..60, 0u32..3, when, every, prop::option::of(0..2usize)).prop_map(
        |(amount, priority, (hour, hours), every, subscription)| Grant {
            amount,
            priority,
            hour,
            hours,
            every,
            subscription,
            voided_at: None,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1i64..200).prop_map(Step::Pass),
        8 => (0..2usize, 0i64..700, 0i64..40, 0..2usize).prop_map(|(subscription, hours_ago, units, kind)| {
            Step::Use { subscription, hours_ago, units, kind }
        }),
        3 => grant().prop_map(Step::Grant),
        1 => (any::<prop::sample::Index>(), -300i64..300).prop_map(|(index, hours)| Step::Void(index, hours)),
        4 => Just(Step::Cut),
    ]
}

fn windows() -> impl Strategy<Value = Windows> {
    let unit = prop_oneof![4 => Just("month"), 1 => Just("day"), 2 => Just("week"), 2 => Just("quarter"), 1 => Just("year")];
    let day = prop::sample::select(vec!["2026-01-31T12:00:00Z", "2025-11-10T12:00:00Z"]);
    (unit, prop::option::of(day))
}

#[test]
fn a_void_acts_from_its_instant_also_when_it_is_recorded_late() {
    let given = Grant {
        amount: 100,
        priority: 0,
        hour: FIRST_HOUR,
        hours: None,
        every: None,
        subscription: None,
        voided_at: None,
    };
    let used = |hours_ago, units| Step::Use { subscription: 0, hours_ago, units, kind: 0 };
    let covered = |story: &Story| story.issued().0.get("g00").copied().unwrap_or(0);
    for (grace, is_cut_before, expected) in [(400, true, 30), (400, false, 30), (1, true, 50)] {
        let mut story = Story::new(grace, ("month", None));
        for step in [Step::Grant(given.clone()), Step::Pass(100), used(50, 30), used(10, 20)] {
            story.tell(&step);
        }
        if is_cut_before {
            story.cut();
            assert_eq!(covered(&story), 50);
        }
        // Into February, and with a short grace January is closed.
        story.tell(&Step::Pass(600));
        story.cut();
        story.cut();
        story.grants[0].voided_at = Some(FIRST_HOUR + 70);
        story.world.put("grants", "g00", &story.grants[0].body());
        story.world.barrier(false);
        story.tell(&used(600, 5));
        story.cut();
        // What a closed period drew stays, and nothing more is drawn from the void on.
        assert_eq!(covered(&story), expected, "grace {grace}");
        story.check();
        story.world.replay(ReplayMode::Derive, 1);
    }
}

/// `TALLYMARK_CASES` histories, 32 where it is not set.
fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    Config { cases, failure_persistence: None, max_shrink_iters: 600, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_covered_and_charged_is_what_a_count_unit_by_unit_says(
        steps in prop::collection::vec(step(), 0..30), windows in windows(),
    ) {
        // No period closes.
        let mut story = Story::new(400, windows);
        for step in &steps {
            story.tell(step);
        }
        story.hour = LAST_HOUR + 3 * 24;
        story.cut();
        prop_assert_eq!(story.issued(), story.counted());
        story.check();
        let sealed = story.world.machine.control().seals().len();
        story.cut();
        prop_assert_eq!(story.world.machine.control().seals().len(), sealed, "nothing changed");
        story.world.replay(ReplayMode::Derive, 1);
    }

    #[test]
    fn no_lot_covers_more_than_it_has_whatever_closed_in_between(
        steps in prop::collection::vec(step(), 0..30), grace in 0i64..9, windows in windows(),
    ) {
        let mut story = Story::new(grace, windows);
        for step in &steps {
            story.tell(step);
            if matches!(step, Step::Cut) {
                story.check();
            }
        }
        story.hour = LAST_HOUR + 3 * 24;
        story.cut();
        story.check();
        story.world.replay(ReplayMode::Derive, 3);
        story.world.replay(ReplayMode::Load, 1);
    }
}
