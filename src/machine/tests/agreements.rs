//! Random histories of every pricing model and every term around a price: whatever was cut when, what was issued in the
//! end is what one cut at the end would issue.
//!
//! Two worlds get the same records and usage in the same order. One is cut whenever the history says so, the other only
//! at the end. Their issued lines must be equal, key by key. Credits are left out of it: their draws in closed periods
//! are facts of their own. For them: no grant pays more than it has, and no window costs less than nothing.
//! Nor are requests for invoices: for them every batch is counted again, threshold by threshold.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::charges::{ChargeLine, Component, InvoiceRequest, LineKey};
use domain::time::{DAY, HOUR};
use domain::{AccountId, Currency, Decimal, Span, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::what_if;
use super::world::World;
use crate::ReplayMode;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    PassHours(i64),
    Usage {
        plan: usize,
        hours_ago: i64,
        units: i64,
        kind: &'static str,
    },
    /// Seats, plan and discount of the subscription from now on: an amendment.
    Amend {
        plan: usize,
        seats: u8,
        discount: bool,
    },
    /// Another unit amount of every price that has one, from some hours ago on.
    Reprice {
        hours_ago: i64,
        factor: u8,
    },
    Commit {
        amount: u32,
        shape: &'static str,
    },
    Grant {
        amount: u32,
        days_ago: i64,
        days: Option<i64>,
        is_paid: bool,
    },
    /// A discount of the account from a month of the year on, for so many months: a share or an amount.
    Discount {
        is_percent: bool,
        number: u32,
        priority: u32,
        month: u32,
        months: Option<u32>,
        plan: Option<usize>,
    },
    /// Voids one of the grants so far, so many hours from now.
    Void(prop::sample::Index, i64),
    /// Another grace, in days.
    Grace(i64),
    /// Amounts at which an invoice is asked for: in minor units, rising by so much, and a step.
    Thresholds(Vec<u32>, Option<u32>),
    Cut,
}

#[derive(Clone, Debug)]
struct Story {
    currency: &'static str,
    trial_days: i64,
    minimum: bool,
    overage: bool,
    /// Windows of the plans, and what the subscriptions' windows are counted from.
    units: [&'static str; 2],
    anchors: [Option<&'static str>; 2],
    steps: Vec<Step>,
}

const SHAPES: [&str; 5] = ["none", "roll_forward", "cumulative", "year_end", "prepaid_drawdown"];
const PLANS: [&str; 2] = ["basic", "pro"];
/// Middle of January 2026.
const START: &str = "2026-01-15T12:00:00Z";

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1i64..400).prop_map(Step::PassHours),
        10 => (0..2usize, 0i64..900, 0i64..3_000, prop::sample::select(vec!["small", "large", "huge"]))
            .prop_map(|(plan, hours_ago, units, kind)| Step::Usage { plan, hours_ago, units, kind }),
        2 => (0..2usize, 0u8..5, any::<bool>())
            .prop_map(|(plan, seats, discount)| Step::Amend { plan, seats, discount }),
        2 => (0i64..1_000, 1u8..9).prop_map(|(hours_ago, factor)| Step::Reprice { hours_ago, factor }),
        1 => (0u32..9_000, prop::sample::select(SHAPES.to_vec()))
            .prop_map(|(amount, shape)| Step::Commit { amount, shape }),
        1 => (0u32..300, 0i64..40, prop::option::of(1i64..60), any::<bool>())
            .prop_map(|(amount, days_ago, days, is_paid)| Step::Grant { amount, days_ago, days, is_paid }),
        1 => (any::<bool>(), 0u32..80, 0u32..3, 1u32..4, prop::option::of(1u32..3), prop::option::of(0..2usize))
            .prop_map(|(is_percent, number, priority, month, months, plan)| {
                Step::Discount { is_percent, number, priority, month, months, plan }
            }),
        1 => (any::<prop::sample::Index>(), -500i64..200).prop_map(|(index, hours)| Step::Void(index, hours)),
        1 => (0i64..9).prop_map(Step::Grace),
        1 => (prop::collection::vec(1u32..9_000, 0..3), prop::option::of(1_000u32..60_000))
            .prop_map(|(rises, every)| Step::Thresholds(rises, every)),
        5 => Just(Step::Cut),
    ]
}

