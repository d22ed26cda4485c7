//! Pools of accounts: what a parent agreed holds for all of them, as if they were one account.
//!
//! Owns: the same history told to one account with three subscriptions and to a pool of three accounts with one each, and
//! what stays apart. Leaves to others: the terms themselves (`agreements`, `covered`).

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::charges::{Component, LineKey};
use domain::time::{DAY, HOUR};
use domain::{AccountId, Span, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::world::World;
use crate::ReplayMode;

/// Subscriptions, and the account of a pool that each is of: both are in order.
const MEMBERS: [(&str, &str); 3] = [("s0", "a"), ("s1", "acme"), ("s2", "z")];
const KINDS: [&str; 2] = ["big", "small"];

fn at(hour: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hour * HOUR)
}

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    Use {
        member: usize,
        hours_ago: i64,
        units: i64,
        kind: usize,
    },
    /// An agreement of the parent, and the member that it is only for, if any.
    Agree(&'static str, Value, Option<usize>),
    Cut,
}

struct Teller {
    world: World,
    is_pool: bool,
    hour: i64,
    events: usize,
    agreed: usize,
}

impl Teller {
    fn new(is_pool: bool) -> Self {
        let policy = PolicyRecord {
            horizon: 90 * DAY,
            future_max: HOUR,
            pending_per_slot_max: 256,
            grace: 3 * DAY,
            correction_horizon: 400 * DAY,
        };
        let mut world = World::new(2, &policy);
        let tiers = json!([{ "up_to": "20", "unit_amount": "0.5" }, { "unit_amount": "0.35" }]);
        let account = |parent: Option<&str>| {
            let mut body = json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" });
            if let Some(parent) = parent {
                body["parent"] = parent.into();
            }
            body
        };
        let price = |model: Value| {
            let mut body = json!({ "plan": "pro", "window": "month" });
            body.as_object_mut().unwrap().extend(model.as_object().unwrap().clone());
            body
        };
        for (kind, id, body) in [
            ("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" })),
            ("accounts", "acme", account(None)),
            ("accounts", "a", account(Some("acme").filter(|_| is_pool))),
            ("accounts", "z", account(Some("acme").filter(|_| is_pool))),
            (
                "meters",
                "units",
                json!({ "event_type": "call", "aggregation": "sum", "value": "n", "group_by": ["kind"] }),
            ),
            ("plans", "pro", json!({ "currency": "USD" })),
            (
                "prices",
                "tiers",
                price(json!({ "model": "graduated", "meter": "units", "tiers": tiers, "minimum": "4" })),
            ),
            ("prices", "fee", price(json!({ "model": "flat", "unit_amount": "7", "proration": "days" }))),
        ] {
            assert_eq!(world.put(kind, id, &body), Some(1), "{kind} {id}");
        }
        for (subscription, account) in MEMBERS {
            let account = if is_pool { account } else { "acme" };
            let body = json!({ "account": account, "plan": "pro", "from": at(0).to_string() });
            world.put("subscriptions", subscription, &body);
            world.put(
                "subjects",
                subscription,
                &json!({ "subscription": subscription, "from": at(0).to_string() }),
            );
        }
        world.barrier(false);
        Self { world, is_pool, hour: 10 * 24, events: 0, agreed: 0 }
    }

    fn tell(&mut self, step: &Step) {
        match step {
            Step::Pass(hours) => self.hour += hours,
            Step::Use { member, hours_ago, units, kind } => {
                self.events += 1;
                let time = at((self.hour - hours_ago).max(0));
                let frame = frame_of(self.events, MEMBERS[*member].0, time, *units, KINDS[*kind]);
                self.world.take_usage(&frame, at(self.hour));
            }
            Step::Agree(kind, body, member) => {
                let mut body = body.clone();
                body["account"] = "acme".into();
                if let Some(member) = member {
                    body["subscriptions"] = json!([MEMBERS[*member].0]);
                }
                self.world.put(kind, &format!("c{}", self.agreed), &body).expect("it is new");
                self.agreed += 1;
                self.world.barrier(false);
            }
            Step::Cut => {
                self.world.start_cut(at(self.hour));
                self.world.finish_cut();
            }
        }
    }

    /// What was issued, as if of one account.
    fn issued(&self) -> BTreeMap<LineKey, (i128, String, String)> {
        let mut issued = BTreeMap::new();
        for account in ["a", "acme", "z"].map(id) {
            for (key, worth) in self.world.machine.issued().of_account(&account) {
                let owner = MEMBERS.iter().find(|(subscription, _)| {
                    key.subscription.as_ref().is_some_and(|of| of.as_str() == *subscription)
                });
                let owner = owner.map_or("acme", |(_, account)| account);
                assert_eq!(account.as_str(), if self.is_pool { owner } else { "acme" }, "{key:?}");
                let worth = (worth.rounded, worth.precise.to_string(), worth.quantity.to_string());
                issued.insert(LineKey { account: id("acme"), ..key.clone() }, worth);
            }
        }
        issued.retain(|_, worth| *worth != (0, "0".to_string(), "0".to_string()));
        issued
    }

    /// What is explained to each account is what was issued to it.
    fn check_explained(&self) {
        for account in ["a", "acme", "z"].map(id) {
            let always = Span::new(Timestamp::MIN, Timestamp::END);
            let explained = self.world.machine.explain(&account, always).unwrap();
            let explained: i128 = explained.iter().map(|window| window.total).sum();
            let issued = self.world.machine.issued().of_account(&account);
            assert_eq!(explained, issued.map(|(_, worth)| worth.rounded).sum::<i128>(), "{account}");
        }
    }
}

