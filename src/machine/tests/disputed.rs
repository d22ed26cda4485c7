//! Bills of accounts that were once wrong, each as a short history.
//!
//! Owns: what happens around a price over several cuts: silence, agreements that change, limits. Leaves to others: random
//! histories (`agreements`), the order of terms in one bill (`billing::rating::account`).

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::charges::Component;
use domain::time::{DAY, HOUR};
use domain::{AccountId, Span, Timestamp};
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::world::World;
use crate::ReplayMode;

fn at(day: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-{day}T00:00:00Z")).unwrap()
}

struct Shop {
    world: World,
    events: usize,
}

impl Shop {
    /// An account `acme` in UTC with a plan, and no price yet.
    fn new(currency: &str) -> Self {
        let policy = PolicyRecord {
            horizon: 90 * DAY,
            future_max: HOUR,
            pending_per_slot_max: 256,
            grace: 5 * DAY,
            correction_horizon: 400 * DAY,
        };
        let mut shop = Self { world: World::new(2, &policy), events: 0 };
        shop.put("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" }));
        let account = json!({ "name": "A", "entity": "inc", "currency": currency, "time_zone": "UTC" });
        shop.put("accounts", "acme", account);
        shop.put(
            "meters",
            "calls",
            json!({ "event_type": "call", "aggregation": "sum", "value": "n", "negative_usage": "signed" }),
        );
        shop.put("plans", "pro", json!({ "currency": currency }));
        shop
    }

    fn put(&mut self, kind: &str, id: &str, body: Value) {
        assert!(self.world.put(kind, id, &body).is_some(), "{kind} {id} {body}");
    }

    fn price(&mut self, id: &str, terms: Value) {
        let mut body = json!({ "plan": "pro", "window": "month" });
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        self.put("prices", id, body);
    }

    fn subscribe(&mut self, from: &str, terms: Value) {
        let mut body = json!({ "account": "acme", "plan": "pro", "from": at(from).to_string() });
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        self.put("subscriptions", "s1", body);
        self.put("subjects", "k", json!({ "subscription": "s1", "from": at(from).to_string() }));
        self.world.barrier(false);
    }

    fn used(&mut self, day: &str, units: i64, received: &str) {
        self.used_with(day, units, received, &[]);
    }

    fn used_with(&mut self, day: &str, units: i64, received: &str, dimensions: &[(&str, &str)]) {
        self.events += 1;
        let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
        let id = self.events.to_string();
        builder
            .push_parts(id.as_bytes(), "k", at(day).nanoseconds(), &[("n", i128::from(units), 0)], dimensions)
            .unwrap();
        let frame: Arc<AlignedBytes> = Arc::new(builder.finish(1, 0));
        self.world.take_usage(&frame, at(received));
    }

    /// A cut that fails: the broken rule of each account that stays out.
    fn failing_cut(&mut self, day: &str) -> Vec<String> {
        self.world.barrier(false);
        self.world.start_cut(at(day));
        self.world.rate_and_seal();
        self.world.machine.failures().map(ToString::to_string).collect()
    }

    fn cut(&mut self, day: &str) {
        self.world.barrier(false);
        self.world.start_cut(at(day));
        self.world.finish_cut();
    }

    /// What was issued: month, component and term, each with its sum.
    fn issued(&self) -> Vec<String> {
        let mut sums: BTreeMap<(String, Component, String), i128> = BTreeMap::new();
        for (key, worth) in self.world.machine.issued().of_account(&AccountId::new("acme").unwrap()) {
            let month = key.window.from.to_string()[5..7].to_string();
            *sums.entry((month, key.component, key.term.clone())).or_default() += worth.rounded;
        }
        let shown = sums.into_iter().filter(|(_, sum)| *sum != 0).map(|((month, component, term), sum)| {
            let component = serde_json::to_value(component).unwrap();
            format!("{month} {} {term} {sum}", component.as_str().unwrap())
        });
        shown.collect()
    }

    /// What windows are explained to cost, by month.
    fn explained(&self) -> Vec<String> {
        let always = Span::new(Timestamp::MIN, Timestamp::END);
        let windows = self.world.machine.explain(&AccountId::new("acme").unwrap(), always).unwrap();
        windows.iter().map(|w| format!("{} {}", &w.window.from.to_string()[5..7], w.total)).collect()
    }

    fn replays(&self) {
        self.world.replay(ReplayMode::Derive, 1);
        self.world.replay(ReplayMode::Load, 3);
    }
}

