//! One bad event is refused by the first rule it breaks; the others go on.

use domain::decimal::MANTISSA_MAX;
use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN};

use super::samples::{TIME, check, columns, frame_of};
use crate::builder::{BatchBuilder, IdMode};
use crate::usage::archive::UsageBatchV1;
use crate::verdict::RefusalCode;

/// Refusals of the two sample events after a change, as text.
fn check_refusals(change: impl FnOnce(&mut UsageBatchV1), expected: &str) {
    let mut columns = columns();
    change(&mut columns);
    let frame = frame_of(&columns, 2);
    let batch = check(&frame).unwrap();
    let refusals: Vec<String> =
        batch.refusals().iter().map(|refusal| format!("{} {}", refusal.index, refusal.code)).collect();
    assert_eq!(refusals.join(", "), expected);
}

fn ids(batch: &mut UsageBatchV1, first: &[u8], second: &[u8]) {
    batch.id_bytes = [first, second].concat();
    batch.id_offsets = vec![0, first.len() as u32, batch.id_bytes.len() as u32];
}

#[test]
fn each_rule_refuses_the_event_that_breaks_it() {
    check_refusals(|_| (), "");
    check_refusals(|batch| ids(batch, b"", b"x"), "0 id_must_fit");
    check_refusals(|batch| ids(batch, b"x", &[b'y'; 257]), "1 id_must_fit");
    check_refusals(|batch| ids(batch, &[b'y'; 256], b"x"), "");
    check_refusals(|batch| ids(batch, b"\xff", b"x"), "0 id_must_be_utf8");
    check_refusals(|batch| ids(batch, "é".as_bytes(), "ü".as_bytes()), "");
    check_refusals(|batch| batch.subjects = super::samples::dictionary(&["one", ""]), "0 subject_must_fit");
    check_refusals(|batch| batch.time[1] = EVENT_TIME_MIN - 1, "1 time_must_be_in_range");
    check_refusals(|batch| batch.time = vec![EVENT_TIME_MIN, EVENT_TIME_END - 1], "");
    check_refusals(|batch| batch.time[0] = EVENT_TIME_END, "0 time_must_be_in_range");
    check_refusals(
        |batch| batch.time = vec![i64::MIN, i64::MAX],
        "0 time_must_be_in_range, 1 time_must_be_in_range",
    );
    for mantissa in [MANTISSA_MAX + 1, -MANTISSA_MAX - 1, i128::MIN, i128::MAX] {
        check_refusals(|batch| batch.values[0].mantissa[0] = mantissa, "0 value_digits_must_fit");
        check_refusals(|batch| batch.values[0].mantissa[1] = mantissa, "");
    }
    check_refusals(|batch| batch.values[0].mantissa[0] = -MANTISSA_MAX, "");
    let texts = |texts: [&str; 2]| super::samples::dictionary(&texts);
    check_refusals(|batch| batch.dimensions[0].dictionary = texts(["", "y"]), "0 dimension_must_fit");
    let long = "x".repeat(257);
    check_refusals(|batch| batch.dimensions[0].dictionary = texts(["x", &long]), "1 dimension_must_fit");
    let unused = |batch: &mut UsageBatchV1| {
        batch.dimensions[0].dictionary = texts(["x", ""]);
        batch.dimensions[0].index = vec![0, 0];
    };
    check_refusals(unused, "");
}

#[test]
fn a_character_cut_between_two_ids_refuses_both() {
    check_refusals(|batch| ids(batch, b"a\xc3", b"\xa9b"), "0 id_must_be_utf8, 1 id_must_be_utf8");
}

#[test]
fn an_event_that_breaks_several_rules_is_refused_by_the_first() {
    let break_all = |batch: &mut UsageBatchV1| {
        batch.subjects = super::samples::dictionary(&["", ""]);
        batch.time = vec![0, 0];
        batch.values[0].mantissa = vec![i128::MAX, i128::MAX];
        batch.dimensions[0].dictionary = super::samples::dictionary(&["", ""]);
        ids(batch, b"", b"\xff");
    };
    check_refusals(break_all, "0 id_must_fit, 1 id_must_be_utf8");
    let repair = |step: usize| {
        move |batch: &mut UsageBatchV1| {
            break_all(batch);
            ids(batch, b"a", b"b");
            if step > 0 {
                batch.subjects = super::samples::dictionary(&["one", "two"]);
            }
            if step > 1 {
                batch.time = vec![TIME, TIME];
            }
            if step > 2 {
                batch.values.clear();
            }
        }
    };
    for (step, rule) in
        ["subject_must_fit", "time_must_be_in_range", "value_digits_must_fit", "dimension_must_fit"]
            .into_iter()
            .enumerate()
    {
        let expected = if rule == "value_digits_must_fit" {
            format!("0 {rule}, 1 dimension_must_fit") // the second event has no value
        } else {
            format!("0 {rule}, 1 {rule}")
        };
        check_refusals(repair(step), &expected);
    }
}

#[test]
fn a_builder_without_event_checks_makes_what_receivers_must_refuse() {
    let mut builder = BatchBuilder::new("s", "t", IdMode::Given).without_event_checks();
    builder.push_parts(b"", "a", TIME, &[], &[]).unwrap();
    builder.push_parts(b"1", "a", TIME, &[("v", i128::MIN, 3)], &[]).unwrap();
    builder.push_parts(b"2", "a", TIME, &[("v", 1, 3)], &[("d", "x")]).unwrap();
    builder.push_parts(b"3", "", 0, &[], &[("d", "")]).unwrap();
    let frame = builder.finish(1, 0);
    let refusals = check(&frame).unwrap().refusals();
    let codes: Vec<_> = refusals.iter().map(|refusal| (refusal.index, refusal.code)).collect();
    assert_eq!(
        codes,
        [(0, RefusalCode::IdMustFit), (1, RefusalCode::ValueDigitsMustFit), (3, RefusalCode::SubjectMustFit)]
    );
}
