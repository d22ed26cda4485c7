//! Golden cases of rating, as text: prices, usage, and the bill that they make.
//!
//! Blocks are separated by empty lines; a block without a `price` line goes on with the prices of the one before.
//! Instants are `MM-DD` or `MM-DDThh` of 2026 in UTC; the window is January. Given:
//! - `price [from INSTANT] each U | monthly F | 0..=A at U [plus F] | ..=B at U | above at U`, then `per N`, `if used`
//! - `usage [FROM..UNTIL] QUANTITY`, `currency CODE`, `active FROM..UNTIL`, `as of INSTANT`
//!
//! Expected, and every kind that a block names must be complete: `line` (as a customer reads it), `slice` (version,
//! quantity, exact and rounded amount), `rounding` (billed less exact), `charge` or `refused`.

use std::collections::BTreeMap;

use domain::{Currency, Decimal, Exact, MeterId, PlanId, PriceId, Span, Timestamp, Zone};

use super::{ActiveTerm, Measure, SliceMeasure, WindowTerms, explain, position};
use crate::catalog::{Price, PriceTimeline, PriceVersion, PricingModel, Tier};

fn check_rate(text: &str) {
    let mut prices: Vec<Price> = Vec::new();
    let blocks: Vec<Vec<&str>> = text
        .split("\n\n")
        .map(|block| block.lines().map(str::trim).filter(|line| !line.is_empty()).collect())
        .filter(|block: &Vec<&str>| !block.is_empty())
        .collect();
    for block in blocks {
        let given = |word: &str| -> Vec<&str> {
            block.iter().filter_map(|line| line.strip_prefix(word)).map(str::trim).collect()
        };
        if !given("price ").is_empty() {
            prices = given("price ").into_iter().map(price).collect();
        }
        let versions = prices
            .iter()
            .cloned()
            .enumerate()
            .map(|(index, price)| PriceVersion::new(index as u32 + 1, index as u64, price).unwrap());
        let timeline = PriceTimeline { versions: versions.collect() };
        let window = span("01-01..02-01");
        let mut active: Vec<ActiveTerm> =
            given("active ").into_iter().map(|text| span(text).into()).collect();
        if active.is_empty() {
            active.push(window.into());
        }
        let terms = WindowTerms {
            price: &timeline,
            window,
            active: &active,
            group: &domain::GroupTexts::NONE,
            zone: &Zone::utc(),
            currency: Currency::from_code(given("currency ").first().unwrap_or(&"USD")).unwrap(),
            as_of: given("as of ").first().map_or(window.until, |text| instant(text)),
            is_continued: false,
            elsewhere: None,
        };
        let slices: Vec<SliceMeasure<'_>> =
            given("usage ").into_iter().map(|text| measure(text, window)).collect();
        let found = bill(&terms, &slices);
        let expected: Vec<String> = block.iter().map(|line| squeezed(line)).collect();
        let of_kind = |lines: &[String], kind: &str| -> Vec<String> {
            lines.iter().filter(|line| line.split(' ').next() == Some(kind)).cloned().collect()
        };
        let mut has_expectation = false;
        for kind in KINDS {
            let expected = of_kind(&expected, kind);
            has_expectation |= !expected.is_empty();
            assert!(expected.is_empty() || of_kind(&found, kind) == expected, "{block:#?} gives {found:#?}");
        }
        assert!(has_expectation, "a case expects something: {block:#?}");
    }
}

const KINDS: [&str; 5] = ["line", "slice", "rounding", "charge", "refused"];

/// The bill as lines of text.
fn bill(terms: &WindowTerms<'_>, slices: &[SliceMeasure<'_>]) -> Vec<String> {
    let explanation = match explain(terms, slices) {
        Ok(explanation) => explanation,
        Err(status) => return vec![format!("refused {status:?}")],
    };
    let mut bill: Vec<String> = explanation
        .to_string()
        .lines()
        .filter(|line| !line.starts_with("total "))
        .map(|line| format!("line {line}"))
        .collect();
    let exponent = terms.currency.exponent();
    for line in position(terms, slices).unwrap() {
        let (from, until) = (short(line.slice.from), short(line.slice.until));
        let rounded = terms.currency.format_minor(line.rounded);
        let (version, quantity, precise) = (line.price_version, line.quantity, line.precise);
        bill.push(format!("slice {from}..{until} v{version} {quantity} = {precise} -> {rounded}"));
    }
    let billed = Exact::new(explanation.rounded, exponent.into());
    let rounding = billed.subtract(explanation.precise).unwrap();
    if !rounding.is_zero() {
        bill.push(format!("rounding {rounding}"));
    }
    bill.push(format!("charge {} {}", terms.currency.format_minor(explanation.rounded), terms.currency));
    bill
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse(&text.replace('_', "")).unwrap_or_else(|status| panic!("{text}: {status}"))
}