fn per_call() -> Value {
    json!({ "model": "per_unit", "meter": "calls", "unit_amount": "1" })
}

#[test]
fn a_minimum_comes_with_the_grace_whatever_was_cut_in_between() {
    let mut shop = Shop::new("USD");
    let mut terms = per_call();
    terms["minimum"] = "70".into();
    shop.price("calls", terms);
    shop.subscribe("01-01", json!({}));
    shop.used("01-10", 10, "01-10");
    for day in ["01-31", "02-01", "02-03", "02-05", "02-06", "02-07"] {
        shop.cut(day);
    }
    assert_eq!(shop.issued(), ["01 charge  1000", "01 minimum  6000"]);
    shop.replays();
}

#[test]
fn a_commitment_without_a_subscription_is_trued_up() {
    let mut shop = Shop::new("USD");
    shop.put("commitments", "c", json!({ "account": "acme", "shape": "none", "amount": "300", "from": "2026-01-01T00:00:00Z", "until": "2026-04-01T00:00:00Z" }));
    for day in ["01-10", "02-07", "03-08", "04-09"] {
        shop.cut(day);
    }
    assert_eq!(shop.issued(), ["01 true_up c 10000", "02 true_up c 10000", "03 true_up c 10000"]);
    assert_eq!(shop.explained(), ["01 10000", "02 10000", "03 10000"]);
}

#[test]
fn a_bill_shows_shortfalls_after_the_last_subscription_ended() {
    let mut shop = Shop::new("USD");
    shop.price("calls", per_call());
    shop.subscribe("01-01", json!({ "until": "2026-02-01T00:00:00Z" }));
    shop.put("commitments", "c", json!({ "account": "acme", "shape": "none", "amount": "300", "from": "2026-01-01T00:00:00Z", "until": "2026-04-01T00:00:00Z" }));
    for day in ["01-10", "02-07", "03-08", "04-09"] {
        shop.cut(day);
    }
    assert_eq!(shop.issued(), ["01 true_up c 10000", "02 true_up c 10000", "03 true_up c 10000"]);
    assert_eq!(shop.explained(), ["01 10000", "02 10000", "03 10000"]);
}

#[test]
fn a_grant_voided_back_to_before_its_rollover_keeps_closed_draws() {
    let mut shop = Shop::new("USD");
    shop.price("calls", per_call());
    shop.subscribe("01-01", json!({}));
    let grant = json!({ "account": "acme", "kind": "paid", "amount": "100", "from": "2026-01-01T00:00:00Z", "every": "month", "rollover": { "max": "100" } });
    shop.put("grants", "g", grant.clone());
    shop.cut("01-31");
    shop.used("02-10", 150, "02-10");
    shop.cut("02-28");
    shop.cut("03-07");
    shop.cut("03-08");
    assert_eq!(shop.issued(), ["02 charge  15000", "02 credit g#2 -15000"]);
    let mut voided = grant;
    voided["voided_at"] = "2026-01-15T00:00:00Z".into();
    shop.put("grants", "g", voided);
    shop.cut("03-09");
    assert_eq!(shop.issued(), ["02 charge  15000", "02 credit g#2 -15000"]);
    shop.replays();
}

#[test]
fn an_agreed_amount_that_no_batch_could_total_is_refused() {
    let mut shop = Shop::new("JPY");
    for (minimum, is_taken) in
        [("1000000000000000000000000000", true), ("1000000000000000000000000001", false)]
    {
        let body = json!({ "plan": "pro", "window": "month", "model": "flat", "unit_amount": "1", "minimum": minimum });
        assert_eq!(shop.world.put("prices", "fee", &body).is_some(), is_taken, "{minimum}");
    }
}

