//! What a builder takes, a receiver reads: the same events in the same order, however they fall into batches.

use domain::decimal::MANTISSA_MAX;
use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN};
use domain::{Decimal, Timestamp};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::cases;
use super::samples::{TIME, check};
use crate::buffer::AlignedBytes;
use crate::builder::{BatchBuilder, BuilderStatus, IdMode};
use crate::event::{Event, EventIdOwned};
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader};
use crate::reply::{Ack, Close, CloseCode, decode_verdicts, encode_verdicts};
use crate::usage::{EventId, Refusal, UsageBatch};
use crate::verdict::{QuarantineReason, RefusalCode, Verdict};

const FIRST: u64 = 77;
const EPOCH: u64 = 0xfeed;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9-]{1,12}", 1 => "\\PC{1,20}", 1 => "é{1,128}", 1 => "[xy]{250,256}"]
}

fn decimal() -> impl Strategy<Value = Decimal> {
    let mantissa = prop_oneof![
        6 => -1_000_000i128..1_000_000,
        1 => -MANTISSA_MAX..=MANTISSA_MAX,
        1 => Just(MANTISSA_MAX),
        1 => Just(-MANTISSA_MAX),
    ];
    let scale = prop_oneof![6 => 0u8..=4, 1 => 0u8..=28];
    (mantissa, scale).prop_map(|(mantissa, scale)| Decimal::new(mantissa, scale).unwrap())
}

fn event() -> impl Strategy<Value = Event> {
    let time = prop_oneof![
        4 => TIME..TIME + 1_000_000_000,
        1 => Just(EVENT_TIME_MIN),
        1 => Just(EVENT_TIME_END - 1)
    ];
    let name = || prop_oneof![8 => "[a-e]", 1 => "[a-z]{9,20}", 1 => text()];
    (text(), text(), time, btree_map(name(), decimal(), 0..5), btree_map(name(), text(), 0..5)).prop_map(
        |(id, subject, time, values, dimensions)| Event {
            id: EventIdOwned::Text(id),
            subject,
            time: Timestamp::from_nanoseconds(time),
            values: values.into_iter().collect(),
            dimensions: dimensions.into_iter().collect(),
        },
    )
}

/// The events of a frame, with values and dimensions sorted by name.
fn events_of(frame: &AlignedBytes) -> Vec<Event> {
    let batch = check(frame).unwrap();
    assert_eq!(batch.refusals(), []);
    let header = FrameHeader::decode_slice(frame).unwrap();
    let reopened = UsageBatch::reopen(&header, &frame[FRAME_HEADER_BYTES..]).unwrap();
    let events = read(&batch);
    assert_eq!(read(&reopened), events, "a batch that is opened again reads the same");
    events
}

fn read(batch: &UsageBatch<'_>) -> Vec<Event> {
    let event = |index| {
        let id = match batch.id(index) {
            EventId::Bytes(id) => EventIdOwned::Text(str::from_utf8(id).unwrap().to_owned()),
            EventId::Sequenced { epoch, sequence } => EventIdOwned::Sequenced { epoch, sequence },
        };
        let time = Timestamp::from_nanoseconds(batch.time(index));
        let mut event = Event::new(id, batch.subject(batch.subject_index(index)), time);
        for column in batch.value_columns() {
            if let Some(mantissa) = column.value(index) {
                event
                    .values
                    .push((column.name().to_owned(), Decimal::new(mantissa, column.scale()).unwrap()));
            }
        }
        for column in batch.dimension_columns() {
            if let Some(entry) = column.index(index) {
                event.dimensions.push((column.name().to_owned(), column.text(entry).to_owned()));
            }
        }
        event.values.sort_by(|a, b| a.0.cmp(&b.0));
        event.dimensions.sort();
        event
    };
    (0..batch.len()).map(event).collect()
}