fn instant(text: &str) -> Timestamp {
    let (day, hour) = text.split_once('T').unwrap_or((text, "00"));
    Timestamp::parse(&format!("2026-{day}T{hour}:00:00Z")).unwrap_or_else(|status| panic!("{text}: {status}"))
}

fn short(instant: Timestamp) -> String {
    let text = instant.to_string();
    text["2026-".len()..text.len() - ":00:00Z".len()].replace("T00", "")
}

fn span(text: &str) -> Span {
    let (from, until) = text.split_once("..").expect("a span is FROM..UNTIL");
    Span::new(instant(from), instant(until))
}

fn measure(text: &str, window: Span) -> SliceMeasure<'static> {
    let (slice, quantity) =
        text.split_once(' ').map_or((window, text), |(slice, quantity)| (span(slice), quantity));
    let measure = Measure::Scalar(decimal(quantity.trim()).into());
    SliceMeasure { slice, measure, covered: Exact::ZERO, event_count: 1, event_digest: 1 }
}

fn price(text: &str) -> Price {
    let (id, plan) = (PriceId::new("p").unwrap(), PlanId::new("plan").unwrap());
    let mut price = Price::new(id, plan, PricingModel::Graduated);
    price.meter = Some(MeterId::new("m").unwrap());
    let mut tiers = Vec::new();
    for part in text.split('|') {
        let mut words = part.split_whitespace();
        let mut tier: BTreeMap<&str, Decimal> = BTreeMap::new();
        while let Some(word) = words.next() {
            if let Some((_, bound)) = word.split_once("..=") {
                tier.insert("up to", decimal(bound));
                continue;
            }
            let mut number = || words.next().unwrap_or_else(|| panic!("{word} of what in {text}"));
            match word {
                "above" => {}
                "at" | "plus" => drop(tier.insert(word, decimal(number()))),
                "from" => price.effective_from = Some(instant(number())),
                "per" => price.per = Some(number().replace('_', "").parse().unwrap()),
                "if" => price.flat_at_zero = Some(number() != "used"),
                "each" | "monthly" => {
                    price.unit_amount = Some(decimal(number()));
                    price.model = if word == "each" { PricingModel::PerUnit } else { PricingModel::Flat };
                }
                other => panic!("{other} is no word of a price: {text}"),
            }
        }
        if let Some(unit_amount) = tier.get("at") {
            let (up_to, flat_amount) = (tier.get("up to").copied(), tier.get("plus").copied());
            tiers.push(Tier { up_to, unit_amount: Some(*unit_amount), flat_amount, ..Tier::default() });
        }
    }
    match price.model {
        PricingModel::Graduated => price.tiers = Some(tiers),
        PricingModel::Flat => price.meter = None,
        _ => {}
    }
    price
}

#[test]
fn a_tier_bound_belongs_to_the_lower_tier() {
    check_rate(
        "
        price     0..=1_000 at 0.0100 | above at 0.0075
        usage     1_000
        line      first 1,000 units at 0.01 = 10.00
        charge    10.00 USD

        usage     1_001
        line      first 1,000 units at 0.01 = 10.00
        line      next 1 unit at 0.0075 = 0.0075
        rounding  0.0025
        charge    10.01 USD

        usage     999.5
        line      first 999.5 units at 0.01 = 9.995
        rounding  0.005
        charge    10.00 USD

        usage     1_000.5
        line      first 1,000 units at 0.01 = 10.00
        line      next 0.5 units at 0.0075 = 0.00375
        rounding  -0.00375
        charge    10.00 USD

        usage     0.0000000000000000000000000001
        charge    0.00 USD

        price     0..=0.1 at 10 | ..=1 at 5 | above at 2
        usage     0.1
        charge    1.00 USD

        usage     1.5
        line      first 0.1 units at 10.00 = 1.00
        line      next 0.9 units at 5.00 = 4.50
        line      next 0.5 units at 2.00 = 1.00
        charge    6.50 USD
        ",
    );
}

#[test]
fn a_flat_amount_of_a_tier_is_owed_once_the_tier_is_entered() {
    check_rate(
        "
        price     0..=10 at 10 plus 2 | ..=20 at 5 plus 3 | above at 5 plus 3
        usage     10
        charge    102.00 USD

        usage     10.5
        line      flat amount = 2.00
        line      first 10 units at 10.00 = 100.00
        line      next 0.5 units at 5.00 plus 3.00 for the tier = 5.50
        charge    107.50 USD

        usage     21
        charge    163.00 USD
        ",
    );
}