fn id(account: &str) -> AccountId {
    AccountId::new(account).unwrap()
}

fn frame_of(id: usize, subject: &str, time: Timestamp, units: i64, kind: &str) -> Arc<AlignedBytes> {
    let mut builder = BatchBuilder::new("edge", "call", IdMode::Given).without_event_checks();
    let (values, dimensions) = ([("n", i128::from(units), 0)], [("kind", kind)]);
    let id = id.to_string();
    builder.push_parts(id.as_bytes(), subject, time.nanoseconds(), &values, &dimensions).unwrap();
    Arc::new(builder.finish(1, 0))
}

fn agreement() -> impl Strategy<Value = (&'static str, Value)> {
    let shape =
        prop::sample::select(vec!["none", "roll_forward", "cumulative", "year_end", "prepaid_drawdown"]);
    let commitment = (0u32..200, shape).prop_map(|(amount, shape)| {
        let body = json!({
            "shape": shape, "amount": amount.to_string(), "overage_factor": "1.25",
            "from": "2026-01-01T00:00:00Z", "until": "2026-04-01T00:00:00Z",
        });
        ("commitments", body)
    });
    let grant = (0u32..90, 0i64..60 * 24, any::<bool>(), any::<bool>());
    let grant = grant.prop_map(|(amount, hour, is_units, is_again)| {
        let mut body = json!({ "kind": "paid", "amount": amount.to_string(), "from": at(hour).to_string() });
        if is_units {
            body["meter"] = "units".into();
        }
        if is_again {
            body["every"] = json!({ "days": 9 });
            body["rollover"] = json!({ "max": "5" });
        }
        ("grants", body)
    });
    let discount = (any::<bool>(), 0u32..60, 1u32..4).prop_map(|(is_percent, number, month)| {
        let mut body = json!({ "from": format!("2026-{month:02}-01T00:00:00Z") });
        body[if is_percent { "percent" } else { "amount" }] = number.to_string().into();
        ("discounts", body)
    });
    prop_oneof![1 => commitment, 2 => grant, 1 => discount]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1i64..300).prop_map(Step::Pass),
        8 => (0..3usize, 0i64..700, 0i64..40, 0..2usize)
            .prop_map(|(member, hours_ago, units, kind)| Step::Use { member, hours_ago, units, kind }),
        2 => (agreement(), prop::option::weighted(0.3, 0..3usize))
            .prop_map(|((kind, body), member)| Step::Agree(kind, body, member)),
        4 => Just(Step::Cut),
    ]
}

