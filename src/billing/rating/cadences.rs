//! Cases of billing windows besides the calendar month: what each window of a price costs.
//!
//! Owns: a table of cases, through a catalog, positions, the account's bill and quotes. Leaves to others: where windows lie
//! (`domain::time`), random histories (`machine::tests`), the account that they are told of (`shop`).

use std::collections::BTreeMap;

use domain::{Period, Timestamp};

use super::shop::{Shop, at, grant, grants, price_over, worths};
use crate::catalog::Belonging;
use crate::charges::Component;
use crate::quote::{QuoteTerms, quote_at, quote_months};

/// What each window costs, as `YYYY-MM-DD..YYYY-MM-DD amount`, in order; windows that cost nothing are left out.
fn windows(shop: &Shop, as_of: &str) -> Vec<String> {
    let mut costs: BTreeMap<_, i128> = BTreeMap::new();
    for line in shop.bill(at(as_of)) {
        *costs.entry(line.window).or_default() += line.rounded;
    }
    costs.retain(|_, amount| *amount != 0);
    let day = |instant: Timestamp| shop.zone.date_of(instant);
    costs
        .into_iter()
        .map(|(window, amount)| format!("{}..{} {amount}", day(window.from), day(window.until)))
        .collect()
}

struct Case {
    what: &'static str,
    zone: &'static str,
    window: &'static str,
    price: (&'static str, &'static str),
    subscription: &'static str,
    uses: &'static [(&'static str, &'static str)],
    as_of: &'static str,
    costs: &'static [&'static str],
}

const TIERS: &str = "tiers = [{ up_to = \"10\", unit_amount = \"1\" }, { unit_amount = \"0.1\" }]";
const ALWAYS: &str = "from = \"2026-01-01T00:00:00Z\"";

#[test]
fn each_window_costs_what_is_used_and_owed_in_it() {
    let fee = "unit_amount = \"30\", payment = \"in_advance\"";
    for case in [
        Case {
            what: "a fee from the 31st on, at the end of shorter months",
            zone: "UTC",
            window: "month",
            price: ("flat", fee),
            subscription: "from = \"2026-01-31T00:00:00Z\", anchor = \"2026-01-31T00:00:00Z\"",
            uses: &[],
            as_of: "04-01",
            costs: &[
                "2026-01-31..2026-02-28 3000",
                "2026-02-28..2026-03-31 3000",
                "2026-03-31..2026-04-30 3000",
            ],
        },
        Case {
            what: "tiers that start again on the 15th",
            zone: "UTC",
            window: "month",
            price: ("graduated", TIERS),
            subscription: "from = \"2026-01-15T00:00:00Z\", anchor = \"2026-01-15T00:00:00Z\"",
            uses: &[("01-20", "8"), ("02-14T23:00:00", "4"), ("02-15", "8")],
            as_of: "04-01",
            costs: &["2026-01-15..2026-02-15 1020", "2026-02-15..2026-03-15 800"],
        },
        Case {
            what: "tiers over a quarter",
            zone: "UTC",
            window: "quarter",
            price: ("graduated", TIERS),
            subscription: ALWAYS,
            uses: &[("01-20", "8"), ("03-31T23:00:00", "4"), ("04-01", "8")],
            as_of: "07-01",
            costs: &["2026-01-01..2026-04-01 1020", "2026-04-01..2026-07-01 800"],
        },
        Case {
            what: "a quarter from the end of November on",
            zone: "UTC",
            window: "quarter",
            price: ("graduated", TIERS),
            subscription: "from = \"2026-01-01T00:00:00Z\", anchor = \"2025-11-30T00:00:00Z\"",
            uses: &[("02-27", "11"), ("02-28", "11")],
            as_of: "07-01",
            costs: &["2025-11-30..2026-02-28 1010", "2026-02-28..2026-05-30 1010"],
        },
        Case {
            what: "a year in advance, prorated by its days and by a price that changes in it",
            zone: "UTC",
            window: "year",
            price: ("flat", "unit_amount = \"365\", payment = \"in_advance\", proration = \"days\""),
            subscription: "from = \"2026-03-01T00:00:00Z\", until = \"2026-12-22T00:00:00Z\"",
            uses: &[],
            as_of: "03-01",
            costs: &["2026-01-01..2027-01-01 29600"],
        },
        Case {
            what: "a year from a leap day on",
            zone: "UTC",
            window: "year",
            price: ("flat", fee),
            subscription: "from = \"2026-01-01T00:00:00Z\", anchor = \"2024-02-29T00:00:00Z\"",
            uses: &[],
            as_of: "2028-03-01",
            costs: &[
                "2025-02-28..2026-02-28 3000",
                "2026-02-28..2027-02-28 3000",
                "2027-02-28..2028-02-29 3000",
                "2028-02-29..2029-02-28 3000",
            ],
        },
        Case {
            what: "units that are included in each week from Thursday on",
            zone: "UTC",
            window: "week",
            price: ("per_unit", "unit_amount = \"1\", included = \"5\""),
            subscription: "from = \"2026-01-01T00:00:00Z\", anchor = \"2026-01-01T00:00:00Z\"",
            uses: &[("01-02", "6"), ("01-07T23:59:59", "6"), ("01-08", "6")],
            as_of: "02-01",
            costs: &["2026-01-01..2026-01-08 700", "2026-01-08..2026-01-15 100"],
        },
        Case {
            what: "a day of 23 hours and one of 25",
            zone: "Europe/Berlin",
            window: "day",
            price: ("per_unit", "unit_amount = \"1\", maximum = \"5\""),
            subscription: ALWAYS,
            uses: &[
                ("03-28T22:59:59", "4"),
                ("03-28T23:00:00", "4"),
                ("03-29T21:59:59", "4"),
                ("03-29T22:00:00", "4"),
                ("10-24T22:00:00", "3"),
                ("10-25T22:59:59", "3"),
            ],
            as_of: "11-01",
            costs: &[
                "2026-03-28..2026-03-29 400",
                "2026-03-29..2026-03-30 500",
                "2026-03-30..2026-03-31 400",
                "2026-10-25..2026-10-26 500",
            ],
        },
        Case {
            what: "a minimum of the part of a quarter in which there is a subscription",
            zone: "UTC",
            window: "quarter",
            price: ("per_unit", "unit_amount = \"1\", minimum = \"90\""),
            subscription: "from = \"2026-03-02T00:00:00Z\", until = \"2026-05-01T00:00:00Z\"",
            uses: &[("03-20", "10")],
            as_of: "07-01",
            // 30 of 90 days, and 30 of 91.
            costs: &["2026-01-01..2026-04-01 3000", "2026-04-01..2026-07-01 2967"],
        },
        Case {
            what: "a fee by the second, of the half of a week",
            zone: "UTC",
            window: "week",
            price: ("flat", "unit_amount = \"7\", proration = \"seconds\""),
            subscription: "from = \"2026-01-08T12:00:00Z\", until = \"2026-01-12T00:00:00Z\"",
            uses: &[],
            as_of: "02-01",
            costs: &["2026-01-05..2026-01-12 350"],
        },
    ] {
        let (model, terms) = case.price;
        let price = price_over(case.window, "p", model, terms);
        let shop = Shop::in_zone(case.zone, &[price], case.subscription, "").used(case.uses);
        assert_eq!(windows(&shop, case.as_of), case.costs, "{}", case.what);
    }
}