#[test]
fn a_capacity_of_one_meter_takes_the_step_in_which_its_total_fits() {
    let mut shop = Shop::new("USD");
    shop.price("cap", json!({ "model": "capacity", "meters": ["calls"], "steps": [{ "up_to": { "calls": "100" }, "amount": "10" }, { "amount": "50" }] }));
    shop.subscribe("01-01", json!({}));
    shop.used("01-10", 500, "01-10");
    shop.cut("01-31");
    assert_eq!(shop.issued(), ["01 charge  5000"]);
}

#[test]
fn units_that_cost_less_than_nothing_commit_to_nothing() {
    let mut shop = Shop::new("USD");
    shop.price("calls", json!({ "model": "per_unit", "meter": "calls", "unit_amount": "-1" }));
    shop.subscribe("01-01", json!({}));
    shop.put("commitments", "c", json!({ "account": "acme", "shape": "none", "quantity": "300", "prices": ["calls"], "from": "2026-01-01T00:00:00Z", "until": "2026-04-01T00:00:00Z" }));
    shop.cut("02-08");
    assert_eq!(shop.issued(), [""; 0]);
}

#[test]
fn a_grant_pays_for_usage_in_its_span_only() {
    let mut shop = Shop::new("USD");
    shop.price("calls", per_call());
    shop.subscribe("01-01", json!({}));
    shop.put("grants", "g", json!({ "account": "acme", "kind": "paid", "amount": "100", "from": "2026-01-15T00:00:00Z", "until": "2026-01-20T00:00:00Z" }));
    shop.used("01-10", 10, "01-10");
    shop.used("01-16", 20, "01-16");
    shop.used("01-25", 40, "01-25");
    shop.cut("01-31");
    assert_eq!(shop.issued(), ["01 charge  7000", "01 credit g -2000"]);
}

#[test]
fn a_grant_from_the_day_of_signing_up_pays_the_first_fee() {
    let mut shop = Shop::new("USD");
    shop.price("fee", json!({ "model": "flat", "unit_amount": "30", "payment": "in_advance" }));
    shop.subscribe("01-20", json!({}));
    shop.put(
        "grants",
        "g",
        json!({ "account": "acme", "kind": "paid", "amount": "100", "from": "2026-01-20T00:00:00Z" }),
    );
    shop.cut("01-25");
    assert_eq!(shop.issued(), ["01 charge  3000", "01 credit g -3000"]);
}

#[test]
fn credits_do_not_pay_for_what_was_reversed() {
    let mut shop = Shop::new("USD");
    shop.price("calls", per_call());
    let mut repriced = per_call();
    repriced["effective_from"] = "2026-01-15T00:00:00Z".into();
    repriced["unit_amount"] = "1".into();
    shop.price("calls", repriced);
    shop.subscribe("01-01", json!({}));
    shop.put(
        "grants",
        "g",
        json!({ "account": "acme", "kind": "paid", "amount": "100", "from": "2026-01-01T00:00:00Z" }),
    );
    shop.used("01-10", 80, "01-10");
    shop.used("01-20", -50, "01-20");
    shop.cut("01-31");
    assert_eq!(shop.issued(), ["01 charge  3000", "01 credit g -3000"]);
}

#[test]
fn a_draw_keeps_its_slice_once_it_is_sealed() {
    let mut shop = Shop::new("USD");
    shop.price("calls", per_call());
    shop.subscribe("01-01", json!({}));
    let mut grant = json!({ "account": "acme", "kind": "paid", "amount": "10", "from": "2026-01-01T00:00:00Z", "every": { "days": 5 } });
    shop.put("grants", "g", grant.clone());
    shop.used("01-08", 9, "01-10");
    shop.used("01-12", 14, "01-12");
    let expected = ["01 charge  2300", "01 credit g#2 -900", "01 credit g#3 -1000"];
    shop.cut("01-31");
    let sealed = shop.world.machine.control().seals().len();
    shop.used("02-02", 0, "02-02");
    shop.cut("02-02");
    let lines = shop.world.machine.issued().of_account(&AccountId::new("acme").unwrap()).count();
    assert_eq!(
        (shop.issued(), lines),
        (expected.map(String::from).to_vec(), 5),
        "two charges, two draws, nothing of February"
    );
    assert_eq!(shop.world.machine.control().seals().len(), sealed + 1);
    for day in ["02-07", "02-08"] {
        shop.cut(day);
    }
    // Closed draws stay, also of lots that a void keeps from being given at all.
    grant["voided_at"] = "2026-01-01T00:00:00Z".into();
    shop.put("grants", "g", grant);
    shop.cut("02-10");
    assert_eq!(shop.issued(), expected);
    shop.replays();
}