/// `TALLYMARK_CASES` histories, 24 where it is not set.
fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_pool_pays_what_one_account_with_all_its_subscriptions_would(steps in prop::collection::vec(step(), 0..30)) {
        let (mut pool, mut one) = (Teller::new(true), Teller::new(false));
        for step in steps.iter().chain(&[Step::Pass(24 * 40), Step::Cut]) {
            pool.tell(step);
            one.tell(step);
            if matches!(step, Step::Cut) {
                prop_assert_eq!(pool.issued(), one.issued());
                pool.check_explained();
            }
        }
        let sealed = pool.world.machine.control().seals().len();
        pool.tell(&Step::Cut);
        prop_assert_eq!(pool.world.machine.control().seals().len(), sealed, "nothing changed");
        pool.world.replay(ReplayMode::Derive, 1);
        pool.world.replay(ReplayMode::Load, 3);
    }
}

#[test]
fn what_an_account_of_a_pool_agreed_to_itself_holds_for_itself() {
    let mut pool = Teller::new(true);
    for (id, account) in [("of-a", "a"), ("of-all", "acme")] {
        let body = json!({
            "account": account, "kind": "paid", "amount": "5", "from": at(0).to_string(),
            "subscriptions": [if account == "a" { "s0" } else { "s2" }],
        });
        assert_eq!(pool.world.put("grants", id, &body), Some(1));
    }
    pool.world.barrier(false);
    for member in 0..3 {
        pool.tell(&Step::Use { member, hours_ago: 0, units: 20, kind: 0 });
    }
    pool.tell(&Step::Cut);
    let drawn = pool.issued().into_iter().filter(|(key, _)| key.component == Component::Credit);
    let drawn: Vec<(String, i128)> = drawn.map(|(key, worth)| (key.term, worth.0)).collect();
    assert_eq!(drawn, [("of-a".to_string(), -500), ("of-all".to_string(), -500)]);
}

#[test]
fn a_pool_that_cannot_be_rated_stays_out_as_a_whole_and_the_reason_is_named() {
    let mut pool = Teller::new(true);
    let rows = json!([{ "when": { "kind": "big" }, "unit_amount": "1" }]);
    let price =
        json!({ "plan": "pro", "window": "month", "model": "matrix", "meter": "units", "rows": rows });
    assert_eq!(pool.world.put("prices", "rows", &price), Some(1));
    pool.world.barrier(false);
    pool.tell(&Step::Use { member: 0, hours_ago: 0, units: 1, kind: 0 });
    pool.tell(&Step::Use { member: 2, hours_ago: 0, units: 1, kind: 1 });
    pool.world.start_cut(at(pool.hour));
    assert!(pool.world.rate_and_seal().is_none(), "nobody of the pool is charged");
    let failures: Vec<String> = pool.world.machine.failures().map(ToString::to_string).collect();
    let reason = "account z, subscription s2, price rows, window from 2026-01-01T00:00:00Z";
    let of = |account: &str| format!("account {account}: it is rated together with {reason}");
    assert_eq!(failures.len(), 3);
    for (failure, start) in failures.iter().zip([of("a"), of("acme"), reason.to_string()]) {
        assert!(failure.starts_with(&start), "{failure}");
    }
    // What no row takes is free from the beginning: then all of it is charged.
    let mended = json!({
        "plan": "pro", "window": "month", "model": "matrix", "meter": "units", "unmatched": "zero", "rows": rows,
    });
    assert_eq!(pool.world.put("prices", "rows", &mended), Some(2));
    pool.world.barrier(false);
    pool.tell(&Step::Cut);
    assert!(pool.issued().len() > 2);
    pool.world.replay(ReplayMode::Derive, 1);
}