#[test]
fn a_price_that_changes_inside_a_window_goes_on_counting() {
    let old = price_over("quarter", "p", "graduated", TIERS);
    let new = "tiers = [{ up_to = \"10\", unit_amount = \"2\" }, { unit_amount = \"0.2\" }], effective_from = \"2026-02-10T00:00:00Z\"";
    let shop = Shop::new(&[old, price_over("quarter", "p", "graduated", new)], "");
    let shop = shop.used(&[("01-20", "8"), ("02-20", "4"), ("03-20", "5")]);
    // 8 at 1, then 2 at 2 and 2 at 0.2, then 5 at 0.2.
    assert_eq!(windows(&shop, "04-01"), ["2026-01-01..2026-04-01 1340"]);
}

#[test]
fn what_a_price_takes_off_is_of_its_window_and_what_an_account_agreed_to_of_its_months() {
    let quarter =
        price_over("quarter", "p", "per_unit", "unit_amount = \"1\", discounts = [{ amount = \"1\" }]");
    let shop = Shop::new(std::slice::from_ref(&quarter), "").used(&[("01-20", "10"), ("02-20", "10")]);
    assert_eq!(shop.lines_of(Component::Discount, "04-01"), [-100]);
    // Half of what was used in February.
    let discount =
        "discount = [{ id = \"d\", account = \"acme\", percent = \"50\", from = \"2026-02-01T00:00:00Z\" }]";
    let shop = Shop::new(&[quarter], discount).used(&[("01-20", "10"), ("02-20", "10")]);
    let by_window = windows(&shop, "04-01");
    assert_eq!(by_window, ["2026-01-01..2026-04-01 1900", "2026-02-01..2026-03-01 -475"]);
}