/// Frames of events, one after the other from one builder.
fn frames_of(events: &[Event], mode: IdMode) -> Vec<AlignedBytes> {
    let mut builder = BatchBuilder::new("source", "type", mode);
    let mut frames = Vec::new();
    for event in events {
        let mut pushed = builder.push(event);
        if pushed == Err(BuilderStatus::BatchMustHaveRoom) {
            frames.push(builder.finish(frames.len() as u64, 0));
            pushed = builder.push(event);
        }
        assert_eq!(pushed, Ok(()), "a batch without events takes any sound event");
    }
    if !builder.is_empty() {
        frames.push(builder.finish(frames.len() as u64, 0));
    }
    frames
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn batches_read_back_as_the_events_that_went_in(mut events in vec(event(), 1..120), is_minted: bool) {
        let mut mode = IdMode::Given;
        if is_minted {
            mode = IdMode::Sequenced { epoch: EPOCH, first: FIRST };
            for (event, sequence) in events.iter_mut().zip(FIRST..) {
                event.id = EventIdOwned::Sequenced { epoch: EPOCH, sequence };
            }
        }
        let frames = frames_of(&events, mode);
        let read: Vec<Event> = frames.iter().flat_map(events_of).collect();
        prop_assert_eq!(read, events.clone());
        prop_assert_eq!(frames_of(&events, mode), frames, "the same events give the same bytes");
    }

    #[test]
    fn a_builder_that_is_used_again_makes_the_same_bytes_as_a_new_one(
        first in vec(event(), 1..40), second in vec(event(), 1..20)
    ) {
        let mut used = BatchBuilder::new("source", "type", IdMode::Given);
        for event in &first {
            let _ = used.push(event);
        }
        used.finish(1, 0);
        let mut new = BatchBuilder::new("source", "type", IdMode::Given);
        for event in &second {
            prop_assert_eq!(used.push(event), new.push(event));
            prop_assert_eq!(used.frame_bytes_bound(), new.frame_bytes_bound());
        }
        prop_assert_eq!(used.finish(2, 1), new.finish(2, 1));
    }

    #[test]
    fn a_push_that_fails_leaves_no_trace(events in vec((event(), any::<bool>()), 1..60)) {
        let mut tried = BatchBuilder::new("source", "type", IdMode::Given);
        let mut plain = BatchBuilder::new("source", "type", IdMode::Given);
        for (event, breaks) in events {
            if breaks {
                let bad = event.clone().dimension("new", "text").dimension("z", "");
                prop_assert!(tried.push(&bad).is_err());
            }
            // No room is a failure too: the plain builder is only told of events that the other one took.
            if tried.push(&event).is_ok() {
                prop_assert_eq!(plain.push(&event), Ok(()));
            }
        }
        prop_assert_eq!(tried.finish(1, 0), plain.finish(1, 0));
    }

    #[test]
    fn acks_verdicts_and_closes_read_back(
        offset: u64, received_at: i64, sequence: u64, codes in vec(0usize..19, 0..60), close: u16, reason in "\\PC{0,300}"
    ) {
        let refusals = codes.iter().enumerate().filter(|(_, code)| **code < 6)
            .map(|(index, code)| Refusal { index: index as u16, code: RefusalCode::ALL[*code] }).collect();
        let ack = Ack { offset, received_at: Timestamp::from_nanoseconds(received_at), refusals };
        let frame = ack.encode(sequence);
        let (header, body) = crate::frame::decode_frame(&frame).unwrap();
        prop_assert_eq!(header.sequence, sequence);
        prop_assert_eq!(Ack::decode(&header, body), Ok(ack));

        let verdicts: Vec<Verdict> = codes.iter().map(|code| verdict(*code)).collect();
        let frame = encode_verdicts(sequence, &verdicts.iter().map(|verdict| verdict.code()).collect::<Vec<_>>());
        let (header, body) = crate::frame::decode_frame(&frame).unwrap();
        prop_assert_eq!(decode_verdicts(&header, body), Ok(verdicts));

        let close = Close::new(CloseCode::from_code(close), &reason);
        prop_assert!(reason.starts_with(&close.reason));
        let frame = close.encode();
        let (header, body) = crate::frame::decode_frame(&frame).unwrap();
        prop_assert_eq!(Close::decode(&header, body), Ok(close));
    }
}

fn verdict(ordinal: usize) -> Verdict {
    let plain = [
        Verdict::Duplicate,
        Verdict::DuplicateRestamped,
        Verdict::Conflict,
        Verdict::Accepted,
        Verdict::Unmetered,
        Verdict::Pending,
    ];
    match ordinal {
        0..6 => Verdict::Rejected(RefusalCode::ALL[ordinal]),
        6..13 => Verdict::Quarantined(QuarantineReason::ALL[ordinal - 6]),
        _ => plain[ordinal - 13],
    }
}

#[test]
fn close_codes_are_stable_and_say_whether_trying_again_helps() {
    let table: Vec<String> = (0..=10u16)
        .map(|code| {
            let meaning = CloseCode::from_code(code);
            assert_eq!(meaning.code(), code);
            format!("{code} {meaning}{}", if meaning.is_transient() { ", try again" } else { "" })
        })
        .collect();
    assert_eq!(
        table,
        [
            "0 done",
            "1 a frame broke a rule",
            "2 the token is not known",
            "3 the token does not grant the source",
            "4 the server is stopping, try again",
            "5 replies were not read, or a frame was not finished, in time, try again",
            "6 the log could not be written, try again",
            "7 the first frame must be a hello",
            "8 the sequence of batches must increase",
            "9 too many batches wait for their ack",
            "10 close code 10",
        ]
    );
    let close = Close::bad_frame(crate::frame::FrameStatus::CrcMustMatch);
    assert_eq!(close.reason, "9: the checksum matches envelope and body");
}
