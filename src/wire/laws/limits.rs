//! The edges of a batch: at the limit the builder says so by name, and the frame at the limit is good.

use domain::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, DICTIONARY_ENTRIES_MAX};
use domain::{Decimal, Timestamp};

use super::samples::{TIME, check, event};
use crate::builder::{BatchBuilder, BuilderStatus, IdMode};
use crate::event::{Event, EventIdOwned, EventStatus};

const MINTED: IdMode = IdMode::Sequenced { epoch: 1, first: 0 };

/// Pushes until there is no room; the number of events that fit, and the bytes of their frame.
fn fill(
    mut builder: BatchBuilder,
    push: impl Fn(&mut BatchBuilder, usize) -> Result<(), BuilderStatus>,
) -> (usize, usize) {
    let mut count = 0;
    let status = loop {
        match push(&mut builder, count) {
            Ok(()) => count += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status, BuilderStatus::BatchMustHaveRoom);
    let frame = builder.finish(1, 0);
    let batch = check(&frame).unwrap();
    assert_eq!((batch.len(), batch.refusals().len()), (count, 0));
    assert_eq!(push(&mut builder, count), Ok(()), "the next batch takes it");
    (count, frame.len())
}

#[test]
fn a_batch_is_full_of_events() {
    let (count, _) =
        fill(BatchBuilder::new("s", "t", MINTED), |builder, _| builder.push_parts(b"", "a", TIME, &[], &[]));
    assert_eq!(count, BATCH_EVENTS_MAX);
}

#[test]
fn a_batch_is_full_of_subjects_or_texts() {
    let (count, _) = fill(BatchBuilder::new("s", "t", MINTED), |builder, index| {
        builder.push_parts(b"", &index.to_string(), TIME, &[], &[])
    });
    assert_eq!(count, DICTIONARY_ENTRIES_MAX);
    let (count, _) = fill(BatchBuilder::new("s", "t", MINTED), |builder, index| {
        builder.push_parts(b"", "a", TIME, &[], &[("d", &index.to_string())])
    });
    assert_eq!(count, DICTIONARY_ENTRIES_MAX);
}

#[test]
fn a_batch_is_full_of_bytes_and_nearly_uses_them_all() {
    let ids = fill(BatchBuilder::new("s", "t", IdMode::Given), |builder, index| {
        builder.push_parts(format!("{index:0256}").as_bytes(), "a", TIME, &[], &[])
    });
    let subjects = fill(BatchBuilder::new("s", "t", MINTED), |builder, index| {
        builder.push_parts(b"", &format!("{index:0256}"), TIME, &[], &[])
    });
    let values = fill(BatchBuilder::new("s", "t", MINTED), |builder, index| {
        let names: Vec<String> = (0..=index % 16).map(|name| format!("{name:0256}")).collect();
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 0)).collect();
        builder.push_parts(b"", "a", TIME, &values, &[])
    });
    let dimensions = fill(BatchBuilder::new("s", "t", MINTED), |builder, index| {
        let names: Vec<String> = (0..=index % 16).map(|name| format!("{name:0256}")).collect();
        let texts: Vec<String> = (0..=index % 16).map(|name| format!("{index}-{name}")).collect();
        let dimensions: Vec<_> =
            names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        builder.push_parts(b"", "a", TIME, &[], &dimensions)
    });
    for (count, bytes) in [ids, subjects, values, dimensions] {
        assert!(count < BATCH_EVENTS_MAX);
        assert!((BATCH_BYTES_MAX - 8_192..=BATCH_BYTES_MAX).contains(&bytes), "{bytes}");
    }
}

#[test]
fn a_seventeenth_column_waits_for_the_next_batch() {
    let mut builder = BatchBuilder::new("s", "t", MINTED);
    for name in 0..16 {
        let name = name.to_string();
        builder.push_parts(b"", "a", TIME, &[(&name, 1, 0)], &[(&name, "x")]).unwrap();
    }
    let room = Err(BuilderStatus::BatchMustHaveRoom);
    assert_eq!(builder.push_parts(b"", "a", TIME, &[("16", 1, 0)], &[]), room);
    assert_eq!(builder.push_parts(b"", "a", TIME, &[], &[("16", "x")]), room);
    builder.finish(1, 0);
    assert_eq!(builder.push_parts(b"", "a", TIME, &[("16", 1, 0)], &[("16", "x")]), Ok(()));
}

#[test]
fn a_column_rises_to_the_finest_scale_unless_digits_would_not_fit() {
    let digits = |count: u32| 10i128.pow(count) - 1;
    let mut builder = BatchBuilder::new("s", "t", MINTED);
    let mut push = |mantissa, scale| builder.push_parts(b"", "a", TIME, &[("v", mantissa, scale)], &[]);
    push(digits(30), 0).unwrap();
    push(125, 3).unwrap();
    push(-15_000, 4).unwrap(); // -1.5 fits the scale that is there
    push(digits(38), 3).unwrap();
    let room = Err(BuilderStatus::BatchMustHaveRoom);
    assert_eq!(push(1, 4), room, "the 38 digits have no room to rise");
    assert_eq!(push(digits(36), 0), room, "36 digits do not fit at scale 3");
    push(digits(35), 0).unwrap();
    let frame = builder.finish(1, 0);
    let batch = check(&frame).unwrap();
    let column = batch.value_columns()[0];
    assert_eq!(column.scale(), 3);
    let values: Vec<_> = (0..batch.len()).filter_map(|index| column.value(index)).collect();
    assert_eq!(values, [digits(30) * 1_000, 125, -1_500, digits(38), digits(35) * 1_000]);
    assert_eq!(
        builder.push_parts(b"", "a", TIME, &[("v", 1, 28)], &[]),
        Ok(()),
        "the next batch starts afresh"
    );
}