fn story() -> impl Strategy<Value = Story> {
    let currency = prop_oneof![Just("USD"), Just("JPY"), Just("KWD")];
    let unit = || prop_oneof![10 => Just("month"), 1 => Just("day"), 3 => Just("week"), 4 => Just("quarter"), 2 => Just("year")];
    let day =
        prop::sample::select(vec!["2026-01-31T12:00:00Z", "2025-11-10T12:00:00Z", "2025-03-09T07:30:00Z"]);
    let anchors = prop::array::uniform2(prop::option::of(day));
    let terms = (currency, 0i64..20, any::<bool>(), any::<bool>());
    (terms, [unit(), unit()], anchors, prop::collection::vec(step(), 0..40)).prop_map(
        |((currency, trial_days, minimum, overage), units, anchors, steps)| Story {
            currency,
            trial_days,
            minimum,
            overage,
            units,
            anchors,
            steps,
        },
    )
}

/// The prices of a plan: one of every model that the engine can measure.
fn prices(plan: &str, window: &str, factor: u8, minimum: bool) -> Vec<(String, Value)> {
    let unit = |cents: u32| Decimal::new(i128::from(cents * u32::from(factor)), 3).unwrap().to_string();
    let tiers = json!([
        { "up_to": "100.5", "unit_amount": unit(17), "flat_amount": "3" },
        { "up_to": "1000", "unit_amount": unit(9), "flat_cap": "400" },
        { "unit_amount": unit(4), "flat_amount": "2" },
    ]);
    let is_long = ["quarter", "year"].contains(&window);
    let bounds = if minimum { json!({ "minimum": "7", "maximum": "90" }) } else { json!({}) };
    let list = [
        (
            "per-unit",
            json!({ "model": "per_unit", "meter": "calls", "unit_amount": unit(3), "included": "50" }),
        ),
        ("graduated", json!({ "model": "graduated", "meter": "units", "tiers": tiers })),
        ("volume", json!({ "model": "volume", "meter": "units", "tiers": tiers, "flat_at_zero": false })),
        (
            "package",
            json!({ "model": "package", "meter": "units", "unit_amount": unit(900), "package_size": "70" }),
        ),
        (
            "converted",
            json!({
                "model": "per_unit", "meter": "units", "unit_amount": unit(500), "convert": { "divide": "30" },
                "round_quantity": { "mode": "ceiling" },
            }),
        ),
        (
            "steps",
            json!({ "model": "stairstep", "meter": "units", "tiers": [{ "up_to": "500", "flat_amount": "4" }, { "flat_amount": "9" }] }),
        ),
        (
            "capacity",
            json!({
                "model": "capacity", "meters": ["calls", "units"],
                "steps": [{ "up_to": { "calls": "3" }, "amount": "1" }, { "up_to": { "units": "900" }, "amount": "5" }, { "amount": "8" }],
            }),
        ),
        (
            "share",
            json!({ "model": "graduated_percentage", "meter": "units", "tiers": [{ "up_to": "600", "rate_percent": "3" }, { "rate_percent": "1.25" }] }),
        ),
        (
            "matrix",
            json!({
                "model": "matrix", "meter": "by-kind", "unmatched": "zero",
                "rows": [{ "when": { "kind": "small" }, "unit_amount": unit(2) }, { "when": { "kind": "large" }, "tiers": tiers }],
            }),
        ),
        ("dynamic", json!({ "model": "dynamic", "meter": "units", "multiplier": "1.1" })),
        (
            "fee",
            json!({ "model": "flat", "unit_amount": "31", "payment": "in_advance", "proration": "days" }),
        ),
        // In arrears, a part of a quarter or year belongs to no single month.
        (
            "support",
            json!({ "model": "flat", "unit_amount": "10", "proration": if is_long { "none" } else { "seconds" } }),
        ),
    ];
    let prices = list.into_iter().map(|(name, mut body)| {
        let fields = body.as_object_mut().unwrap();
        fields.insert("plan".to_string(), plan.into());
        fields.insert("window".to_string(), window.into());
        fields.extend(bounds.as_object().unwrap().clone());
        if name == "per-unit" {
            fields.insert("discounts".to_string(), json!([{ "percent": "12.5" }, { "amount": "1" }]));
        }
        (format!("{plan}-{name}"), body)
    });
    prices.collect()
}

/// One of the two worlds, and what it is told.
struct Teller {
    world: World,
    now: Timestamp,
    events: usize,
    /// Amounts of grants by id.
    grants: BTreeMap<String, u32>,
    grant_bodies: Vec<(String, Value)>,
    currency: Currency,
    invoices: Invoices,
}

/// What was asked for, counted again.
#[derive(Default)]
struct Invoices {
    fixed: Vec<i128>,
    every: Option<i128>,
    usage: i128,
    highest: i128,
    asked: i128,
}

