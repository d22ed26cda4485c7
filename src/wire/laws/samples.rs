//! Small batches that other laws start from, good ones from the builder and any shape from raw columns.

use domain::{Decimal, Timestamp};

use crate::buffer::AlignedBytes;
use crate::builder::{BatchBuilder, IdMode};
use crate::event::{Event, EventIdOwned};
use crate::frame::{FLAG_VERDICTS_WANTED, FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema};
use crate::usage::UsageBatch;
use crate::usage::archive::{DictionaryV1, DimensionColumnV1, UsageBatchV1, ValueColumnV1};

/// 2026-01-01T00:00:00Z.
pub(super) const TIME: i64 = 1_767_225_600_000_000_000;

/// An event with a given id.
pub(super) fn event(id: &str, subject: &str) -> Event {
    Event::new(EventIdOwned::Text(id.into()), subject, Timestamp::from_nanoseconds(TIME))
}

/// Three events with given ids, two value columns of different scale, and nulls in both kinds of column.
pub(super) fn given() -> AlignedBytes {
    let decimal = |text| Decimal::parse(text).unwrap();
    let events = [
        event("order-1", "key-a")
            .value("tokens", decimal("1200"))
            .value("seconds", decimal("0.25"))
            .dimension("model", "large"),
        event("bestellung-№2", "key-b").value("tokens", decimal("-7")).dimension("region", "eu"),
        event("3", "key-a")
            .value("seconds", decimal("12.5"))
            .dimension("region", "eu")
            .dimension("model", "groß"),
    ];
    let mut builder = BatchBuilder::new("checkout", "api_call", IdMode::Given);
    for event in &events {
        builder.push(event).unwrap();
    }
    builder.finish(41, FLAG_VERDICTS_WANTED)
}

/// Two events with minted ids and nothing else.
pub(super) fn sequenced() -> AlignedBytes {
    let mode = IdMode::Sequenced { epoch: 0x0123_4567_89ab_cdef, first: 1_000 };
    let mut builder = BatchBuilder::new("gateway.eu-1", "request", mode);
    builder.push_parts(b"", "tenant-7", TIME, &[], &[]).unwrap();
    builder.push_parts(b"", "tenant-8", TIME + 1, &[], &[]).unwrap();
    builder.finish(42, 0)
}

/// Two sound events as raw columns, to be made unsound.
pub(super) fn columns() -> UsageBatchV1 {
    UsageBatchV1 {
        source: "s".into(),
        event_type: "t".into(),
        id_bytes: b"ab".into(),
        id_offsets: vec![0, 1, 2],
        subjects: dictionary(&["one", "two"]),
        subject_index: vec![1, 0],
        time: vec![TIME, TIME],
        values: vec![value_column("v")],
        dimensions: vec![dimension_column("d")],
        ..UsageBatchV1::default()
    }
}

pub(super) fn value_column(name: &str) -> ValueColumnV1 {
    ValueColumnV1 { name: name.into(), scale: 2, mantissa: vec![150, 0], nulls: vec![2] }
}

pub(super) fn dimension_column(name: &str) -> DimensionColumnV1 {
    DimensionColumnV1 {
        name: name.into(),
        dictionary: dictionary(&["é", "y"]),
        index: vec![0, 1],
        nulls: vec![],
    }
}

pub(super) fn dictionary(texts: &[&str]) -> DictionaryV1 {
    let mut dictionary = DictionaryV1 { bytes: vec![], offsets: vec![0] };
    for text in texts {
        dictionary.bytes.extend_from_slice(text.as_bytes());
        dictionary.offsets.push(dictionary.bytes.len() as u32);
    }
    dictionary
}

/// The frame of any columns, sound or not.
pub(super) fn frame_of(columns: &UsageBatchV1, count: u32) -> AlignedBytes {
    let body = rkyv::to_bytes::<rancor::Error>(columns).unwrap();
    frame_with(count, &body)
}

/// The frame of any body, with the right checksum.
pub(super) fn frame_with(count: u32, body: &[u8]) -> AlignedBytes {
    let header = FrameHeader::for_body(Schema::UsageBatchV1, count, 1, 0, body);
    let mut frame = AlignedBytes::with_len(header.frame_bytes());
    frame.as_mut_slice()[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    frame.as_mut_slice()[FRAME_HEADER_BYTES..].copy_from_slice(body);
    frame
}

/// Everything that a receiver checks of a batch.
pub(super) fn check(frame: &AlignedBytes) -> Result<UsageBatch<'_>, FrameStatus> {
    let header = FrameHeader::decode_slice(frame)?;
    let body = &frame[FRAME_HEADER_BYTES..];
    header.check_body(body)?;
    UsageBatch::check(&header, body)
}
