//! The order of terms as tables: a catalog, what was used, and the lines that the account is worth.

mod dated;
mod pools;
mod shares;

use std::collections::BTreeMap;

use domain::time::DAY;
use domain::{AccountId, Exact, Period, PriceId, Span, SubscriptionId, Timestamp, Zone};
use proptest::prelude::*;

use super::{AccountTerms, BillLine, FrozenDraw, RatedPrice, Reason, account_position};
use crate::catalog::{Catalog, CatalogFile};
use crate::charges::Component;
use crate::rating::{
    AMOUNT_MINOR_MAX, ActiveTerm, Measure, RatingStatus, SliceMeasure, WindowTerms, position,
};

const BASE: &str = r#"
    catalog = 1
    entity = [{ id = "inc", currency = "USD", time_zone = "UTC" }]
    meter = [{ id = "calls", event_type = "call", aggregation = "count" }]
    plan = [{ id = "pro", currency = "USD" }, { id = "max", currency = "USD" }]
"#;

const CALLS: &str = r#"price = [{ id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" }]"#;
const SUBSCRIPTION: &str =
    r#"subscription = [{ id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" }]"#;

fn instant(text: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-{text}T00:00:00Z")).unwrap()
}

struct World {
    catalog: Catalog,
    /// Price, first day of a slice, units; a slice lasts a day.
    usage: Vec<(PriceId, Timestamp, i128)>,
    frozen_draws: Vec<FrozenDraw>,
}

impl World {
    fn new(parts: &[&str]) -> Self {
        let account = r#"account = [{ id = "acme", name = "Acme", entity = "inc", currency = "USD", time_zone = "UTC" }]"#;
        Self::with_accounts(account, parts)
    }

    fn with_accounts(accounts: &str, parts: &[&str]) -> Self {
        let text = [&[BASE, accounts], parts].concat().join("\n");
        let mut catalog = Catalog::default();
        let file = CatalogFile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for (offset, resource) in file.resources().into_iter().enumerate() {
            catalog.apply(resource, offset as u64).unwrap();
        }
        Self { catalog, usage: Vec::new(), frozen_draws: Vec::new() }
    }

    fn used(mut self, usage: &[(&str, &str, i128)]) -> Self {
        for (price, day, units) in usage {
            self.usage.push((PriceId::new(price).unwrap(), instant(day), *units));
        }
        self
    }

    fn bill(&self, as_of: Timestamp) -> Vec<BillLine> {
        self.try_bill(as_of).unwrap()
    }

    fn try_bill(&self, as_of: Timestamp) -> Result<Vec<BillLine>, RatingStatus> {
        let zone = Zone::utc();
        let pool = AccountId::new("acme").unwrap();
        let accounts = self.catalog.accounts_of_pool(&pool);
        let currency = self.catalog.account(&pool).unwrap().currency;
        let group = domain::GroupTexts::NONE;
        let mut prices = Vec::new();
        for subscription in accounts.iter().flat_map(|account| self.catalog.subscriptions_of_account(account))
        {
            let mut period = Period::parse("2026-01").unwrap();
            while zone.month(period).from <= as_of {
                let window = zone.month(period);
                period = period.next();
                for price in self.catalog.prices() {
                    let inside =
                        |span: Span| Span::new(span.from.max(window.from), span.until.min(window.until));
                    let records = subscription.spans().into_iter();
                    let of_plan =
                        records.filter(|(span, r)| r.plan == *price.plan() && span.overlaps(window));
                    let active: Vec<ActiveTerm> = of_plan
                        .map(|(span, r)| ActiveTerm { span: inside(span), seats: r.seats.map(Exact::from) })
                        .collect();
                    if active.is_empty() {
                        continue;
                    }
                    let mut slices: BTreeMap<Timestamp, SliceMeasure<'_>> = BTreeMap::new();
                    for (_, at, units) in
                        self.usage.iter().filter(|(id, at, _)| id == price.id() && window.contains(*at))
                    {
                        let slice = Span::new(*at, at.plus(DAY));
                        let sum = slices.get(at).map_or(Exact::ZERO, |m| m.measure.quantity().unwrap());
                        let measure = Measure::Scalar(sum.add(Exact::from_integer(*units)).unwrap());
                        let covered = Exact::ZERO;
                        slices.insert(
                            *at,
                            SliceMeasure { slice, measure, covered, event_count: 1, event_digest: 1 },
                        );
                    }
                    let slices: Vec<_> = slices.into_values().collect();
                    let terms = WindowTerms {
                        price,
                        window,
                        active: &active,
                        group: &group,
                        zone: &zone,
                        currency,
                        as_of,
                        is_continued: false,
                        elsewhere: None,
                    };
                    let lines = position(&terms, &slices).unwrap();
                    prices.push(RatedPrice {
                        account: subscription.account(),
                        subscription: subscription.id(),
                        price,
                        window,
                        active: active.iter().map(|term| term.span).collect(),
                        lines: lines.into_iter().map(|line| (group.clone(), line)).collect(),
                    });
                }
            }
        }
        let subscription_at = |id: &SubscriptionId, at| self.catalog.subscription(id)?.at(at);
        let price = |id: &PriceId| self.catalog.price(id);
        let terms = AccountTerms {
            pool: &pool,
            currency,
            zone: &zone,
            subscription_at: &subscription_at,
            discounts: accounts.iter().flat_map(|one| self.catalog.discounts_of_account(one)).collect(),
            commitments: accounts.iter().flat_map(|one| self.catalog.commitments_of_account(one)).collect(),
            price: &price,
            grants: accounts.iter().flat_map(|one| self.catalog.grants_of_account(one)).collect(),
            frozen_draws: self.frozen_draws.clone(),
            is_final: &|window| window.until <= as_of,
            as_of,
        };
        account_position(&terms, &prices)
    }

