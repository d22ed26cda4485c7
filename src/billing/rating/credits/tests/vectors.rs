//! Cases that other systems publish about credits. Owns: our copies of them, by their ids. Leaves to others: reading whole
//! case files.
//!
//! Where another system does not follow the rules (usage before a grant back-filled, a balance at its own expiry), the
//! number is ours, and the case says so.

use std::collections::BTreeMap;

use domain::Rounding;

use super::*;
use crate::rating::models::PerUnit;

fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_string() } else { format!("{text}T00:00:00Z") };
    Timestamp::parse(&text).unwrap()
}

fn numbers(texts: &[&str]) -> Vec<Exact> {
    texts.iter().copied().map(exact).collect()
}

/// A case of `burn`: grants as (expiry, void), each of 100; dues as (date, amount); balances; overage.
type BurnCase<'a> =
    (&'a str, &'a [(&'a str, Option<&'a str>)], &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn burn() {
    let (never, sooner) = ("2100-01-01", "2050-01-01");
    let cases: [BurnCase<'_>; 5] = [
        ("om-grant-02", &[(never, None)], &[("2024-01-02", "50")], &["50"], "0"),
        ("om-grant-04", &[(never, None), (sooner, None)], &[("2024-01-02", "120")], &["80", "0"], "0"),
        ("om-grant-05", &[(never, None), (never, None)], &[("2024-01-02", "120")], &["0", "80"], "0"),
        (
            "om-grant-06: voided once 50 are drawn",
            &[(never, Some("2024-01-03"))],
            &[("2024-01-02", "50"), ("2024-01-03", "50")],
            &["0"],
            "50",
        ),
        (
            "om-grant-07: usage before the grant is not back-filled",
            &[(never, None)],
            &[("2023-12-31", "25"), ("2024-01-02", "25")],
            &["75"],
            "25",
        ),
    ];
    for (id, grants, dues, balances, overage) in cases {
        let of = |(index, (until, voided_at)): (usize, &(&str, Option<&str>))| Grant {
            from: at("2024-01-01"),
            until: Some(at(until)),
            voided_at: voided_at.map(at),
            ..grant(&format!("g{}", index + 1), "100", 1, 1, None)
        };
        let grants: Vec<Grant> = grants.iter().enumerate().map(of).collect();
        let of = |(when, amount): &(&str, &str)| Due { at: at(when), ..due(1, amount) };
        let dues: Vec<Due> = dues.iter().map(of).collect();
        let drawn = draw(&grants, &dues, &Zone::utc(), at("2024-01-09")).unwrap();
        let left: Vec<Exact> = drawn.lots.iter().map(|lot| lot.balance).collect();
        assert_eq!((left, sum_of(drawn.unpaid).unwrap()), (numbers(balances), exact(overage)), "{id}");
    }
}

#[test]
fn rollover() {
    for (id, balance, min, max, carried, rolled) in
        [("om-roll-01", "90", "0", "50", "0", "50"), ("om-roll-02", "0", "50", "50", "10", "40")]
    {
        assert_eq!(
            roll_over(exact(balance), exact(min), exact(max), exact(carried)),
            Ok(exact(rolled)),
            "{id}"
        );
    }
}

#[test]
fn wallet_taxed() {
    for (id, gross, wallet, paid, balance) in [
        ("lago-wal-02", "14.29", "39.00", "17.72", "21.28"),
        ("lago-wal-03", "14.27", "21.28", "17.69", "3.59"),
    ] {
        let tax = exact(gross).multiply(exact("0.24")).unwrap().round(Rounding::HalfAway, 2).unwrap();
        let due = exact(gross).add(tax).unwrap();
        let applied = pay_in_order(due, &[exact(wallet)], Exact::ZERO).unwrap();
        assert_eq!(applied, [exact(paid)], "{id}");
        assert_eq!(exact(wallet).subtract(applied[0]), Ok(exact(balance)), "{id}");
    }
}

#[test]
fn cascades() {
    for (id, wallets, topped_up, gross, paid) in [
        ("lago-wal-06", &["50", "150"][..], &[][..], "80", &["50", "30"][..]),
        ("lago-wal-07", &["50", "150"], &[], "250", &["50", "200"]),
        ("lago-wal-11", &["50", "150"], &[0, 1], "80", &["80", "0"]),
        ("lago-wal-12", &["50", "50", "50"], &[1], "200", &["50", "150", "0"]),
    ] {
        assert_eq!(cascade(exact(gross), &numbers(wallets), topped_up), Ok(numbers(paid)), "{id}");
    }
}

/// The credits of `lago-wal-04` are 10.34567 before and after: what its peer derives from the rounded amount, 10.34909,
/// is what a wallet must not lose.
#[test]
fn per_unit_rate_and_void_round() {
    for (id, credits, rate, amount) in [
        ("lago-wal-01", "17.9699999999999988631316", "1", "17.97"),
        ("lago-wal-04", "10.34567", "1.375", "14.23"),
    ] {
        let precise = PerUnit { unit_amount: exact(rate) }.amount(exact(credits)).unwrap();
        assert_eq!(precise.round(Rounding::HalfAway, 2), Ok(exact(amount)), "{id}");
        let wallet = [Grant { amount: exact("100"), ..grant("wallet", "100", 0, 1, None) }];
        let drawn = draw(&wallet, &[due(2, credits)], &Zone::utc(), day(3)).unwrap();
        assert_eq!(drawn.lots[0].balance.add(exact(credits)), Ok(exact("100")), "{id}");
    }
    let void = exact("14.28444999").round(Rounding::HalfAway, 2).unwrap();
    assert_eq!(exact("100").subtract(void), Ok(exact("85.72")), "lago-wal-05");
}

/// `credits_inner`: 10 units cost 100 + 50, or the minimum of 200.
#[test]
fn credits_inner() {
    let status = CreditStatus::CreditsMustNotExceedDue;
    for (id, gross, credits, left) in [
        ("om-cred-01", "150", "150", Ok("0")),
        ("om-cred-03", "150", "125", Ok("25")),
        ("om-cred-04", "200", "175", Ok("25")),
        ("om-cred-06", "150", "300", Err(status)),
    ] {
        assert_eq!(after_credits(exact(gross), &[exact(credits)]), left.map(exact), "{id}");
    }
}

/// Units of 100: (id, priority, effective, expires, recurs every so many days from, balance at the start).
type Units<'a> = (&'a str, i64, &'a str, &'a str, Option<(i64, &'a str)>, &'a str);

struct BurndownCase<'a> {
    id: &'a str,
    grants: &'a [Units<'a>],
    voids: &'a [(usize, &'a str)],
    uses: &'a [(&'a str, &'a str)],
    span: (&'a str, &'a str),
    balances: &'a [&'a str],
    overage: &'a str,
    /// Balances of the first grant at the start of each stretch.
    by_segment: &'a [&'a str],
}

