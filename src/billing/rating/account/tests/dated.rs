//! What pays for what, and from when on: balances beside each other, and grants that are not there yet.

use super::*;

const TERM: &str = r#"account = "acme", from = "2026-01-01T00:00:00Z", until = "2026-04-01T00:00:00Z""#;

fn commitments(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|terms| format!("{{ {TERM}, {terms} }}")).collect();
    format!("commitment = [{}]", list.join(", "))
}

/// What was paid ahead for a shortfall stays where another balance paid for the usage, and pays for later usage.
#[test]
fn what_was_paid_ahead_is_not_lost_to_another_balance() {
    let prepaid = r#"id = "prepaid", shape = "prepaid_drawdown", amount = "60""#;
    for shape in ["roll_forward", "cumulative"] {
        let ahead = format!(r#"id = "ahead", shape = "{shape}", amount = "90""#);
        let of = |order: [&str; 2]| {
            let terms = commitments(&order.map(String::from));
            World::new(&[CALLS, SUBSCRIPTION, &terms]).used(&[("calls", "02-03", 60), ("calls", "03-03", 60)])
        };
        assert_eq!(
            of([prepaid, &ahead]).shown("04-01"),
            [
                "01 true_up ahead 3000",
                "02 drawdown prepaid -6000",
                "03 drawdown ahead -3000",
                "01 total 3000",
                "02 total 0",
                "03 total 3000"
            ],
            "{shape}"
        );
        let other_way = of([&ahead, prepaid]).bill(instant("04-01"));
        assert_eq!(other_way.iter().map(|line| line.rounded).sum::<i128>(), 6_000, "{shape}");
        let left = |line: &BillLine| match line.reason {
            Reason::Drawdown { unused, .. } => Some(unused),
            _ => None,
        };
        let said: Vec<i128> = of([prepaid, &ahead]).bill(instant("04-01")).iter().filter_map(left).collect();
        assert_eq!(said, [0, 0], "{shape}: each says what is left of it");
    }
}

/// What is taken back of a month was paid for a second time.
#[test]
fn balances_pay_no_more_of_a_month_than_it_costs() {
    let terms = commitments(&[
        r#"id = "prepaid", shape = "prepaid_drawdown", amount = "90""#.to_string(),
        r#"id = "ahead", shape = "cumulative", amount = "120""#.to_string(),
    ]);
    for usage in [&[("calls", "02-03", 150), ("calls", "02-05", -50)][..], &[("calls", "02-03", 100)]] {
        assert_eq!(
            World::new(&[CALLS, SUBSCRIPTION, &terms]).used(usage).shown("04-01"),
            [
                "01 true_up ahead 4000",
                "02 drawdown ahead -1000",
                "02 drawdown prepaid -9000",
                "01 total 4000",
                "02 total 0"
            ],
            "{usage:?}"
        );
    }
}

/// Units that are included, or a flat amount, committed to nothing.
#[test]
fn a_committed_quantity_costs_what_the_price_asks_for_it() {
    let terms = commitments(&[
        r#"id = "c", shape = "none", quantity = "51", prices = ["calls"], overage_factor = "2""#.to_string(),
    ]);
    let fixed =
        r#"model = "stairstep", tiers = [{ up_to = "17", flat_amount = "10" }, { flat_amount = "50" }]"#;
    let included =
        r#"model = "graduated", included = "20", tiers = [{ unit_amount = "1", flat_amount = "148" }]"#;
    for (model, expected) in [
        (included, ["01 total 14800", "02 total 14800", "03 total 14800"]),
        (fixed, ["01 total 1000", "02 total 1000", "03 total 1000"]),
    ] {
        let price = CALLS.replace(r#"model = "per_unit", unit_amount = "1""#, model);
        let world = World::new(&[&price, SUBSCRIPTION, &terms]);
        let world = world.used(&[("calls", "01-03", 17), ("calls", "02-03", 17), ("calls", "03-03", 17)]);
        assert_eq!(world.shown("04-01"), expected, "{model}");
    }
}

#[test]
fn a_commitment_that_ends_early_owes_nothing_more() {
    let of = |more: &str| {
        let terms = commitments(&[format!(r#"id = "c", shape = "year_end", amount = "90"{more}"#)]);
        World::new(&[CALLS, SUBSCRIPTION, &terms]).used(&[
            ("calls", "01-05", 20),
            ("calls", "02-05", 25),
            ("calls", "03-05", 7),
        ])
    };
    assert_eq!(
        of("").shown("04-01"),
        ["03 true_up c 3800", "01 total 2000", "02 total 2500", "03 total 4500"]
    );
    let ended = of(r#", ended_at = "2026-03-01T00:00:00Z""#);
    assert_eq!(ended.shown("04-01"), ["02 true_up c 1500", "01 total 2000", "02 total 4000", "03 total 700"]);
    assert_eq!(ended.shown("02-20"), ["01 total 2000", "02 total 2500"], "its last month is not over");
    let never = of(r#", ended_at = "2026-01-01T00:00:00Z""#);
    assert_eq!(never.shown("04-01"), ["01 total 2000", "02 total 2500", "03 total 700"]);
}

/// Usage below nothing is no shortfall: there was a true-up at once, and one of a commitment that has none.
#[test]
fn usage_that_is_taken_back_owes_no_true_up_before_its_month_is_final() {
    for (true_up, end) in
        [("true", ["01 true_up c 5000", "01 total 3000"]), ("false", ["01 total -2000", ""])]
    {
        let terms =
            commitments(&[format!(r#"id = "c", shape = "cumulative", amount = "90", true_up = {true_up}"#)]);
        let world = World::new(&[CALLS, SUBSCRIPTION, &terms]).used(&[("calls", "01-05", -20)]);
        assert_eq!(world.shown("01-31"), ["01 total -2000"], "true_up = {true_up}");
        assert_eq!(world.shown("02-01"), end.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>());
    }
}

#[test]
fn a_surcharge_is_due_at_the_end_of_its_month_and_paid_by_what_is_there_then() {
    let terms =
        commitments(&[r#"id = "c", shape = "none", amount = "30", overage_factor = "1.5""#.to_string()]);
    for (grant, then) in [
        (r#"from = "2026-01-25T00:00:00Z""#, Some("01 credit g/overage/c -500")),
        (r#"from = "2026-01-25T00:00:00Z", until = "2026-01-30T00:00:00Z""#, None),
        (r#"from = "2026-01-06T00:00:00Z", until = "2026-01-20T00:00:00Z""#, None),
    ] {
        let grants =
            format!(r#"grant = [{{ id = "g", account = "acme", kind = "paid", amount = "5", {grant} }}]"#);
        let world = World::new(&[CALLS, SUBSCRIPTION, &terms, &grants]).used(&[("calls", "01-05", 20)]);
        assert_eq!(world.shown("01-07"), ["01 overage c 500", "01 total 2500"], "{grant}: before it is due");
        let credits: Vec<String> =
            world.shown("02-01").into_iter().filter(|line| line.contains("credit")).collect();
        assert_eq!(credits, then.into_iter().collect::<Vec<_>>(), "{grant}");
    }
}

/// A fee that is owed whole was paid by what had expired before there was a price.
#[test]
fn a_fee_of_a_price_that_begins_late_is_paid_by_what_is_there_then() {
    let fee = r#"price = [{ id = "fee", plan = "pro", model = "flat", unit_amount = "30", window = "month", payment = "in_advance", effective_from = "2026-01-21T00:00:00Z" }]"#;
    for (grant, expected) in [
        (r#"until = "2026-01-15T00:00:00Z", from = "2026-01-01T00:00:00Z""#, &["01 total 3000"][..]),
        (r#"from = "2026-01-17T00:00:00Z""#, &["01 credit g -3000", "01 total 0"]),
        (r#"from = "2026-01-22T00:00:00Z""#, &["01 total 3000"]),
    ] {
        let grants =
            format!(r#"grant = [{{ id = "g", account = "acme", kind = "paid", amount = "50", {grant} }}]"#);
        assert_eq!(World::new(&[fee, SUBSCRIPTION, &grants]).shown("01-31"), expected, "{grant}");
    }
}
