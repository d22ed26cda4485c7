//! What terms would change, against a world in which they are really put and cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::catalog::{Resource, ResourceKind};
use billing::charges::ChargeLine;
use domain::time::{DAY, HOUR};
use domain::{AccountId, Period, Timestamp};
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::world::World;
use crate::{AccountEffect, Effect, ReplayMode, usage_period};

pub(super) fn resource(kind: &str, id: &str, body: Value) -> Resource {
    Resource::from_json(ResourceKind::parse(kind).unwrap(), id, body).unwrap()
}

/// Tries terms on the world of a random history: prices from the beginning and from the middle of a month, a
/// subscription, a subject's owner, and nothing at all.
pub(super) fn check_trials(world: &World, at: Timestamp) {
    let price = |from: Option<&str>| {
        let mut body = json!({"plan": "p1", "meter": "tokens", "model": "per_unit", "window": "month", "unit_amount": "0.0703"});
        if let Some(from) = from {
            body["effective_from"] = from.into();
        }
        resource("prices", "p1-tokens", body)
    };
    let fee = json!({"plan": "p0", "model": "flat", "window": "month", "unit_amount": "9.99"});
    let moved = json!({"account": "a1", "plan": "p0", "from": "2026-02-03T04:05:06Z"});
    let bound = json!({"subscription": "s1", "from": "2026-02-07T00:00:00Z"});
    let trials = [
        vec![],
        vec![price(None), resource("prices", "p0-fee", fee)],
        vec![price(Some("2026-02-11T12:00:00Z"))],
        vec![resource("subscriptions", "s1", moved), resource("subjects", "k0", bound)],
    ];
    // One of them for each history: all would take longer than the histories themselves.
    let chosen = world.machine.control().records() as usize % trials.len();
    let effect = check(world, at, &trials[chosen]);
    if chosen == 1 {
        check_periods(world, at, &trials[chosen], &effect);
    }
}

/// What a trial says is what putting the terms and cutting does, in two cuts and in one.
fn check(world: &World, at: Timestamp, resources: &[Resource]) -> Effect {
    let effect = check_lines(world, at, resources);
    let mut once = restarted(world);
    put(&mut once, resources);
    cut(&mut once, at);
    let mut after: BTreeMap<AccountId, i128> = effect
        .accounts
        .iter()
        .map(|(id, account)| (id.clone(), account.before + account.difference))
        .collect();
    // Lines that add up to nothing are worth as much as none.
    after.retain(|_, amount| *amount != 0);
    let mut charged = charged(&once);
    charged.retain(|_, amount| *amount != 0);
    for failure in &effect.failures {
        // Two cuts charge what can be rated before the terms; one cut charges nothing at all.
        after.remove(&failure.account);
        charged.remove(&failure.account);
    }
    assert_eq!(after, charged, "the same after a single cut");
    effect
}

/// The lines of a trial are those that a server charges that cuts, takes the terms and cuts again.
pub(super) fn check_lines(world: &World, at: Timestamp, resources: &[Resource]) -> Effect {
    let effect = world.try_out(1, at, resources, None);
    assert_eq!(world.try_out(3, at, resources, None), effect, "the number of shards changes nothing");
    let mut twice = restarted(world);
    cut(&mut twice, at);
    let before = charged(&twice);
    put(&mut twice, resources);
    let lines = cut(&mut twice, at);
    assert_eq!(effect.lines, lines, "the lines are those that a server charges");
    for (id, account) in &effect.accounts {
        assert_eq!(account.before, before.get(id).copied().unwrap_or(0), "{id} was charged before");
    }
    effect
}

fn restarted(world: &World) -> World {
    let mut world = world.replay(ReplayMode::Load, 2);
    if world.machine.has_open_cut() {
        world.rate_and_seal();
    }
    world
}

fn put(world: &mut World, resources: &[Resource]) {
    for resource in resources {
        world.put(resource.kind().as_str(), resource.id(), &resource.to_json());
    }
    world.barrier(false);
}

fn cut(world: &mut World, at: Timestamp) -> Vec<ChargeLine> {
    world.start_cut(at);
    world.rate_and_seal().map(|batch| batch.lines).unwrap_or_default()
}

/// The effects on single periods add up to the whole.
fn check_periods(world: &World, at: Timestamp, resources: &[Resource], effect: &Effect) {
    let mut sums: BTreeMap<AccountId, AccountEffect> = BTreeMap::new();
    let mut periods = effect.periods.clone();
    periods.extend(effect.lines.iter().map(usage_period));
    for period in periods {
        let part = world.try_out(1, at, resources, Some(period));
        assert!(part.lines.iter().all(|line| usage_period(line) == period));
        for (id, account) in part.accounts {
            let nothing = AccountEffect {
                before: 0,
                difference: 0,
                drawn_before: 0,
                drawn_difference: 0,
                lines: 0,
                ..account
            };
            let sum = sums.entry(id).or_insert(nothing);
            sum.before += account.before;
            sum.difference += account.difference;
            sum.drawn_before += account.drawn_before;
            sum.drawn_difference += account.drawn_difference;
            sum.lines += account.lines;
        }
    }
    assert_eq!(sums, effect.accounts);
}

