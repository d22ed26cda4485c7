//! Tables of positions: which lines there are, and when the fixed part is owed.
//!
//! Owns: one price, slices as they are given. Leaves to others: amounts of models (`models`), random histories
//! (`properties`).

use domain::{Period, PriceId};

use super::*;
use crate::catalog::{Catalog, CatalogFile};

fn exact(text: &str) -> Exact {
    Exact::parse(text).unwrap()
}

fn at(day: u8) -> Timestamp {
    Timestamp::parse(&format!("2026-01-{day:02}T00:00:00Z")).unwrap()
}

/// The catalog around versions of the price `p`.
fn catalog(prices: &str) -> Catalog {
    let text = format!(
        r#"
        catalog = 1
        meter = [{{ id = "units", event_type = "u", aggregation = "sum", value = "units" }}]
        plan = [{{ id = "pro", currency = "USD" }}]
        price = [{prices}]"#
    );
    let mut catalog = Catalog::default();
    let file = CatalogFile::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    for (offset, resource) in file.resources().into_iter().enumerate() {
        catalog.apply(resource, offset as u64).unwrap();
    }
    catalog
}

/// `(day, events, units)`: a slice of a day.
type Slice = (u8, u64, &'static str);

/// The lines of January as `from day - until day, units, amount`.
fn lines(prices: &str, active: (u8, u8), slices: &[Slice], as_of: Timestamp) -> Vec<String> {
    let catalog = catalog(prices);
    let terms = WindowTerms {
        price: catalog.price(&PriceId::new("p").unwrap()).unwrap(),
        window: Zone::utc().month(Period::parse("2026-01").unwrap()),
        active: &[Span::new(at(active.0), at(active.1)).into()],
        group: &GroupTexts::NONE,
        zone: &Zone::utc(),
        currency: Currency::from_code("USD").unwrap(),
        as_of,
        is_continued: false,
        elsewhere: None,
    };
    let slices = slices.iter().map(|(day, events, units)| SliceMeasure {
        slice: Span::new(at(*day), at(*day + 1)),
        measure: Measure::Scalar(exact(units)),
        event_count: *events,
        event_digest: u128::from(*events),
        covered: Exact::ZERO,
    });
    let position = position(&terms, &slices.collect::<Vec<_>>()).unwrap();
    let text_of = |line: PositionLine| {
        assert_eq!(u128::from(line.event_count), line.event_digest);
        let day = |instant: Timestamp| instant.to_string()[8..10].to_string();
        format!("{}-{} {} {}", day(line.slice.from), day(line.slice.until), line.quantity, line.precise)
    };
    position.into_iter().map(text_of).collect()
}

const FREE: &str =
    r#"{ id = "p", plan = "pro", meter = "units", window = "month", model = "per_unit", unit_amount = "0" }"#;
const FLAT_FIRST: &str = r#"{ id = "p", plan = "pro", meter = "units", window = "month", model = "graduated",
    tiers = [{ up_to = "10", unit_amount = "0", flat_amount = "7" }, { unit_amount = "1" }] }"#;

#[test]
fn a_line_is_there_if_anything_of_it_is() {
    let of = |prices: &str, slices: &[Slice]| lines(prices, (1, 31), slices, at(20));
    assert_eq!(of(FREE, &[(3, 0, "0")]), [""; 0], "nothing");
    assert_eq!(of(FREE, &[(3, 1, "0")]), ["03-04 0 0"], "an event that comes to nothing");
    assert_eq!(
        of(FREE, &[(3, 0, "5")]),
        ["03-04 5 0"],
        "units without an event of the slice: a level goes on"
    );
    let silent_first = [(1, 0, "0"), (3, 1, "1")];
    assert_eq!(of(FLAT_FIRST, &silent_first), ["01-02 0 7", "03-04 1 0"], "an amount alone");
}

#[test]
fn silence_owes_a_flat_amount_at_the_end_and_usage_at_once() {
    let of = |slices: &[Slice], as_of| lines(FLAT_FIRST, (1, 31), slices, as_of);
    assert_eq!(of(&[(3, 0, "0")], at(20)), [""; 0], "a slice without events is silence");
    assert_eq!(of(&[(3, 0, "0")], at(31)), ["01-01 0 7"]);
    assert_eq!(of(&[(3, 1, "2")], at(4)), ["01-01 0 7", "03-04 2 0"]);
}

#[test]
fn a_capacity_that_is_used_is_owed_whoever_pays_for_silence() {
    let capacity = |flag: &str| {
        format!(
            r#"{{ id = "p", plan = "pro", window = "month", model = "capacity", meters = ["units"], {flag}
               steps = [{{ up_to = {{ units = "10" }}, amount = "4" }}, {{ amount = "9" }}] }}"#
        )
    };
    let of = |flag: &str, slices: &[Slice], as_of| lines(&capacity(flag), (1, 31), slices, as_of);
    let never = "flat_at_zero = false,";
    assert_eq!(of(never, &[(3, 1, "11")], at(20)), ["01-01 0 9", "03-04 11 0"]);
    assert_eq!(of(never, &[(3, 0, "11")], at(20)), ["01-01 0 9", "03-04 11 0"]);
    assert_eq!(of(never, &[(3, 1, "0")], at(31)), ["03-04 0 0"]);
    assert_eq!(of("", &[(3, 1, "0")], at(20)), ["01-01 0 4", "03-04 0 0"]);
    assert_eq!(of("", &[], at(20)), [""; 0]);
    assert_eq!(of("", &[], at(31)), ["01-01 0 4"]);
}

