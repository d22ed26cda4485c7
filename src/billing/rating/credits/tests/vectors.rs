//! Cases that other systems publish about credits. Owns: our copies of them, by their ids. Leaves to others: reading whole
//! case files.
//!
//! Where another system does not follow the rules (usage before a grant back-filled, a balance at its own expiry), the
//! number is ours, and the case says so.

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