impl Invoices {
    /// Thresholds up to an amount, one by one.
    fn reached(&self, amount: i128) -> Vec<i128> {
        let last = self.fixed.last().copied().unwrap_or(0);
        let steps = (1..).map_while(|nth| self.every.map(|step| last + nth * step));
        let steps = steps.take_while(|threshold| *threshold <= amount);
        self.fixed.iter().copied().filter(|threshold| *threshold <= amount).chain(steps).collect()
    }

    /// What a batch must ask for.
    fn of_batch(&mut self, lines: &[ChargeLine], currency: Currency) -> Option<InvoiceRequest> {
        let is_recurring = |line: &ChargeLine| {
            let price = line.price.as_ref();
            price
                .is_some_and(|price| price.as_str().ends_with("-fee") || price.as_str().ends_with("-support"))
        };
        let counts = |line: &&ChargeLine| match line.component {
            Component::Charge | Component::Discount | Component::Maximum => !is_recurring(line),
            Component::Overage | Component::Drawdown => true,
            Component::Minimum | Component::TrueUp | Component::Credit | Component::Covered => false,
        };
        self.usage += lines.iter().filter(counts).map(ChargeLine::rounded_minor).sum::<i128>();
        let passed = self.reached(self.usage).len() > self.reached(self.highest).len();
        self.highest = self.highest.max(self.usage);
        passed.then(|| {
            let amount = self.usage - std::mem::replace(&mut self.asked, self.usage);
            InvoiceRequest {
                account: AccountId::new("acme").unwrap(),
                currency,
                threshold: currency.format_minor(*self.reached(self.usage).last().unwrap()),
                usage: currency.format_minor(self.usage),
                amount: currency.format_minor(amount),
            }
        })
    }
}

fn account(currency: Currency, thresholds: Option<(&[i128], Option<i128>)>) -> Value {
    let mut body = json!({
        "name": "A", "entity": "inc", "currency": currency.code(), "time_zone": "America/New_York",
    });
    if let Some((fixed, every)) = thresholds {
        let text = |minor: &i128| currency.format_minor(*minor);
        let fixed: Vec<String> = fixed.iter().map(text).collect();
        body["thresholds"] = json!({ "amounts": fixed });
        if let Some(every) = every {
            body["thresholds"]["every"] = text(&every).into();
        }
    }
    body
}

impl Teller {
    fn new(story: &Story) -> Self {
        let mut teller = Self {
            world: World::new(2, &policy(3 * DAY)),
            now: at(START),
            events: 0,
            grants: BTreeMap::new(),
            grant_bodies: Vec::new(),
            currency: Currency::from_code(story.currency).unwrap(),
            invoices: Invoices::default(),
        };
        let mut put = |kind: &str, id: &str, body: Value| {
            assert_eq!(teller.world.put(kind, id, &body), Some(1), "{kind} {id} {body}");
        };
        put("entities", "inc", json!({ "currency": "USD", "time_zone": "Europe/Berlin" }));
        put("accounts", "acme", account(Currency::from_code(story.currency).unwrap(), None));
        put("meters", "calls", json!({ "event_type": "call", "aggregation": "count" }));
        put("meters", "units", json!({ "event_type": "call", "aggregation": "sum", "value": "units" }));
        put(
            "meters",
            "by-kind",
            json!({ "event_type": "call", "aggregation": "sum", "value": "units", "group_by": ["kind"] }),
        );
        for (plan, unit) in PLANS.into_iter().zip(story.units) {
            put("plans", plan, json!({ "currency": story.currency }));
            for (id, body) in prices(plan, unit, 1, story.minimum) {
                put("prices", &id, body);
            }
        }
        for (plan, anchor) in PLANS.into_iter().zip(story.anchors) {
            let trial = at("2026-01-10T00:00:00Z").plus(story.trial_days * DAY);
            let mut body = json!({
                "account": "acme", "plan": plan, "from": "2026-01-10T00:00:00Z", "trial_until": trial.to_string(),
            });
            put_anchor(&mut body, anchor);
            put("subscriptions", plan, body);
            put("subjects", plan, json!({ "subscription": plan, "from": "2026-01-01T00:00:00Z" }));
        }
        teller.world.barrier(false);
        teller
    }

