//! Short histories that random ones once found, each under the rule that it broke.

use domain::Timestamp;
use serde_json::json;

use super::histories::{PRICES, Setup, Step, Usage, When};
use super::model::{Negative, Terms, Tier, hour};
use super::play::play;
use super::world::World;
use crate::ReplayMode;
use crate::control::default_policy;

const MARCH_IN_BERLIN: &str = "2026-02-28T23:00:00Z";

fn setup() -> Setup {
    Setup {
        currency: "USD",
        negative: Negative::Reject,
        horizon_hours: 35 * 24,
        future_max_hours: 1,
        grace_hours: 5 * 24,
        entity_zones: ["America/New_York", "America/New_York"],
        accounts: [(0, "Europe/Berlin"), (0, "America/New_York"), (0, "America/New_York")],
        sum_is_grouped: false,
        units: ["month"; 6],
        anchors: [None; 4],
        has_count_meter: false,
        prices: vec![None; PRICES],
        subscriptions: [("p1", hour(0)), ("p1", hour(0))],
    }
}

fn terms(unit: i128) -> Terms {
    Terms { from: None, tiers: vec![Tier { up_to: None, unit, flat: 0 }], per: 1, flat_at_zero: None }
}

/// The price of tokens of the plan `p1`, here with one tier.
fn unit_price() -> Step {
    Step::Price { price: 3, terms: terms(100) }
}

fn usage(subject: &'static str, when: When) -> Step {
    let events = vec![Usage { subject, when, halves: Some(20), group: None }];
    Step::Usage { source: "edge", event_type: "call", events, is_first_twice: false }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn cut() -> Step {
    Step::Cut { crashes: false }
}

fn journals() -> Step {
    Step::Journals { entity: "e0", crashes: false }
}

#[test]
fn a_run_without_journals_and_the_next_one_share_a_number_and_both_replay() {
    let subscribed = Step::Subscribe { subscription: "s1", plan: "p0", from: hour(0), hours: None };
    let free = Step::Price { price: 3, terms: terms(0) };
    let (first, second) = (usage("k0", When::HoursAgo(3)), usage("k0", When::HoursAgo(2)));
    let priced = Step::Price { price: 2, terms: terms(70_000) };
    let steps =
        [subscribed, free, first, cut(), journals(), second, priced, Step::PassHours(900), cut(), journals()];
    play(&setup(), &steps);
}

#[test]
fn a_line_is_reversed_in_the_period_that_it_was_charged_in() {
    // Still February for the entity in New York, already March for the account in Berlin.
    let used = usage("k0", When::At(at(MARCH_IN_BERLIN).plus(1)));
    let rebound = Step::Bind { subject: "k0", subscription: "s1", from: hour(0), hours: None };
    play(&setup(), &[unit_price(), Step::PassHours(45 * 24), used, cut(), rebound, cut()]);
}

#[test]
fn a_window_before_the_first_final_one_becomes_final_as_well() {
    let later = Step::Subscribe { subscription: "s2", plan: "p1", from: hour(60 * 24), hours: None };
    let earlier = Step::Subscribe { subscription: "s2", plan: "p1", from: hour(0), hours: None };
    play(&setup(), &[later, Step::PassHours(90 * 24), cut(), earlier, cut()]);
}

#[test]
fn a_cut_that_found_nothing_stays_closed_after_a_restart_whatever_was_put_since() {
    let used = usage("k0", When::HoursAgo(1));
    play(&setup(), &[cut(), used, cut(), unit_price(), Step::Restart, cut()]);
}

#[test]
fn usage_ahead_of_the_cut_follows_a_change_of_owner_and_of_price() {
    let ahead = || usage("k0", When::At(at(MARCH_IN_BERLIN).plus(1)));
    let setup = Setup { future_max_hours: 60 * 24, ..setup() };
    let rebound = Step::Bind { subject: "k0", subscription: "s3", from: hour(0), hours: None };
    let subscribed = Step::Subscribe { subscription: "s3", plan: "p1", from: hour(0), hours: None };
    play(&setup, &[unit_price(), subscribed, ahead(), cut(), rebound, cut()]);
    play(&setup, &[ahead(), cut(), unit_price(), cut()]);
}

/// A batch named a window that began in 1999, and no start could read it.
#[test]
fn a_window_that_begins_before_all_usage_is_sealed_and_read() {
    let mut world = World::new(1, &default_policy());
    world.put("entities", "inc", &json!({ "currency": "USD", "time_zone": "UTC" }));
    let account = json!({ "name": "Acme", "entity": "inc", "currency": "USD", "time_zone": "Asia/Tokyo" });
    world.put("accounts", "acme", &account);
    world.put("plans", "pro", &json!({ "currency": "USD" }));
    for (window, payment) in [("week", "in_arrears"), ("year", "in_advance")] {
        let fee = json!({
            "plan": "pro", "model": "flat", "unit_amount": "1", "window": window, "payment": payment,
        });
        world.put("prices", window, &fee);
    }
    let subscription = json!({
        "account": "acme", "plan": "pro", "from": "2000-01-01T00:00:00Z", "anchor": "2000-07-01T00:00:00Z",
    });
    world.put("subscriptions", "s", &subscription).unwrap();
    world.start_cut(at("2000-01-20T00:00:00Z"));
    let batch = world.finish_cut().unwrap();
    assert!(batch.window_finals.iter().any(|sealed| sealed.window.from < Timestamp::MIN));
    assert!(batch.lines.iter().any(|line| line.period.to_string() == "1999-07"));
    for mode in [ReplayMode::Load, ReplayMode::Derive] {
        world.replay(mode, 2);
    }
}

/// The month that a fee in arrears belongs to had a line of the account's discount and never became final, because the subscription
/// had ended before.
#[test]
fn a_month_with_a_discount_becomes_final_also_behind_the_last_subscription() {
    let mut world = World::new(1, &default_policy());
    world.put("entities", "inc", &json!({ "currency": "USD", "time_zone": "UTC" }));
    let account = json!({ "name": "Acme", "entity": "inc", "currency": "USD", "time_zone": "UTC" });
    world.put("accounts", "acme", &account);
    world.put("plans", "pro", &json!({ "currency": "USD" }));
    let fee = json!({
        "plan": "pro", "model": "flat", "unit_amount": "100", "window": "quarter", "payment": "in_arrears",
    });
    world.put("prices", "fee", &fee);
    let span = json!({
        "account": "acme", "plan": "pro", "from": "2026-01-01T00:00:00Z", "until": "2026-01-20T00:00:00Z",
    });
    world.put("subscriptions", "s", &span).unwrap();
    let discount = json!({ "account": "acme", "percent": "10", "from": "2026-03-01T00:00:00Z" });
    world.put("discounts", "d", &discount).unwrap();
    let mut finals = Vec::new();
    for day in ["2026-01-25", "2026-02-10", "2026-03-10", "2026-04-01", "2026-04-20", "2026-05-20"] {
        world.start_cut(at(&format!("{day}T00:00:00Z")));
        let batch = world.finish_cut();
        finals.extend(batch.into_iter().flat_map(|batch| batch.window_finals));
    }
    let mut found: Vec<String> =
        finals.iter().map(|sealed| format!("{}..{}", sealed.window.from, sealed.window.until)).collect();
    found.sort();
    let day = |from: &str, until: &str| format!("2026-{from}T00:00:00Z..2026-{until}T00:00:00Z");
    let expected =
        [day("01-01", "02-01"), day("01-01", "04-01"), day("02-01", "03-01"), day("03-01", "04-01")];
    assert_eq!(found, expected);
    world.replay(ReplayMode::Derive, 2);
}