#[test]
fn usage_that_fits_no_row_is_said_and_charged_once_there_is_one() {
    let mut shop = Shop::new("USD");
    let row = json!({ "when": { "kind": "a" }, "unit_amount": "1" });
    let matrix = json!({ "model": "matrix", "meter": "calls", "unmatched": "quarantine", "rows": [row] });
    shop.price("calls", matrix.clone());
    shop.price("all", json!({ "model": "per_unit", "meter": "calls", "unit_amount": "3" }));
    shop.subscribe("01-01", json!({}));
    shop.used("01-05", 7, "01-05");
    shop.cut("01-06");
    let waiting: Vec<_> =
        shop.world.machine.set_aside().iter().map(|s| (s.price.to_string(), s.event_count)).collect();
    assert_eq!(waiting, [("calls".to_string(), 1)]);
    // The bill says so as well, and a start does not forget it.
    let acme = AccountId::new("acme").unwrap();
    for machine in [&shop.world.machine, &shop.world.replay(ReplayMode::Load, 3).machine] {
        let windows = machine.explain(&acme, Span::new(Timestamp::MIN, Timestamp::END)).unwrap();
        let text = windows.iter().map(ToString::to_string).collect::<String>();
        assert!(text.contains("s1 · calls\n    not charged: 1 event of the usage fits no row"), "{text}");
        assert_eq!(windows[0].to_json()["set_aside"][0]["event_count"], 1);
        let february = Span::new(at("02-01"), at("03-01"));
        assert!(machine.explain(&acme, february).unwrap().is_empty(), "another month has nothing to say");
    }
    let charged = |shop: &Shop| -> i128 {
        let account = AccountId::new("acme").unwrap();
        shop.world.machine.issued().of_account(&account).map(|(_, worth)| worth.rounded).sum()
    };
    assert_eq!(charged(&shop), 2_100);
    let mut mended = matrix;
    mended["rows"].as_array_mut().unwrap().push(json!({ "unit_amount": "2" }));
    shop.price("calls", mended);
    shop.cut("01-07");
    assert_eq!((charged(&shop), shop.world.machine.set_aside().len()), (3_500, 0));
    shop.world.replay(ReplayMode::Derive, 1);
}

/// Units of a grant went for usage that cost nothing: before the price began, and in no row of it.
#[test]
fn usage_that_is_free_takes_nothing_from_a_grant_in_units() {
    for is_matrix in [false, true] {
        let mut shop = Shop::new("USD");
        let meter = json!({ "event_type": "call", "aggregation": "sum", "value": "n", "group_by": ["kind"] });
        shop.put("meters", "kinds", meter);
        let terms = match is_matrix {
            true => json!({
                "model": "matrix", "meter": "kinds", "unmatched": "zero",
                "rows": [{ "when": { "kind": "b" }, "unit_amount": "1" }],
            }),
            false => json!({
                "model": "per_unit", "meter": "kinds", "unit_amount": "1", "effective_from": at("01-15").to_string(),
            }),
        };
        shop.price("calls", terms);
        shop.subscribe("01-01", json!({}));
        let grant = json!({ "account": "acme", "kind": "paid", "meter": "kinds", "amount": "100", "from": at("01-01").to_string() });
        shop.put("grants", "g", grant);
        shop.used_with("01-10", 70, "01-10", &[("kind", "a")]);
        shop.cut("01-11");
        shop.used_with("01-20", 90, "01-20", &[("kind", "b")]);
        shop.cut("01-21");
        assert_eq!(shop.issued(), [""; 0], "is_matrix {is_matrix}");
        shop.used_with("01-22", 15, "01-22", &[("kind", "b")]);
        shop.cut("01-23");
        assert_eq!(shop.issued(), ["01 charge  500"], "is_matrix {is_matrix}");
        shop.replays();
    }
}