fn charged(world: &World) -> BTreeMap<AccountId, i128> {
    let mut charged: BTreeMap<AccountId, i128> = BTreeMap::new();
    for ((account, _), sums) in world.machine.charged() {
        *charged.entry(account).or_default() += sums.all;
    }
    charged
}

const NOW: &str = "2026-02-20T00:00:00Z";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn policy() -> PolicyRecord {
    PolicyRecord {
        horizon: 90 * DAY,
        future_max: HOUR,
        pending_per_slot_max: 256,
        grace: 5 * DAY,
        correction_horizon: 400 * DAY,
    }
}

/// Two accounts in two currencies, 1 for a call: 100 calls each in January, of which `acme` pays 100.00 USD and `bell`
/// 90.00 EUR, and 10 in February, behind the last cut.
fn world() -> World {
    let mut world = World::new(2, &policy());
    let mut put =
        |kind: &str, id: &str, body: Value| assert_eq!(world.put(kind, id, &body), Some(1), "{body}");
    put("entities", "inc", json!({"currency": "USD", "time_zone": "UTC"}));
    put("meters", "calls", json!({"event_type": "call", "aggregation": "sum", "value": "calls"}));
    for (account, currency, unit) in [("acme", "USD", "1"), ("bell", "EUR", "0.9")] {
        let of_account = json!({"name": account, "entity": "inc", "currency": currency, "time_zone": "UTC"});
        put("accounts", account, of_account);
        put("plans", account, json!({ "currency": currency }));
        put("prices", account, price(account, unit));
        put(
            "subscriptions",
            account,
            json!({"account": account, "plan": account, "from": "2026-01-01T00:00:00Z"}),
        );
        put("subjects", account, json!({"subscription": account, "from": "2026-01-01T00:00:00Z"}));
    }
    world.barrier(false);
    for subject in ["acme", "bell"] {
        world.take_usage(&calls("january", subject, "2026-01-10T00:00:00Z", 100), at(NOW));
    }
    world.start_cut(at(NOW));
    world.finish_cut().unwrap();
    for subject in ["acme", "bell"] {
        world.take_usage(&calls("february", subject, "2026-02-19T00:00:00Z", 10), at(NOW));
    }
    world
}

fn price(plan: &str, unit: &str) -> Value {
    json!({"plan": plan, "meter": "calls", "model": "per_unit", "window": "month", "unit_amount": unit})
}

fn calls(id: &str, subject: &str, time: &str, calls: i128) -> Arc<AlignedBytes> {
    let mut builder = BatchBuilder::new(subject, "call", IdMode::Given);
    builder.push_parts(id.as_bytes(), subject, at(time).nanoseconds(), &[("calls", calls, 0)], &[]).unwrap();
    Arc::new(builder.finish(1, 0))
}