#[test]
fn without_usage_the_first_flat_is_owed_when_the_window_ends_unless_the_price_says_only_if_used() {
    check_rate(
        "
        price     0..=10 at 1 plus 7 | above at 0.5
        line      flat amount = 7.00
        slice     01-01..01-01 v1 0 = 7 -> 7.00
        charge    7.00 USD

        as of     01-31T23
        charge    0.00 USD

        as of     01-05
        usage     01-03..01-04 2
        slice     01-01..01-01 v1 0 = 7 -> 7.00
        slice     01-03..01-04 v1 2 = 2 -> 2.00
        charge    9.00 USD

        as of     01-05
        usage     01-01..01-02 2
        slice     01-01..01-02 v1 2 = 9 -> 9.00
        charge    9.00 USD

        active    01-10..01-20
        as of     01-20
        slice     01-10..01-10 v1 0 = 7 -> 7.00
        charge    7.00 USD

        active    01-10..01-20
        as of     01-19T23
        charge    0.00 USD

        price     0..=10 at 1 plus 7 | above at 0.5 | if used
        charge    0.00 USD

        usage     01-03..01-04 2
        usage     01-05..01-06 1
        slice     01-03..01-04 v1 2 = 9 -> 9.00
        slice     01-05..01-06 v1 1 = 1 -> 1.00
        line      first 3 units at 1.00 plus 7.00 for the tier = 10.00
        charge    10.00 USD
        ",
    );
}

#[test]
fn a_recurring_amount_is_owed_in_full_and_in_arrears() {
    check_rate(
        "
        price     monthly 49
        slice     01-01..02-01 v1 0 = 49 -> 49.00
        line      recurring amount = 49.00
        charge    49.00 USD

        as of     01-31T23
        charge    0.00 USD

        active    01-10..01-12
        active    01-20..01-25
        as of     01-25
        slice     01-01..02-01 v1 0 = 49 -> 49.00
        charge    49.00 USD

        active    01-10..01-12
        active    01-20..01-25
        as of     01-24T23
        charge    0.00 USD

        price     monthly 49
        price     from 01-15 monthly 59
        slice     01-01..02-01 v1 0 = 49 -> 49.00
        charge    49.00 USD

        active    01-15..02-01
        slice     01-01..02-01 v2 0 = 59 -> 59.00
        charge    59.00 USD

        price     from 01-15 monthly 59
        slice     01-01..02-01 v1 0 = 59 -> 59.00
        charge    59.00 USD
        ",
    );
}

#[test]
fn amounts_round_once_half_away_from_zero_at_the_digits_of_the_currency() {
    check_rate(
        "
        price     each 10.125
        usage     1
        rounding  0.005
        charge    10.13 USD

        usage     -1
        line      less 1 unit at 10.125 = -10.125
        rounding  -0.005
        charge    -10.13 USD

        currency  JPY
        usage     1
        charge    10 JPY

        currency  KWD
        usage     1
        charge    10.125 KWD

        currency  CLF
        usage     1
        charge    10.1250 CLF

        price     each 0.5
        currency  JPY
        usage     1
        charge    1 JPY

        price     0..=1 at 0.004 | ..=2 at 0.004 | above at 0.004
        usage     3
        rounding  -0.002
        charge    0.01 USD

        price     each 0.067
        usage     55
        charge    3.69 USD
        ",
    );
}

#[test]
fn rounded_amounts_of_slices_telescope() {
    check_rate(
        "
        price     0..=1_000 at 0.0105 | above at 0.0075
        usage     01-01..01-02 999
        usage     01-02..01-03 1
        usage     01-03..01-04 1
        slice     01-01..01-02 v1 999 = 10.4895 -> 10.49
        slice     01-02..01-03 v1 1 = 0.0105 -> 0.01
        slice     01-03..01-04 v1 1 = 0.0075 -> 0.01
        charge    10.51 USD

        price     each 0.004
        usage     01-01..01-02 1
        usage     01-02..01-03 1
        usage     01-03..01-04 1
        slice     01-01..01-02 v1 1 = 0.004 -> 0.00
        slice     01-02..01-03 v1 1 = 0.004 -> 0.01
        slice     01-03..01-04 v1 1 = 0.004 -> 0.00
        charge    0.01 USD
        ",
    );
}