/// An upgrade forgot what was used, free, before the price of the plan before began: it counts in that price.
#[test]
fn a_counter_goes_on_through_an_upgrade_with_all_that_it_counts() {
    let mut shop = Shop::new("USD");
    let tiers = json!([{ "up_to": "10", "unit_amount": "10" }, { "unit_amount": "1" }]);
    let mut terms = json!({ "model": "graduated", "meter": "calls", "tiers": tiers });
    shop.put("plans", "max", json!({ "currency": "USD" }));
    let mut of_max = terms.clone();
    of_max["plan"] = "max".into();
    shop.price("calls-max", of_max);
    terms["effective_from"] = at("01-12").to_string().into();
    shop.price("calls", terms);
    shop.subscribe("01-01", json!({}));
    shop.put(
        "subscriptions",
        "s1",
        json!({ "account": "acme", "plan": "max", "from": at("01-15").to_string() }),
    );
    for (day, units, sum) in [("01-05", 20, None), ("01-13", 8, Some(800)), ("01-16", 5, Some(1_300))] {
        shop.used(day, units, day);
        shop.cut(day);
        let expected: Vec<String> = sum.map(|sum| format!("01 charge  {sum}")).into_iter().collect();
        assert_eq!(shop.issued(), expected, "{day}");
    }
    shop.replays();
}

/// Late usage of one group moves the units of another one to a dearer tier or a cheaper one: both are corrected.
#[test]
fn groups_that_count_together_are_corrected_together() {
    let mut shop = Shop::new("USD");
    let meter = json!({ "event_type": "call", "aggregation": "sum", "value": "n", "group_by": ["kind"] });
    shop.put("meters", "kinds", meter);
    let tiers = json!([{ "up_to": "10", "unit_amount": "1" }, { "unit_amount": "0.5" }]);
    shop.price(
        "calls",
        json!({ "model": "graduated", "meter": "kinds", "tier_scope": "price", "tiers": tiers }),
    );
    shop.subscribe("01-01", json!({}));
    let charged = |shop: &Shop| -> Vec<String> {
        let mut sums: BTreeMap<String, i128> = BTreeMap::new();
        for (key, worth) in shop.world.machine.issued().of_account(&AccountId::new("acme").unwrap()) {
            *sums.entry(key.group.get("kind").unwrap_or("none").to_string()).or_default() += worth.rounded;
        }
        sums.into_iter().map(|(kind, sum)| format!("{kind} {sum}")).collect()
    };
    shop.used_with("01-03", 8, "01-03", &[("kind", "b")]);
    shop.cut("01-04");
    assert_eq!(charged(&shop), ["b 800"]);
    shop.used_with("01-02", 6, "01-04", &[("kind", "a")]);
    shop.cut("01-05");
    // One slice: units count in order of texts.
    assert_eq!(charged(&shop), ["a 600", "b 600"]);
    assert_eq!(shop.explained(), ["01 1200"]);
    // A version cuts the window: what is used from then on comes behind all that was used before.
    let dearer = json!([{ "up_to": "10", "unit_amount": "1" }, { "unit_amount": "0.75" }]);
    shop.price(
        "calls",
        json!({ "model": "graduated", "meter": "kinds", "tier_scope": "price", "tiers": dearer, "effective_from": at("01-20").to_string() }),
    );
    shop.used_with("01-21", 4, "01-21", &[("kind", "a")]);
    shop.cut("01-22");
    assert_eq!(charged(&shop), ["a 900", "b 600"]);
    assert_eq!(shop.explained(), ["01 1500"]);
    shop.replays();
}