    fn tell(&mut self, story: &Story, step: &Step, index: usize) {
        match step {
            Step::PassHours(hours) => self.now = self.now.plus(hours * HOUR),
            Step::Usage { plan, hours_ago, units, kind } => {
                self.events += 1;
                let time = self.now.plus(-hours_ago * HOUR);
                let frame = frame_of(self.events, PLANS[*plan], time, *units, kind);
                self.world.take_usage(&frame, self.now);
            }
            Step::Amend { plan, seats, discount } => {
                // A record that starts at the same instant as one before replaces it.
                let mut body =
                    json!({ "account": "acme", "plan": PLANS[*plan], "from": self.now.to_string() });
                put_anchor(&mut body, story.anchors[0]);
                let fields = body.as_object_mut().unwrap();
                fields.insert("seats".to_string(), seats.to_string().into());
                if *discount {
                    fields.insert("discounts".to_string(), json!([{ "percent": "20" }]));
                    fields.insert("minimum".to_string(), "40".into());
                }
                self.world.put("subscriptions", "basic", &body);
            }
            Step::Reprice { hours_ago, factor } => {
                let from = self.now.plus(-hours_ago * HOUR).to_string();
                for (id, mut body) in prices("pro", story.units[1], *factor, story.minimum) {
                    body.as_object_mut().unwrap().insert("effective_from".to_string(), from.clone().into());
                    self.world.put("prices", &id, &body);
                }
            }
            Step::Commit { amount, shape } => {
                let mut body = json!({
                    "account": "acme", "shape": shape, "amount": amount.to_string(),
                    "from": "2026-01-01T05:00:00Z", "until": "2026-05-01T04:00:00Z",
                });
                if story.overage {
                    body.as_object_mut().unwrap().insert("overage_factor".to_string(), "1.25".into());
                }
                self.world.put("commitments", &format!("c{index}"), &body);
            }
            Step::Grant { amount, days_ago, days, is_paid } => {
                let from = self.now.plus(-days_ago * DAY);
                let mut body = json!({
                    "account": "acme", "kind": if *is_paid { "paid" } else { "promotional" },
                    "amount": amount.to_string(), "from": from.to_string(),
                });
                if let Some(days) = days {
                    body.as_object_mut()
                        .unwrap()
                        .insert("until".to_string(), from.plus(days * DAY).to_string().into());
                }
                self.grants.insert(format!("g{index}"), *amount);
                self.world.put("grants", &format!("g{index}"), &body);
                self.grant_bodies.push((format!("g{index}"), body));
            }
            Step::Void(index, hours) if !self.grant_bodies.is_empty() => {
                let (id, body) = &mut self.grant_bodies[index.index(self.grants.len())];
                body["voided_at"] = self.now.plus(hours * HOUR).to_string().into();
                self.world.put("grants", id, body);
            }
            Step::Void(..) => {}
            Step::Discount { is_percent, number, priority, month, months, plan } => {
                // Months of New York, before the clock changes.
                let start = |month: u32| format!("2026-{month:02}-01T05:00:00Z");
                let mut body = json!({ "account": "acme", "priority": priority, "from": start(*month) });
                body[if *is_percent { "percent" } else { "amount" }] = number.to_string().into();
                if let Some(months) = months.filter(|months| month + months < 4) {
                    body["until"] = start(month + months).into();
                }
                if let Some(plan) = plan {
                    body["subscriptions"] = json!([PLANS[*plan]]);
                }
                assert!(self.world.put("discounts", &format!("d{index}"), &body).is_some());
            }
            Step::Grace(days) => self.world.set_policy(&policy(days * DAY)),
            Step::Thresholds(rises, every) => {
                let mut last = 0;
                let fixed = rises.iter().map(|rise| {
                    last += i128::from(*rise);
                    last
                });
                self.invoices.fixed = fixed.collect();
                self.invoices.every = every.map(i128::from);
                let body = account(self.currency, Some((&self.invoices.fixed, self.invoices.every)));
                self.world.put("accounts", "acme", &body);
            }
            Step::Cut => {}
        }
        if !matches!(step, Step::PassHours(_) | Step::Usage { .. }) {
            self.world.barrier(false);
        }
    }

    fn cut(&mut self) {
        self.world.start_cut(self.now);
        let batch = self.world.finish_cut();
        let asked = batch.as_ref().and_then(|batch| self.invoices.of_batch(&batch.lines, self.currency));
        let requests = batch.map(|batch| batch.invoice_requests).unwrap_or_default();
        assert_eq!(requests, asked.into_iter().collect::<Vec<_>>());
        let account = AccountId::new("acme").unwrap();
        if let Some(standing) = self.world.machine.invoice_standing(&account) {
            let Invoices { usage, asked, .. } = self.invoices;
            assert_eq!((standing.usage, standing.since_last), (usage, usage - asked));
        }
    }