    /// Lines but charges, each as `window component term amount`, then what each window costs.
    fn shown(&self, as_of: &str) -> Vec<String> {
        let bill = self.bill(instant(as_of));
        let mut totals: BTreeMap<Timestamp, i128> = BTreeMap::new();
        let mut shown = Vec::new();
        for line in &bill {
            *totals.entry(line.window.from).or_default() += line.rounded;
            if line.key.component != Component::Charge {
                let component = serde_json::to_value(line.key.component).unwrap();
                let component = component.as_str().unwrap().to_string();
                let month = line.window.from.to_string()[5..7].to_string();
                shown.push(format!("{month} {component} {} {}", line.key.term, line.rounded));
            }
        }
        shown.extend(totals.iter().map(|(from, total)| format!("{} total {total}", &from.to_string()[5..7])));
        shown
    }
}

#[test]
fn discounts_apply_in_their_order_then_the_maximum_then_the_minimum_of_a_final_window() {
    let with = |terms: &str| {
        let price = CALLS.replace(r#"window = "month""#, &format!(r#"window = "month", {terms}"#));
        World::new(&[&price, SUBSCRIPTION])
    };
    // lago-disc-05 and gr-coup-03: 10 off and then 20 percent is 28 of 100, the other way it is 30.
    let fixed_first = r#"discounts = [{ amount = "10" }, { percent = "20" }]"#;
    let percent_first = r#"discounts = [{ percent = "20" }, { amount = "10" }]"#;
    let hundred: &[_] = &[("calls", "01-03", 100)];
    for (terms, usage, as_of, expected) in [
        (fixed_first, hundred, "01-31", &["01 discount 1 -1000", "01 discount 2 -1800", "01 total 7200"][..]),
        (percent_first, hundred, "01-31", &["01 discount 1 -2000", "01 discount 2 -1000", "01 total 7000"]),
        (r#"discounts = [{ amount = "150" }]"#, hundred, "01-31", &["01 discount 1 -10000", "01 total 0"]),
        (r#"maximum = "60""#, hundred, "01-31", &["01 maximum  -4000", "01 total 6000"]),
        // A minimum waits for the window to be final.
        (r#"minimum = "150""#, hundred, "01-31", &["01 total 10000"]),
        (r#"minimum = "150""#, hundred, "02-01", &["01 minimum  5000", "01 total 15000"]),
        (r#"minimum = "150""#, &[], "02-01", &["01 minimum  15000", "01 total 15000"]),
        (
            r#"discounts = [{ percent = "50" }], maximum = "40", minimum = "30""#,
            hundred,
            "02-01",
            &["01 discount 1 -5000", "01 maximum  -1000", "01 total 4000"],
        ),
    ] {
        assert_eq!(with(terms).used(usage).shown(as_of), expected, "{terms}");
    }
}

#[test]
fn a_price_that_is_new_in_a_window_keeps_its_terms_there() {
    let price = CALLS.replace(
        r#"window = "month""#,
        r#"window = "month", effective_from = "2026-01-10T00:00:00Z", discounts = [{ percent = "50" }], maximum = "30", minimum = "20""#,
    );
    let world = World::new(&[&price, SUBSCRIPTION]).used(&[("calls", "01-20", 100)]);
    assert_eq!(world.shown("02-01"), ["01 discount 1 -5000", "01 maximum  -2000", "01 total 3000"]);
    assert!(world.bill(instant("01-31")).iter().all(|line| line.key.price_version == 1), "each names it");
    assert_eq!(World::new(&[&price, SUBSCRIPTION]).shown("02-01"), ["01 minimum  2000", "01 total 2000"]);
}

#[test]
fn a_cap_below_the_first_flat_amount_binds_without_usage_too() {
    let price = r#"price = [{ id = "calls", plan = "pro", meter = "calls", model = "graduated", window = "month", tiers = [{ unit_amount = "1", flat_amount = "7", flat_cap = "5" }] }]"#;
    assert_eq!(World::new(&[price, SUBSCRIPTION]).shown("02-01"), ["01 total 500"]);
    let used = World::new(&[price, SUBSCRIPTION]).used(&[("calls", "01-20", 1)]);
    assert!(used.bill(instant("01-31")).iter().all(|line| line.rounded >= 0), "nothing is taken back");
    assert_eq!(used.shown("02-01"), ["01 total 500"]);
}

#[test]
fn terms_of_a_subscription_apply_to_what_its_prices_leave() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month", discounts = [{ percent = "10" }] },
        { id = "fee", plan = "pro", model = "flat", unit_amount = "10", window = "month" },
    ]"#;
    let subscription = SUBSCRIPTION.replace(
        r#"from = "2026-01-01T00:00:00Z""#,
        r#"from = "2026-01-01T00:00:00Z", discounts = [{ percent = "50" }], minimum = "80""#,
    );
    let world = World::new(&[prices, &subscription]).used(&[("calls", "01-03", 100)]);
    // 100 less 10 percent, and 10: half of it is 50, and 30 are missing to the minimum.
    assert_eq!(
        world.shown("02-01"),
        [
            "01 minimum  3000",
            "01 discount 1 -1000",
            "01 discount subscription/1 -4500",
            "01 discount subscription/1 -500",
            "01 total 8000"
        ]
    );
}

/// What is taken off a subscription posts to where its prices do, so each of them bears its part: by largest remainder, of
/// what the step before left.
#[test]
fn what_a_subscription_takes_off_is_borne_by_its_prices() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "0.01", window = "month" },
        { id = "fee", plan = "pro", model = "flat", unit_amount = "10", window = "month", payment = "in_advance" },
        { id = "help", plan = "pro", model = "flat", unit_amount = "10", window = "month", payment = "in_advance" },
    ]"#;
    let with = |terms: &str| {
        let from = r#"from = "2026-01-01T00:00:00Z""#;
        let subscription = SUBSCRIPTION.replace(from, &format!("{from}, {terms}"));
        World::new(&[prices, &subscription]).used(&[("calls", "01-03", 1_000)])
    };
    let explained = |terms: &str| -> Vec<String> {
        let world = with(terms);
        let currency = world.catalog.account(&AccountId::new("acme").unwrap()).unwrap().currency;
        let bill = world.bill(instant("01-31")).into_iter();
        let lines = bill.filter(|line| line.key.component != Component::Charge);
        lines
            .map(|line| format!("{}: {}", line.key.price.clone().unwrap(), line.explanation(currency)))
            .collect()
    };
    // 10 of 30, three times: the cents that are left go to those that lack most, and of equals to the first.
    assert_eq!(
        explained(r#"discounts = [{ amount = "1" }]"#),
        [
            "calls: discount of the subscription: off 30.00 is 1.00 in all, of which for this = -0.34",
            "fee: discount of the subscription: off 30.00 is 1.00 in all, of which for this = -0.33",
            "help: discount of the subscription: off 30.00 is 1.00 in all, of which for this = -0.33"
        ]
    );
    assert_eq!(
        explained(r#"discounts = [{ percent = "10" }], maximum = "20""#)[..2],
        [
            "calls: discount of the subscription: 10% of 30.00 is 3.00 in all, of which for this = -1.00",
            "calls: the subscription: at most 20.00, of 27.00 is 7.00 in all, of which for this = -2.34"
        ]
    );
    let none = with(r#"discounts = [{ percent = "100" }], maximum = "0""#);
    assert_eq!(none.bill(instant("01-31")).iter().map(|line| line.rounded).sum::<i128>(), 0);
}

/// Two subscriptions, and what is taken off them in January.
fn discounted(discounts: &[(&str, &str)]) -> World {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "fee", plan = "max", model = "flat", unit_amount = "50", payment = "in_advance", window = "month" },
    ]"#;
    let subscriptions = r#"subscription = [
        { id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" },
        { id = "s2", account = "acme", plan = "max", from = "2026-01-01T00:00:00Z", minimum = "60" },
    ]"#;
    let discount = |(id, terms): &(&str, &str)| {
        format!(r#"{{ id = "{id}", account = "acme", from = "2026-01-01T00:00:00Z", {terms} }}, "#)
    };
    let discounts = format!("discount = [{}]", discounts.iter().map(discount).collect::<String>());
    World::new(&[prices, subscriptions, &discounts]).used(&[("calls", "01-03", 100)])
}

#[test]
fn discounts_of_an_account_apply_by_priority_then_percentages_before_amounts() {
    for (discounts, expected) in [
        // 150 less a tenth is 135, less 50 is 85; the fee bears a third of each.
        (
            &[("a-fixed", r#"amount = "50""#), ("b-share", r#"percent = "10""#)][..],
            &[
                "01 discount a-fixed -3333",
                "01 discount b-share -1000",
                "01 discount a-fixed -1667",
                "01 discount b-share -500",
                "01 total 8500",
            ][..],
        ),
        // An order that is said: 150 less 50 is 100, less a tenth is 90.
        (
            &[("a-fixed", r#"amount = "50""#), ("b-share", r#"percent = "10", priority = 1"#)],
            &[
                "01 discount a-fixed -3333",
                "01 discount b-share -667",
                "01 discount a-fixed -1667",
                "01 discount b-share -333",
                "01 total 9000",
            ],
        ),
        // Percentages compound in the order of their start and creation.
        (
            &[("half", r#"percent = "50""#), ("fifth", r#"percent = "20""#)],
            &[
                "01 discount fifth -1000",
                "01 discount half -5000",
                "01 discount fifth -500",
                "01 discount half -2500",
                "01 total 6000",
            ],
        ),
        (&[("all", r#"amount = "999""#)], &["01 discount all -10000", "01 discount all -5000", "01 total 0"]),
        (&[("none", r#"amount = "0""#)], &["01 total 15000"]),
        (
            &[("later", r#"percent = "50", until = "2026-02-01T00:00:00Z", prices = ["fee"]"#)],
            &["01 discount later -2500", "01 total 12500"],
        ),
        (&[("s1", r#"percent = "50", subscriptions = ["s1"]"#)], &["01 discount s1 -5000", "01 total 10000"]),
        (&[("none", r#"percent = "50", subscriptions = ["s1"], prices = ["fee"]"#)], &["01 total 15000"]),
    ] {
        assert_eq!(discounted(discounts).shown("01-31"), expected, "{discounts:?}");
    }
    // The minimum of a subscription is there once the month is final, and is reduced as well; the next month is not.
    let ends = discounted(&[("half", r#"percent = "50", until = "2026-02-01T00:00:00Z""#)]);
    assert_eq!(
        ends.shown("02-01"),
        [
            "01 discount half -5000",
            "01 discount half -500",
            "01 minimum  1000",
            "01 discount half -2500",
            "01 total 8000",
            "02 total 5000"
        ]
    );
}

#[test]
fn a_discount_of_an_account_says_what_it_is_of_and_which_part_a_line_bears() {
    let explained = |discounts: &[(&str, &str)]| -> Vec<String> {
        let world = discounted(discounts);
        let currency = world.catalog.account(&AccountId::new("acme").unwrap()).unwrap().currency;
        let lines = world.bill(instant("01-31")).into_iter();
        let discounts = lines.filter(|line| line.key.component == Component::Discount);
        discounts.map(|line| line.explanation(currency)).collect()
    };
    assert_eq!(
        explained(&[("launch", r#"percent = "20""#)]),
        [
            "discount launch: 20% of 150.00 is 30.00 in all, of which for this = -20.00",
            "discount launch: 20% of 150.00 is 30.00 in all, of which for this = -10.00"
        ]
    );
    assert_eq!(
        explained(&[("fee", r#"amount = "5", prices = ["fee"]"#)]),
        ["discount fee: off 50.00 = -5.00"]
    );
}

#[test]
fn a_commitment_counts_and_a_grant_pays_what_discounts_of_the_account_leave() {
    let terms = r#"
        discount = [{ id = "half", account = "acme", percent = "50", from = "2026-01-01T00:00:00Z" }]
        commitment = [{ id = "c", account = "acme", shape = "none", amount = "80", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" }]
        grant = [{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z" }]"#;
    let world = World::new(&[CALLS, SUBSCRIPTION, terms]).used(&[("calls", "01-03", 100)]);
    assert_eq!(
        world.shown("02-01"),
        [
            "01 true_up c 3000",
            "01 credit g/true_up/c -3000",
            "01 discount half -5000",
            "01 credit g -5000",
            "01 total 0"
        ]
    );
}

#[test]
fn a_minimum_is_prorated_to_the_days_on_which_the_subscription_was_active() {
    let price = CALLS.replace(r#"window = "month""#, r#"window = "month", minimum = "310""#);
    let subscription = SUBSCRIPTION.replace("01-01T", "01-22T");
    assert_eq!(World::new(&[&price, &subscription]).shown("02-01"), ["01 minimum  10000", "01 total 10000"]);
}

/// 12,000 a year are 1,000 a month.
fn committed(shape: &str, more: &str) -> World {
    let commitment = format!(
        r#"commitment = [{{ id = "annual", account = "acme", shape = "{shape}", amount = "12000", from = "2026-01-01T00:00:00Z", until = "2027-01-01T00:00:00Z"{more} }}]"#
    );
    World::new(&[CALLS, SUBSCRIPTION, &commitment])
}

#[test]
fn a_commitment_is_trued_up_as_its_shape_says() {
    let usage: &[_] = &[("calls", "01-03", 1_400), ("calls", "02-03", 600)];
    for (shape, more, as_of, expected) in [
        ("none", "", "02-28", &["01 total 140000", "02 total 60000"][..]),
        ("none", "", "03-01", &["02 true_up annual 40000", "01 total 140000", "02 total 100000"]),
        (
            "none",
            r#", overage_factor = "1.5""#,
            "02-28",
            &["01 overage annual 20000", "01 total 160000", "02 total 60000"],
        ),
        // What was used ahead of time covers a later month.
        ("cumulative", "", "03-01", &["01 total 140000", "02 total 60000"]),
        (
            "cumulative",
            "",
            "04-01",
            &["03 true_up annual 100000", "01 total 140000", "02 total 60000", "03 total 100000"],
        ),
        ("year_end", "", "04-01", &["01 total 140000", "02 total 60000"]),
        (
            "prepaid_drawdown",
            "",
            "03-01",
            &["01 drawdown annual -140000", "02 drawdown annual -60000", "01 total 0", "02 total 0"],
        ),
    ] {
        assert_eq!(committed(shape, more).used(usage).shown(as_of), expected, "{shape} {more} {as_of}");
    }
}

/// Two commitments that end together: the second is added for the second half of the first one's term, and counts another
/// subscription. Each is settled by itself, both in the last month.
#[test]
fn a_commitment_that_is_added_inside_the_term_of_another_ends_with_it() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "more", plan = "max", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
    ]"#;
    let subscriptions = r#"subscription = [
        { id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" },
        { id = "s2", account = "acme", plan = "max", from = "2026-03-01T00:00:00Z" },
    ]"#;
    let commitments = r#"commitment = [
        { id = "first", account = "acme", shape = "year_end", amount = "400", from = "2026-01-01T00:00:00Z", until = "2026-05-01T00:00:00Z", subscriptions = ["s1"] },
        { id = "second", account = "acme", shape = "year_end", amount = "150", from = "2026-03-01T00:00:00Z", until = "2026-05-01T00:00:00Z", subscriptions = ["s2"] },
    ]"#;
    let usage = [("calls", "01-10", 300), ("more", "03-10", 60), ("calls", "04-10", 20)];
    let world = World::new(&[prices, subscriptions, commitments]).used(&usage);
    assert_eq!(
        world.shown("05-01"),
        [
            "04 true_up first 8000",
            "04 true_up second 9000",
            "01 total 30000",
            "03 total 6000",
            "04 total 19000"
        ]
    );
}

#[test]
fn a_commitment_that_names_no_price_counts_usage_with_its_minimum_and_nothing_of_a_recurring_price() {
    let prices = r#"price = [
        { id = "fee", plan = "pro", model = "flat", unit_amount = "10", window = "month", minimum = "15" },
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month", minimum = "30" },
    ]"#;
    for (more, shortfall) in [("", "01 true_up c 17000"), (r#", prices = ["fee"]"#, "01 true_up c 18500")] {
        let commitment = format!(
            r#"commitment = [{{ id = "c", account = "acme", shape = "none", amount = "200", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z"{more} }}]"#
        );
        let world = World::new(&[prices, SUBSCRIPTION, &commitment]).used(&[("calls", "01-03", 20)]);
        let shown = world.shown("02-01");
        assert_eq!(shown.iter().find(|line| line.contains("true_up")).map(String::as_str), Some(shortfall));
    }
}

/// The table of docs/reference/catalog.md.
#[test]
fn a_month_costs_what_the_reference_says_of_each_shape() {
    let usage: &[_] = &[("calls", "01-03", 7_000), ("calls", "02-03", 9_500), ("calls", "03-03", 6_000)];
    for (shape, expected) in [
        ("none", [8_000, 9_500, 8_000]),
        ("roll_forward", [8_000, 8_500, 8_000]),
        ("cumulative", [8_000, 8_500, 7_500]),
        ("year_end", [7_000, 9_500, 6_000]),
        ("prepaid_drawdown", [0, 0, 0]),
    ] {
        let commitment = format!(
            r#"commitment = [{{ id = "annual", account = "acme", shape = "{shape}", amount = "96000", from = "2026-01-01T00:00:00Z", until = "2027-01-01T00:00:00Z" }}]"#
        );
        let world = World::new(&[CALLS, SUBSCRIPTION, &commitment]).used(usage);
        let mut months: BTreeMap<Timestamp, i128> = BTreeMap::new();
        for line in world.bill(instant("04-01")).iter().filter(|line| line.window.from < instant("04-01")) {
            *months.entry(line.window.from).or_default() += line.rounded;
        }
        assert_eq!(months.into_values().collect::<Vec<_>>(), expected.map(|amount| amount * 100), "{shape}");
    }
}

#[test]
fn a_commitment_counts_what_discounts_leave_of_the_prices_that_it_names() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month", discounts = [{ percent = "50" }] },
        { id = "fee", plan = "pro", model = "flat", unit_amount = "10", window = "month" },
    ]"#;
    let commitment = |more: &str| {
        format!(
            r#"commitment = [{{ id = "c", account = "acme", shape = "none", amount = "200", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z"{more} }}]"#
        )
    };
    let shown = |more: &str| {
        let world = World::new(&[prices, SUBSCRIPTION, &commitment(more)]);
        world
            .used(&[("calls", "01-03", 100)])
            .shown("02-01")
            .into_iter()
            .find(|line| line.contains("true_up"))
    };
    assert_eq!(shown("").as_deref(), Some("01 true_up c 15000"));
    assert_eq!(shown(r#", prices = ["calls", "fee"]"#).as_deref(), Some("01 true_up c 14000"));
    assert_eq!(shown(r#", prices = ["fee"]"#).as_deref(), Some("01 true_up c 19000"));
    assert_eq!(shown(r#", true_up = false"#), None);
}

#[test]
fn a_quantity_that_was_committed_to_is_priced_first() {
    let commitment = r#"commitment = [{ id = "c", account = "acme", shape = "none", quantity = "300", prices = ["calls"], from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" }]"#;
    let world = World::new(&[CALLS, SUBSCRIPTION, commitment]).used(&[("calls", "01-03", 100)]);
    assert_eq!(world.shown("02-01"), ["01 true_up c 20000", "01 total 30000"]);
}

const WALLET: &str = r#"grant = [
    { id = "gift", account = "acme", kind = "promotional", amount = "20", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" },
    { id = "wallet", account = "acme", kind = "paid", amount = "100", priority = 1, from = "2026-01-01T00:00:00Z" },
]"#;

#[test]
fn grants_pay_what_discounts_and_bounds_leave_in_order_of_time() {
    let price = CALLS.replace(
        r#"window = "month""#,
        r#"window = "month", discounts = [{ percent = "50" }], minimum = "70""#,
    );
    let world =
        World::new(&[&price, SUBSCRIPTION, WALLET]).used(&[("calls", "01-03", 60), ("calls", "01-09", 60)]);
    assert_eq!(
        world.shown("01-31"),
        [
            "01 discount 1 -6000",
            "01 credit gift -2000",
            "01 credit wallet -1000",
            "01 credit wallet -3000",
            "01 total 0"
        ]
    );
    // The minimum of January is due at its end.
    assert_eq!(
        world.shown("02-01"),
        [
            "01 discount 1 -6000",
            "01 minimum  1000",
            "01 credit wallet/minimum -1000",
            "01 credit gift -2000",
            "01 credit wallet -1000",
            "01 credit wallet -3000",
            "01 total 0",
        ]
    );
}

#[test]
fn late_usage_of_a_closed_period_draws_on_what_is_left_and_a_reversal_gives_back() {
    let month = |usage: &[_]| World::new(&[CALLS, SUBSCRIPTION, WALLET]).used(usage);
    let closed = month(&[("calls", "01-03", 90)]);
    let frozen = |world: &World| -> Vec<FrozenDraw> {
        let bill = world.bill(instant("02-10"));
        let credits = bill.into_iter().filter(|line| line.key.component == Component::Credit);
        credits
            .map(|line| FrozenDraw { key: line.key, until: line.slice.until, amount: -line.rounded })
            .collect()
    };
    let draws = frozen(&closed);
    assert_eq!(draws.len(), 2, "20 of the gift, 70 of the wallet");
    let mut late = month(&[("calls", "01-02", 50), ("calls", "01-03", 90), ("calls", "02-03", 40)]);
    late.frozen_draws = draws.clone();
    // The earlier usage finds the gift spent, and February what is left.
    assert_eq!(
        late.shown("02-10"),
        [
            "01 credit wallet -3000",
            "01 credit gift -2000",
            "01 credit wallet -7000",
            "01 total 2000",
            "02 total 4000"
        ]
    );
    let mut fewer = month(&[("calls", "01-03", 30), ("calls", "02-03", 40)]);
    fewer.frozen_draws = draws.clone();
    assert_eq!(
        fewer.shown("02-10"),
        [
            "01 credit gift -2000",
            "01 credit wallet -1000",
            "02 credit wallet -4000",
            "01 total 0",
            "02 total 0"
        ]
    );
    let mut none = month(&[("calls", "02-03", 40)]);
    none.frozen_draws = draws;
    assert_eq!(none.shown("02-10"), ["02 credit wallet -4000", "02 total 0"]);
}

#[test]
fn a_draw_of_a_closed_period_stays_with_its_slice_in_whatever_pieces_and_at_whatever_price() {
    let wallet = r#"grant = [{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z", voided_at = "2026-01-05T00:00:00Z" }]"#;
    let repriced = CALLS.replace(
        "price = [",
        r#"price = [{ id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "2", window = "month", effective_from = "2026-01-03T00:00:00Z" }, "#,
    );
    let closed = World::new(&[CALLS, SUBSCRIPTION, wallet]).used(&[("calls", "01-03", 90)]);
    let mut draws: Vec<FrozenDraw> = closed
        .bill(instant("02-10"))
        .into_iter()
        .filter(|line| line.key.component == Component::Credit)
        .map(|line| FrozenDraw { key: line.key, until: line.slice.until, amount: -line.rounded })
        .collect();
    // The slice went on until the 10th when it was drawn for.
    draws[0].until = instant("01-10");
    for (prices, usage, expected) in [
        (
            CALLS,
            &[("calls", "01-03", 60), ("calls", "01-05", 30)][..],
            &["01 credit g -6000", "01 credit g -3000", "01 total 0"][..],
        ),
        // What comes late is not paid after the void, but what was drawn stays as far as something is due.
        (
            CALLS,
            &[("calls", "01-03", 60), ("calls", "01-05", 40)],
            &["01 credit g -6000", "01 credit g -3000", "01 total 1000"],
        ),
        (CALLS, &[("calls", "01-03", 60), ("calls", "01-10", 30)], &["01 credit g -6000", "01 total 3000"]),
        (CALLS, &[("calls", "01-06", 70)], &["01 credit g -7000", "01 total 0"]),
        (&repriced, &[("calls", "01-03", 90)], &["01 credit g -18000", "01 total 0"]),
        (&repriced, &[("calls", "01-06", 90)], &["01 credit g -9000", "01 total 9000"]),
    ] {
        let mut world = World::new(&[prices, SUBSCRIPTION, wallet]).used(usage);
        world.frozen_draws = draws.clone();
        assert_eq!(world.shown("01-31"), expected, "{prices} {usage:?}");
    }
}

#[test]
fn a_grant_pays_only_the_prices_that_it_names() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "fee", plan = "pro", model = "flat", unit_amount = "10", window = "month" },
    ]"#;
    let grant = r#"grant = [{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z", prices = ["fee"] }]"#;
    let world = World::new(&[prices, SUBSCRIPTION, grant]).used(&[("calls", "01-03", 60)]);
    assert_eq!(world.shown("02-01"), ["01 credit g -1000", "01 total 6000"]);
}

/// A catalog's list of grants of 20 each: an id and further terms.
fn gifts(list: &[(&str, &str)]) -> String {
    let grant = |(id, terms): &(&str, &str)| {
        format!(r#"{{ id = "{id}", account = "acme", kind = "promotional", amount = "20", {terms} }}, "#)
    };
    format!("grant = [{}]", list.iter().map(grant).collect::<String>())
}

#[test]
fn what_a_term_adds_is_due_just_before_its_window_ends() {
    let price = CALLS.replace(r#"window = "month""#, r#"window = "month", minimum = "30""#);
    let grants = gifts(&[
        ("january", r#"from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z""#),
        ("february", r#"from = "2026-02-01T00:00:00Z", until = "2026-03-01T00:00:00Z""#),
    ]);
    assert_eq!(
        World::new(&[&price, SUBSCRIPTION, &grants]).shown("02-01"),
        ["01 minimum  3000", "01 credit january/minimum -2000", "01 total 1000"]
    );
}

#[test]
fn a_draw_of_a_closed_period_is_given_back_by_the_grant_that_burns_last() {
    for (first, second, left) in [
        // The end comes before the order of creation, and none is the last.
        (
            ("a", r#"from = "2026-01-01T00:00:00Z""#),
            ("b", r#"from = "2026-01-01T00:00:00Z", until = "2026-03-01T00:00:00Z""#),
            "b",
        ),
        (
            ("a", r#"from = "2026-01-01T00:00:00Z", until = "2026-04-01T00:00:00Z""#),
            ("b", r#"from = "2026-01-01T00:00:00Z", until = "2026-03-01T00:00:00Z""#),
            "b",
        ),
        // What was created first, and not the name.
        (("z", r#"from = "2026-01-01T00:00:00Z""#), ("y", r#"from = "2026-01-01T00:00:00Z""#), "z"),
        // The priority before all else.
        (
            ("a", r#"from = "2026-01-01T00:00:00Z", priority = 2, until = "2026-02-01T00:00:00Z""#),
            ("b", r#"from = "2026-01-01T00:00:00Z", priority = 1"#),
            "b",
        ),
        // What rolled over is of the lot that it rolled into.
        (
            ("a", r#"from = "2026-01-01T00:00:00Z", every = { days = 10 }, rollover = { max = "20" }"#),
            ("b", r#"from = "2026-06-01T00:00:00Z""#),
            "a#2",
        ),
    ] {
        let grants = gifts(&[first, second]);
        let month = |units| World::new(&[CALLS, SUBSCRIPTION, &grants]).used(&[("calls", "01-15", units)]);
        let closed = month(40).bill(instant("02-10")).into_iter();
        let credits = closed.filter(|line| line.key.component == Component::Credit);
        let draws: Vec<FrozenDraw> = credits
            .map(|line| FrozenDraw { key: line.key, until: line.slice.until, amount: -line.rounded })
            .collect();
        assert_eq!(draws.iter().map(|draw| draw.amount).sum::<i128>(), 4_000, "{first:?} {second:?}");
        let mut fewer = month(20);
        fewer.frozen_draws = draws;
        let expected = [format!("01 credit {left} -2000"), "01 total 0".into()];
        assert_eq!(fewer.shown("02-10"), expected, "{first:?} {second:?}");
    }
}

#[test]
fn a_reversal_takes_off_its_own_price_first_and_the_latest_first() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "mails", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
    ]"#;
    let grant = |prices: &str| {
        format!(
            r#"grant = [{{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z"{prices} }}]"#
        )
    };
    for (usage, terms, expected) in [
        (
            &[("calls", "01-03", 40), ("calls", "01-05", 40), ("calls", "01-07", -30)][..],
            "",
            &["01 credit g -4000", "01 credit g -1000", "01 total 0"][..],
        ),
        // More than the latest: the one before it follows.
        (
            &[("calls", "01-03", 40), ("calls", "01-05", 40), ("calls", "01-07", -50)],
            "",
            &["01 credit g -3000", "01 total 0"],
        ),
        // Two reversals, and nothing of one is taken twice.
        (
            &[("calls", "01-03", 40), ("calls", "01-04", -10), ("calls", "01-06", -5)],
            "",
            &["01 credit g -2500", "01 total 0"],
        ),
        (
            &[("calls", "01-03", 40), ("calls", "01-05", -30), ("mails", "01-09", 50)],
            "",
            &["01 credit g -1000", "01 credit g -5000", "01 total 0"],
        ),
        (
            &[("calls", "01-03", 40), ("calls", "01-05", -60), ("mails", "01-09", 50)],
            "",
            &["01 credit g -3000", "01 total 0"],
        ),
        (
            &[("calls", "01-03", 40), ("calls", "01-05", -60), ("mails", "01-09", 50)],
            r#", prices = ["mails"]"#,
            &["01 credit g -3000", "01 total 0"],
        ),
        // A month that is worth less than nothing draws nothing, and takes nothing off another.
        (
            &[("calls", "01-03", -60), ("calls", "02-05", 10)],
            "",
            &["02 credit g -1000", "01 total -6000", "02 total 0"],
        ),
    ] {
        let world = World::new(&[prices, SUBSCRIPTION, &grant(terms)]).used(usage);
        assert_eq!(world.shown("02-10"), expected, "{usage:?} {terms}");
    }
}

#[test]
fn commitments_and_grants_keep_to_the_subscriptions_and_prices_that_they_name() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "mails", plan = "max", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
    ]"#;
    let subscriptions = r#"subscription = [
        { id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" },
        { id = "s2", account = "acme", plan = "max", from = "2026-01-01T00:00:00Z" },
    ]"#;
    for (terms, counted) in [
        ("", 70),
        (r#"subscriptions = ["s1"]"#, 30),
        (r#"subscriptions = ["s2"]"#, 40),
        (r#"prices = ["calls"]"#, 30),
        (r#"prices = ["calls", "mails"]"#, 70),
        (r#"subscriptions = ["s2"], prices = ["calls"]"#, 0),
        (r#"subscriptions = ["s2"], prices = ["mails"]"#, 40),
        (r#"subscriptions = ["s1", "s2"], prices = ["mails"]"#, 40),
    ] {
        let more = if terms.is_empty() { String::new() } else { format!(", {terms}") };
        let world = |term: &str| {
            let world = World::new(&[prices, subscriptions, term]);
            world.used(&[("calls", "01-03", 30), ("mails", "01-03", 40)]).bill(instant("01-31"))
        };
        let grant = format!(
            r#"grant = [{{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z"{more} }}]"#
        );
        let paid: i128 = world(&grant)
            .iter()
            .filter(|line| line.key.component == Component::Credit)
            .map(|line| -line.rounded)
            .sum();
        assert_eq!(paid, counted * 100, "grant {terms}");
        let commitment = format!(
            r#"commitment = [{{ id = "c", account = "acme", shape = "prepaid_drawdown", amount = "500", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z"{more} }}]"#
        );
        let total: i128 = world(&commitment).iter().map(|line| line.rounded).sum();
        assert_eq!(7_000 - total, counted * 100, "commitment {terms}");
    }
}

#[test]
fn a_commitment_says_what_it_covers_and_changes_from_a_window_on() {
    let commitment = |amount: &str, more: &str| {
        format!(
            r#"commitment = [{{ id = "c", account = "acme", shape = "none", {amount}, overage_factor = "1.5", prices = ["calls"], from = "2026-01-01T00:00:00Z", until = "2026-04-01T00:00:00Z"{more} }}]"#
        )
    };
    let changed = r#", effective_from = "2026-02-01T00:00:00Z""#;
    for (first, second) in
        [(r#"amount = "300""#, r#"amount = "600""#), (r#"quantity = "300""#, r#"quantity = "600""#)]
    {
        let mut world = World::new(&[CALLS, SUBSCRIPTION, &commitment(first, "")]);
        let file = CatalogFile::parse(&format!("catalog = 1\n{}", commitment(second, changed))).unwrap();
        for resource in file.resources() {
            world.catalog.apply(resource, 99).unwrap();
        }
        let world = world.used(&[("calls", "01-03", 150), ("calls", "02-03", 150), ("calls", "03-03", 230)]);
        assert_eq!(
            world.shown("04-01"),
            [
                "01 overage c 2500",
                "02 true_up c 5000",
                "03 overage c 1500",
                "01 total 17500",
                "02 total 20000",
                "03 total 24500"
            ],
            "{first} {second}"
        );
        let reasons = world.bill(instant("04-01")).into_iter().map(|line| line.reason);
        let reasons: Vec<Reason> = reasons.filter(|reason| *reason != Reason::Charge).collect();
        let factor = Exact::parse("1.5").unwrap();
        assert_eq!(
            reasons,
            [
                Reason::Overage { overage: 5_000, factor },
                Reason::TrueUp { used: 15_000, missing: 5_000 },
                Reason::Overage { overage: 3_000, factor }
            ]
        );
    }
}

/// What usage that was taken back returns to a prepaid amount is no reversal: it took 30 off the fee that a grant pays.
#[test]
fn what_goes_back_to_a_prepaid_amount_takes_nothing_off_other_dues() {
    let prices = r#"price = [
        { id = "calls", plan = "pro", meter = "calls", model = "per_unit", unit_amount = "1", window = "month" },
        { id = "fee", plan = "pro", model = "flat", unit_amount = "50", window = "month" },
    ]"#;
    let terms = r#"
        commitment = [{ id = "c", account = "acme", shape = "prepaid_drawdown", amount = "500", prices = ["calls"], from = "2026-01-01T00:00:00Z", until = "2026-03-01T00:00:00Z" }]
        grant = [{ id = "g", account = "acme", kind = "paid", amount = "500", from = "2026-01-01T00:00:00Z" }]"#;
    let world = World::new(&[prices, SUBSCRIPTION, terms]);
    let world = world.used(&[("calls", "01-03", 100), ("calls", "02-03", -30)]);
    assert_eq!(
        world.shown("03-01"),
        [
            "01 drawdown c -10000",
            "02 drawdown c 3000",
            "01 credit g -5000",
            "02 credit g -5000",
            "01 total 0",
            "02 total 0"
        ]
    );
}

#[test]
fn a_term_whose_line_could_not_be_billed_is_refused() {
    let price = CALLS.replace(r#"unit_amount = "1""#, r#"unit_amount = "10000000""#);
    let commitment = r#"commitment = [{ id = "c", account = "acme", shape = "none", amount = "0", overage_factor = "2", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" }]"#;
    let most = AMOUNT_MINOR_MAX / 1_000_000_000;
    for (factor, units, expected) in [
        ("2", most, Some(AMOUNT_MINOR_MAX)),
        ("2.000000000000000000000000001", most, None),
        ("2", most - 1, Some(AMOUNT_MINOR_MAX - 1_000_000_000)),
        ("2.00000001", most, None),
        ("3", most, None),
    ] {
        let commitment = commitment.replace(r#"factor = "2""#, &format!(r#"factor = "{factor}""#));
        let world = World::new(&[&price, SUBSCRIPTION, &commitment]).used(&[("calls", "01-03", units)]);
        let found = world.try_bill(instant("01-31"));
        let overage = found.map(|bill| bill.iter().map(|line| line.rounded).sum::<i128>() / 2);
        assert_eq!(overage.ok(), expected, "{factor} {units}");
    }
}

proptest! {
    #![proptest_config(crate::testing::cases())]

    /// Discounts one by one off the sum of a month, in the order that is said; a line takes no more than was due there, in
    /// proportion to within a unit for each discount before it.
    #[test]
    fn discounts_of_an_account_take_off_a_month_what_they_take_off_its_sum(
        calls in 0i128..300,
        list in prop::collection::vec((any::<bool>(), 0i128..6_000, 0u32..3), 0..6),
    ) {
        let terms: Vec<(String, String)> = list.iter().enumerate().map(|(index, (is_percent, number, priority))| {
            let value = Exact::new(*number, 2);
            let takes = if *is_percent { format!("percent = \"{value}\"") } else { format!("amount = \"{value}\"") };
            (format!("d{index}"), format!("{takes}, priority = {priority}"))
        }).collect();
        let terms: Vec<(&str, &str)> = terms.iter().map(|(id, terms)| (&**id, &**terms)).collect();
        let mut world = discounted(&terms);
        world.usage[0].2 = calls;
        let bill = world.bill(instant("01-31"));
        let mut ordered = list.clone();
        // Stable: what was created first comes first.
        ordered.sort_by_key(|(is_percent, _, priority)| (*priority, !is_percent));
        let gross = calls * 100 + 5_000;
        let mut left = gross;
        for (is_percent, number, _) in &ordered {
            // 10^-2 percent of minor units: half away from zero.
            left -= if *is_percent { (left * number + 5_000) / 10_000 } else { *number }.min(left);
        }
        prop_assert_eq!(bill.iter().map(|line| line.rounded).sum::<i128>(), left);
        for (price, charged) in [("calls", calls * 100), ("fee", 5_000)] {
            let of_price = bill.iter().filter(|line| line.key.price.as_ref().is_some_and(|id| id.as_str() == price));
            let kept: i128 = of_price.map(|line| line.rounded).sum();
            prop_assert!((0..=charged).contains(&kept));
            let exact = charged * left;
            prop_assert!((kept * gross - exact).abs() <= gross * (2 * list.len() as i128 + 1), "{} of {}", kept, charged);
        }
    }

    /// Whatever was used when, and whenever it became known: lines and true-up equal the commitment while usage stays
    /// below it, and the year costs at least it.
    #[test]
    fn a_year_costs_at_least_its_commitment(
        usage in prop::collection::vec((1u32..13, 1u32..28, 0i128..4_000), 0..20),
        shape in prop::sample::select(vec!["none", "roll_forward", "cumulative", "year_end"]),
    ) {
        let mut world = committed(shape, "");
        for (month, day, units) in &usage {
            world.usage.push((PriceId::new("calls").unwrap(), instant(&format!("{month:02}-{day:02}")), *units));
        }
        let end = Timestamp::parse("2027-01-01T00:00:00Z").unwrap();
        let total: i128 = world.bill(end).iter().filter(|line| line.window.from < end).map(|line| line.rounded).sum();
        let used: i128 = usage.iter().map(|(_, _, units)| units * 100).sum();
        prop_assert!(total >= 1_200_000 && total >= used);
        if shape == "year_end" || shape == "cumulative" {
            prop_assert_eq!(total, used.max(1_200_000));
        }
    }
}
