//! What fuzzers throw bytes at: every decoder, and what must hold of what it takes.
//!
//! Each target takes any bytes. It may refuse them; it may not panic, and what it takes must come out as it went in.
//! `fuzz/` runs the targets with libFuzzer ([docs/reference/testing.md](../../docs/reference/testing.md)); the test
//! below runs each over its seeds, and over every seed with single bytes changed, on any toolchain.
//!
//! Owns: the targets. Leaves to others: decoders, and the fuzzer.

mod logs;
mod outbox;
mod records;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use billing::catalog::{CatalogFile, check_file};
use domain::plan::MeteringPlan;
use domain::{Decimal, Exact, Timestamp};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use machine::Batch;
use wire::cloudevents::{CloudEvent, read_binary, read_structured};
use wire::control::ControlRecord;
use wire::frame::{decode_frame, encode_frame};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, decode_verdicts};
use wire::{AlignedBytes, BatchBuilder, EventIdOwned, FRAME_HEADER_BYTES, FrameHeader, IdMode, Schema};

pub use self::logs::{index, log, runs, snapshot};
pub use self::outbox::outbox;
pub use self::records::records;
pub use self::texts::{quotes, requests, resources};

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder of seeds.
pub const TARGETS: [(&str, Target); 16] = [
    ("frames", frames),
    ("batches", batches),
    ("cloudevents", cloudevents),
    ("control", control),
    ("catalog", catalog),
    ("charges", charges),
    ("numbers", numbers),
    ("log", log),
    ("index", index),
    ("snapshot", snapshot),
    ("runs", runs),
    ("records", records),
    ("outbox", outbox),
    ("quotes", quotes),
    ("resources", resources),
    ("requests", requests),
];

/// Whole frames as they come from a peer: envelope, checksum, body.
pub fn frames(bytes: &[u8]) {
    let Ok((header, body)) = decode_frame(bytes) else { return };
    assert_eq!(header.frame_bytes(), bytes.len(), "a frame is taken whole");
    read_body(&header, body);
    let again = encode_frame(header.schema, header.count, header.sequence, header.flags, body);
    assert_eq!(again, bytes, "a frame that is taken is the frame of its parts");
}

/// Bodies behind an envelope that fits them, so that the checksum hides nothing: schema, count and flags, then the body.
pub fn batches(bytes: &[u8]) {
    let Some((&[schema, count_low, count_high, flags], body)) = bytes.split_first_chunk() else { return };
    let Some(schema) = Schema::from_code(schema.into()) else { return };
    let count = u32::from(u16::from_le_bytes([count_low, count_high]));
    let header = FrameHeader {
        schema,
        body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        count,
        sequence: 1,
        flags: flags.into(),
        crc32c: 0,
    };
    // What an envelope refuses is no envelope.
    if FrameHeader::decode(&header.encode()).is_err() {
        return;
    }
    let frame = encode_frame(schema, count, 1, flags.into(), body);
    let header = FrameHeader::decode_slice(&frame).expect("the envelope was taken before");
    read_body(&header, &frame[FRAME_HEADER_BYTES..]);
}

fn read_body(header: &FrameHeader, body: &[u8]) {
    let _ = Hello::decode(header, body);
    let _ = Welcome::decode(header, body);
    let _ = Ack::decode(header, body);
    let _ = Close::decode(header, body);
    let _ = decode_verdicts(header, body);
    let frame = [&header.encode()[..], body].concat();
    let (frame, key) = (Arc::new(AlignedBytes::copy_of(&frame)), IdentityKey::new(1));
    let Ok(prepared) = PreparedBatch::prepare(frame, None, Timestamp::MIN, key, 2) else { return };
    let mut told = vec![0; prepared.event_count()];
    for index in 0..2 {
        let mut shard = Shard::new(index);
        let _ = shard.handle_barrier(0, &Arc::new(MeteringPlan::default()));
        let taken = shard.handle_batch(&prepared, &mut |event, _| told[usize::from(event)] += 1);
        taken.expect("no run is read");
    }
    assert!(told.iter().all(|told| *told == 1), "every event has one verdict");
}

/// Bodies of `POST /v1/events`: structured, a list, and the data of a binary event.
pub fn cloudevents(bytes: &[u8]) {
    let mut take = |event: &CloudEvent<'_>| {
        let mut builder = BatchBuilder::new("source", "type", IdMode::Given);
        let values: Vec<_> =
            event.values.iter().map(|(name, value)| (&**name, value.mantissa(), value.scale())).collect();
        let dimensions: Vec<_> = event.dimensions.iter().map(|(name, text)| (&**name, &**text)).collect();
        let time = event.time.unwrap_or(Timestamp::MIN).nanoseconds();
        if builder.push_parts(event.id.as_bytes(), &event.subject, time, &values, &dimensions).is_ok() {
            frames(&builder.finish(1, 0));
        }
    };
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = read_structured(text, &mut |event| event.map_or((), &mut take));
    }
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let headers: [(&str, &[u8]); 5] = [
        ("ce-specversion", b"1.0"),
        ("ce-id", head),
        ("ce-source", b"s"),
        ("ce-type", b"t"),
        ("ce-subject", head),
    ];
    if let Ok(event) = read_binary(headers.into_iter(), None, body) {
        take(&event);
    }
}

/// Records of the control log.
pub fn control(bytes: &[u8]) {
    let Ok(record) = ControlRecord::decode(bytes) else { return };
    let written = record.encode();
    let again = ControlRecord::decode(&written).expect("what was written is read");
    assert_eq!(again.encode(), written, "a record is written one way");
    let (ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated)) = record else {
        return;
    };
    let id = EventIdOwned::Text("id".to_string());
    if restated.content.check().is_ok() {
        frames(&restated.content.to_frame("source", &id).expect("content that is sound is a batch"));
    }
}

/// Catalog files.
pub fn catalog(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let report = check_file(text);
    for finding in &report.findings {
        let _ = format!("{finding:?}");
    }
    let Ok(file) = CatalogFile::parse(text) else { return };
    for resource in file.resources() {
        let _ = resource.to_json();
    }
}

/// Charge batches as they are stored.
pub fn charges(bytes: &[u8]) {
    let Ok(batch) = Batch::decode(bytes) else { return };
    let written = batch.encode();
    let again = Batch::decode(&written).expect("what was written is read");
    assert_eq!(again.encode(), written, "a batch is written one way");
}

/// Numbers and instants.
pub fn numbers(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(decimal) = Decimal::parse(text) {
        assert_eq!(Decimal::parse(&decimal.to_string()), Ok(decimal), "a decimal is the text that it gives");
    }
    if let Some(exact) = Exact::parse(text) {
        assert_eq!(Exact::parse(&exact.to_string()), Some(exact), "a number is the text that it gives");
        assert_eq!(exact.subtract(exact).map(Exact::is_zero), Ok(true));
    }
    if let Ok(instant) = Timestamp::parse(text) {
        assert_eq!(
            Timestamp::parse(&instant.to_string()),
            Ok(instant),
            "an instant is the text that it gives"
        );
    }
}