#[test]
fn a_prorated_amount_is_cut_where_its_price_changes_and_nowhere_else() {
    let flat = |from: &str, amount: &str| {
        format!(
            r#"{{ id = "p", plan = "pro", window = "month", model = "flat", proration = "days", unit_amount = "{amount}" {from} }},"#
        )
    };
    let from = |day: u8| format!(", effective_from = \"{}\"", at(day));
    let changes =
        [flat("", "31"), flat(&from(3), "62"), flat(&from(10), "31"), flat(&from(20), "93")].concat();
    // Of the days 3 to 20 the first and the last change are bounds.
    assert_eq!(lines(&changes, (3, 20), &[], at(31)), ["03-10 0 14", "10-20 0 10"]);
    assert_eq!(lines(&changes, (2, 21), &[], at(31)), ["02-03 0 1", "03-10 0 14", "10-20 0 10", "20-21 0 3"]);
}

/// A ladder, as a price of a meter and as two rows of a matrix; their amounts by group, `(group, day, units)` being used.
fn amounts_together(price: &str, used: &[(&str, u8, &str)]) -> Vec<String> {
    let common = r#"id = "p", plan = "pro", meter = "units", window = "month", tier_scope = "price""#;
    let catalog = catalog(&format!("{{ {common}, {price} }}"));
    let mut groups: Vec<&str> = used.iter().map(|(group, ..)| *group).collect();
    groups.sort_unstable();
    groups.dedup();
    let of_group = |name: &&str| {
        let own = used.iter().filter(|(group, ..)| group == name);
        let measure = |(_, day, units): &(&str, u8, &str)| SliceMeasure {
            slice: Span::new(at(*day), at(*day + 1)),
            measure: Measure::Scalar(exact(units)),
            event_count: 1,
            event_digest: 1,
            covered: Exact::ZERO,
        };
        own.map(measure).collect::<Vec<_>>()
    };
    let measures: Vec<Vec<SliceMeasure<'_>>> = groups.iter().map(of_group).collect();
    let others = crate::rating::elsewhere(&measures).unwrap();
    let amount = |(index, name): (usize, &&str)| {
        let terms = WindowTerms {
            price: catalog.price(&PriceId::new("p").unwrap()).unwrap(),
            window: Zone::utc().month(Period::parse("2026-01").unwrap()),
            active: &[Span::new(at(1), at(31)).into()],
            group: &GroupTexts::from([("kind".to_string(), name.to_string())]),
            zone: &Zone::utc(),
            currency: Currency::from_code("USD").unwrap(),
            as_of: at(31),
            is_continued: false,
            elsewhere: Some(&others[index]),
        };
        let explained = crate::rating::explain(&terms, &measures[index]).unwrap();
        let steps: Vec<String> = explained
            .portions
            .iter()
            .map(|step| format!("{} at {}", step.portion.quantity, step.portion.unit_amount))
            .collect();
        format!("{name} {}: {}", explained.precise, steps.join(", "))
    };
    groups.iter().enumerate().map(amount).collect()
}

#[test]
fn groups_that_count_together_go_through_the_tiers_in_order_of_time_and_of_their_texts() {
    let ladder = r#"tiers = [{ up_to = "10", unit_amount = "1" }, { up_to = "20", unit_amount = "0.5" }, { unit_amount = "0.1" }]"#;
    let graduated = format!(r#"model = "graduated", {ladder}"#);
    // Of one slice in order of texts, whatever order they are given in.
    for used in [[("a", 3, "8"), ("b", 3, "8")], [("b", 3, "8"), ("a", 3, "8")]] {
        assert_eq!(amounts_together(&graduated, &used), ["a 8: 8 at 1", "b 5: 2 at 1, 6 at 0.5"]);
    }
    // What was used earlier comes first; a group's own slices are not its neighbours then.
    let used = [("a", 2, "6"), ("b", 3, "8"), ("a", 4, "8")];
    assert_eq!(
        amounts_together(&graduated, &used),
        ["a 9.2: 6 at 1, 6 at 0.5, 2 at 0.1", "b 6: 4 at 1, 4 at 0.5"]
    );
    // All units at the tier of the total of both.
    let volume = format!(r#"model = "volume", {ladder}"#);
    assert_eq!(amounts_together(&volume, &used), ["a 1.4: 6 at 0.1, 8 at 0.1", "b 0.8: 8 at 0.1"]);
    // Each row has its own amounts, and they share one counter; a row without tiers counts as well.
    let rows = r#"model = "matrix", rows = [{ when = { kind = "a" }, unit_amount = "3" },
        { tiers = [{ up_to = "10", unit_amount = "2" }, { unit_amount = "1" }] }]"#;
    assert_eq!(amounts_together(rows, &used), ["a 42: 6 at 3, 8 at 3", "b 12: 4 at 2, 4 at 1"]);
    // Free units are those of the price, and come first.
    let freed = format!(r#"model = "graduated", included = "7", {ladder}"#);
    assert_eq!(amounts_together(&freed, &used), ["a 5.5: 3 at 1, 5 at 0.5", "b 7: 7 at 1"]);
}

#[test]
fn a_tier_of_several_groups_has_nothing_that_is_owed_once() {
    for field in ["flat_amount", "flat_cap", "package_size"] {
        let mut tier = serde_json::json!({ "unit_amount": "1" });
        tier[field] = "1".into();
        let price = serde_json::json!({
            "id": "p", "plan": "pro", "meter": "units", "window": "month", "model": "graduated", "tier_scope": "price",
            "tiers": [tier],
        });
        let price: crate::catalog::Price = serde_json::from_value(price).unwrap();
        let refused = price.check().unwrap_err().to_string();
        assert!(refused.contains("of which group would it be"), "{refused}");
    }
}
