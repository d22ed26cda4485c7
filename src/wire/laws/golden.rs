//! The bytes of version 1, fixed in `schemas/golden`: what was written once is read forever.
//!
//! A difference here is another format. It needs another schema number, never a new golden file under an old name;
//! `TALLYMARK_BLESS=1` writes the files of a format that is new.

use std::fs;
use std::path::PathBuf;

use domain::Timestamp;

use super::samples::{TIME, check, given, sequenced};
use crate::buffer::AlignedBytes;
use crate::frame::decode_frame;
use crate::hello::{Hello, Welcome};
use crate::reply::{Ack, Close, CloseCode, decode_verdicts, encode_verdicts};
use crate::usage::Refusal;
use crate::verdict::{QuarantineReason, RefusalCode, Verdict};

/// The golden file with a name, which must be what this crate writes today.
fn golden(name: &str, written: &[u8]) -> AlignedBytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/golden").join(name);
    if std::env::var_os("TALLYMARK_BLESS").is_some() {
        fs::write(&path, written).unwrap();
    }
    let stored = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(stored == written, "{name} is not what is written today; see the head of this file");
    AlignedBytes::copy_of(&stored)
}

#[test]
fn usage_batch_with_given_ids() {
    let frame = golden("usage_batch_v1.given.bin", &given());
    let batch = check(&frame).unwrap();
    assert_eq!((batch.source(), batch.event_type(), batch.len()), ("checkout", "api_call", 3));
    let ids: Vec<String> = (0..3).map(|index| batch.id(index).to_string()).collect();
    assert_eq!(ids, ["order-1", "bestellung-№2", "3"]);
    let subjects: Vec<&str> = (0..3).map(|index| batch.subject(batch.subject_index(index))).collect();
    assert_eq!(subjects, ["key-a", "key-b", "key-a"]);
    let values: Vec<_> = batch
        .value_columns()
        .iter()
        .map(|column| (column.name(), column.scale(), [0, 1, 2].map(|index| column.value(index))))
        .collect();
    assert_eq!(
        values,
        [("tokens", 0, [Some(1_200), Some(-7), None]), ("seconds", 2, [Some(25), None, Some(1_250)])]
    );
    let dimensions: Vec<_> = batch
        .dimension_columns()
        .iter()
        .map(|column| {
            (column.name(), [0, 1, 2].map(|index| column.index(index).map(|entry| column.text(entry))))
        })
        .collect();
    assert_eq!(
        dimensions,
        [("model", [Some("large"), None, Some("groß")]), ("region", [None, Some("eu"), Some("eu")])]
    );
}

#[test]
fn usage_batch_with_minted_ids() {
    let frame = golden("usage_batch_v1.sequenced.bin", &sequenced());
    let batch = check(&frame).unwrap();
    assert_eq!(batch.id(1).to_string(), "seq:0123456789abcdef/1001");
    assert_eq!(batch.subject(batch.subject_index(1)), "tenant-8");
    assert_eq!((batch.time(0), batch.time(1)), (TIME, TIME + 1));
}

#[test]
fn ack() {
    let refusal = |index, code| Refusal { index, code };
    let ack = Ack {
        offset: 4_096,
        received_at: Timestamp::from_nanoseconds(TIME + 5),
        refusals: vec![refusal(1, RefusalCode::IdMustFit), refusal(2, RefusalCode::DimensionMustFit)],
    };
    let frame = golden("ack_v1.bin", &ack.encode(41));
    let (header, body) = decode_frame(&frame).unwrap();
    assert_eq!(Ack::decode(&header, body), Ok(ack));
}

#[test]
fn verdict() {
    let verdicts = vec![
        Verdict::Accepted,
        Verdict::Rejected(RefusalCode::IdMustFit),
        Verdict::Quarantined(QuarantineReason::PendingFull),
    ];
    let codes: Vec<u8> = verdicts.iter().map(|verdict| verdict.code()).collect();
    let frame = golden("verdict_v1.bin", &encode_verdicts(41, &codes));
    let (header, body) = decode_frame(&frame).unwrap();
    assert_eq!(decode_verdicts(&header, body), Ok(verdicts));
}

#[test]
fn close() {
    let close = Close::new(CloseCode::GoingAway, "restart at noon, bis später");
    let frame = golden("close_v1.bin", &close.encode());
    let (header, body) = decode_frame(&frame).unwrap();
    assert_eq!(Close::decode(&header, body), Ok(close));
}

#[test]
fn hello_and_welcome() {
    let hello = Hello { token: "tm_secret".into(), client: "tallymark-client/0.1.0".into(), verdicts: true };
    let frame = golden("hello_v1.bin", &hello.encode());
    let (header, body) = decode_frame(&frame).unwrap();
    assert_eq!(Hello::decode(&header, body), Ok(hello));

    let welcome =
        Welcome { server: "tallymark/0.1.0".into(), batch_bytes_max: 1 << 20, batches_in_flight_max: 64 };
    let frame = golden("welcome_v1.bin", &welcome.encode());
    let (header, body) = decode_frame(&frame).unwrap();
    assert_eq!(Welcome::decode(&header, body), Ok(welcome));
}