/// Tries terms: `account before difference lines` for each account, and the failures.
fn check_effect(resources: &[Resource], period: Option<&str>, expected: &[&str]) {
    let (world, period) = (world(), period.map(|period| Period::parse(period).unwrap()));
    let effect = world.try_out(2, at(NOW), resources, period);
    let accounts = effect.accounts.iter().map(|(id, account)| {
        let AccountEffect { currency, before, difference, lines, .. } = *account;
        format!("{id} {} {} {lines}", currency.format_minor(before), currency.format_minor(difference))
    });
    let found: Vec<String> = accounts.chain(effect.failures.iter().map(ToString::to_string)).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_effect_is_what_was_charged_and_what_new_terms_add_to_it() {
    let of = |account: &str, unit: &str| resource("prices", account, price(account, unit));
    let nothing = ["acme 110.00 0.00 0", "bell 99.00 0.00 0"];
    check_effect(&[], None, &nothing);
    check_effect(&[of("acme", "1"), of("bell", "0.9")], None, &nothing);
    // A line of the old version and one of the new, for each month.
    check_effect(&[of("acme", "1.5")], None, &["acme 110.00 55.00 4", "bell 99.00 0.00 0"]);
    check_effect(&[of("acme", "0.25")], None, &["acme 110.00 -82.50 4", "bell 99.00 0.00 0"]);
    check_effect(
        &[of("acme", "2"), of("bell", "1")],
        Some("2026-02"),
        &["acme 10.00 10.00 2", "bell 9.00 1.00 2"],
    );
    check_effect(&[of("acme", "2")], Some("2026-03"), &[]);
}

#[test]
fn a_price_of_the_future_and_a_meter_of_today_have_no_effect_on_usage_before_them() {
    let mut later = price("acme", "7");
    later["effective_from"] = "2026-03-01T00:00:00Z".into();
    let meter = json!({"event_type": "call", "aggregation": "count"});
    let counted =
        json!({"plan": "acme", "meter": "count", "model": "per_unit", "window": "month", "unit_amount": "5"});
    let nothing = ["acme 110.00 0.00 0", "bell 99.00 0.00 0"];
    check_effect(&[resource("prices", "acme", later)], None, &nothing);
    check_effect(&[resource("meters", "count", meter), resource("prices", "count", counted)], None, &nothing);
}

#[test]
fn an_account_of_the_new_terms_is_charged_from_nothing_and_a_failure_is_named() {
    let account = json!({"name": "Corp", "entity": "inc", "currency": "USD", "time_zone": "UTC"});
    let subscription = json!({"account": "corp", "plan": "acme", "from": "2026-01-01T00:00:00Z"});
    let moved = json!({"subscription": "corp", "from": "2026-02-01T00:00:00Z"});
    let resources = [
        resource("accounts", "corp", account),
        resource("subscriptions", "corp", subscription),
        resource("subjects", "acme", moved),
    ];
    check_effect(&resources, None, &["acme 110.00 -10.00 1", "bell 99.00 0.00 0", "corp 0.00 10.00 1"]);
    let huge = resource("prices", "acme", price("acme", "9999999999999999999999999"));
    let world = world();
    let effect = world.try_out(1, at(NOW), &[huge], None);
    let failures: Vec<String> = effect.failures.iter().map(|f| f.account.to_string()).collect();
    assert_eq!((failures, effect.lines.len()), (vec!["acme".to_string()], 0));
    assert_eq!(effect.failures_before, []);
}

#[test]
fn terms_that_cut_filled_slices_fold_them_again_and_nothing_is_kept_of_a_trial() {
    let world = world();
    let chain = world.machine.control().chain_head().to_string();
    let mut body = price("acme", "3");
    body["effective_from"] = "2026-02-19T12:00:00Z".into();
    let middle = resource("prices", "acme", body.clone());
    assert_eq!(check(&world, at(NOW), &[middle]).accounts.values().map(|a| a.difference).sum::<i128>(), 0);
    body["effective_from"] = "2026-02-18T12:00:00Z".into();
    let effect = check(&world, at(NOW), &[resource("prices", "acme", body)]);
    assert_eq!(effect.accounts.values().map(|a| a.difference).sum::<i128>(), 20_00);
    assert_eq!(world.machine.control().chain_head(), chain);
    // January is closed: the difference posts to February, and names what it corrects.
    let effect = check(&world, at(NOW), &[resource("prices", "bell", price("bell", "1"))]);
    let periods: Vec<_> =
        effect.lines.iter().map(|line| (line.period.to_string(), usage_period(line).to_string())).collect();
    let february = || "2026-02".to_string();
    let january = || "2026-01".to_string();
    let (late, open) = ((february(), january()), (february(), february()));
    assert_eq!(periods, [late.clone(), late, open.clone(), open]);
}

#[test]
fn a_wallet_that_pays_is_drawn_on_faster() {
    // A doubled price was no effect at all where a wallet paid.
    let mut world = World::new(2, &policy());
    let mut put =
        |kind: &str, id: &str, body: Value| assert_eq!(world.put(kind, id, &body), Some(1), "{body}");
    put("entities", "inc", json!({"currency": "USD", "time_zone": "UTC"}));
    put("meters", "calls", json!({"event_type": "call", "aggregation": "sum", "value": "calls"}));
    put("accounts", "acme", json!({"name": "acme", "entity": "inc", "currency": "USD", "time_zone": "UTC"}));
    put("plans", "acme", json!({ "currency": "USD" }));
    put("prices", "acme", price("acme", "1"));
    put("subscriptions", "acme", json!({"account": "acme", "plan": "acme", "from": "2026-01-01T00:00:00Z"}));
    put("subjects", "acme", json!({"subscription": "acme", "from": "2026-01-01T00:00:00Z"}));
    let wallet = json!({"account": "acme", "kind": "paid", "amount": "150", "from": "2026-01-01T00:00:00Z"});
    put("grants", "wallet", wallet);
    world.barrier(false);
    world.take_usage(&calls("january", "acme", "2026-01-10T00:00:00Z", 100), at(NOW));
    let effect = world.try_out(2, at(NOW), &[resource("prices", "acme", price("acme", "1.4"))], None);
    let expected = |difference, drawn_difference| AccountEffect {
        currency: domain::Currency::from_code("USD").unwrap(),
        before: 0,
        difference,
        drawn_before: 10_000,
        drawn_difference,
        lines: effect.accounts.values().next().unwrap().lines,
    };
    assert_eq!(effect.accounts.values().collect::<Vec<_>>(), [&expected(0, 40_00)]);
    let effect = world.try_out(2, at(NOW), &[resource("prices", "acme", price("acme", "2"))], None);
    assert_eq!(effect.accounts.values().collect::<Vec<_>>(), [&expected(50_00, 50_00)]);
}