#[test]
fn the_tier_counter_goes_on_through_a_change_of_price() {
    check_rate(
        "
        price     0..=1_000 at 7 | above at 4
        price     from 01-15 0..=1_000 at 5 | above at 3
        usage     01-01..01-15 600
        usage     01-15..02-01 500
        line      price version 1: first 600 units at 7.00 = 4,200.00
        line      price version 2: next 400 units at 5.00 = 2,000.00
        line      price version 2: next 100 units at 3.00 = 300.00
        slice     01-01..01-15 v1 600 = 4200 -> 4200.00
        slice     01-15..02-01 v2 500 = 2300 -> 2300.00
        charge    6500.00 USD

        price     each 1
        price     from 01-15 each 2
        usage     01-01..01-15 100
        usage     01-15..02-01 10
        line      price version 1: 100 units at 1.00 = 100.00
        line      price version 2: 10 units at 2.00 = 20.00
        charge    120.00 USD
        ",
    );
}

#[test]
fn a_slice_before_the_first_version_is_free_but_counts_in_the_tiers() {
    check_rate(
        "
        price     from 01-15 0..=1_000 at 5 | above at 3
        usage     01-01..01-15 600
        usage     01-15..02-01 500
        line      next 400 units at 5.00 = 2,000.00
        line      next 100 units at 3.00 = 300.00
        slice     01-15..02-01 v1 500 = 2300 -> 2300.00
        charge    2300.00 USD
        ",
    );
}

#[test]
fn the_fixed_part_is_set_by_the_version_in_force_at_the_start_and_paid_once() {
    check_rate(
        "
        price     0..=10 at 1 plus 7 | above at 0.5
        price     from 01-15 0..=10 at 1 plus 9 | above at 0.5
        usage     01-20..01-21 4
        slice     01-01..01-01 v1 0 = 7 -> 7.00
        slice     01-20..01-21 v2 4 = 4 -> 4.00
        charge    11.00 USD

        active    01-15..02-01
        slice     01-15..01-15 v2 0 = 9 -> 9.00
        charge    9.00 USD

        price     from 01-15 0..=10 at 1 plus 9 | above at 0.5
        usage     01-20..01-21 4
        slice     01-15..01-15 v1 0 = 9 -> 9.00
        slice     01-20..01-21 v1 4 = 4 -> 4.00
        charge    13.00 USD

        price     0..=10 at 1 plus 7 | above at 0.5
        price     from 01-15 0..=10 at 1 plus 9 | above at 0.5 | if used
        usage     01-20..01-21 4
        charge    11.00 USD
        ",
    );
}

#[test]
fn negative_usage_gives_back_what_was_charged_and_is_priced_by_the_first_tier_below_zero() {
    check_rate(
        "
        price     0..=10 at 1 | above at 0.5 plus 3
        usage     01-01..01-02 12
        usage     01-02..01-03 -4
        slice     01-01..01-02 v1 12 = 14 -> 14.00
        slice     01-02..01-03 v1 -4 = -6 -> -6.00
        charge    8.00 USD

        usage     -2
        line      less 2 units at 1.00 = -2.00
        charge    -2.00 USD
        ",
    );
}

#[test]
fn an_amount_may_be_for_many_units() {
    check_rate(
        "
        price     0..=25_000_000 at 0.030 | above at 0.025 | per 1_000
        usage     25_000_400
        line      first 25,000,000 units at 0.03 per 1,000 = 750.00
        line      next 400 units at 0.025 per 1,000 = 0.01
        charge    750.01 USD
        ",
    );
}

#[test]
fn free_units_keep_a_line_that_says_what_was_used() {
    check_rate(
        "
        price     0..=250 at 0 | above at 0.02
        usage     01-01..01-02 250
        usage     01-02..01-03 0
        usage     01-03..01-04 1
        slice     01-01..01-02 v1 250 = 0 -> 0.00
        slice     01-02..01-03 v1 0 = 0 -> 0.00
        slice     01-03..01-04 v1 1 = 0.02 -> 0.02
        line      first 250 units at 0.00 = 0.00
        line      next 1 unit at 0.02 = 0.02
        charge    0.02 USD
        ",
    );
}

#[test]
fn thirty_six_digits_compute_exactly_and_what_cannot_be_billed_is_refused_by_name() {
    check_rate(
        "
        price     each 0.000000000001
        usage     123456789012345678901234567890.123456
        slice     01-01..02-01 v1 123456789012345678901234567890.123456 = 123456789012345678.901234567890123456 -> 123456789012345678.90
        charge    123456789012345678.90 USD

        price     each 1
        usage     10_000_000_000_000_000_000_000_000
        charge    10000000000000000000000000.00 USD

        usage     10_000_000_000_000_000_000_000_000.01
        refused   AmountMustBeBillable

        usage     -10_000_000_000_000_000_000_000_000.01
        refused   AmountMustBeBillable

        usage     1_111_111_111_111_111_111_111_111_111_111_111_111
        refused   AmountMustBeBillable

        usage     99999999999999999999999999999999999999
        refused   AmountMustBeBillable
        ",
    );
}