/// A window is worth too much; while it is, usage of another one came and a month ended. Usage that takes the first window
/// back touches nothing else of the account, and yet all of it was charged nowhere.
#[test]
fn an_account_that_could_not_be_rated_is_rated_as_a_whole_at_every_cut_until_it_can() {
    let mut shop = Shop::new("USD");
    shop.price("calls", json!({ "model": "per_unit", "meter": "calls", "unit_amount": "10000000000000" }));
    shop.price("fee", json!({ "model": "flat", "unit_amount": "5", "payment": "in_arrears" }));
    shop.subscribe("01-01", json!({}));
    shop.used("01-10", 10i64.pow(13), "01-10");
    shop.used("02-02", 1, "02-02");
    let failed = shop.failing_cut("02-03");
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0].starts_with("account acme, subscription s1, price calls, window from 2026-01-01"),
        "{failed:?}"
    );
    assert_eq!(shop.failing_cut("02-04"), failed, "every cut says so");
    // A start knows it from the log alone, whether the last cut is open or not.
    let started = shop.world.replay(ReplayMode::Load, 3);
    assert_eq!(started.machine.failures().map(ToString::to_string).collect::<Vec<_>>(), failed);
    let acme = AccountId::new("acme").unwrap();
    assert_eq!(started.machine.failure_of(&acme).map(ToString::to_string), failed.first().cloned());
    shop.used("02-05", 1, "02-05");
    assert_eq!(shop.failing_cut("02-06"), failed, "nothing of the account is charged, nor final");
    assert!(shop.issued().is_empty() && shop.world.machine.control().seals().is_empty());
    shop.replays();
    shop.used("01-11", -10i64.pow(13) + 3, "02-07");
    shop.cut("02-07");
    let month = 10i128.pow(15);
    let expected = [format!("01 charge  {}", 3 * month + 500), format!("02 charge  {}", 2 * month)];
    assert_eq!(shop.issued(), expected);
    let records = shop.world.machine.control().records();
    shop.cut("02-08");
    assert_eq!(shop.world.machine.control().records(), records + 1, "a cut alone: nothing failed or changed");
    shop.replays();
}

/// A graduated price of the calls, a first tier of 100 units.
fn graduated(plan: &str, first: &str, rest: &str, more: Value) -> Value {
    let tiers = json!([{ "up_to": "100", "unit_amount": first }, { "unit_amount": rest }]);
    let mut terms = json!({ "plan": plan, "model": "graduated", "meter": "calls", "tiers": tiers });
    terms.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    terms
}

/// An upgrade from the plan `pro` to the plan `max` on 14 January.
fn upgraded(before: Value, after: Value, uses: &[(&str, i64)]) -> Shop {
    let mut shop = Shop::new("USD");
    shop.put("plans", "max", json!({ "currency": "USD" }));
    shop.price("pa", before);
    shop.price("pb", after);
    shop.subscribe("01-01", json!({}));
    let upgrade = json!({ "account": "acme", "plan": "max", "from": "2026-01-14T00:00:00Z" });
    shop.put("subscriptions", "s1", upgrade);
    for (day, units) in uses {
        shop.used(day, *units, "01-30");
    }
    for day in ["01-12", "01-16", "02-07"] {
        shop.cut(day);
    }
    shop.replays();
    shop
}

#[test]
fn a_counter_goes_on_through_an_upgrade_inside_a_window() {
    let pro = || graduated("pro", "1", "0.5", json!({}));
    let max = |more| graduated("max", "0.8", "0.4", more);
    let uses = &[("01-10", 90), ("01-20", 30)];
    for (before, after, minor) in [
        // 90 at 1, then 10 at 0.8 and 20 at 0.4.
        (pro(), max(json!({})), 10_600),
        // Another unit is another counter: 90 at 1, 30 at 0.8.
        (pro(), max(json!({ "convert": { "multiply": "1" } })), 11_400),
        // As is another model.
        (pro(), json!({ "plan": "max", "model": "per_unit", "meter": "calls", "unit_amount": "2" }), 15_000),
        // 100 of the 120 are included, all of the first 90 among them.
        (
            graduated("pro", "1", "1", json!({ "included": "100" })),
            graduated("max", "1", "1", json!({ "included": "100" })),
            2_000,
        ),
        // A package that is begun is not begun again.
        (
            json!({ "plan": "pro", "model": "package", "meter": "calls", "unit_amount": "8", "package_size": "100" }),
            json!({ "plan": "max", "model": "package", "meter": "calls", "unit_amount": "5", "package_size": "100" }),
            1_300,
        ),
    ] {
        let what = format!("{before} then {after}");
        let shop = upgraded(before, after, uses);
        assert_eq!(shop.issued(), [format!("01 charge  {minor}")], "{what}");
        assert_eq!(shop.explained()[0], format!("01 {minor}"), "{what}");
    }
}