#[test]
fn an_event_that_no_batch_can_take_is_refused_by_the_first_rule_it_breaks() {
    let long = "x".repeat(257);
    let good = || event("1", "a");
    let with = |change: &dyn Fn(&mut Event)| {
        let mut event = good();
        change(&mut event);
        event
    };
    let text = |text: &str| EventIdOwned::Text(text.into());
    let many = |count: usize| (0..count).map(|name| (name.to_string(), Decimal::ONE)).collect::<Vec<_>>();
    let texts =
        |names: &[&str], text: &str| names.iter().map(|name| (name.to_string(), text.to_string())).collect();
    let table: [(Event, EventStatus); 17] = [
        (with(&|event| event.id = text("")), EventStatus::IdMustFit),
        (with(&|event| event.id = text(&long)), EventStatus::IdMustFit),
        (
            with(&|event| event.id = EventIdOwned::Sequenced { epoch: 0, sequence: 0 }),
            EventStatus::IdMustMatchBatch,
        ),
        (with(&|event| event.id = EventIdOwned::Minted), EventStatus::IdMustMatchBatch),
        (with(&|event| event.subject.clear()), EventStatus::SubjectMustFit),
        (with(&|event| event.subject = long.clone()), EventStatus::SubjectMustFit),
        (with(&|event| event.time = Timestamp::from_nanoseconds(0)), EventStatus::TimeMustBeInRange),
        (with(&|event| event.time = Timestamp::END), EventStatus::TimeMustBeInRange),
        (with(&|event| event.values = many(17)), EventStatus::ValuesMustFit),
        (good().value("", Decimal::ONE), EventStatus::ValueNameMustFit),
        (good().value(long.as_str(), Decimal::ONE), EventStatus::ValueNameMustFit),
        (good().value("v", Decimal::ONE).value("v", Decimal::ONE), EventStatus::ValueNamesMustBeUnique),
        (
            with(&|event| {
                event.dimensions = many(17).into_iter().map(|(name, _)| (name, "x".into())).collect()
            }),
            EventStatus::DimensionsMustFit,
        ),
        (with(&|event| event.dimensions = texts(&[""], "x")), EventStatus::DimensionNameMustFit),
        (with(&|event| event.dimensions = texts(&["d", "d"], "x")), EventStatus::DimensionNamesMustBeUnique),
        (with(&|event| event.dimensions = texts(&["d"], "")), EventStatus::DimensionMustFit),
        (with(&|event| event.dimensions = texts(&["d"], &long)), EventStatus::DimensionMustFit),
    ];
    let mut builder = BatchBuilder::new("s", "t", IdMode::Given);
    for (event, status) in table {
        assert_eq!(builder.push(&event), Err(BuilderStatus::Event(status)), "{event:?}");
        assert!(builder.is_empty());
    }
    assert_eq!(builder.push_parts(b"\xff", "a", TIME, &[], &[]), Err(EventStatus::IdMustBeUtf8.into()));
}

#[test]
fn minted_ids_rise_by_one_across_batches_and_end_before_64_bits_do() {
    let mut builder = BatchBuilder::new("s", "t", IdMode::Sequenced { epoch: 9, first: 5 });
    let minted = |sequence| {
        Event::new(EventIdOwned::Sequenced { epoch: 9, sequence }, "a", Timestamp::from_nanoseconds(TIME))
    };
    builder.push(&minted(5)).unwrap();
    assert_eq!(builder.push(&minted(5)), Err(EventStatus::IdMustMatchBatch.into()));
    assert_eq!(builder.push(&event("x", "a")), Err(EventStatus::IdMustMatchBatch.into()));
    assert_eq!(builder.push_parts(b"x", "a", TIME, &[], &[]), Err(EventStatus::IdMustMatchBatch.into()));
    builder.push(&minted(6)).unwrap();
    builder.finish(1, 0);
    assert_eq!(builder.next_sequence(), Some(7));
    builder.push(&minted(7)).unwrap();
    builder.push(&Event::minted("a", Timestamp::from_nanoseconds(TIME))).unwrap();
    let frame = builder.finish(2, 0);
    assert_eq!(check(&frame).unwrap().id(0).to_string(), "seq:0000000000000009/7");
    assert_eq!(check(&frame).unwrap().id(1).to_string(), "seq:0000000000000009/8");

    let mut last = BatchBuilder::new("s", "t", IdMode::Sequenced { epoch: 9, first: u64::MAX });
    assert_eq!(last.push_parts(b"", "a", TIME, &[], &[]), Err(EventStatus::IdMustFit.into()));
}

#[test]
fn text_that_is_no_decimal_never_becomes_a_value() {
    for text in ["NaN", "nan", "inf", "-Infinity", "1e3", "0x10", "", " 1", "1_000", "１"] {
        let status = event("1", "a").value_text("v", text).unwrap_err();
        assert!(matches!(status, EventStatus::ValueMustBeDecimal(_)), "{text}");
    }
    let event = event("1", "a").value_text("v", "-0.250").unwrap();
    assert_eq!(event.values, [("v".to_string(), Decimal::new(-25, 2).unwrap())]);
}