    /// No grant paid more than it has, none gave back what it did not pay, and no window costs less than nothing.
    fn check_credits(&self, exponent: u8, has_only_months: bool) {
        let account = AccountId::new("acme").unwrap();
        let mut drawn: BTreeMap<String, i128> = BTreeMap::new();
        let mut windows: BTreeMap<Span, i128> = BTreeMap::new();
        for (key, worth) in self.world.machine.issued().of_account(&account) {
            *windows.entry(key.window).or_default() += worth.rounded;
            if key.component == Component::Credit {
                assert!(worth.rounded <= 0, "a draw is taken off: {key:?}");
                let grant = billing::rating::account::grant_of(&key.term);
                *drawn.entry(grant.to_string()).or_default() -= worth.rounded;
            }
        }
        for (grant, drawn) in drawn {
            let amount = i128::from(self.grants[&grant]) * 10i128.pow(exponent.into());
            assert!(drawn <= amount, "{grant} paid {drawn} of {amount}");
        }
        // What an account agreed to is of its months, whatever windows it takes from.
        let costs: Vec<i128> = match has_only_months {
            true => windows.values().copied().collect(),
            false => vec![windows.values().sum()],
        };
        assert!(costs.into_iter().all(|total| total >= 0), "{windows:?}");
        // What is explained is what was issued.
        let always = Span::new(Timestamp::MIN, Timestamp::END);
        let explained = self.world.machine.explain(&account, always).unwrap();
        let explained: BTreeMap<_, _> = explained.iter().map(|w| (w.window, w.total)).collect();
        windows.retain(|_, total| *total != 0);
        let expected = explained.into_iter().filter(|(_, total)| *total != 0).collect();
        assert_eq!(windows, expected);
    }

    /// Issued lines but credits, without those that add up to nothing.
    fn issued(&self) -> BTreeMap<LineKey, (String, i128, String, i64)> {
        let account = AccountId::new("acme").unwrap();
        let lines = self.world.machine.issued().of_account(&account);
        let lines = lines.filter(|(key, _)| key.component != Component::Credit);
        lines
            .map(|(key, worth)| {
                let (precise, quantity) = (worth.precise.to_string(), worth.quantity.to_string());
                (key.clone(), (precise, worth.rounded, quantity, worth.event_count))
            })
            .filter(|(_, worth)| *worth != ("0".to_string(), 0, "0".to_string(), 0))
            .collect()
    }
}

fn put_anchor(body: &mut Value, anchor: Option<&str>) {
    if let Some(anchor) = anchor {
        body["anchor"] = anchor.into();
    }
}

fn policy(grace: i64) -> PolicyRecord {
    PolicyRecord {
        horizon: 60 * DAY,
        future_max: HOUR,
        pending_per_slot_max: 256,
        grace,
        correction_horizon: 400 * DAY,
    }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn frame_of(id: usize, subject: &str, time: Timestamp, units: i64, kind: &str) -> Arc<AlignedBytes> {
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
    let (values, dimensions) = ([("units", i128::from(units), 1)], [("kind", kind)]);
    let id = id.to_string();
    builder.push_parts(id.as_bytes(), subject, time.nanoseconds(), &values, &dimensions).unwrap();
    Arc::new(builder.finish(1, 0))
}

/// `TALLYMARK_CASES` histories, 24 where it is not set.
fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_was_issued_is_what_one_cut_at_the_end_would_issue(story in story()) {
        let (mut often, mut once) = (Teller::new(&story), Teller::new(&story));
        for (index, step) in story.steps.iter().enumerate() {
            often.tell(&story, step, index);
            once.tell(&story, step, index);
            if matches!(step, Step::Cut) {
                often.cut();
            }
        }
        // Whatever was final under a shorter grace is final now.
        for teller in [&mut often, &mut once] {
            teller.tell(&story, &Step::PassHours(45 * 24), 0);
            teller.cut();
        }
        prop_assert_eq!(often.issued(), once.issued());
        for teller in [&often, &once] {
            let has_only_months = story.units == ["month"; 2] && story.anchors == [None; 2];
            teller.check_credits(teller.currency.exponent(), has_only_months);
        }
        // What other prices would change is what they then do change.
        let prices = prices("pro", story.units[1], 7, !story.minimum).into_iter();
        let prices: Vec<_> = prices.map(|(id, body)| what_if::resource("prices", &id, body)).collect();
        what_if::check_lines(&once.world, once.now.plus(3 * DAY), &prices);
        // Rating a window that did not change gives nothing.
        let sealed = often.world.machine.control().seals().len();
        often.cut();
        prop_assert_eq!(often.world.machine.control().seals().len(), sealed);
        often.world.replay(ReplayMode::Derive, 1);
        often.world.replay(ReplayMode::Load, 3);
    }
}