#[test]
fn a_commitment_counts_usage_in_the_month_that_it_belongs_to_whatever_the_window() {
    let commitment = "commitment = [{ id = \"c\", account = \"acme\", shape = \"none\", amount = \"36\", from = \"2026-01-01T00:00:00Z\", until = \"2026-04-01T00:00:00Z\" }]";
    let price = price_over("quarter", "p", "graduated", TIERS);
    let shop = Shop::new(&[price], commitment).used(&[("01-20", "8"), ("02-20", "200")]);
    // 8 of 12; 2 + 19.80 of 12; nothing of 12.
    assert_eq!(shop.lines_of(Component::TrueUp, "05-01"), [400, 1200]);
    // A recurring amount in arrears belongs to the month that its window ends in, one in advance to that in which it starts.
    for (payment, months) in [("in_arrears", ["03"]), ("in_advance", ["01"])] {
        let terms = format!("unit_amount = \"10\", payment = \"{payment}\"");
        let fee = price_over("quarter", "f", "flat", &terms);
        let discount = "discount = [{ id = \"d\", account = \"acme\", percent = \"10\", from = \"2026-01-01T00:00:00Z\" }]";
        let shop = Shop::in_zone(
            "UTC",
            &[fee],
            "from = \"2026-01-01T00:00:00Z\", until = \"2026-04-01T00:00:00Z\"",
            discount,
        );
        let bill = shop.bill(at("05-01"));
        let discounts = bill.iter().filter(|line| line.key.component == Component::Discount);
        let found: Vec<String> =
            discounts.map(|line| shop.zone.date_of(line.window.from)[5..7].to_string()).collect();
        assert_eq!(found, months, "{payment}");
    }
}

#[test]
fn grants_pay_in_order_of_time_whatever_the_windows() {
    let fee = price_over("month", "fee", "flat", "unit_amount = \"10\", payment = \"in_advance\"");
    let usage = price_over("year", "usage", "per_unit", "unit_amount = \"1\"");
    let wallet = grants(&[grant("wallet", "25", "kind = \"paid\"")]);
    let shop = Shop::new(&[fee, usage], &wallet).used(&[("01-20", "8"), ("02-20", "4")]);
    let paid = worths(&shop.bill(at("03-01")));
    let paid: Vec<(String, i128)> = paid
        .into_iter()
        .filter(|(key, _)| key.component == Component::Credit)
        .map(|(key, amount)| {
            (format!("{} {}", key.price.unwrap(), shop.zone.date_of(key.slice_from)), amount)
        })
        .collect();
    let expected = [("fee 2026-01-01", -1_000), ("usage 2026-01-20", -800), ("fee 2026-02-01", -700)];
    assert_eq!(paid, expected.map(|(what, amount)| (what.to_string(), amount)));
}

#[test]
fn a_quote_is_what_the_windows_cost() {
    let prices = [
        price_over("month", "fee", "flat", "unit_amount = \"5\", payment = \"in_advance\""),
        price_over("quarter", "calls", "graduated", TIERS),
        price_over("week", "seats", "per_unit", "unit_amount = \"1\", meter = \"seats\", minimum = \"2\""),
    ];
    let subscription = "from = \"2026-01-15T00:00:00Z\", until = \"2026-07-15T00:00:00Z\", anchor = \"2026-01-15T00:00:00Z\"";
    let shop = Shop::in_zone("UTC", &prices, subscription, "").used(&[
        ("01-20", "8"),
        ("02-20", "4"),
        ("05-01", "7"),
    ]);
    let terms = QuoteTerms::of_subscription(&shop.catalog, "s").unwrap();
    let months: Vec<Period> =
        (1..=7).map(|month| Period::parse(&format!("2026-{month:02}")).unwrap()).collect();
    let bills = quote_months(&terms, &months, &shop.uses).unwrap();
    assert_eq!(bills.iter().map(|bill| bill.rounded).sum::<i128>(), shop.total("2027-01-01"));
    // Of one instant: the windows in which it lies, each whole.
    let bill = quote_at(&terms, at("02-20"), &shop.uses).unwrap();
    let costs: Vec<(String, i128)> =
        bill.prices.iter().map(|price| (price.price.to_string(), price.rounded)).collect();
    let expected = [("calls", 1_020), ("fee", 500), ("seats", 200)];
    assert_eq!(costs, expected.map(|(price, cost)| (price.to_string(), cost)));
    assert_eq!(terms.first_period(at("03-20")).to_string(), "2026-01");
}

/// What a quote of months bills, one after the other, and what one of an instant does.
fn quoted(shop: &Shop, months: &[&str], instant: &str) -> (Vec<i128>, i128) {
    let terms = QuoteTerms::of_subscription(&shop.catalog, "s").unwrap();
    let months: Vec<Period> = months.iter().map(|month| Period::parse(month).unwrap()).collect();
    let bills = quote_months(&terms, &months, &shop.uses).unwrap();
    let at_instant = quote_at(&terms, at(instant), &shop.uses).unwrap();
    (bills.iter().map(|bill| bill.rounded).collect(), at_instant.rounded)
}

