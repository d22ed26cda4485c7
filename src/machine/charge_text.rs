//! The canonical text of a charge line, written at once.
//!
//! Owns: that text, for batches, which have a line for whatever changed. Leaves to others: canonical JSON (`wire::canonical`),
//! which says the same of a line and is what tests compare with, and the other records of a batch (`batch`).
//!
//! Invariants: the fields come in the order of their names' bytes, so that none is sorted; ids, instants, numbers and
//! currencies have no character that JSON escapes.

use std::fmt::{Display, Write};

use billing::charges::{ChargeLine, Corrects};
use domain::Span;
use serde::Serialize;
use wire::canonical::write_canonical_json;

/// Appends `{"charge":line}`.
pub(crate) fn write_charge(out: &mut String, line: &ChargeLine) {
    let ChargeLine { batch, line: number, account, subscription, price, price_version, .. } = line;
    let ChargeLine { component, term, meter, group, window, slice, .. } = line;
    let ChargeLine { quantity_before, quantity_after, precise, rounded, currency, entity, .. } = line;
    let ChargeLine { period, posting_class, corrects, is_final, event_count, event_digest, .. } = line;
    out.push_str(r#"{"charge":{"account":"#);
    id(out, account.as_str());
    integer(out, r#","batch":"#, *batch);
    out.push_str(r#","component":"#);
    json(out, component);
    out.push_str(r#","corrects":"#);
    write_corrects(out, corrects.as_ref());
    out.push_str(r#","currency":"#);
    id(out, currency.code());
    out.push_str(r#","entity":"#);
    id(out, entity.as_str());
    integer(out, r#","event_count":"#, *event_count);
    out.push_str(r#","event_digest":"#);
    quoted(out, event_digest);
    out.push_str(if *is_final { r#","final":true"# } else { r#","final":false"# });
    out.push_str(r#","group":"#);
    json(out, group);
    integer(out, r#","line":"#, *number);
    optional(out, r#","meter":"#, meter.as_ref().map(|id| id.as_str()));
    out.push_str(r#","period":"#);
    quoted(out, period);
    out.push_str(r#","posting_class":"#);
    json(out, posting_class);
    out.push_str(r#","precise":"#);
    quoted(out, precise);
    optional(out, r#","price":"#, price.as_ref().map(|id| id.as_str()));
    integer(out, r#","price_version":"#, *price_version);
    out.push_str(r#","quantity_after":"#);
    quoted(out, quantity_after);
    out.push_str(r#","quantity_before":"#);
    quoted(out, quantity_before);
    out.push_str(r#","rounded":"#);
    quoted(out, rounded);
    span(out, r#","slice":"#, *slice);
    optional(out, r#","subscription":"#, subscription.as_ref().map(|id| id.as_str()));
    out.push_str(r#","term":"#);
    json(out, term);
    span(out, r#","window":"#, *window);
    out.push_str("}}");
}

fn write_corrects(out: &mut String, corrects: Option<&Corrects>) {
    let Some(Corrects { period, window_final_batch }) = corrects else { return out.push_str("null") };
    out.push_str(r#"{"period":"#);
    quoted(out, period);
    match window_final_batch {
        Some(batch) => integer(out, r#","window_final_batch":"#, *batch),
        None => out.push_str(r#","window_final_batch":null"#),
    }
    out.push('}');
}

/// What has nothing to escape.
fn quoted(out: &mut String, value: impl Display) {
    write!(out, "\"{value}\"").expect("a text takes what is written");
}

fn id(out: &mut String, text: &str) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

fn optional(out: &mut String, key: &str, value: Option<&str>) {
    out.push_str(key);
    match value {
        Some(value) => id(out, value),
        None => out.push_str("null"),
    }
}

fn integer(out: &mut String, key: &str, number: impl itoa::Integer) {
    out.push_str(key);
    out.push_str(itoa::Buffer::new().format(number));
}

fn span(out: &mut String, key: &str, Span { from, until }: Span) {
    out.push_str(key);
    out.push_str(r#"{"from":"#);
    quoted(out, from);
    out.push_str(r#","until":"#);
    quoted(out, until);
    out.push('}');
}

/// Anything else.
fn json(out: &mut String, value: &(impl Serialize + ?Sized)) {
    write_canonical_json(out, value).expect("a charge line has no floats");
}

#[cfg(test)]
mod tests {
    use super::*;
    use billing::charges::{Component, EventDigest, PostingClass};
    use domain::{Currency, EntityId, Exact, Period, PriceId, SubscriptionId, Timestamp};
    use proptest::prelude::*;
    use wire::canonical::canonical_json;

    fn text() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "a", "subscription/1", "q\"\\\n\u{1}é/", "x y"])
            .prop_map(str::to_string)
    }

    fn any_id<T: std::fmt::Debug>(make: impl Fn(&str) -> T) -> impl Strategy<Value = T> {
        prop::sample::select(vec!["a", "acme-eu", "0.v_2"]).prop_map(make)
    }

    fn span_of() -> impl Strategy<Value = Span> {
        let at = |nanoseconds| Timestamp::from_nanoseconds(nanoseconds);
        any::<(i64, i64)>().prop_map(move |(from, until)| Span::new(at(from), at(until)))
    }

    prop_compose! {
        fn line()(
            names in (any_id(|id| domain::AccountId::new(id).unwrap()), any_id(|id| EntityId::new(id).unwrap()),
                prop::option::of(any_id(|id| SubscriptionId::new(id).unwrap())),
                prop::option::of(any_id(|id| PriceId::new(id).unwrap())),
                prop::option::of(any_id(|id| domain::MeterId::new(id).unwrap()))),
            texts in (text(), prop::collection::btree_map(text(), text(), 0..4)),
            spans in (span_of(), span_of()),
            numbers in any::<(u64, u32, u32, i64, u128, bool, i64)>(),
            amounts in any::<(i64, i128, i64, i64)>(),
            kinds in (prop::sample::select(vec![Component::Charge, Component::TrueUp, Component::Drawdown]),
                prop::sample::select(vec![PostingClass::EarnedUsage, PostingClass::TrueUp, PostingClass::Deferred]),
                prop::sample::select(vec!["USD", "JPY", "KWD"]), prop::sample::select(vec!["2026-01", "2099-12"])),
            corrected in prop::option::of(prop::option::of(any::<u64>())),
        ) -> ChargeLine {
            let currency = Currency::from_code(kinds.2).unwrap();
            let period = Period::parse(kinds.3).unwrap();
            let ratio = |numerator: i64| Exact::ratio(numerator.into(), 1 + i128::from(amounts.3 >> 40).abs()).unwrap();
            ChargeLine {
                batch: numbers.0,
                line: numbers.1,
                account: names.0,
                subscription: names.2,
                price: names.3,
                price_version: numbers.2,
                component: kinds.0,
                term: texts.0,
                meter: names.4,
                group: texts.1.into_iter().collect(),
                window: spans.0,
                slice: spans.1,
                quantity_before: Exact::new(amounts.1, 18),
                quantity_after: ratio(amounts.0),
                precise: ratio(amounts.2),
                rounded: currency.amount(amounts.1),
                currency,
                entity: names.1,
                period,
                posting_class: kinds.1,
                corrects: corrected.map(|window_final_batch| Corrects { period, window_final_batch }),
                is_final: numbers.5,
                event_count: numbers.3,
                event_digest: EventDigest(numbers.4),
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_has_the_text_that_canonical_json_gives_it(line in line()) {
            let mut text = String::new();
            write_charge(&mut text, &line);
            prop_assert_eq!(&text, &format!("{{\"charge\":{}}}", canonical_json(&line).unwrap()));
        }
    }
}
