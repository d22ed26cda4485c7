//! What the hot paths cost, in nanoseconds for each event:
//! `cargo test --release -p wire -- --ignored --nocapture`.
//!
//! Owns: a rough number for whoever changes a loop. Leaves to others: careful measurement (`benches/`).

#![expect(clippy::disallowed_methods, reason = "a cost is measured with a clock")]

use std::hint::black_box;
use std::time::Instant;

use crate::frame::{FRAME_HEADER_BYTES, decode_frame};
use crate::{AlignedBytes, BatchBuilder, FrameHeader, IdMode, UsageBatch};

const EVENTS: usize = 8_192;
const ROUNDS: usize = 400;
const TIME: i64 = 1_767_225_600_000_000_000;

/// Events of about 64 bytes: an id of 20, a subject out of 512, one value, one dimension.
fn fill(builder: &mut BatchBuilder, ids: &[String], subjects: &[String]) -> AlignedBytes {
    for (index, id) in ids.iter().enumerate() {
        let subject = &subjects[index * 7 % subjects.len()];
        let values = [("tokens", index as i128, 0)];
        let dimensions = [("model", ["small", "medium", "large"][index % 3])];
        let pushed = builder.push_parts(id.as_bytes(), subject, TIME + index as i64, &values, &dimensions);
        assert_eq!(pushed, Ok(()));
    }
    builder.finish(1, 0)
}

/// The fastest of many rounds: other work on the machine only ever adds.
fn cost(name: &str, mut round: impl FnMut()) {
    let fastest = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed()
        })
        .min()
        .unwrap();
    eprintln!("{name:<24} {:6.2} ns/event", fastest.as_nanos() as f64 / EVENTS as f64);
}

fn costs_of(name: &str, mode: IdMode, ids: &[String]) {
    let subjects: Vec<String> = (0..512).map(|index| format!("subject-{index:06}")).collect();
    let mut builder = BatchBuilder::new("checkout", "api_call", mode);
    let frame = fill(&mut builder, ids, &subjects);
    let (header, body) = decode_frame(&frame).unwrap();
    let batch = UsageBatch::check(&header, body).unwrap();
    eprintln!("-- {name}: {:.1} bytes/event", frame.len() as f64 / EVENTS as f64);
    cost("build", || {
        black_box(fill(&mut builder, ids, &subjects));
    });
    cost("crc", || {
        let header = FrameHeader::decode_slice(&frame).unwrap();
        header.check_body(&frame[FRAME_HEADER_BYTES..]).unwrap();
    });
    cost("check", || {
        black_box(UsageBatch::check(&header, black_box(body)).unwrap());
    });
    cost("reopen", || {
        black_box(UsageBatch::reopen(&header, black_box(body)).unwrap());
    });
    cost("refusals", || assert!(black_box(&batch).refusals().is_empty()));
    cost("read", || {
        let batch = black_box(&batch);
        let (values, dimensions) = (&batch.value_columns()[0], &batch.dimension_columns()[0]);
        let mut sum = 0i128;
        for index in 0..batch.len() {
            black_box(batch.id(index));
            sum += i128::from(batch.time(index)) + batch.subject_index(index) as i128;
            sum += values.value(index).unwrap_or(0) + dimensions.index(index).unwrap_or(0) as i128;
        }
        black_box(sum);
    });
}

#[test]
#[ignore = "measures, in release builds"]
fn costs_for_each_event() {
    let ids: Vec<String> = (0..EVENTS).map(|index| format!("evt-{index:016x}")).collect();
    costs_of("given", IdMode::Given, &ids);
    let ids: Vec<String> = (0..EVENTS).map(|index| format!("ev-é{index:016x}")).collect();
    costs_of("given, not ascii", IdMode::Given, &ids);
    costs_of("sequenced", IdMode::Sequenced { epoch: 1, first: 0 }, &vec![String::new(); EVENTS]);
}