#[test]
fn the_first_flat_amount_of_an_upgraded_window_is_owed_once() {
    let with_flat = |plan: &str, flat: &str| {
        let mut terms = graduated(plan, "1", "0.5", json!({}));
        terms["tiers"][0]["flat_amount"] = flat.into();
        terms
    };
    for (uses, minor) in [
        (&[("01-10", 90), ("01-20", 30)][..], 700 + 10_000 + 1_000),
        (&[("01-20", 30)], 700 + 3_000),
        (&[], 700),
    ] {
        let shop = upgraded(with_flat("pro", "7"), with_flat("max", "9"), uses);
        assert_eq!(shop.issued()[0], format!("01 charge  {minor}"), "{uses:?}");
        assert_eq!(shop.explained()[0], format!("01 {minor}"), "{uses:?}");
    }
}

#[test]
fn a_first_flat_amount_that_was_owed_without_usage_is_not_owed_again_by_usage() {
    let with_flat = |plan: &str, is_at_zero: bool| {
        let mut terms = graduated(plan, "1", "0.5", json!({ "flat_at_zero": is_at_zero }));
        terms["tiers"][0]["flat_amount"] = "10".into();
        terms
    };
    let shop = upgraded(with_flat("pro", true), with_flat("max", false), &[("01-20", 5)]);
    assert_eq!(shop.issued()[0], "01 charge  1500");
}

#[test]
fn a_price_that_begins_after_a_window_changes_nothing_in_it() {
    let volume = |plan: &str, more: Value| {
        let tiers = json!([{ "up_to": "100", "unit_amount": "1" }, { "unit_amount": "0.5" }]);
        let mut terms = json!({ "plan": plan, "model": "volume", "meter": "calls", "tiers": tiers });
        terms.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        terms
    };
    let fee = json!({ "plan": "max", "model": "flat", "unit_amount": "5" });
    let mut shop = upgraded(volume("pro", json!({})), fee, &[("01-10", 90), ("01-20", 50)]);
    assert_eq!(shop.issued()[0], "01 charge  9500");
    shop.price("pc", volume("max", json!({ "effective_from": "2026-06-01T00:00:00Z" })));
    shop.cut("05-10");
    assert_eq!(shop.issued()[0], "01 charge  9500");
    shop.replays();
}

#[test]
fn a_measure_that_may_fall_is_counted_by_each_plan_for_itself() {
    let mut shop = Shop::new("USD");
    let meter = json!({ "event_type": "call", "aggregation": "latest", "value": "n" });
    shop.put("meters", "seats", meter);
    shop.put("plans", "max", json!({ "currency": "USD" }));
    for (id, plan, amount) in [("pa", "pro", "1"), ("pb", "max", "10")] {
        shop.price(id, json!({ "plan": plan, "model": "per_unit", "meter": "seats", "unit_amount": amount }));
    }
    shop.subscribe("01-01", json!({}));
    shop.put(
        "subscriptions",
        "s1",
        json!({ "account": "acme", "plan": "max", "from": "2026-01-14T00:00:00Z" }),
    );
    shop.used("01-10", 100, "01-10");
    shop.used("01-20", 90, "01-20");
    shop.cut("02-07");
    assert_eq!(shop.issued(), ["01 charge  100000"]);
}

#[test]
fn a_shortfall_is_not_owed_for_usage_that_was_prepaid() {
    for (first, second) in [("prepaid_drawdown", "roll_forward"), ("roll_forward", "prepaid_drawdown")] {
        let mut shop = Shop::new("USD");
        shop.price("calls", per_call());
        shop.subscribe("01-01", json!({}));
        for (id, shape) in [("a", first), ("b", second)] {
            shop.put("commitments", id, json!({ "account": "acme", "shape": shape, "amount": "300", "from": "2026-01-01T00:00:00Z", "until": "2026-04-01T00:00:00Z" }));
        }
        for (day, cut) in [("01-10", "02-07"), ("02-10", "03-07"), ("03-10", "04-07")] {
            shop.used(day, 100, day);
            shop.cut(cut);
        }
        assert!(shop.issued().iter().all(|line| !line.contains("true_up")), "{:?}", shop.issued());
    }
}

