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