#[test]
fn credit_burndown() {
    let month = ("2024-01-01", "2024-01-31");
    let cases = [
        BurndownCase {
            id: "OM-BURN-03",
            grants: &[("g1", 1, month.0, month.1, None, "100")],
            voids: &[(0, "2024-01-01T01:00:00Z")],
            uses: &[("2024-01-01T00:59:00Z", "50"), ("2024-01-01T01:01:00Z", "50")],
            span: (month.0, "2024-01-06"),
            balances: &["0"],
            overage: "50",
            by_segment: &["100", "0"],
        },
        BurndownCase {
            id: "OM-BURN-04: ours, not back-filled",
            grants: &[("g1", 1, month.0, month.1, None, "0")],
            voids: &[],
            uses: &[("2024-01-01T01:00:00Z", "25"), ("2023-12-31T23:00:00Z", "25")],
            span: ("2023-12-31", "2024-01-02"),
            balances: &["75"],
            overage: "25",
            by_segment: &["0", "100"],
        },
        BurndownCase {
            id: "OM-BURN-06",
            grants: &[("g2", 2, month.0, month.1, None, "100"), ("g1", 1, month.0, month.1, None, "100")],
            voids: &[],
            uses: &[("2024-01-01T01:00:00Z", "120")],
            span: (month.0, "2024-01-02"),
            balances: &["80", "0"],
            overage: "0",
            by_segment: &["100"],
        },
        BurndownCase {
            id: "OM-BURN-07",
            grants: &[
                ("g2", 1, month.0, "2099-01-01", None, "100"),
                ("g1", 1, month.0, month.1, None, "100"),
            ],
            voids: &[],
            uses: &[("2024-01-01T01:00:00Z", "120")],
            span: (month.0, "2024-01-02"),
            balances: &["80", "0"],
            overage: "0",
            by_segment: &["100"],
        },
        BurndownCase {
            id: "OM-BURN-09",
            grants: &[("g1", 1, month.0, month.1, Some((1, month.0)), "100")],
            voids: &[],
            uses: &[("2024-01-01T01:00:00Z", "120")],
            span: (month.0, "2024-01-02T01:00:00Z"),
            balances: &["80"],
            overage: "0",
            by_segment: &["100", "80"],
        },
        BurndownCase {
            id: "OM-BURN-11",
            grants: &[
                ("g1", 3, "2023-12-31", "2024-01-30", None, "80"),
                ("g2", 1, "2024-01-02", "2024-02-01", Some((7, "2024-01-04")), "100"),
            ],
            voids: &[],
            uses: &[
                ("2023-12-31T23:00:00Z", "20"),
                ("2024-01-01T01:00:00Z", "20"),
                ("2024-01-01T23:59:59Z", "20"),
                ("2024-01-02", "20"),
                ("2024-01-04", "20"),
            ],
            span: (month.0, "2024-01-10T23:00:00Z"),
            balances: &["40", "80"],
            overage: "0",
            by_segment: &["80", "40", "40"],
        },
        BurndownCase {
            id: "OM-BURN-12",
            grants: &[
                ("g1", 1, month.0, month.1, Some((1, "2024-01-02")), "100"),
                ("g2", 2, "2024-01-02T01:00:00Z", "2024-02-01T01:00:00Z", None, "0"),
            ],
            voids: &[],
            uses: &[("2024-01-02T00:30:00Z", "30"), ("2024-01-02T01:30:00Z", "20")],
            span: (month.0, "2024-01-02T02:00:00Z"),
            balances: &["50", "100"],
            overage: "0",
            by_segment: &["100", "100", "70"],
        },
        BurndownCase {
            id: "OM-BURN-14: ours, half-open",
            grants: &[("g1", 1, month.0, month.1, None, "100")],
            voids: &[],
            uses: &[("2024-01-01T01:00:00Z", "50")],
            span: month,
            balances: &["0"],
            overage: "0",
            by_segment: &["100"],
        },
    ];
    for case in cases {
        check_burndown(&case);
    }
}