#[test]
fn a_quote_of_a_month_has_what_is_agreed_for_the_months_that_its_windows_go_on_in() {
    let fee = price_over("quarter", "fee", "flat", "unit_amount = \"1000\", payment = \"in_arrears\"");
    let calls = price_over("quarter", "calls", "per_unit", "unit_amount = \"1\"");
    let seats = price_over("month", "seats", "per_unit", "unit_amount = \"1\", meter = \"seats\"");
    let quarter = "from = \"2026-01-01T00:00:00Z\", until = \"2026-04-01T00:00:00Z\"";
    let discount =
        "discount = [{ id = \"d\", account = \"acme\", percent = \"10\", from = \"2026-01-01T00:00:00Z\" }]";
    let commitment = "commitment = [{ id = \"c\", account = \"acme\", shape = \"none\", amount = \"600\", from = \"2026-01-01T00:00:00Z\", until = \"2026-07-01T00:00:00Z\" }]";
    let of_quarter = [fee, calls];
    let with_months = [of_quarter.as_slice(), &[seats]].concat();
    let one: &[(&str, &str)] = &[("01-20", "100")];
    let two: &[(&str, &str)] = &[("01-20", "100"), ("02-20", "100")];
    for (what, prices, agreed, uses, months, bills, around) in [
        ("a fee of March", &of_quarter[..], discount, one, &["2026-01"][..], &[99_000][..], 99_000),
        ("usage of February", &of_quarter, discount, two, &["2026-01"], &[108_000], 108_000),
        // February has its own; what is taken off the fee stands with the fee.
        ("two months", &of_quarter, discount, two, &["2026-01", "2026-02"], &[109_000, -1_000], 108_000),
        // 100.00 of February and of March, in which nothing is used: a fee is no usage.
        ("true-ups of a quarter", &of_quarter, commitment, one, &["2026-01"], &[130_000], 130_000),
        // What months cost that start later is not known.
        ("true-ups beside months", &with_months, commitment, one, &["2026-01"], &[110_000], 110_000),
        ("a month after the end", &of_quarter, commitment, two, &["2026-04"], &[10_000], 130_000),
    ] {
        let shop = Shop::in_zone("UTC", prices, quarter, agreed).used(uses);
        let found = quoted(&shop, months, "01-20");
        assert_eq!(found, (bills.to_vec(), around), "{what}");
    }
}

/// A discount of a yearly fee in advance posted eleven months after the fee, and the first part of a fee in arrears to another month
/// than the next.
#[test]
fn what_is_taken_off_posts_with_what_it_is_taken_off_and_the_parts_of_a_fee_post_together() {
    let yearly = "unit_amount = \"1200\", payment = \"in_advance\", discounts = [{ percent = \"10\" }], maximum = \"1000\"";
    let yearly = price_over("year", "p", "flat", yearly);
    let of_subscription = format!("{ALWAYS}, discounts = [{{ percent = \"50\" }}]");
    let part = |amount: &str, more: &str| {
        let terms =
            format!("unit_amount = \"{amount}\", payment = \"in_arrears\", proration = \"days\"{more}");
        price_over("month", "p", "flat", &terms)
    };
    let anchored = "from = \"2026-01-15T00:00:00Z\", anchor = \"2026-01-15T00:00:00Z\"".to_string();
    let parts = [part("31", ""), part("62", ", effective_from = \"2026-01-20T00:00:00Z\"")];
    for (prices, subscription, as_of, expected) in [
        (
            &[yearly][..],
            of_subscription,
            "02-01",
            &[
                "Charge 120000 2026-01",
                "Discount -12000 2026-01",
                "Discount -50000 2026-01",
                "Maximum -8000 2026-01",
            ][..],
        ),
        (&parts[..], anchored, "02-15", &["Charge 500 2026-02", "Charge 5200 2026-02"]),
    ] {
        let shop = Shop::in_zone("UTC", prices, &subscription, "");
        let mut found: Vec<String> = Vec::new();
        for line in shop.bill(at(as_of)).iter().filter(|line| line.rounded != 0) {
            let price = line.key.price.as_ref().and_then(|id| shop.catalog.price(id));
            let period = Belonging::of(&line.key, price).period(&shop.zone, &shop.zone);
            found.push(format!("{:?} {} {period}", line.key.component, line.rounded));
        }
        found.sort();
        assert_eq!(found, expected);
    }
}