#[test]
fn a_price_that_begins_inside_a_window_owes_its_recurring_or_flat_amount() {
    let steps = json!([{ "up_to": "10", "flat_amount": "20" }, { "flat_amount": "50" }]);
    let mut first_flat = graduated("pro", "1", "0.5", json!({}));
    first_flat["tiers"][0]["flat_amount"] = "20".into();
    for (mut terms, window, minor) in [
        (json!({ "model": "flat", "unit_amount": "31", "proration": "days" }), "month", 1_600),
        (json!({ "model": "flat", "unit_amount": "31", "payment": "in_arrears" }), "month", 3_100),
        // 350 of the days of the year.
        (json!({ "model": "flat", "unit_amount": "365", "proration": "days" }), "year", 35_000),
        (json!({ "model": "stairstep", "meter": "calls", "tiers": steps }), "month", 5_000),
        (first_flat, "month", 2_000 + 1_500),
    ] {
        let mut shop = Shop::new("USD");
        terms["effective_from"] = "2026-01-16T00:00:00Z".into();
        terms["window"] = window.into();
        if terms["model"] == "flat" && terms.get("payment").is_none() {
            terms["payment"] = "in_advance".into();
        }
        let what = terms.to_string();
        shop.price("late", terms);
        shop.subscribe("01-01", json!({}));
        shop.used("01-20", 15, "01-20");
        for day in ["01-10", "01-18", "02-07"] {
            shop.cut(day);
        }
        assert_eq!(shop.issued()[0], format!("01 charge  {minor}"), "{what}");
        shop.replays();
    }
}

#[test]
fn commitments_over_the_same_charges_do_not_depend_on_how_their_ids_are_spelled() {
    for (prepaid, minimum) in [("a", "b"), ("b", "a")] {
        let mut shop = Shop::new("USD");
        shop.price("calls", per_call());
        shop.subscribe("01-01", json!({}));
        let term = |shape: &str, amount: &str| json!({ "account": "acme", "shape": shape, "amount": amount, "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z" });
        shop.put("commitments", prepaid, term("prepaid_drawdown", "60"));
        shop.put("commitments", minimum, term("none", "100"));
        shop.used("01-10", 100, "01-10");
        shop.cut("02-07");
        // What was paid before counts: nothing is missing to 100.
        assert_eq!(shop.issued(), ["01 charge  10000".to_string(), format!("01 drawdown {prepaid} -6000")]);
    }
}

#[test]
fn what_is_paid_ahead_pays_for_a_charge_once_in_the_order_of_agreement() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut shop = Shop::new("USD");
        shop.price("calls", per_call());
        shop.subscribe("01-01", json!({}));
        for (id, amount) in [(first, "60"), (second, "70")] {
            shop.put("commitments", id, json!({ "account": "acme", "shape": "prepaid_drawdown", "amount": amount, "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z" }));
        }
        shop.used("01-10", 100, "01-10");
        shop.cut("02-07");
        let mut draws = [format!("01 drawdown {first} -6000"), format!("01 drawdown {second} -4000")];
        draws.sort();
        assert_eq!(shop.issued()[1..], draws);
    }
}

#[test]
fn a_committed_quantity_is_priced_window_by_window() {
    // 100 units of a month cost 100; all 1,200 of a year in one window would cost 210.
    for (more, used, minor) in [
        (json!({}), 100, 0),
        (json!({}), 40, 6_000),
        // Half of each month's units are included.
        (json!({ "included": "50" }), 100, 0),
    ] {
        let mut shop = Shop::new("USD");
        shop.price("calls", graduated("pro", "1", "0.1", more.clone()));
        shop.subscribe("01-01", json!({}));
        shop.put("commitments", "c", json!({ "account": "acme", "shape": "none", "quantity": "1200", "prices": ["calls"], "overage_factor": "2", "from": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z" }));
        shop.used("01-10", used, "01-10");
        shop.cut("02-07");
        let agreed: Vec<String> = shop.issued().into_iter().filter(|line| line.contains(" c ")).collect();
        let expected = (minor != 0).then(|| format!("01 true_up c {minor}"));
        assert_eq!(agreed, Vec::from_iter(expected), "{more} {used}");
    }
}