fn check_burndown(case: &BurndownCase<'_>) {
    let of = |(id, priority, effective, expires, recurrence, balance): &Units<'_>| BurndownGrant {
        id: (*id).to_string(),
        priority: *priority,
        amount: exact("100"),
        effective_at: at(effective),
        ends_at: Some(at(expires)),
        recurrence: recurrence.map(|(days, anchor)| (at(anchor), days * DAY)),
        start_balance: exact(balance),
    };
    let grants: Vec<BurndownGrant> = case.grants.iter().map(of).collect();
    let voids: BTreeMap<usize, Timestamp> =
        case.voids.iter().map(|(grant, when)| (*grant, at(when))).collect();
    let uses: Vec<Use> =
        case.uses.iter().map(|(when, amount)| Use { at: at(when), amount: exact(amount) }).collect();
    let span = Span::new(at(case.span.0), at(case.span.1));
    let burned = burndown_with_voids(&grants, &voids, &uses, span, Exact::ZERO).unwrap();
    let first: Vec<Exact> = burned.balances_by_segment.iter().map(|balances| balances[0]).collect();
    assert_eq!(
        (burned.balances, burned.overage, first),
        (numbers(case.balances), exact(case.overage), numbers(case.by_segment)),
        "{}",
        case.id
    );
}

/// `OM-BURN-08`: 100,000 equal grants in a mixed order; the one that expires a day earlier pays.
#[test]
fn credit_burndown_scale() {
    let start = at("2024-01-01");
    let of = |number: usize| BurndownGrant {
        id: (number * 7_919 % 100_000).to_string(),
        priority: 0,
        amount: exact("100"),
        effective_at: start,
        ends_at: Some(start.plus(if number == 61_803 { 29 } else { 30 } * DAY)),
        recurrence: None,
        start_balance: exact("100"),
    };
    let grants: Vec<BurndownGrant> = (0..100_000).map(of).collect();
    let span = Span::new(start, start.plus(DAY));
    let burned = burndown(&grants, &[Use { at: start, amount: exact("99") }], span, Exact::ZERO).unwrap();
    assert_eq!(burned.balances[61_803], Exact::ONE);
    assert_eq!(burned.balances.iter().filter(|balance| **balance == exact("100")).count(), 99_999);
}
